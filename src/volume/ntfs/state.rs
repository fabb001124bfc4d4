//! What forbids writing: the log, the volume flags, hibernation, the mirror, the geometry.

use super::{
    Ntfs,
    format::{code, fixup, log, number, volume_information},
    index::{DIRECTORY_INDEX, Index},
    record::{Fixup, Record, undo_fixup},
    stream::Stream,
};
use crate::{
    bytes::View,
    error::Result,
    tree::Obstacle,
    units::FileOffset,
    volume::widths::{index, narrow, product, wide},
};

/// Flags with which Windows itself would first repair, upgrade or replay something.
const FORBIDDING_FLAGS: u16 = volume_information::DIRTY
    | volume_information::RESIZE_LOG
    | volume_information::UPGRADE
    | volume_information::DELETE_USN
    | volume_information::REPAIR_IDS
    | volume_information::CHKDSK_UNDERWAY
    | volume_information::CHKDSK_MODIFIED;

/// Bytes of a block in which a reader of the log looks for something.
const PROBE: usize = 512;

/// Records that $MFTMirr repeats on every volume; Windows 10 does not maintain more.
const MIRRORED: u64 = 4;

/// A log is 64 MiB at most by default; looking further for a byte that is not 0xFF is not worth it.
const MAX_LOG_LEN: u64 = 256 << 20;

const BOOT_WINDOWS: &str =
    "start the machine in Windows once, shut it down with shutdown /s /t 0 and capture it again";
const CHKDSK: &str = "run chkdsk /f on the volume in Windows, then capture it again";

/// Adds what it finds; an error is an obstacle too.
type Judgement = fn(&Ntfs, &mut Vec<Obstacle>) -> Result<()>;

/// A restart page as found.
struct RestartPage {
    chkdsk: bool,
    version: (u16, u16),
    lsn: u64,
    clean: bool,
}

impl Ntfs {
    /// See [`FileTree::obstacles`](crate::tree::FileTree::obstacles).
    pub(super) fn find_obstacles(&self) -> Vec<Obstacle> {
        let mut found = Vec::new();
        let checks: [(&'static str, Judgement); 7] = [
            ("volume-truncated", Self::check_length),
            ("root-directory", Self::check_root),
            ("volume-flags", Self::check_flags),
            ("log-not-clean", Self::check_log),
            ("hibernated", Self::check_hibernation),
            ("mirror-mismatch", Self::check_mirror_state),
            ("system-files", Self::check_system_files),
        ];
        for (id, check) in checks {
            // What cannot be judged is an obstacle too.
            if let Err(error) = check(self, &mut found) {
                found.push(Obstacle {
                    id,
                    what: error.to_string(),
                    advice: CHKDSK.to_owned(),
                });
            }
        }
        found
    }

    fn check_length(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let (expected, have) = (self.geometry.volume_len(), self.device.len());
        if have < expected {
            found.push(Obstacle {
                id: "volume-truncated",
                what: format!(
                    "volume: {expected} bytes expected by the boot sector, found {have} (volume offset {have:#x})"
                ),
                advice: self.cut_advice(expected, have),
            });
        }
        Ok(())
    }

    /// What to do about a volume that ends too early. Programs that copy whole clusters leave the sectors
    /// behind the last one out, in which no file can be: zeros are as good there.
    fn cut_advice(&self, expected: u64, have: u64) -> String {
        let behind = expected
            .checked_rem(u64::from(self.geometry.cluster_len))
            .unwrap_or(0);
        let missing = expected.saturating_sub(have);
        match missing <= behind {
            true => format!(
                "only sectors behind the last whole cluster are missing, in which no file can be: \
                 if the image is a raw file, truncate -s +{missing} FILE adds them (on a copy)"
            ),
            false => "the image is incomplete: copy or capture it again".to_owned(),
        }
    }

    fn check_root(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let root = self.file(number::ROOT)?;
        if !root.is_directory() || Index::open(self, &root, DIRECTORY_INDEX)?.is_none() {
            found.push(Obstacle {
                id: "root-directory",
                what: "file record 5: the root directory expected, found no directory".to_owned(),
                advice: CHKDSK.to_owned(),
            });
        }
        Ok(())
    }

    fn check_flags(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let ((major, minor), flags) = self.volume_information()?;
        if !matches!((major, minor), (1, 2) | (3, 0 | 1)) {
            found.push(Obstacle {
                id: "ntfs-version",
                what: format!(
                    "$VOLUME_INFORMATION: NTFS 1.2, 3.0 or 3.1 expected, found {major}.{minor} (file record 3)"
                ),
                advice: "this version of NTFS is not known to declone".to_owned(),
            });
        }
        if flags & FORBIDDING_FLAGS != 0 {
            let dirty = flags & volume_information::DIRTY != 0;
            found.push(Obstacle {
                id: if dirty { "dirty-flag" } else { "volume-flags" },
                what: format!(
                    "$VOLUME_INFORMATION: flags without {FORBIDDING_FLAGS:#06x} expected, found {flags:#06x} (file record 3)"
                ),
                advice: CHKDSK.to_owned(),
            });
        }
        Ok(())
    }

    fn check_log(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let stream = self.file(number::LOG_FILE)?.require(code::DATA, "")?;
        let mut not_clean = |id: &'static str, what: String| {
            found.push(Obstacle {
                id,
                what: format!("$LogFile: {what} (file record 2)"),
                advice: BOOT_WINDOWS.to_owned(),
            });
        };
        let mut pages: Vec<Option<RestartPage>> = Vec::new();
        let mut head = vec![0; log::PAGE_LEN.saturating_mul(2)];
        if stream.data_len < wide(head.len()) {
            not_clean(
                "log-not-clean",
                format!(
                    "two restart pages expected, found {} bytes",
                    stream.data_len
                ),
            );
            return Ok(());
        }
        self.read_stream(&stream, FileOffset(0), &mut head)?;
        if head.starts_with(&[0xFF; PROBE]) {
            if let Some(at) = self.first_used_byte(&stream)? {
                not_clean(
                    "log-not-clean",
                    format!(
                        "0xff or zeros to the end of an empty log expected, found otherwise at {at:#x}"
                    ),
                );
            }
            return Ok(());
        }
        // The second page follows the first, however long that is.
        let page_len = View::new(&head, "restart page").u32(log::SYSTEM_PAGE_LEN)?;
        let page_len = if page_len.is_power_of_two() && (512..=65536).contains(&page_len) {
            u64::from(page_len)
        } else {
            wide(log::PAGE_LEN)
        };
        for at in [0, page_len] {
            let mut page = vec![0; narrow(page_len, "restart page")?];
            let read = self.read_stream(&stream, FileOffset(at), &mut page);
            pages.push(read.ok().and_then(|()| restart_page(&mut page)));
        }
        let [Some(first), Some(second)] = pages.as_slice() else {
            let which = if matches!(pages.first(), Some(None)) {
                0
            } else {
                page_len
            };
            not_clean(
                "log-not-clean",
                format!("a valid restart page at {which:#x} expected, found none"),
            );
            return Ok(());
        };
        let newer = if second.lsn > first.lsn {
            second
        } else {
            first
        };
        let both_clean = newer.clean && (first.lsn != second.lsn || (first.clean && second.clean));
        if first.chkdsk || second.chkdsk {
            not_clean(
                "log-not-clean",
                "a restart page written by Windows expected, found one written by chkdsk"
                    .to_owned(),
            );
        } else if !matches!(newer.version, (1, 0 | 1)) {
            not_clean(
                "log-version",
                format!(
                    "version 1.0 or 1.1 (a dismounted volume) expected, found {}.{}",
                    newer.version.0, newer.version.1
                ),
            );
        } else if !both_clean {
            not_clean(
                "log-not-clean",
                "a cleanly dismounted volume expected, found unfinished transactions".to_owned(),
            );
        }
        Ok(())
    }

