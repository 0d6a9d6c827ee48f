//! Without the feature `cache` a read gets what the server says.

use std::sync::Arc;

use reqwest::Response;

use super::{Desk, Draft, Given};
use crate::action::Record;
use crate::attempt::{Exchange, Outgoing};
use crate::decide::Plan;
use crate::parts::Parts;
use crate::payload::KeptBody;

pub(super) struct Cache;

impl Cache {
    pub(super) async fn of(_parts: &Arc<Parts>, _draft: &Draft, _body: &KeptBody) -> Self {
        Self
    }

    pub(super) async fn fresh(&self) -> Option<Given> {
        None
    }

    pub(super) async fn instead(&self) -> Option<Given> {
        None
    }

    pub(super) async fn instead_of(&self, _plan: &Plan, _exchange: &Exchange) -> Option<Given> {
        None
    }

    pub(super) fn keep(self, response: Response) -> Response {
        response
    }
}

impl Desk {
    pub(super) async fn try_with(
        &self,
        record: Record,
        outgoing: &Outgoing,
        _cache: &Cache,
    ) -> (Record, Plan, Exchange) {
        self.try_once(record, outgoing).await
    }

    pub(super) async fn note_written(&self, _: &Outgoing, _: &Plan, _: &Exchange) {}
}
