//! A second opinion on a volume by the `ntfs` crate, which shares no code with `volume`.
//!
//! It walks directories by their indexes only and reads contents by itself. What it cannot read
//! (256-byte sectors, records split over two runs, compressed data ...) it does not judge.

use std::{
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
};

use ntfs::{Ntfs, NtfsAttributeFlags, NtfsFile, NtfsReadSeek, indexes::NtfsFileNameIndex};
use sha2::{Digest, Sha256};

use crate::{device::Device, text::WinPath};

/// What a second reader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as claimed; says what was looked at.
    Agrees(String),
    /// Something is not as claimed.
    Disagrees(String),
    /// It cannot tell; says why.
    Abstains(String),
}

/// A device as a stream, with a window of it in memory: the crate reads field by field.
struct Stream {
    device: Device,
    at: u64,
    window_at: u64,
    window: Vec<u8>,
}

/// Bytes of the window; aligned to its own length.
const WINDOW_LEN: u64 = 64 << 10;

impl Stream {
    fn new(device: Device) -> Self {
        Self {
            device,
            at: 0,
            window_at: 0,
            window: Vec::new(),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let start = self.at / WINDOW_LEN * WINDOW_LEN;
        let len = WINDOW_LEN.min(self.device.len() - start);
        let mut window = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.device
            .read_at(start, &mut window)
            .map_err(io::Error::other)?;
        self.window_at = start;
        self.window = window;
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.device.len() || buf.is_empty() {
            return Ok(0);
        }
        let end = self.window_at + self.window.len() as u64;
        if self.at < self.window_at || self.at >= end {
            self.fill()?;
        }
        let from = usize::try_from(self.at - self.window_at).map_err(io::Error::other)?;
        let part = self.window.get(from..).unwrap_or_default();
        let len = part.len().min(buf.len());
        buf[..len].copy_from_slice(&part[..len]);
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.device.len().checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::other("seek before the start"))?;
        Ok(self.at)
    }
}

/// Why it stops before the end.
enum Stop {
    Disagrees(String),
    Abstains(String),
}

fn abstain<E: std::fmt::Display>(doing: String) -> impl Fn(E) -> Stop {
    move |error| Stop::Abstains(format!("{doing}: {error}"))
}

/// What the second reader must find in a file that was edited.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Where the file is.
    pub path: WinPath,
    /// Parts of its main data stream: those that were written.
    pub ranges: Vec<Range<u64>>,
    /// SHA-256 of these parts, one after the other.
    pub digest: [u8; 32],
}

/// Asks the second reader: are these paths gone, and do these files hold what they should?
#[must_use]
pub fn witness(device: &Device, gone: &[WinPath], kept: &[Kept]) -> Verdict {
    let device = device.clone();
    let judged = catch_unwind(AssertUnwindSafe(|| judge(&device, gone, kept)));
    match judged {
        Ok(Ok(said)) => Verdict::Agrees(said),
        Ok(Err(Stop::Disagrees(why))) => Verdict::Disagrees(why),
        Ok(Err(Stop::Abstains(why))) => Verdict::Abstains(why),
        Err(_) => Verdict::Abstains("the ntfs crate panicked".to_owned()),
    }
}

fn judge(device: &Device, gone: &[WinPath], kept: &[Kept]) -> Result<String, Stop> {
    let mut stream = Stream::new(device.clone());
    let mut volume = Ntfs::new(&mut stream).map_err(abstain("boot sector".to_owned()))?;
    volume
        .read_upcase_table(&mut stream)
        .map_err(abstain("$UpCase".to_owned()))?;
    for path in gone {
        if find(&volume, &mut stream, path)?.is_some() {
            return Err(Stop::Disagrees(format!("{path} is still there")));
        }
    }
    for kept in kept {
        let Some(file) = find(&volume, &mut stream, &kept.path)? else {
            return Err(Stop::Disagrees(format!(
                "{} is not there any more",
                kept.path
            )));
        };
        check_content(&mut stream, &file, kept)?;
    }
    Ok(format!(
        "{} paths gone, {} edited files as written",
        gone.len(),
        kept.len()
    ))
}

