//! `PostgrestRemote` against a server that behaves as PostgREST says it does.

mod fake;

use std::time::Duration;

use serde_json::json;
use syncvault::store::MemoryStore;
use syncvault::sync::{
    Deletions, Operation, PostgrestRemote, PostgrestTable, PullRequest, Pushed, RemoteErrorKind,
    RemoteStore, Version,
};
use syncvault::{Credentials, DeadReason};
use tokio::task::JoinHandle;

use super::rig::{Client, change, fields, ids, new, on, serve};
use crate::story::builder_at;
use fake::Fake;

pub(super) struct Site {
    fake: Fake,
    url: String,
    serving: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub(super) fn soft() -> PostgrestTable {
    PostgrestTable::default().deletions(Deletions::Time("deleted_at".to_owned()))
}

impl Site {
    pub(super) async fn start() -> Self {
        let fake = Fake::new();
        let (url, serving) = serve(fake.router()).await;
        Self { fake, url, serving }
    }

    pub(super) async fn client_of(
        &self,
        user: &'static str,
        table: PostgrestTable,
    ) -> Client<PostgrestRemote> {
        let vault = builder_at(format!("{}/rest/v1", self.url)).store(MemoryStore::new());
        let vault = vault.credentials(move |_| async move {
            Credentials::bearer(user).and("apikey", "publishable")
        });
        let vault = vault.build().await.expect("vault");
        Client::new(PostgrestRemote::new(vault.clone()).usual(table), vault)
    }

    async fn client(&self, user: &'static str) -> Client<PostgrestRemote> {
        self.client_of(user, soft()).await
    }
}

#[tokio::test]
async fn a_row_goes_there_and_comes_back_without_the_columns_of_the_sync() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    let row = json!({"text": "milk", "n": u64::MAX, "owner": "ann", "slug": null, "updated_at": "1999-01-01T00:00:00Z"});
    let first = ann.accepted(&new("1", row)).await;
    let (rows, resume) = ann.pull(None, 10).await;
    let want =
        json!({"id": "1", "text": "milk", "n": u64::MAX, "owner": "ann", "slug": null, "rev": 1});
    assert_eq!(rows[0].row, Some(fields(want)));
    assert_eq!(rows[0].version, first);
    let second = ann
        .accepted(&on(
            &first,
            change("1", Operation::Patch, json!({"text": "oat milk"})),
        ))
        .await;
    assert_ne!(first, second);
    let third = ann
        .accepted(&on(&second, change("1", Operation::Delete, json!(null))))
        .await;
    let deleted = site.fake.row("1").expect("it stays");
    assert!(
        deleted["deleted_at"]
            .as_str()
            .is_some_and(|at| at.starts_with("2026-")),
        "by the server's clock"
    );
    let (rows, _) = ann.pull(resume.as_ref(), 10).await;
    assert_eq!((rows[0].row.is_none(), &rows[0].version), (true, &third));
    // And back again, over its tombstone.
    let mut back = new("1", json!({"text": "back"}));
    back.base_version = third;
    ann.accepted(&back).await;
    assert!(site.fake.row("1").expect("a row")["deleted_at"].is_null());
}

#[tokio::test]
async fn a_change_on_an_old_version_meets_no_row_and_is_a_conflict() {
    let site = Site::start().await;
    for table in [soft(), soft().version("rev"), PostgrestTable::default()] {
        let ann = site.client_of("ann", table.clone()).await;
        let id = format!("{table:?}");
        let first = ann.accepted(&new(&id, json!({"text": "a"}))).await;
        let second = ann
            .accepted(&on(
                &first,
                change(&id, Operation::Upsert, json!({"text": "b"})),
            ))
            .await;
        for late in [
            on(&first, change(&id, Operation::Upsert, json!({"text": "c"}))),
            on(&first, change(&id, Operation::Patch, json!({"text": "c"}))),
            on(&first, change(&id, Operation::Delete, json!(null))),
            new(&id, json!({"text": "c"})),
        ] {
            assert_eq!(
                ann.push(&late).await,
                Pushed::Conflict { server: None },
                "{late:?}"
            );
        }
        let row = ann.fetch(&id).await.expect("fetch").expect("a row");
        assert_eq!(
            (row.version, &row.row.expect("a row")["text"]),
            (second, &json!("b"))
        );
    }
}

