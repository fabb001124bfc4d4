//! The metadata files: their fixed contents.

use super::geometry::Geometry;
use super::{Log, NtfsBuilder, attribute, index};
use crate::support::{put, sd};

/// Where the second copy of every `$SDS` block lies.
const SDS_MIRROR: usize = 0x4_0000;
/// The security id of everything.
pub(super) const SECURITY_ID: u32 = 0x100;

/// The boot sector: 512 bytes.
pub(super) fn boot_sector(v: &NtfsBuilder, sectors: u64, mft: u64, mirror: u64) -> Vec<u8> {
    let g = &v.geometry;
    let mut b = vec![0; 512];
    put::bytes(&mut b, 0, &[0xeb, 0x52, 0x90]);
    put::bytes(&mut b, 3, b"NTFS    ");
    put::u16(&mut b, 11, u16::try_from(g.sector).unwrap());
    let per = g.cluster / g.sector;
    b[13] = match u8::try_from(per) {
        Ok(n @ 1..=128) => n,
        _ => 0u8.wrapping_sub(u8::try_from(per.trailing_zeros()).unwrap()),
    };
    b[21] = 0xf8;
    put::u16(&mut b, 24, 63);
    put::u16(&mut b, 26, 255);
    put::u32(&mut b, 28, v.hidden_sectors);
    put::u32(&mut b, 36, 0x0080_0080);
    put::u64(&mut b, 40, sectors);
    put::u64(&mut b, 48, mft);
    put::u64(&mut b, 56, mirror);
    b[64] = g.per(g.record);
    b[68] = g.per(g.index);
    put::u64(&mut b, 72, v.serial);
    put::u16(&mut b, 510, 0xaa55);
    b
}

/// `$AttrDef`: name, type, flags, least and most bytes.
const ATTRIBUTES: [(&str, u32, u32, u64, u64); 15] = [
    ("$STANDARD_INFORMATION", 0x10, 0x40, 48, 72),
    ("$ATTRIBUTE_LIST", 0x20, 0x80, 0, u64::MAX),
    ("$FILE_NAME", 0x30, 0x42, 68, 578),
    ("$OBJECT_ID", 0x40, 0x40, 0, 256),
    ("$SECURITY_DESCRIPTOR", 0x50, 0x80, 0, u64::MAX),
    ("$VOLUME_NAME", 0x60, 0x40, 2, 256),
    ("$VOLUME_INFORMATION", 0x70, 0x40, 12, 12),
    ("$DATA", 0x80, 0, 0, u64::MAX),
    ("$INDEX_ROOT", 0x90, 0x40, 0, u64::MAX),
    ("$INDEX_ALLOCATION", 0xa0, 0x80, 0, u64::MAX),
    ("$BITMAP", 0xb0, 0x80, 0, u64::MAX),
    ("$REPARSE_POINT", 0xc0, 0x80, 0, 16_384),
    ("$EA_INFORMATION", 0xd0, 0x40, 8, 8),
    ("$EA", 0xe0, 0, 0, 65_536),
    ("$LOGGED_UTILITY_STREAM", 0x100, 0x80, 0, 65_536),
];

pub(super) fn attribute_definitions() -> Vec<u8> {
    let mut v = vec![0; 160 * (ATTRIBUTES.len() + 1)];
    for (i, (name, kind, flags, least, most)) in ATTRIBUTES.into_iter().enumerate() {
        let b = &mut v[160 * i..160 * (i + 1)];
        put::bytes(b, 0, &put::utf16(name));
        put::u32(b, 128, kind);
        put::u32(b, 132, 0);
        put::u32(b, 136, u32::from(kind == 0x30));
        put::u32(b, 140, flags);
        put::u64(b, 144, least);
        put::u64(b, 152, most);
    }
    v
}

/// The one descriptor every file uses.
pub(super) fn descriptor() -> Vec<u8> {
    sd::descriptor(0)
}

fn security_hash(descriptor: &[u8]) -> u32 {
    let mut padded = descriptor.to_vec();
    padded.resize(padded.len().next_multiple_of(4), 0);
    padded.chunks_exact(4).fold(0u32, |h, w| {
        h.rotate_left(3)
            .wrapping_add(u32::from_le_bytes(w.try_into().unwrap()))
    })
}

