//! QCOW2, versions 2 and 3: clusters behind tables of two levels, with reference counts.
//!
//! # Why
//! - **The refcounts are asked.** qemu writes in place where bit 63 of an entry is set and copies
//!   where it is not. declone never copies, so every cluster of the disk must have a refcount of one
//!   and say so; one that does not makes the whole disk one to look at.
//! - **Clusters that nothing references are loose** only while nothing unknown can reference them:
//!   with snapshots, bitmaps or unknown extensions, what has a refcount stays.
//! - **The format keeps no identity of a parent**, only its file's name: a disk that some file beside
//!   it names is not written in place.
//! - **No table is touched.** A clean writes the disk's bytes; and the autoclear bits, as the
//!   specification demands of programs that do not know them, so that qemu does not believe its
//!   bitmaps any more.

use std::{ops::Range, sync::Arc};

use super::{
    Disk, Edges, Facts, Format, Open, Places, RAW, ScanOnly, Source, TO_RAW,
    children::Wanted,
    format::{self, SECTOR, qcow2 as facts},
    mapped::Mapped,
    packed::{Piece, Pieces, Wrap},
    runs::{Laid, Runs, Stale},
};
use crate::{
    bytes::{View, all_zero},
    device::Device,
    error::{At, Error, Result},
    text::escape,
};

pub(super) const FORMAT: Format = Format {
    name: "qcow2",
    title: "a QCOW image",
    probe: |edges: &Edges| {
        let version: [u8; 4] = edges.front(facts::VERSION, 4)?.try_into().ok()?;
        edges
            .has(0, format::QCOW)
            .then(|| format!("QFI\\xfb at 0x0, version {}", u32::from_be_bytes(version)))
    },
    open: Open::Disk(open),
};

/// Most bytes of tables that are read: those of a full disk of 8 TiB in clusters of 64 KiB.
const TABLES_LIMIT: u64 = 1 << 30;
/// Most extensions of a header.
const EXTENSIONS_LIMIT: usize = 256;

const CONVERT: &str = "convert it: qemu-img convert -O qcow2 IMAGE new.qcow2, and clean that";
const REPAIR: &str = "let qemu-img check -r all repair a copy of it, or restore it from a backup; convert it: \
     qemu-img convert -O qcow2 IMAGE new.qcow2";

fn be32(view: &View<'_>, at: usize) -> Result<u32> {
    Ok(u32::from_be_bytes(view.array(at)?))
}

fn be64(view: &View<'_>, at: usize) -> Result<u64> {
    Ok(u64::from_be_bytes(view.array(at)?))
}

/// A length that fits into a buffer.
fn buffer(len: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| Error::internal("QCOW2: the length of a table"))?;
    Ok(vec![0; len])
}

/// What the header says.
#[derive(Debug)]
struct Header {
    version: u32,
    /// Bytes in a cluster.
    cluster: u64,
    len: u64,
    l1: Range<u64>,
    refcounts: Range<u64>,
    /// Bits of a refcount.
    width: u64,
    snapshots: u32,
    incompatible: u64,
    autoclear: u64,
    /// Compressed clusters are Zstandard, not deflate.
    zstd: bool,
    backing: Option<Backing>,
    /// Something may point to clusters that declone does not follow.
    strange: bool,
}

#[derive(Debug)]
struct Backing {
    name: String,
    format: Option<String>,
}

