//! Rows distributed by the hash of their key: the input of keyed operators.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::key::{Key, hash, partition_of};
use super::node::{Compute, Dependency, Held, Meta, Parent, Partitioning, Shuffle, shuffle_node};
use super::probe::Probe;
use super::row::Kv;
use super::spare::{Lent, Reuse, Spares};
use super::table::{HeldTable, Take, WARM};
use super::task::Task;
use super::wire::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::to_usize;
use crate::sync::Arc;

/// Keys up to this length lie in their row, as long as all have the same length.
const INLINE: usize = 8;

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
                rows_before: RoomHint::default(),
                spares: Spares::default(),
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

    /// Number of operators fused with the one that reads this: those of a parent read in place; and
    /// the same if nothing that is persisted is kept.
    pub(crate) fn fused(&self) -> (u32, u32) {
        match &self.0 {
            Route::Narrow(parent) => (parent.meta().fused, parent.meta().unkept),
            Route::Wide(_) => (0, 0),
        }
    }

    /// Whether there is no shuffle.
    pub(crate) fn is_narrow(&self) -> bool {
        matches!(self.0, Route::Narrow(_))
    }

    /// The partition as the parent holds it, one row for each key, if it is read in place.
    pub(crate) fn held_table(&self, task: &Task<'_>) -> Result<Option<Arc<HeldTable<V>>>> {
        match &self.0 {
            Route::Narrow(parent) if parent.holds_table() => {
                task.held::<HeldTable<V>>(parent.meta().id, task.partition()).map(Some)
            }
            Route::Narrow(_) | Route::Wide(_) => Ok(None),
        }
    }

    /// Hands over every row of the partition, a few at a time where they are in memory.
    pub(crate) fn pass_to(&self, task: &Task<'_>, to: &mut impl Take<V>) -> Result<()> {
        match &self.0 {
            Route::Narrow(parent) if parent.holds_table() => {
                let table = task.held::<HeldTable<V>>(parent.meta().id, task.partition())?;
                table.pass_to(to)
            }
            Route::Narrow(_) => {
                let mut failed = None;
                self.for_each(task, |hash, key, value| {
                    if failed.is_none() {
                        failed = to.take(Probe::new(hash, key), value).err();
                    }
                })?;
                failed.map_or(Ok(()), Err)
            }
            Route::Wide(shuffle) => {
                let id = shuffle.meta.id;
                for map in 0..task.partitions_of(id) {
                    let rows = task.bucket::<Lent<KeyedRows<V>>>(id, map, task.partition())?;
                    rows.pass_to(to)?;
                }
                Ok(())
            }
        }
    }

    /// Calls `each` with hash, canonical key bytes and value of every row of the partition.
    pub(crate) fn for_each(
        &self,
        task: &Task<'_>,
        mut each: impl FnMut(u64, &[u8], V),
    ) -> Result<()> {
        match &self.0 {
            Route::Narrow(parent) if parent.holds_table() => {
                let table = task.held::<HeldTable<V>>(parent.meta().id, task.partition())?;
                table.iter().for_each(|(hash, key, value)| each(hash, key, value.clone()));
                Ok(())
            }
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
                    let rows = task.bucket::<Lent<KeyedRows<V>>>(id, map, task.partition())?;
                    rows.for_each(|hash, key, value| each(hash, key, value.clone()));
                }
                Ok(())
            }
        }
    }
}

/// The key with these canonical bytes, which came from a key of this type.
#[inline]
pub(crate) fn view_of<K: Key>(bytes: &[u8]) -> Result<K::View<'_>> {
    K::view(bytes).map_err(|error| {
        let text = "a key does not read the canonical bytes it wrote";
        Error::new(ErrorKind::TaskFailed, text).caused_by(error)
    })
}

/// Rows in emission order, with their hashes.
///
/// One vector, so that filling many buckets at once writes to few places. While all keys have the
/// same length of at most 8 bytes (numbers do), they lie in their rows; otherwise packed.
pub(crate) struct KeyedRows<V> {
    rows: Vec<KeyedRow<V>>,
    keys: Keys,
}

struct KeyedRow<V> {
    hash: u64,
    /// The key, zero-padded, or where it ends in the packed keys: it begins where the one before
    /// ends.
    place: [u8; INLINE],
    value: V,
}

enum Keys {
    /// Each in its row, all of this length.
    Inline(usize),
    Packed(Vec<u8>),
}

