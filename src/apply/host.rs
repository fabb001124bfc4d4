//! The protocol's view of the real host: an image that was opened for writing, and the directory
//! where its journal lies.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};

use super::{
    change::FileLen,
    journal::{self, Bond, BondFile, Role},
    protocol::Host,
};
use crate::{
    device::{Access, BlockDevice, HostFile, HostSet},
    error::{Error, Kind, Result},
    text::escape,
};

/// Added to the image's name.
pub const SUFFIX: &str = ".declone-journal";

/// Where an image's journal lies.
#[derive(Debug)]
pub struct Place {
    dir: OwnedFd,
    journal: OsString,
    temporary: OsString,
    path: PathBuf,
}

impl Place {
    /// Beside a regular file, under its real name so that every symbolic link leads to the same
    /// journal; for a block device where `chosen` says.
    pub fn of(image: &HostFile, chosen: Option<&Path>) -> Result<Self> {
        let beside = |path: &Path| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(SUFFIX);
            path.with_file_name(name)
        };
        let path = match (chosen, image.is_regular()) {
            (None, true) => beside(image.real_path()),
            (Some(path), false) => {
                let path = std::path::absolute(path)
                    .map_err(|e| Error::io("--journal: its directory", &e))?;
                refuse_volatile(&path)?;
                path
            }
            (None, false) => {
                return Err(Error::new(
                    Kind::Usage,
                    "journal: a file expected for a block device, found none",
                )
                .advise("pass --journal FILE, on a disk that survives a power cut"));
            }
            (Some(_), true) => {
                return Err(Error::new(
                    Kind::Usage,
                    "--journal: a block device expected; the journal of a file lies beside it",
                ));
            }
        };
        Self::at(&path)
    }

    /// The journal at `path`.
    fn at(path: &Path) -> Result<Self> {
        let shown = escape(&path.display().to_string());
        let (Some(parent), Some(journal)) = (path.parent(), path.file_name()) else {
            return Err(Error::new(
                Kind::Usage,
                format!("journal {shown}: a file name expected"),
            ));
        };
        let dir = rustix::fs::open(
            parent,
            OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
            Mode::empty(),
        )
        .map_err(|e| Error::io(format!("journal {shown}: open its directory"), &e.into()))?;
        let mut temporary = journal.to_owned();
        temporary.push(".tmp");
        Ok(Self {
            dir,
            journal: journal.to_owned(),
            temporary,
            path: path.to_owned(),
        })
    }

    /// The journal's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a journal (of any kind).
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.stat(&self.journal).is_ok()
    }

    fn stat(&self, name: &OsStr) -> rustix::io::Result<Stat> {
        rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// All bytes of the journal; `None` when there is none.
    pub fn read(&self, image: &HostFile) -> Result<Option<Vec<u8>>> {
        self.read_name(&self.journal, image)
    }

    fn read_name(&self, name: &OsStr, image: &HostFile) -> Result<Option<Vec<u8>>> {
        let shown = escape(&self.path.display().to_string());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => {
                return Err(not_ours(&shown, "found a symbolic link"));
            }
            Err(e) => return Err(Error::io(format!("journal {shown}: open"), &e.into())),
        };
        let failed = |e: &io::Error| Error::io(format!("journal {shown}: read"), e);
        let stat = rustix::fs::fstat(&file).map_err(|e| failed(&e.into()))?;
        let owner = image.file().metadata().map_err(|e| failed(&e))?.uid();
        check_ours(&stat, owner).map_err(|found| not_ours(&shown, found))?;
        let len = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if len > journal::MAX_LEN {
            return Err(Error::malformed(format!(
                "journal {shown}: at most {} bytes expected, found {len}",
                journal::MAX_LEN
            )));
        }
        let mut bytes = Vec::new();
        // One more than it should have: a file that grows meanwhile does not fit its digest.
        io::Read::read_to_end(&mut io::Read::take(file, len.saturating_add(1)), &mut bytes)
            .map_err(|e| failed(&e))?;
        Ok(Some(bytes))
    }
}

/// Most journals in a directory that are looked into.
const JOURNALS_LIMIT: usize = 1000;

