//! Keys, timestamps and named streams: every reader shows them, and no crash mixes them up.

use std::collections::BTreeMap;

use crate::common::{options, simulated};
use sawmill::sim::{CrashManner, CrashOutcome, Device, SimDisk, SimOptions};
use sawmill::{
    Durability, Entry, Error, ErrorKind, Lsn, ProducerId, ProducerStamp, Record, StreamId, Wal,
    WalOptions,
};

const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];

type Shown = (u64, u16, Option<Vec<u8>>, Option<i64>, Vec<u8>);

fn shown(record: &Record<'_>) -> Shown {
    let key = record.key().map(<[u8]>::to_vec);
    let (lsn, stream) = (record.lsn.get(), record.stream.get());
    (lsn, stream, key, record.timestamp(), record.payload.to_vec())
}

fn replayed(wal: &Wal) -> Vec<Shown> {
    let mut replay = wal.replay().unwrap();
    let mut all = Vec::new();
    while let Some(record) = replay.next() {
        all.push(shown(&record.unwrap()));
    }
    all
}

/// Records of all kinds, over some segments.
fn fill(wal: &Wal) -> Vec<Shown> {
    let mut expected = Vec::new();
    for round in 0..12_u16 {
        let big = vec![7; usize::from(round) * 1000];
        let key = vec![9; usize::from(round) * 300];
        let number = i64::from(round) - 5;
        let entries = [
            Entry::new(&big),
            Entry::new(b"keyed").key(&key),
            Entry::new(b"timed").timestamp(number).stream(StreamId::new(round)),
            Entry::new(&big).key(b"").timestamp(i64::MIN),
            Entry::new(b"").timestamp(i64::MAX).durability(Durability::Buffered),
        ];
        for entry in &entries {
            wal.append_record(entry).unwrap();
        }
        wal.submit_record(&entries[1]).unwrap();
        let batch = wal.append_records(&[entries[0], entries[1], entries[3]]).unwrap();
        let lsn = batch.last().get() - 8;
        let one = (0, None, None, big.clone());
        let two = (0, Some(key.clone()), None, b"keyed".to_vec());
        let three = (round, None, Some(number), b"timed".to_vec());
        let four = (0, Some(vec![]), Some(i64::MIN), big.clone());
        let five = (0, None, Some(i64::MAX), vec![]);
        let all =
            [one.clone(), two.clone(), three, four.clone(), five, two.clone(), one, two, four];
        for (nth, (stream, key, timestamp, payload)) in (0..).zip(all) {
            expected.push((lsn + nth, stream, key, timestamp, payload));
        }
    }
    expected
}

#[test]
fn every_reader_shows_what_a_record_carries() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path().join("log"), options()).unwrap();
    let mut tail = wal.tail(Lsn::FIRST).unwrap();
    let mut expected = fill(&wal);
    let (kept_up, from_files) = (tail.file_reads(), wal.tail(Lsn::FIRST).unwrap());
    for tail in [&mut tail, &mut { from_files }] {
        let mut all = Vec::new();
        while let Some(record) = tail.try_next() {
            all.push(shown(&record.unwrap()));
        }
        assert_eq!(all, expected);
    }
    assert_eq!(kept_up, 0);
    assert_eq!(replayed(&wal), expected);
    let by_segment = wal.par_replay(3, |mut replay| {
        let mut all = Vec::new();
        while let Some(record) = replay.next() {
            all.push(shown(&record?));
        }
        Ok(all)
    });
    let by_segment = by_segment.unwrap();
    assert!(by_segment.len() > 2);
    assert_eq!(by_segment.concat(), expected);
    let (lsn, stream, key, timestamp, payload) = expected[10].clone();
    let found = wal.get(Lsn::new(lsn)).unwrap().unwrap();
    assert_eq!((found.stream.get(), found.key, found.timestamp), (stream, key, timestamp));
    assert_eq!((found.payload, found.producer), (payload, None));
    wal.backup(place.path().join("copy")).unwrap();
    drop((tail, wal));
    for name in ["copy", "log"] {
        let wal = Wal::open(place.path().join(name), options()).unwrap();
        assert_eq!(replayed(&wal), expected, "{name}");
    }
    let wal = Wal::open(place.path().join("log"), options()).unwrap();
    wal.append(b"plain").unwrap();
    expected.push((wal.last_lsn().get(), 0, None, None, b"plain".to_vec()));
    assert_eq!(replayed(&wal), expected);
}

