//! Opening what lies beneath a directory, and nothing else.
//!
//! Facts: `openat2(2)`, `open(2)`, `statx(2)`.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags},
    io::Errno,
};

use crate::{
    error::{Error, Kind, Result},
    text::escape,
};

/// A path of one call; the host takes 4095 bytes. A longer one is walked in pieces.
const PIECE: usize = 2048;
/// How often an open is tried again that the kernel could not decide while somebody renamed.
const TRIES: u32 = 16;

/// For looking: no link followed, no terminal taken, no FIFO waited for.
const LOOK: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// What the host says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// The mount, where the kernel tells it (5.8 and later).
    mount: Option<u64>,
    /// Whether something is mounted there (5.8 and later).
    mount_root: bool,
    /// What it is.
    pub kind: FileType,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that it has, as the file system counts them.
    pub nlink: u32,
    /// Length.
    pub len: u64,
    /// Last access: seconds, nanoseconds.
    pub atime: (i64, u32),
    /// Last write.
    pub mtime: (i64, u32),
    /// Last change of the inode.
    pub ctime: (i64, u32),
    /// `chattr +i` or `+a`: not even root removes or replaces it.
    pub immutable: bool,
}

impl Stat {
    /// Whether it is the regular file that `planned` was, unwritten since.
    #[must_use]
    pub fn is_still(&self, planned: &Self) -> bool {
        self.kind == FileType::RegularFile
            && self.same_file(planned)
            && self.len == planned.len
            && self.mtime == planned.mtime
    }

    /// Whether both are one inode.
    #[must_use]
    pub fn same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

/// What the host says of `name` in `dir`; of `dir` itself if the name is empty. Nothing is opened,
/// no link is followed, nothing is mounted.
pub fn stat(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Stat> {
    let flags = match name.is_empty() {
        true => AtFlags::EMPTY_PATH,
        false => AtFlags::SYMLINK_NOFOLLOW,
    };
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let s = rustix::fs::statx(dir, name, flags | AtFlags::NO_AUTOMOUNT, wanted)?;
    let has_mount = StatxFlags::from_bits_retain(s.stx_mask).contains(StatxFlags::MNT_ID);
    let mode = u32::from(s.stx_mode);
    Ok(Stat {
        dev: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        mount: has_mount.then_some(s.stx_mnt_id),
        mount_root: s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        kind: FileType::from_raw_mode(mode),
        mode: mode & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        nlink: s.stx_nlink,
        len: s.stx_size,
        atime: (s.stx_atime.tv_sec, s.stx_atime.tv_nsec),
        mtime: (s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec),
        ctime: (s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec),
        immutable: s
            .stx_attributes
            .intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
    })
}

/// The directory that everything lies beneath.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    shown: String,
    stat: Stat,
    /// The kernel has no `openat2` (before 5.6).
    by_hand: AtomicBool,
}

impl Root {
    /// Opens it. The path itself may lead through links: the user typed it.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = escape(&path.display().to_string());
        let failed =
            |e: Errno| Error::io(format!("directory {shown}: open"), &std::io::Error::from(e));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = stat(&fd, b"").map_err(failed)?;
        Ok(Self {
            fd,
            shown,
            stat,
            by_hand: AtomicBool::new(false),
        })
    }

    /// Path as given, escaped.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What the host says of it.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Its mount's number, where the kernel tells it.
    pub(super) fn mount(&self) -> Option<u64> {
        self.stat.mount
    }

