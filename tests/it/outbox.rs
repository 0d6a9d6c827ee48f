//! The outbox: the app's row and its request are there together or not at all, whatever ends the transaction.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use syncvault::connectivity::AlwaysReachable;
use syncvault::rusqlite::{Connection, Transaction, TransactionBehavior};
use syncvault::store::{MemoryStore, SqliteOptions, SqliteStore};
use syncvault::{Draining, Error, ErrorKind, RequestBuilder, SyncVault, SyncVaultBuilder, Ticket};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::chaos_server::ChaosServer;

/// An app with a database of its own, and a vault on it.
struct App {
    dir: TempDir,
    server: ChaosServer,
    vault: SyncVault,
    database: Connection,
}

fn database(path: &Path) -> Connection {
    let database = Connection::open(path).expect("a database");
    database
        .busy_timeout(Duration::from_secs(30))
        .expect("patience");
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS rows (name TEXT PRIMARY KEY)",
        )
        .expect("a table of the app");
    SqliteStore::attach(&database).expect("the tables of the outbox");
    database
}

/// How an app has its vault.
#[derive(Clone, Copy, Debug)]
struct Way {
    draining: Draining,
    poll: Duration,
    is_sealed: bool,
}

impl Way {
    fn new(draining: Draining, poll: Duration) -> Self {
        Self {
            draining,
            poll,
            is_sealed: false,
        }
    }

    /// It drains only when told to, and never polls in a test's time.
    fn on_request() -> Self {
        Self::new(Draining::OnRequest, Duration::from_secs(3600))
    }

    fn sealed(mut self) -> Self {
        self.is_sealed = true;
        self
    }

    fn builder(self, url: &str) -> SyncVaultBuilder {
        let builder = SyncVault::builder(url).all_principals();
        #[cfg(feature = "encrypt")]
        if self.is_sealed {
            return builder.encryption(syncvault::store::crypt::Key::new([7; 32]));
        }
        builder
    }
}

async fn vault(url: &str, database: &Path, way: Way) -> SyncVault {
    let mut options = SqliteOptions::default();
    options.poll = way.poll;
    let built = way
        .builder(url)
        .store(SqliteStore::outbox_with(database, options).expect("the store"))
        .connectivity(AlwaysReachable::new())
        .draining(way.draining)
        .pending_max(5)
        .build();
    built.await.expect("a vault")
}

impl App {
    async fn new(way: Way) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("app.db");
        let (server, database) = (ChaosServer::start().await, database(&path));
        let vault = vault(&server.url(), &path, way).await;
        Self {
            dir,
            server,
            vault,
            database,
        }
    }

    async fn on_request() -> Self {
        Self::new(Way::on_request()).await
    }

    fn begin(&mut self) -> Transaction<'_> {
        begin(&mut self.database)
    }

    /// One row and one request, committed.
    fn save(&mut self, name: &str) -> Ticket {
        let request = self.vault.post(name);
        let transaction = self.begin();
        let ticket = save_in(&transaction, name, request).expect("queued");
        transaction.commit().expect("committed");
        ticket
    }

    fn rows(&self) -> BTreeSet<String> {
        rows(&self.database)
    }

    fn done(&self) -> Vec<String> {
        let effects = self.server.effects().into_iter();
        effects.map(|effect| effect.path).collect()
    }
}

fn begin(database: &mut Connection) -> Transaction<'_> {
    database
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .expect("a transaction")
}

fn save_in(
    transaction: &Transaction<'_>,
    name: &str,
    request: RequestBuilder,
) -> Result<Ticket, Error> {
    transaction
        .execute("INSERT INTO rows VALUES (?1)", [name])
        .expect("a row");
    request.enqueue_in(transaction)
}

fn rows(database: &Connection) -> BTreeSet<String> {
    let mut statement = database.prepare("SELECT name FROM rows").expect("rows");
    let names = statement.query_map([], |row| row.get(0)).expect("rows");
    names.map(|name| name.expect("a name")).collect()
}

