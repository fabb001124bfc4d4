//! The stairwell: the only place that knows container, partition and volume together.
//!
//! In: a device that is the image file (or an overlay over it). Out: [`Image`]: volumes as file
//! trees, each with its way down the address ladder.
//! Knows: container, partition, volume, device, tree. Facts from: those rooms.
//! Never: knows what a Windows is; writes.

use std::{ops::Range, path::Path, sync::Arc};

use crate::{
    container::{self, Facts, Places, ScanOnly, Writer},
    device::{Access, Device, HostFile, HostSet, Memory, Neighbours, Slice},
    error::{Error, Kind, Result},
    partition::{self, Scheme, Slot, Table},
    tree::{Extent, FileEntry, FileId, FileTree, Storage},
    units::{DiskOffset, FileOffset, ImageOffset, VolumeOffset},
    volume::{self, exfat::Exfat, fat::Fat, ntfs::Ntfs},
};

pub use volume::directory;
use volume::directory::Directory;

/// Which images of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageIndex {
    /// Every one.
    All,
    /// Only this one, counted from 1.
    One(u32),
}

/// How to open.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--format`: take this container format without asking the probes.
    pub format: Option<String>,
    /// `--partition`: only this one.
    pub partition: Option<u32>,
    /// `--image-index`: this image of an archive, or all.
    pub image_index: Option<ImageIndex>,
    /// Where files that the image names may come from.
    pub near: Arc<Neighbours>,
}

/// An image file, opened down to its volumes.
#[derive(Debug)]
pub struct Image {
    /// Container format, e.g. "raw".
    pub format: &'static str,
    /// By what the format was recognised.
    pub evidence: String,
    /// Remarks of the container and partition rooms.
    pub notes: Vec<String>,
    /// Length of the image file in bytes, or of all its files together.
    pub file_len: u64,
    /// Length of the disk inside in bytes.
    pub disk_len: u64,
    /// The partition table (one slot for a disk that is one volume).
    pub table: Table,
    /// Everything in the table, readable or not.
    pub volumes: Vec<Volume>,
    /// The image file, or the overlay over it.
    pub file: Device,
    /// The disk.
    pub disk: Device,
    /// Where the disk's bytes lie in the file.
    pub places: Places,
    /// Why the container may be looked at and not written, if so.
    pub scan_only: Option<ScanOnly>,
    /// What writes the archive, if it is one: its volumes are its images.
    pub writer: Option<Writer>,
    /// Whether the disk's bytes are not the file's: the disk is searched instead.
    pub opaque: bool,
    /// What a report shows of the container.
    pub facts: Facts,
    /// The directory of the host, if it is one: its only volume is a file tree without a disk.
    pub directory: Option<Arc<Directory>>,
}

/// What a directory of the host is as a volume.
pub const UNIT_DIRECTORY: &str = "directory";
const UNIT_IMAGE: &str = "image";
const UNIT_PARTITION: &str = "partition";
/// Bytes of the head of a disk by which it is recognised.
const HEAD_LEN: usize = 512;

/// One slot of the partition table with what is in it.
#[derive(Debug)]
pub struct Volume {
    /// Partition number as users count, from 1; in an archive the image's.
    pub partition: u32,
    /// What the number counts: "partition", "image" or "directory".
    pub unit: &'static str,
    /// First byte in the disk.
    pub start: DiskOffset,
    /// Length in bytes.
    pub len: u64,
    /// Type as the partition table has it.
    pub slot_kind: String,
    /// Name in the partition table.
    pub slot_name: Option<String>,
    /// File system, as a person calls it.
    pub filesystem: String,
    /// The file system, if it was looked for.
    pub kind: Option<volume::Kind>,
    /// The files, if declone can read them.
    pub content: Content,
    /// Where the disk's bytes lie in the file.
    pub places: Places,
    /// Whether it is known to hold nothing of its own: a reserved partition of zeros, a slot that only
    /// stands for others.
    pub blank: bool,
}

/// What can be done with a volume.
#[derive(Debug)]
pub enum Content {
    /// Its files can be read.
    Files(Box<dyn FileTree>),
    /// Known not to be a place for Windows files that declone handles; with the reason.
    Closed(String),
    /// It should have been readable and is not.
    Broken(Error),
    /// Not looked at because the user chose another partition.
    Skipped,
}

