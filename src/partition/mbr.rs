//! The master boot record and the chain of extended boot records behind it.

use std::collections::BTreeSet;

use super::{Scheme, Slot, Table, boot, format, hex, judge, push, read_piece};
use crate::{
    bytes::View,
    device::Device,
    error::{At, Error, Result},
};

/// Linux stops at 60 logical partitions, Windows has 26 letters; a longer chain is hostile.
const MAX_LOGICAL: usize = 128;

/// An entry of the table, in sectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The type.
    pub(super) kind: u8,
    start: u32,
    count: u32,
}

impl Entry {
    /// Whether the entry is unused.
    pub(super) const fn is_empty(&self) -> bool {
        self.kind == 0 || self.count == 0
    }

    /// Whether it is used and begins behind the table and inside the disk.
    pub(super) fn lies_inside(&self, sector_len: u64, disk_len: u64) -> bool {
        !self.is_empty()
            && self.start != 0
            && u64::from(self.start).saturating_mul(sector_len) < disk_len
    }

    fn is_extended(&self) -> bool {
        !self.is_empty() && format::is_extended(self.kind)
    }
}

/// The four entries of a boot record. A status other than 00 or 80 means that these bytes are code.
pub(super) fn entries(sector: &View<'_>) -> Result<[Entry; format::MBR_ENTRY_COUNT]> {
    let mut entries = [Entry {
        kind: 0,
        start: 0,
        count: 0,
    }; format::MBR_ENTRY_COUNT];
    let table_len = format::MBR_ENTRY_LEN.saturating_mul(format::MBR_ENTRY_COUNT);
    let table = sector.get(format::MBR_ENTRIES_AT, table_len)?;
    for ((entry, bytes), number) in entries
        .iter_mut()
        .zip(table.chunks(format::MBR_ENTRY_LEN))
        .zip(1_u32..)
    {
        let view = View::new(bytes, "MBR entry");
        let status = view.u8(format::MBR_STATUS_AT)?;
        if !matches!(status, 0x00 | 0x80) {
            return Err(Error::malformed(format!(
                "MBR: entry {number}: status 00 or 80 expected, found {status:02x}"
            )));
        }
        *entry = Entry {
            kind: view.u8(format::MBR_KIND_AT)?,
            start: view.u32(format::MBR_START_AT)?,
            count: view.u32(format::MBR_COUNT_AT)?,
        };
    }
    Ok(entries)
}

/// The partitions of an MBR disk.
pub(super) fn read(disk: &Device, entries: &[Entry]) -> Result<Table> {
    let sector_len = sector_len(disk, entries)?;
    let mut table = Table::new(Scheme::Mbr, sector_len);
    let mut extended = None;
    for (entry, number) in entries.iter().zip(1_u32..) {
        if entry.kind == 0 {
            continue;
        }
        let (slot, defect) = slot(number, entry, u64::from(entry.start), sector_len);
        if entry.is_extended() {
            if extended.is_none() {
                extended = Some(entry);
            } else {
                table.only_scan(format!(
                    "partition {number}: a second extended partition, Windows reads only one"
                ));
            }
        }
        push(&mut table, slot, defect);
    }
    if let Some(extended) = extended {
        read_chain(disk, extended, &mut table)?;
    }
    judge(disk, &mut table)?;
    Ok(table)
}

/// 512, unless volumes begin where the entries point in sectors of 4096 and none where they point
/// in sectors of 512. An MBR does not say how long a sector is.
fn sector_len(disk: &Device, entries: &[Entry]) -> Result<u32> {
    for candidate in format::SECTOR_LENS {
        for entry in entries {
            let start = u64::from(entry.start).saturating_mul(u64::from(candidate));
            if !entry.is_empty() && start != 0 && boot::at(disk, start)?.is_some() {
                return Ok(candidate);
            }
        }
    }
    Ok(512)
}

