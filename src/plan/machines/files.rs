//! The evidence of generalization that lies in files.

use super::named::{find, read_file};
use crate::{
    error::{Error, Kind, Result},
    text::WinPath,
    tree::{FileEntry, FileTree},
    units::FileOffset,
    windows::{
        event_log,
        event_log::EventLog,
        generalization::{Evidence, line, of_state_file, some_names},
        ini::text_of,
        machine::{Generation, Source},
        registry::shown,
        sysprep_actions::{self, Actions},
    },
};

/// Longest State.ini read.
const STATE_LIMIT: u64 = 1 << 16;
/// How much of a log's end is read for its last line.
const TAIL: u64 = 4096;
/// Most event logs looked into; Windows 11 has some four hundred.
const MAX_LOGS: usize = 2_000;
/// Most user profiles looked into.
const MAX_USERS: usize = 16;
/// Profiles that every Windows has.
const EVERYBODY: [&str; 6] = [
    "Default",
    "Default User",
    "Public",
    "All Users",
    "LocalService",
    "NetworkService",
];

struct Files<'a> {
    tree: &'a dyn FileTree,
    root: &'a WinPath,
    /// The directory that the Windows directory is in.
    base: WinPath,
    unread: &'a mut Vec<String>,
    out: Vec<Evidence>,
    /// Homes of users, the first ones.
    homes: Vec<FileEntry>,
}

/// What Sysprep does to this Windows, by the list that lies in it; why not, if it cannot be read.
pub(super) fn sysprep_actions(
    tree: &dyn FileTree,
    root: &WinPath,
) -> Result<Option<(String, std::result::Result<Actions, String>)>> {
    let below = ["System32", "Sysprep", "ActionFiles", "Generalize.xml"];
    let path = format!("{root}\\{}", below.join("\\"));
    let read = match read_file(tree, root, &below, sysprep_actions::LIMIT) {
        Ok(None) => return Ok(None),
        Ok(Some((_, bytes))) => Actions::parse(&bytes),
        Err(error) if error.kind() == Kind::Io => return Err(error),
        Err(error) => Err(error),
    };
    Ok(Some((path, read.map_err(|error| error.to_string()))))
}

/// All of it, and the homes of users. What cannot be read is noted in `unread`.
pub(super) fn of_files(
    tree: &dyn FileTree,
    root: &WinPath,
    generation: Option<Generation>,
    config: &[FileEntry],
    unread: &mut Vec<String>,
) -> Result<(Vec<Evidence>, Vec<FileEntry>)> {
    let base = match root.0.split_last() {
        Some((_, above)) => WinPath(above.to_vec()),
        None => WinPath::default(),
    };
    let mut files = Files {
        tree,
        root,
        base,
        unread,
        out: Vec::new(),
        homes: Vec::new(),
    };
    if generation.is_none_or(Generation::has_image_state) {
        files.since_vista(generation)?;
    }
    if generation.is_none_or(|generation| !generation.has_image_state()) {
        files.before_vista(config)?;
    }
    Ok((files.out, files.homes))
}

