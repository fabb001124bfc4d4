//! VHD: a footer behind the disk (fixed), or blocks with sector bitmaps behind a table (dynamic).
//!
//! # Why
//! - **current_size is the length.** The geometry rounds it, and only qemu goes by it, for images of
//!   some creators (`shared/facts/containers.md` section 4).
//! - **A clear bit reads as zeros.** Readers disagree (libvhdi and 7-Zip: zeros; qemu and dissect:
//!   what lies there). The specification's words are followed; a write sets the bit.
//! - **The footer at the end decides.** A guest owns the first sector of a fixed disk and can write
//!   a "footer" there; the last 512 bytes of the file are out of its reach.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use super::{
    Disk, Edges, Facts, Format, Named, Open, ScanOnly, Source, TO_RAW,
    children::Wanted,
    format::{self, SECTOR, vhd as facts},
    mapped::{Extent, Layout, Place, wide, without},
};
use crate::{
    bytes::View,
    device::{Device, Slice},
    error::{At, Error, Result},
    text::escape,
};

pub(super) const FORMAT: Format = Format {
    name: "vhd",
    title: "a VHD",
    probe: |edges: &Edges| {
        let end = format::VHD_FOOTERS
            .into_iter()
            .find(|distance| edges.has_before_end(*distance, format::VHD))
            .map(|distance| format!("conectix {distance} bytes before the end"));
        let front = edges
            .has(0, format::VHD)
            .then(|| "conectix at 0x0".to_owned());
        match (front, end) {
            (Some(front), Some(end)) => Some(format!("{front} and {end}")),
            (front, end) => front.or(end),
        }
    },
    open: Open::Disk(open),
};

/// Longest block table that is read: 2 TiB, the most the format can address, in blocks of 512 KiB,
/// the smallest that programs make.
const TABLE_LIMIT: u64 = 16 << 20;
/// Bytes of a bitmap looked at in one go: the sectors of 2 MiB.
const BITMAP_STEP: u64 = 512;

/// What kind of disk a footer speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// A footer with a right checksum.
#[derive(Clone, Debug)]
struct Footer {
    bytes: Vec<u8>,
    kind: Kind,
    current_size: u64,
    data_offset: u64,
    creator: String,
    saved_state: bool,
    uuid: [u8; 16],
}

fn be32(view: &View<'_>, at: usize) -> Result<u32> {
    Ok(u32::from_be_bytes(view.array(at)?))
}

fn be64(view: &View<'_>, at: usize) -> Result<u64> {
    Ok(u64::from_be_bytes(view.array(at)?))
}

/// The ones' complement of the sum of all bytes but those of the checksum itself.
fn checksum(bytes: &[u8], field: usize) -> u32 {
    let own = field..field.saturating_add(4);
    !bytes
        .iter()
        .enumerate()
        .filter(|(at, _)| !own.contains(at))
        .fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

fn check_sum(view: &View<'_>, field: usize) -> Result<()> {
    let (want, is) = (checksum(view.bytes(), field), be32(view, field)?);
    if want == is {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "{}: checksum {want:#010x} expected, found {is:#010x}",
        view.what()
    )))
}

fn check_version(view: &View<'_>, field: usize) -> Result<()> {
    let version = be32(view, field)?;
    if version >> 16 == facts::MAJOR {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{}: version 1.x expected, found {version:#010x}",
        view.what()
    )))
}

impl Footer {
    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let view = View::new(&bytes, "VHD footer");
        if view.get(0, format::VHD.len())? != format::VHD {
            return Err(Error::malformed("VHD footer: conectix expected, not found"));
        }
        check_sum(&view, facts::CHECKSUM)?;
        check_version(&view, facts::VERSION)?;
        let kind = match be32(&view, facts::TYPE)? {
            facts::FIXED => Kind::Fixed,
            facts::DYNAMIC => Kind::Dynamic,
            facts::DIFFERENCING => Kind::Differencing,
            other => {
                return Err(Error::malformed(format!(
                    "VHD footer: disk type 2, 3 or 4 expected, found {other}"
                )));
            }
        };
        let current_size = be64(&view, facts::CURRENT_SIZE)?;
        if current_size == 0 || !current_size.is_multiple_of(SECTOR) {
            return Err(Error::malformed(format!(
                "VHD footer: a current size in whole sectors expected, found {current_size}"
            )));
        }
        let creator = String::from_utf8_lossy(view.get(facts::CREATOR, 4)?)
            .trim_end_matches(['\0', ' '])
            .to_owned();
        Ok(Self {
            kind,
            current_size,
            data_offset: be64(&view, facts::DATA_OFFSET)?,
            creator,
            saved_state: view.u8(facts::SAVED_STATE)? != 0,
            uuid: view.array(facts::UUID)?,
            bytes,
        })
    }
}

