//! A machine in memory: a file system that keeps what a running process sees apart from what a
//! power cut leaves, and a process on it that can be watched, hurt and lied to.

use std::{io, sync::Arc};

use declone::{
    apply::protocol::Host,
    error::{Error, Result},
};

use super::chance::{Chance, Subset};

/// What a disk writes at once.
pub const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// A name in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Temporary,
    Journal,
    Undo,
}

/// One thing that a power cut keeps or loses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unit {
    /// Bytes of one sector.
    Data { at: usize, bytes: Arc<[u8]> },
    /// A new length.
    Len(usize),
}

/// What stands in a part of a grown file whose data was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Zeros,
    Garbage,
}

/// The files of an image, as processes read them.
pub type Image = Vec<Vec<u8>>;

/// Where a file of an image starts in its address space, and where a byte of that lies.
pub const START: usize = 1 << 20;

pub fn place(offset: u64) -> (usize, usize) {
    (offset as usize / START, offset as usize % START)
}

/// The contents of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// What processes read.
    pub live: Vec<u8>,
    /// What a power cut leaves if it loses everything that is pending.
    pub disk: Vec<u8>,
    /// Written and not yet synced, in order.
    pending: Vec<Unit>,
}

impl Blob {
    pub fn durable(bytes: Vec<u8>) -> Self {
        Self {
            live: bytes.clone(),
            disk: bytes,
            pending: Vec::new(),
        }
    }

    /// Writes `bytes`; of the sectors in `lost` (a bit each) the disk never hears.
    fn write(&mut self, at: usize, bytes: &[u8], lost: u64) {
        let end = at + bytes.len();
        if end > self.live.len() {
            self.live.resize(end, 0);
            self.pending.push(Unit::Len(end));
        }
        self.live[at..end].copy_from_slice(bytes);
        let first = at / SECTOR;
        for sector in first..end.div_ceil(SECTOR) {
            if sector - first < 64 && lost >> (sector - first) & 1 == 1 {
                continue;
            }
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(self.live.len());
            self.pending.push(Unit::Data {
                at: from,
                bytes: self.live[from..to].into(),
            });
        }
    }

    fn apply(disk: &mut Vec<u8>, unit: &Unit, fill: Fill) {
        let end = match unit {
            Unit::Data { at, bytes } => at + bytes.len(),
            Unit::Len(len) => {
                disk.truncate(*len);
                *len
            }
        };
        while disk.len() < end {
            disk.push(match fill {
                Fill::Zeros => 0,
                Fill::Garbage => (disk.len() * 37 % 251) as u8 ^ 0xA5,
            });
        }
        if let Unit::Data { at, bytes } = unit {
            disk[*at..end].copy_from_slice(bytes);
        }
    }

    /// Makes it this long; what is new reads as zeros.
    fn set_len(&mut self, len: usize) {
        if len != self.live.len() {
            self.live.resize(len, 0);
            // What was cut off and is not written yet never will be.
            self.pending.retain_mut(|unit| match unit {
                Unit::Data { at, bytes } if *at + bytes.len() > len => {
                    if *at < len {
                        *bytes = bytes[..len - *at].into();
                    }
                    *at < len
                }
                _ => true,
            });
            self.pending.push(Unit::Len(len));
        }
    }

    fn sync(&mut self) {
        for unit in self.pending.drain(..) {
            Self::apply(&mut self.disk, &unit, Fill::Zeros);
        }
    }

    /// A write-back or fsync that fails: some units get through, the rest is marked clean, that is,
    /// readable until the cache is dropped and never written again (what ext4, XFS and Btrfs do;
    /// Rebello et al., USENIX ATC 2020).
    fn lose(&mut self, chance: &mut Chance) {
        for unit in std::mem::take(&mut self.pending) {
            if chance.one_in(3) {
                Self::apply(&mut self.disk, &unit, Fill::Zeros);
            }
        }
    }

    /// Drops the clean pages of a range from the cache.
    fn forget(&mut self, at: usize, len: usize) {
        for page in at / PAGE..(at + len).div_ceil(PAGE) {
            let range = page * PAGE..((page + 1) * PAGE).min(self.live.len());
            let dirty = self.pending.iter().any(|unit| match unit {
                Unit::Data { at, .. } => range.contains(at),
                Unit::Len(_) => false,
            });
            if !dirty && range.end <= self.disk.len() {
                self.live[range.clone()].copy_from_slice(&self.disk[range]);
            }
        }
    }

