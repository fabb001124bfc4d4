//! Contents in chunks: how they are cut, what each of them holds.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use sha1::{Digest, Sha1};

use super::{
    codec::{Decoder, Method},
    format::{self, res},
    read::{File, Hash, Resource, narrow, wide},
};
use crate::{
    bytes::View,
    error::{At, Error, Result},
};

/// Longest chunk that is decoded: the longest that Windows takes (`wimlib.h`).
const CHUNK_LIMIT: u64 = 64 << 20;
/// From this length on a second thread is worth its start.
const FAST_FROM: u64 = 1 << 20;
/// From this length on chunks are decoded one at a time.
const LARGE_CHUNK: u64 = 4 << 20;

fn poisoned() -> Error {
    Error::internal("WIM: lock poisoned")
}

/// Contents in chunks.
#[derive(Clone, Debug)]
pub(super) struct Chunks {
    /// None: chunks are stored as they are.
    pub method: Option<Method>,
    pub chunk_size: u32,
    /// Bytes of the contents.
    pub len: u64,
    /// Where each chunk begins in the file, and where the last ends.
    pub bounds: Vec<u64>,
}

impl Chunks {
    pub(super) fn count(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    /// A chunk's place in the file.
    pub(super) fn place(&self, index: usize) -> Result<Range<u64>> {
        match (
            self.bounds.get(index),
            self.bounds.get(index.saturating_add(1)),
        ) {
            (Some(start), Some(end)) => Ok(*start..*end),
            _ => Err(Error::internal("WIM chunk: its number")),
        }
    }

    /// A chunk's place in the contents.
    pub(super) fn contents(&self, index: usize) -> Range<u64> {
        let size = u64::from(self.chunk_size);
        let start = wide(index).saturating_mul(size);
        start..start.saturating_add(size).min(self.len)
    }
}

/// The large chunk that was decoded last: file, place in it, contents. One for all files, and decoded
/// one at a time: each takes much memory, and the next one to be read is mostly the same.
static LARGE: Mutex<Option<(u64, u64, Vec<u8>)>> = Mutex::new(None);

/// Numbers for the files that are open.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What was decoded last, and what is kept to decode more.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Whose the chunk in [`LARGE`] is.
    id: u64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Those that nobody uses now.
    decoders: Vec<(Method, u32, Decoder)>,
    /// The small chunk that was decoded last: place in the file, contents.
    chunk: Option<(u64, Vec<u8>)>,
    /// Places of chunks of which somebody wants to know the hash, and that of what was decoded there.
    watched: BTreeMap<u64, Option<Hash>>,
}

