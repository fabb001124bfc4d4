//! `-o OUT`: a temporary clone beside OUT, patched, synced, read back, renamed into place.
//!
//! A crash leaves at most the temporary file. Holes stay holes: `std::fs::copy` would fill them.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use sha2::{Digest, Sha256};

use super::{
    guard,
    interrupt::{self, Scratch},
};
use crate::{
    bytes::all_zero,
    device::{BlockDevice, HostFile, Page, Patch},
    error::{Error, Kind, Result},
    text::escape,
};

const COPY: usize = 1 << 20;
/// Bytes of OUT's name that the temporary name repeats; a file name may have 255.
const NAME_SHOWN: usize = 180;

/// A temporary file that becomes OUT. Dropped before [`Output::finish`], or when a signal ends the
/// program before that, it is removed.
#[derive(Debug)]
pub struct Output {
    file: File,
    dir: OwnedFd,
    temporary: String,
    name: String,
    shown: String,
    force: bool,
    finished: bool,
    /// Unregistered when this goes.
    _scratch: Scratch,
}

/// Where OUT is to be, checked.
struct Place {
    dir: OwnedFd,
    name: String,
    shown: String,
}

/// How the clone was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Shared extents (FICLONE): no data was copied.
    Reflink,
    /// `copy_file_range` over data extents.
    CopyRange,
    /// Reads and writes, zeros left as holes.
    ReadWrite,
}

impl Method {
    /// For the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Method::Reflink => "reflink",
            Method::CopyRange => "copy_file_range",
            Method::ReadWrite => "sparse copy",
        }
    }
}

fn io(what: impl std::fmt::Display, error: rustix::io::Errno) -> Error {
    Error::io(what, &error.into())
}

impl Output {
    /// What can be said about OUT before the expensive part: its name is free (or, with `force`, a
    /// regular file that may be replaced), it is not the input, and the host has room for it.
    pub fn precheck(source: &HostFile, out: &Path, force: bool) -> Result<()> {
        Place::check(source, None, out, force).map(drop)
    }

    /// As [`Output::precheck`], for the disk inside the source.
    pub fn precheck_disk(
        source: &HostFile,
        disk: &dyn BlockDevice,
        out: &Path,
        force: bool,
    ) -> Result<()> {
        Place::check(source, Some(disk), out, force).map(drop)
    }

    /// Creates the temporary file, after [`Output::precheck`].
    pub fn create(source: &HostFile, out: &Path, force: bool) -> Result<Self> {
        Self::create_at(Place::check(source, None, out, force)?, force)
    }

    /// As [`Output::create`], for the disk inside the source.
    pub fn create_disk(
        source: &HostFile,
        disk: &dyn BlockDevice,
        out: &Path,
        force: bool,
    ) -> Result<Self> {
        Self::create_at(Place::check(source, Some(disk), out, force)?, force)
    }

    fn create_at(place: Place, force: bool) -> Result<Self> {
        let Place { dir, name, shown } = place;
        let failed = |e| io(format!("-o {shown}: create a temporary file"), e);
        let own = dir
            .try_clone()
            .map_err(|e| Error::io(format!("-o {shown}: a descriptor for its directory"), &e))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let start = &name[..name.floor_char_boundary(NAME_SHOWN)];
        for attempt in 0..1000 {
            let temporary = format!(".{start}.declone-{}-{attempt}.tmp", std::process::id());
            // No signal between the file's creation and its registration.
            let hold = interrupt::hold();
            let created = rustix::fs::openat(&dir, &temporary, flags, Mode::RUSR | Mode::WUSR)
                .map(|fd| (fd, temporary.clone()));
            match created {
                Ok((fd, temporary)) => {
                    let scratch = interrupt::scratch(own, temporary.clone());
                    hold.release();
                    return Ok(Self {
                        file: File::from(fd),
                        dir,
                        temporary,
                        name,
                        shown,
                        force,
                        finished: false,
                        _scratch: scratch,
                    });
                }
                Err(e) => {
                    hold.release();
                    if e != rustix::io::Errno::EXIST {
                        return Err(failed(e));
                    }
                }
            }
        }
        Err(Error::new(
            Kind::Io,
            format!("-o {shown}: a thousand temporary files are in the way"),
        ))
    }

    /// Path of the temporary file, for reading it back.
    #[must_use]
    pub fn temporary_path(&self, out: &Path) -> PathBuf {
        out.with_file_name(&self.temporary)
    }

