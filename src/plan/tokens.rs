//! What to search for afterwards: every form in which a removed identifier, name or content can
//! still stand somewhere. Pure; the searching is `verify`'s.

use std::collections::HashSet;

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

/// Longest token: of a longer text or content a few windows of that length are searched for.
pub const MAX_LEN: usize = 128;
/// Lines of one file that are searched for as they stand.
const MAX_LINES: usize = 256;
/// Most tokens of each class: identifiers, contents, names.
const MOST: [usize; 3] = [1 << 16, 1 << 14, 1 << 12];
/// Characters of a text that its label shows.
const LABEL_LEN: usize = 80;

/// What tokens are put into.
pub trait Sink {
    /// Takes one.
    fn put(&mut self, token: Token);
}

impl Sink for Vec<Token> {
    fn put(&mut self, token: Token) {
        self.push(token);
    }
}

/// Tokens without repeats, and no more of them than a search can bear.
#[derive(Debug, Default)]
pub struct Tokens {
    list: Vec<Token>,
    seen: HashSet<(Vec<u8>, bool)>,
    counts: [usize; 3],
    cut: u64,
}

impl Tokens {
    /// The tokens, and how many others there would have been.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Token>, u64) {
        (self.list, self.cut)
    }
}

impl Sink for Tokens {
    fn put(&mut self, token: Token) {
        let key = (token.bytes, token.fold);
        if self.seen.contains(&key) {
            return;
        }
        let class = match token.class {
            Class::Identifier => 0,
            Class::Content => 1,
            Class::Name => 2,
        };
        if self.counts[class] >= MOST[class] {
            self.cut += 1;
            return;
        }
        self.counts[class] += 1;
        self.list.push(Token {
            bytes: key.0.clone(),
            ..token
        });
        self.seen.insert(key);
    }
}

/// Where the windows of `len` bytes begin that stand for something longer; multiples of `unit`.
fn spread(len: usize, window: usize, unit: usize) -> Vec<usize> {
    let last = len.saturating_sub(window) / unit * unit;
    let mut starts: Vec<usize> = [0, last / 3, last / 3 * 2, last]
        .iter()
        .map(|start| start / unit * unit)
        .collect();
    starts.dedup();
    starts
}

/// A text as a label shows it.
fn shown(text: &str) -> String {
    match text.char_indices().nth(LABEL_LEN) {
        Some((end, _)) => format!("{}...", crate::text::escape(&text[..end])),
        None => crate::text::escape(text),
    }
}

