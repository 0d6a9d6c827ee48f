//! The request builder: reads like reqwest's, plus what the queue has to know.
//! Everything that can be wrong with a request is found here, before anything is kept or sent.

#[cfg(feature = "cache")]
mod cache;
#[cfg(feature = "sqlite")]
mod outbox;
mod references;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde::Serialize;

use crate::action::{ActionId, Lane, Origin, StoredRequest};
use crate::clock::Timestamp;
use crate::decide::{
    HEADER_BYTES_MAX, TRACEPARENT, TraceParent, URL_BYTES_MAX, check_key, key_from_header,
    split_credentials, weight,
};
use crate::dispatch::{Delivery, Dispatch, Draft, Given, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::parts::TraceHook;
use crate::parts::cached::CacheTerms;
use crate::payload::{Compression, Content, Form, Payload};
use crate::ticket::Ticket;

/// The longest tag, coalescing key or principal, in bytes.
const WORD_BYTES_MAX: usize = 255;

/// A request being built. Made by [`SyncVault::post`](crate::SyncVault::post) and its siblings.
///
/// What is wrong with it is told by [`send`](Self::send) and [`enqueue`](Self::enqueue), before anything is
/// kept or sent.
///
/// ```
/// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
/// use std::time::Duration;
///
/// let ticket = vault
///     .post("/jobs/7/photos")
///     .header("content-type", "image/jpeg")
///     .body(vec![0xff, 0xd8])
///     .lane("job-7")
///     .tag("photo")
///     .expires_in(Duration::from_secs(7 * 24 * 60 * 60))
///     .enqueue()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "a request does nothing until `send()` or `enqueue()`"]
pub struct RequestBuilder {
    dispatch: Arc<Dispatch>,
    request: Result<StoredRequest>,
    payload: Payload,
    key: Option<String>,
    lane: Option<String>,
    principal: Option<String>,
    coalesce: Option<String>,
    parents: Vec<ActionId>,
    priority: i8,
    max_retries: Option<u32>,
    expires_in: Option<Duration>,
    not_before: Option<Timestamp>,
    delivery: Option<Delivery>,
    cache: CacheTerms,
}

/// Method, host and path only: bodies, query strings and header values stay out of logs.
impl std::fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestBuilder")
            .field("request", &self.request)
            .field("payload", &self.payload)
            .field("lane", &self.lane)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

impl RequestBuilder {
    pub(crate) fn new(dispatch: Arc<Dispatch>, method: Method, path: &str) -> Self {
        let request = resolve(&dispatch, path).map(|url| StoredRequest::new(method, url));
        let principal = dispatch.desk.parts.principals().active().map(str::to_owned);
        Self {
            dispatch,
            request,
            payload: Payload::default(),
            key: None,
            lane: None,
            principal,
            coalesce: None,
            parents: Vec::new(),
            priority: 0,
            max_retries: None,
            expires_in: None,
            not_before: None,
            delivery: None,
            cache: CacheTerms::default(),
        }
    }

    fn edit(mut self, edit: impl FnOnce(&mut StoredRequest) -> Result<()>) -> Self {
        if let Ok(request) = &mut self.request
            && let Err(error) = edit(request)
        {
            self.request = Err(error);
        }
        self
    }

    /// Adds a header. CR, LF and NUL in the value are refused.
    ///
    /// `Authorization`, `Proxy-Authorization`, `Cookie` and values marked sensitive are credentials: they are never
    /// stored, but in a sealed vault that has no provider of them. See [`credentials`](crate::SyncVaultBuilder::credentials).
    pub fn header<K, V>(self, name: K, value: V) -> Self
    where
        K: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        self.edit(|request| {
            let name = name
                .try_into()
                .map_err(|e| bad("a header name is not usable", e.into()))?;
            let value = value.try_into().map_err(|e| {
                bad(
                    &format!("the value of the header {name} is not usable"),
                    e.into(),
                )
            })?;
            request.headers.append(name, value);
            Ok(())
        })
    }

    /// Sets headers, in place of earlier ones of the same name.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.edit(|request| {
            for name in headers.keys() {
                request.headers.remove(name);
            }
            for (name, value) in &headers {
                request.headers.append(name.clone(), value.clone());
            }
            Ok(())
        })
    }

    /// Adds pairs to the query string.
    pub fn query<T: Serialize + ?Sized>(self, query: &T) -> Self {
        self.edit(|request| {
            let pairs = serde_urlencoded::to_string(query)
                .map_err(|e| bad("the query cannot be written as pairs", e))?;
            let whole = match request.url.query() {
                Some(query) if !query.is_empty() => format!("{query}&{pairs}"),
                _ => pairs,
            };
            request.url.set_query((!whole.is_empty()).then_some(&whole));
            Ok(())
        })
    }

    /// Sets a JSON body, and `Content-Type: application/json` unless one is set.
    pub fn json<T: Serialize + ?Sized>(mut self, json: &T) -> Self {
        match serde_json::to_vec(json) {
            Ok(bytes) => self.payload.content = Content::Bytes(bytes.into()),
            Err(e) => return self.edit(|_| Err(bad("the body cannot be written as JSON", e))),
        }
        self.content_type("application/json")
    }

    /// Sets a form body, and `Content-Type: application/x-www-form-urlencoded` unless one is set.
    pub fn form<T: Serialize + ?Sized>(mut self, form: &T) -> Self {
        match serde_urlencoded::to_string(form) {
            Ok(text) => self.payload.content = Content::Bytes(text.into()),
            Err(e) => return self.edit(|_| Err(bad("the body cannot be written as a form", e))),
        }
        self.content_type("application/x-www-form-urlencoded")
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.payload.content = Content::Bytes(body.into());
        self
    }

    /// Sets the content of a file as the body. The file is copied into the vault when the request is sent or queued (the
    /// file system may share its blocks); what happens to it later changes nothing. It is streamed, so it may be
    /// larger than memory; its limit is [`file_bytes_max`](crate::SyncVaultBuilder::file_bytes_max).
    ///
    /// Each [`Delivery`] sends the copy; it is removed once it is not needed.
    ///
    /// With a store that keeps no files (in memory, or an outbox in an app's database), it is read into memory, up to
    /// 16 MiB. No `Content-Type` is set.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
    /// let ticket = vault.put("/films/7").header("content-type", "video/mp4").body_file("/tmp/film.mp4").enqueue().await?;
    /// # Ok(()) }
    /// ```
    pub fn body_file(mut self, path: impl AsRef<Path>) -> Self {
        self.payload.content = Content::File(path.as_ref().to_owned());
        self
    }

    /// Sets a `multipart/form-data` body, and its `Content-Type`.
    pub fn multipart(mut self, form: Form) -> Self {
        self.payload.content = Content::Form(form);
        self
    }

    /// Compresses the body, once, before it is kept, and sets `Content-Encoding`. For servers that are known to take it.
    /// Bodies below 1 KiB, and those that would not get shorter, go out as they are.
    pub fn compress(mut self, compression: Compression) -> Self {
        self.payload.compression = Some(compression);
        self
    }

    fn content_type(self, value: &'static str) -> Self {
        self.edit(|request| {
            request
                .headers
                .entry(CONTENT_TYPE)
                .or_insert(HeaderValue::from_static(value));
            Ok(())
        })
    }

    /// An HTML page cannot be the answer: one that comes in its place is that of a network which wants a login, and no
    /// delivery. Default: what the vault's [`expect_json`](crate::SyncVaultBuilder::expect_json) says; without that, a hint is an
    /// `Accept` header that names JSON.
    pub fn expect_json(self) -> Self {
        self.edit(|request| {
            request.expects_json = true;
            Ok(())
        })
    }

    /// Statuses beside 2xx, of 400 to 499, that are the server's answer and not a failure: with one of them the action ends as
    /// delivered, with its answer kept. For a conditional request, say, whose 412 the app reads. A [`Classifier`](crate::decide::Classifier)
    /// goes over it, and so does what a status says of the origin (429) or of credentials (401).
    pub fn answers(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.edit(|request| {
            request.answers = statuses.into_iter().collect();
            match request.answers.iter().find(|s| !(400..500).contains(*s)) {
                Some(status) => Err(Error::invalid(format!(
                    "the status {status} cannot be made an answer: only 400 to 499 can"
                ))),
                None => Ok(()),
            }
        })
    }

    /// A 401 that fresh credentials do not cure is no dead letter: the action waits, and with it all of its principal, tried again
    /// by the [backoff of an origin](crate::SyncVaultBuilder::origin_backoff) until credentials are taken. No attempt is counted.
    pub fn wait_for_credentials(self) -> Self {
        self.edit(|request| {
            request.waits_for_credentials = true;
            Ok(())
        })
    }

    /// How long the server remembers the key of this request; `None`: for ever. Default: that of the
    /// [vault](crate::SyncVaultBuilder::idempotency_window).
    pub fn idempotency_window(self, window: impl Into<Option<Duration>>) -> Self {
        self.edit(|request| {
            request.key_window = Some(window.into().unwrap_or(Duration::MAX));
            Ok(())
        })
    }

    /// The total time one attempt may take. Default: that of the vault.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.edit(|request| {
            if timeout.is_zero() {
                return Err(Error::invalid("the timeout must be longer than zero"));
            }
            request.timeout = Some(timeout);
            Ok(())
        })
    }

    /// The key by which the server knows this request again: 1 to 255 printable ASCII characters.
    /// Default: the action's id.
    ///
    /// The same key with the same method, URL and body gives the same ticket again, and nothing new is queued; with
    /// another request it is an [`ErrorKind::IdempotencyConflict`]. Make it from what the request *is* (an order
    /// number), never from the time.
    ///
    /// # An app that does not know whether it saved a request
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
    /// let once = vault.post("/orders").body("two coffees").idempotency_key("order-4711").enqueue().await?;
    /// let again = vault.post("/orders").body("two coffees").idempotency_key("order-4711").enqueue().await?;
    /// assert_eq!(once.id(), again.id());
    /// # Ok(()) }
    /// ```
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The lane: actions of one lane keep their order, lanes run side by side. 1 to 255 bytes.
    /// Default: what `lane_by` says, or the one default lane.
    pub fn lane(mut self, lane: impl Into<String>) -> Self {
        self.lane = Some(lane.into());
        self
    }

    /// On whose behalf it is sent. Default: the principal that was [active](crate::SyncVault::principal) when the request
    /// was begun. It waits until its principal is the active one; credentials are asked for and refreshed by principal.
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.principal = Some(principal.into());
        self
    }

    /// An action of the same lane with the same coalescing key, of which no byte was ever sent, is superseded by this one; or
    /// whatever the vault's rule [`coalesce_by`](crate::SyncVaultBuilder::coalesce_by) says becomes of the two.
    ///
    /// # Only the newest is wanted
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
    /// for text in ["D", "De", "Dear"] {
    ///     let ticket = vault.put("/drafts/5").body(text).lane("draft-5").coalesce("text").enqueue().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn coalesce(mut self, key: impl Into<String>) -> Self {
        self.coalesce = Some(key.into());
        self
    }

    /// Higher goes first among lanes that are ready. It never breaks the order inside a lane. Default: 0.
    pub fn priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }

    /// How many counted retries it gets. Default: that of the vault.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// After this time it is no longer wanted, and ends as expired. Default: it waits for ever.
    pub fn expires_in(mut self, limit: Duration) -> Self {
        self.expires_in = Some(limit);
        self
    }

    /// Not to be sent before this time. Its lane waits with it.
    pub fn not_before(mut self, time: SystemTime) -> Self {
        self.not_before = Some(time.into());
        self
    }

    /// A word of the app, for finding it again. Up to 255 bytes. Never sent.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        self.edit(|request| {
            request.tag = Some(word("tag", tag.into())?);
            Ok(())
        })
    }

    /// How it gets to the server. Default: [`Delivery::WriteAhead`], for GET and HEAD [`Delivery::OnFailure`].
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = Some(delivery);
        self
    }

    /// Sends it now, or keeps it on disk for later.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> Result<(), Box<dyn std::error::Error>> {
    /// use syncvault::Outcome;
    ///
    /// match vault.post("/orders").body("two coffees").send().await? {
    ///     Outcome::Sent(response) if response.status().is_success() => println!("{}", response.text().await?),
    ///     Outcome::Sent(response) => println!("refused: {}", response.status()),
    ///     Outcome::Queued(ticket) => println!("saved offline as {}", ticket.id()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Dropping the future loses nothing: what is on disk is delivered, what is not was not acknowledged.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] and [`ErrorKind::CredentialsInRequest`] for a request that cannot be sent as it is,
    /// [`ErrorKind::Full`], [`ErrorKind::IdempotencyConflict`], storage errors; in each case nothing was kept. A
    /// failed attempt is not an error, except for [`Delivery::Never`].
    pub async fn send(self) -> Result<Outcome> {
        self.send_out().await.map(Given::not_cached)
    }

    async fn send_out(self) -> Result<Given> {
        let method = self.request.as_ref().map(|request| request.method.clone());
        let delivery = match (self.delivery, method) {
            (Some(delivery), _) => delivery,
            (None, Ok(method)) if method.is_safe() => Delivery::OnFailure,
            (None, _) => Delivery::WriteAhead,
        };
        let dispatch = self.dispatch.clone();
        let (draft, payload) = self.check()?;
        dispatch.send(draft, payload, delivery).await
    }

    /// Keeps it on disk and returns; the worker sends it in its turn.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn enqueue(self) -> Result<Ticket> {
        let dispatch = self.dispatch.clone();
        let (draft, payload) = self.check()?;
        dispatch.enqueue(draft, payload).await
    }

    pub(crate) fn is_of(&self, dispatch: &Arc<Dispatch>) -> bool {
        Arc::ptr_eq(&self.dispatch, dispatch)
    }

    /// The checked request, and the lane that the caller named.
    pub(crate) fn check_in_lane(self) -> Result<(Draft, Payload, Option<Lane>)> {
        let lane = self.lane.clone().map(Lane::new).transpose()?;
        let (draft, payload) = self.check()?;
        Ok((draft, payload, lane))
    }

    fn check(self) -> Result<(Draft, Payload)> {
        let mut request = self.request?;
        let options = &self.dispatch.desk.parts.options;
        let origin = Origin::of(&request.url)?;
        options.allows(&origin)?;
        check_size(
            "the URL",
            request.url.as_str().len() as u64,
            URL_BYTES_MAX as u64,
        )?;
        let header_bytes = weight(&request.headers) as u64;
        check_size("the headers", header_bytes, HEADER_BYTES_MAX as u64)?;
        references::check(&request, &self.payload, &options.key_header)?;
        let key = match (self.key, request.headers.remove(&options.key_header)) {
            (Some(key), _) => Some(key),
            (None, Some(value)) => Some(key_from_header(&value)?),
            (None, None) => None,
        };
        if let Some(key) = &key {
            check_key(key)?;
        }
        let (headers, own_credentials) = split_credentials(&request.headers);
        request.headers = headers;
        set_trace(&mut request.headers, options.trace_context.as_ref())?;
        let named = self
            .lane
            .or_else(|| options.lane_by.as_ref().and_then(|rule| rule(&request)));
        let lane = named.map_or_else(|| Ok(Lane::default_lane()), Lane::new)?;
        let principal = self.principal.map(|p| word("principal", p)).transpose()?;
        if let Some(principal) = &principal {
            self.dispatch.desk.parts.principals().welcome(principal);
        }
        let retries = self.max_retries.unwrap_or(options.policy.max_retries);
        let draft = Draft {
            request,
            own_credentials,
            key,
            lane: lane.of_principal(principal.as_deref()),
            origin,
            principal,
            coalesce: self
                .coalesce
                .map(|c| word("coalescing key", c))
                .transpose()?,
            parents: self.parents,
            priority: self.priority,
            attempts_max: retries.saturating_add(1),
            expires_in: self.expires_in,
            not_before: self.not_before,
            cache: self.cache,
        };
        Ok((draft, self.payload))
    }
}