    /// Fills the temporary file with the source: reflink, else data extents only, else sparse. Fails
    /// if the source changed since it was opened.
    pub fn clone_from(&self, source: &HostFile, tick: &mut dyn FnMut(u64)) -> Result<Method> {
        let method = self.copy(source, tick)?;
        // Of one image from its opening to the end of the copy, not half of two.
        source.check_unchanged()?;
        Ok(method)
    }

    /// Fills the temporary file with the disk inside the source, zeros left as holes.
    pub fn fill_from(&self, disk: &dyn BlockDevice, tick: &mut dyn FnMut(u64)) -> Result<Method> {
        self.grow(disk.len())?;
        let mut at = 0;
        while let Some(range) = disk.next_data(at)? {
            let mut pos = range.start;
            while pos < range.end {
                pos += self.copy_sparse(disk, pos, range.end - pos)?;
                tick(pos);
            }
            at = range.end;
        }
        Ok(Method::ReadWrite)
    }

    fn copy(&self, source: &HostFile, tick: &mut dyn FnMut(u64)) -> Result<Method> {
        if source.is_regular() && rustix::fs::ioctl_ficlone(&self.file, source.file()).is_ok() {
            return Ok(Method::Reflink);
        }
        self.file
            .set_len(source.len())
            .map_err(|e| Error::io(format!("-o {}: set its length", self.shown), &e))?;
        let mut ranged = source.is_regular();
        let mut method = if ranged {
            Method::CopyRange
        } else {
            Method::ReadWrite
        };
        let mut at = 0;
        while let Some(range) = source.next_data(at)? {
            let mut pos = range.start;
            while pos < range.end {
                let want = (range.end - pos).min(64 << 20);
                let done = if ranged {
                    self.copy_range(source, pos, want)?
                } else {
                    None
                };
                match done {
                    Some(done) => pos += done,
                    None => {
                        ranged = false;
                        method = Method::ReadWrite;
                        pos += self.copy_sparse(source, pos, want)?;
                    }
                }
                tick(pos);
            }
            at = range.end;
        }
        Ok(method)
    }

    /// `None` when the host cannot do it here.
    fn copy_range(&self, source: &HostFile, at: u64, len: u64) -> Result<Option<u64>> {
        let (mut from, mut to) = (at, at);
        let want = usize::try_from(len).unwrap_or(COPY);
        use rustix::io::Errno;
        match rustix::fs::copy_file_range(
            source.file(),
            Some(&mut from),
            &self.file,
            Some(&mut to),
            want,
        ) {
            Ok(0) => Ok(None),
            Ok(done) => Ok(Some(done as u64)),
            Err(Errno::INTR) => Ok(Some(0)),
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {
                Ok(None)
            }
            Err(e) => Err(io(format!("-o {}: copy at {at:#x}", self.shown), e)),
        }
    }

