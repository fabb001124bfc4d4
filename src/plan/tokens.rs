//! What to search for afterwards: every form in which a removed identifier, name or content can
//! still stand somewhere. Pure; the searching is `verify`'s.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{text::Name, windows::capi::Stored};

/// How much a hit means.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The identity itself: a hit is residue wherever it is.
    Identifier,
    /// A piece of a removed file: a hit is residue wherever it is.
    Content,
    /// A removed file's or key's name: programs and logs may mention it, too.
    Name,
}

/// One byte string to search for.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema, Deserialize,
)]
pub struct Token {
    /// What it is, for the report: `GUID:1111... (UTF-16)`.
    pub label: String,
    /// The bytes.
    #[serde(with = "hex::serde")]
    #[schemars(with = "String")]
    pub bytes: Vec<u8>,
    /// Whether ASCII letters match in either case.
    pub fold: bool,
    /// What a hit means.
    pub class: Class,
}

/// Shortest token worth a search: anything shorter is found by accident.
pub const MIN_LEN: usize = 8;

/// All forms of a text: ASCII (Latin-1) and UTF-16LE, any case.
pub fn of_text(text: &str, class: Class, out: &mut Vec<Token>) {
    let name = Name::new(text);
    let ascii: Option<Vec<u8>> = name.units().iter().map(|u| u8::try_from(*u).ok()).collect();
    let wide: Vec<u8> = name
        .units()
        .iter()
        .flat_map(|unit| unit.to_le_bytes())
        .collect();
    for (form, bytes) in [("ASCII", ascii), ("UTF-16", Some(wide))] {
        if let Some(bytes) = bytes.filter(|bytes| bytes.len() >= MIN_LEN) {
            let label = format!("{} ({form})", crate::text::escape(text));
            out.push(Token {
                label,
                bytes,
                fold: true,
                class,
            });
        }
    }
}

/// A name as it stands in the slots of a FAT directory: the short name without its first byte, which
/// a deletion overwrites, and the first piece of a long one that has the same short name. (Microsoft's
/// FAT specification 1.03: base and extension padded with spaces; 5 units, attributes 0x0F, type 0,
/// checksum, 6 units.)
pub fn of_fat_name(text: &str, out: &mut Vec<Token>) {
    let upper = text.to_ascii_uppercase();
    let (base, extension) = upper.split_once('.').unwrap_or((&upper, ""));
    let fits = text.is_ascii() && (1..=8).contains(&base.len()) && extension.len() <= 3;
    if !fits || extension.contains('.') {
        return;
    }
    let short = format!("{base:<8}{extension:<3}").into_bytes();
    let sum = short
        .iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut units: Vec<u16> = text.encode_utf16().take(11).collect();
    units.resize(11, 0xFFFF);
    if let Some(end) = units.get_mut(text.len()) {
        *end = 0;
    }
    let (front, back) = units.split_at(5);
    let wide = |units: &[u16]| -> Vec<u8> { units.iter().flat_map(|u| u.to_le_bytes()).collect() };
    let long = [wide(front), vec![0x0F, 0, sum], wide(back)].concat();
    let name = crate::text::escape(text);
    for (form, bytes) in [
        ("FAT short name", short[1..].to_vec()),
        ("FAT long name", long),
    ] {
        out.push(Token {
            label: format!("{name} ({form})"),
            bytes,
            fold: true,
            class: Class::Name,
        });
    }
}

/// All forms of the GUIDs in a text (with and without dashes, as text and as bytes in both
/// orders); the text itself if there is no GUID in it.
pub fn of_identifier(text: &str, out: &mut Vec<Token>) {
    let guids = guids_in(text);
    for guid in &guids {
        of_guid(guid, out);
    }
    if guids.is_empty() && text.trim().len() >= MIN_LEN {
        of_text(text.trim(), Class::Identifier, out);
    }
}

/// The GUIDs in a text, as 32 lower-case hex digits.
#[must_use]
pub fn guids_in(text: &str) -> Vec<String> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let mut digits = String::with_capacity(32);
        let mut pos = at;
        let fits = GROUPS.iter().enumerate().all(|(i, len)| {
            if i > 0 {
                if chars.get(pos) != Some(&'-') {
                    return false;
                }
                pos += 1;
            }
            (0..*len).all(|_| {
                let digit = chars.get(pos).filter(|c| c.is_ascii_hexdigit());
                pos += 1;
                digit.map(|c| digits.push(c.to_ascii_lowercase())).is_some()
            })
        });
        if fits {
            found.push(digits);
            at = pos;
        } else {
            at += 1;
        }
    }
    found.sort();
    found.dedup();
    found
}

fn of_guid(digits: &str, out: &mut Vec<Token>) {
    let dashed = format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    );
    of_text(&dashed, Class::Identifier, out);
    of_text(digits, Class::Identifier, out);
    let Ok(big) = hex::decode(digits) else { return };
    let mut little = big.clone();
    little[..4].reverse();
    little[4..6].reverse();
    little[6..8].reverse();
    for (form, bytes) in [
        ("binary, big-endian", big),
        ("binary, little-endian", little),
    ] {
        // An all-equal GUID (zeros) would be found in every empty block.
        if bytes.iter().any(|b| *b != bytes[0]) {
            let label = format!("{dashed} ({form})");
            out.push(Token {
                label,
                bytes,
                fold: false,
                class: Class::Identifier,
            });
        }
    }
}

