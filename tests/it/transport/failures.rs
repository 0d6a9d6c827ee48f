//! Every way in which an attempt can end without an answer, and what it is called.

use std::time::Duration;

use reqwest::Body;
use syncvault::decide::FailureKind;
use syncvault::transport::Timeouts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{get, hasty, in_time, post, send, transport, transport_with};
use crate::chaos_server::{Behaviour, Break, ChaosServer, noise};

async fn failure(server: &ChaosServer, behaviour: Behaviour) -> FailureKind {
    server.always(behaviour);
    let mut request = post(server.at("/path?query=QUERYSECRET"), "BODYSECRET");
    request
        .headers_mut()
        .insert("x-key", "HEADERSECRET".parse().expect("value"));
    let failure = send(&hasty(), request).await.expect_err("no answer");
    assert!(
        !format!("{failure} {failure:?}").contains("SECRET"),
        "{failure:?}"
    );
    let source = std::error::Error::source(&failure).map(ToString::to_string);
    assert!(
        !source.unwrap_or_default().contains("QUERYSECRET"),
        "the source shows the query"
    );
    failure.kind()
}

#[tokio::test]
async fn every_fault_of_a_connected_server_has_its_kind() {
    let server = ChaosServer::start().await;
    let faults = [
        (FailureKind::Timeout, timeouts()),
        (FailureKind::Interrupted, interruptions()),
        (FailureKind::Other, garbage()),
    ];
    for (want, behaviours) in faults {
        for behaviour in behaviours {
            let text: String = format!("{behaviour:?}").chars().take(200).collect();
            assert_eq!(failure(&server, behaviour).await, want, "{text}");
        }
    }
}

fn timeouts() -> Vec<Behaviour> {
    vec![
        Behaviour::hang(),
        Behaviour::endless_informational(),
        Behaviour::trickle(1, Duration::from_millis(50)),
    ]
}

fn interruptions() -> Vec<Behaviour> {
    vec![
        Behaviour::cut_request(0),
        Behaviour::cut_request(30),
        Behaviour::cut_request(100_000),
        Behaviour::drop_answer(),
        Behaviour::cut_response(0, Break::Reset),
        Behaviour::cut_response(1, Break::Reset),
        Behaviour::cut_response(1, Break::Close),
        Behaviour::cut_response(25, Break::Close),
    ]
}

fn garbage() -> Vec<Behaviour> {
    let long_head = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
        "y".repeat(2 * 1024 * 1024)
    );
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    vec![
        Behaviour::garbage("220 mail.example SMTP ready\r\n\r\n"),
        Behaviour::garbage("HTTP/9.9 200 OK\r\n\r\n"),
        Behaviour::garbage("HTTP/1.1 2xx OK\r\n\r\n"),
        Behaviour::garbage("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
        Behaviour::garbage(noise(4096)),
        Behaviour::garbage(long_head),
        Behaviour::garbage(many_headers),
    ]
}

#[tokio::test]
async fn a_request_that_is_cut_at_any_byte_is_interrupted() {
    let server = ChaosServer::start().await;
    for after in (0..200).step_by(7) {
        assert_eq!(
            failure(&server, Behaviour::cut_request(after)).await,
            FailureKind::Interrupted,
            "after {after}"
        );
    }
    assert!(server.effects().is_empty());
}

#[tokio::test]
async fn a_server_that_is_down_cannot_be_connected_to_until_it_is_up() {
    let server = ChaosServer::start().await;
    let transport = transport();
    assert!(send(&transport, get(server.at("/"))).await.is_ok());
    server.down().await;
    for _ in 0..3 {
        let failure = send(&transport, get(server.at("/")))
            .await
            .expect_err("refused");
        assert_eq!(failure.kind(), FailureKind::Connect, "{failure}");
    }
    server.up().await;
    assert!(send(&transport, get(server.at("/"))).await.is_ok());
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_dns() {
    let url = "http://no-such-host.invalid/".parse().expect("url");
    let failure = send(&transport(), get(url))
        .await
        .expect_err("no such host");
    assert_eq!(failure.kind(), FailureKind::Dns, "{failure}");
}

/// A listener with a full backlog drops the first packet of a connection, as a firewall does. So it is on Linux.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_black_hole_is_a_connect_timeout() {
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("bind");
    let full = socket.listen(1).expect("listen");
    let address = full.local_addr().expect("address");
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let connect = tokio::net::TcpStream::connect(address);
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(50), connect).await {
            waiting.push(stream);
        }
    }
    let url = format!("http://{address}/").parse().expect("url");
    let failure = send(&hasty(), get(url)).await.expect_err("no answer");
    assert_eq!(failure.kind(), FailureKind::ConnectTimeout, "{failure}");
}

