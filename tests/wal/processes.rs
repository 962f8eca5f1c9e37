//! A log beside other processes of every kind: one that deletes `LOCK` under a live writer, and
//! one that stalls in a record of the oldest segment while the writer truncates and recycles.
//!
//! `SAWMILL_STALL_MS` sets how long the reader stalls (300 by default, 10,000 before a release).

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sawmill::{Background, ErrorKind, Lsn, Wal, WalOptions};

/// Names the log's directory for a child.
const LOG: &str = "SAWMILL_TEST_LOG";
const THREADS: u64 = 4;
/// Appends of a writer whose lock is gone, after which it counts as never having noticed.
const UNNOTICED: u64 = 400;

fn options() -> WalOptions {
    WalOptions { segment_size: 64 << 10, ..WalOptions::default() }
}

/// A record of one block, from its LSN or its name.
fn payload(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(375)
}

fn spawn(child: &str, log: &Path, bug: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", child, "--nocapture"]).env(LOG, log);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    if let Some(bug) = bug {
        command.env("SAWMILL_PLANTED", bug);
    }
    command.spawn().unwrap()
}

fn say(text: &str) {
    std::io::stdout().lock().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Not a test by itself: a writer that appends until it is told why not.
#[test]
fn child_that_writes() {
    let Ok(log) = std::env::var(LOG) else { return };
    let wal = Wal::open(log, options()).unwrap();
    say("\nopen");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let wal = &wal;
            scope.spawn(move || {
                for number in 0..UNNOTICED {
                    let name = thread * UNNOTICED + number;
                    match wal.append(&payload(name)) {
                        Ok(lsn) => say(&format!("ack\t{lsn}\t{name}")),
                        Err(error) => return say(&format!("told\t{:?}\t{error}", error.kind())),
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                say("unnoticed");
            });
        }
    });
}

/// What a writer said whose lock was deleted: (LSN, name) of what was acknowledged, and the rest.
fn lock_deleted(log: &Path, bug: Option<&str>) -> (Vec<(u64, u64)>, Vec<String>) {
    let mut child = spawn("processes::child_that_writes", log, bug);
    let (mut acknowledged, mut rest) = (Vec::new(), Vec::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let fields: Vec<_> = line.split('\t').collect();
        if let ["ack", lsn, name] = fields[..] {
            acknowledged.push((lsn.parse().unwrap(), name.parse().unwrap()));
            if acknowledged.len() == 10 {
                std::fs::remove_file(log.join("LOCK")).unwrap();
            }
        } else if line.starts_with("told") || line == "unnoticed" {
            rest.push(line);
        }
    }
    assert!(child.wait().unwrap().success());
    (acknowledged, rest)
}

#[test]
fn a_writer_whose_lock_is_deleted_poisons_itself_and_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (acknowledged, rest) = lock_deleted(place.path(), None);
    assert_eq!(rest.len() as u64, THREADS);
    for line in &rest {
        assert!(line.starts_with("told\tPoisoned") && line.contains("LOCK"), "{line}");
    }
    let wal = Wal::open(place.path(), options()).unwrap();
    for (lsn, name) in &acknowledged {
        let record = wal.get(Lsn::new(*lsn)).unwrap().unwrap();
        assert!(record.payload == payload(*name), "LSN {lsn}");
    }
    println!("{} acknowledged", acknowledged.len());
}

#[test]
#[cfg(feature = "planted")]
fn planted_lock_not_checked_is_seen() {
    let place = tempfile::tempdir().unwrap();
    let (_, rest) = lock_deleted(place.path(), Some("lock-not-checked"));
    assert!(rest.iter().any(|line| line == "unnoticed"), "{rest:?}");
}

/// While the writer lives, nobody else opens the log: it holds the locks of its segments.
#[test]
fn beside_a_writer_whose_lock_is_deleted_the_log_stays_locked() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    wal.append(b"mine").unwrap();
    std::fs::remove_file(place.path().join("LOCK")).unwrap();
    let impatient = WalOptions { lock_wait: Duration::ZERO, ..options() };
    assert_eq!(Wal::open(place.path(), impatient.clone()).unwrap_err().kind(), ErrorKind::Locked);
    wal.append(b"still mine").unwrap();
    drop(wal);
    let wal = Wal::open(place.path(), impatient).unwrap();
    assert_eq!(wal.durable_lsn(), Lsn::new(2));
}

/// Not a test by itself: a reader that stops in the first record, until it is told to go on.
#[test]
fn child_that_stalls() {
    let Ok(log) = std::env::var(LOG) else { return };
    let reader = Wal::open_read_only(log).unwrap();
    let mut replay = reader.replay().unwrap();
    let record = replay.next().unwrap().unwrap();
    assert_eq!(record.lsn, Lsn::FIRST);
    say("\nholds");
    std::io::stdin().lock().read_exact(&mut [0]).unwrap();
    say(if record.payload == payload(1) { "same" } else { "changed" });
    let mut next = Lsn::new(2);
    loop {
        match replay.next() {
            Some(Ok(record)) => {
                assert_eq!(record.lsn, next);
                assert!(record.payload == payload(next.get()), "record {next} changed");
                next = next.next();
            }
            Some(Err(error)) => return say(&format!("told\t{:?}\t{next}\t{error}", error.kind())),
            None => return say(&format!("end\t{next}")),
        }
    }
}

fn stall() -> Duration {
    let text = std::env::var("SAWMILL_STALL_MS").unwrap_or_else(|_| "300".to_owned());
    Duration::from_millis(text.parse().unwrap())
}

/// What the reader says at the end, and how many segments were used again meanwhile.
fn stalled(log: &Path, stall: Duration) -> (Vec<String>, u64) {
    // Without threads, so that a bug that is planted in this one is planted in all.
    let options = WalOptions { background: Background::Inline, ..options() };
    let wal = Wal::open(log, options).unwrap();
    let append = |count: u64| {
        for _ in 0..count {
            let number = wal.appended_lsn().get() + 1;
            assert_eq!(wal.append(&payload(number)).unwrap().get(), number);
        }
    };
    append(100);
    let mut reader = spawn("processes::child_that_stalls", log, None);
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holds"));
    let (began, before) = (Instant::now(), wal.stats().segments_recycled);
    while began.elapsed() < stall || wal.stats().segments_recycled < before + 5 {
        append(60);
        wal.truncate_before(wal.durable_lsn()).unwrap();
    }
    let recycled = wal.stats().segments_recycled - before;
    reader.stdin.take().unwrap().write_all(b"g").unwrap();
    let said = lines.map(|line| line.unwrap()).filter(|line| !line.starts_with("test")).collect();
    reader.wait().unwrap();
    (said, recycled)
}

#[test]
fn a_reader_that_stalls_in_the_oldest_segment_reads_on_unharmed() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (said, recycled) = stalled(place.path(), stall());
    println!("{recycled} segments were used again; the reader: {said:?}");
    assert_eq!(said[0], "same");
    // What it had open it read to its end; what it had not is gone, and it is told so.
    assert!(said[1].starts_with("told\tInvalid\t"), "{said:?}");
    let next: u64 = said[1].split('\t').nth(2).unwrap().parse().unwrap();
    assert!(next > 10, "{said:?}");
}

#[test]
#[cfg(feature = "planted")]
fn planted_recycle_shared_is_seen_by_a_stalled_reader() {
    use sawmill::planted::{Bug, with_planted};
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (said, _) =
        with_planted(Bug::RecycleShared, || stalled(place.path(), Duration::from_millis(300)));
    assert!(said.first().is_none_or(|line| line == "changed") || said.len() < 2, "{said:?}");
}
