//! [`FileTree`]: what a sanitizer needs of any file tree. Files are named by handles, not borrows.
//!
//! In: a volume or an archive. Out: entries, bytes, removals. Knows: units, error, text.
//! Never: knows which files matter, or what a hive is.

use std::{fmt, ops::Range};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    text::{Name, WinPath, ascii_upcase},
    units::{FileOffset, VolumeOffset},
};

/// A file of one tree; for NTFS the base record's MFT reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// A name to look for, folded; never something in the middle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    /// Upper-cased units.
    pub folded: Vec<u16>,
    /// Which part of the name they are.
    pub part: NamePart,
}

/// What of a name a pattern speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamePart {
    /// All of it.
    Whole,
    /// More may follow: `SOFTWARE.` finds `SOFTWARE.SAV`.
    Start,
    /// Something may come before: `.HIV` finds `BACKUP.HIV`.
    End,
}

impl NamePattern {
    /// Exactly this name, in any case.
    #[must_use]
    pub fn exact(name: &str) -> Self {
        Self {
            folded: name.encode_utf16().map(ascii_upcase).collect(),
            part: NamePart::Whole,
        }
    }

    /// Every name that begins so, in any case.
    #[must_use]
    pub fn prefix(name: &str) -> Self {
        Self {
            part: NamePart::Start,
            ..Self::exact(name)
        }
    }

    /// Every name that ends so, in any case.
    #[must_use]
    pub fn suffix(name: &str) -> Self {
        Self {
            part: NamePart::End,
            ..Self::exact(name)
        }
    }

    /// Whether an already folded name matches.
    #[must_use]
    pub fn matches_folded(&self, folded: &[u16]) -> bool {
        match self.part {
            NamePart::Whole => folded == self.folded,
            NamePart::Start => folded.starts_with(&self.folded),
            NamePart::End => folded.ends_with(&self.folded),
        }
    }
}

/// Why something was not looked at; the words of `--accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnseenClass {
    /// It cannot be read: a structure contradicts itself.
    Damaged,
    /// Its contents lie in another file, store or place.
    Elsewhere,
    /// It is encrypted.
    Encrypted,
    /// It is compressed or archived in a form that is not searched.
    Packed,
    /// It is a disk image or an archive of files: a tree of its own.
    Nested,
    /// Its format is not read.
    Unsupported,
    /// It lies behind the end of the image file.
    OutOfFile,
    /// It could be searched, and was not.
    Unsearched,
}

impl UnseenClass {
    /// As the user writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Elsewhere => "elsewhere",
            Self::Encrypted => "encrypted",
            Self::Packed => "packed",
            Self::Nested => "nested",
            Self::Unsupported => "unsupported",
            Self::OutOfFile => "out_of_file",
            Self::Unsearched => "unsearched",
        }
    }
}

/// How a file's main data stream is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Inside the file's own record.
    Resident,
    /// In clusters, plain.
    Plain,
    /// In clusters, with holes.
    Sparse,
    /// In clusters, compressed by the file system.
    Compressed,
    /// Encrypted by the file system (EFS): unreadable here.
    Encrypted,
    /// Behind a reparse point that redirects its data (WOF, dedup): unreadable here.
    Redirected(u32),
    /// There is no data stream (a directory, or a file without one).
    None,
}

/// A file as found.
#[derive(Clone, Debug)]
pub struct FileEntry {
    /// The handle.
    pub id: FileId,
    /// Every full path (one per hard link; DOS aliases are not listed). The first is the one to
    /// show. A path that could not be followed up to the root starts with `?`.
    pub paths: Vec<WinPath>,
    /// Every name the file has, DOS aliases included.
    pub names: Vec<Name>,
    /// The directories that these names are in.
    pub parents: Vec<FileId>,
    /// Length of the main data stream.
    pub len: u64,
    /// How it is stored.
    pub storage: Storage,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether some name is in no directory's index (an orphan, or a damaged index).
    pub orphan: bool,
    /// What this file adds to the [`Listing`].
    pub listing: Listing,
}

impl FileEntry {
    /// The path to show.
    #[must_use]
    pub fn path(&self) -> String {
        self.paths
            .first()
            .map_or_else(|| "?".to_owned(), ToString::to_string)
    }
}

/// A fingerprint of a set of files: ids, names, parents, sizes, attributes. Independent of order,
/// and a file can be taken out of it, so that "before minus targets = after" is one comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Number of files and directories.
    pub files: u64,
    /// Number of names.
    pub names: u64,
    /// Wrapping sum of one 128-bit hash a file record.
    pub sum: u128,
}

