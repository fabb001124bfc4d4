//! Makes a new file look like the old one: owner, mode, attributes, lists, times.
//!
//! Facts: `xattr(7)`, `chown(2)`, `utimensat(2)`; names of ntfs-3g's attributes: its manual page
//! and `libntfs-3g/xattrs.c`; of the kernel's driver: `Documentation/filesystems/ntfs3.rst`.

use std::fs::File;

use rustix::{
    fs::{Mode, Timespec, Timestamps, XattrFlags},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    image::directory::{DOS_NAME, Stat, stat},
};

/// Drivers of NTFS answer to these names and do not list them.
const UNLISTED: [&str; 4] = [
    "system.ntfs_acl",
    "system.ntfs_attrib",
    "system.ntfs_ea",
    "system.ntfs_security",
];
/// One file of a directory or volume can have these at a time: set when the old one is gone.
const ONLY_ONE: [&str; 2] = [DOS_NAME, "system.ntfs_object_id"];
/// All four of NTFS: creation, write, access, change. Set last.
const TIMES: &str = "system.ntfs_times";
/// Not carried over: what they say is true of the old file's bytes only.
const OF_THE_BYTES: [&str; 2] = ["system.ntfs_efsinfo", "system.ntfs_reparse_data"];
/// The host's limit for one attribute (`XATTR_SIZE_MAX`), and for a list of names.
const MAX_LEN: usize = 64 << 10;

/// What has to wait until the old file is gone.
#[derive(Debug, Default)]
pub(super) struct Later {
    values: Vec<(&'static str, Vec<u8>)>,
}

/// What an attribute holds; `None` if there is none, or the file system has no such thing.
fn value(file: &File, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; MAX_LEN];
    match rustix::fs::fgetxattr(file, name, &mut *buffer) {
        Ok(len) => {
            buffer.truncate(len);
            Ok(Some(buffer))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(None),
        Err(e) => Err(e),
    }
}

fn listed(file: &File) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; MAX_LEN];
    let len = match rustix::fs::flistxattr(file, &mut *buffer) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => 0,
        other => other?,
    };
    let names = buffer.get(..len).unwrap_or_default();
    let names = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Gives `new` what `old` has. What cannot be set is told; what cannot be read is an error, before
/// anything was changed.
pub(super) fn like(
    old: &File,
    was: &Stat,
    new: &File,
    shown: &str,
    notes: &mut Vec<String>,
) -> Result<Later> {
    let failed = |what: &str, e: Errno| {
        Error::io(
            format!("directory: {what} of {shown}"),
            &std::io::Error::from(e),
        )
    };
    let mut note = |what: &str, e: Errno| notes.push(format!("{shown}: {what} was not kept: {e}"));
    let is = stat(new, b"").map_err(|e| failed("attributes", e))?;
    if (is.uid, is.gid) != (was.uid, was.gid) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(was.uid),
            rustix::fs::Gid::from_raw(was.gid),
        );
        if let Err(e) = rustix::fs::fchown(new, Some(uid), Some(gid)) {
            note(&format!("owner {}:{}", was.uid, was.gid), e);
        }
    }
    if let Err(e) = rustix::fs::fchmod(new, Mode::from_raw_mode(was.mode)) {
        note(&format!("mode {:o}", was.mode), e);
    }
    // After owner and mode: both change access lists.
    let mut names = listed(old).map_err(|e| failed("list of attributes", e))?;
    names.extend(UNLISTED.map(|name| name.as_bytes().to_vec()));
    names.sort();
    names.dedup();
    let special = |name: &[u8]| {
        let mut all = ONLY_ONE.iter().chain(&OF_THE_BYTES).chain([&TIMES]);
        all.any(|other| other.as_bytes() == name)
    };
    for name in names.iter().filter(|name| !special(name)) {
        let Some(want) = value(old, name).map_err(|e| failed("attributes", e))? else {
            continue;
        };
        if value(new, name).is_ok_and(|is| is.as_ref() == Some(&want)) {
            continue;
        }
        if let Err(e) = rustix::fs::fsetxattr(new, name.as_slice(), &want, XattrFlags::empty()) {
            note(&crate::text::escape(&String::from_utf8_lossy(name)), e);
        }
    }
    let mut later = Later::default();
    for name in ONLY_ONE.into_iter().chain([TIMES]) {
        if let Ok(Some(want)) = value(old, name.as_bytes())
            && !want.is_empty()
        {
            later.values.push((name, want));
        }
    }
    if let Err(e) = set_times(new, was) {
        note("the times", e);
    }
    Ok(later)
}

/// Time of access and of the last write.
pub(super) fn set_times(file: &File, was: &Stat) -> rustix::io::Result<()> {
    let time = |(seconds, nanoseconds): (i64, u32)| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    rustix::fs::futimens(
        file,
        &Timestamps {
            last_access: time(was.atime),
            last_modification: time(was.mtime),
        },
    )
}

impl Later {
    /// The times only.
    pub(super) fn times_of(file: &File) -> Self {
        let found = value(file, TIMES.as_bytes()).ok().flatten();
        Self {
            values: found.into_iter().map(|times| (TIMES, times)).collect(),
        }
    }

    /// Sets what had to wait. The file is complete without it.
    pub(super) fn set(&self, file: &File, shown: &str, notes: &mut Vec<String>) {
        for (name, want) in &self.values {
            if value(file, name.as_bytes()).is_ok_and(|is| is.as_ref() == Some(want)) {
                continue;
            }
            if let Err(e) = rustix::fs::fsetxattr(file, *name, want, XattrFlags::empty()) {
                notes.push(format!("{shown}: {name} was not kept: {e}"));
            }
        }
    }
}
