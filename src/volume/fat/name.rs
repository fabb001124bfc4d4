//! Names: 8.3 with its checksum, and pieces of long names.

use super::format::{long, slot};
use crate::{
    text::{Name, ascii_upcase},
    volume::clusters::{Raw, byte, word},
};

/// Whether a slot holds a piece of a long name.
#[must_use]
pub(super) fn is_long(raw: &Raw) -> bool {
    byte(raw, slot::ATTRIBUTES) & slot::ATTRIBUTE_MASK == slot::LONG
}

/// The 11 bytes of a short name.
#[must_use]
pub(super) fn short_bytes(raw: &Raw) -> [u8; slot::NAME_LEN] {
    std::array::from_fn(|i| byte(raw, i))
}

/// The checksum of a short name that every piece of its long name repeats.
#[must_use]
pub(super) fn checksum(short: &[u8; slot::NAME_LEN]) -> u8 {
    short
        .iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// A short name as `NAME.EXT`. Bytes from 0x80 on are in a code page that the volume does not name:
/// they are shown as Latin-1.
#[must_use]
pub(super) fn short_name(raw: &Raw) -> Name {
    let mut bytes = short_bytes(raw);
    if let Some(first) = bytes.first_mut()
        && *first == slot::KANJI_E5
    {
        *first = 0xE5;
    }
    let case = byte(raw, slot::CASE);
    let (base, extension) = bytes.split_at(8);
    let part = |bytes: &[u8], lower: bool| -> Vec<u8> {
        let len = bytes.iter().rposition(|byte| *byte != b' ');
        let len = len.map_or(0, |last| last.saturating_add(1));
        let mut part = bytes.get(..len).unwrap_or_default().to_vec();
        if lower {
            part.make_ascii_lowercase();
        }
        part
    };
    let mut whole = part(base, case & 0x08 != 0);
    let extension = part(extension, case & 0x10 != 0);
    if !extension.is_empty() {
        whole.push(b'.');
        whole.extend(extension);
    }
    Name::from_latin1(&whole)
}

/// The units of a piece, up to the end of the name.
#[must_use]
pub(super) fn piece(raw: &Raw) -> Vec<u16> {
    let mut units = Vec::new();
    for (at, count) in long::PIECES {
        for i in 0..count {
            let unit = word(raw, at.saturating_add(i.saturating_mul(2)));
            if unit == 0 {
                return units;
            }
            units.push(unit);
        }
    }
    units
}

/// A folded name as the 11 bytes of a short one, if it is one.
#[must_use]
pub(super) fn as_short(folded: &[u16]) -> Option<[u8; slot::NAME_LEN]> {
    let bytes: Option<Vec<u8>> = folded
        .iter()
        .map(|unit| u8::try_from(ascii_upcase(*unit)).ok())
        .collect();
    let bytes = bytes?;
    let mut parts = bytes.splitn(2, |byte| *byte == b'.');
    let (base, extension) = (parts.next()?, parts.next().unwrap_or_default());
    let fits = (1..=8).contains(&base.len()) && extension.len() <= 3;
    if !fits || extension.contains(&b'.') {
        return None;
    }
    let mut short = [b' '; slot::NAME_LEN];
    for (to, from) in short.iter_mut().zip(base) {
        *to = *from;
    }
    for (to, from) in short.iter_mut().skip(8).zip(extension) {
        *to = *from;
    }
    Some(short)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn short_names_are_shown_as_windows_shows_them() {
        let mut raw: Raw = [0; 32];
        raw[..11].copy_from_slice(b"SMSCFG  INI");
        assert_eq!(short_name(&raw), Name::new("SMSCFG.INI"));
        raw[slot::CASE] = 0x18;
        assert_eq!(short_name(&raw), Name::new("smscfg.ini"));
        raw[..11].copy_from_slice(b"\x05OFTWARE   ");
        assert_eq!(short_name(&raw).units().first(), Some(&0xE5));
        let folded: Vec<u16> = "SMSCFG.INI".encode_utf16().collect();
        assert_eq!(as_short(&folded), Some(*b"SMSCFG  INI"));
        let folded: Vec<u16> = "_REGISTRY_MACHINE".encode_utf16().collect();
        assert_eq!(as_short(&folded), None);
    }

    /// From the specification's description of the sum: rotate right, add.
    #[test]
    fn the_checksum_rotates_right() {
        assert_eq!(checksum(b"\x01\0\0\0\0\0\0\0\0\0\0"), 0b0100_0000);
        assert_eq!(checksum(&[0; 11]), 0);
    }
}