impl Listing {
    /// Adds another set.
    pub fn add(&mut self, other: &Listing) {
        self.files = self.files.wrapping_add(other.files);
        self.names = self.names.wrapping_add(other.names);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Takes another set out.
    pub fn subtract(&mut self, other: &Listing) {
        self.files = self.files.wrapping_sub(other.files);
        self.names = self.names.wrapping_sub(other.names);
        self.sum = self.sum.wrapping_sub(other.sum);
    }
}

/// How the contents of a file are stored that a search of the volume's bytes does not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Compressed by NTFS.
    Lznt1,
    /// Compressed by the system (WOF, "CompactOS"), in a stream of the file itself.
    Wof,
    /// Encrypted (EFS).
    Efs,
    /// In the chunk store of Data Deduplication.
    Dedup,
    /// In the common store of Single Instance Storage.
    SingleInstance,
    /// With a cloud provider.
    Cloud,
    /// In hierarchical storage: on another medium.
    Remote,
    /// In a WIM archive (WIMBoot, WOF).
    Wim,
}

impl Form {
    /// The form of which a reparse point of this tag speaks; most of them speak of none.
    #[must_use]
    pub const fn of_tag(tag: u32) -> Option<Self> {
        match tag {
            0x8000_0017 => Some(Self::Wof),
            0x8000_0013 => Some(Self::Dedup),
            0x8000_0007 => Some(Self::SingleInstance),
            0x8000_0008 => Some(Self::Wim),
            0xC000_0004 | 0x8000_0006 => Some(Self::Remote),
            // Before the twelve tags of the cloud filter: OneDrive's own.
            0x8000_0021 => Some(Self::Cloud),
            _ if tag & 0xFFFF_0FFF == 0x9000_001A => Some(Self::Cloud),
            _ => None,
        }
    }

    /// Why that is not looked at.
    #[must_use]
    pub const fn class(self) -> UnseenClass {
        match self {
            Self::Lznt1 | Self::Wof => UnseenClass::Packed,
            Self::Efs => UnseenClass::Encrypted,
            Self::Dedup | Self::SingleInstance | Self::Cloud | Self::Remote | Self::Wim => {
                UnseenClass::Elsewhere
            }
        }
    }

    /// In words: "contents ...".
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Lznt1 => "compressed by NTFS",
            Self::Wof => "compressed by the system (WOF, CompactOS)",
            Self::Efs => "encrypted (EFS)",
            Self::Dedup => "in the chunk store of Data Deduplication (System Volume Information)",
            Self::SingleInstance => "in the common store of Single Instance Storage",
            Self::Cloud => "with a cloud provider",
            Self::Remote => "in hierarchical storage, on another medium",
            Self::Wim => "in a WIM archive (WIMBoot)",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Lznt1 => {
                "decompress in Windows before the capture (compact /u /s), or accept it (--accept \
                 packed)"
            }
            Self::Wof => {
                "decompress in Windows before the capture (compact /compactos:never), or accept it \
                 (--accept packed)"
            }
            Self::Efs => {
                "decrypt in Windows before the capture (cipher /d), or accept it (--accept encrypted)"
            }
            Self::Dedup => {
                "bring it back in Windows before the capture (Start-DedupJob -Type Unoptimization), \
                 or accept it (--accept elsewhere)"
            }
            Self::Cloud => {
                "remove it or keep it on this device in Windows before the capture, or accept it \
                 (--accept elsewhere)"
            }
            Self::SingleInstance | Self::Remote => {
                "copy the file over itself in Windows before the capture, or accept it (--accept \
                 elsewhere)"
            }
            Self::Wim => "run declone on that archive, too, or accept it (--accept elsewhere)",
        }
    }
}

/// Files of a volume that are stored in one such form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// The form.
    pub form: Form,
    /// How many there are.
    pub files: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Paths of the first of them.
    pub examples: Vec<String>,
}

/// The result of one sequential pass over all file records.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// The files that matched.
    pub found: Vec<FileEntry>,
    /// All files.
    pub listing: Listing,
    /// What could not be read, one line each; bounded, the rest is counted in `problem_count`.
    pub problems: Vec<String>,
    /// How many problems there were.
    pub problem_count: u64,
    /// How many more files matched than are held.
    pub cut: u64,
    /// Files that some structure names or counts and that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// Files whose contents a search of the volume's bytes does not see, by form.
    pub opaque: Vec<Opaque>,
}

/// A file that some structure names or counts (an index, a bitmap, a list of attributes, a directory
/// entry) and that cannot be read as that structure says, or that has another name elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// Its number, where files have one.
    pub record: Option<u64>,
    /// Every name that any structure gives it.
    pub names: Vec<Name>,
    /// The paths of these names; empty if nothing names it.
    pub paths: Vec<WinPath>,
    /// Whether the structure that names it says that it is a directory.
    pub is_directory: bool,
    /// What was expected and found.
    pub reason: String,
}

