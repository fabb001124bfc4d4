//! What a UUID tells about where it was made: version 1 holds a network address and a time.

use std::fmt::Write as _;

/// 100-nanosecond steps between 1582-10-15 (UUID) and 1970-01-01.
const GREGORIAN_TO_UNIX: u64 = 0x01B2_1DD2_1381_4000;
/// 100-nanosecond steps between 1601-01-01 (FILETIME) and 1970-01-01.
const FILETIME_TO_UNIX: u64 = 116_444_736_000_000_000;

/// What a UUID's own bytes say, in words. `text` is 36 characters, hyphens included.
///
/// Layout: RFC 9562, 5.1: time_low, time_mid, version and time_high, variant and clock, node.
#[must_use]
pub fn describe_uuid(text: &str) -> Option<String> {
    let mut parts = text.split('-');
    let mut part = |len: usize| {
        let part = parts.next().filter(|part| part.len() == len)?;
        u64::from_str_radix(part, 16).ok()
    };
    let (low, mid, high, clock, node) = (part(8)?, part(4)?, part(4)?, part(4)?, part(12)?);
    let version = high >> 12;
    if clock >> 14 != 0b10 {
        return None;
    }
    if version != 1 {
        return Some(format!("UUID version {version}"));
    }
    let time = (high & 0x0FFF) << 48 | mid << 32 | low;
    let mut mac = String::new();
    for shift in [40, 32, 24, 16, 8, 0] {
        let colon = if mac.is_empty() { "" } else { ":" };
        // Writing to a string does not fail.
        let _ = write!(mac, "{colon}{:02X}", node >> shift & 0xFF);
    }
    // The multicast bit marks a number that was made up.
    let whose = match node >> 40 & 1 {
        1 => "on a machine without a network card, node",
        _ => "on network card",
    };
    let when = time
        .checked_sub(GREGORIAN_TO_UNIX)
        .map_or_else(|| "before 1970".to_owned(), |t| utc(t / 10_000_000));
    Some(format!("UUID version 1: made {whose} {mac}, {when}"))
}

/// A FILETIME in words; 0 is none.
#[must_use]
pub fn filetime(time: u64) -> Option<String> {
    let unix = time.checked_sub(FILETIME_TO_UNIX)?;
    Some(utc(unix / 10_000_000))
}

/// Seconds since 1970 as `2003-05-06 12:34:56 UTC`.
#[must_use]
pub fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01; years begin in March, so that the leap day is the last of them.
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_tells_the_card_and_the_time() {
        // The example of RFC 9562, appendix A.1.
        assert_eq!(
            describe_uuid("C232AB00-9414-11EC-B3C8-9F6BDECED846").as_deref(),
            Some(
                "UUID version 1: made on a machine without a network card, node \
                 9F:6B:DE:CE:D8:46, 2022-02-22 19:22:22 UTC"
            )
        );
        assert!(
            describe_uuid("C232AB00-9414-11EC-B3C8-000C29DED846")
                .is_some_and(|text| text.contains("on network card 00:0C:29:DE:D8:46"))
        );
        assert_eq!(
            describe_uuid("919108F7-52D1-4320-9BAC-F847DB4148A8").as_deref(),
            Some("UUID version 4")
        );
    }

    #[test]
    fn what_is_no_uuid_says_nothing() {
        for text in [
            "",
            "----",
            "C232AB00-9414-11EC-03C8-9F6BDECED846",
            "xyz",
            "ABC0000F",
        ] {
            assert_eq!(describe_uuid(text), None, "{text}");
        }
        assert_eq!(
            describe_uuid("00000000-0000-1000-8000-000000000000")
                .map(|t| t.contains("before 1970")),
            Some(true)
        );
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(
            filetime(0x01c5_37f0_5a2b_4e00).as_deref(),
            Some("2005-04-03 01:56:29 UTC")
        );
        assert_eq!(filetime(0), None);
        assert!(filetime(u64::MAX).is_some());
    }
}
