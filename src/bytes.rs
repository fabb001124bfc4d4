//! [`View`]: the only code that slices untrusted bytes. Little-endian, bounds-checked, and every
//! failure names the structure and the place inside it.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod many;

use crate::error::{Error, Result};

/// Bytes of one structure, with its name for messages.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> View<'a> {
    /// Looks at `bytes` as the structure `what`.
    #[must_use]
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The structure's name.
    #[must_use]
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// `len` bytes at `offset`.
    pub fn get(&self, offset: usize, len: usize) -> Result<&'a [u8]> {
        offset
            .checked_add(len)
            .and_then(|end| self.bytes.get(offset..end))
            .ok_or_else(|| {
                Error::malformed(format!(
                    "{}: {len} bytes expected at +{offset:#x}, it has only {}",
                    self.what,
                    self.bytes.len()
                ))
            })
    }

    /// A part of this structure as a structure of its own.
    pub fn sub(&self, offset: usize, len: usize, what: &'static str) -> Result<View<'a>> {
        Ok(View {
            bytes: self.get(offset, len)?,
            what,
        })
    }

    /// A fixed number of bytes.
    pub fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.get(offset, N)?);
        Ok(out)
    }

    /// A byte.
    pub fn u8(&self, offset: usize) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array(offset)?))
    }

    /// Two bytes.
    pub fn u16(&self, offset: usize) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(offset)?))
    }

    /// Four bytes.
    pub fn u32(&self, offset: usize) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    /// Eight bytes.
    pub fn u64(&self, offset: usize) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }

    /// Four bytes, signed.
    pub fn i32(&self, offset: usize) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array(offset)?))
    }

    /// Eight bytes, signed.
    pub fn i64(&self, offset: usize) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array(offset)?))
    }

    /// UTF-16LE units.
    pub fn units(&self, offset: usize, count: usize) -> Result<Vec<u16>> {
        let len = count.checked_mul(2).ok_or_else(|| {
            Error::malformed(format!("{}: name of {count} units is too long", self.what))
        })?;
        let (pairs, _) = self.get(offset, len)?.as_chunks::<2>();
        Ok(pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
    }
}

/// Overwrites `len` bytes of an untrusted buffer through a bounds check: the writing twin of `View`.
pub fn put(buffer: &mut [u8], offset: usize, new: &[u8], what: &'static str) -> Result<()> {
    let len = buffer.len();
    match offset
        .checked_add(new.len())
        .and_then(|end| buffer.get_mut(offset..end))
    {
        Some(place) => {
            place.copy_from_slice(new);
            Ok(())
        }
        None => Err(Error::internal(format!(
            "{what}: write of {} bytes at +{offset:#x} into {len} bytes",
            new.len()
        ))),
    }
}

/// Zeroes `len` bytes of an untrusted buffer through a bounds check.
pub fn zero(buffer: &mut [u8], offset: usize, len: usize, what: &'static str) -> Result<()> {
    let have = buffer.len();
    match offset
        .checked_add(len)
        .and_then(|end| buffer.get_mut(offset..end))
    {
        Some(place) => {
            place.fill(0);
            Ok(())
        }
        None => Err(Error::internal(format!(
            "{what}: zeroing {len} bytes at +{offset:#x} of {have} bytes"
        ))),
    }
}

/// Whether every byte is zero; as fast as the memory.
#[must_use]
pub fn all_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks
        .iter()
        .all(|chunk| chunk.iter().fold(0, |acc, byte| acc | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reading_past_the_end_names_structure_and_place() {
        let view = View::new(&[1, 2, 3], "index header");
        assert_eq!(view.u16(1).unwrap(), 0x0302);
        assert_eq!(
            view.u32(0).unwrap_err().to_string(),
            "index header: 4 bytes expected at +0x0, it has only 3"
        );
        assert!(view.get(usize::MAX, 2).is_err());
        assert!(view.units(0, usize::MAX).is_err());
    }

    #[test]
    fn writes_outside_are_refused_and_change_nothing() {
        let mut buffer = [7; 4];
        assert!(put(&mut buffer, 3, &[0, 0], "x").is_err());
        assert!(zero(&mut buffer, usize::MAX, 2, "x").is_err());
        assert_eq!(buffer, [7; 4]);
        put(&mut buffer, 2, &[1, 2], "x").unwrap();
        zero(&mut buffer, 0, 1, "x").unwrap();
        assert_eq!(buffer, [0, 7, 1, 2]);
    }

    #[test]
    fn zero_test_sees_every_position() {
        for len in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![0; len];
            assert!(all_zero(&bytes));
            for i in 0..len {
                bytes.fill(0);
                if let Some(byte) = bytes.get_mut(i) {
                    *byte = 1;
                }
                assert!(!all_zero(&bytes));
            }
        }
    }
}
