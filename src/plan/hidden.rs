//! Contents that the search does not see: wanted files whose data lie elsewhere, and how many others
//! there are.

use super::{NotScanned, VolumePlan};
use crate::tree::{FileEntry, Form, Opaque, Storage};

/// Files that are named, a form.
const MAX_EXAMPLES: usize = 3;

/// How the contents of a file are hidden, as far as its entry says.
fn form_of(entry: &FileEntry) -> Option<Form> {
    match entry.storage {
        Storage::Encrypted => Some(Form::Efs),
        Storage::Redirected(tag) => Form::of_tag(tag),
        Storage::Compressed => Some(Form::Lznt1),
        Storage::Resident | Storage::Plain | Storage::Sparse | Storage::None => None,
    }
}

/// Names a wanted file whose contents were not read: what is in it is not known, and stays where it is
/// even if the name goes.
pub(super) fn name_wanted(entry: &FileEntry, part: &mut VolumePlan) {
    let form = match form_of(entry) {
        None | Some(Form::Lznt1) => return,
        Some(form) => form,
    };
    let reason = format!("its contents are {}: not read", form.reason());
    let unseen = NotScanned::of_file(form.class(), entry, reason).remedy(form.remedy());
    part.skip(match form {
        // The compressed stream is the file's own, and goes with it.
        Form::Wof => unseen.harmless(),
        _ => unseen,
    });
}

/// One line a form for all other files, those left out that are removed with all that is theirs.
pub(super) fn name_others(opaque: Vec<Opaque>, part: &mut VolumePlan) {
    for mut some in opaque {
        let is_one = |entry: &&FileEntry| form_of(entry) == Some(some.form);
        for entry in part.removals.iter().filter(is_one) {
            some.files = some.files.saturating_sub(1);
            some.bytes = some.bytes.saturating_sub(entry.len);
        }
        if some.files == 0 {
            continue;
        }
        let removed: Vec<String> = part.removals.iter().map(FileEntry::path).collect();
        some.examples.retain(|path| !removed.contains(path));
        some.examples.truncate(MAX_EXAMPLES);
        let more = match some.examples.len() {
            n if u64::try_from(n).is_ok_and(|n| n < some.files) => " ...",
            _ => "",
        };
        let (count, bytes) = (some.files, some.bytes);
        let mut unseen = NotScanned::new(
            some.form.class(),
            format!("{count} files {}", some.form.reason()),
            format!(
                "their contents ({bytes} bytes) were not searched: {}{more}",
                some.examples.join(", ")
            ),
        )
        .remedy(some.form.remedy());
        unseen.len = Some(bytes);
        part.skip(unseen);
    }
}