    fn copy_sparse(&self, source: &dyn BlockDevice, at: u64, len: u64) -> Result<u64> {
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(COPY).min(COPY)];
        source.read_at(at, &mut buffer)?;
        for (i, block) in buffer.chunks(4096).enumerate() {
            if !all_zero(block) {
                self.write(at + i as u64 * 4096, block)?;
            }
        }
        Ok(buffer.len() as u64)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, at)
            .map_err(|e| Error::io(format!("-o {}: write at {at:#x}", self.shown), &e))
    }

    /// Makes it longer, if it is shorter than that: zeros follow.
    pub fn grow(&self, len: u64) -> Result<()> {
        let now = self
            .file
            .metadata()
            .map_err(|e| Error::io("-o: length", &e))?;
        match now.len() < len {
            true => self
                .file
                .set_len(len)
                .map_err(|e| Error::io(format!("-o {}: length", self.shown), &e)),
            false => Ok(()),
        }
    }

    /// Makes sure that the clone holds what the patches were made for: the input may have changed
    /// since it was read. `old` are SHA-256 digests as hex, one a patch.
    pub fn check_old(&self, patches: &[Patch], old: &[String]) -> Result<()> {
        let mut buffer = vec![0; crate::device::PAGE_LEN];
        for (patch, old) in patches.iter().zip(old) {
            let buffer = &mut buffer[..patch.len as usize];
            self.file
                .read_exact_at(buffer, patch.offset)
                .map_err(|e| Error::io(format!("-o {}: read", self.shown), &e))?;
            if hex::encode(Sha256::digest(&*buffer)) != *old {
                return Err(
                    Error::refused("image: it changed while it was being cleaned")
                        .at("image offset", format_args!("{:#x}", patch.offset))
                        .advise("make sure that no other program writes to it, then try again"),
                );
            }
        }
        Ok(())
    }

    /// Writes the patches; the guard looks at them first.
    pub fn patch(&self, patches: &[Patch]) -> Result<()> {
        let len = self
            .file
            .metadata()
            .map_err(|e| Error::io("-o: length", &e))?
            .len();
        guard::check(patches, std::slice::from_ref(&(0..len)))?;
        let zeros = vec![0; crate::device::PAGE_LEN];
        for patch in patches {
            match &patch.page {
                Page::Data(bytes) => self.write(patch.offset, bytes)?,
                Page::Zero => self.write(patch.offset, &zeros[..patch.len as usize])?,
            }
        }
        Ok(())
    }

    /// Syncs the file, then reads every patch back and compares: a write can lie.
    pub fn sync_and_check(&self, patches: &[Patch]) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| Error::io(format!("-o {}: fsync", self.shown), &e))?;
        let mut buffer = vec![0; crate::device::PAGE_LEN];
        for patch in patches {
            let buffer = &mut buffer[..patch.len as usize];
            self.file
                .read_exact_at(buffer, patch.offset)
                .map_err(|e| Error::io(format!("-o {}: read back", self.shown), &e))?;
            let same = match &patch.page {
                Page::Data(bytes) => buffer == &bytes[..],
                Page::Zero => all_zero(buffer),
            };
            if !same {
                return Err(Error::new(
                    Kind::Verification,
                    format!(
                        "-o {}: what was written expected, found other bytes",
                        self.shown
                    ),
                )
                .at("image offset", format_args!("{:#x}", patch.offset)));
            }
        }
        Ok(())
    }

    /// Gives the file the input's mode, owner and extended attributes, renames it to OUT and syncs
    /// the directory.
    pub fn finish(self, source: &HostFile) -> Result<()> {
        self.publish(source).map(|_kept| ())
    }

    /// As [`Output::finish`], for a name that says nothing yet: signals end the program as before.
    pub fn finish_quietly(self, source: &HostFile) -> Result<()> {
        self.publish(source).map(interrupt::Hold::release)
    }

    fn publish(mut self, source: &HostFile) -> Result<interrupt::Hold> {
        let input = source
            .file()
            .metadata()
            .map_err(|e| Error::io("image: metadata", &e))?;
        if source.is_regular() {
            copy_attributes(source.file(), &self.file);
            // Only root may give a file away; anyone else keeps it as his own.
            rustix::fs::fchown(
                &self.file,
                Some(rustix::fs::Uid::from_raw(input.uid())),
                Some(rustix::fs::Gid::from_raw(input.gid())),
            )
            .ok();
            let mode = Mode::from_raw_mode(input.mode() & 0o777);
            rustix::fs::fchmod(&self.file, mode)
                .map_err(|e| io(format!("-o {}: set its mode", self.shown), e))?;
        }
        self.file
            .sync_all()
            .map_err(|e| Error::io(format!("-o {}: fsync", self.shown), &e))?;
        // From here on OUT may be there: a signal must not say that nothing was done.
        let hold = interrupt::hold();
        if let Err(e) = self.rename() {
            rustix::fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty()).ok();
            hold.release();
            return Err(io(format!("-o {}: give it its name", self.shown), e));
        }
        self.finished = true;
        rustix::fs::fsync(self.dir.as_fd()).map_err(|e| {
            io(format!("-o {}: fsync of its directory", self.shown), e)
                .advise("the file is complete, but its name may be gone after a power cut")
        })?;
        Ok(hold)
    }

    fn rename(&self) -> rustix::io::Result<()> {
        use rustix::io::Errno;
        let flags = if self.force {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        let (dir, from, to) = (&self.dir, &self.temporary, &self.name);
        match rustix::fs::renameat_with(dir, from, dir, to, flags) {
            // A host file system without RENAME_NOREPLACE: link refuses an existing name, too.
            Err(Errno::INVAL | Errno::NOSYS) if !self.force => {
                rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?;
                rustix::fs::unlinkat(dir, from, AtFlags::empty()).ok();
                Ok(())
            }
            Err(Errno::NOSYS) => rustix::fs::renameat(dir, from, dir, to),
            result => result,
        }
    }
}

