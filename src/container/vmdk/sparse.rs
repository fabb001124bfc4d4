//! Sparse extents: grains behind tables of two levels.

use std::{ops::Range, sync::Arc};

use super::{
    CONVERT, DESCRIPTOR_LIMIT, Laid, Mapped, Piece, Pieces, Runs, SECTOR, ScanOnly, TO_RAW, Wrap,
    buffer, facts, format, sectors,
};
use crate::{
    bytes::{View, all_zero},
    device::Device,
    error::{At, Error, Result},
};

/// Largest grain, in sectors: 32 MiB.
const GRAIN_LIMIT: u64 = 1 << 16;
/// Most bytes of tables of an extent that are read: those of 16 TiB in grains of 64 KiB.
const TABLES_LIMIT: u64 = 1 << 30;

/// A sparse extent's header, checked.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) version: u32,
    pub(super) flags: u32,
    /// Bytes of the disk.
    pub(super) len: u64,
    /// Bytes in a grain.
    pub(super) grain: u64,
    /// Entries of a grain table.
    pub(super) entries: u64,
    pub(super) descriptor: Range<u64>,
    pub(super) redundant: u64,
    pub(super) directory: u64,
    pub(super) unclean: bool,
    pub(super) compressed: bool,
}

impl Sparse {
    pub(super) fn read(host: &Device) -> Result<Self> {
        let first = Self::read_at(host, 0)?;
        if first.directory != facts::AT_END {
            return Ok(first);
        }
        // A stream: where the directory is was known at the end only.
        let at = host.len().saturating_sub(facts::FOOTER) & !(SECTOR.saturating_sub(1));
        let last = Self::read_at(host, at).at("image offset", format_args!("{at:#x}"))?;
        if last.directory == facts::AT_END
            || (last.len, last.grain, last.entries) != (first.len, first.grain, first.entries)
        {
            return Err(Error::malformed(
                "VMDK footer: the header's disk and a grain directory expected, found others",
            )
            .at("image offset", format_args!("{at:#x}")));
        }
        Ok(Self {
            descriptor: first.descriptor,
            ..last
        })
    }

    fn read_at(host: &Device, at: u64) -> Result<Self> {
        let mut bytes = vec![0; facts::HEADER_BYTES];
        host.read_at(at, &mut bytes)?;
        let view = View::new(&bytes, "VMDK header");
        if view.get(0, 4)? != format::VMDK_SPARSE {
            return Err(Error::malformed("VMDK header: KDMV expected, not found"));
        }
        let version = view.u32(facts::VERSION)?;
        if !(1..=3).contains(&version) {
            return Err(Error::unsupported(format!(
                "VMDK header: version 1 to 3 expected, found {version}"
            ))
            .advise(CONVERT));
        }
        let flags = view.u32(facts::FLAGS)?;
        if flags & facts::HAS_NEWLINES != 0 && view.get(facts::NEWLINES, 4)? != facts::NEWLINE_BYTES
        {
            return Err(Error::malformed(
                "VMDK header: the newline characters expected, found others: the file was changed \
                 by a transfer as text",
            ));
        }
        let grain = view.u64(facts::GRAIN)?;
        if !grain.is_power_of_two() || grain > GRAIN_LIMIT {
            return Err(Error::malformed(format!(
                "VMDK header: a grain of 2^n sectors, at most {GRAIN_LIMIT}, expected, found \
                 {grain}"
            )));
        }
        let capacity = view.u64(facts::CAPACITY)?;
        if capacity == 0 || capacity > u64::MAX / SECTOR / 2 {
            return Err(Error::malformed(format!(
                "VMDK header: a capacity expected, found {capacity} sectors"
            )));
        }
        let entries = u64::from(view.u32(facts::ENTRIES)?);
        if entries == 0 || entries > 512 {
            return Err(Error::malformed(format!(
                "VMDK header: grain tables of 1 to 512 entries expected, found {entries}"
            )));
        }
        let from = sectors(view.u64(facts::DESCRIPTOR_OFFSET)?);
        let len = sectors(view.u64(facts::DESCRIPTOR_LEN)?);
        let compression = view.u16(facts::COMPRESSION)?;
        let compressed = flags & facts::COMPRESSED != 0;
        if compression > 1 || (compressed && compression != 1) {
            return Err(Error::unsupported(format!(
                "VMDK header: compression 0, or 1 with its flag, expected, found {compression}"
            ))
            .advise(CONVERT));
        }
        if compressed && flags & facts::MARKERS == 0 {
            return Err(Error::unsupported(
                "VMDK header: markers expected before compressed grains, found none",
            )
            .advise(CONVERT));
        }
        Ok(Self {
            version,
            flags,
            len: sectors(capacity),
            grain: sectors(grain),
            entries,
            descriptor: match from {
                0 => 0..0,
                from => from..from.saturating_add(len),
            },
            redundant: view.u64(facts::REDUNDANT)?,
            directory: view.u64(facts::DIRECTORY)?,
            unclean: view.u8(facts::UNCLEAN)? != 0,
            compressed,
        })
    }

