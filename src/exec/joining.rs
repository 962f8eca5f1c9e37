//! The hash join that all four joins are: one side is put into a table, the other looks up in it.

use std::cell::Cell;
use std::marker::PhantomData;

use super::dataset::Dataset;
use super::key::Key;
use super::keyed::{KeyedInput, RoomHint, view_of};
use super::node::{Compute, Dependency, Meta, Node, Partitioning};
use super::row::{Data, Kv, Row};
use super::run::RunContext;
use super::table::ByteTable;
use super::task::Task;
use super::wire::Value;
use crate::error::{Error, Result};

/// What a join makes of a row of the probing side and the rows of the table with its key.
pub(crate) trait Shape<V, W>: Send + Sync + 'static {
    type Out: Data;

    /// Whether rows of the table that nobody asked for come out, behind all others.
    const KEEPS_UNASKED: bool;

    fn matched(value: V, found: W) -> Self::Out;

    /// Of a row of the probing side without a match.
    fn alone(value: V) -> Option<Self::Out>;

    /// Of a row of the table that nobody asked for.
    fn unasked(found: W) -> Option<Self::Out>;
}

/// Joins `probe` with `table`: rows come out in the order of `probe`, for each of them the matches
/// in the order of `table`; then, if the shape keeps them, the rows of `table` without a match.
pub(crate) fn join_by_key<K: Key, V: Value, W: Value, S: Shape<V, W>>(
    name: &str,
    probe: &Dataset<Kv<K, V>>,
    table: &Dataset<Kv<K, W>>,
    _shape: S,
) -> Dataset<Kv<K, S::Out>> {
    let (probe, table) = (probe.keyed_input(), table.keyed_input());
    let (left, right) = (probe.fused(), table.fused());
    let meta = Meta::fused(name, (left.0.max(right.0), left.1.max(right.1)));
    let keys_before = RoomHint::default();
    Dataset::from_node(Join { meta, probe, table, keys_before, shape: PhantomData::<fn() -> S> })
}

/// Computed anew for each consumer: what it joins is held by the shuffles (or by whoever holds the
/// parents), and what comes out can be many times as much.
struct Join<K: Key, V: Value, W: Value, S> {
    meta: Meta,
    probe: KeyedInput<K, V>,
    table: KeyedInput<K, W>,
    /// How many keys the last table had.
    keys_before: RoomHint,
    shape: PhantomData<fn() -> S>,
}

impl<K: Key, V: Value, W: Value, S: Shape<V, W>> Node for Join<K, V, W, S> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        vec![self.probe.dependency(), self.table.dependency()]
    }

    fn partitions(&self, run: &RunContext, _parents: &[u32]) -> Result<u32> {
        Ok(run.parallelism())
    }

    fn partitioning(&self) -> Partitioning {
        Partitioning::ByKey
    }
}

impl<K: Key, V: Value, W: Value, S: Shape<V, W>> Compute<Kv<K, S::Out>> for Join<K, V, W, S> {
    fn run(
        &self,
        task: &Task<'_>,
        out: &mut dyn FnMut((<K as Row>::View<'_>, S::Out)),
    ) -> Result<()> {
        let mut groups = Groups::with_capacity(self.keys_before.room());
        self.table.for_each(task, |hash, key, value| groups.push(hash, key, value))?;
        self.keys_before.learn(std::iter::once(groups.keys.len()));
        let mut failed: Option<Error> = None;
        let mut emit = |key: &[u8], row: S::Out| match view_of::<K>(key) {
            Ok(view) => out((view, row)),
            Err(error) => failed = Some(error),
        };
        self.probe.for_each(task, |hash, key, value| {
            let Some(group) = groups.keys.get(hash, key) else {
                if let Some(row) = S::alone(value) {
                    emit(key, row);
                }
                return;
            };
            if S::KEEPS_UNASKED {
                group.asked.set(true);
            }
            let (mut found, mut next) = (&group.first, group.next);
            while let Some((value_after, next_after)) = groups.rows.get(next as usize) {
                emit(key, S::matched(value.clone(), found.clone()));
                (found, next) = (value_after, *next_after);
            }
            emit(key, S::matched(value, found.clone()));
        })?;
        if S::KEEPS_UNASKED {
            for (_, key, group) in groups.keys.iter().filter(|(.., group)| !group.asked.get()) {
                for found in groups.of(group) {
                    if let Some(row) = S::unasked(found.clone()) {
                        emit(key, row);
                    }
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// The number that no row has.
const NONE: u32 = u32::MAX;

/// The rows of each key. The first one lies with the key, which saves unique keys a cache miss;
/// the others are linked, so that nothing is allocated for a key.
struct Groups<W> {
    keys: ByteTable<Group<W>>,
    /// Value, and the next row of the same key.
    rows: Vec<(W, u32)>,
}

struct Group<W> {
    first: W,
    /// The second row, and the last one.
    next: u32,
    last: u32,
    /// Whether the probing side has the key.
    asked: Cell<bool>,
}

impl<W> Groups<W> {
    fn with_capacity(keys: usize) -> Groups<W> {
        Groups { keys: ByteTable::with_capacity(keys), rows: Vec::new() }
    }

    fn push(&mut self, hash: u64, key: &[u8], value: W) {
        let mut new = Some(value);
        let group = self.keys.get_or_insert_with(hash, key, || {
            let first = new.take().expect("asked for once");
            Group { first, next: NONE, last: NONE, asked: Cell::new(false) }
        });
        let Some(value) = new else { return };
        let row = u32::try_from(self.rows.len()).ok().filter(|row| *row != NONE);
        let row = row.expect("a join's partition has fewer than 2^32 rows on its table's side");
        self.rows.push((value, NONE));
        if group.next == NONE {
            group.next = row;
        } else {
            self.rows[group.last as usize].1 = row;
        }
        group.last = row;
    }

    /// The values of a key, in order.
    fn of<'g>(&'g self, group: &'g Group<W>) -> impl Iterator<Item = &'g W> {
        let mut next = group.next;
        let others = std::iter::from_fn(move || {
            let (value, after) = self.rows.get(next as usize)?;
            next = *after;
            Some(value)
        });
        std::iter::once(&group.first).chain(others)
    }
}
