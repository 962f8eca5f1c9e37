//! A crash at every operation of a small job, and at every fault of the disk within it: what was
//! acknowledged is there, what is there was appended, in order and without holes.
//!
//! The rules that the write side keeps are switched off one by one here: each must be noticed.

use super::{contents, disk, open};
use crate::error::{ErrorKind, Result};
use crate::ids::Lsn;
use crate::sim::{CrashManner, CrashOutcome, Device, FaultKind, SimDisk};
use crate::wal::{Background, Wal};

const EIO: i32 = 5;

/// What a job knows: what it appended, and how far it was told that it is durable.
#[derive(Debug, Default)]
struct Ledger {
    appended: Vec<Vec<u8>>,
    acknowledged: usize,
}

impl Ledger {
    fn bytes(&self, length: usize) -> Vec<u8> {
        let mut bytes = format!("{}/", self.appended.len() + 1).into_bytes();
        bytes.resize(bytes.len() + length, b'.');
        bytes
    }

    /// Keeps book of records that `act` appends. If it fails they are indeterminate, and the last
    /// ones of this incarnation, or were not appended at all.
    fn book<T>(&mut self, records: &[Vec<u8>], act: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.appended.len();
        self.appended.extend_from_slice(records);
        let outcome = act();
        if outcome.as_ref().is_err_and(|error| error.kind() != ErrorKind::Poisoned) {
            self.appended.truncate(before);
        }
        outcome
    }

    fn append(&mut self, wal: &Wal, length: usize) -> Result<()> {
        let bytes = self.bytes(length);
        let lsn = self.book(std::slice::from_ref(&bytes), || wal.append(&bytes))?;
        self.acknowledge(lsn);
        Ok(())
    }

    fn submit(&mut self, wal: &Wal, length: usize) -> Result<()> {
        let bytes = self.bytes(length);
        self.book(std::slice::from_ref(&bytes), || wal.submit(&bytes))?;
        Ok(())
    }

    fn acknowledge(&mut self, lsn: Lsn) {
        self.acknowledged = usize::try_from(lsn.get()).unwrap();
    }
}

/// Durable and plain frames, several segments, a batch, syncs.
fn job(disk: &SimDisk, ledger: &mut Ledger, goes_on: bool) -> Result<()> {
    let wal = open(disk, Background::Inline)?;
    let outcome = steps(&wal, ledger);
    if goes_on && outcome.is_err() {
        // A caller who does not look at errors: nothing more may be written or acknowledged.
        steps(&wal, ledger).ok();
    }
    outcome?;
    wal.close()
}

fn steps(wal: &Wal, ledger: &mut Ledger) -> Result<()> {
    ledger.append(wal, 10)?;
    ledger.submit(wal, 20_000)?;
    ledger.submit(wal, 20_000)?;
    // The plain frame before it, in another one.
    ledger.append(wal, 100)?;
    ledger.submit(wal, 30_000)?;
    ledger.submit(wal, 30_000)?;
    ledger.acknowledge(wal.sync()?);
    let batch = [ledger.bytes(1), ledger.bytes(9000)];
    let lsns = ledger.book(&batch, || wal.append_batch(&batch))?;
    ledger.acknowledge(lsns.last());
    for _ in 0..3 {
        ledger.append(wal, 31_000)?;
    }
    Ok(())
}

/// What is wrong with the disk that was found after the crash.
fn judge(found: &SimDisk, ledger: &Ledger) -> std::result::Result<(), String> {
    let wal = open(found, Background::Inline).map_err(|error| error.to_string())?;
    let records = contents(&wal).map_err(|error| error.to_string())?;
    for (position, (lsn, bytes)) in records.iter().enumerate() {
        let place = u64::try_from(position).unwrap() + 1;
        if lsn.get() != place || ledger.appended.get(position) != Some(bytes) {
            return Err(format!("record {lsn} in place {place} is not what was appended"));
        }
    }
    if records.len() < ledger.acknowledged {
        let (kept, told) = (records.len(), ledger.acknowledged);
        return Err(format!("{kept} records are there, {told} were acknowledged"));
    }
    // The log goes on.
    let next = wal.append(b"after").map_err(|error| error.to_string())?;
    let dense = next.get() == u64::try_from(records.len()).unwrap() + 1;
    if dense { Ok(()) } else { Err(format!("LSN {next} after {} records", records.len())) }
}

