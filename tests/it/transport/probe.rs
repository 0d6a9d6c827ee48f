//! Probes of an origin: what counts as reachable, what gives a login page away.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Url;
use syncvault::action::Origin;
use syncvault::connectivity::{AlwaysReachable, Connectivity, ProbeConnectivity, Reach};

use super::{client, in_time};
use crate::chaos_server::{Behaviour, ChaosServer};

fn probe() -> ProbeConnectivity {
    let probe = ProbeConnectivity::from_builder(client()).expect("a client");
    probe.with_timeout(Duration::from_millis(500))
}

fn origin(server: &ChaosServer) -> Origin {
    Origin::of(&server.at("/")).expect("an origin")
}

#[tokio::test]
async fn any_answer_but_a_login_page_counts() {
    let server = ChaosServer::start().await;
    let statuses = [
        (
            Reach::Reachable,
            &[200, 204, 301, 400, 401, 403, 404, 405, 429][..],
        ),
        (Reach::Troubled, &[500, 502, 503, 599]),
    ];
    for (want, statuses) in statuses {
        for status in statuses {
            server.next(Behaviour::status(*status));
            let reach = in_time(probe().probe(origin(&server))).await;
            assert_eq!(reach, want, "{status}");
        }
    }
    let elsewhere = "http://login.portal.example/?from=you";
    let table = [
        (Behaviour::status(511), Reach::Portal),
        (Behaviour::redirect(302, elsewhere), Reach::Portal),
        (Behaviour::redirect(307, "/health"), Reach::Reachable),
        (Behaviour::hang(), Reach::Unreachable),
        (Behaviour::drop_answer(), Reach::Unreachable),
        (Behaviour::garbage("hello"), Reach::Unreachable),
    ];
    for (behaviour, want) in table {
        let text = format!("{behaviour:?}");
        server.next(behaviour);
        assert_eq!(
            in_time(probe().probe(origin(&server))).await,
            want,
            "{text}"
        );
    }
    server.down().await;
    assert_eq!(
        in_time(probe().probe(origin(&server))).await,
        Reach::Unreachable
    );
}

#[tokio::test]
async fn a_probe_asks_for_the_base_path_of_its_own_origin_and_carries_nothing() {
    let server = ChaosServer::start().await;
    let other = ChaosServer::start().await;
    let base = format!("http://user:SECRET@{}/api/v1?SECRET", server.address());
    let probe = probe().with_base_url(&Url::parse(&base).expect("url"));
    in_time(probe.probe(origin(&server))).await;
    in_time(probe.probe(origin(&other))).await;
    let seen = |server: &ChaosServer| {
        let all = server.received().into_iter();
        all.map(|request| format!("{} {}", request.method, request.path))
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&server), ["HEAD /api/v1"]);
    assert_eq!(seen(&other), ["HEAD /"]);
    assert!(!server.saw("SECRET") && !server.saw("uthorization"));
}

/// Without events, hints do not come and nothing ends: listening costs nothing.
#[tokio::test]
async fn listening_is_quiet() {
    for connectivity in [&probe() as &dyn Connectivity, &AlwaysReachable::new()] {
        let mut changes = connectivity.changes();
        let next = tokio::time::timeout(Duration::from_millis(100), changes.next()).await;
        assert!(!matches!(next, Ok(None)), "a stream of hints must not end");
    }
}
