//! Solid resources: many files compressed as one. A chunk of which something changes is encoded again,
//! with the matches that it had; the others stay as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use sha1::{Digest, Sha1};

use super::{
    super::{
        Promise,
        chunks::Chunks,
        codec::{Encoder, differences},
        format::{self, res},
        read::{File, Resource, narrow, wide},
    },
    Change, Entry, packed_chunk,
};
use crate::{
    bytes::all_zero,
    error::{Error, Result},
};

/// Contents that have a place in a solid resource afterwards.
pub(super) struct Inside {
    /// Number of the resource.
    solid: usize,
    range: Range<u64>,
    change: Option<Change>,
}

impl Inside {
    pub(super) fn new((solid, start): (usize, u64), len: u64, change: Option<Change>) -> Self {
        let range = start..start.saturating_add(len);
        Self {
            solid,
            range,
            change,
        }
    }
}

/// A solid resource with new chunks. Those as long as the old ones are written already.
pub(super) struct Recoded {
    /// Its index in the blob table.
    pub(super) blob: usize,
    /// Where it is.
    pub(super) old: Resource,
    /// Bytes that it takes afterwards.
    pub(super) size: u64,
    /// Where its chunks are.
    bounds: Vec<u64>,
    /// Chunks that are longer or shorter than the old ones.
    new: BTreeMap<usize, Vec<u8>>,
    /// Where others were written, in the places of the old ones.
    pub(super) written: Vec<Range<u64>>,
    /// What they are all to hold.
    pub(super) promises: Vec<Promise>,
}

/// Bytes before the first chunk.
fn head_len(count: usize) -> u64 {
    wide(format::SOLID_HEADER).saturating_add(wide(count).saturating_mul(4))
}

impl Recoded {
    fn count(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    fn old_chunk(&self, index: usize) -> Range<u64> {
        let at = |index: usize| self.bounds.get(index).copied().unwrap_or(0);
        at(index)..at(index.saturating_add(1))
    }

    fn chunk_len(&self, index: usize) -> u64 {
        let old = self.old_chunk(index);
        let len = old.end.saturating_sub(old.start);
        self.new.get(&index).map_or(len, |new| wide(new.len()))
    }

    /// Whether chunks lie elsewhere afterwards.
    pub(super) fn is_moved(&self) -> bool {
        !self.new.is_empty()
    }

    /// What of it stays, and where that goes when the resource goes to `to`.
    pub(super) fn pieces(&self, to: u64) -> Result<Vec<(Range<u64>, u64)>> {
        let head = wide(format::SOLID_HEADER);
        let start = self.old.offset;
        let mut out: Vec<(Range<u64>, u64)> = vec![(start..start.saturating_add(head), to)];
        let mut at = to.saturating_add(head_len(self.count()));
        for index in 0..self.count() {
            if !self.new.contains_key(&index) {
                let from = self.old_chunk(index);
                let behind = out.last_mut().filter(|(last, place)| {
                    let len = last.end.saturating_sub(last.start);
                    last.end == from.start && place.saturating_add(len) == at
                });
                match behind {
                    Some((last, _)) => last.end = from.end,
                    None => out.push((from, at)),
                }
            }
            at = at.saturating_add(self.chunk_len(index));
        }
        Ok(out)
    }

    /// What is new of it, when it lies at `to`: lengths of chunks, chunks.
    pub(super) fn writes(&self, to: u64) -> Result<Vec<(u64, std::borrow::Cow<'_, [u8]>)>> {
        let mut lens = Vec::new();
        for index in 0..self.count() {
            let len = u32::try_from(self.chunk_len(index))
                .map_err(|_| Error::internal("WIM solid resource: the length of a chunk"))?;
            lens.extend(len.to_le_bytes());
        }
        let mut at = to.saturating_add(head_len(self.count()));
        let mut out = Vec::new();
        if self.is_moved() {
            let table = to.saturating_add(wide(format::SOLID_HEADER));
            out.push((table, lens.into()));
        }
        for index in 0..self.count() {
            if let Some(new) = self.new.get(&index) {
                out.push((at, new.as_slice().into()));
            }
            at = at.saturating_add(self.chunk_len(index));
        }
        Ok(out)
    }
}

/// What nothing takes of `len` bytes.
fn unused(mut taken: Vec<Range<u64>>, len: u64) -> Vec<Range<u64>> {
    taken.sort_unstable_by_key(|range| range.start);
    let mut out = Vec::new();
    let mut at = 0;
    for range in taken.into_iter().chain(std::iter::once(len..len)) {
        if at < range.start {
            out.push(at..range.start);
        }
        at = at.max(range.end);
    }
    out
}

/// Numbers of the chunks that a range of the contents is in.
fn numbers(chunks: &Chunks, range: &Range<u64>) -> Range<u64> {
    let size = u64::from(chunks.chunk_size).max(1);
    let end = range.end.min(chunks.len).div_ceil(size);
    range.start.checked_div(size).unwrap_or(0).min(end)..end
}

/// The part of `plain`, a chunk's contents, that a range of all contents takes, and where in the range
/// it begins.
fn part<'a>(
    chunk: &Range<u64>,
    range: &Range<u64>,
    plain: &'a mut [u8],
) -> Result<Option<(u64, &'a mut [u8])>> {
    let (from, to) = (chunk.start.max(range.start), chunk.end.min(range.end));
    if from >= to {
        return Ok(None);
    }
    let place = narrow(from.saturating_sub(chunk.start), "WIM chunk")?
        ..narrow(to.saturating_sub(chunk.start), "WIM chunk")?;
    let part = plain.get_mut(place);
    let part = part.ok_or_else(|| Error::internal("WIM chunk: a part of it"))?;
    Ok(Some((from.saturating_sub(range.start), part)))
}