const OUTCOMES: [CrashOutcome; 4] = [
    CrashOutcome::LoseAll,
    CrashOutcome::KeepAll,
    CrashOutcome::Seeded(1),
    CrashOutcome::Seeded(2),
];

/// Power cuts at each operation, with each outcome.
fn cuts(device: Device) -> std::result::Result<u64, String> {
    let whole = disk(1, device);
    job(&whole, &mut Ledger::default(), false).map_err(|error| error.to_string())?;
    let mut cases = 0;
    for number in 1..=whole.ops() {
        let manner = [CrashManner::Before, CrashManner::Torn, CrashManner::After]
            [usize::try_from(number % 3).unwrap()];
        let disk = disk(1, device);
        disk.crash_at(number, manner);
        let mut ledger = Ledger::default();
        job(&disk, &mut ledger, false).ok();
        for outcome in OUTCOMES {
            let found = disk.power_cycle(outcome);
            judge(&found, &ledger).map_err(|why| {
                format!("{device:?}, operation {number} {manner:?}, {outcome:?}: {why}")
            })?;
            cases += 1;
        }
    }
    Ok(cases)
}

/// One fault at each operation, seen by a caller who goes on; then the power goes.
fn faults(device: Device, kind: FaultKind) -> std::result::Result<u64, String> {
    let whole = disk(1, device);
    job(&whole, &mut Ledger::default(), false).map_err(|error| error.to_string())?;
    let mut cases = 0;
    for number in 1..=whole.ops() {
        let disk = disk(1, device);
        disk.fail_op(number, EIO, kind);
        let mut ledger = Ledger::default();
        job(&disk, &mut ledger, true).ok();
        for outcome in OUTCOMES {
            let found = disk.power_cycle(outcome);
            judge(&found, &ledger).map_err(|why| {
                format!("{device:?}, operation {number} {kind:?}, {outcome:?}: {why}")
            })?;
            cases += 1;
        }
    }
    Ok(cases)
}

#[test]
fn crash_at_every_operation_keeps_what_was_acknowledged() {
    for device in [Device::Flush, Device::Fua] {
        assert!(cuts(device).unwrap() > 200);
    }
}

#[test]
fn fault_at_every_operation_keeps_what_was_acknowledged() {
    for device in [Device::Flush, Device::Fua] {
        for kind in [FaultKind::NotExecuted, FaultKind::ExecutedButReported, FaultKind::Short(4096)]
        {
            assert!(faults(device, kind).unwrap() > 200);
        }
    }
}

#[test]
fn the_job_crosses_segments_and_closes_cleanly() {
    let disk = disk(1, Device::Fua);
    let mut ledger = Ledger::default();
    job(&disk, &mut ledger, false).unwrap();
    assert_eq!(ledger.acknowledged, ledger.appended.len());
    assert!(disk.files().len() >= 7, "{:?}", disk.files());
    let wal = open(&disk, Background::Inline).unwrap();
    assert_eq!(contents(&wal).unwrap().len(), ledger.appended.len());
    assert_eq!(wal.wait_durable(Lsn::new(99)).unwrap_err().kind(), ErrorKind::Invalid);
}

mod planted {
    use super::{cuts, faults};
    use crate::planted::{Bug, with_planted};
    use crate::sim::{Device, FaultKind};

    fn caught(bug: Bug, check: impl Fn() -> Result<u64, String>) {
        let found = with_planted(bug, check);
        assert!(found.is_err(), "{bug:?} was not noticed");
    }

    #[test]
    fn planted_skip_durable_flag_is_seen() {
        caught(Bug::SkipDurableFlag, || cuts(Device::Flush));
    }

    #[test]
    fn planted_acknowledge_at_submit_is_seen() {
        caught(Bug::AcknowledgeAtSubmit, || cuts(Device::Flush));
    }

    #[test]
    fn planted_plain_before_durable_is_seen_with_fua() {
        caught(Bug::PlainBeforeDurable, || cuts(Device::Fua));
    }

    #[test]
    fn planted_short_write_counts_is_seen() {
        caught(Bug::ShortWriteCounts, || faults(Device::Flush, FaultKind::Short(4096)));
    }

    #[test]
    fn planted_retry_sync_is_seen() {
        caught(Bug::RetrySync, || faults(Device::Fua, FaultKind::NotExecuted));
    }

    #[test]
    fn planted_continue_after_error_is_seen() {
        caught(Bug::ContinueAfterError, || faults(Device::Flush, FaultKind::NotExecuted));
    }
}
