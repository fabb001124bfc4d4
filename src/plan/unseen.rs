//! What was not looked at, and what is left: two lists that are never merged with what was removed.

use schemars::JsonSchema;
use serde::Serialize;

use crate::tree::{FileEntry, UnseenClass};

/// Something that was not looked at.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct NotScanned {
    /// What sort of reason it is.
    pub class: UnseenClass,
    /// What.
    pub what: String,
    /// The file, if it is one.
    pub path: Option<String>,
    /// Length in bytes, if it is known.
    pub len: Option<u64>,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Nothing of an identity can be in it, or it was searched after all: the verdict does not change.
    pub harmless: bool,
    /// The user takes it into account (`--accept`, `--quick`, or by what was given to look at).
    pub accepted: bool,
}

impl NotScanned {
    /// Something that could hold the identity.
    #[must_use]
    pub fn new(class: UnseenClass, what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            class,
            what: what.into(),
            path: None,
            len: None,
            reason: reason.into(),
            remedy: None,
            harmless: false,
            accepted: false,
        }
    }

    /// A file that could hold the identity.
    #[must_use]
    pub fn of_file(class: UnseenClass, entry: &FileEntry, reason: impl Into<String>) -> Self {
        Self::new(class, entry.path(), reason).file(entry)
    }

    /// Which file it is.
    #[must_use]
    pub fn file(mut self, entry: &FileEntry) -> Self {
        self.path = Some(entry.path());
        self.len = Some(entry.len);
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(mut self, what: impl Into<String>) -> Self {
        self.remedy = Some(what.into());
        self
    }

    /// See the field.
    #[must_use]
    pub fn harmless(mut self) -> Self {
        self.harmless = true;
        self
    }

    /// Whether the identity may stand there, and the user did not take that into account.
    #[must_use]
    pub fn counts(&self) -> bool {
        !self.harmless && !self.accepted
    }
}

/// What sort of place a trace is left in; the words of `--accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeftClass {
    /// A file that is alive.
    Live,
    /// A journal: `$LogFile`, `$UsnJrnl`, a transaction log.
    Journal,
    /// Shadow copies, page file, hibernation file.
    Store,
    /// A place that no file and no structure refers to.
    Unreferenced,
    /// What a rule only reports.
    Reported,
}

impl LeftClass {
    /// As the user writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Journal => "journal",
            Self::Store => "store",
            Self::Unreferenced => "unreferenced",
            Self::Reported => "reported",
        }
    }
}

/// A trace of the identity that was seen and is not removed.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Left {
    /// What sort of place it is.
    pub class: LeftClass,
    /// What was seen.
    pub what: String,
    /// Whose the place is.
    pub owner: String,
    /// Where the first of it stands in the image file, if that has it as it is.
    pub image_offset: Option<u64>,
    /// How often it was seen there.
    pub count: u64,
    /// What to do about it.
    pub remedy: String,
    /// The user takes it into account (`--accept`).
    pub accepted: bool,
}
