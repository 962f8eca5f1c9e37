//! One attempt at one partition of one operator, as the nodes below it see it.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::mem::ManuallyDrop;

use super::accumulator;
use super::node::{Held, Meta, OperatorId};
use super::plan::Plan;
use super::run::RunContext;
use super::store::Slot;
use super::suspect::{InputRow, current};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// An operator, its partition, and the encoded rows of that.
type Offer = (OperatorId, u32, Vec<u8>);

/// What all nodes of one attempt share.
pub(crate) struct Attempt<'r> {
    run: &'r RunContext,
    plan: &'r Plan,
    /// A held partition or bucket was not there: not a failure, but something to compute first.
    lost: Cell<bool>,
    /// Whether closures may add to accumulators.
    tallies: bool,
    /// Persisted partitions that were computed on the way.
    offers: RefCell<Vec<Offer>>,
    /// The operator in whose closure the first failure arose.
    blamed: Cell<Option<OperatorId>>,
    /// The row of the input that was on its way then.
    row: Cell<Option<InputRow>>,
}

impl<'r> Attempt<'r> {
    pub(crate) fn new(run: &'r RunContext, plan: &'r Plan) -> Attempt<'r> {
        let tallies = accumulator::in_use();
        Attempt {
            run,
            plan,
            lost: Cell::new(false),
            tallies,
            offers: RefCell::default(),
            blamed: Cell::new(None),
            row: Cell::new(None),
        }
    }

    pub(crate) fn lost(&self) -> bool {
        self.lost.get()
    }

    pub(crate) fn blamed(&self) -> Option<OperatorId> {
        self.blamed.get()
    }

    pub(crate) fn row(&self) -> Option<InputRow> {
        self.row.get()
    }

    /// EXEC-2: the attempt has succeeded; what it computed on the way is kept.
    pub(crate) fn keep_offers(&self) {
        for (operator, partition, bytes) in self.offers.take() {
            let size = bytes.len();
            self.run.store().keep(operator, partition, Held::new(bytes, size));
        }
    }

    fn blame(&self, operator: OperatorId) {
        if self.blamed.get().is_none() {
            self.blamed.set(Some(operator));
            self.row.set(current());
        }
    }
}

/// One attempt at one partition. What it computes becomes visible only when it has succeeded.
#[derive(Clone, Copy)]
pub(crate) struct Task<'r> {
    attempt: &'r Attempt<'r>,
    partition: u32,
}

/// Lays a panic to the operator whose code it passes.
struct Blame<'p>(&'p Plain<'p>);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        let Plain(attempt, operator) = self.0;
        attempt.blame(*operator);
    }
}

/// The ways to call user code of an operator.
pub(crate) enum Calls<'t> {
    Tallied(Tallied<'t>),
    Plain(Plain<'t>),
}

/// Calls user code of an operator that may add to accumulators.
pub(crate) struct Tallied<'t>(&'t Task<'t>, &'t Meta);

impl Tallied<'_> {
    pub(crate) fn call<T>(&self, user: impl FnOnce() -> T) -> T {
        self.0.call_counted(self.1, user)
    }
}

/// Calls user code of an operator that has none to add to: that costs nothing when all goes well.
pub(crate) struct Plain<'t>(&'t Attempt<'t>, OperatorId);

impl Plain<'_> {
    #[inline]
    pub(crate) fn call<T>(&self, user: impl FnOnce() -> T) -> T {
        let blame = Blame(self);
        let result = user();
        // Only unwinding may reach its drop.
        let _done = ManuallyDrop::new(blame);
        result
    }
}

