//! What a reviewer should not have to say: widths, sizes, arrows, where `unsafe` may stand, what
//! is left open, and whether the tables of rules are complete.

#![allow(clippy::unwrap_used, reason = "tests say what they expect")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS: usize = 100;
const LINES: usize = 600;

/// Leaf modules: may be used by everybody, use nobody but each other.
const LEAVES: &[&str] = &["checksum", "clock", "error", "ids", "planted", "sync", "versioned"];

/// Which top-level modules a top-level module may use, beside the leaves (docs/architecture.md).
const ARROWS: &[(&str, &[&str])] = &[
    ("storage", &[]),
    ("sim", &["storage"]),
    ("wal", &["storage"]),
    ("exec", &[]),
    ("state", &["exec"]),
    ("checkpoint", &["state", "storage"]),
    ("source", &["exec", "wal", "storage"]),
    ("sink", &["exec", "wal", "storage"]),
    ("stream", &["source", "sink", "checkpoint", "state", "exec", "wal", "storage"]),
];

/// The files that may hold `unsafe` (HOUSE_STYLE rule 19: leaf files of `storage`).
const UNSAFE: &[&str] = &[
    "src/storage/buffer.rs",
    "src/storage/lock.rs",
    "src/storage/mmap.rs",
    "src/storage/page.rs",
    "src/storage/staging_buffer.rs",
    "src/storage/uring.rs",
    "src/storage/uring/tests.rs",
    // Forks, to see that a forked child is told so. No part of the product.
    "tests/storage_processes.rs",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(folder)];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.map(|entry| entry.unwrap()) {
            let path = entry.path();
            if path.is_dir() {
                if !["target", "corpus", "fixtures", "ui"].iter().any(|skip| path.ends_with(skip)) {
                    todo.push(path);
                }
            } else if path.to_string_lossy().ends_with(ending) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(String, String)> {
    let folders = ["src", "tests", "benches", "examples", "fuzz"];
    folders.iter().flat_map(|folder| files_below(folder, ".rs")).collect()
}

fn documents() -> Vec<(String, String)> {
    let mut all = files_below("docs", ".md");
    for name in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"] {
        all.push((name.to_owned(), fs::read_to_string(root().join(name)).unwrap()));
    }
    all.extend(files_below("src", ".md"));
    all
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Whether a file below `src` holds nothing but tests.
fn only_tests(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/")
}

/// The part of a file before its unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

#[test]
fn lines_are_at_most_100_columns_and_ascii() {
    let mut found = Vec::new();
    for (name, text) in rust_files().into_iter().chain(documents()) {
        let mut verbatim = false;
        for (number, line) in text.lines().enumerate() {
            verbatim ^= line.trim_start().starts_with("```");
            let table = name.ends_with(".md") && (verbatim || line.trim_start().starts_with('|'));
            let code = name.ends_with(".md") && line.starts_with("    ");
            if !line.is_ascii() {
                found.push(format!("{name}:{}: not ASCII", number + 1));
            }
            if line.len() > COLUMNS && !table && !code && !line.contains("https://") {
                found.push(format!("{name}:{}: {} columns", number + 1, line.len()));
            }
        }
    }
    assert_none("too wide or not ASCII", &found);
}

#[test]
fn files_are_at_most_600_lines() {
    let long = rust_files().into_iter().filter(|(_, text)| text.lines().count() > LINES);
    let found: Vec<_> =
        long.map(|(name, text)| format!("{name}: {}", text.lines().count())).collect();
    assert_none("over 600 lines", &found);
}

#[test]
fn dependencies_point_one_way() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let modules: Vec<_> = LEAVES.iter().chain(arrows.keys()).copied().collect();
    let mut found = Vec::new();
    for (name, text) in files_below("src", ".rs") {
        if only_tests(&name) {
            continue;
        }
        let module = name.trim_start_matches("src/").split(['/', '.']).next().unwrap();
        let leaf = LEAVES.contains(&module);
        let Some(allowed) = arrows.get(module).copied().or(leaf.then_some(&[][..])) else {
            continue;
        };
        for (number, line) in product(&text).lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for used in line.split("crate::").skip(1) {
                let used: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = modules.contains(&used.as_str())
                    || [
                        "engine",
                        "inspect",
                        "recovery",
                        "savepoint",
                        "options",
                        "testing",
                        "fuzzing",
                    ]
                    .contains(&used.as_str());
                let fine = used == module || LEAVES.contains(&&*used) || allowed.contains(&&*used);
                if known && !fine {
                    found.push(format!("{name}:{}: {module} -> {used}", number + 1));
                }
            }
        }
    }
    assert_none("arrows that point up", &found);
}

