//! WIM and ESD: an archive of file trees. Each image is a [`FileTree`]; edits are kept in memory until
//! [`Writer::write`] makes the new file of them, in the device below, in one go.
//!
//! # Why
//! - **Raw dentries.** A dentry that stays keeps its bytes, the unknown ones included; only offsets of
//!   lists and the hash of changed contents are written. Programs that serialise the tree anew lose
//!   what they do not know.
//! - **Unchanged chunks are not compressed again**: they are copied as they are.
//! - **The file keeps its length where it can.** New resources take the places of old ones, the tables
//!   stay at the end, what nothing references becomes zeros. So the journal of a clean in place holds
//!   for a WIM too; a clean that needs more room is made in a copy.
//! - **One layout for one file and for several.** The parts of a split archive are one address space
//!   ([`crate::device::HostSet`]); a part is laid out like an archive of one file, from its own entries,
//!   and what is new goes to the part in which the old was. One in which nothing changes keeps every byte.
//! - **Own codecs**: no crate decodes the LZX of WIM files or LZMS (`shared/facts/crates.md`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{Hash, Hasher},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use super::{Edges, Facts, Format, Open, Source, format as magics};
use crate::{
    error::{At, Error, Kind, Result},
    text::{WinPath, escape},
    tree::{FileTree, Obstacle},
};

mod chunks;
mod codec;
mod edit;
mod format;
mod metadata;
mod read;
mod split;
mod tree;
mod xml;

use format::flag;
use metadata::Metadata;
use read::File;
pub(super) use split::files;
use tree::ImageTree;
use xml::Xml;

pub(super) const FORMAT: Format = Format {
    name: "wim",
    title: "a WIM archive",
    probe: |edges: &Edges| edges.has(0, magics::WIM).then(|| "MSWIM at 0x0".to_owned()),
    open: Open::Archive(open),
};

/// An archive of file trees.
#[derive(Debug)]
pub struct Archive {
    /// Its images, in their order.
    pub images: Vec<ArchiveImage>,
    /// What a report shows of it.
    pub facts: Facts,
    wim: Arc<Wim>,
}

/// One tree of an archive.
#[derive(Debug)]
pub struct ArchiveImage {
    /// Counted from 1.
    pub number: u32,
    /// The name that its maker gave it.
    pub name: Option<String>,
    /// Edition, version and architecture, as far as the file says.
    pub about: String,
    /// Its files.
    pub tree: Box<dyn FileTree>,
}

/// What is to be written of an archive.
#[derive(Clone, Debug)]
pub struct Writer(Arc<Wim>);

impl Archive {
    /// What is needed to write it after its trees were edited.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.wim))
    }
}

impl Writer {
    /// Makes the new file of what the trees were told. Nothing was told: nothing is written, unless
    /// `scrub` is asked for and something stale is where nothing is referenced.
    ///
    /// `Refused` when the file would have to grow and its device cannot.
    pub fn write(&self, scrub: bool) -> Result<Written> {
        edit::write(&self.0, scrub)
    }

    /// Bytes of the files that nothing references and that are not zero: contents and records, compressed
    /// or not, that an earlier change left behind.
    pub fn leftovers(&self) -> Result<u64> {
        edit::leftovers(&self.0)
    }

    /// Whether nothing of it is compressed, so that a search of the file sees those bytes, too.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.file.method.is_none() && self.0.file.solids.is_empty()
    }

    /// Tells a file that was opened after that what is to be in it. What is read of it from now on is
    /// compared when it is checked.
    pub fn expect(&self, written: &Written) -> Result<()> {
        for one in &written.promises {
            let solid = self.0.file.solids.get(one.solid);
            let solid = solid.ok_or_else(|| Error::internal("WIM solid resource: its number"))?;
            self.0.file.watch(&solid.chunks, one.index)?;
        }
        let mut pending = self.0.pending()?;
        pending.promises = written.promises.clone();
        pending.fresh = written.fresh.clone();
        Ok(())
    }
}

