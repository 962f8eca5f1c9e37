//! A job with a file sink, two SQLite sinks on one file and a log sink, killed again and again: in
//! the end each row is in each of them, once.
//!
//! `SAWMILL_KILLS` sets how many kills (16 by default, `just kill-sinks` does 500).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use sawmill::{
    CommittedRows, Engine, EngineOptions, FileManifest, Job, OutputFiles, RunOptions, SqliteTable,
    TextFiles, Trigger, Wal, WalOptions, name,
};

/// Where the worker works; set for the child process only.
const PLACE: &str = "SAWMILL_SINKS_WORKER";
const LINES: u64 = 6_000;

fn target(place: &Path) -> Wal {
    let options = WalOptions { segment_size: 1 << 20, ..WalOptions::default() };
    Wal::open(place.join("target"), options).unwrap()
}

fn work(place: &Path) {
    let log = WalOptions { segment_size: 1 << 20, ..WalOptions::default() };
    let options = EngineOptions { log, threads: 1, ..EngineOptions::default() };
    let engine = Engine::open(place.join("data"), options).unwrap();
    let (target, database) = (target(place), place.join("out.db"));
    let (job, ()) = Job::build(name!("copy"), |job| {
        let lines = job.source(name!("lines"), TextFiles::new([place.join("in.txt")]));
        let files = OutputFiles::new(place.join("out")).with_roll_rows(100).with_compaction(4);
        lines.write_text(name!("files"), files);
        let rows = SqliteTable::new(&database, "INSERT INTO rows (line) VALUES (?1)")
            .with_setup("CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, line BLOB)");
        lines.write_sqlite(name!("rows"), rows, |line| vec![line.clone().into()]);
        lines.write_log(name!("log"), &target, "lines");
        let keyed = lines.map_to_pair(|line| (line[line.len() - 1] % 7, 1i64));
        let totals = keyed.map_with_state::<i64, (u8, i64)>(name!("totals"), |key, new, total| {
            let sum = total.unwrap_or(0) + new.sum::<i64>();
            *total = Some(sum);
            Some((key, sum))
        });
        let upsert = "INSERT INTO totals VALUES (?1, ?2, 1)
            ON CONFLICT (key) DO UPDATE SET total = excluded.total, writes = writes + 1";
        let columns = "(key INTEGER PRIMARY KEY, total INTEGER, writes INTEGER)";
        let table = SqliteTable::new(&database, upsert)
            .with_setup(format!("CREATE TABLE IF NOT EXISTS totals {columns}"));
        totals
            .out
            .write_sqlite(name!("totals"), table, |(key, sum)| vec![(*key).into(), (*sum).into()]);
    })
    .unwrap();
    let options = RunOptions {
        trigger: Trigger::AvailableNow { bytes: 700 },
        checkpoint_interval: Duration::from_millis(40),
        parallelism: 2,
        ..RunOptions::default()
    };
    engine.start(job, options).unwrap().await_termination().unwrap();
}

/// The child process: does nothing when the tests are run as usual.
#[test]
fn worker() {
    if let Some(place) = std::env::var_os(PLACE) {
        work(Path::new(&place));
    }
}

