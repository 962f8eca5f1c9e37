//! What producers send is stored once (LOG.md L22), whatever crashes, is sent again, or truncated.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{options, simulated};
use sawmill::sim::{CrashManner, CrashOutcome, Device, FaultKind, SimDisk, SimOptions};
use sawmill::{
    Engine, EngineOptions, Entry, Error, ErrorKind, Job, Lsn, ProducerId, ProducerStamp, Received,
    RunOptions, Trigger, Wal, WalOptions, name,
};

const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];

fn stamp(id: u64, epoch: u32, sequence: u64) -> ProducerStamp {
    ProducerStamp { id: ProducerId::new(id), epoch, sequence }
}

fn send(wal: &Wal, stamp: ProducerStamp) -> Result<Lsn, Error> {
    wal.append_record(&Entry::new(b"sent").producer(stamp))
}

/// Where each sequence stands.
fn stored(wal: &Wal) -> BTreeMap<(u64, u64), Lsn> {
    let mut all = BTreeMap::new();
    let mut replay = wal.replay().unwrap();
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        let Some(stamp) = record.producer() else { continue };
        let before = all.insert((stamp.id.get(), stamp.sequence), record.lsn);
        assert_eq!(before, None, "{stamp:?} is stored twice");
    }
    all
}

/// Fills more than a segment and gives up what lies before.
fn truncate(wal: &Wal) -> Result<(), Error> {
    for _ in 0..3 {
        wal.append(&[0; 30_000])?;
    }
    let cut = wal.append(b"cut")?;
    let first = wal.truncate_before(cut)?;
    assert!(first.get() + 3 > cut.get(), "{first} {cut}");
    Ok(())
}

#[test]
fn what_is_sent_again_is_recognised_for_ever() {
    let place = tempfile::tempdir().unwrap();
    let mut wal = Wal::open(place.path(), options()).unwrap();
    let mut lsns = Vec::new();
    for sequence in 0..1500 {
        let entry = Entry::new(b"sent").producer(stamp(7, 1, sequence));
        lsns.push(wal.submit_record(&entry).unwrap().lsn());
    }
    for life in 0..4 {
        for sequence in [0, 1, 475] {
            let error = send(&wal, stamp(7, 1, sequence)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Duplicate, "{life} {sequence}");
        }
        for sequence in [476, 1000, 1499] {
            let again = send(&wal, stamp(7, 1, sequence)).unwrap();
            assert_eq!(again, lsns[usize::try_from(sequence).unwrap()], "{life} {sequence}");
        }
        let kind = |stamp| send(&wal, stamp).unwrap_err().kind();
        assert_eq!(kind(stamp(7, 1, 1501)), ErrorKind::SequenceGap);
        assert_eq!(kind(stamp(7, 0, 1500)), ErrorKind::Fenced);
        assert_eq!(kind(stamp(8, 0, 1)), ErrorKind::SequenceGap);
        assert_eq!(kind(stamp(8, 0, u64::MAX)), ErrorKind::Invalid);
        let state = wal.producer(ProducerId::new(7)).unwrap();
        assert_eq!((state.epoch, state.next_sequence), (1, 1500));
        assert_eq!(state.last_lsn, lsns.last().copied());
        assert_eq!(wal.producers(), [state]);
        match life {
            0 => truncate(&wal).unwrap(),
            1 => wal.clone().close().unwrap(),
            // Again, so that what was repeated is given up, too.
            _ => truncate(&wal).unwrap(),
        }
        drop(wal);
        wal = Wal::open(place.path(), options()).unwrap();
    }
    assert_eq!(stored(&wal), BTreeMap::new());
}

