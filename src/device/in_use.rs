//! Who else uses a host file: programs that have it open or mapped, loop devices it is attached
//! to, and where those are mounted. For naming whom a lock or a lease met, and to judge by where
//! neither is possible.
//!
//! Facts: `proc_pid_fdinfo(5)`, `proc_pid_maps(5)`, `proc_pid_mountinfo(5)`, `loop(4)`.

use std::{
    fmt::Write as _,
    fs::{self, File, Metadata},
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

use super::sys;
use crate::text::escape;

/// Looking around is cut short after this time; a machine with 10,000 open files takes about a
/// tenth of it.
const PATIENCE: Duration = Duration::from_millis(500);

/// More names than this help nobody.
const MAX_NAMED: usize = 8;

/// One user of the file.
#[derive(Debug)]
struct Holder {
    /// For the message, escaped.
    who: String,
    /// For the message: how to end it.
    advice: String,
    /// It can write.
    writes: bool,
}

/// Everybody found.
#[derive(Debug, Default)]
pub(super) struct Holders {
    found: Vec<Holder>,
    /// Not everything could be looked at: other users' programs, or time ran out.
    pub(super) blind: bool,
}

impl Holders {
    /// Whether anybody was found who has it open at all.
    pub(super) fn any(&self) -> bool {
        !self.found.is_empty()
    }

    /// Whether anybody was found who can write to it.
    pub(super) fn any_writer(&self) -> bool {
        self.found.iter().any(|holder| holder.writes)
    }

    /// Only those who can write, where there are any.
    pub(super) fn writers(mut self) -> Self {
        if self.any_writer() {
            self.found.retain(|holder| holder.writes);
        }
        self
    }

    /// Names for a message; somebody is there even if nobody was found.
    pub(super) fn names(&self) -> String {
        let mut names = String::new();
        for (i, holder) in self.found.iter().take(MAX_NAMED).enumerate() {
            if i > 0 {
                names.push_str(", ");
            }
            names.push_str(&holder.who);
        }
        if let more @ 1.. = self.found.len().saturating_sub(MAX_NAMED) {
            write!(names, " and {more} more").ok();
        }
        if names.is_empty() {
            names.push_str(
                "another program that declone cannot see from here (another user's, another \
                 container's or the kernel's own)",
            );
        }
        names
    }

    /// What to do about them.
    pub(super) fn advice(&self) -> String {
        let mut steps: Vec<&str> = Vec::new();
        for holder in self.found.iter().take(MAX_NAMED) {
            if !holder.advice.is_empty() && !steps.contains(&holder.advice.as_str()) {
                steps.push(&holder.advice);
            }
        }
        if steps.is_empty() {
            steps.push("end what uses it (as root, fuser -v and losetup -l show more)");
        }
        format!("{}, then run declone again", steps.join(", "))
    }
}

/// What a file is recognised by.
struct Wanted {
    dev: u64,
    ino: u64,
    /// Of a block device.
    rdev: Option<u64>,
    /// The inode number as `/proc` shows it: not always that of `stat`.
    shown_ino: Option<u64>,
    /// The host path, as `/proc` shows it.
    path: PathBuf,
    /// Our own process and descriptor.
    own: (String, String),
}

impl Wanted {
    fn of(file: &File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        let fd = file.as_raw_fd().to_string();
        let own = fs::read_link("/proc/self").unwrap_or_default();
        Some(Self {
            dev: meta.dev(),
            ino: meta.ino(),
            rdev: meta.file_type().is_block_device().then(|| meta.rdev()),
            shown_ino: fd_info(&Path::new("/proc/self/fdinfo").join(&fd)).and_then(|info| info.ino),
            path: fs::read_link(Path::new("/proc/self/fd").join(&fd)).unwrap_or_default(),
            own: (own.display().to_string(), fd),
        })
    }

    fn is(&self, meta: &Metadata) -> bool {
        match self.rdev {
            Some(rdev) => meta.file_type().is_block_device() && meta.rdev() == rdev,
            None => (meta.dev(), meta.ino()) == (self.dev, self.ino),
        }
    }
}

/// Looks for everybody but this open file itself. Never fails: what cannot be read is not seen.
pub(super) fn holders(file: &File) -> Holders {
    let mut all = Holders::default();
    let Some(wanted) = Wanted::of(file) else {
        all.blind = true;
        return all;
    };
    let until = Instant::now() + PATIENCE;
    let mounts = mounts();
    mounted(&wanted, &mounts, &mut all);
    loop_devices(&wanted, &mounts, &mut all);
    claims(&wanted, &mounts, &mut all);
    processes(&wanted, until, &mut all);
    all
}

/// Whether this process itself can write to the file through another descriptor.
pub(super) fn holds_writer_itself(file: &File) -> bool {
    Wanted::of(file).is_some_and(|wanted| {
        matches!(
            open_in(&wanted.own.0, Path::new("/proc/self"), &wanted),
            Some(Open::Writing)
        )
    })
}

/// Programs that wait in `open` for a lease to be given back: the likely reason why it is broken.
/// The kernel does not tell which file they want.
pub(super) fn waiting() -> Vec<String> {
    let mut found = Vec::new();
    for (pid, dir) in pids() {
        let waits = fs::read_to_string(dir.join("wchan"))
            .is_ok_and(|at| at.contains("break_lease") || at.contains("lease_break"));
        if waits {
            found.push(named(&pid, &dir));
        }
    }
    found
}

// --- programs ---

fn pids() -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| (name, entry.path()))
        })
        .collect()
}

