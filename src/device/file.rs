//! A host file or block device: opened once, claimed as its use demands, read by position.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{
    BlockDevice, Lease, Mapping, check_inside,
    claim::{self, Probe, refused},
    in_use::{Holders, holders, holds_writer_itself},
    sys::Hold,
};
use crate::{
    error::{Error, Kind, Result},
    text::escape,
};

/// What the opener wants to do with the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and tell. Only an exclusive `flock` or a lease of another program stands in the way;
    /// other writers are a remark.
    Look,
    /// Read what a cleaned copy is made of: refused while another program can write to it.
    Copy,
    /// Write: refused while another program has it open at all.
    InPlace,
}

/// An image on the host. Never written here: `apply` is the only writer.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    path: PathBuf,
    real: PathBuf,
    len: AtomicU64,
    regular: bool,
    access: Access,
    remarks: Vec<String>,
    /// Time of the last write and length when it was opened.
    stamp: Mutex<Stamp>,
    /// The first read that the host failed: offset and what it said.
    failed: OnceLock<(u64, String)>,
}

impl HostFile {
    /// Opens for reading and takes a shared lock; a FIFO or character device is refused, not read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_for(path, Access::Look)
    }

    /// Opens for a use and claims what it needs; the claims end when the file is closed. `Io` if
    /// it cannot be opened, `Refused` if it is no image or somebody else is in the way, who is
    /// named.
    pub fn open_for(path: &Path, access: Access) -> Result<Self> {
        let shown = escape(&path.display().to_string());
        let opening = |e: &io::Error| Error::io(format!("image {shown}: open"), e);
        let real = match (std::fs::canonicalize(path), access) {
            (Ok(real), _) => real,
            (Err(e), Access::InPlace) => return Err(opening(&e)),
            (Err(_), _) => path.to_owned(),
        };
        let file = claim::patiently(|| {
            if access == Access::InPlace {
                open_writing(&real)
            } else {
                open_reading(path, access)
            }
        })
        .map_err(|e| opening_failed(&e, &real, &shown))?;
        Self::of(file, path, real, access)
    }

    /// Opens for a use a regular file that is no symbolic link: `Refused` if it is one.
    pub fn open_unlinked(path: &Path, access: Access) -> Result<Self> {
        let shown = escape(&path.display().to_string());
        let refuse = |found: &str| {
            Error::refused(format!(
                "image {shown}: a regular file expected, found {found}"
            ))
        };
        // Only the directory may be reached through links.
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let real = match (std::fs::canonicalize(dir), path.file_name()) {
            (Ok(dir), Some(name)) => dir.join(name),
            _ => path.to_owned(),
        };
        if real.is_symlink() {
            return Err(refuse("a symbolic link"));
        }
        let opened = claim::patiently(|| match access {
            Access::InPlace => open_writing(&real),
            Access::Look | Access::Copy => OpenOptions::new()
                .read(true)
                .custom_flags((OPEN | OFlags::NOFOLLOW).bits() as i32)
                .open(path),
        });
        let file = match opened {
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
                return Err(refuse("a symbolic link"));
            }
            opened => opened.map_err(|e| opening_failed(&e, &real, &shown))?,
        };
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(refuse("something else"));
        }
        Self::of(file, path, real, access)
    }

    fn of(file: File, path: &Path, real: PathBuf, access: Access) -> Result<Self> {
        let shown = escape(&path.display().to_string());
        let opening = |e: &io::Error| Error::io(format!("image {shown}: open"), e);
        let meta = file.metadata().map_err(|e| opening(&e))?;
        check_kind(&meta, &shown)?;
        let regular = meta.is_file();
        let len = if regular {
            meta.len()
        } else {
            rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| opening(&e.into()))?
        };
        let mut host = Self {
            file,
            path: path.to_owned(),
            real,
            len: AtomicU64::new(len),
            regular,
            access,
            remarks: Vec::new(),
            stamp: Mutex::new(stamp(&meta)),
            failed: OnceLock::new(),
        };
        match access {
            Access::Look => host.claim_look(&shown)?,
            Access::Copy => host.claim_copy(&shown)?,
            Access::InPlace => host.claim_in_place(&meta, &shown)?,
        }
        Ok(host)
    }

    fn claim_look(&mut self, shown: &str) -> Result<()> {
        // A host file system without locks (some network mounts) is no reason not to look.
        self.flock_shared(shown)?;
        // Our own copy is looked at while it is being made; that is no news, and not waited for.
        if holds_writer_itself(&self.file) {
            return Ok(());
        }
        let probe = claim::probe_lease(&self.file, Hold::Read);
        if probe == Probe::Free {
            return Ok(());
        }
        let found = holders(&self.file);
        if probe == Probe::Taken || found.any_writer() {
            self.remarks.push(format!(
                "another program has it open for writing ({}): what was read may not hold together",
                found.writers().names()
            ));
        }
        Ok(())
    }

    fn claim_copy(&mut self, shown: &str) -> Result<()> {
        const EXPECTED: &str = "nobody who writes to it";
        self.flock_shared(shown)?;
        let written = |found: Holders| Err(refused(shown, EXPECTED, &found.writers()));
        if claim::qemu_reader(&self.file) == Probe::Taken {
            return written(holders(&self.file));
        }
        match claim::probe_lease(&self.file, Hold::Read) {
            Probe::Free => Ok(()),
            Probe::Taken => written(holders(&self.file)),
            Probe::Impossible => {
                let found = holders(&self.file);
                if found.any_writer() {
                    return written(found);
                }
                self.remark_no_lease(&found, "writes to it");
                Ok(())
            }
        }
    }

    fn claim_in_place(&mut self, meta: &Metadata, shown: &str) -> Result<()> {
        const EXPECTED: &str = "exclusive use";
        if self.regular && meta.nlink() > 1 {
            return Err(Error::refused(format!(
                "image {shown}: one name expected, it has {} (hard links); cleaning it in place \
                 would change it under all of them",
                meta.nlink()
            ))
            .advise("clean a copy with -o OUT"));
        }
        let taken = |file: &File| Err(refused(shown, EXPECTED, &holders(file)));
        let flock = claim::flock(&self.file, true);
        let ranges = if flock == Probe::Taken {
            flock
        } else {
            claim::qemu_writer(&self.file)
        };
        if ranges == Probe::Taken {
            return taken(&self.file);
        }
        if flock == Probe::Impossible || ranges == Probe::Impossible {
            self.remarks.push(
                "its file system has no locks: another declone or a virtual machine would not be \
                 kept out"
                    .to_owned(),
            );
        }
        match claim::probe_lease(&self.file, Hold::Write) {
            Probe::Free => {}
            Probe::Taken => return taken(&self.file),
            Probe::Impossible => {
                let found = holders(&self.file);
                if found.any() {
                    return Err(refused(shown, EXPECTED, &found));
                }
                self.remark_no_lease(&found, "uses it");
            }
        }
        Ok(())
    }

    fn flock_shared(&self, shown: &str) -> Result<()> {
        if claim::flock(&self.file, false) != Probe::Taken {
            return Ok(());
        }
        let found = holders(&self.file).writers();
        Err(Error::refused(format!(
            "image {shown}: another program is writing it: {}",
            found.names()
        ))
        .passing()
        .advise("wait until it has finished"))
    }

    /// Nobody was found, and the kernel could not be asked.
    fn remark_no_lease(&mut self, found: &Holders, what: &str) {
        if claim::is_remote(&self.file) {
            self.remarks.push(format!(
                "it lies on a network file system: whether another machine {what} was not seen"
            ));
        } else if self.regular {
            self.remarks.push(format!(
                "the host gives no lease on it: a program that declone cannot see and that {what} \
                 would not be noticed"
            ));
        } else if found.blind {
            self.remarks.push(format!(
                "not root: whether another user's program {what} was not seen"
            ));
        }
    }

    /// Takes the file for this process alone, until the lease is dropped; just before the journal.
    /// `Refused` if anybody opened it meanwhile, who is named. The image must not be opened a
    /// second time while the lease is held, in this process neither.
    pub fn lease(&self) -> Result<Lease> {
        if self.access != Access::InPlace {
            return Err(Error::internal("image: a lease without writing in place"));
        }
        Lease::take(&self.file, &escape(&self.path.display().to_string()))
    }

    /// Whether nobody wrote to it since it was opened, as far as the host keeps the time of the last
    /// write. `Refused` if somebody did: what was read may be of two different images.
    pub fn check_unchanged(&self) -> Result<()> {
        if !self.regular {
            return Ok(());
        }
        let meta = self.check_length()?;
        if stamp(&meta) == *self.stamp() {
            return Ok(());
        }
        Err(Error::refused(
            "image: the time of its last write unchanged expected, found another: it was written \
             while it was read",
        )
        .passing()
        .advise("make sure that no other program writes to it, then try again"))
    }

    /// Takes what is there now, and how long it is, as the state to compare with: we wrote it.
    pub fn accept_changes(&self) -> Result<()> {
        let meta = self
            .file
            .metadata()
            .map_err(|e| Error::io("image: metadata", &e))?;
        *self.stamp() = stamp(&meta);
        if self.regular {
            self.len.store(meta.len(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn stamp(&self) -> MutexGuard<'_, Stamp> {
        self.stamp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the reader of a report should know about how the image was opened; whole sentences
    /// without the image's name, escaped.
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The host path without symbolic links: where the journal is looked for. As given if it
    /// could not be resolved (never for [`Access::InPlace`]).
    #[must_use]
    pub fn real_path(&self) -> &Path {
        &self.real
    }

    /// Whether both are one file on the host.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
        id(&self.file).is_some_and(|own| id(&other.file) == Some(own))
    }

    /// The host path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file: for cloning, and with [`Access::InPlace`] for writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is a regular file (a block device is not mapped and has no holes).
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.regular
    }

    /// Fails if it became shorter: a hole that is a missing end must not be taken for zeros.
    fn check_length(&self) -> Result<std::fs::Metadata> {
        let now = self
            .file
            .metadata()
            .map_err(|e| Error::io("image: its length", &e))?;
        if now.len() < self.len() {
            return Err(shorter());
        }
        Ok(now)
    }

    /// Fails if any read failed so far. A reader goes on past a damaged record or volume and lists
    /// it; what the host could not read is no damage of the image, and whatever was found, planned
    /// or verified without it may be wrong.
    pub fn check_reads(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some((offset, what)) => Err(Error::new(Kind::Io, what.clone())
                .at("image offset", format_args!("{offset:#x}"))
                .advise(
                    "what was not read may hold the identity; copy the image to a sound disk, \
                     then try again",
                )),
        }
    }

    /// Maps a window of the file for a read-only scan.
    pub fn map(&self, range: Range<u64>) -> Result<Mapping<'_>> {
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| Error::limit("map: window too large"))?;
        Mapping::new(&self.file, range.start, len)
    }
}

