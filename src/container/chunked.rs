//! A disk in chunks of one size, each of which is read as a whole: for reading only.

use std::sync::{Arc, Mutex, PoisonError};

use super::mapped::wide;
use crate::{
    device::{BlockDevice, Device},
    error::{Error, Result},
};

/// Bytes of chunks that are kept after they were read.
const CACHE: u64 = 8 << 20;

/// What a format knows about its chunks.
pub(super) trait Chunks: Send + Sync + std::fmt::Debug {
    /// The first `want` bytes of a chunk, no more and no fewer: the last one may be shorter than the
    /// others.
    fn read_chunk(&self, number: u64, want: usize) -> Result<Vec<u8>>;
}

/// The disk.
#[derive(Debug)]
pub(super) struct Chunked<C> {
    chunks: C,
    /// Bytes in a chunk; never zero.
    chunk: u64,
    len: u64,
    /// The last one used in front.
    cache: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
}

impl<C: Chunks + 'static> Chunked<C> {
    /// A disk of `len` bytes in chunks of `chunk`.
    pub(super) fn device(chunks: C, chunk: u64, len: u64) -> Device {
        Arc::new(Self {
            chunks,
            chunk: chunk.max(1),
            len,
            cache: Mutex::default(),
        })
    }

    /// The bytes of the disk in a chunk.
    fn bytes_of(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = cache.iter().position(|(known, _)| *known == number) {
                let found = cache.remove(index);
                let bytes = Arc::clone(&found.1);
                cache.insert(0, found);
                return Ok(bytes);
            }
        }
        let start = number.saturating_mul(self.chunk);
        let want = self.len.saturating_sub(start).min(self.chunk);
        let want =
            usize::try_from(want).map_err(|_| Error::internal("disk: the length of a chunk"))?;
        let bytes = self.chunks.read_chunk(number, want)?;
        if bytes.len() != want {
            return Err(Error::internal("disk: a chunk of another length"));
        }
        let bytes = Arc::new(bytes);
        let keep = usize::try_from(CACHE.checked_div(self.chunk).unwrap_or(0)).unwrap_or(0);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(0, (number, Arc::clone(&bytes)));
        cache.truncate(keep.max(1));
        Ok(bytes)
    }
}

impl<C: Chunks + 'static> BlockDevice for Chunked<C> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(wide(buf.len()));
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::malformed(format!(
                "disk: {} bytes expected at {offset:#x}, it ends at {:#x}",
                buf.len(),
                self.len
            )));
        }
        let leaves = || Error::internal("disk: a piece leaves the buffer");
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let number = at.checked_div(self.chunk).ok_or_else(leaves)?;
            let bytes = self.bytes_of(number)?;
            let from = at.checked_rem(self.chunk).unwrap_or(0);
            let from = usize::try_from(from).map_err(|_| leaves())?;
            let part = bytes.get(from..).unwrap_or_default();
            let take = part.len().min(rest.len());
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(take)
                .filter(|_| take > 0)
                .ok_or_else(leaves)?;
            now.copy_from_slice(part.get(..take).unwrap_or_default());
            at = at.saturating_add(wide(take));
            rest = later;
        }
        Ok(())
    }
}
