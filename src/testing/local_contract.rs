//! The contract suite of [`LocalStore`]: what every store of records must do, one rule per function, its name the fact. A store's
//! author runs them all with one macro:
//!
//! ```
//! use std::sync::Arc;
//! use syncvault::sync::{LocalStore, MemoryLocal};
//! use syncvault::testing::local_contract::LocalFactory;
//!
//! struct InMemory;
//!
//! impl LocalFactory for InMemory {
//!     type Place = MemoryLocal;
//!     fn place(&self) -> MemoryLocal {
//!         MemoryLocal::new()
//!     }
//!     async fn open(&self, place: &MemoryLocal) -> syncvault::Result<Arc<dyn LocalStore>> {
//!         Ok(Arc::new(place.clone()))
//!     }
//! }
//!
//! syncvault::local_contract!(InMemory);
//! ```

mod rules;

pub use rules::*;

use std::future::Future;
use std::sync::Arc;

use crate::error::Result;
use crate::sync::LocalStore;

/// Makes the stores under test. Their tables are `notes` and `tasks`; the fields that the rules write are `text`, `number`, `list`
/// and `more`, of any JSON value.
pub trait LocalFactory: Send + Sync {
    /// Where a store keeps its things. Dropping it cleans up.
    type Place: Send + Sync;

    /// A new, empty place.
    fn place(&self) -> Self::Place;

    /// A store on that place, before [`LocalStore::open`]. What an earlier one there committed is there.
    fn open(&self, place: &Self::Place)
    -> impl Future<Output = Result<Arc<dyn LocalStore>>> + Send;
}

/// Expands to one `#[tokio::test]` for each rule of the [contract suite](crate::testing::local_contract).
#[macro_export]
macro_rules! local_contract {
    ($factory:expr) => {
        $crate::__local_contract_rules!(
            $factory,
            rows_come_back_as_they_were_written
            any_text_is_an_id
            a_write_replaces_the_row
            fields_that_are_not_named_stay
            a_write_of_nothing_leaves_the_row_alone
            a_tombstone_is_read_and_not_listed
            pages_go_by_id_and_end
            unsynced_records_are_found_and_counted
            records_that_a_listing_missed_are_found
            old_tombstones_in_step_are_found
            removed_records_are_unknown
            state_and_checkpoint_are_committed_with_the_records
            tables_are_apart
            what_is_set_aside_is_kept_newest_first
            held_records_are_apart_from_tables_and_users
            clearing_a_table_leaves_nothing_of_it_but_what_is_held
            everything_is_there_after_a_restart
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __local_contract_rules {
    ($factory:expr, $($rule:ident)*) => {$(
        #[tokio::test]
        async fn $rule() {
            $crate::testing::local_contract::$rule(&$factory).await;
        }
    )*};
}
