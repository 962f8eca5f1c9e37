//! What a few threads do with one log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use sawmill::sim::{CrashManner, CrashOutcome, FaultKind};
use sawmill::{Entry, ErrorKind, Lsn, Pending, ProducerId, ProducerStamp, Result, Wal};
use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle, yield_now};

use super::model::{Answers, Model, see, verify};

const LIMIT: Duration = Duration::from_millis(1);
/// After which an idle log attests.
const IDLE: Duration = Duration::from_millis(50);

fn collect(threads: impl IntoIterator<Item = JoinHandle<Answers>>) -> Answers {
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

fn append(wal: &Wal, payload: &[u8]) -> (Vec<u8>, Result<Lsn>) {
    let answer = wal.append(payload);
    if let Ok(lsn) = &answer {
        assert!(wal.durable_lsn() >= *lsn, "acknowledged below the durable LSN");
    }
    (payload.to_vec(), answer)
}

fn append_timeout(wal: &Wal, payload: &[u8]) -> (Vec<u8>, Result<Lsn>) {
    (payload.to_vec(), wal.append_timeout(payload, LIMIT))
}

/// A payload of which two fill a segment.
fn large(name: u8, number: u8) -> Vec<u8> {
    let mut payload = vec![name; 30_000];
    payload[0] = number;
    payload
}

/// An answer for each payload, from waiting for what was submitted.
fn settle(
    wal: &Wal,
    payload: &[u8],
    wait: impl Fn(Pending) -> Result<Lsn>,
) -> (Vec<u8>, Result<Lsn>) {
    (payload.to_vec(), wal.submit(payload).and_then(wait))
}

pub(crate) fn appends_share_frames() {
    let model = Model::new();
    let threads = [*b"a", *b"b", *b"c"]
        .map(|name| model.spawn(move |wal| vec![append(&wal, &name), append(&wal, &[name[0]; 2])]));
    let answers = collect(threads);
    let mut lsns: Vec<_> = answers.iter().map(|(_, lsn)| lsn.clone().unwrap().get()).collect();
    lsns.sort_unstable();
    assert_eq!(lsns, [1, 2, 3, 4, 5, 6], "dense");
    model.verify(&answers);
}

/// Leaders beside one another, whose frames land in any order.
pub(crate) fn appends_overlap() {
    let model = Model::of_depth(Some(4));
    // A slot is made after an append: so that the threads find more than one.
    let mut answers = vec![append(&model.wal, b"1"), append(&model.wal, b"2")];
    let threads = [*b"a", *b"b", *b"c"]
        .map(|name| model.spawn(move |wal| vec![append(&wal, &name), append(&wal, &[name[0]; 2])]));
    answers.extend(collect(threads));
    model.verify(&answers);
}

/// The same, when the power goes: one that landed behind another that did not is not acknowledged.
pub(crate) fn the_power_goes_among_others() {
    let model = Model::of_depth(Some(4));
    let mut answers = vec![append(&model.wal, b"1"), append(&model.wal, b"2")];
    model.disk.crash_at(model.disk.ops() + 4, CrashManner::Before);
    let threads = [*b"a", *b"b", *b"c"]
        .map(|name| model.spawn(move |wal| vec![append(&wal, &name), append(&wal, &[name[0]; 2])]));
    answers.extend(collect(threads));
    model.verify(&answers);
}

/// The same beside futures and submissions, when a write fails.
pub(crate) fn a_failed_write_among_others() {
    let model = Model::of_depth(Some(4));
    let mut answers = vec![append(&model.wal, b"1"), append(&model.wal, b"2")];
    model.disk.fail_op(model.disk.ops() + 4, 5, FaultKind::NotExecuted);
    let threads = [
        model.spawn(|wal| vec![append(&wal, b"a"), append(&wal, b"b")]),
        model.spawn(|wal| vec![append(&wal, b"c")]),
        model.spawn(|wal| vec![settle(&wal, b"f", block_on)]),
        model.spawn(|wal| vec![settle(&wal, &large(b'p', 0), |it| it.wait())]),
    ];
    answers.extend(collect(threads));
    model.verify(&answers);
}

pub(crate) fn a_lone_append_beside_submissions() {
    let model = Model::new();
    let lone = model.spawn(|wal| vec![append(&wal, b"alone")]);
    let other = model.spawn(|wal| {
        for number in 0..3 {
            wal.submit(&[number; 5]).unwrap();
        }
        let durable = wal.sync().unwrap();
        assert!(durable >= Lsn::new(3));
        Vec::new()
    });
    model.verify(&collect([lone, other]));
}

pub(crate) fn submissions_are_waited_for_and_synced() {
    let model = Model::new();
    let waits = model.spawn(|wal| {
        let pending = [wal.submit(b"1").unwrap(), wal.submit(b"2").unwrap()];
        let answers = pending.iter().rev().map(Pending::wait);
        [b"2", b"1"]
            .into_iter()
            .zip(answers)
            .map(|(payload, lsn)| (payload.to_vec(), lsn))
            .collect()
    });
    let syncs = model.spawn(|wal| {
        let lsn = wal.submit(b"3").unwrap().lsn();
        assert!(wal.sync().unwrap() >= lsn);
        vec![(b"3".to_vec(), Ok(lsn))]
    });
    let buffered = model.spawn(|wal| {
        let pending = wal.submit(b"4").unwrap();
        vec![(b"4".to_vec(), wal.wait_durable(pending.lsn()).map(|_| pending.lsn()))]
    });
    model.verify(&collect([waits, syncs, buffered]));
}

pub(crate) fn futures_are_served_by_the_committer() {
    let model = Model::new();
    let future = |name: u8| model.spawn(move |wal| vec![settle(&wal, &[name], block_on)]);
    let futures = [future(b'f'), future(b'g')];
    let blocking = model.spawn(|wal| vec![append(&wal, b"b"), append(&wal, b"c")]);
    model.verify(&collect(futures.into_iter().chain([blocking])));
}

pub(crate) fn an_abandoned_future_leaves_its_record() {
    let model = Model::new();
    let abandoned = model.spawn(|wal| {
        let mut pending = wal.submit(b"left").unwrap();
        let lsn = pending.lsn();
        let first = Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop()));
        drop((first, pending));
        // Its record goes its way, and what is appended behind it vouches for that.
        let behind = append(&wal, b"behind");
        assert!(*behind.1.as_ref().unwrap() > lsn);
        vec![(b"left".to_vec(), Ok(lsn)), behind]
    });
    let other = model.spawn(|wal| vec![settle(&wal, b"kept", block_on)]);
    model.verify(&collect([abandoned, other]));
}

