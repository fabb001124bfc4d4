//! Security identifiers, and where Windows keeps the computer's own.

use crate::bytes::View;

/// Windows: a SID has at most 15 sub-authorities.
const MAX_PARTS: u8 = 15;
/// Revision, count and authority.
const HEAD_LEN: usize = 8;

/// A SID as text (`S-1-5-21-...`), if the bytes begin with one; what follows it is not looked at.
///
/// Layout ([MS-DTYP] 2.4.2.2): revision 1, number of sub-authorities, authority (6 bytes, big-endian),
/// sub-authorities (4 bytes each, little-endian).
#[must_use]
pub fn parse_sid(bytes: &[u8]) -> Option<String> {
    let view = View::new(bytes, "SID");
    let count = view.u8(1).ok()?;
    if view.u8(0).ok()? != 1 || count > MAX_PARTS {
        return None;
    }
    let authority: [u8; 6] = view.array(2).ok()?;
    let authority = authority
        .iter()
        .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let mut text = format!("S-1-{authority}");
    for part in 0..usize::from(count) {
        let number = view.u32(HEAD_LEN.checked_add(part.checked_mul(4)?)?).ok()?;
        text.push_str(&format!("-{number}"));
    }
    Some(text)
}

/// Where the parts of SAM's `V` begin; the table before them has 12 bytes a part.
const V_PARTS: usize = 0x30;
/// In that table: where the domain's SID is (its second part), and how long it is.
const V_SID: (usize, usize) = (0x0C, 0x10);

/// The computer's SID in the value `V` of `SAM\Domains\Account`.
///
/// A table of offset and length leads to it. In NT 4.0 a name follows it, later nothing does, and many
/// tools take the last 12 bytes for its three numbers: so do we if the table names no SID.
#[must_use]
pub fn sid_of_account_domain(v: &[u8]) -> Option<String> {
    let view = View::new(v, "account domain");
    let number = |at| view.u32(at).ok().and_then(|n| usize::try_from(n).ok());
    if let (Some(at), Some(len @ 1..)) = (number(V_SID.0), number(V_SID.1)) {
        return parse_sid(view.get(at.checked_add(V_PARTS)?, len).ok()?);
    }
    let at = v.len().checked_sub(12)?;
    let part = |n: usize| view.u32(at.checked_add(n)?).ok();
    Some(format!("S-1-5-21-{}-{}-{}", part(0)?, part(4)?, part(8)?))
}

/// The text of an LSA policy value: a length in bytes, the buffer's length, the text's offset, the text.
#[must_use]
pub fn policy_text(bytes: &[u8]) -> Option<String> {
    let view = View::new(bytes, "policy text");
    let len = usize::from(view.u16(0).ok()?);
    let at = usize::try_from(view.u32(4).ok()?).ok()?;
    let units = view.units(at, len / 2).ok()?;
    Some(
        String::from_utf16_lossy(&units)
            .trim_end_matches('\0')
            .to_owned(),
    )
}

/// Whether this is written as a SID.
#[must_use]
pub fn is_sid(text: &str) -> bool {
    let mut parts = text.split('-');
    let numbers = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    parts.next().is_some_and(|s| s.eq_ignore_ascii_case("S"))
        && parts.clone().count() >= 2
        && parts.all(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SID: [u8; 24] = [
        1, 4, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 0xC9, 0xFD, 0x9D, 0x09, 0x9B, 0xFB, 0xB7, 0x0D, 0x36,
        0x13, 0x46, 0x6E,
    ];

    #[test]
    fn a_sid_reads_as_windows_writes_it() {
        let text = "S-1-5-21-161349065-230161307-1850086198";
        assert_eq!(parse_sid(&SID).as_deref(), Some(text));
        let mut v = vec![0; V_PARTS + 8];
        v.extend(SID);
        assert_eq!(sid_of_account_domain(&v).as_deref(), Some(text), "no table");
        v.extend(b"S\0E\0R\0V\0E\0R\0");
        v[V_SID.0] = 8;
        v[V_SID.1] = 24;
        assert_eq!(
            sid_of_account_domain(&v).as_deref(),
            Some(text),
            "a name behind it"
        );
        for byte in [V_SID.0, V_SID.0 + 3, V_SID.1 + 1] {
            let mut v = v.clone();
            v[byte] = 0xFF;
            assert_eq!(sid_of_account_domain(&v), None, "{byte:#x}");
        }
        assert!(is_sid(text) && !is_sid("S-1-5-21-") && !is_sid("SID") && !is_sid("S"));
        assert_eq!(
            parse_sid(&[1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).as_deref(),
            Some("S-1-1-0")
        );
    }

    #[test]
    fn what_is_cut_off_is_no_sid() {
        for len in 0..SID.len() {
            assert_eq!(parse_sid(SID.get(..len).unwrap_or_default()), None, "{len}");
        }
        let mut many = SID;
        many[1] = 16;
        assert_eq!(parse_sid(&many), None);
        assert_eq!(sid_of_account_domain(&[0; 11]), None);
    }

    #[test]
    fn policy_texts_stay_in_their_bytes() {
        let text = [
            8, 0, 10, 0, 8, 0, 0, 0, b'T', 0, b'E', 0, b'S', 0, b'T', 0, 0, 0,
        ];
        assert_eq!(policy_text(&text).as_deref(), Some("TEST"));
        assert_eq!(policy_text(text.get(..15).unwrap_or_default()), None);
        assert_eq!(
            policy_text(&[0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
            None
        );
    }
}