/// The footer at `at`, if its cookie is there; 511 bytes are one with its last byte left out.
fn footer_at(host: &Device, at: u64, len: usize) -> Result<Option<Result<Footer>>> {
    let mut bytes = vec![0; facts::FOOTER_LEN];
    let Some(place) = bytes.get_mut(..len) else {
        return Err(Error::internal("VHD footer: its length"));
    };
    host.read_at(at, place)?;
    if !bytes.starts_with(format::VHD) {
        return Ok(None);
    }
    Ok(Some(
        Footer::parse(bytes).at("image offset", format_args!("{at:#x}")),
    ))
}

/// What the ends of the file say.
struct Found {
    footer: Footer,
    /// Where the disk's own bytes must end.
    limit: u64,
    scan_only: Option<ScanOnly>,
    notes: Vec<String>,
}

const REPAIR: &str = TO_RAW;

fn find_footer(host: &Device) -> Result<Found> {
    let len = host.len();
    let mut end = None;
    for distance in format::VHD_FOOTERS {
        let at = len.checked_sub(wide(distance));
        if let Some(at) = at
            && let Some(footer) = footer_at(host, at, distance)?
        {
            end = Some((at, distance, footer));
            break;
        }
    }
    let front = footer_at(host, 0, facts::FOOTER_LEN)?;
    let mut notes = Vec::new();
    let damaged = match end {
        Some((limit, distance, Ok(footer))) => {
            if distance < facts::FOOTER_LEN {
                notes.push("a footer of 511 bytes, as Virtual PC before 2004 wrote it".to_owned());
            }
            let scan_only = match (&footer.kind, front) {
                (Kind::Fixed, _) => None,
                (_, Some(Ok(copy))) if copy.bytes == footer.bytes => None,
                (_, Some(Ok(copy)))
                    if (copy.kind, copy.current_size, copy.data_offset)
                        != (footer.kind, footer.current_size, footer.data_offset) =>
                {
                    return Err(Error::malformed(format!(
                        "VHD footer: the same disk in both copies expected, found {:?} of {} bytes \
                         at the front and {:?} of {} bytes at the end",
                        copy.kind, copy.current_size, footer.kind, footer.current_size
                    ))
                    .at("image offset", "0x0"));
                }
                (_, Some(Ok(_))) => Some("another copy of the footer at the front"),
                (_, Some(Err(_))) => Some("a damaged copy of the footer at the front"),
                (_, None) => Some("no copy of the footer at the front"),
            };
            return Ok(Found {
                scan_only: scan_only.map(|what| ScanOnly {
                    reason: format!(
                        "VHD footer: the same bytes at both ends expected, found {what}"
                    ),
                    advice: REPAIR,
                }),
                footer,
                limit,
                notes,
            });
        }
        Some((_, _, Err(error))) => Some(error),
        None => None,
    };
    match (front, damaged) {
        (Some(Ok(footer)), damaged) if footer.kind != Kind::Fixed => {
            let found = damaged.map_or_else(|| "none".to_owned(), |error| error.to_string());
            Ok(Found {
                footer,
                limit: len,
                scan_only: Some(ScanOnly {
                    reason: format!(
                        "VHD footer: one at the end of the file expected, found {found}; its copy \
                         at the front is good and was read"
                    ),
                    advice: REPAIR,
                }),
                notes,
            })
        }
        (_, Some(damaged)) => Err(damaged),
        (Some(Err(error)), None) => Err(error),
        _ => Err(Error::malformed(
            "VHD footer: one in the last 512 bytes expected, found none",
        )),
    }
}

