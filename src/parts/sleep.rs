//! Sleeping until a time on the vault's clock.

use std::time::Duration;

use crate::clock::{Clock, Timestamp};

/// Sleeps until `due` on the vault's clock; for ever when there is none.
///
/// A sleep is never longer than `HOUR`: a wall clock that was set back is noticed.
pub(crate) async fn sleep_until(clock: &dyn Clock, due: Option<Timestamp>) {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    match due {
        Some(due) => tokio::time::sleep(due.since(clock.now()).min(HOUR)).await,
        None => std::future::pending().await,
    }
}
