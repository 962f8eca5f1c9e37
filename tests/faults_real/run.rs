//! One life with one fault, and the judge.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use sawmill::Wal;

use super::life::{Said, options, payload};

/// After how long a life counts as hung: a thousand times what one takes.
const LIMIT: Duration = Duration::from_secs(600);

/// What strikes.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing: what a life does by itself.
    None,
    /// System calls, by `strace -e inject`: of each thread, from the `from`th of this name.
    Call { call: String, how: String, from: u64, sticky: bool },
    /// Operations of io_uring, by the library beside this file.
    Completion {
        library: PathBuf,
        only: &'static str,
        how: &'static str,
        result: i64,
        from: u64,
        sticky: bool,
    },
}

impl Fault {
    /// The call or operation that is struck.
    pub(crate) fn name(&self) -> String {
        match self {
            Fault::None => "nothing".to_owned(),
            Fault::Call { call, .. } => call.clone(),
            Fault::Completion { only, how, .. } => format!("{only}, {how}"),
        }
    }

    /// Whether it says that somebody else has the locks.
    pub(crate) fn takes_locks_away(&self) -> bool {
        matches!(self, Fault::Call { call, how, .. } if call == "fcntl" && how == "error=EAGAIN")
    }

    /// Whether it is a sync of the commit path that fails.
    pub(crate) fn is_sync(&self) -> bool {
        matches!(self, Fault::Completion { only: "sync", .. })
    }
}

/// What came of a life.
pub(crate) struct Lived {
    pub(crate) said: Said,
    /// What the one who struck notes down.
    pub(crate) trace: String,
    /// Calls, or operations, that were struck.
    pub(crate) struck: u64,
}

/// Lives in `place` with a fault, on this backend. `Err`: it hung.
pub(crate) fn run(
    place: &Path,
    backend: &str,
    fault: &Fault,
    bug: Option<&str>,
) -> Result<Lived, String> {
    let trace = place.join("trace");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command.env(crate::PLACE, place).env("SAWMILL_BACKEND", backend);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    if let Some(bug) = bug {
        command.env("SAWMILL_PLANTED", bug);
    }
    if let Fault::Completion { library, only, how, result, from, sticky } = fault {
        command.env("LD_PRELOAD", library).env("FAULT_FROM", from.to_string());
        command.env("FAULT_HOW", how).env("FAULT_RESULT", result.to_string());
        command.env("FAULT_STICKY", if *sticky { "1" } else { "0" }).env("FAULT_REPORT", &trace);
        command.env("FAULT_ONLY", only);
    }
    let mut child = command.spawn().unwrap();
    let text = strike(&mut child, fault, &trace);
    if text.is_err() {
        // It may be gone already.
        drop(child.kill());
    }
    child.wait().unwrap();
    let text = text?;
    let trace = fs::read_to_string(trace).unwrap_or_default();
    let struck = match fault {
        Fault::Completion { .. } => trace.lines().count(),
        _ => trace.lines().filter(|line| line.contains("(INJECTED)")).count(),
    };
    Ok(Lived { said: Said::read(&text), trace, struck: struck as u64 })
}

/// Has the fault strike while the life goes on; what the life said.
fn strike(child: &mut Child, fault: &Fault, trace: &Path) -> Result<String, String> {
    let output = awaited(child)?;
    let tracer = match fault {
        Fault::Call { call, how, from, sticky } => {
            let when = format!("{from}{}", if *sticky { "+" } else { "" });
            let inject = format!("inject={call}:{how}:when={when}");
            let mut more = vec!["-e", &inject];
            // What is begun again ten thousand times is told without its stacks.
            let again = ["EINTR", "EAGAIN", "EBUSY"].iter().any(|errno| how.ends_with(errno));
            if !(*sticky && again) {
                more.push("-k");
            }
            Some(attach(child.id(), trace, call, &more)?)
        }
        Fault::None => Some(attach(child.id(), trace, super::calls::ALL, &["-k"])?),
        Fault::Completion { .. } => None,
    };
    let text = converse(child, output);
    if let Some(mut tracer) = tracer {
        // The one that it holds has ended.
        tracer.wait().unwrap();
    }
    text
}