    fn after_cut(&self, keep: impl Fn(usize) -> bool, fill: Fill) -> Self {
        let mut disk = self.disk.clone();
        for (number, unit) in self.pending.iter().enumerate() {
            if keep(number) {
                Self::apply(&mut disk, unit, fill);
            }
        }
        Self::durable(disk)
    }
}

/// The file system: the image, and a directory with three names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fs {
    pub image: Vec<Blob>,
    files: Vec<Blob>,
    live: [Option<usize>; 3],
    disk: [Option<usize>; 3],
    /// Changes of names that are not durable yet; a rename is two of them, and a power cut may keep
    /// either (FAT and exFAT disks hold images too).
    pending: Vec<(Name, Option<usize>)>,
    /// Whether dropping the cache is more than advice.
    pub forgets: bool,
}

impl Fs {
    pub fn new(image: &Image) -> Self {
        Self {
            image: image.iter().cloned().map(Blob::durable).collect(),
            files: Vec::new(),
            live: [None; 3],
            disk: [None; 3],
            pending: Vec::new(),
            forgets: true,
        }
    }

    /// Whether processes read this.
    pub fn shows(&self, image: &Image) -> bool {
        self.image.len() == image.len()
            && self
                .image
                .iter()
                .zip(image)
                .all(|(is, want)| is.live == *want)
    }

    /// Whether this is what processes read, and nothing of it is lost in a power cut.
    pub fn holds(&self, image: &Image) -> bool {
        self.shows(image) && self.image.iter().all(|file| file.disk == file.live)
    }

    /// What processes read.
    pub fn image(&self) -> Image {
        self.image.iter().map(|file| file.live.clone()).collect()
    }

    /// Bytes in all files of the image.
    pub fn size(&self) -> usize {
        self.image.iter().map(|file| file.live.len()).sum()
    }

    /// Puts a durable file there.
    pub fn with_file(mut self, name: Name, bytes: Vec<u8>) -> Self {
        self.files.push(Blob::durable(bytes));
        let file = Some(self.files.len() - 1);
        self.live[name as usize] = file;
        self.disk[name as usize] = file;
        self
    }

    /// What a process reads under this name.
    pub fn file(&self, name: Name) -> Option<&[u8]> {
        self.live[name as usize].map(|file| &self.files[file].live[..])
    }

    fn set(&mut self, name: Name, file: Option<usize>) {
        self.live[name as usize] = file;
        self.pending.push((name, file));
    }

    /// Files that a name leads to after some power cut.
    fn reachable(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.files.len()).filter(|file| {
            self.disk.contains(&Some(*file))
                || self.pending.iter().any(|(_, to)| *to == Some(*file))
        })
    }

    /// How many things a power cut decides about.
    pub fn units(&self) -> usize {
        let files: usize = self
            .reachable()
            .map(|file| self.files[file].pending.len())
            .sum();
        let image: usize = self.image.iter().map(|file| file.pending.len()).sum();
        image + files + self.pending.len()
    }

    /// Whether a file is longer than its durable part.
    pub fn grows(&self) -> bool {
        let files = self.reachable().map(|file| &self.files[file]);
        files
            .chain(&self.image)
            .any(|file| file.live.len() > file.disk.len())
    }

    /// What is left when the power goes and only the units in `kept` have reached the disk.
    pub fn after_cut(&self, kept: &Subset, fill: Fill) -> Self {
        let mut base = 0;
        let mut image = Vec::with_capacity(self.image.len());
        for file in &self.image {
            image.push(file.after_cut(|unit| kept.has(base + unit), fill));
            base += file.pending.len();
        }
        let mut files = vec![Blob::default(); self.files.len()];
        for file in self.reachable() {
            files[file] = self.files[file].after_cut(|unit| kept.has(base + unit), fill);
            base += self.files[file].pending.len();
        }
        let mut names = self.disk;
        for (number, (name, file)) in self.pending.iter().enumerate() {
            if kept.has(base + number) {
                names[*name as usize] = *file;
            }
        }
        Self {
            image,
            files,
            live: names,
            disk: names,
            pending: Vec::new(),
            forgets: self.forgets,
        }
    }

    /// The kernel's write-back of the image failed while nobody looked.
    pub fn after_lost_writeback(&self, chance: &mut Chance) -> Option<Self> {
        if self.image.iter().all(|file| file.pending.is_empty()) {
            return None;
        }
        let mut out = self.clone();
        for file in &mut out.image {
            file.lose(chance);
        }
        Some(out)
    }

    /// Another program changes one byte, at once and for good.
    pub fn meddle(&mut self, offset: u64) {
        let (file, at) = place(offset);
        let file = &mut self.image[file];
        file.live[at] ^= 0x55;
        file.disk[at] = file.live[at];
    }
}

