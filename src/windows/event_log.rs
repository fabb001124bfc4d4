//! How much an event log holds, and since when.
//!
//! Facts from: MS-EVEN6 and public notes on the format of Windows Vista and later (`ElfFile`: a header of
//! 4096 bytes, chunks of 65,536, each with the numbers of its first and last record); ELF_LOGFILE_HEADER
//! and EVENTLOGRECORD of the Windows SDK for the one before (`LfLe`).

use super::uuid::{filetime, utc};
use crate::{bytes::View, error::Result};

/// Bytes of a file's header that are enough.
const HEAD_LEN: usize = 0x30;
/// Where the chunks of an `ElfFile` begin.
const FIRST_CHUNK: u64 = 4096;
const CHUNK_LEN: u64 = 65_536;
/// Bytes of a chunk up to the time of its first record: header, and 24 bytes of the record.
const CHUNK_HEAD: usize = 0x200 + 24;
/// Most chunks looked at in one log: 256 MiB of it.
const MAX_CHUNKS: u64 = 4096;

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLog {
    /// Records.
    pub records: u64,
    /// When the oldest of them was written, in words.
    pub oldest: Option<String>,
    /// What does not fit.
    pub note: Option<&'static str>,
}

impl EventLog {
    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = match self.records {
            0 => "no records".to_owned(),
            1 => "1 record".to_owned(),
            n => format!("{n} records"),
        };
        if let Some(oldest) = &self.oldest {
            text.push_str(&format!(", the oldest of {oldest}"));
        }
        if let Some(note) = self.note {
            text.push_str(&format!(" ({note})"));
        }
        text
    }
}

/// Reads what is needed of a log of `len` bytes; `None` if it is none.
pub fn look(
    len: u64,
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Option<EventLog>> {
    let mut head = [0; HEAD_LEN];
    if len < HEAD_LEN as u64 {
        return Ok(None);
    }
    read(0, &mut head)?;
    let view = View::new(&head, "event log");
    if view.get(0, 8)? == b"ElfFile\0" {
        return modern(len, read).map(Some);
    }
    if view.get(4, 4)? == b"LfLe" {
        return classic(len, view, read).map(Some);
    }
    Ok(None)
}

/// The chunks say more than the header does, which is only brought up to date when the log is closed.
fn modern(len: u64, read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>) -> Result<EventLog> {
    let mut out = EventLog::default();
    let mut oldest: Option<(u64, u64)> = None;
    let chunks = len.saturating_sub(FIRST_CHUNK) / CHUNK_LEN;
    if chunks > MAX_CHUNKS {
        out.note = Some("only its first 256 MiB were looked at");
    }
    for number in 0..chunks.min(MAX_CHUNKS) {
        let mut chunk = [0; CHUNK_HEAD];
        let at = number.saturating_mul(CHUNK_LEN);
        read(at.saturating_add(FIRST_CHUNK), &mut chunk)?;
        let view = View::new(&chunk, "chunk of an event log");
        if view.get(0, 8)? != b"ElfChnk\0" {
            continue;
        }
        let (first, last) = (view.u64(8)?, view.u64(16)?);
        // An empty chunk has a first number and -1.
        let Some(more) = last.checked_sub(first).filter(|more| *more < CHUNK_LEN) else {
            continue;
        };
        out.records = out.records.saturating_add(more).saturating_add(1);
        let is_record = view.get(0x200, 4)? == b"**\0\0";
        if is_record && oldest.is_none_or(|(known, _)| first < known) {
            oldest = Some((first, view.u64(0x210)?));
        }
    }
    out.oldest = oldest.and_then(|(_, time)| filetime(time));
    Ok(out)
}

/// The flag that a log was not closed: its header is not up to date.
const DIRTY: u32 = 1;

fn classic(
    len: u64,
    head: View<'_>,
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<EventLog> {
    let (next, oldest) = (head.u32(24)?, head.u32(28)?);
    let mut out = EventLog {
        records: match oldest {
            0 => 0,
            _ => u64::from(next.saturating_sub(oldest)),
        },
        ..EventLog::default()
    };
    if head.u32(36)? & DIRTY != 0 {
        out.note = Some("by a header that is not up to date");
    }
    let start = u64::from(head.u32(16)?);
    let mut record = [0; 16];
    if out.records > 0 && start.saturating_add(16) <= len {
        read(start, &mut record)?;
        let view = View::new(&record, "record of an event log");
        if view.get(4, 4)? == b"LfLe" {
            out.oldest = Some(utc(u64::from(view.u32(12)?)));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
        bytes[at..at + data.len()].copy_from_slice(data);
    }

    fn looked(bytes: &[u8]) -> Result<Option<EventLog>> {
        look(bytes.len() as u64, &mut |at, buf| {
            let at = usize::try_from(at).unwrap();
            let found = bytes
                .get(at..at + buf.len())
                .ok_or_else(|| Error::internal("read past the end"))?;
            buf.copy_from_slice(found);
            Ok(())
        })
    }

    fn modern_log() -> Vec<u8> {
        let mut bytes = vec![0; 4096 + 3 * 65_536];
        put(&mut bytes, 0, b"ElfFile\0");
        // The ring goes on in the second chunk; the third is empty.
        for (number, (first, last)) in [(31_u64, 40_u64), (11, 30), (1, u64::MAX)]
            .into_iter()
            .enumerate()
        {
            let at = 4096 + number * 65_536;
            put(&mut bytes, at, b"ElfChnk\0");
            put(&mut bytes, at + 8, &first.to_le_bytes());
            put(&mut bytes, at + 16, &last.to_le_bytes());
            if last > first && last != u64::MAX {
                put(&mut bytes, at + 0x200, b"**\0\0");
                let time = 130_000_000_000_000_000 + first * 10_000_000;
                put(&mut bytes, at + 0x210, &time.to_le_bytes());
            }
        }
        bytes
    }

    fn classic_log() -> Vec<u8> {
        let mut bytes = vec![0; 0x200];
        put(&mut bytes, 0, &0x30_u32.to_le_bytes());
        put(&mut bytes, 4, b"LfLe");
        for (at, number) in [(16, 0x80_u32), (24, 130), (28, 30)] {
            put(&mut bytes, at, &number.to_le_bytes());
        }
        put(&mut bytes, 0x84, b"LfLe");
        put(&mut bytes, 0x8c, &951_782_399_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn both_formats_tell_their_records_and_the_oldest() {
        let log = looked(&modern_log()).unwrap().unwrap();
        assert_eq!(
            log.describe(),
            "30 records, the oldest of 2012-12-14 23:06:51 UTC"
        );
        let mut old = classic_log();
        let log = looked(&old).unwrap().unwrap();
        assert_eq!(
            log.describe(),
            "100 records, the oldest of 2000-02-28 23:59:59 UTC"
        );
        old[36] = 1;
        let note = looked(&old).unwrap().unwrap().note;
        assert!(note.is_some_and(|note| note.contains("not up to date")));
        put(&mut old, 28, &[0; 4]);
        assert_eq!(looked(&old).unwrap().unwrap().records, 0);
        assert_eq!(looked(&[0; 64]).unwrap(), None);
    }

    #[test]
    fn a_log_cut_short_or_damaged_is_no_panic_and_no_read_past_its_end() {
        for whole in [modern_log(), classic_log()] {
            for len in (0..whole.len()).step_by(97) {
                looked(&whole[..len]).unwrap();
            }
            for at in (0..whole.len().min(4096 + 0x300)).step_by(3) {
                let mut bytes = whole.clone();
                bytes[at] ^= 0xff;
                looked(&bytes).unwrap();
            }
        }
    }
}
