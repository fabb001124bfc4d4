//! Results in; text, JSON and a page out.
//!
//! In: plain facts, findings, what was done. Out: the same, for a person or a program.
//! Knows: rules, plan, apply, verify (their results). Never: sees a device.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    apply::stage::HiveDone,
    error::{Error, Kind, Place},
    plan::{Finding, Left, LogFacts, NotScanned, OtherIds, machines::MachineFacts, tokens::Token},
    tree::{Obstacle, Removal},
    verify::residue::Residue,
};

pub mod html;
mod machines;
pub mod redact;
pub mod schema;
pub mod text;
pub mod verdict;

/// Exit code of an image without Windows: as of any input in which declone has nothing to look at.
pub const NO_WINDOWS: u8 = 4;

/// What one run says about one image. The JSON output is this structure.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct ImageReport {
    /// Path as given.
    pub path: String,
    /// scan, clean, verify, recover or undo.
    pub verb: &'static str,
    /// One word: clean, clean_other_ids (`other_ids` has what another rule set removes), findings, incomplete (nothing found, and something was not looked at), no_windows,
    /// requirements (`--require`), unread, cleaned, planned, refused, failed; interrupted; and of
    /// recover and undo: recovered, whole (nothing to recover), pending, undone.
    pub result: &'static str,
    /// Whether the image itself was being, or was, written.
    #[serde(skip)]
    pub phase: Phase,
    /// Whether an earlier run did this and was ended before it could tell: what stands here is what it
    /// had written down before it changed the image.
    pub resumed: bool,
    /// That run's result.
    #[serde(skip)]
    pub earlier: Option<Earlier>,
    /// What happened before the verb's own work, and what is uncertain.
    pub remarks: Vec<String>,
    /// The exit code this image stands for.
    pub exit_code: u8,
    /// Container and partition table; absent when the image could not be opened.
    pub image: Option<ImageFacts>,
    /// The volumes.
    pub volumes: Vec<VolumeFacts>,
    /// Who each Windows installation is, and whether it was generalized, before the clean.
    pub machines: Vec<MachineFacts>,
    /// What the rules matched before the clean.
    pub findings: Vec<Finding>,
    /// Ids that the chosen rules leave, by the set that would remove them.
    pub other_ids: Vec<OtherIds>,
    /// What a clean did, or would do.
    pub done: Option<Done>,
    /// Hits of the raw search.
    pub residues: Vec<Residue>,
    /// What was searched, with the number of bytes.
    pub searched: Vec<Searched>,
    /// What of the identity was seen and is not removed.
    pub left: Vec<Left>,
    /// What was not looked at, and why. Never left out: "clean" must not hide ignorance.
    pub not_scanned: Vec<NotScanned>,
    /// The classes that the user takes into account (`--accept`).
    pub accepted: Vec<String>,
    /// What `--require` asks for and is not so.
    pub missing: Vec<String>,
    /// The rules: what "clean" speaks of.
    pub rules: Vec<String>,
    /// The sets that they are of.
    pub rule_sets: Vec<String>,
    /// SHA-256 of these rules.
    pub rules_digest: Option<String>,
    /// Whether an earlier report said what to search for.
    #[serde(skip)]
    pub against: bool,
    /// What stood in the way, or went wrong.
    pub errors: Vec<ErrorFacts>,
    /// What was searched for; `verify --against` reads it. It holds the removed identity.
    pub tokens: Vec<Token>,
}

impl ImageReport {
    /// Whether it is about a directory of the host.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.image
            .as_ref()
            .is_some_and(|image| image.scheme == "directory")
    }

    /// Says of each error whose it is: errors are read without the report around them, too.
    pub fn name_errors(&mut self) {
        for error in &mut self.errors {
            error.image.clone_from(&self.path);
        }
    }

    /// What finishes an interrupted change.
    #[must_use]
    pub fn finisher(&self) -> &'static str {
        match self.is_directory() {
            true => "run the same command again",
            false => "run `declone recover`",
        }
    }
}

/// What a run wrote down before it changed the image.
#[derive(Debug, Default, Serialize, serde::Deserialize)]
pub struct Earlier {
    /// Its result, as JSON shows it.
    pub image: serde_json::Value,
    /// As text.
    pub text: String,
    /// As a page, if one was wanted.
    pub page: Option<String>,
}