/// A call of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    ReadImage(u64),
    WriteImage(u64),
    SetLen(usize),
    SyncImage(usize),
    Create,
    Append,
    SyncJournal,
    Rename,
    SyncDirectory,
    UnlinkTemporary,
    UnlinkJournal,
    ReadJournal,
    ReadTemporary,
    CreateUndo,
    AppendUndo,
    SyncUndo,
}

impl Op {
    fn changes(self) -> bool {
        !matches!(self, Op::ReadImage(_) | Op::ReadJournal | Op::ReadTemporary)
    }
}

/// What goes wrong in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurt {
    /// An error; nothing was done.
    Refused,
    /// An error; this many sectors were written.
    Short(usize),
    /// An error; all of it was done (a lost answer of a network file system, an interrupted call).
    Done,
    /// A failed fsync that marks what it could not write clean.
    Forgotten(u64),
    /// No error; the sectors with these bits never reach the disk, the cache shows them.
    Lie(u64),
    /// No error, and nothing was done.
    Skipped,
}

/// Where something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub op: usize,
    pub hurt: Hurt,
    /// From then on every call that changes something fails.
    pub forever: bool,
}

/// A change to the code under test that a table of steps cannot express.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Twist {
    #[default]
    None,
    /// A rollback does not sync the image.
    RollbackWithoutSyncImage,
    /// A rollback does not sync the directory.
    RollbackWithoutSyncDirectory,
    /// The journal is written under its own name.
    NoTemporaryName,
    /// What is read back may come from the cache.
    NoForget,
    /// A rollback takes a rename that failed for a rename that was not done.
    RollbackBelievesRename,
    /// Recovery that finds no journal does not make that durable.
    NothingWithoutSyncDirectory,
    /// Pages that read as new are not written again.
    SkipsNewPages,
    /// The undo file is not synced before the journal is published.
    UndoFileWithoutSync,
    /// Only the first file of the image is synced.
    SyncsOnlyTheFirstFile,
    /// A rollback leaves the files as long as they have become.
    RollbackKeepsLengths,
}

/// The state at a moment in which the machine may stop.
#[derive(Clone, Debug)]
pub struct Moment {
    pub fs: Fs,
    /// Number of the call before (or in) which it is.
    pub op: usize,
    pub call: Op,
    /// Inside a write, behind this many sectors.
    pub torn: Option<usize>,
    /// How many acts of the scenario were acknowledged.
    pub done: usize,
}

/// A process on the file system.
#[derive(Debug)]
pub struct Machine {
    pub fs: Fs,
    open: Option<usize>,
    /// Calls so far.
    pub calls: Vec<Op>,
    /// Moments so far, if they are recorded.
    pub moments: Option<Vec<Moment>>,
    /// At how many places inside a write, at most.
    torn: usize,
    pub done: usize,
    pub fault: Option<Fault>,
    pub twist: Twist,
    /// Before this call another program changes the byte at this place.
    pub meddler: Option<(usize, u64)>,
    /// Number of calls when the last change was made ready.
    pub prepared_at: usize,
    failed: bool,
    found_nothing: bool,
}

impl Machine {
    pub fn new(fs: Fs, twist: Twist) -> Self {
        Self {
            fs,
            open: None,
            calls: Vec::new(),
            moments: None,
            torn: 0,
            done: 0,
            fault: None,
            twist,
            meddler: None,
            prepared_at: 0,
            failed: false,
            found_nothing: false,
        }
    }

    /// Notes the moments before every call that changes something, and `torn` inside every write.
    pub fn recording(mut self, torn: usize) -> Self {
        self.moments = Some(Vec::new());
        self.torn = torn;
        self
    }

    fn note(&mut self, call: Op, torn: Option<usize>) {
        let (op, done) = (self.calls.len(), self.done);
        if let Some(moments) = &mut self.moments {
            moments.push(Moment {
                fs: self.fs.clone(),
                op,
                call,
                torn,
                done,
            });
        }
    }