/// What [`Writer::write`] did.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Old contents that stay, because another file has the same.
    pub remarks: Vec<String>,
    /// Whether it wrote for the sake of stale bytes alone.
    pub scrubbed: bool,
    /// What chunks that were encoded again are to hold.
    promises: Vec<Promise>,
    /// Hashes of contents that were written.
    fresh: HashSet<read::Hash>,
}

/// What a chunk of a solid resource that was encoded again is to hold.
#[derive(Clone, Debug)]
struct Promise {
    /// Number of the resource.
    solid: usize,
    index: usize,
    hash: read::Hash,
    /// Where the resource's contents are not what they were, in this order: nowhere else in this chunk.
    changed: Vec<Range<u64>>,
}

impl Promise {
    /// Whether anything changed in a range of the resource's contents.
    fn touches(&self, range: &Range<u64>) -> bool {
        let behind = self.changed.partition_point(|one| one.end <= range.start);
        let next = self.changed.get(behind);
        next.is_some_and(|one| one.start < range.end)
    }
}

/// An image: where its metadata is listed, and its tree.
#[derive(Debug)]
struct Tree {
    /// Index in the blob table.
    blob: usize,
    metadata: Metadata,
    /// For each dentry the first one of the same file.
    first: Vec<usize>,
    /// The dentries of each file that has several.
    links: HashMap<usize, Vec<usize>>,
    /// A number for each dentry that stays its own when others are removed.
    ids: Vec<u64>,
    by_id: HashMap<u64, usize>,
}

/// What the trees were told and the file does not hold yet.
#[derive(Debug, Default)]
struct Pending {
    /// Image, first dentry.
    gone: BTreeSet<(usize, usize)>,
    /// Image, first dentry: bytes by their offset.
    writes: BTreeMap<(usize, usize), BTreeMap<u64, Vec<u8>>>,
    /// Image, first dentry: contents that become zeros.
    zeroed: BTreeSet<(usize, usize)>,
    /// Image, first dentry: contents that had the right hash.
    checked: BTreeSet<(usize, usize)>,
    /// What another who wrote the file said of it.
    promises: Vec<Promise>,
    fresh: HashSet<read::Hash>,
    /// Image, first dentry: the hash of the contents with what was written.
    hashes: BTreeMap<(usize, usize), read::Hash>,
}

/// An opened archive.
#[derive(Debug)]
struct Wim {
    file: File,
    /// That of each part. None: it is not as it should be, and nothing is written.
    xml: Option<Vec<Xml>>,
    trees: Vec<Tree>,
    obstacles: Vec<Obstacle>,
    owners: Vec<Option<(usize, usize)>>,
    pending: Mutex<Pending>,
    /// The image that speaks for what all share: the first one that is asked.
    speaker: OnceLock<usize>,
}

impl Wim {
    fn pending(&self) -> Result<MutexGuard<'_, Pending>> {
        self.pending
            .lock()
            .map_err(|_| Error::internal("WIM: lock poisoned"))
    }

    /// Whether what all images share is this one's to tell. Not always the first's: with one image chosen
    /// nobody asks the others.
    fn speaks(&self, image: usize) -> bool {
        *self.speaker.get_or_init(|| image) == image
    }

    /// The index of a file's contents: image, first dentry.
    fn blob_of(&self, (image, first): (usize, usize)) -> Option<usize> {
        let one = self.trees.get(image)?.metadata.dentries.get(first)?;
        let stream = one.streams.get(one.data?)?;
        Some(self.file.blob(&stream.hash)?.0)
    }

    fn tree(&self, image: usize) -> Result<&Tree> {
        self.trees
            .get(image)
            .ok_or_else(|| Error::internal("WIM: an image's number"))
    }
}

