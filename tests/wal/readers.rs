//! Readers in other processes, beside the log's writer and after it (LOG.md L19): they show what is
//! durable and nothing above it, and write nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use sawmill::{
    AppendOptions, Durability, Entry, ErrorKind, Lsn, StreamId, Wal, WalOptions, WalReader,
    WriterState,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sawmill");

fn options() -> WalOptions {
    WalOptions { segment_size: 64 << 10, ..WalOptions::default() }
}

fn cat(directory: &Path, more: &[&str], bug: Option<&str>) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["wal", "cat"]).args(more).arg(directory);
    if let Some(bug) = bug {
        command.env("SAWMILL_PLANTED", bug);
    }
    command.output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

/// Every file with its bytes: what a reader may not change. Not the lock's, which a writer names
/// itself in.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| {
            let modified = entry.metadata().unwrap().modified().unwrap();
            (entry.path(), fs::read(entry.path()).unwrap_or_default(), modified)
        })
        .collect();
    files.sort();
    files
}

fn shown(reader: &WalReader) -> Vec<(u64, Vec<u8>)> {
    let mut replay = reader.replay().unwrap();
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        records.push((record.lsn.get(), record.payload.to_vec()));
    }
    records
}

fn writer(directory: &Path) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["wal", "append", "--print-acks", "--segment-size", "65536"]).arg(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// A log of 30 durable records, and one more that is in the file, and not durable.
fn one_above_the_durable_lsn(place: &Path) -> Wal {
    let wal = Wal::open(place, options()).unwrap();
    for number in 1..=30 {
        wal.append(format!("durable {number:>4000}").as_bytes()).unwrap();
    }
    let buffered = AppendOptions { durability: Durability::Buffered, ..AppendOptions::default() };
    wal.append_with(b"buffered", buffered).unwrap();
    assert_eq!((wal.durable_lsn(), wal.written_lsn()), (Lsn::new(30), Lsn::new(31)));
    wal
}

#[test]
#[cfg(feature = "planted")]
fn planted_read_above_durable_is_seen_in_another_process() {
    let place = tempfile::tempdir().unwrap();
    let _wal = one_above_the_durable_lsn(place.path());
    let found = lines(&cat(place.path(), &[], Some("read-above-durable")));
    assert_eq!(found.last().map(String::as_str), Some("31\tbuffered"), "the bug is not seen");
}

#[test]
fn another_process_shows_what_is_durable_and_nothing_above() {
    let place = tempfile::tempdir().unwrap();
    let wal = one_above_the_durable_lsn(place.path());
    let found = lines(&cat(place.path(), &[], None));
    assert_eq!((found.len(), found[29].starts_with("30\tdurable")), (30, true));
    wal.sync().unwrap();
    assert_eq!(lines(&cat(place.path(), &[], None)).len(), 31);
    let part = lines(&cat(place.path(), &["--from", "5", "--to", "7", "--json"], None));
    assert_eq!(part.len(), 3);
    assert!(
        part[0].starts_with("{\"internal\":false,\"lsn\":5,\"payload\":\"durable"),
        "{}",
        part[0]
    );
}

#[test]
fn one_stream_is_shown_by_its_name_or_number() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    wal.append_to(StreamId::new(7), b"numbered").unwrap();
    let orders = wal.stream("orders").unwrap();
    wal.append_record(&Entry::new(b"named").key(b"k").stream(&orders)).unwrap();
    wal.append(b"neither").unwrap();
    for (stream, text) in [("7", "numbered"), ("orders", "named")] {
        let found = lines(&cat(place.path(), &["--stream", stream], None));
        assert_eq!(found.len(), 1, "{stream}: {found:?}");
        assert!(found[0].ends_with(text), "{stream}: {found:?}");
    }
    let found = lines(&cat(place.path(), &["--stream", "orders", "--json"], None));
    assert!(found[0].contains("\"key\":\"k\""), "{found:?}");
    let found = lines(&cat(place.path(), &["--stream", "orders", "--fields"], None));
    assert!(found[0].contains("\tstream=32768 key=k\tnamed"), "{found:?}");
    assert_eq!(cat(place.path(), &["--stream", "no such"], None).status.code(), Some(2));
}

