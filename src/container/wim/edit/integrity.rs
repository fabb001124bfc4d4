//! The integrity table of the written file.

use std::ops::Range;

use sha1::{Digest, Sha1};

use super::{
    super::{
        format::{self, HASH_LEN},
        read::{File, Hash, narrow, wide},
        split::Part,
    },
    PAGE, STEP,
};
use crate::{
    bytes::View,
    error::{Error, Result},
};

/// The integrity table: SHA-1 of each piece of the file between the header and the end of the blob
/// table. All positions are those in its file.
pub(super) struct Integrity {
    /// Where the file begins in the address space of all files.
    start: u64,
    chunk: u64,
    pub(super) old: Vec<Hash>,
    /// Where what it covers ended.
    covered: u64,
}

impl Integrity {
    pub(super) fn read(file: &File, part: &Part) -> Result<Option<Self>> {
        let one = part.integrity();
        if one.size == 0 {
            return Ok(None);
        }
        let bytes = file.integrity(part)?;
        let view = View::new(&bytes, "WIM integrity table");
        let at = |error: Error| error.at("image offset", format_args!("{:#x}", one.offset));
        let chunk = u64::from(view.u32(8).map_err(at)?);
        let (old, rest) = bytes
            .get(format::INTEGRITY_HEAD..)
            .unwrap_or_default()
            .as_chunks::<HASH_LEN>();
        if chunk < PAGE
            || !rest.is_empty()
            || wide(old.len()) != u64::from(view.u32(4).map_err(at)?)
        {
            return Err(at(Error::malformed(format!(
                "WIM integrity table: whole hashes of pieces of at least {PAGE} bytes expected, \
                 found {} bytes for pieces of {chunk}",
                bytes.len()
            ))));
        }
        Ok(Some(Self {
            start: part.range.start,
            chunk,
            old: old.to_vec(),
            covered: part.header.table.range().end,
        }))
    }

    pub(super) fn count(&self, covered: u64) -> u64 {
        covered
            .saturating_sub(format::HEADER_END)
            .div_ceil(self.chunk)
    }

    pub(super) fn len_for(&self, covered: u64) -> u64 {
        let hashes = self.count(covered).saturating_mul(wide(HASH_LEN));
        hashes.saturating_add(wide(format::INTEGRITY_HEAD))
    }

    /// Hashes again what was written, and what ends elsewhere than before. `dirty` are ranges of all
    /// files.
    pub(super) fn write(
        &self,
        file: &File,
        covered: u64,
        dirty: &[Range<u64>],
        at: u64,
    ) -> Result<()> {
        let place = |range: Range<u64>| {
            let inside = |at: u64| self.start.saturating_add(at);
            inside(range.start)..inside(range.end)
        };
        let count = self.count(covered);
        let len = u32::try_from(self.len_for(covered)).unwrap_or(u32::MAX);
        let mut out = Vec::new();
        out.extend(len.to_le_bytes());
        out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(u32::try_from(self.chunk).unwrap_or(u32::MAX).to_le_bytes());
        for index in 0..count {
            let start = format::HEADER_END.saturating_add(index.saturating_mul(self.chunk));
            let end = start.saturating_add(self.chunk).min(covered);
            let was = start.saturating_add(self.chunk).min(self.covered);
            let piece = place(start..end);
            let touched = dirty
                .iter()
                .any(|range| range.start < piece.end && piece.start < range.end);
            let old = usize::try_from(index)
                .ok()
                .and_then(|index| self.old.get(index));
            match old.filter(|_| !touched && was == end) {
                Some(hash) => out.extend(hash),
                None => out.extend(hash_of(file, piece)?),
            }
        }
        file.host.write_at(self.start.saturating_add(at), &out)
    }
}

fn hash_of(file: &File, range: Range<u64>) -> Result<Hash> {
    let mut hash = Sha1::new();
    let mut at = range.start;
    let mut buffer = vec![0; narrow(STEP, "WIM integrity table")?];
    while at < range.end {
        let take = range.end.saturating_sub(at).min(STEP);
        let piece = buffer
            .get_mut(..narrow(take, "WIM integrity table")?)
            .ok_or_else(|| Error::internal("WIM integrity table: its piece"))?;
        file.host.read_at(at, piece)?;
        hash.update(&*piece);
        at = at.saturating_add(take);
    }
    Ok(hash.finalize().into())
}
