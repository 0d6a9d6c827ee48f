//! Notes: small values beside the queue, each under a name.

use bytes::Bytes;

use super::StoreFactory;
use super::rig::rig;
use crate::error::ErrorKind;
use crate::store::NOTE_BYTES_MAX;

/// The newest one is kept, also over a crash; one name has nothing to do with another, however alike or long they are.
pub async fn a_note_is_kept_under_its_name(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let long = "n".repeat(1000);
    let names = ["a", "a/b", "", "A", long.as_str(), &long[1..]];
    for name in names {
        assert_eq!(rig.store.note(name).await.expect("note"), None);
        for value in [Bytes::from_static(b"old"), Bytes::from(name.to_owned())] {
            rig.store.set_note(name, Some(value)).await.expect("set");
        }
    }
    for _ in 0..2 {
        for name in names {
            let note = rig.store.note(name).await.expect("note");
            assert_eq!(note, Some(Bytes::from(name.to_owned())));
        }
        rig = rig.crash().await;
    }
    rig = rig.restart().await;
    rig.store.set_note("a", None).await.expect("removed");
    rig.store.set_note("a", None).await.expect("removed again");
    rig = rig.crash().await;
    assert_eq!(rig.store.note("a").await.expect("note"), None);
    let other = rig.store.note("a/b").await.expect("note");
    assert_eq!(other, Some(Bytes::from_static(b"a/b")));
    assert_eq!(rig.totals().await.ledger.enqueued, 0);
}

/// A long one is refused, and the one before stays.
pub async fn a_note_over_its_limit_is_refused(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let largest = Bytes::from(vec![7; NOTE_BYTES_MAX]);
    let note = Some(largest.clone());
    rig.store.set_note("n", note).await.expect("the largest");
    let too_long = Bytes::from(vec![8; 2 * NOTE_BYTES_MAX]);
    let refused = rig.store.set_note("n", Some(too_long)).await;
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Invalid);
    let rig = rig.crash().await;
    assert_eq!(rig.store.note("n").await.expect("note"), Some(largest));
}
