//! Received records against what was appended.

use std::path::Path;

use proptest::prelude::*;

use super::{
    Attached, Ingest, LastRead, Limit, Opened, Received, Source, SourceContext, StreamSource,
};
use crate::clock::ManualClock;
use crate::error::{ErrorKind, Result};
use crate::exec::{Bytes, Executor, Name};
use crate::ids::{Lsn, StreamId};
use crate::sim::{SimDisk, SimOptions};
use crate::storage::Storage;
use crate::sync::Arc;
use crate::wal::{Background, Wal, WalOptions};

const NAME: Name = Name::new("in");
const MINE: StreamId = StreamId::new(1);
const OTHER: StreamId = StreamId::new(2);

fn storage(disk: &SimDisk) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

fn open(disk: &SimDisk) -> Wal {
    let options = WalOptions {
        segment_size: 64 << 10,
        background: Background::Inline,
        ..WalOptions::default()
    };
    Wal::open_with(storage(disk), Arc::new(ManualClock::default()), Path::new("/log"), options)
        .unwrap()
}

fn ingest(wal: &Wal) -> Ingest {
    Ingest::new(NAME, wal, MINE)
}

fn attach(wal: &Wal) -> Attached<Bytes> {
    Received::from(&ingest(wal)).attach(NAME)
}

type Rows = Vec<Vec<Vec<u8>>>;

/// The rows of each partition.
fn rows(opened: &Opened) -> Rows {
    let read = |partition| {
        let mut rows = Vec::new();
        opened.input().rows(partition, &mut |row| rows.push(row.to_vec())).unwrap();
        rows
    };
    (0..opened.input().partitions()).map(read).collect()
}

/// What one batch was.
struct Batch {
    input: Vec<u8>,
    next: Vec<u8>,
    bytes: u64,
    rows: Rows,
    digest: Vec<u8>,
}

fn batch(
    disk: &SimDisk,
    source: &dyn Source,
    position: Option<&[u8]>,
    limit: u64,
) -> Result<Option<Batch>> {
    let storage = storage(disk);
    let cx = SourceContext { storage: &storage };
    let Some(planned) = source.plan(cx, position, Limit::bytes(limit))? else { return Ok(None) };
    assert_eq!(
        source.plan(cx, position, Limit::bytes(limit))?.as_ref(),
        Some(&planned),
        "asked again"
    );
    let opened = source.open(cx, &planned.input)?;
    let rows = rows(&opened);
    assert_eq!(planned.records, Some(rows.iter().flatten().count() as u64));
    let digest = opened.input().digest()?;
    let (input, next, bytes) = (planned.input, planned.next, planned.bytes);
    Ok(Some(Batch { input, next, bytes, rows, digest }))
}

/// All batches there are, with one source, or with a new one for each batch, as after restarts.
fn batches(disk: &SimDisk, wal: &Wal, limit: u64, restart: bool) -> Vec<Batch> {
    let mut source = attach(wal).source;
    let mut found: Vec<Batch> = Vec::new();
    loop {
        let position = found.last().map(|batch| batch.next.as_slice());
        let Some(batch) = batch(disk, &*source, position, limit).unwrap() else { break };
        found.push(batch);
        if restart {
            source = attach(wal).source;
        }
    }
    found
}

fn record(number: usize) -> Vec<u8> {
    format!("{number}:").into_bytes().repeat(number % 7)
}

/// Appends records of both streams and internal ones; gives those of `MINE`.
fn fill(wal: &Wal, count: usize, group: usize) -> Vec<Vec<u8>> {
    let mine: Vec<Vec<u8>> = (0..count).map(record).collect();
    for (index, chunk) in mine.chunks(group).enumerate() {
        ingest(wal).append_batch(chunk).unwrap();
        if index % 3 == 0 {
            wal.append_to(OTHER, b"not mine").unwrap();
            wal.append_internal(MINE, &[b"nobody's", b"business"]).unwrap();
        }
    }
    mine
}

#[test]
fn batches_hold_every_record_of_the_stream_once_and_in_order() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let mine = fill(&wal, 400, 3);
    for limit in [1, 17, 500, 100_000] {
        let running = batches(&disk, &wal, limit, false);
        let restarted = batches(&disk, &wal, limit, true);
        let of = |batches: &[Batch]| -> Vec<Vec<u8>> {
            batches.iter().flat_map(|batch| batch.rows.concat()).collect()
        };
        assert_eq!(of(&running), mine, "limit {limit}");
        assert_eq!(running.len(), restarted.len());
        for (one, other) in running.iter().zip(&restarted) {
            assert_eq!((&one.input, &one.next), (&other.input, &other.next));
            assert_eq!((&one.rows, &one.digest), (&other.rows, &other.digest));
            assert!(one.bytes <= limit + 64);
        }
        assert!(if limit > 10_000 { running.len() == 1 } else { running.len() > 4 });
    }
}

