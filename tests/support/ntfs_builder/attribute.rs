//! Attributes and the records that carry them, with attribute lists where one record is too small.

use super::geometry::{Geometry, Run};
use crate::support::put;

/// An attribute to be placed in a record.
#[derive(Clone, Debug)]
pub(super) struct Attr {
    pub(super) kind: u32,
    pub(super) name: Vec<u16>,
    pub(super) flags: u16,
    pub(super) body: Body,
}

/// Where the value is.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Resident { value: Vec<u8>, indexed: bool },
    Mapped(Mapped),
}

/// A value in clusters.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapped {
    pub(super) first: u64,
    pub(super) runs: Vec<Run>,
    pub(super) allocated: u64,
    pub(super) size: u64,
    pub(super) initialised: u64,
    /// log2 of the compression unit in clusters, 0 for none.
    pub(super) unit: u16,
    /// Bytes in real clusters; only for sparse and compressed values.
    pub(super) total: Option<u64>,
}

impl Attr {
    pub(super) fn resident(kind: u32, name: &str, value: Vec<u8>) -> Self {
        let body = Body::Resident {
            value,
            indexed: kind == 0x30,
        };
        Self {
            kind,
            name: name.encode_utf16().collect(),
            flags: 0,
            body,
        }
    }

    pub(super) fn mapped(kind: u32, name: &str, flags: u16, mapped: Mapped) -> Self {
        Self {
            kind,
            name: name.encode_utf16().collect(),
            flags,
            body: Body::Mapped(mapped),
        }
    }

    /// The bytes of the attribute with this instance number.
    pub(super) fn encode(&self, id: u16) -> Vec<u8> {
        let header = match &self.body {
            Body::Resident { .. } => 24,
            Body::Mapped(m) if m.total.is_some() => 72,
            Body::Mapped(_) => 64,
        };
        let value_at = (header + 2 * self.name.len()).next_multiple_of(8);
        let mut b = vec![0; value_at];
        put::u32(&mut b, 0, self.kind);
        b[9] = u8::try_from(self.name.len()).unwrap();
        put::u16(&mut b, 10, u16::try_from(header).unwrap());
        put::u16(&mut b, 12, self.flags);
        put::u16(&mut b, 14, id);
        for (i, unit) in self.name.iter().enumerate() {
            put::u16(&mut b, header + 2 * i, *unit);
        }
        let value_at16 = u16::try_from(value_at).unwrap();
        match &self.body {
            Body::Resident { value, indexed } => {
                put::u32(&mut b, 16, u32::try_from(value.len()).unwrap());
                put::u16(&mut b, 20, value_at16);
                b[22] = u8::from(*indexed);
                b.extend(value);
            }
            Body::Mapped(m) => {
                b[8] = 1;
                let clusters: u64 = m.runs.iter().map(|r| r.1).sum();
                put::u64(&mut b, 16, m.first);
                put::u64(&mut b, 24, (m.first + clusters).wrapping_sub(1));
                put::u16(&mut b, 32, value_at16);
                put::u16(&mut b, 34, m.unit);
                put::u64(&mut b, 40, m.allocated);
                put::u64(&mut b, 48, m.size);
                put::u64(&mut b, 56, m.initialised);
                if let Some(total) = m.total {
                    put::u64(&mut b, 64, total);
                }
                b.extend(encode_runs(&m.runs));
            }
        }
        b.resize(b.len().next_multiple_of(8), 0);
        let len = u32::try_from(b.len()).unwrap();
        put::u32(&mut b, 4, len);
        b
    }

    fn len(&self) -> usize {
        self.encode(0).len()
    }

    fn list_entry_len(&self) -> usize {
        (26 + 2 * self.name.len()).next_multiple_of(8)
    }