    /// One call: notes the moment before it, then does it, or what the fault leaves of it.
    /// `work` gets the number of sectors to write and the sectors to lose.
    fn call(
        &mut self,
        call: Op,
        sectors: usize,
        work: impl Fn(&mut Self, usize, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let op = self.calls.len();
        if let Some((at, byte)) = self.meddler
            && at == op
        {
            self.fs.meddle(byte);
        }
        if call.changes() {
            self.note(call, None);
        }
        if self.moments.is_some() && self.torn > 0 && sectors > 1 {
            let step = sectors.div_ceil(self.torn + 1);
            for torn in (step..sectors).step_by(step) {
                let before = self.fs.clone();
                let result = work(self, torn, 0);
                self.note(call, Some(torn));
                self.fs = before;
                result?;
            }
        }
        self.calls.push(call);
        let hurt = match self.fault {
            Some(fault) if fault.op == op => Some(fault.hurt),
            Some(fault) if fault.forever && fault.op < op && call.changes() => {
                Some(match fault.hurt {
                    Hurt::Lie(_) | Hurt::Skipped if !matches!(call, Op::WriteImage(_)) => {
                        return work(self, sectors, 0);
                    }
                    Hurt::Lie(_) | Hurt::Skipped => fault.hurt,
                    _ => Hurt::Refused,
                })
            }
            _ => None,
        };
        let error = || {
            Err(io::Error::from_raw_os_error(if op.is_multiple_of(2) {
                5
            } else {
                28
            }))
        };
        match hurt {
            None => return work(self, sectors, 0),
            Some(Hurt::Skipped) => return Ok(()),
            Some(Hurt::Lie(lost)) => return work(self, sectors, lost),
            Some(Hurt::Refused) => {}
            Some(Hurt::Short(some)) => work(self, some.min(sectors), 0)?,
            Some(Hurt::Done) => work(self, sectors, 0)?,
            Some(Hurt::Forgotten(seed)) => {
                let mut chance = Chance::new(seed);
                match call {
                    Op::SyncImage(file) => self.fs.image[file].lose(&mut chance),
                    Op::SyncJournal => {
                        if let Some(file) = self.journal_file() {
                            self.fs.files[file].lose(&mut chance);
                        }
                    }
                    _ => {}
                }
            }
        }
        self.failed = true;
        error()
    }

    fn journal_file(&self) -> Option<usize> {
        self.open.or(self.fs.live[Name::Journal as usize])
    }

    fn create(&mut self, name: Name) {
        self.fs.files.push(Blob::default());
        self.fs.set(name, Some(self.fs.files.len() - 1));
    }

    fn append(&mut self, file: Option<usize>, bytes: &[u8], sectors: usize) -> io::Result<()> {
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        let at = self.fs.files[file].live.len();
        let len = (sectors * SECTOR).min(bytes.len());
        self.fs.files[file].write(at, &bytes[..len], 0);
        Ok(())
    }

    /// The undo file, as `undo::write` writes it: new, synced, and its name synced.
    pub fn write_undo(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.call(Op::CreateUndo, 1, |m, _, _| {
            m.create(Name::Undo);
            Ok(())
        })?;
        let file = self.fs.live[Name::Undo as usize];
        for piece in bytes.chunks(64 << 10) {
            self.call(Op::AppendUndo, piece.len().div_ceil(SECTOR), |m, n, _| {
                m.append(file, piece, n)
            })?;
        }
        if self.twist == Twist::UndoFileWithoutSync {
            return Ok(());
        }
        self.call(Op::SyncUndo, 1, |m, _, _| {
            m.fs.files[file.unwrap_or_default()].sync();
            Ok(())
        })?;
        self.sync_directory()
    }
}

impl Host for Machine {
    fn lens(&mut self) -> io::Result<Vec<u64>> {
        Ok(self
            .fs
            .image
            .iter()
            .map(|file| file.live.len() as u64)
            .collect())
    }

    fn set_len(&mut self, file: usize, len: u64) -> io::Result<()> {
        if self.twist == Twist::RollbackKeepsLengths && self.failed {
            return Ok(());
        }
        self.call(Op::SetLen(file), 1, |m, _, _| {
            m.fs.image[file].set_len(len as usize);
            Ok(())
        })
    }

