//! Text files, the awkward ones included, on the simulated disk and on a real one.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::files::Files;
use super::text_plan::{PlannedText, Position, cut};
use super::{Attached, LastRead, Limit, Planned, Source, SourceContext, StreamSource, TextFiles};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Bytes, Executor, Name};
use crate::ids::to_usize;
use crate::sim::SimDisk;
use crate::storage::{BackendChoice, Storage, SystemStorage};
use crate::sync::Arc;

const NAME: Name = Name::new("files");

fn system() -> Arc<dyn Storage> {
    Arc::new(SystemStorage::new(BackendChoice::Auto).unwrap())
}

fn attach<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Attached<Bytes> {
    TextFiles::new(paths).attach(NAME)
}

/// Runs one planned input; gives its rows and its digest.
fn read(
    storage: &Arc<dyn Storage>,
    source: &dyn Source,
    input: &[u8],
) -> Result<(Vec<Vec<u8>>, Vec<u8>)> {
    let opened = source.open(SourceContext { storage }, input)?;
    let mut rows = Vec::new();
    for partition in 0..opened.input().partitions() {
        opened.input().rows(partition, &mut |row| rows.push(row.to_vec()))?;
    }
    Ok((rows, opened.input().digest()?))
}

/// A source that was read up to a place.
struct Reading {
    source: Arc<dyn Source>,
    position: Option<Vec<u8>>,
    rows: Vec<Vec<u8>>,
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl Reading {
    fn new<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Reading {
        Reading { source: attach(paths).source, position: None, rows: Vec::new(), last: None }
    }

    fn plan(&self, storage: &Arc<dyn Storage>, limit: u64) -> Result<Option<Planned>> {
        self.source.plan(SourceContext { storage }, self.position.as_deref(), Limit::bytes(limit))
    }

    /// Plans and reads one batch; `false`: there was none.
    fn batch(&mut self, storage: &Arc<dyn Storage>, limit: u64) -> Result<bool> {
        let Some(planned) = self.plan(storage, limit)? else { return Ok(false) };
        let (rows, digest) = read(storage, &*self.source, &planned.input)?;
        self.rows.extend(rows);
        self.position = Some(planned.next);
        self.last = Some((planned.input, digest));
        Ok(true)
    }

    fn all(&mut self, storage: &Arc<dyn Storage>, limit: u64) -> Result<u32> {
        let mut batches = 0;
        while self.batch(storage, limit)? {
            batches += 1;
        }
        assert!(self.source.exhausted(self.position.as_deref())?);
        Ok(batches)
    }

    fn verify(&self, storage: &Arc<dyn Storage>, source: &dyn Source) -> Result<()> {
        let last = self.last.as_ref().map(|(input, digest)| LastRead { input, digest });
        let position = self.position.as_deref().unwrap();
        source.verify_position(SourceContext { storage }, position, last)
    }
}

fn lines(files: &[&[u8]]) -> Vec<Vec<u8>> {
    let of = |bytes: &&[u8]| {
        let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes).to_vec();
        let lines = whole.split(|byte| *byte == b'\n').map(Vec::from).collect::<Vec<_>>();
        if bytes.is_empty() { Vec::new() } else { lines }
    };
    files.iter().flat_map(of).collect()
}

#[test]
fn awkward_files_give_their_lines() {
    let place = TempDir::new().unwrap();
    let contents: [&[u8]; 8] = [
        b"",
        b"one\ntwo\n",
        b"no newline at the end",
        b"",
        b"\n\n\r\n\xff\xfe\0bytes\n\0",
        b"\n",
        b"one\ntwo\n",
        b"",
    ];
    let path = |index: usize| place.path().join(format!("{index}.txt"));
    for (index, bytes) in contents.iter().enumerate() {
        fs::write(path(index), bytes).unwrap();
    }
    // One file is named twice, and counts twice.
    let paths = || (0..contents.len()).chain([1]).map(path);
    let expected = lines(&[&contents[..], &contents[1..2]].concat());
    for limit in [0, 1, 3, 7, 20, 1000, u64::MAX] {
        let storage = system();
        let mut reading = Reading::new(paths());
        let batches = reading.all(&storage, limit).unwrap();
        assert_eq!(reading.rows, expected, "limit {limit}");
        assert!(if limit > 100 { batches == 1 } else { batches > 1 });
        let bytes: usize = contents.iter().map(|bytes| bytes.len()).sum::<usize>() + 8;
        let read = reading.source.amount_read();
        assert_eq!((to_usize(read.bytes), to_usize(read.records)), (bytes, expected.len()));
        reading.verify(&storage, &*attach(paths()).source).unwrap();
    }
}

