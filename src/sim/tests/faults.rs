use super::{Bench, PATH, blocks, write};
use crate::sim::{CrashOutcome, FaultKind, SimOptions};
use crate::storage::{AlignedBuf, BLOCK, Op, OpenMode};
use std::sync::Arc;

const EIO: i32 = 5;
const EINVAL: i32 = 22;

fn bench() -> Bench {
    Bench::new(SimOptions::default(), 2, OpenMode::WriteDirect)
}

fn lost(bench: &Bench) -> Vec<u8> {
    blocks(&bench.disk.power_cycle(CrashOutcome::LoseAll))
}

#[test]
fn ordered_failure_strikes_submit_or_completion() {
    for later in [1, 2] {
        let mut bench = bench();
        bench.disk.fail_op(bench.disk.ops() + later, EIO, FaultKind::NotExecuted);
        let completion = bench.write(0, 7, true);
        assert_eq!(completion.result.unwrap_err().errno(), Some(EIO));
        assert_eq!(completion.buffer.unwrap()[0], 7, "the buffer comes back");
        assert_eq!(blocks(&bench.disk), [0, 0]);
        assert!(!bench.disk.is_off());
        bench.written(1, 8, true);
        assert_eq!(lost(&bench), [0, 8]);
    }
}

#[test]
fn failure_may_be_reported_of_what_happened() {
    let mut bench = bench();
    bench.disk.fail_op(bench.disk.ops() + 2, EIO, FaultKind::ExecutedButReported);
    assert_eq!(bench.write(0, 7, true).result.unwrap_err().errno(), Some(EIO));
    assert_eq!(lost(&bench), [7, 0]);
}

#[test]
fn lock_reported_as_failed_is_free() {
    let bench = bench();
    bench.disk.fail_op(bench.disk.ops() + 1, EIO, FaultKind::ExecutedButReported);
    assert!(bench.directory.lock("LOCK", "one").is_err());
    assert!(bench.directory.lock("LOCK", "two").unwrap().is_ok());
}

#[test]
fn sticky_failure_stays() {
    let mut bench = bench();
    bench.disk.fail_from(bench.disk.ops() + 1, 28, FaultKind::NotExecuted);
    for _ in 0..3 {
        assert!(bench.write(0, 7, true).result.unwrap_err().is_disk_full());
    }
    assert!(bench.file.sync().is_err());
    assert!(bench.directory.open("g", OpenMode::Create).is_err());
}

#[test]
fn write_may_be_short() {
    let mut bench = bench();
    bench.disk.fail_op(bench.disk.ops() + 2, EIO, FaultKind::Short(512));
    assert_eq!(bench.write(0, 7, true).result.unwrap(), 512);
    let found = bench.disk.power_cycle(CrashOutcome::LoseAll).read_file(PATH).unwrap();
    assert_eq!((&found[..512], &found[512..]), (&[7; 512][..], &[0; 2 * BLOCK - 512][..]));
}

#[test]
fn failed_sync_forgets_what_it_should_have_written() {
    let mut bench = Bench::new(SimOptions::default(), 2, OpenMode::Write);
    bench.written(0, 7, false);
    bench.disk.fail_op(bench.disk.ops() + 2, EIO, FaultKind::NotExecuted);
    assert!(bench.sync().result.is_err());
    bench.sync().result.unwrap();
    bench.file.sync().unwrap();
    bench.written(1, 8, true);
    assert_eq!(blocks(&bench.disk), [7, 8], "the page cache still shows it");
    let direct = bench.directory.open("f", OpenMode::ReadDirect).unwrap();
    let buffer = AlignedBuf::zeroed(BLOCK);
    let read = bench.channel.run(Op::Read { file: direct, offset: 0, buffer });
    assert_eq!(read.buffer.unwrap()[0], 0, "the device never had it");
    let file = Arc::clone(&bench.file);
    let buffer = AlignedBuf::zeroed(BLOCK);
    let read = bench.channel.run(Op::Read { file, offset: 0, buffer });
    assert_eq!(read.buffer.unwrap()[0], 7);
    assert_eq!(lost(&bench), [0, 8], "two syncs succeeded and believed wrongly");
}

