//! A body that rots on the disk: found, never sent as a whole, and named.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use syncvault::{ConnectivityMode, DeadReason, End, ErrorKind, SyncVault, Ticket};

use super::{App, noise, soon};

const LARGE: usize = 1024 * 1024 + 300_000;

async fn queued(app: &App, bytes: usize) -> (SyncVault, Ticket) {
    let vault = app.quiet_vault().await;
    let path = app.file("film", &noise(bytes));
    let ticket = vault.post("/films").body_file(&path).enqueue().await;
    (vault, ticket.expect("enqueue"))
}

fn flip(path: &Path, at: u64) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).expect("seek");
    file.read_exact(&mut byte).expect("read");
    file.seek(SeekFrom::Start(at)).expect("seek");
    file.write_all(&[byte[0] ^ 1]).expect("write");
}

/// Dies with a reason that says what it is about, and keeps its place in the ledger.
async fn dies(app: &App, vault: &SyncVault, ticket: &Ticket) {
    vault.set_connectivity(ConnectivityMode::Auto);
    let End::Dead(reason) = soon(ticket.wait()).await.expect("end") else {
        panic!("a damaged body was delivered")
    };
    assert!(matches!(reason, DeadReason::Unsendable { .. }), "{reason}");
    assert!(reason.to_string().contains("body"), "{reason}");
    assert_eq!(app.server.received().len(), 0);
    assert_eq!(app.server.effects().len(), 0);
    crate::story::assert_balanced(vault).await;
}

#[tokio::test]
async fn a_flipped_bit_is_found_before_the_last_byte() {
    for at in [0, LARGE as u64 / 2, LARGE as u64 - 1] {
        let app = App::start().await;
        let (vault, ticket) = queued(&app, LARGE).await;
        flip(&app.kept()[0], at);
        dies(&app, &vault, &ticket).await;
        assert_eq!(app.server.cut_requests(), 1, "at {at}");
    }
}

#[tokio::test]
async fn a_small_file_is_checked_before_its_first_byte() {
    let app = App::start().await;
    let (vault, ticket) = queued(&app, 20_000).await;
    flip(&app.kept()[0], 7);
    dies(&app, &vault, &ticket).await;
    assert_eq!(app.server.connections(), 0);
}

#[tokio::test]
async fn a_file_that_is_gone_or_cut_is_not_sent_at_all() {
    for left in [None, Some(LARGE as u64 - 1), Some(LARGE as u64 + 1)] {
        let app = App::start().await;
        let (vault, ticket) = queued(&app, LARGE).await;
        let path = &app.kept()[0];
        match left {
            None => std::fs::remove_file(path).expect("remove"),
            Some(bytes) => {
                let file = std::fs::OpenOptions::new().write(true).open(path);
                file.expect("open").set_len(bytes).expect("cut");
            }
        }
        dies(&app, &vault, &ticket).await;
        assert_eq!(app.server.connections(), 0);
    }
}

/// A vault whose directory of bodies is lost acknowledges nothing more, and says what to do.
#[tokio::test]
async fn a_failed_sync_stops_the_vault() {
    let app = App::start().await;
    let vault = app.quiet_vault().await;
    let path = app.file("film", &noise(20_000));
    std::fs::remove_dir_all(app.dir.path().join("vault/bodies")).expect("remove");
    let error = vault.post("/films").body_file(&path).enqueue().await;
    assert_eq!(error.expect_err("no directory").kind(), ErrorKind::Storage);
    // That was a file that could not be made: an error of that call. What is small still goes.
    let small = vault.post("/films").body("small").enqueue().await;
    small.expect("the store is fine");
}