impl Volume {
    /// The file tree, if there is one.
    #[must_use]
    pub fn tree(&self) -> Option<&dyn FileTree> {
        match &self.content {
            Content::Files(tree) => Some(tree.as_ref()),
            _ => None,
        }
    }

    /// Whether it is an image of an archive or a directory: its files have no place in a disk.
    #[must_use]
    pub fn is_image(&self) -> bool {
        self.unit != UNIT_PARTITION
    }

    /// Whether all of it is encrypted (BitLocker).
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.kind == Some(volume::Kind::BitLocker)
    }

    /// Whether it is an NTFS volume.
    #[must_use]
    pub fn is_ntfs(&self) -> bool {
        self.kind == Some(volume::Kind::Ntfs)
    }

    /// Whether it is a FAT volume.
    #[must_use]
    pub fn is_fat(&self) -> bool {
        self.kind == Some(volume::Kind::Fat)
    }

    /// Whether files are recorded in directories (FAT, exFAT), not in a table of records.
    #[must_use]
    pub fn has_entries(&self) -> bool {
        matches!(self.kind, Some(volume::Kind::Fat | volume::Kind::Exfat))
    }

    /// What the records of files are, and what this one is called: by its number, or by its offset
    /// in the volume where it has none.
    #[must_use]
    pub fn record_name(&self, number: u64) -> (&'static str, String) {
        match self.has_entries() {
            true => ("directory entry", volume::entry_place(number)),
            false => ("file record", number.to_string()),
        }
    }

    /// Down the ladder: volume to disk.
    #[must_use]
    pub fn disk_offset(&self, at: VolumeOffset) -> Option<DiskOffset> {
        self.start.checked_add(at.get())
    }

    /// Down the ladder: volume to image file, if the container has room for that byte.
    #[must_use]
    pub fn image_offset(&self, at: VolumeOffset) -> Option<ImageOffset> {
        let disk = self.disk_offset(at)?;
        self.places.file_offset(disk.get()).map(ImageOffset)
    }

    /// Where a search finds a byte of the volume; beyond every file if a parent's disk shows it
    /// ([`Self::is_below`]).
    #[must_use]
    pub fn hit_offset(&self, at: VolumeOffset) -> Option<ImageOffset> {
        let disk = self.disk_offset(at)?;
        self.places.hit_offset(disk.get()).map(ImageOffset)
    }

    /// Whether what a search found lies in another file, below this one.
    #[must_use]
    pub fn is_below(at: ImageOffset) -> bool {
        at.get() >= container::BELOW
    }

    /// Up the ladder: image file to volume, if the disk shows the byte and it lies in this volume.
    #[must_use]
    pub fn volume_offset(&self, at: ImageOffset) -> Option<VolumeOffset> {
        let disk = self.places.disk_offset(at.get())?;
        let inside = disk.checked_sub(self.start.get())?;
        (inside < self.len).then_some(VolumeOffset(inside))
    }

    /// Up the ladder with whole ranges: those parts that lie in this volume.
    #[must_use]
    pub fn volume_ranges(&self, image: &[Range<u64>]) -> Vec<Range<u64>> {
        let start = self.start.get();
        let end = start.saturating_add(self.len);
        self.places
            .disk_ranges(image)
            .iter()
            .map(|range| range.start.max(start)..range.end.min(end))
            .filter(|range| range.start < range.end)
            .map(|range| range.start - start..range.end - start)
            .collect()
    }

    /// Where a byte of a file lies in the volume, `None` in a hole or past the end.
    pub fn place_of(&self, id: FileId, at: FileOffset) -> Result<Option<VolumeOffset>> {
        let Some(tree) = self.tree() else {
            return Ok(None);
        };
        Ok(place_in(&tree.extents(id)?, at))
    }

    /// An error from inside this volume, with the rungs below: partition, disk and image offset.
    #[must_use]
    pub fn climb(&self, error: Error) -> Error {
        let inside = error
            .trail()
            .iter()
            .rev()
            .find(|place| place.space == "volume offset")
            .and_then(|place| u64::from_str_radix(place.value.trim_start_matches("0x"), 16).ok())
            .map(VolumeOffset);
        let mut error = error.at(self.unit, self.partition);
        if self.is_image() {
            return error;
        }
        if let Some(at) = inside.and_then(|at| self.disk_offset(at)) {
            error = error.at("disk offset", at);
        }
        match inside.and_then(|at| self.image_offset(at)) {
            Some(at) => error.at("image offset", at),
            None => error,
        }
    }
}

