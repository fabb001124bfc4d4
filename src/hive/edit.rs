//! Deleting without a trace: plan everything, then write what cannot fail any more.

use std::ops::Range;

use super::{
    check::Checked,
    format::{BASE_LEN, CELL_HEADER, base, count, index},
    plan,
    read::{checksum, read_base, read_image},
    record::offset,
};
use crate::{
    bytes::all_zero,
    error::{Error, Result},
    text::Name,
};

/// Names from the root's children on; the root's own name is not included.
pub type KeyPath = Vec<Name>;

/// One thing to delete. Names are compared folded; what is not there is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HiveEdit {
    /// Every value of this name in every key of this path.
    DeleteValue {
        /// The key.
        key: KeyPath,
        /// The value; empty for the default value.
        value: Name,
    },
    /// Everything below the key, which stays.
    DeleteSubkeys {
        /// The key.
        key: KeyPath,
    },
    /// The key itself and everything below it.
    DeleteKey {
        /// The key; not the root.
        key: KeyPath,
    },
}

/// Bytes erased that had belonged to nothing; only those that were not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wiped {
    /// In cells that were free before.
    pub free_bytes: u64,
    /// Behind the content of cells in use.
    pub slack_bytes: u64,
    /// Behind the last bin.
    pub tail_bytes: u64,
    /// In leaked cells with a token.
    pub leaked_bytes: u64,
}

/// What an edit did. All zero and empty when there was nothing to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditOutcome {
    /// Values deleted, those of deleted keys included.
    pub values: u64,
    /// Keys deleted.
    pub keys: u64,
    /// Sum of the fingerprints of what was deleted.
    pub removed_digest: u128,
    /// Stale bytes erased besides.
    pub wiped: Wiped,
    /// Sorted ranges of the file that hold every byte that differs; 512 bytes or more apart.
    pub changed: Vec<Range<u64>>,
    /// What a reader of the report should know.
    pub notes: Vec<String>,
}

/// Fewer equal bytes than this between two changes are counted into one range.
const RANGE_GAP: u64 = 512;

/// One write, in file offsets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    /// Zeroes.
    Zero { at: u64, len: u64 },
    /// A dword.
    Put { at: u64, value: u32 },
    /// A word.
    PutHalf { at: u64, value: u16 },
}

impl Write {
    fn range(self) -> Option<Range<usize>> {
        let (at, len) = match self {
            Self::Zero { at, len } => (at, len),
            Self::Put { at, .. } => (at, 4),
            Self::PutHalf { at, .. } => (at, 2),
        };
        let (at, len) = (usize::try_from(at).ok()?, usize::try_from(len).ok()?);
        Some(at..at.checked_add(len)?)
    }
}

/// Deletes, frees, zeroes and wipes. `bytes` must be what `checked` is of. On an error not one byte
/// is changed; when nothing matches, neither. Cells that nothing refers to are erased if they hold
/// one of `tokens`.
pub fn edit(
    bytes: &mut [u8],
    checked: &Checked,
    edits: &[HiveEdit],
    tokens: &[Vec<u8>],
) -> Result<EditOutcome> {
    edit_with(bytes, checked, edits, tokens, false)
}

/// As [`edit`], and erases what is stale even when nothing matches: a log may have taken out what
/// was looked for, and left its bytes.
pub fn edit_and_wipe(
    bytes: &mut [u8],
    checked: &Checked,
    edits: &[HiveEdit],
    tokens: &[Vec<u8>],
) -> Result<EditOutcome> {
    edit_with(bytes, checked, edits, tokens, true)
}

fn edit_with(
    bytes: &mut [u8],
    checked: &Checked,
    edits: &[HiveEdit],
    tokens: &[Vec<u8>],
    always: bool,
) -> Result<EditOutcome> {
    if !checked.is_of(bytes) {
        return Err(Error::internal(
            "hive edit: the bytes that were checked expected, found others",
        ));
    }
    let (header, _) = read_base(bytes)?;
    let image = read_image(bytes, &header)?;
    let Some(plan) = plan::make(image, checked, edits, tokens, always)? else {
        return Ok(EditOutcome::default());
    };
    let tail_at = BASE_LEN.saturating_add(index(header.bins_len));
    let wiped = Wiped {
        free_bytes: checked.summary().free_nonzero,
        slack_bytes: checked.summary().slack_nonzero,
        tail_bytes: checked.summary().tail_nonzero,
        leaked_bytes: plan.leaked_bytes,
    };
    let mut writes = plan.writes;
    let tail_len = bytes.len().saturating_sub(tail_at);
    writes.push(Write::Zero {
        at: count(tail_at),
        len: count(tail_len),
    });
    let sequence = header.seq1.wrapping_add(1);
    let mut base_block = bytes.get(..BASE_LEN).unwrap_or(&[]).to_vec();
    for at in [base::SEQ1, base::SEQ2] {
        crate::bytes::put(&mut base_block, at, &sequence.to_le_bytes(), "hive header")?;
        writes.push(Write::Put {
            at: count(at),
            value: sequence,
        });
    }
    writes.push(Write::Put {
        at: count(base::CHECKSUM),
        value: checksum(&base_block),
    });
    let changed = apply(bytes, checked, &writes)?;
    Ok(EditOutcome {
        values: plan.values,
        keys: plan.keys,
        removed_digest: plan.removed_digest,
        wiped,
        changed,
        notes: plan.notes,
    })
}