pub(crate) fn a_time_limit_passes_at_any_moment() {
    let model = Model::new();
    let leader = model.spawn(|wal| vec![append(&wal, b"leads")]);
    let limited = model.spawn(|wal| vec![append_timeout(&wal, b"limited")]);
    let time = model.time_passes(LIMIT);
    let answers = collect([leader, limited]);
    time.join().unwrap();
    // A record that came too late is nowhere, also when what it shared its frame with is there.
    model.verify(&answers);
}

pub(crate) fn two_time_limits_beside_leaders() {
    let model = Model::new();
    let limited = |name: u8| model.spawn(move |wal| vec![append_timeout(&wal, &[name])]);
    let limited = [limited(b'x'), limited(b'y')];
    let leaders = model.spawn(|wal| vec![append(&wal, b"1"), append(&wal, b"2")]);
    let time = model.time_passes(LIMIT);
    let answers = collect(limited.into_iter().chain([leaders]));
    time.join().unwrap();
    model.verify(&answers);
}

pub(crate) fn a_reservation_is_dropped() {
    let model = Model::new();
    let dropped = model.spawn(|wal| {
        wal.submit(b"opens a frame").unwrap();
        // Unless its frame was taken out already.
        if wal.give_up_reservation(3) {
            see("given up");
        }
        vec![append(&wal, b"after")]
    });
    let other = model.spawn(|wal| vec![append(&wal, b"o"), settle(&wal, b"p", |it| it.wait())]);
    model.verify(&collect([dropped, other]));
}

pub(crate) fn a_failed_write_reaches_everybody() {
    let model = Model::new();
    model.disk.fail_op(model.disk.ops() + 3, 5, FaultKind::NotExecuted);
    let threads = [
        model.spawn(|wal| vec![append(&wal, b"a"), append(&wal, b"b")]),
        model.spawn(|wal| vec![settle(&wal, b"f", block_on)]),
        model.spawn(|wal| vec![append_timeout(&wal, b"t")]),
        model.spawn(|wal| vec![settle(&wal, b"p", |it| it.wait())]),
    ];
    let answers = collect(threads);
    let refused = |(_, answer): &&(Vec<u8>, Result<Lsn>)| answer.is_err();
    if answers.iter().any(|answer| refused(&answer)) {
        let error = model.wal.append(b"afterwards").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "the log went on");
    }
    model.verify(&answers);
}

