//! Overwriting a part of a file's main data stream in place.
//!
//! Facts: facts/ntfs.md 3. Only bytes that exist: plain, allocated, initialised clusters, or a
//! resident value.

use super::{place::write_stream, target::refuse};
use crate::{
    error::{Error, Result},
    tree::FileId,
    units::{FileOffset, MftReference},
    volume::{
        ntfs::{
            Ntfs, Stream,
            format::{code, number},
        },
        widths::{sum, wide},
    },
};

/// See [`FileTree::overwrite`](crate::tree::FileTree::overwrite).
pub(super) fn overwrite(vol: &Ntfs, id: FileId, offset: FileOffset, bytes: &[u8]) -> Result<()> {
    let reference = MftReference(id.0);
    let file = vol
        .file_at(reference)
        .map_err(|e| refuse(vol, e, reference, &[]))?;
    let write = || {
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
        let end = sum(offset.get(), wide(bytes.len()), "overwrite")?;
        if end > stream.initialised {
            return Err(Error::refused(format!(
                "overwrite: a place within the {} initialised bytes expected, found {offset} to \
                 {end:#x}; the file is never extended",
                stream.initialised
            )));
        }
        write_stream(vol, &stream, offset.get(), bytes, "$DATA")
    };
    write().map_err(|e| refuse(vol, e, reference, &file.names))
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