#[tokio::test]
async fn a_commit_queues_and_a_rollback_leaves_nothing() {
    let mut app = App::on_request().await;
    let ticket = app.save("/1");
    let request = app.vault.post("/2").idempotency_key("two");
    let transaction = app.begin();
    let lost = save_in(&transaction, "/2", request).expect("queued");
    transaction.rollback().expect("rolled back");

    let report = app.vault.process_queue().await.expect("drained");
    assert_eq!((report.delivered, report.remaining), (1, 0));
    assert_eq!(app.done(), ["/1"]);
    assert_eq!(app.rows().len(), 1);
    assert!(ticket.end().await.expect("known").is_some());
    assert_eq!(
        lost.end().await.expect_err("never was").kind(),
        ErrorKind::NotFound
    );
    let ledger = app.vault.ledger().await.expect("ledger");
    assert!(ledger.is_balanced() && ledger.enqueued == 1, "{ledger:?}");
    // Nothing of it holds its key.
    app.vault
        .post("/other")
        .idempotency_key("two")
        .enqueue()
        .await
        .expect("a free key");
}

#[tokio::test]
async fn a_worker_that_is_told_sends_at_once() {
    let mut app = App::new(Way::new(Draining::Background, Duration::from_secs(3600))).await;
    let ticket = app.save("/1");
    app.vault.notify_committed();
    ticket.wait().await.expect("delivered");
    assert_eq!(app.done(), ["/1"]);
}

#[tokio::test]
async fn a_worker_that_is_not_told_finds_it_by_itself() {
    let mut app = App::new(Way::new(Draining::Background, Duration::from_millis(20))).await;
    app.save("/1");
    app.server.wait_effects(1).await;
    // Idle again, and then once more.
    app.vault.wait_idle().await.expect("idle");
    app.save("/2");
    app.server.wait_effects(2).await;
}

#[tokio::test]
async fn both_ways_into_a_lane_keep_one_order() {
    let mut app = App::on_request().await;
    app.save("/1");
    app.vault.post("/2").enqueue().await.expect("queued");
    app.save("/3");
    let request = app.vault.post("/5").body(vec![7; 300_000]);
    let fourth = app.vault.post("/4");
    let transaction = app.begin();
    save_in(&transaction, "/4", fourth).expect("queued");
    save_in(&transaction, "/5", request).expect("queued");
    transaction.commit().expect("committed");
    let report = app.vault.process_queue().await.expect("drained");
    assert_eq!(report.delivered, 5);
    assert_eq!(app.done(), ["/1", "/2", "/3", "/4", "/5"]);
    assert_eq!(app.server.received()[4].body, vec![7; 300_000]);
}

#[tokio::test]
async fn what_enqueue_refuses_is_refused_and_the_transaction_goes_on() {
    let mut app = App::on_request().await;
    let first = app
        .vault
        .post("/1")
        .idempotency_key("k")
        .enqueue()
        .await
        .expect("queued");
    let same = app.vault.post("/1").idempotency_key("k");
    let other = app.vault.post("/x").idempotency_key("k");
    let secret = app.vault.post("/x").header("authorization", "Bearer x");
    let many: Vec<_> = (2..=6).map(|n| app.vault.post(format!("/{n}"))).collect();

    let transaction = app.begin();
    let kind = |refused: Result<Ticket, Error>| refused.expect_err("refused").kind();
    let known = same.enqueue_in(&transaction).expect("known");
    assert_eq!(known.id(), first.id());
    let conflict = other.enqueue_in(&transaction);
    assert_eq!(kind(conflict), ErrorKind::IdempotencyConflict);
    let credentials = secret.enqueue_in(&transaction);
    assert_eq!(kind(credentials), ErrorKind::CredentialsInRequest);
    let mut tried: Vec<_> = many
        .into_iter()
        .map(|request| request.enqueue_in(&transaction))
        .collect();
    assert_eq!(kind(tried.pop().expect("the sixth")), ErrorKind::Full);
    for queued in tried {
        queued.expect("queued");
    }
    transaction.commit().expect("committed");
    let report = app.vault.process_queue().await.expect("drained");
    assert_eq!((report.delivered, report.remaining), (5, 0));
}