#[test]
fn a_planned_input_is_the_same_whenever_it_is_opened() {
    let disk = SimDisk::new(1);
    let mine = {
        let wal = open(&disk);
        let mine = fill(&wal, 4000, 10);
        wal.close().unwrap();
        mine
    };
    let wal = open(&disk);
    let source = attach(&wal).source;
    let first = batch(&disk, &*source, None, 40_000).unwrap().unwrap();
    assert!(first.rows.len() > 4 && first.rows.concat() == mine[..first.rows.concat().len()]);
    ingest(&wal).append(b"later").unwrap();
    let storage = storage(&disk);
    let cx = SourceContext { storage: &storage };
    for source in [source, attach(&wal).source] {
        let opened = source.open(cx, &first.input).unwrap();
        assert_eq!(rows(&opened), first.rows);
        let digest = opened.input().digest().unwrap();
        source.verify_digest(&first.input, &first.digest, &digest).unwrap();
        let last = Some(LastRead { input: &first.input, digest: &first.digest });
        source.verify_position(cx, &first.next, last).unwrap();
    }
}

#[test]
fn partitions_do_not_depend_on_how_records_were_grouped() {
    let split = |group: usize| {
        let disk = SimDisk::new(1);
        let wal = open(&disk);
        for chunk in (0..3000).map(record).collect::<Vec<_>>().chunks(group) {
            ingest(&wal).append_batch(chunk).unwrap();
        }
        batches(&disk, &wal, 20_000, false).into_iter().map(|batch| batch.rows).collect::<Vec<_>>()
    };
    let one_by_one = split(1);
    assert!(one_by_one.len() > 2 && one_by_one[0].len() > 3);
    assert_eq!(split(100), one_by_one);
    assert_eq!(split(7), one_by_one);
}

#[test]
fn what_is_not_durable_is_not_planned() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let source = attach(&wal).source;
    let pending = ingest(&wal).submit(b"soon").unwrap();
    assert!(wal.durable_lsn() < pending.lsn());
    assert!(batch(&disk, &*source, None, 100).unwrap().is_none());
    wal.sync().unwrap();
    let first = batch(&disk, &*source, None, 100).unwrap().unwrap();
    assert_eq!(first.rows, [[b"soon"]]);
    assert_eq!(source.retention(None).unwrap(), Some(Lsn::FIRST));
    assert_eq!(source.retention(Some(&first.next)).unwrap(), Some(pending.lsn().next()));
    assert!(batch(&disk, &*source, Some(&first.next), 100).unwrap().is_none());
    assert!(!source.exhausted(Some(&first.next)).unwrap());
    assert_eq!((source.stream(), source.amount_read().bytes), (Some(MINE), 4));
}

#[test]
fn a_plan_that_was_not_used_grows_with_what_comes() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let source = attach(&wal).source;
    let storage = storage(&disk);
    let cx = SourceContext { storage: &storage };
    for count in 1..20 {
        ingest(&wal).append(b"0123456789").unwrap();
        let planned = source.plan(cx, None, Limit::bytes(260)).unwrap().unwrap();
        assert_eq!(planned.records, Some(count.min(10)), "26 each");
    }
    // Another limit cuts elsewhere, as if it had been the first.
    let planned = source.plan(cx, None, Limit::bytes(60)).unwrap().unwrap();
    assert_eq!(planned.records, Some(3));
    let planned = source.plan(cx, None, Limit::bytes(1 << 20)).unwrap().unwrap();
    assert_eq!(planned.records, Some(19));
}

#[test]
fn records_removed_before_they_were_processed_are_missed_loudly() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    ingest(&wal).append(b"first").unwrap();
    let source = attach(&wal).source;
    let first = batch(&disk, &*source, None, 100).unwrap().unwrap();
    for _ in 0..40 {
        ingest(&wal).append(&[b'x'; 10_000]).unwrap();
    }
    assert!(wal.truncate_before(wal.durable_lsn()).unwrap() > Lsn::new(5));
    let storage = storage(&disk);
    let cx = SourceContext { storage: &storage };
    for source in [source, attach(&wal).source] {
        let error = source.plan(cx, Some(&first.next), Limit::bytes(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.lsns(), Some((Lsn::new(2), wal.first_lsn().previous())));
        assert!(source.verify_position(cx, &first.next, None).is_err());
        let error = source.open(cx, &first.input).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        // Who never planned anything takes what is kept.
        assert!(source.plan(cx, None, Limit::bytes(100)).unwrap().is_some());
    }
}