/// A removed certificate: its thumbprint, as text and as bytes, and pieces of it.
pub fn of_certificate(name: &str, stored: &Stored, blob: &[u8], out: &mut Vec<Token>) {
    for thumbprint in [Some(name), stored.thumbprint.as_deref()]
        .into_iter()
        .flatten()
    {
        let Some(bytes) = hex::decode(thumbprint)
            .ok()
            .filter(|bytes| bytes.len() == 20)
        else {
            continue;
        };
        of_text(thumbprint, Class::Identifier, out);
        if bytes.iter().any(|byte| *byte != bytes[0]) {
            out.push(Token {
                label: format!("{thumbprint} (binary)"),
                bytes,
                fold: false,
                class: Class::Identifier,
            });
        }
    }
    of_bytes(
        &format!("certificate {}", crate::text::escape(name)),
        blob,
        out,
    );
}

/// Pieces of a removed file's content: lines that carry a value for text, spread windows for
/// binary data. Bytes that stand in many files (zeros, headings) are no evidence and are left out.
pub fn of_content(label: &str, bytes: &[u8], out: &mut Vec<Token>) {
    if let Some(text) = as_text(bytes) {
        for guid in guids_in(&text) {
            of_guid(&guid, out);
        }
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            if value.trim().len() >= 12 && !key.trim_start().starts_with(';') {
                of_text(line.trim_end(), Class::Content, out);
            }
        }
        return;
    }
    of_bytes(label, bytes, out);
}

/// Spread windows of binary data.
fn of_bytes(label: &str, bytes: &[u8], out: &mut Vec<Token>) {
    const WINDOW: usize = 32;
    let last = bytes.len().saturating_sub(WINDOW);
    for start in [0, last / 3, last / 3 * 2, last] {
        let window = &bytes[start..bytes.len().min(start + WINDOW)];
        let mut seen = [false; 256];
        window.iter().for_each(|b| seen[usize::from(*b)] = true);
        if window.len() >= MIN_LEN && seen.iter().filter(|s| **s).count() >= 6 {
            out.push(Token {
                label: format!("{label}, bytes {start}-{}", start + window.len()),
                bytes: window.to_vec(),
                fold: false,
                class: Class::Content,
            });
        }
    }
}

/// The text of a file if it is one: UTF-16 with a mark, or bytes without control characters.
#[must_use]
pub fn as_text(bytes: &[u8]) -> Option<String> {
    if let Some(wide) = bytes.strip_prefix(&[0xFF, 0xFE]) {
        let (pairs, _) = wide.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        return Some(String::from_utf16_lossy(&units));
    }
    let is_text = !bytes.is_empty()
        && bytes
            .iter()
            .all(|b| *b >= 0x20 || matches!(b, b'\r' | b'\n' | b'\t' | 0x1A));
    is_text.then(|| bytes.iter().map(|b| char::from(*b)).collect())
}

/// Sorts, drops repeats.
pub fn tidy(tokens: &mut Vec<Token>) {
    tokens.sort_by(|a, b| (&a.bytes, a.fold, a.class).cmp(&(&b.bytes, b.fold, b.class)));
    tokens.dedup_by(|a, b| a.bytes == b.bytes && a.fold == b.fold);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots that mtools 4.0.32 wrote for `Smsuid.dat`, the short one deleted.
    #[test]
    fn names_are_searched_as_fat_directories_hold_them() {
        let mut tokens = Vec::new();
        of_fat_name("Smsuid.dat", &mut tokens);
        let long = hex::decode("53006d007300750069000f008464002e006400610074000000").unwrap();
        let found: Vec<&[u8]> = tokens.iter().map(|t| t.bytes.as_slice()).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], b"MSUID  DAT");
        assert_eq!(found[1], long);
        of_fat_name("a name that is too long.ini", &mut tokens);
        assert_eq!(tokens.len(), 2);
    }

    #[test]
    fn a_guid_is_searched_in_every_form() {
        let mut tokens = Vec::new();
        of_identifier("GUID:11223344-5566-7788-99AA-BBCCDDEEFF00", &mut tokens);
        let has = |bytes: &[u8]| tokens.iter().any(|t| t.bytes == bytes);
        assert!(has(b"11223344-5566-7788-99aa-bbccddeeff00"));
        assert!(has(b"112233445566778899aabbccddeeff00"));
        assert!(has(
            &hex::decode("112233445566778899aabbccddeeff00").unwrap()
        ));
        assert!(has(
            &hex::decode("443322116655887799aabbccddeeff00").unwrap()
        ));
        assert!(has(&"11223344-5566-7788-99aa-bbccddeeff00"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>()));
        assert_eq!(tokens.len(), 6);
    }

    #[test]
    fn zeros_and_short_texts_are_no_evidence() {
        let mut tokens = Vec::new();
        of_identifier("00000000-0000-0000-0000-000000000000", &mut tokens);
        assert!(tokens.iter().all(|t| t.bytes.iter().any(|b| *b != 0)));
        tokens.clear();
        of_identifier("AB", &mut tokens);
        of_content("x", &[0; 4096], &mut tokens);
        assert!(tokens.is_empty());
    }

    #[test]
    fn an_ini_gives_its_values_not_its_headings() {
        let mut tokens = Vec::new();
        let ini = b"[Configuration - Client Properties]\r\nSID=S-1-5-21-1-2-3\r\nX=1\r\n\
            SMS Unique Identifier=GUID:11111111-2222-4333-8444-555555555555\r\n";
        of_content("ini", ini, &mut tokens);
        tidy(&mut tokens);
        assert!(tokens.iter().any(|t| t.bytes == b"SID=S-1-5-21-1-2-3"));
        assert!(!tokens.iter().any(|t| t.bytes.starts_with(b"[Config")));
        assert!(
            tokens
                .iter()
                .any(|t| t.bytes == b"11111111-2222-4333-8444-555555555555")
        );
    }
}