#[tokio::test]
async fn a_transaction_on_another_database_is_refused() {
    let mut app = App::on_request().await;
    let mut elsewhere = database(&app.dir.path().join("elsewhere.db"));
    let mut nowhere = Connection::open_in_memory().expect("a database");
    for other in [&mut elsewhere, &mut nowhere] {
        let transaction = begin(other);
        let refused = app.vault.post("/1").enqueue_in(&transaction);
        assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Invalid);
    }
    let vault = SyncVault::builder(app.server.url())
        .store(MemoryStore::new())
        .build()
        .await
        .expect("a vault");
    let transaction = app.begin();
    let refused = vault.post("/1").enqueue_in(&transaction);
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Unsupported);
}

/// Where a child of this binary finds its database and the server.
const CHILD: &str = "SYNCVAULT_OUTBOX_CHILD";

/// Not a test: the app that is killed. It saves rows with their requests, and rolls back each fifth, until it dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saves_rows_when_told_to() {
    let Ok(job) = std::env::var(CHILD) else {
        return;
    };
    let mut job = job.splitn(3, ' ');
    let mut next = || job.next().expect("a job");
    let (url, is_sealed, path) = (next(), next() == "true", Path::new(next()));
    let mut way = Way::new(Draining::Background, Duration::from_millis(10));
    way.is_sealed = is_sealed;
    let mut database = database(path);
    let vault = vault(url, path, way).await;
    writeln!(std::io::stdout(), "\nopen").expect("the parent listens");
    for n in 0.. {
        while vault.status().counts().pending >= 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let name = format!("/{}/{n}", std::process::id());
        // A sealed vault gets a new key in the transaction now and then.
        let user = format!("user {}", n / 7);
        let request = vault.post(&name).principal(user).body(vec![1; n % 20_000]);
        let transaction = begin(&mut database);
        match save_in(&transaction, &name, request) {
            Ok(_) if n % 5 == 4 => transaction.rollback().expect("rolled back"),
            Ok(_) => transaction.commit().expect("committed"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Full, "{error:?}"),
        }
        vault.notify_committed();
    }
}

/// Goal: no kill comes between the row and its request. Method: kill the app again and again at random moments; in the end
/// the rows are what the server did, neither more nor less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_leaves_a_row_and_its_request_together() {
    kill_9(Way::new(Draining::Background, Duration::from_millis(10))).await;
}

#[cfg(feature = "encrypt")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_leaves_a_row_and_its_sealed_request_together() {
    kill_9(Way::new(Draining::Background, Duration::from_millis(10)).sealed()).await;
}

async fn kill_9(way: Way) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.db");
    let server = ChaosServer::start().await;
    server.keep_digests();
    for life in 0..20 {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "outbox::saves_rows_when_told_to", "--nocapture"])
            .env(
                CHILD,
                format!("{} {} {}", server.url(), way.is_sealed, path.display()),
            )
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        while lines.next_line().await.expect("text").expect("it lives") != "open" {}
        tokio::time::sleep(Duration::from_millis(3 * life)).await;
        child.kill().await.expect("killed");
    }
    let database = database(&path);
    let vault = vault(&server.url(), &path, way).await;
    vault.wait_idle().await.expect("idle");
    let done = server.effects().into_iter().map(|effect| effect.path);
    let done: BTreeSet<String> = done.collect();
    let rows = rows(&database);
    assert!(rows.len() > 20, "only {} rows", rows.len());
    assert_eq!(rows, done);
}

