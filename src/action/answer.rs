//! What is kept of a server's answer: status, chosen headers, the start of the body.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::frame::{Frame, FrameKind};
use super::id::ActionId;
use crate::clock::Timestamp;
use crate::error::Result;

/// The kept part of an answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers that were chosen to be kept, names in lower case.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The first bytes of the body, at most [`Answer::BODY_BYTES_MAX`].
    #[serde(skip)]
    pub body: Bytes,
    /// True when the body was longer than what is kept, or broke off.
    #[serde(default)]
    pub is_truncated: bool,
    /// When it came.
    #[serde(default)]
    pub at: Timestamp,
}

/// Without header values and body: they stay out of logs.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .field("is_truncated", &self.is_truncated)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// How much of an answer's body is kept at most: 64 KiB.
    pub const BODY_BYTES_MAX: usize = 64 * 1024;

    /// The status of an action of which no answer came, and the app [found out](crate::SyncVaultBuilder::verify) that it happened.
    pub const NO_STATUS: u16 = 0;

    /// An answer without headers and body.
    #[must_use]
    pub fn new(status: u16, at: Timestamp) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            is_truncated: false,
            at,
        }
    }

    /// The bytes a store keeps.
    ///
    /// # Errors
    ///
    /// Never for an answer within [`Answer::BODY_BYTES_MAX`].
    pub fn encode(&self, id: ActionId) -> Result<Bytes> {
        Frame::encode(FrameKind::Answer, id, 0, self, &self.body).map(Bytes::from)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) when it is damaged or newer than this version.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let frame = Frame::decode(bytes)?;
        let mut answer: Self = frame.fields()?;
        answer.body = frame.content;
        Ok(answer)
    }

    /// The value of a kept header; the name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// The kept body as JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the body is not JSON of this shape, or was cut.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> crate::Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| {
            let cut = if self.is_truncated {
                " (it was cut)"
            } else {
                ""
            };
            crate::Error::invalid(format!(
                "the kept body is not JSON of the wanted shape{cut}"
            ))
            .with_source(e)
        })
    }
}
