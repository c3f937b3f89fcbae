//! The system calls of the lab that have no safe wrapper.
//!
//! Two things need `unsafe`: code that runs between `fork` and `exec`, and the `ethtool` ioctl. Both
//! are here and nowhere else; the functions that leave this module are safe to call.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Commands of linux/ethtool.h that switch an offload.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum Offload {
    /// `ETHTOOL_STXCSUM`: TX checksums. Segmentation goes with it.
    TxChecksum = 0x17,
    /// `ETHTOOL_SGRO`: packets put together as they arrive.
    Gro = 0x2c,
}

/// `ETHTOOL_GCHANNELS` and `ETHTOOL_SCHANNELS` of linux/ethtool.h.
const GET_CHANNELS: u32 = 0x3c;
const SET_CHANNELS: u32 = 0x3d;
/// Words of `struct ethtool_channels`, and which of them are the numbers of queues that receive, that
/// transmit, that do both, and of the last the most there can be.
const CHANNELS: usize = 9;
const MAX_COMBINED: usize = 4;
const RX: usize = 5;
const TX: usize = 6;
const COMBINED: usize = 8;

/// Makes the child that `command` starts enter the network namespace and die with the thread that
/// started it.
pub(super) fn enter_namespace_on_exec(command: &mut Command, namespace: Arc<OwnedFd>) {
    let parent = Pid::this();
    let before_exec = move || {
        setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the signal was asked for; then nobody would send it.
        if getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: the closure runs in a forked child of a process with several threads, so it may only
    // make async-signal-safe calls: setns, prctl and getppid are bare system calls, and neither the
    // error conversions nor `from_raw_os_error` allocate. It owns the descriptor it uses.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Turns off an offload of `interface` in the network namespace that `socket` belongs to.
pub(super) fn disable(socket: &UdpSocket, interface: &str, offload: Offload) -> io::Result<()> {
    // `struct ethtool_value`: command and value.
    ethtool(socket, interface, &mut [offload as u32, 0])
}

/// Sets the number of queues of `interface` in the network namespace that `socket` belongs to.
pub(super) fn set_queues(socket: &UdpSocket, interface: &str, queues: u32) -> io::Result<()> {
    let mut channels = [0; CHANNELS];
    channels[0] = GET_CHANNELS;
    ethtool(socket, interface, &mut channels)?;
    channels[0] = SET_CHANNELS;
    if channels[MAX_COMBINED] > 0 {
        channels[COMBINED] = queues;
    } else {
        // As veth has them.
        channels[RX] = queues;
        channels[TX] = queues;
    }
    ethtool(socket, interface, &mut channels)
}

/// Sends an ethtool command: its structure as words, as long as the command wants it.
fn ethtool(socket: &UdpSocket, interface: &str, words: &mut [u32]) -> io::Result<()> {
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    // The last byte stays zero: the kernel wants a terminated string.
    if interface.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: words.as_mut_ptr().cast(),
        },
    };
    // SAFETY: SIOCETHTOOL takes a pointer to an ifreq whose data pointer leads to the structure that
    // the command expects, and the callers above make it that long; both live until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