impl Keeper {
    pub(super) fn new() -> Self {
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            kept: Mutex::default(),
        }
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl File {
    /// How the contents of a resource outside solid ones are cut.
    pub(super) fn chunks(&self, one: &Resource, what: &str) -> Result<Chunks> {
        let fail = |found: String| {
            Error::malformed(format!("{what}: {found}"))
                .at("image offset", format_args!("{:#x}", one.offset))
        };
        if !one.is(res::COMPRESSED) {
            // One chunk a megabyte: nothing is ever read whole that need not be.
            let chunk_size = 1_u32 << 20;
            let count = one.len.div_ceil(u64::from(chunk_size));
            let bounds = (0..=count)
                .map(|index| {
                    let inside = index.saturating_mul(u64::from(chunk_size)).min(one.len);
                    one.offset.saturating_add(inside)
                })
                .collect();
            return Ok(Chunks {
                method: None,
                chunk_size,
                len: one.len,
                bounds,
            });
        }
        let method = self.method.ok_or_else(|| {
            fail("a compression method in the header expected, found none".into())
        })?;
        let chunk_size = self.header.chunk_size;
        let count = one.len.div_ceil(u64::from(chunk_size)).max(1);
        let width: u64 = if one.len > format::WIDE_OFFSETS { 8 } else { 4 };
        let table_len = count.saturating_sub(1).saturating_mul(width);
        if table_len > one.size {
            return Err(fail(format!(
                "a table of {count} chunks expected, found only {} bytes",
                one.size
            )));
        }
        let mut table = vec![0; narrow(table_len, what)?];
        self.host
            .read_at(one.offset, &mut table)
            .at("image offset", format_args!("{:#x}", one.offset))?;
        let data = one.offset.saturating_add(table_len);
        let end = one.range().end;
        let mut bounds = vec![data];
        for entry in table.chunks_exact(narrow(width, what)?) {
            let inside = entry
                .iter()
                .rev()
                .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
            bounds.push(data.saturating_add(inside));
        }
        bounds.push(end);
        self.checked(method, chunk_size, one.len, bounds, &fail)
    }

    fn checked(
        &self,
        method: Method,
        chunk_size: u32,
        len: u64,
        bounds: Vec<u64>,
        fail: &dyn Fn(String) -> Error,
    ) -> Result<Chunks> {
        let chunks = Chunks {
            method: Some(method),
            chunk_size,
            len,
            bounds,
        };
        let mut rest = len;
        for (index, pair) in chunks.bounds.windows(2).enumerate() {
            let [start, end] = pair else { continue };
            let full = rest.min(u64::from(chunk_size));
            rest = rest.saturating_sub(full);
            let size = end.saturating_sub(*start);
            if end < start || size > full || (size == 0 && full > 0) {
                return Err(fail(format!(
                    "1 to {full} bytes for chunk {index} expected, found them from {start:#x} to \
                     {end:#x}"
                )));
            }
        }
        Ok(chunks)
    }

    pub(super) fn solid_chunks(&self, one: &Resource) -> Result<Chunks> {
        let fail = |found: String| {
            Error::malformed(format!("WIM solid resource: {found}"))
                .at("image offset", format_args!("{:#x}", one.offset))
        };
        let mut head = vec![0; format::SOLID_HEADER];
        if one.size < wide(head.len()) {
            return Err(fail("a header expected, found too few bytes".to_owned()));
        }
        self.host.read_at(one.offset, &mut head)?;
        let view = View::new(&head, "WIM solid resource");
        let (len, chunk_size) = (view.u64(0)?, view.u32(8)?);
        let method = match view.u32(12)? {
            1 => Method::Xpress,
            2 => Method::Lzx,
            3 => Method::Lzms,
            other => {
                return Err(fail(format!(
                    "compression method 1, 2 or 3 expected, found {other}"
                )));
            }
        };
        if !(chunk_size.is_power_of_two() && method.chunk_sizes().contains(&chunk_size)) {
            return Err(fail(format!(
                "a chunk size between {} and {} expected, found {chunk_size}",
                method.chunk_sizes().start(),
                method.chunk_sizes().end()
            )));
        }
        let count = len.div_ceil(u64::from(chunk_size));
        let table_len = count.saturating_mul(4);
        let head_len = wide(format::SOLID_HEADER);
        if head_len.saturating_add(table_len) > one.size {
            return Err(fail(format!(
                "a table of {count} chunks expected, found {} bytes",
                one.size
            )));
        }
        let mut table = vec![0; narrow(table_len, "WIM solid resource")?];
        let at = one.offset.saturating_add(head_len);
        self.host.read_at(at, &mut table)?;
        let mut next = at.saturating_add(table_len);
        let mut bounds = vec![next];
        let (sizes, _) = table.as_chunks::<4>();
        for size in sizes {
            next = next.saturating_add(u64::from(u32::from_le_bytes(*size)));
            bounds.push(next);
        }
        if next != one.range().end {
            return Err(fail(format!(
                "chunks up to {:#x} expected, found them up to {next:#x}",
                one.range().end
            )));
        }
        self.checked(method, chunk_size, len, bounds, &fail)
    }

    /// Takes down the hash of a chunk's contents when they are decoded.
    pub(super) fn watch(&self, chunks: &Chunks, index: usize) -> Result<()> {
        let place = chunks.place(index)?.start;
        self.with_kept(|kept| kept.watched.insert(place, None))?;
        Ok(())
    }

    /// The hash of the contents of a chunk that is watched.
    pub(super) fn hash_of_chunk(&self, chunks: &Chunks, index: usize) -> Result<Hash> {
        let place = chunks.place(index)?.start;
        let known = || self.with_kept(|kept| kept.watched.get(&place).copied().flatten());
        if known()?.is_none() {
            self.with_chunk(chunks, index, |_| ())?;
        }
        known()?.ok_or_else(|| Error::internal("WIM chunk: nobody watched it"))
    }

    /// The contents of a chunk; `Malformed` if they do not decode.
    pub(super) fn chunk(&self, chunks: &Chunks, index: usize) -> Result<Vec<u8>> {
        let bytes = self.decoded(chunks, index)?;
        let place = chunks.place(index)?.start;
        if self.with_kept(|kept| kept.watched.contains_key(&place))? {
            let hash: Hash = Sha1::digest(&bytes).into();
            self.with_kept(|kept| kept.watched.insert(place, Some(hash)))?;
        }
        Ok(bytes)
    }

    fn decoded(&self, chunks: &Chunks, index: usize) -> Result<Vec<u8>> {
        let place = chunks.place(index)?;
        let contents = chunks.contents(index);
        let len = narrow(contents.end.saturating_sub(contents.start), "WIM chunk")?;
        let size = narrow(place.end.saturating_sub(place.start), "WIM chunk")?;
        if contents.end.saturating_sub(contents.start) > CHUNK_LIMIT {
            return Err(Error::limit(format!(
                "WIM chunk: at most {CHUNK_LIMIT} bytes expected, found {len}"
            ))
            .at("image offset", format_args!("{:#x}", place.start))
            .advise("export it with smaller chunks: wimexport IMAGE all new.esd --solid"));
        }
        let mut packed = vec![0; size];
        self.host
            .read_at(place.start, &mut packed)
            .at("image offset", format_args!("{:#x}", place.start))?;
        let Some(method) = chunks.method.filter(|_| size != len) else {
            return Ok(packed);
        };
        let mut out = vec![0; len];
        let fail = |fault: super::codec::Fault| {
            Error::malformed(format!(
                "WIM chunk: {len} bytes expected from {size}, found: {fault}"
            ))
            .at("image offset", format_args!("{:#x}", place.start))
        };
        let wanted = (method, chunks.chunk_size);
        let idle = self.with_kept(|kept| {
            let known = kept
                .decoders
                .iter()
                .position(|(m, size, _)| (*m, *size) == wanted);
            known.map(|at| kept.decoders.swap_remove(at).2)
        })?;
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder::new(method, chunks.chunk_size).map_err(fail)?,
        };
        let decoded = decoder.decode(&packed, &mut out).map_err(fail);
        self.with_kept(|kept| kept.decoders.push((method, chunks.chunk_size, decoder)))?;
        decoded?;
        Ok(out)
    }

