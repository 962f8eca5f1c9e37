//! A log sink through power cuts of the target, retries, large batches and older copies.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{Found, Note, decode};
use super::rows::{BatchRows, Partition};
use super::{CommittedRows, log_sink};
use crate::clock::ManualClock;
use crate::error::{ErrorKind, Result};
use crate::exec::{Bytes, Dataset, Lent, Name};
use crate::ids::{BatchId, Epoch, LogId, Lsn};
use crate::sim::{CrashManner, CrashOutcome, SimDisk};
use crate::sink::{Sink, SinkContext, SinkIdentity, TextRow};
use crate::storage::Storage;
use crate::sync::Arc;
use crate::wal::{Background, Wal, WalOptions};

const BATCHES: u64 = 5;

fn target(disk: &SimDisk, path: &str) -> Result<Wal> {
    let options = WalOptions {
        segment_size: 64 << 10,
        lock_wait: std::time::Duration::ZERO,
        background: Background::Inline,
        ..WalOptions::default()
    };
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, Path::new(path), options)
}

fn identity(sink: &str) -> SinkIdentity {
    SinkIdentity { log: LogId::from_bytes([7; 16]), job: "job".into(), sink: sink.into() }
}

/// Batch 3 is larger than what one atomic append takes; batch 2 has no rows.
fn rows(batch: u64) -> Vec<Vec<u8>> {
    let (count, length) = match batch {
        1 => (2, 5),
        3 => (30, 2000),
        _ => (batch - 2, 5),
    };
    (0..count).map(|row| format!("{batch}.{row}.{}", "-".repeat(length)).into_bytes()).collect()
}

fn sink(target: &Wal) -> Arc<dyn Sink> {
    log_sink(Name::new("out"), Dataset::from_vec(Vec::<String>::new(), 1), target, "rows")
}

fn open(sink: &dyn Sink, name: &str, epoch: u64, progress: Option<&Vec<u8>>) -> Result<()> {
    let storage: Arc<dyn Storage> = Arc::new(SimDisk::new(1));
    let cx = SinkContext { storage: &storage, epoch: Epoch::new(epoch) };
    sink.open(cx, &identity(name), progress.map(Vec::as_slice))
}

/// What the sink computes for these partitions.
fn output(partitions: &[&[Vec<u8>]]) -> BatchRows {
    let pack = |rows: &&[Vec<u8>]| {
        let mut part = Partition::default();
        rows.iter().for_each(|row| part.push(|out| Bytes::write_text(row, out)).unwrap());
        Lent::from(part)
    };
    BatchRows::new(partitions.iter().map(pack).collect())
}

fn publish(sink: &dyn Sink, batch: u64, attempt: u32) -> Result<Vec<u8>> {
    let rows = rows(batch);
    let (first, second) = rows.split_at(rows.len() / 2);
    let output = output(&[first, second]);
    sink.publish(BatchId::new(batch), attempt, &output)
}

/// One life of the process: publishes what is missing.
fn live(disk: &SimDisk, epoch: u64, completed: &mut Vec<Vec<u8>>) -> Result<()> {
    let target = target(disk, "/target")?;
    let sink = sink(&target);
    open(&*sink, "out", epoch, completed.last())?;
    let attempt = u32::try_from(epoch).unwrap();
    for batch in completed.len() as u64 + 1..=BATCHES {
        completed.push(publish(&*sink, batch, attempt)?);
    }
    drop(sink);
    target.close()
}

fn delivered(target: &Wal) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut all = Vec::new();
    let Ok(mut rows) = CommittedRows::of(target, "rows") else { return Ok(all) };
    while let Some(row) = rows.next() {
        let row = row?;
        all.push((row.batch.get(), row.payload));
    }
    Ok(all)
}

fn model(through: u64) -> Vec<(u64, Vec<u8>)> {
    (1..=through).flat_map(|batch| rows(batch).into_iter().map(move |row| (batch, row))).collect()
}

/// The power goes at every operation of the target; what is delivered then is whole batches, and in
/// the end the model's.
fn every_power_cut() -> Result<u64, String> {
    let undisturbed = SimDisk::new(1);
    live(&undisturbed, 1, &mut Vec::new()).unwrap();
    let mut cases = 0;
    for op in 1..=undisturbed.ops() {
        for manner in [CrashManner::Before, CrashManner::Torn, CrashManner::After] {
            for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(9)] {
                let (disk, mut completed) = (SimDisk::new(op), Vec::new());
                disk.crash_at(op, manner);
                drop(live(&disk, 1, &mut completed));
                let disk = disk.power_cycle(outcome);
                let story = format!("operation {op} {manner:?} {outcome:?}");
                let seen = target(&disk, "/target").and_then(|target| delivered(&target));
                let seen = seen.map_err(|error| format!("{story}: {error}"))?;
                let batches = seen.last().map_or(0, |(batch, _)| *batch);
                if seen != model(batches) || batches < completed.len() as u64 && batches != 1 {
                    return Err(format!("{story}: {} rows of {batches} batches", seen.len()));
                }
                live(&disk, 2, &mut completed).map_err(|error| format!("{story}: {error}"))?;
                let target = target(&disk, "/target").map_err(|error| error.to_string())?;
                let seen = delivered(&target).map_err(|error| format!("{story}: {error}"))?;
                if seen != model(BATCHES) {
                    return Err(format!("{story}: {} rows in the end", seen.len()));
                }
                cases += 1;
            }
        }
    }
    Ok(cases)
}

