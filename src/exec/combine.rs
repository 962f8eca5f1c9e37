//! Folding by key in two steps, the same for all operators that do so: within each source
//! partition before the shuffle, then over the source partitions behind it.
//!
//! COMBINE-1: the map side folds the first rows of a partition, and the others unless nearly all of
//! the first ones had a key of their own: then each of the others is sent as a fold of one. A float
//! sum differs in its last bits between the two, so the choice is a function of the partition's
//! rows alone (SAMPLE-1), and nothing has to be recorded for a replay (ENGINE.md E7).

use std::fmt::Display;
use std::marker::PhantomData;

use super::dataset::Dataset;
use super::key::{Key, hash};
use super::keyed::{KeyedRows, RoomHint, Targets};
use super::node::{Dependency, Held, Meta, Parent, Shuffle, shuffle_node};
use super::probe::Probe;
use super::row::{Kv, Row};
use super::run::RunContext;
use super::sample::{SAMPLED, Sample};
use super::spare::{Lent, Reuse, Spares};
use super::table::{ByteTable, Take};
use super::tabled::{Tabled, Tabulate};
use super::task::Task;
use super::waiting::Waiting;
use super::wire::Value;
use crate::error::{Error, Result};
use crate::planted::{Bug, planted};
use crate::sync::Arc;

/// Bytes of tables that look-ups reach about as quickly as rows that wait for others.
const NEAR: usize = 512 << 10;
/// Rows between two looks at how large the tables are.
const LOOK_EVERY: u32 = 256;

/// What an operator folds, and how.
pub(crate) trait Combine<V: Row>: Send + Sync + 'static {
    type Folded: Value;

    /// Whether a value is as good as what it alone comes to: it is kept without cost, and merging
    /// that is the same as folding the value, to the bit.
    const ONE_FOLDS: bool;

    /// What one value alone comes to.
    fn one(&self, user: User<'_>, value: V::View<'_>) -> Result<Self::Folded>;

    /// Takes one value into what its key has.
    fn fold(&self, place: Place<'_, Self::Folded>, value: V::View<'_>) -> Result<()>;

    /// Takes what a further source partition has of a key into what its key has.
    fn merge(&self, place: Place<'_, Self::Folded>, folded: Self::Folded) -> Result<()>;
}

/// Where a value goes.
pub(crate) struct Place<'p, A> {
    table: &'p mut ByteTable<A>,
    probe: Probe<'p>,
    user: User<'p>,
}

/// How user code of an operator is called.
#[derive(Clone, Copy)]
pub(crate) struct User<'p> {
    task: &'p Task<'p>,
    meta: &'p Meta,
}

impl<'p> User<'p> {
    pub(crate) fn new(task: &'p Task<'p>, meta: &'p Meta) -> User<'p> {
        User { task, meta }
    }

    #[inline]
    pub(crate) fn call<T>(&self, user: impl FnOnce() -> T) -> T {
        self.task.call(self.meta, user)
    }

    /// Calls a closure that can fail.
    #[inline]
    pub(crate) fn attempt<T, E: Display>(&self, user: impl FnOnce() -> Result<T, E>) -> Result<T> {
        self.call(user).map_err(|error| self.task.refuse(self.meta, error))
    }
}

impl<A: Value> Place<'_, A> {
    /// Gives a new key this value, or folds it into the value the key has.
    #[inline(always)]
    pub(crate) fn upsert(self, value: A, fold: impl FnOnce(A, A) -> A) {
        let user = self.user;
        self.table.upsert(&self.probe, value, |a, b| user.call(|| fold(a, b)));
    }

    /// The value of the key, new or old, and how to call user code on it.
    #[inline]
    pub(crate) fn value(&mut self, make: impl FnOnce() -> A) -> (&mut A, User<'_>) {
        let user = self.user;
        let make = || user.call(make);
        (self.table.value(&self.probe, make), self.user)
    }
}

/// A dataset with one row for each key: what `combine` makes of its values.
pub(crate) fn combine_by_key<K: Key, V: Row, C: Combine<V>>(
    pairs: &Dataset<Kv<K, V>>,
    name: &str,
    combine: C,
) -> Dataset<Kv<K, C::Folded>> {
    let parent = pairs.parent();
    let map_side = Arc::new(MapSide {
        meta: Meta::after(format!("{name}.combine"), parent.meta()),
        parent,
        combine,
        before: TableHint::default(),
        rest_before: RoomHint::default(),
        spares: Spares::default(),
    });
    let reduce_side = ReduceSide { map_side, before: TableHint::default(), key: PhantomData };
    Dataset::from_node(Tabled::new(name, reduce_side))
}