#[test]
fn only_storage_touches_files() {
    let mut found = Vec::new();
    for (name, text) in files_below("src", ".rs") {
        // `sync` asks the kernel for futexes, not for files.
        let exempt = ["src/storage/", "src/bin/", "src/sync/machine.rs"];
        if only_tests(&name) || exempt.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (number, line) in product(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let touches = ["std::fs", "libc::", "rustix::", "memmap2::", "io_uring::", "RawFd"];
            if touches.iter().any(|word| code.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("files touched outside storage", &found);
}

#[test]
fn exec_knows_no_path_and_no_clock() {
    let mut found = Vec::new();
    for (name, text) in files_below("src/exec", ".rs") {
        let words = ["std::path", "Instant", "SystemTime", "Lsn", "clock"];
        for (number, line) in product(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("exec knows too much", &found);
}

#[test]
fn unsafe_stands_only_in_named_files() {
    let files = rust_files().into_iter().filter(|(name, _)| !UNSAFE.contains(&name.as_str()));
    let mut found = Vec::new();
    for (name, text) in files {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let is_word = code
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|w| w == concat!("un", "safe"));
            if is_word {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("outside their files", &found);
}

#[test]
fn nothing_is_left_open() {
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    let macros = [concat!("to", "do!("), concat!("unimple", "mented!(")];
    let mut found = Vec::new();
    for (name, text) in rust_files().into_iter().chain(documents()) {
        for (number, line) in text.lines().enumerate() {
            if words.iter().chain(&macros).any(|word| line.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("left open", &found);
}

#[test]
fn documents_have_one_title_and_live_links() {
    let mut found = Vec::new();
    for (name, text) in documents() {
        let mut verbatim = false;
        let mut titles = 0;
        for line in text.lines() {
            verbatim ^= line.starts_with("```");
            titles += usize::from(!verbatim && line.starts_with("# "));
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap();
                let outside = file.is_empty() || target.contains("://");
                let base = root().join(&name);
                let base = base.parent().unwrap_or(Path::new(""));
                if !outside && !verbatim && !base.join(file).exists() {
                    found.push(format!("{name}: dead link {target}"));
                }
            }
        }
        if titles != 1 {
            found.push(format!("{name}: {titles} titles"));
        }
    }
    assert_none("documents", &found);
}

#[test]
fn ignored_tests_are_named_in_the_testing_document() {
    let testing = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let mut found = Vec::new();
    for (name, text) in rust_files() {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if !line.trim_start().starts_with("#[ignore") {
                continue;
            }
            let function = lines.find(|line| line.contains("fn ")).unwrap_or_default();
            let test = function.split("fn ").nth(1).unwrap_or("").split('(').next().unwrap();
            if !testing.contains(test) {
                found.push(format!("{name}: {test}"));
            }
        }
    }
    assert_none("ignored tests that docs/testing.md does not name", &found);
}

#[test]
fn every_rule_is_listed_kept_or_not_yet() {
    let rules = fs::read_to_string(root().join("docs/rules.md")).unwrap();
    let sources: String = rust_files().into_iter().map(|(_, text)| text).collect();
    let mut found = Vec::new();
    let numbers = (1..=24).map(|n| format!("L{n}")).chain((1..=21).map(|n| format!("E{n}")));
    for rule in numbers {
        let row = rules.lines().find(|line| line.starts_with(&format!("| {rule} ")));
        let Some(row) = row else {
            found.push(format!("{rule}: no row"));
            continue;
        };
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        match cells.get(3).copied() {
            Some("kept" | "part") => {
                for test in cells[4].split('`').skip(1).step_by(2) {
                    if !sources.contains(&format!("fn {test}(")) {
                        found.push(format!("{rule}: no test named {test}"));
                    }
                }
                if !cells[4].contains('`') {
                    found.push(format!("{rule}: kept, but no test named"));
                }
            }
            Some("not yet") => {}
            other => found.push(format!("{rule}: status {other:?}")),
        }
    }
    assert_none("docs/rules.md", &found);
}

/// The tests that the last cell of a table's row names.
fn tests_of(row: &str) -> Vec<&str> {
    let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    let names = last.split('`').skip(1).step_by(2);
    let names = names.map(|test| test.rsplit("::").next().unwrap_or(test));
    let is_name = |name: &&str| {
        name.contains('_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    names.filter(is_name).collect()
}

#[test]
fn tables_name_tests_that_exist() {
    let sources: String = rust_files().into_iter().map(|(_, text)| text).collect();
    let mut found = Vec::new();
    for document in ["docs/recovery.md", "docs/execution.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for row in text.lines().filter(|line| line.starts_with('|')) {
            for name in tests_of(row) {
                if !sources.contains(&format!("fn {name}")) {
                    found.push(format!("{document}: {name}"));
                }
            }
        }
    }
    assert_none("rows whose test does not exist", &found);
}

/// The gate finds them by their names.
#[test]
fn tests_that_plant_bugs_say_so_in_their_names() {
    const ATTRIBUTE: &str = "#[cfg(feature = \"planted\")]\n";
    let (mut found, mut seen) = (Vec::new(), 0);
    for (path, text) in files_below("tests", ".rs") {
        for (at, _) in text.match_indices(ATTRIBUTE) {
            let mut below = text[at + ATTRIBUTE.len()..].lines();
            let is_test = |line: &str| line.trim() == "#[test]";
            let mut test = text[..at].lines().last().is_some_and(is_test);
            let item = below.find(|line| {
                test |= is_test(line);
                !line.trim_start().starts_with('#')
            });
            let Some(name) = item.and_then(|line| line.trim().strip_prefix("fn ")) else {
                continue;
            };
            let name = name.split('(').next().unwrap_or_default();
            seen += usize::from(test);
            if test && !["planted", "caught", "noticed"].iter().any(|word| name.contains(word)) {
                found.push(format!("{path}: {name}"));
            }
        }
    }
    assert!(seen > 15, "{seen}");
    assert_none("tests that plant bugs without saying so", &found);
}

#[test]
fn each_row_of_recoverys_tables_names_a_test() {
    let text = fs::read_to_string(root().join("docs/recovery.md")).unwrap();
    let (mut found, mut rows, mut of_tests) = (Vec::new(), 0, false);
    for line in text.lines() {
        if !line.starts_with('|') {
            of_tests = false;
        } else if line.ends_with("| Test |") {
            of_tests = true;
        } else if of_tests && !line.starts_with("|---") {
            rows += 1;
            if tests_of(line).is_empty() {
                found.push(line.to_owned());
            }
        }
    }
    assert!(rows >= 70, "{rows} rows");
    assert_none("rows without a test", &found);
}

/// Each rule that can be switched off is in the table that says what notices it.
#[test]
fn planted_bugs_are_named_in_the_testing_document() {
    let testing = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let planted = fs::read_to_string(root().join("src/planted.rs")).unwrap();
    let lines = planted.lines().filter(|line| line.contains(" => \"") && line.ends_with("\","));
    let names: Vec<_> = lines.filter_map(|line| line.split('"').nth(1)).collect();
    assert!(names.len() > 30, "{names:?}");
    let missing = names.iter().filter(|name| !testing.contains(&format!("| `{name}` |")));
    let found: Vec<String> = missing.map(|name| (*name).to_owned()).collect();
    assert_none("planted bugs without a row in docs/testing.md", &found);
}
