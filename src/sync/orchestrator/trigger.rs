//! What starts a pass without a call: hints, the network, time.

use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::{self, SelectAll, StreamExt};

use crate::decide::Dice;
use crate::parts::Connection;
use crate::sync::FeatureKey;

#[derive(Debug)]
pub(super) enum Trigger {
    /// The server has something new of a feature.
    Hint(FeatureKey),
    Connection(Connection),
    /// The period is over.
    Tick,
}

type TriggerStream = Pin<Box<dyn Stream<Item = Trigger> + Send>>;

/// All triggers of an orchestrator, as one stream. It never ends.
pub(super) struct Triggers(SelectAll<TriggerStream>);

impl Triggers {
    pub(super) fn new() -> Self {
        let never: TriggerStream = Box::pin(stream::pending());
        Self(stream::select_all([never]))
    }

    pub(super) fn hints<K: Into<FeatureKey>>(
        &mut self,
        hints: impl Stream<Item = K> + Send + 'static,
    ) {
        let hints = hints.map(|key| Trigger::Hint(key.into()));
        self.0.push(Box::pin(hints));
    }

    pub(super) fn connection(&mut self, changes: impl Stream<Item = Connection> + Send + 'static) {
        self.0.push(Box::pin(changes.map(Trigger::Connection)));
    }

    /// Each period is a tenth longer or shorter, so that many clients that started together do not stay so.
    pub(super) fn every(&mut self, period: Duration) {
        let ticks = stream::unfold(Dice::from_entropy(), move |mut dice| async move {
            let wait = period - period / 10 + dice.below(period / 5);
            tokio::time::sleep(wait).await;
            Some((Trigger::Tick, dice))
        });
        self.0.push(Box::pin(ticks));
    }

    pub(super) async fn next(&mut self) -> Option<Trigger> {
        self.0.next().await
    }
}