impl Wim {
    /// The path of the first file with these contents, and of which image it is.
    fn owner_of(&self, blob: usize) -> String {
        let hash = self.file.blobs.get(blob).map(|blob| blob.hash);
        let mut names = self.owners.get(blob).into_iter().flatten();
        match names.next() {
            Some((image, number)) => {
                let path = self
                    .trees
                    .get(*image)
                    .map(|tree| tree.metadata.path(*number));
                let path = WinPath(path.unwrap_or_default());
                format!("{path} of image {}", image.saturating_add(1))
            }
            None => format!(
                "contents {} of no file",
                hex::encode(hash.unwrap_or_default())
            ),
        }
    }
}

/// For each contents the first file that has them: image, dentry.
fn owners(file: &File, trees: &[Tree]) -> Vec<Option<(usize, usize)>> {
    let mut owners = vec![None; file.blobs.len()];
    for (image, tree) in trees.iter().enumerate() {
        for (number, one) in tree.metadata.dentries.iter().enumerate() {
            for stream in &one.streams {
                let known = file.blob(&stream.hash).map(|(index, _)| index);
                if let Some(owner) = known.and_then(|index| owners.get_mut(index)) {
                    owner.get_or_insert((image, number));
                }
            }
        }
    }
    owners
}

impl Tree {
    fn new(blob: usize, metadata: Metadata) -> Self {
        // A hard link: the same group, attributes and streams.
        let mut groups = HashMap::new();
        let mut first = Vec::with_capacity(metadata.dentries.len());
        let mut links: HashMap<usize, Vec<usize>> = HashMap::new();
        for (number, one) in metadata.dentries.iter().enumerate() {
            let own = match one.link {
                0 => number,
                link => {
                    let hashes: Vec<_> = one.streams.iter().map(|stream| stream.hash).collect();
                    *groups
                        .entry((link, one.attributes, hashes))
                        .or_insert(number)
                }
            };
            first.push(own);
            links.entry(own).or_default().push(number);
        }
        links.retain(|_, all| all.len() > 1);
        let (ids, by_id) = ids_of(&metadata);
        Self {
            ids,
            by_id,
            blob,
            metadata,
            first,
            links,
        }
    }

    /// All dentries of a file.
    fn dentries_of(&self, first: usize) -> Vec<usize> {
        self.links
            .get(&first)
            .cloned()
            .unwrap_or_else(|| vec![first])
    }
}

/// Ids made of paths: a parent always comes before its children.
fn ids_of(metadata: &Metadata) -> (Vec<u64>, HashMap<u64, usize>) {
    let mut ids: Vec<u64> = Vec::with_capacity(metadata.dentries.len());
    let mut by_id = HashMap::with_capacity(metadata.dentries.len());
    for (number, one) in metadata.dentries.iter().enumerate() {
        // Fixed keys: the same path has the same id in every run.
        let mut hash = std::hash::DefaultHasher::new();
        ids.get(one.parent).hash(&mut hash);
        one.name.units().hash(&mut hash);
        let mut id = hash.finish();
        while by_id.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        by_id.insert(id, number);
        ids.push(id);
    }
    (ids, by_id)
}