pub(crate) fn closing_races_with_appends() {
    let model = Model::new();
    let threads = [
        model.spawn(|wal| vec![append(&wal, b"a"), append(&wal, b"b")]),
        model.spawn(|wal| vec![settle(&wal, b"p", |it| it.wait())]),
        model.spawn(|wal| vec![settle(&wal, b"f", block_on)]),
    ];
    let closer = model.spawn(|wal| {
        wal.close().unwrap();
        Vec::new()
    });
    model.wal.clone().close().unwrap();
    let answers = collect(threads.into_iter().chain([closer]));
    for (_, answer) in &answers {
        let refused = answer.as_ref().err().map(sawmill::Error::kind);
        assert!(matches!(refused, None | Some(ErrorKind::Closed)), "{answer:?}");
    }
    let disk = model.disk.clone();
    drop(model);
    verify(&disk, &answers);
}

pub(crate) fn the_last_handle_goes_with_submissions() {
    let model = Model::new();
    let disk = model.disk.clone();
    let threads = [
        model.spawn(|wal| vec![(b"1".to_vec(), wal.submit(b"1").map(|pending| pending.lsn()))]),
        model.spawn(|wal| vec![(b"2".to_vec(), wal.submit(b"2").map(|pending| pending.lsn()))]),
    ];
    drop(model);
    // Whoever is last writes what all of them have submitted.
    let answers = collect(threads);
    verify(&disk.power_cycle(CrashOutcome::LoseAll), &answers);
}

pub(crate) fn rotation_and_preparation() {
    let model = Model::new();
    let writer = |name: u8| {
        model.spawn(move |wal| (0..3).map(|number| append(&wal, &large(name, number))).collect())
    };
    let answers = collect([writer(b'a'), writer(b'b')]);
    assert_eq!(model.wal.durable_lsn(), Lsn::new(6), "dense over segments");
    model.verify(&answers);
}

pub(crate) fn tries_are_refused_and_ready_tells() {
    let model = Model::new();
    let tries = |name: u8| {
        model.spawn(move |wal| {
            let mut answers = Vec::new();
            for number in 0..4 {
                let payload = large(name, number);
                let pending = loop {
                    match wal.try_submit(&payload) {
                        Ok(pending) => break pending,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    }
                    see("no room");
                    block_on(wal.ready()).unwrap();
                };
                answers.push((payload, Ok(pending.lsn())));
            }
            wal.sync().unwrap();
            answers
        })
    };
    let threads = [tries(b'a'), tries(b'b')];
    model.verify(&collect(threads));
}

pub(crate) fn a_tail_waits_for_more() {
    let model = Model::new();
    let mut tail = model.wal.tail(Lsn::FIRST).unwrap();
    let reader = thread::spawn(move || {
        (0..3).map(|_| tail.next().unwrap().unwrap().lsn.get()).collect::<Vec<_>>()
    });
    let writer = model.spawn(|wal| vec![append(&wal, b"1"), settle(&wal, b"2", |it| it.wait())]);
    let other = model.spawn(|wal| vec![append(&wal, b"3")]);
    let answers = collect([writer, other]);
    assert_eq!(reader.join().unwrap(), [1, 2, 3]);
    model.verify(&answers);
}

/// More threads than writes in flight, each with records that do not wait for one another.
fn crowd(model: &Model) -> Vec<JoinHandle<Answers>> {
    let writer = |name: u8| {
        model.spawn(move |wal| (0..2).map(|number| append(&wal, &[name, number])).collect())
    };
    vec![writer(b'a'), writer(b'b'), writer(b'c'), writer(b'd')]
}

/// Groups large enough for rows, with callers among them whose time may be up, and one that closes
/// the log at last, or a write that fails.
fn rows(depth: Option<usize>, fails: bool) {
    let model = Model::of_depth(depth);
    if fails {
        model.disk.fail_op(model.disk.ops() + 6, 5, FaultKind::NotExecuted);
    }
    let mut threads = crowd(&model);
    threads.push(model.spawn(|wal| vec![append_timeout(&wal, b"x"), append_timeout(&wal, b"y")]));
    threads.push(model.spawn(|wal| vec![settle(&wal, b"f", block_on), append(&wal, b"g")]));
    let time = model.time_passes(LIMIT);
    let answers = collect(threads);
    time.join().unwrap();
    if model.wal.clone().close().is_ok() {
        see("closed");
    }
    model.verify(&answers);
}

