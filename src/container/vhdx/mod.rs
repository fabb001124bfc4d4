//! VHDX: headers with checksums, a log, and blocks behind a table.
//!
//! # Why
//! - **Own code.** What is needed is a few hundred lines; the crates there are read only, know no
//!   chain, or do not say where in the file a byte lies (`shared/facts/containers.md` section 5).
//! - **A replay is memory until a clean settles it.** `scan` shows the disk as it is after the
//!   replay and leaves the file alone; [`Layout::settle`] writes the replay, with new headers.
//! - **The block table stays as it is.** A block that is not there is not written, so nothing has
//!   to go through the log; both headers get new identifiers once, in [`Layout::seal`].
//! - **What a block held before it was freed is nobody's.** The specification lets the contents of
//!   undefined and unmapped blocks be anything, so the disk shows zeros there, and their place in
//!   the file is loose: searched, and zeroed when an identity lies there.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use super::{
    Disk, Edges, Facts, Format, Named, Open, ScanOnly, Source, TO_RAW,
    children::Wanted,
    format::{self, vhdx as facts},
    mapped::{Extent, Layout, Place, wide, without},
};
use crate::{
    bytes::View,
    device::Device,
    error::{At, Error, Result},
    text::escape,
};

mod header;
mod log;
mod metadata;

use header::{Change, Guid, Headers, Regions};
use log::{Log, Replayed};
use metadata::{Locator, Metadata};

pub(super) const FORMAT: Format = Format {
    name: "vhdx",
    title: "a VHDX",
    probe: |edges: &Edges| {
        edges
            .has(0, format::VHDX)
            .then(|| "vhdxfile at 0x0".to_owned())
    },
    open: Open::Disk(open),
};

/// Longest block table that is read: 64 TiB in blocks of 8 MiB, 8 TiB in blocks of 1 MiB.
const TABLE_LIMIT: u64 = 64 << 20;
/// Bytes of the table read in one go.
const TABLE_STEP: u64 = 1 << 20;
/// Blocks without data that are passed over in one go.
const RUN_LIMIT: usize = 1 << 16;
/// Bytes of a bitmap looked at in one go.
const BITMAP_STEP: u64 = 512;
/// Bytes of an entry of the block table.
const ENTRY_LEN: u64 = 8;

const REPAIR: &str = "let Hyper-V repair it (open it once), or restore it from a backup";
const DAMAGED: &str = "the file is damaged: restore it from a backup";