/// Where contents that begin at `start` changed.
fn changed(start: u64, was: &[u8], is: &[u8]) -> Vec<Range<u64>> {
    let differ = differences(was, is).into_iter();
    let far = |at| start.saturating_add(wide(at));
    differ
        .map(|range| far(range.start)..far(range.end))
        .collect()
}

/// Encodes again what does not hold what it should: new contents, or zeros where nothing is.
pub(super) fn recode(file: &File, inside: &[Inside]) -> Result<Vec<Recoded>> {
    let mut out = Vec::new();
    for (number, solid) in file.solids.iter().enumerate() {
        let chunks = &solid.chunks;
        let here = || inside.iter().filter(|one| one.solid == number);
        let free = unused(here().map(|one| one.range.clone()).collect(), chunks.len);
        let changes: Vec<&Inside> = here().filter(|one| one.change.is_some()).collect();
        let mut which = BTreeSet::new();
        for range in free.iter().chain(changes.iter().map(|one| &one.range)) {
            which.extend(numbers(chunks, range));
        }
        let change = |index: usize, plain: &mut [u8]| -> Result<bool> {
            let chunk = chunks.contents(index);
            let mut changed = false;
            for range in &free {
                if let Some((_, part)) = part(&chunk, range, plain)?
                    && !all_zero(part)
                {
                    part.fill(0);
                    changed = true;
                }
            }
            for one in &changes {
                if let (Some((at, part)), Some(change)) =
                    (part(&chunk, &one.range, plain)?, &one.change)
                {
                    changed |= change.apply(at, part)?;
                }
            }
            Ok(changed)
        };
        let mut which: Vec<usize> = which
            .into_iter()
            .map(|index| narrow(index, "WIM chunk"))
            .collect::<Result<_>>()?;
        // The one that is decoded already comes first: none is twice.
        if let Some(kept) = file.kept_chunk(chunks)? {
            which.sort_by_key(|index| *index != kept);
        }
        let mut new = BTreeMap::new();
        let mut written = Vec::new();
        let mut promises = Vec::new();
        let mut encoder = None;
        for index in which {
            let was = file.take_chunk(chunks, index)?;
            let mut plain = was.clone();
            if !change(index, &mut plain)? {
                continue;
            }
            promises.push(Promise {
                solid: number,
                index,
                hash: Sha1::digest(&plain).into(),
                changed: changed(chunks.contents(index).start, &was, &plain),
            });
            let old = packed_chunk(file, chunks, index)?;
            let bytes = match (chunks.method, old) {
                // One stored as it is stays so: it keeps its length.
                (Some(method), Some(old)) if old.len() < plain.len() => {
                    let encoder = match &mut encoder {
                        Some(encoder) => encoder,
                        none => {
                            let made = Encoder::new(method, chunks.chunk_size);
                            let made = made
                                .map_err(|fault| Error::internal(format!("WIM codec: {fault}")))?;
                            none.insert(made)
                        }
                    };
                    match encoder.encode_like(&old, Some(was), plain) {
                        Some(packed) => packed,
                        None => {
                            let mut plain = file.chunk(chunks, index)?;
                            change(index, &mut plain)?;
                            plain
                        }
                    }
                }
                _ => plain,
            };
            let place = chunks.place(index)?;
            if wide(bytes.len()) == place.end.saturating_sub(place.start) {
                // Not kept until all are made: they are large.
                file.host.write_at(place.start, &bytes)?;
                written.push(place);
            } else {
                new.insert(index, bytes);
            }
        }
        if new.is_empty() && written.is_empty() {
            continue;
        }
        let old = file.blobs.get(solid.blob).map(|blob| blob.resource);
        let mut one = Recoded {
            blob: solid.blob,
            old: old.ok_or_else(|| Error::internal("WIM solid resource: its number"))?,
            size: 0,
            bounds: chunks.bounds.clone(),
            new,
            written,
            promises,
        };
        one.size = (0..one.count())
            .map(|index| one.chunk_len(index))
            .fold(head_len(one.count()), u64::saturating_add);
        out.push(one);
    }
    Ok(out)
}