    /// Cuts a mapped attribute whose run list is longer than `first` (then `rest`) bytes.
    fn split(self, first: usize, rest: usize) -> Vec<Attr> {
        let Body::Mapped(m) = &self.body else {
            return vec![self];
        };
        if self.len() <= first {
            return vec![self];
        }
        let head = self.len() - encode_runs(&m.runs).len().next_multiple_of(8);
        let mut pieces: Vec<Attr> = Vec::new();
        let mut vcn = m.first;
        let mut from = 0;
        while from < m.runs.len() {
            let room = if from == 0 { first } else { rest } - head - 8;
            // No run takes more than 1 + 5 + 6 bytes in these volumes; measure exactly.
            let mut to = from;
            let mut used = 0;
            let mut lcn = 0;
            while to < m.runs.len() {
                let one = encode_run(m.runs[to], &mut lcn).len();
                if used + one > room {
                    break;
                }
                used += one;
                to += 1;
            }
            let runs = m.runs[from..to].to_vec();
            let clusters: u64 = runs.iter().map(|r| r.1).sum();
            let body = if from == 0 {
                Mapped { runs, ..m.clone() }
            } else {
                Mapped {
                    first: vcn,
                    runs,
                    unit: m.unit,
                    ..Mapped::default()
                }
            };
            vcn += clusters;
            from = to;
            pieces.push(Attr {
                body: Body::Mapped(body),
                ..self.clone()
            });
        }
        pieces
    }
}

/// One run, relative to the last real cluster.
fn encode_run((lcn, len): Run, last: &mut u64) -> Vec<u8> {
    let length = signed_bytes(i64::try_from(len).unwrap());
    let delta = match lcn {
        None => Vec::new(),
        Some(lcn) => {
            let delta = i64::try_from(lcn).unwrap() - i64::try_from(*last).unwrap();
            *last = lcn;
            signed_bytes(delta)
        }
    };
    let mut v = vec![u8::try_from(delta.len() << 4 | length.len()).unwrap()];
    v.extend(length);
    v.extend(delta);
    v
}

/// A whole run list with its terminator.
pub(super) fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let mut last = 0;
    let mut v: Vec<u8> = runs
        .iter()
        .flat_map(|r| encode_run(*r, &mut last))
        .collect();
    v.push(0);
    v
}

/// The shortest two's complement form.
fn signed_bytes(v: i64) -> Vec<u8> {
    let all = v.to_le_bytes();
    let mut n = 8;
    while n > 1 {
        let sign = if all[n - 2] & 0x80 == 0 { 0 } else { 0xff };
        if all[n - 1] != sign {
            break;
        }
        n -= 1;
    }
    all[..n].to_vec()
}

/// How a file's attribute list is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// Only if one record is too small; resident if short.
    #[default]
    Auto,
    /// Always, in the base record; data and index go to extension records.
    Resident,
    /// Always, in clusters of its own.
    NonResident,
    /// Always, and the names go to extension records, too.
    NamesOutside,
}

/// What one record says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) sequence: u16,
    pub(super) links: u16,
    pub(super) flags: u16,
}

/// The layout of records on one volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    pub(super) geometry: Geometry,
    /// 3.1 has the record number at 0x2c, older volumes have the update sequence there.
    pub(super) numbered: bool,
}

impl Records {
    fn usa(&self) -> usize {
        if self.numbered { 0x30 } else { 0x2a }
    }

    pub(super) fn size(&self) -> usize {
        usize::try_from(self.geometry.record).unwrap()
    }

    fn start(&self) -> usize {
        (self.usa() + 2 * (self.size() / 512 + 1)).next_multiple_of(8)
    }

    /// Bytes for attributes in one record.
    pub(super) fn room(&self) -> usize {
        self.size() - self.start() - 8
    }

    /// A record that was formatted but never used.
    pub(super) fn free(&self, number: u64) -> Vec<u8> {
        self.encode(
            Head {
                number,
                sequence: 1,
                links: 0,
                flags: 0,
            },
            0,
            &[],
        )
    }