/// PostgREST knows no keys: the second try finds its own version gone, and the engine asks.
#[tokio::test]
async fn a_change_that_comes_twice_changes_nothing_twice() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    let first = ann.accepted(&new("1", json!({"n": 1}))).await;
    let second = on(&first, change("1", Operation::Upsert, json!({"n": 2})));
    let version = ann.accepted(&second).await;
    let again = site.client("ann").await;
    assert_eq!(again.push(&second).await, Pushed::Conflict { server: None });
    let row = ann.fetch("1").await.expect("fetch").expect("a row");
    assert_eq!(
        (row.version, &row.row.expect("a row")["n"]),
        (version, &json!(2))
    );
}

#[tokio::test]
async fn without_a_version_what_is_pushed_last_wins() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    for n in [1, 2] {
        ann.accepted(&change("1", Operation::Upsert, json!({"n": n})))
            .await;
    }
    ann.accepted(&change("1", Operation::Patch, json!({"m": 3})))
        .await;
    ann.accepted(&change("1", Operation::Delete, json!(null)))
        .await;
    ann.accepted(&change("1", Operation::Delete, json!(null)))
        .await;
    assert_eq!(
        ann.push(&change("1", Operation::Patch, json!({"m": 4})))
            .await,
        Pushed::Conflict { server: None }
    );
    ann.accepted(&change("1", Operation::Upsert, json!({"n": 5})))
        .await;
    let row = ann
        .fetch("1")
        .await
        .expect("fetch")
        .expect("a row")
        .row
        .expect("it is there again");
    assert_eq!((&row["n"], &row["m"]), (&json!(5), &json!(3)));
}

#[tokio::test]
async fn another_constraint_is_no_conflict_of_versions() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    ann.accepted(&new("1", json!({"slug": "milk"}))).await;
    for bad in [
        new("2", json!({"slug": "milk"})),
        new("3", json!({"parent": "nobody"})),
    ] {
        let pushed = ann.push(&bad).await;
        let Pushed::Rejected { reason } = &pushed else {
            panic!("{pushed:?}");
        };
        assert!(
            reason.starts_with("409: ") && reason.contains("constraint"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn row_level_security_stops_its_record_and_hides_rows() {
    let site = Site::start().await;
    let (ann, bob) = (site.client("ann").await, site.client("bob").await);
    ann.accepted(&new("1", json!({"owner": "ann"}))).await;
    let reason = bob.try_push(&new("2", json!({"owner": "ann"}))).await;
    assert!(
        matches!(reason, Err(DeadReason::Rejected { status: 403, .. })),
        "{reason:?}"
    );
    let reason = bob
        .try_push(&change("1", Operation::Upsert, json!({"owner": "bob"})))
        .await;
    assert!(
        matches!(reason, Err(DeadReason::Rejected { status: 403, .. })),
        "{reason:?}"
    );
    assert_eq!(
        bob.push(&change("1", Operation::Patch, json!({"n": 1})))
            .await,
        Pushed::Conflict { server: None }
    );
    assert_eq!(bob.fetch("1").await.expect("fetch"), None);
    assert!(bob.pull(None, 10).await.0.is_empty());
    bob.accepted(&new("3", json!({"owner": "bob"}))).await;
}

/// dynos_sync takes each message with "401" or "403" in it for an expired login. Here the status decides, and ids may be numbers.
#[tokio::test]
async fn the_status_says_who_must_log_in_and_what_is_forbidden() {
    let site = Site::start().await;
    for (user, want) in [
        ("garbage", RemoteErrorKind::AuthRequired),
        ("expired", RemoteErrorKind::AuthRequired),
        ("anonymous", RemoteErrorKind::AuthRequired),
        ("without-grant", RemoteErrorKind::Refused),
    ] {
        let client = site.client(user).await;
        let error = client
            .page(PullRequest::new("notes", 10))
            .await
            .expect_err(user);
        assert_eq!(error.kind, want, "{user}: {error}");
        assert_eq!(client.fetch("1").await.expect_err(user).kind, want);
    }
    let ann = site.client("ann").await;
    ann.accepted(&new("401", json!({"text": "jwt expired 403"})))
        .await;
    let pushed = ann
        .push(&new("401", json!({"slug": "not authenticated"})))
        .await;
    assert_eq!(pushed, Pushed::Conflict { server: None });
    let lost = ann
        .page(PullRequest::new("no such table", 10))
        .await
        .expect_err("404");
    assert_eq!(lost.kind, RemoteErrorKind::Refused, "{lost}");
}

#[tokio::test]
async fn both_credentials_are_stamped_and_neither_is_stored() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    ann.vault.pause().await.expect("pause");
    let ticket = ann.queue(&new("1", json!({}))).await;
    let pending = ann
        .vault
        .action(ticket.id())
        .await
        .expect("action")
        .expect("queued");
    let stored = format!("{:?}", pending.headers);
    assert!(
        !stored.contains("apikey") && !stored.contains("authorization"),
        "{stored}"
    );
    ann.vault.resume().await.expect("resume");
    crate::story::soon(ticket.wait()).await.expect("an end");
    let seen = site.fake.seen();
    assert_eq!(seen[0].headers["apikey"], "publishable");
    assert_eq!(seen[0].headers["authorization"], "Bearer ann");
    assert_eq!(
        seen[0].headers["prefer"],
        "resolution=ignore-duplicates,return=representation"
    );
}

#[tokio::test]
async fn an_id_may_be_any_text_that_postgres_has() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    let hostile = [
        "",
        ".",
        "..",
        "a/b",
        "a?b#c",
        "a b+c&d=e",
        "'; DROP TABLE notes; --",
        "\"quoted\"",
        "back\\slash\\",
        "a,b.(c):d",
        "and(id.eq.1)",
        "eq.1",
        "null",
        "*",
        "%",
        "%00",
        "\r\n",
        "é✓\u{1F600}",
        "\\\"",
        "{a,b}",
    ];
    for id in hostile {
        let first = ann.accepted(&new(id, json!({"is": id}))).await;
        ann.accepted(&on(
            &first,
            change(id, Operation::Patch, json!({"seen": true})),
        ))
        .await;
        let row = ann.fetch(id).await.expect("fetch").expect("a row");
        assert_eq!(row.row.expect("a row")["is"], *id);
    }
    // Each of them is the last of a page once, and stands in the filter of the next one.
    assert_eq!(ids(&ann.pull(None, 1).await.0), hostile);
    let error = ann
        .remote
        .request(&new("a\0b", json!({})))
        .expect_err("no NUL");
    assert_eq!(error.kind(), syncvault::ErrorKind::Invalid);
}

#[tokio::test]
async fn rows_with_the_same_time_are_not_missed_between_pages() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    let at = "2026-01-01T00:00:00.123456+00:00";
    for n in 0..25 {
        let id = format!("{n:02}");
        site.fake
            .put(&id, json!({"id": id, "updated_at": at, "deleted_at": null}));
    }
    assert_eq!(ann.pull(None, 4).await.0.len(), 25);
}