#[test]
fn every_power_cut_of_the_target_leaves_whole_batches_and_each_once() {
    let cases = every_power_cut().unwrap();
    assert!(cases > 200, "{cases}");
}

#[test]
fn planted_commit_not_looked_for_is_caught() {
    use crate::planted::{Bug, with_planted};
    with_planted(Bug::CommitNotLookedFor, every_power_cut).unwrap_err();
}

#[test]
fn a_batch_is_committed_once_whatever_is_lost_of_the_answers() {
    let disk = SimDisk::new(1);
    let target = target(&disk, "/target").unwrap();
    let first = sink(&target);
    open(&*first, "out", 1, None).unwrap();
    let one = publish(&*first, 1, 1).unwrap();
    assert_eq!(publish(&*first, 1, 2).unwrap(), one, "an answer that was lost");
    // The completion was lost with the process: the next one finds the commit.
    let second = sink(&target);
    open(&*second, "out", 2, None).unwrap();
    assert_eq!(publish(&*second, 1, 2).unwrap(), one);
    // Another sink has outputs of its own, in the same stream.
    let other = sink(&target);
    open(&*other, "other", 1, None).unwrap();
    publish(&*other, 1, 1).unwrap();
    publish(&*second, 2, 1).unwrap();
    publish(&*second, 3, 1).unwrap();
    let expected: Vec<_> = [model(1), model(3)].concat();
    assert_eq!(delivered(&target).unwrap(), expected);
    let mut rows = CommittedRows::of(&target, "rows").unwrap();
    let first = rows.next().unwrap().unwrap();
    assert!(first.output.ends_with("sink out") && first.lsn < first.commit);
    let behind = CommittedRows::of(&target, "rows").unwrap().behind(first.commit);
    let (mut behind, mut count) = (behind, 0);
    while let Some(row) = behind.next() {
        row.unwrap();
        count += 1;
    }
    assert_eq!(count, expected.len() - 2);
    // It goes on where it was when there is more.
    publish(&*second, 4, 1).unwrap();
    assert_eq!(behind.next().unwrap().unwrap().payload, rows_of_four());
}

fn rows_of_four() -> Vec<u8> {
    rows(4).swap_remove(0)
}

fn lower_epoch() -> [Option<ErrorKind>; 2] {
    let disk = SimDisk::new(1);
    let target = target(&disk, "/target").unwrap();
    let (old, new) = (sink(&target), sink(&target));
    open(&*old, "out", 5, None).unwrap();
    publish(&*old, 1, 1).unwrap();
    open(&*new, "out", 6, None).unwrap();
    let late = publish(&*old, 2, 1).err().map(|error| error.kind());
    [late, open(&*old, "out", 5, None).err().map(|error| error.kind())]
}

/// E5: the epoch is with the outputs.
#[test]
fn a_writer_of_a_lower_epoch_is_refused() {
    assert_eq!(lower_epoch(), [Some(ErrorKind::Fenced); 2]);
}

/// A writer publishes on and on while a later one opens: behind the opening there is no commit of
/// the earlier epoch, wherever the two were. Returns how many of its batches were in time.
fn race(round: u64) -> Result<u64, String> {
    let disk = SimDisk::new(round);
    let target = target(&disk, "/target").unwrap();
    let (old, new) = (sink(&target), sink(&target));
    open(&*old, "out", 5, None).unwrap();
    let done = AtomicU64::new(0);
    let last = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let publish = |batch: u64| {
                let output = output(&[&[batch.to_le_bytes().to_vec()]]);
                let published = old.publish(BatchId::new(batch), 1, &output).is_ok();
                done.store(batch, Ordering::Release);
                published
            };
            (1..2000).take_while(|batch| publish(*batch)).last().unwrap_or(0)
        });
        while done.load(Ordering::Acquire) < round % 4 {
            std::thread::yield_now();
        }
        for _ in 0..round * 50 {
            std::hint::spin_loop();
        }
        open(&*new, "out", 6, None).unwrap();
        writer.join().unwrap()
    });
    let stream = target.find_stream("rows").unwrap();
    let (mut replay, mut opened) = (target.replay().unwrap().stream(&stream), false);
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        match decode(record.payload, record.lsn).unwrap() {
            Found::Note(Note::Opened { epoch, .. }) => opened |= epoch == Epoch::new(6),
            Found::Note(Note::Committed(commit)) if opened => {
                return Err(format!("round {round}: {commit:?} behind a later writer's opening"));
            }
            Found::Note(Note::Committed(_)) | Found::Row(..) => {}
        }
    }
    Ok(last)
}

