//! Which tree is a Windows, where its hives and their copies are.
//!
//! In: the census of a volume. Out: [`Installation`]s and [`HiveFile`]s with their role.
//! Knows: tree, hive (its probe), image. Facts from: `shared/facts/identity.md` 2.4, Q183253.
//! Never: knows which keys matter; edits.

use crate::{
    error::Result,
    hive::{self, Probe},
    text::{Name, WinPath},
    tree::{Census, FileEntry, FileTree, NamePattern, Storage},
    units::FileOffset,
};

/// A Windows installation: a directory with `System32\config\SOFTWARE` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The directory, e.g. `\WINDOWS`, `\WINNT`, `\Windows.old\WINDOWS`.
    pub root: WinPath,
}

/// What a file that looks like a SOFTWARE hive is to its installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The hive that Windows loads; index of the installation.
    Live(usize),
    /// A copy that Windows or a person can put back, with what it is called.
    Copy(&'static str),
    /// A transaction log, by its name.
    Log,
}

/// Why a hive file cannot be edited as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A `regf` file in plain clusters (or resident, then it is no hive).
    Hive,
    /// Nothing in it.
    Empty,
    /// Something else; says what.
    Other(String),
}

/// A file that is, or may be, a SOFTWARE hive.
#[derive(Clone, Debug)]
pub struct HiveFile {
    /// The file.
    pub entry: FileEntry,
    /// What it is to its installation.
    pub role: Role,
    /// What is in it.
    pub shape: Shape,
    /// Its transaction logs: in the same directory, with the hive's name and `.LOG`, `.LOG1`,
    /// `.LOG2`.
    pub logs: Vec<FileEntry>,
}

/// What a log's name has more than its hive's.
const LOG_ENDINGS: [&str; 3] = [".LOG", ".LOG1", ".LOG2"];

/// The names by which hives and their copies are found in one pass over the volume.
#[must_use]
pub fn patterns() -> Vec<NamePattern> {
    vec![
        NamePattern::exact("SOFTWARE"),
        NamePattern::prefix("SOFTWARE."),
        NamePattern::exact("_REGISTRY_MACHINE_SOFTWARE"),
        NamePattern::prefix("_REGISTRY_MACHINE_SOFTWARE."),
    ]
}

fn ends_with(path: &[Name], tail: &[&str]) -> bool {
    path.len() >= tail.len()
        && path[path.len() - tail.len()..]
            .iter()
            .zip(tail)
            .all(|(name, want)| name.eq_ascii(want))
}

fn is_named_like_a_hive(name: &Name) -> bool {
    let folded: Vec<u16> = name
        .units()
        .iter()
        .map(|u| crate::text::ascii_upcase(*u))
        .collect();
    patterns()
        .iter()
        .any(|pattern| pattern.matches_folded(&folded))
}

/// Sorts the census of one volume into installations and hive files.
pub fn recognise(
    tree: &dyn FileTree,
    census: &Census,
) -> Result<(Vec<Installation>, Vec<HiveFile>)> {
    let mut installations = Vec::new();
    let mut files = Vec::new();
    for entry in &census.found {
        if entry.is_directory || !entry.names.iter().any(is_named_like_a_hive) {
            continue;
        }
        let live = entry.paths.iter().find(|path| {
            path.0.len() >= 4 && ends_with(&path.0, &["System32", "config", "SOFTWARE"])
        });
        let role = if let Some(path) = live {
            let root = WinPath(path.0[..path.0.len() - 3].to_vec());
            installations.push(Installation { root });
            Role::Live(installations.len() - 1)
        } else {
            role_of_copy(entry)
        };
        let shape = shape_of(tree, entry);
        // A directory or program that happens to be called "Software.something" is nobody's hive.
        if matches!(role, Role::Copy("copy")) && !matches!(shape, Shape::Hive) {
            continue;
        }
        files.push(HiveFile {
            entry: entry.clone(),
            role,
            shape,
            logs: Vec::new(),
        });
    }
    let logs: Vec<FileEntry> = files
        .iter()
        .filter(|file| file.role == Role::Log)
        .map(|file| file.entry.clone())
        .collect();
    for file in files.iter_mut().filter(|file| file.role != Role::Log) {
        let own = |log: &&FileEntry| is_log_of(log, &file.entry);
        file.logs = logs.iter().filter(own).cloned().collect();
    }
    Ok((installations, files))
}

