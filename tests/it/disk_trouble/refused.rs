//! Directories that a vault must not use: it says so, and what is in them stays.

use std::os::unix::fs::chown;
use std::process::Command;

use syncvault::ErrorKind;

use super::*;
use crate::crash::report;

/// A user that nobody is.
const NOBODY: u32 = 65_534;

fn remount(mount: &Path, how: &str) {
    let mut command = Command::new("mount");
    command.args(["-o", &format!("remount,{how}")]).arg(mount);
    assert!(command.status().expect("mount").success());
}

async fn open(kind: Kind, dir: &Path) -> Result<SyncVault> {
    vault(kind, dir, "http://127.0.0.1:1", Draining::OnRequest).await
}

async fn close(vault: SyncVault) {
    let closed = vault.shutdown(Duration::from_secs(5)).await;
    closed.expect("closed");
}

/// Opens it in vain, and then again when the trouble is over: the three actions are there.
async fn is_refused(kind: Kind, dir: &Path, want: ErrorKind, word: &str, end: impl FnOnce()) {
    let error = open(kind, dir).await.expect_err("refused");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let text = format!("{error}: {}", source.unwrap_or_default()).to_lowercase();
    assert_eq!(error.kind(), want, "{kind:?}: {text}");
    assert!(text.contains(word), "{kind:?}: {text}");
    report(&format!("{kind:?}: {text}"));
    end();
    let vault = open(kind, dir).await.expect("it opens again");
    assert_eq!(vault.pending_count().await.expect("a count"), 3, "{kind:?}");
    close(vault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/disk_trouble/run"]
async fn a_directory_that_is_read_only_or_of_somebody_else_is_refused() {
    let Some(mounts) = from_script("MOUNTS") else {
        return;
    };
    let mount = mounts.join("refused");
    for kind in KINDS {
        let dir = mount.join(format!("{kind:?}"));
        let vault = open(kind, &dir).await.expect("it opens");
        for n in 0..3 {
            let place = place(n, 1, 0, 3000);
            enqueue(&vault, &place).await.expect("queued");
        }
        close(vault).await;
        remount(&mount, "ro");
        let storage = ErrorKind::Storage;
        is_refused(kind, &dir, storage, "read-only", || remount(&mount, "rw")).await;
        chown(&dir, Some(NOBODY), None).expect("given away");
        let back = || chown(&dir, Some(0), None).expect("taken back");
        is_refused(
            kind,
            &dir,
            ErrorKind::Invalid,
            "belongs to user 65534",
            back,
        )
        .await;
    }
}
