//! `multipart`: kept as a recipe, the same bytes at each attempt.

use syncvault::{ConnectivityMode, ErrorKind, Form, FormPart};

use super::{App, close, noise, soon};
use crate::chaos_server::Behaviour;

fn form(photo: &std::path::Path, notes: &std::path::Path) -> Form {
    let named = FormPart::bytes(vec![0, 159, 146, 150])
        .file_name("a \"b\".bin")
        .mime("image/png");
    Form::new()
        .text("job", "7")
        .file("photo", photo)
        .part("thumb", named)
        .file("notes", notes)
}

#[tokio::test]
async fn a_form_is_the_same_at_each_attempt_and_after_a_restart() {
    let app = App::start().await;
    let (photo, notes) = (noise(2_000_000), noise(300));
    let (photo_path, notes_path) = (app.file("photo.jpg", &photo), app.file("notes.txt", &notes));
    let vault = app.quiet_vault().await;
    let request = vault
        .post("/jobs")
        .multipart(form(&photo_path, &notes_path));
    request.enqueue().await.expect("enqueue");
    std::fs::remove_file(&photo_path).expect("remove");
    std::fs::write(&notes_path, "changed").expect("write");
    for status in [500, 500] {
        app.server.next_on("/jobs", Behaviour::status(status));
    }
    app.server.next_on("/jobs", Behaviour::drop_answer());
    close(vault).await;
    let vault = app.vault().await;
    soon(vault.wait_idle()).await.expect("idle");
    let mut received = app.server.received();
    received.retain(|request| request.method == "POST");
    assert_eq!(received.len(), 4);
    for request in &received {
        assert_eq!(request.headers.len(), received[0].headers.len());
        assert_eq!(request.body, received[0].body);
        let header = |name| (request.header(name), received[0].header(name));
        let (now, first) = header("content-type");
        assert_eq!(now, first);
    }
    assert_eq!(app.server.violations(), [""; 0]);
    let content_type = received[0].header("content-type").expect("a type");
    let boundary = content_type
        .strip_prefix("multipart/form-data; boundary=")
        .expect("a form");
    let mut want = Vec::new();
    for (head, content) in [
        ("name=\"job\"", &b"7"[..]),
        (
            "name=\"photo\"; filename=\"photo.jpg\"\r\nContent-Type: application/octet-stream",
            &photo,
        ),
        (
            "name=\"thumb\"; filename=\"a %22b%22.bin\"\r\nContent-Type: image/png",
            &[0, 159, 146, 150],
        ),
        (
            "name=\"notes\"; filename=\"notes.txt\"\r\nContent-Type: application/octet-stream",
            &notes,
        ),
    ] {
        let disposition = "Content-Disposition: form-data; ";
        want.extend_from_slice(format!("--{boundary}\r\n{disposition}{head}\r\n\r\n").as_bytes());
        want.extend_from_slice(content);
        want.extend_from_slice(b"\r\n");
    }
    want.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    assert_eq!(received[0].body, want);
    let length = received[0].header("content-length");
    assert_eq!(length, Some(&*want.len().to_string()));
    close(vault).await;
    assert_eq!(app.kept().len(), 0);
}

/// The boundary comes from the content, so the key knows the form again.
#[tokio::test]
async fn the_same_form_is_known_by_its_key() {
    let app = App::start().await;
    let vault = app.quiet_vault().await;
    let (photo, notes) = (
        app.file("photo.jpg", &noise(20_000)),
        app.file("notes.txt", &noise(20_000)),
    );
    let request = |form| vault.post("/jobs").idempotency_key("job-7").multipart(form);
    let one = request(form(&photo, &notes)).enqueue().await.expect("one");
    let two = request(form(&photo, &notes)).enqueue().await.expect("two");
    assert_eq!(one.id(), two.id());
    assert_eq!(app.kept_by(&vault).await.len(), 2);
    let other = form(&photo, &notes).text("more", "x");
    let error = request(other).enqueue().await.expect_err("another form");
    assert_eq!(error.kind(), ErrorKind::IdempotencyConflict);
    assert_eq!(app.kept_by(&vault).await.len(), 2);
}

#[tokio::test]
async fn a_form_in_memory_needs_no_files() {
    let app = App::start().await;
    let vault = app.quiet_vault().await;
    let form = Form::new()
        .text("a", "1")
        .file("small", app.file("s", b"x"));
    let ticket = vault.post("/jobs").multipart(form).enqueue().await;
    let ticket = ticket.expect("enqueue");
    assert_eq!(app.kept_by(&vault).await.len(), 0);
    vault.set_connectivity(ConnectivityMode::Auto);
    soon(ticket.wait()).await.expect("end");
    let body = app.server.received()[0].body.clone();
    assert!(body.starts_with(b"--syncvault-"));
}

#[tokio::test]
async fn the_limits_of_a_form_are_told() {
    let app = App::start().await;
    let builder = app.builder().file_bytes_max(50_000).body_bytes_max(10_000);
    let vault = builder.build().await.expect("vault");
    let path = app.file("photo", &noise(30_000));
    let two_files = Form::new().file("a", &path).file("b", &path);
    let long_text = Form::new().text("a", "x".repeat(10_000));
    let many_files = (0..65).fold(Form::new(), |form, _| form.file("a", &path));
    let bad_type = Form::new().part("a", FormPart::text("x").mime("a\r\nb"));
    for form in [two_files, long_text, many_files, bad_type] {
        let queued = vault.post("/jobs").multipart(form).enqueue().await;
        assert_eq!(queued.expect_err("refused").kind(), ErrorKind::Invalid);
        assert_eq!(app.kept_by(&vault).await.len(), 0);
    }
}
