//! What a build ends with: the parts come together, and the worker starts.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::SyncVaultBuilder;
use crate::decide::Dice;
use crate::dispatch::{Desk, Dispatch};
use crate::event::EventHub;
use crate::parts::{GateBook, Options, Parts, Principals, Seams};
use crate::store::Opened;
use crate::vault::SyncVault;
use crate::worker::{Mail, Worker};

impl SyncVaultBuilder {
    pub(super) fn start(
        &self,
        seams: Seams,
        options: Options,
        opened: &Opened,
        gates: GateBook,
    ) -> SyncVault {
        let hub = EventHub::new(self.event_buffer, opened.totals)
            .with_report(&opened.report, seams.clock.now());
        let dice = self.seed.map_or_else(Dice::from_entropy, Dice::seeded);
        tracing::info!(
            epoch = opened.epoch,
            pending = opened.totals.counts.pending,
            dead = opened.totals.counts.dead,
            reclaimed = opened.reclaimed.len(),
            "vault opened"
        );
        let parts = Arc::new(Parts::new(seams, options, hub, gates, dice));
        *parts.principals() = Principals::new(self.principal.clone(), self.is_everybody_sent);
        parts.note_opened(opened);
        parts.refresh_connection();
        let (control, control_mail) = mpsc::unbounded_channel();
        let (reports, report_mail) = mpsc::unbounded_channel();
        let mail = Mail {
            control: control_mail,
            reports: report_mail,
            report_to: reports.clone(),
        };
        tokio::spawn(Worker::new(parts.clone(), mail).run());
        let desk = Desk { parts, reports };
        SyncVault::new(Arc::new(Dispatch { desk, control }))
    }
}