/// Seconds and nanoseconds of the last write, length.
type Stamp = (i64, i64, u64);

fn stamp(meta: &Metadata) -> Stamp {
    (meta.mtime(), meta.mtime_nsec(), meta.len())
}

/// O_NONBLOCK: opening a FIFO must not wait for a writer, nor anything for a lease.
const OPEN: OFlags = OFlags::NONBLOCK;

fn open_reading(path: &Path, access: Access) -> io::Result<File> {
    let mut flags = OPEN;
    // A mounted or otherwise claimed block device says so; without O_CREAT others do not care.
    if access == Access::Copy && is_block_device(path) {
        flags |= OFlags::EXCL;
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
}

/// Opens a resolved path for writing; what is a symbolic link by now is not followed.
/// `Refused` if another program can write to the file, who is named: a running system with its hive.
pub fn refuse_writers(file: &File, shown: &str) -> Result<()> {
    const EXPECTED: &str = "nobody who writes to it";
    match claim::probe_lease(file, Hold::Read) {
        Probe::Free => Ok(()),
        Probe::Taken => Err(refused(shown, EXPECTED, &holders(file).writers())),
        Probe::Impossible => match holders(file) {
            found if found.any_writer() => Err(refused(shown, EXPECTED, &found.writers())),
            _ => Ok(()),
        },
    }
}

fn open_writing(real: &Path) -> io::Result<File> {
    let (Some(dir), Some(name)) = (real.parent(), real.file_name()) else {
        // The root directory: no image, as `check_kind` says.
        return File::open(real);
    };
    let dir = File::open(dir)?;
    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut flags = OPEN | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    flags |= match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => OFlags::RDWR,
        FileType::BlockDevice => OFlags::RDWR | OFlags::EXCL,
        // Refused by `check_kind`; opened without a chance to do anything to it.
        _ => OFlags::PATH,
    };
    let file = File::from(rustix::fs::openat(&dir, name, flags, Mode::empty())?);
    if file.metadata()?.ino() != stat.st_ino {
        // Replaced between the two calls: the flags may be wrong for it, so look again.
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(file)
}

fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

fn check_kind(meta: &Metadata, shown: &str) -> Result<()> {
    let kind = meta.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "image {shown}: regular file or block device expected, found {}",
        if kind.is_dir() {
            "a directory"
        } else {
            "something else"
        }
    )))
}