#[test]
fn a_new_life_shuts_out_the_old_one_durably() {
    let disk = SimDisk::new(5);
    let wal = simulated(&disk).unwrap();
    let first = send(&wal, stamp(1, 3, 0)).unwrap();
    // A new life asks what became of the last record of the one before.
    assert_eq!(send(&wal, stamp(1, 4, 0)).unwrap(), first);
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    drop(wal);
    let wal = simulated(&found).unwrap();
    assert_eq!(send(&wal, stamp(1, 3, 1)).unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(wal.begin_producer_epoch(ProducerId::new(1), 9).unwrap().next_sequence, 1);
    assert_eq!(wal.begin_producer_epoch(ProducerId::new(2), 5).unwrap().next_sequence, 0);
    let found = found.power_cycle(CrashOutcome::LoseAll);
    drop(wal);
    let wal = simulated(&found).unwrap();
    assert_eq!(send(&wal, stamp(1, 8, 1)).unwrap_err().kind(), ErrorKind::Fenced);
    let older = wal.begin_producer_epoch(ProducerId::new(1), 8);
    assert_eq!(older.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(send(&wal, stamp(2, 4, 0)).unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(wal.begin_producer_epoch(ProducerId::new(2), 5).unwrap().epoch, 5);
    assert!(send(&wal, stamp(1, 9, 1)).unwrap() > first);
}

#[test]
fn new_producers_are_refused_when_the_table_is_full_until_one_is_forgotten() {
    let place = tempfile::tempdir().unwrap();
    let options = WalOptions { max_producers: 3, ..options() };
    let wal = Wal::open(place.path(), options.clone()).unwrap();
    // Who was refused takes no place.
    assert_eq!(send(&wal, stamp(9, 0, 4)).unwrap_err().kind(), ErrorKind::SequenceGap);
    for id in 0..3 {
        send(&wal, stamp(id, 0, 0)).unwrap();
    }
    let refused = |wal: &Wal| {
        assert_eq!(send(wal, stamp(3, 0, 0)).unwrap_err().kind(), ErrorKind::TooLarge);
        let began = wal.begin_producer_epoch(ProducerId::new(3), 1);
        assert_eq!(began.unwrap_err().kind(), ErrorKind::TooLarge);
    };
    refused(&wal);
    send(&wal, stamp(2, 0, 1)).unwrap();
    drop(wal);
    let wal = Wal::open(place.path(), options.clone()).unwrap();
    refused(&wal);
    assert!(wal.forget_producer(ProducerId::new(1)).unwrap());
    assert!(!wal.forget_producer(ProducerId::new(1)).unwrap());
    drop(wal);
    let wal = Wal::open(place.path(), options.clone()).unwrap();
    assert_eq!(wal.producer(ProducerId::new(1)), None);
    send(&wal, stamp(3, 0, 0)).unwrap();
    refused_as_new(&wal);
    truncate(&wal).unwrap();
    drop(wal);
    let wal = Wal::open(place.path(), options).unwrap();
    let ids: Vec<_> = wal.producers().iter().map(|state| state.id.get()).collect();
    assert_eq!(ids, [0, 2, 3]);
    refused_as_new(&wal);
    // Who was forgotten begins anew.
    wal.forget_producer(ProducerId::new(0)).unwrap();
    assert_eq!(send(&wal, stamp(1, 0, 1)).unwrap_err().kind(), ErrorKind::SequenceGap);
    send(&wal, stamp(1, 0, 0)).unwrap();
}

fn refused_as_new(wal: &Wal) {
    assert_eq!(send(wal, stamp(1, 0, 0)).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn batches_are_recognised_whole() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let entry = |sequence| Entry::new(b"one of many").producer(stamp(1, 0, sequence));
    let batch = |from: u64, to: u64| -> Vec<Entry<'_>> { (from..to).map(entry).collect() };
    let first = wal.append_records(&batch(0, 5)).unwrap();
    wal.append(b"between").unwrap();
    let second = wal.append_records(&batch(5, 8)).unwrap();
    assert_eq!(wal.append_records(&batch(0, 5)).unwrap(), first);
    assert_eq!(wal.append_records(&batch(5, 8)).unwrap(), second);
    assert_eq!(wal.append_record(&entry(6)).unwrap(), second.first().next());
    let kind = |entries: &[Entry<'_>]| wal.append_records(entries).unwrap_err().kind();
    assert_eq!(kind(&batch(3, 7)), ErrorKind::Duplicate, "stored, but not as one");
    assert_eq!(kind(&batch(7, 9)), ErrorKind::Invalid, "stored in part");
    assert_eq!(kind(&batch(9, 10)), ErrorKind::SequenceGap);
    assert_eq!(kind(&[entry(8), entry(10)]), ErrorKind::Invalid);
    assert_eq!(kind(&[entry(8), Entry::new(b"nobody's")]), ErrorKind::Invalid);
    let other = Entry::new(b"").producer(stamp(2, 0, 9));
    assert_eq!(kind(&[entry(8), other]), ErrorKind::Invalid);
    assert_eq!(stored(&wal).len(), 8);
}

/// An answer that comes before its original is durable, as this log gives it.
fn answered_early() -> bool {
    let wal = simulated(&SimDisk::new(6)).unwrap();
    let pending = wal.submit_record(&Entry::new(b"sent").producer(stamp(1, 0, 0))).unwrap();
    assert!(wal.durable_lsn() < pending.lsn());
    let again = send(&wal, stamp(1, 0, 0)).unwrap();
    assert_eq!(again, pending.lsn());
    let early = wal.durable_lsn() < again;
    // What is older than the window waits as well.
    for sequence in 1..1100 {
        wal.submit_record(&Entry::new(b"sent").producer(stamp(1, 0, sequence))).unwrap();
    }
    let fresh = simulated(&SimDisk::new(6)).unwrap();
    let mut last = Lsn::ZERO;
    for sequence in 0..1100 {
        let entry = Entry::new(b"sent").producer(stamp(1, 0, sequence));
        last = fresh.submit_record(&entry).unwrap().lsn();
    }
    let error = send(&fresh, stamp(1, 0, 0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert!(fresh.durable_lsn() <= last);
    early || fresh.durable_lsn() < Lsn::FIRST
}

#[test]
fn an_answer_waits_until_the_original_is_durable() {
    assert!(!answered_early());
}

#[test]
#[cfg(feature = "planted")]
fn planted_duplicate_before_durable_is_seen() {
    use sawmill::planted::{Bug, with_planted};
    assert!(with_planted(Bug::DuplicateBeforeDurable, answered_early));
}

#[test]
fn an_answer_fails_with_its_original() {
    let disk = SimDisk::new(7);
    let wal = simulated(&disk).unwrap();
    send(&wal, stamp(1, 0, 0)).unwrap();
    disk.fail_from(disk.ops() + 1, 5, FaultKind::NotExecuted);
    let pending = wal.submit_record(&Entry::new(b"sent").producer(stamp(1, 0, 1))).unwrap();
    assert_eq!(send(&wal, stamp(1, 0, 1)).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn threads_that_send_the_same_store_it_once_in_order() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    const PRODUCERS: u64 = 3;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Everybody sends everything; who is ahead of the others does not wait for them.
                for sequence in 0..200 {
                    for id in 0..PRODUCERS {
                        send(&wal, stamp(id, 0, sequence)).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                wal.append(&[0; 20_000]).unwrap();
                let _first = wal.truncation_plan(wal.durable_lsn()).unwrap();
            }
        });
    });
    let stored = stored(&wal);
    assert_eq!(stored.len(), 600);
    for id in 0..PRODUCERS {
        let lsns: Vec<_> = (0..200).map(|sequence| stored[&(id, sequence)]).collect();
        assert!(lsns.is_sorted(), "the order of LSNs is that of sequences");
    }
}

/// The table is repeated, truncated and recycled over while everybody sends.
#[test]
fn answers_stay_the_same_while_the_log_is_truncated_under_the_senders() {
    const PRODUCERS: u64 = 4;
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let done = AtomicBool::new(false);
    let told: Vec<BTreeMap<(u64, u64), Lsn>> = std::thread::scope(|scope| {
        let everything = || {
            let mut told = BTreeMap::new();
            for sequence in 0..300 {
                for id in 0..PRODUCERS {
                    let payload = [7; 1000];
                    let entry = Entry::new(&payload).producer(stamp(id, 0, sequence));
                    told.insert((id, sequence), wal.append_record(&entry).unwrap());
                }
            }
            told
        };
        let senders: Vec<_> = (0..3).map(|_| scope.spawn(everything)).collect();
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Acquire) {
                wal.truncate_before(wal.durable_lsn()).unwrap();
                wal.stream(&format!("{}", number % 50)).unwrap();
                number += 1;
            }
        });
        let told = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        done.store(true, Ordering::Release);
        told
    });
    assert!(told.iter().all(|answers| *answers == told[0]));
    wal.truncate_before(wal.durable_lsn()).unwrap();
    assert!(wal.first_lsn() > Lsn::new(1000), "{}", wal.first_lsn());
    let names: Vec<_> = wal.streams().iter().map(|s| (s.name().to_owned(), s.id())).collect();
    drop(wal);
    let wal = Wal::open(place.path(), options()).unwrap();
    for (key, lsn) in &told[0] {
        assert_eq!(send(&wal, stamp(key.0, 0, key.1)).unwrap(), *lsn);
    }
    let found: Vec<_> = wal.streams().iter().map(|s| (s.name().to_owned(), s.id())).collect();
    assert_eq!(found, names);
}

#[test]
fn a_full_disk_gives_space_back_though_the_table_is_repeated_first() {
    let disk = SimDisk::new(10);
    let wal = simulated(&disk).unwrap();
    for id in 0..20 {
        send(&wal, stamp(id, 0, 0)).unwrap();
    }
    disk.capacity(Some(8 * (64 << 10)));
    let mut sequence = 1;
    let send_large = |wal: &Wal, sequence| {
        wal.append_record(&Entry::new(&[0; 30_000]).producer(stamp(0, 0, sequence)))
    };
    for round in 0..3 {
        let full = loop {
            match send_large(&wal, sequence) {
                Ok(_) => sequence += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::DiskFull, "{round}");
        // What was not appended was not stored: it is the next one still.
        let state = wal.producer(ProducerId::new(0)).unwrap();
        assert_eq!(state.next_sequence, sequence, "{round}");
        let before = wal.first_lsn();
        assert!(wal.truncate_before(wal.durable_lsn()).unwrap() > before, "{round}");
    }
    send_large(&wal, sequence).unwrap();
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    drop(wal);
    let wal = simulated(&found).unwrap();
    assert_eq!(wal.producers().len(), 20);
    assert_eq!(wal.producer(ProducerId::new(0)).unwrap().next_sequence, sequence + 1);
}

/// From the sender to the state: each record counts once, though each is sent several times.
#[test]
fn a_job_counts_what_was_sent_again_once() {
    let place = tempfile::tempdir().unwrap();
    for life in 1..=3_u64 {
        let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        let (job, counts) = Job::build(name!("count"), |job| {
            let words = job.source(name!("in"), Received::from(&events));
            let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
            let counts = counted.map_with_state::<u64, ()>(name!("n"), |_word, values, state| {
                *state = Some(state.unwrap_or(0) + values.sum::<u64>());
                None
            });
            counts.state
        })
        .unwrap();
        // Each life sends again all that was ever sent, and ten more.
        for sequence in (0..life * 10).chain(0..life * 10) {
            let entry = Entry::new(b"oak").producer(stamp(1, 0, sequence));
            engine.log().append_record(&entry.stream(events.stream())).unwrap();
        }
        let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
        let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() }).unwrap();
        run.await_termination().unwrap();
        assert_eq!(counts.get(b"oak"), Some(life * 10));
    }
}

/// A client that sends what was not answered, and its log.
#[derive(Clone, Default)]
struct Client {
    answered: BTreeMap<(u64, u64), Lsn>,
}

impl Client {
    /// Sends each producer's next records, the last ones as a batch, without waiting for some.
    fn live(&mut self, disk: &SimDisk) -> Result<(), Error> {
        let mut wal = simulated(disk)?;
        for round in 0..3 {
            for id in 0..2 {
                let next = |client: &Client| {
                    client.answered.range((id, 0)..=(id, u64::MAX)).count() as u64
                };
                let from = next(self);
                let lsn = send(&wal, stamp(id, round, from))?;
                self.answered.insert((id, from), lsn);
                let entry = |sequence| Entry::new(b"sent").producer(stamp(id, round, sequence));
                let pending = wal.submit_record(&entry(from + 1))?;
                let batch = wal.append_records(&[entry(from + 2), entry(from + 3)])?;
                self.answered.insert((id, from + 1), pending.wait()?);
                self.answered.insert((id, from + 2), batch.first());
                self.answered.insert((id, from + 3), batch.last());
            }
            if round > 0 {
                truncate(&wal)?;
            }
            if round == 1 {
                drop(wal);
                wal = simulated(disk)?;
            }
        }
        Ok(())
    }

    /// Sends again what was not answered, and asks for the rest.
    fn finish(&self, wal: &Wal, context: &str) {
        for id in 0..2 {
            let known = self.answered.range((id, 0)..=(id, u64::MAX)).count() as u64;
            for sequence in 0..known + 5 {
                let lsn = send(wal, stamp(id, 9, sequence))
                    .unwrap_or_else(|error| panic!("{context}: {id} {sequence}: {error}"));
                let told = self.answered.get(&(id, sequence));
                assert!(told.is_none_or(|told| *told == lsn), "{context}: {told:?} {lsn}");
            }
        }
        let stored = stored(wal);
        for id in 0..2 {
            let sequences: Vec<_> = stored.range((id, 0)..=(id, u64::MAX)).collect();
            for pair in sequences.windows(2) {
                let dense = pair[0].0.1 + 1 == pair[1].0.1 && pair[0].1 < pair[1].1;
                assert!(dense, "{context}: {pair:?}");
            }
        }
        for (key, lsn) in &self.answered {
            let there = stored.get(key) == Some(lsn);
            assert!(there || *lsn < wal.first_lsn(), "{context}: {key:?} {lsn}");
        }
    }
}

#[test]
fn every_crash_stores_each_sequence_once() {
    let mut states = 0;
    for device in [Device::Fua, Device::Flush] {
        let sim = SimOptions { device, trace_lines: 0, ..SimOptions::default() };
        let whole = SimDisk::with_options(8, sim.clone());
        Client::default().live(&whole).unwrap();
        for op in 1..=whole.ops() {
            for manner in MANNERS {
                let disk = SimDisk::with_options(8, sim.clone());
                disk.crash_at(op, manner);
                let mut client = Client::default();
                drop(client.live(&disk));
                for outcome in
                    [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)]
                {
                    let context = format!("{device:?} op {op} {manner:?} {outcome:?}");
                    let found = disk.power_cycle(outcome);
                    // An opening that does nothing must not change what the next one finds.
                    drop(simulated(&found).unwrap());
                    let wal = simulated(&found).unwrap();
                    client.finish(&wal, &context);
                    // Also when all of it lies behind what was repeated.
                    truncate(&wal).unwrap();
                    drop(wal);
                    client.finish(&simulated(&found).unwrap(), &context);
                    states += 1;
                }
            }
        }
    }
    assert!(states > 1000, "{states}");
}

