//! A disk that is really full: a small file system, and a ballast that leaves a little more room
//! each time, so that the end of it is met wherever there is something to write.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, syncfs};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use sawmill::{Error, ErrorKind, Lsn, Wal};

use crate::oracle::{Found, Mark, Oracle};
use crate::place::{self, FileSystem, Mount, Place};
use crate::record::Identity;
use crate::workload::{options, read};
use crate::{Failure, Outcome};

/// The ballast grows by this.
const STEP: u64 = 4 << 10;
/// Up to so much is left free: more than a new log needs, and then some segments.
const MOST: u64 = 512 << 10;
/// More than fit.
const LIMIT: u32 = 1000;
/// As long as free space may take to be noticed.
const PATIENCE: Duration = Duration::from_secs(20);
const PAYLOAD: usize = 3000;

/// What was met, in runs.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    runs: usize,
    /// There was no room for a new log.
    new_refused: usize,
    /// An append was refused in the log's first segment, or in a later one.
    append_refused: usize,
    roll_refused: usize,
    /// Full disks on which a log was closed; opened after a close; recovered after a kill.
    closed: usize,
    opened: usize,
    recovered: usize,
    /// Appends went on because space was given back, or records were given up.
    went_on: usize,
    truncated: usize,
}

/// Every step on each file system.
pub(crate) fn disk_full() -> Outcome {
    for file_system in &place::ALL {
        let name = file_system.name;
        if let Some(why) = file_system.refused() {
            println!("{name}: skipped: {why}");
            continue;
        }
        let begun = Instant::now();
        let place = Place::new()?;
        let disk = Disk::new(&place, file_system)?;
        let mut met = Met::default();
        for free in (0..=MOST).step_by(usize::try_from(STEP)?) {
            let story = |error: Failure| format!("{name}, {free} bytes free: {error}");
            disk.closed(free, &mut met).map_err(story)?;
            disk.killed(free, &mut met).map_err(story)?;
            disk.squeezed(free, &mut met).map_err(story)?;
        }
        println!("{name}: {met:?}, {:.0} s", begun.elapsed().as_secs_f64());
        let Met { new_refused, append_refused, roll_refused, closed, opened, .. } = met;
        let Met { recovered, went_on, truncated, .. } = met;
        let all = [new_refused, append_refused, roll_refused, closed, opened, recovered];
        if all.contains(&0) || went_on == 0 || truncated == 0 {
            return Err(format!("{name}: something was never met").into());
        }
        drop([disk.ballast, disk.crumbs]);
        disk.mount.unmount()?;
    }
    Ok(())
}

/// A small file system and its ballast.
struct Disk {
    mount: Mount,
    on: PathBuf,
    ballast: File,
    /// The last few bytes.
    crumbs: File,
}

impl Disk {
    fn new(place: &Place, file_system: &FileSystem) -> Result<Disk, Failure> {
        let (image, on) = (place.file("image"), place.folder("files")?);
        File::create(&image)?.set_len(file_system.bytes as u64)?;
        file_system.make(&image)?;
        let mount = file_system.mount_image(&image, &on)?;
        let [ballast, crumbs] = ["ballast", "crumbs"].map(|name| File::create(on.join(name)));
        Ok(Disk { mount, on, ballast: ballast?, crumbs: crumbs? })
    }

    fn log(&self) -> PathBuf {
        self.on.join("log")
    }

    /// Throws everything out.
    fn clear(&self) -> Outcome {
        if self.log().exists() {
            fs::remove_dir_all(self.log())?;
        }
        self.free_all()
    }

    fn free_all(&self) -> Outcome {
        self.ballast.set_len(0)?;
        self.crumbs.set_len(0)?;
        (&self.crumbs).rewind()?;
        // Space that was given up is there when the file system has said so to its journal.
        Ok(syncfs(&self.ballast)?)
    }

