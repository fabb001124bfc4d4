//! Which tree is a Windows, where its hives and their copies are.
//!
//! In: the census of a volume. Out: [`Installation`]s and [`HiveFile`]s with their role.
//! Knows: tree, hive (its probe), image. Facts from: `shared/facts/identity.md` 2.4, Q183253.
//! Never: knows which keys matter; edits.

pub mod capi;
pub mod event_log;
pub mod generalization;
pub mod ini;
pub mod machine;
pub mod packed;
pub mod recycled;
pub mod registry;
pub mod sid;
pub mod sysprep_actions;
pub mod user;
pub mod uuid;

use packed::Packing;

use crate::{
    error::{Error, Kind, Result},
    hive::{self, Probe},
    text::{Name, WinPath},
    tree::{Census, FileEntry, FileId, FileTree, NamePattern, Storage},
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
    /// A packed file: what is in it shows only when it is unpacked.
    Packed(Packing),
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

/// What lies beside hives, or holds whole volumes, and may keep the identity where no rule looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A log of the kernel's transaction manager beside a hive (`*.blf`, `*.regtrans-ms`, `TxR`).
    TransactionLog,
    /// An image file: a volume of its own.
    ImageFile,
    /// A shadow copy: an older state of the volume.
    ShadowCopy,
    /// A registry of Windows 95, 98 or Me.
    Registry9x,
}

/// A file that no rule looks into.
#[derive(Clone, Debug)]
pub struct Store {
    /// The file.
    pub entry: FileEntry,
    /// What it is.
    pub kind: StoreKind,
}

/// What of Windows is on a volume.
#[derive(Debug, Default)]
pub struct Found {
    /// Where Windows is.
    pub installations: Vec<Installation>,
    /// Hives, their copies and their logs.
    pub hives: Vec<HiveFile>,
    /// What is only searched or only named.
    pub stores: Vec<Store>,
    /// Directories of hives that could not be listed, by path, and why.
    pub unlisted: Vec<(String, Error)>,
}

const TRANSACTION_ENDINGS: [&str; 2] = [".regtrans-ms", ".blf"];
const IMAGE_ENDINGS: [&str; 3] = [".wim", ".esd", ".swm"];
/// The registry of Windows 9x and its copies: `SYSTEM.DAT` of the machine, `USER.DAT` of a user.
const REGISTRY_9X: [&str; 5] = [
    "SYSTEM.DAT",
    "SYSTEM.DA0",
    "SYSTEM.1ST",
    "USER.DAT",
    "USER.DA0",
];
/// The provider's id that ends the name of every shadow copy.
const SHADOW_ENDING: &str = "{3808876b-c176-4e48-b7ae-04046e6cc752}";
/// How Windows names what is in the recycle bin: since Vista, before.
const RECYCLED_NAMES: [&str; 2] = [recycled::FILE, "Dc"];
/// Hives that `reg save` and people call so.
const HIVE_ENDING: &str = ".hiv";

/// The names by which all of this is found in one pass over the volume.
#[must_use]
pub fn patterns() -> Vec<NamePattern> {
    let mut patterns = hive_patterns();
    patterns.extend(wide_patterns());
    let endings = TRANSACTION_ENDINGS.iter().chain(&IMAGE_ENDINGS);
    patterns.extend(endings.map(|ending| NamePattern::suffix(ending)));
    patterns.push(NamePattern::suffix(SHADOW_ENDING));
    patterns.extend(REGISTRY_9X.map(NamePattern::exact));
    patterns.extend(RECYCLED_NAMES.map(NamePattern::prefix));
    patterns.push(NamePattern::prefix(recycled::NOTE));
    patterns.push(NamePattern::exact(recycled::LIST));
    patterns
}

/// Names that people give to copies of a hive: `software1`, `Copy of SOFTWARE`, `software - Copy`.
/// Most files called so are something else.
fn wide_patterns() -> Vec<NamePattern> {
    let mut patterns = vec![
        NamePattern::prefix("SOFTWARE"),
        NamePattern::suffix("SOFTWARE"),
    ];
    let logs = LOG_ENDINGS.iter().map(|log| format!("SOFTWARE{log}"));
    patterns.extend(logs.map(|log| NamePattern::suffix(&log)));
    patterns
}

