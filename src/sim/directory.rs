//! Directories and their locks.

use std::path::{Path, PathBuf};

use super::channel::SimChannel;
use super::disk::SimDisk;
use super::fault::{EEXIST, EINVAL, EISDIR, ENOENT};
use super::file::SimFile;
use super::inode::Inode;
use super::names::NameChange;
use super::state::State;
use crate::storage::{
    Backend, BackendKind, Channel, Directory, File, IoFailure, Lock, OpenMode, PageView,
    SharedPage, Storage,
};
use crate::sync::Arc;

#[derive(Debug)]
pub(super) struct SimDirectory {
    disk: SimDisk,
    path: PathBuf,
}

impl SimDirectory {
    pub(super) fn open(
        disk: &SimDisk,
        path: &Path,
        create: bool,
    ) -> Result<Arc<dyn Directory>, IoFailure> {
        let mut state = disk.state();
        let blocked = path.ancestors().any(|part| state.lookup(part).is_some());
        let exists = state.directories.contains_key(path);
        if create && !exists && !blocked {
            state.perform("create directory", path, format_args!("mkdir {path:?}"), |state| {
                state.make_directory(path);
                Ok(())
            })?;
        } else {
            state.look("open directory", path, |_| match (exists, blocked) {
                (true, _) => Ok(()),
                (false, true) => Err(super::fault::ENOTDIR),
                (false, false) => Err(ENOENT),
            })?;
        }
        Ok(Arc::new(SimDirectory { disk: disk.clone(), path: path.to_owned() }))
    }

    /// The path of a name in this directory. A name is one component.
    fn name(&self, operation: &'static str, name: &str) -> Result<PathBuf, IoFailure> {
        let path = self.path.join(name);
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(IoFailure::from_errno(operation, path, EINVAL));
        }
        Ok(path)
    }

    fn open_existing(&self, path: PathBuf, mode: OpenMode) -> Result<Arc<dyn File>, IoFailure> {
        let mut state = self.disk.state();
        let number = state.look("open", &path, |state| {
            let number = state.lookup(&path);
            if number.is_none() && state.directories.contains_key(&path) {
                return Err(EISDIR);
            }
            number.ok_or(ENOENT)
        })?;
        let handle = state.fresh();
        state.adopt(number);
        drop(state);
        Ok(SimFile::shared(self.disk.clone(), path, number, handle, mode))
    }

    fn create(
        &self,
        path: PathBuf,
        name: &str,
        mode: OpenMode,
    ) -> Result<Arc<dyn File>, IoFailure> {
        let mut state = self.disk.state();
        let text = format_args!("create {name}");
        let number = state.perform("create", &path, text, |state| {
            if state.directories.contains_key(&path) {
                return Err(EISDIR);
            }
            if state.lookup(&path).is_some() {
                return Err(EEXIST);
            }
            state.create(&self.path, name)
        })?;
        let handle = state.fresh();
        state.adopt(number);
        drop(state);
        Ok(SimFile::shared(self.disk.clone(), path, number, handle, mode))
    }
}

impl State {
    /// A new, empty file with a name that is not durable yet.
    fn create(&mut self, home: &Path, name: &str) -> Result<u64, i32> {
        let number = self.fresh();
        let modified_ns = self.now_ns();
        let names = self.names(home)?;
        names.change(NameChange::Link { name: name.to_owned(), inode: number });
        let home = home.to_owned();
        self.inodes.insert(number, Inode { home, modified_ns, ..Inode::default() });
        Ok(number)
    }

    fn adopt(&mut self, number: u64) {
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.handles += 1;
        }
    }

    fn release_lock(&mut self, number: u64, key: u64) {
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.locked_by = inode.locked_by.filter(|holder| *holder != key);
        }
        self.release(number);
    }

    /// Takes the lock, or tells who has it.
    fn take_lock(
        &mut self,
        path: &Path,
        home: &Path,
        name: &str,
        holder: &str,
    ) -> Result<Result<(u64, u64), String>, i32> {
        if self.directories.contains_key(path) {
            return Err(EISDIR);
        }
        let number = match self.lookup(path) {
            Some(number) => number,
            None => self.create(home, name)?,
        };
        let key = self.fresh();
        let stamp = self.tick();
        let inode = self.inode(number)?;
        if inode.locked_by.is_some() {
            let mut said = vec![0; usize::try_from(inode.length).unwrap_or(0)];
            inode.visible.read(0, &mut said);
            return Ok(Err(String::from_utf8_lossy(&said).into_owned()));
        }
        inode.locked_by = Some(key);
        inode.handles += 1;
        inode.set_length(0, stamp);
        if !holder.is_empty() {
            inode.write(0, holder.as_bytes(), stamp, true);
        }
        Ok(Ok((number, key)))
    }
}

