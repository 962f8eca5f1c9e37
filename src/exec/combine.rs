//! Folding by key in two steps, the same for all operators that do so: within each source
//! partition before the shuffle, then over the source partitions behind it.
//!
//! COMBINE-1: that the map side folds is fixed, and part of an operator's meaning: a float sum
//! folded in one step and one folded in two differ in their last bits (ENGINE.md E7).

use std::fmt::Display;
use std::marker::PhantomData;

use super::dataset::Dataset;
use super::key::{Key, hash};
use super::keyed::{RoomHint, Targets};
use super::node::{Dependency, Held, Meta, Parent, Shuffle, shuffle_node};
use super::row::{Kv, Row};
use super::table::ByteTable;
use super::tabled::{Tabled, Tabulate};
use super::task::Task;
use super::wire::Value;
use crate::error::{Error, Result};
use crate::sync::Arc;

/// What an operator folds, and how.
pub(crate) trait Combine<V: Row>: Send + Sync + 'static {
    type Folded: Value;

    /// Takes one value into what its key has.
    fn fold(&self, place: Place<'_, Self::Folded>, value: V::View<'_>) -> Result<()>;

    /// Takes what a further source partition has of a key into what its key has.
    fn merge(&self, place: Place<'_, Self::Folded>, folded: Self::Folded) -> Result<()>;
}

/// Where a value goes.
pub(crate) struct Place<'p, A> {
    table: &'p mut ByteTable<A>,
    hash: u64,
    key: &'p [u8],
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
    #[inline]
    pub(crate) fn upsert(self, value: A, fold: impl FnOnce(A, A) -> A) {
        let user = self.user;
        self.table.upsert(self.hash, self.key, value, |a, b| user.call(|| fold(a, b)));
    }

    /// The value of the key, new or old, and how to call user code on it.
    #[inline]
    pub(crate) fn value(&mut self, make: impl FnOnce() -> A) -> (&mut A, User<'_>) {
        let user = self.user;
        let make = || user.call(make);
        (self.table.get_or_insert_with(self.hash, self.key, make), self.user)
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
    });
    let reduce_side = ReduceSide { map_side, before: TableHint::default(), key: PhantomData };
    Dataset::from_node(Tabled::new(name, reduce_side))
}

/// Folds each source partition into one table for each reduce partition.
struct MapSide<K: Row, V: Row, C> {
    meta: Meta,
    parent: Parent<Kv<K, V>>,
    combine: C,
    before: TableHint,
}

/// Merges the tables of all source partitions, in their order.
struct ReduceSide<K: Row, V: Row, C> {
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
    fn table<A>(&self, at_least: usize) -> ByteTable<A> {
        ByteTable::with_capacity(self.keys.room().max(at_least)).with_arena(self.arena.room())
    }

    fn learn<A>(&self, tables: &[ByteTable<A>]) {
        self.keys.learn(tables.iter().map(ByteTable::len));
        self.arena.learn(tables.iter().map(ByteTable::arena_len));
    }
}

shuffle_node!([K: Key, V: Row, C: Combine<V>] MapSide<K, V, C>);

impl<K: Key, V: Row, C: Combine<V>> Shuffle for MapSide<K, V, C> {
    fn buckets(&self, task: &Task<'_>, wanted: &[u32]) -> Result<Vec<Held>> {
        let mut tables: Vec<ByteTable<C::Folded>> =
            wanted.iter().map(|_| self.before.table(0)).collect();
        let targets = Targets::new(task.run().parallelism(), wanted);
        let user = User { task, meta: &self.meta };
        let (mut scratch, mut refused) = (Vec::new(), None::<Error>);
        self.parent.run(task, &mut |(key, value)| {
            let key = K::bytes(&key, &mut scratch);
            let hash = hash(key);
            if let Some(table) = targets.of(hash).filter(|_| refused.is_none()) {
                let place = Place { table: &mut tables[table], hash, key, user };
                // Written only on failure: what cannot fail then costs nothing for it.
                if let Err(error) = self.combine.fold(place, value) {
                    refused = Some(error);
                }
            }
        })?;
        refused.map_or(Ok(()), Err)?;
        self.before.learn(&tables);
        Ok(tables.into_iter().map(|table| Arc::new(table) as Held).collect())
    }
}

impl<K: Key, V: Row, C: Combine<V>> Tabulate for ReduceSide<K, V, C> {
    type Key = K;
    type Value = C::Folded;

    fn dependencies(&self) -> Vec<Dependency> {
        let map_side: Arc<MapSide<K, V, C>> = Arc::clone(&self.map_side);
        vec![Dependency::Wide(map_side)]
    }

    fn table(&self, task: &Task<'_>, meta: &Meta) -> Result<ByteTable<C::Folded>> {
        let id = self.map_side.meta.id;
        let buckets = (0..task.partitions_of(id))
            .map(|map| task.bucket::<ByteTable<C::Folded>>(id, map, task.partition()))
            .collect::<Result<Vec<_>>>()?;
        let fullest = buckets.iter().map(|bucket| bucket.len()).max().unwrap_or(0);
        let mut table = self.before.table(fullest);
        let user = User { task, meta };
        for bucket in buckets {
            for piece in bucket.pieces() {
                table.warm(piece.clone().map(|(hash, ..)| hash));
                for (hash, key, folded) in piece {
                    let place = Place { table: &mut table, hash, key, user };
                    self.map_side.combine.merge(place, folded.clone())?;
                }
            }
        }
        self.before.learn(std::slice::from_ref(&table));
        Ok(table)
    }
}
