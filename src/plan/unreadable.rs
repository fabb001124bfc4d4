//! Files that some structure names and that cannot be read: what of them the rules ask for.

use super::{NotScanned, VolumePlan, keys, names_file};
use crate::{
    error::Error,
    image::Volume,
    rules::{Rule, Target},
    tree::{Unreadable, UnseenClass},
    windows::{self, capi::MACHINE_KEYS},
};

/// Most of them that are listed one by one.
const MAX_LISTED: usize = 200;

/// Everything goes to the list of what was not looked at; what a rule or a hive's name asks for
/// forbids a clean, as nobody can say that it is gone.
pub(super) fn judge(volume: &Volume, all: &[Unreadable], rules: &[Rule], part: &mut VolumePlan) {
    let (wanted, others): (Vec<&Unreadable>, Vec<&Unreadable>) =
        all.iter().partition(|file| is_wanted(file, rules));
    for file in &wanted {
        part.blockers.push(
            volume.climb(
                Error::refused(format!(
                    "a file that can be read under its name expected, found damage: {}",
                    file.reason
                ))
                .at("file", shown(volume, file))
                .advise(REMEDY),
            ),
        );
    }
    for file in wanted.iter().chain(&others).take(MAX_LISTED) {
        let path = file.paths.first().map(ToString::to_string);
        let mut unseen = NotScanned::new(
            UnseenClass::Damaged,
            shown(volume, file),
            file.reason.clone(),
        );
        unseen.path = path;
        part.skip(unseen.remedy(REMEDY));
    }
    if all.len() > MAX_LISTED {
        part.skip(
            NotScanned::new(
                UnseenClass::Damaged,
                format!("{} more files", all.len() - MAX_LISTED),
                "they cannot be read",
            )
            .remedy(REMEDY),
        );
    }
}

const REMEDY: &str = "repair the volume on the master (chkdsk /f), then capture it again";

/// All paths, or what else there is to name it by.
fn shown(volume: &Volume, file: &Unreadable) -> String {
    let paths: Vec<String> = file.paths.iter().map(ToString::to_string).collect();
    match (paths.is_empty(), file.record) {
        (false, _) => paths.join(" = "),
        (true, Some(record)) => {
            let (space, value) = volume.record_name(record);
            format!("{space} {value}, whose name is lost")
        }
        (true, None) => "a file whose name is lost".to_owned(),
    }
}

fn is_wanted(file: &Unreadable, rules: &[Rule]) -> bool {
    let asked = |rule: &Rule| {
        let fits = match &rule.target {
            Target::Folder { .. } => file.is_directory,
            _ => !file.is_directory,
        };
        fits && names_file(rule, &file.names, &file.paths)
    };
    rules.iter().any(asked)
        || (!file.is_directory && file.paths.iter().any(windows::is_hive_path))
        || (file.is_directory
            && keys::are_wanted(rules)
            && file
                .paths
                .iter()
                .any(|path| keys::ends_with(path, &MACHINE_KEYS)))
}
