//! One balancer per interface.

use std::{
    fs, io,
    os::linux::net::SocketAddrExt as _,
    os::unix::net::{SocketAddr, UnixListener, UnixStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// How long a process that was killed may take to let go of its lock, and of all else.
const LAST_BREATH: Duration = Duration::from_secs(5);
/// Time between two tries meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// Tries that must find its owner alive: between the signal and the end there is a moment in which
/// nothing shows that it comes.
const LOOKS: u32 = 3;

/// Held while a balancer runs on an interface.
///
/// It is a name in the abstract namespace of Unix sockets: that belongs to the network namespace, as
/// the interface does, and the kernel forgets it with the process, however that ends.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _listener: Option<UnixListener>,
}

impl InstanceLock {
    /// Takes the lock, or says which process has it. Waits for one that is ending.
    pub(super) fn take(interface: &str) -> anyhow::Result<Self> {
        let name = format!("katran-xsk/{interface}");
        let address = SocketAddr::from_abstract_name(&name)?;
        let mut seen_alive = 0;
        let mut waited = Duration::ZERO;
        loop {
            let error = match UnixListener::bind_addr(&address) {
                Ok(listener) => {
                    return Ok(Self {
                        _listener: Some(listener),
                    });
                }
                Err(error) => error,
            };
            if error.kind() != io::ErrorKind::AddrInUse {
                return Err(error).context(format!("the lock @{name} cannot be taken"));
            }
            let owner = UnixStream::connect_addr(&address)
                .and_then(|stream| Ok(getsockopt(&stream, PeerCredentials)?));
            match &owner {
                // Any user can take such a name; only one who could run a balancer is believed.
                Ok(owner) if owner.uid() != 0 && owner.uid() != nix::unistd::geteuid().as_raw() => {
                    tracing::warn!(
                        pid = owner.pid(),
                        uid = owner.uid(),
                        "the lock @{name} is held by a process of another user; going on without it"
                    );
                    return Ok(Self { _listener: None });
                }
                Ok(owner) if is_ending(owner.pid()) => seen_alive = 0,
                // It refuses because it has just ended, or is none of ours.
                _ => seen_alive += 1,
            }
            if seen_alive < LOOKS && waited < LAST_BREATH {
                thread::sleep(PAUSE);
                waited += PAUSE;
                continue;
            }
            match owner {
                Ok(owner) => bail!(
                    "interface {interface}: katran-xsk is already running on it, process {}; stop \
                     that one first, or manage it with `katran-xsk ctl`",
                    owner.pid()
                ),
                Err(_) => bail!(
                    "interface {interface}: katran-xsk is already running on it; stop that one first"
                ),
            }
        }
    }
}

/// Whether a process is about to end, as one that was killed is while the kernel takes back what it
/// had.
fn is_ending(process: i32) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
    match (read("stat"), read("status")) {
        (Ok(stat), Ok(status)) => is_exiting(&stat) || is_killed(&status),
        _ => true,
    }
}

/// Whether `/proc/PID/stat` has the flag `PF_EXITING` (field 9, behind the name in brackets).
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u32 = 4;
    let flags = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

/// Whether SIGKILL, signal 9, is among the pending ones of `/proc/PID/status`.
fn is_killed(status: &str) -> bool {
    status
        .lines()
        .filter_map(|line| {
            let (name, set) = line.split_once(':')?;
            matches!(name, "SigPnd" | "ShdPnd").then_some(set.trim())
        })
        .filter_map(|set| u64::from_str_radix(set, 16).ok())
        .any(|set| set & (1 << 8) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_killed_is_ending() {
        let stat = |flags: u32| format!("7 (a (b) c) R 1 7 7 0 -1 {flags} 0 0");
        assert!(is_exiting(&stat(0x0040_0004)) && !is_exiting(&stat(0x0040_0100)));
        assert!(is_killed("Name:\tx\nSigPnd:\t0000000000000100\n"));
        assert!(is_killed(
            "SigPnd:\t0000000000000000\nShdPnd:\t0000000000004100\n"
        ));
        assert!(!is_killed(
            "SigPnd:\t0000000000004000\nSigBlk:\t0000000000000100\n"
        ));
        assert!(!is_ending(std::process::id().cast_signed()));
    }

    #[test]
    fn a_lock_that_is_let_go_in_a_moment_is_waited_for() {
        let interface = format!("k{}", std::process::id());
        let listener = InstanceLock::take(&interface).unwrap();
        let until = std::thread::spawn(move || {
            std::thread::sleep(PAUSE);
            drop(listener);
        });
        assert!(InstanceLock::take(&interface).is_ok());
        until.join().unwrap();
    }

    #[test]
    fn the_second_learns_who_is_first() {
        let interface = format!("t{}", std::process::id());
        let first = InstanceLock::take(&interface).unwrap();
        let error = InstanceLock::take(&interface).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "interface {interface}: katran-xsk is already running on it, process {}; stop that \
                 one first, or manage it with `katran-xsk ctl`",
                std::process::id()
            )
        );
        drop(first);
        InstanceLock::take(&interface).unwrap();
    }
}
