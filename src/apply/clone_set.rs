//! `-o OUT` for an image of several files: a temporary directory beside OUT, in which each file is
//! cloned and patched under its own name, and one rename of the directory: all of them, or nothing.

use std::{
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

use super::{
    clone::{Method, Output},
    interrupt::{self, Scratch},
};
use crate::{
    device::{HostFile, HostSet, Patch},
    error::{At, Error, Kind, Result},
    text::escape,
};

/// A temporary directory that becomes OUT. Dropped before [`OutputSet::finish`], or when a signal ends
/// the program before that, it is removed with everything that was made in it.
#[derive(Debug)]
pub struct OutputSet {
    parent: OwnedFd,
    dir: OwnedFd,
    temporary: String,
    path: PathBuf,
    name: String,
    shown: String,
    made: Vec<String>,
    finished: bool,
    /// Unregistered when these go; the files behind the directory.
    scratch: Vec<Scratch>,
}

fn io(what: impl std::fmt::Display, error: rustix::io::Errno) -> Error {
    Error::io(what, &error.into())
}

/// Where OUT is to be: its directory, its name, and how both are shown.
fn place(set: &HostSet, out: &Path) -> Result<(OwnedFd, String, String)> {
    let shown = escape(&out.display().to_string());
    let usage = |what: &str| {
        Error::new(Kind::Usage, format!("-o {shown}: {what}")).advise(
            "the image is several files, and its copy is a directory of them, which is never \
             replaced: choose a new name; the disk in a disk image can be cleaned into one file \
             (--to raw)",
        )
    };
    let name = out
        .file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .ok_or_else(|| usage("the name of a new directory in UTF-8 expected"))?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let dir = rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| io(format!("-o {shown}: open its directory"), e))?;
    match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(io(format!("-o {shown}: look at the name"), e)),
        Ok(_) => return Err(usage("a new directory expected, the name is taken")),
    }
    let mut names = Vec::new();
    let mut need = 0_u64;
    for (_, file) in set.files() {
        use std::os::unix::fs::MetadataExt;
        let name = name_of(file)?;
        if names.contains(&name) {
            return Err(Error::refused(format!(
                "image: files of different names expected for a copy, found `{}` twice",
                escape(&name)
            ))
            .advise("clean the disk inside it into one file (--to raw)"));
        }
        names.push(name);
        let meta = file
            .file()
            .metadata()
            .map_err(|e| Error::io("image: metadata", &e))?;
        need = need.saturating_add(meta.blocks().saturating_mul(512));
    }
    if let Ok(space) = rustix::fs::fstatvfs(&dir) {
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let here = rustix::fs::fstat(&dir).map(|stat| stat.st_dev).ok();
        let there = rustix::fs::fstat(set.first().file())
            .map(|stat| stat.st_dev)
            .ok();
        // A reflink needs next to nothing, but whether it works is known only afterwards.
        if free < need && (here != there || free < 64 << 20) {
            return Err(Error::new(
                Kind::Io,
                format!("-o {shown}: {need} bytes of free space expected, found {free}"),
            ));
        }
    }
    Ok((dir, name, shown))
}

/// A file's own name.
fn name_of(file: &HostFile) -> Result<String> {
    let name = file.path().file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        Error::new(
            Kind::Usage,
            "-o: files whose names are UTF-8 expected, found another",
        )
        .at("file", escape(&file.path().display().to_string()))
    })
}

impl OutputSet {
    /// What can be said about OUT before the expensive part: nothing has its name, and the host has
    /// room for it.
    pub fn precheck(set: &HostSet, out: &Path) -> Result<()> {
        place(set, out).map(drop)
    }

