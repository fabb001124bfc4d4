//! The GUID partition table: primary header at sector 1, backup in the last sector.

use super::{Scheme, Slot, Table, format, hex, judge, push, read_piece};
use crate::{
    bytes::View,
    device::Device,
    error::{At, Error, Result},
};

/// Windows and every partitioning tool make 128 entries. 1024 of 128 bytes are 128 KiB; a table
/// beyond that is hostile (the largest count with a right checksum would need 512 GiB of memory).
const MAX_ENTRIES: u32 = 1024;
/// The specification allows any 128 * 2^n; nobody writes more than 128, a sector is generous.
const MAX_ENTRY_LEN: u32 = 4096;

/// A header whose checksum, place and numbers were verified.
#[derive(Debug)]
struct Header {
    sector_len: u32,
    disk_id: String,
    alternate_lba: u64,
    first_usable: u64,
    last_usable: u64,
    entry_len: usize,
    /// All entries; their checksum was verified.
    entries: Vec<u8>,
}

/// The partitions of a GPT disk; the backup is used, for looking only, when the primary is damaged.
pub(super) fn read(disk: &Device) -> Result<Table> {
    let mut damage = None;
    let mut found: Option<Header> = None;
    let mut rivals = false;
    for sector_len in format::SECTOR_LENS {
        match read_header(disk, 1, sector_len) {
            Ok(header) if found.is_none() => found = Some(header),
            Ok(_) => rivals = true,
            Err(Failure::Absent) => {}
            Err(Failure::Damaged(error)) => {
                damage.get_or_insert(error);
            }
        }
    }
    if let Some(header) = found {
        let mut table = slots(disk, &header)?;
        if rivals {
            table.only_scan("GPT: two valid headers, for sectors of 512 and of 4096 bytes");
        }
        check_backup(disk, &header, &mut table);
        return Ok(table);
    }
    for sector_len in format::SECTOR_LENS {
        let sectors = disk.len().checked_div(u64::from(sector_len)).unwrap_or(0);
        let Some(last) = sectors.checked_sub(1).filter(|last| *last > 1) else {
            continue;
        };
        if let Ok(header) = read_header(disk, last, sector_len) {
            let mut table = slots(disk, &header)?;
            table.only_scan(match &damage {
                Some(error) => {
                    format!("GPT: this is the backup, the primary table is damaged: {error}")
                }
                None => "GPT: this is the backup, there is no primary table".to_owned(),
            });
            return Ok(table);
        }
    }
    Err(damage.unwrap_or_else(|| {
        Error::malformed("GPT: a header at 512, at 4096 or in the last sector expected, found none")
            .at("disk offset", "0x200")
    }))
}

enum Failure {
    /// No signature.
    Absent,
    /// A signature, and something wrong behind it.
    Damaged(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Damaged(error)
    }
}

/// Reads and verifies the header at a sector, and its entries.
fn read_header(disk: &Device, lba: u64, sector_len: u32) -> std::result::Result<Header, Failure> {
    let offset = lba
        .checked_mul(u64::from(sector_len))
        .ok_or(Failure::Absent)?;
    let len = usize::try_from(sector_len).map_err(|_| Failure::Absent)?;
    let sector = read_piece(disk, offset, len, "GPT header").map_err(|_| Failure::Absent)?;
    let view = View::new(&sector, "GPT header");
    if view.get(0, 8)? != format::GPT_SIGNATURE {
        return Err(Failure::Absent);
    }
    check_header(disk, &view, lba, sector_len)
        .at("disk offset", format_args!("{offset:#x}"))
        .map_err(Failure::Damaged)
}