impl Header {
    fn read(host: &Device) -> Result<Self> {
        let mut bytes = buffer(SECTOR)?;
        host.read_at(0, &mut bytes)?;
        let view = View::new(&bytes, "QCOW2 header");
        let version = be32(&view, facts::VERSION)?;
        if !matches!(version, 2 | 3) {
            return Err(Error::unsupported(format!(
                "QCOW2 header: version 2 or 3 expected, found {version}"
            ))
            .advise(CONVERT));
        }
        let bits = be32(&view, facts::CLUSTER_BITS)?;
        if !(facts::MIN_CLUSTER_BITS..=facts::MAX_CLUSTER_BITS).contains(&bits) {
            return Err(Error::malformed(format!(
                "QCOW2 header: clusters of 2^{} to 2^{} bytes expected, found 2^{bits}",
                facts::MIN_CLUSTER_BITS,
                facts::MAX_CLUSTER_BITS
            )));
        }
        let cluster = 1_u64.checked_shl(bits).unwrap_or(SECTOR);
        let len = be64(&view, facts::SIZE)?;
        if len == 0 || !len.is_multiple_of(SECTOR) {
            return Err(Error::malformed(format!(
                "QCOW2 header: a disk of whole sectors expected, found {len} bytes"
            )));
        }
        match be32(&view, facts::CRYPT)? {
            0 => {}
            method @ (1 | 2) => {
                let name = if method == 1 { "AES" } else { "LUKS" };
                return Err(Error::refused(format!(
                    "QCOW2 header: a disk that is not encrypted expected, found {name}"
                ))
                .advise("decrypt it: qemu-img convert with its secret, and clean the result"));
            }
            other => {
                return Err(Error::malformed(format!(
                    "QCOW2 header: encryption 0, 1 or 2 expected, found {other}"
                )));
            }
        }
        let (mut incompatible, mut autoclear, mut order) = (0, 0, 4);
        let mut header_len = facts::HEADER_LEN_2;
        let mut compression = 0;
        if version == 3 {
            incompatible = be64(&view, facts::INCOMPATIBLE)?;
            autoclear = be64(&view, facts::AUTOCLEAR)?;
            order = be32(&view, facts::REFCOUNT_ORDER)?;
            header_len = u64::from(be32(&view, facts::HEADER_LENGTH)?);
            if header_len < facts::HEADER_LEN_3 || header_len > cluster {
                return Err(Error::malformed(format!(
                    "QCOW2 header: a length of {} to {cluster} expected, found {header_len}",
                    facts::HEADER_LEN_3
                )));
            }
            if header_len > facts::HEADER_LEN_3 {
                compression = view.u8(facts::COMPRESSION)?;
            }
        }
        check_features(incompatible)?;
        if (incompatible & facts::OTHER_COMPRESSION != 0) != (compression != 0) || compression > 1 {
            return Err(Error::malformed(format!(
                "QCOW2 header: a compression of which the features know expected, found \
                 {compression}"
            )));
        }
        if order > facts::MAX_REFCOUNT_ORDER {
            return Err(Error::malformed(format!(
                "QCOW2 header: refcounts of at most 64 bits expected, found 2^{order}"
            )));
        }
        let l1_entries = u64::from(be32(&view, facts::L1_SIZE)?);
        let l1_len = l1_entries.saturating_mul(facts::ENTRY_LEN);
        let reach = cluster.saturating_mul(cluster / facts::ENTRY_LEN);
        let needed = len.div_ceil(reach.max(1));
        if l1_entries < needed {
            return Err(Error::malformed(format!(
                "QCOW2 header: {needed} entries of the L1 table expected for {len} bytes, found \
                 {l1_entries}"
            )));
        }
        if l1_len > facts::L1_MAX {
            return Err(Error::limit(format!(
                "QCOW2 L1 table: at most {} bytes expected, found {l1_len}",
                facts::L1_MAX
            )));
        }
        let table_len = u64::from(be32(&view, facts::REFCOUNTS_CLUSTERS)?).saturating_mul(cluster);
        if table_len == 0 || table_len > facts::REFCOUNTS_MAX {
            return Err(Error::malformed(format!(
                "QCOW2 refcount table: 1 to {} bytes expected, found {table_len}",
                facts::REFCOUNTS_MAX
            )));
        }
        let place = Bounds { cluster, host };
        let mut header = Self {
            version,
            cluster,
            len,
            l1: place.table("QCOW2 L1 table", be64(&view, facts::L1_OFFSET)?, l1_len)?,
            refcounts: place.table(
                "QCOW2 refcount table",
                be64(&view, facts::REFCOUNTS_OFFSET)?,
                table_len,
            )?,
            width: 1_u64.checked_shl(order).unwrap_or(64),
            snapshots: be32(&view, facts::SNAPSHOTS)?,
            incompatible,
            autoclear,
            zstd: compression != 0,
            backing: None,
            strange: false,
        };
        header.strange = header.snapshots > 0 || autoclear != 0;
        let name_at = be64(&view, facts::BACKING_OFFSET)?;
        let name_len = be32(&view, facts::BACKING_LEN)?;
        header.extend(host, header_len, name_at, name_len)?;
        Ok(header)
    }