#[test]
fn other_streams_and_other_digests_are_refused() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    fill(&wal, 20, 4);
    let source = attach(&wal).source;
    let first = batch(&disk, &*source, None, 100).unwrap().unwrap();
    let second = batch(&disk, &*source, Some(&first.next), 100).unwrap().unwrap();
    let error = source.verify_digest(&first.input, &first.digest, &second.digest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    let other = Received::from(&Ingest::new(NAME, &wal, OTHER)).attach(NAME).source;
    let storage = storage(&disk);
    let error = other.open(SourceContext { storage: &storage }, &first.input).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::JobMismatch);
}

#[test]
fn planning_reads_the_log_once() {
    let disk = SimDisk::with_options(1, SimOptions { count_reads: true, ..SimOptions::default() });
    let wal = open(&disk);
    fill(&wal, 5000, 50);
    // A limit of one batch is what any reading costs; many small ones must not cost much more.
    let cost = |limit| {
        let before = disk.ops();
        let batches = batches(&disk, &wal, limit, false);
        (batches.len() as u64, disk.ops() - before)
    };
    let (one, whole) = cost(1 << 30);
    let (many, parts) = cost(500);
    assert!(one == 1 && many > 100, "{one} and {many} batches");
    assert!(parts < 3 * whole + 20, "{many} batches took {parts} operations, one took {whole}");
}

/// REREAD-1, REREAD-2.
#[test]
fn inputs_that_are_opened_again_are_the_same_and_read_the_log_once() {
    let disk = SimDisk::with_options(1, SimOptions { count_reads: true, ..SimOptions::default() });
    let wal = open(&disk);
    fill(&wal, 5000, 50);
    let storage = storage(&disk);
    let cx = SourceContext { storage: &storage };
    let (one, many) = (batches(&disk, &wal, 1 << 30, false), batches(&disk, &wal, 500, false));
    assert!(one.len() == 1 && many.len() > 100);
    // A source that planned nothing, as after a restart.
    let again = |batches: &mut dyn Iterator<Item = &Batch>| {
        let (source, before) = (attach(&wal).source, disk.ops());
        for batch in batches {
            assert_eq!(rows(&source.open(cx, &batch.input).unwrap()), batch.rows);
        }
        disk.ops() - before
    };
    let (whole, parts) = (again(&mut one.iter()), again(&mut many.iter()));
    assert!(parts < 3 * whole + 20, "{parts} operations in parts, {whole} at once");
    again(&mut many.iter().step_by(7));
    again(&mut many.iter().rev());
    again(&mut many.iter().flat_map(|batch| [batch, batch]));
    // What was appended since a replay began is above what that one shows.
    let source = attach(&wal).source;
    let last = &many[many.len() - 1];
    assert_eq!(rows(&source.open(cx, &last.input).unwrap()), last.rows);
    ingest(&wal).append(b"later").unwrap();
    let planner = attach(&wal).source;
    let planned = planner.plan(cx, Some(&last.next), Limit::bytes(500)).unwrap().unwrap();
    assert_eq!(rows(&source.open(cx, &planned.input).unwrap()), [[b"later"]]);
}

/// REREAD-1: what was given up between two inputs, of another stream, is no error of either.
#[test]
fn what_is_lost_between_two_inputs_is_neithers() {
    let disk = SimDisk::new(1);
    {
        let wal = open(&disk);
        ingest(&wal).append(b"before").unwrap();
        wal.append_to(OTHER, &[7; 5000]).unwrap();
        ingest(&wal).append(b"behind").unwrap();
        wal.close().unwrap();
    }
    let planned: Vec<Batch> = batches(&disk, &open(&disk), 1, false);
    let lost = Lsn::new(2);
    let mut replay = open(&disk).replay().unwrap();
    assert_eq!(replay.next().unwrap().unwrap().payload, b"before");
    // Its frame begins there.
    let offset = replay.position().offset;
    drop(replay);
    disk.flip_byte("/log/00000000000000000001.seg", offset + 200, 1).unwrap();
    let accept = [crate::wal::LsnRange::between(lost, lost)];
    let clock = ManualClock::default();
    Wal::repair_with(&disk, &clock, "/log", std::time::Duration::ZERO, &accept).unwrap();
    let wal = open(&disk);
    let source = attach(&wal).source;
    let storage = storage(&disk);
    let cx = SourceContext { storage: &storage };
    for batch in &planned {
        assert_eq!(rows(&source.open(cx, &batch.input).unwrap()), batch.rows);
    }
    let error = wal.replay_from(lost).unwrap().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "it is really gone");
}