impl Unreadable {
    /// Adds a name with its path, unless it is known.
    pub fn add_name(&mut self, name: Name, path: WinPath) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        if !self.paths.contains(&path) {
            self.paths.push(path);
        }
    }
}

/// Most files of one whole name looked for. A machine has a handful.
pub const MOST_NAMED: usize = 1 << 18;
/// Most files of which only a part of the name is looked for: `$R...` of a full recycle bin. What is
/// beyond that is counted.
pub const MOST_ALIKE: usize = 50_000;

/// A piece of metadata as the pass over all file records shows it to a searcher.
#[derive(Clone, Copy, Debug)]
pub struct MetadataChunk<'a> {
    /// Number of the first record.
    pub first_record: u64,
    /// Bytes a record.
    pub record_len: usize,
    /// Whole records, update sequences undone where they are valid.
    pub bytes: &'a [u8],
}

/// A piece of contents.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Whose they are; a file's path, or what of the tree they are.
    pub owner: &'a str,
    /// Position in the contents.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Where a piece of a stream lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position in the stream.
    pub file_offset: FileOffset,
    /// Length in bytes.
    pub len: u64,
    /// Position in the volume; `None` is a hole.
    pub volume_offset: Option<VolumeOffset>,
}

/// Who owns a byte of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A cluster that no file owns; `cluster` is its byte range in the volume.
    Free {
        /// The whole cluster.
        cluster: Range<u64>,
    },
    /// A record of $MFT.
    Record {
        /// Its number.
        number: u64,
        /// Whether the record is in use.
        in_use: bool,
        /// Whether the byte lies behind the record's used part.
        slack: bool,
        /// The path of the file that the record belongs to, if it is in use.
        path: Option<String>,
    },
    /// A byte of a file's stream (or of an index, a bitmap ...).
    File {
        /// The file.
        id: FileId,
        /// Its path.
        path: String,
        /// Stream type and name, e.g. "$DATA", "$DATA:name", "$INDEX_ALLOCATION:$I30".
        stream: String,
        /// Where in the stream.
        offset: FileOffset,
        /// Whether the byte lies behind the stream's length (cluster tail).
        tail: bool,
    },
    /// Outside the file system's clusters (volume slack, backup boot sector).
    Outside,
}

/// Why a volume must not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// A stable short name: "hibernated", "log-not-clean", "dirty-flag", "mirror-mismatch" ...
    pub id: &'static str,
    /// What was expected and found, where.
    pub what: String,
    /// What the user can do.
    pub advice: String,
}

/// What a removal did, for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// File records freed, extension records included; 0 where files have none.
    pub records: u64,
    /// Entries of directories removed.
    pub index_entries: u64,
    /// Clusters freed and zeroed.
    pub clusters: u64,
    /// Bytes of slack zeroed that held anything.
    pub slack_bytes: u64,
}

/// What became of a residue hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Zeroed; says what it was.
    Wiped(String),
    /// Left alone; says whose it is and why.
    Left(String),
}

/// A file tree on a device that may be written through an overlay.
pub trait FileTree: fmt::Debug + Send + Sync {
    /// Format and version, e.g. "NTFS 3.1".
    fn label(&self) -> String;

    /// Everything that forbids writing. `hive_paths` and the like are not judged here.
    fn obstacles(&self) -> Result<Vec<Obstacle>>;

