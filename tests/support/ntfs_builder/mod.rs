//! Builds NTFS volumes from a description, without any NTFS library.
//!
//! ```text
//! let mut volume = NtfsBuilder::new(64 << 20);
//! volume.file(r"WINDOWS\Smscfg.ini", "[Configuration]").hidden();
//! volume.file(r"big.bin", Content::filler(1, 200_000)).pieces(3);
//! volume.write_to(&mut file, 0);
//! ```
//!
//! Everything is laid out from scratch: records, attribute lists, index B+trees, bitmaps, `$Secure`,
//! `$ObjId`, `$Reparse`, log file, backup boot sector. Zeros are never written, so images stay sparse.
//! The same description always gives the same bytes.
//!
//! Layout sources: libfsntfs documentation, flatcap's NTFS documentation.

mod attribute;
mod build;
mod geometry;
mod index;
mod lznt1;
mod names;
mod streams;
mod system;

use std::collections::HashMap;
use std::fs::File;

pub use attribute::List;
pub use geometry::Geometry;
pub use index::Fill;

use geometry::Output;

/// The time stamp of everything: 2005-04-03 01:56:29 UTC.
pub const TIME: u64 = 0x01c5_37f0_5a2b_4e00;

/// Which NTFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Windows NT 4: no `$Secure`, no `$Extend`, descriptors in the files.
    V12,
    /// Windows 2000: `$Secure` and `$Extend`, records without their number.
    V30,
    /// Windows XP and later.
    V31,
}

/// What `$LogFile` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// All 0xFF: reset.
    Empty,
    /// Version 1.1, cleanly dismounted by Windows 7 or older.
    Clean11,
    /// Version 1.1 with a client still in: needs recovery.
    Dirty11,
    /// Version 2.0, clean flag set.
    Clean20,
    /// Version 2.0 as a live or hibernated Windows 10 leaves it.
    Dirty20,
}

/// The bytes of a stream.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Pseudo-random bytes of a seed.
    Filler {
        /// Different seeds, different bytes.
        seed: u64,
        /// How many.
        len: u64,
    },
    /// Clusters are taken, nothing is written to them: zeros, and the host file stays sparse.
    Unwritten(u64),
    /// These pieces at these offsets, holes between them.
    Sparse {
        /// Length of the stream.
        len: u64,
        /// Offset and bytes of each piece, ascending.
        pieces: Vec<(u64, Vec<u8>)>,
    },
}

impl Content {
    /// Pseudo-random bytes of a seed.
    pub fn filler(seed: u64, len: u64) -> Self {
        Self::Filler { seed, len }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Bytes(b) => b.len() as u64,
            Self::Filler { len, .. } | Self::Unwritten(len) | Self::Sparse { len, .. } => *len,
        }
    }

    /// The bytes, all of them.
    pub fn bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.len()).unwrap();
        match self {
            Self::Bytes(b) => b.clone(),
            Self::Unwritten(_) => vec![0; len],
            Self::Sparse { pieces, .. } => {
                let mut v = vec![0; len];
                for (at, piece) in pieces {
                    super::put::bytes(&mut v, usize::try_from(*at).unwrap(), piece);
                }
                v
            }
            Self::Filler { seed, .. } => {
                let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut v = Vec::with_capacity(len + 8);
                while v.len() < len {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    v.extend(state.to_le_bytes());
                }
                v.truncate(len);
                v
            }
        }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

/// Which `$FILE_NAME` attributes a name becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// One 8.3 name, or a long name with a made-up short one, as Windows does.
    Auto,
    /// Case-sensitive name (namespace 0).
    Posix,
    /// Long name alone (namespace 1), as with short names turned off.
    Win32,
    /// One entry that is both (namespace 3).
    Both,
    /// Long name and this short name.
    Pair(String),
}

#[derive(Clone, Debug)]
struct Name {
    parent: usize,
    name: String,
    kind: Names,
}

#[derive(Clone, Debug)]
struct Stream {
    name: String,
    content: Content,
    resident: bool,
    piece: Option<u64>,
    compressed: bool,
    initialised: Option<u64>,
    tail: Vec<u8>,
}

