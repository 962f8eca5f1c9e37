//! The hash join that all four joins are: one side is put into a table, the other looks up in it.

use std::marker::PhantomData;

use super::dataset::Dataset;
use super::key::Key;
use super::keyed::{KeyedInput, RoomHint, view_of};
use super::node::{Compute, Dependency, Meta, Node, Partitioning};
use super::probe::Probe;
use super::row::{Data, Kv, Row};
use super::run::RunContext;
use super::table::{ByteTable, Take};
use super::task::Task;
use super::wire::Value;
use crate::error::Result;

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
        self.table.pass_to(task, &mut groups)?;
        self.keys_before.learn(std::iter::once(groups.keys.len()));
        if S::KEEPS_UNASKED {
            groups.asked.resize(groups.keys.len(), false);
        }
        let mut asking = Asking::<K, V, W, S> { groups, out, types: PhantomData };
        self.probe.pass_to(task, &mut asking)?;
        asking.end()
    }
}

/// Who takes the rows of a join: each a key's view and what was found for it.
type Joined<'o, K, R> = dyn for<'v> FnMut((<K as Row>::View<'v>, R)) + 'o;

/// The probing side: asks for the group of each of its rows.
struct Asking<'o, K: Key, V, W, S: Shape<V, W>> {
    groups: Groups<W>,
    out: &'o mut Joined<'o, K, S::Out>,
    types: PhantomData<fn() -> V>,
}

impl<K: Key, V: Value, W: Value, S: Shape<V, W>> Asking<'_, K, V, W, S> {
    /// The rows of the table that nobody asked for, if the shape keeps them.
    fn end(self) -> Result<()> {
        let Asking { groups, out, .. } = self;
        let unasked = groups.keys.iter().zip(&groups.asked).filter(|(_, asked)| !**asked);
        for ((_, key, group), _) in unasked {
            for row in groups.of(group).filter_map(|found| S::unasked(found.clone())) {
                emit::<K, _>(out, key, row)?;
            }
        }
        Ok(())
    }
}

impl<K: Key, V: Value, W: Value, S: Shape<V, W>> Take<V> for Asking<'_, K, V, W, S> {
    fn warm(&self, hashes: impl Iterator<Item = u64>) {
        self.groups.keys.warm(hashes);
    }

    #[inline]
    fn take(&mut self, probe: Probe<'_>, value: V) -> Result<()> {
        let Asking { groups, out, .. } = self;
        let Some((row, group)) = groups.keys.look_up(&probe) else {
            let Some(row) = S::alone(value) else { return Ok(()) };
            return probe.with_key(|key| emit::<K, _>(out, key, row));
        };
        if S::KEEPS_UNASKED {
            groups.asked[row] = true;
        }
        probe.with_key(|key| {
            let (mut found, mut next) = (&group.first, group.next);
            while let Some((value_after, next_after)) = groups.rows.get(next as usize) {
                emit::<K, _>(out, key, S::matched(value.clone(), found.clone()))?;
                (found, next) = (value_after, *next_after);
            }
            emit::<K, _>(out, key, S::matched(value, found.clone()))
        })
    }
}

#[inline]
fn emit<K: Key, R>(out: &mut Joined<'_, K, R>, key: &[u8], row: R) -> Result<()> {
    out((view_of::<K>(key)?, row));
    Ok(())
}

/// The number that no row has.
const NONE: u32 = u32::MAX;

/// The rows of each key. The first one lies with the key, which saves unique keys a cache miss;
/// the others are linked, so that nothing is allocated for a key.
struct Groups<W> {
    keys: ByteTable<Group<W>>,
    /// Value, and the next row of the same key.
    rows: Vec<(W, u32)>,
    /// By the number of the key: whether the probing side has it. Empty if nobody wants to know.
    asked: Vec<bool>,
}

struct Group<W> {
    first: W,
    /// The second row, and the last one.
    next: u32,
    last: u32,
}

impl<W> Groups<W> {
    fn with_capacity(keys: usize) -> Groups<W> {
        let keys = ByteTable::with_capacity(keys);
        Groups { keys, rows: Vec::new(), asked: Vec::new() }
    }

    fn push(&mut self, probe: &Probe<'_>, value: W) {
        let mut new = Some(value);
        let group = self.keys.value(probe, || {
            let first = new.take().expect("asked for once");
            Group { first, next: NONE, last: NONE }
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

impl<W: Value> Take<W> for Groups<W> {
    fn warm(&self, hashes: impl Iterator<Item = u64>) {
        self.keys.warm(hashes);
    }

    #[inline]
    fn take(&mut self, probe: Probe<'_>, value: W) -> Result<()> {
        self.push(&probe, value);
        Ok(())
    }
}
