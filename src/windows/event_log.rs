//! How much an event log holds, by its header.

use crate::bytes::View;

/// Bytes of a file that are enough.
pub const HEAD_LEN: usize = 64;

/// In words, if the bytes begin an event log.
///
/// Since Vista (`ElfFile`): the next record's number at 24. Before (`LfLe` at 4): the next record's number
/// at 24, the oldest one's at 28 (ELF_LOGFILE_HEADER).
#[must_use]
pub fn records(head: &[u8]) -> Option<String> {
    let view = View::new(head, "event log");
    if view.get(0, 8).ok()? == b"ElfFile\0" {
        let next = view.u64(24).ok()?;
        return Some(format!("next record is number {next}"));
    }
    if view.get(4, 4).ok()? == b"LfLe" {
        let (next, oldest) = (view.u32(24).ok()?, view.u32(28).ok()?);
        return Some(match oldest {
            0 => "no records".to_owned(),
            _ => format!("{} records", next.saturating_sub(oldest)),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_tell_their_records() {
        let mut new = b"ElfFile\0".to_vec();
        new.resize(24, 0);
        new.extend(1_201_u64.to_le_bytes());
        assert_eq!(records(&new).as_deref(), Some("next record is number 1201"));
        let mut old = vec![0x30, 0, 0, 0];
        old.extend(b"LfLe");
        old.resize(24, 0);
        old.extend(130_u32.to_le_bytes());
        old.extend(30_u32.to_le_bytes());
        assert_eq!(records(&old).as_deref(), Some("100 records"));
        for len in 0..24 {
            assert_eq!(records(new.get(..len).unwrap_or_default()), None);
        }
        assert_eq!(records(&[0; 64]), None);
    }
}