/// Supabase gives at most 1000 rows, whatever the limit says, and does not tell.
#[tokio::test]
async fn a_server_that_gives_fewer_rows_than_it_was_asked_for_does_not_end_the_pull() {
    let site = Site::start().await;
    site.fake.rows_max(3);
    let ann = site.client("ann").await;
    for n in 0..10 {
        ann.accepted(&new(&n.to_string(), json!({}))).await;
    }
    assert_eq!(ann.pull(None, 100).await.0.len(), 10);
}

#[tokio::test]
async fn a_transaction_that_is_committed_late_is_not_missed() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    for n in 0..5 {
        ann.accepted(&new(&n.to_string(), json!({}))).await;
        site.fake.pass(Duration::from_secs(20));
    }
    let (_, resume) = ann.pull(None, 2).await;
    // It began before the newest row that was seen, and ends now.
    let row = json!({"id": "late", "text": "late"});
    site.fake.commit("late", row, Duration::from_secs(50));
    let (rows, resume) = ann.pull(resume.as_ref(), 2).await;
    assert!(ids(&rows).contains(&"late"), "{rows:?}");
    // What is settled by then does not come again.
    site.fake.pass(Duration::from_secs(300));
    let (_, resume) = ann.pull(resume.as_ref(), 2).await;
    assert!(ann.pull(resume.as_ref(), 2).await.0.is_empty());
}

#[tokio::test]
async fn a_server_without_a_date_is_asked_again_for_the_last_minute() {
    let site = Site::start().await;
    site.fake.without_clock();
    let ann = site.client("ann").await;
    ann.accepted(&new("1", json!({}))).await;
    site.fake.pass(Duration::from_secs(20));
    ann.accepted(&new("2", json!({}))).await;
    let (_, resume) = ann.pull(None, 2).await;
    site.fake
        .commit("late", json!({"id": "late"}), Duration::from_secs(10));
    assert!(ids(&ann.pull(resume.as_ref(), 2).await.0).contains(&"late"));
}

#[tokio::test]
async fn without_a_column_for_deletions_each_pull_lists_everything() {
    let site = Site::start().await;
    let ann = site.client_of("ann", PostgrestTable::default()).await;
    let first = ann.accepted(&new("1", json!({}))).await;
    ann.accepted(&new("2", json!({}))).await;
    let (rows, resume) = ann.pull(None, 10).await;
    assert_eq!((ids(&rows), resume), (vec!["1", "2"], None));
    ann.accepted(&on(&first, change("1", Operation::Delete, json!(null))))
        .await;
    assert_eq!(site.fake.row("1"), None);
    assert_eq!(ids(&ann.pull(None, 10).await.0), ["2"]);
}

