//! Surgery on one FILE record whose update sequence is undone.
//!
//! Facts: facts/ntfs.md 1.1 (record, attribute header) and 6 (form A). Pure: bytes in, bytes out.

use crate::{
    bytes::{View, all_zero, put, zero},
    error::{Error, Result},
    volume::ntfs::{
        attribute::{Attribute, Body},
        format::{attribute, fixup, record},
    },
    volume::widths::{index, wide},
};

const WHAT: &str = "file record";

fn field(value: usize) -> Result<[u8; 4]> {
    u32::try_from(value)
        .map(u32::to_le_bytes)
        .map_err(|_| Error::internal("file record: length"))
}

/// Makes it a free record that keeps nothing of its file: header, next sequence number, own
/// number, an end marker, zeros.
pub(super) fn free(bytes: &mut [u8]) -> Result<()> {
    let sequence = match View::new(bytes, WHAT).u16(record::SEQUENCE)? {
        0 => 0,
        0xFFFF => 1,
        n => n.saturating_add(1),
    };
    empty(bytes, sequence)
}

/// Empties a record that is free already; its sequence number counts on from where it is.
pub(super) fn wipe(bytes: &mut [u8]) -> Result<()> {
    let sequence = View::new(bytes, WHAT).u16(record::SEQUENCE)?;
    empty(bytes, sequence)
}

fn empty(bytes: &mut [u8], sequence: u16) -> Result<()> {
    let view = View::new(bytes, WHAT);
    let len = bytes.len();
    let array = usize::from(view.u16(fixup::ARRAY_OFFSET)?);
    let first = usize::from(view.u16(record::FIRST_ATTRIBUTE)?);
    let head: [u8; record::SEQUENCE] = view.array(0)?;
    let allocated: [u8; 4] = view.array(record::BYTES_ALLOCATED)?;
    let usn: [u8; 2] = view.array(array)?;
    let number: Option<[u8; 4]> = if array >= usize::from(record::ARRAY_WITH_NUMBER) {
        Some(view.array(record::OWN_NUMBER)?)
    } else {
        None
    };
    zero(bytes, 0, len, WHAT)?;
    put(bytes, 0, &head, WHAT)?;
    put(bytes, record::SEQUENCE, &sequence.to_le_bytes(), WHAT)?;
    let first16 = u16::try_from(first).map_err(|_| Error::internal("file record: offset"))?;
    put(bytes, record::FIRST_ATTRIBUTE, &first16.to_le_bytes(), WHAT)?;
    let used = first.saturating_add(attribute::END_LEN);
    put(bytes, record::BYTES_IN_USE, &field(used)?, WHAT)?;
    put(bytes, record::BYTES_ALLOCATED, &allocated, WHAT)?;
    if let Some(number) = number {
        put(bytes, record::OWN_NUMBER, &number, WHAT)?;
    }
    put(bytes, array, &usn, WHAT)?;
    put(bytes, first, &attribute::END.to_le_bytes(), WHAT)
}

/// Zeroes what lies behind the bytes in use; says how many bytes were not zero.
pub(super) fn zero_slack(bytes: &mut [u8]) -> Result<u64> {
    let used = index(View::new(bytes, WHAT).u32(record::BYTES_IN_USE)?);
    zero_tail(bytes, used, WHAT)
}

/// Zeroes everything from `at` on; says how many bytes were not zero.
pub(super) fn zero_tail(bytes: &mut [u8], at: usize, what: &'static str) -> Result<u64> {
    let len = bytes
        .len()
        .checked_sub(at)
        .ok_or_else(|| Error::internal(format!("{what}: tail at {at:#x}")))?;
    let tail = View::new(bytes, what).get(at, len)?;
    if all_zero(tail) {
        return Ok(0);
    }
    let count = wide(tail.iter().filter(|byte| **byte != 0).count());
    zero(bytes, at, len, what)?;
    Ok(count)
}

/// The greatest length that a resident value can have without a change to other attributes.
pub(super) fn room_for(bytes: &[u8], attribute: &Attribute) -> Result<usize> {
    let Body::Resident { value_offset, .. } = attribute.body else {
        return Err(Error::internal("attribute: a resident value expected"));
    };
    let used = index(View::new(bytes, WHAT).u32(record::BYTES_IN_USE)?);
    let spare = bytes.len().saturating_sub(used);
    let end = attribute.offset.saturating_add(attribute.len);
    Ok(end.saturating_add(spare & !7).saturating_sub(value_offset))
}