/// E5, LOGOUT-4.
#[test]
fn nothing_is_committed_behind_the_opening_of_a_later_writer() {
    for round in 0..60 {
        let in_time = race(round).unwrap();
        assert!(in_time >= round % 4, "round {round}: {in_time} batches were acknowledged");
    }
}

/// READ-1: what is not in memory any more when its commit is found is read again; so is what began
/// before the place from which a reader goes on.
#[test]
fn transactions_of_any_size_are_shown_whole() {
    let place = tempfile::tempdir().unwrap();
    let options = WalOptions { segment_size: 1 << 20, ..WalOptions::default() };
    let target = Wal::open(place.path(), options).unwrap();
    let sinks = ["large", "small"].map(|name| {
        let sink = sink(&target);
        open(&*sink, name, 1, None).unwrap();
        sink
    });
    let rows = |count: usize, length: usize| -> Vec<Vec<u8>> {
        (0..count).map(|row| format!("{row:0length$}").into_bytes()).collect()
    };
    let publish = |sink: &dyn Sink, batch: u64, rows: &[Vec<u8>]| {
        let output = output(&[rows]);
        sink.publish(BatchId::new(batch), 1, &output).unwrap();
    };
    let (large, small) = (rows(700, 1000), rows(3, 10));
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=4).for_each(|batch| publish(&*sinks[0], batch, &large)));
        scope.spawn(|| (1..=40).for_each(|batch| publish(&*sinks[1], batch, &small)));
    });
    let mut shown: Vec<(String, u64, Lsn, Vec<Vec<u8>>)> = Vec::new();
    let mut all = CommittedRows::of(&target, "rows").unwrap();
    while let Some(row) = all.next() {
        let row = row.unwrap();
        match shown.last_mut() {
            Some((output, batch, _, rows))
                if *output == row.output && *batch == row.batch.get() =>
            {
                rows.push(row.payload);
            }
            _ => shown.push((row.output, row.batch.get(), row.commit, vec![row.payload])),
        }
    }
    assert_eq!(shown.len(), 44);
    for (output, _, _, rows) in &shown {
        assert_eq!(rows, if output.contains("large") { &large } else { &small });
    }
    for pair in shown.windows(2) {
        let mut behind = CommittedRows::of(&target, "rows").unwrap().behind(pair[0].2);
        for row in &pair[1].3 {
            assert_eq!(&behind.next().unwrap().unwrap().payload, row);
        }
    }
}

/// Another process reads what is committed, and goes on when there is more.
#[test]
fn committed_rows_are_read_beside_the_writer() {
    let place = tempfile::tempdir().unwrap();
    let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
    let target = Wal::open(place.path(), options).unwrap();
    let out = sink(&target);
    open(&*out, "out", 1, None).unwrap();
    let reader = Wal::open_read_only(place.path()).unwrap();
    let mut rows = CommittedRows::of_reader(reader, "rows").unwrap();
    assert!(rows.next().is_none());
    let mut seen = Vec::new();
    for batch in 1..=BATCHES {
        publish(&*out, batch, 1).unwrap();
        while let Some(row) = rows.next() {
            let row = row.unwrap();
            seen.push((row.batch.get(), row.payload));
        }
        assert_eq!(seen, model(batch));
    }
    let reader = Wal::open_read_only(place.path()).unwrap();
    let missing = CommittedRows::of_reader(reader, "none").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Invalid);
}

#[test]
fn planted_lower_epoch_writes_is_caught() {
    use crate::planted::{Bug, with_planted};
    assert_ne!(with_planted(Bug::LowerEpochWrites, lower_epoch), [Some(ErrorKind::Fenced); 2]);
}

#[test]
fn another_log_and_an_older_copy_are_refused() {
    let disk = SimDisk::new(1);
    let first = target(&disk, "/target").unwrap();
    let out = sink(&first);
    open(&*out, "out", 1, None).unwrap();
    let progress = publish(&*out, 1, 1).unwrap();
    for path in ["/other", "/older"] {
        let other = target(&disk, path).unwrap();
        let error = open(&*sink(&other), "out", 2, Some(&progress)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::JobMismatch);
    }
    // The job's own log.
    let own = SinkIdentity { log: first.log_id(), ..identity("out") };
    let storage: Arc<dyn Storage> = Arc::new(disk);
    let cx = SinkContext { storage: &storage, epoch: Epoch::new(2) };
    assert_eq!(out.open(cx, &own, None).unwrap_err().kind(), ErrorKind::Invalid);
}
