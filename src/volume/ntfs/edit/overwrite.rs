//! Overwriting a part of a file's main data stream in place.
//!
//! Facts: facts/ntfs.md 3. Only bytes that exist: plain, allocated, initialised clusters, or a
//! resident value; zeros also behind them.

use super::{
    place::{write_stream, zero},
    target::refuse,
};
use crate::{
    error::{Error, Result},
    tree::FileId,
    units::{FileOffset, MftReference},
    volume::{
        ntfs::{
            Content, Ntfs, Stream,
            format::{code, number},
        },
        widths::{sum, wide},
    },
};

/// See [`FileTree::overwrite`](crate::tree::FileTree::overwrite).
pub(super) fn overwrite(vol: &Ntfs, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
    with_data(vol, id, |stream| {
        let end = sum(offset.get(), wide(bytes.len()), "overwrite")?;
        if end > stream.initialised {
            return Err(Error::refused(format!(
                "overwrite: a place within the {} initialised bytes expected, found {offset} to \
                 {end:#x}; the file is never extended",
                stream.initialised
            )));
        }
        write_stream(vol, stream, offset.get(), bytes, "$DATA")
    })
}

/// See [`FileTree::erase`](crate::tree::FileTree::erase).
pub(super) fn erase(vol: &Ntfs, id: FileId) -> Result<u64> {
    with_data(vol, id, |stream| match &stream.content {
        Content::Resident { bytes, .. } => {
            let stale = bytes.iter().filter(|byte| **byte != 0).count();
            if stale != 0 {
                write_stream(vol, stream, 0, &vec![0; bytes.len()], "$DATA")?;
            }
            Ok(wide(stale))
        }
        Content::Runs(_) => zero(vol, stream, 0, stream.allocated),
    })
}

/// Does it to the plain main data stream of a user's file.
fn with_data<T>(vol: &Ntfs, id: FileId, write: impl FnOnce(&Stream) -> Result<T>) -> Result<T> {
    let reference = MftReference(id.0);
    let file = vol
        .file_at(reference)
        .map_err(|e| refuse(vol, e, reference, &[]))?;
    let checked = || {
        if reference.record() < number::FIRST_USER {
            return Err(Error::refused(
                "overwrite: a user file expected, found a file of the file system itself",
            ));
        }
        let redirected = file
            .attributes
            .iter()
            .any(|a| a.code == code::REPARSE_POINT);
        if file.is_directory() || redirected {
            return Err(Error::refused(
                "overwrite: a plain file expected, found a directory or a reparse point",
            ));
        }
        let stream = file.require(code::DATA, "")?;
        check_plain(&stream)?;
        write(&stream)
    };
    checked().map_err(|e| refuse(vol, e, reference, &file.names))
}

fn check_plain(stream: &Stream) -> Result<()> {
    let found = if stream.is_encrypted() {
        "encrypted by EFS; decrypt it in Windows first (cipher /d)"
    } else if stream.is_resident() {
        // In a compressed directory the flag is there, but a value in the record is plain.
        return Ok(());
    } else if stream.is_compressed() {
        "compressed; decompress it in Windows first (compact /u)"
    } else if stream.has_holes() {
        "sparse; a hole cannot be written without allocating"
    } else {
        return Ok(());
    };
    Err(Error::refused(format!(
        "overwrite: plain data expected, found it {found}"
    )))
}
