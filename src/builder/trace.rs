//! The option for distributed tracing.

use std::sync::Arc;

use super::SyncVaultBuilder;

impl SyncVaultBuilder {
    /// Gives the trace that a request belongs to, as the value of a W3C `traceparent` header: asked when the request is sent or
    /// queued, in its task. It is kept with the request. Each attempt carries the same trace id and a span id of its own. A
    /// `traceparent` header of the request itself goes first; `tracestate` goes out as it came.
    ///
    /// What is no valid value is left out.
    ///
    /// ```
    /// # fn current_traceparent() -> Option<String> { None }
    /// use syncvault::SyncVault;
    /// let builder = SyncVault::builder("https://api.example.com").trace_context(current_traceparent);
    /// ```
    pub fn trace_context<F>(mut self, context: F) -> Self
    where
        F: Fn() -> Option<String> + Send + Sync + 'static,
    {
        self.trace_context = Some(Arc::new(context));
        self
    }
}