#[test]
fn limits_of_entries_are_checked_before_anything_is_appended() {
    let place = tempfile::tempdir().unwrap();
    let options = WalOptions { max_record: 20_000, ..options() };
    let wal = Wal::open(place.path(), options).unwrap();
    let key = vec![1; 16 * 1024 + 1];
    let payload = vec![2; 20_000];
    let too_large = [
        Entry::new(b"").key(&key),
        Entry::new(&payload).timestamp(1),
        Entry::new(&payload[1..]).key(b""),
    ];
    for entry in &too_large {
        assert_eq!(wal.append_record(entry).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(wal.submit_record(entry).unwrap_err().kind(), ErrorKind::TooLarge);
        let batch = wal.append_records(&[Entry::new(b"small"), *entry]);
        assert_eq!(batch.unwrap_err().kind(), ErrorKind::TooLarge);
    }
    let key = &key[1..];
    let whole = vec![Entry::new(b"").key(key); 2];
    assert_eq!(wal.append_records(&whole).unwrap_err().kind(), ErrorKind::TooLarge);
    let mixed = [Entry::new(b"a"), Entry::new(b"b").stream(StreamId::new(1))];
    assert_eq!(wal.append_records(&mixed).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(wal.append_records(&[]).unwrap().is_empty());
    assert_eq!(wal.appended_lsn(), Lsn::ZERO);
    assert_eq!(wal.append_record(&whole[0]).unwrap(), Lsn::FIRST);
    assert_eq!(wal.append_record(&Entry::new(&payload)).unwrap(), Lsn::new(2));
}

#[test]
fn streams_have_names_that_survive_truncation_and_openings() {
    let place = tempfile::tempdir().unwrap();
    let mut numbers = BTreeMap::new();
    for life in 0..4_u64 {
        let wal = Wal::open(place.path(), options()).unwrap();
        let known: BTreeMap<_, _> =
            wal.streams().iter().map(|stream| (stream.name().to_owned(), stream.id())).collect();
        assert_eq!(known, numbers);
        for name in ["orders".to_owned(), format!("life {life}")] {
            let stream = wal.stream(&name).unwrap();
            assert_eq!(wal.find_stream(&name).unwrap().id(), stream.id());
            numbers.insert(name, stream.id());
            stream.append_batch(&[life.to_le_bytes(), [0; 8]]).unwrap();
        }
        for _ in 0..12 {
            wal.append(&[0; 20_000]).unwrap();
        }
        let last = wal.append(b"a place to cut at").unwrap();
        let plan = wal.truncation_plan(last).unwrap();
        assert_eq!(wal.truncate_before(last).unwrap(), plan.first_lsn);
        assert!(wal.first_lsn() > last.previous().previous().previous());
        if life == 2 {
            wal.close().unwrap();
        }
    }
    let different: std::collections::BTreeSet<_> = numbers.values().collect();
    assert_eq!(different.len(), 5);
}

#[test]
fn a_name_is_short_and_not_empty() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    assert_eq!(wal.stream("").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(wal.stream(&"n".repeat(256)).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(wal.appended_lsn(), Lsn::ZERO);
    assert!(wal.stream(&"n".repeat(255)).unwrap().id().get() >= 0x8000);
    wal.clone().close().unwrap();
    assert_eq!(wal.stream("late").unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn one_name_opened_by_many_threads_is_one_stream() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let ids: Vec<StreamId> = std::thread::scope(|scope| {
        let open = || (0..20).map(|n| wal.stream(&format!("{}", n % 5)).unwrap().id()).collect();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        let ids = threads.into_iter().map(|thread| thread.join().unwrap());
        ids.collect::<Vec<Vec<_>>>().concat()
    });
    assert_eq!(wal.streams().len(), 5);
    for (nth, id) in ids.iter().enumerate() {
        assert_eq!(wal.find_stream(&format!("{}", nth % 5)).unwrap().id(), *id);
    }
}

#[test]
fn retention_by_size_is_not_held_up_by_names_and_producers() {
    let place = tempfile::tempdir().unwrap();
    let options = WalOptions { retain_bytes: Some(256 << 10), ..options() };
    let wal = Wal::open(place.path(), options.clone()).unwrap();
    let id = wal.stream("orders").unwrap().id();
    let stamp = |sequence| ProducerStamp { id: ProducerId::new(1), epoch: 0, sequence };
    // By itself, when it comes into a new segment: soon after, for nobody waits for that.
    for sequence in 0..10_000 {
        wal.append_record(&Entry::new(&[0; 20_000]).producer(stamp(sequence))).unwrap();
        if wal.first_lsn() > Lsn::new(50) {
            break;
        }
    }
    assert!(wal.first_lsn() > Lsn::new(50), "{}", wal.first_lsn());
    let first = wal.apply_retention().unwrap();
    // All segments but the one of the durable LSN, and that one. How many records they hold depends
    // on how often names and producers were said again in them.
    let kept = wal.truncation_plan(Lsn::new(u64::MAX)).unwrap().bytes + options.segment_size;
    assert!(kept <= 256 << 10, "{kept} bytes are kept, from {first} on");
    drop(wal);
    let wal = Wal::open(place.path(), options).unwrap();
    assert_eq!(wal.find_stream("orders").unwrap().id(), id);
    let again = wal.append_record(&Entry::new(b"again").producer(stamp(3))).unwrap();
    assert!(again < first);
}

/// Registers and uses streams, with truncation between; whatever was told is noted.
fn life(disk: &SimDisk, told: &mut BTreeMap<String, u16>, kept: &mut Vec<(Lsn, u16)>) {
    let mut live = || -> Result<(), Error> {
        let mut wal = simulated(disk)?;
        for round in 0..3 {
            for name in ["a".to_owned(), format!("round {round}")] {
                let stream = wal.stream(&name)?;
                told.insert(name, stream.id().get());
                let key = stream.id().get().to_le_bytes();
                let entry = Entry::new(b"in its stream").key(&key);
                kept.push((stream.append_record(&entry)?, stream.id().get()));
            }
            for _ in 0..2 {
                wal.append(&[0; 30_000])?;
            }
            let cut = wal.append(b"cut")?;
            kept.retain(|(lsn, _)| *lsn >= cut);
            wal.truncate_before(cut)?;
            if round == 1 {
                drop(wal);
                wal = simulated(disk)?;
            }
        }
        Ok(())
    };
    drop(live());
}

#[test]
fn every_crash_keeps_names_and_what_was_appended_under_them() {
    let mut states = 0;
    for device in [Device::Fua, Device::Flush] {
        let sim = SimOptions { device, trace_lines: 0, ..SimOptions::default() };
        let whole = SimDisk::with_options(3, sim.clone());
        life(&whole, &mut BTreeMap::new(), &mut Vec::new());
        for op in 1..=whole.ops() {
            for manner in MANNERS {
                let disk = SimDisk::with_options(3, sim.clone());
                disk.crash_at(op, manner);
                let (mut told, mut kept) = (BTreeMap::new(), Vec::new());
                life(&disk, &mut told, &mut kept);
                for outcome in
                    [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)]
                {
                    let context = format!("{device:?} op {op} {manner:?} {outcome:?}");
                    let found = disk.power_cycle(outcome);
                    // The second opening stands on the barrier of the first one alone.
                    for _ in 0..2 {
                        let wal = simulated(&found).unwrap();
                        for (name, id) in &told {
                            let stream = wal.find_stream(name).unwrap_or_else(|| {
                                panic!("{context}: `{name}` is forgotten");
                            });
                            assert_eq!(stream.id().get(), *id, "{context}: {name}");
                        }
                        for (lsn, id) in &kept {
                            let record = wal.get(*lsn).unwrap().unwrap();
                            assert_eq!(record.stream.get(), *id, "{context}");
                            assert_eq!(record.key, Some(id.to_le_bytes().to_vec()), "{context}");
                        }
                        let fresh = wal.stream("fresh").unwrap().id().get();
                        assert!(!told.values().any(|id| *id == fresh), "{context}");
                        states += 1;
                    }
                }
            }
        }
    }
    assert!(states > 1000, "{states}");
}

/// Frames that wait to be written when the first name is registered say already where the catalog
/// begins: behind them, and maybe behind what a crash leaves.
#[test]
fn a_name_given_after_a_crash_that_took_the_first_one_is_kept() {
    let sim = SimOptions { device: Device::Fua, trace_lines: 0, ..SimOptions::default() };
    let life = |disk: &SimDisk| -> Result<(), Error> {
        let wal = simulated(disk)?;
        for _ in 0..4 {
            wal.submit_alone(&[1; 9_000])?;
        }
        wal.stream("first").map(drop)
    };
    let whole = SimDisk::with_options(4, sim.clone());
    life(&whole).unwrap();
    let mut without = 0;
    for op in 1..=whole.ops() {
        for manner in MANNERS {
            let disk = SimDisk::with_options(4, sim.clone());
            disk.crash_at(op, manner);
            drop(life(&disk));
            for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)]
            {
                let context = format!("op {op} {manner:?} {outcome:?}");
                let found = disk.power_cycle(outcome);
                let wal = simulated(&found).unwrap();
                without += u32::from(wal.find_stream("first").is_none());
                let id = wal.stream("second").unwrap().id();
                drop(wal);
                for _ in 0..2 {
                    let wal = simulated(&found).unwrap();
                    let kept = wal.find_stream("second").map(|stream| stream.id());
                    assert_eq!(kept, Some(id), "{context}");
                }
            }
        }
    }
    assert!(without > 10, "{without}");
}

/// A catalog that does not fit half a segment is not begun to be repeated at a rotation: that would
/// lead into the next segment, and so on without an end.
#[test]
fn a_catalog_too_large_for_a_segment_does_not_feed_itself() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let large = WalOptions { segment_size: 1 << 20, ..options() };
    let wal = Wal::open(place.path(), large).unwrap();
    for number in 0..200 {
        wal.stream(&format!("{number:0>250}")).unwrap();
    }
    assert_eq!(wal.durable_lsn(), Lsn::new(200));
    wal.close().unwrap();
    let retaining = WalOptions { retain_bytes: Some(64 << 10), ..options() };
    let wal = Wal::open(place.path(), retaining.clone()).unwrap();
    for _ in 0..300 {
        wal.append(&[0; 20_000]).unwrap();
    }
    wal.close().unwrap();
    let wal = Wal::open(place.path(), retaining).unwrap();
    assert_eq!(wal.durable_lsn(), Lsn::new(500), "records that nobody appended");
    assert_eq!(wal.streams().len(), 200);
}
