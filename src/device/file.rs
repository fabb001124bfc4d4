//! A host file or block device: opened once, read-only, locked, read by position.

use std::{
    fs::{File, OpenOptions},
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{BlockDevice, Mapping, check_inside};
use crate::{
    error::{Error, Kind, Result},
    text::escape,
};

/// An image on the host. Never written: `apply` writes its own clone.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    path: PathBuf,
    len: u64,
    regular: bool,
    /// When it was written last, as of opening: seconds and nanoseconds.
    written: (i64, i64),
}

impl HostFile {
    /// Opens for reading and takes a shared lock; a FIFO or character device is refused, not read.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = escape(&path.display().to_string());
        let opening = |e: &std::io::Error| Error::io(format!("image {shown}: open"), e);
        // O_NONBLOCK: opening a FIFO must not wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(|e| opening(&e))?;
        let meta = file.metadata().map_err(|e| opening(&e))?;
        let kind = meta.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::refused(format!(
                "image {shown}: regular file or block device expected, found {}",
                if kind.is_dir() {
                    "a directory"
                } else {
                    "something else"
                }
            )));
        }
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::refused(format!(
                    "image {shown}: another program is writing it"
                ))
                .advise("wait until it has finished"));
            }
            // A host file system without locks (some network mounts) is no reason not to look.
            Err(std::fs::TryLockError::Error(_)) => {}
        }
        let len = if kind.is_file() {
            meta.len()
        } else {
            rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| opening(&e.into()))?
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            regular: kind.is_file(),
            written: (meta.mtime(), meta.mtime_nsec()),
        })
    }

    /// The host path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for cloning; reading only.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is a regular file (a block device is not mapped and has no holes).
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.regular
    }

    /// Fails if a regular file was written or cut since it was opened: what was read of it may be
    /// of two different images.
    pub fn check_unchanged(&self) -> Result<()> {
        if !self.regular {
            return Ok(());
        }
        let now = self.check_length()?;
        if now.len() > self.len || (now.mtime(), now.mtime_nsec()) != self.written {
            return Err(Error::refused("image: it changed while it was read")
                .advise("make sure that no other program writes to it, then try again"));
        }
        Ok(())
    }

    /// Fails if it became shorter: a hole that is a missing end must not be taken for zeros.
    fn check_length(&self) -> Result<std::fs::Metadata> {
        let now = self
            .file
            .metadata()
            .map_err(|e| Error::io("image: its length", &e))?;
        if now.len() < self.len {
            return Err(shorter());
        }
        Ok(now)
    }

    /// Maps a window of the file for a read-only scan.
    pub fn map(&self, range: Range<u64>) -> Result<Mapping<'_>> {
        let len = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| Error::limit("map: window too large"))?;
        Mapping::new(&self.file, range.start, len)
    }
}

impl BlockDevice for HostFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_inside("image", offset, buf.len(), self.len)
            .map_err(|e| e.at("image offset", format_args!("{offset:#x}")))?;
        self.file.read_exact_at(buf, offset).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                return shorter().at("image offset", format_args!("{offset:#x}"));
            }
            Error::io(format!("image: read of {} bytes", buf.len()), &e)
                .at("image offset", format_args!("{offset:#x}"))
        })
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        if from >= self.len {
            return Ok(None);
        }
        if !self.regular {
            return Ok(Some(from..self.len));
        }
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return self.check_length().map(|_| None),
            // No hole support: everything may be data.
            Err(_) => return Ok(Some(from..self.len)),
        };
        let end = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start))
            .unwrap_or(self.len)
            .min(self.len);
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
