//! Sizes of a volume, where its clusters go, and the sparse output they are written to.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use crate::support::put;

/// The sizes a volume is made of, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Sector: 256 to 4096.
    pub sector: u64,
    /// Cluster: 512 to 2 MiB.
    pub cluster: u64,
    /// MFT record: 1024 or 4096.
    pub record: u64,
    /// Index block of directories.
    pub index: u64,
}

impl Default for Geometry {
    fn default() -> Self {
        Self {
            sector: 512,
            cluster: 4096,
            record: 1024,
            index: 4096,
        }
    }
}

impl Geometry {
    /// The unit in which index blocks are numbered.
    pub(super) fn index_vcn(&self, block: u64) -> u64 {
        if self.index >= self.cluster {
            block * (self.index / self.cluster)
        } else {
            block * (self.index / 512)
        }
    }

    /// "Clusters per X" of boot sector: a count, or the negative power of two.
    pub(super) fn per(&self, bytes: u64) -> u8 {
        match u8::try_from(bytes / self.cluster) {
            Ok(count @ 1..=127) => count,
            _ => 0u8.wrapping_sub(u8::try_from(bytes.trailing_zeros()).unwrap()),
        }
    }
}

/// A piece of a stream: its first cluster (none: a hole) and its length in clusters.
pub(super) type Run = (Option<u64>, u64);

/// Hands out clusters from the front, around reserved places.
#[derive(Debug)]
pub(super) struct Clusters {
    next: u64,
    count: u64,
    reserved: Vec<(u64, u64)>,
    used: Vec<(u64, u64)>,
}

impl Clusters {
    pub(super) fn new(count: u64) -> Self {
        Self {
            next: 0,
            count,
            reserved: Vec::new(),
            used: Vec::new(),
        }
    }

    /// Takes exactly these clusters; later allocations go around them.
    pub(super) fn reserve(&mut self, first: u64, count: u64) {
        self.reserved.push((first, count));
        self.used.push((first, count));
    }

    /// Finds room for `count` clusters in one piece, without marking them used.
    pub(super) fn find(&mut self, count: u64) -> u64 {
        let hit = |at: u64, r: &(u64, u64)| at < r.0 + r.1 && r.0 < at + count;
        while let Some(r) = self.reserved.iter().find(|r| hit(self.next, r)) {
            self.next = r.0 + r.1;
        }
        let at = self.next;
        self.next += count;
        assert!(
            self.next <= self.count,
            "the volume is too small: {} clusters",
            self.count
        );
        at
    }

    /// Takes `count` clusters in one piece.
    pub(super) fn take(&mut self, count: u64) -> u64 {
        let at = self.find(count);
        self.used.push((at, count));
        at
    }

    /// Takes `count` clusters in pieces of `piece` with free clusters between them, the even pieces
    /// first, so that run lists go forward and backward.
    pub(super) fn take_pieces(&mut self, count: u64, piece: Option<u64>) -> Vec<Run> {
        let Some(piece) = piece.filter(|p| *p < count) else {
            return if count == 0 {
                Vec::new()
            } else {
                vec![(Some(self.take(count)), count)]
            };
        };
        let pieces = count.div_ceil(piece);
        let places: Vec<u64> = (0..pieces)
            .map(|_| {
                let at = self.find(piece + 1);
                self.used.push((at, piece));
                at
            })
            .collect();
        let order = (0..places.len())
            .step_by(2)
            .chain((1..places.len()).step_by(2));
        let mut left = count;
        let mut runs = Vec::with_capacity(places.len());
        for i in order {
            let len = piece.min(left);
            left -= len;
            if len < piece {
                let spare = self
                    .used
                    .iter_mut()
                    .rev()
                    .find(|u| u.0 == places[i])
                    .unwrap();
                spare.1 = len;
            }
            runs.push((Some(places[i]), len));
        }
        runs
    }

    /// Gives the clusters of `runs` back to the free space.
    pub(super) fn release(&mut self, runs: &[Run]) {
        for (lcn, len) in runs {
            if let Some(lcn) = lcn
                && let Some(at) = self.used.iter().rposition(|u| *u == (*lcn, *len))
            {
                self.used.swap_remove(at);
            }
        }
    }

    /// The content of `$Bitmap`: bits beyond the volume are set.
    pub(super) fn bitmap(&self) -> Vec<u8> {
        let len = put::round_up(self.count.div_ceil(8), 8);
        let mut bits = vec![0u8; usize::try_from(len).unwrap()];
        let tail = (self.count, len * 8 - self.count);
        for &(first, count) in self.used.iter().chain([&tail]) {
            for bit in first..first + count {
                bits[usize::try_from(bit / 8).unwrap()] |= 1 << (bit % 8);
            }
        }
        bits
    }
}

/// Where a volume is written: bytes at offsets, zeros skipped so that files stay sparse.
#[derive(Debug)]
pub(super) enum Output<'a> {
    /// A file, from this offset on.
    File(&'a mut File, u64),
    /// Memory.
    Memory(&'a mut Vec<u8>),
}

impl Output<'_> {
    /// Writes what is not zero of `bytes` at `at`.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        match self {
            Output::Memory(v) => put::bytes(v, usize::try_from(at).unwrap(), bytes),
            Output::File(file, base) => {
                let mut pending: Option<(usize, usize)> = None;
                for from in (0..bytes.len()).step_by(4096) {
                    let to = bytes.len().min(from + 4096);
                    let zero = bytes[from..to].iter().all(|b| *b == 0);
                    pending = match (pending, zero) {
                        (None, true) => None,
                        (None, false) => Some((from, to)),
                        (Some((a, _)), false) => Some((a, to)),
                        (Some((a, b)), true) => {
                            put_at(file, *base + at + a as u64, &bytes[a..b]);
                            None
                        }
                    };
                }
                if let Some((a, b)) = pending {
                    put_at(file, *base + at + a as u64, &bytes[a..b]);
                }
            }
        }
    }
}

fn put_at(file: &mut File, at: u64, bytes: &[u8]) {
    file.seek(SeekFrom::Start(at))
        .expect("seek in the image being built");
    file.write_all(bytes)
        .expect("write to the image being built");
}

/// Writes `bytes` at `offset` of the stream that `runs` map.
pub(super) fn write_stream(
    out: &mut Output<'_>,
    cluster: u64,
    runs: &[Run],
    offset: u64,
    bytes: &[u8],
) {
    let (mut start, end) = (0, offset + bytes.len() as u64);
    for &(lcn, len) in runs {
        let stop = start + len * cluster;
        let (a, b) = (offset.max(start), end.min(stop));
        if a < b
            && let Some(lcn) = lcn
        {
            let part = usize::try_from(a - offset).unwrap()..usize::try_from(b - offset).unwrap();
            out.write(lcn * cluster + (a - start), &bytes[part]);
        }
        start = stop;
        if start >= end {
            break;
        }
    }
}