/// What has no owner, in the old geometry: content of free cells, and what stands behind content.
fn stale(checked: &Checked) -> impl Iterator<Item = (u32, u32)> {
    let free = checked.stale_free.iter().map(|cell| (*cell, 0));
    free.chain(checked.stale_slack.iter().copied())
}

/// The bytes of a cell behind `used` bytes of its payload.
fn behind(bytes: &[u8], (cell, used): (u32, u32)) -> Option<Range<usize>> {
    let at = BASE_LEN.checked_add(index(cell))?;
    let payload = at.checked_add(index(CELL_HEADER))?;
    let header = i32::from_le_bytes(*bytes.get(at..payload)?.first_chunk()?);
    let end = at.checked_add(index(header.unsigned_abs()))?;
    let range = payload.checked_add(index(used))?..end;
    bytes.get(range.clone()).map(|_| range)
}

/// Everything in the file that [`edit_and_wipe`] may erase: content of free cells, what stands behind
/// the content of cells in use and behind the last bin, and cells that nothing refers to.
pub fn stale_pieces<'a>(bytes: &'a [u8], checked: &'a Checked) -> impl Iterator<Item = &'a [u8]> {
    let leaked = checked.leaked.iter().map(|cell| (*cell, 0));
    let tail = BASE_LEN.saturating_add(index(checked.header.bins_len));
    stale(checked)
        .chain(leaked)
        .filter_map(|place| behind(bytes, place))
        .chain(std::iter::once(tail..bytes.len()))
        .filter_map(|range| bytes.get(range))
}

/// Checks all writes, then wipes, then does them in order, and says where bytes changed.
fn apply(bytes: &mut [u8], checked: &Checked, writes: &[Write]) -> Result<Vec<Range<u64>>> {
    for write in writes {
        if write.range().and_then(|range| bytes.get(range)).is_none() {
            return Err(Error::internal(format!(
                "hive edit: a write inside the file expected, found {write:?}"
            )));
        }
    }
    if let Some((cell, _)) = stale(checked).find(|stale| behind(bytes, *stale).is_none()) {
        return Err(Error::internal(
            "hive edit: the cells that were checked expected, found others",
        )
        .at("hive offset", offset(cell)));
    }
    let mut changed = Vec::new();
    for place in stale(checked) {
        if let Some(range) = behind(bytes, place) {
            zero(&mut changed, bytes, range);
        }
    }
    for write in writes {
        let Some(range) = write.range() else { continue };
        match *write {
            Write::Zero { .. } => zero(&mut changed, bytes, range),
            Write::Put { value, .. } => put(&mut changed, bytes, range, &value.to_le_bytes()),
            Write::PutHalf { value, .. } => put(&mut changed, bytes, range, &value.to_le_bytes()),
        }
    }
    changed.sort_unstable_by_key(|range| range.start);
    changed.dedup_by(|next, kept| {
        let is_near = next.start < kept.end.saturating_add(RANGE_GAP);
        if is_near {
            kept.end = kept.end.max(next.end);
        }
        is_near
    });
    Ok(changed)
}

fn zero(changed: &mut Vec<Range<u64>>, bytes: &mut [u8], range: Range<usize>) {
    let mut start = range.start;
    let Some(place) = bytes.get_mut(range) else {
        return;
    };
    for chunk in place.chunks_mut(512) {
        if !all_zero(chunk) {
            let first = chunk.iter().position(|byte| *byte != 0);
            let last = chunk.iter().rposition(|byte| *byte != 0);
            note(changed, start, first, last);
            chunk.fill(0);
        }
        start = start.saturating_add(chunk.len());
    }
}

fn put(changed: &mut Vec<Range<u64>>, bytes: &mut [u8], range: Range<usize>, new: &[u8]) {
    let start = range.start;
    let Some(place) = bytes.get_mut(range) else {
        return;
    };
    let differs = |(old, new): (&u8, &u8)| old != new;
    let first = place.iter().zip(new).position(differs);
    let last = place.iter().zip(new).rposition(differs);
    note(changed, start, first, last);
    for (to, from) in place.iter_mut().zip(new) {
        *to = *from;
    }
}

/// Adds the range from the first to the last byte that differs.
fn note(changed: &mut Vec<Range<u64>>, start: usize, first: Option<usize>, last: Option<usize>) {
    let (Some(first), Some(last)) = (first, last) else {
        return;
    };
    let from = count(start.saturating_add(first));
    let to = count(start.saturating_add(last)).saturating_add(1);
    match changed.last_mut() {
        Some(range) if range.start <= from && from < range.end.saturating_add(RANGE_GAP) => {
            range.end = range.end.max(to);
        }
        _ => changed.push(from..to),
    }
}
