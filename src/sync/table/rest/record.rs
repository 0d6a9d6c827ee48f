//! A record as it travels in the protocol: `{"id", "version", "updated_at", "row"}`, or `"deleted": true` in place of the row.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::instant::Instant;
use super::super::record::Row;
use super::super::remote::{DamagedRow, RemoteRow};
use super::super::version::Version;
use super::super::wire::is_tag;
use crate::sync::ItemId;

/// How much of a row that cannot be read is set aside.
const TEXT_MAX: usize = 16 * 1024;

/// The one name of a version: one of digits is a number, in a body as in an ETag.
pub(super) fn version(version: Version) -> Option<Version> {
    match version {
        Version::Text(text) if !is_tag(&text) => None,
        Version::Text(text) => Some(match text.parse::<u64>() {
            Ok(number) if number.to_string() == text => Version::Number(number),
            _ => Version::Text(text),
        }),
        number @ Version::Number(_) => Some(number),
    }
}

/// The version in an ETag. A weak one counts too: what compresses an answer on its way weakens its tag.
pub(super) fn version_of_tag(tag: &str) -> Option<Version> {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    let text = tag.strip_prefix('"')?.strip_suffix('"')?;
    version(Version::from(text))
}

/// A record in an answer to a push. What is not told is left out.
pub(super) struct Answered {
    pub(super) row: RemoteRow,
    pub(super) is_deleted: bool,
}

#[derive(Deserialize)]
struct Wire {
    id: String,
    #[serde(default)]
    version: Option<Version>,
    #[serde(default)]
    updated_at: Option<Value>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    row: Option<Row>,
}

impl Wire {
    fn record(self) -> Result<(RemoteRow, bool), (ItemId, &'static str)> {
        let id = ItemId::new(self.id);
        let mut record = RemoteRow::deleted(id.clone());
        if let Some(told) = self.version {
            let Some(told) = version(told) else {
                return Err((id, "its version cannot be an entity tag"));
            };
            record.version = Some(told);
        }
        if let Some(at) = self.updated_at {
            let Some(at) = at.as_str().and_then(Instant::parse) else {
                return Err((id, "its updated_at is not a time (RFC 3339)"));
            };
            record.updated_at = Some(at.timestamp());
        }
        record.row = self.row.filter(|_| !self.deleted);
        Ok((record, self.deleted))
    }
}

/// The record in the body of an answer; nothing when there is none.
pub(super) fn answered(body: &[u8]) -> Option<Answered> {
    let wire: Wire = serde_json::from_slice(body).ok()?;
    let (row, is_deleted) = wire.record().ok()?;
    Some(Answered { row, is_deleted })
}

/// A row of a page.
pub(super) fn listed(raw: &RawValue) -> Result<RemoteRow, DamagedRow> {
    let damaged = |id, reason: String| {
        let text = raw.get().chars().take(TEXT_MAX).collect::<String>();
        DamagedRow::new(id, reason, text)
    };
    let wire: Wire = serde_json::from_str(raw.get())
        .map_err(|e| damaged(id_of(raw), format!("it is no record: {}", place(&e))))?;
    match wire.record() {
        Ok((record, is_deleted)) if is_deleted || record.row.is_some() => Ok(record),
        Ok((record, _)) => Err(damaged(
            Some(record.id),
            "it has neither a row nor a deletion".to_owned(),
        )),
        Err((id, reason)) => Err(damaged(Some(id), reason.to_owned())),
    }
}

/// Where the JSON goes wrong, without its content: the words of serde show values.
fn place(e: &serde_json::Error) -> String {
    let what = match e.classify() {
        serde_json::error::Category::Data => "a field is missing or of another kind",
        _ => "it cannot be read",
    };
    format!("{what}, at its byte {}", e.column())
}

/// The id of what is not a record otherwise.
fn id_of(raw: &RawValue) -> Option<ItemId> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let named: Option<Named> = serde_json::from_str(raw.get()).ok();
    named.map(|named| ItemId::new(named.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RemoteRow, DamagedRow> {
        listed(&RawValue::from_string(text.to_owned()).expect("JSON"))
    }

    #[test]
    fn a_version_is_the_same_in_a_tag_and_in_a_body() {
        let table = [
            ("\"7\"", Some(Version::from(7))),
            ("W/\"7\"", Some(Version::from(7))),
            ("\"07\"", Some(Version::from("07"))),
            ("\"a-b\"", Some(Version::from("a-b"))),
            (
                "\"18446744073709551616\"",
                Some(Version::from("18446744073709551616")),
            ),
            ("7", None),
            ("\"\"", None),
            ("\"a b\"", None),
        ];
        for (tag, want) in table {
            assert_eq!(version_of_tag(tag), want, "{tag}");
        }
        let row = read(r#"{"id":"a","version":"7","row":{}}"#).expect("a row");
        assert_eq!(row.version, Some(Version::from(7)));
    }

    #[test]
    fn what_is_no_record_is_damaged_and_keeps_its_id_if_it_has_one() {
        let table = [
            (r#"{"id":"a","row":5}"#, Some("a")),
            (r#"{"id":"a"}"#, Some("a")),
            (r#"{"id":"a","row":{},"updated_at":"soon"}"#, Some("a")),
            (r#"{"id":"a","row":{},"version":"a b"}"#, Some("a")),
            (r#"{"id":7,"row":{}}"#, None),
            (r#"{"row":{}}"#, None),
            ("null", None),
            (r#"{"id":"a","row":{"secret":"\ud800"}}"#, Some("a")),
        ];
        for (text, id) in table {
            let damaged = read(text).expect_err(text);
            assert_eq!(damaged.id.as_ref().map(ItemId::as_str), id, "{text}");
            assert!(!damaged.reason.contains("secret"), "{}", damaged.reason);
            assert_eq!(damaged.text, text);
        }
    }

    #[test]
    fn a_row_that_is_nested_too_deeply_hurts_only_itself() {
        let deep = format!(
            r#"{{"id":"a","row":{{"x":{}{}}}}}"#,
            "[".repeat(500),
            "]".repeat(500)
        );
        read(&deep).expect_err("too deep");
        let well = format!(
            r#"{{"id":"a","row":{{"x":{}{}}}}}"#,
            "[".repeat(100),
            "]".repeat(100)
        );
        read(&well).expect("100 levels");
    }
}