/// The table takes several frames, of which a crash keeps any.
#[test]
fn a_repetition_of_the_table_that_is_torn_loses_nobody() {
    const PRODUCERS: u64 = 30;
    const SENT: u64 = 1030;
    let prepared = SimDisk::with_options(9, SimOptions { trace_lines: 0, ..SimOptions::default() });
    let wal = simulated(&prepared).unwrap();
    let mut lsns = BTreeMap::new();
    for id in 0..PRODUCERS {
        for from in (0..SENT).step_by(103) {
            let entry = |sequence| Entry::new(b"").producer(stamp(id, 0, sequence));
            let batch: Vec<_> = (from..from + 103).map(entry).collect();
            lsns.insert((id, from), wal.append_records(&batch).unwrap());
        }
    }
    let cut = wal.append(&[0; 30_000]).unwrap();
    drop(wal);
    let truncated = |disk: &SimDisk| simulated(disk)?.truncate_before(cut);
    let whole = prepared.kill();
    assert!(truncated(&whole).unwrap() > Lsn::new(20_000));
    for op in 1..=whole.ops() {
        let disk = prepared.kill();
        disk.crash_at(op, MANNERS[usize::try_from(op % 3).unwrap()]);
        drop(truncated(&disk));
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::Seeded(op)] {
            let wal = simulated(&disk.power_cycle(outcome)).unwrap();
            assert_eq!(wal.producers().len() as u64, PRODUCERS, "{op} {outcome:?}");
            for state in wal.producers() {
                let id = state.id.get();
                assert_eq!(state.next_sequence, SENT);
                let range = lsns[&(id, SENT - 103)];
                assert_eq!(state.last_lsn, Some(range.last()));
                assert_eq!(send(&wal, stamp(id, 0, SENT - 103)).unwrap(), range.first());
                let second = lsns[&(id, 0)].first().advance(6);
                assert_eq!(send(&wal, stamp(id, 0, 6)).unwrap(), second);
                let oldest = send(&wal, stamp(id, 0, 5)).unwrap_err();
                assert_eq!(oldest.kind(), ErrorKind::Duplicate);
            }
        }
    }
}
