//! Seeded chance, and the subsets of what a power cut keeps.

use std::collections::HashSet;

/// Most units that a subset tells apart.
const MAX_UNITS: usize = 1024;

/// `splitmix64`: the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// Which units a power cut keeps.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subset(Box<[u64]>);

impl std::fmt::Debug for Subset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = (0..self.0.len() * 64).filter(|unit| self.has(*unit));
        f.debug_set().entries(kept).finish()
    }
}

impl Subset {
    fn of(units: usize, keep: impl Fn(usize) -> bool) -> Self {
        assert!(units <= MAX_UNITS, "{units} units are pending");
        let mut bits = vec![0; units.div_ceil(64)];
        for unit in (0..units).filter(|unit| keep(*unit)) {
            bits[unit / 64] |= 1 << (unit % 64);
        }
        Self(bits.into())
    }

    pub fn has(&self, unit: usize) -> bool {
        self.0[unit / 64] >> (unit % 64) & 1 == 1
    }
}

/// How many subsets are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Breadth {
    /// All of them up to this many units.
    pub all_up_to: usize,
    /// Beyond: each single unit alone and missing, all prefixes and suffixes.
    pub structured: bool,
    /// And this many by chance.
    pub random: usize,
}

/// Subsets of `units` units, none twice. Nothing and everything are always among them.
pub fn subsets(units: usize, breadth: Breadth, chance: &mut Chance) -> Vec<Subset> {
    if units <= breadth.all_up_to {
        return (0..1_usize << units)
            .map(|bits| Subset::of(units, |unit| bits >> unit & 1 == 1))
            .collect();
    }
    let mut out = vec![Subset::of(units, |_| false), Subset::of(units, |_| true)];
    if breadth.structured {
        for at in 0..units {
            out.push(Subset::of(units, |unit| unit == at));
            out.push(Subset::of(units, |unit| unit != at));
            out.push(Subset::of(units, |unit| unit < at));
            out.push(Subset::of(units, |unit| unit > at));
        }
    }
    for _ in 0..breadth.random {
        let odds = [1, 4, 7][(chance.next() % 3) as usize];
        let picks: Vec<bool> = (0..units).map(|_| chance.next() % 8 < odds).collect();
        out.push(Subset::of(units, |unit| picks[unit]));
    }
    let mut seen = HashSet::new();
    out.retain(|subset| seen.insert(subset.clone()));
    out
}
