//! The write guard: the last look at a set of patches before the first byte is written. It knows
//! offsets, not formats.

use std::ops::Range;

use crate::{
    device::{PAGE_LEN, Page, Patch},
    error::{Error, Result},
};

/// Most bytes that one clean may change. Far above any real job (a whole hive and its copies, a
/// few hundred metadata blocks); a plan beyond it is a mistake, not a clean.
pub const MAX_PATCH_BYTES: u64 = 4 << 30;

/// Checks that patches are whole pages, sorted, disjoint, inside the files, and not absurdly many.
/// `files` are the ranges of the address space that hold a file, in order.
pub fn check(patches: &[Patch], files: &[Range<u64>]) -> Result<()> {
    let page = PAGE_LEN as u64;
    let mut end = 0_u64;
    let mut total = 0_u64;
    for patch in patches {
        let stop = patch.offset.checked_add(patch.len);
        let file = files
            .partition_point(|file| file.start <= patch.offset)
            .checked_sub(1)
            .and_then(|number| files.get(number))
            .cloned()
            .unwrap_or_default();
        let whole = patch.offset % page == 0
            && patch.len > 0
            && (patch.len == page || (patch.len < page && stop == Some(file.end)));
        let held = match &patch.page {
            Page::Zero => true,
            Page::Data(bytes) => bytes.len() as u64 == patch.len,
        };
        let inside = stop.is_some_and(|stop| stop <= file.end);
        if !whole || !held || !inside || patch.offset < end {
            return Err(Error::internal(format!(
                "write guard: whole pages in order inside the file ({:#x} to {:#x}) expected, \
                 found {} bytes at {:#x}",
                file.start, file.end, patch.len, patch.offset
            )));
        }
        end = patch.offset + patch.len;
        total += patch.len;
    }
    if total > MAX_PATCH_BYTES {
        return Err(Error::limit(format!(
            "write guard: at most {MAX_PATCH_BYTES} bytes of changes expected, found {total}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref as one;

    use super::*;

    fn patch(offset: u64, len: u64) -> Patch {
        Patch {
            offset,
            len,
            page: Page::Data(vec![1; len as usize].into()),
        }
    }

    #[test]
    fn good_patches_pass() {
        check(
            &[patch(0, 4096), patch(8192, 4096), patch(12288, 100)],
            one(&(0..12388)),
        )
        .unwrap();
        check(&[], one(&(0..0))).unwrap();
    }

    #[test]
    fn each_file_of_a_set_has_its_own_end() {
        let files = [0..100, 1 << 20..(1 << 20) + 5000];
        let start = 1 << 20;
        check(
            &[patch(0, 100), patch(start, 4096), patch(start + 4096, 904)],
            &files,
        )
        .unwrap();
        for bad in [
            patch(0, 4096),
            patch(4096, 4096),
            patch(start + 4096, 4096),
            patch(start + 8192, 4096),
        ] {
            assert!(check(one(&bad), &files).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            vec![patch(1, 4096)],
            vec![patch(0, 100)],
            vec![patch(4096, 4096), patch(0, 4096)],
            vec![patch(0, 4096), patch(0, 4096)],
            vec![patch(12288, 4096)],
            vec![Patch {
                offset: 0,
                len: 4096,
                page: Page::Data(vec![1; 4095].into()),
            }],
            vec![Patch {
                offset: u64::MAX / 4096 * 4096,
                len: 4096,
                page: Page::Zero,
            }],
            vec![Patch {
                offset: 0,
                len: 0,
                page: Page::Zero,
            }],
        ] {
            assert!(check(&bad, one(&(0..12388))).is_err(), "{bad:?}");
        }
    }
}
