//! Export and import: across every pair of stores, whole or not at all.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use syncvault::doctor::{export, import};
use syncvault::store::crypt::{Key, Sealed};
use syncvault::store::{MemoryStore, Store};
use syncvault::{ErrorKind, SyncVault};

use super::{Kind, file, filled};
use crate::filled::{NOW, Seen, see};

/// As the store is when it is opened once more.
async fn reopened(store: &dyn Store) -> Seen {
    let opened = store.open(NOW).await.expect("open");
    see(store, &opened).await
}

async fn exported(store: &dyn Store) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = file(dir.path(), "out");
    export(store, out, |_| {}).await.expect("export");
    std::fs::read(dir.path().join("out")).expect("read")
}

async fn refused(lines: Vec<u8>) -> syncvault::Error {
    let store = MemoryStore::new();
    let error = import(&store, Cursor::new(lines), |_| {}).await;
    let error = error.expect_err("refused");
    let opened = store.open(NOW).await.expect("open");
    assert_eq!(opened.totals.ledger.enqueued, 0, "nothing was written");
    assert!(!opened.is_half_restored);
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_goes_from_every_store_to_every_store() {
    for from in Kind::ALL {
        for to in Kind::ALL {
            let temp = tempfile::tempdir().expect("tempdir");
            let source = filled(from, &temp.path().join("from")).await;
            let heard = Arc::new(Mutex::new(Vec::new()));
            let told = heard.clone();
            let out = file(temp.path(), "out");
            let contents = export(&*source, out, move |at| {
                told.lock().expect("no panic").push(at)
            });
            let contents = contents.await.expect("export");
            let target = to.open(&temp.path().join("to"));
            let came = import(&*target, file(temp.path(), "out"), |_| {});
            assert_eq!(came.await.expect("import"), contents);
            let (there, here) = (reopened(&*source).await, reopened(&*target).await);
            assert_eq!(there, here, "{from:?} to {to:?}");
            here.assert_is_filled();
            assert_eq!(
                (contents.pending, contents.dead, contents.settled),
                (8, 3, 5)
            );
            let last = heard.lock().expect("no panic").last().copied();
            let last = last.expect("progress was told");
            assert_eq!((last.done, last.total), (16, 16));
            source.close().await.expect("close");
            target.close().await.expect("close");
        }
    }
}

#[tokio::test]
async fn an_export_that_was_exported_again_is_the_same() {
    let temp = tempfile::tempdir().expect("tempdir");
    let source = filled(Kind::Memory, temp.path()).await;
    let lines = exported(&*source).await;
    let target = MemoryStore::new();
    import(&target, Cursor::new(lines.clone()), |_| {})
        .await
        .expect("import");
    let again = exported(&target).await;
    let behind_header = |lines: &[u8]| {
        let text = String::from_utf8(lines.to_vec()).expect("text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[1..lines.len() - 1].to_vec()
    };
    assert_eq!(behind_header(&lines), behind_header(&again));
}

/// A body that is bytes, one that is a file, and lines that stay short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_large_follows_in_chunks() {
    let temp = tempfile::tempdir().expect("tempdir");
    let source = Kind::Sled.open(&temp.path().join("from"));
    source.open(NOW).await.expect("open");
    let bodies = [(1, 0), (2, 300_000), (3, 49_153), (4, 49_152)];
    for (number, bytes) in bodies {
        crate::filled::add_bytes(&*source, number, bytes).await;
    }
    crate::filled::add_file(&*source, 5, 700_000).await;
    let lines = exported(&*source).await;
    let longest = lines.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(longest < Some(100_000), "{longest:?}");
    let target = Kind::Sqlite.open(&temp.path().join("to"));
    import(&*target, Cursor::new(lines), |_| {})
        .await
        .expect("import");
    let here = reopened(&*target).await;
    assert_eq!(here, reopened(&*source).await);
    for (number, bytes) in bodies.into_iter().chain([(5, 700_000)]) {
        assert_eq!(here.body(number).expect("a body").len(), bytes);
    }
}

#[tokio::test]
async fn an_export_that_is_cut_anywhere_is_refused_and_nothing_is_written() {
    let temp = tempfile::tempdir().expect("tempdir");
    let source = filled(Kind::Memory, temp.path()).await;
    let lines = exported(&*source).await;
    let mut cuts: Vec<usize> = (0..40).map(|n| n * lines.len() / 40).collect();
    cuts.push(lines.len() - 1);
    let ends = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    cuts.extend(ends.map(|(at, _)| at + 1).filter(|end| *end < lines.len()));
    for cut in cuts {
        let error = refused(lines[..cut].to_vec()).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}: {error}");
    }
}