/// Walks from the root by the directories' indexes.
fn find<'n>(
    volume: &'n Ntfs,
    stream: &mut Stream,
    path: &WinPath,
) -> Result<Option<NtfsFile<'n>>, Stop> {
    let reading = || format!("{path}: directory");
    let mut here = volume.root_directory(stream).map_err(abstain(reading()))?;
    for part in &path.0 {
        let name = String::from_utf16(part.units()).map_err(|_| {
            Stop::Abstains(format!("{path}: the ntfs crate cannot look for this name"))
        })?;
        if !here.is_directory() {
            return Ok(None);
        }
        let index = here.directory_index(stream).map_err(abstain(reading()))?;
        let mut finder = index.finder();
        let entry = match NtfsFileNameIndex::find(&mut finder, volume, stream, &name) {
            None => return Ok(None),
            Some(entry) => entry.map_err(abstain(reading()))?,
        };
        let next = entry
            .to_file(volume, stream)
            .map_err(abstain(format!("{path}: file record")))?;
        if next.sequence_number() != entry.file_reference().sequence_number() {
            return Err(Stop::Disagrees(format!("{path}: a stale directory entry")));
        }
        here = next;
    }
    Ok(Some(here))
}

fn check_content(stream: &mut Stream, file: &NtfsFile<'_>, kept: &Kept) -> Result<(), Stop> {
    let path = &kept.path;
    let reading = || format!("{path}: data");
    let data = match file.data(stream, "") {
        None => return Err(Stop::Disagrees(format!("{path} has no data any more"))),
        Some(data) => data.map_err(abstain(reading()))?,
    };
    let attribute = data.to_attribute().map_err(abstain(reading()))?;
    let flags = attribute.flags();
    if flags.intersects(NtfsAttributeFlags::COMPRESSED | NtfsAttributeFlags::ENCRYPTED) {
        return Err(Stop::Abstains(format!(
            "{path}: compressed or encrypted data"
        )));
    }
    let mut value = attribute.value(stream).map_err(abstain(reading()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    for range in &kept.ranges {
        value
            .seek(stream, SeekFrom::Start(range.start))
            .map_err(abstain(reading()))?;
        let mut left = range.end.saturating_sub(range.start);
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(buffer.len())
                .min(buffer.len());
            let len = value
                .read(stream, &mut buffer[..want])
                .map_err(abstain(reading()))?;
            if len == 0 {
                return Err(Stop::Disagrees(format!("{path} became shorter")));
            }
            hash.update(&buffer[..len]);
            left -= len as u64;
        }
    }
    if hash.finalize().as_slice() == kept.digest {
        return Ok(());
    }
    // The crate does not know the initialised length, behind which everything reads as zeros.
    if !attribute.is_resident()
        && let Some(at) = attribute.position().value()
    {
        let mut lens = [0; 16];
        let read = stream.device.read_at(at.get() + 0x30, &mut lens);
        if read.is_ok() && lens[..8] != lens[8..] {
            return Err(Stop::Abstains(format!(
                "{path}: data that is not initialised to its end"
            )));
        }
    }
    Err(Stop::Disagrees(format!("{path}: the content differs")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::device::Memory;

    #[test]
    fn what_it_cannot_read_it_does_not_judge() {
        let device: Device = Arc::new(Memory::new(vec![0; 100_000]));
        assert!(matches!(witness(&device, &[], &[]), Verdict::Abstains(_)));
    }

    #[test]
    fn the_window_moves_with_the_reader() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let device: Device = Arc::new(Memory::new(bytes.clone()));
        let mut stream = Stream::new(device);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, bytes);
        stream.seek(SeekFrom::End(-2)).unwrap();
        let mut two = [0; 2];
        stream.read_exact(&mut two).unwrap();
        assert_eq!(two, bytes[199_998..]);
        assert!(stream.seek(SeekFrom::Current(-300_000)).is_err());
    }
}