pub(crate) fn groups_are_woken_in_rows() {
    rows(None, false);
}

pub(crate) fn rows_beside_several_writes() {
    rows(Some(3), false);
}

pub(crate) fn rows_when_a_write_fails() {
    rows(Some(2), true);
}

pub(crate) fn several_writes_are_in_flight() {
    let model = Model::of_depth(Some(3));
    let answers = collect(crowd(&model));
    let mut lsns: Vec<_> = answers.iter().map(|(_, lsn)| lsn.clone().unwrap().get()).collect();
    lsns.sort_unstable();
    assert_eq!(lsns, (1..=8).collect::<Vec<_>>(), "dense");
    model.verify(&answers);
}

pub(crate) fn several_writes_beside_plain_ones() {
    let model = Model::of_depth(Some(2));
    let plain = model.spawn(|wal| {
        let pending = [1, 2].map(|number| wal.submit(&large(b's', number)).unwrap());
        let answers = pending.iter().zip([1, 2]);
        answers.map(|(pending, number)| (large(b's', number), pending.wait())).collect()
    });
    let synced = model.spawn(|wal| {
        let lsn = wal.submit(b"synced").unwrap().lsn();
        assert!(wal.sync().unwrap() >= lsn);
        vec![(b"synced".to_vec(), Ok(lsn))]
    });
    let limited = model.spawn(|wal| vec![append_timeout(&wal, b"limited")]);
    let time = model.time_passes(LIMIT);
    let mut threads = crowd(&model);
    threads.truncate(2);
    threads.extend([plain, synced, limited]);
    let answers = collect(threads);
    time.join().unwrap();
    model.verify(&answers);
}

/// Moves time on until as many threads are through, which have to say so.
fn until_through(model: &Model, through: &AtomicUsize, threads: usize) {
    while through.load(Ordering::SeqCst) < threads {
        model.clock.advance(LIMIT);
        yield_now();
    }
}

/// One write for all who come back (GATHER-2): in the end somebody is waited for who does not come.
fn gathered(model: &Model, bodies: Vec<fn(&Wal) -> Answers>) -> Answers {
    let through = Arc::new(AtomicUsize::new(0));
    let count = bodies.len();
    let spawn = |body: fn(&Wal) -> Answers| {
        let through = Arc::clone(&through);
        model.spawn(move |wal| {
            let answers = body(&wal);
            through.fetch_add(1, Ordering::SeqCst);
            answers
        })
    };
    let threads: Vec<_> = bodies.into_iter().map(spawn).collect();
    until_through(model, &through, count);
    collect(threads)
}

pub(crate) fn those_who_come_back_share_a_frame() {
    let model = Model::of_depth(Some(0));
    let answers = gathered(
        &model,
        vec![
            |wal| (0..3).map(|number| append(wal, &[b'a', number])).collect(),
            |wal| (0..2).map(|number| append(wal, &[b'b', number])).collect(),
            |wal| vec![append(wal, b"c")],
        ],
    );
    let mut lsns: Vec<_> = answers.iter().map(|(_, lsn)| lsn.clone().unwrap().get()).collect();
    lsns.sort_unstable();
    assert_eq!(lsns, [1, 2, 3, 4, 5, 6], "dense");
    if model.wal.stats().frames < 5 {
        see("shared");
    }
    model.verify(&answers);
}

pub(crate) fn a_held_frame_beside_others() {
    let model = Model::of_depth(Some(0));
    let answers = gathered(
        &model,
        vec![
            |wal| vec![append(wal, b"a"), append(wal, b"b")],
            |wal| vec![append(wal, b"c"), settle(wal, b"f", block_on)],
            |wal| vec![append_timeout(wal, b"t"), settle(wal, b"p", |it| it.wait())],
            |wal| {
                let lsn = wal.submit(&large(b's', 0)).unwrap().lsn();
                assert!(wal.sync().unwrap() >= lsn);
                vec![(large(b's', 0), Ok(lsn))]
            },
        ],
    );
    model.verify(&answers);
}