/// The names of hives, their copies and their logs.
fn hive_patterns() -> Vec<NamePattern> {
    let mut patterns = vec![
        NamePattern::exact("SOFTWARE"),
        NamePattern::prefix("SOFTWARE."),
        NamePattern::exact("_REGISTRY_MACHINE_SOFTWARE"),
        NamePattern::prefix("_REGISTRY_MACHINE_SOFTWARE."),
        NamePattern::suffix(HIVE_ENDING),
    ];
    let logs = LOG_ENDINGS.iter().map(|log| format!("{HIVE_ENDING}{log}"));
    patterns.extend(logs.map(|log| NamePattern::suffix(&log)));
    patterns
}

impl HiveFile {
    /// Whether nothing but a name suggests that this is a hive.
    #[must_use]
    pub fn by_name_only(&self) -> bool {
        matches!(self.role, Role::Copy(COPY | HIVE_FILE | RECYCLED | SIBLING))
    }

    /// Whether it lies beside hives and only its content says whether it is a SOFTWARE hive.
    #[must_use]
    pub fn is_sibling(&self) -> bool {
        self.role == Role::Copy(SIBLING)
    }
}

/// What else lies beside a SOFTWARE hive by right, and is no copy of it.
const OTHER_HIVES: [&str; 17] = [
    "SYSTEM",
    "SYSTEM.ALT",
    "SYSTEM.SAV",
    "SAM",
    "SECURITY",
    "DEFAULT",
    "DEFAULT.SAV",
    "userdiff",
    "COMPONENTS",
    "DRIVERS",
    "ELAM",
    "BBI",
    "BCD-Template",
    "VSMIDK",
    "_REGISTRY_MACHINE_SYSTEM",
    "_REGISTRY_MACHINE_SAM",
    "_REGISTRY_MACHINE_SECURITY",
];

/// Copies that only their name or their ending tells.
const COPY: &str = "copy";
const HIVE_FILE: &str = "hive file (*.hiv)";
const RECYCLED: &str = "copy in the recycle bin";
/// What lies beside hives; only its content says what it is.
const SIBLING: &str = "hive of another name beside hives";

fn ends_with(path: &[Name], tail: &[&str]) -> bool {
    path.len() >= tail.len()
        && path[path.len() - tail.len()..]
            .iter()
            .zip(tail)
            .all(|(name, want)| name.eq_ascii(want))
}

/// Whether this is where Windows keeps a SOFTWARE hive, a copy that it can put back, or their logs; the
/// directory above may be lost.
#[must_use]
pub fn is_hive_path(path: &WinPath) -> bool {
    let Some((name, above)) = path.0.split_last() else {
        return false;
    };
    let stem = LOG_ENDINGS.iter().find_map(|ending| stem(name, ending));
    let name = stem.as_ref().unwrap_or(name);
    let homes = ["config", "RegBack", "repair", "?"];
    let at_home = above
        .last()
        .is_some_and(|above| homes.iter().any(|home| above.eq_ascii(home)));
    name.eq_ascii("_REGISTRY_MACHINE_SOFTWARE") || (at_home && name.eq_ascii("SOFTWARE"))
}

fn matches_any(name: &Name, patterns: &[NamePattern]) -> bool {
    let folded: Vec<u16> = name
        .units()
        .iter()
        .map(|u| crate::text::ascii_upcase(*u))
        .collect();
    let mut patterns = patterns.iter();
    patterns.any(|pattern| pattern.matches_folded(&folded))
}

