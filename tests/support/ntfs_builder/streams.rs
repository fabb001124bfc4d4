//! Streams to clusters: plain, fragmented, sparse, compressed.

use super::attribute::{Attr, Mapped};
use super::geometry::{Clusters, Geometry, Output, Run, write_stream};
use super::{Content, Stream, lznt1};
use crate::support::put;

/// Clusters in a compression unit.
const UNIT: u64 = 16;

/// Appends a run, joined to the last one where they touch.
fn push(runs: &mut Vec<Run>, run: Run) {
    if run.1 == 0 {
        return;
    }
    if let Some(last) = runs.last_mut() {
        let touches = match (last.0, run.0) {
            (Some(a), Some(b)) => a + last.1 == b,
            (None, None) => true,
            _ => false,
        };
        if touches {
            last.1 += run.1;
            return;
        }
    }
    runs.push(run);
}

fn real(runs: &[Run]) -> u64 {
    runs.iter().filter(|r| r.0.is_some()).map(|r| r.1).sum()
}

/// Places `stream` in clusters, writes it, and gives its attribute.
pub(super) fn mapped(
    g: &Geometry,
    clusters: &mut Clusters,
    out: &mut Output<'_>,
    stream: &Stream,
) -> Attr {
    let size = stream.content.len();
    let mut m = Mapped {
        size,
        initialised: stream.initialised.unwrap_or(size),
        ..Mapped::default()
    };
    let mut flags = 0;
    if stream.compressed {
        flags = 0x0001;
        m.unit = 4;
        compressed(g, clusters, out, &stream.content.bytes(), &mut m);
    } else if let Content::Sparse { pieces, .. } = &stream.content {
        flags = 0x8000;
        m.unit = 4;
        sparse(g, clusters, out, size, pieces, &mut m);
    } else {
        let count = size.div_ceil(g.cluster);
        m.runs = clusters.take_pieces(count, stream.piece);
        m.allocated = count * g.cluster;
        if !matches!(stream.content, Content::Unwritten(_)) {
            write_stream(out, g.cluster, &m.runs, 0, &stream.content.bytes());
        }
    }
    if flags != 0 {
        m.total = Some(real(&m.runs) * g.cluster);
    }
    write_stream(out, g.cluster, &m.runs, size, &stream.tail);
    Attr::mapped(0x80, &stream.name, flags, m)
}

fn sparse(
    g: &Geometry,
    clusters: &mut Clusters,
    out: &mut Output<'_>,
    size: u64,
    pieces: &[(u64, Vec<u8>)],
    m: &mut Mapped,
) {
    let unit = UNIT * g.cluster;
    m.allocated = put::round_up(size, unit);
    let mut at = 0;
    for (from, bytes) in pieces {
        let end = from + bytes.len() as u64;
        let (a, b) = (
            (from / unit * unit).max(at),
            put::round_up(end, unit).max(at),
        );
        push(&mut m.runs, (None, (a - at) / g.cluster));
        for run in clusters.take_pieces((b - a) / g.cluster, None) {
            push(&mut m.runs, run);
        }
        at = b;
    }
    push(&mut m.runs, (None, (m.allocated - at) / g.cluster));
    for (from, bytes) in pieces {
        write_stream(out, g.cluster, &m.runs, *from, bytes);
    }
}

fn compressed(
    g: &Geometry,
    clusters: &mut Clusters,
    out: &mut Output<'_>,
    data: &[u8],
    m: &mut Mapped,
) {
    let unit = usize::try_from(UNIT * g.cluster).unwrap();
    for piece in data.chunks(unit) {
        m.allocated += unit as u64;
        if piece.iter().all(|b| *b == 0) {
            push(&mut m.runs, (None, UNIT));
            continue;
        }
        let packed = lznt1::compress(piece);
        let count = (packed.len() as u64).div_ceil(g.cluster);
        let (bytes, count) = if count < UNIT {
            (packed.as_slice(), count)
        } else {
            (piece, UNIT)
        };
        let at = clusters.take(count);
        out.write(at * g.cluster, bytes);
        push(&mut m.runs, (Some(at), count));
        push(&mut m.runs, (None, UNIT - count));
    }
}
