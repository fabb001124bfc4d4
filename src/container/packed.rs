//! A disk some of whose pieces are compressed: for reading only.
//!
//! # Why
//! - **Decoders are crates in Rust that are fuzzed by their owners** (`miniz_oxide`, `ruzstd`): each
//!   gets a buffer of the length that the format says, and writes no more than that.

use std::{
    io::Read,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, decompress, inflate_flags},
};
use ruzstd::decoding::StreamingDecoder;

use crate::{
    device::{BlockDevice, Device},
    error::{At, Error, Result},
    text::escape,
};

/// Most compressed pieces that are kept: 512 GiB in pieces of 64 KiB.
const PIECES_LIMIT: usize = 8 << 20;
/// Bytes of pieces that are kept after they were read.
const CACHE: u64 = 8 << 20;

/// Largest window of a Zstandard frame: what RFC 8878 asks every decoder to have.
const WINDOW_LIMIT: u64 = 8 << 20;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrap {
    /// Deflate with nothing around it (RFC 1951).
    Deflate,
    /// Deflate with zlib's header and checksum (RFC 1950).
    Zlib,
    /// A frame of Zstandard (RFC 8878).
    Zstd,
    /// Snappy without frames.
    Snappy,
    /// A block of LZ4, without frames.
    Lz4,
}

/// Decompresses as much as fits into `to`: how it ended, and how many bytes came out.
pub(super) fn inflate(from: &[u8], to: &mut [u8], wrap: Wrap) -> (TINFLStatus, usize) {
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | match wrap {
            Wrap::Zlib => inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER,
            Wrap::Deflate | Wrap::Zstd | Wrap::Snappy | Wrap::Lz4 => 0,
        };
    let mut state = Box::<DecompressorOxide>::default();
    let (status, _, len) = decompress(&mut state, from, to, 0, flags);
    (status, len)
}

/// The first frame of `from`, as much of it as fits into `to`: how many bytes came out.
fn unzstd(from: &[u8], to: &mut [u8]) -> std::result::Result<usize, String> {
    let mut frame = StreamingDecoder::new_with_max_window_size(from, WINDOW_LIMIT)
        .map_err(|error| error.to_string())?;
    let mut len = 0_usize;
    while let Some(rest) = to.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match frame.read(rest) {
            Ok(0) => break,
            Ok(more) => len = len.saturating_add(more),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(len)
}

/// Decompresses `from` into `to`: how many bytes came out, or what is wrong.
pub(super) fn unpack(from: &[u8], to: &mut [u8], wrap: Wrap) -> std::result::Result<usize, String> {
    match wrap {
        Wrap::Zstd => unzstd(from, to).map_err(|error| escape(&error)),
        Wrap::Snappy => {
            // It says first how long the whole is.
            let len = snap::raw::decompress_len(from).map_err(|error| error.to_string())?;
            let room = to.get_mut(..len).ok_or("more than a chunk holds")?;
            let mut decoder = snap::raw::Decoder::new();
            let len = decoder.decompress(from, room);
            len.map_err(|error| error.to_string())
        }
        Wrap::Lz4 => lz4_flex::block::decompress_into(from, to).map_err(|error| error.to_string()),
        Wrap::Deflate | Wrap::Zlib => {
            let (status, len) = inflate(from, to, wrap);
            match status {
                TINFLStatus::Done => Ok(len),
                // All of the piece is there, whatever follows.
                TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput
                    if wrap == Wrap::Deflate =>
                {
                    Ok(len)
                }
                status => Err(format!("{status:?} after {len} bytes")),
            }
        }
    }
}

/// A compressed piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// First byte on the disk.
    pub(super) disk: u64,
    /// Where its bytes lie in the file.
    pub(super) at: u64,
    /// At most how many they are.
    pub(super) len: u32,
}

/// The compressed pieces of a disk, all of one size.
#[derive(Debug)]
pub(super) struct Pieces {
    unit: u64,
    wrap: Wrap,
    /// Ascending on the disk.
    all: Vec<Piece>,
}

impl Pieces {
    /// None yet; each stands for `unit` bytes of the disk.
    pub(super) fn new(unit: u64, wrap: Wrap) -> Self {
        Self {
            unit,
            wrap,
            all: Vec::new(),
        }
    }