#[test]
fn a_reader_in_the_same_process_follows_the_writer_over_segments() {
    let place = tempfile::tempdir().unwrap();
    assert_eq!(Wal::open_read_only(place.path()).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "looking makes nothing");
    let wal = Wal::open(place.path(), options()).unwrap();
    let reader = Wal::open_read_only(place.path()).unwrap();
    let mut tail = reader.tail(Lsn::FIRST);
    assert_eq!((reader.stats().writer, reader.last_lsn()), (WriterState::Live, Lsn::ZERO));
    for number in 1..=100_u64 {
        let payload = vec![u8::try_from(number).unwrap(); 5000];
        wal.append(&payload).unwrap();
        let record = tail.try_next().unwrap().unwrap();
        assert_eq!((record.lsn.get(), record.payload), (number, &payload[..]));
        assert!(tail.try_next().is_none());
    }
    assert!(reader.stats().segments > 5 && reader.stats().looks == 1, "{:?}", reader.stats());
    assert_eq!(reader.get(Lsn::new(50)).unwrap().unwrap().payload, vec![50; 5000]);
    assert_eq!(reader.get(Lsn::new(101)).unwrap(), None);
    wal.close().unwrap();
    assert!(tail.try_next().is_none());
    assert_eq!(reader.refresh().unwrap(), Lsn::new(100));
    assert_eq!(reader.stats().writer, WriterState::None);
    let wal = Wal::open(place.path(), options()).unwrap();
    wal.append(b"a second life").unwrap();
    assert_eq!(tail.try_next().unwrap().unwrap().payload, b"a second life");
    assert_eq!(reader.stats().writer, WriterState::Live);
}

#[test]
fn a_following_process_prints_each_record_and_survives_the_writer() {
    let place = tempfile::tempdir().unwrap();
    let mut first = writer(place.path());
    let mut acks = BufReader::new(first.stdout.take().unwrap());
    let mut feed = first.stdin.take().unwrap();
    let mut acknowledged = |feed: &mut std::process::ChildStdin, text: &str| {
        writeln!(feed, "{text}").unwrap();
        let mut line = String::new();
        acks.read_line(&mut line).unwrap();
        line
    };
    let one = acknowledged(&mut feed, "one");
    let mut command = Command::new(PROGRAM);
    command.args(["wal", "cat", "--follow", "--to", "42"]).arg(place.path());
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, one);
    for number in 2..=40 {
        let said = acknowledged(&mut feed, &format!("{number:>3000}"));
        line.clear();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, said);
    }
    first.kill().unwrap();
    first.wait().unwrap();
    // The next writer has no other place in the order.
    let wal = Wal::open(place.path(), options()).unwrap();
    assert_eq!(wal.append(b"after the kill").unwrap(), Lsn::new(41));
    wal.append(b"the end").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "41\tafter the kill\n42\tthe end\n");
    assert!(follower.wait().unwrap().success());
}

