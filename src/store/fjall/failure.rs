//! The errors of fjall, in our kinds.

use std::io;

use crate::error::{Error, ErrorKind};
use crate::store::dir::kind_of;

fn io_of(error: &fjall::Error) -> Option<&io::Error> {
    match error {
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => Some(e),
        _ => None,
    }
}

/// What fails while opening, and not in the operating system, is damage; so is a file that is missing.
pub(super) fn unopenable(error: fjall::Error) -> Error {
    let kind = match (&error, io_of(&error)) {
        (fjall::Error::Locked, _) => ErrorKind::Locked,
        // A place in a file that its damaged table of contents names may be none.
        (_, Some(e)) if is_of_damage(e.kind()) => ErrorKind::Corrupt,
        (_, Some(e)) if e.raw_os_error().is_some() => kind_of(e),
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, "cannot open the database").with_source(error)
}

fn is_of_damage(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::InvalidInput)
}

/// A full disk is no kind of its own here: fjall does not tell whether anything of the batch is there.
pub(super) fn broken(what: &str, error: fjall::Error) -> Error {
    let hint = match error {
        fjall::Error::Poisoned => ": its background failed; the log (`fjall`, `lsm_tree`) says why",
        _ => "",
    };
    let text = format!("cannot {what} the database{hint}");
    Error::new(ErrorKind::Storage, text).with_source(error)
}