impl Stream {
    fn new(name: &str, content: Content) -> Self {
        Self {
            name: name.into(),
            content,
            resident: true,
            piece: None,
            compressed: false,
            initialised: None,
            tail: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    dir: bool,
    deleted: bool,
    sequence: u16,
    attributes: u32,
    names: Vec<Name>,
    streams: Vec<Stream>,
    object_id: Option<[u8; 16]>,
    reparse: Option<(u32, Vec<u8>)>,
    list: List,
    fill: Fill,
    index_piece: Option<u64>,
    record_slack: Vec<u8>,
    index_slack: Vec<u8>,
}

/// The nodes every volume has: the root directory and `$Extend`.
const ROOT: usize = 0;
const EXTEND: usize = 1;

/// A volume being described; [`NtfsBuilder::write_to`] writes it.
#[derive(Clone, Debug)]
pub struct NtfsBuilder {
    size: u64,
    geometry: Geometry,
    version: Version,
    flags: u16,
    log: Log,
    log_len: Option<u64>,
    log_plants: Vec<(u64, Vec<u8>)>,
    label: String,
    serial: u64,
    hidden_sectors: u32,
    mft_piece: Option<u64>,
    nodes: Vec<Node>,
    by_path: HashMap<(usize, String), usize>,
    free_plants: Vec<Vec<u8>>,
}

/// Where things ended up.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// Base record number of every path (first name; backslashes).
    pub records: HashMap<String, u64>,
    /// MFT records in all.
    pub record_count: u64,
    /// Runs of `$MFT`.
    pub mft_runs: usize,
    /// Bytes of the volume without the backup boot sector.
    pub len: u64,
    /// Volume offset of every planted free cluster, in order.
    pub free_plants: Vec<u64>,
    /// Extension records in use.
    pub extensions: u64,
}

impl NtfsBuilder {
    /// A volume of `size` bytes, backup boot sector included.
    pub fn new(size: u64) -> Self {
        let root = Node {
            dir: true,
            sequence: 5,
            attributes: 0x06,
            ..Node::default()
        };
        let extend = Node {
            dir: true,
            sequence: 11,
            attributes: 0x06,
            ..Node::default()
        };
        Self {
            size,
            geometry: Geometry::default(),
            version: Version::V31,
            flags: 0,
            log: Log::Empty,
            log_len: None,
            log_plants: Vec::new(),
            label: "DISK".into(),
            serial: 0x2c8d_77f1_0419_5ab3,
            hidden_sectors: 0,
            mft_piece: None,
            nodes: vec![root, extend],
            by_path: HashMap::from([((ROOT, "$Extend".into()), EXTEND)]),
            free_plants: Vec::new(),
        }
    }

    /// The sizes.
    pub fn geometry(&mut self, geometry: Geometry) -> &mut Self {
        self.geometry = geometry;
        self
    }

    /// Which NTFS.
    pub fn version(&mut self, version: Version) -> &mut Self {
        self.version = version;
        self
    }

    /// `$VOLUME_INFORMATION` flags (1 dirty, 0x80 seen on Windows 10, ...).
    pub fn volume_flags(&mut self, flags: u16) -> &mut Self {
        self.flags = flags;
        self
    }

    /// State of `$LogFile`.
    pub fn log(&mut self, log: Log) -> &mut Self {
        self.log = log;
        self
    }

    /// Length of `$LogFile` (262,144 at least; 2 MiB if not said).
    pub fn log_len(&mut self, len: u64) -> &mut Self {
        self.log_len = Some(len);
        self
    }

    /// Leaves `bytes` in `$LogFile` at this offset (beyond the restart pages).
    pub fn plant_in_log(&mut self, offset: u64, bytes: &[u8]) -> &mut Self {
        self.log_plants.push((offset, bytes.into()));
        self
    }

    /// Volume label.
    pub fn label(&mut self, label: &str) -> &mut Self {
        self.label = label.into();
        self
    }

    /// Volume serial number.
    pub fn serial(&mut self, serial: u64) -> &mut Self {
        self.serial = serial;
        self
    }

    /// Sectors before the volume, as the boot sector remembers them.
    pub fn hidden_sectors(&mut self, sectors: u32) -> &mut Self {
        self.hidden_sectors = sectors;
        self
    }

    /// Breaks `$MFT` into pieces of so many clusters.
    pub fn mft_pieces(&mut self, clusters: u64) -> &mut Self {
        self.mft_piece = Some(clusters);
        self
    }

    /// Leaves `bytes` in a free cluster.
    pub fn plant_free_cluster(&mut self, bytes: &[u8]) -> &mut Self {
        self.free_plants.push(bytes.into());
        self
    }