fn open(source: &Source<'_>) -> Result<Disk> {
    let host = source.host;
    let Found {
        footer,
        limit,
        mut scan_only,
        mut notes,
    } = find_footer(host)?;
    if footer.saved_state {
        scan_only = Some(ScanOnly {
            reason: "VHD footer: a machine that was shut down expected, found a saved state"
                .to_owned(),
            advice: "start the machine and shut it down, or discard its saved state",
        });
    }
    let mut disk = match footer.kind {
        Kind::Fixed => {
            if footer.current_size > limit {
                return Err(Error::malformed(format!(
                    "VHD footer: a disk of at most {limit} bytes expected in this file, found a \
                     current size of {}",
                    footer.current_size
                )));
            }
            if footer.current_size < limit {
                notes.push(format!(
                    "the disk ends {} bytes before the footer",
                    limit.saturating_sub(footer.current_size)
                ));
            }
            Disk::plain(Arc::new(Slice::new(
                Arc::clone(host),
                0,
                footer.current_size,
            )?))
        }
        Kind::Dynamic | Kind::Differencing => {
            let mut dynamic = Dynamic::open(host, &footer, limit)?;
            let mut chain = Vec::new();
            if footer.kind == Kind::Differencing {
                let parent = open_parent(source, &footer)?;
                chain = parent.chain();
                dynamic.below = Some(parent.disk.device);
            }
            if let Some(twice) = dynamic.overlap()
                && scan_only.is_none()
            {
                scan_only = Some(twice);
            }
            let facts = Facts {
                block_size: Some(dynamic.block),
                blocks: Some(wide(dynamic.table.len())),
                allocated: Some(wide(dynamic.order.len())),
                chain,
                ..Facts::default()
            };
            Disk::mapped(host, Arc::new(dynamic), facts)
        }
    };
    disk.facts.kind = Some(
        match footer.kind {
            Kind::Fixed => "fixed",
            Kind::Dynamic => "dynamic",
            Kind::Differencing => "differencing",
        }
        .to_owned(),
    );
    disk.facts.creator = Some(footer.creator);
    disk.facts.id = Some(hex::encode(footer.uuid));
    disk.notes = notes;
    disk.scan_only = scan_only;
    Ok(disk)
}

