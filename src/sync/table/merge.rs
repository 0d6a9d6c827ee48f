//! The rules for conflicts, and the merge field by field. Pure, but for a custom rule.

use serde_json::Value;

use super::conflict::{ConflictStrategy, Decision, PendingDelete, TableConflict};
use super::record::Row;
use super::same::same;

/// What a rule says without waiting; nothing = it is the app's, and must be asked.
pub(super) fn decide(
    strategy: &ConflictStrategy,
    pending_delete: PendingDelete,
    conflict: &TableConflict,
    server_fields: &[String],
) -> Option<Decision> {
    if conflict.local.is_none() && pending_delete == PendingDelete::Wins {
        return Some(Decision::Local);
    }
    Some(match strategy {
        ConflictStrategy::LastWriteWins => match conflict.server_updated_at {
            Some(theirs) if conflict.local_changed_at > theirs => Decision::Local,
            _ => Decision::Server,
        },
        ConflictStrategy::ServerWins => Decision::Server,
        ConflictStrategy::ClientWins => Decision::Local,
        ConflictStrategy::HighestVersion => by_version(conflict),
        ConflictStrategy::Merge => merge(conflict, server_fields),
        ConflictStrategy::Custom(_) => return None,
    })
}

fn by_version(conflict: &TableConflict) -> Decision {
    let versions = conflict
        .server_version
        .as_ref()
        .zip(conflict.local_version.as_ref());
    let order = versions.and_then(|(theirs, ours)| theirs.compare(ours));
    match order {
        Some(order) if order.is_le() => Decision::Local,
        _ => Decision::Server,
    }
}

/// A change wins over a deletion; two rows are merged.
fn merge(conflict: &TableConflict, server_fields: &[String]) -> Decision {
    match (&conflict.local, &conflict.server) {
        (None, _) => Decision::Server,
        (Some(_), None) => Decision::Local,
        (Some(local), Some(server)) => {
            let base = conflict.base.clone().unwrap_or_default();
            Decision::Merged(merged(&base, local, server, server_fields))
        }
    }
}

/// What only one side changed is taken from that side; what both changed differently is the server's.
pub(super) fn merged(base: &Row, local: &Row, server: &Row, server_fields: &[String]) -> Row {
    let mut row = server.clone();
    let fields = base.keys().chain(local.keys());
    for field in fields.filter(|field| !server_fields.contains(field)) {
        let (was, ours, theirs) = (base.get(field), local.get(field), server.get(field));
        if is_same(was, theirs) && !is_same(was, ours) {
            match ours {
                Some(value) => drop(row.insert(field.clone(), value.clone())),
                None => drop(row.remove(field)),
            }
        }
    }
    row
}

fn is_same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::Timestamp;
    use crate::sync::table::{RecordKey, Version};

    fn row(value: &Value) -> Option<Row> {
        value.as_object().cloned()
    }

    fn conflict(base: &Value, local: &Value, server: &Value) -> TableConflict {
        TableConflict {
            key: RecordKey::new("t", "1"),
            base: row(base),
            local: row(local),
            server: row(server),
            local_version: Some(Version::from(4)),
            server_version: Some(Version::from(5)),
            local_changed_at: Timestamp::from_millis(10),
            server_updated_at: Some(Timestamp::from_millis(10)),
        }
    }

    fn decided(strategy: &ConflictStrategy, conflict: &TableConflict) -> Decision {
        decide(
            strategy,
            PendingDelete::ByStrategy,
            conflict,
            &["at".to_owned()],
        )
        .expect("decided")
    }

    #[test]
    fn a_merge_takes_each_field_from_the_side_that_changed_it() {
        let table = [
            (
                json!({"a":1,"b":1}),
                json!({"a":2,"b":1}),
                json!({"a":1,"b":3}),
                json!({"a":2,"b":3}),
            ),
            (
                json!({"a":1}),
                json!({"a":2}),
                json!({"a":3}),
                json!({"a":3}),
            ),
            (
                json!({"a":1,"b":1}),
                json!({"b":1}),
                json!({"a":1,"b":2}),
                json!({"b":2}),
            ),
            (
                json!({"a":1}),
                json!({"a":1,"n":5}),
                json!({"a":1,"m":6}),
                json!({"a":1,"n":5,"m":6}),
            ),
            (json!({"a":1}), json!({"a":2}), json!({}), json!({})),
            (
                json!(null),
                json!({"a":1,"x":1}),
                json!({"a":2}),
                json!({"a":2,"x":1}),
            ),
            (
                json!({"at":1}),
                json!({"at":7,"a":1}),
                json!({"at":1}),
                json!({"at":1,"a":1}),
            ),
        ];
        for (base, local, server, want) in table {
            let got = decided(&ConflictStrategy::Merge, &conflict(&base, &local, &server));
            assert_eq!(
                got,
                Decision::Merged(row(&want).expect("a row")),
                "{base} {local} {server}"
            );
        }
    }

    #[test]
    fn a_change_wins_over_a_deletion_in_a_merge() {
        let (row, gone) = (json!({"a":1}), json!(null));
        let merge = ConflictStrategy::Merge;
        assert_eq!(
            decided(&merge, &conflict(&row, &row, &gone)),
            Decision::Local
        );
        assert_eq!(
            decided(&merge, &conflict(&row, &gone, &row)),
            Decision::Server
        );
    }

    #[test]
    fn the_last_write_wins_and_the_server_wins_a_tie() {
        let lww = ConflictStrategy::LastWriteWins;
        let mut seen = conflict(&json!({}), &json!({"a":1}), &json!({"a":2}));
        assert_eq!(decided(&lww, &seen), Decision::Server);
        seen.local_changed_at = Timestamp::from_millis(11);
        assert_eq!(decided(&lww, &seen), Decision::Local);
        seen.server_updated_at = None;
        assert_eq!(decided(&lww, &seen), Decision::Server);
    }

    #[test]
    fn the_higher_version_wins() {
        let highest = ConflictStrategy::HighestVersion;
        let mut seen = conflict(&json!({}), &json!({"a":1}), &json!({"a":2}));
        assert_eq!(decided(&highest, &seen), Decision::Server);
        seen.local_version = Some(Version::from(6));
        assert_eq!(decided(&highest, &seen), Decision::Local);
        seen.local_version = Some(Version::from("6"));
        assert_eq!(decided(&highest, &seen), Decision::Server);
    }

    #[test]
    fn a_pending_delete_wins_by_rule_or_the_strategy_decides() {
        let seen = conflict(&json!({"a":1}), &json!(null), &json!({"a":2}));
        let by = |rule| decide(&ConflictStrategy::ServerWins, rule, &seen, &[]);
        assert_eq!(by(PendingDelete::Wins), Some(Decision::Local));
        assert_eq!(by(PendingDelete::ByStrategy), Some(Decision::Server));
    }
}
