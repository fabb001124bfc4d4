//! Read-only memory maps of host files, for long scans. Unsafe code is here and in `sys`
//! only.

use std::fs::File;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Result};

/// A window of a host file in memory, read-only.
#[derive(Debug)]
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps `len` bytes at `offset` (a multiple of 4096) of a regular file that is locked and was
    /// checked to be at least that long.
    #[allow(unsafe_code)]
    pub fn new(file: &File, offset: u64, len: usize) -> Result<Self> {
        let meta = file
            .metadata()
            .map_err(|e| Error::io("map: size of the image", &e))?;
        if !meta.is_file()
            || offset
                .checked_add(len as u64)
                .is_none_or(|end| end > meta.len())
        {
            return Err(Error::internal(format!(
                "map: {len} bytes at {offset:#x} of the image"
            )));
        }
        // SAFETY: the mapping is private to this process and read-only. Another process that
        // truncates the file while it is mapped would raise SIGBUS: `HostFile` holds an flock on
        // it, the size was checked just now, and windows are short-lived; nothing that leads to a
        // write ever reads through a mapping.
        let map = unsafe {
            MmapOptions::new()
                .offset(offset)
                .len(len)
                .populate()
                .map(file)
        }
        .map_err(|e| Error::io(format!("map: {len} bytes at {offset:#x}"), &e))?;
        Ok(Self(map))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
