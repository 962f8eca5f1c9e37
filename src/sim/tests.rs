use std::path::Path;

use super::{CrashOutcome, SimDisk};
use crate::storage::{AlignedBuf, Op, OpenMode, Storage};

#[test]
fn plain_write_is_lost_with_the_power() {
    let disk = SimDisk::new(1);
    let directory = disk.directory(Path::new("/d"), true).unwrap();
    let file = directory.open("f", OpenMode::CreateDirect).unwrap();
    file.allocate(8192).unwrap();
    file.sync().unwrap();
    directory.sync().unwrap();
    let mut channel = directory.channel().unwrap();
    let mut buffer = AlignedBuf::zeroed(4096);
    buffer.fill(7);
    let done = channel.run(Op::Write { file, offset: 0, buffer, durable: false });
    assert_eq!(done.result.unwrap(), 4096);
    assert_eq!(disk.read_file("/d/f").unwrap()[..4096], [7; 4096]);
    assert_eq!(disk.power_cycle(CrashOutcome::LoseAll).read_file("/d/f").unwrap(), [0; 8192]);
    let kept = disk.power_cycle(CrashOutcome::KeepAll);
    assert_eq!(kept.read_file("/d/f").unwrap()[..4096], [7; 4096]);
}
