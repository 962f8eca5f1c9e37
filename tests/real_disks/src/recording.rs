//! A workload's whole life, as the device under its file system saw it.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::device::Device;
use crate::oracle::Mark;
use crate::place::{self, FileSystem, Place};
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

/// Records it.
pub(crate) fn record(plan: Plan<'_>) -> Result<Vec<Event>, Failure> {
    let place = Place::new()?;
    let (under, on) = (place.folder("device")?, place.folder("files")?);
    let device = Device::mount(&under, vec![0; plan.file_system.bytes], plan.seed)?;
    let disk = place::loop_device(&under.join("disk"))?;
    let file_system = plan.file_system;
    let made = file_system.make(&disk).and_then(|()| file_system.mount_device(&disk, &on));
    // From now on the loop device goes with the mount.
    place::forget_loop(&disk)?;
    let mount = made?;
    rustix::fs::syncfs(File::open(&on)?)?;
    Marks::open(&under.join("mark"))?.say(Mark::Mounted)?;
    device.answer_late();
    live(plan, &on.join("log"), &under.join("mark"))?;
    mount.unmount()?;
    Ok(device.unmount()?)
}

fn live(plan: Plan<'_>, log: &Path, marks: &Path) -> Outcome {
    for process in 0..2 {
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
