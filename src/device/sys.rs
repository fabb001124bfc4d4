//! The few calls of the host that no safe crate offers: leases, locks of byte ranges that belong
//! to the open file, what lies behind a loop device, and what the allocator keeps. One call each, nothing
//! decided here.
//!
//! Facts: `F_GETLEASE(2const)`, `F_OFD_SETLK(2const)`, `loop(4)`, `mallopt(3)`.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{Error, Result},
    mem::size_of,
    os::fd::AsRawFd,
};

/// A lock or lease: for reading beside others, for writing alone, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Read,
    Write,
    Nothing,
}

impl Hold {
    fn raw(self) -> libc::c_int {
        match self {
            Self::Read => libc::F_RDLCK,
            Self::Write => libc::F_WRLCK,
            Self::Nothing => libc::F_UNLCK,
        }
    }

    fn from_raw(raw: libc::c_int) -> Self {
        match raw {
            _ if raw == Self::Write.raw() => Self::Write,
            _ if raw == Self::Read.raw() => Self::Read,
            _ => Self::Nothing,
        }
    }
}

/// What stands behind an attached loop device.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoopBacking {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) read_only: bool,
}

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);

const LOOP_GET_STATUS64: u32 = 0x4c05;
const LO_FLAGS_READ_ONLY: u32 = 1;

/// Allocations above this are given back to the system as soon as they are freed.
const GIVEN_BACK: libc::c_int = 8 << 20;

/// The allocator of glibc would keep what is freed in its heap: up to 64 MiB at its end, and allocations of up
/// to 32 MiB in it, once such ones were freed.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: both options take a number of bytes, and nothing else depends on them.
        unsafe { libc::mallopt(option, GIVEN_BACK) };
    }
}

fn done(returned: libc::c_int) -> Result<libc::c_int> {
    if returned < 0 {
        return Err(Error::last_os_error());
    }
    Ok(returned)
}

/// Takes or gives back a lease. `WouldBlock`: somebody else has the file open (for writing, if a
/// read lease is asked for). `Nothing` when there is none fails like any other refusal.
pub(super) fn set_lease(file: &File, hold: Hold) -> Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the argument is an int.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, hold.raw()) }).map(drop)
}

/// Which lease is held; while it is being broken, what it has to become.
pub(super) fn lease(file: &File) -> Result<Hold> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; there is no argument.
    let raw = done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) })?;
    Ok(Hold::from_raw(raw))
}

fn range(hold: Hold, start: u16, len: u16) -> libc::flock {
    libc::flock {
        // F_RDLCK, F_WRLCK and F_UNLCK are 0 to 4 everywhere.
        l_type: hold.raw() as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start.into(),
        l_len: len.into(),
        // Has to be 0 for locks that belong to the open file.
        l_pid: 0,
    }
}

/// Locks or unlocks bytes, all of them or none. `WouldBlock`: somebody else holds one of them.
pub(super) fn lock_range(file: &File, hold: Hold, start: u16, len: u16) -> Result<()> {
    let lock = range(hold, start, len);
    // SAFETY: the descriptor is open, and the kernel reads one `flock` that outlives the call.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })
        .map(drop)
        .map_err(|e| match e.raw_os_error() {
            // POSIX lets a file system say either; SMB says this one.
            Some(libc::EACCES) => Error::from_raw_os_error(libc::EAGAIN),
            _ => e,
        })
}

/// The first lock of somebody else on one of these bytes: its kind, and where it begins.
pub(super) fn lock_on(file: &File, start: u16, len: u16) -> Result<Option<(Hold, i64)>> {
    let mut lock = range(Hold::Write, start, len);
    // SAFETY: the descriptor is open, and the kernel writes one `flock` that outlives the call.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(match Hold::from_raw(lock.l_type.into()) {
        Hold::Nothing => None,
        hold => Some((hold, lock.l_start)),
    })
}

/// The file behind an attached loop device (`ENXIO` when it is not attached).
pub(super) fn loop_backing(device: &File) -> Result<LoopBacking> {
    let mut info = LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    // SAFETY: the descriptor is open, and the kernel writes one `loop_info64`: 232 bytes, checked
    // above, valid for every bit pattern.
    done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &raw mut info) })?;
    Ok(LoopBacking {
        dev: info.device,
        ino: info.inode,
        read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
    })
}
