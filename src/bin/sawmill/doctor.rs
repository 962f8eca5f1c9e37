//! `sawmill doctor`: what disk, file system and limits really give a log here, with advice.
//!
//! What works is tried: a file without a name is written durably and read back. Nothing stays.

mod place;

use std::fs;
use std::path::PathBuf;

use clap::Args;
use sawmill::storage::{Directory, Storage, SystemStorage};
use sawmill::{ErrorKind, Wal, WriterState};
use serde_json::json;

use crate::Outcome;
use crate::out::say;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A log's directory, or one where a log is to be.
    directory: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Fine,
    Note,
    Warning,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Fine => "fine",
            Level::Note => "note",
            Level::Warning => "warning",
        }
    }
}

/// Something that was found out.
#[derive(Debug)]
struct Finding {
    level: Level,
    topic: &'static str,
    text: String,
}

/// Everything that was found out.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn fine(&mut self, topic: &'static str, text: impl Into<String>) {
        self.0.push(Finding { level: Level::Fine, topic, text: text.into() });
    }

    fn note(&mut self, topic: &'static str, text: impl Into<String>) {
        self.0.push(Finding { level: Level::Note, topic, text: text.into() });
    }

    fn warn(&mut self, topic: &'static str, text: impl Into<String>) {
        self.0.push(Finding { level: Level::Warning, topic, text: text.into() });
    }
}

/// Exit code 0, whatever is found; an error if the directory cannot be used at all.
pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let path = &arguments.directory;
    if !path.is_dir() {
        let text = format!("{}: there is no such directory; make it first", path.display());
        return Err(text.into());
    }
    let mut findings = Findings::default();
    let chosen = SystemStorage::from_name("auto")?.directory(path, true)?;
    let backend = chosen.backend().to_string();
    backends(arguments, &*chosen, &mut findings);
    place::look(path, &mut findings)?;
    log(arguments, &*chosen, &mut findings)?;
    limits(&mut findings)?;
    if arguments.json {
        let list: Vec<_> = findings
            .0
            .iter()
            .map(|one| json!({ "level": one.level.name(), "topic": one.topic, "text": one.text }))
            .collect();
        let warnings = findings.0.iter().filter(|one| one.level == Level::Warning).count();
        let object = json!({ "backend": backend, "warnings": warnings, "findings": list });
        say!("{object:#}");
        return Ok(0);
    }
    for one in &findings.0 {
        say!("{:<8} {:<12} {}", one.level.name(), one.topic, one.text);
    }
    Ok(0)
}

/// Which backends work here, and which one is taken.
fn backends(arguments: &Arguments, chosen: &dyn Directory, findings: &mut Findings) {
    let backend = chosen.backend();
    findings.fine("backend", format!("{backend} works here and is taken"));
    if !backend.direct {
        findings.note(
            "backend",
            "O_DIRECT does not work here: every byte goes through the page cache, and an opening \
             writes the log's tail again to be sure of it",
        );
    }
    let open = |name: &str| -> Result<(), String> {
        let storage = SystemStorage::from_name(name).map_err(|error| error.to_string())?;
        let opened = storage.directory(&arguments.directory, true);
        opened.map(drop).map_err(|failure| failure.to_string())
    };
    if let Err(why) = open("uring") {
        let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let advice = match setting.as_deref().map(str::trim) {
            Ok("1" | "2") => "sysctl kernel.io_uring_disabled=0 allows it",
            _ => {
                "in a container, allow io_uring_setup, io_uring_enter and io_uring_register in the \
                 seccomp profile"
            }
        };
        findings.note("io_uring", format!("{why}; pwritev2 is used instead; {advice}"));
    } else {
        findings.fine("io_uring", "works");
    }
    if let Err(why) = open("pwrite") {
        findings.note("pwrite", why);
    }
}

/// The log that is here, if there is one.
fn log(
    arguments: &Arguments,
    directory: &dyn Directory,
    findings: &mut Findings,
) -> Result<(), crate::Failure> {
    let locked = directory.is_locked("LOCK")?;
    if locked {
        let holder = fs::read_to_string(arguments.directory.join("LOCK")).unwrap_or_default();
        findings.note("lock", format!("held by {}", holder.trim()));
    } else {
        findings.fine("lock", "nobody writes here");
    }
    let mut segment_size = 64 << 20;
    match Wal::open_read_only(&arguments.directory) {
        Ok(reader) => {
            let stats = reader.stats();
            segment_size = stats.segment_size;
            let (first, last) = (stats.first_lsn, stats.last_lsn);
            findings.fine("log", format!("records {first}..{last}"));
            match (stats.writer, stats.clean) {
                (WriterState::None, true) => findings.fine("log", "closed cleanly"),
                (WriterState::None, false) => findings.note(
                    "log",
                    "not closed cleanly: the next opening recovers it, and nothing that was \
                     acknowledged is lost",
                ),
                (WriterState::Silent, _) => findings.note(
                    "readers",
                    "the writer's page cannot be read from here (another user or container): \
                     readers see the last group when the next one, or an attestation, follows",
                ),
                (_, _) => findings.fine("readers", "the writer says how far the log is durable"),
            }
        }
        Err(error) if error.kind() == ErrorKind::Invalid => findings.note("log", "none yet"),
        Err(error) => findings.warn("log", error.to_string()),
    }
    // Active, spare and reserve (LOG.md L4, L5).
    let (free, wanted) = (directory.free_bytes()?, 3 * segment_size);
    let text = format!("{free} bytes free; a log keeps three segments ready, {wanted} bytes");
    if free < wanted {
        findings.warn("space", format!("{text}: appends may be refused until space is freed"));
    } else {
        findings.fine("space", text);
    }
    Ok(())
}

/// The process's limits.
fn limits(findings: &mut Findings) -> Result<(), crate::Failure> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let soft = |name: &str| -> Option<u64> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    match soft("Max open files") {
        Some(files) if files < 256 => findings.warn(
            "limits",
            format!("{files} open files: a log needs about 30, and each reader some more"),
        ),
        Some(files) => findings.fine("limits", format!("{files} open files")),
        None => findings.fine("limits", "open files are not limited"),
    }
    if let Some(bytes) = soft("Max file size") {
        let text = format!(
            "files of at most {bytes} bytes: a segment may not fit, and a write \
                            beyond ends the process by a signal"
        );
        findings.warn("limits", text);
    }
    Ok(())
}
