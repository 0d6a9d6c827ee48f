//! Golden vaults: what a version of this crate wrote is read by every later one. Each is in `tests/golden/<version>/`, a
//! vault's directory packed into one file.
//!
//! Before a release, those of the new version are made and committed:
//!
//! ```text
//! cargo test --all-features --test it golden_vaults_are_made -- --ignored
//! ```

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncvault::doctor::{Contents, examine, export};
use syncvault::store::Store;
use syncvault::store::crypt::{Key, Sealed};
use syncvault::{ErrorKind, SyncVault};

use crate::doctor::Kind;
use crate::filled::{NOW, fill, see};

/// The key of the sealed ones. It protects nothing.
const KEY: [u8; 32] = *b"the key of the golden vaults, 32";

const STORES: [(&str, Kind); 3] = [
    ("sled", Kind::Sled),
    ("sqlite", Kind::Sqlite),
    ("fjall", Kind::Fjall),
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn sealed(store: Arc<dyn Store>, is_sealed: bool) -> Arc<dyn Store> {
    match is_sealed {
        true => Arc::new(Sealed::new(store, Key::new(KEY))),
        false => store,
    }
}

fn name(store: &str, is_sealed: bool) -> String {
    let how = if is_sealed { "sealed" } else { "plain" };
    format!("{store}-{how}.zst")
}

/// Room for a full disk, filled with noise: it says nothing of the format, and would be most of what is packed. An open makes
/// it again.
const BALLAST: &str = "ballast";

/// One file after the other: length of its name, name, length, bytes.
fn pack(dir: &Path) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 19).expect("an encoder");
    for path in files(dir) {
        if path == dir.join(BALLAST) {
            continue;
        }
        let name = path.strip_prefix(dir).expect("below").display().to_string();
        let bytes = fs::read(&path).expect("read");
        for part in [name.replace('\\', "/").as_bytes(), &bytes] {
            let length = (part.len() as u64).to_le_bytes();
            out.write_all(&length).expect("pack");
            out.write_all(part).expect("pack");
        }
    }
    out.finish().expect("pack")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("list");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    let below = |path: PathBuf| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    };
    paths.into_iter().flat_map(below).collect()
}

fn unpack(packed: &Path, dir: &Path) {
    let packed = fs::File::open(packed).expect("a golden vault");
    let mut packed = zstd::Decoder::new(packed).expect("a decoder");
    while let Some(name) = part(&mut packed) {
        let bytes = part(&mut packed).expect("a file");
        let path = dir.join(String::from_utf8(name).expect("a name"));
        make_private(path.parent().expect("below"), dir);
        fs::write(&path, bytes).expect("write");
        restrict(&path, 0o600);
    }
}

fn part(packed: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 8];
    packed.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    let mut bytes = Vec::new();
    packed.take(length).read_to_end(&mut bytes).expect("unpack");
    assert_eq!(bytes.len() as u64, length);
    Some(bytes)
}

fn make_private(dir: &Path, top: &Path) {
    fs::create_dir_all(dir).expect("create");
    for dir in dir.ancestors().take_while(|dir| dir.starts_with(top)) {
        restrict(dir, 0o700);
    }
}

#[cfg(unix)]
fn restrict(path: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, mode).expect("mode");
}

#[cfg(not(unix))]
fn restrict(_: &Path, _: u32) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes the golden vaults of this version: before a release, see the head of this file"]
async fn golden_vaults_are_made() {
    let dir = golden().join(env!("CARGO_PKG_VERSION"));
    fs::create_dir_all(&dir).expect("create");
    for (store, kind) in STORES {
        for is_sealed in [false, true] {
            let temp = tempfile::tempdir().expect("tempdir");
            let path = temp.path().join("vault");
            let filled = sealed(kind.open(&path), is_sealed);
            filled.open(NOW).await.expect("open");
            fill(&*filled).await;
            filled.close().await.expect("close");
            let packed = dir.join(name(store, is_sealed));
            fs::write(packed, pack(&path)).expect("write");
        }
    }
}

/// Every version's, by path: what is in it is in its name.
fn all() -> Vec<(PathBuf, Kind, bool)> {
    let mut all = Vec::new();
    for path in files(&golden()) {
        let packed = path.display().to_string();
        for (store, kind) in STORES {
            for is_sealed in [false, true] {
                if packed.ends_with(&name(store, is_sealed)) {
                    all.push((path.clone(), kind, is_sealed));
                }
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn golden_vaults_open_with_all_that_is_in_them() {
    let all = all();
    assert!(all.len() >= 6, "six of each version: {all:?}");
    for (packed, ..) in &all {
        let bytes = fs::metadata(packed).expect("metadata").len();
        assert!(bytes < 128 * 1024, "{}: {bytes}", packed.display());
    }
    for (packed, kind, is_sealed) in all {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("vault");
        unpack(&packed, &path);
        let seen = examine(&path, |_| {}).await.expect("examine");
        assert!(seen.is_healthy(), "{}: {seen}", packed.display());
        assert_eq!(seen.records, 16);

        let below = kind.open(&path);
        let keyring = below.keyring().await.expect("keyring");
        assert_eq!(keyring.is_some(), is_sealed);
        if is_sealed {
            let wrong = Sealed::new(below.clone(), Key::new([0; 32]));
            let error = wrong.open(NOW).await.expect_err("another key");
            assert_eq!(error.kind(), ErrorKind::WrongKey);
        }
        let store = sealed(below, is_sealed);
        let opened = store.open(NOW).await.expect("open");
        assert!(opened.is_balanced);
        see(&*store, &opened).await.assert_is_filled();
        let out = tempfile::tempfile().expect("a file");
        let contents: Contents = export(&*store, out, |_| {}).await.expect("export");
        assert_eq!(contents.actions(), 16);
        store.close().await.expect("close");
    }
}

/// A golden vault is one to go on with: it is resumed, and a new action is added behind the old ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_golden_vault_goes_on() {
    for (packed, kind, is_sealed) in all() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("vault");
        unpack(&packed, &path);
        let store = sealed(kind.open(&path), is_sealed);
        let vault = SyncVault::builder("https://a.example").shared_store(store);
        let vault = vault.build().await.expect("vault");
        assert!(vault.is_paused());
        assert_eq!(vault.pending_count().await.expect("count"), 8);
        assert_eq!(vault.dead_letters().count().await.expect("count"), 3);
        let request = vault.post("/new").lane("files").body("new");
        let ticket = request.enqueue().await.expect("enqueue");
        let known = vault
            .post("/a?no=1")
            .idempotency_key("key-24")
            .body("other");
        let error = known.enqueue().await.expect_err("the key is known");
        assert_eq!(error.kind(), ErrorKind::IdempotencyConflict);
        assert_eq!(vault.pending_count().await.expect("count"), 9);
        assert!(vault.action(ticket.id()).await.expect("action").is_some());
        let end = vault.shutdown(std::time::Duration::from_secs(5));
        end.await.expect("shutdown");
    }
}
