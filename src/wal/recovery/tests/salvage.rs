//! Damage of every kind, repaired: exactly what was named is gone, everything else is as it was,
//! and every reader is told once.

use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::sim::{CrashManner, CrashOutcome, SimOptions};
use crate::wal::recovery::quarantine::QUARANTINE;
use crate::wal::{LogReport, LsnRange, Repair, Wal};

/// Records of different lengths over five segments and two incarnations; what each record holds.
fn example(closed: bool) -> (SimDisk, Vec<Vec<u8>>) {
    let disk = SimDisk::with_options(40, SimOptions { trace_lines: 0, ..SimOptions::default() });
    let mut records = Vec::new();
    for round in 0..2_u8 {
        let mut writer = Writer::open(&disk).unwrap();
        for number in 0..30_u8 {
            let length = if number % 3 == 0 { 9000 } else { 10 };
            records.push(vec![round * 50 + number + 1; length]);
            writer.append(records.last().unwrap()).unwrap();
        }
        assert!(writer.tail().position.segment >= SegmentNumber::new(3));
        if round == 1 && closed {
            writer.close().unwrap();
        }
    }
    (disk, records)
}

fn verify(disk: &SimDisk) -> LogReport {
    Wal::verify_with(disk, PLACE).unwrap()
}

fn repair(disk: &SimDisk, accept: &[LsnRange]) -> crate::error::Result<Repair> {
    Wal::repair_with(disk, &ManualClock::default(), PLACE, Duration::ZERO, accept)
}

fn lost_of(report: &LogReport) -> Vec<LsnRange> {
    report.damages.iter().filter_map(|damage| damage.lost).collect()
}

type Shown = (Vec<(u64, Vec<u8>)>, Vec<(u64, u64)>);

