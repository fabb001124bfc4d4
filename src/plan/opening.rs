//! A hive file with the logs beside it, opened: the bytes that the rules look at and that are edited.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    error::{Error, Kind, Result},
    hive::{self, Fate, LogFormat, LogReport, Opened, Replay},
    image,
    tree::{FileEntry, FileTree, Storage},
    units::FileOffset,
};

/// A log holds pages of its hive; the largest of real machines has some ten MiB.
const LOG_LIMIT: u64 = 256 << 20;

/// The bytes of a hive.
#[derive(Debug)]
pub enum HiveBytes {
    /// It is clean: what is on disk counts, whatever its logs hold.
    Clean(Vec<u8>),
    /// It is dirty, and its logs finish it.
    Replayed {
        /// The file as it is on disk.
        primary: Vec<u8>,
        /// The file as Windows would see it.
        bytes: Vec<u8>,
        /// How the one became the other.
        replay: Replay,
    },
    /// It is dirty, and no log finishes it.
    Stuck {
        /// The file as it is on disk.
        primary: Vec<u8>,
        /// Why.
        why: Error,
        /// What was found in the logs.
        logs: Vec<LogReport>,
    },
}

/// What the logs of a dirty hive did, for the report.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct LogFacts {
    /// Whether they finish the hive.
    pub usable: bool,
    /// `old` (NT 4.0 to 8.0) or `new` (8.1 and later), of what was applied.
    pub format: Option<&'static str>,
    /// Entries applied.
    pub entries: u64,
    /// Pages written, each as often as it was.
    pub pages: u64,
    /// The log whose base block was taken, because the hive's is damaged.
    pub base_block_from: Option<String>,
    /// Length of the file after the replay.
    pub len_after: Option<u64>,
    /// Each log.
    pub logs: Vec<LogFact>,
}

/// One log of a dirty hive.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct LogFact {
    /// Path of the log.
    pub path: String,
    /// Length.
    pub len: u64,
    /// applied, empty, stale, unusable or not_used.
    pub fate: &'static str,
    /// Why, or where its entries end.
    pub detail: String,
}

impl HiveBytes {
    /// What the logs did; `None` for a clean hive.
    #[must_use]
    pub fn log_facts(&self) -> Option<LogFacts> {
        match self {
            Self::Clean(_) => None,
            Self::Replayed { replay, .. } => Some(LogFacts {
                usable: true,
                format: Some(match replay.format {
                    LogFormat::Old => "old",
                    LogFormat::New => "new",
                }),
                entries: replay.entries(),
                pages: replay.pages(),
                base_block_from: replay.base_block_from.clone(),
                len_after: Some(replay.len_after),
                logs: replay.logs.iter().map(fact).collect(),
            }),
            Self::Stuck { logs, .. } => Some(LogFacts {
                usable: false,
                format: None,
                entries: 0,
                pages: 0,
                base_block_from: None,
                len_after: None,
                logs: logs.iter().map(fact).collect(),
            }),
        }
    }
}

fn fact(log: &LogReport) -> LogFact {
    let (fate, detail) = match &log.fate {
        Fate::Empty => ("empty", String::new()),
        Fate::Unusable(why) => ("unusable", why.to_string()),
        Fate::Stale(why) => ("stale", why.clone()),
        Fate::NotUsed(why) => ("not_used", why.clone()),
        Fate::Applied { entries, end } => {
            ("applied", format!("entries {}, then: {end}", entries.len()))
        }
    };
    LogFact {
        path: log.name.clone(),
        len: log.len,
        fate,
        detail,
    }
}

/// Opens a hive file; its logs are read only if it is dirty.
pub fn open_hive(tree: &dyn FileTree, entry: &FileEntry, logs: &[FileEntry]) -> Result<HiveBytes> {
    let primary = image::read_whole(tree, entry)?;
    if let Opened::Clean { .. } = hive::open(&primary, &[])? {
        return Ok(HiveBytes::Clean(primary));
    }
    let mut read = Vec::new();
    for log in logs {
        match read_log(tree, log) {
            Ok(bytes) => read.push((log.path(), bytes)),
            Err(error) if error.kind() == Kind::Io => return Err(error),
            // A log that cannot be read may be the one that Windows applies.
            Err(error) => {
                return Ok(HiveBytes::Stuck {
                    primary,
                    why: error.into_kind(Kind::Refused).at("log", log.path()),
                    logs: Vec::new(),
                });
            }
        }
    }
    let given: Vec<(&str, &[u8])> = read
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    Ok(match hive::open(&primary, &given)? {
        Opened::Clean { .. } => HiveBytes::Clean(primary),
        Opened::Replayed { bytes, replay } => HiveBytes::Replayed {
            primary,
            bytes,
            replay,
        },
        Opened::Refused { why, logs } => HiveBytes::Stuck { primary, why, logs },
    })
}

fn read_log(tree: &dyn FileTree, log: &FileEntry) -> Result<Vec<u8>> {
    match log.storage {
        Storage::None => return Ok(Vec::new()),
        Storage::Encrypted | Storage::Redirected(_) => {
            return Err(Error::refused(
                "log: a plain file expected, found it encrypted or redirected",
            )
            .advise("decrypt or decompress it in Windows (compact /u, cipher /d)"));
        }
        _ if log.len > LOG_LIMIT => {
            return Err(Error::refused(format!(
                "log: at most {LOG_LIMIT} bytes expected, found {}",
                log.len
            )));
        }
        _ => {}
    }
    image::read_whole(tree, log)
}

/// Why a log cannot be filled with zeros, if so: what is no log, and what is also something else, is
/// not declone's to erase.
pub(super) fn why_not_erased(tree: &dyn FileTree, log: &FileEntry) -> Result<Option<String>> {
    if !matches!(log.storage, Storage::Plain | Storage::Resident) {
        return Ok(Some("it is not stored in plain clusters".to_owned()));
    }
    if let [_, other, ..] = log.paths.as_slice() {
        return Ok(Some(format!("the same file is also called {other}")));
    }
    let mut head = [0; 516];
    let len = log.len.min(516);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    match tree.read_at(log.id, FileOffset(0), &mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == Kind::Io => return Err(error),
        Err(error) => return Ok(Some(format!("it cannot be read: {error}"))),
    }
    for (to, from) in head.iter_mut().zip(&bytes) {
        *to = *from;
    }
    let is_log = head.starts_with(b"regf")
        || head.ends_with(b"DIRT")
        || head.ends_with(b"HvLE")
        || crate::bytes::all_zero(&head);
    Ok((!is_log).then(|| "it does not look like a transaction log".to_owned()))
}
