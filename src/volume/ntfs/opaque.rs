//! Files whose contents the volume holds in a form that a search of its bytes does not see, counted in
//! the pass over all records.

use super::{
    Ntfs,
    format::{attribute, code, record},
    scan::{Scanned, resident_value},
};
use crate::{
    tree::{Form, Opaque},
    units::MftReference,
};

/// Files that are named, a form: some of them may be removed.
const MAX_NAMED: usize = 8;
/// Position of the provider in a reparse point of WOF, and the one whose data lie in an archive.
const WOF_PROVIDER: usize = 12;
const PROVIDER_WIM: u32 = 1;

/// What the records of one form add up to.
#[derive(Clone, Copy, Debug)]
struct Sum {
    form: Form,
    files: u64,
    bytes: u64,
    named: [Option<MftReference>; MAX_NAMED],
}

/// What one reading thread saw.
#[derive(Debug, Default)]
pub(super) struct Opaques(Vec<Sum>);

/// Bytes of a file as numbers, zeros behind its end.
fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
    u64::from_le_bytes(bytes.copied().unwrap_or_default())
}

fn short(bytes: &[u8], at: usize) -> u16 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<2>);
    u16::from_le_bytes(bytes.copied().unwrap_or_default())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    u32::from_le_bytes(bytes.copied().unwrap_or_default())
}

/// The form that a reparse point says.
pub(super) fn form_of(reparse: &[u8]) -> Option<Form> {
    match Form::of_tag(word(reparse, 0)) {
        Some(Form::Wof) if word(reparse, WOF_PROVIDER) == PROVIDER_WIM => Some(Form::Wim),
        form => form,
    }
}

impl Opaques {
    /// Looks at a record in use.
    pub(super) fn look(&mut self, scanned: Scanned<'_>) {
        if !scanned.valid || scanned.u16(record::FLAGS) & record::DIRECTORY != 0 {
            return;
        }
        let mut redirected = None;
        let mut stored = None;
        let mut len = 0;
        // What is wrong with the chain of attributes is told by the census.
        let _ = scanned.each_attribute(|kind, bytes| match kind {
            code::REPARSE_POINT => redirected = resident_value(bytes).and_then(form_of),
            code::DATA => {
                let is_first = number(bytes, attribute::FIRST_VCN) == 0;
                if bytes.get(attribute::NON_RESIDENT).copied() != Some(1) || !is_first {
                    return;
                }
                let flags = short(bytes, attribute::FLAGS);
                let is_main = bytes.get(attribute::NAME_LEN).copied() == Some(0);
                let form = if flags & attribute::ENCRYPTED != 0 {
                    Some(Form::Efs)
                } else if flags & attribute::COMPRESSION_MASK != 0 {
                    Some(Form::Lznt1)
                } else {
                    None
                };
                stored = stored.or(form);
                if is_main || form.is_some() {
                    len = number(bytes, attribute::DATA_LEN).max(len);
                }
            }
            _ => {}
        });
        if let Some(form) = redirected.or(stored) {
            let base = MftReference(scanned.u64(record::BASE));
            let own = MftReference::new(scanned.number, scanned.u16(record::SEQUENCE));
            let mut named = [None; MAX_NAMED];
            if let Some(first) = named.first_mut() {
                *first = Some(if base.0 == 0 { own } else { base });
            }
            self.add(Sum {
                form,
                files: 1,
                bytes: len,
                named,
            });
        }
    }

    fn add(&mut self, more: Sum) {
        let Some(sum) = self.0.iter_mut().find(|sum| sum.form == more.form) else {
            self.0.push(more);
            return;
        };
        sum.files = sum.files.saturating_add(more.files);
        sum.bytes = sum.bytes.saturating_add(more.bytes);
        for name in more.named.into_iter().flatten() {
            if let Some(place) = sum.named.iter_mut().find(|place| place.is_none()) {
                *place = Some(name);
            }
        }
    }

    /// Adds what another thread saw.
    pub(super) fn join(&mut self, other: Opaques) {
        other.0.into_iter().for_each(|sum| self.add(sum));
    }

    /// With the paths of the first files.
    pub(super) fn name(self, vol: &Ntfs) -> Vec<Opaque> {
        let sums = self.0.into_iter();
        sums.map(|sum| Opaque {
            form: sum.form,
            files: sum.files,
            bytes: sum.bytes,
            examples: {
                let named = sum.named.into_iter().flatten();
                named.map(|reference| vol.shown_path(reference)).collect()
            },
        })
        .collect()
    }
}
