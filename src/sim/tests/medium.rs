//! Devices that do not do what they report, and media that do not keep what they were given. Each
//! test shows the product of the model, and the same run without it.

use super::*;
use crate::sim::{CrashOutcome, FaultKind};

const BLOCK_64: u64 = BLOCK as u64;

fn bench(mode: OpenMode) -> Bench {
    Bench::new(SimOptions::default(), 3, mode)
}

fn lost(bench: &Bench) -> Vec<u8> {
    blocks(&bench.disk.power_cycle(CrashOutcome::LoseAll))
}

fn read(bench: &mut Bench, mode: OpenMode, block: u64) -> Result<u8, i32> {
    let file = bench.directory.open("f", mode).unwrap();
    let buffer = AlignedBuf::zeroed(BLOCK);
    let done = bench.channel.run(Op::Read { file, offset: block * BLOCK_64, buffer });
    let count = done.result.map_err(|failure| failure.errno().unwrap())?;
    assert_eq!(count, BLOCK);
    Ok(done.buffer.unwrap()[0])
}

#[test]
fn write_reported_done_may_be_dropped() {
    for (mode, cache) in [(OpenMode::WriteDirect, 0), (OpenMode::Write, 7)] {
        for strikes in [true, false] {
            let mut bench = bench(mode);
            if strikes {
                bench.disk.fail_op(bench.disk.ops() + 2, 0, FaultKind::Dropped);
            }
            bench.written(1, 7, true);
            bench.file.sync().unwrap();
            let there = if strikes { cache } else { 7 };
            assert_eq!(blocks(&bench.disk), [0, there, 0], "{mode:?} {strikes}");
            assert_eq!(lost(&bench), [0, if strikes { 0 } else { 7 }, 0]);
        }
    }
}

#[test]
fn sync_reported_done_may_be_dropped() {
    for strikes in [true, false] {
        let mut bench = bench(OpenMode::WriteDirect);
        bench.written(1, 7, false);
        if strikes {
            bench.disk.fail_op(bench.disk.ops() + 2, 0, FaultKind::Dropped);
        }
        bench.sync().result.unwrap();
        assert_eq!(lost(&bench), [0, if strikes { 0 } else { 7 }, 0]);
    }
    // It forgot nothing: a later one makes it durable.
    let mut bench = bench(OpenMode::WriteDirect);
    bench.written(1, 7, false);
    bench.disk.fail_op(bench.disk.ops() + 1, 0, FaultKind::Dropped);
    bench.file.sync().unwrap();
    bench.file.sync().unwrap();
    assert_eq!(lost(&bench), [0, 7, 0]);
}

#[test]
fn a_device_that_lies_makes_nothing_durable() {
    for lies in [true, false] {
        let options = SimOptions { lies, ..SimOptions::default() };
        let mut bench = Bench::new(options, 3, OpenMode::WriteDirect);
        bench.written(0, 7, true);
        bench.written(1, 7, false);
        bench.sync().result.unwrap();
        bench.directory.open("g", OpenMode::Create).unwrap();
        bench.directory.sync().unwrap();
        let found = bench.disk.power_cycle(CrashOutcome::LoseAll);
        let there = if lies { [0, 0, 0] } else { [7, 7, 0] };
        assert_eq!(blocks(&found), there);
        assert_eq!(found.files().len(), if lies { 1 } else { 2 });
        let found = bench.disk.power_cycle(CrashOutcome::KeepAll);
        assert_eq!(blocks(&found), [7, 7, 0], "it may all the same get there");
    }
}

#[test]
fn write_may_land_elsewhere() {
    for strikes in [true, false] {
        let mut bench = bench(OpenMode::WriteDirect);
        bench.written(2, 5, true);
        if strikes {
            bench.disk.fail_op(bench.disk.ops() + 2, 0, FaultKind::Misdirected(2 * BLOCK_64));
        }
        bench.written(1, 7, true);
        assert_eq!(lost(&bench), if strikes { [0, 0, 7] } else { [0, 7, 5] });
    }
}

