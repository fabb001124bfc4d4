//! What identifies a machine: data, and the one loader for it.
//!
//! In: TOML text, embedded or the user's. Out: [`Rule`]s that were checked.
//! Knows: error, text. Facts from: the Microsoft articles each rule names.
//! Never: looks at an image, opens a file, matches by pattern.
//!
//! # Why
//! - **Data, not code**: what to remove is a claim about the world and carries its source; a reader
//!   checks it without reading Rust. The embedded rules go through the loader that reads a user's
//!   file, so a check cannot be forgotten for one of them, and a test loads them all.
//! - **No wildcards**: a rule names exactly what it removes; `{CS}` and `{GUID}` are for rules that
//!   report. `AbExprtDB` has a neighbour called
//!   `Preferred AbExprtDB` that must survive; a pattern that is one character too wide is a
//!   destroyed image, and nobody sees it in a review.
//! - **Confidence decides**: only what a primary source demands (confidence A) may say `delete`. What
//!   others' scripts remove (B) says `delete-if-named`: a person asks for it by the rule's id.
//! - **Ends of paths**: where `ProgramData` lies depends on the language and the version of Windows;
//!   the names below it do not.

pub mod identity;
mod load;
mod select;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use load::{Problem, check_text, is_guid, load};
pub use select::{ALL, combine, embedded, others_than, select};

/// Stands for the root of SOFTWARE and for its 32-bit view.
pub(crate) const SOFTWARE_ROOTS: &str = "{SW}";
/// Stands for every `ControlSetNNN` of SYSTEM.
pub(crate) const CONTROL_SETS: &str = "{CS}";
/// Stands for every key that is named by a GUID.
pub(crate) const ANY_GUID: &str = "{GUID}";

/// A registry hive of a Windows installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiveName {
    /// HKLM\SOFTWARE.
    Software,
    /// HKLM\SYSTEM.
    System,
    /// HKLM\SAM.
    Sam,
    /// HKLM\SECURITY.
    Security,
    /// HKU\.DEFAULT.
    Default,
}

impl HiveName {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Software,
        Self::System,
        Self::Sam,
        Self::Security,
        Self::Default,
    ];

    /// The file's name in `System32\config`.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Software => "SOFTWARE",
            Self::System => "SYSTEM",
            Self::Sam => "SAM",
            Self::Security => "SECURITY",
            Self::Default => "DEFAULT",
        }
    }
}

/// What a rule wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Remove it.
    Delete,
    /// Remove it if the rule is asked for by its id, else say that it is there.
    #[serde(rename = "delete-if-named")]
    DeleteIfNamed,
    /// Say that it is there.
    Report,
}

impl Action {
    /// As rule files write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::DeleteIfNamed => "delete-if-named",
            Self::Report => "report",
        }
    }
}

/// How well a rule is supported.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Confidence {
    /// A primary document, or an own measurement.
    A,
    /// Several independent tools or scripts agree.
    B,
    /// General knowledge.
    C,
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Target {
    /// One value of a key, whatever its type; the key stays.
    Value {
        /// The hive.
        hive: HiveName,
        /// Names from the root; see [`Target::key_paths`].
        key: Vec<String>,
        /// The value's name.
        value: String,
        /// Other values of the same key that belong to it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        also: Vec<String>,
    },
    /// Everything below a key; the key and its own values stay.
    Subkeys {
        /// The hive.
        hive: HiveName,
        /// Names from the root; see [`Target::key_paths`].
        key: Vec<String>,
    },
    /// A key with everything in it and below it.
    Key {
        /// The hive.
        hive: HiveName,
        /// Names from the root; see [`Target::key_paths`].
        key: Vec<String>,
    },
    /// Every certificate of a store: a key each, named by its thumbprint, below this one, which stays.
    Certificates {
        /// The hive.
        hive: HiveName,
        /// Names from the root; see [`Target::key_paths`].
        key: Vec<String>,
    },
    /// The files with the private keys of the certificates in a store. Which they are stands in the
    /// certificates (`windows::capi`).
    CertificateKeys {
        /// The hive.
        hive: HiveName,
        /// The store's key: names from the root; see [`Target::key_paths`].
        key: Vec<String>,
    },
    /// The files of one key container of the machine, by the container's name.
    KeyContainer {
        /// The container's name.
        container: String,
    },
    /// Every file of this name, in any directory of any volume, in any case.
    FileAnywhere {
        /// The file's name.
        name: String,
    },
    /// A file of this name in a volume's root, in any case.
    FileAtRoot {
        /// The file's name.
        name: String,
    },
    /// Every file whose path ends with these names, in any case: what stands before them is named by
    /// the drive, the language of Windows, or `Windows.old`.
    FileAt {
        /// The end of the path: two names or more.
        path: Vec<String>,
    },
    /// Every directory whose path ends with these names: the files in it and below it. Directories stay.
    Folder {
        /// The end of the path: two names or more.
        path: Vec<String>,
    },
    /// As `FileAt`, and the ids that were found elsewhere are searched in it.
    Mentions {
        /// The end of the path: two names or more.
        path: Vec<String>,
    },
}