pub(crate) fn a_held_frame_fails_or_is_closed() {
    let model = Model::of_depth(Some(0));
    model.disk.fail_op(model.disk.ops() + 5, 5, FaultKind::NotExecuted);
    let answers = gathered(
        &model,
        vec![
            |wal| vec![append(wal, b"a"), append(wal, b"b"), append(wal, b"c")],
            |wal| vec![append(wal, b"d"), append(wal, b"e")],
            |wal| {
                let answers = vec![append(wal, b"g")];
                wal.clone().close().ok();
                answers
            },
        ],
    );
    model.verify(&answers);
}

pub(crate) fn several_writes_and_one_fails() {
    let model = Model::of_depth(Some(3));
    model.disk.fail_op(model.disk.ops() + 7, 5, FaultKind::NotExecuted);
    let future = model.spawn(|wal| vec![settle(&wal, b"f", block_on)]);
    let mut threads = crowd(&model);
    threads.push(future);
    let answers = collect(threads);
    model.verify(&answers);
}

pub(crate) fn an_idle_log_attests_beside_appends() {
    let model = Model::of_depth(Some(2));
    let time = [model.time_passes(IDLE), model.time_passes(IDLE)];
    let threads = [
        model.spawn(|wal| vec![append(&wal, b"1"), append(&wal, b"2")]),
        model.spawn(|wal| vec![append(&wal, b"3"), settle(&wal, b"4", block_on)]),
    ];
    let answers = collect(threads);
    time.into_iter().for_each(|time| time.join().unwrap());
    if model.wal.stats().attestations > 0 {
        see("attested");
    }
    model.verify(&answers);
}

/// With nobody but the clock: the committer, which slept without a limit, has to know of the append
/// that it did not write.
pub(crate) fn an_idle_log_attests() {
    let model = Model::new();
    for number in 1..=2 {
        model.wal.append(b"acknowledged").unwrap();
        // It comes when the clock has moved once more after the committer has seen the append.
        let mut moved = 0;
        while model.wal.stats().attestations < number {
            model.clock.advance(IDLE);
            moved += 1;
            assert!(moved < 1000, "an idle log does not attest");
            yield_now();
        }
    }
}

pub(crate) fn an_idle_log_is_poisoned_or_closed() {
    let model = Model::new();
    model.disk.fail_op(model.disk.ops() + 5, 5, FaultKind::NotExecuted);
    let time = model.time_passes(IDLE);
    let writer = model.spawn(|wal| vec![append(&wal, b"1"), append(&wal, b"2")]);
    let closer = model.spawn(|wal| {
        let late = append(&wal, b"late");
        wal.close().ok();
        vec![late]
    });
    let answers = collect([writer, closer]);
    time.join().unwrap();
    model.verify(&answers);
}

pub(crate) fn what_is_sent_twice_is_stored_once() {
    let model = Model::new();
    let sender = || {
        model.spawn(|wal| {
            let send = |sequence: u64| {
                let stamp = ProducerStamp { id: ProducerId::new(7), epoch: 1, sequence };
                let payload = sequence.to_string().into_bytes();
                let answer = wal.append_record(&Entry::new(&payload).producer(stamp));
                (payload, answer)
            };
            vec![send(0), send(1)]
        })
    };
    let [one, two] = [sender(), sender()].map(|thread| thread.join().unwrap());
    let mut answers = one;
    for (payload, answer) in two {
        let (_, first) = answers.iter().find(|(known, _)| *known == payload).unwrap();
        // The second one may have come with a sequence ahead of the next, or have been first.
        assert_eq!(answer.unwrap(), *first.as_ref().unwrap(), "one LSN for both");
        see("again");
    }
    answers.sort_by_key(|(payload, _)| payload.clone());
    model.verify(&answers);
}

pub(crate) fn a_name_is_asked_for_twice() {
    let model = Model::new();
    let asker = |name: u8| {
        model.spawn(move |wal| {
            let stream = wal.stream("orders").unwrap();
            (stream.id(), vec![(vec![name], wal.append_to(stream.id(), &[name]))])
        })
    };
    let askers = [asker(b'a'), asker(b'b')];
    let writer = model.spawn(|wal| vec![append(&wal, b"w")]);
    let mut answers = writer.join().unwrap();
    let [one, two] = askers.map(|thread| thread.join().unwrap());
    assert_eq!(one.0, two.0, "one number for the name");
    answers.extend(one.1.into_iter().chain(two.1));
    model.verify(&answers);
}
