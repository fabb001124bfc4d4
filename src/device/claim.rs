//! Claims on a host file: what keeps others off it while it is read or written, and what tells
//! that somebody has it already.
//!
//! Three means, because none sees everybody: `flock` meets other declones and wimlib; the byte
//! ranges that qemu locks (`block/file-posix.c`, `RAW_LOCK_*_BASE`) meet virtual machines and
//! qemu-nbd, and make them refuse the image in turn; a lease (`F_SETLEASE(2const)`) meets every
//! open descriptor, map and loop device on this machine. Where a lease is not possible, /proc is
//! looked through.

use std::{
    fs::File,
    io,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use super::{
    in_use::{self, Holders, holders},
    sys::{self, Hold},
};
use crate::error::{Error, Result};

/// A program that is just starting another one shares its descriptors for a moment: 11 tries in
/// a fifth of a second before a refusal.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// qemu locks byte `100 + n` while it uses permission n and byte `200 + n` while it does not let
/// others use it. 0: consistent read, 1: write, 2: write what is there already, 3: resize.
const USED: u16 = 100;
const UNSHARED: u16 = 200;
const READ: u16 = 0;
const WRITE: u16 = 1;
const RESIZE: u16 = 3;
/// Both areas have room for more than qemu uses today.
const PERMISSIONS: u16 = 8;

/// Repeats what fails because somebody else is in the way.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TRIES {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
    attempt()
}

/// Nobody else found, somebody found, or this means does not work here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Free,
    Taken,
    Impossible,
}

impl Probe {
    fn of(result: &io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Free,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Self::Taken,
            Err(_) => Self::Impossible,
        }
    }
}

/// `flock`, held until the file is closed.
pub(super) fn flock(file: &File, exclusive: bool) -> Probe {
    use rustix::fs::FlockOperation;
    let operation = if exclusive {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    Probe::of(&patiently(|| {
        rustix::fs::flock(file, operation).map_err(io::Error::from)
    }))
}

/// Claims what a reading qemu would, until the file is closed: other readers stay welcome, writers
/// are met and kept out.
pub(super) fn qemu_reader(file: &File) -> Probe {
    Probe::of(&patiently(|| {
        for byte in [USED + READ, UNSHARED + WRITE, UNSHARED + RESIZE] {
            sys::lock_range(file, Hold::Read, byte, 1)?;
        }
        for byte in [USED + WRITE, USED + RESIZE, UNSHARED + READ] {
            match sys::lock_on(file, byte, 1)? {
                // A reader's lock on all of the file (ntfs-3g -o ro) is not one of qemu's.
                None | Some((Hold::Read, 0)) => {}
                Some(_) => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
        Ok(())
    }))
}

/// Claims everything, until the file is closed: every qemu is met, and refuses to open it.
pub(super) fn qemu_writer(file: &File) -> Probe {
    Probe::of(&patiently(|| {
        // One call per area is one question to all of qemu's locks; nothing can slip in between.
        for area in [USED, UNSHARED] {
            sys::lock_range(file, Hold::Write, area, PERMISSIONS)?;
        }
        // Kept as qemu keeps them: with a read lock qemu names the reason, not a failed lock.
        for (area, kept) in [
            (USED, [READ, WRITE, RESIZE].as_slice()),
            (UNSHARED, &[0, 1, 2, 3]),
        ] {
            sys::lock_range(file, Hold::Read, area, PERMISSIONS)?;
            for byte in (0..PERMISSIONS).filter(|byte| !kept.contains(byte)) {
                sys::lock_range(file, Hold::Nothing, area + byte, 1)?;
            }
        }
        Ok(())
    }))
}

/// Takes a lease and gives it back at once: is anybody else there?
pub(super) fn probe_lease(file: &File, hold: Hold) -> Probe {
    let taken = patiently(|| take_lease(file, hold));
    if taken.is_ok() {
        sys::set_lease(file, Hold::Nothing).ok();
    }
    Probe::of(&taken)
}

fn take_lease(file: &File, hold: Hold) -> io::Result<()> {
    if !sigio_is_harmless() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    match sys::set_lease(file, hold) {
        // These say "not now" when the server gives them nothing to lease.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock && is_remote(file) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        taken => taken,
    }
}

/// Whether other machines may use the file, of which nothing here would tell.
pub(super) fn is_remote(file: &File) -> bool {
    // NFS, SMB (three of them), Ceph, 9P, AFS, Lustre: `statfs(2)` and `linux/magic.h`.
    const REMOTE: [u64; 8] = [
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x00c3_6400,
        0x0102_1997,
        0x5346_414f,
        0x0bd0_0bd0,
    ];
    rustix::fs::fstatfs(file).is_ok_and(|fs| REMOTE.contains(&(fs.f_type as u64 & 0xffff_ffff)))
}

/// Somebody who wants a leased file makes the kernel send SIGIO, which ends a program that does
/// not handle it. Whether it is handled now.
fn sigio_is_harmless() -> bool {
    static HANDLED: OnceLock<bool> = OnceLock::new();
    *HANDLED.get_or_init(|| {
        // Nobody reads the flag: `Lease::check` asks the kernel.
        let unread = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGIO, unread).is_ok()
    })
}

/// The refusal that names who is there.
pub(super) fn refused(shown: &str, expected: &str, who: &Holders) -> Error {
    Error::refused(format!(
        "image {shown}: {expected} expected, it is in use by {}",
        who.names()
    ))
    .passing()
    .advise(who.advice())
}

/// Nobody else can open the file while this exists: who tries waits until it is dropped, or until
/// the host's `lease-break-time` (45 s) is over. That holds for this process too: the image must
/// not be opened again before. Where leases are not possible (block devices, another owner's file,
/// some file systems) it does nothing.
#[derive(Debug)]
pub struct Lease {
    file: Option<File>,
    shown: String,
}

impl Lease {
    /// Takes a write lease on a file that is open for writing; `Refused` if anybody else has it
    /// open at all.
    pub(super) fn take(file: &File, shown: &str) -> Result<Self> {
        let taken = patiently(|| take_lease(file, Hold::Write));
        let file = match Probe::of(&taken) {
            // The lease belongs to the open file: this second handle keeps it and gives it back.
            Probe::Free => Some(file.try_clone().map_err(|e| {
                sys::set_lease(file, Hold::Nothing).ok();
                Error::io(format!("image {shown}: a second handle"), &e)
            })?),
            Probe::Taken => return Err(refused(shown, "exclusive use", &holders(file))),
            Probe::Impossible => None,
        };
        Ok(Self {
            file,
            shown: shown.to_owned(),
        })
    }

    /// Whether the kernel holds others off; otherwise [`Lease::check`] has nothing to say.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.file.is_some()
    }

    /// `Refused` when somebody has begun to open the file since the lease was taken: the last
    /// moment to step back is before the journal.
    pub fn check(&self) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let wanted = match sys::lease(file) {
            Ok(Hold::Write) => return Ok(()),
            Ok(Hold::Read) => "read",
            Ok(Hold::Nothing) => "change",
            Err(e) => return Err(Error::io(format!("image {}: its lease", self.shown), &e)),
        };
        let waiting = in_use::waiting();
        let who = if waiting.is_empty() {
            "another program".to_owned()
        } else {
            waiting.join(", ")
        };
        Err(Error::refused(format!(
            "image {}: exclusive use expected until it is written, {who} wants to {wanted} it",
            self.shown
        ))
        .passing()
        .advise("end that program, then run declone again"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Fails only when the kernel has taken it away already.
            sys::set_lease(file, Hold::Nothing).ok();
        }
    }
}
