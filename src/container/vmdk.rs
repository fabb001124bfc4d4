//! VMDK: a descriptor, which is text, and extents: sparse ones have grains behind tables of two
//! levels, flat ones are the disk's bytes.
//!
//! # Why
//! - **The extents of a split disk are members of one set** ([`crate::device::HostSet`]): the runs of
//!   all of them lie over its address space, so that one write set and one journal serve them all. Where
//!   they are opened alone (the parent of a delta) the disk is for looking only.
//! - **A write gives it a new content ID**, as every program that writes one does: a delta names the
//!   content ID of its parent, and does not open over another one. It is made from the old one and from
//!   what is written, of as many digits, so that nothing moves.

use std::{ops::Range, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    Disk, Edges, Facts, Format, Open, Places, ScanOnly, Source,
    children::Wanted,
    format::{self, SECTOR, vmdk as facts},
    mapped::{Mapped, wide},
    packed::{Piece, Pieces, Wrap},
    runs::{Laid, Runs, Stale},
};
use crate::{
    bytes::{View, all_zero},
    device::{BlockDevice, Device, PartOf, Slice},
    error::{At, Error, Result},
    text::escape,
};

pub(super) const FORMAT: Format = Format {
    name: "vmdk",
    title: "a VMDK",
    probe: |edges: &Edges| {
        [
            (format::VMDK_SPARSE, "KDMV, a sparse extent,"),
            (format::VMDK_COW, "COWD, an ESX extent,"),
            (format::VMDK_DESCRIPTOR, "a disk descriptor"),
        ]
        .into_iter()
        .find(|(magic, _)| edges.has(0, magic))
        .map(|(_, shown)| format!("{shown} at 0x0"))
    },
    open: Open::Disk(open),
};

/// Longest descriptor that is read: VMware's has 20 sectors.
const DESCRIPTOR_LIMIT: u64 = 1 << 20;
/// Most extents of a disk: 64 TiB in pieces of 2 GiB are 32,768.
const EXTENTS_LIMIT: usize = 65_536;
/// Largest grain, in sectors: 32 MiB.
const GRAIN_LIMIT: u64 = 1 << 16;
/// Most bytes of tables of an extent that are read: those of 16 TiB in grains of 64 KiB.
const TABLES_LIMIT: u64 = 1 << 30;

/// What can be done with a disk that is only read.
const TO_RAW: &str = "clean the disk inside it into a raw file: clean -o OUT --to raw";

const CONVERT: &str = "convert it: qemu-img convert -O raw IMAGE disk.raw, and clean that";

fn sectors(count: u64) -> u64 {
    count.saturating_mul(SECTOR)
}

fn buffer(len: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| Error::internal("VMDK: the length of a table"))?;
    Ok(vec![0; len])
}

fn open(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    let mut magic = [0; 4];
    host.read_at(0, &mut magic)?;
    if magic == format::VMDK_SPARSE {
        return open_sparse(source);
    }
    if magic == format::VMDK_COW {
        return Err(Error::unsupported(
            "VMDK: a sparse extent (KDMV) or a descriptor expected, found an ESX extent (COWD)",
        )
        .advise(CONVERT));
    }
    open_set(source)
}

// --- the descriptor ---

/// What the text says.
#[derive(Debug, Default)]
struct Descriptor {
    /// The content ID: its digits, and where they stand in the text.
    cid: Option<(String, usize)>,
    parent_cid: Option<String>,
    kind: Option<String>,
    parent_name: Option<String>,
    tracked: bool,
    extents: Vec<Line>,
}

/// A line that names an extent.
#[derive(Debug)]
struct Line {
    access: String,
    sectors: u64,
    kind: String,
    name: String,
    /// Sector of the file at which a flat extent begins.
    from: u64,
}

