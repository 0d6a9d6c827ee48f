//! Fail the Nth store call, N = 1, 2, ... until it no longer fires, and drop the Nth await: after each, heal, and
//! everything that was acknowledged must come out, once, in order, with nothing left in flight.

mod dropped;
mod story;

use syncvault::ErrorKind;
use syncvault::testing::Fault;

use story::Story;

/// Goal: no single failure of the store loses, doubles, reorders or strands an action. Method: one story that uses most
/// of the vault, told again and again, with another store call failing each time.
async fn survives_at_every_call(fault: Fault) {
    survives(fault, Story::new).await;
}

async fn survives(fault: Fault, story: impl AsyncFn() -> Story) {
    let mut hits = std::collections::BTreeMap::<String, u32>::new();
    for nth in 1.. {
        let mut story = story().await;
        story.faults.fail_at(nth, fault);
        story.tell().await;
        let fired = story.faults.fired();
        let found = story.end().await;
        assert!(
            found.is_empty(),
            "{fault:?} at call {nth} ({fired:?}): {found:#?}"
        );
        let Some(verb) = fired else { break };
        *hits.entry(format!("{verb:?}")).or_default() += 1;
    }
    let verbs = [
        "Open", "Append", "Advance", "Amend", "Get", "Totals", "Lane", "Page",
    ];
    for verb in verbs {
        assert!(hits.contains_key(verb), "no {verb} was hit: {hits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_once_costs_nothing() {
    survives_at_every_call(Fault::Once(ErrorKind::Storage)).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_once_costs_nothing() {
    survives_at_every_call(Fault::Once(ErrorKind::StorageFull)).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_costs_nothing() {
    survives_at_every_call(Fault::Lasting(ErrorKind::Storage)).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_for_a_while_costs_nothing() {
    survives_at_every_call(Fault::Lasting(ErrorKind::StorageFull)).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_poisoned_before_the_effect_costs_a_restart() {
    survives_at_every_call(Fault::PoisonedBefore).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_poisoned_after_the_effect_costs_a_restart() {
    survives_at_every_call(Fault::PoisonedAfter).await;
}

#[cfg(feature = "encrypt")]
#[tokio::test(start_paused = true)]
async fn a_sealed_vault_survives_the_same() {
    for fault in [Fault::Once(ErrorKind::Storage), Fault::PoisonedAfter] {
        survives(fault, Story::sealed).await;
    }
}
