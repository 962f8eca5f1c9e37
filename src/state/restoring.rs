//! A partition of state that comes from a checkpoint, in pieces.
//!
//! STATE-8: the partition is as it was until all of its bytes have come and are such state.

use super::State;
use super::codec::Loading;
use super::operator::{KeyedState, OperatorState};
use super::table::StateTable;
use crate::error::Result;
use crate::ids::BatchId;

/// What the engine does with a partition of state that comes from a checkpoint.
pub(super) trait Load {
    fn base(&mut self, piece: &[u8]) -> Result<()>;
    fn delta(&mut self, bytes: &[u8]) -> Result<()>;
    fn install(self: Box<Self>, completed: BatchId) -> Result<()>;
}

struct Filling<'s, S> {
    state: &'s KeyedState<S>,
    partition: u32,
    /// The base, until all of it has come.
    loading: Option<Loading<S>>,
    /// What it came to.
    table: StateTable<S>,
}

impl<S: State> Filling<'_, S> {
    /// The table, when all of the base has come.
    fn table(&mut self) -> Result<&mut StateTable<S>> {
        if let Some(loading) = self.loading.take() {
            self.table = loading.end()?;
        }
        Ok(&mut self.table)
    }
}

impl<S: State> Load for Filling<'_, S> {
    fn base(&mut self, piece: &[u8]) -> Result<()> {
        let loading = self.loading.as_mut();
        loading.map_or_else(|| unreachable!("STATE: deltas come last"), |l| l.push(piece))
    }

    fn delta(&mut self, bytes: &[u8]) -> Result<()> {
        self.table()?.apply(bytes)
    }

    fn install(mut self: Box<Self>, completed: BatchId) -> Result<()> {
        let table = std::mem::take(self.table()?);
        self.state.replace(self.partition, completed, table);
        Ok(())
    }
}

/// A partition of an operator's state that comes from a checkpoint: the bytes of a base, in pieces,
/// then those of every delta on it.
pub(crate) struct Restoring<'s> {
    state: &'s OperatorState,
    partition: u32,
    load: Box<dyn Load + 's>,
}

impl<'s> Restoring<'s> {
    pub(super) fn new(
        state: &'s OperatorState,
        partition: u32,
        load: Box<dyn Load + 's>,
    ) -> Restoring<'s> {
        Restoring { state, partition, load }
    }

    /// The next bytes of the base.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not such state.
    pub(crate) fn base(&mut self, piece: &[u8]) -> Result<()> {
        self.load.base(piece).map_err(|error| self.state.name_in(self.partition, &error))
    }

    /// The bytes of the next delta.
    ///
    /// # Errors
    /// As [`base`](Restoring::base).
    pub(crate) fn delta(&mut self, bytes: &[u8]) -> Result<()> {
        self.load.delta(bytes).map_err(|error| self.state.name_in(self.partition, &error))
    }

    /// Makes this the partition's state, which is of this batch.
    ///
    /// # Errors
    /// As [`base`](Restoring::base), also if some of the base is missing.
    pub(crate) fn install(self, completed: BatchId) -> Result<()> {
        let installed = self.load.install(completed);
        installed.map_err(|error| self.state.name_in(self.partition, &error))
    }
}

/// A partition that comes, its base having so many bytes.
pub(super) fn load<S: State>(
    state: &KeyedState<S>,
    partition: u32,
    length: usize,
) -> Box<dyn Load + '_> {
    let (loading, table) = (Some(Loading::new(length)), StateTable::new());
    Box::new(Filling { state, partition, loading, table })
}
