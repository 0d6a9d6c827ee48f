//! Without the feature `cache` nothing is cached, and nothing makes it stale.

use bytes::Bytes;
use http::HeaderMap;

use crate::action::{StoredRequest, WireState};
use crate::error::Result;
use crate::store::Store;

#[derive(Clone, Debug, Default)]
pub(crate) struct CacheSetting;

impl CacheSetting {
    pub(crate) fn check(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn check_store(&self, _store: &dyn Store) -> Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CacheTerms;

#[derive(Debug)]
pub(crate) struct CacheBook;

impl CacheBook {
    pub(crate) fn new(_setting: &CacheSetting) -> Self {
        Self
    }

    pub(crate) async fn forget(&self) {}

    pub(crate) async fn until_all_kept(&self) {}

    pub(crate) fn queued(&self, _content: &Bytes) -> Vec<String> {
        Vec::new()
    }

    pub(crate) fn written(
        &self,
        _request: &StoredRequest,
        _wire: WireState,
        _answer: Option<(u16, &HeaderMap)>,
    ) -> Vec<String> {
        Vec::new()
    }
}