/// Where a byte of a stream with these extents lies in the volume.
#[must_use]
pub fn place_in(extents: &[Extent], at: FileOffset) -> Option<VolumeOffset> {
    extents.iter().find_map(|extent| {
        let inside = at.get().checked_sub(extent.file_offset.get())?;
        if inside < extent.len {
            extent.volume_offset?.checked_add(inside)
        } else {
            None
        }
    })
}

/// Opens the file at `path` for a use, and with it the files of which its format says that they belong
/// to it.
pub fn open_files(path: &Path, access: Access, options: &Options) -> Result<Arc<HostSet>> {
    let first = Arc::new(HostFile::open_for(path, access)?);
    gather(first, access, options)
}

/// As [`open_files`], with a first file that is open already.
pub fn gather(first: Arc<HostFile>, access: Access, options: &Options) -> Result<Arc<HostSet>> {
    let host: Device = Arc::clone(&first) as Device;
    let names = container::files(&host, options.format.as_deref(), &options.near)?;
    let others = options.near.open_members(names, access)?;
    HostSet::of(first, others).map(Arc::new)
}

/// Opens an image down to its volumes. A volume that cannot be read is not an error: the others
/// may be fine, and `scan` names the reason.
pub fn open(file: Device, options: &Options) -> Result<Image> {
    let span = file.len();
    let opened = container::open(Arc::clone(&file), options.format.as_deref(), &options.near)?;
    let mut opened = opened;
    let mut writer = None;
    let only = chosen(opened.archive.is_some(), options)?;
    let (table, volumes) = match opened.archive.take() {
        Some(archive) => {
            writer = Some(archive.writer());
            (Table::none(), open_images(&opened, span, archive, only))
        }
        None => {
            let table = partition::read(&opened.disk)?;
            let mut volumes = Vec::new();
            for slot in &table.slots {
                volumes.push(open_slot(&opened, slot, options)?);
            }
            let outside = table.slots.iter().filter_map(|slot| {
                let past = slot
                    .start
                    .checked_add(slot.len)?
                    .checked_sub(opened.virtual_len)?;
                (past > 0).then_some((slot.number, past))
            });
            // What a disk lacks lies beside it, if it is a part of a split one.
            let outside: Vec<String> = outside
                .map(|(number, past)| {
                    format!("partition {number} reaches {past} bytes past the end of the disk")
                })
                .collect();
            if let Some(first) = outside.first() {
                opened
                    .notes
                    .push(match container::parts_advice(&options.near) {
                        Some(parts) => format!("{first}: {parts}"),
                        None => format!("{first}: the image is incomplete"),
                    });
            }
            (table, volumes)
        }
    };
    if let Some(number) = only
        && !volumes.iter().any(|volume| volume.partition == number)
    {
        let known: Vec<String> = volumes.iter().map(|v| v.partition.to_string()).collect();
        return Err(Error::new(
            Kind::Usage,
            format!(
                "{}: one of {} expected, found {number}",
                match writer {
                    Some(_) => "--image-index",
                    None => "--partition",
                },
                known.join(", ")
            ),
        ));
    }
    Ok(Image {
        format: opened.format,
        evidence: opened.evidence,
        notes: opened.notes,
        file_len: opened.file_len,
        disk_len: opened.virtual_len,
        table,
        volumes,
        file,
        disk: opened.disk,
        places: opened.places,
        scan_only: opened.scan_only,
        writer,
        opaque: opened.opaque,
        facts: opened.facts,
        directory: None,
    })
}

/// A directory of the host as an image with one volume that has no place on a disk.
#[must_use]
pub fn of_directory(directory: &Arc<Directory>) -> Image {
    let nothing: Device = Arc::new(Memory::new(Vec::new()));
    let mounted = directory.mounted();
    Image {
        format: UNIT_DIRECTORY,
        evidence: format!("in a file system {} on {}", mounted.kind, mounted.source),
        notes: Vec::new(),
        file_len: 0,
        disk_len: 0,
        table: Table::directory(),
        volumes: vec![Volume {
            partition: 1,
            unit: UNIT_DIRECTORY,
            start: DiskOffset(0),
            len: 0,
            slot_kind: "mounted, or a copy".to_owned(),
            slot_name: None,
            filesystem: mounted.kind,
            kind: None,
            content: Content::Files(directory.tree()),
            places: Places::none(),
            blank: false,
        }],
        file: Arc::clone(&nothing),
        disk: nothing,
        places: Places::none(),
        scan_only: None,
        writer: None,
        opaque: false,
        facts: Facts::default(),
        directory: Some(Arc::clone(directory)),
    }
}