    fn read_image(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.call(Op::ReadImage(offset), 1, |_, _, _| Ok(()))?;
        let (file, at) = place(offset);
        let bytes = self.fs.image[file].live.get(at..at + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_image(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, at) = place(offset);
        let there = self.fs.image[file].live.get(at..at + bytes.len());
        if self.twist == Twist::SkipsNewPages && there == Some(bytes) {
            return Ok(());
        }
        // A rollback whose new length was refused writes behind the end.
        if there.is_none() {
            assert!(self.failed, "the image grows by a write");
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.call(
            Op::WriteImage(offset),
            bytes.len().div_ceil(SECTOR),
            |m, sectors, lost| {
                let len = (sectors * SECTOR).min(bytes.len());
                m.fs.image[file].write(at, &bytes[..len], lost);
                Ok(())
            },
        )
    }

    fn sync_image(&mut self, file: usize) -> io::Result<()> {
        if (self.twist == Twist::RollbackWithoutSyncImage && self.failed)
            || (self.twist == Twist::SyncsOnlyTheFirstFile && file > 0)
        {
            return Ok(());
        }
        self.call(Op::SyncImage(file), 1, |m, _, _| {
            m.fs.image[file].sync();
            Ok(())
        })
    }

    fn forget_image(&mut self, offset: u64, len: u64) {
        if self.fs.forgets && self.twist != Twist::NoForget {
            let (file, at) = place(offset);
            self.fs.image[file].forget(at, len as usize);
        }
    }

    fn create_temporary(&mut self, _: u64) -> io::Result<()> {
        self.found_nothing = false;
        if self.fs.live[Name::Temporary as usize].is_some() {
            self.remove_temporary()?;
        }
        let name = match self.twist {
            Twist::NoTemporaryName => Name::Journal,
            _ => Name::Temporary,
        };
        self.call(Op::Create, 1, |m, _, _| {
            m.create(name);
            Ok(())
        })?;
        self.open = self.fs.live[name as usize];
        Ok(())
    }

    fn append_temporary(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.call(Op::Append, bytes.len().div_ceil(SECTOR), |m, sectors, _| {
            m.append(m.open, bytes, sectors)
        })
    }

    fn sync_journal(&mut self) -> io::Result<()> {
        self.call(Op::SyncJournal, 1, |m, _, _| {
            let file = m.journal_file().ok_or(io::ErrorKind::NotFound)?;
            m.fs.files[file].sync();
            Ok(())
        })
    }

    fn publish(&mut self) -> io::Result<()> {
        if self.twist == Twist::NoTemporaryName {
            return Ok(());
        }
        self.call(Op::Rename, 1, |m, _, _| {
            if m.fs.live[Name::Journal as usize].is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = m.fs.live[Name::Temporary as usize].ok_or(io::ErrorKind::NotFound)?;
            m.fs.set(Name::Journal, Some(file));
            m.fs.set(Name::Temporary, None);
            Ok(())
        })
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        if (self.twist == Twist::RollbackWithoutSyncDirectory && self.failed)
            || (self.twist == Twist::NothingWithoutSyncDirectory && self.found_nothing)
        {
            return Ok(());
        }
        self.call(Op::SyncDirectory, 1, |m, _, _| {
            m.fs.disk = m.fs.live;
            m.fs.pending.clear();
            Ok(())
        })
    }

    fn remove_temporary(&mut self) -> io::Result<()> {
        self.open = None;
        self.call(Op::UnlinkTemporary, 1, |m, _, _| {
            if m.fs.live[Name::Temporary as usize].is_some() {
                m.fs.set(Name::Temporary, None);
            }
            Ok(())
        })
    }

    fn remove_journal(&mut self) -> io::Result<()> {
        self.call(Op::UnlinkJournal, 1, |m, _, _| {
            if m.fs.live[Name::Journal as usize].is_none() {
                return Err(io::ErrorKind::NotFound.into());
            }
            m.fs.set(Name::Journal, None);
            Ok(())
        })
    }

    fn read_journal(&mut self) -> Result<Option<Vec<u8>>> {
        self.call(Op::ReadJournal, 1, |_, _, _| Ok(()))
            .map_err(|e| Error::io("journal: read", &e))?;
        if self.twist == Twist::RollbackBelievesRename && self.failed {
            return Ok(None);
        }
        let bytes = self.fs.file(Name::Journal).map(<[u8]>::to_vec);
        self.found_nothing = bytes.is_none();
        Ok(bytes)
    }

    fn read_temporary(&mut self) -> Result<Option<Vec<u8>>> {
        self.call(Op::ReadTemporary, 1, |_, _, _| Ok(()))
            .map_err(|e| Error::io("journal: read", &e))?;
        let name = match self.twist {
            Twist::NoTemporaryName => Name::Journal,
            _ => Name::Temporary,
        };
        Ok(self.fs.file(name).map(<[u8]>::to_vec))
    }
}