/// Replaces a resident value; later attributes move, the freed tail becomes zero. The record must
/// have room: nothing is ever moved out of it.
pub(super) fn set_value(bytes: &mut [u8], attribute: &Attribute, value: &[u8]) -> Result<()> {
    let Body::Resident {
        value_offset,
        value_len,
        ..
    } = attribute.body
    else {
        return Err(Error::internal("attribute: a resident value expected"));
    };
    if value.len() == value_len {
        return put(bytes, value_offset, value, WHAT);
    }
    let used = index(View::new(bytes, WHAT).u32(record::BYTES_IN_USE)?);
    let old_end = attribute.offset.saturating_add(attribute.len);
    let rest = used
        .checked_sub(old_end)
        .ok_or_else(|| Error::internal("attribute: behind the bytes in use"))?;
    let moved = View::new(bytes, WHAT).get(old_end, rest)?.to_vec();
    // Attributes are 8-aligned, and so are their lengths.
    let new_end = value_offset
        .checked_add(value.len())
        .and_then(|end| end.checked_next_multiple_of(8))
        .ok_or_else(|| Error::internal("attribute: length"))?;
    let new_used = new_end.saturating_add(rest);
    if new_used > bytes.len() {
        return Err(Error::refused(format!(
            "file record: room for {} bytes expected, it has {}",
            new_used,
            bytes.len()
        )));
    }
    let touched = used.max(new_used).saturating_sub(value_offset);
    zero(bytes, value_offset, touched, WHAT)?;
    put(bytes, value_offset, value, WHAT)?;
    put(bytes, new_end, &moved, WHAT)?;
    let new_len = new_end.saturating_sub(attribute.offset);
    put(
        bytes,
        attribute.offset.saturating_add(attribute::LEN),
        &field(new_len)?,
        WHAT,
    )?;
    put(
        bytes,
        attribute.offset.saturating_add(attribute::VALUE_LEN),
        &field(value.len())?,
        WHAT,
    )?;
    put(bytes, record::BYTES_IN_USE, &field(new_used)?, WHAT)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )]
    use super::*;
    use crate::volume::ntfs::record::{
        Record, apply_fixup,
        tests::{record_of, resident},
    };

    fn parsed(bytes: &[u8], number: u64) -> Record {
        Record {
            number,
            bytes: bytes.to_vec(),
            fixup_ok: true,
        }
    }

    #[test]
    fn a_freed_record_keeps_only_its_identity() {
        let mut bytes = record_of(
            77,
            &[resident(0x30, 0, &[0xAB; 90]), resident(0x80, 1, b"x")],
        );
        bytes[0x10] = 9;
        bytes[0x12] = 2;
        bytes[8] = 0x55;
        bytes[1000] = 0xEE;
        free(&mut bytes).unwrap();
        let record = parsed(&bytes, 77);
        assert!(record.attributes(100).unwrap().is_empty());
        assert!(!record.is_in_use());
        assert_eq!(
            (record.sequence(), record.links(), record.lsn()),
            (10, 0, 0x55)
        );
        assert!(all_zero(&bytes[0x40..]));
        apply_fixup(&mut bytes).unwrap();
        let (record, _) = Record::from_raw(77, bytes);
        record.check_header().unwrap();
    }

    #[test]
    fn the_sequence_skips_zero() {
        for (old, new) in [(0_u16, 0_u16), (0xFFFF, 1), (0xFFFE, 0xFFFF), (1, 2)] {
            let mut bytes = record_of(77, &[]);
            bytes[0x10..0x12].copy_from_slice(&old.to_le_bytes());
            free(&mut bytes).unwrap();
            assert_eq!(bytes[0x10..0x12], new.to_le_bytes());
        }
    }

    #[test]
    fn an_old_header_has_no_number_to_keep() {
        let mut bytes = record_of(77, &[]);
        bytes[4] = 0x2A;
        bytes[0x14] = 0x30;
        bytes[0x2A] = 5;
        free(&mut bytes).unwrap();
        assert_eq!(bytes[0x2A..0x30], [5, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[0x30..0x34], [0xFF; 4]);
    }

    #[test]
    fn a_value_shrinks_and_grows_within_the_record() {
        let mut bytes = record_of(
            7,
            &[
                resident(0x10, 0, &[1; 72]),
                resident(0x90, 1, &[2; 200]),
                resident(0xB0, 2, &[3; 8]),
            ],
        );
        bytes[900] = 0x77;
        for len in [56, 64, 400, 88, 88] {
            let list = parsed(&bytes, 7).attributes(100).unwrap();
            let value = vec![0xC5; len];
            assert!(room_for(&bytes, &list[1]).unwrap() >= 400);
            set_value(&mut bytes, &list[1], &value).unwrap();
            let list = parsed(&bytes, 7).attributes(100).unwrap();
            assert_eq!(list.len(), 3);
            assert_eq!(list[1].value(&bytes).unwrap(), value);
            assert_eq!(list[2].value(&bytes).unwrap(), [3; 8]);
        }
        let list = parsed(&bytes, 7).attributes(100).unwrap();
        let room = room_for(&bytes, &list[1]).unwrap();
        assert!(set_value(&mut bytes.clone(), &list[1], &vec![1; room + 1]).is_err());
        set_value(&mut bytes, &list[1], &vec![1; room]).unwrap();
        assert_eq!(parsed(&bytes, 7).attributes(100).unwrap().len(), 3);
    }

    #[test]
    fn slack_is_counted_and_zeroed() {
        let mut bytes = record_of(7, &[resident(0x10, 0, &[1; 72])]);
        bytes[700..710].fill(9);
        assert_eq!(zero_slack(&mut bytes).unwrap(), 10);
        assert_eq!(zero_slack(&mut bytes).unwrap(), 0);
        assert_eq!(parsed(&bytes, 7).attributes(100).unwrap().len(), 1);
    }
}
