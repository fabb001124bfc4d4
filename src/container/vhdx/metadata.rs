//! The metadata region: what the disk is like, and where its parent is.
//!
//! Nothing here has a checksum; every number is held against what it must fit.

use std::ops::Range;

use super::{facts, header::Guid};
use crate::{
    bytes::View,
    device::Device,
    error::{At, Error, Result},
};

/// What the disk is like.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) block: u64,
    pub(super) fixed: bool,
    pub(super) len: u64,
    pub(super) sector: u64,
    pub(super) parent: Option<Locator>,
}

/// Where the parent is.
#[derive(Debug, Default)]
pub(super) struct Locator {
    /// Identities it may have, as text.
    pub(super) linkages: Vec<String>,
    /// Names to try, the best first.
    pub(super) names: Vec<String>,
}

/// Longest item that is read: a parent locator has five keys of at most 64 KiB each.
const ITEM_LIMIT: u64 = 1 << 20;

struct Items<'a> {
    host: &'a Device,
    region: Range<u64>,
    all: Vec<(Guid, Range<u64>)>,
}

impl<'a> Items<'a> {
    fn read(host: &'a Device, region: &Range<u64>) -> Result<Self> {
        let mut bytes = vec![0; facts::TABLE_LEN];
        host.read_at(region.start, &mut bytes)?;
        let view = View::new(&bytes, "VHDX metadata table");
        if view.get(0, facts::METADATA_TABLE.len())? != facts::METADATA_TABLE {
            return Err(Error::malformed(
                "VHDX metadata table: metadata expected, not found",
            ));
        }
        let count = usize::from(view.u16(facts::METADATA_COUNT)?);
        if count > facts::MAX_ENTRIES {
            return Err(Error::malformed(format!(
                "VHDX metadata table: at most {} entries expected, found {count}",
                facts::MAX_ENTRIES
            )));
        }
        let known = [
            facts::PARAMETERS,
            facts::DISK_SIZE,
            facts::DISK_ID,
            facts::LOGICAL_SECTOR,
            facts::PHYSICAL_SECTOR,
            facts::PARENT_LOCATOR,
        ];
        let mut items = Self {
            host,
            region: region.clone(),
            all: Vec::new(),
        };
        for number in 0..count {
            let at = number
                .saturating_mul(facts::ENTRY_LEN)
                .saturating_add(facts::METADATA_ENTRIES);
            let entry = view.sub(at, facts::ENTRY_LEN, "VHDX metadata table entry")?;
            let guid = Guid(entry.array(0)?);
            let flags = entry.u32(24)?;
            let is_user = flags & facts::IS_USER != 0;
            let is_known = !is_user && known.contains(&guid.0);
            if !is_known {
                if flags & facts::IS_REQUIRED != 0 {
                    return Err(Error::unsupported(format!(
                        "VHDX metadata table: known items expected, found {guid}, which is \
                         required"
                    )));
                }
                continue;
            }
            let (offset, len) = (u64::from(entry.u32(16)?), u64::from(entry.u32(20)?));
            let start = region.start.saturating_add(offset);
            let table = region
                .start
                .saturating_add(u64::try_from(facts::TABLE_LEN).unwrap_or(u64::MAX));
            let place = start..start.saturating_add(len);
            if place.start < table || place.end > region.end || len == 0 {
                return Err(Error::malformed(format!(
                    "VHDX metadata table: item {guid} between {table:#x} and {:#x} expected, \
                     found {len} bytes at {start:#x}",
                    region.end
                )));
            }
            if items.all.iter().any(|(other, _)| *other == guid) {
                return Err(Error::malformed(format!(
                    "VHDX metadata table: each item once expected, found {guid} twice"
                )));
            }
            items.all.push((guid, place));
        }
        Ok(items)
    }