/// The disk that a differencing one is the changes to.
fn open_parent(source: &Source<'_>, footer: &Footer) -> Result<Named> {
    let at = footer.data_offset;
    let mut bytes = vec![0; facts::HEADER_BYTES];
    source.host.read_at(at, &mut bytes)?;
    let view = View::new(&bytes, "VHD dynamic header");
    let wanted = hex::encode(view.get(facts::PARENT_UUID, 16)?);
    let mut names = Vec::new();
    for code in [facts::RELATIVE, facts::ABSOLUTE] {
        for locator in locators(&view)?.iter().filter(|one| one.code == code) {
            names.push(locator.path(source.host)?);
        }
    }
    let (name, _) = view
        .get(facts::PARENT_NAME, facts::PARENT_NAME_LEN)?
        .as_chunks::<2>();
    names.push(text_of(name.iter().map(|pair| u16::from_be_bytes(*pair))));
    // The relative path is the one that moves with the files; the others name a place on the machine
    // where the disk was made.
    let mut first = None;
    for name in names.iter().filter(|name| !name.is_empty()) {
        match source.open_named(name, |format| format.name == FORMAT.name) {
            Ok(parent) if parent.disk.facts.id.as_ref() == Some(&wanted) => return Ok(parent),
            Ok(parent) => {
                let found = parent.disk.facts.id.unwrap_or_default();
                first.get_or_insert(
                    Error::refused(format!(
                        "VHD: the parent {wanted} expected, found another disk, {found}"
                    ))
                    .at("file", escape(name))
                    .advise("put the parent with which the disk was made beside it"),
                );
            }
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first
        .unwrap_or_else(|| Error::malformed("VHD: the name of its parent expected, found none"))
        .at("image offset", format_args!("{at:#x}")))
}

/// The identity of the disk that a differencing one stands on.
pub(super) fn wanted_parent(host: &Device) -> Result<Option<Wanted>> {
    let Found { footer, .. } = find_footer(host)?;
    if footer.kind != Kind::Differencing {
        return Ok(None);
    }
    let mut bytes = vec![0; facts::HEADER_BYTES];
    host.read_at(footer.data_offset, &mut bytes)?;
    let view = View::new(&bytes, "VHD dynamic header");
    let wanted = view.get(facts::PARENT_UUID, 16)?;
    Ok(Some(Wanted::Id(hex::encode(wanted))))
}

/// Where a differencing disk says that its parent is.
struct Locator {
    code: [u8; 4],
    space: u64,
    len: u32,
    offset: u64,
}

fn locators(header: &View<'_>) -> Result<Vec<Locator>> {
    (0..facts::LOCATOR_COUNT)
        .map(|index| {
            let at = facts::LOCATOR_LEN
                .saturating_mul(index)
                .saturating_add(facts::LOCATORS);
            let one = View::new(header.get(at, facts::LOCATOR_LEN)?, "VHD parent locator");
            let space = u64::from(be32(&one, facts::LOCATOR_SPACE)?);
            let len = be32(&one, facts::LOCATOR_TEXT)?;
            Ok(Locator {
                code: one.array(0)?,
                // Some programs count it in sectors.
                space: match space < u64::from(len) {
                    true => space.saturating_mul(SECTOR),
                    false => space,
                },
                len,
                offset: be64(&one, facts::LOCATOR_OFFSET)?,
            })
        })
        .collect()
}

impl Locator {
    fn path(&self, host: &Device) -> Result<String> {
        if self.len > facts::MAX_PATH {
            return Err(Error::limit(format!(
                "VHD parent locator: at most {} bytes expected, found {}",
                facts::MAX_PATH,
                self.len
            )));
        }
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        host.read_at(self.offset, &mut bytes)
            .at("image offset", format_args!("{:#x}", self.offset))?;
        let (units, _) = bytes.as_chunks::<2>();
        Ok(text_of(units.iter().map(|pair| u16::from_le_bytes(*pair))))
    }
}

/// Text up to the first zero.
fn text_of(units: impl Iterator<Item = u16>) -> String {
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

/// What is known of a block's bitmap. Bits are set, never cleared: `FULL` stays right.
const UNKNOWN: u8 = 0;
const FULL: u8 = 1;
const PARTIAL: u8 = 2;

/// The blocks of a dynamic disk.
#[derive(Debug)]
struct Dynamic {
    host: Device,
    len: u64,
    /// Bytes of the disk in a block: a power of two.
    block: u64,
    /// Bytes of the bitmap before the data of a block.
    bitmap: u64,
    /// For each block of the disk: the sector of its bitmap, or [`facts::ABSENT`].
    table: Vec<u32>,
    /// Allocated blocks by their place in the file: sector, number.
    order: Vec<(u32, u32)>,
    /// What is known of each block's bitmap.
    bits: Vec<AtomicU8>,
    /// Held while bits are set.
    gate: Mutex<()>,
    /// What the format keeps outside the blocks: footers, header, table. Ascending.
    own: Vec<Range<u64>>,
    /// The parent's disk, if this one is the changes to it.
    below: Option<Device>,
}

/// A piece of the file that is spoken for.
fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// `len` bytes at `at`, whole sectors behind the front footer, inside the file.
fn piece(what: &str, at: u64, len: u64, limit: u64) -> Result<Range<u64>> {
    let end = at.checked_add(len).filter(|end| *end <= limit);
    match end {
        Some(end) if at >= SECTOR && at.is_multiple_of(SECTOR) => Ok(at..end),
        _ => Err(Error::malformed(format!(
            "{what}: {len} bytes between {SECTOR:#x} and {limit:#x} expected, in whole sectors, \
             found them at {at:#x}"
        ))),
    }
}

impl Dynamic {
    fn open(host: &Device, footer: &Footer, limit: u64) -> Result<Self> {
        let head = piece(
            "VHD dynamic header",
            footer.data_offset,
            facts::HEADER_LEN,
            limit,
        )?;
        let here = format!("{:#x}", head.start);
        let mut bytes = vec![0; facts::HEADER_BYTES];
        host.read_at(head.start, &mut bytes)?;
        let view = View::new(&bytes, "VHD dynamic header");
        if view.get(0, facts::HEADER.len())? != facts::HEADER {
            return Err(
                Error::malformed("VHD dynamic header: cxsparse expected, not found")
                    .at("image offset", here),
            );
        }
        check_sum(&view, facts::HEADER_CHECKSUM).at("image offset", &here)?;
        check_version(&view, facts::HEADER_VERSION).at("image offset", &here)?;
        let block = u64::from(be32(&view, facts::BLOCK_SIZE)?);
        if !block.is_power_of_two() || block < facts::MIN_BLOCK {
            return Err(Error::malformed(format!(
                "VHD dynamic header: a block size that is a power of two of at least {} expected, \
                 found {block}",
                facts::MIN_BLOCK
            ))
            .at("image offset", here));
        }
        let entries = u64::from(be32(&view, facts::MAX_ENTRIES)?);
        let needed = footer.current_size.div_ceil(block);
        if entries < needed {
            return Err(Error::malformed(format!(
                "VHD dynamic header: {needed} table entries expected for {} bytes, found {entries}",
                footer.current_size
            ))
            .at("image offset", here));
        }
        let table_at = be64(&view, facts::TABLE_OFFSET)?;
        let own = piece(
            "VHD block table",
            table_at,
            entries.saturating_mul(facts::ENTRY_LEN),
            limit,
        )
        .at("image offset", &here)?;
        if overlaps(&own, &head) {
            return Err(Error::malformed(
                "VHD block table: a place of its own expected, found it on the header",
            )
            .at("image offset", format_args!("{table_at:#x}")));
        }
        let table = read_table(host, table_at, needed)?;
        let bitmap = (block / facts::BITMAP_RATIO).next_multiple_of(SECTOR);
        let mut dynamic = Self {
            host: Arc::clone(host),
            len: footer.current_size,
            block,
            bitmap,
            order: Vec::new(),
            bits: table.iter().map(|_| AtomicU8::new(UNKNOWN)).collect(),
            table,
            gate: Mutex::new(()),
            own: vec![0..SECTOR, head.clone(), own.clone(), limit..host.len()],
            below: None,
        };
        if footer.kind == Kind::Differencing {
            dynamic.own.extend(locators(&view)?.iter().map(|one| {
                one.offset..one.offset.saturating_add(one.space.max(u64::from(one.len)))
            }));
        }
        for (number, sector) in (0_u32..).zip(&dynamic.table) {
            if *sector == facts::ABSENT {
                continue;
            }
            let place = dynamic.block_place(number, *sector);
            let wrong = if place.end > limit {
                Some(format!("its end at {:#x}", place.end))
            } else if place.start < SECTOR {
                Some("it on the footer's copy".to_owned())
            } else if overlaps(&place, &head) {
                Some("it on the header".to_owned())
            } else if overlaps(&place, &own) {
                Some("it on the block table".to_owned())
            } else {
                None
            };
            if let Some(wrong) = wrong {
                return Err(Error::malformed(format!(
                    "VHD block table: block {number} in a place of its own before {limit:#x} \
                     expected, found {wrong}"
                ))
                .at(
                    "image offset",
                    format_args!(
                        "{:#x}",
                        table_at.saturating_add(u64::from(number).saturating_mul(facts::ENTRY_LEN))
                    ),
                ));
            }
            dynamic.order.push((*sector, number));
        }
        dynamic.order.sort_unstable();
        Ok(dynamic)
    }

    /// Bitmap and data of a block, as far as the disk reaches.
    fn block_place(&self, number: u32, sector: u32) -> Range<u64> {
        let start = u64::from(sector).saturating_mul(SECTOR);
        let end = start
            .saturating_add(self.bitmap)
            .saturating_add(self.shown(number));
        start..end
    }

    /// Bytes of the disk in a block: the last one may be short.
    fn shown(&self, number: u32) -> u64 {
        let start = u64::from(number).saturating_mul(self.block);
        self.len.saturating_sub(start).min(self.block)
    }

    /// Two blocks in one place, if there are such.
    fn overlap(&self) -> Option<ScanOnly> {
        let mut last: Option<(u64, u32)> = None;
        for (sector, number) in &self.order {
            let place = self.block_place(*number, *sector);
            if let Some((end, other)) = last
                && place.start < end
            {
                return Some(ScanOnly {
                    reason: format!(
                        "VHD block table: a place for each block expected, found blocks {other} \
                         and {number} in one (image offset {:#x})",
                        place.start
                    ),
                    advice: "the file is damaged: restore it from a backup",
                });
            }
            last = Some((place.end, *number));
        }
        None
    }

    /// Block number and byte in the block.
    fn split(&self, at: u64) -> Result<(u32, u64)> {
        let number = at.checked_div(self.block).unwrap_or(u64::MAX);
        let inside = at.checked_rem(self.block).unwrap_or(0);
        match u32::try_from(number) {
            Ok(number) if at < self.len => Ok((number, inside)),
            _ => Err(Error::malformed(format!(
                "VHD: a byte before {:#x} expected, found {at:#x}",
                self.len
            ))),
        }
    }

    /// The file's place of a block's bitmap, if it is allocated.
    fn sector_of(&self, number: u32) -> Option<u64> {
        let sector = usize::try_from(number)
            .ok()
            .and_then(|index| self.table.get(index))?;
        (*sector != facts::ABSENT).then(|| u64::from(*sector).saturating_mul(SECTOR))
    }

    /// The bitmap's bytes for the sectors `from..to` of a block.
    fn bitmap_bytes(&self, start: u64, from: u64, to: u64) -> Result<Vec<u8>> {
        let first = from / 8;
        let len = to.div_ceil(8).saturating_sub(first);
        let len = usize::try_from(len).map_err(|_| Error::internal("VHD bitmap: its length"))?;
        let mut bytes = vec![0; len];
        let at = start.saturating_add(first);
        self.host
            .read_at(at, &mut bytes)
            .at("image offset", format_args!("{at:#x}"))?;
        Ok(bytes)
    }

    /// Whether the disk shows a sector of a block, and how many behind it, up to `end`, are alike.
    fn run(&self, start: u64, sector: u64, end: u64) -> Result<(bool, u64)> {
        let first = sector & !7;
        let end = end.min(first.saturating_add(BITMAP_STEP.saturating_mul(8)));
        let bytes = self.bitmap_bytes(start, sector, end)?;
        let set = |at: u64| bit(&bytes, at.saturating_sub(first));
        let shown = set(sector);
        let run = (sector..end).take_while(|at| set(*at) == shown).count();
        Ok((shown, wide(run)))
    }

    /// Whether every sector of a block is shown; asked of the file once.
    fn is_full(&self, number: u32, start: u64) -> Result<bool> {
        let state = usize::try_from(number)
            .ok()
            .and_then(|index| self.bits.get(index))
            .ok_or_else(|| Error::internal("VHD bitmap: a block outside the table"))?;
        match state.load(Ordering::Relaxed) {
            FULL => return Ok(true),
            PARTIAL => return Ok(false),
            _ => {}
        }
        let sectors = self.shown(number) / SECTOR;
        let bytes = self.bitmap_bytes(start, 0, sectors)?;
        let full = (0..sectors).all(|at| bit(&bytes, at));
        state.store(if full { FULL } else { PARTIAL }, Ordering::Relaxed);
        Ok(full)
    }
}

/// A bit of a bitmap: the most significant one of a byte comes first.
fn bit(bytes: &[u8], at: u64) -> bool {
    usize::try_from(at / 8)
        .ok()
        .and_then(|index| bytes.get(index))
        .is_some_and(|byte| byte & mask(at) != 0)
}

fn mask(at: u64) -> u8 {
    let shift = u32::try_from(at % 8).unwrap_or(0);
    0x80_u8.checked_shr(shift).unwrap_or(0)
}

fn read_table(host: &Device, at: u64, entries: u64) -> Result<Vec<u32>> {
    let len = entries.saturating_mul(facts::ENTRY_LEN);
    if len > TABLE_LIMIT {
        return Err(Error::limit(format!(
            "VHD block table: at most {TABLE_LIMIT} bytes expected, found {len}"
        )));
    }
    let len = usize::try_from(len).map_err(|_| Error::internal("VHD block table: its length"))?;
    let mut bytes = vec![0; len];
    host.read_at(at, &mut bytes)
        .at("image offset", format_args!("{at:#x}"))?;
    let (entries, _) = bytes.as_chunks::<4>();
    Ok(entries
        .iter()
        .map(|entry| u32::from_be_bytes(*entry))
        .collect())
}

impl Layout for Dynamic {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn extent(&self, at: u64) -> Result<Extent> {
        let (number, inside) = self.split(at)?;
        let rest = self.shown(number).saturating_sub(inside);
        let Some(start) = self.sector_of(number) else {
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            let run = self
                .table
                .get(index..)
                .unwrap_or_default()
                .iter()
                .take_while(|sector| **sector == facts::ABSENT)
                .count();
            let end = u64::from(number)
                .saturating_add(wide(run))
                .saturating_mul(self.block)
                .min(self.len);
            return Ok(Extent {
                place: Place::Absent,
                len: end.saturating_sub(at),
            });
        };
        let data = start.saturating_add(self.bitmap).saturating_add(inside);
        if self.is_full(number, start)? {
            return Ok(Extent {
                place: Place::File(data),
                len: rest,
            });
        }
        let sector = inside / SECTOR;
        let (shown, run) = self.run(start, sector, self.shown(number) / SECTOR)?;
        let end = sector.saturating_add(run).saturating_mul(SECTOR);
        Ok(Extent {
            place: if shown {
                Place::File(data)
            } else {
                Place::Hidden(data)
            },
            len: end.saturating_sub(inside).min(rest),
        })
    }

    fn reveal(&self, at: u64, len: u64) -> Result<()> {
        let (number, inside) = self.split(at)?;
        let start = self
            .sector_of(number)
            .ok_or_else(|| Error::internal("VHD: an absent block cannot be shown"))?;
        let _held = self
            .gate
            .lock()
            .map_err(|_| Error::internal("VHD bitmap: lock poisoned"))?;
        let end = inside.saturating_add(len).div_ceil(SECTOR);
        for sector in inside / SECTOR..end {
            let byte_at = start.saturating_add(sector / 8);
            let mut byte = [0];
            self.host.read_at(byte_at, &mut byte)?;
            let [old] = byte;
            if old & mask(sector) != 0 {
                // Another thread was here first, and what it wrote stays.
                continue;
            }
            let data = start
                .saturating_add(self.bitmap)
                .saturating_add(sector.saturating_mul(SECTOR));
            match &self.below {
                None => self.host.zero_at(data, SECTOR)?,
                Some(below) => {
                    let disk = u64::from(number)
                        .saturating_mul(self.block)
                        .saturating_add(sector.saturating_mul(SECTOR));
                    let there = below.len().saturating_sub(disk).min(SECTOR);
                    let mut bytes = vec![0; usize::try_from(SECTOR).unwrap_or(0)];
                    if let Some(shown) = bytes.get_mut(..usize::try_from(there).unwrap_or(0))
                        && !shown.is_empty()
                    {
                        below.read_at(disk, shown)?;
                    }
                    self.host.write_at(data, &bytes)?;
                }
            }
            self.host.write_at(byte_at, &[old | mask(sector)])?;
        }
        Ok(())
    }

    fn file_offset(&self, disk: u64) -> Option<u64> {
        let (number, inside) = self.split(disk).ok()?;
        self.sector_of(number)?
            .checked_add(self.bitmap)?
            .checked_add(inside)
    }

    fn disk_offset(&self, file: u64) -> Option<u64> {
        let range = file..file.checked_add(1)?;
        let disk = self.disk_ranges(&range).first()?.start;
        matches!(self.extent(disk).ok()?.place, Place::File(_)).then_some(disk)
    }

    fn disk_ranges(&self, file: &Range<u64>) -> Vec<Range<u64>> {
        // Blocks do not overlap where anything is written: the one before may still reach in.
        let from = self
            .order
            .partition_point(|(sector, _)| u64::from(*sector).saturating_mul(SECTOR) <= file.start)
            .saturating_sub(1);
        let mut out = Vec::new();
        for (sector, number) in self.order.get(from..).unwrap_or_default() {
            let place = self.block_place(*number, *sector);
            if place.start >= file.end {
                break;
            }
            let data = place.start.saturating_add(self.bitmap);
            let (start, end) = (data.max(file.start), place.end.min(file.end));
            if start < end {
                let base = u64::from(*number).saturating_mul(self.block);
                let disk = |at: u64| base.saturating_add(at.saturating_sub(data));
                out.push(disk(start)..disk(end));
            }
        }
        out
    }

    fn below(&self) -> Option<&Device> {
        self.below.as_ref()
    }

    fn loose(&self, file: &Range<u64>) -> Vec<Range<u64>> {
        let blocks = self
            .order
            .iter()
            .map(|(sector, number)| self.block_place(*number, *sector));
        let mut loose = without(file, self.own.iter().cloned().chain(blocks));
        // Sectors of a block that are not shown: the specification gives their bytes no meaning.
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
        (1_u64..)
            .zip(self.table.windows(2))
            .filter(|(_, pair)| pair.iter().all(|sector| *sector != facts::ABSENT))
            .map(|(number, _)| number.saturating_mul(self.block))
            .collect()
    }
}
