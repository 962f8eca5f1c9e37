//! Random operations on three names, with everything that can overlap overlapping.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fua;
use crate::sim::rng::Rng;
use crate::sim::{CrashOutcome, SimDisk, SimOptions};
use crate::storage::{AlignedBuf, BLOCK, Channel, Directory, File, Op, OpenMode, Storage};

const NAMES: [&str; 3] = ["a", "b", "c"];

struct Player {
    rng: Rng,
    directory: Arc<dyn Directory>,
    channel: Box<dyn Channel>,
}

fn image(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.files();
    files.into_iter().map(|path| (path.clone(), disk.read_file(&path).unwrap())).collect()
}

impl Player {
    fn new(disk: &SimDisk, seed: u64) -> Player {
        let directory = disk.directory(Path::new("/d"), true).unwrap();
        let channel = directory.channel().unwrap();
        Player { rng: Rng::lane(seed, 9), directory, channel }
    }

    /// One of the names, and its file, which is made if need be.
    fn file(&mut self) -> (&'static str, Arc<dyn File>) {
        let name = NAMES[self.rng.below(3)];
        let open = self.directory.open(name, OpenMode::Write);
        (name, open.or_else(|_| self.directory.open(name, OpenMode::Create)).unwrap())
    }

    /// A write to the file of that name, direct or cached.
    fn write(&mut self, name: &str) -> Op {
        let (mut offset, mut length) = (self.rng.below(6 * BLOCK), 1 + self.rng.below(3 * BLOCK));
        let mut mode = OpenMode::Write;
        if self.rng.coin() {
            mode = OpenMode::WriteDirect;
            (offset, length) = (offset / BLOCK * BLOCK, length.next_multiple_of(BLOCK));
        }
        let file = self.directory.open(name, mode).unwrap();
        let mut buffer = AlignedBuf::zeroed(length);
        buffer.fill(self.rng.next().to_le_bytes()[0]);
        let durable = self.rng.below(4) == 0;
        Op::Write { file, offset: offset as u64, buffer, durable }
    }

    fn step(&mut self) {
        let (name, file) = self.file();
        match self.rng.below(10) {
            0..=3 => {
                let op = self.write(name);
                self.channel.run(op).result.unwrap();
            }
            4 => {
                for _ in 0..3 {
                    let op = self.write(name);
                    self.channel.submit(op);
                }
                while let Some(completion) = self.channel.complete() {
                    completion.result.unwrap();
                }
            }
            5 => file.set_length(self.rng.below(8 * BLOCK) as u64).unwrap(),
            6 => file.allocate(self.rng.below(8 * BLOCK) as u64).unwrap(),
            7 => assert_eq!(self.channel.run(Op::Sync { file }).result.unwrap(), 0),
            8 => {
                self.directory.rename(name, NAMES[self.rng.below(3)]).unwrap();
            }
            _ => match self.rng.below(3) {
                0 => self.directory.unlink(name).unwrap(),
                1 => self.directory.sync().unwrap(),
                _ => file.sync().unwrap(),
            },
        }
    }

    fn sync_everything(&mut self) {
        for name in self.directory.list().unwrap() {
            self.directory.open(&name, OpenMode::Read).unwrap().sync().unwrap();
        }
        self.directory.sync().unwrap();
    }
}

#[test]
fn a_crash_that_keeps_all_leaves_what_was_visible() {
    for seed in 0..200 {
        let options = if seed % 2 == 0 { fua() } else { SimOptions::default() };
        let disk = SimDisk::with_options(seed, options);
        let mut player = Player::new(&disk, seed);
        for _ in 0..60 {
            player.step();
        }
        let visible = image(&disk);
        let found = disk.power_cycle(CrashOutcome::KeepAll);
        assert_eq!(image(&found), visible, "seed {seed}\n{}", disk.trace());
    }
}

#[test]
fn what_was_synced_survives_every_outcome() {
    for seed in 0..200 {
        let options = if seed % 2 == 0 { fua() } else { SimOptions::default() };
        let disk = SimDisk::with_options(seed, options);
        let mut player = Player::new(&disk, seed);
        for _ in 0..60 {
            player.step();
        }
        player.sync_everything();
        let visible = image(&disk);
        let items = disk.pending_items();
        assert_eq!(items, 0, "seed {seed}\n{}", disk.trace());
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::Seeded(seed)] {
            let found = disk.power_cycle(outcome);
            assert_eq!(image(&found), visible, "seed {seed}\n{}", disk.trace());
        }
    }
}

/// Whatever a crash leaves, the disk found is a disk like any other.
#[test]
fn a_found_disk_works_on() {
    for seed in 0..50 {
        let mut disk = SimDisk::new(seed);
        for _ in 0..4 {
            let mut player = Player::new(&disk, seed);
            for _ in 0..20 {
                player.step();
            }
            disk = disk.power_cycle(CrashOutcome::Seeded(seed));
        }
        let mut player = Player::new(&disk, seed);
        player.sync_everything();
        let visible = image(&disk);
        assert_eq!(image(&disk.power_cycle(CrashOutcome::LoseAll)), visible, "seed {seed}");
    }
}
