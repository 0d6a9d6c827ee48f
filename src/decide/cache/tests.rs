//! Which answers are kept and used, as tables.

use http::header::CACHE_CONTROL;

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn time(seconds: u64) -> Timestamp {
    Timestamp::from_millis(NOW + seconds * 1000)
}

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_str(value).expect("value"));
    }
    map
}

/// An answer that was asked for and came at `time(0)`.
fn answer(fields: &[(&'static str, &str)]) -> AnswerHead {
    let moments = Moments {
        asked: time(0),
        at: time(0),
    };
    let head = AnswerHead::new(&HeaderMap::new(), StatusCode::OK, &map(fields), moments);
    head.expect("storable")
}

fn usable(head: &AnswerHead, asked: &HeaderMap, max_stale: u64, trouble: Trouble, at: u64) -> bool {
    let terms = Terms {
        request: asked,
        max_stale: Duration::from_secs(max_stale),
        stale_since: None,
    };
    head.is_usable(&terms, trouble, time(at))
}

/// Goal: the table of who allows what. Method: an answer, a request, the last second at which it may be given.
#[test]
fn an_answer_may_be_given_until() {
    type Fields = &'static [(&'static str, &'static str)];
    let away = Trouble::Away;
    const HOUR: &str = "max-age=3600";
    #[rustfmt::skip]
    let table: &[(Fields, Fields, u64, Trouble, Option<u64>)] = &[
        (&[], &[], 0, away, None),
        (&[], &[], 60, away, Some(60)),
        (&[("cache-control", "max-age=10")], &[], 0, away, Some(9)),
        (&[("cache-control", "max-age=10")], &[], 60, away, Some(70)),
        (&[("cache-control", "max-age=10")], &[], 60, Trouble::Answered(429), Some(70)),
        (&[("cache-control", "max-age=10"), ("age", "4")], &[], 0, away, Some(5)),
        (&[("cache-control", "max-age=10, stale-if-error=50")], &[], 0, away, Some(60)),
        (&[("cache-control", "max-age=10, stale-if-error=50")], &[], 0, Trouble::Answered(503), Some(60)),
        (&[("cache-control", "max-age=10, stale-if-error=50")], &[], 0, Trouble::Answered(429), Some(9)),
        (&[("cache-control", "max-age=10, must-revalidate, stale-if-error=50")], &[], 60, away, Some(9)),
        (&[("cache-control", "no-cache, stale-if-error=50")], &[], 60, away, None),
        (&[("cache-control", "private, max-age=10")], &[], 0, away, Some(9)),
        (&[("cache-control", "max-age=10, s-maxage=90")], &[], 0, away, Some(9)),
        (&[("cache-control", "max-age=10, proxy-revalidate")], &[], 5, away, Some(15)),
        (&[("cache-control", HOUR)], &[("cache-control", "no-cache")], 60, away, None),
        (&[("cache-control", HOUR)], &[("pragma", "no-cache")], 60, away, None),
        (&[("cache-control", HOUR)], &[("cache-control", "max-age=20")], 0, away, Some(20)),
        (&[("cache-control", "max-age=100")], &[("cache-control", "min-fresh=40")], 0, away, Some(60)),
        (&[("cache-control", "max-age=10")], &[("cache-control", "max-stale=7")], 0, away, Some(17)),
        (&[("cache-control", "max-age=10")], &[("cache-control", "stale-if-error=7")], 0, away, Some(17)),
    ];
    for (told, asked, max_stale, trouble, want) in table {
        let (head, asked) = (answer(told), map(asked));
        let last = (0..4000).rfind(|at| usable(&head, &asked, *max_stale, *trouble, *at));
        assert_eq!(last, *want, "{told:?} {asked:?} {max_stale} {trouble:?}");
        let all = (0..=last.unwrap_or(0)).all(|at| usable(&head, &asked, *max_stale, *trouble, at));
        assert!(all || want.is_none(), "{told:?}: without a gap");
    }
}

#[test]
fn what_was_written_to_is_stale_since_then() {
    let head = answer(&[("cache-control", "max-age=3600")]);
    let asked = HeaderMap::new();
    let given = |max_stale, at| {
        let terms = Terms {
            request: &asked,
            max_stale: Duration::from_secs(max_stale),
            stale_since: Some(time(100)),
        };
        head.is_usable(&terms, Trouble::Away, time(at))
    };
    assert!(!given(0, 101));
    assert!(given(50, 150) && !given(50, 151));
    // The clock was set back since.
    assert!(given(50, 50) && !given(50, 49));
}

/// Symptom: one byte that is no ASCII hid `no-store` and `must-revalidate`. Cause: the whole header was not read.
#[test]
fn an_odd_byte_hides_no_directive() {
    let odd = |text: &[u8]| {
        let mut headers = HeaderMap::new();
        let text = [b"x=\"\xe9\", ", text].concat();
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_bytes(&text).expect("value"),
        );
        headers
    };
    assert!(!is_storable(&HeaderMap::new(), 200, &odd(b"no-store")));
    assert!(!is_cacheable(&Method::GET, &odd(b"no-store")));
    let moments = Moments {
        asked: time(0),
        at: time(0),
    };
    let told = odd(b"max-age=10, must-revalidate");
    let head = AnswerHead::new(&HeaderMap::new(), StatusCode::OK, &told, moments);
    let head = head.expect("head");
    assert!(!usable(&head, &HeaderMap::new(), 60, Trouble::Away, 20));
}

#[test]
fn the_age_counts_the_way_the_clock_and_what_others_told() {
    let head = answer(&[("age", "7")]);
    assert_eq!(head.age(time(3)), Duration::from_secs(10));
    let moments = Moments {
        asked: time(0),
        at: time(5),
    };
    let date = time(0).to_string();
    for (fields, age) in [
        (vec![], 5),
        (vec![("age", "2")], 7),
        (vec![("date", date.as_str())], 5),
    ] {
        let head = AnswerHead::new(&HeaderMap::new(), StatusCode::OK, &map(&fields), moments);
        let head = head.expect("head");
        assert_eq!(head.age(time(5)), Duration::from_secs(age), "{fields:?}");
    }
    let set_back = answer(&[]).age(Timestamp::from_millis(NOW - 60_000));
    assert_eq!(set_back, Duration::from_secs(60), "no younger than it is");
    let told = time(0).to_string();
    let late = time(3600).to_string();
    let head = answer(&[("date", &told), ("expires", &late)]);
    assert!(usable(&head, &HeaderMap::new(), 0, Trouble::Away, 3599));
    assert!(!usable(&head, &HeaderMap::new(), 0, Trouble::Away, 3600));
}

#[test]
fn what_may_be_kept() {
    type Field = (&'static str, &'static str);
    let ask = |fields: &[Field]| is_cacheable(&Method::GET, &map(fields));
    assert!(ask(&[]) && ask(&[("accept", "text/plain")]));
    for own in [
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("range", "bytes=0-1"),
        ("if-none-match", "\"1\""),
        ("if-modified-since", "x"),
        ("cache-control", "no-store"),
    ] {
        assert!(!ask(&[own]), "{own:?}");
    }
    assert!(is_cacheable(&Method::HEAD, &HeaderMap::new()));
    assert!(!is_cacheable(&Method::POST, &HeaderMap::new()));
    let keep = |status, fields: &[Field]| is_storable(&HeaderMap::new(), status, &map(fields));
    assert!(keep(200, &[]) && keep(404, &[]) && keep(200, &[("cache-control", "private")]));
    assert!(!keep(200, &[("cache-control", "no-store")]));
    assert!(!keep(200, &[("vary", "accept, *")]));
    for status in [201, 206, 304, 401, 403, 500, 503] {
        assert!(!keep(status, &[]), "{status}");
    }
}

#[test]
fn a_server_chooses_by_headers_of_the_request() {
    let told = map(&[("vary", "Accept-Language, Authorization"), ("vary", "X-A")]);
    let (german, english) = (
        map(&[("accept-language", "de")]),
        map(&[("accept-language", "en")]),
    );
    let moments = Moments {
        asked: time(0),
        at: time(0),
    };
    let head = AnswerHead::new(&german, StatusCode::OK, &told, moments).expect("head");
    assert!(head.is_for(&german) && !head.is_for(&english) && !head.is_for(&HeaderMap::new()));
    let other = map(&[("accept-language", "de"), ("x-a", "1")]);
    assert!(!head.is_for(&other));
    let unheard = map(&[("accept-language", "de"), ("x-b", "1")]);
    assert!(head.is_for(&unheard));
    let decoded = AnswerHead::decode(&head.encode().expect("encode")).expect("decode");
    assert!(decoded.is_for(&german) && !decoded.is_for(&english));
}

#[test]
fn no_secret_and_nothing_of_one_hop_is_kept() {
    let head = answer(&[
        ("set-cookie", "a=b"),
        ("www-authenticate", "Basic"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("link", "one"),
        ("link", "two"),
        ("x-utf", "\u{e4}"),
    ]);
    let decoded = AnswerHead::decode(&head.encode().expect("encode")).expect("decode");
    let names: Vec<_> = decoded.headers().iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["link", "link", "x-utf"]);
    assert_eq!(decoded.headers()["x-utf"].as_bytes(), "\u{e4}".as_bytes());
}

#[test]
fn not_modified_renews_what_it_is_about() {
    let head = answer(&[
        ("etag", "\"1\""),
        (CACHE_CONTROL.as_str(), "max-age=10"),
        ("content-type", "text/plain"),
        ("age", "3"),
    ]);
    let head = head.with_body(b"body");
    let moments = Moments {
        asked: time(100),
        at: time(101),
    };
    let told = map(&[
        ("etag", "W/\"1\""),
        ("cache-control", "max-age=60"),
        ("content-type", "text/html"),
    ]);
    let renewed = head.refreshed(&told, moments).expect("the same");
    assert_eq!(renewed.headers()["cache-control"], "max-age=60");
    assert_eq!(renewed.headers()["content-type"], "text/plain");
    assert_eq!(renewed.age(time(102)), Duration::from_secs(2));
    assert!(renewed.has_body(b"body") && !renewed.has_body(b"other"));
    assert!(
        head.refreshed(&map(&[("etag", "\"2\"")]), moments)
            .is_none()
    );
    assert!(head.refreshed(&HeaderMap::new(), moments).is_some());
    let given = renewed.given(&HeaderMap::new(), time(131), Given::Hit);
    assert_eq!(
        (&given["age"], &given["cache-status"]),
        (
            &HeaderValue::from_static("31"),
            &HeaderValue::from_static("SyncVault; hit; ttl=29"),
        )
    );
}
