//! Byte layouts that the eBPF programs and userspace must agree on: map keys, map values and the tag.
//!
//! Everything here is plain data with explicit padding, so that a value can be copied to and from a
//! BPF map byte for byte. Addresses and ports are in network byte order; other integers are in the
//! host's.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod balancer;
pub mod bench;
pub mod counter;

use core::net::IpAddr;

/// Address family byte of [`VipKey`] and [`AddressKey`] for IPv4.
pub const FAMILY_V4: u8 = 4;
/// Address family byte of [`VipKey`] and [`AddressKey`] for IPv6.
pub const FAMILY_V6: u8 = 6;

/// VIPs a balancer can hold (katran-compat: the flow hash is seeded with this number).
pub const MAX_VIPS: u32 = 512;
/// RX queues of one interface that can have a socket.
pub const MAX_QUEUES: u32 = 256;
/// Entries of the maps that find VIPs: twice [`MAX_VIPS`], because a change adds before it removes.
pub const VIP_MAP_CAPACITY: u32 = 2 * MAX_VIPS;
/// Addresses a balancer takes tunnels apart for.
pub const MAX_TUNNEL_DESTINATIONS: u32 = 512;
/// Entries of the map that holds them: twice as many, because a change adds before it removes.
pub const TUNNEL_MAP_CAPACITY: u32 = 2 * MAX_TUNNEL_DESTINATIONS;
/// Addresses of its own that a real server can receive tunnels on.
pub const MAX_DECAP_DESTINATIONS: u32 = 4096;
/// Entries of the map that holds them: twice as many, because a change adds before it removes.
pub const DECAP_MAP_CAPACITY: u32 = 2 * MAX_DECAP_DESTINATIONS;
/// Marks that can name a real for health checks.
pub const MAX_HEALTH_CHECKS: u32 = 4096;
/// Entries of the maps of marks: twice as many, because a change adds before it removes.
pub const HEALTH_CHECK_MAP_CAPACITY: u32 = 2 * MAX_HEALTH_CHECKS;
/// Port of GUE when the operator names none.
pub const DEFAULT_GUE_PORT: u16 = 6080;
/// Length in bits of what stands before the address in [`PrefixKey`].
pub const PREFIX_KEY_HEAD_BITS: u32 = 32;

/// Place of the flags in the `redirect` program's settings.
pub const REDIRECT_FLAGS: u32 = 0;
/// Place of the GUE port of tunnels to decap destinations, in network byte order; zero is none.
pub const REDIRECT_GUE_PORT: u32 = 1;
/// Places in the `redirect` program's settings.
pub const REDIRECT_SETTINGS: u32 = 2;
/// Bit of the `redirect` program's flags: some VIP is a prefix, so the prefix maps must be asked.
pub const REDIRECT_HAS_PREFIXES: u32 = 1;
/// Bit of [`DecapConfig::flags`]: strip tunnels whatever their destination.
pub const DECAP_ANY_DESTINATION: u16 = 1;

/// An address as keys and values hold it, IPv4 in the first four bytes, and its family.
#[must_use]
pub fn address(address: IpAddr) -> ([u8; 16], u8) {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            (bytes, FAMILY_V4)
        }
        IpAddr::V6(address) => (address.octets(), FAMILY_V6),
    }
}

/// Exact or any-port service key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VipKey {
    /// IPv6 address, or IPv4 address in the first four bytes and zeros after it.
    pub address: [u8; 16],
    /// Destination port in network byte order; zero stands for any port.
    pub port: [u8; 2],
    /// IP protocol number, 6 or 17.
    pub protocol: u8,
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
}

impl VipKey {
    /// Bytes a key takes.
    pub const SIZE: usize = 20;

    /// The key as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16..18].copy_from_slice(&self.port);
        bytes[18] = self.protocol;
        bytes[19] = self.family;
        bytes
    }
}

/// Data part of the longest-prefix-match key of prefix VIPs (IPv6 only).
///
/// Port and protocol stand in front of the address and always belong to the prefix, so that a match
/// has exactly this port and protocol: a VIP of prefix length `n` is stored with length `32 + n`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// Destination port in network byte order; zero stands for any port.
    pub port: [u8; 2],
    /// IP protocol number, 6 or 17; zero in the table of addresses.
    pub protocol: u8,
    /// Always zero.
    pub zero: u8,
    /// IPv6 address.
    pub address: [u8; 16],
}

