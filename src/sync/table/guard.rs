//! What may not pass: rows that are too large, rows of others, names that cannot be; and what may not be shown. Pure.

use serde_json::Value;

use super::record::{RecordKey, Row};
use crate::action::Lane;
use crate::error::{Error, ErrorKind, Result};

/// What is shown in place of a secret.
const MASK: &str = "[masked]";

/// Guards of an engine.
#[derive(Clone, Debug)]
pub(super) struct Guards {
    pub(super) user: String,
    pub(super) payload_bytes_max: usize,
    /// Fields that name the owner of a row. The first that is there counts.
    pub(super) owner_fields: Vec<String>,
    /// Fields whose values are shown to nobody, at any depth.
    pub(super) masked: Vec<String>,
}

impl Guards {
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`] and [`ErrorKind::NotOwner`].
    pub(super) fn check(&self, key: &RecordKey, row: &Row) -> Result<()> {
        self.check_owner(key, row)?;
        let bytes = serde_json::to_vec(row).map_or(usize::MAX, |bytes| bytes.len());
        if bytes <= self.payload_bytes_max {
            return Ok(());
        }
        let max = self.payload_bytes_max;
        let text = format!("{key} has {bytes} bytes, the limit is {max} (`max_payload_bytes`)");
        Err(Error::new(ErrorKind::TooLarge, text))
    }

    pub(super) fn check_owner(&self, key: &RecordKey, row: &Row) -> Result<()> {
        match self.foreign_owner(row) {
            None => Ok(()),
            Some(_) => {
                let text = format!("{key} belongs to somebody else than the user of this engine");
                Err(Error::new(ErrorKind::NotOwner, text))
            }
        }
    }

    /// Who owns a row, when it is somebody else.
    pub(super) fn foreign_owner(&self, row: &Row) -> Option<String> {
        let mut owners = self.owner_fields.iter().filter_map(|field| row.get(field));
        let owner = owners.find(|owner| !owner.is_null())?;
        let owner = match owner {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        (owner != self.user).then_some(owner)
    }

    /// A row as it may be shown. The data itself is never changed.
    pub(super) fn shown(&self, row: &Row) -> Row {
        let fields = row.iter();
        fields
            .map(|(field, value)| match self.masked.contains(field) {
                true => (field.clone(), Value::from(MASK)),
                false => (field.clone(), self.shown_value(value)),
            })
            .collect()
    }

    fn shown_value(&self, value: &Value) -> Value {
        match value {
            Value::Object(row) => Value::Object(self.shown(row)),
            Value::Array(values) => values.iter().map(|value| self.shown_value(value)).collect(),
            other => other.clone(),
        }
    }
}

/// The lane of a record: `table/id`, with control characters and `%` written in hexadecimal.
pub(super) fn lane_of(key: &RecordKey) -> Result<String> {
    let mut lane = format!("{}/", key.table);
    for c in key.id.as_str().chars() {
        match c {
            c if c == '%' || c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    lane.push_str(&format!("%{byte:02x}"));
                }
            }
            c => lane.push(c),
        }
    }
    if lane.len() > Lane::BYTES_MAX || key.id.as_str().is_empty() {
        let text = format!(
            "the id of a record of {} has 1 to {} bytes",
            key.table,
            Lane::BYTES_MAX - 1 - key.table.len()
        );
        return Err(Error::invalid(text));
    }
    Ok(lane)
}

/// The record of a lane; nothing for the lane of something else.
pub(super) fn record_of(lane: &str) -> Option<RecordKey> {
    let (table, written) = lane.split_once('/')?;
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    Some(RecordKey::new(table, String::from_utf8(bytes).ok()?))
}

/// # Errors
///
/// [`ErrorKind::Invalid`] for a name that cannot be that of a table.
pub(super) fn check_table(name: &str) -> Result<()> {
    const BYTES_MAX: usize = 64;
    if name.is_empty() || name.len() > BYTES_MAX || name.chars().any(|c| c == '/' || c.is_control())
    {
        let text = format!(
            "the name of a table has 1 to {BYTES_MAX} bytes, no slash and no control character"
        );
        return Err(Error::invalid(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn guards() -> Guards {
        Guards {
            user: "ann".to_owned(),
            payload_bytes_max: 100,
            owner_fields: vec!["user_id".to_owned(), "owner_id".to_owned()],
            masked: vec!["ssn".to_owned()],
        }
    }

    fn row(value: Value) -> Row {
        value.as_object().cloned().expect("a row")
    }

    #[test]
    fn a_row_of_somebody_else_does_not_pass() {
        let key = RecordKey::new("t", "1");
        for own in [
            json!({"a": 1}),
            json!({"user_id": "ann"}),
            json!({"user_id": null, "owner_id": "ann"}),
        ] {
            guards().check(&key, &row(own)).expect("her own");
        }
        let error = guards()
            .check(&key, &row(json!({"user_id": "bob"})))
            .expect_err("his");
        assert_eq!(error.kind(), ErrorKind::NotOwner);
    }

    #[test]
    fn a_row_that_is_too_large_does_not_pass() {
        let error = guards()
            .check(
                &RecordKey::new("t", "1"),
                &row(json!({"a": "x".repeat(100)})),
            )
            .expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn secrets_are_masked_at_any_depth_and_in_what_is_shown_only() {
        let secret = row(json!({"ssn": 1, "a": [{"ssn": "2"}], "b": {"c": {"ssn": {"x": 3}}}}));
        let shown = guards().shown(&secret);
        let want = json!({"ssn": MASK, "a": [{"ssn": MASK}], "b": {"c": {"ssn": MASK}}});
        assert_eq!(Value::Object(shown), want);
    }

    #[test]
    fn a_lane_leads_back_to_its_record() {
        for id in [
            "1",
            "a/b",
            "100%",
            "%41",
            "\0",
            "x\u{1f}y",
            "'; DROP TABLE t; --",
            "日本\u{85}",
        ] {
            let key = RecordKey::new("t", id);
            let lane = lane_of(&key).expect("a lane");
            Lane::new(&lane).expect("usable");
            assert_eq!(record_of(&lane), Some(key), "{lane}");
        }
        assert!(lane_of(&RecordKey::new("t", "x".repeat(254))).is_err());
        assert!(lane_of(&RecordKey::new("t", "")).is_err());
        assert_eq!(record_of("default"), None);
        assert_eq!(record_of("t/%f"), None);
    }
}
