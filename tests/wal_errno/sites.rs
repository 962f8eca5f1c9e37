//! The places of the sources from which the log calls the storage.
//!
//! They are found by their shape, `RECEIVER.METHOD(`, where the receiver's name is one by which
//! the log's sources call a directory, a file, a channel, a lock or a storage. What the lives
//! strike is known by the stack. Each must know what the other knows: a shape that is not known
//! here is noticed as soon as it is struck.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Calls that can fail, by what they are called on.
const CALLS: [(&[&str], &[&str]); 5] = [
    (&["storage", "reading"], &["directory"]),
    (
        &["directory", "directory()", "log"],
        &[
            "subdirectory",
            "list",
            "open",
            "rename",
            "unlink",
            "sync",
            "lock",
            "channel",
            "free_bytes",
            "is_locked",
        ],
    ),
    (
        &["file", "file()", "copy"],
        &[
            "stamp",
            "allocate",
            "allocate_written",
            "set_length",
            "sync",
            "map",
            "try_lock",
            "is_locked",
        ],
    ),
    (&["channel"], &["submit", "complete", "run"]),
    (&["lock"], &["is_current"]),
];

/// Other calls: helpers of the storage, and the drop of a channel, which waits for what is in
/// flight.
const OTHERS: [&str; 3] = ["files::fill_zeros(", "files::remove_if_there(", "drop(gone)"];

/// Call sites that no life can strike: by file, how the line begins, and why.
const EXEMPT: [(&str, &str, &str); 3] = [
    ("src/wal/attest.rs", "let Ok(channel) = self.directory", "planted: attest-after-poison"),
    ("src/wal/slot.rs", "result = self.channel.run(", "planted: retry-sync"),
    (
        "src/wal/commit.rs",
        "if let Ok(channel) = self.directory.channel() {",
        "only logs with threads add slots: there io_uring_setup fails, in tests/faults_real.rs",
    ),
];

pub(crate) fn is_exempt(site: &str, code: &str) -> bool {
    let file = site.split(':').next().unwrap_or_default();
    EXEMPT.iter().any(|(name, part, _)| *name == file && code.starts_with(part))
}

/// Every call site, `FILE:LINE`, with its line of code.
pub(crate) fn in_sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    for path in files(&root.join("src/wal")) {
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let mut code = String::new();
        for (number, line) in product.lines().enumerate() {
            let line = line.split("//").next().unwrap().trim();
            // A chain of calls goes on in the next line.
            if !line.starts_with('.') {
                code.clear();
            }
            let from = code.len();
            code.push_str(line);
            if calls(&code, from) || OTHERS.iter().any(|other| line.contains(other)) {
                found.insert(format!("{name}:{}", number + 1), line.to_owned());
            }
        }
    }
    found
}

/// Whether there is a call in `code` behind `from`.
fn calls(code: &str, from: usize) -> bool {
    CALLS.iter().any(|(receivers, methods)| {
        methods.iter().any(|method| {
            let shape = format!(".{method}(");
            code.match_indices(&shape).any(|(at, _)| {
                let before = &code[..at];
                let named = |receiver: &&str| {
                    let rest = before.strip_suffix(*receiver);
                    let word = |c: char| c.is_alphanumeric() || c == '_';
                    rest.is_some_and(|rest| !rest.ends_with(word))
                };
                at >= from && receivers.iter().any(named)
            })
        })
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            found.extend(files(&path));
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found
}