#[test]
fn files_without_bytes_are_one_batch_without_rows() {
    let place = TempDir::new().unwrap();
    fs::write(place.path().join("a"), b"").unwrap();
    let mut reading = Reading::new([place.path().join("a")]);
    assert!(!reading.source.exhausted(None).unwrap());
    assert_eq!(reading.all(&system(), 10).unwrap(), 1);
    assert_eq!(reading.rows, Vec::<Vec<u8>>::new());
    let mut none = Reading::new(Vec::<PathBuf>::new());
    assert_eq!(none.all(&system(), 10).unwrap(), 0);
}

#[test]
fn what_cannot_be_an_input_is_refused_by_name() {
    let place = TempDir::new().unwrap();
    let good = place.path().join("good");
    fs::write(&good, b"line\n").unwrap();
    let refused = |path: PathBuf| -> Error {
        let reading = Reading::new([good.clone(), path.clone()]);
        let error = reading.plan(&system(), 10).unwrap_err();
        assert_eq!(error.path(), Some(&*path), "{error}");
        error
    };
    assert_eq!(refused(place.path().join("missing")).kind(), ErrorKind::Io);
    assert_eq!(refused(place.path().join("no/such/directory")).kind(), ErrorKind::Io);
    assert_eq!(refused(place.path().to_owned()).kind(), ErrorKind::Invalid);
    assert_eq!(refused(PathBuf::from("/")).kind(), ErrorKind::Invalid);
    assert_eq!(refused(good.join("")).kind(), ErrorKind::Invalid);
    assert_eq!(refused(good.join("below a file")).kind(), ErrorKind::Io);
    assert_eq!(refused(PathBuf::from("/dev/null")).kind(), ErrorKind::Invalid);
    let unreadable = place.path().join("unreadable");
    fs::write(&unreadable, b"secret\n").unwrap();
    let none = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    fs::set_permissions(&unreadable, none).unwrap();
    if fs::read(&unreadable).is_ok() {
        println!("skipped: this user may read every file, so none is unreadable");
    } else {
        assert_eq!(refused(unreadable).kind(), ErrorKind::Io);
    }
    let name = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    let name: &std::ffi::OsStr = name;
    assert_eq!(refused(place.path().join(name)).kind(), ErrorKind::Invalid);
}

/// Two files, of which the first batch reads half of the first.
fn half_read(place: &Path) -> (Arc<dyn Storage>, Vec<PathBuf>, Reading) {
    let paths = vec![place.join("a"), place.join("b")];
    fs::write(&paths[0], b"aaaa\nbbbb\ncccc\ndddd\n").unwrap();
    fs::write(&paths[1], b"eeee\n").unwrap();
    let storage = system();
    let mut reading = Reading::new(paths.clone());
    assert!(reading.batch(&storage, 10).unwrap());
    assert_eq!(reading.rows, [b"aaaa", b"bbbb"]);
    (storage, paths, reading)
}

/// What is done to a file, and to which.
type Damage = (&'static str, usize, fn(&Path));

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
    // Nothing but the bytes tells.
    file.set_modified(modified).unwrap();
}

const DAMAGES: [Damage; 7] = [
    ("gone", 0, |path| fs::remove_file(path).unwrap()),
    ("gone", 1, |path| fs::remove_file(path).unwrap()),
    ("grew", 1, |path| fs::write(path, b"eeee\nffff\n").unwrap()),
    ("shrank", 0, |path| fs::write(path, b"aaaa\n").unwrap()),
    ("written to", 1, |path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }),
    ("no regular file", 0, |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("changed", 0, |path| overwrite(path, 6, b"X")),
];

#[test]
fn changed_files_are_noticed_after_a_restart() {
    for (how, which, damage) in DAMAGES {
        let place = TempDir::new().unwrap();
        let (storage, paths, reading) = half_read(place.path());
        let again = attach(paths.clone()).source;
        reading.verify(&storage, &*again).unwrap();
        damage(&paths[which]);
        let error = reading.verify(&storage, &*again).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{how}");
        assert_eq!(error.path(), Some(&*paths[which]), "{how}");
        assert!(error.to_string().contains(how), "{how}: {error}");
        let read = again.amount_read();
        assert!(read.bytes > 0 && read.records > 0, "what was read to verify is read, too");
    }
}

#[test]
fn changed_files_are_noticed_while_running() {
    for (how, which, damage) in DAMAGES {
        let place = TempDir::new().unwrap();
        let (storage, paths, mut reading) = half_read(place.path());
        damage(&paths[which]);
        // Either the planned batch read again, or the rest of the input.
        let (input, recorded) = reading.last.clone().unwrap();
        let again = read(&storage, &*reading.source, &input).and_then(|(_, actual)| {
            reading.source.verify_digest(&input, &recorded, &actual)?;
            reading.all(&storage, 1000)
        });
        let error = again.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{how}: {error}");
        assert_eq!(error.path(), Some(&*paths[which]), "{how}: {error}");
    }
}

