//! Completed state, for readers outside of the job.

use std::fmt;
use std::marker::PhantomData;

use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Key, Name, partition_of};
use crate::ids::BatchId;
use crate::state::{KeyedState, OperatorState, State, hash_key};
use crate::sync::{Arc, Mutex, lock};

/// An operator's state: there from the start of the job on. Replaced as a whole when its number of
/// partitions changes.
pub(crate) struct StateCell<S> {
    name: Name,
    state: Mutex<Option<Arc<KeyedState<S>>>>,
}

impl<S: State> StateCell<S> {
    pub(crate) fn new(name: Name) -> StateCell<S> {
        StateCell { name, state: Mutex::default() }
    }

    pub(crate) fn name(&self) -> Name {
        self.name
    }

    pub(crate) fn state(&self) -> Option<Arc<KeyedState<S>>> {
        lock(&self.state).clone()
    }

    /// Gives the operator its state, for the first time.
    ///
    /// # Errors
    /// `Invalid` if it has one: one job is started once.
    pub(crate) fn bind(&self, state: &OperatorState) -> Result<()> {
        if self.state().is_some() {
            let message = format!("operator `{}` was started twice: build a new job", self.name);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.rebind(state);
        Ok(())
    }

    /// Gives the operator the same state in other partitions.
    pub(crate) fn rebind(&self, state: &OperatorState) {
        let typed = state.typed::<S>();
        assert!(typed.is_some(), "STATE-3: an operator's state is of its type");
        *lock(&self.state) = typed;
    }
}

/// The state of a stateful operator, as of its last completed batch. Cheap to clone; stays
/// readable after the job has ended.
///
/// Each call sees whole batches of a partition only; two calls may see different batches.
pub struct StateHandle<K, S> {
    cell: Arc<StateCell<S>>,
    key: PhantomData<fn() -> K>,
}

impl<K, S> Clone for StateHandle<K, S> {
    fn clone(&self) -> StateHandle<K, S> {
        StateHandle { cell: Arc::clone(&self.cell), key: PhantomData }
    }
}

impl<K, S> fmt::Debug for StateHandle<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateHandle({})", self.cell.name)
    }
}

impl<K: Key, S: State> StateHandle<K, S> {
    pub(crate) fn new(cell: Arc<StateCell<S>>) -> StateHandle<K, S> {
        StateHandle { cell, key: PhantomData }
    }

    /// The completed value of a key; `None` if it has none, or the job was not started yet.
    #[must_use]
    pub fn get(&self, key: K::View<'_>) -> Option<S> {
        self.get_labelled(key).1
    }

    /// As [`get`](StateHandle::get), with the batch that the answer is of.
    #[must_use]
    pub fn get_labelled(&self, key: K::View<'_>) -> (BatchId, Option<S>) {
        let Some(state) = self.cell.state() else { return (BatchId::default(), None) };
        let mut scratch = Vec::new();
        let bytes = K::bytes(&key, &mut scratch);
        state.get(partition_of(hash_key(bytes), count(&state)), bytes)
    }

    /// Calls `each` for every key and its completed value: by partition, there in first-seen
    /// order. The job goes on meanwhile, and `each` may ask this handle, too; a batch that
    /// completes while `each` is called with keys of a partition copies that partition first.
    ///
    /// # Errors
    /// `Corrupt` if the key's codec does not read what it wrote.
    pub fn for_each(&self, mut each: impl FnMut(K::View<'_>, &S)) -> Result<()> {
        let Some(state) = self.cell.state() else { return Ok(()) };
        for partition in 0..count(&state) {
            let snapshot = state.snapshot(partition);
            for (key, value) in snapshot.table().iter() {
                let view = K::view(key).map_err(|cause| {
                    let text = "a key of the state is not of its type";
                    Error::new(ErrorKind::Corrupt, text).caused_by(cause)
                })?;
                each(view, value);
            }
        }
        Ok(())
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        let Some(state) = self.cell.state() else { return 0 };
        (0..count(&state)).map(|partition| state.read(partition, |_, table| table.len())).sum()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn count<S: State>(state: &KeyedState<S>) -> u32 {
    u32::try_from(state.partitions()).unwrap_or(u32::MAX)
}
