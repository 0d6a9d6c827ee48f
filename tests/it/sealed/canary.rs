//! A sealed vault shows what it was given to the server and to nobody else: not to the disk, the log, or `{:?}`.

use std::path::Path;
use std::time::Duration;

use syncvault::store::crypt::Key;
use syncvault::{Delivery, Form, FormPart, Paging, SyncVault};

use crate::chaos::canary::Log;
use crate::chaos_server::{Behaviour, ChaosServer};
use crate::story::{bare_builder, soon};

const CANARY: &str = "c4n4ryB1rd";

/// The canary as it is, in hexadecimal, and in base64 at each of its three offsets. What is percent-encoded holds it as it is.
fn forms() -> Vec<Vec<u8>> {
    let hex = CANARY
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let mut forms = vec![CANARY.into(), hex.clone().into(), hex.to_uppercase().into()];
    for offset in 0..3 {
        let text = [&vec![0; offset], CANARY.as_bytes()].concat();
        let coded = base64(&text);
        // The first and the last letters hold bits of what stands beside it.
        let (from, to) = ((offset * 8).div_ceil(6), text.len() * 8 / 6);
        forms.push(coded[from..to].to_vec());
    }
    forms
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bit = |at: usize| usize::from(bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1));
    let letters = (0..(bytes.len() * 8).div_ceil(6)).map(|at| {
        let value = (0..6).fold(0, |value, i| value << 1 | bit(at * 6 + i));
        alphabet[value]
    });
    letters.collect()
}

fn has_canary(bytes: &[u8]) -> bool {
    let forms = forms();
    let holds = |form: &Vec<u8>| bytes.windows(form.len()).any(|window| window == form);
    forms.iter().any(holds)
}

/// Files below `dir` that hold the canary in their bytes or their names, and how many were read.
fn search(dir: &Path) -> (Vec<String>, usize) {
    let (mut found, mut read) = (Vec::new(), 0);
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let is_named = has_canary(path.display().to_string().as_bytes());
        if path.is_dir() {
            let (more, files) = search(&path);
            found.extend(more);
            read += files;
            continue;
        }
        read += 1;
        if is_named || has_canary(&std::fs::read(&path).expect("a file")) {
            found.push(path.display().to_string());
        }
    }
    (found, read)
}

#[test]
fn every_form_is_found() {
    for text in [
        "c4n4ryB1rd",
        "xc4n4ryB1rdy",
        "yxc4n4ryB1rd",
        "c4n4ryB1rd%20",
    ] {
        assert!(has_canary(text.as_bytes()));
        assert!(has_canary(&base64(text.as_bytes())), "{text}");
    }
    assert!(!has_canary(b"c4n4ry"));
}

fn request(vault: &SyncVault, path: &str, size: usize) -> syncvault::RequestBuilder {
    let body = format!("{CANARY}-body").repeat(size);
    vault
        .post(format!("{path}/{CANARY}-path"))
        .query(&[("token", format!("{CANARY} query"))])
        .header("authorization", format!("Bearer {CANARY}-own"))
        .header("x-plain", format!("{CANARY}-header"))
        .lane(format!("{CANARY}-lane"))
        .tag(format!("{CANARY}-tag"))
        .coalesce(format!("{CANARY}-coalesce"))
        .body(body)
}

