//! Flow keys: 5-tuples as they appear on the wire.

use std::hash::{Hash, Hasher};

/// What a [`FlowTable`](crate::FlowTable) can be keyed with.
///
/// The table stores a key as a tuple and a protocol. It is hashed for every packet, so `Hash` should
/// feed the hasher few and wide integers.
pub trait FlowKey: Copy + Eq + Hash {
    /// Addresses and ports, as a table stores them.
    type Tuple: Copy + Default;

    /// Memory for each flow of a table's capacity, which decides how full the table gets: the emptier,
    /// the more flows are found at the first look.
    const BYTES_PER_FLOW: usize;

    /// Used slots of a bucket from which on a new flow goes where there is more room. Below, its first
    /// bucket takes it, so that most flows are found at the first look.
    const CROWDED: u32;

    /// Addresses and ports.
    fn tuple(&self) -> Self::Tuple;
    /// Whether these are the key's addresses and ports: integer by integer, so that a key which is in
    /// registers need not go through memory to be compared.
    fn is(&self, tuple: &Self::Tuple) -> bool;
    /// IP protocol number.
    fn protocol(&self) -> u8;
    /// The key with these parts.
    fn from_parts(tuple: Self::Tuple, protocol: u8) -> Self;
}

/// An IPv4 flow. All fields are in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKeyV4 {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Source port.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
}

impl FlowKey for FlowKeyV4 {
    type Tuple = [u32; 3];

    /// 72 % of the slots are used.
    const BYTES_PER_FLOW: usize = 39;

    /// One flow in 40 is in its second bucket, six in a hundred thousand find no room.
    const CROWDED: u32 = 15;

    #[inline]
    fn tuple(&self) -> [u32; 3] {
        [
            u32::from_ne_bytes(self.source),
            u32::from_ne_bytes(self.destination),
            joined(self.source_port, self.destination_port),
        ]
    }

    #[inline]
    fn is(&self, tuple: &[u32; 3]) -> bool {
        let [source, destination, ports] = self.tuple();
        // Two comparisons: destination and ports lie next to each other here and there.
        side_by_side(destination, ports) == side_by_side(tuple[1], tuple[2]) && source == tuple[0]
    }

    #[inline]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    fn from_parts([source, destination, ports]: [u32; 3], protocol: u8) -> Self {
        let (source_port, destination_port) = split(ports);
        Self {
            source: source.to_ne_bytes(),
            destination: destination.to_ne_bytes(),
            source_port,
            destination_port,
            protocol,
        }
    }
}

impl Hash for FlowKeyV4 {
    /// As the fields lie in a packet from the protocol to the ports, so that a key which was just read
    /// there is hashed without being taken apart: two words, of which the first lacks lifetime and
    /// checksum.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [source, destination, ports] = self.tuple();
        let protocol = u32::from_ne_bytes([0, self.protocol, 0, 0]);
        let words = [
            side_by_side(protocol, source),
            side_by_side(destination, ports),
        ];
        // One integer costs a multiplication less than two.
        state.write_u128(u128::from(words[1]) << 64 | u128::from(words[0]));
    }
}

/// An IPv6 flow. All fields are in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKeyV6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
}

impl FlowKey for FlowKeyV6 {
    type Tuple = [u32; 9];

    /// 83 % of the slots are used.
    const BYTES_PER_FLOW: usize = 63;

    /// One flow in 14 is in its second bucket, two in ten thousand find no room.
    const CROWDED: u32 = 14;

    #[inline]
    fn tuple(&self) -> [u32; 9] {
        let (source, _) = self.source.as_chunks::<4>();
        let (destination, _) = self.destination.as_chunks::<4>();
        std::array::from_fn(|word| match word {
            0..4 => u32::from_ne_bytes(source[word]),
            4..8 => u32::from_ne_bytes(destination[word - 4]),
            _ => joined(self.source_port, self.destination_port),
        })
    }

    #[inline]
    fn is(&self, tuple: &[u32; 9]) -> bool {
        let pairs = self.tuple().into_iter().zip(tuple);
        pairs.fold(0, |differing, (own, other)| differing | (own ^ other)) == 0
    }

