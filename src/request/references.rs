//! Requests that wait for others, and refer to their answers.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{RequestBuilder, bad};
use crate::action::{ActionId, Reference, ResponsePart, ResponseValue, Slot, StoredRequest};
use crate::decide::{has_json_slot, has_path_slot, split_credentials};
use crate::error::{Error, Result};
use crate::payload::{Content, Payload};
use crate::transport::Keep;

/// A request that waits for others.
impl RequestBuilder {
    /// Sends it only after that action is delivered: a [`Ticket`](crate::Ticket) or its id. Call it again for more, up to
    /// [32](crate::store::PARENTS_MAX).
    ///
    /// It waits at its place in its lane, and what is queued behind it there waits too: name another lane for what need not. When
    /// the other action becomes a dead letter, is cancelled or expires, this one becomes a dead letter
    /// ([`ParentDead`](crate::DeadReason::ParentDead)) and is never sent; [requeueing](crate::DeadLetters::requeue) the other one brings it
    /// back. An action that others wait for is not superseded by its coalescing key.
    ///
    /// A request that waits is always queued: `send()` gives [`Outcome::Queued`](crate::Outcome::Queued), and
    /// [`Delivery::Never`](crate::Delivery::Never) is an error. An action that is not known (any more), that was cancelled or expired, or
    /// that belongs to another principal is refused.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
    /// let photo = vault.put("/photos/7").lane("photos").body_file("/tmp/7.jpg").enqueue().await?;
    /// vault.post("/reports").json(&["photos/7"]).after(&photo).enqueue().await?;
    /// # Ok(()) }
    /// ```
    pub fn after(mut self, other: impl Into<ActionId>) -> Self {
        self.wait_for(other.into());
        self
    }

    fn wait_for(&mut self, id: ActionId) {
        if !self.parents.contains(&id) {
            self.parents.push(id);
        }
    }

    /// Puts a part of another action's answer in the place of `{name}` in the path, as one segment. The request waits for
    /// that action, as [`after`](Self::after) says.
    ///
    /// It is filled in once, when the other action is delivered, and stays the same at every attempt. A reference that leads to nothing, or
    /// to what does not fit, makes it a dead letter: [`Unresolved`](crate::DeadReason::Unresolved). The idempotency key stands for
    /// the request as it is written here.
    ///
    /// # Created offline, changed before the server knew it
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
    /// let created = vault.post("/todos").body(r#"{"text":"buy milk"}"#).enqueue().await?;
    /// let answer = vault.response_of(&created);
    /// vault.put("/todos/{id}")
    ///     .path_ref("id", answer.json("/id"))
    ///     .header_ref("if-match", answer.header("etag"))
    ///     .json(&["done"])
    ///     .enqueue()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn path_ref(self, name: impl Into<String>, value: ResponseValue) -> Self {
        self.refer(Slot::Path(name.into()), value)
    }

    /// Adds a pair to the query string, its value a part of another action's answer. See [`path_ref`](Self::path_ref).
    pub fn query_ref(self, name: impl Into<String>, value: ResponseValue) -> Self {
        self.refer(Slot::Query(name.into()), value)
    }

    /// Sets a header to a part of another action's answer, in place of earlier ones of that name. See
    /// [`path_ref`](Self::path_ref). Credentials are no such headers.
    pub fn header_ref<K>(self, name: K, value: ResponseValue) -> Self
    where
        K: TryInto<HeaderName, Error: Into<http::Error>>,
    {
        match name.try_into() {
            Ok(name) => self.refer(Slot::Header(name.as_str().to_owned()), value),
            Err(e) => self.edit(|_| Err(bad("a header name is not usable", e.into()))),
        }
    }

    /// Puts a part of another action's answer in the place of the value at a JSON pointer (RFC 6901) of the body: `/item/id`, say.
    /// That place must be there: `null` will do. See [`path_ref`](Self::path_ref).
    pub fn json_ref(self, pointer: impl Into<String>, value: ResponseValue) -> Self {
        self.refer(Slot::Json(pointer.into()), value)
    }

    /// Sends it to the URL that is a part of another action's answer: its `Location`, say. A relative one is relative to where that
    /// action went. It must be of the vault's origin, or of one that was
    /// [allowed](crate::SyncVaultBuilder::allow_origin): that is checked when it is filled in. See [`path_ref`](Self::path_ref).
    pub fn url_ref(self, value: ResponseValue) -> Self {
        self.refer(Slot::Url, value)
    }

    fn refer(mut self, into: Slot, from: ResponseValue) -> Self {
        self.wait_for(from.of);
        self.edit(|request| {
            check_part(&from.part)?;
            if request.references.len() == Reference::COUNT_MAX {
                let text = format!("a request has at most {} references", Reference::COUNT_MAX);
                return Err(Error::invalid(text));
            }
            request.references.push(Reference::new(into, from));
            Ok(())
        })
    }
}