/// Says anew where in its run contents begin: two runs become one when nothing is left between them.
pub(super) fn renumber(file: &File, table: &mut [Entry]) -> Result<()> {
    let mut at = 0;
    while let Some(rest) = table.get_mut(at..)
        && !rest.is_empty()
    {
        let is_solid = |entry: &Entry| entry.blob.resource.is(res::SOLID);
        let len = rest.iter().take_while(|entry| is_solid(entry)).count();
        let run = rest.get_mut(..len).unwrap_or_default();
        let mut starts = BTreeMap::new();
        let mut start = 0_u64;
        for entry in run.iter().filter(|entry| entry.blob.is_solid_resource()) {
            let solid = file.solids.iter().position(|solid| solid.blob == entry.of);
            let number = solid.ok_or_else(|| Error::internal("WIM solid resource: its number"))?;
            starts.insert(number, start);
            let len = file.solids.get(number).map_or(0, |one| one.chunks.len);
            start = start.saturating_add(len);
        }
        for entry in run
            .iter_mut()
            .filter(|entry| !entry.blob.is_solid_resource())
        {
            let place = file.solid_of(entry.of)?;
            let (number, inside) =
                place.ok_or_else(|| Error::internal("WIM solid resource: what is in it"))?;
            let start = starts.get(&number).copied();
            let start =
                start.ok_or_else(|| Error::internal("WIM solid resource: contents without it"))?;
            entry.blob.resource.offset = start.saturating_add(inside);
        }
        at = at.saturating_add(len).saturating_add(1);
    }
    Ok(())
}

/// Where in each solid resource nothing is.
fn free(file: &File) -> Result<Vec<Vec<Range<u64>>>> {
    let mut taken: Vec<Vec<Range<u64>>> = vec![Vec::new(); file.solids.len()];
    for (index, blob) in file.blobs.iter().enumerate() {
        if blob.is_solid_resource() {
            continue;
        }
        if let Some((solid, start)) = file.solid_of(index)?
            && let Some(taken) = taken.get_mut(solid)
        {
            taken.push(start..start.saturating_add(blob.len()));
        }
    }
    let with = taken.into_iter().zip(&file.solids);
    Ok(with
        .map(|(taken, solid)| unused(taken, solid.chunks.len))
        .collect())
}

/// How many bytes are not zero where no contents are.
pub(super) fn stale(file: &File) -> Result<u64> {
    let mut found = 0_u64;
    for (free, solid) in free(file)?.into_iter().zip(&file.solids) {
        for range in free {
            found = found.saturating_add(file.count_dirty(&solid.chunks, range)?);
        }
    }
    Ok(found)
}

/// The chunks that a range of a solid resource's contents is in: number, place in the file.
pub(super) fn chunks_of(
    file: &File,
    solid: usize,
    range: &Range<u64>,
) -> Result<Vec<(usize, Range<u64>)>> {
    let Some(solid) = file.solids.get(solid) else {
        return Ok(Vec::new());
    };
    numbers(&solid.chunks, range)
        .map(|index| {
            let index = narrow(index, "WIM chunk")?;
            Ok((index, solid.chunks.place(index)?))
        })
        .collect()
}

/// Nothing but zeros where nothing is, in the chunks that were written.
pub(super) fn check_gaps(file: &File, touched: &[Range<u64>], out: &mut Vec<String>) -> Result<()> {
    for (free, solid) in free(file)?.into_iter().zip(&file.solids) {
        let chunks = &solid.chunks;
        let mut dirty = 0_u64;
        for range in &free {
            for index in numbers(chunks, range) {
                let index = narrow(index, "WIM chunk")?;
                let place = chunks.place(index)?;
                if !touched
                    .iter()
                    .any(|one| one.start < place.end && place.start < one.end)
                {
                    continue;
                }
                let chunk = chunks.contents(index);
                let (from, to) = (chunk.start.max(range.start), chunk.end.min(range.end));
                dirty = dirty.saturating_add(file.count_dirty(chunks, from..to)?);
            }
        }
        if dirty > 0 {
            out.push(format!(
                "WIM solid resource at {:#x}: zeros where nothing is expected, found {dirty} other \
                 bytes",
                chunks.bounds.first().copied().unwrap_or(0)
            ));
        }
    }
    Ok(())
}
