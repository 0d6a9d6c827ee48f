//! Where requests get their credentials: one call of the provider per attempt, and one refresh for all
//! attempts that were refused with the same credentials. A provider that panics or hangs fails that attempt only.

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Body as _;
use tokio::sync::Mutex as AsyncMutex;

use super::TransportFailure;
use super::credentials::{CredentialProvider, CredentialRequest, Credentials, Refresh};
use crate::decide::FailureKind;

tokio::task_local! {
    /// The provider that is being asked in this task, by its address.
    static ASKED: usize;
}

/// Stamps credentials on requests, and refreshes them once for everybody.
///
/// A provider must not send through the vault that it serves: it would have to answer itself first. Where that is
/// seen, the inner request fails at once; elsewhere the deadline ends it.
pub struct CredentialDesk {
    provider: Arc<dyn CredentialProvider>,
    deadline: Duration,
    lines: Mutex<HashMap<Option<String>, Arc<Line>>>,
}

/// With which credentials a request was stamped: hand it back with a 401.
#[derive(Clone)]
#[must_use]
pub struct Generation {
    line: Arc<Line>,
    number: u64,
}

/// All requests of one principal.
struct Line {
    principal: Option<String>,
    /// Grows by one with every refresh that gave credentials.
    number: AtomicU64,
    /// Grows by one with every refresh, also with one that failed.
    tries: AtomicU64,
    /// Held while a refresh runs.
    turn: Arc<AsyncMutex<()>>,
}

impl CredentialDesk {
    /// How long a provider may take.
    pub const DEADLINE: Duration = Duration::from_secs(30);

    /// Above so many principals, those without a request under way are forgotten.
    const LINES_MAX: usize = 1024;

    /// A desk in front of a provider.
    #[must_use]
    pub fn new(provider: impl CredentialProvider) -> Self {
        Self {
            provider: Arc::new(provider),
            deadline: Self::DEADLINE,
            lines: Mutex::new(HashMap::new()),
        }
    }

    /// How long a provider may take; default [`DEADLINE`](Self::DEADLINE).
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Asks the provider and puts its headers on the request. Waits for a refresh that is under way.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Credentials`] when the provider fails, panics, takes too long or gives unusable headers.
    pub async fn stamp(
        &self,
        request: &mut reqwest::Request,
        principal: Option<&str>,
    ) -> Result<Generation, TransportFailure> {
        self.refuse_a_circle()?;
        let line = self.line(principal);
        drop(line.turn.lock().await);
        self.stamp_again(line, request).await
    }

    /// After a 401: gets fresh credentials, unless another attempt got them already, and stamps them.
    ///
    /// Of all attempts that come with the same generation, one calls the provider with [`Refresh::Yes`]. The others
    /// wait for it and are then stamped as usual; if it fails, it fails for all that waited. The refresh itself
    /// goes on when its caller is dropped, because a token that was handed out once may not come again.
    ///
    /// # Errors
    ///
    /// As [`stamp`](Self::stamp).
    pub async fn refresh(
        &self,
        stale: Generation,
        request: &mut reqwest::Request,
    ) -> Result<Generation, TransportFailure> {
        self.refuse_a_circle()?;
        let Generation { line, number } = stale;
        let tries = line.tries.load(Ordering::Acquire);
        let turn = Arc::clone(&line.turn).lock_owned().await;
        if line.number.load(Ordering::Acquire) > number {
            drop(turn);
            return self.stamp_again(line, request).await;
        }
        if line.tries.load(Ordering::Acquire) > tries {
            return Err(failure("the refresh that this attempt waited for failed"));
        }
        let call = self.call(request, &line, Refresh::Yes);
        let during = Arc::clone(&line);
        let refresh = tokio::spawn(async move {
            let answer = call.await;
            if answer.is_ok() {
                during.number.fetch_add(1, Ordering::AcqRel);
            }
            during.tries.fetch_add(1, Ordering::AcqRel);
            drop(turn);
            answer
        });
        let fresh = refresh
            .await
            .map_err(|e| failure("the refresh was stopped").with_source(e))??;
        let generation = Generation {
            number: number + 1,
            line,
        };
        put(fresh, request)?;
        Ok(generation)
    }

    async fn stamp_again(
        &self,
        line: Arc<Line>,
        request: &mut reqwest::Request,
    ) -> Result<Generation, TransportFailure> {
        // Read before the call: credentials may be newer than their number says, never older.
        let number = line.number.load(Ordering::Acquire);
        let answer = self.call(request, &line, Refresh::No).await?;
        put(answer, request)?;
        Ok(Generation { line, number })
    }

    /// One call of the provider, with its panics and its dawdling turned into failures.
    fn call(
        &self,
        request: &reqwest::Request,
        line: &Line,
        refresh: Refresh,
    ) -> impl Future<Output = Result<Credentials, TransportFailure>> + Send + 'static {
        let asked = asked(request, line.principal.clone(), refresh);
        let provider = Arc::clone(&self.provider);
        let deadline = self.deadline;
        let address = self.address();
        async move {
            // The call stands inside, so that a panic before the first await is caught too.
            let call = AssertUnwindSafe(async { provider.credentials(asked).await }).catch_unwind();
            match tokio::time::timeout(deadline, ASKED.scope(address, call)).await {
                Ok(Ok(Ok(credentials))) => Ok(credentials),
                Ok(Ok(Err(e))) => Err(failure("the provider failed").with_source(e)),
                Ok(Err(_)) => Err(failure("the provider panicked")),
                Err(_) => Err(failure("the provider took too long")),
            }
        }
    }

    fn refuse_a_circle(&self) -> Result<(), TransportFailure> {
        match ASKED.try_with(|asked| *asked == self.address()) {
            Ok(true) => Err(failure(
                "the provider sent through the vault that it serves",
            )),
            _ => Ok(()),
        }
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.provider).cast::<()>().addr()
    }

    fn line(&self, principal: Option<&str>) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() > Self::LINES_MAX {
            lines.retain(|_, line| Arc::strong_count(line) > 1);
        }
        let principal = principal.map(str::to_owned);
        let line = lines.entry(principal.clone()).or_insert_with(|| {
            Arc::new(Line {
                principal,
                number: AtomicU64::new(0),
                tries: AtomicU64::new(0),
                turn: Arc::default(),
            })
        });
        Arc::clone(line)
    }
}

impl fmt::Debug for CredentialDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialDesk")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .finish()
    }
}

fn asked(
    request: &reqwest::Request,
    principal: Option<String>,
    refresh: Refresh,
) -> CredentialRequest {
    CredentialRequest {
        method: request.method().clone(),
        url: request.url().clone(),
        headers: request.headers().clone(),
        body: body(request),
        principal,
        refresh,
    }
}

/// The body in memory, without copying it: a clone of the request shares it, and gives it in one frame.
fn body(request: &reqwest::Request) -> Option<Bytes> {
    let Some(body) = request.body() else {
        return Some(Bytes::new());
    };
    body.as_bytes()?;
    let mut body = request.try_clone()?.body_mut().take()?;
    let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never()?;
    match frame {
        None => Some(Bytes::new()),
        Some(frame) => frame.ok()?.into_data().ok(),
    }
}

fn put(credentials: Credentials, request: &mut reqwest::Request) -> Result<(), TransportFailure> {
    credentials
        .stamp(request)
        .map_err(|defect| failure(&format!("the provider gave {defect}")))
}

fn failure(detail: &str) -> TransportFailure {
    TransportFailure::new(FailureKind::Credentials).with_detail(detail)
}