impl Descriptor {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|byte| *byte == 0);
        let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        if !bytes.starts_with(format::VMDK_DESCRIPTOR) {
            return Err(Error::malformed(
                "VMDK descriptor: # Disk DescriptorFile expected, not found",
            ));
        }
        let mut out = Self::default();
        let mut at = 0_usize;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let here = at;
            at = at.saturating_add(line.len());
            // Names that are not UTF-8 name no file that would be opened.
            let text = String::from_utf8_lossy(line);
            let trimmed = text.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let word = trimmed.split_whitespace().next().unwrap_or_default();
            if matches!(word, "RW" | "RDONLY" | "NOACCESS") {
                if out.extents.len() >= EXTENTS_LIMIT {
                    return Err(Error::limit(format!(
                        "VMDK descriptor: at most {EXTENTS_LIMIT} extents expected, found more"
                    )));
                }
                out.extents.push(Line::parse(trimmed)?);
                continue;
            }
            let Some((key, value)) = trimmed.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "cid" if out.cid.is_none() => {
                    let digits = !value.is_empty()
                        && value.len() <= 8
                        && value.bytes().all(|byte| byte.is_ascii_hexdigit());
                    let inside = text.find('=').and_then(|equals| {
                        let tail = text.get(equals..)?;
                        Some(equals.saturating_add(tail.find(value)?))
                    });
                    match inside {
                        Some(inside) if digits && text.is_ascii() => {
                            out.cid = Some((value.to_owned(), here.saturating_add(inside)));
                        }
                        _ => {
                            return Err(Error::malformed(format!(
                                "VMDK descriptor: a CID of 1 to 8 hex digits expected, found `{}`",
                                escape(value)
                            )));
                        }
                    }
                }
                "parentcid" => out.parent_cid = Some(value.to_ascii_lowercase()),
                "createtype" => out.kind = Some(value.to_owned()),
                "parentfilenamehint" => out.parent_name = Some(value.to_owned()),
                "changetrackpath" => out.tracked = true,
                _ => {}
            }
        }
        Ok(out)
    }

    /// The content ID that a delta says its parent has.
    fn parent(&self) -> Option<&str> {
        self.parent_cid
            .as_deref()
            .filter(|cid| *cid != facts::NO_PARENT)
    }

    fn facts(&self) -> Facts {
        Facts {
            kind: self.kind.clone(),
            id: self.cid.as_ref().map(|(digits, _)| same_cid(digits)),
            ..Facts::default()
        }
    }

    /// Why what it says forbids a write.
    fn reason(&self) -> Option<ScanOnly> {
        if self.parent().is_some() {
            return Some(ScanOnly {
                reason: "VMDK descriptor: a disk of its own expected, found a delta: what is \
                         removed would stay in its parent"
                    .to_owned(),
                advice: "delete the snapshots in VMware, which makes one disk of them; or convert \
                         the chain: qemu-img convert -O vmdk IMAGE new.vmdk",
            });
        }
        self.tracked.then(|| ScanOnly {
            reason: "VMDK descriptor: a disk whose changes are not tracked expected, found \
                     changeTrackPath"
                .to_owned(),
            advice: "switch changed block tracking off (ctkEnabled) and remove the -ctk.vmdk file",
        })
    }

    /// The disk of the parent, if it is a delta.
    fn open_parent(&self, source: &Source<'_>) -> Result<Option<(Device, Vec<String>)>> {
        let Some(want) = self.parent() else {
            return Ok(None);
        };
        let name = self.parent_name.as_deref().ok_or_else(|| {
            Error::malformed("VMDK descriptor: parentFileNameHint expected in a delta, not found")
        })?;
        let named = source.open_named(name, |format| format.name == "vmdk")?;
        let is = named.disk.facts.id.as_deref().unwrap_or_default();
        if is != same_cid(want) {
            return Err(Error::refused(format!(
                "VMDK: a parent with content ID {} expected, found {}",
                escape(want),
                escape(is)
            ))
            .at("file", escape(name))
            .advise("the parent was changed after the delta was made: restore it from a backup"));
        }
        let chain = named.chain();
        Ok(Some((named.disk.device, chain)))
    }
}