fn creator(host: &Device) -> Result<Option<String>> {
    let len = facts::CREATOR.saturating_add(facts::CREATOR_UNITS.saturating_mul(2));
    let mut bytes = vec![0; len];
    host.read_at(0, &mut bytes)?;
    let view = View::new(&bytes, "VHDX file identifier");
    if view.get(0, format::VHDX.len())? != format::VHDX {
        return Err(
            Error::malformed("VHDX file identifier: vhdxfile expected, not found")
                .at("image offset", "0x0"),
        );
    }
    let units = view.units(facts::CREATOR, facts::CREATOR_UNITS)?;
    let text = String::from_utf16_lossy(&units);
    let text = text.split('\0').next().unwrap_or_default().trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn open(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    if host.len() < facts::MIB {
        return Err(Error::malformed(format!(
            "VHDX: at least 1 MiB expected, found {} bytes",
            host.len()
        )));
    }
    let creator = creator(host)?;
    let headers = Headers::read(host)?;
    let mut notes = Vec::new();
    let mut scan_only = None;
    let mut refuse = |reason: String, advice: &'static str| {
        scan_only.get_or_insert(ScanOnly { reason, advice });
    };
    if let Some(damaged) = &headers.damaged {
        notes.push(format!(
            "one of the two headers is damaged, the other was used: {damaged}"
        ));
    }
    let log = log::read(host, &headers.current)?;
    let (view, replay, log_fact) = match log {
        Log::Empty => (Arc::clone(host), None, "empty".to_owned()),
        Log::Lost => {
            refuse(
                "VHDX log: a sequence of valid entries expected, since the header names a log, \
                 found none"
                    .to_owned(),
                REPAIR,
            );
            (Arc::clone(host), None, "no valid entry".to_owned())
        }
        Log::Replayed(replay) => {
            let fact = match replay.entries {
                1 => "1 entry, replayed in memory".to_owned(),
                n => format!("{n} entries, replayed in memory"),
            };
            if replay.needed > host.len() {
                refuse(
                    format!(
                        "VHDX log: a file of {} bytes expected, found one of {}; declone does \
                         not make it longer",
                        replay.needed,
                        host.len()
                    ),
                    REPAIR,
                );
            }
            (replay.view(), Some(replay), fact)
        }
    };
    let (regions, damaged) = Regions::read(&view)?;
    if let Some(damaged) = damaged {
        refuse(damaged, TO_RAW);
    }
    let mut vhdx = Vhdx::open(host, &view, replay, &headers, &regions)?;
    if let Some(twice) = vhdx.overlap() {
        refuse(twice, DAMAGED);
    }
    let mut chain = Vec::new();
    if let Some(locator) = &vhdx.metadata.parent {
        let parent = open_parent(source, locator)?;
        let name = escape(&parent.name);
        if let Some(reason) = &parent.disk.scan_only {
            refuse(format!("{} (file {name})", reason.reason), reason.advice);
        }
        chain = parent.chain();
        if let Some(log) = parent.disk.facts.log.filter(|log| log != "empty") {
            notes.push(format!("the log of {name}: {log}"));
        }
        vhdx.parent = Some(parent.disk.device);
    }
    let kind = match (&vhdx.parent, vhdx.metadata.fixed) {
        (Some(_), _) => "differencing",
        (None, true) => "fixed",
        (None, false) => "dynamic",
    };
    let facts = Facts {
        kind: Some(kind.to_owned()),
        creator,
        block_size: Some(vhdx.metadata.block),
        blocks: Some(vhdx.blocks()),
        allocated: Some(wide(vhdx.order.len())),
        log: Some(log_fact),
        chain,
        id: Some(headers.current.data_write.to_string()),
        ..Facts::default()
    };
    let disk = Arc::new(vhdx);
    let mut disk = Disk::mapped(&view, disk, facts);
    disk.notes = notes;
    disk.scan_only = scan_only;
    Ok(disk)
}

/// The disk that a differencing one is the changes to.
fn open_parent(source: &Source<'_>, locator: &Locator) -> Result<Named> {
    let mut first = None;
    for name in &locator.names {
        let named = match source.open_named(name, |format| format.name == FORMAT.name) {
            Ok(named) => named,
            // Not allowed, not there, or another file of that name: the next name may do.
            Err(error) => {
                first.get_or_insert(error);
                continue;
            }
        };
        let id = named.disk.facts.id.clone().unwrap_or_default();
        if locator.linkages.contains(&id) {
            return Ok(named);
        }
        first.get_or_insert(
            Error::refused(format!(
                "VHDX: the parent {} expected, found {id}: it was changed after the differencing \
                 disk was made, or it is another one",
                locator.linkages.join(" or ")
            ))
            .at("file", escape(name))
            .advise("put the parent with which the disk was made beside it"),
        );
    }
    Err(first.unwrap_or_else(|| Error::internal("VHDX parent: no name")))
}

/// The identity of the disk that a differencing one stands on.
pub(super) fn wanted_parent(host: &Device) -> Result<Option<Wanted>> {
    let headers = Headers::read(host)?;
    let view = match log::read(host, &headers.current)? {
        Log::Replayed(replay) => replay.view(),
        Log::Empty | Log::Lost => Arc::clone(host),
    };
    let (regions, _) = Regions::read(&view)?;
    let place = regions
        .all
        .iter()
        .find(|(guid, _)| guid.0 == facts::METADATA);
    let Some((_, place)) = place else {
        return Ok(None);
    };
    let parent = Metadata::read(&view, place)?.parent;
    Ok(parent
        .and_then(|locator| locator.linkages.into_iter().next())
        .map(Wanted::Id))
}