/// `$Secure`: the `$SDS` stream, the `$SDH` entry, the `$SII` entry.
pub(super) fn security() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let descriptor = descriptor();
    let hash = security_hash(&descriptor);
    let mut header = vec![0; 20];
    put::u32(&mut header, 0, hash);
    put::u32(&mut header, 4, SECURITY_ID);
    put::u32(
        &mut header,
        16,
        u32::try_from(20 + descriptor.len()).unwrap(),
    );
    let mut sds = vec![0; SDS_MIRROR];
    put::bytes(&mut sds, 0, &header);
    put::bytes(&mut sds, 20, &descriptor);
    sds.extend(&header);
    sds.extend(&descriptor);
    let mut key = hash.to_le_bytes().to_vec();
    key.extend(SECURITY_ID.to_le_bytes());
    // $SDH data is followed by "II" in UTF-16, outside its stated length.
    let mut sdh = index::view_entry(&key, &header);
    put::bytes(&mut sdh, 16 + 8 + 20, &[0x49, 0, 0x49, 0]);
    (
        sds,
        sdh,
        index::view_entry(&SECURITY_ID.to_le_bytes(), &header),
    )
}

/// The `$Quota:$Q` entry every volume has: defaults, nothing tracked.
pub(super) fn quota_entry() -> Vec<u8> {
    let mut data = vec![0; 48];
    put::u32(&mut data, 0, 2);
    put::u32(&mut data, 4, 1);
    put::u64(&mut data, 16, super::TIME);
    put::u64(&mut data, 24, u64::MAX);
    put::u64(&mut data, 32, u64::MAX);
    index::view_entry(&1u32.to_le_bytes(), &data)
}

/// `$LogFile`: its first pages; everything after them is 0xFF.
pub(super) fn restart_pages(log: Log, len: u64) -> Vec<u8> {
    let (minor, major, flags, in_use, lsns) = match log {
        Log::Empty => return Vec::new(),
        Log::Clean11 => (1, 1, 2, 0, [0x0010_2030, 0x0010_2030]),
        Log::Dirty11 => (1, 1, 0, 0, [0x0010_2030, 0x0010_2044]),
        Log::Clean20 => (0, 2, 2, 0, [0x0010_2030, 0x0010_2030]),
        Log::Dirty20 => (0, 2, 0, 0, [0x0010_2044, 0x0010_2030]),
    };
    let mut pages = Vec::new();
    for lsn in lsns {
        let mut p = vec![0; 4096];
        put::bytes(&mut p, 0, b"RSTR");
        put::u16(&mut p, 4, 0x1e);
        put::u16(&mut p, 6, 9);
        put::u32(&mut p, 16, 4096);
        put::u32(&mut p, 20, 4096);
        put::u16(&mut p, 24, 0x30);
        put::u16(&mut p, 26, minor);
        put::u16(&mut p, 28, major);
        let area = &mut p[0x30..];
        put::u64(area, 0, lsn);
        put::u16(area, 8, 1);
        put::u16(area, 10, 0xffff);
        put::u16(area, 12, in_use);
        put::u16(area, 14, flags);
        put::u32(area, 16, 67 - (64 - len.leading_zeros()));
        put::u16(area, 20, 0xe0);
        put::u16(area, 22, 0x40);
        put::u64(area, 24, len);
        put::u32(area, 32, 40);
        put::u16(area, 36, 0x30);
        put::u16(area, 38, 0x40);
        put::u32(area, 40, 0x5a17_09c3);
        let client = &mut area[0x40..];
        put::u64(client, 0, lsn - 16);
        put::u64(client, 8, lsn - 8);
        put::u16(client, 16, 0xffff);
        put::u16(client, 18, 0xffff);
        put::u32(client, 28, 8);
        put::bytes(client, 32, &put::utf16("NTFS"));
        attribute::protect(&mut p, 1);
        pages.extend(p);
    }
    pages
}

/// The length of `$LogFile` if the description leaves it open.
pub(super) fn log_len(v: &NtfsBuilder) -> u64 {
    let g: &Geometry = &v.geometry;
    put::round_up(v.log_len.unwrap_or(2 << 20), g.cluster.max(4096))
}
