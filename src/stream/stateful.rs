//! `map_with_state`: keyed state across batches.
//!
//! STREAM-4: a batch reads completed state only, and changes only its own overlay; every attempt
//! at a partition starts with an empty one (ENGINE.md E10).

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use super::handle::{StateCell, StateHandle};
use super::job::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{
    ByteTable, Compute, Data, Dataset, Dependency, Executor, Held, Hold, Key, KeyedInput, Kv, Meta,
    Name, Node, OperatorId, Probe, Role, RunContext, Task, User, Value, lineage, view_of,
};
use crate::state::{Changes, KeyedState, OperatorState, Overlay, State, StateTable};
use crate::sync::{Arc, Mutex, lock};

/// What a stateful operator gives: its output, and its state to be queried.
pub struct Stateful<K: Key, S: State, U: Data> {
    /// What the function returned, by partition, there in the order in which the batch first saw
    /// the keys.
    pub out: Stream<U>,
    /// The completed state.
    pub state: StateHandle<K, S>,
}

impl<K: Key, S: State, U: Data> fmt::Debug for Stateful<K, S, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stateful({:?})", self.state)
    }
}

impl<K: Key, V: Value> Stream<Kv<K, V>> {
    /// Calls `f` once per batch for every key that the batch has, with its values in order and
    /// with its state, which `f` may set, change or remove (`None`). What `f` returns goes on.
    ///
    /// The state outlives batches, checkpoints and restarts, under `name`. It becomes visible
    /// outside when the batch completes. A shuffle comes first, unless the stream is distributed
    /// by this key already (behind [`reduce_by_key`](Stream::reduce_by_key)).
    ///
    /// `f` must be pure but for the state: it runs again after a crash or a panic, on the state as
    /// it was.
    #[must_use]
    pub fn map_with_state<S: State, U: Data>(
        &self,
        name: Name,
        f: impl for<'a> Fn(K::View<'a>, &mut dyn Iterator<Item = V>, &mut Option<S>) -> Option<U>
        + Send
        + Sync
        + 'static,
    ) -> Stateful<K, S, U> {
        self.with_state(name, Plain(f))
    }

    /// As [`map_with_state`](Stream::map_with_state), with a function that can fail: an `Err` is
    /// the failure of the records with this key, as a panic is, and what the function has done to
    /// the state is thrown away with the attempt.
    ///
    /// ```
    /// use sawmill::{Engine, EngineOptions, ErrorKind, Job, Received, RunOptions, name};
    /// # let place = tempfile::tempdir()?;
    /// let engine = Engine::open(place.path(), EngineOptions::default())?;
    /// let events = engine.ingest(name!("events"))?;
    /// let (job, _) = Job::build(name!("sums"), |job| {
    ///     let lines = job.source(name!("in"), Received::from(&events));
    ///     let pairs = lines.map_to_pair(|line| (0u8, String::from_utf8_lossy(line).into_owned()));
    ///     pairs.try_map_with_state::<i64, (), _>(name!("sums"), |_, lines, sum| {
    ///         for line in lines {
    ///             *sum = Some(sum.unwrap_or(0) + line.parse::<i64>()?);
    ///         }
    ///         Ok::<_, std::num::ParseIntError>(None)
    ///     }).state
    /// })?;
    /// let run = engine.start(job, RunOptions::default())?;
    /// events.append(b"seven")?;
    /// let error = run.drain().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TaskFailed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn try_map_with_state<S: State, U: Data, E: Display + 'static>(
        &self,
        name: Name,
        f: impl for<'a> Fn(
            K::View<'a>,
            &mut dyn Iterator<Item = V>,
            &mut Option<S>,
        ) -> Result<Option<U>, E>
        + Send
        + Sync
        + 'static,
    ) -> Stateful<K, S, U> {
        self.with_state(name, Fallible(f, PhantomData))
    }

    fn with_state<S: State, U: Data>(
        &self,
        name: Name,
        update: impl Update<K, V, S, U>,
    ) -> Stateful<K, S, U> {
        let cell = Arc::new(StateCell::new(name));
        let kept = Arc::new(Kept::default());
        let node = MapWithState {
            meta: Meta::first(name.get()),
            input: self.dataset().keyed_input(),
            cell: Arc::clone(&cell),
            kept: Arc::clone(&kept),
            update,
            row: PhantomData,
        };
        let dataset = Dataset::from_node(node);
        let operator = Operator { dataset: dataset.clone(), cell: Arc::clone(&cell), kept };
        self.registry().add_operator(Arc::new(operator));
        Stateful { out: self.derive(dataset), state: StateHandle::new(cell) }
    }
}

/// The user's function for one key.
trait Update<K: Key, V, S, U>: Send + Sync + 'static {
    fn of_key(
        &self,
        user: User<'_>,
        key: K::View<'_>,
        values: &mut dyn Iterator<Item = V>,
        state: &mut Option<S>,
    ) -> Result<Option<U>>;
}

struct Plain<F>(F);