fn check_part(part: &ResponsePart) -> Result<()> {
    match part {
        ResponsePart::Json(pointer) => check_pointer(pointer),
        ResponsePart::Header(name) => match HeaderName::try_from(name) {
            Ok(name) if Keep::default().keeps(&name) => Ok(()),
            Ok(name) => Err(Error::invalid(format!(
                "the header {name} of answers is not kept: see `transport::Keep`"
            ))),
            Err(e) => Err(bad("a header name is not usable", http::Error::from(e))),
        },
    }
}

fn check_pointer(pointer: &str) -> Result<()> {
    check_name(pointer)?;
    if pointer.is_empty() || pointer.starts_with('/') {
        return Ok(());
    }
    Err(Error::invalid(
        "a JSON pointer is empty or starts with a slash",
    ))
}

fn check_name(name: &str) -> Result<()> {
    match name.len() <= Reference::NAME_BYTES_MAX {
        true => Ok(()),
        false => Err(Error::invalid("a name in a reference is too long")),
    }
}

/// What can be found wrong with references before there is an answer.
pub(super) fn check(
    request: &StoredRequest,
    payload: &Payload,
    key_header: &HeaderName,
) -> Result<()> {
    let references = &request.references;
    let has_url = references.iter().any(|one| one.into == Slot::Url);
    for reference in references {
        match &reference.into {
            Slot::Url => {}
            Slot::Path(_) if has_url => {
                let text = "a URL that is a reference has no places of its own in its path";
                return Err(Error::invalid(text));
            }
            Slot::Path(name) => check_path(request, name)?,
            Slot::Query(name) => check_name(name)?,
            Slot::Header(name) => check_header(name, key_header)?,
            Slot::Json(pointer) => check_body(payload, pointer)?,
        }
    }
    let count = |slot| references.iter().filter(|one| one.into == slot).count();
    if count(Slot::Url) > 1 {
        return Err(Error::invalid("a request has one URL"));
    }
    Ok(())
}

fn check_path(request: &StoredRequest, name: &str) -> Result<()> {
    check_name(name)?;
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_word) {
        let text = "the name of a place in a path is made of letters, digits, `_` and `-`";
        return Err(Error::invalid(text));
    }
    match has_path_slot(&request.url, name) {
        true => Ok(()),
        false => Err(Error::invalid(format!("the path has no {{{name}}}"))),
    }
}

/// Neither a credential nor what each attempt makes anew.
fn check_header(name: &str, key_header: &HeaderName) -> Result<()> {
    let mut headers = HeaderMap::new();
    let name =
        HeaderName::try_from(name).map_err(|e| bad("a header name", http::Error::from(e)))?;
    let is_key = name == key_header;
    headers.insert(name.clone(), HeaderValue::from_static("x"));
    let (storable, _) = split_credentials(&headers);
    if is_key || storable.is_empty() {
        let text = format!("the header {name} cannot be a reference");
        return Err(Error::invalid(text));
    }
    Ok(())
}

fn check_body(payload: &Payload, pointer: &str) -> Result<()> {
    check_pointer(pointer)?;
    let (Content::Bytes(body), None) = (&payload.content, &payload.compression) else {
        let text = "references in a body need JSON in memory that is not compressed";
        return Err(Error::invalid(text));
    };
    match has_json_slot(body, pointer) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "the body is no JSON with a value at {pointer:?}: put `null` there"
        ))),
    }
}