#[test]
fn after_a_kill_a_reader_shows_what_the_next_opening_keeps_and_writes_nothing() {
    let place = tempfile::tempdir().unwrap();
    for round in 0..4_u64 {
        let mut child = writer(place.path());
        let mut feed = child.stdin.take().unwrap();
        let feeder = thread::spawn(move || {
            for number in 0.. {
                if writeln!(feed, "{round} {number:>500}").is_err() {
                    break;
                }
            }
        });
        let acks = BufReader::new(child.stdout.take().unwrap());
        let mut printed: Vec<String> = Vec::new();
        for line in acks.lines() {
            printed.push(line.unwrap());
            if printed.len() == 200 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        feeder.join().unwrap();
        let before = contents(place.path());
        let found = lines(&cat(place.path(), &[], None));
        assert!(printed.iter().all(|line| found.contains(line)), "an acknowledged record is gone");
        let reader = Wal::open_read_only(place.path()).unwrap();
        let records = shown(&reader);
        assert_eq!(records.len(), found.len());
        assert!(contents(place.path()) == before, "a reader wrote something");
        let wal = Wal::open(place.path(), options()).unwrap();
        assert_eq!(wal.durable_lsn(), reader.last_lsn(), "the next opening keeps something else");
        let mut replay = wal.replay().unwrap();
        let mut kept = 0;
        while let Some(record) = replay.next() {
            let record = record.unwrap();
            assert_eq!(record.payload, records[kept].1);
            kept += 1;
        }
        assert_eq!(kept, records.len());
        drop((replay, wal));
    }
}

#[test]
fn what_is_truncated_under_a_reader_is_an_error_that_names_it() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    for number in 0..100_u8 {
        wal.append(&[number; 5000]).unwrap();
    }
    let reader = Wal::open_read_only(place.path()).unwrap();
    let mut tail = reader.tail(Lsn::FIRST);
    assert_eq!(tail.try_next().unwrap().unwrap().lsn, Lsn::FIRST);
    // Read further than what is looked at ahead, and then be overtaken.
    let start = wal.truncate_before(Lsn::new(60)).unwrap();
    for number in 100..160_u8 {
        wal.append(&[number; 5000]).unwrap();
    }
    let error = loop {
        match tail.try_next().expect("more, or an error") {
            Ok(record) => {
                assert_eq!(record.payload[0], u8::try_from(record.lsn.get() - 1).unwrap())
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let (first, last) = error.lsns().unwrap();
    assert!(first < start && last.next() == start, "{error}");
    let mut tail = reader.tail(Lsn::FIRST);
    assert_eq!(tail.try_next().unwrap().unwrap().lsn, start, "a new one begins at the start");
    assert_eq!(reader.first_lsn(), start);
    let mut count = 1;
    while let Some(record) = tail.try_next() {
        record.unwrap();
        count += 1;
    }
    assert_eq!(count, 160 - start.get() + 1);
}

#[test]
fn a_reader_whose_segments_are_all_truncated_looks_again() {
    for opened in [1_u64, 40] {
        let place = tempfile::tempdir().unwrap();
        let wal = Wal::open(place.path(), options()).unwrap();
        for number in 0..opened {
            wal.append(&[u8::try_from(number).unwrap(); 5000]).unwrap();
        }
        let reader = Wal::open_read_only(place.path()).unwrap();
        for number in opened..200 {
            wal.append(&[u8::try_from(number).unwrap(); 5000]).unwrap();
        }
        let start = wal.truncate_before(Lsn::new(180)).unwrap();
        assert!(start.get() > 100, "{start}");
        assert_eq!(reader.refresh().unwrap(), Lsn::new(200));
        let lsns = |records: Vec<(u64, Vec<u8>)>| {
            records.into_iter().map(|(lsn, _)| lsn).collect::<Vec<_>>()
        };
        assert_eq!(lsns(shown(&reader)), (start.get()..=200).collect::<Vec<_>>());
        assert_eq!(reader.get(Lsn::new(200)).unwrap().unwrap().payload, [199; 5000]);
        // And once more, without a look in between but that of a replay.
        for number in 200..250 {
            wal.append(&[number; 5000]).unwrap();
        }
        let start = wal.truncate_before(Lsn::new(245)).unwrap();
        assert_eq!(lsns(shown(&reader)), (start.get()..=250).collect::<Vec<_>>());
        assert_eq!(reader.first_lsn(), start);
        // Truncated after the last refresh, with nothing appended.
        let start = wal.truncate_before(Lsn::new(250)).unwrap();
        assert_eq!(lsns(shown(&reader)), (start.get()..=250).collect::<Vec<_>>());
    }
}

#[test]
fn a_tail_with_an_end_ends_there() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    wal.append(b"one").unwrap();
    let reader = Wal::open_read_only(place.path()).unwrap();
    let mut tail = reader.tail(Lsn::FIRST).through(reader.last_lsn());
    wal.append(b"two").unwrap();
    assert_eq!(tail.try_next().unwrap().unwrap().payload, b"one");
    wal.append(b"three").unwrap();
    assert!(tail.try_next().is_none());
    assert_eq!((tail.next_lsn(), reader.last_lsn()), (Lsn::new(2), Lsn::new(3)));
}

#[test]
fn a_segment_that_a_reader_has_open_is_not_used_again() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    for number in 0..40_u8 {
        wal.append(&[number; 5000]).unwrap();
    }
    let reader = Wal::open_read_only(place.path()).unwrap();
    let mut replay = reader.replay().unwrap();
    let record = replay.next().unwrap().unwrap();
    let bytes = record.payload.as_ptr();
    assert_eq!((record.lsn, record.payload), (Lsn::FIRST, &[0; 5000][..]));
    wal.truncate_before(Lsn::new(40)).unwrap();
    for number in 40..120_u8 {
        wal.append(&[number; 5000]).unwrap();
    }
    // Its bytes are still those of the records it has come to.
    let record = replay.next().unwrap().unwrap();
    assert_eq!((record.lsn.get(), record.payload), (2, &[1; 5000][..]));
    assert!(!bytes.is_null());
}

#[test]
fn damage_is_a_readers_error_too() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    for number in 0..10_u8 {
        wal.append(&[number; 100]).unwrap();
    }
    wal.close().unwrap();
    let path = place.path().join(format!("{:020}.seg", 1));
    let mut bytes = fs::read(&path).unwrap();
    bytes[5 * 4096 + 200] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = Wal::open_read_only(place.path()).unwrap_err();
    assert_eq!((error.kind(), error.lsns().unwrap().0), (ErrorKind::Corrupt, Lsn::new(4)));
    let output = cat(place.path(), &[], None);
    assert_eq!(output.status.code(), Some(2));
}