    /// Where an empty log has anything else than whole blocks of 0xFF, or of zeros where no reader probes
    /// it: a clone of the metadata alone keeps only what was read.
    fn first_used_byte(&self, stream: &Stream) -> Result<Option<u64>> {
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0u64;
        let end = stream.data_len.min(MAX_LOG_LEN);
        while at < end {
            let len = narrow(end.saturating_sub(at).min(1 << 20), "$LogFile")?;
            let Some(part) = buffer.get_mut(..len) else {
                break;
            };
            self.read_stream(stream, FileOffset(at), part)?;
            for (block, start) in part.chunks(PROBE).zip((at..).step_by(PROBE)) {
                // Readers look at the start, and wherever twice as far is.
                let probed = start == 0 || start.is_power_of_two();
                let first = match block.first() {
                    Some(0) if !probed => 0,
                    _ => 0xFF,
                };
                if let Some(inside) = block.iter().position(|byte| *byte != first) {
                    return Ok(Some(start.saturating_add(wide(inside))));
                }
            }
            at = at.saturating_add(wide(len));
        }
        Ok(None)
    }

    fn check_hibernation(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        let Some(signature) = self.hibernation_signature()? else {
            return Ok(());
        };
        // PO_MEMORY_IMAGE signatures: hibr and rstr hold a session, link points to one elsewhere;
        // wake and brkp are what a finished resume leaves, zeros were never used.
        let harmless = matches!(&signature, b"wake" | b"brkp" | [0, 0, 0, 0]);
        if !harmless {
            found.push(Obstacle {
                id: "hibernated",
                what: format!(
                    "\\hiberfil.sys: no hibernated session expected, found signature {}",
                    crate::text::escape(&String::from_utf8_lossy(&signature))
                ),
                advice:
                    "resume the machine, turn fast startup off (powercfg /h off), shut it down \
                         and capture it again"
                        .to_owned(),
            });
        }
        Ok(())
    }