fn check_header(disk: &Device, view: &View<'_>, lba: u64, sector_len: u32) -> Result<Header> {
    let revision = view.u32(format::GPT_REVISION_AT)?;
    if revision != format::GPT_REVISION {
        return Err(Error::malformed(format!(
            "GPT header: revision {:#x} expected, found {revision:#x}",
            format::GPT_REVISION
        )));
    }
    let header_len = view.u32(format::GPT_HEADER_LEN_AT)?;
    if !(format::GPT_HEADER_MIN_LEN..=sector_len).contains(&header_len) {
        return Err(Error::malformed(format!(
            "GPT header: length of {} to {sector_len} bytes expected, found {header_len}",
            format::GPT_HEADER_MIN_LEN
        )));
    }
    let header_len = usize::try_from(header_len)
        .map_err(|_| Error::malformed("GPT header: length does not fit"))?;
    let mut header = view.get(0, header_len)?.to_vec();
    crate::bytes::zero(&mut header, format::GPT_HEADER_CRC_AT, 4, "GPT header")?;
    check_crc(
        "GPT header",
        view.u32(format::GPT_HEADER_CRC_AT)?,
        crc32(&header),
    )?;
    let my_lba = view.u64(format::GPT_MY_LBA_AT)?;
    if my_lba != lba {
        return Err(Error::malformed(format!(
            "GPT header: its own sector number {lba} expected, found {my_lba}"
        )));
    }
    let first_usable = view.u64(format::GPT_FIRST_USABLE_AT)?;
    let last_usable = view.u64(format::GPT_LAST_USABLE_AT)?;
    if first_usable > last_usable {
        return Err(Error::malformed(format!(
            "GPT header: first usable sector before the last expected, found {first_usable} and \
             {last_usable}"
        )));
    }
    let entry_len = view.u32(format::GPT_ENTRY_LEN_AT)?;
    if !(format::GPT_ENTRY_MIN_LEN..=MAX_ENTRY_LEN).contains(&entry_len)
        || !entry_len.is_power_of_two()
    {
        return Err(Error::malformed(format!(
            "GPT header: entries of 128 * 2^n, at most {MAX_ENTRY_LEN} bytes expected, found \
             {entry_len}"
        )));
    }
    let entry_count = view.u32(format::GPT_ENTRY_COUNT_AT)?;
    if entry_count == 0 {
        return Err(Error::malformed(
            "GPT header: at least one entry expected, found 0",
        ));
    }
    if entry_count > MAX_ENTRIES {
        return Err(Error::limit(format!(
            "GPT header: at most {MAX_ENTRIES} entries expected, found {entry_count}"
        )));
    }
    let entries_lba = view.u64(format::GPT_ENTRIES_LBA_AT)?;
    if entries_lba < 2 {
        return Err(Error::malformed(format!(
            "GPT header: entries at sector 2 or behind expected, found {entries_lba}"
        )));
    }
    let entries_offset = entries_lba
        .checked_mul(u64::from(sector_len))
        .ok_or_else(|| Error::malformed(format!("GPT header: entries at sector {entries_lba}")))?;
    let entries_len = entry_count
        .checked_mul(entry_len)
        .and_then(|len| usize::try_from(len).ok())
        .ok_or_else(|| Error::limit("GPT header: entries too long"))?;
    let entries = read_piece(disk, entries_offset, entries_len, "GPT entries")?;
    check_crc(
        "GPT entries",
        view.u32(format::GPT_ENTRIES_CRC_AT)?,
        crc32(&entries),
    )
    .at("disk offset", format_args!("{entries_offset:#x}"))?;
    Ok(Header {
        sector_len,
        disk_id: ::hex::encode(view.get(format::GPT_DISK_ID_AT, format::GPT_DISK_ID_LEN)?),
        alternate_lba: view.u64(format::GPT_ALTERNATE_LBA_AT)?,
        first_usable,
        last_usable,
        entry_len: usize::try_from(entry_len)
            .map_err(|_| Error::limit("GPT header: entries too long"))?,
        entries,
    })
}

fn check_crc(what: &str, stored: u32, computed: u32) -> Result<()> {
    if stored == computed {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "{what}: CRC-32 {computed:#010x} expected, found {stored:#010x}"
    )))
}