impl Target {
    /// The keys meant, as names from the hive's root: `{SW}` gives the root of SOFTWARE and its
    /// `Wow6432Node` view; `{CS}` and `{GUID}` stay, only the hive can say what they stand for. Empty
    /// for a file.
    #[must_use]
    pub fn key_paths(&self) -> Vec<Vec<String>> {
        let (Self::Value { key, .. }
        | Self::Subkeys { key, .. }
        | Self::Key { key, .. }
        | Self::Certificates { key, .. }
        | Self::CertificateKeys { key, .. }) = self
        else {
            return Vec::new();
        };
        match key.split_first() {
            Some((first, rest)) if first == SOFTWARE_ROOTS => {
                let mut narrow = vec!["Wow6432Node".to_owned()];
                narrow.extend_from_slice(rest);
                vec![rest.to_vec(), narrow]
            }
            _ => vec![key.clone()],
        }
    }

    /// The hive, for a registry target.
    #[must_use]
    pub const fn hive(&self) -> Option<HiveName> {
        match self {
            Self::Value { hive, .. }
            | Self::Subkeys { hive, .. }
            | Self::Key { hive, .. }
            | Self::Certificates { hive, .. }
            | Self::CertificateKeys { hive, .. } => Some(*hive),
            _ => None,
        }
    }

    /// The values meant, for a value target.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        let (one, also): (Option<&String>, &[String]) = match self {
            Self::Value { value, also, .. } => (Some(value), also),
            _ => (None, &[]),
        };
        one.into_iter().chain(also).map(String::as_str)
    }

    /// The name by which the file or directory is found in a pass over the volume.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        match self {
            Self::FileAnywhere { name } | Self::FileAtRoot { name } => Some(name),
            Self::FileAt { path } | Self::Folder { path } | Self::Mentions { path } => {
                path.last().map(String::as_str)
            }
            _ => None,
        }
    }
}

/// One thing that identifies a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A stable short name: `sms.uid`.
    pub id: String,
    /// The set it belongs to: `sms`.
    pub profile: String,
    /// Further sets it belongs to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_in: Vec<String>,
    /// What it is, in a few words.
    pub title: String,
    /// The article's step, in our words: what a person ticks off.
    pub step: String,
    /// What it is about.
    pub target: Target,
    /// What it wants done; see [`Rule::effective_action`].
    pub action: Action,
    /// How well it is supported.
    pub confidence: Confidence,
    /// Documents that say so.
    pub sources: Vec<String>,
    /// Why it matters.
    pub rationale: String,
    /// The id that its data is: images that share one carry the identity of one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The line of evidence of generalization that it is the source of, for a rule about a registry hive;
    /// else the one that says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Whether it was asked for by its id.
    #[serde(skip)]
    pub named: bool,
    /// Whether it is of another set than those of the run: looked for only to say so.
    #[serde(skip)]
    pub watched: bool,
}

impl Rule {
    /// What is done: a rule deletes if a primary source says so, or if it was asked for by its id and
    /// is more than hearsay; everything else reports.
    #[must_use]
    pub fn effective_action(&self) -> Action {
        if self.watched {
            return Action::Report;
        }
        match (self.action, self.confidence) {
            (Action::Delete, Confidence::A) => Action::Delete,
            (Action::DeleteIfNamed, Confidence::A | Confidence::B) if self.named => Action::Delete,
            _ => Action::Report,
        }
    }

    /// Whether it belongs to this set.
    #[must_use]
    pub fn is_in(&self, profile: &str) -> bool {
        self.profile == profile || self.also_in.iter().any(|other| other == profile)
    }
}
