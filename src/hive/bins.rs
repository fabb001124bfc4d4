//! Bins and cells in the order of the file, and what is in them besides zeroes.

use super::{
    format::{BIN_ALIGN, BIN_HEADER, CELL_ALIGN, count, dword, hbin, index},
    record::{Image, offset, shown},
};
use crate::{
    bytes::{View, all_zero},
    error::{Error, Result},
};

/// Number of bytes that are not zero.
pub(super) fn nonzero(bytes: &[u8]) -> u64 {
    bytes
        .chunks(4096)
        .filter(|chunk| !all_zero(chunk))
        .map(|chunk| count(chunk.iter().filter(|byte| **byte != 0).count()))
        .fold(0, u64::saturating_add)
}

/// The bins' headers, one after the other: start and end of each.
pub(super) fn bins(image: Image<'_>) -> impl Iterator<Item = Result<(u32, u32)>> {
    let len = dword(image.bins.len());
    let mut next = 0;
    std::iter::from_fn(move || {
        if next >= len {
            return None;
        }
        let start = next;
        let bin = read_bin(image, start, len);
        next = bin.as_ref().map_or(len, |end| *end);
        Some(bin.map(|end| (start, end)))
    })
}

fn read_bin(image: Image<'_>, start: u32, len: u32) -> Result<u32> {
    let at = |e: Error| e.at("hive offset", offset(start));
    let rest = image.bins.get(index(start)..).unwrap_or(&[]);
    let view = View::new(rest, "hbin");
    let signature = view.get(0, 4)?;
    if signature != b"hbin" {
        return Err(at(Error::malformed(format!(
            "hbin: signature hbin expected, found {}",
            shown(signature)
        ))));
    }
    let own = view.u32(hbin::OFFSET)?;
    if own != start {
        return Err(at(Error::malformed(format!(
            "hbin: own offset {start:#x} expected, found {own:#x}"
        ))));
    }
    let size = view.u32(hbin::SIZE)?;
    match start.checked_add(size) {
        Some(end) if size != 0 && size.is_multiple_of(BIN_ALIGN) && end <= len => Ok(end),
        _ => Err(at(Error::malformed(format!(
            "hbin: size as a multiple of 4096 up to {:#x} expected, found {size:#x}",
            len.saturating_sub(start)
        )))),
    }
}

/// The cells of a bin, one after the other: cell, size, whether in use.
pub(super) fn cells(
    image: Image<'_>,
    (start, end): (u32, u32),
) -> impl Iterator<Item = Result<(u32, u32, bool)>> {
    let mut next = start.saturating_add(BIN_HEADER);
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let cell = next;
        let header = image.header(cell).unwrap_or(0);
        let size = header.unsigned_abs();
        match cell.checked_add(size) {
            Some(after) if size != 0 && size.is_multiple_of(CELL_ALIGN) && after <= end => {
                next = after;
                Some(Ok((cell, size, header < 0)))
            }
            _ => {
                next = end;
                Some(Err(Error::malformed(format!(
                    "cell: size as a multiple of 8 up to {:#x} expected, found {header:#x}",
                    end.saturating_sub(cell)
                ))
                .at("hive offset", offset(cell))))
            }
        }
    })
}