    #[inline]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    fn from_parts(tuple: [u32; 9], protocol: u8) -> Self {
        let address = |start: usize| {
            let mut bytes = [0; 16];
            for (chunk, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&tuple[start..]) {
                *chunk = word.to_ne_bytes();
            }
            bytes
        };
        let (source_port, destination_port) = split(tuple[8]);
        Self {
            source: address(0),
            destination: address(4),
            source_port,
            destination_port,
            protocol,
        }
    }
}

impl Hash for FlowKeyV6 {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.source));
        state.write_u128(u128::from_ne_bytes(self.destination));
        state.write_u64(ports_and_protocol(
            self.source_port,
            self.destination_port,
            self.protocol,
        ));
    }
}

/// Words of a key in a [`SharedTable`](crate::SharedTable).
pub(crate) const KEY_WORDS: usize = 5;

/// A key of a [`SharedTable`](crate::SharedTable).
pub trait SharedKey: FlowKey + sealed::Words {}

impl SharedKey for FlowKeyV4 {}
impl SharedKey for FlowKeyV6 {}

mod sealed {
    /// A key as integers; no two keys have the same, of whichever family.
    pub trait Words {
        /// Both addresses in 16 bytes each, ports, protocol, family.
        fn words(&self) -> [u64; super::KEY_WORDS];
    }
}
pub(crate) use sealed::Words;

const V4: u8 = 4;
const V6: u8 = 6;

fn to_words(
    addresses: [&[u8]; 2],
    ports: [[u8; 2]; 2],
    protocol: u8,
    family: u8,
) -> [u64; KEY_WORDS] {
    let mut bytes = [0; 8 * KEY_WORDS];
    for (place, address) in [0, 16].into_iter().zip(addresses) {
        bytes[place..place + address.len()].copy_from_slice(address);
    }
    bytes[32..34].copy_from_slice(&ports[0]);
    bytes[34..36].copy_from_slice(&ports[1]);
    bytes[36] = protocol;
    bytes[37] = family;
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|word| u64::from_ne_bytes(words[word]))
}

impl Words for FlowKeyV4 {
    #[inline]
    fn words(&self) -> [u64; KEY_WORDS] {
        let addresses = [&self.source[..], &self.destination];
        let ports = [self.source_port, self.destination_port];
        to_words(addresses, ports, self.protocol, V4)
    }
}

impl Words for FlowKeyV6 {
    #[inline]
    fn words(&self) -> [u64; KEY_WORDS] {
        let addresses = [&self.source[..], &self.destination];
        let ports = [self.source_port, self.destination_port];
        to_words(addresses, ports, self.protocol, V6)
    }
}

/// A key of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnyKey {
    /// An IPv4 flow.
    V4(FlowKeyV4),
    /// An IPv6 flow.
    V6(FlowKeyV6),
}

impl AnyKey {
    /// The key that has these words.
    pub(crate) fn from_words(words: &[u64; KEY_WORDS]) -> Self {
        let mut bytes = [0; 8 * KEY_WORDS];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let source_port = [bytes[32], bytes[33]];
        let destination_port = [bytes[34], bytes[35]];
        let protocol = bytes[36];
        if bytes[37] == V4 {
            return Self::V4(FlowKeyV4 {
                source: std::array::from_fn(|n| bytes[n]),
                destination: std::array::from_fn(|n| bytes[16 + n]),
                source_port,
                destination_port,
                protocol,
            });
        }
        Self::V6(FlowKeyV6 {
            source: std::array::from_fn(|n| bytes[n]),
            destination: std::array::from_fn(|n| bytes[16 + n]),
            source_port,
            destination_port,
            protocol,
        })
    }
}

/// Two words as one, as they lie in memory of a little-endian processor.
#[inline]
fn side_by_side(first: u32, second: u32) -> u64 {
    u64::from(second) << 32 | u64::from(first)
}

#[inline]
fn joined(source: [u8; 2], destination: [u8; 2]) -> u32 {
    u32::from(u16::from_ne_bytes(destination)) << 16 | u32::from(u16::from_ne_bytes(source))
}

