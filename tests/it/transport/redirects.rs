//! Redirects: followed within the origin, never across it. What is not followed is the answer.

use reqwest::{Method, Request};
use syncvault::transport::{CredentialDesk, Credentials};

use super::{get, post, send, transport};
use crate::chaos_server::{Behaviour, ChaosServer};

#[tokio::test]
async fn within_the_origin_method_body_and_key_stay() {
    let server = ChaosServer::start().await;
    server.on("/old", Behaviour::redirect(308, "/new?x=1"));
    let mut request = post(server.at("/old"), "the body");
    request
        .headers_mut()
        .insert("idempotency-key", "k1".parse().expect("value"));
    let response = send(&transport(), request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.url().as_str(), server.at("/new?x=1").as_str());
    let received = server.received();
    assert_eq!(received.len(), 2);
    for request in &received {
        assert_eq!(
            (request.method.as_str(), &request.body[..]),
            ("POST", &b"the body"[..])
        );
        assert_eq!(request.key().as_deref(), Some("k1"));
    }
}

#[tokio::test]
async fn a_post_never_becomes_a_get() {
    let server = ChaosServer::start().await;
    server.on("/old", Behaviour::status(200));
    for status in [301, 302, 303] {
        server.next(Behaviour::redirect(status, "/new"));
        let response = send(&transport(), post(server.at("/old"), "x"))
            .await
            .expect("an answer");
        assert_eq!(response.status().as_u16(), status);
    }
    assert!(
        server
            .received()
            .iter()
            .all(|request| request.method == "POST")
    );
    server.next(Behaviour::redirect(302, "/new"));
    let response = send(&transport(), get(server.at("/old")))
        .await
        .expect("an answer");
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_circle_ends_and_is_the_answer() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::redirect(307, "/again"));
    let response = send(&transport(), get(server.at("/again")))
        .await
        .expect("an answer");
    assert_eq!(response.status(), 307);
    assert_eq!(server.received().len(), 6);
}

/// Goal: not one byte of a secret reaches another origin, whatever the redirect looks like.
#[tokio::test]
async fn no_secret_leaves_the_origin() {
    let home = ChaosServer::start().await;
    let away = ChaosServer::start().await;
    let desk = CredentialDesk::new(|_| async {
        Credentials::bearer("SECRET-token")
            .and("x-api-key", "SECRET-key")
            .and("cookie", "a=SECRET")
    });
    let port = away.address().port();
    let targets = [
        away.at("/steal").to_string(),
        format!("//127.0.0.1:{port}/steal"),
        format!("http://localhost:{port}/steal"),
        format!("http://user:pass@127.0.0.1:{port}/steal"),
        format!("\\\\127.0.0.1:{port}/steal"),
        format!("https://127.0.0.1:{}/steal", home.address().port()),
        format!("http://{}@127.0.0.1:{port}/steal", home.address()),
    ];
    for status in [301, 302, 303, 307, 308] {
        for target in &targets {
            for method in [Method::GET, Method::POST] {
                home.next(Behaviour::redirect(status, target));
                let mut request = Request::new(method, home.at("/start?SECRET"));
                desk.stamp(&mut request, None)
                    .await
                    .map(drop)
                    .expect("stamped");
                let response = send(&transport(), request).await.expect("an answer");
                assert_eq!(response.status().as_u16(), status, "{target}");
            }
        }
    }
    assert!(home.saw("SECRET"));
    assert_eq!(away.connections(), 0);
}

#[tokio::test]
async fn a_streamed_body_cannot_be_sent_twice_so_the_redirect_is_the_answer() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::redirect(307, "/new"));
    let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>("once")]);
    let request = post(server.at("/old"), reqwest::Body::wrap_stream(pieces));
    let response = send(&transport(), request).await.expect("an answer");
    assert_eq!(response.status(), 307);
}
