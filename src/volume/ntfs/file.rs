//! Files: the base record and its extension records as one set of attributes, names and streams.

use super::{
    Ntfs,
    attribute::{Attribute, Body, FileName, title},
    attribute_list::{ListEntry, MAX_LIST_LEN, parse_list},
    format::code,
    record::Record,
    runs::Run,
    stream::{Content, Stream},
};
use crate::{
    error::{At, Error, Result},
    text::Name,
    units::MftReference,
};

/// NTFS allows 1024 links to a file, and each may be a pair of names.
const MAX_NAMES: usize = 2048;

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its base record's number and sequence.
    pub reference: MftReference,
    /// All its records, the base first, extensions in ascending order.
    pub records: Vec<Record>,
    /// All its attributes, record by record; a stream in several pieces has several.
    pub attributes: Vec<Attribute>,
    /// All its names, in the order they stand.
    pub names: Vec<FileName>,
    /// Whether it has an $ATTRIBUTE_LIST.
    pub has_attribute_list: bool,
}

impl File {
    /// The base record. There always is one.
    pub fn base(&self) -> Result<&Record> {
        self.records
            .first()
            .ok_or_else(|| Error::internal("file: no base record"))
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.records.first().is_some_and(Record::is_directory)
    }

    /// One of its records.
    #[must_use]
    pub fn record(&self, number: u64) -> Option<&Record> {
        self.records.iter().find(|record| record.number == number)
    }

    /// The resident value of one of its attributes.
    pub fn value(&self, attribute: &Attribute) -> Result<&[u8]> {
        let record = self
            .record(attribute.record)
            .ok_or_else(|| Error::internal("file: attribute of another file"))?;
        attribute.value(&record.bytes)
    }

    /// All pieces of an attribute, by first VCN.
    #[must_use]
    pub fn pieces(&self, code: u32, name: &Name) -> Vec<&Attribute> {
        let mut pieces: Vec<&Attribute> = self
            .attributes
            .iter()
            .filter(|attribute| attribute.code == code && attribute.name == *name)
            .collect();
        pieces.sort_by_key(|attribute| attribute.first_vcn());
        pieces
    }

    /// The first attribute of this code and name, if there is one.
    #[must_use]
    pub fn attribute(&self, code: u32, name: &str) -> Option<&Attribute> {
        self.pieces(code, &Name::new(name)).first().copied()
    }

    /// A stream by its type and name.
    #[must_use]
    pub fn stream(&self, code: u32, name: &str) -> Option<Stream> {
        self.stream_named(code, &Name::new(name)).ok().flatten()
    }

    /// A stream that must be there.
    pub fn require(&self, code: u32, name: &str) -> Result<Stream> {
        let name = Name::new(name);
        self.stream_named(code, &name)?.ok_or_else(|| {
            Error::malformed(format!("file: {} expected, found none", title(code, &name)))
                .at("file record", self.reference.record())
        })
    }

    /// A stream by its type and name; its pieces must fit together without a gap.
    pub fn stream_named(&self, code: u32, name: &Name) -> Result<Option<Stream>> {
        let pieces = self.pieces(code, name);
        let Some(first) = pieces.first() else {
            return Ok(None);
        };
        let bad = |what: String| {
            Error::malformed(format!("{}: {what}", first.title()))
                .at("file record", self.reference.record())
        };
        if let Body::Resident {
            value_offset,
            value_len,
            ..
        } = first.body
        {
            if pieces.len() != 1 {
                return Err(bad(format!(
                    "one resident attribute expected, found {} pieces",
                    pieces.len()
                )));
            }
            let bytes = self.value(first)?.to_vec();
            let len = crate::volume::widths::wide(value_len);
            return Ok(Some(Stream {
                content: Content::Resident {
                    record: first.record,
                    offset: value_offset,
                    bytes,
                },
                flags: first.flags,
                data_len: len,
                initialised: len,
                allocated: len,
                compression_unit: 0,
            }));
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut next = 0u64;
        for piece in &pieces {
            if piece.is_resident() {
                return Err(bad("runs in every piece expected, found a value".to_owned()));
            }
            if piece.first_vcn().get() != next {
                return Err(bad(format!(
                    "a piece from VCN {next:#x} expected, found {}",
                    piece.first_vcn()
                )));
            }
            runs.extend_from_slice(piece.runs());
            next = piece.runs().last().map_or(next, |run| run.end_vcn().get());
        }
        let Body::NonResident {
            compression_unit,
            allocated,
            data_len,
            initialised,
            ..
        } = first.body
        else {
            return Err(Error::internal("stream: neither resident nor not"));
        };
        Ok(Some(Stream {
            content: Content::Runs(runs),
            flags: first.flags,
            data_len,
            initialised,
            allocated,
            compression_unit,
        }))
    }

    /// Types and names of all its streams, each once.
    #[must_use]
    pub fn stream_titles(&self) -> Vec<(u32, Name)> {
        let mut titles: Vec<(u32, Name)> = self
            .attributes
            .iter()
            .map(|attribute| (attribute.code, attribute.name.clone()))
            .collect();
        titles.sort();
        titles.dedup();
        titles
    }

    /// Checks what a reader relies on: pieces fit together, lengths have clusters behind them, only
    /// names repeat.
    fn check(&self, ntfs: &Ntfs) -> Result<()> {
        for (code, name) in self.stream_titles() {
            if code == code::FILE_NAME {
                continue;
            }
            let Some(stream) = self.stream_named(code, &name)? else {
                continue;
            };
            if stream.is_resident() {
                continue;
            }
            let mapped = stream
                .runs()
                .last()
                .map_or(0, |run| run.end_vcn().get())
                .saturating_mul(u64::from(ntfs.geometry.cluster_len));
            // The real bound on what a claimed length can cost.
            if stream.data_len > mapped {
                return Err(Error::malformed(format!(
                    "{}: clusters for {} bytes expected, found {mapped}",
                    title(code, &name),
                    stream.data_len
                )));
            }
        }
        Ok(())
    }
}

impl Ntfs {
    /// A file by its base record's number.
    pub fn file(&self, number: u64) -> Result<File> {
        let record = self.read_record(number)?;
        self.file_of(record).at("file record", number)
    }