    /// Reads the extensions behind the header and the name of the backing file.
    fn extend(&mut self, host: &Device, from: u64, name_at: u64, name_len: u32) -> Result<()> {
        let mut front = buffer(self.cluster.min(host.len()))?;
        host.read_at(0, &mut front)?;
        let view = View::new(&front, "QCOW2 header extensions");
        let end = match name_at {
            0 => view.len(),
            at => usize::try_from(at).unwrap_or(usize::MAX).min(view.len()),
        };
        let mut at = usize::try_from(from).unwrap_or(usize::MAX);
        let mut format = None;
        for count in 0.. {
            let behind = at.saturating_add(8);
            if behind > end {
                break;
            }
            let kind = be32(&view, at)?;
            let len = usize::try_from(be32(&view, at.saturating_add(4))?).unwrap_or(usize::MAX);
            if kind == facts::END {
                break;
            }
            let next = behind.saturating_add(len);
            if next > end || count > EXTENSIONS_LIMIT {
                return Err(Error::malformed(format!(
                    "QCOW2 header extensions: one that ends before {end:#x} expected, found \
                     {len} bytes at {behind:#x}"
                )));
            }
            match kind {
                facts::BACKING_FORMAT => {
                    format = Some(String::from_utf8_lossy(view.get(behind, len)?).into_owned());
                }
                facts::FEATURE_NAMES => {}
                _ => self.strange = true,
            }
            at = next.next_multiple_of(8);
        }
        if name_at == 0 {
            return Ok(());
        }
        let name_len = usize::try_from(name_len).unwrap_or(usize::MAX);
        if name_len == 0 {
            return Ok(());
        }
        if name_len > facts::BACKING_MAX {
            return Err(Error::malformed(format!(
                "QCOW2 header: a backing file's name of at most {} bytes expected, found {name_len}",
                facts::BACKING_MAX
            )));
        }
        let view = View::new(&front, "QCOW2 backing file name");
        let name = view.get(usize::try_from(name_at).unwrap_or(usize::MAX), name_len)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| {
            Error::refused(
                "QCOW2 header: a backing file's name in UTF-8 expected, found other bytes",
            )
        })?;
        self.backing = Some(Backing { name, format });
        Ok(())
    }
}

/// Features without which the file would be misread.
fn check_features(incompatible: u64) -> Result<()> {
    let known = facts::DIRTY
        | facts::CORRUPT
        | facts::EXTERNAL
        | facts::OTHER_COMPRESSION
        | facts::EXTENDED;
    let refuse = |what: String| {
        Err(Error::refused(format!(
            "QCOW2 header: features that declone reads expected, found {what}"
        ))
        .advise(CONVERT))
    };
    if incompatible & facts::EXTERNAL != 0 {
        return refuse("a disk whose bytes are in another file, which was not opened".to_owned());
    }
    if incompatible & facts::EXTENDED != 0 {
        return refuse("extended L2 entries".to_owned());
    }
    match incompatible & !known {
        0 => Ok(()),
        other => refuse(format!("unknown incompatible ones ({other:#x})")),
    }
}

/// Where tables may be.
struct Bounds<'a> {
    cluster: u64,
    host: &'a Device,
}

impl Bounds<'_> {
    /// `len` bytes at the beginning of a cluster, inside the file.
    fn table(&self, what: &str, at: u64, len: u64) -> Result<Range<u64>> {
        let end = at.checked_add(len).filter(|end| *end <= self.host.len());
        match end {
            Some(end) if at >= self.cluster && at.is_multiple_of(self.cluster) => Ok(at..end),
            _ => Err(Error::malformed(format!(
                "{what}: {len} bytes in whole clusters inside the file ({:#x} bytes) expected, \
                 found them at {at:#x}",
                self.host.len()
            ))),
        }
    }
}

