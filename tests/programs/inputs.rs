//! Awkward inputs through the word count itself: the right counts, or an error that names the file,
//! exit code 2 and nothing printed. Never a panic.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::*;

fn counts(texts: &[&[u8]]) {
    let job = job(texts);
    let output = job.run(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == expected(texts), "{texts:?}");
}

#[test]
fn odd_bytes_are_counted_like_any_others() {
    counts(&[b""]);
    counts(&[b"", b"\n", b" \t\n\x0b\x0c\r", b""]);
    counts(&[b"no final newline", b"ends a word\n", b"here"]);
    counts(&[b"\xff\xfe oak\xc0\x80 \xed\xa0\x80\n\xff\xfe\n"]);
    counts(&[b"\0 \0\0 a\0b\n\0\n", b"\0"]);
    counts(&[b"\r\noak\r\n\r\nash\r\n", b"\xef\xbb\xbfoak\xc2\xa0ash\xe2\x80\xa8elm\n"]);
    let every: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    counts(&[&every, &every[1..], &vec![b'\n'; 100_000], &vec![b'x'; 100_000]]);
}

/// What is refused, and the words that say why.
fn refused(path: &Path, why: &str) {
    let job = job(&[b"oak\n"]);
    let mut arguments = job.arguments(&[]);
    arguments.push(path.to_str().unwrap());
    let output = run(&arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{}: {said}", path.display());
    assert!(output.stdout.is_empty());
    let last = last_line(&output);
    assert!(last.contains(path.to_str().unwrap()) && last.contains(why), "{why}: {last}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn what_is_no_file_to_read_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "oak\n").unwrap();
    let at = |name: &str| place.path().join(name);
    refused(place.path(), "directory");
    refused(&at("missing"), "does not exist");
    refused(&at("no/such/place"), "");
    refused(&file.join("below"), "");
    refused(Path::new("/dev/null"), "no regular file");
    symlink(at("missing"), at("dangling")).unwrap();
    refused(&at("dangling"), "does not exist");
    symlink(at("loop"), at("loop")).unwrap();
    refused(&at("loop"), "");
    symlink(place.path(), at("to_directory")).unwrap();
    refused(&at("to_directory"), "directory");
    if Command::new("mkfifo").arg(at("pipe")).status().is_ok_and(|status| status.success()) {
        refused(&at("pipe"), "no regular file");
    }
    let unreadable = at("unreadable");
    fs::write(&unreadable, "secret\n").unwrap();
    fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o000)).unwrap();
    // Some users may read every file.
    if fs::read(&unreadable).is_err() {
        refused(&unreadable, "may not be read");
    }
}

/// One line of so many MiB, with words of up to 1 MiB: a line is one row, whatever its length.
fn a_line_of(mib: u8) {
    const MIB: usize = 1 << 20;
    let mut line = Vec::with_capacity((usize::from(mib) + 1) * MIB);
    let mut rows = Vec::new();
    for number in 0..mib {
        let word = vec![b'a' + number % 20; MIB - usize::from(number / 20) - 1];
        line.extend_from_slice(&word);
        line.push(b' ');
        rows.push(word);
    }
    line.extend_from_slice(b"oak oak\nash");
    rows.push(b"ash".to_vec());
    rows.sort();
    let job = job(&[&line]);
    let output = job.run(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ones = rows.iter().flat_map(|word| [b"1\t".as_slice(), word, b"\n"]);
    let expected = [b"2\toak\n".as_slice()].into_iter().chain(ones).collect::<Vec<_>>().concat();
    assert!(output.stdout == expected, "counts differ");
    assert_eq!(figure(&last_line(&output), "bytes_read"), u64::try_from(line.len()).ok());
}

#[test]
fn a_line_longer_than_a_batch_is_counted() {
    a_line_of(9);
}

#[test]
#[ignore = "slow in a debug build; `just kill-long` runs it"]
fn a_line_of_100_mib_is_counted() {
    a_line_of(100);
}

/// Between a kill and the next start: only the bytes tell, or only the time.
#[test]
fn a_file_that_changed_in_place_is_refused_at_the_next_start() {
    type Change = fn(&str);
    let changes: [Change; 3] = [
        // The same length and time, other bytes: the digest of the last range tells.
        |path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let mut bytes = fs::read(path).unwrap();
            bytes.iter_mut().filter(|byte| **byte == b'w').for_each(|byte| *byte = b'x');
            fs::write(path, bytes).unwrap();
            fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        },
        |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        },
        |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
    ];
    for change in changes {
        let job = job(&[&text(8, 400_000)]);
        job.kill_after_a_batch(&["--rate", "2000"]);
        change(&job.files[0]);
        let output = job.run(&[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(last_line(&output).contains(&job.files[0]), "{said}");
        assert!(output.stdout.is_empty() && !said.contains("panicked"), "{said}");
    }
}
