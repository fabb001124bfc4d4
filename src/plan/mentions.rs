//! Files that are only searched for the ids found elsewhere.

use std::collections::BTreeMap;

use super::{
    Finding, NotScanned, Subject, VolumePlan, file_places,
    tokens::{Class, Token},
};
use crate::{
    bytes::many::Needles,
    error::{Error, Kind, Result},
    image::Volume,
    rules::{Action, Rule},
    tree::{FileEntry, FileTree, Storage, UnseenClass},
    units::FileOffset,
};

/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// Ids named one by one.
const MAX_SHOWN: usize = 5;

/// A file and the rule that wants it searched.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) rule: Rule,
    pub(super) entry: FileEntry,
}

/// Searches each file for identifiers.
pub(super) fn search(
    volume: &Volume,
    tree: &dyn FileTree,
    wanted: &[Wanted],
    tokens: &[Token],
    part: &mut VolumePlan,
) -> Result<()> {
    for Wanted { rule, entry } in wanted {
        let evidence = match find(tree, entry, tokens) {
            Ok(evidence) => evidence,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                let reason = format!("not searched: {error}");
                part.skip(NotScanned::of_file(UnseenClass::Unsearched, entry, reason));
                format!("not searched: {error}")
            }
        };
        let evidence = format!("{} bytes, {evidence}; nothing in it was changed", entry.len);
        let places = file_places(volume, tree, entry);
        let mut finding = Finding::new(rule, volume, Subject::file(entry), evidence, places);
        finding.action = Action::Report;
        part.findings.push(finding);
    }
    Ok(())
}

fn find(tree: &dyn FileTree, entry: &FileEntry, tokens: &[Token]) -> Result<String> {
    if matches!(
        entry.storage,
        Storage::Encrypted | Storage::Redirected(_) | Storage::None
    ) {
        return Err(Error::unsupported(
            "a file with readable data expected, found it encrypted or redirected",
        ));
    }
    let ids: Vec<&Token> = tokens
        .iter()
        .filter(|token| token.class == Class::Identifier)
        .collect();
    let longest = ids.iter().map(|token| token.bytes.len()).max().unwrap_or(0);
    if longest == 0 {
        return Ok("no id was found elsewhere that could be searched for".to_owned());
    }
    let needles = Needles::new(ids.iter().map(|token| (token.bytes.as_slice(), token.fold)));
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    let mut window = Vec::new();
    let mut at = 0_u64;
    while at < entry.len {
        let carry = window.len().min(longest - 1);
        window.drain(..window.len() - carry);
        let take = usize::try_from(entry.len - at).map_or(PIECE, |left| left.min(PIECE));
        window.resize(carry + take, 0);
        tree.read_at(entry.id, FileOffset(at), &mut window[carry..])?;
        needles.each(&window, |index, begin, len| {
            // What ends in the carried bytes was counted with the piece before.
            if begin + len > carry {
                let label = ids[index].label.as_str();
                *found.entry(label).or_default() += 1;
            }
            true
        });
        at += take as u64;
    }
    if found.is_empty() {
        return Ok(
            "none of the ids found elsewhere stands in it as plain text or bytes".to_owned(),
        );
    }
    let shown: Vec<String> = found
        .iter()
        .take(MAX_SHOWN)
        .map(|(label, count)| format!("{label} {count} times"))
        .collect();
    let more = match found.len().saturating_sub(MAX_SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Ok(format!("HOLDS the identity: {}{more}", shown.join(", ")))
}