    /// The contents of chunks that follow one another, decoded by two threads if they are small.
    pub(super) fn chunks_from(&self, chunks: &Chunks, which: Range<usize>) -> Result<Vec<Vec<u8>>> {
        let all = |which: Range<usize>| which.map(|index| self.chunk(chunks, index)).collect();
        if which.len() < 2 || u64::from(chunks.chunk_size) >= LARGE_CHUNK {
            return all(which);
        }
        let middle = which.start.saturating_add(which.len().div_euclid(2));
        let (front, back): (Result<Vec<_>>, _) = std::thread::scope(|scope| {
            let back = scope.spawn(|| all(middle..which.end));
            (all(which.start..middle), back.join())
        });
        let mut found = front?;
        let back: Result<Vec<_>> =
            back.map_err(|_| Error::internal("WIM chunks: the thread died"))?;
        found.extend(back?);
        Ok(found)
    }

    /// As [`Self::read_blob`], by two threads if the chunks are small.
    pub(super) fn read_blob_fast(&self, index: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (chunks, _) = self.place_of(index)?;
        if wide(buf.len()) < FAST_FROM || u64::from(chunks.chunk_size) >= LARGE_CHUNK {
            return self.read_blob(index, offset, buf);
        }
        let half = buf.len().div_euclid(2);
        let (front, back) = buf.split_at_mut(half);
        let behind = offset.saturating_add(wide(half));
        let (first, second) = std::thread::scope(|scope| {
            let second = scope.spawn(|| self.read_blob(index, behind, back));
            (self.read_blob(index, offset, front), second.join())
        });
        first?;
        second.map_err(|_| Error::internal("WIM contents: the thread died"))?
    }

