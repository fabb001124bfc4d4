//! File names: namespaces, made-up short names, `$FILE_NAME` values.

use std::collections::{HashMap, HashSet};

use super::{Names, Node};
use crate::support::put;

/// One `$FILE_NAME` to be.
#[derive(Clone, Debug)]
pub(super) struct FileName {
    pub(super) parent: usize,
    pub(super) units: Vec<u16>,
    pub(super) space: u8,
}

/// What directory entries repeat about a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Duplicate {
    pub(super) allocated: u64,
    pub(super) size: u64,
    pub(super) attributes: u32,
    pub(super) tag: u32,
}

/// The `$FILE_NAME` attributes of every node.
pub(super) fn resolve(nodes: &[Node]) -> Vec<Vec<FileName>> {
    let mut taken: HashSet<(usize, String)> = HashSet::new();
    for name in nodes.iter().flat_map(|n| &n.names) {
        taken.insert((name.parent, name.name.to_uppercase()));
    }
    let mut counters: HashMap<(usize, String), u32> = HashMap::new();
    let mut all = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut list = Vec::new();
        for name in &node.names {
            let mut push = |text: &str, space| {
                let units = text.encode_utf16().collect();
                list.push(FileName {
                    parent: name.parent,
                    units,
                    space,
                });
            };
            match &name.kind {
                Names::Posix => push(&name.name, 0),
                Names::Win32 => push(&name.name, 1),
                Names::Both => push(&name.name, 3),
                Names::Auto if is_short(&name.name) => push(&name.name, 3),
                Names::Pair(short) => {
                    push(&name.name, 1);
                    push(short, 2);
                }
                Names::Auto => {
                    push(&name.name, 1);
                    push(
                        &short_name(name.parent, &name.name, &mut taken, &mut counters),
                        2,
                    );
                }
            }
        }
        all.push(list);
    }
    all
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || "$%'-_@~`!(){}^#&".contains(c)
}

/// Whether Windows takes the name for an 8.3 name as it is (but for its case).
fn is_short(name: &str) -> bool {
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    (1..=8).contains(&base.len())
        && extension.len() <= 3
        && name.ends_with('.') == name.is_empty()
        && base.chars().chain(extension.chars()).all(allowed)
}

fn short_name(
    parent: usize,
    name: &str,
    taken: &mut HashSet<(usize, String)>,
    counters: &mut HashMap<(usize, String), u32>,
) -> String {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let clean = |s: &str, n: usize| -> String {
        s.chars()
            .filter(|c| allowed(*c))
            .take(n)
            .collect::<String>()
            .to_ascii_uppercase()
    };
    let base = clean(base, 6);
    let mut extension = clean(extension, 3);
    if !extension.is_empty() {
        extension.insert(0, '.');
    }
    let counter = counters
        .entry((parent, format!("{base}{extension}")))
        .or_insert(0);
    loop {
        *counter += 1;
        let tail = format!("~{counter}");
        let keep = base.len().min(8 - tail.len());
        let short = format!("{}{tail}{extension}", &base[..keep]);
        if taken.insert((parent, short.clone())) {
            return short;
        }
    }
}

/// The value of a `$FILE_NAME` attribute, and the key of its directory entry.
pub(super) fn value(parent: u64, units: &[u16], space: u8, duplicate: &Duplicate) -> Vec<u8> {
    let mut v = vec![0; 66 + 2 * units.len()];
    put::u64(&mut v, 0, parent);
    for at in [8, 16, 24, 32] {
        put::u64(&mut v, at, super::TIME);
    }
    put::u64(&mut v, 40, duplicate.allocated);
    put::u64(&mut v, 48, duplicate.size);
    put::u32(&mut v, 56, duplicate.attributes);
    put::u32(&mut v, 60, duplicate.tag);
    v[64] = u8::try_from(units.len()).unwrap();
    v[65] = space;
    for (i, unit) in units.iter().enumerate() {
        put::u16(&mut v, 66 + 2 * i, *unit);
    }
    v
}
