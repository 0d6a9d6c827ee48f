//! What the vault knows of its cache in memory: its options, who asks right now, what was used, what is on its way to the store.
//! What is written while somebody asks makes the answer stale: it may have been given before.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LOCATION, HeaderMap, LOCATION};
use reqwest::Url;
use tokio::sync::OwnedMutexGuard;

use crate::action::{Origin, StoredRequest, WireState};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{CacheEntry, CacheKey, CacheTarget, Store};

/// What is done with a cached answer that is fresh by the word of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFresh {
    /// The server is asked all the same, as without a cache. It may say that nothing changed, which saves the body.
    #[default]
    Ask,
    /// It is given, and nothing is sent.
    Answer,
}

/// How answers are cached: see [`SyncVaultBuilder::cache`](crate::SyncVaultBuilder::cache).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOptions {
    /// How many bytes all cached answers together may weigh. Default: 64 MiB.
    pub bytes_max: u64,
    /// How long the body of one may be; it is in memory while it is kept. Default: 4 MiB, or a quarter of `bytes_max` if that is less.
    pub entry_bytes_max: Option<u64>,
    /// How stale an answer may be when the server gives none, for requests that do not [say](crate::RequestBuilder::max_stale) so.
    /// Default: not at all.
    pub max_stale: Duration,
    /// What is done with an answer that is fresh, for requests that do not [say](crate::RequestBuilder::when_fresh) so. Default:
    /// the server is asked.
    pub when_fresh: WhenFresh,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            bytes_max: 64 * 1024 * 1024,
            entry_bytes_max: None,
            max_stale: Duration::ZERO,
            when_fresh: WhenFresh::default(),
        }
    }
}

impl CacheOptions {
    /// How long the body of one answer may be.
    #[must_use]
    pub fn body_bytes_max(&self) -> u64 {
        let default = (4 * 1024 * 1024).min(self.bytes_max / 4);
        self.entry_bytes_max.unwrap_or(default)
    }
}

/// The option of a vault: no cache, or one.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheSetting(pub(crate) Option<CacheOptions>);

impl CacheSetting {
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a bad value, which it names.
    pub(crate) fn check(&self) -> Result<()> {
        const LEAST: u64 = 64 * 1024;
        let Some(options) = &self.0 else {
            return Ok(());
        };
        if options.bytes_max < LEAST {
            let text = format!(
                "`bytes_max` must be at least {LEAST}, not {}",
                options.bytes_max
            );
            return Err(Error::invalid(text));
        }
        let head = CacheEntry::HEAD_BYTES_MAX as u64 + CacheEntry::OVERHEAD_BYTES;
        let most = options.bytes_max - 2 * head;
        let body = options.body_bytes_max();
        if !(1..=most).contains(&body) {
            let text = format!("`entry_bytes_max` must be from 1 to {most}, not {body}");
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when the store keeps no cached answers.
    pub(crate) async fn check_store(&self, store: &dyn Store) -> Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        match store.cache_totals().await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let text = format!("option cache: {error}");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            totals => totals.map(drop),
        }
    }
}

/// What one request says about the cache.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CacheTerms {
    /// Does the caller take a cached answer?
    pub(crate) is_taken: bool,
    pub(crate) max_stale: Option<Duration>,
    pub(crate) when_fresh: Option<WhenFresh>,
}

/// What came of the cache since the vault was opened.
#[derive(Debug, Default)]
pub(crate) struct CacheCounts {
    pub(crate) given: AtomicU64,
    pub(crate) revalidated: AtomicU64,
    pub(crate) kept: AtomicU64,
}

impl CacheCounts {
    pub(crate) fn count(which: &AtomicU64) {
        which.fetch_add(1, Ordering::Relaxed);
    }
}

/// The cache as it is known in memory. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct CacheBook {
    pub(crate) options: Option<CacheOptions>,
    pub(crate) counts: Arc<CacheCounts>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Resources that somebody asks for: how many do, and how often something was written since the first of them.
    asked: HashMap<String, (usize, u64)>,
    /// Answers that were given since the last one was kept.
    used: BTreeMap<CacheKey, Timestamp>,
    /// How often a principal was forgotten.
    forgets: u64,
    keeping: HashMap<CacheTarget, Arc<tokio::sync::Mutex<()>>>,
}

