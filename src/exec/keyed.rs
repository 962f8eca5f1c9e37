//! Rows distributed by the hash of their key: the input of keyed operators.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::key::{Key, hash, partition_of};
use super::node::{Compute, Dependency, Held, Meta, Node, Parent, Partitioning, Role, Shuffle};
use super::row::Kv;
use super::task::Task;
use super::wire::Value;
use crate::error::Result;
use crate::sync::Arc;

/// The rows of a dataset by the hash of their key, over as many partitions as the run's
/// parallelism: read in place where the dataset is distributed like that already (narrow), through
/// a shuffle otherwise (wide).
///
/// Rows of one key come in the dataset's order: by source partition, then as emitted there.
pub(crate) struct KeyedInput<K: Key, V: Value>(Route<K, V>);

enum Route<K: Key, V: Value> {
    Narrow(Parent<Kv<K, V>>),
    Wide(Arc<KeyedShuffle<K, V>>),
}

impl<K: Key, V: Value> KeyedInput<K, V> {
    pub(crate) fn new(node: &Arc<dyn Compute<Kv<K, V>>>) -> KeyedInput<K, V> {
        let parent = Parent::new(node);
        KeyedInput(match node.partitioning() {
            Partitioning::ByKey => Route::Narrow(parent),
            Partitioning::Unknown => Route::Wide(Arc::new(KeyedShuffle {
                meta: Meta::after("key_shuffle", parent.meta()),
                parent,
                rows_before: AtomicUsize::new(0),
            })),
        })
    }

    /// What the node that reads this must name among its dependencies.
    pub(crate) fn dependency(&self) -> Dependency {
        match &self.0 {
            Route::Narrow(parent) => Dependency::Narrow(parent.node()),
            Route::Wide(shuffle) => {
                let node: Arc<KeyedShuffle<K, V>> = Arc::clone(shuffle);
                Dependency::Wide(node)
            }
        }
    }

    /// Whether there is no shuffle.
    pub(crate) fn is_narrow(&self) -> bool {
        matches!(self.0, Route::Narrow(_))
    }

    /// Calls `each` with hash, canonical key bytes and value of every row of the partition.
    pub(crate) fn for_each(
        &self,
        task: &Task<'_>,
        each: &mut dyn FnMut(u64, &[u8], V),
    ) -> Result<()> {
        match &self.0 {
            Route::Narrow(parent) => {
                let mut scratch = Vec::new();
                parent.run(task, &mut |(key, value)| {
                    let key = K::bytes(&key, &mut scratch);
                    each(hash(key), key, value);
                })
            }
            Route::Wide(shuffle) => {
                let id = shuffle.meta.id;
                for map in 0..task.partitions_of(id) {
                    let rows = task.bucket::<KeyedRows<V>>(id, map, task.partition())?;
                    rows.for_each(|hash, key, value| each(hash, key, value.clone()));
                }
                Ok(())
            }
        }
    }
}

/// Rows in emission order, with their hashes; keys packed.
pub(crate) struct KeyedRows<V> {
    hashes: Vec<u64>,
    /// Where each key ends in `keys`; it begins where the one before ends.
    ends: Vec<usize>,
    keys: Vec<u8>,
    values: Vec<V>,
}

impl<V> KeyedRows<V> {
    fn with_capacity(rows: usize) -> KeyedRows<V> {
        KeyedRows {
            hashes: Vec::with_capacity(rows),
            ends: Vec::with_capacity(rows),
            keys: Vec::with_capacity(rows * 8),
            values: Vec::with_capacity(rows),
        }
    }

    fn push(&mut self, hash: u64, key: &[u8], value: V) {
        self.hashes.push(hash);
        self.keys.extend_from_slice(key);
        self.ends.push(self.keys.len());
        self.values.push(value);
    }

    fn for_each(&self, mut each: impl FnMut(u64, &[u8], &V)) {
        let mut start = 0;
        for ((hash, end), value) in self.hashes.iter().zip(&self.ends).zip(&self.values) {
            each(*hash, &self.keys[start..*end], value);
            start = *end;
        }
    }
}

/// The map side: cuts each partition of the parent into buckets of rows.
struct KeyedShuffle<K: Key, V: Value> {
    meta: Meta,
    parent: Parent<Kv<K, V>>,
    /// Rows of the fullest bucket so far: how much room the next buckets get. Only a hint.
    rows_before: AtomicUsize,
}

impl<K: Key, V: Value> Node for KeyedShuffle<K, V> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        vec![Dependency::Narrow(self.parent.node())]
    }

    fn role(&self) -> Role<'_> {
        Role::Shuffle(self)
    }
}

impl<K: Key, V: Value> Shuffle for KeyedShuffle<K, V> {
    fn buckets(&self, task: &Task<'_>, wanted: &[u32]) -> Result<Vec<Held>> {
        let room = self.rows_before.load(Ordering::Relaxed);
        let mut buckets: Vec<_> = wanted.iter().map(|_| KeyedRows::with_capacity(room)).collect();
        let targets = Targets::new(task.run().parallelism(), wanted);
        let mut scratch = Vec::new();
        self.parent.run(task, &mut |(key, value)| {
            let key = K::bytes(&key, &mut scratch);
            let hash = hash(key);
            if let Some(bucket) = targets.of(hash) {
                buckets[bucket].push(hash, key, value);
            }
        })?;
        let fullest = buckets.iter().map(|rows| rows.hashes.len()).max().unwrap_or(0);
        self.rows_before.fetch_max(fullest, Ordering::Relaxed);
        Ok(buckets.into_iter().map(|rows| Arc::new(rows) as Held).collect())
    }
}

/// Which of the wanted buckets a hash goes to.
pub(crate) struct Targets {
    parallelism: u32,
    /// For each reduce partition, the place of its bucket among the wanted ones.
    places: Vec<Option<usize>>,
}

impl Targets {
    pub(crate) fn new(parallelism: u32, wanted: &[u32]) -> Targets {
        let mut places = vec![None; parallelism as usize];
        for (place, &reduce) in wanted.iter().enumerate() {
            places[reduce as usize] = Some(place);
        }
        Targets { parallelism, places }
    }

    #[inline]
    pub(crate) fn of(&self, hash: u64) -> Option<usize> {
        self.places[partition_of(hash, self.parallelism) as usize]
    }
}