    /// A record up to its end marker; the update sequence is applied when it is written.
    fn encode(&self, head: Head, base: u64, attrs: &[(u16, &Attr)]) -> Vec<u8> {
        let mut b = vec![0; self.start()];
        put::bytes(&mut b, 0, b"FILE");
        put::u16(&mut b, 4, u16::try_from(self.usa()).unwrap());
        put::u16(&mut b, 6, u16::try_from(self.size() / 512 + 1).unwrap());
        put::u16(&mut b, 16, head.sequence);
        put::u16(&mut b, 18, head.links);
        put::u16(&mut b, 20, u16::try_from(self.start()).unwrap());
        put::u16(&mut b, 22, head.flags);
        put::u32(&mut b, 28, u32::try_from(self.size()).unwrap());
        put::u64(&mut b, 32, base);
        let next = attrs.iter().map(|a| a.0 + 1).max().unwrap_or(0);
        put::u16(&mut b, 40, next);
        if self.numbered {
            put::u32(&mut b, 44, u32::try_from(head.number).unwrap());
        }
        for (id, attr) in attrs {
            b.extend(attr.encode(*id));
        }
        b.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let used = u32::try_from(b.len()).unwrap();
        put::u32(&mut b, 24, used);
        assert!(
            b.len() <= self.size(),
            "record {}: {} bytes",
            head.number,
            b.len()
        );
        b
    }
}

/// A file spread over its records.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// Attributes per record, the base record first; the list itself is not among them.
    records: Vec<Vec<usize>>,
    pieces: Vec<Attr>,
    list: Option<bool>,
}

impl Packed {
    /// How many extension records are needed.
    pub(super) fn extensions(&self) -> usize {
        self.records.len().saturating_sub(1)
    }

    /// The length of the attribute list if it needs clusters.
    pub(super) fn list_clusters(&self) -> Option<usize> {
        self.list
            .filter(|resident| !resident)
            .map(|_| self.list_len())
    }

    fn list_len(&self) -> usize {
        self.pieces.iter().map(Attr::list_entry_len).sum()
    }
}

/// Spreads `attrs` over as many records as needed. `head_first` keeps the first piece of every
/// mapped attribute short enough for the base record (`$MFT` needs that).
pub(super) fn pack(layout: &Records, mut attrs: Vec<Attr>, list: List, head_first: bool) -> Packed {
    attrs.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let total: usize = attrs.iter().map(Attr::len).sum();
    if list == List::Auto && total <= layout.room() {
        return Packed {
            records: vec![(0..attrs.len()).collect()],
            pieces: attrs,
            list: None,
        };
    }
    let first = if head_first {
        layout.room() / 2
    } else {
        layout.room()
    };
    let pieces: Vec<Attr> = attrs
        .into_iter()
        .flat_map(|a| a.split(first, layout.room()))
        .collect();
    let list_len: usize = 24 + pieces.iter().map(Attr::list_entry_len).sum::<usize>();
    let resident = match list {
        List::Auto => list_len <= layout.room() / 3,
        List::NonResident => false,
        List::Resident | List::NamesOutside => true,
    };
    let mut base = Vec::new();
    let mut used = if resident {
        list_len.next_multiple_of(8)
    } else {
        80
    };
    let mut outside: Vec<(usize, Vec<usize>)> = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let len = piece.len();
        let stays = match list {
            List::Auto => true,
            List::NamesOutside => piece.kind == 0x10,
            List::Resident | List::NonResident => piece.kind <= 0x30,
        };
        // Later pieces of a stream never go back to the base record.
        let later = matches!(&piece.body, Body::Mapped(m) if m.first > 0);
        if stays && !later && used + len <= layout.room() {
            used += len;
            base.push(i);
            continue;
        }
        match outside.last_mut() {
            Some((full, ids)) if *full + len <= layout.room() => {
                *full += len;
                ids.push(i);
            }
            _ => outside.push((len, vec![i])),
        }
    }
    let mut records = vec![base];
    records.extend(outside.into_iter().map(|o| o.1));
    Packed {
        records,
        pieces,
        list: Some(resident),
    }
}