impl CacheBook {
    pub(crate) fn new(setting: &CacheSetting) -> Self {
        Self {
            options: setting.0.clone(),
            counts: Arc::default(),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody asks for this, until what is returned is dropped.
    pub(crate) fn ask(&self, target: &CacheTarget) -> Asking {
        let resource = target.resource.clone();
        let mut state = self.state();
        let (count, written) = state.asked.entry(resource.clone()).or_default();
        *count += 1;
        let since = *written;
        let forgets = state.forgets;
        drop(state);
        Asking {
            book: self.clone(),
            resource,
            since,
            forgets,
        }
    }

    /// A principal is being forgotten: what was asked for it by now is not kept any more. Waits for what is on its way.
    pub(crate) async fn forget(&self) {
        self.state().forgets += 1;
        self.until_all_kept().await;
    }

    fn note_written(&self, resources: &[String]) {
        let mut state = self.state();
        for resource in resources {
            if let Some((_, written)) = state.asked.get_mut(resource) {
                *written += 1;
            }
        }
    }

    /// The resources that a request on its way to the queue will change.
    pub(crate) fn queued(&self, content: &Bytes) -> Vec<String> {
        if self.options.is_none() {
            return Vec::new();
        }
        let Ok(request) = StoredRequest::decode(content) else {
            return Vec::new();
        };
        if request.method.is_safe() {
            return Vec::new();
        }
        let resources = vec![resource_of(&request.url)];
        self.note_written(&resources);
        resources
    }

    /// The resources that an attempt has changed, or may have: its own, and on a success those that the answer names (RFC 9111,
    /// section 4.4). A refusal changes nothing.
    pub(crate) fn written(
        &self,
        request: &StoredRequest,
        wire: WireState,
        answer: Option<(u16, &HeaderMap)>,
    ) -> Vec<String> {
        let is_refused = answer.is_some_and(|(status, _)| matches!(status, 400..=499));
        if self.options.is_none()
            || request.method.is_safe()
            || wire == WireState::NeverSent
            || is_refused
        {
            return Vec::new();
        }
        let mut resources = vec![resource_of(&request.url)];
        if let Some((200..=399, headers)) = answer {
            let named = [LOCATION, CONTENT_LOCATION];
            let named = named.iter().filter_map(|name| headers.get(name));
            let urls = named.filter_map(|value| request.url.join(value.to_str().ok()?).ok());
            let origin = Origin::of(&request.url).ok();
            let own = urls.filter(|url| Origin::of(url).ok() == origin);
            resources.extend(own.map(|url| resource_of(&url)));
        }
        self.note_written(&resources);
        resources
    }

    pub(crate) fn note_used(&self, key: CacheKey, at: Timestamp) {
        /// So many are noted in one commit.
        const USED_MAX: usize = 64;
        let mut state = self.state();
        state.used.insert(key, at);
        if state.used.len() > USED_MAX {
            let oldest = state.used.iter().min_by_key(|(_, at)| **at);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                state.used.remove(&key);
            }
        }
    }

    pub(crate) fn take_used(&self) -> Vec<(CacheKey, Timestamp)> {
        std::mem::take(&mut self.state().used).into_iter().collect()
    }

    fn place(&self, target: &CacheTarget) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.state();
        state
            .keeping
            .retain(|_, place| Arc::strong_count(place) > 1);
        state.keeping.entry(target.clone()).or_default().clone()
    }

    /// An answer to this is on its way to the store from now on, if none is yet.
    pub(crate) fn begin_keeping(&self, target: &CacheTarget) -> Option<OwnedMutexGuard<()>> {
        self.place(target).try_lock_owned().ok()
    }

    /// Waits for all answers that are on their way to the store.
    pub(crate) async fn until_all_kept(&self) {
        let places: Vec<_> = self.state().keeping.values().cloned().collect();
        for place in places {
            drop(place.lock_owned().await);
        }
    }

    /// Waits for the answer that is on its way to the store.
    pub(crate) async fn until_kept(&self, target: &CacheTarget) {
        let place = self.state().keeping.get(target).cloned();
        if let Some(place) = place {
            drop(place.lock_owned().await);
        }
    }
}

/// Somebody asks for a resource.
#[derive(Debug)]
pub(crate) struct Asking {
    book: CacheBook,
    resource: String,
    since: u64,
    forgets: u64,
}

impl Asking {
    /// Was a principal forgotten meanwhile? It may be back by now; what was asked for it before may not.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.book.state().forgets != self.forgets
    }

    /// Was something written to it meanwhile?
    pub(crate) fn is_overtaken(&self) -> bool {
        let state = self.book.state();
        let written = state.asked.get(&self.resource);
        written.is_none_or(|(_, written)| *written != self.since)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.book.state();
        if let Some((count, _)) = state.asked.get_mut(&self.resource) {
            *count -= 1;
            if *count == 0 {
                state.asked.remove(&self.resource);
            }
        }
    }
}

/// A URL without query and fragment.
pub(crate) fn resource_of(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}