impl Directory for SimDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn backend(&self) -> Backend {
        Backend { kind: BackendKind::Simulated, direct: true }
    }

    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>, IoFailure> {
        self.disk.directory(&self.name("create directory", name)?, true)
    }

    fn list(&self) -> Result<Vec<String>, IoFailure> {
        self.disk.state().look("list", &self.path, |state| {
            Ok(state.names(&self.path)?.visible.keys().cloned().collect())
        })
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>, IoFailure> {
        let path = self.name("open", name)?;
        match mode {
            OpenMode::Create | OpenMode::CreateDirect => self.create(path, name, mode),
            OpenMode::Read | OpenMode::ReadDirect | OpenMode::Write | OpenMode::WriteDirect => {
                self.open_existing(path, mode)
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure> {
        let path = self.name("rename", from)?;
        let target = self.name("rename", to)?;
        let mut state = self.disk.state();
        state.perform("rename", &path, format_args!("rename {from} {to}"), |state| {
            if state.directories.contains_key(&target) {
                return Err(EISDIR);
            }
            let inode = state.lookup(&path).ok_or(ENOENT)?;
            if from != to {
                let (from, to) = (from.to_owned(), to.to_owned());
                state.names(&self.path)?.change(NameChange::Rename { from, to, inode });
            }
            Ok(())
        })
    }

    fn unlink(&self, name: &str) -> Result<(), IoFailure> {
        let path = self.name("unlink", name)?;
        let mut state = self.disk.state();
        state.perform("unlink", &path, format_args!("unlink {name}"), |state| {
            if state.directories.contains_key(&path) {
                return Err(EISDIR);
            }
            state.lookup(&path).ok_or(ENOENT)?;
            state.names(&self.path)?.change(NameChange::Unlink { name: name.to_owned() });
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), IoFailure> {
        let mut state = self.disk.state();
        let done_at = state.sync_done_at();
        let mut state = self.disk.wait_until(done_at, state);
        state.perform_sync(
            &self.path,
            format_args!("sync directory {:?}", self.path),
            |state| {
                if !state.options.lies
                    && let Some(names) = state.directories.get_mut(&self.path)
                {
                    names.harden();
                }
                state.collect(&self.path);
            },
            |state| {
                if state.options.names_forget
                    && let Some(names) = state.directories.get_mut(&self.path)
                {
                    names.spoil();
                }
            },
        )
    }

    fn lock(&self, name: &str, holder: &str) -> Result<Result<Box<dyn Lock>, String>, IoFailure> {
        let path = self.name("lock", name)?;
        let mut held = None;
        let mut state = self.disk.state();
        let taken = state.perform("lock", &path, format_args!("lock {name}"), |state| {
            let taken = state.take_lock(&path, &self.path, name, holder)?;
            held = taken.as_ref().ok().copied();
            Ok(taken)
        });
        if let (Err(_), Some((number, key))) = (&taken, held) {
            // Taken, and reported as failed: nobody has it.
            state.release_lock(number, key);
        }
        drop(state);
        let taken = taken?;
        Ok(taken.map(|(number, key)| -> Box<dyn Lock> {
            Box::new(SimLock { disk: self.disk.clone(), path, number, key })
        }))
    }

    fn channel(&self) -> Result<Box<dyn Channel>, IoFailure> {
        let mut state = self.disk.state();
        let number = state.look("open channel", &self.path, |state| Ok(state.fresh()))?;
        drop(state);
        Ok(Box::new(SimChannel::new(self.disk.clone(), number)))
    }

    fn free_bytes(&self) -> Result<u64, IoFailure> {
        self.disk.state().look("free space", &self.path, |state| Ok(state.free()))
    }

    fn overwrites_in_place(&self) -> bool {
        !self.disk.state().options.copy_on_write
    }

    fn new_page(&self) -> Option<(SharedPage, String)> {
        if !self.disk.state().options.pages {
            return None;
        }
        let page = SharedPage::new().ok()?;
        let address = page.address();
        Some((page, address))
    }

    fn open_page(&self, address: &str) -> Option<PageView> {
        PageView::open(address).ok()
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    number: u64,
    key: u64,
}

impl Lock for SimLock {
    fn is_current(&self) -> Result<bool, IoFailure> {
        let mut state = self.disk.state();
        state.look("check lock", &self.path, |state| {
            let held = state.inode(self.number)?.locked_by == Some(self.key);
            Ok(held && state.lookup(&self.path) == Some(self.number))
        })
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().release_lock(self.number, self.key);
    }
}