/// The blocks of a disk.
#[derive(Debug)]
struct Vhdx {
    /// The file: what is written goes there.
    host: Device,
    /// The file after the replay of its log: what is read comes from there.
    view: Device,
    replay: Option<Replayed>,
    metadata: Metadata,
    /// Payload blocks between two entries of the sector bitmap.
    ratio: u64,
    /// The block table, with the entries of the sector bitmap.
    table: Vec<u64>,
    /// Where the table is.
    table_at: u64,
    /// Blocks in the file by their place: offset, number.
    order: Vec<(u64, u64)>,
    /// Blocks of the sector bitmap in the file.
    bitmaps: Vec<Range<u64>>,
    /// What the format keeps outside the blocks.
    own: Vec<Range<u64>>,
    parent: Option<Device>,
    /// Held while bits are set.
    gate: Mutex<()>,
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn state(entry: u64) -> u64 {
    entry & facts::STATE
}

fn offset(entry: u64) -> u64 {
    entry >> facts::OFFSET_SHIFT << facts::OFFSET_SHIFT
}

/// A bit of a bitmap: the least significant one of a byte comes first.
fn mask(at: u64) -> u8 {
    1_u8.checked_shl(u32::try_from(at % 8).unwrap_or(0))
        .unwrap_or(0)
}

fn read_table(view: &Device, at: u64, entries: u64) -> Result<Vec<u64>> {
    let len = entries.saturating_mul(ENTRY_LEN);
    if len > TABLE_LIMIT {
        return Err(Error::limit(format!(
            "VHDX block table: at most {TABLE_LIMIT} bytes expected, found {len}"
        ))
        .at("image offset", format_args!("{at:#x}"))
        .advise("convert the image to one with larger blocks, or to raw"));
    }
    let mut table = Vec::with_capacity(usize::try_from(entries).unwrap_or(0));
    let mut bytes = vec![0; usize::try_from(len.min(TABLE_STEP)).unwrap_or(0)];
    let mut done = 0;
    while done < len {
        let take = len.saturating_sub(done).min(TABLE_STEP);
        let here = at.saturating_add(done);
        bytes.truncate(usize::try_from(take).unwrap_or(0));
        view.read_at(here, &mut bytes)
            .at("image offset", format_args!("{here:#x}"))?;
        let (entries, _) = bytes.as_chunks::<8>();
        table.extend(entries.iter().map(|entry| u64::from_le_bytes(*entry)));
        done = done.saturating_add(take);
    }
    Ok(table)
}

impl Vhdx {
    fn open(
        host: &Device,
        view: &Device,
        replay: Option<Replayed>,
        headers: &Headers,
        regions: &Regions,
    ) -> Result<Self> {
        let region = |id: [u8; 16], what: &str| {
            let found = regions.all.iter().find(|(guid, _)| guid.0 == id);
            let (_, place) = found.ok_or_else(|| {
                Error::malformed(format!(
                    "VHDX region table: the {what} region expected, found none"
                ))
            })?;
            match place.end <= view.len() {
                true => Ok(place.clone()),
                false => Err(Error::malformed(format!(
                    "VHDX region table: the {what} region before {:#x} expected, found it at \
                     {:#x}, {} bytes",
                    view.len(),
                    place.start,
                    place.end.saturating_sub(place.start)
                ))),
            }
        };
        let here = format!("{:#x}", facts::REGIONS.first().copied().unwrap_or(0));
        let bat = region(facts::BAT, "block table").at("image offset", &here)?;
        let meta = region(facts::METADATA, "metadata").at("image offset", &here)?;
        // What lies behind the first MiB in places of its own.
        let front = 0..facts::MIB;
        let mut own = vec![front];
        let log_place = &headers.current.log_place;
        let all = regions.all.iter().map(|(guid, place)| (*guid, place));
        for (guid, place) in all.chain([(Guid::ZERO, log_place)]) {
            if own.iter().any(|known| overlaps(known, place)) {
                let what = match guid {
                    Guid::ZERO => "the log".to_owned(),
                    guid => format!("region {guid}"),
                };
                return Err(Error::malformed(format!(
                    "VHDX: a place of its own expected for {what}, found it at {:#x}, on another \
                     structure",
                    place.start
                ))
                .at("image offset", &here));
            }
            own.push(place.clone());
        }
        let metadata = Metadata::read(view, &meta)?;
        let chunk = facts::CHUNK_SECTORS.saturating_mul(metadata.sector);
        let ratio = chunk.checked_div(metadata.block).unwrap_or(0).max(1);
        let blocks = metadata.len.div_ceil(metadata.block);
        let entries = match metadata.parent {
            None => blocks.saturating_add(blocks.saturating_sub(1).checked_div(ratio).unwrap_or(0)),
            Some(_) => blocks
                .div_ceil(ratio)
                .saturating_mul(ratio.saturating_add(1)),
        };
        if entries.saturating_mul(ENTRY_LEN) > bat.end.saturating_sub(bat.start) {
            return Err(Error::malformed(format!(
                "VHDX block table: a region for {entries} entries expected, found one of {} bytes",
                bat.end.saturating_sub(bat.start)
            ))
            .at("image offset", format_args!("{:#x}", bat.start)));
        }
        let mut vhdx = Self {
            host: Arc::clone(host),
            view: Arc::clone(view),
            replay,
            ratio,
            table: read_table(view, bat.start, entries)?,
            table_at: bat.start,
            metadata,
            order: Vec::new(),
            bitmaps: Vec::new(),
            own,
            parent: None,
            gate: Mutex::new(()),
        };
        vhdx.check_table()?;
        Ok(vhdx)
    }