    /// Adds one behind all others.
    pub(super) fn push(&mut self, piece: Piece) -> Result<()> {
        if self.all.len() >= PIECES_LIMIT {
            return Err(Error::limit(format!(
                "container: at most {PIECES_LIMIT} compressed pieces expected, found more"
            ))
            .advise("convert the image: qemu-img convert -O raw IMAGE disk.raw"));
        }
        self.all.push(piece);
        Ok(())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The disk with these pieces in the gaps of `plain`.
    pub(super) fn over(self, host: Device, plain: Device) -> Device {
        Arc::new(Packed {
            host,
            plain,
            pieces: self,
            cache: Mutex::default(),
        })
    }

    /// The bytes of a piece.
    fn unpack(&self, host: &Device, piece: &Piece) -> Result<Vec<u8>> {
        let fail = || Error::internal("container: the length of a compressed piece");
        let there = host.len().saturating_sub(piece.at).min(piece.len.into());
        let mut from = vec![0; usize::try_from(there).map_err(|_| fail())?];
        host.read_at(piece.at, &mut from)?;
        let mut to = vec![0; usize::try_from(self.unit).map_err(|_| fail())?];
        let fail = |len: usize, how: &str| {
            Error::malformed(format!(
                "container: a compressed piece of {} bytes expected, found {len} ({how})",
                self.unit
            ))
        };
        let len = unpack(&from, &mut to, self.wrap).map_err(|how| fail(0, &how))?;
        if len != to.len() {
            return Err(fail(len, "its end"));
        }
        Ok(to)
    }
}

/// Pieces by their place on the disk, the last one used in front.
type Cache = Mutex<Vec<(u64, Arc<Vec<u8>>)>>;

/// The disk.
#[derive(Debug)]
struct Packed {
    host: Device,
    plain: Device,
    pieces: Pieces,
    cache: Cache,
}

impl Packed {
    /// The piece that holds a byte of the disk, and where the next one begins.
    fn piece_at(&self, at: u64) -> (Option<&Piece>, u64) {
        let all = &self.pieces.all;
        let next = all.partition_point(|piece| piece.disk <= at);
        let before = next.checked_sub(1).and_then(|index| all.get(index));
        let here = before.filter(|piece| at.saturating_sub(piece.disk) < self.pieces.unit);
        let then = all.get(next).map_or(self.len(), |piece| piece.disk);
        (here, then)
    }

    fn bytes_of(&self, piece: &Piece) -> Result<Arc<Vec<u8>>> {
        let keep = usize::try_from(CACHE.checked_div(self.pieces.unit).unwrap_or(0)).unwrap_or(0);
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = cache.iter().position(|(disk, _)| *disk == piece.disk) {
                let found = cache.remove(index);
                let bytes = Arc::clone(&found.1);
                cache.insert(0, found);
                return Ok(bytes);
            }
        }
        let bytes = Arc::new(
            self.pieces
                .unpack(&self.host, piece)
                .at("image offset", format_args!("{:#x}", piece.at))?,
        );
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(0, (piece.disk, Arc::clone(&bytes)));
        cache.truncate(keep.max(1));
        Ok(bytes)
    }
}

impl BlockDevice for Packed {
    fn len(&self) -> u64 {
        self.plain.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let leaves = || Error::internal("disk: a piece leaves the buffer");
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let (piece, next) = self.piece_at(at);
            let stop = piece.map_or(next, |piece| piece.disk.saturating_add(self.pieces.unit));
            let take = usize::try_from(stop.saturating_sub(at)).unwrap_or(usize::MAX);
            // At the end of the disk `take` is zero, and the plain disk says so.
            let take = match take {
                0 => rest.len(),
                take => take.min(rest.len()),
            };
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(take)
                .ok_or_else(leaves)?;
            match piece {
                Some(piece) if at < self.len() => {
                    let bytes = self.bytes_of(piece)?;
                    let from = usize::try_from(at.saturating_sub(piece.disk)).unwrap_or(usize::MAX);
                    let part = bytes
                        .get(from..from.saturating_add(take))
                        .ok_or_else(leaves)?;
                    now.copy_from_slice(part);
                }
                _ => self.plain.read_at(at, now)?,
            }
            at = at.saturating_add(u64::try_from(take).unwrap_or(u64::MAX));
            rest = later;
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        if from >= self.len() {
            return Ok(None);
        }
        let (here, next) = self.piece_at(from);
        let packed = match here {
            Some(piece) => Some(from..piece.disk.saturating_add(self.pieces.unit)),
            None if next < self.len() => Some(next..next.saturating_add(self.pieces.unit)),
            None => None,
        }
        .map(|range| range.start..range.end.min(self.len()));
        let plain = self.plain.next_data(from)?;
        Ok(match (packed, plain) {
            (Some(a), Some(b)) => Some(if b.start < a.start { b } else { a }),
            (a, b) => a.or(b),
        })
    }
}
