//! When two values are the same for a server: numbers by value, the rest as it is. Pure.

use serde_json::Value;

use super::change::Operation;
use super::record::{Outgoing, Row};

/// True when a server that took one would show the other: `1` and `1.0` are one number.
pub(super) fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b)))
        }
        (ours, theirs) => ours == theirs,
    }
}

/// True when two rows are the same, apart from fields that the server sets itself.
pub(super) fn same_row(ours: Option<&Row>, theirs: Option<&Row>, server_fields: &[String]) -> bool {
    match (ours, theirs) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let own = |row: &Row| row.keys().filter(|k| !server_fields.contains(k)).count();
            own(a) == own(b) && is_covered(a, b, server_fields)
        }
        _ => false,
    }
}

/// True when every field of `sent` is in `row` with the same value, apart from fields that the server sets itself.
fn is_covered(sent: &Row, row: &Row, server_fields: &[String]) -> bool {
    let mut own = sent
        .iter()
        .filter(|(field, _)| !server_fields.contains(field));
    own.all(|(field, value)| row.get(field).is_some_and(|theirs| same(value, theirs)))
}

/// True when the server's row holds what a change sent: it has arrived, whatever became of its answer. The server may have added
/// fields of its own.
pub(super) fn has_arrived(
    change: &Outgoing,
    server: Option<&Row>,
    server_fields: &[String],
) -> bool {
    match (change.operation, &change.row, server) {
        (Operation::Delete, _, None) => true,
        (Operation::Upsert, Some(sent), Some(row)) => is_covered(sent, row, server_fields),
        (Operation::Patch, Some(sent), Some(row)) => {
            let mut fields = change.fields.iter().filter(|f| !server_fields.contains(f));
            fields.all(|field| match (sent.get(field), row.get(field)) {
                (Some(ours), Some(theirs)) => same(ours, theirs),
                (ours, theirs) => ours.is_none() && theirs.is_none_or(Value::is_null),
            })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::Timestamp;

    fn row(value: Value) -> Row {
        match value {
            Value::Object(row) => row,
            _ => Row::new(),
        }
    }

    #[test]
    fn numbers_are_the_same_by_value() {
        assert!(same(&json!({"a": [1, 2.0]}), &json!({"a": [1.0, 2]})));
        assert!(!same(&json!(u64::MAX), &json!(u64::MAX - 1)));
        assert!(!same(&json!("1"), &json!(1)));
    }

    #[test]
    fn what_the_server_added_does_not_hide_that_a_change_arrived() {
        let upsert = Outgoing::new(
            Operation::Upsert,
            Some(row(json!({"a": 1, "at": 5}))),
            Timestamp::EPOCH,
        );
        let own = ["at".to_owned()];
        assert!(has_arrived(
            &upsert,
            Some(&row(json!({"a": 1, "id": "x", "at": 9}))),
            &own
        ));
        assert!(!has_arrived(
            &upsert,
            Some(&row(json!({"a": 2, "at": 5}))),
            &own
        ));
        assert!(!has_arrived(&upsert, None, &own));
        let delete = Outgoing::new(Operation::Delete, None, Timestamp::EPOCH);
        assert!(has_arrived(&delete, None, &own));
        let mut patch = upsert;
        patch.operation = Operation::Patch;
        patch.fields = vec!["a".to_owned()];
        assert!(has_arrived(
            &patch,
            Some(&row(json!({"a": 1, "b": 7}))),
            &own
        ));
    }
}
