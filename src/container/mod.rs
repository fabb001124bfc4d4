//! Image file in, disk out.
//!
//! In: a host file (or an overlay over it). Out: [`Opened`], the disk that a guest would see.
//! Knows: units, error, bytes, text, device, tree. Facts from: each format's own document
//! (`format.rs`).
//! Never: guesses. A format is recognised by evidence or the file is refused; what an image names (a
//! parent, an extent) is opened through [`Neighbours`] only, which decides.
//!
//! # Why
//! - **raw is a probe like any other.** The usual fallback, "no magic, so it is raw", turns every
//!   unknown container into a disk that is then written. Here a raw disk shows a table or a volume.
//! - **A magic at the front is believed.** A raw disk may begin with the bytes of another format
//!   (its owner writes them: CVE-2008-2004, CVE-2010-3851). Such a file is refused by name, and
//!   `--format raw` is the way out: the caller decides, not the guest.
//! - **A format answers where, not how.** One layer ([`Mapped`]) reads and writes for all formats with
//!   blocks, so that the overlay, the guard and the journal below it know files only.
//! - **Formats that are not handled are rows too**, so that a user reads "this is a QCOW2 image" and
//!   what to do, instead of "not recognised".
//!
//! Adding a format: a file `container/<name>.rs`, and its row in [`FORMATS`] gets that file's `open`.
//!
//! # An image of several files
//!
//! A format whose image can be several files (a VMDK's extents, the parts of a split archive) has a
//! row in `SETS`: a function that reads the file that the user named and gives the names of the others,
//! as the image gives them (or, if it does not name them, as they are found by [`Source::own_name`] and
//! [`Source::names_beside`]). `image::open_files` opens those files for the same use as the
//! first, locks and all, and makes one address space of them ([`crate::device::HostSet`]). When the
//! format is then opened,
//!
//! - [`Source::host`] is the first file alone, with its own offsets;
//! - [`Source::member`] is one of the others, by the name that was given: also with its own offsets, and
//!   it is written ([`crate::device::BlockDevice::write_at`]) and grows
//!   ([`crate::device::BlockDevice::grow`]) like the first;
//! - [`Source::whole`] is the address space: a disk's [`Layout`] lies over it, with
//!   [`crate::device::PartOf::start`] added to the offsets of each file.
//!
//! Nothing else is needed for a clean in place or into a copy: overlay, guard and journal know the
//! address space only. A format must do without its members, too (looking only): the file may have been
//! opened alone, as the parent of another.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::sync::Arc;

use crate::{
    device::{Device, HostFile, Neighbours, PartOf},
    error::{At, Error, Kind, Result},
    text::escape,
};

mod aff4;
mod children;
mod chunked;
mod ewf;
mod format;
mod known;
mod mapped;
mod packed;
mod parts;
mod qcow2;
mod raw;
mod runs;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod wim;

pub use children::children;
pub use mapped::{BELOW, Extent, Layout, Mapped, Place, Places};
pub use parts::advice as parts_advice;
pub use wim::{Archive, ArchiveImage, Writer, Written};

use format::SECTOR;

/// The name of the one format that may be forced although another one's magic is found.
const RAW: &str = "raw";

/// The way out when a guest wrote another format's magic onto its disk; only given where the file shows
/// that it is a disk, too.
const SAY_RAW: &str =
    "if this is a raw disk that happens to begin or end like that, say --format raw";

/// The way out for every disk that can be read and not be written where it lies: no other program has to
/// read it, and a chain of files becomes one.
const TO_RAW: &str =
    "clean the disk that it shows, into a raw file: declone clean IMAGE -o OUT --to raw";

/// Its magic is right, and something behind it is not.
const DAMAGED: &str = "the image file is damaged, or was not copied whole: take another copy of it";

/// A format an image file can have.
#[derive(Debug)]
pub struct Format {
    /// The name of `--format`.
    pub name: &'static str,
    /// What users call it.
    pub title: &'static str,
    /// The evidence that a file has this format, if there is any.
    pub probe: fn(&Edges) -> Option<String>,
    /// How it is opened.
    pub open: Open,
}

