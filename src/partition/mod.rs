//! Disk in, slices out: MBR with its chain of logical partitions, GPT, or the whole disk is one
//! volume.
//!
//! In: a disk. Out: a [`Table`] of [`Slot`]s, with what is wrong with it as values.
//! Knows: units, error, bytes, device. Facts from: UEFI 2.10 chapter 5, and for the MBR what
//! Windows and Linux agree on (`format.rs`).
//! Never: writes, repairs, opens a volume, trusts a number of the table before it was compared with
//! the disk.
//!
//! # Why
//! - **Own code instead of a crate.** Tried with hostile tables whose checksums are right: gptman
//!   3.1.1 allocates 650 GB for an entry count of 0xffffffff and aborts, and panics on an entry size
//!   of 0; gpt 4.1.0 panics on an entry size of 0xfffffff8; mbrman 0.6.1 survives, but needs the
//!   unmaintained bincode and knows no GPT. What is needed here is small, read-only and bounded.
//! - **`scan_only` instead of an error.** A disk with a damaged primary GPT, or with two tables that
//!   contradict each other, can be looked at. It is not written: a later repair of the table by
//!   another program could choose the other table, and our changes would lie somewhere else.
//! - **Overlapping slots are both skipped.** One of them is wrong, and nothing here can say which.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use serde::Serialize;

use crate::{
    bytes::View,
    device::Device,
    error::{At, Error, Result},
};

mod boot;
mod format;
mod gpt;
mod mbr;

use boot::BootSector;

/// What divides the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// A master boot record, perhaps with a chain of logical partitions.
    Mbr,
    /// A GUID partition table.
    Gpt,
    /// Nothing: a volume begins at the first byte.
    WholeDisk,
    /// No disk: an archive of file trees.
    Archive,
    /// A directory of the host: there is no disk.
    Directory,
}

/// A part of the disk that the table names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Counted from 1 as the table counts; logical partitions from 5 on.
    pub number: u32,
    /// First byte, a disk offset.
    pub start: u64,
    /// Length in bytes. Never reaches beyond the disk unless `skip` is set: a volume that was cut
    /// off is shortened to what is there, and a problem says so.
    pub len: u64,
    /// What the table says it is. Fixed words, or a number in hex.
    pub kind: String,
    /// The name a GPT gives it, as stored: escape before printing.
    pub name: Option<String>,
    /// Why it must not be opened.
    pub skip: Option<String>,
}

impl Slot {
    /// Whether it only stands for others: the container of the logical partitions, the shield of a GPT.
    #[must_use]
    pub fn is_hollow(&self) -> bool {
        self.kind.starts_with("extended") || self.kind == "GPT protective"
    }
}

/// The partitions of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// What divides the disk.
    pub scheme: Scheme,
    /// Bytes a logical sector, 512 or 4096.
    pub sector_len: u32,
    /// The disk's signature (MBR) or GUID (GPT), as hex digits in the order of the disk.
    pub disk_id: Option<String>,
    /// The partitions, in the table's order.
    pub slots: Vec<Slot>,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
    /// Why the disk may be looked at but not written.
    pub scan_only: Option<String>,
}

impl Table {
    /// The table of what has none, and is no disk.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Scheme::Archive, 512)
    }

    /// What takes a table's place in a directory of the host.
    #[must_use]
    pub fn directory() -> Self {
        Self::new(Scheme::Directory, 0)
    }

    fn new(scheme: Scheme, sector_len: u32) -> Self {
        Self {
            scheme,
            sector_len,
            disk_id: None,
            slots: Vec::new(),
            problems: Vec::new(),
            scan_only: None,
        }
    }

    /// The first reason is the one that is kept; all of them are problems.
    fn only_scan(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        self.problems.push(reason.clone());
        self.scan_only.get_or_insert(reason);
    }
}

/// Reads the partition table of a disk.
pub fn read(disk: &Device) -> Result<Table> {
    if disk.len() < format::SECTOR {
        return Err(Error::malformed(format!(
            "disk: at least one sector (512 bytes) expected, found {} bytes",
            disk.len()
        )));
    }
    let sector = read_piece(disk, 0, format::SECTOR_LEN, "boot sector")?;
    let first = View::new(&sector, "boot sector");

    let divided = is_divided(disk, &first)?;
    if let Some(boot) = BootSector::recognise(&first).filter(|boot| boot.plausible || !divided) {
        return Ok(whole_disk(disk, boot, divided));
    }
    let signed = first.get(format::MBR_SIGNATURE_AT, 2)? == format::MBR_SIGNATURE;
    if !signed {
        return match gpt::read(disk) {
            Ok(mut table) => {
                table.only_scan(
                    "disk has a GPT, but no MBR signature (55 aa at 510): Windows does not see it",
                );
                Ok(table)
            }
            Err(_) => Err(Error::malformed(format!(
                "disk: MBR signature 55 aa at 510, a GPT or a volume's boot sector expected, \
                 found {}",
                hex(first.get(format::MBR_SIGNATURE_AT, 2)?)
            ))
            .at("disk offset", "0x1fe")),
        };
    }
    let entries = mbr::entries(&first).at("disk offset", "0x1be")?;
    let (protective, real) = entries
        .iter()
        .filter(|entry| !entry.is_empty())
        .partition::<Vec<&mbr::Entry>, _>(|entry| entry.kind == format::MBR_GPT_PROTECTIVE);

    if !protective.is_empty() {
        let mut table = gpt::read(disk)
            .map_err(|error| error.advise("the disk's MBR says that there must be a GPT"))?;
        if !real.is_empty() {
            table.only_scan(format!(
                "hybrid MBR: {} of its 4 entries stand beside the GPT, the two tables can disagree",
                real.len()
            ));
        }
        return Ok(table);
    }
    let beside = gpt::read(disk).ok();
    if let Some(mut gpt) = beside {
        // A backup alone is what an earlier partitioning left at the end of the disk.
        if real.is_empty() {
            gpt.only_scan("disk has a GPT, but no protective MBR: Windows does not see it");
            return Ok(gpt);
        }
        let mut table = mbr_table(disk, &first, &entries)?;
        if gpt.scan_only.is_none() {
            table.only_scan("disk has MBR partitions and a valid GPT, one of them is stale");
        } else {
            table
                .problems
                .push("disk has MBR partitions and remains of a GPT".to_owned());
        }
        return Ok(table);
    }
    let mut table = mbr_table(disk, &first, &entries)?;
    if real.is_empty() {
        table.problems.push("MBR: the table is empty".to_owned());
    }
    Ok(table)
}

