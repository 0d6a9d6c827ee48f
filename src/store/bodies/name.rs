//! The names of the files: `<id>.<run><number>.<kind>`. Only files with such a name are ours.

use crate::action::ActionId;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum FileKind {
    Body,
    Answer,
    /// The body of a cached answer.
    Cached,
}

impl FileKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Answer => "answer",
            Self::Cached => "cached",
        }
    }
}

/// Whose file it is, what it holds, and which run wrote it.
pub(super) fn parse(name: &str) -> Option<(ActionId, FileKind, u32)> {
    let mut parts = name.split('.');
    let (id, nonce, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = match kind {
        "body" => FileKind::Body,
        "answer" => FileKind::Answer,
        "cached" => FileKind::Cached,
        _ => return None,
    };
    let is_whole = parts.next().is_none() && nonce.len() == 16 && nonce.is_ascii();
    let run = u32::from_str_radix(nonce.get(..8)?, 16).ok()?;
    is_whole.then_some((id.parse().ok()?, kind, run))
}
