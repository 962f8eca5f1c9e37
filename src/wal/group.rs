//! Those who wait for the same frame, or for the same sync.
//!
//! GROUP-1: a group gets one outcome. GROUP-2: who waits is woken once, for its own group, and the
//! one that may lead sleeps apart from the others, so that appointing it wakes nobody else.
//! GROUP-3: wakers of tasks run where their thread holds neither the write slot nor a lock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use std::task::Waker;

use crate::clock::{Clock, Sleeper};
use crate::error::{Error, Result};
use crate::planted::{Bug, planted};
use crate::sync::{Arc, Gate, Mutex, OnceLock, ROW, lock};

const ASLEEP: u32 = 0;
const LEAD: u32 = 1;
const DONE: u32 = 2;

/// Groups of more followers are woken in rows. Smaller ones are awake sooner if they are woken at
/// once: of 64 threads with 1 KiB rows cost 5 to 11 % of the records.
const LARGE: u32 = if cfg!(shuttle) { ROW } else { 32 };

/// The meeting point. Who is there is kept beside it, in [`Waiting`], under the log's mutex.
#[derive(Debug, Default)]
pub(crate) struct Group {
    outcome: OnceLock<Option<Error>>,
    candidate: Gate,
    followers: Gate,
    wakers: Mutex<Vec<Waker>>,
}

/// What ends a candidate's sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The write slot is its own now.
    Lead,
    /// Somebody else has done it.
    Done,
    /// Neither, until the moment that it set itself.
    Late,
}

impl Group {
    /// The outcome, once there is one.
    pub(crate) fn outcome(&self) -> Option<Result<()>> {
        let outcome = self.outcome.get()?;
        Some(outcome.as_ref().map_or(Ok(()), |error| Err(error.clone())))
    }

    /// Sleeps as a candidate; with a deadline on a clock, until that moment at most.
    pub(crate) fn wait_for_call(
        self: &Arc<Group>,
        clock: &dyn Clock,
        deadline_ns: Option<u64>,
    ) -> Call {
        let word = match deadline_ns {
            Some(deadline_ns) => {
                let sleeper: Weak<Group> = Arc::downgrade(self);
                clock.watch(sleeper);
                self.candidate.wait_until(ASLEEP, clock, deadline_ns)
            }
            None => self.candidate.wait_while(ASLEEP),
        };
        match word {
            LEAD => Call::Lead,
            ASLEEP => Call::Late,
            _ => Call::Done,
        }
    }

    /// Sleeps as a follower.
    pub(crate) fn wait(&self) -> Result<()> {
        self.followers.wait_while(ASLEEP);
        self.outcome().unwrap_or_else(|| unreachable!("GROUP-1: woken before the outcome"))
    }

    /// Sleeps as a follower until `deadline_ns` on a clock; `None` if there is no outcome by then.
    pub(crate) fn wait_until(
        self: &Arc<Group>,
        clock: &dyn Clock,
        deadline_ns: u64,
    ) -> Option<Result<()>> {
        let sleeper: Weak<Group> = Arc::downgrade(self);
        clock.watch(sleeper);
        self.followers.wait_until(ASLEEP, clock, deadline_ns);
        self.outcome()
    }

    /// Whether it was woken, and no follower sleeps any more.
    pub(super) fn is_through(&self) -> bool {
        self.followers.is_through(DONE)
    }

    /// The followers of a group with its outcome, once more: a row of them, or all.
    pub(super) fn again(self: &Arc<Group>, in_rows: bool) -> Resolved {
        let waiting = Waiting {
            group: Arc::clone(self),
            followers: 1,
            leader: Leader::None,
            futures: false,
            promised: false,
            durable: false,
        };
        Resolved { waiting, in_rows }
    }

    /// Tells the candidate to lead. After the log's mutex was released.
    pub(crate) fn appoint(&self) {
        self.candidate.open(LEAD);
    }
}

impl Sleeper for Group {
    fn time_moved(&self) {
        self.candidate.nudge();
        self.followers.nudge();
    }
}

/// Who leads a group's write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Leader {
    /// Nobody of the group waits in a blocking call.
    #[default]
    None,
    /// Somebody sleeps who may be told to.
    Asleep,
    /// The same, and it looks after its frame itself when its patience ends.
    Patient,
    /// Somebody of the group does, or was told to.
    Appointed,
}

