//! Streams: an attribute's value, whole, wherever it lies.

use super::{Ntfs, format::attribute, runs::Run};
use crate::{
    error::{Error, Result},
    units::{FileOffset, Vcn, VolumeOffset},
    volume::widths::{narrow, sum, wide},
};

/// Where a stream's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In a file record.
    Resident {
        /// The record.
        record: u64,
        /// Offset of the value in the record.
        offset: usize,
        /// The value.
        bytes: Vec<u8>,
    },
    /// In clusters: contiguous VCNs from 0 on.
    Runs(Vec<Run>),
}

/// An attribute's value, its pieces put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Where the bytes are.
    pub content: Content,
    /// Flags: compressed, encrypted, sparse.
    pub flags: u16,
    /// Bytes of the stream.
    pub data_len: u64,
    /// Bytes behind which everything reads as zeros.
    pub initialised: u64,
    /// Bytes of all clusters, holes included; for a resident value its length.
    pub allocated: u64,
    /// log2 of clusters a compression unit; 0: none.
    pub compression_unit: u8,
}

/// A stretch of a stream that lies in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the stream.
    pub offset: u64,
    /// How long.
    pub len: u64,
    /// Where in the volume; `None` is a hole.
    pub volume_offset: Option<VolumeOffset>,
}

impl Stream {
    /// The runs; none if resident.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        match &self.content {
            Content::Resident { .. } => &[],
            Content::Runs(runs) => runs,
        }
    }

    /// Whether it lies in a record.
    #[must_use]
    pub fn is_resident(&self) -> bool {
        matches!(self.content, Content::Resident { .. })
    }

    /// Whether it is compressed by the file system.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.flags & attribute::COMPRESSION_MASK != 0
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.flags & attribute::ENCRYPTED != 0
    }

    /// Whether some cluster is a hole.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.runs().iter().any(|run| run.lcn.is_none())
    }

    /// Bytes of real clusters.
    #[must_use]
    pub fn clusters(&self) -> u64 {
        self.runs()
            .iter()
            .filter(|run| run.lcn.is_some())
            .fold(0u64, |n, run| n.saturating_add(run.clusters))
    }
}

/// Reading.
impl Stream {
    /// The pieces of `len` bytes from `offset`, which must lie inside the runs. A resident stream
    /// has none.
    pub fn pieces(&self, cluster_len: u32, offset: u64, len: u64) -> Result<Vec<Piece>> {
        let cluster = u64::from(cluster_len);
        let end = sum(offset, len, "stream")?;
        let runs = self.runs();
        let first = offset.checked_div(cluster).unwrap_or(0);
        let start = runs.partition_point(|run| run.end_vcn().get() <= first);
        let mut pieces = Vec::new();
        let mut at = offset;
        for run in runs.get(start..).unwrap_or_default() {
            if at >= end {
                break;
            }
            let run_start = run.vcn.get().saturating_mul(cluster);
            let run_end = run.end_vcn().get().saturating_mul(cluster);
            let Some(inside) = at.checked_sub(run_start) else {
                break;
            };
            let piece_end = run_end.min(end);
            pieces.push(Piece {
                offset: at,
                len: piece_end.saturating_sub(at),
                volume_offset: run.lcn.map(|lcn| {
                    VolumeOffset(lcn.get().saturating_mul(cluster).saturating_add(inside))
                }),
            });
            at = piece_end;
        }
        if at < end {
            return Err(Error::malformed(format!(
                "stream: clusters for {len} bytes expected, the runs end before"
            ))
            .at("file offset", format_args!("{at:#x}")));
        }
        Ok(pieces)
    }

    /// Where a cluster of the stream lies, with the clusters that follow it there.
    #[must_use]
    pub fn run_at(&self, vcn: Vcn) -> Option<&Run> {
        let runs = self.runs();
        let at = runs.partition_point(|run| run.end_vcn() <= vcn);
        runs.get(at).filter(|run| run.vcn <= vcn)
    }
}

/// Streams read whole into memory are metadata (bitmaps, attribute lists, $UpCase): a $Bitmap of
/// 1 GiB belongs to a volume of 32 TiB with 4 KiB clusters.
const MAX_WHOLE_LEN: u64 = 1 << 30;

impl Ntfs {
    /// Reads from a stream; all of `buf` must lie inside its length. Decompresses; bytes behind the
    /// initialised size and holes are zeros.
    pub fn read_stream(&self, stream: &Stream, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        let start = offset.get();
        let end = sum(start, wide(buf.len()), "stream")?;
        if end > stream.data_len {
            return Err(Error::malformed(format!(
                "stream: {} bytes expected at {start:#x}, it has only {}",
                buf.len(),
                stream.data_len
            )));
        }
        let runs = match &stream.content {
            Content::Resident { bytes, .. } => {
                let from = narrow(start, "stream")?;
                let view = crate::bytes::View::new(bytes, "resident stream");
                buf.copy_from_slice(view.get(from, buf.len())?);
                return Ok(());
            }
            Content::Runs(runs) => runs,
        };
        if stream.is_encrypted() {
            return Err(Error::unsupported(
                "stream: plain data expected, found data encrypted by EFS",
            )
            .advise("decrypt the file in Windows first (cipher /d)"));
        }
        // What is not initialised reads as zeros.
        let live = narrow(
            stream.initialised.clamp(start, end).saturating_sub(start),
            "stream",
        )?;
        let (live, zeros) = buf.split_at_mut(live);
        zeros.fill(0);
        if live.is_empty() {
            return Ok(());
        }
        if stream.is_compressed() && stream.compression_unit != 0 {
            return super::lznt1::read_compressed(self, stream, runs, start, live);
        }
        self.read_pieces(stream, start, live)
    }

    /// Reads clusters as they are.
    pub(super) fn read_pieces(&self, stream: &Stream, start: u64, buf: &mut [u8]) -> Result<()> {
        let pieces = stream.pieces(self.geometry.cluster_len, start, wide(buf.len()))?;
        let mut rest = buf;
        for piece in pieces {
            let len = narrow(piece.len, "stream")?;
            let Some((now, later)) = rest.split_at_mut_checked(len) else {
                return Err(Error::internal("stream: a piece longer than the buffer"));
            };
            match piece.volume_offset {
                None => now.fill(0),
                Some(at) => self
                    .device
                    .read_at(at.get(), now)
                    .map_err(|e| e.at("volume offset", at))?,
            }
            rest = later;
        }
        Ok(())
    }

    /// A whole stream of metadata.
    pub fn read_whole(&self, stream: &Stream) -> Result<Vec<u8>> {
        if stream.data_len > MAX_WHOLE_LEN {
            return Err(Error::limit(format!(
                "stream: at most {MAX_WHOLE_LEN} bytes of metadata expected, found {}",
                stream.data_len
            )));
        }
        if let Content::Resident { bytes, .. } = &stream.content {
            return Ok(bytes.clone());
        }
        // Only what has clusters is worth memory (a 2^30-byte hole is not).
        let real = stream
            .clusters()
            .saturating_mul(u64::from(self.geometry.cluster_len));
        if stream.data_len > real.min(self.device.len()).saturating_add(1 << 24) {
            return Err(Error::limit(format!(
                "stream: clusters for {} bytes of metadata expected, found {real}",
                stream.data_len
            )));
        }
        let mut bytes = vec![0; narrow(stream.data_len, "stream")?];
        self.read_stream(stream, FileOffset(0), &mut bytes)?;
        Ok(bytes)
    }
}
