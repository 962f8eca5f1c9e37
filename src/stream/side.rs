//! Side inputs: small values from outside that batches read, each in the version that its plan
//! names (ENGINE.md E8).
//!
//! - SIDE-1: a version is durable before a plan can name it.
//! - SIDE-2: a batch reads the version that its plan names, however often it is executed.
//! - SIDE-3: the newest version of each name is kept, and every one that a planned batch which is
//!   not completed names. A checkpoint repeats those: truncation removes their records.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::journal::{BatchPlan, Entry, JOURNAL, PlannedSide, SideEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Name, RunContext, Value};
use crate::ids::{LogId, Lsn};
use crate::planted::{Bug, planted};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::Wal;

/// The largest value, encoded: checkpoints repeat it.
const MAX_BYTES: usize = 1 << 20;

/// One version of a side input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SideVersion {
    pub(crate) name: String,
    /// The record that holds it.
    pub(crate) version: Lsn,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
struct Kept {
    value: Arc<SideVersion>,
    /// A planned batch may be executed with it.
    planned: bool,
}

/// The side inputs of one log, as far as they are kept.
#[derive(Debug, Default)]
pub(crate) struct SideTable(Mutex<Vec<Kept>>);

impl SideTable {
    /// SIDE-1: one more version, durable on return.
    fn set(&self, wal: &Wal, name: Name, bytes: Vec<u8>) -> Result<Lsn> {
        let entry = Entry::SideInputSet(SideEntry { name: name.get().to_owned(), bytes });
        // Held over the append: a checkpoint either has the version, or its floor is below the
        // record that holds it.
        let mut kept = lock(&self.0);
        let version = wal.append_internal(JOURNAL, &[&entry.encode()])?.first();
        let Entry::SideInputSet(SideEntry { name, bytes }) = entry else {
            unreachable!("made above")
        };
        let value = Arc::new(SideVersion { name, version, bytes });
        kept.push(Kept { value, planned: false });
        forget(&mut kept);
        Ok(version)
    }

    /// What checkpoint and log say. Everything is kept until recovery knows what is needed.
    pub(crate) fn restore(&self, versions: Vec<SideVersion>) {
        let mut kept = lock(&self.0);
        for value in versions {
            match kept.iter_mut().find(|kept| kept.value.version == value.version) {
                Some(known) => known.planned = true,
                None => kept.push(Kept { value: Arc::new(value), planned: true }),
            }
        }
    }

    /// The versions for the next batch: the newest ones. All batches before it are completed.
    pub(crate) fn plan<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<PlannedSide> {
        let mut kept = lock(&self.0);
        let newest = |name: &str| {
            let of_name = kept.iter().filter(|kept| kept.value.name == name);
            of_name.map(|kept| kept.value.version).max()
        };
        let sides = names
            .filter_map(|name| Some(PlannedSide { name: name.to_owned(), version: newest(name)? }));
        let sides: Vec<PlannedSide> = sides.collect();
        need_only(&mut kept, &sides);
        sides
    }

    /// SIDE-3: from here on only this batch may be executed again.
    pub(crate) fn settle(&self, unfinished: Option<&BatchPlan>) {
        need_only(&mut lock(&self.0), unfinished.map_or(&[][..], |plan| &plan.sides));
    }

    /// SIDE-2: exactly the version that the plan names.
    ///
    /// # Errors
    /// `Corrupt` if it is not there: then log and checkpoints are not what they were.
    pub(crate) fn get(&self, planned: &PlannedSide) -> Result<Arc<SideVersion>> {
        let kept = lock(&self.0);
        let mut of_name = kept.iter().filter(|kept| kept.value.name == planned.name);
        let found = if planted(Bug::SideInputLatest) {
            of_name.max_by_key(|kept| kept.value.version)
        } else {
            of_name.find(|kept| kept.value.version == planned.version)
        };
        found.map(|kept| Arc::clone(&kept.value)).ok_or_else(|| {
            let text = format!(
                "side input `{}` is planned in a version that neither log nor checkpoint has",
                planned.name
            );
            Error::new(ErrorKind::Corrupt, text).for_lsns(planned.version, planned.version)
        })
    }