    /// Creates the temporary directory, after [`OutputSet::precheck`].
    pub fn create(set: &HostSet, out: &Path) -> Result<Self> {
        let (parent, name, shown) = place(set, out)?;
        let failed = |e| io(format!("-o {shown}: create a temporary directory"), e);
        for attempt in 0..1000 {
            let start = &name[..name.floor_char_boundary(180)];
            let temporary = format!(".{start}.declone-{}-{attempt}.tmp", std::process::id());
            // No signal between its creation and its registration.
            let hold = interrupt::hold();
            match rustix::fs::mkdirat(&parent, &temporary, Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                Err(e) => {
                    hold.release();
                    if e == rustix::io::Errno::EXIST {
                        continue;
                    }
                    return Err(failed(e));
                }
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&parent, &temporary, flags, Mode::empty())
                .and_then(|dir| Ok((dir, rustix::io::fcntl_dupfd_cloexec(&parent, 0)?)));
            let (dir, own) = match opened {
                Ok(both) => both,
                Err(e) => {
                    rustix::fs::unlinkat(&parent, &temporary, AtFlags::REMOVEDIR).ok();
                    hold.release();
                    return Err(failed(e));
                }
            };
            let scratch = vec![interrupt::scratch_dir(own, temporary.clone())];
            hold.release();
            return Ok(Self {
                path: out.with_file_name(&temporary),
                parent,
                dir,
                temporary,
                name,
                shown,
                made: Vec::new(),
                finished: false,
                scratch,
            });
        }
        Err(Error::new(
            Kind::Io,
            format!("-o {shown}: a thousand temporary directories are in the way"),
        ))
    }

    /// Where a file of the image lies until [`OutputSet::finish`], for reading it back.
    pub fn path_of(&self, file: &HostFile) -> Result<PathBuf> {
        Ok(self.path.join(name_of(file)?))
    }

    /// Clones one file of the image, patches the clone, and makes it durable under its own name.
    /// `patches` and `old`, the digests of what they replace, are those of the whole image; the file
    /// takes its part of the address space, in which it ends after the clean.
    pub fn write(
        &mut self,
        file: &HostFile,
        place: Range<u64>,
        (patches, old): (&[Patch], &[String]),
        tick: &mut dyn FnMut(u64),
    ) -> Result<Method> {
        let name = name_of(file)?;
        let from = patches.partition_point(|patch| patch.offset < place.start);
        let to = patches.partition_point(|patch| patch.offset < place.end);
        let own: Vec<Patch> = patches
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .map(|patch| Patch {
                offset: patch.offset - place.start,
                ..patch.clone()
            })
            .collect();
        let old = old.get(from..to).unwrap_or_default();
        let mut work = || -> Result<Method> {
            let output = Output::create(file, &self.path.join(&name), false)?;
            let method = output.clone_from(file, tick)?;
            output.grow(place.end - place.start)?;
            output.check_old(&own, old)?;
            output.patch(&own)?;
            output.sync_and_check(&own)?;
            output.finish_quietly(file)?;
            Ok(method)
        };
        let dir = self
            .dir
            .try_clone()
            .map_err(|e| Error::io(format!("-o {}: its descriptor", self.shown), &e))?;
        // Registered before it has its name, so that it never stays behind.
        self.scratch.push(interrupt::scratch(dir, name.clone()));
        self.made.push(name.clone());
        work().at("file", escape(&name))
    }

    /// Renames the directory to OUT, durably.
    pub fn finish(mut self) -> Result<()> {
        let failed = |what: &str, e| io(format!("-o {}: {what}", self.shown), e);
        rustix::fs::fsync(self.dir.as_fd()).map_err(|e| failed("fsync", e))?;
        // From here on OUT may be there: a signal must not say that nothing was done.
        let hold = interrupt::hold();
        if let Err(e) = self.rename() {
            let error = failed("give it its name", e);
            drop(self);
            hold.release();
            return Err(error);
        }
        self.finished = true;
        rustix::fs::fsync(self.parent.as_fd()).map_err(|e| {
            io(format!("-o {}: fsync of its directory", self.shown), e)
                .advise("the copy is complete, but its name may be gone after a power cut")
        })
    }

    fn rename(&self) -> rustix::io::Result<()> {
        use rustix::io::Errno;
        let (dir, from, to) = (&self.parent, &self.temporary, &self.name);
        match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // A host file system without it: a rename replaces an empty directory at most.
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(dir, from, dir, to),
            result => result,
        }
    }
}

impl Drop for OutputSet {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for name in &self.made {
            rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()).ok();
        }
        rustix::fs::unlinkat(&self.parent, &self.temporary, AtFlags::REMOVEDIR).ok();
    }
}