    /// Goes through the block table once: every place is inside the file and on no structure.
    fn check_table(&mut self) -> Result<()> {
        let group = self.ratio.saturating_add(1);
        let limit = self.view.len();
        let mut unused = Vec::new();
        for (index, entry) in (0_u64..).zip(&self.table) {
            // Most of a large table is zeros.
            if *entry == 0 {
                continue;
            }
            let chunk = index.checked_div(group).unwrap_or(0);
            let inside = index.checked_rem(group).unwrap_or(0);
            let is_bitmap = inside == self.ratio;
            let number = chunk.saturating_mul(self.ratio).saturating_add(inside);
            let wrong = |expected: &str, found: String| {
                let what = match is_bitmap {
                    true => format!("bitmap {chunk}"),
                    false => format!("block {number}"),
                };
                let at = self
                    .table_at
                    .saturating_add(index.saturating_mul(ENTRY_LEN));
                Err(Error::malformed(format!(
                    "VHDX block table: {what}: {expected} expected, found {found}"
                ))
                .at("image offset", format_args!("{at:#x}")))
            };
            let state = state(*entry);
            let present = match (is_bitmap, state) {
                (true, facts::PRESENT) | (false, facts::PRESENT) => true,
                (true, facts::NOT_PRESENT) => false,
                (true, state) => return wrong("state 0 or 6", format!("{state}")),
                (false, facts::PARTIAL) if self.metadata.parent.is_some() => true,
                (false, facts::PARTIAL) => {
                    return wrong("state 0, 1, 2, 3 or 6 without a parent", format!("{state}"));
                }
                (
                    false,
                    facts::NOT_PRESENT
                    | facts::UNDEFINED
                    | facts::ZERO
                    | facts::UNMAPPED
                    | facts::UNMAPPED_DRAFT,
                ) => false,
                (false, state) => return wrong("a known state", format!("{state}")),
            };
            if !present {
                continue;
            }
            let start = offset(*entry);
            let place = match is_bitmap {
                true => start..start.saturating_add(facts::BITMAP_LEN),
                false => start..start.saturating_add(self.shown(number)),
            };
            if place.end > limit {
                return wrong(
                    &format!("a place before {limit:#x}"),
                    format!("its end at {:#x}", place.end),
                );
            }
            if let Some(other) = self.own.iter().find(|own| overlaps(own, &place)) {
                return wrong(
                    "a place of its own",
                    format!(
                        "{start:#x}, where the file's structure at {:#x} is",
                        other.start
                    ),
                );
            }
            match is_bitmap {
                true => self.bitmaps.push(place),
                // Behind the end of the disk: it means nothing, and is somebody's all the same.
                false if place.is_empty() => {
                    unused.push(start..start.saturating_add(self.metadata.block))
                }
                false => self.order.push((start, number)),
            }
        }
        self.own.extend(unused);
        self.order.sort_unstable();
        self.bitmaps.sort_unstable_by_key(|place| place.start);
        let needs_bits = |entry: &u64| state(*entry) == facts::PARTIAL;
        for (_, number) in &self.order {
            let index = self.index(*number);
            let entry = self.entry(*number);
            if needs_bits(&entry) && self.bitmap_of(*number).is_none() {
                let at = self
                    .table_at
                    .saturating_add(index.saturating_mul(ENTRY_LEN));
                return Err(Error::malformed(format!(
                    "VHDX block table: block {number}: a sector bitmap expected for a block that \
                     is there in part, found none"
                ))
                .at("image offset", format_args!("{at:#x}")));
            }
        }
        Ok(())
    }

