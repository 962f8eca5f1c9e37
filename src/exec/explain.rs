//! Lineage for people: what a dataset is made of, and what one partition of it needs now.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::dataset::Dataset;
use super::node::Role;
use super::plan::{Demand, Edge, Plan, Work};
use super::row::Row;
use super::run::RunContext;
use crate::error::{Error, ErrorKind, Result};

impl<R: Row> Dataset<R> {
    /// The lineage, one line for each operator, parents first: its number, its name, what it
    /// depends on, and its number of partitions in this run.
    ///
    /// ```
    /// use sawmill::{Dataset, RunContext};
    /// let counts = Dataset::from_vec(vec![7u64], 2).pair_with(|_| 1).reduce_by_key(|a, b| a + b);
    /// assert_eq!(
    ///     counts.to_debug_string(&RunContext::new(4))?,
    ///     "1 from_vec: 2 partitions\n\
    ///      2 pair_with <- 1: 2 partitions\n\
    ///      3 reduce_by_key.combine <- 2: 2 partitions, cut into 4 buckets each\n\
    ///      4 reduce_by_key <= 3: 4 partitions, held\n"
    /// );
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// `<-` is a narrow dependency, `<=` a wide one.
    ///
    /// # Errors
    /// What sources return when asked for their partitions; `Invalid` if the lineage cannot be run.
    pub fn to_debug_string(&self, run: &RunContext) -> Result<String> {
        let plan = Plan::new(&self.node(), run)?;
        let mut text = String::new();
        for (index, planned) in plan.nodes().iter().enumerate() {
            let parents: String = planned.edges.iter().map(edge_text).collect();
            let held = match planned.node.role() {
                Role::Fused => String::new(),
                Role::Held(_) => ", held".to_owned(),
                Role::Shuffle(shuffle) => {
                    format!(", cut into {} buckets each", shuffle.bucket_count(run))
                }
            };
            let (name, partitions) = (plan.name(index), planned.partitions);
            line(
                &mut text,
                &format!("{} {name}{parents}: {partitions} partitions{held}", index + 1),
            );
        }
        Ok(text)
    }

    /// What has to be computed in this run, as it stands, to have one partition: one line for each
    /// operator concerned, the partition first. What is held ends the search.
    ///
    /// ```
    /// use sawmill::{Dataset, Executor, Lost};
    /// let counts = Dataset::from_vec(vec![7u64], 2).pair_with(|_| 1).reduce_by_key(|a, b| a + b);
    /// let executor = Executor::new(1, 1)?;
    /// let run = executor.context();
    /// executor.count(&run, &counts)?;
    /// assert_eq!(counts.explain(&run, 0)?, "4 reduce_by_key: partitions 0; all held\n");
    ///
    /// run.drop_partition(counts.operator(), Lost::Partition(0));
    /// run.drop_partition(counts.shuffle().unwrap(), Lost::Bucket { map: 1, reduce: 0 });
    /// assert_eq!(
    ///     counts.explain(&run, 0)?,
    ///     "4 reduce_by_key: partitions 0; to compute: 0\n\
    ///      3 reduce_by_key.combine: buckets 0; to compute: 0 of partition 1\n\
    ///      2 pair_with: partitions 1\n\
    ///      1 from_vec: partitions 1\n    \
    ///          1: rows 0..1 of a vector\n"
    /// );
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Dataset::to_debug_string`]; `Invalid` if there is no such partition.
    pub fn explain(&self, run: &RunContext, partition: u32) -> Result<String> {
        let plan = Plan::new(&self.node(), run)?;
        let partitions = plan.target_partitions();
        if partition >= partitions {
            let text = format!("there is no partition {partition} of {partitions}");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let mut text = String::new();
        plan.walk(run.store(), &BTreeSet::from([partition]), &mut |index, demand, work| {
            if demand.partitions.is_empty() && demand.buckets.is_empty() {
                return;
            }
            let (asked, work) = (asked_text(demand), work.map(|work| work_text(&work)));
            let name = plan.name(index);
            let work = work.unwrap_or_default();
            line(&mut text, &format!("{} {name}: {asked}{work}", index + 1));
            let planned = &plan.nodes()[index];
            // Of a shuffle, buckets of every partition are asked for.
            let every = if demand.buckets.is_empty() { 0 } else { planned.partitions };
            for partition in demand.partitions.iter().copied().chain(0..every) {
                if let Some(more) = planned.node.describe(run, partition) {
                    line(&mut text, &format!("    {partition}: {more}"));
                }
            }
        });
        Ok(text)
    }
}

fn edge_text(edge: &Edge) -> String {
    match edge {
        Edge::Narrow { parent } | Edge::Slice { parent, .. } => format!(" <- {}", parent + 1),
        Edge::Wide { parent } | Edge::All { parent } => format!(" <= {}", parent + 1),
    }
}

fn asked_text(demand: &Demand) -> String {
    if demand.buckets.is_empty() {
        format!("partitions {}", list(demand.partitions.iter()))
    } else {
        format!("buckets {}", list(demand.buckets.iter()))
    }
}

fn work_text(work: &[Work]) -> String {
    if work.is_empty() {
        return "; all held".to_owned();
    }
    let tasks: Vec<String> = work
        .iter()
        .map(|work| match &work.wanted[..] {
            [] => work.partition.to_string(),
            wanted => format!("{} of partition {}", list(wanted.iter()), work.partition),
        })
        .collect();
    format!("; to compute: {}", tasks.join(", "))
}

fn list<'n>(numbers: impl Iterator<Item = &'n u32>) -> String {
    numbers.map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("memory takes every byte");
}
