//! Names as they stand on disk (UTF-16 units, Latin-1), case folding, Windows paths, and the one
//! function that makes a name safe to print.

use std::fmt;

/// A name as UTF-16 units, exactly as stored: lone surrogates and control characters survive.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub Vec<u16>);

impl Name {
    /// Takes the units of a Rust string.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.encode_utf16().collect())
    }

    /// Takes Latin-1 bytes ("compressed" names of registry hives).
    #[must_use]
    pub fn from_latin1(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| u16::from(*byte)).collect())
    }

    /// The units.
    #[must_use]
    pub fn units(&self) -> &[u16] {
        &self.0
    }

    /// Equal when ASCII letters are folded; every other unit must be the same.
    #[must_use]
    pub fn eq_ascii(&self, text: &str) -> bool {
        eq_ascii(&self.0, text)
    }

    /// Equal when folded as the registry folds.
    #[must_use]
    pub fn eq_registry(&self, other: &Name) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| registry_upcase(*a) == registry_upcase(*b))
    }
}

/// Printable and unambiguous: see [`escape`].
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_units(&self.0))
    }
}

/// A Windows path: the names from the volume's root on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WinPath(pub Vec<Name>);

impl fmt::Display for WinPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("\\");
        }
        for name in &self.0 {
            write!(f, "\\{name}")?;
        }
        Ok(())
    }
}

/// Whether `units` are `text` when ASCII letters are folded.
#[must_use]
pub fn eq_ascii(units: &[u16], text: &str) -> bool {
    let mut other = text.encode_utf16();
    units.iter().all(|a| {
        other
            .next()
            .is_some_and(|b| ascii_upcase(*a) == ascii_upcase(b))
    }) && other.next().is_none()
}

/// Folds an ASCII letter, leaves every other unit alone.
#[must_use]
pub fn ascii_upcase(unit: u16) -> u16 {
    if (0x61..=0x7A).contains(&unit) {
        unit & !0x20
    } else {
        unit
    }
}

/// Folds one unit as the registry's table does: simple one-to-one mappings inside the BMP.
///
/// Units that Windows leaves alone although Unicode maps them were found by experiment
/// (`shared/tools/check_hive.py`); real hives sort and hash by this table.
#[must_use]
pub fn registry_upcase(unit: u16) -> u16 {
    if unit < 0x80 {
        return ascii_upcase(unit);
    }
    if matches!(unit, 0xB5 | 0xDF | 0x131 | 0x17F | 0x149 | 0x1F0 | 0x345) {
        return unit;
    }
    let Some(c) = char::from_u32(u32::from(unit)) else {
        return unit;
    };
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => u16::try_from(u32::from(one)).unwrap_or(unit),
        _ => unit,
    }
}

/// Makes text safe for a terminal, a log and a reader: control characters, bidirectional and
/// zero-width marks, fillers and line separators become `\u{..}`. A backslash stays: it separates paths.
#[must_use]
pub fn escape(text: &str) -> String {
    text.chars()
        .map(Escaped)
        .fold(String::with_capacity(text.len()), |mut out, c| {
            c.push(&mut out);
            out
        })
}

/// As [`escape`], from UTF-16; a lone surrogate becomes `\u{d800}`.
#[must_use]
pub fn escape_units(units: &[u16]) -> String {
    let mut out = String::with_capacity(units.len());
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(c) => Escaped(c).push(&mut out),
            Err(lone) => out.push_str(&format!("\\u{{{:x}}}", lone.unpaired_surrogate())),
        }
    }
    out
}

struct Escaped(char);

impl Escaped {
    fn push(self, out: &mut String) {
        let code = u32::from(self.0);
        let hidden = self.0.is_control()
            || matches!(code, 0xAD | 0x34F | 0x61C | 0x115F | 0x1160 | 0x17B4 | 0x17B5
                | 0x180B..=0x180F | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0x3164
                | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFC | 0xFFFE | 0xFFFF
                | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF);
        if hidden {
            out.push_str(&format!("\\u{{{code:x}}}"));
        } else {
            out.push(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_printed_harmlessly() {
        assert_eq!(
            escape("a\x1b[31m\u{202e}b\nc"),
            "a\\u{1b}[31m\\u{202e}b\\u{a}c"
        );
        assert_eq!(escape_units(&[0x41, 0xD800, 0x42]), "A\\u{d800}B");
        assert_eq!(escape("Käse \\ 漢字"), "Käse \\ 漢字");
    }

    #[test]
    fn folding_is_exact_never_prefix() {
        assert!(eq_ascii(Name::new("sMsCfG.InI").units(), "Smscfg.ini"));
        assert!(!eq_ascii(Name::new("Smscfg.ini ").units(), "Smscfg.ini"));
        assert!(!eq_ascii(Name::new("Smscfg.in").units(), "Smscfg.ini"));
        assert!(!eq_ascii(&[0x17F, 0x6D, 0x73], "sms"));
    }

    #[test]
    fn the_registry_folds_umlauts_but_not_sharp_s() {
        assert_eq!(registry_upcase(0xE4), 0xC4);
        assert_eq!(registry_upcase(0xDF), 0xDF);
        assert_eq!(registry_upcase(0xFF), 0x178);
        assert!(Name::new("ÄRGER").eq_registry(&Name::new("ärger")));
    }
}
