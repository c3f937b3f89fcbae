//! The hash that selects a ring slot (katran-compat section 2): Bob Jenkins' lookup3 in the form of
//! the Linux kernel's `jhash`, on little-endian words. It decides which real a new flow gets, on
//! every balancer alike; it is not keyed and must not index anything of bounded size but the ring.

use crate::service::MAX_VIPS;

const BASE: u32 = 0xdead_beef;
/// Seed of the IPv6 address hash.
const SEED_ADDRESS: u32 = MAX_VIPS as u32;
/// Seed of the flow hash. Katran derives it from its compile-time limits.
const SEED_FLOW: u32 = MAX_VIPS as u32 * maglev::DEFAULT_RING_SIZE;

/// An IP address as the flow hash takes it.
pub trait HashAddress {
    /// The word that stands for the address.
    fn word(&self) -> u32;
}

impl HashAddress for [u8; 4] {
    #[inline]
    fn word(&self) -> u32 {
        u32::from_le_bytes(*self)
    }
}

impl HashAddress for [u8; 16] {
    #[inline]
    fn word(&self) -> u32 {
        let (words, _) = self.as_chunks::<4>();
        let start = BASE.wrapping_add(16).wrapping_add(SEED_ADDRESS);
        let mut a = start.wrapping_add(u32::from_le_bytes(words[0]));
        let mut b = start.wrapping_add(u32::from_le_bytes(words[1]));
        let mut c = start.wrapping_add(u32::from_le_bytes(words[2]));
        mix(&mut a, &mut b, &mut c);
        finalise(a.wrapping_add(u32::from_le_bytes(words[3])), b, c)
    }
}

/// Hash of a flow. `source` is the client; ports are in wire order, after the rules of section 2.
#[inline]
pub fn flow_hash(
    source: &impl HashAddress,
    source_port: [u8; 2],
    destination_port: [u8; 2],
) -> u32 {
    let ports = u32::from_le_bytes([
        source_port[0],
        source_port[1],
        destination_port[0],
        destination_port[1],
    ]);
    let start = SEED_FLOW.wrapping_add(BASE).wrapping_add(8);
    finalise(
        source.word().wrapping_add(start),
        ports.wrapping_add(start),
        start,
    )
}

#[inline]
fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    *a = a.wrapping_sub(*c) ^ c.rotate_left(4);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(6);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(8);
    *b = b.wrapping_add(*a);
    *a = a.wrapping_sub(*c) ^ c.rotate_left(16);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(19);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(4);
    *b = b.wrapping_add(*a);
}

#[inline]
fn finalise(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn hash(source: &str, source_port: u16, destination_port: u16) -> u32 {
        let (sport, dport) = (source_port.to_be_bytes(), destination_port.to_be_bytes());
        match source.parse().unwrap() {
            IpAddr::V4(source) => flow_hash(&source.octets(), sport, dport),
            IpAddr::V6(source) => flow_hash(&source.octets(), sport, dport),
        }
    }

    /// katran-compat section 2.1, the rows whose ports and source are hashed as they stand; the
    /// others differ only in what the VIP's flags make of them and are tested in `forward`.
    #[test]
    fn vectors_without_flags() {
        for (source, sport, dport, expected) in [
            ("192.0.2.10", 40000, 443, 0x833e_99b9),
            ("192.0.2.10", 40001, 443, 0xd803_2c80),
            ("203.0.113.77", 1, 65535, 0x19e6_4464),
            ("255.255.255.255", 65535, 65535, 0xb60e_60ee),
            ("0.0.0.0", 0, 0, 0x2492_3b12),
            ("2001:db8::10", 40000, 443, 0xe5fe_641e),
            ("2001:db8::10", 40001, 443, 0x1222_07ef),
            ("2001:db8:1:2:3:4:5:6", 51000, 80, 0x4240_eeef),
            ("fe80::1", 1, 65535, 0x7f8a_ec16),
            ("::", 0, 0, 0x7aa0_2a75),
        ] {
            assert_eq!(
                hash(source, sport, dport),
                expected,
                "{source} {sport} {dport}"
            );
        }
    }

    #[test]
    fn address_words() {
        let word = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets().word();
        assert_eq!(word("2001:db8::10"), 0x4baf_6073);
        assert_eq!(word("::"), 0xfccf_6f67);
    }
}
