//! A log that is many times larger than the memory its reader may have.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Instant;

use rustix::process::{Signal, getpid, kill_process};
use sawmill::{Wal, WalOptions};

use crate::record::Identity;
use crate::{Failure, Outcome};

const MIB: u64 = 1 << 20;
/// All that the process that recovers may use, the page cache included.
const LIMIT: u64 = 64 * MIB;
const PAYLOAD: usize = 64 << 10;

/// Makes a log of so many MiB in a process that is killed, and recovers and reads it in one that
/// has 64 MiB.
pub(crate) fn small_memory(mebibytes: u64) -> Outcome {
    let Some(group) = Group::new()? else {
        println!("skipped: this machine lets nobody make a memory cgroup");
        return Ok(());
    };
    let place = tempfile::tempdir()?;
    let log = place.path().join("log");
    let begun = Instant::now();
    let mut writer = myself("write-large")?;
    let output = writer.arg(&log).arg(mebibytes.to_string()).output()?;
    if output.status.signal() != Some(Signal::KILL.as_raw()) {
        return Err(format!("the writer was to be killed: {}", output.status).into());
    }
    let durable: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
    let bytes: u64 =
        fs::read_dir(&log)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<io::Result<_>>()?;
    println!("{durable} records, {} MiB, written in {:.1?}", bytes / MIB, begun.elapsed());

    let status = group.run(myself("recover-large")?.arg(&log).arg(durable.to_string()))?;
    let used = group.used()?;
    if !status.success() {
        return Err(format!("recovery in {LIMIT} bytes: {status}, used {used}").into());
    }
    println!("used at most {used} bytes of {LIMIT}, the page cache included");
    let status = group.run(&mut myself("hoard")?)?;
    match status.signal() {
        Some(_) => Ok(()),
        None => Err("the limit stops nobody".into()),
    }
}

fn myself(what: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(what);
    Ok(command)
}

/// Appends, prints the last durable LSN, and is killed while more is on its way.
pub(crate) fn write_large(log: &Path, mebibytes: u64) -> Outcome {
    let wal = Wal::open(log, WalOptions::default())?;
    let records = u32::try_from(mebibytes * MIB / PAYLOAD as u64)?;
    for number in 0..records {
        wal.submit(&record(number))?;
    }
    println!("{}", wal.sync()?);
    io::stdout().flush()?;
    for number in records..records + 100 {
        wal.submit(&record(number))?;
    }
    Ok(kill_process(getpid(), Signal::KILL)?)
}

fn record(number: u32) -> Vec<u8> {
    Identity { writer: 1, number, part: 0, parts: 1 }.payload(PAYLOAD)
}

/// Recovers, reads everything, and looks at every byte.
pub(crate) fn recover_large(log: &Path, durable: u64) -> Outcome {
    let begun = Instant::now();
    let wal = Wal::open(log, WalOptions::default())?;
    let recovered = begun.elapsed();
    let mut replay = wal.replay()?;
    let mut count = 0;
    while let Some(record) = replay.next() {
        let record = record?;
        let expected = Some((count + 1, u32::try_from(count)?));
        let found = Identity::of(record.payload).map(|found| (record.lsn.get(), found.number));
        if found != expected {
            return Err(format!("found {found:?} instead of {expected:?}").into());
        }
        count += 1;
    }
    if count < durable {
        return Err(format!("{durable} records were durable, {count} are there").into());
    }
    let read = begun.elapsed() - recovered;
    let status = fs::read_to_string("/proc/self/status")?;
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("unknown");
    let own = own.trim();
    println!("recovered in {recovered:.1?}, {count} records read in {read:.1?}, {own} anonymous");
    wal.append(&record(0))?;
    Ok(wal.close()?)
}

/// Uses more than there is.
pub(crate) fn hoard() -> Outcome {
    let much = vec![1u8; usize::try_from(LIMIT + LIMIT / 2)?];
    Err(format!("{} bytes were to be had", std::hint::black_box(much).len()).into())
}

/// A memory cgroup, of either version.
struct Group {
    path: PathBuf,
    usage: &'static str,
}

impl Group {
    fn new() -> Result<Option<Group>, Failure> {
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ];
        for (root, limit, usage) in versions {
            let path = Path::new(root).join(format!("sawmill-{}", std::process::id()));
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Group { path, usage };
            if fs::write(group.path.join(limit), LIMIT.to_string()).is_ok() {
                return Ok(Some(group));
            }
        }
        Ok(None)
    }

    /// Runs a command inside. A shell joins first, so that nothing of it is outside.
    fn run(&self, command: &mut Command) -> io::Result<ExitStatus> {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(self.path.join("cgroup.procs"));
        shell.arg(command.get_program()).args(command.get_args()).status()
    }

    fn used(&self) -> Result<u64, Failure> {
        Ok(fs::read_to_string(self.path.join(self.usage))?.trim().parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty by now; one that is not stays, and says so by being there.
        fs::remove_dir(&self.path).ok();
    }
}