    /// The bytes of an item, and where they are.
    fn bytes(&self, id: [u8; 16]) -> Result<Option<(u64, Vec<u8>)>> {
        let Some((_, place)) = self.all.iter().find(|(guid, _)| guid.0 == id) else {
            return Ok(None);
        };
        let len = place.end.saturating_sub(place.start);
        if len > ITEM_LIMIT {
            return Err(Error::limit(format!(
                "VHDX metadata item: at most {ITEM_LIMIT} bytes expected, found {len}"
            ))
            .at("image offset", format_args!("{:#x}", place.start)));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.host
            .read_at(place.start, &mut bytes)
            .at("image offset", format_args!("{:#x}", place.start))?;
        Ok(Some((place.start, bytes)))
    }

    fn number(
        &self,
        id: [u8; 16],
        what: &'static str,
        get: impl Fn(&View<'_>) -> Result<u64>,
        check: impl Fn(u64) -> Option<String>,
    ) -> Result<u64> {
        let Some((at, bytes)) = self.bytes(id)? else {
            return Err(
                Error::malformed(format!("{what}: an item of it expected, found none"))
                    .at("image offset", format_args!("{:#x}", self.region.start)),
            );
        };
        let value = get(&View::new(&bytes, what)).at("image offset", format_args!("{at:#x}"))?;
        match check(value) {
            None => Ok(value),
            Some(wanted) => Err(Error::malformed(format!(
                "{what}: {wanted} expected, found {value}"
            ))
            .at("image offset", format_args!("{at:#x}"))),
        }
    }
}

impl Metadata {
    pub(super) fn read(host: &Device, region: &Range<u64>) -> Result<Self> {
        let items =
            Items::read(host, region).at("image offset", format_args!("{:#x}", region.start))?;
        let sector = items.number(
            facts::LOGICAL_SECTOR,
            "VHDX logical sector size",
            |view| Ok(u64::from(view.u32(0)?)),
            |size| (![512, 4096].contains(&size)).then(|| "512 or 4096".to_owned()),
        )?;
        let block = items.number(
            facts::PARAMETERS,
            "VHDX block size",
            |view| Ok(u64::from(view.u32(0)?)),
            |size| {
                let good = facts::BLOCKS.contains(&size) && size.is_power_of_two();
                (!good).then(|| "a power of two between 1 and 256 MiB".to_owned())
            },
        )?;
        let flags = items.number(
            facts::PARAMETERS,
            "VHDX file parameters",
            |view| Ok(u64::from(view.u32(4)?)),
            |_| None,
        )?;
        let len = items.number(
            facts::DISK_SIZE,
            "VHDX disk size",
            |view| view.u64(0),
            |size| {
                let good = size > 0 && size.is_multiple_of(sector) && size <= facts::MAX_DISK;
                (!good).then(|| format!("whole sectors of {sector} bytes, at most 64 TiB,"))
            },
        )?;
        let has = |flag: u32| flags & u64::from(flag) != 0;
        let parent = match has(facts::HAS_PARENT) {
            false => None,
            true => {
                let Some((at, bytes)) = items.bytes(facts::PARENT_LOCATOR)? else {
                    return Err(Error::malformed(
                        "VHDX parent locator: an item of it expected for a disk that has a \
                         parent, found none",
                    )
                    .at("image offset", format_args!("{:#x}", region.start)));
                };
                Some(Locator::parse(&bytes).at("image offset", format_args!("{at:#x}"))?)
            }
        };
        Ok(Self {
            block,
            fixed: has(facts::LEAVE_ALLOCATED),
            len,
            sector,
            parent,
        })
    }
}

impl Locator {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let view = View::new(bytes, "VHDX parent locator");
        let kind = Guid(view.array(0)?);
        if kind.0 != facts::LOCATOR_VHDX {
            return Err(Error::unsupported(format!(
                "VHDX parent locator: type {} expected, found {kind}",
                Guid(facts::LOCATOR_VHDX)
            )));
        }
        let count = usize::from(view.u16(facts::LOCATOR_COUNT)?);
        let mut keys: Vec<(String, String)> = Vec::new();
        for number in 0..count {
            let at = number
                .saturating_mul(facts::LOCATOR_ENTRY_LEN)
                .saturating_add(facts::LOCATOR_ENTRIES);
            let entry = view.sub(at, facts::LOCATOR_ENTRY_LEN, "VHDX parent locator entry")?;
            let text = |offset: u32, len: u16| -> Result<String> {
                let offset = usize::try_from(offset)
                    .map_err(|_| Error::malformed("VHDX parent locator: an offset too large"))?;
                let units = view.units(offset, usize::from(len / 2))?;
                String::from_utf16(&units).map_err(|_| {
                    Error::malformed("VHDX parent locator: UTF-16 expected, found other units")
                })
            };
            let key = text(entry.u32(0)?, entry.u16(8)?)?;
            let value = text(entry.u32(4)?, entry.u16(10)?)?;
            if keys.iter().any(|(known, _)| *known == key) {
                return Err(Error::malformed(format!(
                    "VHDX parent locator: each key once expected, found {} twice",
                    crate::text::escape(&key)
                )));
            }
            keys.push((key, value));
        }
        let get = |name: &str| keys.iter().find(|(key, _)| key == name).map(|(_, v)| v);
        let mut locator = Self::default();
        for name in ["parent_linkage", "parent_linkage2"] {
            let text = get(name).map(|text| text.trim_matches(['{', '}']).to_lowercase());
            locator.linkages.extend(text);
        }
        // The paths are those of the machine that made the file: of the absolute ones only the
        // name can mean anything here.
        let last = |path: &String| path.rsplit(['\\', '/']).next().map(str::to_owned);
        locator.names.extend(get("relative_path").cloned());
        locator.names.extend(get("volume_path").and_then(last));
        locator
            .names
            .extend(get("absolute_win32_path").and_then(last));
        if get("parent_linkage").is_none() || locator.names.is_empty() {
            return Err(Error::malformed(
                "VHDX parent locator: parent_linkage and a path expected, not found",
            ));
        }
        Ok(locator)
    }
}
