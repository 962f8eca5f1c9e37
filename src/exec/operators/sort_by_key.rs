//! `sort_by_key`: rows in the order of their keys.

use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::{Compute, Dependency, Held, Hold, Meta, Node, Parent, Role};
use crate::exec::row::{Data, Kv, Row};
use crate::exec::run::RunContext;
use crate::exec::task::Task;
use crate::exec::wire::Value;
use crate::sync::Arc;

/// Keys looked at for each range: with 16 sources the ranges' sizes then differ by a few percent.
const SAMPLES_PER_RANGE: usize = 256;

impl<K: Row, V: Data> Dataset<Kv<K, V>> {
    /// The rows in ascending order of their keys, rows with equal keys in the dataset's order.
    /// Keys come out owned.
    ///
    /// Each partition of the result has a range of keys, and all rows of a key are in one
    /// partition. The ranges are cut from the rows themselves, evenly, and recorded with the run:
    /// a lost partition has the same rows again. Each source partition is sorted and held; the
    /// ranges are merged for each consumer.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let words = Dataset::from_vec(vec!["oak", "larch", "ash", "fir"], 2).map(str::to_owned);
    /// let sorted = words.key_by(|word| word.len() as u32).sort_by_key().values();
    /// assert_eq!(sorted.collect(&Executor::new(2, 4)?)?, ["oak", "ash", "fir", "larch"]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn sort_by_key(&self) -> Dataset<Kv<K::Owned, V>>
    where
        K::Owned: Value + Ord,
        V: Value,
    {
        let meta = Meta::first("sort_by_key.runs");
        let runs = Arc::new(Runs { meta, parent: self.parent() });
        let meta = Meta::first("sort_by_key.ranges");
        let ranges = Arc::new(Ranges { meta, runs: Arc::clone(&runs) });
        Dataset::from_node(SortByKey { meta: Meta::first("sort_by_key"), runs, ranges })
    }
}

/// The rows of each source partition, sorted: `Vec<(K::Owned, V)>`.
struct Runs<K: Row, V: Data> {
    meta: Meta,
    parent: Parent<Kv<K, V>>,
}

/// The keys at which the ranges begin, of all but the first: one partition, `Vec<K::Owned>`.
struct Ranges<K: Row, V: Data> {
    meta: Meta,
    runs: Arc<Runs<K, V>>,
}

/// Merges what the runs have in one range.
struct SortByKey<K: Row, V: Data> {
    meta: Meta,
    runs: Arc<Runs<K, V>>,
    ranges: Arc<Ranges<K, V>>,
}

type Run<K, V> = Vec<(<K as Row>::Owned, V)>;

impl<K: Row, V: Value> Node for Runs<K, V>
where
    K::Owned: Value + Ord,
{
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        vec![Dependency::Narrow(self.parent.node())]
    }

    fn role(&self) -> Role<'_> {
        Role::Held(self)
    }
}

impl<K: Row, V: Value> Node for Ranges<K, V>
where
    K::Owned: Value + Ord,
{
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        let runs: Arc<Runs<K, V>> = Arc::clone(&self.runs);
        vec![Dependency::All(runs)]
    }

    fn partitions(&self, _run: &RunContext, _parents: &[u32]) -> Result<u32> {
        Ok(1)
    }

    fn role(&self) -> Role<'_> {
        Role::Held(self)
    }
}

impl<K: Row, V: Value> Node for SortByKey<K, V>
where
    K::Owned: Value + Ord,
{
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        let runs: Arc<Runs<K, V>> = Arc::clone(&self.runs);
        let ranges: Arc<Ranges<K, V>> = Arc::clone(&self.ranges);
        vec![Dependency::All(runs), Dependency::All(ranges)]
    }

    fn partitions(&self, run: &RunContext, _parents: &[u32]) -> Result<u32> {
        Ok(run.parallelism())
    }
}

impl<K: Row, V: Value> Runs<K, V>
where
    K::Owned: Value + Ord,
{
    /// The runs of all source partitions, in order.
    fn all(&self, task: &Task<'_>) -> Result<Vec<Arc<Run<K, V>>>> {
        let id = self.meta.id;
        (0..task.partitions_of(id)).map(|source| task.held(id, source)).collect()
    }
}

impl<K: Row, V: Value> Hold for Runs<K, V>
where
    K::Owned: Value + Ord,
{
    fn hold(&self, task: &Task<'_>) -> Result<Held> {
        let mut rows: Run<K, V> = Vec::new();
        self.parent.run(task, &mut |(key, value)| rows.push((K::own(key), value)))?;
        // Stable, so that equal keys stay in source order. How keys compare is user code.
        task.call(&self.meta, || rows.sort_by(|a, b| a.0.cmp(&b.0)));
        let bytes = rows.capacity() * size_of::<(K::Owned, V)>();
        Ok(Held::new(rows, bytes))
    }
}

impl<K: Row, V: Value> Hold for Ranges<K, V>
where
    K::Owned: Value + Ord,
{
    /// Every `step`-th key of each run is looked at: a run counts by its length, and nothing but
    /// the rows decides.
    fn hold(&self, task: &Task<'_>) -> Result<Held> {
        let (runs, ranges) = (self.runs.all(task)?, task.run().parallelism() as usize);
        let rows: usize = runs.iter().map(|run| run.len()).sum();
        let step = (rows / (ranges * SAMPLES_PER_RANGE)).max(1);
        let samples = runs.iter().flat_map(|run| run.iter().skip(step / 2).step_by(step));
        let mut samples: Vec<K::Owned> = samples.map(|(key, _)| key.clone()).collect();
        task.call(&self.meta, || samples.sort());
        let begin = |range: usize| samples.get(range * samples.len() / ranges).cloned();
        let begins: Vec<K::Owned> = (1..ranges).filter_map(begin).collect();
        let bytes = begins.capacity() * size_of::<K::Owned>();
        Ok(Held::new(begins, bytes))
    }
}

impl<K: Row, V: Value> Compute<Kv<K::Owned, V>> for SortByKey<K, V>
where
    K::Owned: Value + Ord,
{
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut((K::Owned, V))) -> Result<()> {
        let begins = task.held::<Vec<K::Owned>>(self.ranges.meta.id, 0)?;
        let runs = self.runs.all(task)?;
        let range = task.partition() as usize;
        let rows = task.call(&self.meta, || {
            let mut rows: Run<K, V> = Vec::new();
            for run in &runs {
                let below = |at: usize| match begins.get(at) {
                    Some(begin) => run.partition_point(|(key, _)| key < begin),
                    None => run.len(),
                };
                let first = range.checked_sub(1).map_or(0, below);
                rows.extend_from_slice(&run[first..below(range)]);
            }
            // The runs stand one behind the other, which the stable sort of the standard library
            // sees: it merges them.
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            rows
        });
        rows.into_iter().for_each(out);
        Ok(())
    }
}
