//! The version of a record, which the server gives: a number, or a text that only the server understands.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of a record, as the server told it. In JSON: a number or a string.
///
/// Two equal versions of a record mean the same content. Only numbers have an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Version {
    /// A number that grows with each change.
    Number(u64),
    /// An entity tag, a hash, a time: equal or not, and nothing more.
    Text(String),
}

impl Version {
    /// Which of the two is newer; nothing when the server's versions have no order.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(ours), Self::Number(theirs)) => Some(ours.cmp(theirs)),
            (ours, theirs) => (ours == theirs).then_some(Ordering::Equal),
        }
    }
}

impl From<u64> for Version {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Version {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_an_order_and_texts_have_none() {
        let table = [
            (Version::from(2), Version::from(1), Some(Ordering::Greater)),
            (Version::from(1), Version::from(1), Some(Ordering::Equal)),
            (Version::from("b"), Version::from("a"), None),
            (
                Version::from("a"),
                Version::from("a"),
                Some(Ordering::Equal),
            ),
            (Version::from("1"), Version::from(1), None),
        ];
        for (ours, theirs, want) in table {
            assert_eq!(ours.compare(&theirs), want, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn json_keeps_the_kind() {
        for version in [
            Version::from(u64::MAX),
            Version::from("7"),
            Version::from(""),
        ] {
            let text = serde_json::to_string(&version).expect("encode");
            let read: Version = serde_json::from_str(&text).expect("decode");
            assert_eq!(read, version);
        }
    }
}
