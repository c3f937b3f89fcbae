//! A TAP device as the way back to the kernel.
//!
//! The XDP program decides by addresses that were right when the packet came; a VIP may have gone
//! before the worker looks. Such a frame is the kernel's. `AF_XDP` has no way to return it, so it
//! enters the kernel through a TAP device with the interface's Ethernet address.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::Ipv4Addr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::interface::Request;
use crate::{port::PassPath, service::MacAddress};

/// The device's IPv4 address, as RFC 7600 reserves it for nodes that only need some address: without
/// one the kernel filters by reverse path as if the filter were strict.
const DUMMY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Why a TAP device could not be made. The text names the device and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name cannot be an interface's.
    #[error("tap {name:?}: an interface name has 1 to 15 bytes")]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel has no TAP devices, or the process may not make one.
    #[error(
        "tap {name}: /dev/net/tun cannot be opened ({source}); load the module tun, and run with \
         CAP_NET_ADMIN"
    )]
    Open {
        /// The name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// An interface of this name exists.
    #[error("tap {name}: an interface of this name is in use; choose another name")]
    InUse {
        /// The name.
        name: String,
    },
    /// Something else failed.
    #[error("tap {name}: {step} failed: {source}")]
    Setup {
        /// The name.
        name: String,
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// A TAP device that hands frames to the kernel. Clones write to the same device, each frame whole;
/// the device is gone when the last is dropped.
#[derive(Clone, Debug)]
pub struct Tap {
    file: Arc<File>,
    name: Arc<str>,
}

impl Tap {
    /// Makes the device `name` with the Ethernet address `mac`, up, in the calling thread's network
    /// namespace.
    ///
    /// Its reverse-path filter is made loose: the kernel would otherwise expect answers to leave
    /// through the device, and drop what comes in.
    pub fn create(name: &str, mac: MacAddress) -> Result<Self, TapError> {
        let mut request = Request::new(name).ok_or_else(|| TapError::Name { name: name.into() })?;
        let setup = |step| {
            move |source: io::Error| TapError::Setup {
                name: name.into(),
                step,
                source,
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|source| TapError::Open {
                name: name.into(),
                source,
            })?;
        let file = OwnedFd::from(file);

        let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as u16;
        request.value[..2].copy_from_slice(&flags.to_ne_bytes());
        request
            .send(&file, libc::TUNSETIFF as libc::c_ulong)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => {
                    TapError::InUse { name: name.into() }
                }
                Some(libc::EPERM) => TapError::Open {
                    name: name.into(),
                    source,
                },
                _ => setup("creating the device")(source),
            })?;

        let control = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(|error| setup("opening a socket")(error.into()))?;
        request.value = [0; 24];
        request.value[..2].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        request.value[2..8].copy_from_slice(&mac.0);
        request
            .send(&control, libc::SIOCSIFHWADDR)
            .map_err(setup("setting the address"))?;

        quieten(name);
        request.value = inet_address(DUMMY_ADDRESS);
        request
            .send(&control, libc::SIOCSIFADDR)
            .map_err(setup("setting the IPv4 address"))?;
        request.value = inet_address(Ipv4Addr::BROADCAST);
        request
            .send(&control, libc::SIOCSIFNETMASK)
            .map_err(setup("setting the netmask"))?;

        request.value = [0; 24];
        request
            .send(&control, libc::SIOCGIFFLAGS)
            .map_err(setup("reading the flags"))?;
        let flags = i16::from_ne_bytes([request.value[0], request.value[1]]);
        // No neighbours are looked for on a device that nobody reads from.
        let flags = flags | (libc::IFF_UP | libc::IFF_NOARP) as i16;
        request.value[..2].copy_from_slice(&flags.to_ne_bytes());
        request
            .send(&control, libc::SIOCSIFFLAGS)
            .map_err(setup("setting the device up"))?;

        Ok(Self {
            file: Arc::new(File::from(file)),
            name: name.into(),
        })
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Value of a request that sets an IPv4 address: family, port, address.
fn inet_address(address: Ipv4Addr) -> [u8; 24] {
    let mut value = [0; 24];
    value[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    value[4..8].copy_from_slice(&address.octets());
    value
}

/// Loosens the reverse-path filter and keeps the kernel from configuring addresses.
fn quieten(name: &str) {
    let set = |family: &str, key: &str, value: &str| {
        let path = Path::new("/proc/sys/net")
            .join(family)
            .join("conf")
            .join(name)
            .join(key);
        fs::write(path, value)
    };
    if let Err(error) = set("ipv4", "rp_filter", "2") {
        tracing::warn!(
            interface = name,
            %error,
            "the reverse-path filter cannot be made loose; packets handed back to the kernel may be dropped",
        );
    }
    // There is no such file when IPv6 is off, and then no such traffic.
    let _ = set("ipv6", "accept_ra", "0");
    let _ = set("ipv6", "addr_gen_mode", "1");
}

impl PassPath for Tap {
    fn pass(&mut self, frame: &[u8]) -> io::Result<()> {
        let written = (&*self.file).write(frame)?;
        if written == frame.len() {
            Ok(())
        } else {
            Err(Errno::EMSGSIZE.into())
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}
