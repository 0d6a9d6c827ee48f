//! What is kept of an answer, by reading it (`keep`) and by looking over the caller's shoulder (`tee`).

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;
use reqwest::Response;
use syncvault::action::Answer;
use syncvault::clock::Timestamp;
use syncvault::transport::{Keep, ReqwestTransport, keep, tee};

use super::{get, in_time, send, transport};
use crate::chaos_server::{Behaviour, Break, ChaosServer, noise};

const AT: Timestamp = Timestamp::from_millis(7);

async fn answer(server: &ChaosServer, behaviour: Behaviour) -> Response {
    answer_over(&transport(), server, behaviour).await
}

async fn answer_over(
    transport: &ReqwestTransport,
    server: &ChaosServer,
    behaviour: Behaviour,
) -> Response {
    server.next(behaviour);
    send(transport, get(server.at("/")))
        .await
        .expect("an answer")
}

async fn kept(response: Response) -> Answer {
    in_time(keep(response, &Keep::default(), AT)).await
}

#[tokio::test]
async fn status_chosen_headers_and_body_are_kept() {
    let server = ChaosServer::start().await;
    let behaviour = Behaviour::status(201)
        .header("Location", "/things/7")
        .header("ETag", "\"v1\"")
        .header("X-Request-Id", "r-1")
        .header("X-Own", "o")
        .header("Set-Cookie", "session=SECRET")
        .header("WWW-Authenticate", "Basic realm=SECRET")
        .header("X-Request-Id", &"y".repeat(10_000));
    let response = answer(&server, behaviour).await;
    let own = Keep::default()
        .with_header(HeaderName::from_static("x-own"))
        .with_header(HeaderName::from_static("set-cookie"));
    let answer = in_time(keep(response, &own, AT)).await;
    assert_eq!((answer.status, answer.at), (201, AT));
    assert_eq!(&answer.body[..], b"{\"status\":201}");
    assert!(!answer.is_truncated);
    for (name, value) in [
        ("location", "/things/7"),
        ("etag", "\"v1\""),
        ("x-request-id", "r-1"),
        ("x-own", "o"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    assert!(answer.headers.iter().all(|(name, value)| {
        name.chars().all(|c| !c.is_uppercase()) && !value.contains("SECRET") && value.len() < 100
    }));
}

#[tokio::test]
async fn a_kept_body_is_bounded_and_says_so() {
    let server = ChaosServer::start().await;
    let most = Answer::BODY_BYTES_MAX;
    let table = [
        (0, false),
        (1, false),
        (most, false),
        (most + 1, true),
        (8 * most, true),
    ];
    for (bytes, is_truncated) in table {
        let body = noise(bytes);
        let answer = kept(answer(&server, Behaviour::status(200).body(body.clone())).await).await;
        assert_eq!(answer.is_truncated, is_truncated, "{bytes}");
        assert_eq!(answer.body, body.slice(..bytes.min(most)), "{bytes}");
    }
}

#[tokio::test]
async fn a_body_that_is_a_little_too_long_keeps_the_connection_and_a_huge_one_costs_it() {
    let server = ChaosServer::start().await;
    let transport = transport();
    for _ in 0..3 {
        let long = Behaviour::status(200).body(noise(200 * 1024));
        kept(answer_over(&transport, &server, long).await).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.connections(), 1);
    let huge = Behaviour::status(200).body(noise(8 * 1024 * 1024));
    kept(answer_over(&transport, &server, huge).await).await;
    kept(answer_over(&transport, &server, Behaviour::status(200)).await).await;
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_endless_body_and_a_packed_one_end_soon() {
    let server = ChaosServer::start().await;
    let start = Instant::now();
    let endless = kept(answer(&server, Behaviour::endless_body()).await).await;
    assert!(endless.is_truncated && endless.body.len() == Answer::BODY_BYTES_MAX);
    assert!(start.elapsed() < Duration::from_secs(5));

    // The head of a gzip stream: it must come out as it came in.
    let packed = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
    let behaviour = Behaviour::status(200)
        .header("content-encoding", "gzip")
        .body(packed.clone());
    assert_eq!(kept(answer(&server, behaviour).await).await.body, packed);
    let received = server.received();
    assert!(
        received
            .iter()
            .all(|request| request.header("accept-encoding").is_none())
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_truncated_and_no_failure() {
    let server = ChaosServer::start().await;
    for how in [Break::Close, Break::Reset] {
        let cut = Behaviour::cut_response(500, how).body(noise(1000));
        let answer = kept(answer(&server, cut).await).await;
        assert_eq!(answer.status, 200);
        assert!(answer.is_truncated && answer.body.len() < 1000);
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let server = ChaosServer::start().await;
    let slow = Behaviour::trickle(40, Duration::from_millis(30)).body(noise(100_000));
    let response = answer(&server, slow).await;
    let hasty = Keep::default().with_patience(Duration::from_millis(300));
    let start = Instant::now();
    let answer = keep(response, &hasty, AT).await;
    assert!(answer.is_truncated && !answer.body.is_empty());
    assert!(start.elapsed() < Duration::from_secs(3));
}

fn teed(response: Response) -> (Response, mpsc::Receiver<Answer>) {
    let (done, kept) = mpsc::channel();
    let tee = tee(response, &Keep::default(), AT, move |answer| {
        done.send(answer).expect("somebody listens");
    });
    (tee, kept)
}

#[tokio::test]
async fn a_teed_answer_reads_like_the_answer_itself() {
    let server = ChaosServer::start().await;
    let body = noise(300_000);
    let behaviour = || {
        Behaviour::status(202)
            .header("x-own", "o")
            .body(body.clone())
    };
    let plain = answer(&server, behaviour()).await;
    let (mut tee, kept) = teed(answer(&server, behaviour()).await);
    assert_eq!(tee.status(), plain.status());
    assert_eq!(tee.version(), plain.version());
    assert_eq!(tee.headers(), plain.headers());
    assert_eq!(tee.url(), plain.url());
    assert_eq!(tee.remote_addr(), plain.remote_addr());
    assert_eq!(tee.content_length(), Some(300_000));
    let mut read = Vec::new();
    while let Some(chunk) = tee.chunk().await.expect("a chunk") {
        read.extend_from_slice(&chunk);
    }
    assert_eq!(read, body);
    let kept = kept.try_recv().expect("handed over at the end");
    assert!(kept.is_truncated);
    assert_eq!(kept.body, body.slice(..Answer::BODY_BYTES_MAX));
}

#[tokio::test]
async fn a_tee_hands_over_once_however_the_body_ends() {
    let server = ChaosServer::start().await;

    let (tee, kept) = teed(answer(&server, Behaviour::status(200)).await);
    tee.bytes().await.expect("a body");
    assert!(!kept.try_recv().expect("read").is_truncated);
    assert!(kept.try_recv().is_err());

    let (tee, kept) = teed(answer(&server, Behaviour::status(200).body(noise(1000))).await);
    drop(tee);
    let dropped = kept.try_recv().expect("dropped");
    assert!(dropped.is_truncated && dropped.status == 200);

    let (tee, kept) = teed(answer(&server, Behaviour::status(204)).await);
    assert!(!kept.try_recv().expect("no body to wait for").is_truncated);
    drop(tee);
    assert!(kept.try_recv().is_err());

    let cut = Behaviour::cut_response(500, Break::Reset).body(noise(1000));
    let (tee, kept) = teed(answer(&server, cut).await);
    assert!(tee.bytes().await.is_err());
    assert!(kept.try_recv().expect("broken").is_truncated);
}

#[tokio::test]
async fn a_teed_json_answer_still_parses() {
    let server = ChaosServer::start().await;
    let (tee, kept) = teed(answer(&server, Behaviour::status(200)).await);
    let body = tee.bytes().await.expect("a body");
    let json: serde_json::Value = serde_json::from_slice(&body).expect("json");
    assert_eq!(json["status"], 200);
    let kept: serde_json::Value = kept.try_recv().expect("kept").json().expect("json");
    assert_eq!(json, kept);
}
