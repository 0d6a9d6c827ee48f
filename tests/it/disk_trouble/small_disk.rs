//! A disk that fills up: refuse, drain, open again, and take more when there is room.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use syncvault::ErrorKind;

use super::*;
use crate::chaos_server::ChaosServer;
use crate::crash::history::{History, Line, Witness};
use crate::crash::report;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/disk_trouble/run"]
async fn a_full_disk_refuses_and_drains_and_opens() {
    let Some(mounts) = from_script("MOUNTS") else {
        return;
    };
    report(
        "store               acked  refused  drained-full  reopened-full  again  lost  findings",
    );
    let mut findings = Vec::new();
    // fjall makes its journals 64 MiB long ahead, and keeps no ballast.
    for story in &STORIES {
        let mount = mounts.join(format!("{:?}", story.kind).to_lowercase());
        for is_sealed in [false, true] {
            resize(&mount, story.disk[0]);
            let mut disk = Disk::new(story, is_sealed, mount.clone()).await;
            findings.extend(disk.run().await);
            std::fs::remove_dir_all(mount.join("vault")).expect("the vault goes");
        }
    }
    assert!(findings.is_empty(), "{findings:#?}");
}

/// A store, bodies, and how large the disk is: at first, before it is filled again, and in the end.
struct Story {
    kind: Kind,
    name: &'static str,
    bodies: [usize; 4],
    disk: [&'static str; 3],
}

const STORIES: [Story; 3] = [
    Story {
        kind: Kind::Sqlite,
        name: "sqlite",
        bodies: [40, 700, 3000, 20_000],
        // What was drained is room.
        disk: ["3m", "3m", "3m"],
    },
    Story {
        kind: Kind::Sqlite,
        name: "sqlite-small",
        // Next to nothing becomes free when they end, and what is kept of them takes room.
        bodies: [0, 1, 40, 40],
        disk: ["3m", "6m", "12m"],
    },
    Story {
        kind: Kind::Sled,
        name: "sled",
        bodies: [40, 700, 3000, 20_000],
        // sled uses room again, and does not give it back.
        disk: ["96m", "96m", "128m"],
    },
];

struct Disk {
    story: &'static Story,
    is_sealed: bool,
    mount: PathBuf,
    server: ChaosServer,
    history: History,
    made: u32,
}

impl Disk {
    async fn new(story: &'static Story, is_sealed: bool, mount: PathBuf) -> Self {
        let server = ChaosServer::start().await;
        server.keep_digests();
        Self {
            story,
            is_sealed,
            mount,
            server,
            history: History::default(),
            made: 0,
        }
    }

    async fn open(&self) -> SyncVault {
        let (dir, url) = (self.mount.join("vault"), self.server.url());
        let opened = match self.is_sealed {
            true => sealed(self.story.kind, &dir, &url, Draining::OnRequest).await,
            false => vault(self.story.kind, &dir, &url, Draining::OnRequest).await,
        };
        opened.expect("it opens")
    }

    async fn run(&mut self) -> Vec<String> {
        let vault = self.open().await;
        let refused = self.until_refused(&vault).await;
        fill(&self.mount);
        let acked = self.history.acked.len();
        self.make(&vault).await.expect_err("nothing is added");
        let drained = drain(&vault).await;
        assert_eq!(vault.pending_count().await.expect("a count"), 0);

        empty(&self.mount);
        resize(&self.mount, self.story.disk[1]);
        self.until_refused(&vault).await;
        vault
            .shutdown(Duration::from_secs(5))
            .await
            .expect("closed");
        fill(&self.mount);
        let vault = self.open().await;
        let reopened = drain(&vault).await;
        assert_eq!(vault.pending_count().await.expect("a count"), 0);

        empty(&self.mount);
        resize(&self.mount, self.story.disk[2]);
        let before = self.history.acked.len();
        for _ in 0..20 {
            self.make(&vault).await.expect("there is room again");
        }
        drain(&vault).await;
        vault
            .shutdown(Duration::from_secs(5))
            .await
            .expect("closed");
        let again = self.history.acked.len() - before;
        let witness = Witness::new(
            &self.server.received(),
            &self.server.effects(),
            &self.server.violations(),
        );
        let lost = self.history.acked.difference(&witness.done).count();
        let findings = self.history.judge(&witness);
        let seal = if self.is_sealed { "-sealed" } else { "" };
        let name = format!("{}{seal}", self.story.name);
        report(&format!(
            "{name:<19} {acked:>5} {refused:>8} {drained:>13} {reopened:>14} {again:>6} {lost:>5} {:>9}",
            findings.len()
        ));
        findings
    }

    async fn make(&mut self, vault: &SyncVault) -> Result<()> {
        self.made += 1;
        let bytes = self.story.bodies[self.made as usize % 4];
        let place = place(self.made % 3, 1, self.made, bytes);
        let name = place.to_string();
        self.history.hear(&Line::Try(name.clone()));
        enqueue(vault, &place).await?;
        self.history.hear(&Line::Kept(name));
        Ok(())
    }

    /// Small actions may still fit where a large one did not: twelve refusals in a row.
    async fn until_refused(&mut self, vault: &SyncVault) -> u32 {
        let (mut refused, mut in_a_row) = (0, 0);
        while in_a_row < 12 {
            match self.make(vault).await {
                Ok(()) => in_a_row = 0,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                    refused += 1;
                    in_a_row += 1;
                    // What the vault does not use, somebody else does.
                    if refused == 1 {
                        fill(&self.mount);
                    }
                }
            }
        }
        refused
    }
}

/// A pass that meets a full disk once is made again: the vault made room meanwhile.
async fn drain(vault: &SyncVault) -> u64 {
    let mut delivered = 0;
    for _ in 0..5 {
        match vault.process_queue().await {
            Ok(report) => delivered += report.delivered,
            Err(error) => assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}"),
        }
        if vault.pending_count().await.expect("a count") == 0 {
            break;
        }
    }
    delivered
}

/// Somebody else takes what is left of the disk.
fn fill(mount: &Path) {
    let path = mount.join(format!("filler-{:08x}", rand_name()));
    let mut file = File::create(path).expect("a file");
    let block = [7; 4096];
    while file.write_all(&block).is_ok() {}
}

fn rand_name() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

fn resize(mount: &Path, size: &str) {
    let mut command = std::process::Command::new("mount");
    command.args(["-o", &format!("remount,size={size}")]);
    assert!(command.arg(mount).status().expect("mount").success());
}

fn empty(mount: &Path) {
    for entry in std::fs::read_dir(mount).expect("a list") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::remove_file(path).expect("removed");
        }
    }
}