#[test]
fn a_range_that_changes_between_two_readings_of_a_batch_is_noticed() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a");
    fs::write(&path, b"aaaa\nbbbb\n").unwrap();
    let (storage, reading) = (system(), Reading::new([path.clone()]));
    let planned = reading.plan(&storage, 100).unwrap().unwrap();
    let opened = reading.source.open(SourceContext { storage: &storage }, &planned.input).unwrap();
    let rows = || opened.input().rows(0, &mut |_| ());
    rows().and_then(|()| rows()).unwrap();
    overwrite(&path, 0, b"A");
    let error = rows().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    assert!(error.to_string().contains("bytes 0..10"), "{error}");
}

#[test]
fn planted_no_digest_check_is_caught() {
    use crate::planted::{Bug, with_planted};
    let place = TempDir::new().unwrap();
    let (storage, paths, reading) = half_read(place.path());
    let (input, recorded) = reading.last.clone().unwrap();
    overwrite(&paths[0], 6, b"X");
    let compare = || {
        let (_, actual) = read(&storage, &*reading.source, &input)?;
        reading.source.verify_digest(&input, &recorded, &actual)?;
        reading.verify(&storage, &*attach(paths.clone()).source)
    };
    assert_eq!(compare().unwrap_err().kind(), ErrorKind::SourceChanged);
    // What the tests above would see: other rows for a batch that was read, and no error.
    with_planted(Bug::NoDigestCheck, || compare().unwrap());
}

#[test]
fn a_file_truncated_while_it_is_read_is_noticed() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a");
    fs::write(&path, b"0123456789abcde\n".repeat(80_000)).unwrap();
    let (storage, reading) = (system(), Reading::new([path.clone()]));
    let planned = reading.plan(&storage, u64::MAX).unwrap().unwrap();
    let opened = reading.source.open(SourceContext { storage: &storage }, &planned.input).unwrap();
    let mut rows = 0;
    let read = opened.input().rows(0, &mut |_| {
        if rows == 0 {
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(300_000).unwrap();
        }
        rows += 1;
    });
    let error = read.unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::SourceChanged, Some(&*path)));
    assert!(rows < 80_000);
}

#[test]
fn other_files_or_another_order_are_another_job() {
    let place = TempDir::new().unwrap();
    let (storage, paths, reading) = half_read(place.path());
    let (a, b) = (paths[0].clone(), paths[1].clone());
    let cases = [
        (vec![b.clone(), a.clone()], &a),
        (vec![a.clone()], &b),
        (vec![a.clone(), b.clone(), a.clone()], &a),
        (vec![], &a),
    ];
    for (given, named) in cases {
        let other = attach(given).source;
        let error = reading.verify(&storage, &*other).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::JobMismatch, Some(&**named)));
        let cx = SourceContext { storage: &storage };
        let error = other.plan(cx, reading.position.as_deref(), Limit::bytes(10)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::JobMismatch);
    }
}

fn long_line(length: usize) {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a");
    let mut bytes = b"short\n".to_vec();
    bytes.resize(length, b'x');
    bytes.extend_from_slice(b"\nend\n");
    fs::write(&path, &bytes).unwrap();
    let mut reading = Reading::new([path]);
    assert_eq!(reading.all(&system(), 1 << 20).unwrap(), 2);
    assert_eq!(reading.rows.iter().map(Vec::len).collect::<Vec<_>>(), [5, length - 6, 3]);
}

#[test]
fn a_line_longer_than_the_limit_is_one_row() {
    long_line(5 << 20);
}

#[test]
fn a_line_of_100_mib_is_one_row() {
    long_line(100 << 20);
}

#[test]
fn a_medium_that_refuses_to_read_is_not_a_changed_file() {
    let disk = SimDisk::new(1);
    disk.write_file("/in/a", &b"0123456\n".repeat(1000));
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut reading = Reading::new(["/in/a"]);
    assert!(reading.batch(&storage, 4000).unwrap());
    disk.fail_reads_at("/in/a", 4096).unwrap();
    let error = reading.all(&storage, 4000).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Unreadable, Some(Path::new("/in/a"))));
}

