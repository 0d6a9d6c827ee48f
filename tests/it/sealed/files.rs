//! Bodies in files below a sealed vault: they go their way as in a plain one, and whatever is done to them is found.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use syncvault::action::Body;
use syncvault::store::crypt::{Key, Sealed};
use syncvault::store::{SledStore, Source, Store};
use syncvault::{ActionId, ConnectivityMode, ErrorKind, Form, SyncVault};

use super::{NOW, append};
use crate::chaos_server::{Behaviour, ChaosServer, noise};
use crate::story::{bare_builder, soon};

/// A chunk, as it lies in a file.
const SEALED: usize = 64 * 1024 + 45;

async fn open(dir: &Path, key: &Key) -> Sealed {
    let store = SledStore::open(dir.join("vault")).expect("the store");
    let store = Sealed::new(Arc::new(store), key.clone());
    store.open(NOW).await.expect("open");
    store
}

/// An action with a body in a file. Its id, and the file.
async fn add(store: &Sealed, dir: &Path, content: &[u8]) -> (ActionId, PathBuf) {
    let mut append = append("ann", "a", "");
    let id = append.record.id;
    let source = Source::reader(Cursor::new(content.to_vec()), u64::MAX);
    let snapshot = store.snapshot(id, source).await.expect("snapshot");
    append.body = snapshot.body().clone();
    snapshot.hand_over();
    store.append(vec![append]).await.expect("append");
    let files = files_in(&dir.join("vault/bodies"));
    let own = |path: &PathBuf| path.display().to_string().contains(&id.to_string());
    (id, files.into_iter().find(own).expect("a file"))
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("list");
    entries.map(|entry| entry.expect("entry").path()).collect()
}

/// What is given of a body, and why that ended.
async fn read(store: &Sealed, id: ActionId) -> (Vec<u8>, Option<ErrorKind>) {
    let mut given = Vec::new();
    let body = store.body(id).await.expect("body").expect("a body");
    let Body::File(file) = body else {
        panic!("{body:?} is no file");
    };
    let mut chunks = match store.chunks(file).await {
        Ok(chunks) => chunks,
        Err(error) => return (given, Some(error.kind())),
    };
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => given.extend_from_slice(&chunk),
            Err(error) => return (given, Some(error.kind())),
        }
    }
    (given, None)
}

type Change = fn(&mut Vec<Vec<u8>>, &[Vec<u8>]);

const CHANGES: [(&str, Change); 10] = [
    ("two swapped", |own, _| own.swap(0, 1)),
    ("one repeated", |own, _| own[1] = own[0].clone()),
    ("one more", |own, _| own.push(own[3].clone())),
    ("cut at a border", |own, _| own.truncate(3)),
    ("cut inside", |own, _| own[3].truncate(100)),
    ("one left out", |own, _| drop(own.remove(1))),
    ("one of another action", |own, other| {
        own[2] = other[2].clone()
    }),
    ("the file of another action", |own, other| {
        *own = other.to_vec();
    }),
    ("a flipped bit", |own, _| own[2][SEALED / 2] ^= 1),
    ("a flipped bit at the end", |own, _| own[3][50] ^= 128),
];

/// Goal: nothing of a changed chunk is given, and a changed file never ends well.
#[tokio::test]
async fn a_changed_file_is_never_given_whole() {
    let (dir, key) = (tempfile::tempdir().expect("a directory"), Key::generate());
    let (content, other) = (noise(200_000), vec![7; 200_000]);
    let store = open(dir.path(), &key).await;
    let (id, path) = add(&store, dir.path(), &content).await;
    let (_, other) = add(&store, dir.path(), &other).await;
    let chunks = |path: &Path| -> Vec<Vec<u8>> {
        let bytes = std::fs::read(path).expect("read");
        bytes.chunks(SEALED).map(<[u8]>::to_vec).collect()
    };
    let (stored, other) = (chunks(&path), chunks(&other));
    assert_eq!(stored.len(), 4);
    for (what, change) in CHANGES {
        let mut changed = stored.clone();
        change(&mut changed, &other);
        std::fs::write(&path, changed.concat()).expect("write");
        let (given, error) = read(&store, id).await;
        assert_eq!(error, Some(ErrorKind::Corrupt), "{what}");
        assert!(content.starts_with(&given), "{what}");
        assert!(given.len() < content.len(), "{what}");
    }
    std::fs::write(&path, stored.concat()).expect("write");
    assert_eq!(read(&store, id).await, (content.to_vec(), None));
}

