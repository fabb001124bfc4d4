//! A file that is one part of a split one, as `split`, FTK Imager and OVF's chunks name them: which
//! others lie beside it, and how they become one file again.
//!
//! Only names are looked at, and only to advise: nothing is opened.

use crate::{device::Neighbours, text::escape};

/// Most names of a directory that are looked at.
const LIMIT: usize = 10_000;

/// Most names that are told one by one.
const SHOWN: usize = 3;

/// What to do with a file whose name says that it is a part of a split one, if others lie beside it.
pub fn advice(near: &Neighbours) -> Option<String> {
    let own = near.own_name()?;
    let names = near.names(LIMIT).ok()?;
    numbered(own, &names).or_else(|| lettered(own, &names))
}

/// `disk.001`, `disk.002`...; `disk.vmdk.000000000`, `disk.vmdk.000000001`...
fn numbered(own: &str, names: &[String]) -> Option<String> {
    let (stem, digits) = own.rsplit_once('.')?;
    let number = |digits: &str| -> Option<u32> {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        (plain && (2..=9).contains(&digits.len()))
            .then(|| digits.parse().ok())
            .flatten()
    };
    let mine = number(digits)?;
    let mut others: Vec<(u32, &str)> = names
        .iter()
        .filter_map(|name| {
            let (other, end) = name.rsplit_once('.')?;
            (other == stem && end.len() == digits.len())
                .then(|| Some((number(end)?, name.as_str())))
                .flatten()
        })
        .collect();
    if others.is_empty() {
        return None;
    }
    others.sort_unstable();
    let told: Vec<&str> = others.iter().map(|(_, name)| *name).collect();
    let told = list(&told);
    let mut all: Vec<u32> = others.iter().map(|(number, _)| *number).collect();
    all.push(mine);
    all.sort_unstable();
    let first = u32::from(!all.contains(&0));
    let gap = (first..).zip(&all).find(|(want, is)| want != *is);
    if let Some((want, _)) = gap {
        let missing = format!("{stem}.{want:0width$}", width = digits.len());
        return Some(format!(
            "by its name it is a part of a split file, {told} beside it, and {} is missing: find \
             that first",
            escape(&missing)
        ));
    }
    let width = digits.len();
    let last = all.last().copied().unwrap_or(mine);
    let (low, high) = (format!("{first:0width$}"), format!("{last:0width$}"));
    let same = low.bytes().zip(high.bytes());
    let same = same.take_while(|(low, high)| low == high).count();
    let fixed = low.get(..same)?;
    let open = "[0-9]".repeat(width.saturating_sub(same));
    Some(joined(
        &told,
        stem,
        &format!("{}.{fixed}{open}", shell(stem)),
    ))
}

/// `disk.aa`, `disk.ab`..., or `xaa`, `xab`...
fn lettered(own: &str, names: &[String]) -> Option<String> {
    let ends = |name: &str| {
        let end = name.len().checked_sub(2)?;
        let (stem, end) = name.split_at_checked(end)?;
        let small = end.bytes().all(|byte| byte.is_ascii_lowercase());
        small.then(|| (stem.to_owned(), end.to_owned()))
    };
    let (stem, mine) = ends(own)?;
    let mut others: Vec<&str> = names
        .iter()
        .filter(|name| ends(name).is_some_and(|(other, _)| other == stem))
        .map(String::as_str)
        .collect();
    others.sort_unstable();
    let has = |end: &str| mine == end || others.iter().any(|name| **name == format!("{stem}{end}"));
    if others.is_empty() || !has("aa") || !has("ab") {
        return None;
    }
    let pattern = format!("{}[a-z][a-z]", shell(&stem));
    let whole = stem.trim_end_matches(['.', '_', '-']);
    Some(joined(&list(&others), whole, &pattern))
}

fn joined(told: &str, stem: &str, pattern: &str) -> String {
    let whole = match stem.contains('.') {
        true => shell(stem),
        false => "whole.img".to_owned(),
    };
    format!(
        "by its name it is a part of a split file, {told} beside it: put the parts together first, \
         cat {pattern} > {whole}, and give that"
    )
}

/// `disk.002 lies`, or `disk.002, disk.003 and 5 more lie`.
fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| escape(name)).collect();
    let verb = match names.len() {
        1 => "lies",
        _ => "lie",
    };
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => format!("{} {verb}", shown.join(", ")),
        Some(more) => format!("{} and {more} more {verb}", shown.join(", ")),
    }
}

/// A name as a shell takes it.
fn shell(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+@,".contains(c);
    match name.chars().all(plain) {
        true => name.to_owned(),
        false => format!("'{}'", escape(&name.replace('\'', "'\\''"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(own: &str, names: &[&str]) -> Option<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        numbered(own, &names).or_else(|| lettered(own, &names))
    }

    #[test]
    fn parts_are_named_and_put_together() {
        let two = of(
            "disk.001",
            &["disk.002", "other.003", "disk.txt", "disk.0003"],
        )
        .unwrap();
        assert!(two.contains("disk.002 lies beside it"), "{two}");
        assert!(two.contains("cat disk.00[0-9] > whole.img"), "{two}");
        let names: Vec<String> = (1..=12).map(|n| format!("d.img.{n:03}")).collect();
        let many = of(
            "d.img.000",
            &names.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        let many = many.unwrap();
        assert!(many.contains("d.img.003 and 9 more lie"), "{many}");
        assert!(many.contains("cat d.img.0[0-9][0-9] > d.img,"), "{many}");
        let chunk = of("d 1.vmdk.000000001", &["d 1.vmdk.000000000"]).unwrap();
        assert!(
            chunk.contains("cat 'd 1.vmdk'.00000000[0-9] > 'd 1.vmdk',"),
            "{chunk}"
        );
        let split = of("xab", &["xaa", "xac"]).unwrap();
        assert!(split.contains("cat x[a-z][a-z] > whole.img"), "{split}");
    }

    #[test]
    fn a_missing_part_is_named() {
        let gap = of("disk.001", &["disk.002", "disk.004"]).unwrap();
        assert!(gap.contains("disk.003 is missing"), "{gap}");
        let gap = of("disk.003", &["disk.002"]).unwrap();
        assert!(gap.contains("disk.001 is missing"), "{gap}");
    }

    #[test]
    fn other_names_say_nothing() {
        for (own, names) in [
            ("disk.001", &["disk.img", "other.002"][..]),
            ("disk.1", &["disk.2"]),
            ("disk.img", &["disk.raw"]),
            ("ab", &["cd"]),
            ("disk.0000000001", &["disk.0000000002"]),
            ("ä", &["aa", "ab"]),
        ] {
            assert_eq!(of(own, names), None, "{own}");
        }
    }
}
