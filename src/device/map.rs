//! Read-only memory maps of host files, for long scans. The only unsafe code of the crate, with
//! what goes with it: the handler of SIGBUS.
//!
//! A page that the host cannot deliver (the file was cut by another process, the disk failed)
//! raises SIGBUS in whoever touches it. Our handler puts zeros there and marks the window as torn,
//! and [`Mapping::scan`] turns the mark into an error; a SIGBUS anywhere else goes its usual way.

use std::{
    fs::File,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
};

use memmap2::{Mmap, MmapOptions};

use super::file::shorter;
use crate::error::{Error, Kind, Result};

/// Windows that can be mapped at the same time.
const SLOTS: usize = 64;

/// A window of a host file in memory, read-only.
#[derive(Debug)]
pub struct Mapping<'a> {
    // Dropped first: a slot must be free before its addresses are somebody else's.
    slot: Claim<'static>,
    map: Mmap,
    file: &'a File,
    end: u64,
}

impl<'a> Mapping<'a> {
    /// Maps `len` bytes at `offset` (a multiple of 4096) of a regular file that is locked and was
    /// checked to be at least that long.
    #[allow(unsafe_code)]
    pub fn new(file: &'a File, offset: u64, len: usize) -> Result<Self> {
        let meta = file
            .metadata()
            .map_err(|e| Error::io("map: size of the image", &e))?;
        let end = offset.checked_add(len as u64).filter(|_| meta.is_file());
        let Some(end) = end else {
            return Err(Error::internal(format!(
                "map: {len} bytes at {offset:#x} of the image"
            )));
        };
        if end > meta.len() {
            return Err(shorter());
        }
        install()?;
        // SAFETY: the mapping is read-only, its bytes are lent out only inside `scan`, and windows
        // are short-lived. Another process may change the file (an flock is only advice): then the
        // bytes read are any bytes, which the searches over them take as they come, and nothing
        // that leads to a write ever reads through a mapping. A file that got shorter raises
        // SIGBUS, which the slot claimed below turns into an error.
        let map = unsafe {
            MmapOptions::new()
                .offset(offset)
                .len(len)
                .populate()
                .map(file)
        }
        .map_err(|e| Error::io(format!("map: {len} bytes at {offset:#x}"), &e))?;
        let start = map.as_ptr() as usize;
        let slot = TABLE
            .claim(start, start.saturating_add(map.len()))
            .ok_or_else(|| Error::limit(format!("map: fewer than {SLOTS} windows expected")))?;
        Ok(Self {
            slot,
            map,
            file,
            end,
        })
    }

    /// Lets `look` see the bytes; an error if they were not all the file's own.
    pub fn scan<T>(&self, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let seen = look(&self.map);
        let torn = self.slot.is_torn();
        let len = self
            .file
            .metadata()
            .map_err(|e| Error::io("image: size", &e))?
            .len();
        // A cut inside a page is not told: the rest of that page just reads as zeros.
        if len < self.end {
            return Err(shorter());
        }
        if torn {
            return Err(Error::new(
                Kind::Io,
                "image: all of it expected, found a part that could not be read: the host has an \
                 I/O error, or it was shorter for a moment",
            )
            .advise("make sure that no other program writes to it and that its disk is sound"));
        }
        Ok(seen)
    }
}

/// The live windows, for the handler: atomics only, no lock.
struct Table([Slot; SLOTS]);

static TABLE: Table = Table::new();

/// One window. The handler believes it only when `version` is even and the same before and after
/// it read the two ends: ends of two different windows must never be taken for one.
struct Slot {
    taken: AtomicBool,
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    torn: AtomicBool,
}

impl Slot {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            torn: AtomicBool::new(false),
        }
    }

    /// Only the owner of `taken` calls this.
    fn set(&self, start: usize, end: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.torn.store(false, Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// The end of this window if `address` lies in it. A window that is being set is not the one
    /// that faults: its bytes are not lent out yet, or no longer.
    fn holds(&self, address: usize) -> Option<usize> {
        let version = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let same = self.version.load(Ordering::Relaxed) == version;
        (same && version.is_multiple_of(2) && start <= address && address < end).then_some(end)
    }
}

impl Table {
    const fn new() -> Self {
        Self([const { Slot::new() }; SLOTS])
    }

    /// Registers a window, unless all slots are taken.
    fn claim(&self, start: usize, end: usize) -> Option<Claim<'_>> {
        let slot = self.0.iter().find(|slot| {
            slot.taken
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })?;
        slot.set(start, end);
        Some(Claim(slot))
    }

    /// The window that `address` lies in, with its end.
    fn find(&self, address: usize) -> Option<(&Slot, usize)> {
        self.0
            .iter()
            .find_map(|slot| slot.holds(address).map(|end| (slot, end)))
    }
}

