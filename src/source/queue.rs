//! Input that a test gives, batch by batch.

use std::fmt;

use super::attach::sealed::Sealed;
use super::{
    Amount, Attached, Input, LastRead, Limit, Meter, Opened, Planned, RecordPlace, Source,
    SourceContext, StreamSource,
};
use crate::checksum::Xxh3;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Bytes, Name};
use crate::ids::{Lsn, StreamId, to_u64, to_usize};
use crate::sync::{Arc, Mutex, lock};
use crate::versioned;

const VERSION: u8 = 1;

/// A source for tests: what is pushed at once is the input of one batch, whatever the trigger's
/// limits, and a batch without a push is none.
///
/// It is outside of the engine, like a file: what was pushed stays, in memory, and is read again
/// from there when a batch is computed again. So a test that crashes its disk and opens the engine
/// again gives the new job a clone of the same queue. A queue that has not what was planned of it
/// is an error of kind [`SourceChanged`](crate::ErrorKind::SourceChanged).
///
/// A dead letter of it has the place `queue`, from the number of its row in the partition to the
/// next.
///
/// ```
/// use std::sync::Arc;
/// use sawmill::clock::ManualClock;
/// use sawmill::sim::{CrashOutcome, SimDisk};
/// use sawmill::testing::{Harness, NoHooks, Queue};
/// use sawmill::{Background, Engine, EngineOptions, Job, RunOptions, WalOptions, name};
/// let queue = Queue::new();
/// let life = |disk: &SimDisk, batches| {
///     let log = WalOptions { background: Background::Inline, ..WalOptions::default() };
///     let options = EngineOptions { log, ..EngineOptions::default() };
///     let clock = Arc::new(ManualClock::default());
///     let engine = Engine::open_with(Arc::new(disk.clone()), clock, "/data", options)?;
///     let (job, sums) = Job::build(name!("sums"), |job| {
///         let rows = job.source(name!("in"), queue.clone());
///         let rows = rows.map_to_pair(|row| (row.to_vec(), 1_u64));
///         rows.map_with_state::<u64, ()>(name!("sums"), |_, values, sum| {
///             *sum = Some(sum.unwrap_or(0) + values.sum::<u64>());
///             None
///         }).state
///     })?;
///     let mut job = Harness::new(&engine, job, RunOptions::default(), Box::new(NoHooks))?;
///     Ok::<_, sawmill::Error>((job.run_batches(batches)?, sums.get(b"oak".to_vec())))
/// };
/// queue.push(["oak", "ash"]);
/// queue.push(["oak"]);
/// let disk = SimDisk::new(1);
/// assert_eq!(life(&disk, 1)?, (1, Some(1)));
/// // The power goes; what was not completed is read again.
/// let disk = disk.power_cycle(CrashOutcome::LoseAll);
/// assert_eq!(life(&disk, 10)?, (1, Some(2)));
/// # Ok::<(), sawmill::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Queue {
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    portions: Vec<Arc<Portion>>,
    ended: bool,
}

/// The rows of one batch, by partitions.
type Portion = Vec<Vec<Vec<u8>>>;

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("batches", &self.len()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Queue {
        Queue::default()
    }

    /// Gives the rows of one more batch, in one partition.
    ///
    /// # Panics
    /// If the queue was ended.
    pub fn push<R: Into<Vec<u8>>>(&self, rows: impl IntoIterator<Item = R>) {
        self.push_partitions(vec![rows.into_iter().map(Into::into).collect()]);
    }

    /// As [`push`](Queue::push), with the rows of each partition.
    ///
    /// # Panics
    /// If the queue was ended, or if there is no partition.
    pub fn push_partitions(&self, partitions: Vec<Vec<Vec<u8>>>) {
        assert!(!partitions.is_empty(), "a batch has a partition at least");
        let mut content = lock(&self.content);
        assert!(!content.ended, "nothing comes behind the end of a queue");
        content.portions.push(Arc::new(partitions));
    }

    /// Says that nothing comes any more: the job ends behind the last batch.
    pub fn end(&self) {
        lock(&self.content).ended = true;
    }

    /// How many batches were pushed.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.content).portions.len()
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn portion(&self, number: u64) -> Result<Arc<Portion>> {
        let content = lock(&self.content);
        let portion = content.portions.get(to_usize(number)).map(Arc::clone);
        portion.ok_or_else(|| {
            let message = format!(
                "batch {} of the queue was planned, and it has {}: a job that is started again \
                 needs the queue that it was started with",
                number + 1,
                content.portions.len()
            );
            Error::new(ErrorKind::SourceChanged, message)
        })
    }
}

impl Sealed for Queue {}

impl StreamSource for Queue {
    type Row = Bytes;

