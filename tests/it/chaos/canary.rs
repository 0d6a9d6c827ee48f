//! A secret is shown to the server and to nobody else: not to the disk, the log, the events, or `{:?}`.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use syncvault::reqwest::header::HeaderValue;
use syncvault::transport::CredentialRequest;
use syncvault::{Paging, SyncVault, bearer};

use crate::chaos_server::{Behaviour, ChaosServer};
use crate::story::{bare_builder, soon};

const CANARY: &str = "c4n4ry";

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn text(&self) -> String {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Listens to everything that this thread logs from now on.
    pub(crate) fn listen(&self) -> (tracing::Dispatch, tracing::subscriber::DefaultGuard) {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        // With only one in the process, a thread that has none may decide for all that a line is of no interest.
        let second = tracing::Dispatch::new(tracing_subscriber::registry());
        (second, tracing::subscriber::set_default(subscriber))
    }
}

fn has_canary(bytes: &[u8]) -> bool {
    let canary = CANARY.as_bytes();
    bytes.windows(canary.len()).any(|window| window == canary)
}

/// Files below `dir` that hold the canary, and how many were read.
fn search(dir: &Path) -> (Vec<String>, usize) {
    let (mut found, mut read) = (Vec::new(), 0);
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            let (more, files) = search(&path);
            found.extend(more);
            read += files;
        } else if has_canary(&std::fs::read(&path).expect("a file")) {
            found.push(path.display().to_string());
        } else {
            read += 1;
        }
    }
    (found, read)
}

/// Goal: no secret that a request or a provider brings is found anywhere afterwards. Method: all secrets hold one word;
/// queued, direct, refused and retried requests carry them, and then every byte that is left is searched for it.
#[cfg(feature = "sled")]
#[tokio::test]
async fn a_secret_is_found_nowhere_but_on_the_wire() {
    let log = Log::default();
    let _listening = log.listen();
    let home = tempfile::tempdir().expect("a directory");
    let server = ChaosServer::start().await;
    let vault = bare_builder(&server)
        .storage_path(home.path())
        .credentials(|request: CredentialRequest| async move {
            let generation = format!("{:?}", request.refresh);
            bearer(format!("{CANARY}-{generation}"))
        })
        .build()
        .await
        .expect("vault");
    let mut events = vault.events();
    let mut shown = call_all(&vault, &server).await;
    soon(vault.wait_idle()).await.expect("idle");
    shown.push(show(&vault).await);
    soon(vault.shutdown(Duration::from_secs(5)))
        .await
        .expect("shutdown");
    while let Some(event) = soon(events.next()).await {
        shown.push(serde_json::to_string(&event).expect("json"));
        shown.push(format!("{event:?}"));
    }
    assert!(server.saw(&format!("Bearer {CANARY}-No")), "on the wire");
    assert!(server.saw(&format!("Bearer {CANARY}-Yes")), "refreshed");
    let leaks: Vec<_> = shown
        .iter()
        .filter(|text| has_canary(text.as_bytes()))
        .collect();
    assert!(leaks.is_empty(), "shown: {leaks:#?}");
    let (files, read) = search(home.path());
    assert!(files.is_empty() && read > 2, "on disk: {files:?} of {read}");
    let text = log.text();
    assert!(text.contains("attempt judged"), "the log was not heard");
    let lines: Vec<_> = text
        .lines()
        .filter(|line| has_canary(line.as_bytes()))
        .collect();
    assert!(lines.is_empty(), "logged: {lines:#?}");
}

/// Every way to carry a secret, and every way to fail with it. Returns what the public types show of themselves.
async fn call_all(vault: &SyncVault, server: &ChaosServer) -> Vec<String> {
    let mut secret = HeaderValue::from_str(&format!("{CANARY}-key")).expect("a value");
    secret.set_sensitive(true);
    let request = |path: &str| {
        vault
            .post(path)
            .header("authorization", format!("Bearer {CANARY}-own"))
            .header("proxy-authorization", format!("Basic {CANARY}-proxy"))
            .header("cookie", format!("session={CANARY}-cookie"))
            .header("x-api-key", secret.clone())
            .body(vec![7; 20_000])
    };
    let mut shown = vec![format!("{:?}", request("/orders"))];
    for behaviour in [
        Behaviour::status(401),
        Behaviour::status(500),
        Behaviour::drop_answer(),
        Behaviour::garbage("SMTP ready\r\n\r\n"),
        Behaviour::status(200).header("set-cookie", &format!("s={CANARY}-set")),
        Behaviour::status(422),
    ] {
        server.next(behaviour.clone()).next_on("/queued", behaviour);
        let outcome = soon(request("/orders").send()).await;
        shown
            .push(format!("{outcome:?}").replace(&format!("{CANARY}-set"), "the app's own answer"));
        let ticket = request("/queued").lane("q").enqueue().await;
        let end = soon(ticket.as_ref().expect("ticket").wait()).await;
        shown.push(format!("{ticket:?} {end:?}"));
    }
    server.down().await;
    let outcome = soon(request("/orders").send()).await;
    shown.push(format!("{outcome:?}"));
    let never = request("/orders")
        .lane("n")
        .delivery(syncvault::Delivery::Never);
    let outcome = soon(never.send()).await;
    shown.push(format!("{outcome:?}"));
    let pending = vault.pending_actions(Paging::default()).await;
    shown.push(format!("{pending:?}"));
    server.up().await;
    shown
}

async fn show(vault: &SyncVault) -> String {
    let letters = vault.dead_letters();
    let listed = letters.list(Paging::default()).await;
    assert!(!listed.as_ref().expect("letters").items.is_empty());
    format!("{vault:?} {letters:?} {listed:?} {:?}", vault.status())
}
