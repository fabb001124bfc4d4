//! Files that an image names: parents, extents, backing files.
//!
//! Who made the image chose the names, so they are not believed: a name is one file in the image's
//! own directory, or one of those that the user allowed, and nothing else is opened.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Access, HostFile};
use crate::{
    error::{Error, Result},
    text::escape,
};

/// Where the files that an image names may come from. The default allows none.
#[derive(Debug, Default)]
pub struct Neighbours {
    /// The image itself.
    image: Option<PathBuf>,
    /// Files anywhere that the user allowed.
    allowed: Vec<PathBuf>,
    /// Those that were opened: once each, so that locks and failed reads are kept.
    opened: Mutex<Vec<(PathBuf, Arc<HostFile>)>>,
    /// Those that belong to the image: opened with it, not here.
    members: Mutex<Vec<PathBuf>>,
}

impl Neighbours {
    /// The neighbours of an image: its directory, and these files.
    #[must_use]
    pub fn of(image: &Path, allowed: &[PathBuf]) -> Self {
        Self {
            image: Some(image.to_owned()),
            allowed: allowed.to_vec(),
            opened: Mutex::default(),
            members: Mutex::default(),
        }
    }

    /// Opens the file of this name for reading.
    ///
    /// `Refused` if the name is not a plain one and no allowed file ends like it, if the file is a
    /// symbolic link, not there, or no regular file.
    pub fn open(&self, name: &str) -> Result<Arc<HostFile>> {
        let path = self.path_of(name)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = opened.iter().find(|(known, _)| *known == path) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(HostFile::open_unlinked(&path, Access::Look)?);
        opened.push((path, Arc::clone(&file)));
        Ok(file)
    }

    /// Opens the files that belong to the image, as the image itself is opened; they are not remembered.
    /// Fails as [`Neighbours::open`] does, and if two names are of one file.
    pub fn open_members(
        &self,
        names: Vec<String>,
        access: Access,
    ) -> Result<Vec<(String, Arc<HostFile>)>> {
        let mut paths = Vec::with_capacity(names.len());
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let mut seen = HashSet::new();
        let image = self.image.as_deref().map(std::fs::metadata);
        seen.extend(image.and_then(|meta| meta.ok()).map(identity));
        for name in &names {
            let path = self.path_of(name)?;
            // Of a link itself: where it leads is not even asked, and it is refused below.
            let meta = path.symlink_metadata();
            if meta.is_ok_and(|meta| !seen.insert(identity(meta))) {
                return Err(Error::refused(
                    "image: a file of its own for each name expected, found one twice",
                )
                .at("file", escape(name)));
            }
            paths.push(path);
        }
        let opened: Result<Vec<_>> = names
            .into_iter()
            .zip(&paths)
            .map(|(name, path)| Ok((name, Arc::new(HostFile::open_unlinked(path, access)?))))
            .collect();
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = paths;
        opened
    }

    /// Whether the file of this name beside the image belongs to it.
    #[must_use]
    pub fn is_member(&self, name: &str) -> bool {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let beside = self.directory().map(|dir| dir.join(name));
        beside.is_some_and(|path| members.contains(&path))
    }

    /// The image's own name, without the directory.
    #[must_use]
    pub fn own_name(&self) -> Option<&str> {
        self.image.as_deref()?.file_name()?.to_str()
    }

    /// Whether a file is the image itself.
    #[must_use]
    pub fn is_image(&self, file: &HostFile) -> bool {
        let image = self.image.as_deref().map(std::fs::canonicalize);
        matches!(image, Some(Ok(real)) if real == file.real_path())
    }

    /// Whether a path is one of the files that were opened here: a new file must not take its place.
    #[must_use]
    pub fn has_opened(&self, path: &Path) -> bool {
        let Ok(real) = std::fs::canonicalize(path) else {
            return false;
        };
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().any(|(_, file)| file.real_path() == real)
    }

    /// The names of the files beside the image, itself left out; at most `limit`, in no order.
    pub fn names(&self, limit: usize) -> Result<Vec<String>> {
        let Some(dir) = self.directory() else {
            return Ok(Vec::new());
        };
        let own = self.image.as_deref().and_then(Path::file_name);
        let listed = std::fs::read_dir(&dir)
            .map_err(|e| Error::io("image: the directory it lies in", &e))?;
        let mut names = Vec::new();
        for entry in listed {
            let entry = entry.map_err(|e| Error::io("image: the directory it lies in", &e))?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if !is_file || own == Some(&*entry.file_name()) {
                continue;
            }
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
            if names.len() >= limit {
                break;
            }
        }
        Ok(names)
    }

    /// The names of the files that the user allowed, without their directories.
    #[must_use]
    pub fn allowed_names(&self) -> Vec<String> {
        let names = self.allowed.iter().filter_map(|path| path.file_name());
        names
            .filter_map(|name| name.to_str().map(str::to_owned))
            .collect()
    }