/// What a map task has for one reduce partition: the rows it folded, and behind them those that it
/// did not, in order.
struct Bucket<A> {
    folded: ByteTable<A>,
    single: KeyedRows<A>,
}

impl<A: Value> Reuse for Bucket<A> {
    fn clear(&mut self) {
        Reuse::clear(&mut self.folded);
        self.single.clear();
    }

    fn memory(&self) -> usize {
        self.folded.memory() + self.single.memory()
    }

    fn filled(&self) -> usize {
        self.folded.filled() + self.single.filled()
    }
}

/// The buckets of a map task while it runs.
struct Filling<'t, A, C> {
    combine: &'t C,
    user: User<'t>,
    buckets: Vec<Bucket<A>>,
    /// Rows that wait for others, once the tables are large.
    waiting: Waiting<A>,
    waits: bool,
    /// Rows until it is looked how large they are.
    unseen: u32,
    /// Written only on failure: what cannot fail then costs nothing for it.
    refused: Option<Error>,
}

impl<A: Value, C> Filling<'_, A, C> {
    #[inline]
    fn take<V: Row>(&mut self, bucket: usize, probe: Probe<'_>, value: V::View<'_>, folds: bool)
    where
        C: Combine<V, Folded = A>,
    {
        if self.refused.is_some() {
            return;
        }
        let done = if !folds {
            let single = &mut self.buckets[bucket].single;
            let one = self.combine.one(self.user, value);
            one.map(|one| single.push(&probe, one))
        } else if let Some(key) = probe.short().filter(|_| C::ONE_FOLDS && self.is_large()) {
            let one = self.combine.one(self.user, value);
            one.map(|one| {
                if self.waiting.push(bucket, key, one) {
                    self.settle::<V>();
                }
            })
        } else {
            if self.waits {
                // Rows keep their order.
                self.settle::<V>();
            }
            let table = &mut self.buckets[bucket].folded;
            self.combine.fold(Place { table, probe, user: self.user }, value)
        };
        if let Err(error) = done {
            self.refused = Some(error);
        }
    }

    /// Whether the tables have outgrown the near cache. They only grow.
    #[inline]
    fn is_large(&mut self) -> bool {
        if !self.waits {
            self.unseen = self.unseen.wrapping_sub(1);
            if self.unseen.is_multiple_of(LOOK_EVERY) {
                let spread = self.buckets.iter().map(|bucket| bucket.folded.spread());
                self.waits = spread.sum::<usize>() > NEAR;
            }
        }
        self.waits
    }

    /// Folds the rows that wait.
    fn settle<V: Row>(&mut self)
    where
        C: Combine<V, Folded = A>,
    {
        self.waiting.warm(|bucket| &self.buckets[bucket].folded);
        for (bucket, key, one) in self.waiting.take() {
            let (table, probe) = (&mut self.buckets[bucket].folded, key.probe());
            let place = Place { table, probe, user: self.user };
            if let Err(error) = self.combine.merge(place, one) {
                self.refused = Some(error);
                return;
            }
        }
    }

    fn end<V: Row>(mut self) -> Result<Vec<Bucket<A>>>
    where
        C: Combine<V, Folded = A>,
    {
        if self.refused.is_none() {
            self.settle::<V>();
        }
        self.refused.map_or(Ok(self.buckets), Err)
    }
}

/// Folds each source partition into one table for each reduce partition.
struct MapSide<K: Row, V: Row, C: Combine<V>> {
    meta: Meta,
    parent: Parent<Kv<K, V>>,
    combine: C,
    before: TableHint,
    rest_before: RoomHint,
    spares: Spares<Bucket<C::Folded>>,
}

/// Merges the tables of all source partitions, in their order.
struct ReduceSide<K: Row, V: Row, C: Combine<V>> {
    map_side: Arc<MapSide<K, V, C>>,
    before: TableHint,
    key: PhantomData<fn() -> K>,
}

/// How large the tables were last time.
#[derive(Default)]
struct TableHint {
    keys: RoomHint,
    arena: RoomHint,
}

impl TableHint {
    /// Makes so much room in an empty table, and at least for so many keys.
    fn make_room<A>(&self, empty: ByteTable<A>, at_least: usize) -> ByteTable<A> {
        empty.with_room(self.keys.room().max(at_least), self.arena.room())
    }

    fn learn<'t, A: 't>(&self, tables: impl ExactSizeIterator<Item = &'t ByteTable<A>> + Clone) {
        self.keys.learn(tables.clone().map(ByteTable::len));
        self.arena.learn(tables.map(ByteTable::arena_len));
    }
}

