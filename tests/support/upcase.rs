//! The upper-case rule of the built hives and volumes: one UTF-16 unit in, one unit out.
//!
//! Restricted to blocks whose case pairs have been frozen in Unicode for decades, so that a newer
//! compiler with newer Unicode tables builds the same bytes.

/// Blocks whose simple case mappings do not change any more, inclusive.
const FROZEN: [(u16, u16); 7] = [
    (0x0061, 0x007a),
    (0x00e0, 0x00ff),
    (0x0100, 0x0217),
    (0x0370, 0x0586),
    (0x1e00, 0x1fff),
    (0x2170, 0x24e9),
    (0xff41, 0xff5a),
];

/// Units which Windows leaves alone although Unicode gives them a partner.
const KEPT: [u16; 3] = [0x0131, 0x017f, 0x03c2];

/// The upper-case partner of `unit`, or `unit` itself.
pub fn unit(unit: u16) -> u16 {
    if unit < 0x80 {
        return if (0x61..=0x7a).contains(&unit) {
            unit - 32
        } else {
            unit
        };
    }
    if KEPT.contains(&unit) || !FROZEN.iter().any(|(a, b)| (*a..=*b).contains(&unit)) {
        return unit;
    }
    let Some(c) = char::from_u32(u32::from(unit)) else {
        return unit;
    };
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(u), None) => u16::try_from(u32::from(u)).unwrap_or(unit),
        _ => unit,
    }
}

/// The upper-case UTF-16 units of `s`: the sort key of registry names and of NTFS names.
pub fn key(s: &str) -> Vec<u16> {
    s.encode_utf16().map(unit).collect()
}

/// The 65,536-entry table of `$UpCase`, little-endian.
pub fn table() -> Vec<u8> {
    (0..=u16::MAX).flat_map(|u| unit(u).to_le_bytes()).collect()
}
