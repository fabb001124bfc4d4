//! $ATTRIBUTE_LIST: which records hold the attributes of a file that does not fit into one.

use super::format::attribute_list as list;
use crate::{
    bytes::View,
    error::{Error, Result},
    text::Name,
    units::{MftReference, Vcn},
};

/// The largest list Windows writes (its documented limit of 256 KiB), at least 26 bytes an entry:
/// bounds the extension records of one file to about ten thousand.
pub const MAX_LIST_LEN: u64 = 256 << 10;

/// One entry: a piece of an attribute and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Type code.
    pub code: u32,
    /// Attribute name.
    pub name: Name,
    /// First VCN of the piece.
    pub first_vcn: Vcn,
    /// The record that holds it.
    pub reference: MftReference,
    /// The attribute's id in that record.
    pub id: u16,
}

/// Parses a whole list; every entry must be complete.
pub fn parse_list(bytes: &[u8]) -> Result<Vec<ListEntry>> {
    let whole = View::new(bytes, "attribute list");
    let mut entries = Vec::new();
    let mut at = 0usize;
    while at < bytes.len() {
        let entry = parse_entry(whole, at)
            .map_err(|e| e.at("attribute list offset", format_args!("{at:#x}")))?;
        at = at.saturating_add(entry.1);
        entries.push(entry.0);
    }
    if entries.is_empty() {
        return Err(Error::malformed(
            "attribute list: at least one entry expected, found none",
        ));
    }
    Ok(entries)
}

fn parse_entry(whole: View<'_>, at: usize) -> Result<(ListEntry, usize)> {
    let room = whole.len().saturating_sub(at);
    let head = whole.sub(at, list::MIN_LEN.min(room), "attribute list entry")?;
    let len = usize::from(head.u16(list::LEN)?);
    if len < list::MIN_LEN || len > room || !len.is_multiple_of(8) {
        return Err(Error::malformed(format!(
            "attribute list entry: 26 to {room} bytes, a multiple of 8, expected, found {len}"
        )));
    }
    let view = whole.sub(at, len, "attribute list entry")?;
    let name_len = usize::from(view.u8(list::NAME_LEN)?);
    let name = if name_len == 0 {
        Name::default()
    } else {
        Name(view.units(usize::from(view.u8(list::NAME_OFFSET)?), name_len)?)
    };
    Ok((
        ListEntry {
            code: view.u32(list::CODE)?,
            name,
            first_vcn: Vcn(view.u64(list::FIRST_VCN)?),
            reference: MftReference(view.u64(list::REFERENCE)?),
            id: view.u16(list::ID)?,
        },
        len,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn entry() -> Vec<u8> {
        let mut e = vec![0u8; 32];
        e[0] = 0x80;
        e[4] = 32;
        e[6] = 1;
        e[7] = 0x1A;
        e[0x10] = 40;
        e[0x16] = 2;
        e[0x18] = 3;
        e[0x1A] = b'x';
        e
    }

    #[test]
    fn an_entry_parses() {
        let list = parse_list(&[entry(), entry()].concat()).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].reference, MftReference::new(40, 2));
        assert_eq!((list[0].id, list[0].name.to_string().as_str()), (3, "x"));
    }

    #[test]
    fn lying_lists_are_refused() {
        assert!(parse_list(&[]).is_err());
        for (at, value) in [
            (4, 0u8),
            (4, 7),
            (4, 24),
            (4, 31),
            (4, 40),
            (6, 4),
            (7, 255),
        ] {
            let mut e = entry();
            e[at] = value;
            assert!(parse_list(&e).is_err(), "{at} {value}");
        }
        assert!(parse_list(&entry()[..20]).is_err());
        assert!(parse_list(&[entry(), vec![0x80]].concat()).is_err());
    }
}
