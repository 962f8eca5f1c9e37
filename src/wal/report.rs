//! Looking at a log without opening it, and repairing a damaged one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options::WalOptions;
use super::range::LsnRange;
use super::recovery::RecoverOptions;
use super::recovery::repair::{self, Repaired};
use super::recovery::survey::Survey;
use super::wal::Wal;
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::ids::{Epoch, LogId, Lsn, Position, SegmentNumber};
use crate::storage::{Storage, SystemStorage};

/// How often a log is looked at again whose files a writer removes meanwhile.
const LOOKS: u32 = 5;

/// What stands in a log's directory: every frame read from the device, every checksum compared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogReport {
    /// The log's directory.
    pub path: PathBuf,
    /// The log's identity.
    pub log_id: LogId,
    /// The LSN at which the log starts.
    pub first_lsn: Lsn,
    /// The last record that stands; one below `first_lsn` if there is none.
    pub last_lsn: Lsn,
    /// The highest LSN that anything in the log says was durable.
    pub attested_lsn: Lsn,
    /// Behind the last frame that stands.
    pub end: Position,
    /// Whether `LOG` says that the log was closed cleanly.
    pub clean: bool,
    /// The sequence in each of the two slots of `LOG`; `None` if the slot does not verify, which is
    /// normal for one of them after a crash.
    pub slots: [Option<u64>; 2],
    /// Bytes of each segment prepared from now on.
    pub segment_size: u64,
    /// The openings for writing whose barrier stands, oldest first.
    pub epochs: Vec<EpochReport>,
    /// The files, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Records that an explicit repair gave up.
    pub lost: Vec<LsnRange>,
    /// Frame headers behind the end that nothing attests: of writes that a crash cut short, or left
    /// from a file's earlier use. Normal.
    pub dropped_frames: u64,
    /// What is wrong; empty if the log is sound.
    pub damages: Vec<Damage>,
    /// Bytes read from the device.
    pub bytes_read: u64,
}

/// One opening for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EpochReport {
    /// Its number.
    pub epoch: Epoch,
    /// The first LSN it could give.
    pub first_lsn: Lsn,
    /// Where its barrier stands.
    pub position: Position,
}

/// How far a segment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentState {
    /// Below the start: what a truncation left. The next opening for writing removes it.
    Retired,
    /// Holds frames, and a later one does too.
    Sealed,
    /// Holds the end of the log.
    Active,
    /// Prepared; holds no frame of the log.
    Spare,
    /// Its preparation did not finish. Normal after a crash; the next opening removes it.
    Unfinished,
    /// The file is missing or is not what it must be.
    Damaged,
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentReport {
    /// Its number.
    pub number: SegmentNumber,
    /// Its path.
    pub path: PathBuf,
    /// How far it has come.
    pub state: SegmentState,
    /// Its length in bytes.
    pub bytes: u64,
    /// The first LSN of its first frame.
    pub first_lsn: Option<Lsn>,
    /// Frames that stand.
    pub frames: u64,
    /// Of these, how many hold no records: barriers, attestations, closing frames, tombstones.
    pub marks: u64,
    /// Records, void ones included.
    pub records: u64,
    /// Bytes of records and their headers.
    pub payload: u64,
    /// Bytes of whole frames, with headers and padding.
    pub used: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// What, as a sentence.
    pub what: String,
    /// The file.
    pub path: PathBuf,
    /// Where it begins; `None` if it is about the file as a whole.
    pub position: Option<Position>,
    /// The records that are lost, if any are.
    pub lost: Option<LsnRange>,
    /// The last record before it that stands.
    pub intact_through: Option<Lsn>,
    /// The first record behind it that stands; `None` if none does, or none is behind.
    pub intact_from: Option<Lsn>,
    /// Whether [`Wal::repair`] can do something about it.
    pub repairable: bool,
}

/// What [`Wal::repair`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// Every range of records that the log has given up, this time or before.
    pub lost: Vec<LsnRange>,
    /// The files that hold the damaged bytes now.
    pub quarantined: Vec<PathBuf>,
    /// Blocks that the device did not return: in those files zeros stand for them.
    pub unreadable_blocks: u64,
    /// Tombstones that were written; 0 if nothing was damaged.
    pub tombstones: u64,
    /// Segment files that were made anew.
    pub rebuilt: u64,
}

impl LogReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
    }

    fn of(survey: &Survey) -> LogReport {
        let state = survey.state();
        LogReport {
            path: survey.path.clone(),
            log_id: state.log,
            first_lsn: state.start_lsn,
            last_lsn: survey.next_lsn.previous(),
            attested_lsn: survey.attested,
            end: survey.end,
            clean: state.clean,
            slots: survey.slots(),
            segment_size: state.segment_size,
            epochs: survey
                .epochs
                .iter()
                .map(|&(epoch, first_lsn, position)| EpochReport { epoch, first_lsn, position })
                .collect(),
            segments: survey.segments(),
            lost: ranges(&survey.lost),
            dropped_frames: survey.dropped_frames,
            damages: survey.damages(),
            bytes_read: survey.bytes_read,
        }
    }
}

