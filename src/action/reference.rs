//! References: places in a request that are filled in with a part of another action's answer, once that is there.

use serde::{Deserialize, Serialize};

use super::id::ActionId;

/// The answer to another action, as it will be: made by [`SyncVault::response_of`](crate::SyncVault::response_of).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseOf {
    id: ActionId,
}

impl ResponseOf {
    /// The answer to this action.
    #[must_use]
    pub fn new(id: impl Into<ActionId>) -> Self {
        Self { id: id.into() }
    }

    /// The value at a JSON pointer (RFC 6901) of the answer's body: `/id`, say; the empty pointer is the whole body. At most the first
    /// [64 KiB](crate::Answer::BODY_BYTES_MAX) of a body are kept: what is longer leads to nothing.
    #[must_use]
    pub fn json(self, pointer: impl Into<String>) -> ResponseValue {
        ResponseValue {
            of: self.id,
            part: ResponsePart::Json(pointer.into()),
        }
    }

    /// The value of a header of the answer, the name in any case. It must be one that is
    /// [kept](crate::transport::Keep): `ETag`, `Location` and `Last-Modified` are.
    #[must_use]
    pub fn header(self, name: impl Into<String>) -> ResponseValue {
        ResponseValue {
            of: self.id,
            part: ResponsePart::Header(name.into()),
        }
    }
}

/// A part of an answer that may not be there yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResponseValue {
    /// The action whose answer it is.
    pub of: ActionId,
    /// Which part.
    pub part: ResponsePart,
}

/// Which part of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResponsePart {
    /// The value at this JSON pointer of the body.
    Json(String),
    /// The value of this header.
    Header(String),
}

/// A place in a request that is filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Slot {
    /// The whole URL.
    Url,
    /// `{name}` in the path.
    Path(String),
    /// A pair of the query string, by its name.
    Query(String),
    /// A header, by its name in lower case.
    Header(String),
    /// The value at this JSON pointer of the body.
    Json(String),
}

/// A place to fill in, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reference {
    /// The place.
    pub into: Slot,
    /// What comes there.
    pub from: ResponseValue,
}

impl Reference {
    /// How many one request may have.
    pub const COUNT_MAX: usize = 32;

    /// How long a pointer or a name in it may be, in bytes.
    pub const NAME_BYTES_MAX: usize = 255;

    /// This value, in that place.
    #[must_use]
    pub fn new(into: Slot, from: ResponseValue) -> Self {
        Self { into, from }
    }
}