/// How far the image itself was written; decides what an exit code may promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not a byte.
    #[default]
    Untouched,
    /// Between the journal and its removal.
    Writing,
    /// All of it, durably.
    Changed,
}

/// The image file.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct ImageFacts {
    /// Container format.
    pub format: String,
    /// By what it was recognised.
    pub evidence: String,
    /// Length of the file.
    pub file_len: u64,
    /// Length of the disk inside.
    pub disk_len: u64,
    /// MBR, GPT, unpartitioned, archive or directory.
    pub scheme: String,
    /// Bytes a sector of the partition table.
    pub sector_len: u32,
    /// Remarks.
    pub notes: Vec<String>,
    /// The container, as far as its format has such things.
    pub container: ContainerFacts,
    /// By what another report of the same image is recognised; absent for a directory.
    pub identity: Option<IdentityFacts>,
    /// SHA-256 of the file, with `--hash sha256`.
    pub sha256: Option<String>,
}

/// What tells an image from others. A copy has it, too. All but `container_id` stays the same when the
/// image is cleaned.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct IdentityFacts {
    /// Identity that the container's format gives it; a VHDX, VDI or VMDK gets a new one when it is written.
    pub container_id: Option<String>,
    /// Length of the disk inside; null for an archive, which grows.
    pub len: Option<u64>,
    /// The disk's GUID (GPT) or signature (MBR), as hex digits in the order of the disk.
    pub disk_id: Option<String>,
    /// SHA-256 of the disk's first 512 bytes, with zeros where exFAT counts what is in use; null for an
    /// archive.
    pub head_sha256: Option<String>,
}

/// What a container's format says about itself; what it does not have is null.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ContainerFacts {
    /// The kind within the format.
    pub kind: Option<String>,
    /// The program that made it.
    pub creator: Option<String>,
    /// Bytes of the disk in a block.
    pub block_size: Option<u64>,
    /// Blocks of the disk.
    pub blocks: Option<u64>,
    /// Blocks that the file has room for.
    pub allocated: Option<u64>,
    /// The format's own log.
    pub log: Option<String>,
    /// The files below this one, nearest first.
    pub chain: Vec<String>,
    /// The other files of which the image consists.
    pub files: Vec<String>,
    /// Identity of the disk, as the format writes it.
    pub id: Option<String>,
}

/// A volume.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct VolumeFacts {
    /// Partition number.
    pub partition: u32,
    /// What the number counts: "partition", "image" or "directory".
    pub unit: &'static str,
    /// First byte in the disk.
    pub disk_offset: u64,
    /// Length.
    pub len: u64,
    /// Partition type.
    pub slot_kind: String,
    /// Partition name.
    pub slot_name: Option<String>,
    /// File system.
    pub filesystem: String,
    /// Why it was not read, if it was not.
    pub closed: Option<String>,
    /// Number of files and directories.
    pub files: u64,
    /// Windows directories.
    pub installations: Vec<String>,
    /// SOFTWARE hives and their copies.
    pub hives: Vec<HiveFacts>,
    /// Where its structures, hives and logs lie in the disk; empty for an image of an archive.
    pub areas: Vec<AreaFacts>,
    /// Why it must not be written.
    pub obstacles: Vec<ObstacleFacts>,
    /// Damaged file records.
    pub problems: Vec<String>,
}

/// A stretch of the disk that belongs to one thing.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct AreaFacts {
    /// structure, hive or log.
    pub kind: &'static str,
    /// Name or path.
    pub what: String,
    /// First byte in the disk.
    pub disk_offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A hive file.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct HiveFacts {
    /// Path.
    pub path: String,
    /// What it is to its installation.
    pub role: String,
    /// Clean or not.
    pub state: String,
    /// Length.
    pub len: u64,
    /// What its logs did, if it is dirty.
    pub replay: Option<LogFacts>,
}

/// As [`Obstacle`].
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct ObstacleFacts {
    /// Stable short name.
    pub id: &'static str,
    /// What was expected and found.
    pub what: String,
    /// What to do.
    pub advice: String,
}

impl From<&Obstacle> for ObstacleFacts {
    fn from(o: &Obstacle) -> Self {
        Self {
            id: o.id,
            what: o.what.clone(),
            advice: o.advice.clone(),
        }
    }
}