#[tokio::test]
async fn the_timeout_of_a_request_counts_from_its_start_to_the_end_of_its_body() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::hang());
    let mut request = get(server.at("/"));
    *request.timeout_mut() = Some(Duration::from_millis(100));
    let failure = send(&transport(), request).await.expect_err("no answer");
    assert_eq!(failure.kind(), FailureKind::Timeout);

    server.next(Behaviour::trickle(50, Duration::from_millis(100)).body(noise(5_000)));
    let mut request = get(server.at("/"));
    *request.timeout_mut() = Some(Duration::from_millis(500));
    let response = send(&transport(), request).await.expect("a status");
    let error = in_time(response.bytes()).await.expect_err("cut");
    assert!(error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn a_body_that_falls_silent_ends_after_the_read_timeout() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nthe start";
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}/", listener.local_addr().expect("address"));
    let silent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        assert!(stream.read(&mut [0; 1024]).await.expect("read") > 0);
        stream.write_all(head.as_bytes()).await.expect("write");
        stream
    });
    let response = send(&hasty(), get(url.parse().expect("url")))
        .await
        .expect("a status");
    let error = in_time(response.bytes()).await.expect_err("silence");
    assert!(error.is_timeout(), "{error:?}");
    drop(silent);
}

#[tokio::test]
async fn what_cannot_be_sent_is_invalid() {
    let failure = send(&transport(), get("ftp://a.example/".parse().expect("url"))).await;
    assert_eq!(failure.expect_err("refused").kind(), FailureKind::Invalid);
}

#[cfg(not(feature = "rustls"))]
#[tokio::test]
async fn https_is_invalid_in_a_build_without_tls() {
    let failure = send(
        &transport(),
        get("https://a.example/".parse().expect("url")),
    )
    .await;
    assert_eq!(failure.expect_err("refused").kind(), FailureKind::Invalid);
}

#[tokio::test]
async fn a_body_that_breaks_while_it_leaves_is_interrupted_and_not_quoted() {
    let server = ChaosServer::start().await;
    let pieces = [Ok("start"), Err(std::io::Error::other("SECRET of the app"))];
    let body = Body::wrap_stream(futures_util::stream::iter(pieces));
    let failure = send(&transport(), post(server.at("/"), body))
        .await
        .expect_err("broken");
    assert_eq!(failure.kind(), FailureKind::Interrupted);
    assert!(!format!("{failure} {failure:?}").contains("SECRET"));
    assert!(server.effects().is_empty());
}

/// Goal: an upload that is slow but moves is not cut by the read timeout. Method: a server that answers after
/// six read timeouts, and a body whose size buys it the time.
#[tokio::test]
async fn a_big_request_gets_more_time_to_leave() {
    let server = ChaosServer::start().await;
    let hasty = transport_with(|timeouts| {
        timeouts.connect = Duration::from_millis(100);
        timeouts.read = Duration::from_millis(100);
    });
    server.always(Behaviour::status(200).after(Duration::from_millis(600)));
    let small = send(&hasty, post(server.at("/"), "small")).await;
    assert_eq!(small.expect_err("too slow").kind(), FailureKind::Timeout);
    let big = usize::try_from(Timeouts::UPLOAD_BYTES_PER_SECOND_MIN).expect("fits") * 2;
    assert!(send(&hasty, post(server.at("/"), noise(big))).await.is_ok());
}

#[tokio::test]
async fn noise_before_the_answer_does_no_harm() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::informational(&[100, 102, 103, 103]));
    let response = send(&transport(), post(server.at("/"), "x"))
        .await
        .expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(server.effects().len(), 1);
}

/// Goal: a keep-alive connection that the server closed while it was idle costs no attempt. Method: many rounds,
/// each with time for the close to arrive.
#[tokio::test]
async fn a_stale_connection_is_not_used() {
    let server = ChaosServer::start().await;
    let transport = transport();
    server.always(Behaviour::close_idle(Duration::ZERO));
    for round in 1..=20 {
        let response = send(&transport, post(server.at("/"), "x")).await;
        let response = response.unwrap_or_else(|e| panic!("round {round}: {e:?}"));
        response.bytes().await.expect("a body");
        server.wait_closed(round).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.connections(), 20);
}

/// Goal: one call is one attempt, also where reqwest would try again by itself.
#[tokio::test]
async fn one_call_is_one_request() {
    let server = ChaosServer::start().await;
    let transport = transport();
    for behaviour in [
        Behaviour::drop_answer(),
        Behaviour::cut_response(0, Break::Reset),
        Behaviour::status(503).header("retry-after", "0"),
    ] {
        let before = server.received().len();
        send(&transport, get(server.at("/")))
            .await
            .expect("warm up");
        server.next(behaviour);
        drop(send(&transport, post(server.at("/"), "x")).await);
        assert_eq!(server.received().len(), before + 2);
    }
}

/// Goal: no file descriptor left is this machine's trouble. It changes a limit of the whole process, so it runs
/// as a child of its own.
#[cfg(target_os = "linux")]
#[test]
fn out_of_file_descriptors_is_local() {
    const CHILD: &str = "SYNCVAULT_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_some() {
        return without_descriptors();
    }
    let me = std::env::current_exe().expect("this binary");
    let script = format!(
        "ulimit -n 40; exec '{}' --exact transport::failures::out_of_file_descriptors_is_local",
        me.display()
    );
    let child = std::process::Command::new("sh")
        .args(["-c", &script])
        .env(CHILD, "1")
        .output();
    let child = child.expect("run the child");
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[cfg(target_os = "linux")]
fn without_descriptors() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let server = ChaosServer::start().await;
        let transport = transport();
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        let failure = send(&transport, get(server.at("/")))
            .await
            .expect_err("no descriptor");
        assert_eq!(failure.kind(), FailureKind::Local, "{failure}");
        drop(hoard);
        assert!(send(&transport, get(server.at("/"))).await.is_ok());
    });
}
