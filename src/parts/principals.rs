//! Whose actions are sent. In memory only: after a restart nobody is active until the app says who is, so that nothing
//! goes out for a user who has left.

use std::collections::HashSet;
use std::fmt;

use crate::store::Whose;

/// The principal that is active, and those that are being forgotten or have been.
#[derive(Default)]
pub(crate) struct Principals {
    /// Requests that name no principal belong to it.
    active: Option<String>,
    is_everybody_sent: bool,
    forgotten: HashSet<String>,
}

impl Principals {
    pub(crate) fn new(active: Option<String>, is_everybody_sent: bool) -> Self {
        Self {
            active,
            is_everybody_sent,
            forgotten: HashSet::new(),
        }
    }

    pub(crate) fn active(&self) -> Option<&str> {
        self.active.as_deref()
    }

    pub(crate) fn switch(&mut self, active: Option<String>) {
        if let Some(principal) = &active {
            self.forgotten.remove(principal);
        }
        self.active = active;
    }

    /// From now on nothing of it leaves, and nothing is kept of what is on its way.
    pub(crate) fn forget(&mut self, principal: &str) {
        self.active.take_if(|active| active == principal);
        self.forgotten.insert(principal.to_owned());
    }

    /// The app has made a request for it: what came before stays forgotten, this does not.
    pub(crate) fn welcome(&mut self, principal: &str) {
        self.forgotten.remove(principal);
    }

    pub(crate) fn is_forgotten(&self, principal: Option<&str>) -> bool {
        principal.is_some_and(|principal| self.forgotten.contains(principal))
    }

    /// May something be sent on its behalf now?
    pub(crate) fn allows(&self, principal: Option<&str>) -> bool {
        self.whose().allows(principal) && !self.is_forgotten(principal)
    }

    pub(crate) fn whose(&self) -> Whose {
        match self.is_everybody_sent {
            true => Whose::Everybody,
            false => Whose::Only(self.active.clone()),
        }
    }
}

/// Without names: those of users stay out of logs.
impl fmt::Debug for Principals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principals")
            .field("is_active", &self.active.is_some())
            .field("is_everybody_sent", &self.is_everybody_sent)
            .finish_non_exhaustive()
    }
}