/// A slot of the table while its window lives.
struct Claim<'a>(&'a Slot);

impl std::fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim")
            .field("torn", &self.is_torn())
            .finish_non_exhaustive()
    }
}

impl Claim<'_> {
    fn is_torn(&self) -> bool {
        self.0.torn.load(Ordering::Acquire)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.set(0, 0);
        self.0.taken.store(false, Ordering::Release);
    }
}

/// What SIGBUS did before, and how large a page is: read by the handler, set before it exists.
struct Before {
    action: libc::sigaction,
    page: usize,
}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// Installs the handler, once; an error if the host does not let us.
fn install() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| handle_sigbus().map_err(|e| e.raw_os_error().unwrap_or(0)))
        .map_err(|e| Error::io("map: SIGBUS", &std::io::Error::from_raw_os_error(e)))
}

#[allow(unsafe_code)]
fn handle_sigbus() -> std::io::Result<()> {
    let failed = std::io::Error::last_os_error;
    // SAFETY: `sigaction` is plain data for which zeros are a value (SIG_DFL, no flags, no mask).
    let (mut old, mut new): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: asks only, and both pointers are null or point to a live `sigaction`.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut old) } != 0 {
        return Err(failed());
    }
    // SAFETY: asks for a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    if !page.is_power_of_two() {
        return Err(std::io::Error::from(std::io::ErrorKind::Unsupported));
    }
    BEFORE.get_or_init(|| Before { action: old, page });
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    new.sa_sigaction = handler as libc::sighandler_t;
    // ONSTACK: std's own handler, which we may hand over to, reports stack overflows from there.
    // RESTART: a SIGBUS that somebody sends must not interrupt a read.
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `new` has a handler of the type that SA_SIGINFO asks for, and it calls only what may
    // be called in a handler: atomic loads and stores, mmap, sigaction, raise.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut()) } != 0 {
        return Err(failed());
    }
    Ok(())
}

