//! Runs examples as processes, and counts the word count's words in another way.
#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "for tests of another process"
)]
#![allow(unreachable_pub, dead_code, reason = "shared by several test files")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread::sleep;
use std::time::Duration;

/// An example. `cargo test` builds it; if only one test was asked for, it may be missing, or be an
/// old one: then it is built here.
pub fn example(name: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one = BUILDING.lock().unwrap();
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    let built = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    if built(&program) < built(&test) {
        let mut build = Command::new(env!("CARGO"));
        // Of what the tests are built of, nothing is built again.
        let profile = if cfg!(debug_assertions) { "test" } else { "release" };
        build.args(["build", "--quiet", "--profile", profile, "--example", name]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        if cfg!(feature = "planted") {
            build.arg("--all-features");
        }
        assert!(build.status().unwrap().success());
    }
    program
}

fn word_count() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("word_count"))
}

pub fn run(arguments: &[&str]) -> Output {
    Command::new(word_count()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Text of about `bytes` bytes: skewed words, all six separators, some bytes that are not UTF-8.
pub fn text(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut text = Vec::with_capacity(bytes + 32);
    while text.len() < bytes {
        let range = 1 << random.below(15);
        let word = random.below(range);
        text.extend(format!("w{word:x}").bytes());
        if random.below(500) == 0 {
            text.extend([0xff, 0xc0, 0x80]);
        }
        let separators = b"      \n\n\t\r\x0b\x0c";
        text.push(separators[random.below(separators.len() as u64) as usize]);
        if random.below(200) == 0 {
            text.extend(b" \n\n");
        }
    }
    text
}

pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// What the example must print: the sequential model.
pub fn expected(texts: &[&[u8]]) -> Vec<u8> {
    let mut counts = BTreeMap::new();
    for text in texts {
        for word in text.split(|byte| is_space(*byte)).filter(|word| !word.is_empty()) {
            *counts.entry(word).or_insert(0_u64) += 1;
        }
    }
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by(|(word, count), (other, other_count)| (other_count, word).cmp(&(count, other)));
    let mut out = Vec::new();
    for (word, count) in rows {
        out.extend(format!("{count}\t").bytes());
        out.extend_from_slice(word);
        out.push(b'\n');
    }
    out
}

/// The number behind `name=`.
pub fn figure(line: &str, name: &str) -> Option<u64> {
    let words = line.split(' ').filter_map(|word| word.split_once('='));
    words.filter(|(of, _)| *of == name).find_map(|(_, value)| value.parse().ok())
}

/// The batch that a line of progress tells of; zero if none.
pub fn batch(line: &str) -> u64 {
    figure(line, "batch").unwrap_or(0)
}

/// The last `bytes_read=` on standard error; zero if the run was killed before its first line.
pub fn bytes_read<'a>(said: impl IntoIterator<Item = &'a str>) -> u64 {
    said.into_iter().filter_map(|line| figure(line, "bytes_read")).last().unwrap_or(0)
}

pub fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

pub struct Job {
    _folder: tempfile::TempDir,
    pub data: String,
    pub files: Vec<String>,
}

pub fn job(texts: &[&[u8]]) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let data = path("data");
    let mut files = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        files.push(path(&format!("input-{index}")));
        fs::write(&files[index], text).unwrap();
    }
    Job { _folder: folder, data, files }
}

impl Job {
    pub fn arguments<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = options.to_vec();
        arguments.extend(["--data", &self.data]);
        arguments.extend(self.files.iter().map(String::as_str));
        arguments
    }

    pub fn run(&self, options: &[&str]) -> Output {
        run(&self.arguments(options))
    }

    pub fn start(&self, options: &[&str]) -> Child {
        let mut command = Command::new(word_count());
        command.args(self.arguments(options)).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a run, kills it after `life`: whether it had finished, and what it said on standard
    /// error.
    pub fn kill_after(&self, options: &[&str], life: Duration) -> (bool, Vec<String>) {
        let mut child = self.start(options);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || stderr.lines().map_while(Result::ok).collect());
        sleep(life);
        let finished = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        (finished, reader.join().unwrap())
    }

    /// Starts a run, kills it when it has told of its second batch: whose plan is durable then, and
    /// with it the completion of the first, which has the digests of what was read.
    pub fn kill_after_a_batch(&self, options: &[&str]) {
        let mut child = self.start(options);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let told = lines.any(|line| batch(&line.unwrap()) > 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(told, "the run ended before its second batch");
    }
}