impl<'r> Task<'r> {
    pub(crate) fn new(attempt: &'r Attempt<'r>, partition: u32) -> Task<'r> {
        Task { attempt, partition }
    }

    /// The partition to compute, of the node that is asked.
    pub(crate) fn partition(&self) -> u32 {
        self.partition
    }

    /// The same attempt, at another partition of a parent.
    pub(crate) fn at(&self, partition: u32) -> Task<'r> {
        Task { attempt: self.attempt, partition }
    }

    /// The run this is part of.
    pub(crate) fn run(&self) -> &'r RunContext {
        self.attempt.run
    }

    /// Number of partitions of a node of this plan.
    pub(crate) fn partitions_of(&self, operator: OperatorId) -> u32 {
        self.attempt.plan.partitions_of(operator)
    }

    /// Calls user code of an operator: a panic in it is laid to that operator. Costs nothing when
    /// all goes well.
    #[inline]
    pub(crate) fn call<T>(&self, meta: &Meta, user: impl FnOnce() -> T) -> T {
        if self.attempt.tallies {
            return self.call_counted(meta, user);
        }
        Plain(self.attempt, meta.id).call(user)
    }

    /// How user code of an operator is called, for many rows.
    pub(crate) fn calls<'t>(&'t self, meta: &'t Meta) -> Calls<'t> {
        match self.attempt.tallies {
            true => Calls::Tallied(Tallied(self, meta)),
            false => Calls::Plain(Plain(self.attempt, meta.id)),
        }
    }

    /// Lays a failure to an operator, unless one was laid to another before.
    pub(crate) fn blame(&self, meta: &Meta) {
        self.attempt.blame(meta.id);
    }

    /// The same where closures may add to accumulators. Apart, because what it needs of registers
    /// and stack each row of every operator would pay for.
    #[cold]
    #[inline(never)]
    fn call_counted<T>(&self, meta: &Meta, user: impl FnOnce() -> T) -> T {
        let plain = Plain(self.attempt, meta.id);
        let blame = Blame(&plain);
        let result = accumulator::at((meta.id, self.partition), user);
        let _done = ManuallyDrop::new(blame);
        result
    }

    /// The error of user code that returned `Err`.
    pub(crate) fn refuse(&self, meta: &Meta, error: impl Display) -> Error {
        self.blame(meta);
        Error::new(ErrorKind::TaskFailed, error.to_string())
    }

    /// The held partition of a node that this one depends on.
    ///
    /// # Errors
    /// If it was lost meanwhile: return the error at once, the partition is computed first and
    /// the task then runs again.
    pub(crate) fn held<T: Send + Sync + 'static>(
        &self,
        operator: OperatorId,
        partition: u32,
    ) -> Result<Arc<T>> {
        self.get(operator, Slot::Partition(partition))
    }

    /// As [`Task::held`], of a node that may be cached: `None` if it is not there and is to be
    /// computed within this task.
    ///
    /// # Errors
    /// As [`Task::held`].
    pub(crate) fn kept<T: Send + Sync + 'static>(
        &self,
        operator: OperatorId,
        may_be_cached: bool,
    ) -> Result<Option<Arc<T>>> {
        let store = self.attempt.run.store();
        let slot = Slot::Partition(self.partition);
        if may_be_cached && store.budget().is_some() {
            return Ok(store.get(operator, slot).map(typed));
        }
        self.get(operator, slot).map(Some)
    }

    /// Offers a partition of a node that may be cached, to be kept if this attempt succeeds.
    pub(crate) fn offer(&self, operator: OperatorId, bytes: Vec<u8>) {
        self.attempt.offers.borrow_mut().push((operator, self.partition, bytes));
    }

    /// The bucket that map task `map` of a shuffle holds for reduce partition `reduce`.
    ///
    /// # Errors
    /// As [`Task::held`].
    pub(crate) fn bucket<T: Send + Sync + 'static>(
        &self,
        operator: OperatorId,
        map: u32,
        reduce: u32,
    ) -> Result<Arc<T>> {
        self.get(operator, Slot::Bucket { map, reduce })
    }

    fn get<T: Send + Sync + 'static>(&self, operator: OperatorId, slot: Slot) -> Result<Arc<T>> {
        let Some(held) = self.attempt.run.store().get(operator, slot) else {
            self.attempt.lost.set(true);
            return Err(Error::new(ErrorKind::TaskFailed, "a held partition was lost"));
        };
        Ok(typed(held))
    }
}

fn typed<T: Send + Sync + 'static>(held: Held) -> Arc<T> {
    held.value.downcast().unwrap_or_else(|_| {
        unreachable!("an operator holds partitions of one type, and its consumers know it")
    })
}