    pub(super) fn grains(&self) -> u64 {
        self.len.div_ceil(self.grain.max(1))
    }

    /// Entries of the directory.
    fn tables(&self) -> u64 {
        self.grains().div_ceil(self.entries.max(1))
    }

    /// The embedded descriptor's text, if there is one.
    pub(super) fn text(&self, host: &Device) -> Result<Option<Vec<u8>>> {
        let place = &self.descriptor;
        let len = place.end.saturating_sub(place.start);
        if len == 0 {
            return Ok(None);
        }
        if place.start < SECTOR || place.end > host.len() || len > DESCRIPTOR_LIMIT {
            return Err(Error::malformed(format!(
                "VMDK descriptor: at most {DESCRIPTOR_LIMIT} bytes inside the file expected, found \
                 {len} at {:#x}",
                place.start
            )));
        }
        let mut bytes = buffer(len)?;
        host.read_at(place.start, &mut bytes)?;
        // qemu leaves room for one in the extents of a set, too.
        Ok((!all_zero(&bytes)).then_some(bytes))
    }
}

/// What the tables of a sparse extent say.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) runs: Runs,
    pub(super) pieces: Pieces,
    pub(super) allocated: u64,
    pub(super) scan_only: Option<ScanOnly>,
}

fn table_at(what: &str, host: &Device, sector: u64, len: u64) -> Result<Range<u64>> {
    let at = sectors(sector);
    match at.checked_add(len).filter(|end| *end <= host.len()) {
        Some(end) if sector > 0 && sector < u64::MAX / SECTOR => Ok(at..end),
        _ => Err(Error::malformed(format!(
            "{what}: {len} bytes inside the file ({:#x} bytes) expected, found them at sector \
             {sector:#x}",
            host.len()
        ))),
    }
}

fn entries_of(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let (entries, _) = bytes.as_chunks::<4>();
    entries.iter().map(|entry| u32::from_le_bytes(*entry))
}

/// Reads a grain directory; its place becomes the format's own.
fn directory(
    host: &Device,
    header: &Sparse,
    sector: u64,
    own: &mut Vec<Range<u64>>,
) -> Result<Vec<u32>> {
    let len = header.tables().saturating_mul(facts::ENTRY_LEN);
    if len > TABLES_LIMIT / 16 {
        return Err(Error::limit(format!(
            "VMDK grain directory: at most {} bytes expected, found {len}",
            TABLES_LIMIT / 16
        )));
    }
    let place = table_at("VMDK grain directory", host, sector, len)?;
    let mut bytes = buffer(len)?;
    host.read_at(place.start, &mut bytes)?;
    own.push(place);
    Ok(entries_of(&bytes).collect())
}

impl Extent {
    pub(super) fn read(host: &Device, header: &Sparse) -> Result<Self> {
        let mut own = vec![0..SECTOR, header.descriptor.clone()];
        let mut out = Self {
            runs: Runs::new(header.len),
            pieces: Pieces::new(header.grain, Wrap::Zlib),
            allocated: 0,
            scan_only: None,
        };
        let first = directory(host, header, header.directory, &mut own)?;
        let second = match header.flags & facts::HAS_REDUNDANT {
            0 => Vec::new(),
            _ if header.redundant == header.directory => Vec::new(),
            _ => directory(host, header, header.redundant, &mut own)?,
        };
        let len = header.entries.saturating_mul(facts::ENTRY_LEN);
        let (mut table, mut copy) = (buffer(len)?, buffer(len)?);
        let mut packed = Vec::new();
        let mut read = 0_u64;
        let mut differ = None;
        for (number, sector) in (0_u64..).zip(&first) {
            let other = usize::try_from(number)
                .ok()
                .and_then(|index| second.get(index))
                .copied();
            match (*sector, other) {
                (0, None | Some(0)) => continue,
                (0, Some(_)) | (_, Some(0)) => {
                    differ.get_or_insert(number);
                    if *sector == 0 {
                        continue;
                    }
                }
                _ => {}
            }
            read = read.saturating_add(len);
            if read > TABLES_LIMIT {
                return Err(Error::limit(format!(
                    "VMDK grain tables: at most {TABLES_LIMIT} bytes expected, found more"
                )));
            }
            let place = table_at("VMDK grain table", host, u64::from(*sector), len)?;
            host.read_at(place.start, &mut table)?;
            own.push(place.clone());
            if let Some(other) = other.filter(|other| *other != 0 && other != sector) {
                let twin = table_at("VMDK redundant grain table", host, u64::from(other), len)?;
                host.read_at(twin.start, &mut copy)?;
                own.push(twin);
                if copy != table {
                    differ.get_or_insert(number);
                }
            }
            if !all_zero(&table) {
                let from = number.saturating_mul(header.entries);
                out.grains(host, header, &table, from, place.start, &mut packed)?;
            }
        }
        own.retain(|part| part.start < part.end);
        own.sort_unstable_by_key(|part| (part.start, part.end));
        let twice = out.runs.settle("VMDK", own)?;
        out.runs.keep(packed);
        out.scan_only = out.reason(header, differ).or(twice);
        Ok(out)
    }

