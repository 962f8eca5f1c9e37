//! `repartition`: the same rows, dealt out evenly.

use crate::error::Result;
use crate::exec::dataset::Dataset;
use crate::exec::node::{Compute, Dependency, Held, Meta, Node, Parent, Shuffle, shuffle_node};
use crate::exec::row::Row;
use crate::exec::run::RunContext;
use crate::exec::task::Task;
use crate::exec::wire::{Wire, read_encoded};
use crate::planted::{Bug, planted};
use crate::sync::Arc;

impl<R: Row> Dataset<R> {
    /// The same rows in `partitions` (at least 1) partitions of even size: row `i` of source
    /// partition `s` goes to partition `(s + i) % partitions`. In each partition, rows come out by
    /// source partition, there in the source's order.
    ///
    /// For work that is uneven behind a filter, or that has too few partitions for all cores.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor};
    /// let executor = Executor::new(2, 4)?;
    /// let even = Dataset::from_vec((0..6u32).collect(), 1).repartition(3);
    /// let sizes = executor.for_each_partition(&executor.context(), &even, |rows| {
    ///     let mut size = 0;
    ///     rows.for_each(|_| size += 1)?;
    ///     Ok(size)
    /// })?;
    /// assert_eq!(sizes, [2, 2, 2]);
    /// assert_eq!(even.collect(&executor)?, [0, 3, 1, 4, 2, 5]);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn repartition(&self, partitions: u32) -> Dataset<R>
    where
        R: Wire,
    {
        let (parent, partitions) = (self.parent(), partitions.max(1));
        let meta = Meta::after("repartition.deal", parent.meta());
        let deal = Arc::new(Deal { meta, parent, partitions });
        Dataset::from_node(Repartition { meta: Meta::first("repartition"), deal })
    }
}

/// Deals out the rows of each source partition, encoded.
struct Deal<R: Row> {
    meta: Meta,
    parent: Parent<R>,
    partitions: u32,
}

struct Repartition<R: Row> {
    meta: Meta,
    deal: Arc<Deal<R>>,
}

shuffle_node!([R: Wire] Deal<R>);

impl<R: Wire> Node for Repartition<R> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn dependencies(&self) -> Vec<Dependency> {
        let deal: Arc<Deal<R>> = Arc::clone(&self.deal);
        vec![Dependency::Wide(deal)]
    }

    fn partitions(&self, _run: &RunContext, _parents: &[u32]) -> Result<u32> {
        Ok(self.deal.partitions)
    }
}

impl<R: Wire> Shuffle for Deal<R> {
    fn buckets(&self, task: &Task<'_>, wanted: &[u32]) -> Result<Vec<Held>> {
        let mut buckets = vec![Vec::new(); wanted.len()];
        let mut places = vec![None; self.partitions as usize];
        for (place, &reduce) in wanted.iter().enumerate() {
            places[reduce as usize] = Some(place);
        }
        let mut turn = (task.partition() % self.partitions) as usize;
        self.parent.run(task, &mut |view| {
            if let Some(place) = places[turn] {
                R::put(view, &mut buckets[place]);
            }
            turn = if turn + 1 == places.len() { 0 } else { turn + 1 };
        })?;
        let held = |bytes: Vec<u8>| {
            let size = bytes.capacity();
            Held::new(bytes, size)
        };
        Ok(buckets.into_iter().map(held).collect())
    }

    fn bucket_count(&self, _run: &RunContext) -> u32 {
        self.partitions
    }
}

impl<R: Wire> Compute<R> for Repartition<R> {
    fn run(&self, task: &Task<'_>, out: &mut dyn FnMut(R::View<'_>)) -> Result<()> {
        let id = self.deal.meta.id;
        for map in 0..task.partitions_of(id) {
            let bucket = match task.bucket::<Vec<u8>>(id, map, task.partition()) {
                Err(_) if planted(Bug::LostBucketIsEmpty) => continue,
                bucket => bucket?,
            };
            read_encoded::<R>(&bucket, out)?;
        }
        Ok(())
    }
}