/// Who waits in a group: owned by whatever they wait for, changed under the log's mutex.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    group: Arc<Group>,
    leader: Leader,
    followers: u32,
    futures: bool,
    /// Somebody will join who copies its record first.
    promised: bool,
    /// Whether somebody waits for more than the kernel's word that it has the bytes.
    durable: bool,
}

/// How a blocking caller joined.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) group: Arc<Group>,
    /// Whether this caller may be told to lead.
    pub(crate) candidate: bool,
}

impl Waiting {
    /// Whether anybody waits.
    pub(crate) fn is_awaited(&self) -> bool {
        self.leader != Leader::None || self.followers > 0 || self.futures || self.promised
    }

    /// Whether somebody waits until it is durable.
    pub(crate) fn wants_durable(&self) -> bool {
        self.durable
    }

    /// Joins as a blocking caller who waits until it is durable. The first one may be told to lead.
    pub(crate) fn join(&mut self) -> Ticket {
        self.durable = true;
        self.join_written()
    }

    /// As [`Waiting::join`], for who is content when the kernel has the bytes.
    pub(crate) fn join_written(&mut self) -> Ticket {
        let candidate = self.leader == Leader::None;
        if candidate {
            self.leader = Leader::Asleep;
        } else {
            self.followers += 1;
        }
        Ticket { group: Arc::clone(&self.group), candidate }
    }

    /// Whether these are the ones who meet there.
    pub(crate) fn is_of(&self, group: &Group) -> bool {
        std::ptr::eq(&raw const *self.group, group)
    }

    /// Whether the candidate looks after its frame itself when nobody else does.
    pub(super) fn is_patient(&self) -> bool {
        self.leader == Leader::Patient
    }

    /// Takes note that the candidate sleeps until a deadline, and then looks after its frame.
    pub(super) fn set_patient(&mut self) {
        debug_assert_eq!(self.leader, Leader::Asleep);
        self.leader = Leader::Patient;
    }

    /// Takes note that the candidate's deadline has passed: it has to be told from now on.
    pub(super) fn end_patience(&mut self) {
        if self.is_patient() {
            self.leader = Leader::Asleep;
        }
    }

    /// Takes note that the candidate leads now, who did not have to be told.
    pub(crate) fn set_leading(&mut self) {
        self.leader = Leader::Appointed;
    }

    /// Takes note that a leader sleeps again, before the outcome is there: as the candidate that
    /// it was if `queued`, so that it can be told once more, or else as a follower. Returns whether
    /// it is the candidate.
    pub(crate) fn stand_back(&mut self, candidate: bool, queued: bool) -> bool {
        let candidate = candidate && queued;
        if candidate {
            // Nobody opens it now: who appointed the caller has done so, and it was awake.
            self.group.candidate.swap(ASLEEP);
            self.leader = Leader::Asleep;
        } else {
            self.followers += 1;
        }
        candidate
    }

    /// Says that the caller will join, and whether it waits until the group is durable.
    pub(crate) fn promise(&mut self, durable: bool) {
        self.promised = true;
        self.durable |= durable;
    }

    /// Joins without ever leading: what is being written already, or will be by somebody else.
    pub(crate) fn follow(&mut self) -> Ticket {
        self.followers += 1;
        Ticket { group: Arc::clone(&self.group), candidate: false }
    }

    /// As [`Waiting::follow`], waiting until it is durable.
    pub(crate) fn follow_durable(&mut self) -> Ticket {
        self.durable = true;
        self.follow()
    }

    /// Joins as a future that waits until it is durable.
    pub(crate) fn join_future(&mut self, waker: &Waker) {
        self.durable = true;
        self.futures = true;
        let mut wakers = lock(&self.group.wakers);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    /// Takes note that the candidate leads, or is about to be told; `None` if there is none asleep.
    pub(crate) fn appoint(&mut self) -> Option<Arc<Group>> {
        let future = planted(Bug::LeadershipToFuture) && self.futures;
        if !(self.has_candidate() || future && self.leader == Leader::None) {
            return None;
        }
        self.leader = Leader::Appointed;
        Some(Arc::clone(&self.group))
    }

    /// Whether somebody sleeps who may be told to lead.
    pub(crate) fn has_candidate(&self) -> bool {
        matches!(self.leader, Leader::Asleep | Leader::Patient)
    }

    /// Fixes the outcome. Whoever comes from now on reads it; who sleeps is woken by
    /// [`Resolved::wake`].
    pub(crate) fn resolve(self, outcome: Option<Error>) -> Resolved {
        let first = self.group.outcome.set(outcome).is_ok();
        assert!(first, "GROUP-1: one outcome");
        Resolved { waiting: self, in_rows: false }
    }
}

/// A group with its outcome, whose members have yet to be woken.
#[derive(Debug)]
#[must_use = "its members sleep until they are woken"]
pub(crate) struct Resolved {
    waiting: Waiting,
    /// Whether followers wake one another.
    in_rows: bool,
}

/// Also if the leader panics that should have woken them.
impl Drop for Resolved {
    fn drop(&mut self) {
        self.wake_callers();
    }
}

impl Resolved {
    /// Wakes everybody, once. Of several groups all blocked callers before any task.
    pub(crate) fn wake(groups: Vec<Resolved>) {
        let mut groups = groups;
        groups.retain_mut(Resolved::wake_callers);
        groups.into_iter().for_each(Resolved::wake_tasks);
    }

