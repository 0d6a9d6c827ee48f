//! An action whose key its server may have forgotten: the app is asked whether it happened, before it is sent again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use super::{Outgoing, put_off};
use crate::action::{Action, Answer, DeadReason, Record, WireState};
use crate::clock::Timestamp;
use crate::decide::{Counted, KeyUse, OriginState, Plan, Settlement};
use crate::parts::{Parts, ReadBody, Unsure, Verified};
use crate::payload::whole;

/// What becomes of an action that may not be sent as things are; nothing when it may.
pub(super) async fn verified(
    parts: &Arc<Parts>,
    record: &Record,
    wire_before: WireState,
    outgoing: &Outgoing,
) -> Option<Plan> {
    let options = &parts.options;
    let window = outgoing.request.key_window.or(options.key_window);
    let method = &outgoing.request.method;
    let used = KeyUse::new(method, wire_before, record.first_attempt);
    let since = used.forgotten_since(window, parts.now())?;
    let asked = match Action::of(record) {
        Ok(action) => ask(parts, action, outgoing).await,
        Err(error) => Err(error.to_string()),
    };
    Some(match asked {
        Ok(verified) => plan_after(verified, since, parts),
        Err(error) => {
            tracing::warn!(action = %record.id, error, "whether it happened could not be asked");
            let text = "whether it happened could not be asked";
            let settlement = put_off(record, Counted::No);
            planned(settlement, WireState::MaybeSent, Some(text))
        }
    })
}

async fn ask(parts: &Arc<Parts>, action: Action, outgoing: &Outgoing) -> Result<Verified, String> {
    let Some(hook) = parts.options.verify.clone() else {
        return Ok(Verified::Unknown);
    };
    let (store, body) = (parts.store.clone(), outgoing.body.clone());
    let read: ReadBody = Box::new(move || Box::pin(whole(store.clone(), body.clone())));
    let unsure = Unsure::new(action, read);
    let call = AssertUnwindSafe(async move { hook(unsure).await });
    match call.catch_unwind().await {
        Ok(verified) => verified.map_err(|error| error.to_string()),
        Err(_) => Err("the app's verify panicked".to_owned()),
    }
}

fn plan_after(verified: Verified, since: Timestamp, parts: &Parts) -> Plan {
    match verified {
        Verified::Happened => {
            let status = Answer::NO_STATUS;
            planned(Settlement::Delivered { status }, WireState::Answered, None)
        }
        // On disk first: a crash must not let it be asked again after it was sent.
        Verified::DidNot => {
            let settlement = Settlement::Retry {
                due: parts.now(),
                counts: Counted::No,
                backoff_ms: 0,
            };
            let text = "it did not happen, and is sent again";
            planned(settlement, WireState::NeverSent, Some(text))
        }
        Verified::Unknown => {
            let settlement = Settlement::Dead {
                reason: DeadReason::Uncertain { since },
                lane: parts.options.policy.dead_lane,
            };
            let text = "whether it happened is not known";
            planned(settlement, WireState::MaybeSent, Some(text))
        }
    }
}

fn planned(settlement: Settlement, wire: WireState, error: Option<&str>) -> Plan {
    Plan {
        settlement,
        wire,
        gate: None,
        origin: OriginState::default(),
        portal: None,
        status: None,
        error: error.map(str::to_owned),
    }
}
