//! What a ring is generated from: numbered, weighted endpoints and the hash of their addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The largest number a real can have; 0 means "no real".
pub const MAX_NUMBER: u32 = 4095;

/// Address families as Linux numbers them, which is part of the hash.
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;

/// A real as ring generation sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The number that stands in the slots, 1 to [`MAX_NUMBER`].
    pub number: u32,
    /// Its weight; with 0 it gets no slot.
    pub weight: u32,
    /// The hash of its address, which alone decides the order of turns and the permutation.
    pub hash: u64,
}

impl Endpoint {
    /// The endpoint at `address`.
    pub fn new(number: u32, weight: u32, address: IpAddr) -> Self {
        Self {
            number,
            weight,
            hash: endpoint_hash(address),
        }
    }
}

/// The 64-bit hash of a real's address.
///
/// An IPv4-mapped IPv6 address has the hash of its IPv4 address.
pub fn endpoint_hash(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => hash_v4(address),
        IpAddr::V6(address) => hash_v6(address),
    }
}

fn hash_v4(address: Ipv4Addr) -> u64 {
    mix128(AF_INET, u64::from(fnv_sign_extended(&address.octets())))
}

fn hash_v6(address: Ipv6Addr) -> u64 {
    let (h1, h2) = spooky_short16(address.octets());
    mix128(AF_INET6, mix128(h1, h2))
}

/// `CityHash`'s reduction of 128 bits to 64.
fn mix128(upper: u64, lower: u64) -> u64 {
    const K: u64 = 0x9ddf_ea08_eb38_2d69;
    let mut a = (lower ^ upper).wrapping_mul(K);
    a ^= a >> 47;
    let mut b = (upper ^ a).wrapping_mul(K);
    b ^= b >> 47;
    b.wrapping_mul(K)
}

/// FNV-1 (multiply, then xor) over bytes that are sign-extended, as a signed `char` is.
fn fnv_sign_extended(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, &byte| {
        hash.wrapping_mul(0x0100_0193) ^ i32::from(byte.cast_signed()).cast_unsigned()
    })
}

/// `SpookyHash` V2, the 128-bit "short" form, of a 16-byte message with both seeds 0.
fn spooky_short16(message: [u8; 16]) -> (u64, u64) {
    const CONSTANT: u64 = 0xdead_beef_dead_beef;
    const LENGTH: u64 = 16;
    let words = u128::from_le_bytes(message);
    let mut h = [
        0,
        0,
        CONSTANT.wrapping_add(words as u64),
        CONSTANT.wrapping_add((words >> 64) as u64),
    ];
    short_mix(&mut h);
    h[3] = h[3].wrapping_add(LENGTH << 56);
    h[2] = h[2].wrapping_add(CONSTANT);
    h[3] = h[3].wrapping_add(CONSTANT);
    short_end(&mut h);
    (h[0], h[1])
}

/// Each step rotates one word, adds the next to it and xors the sum into a third.
fn short_mix(h: &mut [u64; 4]) {
    const ROTATIONS: [u32; 12] = [50, 52, 30, 41, 54, 48, 38, 37, 62, 34, 5, 36];
    for (step, rotation) in ROTATIONS.into_iter().enumerate() {
        let (rotated, added, mixed) = ((step + 2) % 4, (step + 3) % 4, step % 4);
        h[rotated] = h[rotated].rotate_left(rotation).wrapping_add(h[added]);
        h[mixed] ^= h[rotated];
    }
}

/// Each step xors one word into the next, rotates the former and adds it to the latter.
fn short_end(h: &mut [u64; 4]) {
    const ROTATIONS: [u32; 11] = [15, 52, 26, 51, 28, 9, 47, 54, 32, 25, 63];
    for (step, rotation) in ROTATIONS.into_iter().enumerate() {
        let (source, target) = ((step + 2) % 4, (step + 3) % 4);
        h[target] ^= h[source];
        h[source] = h[source].rotate_left(rotation);
        h[target] = h[target].wrapping_add(h[source]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(address: &str) -> Vec<u8> {
        match address.parse().unwrap() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    #[test]
    fn fnv_sign_extends_high_bytes() {
        for (address, fnv) in [
            ("10.0.0.1", 0xd692_f426),
            ("10.0.0.2", 0xd692_f425),
            ("10.0.0.200", 0x296d_0bef),
            ("192.0.2.255", 0xcb63_5ed0),
            ("198.51.100.11", 0x4f54_171f),
            ("255.255.255.255", 0x657a_2f89),
            ("0.0.0.0", 0x4b95_f515),
        ] {
            assert_eq!(fnv_sign_extended(&octets(address)), fnv, "{address}");
        }
    }

    #[test]
    fn spooky_of_sixteen_bytes() {
        for (address, h1, h2) in [
            ("2001:db8::1", 0xe3c5_7b92_54f3_9627, 0x9188_cb16_c74e_3845),
            (
                "2001:db8:0:1::a",
                0x8a19_6919_39f9_0307,
                0x4400_2e65_73d6_7fa8,
            ),
            ("fc00::1", 0x0563_a757_7df4_bd83, 0x0e65_df2e_93f8_eb27),
            ("::1", 0x4480_6c51_529d_7db9, 0x6206_f686_0d6f_d708),
        ] {
            let message = octets(address).try_into().unwrap();
            assert_eq!(spooky_short16(message), (h1, h2), "{address}");
        }
    }
}
