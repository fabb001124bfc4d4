//! A raw disk: the file is the disk. Recognised by what a disk begins with, never by default.

use std::sync::Arc;

use super::{Disk, Edges, Format, Open, RAW, format};

pub(super) const FORMAT: Format = Format {
    name: RAW,
    title: "a raw disk",
    probe,
    open: Open::Disk(|source| Ok(Disk::plain(Arc::clone(source.host)))),
};

fn probe(edges: &Edges) -> Option<String> {
    gpt(edges)
        .or_else(|| volume(edges))
        .or_else(|| mbr(edges))
        .or_else(|| backup_gpt(edges))
}

fn gpt(edges: &Edges) -> Option<String> {
    [512, 4096]
        .into_iter()
        .find(|at| edges.has(*at, format::GPT))
        .map(|at| format!("EFI PART at {at:#x}"))
}

/// Weak alone, and therefore last: the front of the disk is gone.
fn backup_gpt(edges: &Edges) -> Option<String> {
    [512, 4096]
        .into_iter()
        .find(|distance| edges.has_before_end(*distance, format::GPT))
        .map(|distance| format!("EFI PART {distance} bytes before the end (backup GPT)"))
}

/// A volume's boot sector. FAT has no fixed name: its parameters must be possible.
fn volume(edges: &Edges) -> Option<String> {
    let sector = edges.front(0, 512)?;
    if let Some((_, name)) = format::OEM
        .iter()
        .find(|(oem, _)| edges.has(format::OEM_AT, *oem))
    {
        return Some(format!("boot sector of {name} at 0x0"));
    }
    let byte = |at: usize| sector.get(at).copied();
    let word = |at: usize| Some(u16::from_le_bytes([byte(at)?, byte(at.checked_add(1)?)?]));
    let fat = edges.has(format::BOOT_SIGNATURE_AT, format::BOOT_SIGNATURE)
        && matches!(byte(0)?, 0xEB | 0xE9)
        && matches!(word(0x0B)?, 512 | 1024 | 2048 | 4096)
        && byte(0x0D)?.is_power_of_two()
        && word(0x0E)? != 0
        && matches!(byte(0x10)?, 1 | 2)
        && byte(0x15)? >= 0xF0;
    fat.then(|| "boot sector of FAT at 0x0".to_owned())
}

/// A table with at least one partition that begins inside the file, and no impossible status byte.
fn mbr(edges: &Edges) -> Option<String> {
    if !edges.has(format::BOOT_SIGNATURE_AT, format::BOOT_SIGNATURE) {
        return None;
    }
    let (entries, _) = edges
        .front(format::MBR_ENTRIES_AT, format::MBR_ENTRIES_LEN)?
        .as_chunks::<16>();
    let mut partitions = 0_u32;
    for [status, _, _, _, kind, _, _, _, a, b, c, d, count @ ..] in entries {
        if !matches!(status, 0x00 | 0x80) {
            return None;
        }
        let start = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
        let inside = start.saturating_mul(format::SECTOR) < edges.len;
        if *kind != 0 && *count != [0; 4] && start != 0 && inside {
            partitions = partitions.saturating_add(1);
        }
    }
    (partitions > 0).then(|| {
        let plural = if partitions == 1 { "" } else { "s" };
        format!("MBR with {partitions} partition{plural} (55 aa at 0x1fe)")
    })
}