/// `pid 12 qemu-system-x86`.
fn named(pid: &str, dir: &Path) -> String {
    format!("pid {pid} {}", escape(&command(dir)))
}

fn command(dir: &Path) -> String {
    fs::read(dir.join("comm")).map_or_else(
        |_| "?".to_owned(),
        |name| String::from_utf8_lossy(&name).trim_end().to_owned(),
    )
}

fn processes(wanted: &Wanted, until: Instant, all: &mut Holders) {
    let pids = pids();
    // Hidden by `hidepid`, or an empty /proc: then what is seen is not all there is.
    if fs::read_dir("/proc/1/fd").is_err() {
        all.blind = true;
    }
    for (pid, dir) in &pids {
        if Instant::now() > until {
            all.blind = true;
            return;
        }
        match open_in(pid, dir, wanted) {
            None => all.blind = true,
            Some(Open::Not) => {}
            Some(Open::Reading) => all.add_process(pid, dir, "open for reading", false, wanted),
            Some(Open::Writing) => all.add_process(pid, dir, "open for writing", true, wanted),
        }
    }
    if all.any() {
        return;
    }
    // A map outlives its descriptor. Slower to look for, so only when nothing else explains it.
    for (pid, dir) in &pids {
        if Instant::now() > until {
            all.blind = true;
            return;
        }
        if *pid == wanted.own.0 {
            continue;
        }
        match mapped_in(dir, wanted) {
            Some(true) => all.add_process(pid, dir, "mapped for writing", true, wanted),
            Some(false) => all.add_process(pid, dir, "mapped", false, wanted),
            None => {}
        }
    }
}

enum Open {
    Not,
    Reading,
    Writing,
}

/// How a process has the file open; `None` if that cannot be seen.
fn open_in(pid: &str, dir: &Path, wanted: &Wanted) -> Option<Open> {
    let entries = match fs::read_dir(dir.join("fd")) {
        Ok(entries) => entries,
        // It has ended meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Some(Open::Not),
        Err(_) => return None,
    };
    let mut seen = Open::Not;
    for entry in entries.flatten() {
        let Ok(fd) = entry.file_name().into_string() else {
            continue;
        };
        let own = *pid == wanted.own.0;
        if own && fd == wanted.own.1 {
            continue;
        }
        let link = entry.path();
        let Ok(target) = fs::read_link(&link) else {
            continue;
        };
        // Sockets, pipes and the like are most of them; a device is only opened below /dev.
        if !target.is_absolute() || (wanted.rdev.is_some() && !target.starts_with("/dev")) {
            continue;
        }
        let Some(info) = fd_info(&dir.join("fdinfo").join(&fd)) else {
            continue;
        };
        // Asked before `stat`, which waits for ever on a dead network mount.
        if wanted.rdev.is_none()
            && let (Some(theirs), Some(ours)) = (info.ino, wanted.shown_ino)
            && theirs != ours
        {
            continue;
        }
        // A path handle neither reads nor writes.
        if info.flags & OFlags::PATH.bits() != 0
            || !fs::metadata(&link).is_ok_and(|m| wanted.is(&m))
        {
            continue;
        }
        if info.flags & (OFlags::WRONLY | OFlags::RDWR).bits() != 0 {
            return Some(Open::Writing);
        }
        seen = Open::Reading;
    }
    Some(seen)
}

struct FdInfo {
    flags: u32,
    /// Since Linux 5.14.
    ino: Option<u64>,
}