    /// Opens a file beside the image for a look that nothing depends on: it is not remembered.
    pub fn look(&self, name: &str) -> Result<HostFile> {
        HostFile::open_unlinked(&self.path_of(name)?, Access::Look)
    }

    /// As [`HostFile::check_reads`], for every file that was opened here.
    pub fn check_reads(&self) -> Result<()> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().try_for_each(|(path, file)| {
            file.check_reads()
                .map_err(|error| error.at("file", escape(&path.display().to_string())))
        })
    }

    /// As [`HostFile::check_unchanged`], for every file that was opened here.
    pub fn check_unchanged(&self) -> Result<()> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().try_for_each(|(path, file)| {
            file.check_unchanged()
                .map_err(|error| error.at("file", escape(&path.display().to_string())))
        })
    }

    fn directory(&self) -> Option<PathBuf> {
        let image = self.image.as_deref()?;
        Some(match image.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        })
    }

    fn path_of(&self, name: &str) -> Result<PathBuf> {
        let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
        let ends_so = |path: &&PathBuf| {
            path.file_name()
                .and_then(|own| own.to_str())
                .is_some_and(|own| own.eq_ignore_ascii_case(last))
        };
        if !last.is_empty()
            && let Some(path) = self.allowed.iter().find(ends_so)
        {
            return Ok(path.clone());
        }
        let refuse = |expected: &str| {
            Error::refused(format!(
                "container: {expected} expected in what the image names, found `{}`",
                escape(name)
            ))
            .advise("if you trust that file, allow it: --allow-file PATH")
        };
        // `.\name` is how Hyper-V writes a file beside the image.
        let plain = name
            .strip_prefix(".\\")
            .or_else(|| name.strip_prefix("./"))
            .unwrap_or(name);
        let is_plain = !plain.is_empty()
            && plain != "."
            && plain != ".."
            && !plain.contains(['/', '\\', ':', '\0']);
        if !is_plain {
            return Err(refuse("the name of a file beside it"));
        }
        let Some(dir) = self.directory() else {
            return Err(refuse("no other file"));
        };
        let path = dir.join(plain);
        if path.symlink_metadata().is_ok() {
            return Ok(path);
        }
        // Windows does not tell upper from lower case: one file that differs only so is meant.
        let mut alike = self
            .names(NAMES_LIMIT)?
            .into_iter()
            .filter(|other| other.to_lowercase() == plain.to_lowercase());
        match (alike.next(), alike.next()) {
            (Some(other), None) => Ok(dir.join(other)),
            _ => Err(Error::refused(format!(
                "container: the file `{}`, which the image names, expected beside it, not found",
                escape(plain)
            ))
            .advise("put it there, or say where it is: --allow-file PATH")),
        }
    }
}

/// Most names of a directory that are looked at.
const NAMES_LIMIT: usize = 100_000;

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests write files of their own
mod tests {
    use super::*;

    fn shelf() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["child.vhd", "Parent.VHD", "ext.vmdk"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.vhd")).unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/far.vhd"), "far").unwrap();
        let image = dir.path().join("child.vhd");
        (dir, image)
    }

    #[test]
    fn plain_names_beside_the_image_are_opened() {
        let (_dir, image) = shelf();
        let near = Neighbours::of(&image, &[]);
        for name in [
            "ext.vmdk",
            ".\\ext.vmdk",
            "./ext.vmdk",
            "parent.vhd",
            "Parent.VHD",
        ] {
            assert!(near.open(name).is_ok(), "{name}");
        }
        assert!(near.is_image(&near.open("child.vhd").unwrap()));
        assert!(!near.is_image(&near.open("ext.vmdk").unwrap()));
        let beside = |name: &str| near.has_opened(&image.with_file_name(name));
        assert!(beside("ext.vmdk") && beside("Parent.VHD"));
        assert!(!beside("link.vhd") && !beside("gone"));
    }

    #[test]
    fn everything_else_is_refused_and_nothing_opened() {
        let (dir, image) = shelf();
        let near = Neighbours::of(&image, &[]);
        for name in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "../x",
            "..\\x",
            "sub/far.vhd",
            "sub\\far.vhd",
            "\\\\host\\share\\a.vhd",
            "C:\\a.vhd",
            "C:a.vhd",
            "json:{}",
            "nbd:host",
            "a\0b",
            "link.vhd",
            "sub",
            "gone.vhd",
            "./../x",
        ] {
            let error = near.open(name).unwrap_err();
            assert!(!error.to_string().contains("root:"), "{name}: {error}");
        }
        assert!(near.opened.lock().unwrap().is_empty());
        assert!(Neighbours::default().open("ext.vmdk").is_err());
        drop(dir);
    }

    #[test]
    fn an_allowed_file_is_found_by_its_last_name() {
        let (dir, image) = shelf();
        let far = dir.path().join("sub/far.vhd");
        let near = Neighbours::of(&image, std::slice::from_ref(&far));
        for name in ["C:\\vms\\FAR.vhd", "far.vhd", "../far.vhd"] {
            assert_eq!(near.open(name).unwrap().path(), far);
        }
    }
}
