//! The store contract suite: what every [`Store`] must do, one rule per function, its name the fact.
//! The rules use nothing but the trait. A store's author runs them all with one macro:
//!
//! ```
//! use std::sync::Arc;
//! use syncvault::store::Store;
//! use syncvault::testing::contract::StoreFactory;
//!
//! struct MyStores;
//!
//! impl StoreFactory for MyStores {
//!     type Place = ();
//!     fn place(&self) {}
//!     async fn open(&self, (): &()) -> syncvault::Result<Arc<dyn Store>> {
//!         unimplemented!("open your store here")
//!     }
//! }
//!
//! syncvault::store_contract!(MyStores);
//! ```

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::error::Result;
use crate::store::Store;

pub mod amend;
pub mod append;
pub mod batches;
pub mod cache;
pub mod closed;
pub mod coalesce;
pub mod crowd;
pub mod dead;
pub mod direct;
mod draft;
pub mod dropped;
pub mod due;
pub mod expiry;
pub mod fills;
pub mod forget;
pub mod gates;
pub mod keys;
pub mod lease;
pub mod limits;
mod look;
pub mod notes;
pub mod pages;
pub mod parents;
pub mod restart;
pub mod restoring;
pub mod retention;
mod rig;
pub mod sealing;
pub mod settle;
pub mod snapshots;
pub mod walk;

/// Makes the stores under test.
pub trait StoreFactory: Send + Sync {
    /// Where a store keeps its things: a directory, a database, a shared engine in memory.
    /// Dropping it cleans up.
    type Place: Send + Sync;

    /// A new, empty place.
    fn place(&self) -> Self::Place;

    /// A store on that place, ready for [`Store::open`], which the rules call. What an earlier store on the
    /// same place wrote is there. An earlier one has been closed or [crashed](StoreFactory::crash).
    fn open(&self, place: &Self::Place) -> impl Future<Output = Result<Arc<dyn Store>>> + Send;

    /// Ends a store as a crash would: without [`Store::close`]. When it returns, its place can be opened again.
    /// As provided, it just drops the store.
    fn crash(&self, store: Arc<dyn Store>) -> impl Future<Output = ()> + Send {
        drop(store);
        std::future::ready(())
    }
}

/// Runs all rules in turn, for stores that are not tested with [`store_contract!`](crate::store_contract).
///
/// # Panics
///
/// When rules are broken, with their names, after all of them ran.
pub async fn run(factory: impl StoreFactory) {
    let mut broken: Vec<String> = Vec::new();
    macro_rules! run_each {
        ((), $($noun:ident { $($rule:ident)* })*) => {$($(
            let rule = AssertUnwindSafe($noun::$rule(&factory)).catch_unwind().await;
            if let Err(panic) = rule {
                broken.push(format!("{}: {}", stringify!($rule), text_of(&*panic)));
            }
        )*)*};
    }
    crate::__store_contract_rules!(run_each, ());
    let count = broken.len();
    assert!(
        broken.is_empty(),
        "{count} rules are broken:\n{}",
        broken.join("\n")
    );
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a text")
}