impl<K: Key, V, S, U, F> Update<K, V, S, U> for Plain<F>
where
    F: for<'a> Fn(K::View<'a>, &mut dyn Iterator<Item = V>, &mut Option<S>) -> Option<U>
        + Send
        + Sync
        + 'static,
{
    #[inline]
    fn of_key(
        &self,
        user: User<'_>,
        key: K::View<'_>,
        values: &mut dyn Iterator<Item = V>,
        state: &mut Option<S>,
    ) -> Result<Option<U>> {
        Ok(user.call(|| (self.0)(key, values, state)))
    }
}

struct Fallible<F, E>(F, PhantomData<fn() -> E>);

impl<K: Key, V, S, U, F, E> Update<K, V, S, U> for Fallible<F, E>
where
    F: for<'a> Fn(K::View<'a>, &mut dyn Iterator<Item = V>, &mut Option<S>) -> Result<Option<U>, E>
        + Send
        + Sync
        + 'static,
    E: Display + 'static,
{
    fn of_key(
        &self,
        user: User<'_>,
        key: K::View<'_>,
        values: &mut dyn Iterator<Item = V>,
        state: &mut Option<S>,
    ) -> Result<Option<U>> {
        user.attempt(|| (self.0)(key, values, state))
    }
}

/// A stateful operator, as the driver sees it.
pub(crate) trait StatefulOperator: fmt::Debug + Send + Sync {
    fn name(&self) -> Name;

    fn id(&self) -> OperatorId;

    fn node(&self) -> Arc<dyn Node>;

    fn schema(&self) -> u64;

    /// Makes the operator's state, empty, with so many partitions.
    fn bind(&self, parallelism: u32) -> Result<OperatorState>;

    /// Has the operator go on with the same state in other partitions.
    fn rebind(&self, state: &OperatorState);

    /// Makes sure that every partition of the run is computed.
    fn compute(&self, executor: &Executor, run: &RunContext) -> Result<()>;

    /// Makes sure that these partitions of the run are computed.
    fn compute_some(
        &self,
        executor: &Executor,
        run: &RunContext,
        partitions: &BTreeSet<u32>,
    ) -> Result<()>;

    /// This operator and all that it is computed from.
    fn lineage(&self) -> BTreeSet<OperatorId>;

    /// Takes what the run changed in a partition; the run must have computed it.
    fn overlay(&self, run: &RunContext, partition: u32) -> Box<dyn Any + Send>;

    /// Planted bug: whether attempts go on with what failed ones left.
    fn keep_failed(&self, keep: bool);
}

/// For the planted bug only: overlays that failed attempts left behind.
struct Kept<S> {
    on: AtomicBool,
    overlays: Mutex<Vec<(u32, Overlay<S>)>>,
}

impl<S> Default for Kept<S> {
    fn default() -> Kept<S> {
        Kept { on: AtomicBool::new(false), overlays: Mutex::default() }
    }
}

impl<S: State> Kept<S> {
    /// What an attempt at the partition starts with; `None` in a working engine: nothing.
    fn start(&self, partition: u32) -> Option<Overlay<S>> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        let mut overlays = lock(&self.overlays);
        let found = overlays.iter().position(|(of, _)| *of == partition);
        found.map(|at| overlays.swap_remove(at).1)
    }

    fn end(&self, partition: u32, changes: &Changes<S>, table: &StateTable<S>) {
        if self.on.load(Ordering::Relaxed) {
            lock(&self.overlays).push((partition, changes.to_overlay(table)));
        }
    }
}

struct Operator<S: State, U: Data> {
    dataset: Dataset<U>,
    cell: Arc<StateCell<S>>,
    kept: Arc<Kept<S>>,
}

impl<S: State, U: Data> fmt::Debug for Operator<S, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operator({})", self.cell.name())
    }
}

impl<S: State, U: Data> StatefulOperator for Operator<S, U> {
    fn name(&self) -> Name {
        self.cell.name()
    }

    fn id(&self) -> OperatorId {
        self.dataset.operator()
    }

    fn node(&self) -> Arc<dyn Node> {
        self.dataset.node()
    }

    fn schema(&self) -> u64 {
        crate::state::schema_id::<S>()
    }

    fn bind(&self, parallelism: u32) -> Result<OperatorState> {
        let state = OperatorState::new::<S>(self.cell.name().get(), parallelism);
        self.cell.bind(&state)?;
        Ok(state)
    }

    fn rebind(&self, state: &OperatorState) {
        self.cell.rebind(state);
    }

    fn compute(&self, executor: &Executor, run: &RunContext) -> Result<()> {
        executor.hold(run, &self.dataset.node())
    }

    fn compute_some(
        &self,
        executor: &Executor,
        run: &RunContext,
        partitions: &BTreeSet<u32>,
    ) -> Result<()> {
        executor.hold_some(run, &self.dataset.node(), partitions)
    }

    fn lineage(&self) -> BTreeSet<OperatorId> {
        lineage(&self.dataset.node())
    }

