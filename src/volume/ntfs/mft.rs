//! $MFT: where its records are, reading one, and the sequential pass over all of them.

use super::{
    Ntfs,
    attribute::Attribute,
    boot::Geometry,
    file::File,
    format::{code, number},
    record::{Fixup, Record},
    runs::Run,
    stream::{Content, Piece, Stream},
    upcase::UpCase,
};
use crate::{
    device::Device,
    error::{At, Error, Result},
    units::{Vcn, VolumeOffset},
    volume::widths::{product, wide},
};

/// Finds all runs of $MFT. Record 0 lies where the boot sector says; when it has an attribute list,
/// each further piece must be in a record that the pieces before it map (otherwise nobody, Windows
/// included, could read it).
pub(super) fn bootstrap(device: &Device, geometry: Geometry) -> Result<Stream> {
    let at = geometry.cluster_offset(geometry.mft_lcn);
    let mut raw = vec![0; geometry.record_bytes()];
    device.read_at(at.get(), &mut raw).at("volume offset", at)?;
    let (record, fixup) = Record::from_raw(number::MFT, raw);
    let placed = |e: Error| e.at("volume offset", at).at("file record", 0);
    if fixup == Fixup::Crc4 {
        return Err(placed(Error::unsupported(format!(
            "file record: an update sequence expected, found {}",
            fixup.name()
        ))));
    }
    let attributes = record.attributes(geometry.cluster_count).map_err(placed)?;
    if !record.is_in_use() || record.is_extension() {
        return Err(placed(Error::malformed(
            "$MFT: a base record in use expected, found another",
        )));
    }
    let has_list = attributes.iter().any(|a| a.code == code::ATTRIBUTE_LIST);
    let is_data = |a: &Attribute| a.code == code::DATA && a.name.units().is_empty();
    let file = File {
        reference: record.reference(),
        records: vec![record],
        attributes,
        names: Vec::new(),
        has_attribute_list: has_list,
    };
    let mut stream = file.require(code::DATA, "").map_err(placed)?;
    if stream.runs().first().and_then(|run| run.lcn) != Some(geometry.mft_lcn) {
        return Err(placed(Error::malformed(format!(
            "$MFT: first cluster {} expected, found another",
            geometry.mft_lcn
        ))));
    }
    if has_list {
        let partial = Ntfs {
            device: device.clone(),
            geometry,
            mft: stream.clone(),
            upcase: UpCase::empty(),
            version: (0, 0),
        };
        let mut pieces: Vec<_> = partial
            .attribute_list(&file)
            .map_err(placed)?
            .into_iter()
            .filter(|e| e.code == code::DATA && e.name.units().is_empty())
            .filter(|e| e.reference.record() != number::MFT)
            .collect();
        pieces.sort_by_key(|entry| entry.first_vcn);
        let mut reader = partial;
        for entry in pieces {
            let record = reader
                .read_mapped(entry.reference.record())
                .map_err(placed)?;
            if record.reference() != entry.reference
                || record.base() != file.reference
                || !record.is_in_use()
            {
                return Err(placed(Error::malformed(format!(
                    "$MFT: extension {} expected, found {} of {}",
                    entry.reference,
                    record.reference(),
                    record.base()
                ))));
            }
            let attributes = record.attributes(geometry.cluster_count).map_err(placed)?;
            let piece = attributes.iter().find(|a| is_data(a) && a.id == entry.id);
            let Content::Runs(runs) = &mut reader.mft.content else {
                return Err(placed(Error::malformed(
                    "$MFT: clusters expected, found none",
                )));
            };
            let end = runs.last().map_or(Vcn(0), Run::end_vcn);
            match piece {
                Some(piece) if piece.first_vcn() == end => runs.extend_from_slice(piece.runs()),
                _ => {
                    return Err(placed(Error::malformed(format!(
                        "$MFT: a piece from VCN {end} expected in file record {}, found none",
                        record.number
                    ))));
                }
            }
        }
        stream = reader.mft;
    }
    if stream.has_holes() || stream.is_compressed() || stream.is_encrypted() {
        return Err(placed(Error::malformed(
            "$MFT: plain clusters expected, found holes, compression or encryption",
        )));
    }
    let mapped = stream
        .clusters()
        .saturating_mul(u64::from(geometry.cluster_len));
    if stream.initialised > mapped {
        return Err(placed(Error::malformed(format!(
            "$MFT: clusters for {} bytes expected, found {mapped}",
            stream.initialised
        ))));
    }
    Ok(stream)
}

impl Ntfs {
    /// How many records $MFT has (its initialised part; what lies behind are no records).
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.mft
            .initialised
            .checked_div(u64::from(self.geometry.record_len))
            .unwrap_or(0)
    }

    /// Where a record lies: usually one piece, several where it is split over runs.
    pub fn record_pieces(&self, number: u64) -> Result<Vec<(VolumeOffset, usize)>> {
        if number >= self.record_count() {
            return Err(Error::malformed(format!(
                "$MFT: a record below {} expected, found {number}",
                self.record_count()
            )));
        }
        let len = u64::from(self.geometry.record_len);
        let start = product(number, len, "$MFT")?;
        let pieces = self
            .mft
            .pieces(self.geometry.cluster_len, start, len)
            .at("file record", number)?;
        pieces
            .into_iter()
            .map(|piece: Piece| {
                let at = piece
                    .volume_offset
                    .ok_or_else(|| Error::malformed("$MFT: clusters expected, found a hole"))?;
                Ok((at, crate::volume::widths::narrow(piece.len, "file record")?))
            })
            .collect()
    }

    /// A record's bytes as they stand on the device.
    pub fn read_record_raw(&self, number: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.geometry.record_bytes()];
        let mut at = 0usize;
        for (offset, len) in self.record_pieces(number)? {
            let end = at.saturating_add(len);
            let target = bytes
                .get_mut(at..end)
                .ok_or_else(|| Error::internal("file record: pieces longer than the record"))?;
            self.device
                .read_at(offset.get(), target)
                .at("volume offset", offset)
                .at("file record", number)?;
            at = end;
        }
        Ok(bytes)
    }

    /// A record with its update sequence undone; whether that was possible is in the record.
    pub fn read_record(&self, number: u64) -> Result<Record> {
        Ok(Record::from_raw(number, self.read_record_raw(number)?).0)
    }

    /// A record that only needs to be mapped (the bootstrap does not know how many there are).
    fn read_mapped(&self, number: u64) -> Result<Record> {
        let mut bytes = vec![0; self.geometry.record_bytes()];
        let start = product(number, wide(bytes.len()), "$MFT")?;
        self.read_pieces(&self.mft, start, &mut bytes)
            .at("file record", number)?;
        Ok(Record::from_raw(number, bytes).0)
    }
}