/// Another program's lease, or its claim on a block device, is a refusal; the rest is the host's.
fn opening_failed(e: &io::Error, real: &Path, shown: &str) -> Error {
    let leased = e.kind() == io::ErrorKind::WouldBlock;
    let claimed = e.kind() == io::ErrorKind::ResourceBusy && is_block_device(real);
    if !leased && !claimed {
        return Error::io(format!("image {shown}: open"), e);
    }
    // A path handle is enough to recognise others by, and is not held up.
    let found = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::PATH.bits() as i32)
        .open(real)
        .map_or_else(|_| Holders::default(), |file| holders(&file));
    if !leased {
        return refused(shown, "exclusive use", &found);
    }
    Error::refused(format!(
        "image {shown}: another program is writing it: {}",
        found.names()
    ))
    .passing()
    .advise("wait until it has finished")
}

impl BlockDevice for HostFile {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_inside("image", offset, buf.len(), self.len())
            .map_err(|e| e.at("image offset", format_args!("{offset:#x}")))?;
        self.file.read_exact_at(buf, offset).map_err(|e| {
            let error = if e.kind() == std::io::ErrorKind::UnexpectedEof {
                shorter()
            } else {
                Error::io(format!("image: read of {} bytes", buf.len()), &e)
            };
            self.failed.set((offset, error.what().to_owned())).ok();
            error.at("image offset", format_args!("{offset:#x}"))
        })
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        let len = self.len();
        if from >= len {
            return Ok(None);
        }
        if !self.regular {
            return Ok(Some(from..len));
        }
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return self.check_length().map(|_| None),
            // No hole support: everything may be data.
            Err(_) => return Ok(Some(from..len)),
        };
        let end = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start))
            .unwrap_or(len)
            .min(len);
        // The end of the file counts as a hole, wherever it is by now.
        self.check_length()?;
        Ok((start < end).then_some(start..end))
    }
}

