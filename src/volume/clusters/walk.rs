//! What a pass over the directories finds: every entry, every slot that is no longer in use.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
};

use super::{Chain, Format};
use crate::{
    text::{Name, WinPath},
    tree::Unreadable,
};

/// Entries and remains of entries that are kept in memory.
const MAX_ENTRIES: usize = 4_000_000;
/// Most problems that are listed one by one.
const MAX_PROBLEMS: usize = 100;
/// Most broken files that are listed one by one.
const MAX_BROKEN: usize = 20_000;

/// What a directory entry says.
pub trait Entry: Clone + Debug + Send + Sync {
    /// Whether it is a directory.
    fn is_directory(&self) -> bool;
    /// Whether it is the label of the volume, which is no file.
    fn is_label(&self) -> bool {
        false
    }
    /// Bytes of its data.
    fn data_len(&self) -> u64;
    /// Bytes of them that were ever written.
    fn valid(&self) -> u64 {
        self.data_len()
    }
    /// Every name; the one to show stands first.
    fn names(&self) -> Vec<Name>;
}

/// A file or directory. Its id is the number of the slot that makes it one.
#[derive(Clone, Debug)]
pub struct Node<E> {
    /// The id; 0 is the root.
    pub id: u64,
    /// Index of its directory.
    pub parent: usize,
    /// How many directories are above.
    pub depth: u32,
    /// All its slots in order.
    pub slots: Box<[u64]>,
    /// Its clusters could be followed to their end and are its own.
    pub sound: bool,
    /// What the slots say.
    pub entry: E,
}

impl<E: Entry> Node<E> {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.id == 0 || self.entry.is_directory()
    }

    /// Whether it is the label of the volume, which is no file.
    #[must_use]
    pub fn is_label(&self) -> bool {
        self.id != 0 && self.entry.is_label()
    }

    /// Length in bytes.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        match self.is_directory() {
            true => 0,
            false => self.entry.data_len(),
        }
    }
}

/// Slots that nothing uses any more, and what can be read of them.
#[derive(Clone, Debug)]
pub struct Stale<R> {
    /// The slots in order.
    pub slots: Box<[u64]>,
    /// What can be read.
    pub remains: R,
}

/// A structure of the volume that lies in clusters and that no file is.
#[derive(Clone, Debug)]
pub struct System {
    /// Its name.
    pub name: &'static str,
    /// Its clusters.
    pub chain: Chain,
}

/// What the pass saw.
#[derive(Debug)]
pub struct Walk<F: Format> {
    /// The root, then everything below.
    pub nodes: Vec<Node<F::Entry>>,
    /// Which node has an id.
    index: HashMap<u64, usize>,
    /// What is left of deleted entries.
    pub stale: Vec<Stale<F::Remains>>,
    /// Structure that is broken, one line each.
    pub problems: Vec<String>,
    /// How many problems there were.
    pub problem_count: u64,
    /// Files whose entries are too broken to be nodes: what there is of a name, the directory's index,
    /// what is wrong.
    pub broken: Vec<(Name, usize, String)>,
    /// The clusters of directories: first byte of a range, its length, and whose it is.
    pub directories: BTreeMap<u64, (u64, usize)>,
    /// Structures that are no files.
    pub systems: Vec<System>,
    /// What else there is.
    pub seen: F::Seen,
}

impl<F: Format> Walk<F> {
    /// Only the root.
    #[must_use]
    pub fn new(root: F::Entry) -> Self {
        Self {
            nodes: vec![Node {
                id: 0,
                parent: 0,
                depth: 0,
                slots: Box::default(),
                sound: true,
                entry: root,
            }],
            index: HashMap::new(),
            stale: Vec::new(),
            problems: Vec::new(),
            problem_count: 0,
            broken: Vec::new(),
            directories: BTreeMap::new(),
            systems: Vec::new(),
            seen: F::Seen::default(),
        }
    }

    /// Notes that something is broken.
    pub fn problem(&mut self, line: impl FnOnce() -> String) {
        self.problem_count = self.problem_count.saturating_add(1);
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(line());
        }
    }

    /// Adds an entry of a directory.
    pub fn keep(
        &mut self,
        id: u64,
        parent: usize,
        slots: Box<[u64]>,
        sound: bool,
        entry: F::Entry,
    ) {
        if self.nodes.len() >= MAX_ENTRIES {
            self.problem(|| format!("volume: at most {MAX_ENTRIES} entries expected, found more"));
            return;
        }
        let depth = self.nodes.get(parent).map_or(0, |node| node.depth);
        self.nodes.push(Node {
            id,
            parent,
            depth: depth.saturating_add(1),
            slots,
            sound,
            entry,
        });
    }

    /// Adds a file whose entries are too broken to be a node.
    pub fn keep_broken(&mut self, name: Name, parent: usize, what: String) {
        if self.broken.len() < MAX_BROKEN {
            self.broken.push((name, parent, what));
        }
    }

    /// Every file that is not sound, with its path.
    #[must_use]
    pub fn unreadable(&self) -> Vec<Unreadable> {
        let nodes = self.nodes.iter().enumerate().skip(1);
        let unsound = nodes.filter(|(_, node)| !node.sound && !node.is_label());
        let mut all: Vec<Unreadable> = unsound
            .take(MAX_BROKEN)
            .map(|(index, node)| {
                let path = self.path(index);
                let shown = format!("{path}: ");
                let mut problems = self.problems.iter();
                let known = problems.find_map(|line| {
                    let line = line.strip_prefix("directory ").unwrap_or(line);
                    line.strip_prefix(&shown)
                });
                Unreadable {
                    record: None,
                    names: node.entry.names(),
                    paths: vec![path],
                    is_directory: node.is_directory(),
                    reason: known
                        .unwrap_or("clusters of its own up to its end expected, found otherwise")
                        .to_owned(),
                }
            })
            .collect();
        all.extend(self.broken.iter().map(|(name, parent, what)| {
            let mut path = self.path(*parent);
            path.0.push(name.clone());
            Unreadable {
                record: None,
                names: vec![name.clone()],
                paths: vec![path],
                is_directory: false,
                reason: what.clone(),
            }
        }));
        all
    }

    /// Adds what is left of a deleted entry.
    pub fn bury(&mut self, slots: Box<[u64]>, remains: impl FnOnce() -> F::Remains) {
        if self.stale.len() >= MAX_ENTRIES {
            self.problem(|| {
                format!("volume: at most {MAX_ENTRIES} deleted entries expected, found more")
            });
            return;
        }
        let remains = remains();
        self.stale.push(Stale { slots, remains });
    }

    /// Makes every node known by its id.
    pub fn number(&mut self) {
        let ids = self.nodes.iter().enumerate();
        self.index = ids.map(|(index, node)| (node.id, index)).collect();
    }

    /// The path of a node.
    #[must_use]
    pub fn path(&self, index: usize) -> WinPath {
        let mut names = Vec::new();
        let mut at = index;
        while let Some(node) = self.nodes.get(at).filter(|node| node.id != 0) {
            names.push(node.entry.names().into_iter().next().unwrap_or_default());
            at = node.parent;
        }
        names.reverse();
        WinPath(names)
    }

    /// Which node has this id.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<usize> {
        self.index.get(&id).copied()
    }

    /// The directory that a byte of the volume is in.
    #[must_use]
    pub fn directory_at(&self, offset: u64) -> Option<usize> {
        let (start, (len, index)) = self.directories.range(..=offset).next_back()?;
        (offset.saturating_sub(*start) < *len).then_some(*index)
    }
}