/// Sorts the census of one volume into installations and hive files.
pub fn recognise(tree: &dyn FileTree, census: &Census) -> Result<Found> {
    let mut installations = Vec::new();
    let (mut files, mut maybe_logs) = (Vec::new(), Vec::new());
    let (names, wide_names) = (hive_patterns(), wide_patterns());
    for entry in &census.found {
        let named = |patterns: &[NamePattern]| {
            let mut names = entry.names.iter();
            names.any(|name| matches_any(name, patterns))
        };
        let is_named_so = named(&names);
        let is_wide = !is_named_so && named(&wide_names);
        if entry.is_directory || !(is_named_so || is_wide || recycled::is_recycled(entry)) {
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
        if is_wide && role == Role::Log {
            // Whose log it is, if anybody's, is known when all hives are.
            maybe_logs.push(entry.clone());
            continue;
        }
        let shape = shape_of(tree, entry);
        // A directory or program that happens to be called "Software.something" is nobody's hive.
        let file = HiveFile {
            entry: entry.clone(),
            role,
            shape,
            logs: Vec::new(),
        };
        let may_be_one = match file.shape {
            Shape::Hive => true,
            Shape::Packed(_) => is_named_so,
            _ => false,
        };
        if may_be_one || !file.by_name_only() {
            files.push(file);
        }
    }
    let unlisted = siblings(tree, &mut files, &mut maybe_logs)?;
    let is_hives = |log: &FileEntry| {
        let mut hives = files.iter().filter(|file| file.role != Role::Log);
        hives.any(|hive| is_log_of(log, &hive.entry))
    };
    maybe_logs.retain(is_hives);
    files.extend(maybe_logs.into_iter().map(|entry| HiveFile {
        shape: shape_of(tree, &entry),
        entry,
        role: Role::Log,
        logs: Vec::new(),
    }));
    let logs: Vec<FileEntry> = files
        .iter()
        .filter(|file| file.role == Role::Log)
        .map(|file| file.entry.clone())
        .collect();
    for file in files.iter_mut().filter(|file| file.role != Role::Log) {
        let own = |log: &&FileEntry| is_log_of(log, &file.entry);
        file.logs = logs.iter().filter(own).cloned().collect();
    }
    recycled::match_logs(tree, census, &mut files)?;
    let stores = stores(tree, census, &files);
    Ok(Found {
        installations,
        hives: files,
        stores,
        unlisted,
    })
}

/// Hives of other names in the directories of hives: a `backup1` in `config` is put back as easily as
/// a `SOFTWARE.BAK`. Only these directories are listed; a hive of an unknown name in another place
/// is not looked for, as that would mean a look into every file of the volume.
fn siblings(
    tree: &dyn FileTree,
    files: &mut Vec<HiveFile>,
    maybe_logs: &mut Vec<FileEntry>,
) -> Result<Vec<(String, Error)>> {
    let mut directories: Vec<(FileId, String)> = files
        .iter()
        .filter(|file| file.role != Role::Log && !file.by_name_only())
        .flat_map(|file| {
            let shown = file.entry.path();
            let shown = shown
                .rsplit_once('\\')
                .map_or("", |(dir, _)| dir)
                .to_owned();
            let parents = file.entry.parents.iter();
            parents.map(move |parent| (*parent, shown.clone()))
        })
        .collect();
    directories.sort();
    directories.dedup_by_key(|(directory, _)| *directory);
    let mut unlisted = Vec::new();
    for (directory, shown) in directories {
        let entries = match tree.list(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                unlisted.push((shown, error));
                continue;
            }
        };
        for entry in entries {
            let known = |other: &HiveFile| other.entry.id == entry.id;
            let mut names = entry.paths.iter().filter_map(|path| path.0.last());
            let others = |name: &Name| OTHER_HIVES.iter().any(|other| name.eq_ascii(other));
            if entry.is_directory || files.iter().any(known) || names.clone().any(others) {
                continue;
            }
            let shape = shape_of(tree, &entry);
            if shape == Shape::Hive {
                files.push(HiveFile {
                    entry,
                    role: Role::Copy(SIBLING),
                    shape,
                    logs: Vec::new(),
                });
            } else if names.any(|name| hive_name(name).is_some())
                && maybe_logs.iter().all(|log| log.id != entry.id)
            {
                maybe_logs.push(entry);
            }
        }
    }
    Ok(unlisted)
}

