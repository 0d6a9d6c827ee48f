//! Which batch an action is part of: kept in its record, so that what may have been sent together goes together again,
//! also after a crash.

use serde::{Deserialize, Serialize};

use super::id::ActionId;

/// A run of actions of one lane that leave in one request. Its members name it, each in its own record.
///
/// A batch is known by its first member and by the number of that member's attempt when it was formed: no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Batch {
    /// Its first member.
    pub head: ActionId,
    /// The number of the first member's attempt with which it was formed.
    pub no: u32,
    /// How many members it has.
    pub of: u32,
    /// The place of this member, from 0.
    pub place: u32,
}

impl Batch {
    /// The batch that `head` forms with its attempt `no`, as its first member knows it.
    #[must_use]
    pub fn new(head: ActionId, no: u32, of: u32) -> Self {
        let place = 0;
        Self {
            head,
            no,
            of,
            place,
        }
    }

    /// The same batch, as another member knows it.
    #[must_use]
    pub fn at(self, place: u32) -> Self {
        Self { place, ..self }
    }

    /// Are both of one batch?
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.head, self.no, self.of) == (other.head, other.no, other.of)
    }

    /// The idempotency key of its request: the same at each attempt, and no action's own.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}-{}", self.head, self.no)
    }
}

/// What batches may make of an action. An action without it may join one as long as nothing of it ever left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Batching {
    /// The server may have seen it in this batch: the members go again together, in their order, under the batch's key.
    Together(Batch),
    /// A batch's answer told to try it again: it may join another one.
    Again,
    /// It goes alone.
    // What a newer version says of batches, this one does not understand: alone is always right.
    #[serde(other)]
    Singly,
}

impl Batching {
    /// The batch, for a member of one.
    #[must_use]
    pub fn batch(&self) -> Option<&Batch> {
        match self {
            Self::Together(batch) => Some(batch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_as_written_and_what_is_not_known_goes_alone() {
        let batch = Batch::new(ActionId::new(), 3, 5);
        for batching in [
            Batching::Together(batch.at(2)),
            Batching::Again,
            Batching::Singly,
        ] {
            let text = serde_json::to_string(&batching).expect("serialize");
            let read: Batching = serde_json::from_str(&text).expect("parse");
            assert_eq!(read, batching);
        }
        let newer: Batching = serde_json::from_str(r#"{"is":"of_tomorrow","n":1}"#).expect("parse");
        assert_eq!(newer, Batching::Singly);
    }

    #[test]
    fn each_batch_has_a_key_of_its_own() {
        let (one, two) = (ActionId::new(), ActionId::new());
        let batch = Batch::new(one, 1, 2);
        assert_eq!(batch.key(), batch.at(1).key());
        assert!(batch.is_same(&batch.at(1)));
        for other in [Batch::new(one, 2, 2), Batch::new(two, 1, 2)] {
            assert_ne!(batch.key(), other.key());
            assert!(!batch.is_same(&other));
        }
    }
}
