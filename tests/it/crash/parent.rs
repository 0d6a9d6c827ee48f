//! The process that outlives its child: starts it, hears its lines, kills it.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::child::{Job, command};
use super::history::{History, Holdings, Line};

/// How long a child may take to open its vault, and how long to end its task.
const OPEN_MAX: Duration = Duration::from_secs(60);
const TASK_MAX: Duration = Duration::from_secs(60);

/// A child, and what it says.
pub(crate) struct Parent {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it says on standard error, for when it fails.
    groans: JoinHandle<String>,
}

impl Parent {
    pub(crate) fn start(job: &Job) -> Self {
        Self::of(command(job))
    }

    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("a child");
        let out = child.stdout.take().expect("a pipe");
        let mut err = child.stderr.take().expect("a pipe");
        let groans = tokio::spawn(async move {
            let mut text = String::new();
            err.read_to_string(&mut text).await.expect("text");
            text
        });
        Self {
            child,
            lines: BufReader::new(out).lines(),
            groans,
        }
    }

    /// The next line of a child's own; what the test harness around it says is passed over.
    pub(crate) async fn hear(&mut self, history: &mut History) -> Option<Line> {
        while let Some(text) = self.lines.next_line().await.expect("text") {
            // The harness does not end its last words with a new line.
            let at = text.find("{\"").unwrap_or(text.len());
            if let Ok(line) = serde_json::from_str(&text[at..]) {
                history.hear(&line);
                return Some(line);
            }
        }
        None
    }

    pub(crate) async fn listen_until_open(&mut self, history: &mut History) {
        let deadline = Instant::now() + OPEN_MAX;
        match timeout_at(deadline, self.hear(history)).await {
            Ok(Some(Line::Open(_))) => {}
            Ok(_) => self.fail("it did not open its vault").await,
            Err(_) => self.fail("it takes too long to open its vault").await,
        }
    }

    pub(crate) async fn listen_for(&mut self, time: Duration, history: &mut History) {
        let deadline = Instant::now() + time;
        while let Ok(line) = timeout_at(deadline, self.hear(history)).await {
            if line.is_none() {
                self.fail("it ended by itself").await;
            }
        }
    }

    /// SIGKILL, and whatever it still said.
    pub(crate) async fn kill(mut self, history: &mut History) {
        if let Some(status) = self.child.try_wait().expect("a status") {
            self.fail(&format!("it ended by itself: {status}")).await;
        }
        self.kill_dead_or_alive(history).await;
    }

    /// SIGSTOP: from here on it does nothing and says nothing, as a machine without power does. A call of the system that
    /// it is in ends, but never returns to it.
    pub(crate) async fn freeze(&self) {
        let pid = self.child.id().expect("it lives").to_string();
        let stopped = Command::new("kill").args(["-STOP", &pid]).status().await;
        assert!(stopped.expect("kill").success(), "it cannot be stopped");
        let tasks = format!("/proc/{pid}/task");
        let is_running = || {
            let tasks = std::fs::read_dir(&tasks).expect("its threads");
            tasks.flatten().any(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat"));
                stat.is_ok_and(|stat| stat.contains(") R ") || stat.contains(") S "))
            })
        };
        while is_running() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// SIGKILL, also for a child that may have ended by itself because its disk is gone.
    pub(crate) async fn kill_dead_or_alive(mut self, history: &mut History) {
        self.child.start_kill().expect("killed");
        while self.hear(history).await.is_some() {}
        self.child.wait().await.expect("its end");
    }

    /// Waits for a child that may have failed.
    #[cfg(all(feature = "sled", feature = "sqlite"))]
    pub(crate) async fn wait_dead_or_alive(mut self) {
        self.child.wait().await.expect("its end");
    }

    pub(crate) async fn wait_for_end(mut self) {
        let status = self.child.wait().await.expect("its end");
        assert!(status.success(), "a child ended with {status}");
    }

    /// Hears a child to the end of its task. What it holds then.
    pub(crate) async fn listen_to_end(mut self, history: &mut History) -> Holdings {
        let deadline = Instant::now() + TASK_MAX;
        let mut left = None;
        loop {
            match timeout_at(deadline, self.hear(history)).await {
                Ok(Some(Line::Done(holdings))) => left = Some(holdings),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => self.fail("it takes too long").await,
            }
        }
        let is_well = self.child.wait().await.expect("its end").success();
        match left {
            Some(left) if is_well => left,
            _ => self.fail("it failed").await,
        }
    }

    async fn fail(&mut self, why: &str) -> ! {
        self.child.start_kill().expect("killed");
        let groans = (&mut self.groans).await.unwrap_or_default();
        panic!("a child failed: {why}\n{groans}");
    }
}
