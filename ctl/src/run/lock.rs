//! One balancer per interface.

use std::{
    io,
    os::linux::net::SocketAddrExt as _,
    os::unix::net::{SocketAddr, UnixListener, UnixStream},
};

use anyhow::{Context as _, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// Held while a balancer runs on an interface.
///
/// It is a name in the abstract namespace of Unix sockets: that belongs to the network namespace, as
/// the interface does, and the kernel forgets it with the process, however that ends.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _listener: Option<UnixListener>,
}

impl InstanceLock {
    /// Takes the lock, or says which process has it.
    pub(super) fn take(interface: &str) -> anyhow::Result<Self> {
        let name = format!("katran-xsk/{interface}");
        let address = SocketAddr::from_abstract_name(&name)?;
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
        match owner {
            // Any user can take such a name; only one who could run a balancer is believed.
            Ok(owner) if owner.uid() != 0 && owner.uid() != nix::unistd::geteuid().as_raw() => {
                tracing::warn!(
                    pid = owner.pid(),
                    uid = owner.uid(),
                    "the lock @{name} is held by a process of another user; going on without it"
                );
                Ok(Self { _listener: None })
            }
            Ok(owner) => bail!(
                "interface {interface}: katran-xsk is already running on it, process {}; stop that \
                 one first, or manage it with `katran-xsk ctl`",
                owner.pid()
            ),
            Err(_) => bail!(
                "interface {interface}: katran-xsk is already running on it; stop that one first"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
