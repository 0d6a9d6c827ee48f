//! The table of references: what each place takes, and what it says when a value does not fit.

use http::Method;

use super::*;
use crate::action::ResponseOf;
use crate::clock::Timestamp;

const BODY: &str = r#"{"id":70000000000000000001,"name":"a/b c","dots":"..","empty":"","ok":true,"none":null,
    "deep":[{"x~/y":1.50}],"url":"/items/7"}"#;

struct Case {
    request: StoredRequest,
    body: Bytes,
    answers: BTreeMap<ActionId, Answered>,
    of: ResponseOf,
}

fn case() -> Case {
    let id = ActionId::new();
    let mut answer = Answer::new(201, Timestamp::from_millis(1));
    answer.headers = vec![
        ("etag".into(), "\"v1\"".into()),
        ("location".into(), "7?a=b#c".into()),
    ];
    answer.body = Bytes::from_static(BODY.as_bytes());
    let url = Url::parse("https://a.example/v1/items/").expect("url");
    let child = Url::parse("https://a.example/v1/items/{id}/tags").expect("url");
    Case {
        request: StoredRequest::new(Method::PUT, child),
        body: Bytes::from_static(b"{ \"b\": 1.0e2, \"a\": [null, {\"item\": null}] }"),
        answers: BTreeMap::from([(id, Answered::new(Some(url), Some(answer)))]),
        of: ResponseOf::new(id),
    }
}

impl Case {
    fn with(mut self, into: Slot, from: ResponseValue) -> Self {
        self.request.references.push(Reference::new(into, from));
        self
    }

    fn filled(&self) -> Result<Filled, Unresolved> {
        fill(&self.request, self.body.clone(), &self.answers)
    }

    fn url(&self) -> String {
        let filled = self.filled().expect("it fits");
        assert!(filled.request.references.is_empty());
        filled.request.url.to_string()
    }

    fn why(&self) -> &'static str {
        self.filled().expect_err("it leads to nothing").why
    }
}

fn path(name: &str) -> Slot {
    Slot::Path(name.into())
}

#[test]
fn a_path_takes_one_segment_whatever_the_server_gives() {
    let made = |pointer: &str| {
        let case = case();
        let from = case.of.json(pointer);
        case.with(path("id"), from)
    };
    let at = |segment: &str| format!("https://a.example/v1/items/{segment}/tags");
    assert_eq!(made("/id").url(), at("70000000000000000001"));
    assert_eq!(made("/name").url(), at("a%2Fb%20c"));
    assert_eq!(made("/ok").url(), at("true"));
    assert_eq!(made("/deep/0/x~0~1y").url(), at("1.50"));
    assert_eq!(made("/dots").why(), "the value does not fit into a path");
    assert_eq!(made("/empty").why(), "the value is empty");
    for pointer in ["/none", "/deep", ""] {
        assert_eq!(
            made(pointer).why(),
            "the value is no text, number or truth value"
        );
    }
    for pointer in [
        "/nothing", "/deep/00", "/deep/1", "/deep/-", "/id/x", "/deep/+0",
    ] {
        assert_eq!(
            made(pointer).why(),
            "its answer has no such value",
            "{pointer}"
        );
    }
}

#[test]
fn a_url_is_relative_to_the_request_that_it_answers() {
    let from = |case: &Case, pointer: &str| case.of.json(pointer);
    let one = case();
    let location = one.of.header("Location");
    assert_eq!(
        one.with(Slot::Url, location).url(),
        "https://a.example/v1/items/7?a=b"
    );
    let one = case();
    let value = from(&one, "/url");
    assert_eq!(
        one.with(Slot::Url, value).url(),
        "https://a.example/items/7"
    );
}

#[test]
fn a_query_gets_one_pair_more() {
    let mut case = case();
    case.request.url = Url::parse("https://a.example/s?q=1").expect("url");
    let value = case.of.json("/name");
    let url = case.with(Slot::Query("after".into()), value).url();
    assert_eq!(url, "https://a.example/s?q=1&after=a%2Fb+c");
}

#[test]
fn a_header_takes_the_place_of_the_one_before() {
    let mut one = case();
    let headers = &mut one.request.headers;
    headers.insert("if-match", HeaderValue::from_static("*"));
    let etag = one.of.header("ETag");
    let filled = one.with(Slot::Header("if-match".into()), etag).filled();
    let headers = filled.expect("it fits").request.headers;
    let values: Vec<_> = headers.get_all("if-match").iter().collect();
    assert_eq!(values, ["\"v1\""]);
    let one = case();
    let none = one.of.header("last-modified");
    assert_eq!(
        one.with(path("id"), none).why(),
        "its answer has no such header"
    );
}

#[test]
fn a_body_is_changed_at_its_place_alone() {
    let one = case();
    let (id, deep, etag) = (
        one.of.json("/id"),
        one.of.json("/deep"),
        one.of.header("etag"),
    );
    let slot = |pointer: &str| Slot::Json(pointer.into());
    let one = one.with(slot("/a/1/item"), id).with(slot("/a/0"), deep);
    let filled = one.with(slot("/b"), etag).filled().expect("it fits");
    let want = br#"{ "b": "\"v1\"", "a": [[{"x~/y":1.50}], {"item": 70000000000000000001}] }"#;
    assert_eq!(filled.body, &want[..]);
    let one = case();
    let id = one.of.json("/id");
    assert_eq!(one.with(slot("/c"), id).why(), "the body has no such place");
}

#[test]
fn what_is_not_there_is_said() {
    let mut one = case();
    let value = one.of.json("/id");
    one = one.with(path("id"), value);
    let answered = one.answers.values_mut().next().expect("one");
    let answer = answered.answer.as_mut().expect("kept");
    answer.is_truncated = true;
    assert_eq!(
        one.why(),
        "its answer was longer than what is kept, or broke off"
    );
    let answered = one.answers.values_mut().next().expect("one");
    let answer = answered.answer.as_mut().expect("kept");
    answer.is_truncated = false;
    answer.body = Bytes::from_static(b"<html>");
    assert_eq!(one.why(), "its answer is not JSON");
    one.answers.clear();
    let unresolved = one.filled().expect_err("nothing there");
    let text = "{id} in the path, from \"/id\" of the answer: nothing of its answer is kept";
    assert_eq!(unresolved.to_string(), text);
}