    fn blocks(&self) -> u64 {
        self.metadata.len.div_ceil(self.metadata.block)
    }

    /// Bytes of the disk in a block: the last one may be short.
    fn shown(&self, number: u64) -> u64 {
        let start = number.saturating_mul(self.metadata.block);
        self.metadata
            .len
            .saturating_sub(start)
            .min(self.metadata.block)
    }

    /// Where the entry of a block is in the table.
    fn index(&self, number: u64) -> u64 {
        number.saturating_add(number.checked_div(self.ratio).unwrap_or(0))
    }

    fn at_index(&self, index: u64) -> u64 {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.table.get(index))
            .copied()
            .unwrap_or(0)
    }

    fn entry(&self, number: u64) -> u64 {
        self.at_index(self.index(number))
    }

    /// The file's place of a block, if the file has it.
    fn place_of(&self, number: u64) -> Option<u64> {
        let entry = self.entry(number);
        matches!(state(entry), facts::PRESENT | facts::PARTIAL).then(|| offset(entry))
    }

    /// The file's place of the bits of a block.
    fn bitmap_of(&self, number: u64) -> Option<u64> {
        let chunk = number.checked_div(self.ratio)?;
        let index = chunk
            .checked_mul(self.ratio.checked_add(1)?)?
            .checked_add(self.ratio)?;
        let entry = self.at_index(index);
        let bytes = self.metadata.block.checked_div(self.metadata.sector)? / 8;
        let inside = number.checked_rem(self.ratio)?.checked_mul(bytes)?;
        (state(entry) == facts::PRESENT).then(|| offset(entry).saturating_add(inside))
    }

    /// Block number and byte in the block.
    fn split(&self, at: u64) -> Result<(u64, u64)> {
        match (
            at.checked_div(self.metadata.block),
            at.checked_rem(self.metadata.block),
        ) {
            (Some(number), Some(inside)) if at < self.metadata.len => Ok((number, inside)),
            _ => Err(Error::malformed(format!(
                "VHDX: a byte before {:#x} expected, found {at:#x}",
                self.metadata.len
            ))),
        }
    }

    /// Two things in one place, if there are such.
    fn overlap(&self) -> Option<String> {
        // Few bitmaps among many blocks: one list, sorted once more.
        let mut all: Vec<(Range<u64>, Option<u64>)> = self
            .order
            .iter()
            .map(|(start, number)| (self.block_place(*start, *number), Some(*number)))
            .chain(self.bitmaps.iter().map(|place| (place.clone(), None)))
            .collect();
        all.sort_unstable_by_key(|(place, _)| place.start);
        let name = |number: &Option<u64>| match number {
            Some(number) => format!("block {number}"),
            None => "a bitmap".to_owned(),
        };
        all.windows(2).find_map(|pair| match pair {
            [(a, first), (b, second)] if overlaps(a, b) => Some(format!(
                "VHDX block table: a place for each block expected, found {} and {} in one \
                 (image offset {:#x})",
                name(first),
                name(second),
                b.start
            )),
            _ => None,
        })
    }

    /// The place of a block, whole: as far as the file reaches.
    fn block_place(&self, start: u64, number: u64) -> Range<u64> {
        let shown = start.saturating_add(self.shown(number));
        let whole = start.saturating_add(self.metadata.block);
        start..whole.min(self.view.len()).max(shown)
    }