impl PrefixKey {
    /// Bytes a key takes, the prefix length in front of it not counted.
    pub const SIZE: usize = 20;

    /// The key as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..2].copy_from_slice(&self.port);
        bytes[2] = self.protocol;
        bytes[3] = self.zero;
        bytes[4..].copy_from_slice(&self.address);
        bytes
    }
}

/// An address: one that some VIP has, whatever its ports; one of a real server's own; the real of a
/// health check.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey {
    /// IPv6 address, or IPv4 address in the first four bytes and zeros after it.
    pub address: [u8; 16],
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
    /// Always zero.
    pub zero: [u8; 3],
}

impl AddressKey {
    /// Bytes a key takes.
    pub const SIZE: usize = 20;

    /// The key as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16] = self.family;
        bytes[17..].copy_from_slice(&self.zero);
        bytes
    }
}

/// What the operator told the `decap` program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecapConfig {
    /// UDP destination port of GUE in network byte order; zero switches GUE off.
    pub gue_port: [u8; 2],
    /// [`DECAP_ANY_DESTINATION`] or nothing.
    pub flags: u16,
}

impl DecapConfig {
    /// Bytes the configuration takes.
    pub const SIZE: usize = 4;

    /// The configuration as it lies in memory.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::SIZE] {
        let flags = self.flags.to_ne_bytes();
        [self.gue_port[0], self.gue_port[1], flags[0], flags[1]]
    }
}

/// How the `healthcheck` program encapsulates.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheckConfig {
    /// Interface to send to; zero is the one that the program runs on.
    pub interface: u32,
    /// Longest frame in bytes, Ethernet header included, before it is encapsulated; zero is any.
    pub max_frame: u32,
    /// Outer source towards IPv6 reals.
    pub source_v6: [u8; 16],
    /// Outer source towards IPv4 reals.
    pub source_v4: [u8; 4],
    /// Ethernet destination: the next hop. Zeros: not known, so nothing can be sent.
    pub destination_mac: [u8; 6],
    /// Ethernet source: the address of the interface to send to.
    pub source_mac: [u8; 6],
    /// UDP destination port of GUE in network byte order; zero is IPIP.
    pub gue_port: [u8; 2],
    /// Always zero.
    pub zero: [u8; 2],
}

impl HealthCheckConfig {
    /// Bytes the configuration takes.
    pub const SIZE: usize = 44;

    /// The configuration as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.interface.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.max_frame.to_ne_bytes());
        bytes[8..24].copy_from_slice(&self.source_v6);
        bytes[24..28].copy_from_slice(&self.source_v4);
        bytes[28..34].copy_from_slice(&self.destination_mac);
        bytes[34..40].copy_from_slice(&self.source_mac);
        bytes[40..42].copy_from_slice(&self.gue_port);
        bytes[42..].copy_from_slice(&self.zero);
        bytes
    }
}

/// What the XDP program writes into the head room it opens, at the first byte of the frame that the
/// socket receives. The Ethernet header follows [`Tag::room`] bytes after the tag's first byte.
///
/// It is also the value of the maps that find a VIP or a decap destination. For the latter,
/// [`Tag::room`] in the map counts the header that will be taken off: the program opens less.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Generation in which [`Tag::vip`] was given to this VIP. A tag whose generation differs from
    /// the service table's is a hint that no longer holds.
    pub generation: u32,
    /// VIP number, or [`Tag::NO_VIP`] when only the address matched (ICMP, fragments, IP options,
    /// truncated headers, tunnels to a decap destination).
    pub vip: u16,
    /// Bytes of room opened in front of the Ethernet header, tag included: at least [`Tag::SIZE`].
    pub room: u8,
    /// Always zero.
    pub zero: u8,
}

impl Tag {
    /// Bytes a tag takes.
    pub const SIZE: usize = 8;
    /// Value of [`Tag::vip`] when the program did not look a VIP up.
    pub const NO_VIP: u16 = u16::MAX;

