//! An answer that is read to its end, for who needs all of it. Bounded in bytes and in time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use super::TransportFailure;
use crate::decide::FailureKind;

/// How long the whole of a body may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no whole body.
#[derive(Debug)]
pub(crate) enum NotWhole {
    /// It is longer than what may be read.
    TooLong,
    /// It broke off, or took too long: nobody knows what it said.
    Lost(TransportFailure),
}

/// Reads the body of an answer, whose status and headers stay.
pub(crate) async fn read_whole(response: &mut Response, bytes_max: u64) -> Result<Bytes, NotWhole> {
    let lost = |kind| NotWhole::Lost(TransportFailure::new(kind));
    let read = async {
        let mut whole = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => whole.extend_from_slice(&chunk),
                Ok(None) => return Ok(whole.freeze()),
                Err(_) => return Err(lost(FailureKind::Interrupted)),
            }
            if whole.len() as u64 > bytes_max {
                return Err(NotWhole::TooLong);
            }
        }
    };
    let read = tokio::time::timeout(PATIENCE, read);
    read.await
        .unwrap_or_else(|_| Err(lost(FailureKind::Timeout)))
}