/// REREAD-1: a replay of the second input alone begins behind the damage.
#[test]
fn segments_between_two_inputs_are_not_looked_at() {
    for between in [9, 4] {
        let options = SimOptions { count_reads: true, ..SimOptions::default() };
        let disk = SimDisk::with_options(1, options);
        let wal = open(&disk);
        ingest(&wal).append(b"before").unwrap();
        let others = (0..between).map(|_| wal.append_to(OTHER, &[7; 20_000]).unwrap());
        let others: Vec<Lsn> = others.collect();
        // The second frame of others in a segment that the second input is not in. Of nine, a
        // segment that a replay of both would walk through; of four, the first input's own.
        let places = others.iter().map(|lsn| {
            let mut replay = wal.replay_from(*lsn).unwrap();
            assert_eq!(replay.next().unwrap().unwrap().lsn, *lsn);
            (replay.position().segment.get(), *lsn)
        });
        let places: Vec<(u64, Lsn)> = places.collect();
        ingest(&wal).append(b"behind").unwrap();
        wal.close().unwrap();
        let planned: Vec<Batch> = batches(&disk, &open(&disk), 1, false);
        assert_eq!(planned.len(), 2);
        let middle = places[places.len() / 3];
        let second = places.iter().filter(|place| place.0 == middle.0).nth(1);
        let Some((segment, lsn)) = second else { panic!("{places:?}") };
        let mut replay = open(&disk).replay_from(lsn.previous()).unwrap();
        assert_eq!(replay.next().unwrap().unwrap().lsn, lsn.previous());
        let offset = replay.position().offset;
        drop(replay);
        disk.flip_byte(format!("/log/{segment:020}.seg"), offset + 20, 1).unwrap();
        let wal = open(&disk);
        let mut replay = wal.replay_from(lsn.previous()).unwrap();
        assert_eq!(replay.next().unwrap().unwrap().lsn, lsn.previous());
        let error = replay.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "it is really damaged");
        let source = attach(&wal).source;
        let storage = storage(&disk);
        let cx = SourceContext { storage: &storage };
        let open = |source: &dyn Source, batch: &Batch| {
            let before = disk.ops();
            assert_eq!(rows(&source.open(cx, &batch.input).unwrap()), batch.rows);
            disk.ops() - before
        };
        let kept: Vec<u64> = planned.iter().map(|batch| open(&*source, batch)).collect();
        let alone = open(&*attach(&wal).source, &planned[1]);
        assert!(between == 4 || kept[1] == alone, "{kept:?} operations, alone {alone}");
    }
}

#[test]
fn datasets_read_received_records() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let mine = fill(&wal, 500, 5);
    let storage = storage(&disk);
    let cx = SourceContext { storage: &storage };
    for threads in [1, 4] {
        let Attached { source, rows } = attach(&wal);
        let executor = Executor::new(threads, 2).unwrap();
        let planned = source.plan(cx, None, Limit::bytes(1 << 20)).unwrap().unwrap();
        let run = executor.context().with_input("in", source.open(cx, &planned.input).unwrap());
        assert_eq!(executor.collect(&run, &rows).unwrap(), mine);
    }
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>) {
        let disk = SimDisk::new(1);
        let wal = open(&disk);
        fill(&wal, 5, 2);
        let storage = storage(&disk);
        let cx = SourceContext { storage: &storage };
        let source = attach(&wal).source;
        let bytes = [&[1], &bytes[..]].concat();
        drop(source.plan(cx, Some(&bytes), Limit::bytes(100)));
        drop(source.retention(Some(&bytes)));
        drop(source.verify_digest(&bytes, &bytes, &bytes));
        if let Ok(opened) = source.open(cx, &bytes) {
            drop(opened.input().digest());
        }
    }
}

/// CURSOR-3. The disk counts reads as operations, too.
#[test]
fn a_source_that_keeps_up_reads_no_file() {
    let options = SimOptions { count_reads: true, ..SimOptions::default() };
    let disk = SimDisk::with_options(12, options);
    let wal = open(&disk);
    let (ingest, attached) = (ingest(&wal), attach(&wal));
    let source = &*attached.source;
    let storage = storage(&disk);
    let cx = SourceContext { storage: &storage };
    let mut position: Option<Vec<u8>> = None;
    // Its first look finds a log in which there is something.
    ingest.append(b"before").unwrap();
    for round in 0..40u32 {
        if round > 0 {
            wal.append_to(OTHER, &[7; 3000]).unwrap();
            ingest.append(&round.to_le_bytes()).unwrap();
        }
        let before = disk.ops();
        let planned = source.plan(cx, position.as_deref(), Limit::bytes(1 << 20)).unwrap().unwrap();
        let rows = rows(&source.open(cx, &planned.input).unwrap());
        let read = disk.ops() - before;
        match round {
            0 => assert!(rows == [[b"before".to_vec()]] && read > 0, "{read} operations"),
            _ => {
                assert_eq!(rows, [[round.to_le_bytes().to_vec()]]);
                assert_eq!(read, 0, "round {round}");
            }
        }
        position = Some(planned.next);
    }
    assert!(wal.stats().segments_prepared > 2, "it came through several segments");
}
