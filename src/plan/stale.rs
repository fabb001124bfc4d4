//! Hives that no rule matches and whose stale bytes hold the identity all the same: a copy from which
//! the value was deleted as Windows deletes, the bytes left in a free cell.
//!
//! They are looked for with what was found elsewhere in the image: without that nobody can say what
//! in a free cell is an identity.

use super::{
    HiveBytes, HivePlan, Left, LeftClass, NotScanned, VolumePlan, hives, open_hive,
    tokens::{Class, Token},
};
use crate::{
    bytes::many::Needles,
    error::{Error, Kind, Result},
    hive::{check, settle, stale_pieces},
    image::{self, Volume, place_in},
    tree::{FileTree, UnseenClass},
    units::FileOffset,
    windows::{
        Store, StoreKind,
        packed::{UNPACKED_LIMIT, unpack},
    },
};

/// Finds identifiers and contents, not names: those stand in many places by right.
#[derive(Debug)]
pub(super) struct Finder(Needles);

impl Finder {
    pub(super) fn new(tokens: &[Token]) -> Self {
        let wanted = tokens.iter().filter(|token| token.class != Class::Name);
        Self(Needles::new(
            wanted.map(|token| (token.bytes.as_slice(), token.fold)),
        ))
    }

    fn count(&self, bytes: &[u8]) -> usize {
        self.0.count(bytes)
    }

    fn first(&self, bytes: &[u8]) -> Option<u64> {
        self.0.first(bytes).map(|at| at as u64)
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.is_in(bytes)
    }

    /// How often in stale bytes. Fails where the hive is too damaged to tell them from others.
    fn count_stale(&self, bytes: &[u8]) -> Result<usize> {
        let checked = check(bytes)?;
        Ok(stale_pieces(bytes, &checked)
            .map(|piece| self.count(piece))
            .sum())
    }
}

/// Marks the hives of a volume that are to be wiped.
pub(super) fn find(
    volume: &Volume,
    tree: &dyn FileTree,
    finder: &Finder,
    part: &mut VolumePlan,
) -> Result<()> {
    if finder.0.is_empty() {
        return Ok(());
    }
    let mut hives = std::mem::take(&mut part.hives);
    for hive in hives.iter_mut().filter(|hive| hive.edits.is_empty()) {
        match look_at(volume, tree, finder, hive, part) {
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => part.left.push(Left {
                class: LeftClass::Live,
                what: format!("the identity stands in its bytes, no rule matches: {error}"),
                owner: hive.entry.path(),
                image_offset: None,
                count: 1,
                remedy: "delete the file on the master if it is a copy, and capture it again"
                    .to_owned(),
                accepted: false,
            }),
            Ok(()) => {}
        }
    }
    part.hives = hives;
    Ok(())
}

/// Names each of the kernel's transaction logs that holds the identity, and says why it is left.
pub(super) fn name_logs(
    volume: &Volume,
    tree: &dyn FileTree,
    finder: &Finder,
    stores: &[Store],
    part: &mut VolumePlan,
) -> Result<()> {
    if finder.0.is_empty() {
        return Ok(());
    }
    let is_log = |store: &&Store| store.kind == StoreKind::TransactionLog;
    for store in stores.iter().filter(is_log) {
        let bytes = match image::read_whole(tree, &store.entry) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                let reason = format!("not searched: {error}");
                part.skip(NotScanned::of_file(
                    UnseenClass::Damaged,
                    &store.entry,
                    reason,
                ));
                continue;
            }
        };
        let Some(first) = finder.first(&bytes) else {
            continue;
        };
        let extents = tree.extents(store.entry.id)?;
        let image_offset = place_in(&extents, FileOffset(first))
            .and_then(|at| volume.image_offset(at))
            .map(|at| at.get());
        part.left.push(Left {
            class: LeftClass::Journal,
            what: format!(
                "the identity, first at file offset {first:#x}: a log of the kernel's transaction \
                 manager whose blocks are sealed; one filled with zeros would not open, and what it \
                 has to finish or roll back would be lost"
            ),
            owner: store.entry.path(),
            image_offset,
            count: finder.count(&bytes) as u64,
            remedy: "start and shut down Windows once on the master, then capture it again"
                .to_owned(),
            accepted: false,
        });
    }
    Ok(())
}

fn look_at(
    volume: &Volume,
    tree: &dyn FileTree,
    finder: &Finder,
    hive: &mut HivePlan,
    part: &mut VolumePlan,
) -> Result<()> {
    let entry = &hive.entry;
    if let Some(packing) = hive.packed {
        let bytes = unpack(&image::read_whole(tree, entry)?, packing, UNPACKED_LIMIT)?;
        let path = entry.path();
        let matched = |finding: &super::Finding| match &finding.subject {
            super::Subject::Value { hive, .. } | super::Subject::Key { hive, .. } => *hive == path,
            super::Subject::File { .. } => false,
        };
        if finder.is_in(&bytes) && !part.findings.iter().any(matched) {
            return Err(Error::refused(
                "a packed file is not written; delete it on the master and capture it again",
            ));
        }
        return Ok(());
    }
    let opened = open_hive(tree, entry, &hive.logs)?;
    hive.wipe = match &opened {
        HiveBytes::Clean(bytes) => finder.is_in(bytes) && finder.count_stale(bytes)? > 0,
        HiveBytes::Replayed { primary, bytes, .. } => {
            let (before, after) = (finder.count(primary), finder.count(bytes));
            // A hive too damaged to be checked is not written, whatever stands in it.
            let stale = match before.max(after) {
                0 => 0,
                _ => finder.count_stale(bytes)?,
            };
            stale > 0 || before > after
        }
        HiveBytes::Stuck { primary, .. } if finder.is_in(primary) => {
            let mut bytes = primary.clone();
            settle(&mut bytes)?;
            finder.count_stale(&bytes)? > 0
        }
        HiveBytes::Stuck { .. } => false,
    };
    if hive.wipe {
        hive.state.push_str("; stale bytes of it hold the identity");
        // For the live hive that is said already.
        if !part
            .dirty
            .iter()
            .any(|error| error.trail().iter().any(|at| at.value == entry.path()))
        {
            hives::object_to_dirty(volume, tree, entry, &hive.logs, &hive.role, &opened, part);
        }
        hives::object(volume, entry, &hive.role, &opened, part);
    }
    Ok(())
}