/// A missing or different backup does not stop Windows; it is said, nothing more.
fn check_backup(disk: &Device, primary: &Header, table: &mut Table) {
    match read_header(disk, primary.alternate_lba, primary.sector_len) {
        Ok(backup) if backup.entries == primary.entries => {}
        Ok(_) => table
            .problems
            .push("GPT: the backup names other partitions than the primary".to_owned()),
        Err(Failure::Absent) => table.problems.push(format!(
            "GPT: no backup at sector {}: the disk was cut off or resized",
            primary.alternate_lba
        )),
        Err(Failure::Damaged(error)) => table
            .problems
            .push(format!("GPT: the backup is damaged: {error}")),
    }
}

fn slots(disk: &Device, header: &Header) -> Result<Table> {
    let mut table = Table::new(Scheme::Gpt, header.sector_len);
    table.disk_id = Some(header.disk_id.clone());
    for (bytes, number) in header.entries.chunks_exact(header.entry_len).zip(1_u32..) {
        let entry = View::new(bytes, "GPT entry");
        let kind: [u8; 16] = entry.array(format::GPT_KIND_AT)?;
        if kind != [0; 16] {
            let (slot, defect) = slot(&entry, number, &guid(&kind), header)?;
            push(&mut table, slot, defect);
        }
    }
    judge(disk, &mut table)?;
    Ok(table)
}

/// The slot of an entry, and what is wrong with the entry.
fn slot(
    entry: &View<'_>,
    number: u32,
    guid: &str,
    header: &Header,
) -> Result<(Slot, Option<String>)> {
    let first = entry.u64(format::GPT_FIRST_AT)?;
    let last = entry.u64(format::GPT_LAST_AT)?;
    let units = entry.units(format::GPT_NAME_AT, format::GPT_NAME_UNITS)?;
    let name: Vec<u16> = units.into_iter().take_while(|unit| *unit != 0).collect();
    let (kind, skip) = format::GPT_KINDS
        .iter()
        .find(|(known, ..)| *known == guid)
        .map_or((guid, None), |(_, kind, skip)| (*kind, *skip));

    let sector_len = u64::from(header.sector_len);
    let start = first.checked_mul(sector_len);
    let len = last
        .checked_sub(first)
        .and_then(|count| count.checked_add(1))
        .and_then(|count| count.checked_mul(sector_len));
    // The end must fit as well: everything behind this adds the two.
    let extent = match (start, len) {
        (Some(start), Some(len)) if start.checked_add(len).is_some() => Some((start, len)),
        _ => None,
    };
    let usable = header.first_usable..=header.last_usable;
    let outside = extent.is_none() || !usable.contains(&first) || !usable.contains(&last);
    let defect = outside.then(|| {
        format!(
            "sectors inside {}..={} expected, found {first}..={last}",
            header.first_usable, header.last_usable
        )
    });
    // What the table says is not shown as an extent when it is none.
    let (start, len) = extent.unwrap_or((start.unwrap_or(u64::MAX), 0));
    let slot = Slot {
        number,
        start,
        len,
        kind: kind.to_owned(),
        name: (!name.is_empty()).then(|| String::from_utf16_lossy(&name)),
        skip: skip.map(str::to_owned),
    };
    Ok((slot, defect))
}

/// A GUID as text: the first three fields are little-endian.
fn guid(bytes: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let [i, j, node @ ..] = rest;
    let plain = |bytes: &[u8]| hex(bytes).replace(' ', "");
    format!(
        "{}-{}-{}-{}-{}",
        plain(&[*d, *c, *b, *a]),
        plain(&[*f, *e]),
        plain(&[*h, *g]),
        plain(&[*i, *j]),
        plain(node)
    )
}

/// CRC-32 as UEFI means it: reflected polynomial 0xEDB88320, all ones before and after.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let shifted = crc >> 1;
            if crc & 1 == 1 {
                shifted ^ 0xEDB8_8320
            } else {
                shifted
            }
        })
    })
}