/// Zeros for the rest of one of our windows, or back to what SIGBUS did before.
#[allow(unsafe_code)]
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid `siginfo_t` to a handler with SA_SIGINFO.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // Codes of 0 and below: somebody sent the signal, and the address means nothing.
    let fault = code > 0;
    if fault
        && let Some(before) = BEFORE.get()
        && let Some((slot, end)) = TABLE.find(address)
    {
        let start = address & !(before.page - 1);
        slot.torn.store(true, Ordering::Release);
        // SAFETY: from the page that faulted to the end of a live mapping of ours (the kernel
        // rounds up to its last page): nothing else lies there, and it is unmapped as a whole when
        // the `Mmap` goes, which cannot be while a thread reads in it.
        let put = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                end - start,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if put != libc::MAP_FAILED {
            return;
        }
    }
    // SAFETY: restores what was there; zeros are SIG_DFL. The fault happens again on return and
    // meets the old action; a signal that was sent has to be sent again.
    unsafe {
        let old = match BEFORE.get() {
            Some(before) => before.action,
            None => std::mem::zeroed(),
        };
        libc::sigaction(signal, &raw const old, std::ptr::null_mut());
        if !fault {
            libc::raise(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const LEN: usize = 1 << 20;

    fn file(byte: u8) -> File {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![byte; LEN], 0).unwrap();
        file
    }

    fn sum(bytes: &[u8]) -> u64 {
        bytes.iter().map(|byte| u64::from(*byte)).sum()
    }

    #[test]
    fn a_file_cut_while_it_is_mapped_is_an_error_not_a_death() {
        for keep in [0, 1, 4095, 4096, 500_000, LEN as u64 - 4096, LEN as u64 - 1] {
            let file = file(1);
            let map = Mapping::new(&file, 0, LEN).unwrap();
            assert_eq!(map.scan(sum).unwrap(), LEN as u64);
            file.set_len(keep).unwrap();
            let mut seen = 0;
            let error = map.scan(|bytes| seen = sum(bytes)).unwrap_err();
            assert_eq!(error.kind(), Kind::Io);
            assert!(error.what().contains("shorter"), "{error}");
            assert_eq!(seen, keep, "zeros behind the cut");
            let error = map.scan(sum).unwrap_err();
            assert!(error.what().contains("shorter"), "still: {error}");
        }
    }

    #[test]
    fn a_file_that_was_cut_and_grew_again_is_an_error_too() {
        let file = file(1);
        let map = Mapping::new(&file, 4096, LEN - 4096).unwrap();
        let error = map
            .scan(|bytes| {
                file.set_len(8192).unwrap();
                let seen = sum(bytes);
                file.set_len(LEN as u64).unwrap();
                seen
            })
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.what().contains("could not be read"), "{error}");
    }

    #[test]
    fn only_the_torn_window_is_torn_and_its_slot_is_clean_again() {
        let (good, bad) = (file(3), file(5));
        let (first, second) = (
            Mapping::new(&bad, 0, LEN).unwrap(),
            Mapping::new(&good, 0, LEN).unwrap(),
        );
        bad.set_len(0).unwrap();
        first.scan(sum).unwrap_err();
        assert_eq!(second.scan(sum).unwrap(), 3 * LEN as u64);
        drop(first);
        // More windows than slots, one after the other: none inherits the mark.
        for _ in 0..SLOTS * 2 {
            let again = Mapping::new(&good, 0, LEN).unwrap();
            assert_eq!(again.scan(sum).unwrap(), 3 * LEN as u64);
        }
    }

    #[test]
    fn what_does_not_lie_in_the_file_is_not_mapped() {
        let file = file(1);
        assert_eq!(
            Mapping::new(&file, 4096, LEN).unwrap_err().kind(),
            Kind::Io,
            "it may have been cut"
        );
        assert_eq!(
            Mapping::new(&file, u64::MAX, LEN).unwrap_err().kind(),
            Kind::Internal
        );
        let null = File::open("/dev/null").unwrap();
        assert_eq!(
            Mapping::new(&null, 0, 4096).unwrap_err().kind(),
            Kind::Internal
        );
    }

    #[test]
    fn a_full_table_says_so_and_slots_are_used_again() {
        let table = Table::new();
        let all: Vec<Claim<'_>> = (0..SLOTS)
            .map(|i| table.claim(i * 10 + 10, i * 10 + 20).unwrap())
            .collect();
        assert!(table.claim(5000, 6000).is_none());
        assert!(table.find(9).is_none() && table.find(SLOTS * 10 + 10).is_none());
        for (i, claim) in all.iter().enumerate() {
            for at in [i * 10 + 10, i * 10 + 19] {
                let (slot, end) = table.find(at).unwrap();
                assert!(std::ptr::eq(slot, claim.0));
                assert_eq!(end, i * 10 + 20);
            }
        }
        table
            .find(15)
            .unwrap()
            .0
            .torn
            .store(true, Ordering::Release);
        drop(all);
        assert!(table.find(15).is_none());
        assert!(!table.claim(10, 20).unwrap().is_torn());
    }

    #[test]
    fn two_threads_with_windows_that_are_cut_under_them() {
        let start = Barrier::new(3);
        let torn = AtomicUsize::new(0);
        let cut = file(1);
        let whole = file(2);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    cut.set_len(4096).unwrap();
                    cut.set_len(LEN as u64).unwrap();
                }
            });
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        for _ in 0..200 {
                            let good = Mapping::new(&whole, 0, LEN).unwrap();
                            let result = Mapping::new(&cut, 0, LEN).and_then(|bad| {
                                bad.scan(|bytes| {
                                    // A cut of our own, so that each run meets some.
                                    cut.set_len(4096).unwrap();
                                    sum(bytes)
                                })
                            });
                            match result {
                                Ok(seen) => assert!(seen <= LEN as u64),
                                Err(error) => {
                                    assert_eq!(error.kind(), Kind::Io, "{error}");
                                    torn.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                            assert_eq!(good.scan(sum).unwrap(), 2 * LEN as u64);
                        }
                    })
                })
                .collect();
            // Joined before any assertion: a reader that failed must not leave the cutter running.
            let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(ended.iter().all(|end| end.is_ok()), "{ended:?}");
        });
        assert!(torn.into_inner() > 0, "no window was cut");
    }
}