    /// For a checkpoint.
    pub(crate) fn snapshot(&self) -> Vec<SideVersion> {
        let mut kept = lock(&self.0);
        if planted(Bug::SideInputUnkept) {
            need_only(&mut kept, &[]);
        }
        kept.iter().map(|kept| SideVersion::clone(&kept.value)).collect()
    }
}

fn need_only(kept: &mut Vec<Kept>, sides: &[PlannedSide]) {
    for kept in kept.iter_mut() {
        kept.planned = sides.iter().any(|side| side.version == kept.value.version);
    }
    forget(kept);
}

/// SIDE-3: lets go what is neither planned nor the newest of its name.
fn forget(kept: &mut Vec<Kept>) {
    let newer = |old: &SideVersion, kept: &[Kept]| {
        kept.iter().any(|kept| kept.value.name == old.name && kept.value.version > old.version)
    };
    let keeps: Vec<bool> = kept.iter().map(|k| k.planned || !newer(&k.value, kept)).collect();
    let mut keeps = keeps.into_iter();
    kept.retain(|_| keeps.next().unwrap_or(true));
}

/// A small value from outside that batches read: prices, rules, thresholds. It may be set at any
/// time; each batch reads the version that was the newest when it was planned, and the same one
/// whenever it is executed again, after a crash or a loss. Clones are one side input.
///
/// A new version alone makes no batch. Values have at most 1 MiB: each checkpoint repeats them.
/// What is larger, or changes with every record, is a source to be joined with.
///
/// ```
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path(), EngineOptions::default())?;
/// let events = engine.ingest(name!("orders"))?;
/// let price = engine.side_input::<u64>(name!("price"));
/// price.set(&7)?; // durable when it returns
/// let (job, sums) = Job::build(name!("sales"), |job| {
///     let orders = job.source(name!("in"), Received::from(&events));
///     let price = job.side_input(&price);
///     let paid = orders.map_partitions::<(u8, u64)>(move |rows, out| {
///         let price = price.of(rows.run())?.map_or(0, |price| *price);
///         rows.for_each(|order| out.push((order[0], price)))
///     });
///     paid.map_to_pair(|row| row).map_with_state::<u64, ()>(name!("sums"), |_, paid, sum| {
///         *sum = Some(sum.unwrap_or(0) + paid.sum::<u64>());
///         None
///     }).state
/// })?;
/// events.append(b"a")?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// engine.start(job, RunOptions { trigger, ..RunOptions::default() })?.await_termination()?;
/// assert_eq!(sums.get(b'a'), Some(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SideInput<T> {
    name: Name,
    wal: Wal,
    table: Arc<SideTable>,
    /// What was decoded last.
    decoded: Arc<Mutex<Decoded<T>>>,
}

/// A version, and its value.
type Decoded<T> = Option<(Lsn, Arc<T>)>;

impl<T> Clone for SideInput<T> {
    fn clone(&self) -> SideInput<T> {
        let (table, decoded) = (Arc::clone(&self.table), Arc::clone(&self.decoded));
        SideInput { name: self.name, wal: self.wal.clone(), table, decoded }
    }
}

impl<T> fmt::Debug for SideInput<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SideInput({})", self.name)
    }
}

/// What a run has of a side input.
struct Provided<T>(Option<Arc<T>>);

impl<T: Value> SideInput<T> {
    pub(crate) fn new(name: Name, wal: &Wal, table: &Arc<SideTable>) -> SideInput<T> {
        let (wal, table) = (wal.clone(), Arc::clone(table));
        SideInput { name, wal, table, decoded: Arc::default() }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name
    }