/// The file ended before the place where it ended when it was opened.
pub(super) fn shorter() -> Error {
    Error::new(Kind::Io, "image: it became shorter while it was read")
        .advise("make sure that no other program writes to it, then try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;

    fn sample() -> (tempfile::NamedTempFile, HostFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&[7; 100], 0).unwrap();
        file.as_file().write_all_at(&[7; 100], LEN - 100).unwrap();
        let host = HostFile::open(file.path()).unwrap();
        (file, host)
    }

    #[test]
    fn a_missing_end_is_not_taken_for_zeros() {
        let (file, host) = sample();
        assert!(host.next_data(8192).unwrap().is_some());
        host.check_unchanged().unwrap();
        host.check_reads().unwrap();
        for len in [LEN - 1, LEN / 2, 50, 0] {
            file.as_file().set_len(len).unwrap();
            for from in [0, 8192, LEN - 1] {
                let error = host.next_data(from).unwrap_err();
                assert_eq!(error.kind(), Kind::Io);
                assert!(error.what().contains("shorter"), "{error}");
            }
            assert_eq!(host.check_unchanged().unwrap_err().kind(), Kind::Io);
            assert_eq!(
                host.read_at(LEN - 1, &mut [0]).unwrap_err().kind(),
                Kind::Io
            );
            // Whoever swallowed that does not end well.
            assert_eq!(host.check_reads().unwrap_err().kind(), Kind::Io);
        }
        assert!(
            host.next_data(LEN).unwrap().is_none(),
            "nothing is there to miss"
        );
    }

    #[test]
    fn a_file_that_was_written_meanwhile_is_told() {
        let (file, host) = sample();
        file.as_file().set_len(LEN + 1).unwrap();
        assert_eq!(host.check_unchanged().unwrap_err().kind(), Kind::Refused);
        let (file, host) = sample();
        // Set, not just written: the host's clock may be coarse.
        file.as_file()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(host.check_unchanged().unwrap_err().kind(), Kind::Refused);
    }
}