/// Expands to one `#[tokio::test]` for each rule of the [contract suite](crate::testing::contract).
///
/// The factory is an expression, made anew for each test. What follows it goes to the `tokio::test` attribute:
/// `store_contract!(MyStores, flavor = "multi_thread", worker_threads = 4)`.
#[macro_export]
macro_rules! store_contract {
    ($factory:expr $(, $($runtime:tt)*)?) => {
        $crate::__store_contract_rules!(
            $crate::__store_contract_tests,
            ($factory, ($($($runtime)*)?))
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_contract_tests {
    (($factory:expr, $runtime:tt), $($noun:ident { $($rule:ident)* })*) => {$($(
        #[tokio::test $runtime]
        async fn $rule() {
            $crate::testing::contract::$noun::$rule(&$factory).await;
        }
    )*)*};
}

/// The one list of all rules.
#[doc(hidden)]
#[macro_export]
macro_rules! __store_contract_rules {
    ($then:path, $with:tt) => {
        $then! { $with,
            amend {
                a_queued_action_can_be_cancelled
                a_cancel_that_comes_too_late_changes_nothing
                an_action_that_never_left_can_be_cancelled_after_an_attempt
                clear_cancels_what_is_queued_in_bounded_calls
                a_pause_is_kept
                an_answer_can_be_kept_later
                an_answer_is_not_kept_for_what_is_not_settled
                hasten_cuts_waits_that_the_app_did_not_set
                hasten_opens_gates_in_time
            }
            append {
                a_fresh_place_is_empty
                seq_grows_in_the_order_of_appends
                each_append_gets_its_own_result
                an_empty_batch_adds_nothing
                a_refused_append_does_not_stop_the_others
                a_record_reads_back_as_given
                the_told_record_is_the_kept_record
                a_revision_grows_with_every_change
                a_body_comes_back_byte_for_byte
                an_unknown_action_is_nothing
                an_action_is_found_by_id_and_key_in_each_state
            }
            batches {
                a_run_is_leased_in_one_commit
                a_run_is_leased_only_where_it_was_asked_for
                a_run_stays_within_its_limits
                a_run_ends_at_what_may_not_go_with_its_head
                what_may_have_been_sent_alone_joins_no_batch
                a_batch_takes_one_slot
                nothing_starts_before_the_whole_batch_is_settled
                each_member_of_a_batch_is_settled_by_its_own_lease
                one_advance_settles_a_batch_and_leases_the_next
                a_batch_is_leased_with_the_same_members_again
                a_batch_is_due_when_its_head_is
                a_crash_keeps_a_batch_together
                a_close_keeps_a_batch_together
                a_batch_that_lost_a_member_goes_one_by_one
                a_batch_that_nobody_asks_for_goes_one_by_one
                what_goes_alone_stays_alone
                what_is_told_to_go_again_may_join_another_batch
                a_freed_batch_makes_room_for_a_longer_one
                what_ended_is_of_no_batch
                a_rejected_member_blocks_its_lane_behind_the_batch
                a_member_of_a_batch_cannot_be_cancelled
                a_body_in_a_file_joins_a_batch
                a_batch_of_a_sealed_lane_is_told_by_its_head
            }
            cache {
                a_cached_answer_is_kept_under_its_name
                a_newer_answer_takes_the_place_of_its_predecessor
                the_least_recently_used_answers_go_first
                room_is_made_in_bounded_steps
                what_was_written_to_is_stale
                every_way_of_writing_makes_stale
                a_forgotten_principal_leaves_no_answers
                a_trimmed_cache_is_empty
                what_one_target_holds_is_bounded
            }
            closed {
                a_closed_store_does_nothing
                a_store_can_be_closed_twice
            }
            coalesce {
                a_newer_action_supersedes_an_untried_one
                a_tried_action_is_not_superseded
                only_the_same_key_in_the_same_lane_supersedes
                what_left_the_queue_is_not_superseded
                a_burst_coalesces_to_its_last
                what_waits_under_a_coalescing_key_is_found
                what_was_tried_and_never_left_is_superseded
                what_comes_back_is_passed_by_a_later_one
                over_nothing_keeps_both
                over_vacant_is_refused_when_something_waits
                a_successor_goes_where_it_was_told_to
                only_what_was_seen_is_taken_over
                a_merged_action_keeps_its_key
                two_that_cancel_out_leave_only_their_counts
                a_successor_may_be_sent_at_once
                of_many_that_want_one_place_each_gets_it_once
            }
            crowd {
                a_crowd_neither_repeats_nor_reorders
                a_crowd_with_one_key_makes_one_action
            }
            dead {
                a_dead_letter_keeps_everything
                a_lane_goes_on_after_a_dead_letter
                a_lane_waits_behind_a_dead_letter_that_blocks_it
                a_lane_waits_for_every_dead_letter_that_blocks_it
                a_requeued_dead_letter_goes_to_the_end_of_its_lane
                requeueing_the_dead_letter_frees_its_lane
                a_requeued_dead_letter_alone_in_its_lane_is_ready
                a_discarded_dead_letter_is_gone_but_counted
                only_dead_letters_are_requeued_or_discarded
                a_dead_letter_stays_until_somebody_acts
            }
            direct {
                a_direct_send_in_an_empty_lane_is_leased
                an_append_that_is_not_direct_is_queued
                only_side_by_side_runs_beside_another
                a_direct_send_never_overtakes_a_queued_action
                a_direct_send_never_overtakes_what_was_leased
                one_batch_leases_one_alone_of_a_lane
                a_direct_send_waits_at_a_closed_gate
                a_direct_send_waits_while_the_vault_is_paused
                a_direct_send_waits_in_a_blocked_lane
                a_direct_send_passes_a_dead_letter_that_stepped_aside
                a_failed_direct_send_keeps_its_place
                failed_sends_side_by_side_return_to_their_order
                a_returned_send_leaves_only_its_count
            }
            dropped {
                a_dropped_append_is_all_or_nothing
                a_dropped_advance_is_all_or_nothing
                a_dropped_amend_is_all_or_nothing
                a_dropped_open_leaves_nothing_behind
            }
            due {
                nothing_is_due_in_an_empty_store
                what_is_ready_is_due_now
                the_earliest_head_is_due
                a_retry_is_due_after_its_backoff
                what_waits_at_a_gate_is_due_when_it_opens
                an_expiry_is_due
                what_is_in_flight_is_not_due
                a_blocked_lane_is_not_due
                the_timer_always_moves_on
            }
            expiry {
                an_expired_head_is_not_leased
                an_action_is_sent_before_it_expires
                an_expired_action_need_not_be_the_head
                an_action_expires_once
                an_action_in_flight_does_not_expire
                a_lane_expires_in_part
            }
            fills {
                a_freed_child_is_given_out_until_it_is_filled_in
                what_was_filled_in_is_sent
                an_action_is_filled_in_once
                a_child_that_waits_is_not_filled_in
                what_cannot_be_filled_in_is_a_dead_letter
                an_answer_that_is_needed_outlives_retention
                a_late_child_needs_an_answer_that_is_kept
                a_child_in_need_can_be_cancelled
                a_child_in_need_comes_back_with_its_parent
                a_crowd_is_filled_in_page_by_page
            }
            forget {
                only_the_active_principals_actions_are_leased
                lanes_of_principals_are_apart
                a_forgotten_principal_leaves_nothing
                forgetting_goes_in_bounded_steps
                what_is_being_forgotten_is_not_leased
                a_dead_letter_being_forgotten_is_not_requeued
                a_late_settle_of_a_forgotten_action_changes_nothing
                the_gate_of_a_forgotten_principal_is_gone
                an_unknown_principal_is_forgotten_at_once
            }
            gates {
                a_closed_origin_holds_only_its_actions
                a_held_head_holds_its_lane
                a_closed_principal_holds_only_its_actions
                the_gate_of_nobody_holds_actions_without_a_principal
                an_action_waits_for_both_its_gates
                a_gate_is_replaced_by_its_key
                an_open_gate_lets_pass
                a_gate_is_open_at_its_time
                gates_come_back_at_open
                a_forced_origin_passes_its_closed_gate
                a_forced_origin_forces_nothing_else
                a_lease_sets_the_gate_that_follows_it
                gates_of_a_step_hold_its_own_leases
            }
            keys {
                a_key_is_taken_through_the_life_of_its_action
                an_id_is_the_key_of_an_action_without_one
                a_key_twice_in_one_batch_is_added_once
                a_delivered_key_is_free_after_its_retention
                a_returned_action_frees_its_key
                a_cancelled_action_frees_its_key
                an_expired_action_frees_its_key
                a_superseded_action_frees_its_key
                a_discarded_dead_letter_frees_its_key
                a_dead_letter_keeps_its_key_for_ever
                forgetting_an_old_action_leaves_the_key_with_its_successor
                a_forgotten_action_frees_its_key
            }
            lease {
                a_lane_gives_its_actions_in_order
                lanes_run_side_by_side
                slots_bound_a_lease
                origin_slots_bound_one_origin
                priority_chooses_among_lanes_and_never_within_one
                the_oldest_due_head_goes_first
                an_action_is_not_leased_before_its_time
                the_next_head_waits_for_its_own_time
                a_leased_action_is_maybe_sent_on_disk
                a_lease_counts_its_attempt_and_keeps_its_times
                an_uncertain_letter_that_is_sent_back_starts_anew
                the_first_attempt_that_may_have_left_survives_a_crash
                one_advance_settles_and_leases_the_next
                a_hot_lane_does_not_starve_others
                lanes_take_turns
                many_lanes_are_leased_at_once
            }
            limits {
                a_full_count_refuses_and_changes_nothing
                full_bytes_refuse_and_change_nothing
                a_batch_fills_the_queue_only_to_its_limit
                a_known_key_is_known_in_a_full_queue
                counted_bytes_follow_every_way_out
            }
            notes {
                a_note_is_kept_under_its_name
                a_note_over_its_limit_is_refused
            }
            pages {
                pending_actions_are_paged_lane_by_lane
                a_lane_shows_no_other_lanes_actions
                dead_letters_are_paged_oldest_first
                settled_actions_are_paged_oldest_first
                a_cursor_survives_changes_behind_and_before_it
                a_cursor_survives_a_restart
                a_lane_tells_what_it_holds
                the_oldest_pending_action_is_told
                a_requeued_dead_letter_is_as_old_as_it_was
            }
            parents {
                a_child_waits_for_its_parent
                a_child_waits_through_retries
                a_child_holds_its_lane_at_its_place
                a_child_is_not_sent_at_once
                a_parent_that_cannot_be_waited_for_is_refused
                a_parent_may_come_in_the_same_batch
                a_child_of_a_delivered_parent_waits_for_nothing
                a_child_waits_for_all_its_parents
                a_dead_parent_takes_its_children_along
                a_child_of_a_dead_parent_is_dead
                a_lane_may_wait_for_a_child_that_died
                requeueing_a_parent_revives_its_children
                a_child_is_not_requeued_before_its_parent
                a_child_of_two_dead_parents_comes_back_with_the_last
                a_parent_that_ends_otherwise_takes_its_children_along
                a_child_that_ended_is_left_alone
                a_parent_is_not_superseded
                a_direct_send_that_is_waited_for_is_not_returned
                a_parent_goes_before_children_that_were_not_looked_at
                a_crowd_of_children_is_freed_in_bounded_steps
                a_chain_dies_and_comes_back_in_bounded_steps
                forgetting_a_parent_takes_its_children_along
                children_are_put_back_with_their_parents
            }
            restart {
                a_restart_loses_nothing
                a_crash_takes_leases_back
                a_close_in_mid_attempt_takes_leases_back_too
                reclaimed_actions_keep_the_order_of_their_lane
                a_new_run_fences_the_old_one
                places_go_on_after_a_restart
                each_run_has_a_higher_epoch
            }
            restoring {
                everything_comes_back_as_it_was
                what_was_put_back_goes_its_way
                only_an_empty_store_takes_actions_back
                a_part_that_comes_again_changes_nothing
                nothing_else_is_taken_before_the_end
                what_was_in_flight_is_queued_as_maybe_sent
                what_is_not_whole_is_not_put_back
            }
            retention {
                retention_forgets_by_age
                retention_forgets_by_count
                retention_forgets_by_bytes
                retention_keeps_what_is_within_its_limits
                retention_forgets_every_kind_of_end
                retention_comes_to_an_end
            }
            sealing {
                a_body_of_files_is_replaced_around_them
                a_keyring_is_kept
                a_keyring_takes_the_place_of_the_one_that_was_read
                a_store_that_held_actions_takes_no_first_keyring
                what_is_sealed_under_another_keyring_is_refused
                values_are_replaced_in_their_place
                values_are_not_replaced_at_the_wrong_time
                what_is_set_aside_is_counted_and_stands_in_no_way
            }
            settle {
                a_delivered_action_is_kept_with_its_answer
                a_delivered_action_without_an_answer_has_none
                a_retry_returns_to_its_place
                a_retry_counts_only_when_told
                a_retry_that_is_due_is_leased_again
                a_stale_settle_changes_nothing
                a_settle_of_an_earlier_run_changes_nothing
                an_attempt_is_settled_once
                an_unknown_settle_is_nothing
                settles_answer_in_their_order
            }
            snapshots {
                a_snapshot_comes_back_byte_for_byte
                a_snapshot_survives_a_crash
                a_body_may_be_made_of_pieces
                a_snapshot_over_its_limit_is_refused
                a_snapshot_that_breaks_off_is_an_error_of_that_call
                a_snapshot_that_no_action_owns_harms_nothing
                a_refused_snapshot_leaves_the_kept_one
            }
            walk {
                a_random_walk_agrees_with_a_plain_list
                another_random_walk_agrees_with_a_plain_list
                short_random_walks_agree_with_a_plain_list
            }
        }
    };
}