/// Goal: of all that a request, its principal and its answer hold, nothing is found afterwards. Method: one word is in each
/// of them; requests are delivered, retried, refused, queued and forgotten, and then every byte that is
/// left is searched. Lanes and paths are the app's own words, which `{:?}` and events do show.
#[tokio::test]
async fn nothing_of_a_sealed_vault_is_found_but_on_the_wire() {
    let log = Log::default();
    let _listening = log.listen();
    let home = tempfile::tempdir().expect("a directory");
    let server = ChaosServer::start().await;
    let vault = bare_builder(&server)
        .storage_path(home.path())
        .encryption(Key::generate())
        .principal(format!("{CANARY}-ann"))
        .build()
        .await
        .expect("vault");
    let mut shown = call_all(&vault, &server).await;
    shown.extend(keep_files(&vault).await);
    let (files, read) = search(home.path());
    assert!(read > 8, "files of bodies are among them");
    assert!(files.is_empty(), "on disk, open: {files:?}");
    shown.push(format!("{vault:?} {:?}", vault.status()));
    let kept = vault
        .post("/kept")
        .body(CANARY)
        .principal("ben")
        .enqueue()
        .await;
    shown.push(format!("{:?}", kept.expect("enqueue")));
    soon(vault.forget(format!("{CANARY}-ann")))
        .await
        .expect("forget");
    soon(vault.reencrypt()).await.expect("reencrypt");
    soon(vault.shutdown(Duration::from_secs(5)))
        .await
        .expect("shutdown");
    assert!(
        server.saw(&format!("Bearer {CANARY}-own")),
        "on the wire, from the disk"
    );
    let (files, read) = search(home.path());
    assert!(files.is_empty() && read > 4, "on disk: {files:?} of {read}");
    let leaks: Vec<_> = shown
        .iter()
        .map(|text| cut(text))
        .filter(|text| has_canary(text.as_bytes()))
        .collect();
    assert!(leaks.is_empty(), "shown: {leaks:#?}");
    let text = log.text();
    assert!(text.contains("attempt judged"), "the log was not heard");
    let ours = text.lines().filter(|line| has_canary(line.as_bytes()));
    let ours: Vec<_> = ours.collect();
    assert!(ours.is_empty(), "logged: {ours:#?}");
}

/// A file and a form with a file that stay in the vault, with the word in their contents, fields and names.
async fn keep_files(vault: &SyncVault) -> Vec<String> {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join(format!("{CANARY}-file-name"));
    std::fs::write(&path, format!("{CANARY}-file").repeat(20_000)).expect("write");
    let file = request(vault, "/file", 1).body_file(&path);
    let part = FormPart::file(&path).file_name(format!("{CANARY}-part-name"));
    let form = Form::new()
        .text(format!("{CANARY}-field"), CANARY.repeat(5_000))
        .part("photo", part);
    let form = request(vault, "/form", 1).multipart(form);
    let mut shown = Vec::new();
    for request in [file, form] {
        shown.push(format!("{request:?}"));
        let ticket = request.coalesce("none").enqueue().await.expect("kept");
        shown.push(format!("{ticket:?}"));
    }
    shown
}

/// Every way that a request goes. Returns what the public types show of themselves.
async fn call_all(vault: &SyncVault, server: &ChaosServer) -> Vec<String> {
    let mut shown = vec![format!("{:?}", request(vault, "/shown", 1))];
    let mut events = vault.events();
    for size in [1, 2_000] {
        for behaviour in [
            Behaviour::status(200).header("x-answer", &format!("{CANARY}-answer")),
            Behaviour::status(500),
            Behaviour::drop_answer(),
            Behaviour::status(422).body(format!("{CANARY}-refused")),
        ] {
            server.next(behaviour.clone());
            let ticket = request(vault, "/queued", size)
                .enqueue()
                .await
                .expect("ticket");
            let end = soon(ticket.wait()).await;
            shown.push(format!("{ticket:?} {end:?}"));
            server.next(behaviour);
            let direct = request(vault, "/direct", size).delivery(Delivery::WriteAhead);
            let outcome = soon(direct.send()).await.expect("an outcome");
            if let Some(response) = outcome.response() {
                response.bytes().await.ok();
            }
        }
    }
    server.down().await;
    let late = soon(request(vault, "/late", 2_000).send()).await;
    assert!(late.expect("an outcome").is_queued());
    let pending = vault
        .pending_actions(Paging::default())
        .await
        .expect("list");
    shown.push(format!("{pending:?}"));
    let letters = vault
        .dead_letters()
        .list(Paging::default())
        .await
        .expect("letters");
    assert!(!letters.items.is_empty());
    shown.push(format!("{letters:?}"));
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        shown.push(format!(
            "{event:?} {}",
            serde_json::to_string(&event).expect("json")
        ));
    }
    shown
}

/// Without the app's own words.
fn cut(text: &str) -> String {
    let text = text.replace(&format!("{CANARY}-lane"), "a lane");
    text.replace(&format!("{CANARY}-path"), "a path")
}
