//! Futures that are dropped at every await, and at every moment: nothing is half done, nothing stays in flight, and what
//! is on disk is delivered without another call.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use syncvault::{Delivery, Result, SyncVault};

use super::story::{Story, request};

/// The public futures under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Send(Delivery),
    Enqueue,
    ProcessQueue,
    Cancel,
}

const CALLS: [Call; 6] = [
    Call::Send(Delivery::WriteAhead),
    Call::Send(Delivery::OnFailure),
    Call::Send(Delivery::Queue),
    Call::Enqueue,
    Call::ProcessQueue,
    Call::Cancel,
];

async fn make(call: Call, vault: &SyncVault) -> Result<()> {
    match call {
        Call::Send(delivery) => {
            let sent = request(vault, "/g/2").delivery(delivery).send().await?;
            if let Some(answer) = sent.response() {
                answer.bytes().await.expect("a body");
            }
            Ok(())
        }
        Call::Enqueue => request(vault, "/g/2").enqueue().await.map(drop),
        Call::ProcessQueue => vault.process_queue().await.map(drop),
        Call::Cancel => {
            let queued = vault.pending_actions(syncvault::Paging::first(1)).await?;
            match queued.items.first() {
                Some(action) => vault.cancel(action.id).await.map(drop),
                None => Ok(()),
            }
        }
    }
}

/// What was there before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    /// An action of the same lane, which the server puts off once.
    Busy,
}

/// One call, cut off by `cut`; then nothing for hours, then one more action in the same lane. True when the call
/// came to its end before.
async fn survives<Cut: Future<Output = bool>>(
    call: Call,
    before: Before,
    cut: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = Result<()>>>>) -> Cut,
) -> bool {
    let mut story = Story::new().await;
    story.faults.slow_down(Duration::from_millis(4));
    let vault = story.vault().await.expect("open");
    // Until the worker has nothing to do but to wait for a wake-up.
    tokio::time::sleep(Duration::from_secs(1)).await;
    if before == Before::Busy {
        request(&vault, "/a/1").enqueue().await.expect("enqueued");
        if call != Call::Cancel {
            story.owed.insert("/a/1".into());
        }
    }
    let called = vault.clone();
    let is_done = cut(Box::pin(async move { make(call, &called).await })).await;
    let makes_one = matches!(call, Call::Send(_) | Call::Enqueue);
    if is_done && makes_one {
        story.owed.insert("/g/2".into());
    }
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    let totals = vault.status();
    assert_eq!(totals.counts().in_flight, 0, "{call:?}: a lease leaked");
    assert_eq!(
        totals.counts().pending,
        0,
        "{call:?}: delivery waits for another call"
    );
    let ledger = vault.ledger().await.expect("ledger");
    let effects = story.server.effects();
    let is_there = effects.iter().any(|effect| effect.path() == "/g/2");
    let others = u64::from(before == Before::Busy);
    let is_counted = ledger.enqueued > others;
    assert!(
        is_there || !is_counted,
        "{call:?}: on disk and not delivered: {ledger:?}"
    );
    let next = request(&vault, "/g/3").send().await;
    assert!(next.is_ok(), "{call:?}: the lane is not free: {next:?}");
    story.owed.insert("/g/3".into());
    let found = story.end().await;
    assert!(found.is_empty(), "{call:?}, {before:?}: {found:#?}");
    is_done
}

#[tokio::test(start_paused = true)]
async fn a_future_dropped_at_any_await_leaves_nothing_half_done() {
    for call in CALLS {
        for before in [Before::Nothing, Before::Busy] {
            for polls in 0.. {
                let is_done = survives(call, before, |future| poll_times(future, polls)).await;
                if is_done {
                    break;
                }
            }
        }
    }
}

/// The store and the server take milliseconds here, so that each of their steps is cut before, within and after.
#[tokio::test(start_paused = true)]
async fn a_future_dropped_at_any_moment_leaves_nothing_half_done() {
    for call in CALLS {
        for before in [Before::Nothing, Before::Busy] {
            for millis in 0.. {
                let time = Duration::from_millis(millis);
                let is_done = survives(call, before, |future| async move {
                    tokio::time::timeout(time, future)
                        .await
                        .map(|done| done.expect("no fault is injected"))
                        .is_ok()
                })
                .await;
                if is_done {
                    break;
                }
            }
        }
    }
}

/// Polls a future so many times, each time when it asked for it, and drops it at once. True when it came to its end.
async fn poll_times<F: Future<Output = Result<()>>>(future: F, times: u32) -> bool {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => {
                done.expect("no fault is injected");
                Poll::Ready(true)
            }
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// What the app asked for happens, whole, whenever the caller goes: the disk, the vault and the worker agree.
#[tokio::test(start_paused = true)]
async fn a_dropped_resume_resumes() {
    for millis in 0..12 {
        let mut story = Story::new().await;
        let vault = story.vault().await.expect("open");
        vault.pause().await.expect("pause");
        request(&vault, "/g/2").enqueue().await.expect("enqueue");
        story.owed.insert("/g/2".into());
        story.faults.slow_down(Duration::from_millis(4));
        let cut = Duration::from_millis(millis);
        // Whether it was in time does not matter.
        drop(tokio::time::timeout(cut, vault.resume()).await);
        tokio::time::sleep(Duration::from_secs(60 * 60)).await;
        assert!(!vault.is_paused(), "dropped after {millis} ms");
        assert_eq!(
            vault.status().counts().pending,
            0,
            "dropped after {millis} ms"
        );
        let found = story.end().await;
        assert!(found.is_empty(), "dropped after {millis} ms: {found:#?}");
    }
}
