//! What a rule matched: where, what, and which ids it is.

use schemars::JsonSchema;
use serde::Serialize;

use super::tokens;
use crate::{
    error::Place,
    image::Volume,
    rules::{Action, Confidence, Rule},
    text::escape,
    tree::FileEntry,
};

/// A match of a rule.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Finding {
    /// The rule.
    pub rule: String,
    /// What the rule is about, in words.
    pub title: String,
    /// The articles' step that it ticks off.
    pub step: String,
    /// Where it was found.
    pub partition: u32,
    /// What was found.
    pub subject: Subject,
    /// Where in a dirty hive: on disk, or after its logs are replayed.
    pub view: Option<View>,
    /// What the plan does about it.
    pub action: Action,
    /// How well the rule is supported: A, a primary document; B, several tools agree; C, general knowledge.
    pub confidence: Confidence,
    /// The evidence in words.
    pub evidence: String,
    /// The ids in it, if the rule identifies a machine.
    pub ids: Vec<Identifier>,
    /// The address ladder, innermost first.
    pub places: Vec<Place>,
}

/// In which state of a dirty hive something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// Only in the file as it is: its logs take it out or change it.
    OnDisk,
    /// Only in what Windows would see: it comes from a log.
    AfterReplay,
    /// In both.
    Both,
    /// In a packed copy of a hive; the places are those of the unpacked hive.
    Packed,
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Subject {
    /// A registry value.
    Value {
        /// Path of the hive file.
        hive: String,
        /// Path of the key.
        key: String,
        /// Name of the value.
        value: String,
        /// REG_* type number.
        reg_type: u32,
        /// Length of the data.
        data_len: u32,
    },
    /// A registry key with everything below it.
    Key {
        /// Path of the hive file.
        hive: String,
        /// Path of the key.
        key: String,
    },
    /// A file.
    File {
        /// Path.
        path: String,
        /// Other paths of the same file (hard links).
        links: Vec<String>,
        /// Length of its data.
        len: u64,
    },
}

/// An id of a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Identifier {
    /// Which id: `SMS GUID`.
    pub identity: String,
    /// Its value: hex digits in lower case for a GUID, bytes and thumbprints; else as it is written,
    /// in lower case, escaped.
    pub value: String,
}

/// Longest id that is no GUID.
const MAX_ID_LEN: usize = 128;
/// Shorter ones are counters, not ids.
const MIN_ID_LEN: usize = 4;

impl Identifier {
    fn new(rule: &Rule, value: String) -> Option<Self> {
        Some(Self {
            identity: rule.identity.clone()?,
            value,
        })
    }

    /// The GUIDs in a text, or the text.
    #[must_use]
    pub fn in_text(rule: &Rule, text: &str) -> Vec<Self> {
        let mut values = Self::guids_in(text);
        let plain = text.trim().trim_matches('\0');
        if values.is_empty() && (MIN_ID_LEN..=MAX_ID_LEN).contains(&plain.len()) {
            values.push(escape(&plain.to_lowercase()));
        }
        let ids = values.into_iter().filter(|value| !is_nobodys(value));
        ids.filter_map(|value| Self::new(rule, value)).collect()
    }

    /// The GUIDs in a text.
    #[must_use]
    pub fn in_file(rule: &Rule, text: &str) -> Vec<Self> {
        let ids = Self::guids_in(text).into_iter();
        let ids = ids.filter(|value| !is_nobodys(value));
        ids.filter_map(|value| Self::new(rule, value)).collect()
    }

    /// The bytes as hex digits.
    #[must_use]
    pub fn of_bytes(rule: &Rule, bytes: &[u8]) -> Vec<Self> {
        let value = hex::encode(bytes.get(..MAX_ID_LEN / 2).unwrap_or(bytes));
        let is_id = value.len() >= 2 * MIN_ID_LEN && !is_nobodys(&value);
        let id = is_id.then(|| Self::new(rule, value)).flatten();
        id.into_iter().collect()
    }

    fn guids_in(text: &str) -> Vec<String> {
        tokens::guids_in(text)
    }
}

/// Zeros, and what stands for "not known yet", are everybody's.
fn is_nobodys(value: &str) -> bool {
    let digits = value.trim_start_matches('0');
    digits.len() <= 1 || digits.chars().all(|digit| digit == 'f') && digits.len() == value.len()
}

impl Finding {
    /// A match in a volume; what is done about it is the rule's decision.
    #[must_use]
    pub fn new(
        rule: &Rule,
        volume: &Volume,
        subject: Subject,
        evidence: String,
        places: Vec<Place>,
    ) -> Self {
        Self {
            rule: rule.id.clone(),
            title: rule.title.clone(),
            step: rule.step.clone(),
            partition: volume.partition,
            subject,
            view: None,
            action: rule.effective_action(),
            confidence: rule.confidence,
            evidence,
            ids: Vec::new(),
            places,
        }
    }
}

impl Subject {
    /// The file, or the hive's.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Value { hive, .. } | Self::Key { hive, .. } => hive,
            Self::File { path, .. } => path,
        }
    }

    /// A file with all its paths.
    #[must_use]
    pub fn file(entry: &FileEntry) -> Self {
        Self::File {
            path: entry.path(),
            links: entry
                .paths
                .iter()
                .skip(1)
                .map(ToString::to_string)
                .collect(),
            len: entry.len,
        }
    }
}