/// Records and losses, in the order in which a replay shows them.
fn read(writer: &Writer) -> crate::error::Result<Shown> {
    let mut replay = writer.replay(Lsn::ZERO, false);
    let (mut records, mut losses) = (Vec::new(), Vec::new());
    while let Some(record) = replay.next() {
        match record {
            Ok(record) => records.push((record.lsn.get(), record.payload.to_vec())),
            Err(error) if error.kind() == ErrorKind::Lost => {
                let (first, last) = error.lsns().unwrap();
                let before = records.last().map_or(0, |(lsn, _)| *lsn);
                assert!(before < first.get(), "told in its place");
                losses.push((first.get(), last.get()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((records, losses))
}

/// That the log shows everything but `lost`, and goes on being written.
fn check(disk: &SimDisk, what: &str, records: &[Vec<u8>], lost: &[LsnRange]) {
    let gone = |lsn: u64| lost.iter().any(|range| range.contains(Lsn::new(lsn)));
    let kept: Vec<_> =
        (1..).zip(records.to_vec()).filter(|(lsn, _)| !gone(*lsn)).collect::<Vec<_>>();
    let ranges: Vec<_> = lost.iter().map(|lost| (lost.first().get(), lost.last().get())).collect();
    let end = records.len() as u64;
    for round in 0..3 {
        let mut writer = Writer::open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(writer.tail().next_lsn, Lsn::new(end + 1 + round), "{what}");
        let (mut shown, losses) = read(&writer).unwrap_or_else(|error| panic!("{what}: {error}"));
        shown.retain(|(lsn, _)| *lsn <= end);
        assert!(shown == kept, "{what}: {} records, not {}", shown.len(), kept.len());
        assert_eq!(losses, ranges, "{what}");
        writer.append(b"goes on").unwrap();
    }
    let report = verify(disk);
    assert!(report.is_sound(), "{what}: {:?}", report.damages);
    assert_eq!(report.lost, lost, "{what}");
}

/// Damages, looks, is refused with the wrong words, repairs, and checks.
fn salvaged(what: &str, closed: bool, damage: impl Fn(&SimDisk)) -> Vec<LsnRange> {
    let (disk, records) = example(closed);
    assert!(verify(&disk).is_sound(), "{:?}", verify(&disk).damages);
    damage(&disk);
    let report = verify(&disk);
    assert!(!report.is_sound(), "{what}: nothing is found damaged");
    let opened = Writer::open(&disk).and_then(|writer| read(&writer).map(drop));
    assert!(opened.is_err(), "{what}: the log opens and reads");
    // Looking and a refused opening change nothing; a log that opens has a barrier more.
    let report = verify(&disk);
    let lost = lost_of(&report);
    let wrong = LsnRange::between(Lsn::new(3), Lsn::new(4));
    let before = disk.files().len();
    let error = repair(&disk, &[&lost[..], &[wrong]].concat()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
    if let Some(first) = lost.first() {
        let error = repair(&disk, &[]).unwrap_err();
        let named = format!("{}..{}", first.first(), first.last());
        assert!(error.to_string().contains(&named), "{what}: {error}");
    }
    assert_eq!(disk.files().len(), before, "{what}: refused, and something was written");
    let done = repair(&disk, &lost).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(done.lost, lost, "{what}");
    for path in &done.quarantined {
        let kept = disk.read_file(path).unwrap();
        let any = kept.iter().any(|byte| *byte != 0) || done.unreadable_blocks > 0;
        assert!(any, "{what}: {}", path.display());
        assert_eq!(path.parent().unwrap(), Path::new(PLACE).join(QUARANTINE));
    }
    check(&disk, what, &records, &lost);
    assert_eq!(repair(&disk, &lost).unwrap().tombstones, 0, "{what}: repeated");
    lost
}

/// Where the records' frames stand, from LSN 1.
fn places(disk: &SimDisk) -> Vec<Position> {
    let mut places = Vec::new();
    for number in 1.. {
        let Some(bytes) = disk.read_file(path(number)) else { return places };
        for offset in (BLOCK..bytes.len()).step_by(BLOCK) {
            let position = Position {
                segment: SegmentNumber::new(number),
                offset: u64::try_from(offset).unwrap(),
            };
            let log = crate::ids::LogId::from_bytes(bytes[16..32].try_into().unwrap());
            let header = FrameHeader::decode(&bytes[offset..], log, position);
            if header.is_some_and(|(header, _)| header.kind == FrameKind::Records) {
                places.push(position);
            }
        }
    }
    places
}

fn one(lsn: u64) -> LsnRange {
    LsnRange::between(Lsn::new(lsn), Lsn::new(lsn))
}

#[test]
fn each_damaged_record_is_given_up_alone() {
    let (disk, records) = example(true);
    let places = places(&disk);
    assert_eq!(places.len(), records.len());
    for lsn in [1, 2, 3, 4, 16, 17, 30, 31, 32, 59, 60] {
        let at = places[lsn - 1];
        for tear in [blank, rot] {
            let lost = salvaged(&format!("record {lsn}"), true, |disk| tear(disk, at));
            assert_eq!(lost, [one(lsn as u64)]);
        }
    }
}

#[test]
fn holes_in_several_places_are_each_named() {
    let (disk, _) = example(false);
    let places = places(&disk);
    let lost = salvaged("three holes", false, |disk| {
        [5, 6, 20, 40].iter().for_each(|lsn| rot(disk, places[lsn - 1]));
    });
    assert_eq!(lost, [LsnRange::between(Lsn::new(5), Lsn::new(6)), one(20), one(40)]);
    // More headers that stand without their payload than are held at a time.
    let lost = salvaged("ten in a row", false, |disk| {
        (5..=14).for_each(|lsn| rot(disk, places[lsn - 1]));
    });
    assert_eq!(lost, [LsnRange::between(Lsn::new(5), Lsn::new(14))]);
}

#[test]
fn first_frames_and_whole_segments_are_given_up() {
    let (disk, _) = example(true);
    let places = places(&disk);
    let second = SegmentNumber::new(2);
    let held: Vec<u64> =
        (1..).zip(&places).filter(|(_, at)| at.segment == second).map(|(lsn, _)| lsn).collect();
    let (first, last) = (held[0], held[held.len() - 1]);
    let all = LsnRange::between(Lsn::new(first), Lsn::new(last));
    for closed in [false, true] {
        let lost = salvaged("first frame of segment 2", closed, |disk| {
            blank(disk, places[usize::try_from(first).unwrap() - 1]);
        });
        assert_eq!(lost, [one(first)]);
        let lost = salvaged("segment 2 is zeros", closed, |disk| {
            edit(disk, &path(2), |bytes| bytes[BLOCK..].fill(0));
        });
        assert_eq!(lost, [all]);
        let lost = salvaged("from the middle of segment 1 to that of 3", closed, |disk| {
            edit(disk, &path(1), |bytes| bytes[8 * BLOCK..].fill(7));
            edit(disk, &path(2), |bytes| bytes.fill(7));
            edit(disk, &path(3), |bytes| bytes[..6 * BLOCK].fill(7));
        });
        assert_eq!(lost.len(), 1);
        assert!(lost[0].first() < all.first() && lost[0].last() > all.last());
        let lost = salvaged("segment 2 is missing", closed, |disk| super::files::remove(disk, 2));
        assert_eq!(lost, [all]);
    }
}

#[test]
fn damaged_files_are_made_anew_with_what_they_hold() {
    let lost = salvaged("a header", true, |disk| edit(disk, &path(2), |bytes| bytes[17] ^= 1));
    assert_eq!(lost, []);
    let lost = salvaged("a short file", true, |disk| {
        edit(disk, &path(2), |bytes| bytes.truncate(20_000));
    });
    assert_eq!(lost.len(), 1);
    let lost = salvaged("another log's file", true, |disk| {
        let (other, _) = (SimDisk::new(77), ());
        Writer::open(&other).unwrap().append(b"foreign").unwrap();
        disk.write_file(path(2), &other.read_file(path(1)).unwrap());
    });
    assert_eq!(lost.len(), 1);
    let lost = salvaged("a duplicate", true, |disk| {
        let copy = disk.read_file(path(1)).unwrap();
        disk.write_file(path(2), &copy);
    });
    assert_eq!(lost.len(), 1);
}

/// The length that the file has is then not the length that the segment had: the tombstone goes
/// where the first lost frame was, not over the first frame of the next segment.
#[test]
fn a_damaged_header_of_a_file_cut_short_costs_nothing_of_the_next_segment() {
    let (disk, _) = example(true);
    let places = places(&disk);
    let second = SegmentNumber::new(2);
    let held: Vec<usize> =
        (0..places.len()).filter(|index| places[*index].segment == second).collect();
    for index in &held[1..] {
        let cut = usize::try_from(places[*index].offset).unwrap();
        let lost = LsnRange::between(
            Lsn::new(*index as u64 + 1),
            Lsn::new(held[held.len() - 1] as u64 + 1),
        );
        let found = salvaged("header and length", true, |disk| {
            edit(disk, &path(2), |bytes| {
                bytes[17] ^= 1;
                bytes.truncate(cut);
            });
        });
        assert_eq!(found, [lost]);
        let found = salvaged("unreadable header and length", true, |disk| {
            edit(disk, &path(2), |bytes| bytes.truncate(cut));
            disk.fail_reads_at(path(2), 0).unwrap();
        });
        assert_eq!(found, [lost]);
    }
}

/// A frame that the second opening dropped, and stale since; the second opening's own frames are in
/// the next segment, and all that stood between, its barrier, is lost.
#[test]
fn what_a_later_opening_dropped_is_not_what_follows_its_lost_barrier() {
    let disk = SimDisk::new(41);
    let mut writer = Writer::open(&disk).unwrap();
    let mut records: Vec<Vec<u8>> = (1..=10).map(|number| vec![number; 10]).collect();
    for record in &records {
        writer.append(record).unwrap();
    }
    let torn = writer.plain(&user(b"never told")).unwrap();
    let stale = writer.plain(&user(b"dropped")).unwrap();
    drop(writer);
    blank(&disk, torn);
    let mut writer = Writer::open(&disk).unwrap();
    for number in 11..=14 {
        records.push(vec![number; 20_000]);
        let at = writer.append(records.last().unwrap()).unwrap();
        assert!(at.segment > stale.segment);
    }
    drop(writer);
    let mut writer = Writer::open(&disk).unwrap();
    records.push(b"third life".to_vec());
    writer.append(records.last().unwrap()).unwrap();
    drop(writer);
    // The second opening's barrier.
    blank(&disk, torn);
    assert_eq!(lost_of(&verify(&disk)), []);
    assert!(!verify(&disk).is_sound());
    repair(&disk, &[]).unwrap();
    check(&disk, "a dropped frame in a stale tail", &records, &[]);
}

/// `LOG` names it, though no record is in it.
#[test]
fn a_lost_segment_with_nothing_but_the_newest_barrier_is_made_anew() {
    let disk = SimDisk::new(42);
    let mut writer = Writer::open(&disk).unwrap();
    let records: Vec<Vec<u8>> = (1..=14).map(|number| vec![number; 10]).collect();
    for record in &records {
        writer.append(record).unwrap();
    }
    let end = writer.tail().position;
    assert_eq!((end.segment.get(), end.offset), (1, 64 << 10), "the segment is full");
    drop(writer);
    let barrier = Writer::open(&disk).unwrap().opened.log_file.state().barrier;
    assert_eq!(barrier.segment.get(), 2);
    super::files::remove(&disk, 2);
    let error = refused(&disk, ErrorKind::Corrupt);
    assert!(error.to_string().contains("segment 2 is missing"), "{error}");
    assert_eq!(lost_of(&verify(&disk)), []);
    assert!(!verify(&disk).is_sound());
    assert_eq!(repair(&disk, &[]).unwrap().rebuilt, 1);
    check(&disk, "the newest barrier's segment", &records, &[]);
}

#[test]
fn the_end_of_the_log_is_given_up_with_its_segments() {
    let (disk, records) = example(true);
    let places = places(&disk);
    let last = records.len() as u64;
    let at = places[places.len() - 4];
    let lost = salvaged("the last four and the closing frame", true, |disk| {
        edit(disk, &path(at.segment.get()), |bytes| {
            bytes[usize::try_from(at.offset).unwrap()..].fill(9);
        });
        for number in at.segment.get() + 1.. {
            let Some(_) = disk.read_file(path(number)) else { break };
            edit(disk, &path(number), |bytes| bytes[BLOCK..].fill(9));
        }
    });
    assert_eq!(lost, [LsnRange::between(Lsn::new(last - 3), Lsn::new(last))]);
    let lost = salvaged("the last segments are missing", true, |disk| {
        for number in places[places.len() - 1].segment.get().. {
            let Some(_) = disk.read_file(path(number)) else { break };
            super::files::remove(disk, number);
        }
    });
    assert_eq!((lost.len(), lost[0].last()), (1, Lsn::new(last)));
}

#[test]
fn frames_without_records_are_given_up_without_a_loss() {
    let (disk, _) = example(true);
    let report = verify(&disk);
    for epoch in &report.epochs {
        let lost = salvaged("a barrier", true, |disk| rot(disk, epoch.position));
        assert_eq!(lost, []);
    }
    let end = Position { offset: report.end.offset - BLOCK as u64, ..report.end };
    let (disk, records) = example(true);
    blank(&disk, end);
    // Nothing says that there was a closing frame.
    assert!(verify(&disk).is_sound());
    check(&disk, "the closing frame", &records, &[]);
}

#[test]
fn what_cannot_be_read_is_kept_as_far_as_it_can() {
    let (disk, _) = example(true);
    let places = places(&disk);
    for (lsn, damage) in [(4, 0), (5, 512), (17, 0), (40, 4096)] {
        let at = places[lsn - 1];
        let lost = salvaged(&format!("unreadable record {lsn}"), true, |disk| {
            disk.fail_reads_at(path(at.segment.get()), at.offset + damage).unwrap();
        });
        assert!(lost.iter().all(|range| range.contains(Lsn::new(lsn as u64))), "{lsn}: {lost:?}");
    }
    let end = verify(&disk).end;
    let lost = salvaged("unreadable behind the end", true, |disk| {
        disk.fail_reads_at(path(end.segment.get()), end.offset + 4096).unwrap();
    });
    assert_eq!(lost, []);
}

/// The power goes at every operation of a repair. What is found then is refused as before and
/// repaired by the same words, or is repaired.
#[test]
fn a_crash_at_any_operation_of_a_repair_is_repaired_again() {
    let (undamaged, records) = example(true);
    let places = places(&undamaged);
    type Change = Box<dyn Fn(&SimDisk)>;
    let changes: [Change; 4] = [
        Box::new(|disk| {
            edit(disk, &path(1), |bytes| bytes[8 * BLOCK..].fill(7));
            edit(disk, &path(2), |bytes| bytes.fill(7));
            edit(disk, &path(3), |bytes| bytes[..6 * BLOCK].fill(7));
        }),
        Box::new({
            let places = places.clone();
            move |disk| [5, 20, 60].iter().for_each(|lsn| rot(disk, places[lsn - 1]))
        }),
        Box::new(|disk| super::files::remove(disk, 2)),
        Box::new({
            let at = places[30];
            move |disk| {
                disk.fail_reads_at(path(at.segment.get()), at.offset).unwrap();
            }
        }),
    ];
    let mut states = 0;
    for damage in changes {
        let damaged = || {
            let disk = undamaged.power_cycle(CrashOutcome::KeepAll);
            damage(&disk);
            disk.power_cycle(CrashOutcome::KeepAll)
        };
        let lost = lost_of(&verify(&damaged()));
        let whole = damaged();
        let before = whole.ops();
        repair(&whole, &lost).unwrap();
        for op in before + 1..=whole.ops() {
            for manner in [CrashManner::Before, CrashManner::Torn, CrashManner::After] {
                let disk = damaged();
                disk.crash_at(op, manner);
                assert!(repair(&disk, &lost).is_err());
                for outcome in
                    [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)]
                {
                    let found = disk.power_cycle(outcome);
                    let what = format!("op {op} {manner:?} {outcome:?}");
                    let remaining = lost_of(&verify(&found));
                    assert!(remaining.iter().all(|range| lost.contains(range)), "{what}");
                    let done = repair(&found, &lost).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(done.lost, lost, "{what}");
                    states += 1;
                    if states % 5 == 0 {
                        check(&found, &what, &records, &lost);
                    }
                }
            }
        }
    }
    assert!(states > 500, "{states}");
}

#[test]
fn readers_of_all_kinds_are_told_once_and_go_on() {
    let (disk, records) = example(true);
    let places = places(&disk);
    [20, 21].iter().for_each(|lsn| rot(&disk, places[lsn - 1]));
    let lost = LsnRange::between(Lsn::new(20), Lsn::new(21));
    repair(&disk, &[lost]).unwrap();
    let options = crate::wal::WalOptions {
        segment_size: 64 << 10,
        lock_wait: Duration::ZERO,
        background: crate::wal::Background::Inline,
        ..crate::wal::WalOptions::default()
    };
    let storage = crate::sync::Arc::new(disk.clone());
    let clock = crate::sync::Arc::new(ManualClock::default());
    let wal = Wal::open_with(storage, clock, PLACE, options).unwrap();
    let told = |error: &Error| {
        assert_eq!(
            (error.kind(), error.lsns()),
            (ErrorKind::Lost, Some((lost.first(), lost.last())))
        );
    };
    for (lsn, payload) in [(19, &records[18]), (22, &records[21])] {
        assert_eq!(wal.get(Lsn::new(lsn)).unwrap().unwrap().payload, *payload);
    }
    for lsn in [20, 21] {
        told(&wal.get(Lsn::new(lsn)).unwrap_err());
    }
    let mut tail = wal.tail(Lsn::new(19)).unwrap();
    assert_eq!(tail.try_next().unwrap().unwrap().lsn, Lsn::new(19));
    told(&tail.try_next().unwrap().unwrap_err());
    assert_eq!(tail.try_next().unwrap().unwrap().lsn, Lsn::new(22));
    let mut replay = wal.replay_from(Lsn::new(21)).unwrap();
    told(&replay.next().unwrap().unwrap_err());
    assert_eq!(replay.next().unwrap().unwrap().lsn, Lsn::new(22));
    let first = wal.replay_from(Lsn::new(22)).unwrap().next().unwrap().unwrap().lsn;
    assert_eq!(first, Lsn::new(22));
    assert!(wal.replay().unwrap().to(Lsn::new(19)).next().is_some_and(|record| record.is_ok()));
    let mut count = 0;
    let mut replay = wal.replay().unwrap().verify_ahead(2);
    while let Some(record) = replay.next() {
        match record {
            Ok(_) => count += 1,
            Err(error) => told(&error),
        }
    }
    assert_eq!(count, records.len() - 2);
    let counts = wal.par_replay(3, |mut replay| {
        let (mut count, mut losses) = (0, 0);
        while let Some(record) = replay.next() {
            match record {
                Ok(_) => count += 1,
                Err(error) => {
                    told(&error);
                    losses += 1;
                }
            }
        }
        Ok((count, losses))
    });
    let counts = counts.unwrap();
    let sum = counts.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!(sum, (records.len() - 2, 1));
    let backup = wal.backup("/copy").unwrap();
    let copy = Wal::verify_with(&disk, &backup.path).unwrap();
    assert!(copy.is_sound() && copy.lost == [lost]);
    let start = wal.truncate_before(Lsn::new(40)).unwrap();
    assert!(start > lost.last());
    assert!(
        wal.replay().unwrap().next().unwrap().is_ok(),
        "what was truncated is not lost any more"
    );
}