/// The number that `--partition` or `--image-index` names, each for what it is meant for.
fn chosen(archive: bool, options: &Options) -> Result<Option<u32>> {
    let wrong = |what: &str, advice: &str| Err(Error::new(Kind::Usage, what).advise(advice));
    match (archive, options.partition, options.image_index) {
        (true, Some(_), _) => wrong(
            "--partition: a disk expected, found an archive",
            "--image-index N chooses an image of it",
        ),
        (false, _, Some(_)) => wrong(
            "--image-index: an archive expected, found a disk",
            "--partition N chooses a partition of it",
        ),
        (true, None, Some(ImageIndex::One(number))) => Ok(Some(number)),
        (true, None, _) => Ok(None),
        (false, number, None) => Ok(number),
    }
}

/// The images of an archive, each as a volume that begins where the file begins.
fn open_images(
    opened: &container::Opened,
    span: u64,
    archive: container::Archive,
    only: Option<u32>,
) -> Vec<Volume> {
    let chosen = |number| only.is_none_or(|only| only == number);
    archive
        .images
        .into_iter()
        .map(|image| Volume {
            partition: image.number,
            unit: UNIT_IMAGE,
            start: DiskOffset(0),
            len: span.max(opened.virtual_len),
            slot_kind: match image.about.is_empty() {
                true => "image".to_owned(),
                false => format!("image of {}", image.about),
            },
            slot_name: image.name,
            filesystem: image.tree.label(),
            kind: None,
            content: match chosen(image.number) {
                true => Content::Files(image.tree),
                false => Content::Skipped,
            },
            places: opened.places.clone(),
            blank: false,
        })
        .collect()
}

impl Image {
    /// The disk's first sector, without what a clean may change in it; none for an archive or a directory.
    #[must_use]
    pub fn lasting_head(&self) -> Option<Vec<u8>> {
        if matches!(self.table.scheme, Scheme::Archive | Scheme::Directory) {
            return None;
        }
        let mut head = vec![0; HEAD_LEN];
        self.disk.read_at(0, &mut head).ok()?;
        let volume = self.volumes.first().filter(|_| self.is_whole_disk());
        if volume.is_some_and(|volume| volume.kind == Some(volume::Kind::Exfat)) {
            for at in volume::exfat::format::boot::NOT_SUMMED {
                *head.get_mut(at)? = 0;
            }
        }
        Some(head)
    }

    /// The names of files beside the image that are the changes to it: writing to it breaks them.
    pub fn children(&self, near: &Neighbours) -> Result<Vec<String>> {
        container::children(&self.facts, near)
    }
}

fn open_slot(opened: &container::Opened, slot: &Slot, options: &Options) -> Result<Volume> {
    let mut volume = Volume {
        partition: slot.number,
        unit: UNIT_PARTITION,
        start: DiskOffset(slot.start),
        len: slot.len,
        slot_kind: slot.kind.clone(),
        slot_name: slot.name.clone(),
        filesystem: "not looked at".to_owned(),
        kind: None,
        content: Content::Skipped,
        places: opened.places.clone(),
        blank: false,
    };
    let disk = &opened.disk;
    if options
        .partition
        .is_some_and(|number| number != slot.number)
    {
        return Ok(volume);
    }
    if let Some(reason) = &slot.skip {
        volume.content = Content::Closed(reason.clone());
        volume.blank = slot.is_hollow() || is_blank(disk, slot)?;
        return Ok(volume);
    }
    let inside = disk.len().saturating_sub(slot.start).min(slot.len);
    let device: Device = Arc::new(Slice::new(disk.clone(), slot.start, inside)?);
    let probe = match volume::probe(&device) {
        Ok(probe) => probe,
        Err(error) => {
            volume.content = Content::Broken(volume.climb(error));
            return Ok(volume);
        }
    };
    volume.filesystem = probe.kind.name().to_owned();
    volume.kind = Some(probe.kind);
    volume.content = match probe.kind {
        volume::Kind::Ntfs => match Ntfs::open(device) {
            Ok(ntfs) => {
                volume.filesystem = ntfs.label();
                Content::Files(Box::new(ntfs))
            }
            Err(error) => Content::Broken(volume.climb(error)),
        },
        volume::Kind::Fat => match Fat::open(device) {
            Ok(fat) => {
                volume.filesystem = fat.label();
                Content::Files(Box::new(fat))
            }
            Err(error) => Content::Broken(volume.climb(error)),
        },
        volume::Kind::Exfat => match Exfat::open(device) {
            Ok(exfat) => Content::Files(Box::new(exfat)),
            Err(error) => Content::Broken(volume.climb(error)),
        },
        kind => {
            volume.blank = kind == volume::Kind::Unknown && is_blank(disk, slot)?;
            Content::Closed(match probe.advice {
                Some(advice) => format!("{}; {advice}", probe.evidence),
                None => probe.evidence,
            })
        }
    };
    Ok(volume)
}