    /// The first four bytes of \hiberfil.sys in lower case, if there is one with any content.
    pub fn hibernation_signature(&self) -> Result<Option<[u8; 4]>> {
        let root = self.file(number::ROOT)?;
        let Some(root_index) = Index::open(self, &root, DIRECTORY_INDEX)? else {
            return Ok(None);
        };
        let name: Vec<u16> = "hiberfil.sys".encode_utf16().collect();
        let Some(hit) = root_index.find_name(self, &name)?.into_iter().next() else {
            return Ok(None);
        };
        let file = self.file_at(hit.reference)?;
        let Some(data) = file.stream(code::DATA, "") else {
            return Ok(None);
        };
        if data.data_len == 0 {
            return Ok(None);
        }
        let mut signature = [0; 4];
        let len = narrow(data.data_len.min(4), "hiberfil.sys")?;
        if let Some(part) = signature.get_mut(..len) {
            self.read_stream(&data, FileOffset(0), part)?;
        }
        signature.make_ascii_lowercase();
        Ok(Some(signature))
    }

    fn check_mirror_state(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        for line in self.check_mirror()? {
            found.push(Obstacle {
                id: "mirror-mismatch",
                what: line,
                advice: CHKDSK.to_owned(),
            });
        }
        Ok(())
    }

    /// Differences between records 0 to 3 and their copies, apart from update sequences.
    pub(super) fn check_mirror(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mirror = self.file(number::MIRROR)?.require(code::DATA, "")?;
        if mirror.runs().first().and_then(|run| run.lcn) != Some(self.geometry.mirror_lcn) {
            lines.push(format!(
                "$MFTMirr: first cluster {} expected by the boot sector, found another (file record 1)",
                self.geometry.mirror_lcn
            ));
        }
        let record_len = u64::from(self.geometry.record_len);
        for number in 0..MIRRORED.min(self.record_count()) {
            let at = product(number, record_len, "$MFTMirr")?;
            let mut raw = vec![0; self.geometry.record_bytes()];
            self.read_stream(&mirror, FileOffset(at), &mut raw)?;
            let (copy, _) = Record::from_raw(number, raw);
            let own = self.read_record(number)?;
            if significant(&own) != significant(&copy) || !own.fixup_ok || !copy.fixup_ok {
                lines.push(format!(
                    "$MFTMirr: a copy of record {number} expected, found other bytes (file record 1, file offset {at:#x})"
                ));
            }
        }
        Ok(lines)
    }

    fn check_system_files(&self, found: &mut Vec<Obstacle>) -> Result<()> {
        if let Some(problem) = self.upcase.problem() {
            found.push(Obstacle {
                id: "upcase",
                what: problem.to_owned(),
                advice: CHKDSK.to_owned(),
            });
        }
        let bitmap = self.file(number::BITMAP)?.require(code::DATA, "")?;
        let needed = self.geometry.cluster_count.div_ceil(8);
        if bitmap.data_len < needed || bitmap.initialised < needed {
            found.push(Obstacle {
                id: "bitmap",
                what: format!(
                    "$Bitmap: {needed} bytes expected, found {} (file record 6)",
                    bitmap.initialised
                ),
                advice: CHKDSK.to_owned(),
            });
        }
        Ok(())
    }
}

/// A record's bytes in use without its update sequence array.
fn significant(record: &Record) -> Vec<u8> {
    let mut bytes = record.bytes.clone();
    bytes.truncate(record.bytes_in_use().min(bytes.len()));
    let view = record.view();
    let at = usize::from(view.u16(fixup::ARRAY_OFFSET).unwrap_or(0));
    let len = usize::from(view.u16(fixup::ARRAY_COUNT).unwrap_or(0)).saturating_mul(2);
    if let Some(array) = bytes.get_mut(at..at.saturating_add(len)) {
        array.fill(0);
    }
    bytes
}

/// A restart page with a valid update sequence.
fn restart_page(page: &mut [u8]) -> Option<RestartPage> {
    let chkdsk = page.starts_with(&log::CHKDSK);
    if !chkdsk && !page.starts_with(&log::RESTART) {
        return None;
    }
    if undo_fixup(page) != Fixup::Valid {
        return None;
    }
    let view = View::new(page, "restart page");
    if index(view.u32(log::SYSTEM_PAGE_LEN).ok()?) != page.len() {
        return None;
    }
    let area = usize::from(view.u16(log::AREA_OFFSET).ok()?);
    let field = |at: usize| view.u16(area.saturating_add(at)).ok();
    let flags = field(log::AREA_FLAGS)?;
    Some(RestartPage {
        chkdsk,
        version: (view.u16(log::MAJOR).ok()?, view.u16(log::MINOR).ok()?),
        lsn: if chkdsk {
            view.u64(log::CHKDSK_LSN).ok()?
        } else {
            view.u64(area.saturating_add(log::AREA_LSN)).ok()?
        },
        clean: field(log::AREA_IN_USE)? == log::NO_CLIENT || flags & log::CLEAN != 0,
    })
}
