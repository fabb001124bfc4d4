//! The strict walk: every cell of the hive exactly once, before anything may be changed.

use super::{
    bins::nonzero,
    digest,
    format::{BASE_LEN, count},
    read::{BaseBlock, State, read_base, read_image},
    walk::Walk,
};
use crate::{
    error::{Error, Result},
    units::HiveOffset,
};

/// Something odd that does not stop an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Structure, expectation, finding.
    pub what: String,
    /// The place in the hive file.
    pub offset: HiveOffset,
}

/// What the walk counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Minor version of the format.
    pub minor: u32,
    /// Keys, the root included.
    pub keys: u64,
    /// Values.
    pub values: u64,
    /// Cells, free ones included.
    pub cells: u64,
    /// Bins.
    pub bins: u64,
    /// Bytes of free cells, their size fields included.
    pub free_bytes: u64,
    /// Bytes in free cells that are not zero.
    pub free_nonzero: u64,
    /// Bytes that are not zero behind the content of cells in use.
    pub slack_nonzero: u64,
    /// Bytes that are not zero behind the last bin.
    pub tail_nonzero: u64,
    /// Greatest depth of a key; the root has 0.
    pub max_depth: usize,
    /// Cells in use that nothing refers to.
    pub leaked_cells: u64,
    /// Their bytes, size fields included.
    pub leaked_bytes: u64,
    /// All warnings, the ones not kept included.
    pub warnings: u64,
    /// Keys with a predefined handle, whose values cannot be counted by other readers.
    pub predefined_keys: u64,
    /// Sum of one fingerprint for every key and value: before minus deleted is after.
    pub digest: u128,
}

/// A security descriptor of the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) cell: u32,
    /// Keys that use it.
    pub(super) users: u32,
    pub(super) stored: u32,
    pub(super) digest: u128,
}

/// The facts of a sound hive that an edit needs. Small: only what is out of the ordinary is kept.
#[derive(Debug)]
pub struct Checked {
    summary: Summary,
    warnings: Vec<Problem>,
    /// The header as it was, and the length of the file.
    pub(super) header: BaseBlock,
    pub(super) file_len: u64,
    header_digest: u128,
    /// Free cells with something in them.
    pub(super) stale_free: Vec<u32>,
    /// Cells in use with something behind their content: cell, bytes of content.
    pub(super) stale_slack: Vec<(u32, u32)>,
    /// Cells in use that nothing refers to.
    pub(super) leaked: Vec<u32>,
    /// Keys whose subkey list is in the wrong order or has wrong hashes; sorted.
    pub(super) bad_lists: Vec<u32>,
    /// All descriptors, sorted by cell.
    pub(super) descriptors: Vec<Descriptor>,
}

impl Checked {
    /// What was counted.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// What was odd; the first of them if there are very many.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Whether `bytes` can be what was checked: same length, same header.
    pub(super) fn is_of(&self, bytes: &[u8]) -> bool {
        count(bytes.len()) == self.file_len && header_digest(bytes) == self.header_digest
    }
}

fn header_digest(bytes: &[u8]) -> u128 {
    digest::descriptor(bytes.get(..BASE_LEN).unwrap_or(bytes))
}

/// Walks everything. The first structural fault is the error; what Windows heals or leaves alone
/// is a warning. The hive must be clean.
pub fn check(bytes: &[u8]) -> Result<Checked> {
    let (header, state) = read_base(bytes)?;
    let image = read_image(bytes, &header)?;
    match state {
        State::Clean => {}
        State::Dirty { primary, secondary } => {
            return Err(Error::refused(format!(
                "hive header: equal sequence numbers expected, found {primary} and {secondary} \
                 (the newest changes are still in its logs)"
            ))
            .advise("start this Windows, shut it down cleanly and capture it again"));
        }
        State::BadChecksum { stored, computed } => {
            return Err(Error::refused(format!(
                "hive header: checksum {computed:#010x} expected, found {stored:#010x} \
                 (sequence numbers {} and {})",
                header.seq1, header.seq2
            ))
            .advise(
                "the last write was interrupted, or the header is damaged: start this Windows, shut it \
                 down cleanly and capture it again",
            ));
        }
    }
    let mut walk = Walk::new(image);
    if header.clustering != 1 {
        walk.warn(HiveOffset(44), || {
            format!(
                "hive header: clustering factor 1 expected, found {}",
                header.clustering
            )
        });
    }
    walk.bins()?;
    walk.ring(header.root.get())?;
    walk.tree(header.root.get())?;
    walk.balance()?;
    let bins_end = BASE_LEN.saturating_add(image.bins.len());
    walk.sum.tail_nonzero = nonzero(bytes.get(bins_end..).unwrap_or(&[]));
    walk.bad_lists.sort_unstable();
    Ok(Checked {
        summary: walk.sum,
        warnings: walk.warnings,
        header,
        file_len: count(bytes.len()),
        header_digest: header_digest(bytes),
        stale_free: walk.stale_free,
        stale_slack: walk.stale_slack,
        leaked: walk.leaked,
        bad_lists: walk.bad_lists,
        descriptors: walk.descriptors,
    })
}