/// The hive's name in this name, if it is a log's.
fn hive_name(log: &Name) -> Option<Name> {
    LOG_ENDINGS.iter().find_map(|ending| {
        let at = log.units().len().checked_sub(ending.len())?;
        let (stem, rest) = log.units().split_at(at);
        let is_log = Name(rest.to_vec()).eq_ascii(ending) && !stem.is_empty();
        is_log.then(|| Name(stem.to_vec()))
    })
}

fn is_log_of(log: &FileEntry, hive: &FileEntry) -> bool {
    let beside = |log: &WinPath, hive: &WinPath| {
        let (Some((log, log_dir)), Some((hive, hive_dir))) =
            (log.0.split_last(), hive.0.split_last())
        else {
            return false;
        };
        log_dir == hive_dir && hive_name(log).is_some_and(|name| name.eq_registry(hive))
    };
    log.paths
        .iter()
        .any(|log| hive.paths.iter().any(|hive| beside(log, hive)))
}

fn role_of_copy(entry: &FileEntry) -> Role {
    let any = |tail: &[&str]| entry.paths.iter().any(|path| ends_with(&path.0, tail));
    // Not by its DOS alias: that of "Software.logbook" ends like a log's name.
    let mut names = entry.paths.iter().filter_map(|path| path.0.last());
    if names.any(|name| hive_name(name).is_some()) {
        Role::Log
    } else if any(&["RegBack", "SOFTWARE"]) || any(&["RegBack", "SOFTWARE.OLD"]) {
        Role::Copy("RegBack copy")
    } else if any(&["repair", "software"]) || any(&["repair", "software._"]) {
        Role::Copy("repair copy")
    } else if any(&["_REGISTRY_MACHINE_SOFTWARE"]) {
        Role::Copy("System Restore copy")
    } else if any(&["config", "SOFTWARE.SAV"]) {
        Role::Copy("setup's copy (.SAV)")
    } else {
        Role::Copy("copy")
    }
}

fn shape_of(tree: &dyn FileTree, entry: &FileEntry) -> Shape {
    match entry.storage {
        Storage::None => return Shape::Other("it has no data".to_owned()),
        Storage::Encrypted => return Shape::Other("it is encrypted (EFS)".to_owned()),
        Storage::Redirected(tag) => {
            let what = if tag == 0x8000_0017 {
                "compressed by Windows (WOF)"
            } else {
                "redirected"
            };
            return Shape::Other(format!("its data is {what}, reparse tag {tag:#x}"));
        }
        _ if entry.len == 0 => return Shape::Empty,
        _ => {}
    }
    let mut head = [0; 32];
    let take = usize::try_from(entry.len).unwrap_or(32).min(32);
    if let Err(error) = tree.read_at(entry.id, FileOffset(0), &mut head[..take]) {
        return Shape::Other(format!("it cannot be read: {error}"));
    }
    let head = &head[..take];
    match hive::probe(head) {
        Probe::Regf => Shape::Hive,
        Probe::Creg => Shape::Other("it is a Windows 9x registry file (CREG)".to_owned()),
        Probe::NotAHive if head.starts_with(b"SZDD") || head.starts_with(b"KWAJ") => {
            Shape::Other("it is compressed (SZDD)".to_owned())
        }
        Probe::NotAHive if head.starts_with(b"MSCF") => {
            Shape::Other("it is compressed (cabinet)".to_owned())
        }
        Probe::NotAHive => Shape::Other("it has no hive header".to_owned()),
    }
}