    fn attach(self, name: Name) -> Attached<Bytes> {
        let name = name.get().to_owned();
        Attached::new(QueueSource { name, queue: self, read: Arc::default() })
    }
}

/// A [`Queue`] in a job. Its positions and inputs are numbers of portions.
#[derive(Debug)]
struct QueueSource {
    name: String,
    queue: Queue,
    read: Arc<Meter>,
}

fn decode(bytes: &[u8]) -> Result<u64> {
    versioned::decode("place in a queue", VERSION, bytes)
}

impl QueueSource {
    fn open_portion(&self, input: &[u8]) -> Result<QueueInput> {
        let number = decode(input)?;
        let (portion, read) = (self.queue.portion(number)?, Arc::clone(&self.read));
        Ok(QueueInput { number, portion, read })
    }
}

impl Source for QueueSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn rests_on(&self) -> &'static str {
        "while the test keeps the queue"
    }

    fn stream(&self) -> Option<StreamId> {
        None
    }

    fn plan(
        &self,
        _cx: SourceContext<'_>,
        position: Option<&[u8]>,
        _limit: Limit,
    ) -> Result<Option<Planned>> {
        let number = position.map_or(Ok(0), decode)?;
        if number >= to_u64(self.queue.len()) {
            return Ok(None);
        }
        let amount = amount(&*self.queue.portion(number)?);
        Ok(Some(Planned {
            input: versioned::encode(VERSION, &number),
            next: versioned::encode(VERSION, &(number + 1)),
            bytes: amount.bytes,
            records: Some(amount.records),
        }))
    }

    fn open(&self, _cx: SourceContext<'_>, input: &[u8]) -> Result<Arc<Opened>> {
        Ok(Arc::new(Opened::new(self.open_portion(input)?)))
    }

    fn verify_digest(&self, input: &[u8], recorded: &[u8], actual: &[u8]) -> Result<()> {
        if recorded == actual {
            return Ok(());
        }
        let message = format!("batch {} of the queue has other rows now", decode(input)? + 1);
        Err(Error::new(ErrorKind::SourceChanged, message))
    }

    fn verify_position(
        &self,
        _cx: SourceContext<'_>,
        _position: &[u8],
        last: Option<LastRead<'_>>,
    ) -> Result<()> {
        let Some(last) = last else { return Ok(()) };
        let actual = self.open_portion(last.input)?.digest()?;
        self.verify_digest(last.input, last.digest, &actual)
    }

    fn retention(&self, _position: Option<&[u8]>) -> Result<Option<Lsn>> {
        Ok(None)
    }

    fn exhausted(&self, position: Option<&[u8]>) -> Result<bool> {
        let number = position.map_or(Ok(0), decode)?;
        let content = lock(&self.queue.content);
        Ok(content.ended && number >= to_u64(content.portions.len()))
    }

    fn amount_read(&self) -> Amount {
        self.read.total()
    }
}

fn amount<'a>(rows: impl IntoIterator<Item = &'a Vec<Vec<u8>>>) -> Amount {
    let rows = rows.into_iter().flatten();
    rows.fold(Amount::default(), |sum, row| Amount {
        bytes: sum.bytes + to_u64(row.len()),
        records: sum.records + 1,
    })
}

/// The rows of one batch.
struct QueueInput {
    number: u64,
    portion: Arc<Portion>,
    read: Arc<Meter>,
}

impl fmt::Debug for QueueInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueInput").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Input for QueueInput {
    fn partitions(&self) -> u32 {
        u32::try_from(self.portion.len()).unwrap_or(u32::MAX)
    }

    fn rows(&self, partition: u32, out: &mut dyn FnMut(&[u8])) -> Result<()> {
        let rows = &self.portion[partition as usize];
        rows.iter().for_each(|row| out(row));
        self.read.add(amount([rows]));
        Ok(())
    }

    fn digest(&self) -> Result<Vec<u8>> {
        let mut digest = Xxh3::new();
        for rows in &*self.portion {
            digest.update(&to_u64(rows.len()).to_le_bytes());
            for row in rows {
                digest.update(&to_u64(row.len()).to_le_bytes());
                digest.update(row);
            }
        }
        Ok(versioned::encode(VERSION, &digest.digest()))
    }

    fn describe(&self, partition: u32) -> String {
        format!("batch {} of the queue, partition {partition}", self.number + 1)
    }

    fn locate(&self, partition: u32, row: u64) -> Result<Option<(RecordPlace, Vec<u8>)>> {
        let found = self.portion[partition as usize].get(to_usize(row));
        let place = RecordPlace::Range { path: "queue".to_owned(), start: row, end: row + 1 };
        Ok(found.map(|found| (place, found.clone())))
    }
}