    /// The tag as it lies in memory.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::SIZE] {
        let generation = self.generation.to_ne_bytes();
        let vip = self.vip.to_ne_bytes();
        [
            generation[0],
            generation[1],
            generation[2],
            generation[3],
            vip[0],
            vip[1],
            self.room,
            self.zero,
        ]
    }

    /// Reads a tag from memory.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        Self {
            generation: u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            vip: u16::from_ne_bytes([bytes[4], bytes[5]]),
            room: bytes[6],
            zero: bytes[7],
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn tag_survives_a_round_trip() {
        let tag = Tag {
            generation: 0x0102_0304,
            vip: 511,
            room: 40,
            zero: 0,
        };
        assert_eq!(Tag::from_bytes(tag.to_bytes()), tag);
        assert_eq!(size_of::<Tag>(), Tag::SIZE);
    }

    #[test]
    fn keys_have_no_hidden_padding() {
        assert_eq!(size_of::<VipKey>(), VipKey::SIZE);
        assert_eq!(size_of::<PrefixKey>(), PrefixKey::SIZE);
        assert_eq!(size_of::<AddressKey>(), AddressKey::SIZE);
        assert_eq!(size_of::<DecapConfig>(), DecapConfig::SIZE);
        assert_eq!(size_of::<HealthCheckConfig>(), HealthCheckConfig::SIZE);
    }

    #[test]
    fn bytes_follow_the_order_of_the_fields() {
        let address = core::array::from_fn(|index| 0x20 + index as u8);
        let vip = VipKey {
            address,
            port: [1, 2],
            protocol: 17,
            family: FAMILY_V6,
        };
        assert_eq!(vip.to_bytes()[..16], address);
        assert_eq!(vip.to_bytes()[16..], [1, 2, 17, 6]);
        let prefix = PrefixKey {
            port: [1, 2],
            protocol: 17,
            zero: 0,
            address,
        };
        assert_eq!(prefix.to_bytes()[..4], [1, 2, 17, 0]);
        assert_eq!(prefix.to_bytes()[4..], address);
        let key = AddressKey {
            address,
            family: FAMILY_V4,
            zero: [0; 3],
        };
        assert_eq!(key.to_bytes()[..16], address);
        assert_eq!(key.to_bytes()[16..], [4, 0, 0, 0]);
        let config = DecapConfig {
            gue_port: 6080_u16.to_be_bytes(),
            flags: DECAP_ANY_DESTINATION,
        };
        assert_eq!(config.to_bytes()[..2], [0x17, 0xc0]);
        assert_eq!(config.to_bytes()[2..], 1_u16.to_ne_bytes());
        let config = HealthCheckConfig {
            interface: 7,
            max_frame: 1514,
            source_v6: address,
            source_v4: [192, 0, 2, 1],
            destination_mac: [2, 0, 0, 0, 0xcc, 3],
            source_mac: [2, 0, 0, 0, 0xaa, 1],
            gue_port: [0x17, 0xc0],
            zero: [0; 2],
        };
        let bytes = config.to_bytes();
        let at = |offset, length| &bytes[offset..offset + length];
        assert_eq!(
            at(offset_of!(HealthCheckConfig, interface), 4),
            7_u32.to_ne_bytes()
        );
        assert_eq!(
            at(offset_of!(HealthCheckConfig, max_frame), 4),
            1514_u32.to_ne_bytes()
        );
        assert_eq!(
            at(offset_of!(HealthCheckConfig, source_v6), 16),
            config.source_v6
        );
        assert_eq!(
            at(offset_of!(HealthCheckConfig, source_v4), 4),
            config.source_v4
        );
        assert_eq!(
            at(offset_of!(HealthCheckConfig, destination_mac), 6),
            config.destination_mac
        );
        assert_eq!(
            at(offset_of!(HealthCheckConfig, source_mac), 6),
            config.source_mac
        );
        assert_eq!(
            at(offset_of!(HealthCheckConfig, gue_port), 2),
            config.gue_port
        );
        assert_eq!(at(offset_of!(HealthCheckConfig, zero), 2), config.zero);
    }
}