    /// The blocks that lie in a range of the file, and their numbers.
    fn blocks_in(&self, file: &Range<u64>) -> impl Iterator<Item = (Range<u64>, u64)> {
        // Blocks do not overlap where anything is written: the one before may still reach in.
        let from = self
            .order
            .partition_point(|(start, _)| *start <= file.start)
            .saturating_sub(1);
        let end = file.end;
        let behind = self.order.get(from..).unwrap_or_default();
        behind
            .iter()
            .take_while(move |(start, _)| *start < end)
            .map(|(start, number)| (self.block_place(*start, *number), *number))
    }

    /// Whether a sector of a block comes from the file, and how many behind it, up to `end`, are
    /// alike.
    fn run(&self, bitmap: u64, sector: u64, end: u64) -> Result<(bool, u64)> {
        let first = sector & !7;
        let end = end.min(first.saturating_add(BITMAP_STEP.saturating_mul(8)));
        let len = end.div_ceil(8).saturating_sub(first / 8);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let at = bitmap.saturating_add(first / 8);
        self.view
            .read_at(at, &mut bytes)
            .at("image offset", format_args!("{at:#x}"))?;
        let set = |at: u64| {
            usize::try_from(at.saturating_sub(first) / 8)
                .ok()
                .and_then(|index| bytes.get(index))
                .is_some_and(|byte| byte & mask(at) != 0)
        };
        let shown = set(sector);
        let run = (sector..end).take_while(|at| set(*at) == shown).count();
        Ok((shown, wide(run)))
    }

    /// Writes new headers.
    fn write_headers(&self, change: Change) -> Result<()> {
        let headers = Headers::read(&self.host)?;
        for (at, bytes) in headers.next(change, &self.host.change_digest()?)? {
            self.host
                .write_at(at, &bytes)
                .at("image offset", format_args!("{at:#x}"))?;
        }
        Ok(())
    }
}

impl Layout for Vhdx {
    fn disk_len(&self) -> u64 {
        self.metadata.len
    }

    fn extent(&self, at: u64) -> Result<Extent> {
        let (number, inside) = self.split(at)?;
        let entry = self.entry(number);
        let shown = self.shown(number);
        let rest = shown.saturating_sub(inside);
        let here = offset(entry).saturating_add(inside);
        match state(entry) {
            facts::PRESENT => Ok(Extent {
                place: Place::File(here),
                len: rest,
            }),
            facts::PARTIAL => {
                let bitmap = self
                    .bitmap_of(number)
                    .ok_or_else(|| Error::internal("VHDX: a block without its bitmap"))?;
                let size = self.metadata.sector;
                let sector = inside.checked_div(size).unwrap_or(0);
                let (set, run) = self.run(bitmap, sector, shown.div_ceil(size))?;
                let end = sector.saturating_add(run).saturating_mul(size);
                Ok(Extent {
                    place: match set {
                        true => Place::File(here),
                        false => Place::Hidden(here),
                    },
                    len: end.saturating_sub(inside).min(rest),
                })
            }
            kind => {
                let absent = |entry: u64| state(entry) == facts::NOT_PRESENT;
                let end = self.blocks();
                let run = (number..end)
                    .take(RUN_LIMIT)
                    .take_while(|other| {
                        let other = self.entry(*other);
                        absent(other) == absent(entry)
                            && !matches!(state(other), facts::PRESENT | facts::PARTIAL)
                    })
                    .count();
                let stop = number
                    .saturating_add(wide(run))
                    .saturating_mul(self.metadata.block)
                    .min(self.metadata.len);
                Ok(Extent {
                    place: match kind {
                        facts::NOT_PRESENT => Place::Absent,
                        _ => Place::Zero,
                    },
                    len: stop.saturating_sub(at),
                })
            }
        }
    }