fn fd_info(path: &Path) -> Option<FdInfo> {
    let text = fs::read_to_string(path).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    Some(FdInfo {
        flags: u32::from_str_radix(field("flags")?, 8).ok()?,
        ino: field("ino").and_then(|ino| ino.parse().ok()),
    })
}

/// Whether a process has the file mapped, and then whether writes reach it.
fn mapped_in(dir: &Path, wanted: &Wanted) -> Option<bool> {
    let text = fs::read(dir.join("maps")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut seen = None;
    for line in text.lines() {
        // address perms offset major:minor inode path
        let mut rest = line.splitn(5, ' ').skip(1);
        let (Some(perms), Some(_), Some(dev), Some(tail)) =
            (rest.next(), rest.next(), rest.next(), rest.next())
        else {
            continue;
        };
        let (ino, path) = tail.split_once(' ').unwrap_or((tail, ""));
        let ino: Option<u64> = ino.parse().ok();
        if ino.is_none() || ino == Some(0) || (ino != wanted.shown_ino && ino != Some(wanted.ino)) {
            continue;
        }
        // Subvolumes show another device here than `stat` does; then the path has to do.
        if device(dev, 16) != Some(wanted.dev) && Path::new(path.trim_start()) != wanted.path {
            continue;
        }
        let writes = perms.contains('w') && perms.ends_with('s');
        seen = Some(writes || seen == Some(true));
    }
    seen
}

impl Holders {
    fn add_process(&mut self, pid: &str, dir: &Path, how: &str, writes: bool, wanted: &Wanted) {
        if *pid == wanted.own.0 {
            self.found.push(Holder {
                who: format!("this declone itself ({how})"),
                advice: String::new(),
                writes,
            });
            return;
        }
        let command = command(dir);
        let who = named(pid, dir);
        let served = self
            .found
            .iter()
            .any(|holder| holder.advice.starts_with("umount"));
        let starts = |names: &[&str]| names.iter().any(|name| command.starts_with(name));
        let advice = if starts(&["qemu-nbd", "qemu-storage", "nbdkit"]) {
            format!("disconnect what {who} serves and end it")
        } else if starts(&["qemu", "kvm", "VBox", "VirtualBox", "vmware", "cloud-hyper"]) {
            format!("shut the virtual machine of {who} down")
        } else if starts(&["declone"]) {
            format!("wait until {who} has finished")
        } else if starts(&["ntfs", "lowntfs", "mount."]) && served {
            // The mount it serves was named already, with how to unmount it.
            String::new()
        } else {
            format!("close it in {who}")
        };
        self.found.push(Holder {
            who: format!("{who} ({how})"),
            advice,
            writes,
        });
    }
}

// --- devices and mounts ---

/// `8:1` in this base, as `stat` counts devices.
fn device(text: &str, base: u32) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(
        u32::from_str_radix(major, base).ok()?,
        u32::from_str_radix(minor, base).ok()?,
    ))
}

struct Mount {
    dev: Option<u64>,
    at: String,
    fs: String,
    source: String,
    read_only: bool,
}

fn mounts() -> Vec<Mount> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            // id parent major:minor root mount-point options [tags] - type source super-options
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ');
            let mut right = right.split(' ');
            Some(Mount {
                dev: device(left.nth(2)?, 10),
                at: unescaped(left.nth(1)?),
                read_only: left.next()?.split(',').any(|option| option == "ro"),
                fs: right.next()?.to_owned(),
                source: unescaped(right.next()?),
            })
        })
        .collect()
}