fn open(source: &Source<'_>) -> Result<Archive> {
    let file = File::open(source.whole(), split::parts(source)?)?;
    let header = &file.header;
    let (mut xml, mut odd_xml) = (Vec::new(), None);
    for part in &file.parts {
        let parsed = match file.xml(part) {
            Ok(bytes) => Xml::parse(&bytes),
            Err(error) if error.kind() == Kind::Limit => Err(error),
            Err(error) => return Err(part.climb(error)),
        };
        match parsed {
            Ok(one) => xml.push(one),
            Err(error) => {
                odd_xml.get_or_insert(part.climb(error));
            }
        }
    }
    let mut trees = Vec::new();
    let mut total = 0_u64;
    // An entry that nothing references is no image, whatever it holds.
    let listed = file.blobs.iter().enumerate();
    for (index, blob) in listed.filter(|(_, blob)| blob.is_metadata() && blob.refs != 0) {
        let number = trees.len().saturating_add(1);
        total = total.saturating_add(blob.len());
        if total > read::METADATA_LIMIT {
            return Err(Error::limit(format!(
                "WIM metadata: at most {} bytes of all images expected, found more",
                read::METADATA_LIMIT
            ))
            .at("image", number));
        }
        let metadata = file
            .metadata(blob)
            .and_then(Metadata::parse)
            .at("image", number)?;
        trees.push(Tree::new(index, metadata));
    }
    if u32::try_from(trees.len()) != Ok(header.images) {
        return Err(Error::malformed(format!(
            "WIM: the metadata of {} images expected, found that of {}",
            header.images,
            trees.len()
        ))
        .at("image offset", format_args!("{:#x}", header.table.offset)));
    }
    let boot = usize::try_from(header.boot_index).unwrap_or(usize::MAX);
    let boot_blob = boot
        .checked_sub(1)
        .map(|at| trees.get(at).map(|tree| tree.blob));
    let start = file.parts.first().map_or(0, |part| part.range.start);
    let boot_is_right = match boot_blob {
        None => true,
        Some(None) => false,
        Some(Some(index)) => file
            .blobs
            .get(index)
            .is_some_and(|blob| blob.resource.inside(start).offset == header.boot.offset),
    };
    if !boot_is_right {
        return Err(Error::malformed(format!(
            "WIM header: the metadata of boot image {boot} expected at {:#x}, found another's",
            header.boot.offset
        ))
        .at("image offset", "0x60"));
    }
    let mut obstacles = obstacles(&file, &xml, odd_xml.as_ref());
    obstacles.extend(missing(&file, &trees));
    let abouts = xml.first().map(Xml::abouts).unwrap_or_default();
    let facts = Facts {
        kind: Some(kind_of(&file)),
        block_size: (header.chunk_size > 0).then_some(u64::from(header.chunk_size)),
        log: match header.integrity.size {
            0 => None,
            _ => Some("with an integrity table".to_owned()),
        },
        files: file
            .parts
            .iter()
            .filter(|part| part.file > 0)
            .map(|part| part.name.clone())
            .collect(),
        ..Facts::default()
    };
    let owners = owners(&file, &trees);
    let wim = Arc::new(Wim {
        owners,
        file,
        xml: odd_xml.is_none().then_some(xml),
        trees,
        obstacles,
        pending: Mutex::default(),
        speaker: OnceLock::new(),
    });
    let images = (1_u32..)
        .zip(0..wim.trees.len())
        .map(|(number, index)| {
            let about = abouts.get(&number).cloned().unwrap_or_default();
            let parts = [about.edition, about.version, about.architecture];
            ArchiveImage {
                number,
                name: about.name,
                about: parts
                    .iter()
                    .flatten()
                    .map(|part| escape(part))
                    .collect::<Vec<_>>()
                    .join(", "),
                tree: Box::new(ImageTree::new(Arc::clone(&wim), index)),
            }
        })
        .collect();
    Ok(Archive { images, facts, wim })
}

fn kind_of(file: &File) -> String {
    use codec::Method;
    let method = match file.method {
        None => "not compressed",
        Some(Method::Xpress) => "XPRESS",
        Some(Method::Lzx) => "LZX",
        Some(Method::Lzms) => "LZMS",
    };
    let mut kind = match file.solids.len() {
        0 => method.to_owned(),
        1 => format!("{method}, 1 solid resource"),
        count => format!("{method}, {count} solid resources"),
    };
    // The others' names are said where those of all sets are.
    if let Some(named) = file.parts.iter().find(|part| part.file == 0)
        && file.is_split()
    {
        let (number, count) = (named.header.part, file.parts.len());
        kind = format!("{kind}, part {number} of {count} of a split archive");
    }
    kind
}