fn mbr_table(disk: &Device, first: &View<'_>, entries: &[mbr::Entry]) -> Result<Table> {
    let mut table = mbr::read(disk, entries)?;
    let id = first.get(format::MBR_DISK_ID_AT, format::MBR_DISK_ID_LEN)?;
    table.disk_id = Some(::hex::encode(id));
    Ok(table)
}

/// Whether the first sector is an MBR with at least one partition that begins inside the disk. A boot
/// sector's code and messages lie where an MBR has its table; they do not look like one.
fn is_divided(disk: &Device, first: &View<'_>) -> Result<bool> {
    let signed = first.get(format::MBR_SIGNATURE_AT, 2)? == format::MBR_SIGNATURE;
    Ok(signed
        && mbr::entries(first).is_ok_and(|entries| {
            entries
                .iter()
                .any(|entry| entry.lies_inside(format::SECTOR, disk.len()))
        }))
}

fn whole_disk(disk: &Device, boot: BootSector, divided: bool) -> Table {
    let mut table = Table::new(Scheme::WholeDisk, boot.sector_len);
    table.slots.push(Slot {
        number: 1,
        start: 0,
        len: disk.len(),
        kind: format!("whole disk, {}", boot.name),
        name: None,
        skip: None,
    });
    if divided {
        table.only_scan(format!(
            "boot sector: it is both a volume's ({}) and an MBR with partitions",
            boot.name
        ));
    }
    table
}

/// Adds a slot; a defect of its entry is a reason to skip it and a problem of the table.
fn push(table: &mut Table, mut slot: Slot, defect: Option<String>) {
    if let Some(defect) = defect {
        table
            .problems
            .push(format!("partition {}: {defect}", slot.number));
        slot.skip = Some(defect);
    }
    table.slots.push(slot);
}

/// Skips what must not be opened: outside the disk, overlapping. Shortens a volume that was cut off.
fn judge(disk: &Device, table: &mut Table) -> Result<()> {
    // On the lengths as the table has them, before anything is shortened.
    let mut overlaps = Vec::new();
    for (i, a) in table.slots.iter().enumerate() {
        for b in table.slots.iter().skip(i.saturating_add(1)) {
            let apart = a.len == 0
                || b.len == 0
                || a.start.saturating_add(a.len) <= b.start
                || b.start.saturating_add(b.len) <= a.start;
            if !apart && !contains_logical(a, b) && !contains_logical(b, a) {
                overlaps.push((a.number, b.number));
                overlaps.push((b.number, a.number));
            }
        }
    }
    for (number, other) in overlaps {
        let Some(slot) = table.slots.iter_mut().find(|slot| slot.number == number) else {
            continue;
        };
        if slot.skip.is_none() {
            slot.skip = Some(format!("it overlaps partition {other}"));
            table
                .problems
                .push(format!("partition {number}: it overlaps partition {other}"));
        }
    }
    for slot in &mut table.slots {
        let end = slot.start.saturating_add(slot.len);
        if slot.skip.is_some() || end <= disk.len() {
            continue;
        }
        let extent = format!(
            "{:#x}..{end:#x} lies outside the disk, which ends at {:#x}",
            slot.start,
            disk.len()
        );
        table
            .problems
            .push(format!("partition {}: {extent}", slot.number));
        match boot::at(disk, slot.start)? {
            // The volume's own reader sees how much is missing and says what that means.
            Some(boot) if boot.name == boot::NTFS => {
                slot.len = disk.len().saturating_sub(slot.start);
            }
            _ => slot.skip = Some(extent),
        }
    }
    Ok(())
}

/// Whether `outer` is the extended partition that holds the logical partition `inner`.
fn contains_logical(outer: &Slot, inner: &Slot) -> bool {
    outer.kind.starts_with(format::EXTENDED)
        && inner.number >= format::FIRST_LOGICAL
        && outer.start <= inner.start
        && inner.start.saturating_add(inner.len) <= outer.start.saturating_add(outer.len)
}

/// `len` bytes of the disk; failures carry the disk offset.
fn read_piece(disk: &Device, offset: u64, len: usize, what: &'static str) -> Result<Vec<u8>> {
    let end = u64::try_from(len)
        .ok()
        .and_then(|len| offset.checked_add(len));
    if end.is_none_or(|end| end > disk.len()) {
        return Err(Error::malformed(format!(
            "{what}: {len} bytes inside the disk expected, it ends at {:#x}",
            disk.len()
        ))
        .at("disk offset", format_args!("{offset:#x}")));
    }
    let mut bytes = vec![0; len];
    disk.read_at(offset, &mut bytes)
        .at("disk offset", format_args!("{offset:#x}"))?;
    Ok(bytes)
}

/// Bytes as a message shows them: `55 aa`.
fn hex(bytes: &[u8]) -> String {
    let shown: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests;
