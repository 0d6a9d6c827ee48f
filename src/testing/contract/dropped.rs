//! Futures dropped in the middle: after the next start, either nothing of the verb happened or all of it.

use std::collections::HashMap;
use std::task::Poll;

use bytes::Bytes;

use super::StoreFactory;
use super::draft::{Draft, origin};
use super::rig::{Rig, rig, settle_of};
use crate::action::{ActionId, Record};
use crate::clock::Timestamp;
use crate::decide::{DeadLane, Gate, GateKey, GateReason, Settlement};
use crate::store::{Advance, Amend, Append, Direct, Lease, Part, Retention, Store, StoreFuture};

/// How far the verb gets.
#[derive(Clone, Copy, Debug)]
enum Extent {
    /// The verb is not even called: a store may begin before the first poll.
    Nothing,
    Polls(usize),
    Whole,
}

/// A verb that changes something.
enum Verb {
    Open,
    Append(Vec<Append>),
    Advance(Advance),
    Amend(Amend),
}

/// The same actions for every place: same ids, so that the ends can be compared.
struct Cast(HashMap<&'static str, Draft>);

impl Cast {
    fn get(&self, name: &str) -> Draft {
        self.0[name].clone()
    }

    fn id(&self, name: &str) -> ActionId {
        self.0[name].id()
    }
}

/// All that is there after a restart, a line for each thing.
/// Places and revisions are left out: a dropped call may use up numbers.
type Photo = Vec<String>;

async fn poll<T>(mut future: StoreFuture<'_, T>, extent: Extent) {
    let polls = match extent {
        Extent::Nothing => 0,
        Extent::Polls(polls) => polls,
        Extent::Whole => {
            future.await.expect("the verb works when it is not dropped");
            return;
        }
    };
    for _ in 0..polls {
        let once = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready()));
        if once.await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn start(store: &dyn Store, verb: Verb, now: Timestamp, extent: Extent) {
    match verb {
        _ if matches!(extent, Extent::Nothing) => {}
        Verb::Open => poll(store.open(now), extent).await,
        Verb::Append(batch) => poll(store.append(batch), extent).await,
        Verb::Advance(step) => poll(store.advance(step), extent).await,
        Verb::Amend(change) => poll(store.amend(change), extent).await,
    }
}

fn cast<F: StoreFactory>(rig: &Rig<'_, F>) -> Cast {
    let later = rig.at(60_000);
    let drafts = [
        ("flying", rig.draft("a")),
        ("next", rig.draft("a")),
        ("old", rig.draft("b").coalesce("c").due(later)),
        ("dead", rig.draft("d")),
        ("delivered", rig.draft("e")),
        ("new", rig.draft("b").coalesce("c").key("k").due(later)),
        ("fresh", rig.draft("g").body(vec![1; 10_000])),
        ("direct", rig.draft("h").direct(Direct::Alone)),
        ("after", rig.draft("z").due(later)),
    ];
    Cast(drafts.into_iter().collect())
}

/// Sets the scene, runs the verb to its extent, goes on, restarts, and looks.
async fn end<F: StoreFactory>(
    factory: &F,
    cast: &Cast,
    verb: &impl Fn(&Cast, &Record, Advance) -> Verb,
    extent: Extent,
) -> Photo {
    let rig = rig(factory).await;
    rig.delivered(cast.get("delivered")).await;
    rig.dead_letter(cast.get("dead"), DeadLane::Block).await;
    rig.queue(cast.get("flying")).await;
    let flying = rig.lease_only().await;
    rig.queue(cast.get("next")).await;
    rig.queue(cast.get("old")).await;
    let step = Advance::new(rig.now, Retention::default());
    start(&*rig.store, verb(cast, &flying, step), rig.now, extent).await;
    rig.queue(cast.get("after")).await;
    let rig = rig.restart().await;
    let opened = &rig.opened;
    let mut photo = vec![format!("{:?} {:?}", opened.totals, opened.is_paused)];
    photo.extend(opened.gates.iter().map(|gate| format!("{gate:?}")));
    for part in [Part::Pending, Part::Dead, Part::Settled] {
        for mut record in rig.all(part, 100).await {
            (record.seq, record.revision) = (0, 0);
            let answer = rig.store.answer(record.id).await.expect("answer");
            photo.push(format!(
                "{record:?} {:?}",
                answer.map(|answer| answer.len())
            ));
        }
    }
    photo.sort();
    photo
}

fn only_in(one: &Photo, other: &Photo) -> String {
    let lines = one.iter().filter(|line| !other.contains(line));
    lines.map(|line| format!("\n    {line}")).collect()
}

async fn all_or_nothing<F: StoreFactory>(
    factory: &F,
    verb: impl Fn(&Cast, &Record, Advance) -> Verb,
) {
    let cast = cast(&rig(factory).await);
    let nothing = end(factory, &cast, &verb, Extent::Nothing).await;
    let whole = end(factory, &cast, &verb, Extent::Whole).await;
    for polls in 0..=4 {
        let got = end(factory, &cast, &verb, Extent::Polls(polls)).await;
        assert!(
            got == nothing || got == whole,
            "dropped after {polls} polls, it did something:{}\nbut not all, there is no{}",
            only_in(&got, &nothing),
            only_in(&whole, &got),
        );
    }
}

/// A batch that supersedes, queues and leases.
pub async fn a_dropped_append_is_all_or_nothing(factory: &impl StoreFactory) {
    all_or_nothing(factory, |cast, _, _| {
        let batch = ["new", "fresh", "direct"].map(|name| cast.get(name).into_append());
        Verb::Append(batch.into())
    })
    .await;
}

/// A step that settles, closes a gate and leases.
pub async fn a_dropped_advance_is_all_or_nothing(factory: &impl StoreFactory) {
    all_or_nothing(factory, |_, flying, mut step| {
        let mut settle = settle_of(flying, Settlement::Delivered { status: 200 });
        settle.answer = Some(Bytes::from(vec![2; 9_000]));
        step.settle.push(settle);
        let until = Timestamp::from_millis(step.now.as_millis() + 5_000);
        let key = GateKey::Origin(origin("x"));
        step.gates
            .push(Gate::new(key, GateReason::Unavailable, until, step.now));
        step.lease = Some(Lease {
            slots: 10,
            ..Lease::default()
        });
        Verb::Advance(step)
    })
    .await;
}

/// Each change that a person can ask for.
pub async fn a_dropped_amend_is_all_or_nothing(factory: &impl StoreFactory) {
    type Change = fn(&Cast, Timestamp) -> Amend;
    let changes: [Change; 6] = [
        |cast, now| Amend::Cancel {
            id: cast.id("old"),
            now,
        },
        |cast, now| Amend::Requeue {
            id: cast.id("dead"),
            now,
        },
        |cast, _| Amend::Discard {
            id: cast.id("dead"),
        },
        |_, now| Amend::Clear { limit: 10, now },
        |_, _| Amend::Pause { paused: true },
        |cast, _| Amend::KeepAnswer {
            id: cast.id("delivered"),
            answer: Bytes::from_static(b"late"),
        },
    ];
    for change in changes {
        all_or_nothing(factory, |cast, _, step| Verb::Amend(change(cast, step.now))).await;
    }
}

/// A start that was cut off: the next one works as if it had not been.
pub async fn a_dropped_open_leaves_nothing_behind(factory: &impl StoreFactory) {
    all_or_nothing(factory, |_, _, _| Verb::Open).await;
}
