//! The sequential pass over all file records: reading ahead on one thread, searching on another.

use std::{
    ops::Range,
    sync::mpsc::{channel, sync_channel},
};

use super::{
    Ntfs,
    format::{attribute, record},
    record::{Fixup, undo_fixup},
};
use crate::{
    bytes::all_zero,
    error::{Error, Result},
    tree::MetadataChunk,
    volume::widths::{index, narrow, product, wide},
};

/// Bytes read at a time: long enough for a disk, short enough for the cache.
const CHUNK_LEN: usize = 512 << 10;
/// Buffers on their way between a reading thread and the caller's.
const BUFFERS: usize = 2;
/// Reading threads.
const TURNS: u64 = 2;
/// More problems than anybody reads are only counted.
const MAX_PROBLEMS: usize = 100;
/// Records without use that are remembered by their number.
const MAX_NUMBERS: usize = 100_000;

/// What could not be read; bounded.
#[derive(Clone, Debug, Default)]
pub(super) struct Problems {
    /// The first of them.
    pub(super) lines: Vec<String>,
    /// All of them.
    pub(super) count: u64,
    /// Numbers of records that hold something and cannot be used; bounded.
    pub(super) unusable: Vec<u64>,
    /// Numbers of records that are all zeros; bounded.
    pub(super) empty: Vec<Range<u64>>,
}

impl Problems {
    /// Adds one; it is only formatted when it is kept.
    pub(super) fn add(&mut self, what: impl std::fmt::Display) {
        self.count = self.count.saturating_add(1);
        if self.lines.len() < MAX_PROBLEMS {
            self.lines.push(what.to_string());
        }
    }

    /// Adds another list.
    fn join(&mut self, other: Problems) {
        self.count = self.count.saturating_add(other.count);
        let room = MAX_PROBLEMS.saturating_sub(self.lines.len());
        self.lines.extend(other.lines.into_iter().take(room));
        self.unusable.extend(other.unusable);
        self.empty.extend(other.empty);
    }

    /// Notes a record that cannot be used.
    pub(super) fn note_unusable(&mut self, number: u64) {
        if self.unusable.len() < MAX_NUMBERS {
            self.unusable.push(number);
        }
    }

    /// Notes a record of zeros.
    fn note_empty(&mut self, number: u64) {
        let next = number.saturating_add(1);
        if let Some(last) = self.empty.last_mut().filter(|last| last.end == number) {
            last.end = next;
        } else if self.empty.len() < MAX_NUMBERS {
            self.empty.push(number..next);
        }
    }
}

/// A record as the pass shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanned<'a> {
    /// Its number.
    pub(super) number: u64,
    /// Its bytes, update sequence undone if it was valid.
    pub(super) bytes: &'a [u8],
    /// Whether it is a FILE record with a valid update sequence.
    pub(super) valid: bool,
}

impl Scanned<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes
            .get(at..)
            .and_then(<[u8]>::first_chunk::<N>)
            .copied()
            .unwrap_or([0; N])
    }

    /// Two bytes of the header.
    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    /// Four bytes of the header.
    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    /// Eight bytes of the header.
    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    /// Whether it says that it is in use.
    pub(super) fn is_in_use(&self) -> bool {
        self.bytes.starts_with(&record::MAGIC) && self.u16(record::FLAGS) & record::IN_USE != 0
    }

    /// Whether it says that it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.u16(record::FLAGS) & record::DIRECTORY != 0
    }

    /// Shows each attribute (code, bytes) up to the end marker; says what is wrong with the chain.
    #[inline]
    pub(super) fn each_attribute(
        &self,
        mut take: impl FnMut(u32, &[u8]),
    ) -> std::result::Result<(), &'static str> {
        let used = index(self.u32(record::BYTES_IN_USE));
        let mut rest = self
            .bytes
            .get(usize::from(self.u16(record::FIRST_ATTRIBUTE))..used)
            .ok_or("first attribute <= bytes in use <= record length")?;
        loop {
            let Some((head, _)) = rest.split_first_chunk::<8>() else {
                return Err("an end marker before the end of the used part");
            };
            let [c0, c1, c2, c3, l0, l1, l2, l3] = *head;
            let code = u32::from_le_bytes([c0, c1, c2, c3]);
            if code == attribute::END {
                return Ok(());
            }
            let len = index(u32::from_le_bytes([l0, l1, l2, l3]));
            if len < attribute::RESIDENT_LEN || !len.is_multiple_of(8) {
                return Err("attribute lengths of at least 24, multiples of 8");
            }
            let Some((now, later)) = rest.split_at_checked(len) else {
                return Err("attributes inside the used part");
            };
            take(code, now);
            rest = later;
        }
    }
}

/// The resident value of an attribute shown by [`Scanned::each_attribute`].
#[inline]
pub(super) fn resident_value(attribute: &[u8]) -> Option<&[u8]> {
    let head = attribute.first_chunk::<{ attribute::RESIDENT_LEN }>()?;
    let [
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        non_resident,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        l0,
        l1,
        l2,
        l3,
        o0,
        o1,
        _,
        _,
    ] = *head;
    if non_resident != 0 {
        return None;
    }
    let at = usize::from(u16::from_le_bytes([o0, o1]));
    let len = index(u32::from_le_bytes([l0, l1, l2, l3]));
    attribute.get(at..at.checked_add(len)?)
}

