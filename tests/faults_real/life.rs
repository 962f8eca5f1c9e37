//! What the struck process does: a life of a log that makes every call, and says what it is told.
//!
//! On its output: `waits` once it can be struck, `ack LSN NAME` for each record that was
//! acknowledged, `cut LSN` before records below it are given up, `told KIND TEXT` for an error, and
//! `revived NAME` for a record that was acknowledged after the log had said that it is poisoned,
//! which the judge wants none of.

use std::io::{BufRead, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use sawmill::{AppendOptions, Durability, Error, ErrorKind, Wal, WalOptions};

const THREADS: u64 = 2;

pub(crate) fn options() -> WalOptions {
    WalOptions {
        segment_size: 64 << 10,
        lock_wait: Duration::from_secs(5),
        recycled: 2,
        ..WalOptions::default()
    }
}

fn say(text: &str) {
    // One write, so that lines of threads do not mix.
    std::io::stdout().lock().write_all(format!("{text}\n").as_bytes()).unwrap();
}

fn told(error: &Error) {
    say(&format!("told\t{:?}\t{error}", error.kind()));
}

/// The record of this name: up to 9 KiB.
pub(crate) fn payload(name: &str) -> Vec<u8> {
    let sum: usize = name.bytes().map(usize::from).sum();
    let mut bytes = format!("{name}|").into_bytes();
    bytes.resize(bytes.len() + sum % 7 * 1500, b'.');
    bytes
}

/// Appends by two threads; each gives up at its first error, and tries twice again then.
fn append(wal: &Wal, part: &str, each: u64) {
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let (mut tries, mut poisoned) = (0, wal.stats().poison.is_some());
                for number in 0..each {
                    let name = format!("{part}-{thread}-{number}");
                    match wal.append(&payload(&name)) {
                        Ok(_) if poisoned => say(&format!("revived\t{name}")),
                        Ok(lsn) => say(&format!("ack\t{lsn}\t{name}")),
                        Err(error) => {
                            told(&error);
                            poisoned |= error.kind() == ErrorKind::Poisoned;
                            tries += 1;
                            if tries == 3 {
                                return;
                            }
                        }
                    }
                }
            });
        }
    });
}

fn read(mut replay: sawmill::Replay) -> Result<(), Error> {
    while let Some(record) = replay.next() {
        record?;
    }
    Ok(())
}

/// One part of a life; what fails is told, and the next part tries all the same.
fn part(outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        told(&error);
    }
}

/// Lives in `place`, once a line on its input says so.
pub(crate) fn live(place: &Path) {
    say("waits");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    // A thread of its own, with calls that are counted from its start.
    thread::scope(|scope| {
        scope.spawn(|| {
            for (life, each) in [("a", 12), ("b", 3)] {
                match Wal::open(place.join("log"), options()) {
                    Ok(wal) => with(&wal, place, life, each),
                    Err(error) => told(&error),
                }
            }
        });
    });
    say("ends");
}

fn with(wal: &Wal, place: &Path, life: &str, each: u64) {
    append(wal, &format!("{life}1"), each);
    // Plain frames, and one sync for all of them.
    let buffered = AppendOptions { durability: Durability::Buffered, ..AppendOptions::default() };
    let names = [0, 1, 2].map(|number| format!("{life}2-0-{number}"));
    let written = names.map(|name| (wal.append_with(&payload(&name), buffered), name));
    match wal.sync() {
        Ok(_) => {
            for (lsn, name) in written {
                match lsn {
                    Ok(lsn) => say(&format!("ack\t{lsn}\t{name}")),
                    Err(error) => told(&error),
                }
            }
        }
        Err(error) => told(&error),
    }
    part(wal.replay().and_then(read));
    part(wal.get(wal.durable_lsn()).map(drop));
    part(wal.backup(place.join(format!("copy-{life}"))).map(drop));
    part(Wal::open_read_only(wal.path()).and_then(|reader| read(reader.replay()?)));
    let cut = wal.durable_lsn();
    say(&format!("cut\t{cut}"));
    part(wal.truncate_before(cut).map(drop));
    append(wal, &format!("{life}3"), each);
    part(Wal::verify(wal.path()).map(drop));
    if life == "a" {
        part(wal.clone().close());
    }
}

/// What a life said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) ended: bool,
    pub(crate) acknowledged: Vec<(u64, String)>,
    /// Records below it may have been given up.
    pub(crate) cut: u64,
    pub(crate) told: Vec<String>,
    pub(crate) revived: Vec<String>,
}

impl Said {
    pub(crate) fn read(text: &str) -> Said {
        let mut said = Said::default();
        for line in text.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            match fields[..] {
                ["ends"] => said.ended = true,
                ["ack", lsn, name] => {
                    said.acknowledged.push((lsn.parse().unwrap(), name.to_owned()));
                }
                ["cut", lsn] => said.cut = said.cut.max(lsn.parse().unwrap()),
                ["told", kind, text] => said.told.push(format!("{kind}: {text}")),
                ["revived", name] => said.revived.push(name.to_owned()),
                _ => {}
            }
        }
        said
    }

    pub(crate) fn was_told(&self, kind: &str) -> bool {
        self.told.iter().any(|told| told.starts_with(kind))
    }
}