/// All forms of a text: ASCII (Latin-1) and UTF-16LE, any case.
pub fn of_text(text: &str, class: Class, out: &mut impl Sink) {
    let name = Name::new(text);
    let ascii: Option<Vec<u8>> = name.units().iter().map(|u| u8::try_from(*u).ok()).collect();
    let wide: Vec<u8> = name
        .units()
        .iter()
        .flat_map(|unit| unit.to_le_bytes())
        .collect();
    for (form, unit, bytes) in [("ASCII", 1, ascii), ("UTF-16", 2, Some(wide))] {
        let Some(bytes) = bytes.filter(|bytes| bytes.len() >= MIN_LEN) else {
            continue;
        };
        for start in spread(bytes.len(), MAX_LEN, unit) {
            let end = bytes.len().min(start + MAX_LEN);
            let part = match bytes.len() > MAX_LEN {
                true => format!(", bytes {start}-{end}"),
                false => String::new(),
            };
            out.put(Token {
                label: format!("{}{part} ({form})", shown(text)),
                bytes: bytes[start..end].to_vec(),
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
pub fn of_fat_name(text: &str, out: &mut impl Sink) {
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
        out.put(Token {
            label: format!("{name} ({form})"),
            bytes,
            fold: true,
            class: Class::Name,
        });
    }
}

/// All forms of the GUIDs in a text (with and without dashes, as text and as bytes in both
/// orders); the text itself if there is no GUID in it.
pub fn of_identifier(text: &str, out: &mut impl Sink) {
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
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let mut digits = String::new();
        let mut pos = at;
        let fits = GROUPS.iter().enumerate().all(|(i, len)| {
            if i > 0 {
                if bytes.get(pos) != Some(&b'-') {
                    return false;
                }
                pos += 1;
            }
            (0..*len).all(|_| {
                let digit = bytes.get(pos).filter(|b| b.is_ascii_hexdigit());
                pos += 1;
                let digit = digit.map(|b| char::from(b.to_ascii_lowercase()));
                digit.map(|digit| digits.push(digit)).is_some()
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

fn of_guid(digits: &str, out: &mut impl Sink) {
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
            out.put(Token {
                label,
                bytes,
                fold: false,
                class: Class::Identifier,
            });
        }
    }
}

/// A removed certificate: its thumbprint, as text and as bytes, and its end.
pub fn of_certificate(name: &str, stored: &Stored, out: &mut impl Sink) {
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
            out.put(Token {
                label: format!("{thumbprint} (binary)"),
                bytes,
                fold: false,
                class: Class::Identifier,
            });
        }
    }
    let label = format!("certificate {}", crate::text::escape(name));
    of_bytes(&label, &stored.end, out);
}

/// Pieces of a removed file's content: lines that carry a value for text, spread windows for
/// binary data. Bytes that stand in many files (zeros, headings) are no evidence and are left out.
pub fn of_content(label: &str, bytes: &[u8], out: &mut impl Sink) {
    if let Some(text) = as_text(bytes) {
        for guid in guids_in(&text) {
            of_guid(&guid, out);
        }
        let lines: Vec<&str> = text.lines().filter(|line| has_value(line)).collect();
        // Of many lines some, from the whole file: as windows are of binary data.
        let step = lines.len().div_ceil(MAX_LINES).max(1);
        for line in lines.iter().step_by(step) {
            of_text(line.trim_end(), Class::Content, out);
        }
        return;
    }
    of_bytes(label, bytes, out);
}

/// Whether a line gives a key a value of some length.
fn has_value(line: &str) -> bool {
    line.split_once('=')
        .is_some_and(|(key, value)| value.trim().len() >= 12 && !key.trim_start().starts_with(';'))
}

/// Spread windows of binary data.
fn of_bytes(label: &str, bytes: &[u8], out: &mut impl Sink) {
    const WINDOW: usize = 32;
    for start in spread(bytes.len(), WINDOW, 1) {
        let window = &bytes[start..bytes.len().min(start + WINDOW)];
        let mut seen = [false; 256];
        window.iter().for_each(|b| seen[usize::from(*b)] = true);
        if window.len() >= MIN_LEN && seen.iter().filter(|s| **s).count() >= 6 {
            out.put(Token {
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
    fn long_texts_and_contents_give_few_short_tokens() {
        for text in ["A".repeat(1 << 20), "0123456789".repeat(100_000)] {
            let mut tokens = Tokens::default();
            of_identifier(&text, &mut tokens);
            of_content("x", format!("a={text}").as_bytes(), &mut tokens);
            let (tokens, cut) = tokens.into_parts();
            assert!((2..=16).contains(&tokens.len()), "{}", tokens.len());
            assert!(tokens.iter().all(|t| t.bytes.len() <= MAX_LEN));
            assert!(tokens.iter().all(|t| t.label.len() < 200));
            assert_eq!(cut, 0);
        }
        let mut tokens = Tokens::default();
        let lines = |from: usize| -> String {
            (from..from + 100)
                .map(|i| format!("key{i}=a value of its own\r\n"))
                .collect()
        };
        of_content("x", lines(0).repeat(1000).as_bytes(), &mut tokens);
        (0..200).for_each(|i| of_content("x", lines(i * 100).as_bytes(), &mut tokens));
        let (tokens, cut) = tokens.into_parts();
        assert_eq!((tokens.len(), cut), (MOST[1], 40_000 - (MOST[1] as u64)));
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
