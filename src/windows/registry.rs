//! A hive for reporting: single values by path, nothing checked that is not needed, total on hostile bytes.

use crate::{
    error::Result,
    hive::{Hive, KeyRef, ValueRef},
    text::{Name, escape},
};

use super::machine::Source;

/// Longest data looked at; what identifies a machine is far shorter.
const MAX_DATA: u32 = 1 << 16;
/// Longest text put into a report.
const MAX_TEXT: usize = 400;
/// Most subkeys or values listed of one key.
const MAX_LISTED: usize = 1000;

/// A value as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// REG_* type.
    pub kind: u32,
    /// Its data.
    pub data: Vec<u8>,
    /// Where it is.
    pub source: Source,
}

impl Value {
    /// The text of REG_SZ, REG_EXPAND_SZ and REG_MULTI_SZ data up to the first NUL, in full.
    #[must_use]
    pub fn raw_text(&self) -> Option<String> {
        if !matches!(self.kind, 1 | 2 | 7) {
            return None;
        }
        let (pairs, _) = self.data.as_chunks::<2>();
        let units: Vec<u16> = pairs
            .iter()
            .map(|pair| u16::from_le_bytes(*pair))
            .take_while(|unit| *unit != 0)
            .collect();
        Some(String::from_utf16_lossy(&units))
    }

    /// As [`Value::raw_text`], made safe to print.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        self.raw_text().map(|text| shown(&text))
    }

    /// REG_DWORD.
    #[must_use]
    pub fn dword(&self) -> Option<u32> {
        let bytes = self.data.first_chunk::<4>()?;
        match self.kind {
            4 => Some(u32::from_le_bytes(*bytes)),
            5 => Some(u32::from_be_bytes(*bytes)),
            _ => None,
        }
    }

    /// Whatever it is, for a person.
    #[must_use]
    pub fn show(&self) -> String {
        match (self.text(), self.dword()) {
            (Some(text), _) => text,
            (None, Some(number)) => number.to_string(),
            (None, None) => {
                let head = self.data.get(..self.data.len().min(32)).unwrap_or_default();
                format!("{} bytes {}", self.data.len(), hex::encode(head))
            }
        }
    }
}

/// Text from an image, safe to print and of bounded length.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = escape(text);
    if let Some((at, _)) = out.char_indices().nth(MAX_TEXT) {
        out.truncate(at);
        out.push_str("...");
    }
    out
}

/// One hive, with its path for [`Source`]s.
#[derive(Debug)]
pub struct Registry<'a> {
    hive: Hive<'a>,
    path: &'a str,
}

impl<'a> Registry<'a> {
    /// Reads the header and nothing else.
    pub fn open(bytes: &'a [u8], path: &'a str) -> Result<Self> {
        let hive = Hive::open(bytes)?;
        // A hive without a root key answers no question at all.
        hive.name(hive.root())?;
        Ok(Self { hive, path })
    }

    /// List entries that led nowhere; while there are such, "absent" proves nothing.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.hive.skipped()
    }

    /// Where a key or value of this hive is.
    #[must_use]
    pub fn source(&self, key: &str, value: Option<&str>) -> Source {
        Source {
            file: self.path.to_owned(),
            key: Some(key.to_owned()),
            value: value.map(shown),
        }
    }

    /// The first key of this path; its parts are separated by a backslash.
    #[must_use]
    pub fn key(&self, path: &str) -> Option<KeyRef> {
        let parts: Vec<&str> = path.split('\\').filter(|part| !part.is_empty()).collect();
        self.hive.find_keys(&parts).ok()?.first().copied()
    }

    /// A value; the default value has an empty name.
    #[must_use]
    pub fn value(&self, key: &str, name: &str) -> Option<Value> {
        let wanted = Name::new(name);
        let values = self.hive.values(self.key(key)?).ok()?;
        let found = values.iter().find(|v| v.name.eq_registry(&wanted))?;
        Some(self.read(key, found))
    }

    /// All values of a key.
    #[must_use]
    pub fn values(&self, key: &str) -> Vec<(String, Value)> {
        let values = self.key(key).and_then(|key| self.hive.values(key).ok());
        let values = values.unwrap_or_default();
        let values = values.iter().take(MAX_LISTED);
        values
            .map(|found| (found.name.to_string(), self.read(key, found)))
            .collect()
    }

    /// The names of a key's subkeys, escaped.
    #[must_use]
    pub fn subkeys(&self, key: &str) -> Vec<String> {
        let found = self.key(key).and_then(|key| self.hive.subkeys(key).ok());
        let found = found.unwrap_or_default();
        let names = found.iter().map(|(_, name)| name.to_string());
        names.take(MAX_LISTED).collect()
    }

    fn read(&self, key: &str, found: &ValueRef) -> Value {
        let short = found.data_len <= MAX_DATA;
        Value {
            kind: found.kind,
            data: match short {
                true => self.hive.value_data(found).unwrap_or_default(),
                false => Vec::new(),
            },
            source: Source {
                file: self.path.to_owned(),
                key: Some(key.to_owned()),
                value: Some(found.name.to_string()),
            },
        }
    }
}