#[test]
fn direct_write_is_gone_after_a_failed_sync() {
    let mut bench = bench();
    bench.written(0, 7, false);
    bench.disk.fail_op(bench.disk.ops() + 1, EIO, FaultKind::NotExecuted);
    assert!(bench.file.sync().is_err());
    bench.file.sync().unwrap();
    assert_eq!(blocks(&bench.disk), [0, 0], "it was in no page cache");
    let found = bench.disk.kill();
    assert_eq!(blocks(&found), [0, 0]);
    assert_eq!(blocks(&found.power_cycle(CrashOutcome::KeepAll)), [0, 0], "and never comes back");
}

#[test]
fn rewriting_after_a_failed_sync_is_durable_again() {
    let mut bench = bench();
    bench.written(0, 7, false);
    bench.disk.fail_op(bench.disk.ops() + 1, EIO, FaultKind::NotExecuted);
    assert!(bench.file.sync().is_err());
    bench.written(0, 7, false);
    bench.file.sync().unwrap();
    assert_eq!(lost(&bench), [7, 0]);
}

#[test]
fn bad_sector_fails_reads_for_good() {
    let mut bench = bench();
    bench.disk.fail_reads_at(PATH, 5000).unwrap();
    bench.disk.fail_reads_at("/d/none", 0).unwrap_err();
    let mut read = |offset| {
        let (file, buffer) = (Arc::clone(&bench.file), AlignedBuf::zeroed(BLOCK));
        bench.channel.run(Op::Read { file, offset, buffer }).result
    };
    assert_eq!(read(0).unwrap(), BLOCK);
    assert_eq!(read(BLOCK as u64).unwrap_err().errno(), Some(EIO));
    assert_eq!(bench.file.map(2 * BLOCK as u64).unwrap_err().errno(), Some(EIO));
    bench.file.map(BLOCK as u64).unwrap();
    bench.directory.rename("f", "g").unwrap();
    let found = bench.disk.power_cycle(CrashOutcome::KeepAll);
    let directory = crate::storage::Storage::directory(&found, bench.directory.path(), false);
    let file = directory.unwrap().open("g", OpenMode::Read).unwrap();
    assert!(file.map(2 * BLOCK as u64).is_err());
}

#[test]
fn flipped_byte_is_flipped_everywhere() {
    let bench = bench();
    bench.disk.flip_byte(PATH, 4096, 0x41).unwrap();
    assert_eq!(blocks(&bench.disk), [0, 0x41]);
    assert_eq!(lost(&bench), [0, 0x41]);
}

#[test]
fn full_disk_refuses_and_shortens() {
    let mut bench = bench();
    bench.disk.capacity(Some(4 * BLOCK as u64));
    assert_eq!(bench.directory.free_bytes().unwrap(), 2 * BLOCK as u64);
    assert!(bench.file.allocate(5 * BLOCK as u64).unwrap_err().is_disk_full());
    let other = bench.directory.open("g", OpenMode::CreateDirect).unwrap();
    other.allocate(BLOCK as u64).unwrap();
    let mut buffer = AlignedBuf::zeroed(4 * BLOCK);
    buffer.fill(1);
    let file = Arc::clone(&other);
    let short = bench.channel.run(Op::Write { file, offset: 0, buffer, durable: true });
    assert_eq!(short.result.unwrap(), 2 * BLOCK, "what fits");
    assert!(bench.write(2, 1, true).result.unwrap_err().is_disk_full());
    bench.written(1, 1, true);
    drop(other);
    bench.directory.unlink("g").unwrap();
    assert!(bench.file.allocate(3 * BLOCK as u64).is_err(), "freed with the directory's sync");
    bench.directory.sync().unwrap();
    bench.file.allocate(4 * BLOCK as u64).unwrap();
}

#[test]
fn direct_files_want_whole_blocks() {
    let mut bench = bench();
    let mut errno = |offset, length| {
        let (file, buffer) = (Arc::clone(&bench.file), AlignedBuf::zeroed(length));
        let write = Op::Write { file, offset, buffer, durable: false };
        bench.channel.run(write).result.err().and_then(|failure| failure.errno())
    };
    assert_eq!(errno(512, BLOCK), Some(EINVAL));
    assert_eq!(errno(0, 512), Some(EINVAL));
    assert_eq!(errno(0, BLOCK), None);
}

#[test]
fn file_of_another_disk_is_refused() {
    let (mut one, two) = (bench(), bench());
    assert_eq!(one.channel.run(write(&two.file, 0, 1, true)).result.unwrap_err().errno(), Some(9));
}