impl Place {
    fn check(
        source: &HostFile,
        disk: Option<&dyn BlockDevice>,
        out: &Path,
        force: bool,
    ) -> Result<Self> {
        let shown = escape(&out.display().to_string());
        let name = out
            .file_name()
            .ok_or_else(|| Error::new(Kind::Usage, format!("-o {shown}: a file name expected")))?;
        let name = name.to_str().map(str::to_owned).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("-o {shown}: a file name in UTF-8 expected"),
            )
        })?;
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let dir = rustix::fs::open(&parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| io(format!("-o {shown}: open its directory"), e))?;
        let input = source
            .file()
            .metadata()
            .map_err(|e| Error::io("image: metadata", &e))?;
        // The name itself, not what it leads to: a rename replaces the name, and a link that leads
        // nowhere is a name that exists.
        match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(io(format!("-o {shown}: look at the name"), e)),
            Ok(there) if (there.st_dev, there.st_ino) == (input.dev(), input.ino()) => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("-o {shown}: another file expected, it is the input itself"),
                ));
            }
            Ok(_) if !force => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("-o {shown}: a new file expected, it exists"),
                )
                .advise("choose another name or pass --force"));
            }
            Ok(there) => {
                if rustix::fs::FileType::from_raw_mode(there.st_mode)
                    != rustix::fs::FileType::RegularFile
                {
                    return Err(Error::refused(format!(
                        "-o {shown}: a regular file to replace expected, found something else"
                    )));
                }
            }
        }
        match disk {
            Some(disk) => check_disk_space(&dir, disk, &shown)?,
            None => check_space(&dir, source, &input, &shown)?,
        }
        Ok(Self { dir, name, shown })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            rustix::fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty()).ok();
        }
    }
}

fn copy_attributes(from: &File, to: &File) {
    let mut names = vec![0; 64 << 10];
    let Ok(len) = rustix::fs::flistxattr(from, &mut names) else {
        return;
    };
    for name in names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 << 10];
        if let Ok(len) = rustix::fs::fgetxattr(from, name, &mut value) {
            rustix::fs::fsetxattr(to, name, &value[..len], rustix::fs::XattrFlags::empty()).ok();
        }
    }
}