fn ranges(pairs: &[(Lsn, Lsn)]) -> Vec<LsnRange> {
    pairs.iter().map(|(first, last)| LsnRange::between(*first, *last)).collect()
}

impl Wal {
    /// Reads every frame of the log in `path` from the device and compares every checksum, without
    /// opening the log and without writing anything. A writer may have it open meanwhile: what it
    /// has not made durable yet may be seen or not, and is no damage.
    ///
    /// # Errors
    /// `Invalid` if there is no log; `Corrupt` if `LOG` is lost, `Unreadable` if it cannot be read:
    /// nothing says then where the log starts; `Unsupported`; `Io`. Whatever else is wrong is in
    /// the report.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let lsn = wal.append(b"checked")?;
    /// wal.close()?;
    /// let report = sawmill::Wal::verify(place.path())?;
    /// assert!(report.is_sound() && report.clean);
    /// assert_eq!(report.last_lsn, lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(path: impl AsRef<Path>) -> Result<LogReport> {
        let storage = SystemStorage::new(WalOptions::default().backend)?;
        Wal::verify_with(&storage, path)
    }

    /// As [`verify`](Wal::verify), on another storage.
    ///
    /// # Errors
    /// As [`verify`](Wal::verify).
    #[doc(hidden)]
    pub fn verify_with(storage: &dyn Storage, path: impl AsRef<Path>) -> Result<LogReport> {
        let directory = storage.directory(path.as_ref(), false)?;
        let mut looks = 1;
        loop {
            let before = Survey::start_of(&directory)?;
            let survey = Survey::take(&directory);
            // A truncation may have taken files away under the look.
            let moved = looks < LOOKS && Survey::start_of(&directory)? != before;
            if !moved || survey.as_ref().is_ok_and(Survey::is_sound) {
                return Ok(LogReport::of(&survey?));
            }
            looks += 1;
        }
    }

    /// Repairs the damaged log in `path`, giving up exactly the records in `accept`: what
    /// [`verify`](Wal::verify) reports as `lost`, range by range; none if no record is. Ranges that
    /// were given up before may be named again.
    ///
    /// The damaged bytes are copied to `quarantine/` in the log's directory first, and nothing of
    /// them is ever deleted. A tombstone in their place tells every later reader once what is gone,
    /// as an error of kind [`Lost`](crate::ErrorKind::Lost). Everything else stays what it was.
    /// After a crash in between the log is still refused, or repaired; repeat the call.
    ///
    /// # Errors
    /// `Invalid` if `accept` is not exactly what is damaged, with what is; nothing was changed.
    /// `Locked` if somebody writes the log; as [`verify`](Wal::verify); `DiskFull`, `Io`.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// wal.append(b"fine")?;
    /// wal.close()?;
    /// let repair = sawmill::Wal::repair(place.path(), &[])?; // nothing to do
    /// assert_eq!((repair.tombstones, repair.lost.len()), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn repair(path: impl AsRef<Path>, accept: &[LsnRange]) -> Result<Repair> {
        let options = WalOptions::default();
        let storage = SystemStorage::new(options.backend)?;
        Wal::repair_with(&storage, &SystemClock, path, options.lock_wait, accept)
    }

    /// As [`repair`](Wal::repair), on another storage and clock, waiting `lock_wait` for a writer.
    ///
    /// # Errors
    /// As [`repair`](Wal::repair).
    #[doc(hidden)]
    pub fn repair_with(
        storage: &dyn Storage,
        clock: &dyn Clock,
        path: impl AsRef<Path>,
        lock_wait: Duration,
        accept: &[LsnRange],
    ) -> Result<Repair> {
        let reading = storage.directory(path.as_ref(), false)?;
        // A place without a log shall not get so much as a lock file.
        Survey::start_of(&reading)?;
        let directory = storage.directory(path.as_ref(), true)?;
        let holder = format!("a repair by process {}", std::process::id());
        let options = RecoverOptions { segment_size: 0, lock_wait, holder };
        let wanted = accept.iter().filter(|range| !range.is_empty());
        let accepted: Vec<_> = wanted.map(|range| (range.first(), range.last())).collect();
        let Repaired { lost, quarantined, unreadable_blocks, tombstones, rebuilt } =
            repair::repair(&directory, clock, &options, &accepted)?;
        let lost = ranges(&lost);
        Ok(Repair { lost, quarantined, unreadable_blocks, tombstones, rebuilt })
    }
}