    fn reveal(&self, at: u64, len: u64) -> Result<()> {
        let (number, inside) = self.split(at)?;
        let none = || Error::internal("VHDX: a block that is not there in part cannot be shown");
        let start = self.place_of(number).ok_or_else(none)?;
        let bitmap = self.bitmap_of(number).ok_or_else(none)?;
        let parent = self.parent.as_ref().ok_or_else(none)?;
        let _held = self
            .gate
            .lock()
            .map_err(|_| Error::internal("VHDX bitmap: lock poisoned"))?;
        let size = self.metadata.sector;
        let first = inside.checked_div(size).unwrap_or(0);
        let end = inside.saturating_add(len).div_ceil(size);
        for sector in first..end {
            let byte_at = bitmap.saturating_add(sector / 8);
            let mut byte = [0];
            self.host.read_at(byte_at, &mut byte)?;
            let [old] = byte;
            if old & mask(sector) != 0 {
                // Another thread was here first, and what it wrote stays.
                continue;
            }
            let from = sector.saturating_mul(size);
            let disk = number
                .saturating_mul(self.metadata.block)
                .saturating_add(from);
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
            // The parent may be shorter: there the disk shows zeros.
            let there = usize::try_from(parent.len().saturating_sub(disk))
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            if let Some(part) = bytes.get_mut(..there)
                && !part.is_empty()
            {
                parent.read_at(disk, part)?;
            }
            self.host.write_at(start.saturating_add(from), &bytes)?;
            self.host.write_at(byte_at, &[old | mask(sector)])?;
        }
        Ok(())
    }

    fn below(&self) -> Option<&Device> {
        self.parent.as_ref()
    }

    fn settle(&self) -> Result<()> {
        let Some(replay) = &self.replay else {
            return Ok(());
        };
        if replay.needed > self.host.len() {
            return Err(Error::refused(
                "VHDX log: a log that fits into the file expected, found one that needs a longer \
                 file",
            )
            .advise(REPAIR));
        }
        replay.write(&self.host)?;
        self.write_headers(Change::Replayed)
    }

    fn seal(&self) -> Result<()> {
        if self.replay.is_some() {
            return Err(Error::internal("VHDX: sealed before its log was settled"));
        }
        self.write_headers(Change::Disk)
    }

    fn file_offset(&self, disk: u64) -> Option<u64> {
        let (number, inside) = self.split(disk).ok()?;
        self.place_of(number)?.checked_add(inside)
    }

    fn disk_offset(&self, file: u64) -> Option<u64> {
        let range = file..file.checked_add(1)?;
        let disk = self.disk_ranges(&range).first()?.start;
        matches!(self.extent(disk).ok()?.place, Place::File(_)).then_some(disk)
    }

    fn disk_ranges(&self, file: &Range<u64>) -> Vec<Range<u64>> {
        let mut out = Vec::new();
        for (place, number) in self.blocks_in(file) {
            let data_end = place.start.saturating_add(self.shown(number));
            let (start, end) = (place.start.max(file.start), data_end.min(file.end));
            if start < end {
                let base = number.saturating_mul(self.metadata.block);
                let disk = |at: u64| base.saturating_add(at.saturating_sub(place.start));
                out.push(disk(start)..disk(end));
            }
        }
        out
    }

    fn loose(&self, file: &Range<u64>) -> Vec<Range<u64>> {
        let blocks = self.blocks_in(file).map(|(place, _)| place);
        let fixed = self.own.iter().chain(&self.bitmaps).cloned();
        let mut loose = without(file, fixed.chain(blocks));
        // What lies under a clear bit: the parent's sectors are shown there.
        for disk in self.disk_ranges(file) {
            let mut at = disk.start;
            while at < disk.end {
                let Ok(extent) = self.extent(at) else { break };
                let len = extent.len.min(disk.end.saturating_sub(at)).max(1);
                if let Place::Hidden(from) = extent.place {
                    loose.push(from..from.saturating_add(len));
                }
                at = at.saturating_add(len);
            }
        }
        loose
    }

    fn seams(&self) -> Vec<u64> {
        let mut out = Vec::new();
        let mut last = None;
        let mut at = 0;
        while let Ok(extent) = self.extent(at) {
            let here = match extent.place {
                Place::File(here) => Some(here),
                _ => None,
            };
            if here.is_some() && last.is_some() && last != here {
                out.push(at);
            }
            last = here.and_then(|here| here.checked_add(extent.len));
            at = at.saturating_add(extent.len);
        }
        out
    }
}
