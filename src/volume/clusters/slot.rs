//! Slots of directories: 32 bytes each, numbered by their volume offset over 32.

use crate::{
    device::Device,
    error::{At, Error, Result},
    volume::{
        entry_place,
        widths::{narrow, wide},
    },
};

/// Bytes a slot.
pub const SLOT_LEN: usize = 32;
/// Bytes of a directory that are read at a time.
const PIECE: u64 = 1 << 16;

/// The bytes of a slot.
pub type Raw = [u8; SLOT_LEN];

/// A byte of a slot.
#[must_use]
pub fn byte(raw: &Raw, at: usize) -> u8 {
    raw.get(at).copied().unwrap_or(0)
}

fn array<const N: usize>(raw: &Raw, at: usize) -> [u8; N] {
    std::array::from_fn(|i| byte(raw, at.saturating_add(i)))
}

/// Two bytes of a slot.
#[must_use]
pub fn word(raw: &Raw, at: usize) -> u16 {
    u16::from_le_bytes(array(raw, at))
}

/// Four bytes of a slot.
#[must_use]
pub fn dword(raw: &Raw, at: usize) -> u32 {
    u32::from_le_bytes(array(raw, at))
}

/// Eight bytes of a slot.
#[must_use]
pub fn qword(raw: &Raw, at: usize) -> u64 {
    u64::from_le_bytes(array(raw, at))
}

/// Where a slot stands.
pub fn slot_offset(number: u64) -> Result<u64> {
    number.checked_mul(wide(SLOT_LEN)).ok_or_else(|| {
        Error::malformed("directory entry: an offset of 64 bits expected")
            .at("directory entry", entry_place(number))
    })
}

/// Shows every slot of these ranges (volume offset, length) with its number, until one says stop.
pub fn each_slot(
    device: &Device,
    ranges: &[(u64, u64)],
    mut each: impl FnMut(u64, &Raw) -> bool,
) -> Result<()> {
    let mut buffer = Vec::new();
    for (at, len) in ranges {
        let mut done = 0;
        while done < *len {
            let take = len.saturating_sub(done).min(PIECE);
            buffer.resize(narrow(take, "directory")?, 0);
            let place = at.saturating_add(done);
            device
                .read_at(place, &mut buffer)
                .at("volume offset", format!("{place:#x}"))?;
            let (slots, _) = buffer.as_chunks::<SLOT_LEN>();
            for (i, raw) in slots.iter().enumerate() {
                if !each((place >> 5).saturating_add(wide(i)), raw) {
                    return Ok(());
                }
            }
            done = done.saturating_add(take);
        }
    }
    Ok(())
}