    /// Bytes from the start to the end of the backup boot sector.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The directory at `path`, made with its parents if needed. The empty path is the root.
    pub fn dir(&mut self, path: &str) -> Entry<'_> {
        let node = self.dir_node(path);
        Entry {
            volume: self,
            node,
            stream: None,
        }
    }

    fn dir_node(&mut self, path: &str) -> usize {
        let mut at = ROOT;
        for part in path.split(['\\', '/']).filter(|p| !p.is_empty()) {
            at = match self.by_path.get(&(at, part.to_owned())) {
                Some(found) => *found,
                None => {
                    let dir = Node {
                        dir: true,
                        sequence: 1,
                        ..Node::default()
                    };
                    self.add(at, part, dir)
                }
            };
        }
        at
    }

    fn add(&mut self, parent: usize, name: &str, mut node: Node) -> usize {
        let at = self.nodes.len();
        node.names.push(Name {
            parent,
            name: name.into(),
            kind: Names::Auto,
        });
        let old = self.by_path.insert((parent, name.into()), at);
        assert!(old.is_none(), "{name} is there already");
        self.nodes.push(node);
        at
    }

    /// Splits `path` into its directory (made if needed) and its name.
    fn place<'p>(&mut self, path: &'p str) -> (usize, &'p str) {
        match path.rsplit_once(['\\', '/']) {
            Some((dir, name)) => (self.dir_node(dir), name),
            None => (ROOT, path),
        }
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, content: impl Into<Content>) -> Entry<'_> {
        let (parent, name) = self.place(path);
        let file = Node {
            sequence: 1,
            attributes: 0x20,
            streams: vec![Stream::new("", content.into())],
            ..Node::default()
        };
        let node = self.add(parent, name, file);
        Entry {
            volume: self,
            node,
            stream: Some(0),
        }
    }

    /// Adds a file without an unnamed stream (for `$UsnJrnl` and the like).
    pub fn file_of_streams(&mut self, path: &str) -> Entry<'_> {
        let (parent, name) = self.place(path);
        let file = Node {
            sequence: 1,
            attributes: 0x20,
            ..Node::default()
        };
        let node = self.add(parent, name, file);
        Entry {
            volume: self,
            node,
            stream: None,
        }
    }

    /// Adds what a deleted file leaves behind: a free record with all its attributes, and its
    /// clusters, given back but not wiped.
    pub fn deleted_file(&mut self, path: &str, content: impl Into<Content>) -> Entry<'_> {
        let (parent, name) = self.place(path);
        let node = self.nodes.len();
        self.nodes.push(Node {
            deleted: true,
            sequence: 2,
            attributes: 0x20,
            names: vec![Name {
                parent,
                name: name.into(),
                kind: Names::Auto,
            }],
            streams: vec![Stream::new("", content.into())],
            ..Node::default()
        });
        Entry {
            volume: self,
            node,
            stream: Some(0),
        }
    }

    /// Gives the file at `existing` another name (namespace 0, as Windows does for hard links).
    pub fn link(&mut self, existing: &str, new: &str) -> Entry<'_> {
        let (parent, name) = self.place(existing);
        let node = self.by_path[&(parent, name.to_owned())];
        let (parent, name) = self.place(new);
        self.nodes[node].names.push(Name {
            parent,
            name: name.into(),
            kind: Names::Posix,
        });
        self.by_path.insert((parent, name.into()), node);
        Entry {
            volume: self,
            node,
            stream: None,
        }
    }

    /// The file or directory at `path`, to say more about it.
    pub fn entry(&mut self, path: &str) -> Entry<'_> {
        let (parent, name) = self.place(path);
        let node = self.by_path[&(parent, name.to_owned())];
        let stream = if self.nodes[node].streams.is_empty() {
            None
        } else {
            Some(0)
        };
        Entry {
            volume: self,
            node,
            stream,
        }
    }

    /// Path and content of the unnamed stream of every file that is there, under its first name.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut list = Vec::new();
        for node in self.nodes.iter().filter(|n| !n.dir && !n.deleted) {
            let Some(stream) = node.streams.first().filter(|s| s.name.is_empty()) else {
                continue;
            };
            let mut content = stream.content.bytes();
            if let Some(known) = stream.initialised {
                content[usize::try_from(known).unwrap()..].fill(0);
            }
            list.push((self.path(&node.names[0]), content));
        }
        list
    }

    fn path(&self, name: &Name) -> String {
        let mut path = name.name.clone();
        let mut up = self.nodes[name.parent].names.first();
        while let Some(name) = up {
            path = format!(r"{}\{path}", name.name);
            up = self.nodes[name.parent].names.first();
        }
        path
    }

    /// Writes the volume at `offset` of `file`, which must be empty (or zero) there.
    pub fn write_to(&self, file: &mut File, offset: u64) -> Built {
        let end = offset + self.size;
        if file
            .metadata()
            .expect("metadata of the image being built")
            .len()
            < end
        {
            file.set_len(end).expect("room for the image being built");
        }
        build::build(self, Output::File(file, offset))
    }

    /// The volume in memory.
    pub fn to_vec(&self) -> (Vec<u8>, Built) {
        let mut v = vec![0; usize::try_from(self.size).unwrap()];
        let built = build::build(self, Output::Memory(&mut v));
        (v, built)
    }
}

