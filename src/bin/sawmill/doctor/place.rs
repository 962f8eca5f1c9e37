//! The file system and the device under a directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Findings;
use crate::Failure;

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    source: String,
    options: String,
}

/// Says what is known of the place.
pub(super) fn look(path: &Path, findings: &mut Findings) -> Result<(), Failure> {
    let device = fs::metadata(path)?.dev();
    let path = fs::canonicalize(path)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let Some(mount) = mount_of(&mounts, &path) else {
        findings.note("file system", "not found among the mounts");
        return Ok(());
    };
    let Mount { point, kind, source, options } = &mount;
    let named = format!("{kind} on {source}, mounted at {point}");
    match advice(kind) {
        Some((true, why)) => findings.warn("file system", format!("{named}: {why}")),
        Some((false, why)) => findings.note("file system", format!("{named}: {why}")),
        None => findings.fine("file system", named),
    }
    for (option, why) in [
        ("nobarrier", "a power cut can lose what was acknowledged: mount it with barriers"),
        ("barrier=0", "a power cut can lose what was acknowledged: mount it with barriers"),
    ] {
        if options.split(',').any(|one| one == option) {
            findings.warn("file system", format!("mounted with {option}: {why}"));
        }
    }
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    match block_device(major, minor) {
        Some(at) => look_at_device(&at, findings),
        None => findings.note("device", "no block device of its own: nothing is known of it"),
    }
    Ok(())
}

/// The mount that holds a path: of those whose point is above it the deepest, of several at one
/// point the last.
fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
    let all = mounts.lines().filter_map(parse);
    let holding = all.filter(|mount| path.starts_with(&mount.point));
    holding.max_by_key(|mount| Path::new(&mount.point).components().count())
}

fn parse(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let place: Vec<_> = place.split(' ').collect();
    let mut kind = kind.split(' ');
    let (point, own) = (unescape(place.get(4)?), place.get(5)?);
    let (name, source, options) = (kind.next()?, kind.next()?, kind.next().unwrap_or_default());
    Some(Mount {
        point,
        kind: name.to_owned(),
        source: unescape(source),
        options: format!("{own},{options}"),
    })
}

/// Spaces, tabs, line ends and backslashes stand as three octal digits.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// What to know of a kind of file system, and whether it is a warning.
fn advice(kind: &str) -> Option<(bool, &'static str)> {
    let moves = "writes go to new places: a full disk can fail an append that had its space, and \
                 used segments are not used again";
    Some(match kind {
        "tmpfs" | "ramfs" | "devtmpfs" => {
            (true, "in memory: nothing survives a reboot; for tests only")
        }
        "overlay" | "aufs" => {
            (true, "a container's layer: it goes with the container; mount a volume")
        }
        "btrfs" | "zfs" | "bcachefs" | "f2fs" | "nilfs2" => (false, moves),
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "glusterfs" | "lustre" | "9p" | "virtiofs" => {
            (true, "a network's: locks and durability are what its server makes of them")
        }
        kind if kind.starts_with("fuse") => {
            (true, "a program's: locks and durability are what that program makes of them")
        }
        "squashfs" | "iso9660" | "erofs" => (true, "read-only"),
        _ => return None,
    })
}

/// Where the kernel describes a device; of a partition, the whole disk's.
fn block_device(major: u32, minor: u32) -> Option<PathBuf> {
    let link = format!("/sys/dev/block/{major}:{minor}");
    let at = fs::canonicalize(link).ok()?;
    let disk = if at.join("partition").exists() { at.parent()?.to_owned() } else { at };
    disk.join("queue").is_dir().then_some(disk)
}

fn look_at_device(at: &Path, findings: &mut Findings) {
    let read =
        |name: &str| fs::read_to_string(at.join(name)).ok().map(|text| text.trim().to_owned());
    let name = at.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let cache = read("queue/write_cache").unwrap_or_else(|| "unknown".to_owned());
    let fua = read("queue/fua").is_some_and(|fua| fua == "1");
    let disks = read("queue/rotational").is_some_and(|rotational| rotational == "1");
    let kind = if disks { "rotating disk" } else { "no rotating disk" };
    let how = match (cache.as_str(), fua) {
        ("write through", _) => "a durable write needs no flush",
        (_, true) => "a durable write is one operation (FUA)",
        (_, false) => "each durable write flushes the device's cache",
    };
    findings.fine("device", format!("{name}, {kind}, cache {cache}: {how}"));
    if let Some(volume) = read("dm/name") {
        let text = format!(
            "{volume} is a device-mapper volume: if it is a thin one, it can run full while the \
             file system has space, and then an append that had its space fails"
        );
        findings.note("device", text);
    }
    if read("loop/backing_file").is_some() {
        findings.note("device", "a file of another file system: its durability is that one's");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 22 0:25 / /dev/shm rw,nosuid - tmpfs tmpfs rw
40 22 8:1 / /mnt/a\\040b rw shared:1 - xfs /dev/sda1 rw,nobarrier
";

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let kind = |path: &str| mount_of(MOUNTS, Path::new(path)).unwrap().kind;
        assert_eq!(kind("/home/log"), "ext4");
        assert_eq!(kind("/dev/shm/log"), "tmpfs");
        assert_eq!(kind("/dev/shmx"), "ext4");
        let mount = mount_of(MOUNTS, Path::new("/mnt/a b/log")).unwrap();
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("xfs", "/dev/sda1"));
        assert!(mount.options.ends_with("nobarrier"));
    }

    #[test]
    fn dangerous_file_systems_are_warned_of() {
        assert!(advice("tmpfs").unwrap().0 && advice("fuse.sshfs").unwrap().0);
        assert!(!advice("btrfs").unwrap().0);
        assert_eq!(advice("ext4"), None);
    }
}