/// What the tables say.
struct Walk<'a> {
    host: &'a Device,
    header: &'a Header,
    runs: Runs,
    pieces: Pieces,
    /// Header and tables.
    own: Vec<Range<u64>>,
    /// Where compressed clusters lie.
    packed: Vec<Range<u64>>,
    /// Clusters of the disk that are in the file.
    allocated: u64,
    /// A reason not to write.
    shared: Option<String>,
    /// Bytes of tables read.
    read: u64,
}

impl<'a> Walk<'a> {
    fn new(host: &'a Device, header: &'a Header) -> Self {
        let whole = |range: &Range<u64>| range.start..range.end.next_multiple_of(header.cluster);
        Self {
            host,
            header,
            runs: Runs::new(header.len),
            pieces: Pieces::new(
                header.cluster,
                match header.zstd {
                    true => Wrap::Zstd,
                    false => Wrap::Deflate,
                },
            ),
            own: vec![
                0..header.cluster,
                whole(&header.l1),
                whole(&header.refcounts),
            ],
            packed: Vec::new(),
            allocated: 0,
            shared: None,
            read: 0,
        }
    }

    fn count(&mut self, len: u64) -> Result<()> {
        self.read = self.read.saturating_add(len);
        if self.read > TABLES_LIMIT {
            return Err(Error::limit(format!(
                "QCOW2 tables: at most {TABLES_LIMIT} bytes expected, found more"
            ))
            .advise(
                "convert it to larger clusters: qemu-img convert -O qcow2 -o cluster_size=2M",
            ));
        }
        Ok(())
    }

    fn tables(&mut self) -> Result<()> {
        let header = self.header;
        let l1_at = header.l1.start;
        let mut bytes = buffer(header.l1.end.saturating_sub(l1_at))?;
        self.host.read_at(l1_at, &mut bytes)?;
        let (l1, _) = bytes.as_chunks::<8>();
        let mut table = buffer(header.cluster)?;
        let reach = header
            .cluster
            .saturating_mul(header.cluster / facts::ENTRY_LEN);
        for (number, entry) in (0_u64..).zip(l1) {
            let entry = u64::from_be_bytes(*entry);
            if entry == 0 {
                continue;
            }
            let here = l1_at.saturating_add(number.saturating_mul(facts::ENTRY_LEN));
            if entry & !(facts::OFFSET | facts::COPIED) != 0 {
                return Err(Error::malformed(format!(
                    "QCOW2 L1 table: an entry without reserved bits expected, found {entry:#018x}"
                ))
                .at("image offset", format_args!("{here:#x}")));
            }
            let at = entry & facts::OFFSET;
            if at == 0 {
                continue;
            }
            let place = Bounds {
                cluster: header.cluster,
                host: self.host,
            };
            let own = place
                .table("QCOW2 L2 table", at, header.cluster)
                .at("image offset", format_args!("{here:#x}"))?;
            self.own.push(own);
            if entry & facts::COPIED == 0 {
                self.share(here);
            }
            self.count(header.cluster)?;
            self.host.read_at(at, &mut table)?;
            if !all_zero(&table) {
                self.clusters(at, &table, number.saturating_mul(reach))?;
            }
        }
        Ok(())
    }

    fn share(&mut self, at: u64) {
        self.shared.get_or_insert_with(|| {
            format!(
                "QCOW2 tables: clusters of this disk alone expected, found one that is shared \
                 (entry at image offset {at:#x})"
            )
        });
    }

