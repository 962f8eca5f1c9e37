//! The hash join that all four joins are: one side is put into a table, the other looks up in it.

use std::marker::PhantomData;

use super::dataset::Dataset;
use super::key::Key;
use super::keyed::{KeyedInput, RoomHint, view_of};
use super::node::{Compute, Dependency, Meta, Node, Partitioning};
use super::probe::Probe;
use super::row::{Data, Kv, Row};
use super::run::RunContext;
use super::spare::{Reuse, Spares};
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
    let (spares, shape) = (Spares::default(), PhantomData::<fn() -> S>);
    Dataset::from_node(Join { meta, probe, table, keys_before, spares, shape })
}

/// Computed anew for each consumer: what it joins is held by the shuffles (or by whoever holds the
/// parents), and what comes out can be many times as much.
struct Join<K: Key, V: Value, W: Value, S> {
    meta: Meta,
    probe: KeyedInput<K, V>,
    table: KeyedInput<K, W>,
    /// How many keys the last table had.
    keys_before: RoomHint,
    spares: Spares<Groups<W>>,
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
        let mut groups = self.spares.take().unwrap_or_default();
        groups.keys = groups.keys.with_room(self.keys_before.room(), 0);
        self.table.pass_to(task, &mut groups)?;
        self.keys_before.learn(std::iter::once(groups.keys.len()));
        let groups = self.spares.lend(groups, task.run());
        let asked = vec![false; if S::KEEPS_UNASKED { groups.keys.len() } else { 0 }];
        let mut asking = Asking::<K, V, W, S> { groups: &groups, asked, out, types: PhantomData };
        self.probe.pass_to(task, &mut asking)?;
        asking.end()
    }
}

/// Who takes the rows of a join: each a key's view and what was found for it.
type Joined<'o, K, R> = dyn for<'v> FnMut((<K as Row>::View<'v>, R)) + 'o;

/// The probing side: asks for the group of each of its rows.
struct Asking<'o, K: Key, V, W, S: Shape<V, W>> {
    groups: &'o Groups<W>,
    /// By the number of the key: whether the probing side has it. Empty if nobody wants to know.
    asked: Vec<bool>,
    out: &'o mut Joined<'o, K, S::Out>,
    types: PhantomData<fn() -> V>,
}

impl<K: Key, V: Value, W: Value, S: Shape<V, W>> Asking<'_, K, V, W, S> {
    /// The rows of the table that nobody asked for, if the shape keeps them.
    fn end(self) -> Result<()> {
        let Asking { groups, asked, out, .. } = self;
        let keys = groups.keys.iter().zip(asked).enumerate();
        let unasked = keys.filter(|(_, (_, asked))| !asked);
        for (number, ((_, key, first), _)) in unasked {
            let found = std::iter::once(first).chain(groups.others(number));
            for row in found.filter_map(|found| S::unasked(found.clone())) {
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
        let Asking { groups, asked, out, .. } = self;
        let Some((number, first)) = groups.keys.look_up(&probe) else {
            let Some(row) = S::alone(value) else { return Ok(()) };
            return probe.with_key(|key| emit::<K, _>(out, key, row));
        };
        if S::KEEPS_UNASKED {
            asked[number] = true;
        }
        probe.with_key(|key| {
            let (mut found, mut next) = (first, groups.second(number));
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
/// the others are linked, so that nothing is allocated for a key. The links are apart: keys and
/// first values alone fit the cache where all together would not.
struct Groups<W> {
    keys: ByteTable<W>,
    /// By the number of the key. Empty as long as no key has a second row.
    links: Vec<Links>,
    /// Value, and the next row of the same key.
    rows: Vec<(W, u32)>,
}

/// The second row of a key, and its last one.
#[derive(Clone, Copy)]
struct Links {
    next: u32,
    last: u32,
}

impl Links {
    const NONE: Links = Links { next: NONE, last: NONE };
}

impl<W> Default for Groups<W> {
    fn default() -> Groups<W> {
        Groups { keys: ByteTable::default(), links: vec![], rows: vec![] }
    }
}

impl<W> Groups<W> {
    fn push(&mut self, probe: &Probe<'_>, value: W) {
        let mut new = Some(value);
        let key = self.keys.number(probe, || new.take().expect("asked for once"));
        let Some(value) = new else { return };
        let row = u32::try_from(self.rows.len()).ok().filter(|row| *row != NONE);
        let row = row.expect("a join's partition has fewer than 2^32 rows on its table's side");
        self.rows.push((value, NONE));
        if self.links.len() <= key {
            self.links.resize(self.keys.len(), Links::NONE);
        }
        let links = &mut self.links[key];
        if links.next == NONE {
            links.next = row;
        } else {
            self.rows[links.last as usize].1 = row;
        }
        links.last = row;
    }

    /// The row behind the first one of a key.
    #[inline]
    fn second(&self, key: usize) -> u32 {
        self.links.get(key).map_or(NONE, |links| links.next)
    }

    /// The values of a key behind the first one, in order.
    fn others(&self, key: usize) -> impl Iterator<Item = &W> {
        let mut next = self.second(key);
        std::iter::from_fn(move || {
            let (value, after) = self.rows.get(next as usize)?;
            next = *after;
            Some(value)
        })
    }
}

impl<W: Send + Sync + 'static> Reuse for Groups<W> {
    fn clear(&mut self) {
        Reuse::clear(&mut self.keys);
        self.links.clear();
        self.rows.clear();
    }

    fn memory(&self) -> usize {
        self.keys.memory() + Reuse::memory(&self.links) + Reuse::memory(&self.rows)
    }

    fn filled(&self) -> usize {
        self.keys.filled() + Reuse::filled(&self.links) + Reuse::filled(&self.rows)
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
