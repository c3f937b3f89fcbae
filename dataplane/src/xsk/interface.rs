//! What has to be known of an interface before a socket is opened on it.
//!
//! Asked through a socket and not through /sys, which shows the network namespace it was mounted in.

use std::{
    fs, io,
    mem::size_of,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::link_request;
use crate::service::MacAddress;

/// Bytes of an interface name in requests, the final zero included.
const NAME: usize = 16;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// String set of the features.
const ETH_SS_FEATURES: u32 = 4;
/// Bytes of one name in a string set.
const FEATURE_NAME: usize = 32;

/// Offloads that grow frames or hide their VLAN tag, so that `AF_XDP` sees other frames than were
/// sent.
const HARMFUL: [&str; 4] = [
    "rx-lro",
    "rx-gro-hw",
    "rx-vlan-hw-parse",
    "rx-vlan-stag-hw-parse",
];

/// `struct ifreq` with a value inside.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) name: [u8; NAME],
    pub(super) value: [u8; 24],
}

/// `struct ifreq` with a pointer inside.
#[repr(C)]
struct PointerRequest {
    name: [u8; NAME],
    data: *mut u32,
    rest: [u8; 16],
}

impl Request {
    /// A request about this interface; `None` when the name is too long, empty or has a zero in it.
    pub(super) fn new(interface: &str) -> Option<Self> {
        let bytes = interface.as_bytes();
        if bytes.is_empty() || bytes.len() >= NAME || bytes.contains(&0) {
            return None;
        }
        let mut name = [0; NAME];
        name[..bytes.len()].copy_from_slice(bytes);
        Some(Self {
            name,
            value: [0; 24],
        })
    }

    /// Sends the request; the kernel answers in `value`.
    pub(super) fn send(&mut self, socket: &OwnedFd, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: for the interface requests of this crate the kernel reads and writes a
        // `struct ifreq`, which has this size and layout.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &raw mut *self) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn i32(&self) -> i32 {
        let [a, b, c, d, ..] = self.value;
        i32::from_ne_bytes([a, b, c, d])
    }
}

/// An interface of the calling thread's network namespace.
#[derive(Debug)]
pub struct Interface {
    request: Request,
    index: u32,
    socket: OwnedFd,
}

impl Interface {
    /// Finds the interface with this name.
    pub fn open(name: &str) -> io::Result<Self> {
        let request = Request::new(name).ok_or(Errno::ENODEV)?;
        let index = if_nametoindex(name)?;
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        Ok(Self {
            request,
            index,
            socket,
        })
    }

    /// Interface index.
    pub const fn index(&self) -> u32 {
        self.index
    }

    fn ask(&self, request: libc::c_ulong) -> io::Result<Request> {
        let mut answer = self.request;
        answer.send(&self.socket, request)?;
        Ok(answer)
    }

    /// Largest IP packet, in bytes.
    pub fn mtu(&self) -> io::Result<u32> {
        Ok(self.ask(libc::SIOCGIFMTU)?.i32().unsigned_abs())
    }

    /// Ethernet address.
    pub fn mac(&self) -> io::Result<MacAddress> {
        let mut octets = [0; 6];
        // Two bytes of address family come first.
        octets.copy_from_slice(&self.ask(libc::SIOCGIFHWADDR)?.value[2..8]);
        Ok(MacAddress(octets))
    }

    /// Whether its frames start with an Ethernet header.
    pub fn is_ethernet(&self) -> io::Result<bool> {
        let [low, high, ..] = self.ask(libc::SIOCGIFHWADDR)?.value;
        let kind = u16::from_ne_bytes([low, high]);
        Ok(matches!(kind, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK))
    }

    /// First IPv4 address, if there is one.
    pub fn address_v4(&self) -> Option<Ipv4Addr> {
        // Two bytes of address family and two of port come first.
        let [_, _, _, _, a, b, c, d, ..] = self.ask(libc::SIOCGIFADDR).ok()?.value;
        Some(Ipv4Addr::new(a, b, c, d))
    }