/// The journal of another file in the same directory that waits to write this one: the file belongs to
/// an image of several.
pub fn pending_elsewhere(file: &HostFile) -> Result<Option<PathBuf>> {
    let real = file.real_path();
    let (Some(dir), Some(own), true) = (real.parent(), real.file_name(), file.is_regular()) else {
        return Ok(None);
    };
    let Ok(listed) = std::fs::read_dir(dir) else {
        // Entered without a right to list it: journals of others are not seen, nor needed so far.
        return Ok(None);
    };
    let meta = file
        .file()
        .metadata()
        .map_err(|e| Error::io("image: metadata", &e))?;
    let mut looked = 0;
    for entry in listed.flatten() {
        let name = entry.file_name();
        let bytes = name.as_bytes();
        let Some(image) = bytes.strip_suffix(SUFFIX.as_bytes()) else {
            continue;
        };
        if image == own.as_bytes() || looked >= JOURNALS_LIMIT {
            continue;
        }
        looked += 1;
        let path = dir.join(&name);
        let Some(bond) = Place::at(&path)?.front(file) else {
            continue;
        };
        let is = |other: &BondFile| {
            other.name == own.as_bytes() || (other.device, other.inode) == (meta.dev(), meta.ino())
        };
        if bond.files.iter().any(is) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Opens the files that a journal or undo file names, for writing, with the starts that it gives them.
/// `Refused` if one is missing.
pub fn open_bonded(first: Arc<HostFile>, bond: &Bond) -> Result<HostSet> {
    let dir = first
        .real_path()
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned();
    let mut others = Vec::new();
    for file in bond.files.iter().skip(1) {
        let name = OsStr::from_bytes(&file.name);
        let shown = escape(&name.to_string_lossy());
        let opened = HostFile::open_unlinked(&dir.join(name), Access::InPlace).map_err(
            |error| match error.kind() {
                Kind::Io => Error::refused(format!(
                    "image: its file {shown} beside it expected, {}",
                    error.what()
                ))
                .advise("put all files of the image back into one directory, under their names"),
                _ => error,
            },
        )?;
        others.push((shown, file.len.start, Arc::new(opened)));
    }
    HostSet::placed(first, others)
}

impl Place {
    /// What stands at the beginning of a journal that is one of ours; of anything else nothing.
    fn front(&self, image: &HostFile) -> Option<Bond> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, &self.journal, flags, Mode::empty()).ok()?;
        let file = File::from(fd);
        let owner = image.file().metadata().ok()?.uid();
        check_ours(&rustix::fs::fstat(&file).ok()?, owner).ok()?;
        let mut header = vec![0; journal::HEADER_LEN];
        file.read_exact_at(&mut header, 0).ok()?;
        let mut bytes = vec![0; journal::bond_len(Role::Journal, &header)?];
        file.read_exact_at(&mut bytes, 0).ok()?;
        journal::read_bond(Role::Journal, &bytes).ok()
    }
}

/// A journal must be one of ours: only then may it decide what is written.
fn check_ours(stat: &Stat, image_owner: u32) -> std::result::Result<(), &'static str> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("found something that is no file");
    }
    if stat.st_nlink != 1 {
        return Err("found a file with more than one name");
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() && stat.st_uid != image_owner {
        return Err("found a file of another owner");
    }
    if stat.st_mode & 0o022 != 0 {
        return Err("found a file that others may write");
    }
    Ok(())
}

fn not_ours(shown: &str, found: &str) -> Error {
    Error::refused(format!(
        "journal {shown}: a file that only its owner may write expected, {found}"
    ))
    .advise("declone did not make it; move it away if it is not yours")
}

/// A journal in memory is gone when it is needed.
fn refuse_volatile(path: &Path) -> Result<()> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let stat = rustix::fs::statfs(parent)
        .map_err(|e| Error::io("--journal: its file system", &e.into()))?;
    if [TMPFS, RAMFS].contains(&(stat.f_type as u64)) {
        return Err(Error::new(
            Kind::Usage,
            "--journal: a file system on a disk expected, found one in memory",
        )
        .advise("a journal must survive a power cut; choose another place"));
    }
    Ok(())
}

/// The image and its journal's place.
#[derive(Debug)]
pub struct InPlace {
    image: Arc<HostSet>,
    place: Place,
    open: Option<File>,
}

impl InPlace {
    /// Over an image whose files were opened for writing; the journal lies beside the first.
    pub fn new(image: Arc<HostSet>, place: Place) -> Self {
        Self {
            image,
            place,
            open: None,
        }
    }

    /// Takes other files for the same image: those that a journal names, or that its format does.
    pub fn set_image(&mut self, image: Arc<HostSet>) {
        self.image = image;
    }

    /// Where the journal lies.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Refuses files that a recovery would not find: those of a set are beside the first.
    pub fn check_beside(image: &HostSet) -> Result<()> {
        let dir = image.first().real_path().parent();
        for (number, (_, file)) in image.files().enumerate() {
            if file.real_path().parent() != dir {
                return Err(Error::refused(
                    "image: all its files in one directory expected for a change in place, found \
                     one elsewhere",
                )
                .at("file", escape(image.name(number)))
                .advise("put them into one directory, or clean a copy with -o OUT"));
            }
        }
        Ok(())
    }

    /// What binds a journal or undo file to this image. `files` are those of the change.
    pub fn bond(&self, files: &[FileLen]) -> Result<Bond> {
        let metadata = |file: &HostFile| {
            file.file()
                .metadata()
                .map_err(|e| Error::io("image: metadata", &e))
        };
        let first = self.image.first();
        let meta = metadata(first)?;
        let mut bond = Bond {
            image_len: first.len(),
            device: meta.dev(),
            inode: meta.ino(),
            path: first.real_path().as_os_str().as_bytes().to_vec(),
            files: Vec::new(),
        };
        if matches!(files, [only] if only.old == only.new) {
            return Ok(bond);
        }
        Self::check_beside(&self.image)?;
        for ((_, file), len) in self.image.files().zip(files) {
            let meta = metadata(file)?;
            let name = file.real_path().file_name().unwrap_or_default();
            bond.files.push(BondFile {
                name: name.as_bytes().to_vec(),
                device: meta.dev(),
                inode: meta.ino(),
                len: *len,
            });
        }
        Ok(bond)
    }