impl Line {
    /// `RW 4192256 SPARSE "disk-s001.vmdk"`, `RW 1024 FLAT "disk-flat.vmdk" 0`, `RW 63 ZERO`.
    fn parse(line: &str) -> Result<Self> {
        let wrong = || {
            Error::malformed(format!(
                "VMDK descriptor: access, sectors, type and name of an extent expected, found `{}`",
                escape(line)
            ))
        };
        let (front, rest) = line.split_once('"').unwrap_or((line, ""));
        let mut words = front.split_whitespace();
        let access = words.next().ok_or_else(wrong)?.to_owned();
        let sectors = words
            .next()
            .and_then(|word| word.parse().ok())
            .filter(|count| (1..=u64::MAX / SECTOR / 2).contains(count))
            .ok_or_else(wrong)?;
        let kind = words.next().ok_or_else(wrong)?.to_owned();
        let (name, behind) = rest.split_once('"').unwrap_or(("", ""));
        if name.is_empty() && kind != "ZERO" {
            return Err(wrong());
        }
        let from = match behind.split_whitespace().next() {
            None => 0,
            Some(word) => word.parse().map_err(|_| wrong())?,
        };
        Ok(Self {
            access,
            sectors,
            kind,
            name: name.to_owned(),
            from,
        })
    }
}

/// A content ID as it is compared: programs write it with and without leading zeros.
fn same_cid(digits: &str) -> String {
    format!("{:0>8}", digits.to_ascii_lowercase())
}

/// The content ID of the disk on which a file stands, if it does.
pub(super) fn wanted_parent(host: &Device) -> Result<Option<Wanted>> {
    let mut magic = [0; 4];
    host.read_at(0, &mut magic)?;
    let text = match magic == format::VMDK_SPARSE {
        true => Sparse::read(host)?.text(host)?,
        false if host.len() <= DESCRIPTOR_LIMIT => {
            let mut text = buffer(host.len())?;
            host.read_at(0, &mut text)?;
            Some(text)
        }
        false => None,
    };
    let descriptor = text.map(|text| Descriptor::parse(&text)).transpose()?;
    let parent = descriptor.and_then(|text| text.parent().map(same_cid));
    Ok(parent.map(Wanted::Id))
}

/// The content ID behind this one, of as many digits: from it and the digest of what is written.
fn next_cid(old: &[u8], written: &[u8]) -> Vec<u8> {
    let old = old.to_ascii_lowercase();
    for round in 0_u8..=u8::MAX {
        let digest = Sha256::new()
            .chain_update(b"declone VMDK content\0")
            .chain_update([round])
            .chain_update(&old)
            .chain_update(written)
            .finalize();
        let digits: Vec<u8> = hex::encode(digest).bytes().take(old.len()).collect();
        let special = digits.starts_with(b"0") || digits.starts_with(b"fffffff");
        if !special && digits != old {
            return digits;
        }
    }
    old
}

// --- sparse extents ---

/// A sparse extent's header, checked.
#[derive(Debug)]
struct Sparse {
    version: u32,
    flags: u32,
    /// Bytes of the disk.
    len: u64,
    /// Bytes in a grain.
    grain: u64,
    /// Entries of a grain table.
    entries: u64,
    descriptor: Range<u64>,
    redundant: u64,
    directory: u64,
    unclean: bool,
    compressed: bool,
}