/// Of no row yet.
const NO_KEYS: Keys = Keys::Inline(usize::MAX);

impl<V> KeyedRows<V> {
    /// Of which so many have room; in the room of a buffer that is empty, if there is one.
    pub(crate) fn with_room(rows: usize, spare: Option<KeyedRows<V>>) -> KeyedRows<V> {
        let mut buffer = spare.unwrap_or_else(|| KeyedRows { rows: vec![], keys: NO_KEYS });
        assert_eq!(buffer.len(), 0, "SPARE-1: a buffer is empty when it is taken");
        buffer.rows.reserve_exact(rows);
        buffer
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of memory held, without what the values own.
    pub(crate) fn memory(&self) -> usize {
        let packed = match &self.keys {
            Keys::Inline(_) => 0,
            Keys::Packed(packed) => packed.capacity(),
        };
        self.rows.capacity() * size_of::<KeyedRow<V>>() + packed
    }

    #[inline]
    pub(crate) fn push(&mut self, probe: &Probe<'_>, value: V) {
        let place = match (&self.keys, probe.few()) {
            (Keys::Inline(all), Some((key, len))) if *all == len => key.to_le_bytes(),
            _ => probe.with_key(|key| self.place_other(key)),
        };
        self.rows.push(KeyedRow { hash: probe.hash, place, value });
    }

    /// Places a key that has not the length of those before, or of which the length is not known.
    fn place_other(&mut self, key: &[u8]) -> [u8; INLINE] {
        if let Keys::Inline(len) = self.keys {
            if self.rows.is_empty() && key.len() <= INLINE {
                self.keys = Keys::Inline(key.len());
                let mut place = [0; INLINE];
                place[..key.len()].copy_from_slice(key);
                return place;
            }
            let mut packed = Vec::with_capacity(self.rows.capacity() * INLINE);
            for row in &mut self.rows {
                packed.extend_from_slice(&row.place[..len]);
                row.place = (packed.len() as u64).to_le_bytes();
            }
            self.keys = Keys::Packed(packed);
        }
        let Keys::Packed(packed) = &mut self.keys else { unreachable!("packed above") };
        packed.extend_from_slice(key);
        (packed.len() as u64).to_le_bytes()
    }

    /// Hands over every row, in order.
    pub(crate) fn pass_to(&self, to: &mut impl Take<V>) -> Result<()>
    where
        V: Clone,
    {
        let mut start = 0;
        for rows in self.rows.chunks(WARM) {
            to.warm(rows.iter().map(|row| row.hash));
            match &self.keys {
                Keys::Inline(len) => {
                    for KeyedRow { hash, place, value } in rows {
                        let probe = Probe::padded(*hash, u64::from_le_bytes(*place), *len);
                        to.take(probe, value.clone())?;
                    }
                }
                Keys::Packed(packed) => {
                    for KeyedRow { hash, place, value } in rows {
                        let end = to_usize(u64::from_le_bytes(*place));
                        to.take(Probe::new(*hash, &packed[start..end]), value.clone())?;
                        start = end;
                    }
                }
            }
        }
        Ok(())
    }

    fn for_each(&self, mut each: impl FnMut(u64, &[u8], &V)) {
        match &self.keys {
            // A length that the compiler knows: looking up such a key has fewer branches.
            Keys::Inline(INLINE) => {
                self.rows.iter().for_each(|row| each(row.hash, &row.place, &row.value));
            }
            Keys::Inline(len) => {
                self.rows.iter().for_each(|row| each(row.hash, &row.place[..*len], &row.value));
            }
            Keys::Packed(packed) => {
                let mut start = 0;
                for row in &self.rows {
                    let end = to_usize(u64::from_le_bytes(row.place));
                    each(row.hash, &packed[start..end], &row.value);
                    start = end;
                }
            }
        }
    }
}

impl<V: Send + Sync + 'static> Reuse for KeyedRows<V> {
    fn clear(&mut self) {
        self.rows.clear();
        self.keys = NO_KEYS;
    }

    fn memory(&self) -> usize {
        self.memory()
    }

    fn filled(&self) -> usize {
        self.rows.len() * size_of::<KeyedRow<V>>()
    }
}

/// The map side: cuts each partition of the parent into buckets of rows.
struct KeyedShuffle<K: Key, V: Value> {
    meta: Meta,
    parent: Parent<Kv<K, V>>,
    /// How many rows the buckets had last time.
    rows_before: RoomHint,
    spares: Spares<KeyedRows<V>>,
}