#[tokio::test]
async fn an_export_that_was_changed_is_refused() {
    let temp = tempfile::tempdir().expect("tempdir");
    let source = filled(Kind::Memory, temp.path()).await;
    let lines = exported(&*source).await;
    for part in 1..20 {
        let mut changed = lines.clone();
        changed[part * lines.len() / 20] ^= 1;
        refused(changed).await;
    }
    let mut longer = lines.clone();
    longer.extend_from_slice(b"{\"chunk\":\"\"}\n");
    assert_eq!(refused(longer).await.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_newer_export_is_refused() {
    let lines = b"{\"header\":{\"format\":2,\"of_tomorrow\":true}}\n".to_vec();
    let error = refused(lines).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[tokio::test]
async fn a_store_that_holds_something_takes_no_import() {
    let temp = tempfile::tempdir().expect("tempdir");
    let source = filled(Kind::Memory, temp.path()).await;
    let lines = exported(&*source).await;
    let before = reopened(&*source).await;
    let error = import(&*source, Cursor::new(lines), |_| {}).await;
    assert_eq!(error.expect_err("refused").kind(), ErrorKind::WrongState);
    assert_eq!(reopened(&*source).await, before);
}

/// Goal: a crash in the middle of an import. Method: a store that fails at each call in turn; the same import ends it.
#[cfg(feature = "test-util")]
#[tokio::test]
async fn an_import_that_was_cut_off_is_ended_by_the_same_import() {
    use syncvault::testing::{Fault, FaultyStore};

    let temp = tempfile::tempdir().expect("tempdir");
    let source = filled(Kind::Memory, temp.path()).await;
    // Each ends a part.
    for number in 40..43 {
        crate::filled::add_bytes(&*source, number, 60_000).await;
    }
    let lines = exported(&*source).await;
    let want = reopened(&*source).await;
    let mut was_half = 0;
    for nth in 1.. {
        let memory = Arc::new(MemoryStore::new());
        let target = FaultyStore::new(memory.clone());
        let faults = target.faults();
        faults.fail_at(nth, Fault::PoisonedAfter);
        if import(&target, Cursor::new(lines.clone()), |_| {})
            .await
            .is_ok()
        {
            break;
        }
        faults.heal();
        let opened = memory.open(NOW).await.expect("open");
        if opened.is_half_restored {
            was_half += 1;
            let vault = SyncVault::builder("https://a.example").shared_store(memory.clone());
            let error = vault.build().await.expect_err("half an import is no vault");
            assert_eq!(error.kind(), ErrorKind::WrongState);
            let again = import(&*memory, Cursor::new(lines.clone()), |_| {}).await;
            again.expect("the same import");
        }
        let has_all = reopened(&*memory).await;
        if has_all.record_count() > 0 {
            assert_eq!(has_all, want, "failed at {nth}");
        }
    }
    assert!(was_half > 3, "{was_half}");
}

#[tokio::test]
async fn a_sealed_vault_goes_in_clear_or_sealed() {
    let key = || Key::new([9; 32]);
    let sealed = |store: &Arc<MemoryStore>| Sealed::new(store.clone(), key());
    let (below, temp) = (
        Arc::new(MemoryStore::new()),
        tempfile::tempdir().expect("tempdir"),
    );
    let store = sealed(&below);
    store.open(NOW).await.expect("open");
    crate::filled::fill(&store).await;
    let clear = exported(&store).await;
    let text = String::from_utf8_lossy(&clear).into_owned();
    assert!(text.contains("https://a.example/files?no=22"));
    let want = reopened(&store).await;

    let closed = exported(&*below).await;
    let text = String::from_utf8_lossy(&closed).into_owned();
    for secret in ["a.example", "\"files\"", "\"ann\"", "tag-22", "\"again\""] {
        assert!(!text.contains(secret), "{secret}");
    }
    let used = filled(Kind::Memory, temp.path()).await;
    let error = import(&*used, Cursor::new(closed.clone()), |_| {}).await;
    assert_eq!(error.expect_err("used").kind(), ErrorKind::WrongState);
    let keyring = used.keyring().await.expect("keyring");
    assert_eq!(keyring, None, "a vault in clear stays one");
    let moved = Arc::new(MemoryStore::new());
    import(&*moved, Cursor::new(closed), |_| {})
        .await
        .expect("import");
    let here = reopened(&sealed(&moved)).await;
    here.assert_is_filled();
    assert_eq!(here, want, "the same key opens it");

    let anew = Arc::new(MemoryStore::new());
    let other = Sealed::new(anew.clone(), Key::new([1; 32]));
    import(&other, Cursor::new(clear), |_| {})
        .await
        .expect("import");
    assert_eq!(reopened(&other).await, want, "sealed by another key");
    let wrong = sealed(&anew).open(NOW).await.expect_err("another key");
    assert_eq!(wrong.kind(), ErrorKind::WrongKey);
    drop(temp);
}

/// Goal: files of bodies go into a sealed store and out of it, in constant memory, and everything is as it was. Method: plain
/// sled, sealed SQLite, plain fjall, with a body of 5 MiB; below the sealed one, no byte of it lies in clear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_go_through_a_sealed_store_and_come_out_the_same() {
    let temp = tempfile::tempdir().expect("tempdir");
    let [from, through, to] = ["from", "through", "to"].map(|name| temp.path().join(name));
    let sled = filled(Kind::Sled, &from).await;
    crate::filled::add_file(&*sled, 40, 5 * 1024 * 1024).await;
    let sealed = Sealed::new(Kind::Sqlite.open(&through), Key::new([9; 32]));
    let fjall = Kind::Fjall.open(&to);
    for (from, to, name) in [
        (&*sled, &sealed as &dyn Store, "first"),
        (&sealed, &*fjall, "second"),
    ] {
        export(from, file(temp.path(), name), |_| {})
            .await
            .expect("export");
        import(to, file(temp.path(), name), |_| {})
            .await
            .expect("import");
    }
    let (there, here) = (reopened(&*sled).await, reopened(&*fjall).await);
    assert_eq!(there, here);
    assert_eq!(here.body(40).expect("a body").len(), 5 * 1024 * 1024);
    assert_eq!(here.record_count(), 17);
    // What comes out is the file again, sealed or not.
    let middle = sealed.body(crate::filled::id(40)).await.expect("body");
    assert!(matches!(middle, Some(syncvault::action::Body::File(_))));
    let part = here.body(40).expect("a body")[..64].to_vec();
    for entry in std::fs::read_dir(through.join("bodies")).expect("list") {
        let bytes = std::fs::read(entry.expect("entry").path()).expect("read");
        assert!(!bytes.windows(64).any(|window| window == part));
    }
    for store in [&*sled, &sealed, &*fjall] {
        store.close().await.expect("close");
    }
}
