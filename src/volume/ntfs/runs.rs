//! Runs (mapping pairs): which clusters a stream lies in.
//!
//! Header byte: low nibble = bytes of the length, high nibble = bytes of the LCN's difference to
//! the previous real run (0: a hole); a zero byte ends the list.

use crate::{
    error::{Error, Result},
    units::{Lcn, Vcn},
};

/// A stretch of neighbouring clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First cluster in the stream.
    pub vcn: Vcn,
    /// First cluster in the volume; `None` is a hole.
    pub lcn: Option<Lcn>,
    /// How many clusters.
    pub clusters: u64,
}

impl Run {
    /// The cluster after the last in the stream. Cannot overflow in a run from [`parse_runs`].
    #[must_use]
    pub fn end_vcn(&self) -> Vcn {
        Vcn(self.vcn.get().saturating_add(self.clusters))
    }

    /// The cluster after the last in the volume.
    #[must_use]
    pub fn end_lcn(&self) -> Option<Lcn> {
        self.lcn
            .map(|lcn| Lcn(lcn.get().saturating_add(self.clusters)))
    }
}

/// Parses runs up to and including their end byte. `bytes` starts at the first header and ends
/// where the attribute ends, which bounds the work; every real run must lie inside the volume.
pub fn parse_runs(bytes: &[u8], first_vcn: Vcn, cluster_count: u64) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    each_run(bytes, first_vcn, cluster_count, |run| runs.push(run))?;
    Ok(runs)
}

/// As [`parse_runs`] without collecting; returns the bytes used, end byte included.
pub fn each_run(
    bytes: &[u8],
    first_vcn: Vcn,
    cluster_count: u64,
    mut take: impl FnMut(Run),
) -> Result<usize> {
    let mut at = 0usize;
    let mut vcn = first_vcn.get();
    let mut lcn = 0u64;
    loop {
        let Some((header, rest)) = bytes.get(at..).and_then(<[u8]>::split_first) else {
            return Err(bad(at, "end byte", "the end of the attribute"));
        };
        if *header == 0 {
            return Ok(at.saturating_add(1));
        }
        let length_len = usize::from(header & 0x0F);
        let delta_len = usize::from(header >> 4);
        if !(1..=8).contains(&length_len) || delta_len > 8 {
            return Err(bad(
                at,
                "field lengths of 1 to 8",
                format_args!("header {header:#04x}"),
            ));
        }
        let fields = length_len.saturating_add(delta_len);
        let Some((length, delta)) = rest
            .get(..fields)
            .and_then(|fields| fields.split_at_checked(length_len))
        else {
            return Err(bad(
                at,
                "the run inside the attribute",
                format_args!("header {header:#04x} and {} bytes", rest.len()),
            ));
        };
        let clusters = match u64::try_from(signed(length)) {
            Ok(clusters) if clusters != 0 => clusters,
            _ => {
                return Err(bad(
                    at,
                    "a length above 0",
                    format_args!("{}", signed(length)),
                ));
            }
        };
        // A stream is at most 2^63 bytes, so a VCN never comes near this.
        let next_vcn = match vcn.checked_add(clusters) {
            Some(next) if next <= i64::MAX.unsigned_abs() => next,
            _ => {
                return Err(bad(
                    at,
                    "a stream below 2^63 clusters",
                    format_args!("length {clusters:#x}"),
                ));
            }
        };
        let place = if delta_len == 0 {
            None
        } else {
            lcn = lcn
                .checked_add_signed(signed(delta))
                .filter(|lcn| {
                    lcn.checked_add(clusters)
                        .is_some_and(|end| end <= cluster_count)
                })
                .ok_or_else(|| {
                    bad(
                        at,
                        "clusters inside the volume",
                        format_args!(
                            "{clusters:#x} clusters at {lcn:#x}{:+#x}, the volume has {cluster_count:#x}",
                            signed(delta)
                        ),
                    )
                })?;
            Some(Lcn(lcn))
        };
        take(Run {
            vcn: Vcn(vcn),
            lcn: place,
            clusters,
        });
        vcn = next_vcn;
        at = at.saturating_add(1).saturating_add(fields);
    }
}

/// A little-endian signed number of up to 8 bytes.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|top| top & 0x80 != 0);
    let mut wide = [if negative { 0xFF } else { 0 }; 8];
    for (to, from) in wide.iter_mut().zip(bytes) {
        *to = *from;
    }
    i64::from_le_bytes(wide)
}

fn bad(at: usize, expected: &str, found: impl std::fmt::Display) -> Error {
    Error::malformed(format!("runs: {expected} expected, found {found}"))
        .at("run list offset", format_args!("{at:#x}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn deltas_skip_holes() {
        let runs = parse_runs(
            &[
                0x21, 0x18, 0x34, 0x06, 0x01, 0x10, 0x11, 0x08, 0xE0, 0, 0xFF,
            ],
            Vcn(0),
            0x1000,
        )
        .unwrap();
        assert_eq!(
            runs,
            [
                Run {
                    vcn: Vcn(0),
                    lcn: Some(Lcn(0x634)),
                    clusters: 0x18
                },
                Run {
                    vcn: Vcn(0x18),
                    lcn: None,
                    clusters: 0x10
                },
                Run {
                    vcn: Vcn(0x28),
                    lcn: Some(Lcn(0x614)),
                    clusters: 8
                },
            ]
        );
        assert_eq!(parse_runs(&[0], Vcn(7), 1).unwrap(), []);
    }

    #[test]
    fn hostile_runs_are_refused() {
        for bytes in [
            &[][..],
            &[0x11],
            &[
                0x99, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0,
            ],
            &[0xF1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
            &[0x1F, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
            &[0x10, 1, 0],
            &[0x11, 0, 1, 0],
            &[0x11, 0xFF, 1, 0],
            &[0x11, 1, 0xFF, 0],
            &[0x11, 9, 8, 0],
            &[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 1, 0],
            &[0x81, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0],
            &[
                0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0x01, 1, 0,
            ],
            &[0x11, 1, 1],
        ] {
            assert!(parse_runs(bytes, Vcn(0), 16).is_err(), "{bytes:x?}");
        }
    }
}