/// The slot of an entry, and what is wrong with the entry.
fn slot(number: u32, entry: &Entry, start_sector: u64, sector_len: u32) -> (Slot, Option<String>) {
    let sector_len = u64::from(sector_len);
    let count = u64::from(entry.count);
    let defect = if count == 0 {
        Some("it has no sectors")
    } else if entry.start == 0 {
        Some("it begins at the partition table itself")
    } else if start_sector.saturating_add(count) > u64::from(u32::MAX).saturating_add(1) {
        Some("it ends behind the last sector an MBR can name")
    } else {
        None
    };
    let slot = Slot {
        number,
        // Less than 2^33 sectors of 4096 bytes: no sum or product here leaves 64 bits.
        start: start_sector.saturating_mul(sector_len),
        len: count.saturating_mul(sector_len),
        kind: format::mbr_kind(entry.kind),
        name: None,
        skip: format::mbr_skip(entry.kind).map(str::to_owned),
    };
    (slot, defect.map(str::to_owned))
}

/// Follows the chain: each record names one logical partition, relative to itself, and the next
/// record, relative to the extended partition. A broken chain may hide partitions: scan only.
fn read_chain(disk: &Device, extended: &Entry, table: &mut Table) -> Result<()> {
    let sector_len = u64::from(table.sector_len);
    let base = u64::from(extended.start);
    let end = base.saturating_add(u64::from(extended.count));
    let mut visited = BTreeSet::new();
    let mut number = format::FIRST_LOGICAL;
    let mut next = Some(base);
    while let Some(record) = next.take() {
        let offset = record.saturating_mul(sector_len);
        if !visited.insert(record) {
            table.only_scan(format!(
                "chain of logical partitions: it comes back to the record at {offset:#x}"
            ));
            break;
        }
        if visited.len() > MAX_LOGICAL {
            return Err(Error::limit(format!(
                "chain of logical partitions: at most {MAX_LOGICAL} records expected"
            ))
            .at("disk offset", format_args!("{offset:#x}")));
        }
        if record == 0 || !(base..end).contains(&record) {
            table.only_scan(format!(
                "chain of logical partitions: a record inside the extended partition expected, \
                 found one at {offset:#x}"
            ));
            break;
        }
        let Some(entries) = read_record(disk, offset, table)? else {
            break;
        };
        for entry in entries.iter().filter(|entry| !entry.is_empty()) {
            if entry.is_extended() {
                if next.is_none() {
                    next = Some(base.saturating_add(u64::from(entry.start)));
                    continue;
                }
                table.only_scan(format!(
                    "chain of logical partitions: the record at {offset:#x} has two successors"
                ));
                continue;
            }
            let start = record.saturating_add(u64::from(entry.start));
            let (slot, mut defect) = slot(number, entry, start, table.sector_len);
            if start.saturating_add(u64::from(entry.count)) > end {
                defect.get_or_insert("it reaches out of the extended partition".to_owned());
            }
            push(table, slot, defect);
            number = number.saturating_add(1);
        }
    }
    Ok(())
}

/// One record of the chain; `None`, and a problem, when it is none.
fn read_record(
    disk: &Device,
    offset: u64,
    table: &mut Table,
) -> Result<Option<[Entry; format::MBR_ENTRY_COUNT]>> {
    let inside = offset
        .checked_add(format::SECTOR)
        .is_some_and(|end| end <= disk.len());
    if !inside {
        table.only_scan(format!(
            "chain of logical partitions: the record at {offset:#x} lies outside the disk"
        ));
        return Ok(None);
    }
    let sector = read_piece(disk, offset, format::SECTOR_LEN, "extended boot record")?;
    let view = View::new(&sector, "extended boot record");
    let signature = view.get(format::MBR_SIGNATURE_AT, 2)?;
    if signature != format::MBR_SIGNATURE {
        let found = hex(signature);
        table.only_scan(format!(
            "chain of logical partitions: signature 55 aa expected in the record at {offset:#x}, \
             found {found}"
        ));
        return Ok(None);
    }
    match entries(&view).at("disk offset", format_args!("{offset:#x}")) {
        Ok(entries) => Ok(Some(entries)),
        Err(error) => {
            table.only_scan(format!("chain of logical partitions: {error}"));
            Ok(None)
        }
    }
}
