//! Inside a transaction that somebody else commits: the outbox. The engine lives as long as the transaction does.

#[cfg(feature = "encrypt")]
use bytes::Bytes;

use super::Engine;
use super::append::{Incoming, check};
use super::queue::Queue;
use super::records::Kept;
use crate::action::Body;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Append, Appended};
#[cfg(feature = "encrypt")]
use crate::{
    action::Record,
    store::{Find, KeptKeyring},
};

/// Runs the queue for one append.
pub(in crate::store) fn append_within<E: Engine>(engine: E, append: Append) -> Result<Appended> {
    check(std::slice::from_ref(&append))?;
    let Body::Bytes(body) = append.body.clone() else {
        return Err(Error::invalid("the body of an outbox request is bytes"));
    };
    let mut queue = Queue::load(engine)?;
    queue.check_keyring(append.keyring)?;
    let body = Kept::Inline(body);
    let appended = queue.append(vec![Incoming { append, body }])?.pop();
    queue.commit()?;
    appended.ok_or_else(|| Error::new(ErrorKind::Storage, "the queue gave no result"))
}

#[cfg(feature = "encrypt")]
pub(in crate::store) fn keyring_within<E: Engine>(engine: E) -> Result<Option<KeptKeyring>> {
    Queue::load(engine)?.kept_keyring()
}

#[cfg(feature = "encrypt")]
pub(in crate::store) fn set_keyring_within<E: Engine>(
    engine: E,
    before: u64,
    keyring: Bytes,
) -> Result<Option<u64>> {
    let mut queue = Queue::load(engine)?;
    let set = queue.replace_keyring(Some(before), keyring)?;
    queue.commit()?;
    Ok(set)
}

#[cfg(feature = "encrypt")]
pub(in crate::store) fn get_within<E: Engine>(engine: E, find: &Find) -> Result<Option<Record>> {
    Queue::load(engine)?.get(find)
}