/// What declone does with a format.
#[derive(Clone, Copy, Debug)]
pub enum Open {
    /// Makes a disk of the file.
    Disk(fn(&Source<'_>) -> Result<Disk>),
    /// Makes file trees of the file.
    Archive(fn(&Source<'_>) -> Result<Archive>),
    /// Refuses by name; says what the user can do.
    Refuse(&'static str),
}

/// What a format opens: a file, and the way to those that it names.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file, or an overlay over it.
    pub host: &'a Device,
    /// It and the files that belong to it.
    whole: &'a Device,
    /// Where files that it names may come from.
    near: &'a Neighbours,
    /// The files of the chain so far, this one last; the first has no entry.
    chain: &'a [Arc<HostFile>],
}

impl<'a> Source<'a> {
    /// The disk of a file that this one names, in a format of which `wanted` says yes.
    ///
    /// `Refused` if it may not be opened, is not there, is in the chain already, or the chain is
    /// longer than 32 files.
    pub fn open_named(&self, name: &str, wanted: fn(&Format) -> bool) -> Result<Named> {
        let file = self.near.open(name)?;
        let mut chain = self.chain.to_vec();
        if chain.iter().any(|above| above.is_same_file(&file)) || self.near.is_image(&file) {
            return Err(Error::refused(
                "container: a chain of files that ends expected, found one that comes back to itself",
            )
            .at("file", escape(name)));
        }
        chain.push(Arc::clone(&file));
        if chain.len() >= CHAIN_LIMIT {
            return Err(Error::limit(format!(
                "container: a chain of at most {CHAIN_LIMIT} files expected, found more"
            )));
        }
        let shown = file.path().file_name().unwrap_or_default();
        let shown = shown.to_string_lossy().into_owned();
        let host: Device = file;
        let edges = Edges::read(&host)?;
        let (format, _) = recognise_of(&edges, wanted).ok_or_else(|| {
            Error::malformed("container: another format expected in a file that the image names")
                .at("file", escape(name))
        })?;
        let Open::Disk(open) = format.open else {
            return Err(Error::unsupported(format!(
                "container: a file in a format that declone reads expected, found {}",
                format.title
            ))
            .at("file", escape(name)));
        };
        let source = Source {
            host: &host,
            whole: &host,
            near: self.near,
            chain: &chain,
        };
        let disk = open(&source).at("file", escape(name))?;
        Ok(Named {
            name: shown,
            host,
            disk,
        })
    }

    /// The image's own name, without the directory.
    #[must_use]
    pub fn own_name(&self) -> Option<&str> {
        self.near.own_name()
    }

    /// The names of other files beside the image; at most `limit`, in no order.
    pub fn names_beside(&self, limit: usize) -> Result<Vec<String>> {
        self.near.names(limit)
    }

    /// The address space of all files of the image; [`Source::host`] if it is only one.
    #[must_use]
    pub fn whole(&self) -> &Device {
        self.whole
    }

    /// The file that belongs to the image under this name, if it was opened with it.
    pub fn member(&self, name: &str) -> Result<Option<PartOf>> {
        let parts = self.whole.parts();
        let number = parts.iter().skip(1).position(|part| part.name == name);
        number
            .map(|behind| PartOf::new(Arc::clone(self.whole), behind.saturating_add(1)))
            .transpose()
    }

    /// The bytes of a file that this one names: an extent without a format of its own.
    pub fn open_bytes(&self, name: &str) -> Result<Device> {
        let file = self.near.open(name)?;
        Ok(file)
    }
}

/// Most files of a chain.
const CHAIN_LIMIT: usize = 32;

/// A file that an image names.
#[derive(Debug)]
pub struct Named {
    /// Its name on the host, without the directory.
    pub name: String,
    /// Its bytes.
    pub host: Device,
    /// Its disk.
    pub disk: Disk,
}

impl Named {
    /// The chain of a file that stands on this one.
    fn chain(&self) -> Vec<String> {
        let mut chain = vec![self.name.clone()];
        chain.extend(self.disk.facts.chain.iter().cloned());
        chain
    }
}

/// What a format makes of a file.
#[derive(Debug)]
pub struct Disk {
    /// The disk.
    pub device: Device,
    /// Where its bytes lie in the file.
    pub places: Places,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
    /// Why it may be looked at and not written, if so.
    pub scan_only: Option<ScanOnly>,
    /// Whether the disk's bytes are not the file's (compressed): a search of the file finds nothing.
    pub opaque: bool,
    /// What a report shows of the container.
    pub facts: Facts,
}

impl Disk {
    /// A disk that is the front of the file.
    fn plain(device: Device) -> Self {
        Self {
            device,
            places: Places::default(),
            notes: Vec::new(),
            scan_only: None,
            opaque: false,
            facts: Facts::default(),
        }
    }

    /// The disk of a layout over this file.
    fn mapped(host: &Device, layout: Arc<dyn Layout>, facts: Facts) -> Self {
        Self {
            device: Arc::new(Mapped::new(Arc::clone(host), Arc::clone(&layout))),
            places: Places::of(layout),
            notes: Vec::new(),
            scan_only: None,
            opaque: false,
            facts,
        }
    }
}

/// What a report shows of a container. What a format does not have is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The kind within the format: `fixed`, `dynamic`, `differencing`, `monolithicSparse`...
    pub kind: Option<String>,
    /// The program that made it, as the file says.
    pub creator: Option<String>,
    /// Bytes of the disk in a block, cluster or grain.
    pub block_size: Option<u64>,
    /// Blocks of the disk.
    pub blocks: Option<u64>,
    /// Blocks that the file has room for.
    pub allocated: Option<u64>,
    /// The format's own log: `empty`, or what it holds.
    pub log: Option<String>,
    /// The files below this one, nearest first.
    pub chain: Vec<String>,
    /// The other files of which the image consists, as it names them.
    pub files: Vec<String>,
    /// Identity of the disk that other files may name, as the format writes it.
    pub id: Option<String>,
    /// MD5 of the disk, in hex, as the file says.
    pub md5: Option<String>,
    /// SHA-1 of the disk, in hex, as the file says.
    pub sha1: Option<String>,
}

/// A state of a container in which it can be read, and a write would be unsafe.
#[derive(Clone, Debug)]
pub struct ScanOnly {
    /// Structure, expectation, finding.
    pub reason: String,
    /// What the user can do.
    pub advice: &'static str,
}

/// All formats, in the order in which they are probed.
///
/// Magic numbers at the front come first, those at the end next (a disk image file may begin with
/// anything), raw comes last: a raw disk's table is found inside most containers of fixed size.
pub static FORMATS: &[Format] = &[
    vhdx::FORMAT,
    vmdk::FORMAT,
    qcow2::FORMAT,
    vdi::FORMAT,
    wim::FORMAT,
    known::WIM_PIPABLE,
    known::FFU,
    ewf::FORMAT,
    ewf::FORMAT_2,
    known::L01,
    known::LX01,
    // Before zip: AFF4 is a zip archive.
    aff4::FORMAT,
    known::AFF,
    known::QED,
    known::PARALLELS,
    known::PARTCLONE,
    known::NTFSCLONE,
    known::PARTIMAGE,
    known::LZ4,
    known::LZOP,
    known::CAB,
    known::RAR,
    known::GHOST,
    known::TIB,
    known::VMA,
    known::SESPARSE,
    known::LUKS,
    // Any first name ends with nothing: the special archives come first.
    known::OVA,
    known::XVA,
    known::TAR,
    known::SEVEN_ZIP,
    known::ZIP,
    known::XZ,
    known::ZSTD,
    known::BZIP2,
    // Two bytes of magic and a method: the weakest at the front.
    known::GZIP,
    known::HIVE,
    // A dynamic VHD begins with a copy of its footer, a fixed one has only the footer.
    vhd::FORMAT,
    known::DMG,
    // Behind the others: its magic lies at 32 KiB. Before raw: a bootable CD image has an MBR.
    known::ISO,
    raw::FORMAT,
];

/// What a format says about the files of an image: the names of those behind the first.
type Files = fn(&Source<'_>) -> Result<Vec<String>>;

/// The formats whose image can be several files.
static SETS: &[(&str, Files)] = &[("vmdk", vmdk::files), ("wim", wim::files)];

/// The names of the files that belong to this one, as the image gives them; empty if it is one file,
/// or is in a state that [`open`] tells more about.
pub fn files(host: &Device, forced: Option<&str>, near: &Neighbours) -> Result<Vec<String>> {
    let edges = Edges::read(host)?;
    let name = match forced {
        Some(name) => name,
        None => recognise(&edges).map_or("", |(format, _)| format.name),
    };
    let Some((_, files)) = SETS.iter().find(|(known, _)| *known == name) else {
        return Ok(Vec::new());
    };
    let source = Source {
        host,
        whole: host,
        near,
        chain: &[],
    };
    match files(&source) {
        Err(error)
            if matches!(
                error.kind(),
                Kind::Malformed | Kind::Unsupported | Kind::Limit
            ) =>
        {
            Ok(Vec::new())
        }
        names => names,
    }
}

/// The disk inside an image file.
#[derive(Debug)]
pub struct Opened {
    /// The format's name, as in `--format`.
    pub format: &'static str,
    /// What it was recognised by.
    pub evidence: String,
    /// The disk; of an archive, the file.
    pub disk: Device,
    /// The file trees, if it is an archive.
    pub archive: Option<Archive>,
    /// Where the disk's bytes lie in the file.
    pub places: Places,
    /// Why the file may be looked at and not written, if so.
    pub scan_only: Option<ScanOnly>,
    /// Whether the disk's bytes are not the file's.
    pub opaque: bool,
    /// What a report shows of the container.
    pub facts: Facts,
    /// Length of the disk.
    pub virtual_len: u64,
    /// Length of the file, or of all files together.
    pub file_len: u64,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
}

/// Opens the disk in an image file. `forced` is the argument of `--format`: it skips the probes.
/// Files that the image names are opened through `near`.
pub fn open(host: Device, forced: Option<&str>, near: &Neighbours) -> Result<Opened> {
    let parts = host.parts();
    let whole = host;
    let host: Device = match parts.len() {
        0 | 1 => Arc::clone(&whole),
        _ => Arc::new(PartOf::new(Arc::clone(&whole), 0)?),
    };
    let file_len = parts
        .iter()
        .fold(0_u64, |sum, part| sum.saturating_add(part.len));
    let edges = Edges::read(&host)?;
    let mut notes = Vec::new();
    let (format, evidence) = match forced {
        Some(name) => {
            let format = by_name(name)?;
            match recognise(&edges) {
                Some((found, evidence)) if found.name != format.name => notes.push(format!(
                    "opened as {} because --format says so; the file looks like {} ({evidence})",
                    format.name, found.title
                )),
                Some(_) => {}
                None => notes.push(format!(
                    "opened as {} because --format says so; nothing in the file confirms it",
                    format.name
                )),
            }
            (format, "--format".to_owned())
        }
        None => recognise(&edges).ok_or_else(|| unknown(&edges, near))?,
    };
    let source = Source {
        host: &host,
        whole: &whole,
        near,
        chain: &[],
    };
    let ways = Ways {
        parts: parts::advice(near),
        named: forced.is_none() && format.name != RAW,
        raw: forced.is_none() && format.name != RAW && (raw::FORMAT.probe)(&edges).is_some(),
    };
    let mut archive = None;
    let disk = match format.open {
        Open::Disk(_) if edges.len < SECTOR && !edges.has(0, format::VMDK_DESCRIPTOR) => {
            return Err(too_short(&edges));
        }
        Open::Disk(open) => open(&source).map_err(|error| ways.add(error))?,
        Open::Archive(open) => {
            let trees = open(&source).map_err(|error| ways.add(error))?;
            let mut disk = Disk::plain(Arc::clone(&whole));
            disk.facts = trees.facts.clone();
            archive = Some(trees);
            disk
        }
        Open::Refuse(advice) => {
            let error = Error::unsupported(format!(
                "image: a disk or an archive that declone reads expected, found {} ({evidence})",
                format.title
            ));
            return Err(ways.add(error.advise(advice)));
        }
    };
    if matches!(format.name, RAW | "vhd") && !edges.len.is_multiple_of(SECTOR) {
        notes.push(format!(
            "the file is not a whole number of 512-byte sectors: {} bytes are left over",
            edges.len.checked_rem(SECTOR).unwrap_or(0)
        ));
    }
    notes.extend(disk.notes);
    Ok(Opened {
        format: format.name,
        evidence,
        virtual_len: match archive {
            // Between several files is nothing.
            Some(_) => file_len,
            None => disk.device.len(),
        },
        disk: disk.device,
        archive,
        places: disk.places,
        scan_only: disk.scan_only,
        opaque: disk.opaque,
        facts: disk.facts,
        file_len,
        notes,
    })
}

fn by_name(name: &str) -> Result<&'static Format> {
    FORMATS
        .iter()
        .find(|format| format.name == name)
        .ok_or_else(|| {
            let known = FORMATS.iter();
            let known: Vec<&str> = known
                .filter(|format| !matches!(format.open, Open::Refuse(_)))
                .map(|format| format.name)
                .collect();
            Error::new(
                Kind::Usage,
                format!(
                    "--format: the name of a format expected, found `{}`",
                    escape(name)
                ),
            )
            .advise(format!("known formats: {}", known.join(", ")))
        })
}

fn recognise(edges: &Edges) -> Option<(&'static Format, String)> {
    recognise_of(edges, |_| true)
}

fn recognise_of(edges: &Edges, wanted: fn(&Format) -> bool) -> Option<(&'static Format, String)> {
    FORMATS
        .iter()
        .filter(|format| wanted(format))
        .find_map(|format| Some((format, (format.probe)(edges)?)))
}

fn too_short(edges: &Edges) -> Error {
    Error::malformed(format!(
        "image: at least one sector (512 bytes) expected, found {} bytes",
        edges.len
    ))
}

/// What else can be done about a file that is not opened.
struct Ways {
    /// It is a part of a split file.
    parts: Option<String>,
    /// Its magic is that of a format: what contradicts the format is damage.
    named: bool,
    /// It shows a raw disk as well.
    raw: bool,
}

impl Ways {
    /// Adds them to what an error advises, where they fit.
    fn add(&self, error: Error) -> Error {
        let told = error.advice().map(str::to_owned);
        let broken = matches!(error.kind(), Kind::Malformed | Kind::Unsupported);
        if !broken && told.is_some() {
            return error;
        }
        let mut ways: Vec<String> = Vec::new();
        ways.extend(self.parts.clone().filter(|_| broken));
        let damaged = self.named && ways.is_empty() && error.kind() == Kind::Malformed;
        ways.extend(damaged.then(|| DAMAGED.to_owned()));
        ways.extend(told);
        ways.extend(self.raw.then(|| SAY_RAW.to_owned()));
        if ways.is_empty() && self.named {
            ways.extend(match error.kind() {
                Kind::Limit => Some(DAMAGED.to_owned()),
                Kind::Refused => Some(
                    "put the file that is named right, or take it away; the others are as they were"
                        .to_owned(),
                ),
                _ => None,
            });
        }
        match ways.is_empty() {
            true => error,
            false => error.advise(ways.join("; ")),
        }
    }
}

/// A file that shows no format. What it says of itself decides the advice: a part of a split file, the
/// file of a known program, nothing but zeros; bytes that are not zeros are most often a format that
/// declone does not know, and no reason to call a disk damaged.
fn unknown(edges: &Edges, near: &Neighbours) -> Error {
    if edges.len < SECTOR {
        return too_short(edges);
    }
    let zeros = edges.head.iter().all(|byte| *byte == 0);
    let start: Vec<String> = edges
        .head
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let start = match zeros {
        true => format!("its first {} bytes are zeros", edges.head.len()),
        false => format!("it begins with {}", start.join(" ")),
    };
    let advice = parts::advice(near)
        .or_else(|| known::by_its_name(near.own_name()?))
        .unwrap_or_else(|| {
            match zeros {
                true => {
                    "is the file empty, or was the capture broken off? capture it again; if it is a \
                     disk whose first sectors were wiped, restore its partition table on a copy"
                }
                false => {
                    "if it is packed, encrypted or an archive of a backup program, restore it to a \
                     raw disk or a virtual disk with the program that made it, and give that"
                }
            }
            .to_owned()
        });
    Error::malformed(format!(
        "image: the magic of a known format, a GPT (EFI PART at 512, at 4096 or in the last \
         sector), an MBR with partitions (55 aa at 510) or a volume's boot sector expected, found \
         none; {start}"
    ))
    .at("image offset", "0x0")
    .advise(advice)
}

/// The first and the last bytes of a file: what probes look at.
#[derive(Debug)]
pub struct Edges {
    len: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Edges {
    /// The volume descriptor of a CD is what lies farthest from the front: 32 KiB + 6.
    const HEAD_LEN: u64 = 36 * 1024;
    /// A GPT's backup header in a sector of 4096 bytes is what lies farthest from the end.
    const TAIL_LEN: u64 = 4096;

    fn read(file: &Device) -> Result<Self> {
        let len = file.len();
        let piece = |offset: u64, piece_len: u64| -> Result<Vec<u8>> {
            let piece_len = usize::try_from(piece_len)
                .map_err(|_| Error::internal("image: probe window does not fit"))?;
            let mut bytes = vec![0; piece_len];
            file.read_at(offset, &mut bytes)
                .at("image offset", format_args!("{offset:#x}"))?;
            Ok(bytes)
        };
        let tail_len = len.min(Self::TAIL_LEN);
        Ok(Self {
            len,
            head: piece(0, len.min(Self::HEAD_LEN))?,
            tail: piece(len.saturating_sub(tail_len), tail_len)?,
        })
    }

    /// `len` bytes at `offset` from the front, if the window has them.
    fn front(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.head.get(offset..offset.checked_add(len)?)
    }

    /// Whether `magic` stands at `offset` from the front.
    fn has(&self, offset: usize, magic: &[u8]) -> bool {
        self.front(offset, magic.len()) == Some(magic)
    }

    /// Whether `magic` stands `distance` bytes before the end.
    fn has_before_end(&self, distance: usize, magic: &[u8]) -> bool {
        self.tail
            .len()
            .checked_sub(distance)
            .and_then(|start| self.tail.get(start..start.checked_add(magic.len())?))
            == Some(magic)
    }
}

#[cfg(test)]
mod tests;
