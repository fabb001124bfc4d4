//! The old format (NT 4.0 to 8.0): a dirty vector and the pages it names.

use super::{
    AppliedEntry, Page,
    format::{SECTOR, vector},
    header::Header,
};
use crate::{
    bytes::View,
    error::{At, Error, Result},
    hive::{
        format::{count, dword, index},
        record::shown,
    },
};

/// The pages of a log with a valid header, neighbours joined. A log that lacks a part of them is an
/// error: such a log was never written to its end.
pub(super) fn read_pages<'a>(
    bytes: &'a [u8],
    header: &Header,
) -> Result<(AppliedEntry, Vec<Page<'a>>)> {
    let vector_at = format!("{:#x}", vector::AT);
    let view = View::new(bytes, "dirty vector");
    let signature = view
        .get(vector::AT, vector::SIGNATURE.len())
        .at("log offset", &vector_at)?;
    if signature != vector::SIGNATURE {
        return Err(Error::malformed(format!(
            "dirty vector: signature DIRT expected, found {}",
            shown(signature)
        ))
        .at("log offset", vector_at));
    }
    let bits_len = header.bins_len.div_ceil(vector::BINS_PER_BYTE);
    let bits = view
        .get(vector::BITS, index(bits_len))
        .at("log offset", vector_at)?;
    let first_page = dword(vector::BITS)
        .checked_add(bits_len)
        .and_then(|end| end.checked_next_multiple_of(SECTOR))
        .map_or(usize::MAX, index);

    let dirty = bits
        .iter()
        .zip(0_usize..)
        .flat_map(|(byte, at)| {
            (0..8_usize)
                .filter(move |bit| byte >> bit & 1 != 0)
                .map(move |bit| at.wrapping_mul(8).wrapping_add(bit))
        })
        .map(|bit| bit.wrapping_mul(vector::PAGE));
    let pages_view = View::new(bytes, "dirty page");
    let mut pages: Vec<Page<'a>> = Vec::new();
    let (mut number, mut at, mut run_at) = (0_u32, first_page, first_page);
    for target in dirty {
        let end = at.saturating_add(vector::PAGE);
        match pages.last_mut() {
            Some(last) if last.end() == Some(target) => {
                let len = end.saturating_sub(run_at);
                last.bytes = pages_view
                    .get(run_at, len)
                    .at("log offset", format!("{at:#x}"))?;
            }
            _ => {
                run_at = at;
                pages.push(Page {
                    at: target,
                    bytes: pages_view
                        .get(at, vector::PAGE)
                        .at("log offset", format!("{at:#x}"))?,
                });
            }
        }
        number = number.saturating_add(1);
        at = end;
    }
    if pages.is_empty() {
        return Err(
            Error::malformed("dirty vector: at least one dirty page expected, found none")
                .at("log offset", format!("{:#x}", vector::AT)),
        );
    }
    let applied = AppliedEntry {
        sequence: header.sequence,
        log_offset: count(vector::AT),
        pages: number,
        bytes: count(at.saturating_sub(first_page)),
        bins_len: header.bins_len,
    };
    Ok((applied, pages))
}
