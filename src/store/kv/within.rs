//! Appending inside a transaction that somebody else commits: the outbox.

use super::append::Incoming;
use super::queue::Queue;
use super::records::Kept;
use super::{Engine, check};
use crate::action::Body;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Append, Appended};

/// Runs the queue for one append, over an engine that lives as long as the transaction does.
pub(in crate::store) fn append_within<E: Engine>(engine: E, append: Append) -> Result<Appended> {
    check(std::slice::from_ref(&append))?;
    let Body::Bytes(body) = append.body.clone() else {
        return Err(Error::invalid("the body of an outbox request is bytes"));
    };
    let mut queue = Queue::load(engine)?;
    let body = Kept::Inline(body);
    let appended = queue.append(vec![Incoming { append, body }])?.pop();
    queue.commit()?;
    appended.ok_or_else(|| Error::new(ErrorKind::Storage, "the queue gave no result"))
}