/// `odd_xml` is what is wrong with XML data that are not among `xml`.
fn obstacles(file: &File, xml: &[Xml], odd_xml: Option<&Error>) -> Vec<Obstacle> {
    let header = &file.header;
    let mut out = Vec::new();
    let mut add = |id, what: &str, advice: &str| {
        out.push(Obstacle {
            id,
            what: what.to_owned(),
            advice: advice.to_owned(),
        });
    };
    let flagged = |flag| file.parts.iter().find(|part| part.header.is(flag));
    if let Some(part) = flagged(flag::READONLY) {
        let found = part.of("the READONLY flag");
        add(
            "wim-readonly",
            &format!("WIM header: a file that may be changed expected, found {found}"),
            "whoever set it wanted it so; export a copy without it (wimexport IMAGE all new.wim), or \
             pass --force-readonly",
        );
    }
    if let Some(part) = flagged(flag::WRITE_IN_PROGRESS) {
        let found = part.of("the flag of a write in progress");
        add(
            "wim-write-in-progress",
            &format!("WIM header: a finished file expected, found {found}"),
            "let the program that writes it finish; if it crashed, take another copy of the file, or \
             pass --force-unfinished",
        );
    }
    if xml.iter().any(Xml::is_encrypted) {
        add(
            "wim-encrypted",
            "WIM: readable contents expected, found an encrypted ESD",
            "decrypt it first",
        );
    }
    if let Some(error) = odd_xml {
        add(
            "wim-xml",
            error.what(),
            "its counts cannot be kept right: make it anew, wimexport IMAGE all new.wim",
        );
    }
    let join = "join the parts first: wimjoin all.wim part*.swm";
    if !file.is_split() && header.is(flag::SPANNED) {
        add(
            "wim-split",
            "WIM header: a whole archive in part 1 of 1 expected, found the flag of a split one",
            join,
        );
    }
    if file.is_split() && !file.solids.is_empty() {
        add(
            "wim-split-solid",
            "WIM: a split archive without solid resources expected, found some, which declone only \
             reads",
            join,
        );
    }
    if file.blobs.iter().any(|blob| !file.has_part(blob)) {
        add(
            "wim-part",
            "WIM blob table: contents in this part expected, found some in another part",
            join,
        );
    }
    out
}

/// Files whose contents are in no part: a delta says only what became another.
fn missing(file: &File, trees: &[Tree]) -> Option<Obstacle> {
    let mut count = 0_u64;
    let mut first = None;
    for (image, tree) in trees.iter().enumerate() {
        for (number, one) in tree.metadata.dentries.iter().enumerate() {
            let mut streams = one.streams.iter();
            let lacks =
                streams.any(|one| one.hash != format::NO_HASH && file.blob(&one.hash).is_none());
            if lacks {
                count = count.saturating_add(1);
                first.get_or_insert((image, number));
            }
        }
    }
    let (image, number) = first?;
    let path = trees.get(image).map(|tree| tree.metadata.path(number));
    let path = WinPath(path.unwrap_or_default());
    Some(Obstacle {
        id: "wim-contents",
        what: format!(
            "WIM: the contents of every file expected, those of {count} are not in the archive, first \
             {path} of image {}",
            image.saturating_add(1)
        ),
        advice:
            "if it is a delta of another archive, make one of both: wimexport IMAGE all new.wim \
                 --ref=BASE; else it is damaged: take another copy of it"
                .to_owned(),
    })
}

/// What counts a removal changes.
fn links_of(tree: &Tree, gone: &HashSet<usize>) -> HashMap<usize, u64> {
    let mut files = HashMap::new();
    for number in gone {
        if let Some(first) = tree.first.get(*number) {
            let count: &mut u64 = files.entry(*first).or_default();
            *count = count.saturating_add(1);
        }
    }
    files
}
