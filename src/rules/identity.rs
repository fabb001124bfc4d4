//! Where programs keep what tells one machine from another: data for the report. Nothing here removes.

use serde::Deserialize;

use super::{HiveName, Target, load::MAX_RULES};
use crate::{
    error::{Error, Result},
    text::escape,
};

/// The places that ship with declone.
const EMBEDDED: &str = include_str!("identity.toml");
/// Stands for the control set that Windows last ran with.
pub const CURRENT_SET: &str = "{CS}";

/// How a value is written, and how it is brought into normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A UUID, with or without a prefix and braces.
    Guid,
    /// A SID.
    Sid,
    /// SHA-1 of a certificate, perhaps behind the name of its store.
    Thumbprint,
    /// Anything.
    Text,
    /// Hex digits of UTF-16 text.
    HexText,
    /// Binary data.
    Bytes,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Place {
    /// A registry value.
    Value {
        /// The hive: SOFTWARE or SYSTEM.
        hive: HiveName,
        /// Names from the root; `{SW}` and `{CS}` may come first.
        key: Vec<String>,
        /// The value's name.
        value: String,
    },
    /// A certificate store: every subkey is named by a thumbprint and holds a `Blob`.
    Certificates {
        /// The hive: SOFTWARE.
        hive: HiveName,
        /// Names from the root.
        key: Vec<String>,
    },
    /// An entry of an ini file in the Windows directory.
    Ini {
        /// The file's name.
        file: String,
        /// Section, without brackets.
        section: String,
        /// Name of the entry.
        entry: String,
    },
}

/// One place of one sort of id.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdPlace {
    /// Stable short name, as in the JSON report.
    pub kind: String,
    /// The same for a person.
    pub title: String,
    /// How it is written.
    pub form: Form,
    /// Whether two installations that share it are one machine, or were cloned from one.
    #[serde(default)]
    pub identifies: bool,
    /// Whether every place of this kind must hold the same value.
    #[serde(default)]
    pub agree: bool,
    /// The kind of other facts, one of which must have this value.
    #[serde(default)]
    pub must_equal: Option<String>,
    /// Where it is.
    pub place: Place,
}

impl IdPlace {
    /// The hive, for a place in the registry.
    #[must_use]
    pub const fn hive(&self) -> Option<HiveName> {
        match self.place {
            Place::Value { hive, .. } | Place::Certificates { hive, .. } => Some(hive),
            Place::Ini { .. } => None,
        }
    }

    /// The keys meant, joined by backslashes; `{CS}` is left as it is.
    #[must_use]
    pub fn key_paths(&self) -> Vec<String> {
        let (Place::Value { hive, key, .. } | Place::Certificates { hive, key }) = &self.place
        else {
            return Vec::new();
        };
        let target = Target::Subkeys {
            hive: *hive,
            key: key.clone(),
        };
        let paths = target.key_paths();
        paths.iter().map(|path| path.join("\\")).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: Vec<IdPlace>,
}

/// All places that ship with declone.
pub fn places() -> Result<Vec<IdPlace>> {
    let wrong = |what: String| Error::malformed(format!("rules identity.toml: {what}"));
    let file: File = toml::from_str(EMBEDDED).map_err(|e| wrong(escape(e.message())))?;
    if file.id.len() > MAX_RULES {
        return Err(wrong(format!("at most {MAX_RULES} places expected")));
    }
    for id in &file.id {
        check(id).map_err(|what| wrong(format!("`{}`: {what}", escape(&id.kind))))?;
    }
    Ok(file.id)
}

fn check(id: &IdPlace) -> std::result::Result<(), String> {
    let snake = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_');
    if id.kind.is_empty() || !id.kind.chars().all(snake) {
        return Err("kind: a snake_case name expected".to_owned());
    }
    let names: Vec<&String> = match &id.place {
        Place::Value { key, value, .. } => key.iter().chain([value]).collect(),
        Place::Certificates { key, .. } => key.iter().collect(),
        Place::Ini {
            file,
            section,
            entry,
        } => vec![file, section, entry],
    };
    if names
        .iter()
        .any(|name| name.is_empty() || name.contains(['\\', '/', '*', '?']))
    {
        return Err("place: plain names expected".to_owned());
    }
    match id.hive() {
        None | Some(HiveName::Software | HiveName::System) => Ok(()),
        Some(_) => Err("hive: software or system expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_places_that_ship_with_declone_load() {
        let places = places().unwrap();
        assert!(places.len() >= 10);
        let both: Vec<_> = places.iter().filter(|id| id.kind == "sms_guid").collect();
        assert_eq!(both.len(), 2);
        assert_eq!(both[0].key_paths().len(), 2, "SOFTWARE and its 32-bit view");
        assert!(both[1].key_paths().is_empty());
        // One title, one meaning for a kind.
        for (a, b) in places
            .iter()
            .flat_map(|a| places.iter().map(move |b| (a, b)))
        {
            if a.kind == b.kind {
                assert_eq!(
                    (&a.title, a.identifies, a.agree),
                    (&b.title, b.identifies, b.agree)
                );
            }
        }
    }

    #[test]
    fn a_place_is_a_plain_name() {
        let mut id = places().unwrap().remove(0);
        id.place = Place::Ini {
            file: "..\\x".into(),
            section: "s".into(),
            entry: "e".into(),
        };
        assert!(check(&id).is_err());
        id.kind = "No Name".into();
        assert!(check(&id).unwrap_err().contains("snake_case"));
    }
}