/// Goal: a request that cannot be kept leaves nothing in the transaction, which goes on. Method: a database that may not
/// grow, so that the body fails when the rest is written already.
#[tokio::test]
async fn a_request_that_does_not_fit_leaves_the_transaction_as_it_was() {
    let mut app = App::on_request().await;
    let pages: u32 = app
        .database
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .expect("a size");
    app.database
        .execute_batch(&format!("PRAGMA max_page_count = {}", pages + 10))
        .expect("a limit");
    let large = app.vault.post("/large").body(vec![1; 1_000_000]);
    let small = app.vault.post("/small");
    let transaction = app.begin();
    let refused = save_in(&transaction, "/large", large).expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused:?}");
    save_in(&transaction, "/small", small).expect("queued");
    transaction.commit().expect("committed");
    let count =
        "SELECT (SELECT count(*) FROM syncvault_actions) + (SELECT count(*) FROM syncvault_bodies)";
    let left: u32 = app
        .database
        .query_row(count, [], |row| row.get(0))
        .expect("a count");
    assert_eq!((left, app.rows().len()), (2, 2));
    let report = app.vault.process_queue().await.expect("drained");
    assert_eq!((report.delivered, report.remaining), (1, 0));
}

/// Goal: what a transaction seals is read by everybody when it commits, and was never there when it does not. Method: a new
/// principal in each transaction, so that each changes the keyring too.
#[cfg(feature = "encrypt")]
#[tokio::test]
async fn a_sealed_request_commits_with_its_key_and_goes_back_with_it() {
    let mut app = App::new(Way::on_request().sealed()).await;
    app.vault.post("/0").enqueue().await.expect("queued");
    for (name, commits) in [("/1", true), ("/2", false), ("/3", true)] {
        let posts = ["first", "second"].map(|key| {
            let request = app.vault.post(name).principal(format!("user of {name}"));
            request.idempotency_key(format!("{name} {key}"))
        });
        let again = app.vault.post(name).principal(format!("user of {name}"));
        let again = again.idempotency_key(format!("{name} first"));
        let transaction = app.begin();
        let [first, second] = posts.map(|post| post.enqueue_in(&transaction).expect("queued"));
        let known = again.enqueue_in(&transaction).expect("known");
        assert_eq!(known.id(), first.id());
        assert_ne!(second.id(), first.id());
        match commits {
            true => transaction.commit().expect("committed"),
            false => transaction.rollback().expect("rolled back"),
        }
        let late = app.vault.post("/late").principal(format!("user of {name}"));
        late.enqueue().await.expect("queued");
        app.vault.process_queue().await.expect("drained");
    }
    let mut done = app.done();
    done.sort();
    let wanted = ["/0", "/1", "/1", "/3", "/3", "/late", "/late", "/late"];
    assert_eq!(done, wanted);
    let ledger = app.vault.ledger().await.expect("ledger");
    assert!(ledger.is_balanced() && ledger.evicted == 0, "{ledger:?}");
    for suffix in ["", "-wal"] {
        let path = app.dir.path().join(format!("app.db{suffix}"));
        let bytes = std::fs::read(path).expect("the database");
        assert!(!bytes.windows(7).any(|part| part == b"user of"));
    }
}

#[cfg(feature = "encrypt")]
#[tokio::test]
async fn a_vault_in_clear_adds_nothing_to_a_sealed_database() {
    let mut app = App::on_request().await;
    let way = Way::on_request().sealed();
    let sealed = vault(&app.server.url(), &app.dir.path().join("app.db"), way).await;
    let request = app.vault.post("/clear");
    let refused = app.vault.post("/clear").enqueue().await;
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::WrongKey);
    let transaction = app.begin();
    let refused = request.enqueue_in(&transaction);
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::WrongKey);
    transaction.commit().expect("committed");
    sealed.post("/sealed").enqueue().await.expect("queued");
    assert_eq!(sealed.ledger().await.expect("ledger").enqueued, 1);
}