impl Packed {
    /// The records' bytes (number, bytes to the end marker) and the attribute list's bytes.
    /// `extensions` are the numbers of the extension records, `list_runs` the clusters of the list.
    pub(super) fn records(
        &self,
        layout: &Records,
        head: Head,
        extensions: &[u64],
        list_runs: Vec<Run>,
    ) -> (Vec<(u64, Vec<u8>)>, Vec<u8>) {
        let base_ref = head.number | u64::from(head.sequence) << 48;
        let numbers: Vec<u64> = [head.number]
            .into_iter()
            .chain(extensions.iter().copied())
            .collect();
        let mut list = Vec::new();
        let mut place = vec![(0, 0); self.pieces.len()];
        for (record, ids) in self.records.iter().enumerate() {
            for (at, piece) in ids.iter().enumerate() {
                place[*piece] = (record, u16::try_from(at).unwrap());
            }
        }
        for (piece, (record, id)) in self.pieces.iter().zip(&place) {
            let mut e = vec![0; piece.list_entry_len()];
            let len = u16::try_from(e.len()).unwrap();
            put::u32(&mut e, 0, piece.kind);
            put::u16(&mut e, 4, len);
            e[6] = u8::try_from(piece.name.len()).unwrap();
            e[7] = 26;
            let vcn = match &piece.body {
                Body::Mapped(m) => m.first,
                Body::Resident { .. } => 0,
            };
            put::u64(&mut e, 8, vcn);
            let sequence = if *record == 0 { head.sequence } else { 1 };
            put::u64(&mut e, 16, numbers[*record] | u64::from(sequence) << 48);
            put::u16(&mut e, 24, *id);
            for (i, unit) in piece.name.iter().enumerate() {
                put::u16(&mut e, 26 + 2 * i, *unit);
            }
            list.extend(e);
        }
        let list_attr = self.list.map(|resident| {
            if resident {
                return Attr::resident(0x20, "", list.clone());
            }
            let clusters: u64 = list_runs.iter().map(|r| r.1).sum();
            let size = list.len() as u64;
            let mapped = Mapped {
                runs: list_runs,
                allocated: clusters * layout.geometry.cluster,
                size,
                initialised: size,
                ..Mapped::default()
            };
            Attr::mapped(0x20, "", 0, mapped)
        });
        let mut out = Vec::new();
        for (record, ids) in self.records.iter().enumerate() {
            let mut attrs: Vec<(u16, &Attr)> = ids
                .iter()
                .enumerate()
                .map(|(at, piece)| (u16::try_from(at).unwrap(), &self.pieces[*piece]))
                .collect();
            if record == 0 {
                if let Some(list_attr) = &list_attr {
                    let at = attrs
                        .iter()
                        .position(|a| a.1.kind > 0x20)
                        .unwrap_or(attrs.len());
                    attrs.insert(at, (u16::try_from(ids.len()).unwrap(), list_attr));
                }
                out.push((head.number, layout.encode(head, 0, &attrs)));
            } else {
                let flags = head.flags & 1;
                let number = numbers[record];
                let head = Head {
                    number,
                    sequence: 1,
                    links: 0,
                    flags,
                };
                out.push((number, layout.encode(head, base_ref, &attrs)));
            }
        }
        (out, list)
    }
}

/// Puts the update sequence `usn` into a record or index block of whole 512-byte strides.
pub(super) fn protect(block: &mut [u8], usn: u16) {
    let usa = usize::from(put::get16(block, 4));
    put::u16(block, usa, usn);
    for i in 0..block.len() / 512 {
        let end = 512 * i + 510;
        let kept = put::get16(block, end);
        put::u16(block, usa + 2 + 2 * i, kept);
        put::u16(block, end, usn);
    }
}
