//! Pages: how long lists are read, a bounded part at a time.

use crate::error::{Error, Result};
use crate::store::{Cursor, Part, Query};

/// Which page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Paging {
    after: Option<Cursor>,
    limit: usize,
}

/// A page of a list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Listing<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// The page after it; nothing = this was the last one.
    pub next: Option<Paging>,
}

impl Paging {
    /// The first page, with at most `limit` items: 1 to 1000.
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn query(&self, part: Part) -> Result<Query> {
        if !(1..=Query::LIMIT_MAX).contains(&self.limit) {
            let text = format!(
                "a page has 1 to {} items, not {}",
                Query::LIMIT_MAX,
                self.limit
            );
            return Err(Error::invalid(text));
        }
        let mut query = Query::first(part, self.limit);
        query.after = self.after.clone();
        Ok(query)
    }
}

impl Default for Paging {
    /// The first page, with at most 100 items.
    fn default() -> Self {
        Self::first(100)
    }
}

impl<T> Listing<T> {
    pub(crate) fn new(items: Vec<T>, limit: usize, next: Option<Cursor>) -> Self {
        Self {
            items,
            next: next.map(|after| Paging {
                after: Some(after),
                limit,
            }),
        }
    }
}