fn split(ports: u32) -> ([u8; 2], [u8; 2]) {
    let (source, destination) = (ports as u16, (ports >> 16) as u16);
    (source.to_ne_bytes(), destination.to_ne_bytes())
}

#[inline]
fn ports_and_protocol(source: [u8; 2], destination: [u8; 2], protocol: u8) -> u64 {
    u64::from(protocol) << 32 | u64::from(joined(source, destination))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_compact() {
        assert_eq!(size_of::<FlowKeyV4>(), 13);
        assert_eq!(size_of::<FlowKeyV6>(), 37);
    }

    #[test]
    fn keys_survive_being_taken_apart() {
        let v4 = FlowKeyV4 {
            source: [192, 0, 2, 10],
            destination: [203, 0, 113, 20],
            source_port: [0x9c, 0x40],
            destination_port: [1, 187],
            protocol: 17,
        };
        assert_eq!(FlowKeyV4::from_parts(v4.tuple(), v4.protocol()), v4);
        let v6 = FlowKeyV6 {
            source: std::array::from_fn(|byte| byte as u8),
            destination: std::array::from_fn(|byte| 0xf0 | byte as u8),
            source_port: [0x9c, 0x40],
            destination_port: [1, 187],
            protocol: 6,
        };
        assert_eq!(FlowKeyV6::from_parts(v6.tuple(), v6.protocol()), v6);
    }

    #[test]
    fn words_tell_every_key_and_are_read_back() {
        let v4 = FlowKeyV4 {
            source: [1, 2, 3, 4],
            destination: [5, 6, 7, 8],
            source_port: [9, 10],
            destination_port: [11, 12],
            protocol: 13,
        };
        // What an IPv4 key would look like as an IPv6 key.
        let mut v6 = FlowKeyV6 {
            source_port: v4.source_port,
            destination_port: v4.destination_port,
            protocol: v4.protocol,
            ..FlowKeyV6::default()
        };
        v6.source[..4].copy_from_slice(&v4.source);
        v6.destination[..4].copy_from_slice(&v4.destination);
        assert_ne!(v4.words(), v6.words());
        assert_eq!(AnyKey::from_words(&v4.words()), AnyKey::V4(v4));
        assert_eq!(AnyKey::from_words(&v6.words()), AnyKey::V6(v6));
    }

    /// Hashes of the default key and of all keys that differ from it in one bit.
    fn hashes_of_single_bits<K: FlowKey + Default>(
        bits: usize,
        flip: impl Fn(&mut K, usize),
    ) -> usize {
        let state = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut hashes = HashSet::from([state.hash_one(K::default())]);
        for bit in 0..bits {
            let mut key = K::default();
            flip(&mut key, bit);
            hashes.insert(state.hash_one(key));
        }
        hashes.len()
    }

    #[test]
    fn every_bit_of_a_key_is_hashed() {
        let different = hashes_of_single_bits::<FlowKeyV4>(13 * 8, |key, bit| {
            let mask = 1 << (bit % 8);
            match bit / 8 {
                n @ 0..4 => key.source[n] ^= mask,
                n @ 4..8 => key.destination[n - 4] ^= mask,
                n @ 8..10 => key.source_port[n - 8] ^= mask,
                n @ 10..12 => key.destination_port[n - 10] ^= mask,
                _ => key.protocol ^= mask,
            }
        });
        assert_eq!(different, 13 * 8 + 1);

        let different = hashes_of_single_bits::<FlowKeyV6>(37 * 8, |key, bit| {
            let mask = 1 << (bit % 8);
            match bit / 8 {
                n @ 0..16 => key.source[n] ^= mask,
                n @ 16..32 => key.destination[n - 16] ^= mask,
                n @ 32..34 => key.source_port[n - 32] ^= mask,
                n @ 34..36 => key.destination_port[n - 34] ^= mask,
                _ => key.protocol ^= mask,
            }
        });
        assert_eq!(different, 37 * 8 + 1);
    }
}