fn start(place: &Path, bug: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sqlite_killed::worker", "--test-threads", "1"]).env(PLACE, place);
    if let Some(bug) = bug {
        command.env("SAWMILL_PLANTED", bug);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn lines() -> Vec<String> {
    let line = |n: u64| format!("line {n} {}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
    (0..LINES).map(line).collect()
}

/// What each sink has, compared with the input.
fn check(place: &Path) -> Result<(), String> {
    let expected = lines();
    let compare = |what: &str, found: Vec<String>| match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {} rows, or others, of {LINES}", found.len())),
    };
    let manifest = std::fs::read(place.join("out/_manifest")).map_err(|e| e.to_string())?;
    let manifest = FileManifest::parse(&manifest).map_err(|e| e.to_string())?;
    let mut text = String::new();
    for file in &manifest.files {
        let content = std::fs::read_to_string(place.join("out").join(&file.file)).unwrap();
        if content.len() as u64 != file.bytes {
            return Err(format!("{}: {} bytes, not {}", file.file, content.len(), file.bytes));
        }
        text += &content;
    }
    compare("files", text.lines().map(str::to_owned).collect())?;
    let files = std::fs::read_dir(place.join("out")).unwrap().count();
    if files != manifest.files.len() + 2 {
        return Err(format!("{files} files for {} in the manifest", manifest.files.len()));
    }
    let database = rusqlite::Connection::open(place.join("out.db")).unwrap();
    let mut rows = database.prepare("SELECT CAST(line AS TEXT) FROM rows ORDER BY n").unwrap();
    let rows = rows.query_map([], |row| row.get(0)).unwrap();
    compare("SQLite", rows.collect::<Result<_, _>>().unwrap())?;
    let mut totals = BTreeMap::new();
    for line in &expected {
        *totals.entry(i64::from(line.as_bytes()[line.len() - 1] % 7)).or_insert(0i64) += 1;
    }
    let mut stored = database.prepare("SELECT key, total FROM totals").unwrap();
    let stored = stored.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    if stored.collect::<Result<BTreeMap<i64, i64>, _>>().unwrap() != totals {
        return Err("SQLite: other totals".to_owned());
    }
    let log = target(place);
    let (mut rows, mut found) = (CommittedRows::of(&log, "lines").unwrap(), Vec::new());
    while let Some(row) = rows.next() {
        found.push(String::from_utf8(row.unwrap().payload).unwrap());
    }
    compare("log", found)
}

/// Bytes in the files of the file sink: other ones whenever a batch was published, or cut back.
fn published(place: &Path) -> u64 {
    let files = std::fs::read_dir(place.join("out")).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// A process that has come so far `after` it has done something that can be seen, unless it ended
/// before: a slow machine is as far into its work then as a quick one.
fn live_until_published(
    place: &Path,
    bug: Option<&str>,
    after: Duration,
) -> (Child, Option<ExitStatus>) {
    let (before, mut child) = (published(place), start(place, bug));
    while published(place) == before {
        if let Some(ended) = child.try_wait().unwrap() {
            return (child, Some(ended));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(after);
    let ended = child.try_wait().unwrap();
    (child, ended)
}

/// Kills the job `kills` times, in as many rounds as it takes; each round ends with a life that is
/// left alone, and a comparison.
fn kill_and_compare(kills: u64, bug: Option<&str>) -> Result<(), String> {
    let (mut killed, mut round, mut random) = (0, 0u64, 7u64);
    while killed < kills {
        round += 1;
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("in.txt"), lines().join("\n") + "\n").unwrap();
        let before = killed;
        while killed < kills {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let after = Duration::from_millis((random >> 33) % 30);
            let (mut child, ended) = live_until_published(place.path(), bug, after);
            if let Some(ended) = ended {
                if !ended.success() {
                    return Err(format!("round {round}: the job failed after {killed} kills"));
                }
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        }
        if !start(place.path(), bug).wait().unwrap().success() {
            return Err(format!("round {round}: the job failed in the end"));
        }
        check(place.path()).map_err(|why| format!("round {round}: {why}"))?;
        println!("round {round}: {} kills, every sink has every row once", killed - before);
    }
    Ok(())
}

#[test]
fn killed_again_and_again_every_sink_has_every_row_once() {
    let kills = std::env::var("SAWMILL_KILLS").map_or(16, |kills| kills.parse().unwrap());
    kill_and_compare(kills, None).unwrap();
}

#[cfg(feature = "planted")]
#[test]
fn planted_no_sink_cut_is_seen_in_the_files() {
    let story = kill_and_compare(40, Some("no-sink-cut")).unwrap_err();
    println!("no-sink-cut caught: {story}");
}