#[test]
fn datasets_read_what_was_planned_with_any_number_of_threads() {
    let place = TempDir::new().unwrap();
    let text: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    let path = place.path().join("a");
    fs::write(&path, &text).unwrap();
    let storage = system();
    let cx = SourceContext { storage: &storage };
    let expected: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
    for threads in [1, 4] {
        let Attached { source, rows } = attach([path.clone()]);
        let executor = Executor::new(threads, 4).unwrap();
        let planned = source.plan(cx, None, Limit::bytes(1 << 20)).unwrap().unwrap();
        let opened = source.open(cx, &planned.input).unwrap();
        assert_eq!(opened.input().partitions(), 4, "256 KiB of 1 MiB each in sixteenths");
        let run = executor.context().with_input(source.name(), opened);
        assert_eq!(executor.collect(&run, &rows).unwrap(), expected);
        let without = executor.collect(&executor.context(), &rows).unwrap_err();
        assert_eq!(without.kind(), ErrorKind::Invalid);
    }
}

fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let byte = prop_oneof![3 => Just(b'\n'), 1 => Just(b'\r'), 9 => any::<u8>()];
    let file = prop_oneof![
        3 => prop::collection::vec(byte, 0..300),
        // Longer than the first probe for a newline.
        1 => (0..20_000usize, 0..2_000usize).prop_map(|(long, end)| {
            [vec![b'x'; long], vec![b'\n'], vec![b'y'; end]].concat()
        }),
    ];
    prop::collection::vec(file, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn ranges_cover_every_byte_once_and_end_behind_lines(
        contents in contents(), limit in 1u64..3000, partition in 1u64..600,
    ) {
        let disk = SimDisk::new(1);
        let paths: Vec<String> = (0..contents.len()).map(|index| format!("/in/{index}")).collect();
        for (path, bytes) in paths.iter().zip(&contents) {
            disk.write_file(path, bytes);
        }
        let storage: Arc<dyn Storage> = Arc::new(disk);
        let files = Files::new(&storage);
        let mut position = Position::first(&files, &paths).unwrap();
        let mut found = vec![Vec::new(); contents.len()];
        while !position.exhausted() {
            let mut again = Position::decode(&position.encode()).unwrap();
            let limit = Limit::bytes(limit);
            let planned = cut(&files, &mut position, limit, partition).unwrap();
            prop_assert_eq!(&cut(&files, &mut again, limit, partition).unwrap(), &planned);
            prop_assert_eq!(&again, &position);
            prop_assert!(planned.bytes() > 0);
            prop_assert_eq!(&PlannedText::decode(&planned.encode()).unwrap(), &planned);
            // Up to the last line, neither batch nor partition is over its size.
            let last = planned.pieces().last().unwrap();
            let last_index = to_usize(planned.files[to_usize(last.file.into())].0.into());
            let last_line = contents[last_index][..to_usize(last.end) - 1]
                .rsplit(|byte| *byte == b'\n').next().unwrap().len() + 1;
            prop_assert!(planned.bytes() < limit.bytes + last_line as u64);
            for piece in planned.pieces() {
                let index = to_usize(planned.files[to_usize(piece.file.into())].0.into());
                let (start, end) = (to_usize(piece.start), to_usize(piece.end));
                prop_assert_eq!(found[index].len(), start);
                found[index].extend_from_slice(&contents[index][start..end]);
                prop_assert!(end == contents[index].len() || contents[index][end - 1] == b'\n');
            }
        }
        prop_assert_eq!(found, contents);
    }

    #[test]
    fn rows_are_the_lines_whatever_the_limit(contents in contents(), limit in 1u64..100_000) {
        let disk = SimDisk::new(1);
        let paths: Vec<String> = (0..contents.len()).map(|index| format!("/in/{index}")).collect();
        for (path, bytes) in paths.iter().zip(&contents) {
            disk.write_file(path, bytes);
        }
        let storage: Arc<dyn Storage> = Arc::new(disk);
        let mut reading = Reading::new(paths);
        reading.all(&storage, limit).unwrap();
        let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(reading.rows, lines(&slices));
    }

    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>, valid in any::<bool>()) {
        let disk = SimDisk::new(1);
        disk.write_file("/in/a", b"a\nb\n");
        let storage: Arc<dyn Storage> = Arc::new(disk);
        let cx = SourceContext { storage: &storage };
        let source = attach(["/in/a"]).source;
        let bytes = if valid { [&[1], &bytes[..]].concat() } else { bytes };
        drop(source.plan(cx, Some(&bytes), Limit::bytes(100)));
        drop(source.exhausted(Some(&bytes)));
        drop(source.verify_digest(&bytes, &bytes, &bytes));
        if let Ok(opened) = source.open(cx, &bytes) {
            drop(opened.input().digest());
            drop(opened.input().describe(0));
        }
    }
}