    /// Grows the ballast until nothing fits, and shrinks it by `free`.
    fn leave(&self, free: u64) -> Outcome {
        syncfs(&self.ballast)?;
        let mut length = self.ballast.metadata()?.len();
        let mut piece = 1 << 20;
        while piece >= 1 << 10 {
            match fallocate(&self.ballast, FallocateFlags::empty(), length, piece) {
                Ok(()) => length += piece,
                Err(Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        if free > 0 {
            self.ballast.set_len(length.saturating_sub(free))?;
            syncfs(&self.ballast)?;
            return Ok(());
        }
        // XFS gives a write what it does not promise to an allocation.
        loop {
            match (&self.crumbs).write_all(&[1; 1024]).and_then(|()| self.crumbs.sync_data()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A log is made in what is free and fills it, in as many segments as there is room for; it is
    /// closed, opened on a disk without a free byte, and truncated there.
    fn closed(&self, free: u64, met: &mut Met) -> Outcome {
        met.runs += 1;
        self.clear()?;
        self.leave(free)?;
        let mut oracle = Oracle::default();
        let mut writer = Writer { writer: 1, number: 0 };
        let wal = match Wal::open(self.log(), options()) {
            Ok(wal) => wal,
            Err(error) => {
                is_full(&error, &self.on)?;
                met.new_refused += 1;
                self.free_all()?;
                // What was begun is no obstacle.
                let wal = Wal::open(self.log(), options())?;
                self.leave(0)?;
                wal
            }
        };
        let first = writer.fill(&wal, &mut oracle)?;
        is_full(&first, &self.on)?;
        let rolled = writer.number > 16;
        *(if rolled { &mut met.roll_refused } else { &mut met.append_refused }) += 1;
        wal.close()?;
        met.closed += 1;
        self.leave(0)?;
        let wal = Wal::open(self.log(), options())?;
        met.opened += 1;
        judge(&wal, &oracle)?;
        let last = wal.durable_lsn().get();
        oracle.hear(Mark::Truncating(last));
        oracle.medium_changes();
        wal.truncate_before(Lsn::new(last.max(1)))?;
        if rolled {
            // Segments were given up, and what they held is room.
            writer.go_on(&wal, &mut oracle)?;
            met.truncated += 1;
        }
        judge(&wal, &oracle)?;
        wal.close()?;
        let wal = Wal::open(self.log(), options())?;
        judge(&wal, &oracle)?;
        Ok(wal.close()?)
    }

    /// A process fills the disk and is killed; the log is recovered where nothing is free.
    fn killed(&self, free: u64, met: &mut Met) -> Outcome {
        met.runs += 1;
        self.clear()?;
        drop(Wal::open(self.log(), options())?);
        self.leave(free)?;
        let mut oracle = Oracle::default();
        let mut command = Command::new(std::env::current_exe()?);
        let output = command.arg("fill").arg(self.log()).output()?;
        if output.status.code().is_some() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("the process that fills: {}: {said}", output.status).into());
        }
        for line in String::from_utf8(output.stdout)?.lines() {
            oracle.hear(line.parse()?);
        }
        self.leave(0)?;
        let wal = Wal::open(self.log(), options())?;
        met.recovered += 1;
        judge(&wal, &oracle)?;
        let mut writer = Writer { writer: 2, number: 0 };
        is_full(&writer.fill(&wal, &mut oracle)?, &self.on)?;
        self.free_all()?;
        writer.go_on(&wal, &mut oracle)?;
        met.went_on += 1;
        judge(&wal, &oracle)?;
        Ok(wal.close()?)
    }

    /// A log is at work when the disk fills up beside it.
    fn squeezed(&self, free: u64, met: &mut Met) -> Outcome {
        met.runs += 1;
        self.clear()?;
        let mut oracle = Oracle::default();
        let mut writer = Writer { writer: 3, number: 0 };
        let wal = Wal::open(self.log(), options())?;
        for _ in 0..20 {
            writer.append(&wal, &mut oracle)?;
        }
        self.leave(free)?;
        is_full(&writer.fill(&wal, &mut oracle)?, &self.on)?;
        judge(&wal, &oracle)?;
        self.free_all()?;
        writer.go_on(&wal, &mut oracle)?;
        met.went_on += 1;
        judge(&wal, &oracle)?;
        self.leave(0)?;
        wal.close()?;
        met.closed += 1;
        let wal = Wal::open(self.log(), options())?;
        judge(&wal, &oracle)?;
        Ok(wal.close()?)
    }
}

/// Appends until the disk is full, says what is durable on stdout, and kills itself.
pub(crate) fn fill(log: &Path) -> Outcome {
    let wal = Wal::open(log, options())?;
    let mut oracle = Oracle::default();
    let mut writer = Writer { writer: 1, number: 0 };
    let full = writer.fill(&wal, &mut oracle)?;
    is_full(&full, log)?;
    oracle.promises().for_each(|mark| println!("{mark}"));
    Ok(kill_process(getpid(), Signal::KILL)?)
}

/// Appends to a log that has only this writer.
struct Writer {
    writer: u32,
    number: u32,
}

impl Writer {
    fn append(&mut self, wal: &Wal, oracle: &mut Oracle) -> Result<(), Error> {
        let identity = Identity { writer: self.writer, number: self.number, part: 0, parts: 1 };
        let lsn = wal.append(&identity.payload(PAYLOAD))?;
        // What is refused was not appended, and its number is free.
        self.number += 1;
        oracle.hear(Mark::Held(lsn.get(), identity));
        Ok(())
    }

    /// Appends until it is refused.
    fn fill(&mut self, wal: &Wal, oracle: &mut Oracle) -> Result<Error, Failure> {
        for _ in 0..LIMIT {
            if let Err(error) = self.append(wal, oracle) {
                return Ok(error);
            }
        }
        Err("the disk is full, but the log takes more and more".into())
    }

    /// Appends as soon as the log takes it.
    fn go_on(&mut self, wal: &Wal, oracle: &mut Oracle) -> Outcome {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.append(wal, oracle) {
                Err(error) if error.kind() == ErrorKind::DiskFull && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(2));
                }
                done => return Ok(done?),
            }
        }
    }
}

/// The error has to be the right one, and to say where.
fn is_full(error: &Error, below: &Path) -> Outcome {
    let says = error.to_string();
    if error.kind() == ErrorKind::DiskFull && says.contains(&*below.to_string_lossy()) {
        return Ok(());
    }
    Err(format!("{:?} instead of DiskFull with a path: {says}", error.kind()).into())
}

fn judge(wal: &Wal, oracle: &Oracle) -> Outcome {
    let (first_lsn, durable_lsn) = (wal.first_lsn().get(), wal.durable_lsn().get());
    Ok(oracle.judge(&Found { first_lsn, durable_lsn, records: read(wal)? })?)
}
