//! What was leased is started: each action, or each batch, in a task of its own.

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, AbortRegistration, Abortable};

use super::{Running, Worker};
use crate::action::Record;
use crate::attempt::{self, BatchReporter, Reporter};
use crate::event::EventKind;
use crate::store::Leased;

impl Worker {
    pub(super) fn start(&mut self, leased: Vec<Leased>) {
        let mut leased = leased.into_iter().peekable();
        while let Some(first) = leased.next() {
            if first.batch().is_none() {
                self.start_one(first);
                continue;
            }
            let mut batch = vec![first];
            while let Some(next) = leased.next_if(|next| next.goes_with(&batch[0])) {
                batch.push(next);
            }
            self.start_batch(batch);
        }
    }

    fn start_one(&mut self, leased: Leased) {
        let record = &leased.record;
        let report_to = self.mail.report_to.clone();
        let Some(reporter) = Reporter::new(report_to, record) else {
            return;
        };
        self.announce(record);
        let registration = self.runs(record);
        let attempt = attempt::run(self.parts.clone(), leased, reporter);
        tokio::spawn(Abortable::new(attempt, registration).map(drop));
    }

    /// On the wire it is one: it runs under the id of its first member.
    fn start_batch(&mut self, batch: Vec<Leased>) {
        let Some(first) = batch.first() else { return };
        let reporter = BatchReporter::new(self.mail.report_to.clone(), &batch);
        batch.iter().for_each(|one| self.announce(&one.record));
        let registration = self.runs(&first.record);
        let attempt = attempt::run_batch(self.parts.clone(), batch, reporter);
        tokio::spawn(Abortable::new(attempt, registration).map(drop));
    }

    fn announce(&self, record: &Record) {
        let kind = EventKind::Started {
            attempt: record.attempts,
        };
        self.parts.hub.publish(record, kind, self.parts.now());
    }

    fn runs(&mut self, record: &Record) -> AbortRegistration {
        let (abort, registration) = AbortHandle::new_pair();
        let running = Running {
            origin: record.origin.clone(),
            abort,
            is_direct: false,
        };
        self.running.insert(record.id, running);
        registration
    }
}