    fn reason(&self, header: &Sparse, differ: Option<u64>) -> Option<ScanOnly> {
        let state = |reason: String, advice| Some(ScanOnly { reason, advice });
        if header.unclean {
            return state(
                "VMDK header: a disk that was closed expected, found the mark of an unclean \
                 shutdown"
                    .to_owned(),
                "shut the machine down; if that was a crash, let VMware repair the disk \
                 (vmware-vdiskmanager -R)",
            );
        }
        if let Some(number) = differ {
            return state(
                format!(
                    "VMDK grain tables: the same in both copies expected, found another one in \
                     table {number}"
                ),
                "let VMware repair a copy of the disk (vmware-vdiskmanager -R), or restore it from a \
                 backup",
            );
        }
        if header.compressed {
            return state(
                format!(
                    "VMDK: grains that are not compressed expected, found {} compressed ones \
                     (streamOptimized)",
                    self.pieces.count()
                ),
                TO_RAW,
            );
        }
        if header.version == 3 || header.flags & facts::MARKERS != 0 {
            return state(
                format!(
                    "VMDK header: version 1 or 2 without markers expected, found version {} and \
                     flags {:#x}",
                    header.version, header.flags
                ),
                TO_RAW,
            );
        }
        None
    }

    /// The grains of a table, the first of which has the number `from`.
    fn grains(
        &mut self,
        host: &Device,
        header: &Sparse,
        table: &[u8],
        from: u64,
        table_at: u64,
        packed: &mut Vec<Range<u64>>,
    ) -> Result<()> {
        for (number, sector) in (0_u64..).zip(entries_of(table)) {
            if sector == 0 {
                continue;
            }
            let grain = from.saturating_add(number);
            let disk = grain.saturating_mul(header.grain);
            let shown = header.len.saturating_sub(disk).min(header.grain);
            if sector == 1 && header.flags & facts::HAS_ZEROED != 0 {
                self.runs.push(disk, None, header.grain)?;
                continue;
            }
            let at = sectors(u64::from(sector));
            let needed = match header.compressed {
                true => facts::MARKER_LEN,
                false => shown,
            };
            let end = at.saturating_add(needed);
            if end > host.len() || shown == 0 {
                return Err(Error::malformed(format!(
                    "VMDK grain table: grain {grain} of the disk inside the file ({:#x} bytes) \
                     expected, found its end at {end:#x}",
                    host.len()
                ))
                .at(
                    "image offset",
                    format_args!(
                        "{:#x}",
                        table_at.saturating_add(number.saturating_mul(facts::ENTRY_LEN))
                    ),
                ));
            }
            self.allocated = self.allocated.saturating_add(1);
            if !header.compressed {
                self.runs.push(disk, Some(at), header.grain)?;
                continue;
            }
            let mut marker = [0; facts::MARKER_BYTES];
            host.read_at(at, &mut marker)?;
            let view = View::new(&marker, "VMDK grain marker");
            let (lba, len) = (view.u64(0)?, view.u32(8)?);
            // What does not shrink grows by little (zlib: 5 bytes for 16 KiB).
            let most = header.grain.saturating_mul(2).saturating_add(SECTOR);
            if sectors(lba) != disk || len == 0 || u64::from(len) > most {
                return Err(Error::malformed(format!(
                    "VMDK grain marker: at most {most} bytes for sector {:#x} expected, found {len} \
                     for {lba:#x}",
                    disk / SECTOR
                ))
                .at("image offset", format_args!("{at:#x}")));
            }
            let data = at.saturating_add(facts::MARKER_LEN);
            self.pieces.push(Piece {
                disk,
                at: data,
                len,
            })?;
            packed.push(at..data.saturating_add(u64::from(len)));
        }
        Ok(())
    }

    /// The device alone, for a disk of several extents.
    pub(super) fn device(self, host: &Device, below: Option<Device>) -> Device {
        let layout = Laid {
            host: Arc::clone(host),
            runs: self.runs,
            below,
            stale: Vec::new(),
        }
        .shared();
        let plain: Device = Arc::new(Mapped::new(Arc::clone(host), layout));
        match self.pieces.count() {
            0 => plain,
            _ => self.pieces.over(Arc::clone(host), plain),
        }
    }
}
