//! Reading and writing the volume by runs and by record; the only file of this room that writes.
//!
//! Every read goes through the device: what an edit wrote before is seen by the next.

use super::record::zero_slack;
use crate::{
    bytes::{View, all_zero, put},
    error::{Error, Result},
    volume::{
        ntfs::{
            Attribute, Body, Content, Ntfs, Piece, Record, Stream, apply_fixup,
            format::{code, number},
        },
        widths::{narrow, product, sum, wide},
    },
};

/// The pieces of a stream that lie in clusters; a hole is refused: nothing is ever allocated.
fn real_pieces(
    vol: &Ntfs,
    stream: &Stream,
    offset: u64,
    len: u64,
    what: &str,
) -> Result<Vec<(Piece, u64)>> {
    stream
        .pieces(vol.geometry().cluster_len, offset, len)?
        .into_iter()
        .map(|piece| match piece.volume_offset {
            Some(at) => Ok((piece, at.get())),
            None => Err(Error::refused(format!(
                "{what}: clusters expected at {:#x} of the stream, found a hole; nothing is \
                 allocated",
                piece.offset
            ))),
        })
        .collect()
}

/// Reads clusters of a stream as they are, behind its length too; a hole is an error.
pub(super) fn read(
    vol: &Ntfs,
    stream: &Stream,
    offset: u64,
    len: u64,
    what: &str,
) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (piece, at) in real_pieces(vol, stream, offset, len, what)? {
        let mut part = vec![0; narrow(piece.len, "stream")?];
        vol.device().read_at(at, &mut part)?;
        out.extend_from_slice(&part);
    }
    Ok(out)
}

/// Writes into real clusters of a stream; a hole is refused before anything is written.
pub(super) fn write(
    vol: &Ntfs,
    stream: &Stream,
    offset: u64,
    bytes: &[u8],
    what: &str,
) -> Result<()> {
    let view = View::new(bytes, "stream");
    for (piece, at) in real_pieces(vol, stream, offset, wide(bytes.len()), what)? {
        let from = narrow(piece.offset.saturating_sub(offset), "stream")?;
        let part = view.get(from, narrow(piece.len, "stream")?)?;
        vol.device().write_at(at, part)?;
    }
    Ok(())
}

/// Zeroes a part of a stream that is not zero yet, holes passed over; says how many bytes were
/// not zero.
pub(super) fn zero(vol: &Ntfs, stream: &Stream, offset: u64, len: u64) -> Result<u64> {
    let mut wiped = 0_u64;
    for piece in stream.pieces(vol.geometry().cluster_len, offset, len)? {
        if let Some(at) = piece.volume_offset {
            wiped = wiped.saturating_add(zero_range(vol, at.get(), piece.len)?);
        }
    }
    Ok(wiped)
}

/// Zeroes a part of the volume that is not zero yet; says how many bytes were not zero.
pub(super) fn zero_range(vol: &Ntfs, at: u64, len: u64) -> Result<u64> {
    const STEP: u64 = 1 << 20;
    let mut wiped = 0_u64;
    let mut done = 0_u64;
    while done < len {
        let step = STEP.min(len.saturating_sub(done));
        let start = sum(at, done, "volume")?;
        let mut bytes = vec![0; narrow(step, "volume")?];
        vol.device().read_at(start, &mut bytes)?;
        if !all_zero(&bytes) {
            vol.device().zero_at(start, step)?;
            wiped = wiped.saturating_add(wide(bytes.iter().filter(|byte| **byte != 0).count()));
        }
        done = done.saturating_add(step);
    }
    Ok(wiped)
}

/// Reads a record whose update sequence must be valid.
pub(super) fn read_record(vol: &Ntfs, number: u64) -> Result<Record> {
    let record = vol.read_record(number)?;
    record.check_header()?;
    Ok(record)
}

/// Writes a record (update sequence undone), its slack zeroed, with the next update sequence; and
/// its copy in `$MFTMirr` if it has one. Says how many bytes of slack were not zero.
pub(super) fn write_record(vol: &Ntfs, number: u64, mut bytes: Vec<u8>) -> Result<u64> {
    let len = wide(vol.geometry().record_bytes());
    let wiped = zero_slack(&mut bytes)?;
    apply_fixup(&mut bytes)?;
    let offset = product(number, len, "$MFT")?;
    let mft = vol.mft();
    let old = read(vol, mft, offset, len, "$MFT")?;
    // Records 0 to 3 always; the others only where the system has kept the copy up to date.
    if number < vol.geometry().mirror_records() {
        let mirror = vol.file(number::MIRROR)?.require(code::DATA, "")?;
        if sum(offset, len, "$MFTMirr")? <= mirror.data_len {
            let copy = read(vol, &mirror, offset, len, "$MFTMirr")?;
            if number < 4 || copy == old {
                write(vol, &mirror, offset, &bytes, "$MFTMirr")?;
            }
        }
    }
    write(vol, mft, offset, &bytes, "$MFT")?;
    Ok(wiped)
}

/// Changes one record and writes it.
pub(super) fn edit_record(
    vol: &Ntfs,
    number: u64,
    change: impl FnOnce(&mut Vec<u8>, &[Attribute]) -> Result<()>,
) -> Result<u64> {
    let mut record = read_record(vol, number)?;
    let attributes = record.attributes(vol.geometry().cluster_count)?;
    change(&mut record.bytes, &attributes)?;
    write_record(vol, number, record.bytes)
}

/// Overwrites bytes of a stream inside its length, resident or not.
pub(super) fn write_stream(
    vol: &Ntfs,
    stream: &Stream,
    offset: u64,
    bytes: &[u8],
    what: &str,
) -> Result<()> {
    if sum(offset, wide(bytes.len()), "stream")? > stream.data_len {
        return Err(Error::refused(format!(
            "{what}: writes inside its {} bytes expected, found {} at {offset:#x}",
            stream.data_len,
            bytes.len()
        )));
    }
    match &stream.content {
        Content::Runs(_) => write(vol, stream, offset, bytes, what),
        Content::Resident {
            record, offset: at, ..
        } => {
            let at = sum(wide(*at), offset, "stream")?;
            edit_record(vol, *record, |content, attributes| {
                // The value must still be where it was: nothing moved it since it was found.
                let end = sum(at, wide(bytes.len()), "stream")?;
                let inside = attributes.iter().any(|attribute| match attribute.body {
                    Body::Resident {
                        value_offset,
                        value_len,
                        ..
                    } => {
                        wide(value_offset) <= at
                            && end <= wide(value_offset.saturating_add(value_len))
                    }
                    Body::NonResident { .. } => false,
                });
                if !inside {
                    return Err(Error::internal(format!("{what}: the value has moved")));
                }
                put(content, narrow(at, "stream")?, bytes, "file record")
            })
            .map(|_| ())
        }
    }
}