    /// The clusters of an L2 table, the first of which is at `disk`.
    fn clusters(&mut self, table_at: u64, table: &[u8], disk: u64) -> Result<()> {
        let header = self.header;
        let cluster = header.cluster;
        let (entries, _) = table.as_chunks::<8>();
        for (number, entry) in (0_u64..).zip(entries) {
            let entry = u64::from_be_bytes(*entry);
            if entry == 0 {
                continue;
            }
            let here = table_at.saturating_add(number.saturating_mul(facts::ENTRY_LEN));
            let disk = disk.saturating_add(number.saturating_mul(cluster));
            let wrong = |what: String| {
                Error::malformed(format!(
                    "QCOW2 L2 table: the cluster at {disk:#x} of the disk in a cluster of the file \
                     ({:#x} bytes) expected, found {what}",
                    self.host.len()
                ))
                .at("image offset", format_args!("{here:#x}"))
            };
            if entry & facts::COMPRESSED != 0 {
                if entry & facts::COPIED != 0 {
                    return Err(wrong(format!("{entry:#018x}")));
                }
                self.compressed(entry, disk, here)?;
                continue;
            }
            let zero = entry & facts::ZERO != 0 && header.version == 3;
            let mut allowed = facts::OFFSET | facts::COPIED;
            if zero {
                allowed |= facts::ZERO;
            }
            let at = entry & facts::OFFSET;
            let behind = header.len.saturating_sub(disk).min(cluster);
            let inside = at
                .checked_add(behind)
                .is_some_and(|end| end <= self.host.len());
            if entry & !allowed != 0 || !at.is_multiple_of(cluster) || !inside {
                return Err(wrong(format!("{entry:#018x}")));
            }
            if zero {
                self.runs.push(disk, None, cluster)?;
                continue;
            }
            if at == 0 {
                continue;
            }
            if disk >= header.len {
                // Behind the end of a disk that was made shorter: nobody sees it, it stays.
                self.packed.push(at..at.saturating_add(cluster));
                continue;
            }
            if entry & facts::COPIED == 0 {
                self.share(here);
            }
            self.allocated = self.allocated.saturating_add(1);
            self.runs.push(disk, Some(at), cluster)?;
        }
        Ok(())
    }

    fn compressed(&mut self, entry: u64, disk: u64, here: u64) -> Result<()> {
        // The offset's bits end where the count of sectors begins.
        let bits = 70_u32.saturating_sub(self.header.cluster.trailing_zeros());
        let mask = 1_u64.checked_shl(bits).unwrap_or(0).saturating_sub(1);
        let at = entry & mask;
        let sectors = (entry & !(facts::COPIED | facts::COMPRESSED))
            .checked_shr(bits)
            .unwrap_or(0);
        let len = sectors
            .saturating_add(1)
            .saturating_mul(SECTOR)
            .saturating_sub(at % SECTOR);
        if at < self.header.cluster || at >= self.host.len() {
            return Err(Error::malformed(format!(
                "QCOW2 L2 table: a compressed cluster inside the file expected, found it at {at:#x}"
            ))
            .at("image offset", format_args!("{here:#x}")));
        }
        if disk < self.header.len {
            self.allocated = self.allocated.saturating_add(1);
            self.pieces.push(Piece {
                disk,
                at,
                len: u32::try_from(len).unwrap_or(u32::MAX),
            })?;
        }
        self.packed.push(at..at.saturating_add(len));
        Ok(())
    }
}

/// The refcounts of a file.
struct Refcounts<'a> {
    host: &'a Device,
    width: u64,
    cluster: u64,
    /// Places of the blocks, 0 for none.
    blocks: Vec<u64>,
    /// The block that was read last.
    last: (u64, Vec<u8>),
}

impl<'a> Refcounts<'a> {
    /// Reads the table; its blocks become the format's own.
    fn read(walk: &mut Walk<'a>) -> Result<Self> {
        let (host, header) = (walk.host, walk.header);
        let at = header.refcounts.start;
        let mut bytes = buffer(header.refcounts.end.saturating_sub(at))?;
        host.read_at(at, &mut bytes)?;
        let (entries, _) = bytes.as_chunks::<8>();
        let mut blocks: Vec<u64> = entries
            .iter()
            .map(|entry| u64::from_be_bytes(*entry))
            .collect();
        while blocks.last() == Some(&0) {
            blocks.pop();
        }
        for (number, block) in (0_u64..).zip(&blocks) {
            if *block == 0 {
                continue;
            }
            let place = Bounds {
                cluster: header.cluster,
                host,
            };
            let own = place
                .table("QCOW2 refcount block", *block, header.cluster)
                .at(
                    "image offset",
                    format_args!(
                        "{:#x}",
                        at.saturating_add(number.saturating_mul(facts::ENTRY_LEN))
                    ),
                )?;
            walk.own.push(own);
            walk.count(header.cluster)?;
        }
        Ok(Self {
            host,
            width: header.width,
            cluster: header.cluster,
            blocks,
            last: (u64::MAX, Vec::new()),
        })
    }