/// Somebody puts the keys of another action's files in the place of an action's own.
#[tokio::test]
async fn files_are_taken_for_their_own_action_only() {
    let (dir, key) = (tempfile::tempdir().expect("a directory"), Key::generate());
    let store = open(dir.path(), &key).await;
    let (id, _) = add(&store, dir.path(), &noise(100_000)).await;
    let mut thief = append("ben", "b", "");
    thief.body = store.body(id).await.expect("body").expect("a body");
    let error = store.append(vec![thief]).await.expect_err("another's");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(read(&store, id).await, (noise(100_000).to_vec(), None));
}

type Opens = fn(&Path) -> Arc<dyn Store>;

/// The stores whose files are sealed here.
fn stores() -> Vec<(&'static str, Opens)> {
    vec![
        ("sled", |dir| Arc::new(SledStore::open(dir).expect("open"))),
        #[cfg(feature = "sqlite")]
        ("sqlite", |dir| {
            Arc::new(syncvault::store::SqliteStore::open(dir).expect("open"))
        }),
    ]
}

struct App {
    server: ChaosServer,
    dir: tempfile::TempDir,
    key: Key,
    store: Opens,
}

impl App {
    async fn vault(&self) -> SyncVault {
        let store = Sealed::new(
            (self.store)(&self.dir.path().join("vault")),
            self.key.clone(),
        );
        let vault = bare_builder(&self.server).store(store).all_principals();
        let vault = vault.build().await.expect("vault");
        vault.set_connectivity(ConnectivityMode::Offline);
        vault
    }

    fn file(&self, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join("file");
        std::fs::write(&path, content).expect("write");
        path
    }

    fn kept(&self) -> usize {
        files_in(&self.dir.path().join("vault/bodies")).len()
    }
}

/// The whole life of files on a sealed vault: kept, restarted, sealed anew, forgotten, sent again and again.
#[tokio::test]
async fn files_and_forms_go_out_whole_after_new_keys_and_without_the_forgotten() {
    for (what, store) in stores() {
        let app = App {
            server: ChaosServer::start().await,
            dir: tempfile::tempdir().expect("a directory"),
            key: Key::generate(),
            store,
        };
        let vault = app.vault().await;
        let (film, photo) = (noise(3_000_000), noise(400_000));
        let text = "t".repeat(30_000);
        for who in ["ann", "ben"] {
            let request = vault.post("/films").principal(who).lane("films");
            let request = request.body_file(app.file(&film));
            request.enqueue().await.expect("a film");
            let form = Form::new()
                .text("text", text.clone())
                .file("photo", app.file(&photo));
            let request = vault.post("/forms").principal(who).lane("forms");
            request.multipart(form).enqueue().await.expect("a form");
        }
        let kept = app.kept();
        soon(vault.shutdown(Duration::from_secs(5)))
            .await
            .expect("closed");
        let vault = app.vault().await;
        assert_eq!(soon(vault.reencrypt()).await.expect("anew"), 4, "{what}");
        soon(vault.forget("ann")).await.expect("forgotten");
        vault.action(ActionId::new()).await.expect("an answer");
        assert_eq!(app.kept(), kept / 2, "{what}");
        soon(vault.shutdown(Duration::from_secs(5)))
            .await
            .expect("closed");
        let vault = app.vault().await;
        app.server.next_on("/films", Behaviour::status(500));
        vault.set_connectivity(ConnectivityMode::Auto);
        soon(vault.wait_idle()).await.expect("idle");
        vault.action(ActionId::new()).await.expect("an answer");
        assert_eq!(app.kept(), 0, "{what}");
        let received = app.server.received();
        let bodies = |path: &str| -> Vec<Bytes> {
            let of_path = received.iter().filter(|request| request.path == path);
            of_path.map(|request| request.body.clone()).collect()
        };
        assert_eq!(bodies("/films"), [film.clone(), film], "{what}");
        let forms = bodies("/forms");
        assert_eq!(forms.len(), 1, "{what}");
        let has = |part: &[u8]| forms[0].windows(part.len()).any(|bytes| bytes == part);
        assert!(has(&photo[..]) && has(text.as_bytes()), "{what}");
        soon(vault.shutdown(Duration::from_secs(5)))
            .await
            .expect("closed");
    }
}
