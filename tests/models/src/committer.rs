//! The log's own committer under a model checker: threads, locks and sleeping words are the
//! checker's, the disk is simulated, and time moves when a thread of the test moves it. In each
//! schedule every call returns (a wake-up that is lost is a deadlock, which the checker reports),
//! and what was acknowledged is on the disk when the power goes at the end.
//!
//! `just shuttle N` runs N schedules of each scenario, half of them at random and half by the
//! checker's search for rare orders (PCT). Bugs that the scenarios must find are planted one by
//! one. A failure prints its schedule.

mod model;
mod scenarios;

use model::{check, schedules};

macro_rules! scenarios {
    ($($name:ident: $wanted:expr,)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), schedules(), scenarios::$name, &$wanted);
        })*
    };
}

scenarios! {
    appends_share_frames: ["acknowledged"],
    appends_overlap: ["acknowledged"],
    the_power_goes_among_others: ["poisoned", "acknowledged"],
    a_failed_write_among_others: ["poisoned", "acknowledged"],
    a_lone_append_beside_submissions: ["acknowledged"],
    submissions_are_waited_for_and_synced: ["acknowledged"],
    futures_are_served_by_the_committer: ["acknowledged"],
    an_abandoned_future_leaves_its_record: ["acknowledged"],
    a_time_limit_passes_at_any_moment: ["timed out", "acknowledged"],
    two_time_limits_beside_leaders: ["timed out", "acknowledged"],
    a_reservation_is_dropped: ["given up"],
    a_failed_write_reaches_everybody: ["poisoned", "acknowledged"],
    closing_races_with_appends: ["refused", "acknowledged"],
    the_last_handle_goes_with_submissions: ["acknowledged"],
    rotation_and_preparation: ["acknowledged"],
    tries_are_refused_and_ready_tells: ["no room"],
    those_who_come_back_share_a_frame: ["acknowledged", "shared"],
    a_held_frame_beside_others: ["acknowledged", "timed out"],
    a_held_frame_fails_or_is_closed: ["acknowledged", "poisoned", "refused"],
    several_writes_are_in_flight: ["acknowledged"],
    several_writes_beside_plain_ones: ["acknowledged"],
    several_writes_and_one_fails: ["poisoned", "acknowledged"],
    an_idle_log_attests: [],
    an_idle_log_attests_beside_appends: ["acknowledged", "attested"],
    an_idle_log_is_poisoned_or_closed: ["poisoned", "acknowledged"],
    what_is_sent_twice_is_stored_once: ["acknowledged", "again"],
    a_name_is_asked_for_twice: ["acknowledged"],
    a_tail_waits_for_more: ["acknowledged"],
    groups_are_woken_in_rows: ["timed out", "acknowledged"],
    rows_beside_several_writes: ["acknowledged"],
    rows_when_a_write_fails: ["poisoned", "acknowledged"],
}

/// Each bug is planted, and a scenario must find it.
mod planted {
    use super::model::{finds, tolerates};
    use super::scenarios;
    use sawmill::planted::{Bug, with_planted};

    #[test]
    fn acknowledged_at_submit() {
        finds(Bug::AcknowledgeAtSubmit, scenarios::appends_share_frames);
    }

    #[test]
    fn a_lost_wake_up() {
        finds(Bug::LostWakeup, scenarios::futures_are_served_by_the_committer);
    }

    #[test]
    fn leadership_handed_to_a_future() {
        finds(Bug::LeadershipToFuture, scenarios::futures_are_served_by_the_committer);
    }

    #[test]
    fn a_deadline_that_forgets_what_is_in_flight() {
        finds(Bug::DeadlineForgetsFlight, scenarios::a_time_limit_passes_at_any_moment);
    }

    #[test]
    fn a_frame_that_is_held_for_ever() {
        finds(Bug::PatienceWithoutEnd, scenarios::those_who_come_back_share_a_frame);
    }

    #[test]
    fn acknowledged_over_a_hole() {
        finds(Bug::DurableOverHole, scenarios::several_writes_and_one_fails);
    }

    /// Followers that never run again after they were woken: leaders wake the others.
    #[test]
    fn rows_that_forget_the_next() {
        tolerates(Bug::RowForgets, scenarios::groups_are_woken_in_rows);
    }

    /// The other way round: each row wakes the next, whatever leaders do.
    #[test]
    fn rows_that_leaders_forget() {
        tolerates(Bug::RowsForgotten, scenarios::groups_are_woken_in_rows);
    }

    #[test]
    fn rows_that_everybody_forgets() {
        with_planted(Bug::RowForgets, || {
            finds(Bug::RowsForgotten, scenarios::groups_are_woken_in_rows);
        });
    }

    #[test]
    fn an_idle_time_that_nobody_is_woken_for() {
        finds(Bug::RiseUnnoticed, scenarios::an_idle_log_attests);
    }

    #[test]
    fn durable_over_a_hole() {
        finds(Bug::DurableOverHole, scenarios::the_power_goes_among_others);
    }

    #[test]
    fn going_on_after_an_error() {
        finds(Bug::ContinueAfterError, scenarios::a_failed_write_reaches_everybody);
    }
}