    fn overlay(&self, run: &RunContext, partition: u32) -> Box<dyn Any + Send> {
        let part = run.held::<Part<S, U>>(self.id(), partition);
        let changes = part.and_then(|part| lock(&part.changes).take());
        lock(&self.kept.overlays).clear();
        #[allow(clippy::expect_used, reason = "`run_batch` computes, then merges each partition")]
        let changes = changes.expect("STREAM-4: changes are taken once, after they were computed");
        Box::new(changes)
    }

    fn keep_failed(&self, keep: bool) {
        self.kept.on.store(keep, Ordering::Relaxed);
    }
}

/// What a run holds of one partition.
struct Part<S, U> {
    changes: Mutex<Option<Changes<S>>>,
    rows: Vec<U>,
}

struct MapWithState<K: Key, V: Value, S: State, U: Data, F> {
    meta: Meta,
    input: KeyedInput<K, V>,
    cell: Arc<StateCell<S>>,
    kept: Arc<Kept<S>>,
    update: F,
    row: PhantomData<fn() -> U>,
}

impl<K, V, S, U, F> MapWithState<K, V, S, U, F>
where
    K: Key,
    V: Value,
    S: State,
    U: Data,
    F: Update<K, V, S, U>,
{
    /// The partition's rows by key, in first-seen order. The first value of a key needs no
    /// allocation.
    fn group(&self, task: &Task<'_>) -> Result<ByteTable<(V, Vec<V>)>> {
        let mut groups = ByteTable::default();
        self.input.for_each(task, |hash, key, value| {
            let fold = |mut group: (V, Vec<V>), (value, _): (V, Vec<V>)| {
                group.1.push(value);
                group
            };
            groups.upsert(&Probe::new(hash, key), (value, Vec::new()), fold);
        })?;
        Ok(groups)
    }

    fn update(&self, task: &Task<'_>, state: &KeyedState<S>) -> Result<Part<S, U>> {
        // Behind `reduce_by_key` and its like a key has one value: no need to gather them.
        if let Some(table) = self.input.held_table(task)? {
            return self.update_with(task, state, &table, |value| (value, &[]));
        }
        self.update_with(task, state, &self.group(task)?, |(first, rest)| (first, rest))
    }

    /// Calls the function for every key of a table, of whose values `values` gives the first one
    /// and the others.
    fn update_with<A>(
        &self,
        task: &Task<'_>,
        state: &KeyedState<S>,
        groups: &ByteTable<A>,
        values: impl for<'g> Fn(&'g A) -> (&'g V, &'g [V]),
    ) -> Result<Part<S, U>> {
        let partition = task.partition();
        let user = User::new(task, &self.meta);
        let kept = self.kept.start(partition);
        state.read(partition, |_, table| {
            let (mut changes, mut rows) = (Changes::of(table), Vec::new());
            changes.reserve(groups.len());
            for piece in groups.pieces() {
                table.warm(piece.hashes());
                for (probe, key, group) in piece.rows() {
                    let view = view_of::<K>(key)?;
                    let (first, rest) = values(group);
                    let mut values = std::iter::once(first).chain(rest).cloned();
                    rows.extend(changes.touch(table, &probe, |value| {
                        if let Some(kept) = &kept {
                            *value = kept.get(table, probe.hash, key).cloned();
                        }
                        self.update.of_key(user, view, &mut values, value)
                    })?);
                }
            }
            self.kept.end(partition, &changes, table);
            Ok(Part { changes: Mutex::new(Some(changes)), rows })
        })
    }
}

impl<K, V, S, U, F> Node for MapWithState<K, V, S, U, F>
where
    K: Key,
    V: Value,
    S: State,
    U: Data,
    F: Update<K, V, S, U>,
{
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        vec![self.input.dependency()]
    }

    fn partitions(&self, run: &RunContext, _parents: &[u32]) -> Result<u32> {
        Ok(run.parallelism())
    }

    fn role(&self) -> Role<'_> {
        Role::Held(self)
    }
}

impl<K, V, S, U, F> Hold for MapWithState<K, V, S, U, F>
where
    K: Key,
    V: Value,
    S: State,
    U: Data,
    F: Update<K, V, S, U>,
{
    fn hold(&self, task: &Task<'_>) -> Result<Held> {
        let state = self.cell.state().ok_or_else(|| {
            let message = format!("operator `{}` runs only in a started job", self.meta.name);
            Error::new(ErrorKind::Invalid, message)
        })?;
        let part = self.update(task, &state)?;
        let bytes = part.rows.capacity() * size_of::<U>();
        Ok(Held::new(part, bytes))
    }
}

impl<K, V, S, U, F> Compute<U> for MapWithState<K, V, S, U, F>
where
    K: Key,
    V: Value,
    S: State,
    U: Data,
    F: Update<K, V, S, U>,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(U)) -> Result<()> {
        let part = task.held::<Part<S, U>>(self.meta.id, task.partition())?;
        part.rows.iter().for_each(|row| out(row.clone()));
        Ok(())
    }
}