fn check_space(
    dir: &OwnedFd,
    source: &HostFile,
    input: &std::fs::Metadata,
    shown: &str,
) -> Result<()> {
    let allocated = if source.is_regular() {
        input.blocks().saturating_mul(512)
    } else {
        source.len()
    };
    let Ok(space) = rustix::fs::fstatvfs(dir) else {
        return Ok(());
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    // A reflink needs next to nothing, but whether it works is known only afterwards.
    let other = rustix::fs::fstat(dir).is_ok_and(|stat| stat.st_dev != input.dev());
    if free < allocated && (other || free < 64 << 20) {
        return Err(Error::new(
            Kind::Io,
            format!("-o {shown}: {allocated} bytes of free space expected, found {free}"),
        ));
    }
    Ok(())
}

/// Room for the disk's data. Whether that is zeros, for which no room is needed, is looked at only
/// where it decides.
fn check_disk_space(dir: &OwnedFd, disk: &dyn BlockDevice, shown: &str) -> Result<()> {
    let Ok(space) = rustix::fs::fstatvfs(dir) else {
        return Ok(());
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free >= disk.len() {
        return Ok(());
    }
    let mut need = 0;
    let mut at = 0;
    let mut buffer = vec![0; COPY];
    while let Some(range) = disk.next_data(at)? {
        let mut pos = range.start;
        while pos < range.end {
            let len = (range.end - pos).min(COPY as u64) as usize;
            disk.read_at(pos, &mut buffer[..len])?;
            let blocks = buffer[..len].chunks(4096);
            need += 4096 * blocks.filter(|block| !all_zero(block)).count() as u64;
            pos += len as u64;
        }
        if need > free {
            return Err(Error::new(
                Kind::Io,
                format!(
                    "-o {shown}: free space for the disk's data expected, found {free} bytes, \
                     which its first {} fill",
                    range.end
                ),
            ));
        }
        at = range.end;
    }
    Ok(())
}

/// SHA-256 of a patch's old and new bytes, for the report. `end` is where its file ends before.
pub fn digests(source: &dyn BlockDevice, patch: &Patch, end: u64) -> Result<(String, String)> {
    let mut old = vec![0; patch.len as usize];
    // Behind its end a clone that grew has zeros.
    let there = end.saturating_sub(patch.offset).min(patch.len) as usize;
    if there > 0 {
        source.read_at(patch.offset, &mut old[..there])?;
    }
    let new = match &patch.page {
        Page::Data(bytes) => Sha256::digest(bytes),
        Page::Zero => Sha256::digest(vec![0; patch.len as usize]),
    };
    Ok((hex::encode(Sha256::digest(&old)), hex::encode(new)))
}

/// SHA-256 of whole host files, one behind the other.
pub fn file_digest(files: &[&HostFile], tick: &mut dyn FnMut(u64)) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 4 << 20];
    let mut done = 0;
    for file in files {
        let mut at = 0;
        while at < file.len() {
            let len = (file.len() - at).min(buffer.len() as u64) as usize;
            file.read_at(at, &mut buffer[..len])?;
            hash.update(&buffer[..len]);
            at += len as u64;
            done += len as u64;
            tick(done);
        }
    }
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    fn sample(dir: &Path) -> HostFile {
        let path = dir.join("in");
        std::fs::write(&path, vec![7; 20_000]).unwrap();
        HostFile::open(&path).unwrap()
    }

    fn patch(offset: u64) -> Patch {
        Patch {
            offset,
            len: 4096,
            page: Page::Data(vec![9; 4096].into()),
        }
    }

    #[test]
    fn an_unfinished_output_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let source = sample(dir.path());
        let output = Output::create(&source, &dir.path().join("out"), false).unwrap();
        output.clone_from(&source, &mut |_| {}).unwrap();
        output.patch(&[patch(4096)]).unwrap();
        drop(output);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_is_judged_by_itself_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let source = sample(dir.path());
        std::fs::write(at("file"), "precious").unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        std::fs::hard_link(at("in"), at("twin")).unwrap();
        for (link, target) in [
            ("dangling", "nowhere"),
            ("to-file", "file"),
            ("to-in", "in"),
        ] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        let kind = |name: &str, force| {
            let early = Output::precheck(&source, &at(name), force).map_err(|e| e.kind());
            let late = Output::create(&source, &at(name), force).map_err(|e| e.kind());
            assert_eq!(early, late.map(drop), "{name}: both judge alike");
            early
        };
        for name in ["file", "dir", "in", "twin", "dangling", "to-file", "to-in"] {
            assert_eq!(kind(name, false), Err(Kind::Usage), "{name}");
        }
        for name in ["in", "twin"] {
            assert_eq!(kind(name, true), Err(Kind::Usage), "{name}");
        }
        for name in ["dir", "dangling", "to-file", "to-in"] {
            assert_eq!(kind(name, true), Err(Kind::Refused), "{name}");
        }
        assert_eq!(kind("file", true), Ok(()));
        assert_eq!(kind("new", false), Ok(()));
        assert_eq!(kind("no-such-directory/new", false), Err(Kind::Io));
        assert_eq!(
            kind(&"n".repeat(255), false),
            Ok(()),
            "as long as names may be"
        );
        assert_eq!(
            kind(&"\u{e9}".repeat(127), false),
            Ok(()),
            "cut between characters"
        );
        assert_eq!(std::fs::read(at("file")).unwrap(), b"precious");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            7,
            "nothing was left"
        );
    }

    #[test]
    fn a_name_taken_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let source = sample(dir.path());
        let out = dir.path().join("out");
        let output = Output::create(&source, &out, false).unwrap();
        output.clone_from(&source, &mut |_| {}).unwrap();
        std::fs::write(&out, "precious").unwrap();
        assert_eq!(output.finish(&source).unwrap_err().kind(), Kind::Io);
        assert_eq!(std::fs::read(&out).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_input_that_changed_meanwhile_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = sample(dir.path());
        let patches = [patch(4096)];
        let (old, _) = digests(&source, &patches[0], source.len()).unwrap();
        let path = dir.path().join("in");
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, vec![8; 20_000]).unwrap();
        let input = File::options().write(true).open(&path).unwrap();
        input.set_modified(std::time::UNIX_EPOCH).unwrap();
        let output = Output::create(&source, &dir.path().join("out"), false).unwrap();
        let error = output.clone_from(&source, &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        // A writer through a mapping may not be seen in the time yet.
        input.set_modified(time).unwrap();
        output.clone_from(&source, &mut |_| {}).unwrap();
        let error = output.check_old(&patches, &[old]).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
    }

    #[test]
    fn a_finished_output_is_the_input_with_its_patches() {
        let dir = tempfile::tempdir().unwrap();
        let source = sample(dir.path());
        let out = dir.path().join("out");
        let output = Output::create(&source, &out, false).unwrap();
        output.clone_from(&source, &mut |_| {}).unwrap();
        let patches = [patch(8192)];
        output.patch(&patches).unwrap();
        output.sync_and_check(&patches).unwrap();
        assert!(
            output.sync_and_check(&[patch(0)]).is_err(),
            "a lying write is found"
        );
        output.finish(&source).unwrap();
        let mut want = vec![7; 20_000];
        want[8192..12288].fill(9);
        assert_eq!(std::fs::read(&out).unwrap(), want);
        assert!(
            Output::create(&source, &out, false).is_err(),
            "it exists now"
        );
    }
}