shuffle_node!([K: Key, V: Value] KeyedShuffle<K, V>);

impl<K: Key, V: Value> Shuffle for KeyedShuffle<K, V> {
    fn buckets(&self, task: &Task<'_>, wanted: &[u32]) -> Result<Vec<Held>> {
        let room = self.rows_before.room();
        let empty = |_| KeyedRows::with_room(room, self.spares.take());
        let mut buckets: Vec<_> = wanted.iter().map(empty).collect();
        let targets = Targets::new(task.run().parallelism(), wanted);
        let mut scratch = Vec::new();
        self.parent.run(task, &mut |(key, value)| {
            let key = K::bytes(&key, &mut scratch);
            let hash = hash(key);
            if let Some(bucket) = targets.of(hash) {
                buckets[bucket].push(&Probe::new(hash, key), value);
            }
        })?;
        self.rows_before.learn(buckets.iter().map(|bucket| bucket.rows.len()));
        let held = |rows: KeyedRows<V>| {
            let bytes = rows.memory();
            Held::new(self.spares.lend(rows, task.run()), bytes)
        };
        Ok(buckets.into_iter().map(held).collect())
    }
}

/// How much room new buckets get: the mean of the last task's, and an eighth. It saves growing and
/// never shows in a result. Not the fullest: one hot partition would size all others.
#[derive(Default)]
pub(crate) struct RoomHint(AtomicUsize);

impl RoomHint {
    pub(crate) fn room(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn learn(&self, used: impl ExactSizeIterator<Item = usize>) {
        let buckets = used.len().max(1);
        let mean = used.sum::<usize>() / buckets;
        self.0.store(mean + mean / 8, Ordering::Relaxed);
    }
}

/// Which of the wanted buckets a hash goes to.
pub(crate) struct Targets {
    parallelism: u32,
    /// For each reduce partition, the place of its bucket among the wanted ones; empty: all are.
    places: Vec<Option<usize>>,
}

impl Targets {
    pub(crate) fn new(parallelism: u32, wanted: &[u32]) -> Targets {
        if wanted.len() == parallelism as usize {
            return Targets { parallelism, places: Vec::new() };
        }
        let mut places = vec![None; parallelism as usize];
        for (place, &reduce) in wanted.iter().enumerate() {
            places[reduce as usize] = Some(place);
        }
        Targets { parallelism, places }
    }

