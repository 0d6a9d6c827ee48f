//! JSON values in the columns of an app's table, and back. What a column cannot give back as it was written (a null that is no
//! absence, a number that the column turns into another) is remembered beside it, for as long as the column holds what was put there.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rusqlite::types::{Value as Sql, ValueRef};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::error::{Error, ErrorKind, Result};

/// How a column is read, by its declared type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As SQLite holds it.
    Plain,
    /// `BOOL`, `BOOLEAN`: 0 and 1 are false and true.
    Bool,
    /// `JSON`: texts are JSON.
    Json,
}

impl Kind {
    pub(super) fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        if declared.contains("BOOL") {
            Self::Bool
        } else if declared.contains("JSON") {
            Self::Json
        } else {
            Self::Plain
        }
    }

    /// What goes into the column.
    pub(super) fn encode(self, value: &Value) -> Sql {
        match value {
            Value::Null => Sql::Null,
            Value::Bool(is_true) if self != Self::Json => Sql::Integer((*is_true).into()),
            Value::Number(number) => encode_number(number),
            Value::String(text) if self != Self::Json => Sql::Text(text.clone()),
            other => Sql::Text(other.to_string()),
        }
    }

    /// What a column holds; nothing for NULL.
    pub(super) fn decode(self, value: ValueRef<'_>) -> Result<Option<Value>> {
        Ok(Some(match value {
            ValueRef::Null => return Ok(None),
            ValueRef::Integer(number) if self == Self::Bool && (0..=1).contains(&number) => {
                Value::Bool(number == 1)
            }
            ValueRef::Integer(number) => number.into(),
            ValueRef::Real(number) => Number::from_f64(number)
                .map(Value::Number)
                .ok_or_else(|| damaged("holds a number that JSON has no word for"))?,
            ValueRef::Text(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| damaged("is no UTF-8"))?;
                match self {
                    Self::Json => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
                    _ => text.into(),
                }
            }
            ValueRef::Blob(bytes) => BASE64_STANDARD.encode(bytes).into(),
        }))
    }
}

/// SQLite's integers have a sign: what does not fit is a text.
fn encode_number(number: &Number) -> Sql {
    if let Some(number) = number.as_i64() {
        return Sql::Integer(number);
    }
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(number) => Sql::Real(number),
        None => Sql::Text(number.to_string()),
    }
}

fn damaged(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("a column of a local record {what}"),
    )
}

/// What a field was written as, where its column says something else.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Exact {
    /// The value; empty = the row had no such field.
    #[serde(rename = "v", default)]
    value: Vec<Value>,
    /// A print of what the column held then. Nothing = there is no such column.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    stored: Option<String>,
}

impl Exact {
    /// A field without a column.
    pub(super) fn without_column(value: &Value) -> Self {
        Self {
            value: vec![value.clone()],
            stored: None,
        }
    }

    /// A field whose column holds `stored` now.
    pub(super) fn beside(value: Option<&Value>, stored: ValueRef<'_>) -> Self {
        Self {
            value: value.cloned().into_iter().collect(),
            stored: Some(print(stored)),
        }
    }

    /// The value, if the column still holds what it did.
    pub(super) fn while_stored(&self, column: ValueRef<'_>) -> Option<Option<&Value>> {
        let is_so = self.stored.as_ref() == Some(&print(column));
        is_so.then(|| self.value.first())
    }

    /// The value of a field without a column.
    pub(super) fn value(&self) -> Option<&Value> {
        self.value.first()
    }
}

/// A short print of a value in a column, so that long texts are not kept twice.
fn print(value: ValueRef<'_>) -> String {
    let (kind, bytes): (u8, &[u8]) = match &value {
        ValueRef::Null => (b'n', &[]),
        ValueRef::Integer(number) => (b'i', &number.to_le_bytes()),
        ValueRef::Real(number) => (b'r', &number.to_bits().to_le_bytes()),
        ValueRef::Text(bytes) => (b't', bytes),
        ValueRef::Blob(bytes) => (b'b', bytes),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]).update(bytes);
    hasher.finalize().to_hex()[..32].to_owned()
}

/// What is remembered of a record's fields.
pub(super) type Exacts = BTreeMap<String, Exact>;

/// As text; nothing when there is nothing to remember.
pub(super) fn encode_exacts(exacts: &Exacts) -> Result<Option<String>> {
    if exacts.is_empty() {
        return Ok(None);
    }
    let broken =
        |e| Error::new(ErrorKind::Storage, "a local record cannot be written").with_source(e);
    serde_json::to_string(exacts).map(Some).map_err(broken)
}

/// From its text.
pub(super) fn decode_exacts(text: Option<&[u8]>) -> Result<Exacts> {
    let broken =
        |e| Error::new(ErrorKind::Corrupt, "what is known of a record is damaged").with_source(e);
    text.map_or(Ok(Exacts::new()), |text| {
        serde_json::from_slice(text).map_err(broken)
    })
}
