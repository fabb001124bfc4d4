//! Private-profile files (`.ini`): sections and entries, ANSI, UTF-8 or UTF-16.

/// An entry of an ini file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of its section, without brackets; empty before the first one.
    pub section: String,
    /// What is before `=`.
    pub key: String,
    /// What is behind it, without quotes around it.
    pub value: String,
}

/// Most entries kept; the files that matter have a dozen.
const MAX_ENTRIES: usize = 10_000;

/// The text of a file: UTF-16 by its byte order mark or by its zeros, UTF-8, or one byte a character.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    let wide = |bytes: &[u8], order: fn([u8; 2]) -> u16| {
        let (pairs, _) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| order(*pair)).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => wide(bytes, u16::from_le_bytes),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
        },
    }
}

/// All entries in the order of the file.
#[must_use]
pub fn entries(bytes: &[u8]) -> Vec<Entry> {
    let text = text_of(bytes);
    let mut section = String::new();
    let mut out = Vec::new();
    for line in text.split(['\n', '\r']) {
        let line = line.trim_matches(|c: char| c.is_whitespace() || c == '\0' || c == '\u{1a}');
        if line.starts_with(';') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.split(']').next().unwrap_or_default().trim().to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            if out.len() >= MAX_ENTRIES {
                break;
            }
            let value = value.trim();
            let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            out.push(Entry {
                section: section.clone(),
                key: key.trim().to_owned(),
                value: inner.unwrap_or(value).to_owned(),
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\u{1a}; a comment\r\nbare\r\n[State]\r\nImageState = \"IMAGE=1\" \r\n\
                        [ Second ]x\r\nA=\r\nK\u{e4}se=1\r\n";

    fn wanted() -> Vec<(String, String, String)> {
        [
            ("State", "ImageState", "IMAGE=1"),
            ("Second", "A", ""),
            ("Second", "K\u{e4}se", "1"),
        ]
        .map(|(s, k, v)| (s.to_owned(), k.to_owned(), v.to_owned()))
        .to_vec()
    }

    fn found(bytes: &[u8]) -> Vec<(String, String, String)> {
        entries(bytes)
            .into_iter()
            .map(|e| (e.section, e.key, e.value))
            .collect()
    }

    #[test]
    fn every_encoding_reads_the_same() {
        let wide: Vec<u8> = TEXT.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = TEXT.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let latin: Vec<u8> = TEXT.chars().filter_map(|c| u8::try_from(c).ok()).collect();
        assert_eq!(found(TEXT.as_bytes()), wanted());
        assert_eq!(found(&wide), wanted());
        assert_eq!(found(&latin), wanted());
        assert_eq!(found(&[&[0xFF, 0xFE], wide.as_slice()].concat()), wanted());
        assert_eq!(found(&[&[0xFE, 0xFF], big.as_slice()].concat()), wanted());
    }

    #[test]
    fn rubbish_has_no_entries() {
        assert!(found(&[0xFF; 3000]).is_empty());
        assert!(found(&[0; 3000]).is_empty());
        assert!(found(b"[[[[\n]]]]\n[").is_empty());
    }
}