/// One file or directory of a volume being described. The methods about streams concern the stream
/// added last.
#[derive(Debug)]
pub struct Entry<'a> {
    volume: &'a mut NtfsBuilder,
    node: usize,
    stream: Option<usize>,
}

impl Entry<'_> {
    fn node(&mut self) -> &mut Node {
        &mut self.volume.nodes[self.node]
    }

    fn stream_mut(&mut self) -> &mut Stream {
        let at = self.stream.expect("the file has no stream yet");
        &mut self.node().streams[at]
    }

    /// Hidden.
    pub fn hidden(self) -> Self {
        self.attributes(0x22)
    }

    /// DOS attributes in addition.
    pub fn attributes(mut self, bits: u32) -> Self {
        self.node().attributes |= bits;
        self
    }

    /// Which `$FILE_NAME` attributes the name given last becomes.
    pub fn names(mut self, kind: Names) -> Self {
        if let Some(name) = self.node().names.last_mut() {
            name.kind = kind;
        }
        self
    }

    /// The sequence number of the record.
    pub fn sequence(mut self, sequence: u16) -> Self {
        self.node().sequence = sequence;
        self
    }

    /// Adds a named stream.
    pub fn stream(mut self, name: &str, content: impl Into<Content>) -> Self {
        let streams = &mut self.node().streams;
        streams.push(Stream::new(name, content.into()));
        let last = streams.len() - 1;
        self.stream = Some(last);
        self
    }

    /// Never resident, however short.
    pub fn non_resident(mut self) -> Self {
        self.stream_mut().resident = false;
        self
    }

    /// Broken into pieces of so many clusters. For a directory: its index blocks.
    pub fn pieces(mut self, clusters: u64) -> Self {
        if self.stream.is_some() {
            self.stream_mut().piece = Some(clusters);
        } else {
            self.node().index_piece = Some(clusters);
        }
        self
    }

    /// LZNT1-compressed.
    pub fn compressed(mut self) -> Self {
        self.stream_mut().compressed = true;
        self.attributes(0x800)
    }

    /// Initialised only up to here: the clusters hold more than a reader sees.
    pub fn initialised(mut self, len: u64) -> Self {
        self.stream_mut().initialised = Some(len);
        self
    }

    /// Leaves `bytes` behind the end of the data, in the last cluster.
    pub fn cluster_tail(mut self, bytes: &[u8]) -> Self {
        self.stream_mut().tail = bytes.into();
        self
    }

    /// Gives the file an object id (with its entry in `$ObjId:$O`).
    pub fn object_id(mut self, id: [u8; 16]) -> Self {
        self.node().object_id = Some(id);
        self
    }

    /// Makes it a reparse point (with its entry in `$Reparse:$R`).
    pub fn reparse(mut self, tag: u32, data: &[u8]) -> Self {
        self.node().reparse = Some((tag, data.into()));
        self.attributes(0x400)
    }

    /// How the attribute list is kept.
    pub fn list(mut self, list: List) -> Self {
        self.node().list = list;
        self
    }

    /// How full index nodes get.
    pub fn fill(mut self, fill: Fill) -> Self {
        self.node().fill = fill;
        self
    }

    /// Leaves `bytes` in the base record, behind its end marker.
    pub fn record_slack(mut self, bytes: &[u8]) -> Self {
        self.node().record_slack = bytes.into();
        self
    }

    /// Leaves `bytes` in an index block of this directory, behind its last entry.
    pub fn index_slack(mut self, bytes: &[u8]) -> Self {
        self.node().index_slack = bytes.into();
        self
    }
}