    #[inline]
    pub(crate) fn of(&self, hash: u64) -> Option<usize> {
        let reduce = partition_of(hash, self.parallelism) as usize;
        if self.places.is_empty() { Some(reduce) } else { self.places[reduce] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exec::dataset::Dataset;
    use crate::exec::executor::Executor;
    use crate::exec::node::{Hold, Node, Role};
    use crate::exec::run::{Lost, RunContext, TaskKind};

    /// A node as the streaming engine makes it: holds, for each partition, what came in.
    struct Probe {
        meta: Meta,
        input: KeyedInput<String, u64>,
    }

    type Seen = Vec<(u64, Vec<u8>, u64)>;

    struct Taken(Vec<((u64, Vec<u8>), u64)>);

    impl Take<u64> for Taken {
        fn warm(&self, _: impl Iterator<Item = u64>) {}

        fn take(&mut self, probe: super::Probe<'_>, value: u64) -> Result<()> {
            self.0.push(((probe.hash, probe.with_key(<[u8]>::to_vec)), value));
            Ok(())
        }
    }

    impl Node for Probe {
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

    impl Hold for Probe {
        fn hold(&self, task: &Task<'_>) -> Result<Held> {
            let mut seen: Seen = Vec::new();
            let each = |hash, key: &[u8], value| seen.push((hash, key.to_vec(), value));
            self.input.for_each(task, each)?;
            Ok(Held::new(seen, 0))
        }
    }

    impl Compute<u64> for Probe {
        fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(u64)) -> Result<()> {
            let seen = task.held::<Seen>(self.meta.id, task.partition())?;
            seen.iter().for_each(|(_, _, value)| out(*value));
            Ok(())
        }
    }

    fn probe(pairs: &Dataset<Kv<String, u64>>) -> Dataset<u64> {
        let input = pairs.keyed_input();
        Dataset::from_node(Probe { meta: Meta::first("probe"), input })
    }

    fn pairs() -> Dataset<Kv<String, u64>> {
        let rows = Dataset::from_vec((0..100u64).collect(), 3);
        rows.map_to_pair(|n| (format!("key number {}", n % 9), n))
    }

    fn seen(run: &RunContext, dataset: &Dataset<u64>) -> Vec<Arc<Seen>> {
        let held = (0..run.parallelism()).map(|p| run.held::<Seen>(dataset.operator(), p));
        held.collect::<Option<_>>().expect("held after the run")
    }

    proptest! {
        #[test]
        fn rows_of_a_bucket_come_back_as_they_were(
            even in prop::collection::vec(any::<u32>(), 0..20),
            uneven in prop::collection::vec(prop::collection::vec(0u8..3, 0..12), 0..20),
            room in 0usize..30,
        ) {
            let keys = even.iter().map(|key| key.to_le_bytes().to_vec()).chain(uneven);
            let rows: Vec<_> = keys.map(|key| (hash(&key), key)).zip(0u64..).collect();
            let mut bucket = KeyedRows::with_room(room, None);
            for ((hash, key), value) in &rows {
                bucket.push(&super::Probe::new(*hash, key), *value);
            }
            let mut seen = Vec::new();
            bucket.for_each(|hash, key, value| seen.push(((hash, key.to_vec()), *value)));
            prop_assert_eq!(&seen, &rows);
            let mut taken = Taken(Vec::new());
            bucket.pass_to(&mut taken).unwrap();
            prop_assert_eq!(taken.0, rows);
        }
    }

    #[test]
    fn rows_come_by_hash_and_in_the_order_of_the_dataset() {
        let executor = Executor::new(3, 4).unwrap();
        let (run, node) = (executor.context(), probe(&pairs()));
        executor.hold(&run, &node.node()).unwrap();
        assert!(run.tasks().iter().all(|task| task.kind != TaskKind::Action));
        assert_eq!(executor.count(&run, &node).unwrap(), 100);
        let mut all = Vec::new();
        for (partition, rows) in (0..).zip(seen(&run, &node)) {
            assert!(rows.iter().all(|(h, key, _)| *h == hash(key)));
            assert!(rows.iter().all(|(h, _, _)| partition_of(*h, 4) == partition));
            // The source's rows ascend, and so do those of each key and of each partition.
            assert!(rows.is_sorted_by_key(|(_, _, value)| *value));
            all.extend(rows.iter().map(|(_, key, value)| (*value, key.clone())));
        }
        all.sort();
        let expected = (0..100).map(|n| (n, format!("key number {}", n % 9).into_bytes()));
        assert!(all.into_iter().eq(expected));
    }

    #[test]
    fn a_lost_partition_takes_the_buckets_that_are_held() {
        let executor = Executor::new(2, 4).unwrap();
        let (run, node) = (executor.context(), probe(&pairs()));
        let first = executor.collect(&run, &node).unwrap();
        let before = run.tasks().len();
        let shuffle = node.shuffle().unwrap();
        run.drop_partition(node.operator(), Lost::Partition(1));
        run.drop_partition(shuffle, Lost::Bucket { map: 2, reduce: 1 });
        assert_eq!(executor.collect(&run, &node).unwrap(), first);
        let tasks = run.tasks().split_off(before);
        let tasks: Vec<_> = tasks.iter().map(|task| (task.kind, task.partition)).collect();
        assert_eq!(tasks[..2], [(TaskKind::Map, 2), (TaskKind::Hold, 1)]);
        assert_eq!(tasks[2..].len(), 4);
    }

    #[test]
    fn what_is_distributed_by_key_is_read_in_place() {
        let executor = Executor::new(2, 4).unwrap();
        let sums = pairs().reduce_by_key(|a, b| a + b);
        for (narrow, dataset) in [
            (true, sums.clone()),
            (
                true,
                sums.filter(|(_, n)| *n > 0)
                    .map_values(|n| n)
                    .persist(crate::exec::StorageLevel::Memory),
            ),
            (false, sums.union(&sums)),
            (false, sums.map_to_pair(|(key, n)| (key, n))),
        ] {
            let node = probe(&dataset);
            assert_eq!(dataset.keyed_input().is_narrow(), narrow);
            let run = executor.context();
            executor.count(&run, &node).unwrap();
            for (partition, rows) in (0..).zip(seen(&run, &node)) {
                assert!(rows.iter().all(|(h, key, _)| *h == hash(key)));
                assert!(rows.iter().all(|(h, _, _)| partition_of(*h, 4) == partition));
            }
        }
    }
}
