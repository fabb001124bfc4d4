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

use super::guard;
use crate::{
    bytes::all_zero,
    device::{BlockDevice, HostFile, Page, Patch},
    error::{Error, Kind, Result},
    text::escape,
};

const COPY: usize = 1 << 20;

/// A temporary file that becomes OUT. Dropped before [`Output::finish`], it removes itself.
#[derive(Debug)]
pub struct Output {
    file: File,
    dir: OwnedFd,
    temporary: String,
    name: String,
    shown: String,
    force: bool,
    finished: bool,
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
    /// Creates the temporary file. Refuses an existing OUT unless `force`, and OUT = input always.
    pub fn create(source: &HostFile, out: &Path, force: bool) -> Result<Self> {
        let shown = escape(&out.display().to_string());
        let name = out
            .file_name()
            .ok_or_else(|| Error::new(Kind::Usage, format!("-o {shown}: a file name expected")))?;
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
        if let Ok(there) = rustix::fs::statat(&dir, name, AtFlags::empty()) {
            if (there.st_dev, there.st_ino) == (input.dev(), input.ino()) {
                return Err(Error::new(
                    Kind::Usage,
                    format!("-o {shown}: another file expected, it is the input itself"),
                ));
            }
            if !force {
                return Err(Error::new(
                    Kind::Usage,
                    format!("-o {shown}: a new file expected, it exists"),
                )
                .advise("choose another name or pass --force"));
            }
            if rustix::fs::FileType::from_raw_mode(there.st_mode)
                != rustix::fs::FileType::RegularFile
            {
                return Err(Error::refused(format!(
                    "-o {shown}: it is not a regular file"
                )));
            }
        }
        check_space(&dir, source, &input, &shown)?;
        let name = name.to_str().map(str::to_owned).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("-o {shown}: a file name in UTF-8 expected"),
            )
        })?;
        for attempt in 0..1000 {
            let temporary = format!(".{name}.declone-{}-{attempt}.tmp", std::process::id());
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&dir, &temporary, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    let file = File::from(fd);
                    return Ok(Self {
                        file,
                        dir,
                        temporary,
                        name,
                        shown,
                        force,
                        finished: false,
                    });
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(io(format!("-o {shown}: create a temporary file"), e)),
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

    /// Fills the temporary file with the source: reflink, else data extents only, else sparse.
    pub fn clone_from(&self, source: &HostFile, tick: &mut dyn FnMut(u64)) -> Result<Method> {
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

    fn copy_sparse(&self, source: &HostFile, at: u64, len: u64) -> Result<u64> {
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
        guard::check(patches, len)?;
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
    pub fn finish(mut self, source: &HostFile) -> Result<()> {
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
        let flags = if self.force {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        let renamed =
            rustix::fs::renameat_with(&self.dir, &self.temporary, &self.dir, &self.name, flags);
        match renamed {
            Ok(()) => {}
            // A host file system without RENAME_NOREPLACE: link refuses an existing name, too.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                rustix::fs::linkat(
                    &self.dir,
                    &self.temporary,
                    &self.dir,
                    &self.name,
                    AtFlags::empty(),
                )
                .map_err(|e| io(format!("-o {}: give it its name", self.shown), e))?;
                rustix::fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty()).ok();
            }
            Err(e) => return Err(io(format!("-o {}: give it its name", self.shown), e)),
        }
        self.finished = true;
        rustix::fs::fsync(self.dir.as_fd())
            .map_err(|e| io(format!("-o {}: fsync of its directory", self.shown), e))
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

/// SHA-256 of a patch's old and new bytes, for the report.
pub fn digests(source: &HostFile, patch: &Patch) -> Result<(String, String)> {
    let mut old = vec![0; patch.len as usize];
    source.read_at(patch.offset, &mut old)?;
    let new = match &patch.page {
        Page::Data(bytes) => Sha256::digest(bytes),
        Page::Zero => Sha256::digest(vec![0; patch.len as usize]),
    };
    Ok((hex::encode(Sha256::digest(&old)), hex::encode(new)))
}

/// SHA-256 of a whole host file.
pub fn file_digest(file: &HostFile, tick: &mut dyn FnMut(u64)) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 4 << 20];
    let mut at = 0;
    while at < file.len() {
        let len = (file.len() - at).min(buffer.len() as u64) as usize;
        file.read_at(at, &mut buffer[..len])?;
        hash.update(&buffer[..len]);
        at += len as u64;
        tick(at);
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
    fn an_input_that_changed_meanwhile_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = sample(dir.path());
        let patches = [patch(4096)];
        let (old, _) = digests(&source, &patches[0]).unwrap();
        std::fs::write(dir.path().join("in"), vec![8; 20_000]).unwrap();
        let output = Output::create(&source, &dir.path().join("out"), false).unwrap();
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