    /// Sets a new version, durable on return: the batches that are planned from then on read it.
    /// Returns the record that holds it.
    ///
    /// # Errors
    /// `TooLarge` beyond 1 MiB, `Invalid` if the value refuses to be serialised; the log's.
    pub fn set(&self, value: &T) -> Result<Lsn> {
        let bytes = postcard::to_extend(value, Vec::new()).map_err(|cause| {
            let text = format!("the value of side input `{}` refused to be serialised", self.name);
            Error::new(ErrorKind::Invalid, text).caused_by(cause)
        })?;
        if bytes.len() > MAX_BYTES {
            let text = format!(
                "the value of side input `{}` has {} bytes, more than {MAX_BYTES}",
                self.name,
                bytes.len()
            );
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        self.table.set(&self.wal, self.name, bytes)
    }

    /// The value for the batch of this run (in a closure: `rows.run()` of
    /// [`map_partitions`](crate::Stream::map_partitions)); `None` if none had been set when the
    /// batch was planned.
    ///
    /// # Errors
    /// `Invalid` if the run is not one of a job that [reads it](crate::JobBuilder::side_input).
    pub fn of(&self, run: &RunContext) -> Result<Option<Arc<T>>> {
        match run.input::<Provided<T>>(self.name.get()) {
            Some(provided) => Ok(provided.0.clone()),
            None => {
                let text = format!("the job does not read side input `{}`", self.name);
                Err(Error::new(ErrorKind::Invalid, text))
            }
        }
    }

    fn decode(&self, side: &SideVersion) -> Result<Arc<T>> {
        if let Some((version, value)) = lock(&self.decoded).clone()
            && version == side.version
        {
            return Ok(value);
        }
        let decoded = postcard::take_from_bytes::<T>(&side.bytes).ok();
        let Some(value) = decoded.filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
        else {
            let text = format!("the value of side input `{}` is of another type", self.name);
            let error = Error::new(ErrorKind::JobMismatch, text);
            return Err(error.for_lsns(side.version, side.version));
        };
        let value = Arc::new(value);
        *lock(&self.decoded) = Some((side.version, Arc::clone(&value)));
        Ok(value)
    }
}

/// A side input of a job, as the driver sees it.
pub(crate) trait Side: fmt::Debug + Send + Sync {
    fn name(&self) -> &str;

    /// The log that holds its versions.
    fn log(&self) -> LogId;

    /// Gives a run the version that its plan names.
    fn provide(&self, run: RunContext, side: Option<&SideVersion>) -> Result<RunContext>;
}

impl<T: Value> Side for SideInput<T> {
    fn name(&self) -> &str {
        self.name.get()
    }

    fn log(&self) -> LogId {
        self.wal.log_id()
    }

    fn provide(&self, run: RunContext, side: Option<&SideVersion>) -> Result<RunContext> {
        let value = side.map(|side| self.decode(side)).transpose()?;
        Ok(run.with_input(self.name.get(), Arc::new(Provided(value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: &str, version: u64) -> SideVersion {
        let bytes = vec![u8::try_from(version).unwrap()];
        SideVersion { name: name.to_owned(), version: Lsn::new(version), bytes }
    }

    fn planned(name: &str, version: u64) -> PlannedSide {
        PlannedSide { name: name.to_owned(), version: Lsn::new(version) }
    }

    fn versions(table: &SideTable) -> Vec<u64> {
        table.snapshot().iter().map(|side| side.version.get()).collect()
    }

    #[test]
    fn the_newest_and_what_a_planned_batch_names_are_kept() {
        let table = SideTable::default();
        table.restore(vec![version("a", 1), version("b", 2), version("a", 5), version("a", 7)]);
        assert_eq!(versions(&table), [1, 2, 5, 7], "all of them until it is known what is needed");
        assert_eq!(table.get(&planned("a", 5)).unwrap().bytes, [5]);

        let mut plan = BatchPlan::default();
        plan.sides.push(planned("a", 5));
        table.settle(Some(&plan));
        assert_eq!(versions(&table), [2, 5, 7]);
        assert_eq!(table.plan(["a", "none"].into_iter()), [planned("a", 7)]);
        assert_eq!(versions(&table), [2, 7]);
        table.restore(vec![version("a", 9)]);
        table.settle(None);
        assert_eq!(versions(&table), [2, 9]);
    }

    #[test]
    fn a_version_that_is_missing_is_named() {
        let table = SideTable::default();
        table.restore(vec![version("a", 1), version("b", 3)]);
        for missing in [planned("a", 3), planned("c", 1)] {
            let error = table.get(&missing).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert_eq!(error.lsns(), Some((missing.version, missing.version)));
            assert!(error.to_string().contains(&format!("`{}`", missing.name)), "{error}");
        }
    }
}