/// Most bytes read to find out whether a partition holds anything: reserved ones of Windows have 16 or
/// 128 MiB, and one that a person forgot is worth a word.
const BLANK_LIMIT: u64 = 256 << 20;

/// Whether a slot that lies whole in the disk holds nothing but zeros.
fn is_blank(disk: &Device, slot: &Slot) -> Result<bool> {
    let Some(end) = slot
        .start
        .checked_add(slot.len)
        .filter(|end| *end <= disk.len())
    else {
        return Ok(false);
    };
    let (mut at, mut read) = (slot.start, 0_u64);
    let mut buffer = vec![0; 1 << 20];
    while at < end
        && let Some(data) = disk.next_data(at)?
    {
        at = data.start.max(at);
        let stop = data.end.min(end);
        while at < stop {
            let len = (stop - at).min(buffer.len() as u64);
            read = read.saturating_add(len);
            if read > BLANK_LIMIT {
                return Ok(false);
            }
            let piece = &mut buffer[..len as usize];
            disk.read_at(at, piece)?;
            if !crate::bytes::all_zero(piece) {
                return Ok(false);
            }
            at += len;
        }
    }
    Ok(true)
}

/// Largest hive that is read into memory. A hive can hold 2 GiB at most: its cells are addressed by
/// 31 bits (`shared/facts/hive.md` section 1).
const HIVE_LIMIT: u64 = 2 << 30;

/// Largest compressed or sparse hive that is read: there the length is not backed by clusters.
const SQUEEZED_LIMIT: u64 = 256 << 20;

/// From this length on a file is read by two threads.
const PARALLEL_LEN: usize = 8 << 20;

/// The whole of a file that is read into memory at once: a hive.
pub fn read_whole(tree: &dyn FileTree, entry: &FileEntry) -> Result<Vec<u8>> {
    let limit = match entry.storage {
        Storage::Plain | Storage::Resident => HIVE_LIMIT,
        _ => SQUEEZED_LIMIT,
    };
    let too_long = || {
        Error::limit(format!(
            "hive: at most {limit} bytes expected, found {}",
            entry.len
        ))
        .at("file", entry.path())
    };
    let len = usize::try_from(entry.len.min(limit.saturating_add(1))).map_err(|_| too_long())?;
    if entry.len > limit {
        return Err(too_long());
    }
    let mut bytes = Vec::<u8>::new();
    bytes.try_reserve_exact(len).map_err(|_| too_long())?;
    drop(bytes);
    // Zeroed by the kernel page by page, not twice.
    let mut bytes = vec![0; len];
    // Copying out of the page cache is what a large hive costs; there are two cores.
    let half = match len >= PARALLEL_LEN && !tree.is_read_in_order(entry.id)? {
        true => len / 2,
        false => 0,
    };
    let (front, back) = bytes.split_at_mut(half);
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| match front.is_empty() {
            true => Ok(()),
            false => tree.read_at(entry.id, FileOffset(0), front),
        });
        let mine = tree.read_at(entry.id, FileOffset(half as u64), back);
        (other.join(), mine)
    });
    first.map_err(|_| Error::internal("hive: the reading thread died"))??;
    second?;
    Ok(bytes)
}

impl Image {
    /// The bytes of one volume, as far as the image file has them.
    pub fn volume_device(&self, volume: &Volume) -> Result<Device> {
        let start = volume.start.get();
        let len = self.disk.len().saturating_sub(start).min(volume.len);
        Ok(Arc::new(Slice::new(self.disk.clone(), start, len)?))
    }

    /// Whether the disk is one volume without a table.
    #[must_use]
    pub fn is_whole_disk(&self) -> bool {
        self.table.scheme == Scheme::WholeDisk
    }
}