/// What a clean did, or would do.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Done {
    /// Whether anything was written at all (`-n` writes nothing).
    pub written: bool,
    /// Whether the image itself was written, not a copy.
    pub in_place: bool,
    /// The undo file. It holds what was removed.
    pub undo: Option<String>,
    /// The new file.
    pub output: Option<String>,
    /// How it was cloned.
    pub method: Option<&'static str>,
    /// Edited hives.
    pub hives: Vec<HiveDone>,
    /// Transaction logs of edited hives that were filled with zeros.
    pub logs: Vec<String>,
    /// Removed files, by volume.
    pub removals: Vec<RemovalFacts>,
    /// Stale copies that were zeroed.
    pub wiped: Vec<String>,
    /// Second witnesses.
    pub witnesses: Vec<String>,
    /// Changed pages.
    pub patches: Vec<PatchFacts>,
    /// Bytes changed.
    pub changed_bytes: u64,
    /// SHA-256 of the new file, with `--hash sha256`.
    pub sha256: Option<String>,
}

impl Done {
    /// Whether anything was taken out for good. Where files of a directory are removed, no byte changes.
    #[must_use]
    pub fn removed_anything(&self) -> bool {
        self.written && (self.changed_bytes > 0 || !self.removals.is_empty())
    }
}

/// What the removal of files touched in one volume.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct RemovalFacts {
    /// Partition number.
    pub partition: u32,
    /// What the number counts: "partition", "image" or "directory".
    pub unit: &'static str,
    /// Removed paths.
    pub paths: Vec<String>,
    /// File records freed; 0 where files have none (FAT, exFAT).
    pub records: u64,
    /// Entries of directories removed.
    pub index_entries: u64,
    /// Clusters freed and zeroed.
    pub clusters: u64,
    /// Stale bytes zeroed.
    pub slack_bytes: u64,
}

impl RemovalFacts {
    /// Puts it together.
    #[must_use]
    pub fn new(
        (unit, partition): (&'static str, u32),
        paths: Vec<String>,
        removal: &Removal,
    ) -> Self {
        Self {
            partition,
            unit,
            paths,
            records: removal.records,
            index_entries: removal.index_entries,
            clusters: removal.clusters,
            slack_bytes: removal.slack_bytes,
        }
    }
}

/// One changed page.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct PatchFacts {
    /// The file, if the image is several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Offset in the file.
    pub offset: u64,
    /// Offset in the image, all its files taken together.
    #[serde(skip)]
    pub at: u64,
    /// Where the disk shows it; none for what only the container needs.
    pub disk_offset: Option<u64>,
    /// Length.
    pub len: u64,
    /// SHA-256 of the old bytes.
    pub sha256_old: String,
    /// SHA-256 of the new bytes.
    pub sha256_new: String,
}

/// A searched area.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Searched {
    /// What.
    pub what: String,
    /// How many bytes.
    pub bytes: u64,
}

/// An error as fields.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorFacts {
    /// The image, as it was named.
    pub image: String,
    /// Sort of failure.
    pub kind: Kind,
    /// What was expected and found.
    pub what: String,
    /// The address ladder, innermost first.
    pub trail: Vec<Place>,
    /// What to do.
    pub advice: Option<String>,
    /// Whether the same command may succeed later: the image was in use, the host could not read or
    /// write, room was missing. False: never, as long as the image is what it is.
    pub retry: bool,
    /// Whether it is what a clean would end with, and no failure of the look that tells it.
    pub foreseen: bool,
}

impl From<&Error> for ErrorFacts {
    fn from(error: &Error) -> Self {
        Self {
            image: String::new(),
            kind: error.kind(),
            what: error.what().to_owned(),
            trail: error.trail().to_vec(),
            advice: error.advice().map(str::to_owned),
            retry: error.may_pass(),
            foreseen: false,
        }
    }
}

/// The whole JSON document.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document<'a> {
    /// Version of declone.
    pub declone: &'static str,
    /// Version of this structure.
    pub schema: u32,
    /// Highest of the images' exit codes.
    pub exit_code: u8,
    /// Whether marks stand in the place of identities (`--redact`).
    pub redacted: bool,
    /// When the report was made, in UTC (RFC 3339); only with `--timestamp`.
    pub time: Option<String>,
    /// One result an image.
    pub images: &'a [ImageReport],
}

/// A number with its noun, in the plural if need be.
fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}