impl Files<'_> {
    /// What reading gave; an error that is not the device's is noted.
    fn noted<T>(&mut self, what: &str, read: Result<Option<T>>) -> Result<Option<T>> {
        match read {
            Ok(found) => Ok(found),
            Err(error) if error.kind() == Kind::Io => Err(error),
            Err(error) => {
                self.unread.push(format!("{what}: {error}"));
                Ok(None)
            }
        }
    }

    fn path(&self, below: &[&str]) -> String {
        format!("{}\\{}", self.root, below.join("\\"))
    }

    fn found(&mut self, below: &[&str]) -> Result<Option<FileEntry>> {
        let found = find(self.tree, self.root, below);
        self.noted(&self.path(below), found)
    }

    /// Whether a file is there.
    fn presence(&mut self, id: &'static str, below: &[&str], meaning: &str) -> Result<()> {
        let entry = self.found(below)?;
        let value = entry.map(|entry| format!("{} bytes", entry.len));
        let source = file_source(self.path(below));
        self.out.push(line(id, source, value, meaning));
        Ok(())
    }

    /// The last line of a log.
    fn log(&mut self, id: &'static str, below: &[&str], meaning: &str) -> Result<()> {
        let entry = self.found(below)?.filter(|entry| !entry.is_directory);
        let value = match entry {
            None => None,
            Some(entry) if entry.len == 0 => Some("empty".to_owned()),
            Some(entry) => {
                let read = last_line(self.tree, &entry).map(Some);
                self.noted(&self.path(below), read)?
            }
        };
        let source = file_source(self.path(below));
        self.out.push(line(id, source, value, meaning));
        Ok(())
    }

    fn since_vista(&mut self, generation: Option<Generation>) -> Result<()> {
        let state = ["Setup", "State", "State.ini"];
        let path = self.path(&state);
        let read = read_file(self.tree, self.root, &state, STATE_LIMIT);
        let found = self.noted(&path, read)?;
        let bytes = found.as_ref().map(|(_, bytes)| bytes.as_slice());
        self.out.push(of_state_file(path, bytes));
        let sysprep = |name| ["System32", "Sysprep", name];
        self.presence(
            "sysprep_tag",
            &sysprep("Sysprep_succeeded.tag"),
            "Sysprep deletes it when it begins and writes it when it has succeeded",
        )?;
        let panther = |name| ["System32", "Sysprep", "Panther", name];
        self.log(
            "sysprep_log",
            &panther("setupact.log"),
            "the last line that Sysprep wrote",
        )?;
        self.log(
            "sysprep_errors",
            &panther("setuperr.log"),
            "the last error of Sysprep",
        )?;
        self.licensing_store()?;
        self.log(
            "setup_log",
            &["Panther", "setupact.log"],
            "the last line that setup wrote",
        )?;
        self.event_logs(&["System32", "winevt", "Logs"], ".evtx", "System.evtx")?;
        self.users(
            "Users",
            &["AppData", "Local", "Microsoft"],
            generation.is_none_or(|generation| generation >= Generation::Win8),
        )
    }

    fn before_vista(&mut self, config: &[FileEntry]) -> Result<()> {
        self.presence(
            "setupcl",
            &["System32", "setupcl.exe"],
            "Sysprep puts it there: it makes the new SID at the next start",
        )?;
        self.presence(
            "security_answers",
            &["System32", "$nt4pre$.inf"],
            "security: answers of NT 4.0's Sysprep, perhaps with the administrator's password in clear",
        )?;
        let path = format!("{}\\Sysprep", self.base).replace("\\\\", "\\");
        let found = find(self.tree, &self.base, &["Sysprep"]);
        let found = self.noted(&path, found)?;
        let names = match found.filter(|entry| entry.is_directory) {
            None => None,
            Some(directory) => {
                let listed = self.tree.list(directory.id).map(Some);
                let listed = self.noted(&path, listed)?.unwrap_or_default();
                Some(some_names(&names_of(&listed)).unwrap_or_else(|| "empty".to_owned()))
            }
        };
        self.out.push(line(
            "security_sysprep_folder",
            file_source(path),
            names,
            "security: Sysprep's folder was left; its answers may hold the administrator's password in \
             clear",
        ));
        let logs: Vec<FileEntry> = config
            .iter()
            .filter(|e| ends_with(e, ".evt"))
            .cloned()
            .collect();
        self.event_log_lines(&logs, &["System32", "config"], "SysEvent.Evt")?;
        self.presence(
            "licensing_store",
            &["System32", "wpa.dbl"],
            "licensing: activation data of this machine",
        )?;
        self.users(
            "Documents and Settings",
            &["Local Settings", "Application Data", "Microsoft"],
            false,
        )?;
        Ok(())
    }

    fn event_logs(&mut self, below: &[&str], ending: &str, main: &str) -> Result<()> {
        let Some(directory) = self.found(below)?.filter(|entry| entry.is_directory) else {
            return self.event_log_lines(&[], below, main);
        };
        let listed = self.tree.list(directory.id).map(Some);
        let mut logs = self.noted(&self.path(below), listed)?.unwrap_or_default();
        logs.retain(|entry| ends_with(entry, ending));
        self.event_log_lines(&logs, below, main)
    }

    /// A line for all of them, then one each; the system's own log has a name of its own.
    fn event_log_lines(&mut self, logs: &[FileEntry], below: &[&str], main: &str) -> Result<()> {
        let bytes: u64 = logs.iter().map(|log| log.len).fold(0, u64::saturating_add);
        let mut lines = Vec::new();
        let (mut records, mut oldest): (u64, Option<String>) = (0, None);
        for log in logs.iter().take(MAX_LOGS) {
            let tree = self.tree;
            let looked = event_log::look(log.len, &mut |at, buf| {
                tree.read_at(log.id, FileOffset(at), buf)
            });
            let found = self.noted(&log.path(), looked)?;
            if let Some(EventLog {
                records: more,
                oldest: when,
                ..
            }) = &found
            {
                records = records.saturating_add(*more);
                // The form begins with the year: earlier is less.
                oldest = match (oldest, when.clone()) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            let value = match found {
                Some(found) => found.describe(),
                None => format!("{} bytes, not in the form of an event log", log.len),
            };
            let is_main = log.names.iter().any(|name| name.eq_ascii(main));
            let (id, meaning) = match is_main {
                true => ("event_log_system", "event logs: the system's own"),
                false => ("event_log", "event logs: one of them"),
            };
            lines.push(line(id, file_source(log.path()), Some(value), meaning));
        }
        lines.sort_by(|a, b| a.source.file.cmp(&b.source.file));
        if !lines.iter().any(|line| line.id == "event_log_system") {
            let path = format!("{}\\{main}", self.path(below));
            let meaning = "event logs: the system's own";
            lines.push(line("event_log_system", file_source(path), None, meaning));
        }
        if logs.len() > MAX_LOGS {
            let more = logs.len() - MAX_LOGS;
            self.unread.push(format!(
                "{}: {more} more event logs were not looked into",
                self.path(below)
            ));
        }
        let held = EventLog {
            records,
            oldest,
            note: None,
        };
        let value = format!("{} files, {bytes} bytes, {}", logs.len(), held.describe());
        self.out.push(line(
            "event_logs",
            file_source(self.path(below)),
            (!logs.is_empty()).then_some(value),
            "event logs: Sysprep clears them; what is in them is this machine's history",
        ));
        self.out.extend(lines);
        Ok(())
    }

    /// Where it is depends on the version; the first place is named if there is none.
    fn licensing_store(&mut self) -> Result<()> {
        const SPP: &str = "SoftwareProtectionPlatform";
        let services = ["ServiceProfiles", "NetworkService", "AppData", "Roaming"];
        let places: [Vec<&str>; 4] = [
            vec!["System32", "spp", "store", "2.0", "data.dat"],
            vec!["System32", "spp", "store", "data.dat"],
            [&services[..], &["Microsoft", SPP, "tokens.dat"]].concat(),
            [
                &services[..],
                &["Microsoft", "SoftwareLicensing", "tokens.dat"],
            ]
            .concat(),
        ];
        let mut found = (self.path(&places[0]), None);
        for place in &places {
            if let Some(entry) = self.found(place)? {
                found = (self.path(place), Some(format!("{} bytes", entry.len)));
                break;
            }
        }
        self.out.push(line(
            "licensing_store",
            file_source(found.0),
            found.1,
            "licensing: activation data of this machine",
        ));
        Ok(())
    }

    /// Profiles, and what of the machine lies in them.
    fn users(&mut self, directory: &str, microsoft: &[&str], push: bool) -> Result<()> {
        let path = format!("{}\\{directory}", self.base).replace("\\\\", "\\");
        let found = find(self.tree, &self.base, &[directory]);
        let found = self.noted(&path, found)?.filter(|entry| entry.is_directory);
        let listed = match &found {
            None => Vec::new(),
            Some(entry) => {
                let listed = self.tree.list(entry.id).map(Some);
                self.noted(&path, listed)?.unwrap_or_default()
            }
        };
        let is_user = |entry: &&FileEntry| {
            let mut names = entry.names.iter();
            entry.is_directory && !names.any(|n| EVERYBODY.iter().any(|all| n.eq_ascii(all)))
        };
        let users: Vec<FileEntry> = listed.iter().filter(is_user).cloned().collect();
        self.homes = users.iter().take(MAX_USERS).cloned().collect();
        if let Some(more) = users.len().checked_sub(MAX_USERS).filter(|more| *more > 0) {
            self.unread
                .push(format!("{path}: {more} more profiles were not looked into"));
        }
        self.out.push(line(
            "shell_user_directories",
            file_source(path.clone()),
            some_names(&names_of(&users)),
            "shell settings: directories of users besides the ones every Windows has",
        ));
        let mut places = vec![(
            "media_player_settings",
            vec!["Media Player"],
            "media player settings: a user's library and ids",
        )];
        if push {
            places.push((
                "device_push_notifications",
                vec!["Windows", "Notifications"],
                "device state: a user's channels for push notifications",
            ));
        }
        for (id, below, meaning) in places {
            let mut whose = Vec::new();
            for user in users.iter().take(MAX_USERS) {
                let Some(home) = user.paths.first() else {
                    continue;
                };
                let names: Vec<&str> = microsoft.iter().chain(&below).copied().collect();
                let found = find(self.tree, home, &names);
                if self.noted(&user.path(), found)?.is_some() {
                    whose.extend(names_of(std::slice::from_ref(user)));
                }
            }
            let source = format!("{path}\\*\\{}\\{}", microsoft.join("\\"), below.join("\\"));
            self.out
                .push(line(id, file_source(source), some_names(&whose), meaning));
        }
        Ok(())
    }
}