    /// Whether the file system below is mounted read-only.
    pub fn is_read_only(&self) -> rustix::io::Result<bool> {
        let flags = rustix::fs::fstatvfs(&self.fd)?.f_flag;
        Ok(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }

    /// Whether something else is mounted there.
    #[must_use]
    pub fn is_elsewhere(&self, other: &Stat) -> bool {
        let unlike = |mount| self.stat.mount.is_some_and(|own| own != mount);
        other.dev != self.stat.dev
            || other.mount.is_some_and(unlike)
            || (other.mount_root && !other.same_file(&self.stat))
    }

    /// Opens a file for reading, without touching its time of access where the host allows that.
    pub fn look(&self, path: &[u8]) -> rustix::io::Result<File> {
        match self.open_at(path, LOOK | OFlags::NOATIME) {
            // Only the owner and root may.
            Err(Errno::PERM) => self.open_at(path, LOOK),
            other => other,
        }
        .map(File::from)
    }

    /// As [`Root::look`], for a name in a directory that is open.
    pub fn look_in(&self, dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<File> {
        let dir = dir.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        let opened = match self.step(Some(&dir), name, LOOK | OFlags::NOATIME) {
            Err(Errno::PERM) => self.step(Some(&dir), name, LOOK),
            other => other,
        }?;
        match self.is_elsewhere(&stat(&opened, b"")?) {
            true => Err(Errno::XDEV),
            false => Ok(File::from(opened)),
        }
    }

    /// Opens a file for writing into it. It is neither made nor cut.
    pub fn write(&self, path: &[u8]) -> rustix::io::Result<File> {
        let flags = LOOK.difference(OFlags::RDONLY) | OFlags::RDWR;
        self.open_at(path, flags).map(File::from)
    }

    /// Opens a directory.
    pub fn directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        match self.open_at(path, LOOK | OFlags::DIRECTORY | OFlags::NOATIME) {
            Err(Errno::PERM) => self.open_at(path, LOOK | OFlags::DIRECTORY),
            other => other,
        }
    }

    /// The path's names are joined by `/`; the empty path is the root. Fails with `XDEV` where
    /// another mount would be crossed, with `LOOP` where a link would be followed.
    fn open_at(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        while rest.len() > PIECE {
            let head = rest.get(..PIECE).unwrap_or(rest);
            let Some(cut) = head.iter().rposition(|byte| *byte == b'/') else {
                return Err(Errno::NAMETOOLONG);
            };
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            at = Some(self.step(at.as_ref(), rest.get(..cut).unwrap_or(head), step)?);
            rest = rest.get(cut.saturating_add(1)..).unwrap_or_default();
        }
        let opened = self.step(at.as_ref(), rest, flags)?;
        // Subvolumes share a mount; a path handle does not say what a file of another device is.
        match self.is_elsewhere(&stat(&opened, b"")?) {
            true => Err(Errno::XDEV),
            false => Ok(opened),
        }
    }

    fn step(
        &self,
        at: Option<&OwnedFd>,
        path: &[u8],
        flags: OFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let at = at.unwrap_or(&self.fd);
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        if self.by_hand.load(Ordering::Relaxed) {
            return self.step_by_hand(at, path, flags);
        }
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let mut tries = 0_u32;
        loop {
            match rustix::fs::openat2(at, path, flags, Mode::empty(), resolve) {
                Err(Errno::NOSYS) => {
                    self.by_hand.store(true, Ordering::Relaxed);
                    return self.step_by_hand(at, path, flags);
                }
                Err(Errno::AGAIN) if tries < TRIES => tries = tries.saturating_add(1),
                other => return other,
            }
        }
    }

    /// Name by name, each opened without following a link and looked at before the next.
    fn step_by_hand(
        &self,
        at: &OwnedFd,
        path: &[u8],
        flags: OFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let mut names = path.split(|byte| *byte == b'/').peekable();
        let mut here: Option<OwnedFd> = None;
        while let Some(name) = names.next() {
            let last = names.peek().is_none();
            if name == b".." || (name == b"." && path != b".") {
                return Err(Errno::XDEV);
            }
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let flags = if last { flags | OFlags::NOFOLLOW } else { step };
            let dir = here.as_ref().unwrap_or(at);
            let opened = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                // A link where a directory is wanted.
                Err(Errno::NOTDIR) => return Err(Errno::NOTDIR),
                other => other?,
            };
            let stat = stat(&opened, b"")?;
            if stat.kind == FileType::Symlink {
                return Err(Errno::LOOP);
            }
            if self.is_elsewhere(&stat) {
                return Err(Errno::XDEV);
            }
            here = Some(opened);
        }
        here.ok_or(Errno::INVAL)
    }
}

/// The sort of failure that an error of the host is, while nothing was changed.
#[must_use]
pub fn failed(what: impl std::fmt::Display, e: Errno) -> Error {
    match e {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::NOENT | Errno::ISDIR => Error::new(
            Kind::Refused,
            format!("{what}: the file that was found expected, it is gone or something else ({e})"),
        )
        .advise("make sure that no other program changes the directory, then try again"),
        _ => Error::io(what, &std::io::Error::from(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(dir: &Path, by_hand: bool) -> Root {
        let root = Root::open(dir).unwrap();
        root.by_hand.store(by_hand, Ordering::Relaxed);
        root
    }

    #[test]
    fn nothing_outside_is_opened_with_openat2_and_by_hand() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        File::create(outside.path().join("secret")).unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        File::create(dir.path().join("a/b/file")).unwrap();
        symlink(outside.path(), dir.path().join("away")).unwrap();
        symlink("a", dir.path().join("near")).unwrap();
        symlink("b/file", dir.path().join("a/link")).unwrap();
        symlink("/proc/self/root", dir.path().join("magic")).unwrap();
        for by_hand in [false, true] {
            let root = root(dir.path(), by_hand);
            assert!(root.look(b"a/b/file").is_ok());
            assert!(root.directory(b"").is_ok());
            for path in [
                "away/secret",
                "away",
                "near/b/file",
                "a/link",
                "magic",
                "magic/etc",
                "..",
                "a/../../x",
                "/etc/passwd",
            ] {
                assert!(
                    root.look(path.as_bytes()).is_err(),
                    "{path} by hand {by_hand}"
                );
                assert!(root.directory(path.as_bytes()).is_err(), "{path}");
            }
        }
    }

    #[test]
    fn another_mount_is_not_entered() {
        // /proc is one everywhere where tests run.
        for by_hand in [false, true] {
            let root = root(Path::new("/"), by_hand);
            let error = root.look(b"proc/version").unwrap_err();
            assert_eq!(error, Errno::XDEV, "by hand {by_hand}");
            assert!(root.is_elsewhere(&stat(&root.fd, b"proc").unwrap()));
        }
    }

    #[test]
    fn a_path_longer_than_the_host_takes_is_opened_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let name = "d".repeat(200);
        let mut at = OwnedFd::from(File::open(dir.path()).unwrap());
        let mut path = Vec::new();
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), OFlags::DIRECTORY, Mode::empty()).unwrap();
            path.extend_from_slice(name.as_bytes());
            path.push(b'/');
        }
        path.pop();
        for by_hand in [false, true] {
            let found = root(dir.path(), by_hand).directory(&path).unwrap();
            let (a, b) = (stat(&found, b"").unwrap(), stat(&at, b"").unwrap());
            assert!(a.same_file(&b));
        }
    }
}