    /// Fills `buf` from `offset` of the contents.
    pub(super) fn read_chunks(&self, chunks: &Chunks, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(wide(buf.len()));
        if end > chunks.len {
            return Err(Error::malformed(format!(
                "WIM contents: {} bytes expected at {offset:#x}, they end at {:#x}",
                buf.len(),
                chunks.len
            )));
        }
        let size = u64::from(chunks.chunk_size);
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let index = narrow(at.checked_div(size).unwrap_or(0), "WIM chunk")?;
            let inside = narrow(at.checked_rem(size).unwrap_or(0), "WIM chunk")?;
            let take = self.with_chunk(chunks, index, |bytes| {
                let from = bytes.get(inside..).unwrap_or_default();
                let take = from.len().min(rest.len());
                if let (Some(to), Some(from)) = (rest.get_mut(..take), from.get(..take)) {
                    to.copy_from_slice(from);
                }
                take
            })?;
            if take == 0 {
                return Err(Error::internal("WIM contents: an empty chunk"));
            }
            at = at.saturating_add(wide(take));
            rest = std::mem::take(&mut rest).split_at_mut(take).1;
        }
        Ok(())
    }

    /// Shows a chunk's contents, and keeps them for the next one who asks.
    fn with_chunk<T>(
        &self,
        chunks: &Chunks,
        index: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let place = chunks.place(index)?.start;
        if u64::from(chunks.chunk_size) >= LARGE_CHUNK {
            let mut kept = LARGE.lock().map_err(|_| poisoned())?;
            match kept.as_ref() {
                Some((id, at, bytes)) if (*id, *at) == (self.keeper.id, place) => {
                    return Ok(look(bytes));
                }
                // Before the next one takes as much again.
                _ => *kept = None,
            }
            let bytes = self.chunk(chunks, index)?;
            let out = look(&bytes);
            *kept = Some((self.keeper.id, place, bytes));
            return Ok(out);
        }
        let mut look = Some(look);
        let seen = self.with_kept(|kept| {
            let (_, bytes) = kept.chunk.as_ref().filter(|(at, _)| *at == place)?;
            look.take().map(|look| look(bytes))
        })?;
        if let Some(seen) = seen {
            return Ok(seen);
        }
        let look = look.ok_or_else(|| Error::internal("WIM chunk: looked at twice"))?;
        let bytes = self.chunk(chunks, index)?;
        let out = look(&bytes);
        self.with_kept(|kept| kept.chunk = Some((place, bytes)))?;
        Ok(out)
    }

    /// The number of the chunk that is kept, if it is one of these.
    pub(super) fn kept_chunk(&self, chunks: &Chunks) -> Result<Option<usize>> {
        let kept = LARGE.lock().map_err(|_| poisoned())?;
        let own = kept.as_ref().filter(|(id, _, _)| *id == self.keeper.id);
        Ok(own.and_then(|(_, at, _)| {
            let starts = chunks.bounds.get(..chunks.count())?;
            starts.binary_search(at).ok()
        }))
    }

    /// As [`Self::chunk`]; what is kept of the last large one goes out or away.
    pub(super) fn take_chunk(&self, chunks: &Chunks, index: usize) -> Result<Vec<u8>> {
        let place = chunks.place(index)?.start;
        let kept = LARGE.lock().map_err(|_| poisoned())?.take();
        match kept {
            Some((id, at, bytes)) if (id, at) == (self.keeper.id, place) => Ok(bytes),
            other => {
                drop(other);
                self.chunk(chunks, index)
            }
        }
    }

    /// Whether contents are best read from their begin to their end: each of their chunks takes long.
    pub(super) fn is_read_in_order(&self, index: usize) -> Result<bool> {
        let (chunks, _) = self.place_of(index)?;
        Ok(u64::from(chunks.chunk_size) >= LARGE_CHUNK)
    }

    fn with_kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> Result<T> {
        let mut kept = self.keeper.kept.lock().map_err(|_| poisoned())?;
        Ok(look(&mut kept))
    }

    /// How many bytes of a range of contents are not zero.
    pub(super) fn count_dirty(&self, chunks: &Chunks, range: Range<u64>) -> Result<u64> {
        let mut dirty = 0_u64;
        let mut at = range.start;
        let mut buffer = vec![0; 1 << 16];
        while at < range.end {
            let take = range.end.saturating_sub(at).min(wide(buffer.len()));
            let piece = buffer.get_mut(..narrow(take, "WIM contents")?);
            let piece = piece.unwrap_or_default();
            self.read_chunks(chunks, at, piece)?;
            let found = piece.iter().filter(|byte| **byte != 0).count();
            dirty = dirty.saturating_add(wide(found));
            at = at.saturating_add(take);
        }
        Ok(dirty)
    }

    pub(super) fn whole(&self, one: &Resource, what: &str) -> Result<Vec<u8>> {
        let chunks = self.chunks(one, what)?;
        let mut out = Vec::new();
        if one.len > 0 {
            for index in 0..chunks.count() {
                out.extend(self.chunk(&chunks, index)?);
            }
        }
        out.shrink_to_fit();
        Ok(out)
    }
}

impl Drop for Keeper {
    /// A large chunk of a closed file is of no use.
    fn drop(&mut self) {
        if let Ok(mut kept) = LARGE.lock()
            && kept.as_ref().is_some_and(|(id, _, _)| *id == self.id)
        {
            *kept = None;
        }
    }
}
