//! `compress`: once, before it is kept; the server unpacks what was given.

use syncvault::{Compression, ErrorKind};

use super::App;

#[cfg(all(feature = "gzip", feature = "zstd"))]
mod with_features {
    use std::io::Read;

    use bytes::Bytes;
    use syncvault::{ConnectivityMode, Form};

    use super::*;
    use crate::bodies::{noise, soon};
    use crate::chaos_server::{Behaviour, Received};

    const BOTH: [Compression; 2] = [Compression::Gzip, Compression::Zstd];

    fn unpacked(received: &Received) -> Vec<u8> {
        let mut plain = Vec::new();
        let packed = &received.body[..];
        let read = match received.header("content-encoding") {
            Some("gzip") => flate2::read::GzDecoder::new(packed).read_to_end(&mut plain),
            Some("zstd") => zstd::stream::read::Decoder::new(packed)
                .expect("zstd")
                .read_to_end(&mut plain),
            encoding => panic!("it came as {encoding:?}"),
        };
        read.expect("it unpacks");
        plain
    }

    fn compressible(bytes: usize) -> Bytes {
        let lines = (0u32..).flat_map(|n| format!("line {n}\n").into_bytes());
        lines.take(bytes).collect()
    }

    #[tokio::test]
    async fn bytes_files_and_forms_arrive_as_they_were() {
        for compression in BOTH {
            let app = App::start().await;
            app.server.next_on("/logs", Behaviour::status(500));
            let vault = app.quiet_vault().await;
            let text = compressible(6_000_000);
            let path = app.file("log", &text);
            let small = text.slice(..50_000);
            let bytes = vault.post("/logs").body(small.clone());
            let file = vault.post("/logs").body_file(&path);
            let form = Form::new().text("a", "b").file("log", &path);
            let form = vault.post("/logs").multipart(form);
            for request in [bytes, file, form] {
                let queued = request.compress(compression).enqueue().await;
                queued.expect("enqueue");
            }
            std::fs::remove_file(&path).expect("remove");
            // The plain copies are gone, and what is kept is short.
            assert!(app.kept().len() <= 3, "{:?}", app.kept());
            vault.set_connectivity(ConnectivityMode::Auto);
            soon(vault.wait_idle()).await.expect("idle");
            let received = app.server.received();
            assert_eq!(received.len(), 4, "one was tried twice");
            assert_eq!(received[0].body, received[1].body);
            assert_eq!(unpacked(&received[1]), small);
            assert_eq!(unpacked(&received[2]), text);
            let form = unpacked(&received[3]);
            assert!(form.windows(20).any(|window| window == &text[..20]));
            assert!(form.ends_with(b"--\r\n"));
            assert!(
                received
                    .iter()
                    .all(|r| r.header("content-encoding").is_some())
            );
            assert!(received[2].body.len() < text.len() / 2);
        }
    }

    #[tokio::test]
    async fn what_would_not_get_shorter_goes_out_as_it_is() {
        let app = App::start().await;
        let vault = app.vault().await;
        let path = app.file("noise", &random(2_000_000));
        let tiny = vault.post("/a").body(compressible(1000));
        let dense = vault.post("/a").body_file(&path);
        for request in [tiny, dense] {
            let sent = request.compress(Compression::Gzip).send().await;
            assert!(sent.expect("send").is_sent());
        }
        for received in app.server.received() {
            assert_eq!(received.header("content-encoding"), None);
        }
        assert_eq!(app.server.received()[1].body, random(2_000_000));
        assert_ne!(noise(10), random(10));
    }

    /// Bytes that do not compress.
    fn random(bytes: usize) -> Bytes {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out.into()
    }

    #[tokio::test]
    async fn compressed_or_not_it_is_the_same_request() {
        let app = App::start().await;
        let vault = app.quiet_vault().await;
        let path = app.file("log", &compressible(100_000));
        let request = || vault.post("/a").idempotency_key("log-1").body_file(&path);
        let plain = request().enqueue().await.expect("enqueue");
        let packed = request().compress(Compression::Zstd).enqueue().await;
        assert_eq!(plain.id(), packed.expect("known").id());
        assert_eq!(app.kept_by(&vault).await.len(), 1);
    }

    #[tokio::test]
    async fn a_body_that_is_encoded_already_is_refused() {
        let app = App::start().await;
        let vault = app.vault().await;
        let request = vault.post("/a").header("content-encoding", "br");
        let queued = request.compress(Compression::Gzip).enqueue().await;
        assert_eq!(queued.expect_err("twice").kind(), ErrorKind::Invalid);
    }
}

#[cfg(not(feature = "gzip"))]
#[tokio::test]
async fn a_build_without_it_says_so() {
    let app = App::start().await;
    let vault = app.vault().await;
    let request = vault.post("/a").body("x").compress(Compression::Gzip);
    let error = request.enqueue().await.expect_err("not built in");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