    /// The file in which a byte lies, and its offset there.
    fn at(&self, offset: u64) -> io::Result<(&File, u64)> {
        let (number, inside) = self
            .image
            .locate(offset)
            .ok_or_else(|| io::Error::other("no file of the image has this byte"))?;
        Ok((self.file(number)?.file(), inside))
    }

    fn file(&self, number: usize) -> io::Result<&Arc<HostFile>> {
        let file = self.image.files().nth(number);
        file.map(|(_, file)| file)
            .ok_or_else(|| io::Error::other("no such file of the image"))
    }

    /// Makes sure that the host has room for a part of a file, which becomes longer by it.
    fn reserve(file: &File, from: u64, to: u64) -> io::Result<()> {
        use rustix::io::Errno;
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(file, flags, from, to.saturating_sub(from)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            done => return Ok(done?),
        }
        // A host file system without preallocation: what is written has its room.
        let zeros = vec![0; 1 << 20];
        let mut at = from;
        while at < to {
            let take = (to - at).min(zeros.len() as u64);
            let piece = zeros.get(..take as usize).unwrap_or(&zeros);
            file.write_all_at(piece, at)?;
            at += take;
        }
        Ok(())
    }
}

impl Host for InPlace {
    fn lens(&mut self) -> io::Result<Vec<u64>> {
        self.image
            .files()
            .map(|(_, file)| match file.is_regular() {
                true => Ok(file.file().metadata()?.len()),
                false => Ok(file.len()),
            })
            .collect()
    }

    fn set_len(&mut self, file: usize, len: u64) -> io::Result<()> {
        let file = self.file(file)?.file();
        let now = file.metadata()?.len();
        if len > now {
            Self::reserve(file, now, len)?;
        }
        file.set_len(len)
    }

    fn read_image(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (file, at) = self.at(offset)?;
        file.read_exact_at(buf, at)
    }

    fn write_image(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, at) = self.at(offset)?;
        file.write_all_at(bytes, at)
    }

    fn sync_image(&mut self, file: usize) -> io::Result<()> {
        self.file(file)?.file().sync_all()
    }

    fn forget_image(&mut self, offset: u64, len: u64) {
        let Ok((file, at)) = self.at(offset) else {
            return;
        };
        // Advice only; where it is not taken, the cached copy is compared.
        rustix::fs::fadvise(
            file,
            at,
            std::num::NonZeroU64::new(len),
            rustix::fs::Advice::DontNeed,
        )
        .ok();
    }

    fn create_temporary(&mut self, len: u64) -> io::Result<()> {
        self.remove_temporary()?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &self.place.dir,
            &self.place.temporary,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len) {
            // A host file system without preallocation finds out at the fsync.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(e) => {
                drop(file);
                self.remove_temporary().ok();
                return Err(e.into());
            }
        }
        self.open = Some(file);
        Ok(())
    }

    fn append_temporary(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.open {
            Some(file) => io::Write::write_all(file, bytes),
            None => Err(io::Error::other("no temporary journal is open")),
        }
    }

    fn sync_journal(&mut self) -> io::Result<()> {
        match &self.open {
            Some(file) => file.sync_all(),
            None => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file =
                    rustix::fs::openat(&self.place.dir, &self.place.journal, flags, Mode::empty())?;
                File::from(file).sync_all()
            }
        }
    }

    fn publish(&mut self) -> io::Result<()> {
        let dir = &self.place.dir;
        let (from, to) = (&self.place.temporary, &self.place.journal);
        match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // A host without it: the image's lock keeps others out, so a look is enough.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                if self.place.is_taken() {
                    return Err(rustix::io::Errno::EXIST.into());
                }
                rustix::fs::renameat(dir, from, dir, to)?;
            }
            other => other?,
        }
        self.open = None;
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.place.dir)?)
    }

    fn remove_temporary(&mut self) -> io::Result<()> {
        let made_here = self.open.take().is_some();
        let stat = match self.place.stat(&self.place.temporary) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let owner = self.image.first().file().metadata()?.uid();
        if let Err(found) = check_ours(&stat, owner)
            && !made_here
        {
            return Err(io::Error::other(format!(
                "{}: a temporary file of declone expected, {found}",
                escape(&self.place.temporary.to_string_lossy())
            )));
        }
        Ok(rustix::fs::unlinkat(
            &self.place.dir,
            &self.place.temporary,
            AtFlags::empty(),
        )?)
    }

    fn remove_journal(&mut self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.place.dir,
            &self.place.journal,
            AtFlags::empty(),
        )?)
    }

    fn read_journal(&mut self) -> Result<Option<Vec<u8>>> {
        self.place.read(self.image.first())
    }

    fn read_temporary(&mut self) -> Result<Option<Vec<u8>>> {
        self.place
            .read_name(&self.place.temporary, self.image.first())
    }
}
