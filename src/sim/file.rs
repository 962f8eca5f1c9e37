//! Open files: one value is one open file description.

use std::any::Any;
use std::path::{Path, PathBuf};

use super::disk::SimDisk;
use super::fault::{EBADF, EFBIG, EIO};
use super::flight::Access;
use super::inode::ByteLock;
use super::state::State;
use crate::storage::{File, FileStamp, IoFailure, LockKind, Mapping, OpenMode};
use crate::sync::Arc;

#[derive(Debug)]
pub(super) struct SimFile {
    disk: SimDisk,
    path: Arc<Path>,
    number: u64,
    handle: u64,
    mode: OpenMode,
}

impl SimFile {
    pub(super) fn shared(
        disk: SimDisk,
        path: PathBuf,
        number: u64,
        handle: u64,
        mode: OpenMode,
    ) -> Arc<dyn File> {
        Arc::new(SimFile { disk, path: path.into(), number, handle, mode })
    }

    /// Its path, for whoever outlives it.
    pub(super) fn shared_path(&self) -> Arc<Path> {
        Arc::clone(&self.path)
    }

    fn writable(&self) -> bool {
        !matches!(self.mode, OpenMode::Read | OpenMode::ReadDirect)
    }

    fn direct(&self) -> bool {
        use OpenMode::{Create, CreateDirect, Read, ReadDirect, Write, WriteDirect};
        match self.mode {
            ReadDirect | CreateDirect | WriteDirect => true,
            Read | Create | Write => false,
        }
    }

    /// How an operation on `disk` may use the file; `None` if it lies on another disk.
    pub(super) fn access(&self, disk: &SimDisk) -> Option<Access> {
        let (inode, direct, writable) = (self.number, self.direct(), self.writable());
        self.disk.is_same(disk).then_some(Access { inode, direct, writable })
    }

    fn label(&self) -> String {
        self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into())
    }

    /// Changes the file's length by `effect`, if it may be changed at all.
    fn resize(
        &self,
        operation: &'static str,
        length: u64,
        effect: impl FnOnce(&mut State) -> Result<(), i32>,
    ) -> Result<(), IoFailure> {
        let label = self.label();
        let text = format_args!("{operation} {label} {length}");
        let mut state = self.disk.state();
        state.perform(operation, &self.path, text, |state| {
            if !self.writable() {
                return Err(EBADF);
            }
            if State::too_long(length, 0) {
                return Err(EFBIG);
            }
            effect(state)
        })
    }
}

impl State {
    /// A handle of the file goes.
    pub(super) fn release(&mut self, number: u64) {
        let Some(inode) = self.inodes.get_mut(&number) else { return };
        inode.handles -= 1;
        let names = self.directories.get(&inode.home);
        if inode.handles == 0 && names.is_some_and(|names| !names.refers_to(number)) {
            self.forget(number);
        }
    }
}

impl File for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn stamp(&self) -> Result<FileStamp, IoFailure> {
        self.disk.state().look("stat", &self.path, |state| {
            let home = state.inode(self.number)?.home.clone();
            let links = state.names(&home)?.visible.values();
            let links = links.filter(|number| **number == self.number).count() as u64;
            let inode = state.inode(self.number)?;
            let (length, modified_ns) = (inode.length, inode.modified_ns);
            Ok(FileStamp { length, modified_ns, inode: self.number, links })
        })
    }

    fn allocate(&self, length: u64) -> Result<(), IoFailure> {
        self.resize("allocate", length, |state| state.allocate(self.number, length))
    }

    fn set_length(&self, length: u64) -> Result<(), IoFailure> {
        self.resize("set length", length, |state| {
            let stamp = state.tick();
            let now = state.now_ns();
            let inode = state.inode(self.number)?;
            inode.set_length(length, stamp);
            inode.modified_ns = now;
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), IoFailure> {
        let label = self.label();
        let mut state = self.disk.state();
        let (stamp, done_at) = (state.stamp, state.sync_done_at());
        let mut state = self.disk.wait_until(done_at, state);
        state.perform_sync(
            &self.path,
            format_args!("sync file {label}"),
            |state| state.harden_file(self.number, stamp),
            |state| {
                if let Some(inode) = state.inodes.get_mut(&self.number) {
                    inode.spoil(stamp);
                }
            },
        )
    }

    fn map(&self, length: u64) -> Result<Mapping, IoFailure> {
        let mut state = self.disk.state();
        let there = state.look("map", &self.path, |state| Ok(state.inode(self.number)?.length))?;
        if length > there {
            let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(IoFailure::new("map", &self.path, &short).at(there));
        }
        let failure = |errno| IoFailure::from_errno("map", &self.path, errno);
        let inode = state.inode(self.number).map_err(failure)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| failure(EFBIG))?];
        inode.read(0, &mut bytes, false).ok_or_else(|| failure(EIO))?;
        let map = Mapping::from_bytes(bytes.into_boxed_slice());
        Ok(if state.options.cached { map } else { map.not_resident() })
    }

    fn try_lock(&self, byte: u64, kind: LockKind) -> Result<bool, IoFailure> {
        self.disk.state().look("lock", &self.path, |state| {
            let locks = &mut state.inode(self.number)?.byte_locks;
            let exclusive = |one: LockKind| one == LockKind::Exclusive;
            let blocked = locks.iter().any(|lock| {
                let other = lock.byte == byte && lock.handle != self.handle;
                other && (exclusive(kind) || exclusive(lock.kind))
            });
            if !blocked {
                locks.retain(|lock| lock.byte != byte || lock.handle != self.handle);
                locks.push(ByteLock { byte, handle: self.handle, kind });
            }
            Ok(!blocked)
        })
    }

    fn is_locked(&self, byte: u64) -> Result<bool, IoFailure> {
        self.disk.state().look("look at the lock", &self.path, |state| {
            let inode = state.inode(self.number)?;
            let whole = inode.locked_by.is_some();
            let others = inode.byte_locks.iter().filter(|lock| lock.handle != self.handle);
            let mut others = others.filter(|lock| lock.byte == byte);
            Ok(whole || others.any(|lock| lock.kind == LockKind::Exclusive))
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if let Some(inode) = state.inodes.get_mut(&self.number) {
            inode.byte_locks.retain(|lock| lock.handle != self.handle);
        }
        state.release(self.number);
    }
}
