//! A descriptor that names its extents: one disk of several files.

use std::{ops::Range, sync::Arc};

use super::{
    CONVERT, DESCRIPTOR_LIMIT, Descriptor, Disk, Extent, Laid, Places, Runs, ScanOnly, Source,
    Sparse, Stale, TO_RAW, buffer, descriptor::Line, format, next_cid, no_cid, sectors, wide,
};
use crate::{
    device::{BlockDevice, Device, PartOf, Slice},
    error::{At, Error, Result},
    text::escape,
};

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
pub(in crate::container) fn files(source: &Source<'_>) -> Result<Vec<String>> {
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

pub(super) fn open_set(source: &Source<'_>) -> Result<Disk> {
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