fn file_source(file: String) -> Source {
    Source {
        file,
        key: None,
        value: None,
    }
}

fn names_of(entries: &[FileEntry]) -> Vec<String> {
    let last = |entry: &FileEntry| {
        let name = entry.paths.first().and_then(|path| path.0.last());
        name.map(|name| shown(&String::from_utf16_lossy(name.units())))
    };
    let mut names: Vec<String> = entries.iter().filter_map(last).collect();
    names.sort();
    names
}

fn ends_with(entry: &FileEntry, ending: &str) -> bool {
    let mut names = entry.names.iter();
    !entry.is_directory
        && names.any(|name| {
            let units = name.units();
            let at = units.len().checked_sub(ending.len());
            at.is_some_and(|at| crate::text::eq_ascii(&units[at..], ending))
        })
}

fn last_line(tree: &dyn FileTree, entry: &FileEntry) -> Result<String> {
    // An even place, so that UTF-16 stays in step.
    let from = entry.len.saturating_sub(TAIL) & !1;
    let len = usize::try_from(entry.len - from).map_err(|_| Error::limit("log: it is too long"))?;
    let mut bytes = vec![0; len];
    tree.read_at(entry.id, FileOffset(from), &mut bytes)?;
    let text = text_of(&bytes);
    let mut lines = text
        .lines()
        .map(|line| line.trim_matches(['\0', ' ', '\r']));
    let last = lines.rfind(|line| !line.is_empty());
    Ok(shown(last.unwrap_or("empty")))
}
