//! Structures of NTFS that keep the last two bytes of each 512 elsewhere: file records, index blocks,
//! pages of $LogFile. Raw bytes show a text that runs over such an end only in part.
//!
//! Recognised wherever they lie, also in free clusters and in the slack of files: by magic and by an
//! update sequence that fits. A structure that was overwritten in part is undone as far as it goes.

use super::search::{Hit, Searcher};

/// Every so many bytes the last two are replaced.
const STRIDE: usize = 512;
/// The longest structure: an index block of the largest cluster that Windows formats with.
pub(super) const MAX_LEN: usize = 64 << 10;
/// The longest file record and log page.
const SHORT_LEN: usize = 4 << 10;
const MAGICS: [(&[u8; 4], usize); 3] = [
    (b"FILE", SHORT_LEN),
    (b"INDX", MAX_LEN),
    (b"RCRD", SHORT_LEN),
];

/// Copies the structure that begins here with its own bytes back in place. `false`: none begins here.
fn undo(bytes: &[u8], copy: &mut Vec<u8>) -> bool {
    let Some((magic, [o0, o1, c0, c1, ..])) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let Some((_, longest)) = MAGICS.iter().find(|(known, _)| *known == magic) else {
        return false;
    };
    let offset = usize::from(u16::from_le_bytes([*o0, *o1]));
    let count = usize::from(u16::from_le_bytes([*c0, *c1]));
    let len = count.saturating_sub(1) * STRIDE;
    // The array lies behind the head and before the first place that it protects.
    let fits = offset >= 8 && offset.is_multiple_of(2) && offset + 2 * count <= STRIDE - 2;
    if !fits || len == 0 || len > *longest {
        return false;
    }
    let Some((number, originals)) = bytes
        .get(offset..offset + 2 * count)
        .and_then(<[u8]>::split_first_chunk::<2>)
    else {
        return false;
    };
    let is_protected = |chunk: &[u8]| chunk.last_chunk::<2>() == Some(number);
    let whole = &bytes[..len.min(bytes.len())];
    if !whole
        .as_chunks::<STRIDE>()
        .0
        .iter()
        .any(|c| is_protected(c))
    {
        return false;
    }
    copy.clear();
    copy.extend_from_slice(whole);
    let chunks = copy.as_chunks_mut::<STRIDE>().0;
    for (chunk, original) in chunks.iter_mut().zip(originals.as_chunks::<2>().0) {
        if is_protected(chunk) {
            chunk[STRIDE - 2..].copy_from_slice(original);
        }
    }
    true
}

impl Searcher {
    /// Finds what runs over the end of 512 bytes in a protected structure; sectors begin where
    /// `base`, the position of the first byte, says.
    pub(super) fn find_protected(&self, bytes: &[u8], base: u64, hits: &mut Vec<Hit>) {
        let skip = base.next_multiple_of(STRIDE as u64) - base;
        let (mut copy, mut found) = (Vec::new(), Vec::new());
        for at in (skip as usize..bytes.len()).step_by(STRIDE) {
            if !undo(&bytes[at..], &mut copy) {
                continue;
            }
            found.clear();
            self.find(&copy, base + at as u64, &mut found);
            let runs_over = |hit: &&Hit| {
                let inside = hit.offset % STRIDE as u64;
                inside + hit.len > STRIDE as u64 - 2
            };
            hits.extend(found.iter().filter(runs_over));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{tokens, tokens::Class};

    fn searcher() -> Searcher {
        let mut all = Vec::new();
        tokens::of_text("0123456789abcdef", Class::Identifier, &mut all);
        Searcher::new(&all, false).unwrap()
    }

    /// A structure of `len` bytes with the text (UTF-16) at `at`, its update sequence applied.
    fn structure(magic: &[u8; 4], len: usize, at: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[..4].copy_from_slice(magic);
        bytes[4..6].copy_from_slice(&0x28_u16.to_le_bytes());
        bytes[6..8].copy_from_slice(&((len / STRIDE + 1) as u16).to_le_bytes());
        let text: Vec<u8> = b"0123456789abcdef".iter().flat_map(|b| [*b, 0]).collect();
        bytes[at..at + text.len()].copy_from_slice(&text);
        bytes[0x28..0x2A].copy_from_slice(&[7, 1]);
        for stride in 0..len / STRIDE {
            let end = (stride + 1) * STRIDE;
            let original = [bytes[end - 2], bytes[end - 1]];
            bytes[0x2A + 2 * stride..0x2C + 2 * stride].copy_from_slice(&original);
            bytes[end - 2..end].copy_from_slice(&[7, 1]);
        }
        bytes
    }

    fn found(bytes: &[u8], base: u64) -> Vec<u64> {
        let mut hits = Vec::new();
        searcher().find_protected(bytes, base, &mut hits);
        hits.iter().map(|hit| hit.offset).collect()
    }

    #[test]
    fn a_text_over_the_end_of_512_bytes_is_found_in_each_structure() {
        for (magic, len) in [(b"FILE", 1024), (b"INDX", 4096), (b"RCRD", 4096)] {
            for at in 480..510 {
                let bytes = structure(magic, len, at);
                let mut raw = Vec::new();
                searcher().find(&bytes, 0, &mut raw);
                assert!(raw.is_empty());
                assert_eq!(found(&bytes, 512), [512 + at as u64]);
            }
            // What lies between two ends is seen by the raw search.
            assert!(found(&structure(magic, len, 300), 0).is_empty());
        }
    }

    #[test]
    fn a_structure_that_begins_elsewhere_or_is_none_is_not_undone() {
        let bytes = structure(b"FILE", 1024, 500);
        assert_eq!(found(&[vec![0; 100], bytes.clone()].concat(), 412), [1012]);
        assert!(found(&bytes, 1).is_empty());
        assert!(found(&bytes[..6], 0).is_empty());
        let mut other = bytes.clone();
        other[0] = b'X';
        assert!(found(&other, 0).is_empty());
        for (count, offset) in [
            (0_u16, 0x28_u16),
            (1, 0x28),
            (400, 0x28),
            (3, 0x27),
            (3, 510),
        ] {
            let mut wrong = bytes.clone();
            wrong[4..6].copy_from_slice(&offset.to_le_bytes());
            wrong[6..8].copy_from_slice(&count.to_le_bytes());
            assert!(found(&wrong, 0).is_empty(), "{count} {offset}");
        }
    }

    #[test]
    fn a_structure_that_was_overwritten_in_part_is_undone_as_far_as_it_goes() {
        let mut bytes = structure(b"INDX", 4096, 500);
        bytes[3000..].fill(b'x');
        assert_eq!(found(&bytes, 0), [500]);
        assert_eq!(found(&bytes[..1024], 0), [500]);
    }
}