    /// A file by reference: the sequence number must match.
    pub fn file_at(&self, reference: MftReference) -> Result<File> {
        let file = self.file(reference.record())?;
        if file.reference != reference {
            return Err(Error::malformed(format!(
                "file record: sequence {} expected, found {}",
                reference.sequence(),
                file.reference.sequence()
            ))
            .at("file record", reference.record()));
        }
        Ok(file)
    }

    /// Puts a file together from its base record, whose bytes need not be those of the device.
    pub fn file_of(&self, base: Record) -> Result<File> {
        let attributes = base.attributes(self.geometry.cluster_count)?;
        if !base.is_in_use() {
            return Err(Error::malformed(
                "file record: a record in use expected, found a free one",
            ));
        }
        if base.is_extension() {
            return Err(Error::malformed(format!(
                "file record: a base record expected, found an extension of {}",
                base.base()
            )));
        }
        let list = attributes
            .iter()
            .filter(|attribute| attribute.code == code::ATTRIBUTE_LIST)
            .count();
        let mut file = File {
            reference: base.reference(),
            records: vec![base],
            attributes,
            names: Vec::new(),
            has_attribute_list: list != 0,
        };
        if list != 0 {
            let entries = self.attribute_list(&file)?;
            self.merge_extensions(&mut file, &entries)?;
        }
        for attribute in &file.attributes {
            if attribute.code == code::FILE_NAME {
                if file.names.len() >= MAX_NAMES {
                    return Err(Error::limit(format!(
                        "file: at most {MAX_NAMES} names expected, found more"
                    )));
                }
                file.names.push(FileName::parse(file.value(attribute)?)?);
            }
        }
        file.check(self)?;
        Ok(file)
    }

    /// The entries of a base record's $ATTRIBUTE_LIST.
    pub(super) fn attribute_list(&self, base_only: &File) -> Result<Vec<ListEntry>> {
        let list = base_only.require(code::ATTRIBUTE_LIST, "")?;
        if list.data_len > MAX_LIST_LEN {
            return Err(Error::limit(format!(
                "attribute list: at most {MAX_LIST_LEN} bytes expected, found {}",
                list.data_len
            )));
        }
        parse_list(&self.read_whole(&list)?)
    }

    /// Reads the extension records that the list names, each once (so lists cannot loop), and
    /// checks that list and records say the same.
    fn merge_extensions(&self, file: &mut File, entries: &[ListEntry]) -> Result<()> {
        let base = file.reference;
        let mut references: Vec<MftReference> =
            entries.iter().map(|entry| entry.reference).collect();
        references.sort_unstable();
        references.dedup();
        for reference in references {
            if reference == base {
                continue;
            }
            let record = self.read_record(reference.record())?;
            let fits = record.is_in_use()
                && record.sequence() == reference.sequence()
                && record.base() == base
                && reference.record() != base.record();
            if !fits {
                return Err(Error::malformed(format!(
                    "attribute list: an extension {reference} of {base} in use expected, found {} \
                     ({}) of {}",
                    record.reference(),
                    if record.is_in_use() { "in use" } else { "free" },
                    record.base()
                )));
            }
            let attributes = record.attributes(self.geometry.cluster_count)?;
            if attributes.iter().any(|a| a.code == code::ATTRIBUTE_LIST) {
                return Err(Error::malformed(
                    "attribute list: only in a base record expected, found in an extension",
                )
                .at("file record", reference.record()));
            }
            file.attributes.extend(attributes);
            file.records.push(record);
        }
        // Both sides sorted and compared: linear, and nothing can be listed twice or not at all.
        let mut listed: Vec<_> = entries
            .iter()
            .map(|e| (e.reference.record(), e.id, e.code, e.first_vcn, &e.name))
            .collect();
        let mut present: Vec<_> = file
            .attributes
            .iter()
            .filter(|a| a.code != code::ATTRIBUTE_LIST)
            .map(|a| (a.record, a.id, a.code, a.first_vcn(), &a.name))
            .collect();
        listed.sort();
        present.sort();
        if let Some((entry, _)) = listed
            .iter()
            .zip(&present)
            .find(|(entry, attribute)| entry != attribute)
        {
            return Err(Error::malformed(format!(
                "attribute list: entries for all attributes expected, they differ at {:#x} (id {}) \
                 of record {}",
                entry.2, entry.1, entry.0
            )));
        }
        if listed.len() != present.len() {
            return Err(Error::malformed(format!(
                "attribute list: {} entries expected, found {}",
                present.len(),
                listed.len()
            )));
        }
        Ok(())
    }
}