    /// The refcount of a cluster of the file.
    fn of(&mut self, number: u64) -> Result<u64> {
        let each = self
            .cluster
            .saturating_mul(8)
            .checked_div(self.width)
            .unwrap_or(1)
            .max(1);
        let block = number.checked_div(each).unwrap_or(0);
        let inside = number.checked_rem(each).unwrap_or(0);
        let place = usize::try_from(block)
            .ok()
            .and_then(|index| self.blocks.get(index))
            .copied()
            .unwrap_or(0);
        if place == 0 {
            return Ok(0);
        }
        if self.last.0 != place {
            let mut bytes = std::mem::take(&mut self.last.1);
            bytes.resize(usize::try_from(self.cluster).unwrap_or(0), 0);
            self.host.read_at(place, &mut bytes)?;
            self.last = (place, bytes);
        }
        let bit = inside.saturating_mul(self.width);
        let from = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        let view = View::new(&self.last.1, "QCOW2 refcount block");
        if self.width < 8 {
            let mask = 1_u8
                .checked_shl(u32::try_from(self.width).unwrap_or(0))
                .unwrap_or(0)
                .saturating_sub(1);
            let byte = view
                .u8(from)?
                .checked_shr(u32::try_from(bit % 8).unwrap_or(0))
                .unwrap_or(0);
            return Ok(u64::from(byte & mask));
        }
        let bytes = view.get(from, usize::try_from(self.width / 8).unwrap_or(8))?;
        Ok(bytes
            .iter()
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    }

    /// The first cluster in these places whose refcount is not one.
    fn odd(&mut self, places: impl Iterator<Item = Range<u64>>) -> Result<Option<(u64, u64)>> {
        for place in places {
            let first = place.start.checked_div(self.cluster).unwrap_or(0);
            for number in first..place.end.div_ceil(self.cluster.max(1)) {
                let count = self.of(number)?;
                if count != 1 {
                    return Ok(Some((number.saturating_mul(self.cluster), count)));
                }
            }
        }
        Ok(None)
    }

    /// Everything that has a refcount.
    fn used(&mut self) -> Result<Vec<Range<u64>>> {
        let mut out: Vec<Range<u64>> = Vec::new();
        for number in 0..self.host.len().div_ceil(self.cluster.max(1)) {
            if self.of(number)? == 0 {
                continue;
            }
            let start = number.saturating_mul(self.cluster);
            let end = start.saturating_add(self.cluster);
            match out.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => out.push(start..end),
            }
        }
        Ok(out)
    }
}

/// The disk below, if there is one.
fn backing(source: &Source<'_>, header: &Header) -> Result<Option<(Device, Vec<String>)>> {
    let Some(backing) = &header.backing else {
        return Ok(None);
    };
    let name = &backing.name;
    let mut chain = vec![name.clone()];
    let device = match backing.format.as_deref() {
        // No probe: the guest of a raw disk chooses what stands at its front.
        Some(RAW) => source.open_bytes(name)?,
        Some(format) => {
            let wanted = match format {
                "qcow2" => |format: &Format| format.name == "qcow2",
                "vmdk" => |format: &Format| format.name == "vmdk",
                "vdi" => |format: &Format| format.name == "vdi",
                "vpc" => |format: &Format| format.name == "vhd",
                "vhdx" => |format: &Format| format.name == "vhdx",
                other => {
                    return Err(Error::unsupported(format!(
                        "QCOW2 header: a backing file in a format that declone reads expected, \
                         found `{}`",
                        escape(other)
                    ))
                    .advise(CONVERT));
                }
            };
            let named = source.open_named(name, wanted)?;
            chain = named.chain();
            named.disk.device
        }
        None => {
            return Err(Error::refused(format!(
                "QCOW2 header: the format of the backing file `{}` expected, found none",
                escape(name)
            ))
            .advise(
                "say it: qemu-img rebase -u -b NAME -F FORMAT IMAGE (on a copy); or convert it: \
                 qemu-img convert -O qcow2 IMAGE new.qcow2",
            ));
        }
    };
    Ok(Some((device, chain)))
}

