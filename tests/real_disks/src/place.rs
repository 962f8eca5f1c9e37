//! File systems of our own: made in memory, mounted where nobody else sees them.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::{Failure, Outcome};

/// Set for the process that has a mount namespace of its own.
const OWN: &str = "SAWMILL_REAL_DISKS_OWN_MOUNTS";
/// How long whoever still uses a file system may take to let it go.
const BUSY: Duration = Duration::from_secs(30);

/// A file system that can be made.
#[derive(Clone, Debug)]
pub(crate) struct FileSystem {
    pub(crate) name: &'static str,
    kind: &'static str,
    pub(crate) bytes: usize,
    make: &'static [&'static str],
    options: &'static str,
    /// Bytes of its blocks.
    pub(crate) block: usize,
}

/// The smallest that their tools make, so that a thousand of them can be looked at in a minute.
pub(crate) const ALL: [FileSystem; 3] = [
    FileSystem {
        name: "ext4",
        kind: "ext4",
        bytes: 16 << 20,
        make: &[
            "-m",
            "0",
            "-b",
            "1024",
            "-J",
            "size=1",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
        ],
        options: "loop",
        block: 1024,
    },
    FileSystem {
        name: "ext4-4k-discard",
        kind: "ext4",
        bytes: 24 << 20,
        make: &[
            "-m",
            "0",
            "-b",
            "4096",
            "-J",
            "size=4",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
        ],
        options: "loop,discard",
        block: 4096,
    },
    FileSystem {
        name: "xfs",
        kind: "xfs",
        bytes: 24 << 20,
        make: &["--unsupported"],
        options: "loop,nouuid",
        block: 4096,
    },
];

impl FileSystem {
    /// Why it cannot be made here, if so.
    pub(crate) fn refused(&self) -> Option<String> {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.lines().any(|line| line.split_whitespace().last() == Some(self.kind)) {
            return Some(format!("this kernel has no {}", self.kind));
        }
        let tool = format!("mkfs.{}", self.kind);
        let missing = Command::new(&tool).arg("-V").output().is_err();
        missing.then(|| format!("there is no {tool}"))
    }

    /// Makes it on a device or in an image.
    pub(crate) fn make(&self, on: &Path) -> Outcome {
        let tool = format!("mkfs.{}", self.kind);
        let force: &[&str] = if self.kind == "xfs" { &["-q", "-f"] } else { &["-q", "-F"] };
        run(Command::new(tool).args(force).args(self.make).arg(on)).map(drop)
    }

    /// Mounts an image by a loop device, which goes when the mount goes.
    pub(crate) fn mount_image(&self, image: &Path, on: &Path) -> Result<Mount, Failure> {
        self.mount(image, on, self.options)
    }

    /// Mounts a block device.
    pub(crate) fn mount_device(&self, device: &Path, on: &Path) -> Result<Mount, Failure> {
        let options = self.options.replacen("loop", "rw", 1);
        self.mount(device, on, &options)
    }

    fn mount(&self, what: &Path, on: &Path, options: &str) -> Result<Mount, Failure> {
        run(Command::new("mount").args(["-t", self.kind, "-o", options]).arg(what).arg(on))?;
        Ok(Mount(Some(on.to_owned())))
    }
}

/// Something that is mounted until this is dropped.
#[derive(Debug)]
pub(crate) struct Mount(Option<PathBuf>);

impl Mount {
    /// Takes the mount away, and waits as long as somebody uses it.
    pub(crate) fn unmount(mut self) -> Outcome {
        let Some(place) = self.0.take() else { return Ok(()) };
        let end = Instant::now() + BUSY;
        loop {
            match rustix::mount::unmount(&place, UnmountFlags::empty()) {
                Err(Errno::BUSY) if Instant::now() < end => {
                    thread::sleep(Duration::from_micros(200));
                }
                done => return done.map_err(|error| format!("umount: {error}").into()),
            }
        }
    }
}

impl Mount {
    /// Copies the device that is mounted, through the page cache (`.cached`) and past it
    /// (`.direct`).
    pub(crate) fn copy_device(&self, to: &Path) -> Outcome {
        let on = self.0.as_deref().unwrap_or(Path::new(""));
        let shown = run(Command::new("findmnt").args(["-no", "SOURCE"]).arg(on))?;
        for (flag, ending) in [("fullblock", "cached"), ("direct", "direct")] {
            let mut copy = Command::new("dd");
            copy.arg(format!("if={}", shown.trim())).arg(format!("iflag={flag}"));
            run(copy.args(["bs=1M", "status=none"]).arg(format!("of={}.{ending}", to.display())))?;
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(place) = &self.0 {
            // Whatever went wrong before has been told, or is about to be.
            rustix::mount::unmount(place, UnmountFlags::DETACH).ok();
        }
    }
}

/// Attaches a file as a block device, past the page cache. It goes when nobody has it open any
/// more, after [`forget_loop`].
pub(crate) fn loop_device(file: &Path) -> Result<PathBuf, Failure> {
    let shown = run(Command::new("losetup").args(["--show", "-f", "--direct-io=on"]).arg(file))?;
    Ok(PathBuf::from(shown.trim()))
}

/// The device goes with its last user.
pub(crate) fn forget_loop(device: &Path) -> Outcome {
    run(Command::new("losetup").arg("-d").arg(device)).map(drop)
}

/// Waits until a forgotten loop device has let its file go, which takes a moment after the last
/// user is gone.
pub(crate) fn wait_for_loop(device: &Path) -> Outcome {
    let name = device.file_name().unwrap_or_default();
    let attached = Path::new("/sys/block").join(name).join("loop");
    let end = Instant::now() + BUSY;
    while attached.exists() {
        if Instant::now() > end {
            return Err(format!("{} does not go away", device.display()).into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Runs a command to its end, which must be good; returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}: {}", output.status, said.trim()).into())
}

/// Why nothing can be mounted here, if so.
pub(crate) fn refused(fuse: bool) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may mount".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".into());
    }
    if fuse && !Path::new("/dev/fuse").exists() {
        return Some("there is no FUSE".into());
    }
    let alone = Command::new("unshare").args(["--mount", "true"]).status();
    let alone = alone.is_ok_and(|status| status.success());
    (!alone).then(|| "mount namespaces are not allowed".into())
}

/// Becomes this very command in a mount namespace of its own, unless it is that already: whatever
/// is mounted goes when it ends, however it ends.
pub(crate) fn in_own_namespace() -> Outcome {
    if std::env::var_os(OWN).is_some() {
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).env(OWN, "1");
    command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    Err(command.exec().into())
}

/// A folder in memory, mounted over a temporary one.
#[derive(Debug)]
pub(crate) struct Place {
    mount: Option<Mount>,
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Result<Place, Failure> {
        let folder = tempfile::tempdir()?;
        run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(folder.path()))?;
        Ok(Place { mount: Some(Mount(Some(folder.path().to_owned()))), folder })
    }

    /// A new folder in it.
    pub(crate) fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.mount.take());
    }
}
