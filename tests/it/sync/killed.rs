//! kill -9 during an initial sync, on a real file: rows and checkpoint share a transaction, so no page is lost and none comes
//! twice.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use syncvault::rusqlite::{Connection, TransactionBehavior};
use syncvault::sync::{
    Applied, Checkpoint, CheckpointKey, CheckpointStore, Cursor, Feature, InitialSync, Page,
    ServerItem, SqliteCheckpoints, StepError, SyncOrchestrator,
};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Where a child of this binary finds its database.
const CHILD: &str = "SYNCVAULT_SYNC_CHILD";

const ROWS: u64 = 3000;
const BATCH: u64 = 10;

/// Row after row, numbered. A row that comes twice breaks the primary key.
struct Numbers(Mutex<Connection>);

fn database(path: &Path) -> Connection {
    let database = Connection::open(path).expect("a database");
    database
        .busy_timeout(Duration::from_secs(30))
        .expect("patience");
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY)",
        )
        .expect("a table");
    database
}

impl InitialSync for Numbers {
    type Item = ();

    async fn fetch_page(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<()>, StepError> {
        let start: u64 = cursor.map_or(Ok(0), |cursor| cursor.as_str().parse())?;
        let end = start + u64::try_from(batch_size)?;
        let items = (start..end)
            .map(|n| ServerItem::new(n.to_string(), ()))
            .collect();
        Ok(match end < ROWS {
            true => Page::more(items, end.to_string()),
            false => Page::last(items).resume_at(end.to_string()),
        })
    }

    async fn save(&self, page: &Page<()>, checkpoint: &Checkpoint) -> Result<Applied, StepError> {
        let mut database = self.0.lock().expect("whole");
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for item in &page.items {
            transaction
                .execute("INSERT INTO rows (number) VALUES (?1)", [item.id.as_str()])
                .map_err(StepError::permanent)?;
        }
        SqliteCheckpoints::save_in(&transaction, checkpoint)?;
        transaction.commit()?;
        Ok(Applied::cleanly())
    }
}

/// Not a test: the app that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_when_told_to() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let path = Path::new(&path);
    let checkpoints = SqliteCheckpoints::open(path).expect("checkpoints");
    let sync = SyncOrchestrator::builder()
        .user("ann")
        .checkpoints(checkpoints)
        .batch_size(usize::try_from(BATCH).expect("small"))
        .initial(Feature::new("numbers", Numbers(Mutex::new(database(path)))))
        .build()
        .expect("built");
    writeln!(std::io::stdout(), "\nopen").expect("the parent listens");
    let report = sync.run().await.expect("run");
    assert!(report.is_success(), "{report:?}");
    writeln!(std::io::stdout(), "\ndone").expect("the parent listens");
}

async fn child(path: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "sync::killed::syncs_when_told_to", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    while lines.next_line().await.expect("text").expect("it lives") != "open" {}
    (child, lines)
}

fn count(database: &Connection) -> u64 {
    let count = database.query_row("SELECT count(*) FROM rows", [], |row| row.get(0));
    count.expect("a count")
}

/// Goal: no kill comes between a page and its checkpoint. Method: kill the app again and again a little after it started; each
/// time the checkpoint speaks of exactly the rows that are there. In the end all are, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_leaves_a_page_and_its_checkpoint_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.db");
    let database = database(&path);
    let checkpoints = SqliteCheckpoints::open(&path).expect("checkpoints");
    let key = CheckpointKey::new("ann", "numbers");
    let mut seen = Vec::new();
    for life in 0..12 {
        let (mut child, _lines) = child(&path).await;
        tokio::time::sleep(Duration::from_millis(3 * life)).await;
        child.kill().await.expect("killed");
        let kept = checkpoints.load(&key).await.expect("a sound checkpoint");
        let claimed = kept.as_ref().map_or(0, |kept| kept.pages * BATCH);
        let rows = count(&database);
        assert_eq!(rows, claimed, "life {life}");
        seen.push(rows);
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen[0] < ROWS, "the first kill came too late: {seen:?}");
    let (mut child, mut lines) = child(&path).await;
    while lines
        .next_line()
        .await
        .expect("text")
        .expect("it ends well")
        != "done"
    {}
    child.wait().await.expect("ended");
    let kept = checkpoints
        .load(&key)
        .await
        .expect("a checkpoint")
        .expect("there is one");
    assert!(kept.initial_done.is_some());
    assert_eq!(count(&database), ROWS);
}
