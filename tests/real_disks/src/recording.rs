//! A workload's whole life, as the device under its file system saw it.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use crate::device::Device;
use crate::medium::Medium;
use crate::oracle::{Mark, Oracle};
use crate::place::{self, FileSystem, Mount, Place};
use crate::trace::Event;
use crate::workload::Marks;
use crate::{Failure, Outcome};

/// Who carries the log's bytes, in turns.
const BACKENDS: [&str; 4] = ["uring", "pwrite", "uring-buffered", "pwrite-buffered"];

/// What is to be recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) file_system: &'a FileSystem,
    pub(crate) seed: u64,
    /// A rule that is switched off in the workload.
    pub(crate) planted: Option<&'a str>,
}

impl Plan<'_> {
    pub(crate) fn backend(&self) -> &'static str {
        BACKENDS[usize::try_from(self.seed % 4).unwrap_or(0)]
    }
}

/// Where a recording begins.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) medium: Medium,
    pub(crate) oracle: Oracle,
    /// Which processes of the workload are to live there.
    processes: Range<u32>,
}

impl Start {
    /// A device without a file system.
    pub(crate) fn blank(file_system: &FileSystem) -> Start {
        let medium = Medium::blank(file_system.bytes);
        Start { medium, oracle: Oracle::default(), processes: 0..2 }
    }

    /// What a power cut left.
    pub(crate) fn cut(medium: Medium, oracle: Oracle) -> Start {
        Start { medium, oracle, processes: 2..3 }
    }

    fn is_blank(&self) -> bool {
        self.processes.start == 0
    }
}

/// Records what the workload's processes do from there on. Where a power cut left the file system,
/// how it is mounted again is a part of that.
pub(crate) fn record(plan: Plan<'_>, start: &Start) -> Result<Vec<Event>, Failure> {
    let place = Place::new()?;
    let (under, on) = (place.folder("device")?, place.folder("files")?);
    let device = Device::mount(&under, start.medium.bytes(), plan.seed)?;
    let disk = place::loop_device(&under.join("disk"))?;
    let mounted = mount(plan, start, &under, &disk, &on);
    // From now on the loop device goes with the mount.
    place::forget_loop(&disk)?;
    let mounted = mounted?;
    device.answer_late();
    live(plan, start, &on.join("log"), &under.join("mark"))?;
    mounted.unmount()?;
    place::wait_for_loop(&disk)?;
    Ok(device.unmount()?)
}

fn mount(
    plan: Plan<'_>,
    start: &Start,
    under: &Path,
    disk: &Path,
    on: &Path,
) -> Result<Mount, Failure> {
    let marks = Marks::open(&under.join("mark"))?;
    if start.is_blank() {
        plan.file_system.make(disk)?;
    } else {
        marks.say(Mark::Mounted)?;
    }
    let mount = plan.file_system.mount_device(disk, on)?;
    if start.is_blank() {
        rustix::fs::syncfs(File::open(on)?)?;
        marks.say(Mark::Mounted)?;
    }
    Ok(mount)
}

fn live(plan: Plan<'_>, start: &Start, log: &Path, marks: &Path) -> Outcome {
    for process in start.processes.clone() {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("workload").args([log, marks]);
        command.args([plan.seed.to_string(), process.to_string()]);
        command.env("SAWMILL_BACKEND", plan.backend());
        match plan.planted {
            Some(name) => command.env("SAWMILL_PLANTED", name),
            None => command.env_remove("SAWMILL_PLANTED"),
        };
        // The first one kills itself, and then there is no code.
        let status = command.status()?;
        let ended = if process == 0 { status.code().is_none() } else { status.success() };
        if !ended {
            return Err(format!("process {process} of the workload ended with {status}").into());
        }
    }
    Ok(())
}