    /// Wakes those who sleep in a call; returns whether there are tasks to wake besides. After the
    /// log's mutex was released.
    pub(crate) fn wake_callers(&mut self) -> bool {
        let Waiting { group, leader, followers, futures, .. } = &mut self.waiting;
        if std::mem::take(followers) > 0 {
            match self.in_rows {
                true => group.followers.open_in_rows(DONE),
                false => group.followers.open(DONE),
            }
        }
        match std::mem::take(leader) {
            Leader::Asleep | Leader::Patient => group.candidate.open(DONE),
            // It may have been told and not yet be awake: it looks at the outcome itself.
            Leader::Appointed | Leader::None => {}
        }
        *futures
    }

    /// Has followers wake one another, if there are enough, and returns the group that then has to
    /// be listed (ROWS-1).
    pub(super) fn set_in_rows(&mut self) -> Option<Arc<Group>> {
        self.in_rows = self.waiting.followers > LARGE;
        self.in_rows.then(|| Arc::clone(&self.waiting.group))
    }

    /// Whether tasks are to be woken.
    pub(crate) fn has_tasks(&self) -> bool {
        self.waiting.futures
    }

    /// Wakes tasks. A waker is user code: it may append, close the log or drop its last handle, so
    /// the write slot and every lock have been given away before (GROUP-3). It may panic, too:
    /// that is its task's affair, and the next ones are still woken.
    fn wake_tasks(self) {
        let wakers = std::mem::take(&mut *lock(&self.waiting.group.wakers));
        for waker in wakers {
            catch_unwind(AssertUnwindSafe(|| waker.wake())).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::error::ErrorKind;
    use crate::sync::spawn;

    #[test]
    fn first_leads_others_follow_and_all_get_the_outcome() {
        let mut waiting = Waiting::default();
        assert!(!waiting.is_awaited());
        let (first, second) = (waiting.join(), waiting.join());
        assert!(first.candidate && !second.candidate && waiting.has_candidate());
        let candidate =
            spawn("candidate", move || first.group.wait_for_call(&SystemClock, None)).unwrap();
        let follower = spawn("follower", move || second.group.wait()).unwrap();
        waiting.appoint().unwrap().appoint();
        assert_eq!(candidate.join().unwrap(), Call::Lead);
        assert!(waiting.appoint().is_none(), "appointed once");
        Resolved::wake(vec![waiting.resolve(Some(Error::new(ErrorKind::Poisoned, "why")))]);
        assert_eq!(follower.join().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
    }

    #[test]
    fn a_candidate_who_was_not_needed_is_told_so() {
        let mut waiting = Waiting::default();
        let ticket = waiting.join();
        let group = Arc::clone(&ticket.group);
        let candidate =
            spawn("candidate", move || group.wait_for_call(&SystemClock, None)).unwrap();
        Resolved::wake(vec![waiting.resolve(None)]);
        assert_eq!(candidate.join().unwrap(), Call::Done);
        ticket.group.outcome().unwrap().unwrap();
    }

    #[test]
    fn who_should_have_been_woken_by_a_leader_that_panics_is_woken() {
        let mut waiting = Waiting::default();
        let (first, second) = (waiting.join(), waiting.join());
        let candidate =
            spawn("candidate", move || first.group.wait_for_call(&SystemClock, None)).unwrap();
        let follower = spawn("follower", move || second.group.wait()).unwrap();
        let resolved = vec![waiting.resolve(None)];
        let leads = spawn("leader", move || {
            let _resolved = resolved;
            panic!("a leader panics before it wakes anybody");
        });
        leads.unwrap().join().unwrap_err();
        assert_eq!(candidate.join().unwrap(), Call::Done);
        follower.join().unwrap().unwrap();
    }
}