/// The backing file that a file names, if it does.
pub(super) fn wanted_parent(host: &Device) -> Result<Option<Wanted>> {
    let header = Header::read(host)?;
    Ok(header.backing.map(|backing| Wanted::Name(backing.name)))
}

/// Why the header forbids a write.
fn header_reason(header: &Header) -> Option<ScanOnly> {
    let state = |reason: String, advice| Some(ScanOnly { reason, advice });
    if header.incompatible & facts::CORRUPT != 0 {
        return state(
            "QCOW2 header: a whole file expected, found the mark `corrupt`".to_owned(),
            REPAIR,
        );
    }
    if header.incompatible & facts::DIRTY != 0 {
        return state(
            "QCOW2 header: a file that was closed expected, found the mark `dirty`".to_owned(),
            "shut the machine down, or let qemu-img check -r all repair a copy of it",
        );
    }
    if header.snapshots > 0 {
        return state(
            format!(
                "QCOW2: no snapshots expected, found {}: what is removed would stay in them",
                header.snapshots
            ),
            TO_RAW,
        );
    }
    if header.backing.is_some() {
        return state(
            "QCOW2: a disk of its own expected, found one with a backing file: what is removed \
             would stay in that"
                .to_owned(),
            TO_RAW,
        );
    }
    None
}

fn open(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    let header = Header::read(host)?;
    let below = backing(source, &header)?;
    let mut walk = Walk::new(host, &header);
    walk.tables()?;
    let mut refcounts = Refcounts::read(&mut walk)?;
    let Walk {
        mut runs,
        pieces,
        own,
        packed,
        allocated,
        shared,
        ..
    } = walk;
    let twice = runs.settle("QCOW2", own)?;
    runs.keep(packed);
    if header.strange {
        runs.keep(refcounts.used()?);
    }
    let mut scan_only = header_reason(&header).or(twice);
    if pieces.count() > 0 {
        scan_only.get_or_insert_with(|| ScanOnly {
            reason: format!(
                "QCOW2: clusters that are not compressed expected, found {} compressed ones",
                pieces.count()
            ),
            advice: TO_RAW,
        });
    }
    if let Some(reason) = shared {
        scan_only.get_or_insert(ScanOnly {
            reason,
            advice: REPAIR,
        });
    }
    if scan_only.is_none()
        && let Some((at, count)) = refcounts.odd(runs.places())?
    {
        scan_only = Some(ScanOnly {
            reason: format!(
                "QCOW2 refcounts: 1 expected for a cluster of the disk, found {count} (image \
                 offset {at:#x})"
            ),
            advice: REPAIR,
        });
    }
    let blocks = header.len.div_ceil(header.cluster.max(1));
    let (below, chain) = below.unzip();
    let facts = Facts {
        kind: Some(format!("version {}", header.version)),
        block_size: Some(header.cluster),
        blocks: Some(blocks),
        allocated: Some(allocated),
        chain: chain.unwrap_or_default(),
        ..Facts::default()
    };
    let stale = match header.autoclear {
        0 => Vec::new(),
        bits => vec![Stale {
            at: facts::AUTOCLEAR_AT,
            old: bits.to_be_bytes().to_vec(),
            next: |old, _| vec![0; old.len()],
        }],
    };
    let layout = Laid {
        host: Arc::clone(host),
        runs,
        below,
        stale,
    }
    .shared();
    let mut disk = Disk::mapped(host, Arc::clone(&layout), facts);
    if pieces.count() > 0 {
        disk.opaque = true;
        disk.places = Places::none();
        let plain = Arc::new(Mapped::new(Arc::clone(host), layout));
        disk.device = pieces.over(Arc::clone(host), plain);
    }
    disk.scan_only = scan_only;
    Ok(disk)
}