fn stores(tree: &dyn FileTree, census: &Census, hives: &[HiveFile]) -> Vec<Store> {
    let config: Vec<&[Name]> = hives
        .iter()
        .filter(|file| matches!(file.role, Role::Live(_)))
        .flat_map(|file| &file.entry.paths)
        .filter_map(|path| path.0.split_last().map(|(_, dir)| dir))
        .collect();
    let beside = |path: &WinPath| {
        path.0.split_last().is_some_and(|(_, dir)| {
            let above = dir.split_last().filter(|(last, _)| last.eq_ascii("TxR"));
            config.contains(&dir) || above.is_some_and(|(_, dir)| config.contains(&dir))
        })
    };
    let is = |entry: &FileEntry, endings: &[&str]| {
        let mut names = entry.paths.iter().filter_map(|path| path.0.last());
        names.any(|name| endings.iter().any(|end| stem(name, end).is_some()))
    };
    let kind = |entry: &FileEntry| {
        if is(entry, &TRANSACTION_ENDINGS) && entry.paths.iter().any(beside) {
            Some(StoreKind::TransactionLog)
        } else if is(entry, &IMAGE_ENDINGS) && begins_with(tree, entry, b"MSWIM\0\0\0") {
            Some(StoreKind::ImageFile)
        } else if is_registry_9x(tree, entry) {
            Some(StoreKind::Registry9x)
        } else if is(entry, &[SHADOW_ENDING]) {
            Some(StoreKind::ShadowCopy)
        } else {
            None
        }
    };
    let files = census.found.iter().filter(|entry| !entry.is_directory);
    files
        .filter_map(|entry| {
            Some(Store {
                kind: kind(entry)?,
                entry: entry.clone(),
            })
        })
        .collect()
}

/// Windows 9x keeps its registry in files that begin with `CREG`; later ones use some of the names.
fn is_registry_9x(tree: &dyn FileTree, entry: &FileEntry) -> bool {
    let mut names = entry.paths.iter().filter_map(|path| path.0.last());
    let mut head = [0; 4];
    names.any(|name| REGISTRY_9X.iter().any(|known| name.eq_ascii(known)))
        && entry.len >= 4
        && tree.read_at(entry.id, FileOffset(0), &mut head).is_ok()
        && head == *b"CREG"
}

/// An unreadable file is taken for what its name says.
fn begins_with(tree: &dyn FileTree, entry: &FileEntry, magic: &[u8; 8]) -> bool {
    let mut head = [0; 8];
    entry.len >= 8 && (tree.read_at(entry.id, FileOffset(0), &mut head).is_err() || head == *magic)
}

/// What comes before this ending.
fn stem(name: &Name, ending: &str) -> Option<Name> {
    let at = name.units().len().checked_sub(ending.len())?;
    let (stem, rest) = name.units().split_at(at);
    let ends_so = crate::text::eq_ascii(rest, ending);
    ends_so.then(|| Name(stem.to_vec()))
}

/// The hive's name in this name, if it is a log's.
fn hive_name(log: &Name) -> Option<Name> {
    LOG_ENDINGS
        .iter()
        .find_map(|ending| stem(log, ending).filter(|stem| !stem.units().is_empty()))
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
    if recycled::is_recycled(entry) {
        Role::Copy(RECYCLED)
    } else if names.any(|name| hive_name(name).is_some()) {
        Role::Log
    } else if any(&["RegBack", "SOFTWARE"]) || any(&["RegBack", "SOFTWARE.OLD"]) {
        Role::Copy("RegBack copy")
    } else if any(&["repair", "software"]) || any(&["repair", "software._"]) {
        Role::Copy("repair copy")
    } else if any(&["software._"]) {
        Role::Copy("compressed copy")
    } else if any(&["_REGISTRY_MACHINE_SOFTWARE"]) {
        Role::Copy("System Restore copy")
    } else if any(&["config", "SOFTWARE.SAV"]) {
        Role::Copy("setup's copy (.SAV)")
    } else {
        let is_hiv = |path: &WinPath| {
            path.0
                .last()
                .is_some_and(|n| stem(n, HIVE_ENDING).is_some())
        };
        Role::Copy(match entry.paths.iter().any(is_hiv) {
            true => HIVE_FILE,
            false => COPY,
        })
    }
}

/// How the reason of a file that could not be read begins.
pub const UNREADABLE: &str = "it cannot be read";

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
        return Shape::Other(format!("{UNREADABLE}: {error}"));
    }
    let head = &head[..take];
    match hive::probe(head) {
        Probe::Regf => Shape::Hive,
        Probe::Creg => Shape::Other("it is a Windows 9x registry file (CREG)".to_owned()),
        Probe::NotAHive => match Packing::probe(head) {
            Some(packing) => Shape::Packed(packing),
            None => Shape::Other("it has no hive header".to_owned()),
        },
    }
}