#[test]
fn read_may_come_from_elsewhere() {
    let options = SimOptions { count_reads: true, ..SimOptions::default() };
    let mut bench = Bench::new(options, 3, OpenMode::WriteDirect);
    bench.written(1, 7, true);
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 0), Ok(0));
    // Opening counts, then submit and completion.
    bench.disk.fail_op(bench.disk.ops() + 3, 0, FaultKind::Misdirected(BLOCK_64));
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 0), Ok(7));
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 0), Ok(0));
}

#[test]
fn medium_rots_below_the_page_cache() {
    let mut bench = bench(OpenMode::WriteDirect);
    bench.written(1, 7, true);
    bench.disk.rot_byte(PATH, BLOCK_64, 0x80).unwrap();
    bench.disk.rot_byte("/d/none", 0, 1).unwrap_err();
    assert_eq!(read(&mut bench, OpenMode::Read, 1), Ok(7), "the page cache has it");
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 1), Ok(0x87));
    let found = bench.disk.power_cycle(CrashOutcome::KeepAll);
    let directory = found.directory(Path::new("/d"), false).unwrap();
    let file = directory.open("f", OpenMode::Read).unwrap();
    assert_eq!(file.map(2 * BLOCK_64).unwrap()[BLOCK], 0x87, "no page cache has it any more");
    let mut again = Bench::new(SimOptions::default(), 3, OpenMode::WriteDirect);
    again.disk.rot_byte(PATH, BLOCK_64, 0x80).unwrap();
    again.written(1, 7, true);
    assert_eq!(read(&mut again, OpenMode::ReadDirect, 1), Ok(7), "a write mends it");
}

#[test]
fn sector_may_read_stale_for_good() {
    let mut bench = bench(OpenMode::WriteDirect);
    bench.written(1, 5, true);
    bench.disk.stale_reads_at(PATH, BLOCK_64).unwrap();
    bench.written(1, 7, true);
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 1), Ok(5));
    assert_eq!(read(&mut bench, OpenMode::Read, 1), Ok(7), "the page cache has it");
    let file = bench.directory.open("f", OpenMode::ReadDirect).unwrap();
    let buffer = AlignedBuf::zeroed(BLOCK);
    let block = bench.channel.run(Op::Read { file, offset: BLOCK_64, buffer }).buffer.unwrap();
    assert_eq!((block[511], block[512]), (5, 7), "one sector of it");
}

#[test]
fn latent_error_is_healed_by_a_write() {
    let mut bench = bench(OpenMode::WriteDirect);
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 1), Ok(0));
    bench.disk.latent_error_at(PATH, BLOCK_64 + 700).unwrap();
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 1), Err(5));
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 0), Ok(0));
    bench.written(1, 7, true);
    assert_eq!(read(&mut bench, OpenMode::ReadDirect, 1), Ok(7));
}

#[test]
fn used_up_quota_says_so() {
    for (quota, errno) in [(true, 122), (false, 28)] {
        let options = SimOptions { quota, ..SimOptions::default() };
        let mut bench = Bench::new(options, 1, OpenMode::WriteDirect);
        bench.disk.capacity(Some(BLOCK_64));
        let failure = bench.file.allocate(2 * BLOCK_64).unwrap_err();
        assert_eq!(failure.errno(), Some(errno));
        assert!(failure.is_disk_full());
        assert_eq!(bench.write(1, 1, true).result.unwrap_err().errno(), Some(errno));
    }
}

#[test]
fn overwritten_bytes_are_on_the_medium_and_end_where_the_file_does() {
    let mut bench = bench(OpenMode::WriteDirect);
    bench.written(1, 7, true);
    let before = bench.disk.ops();
    bench.disk.overwrite("/d/f", BLOCK_64, &[9; BLOCK]).unwrap();
    bench.disk.overwrite("/d/f", 3 * BLOCK_64 - 1, &[5, 5]).unwrap();
    assert_eq!(bench.disk.ops(), before);
    assert_eq!((blocks(&bench.disk), lost(&bench)), (vec![0, 9, 0], vec![0, 9, 0]));
    let bytes = bench.disk.read_file("/d/f").unwrap();
    assert_eq!((bytes.len(), bytes.last()), (3 * BLOCK, Some(&5)));
    assert!(bench.disk.overwrite("/d/none", 0, &[1]).is_err());
}
