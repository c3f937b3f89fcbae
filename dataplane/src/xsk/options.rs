//! Socket options of `AF_XDP` sockets that no crate wraps.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Plain integers that the kernel may write in any pattern.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding that matters.
unsafe trait Plain: Copy + Default {}

// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: six integers of eight bytes.
unsafe impl Plain for Statistics {}

/// `struct xdp_statistics`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Statistics {
    pub(super) rx_dropped: u64,
    pub(super) rx_invalid_descs: u64,
    pub(super) tx_invalid_descs: u64,
    pub(super) rx_ring_full: u64,
    pub(super) rx_fill_ring_empty_descs: u64,
    pub(super) tx_ring_empty_descs: u64,
}

fn get<T: Plain>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for `len` bytes, and `Plain` allows any bytes in it.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is readable for the length of an integer.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether the kernel gave the socket zero-copy.
pub(super) fn is_zero_copy(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(get::<u32>(fd, libc::SOL_XDP, libc::XDP_OPTIONS)? & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// The kernel's counters of a socket. Kernels before 5.9 fill in the first three.
pub(super) fn statistics(fd: BorrowedFd<'_>) -> io::Result<Statistics> {
    get(fd, libc::SOL_XDP, libc::XDP_STATISTICS)
}

/// Whether the kernel knows which poll function (NAPI) serves the socket's queue.
pub(super) fn knows_driver(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(get::<u32>(fd, libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID)? != 0)
}

/// Whether each call into the socket polls the device.
pub(super) fn busy_polls(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(get::<u32>(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL)? != 0)
}

/// Has each call into the socket poll the device, or not. The option is a time, but of that the kernel only
/// asks whether there is any: a socket that never blocks polls once a call (`sk_busy_loop`).
pub(super) fn set_busy_poll(fd: BorrowedFd<'_>, busy_poll: bool) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, busy_poll.into())
}

/// How many frames such a call takes at most.
pub(super) fn set_busy_poll_budget(fd: BorrowedFd<'_>, frames: u16) -> io::Result<()> {
    set(
        fd,
        libc::SOL_SOCKET,
        libc::SO_BUSY_POLL_BUDGET,
        frames.into(),
    )
}

/// How many frames a send takes at most in copy mode, once the TX ring is there: `XDP_MAX_TX_SKB_BUDGET` of
/// `<linux/if_xdp.h>`. Kernels before 6.17 have 32 and no such option.
pub(super) fn set_send_budget(fd: BorrowedFd<'_>, frames: u16) -> io::Result<()> {
    const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
    set(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, frames.into())
}