/// The request's own trace, or that of the app.
fn set_trace(headers: &mut HeaderMap, hook: Option<&TraceHook>) -> Result<()> {
    let mut own = headers.get_all(TRACEPARENT).iter();
    if let Some(value) = own.next() {
        let is_valid = own.next().is_none()
            && value
                .to_str()
                .is_ok_and(|text| TraceParent::parse(text).is_some());
        return match is_valid {
            true => Ok(()),
            false => Err(Error::invalid(
                "the header traceparent is not one of W3C trace context",
            )),
        };
    }
    let Some(text) = hook.and_then(|hook| hook()) else {
        return Ok(());
    };
    match HeaderValue::try_from(&text) {
        Ok(value) if TraceParent::parse(&text).is_some() => {
            drop(headers.insert(TRACEPARENT, value))
        }
        _ => tracing::warn!("`trace_context` gave no valid traceparent: it is left out"),
    }
    Ok(())
}

/// Where a request with this path, or URL, goes.
fn resolve(dispatch: &Dispatch, path: &str) -> Result<Url> {
    let options = &dispatch.desk.parts.options;
    let url = options.join(path)?;
    check_url(&url)?;
    options.allows(&Origin::of(&url)?)?;
    Ok(url)
}

/// A URL that a request of this build may have.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] for other schemes and for user names in URLs, [`ErrorKind::Unsupported`] for https in a
/// build without TLS.
pub(crate) fn check_url(url: &Url) -> Result<()> {
    Origin::of(url)?;
    if !url.username().is_empty() || url.password().is_some() {
        let text = "a URL must not hold a user name or a password: use `credentials(..)`";
        return Err(Error::invalid(text));
    }
    if url.scheme() == "https" && !cfg!(feature = "rustls") {
        let text = "this build has no TLS, so https cannot be sent: switch the feature `rustls` on";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(())
}

fn check_size(what: &str, bytes: u64, max: u64) -> Result<()> {
    if bytes <= max {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} has {bytes} bytes, the limit is {max}"
    )))
}

/// # Errors
///
/// [`ErrorKind::Invalid`] for an empty or long text, and for control characters.
pub(crate) fn word(what: &str, text: String) -> Result<String> {
    if text.is_empty() || text.len() > WORD_BYTES_MAX || text.chars().any(char::is_control) {
        let text = format!("a {what} has 1 to {WORD_BYTES_MAX} bytes and no control characters");
        return Err(Error::invalid(text));
    }
    Ok(text)
}

fn bad<E>(what: &str, source: E) -> Error
where
    E: Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Error::invalid(format!("{what}: {source}")).with_source(source)
}
