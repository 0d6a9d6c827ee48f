//! What an attempt wrote to, for what is cached of it.

use http::HeaderMap;

use super::{Exchange, Reporter};

impl Exchange {
    /// Status and headers of the answer, if there is one.
    pub(crate) fn head(&self) -> Option<(u16, &HeaderMap)> {
        let response = self.result.as_ref().ok()?;
        Some((response.status().as_u16(), response.headers()))
    }
}

impl Reporter {
    /// It wrote to these resources, however it ends.
    pub(crate) fn wrote(&mut self, stale: Vec<String>) {
        if let Some(interrupted) = &mut self.interrupted {
            interrupted.stale = stale;
        }
    }
}