    /// One sequential pass over all records: files by name (folded; exact or prefix), the listing,
    /// and every record's bytes for `search`.
    fn census(
        &self,
        patterns: &[NamePattern],
        search: &mut dyn FnMut(MetadataChunk<'_>),
    ) -> Result<Census>;

    /// One file by its handle.
    fn entry(&self, id: FileId) -> Result<FileEntry>;

    /// One file by its path from the root, folded; through the directories' indexes.
    fn lookup(&self, path: &[&str]) -> Result<Option<FileEntry>>;

    /// The files and directories of a directory, in no particular order, each once.
    fn list(&self, directory: FileId) -> Result<Vec<FileEntry>>;

    /// Reads from the main data stream; decompresses. Bytes past the initialised size are zeros.
    fn read_at(&self, id: FileId, offset: FileOffset, buf: &mut [u8]) -> Result<()>;

    /// Whether reading the main data stream from its begin to its end costs much less than reading its
    /// pieces in another order, or at a time.
    fn is_read_in_order(&self, _id: FileId) -> Result<bool> {
        Ok(false)
    }

    /// Where the main data stream lies in the volume.
    fn extents(&self, id: FileId) -> Result<Vec<Extent>>;

    /// Volume ranges that keep traces of names besides the file records: the journals, the given
    /// files' parents' indexes. With a label each.
    fn trace_areas(&self, ids: &[FileId]) -> Result<Vec<(String, Vec<Range<u64>>)>>;

    /// Volume ranges of the file system's own structures, for a picture. With a label each.
    fn structures(&self) -> Result<Vec<(String, Vec<Range<u64>>)>> {
        Ok(Vec::new())
    }

    /// Who owns each of these bytes; one pass for all, or none if the `likely` files own them all.
    fn owners(&self, offsets: &[VolumeOffset], likely: &[FileId]) -> Result<Vec<Owner>>;

    /// Told all of the main data stream by one who has it: as it was read, or as it is after what was
    /// written. A tree for which reading it is dear need not do that again.
    fn note(&self, _id: FileId, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    /// An error if anything that is to be written (the main data streams of some files, everything of
    /// those to be removed, and what a removal changes besides) belongs to another file, too: that one
    /// would be changed. To be asked before anything is written; one pass for all.
    fn sole_owners(&self, written: &[FileId], removed: &[FileId]) -> Result<()> {
        let _ = (written, removed);
        Ok(())
    }

    /// Overwrites bytes of the main data stream without changing anything else.
    fn overwrite(&self, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
        let _ = (id, offset, bytes);
        Err(Error::internal(format!(
            "{}: this tree is read-only",
            self.label()
        )))
    }

    /// Fills the main data stream with zeros over its whole allocation: what it holds, what lies
    /// behind its initialised length and behind its end. Lengths and everything else stay. Says how
    /// many bytes were not zero.
    fn erase(&self, id: FileId) -> Result<u64> {
        let _ = id;
        Err(Error::internal(format!(
            "{}: this tree is read-only",
            self.label()
        )))
    }

    /// Removes files, after [`FileTree::sole_owners`] agreed, with all their names and streams, frees and zeroes what they owned, wipes the
    /// slack of their records, neighbours' indexes and parents. All or nothing is the caller's:
    /// on an error the overlay is thrown away.
    fn remove(&self, ids: &[FileId]) -> Result<Removal> {
        let _ = ids;
        Err(Error::internal(format!(
            "{}: this tree is read-only",
            self.label()
        )))
    }

    /// Zeroes stale bytes that hold a searched token: record slack, free records, index slack,
    /// free clusters. `hits` are volume ranges; live data of other files is left.
    fn wipe_residue(&self, hits: &[Range<u64>]) -> Result<Vec<Disposition>> {
        let _ = hits;
        Err(Error::internal(format!(
            "{}: this tree is read-only",
            self.label()
        )))
    }

    /// Contents that are not what the volume's own check says of them: whose, and what is wrong. Reads
    /// all that has such a check.
    fn wrong_contents(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    /// Shows the contents of every file whose bytes the image file holds in another form (compressed),
    /// each contents once, and the tree's own records. No bytes are shown where a search of the image
    /// file sees them. `tail` bytes of a piece come again in front of the next one. Says how many bytes
    /// there were.
    fn contents(&self, tail: usize, look: &mut dyn FnMut(Contents<'_>)) -> Result<u64> {
        let _ = (tail, look);
        Ok(0)
    }

    /// Structure problems of everything that the given files' removal or rewriting touched.
    fn check_touched(&self, touched: &[Range<u64>]) -> Result<Vec<String>>;

    /// The volume offset of a byte of a record (records may be split over runs).
    fn record_offset(&self, record: u64, inside: u64) -> Result<VolumeOffset>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_forgets_what_is_taken_out() {
        let a = Listing {
            files: 1,
            names: 2,
            sum: u128::MAX - 3,
        };
        let b = Listing {
            files: 1,
            names: 1,
            sum: 77,
        };
        let mut all = Listing::default();
        all.add(&a);
        all.add(&b);
        all.subtract(&a);
        assert_eq!(all, b);
    }

    #[test]
    fn exact_patterns_are_not_prefixes() {
        let folded: Vec<u16> = "SOFTWARE.SAV".encode_utf16().collect();
        assert!(NamePattern::prefix("software.").matches_folded(&folded));
        assert!(!NamePattern::exact("software").matches_folded(&folded));
        assert!(NamePattern::suffix(".sav").matches_folded(&folded));
        assert!(!NamePattern::suffix(".sa").matches_folded(&folded));
        assert!(NamePattern::exact("Software.sav").matches_folded(&folded));
    }
}