/// `\040` and the like of /proc are characters.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        match behind.get(..3).map(|code| u8::from_str_radix(code, 8)) {
            Some(Ok(byte)) => {
                bytes.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(b'\\');
                rest = behind;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A file that a program serves as a file system (ntfs-3g), or a block device that is mounted.
fn mounted(wanted: &Wanted, mounts: &[Mount], all: &mut Holders) {
    for mount in mounts {
        let hit = match wanted.rdev {
            Some(rdev) => mount.dev == Some(rdev) || Path::new(&mount.source) == wanted.path,
            None => mount.fs.contains("fuse") && Path::new(&mount.source) == wanted.path,
        };
        if hit {
            all.add_mount("", mount, Vec::new());
        }
    }
}

impl Holders {
    fn add_mount(&mut self, device: &str, mount: &Mount, mut steps: Vec<String>) {
        let at = escape(&mount.at);
        steps.insert(0, format!("umount {at}"));
        let device = if device.is_empty() {
            String::new()
        } else {
            format!("{device}, ")
        };
        self.found.push(Holder {
            who: format!("{device}mounted at {at} ({})", escape(&mount.fs)),
            advice: steps.join(", "),
            writes: !mount.read_only,
        });
    }
}

fn loop_devices(wanted: &Wanted, mounts: &[Mount], all: &mut Holders) {
    let Ok(entries) = fs::read_dir("/sys/block") else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let sys = entry.path();
        if !name.starts_with("loop") || !sys.join("loop/backing_file").exists() {
            continue;
        }
        let node = Path::new("/dev").join(&name);
        let Some(read_only) = backed_by(&node, &sys, wanted) else {
            continue;
        };
        let shown = escape(&node.display().to_string());
        let detach = format!("losetup -d {shown}");
        let mut numbers = vec![(node.clone(), number(&sys))];
        if let Ok(parts) = fs::read_dir(&sys) {
            numbers.extend(parts.flatten().filter_map(|part| {
                let part_name = part.file_name().into_string().ok()?;
                part_name
                    .starts_with(&name)
                    .then(|| (Path::new("/dev").join(part_name), number(&part.path())))
            }));
        }
        let mut named = false;
        for mount in mounts {
            let here = numbers.iter().any(|(path, number)| {
                (number.is_some() && mount.dev == *number) || Path::new(&mount.source) == path
            });
            if here {
                all.add_mount(&shown, mount, vec![detach.clone()]);
                named = true;
            }
        }
        if !named {
            all.found.push(Holder {
                who: format!("{shown} (a loop device)"),
                advice: detach,
                writes: !read_only,
            });
        }
    }
}

/// The number in the `dev` file of a block device.
fn number(sys: &Path) -> Option<u64> {
    device(&fs::read_to_string(sys.join("dev")).ok()?, 10)
}

/// Whether a loop device stands on the wanted file, and then whether it is read-only.
fn backed_by(node: &Path, sys: &Path, wanted: &Wanted) -> Option<bool> {
    let opened = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(node);
    if let Ok(backing) = opened.and_then(|device| sys::loop_backing(&device)) {
        return ((backing.dev, backing.ino) == (wanted.dev, wanted.ino))
            .then_some(backing.read_only);
    }
    let path = fs::read_to_string(sys.join("loop/backing_file")).ok()?;
    let meta = fs::metadata(path.trim_end_matches('\n')).ok()?;
    let read_only = fs::read_to_string(sys.join("ro")).is_ok_and(|flag| flag.trim() == "1");
    wanted.is(&meta).then_some(read_only)
}

/// What the kernel built on a block device (device mapper, RAID), and its mounted partitions.
fn claims(wanted: &Wanted, mounts: &[Mount], all: &mut Holders) {
    let Some(rdev) = wanted.rdev else { return };
    let sys = PathBuf::from(format!(
        "/sys/dev/block/{}:{}",
        rustix::fs::major(rdev),
        rustix::fs::minor(rdev)
    ));
    for entry in fs::read_dir(sys.join("holders"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = escape(&entry.file_name().to_string_lossy());
        all.found.push(Holder {
            who: format!("/dev/{name} (built on it)"),
            advice: format!("stop /dev/{name}"),
            writes: true,
        });
    }
    let parts: Vec<u64> = fs::read_dir(&sys)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("partition").exists())
        .filter_map(|entry| number(&entry.path()))
        .collect();
    for mount in mounts {
        if mount.dev.is_some_and(|dev| parts.contains(&dev)) {
            all.add_mount("a partition of it", mount, Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_proc_are_undone() {
        assert_eq!(unescaped(r"/mnt/a\040b\134c"), r"/mnt/a b\c");
        assert_eq!(unescaped(r"\x\04"), r"\x\04");
        assert_eq!(unescaped("\\303\\244"), "\u{e4}");
    }

    #[test]
    fn another_descriptor_of_this_process_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let first = File::create(&path).unwrap();
        assert!(!holders(&first).any());
        let second = File::open(&path).unwrap();
        let seen = holders(&first);
        assert!(seen.any() && !seen.any_writer(), "{seen:?}");
        assert!(holders(&second).any_writer());
        assert!(seen.names().contains("reading"), "{}", seen.names());
    }

    #[test]
    fn nobody_is_named_without_being_seen() {
        let none = Holders::default();
        assert!(none.names().contains("cannot see"));
        assert!(none.advice().contains("then run declone again"));
    }
}