impl Sparse {
    fn read(host: &Device) -> Result<Self> {
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

    fn grains(&self) -> u64 {
        self.len.div_ceil(self.grain.max(1))
    }

    /// Entries of the directory.
    fn tables(&self) -> u64 {
        self.grains().div_ceil(self.entries.max(1))
    }

    /// The embedded descriptor's text, if there is one.
    fn text(&self, host: &Device) -> Result<Option<Vec<u8>>> {
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
struct Extent {
    runs: Runs,
    pieces: Pieces,
    allocated: u64,
    scan_only: Option<ScanOnly>,
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
    fn read(host: &Device, header: &Sparse) -> Result<Self> {
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
                "let VMware repair the disk (vmware-vdiskmanager -R), or convert it: qemu-img \
                 convert -O vmdk IMAGE new.vmdk",
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
    fn device(self, host: &Device, below: Option<Device>) -> Device {
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

/// One file with its descriptor inside.
fn open_sparse(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    let header = Sparse::read(host)?;
    let Some(text) = header.text(host)? else {
        return Err(Error::refused(
            "VMDK: a disk with its descriptor inside expected, found one extent of a split disk",
        )
        .advise("give the descriptor, the small .vmdk file that names it"));
    };
    let descriptor = Descriptor::parse(&text).at(
        "image offset",
        format_args!("{:#x}", header.descriptor.start),
    )?;
    let below = descriptor.open_parent(source)?;
    let extent = Extent::read(host, &header)?;
    let mut scan_only = descriptor.reason();
    if descriptor.extents.len() != 1 {
        scan_only.get_or_insert_with(|| ScanOnly {
            reason: format!(
                "VMDK descriptor: one extent expected in a file with a descriptor inside, found {}",
                descriptor.extents.len()
            ),
            advice: TO_RAW,
        });
    }
    let mut stale = Vec::new();
    match &descriptor.cid {
        Some((old, inside)) => {
            let at = header.descriptor.start.saturating_add(wide(*inside));
            stale.push(Stale {
                at,
                old: old.clone().into_bytes(),
                next: next_cid,
            });
        }
        None => {
            scan_only.get_or_insert_with(no_cid);
        }
    }
    let (below, chain) = below.unzip();
    let facts = Facts {
        block_size: Some(header.grain),
        blocks: Some(header.grains()),
        allocated: Some(extent.allocated),
        chain: chain.unwrap_or_default(),
        ..descriptor.facts()
    };
    let scan_only = scan_only.or(extent.scan_only);
    let layout = Laid {
        host: Arc::clone(host),
        runs: extent.runs,
        below,
        stale,
    }
    .shared();
    let mut disk = Disk::mapped(host, Arc::clone(&layout), facts);
    if extent.pieces.count() > 0 {
        disk.opaque = true;
        disk.places = Places::none();
        let plain = Arc::new(Mapped::new(Arc::clone(host), layout));
        disk.device = extent.pieces.over(Arc::clone(host), plain);
    }
    disk.scan_only = scan_only;
    Ok(disk)
}

// --- a descriptor that names its extents ---

fn read_descriptor(host: &Device) -> Result<Descriptor> {
    if host.len() > DESCRIPTOR_LIMIT {
        return Err(Error::limit(format!(
            "VMDK descriptor: at most {DESCRIPTOR_LIMIT} bytes expected, found {}",
            host.len()
        )));
    }
    let mut text = buffer(host.len())?;
    host.read_at(0, &mut text)?;
    Descriptor::parse(&text)
}

/// The names of the extents, each once.
pub(super) fn files(source: &Source<'_>) -> Result<Vec<String>> {
    let host = source.host;
    let mut start = vec![0; format::VMDK_DESCRIPTOR.len()];
    if host.len() > DESCRIPTOR_LIMIT || host.len() < wide(start.len()) {
        return Ok(Vec::new());
    }
    host.read_at(0, &mut start)?;
    if start != format::VMDK_DESCRIPTOR {
        return Ok(Vec::new());
    }
    let mut seen = std::collections::HashSet::new();
    let lines = read_descriptor(host)?.extents;
    Ok(lines
        .into_iter()
        .map(|line| line.name)
        .filter(|name| !name.is_empty() && seen.insert(name.clone()))
        .collect())
}

fn open_set(source: &Source<'_>) -> Result<Disk> {
    let descriptor = read_descriptor(source.host)?;
    if descriptor.extents.is_empty() {
        return Err(Error::malformed(
            "VMDK descriptor: at least one extent expected, found none",
        ));
    }
    let below = descriptor.open_parent(source)?;
    let mut set = Set::default();
    for line in &descriptor.extents {
        set.add(source, line, below.as_ref().map(|(disk, _)| disk))
            .at("file", escape(&line.name))?;
    }
    let mut facts = descriptor.facts();
    facts.block_size = set.grain;
    if let Some(grain) = set.grain.filter(|_| set.allocated.is_some()) {
        facts.allocated = set.allocated;
        facts.blocks = Some(set.joined.len().div_ceil(grain.max(1)));
    }
    let (below, chain) = below.unzip();
    let mut names: Vec<String> = descriptor
        .extents
        .iter()
        .map(|line| line.name.clone())
        .filter(|name| !name.is_empty())
        .collect();
    names.dedup();
    let laid = set.laid && !set.packed;
    // What is part of the set is no file below it.
    facts.files = match laid {
        true => names,
        false => {
            facts.chain = names;
            Vec::new()
        }
    };
    facts.chain.extend(chain.unwrap_or_default());
    let mut scan_only = descriptor.reason().or(set.scan_only);
    let stale = match &descriptor.cid {
        Some((old, inside)) => vec![Stale {
            at: wide(*inside),
            old: old.clone().into_bytes(),
            next: next_cid,
        }],
        None => {
            scan_only.get_or_insert_with(no_cid);
            Vec::new()
        }
    };
    if !laid {
        scan_only.get_or_insert_with(|| ScanOnly {
            reason: format!(
                "VMDK: a disk that was opened with its extents expected, found {} apart from it",
                descriptor.extents.len()
            ),
            advice: TO_RAW,
        });
        let mut disk = Disk::plain(Arc::new(set.joined));
        disk.places = Places::none();
        disk.opaque = true;
        disk.scan_only = scan_only;
        disk.facts = facts;
        return Ok(disk);
    }
    let mut runs = Runs::new(set.joined.len());
    for (disk, file, len) in set.runs {
        runs.push(disk, file, len)?;
    }
    let twice = runs.settle("VMDK", set.own)?;
    runs.keep(set.flat);
    let layout = Laid {
        host: Arc::clone(source.whole()),
        runs,
        below,
        stale,
    }
    .shared();
    let mut disk = Disk::mapped(source.whole(), layout, facts);
    disk.scan_only = scan_only.or(twice);
    Ok(disk)
}

fn no_cid() -> ScanOnly {
    ScanOnly {
        reason: "VMDK descriptor: a content ID (CID) expected, found none".to_owned(),
        advice: TO_RAW,
    }
}

/// The extents of a descriptor, read one after the other.
#[derive(Debug)]
struct Set {
    /// The disk as it can always be read.
    joined: Joined,
    /// Whether every extent is a member of the set.
    laid: bool,
    /// The disk over the address space of the set: where, where in the files, how much.
    runs: Vec<(u64, Option<u64>, u64)>,
    /// What the extents keep for themselves there.
    own: Vec<Range<u64>>,
    /// Flat files there: what the disk does not show of them is not the format's to know.
    flat: Vec<Range<u64>>,
    /// Whether some grain is compressed.
    packed: bool,
    grain: Option<u64>,
    allocated: Option<u64>,
    scan_only: Option<ScanOnly>,
}

impl Default for Set {
    fn default() -> Self {
        Self {
            joined: Joined::default(),
            laid: true,
            runs: Vec::new(),
            // The descriptor, which begins the address space.
            own: std::iter::once(0..DESCRIPTOR_LIMIT).collect(),
            flat: Vec::new(),
            packed: false,
            grain: None,
            allocated: Some(0),
            scan_only: None,
        }
    }
}

impl Set {
    fn add(&mut self, source: &Source<'_>, line: &Line, below: Option<&Device>) -> Result<()> {
        let len = sectors(line.sectors);
        let start = self.joined.len();
        let part = match line.kind.as_str() {
            "FLAT" | "VMFS" => {
                let (file, place) = member(source, &line.name)?;
                let from = sectors(line.from);
                let slice = Slice::new(Arc::clone(&file), from, len)?;
                self.allocated = None;
                match place {
                    Some(base) => {
                        self.runs
                            .push((start, Some(base.saturating_add(from)), len));
                        self.flat.push(base..base.saturating_add(file.len()));
                    }
                    None => self.laid = false,
                }
                let device: Device = Arc::new(slice);
                Some(device)
            }
            "SPARSE" => {
                let (file, place) = member(source, &line.name)?;
                Some(self.sparse(&file, place, below, start, len)?)
            }
            "ZERO" => {
                self.runs.push((start, None, len));
                None
            }
            other => {
                return Err(Error::unsupported(format!(
                    "VMDK descriptor: extents of type FLAT, VMFS, SPARSE or ZERO expected, found \
                     `{}`",
                    escape(other)
                ))
                .advise(CONVERT));
            }
        };
        if !matches!(line.access.as_str(), "RW") {
            let access = &line.access;
            self.scan_only.get_or_insert_with(|| ScanOnly {
                reason: format!(
                    "VMDK descriptor: extents that may be written (RW) expected, found {access}"
                ),
                advice: TO_RAW,
            });
        }
        self.joined.push(part, len)
    }

    /// A sparse file, which is `len` bytes of the disk at `start`.
    fn sparse(
        &mut self,
        file: &Device,
        place: Option<u64>,
        below: Option<&Device>,
        start: u64,
        len: u64,
    ) -> Result<Device> {
        let header = Sparse::read(file)?;
        if header.len < len {
            return Err(Error::malformed(format!(
                "VMDK header: a capacity of {len} bytes expected, as the descriptor says, found {}",
                header.len
            )));
        }
        let mut extent = Extent::read(file, &header)?;
        let state = extent.scan_only.take();
        self.scan_only = self.scan_only.take().or(state);
        self.grain = Some(header.grain);
        self.allocated = self
            .allocated
            .and_then(|sum| sum.checked_add(extent.allocated));
        self.packed |= extent.pieces.count() > 0;
        match place {
            None => self.laid = false,
            Some(base) => {
                self.own.extend(
                    extent
                        .runs
                        .own()
                        .map(|own| own.start.saturating_add(base)..own.end.saturating_add(base)),
                );
                for (disk, at, run) in extent.runs.all() {
                    let shown = run.min(len.saturating_sub(disk));
                    let at = at.map(|at| base.saturating_add(at));
                    self.runs.push((start.saturating_add(disk), at, shown));
                }
            }
        }
        let below = match below {
            Some(disk) => {
                let rest = disk.len().saturating_sub(start).min(len);
                let start = start.min(disk.len());
                let slice: Device = Arc::new(Slice::new(Arc::clone(disk), start, rest)?);
                Some(slice)
            }
            None => None,
        };
        Ok(Arc::new(Slice::new(extent.device(file, below), 0, len)?))
    }
}

/// A file that the descriptor names, and where it starts in the set if it is a member.
fn member(source: &Source<'_>, name: &str) -> Result<(Device, Option<u64>)> {
    Ok(match source.member(name)? {
        Some(part) => {
            let start = PartOf::start(&part);
            (Arc::new(part), Some(start))
        }
        None => (source.open_bytes(name)?, None),
    })
}

/// Extents, one behind the other.
#[derive(Debug, Default)]
struct Joined {
    /// First byte on the disk, length, and what is there; nothing is zeros.
    parts: Vec<(u64, u64, Option<Device>)>,
}

impl Joined {
    fn push(&mut self, part: Option<Device>, len: u64) -> Result<()> {
        let start = self.len();
        if start.checked_add(len).is_none() {
            return Err(Error::malformed(
                "VMDK descriptor: extents of less than 2^64 bytes expected, found more",
            ));
        }
        self.parts.push((start, len, part));
        Ok(())
    }

    /// The parts that hold `from` and what is behind it.
    fn from(&self, from: u64) -> impl Iterator<Item = &(u64, u64, Option<Device>)> {
        let first = self
            .parts
            .partition_point(|(start, len, _)| start.saturating_add(*len) <= from);
        self.parts.get(first..).unwrap_or_default().iter()
    }
}

impl BlockDevice for Joined {
    fn len(&self) -> u64 {
        self.parts
            .last()
            .map_or(0, |(start, len, _)| start.saturating_add(*len))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut at = offset;
        let mut rest = buf;
        for (start, len, part) in self.from(offset) {
            if rest.is_empty() {
                break;
            }
            let inside = at.saturating_sub(*start);
            let take = usize::try_from(len.saturating_sub(inside)).unwrap_or(usize::MAX);
            let take = take.min(rest.len());
            let (now, later) = std::mem::take(&mut rest)
                .split_at_mut_checked(take)
                .ok_or_else(|| Error::internal("disk: a piece leaves the buffer"))?;
            match part {
                Some(device) => device.read_at(inside, now)?,
                None => now.fill(0),
            }
            at = at.saturating_add(wide(take));
            rest = later;
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err(Error::malformed(format!(
                "disk: {} more bytes expected at {at:#x}, it ends there",
                rest.len()
            ))),
        }
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>> {
        for (start, _, part) in self.from(from) {
            let Some(device) = part else { continue };
            if let Some(data) = device.next_data(from.saturating_sub(*start))? {
                let disk = |at: u64| start.saturating_add(at);
                return Ok(Some(disk(data.start)..disk(data.end)));
            }
        }
        Ok(None)
    }
}