#[tokio::test]
async fn a_flag_tells_deletions_too() {
    let site = Site::start().await;
    let table = PostgrestTable::default().deletions(Deletions::Flag("gone".to_owned()));
    let ann = site.client_of("ann", table).await;
    site.fake.put(
        "1",
        json!({"id": "1", "updated_at": "2026-01-01T00:00:00+00:00", "gone": false}),
    );
    ann.accepted(&change("1", Operation::Delete, json!(null)))
        .await;
    let (rows, _) = ann.pull(None, 10).await;
    assert!(rows[0].row.is_none());
    ann.accepted(&change("1", Operation::Upsert, json!({"n": 1})))
        .await;
    assert!(ann.pull(None, 10).await.0[0].row.is_some());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_set_aside_and_the_rest_goes_on() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    ann.accepted(&new("1", json!({}))).await;
    site.fake.put(
        "2",
        json!({"id": "2", "updated_at": null, "deleted_at": null}),
    );
    site.fake.put(
        "3",
        json!({"id": ["3"], "updated_at": "2026-01-01T00:00:00+00:00", "deleted_at": null}),
    );
    site.fake.put(
        "4",
        json!({"id": "4", "updated_at": "2026-01-01T00:00:00+00:00"}),
    );
    let page = ann
        .page(PullRequest::new("notes", 10))
        .await
        .expect("a page");
    assert_eq!(ids(&page.rows), ["1"]);
    let damaged: Vec<_> = page
        .damaged
        .iter()
        .map(|row| {
            (
                row.id.as_ref().map(ToString::to_string),
                row.reason.as_str(),
            )
        })
        .collect();
    assert_eq!(damaged.len(), 3, "{damaged:?}");
    assert!(
        damaged.contains(&(Some("2".to_owned()), "its updated_at is not a time")),
        "{damaged:?}"
    );
    assert!(
        damaged.contains(&(Some("4".to_owned()), "it has no column deleted_at")),
        "{damaged:?}"
    );
}

#[tokio::test]
async fn a_200_that_is_no_list_of_rows_is_rejected() {
    let site = Site::start().await;
    for body in [
        "",
        "{}",
        "{\"message\":\"the pool is on fire\"}",
        "null",
        "[1]",
        "[{\"id\":\"1\"},{\"id\":\"2\"}]",
    ] {
        let ann = site.client("ann").await;
        site.fake.answer(200, body);
        let pushed = ann.push(&new("1", json!({}))).await;
        assert!(
            matches!(pushed, Pushed::Rejected { .. }),
            "{body}: {pushed:?}"
        );
        if !body.starts_with('[') {
            site.fake.answer(200, body);
            let error = ann
                .page(PullRequest::new("notes", 10))
                .await
                .expect_err(body);
            assert_eq!(error.kind, RemoteErrorKind::Rejected, "{body}: {error}");
            site.fake.answer(200, body);
            assert_eq!(
                ann.fetch("1").await.expect_err(body).kind,
                RemoteErrorKind::Rejected
            );
        }
    }
    assert_eq!(site.fake.row("1"), None);
}

#[tokio::test]
async fn overload_is_tried_again() {
    let site = Site::start().await;
    for status in [429, 500, 503, 504] {
        let ann = site.client("ann").await;
        site.fake.answer(status, "{\"code\":\"PGRST003\",\"message\":\"Timed out acquiring connection from connection pool.\"}");
        let error = ann
            .page(PullRequest::new("notes", 10))
            .await
            .expect_err("no page");
        assert_eq!(
            error.kind,
            RemoteErrorKind::Retry { after: None },
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_same_change_is_the_same_request() {
    let site = Site::start().await;
    let ann = site.client("ann").await;
    let version = Some(Version::from("2026-01-01T00:00:00.1+00:00"));
    let change = on(
        &version,
        change(
            "a&b",
            Operation::Patch,
            json!({"z": 1, "rev": 2, "deleted_at": "x"}),
        ),
    );
    let (one, two) = (ann.remote.request(&change), ann.remote.request(&change));
    let (one, two) = (one.expect("a request"), two.expect("a request"));
    assert_eq!(
        (&one.method, &one.path, &one.headers, &one.body),
        (&two.method, &two.path, &two.headers, &two.body)
    );
    let want =
        "/notes?id=eq.a%26b&updated_at=eq.2026-01-01T00%3A00%3A00.1%2B00%3A00&deleted_at=is.null";
    assert_eq!(one.path, want);
    assert_eq!(one.body, "{\"rev\":2,\"z\":1}");
}