impl Ntfs {
    /// Reads all records, undoes their update sequences, shows each that holds anything to `work`
    /// and every chunk, in order, to `search`. What cannot be read is a problem and zeros.
    ///
    /// Copying out of the page cache costs more than everything else, so two threads take turns
    /// at the chunks, each with a state of its own; the caller's thread searches.
    pub(super) fn scan<S: Default + Send>(
        &self,
        work: impl Fn(&mut S, Scanned<'_>, &mut Problems) + Sync,
        search: &mut dyn FnMut(MetadataChunk<'_>),
    ) -> Result<(Vec<S>, Problems)> {
        let record_len = self.geometry.record_bytes();
        let per_chunk = wide(CHUNK_LEN.checked_div(record_len).unwrap_or(1).max(1));
        let count = self.record_count();
        let chunks = count.div_ceil(per_chunk);
        let turns = TURNS.min(chunks.max(1));
        let work = &work;
        std::thread::scope(|scope| {
            let mut readers = Vec::new();
            let mut pipes = Vec::new();
            for turn in 0..turns {
                let (full_to, full_from) = sync_channel::<(u64, Vec<u8>)>(BUFFERS);
                let (empty_to, empty_from) = channel::<Vec<u8>>();
                for _ in 0..BUFFERS {
                    empty_to.send(Vec::new()).ok();
                }
                pipes.push((full_from, empty_to));
                readers.push(scope.spawn(move || {
                    let mut state = S::default();
                    let mut problems = Problems::default();
                    let mut chunk = turn;
                    while chunk < chunks {
                        let first = chunk.saturating_mul(per_chunk);
                        let records = per_chunk.min(count.saturating_sub(first));
                        let Ok(mut buffer) = empty_from.recv() else {
                            break;
                        };
                        let len = narrow(product(records, wide(record_len), "$MFT")?, "$MFT")?;
                        buffer.resize(len, 0);
                        self.read_chunk(first, record_len, &mut buffer, &mut problems)?;
                        undo_chunk(
                            first,
                            record_len,
                            &mut buffer,
                            &mut problems,
                            |scanned, p| {
                                work(&mut state, scanned, p);
                            },
                        );
                        if full_to.send((first, buffer)).is_err() {
                            break;
                        }
                        chunk = chunk.saturating_add(turns);
                    }
                    Ok((state, problems))
                }));
            }
            // Chunk n comes from reader n modulo their number, so the order is that of $MFT. A
            // reader that failed closes its pipe; its error is found below.
            'chunks: loop {
                for (full_from, empty_to) in &pipes {
                    let Ok((first_record, bytes)) = full_from.recv() else {
                        break 'chunks;
                    };
                    search(MetadataChunk {
                        first_record,
                        record_len,
                        bytes: &bytes,
                    });
                    empty_to.send(bytes).ok();
                }
            }
            drop(pipes);
            let mut states = Vec::new();
            let mut problems = Problems::default();
            for reader in readers {
                let (state, found) = reader
                    .join()
                    .unwrap_or_else(|_| Err(Error::internal("$MFT: a reading thread panicked")))?;
                states.push(state);
                problems.join(found);
            }
            Ok((states, problems))
        })
    }

    fn read_chunk(
        &self,
        first: u64,
        record_len: usize,
        buffer: &mut [u8],
        problems: &mut Problems,
    ) -> Result<()> {
        let start = product(first, wide(record_len), "$MFT")?;
        let cluster_len = self.geometry.cluster_len;
        let mut rest = buffer;
        for piece in self.mft.pieces(cluster_len, start, wide(rest.len()))? {
            let Some((now, later)) = rest.split_at_mut_checked(narrow(piece.len, "$MFT")?) else {
                return Err(Error::internal("$MFT: pieces longer than the chunk"));
            };
            let read = match piece.volume_offset {
                Some(at) => self
                    .device
                    .read_at(at.get(), now)
                    .map_err(|e| e.at("volume offset", at)),
                None => Err(Error::malformed("$MFT: clusters expected, found a hole")),
            };
            if let Err(error) = read {
                now.fill(0);
                problems.add(error);
            }
            rest = later;
        }
        Ok(())
    }
}

/// Undoes the update sequences of a chunk and shows each record that holds anything.
fn undo_chunk(
    first: u64,
    record_len: usize,
    buffer: &mut [u8],
    problems: &mut Problems,
    mut show: impl FnMut(Scanned<'_>, &mut Problems),
) {
    let mut number = first;
    for bytes in buffer.chunks_exact_mut(record_len) {
        let mut valid = false;
        let mut empty = false;
        if bytes.starts_with(&record::MAGIC) {
            let fixup = undo_fixup(bytes);
            valid = fixup == Fixup::Valid;
            if !valid {
                problems.note_unusable(number);
                problems.add(format_args!(
                    "file record: a valid update sequence expected, found {} (file record {number})",
                    fixup.name()
                ));
            }
        } else if all_zero(bytes) {
            empty = true;
            problems.note_empty(number);
        } else {
            problems.note_unusable(number);
            problems.add(format_args!(
                "file record: FILE or zeros expected, found {} (file record {number})",
                hex::encode(bytes.get(..4).unwrap_or_default())
            ));
        }
        if !empty {
            let scanned = Scanned {
                number,
                bytes,
                valid,
            };
            show(scanned, problems);
        }
        number = number.saturating_add(1);
    }
}