shuffle_node!([K: Key, V: Row, C: Combine<V>] MapSide<K, V, C>,
describe: |node, run, partition| node.how(run, partition));

impl<K: Key, V: Row, C: Combine<V>> MapSide<K, V, C> {
    /// What was decided about a partition of which something is held; nothing, if all was folded.
    fn how(&self, run: &RunContext, partition: u32) -> Option<String> {
        let mut held = (0..run.parallelism()).filter_map(|reduce| {
            run.bucket::<Lent<Bucket<C::Folded>>>(self.meta.id, partition, reduce)
        });
        let single = held.any(|bucket| bucket.single.len() > 0);
        single.then(|| format!("rows behind the first {SAMPLED} not folded: too many keys"))
    }
}

impl<K: Key, V: Row, C: Combine<V>> Shuffle for MapSide<K, V, C> {
    fn buckets(&self, task: &Task<'_>, wanted: &[u32]) -> Result<Vec<Held>> {
        let rest = self.rest_before.room();
        let empty = |_| {
            let (folded, single) = match self.spares.take() {
                Some(Bucket { folded, single }) => (folded, Some(single)),
                None => (ByteTable::default(), None),
            };
            let folded = self.before.make_room(folded, 0);
            Bucket { folded, single: KeyedRows::with_room(rest, single) }
        };
        let mut filling = Filling {
            combine: &self.combine,
            user: User { task, meta: &self.meta },
            buckets: wanted.iter().map(empty).collect(),
            waiting: Waiting::new(),
            waits: false,
            unseen: 0,
            refused: None,
        };
        let targets = Targets::new(task.run().parallelism(), wanted);
        let (mut scratch, mut sample) = (Vec::new(), Sample::new());
        self.parent.run(task, &mut |(key, value)| {
            let key = K::bytes(&key, &mut scratch);
            let probe = Probe::new(hash(key), key);
            let target = targets.of(probe.hash);
            // SAMPLE-1: also of what is left out.
            let looks = target.is_some() || !planted(Bug::SampleOfWanted);
            let folds = looks && sample.next(probe.hash);
            if let Some(bucket) = target {
                filling.take::<V>(bucket, probe, value, folds);
            }
        })?;
        let buckets = filling.end::<V>()?;
        self.before.learn(buckets.iter().map(|bucket| &bucket.folded));
        self.rest_before.learn(buckets.iter().map(|bucket| bucket.single.len()));
        let held = |bucket: Bucket<C::Folded>| {
            let bytes = bucket.memory();
            Held::new(self.spares.lend(bucket, task.run()), bytes)
        };
        Ok(buckets.into_iter().map(held).collect())
    }
}

/// The table of a reduce partition while buckets are merged into it.
struct Merging<'t, V: Row, C: Combine<V>> {
    combine: &'t C,
    user: User<'t>,
    table: ByteTable<C::Folded>,
}

impl<V: Row, C: Combine<V>> Take<C::Folded> for Merging<'_, V, C> {
    #[inline]
    fn warm(&self, hashes: impl Iterator<Item = u64>) {
        self.table.warm(hashes);
    }

    #[inline]
    fn take(&mut self, probe: Probe<'_>, folded: C::Folded) -> Result<()> {
        let place = Place { table: &mut self.table, probe, user: self.user };
        self.combine.merge(place, folded)
    }
}

impl<K: Key, V: Row, C: Combine<V>> Tabulate for ReduceSide<K, V, C> {
    type Key = K;
    type Value = C::Folded;

    fn dependencies(&self) -> Vec<Dependency> {
        let map_side: Arc<MapSide<K, V, C>> = Arc::clone(&self.map_side);
        vec![Dependency::Wide(map_side)]
    }

    fn table(
        &self,
        task: &Task<'_>,
        meta: &Meta,
        empty: ByteTable<C::Folded>,
    ) -> Result<ByteTable<C::Folded>> {
        let id = self.map_side.meta.id;
        let buckets = (0..task.partitions_of(id))
            .map(|map| task.bucket::<Lent<Bucket<C::Folded>>>(id, map, task.partition()))
            .collect::<Result<Vec<_>>>()?;
        let fullest = buckets.iter().map(|bucket| bucket.folded.len()).max().unwrap_or(0);
        let (combine, user) = (&self.map_side.combine, User { task, meta });
        let table = self.before.make_room(empty, fullest);
        let mut merging = Merging { combine, user, table };
        for bucket in buckets {
            bucket.folded.pass_to(&mut merging)?;
            bucket.single.pass_to(&mut merging)?;
        }
        let table = merging.table;
        self.before.learn(std::iter::once(&table));
        Ok(table)
    }
}
