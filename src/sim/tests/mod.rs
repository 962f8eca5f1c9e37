//! One test for each line of the fault model, and what they share.

mod cuts;
mod durability;
mod faults;
mod latency;
mod medium;
mod names;
mod random;
mod repeat;

use std::path::Path;
use std::sync::Arc;

use super::{Device, SimDisk, SimOptions};
use crate::storage::{
    AlignedBuf, BLOCK, Channel, Completion, Directory, File, Op, OpenMode, Storage,
};

const PATH: &str = "/d/f";

fn fua() -> SimOptions {
    SimOptions { device: Device::Fua, ..SimOptions::default() }
}

/// A directory with one durable file of `blocks` zeroed blocks.
struct Bench {
    disk: SimDisk,
    directory: Arc<dyn Directory>,
    file: Arc<dyn File>,
    channel: Box<dyn Channel>,
}

impl Bench {
    fn new(options: SimOptions, blocks: usize, mode: OpenMode) -> Bench {
        Bench::seeded(1, options, blocks, mode)
    }

    fn seeded(seed: u64, options: SimOptions, blocks: usize, mode: OpenMode) -> Bench {
        let disk = SimDisk::with_options(seed, options);
        disk.write_file(PATH, &vec![0; blocks * BLOCK]);
        let directory = disk.directory(Path::new("/d"), false).unwrap();
        let file = directory.open("f", mode).unwrap();
        let channel = directory.channel().unwrap();
        Bench { disk, directory, file, channel }
    }

    /// A write of one block of `byte`.
    fn op(&self, block: u64, byte: u8, durable: bool) -> Op {
        write(&self.file, block, byte, durable)
    }

    fn write(&mut self, block: u64, byte: u8, durable: bool) -> Completion {
        let op = self.op(block, byte, durable);
        self.channel.run(op)
    }

    fn written(&mut self, block: u64, byte: u8, durable: bool) {
        assert_eq!(self.write(block, byte, durable).result.unwrap(), BLOCK);
    }

    fn sync(&mut self) -> Completion {
        let file = Arc::clone(&self.file);
        self.channel.run(Op::Sync { file })
    }
}

fn write(file: &Arc<dyn File>, block: u64, byte: u8, durable: bool) -> Op {
    let mut buffer = AlignedBuf::zeroed(BLOCK);
    buffer.fill(byte);
    Op::Write { file: Arc::clone(file), offset: block * BLOCK as u64, buffer, durable }
}

/// The first byte of each block of the file.
fn blocks(disk: &SimDisk) -> Vec<u8> {
    disk.read_file(PATH).unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}