    /// Name of the driver.
    pub fn driver(&self) -> io::Result<String> {
        const WORDS: usize = 49;
        let mut info = [0; WORDS];
        info[0] = ETHTOOL_GDRVINFO;
        self.ethtool(&mut info)?;
        Ok(text(&info[1..9]))
    }

    /// Receive queues in use: numbers below this can have a socket.
    pub fn queues(&self) -> io::Result<u32> {
        let mut channels = [0; 9];
        channels[0] = ETHTOOL_GCHANNELS;
        match self.ethtool(&mut channels) {
            Ok(()) => {
                let [_, _, _, _, _, receive, _, _, combined] = channels;
                Ok((receive + combined).max(1))
            }
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                link_request::receive_queues(self.index)
            }
            Err(error) => Err(error),
        }
    }

    /// Offloads that are on and that `AF_XDP` does not go with; `ethtool -K` turns them off. Empty
    /// when the driver does not tell.
    pub fn harmful_offloads(&self) -> Vec<&'static str> {
        let active = self.active_features().unwrap_or_default();
        HARMFUL
            .into_iter()
            .filter(|name| active.iter().any(|active| active == name))
            .collect()
    }

    fn active_features(&self) -> io::Result<Vec<String>> {
        // Command, reserved, mask of string sets (64 bits), length of the one set asked for.
        let mut sizes = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
        sizes[if cfg!(target_endian = "little") { 2 } else { 3 }] = 1 << ETH_SS_FEATURES;
        self.ethtool(&mut sizes)?;
        let count = sizes[4] as usize;

        // Command, set, length, names.
        let mut names = vec![0; 3 + count * FEATURE_NAME / size_of::<u32>()];
        names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, sizes[4]]);
        self.ethtool(&mut names)?;

        // Command, number of blocks; per block available, requested, active, never changed.
        let blocks = count.div_ceil(32);
        let mut features = vec![0; 2 + 4 * blocks];
        features[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        self.ethtool(&mut features)?;

        let is_active = |number: usize| features[2 + number / 32 * 4 + 2] >> (number % 32) & 1 == 1;
        let words = FEATURE_NAME / size_of::<u32>();
        Ok(names[3..]
            .chunks_exact(words)
            .enumerate()
            .filter(|(number, _)| is_active(*number))
            .map(|(_, name)| text(name))
            .collect())
    }

    /// Sends an ethtool command, whose number is the first word of `data`; the answer replaces it.
    fn ethtool(&self, data: &mut [u32]) -> io::Result<()> {
        let mut request = PointerRequest {
            name: self.request.name,
            data: data.as_mut_ptr(),
            rest: [0; 16],
        };
        // SAFETY: the kernel reads a `struct ifreq`, whose pointer is valid for the buffer. The
        // callers make it as long as their command's answer, whose size is fixed or was asked for
        // (the set of features does not change while a kernel runs).
        let result = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                libc::SIOCETHTOOL as _,
                &raw mut request,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// Release of the running kernel, such as `6.12.43+deb13-amd64`.
pub fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Text in words, up to the first zero.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_answers() {
        let lo = Interface::open("lo").unwrap();
        assert_eq!(lo.index(), 1);
        assert_eq!(lo.mtu().unwrap(), 65_536);
        assert_eq!(lo.mac().unwrap(), MacAddress([0; 6]));
        assert_eq!(lo.queues().unwrap(), 1);
        assert!(
            lo.active_features()
                .unwrap()
                .iter()
                .any(|name| name == "loopback")
        );
        assert!(lo.harmful_offloads().is_empty());
    }

    #[test]
    fn impossible_names_are_not_found() {
        for name in ["", "a-name-of-16-char", "with\0zero", "missing"] {
            assert!(Interface::open(name).is_err(), "{name:?}");
        }
    }
}