/// What is behind the line by which the process says that it waits. Before, it may still be
/// loading its libraries, and a call of the loader that fails ends it.
fn awaited(child: &mut Child) -> Result<BufReader<ChildStdout>, String> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // The harness may have begun the line.
        while !line.ends_with("waits\n") {
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 {
                return sender.send(Err("the process ended before it waited".to_owned()));
            }
        }
        sender.send(Ok(output))
    });
    receiver.recv_timeout(LIMIT).unwrap_or_else(|_| Err("hung before it waited".to_owned()))
}

/// Has `strace` hold the process, which waits for its first line.
fn attach(child: u32, trace: &Path, calls: &str, more: &[&str]) -> Result<Child, String> {
    let mut tracer = Command::new("strace")
        .args(["-f", "-p", &child.to_string(), "-e", &format!("trace={calls}"), "-o"])
        .arg(trace)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("strace: {error}"))?;
    let mut said = BufReader::new(tracer.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    if !line.contains("attached") {
        drop(tracer.wait());
        return Err(format!("strace: {line}"));
    }
    // It says more at the end, to nobody.
    std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
    Ok(tracer)
}

/// Lets the life begin, and returns what it said.
fn converse(child: &mut Child, mut output: BufReader<ChildStdout>) -> Result<String, String> {
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        output.read_to_end(&mut text).unwrap();
        sender.send(()).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    // Fails if it is gone already.
    drop(child.stdin.take().unwrap().write_all(b"begin\n"));
    let hung = receiver.recv_timeout(LIMIT).is_err();
    if hung {
        child.kill().unwrap();
    }
    let text = reader.join().unwrap();
    if hung { Err(format!("hung: {text}")) } else { Ok(text) }
}

/// Everything acknowledged is there, in order, once; the log opens and goes on.
pub(crate) fn judge(place: &Path, said: &Said) -> Result<(), String> {
    if let Some(name) = said.revived.first() {
        return Err(format!("{name} was acknowledged by a poisoned log"));
    }
    let wal = Wal::open(place.join("log"), options()).map_err(|why| format!("opening: {why}"))?;
    let mut found = BTreeMap::new();
    let mut last = BTreeMap::new();
    let mut replay = wal.replay().map_err(|why| format!("reading: {why}"))?;
    while let Some(record) = replay.next() {
        let record = record.map_err(|why| format!("reading: {why}"))?;
        let end = record.payload.iter().position(|byte| *byte == b'|').ok_or("a foreign record")?;
        let name = String::from_utf8_lossy(&record.payload[..end]).into_owned();
        if record.payload != payload(&name) {
            return Err(format!("record {} ({name}) holds something else", record.lsn));
        }
        // PART-THREAD-NUMBER: of one thread, one behind the other.
        let (thread, number) = name.rsplit_once('-').ok_or("a foreign record")?;
        let number: u64 = number.parse().map_err(|_| "a foreign record")?;
        if last.insert(thread.to_owned(), number).is_some_and(|last| last >= number) {
            return Err(format!("{name} is there twice, or out of order"));
        }
        found.insert(record.lsn.get(), name);
    }
    let first = wal.first_lsn().get();
    if first > said.cut.max(1) {
        return Err(format!("the log starts at {first}, and was cut at {}", said.cut));
    }
    for (lsn, name) in said.acknowledged.iter().filter(|(lsn, _)| *lsn >= first) {
        if found.get(lsn) != Some(name) {
            return Err(format!("{name} was acknowledged at {lsn}: {:?}", found.get(lsn)));
        }
    }
    wal.append(&payload("z-0-0")).map_err(|why| format!("appending again: {why}"))?;
    wal.close().map_err(|why| format!("closing again: {why}"))
}
