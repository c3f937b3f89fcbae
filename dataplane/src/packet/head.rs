//! The headers of a TCP or UDP packet without IP options, whose fields lie at fixed places.
//!
//! What most packets need is read by these few wide loads, behind one bounds check.

use super::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, TCP_LEN, UDP_LEN,
    checksum::word,
    emit::Inner,
    parse::{Address, FlowTuple},
    protocol,
};

const TCP_FLAGS: usize = 13;

/// `EtherType`, and the length of an IPv4 header without options, of the four bytes from `EtherType` on.
const VERSION_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0x0f, 0]);
const VERSION: u32 = u32::from_ne_bytes([ETHERTYPE_IPV4[0], ETHERTYPE_IPV4[1], 5, 0]);
/// More fragments and offset, but not DF, and the protocol, of an IPv4 header's third word.
const TRANSPORT_MASK: u32 = u32::from_ne_bytes([0x3f, 0xff, 0, 0xff]);
/// Destination address and port, of what [`to_ports`] says.
const DESTINATION_MASK: u64 = u64::from_le_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff]);

/// Bytes up to the end of a TCP header. A UDP packet may end sooner; what follows it in its buffer is
/// not looked at.
pub const HEAD_V4_LEN: usize = ETHERNET_LEN + IPV4_LEN + TCP_LEN;
/// As [`HEAD_V4_LEN`], of IPv6.
pub const HEAD_V6_LEN: usize = ETHERNET_LEN + IPV6_LEN + TCP_LEN;

/// An Ethernet address as two words: of six bytes the compiler makes one word, which it has to put together
/// and take apart.
pub type MacWords = ([u8; 4], [u8; 2]);

/// An IP version whose packets have a head.
pub trait Headed: Address {
    /// Ethernet, IP and TCP header, or a UDP header and what follows it.
    type Head: Copy;
    /// What the heads of one destination's packets have in common.
    type Expected: Copy + std::fmt::Debug;

    /// The head of a frame that starts at `room`; the frame itself may be shorter.
    fn head(buffer: &[u8], room: usize) -> Option<&Self::Head>;
    /// What packets to this address and port have, of this protocol, TCP or UDP, which can be balanced: no
    /// IP options, no fragments (katran-compat section 4.2).
    fn expected(destination: Self, port: [u8; 2], protocol: u8) -> Self::Expected;
    /// Whether it is the head of such a packet.
    fn is(head: &Self::Head, expected: &Self::Expected) -> bool;
    /// Destination of the Ethernet header.
    fn own_mac(head: &Self::Head) -> MacWords;
    /// Destination address.
    fn destination(head: &Self::Head) -> Self;
    /// Destination port.
    fn destination_port(head: &Self::Head) -> [u8; 2];
    /// Byte 13 of the TCP header; of a UDP packet, anything.
    fn tcp_flags(head: &Self::Head) -> u8;
    /// IP protocol number.
    fn protocol(head: &Self::Head) -> u8;
    /// What an outer header takes from the packet.
    fn inner(head: &Self::Head) -> Inner<Self>;
    /// What GUE's checksum has of the packet (katran-compat section 6.4): the IP header's sum without that
    /// of the pseudo header, so that addresses and length are gone. Of words as they lie in memory, not
    /// folded. `None` if the length is shorter than the header.
    fn gue_part(head: &Self::Head) -> Option<u32>;

    /// As [`Self::flow`], read by the words in which a flow table hashes it.
    fn flow_to_hash(head: &Self::Head) -> FlowTuple<Self>;

    /// The flow, as the parser says.
    #[inline]
    fn flow(head: &Self::Head) -> FlowTuple<Self> {
        let inner = Self::inner(head);
        let protocol = Self::protocol(head);
        FlowTuple {
            source: inner.source,
            destination: Self::destination(head),
            source_port: inner.source_port,
            destination_port: Self::destination_port(head),
            protocol,
            tcp_flags: match protocol {
                protocol::TCP => Self::tcp_flags(head),
                _ => 0,
            },
        }
    }
}

/// The shortest frame with this protocol's header, behind an IP header of `ip_len` bytes.
pub const fn shortest_frame(ip_len: usize, protocol: u8) -> usize {
    let transport = match protocol {
        protocol::TCP => TCP_LEN,
        _ => UDP_LEN,
    };
    ETHERNET_LEN + ip_len + transport
}

/// What an IPv4 head has to have where nothing is masked out.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedV4 {
    destination: u64,
    transport: u32,
}

/// What an IPv6 head has to have.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedV6 {
    address: [u8; 16],
    port: [u8; 2],
    protocol: u8,
}

impl Headed for [u8; 4] {
    type Head = [u8; HEAD_V4_LEN];
    type Expected = ExpectedV4;

    #[inline]
    fn head(buffer: &[u8], room: usize) -> Option<&Self::Head> {
        first_bytes(buffer, room)
    }

    #[inline]
    fn expected(destination: Self, port: [u8; 2], protocol: u8) -> ExpectedV4 {
        let [a, b, c, d] = destination;
        ExpectedV4 {
            destination: u64::from_le_bytes([a, b, c, d, 0, 0, port[0], port[1]]),
            transport: u32::from_ne_bytes([0, 0, 0, protocol]),
        }
    }

    #[inline]
    fn is(head: &Self::Head, expected: &ExpectedV4) -> bool {
        u32::from_ne_bytes(bytes::<12, 4>(head)) & VERSION_MASK == VERSION
            && u32::from_ne_bytes(bytes::<20, 4>(head)) & TRANSPORT_MASK == expected.transport
            && to_ports(head) & DESTINATION_MASK == expected.destination
    }

    #[inline]
    fn own_mac(head: &Self::Head) -> MacWords {
        (bytes::<0, 4>(head), bytes::<4, 2>(head))
    }

    #[inline]
    fn destination(head: &Self::Head) -> Self {
        (to_ports(head) as u32).to_le_bytes()
    }

    #[inline]
    fn destination_port(head: &Self::Head) -> [u8; 2] {
        ((to_ports(head) >> 48) as u16).to_le_bytes()
    }

    #[inline]
    fn tcp_flags(head: &Self::Head) -> u8 {
        head[ETHERNET_LEN + IPV4_LEN + TCP_FLAGS]
    }

    #[inline]
    fn protocol(head: &Self::Head) -> u8 {
        head[23]
    }

    #[inline]
    fn inner(head: &Self::Head) -> Inner<Self> {
        Inner {
            tos: head[15],
            length: u16::from_be_bytes([head[16], head[17]]),
            source: bytes::<26, 4>(head),
            source_port: ((to_ports(head) >> 32) as u16).to_le_bytes(),
        }
    }

    #[inline]
    fn flow_to_hash(head: &Self::Head) -> FlowTuple<Self> {
        let to_source = to_source(head);
        FlowTuple {
            source: ((to_source >> 32) as u32).to_le_bytes(),
            protocol: (to_source >> 8) as u8,
            ..Self::flow(head)
        }
    }

    #[inline]
    fn gue_part(head: &Self::Head) -> Option<u32> {
        let lifetime = [head[22], 0];
        let header_len = (IPV4_LEN as u16).to_be_bytes();
        let words = [
            bytes::<14, 2>(head),
            bytes::<18, 2>(head),
            bytes::<20, 2>(head),
            lifetime,
            bytes::<24, 2>(head),
            header_len,
        ];
        let length = Self::inner(head).length;
        (usize::from(length) >= IPV4_LEN).then(|| words.into_iter().map(word).sum())
    }
}

impl Headed for [u8; 16] {
    type Head = [u8; HEAD_V6_LEN];
    type Expected = ExpectedV6;

    #[inline]
    fn head(buffer: &[u8], room: usize) -> Option<&Self::Head> {
        first_bytes(buffer, room)
    }

    #[inline]
    fn expected(address: Self, port: [u8; 2], protocol: u8) -> ExpectedV6 {
        ExpectedV6 {
            address,
            port,
            protocol,
        }
    }

    #[inline]
    fn is(head: &Self::Head, expected: &ExpectedV6) -> bool {
        bytes::<12, 2>(head) == ETHERTYPE_IPV6
            && Self::protocol(head) == expected.protocol
            && Self::destination_port(head) == expected.port
            && Self::destination(head) == expected.address
    }

    #[inline]
    fn own_mac(head: &Self::Head) -> MacWords {
        (bytes::<0, 4>(head), bytes::<4, 2>(head))
    }

    #[inline]
    fn destination(head: &Self::Head) -> Self {
        bytes::<38, 16>(head)
    }

    #[inline]
    fn destination_port(head: &Self::Head) -> [u8; 2] {
        bytes::<56, 2>(head)
    }

    #[inline]
    fn tcp_flags(head: &Self::Head) -> u8 {
        head[ETHERNET_LEN + IPV6_LEN + TCP_FLAGS]
    }

    #[inline]
    fn protocol(head: &Self::Head) -> u8 {
        head[20]
    }

    #[inline]
    fn inner(head: &Self::Head) -> Inner<Self> {
        Inner {
            tos: (head[14] << 4) | (head[15] >> 4),
            length: u16::from_be_bytes([head[18], head[19]]),
            source: bytes::<22, 16>(head),
            source_port: bytes::<54, 2>(head),
        }
    }

    #[inline]
    fn flow_to_hash(head: &Self::Head) -> FlowTuple<Self> {
        Self::flow(head)
    }

    #[inline]
    fn gue_part(head: &Self::Head) -> Option<u32> {
        let words = [
            bytes::<14, 2>(head),
            bytes::<16, 2>(head),
            bytes::<20, 2>(head),
            // The pseudo header has the protocol in a low byte.
            [0xff, !Self::protocol(head)],
        ];
        Some(words.into_iter().map(word).sum())
    }
}

/// `N` bytes behind the room.
#[inline]
fn first_bytes<const N: usize>(buffer: &[u8], room: usize) -> Option<&[u8; N]> {
    buffer.get(room..room.checked_add(N)?)?.first_chunk()
}

/// `N` bytes of a head from `AT` on.
#[inline]
fn bytes<const AT: usize, const N: usize>(head: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[AT..AT + N]);
    bytes
}

/// Lifetime, protocol, checksum and source address of an IPv4 header; the first is the lowest byte.
#[inline]
fn to_source(head: &[u8; HEAD_V4_LEN]) -> u64 {
    u64::from_le_bytes(bytes::<22, 8>(head))
}

/// Destination address of an IPv4 header and both ports; the first is the lowest byte.
#[inline]
fn to_ports(head: &[u8; HEAD_V4_LEN]) -> u64 {
    u64::from_le_bytes(bytes::<30, 8>(head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::{Frame, IpPacket, Kind, frame};
    use super::*;

    trait Flip {
        fn with_bit_flipped(self, bit: usize) -> Self;
    }

    impl<const N: usize> Flip for [u8; N] {
        fn with_bit_flipped(mut self, bit: usize) -> Self {
            self[bit / 8] ^= 1 << (bit % 8);
            self
        }
    }

    /// What both readers say of a frame of which the short one says that it is data.
    fn check<A: Headed + Flip + std::fmt::Debug>(
        bytes: &[u8],
        protocol: u8,
        ip_len: usize,
        parsed: impl Fn(Frame) -> Option<IpPacket<A>>,
    ) -> Result<(), TestCaseError> {
        let mut buffer = vec![0xee; 20];
        buffer.extend(bytes);
        buffer.resize(20 + HEAD_V6_LEN.max(bytes.len()), 0xee);
        let head = A::head(&buffer, 20).unwrap();
        let expected = A::expected(A::destination(head), A::destination_port(head), protocol);
        let is_data = bytes.len() >= shortest_frame(ip_len, protocol) && A::is(head, &expected);
        let packet = parsed(frame(bytes));
        let expected = packet
            .filter(|packet| matches!(packet.kind, Kind::Data(flow) if flow.protocol == protocol));
        prop_assert_eq!(is_data, expected.is_some());
        let (address, port) = (A::destination(head), A::destination_port(head));
        for bit in 0..8 {
            let other = [port[0] ^ 1 << bit, port[1]];
            prop_assert!(!A::is(head, &A::expected(address, other, protocol)));
            let other = [port[0], port[1] ^ 1 << bit];
            prop_assert!(!A::is(head, &A::expected(address, other, protocol)));
        }
        for bit in 0..8 * size_of::<A>() {
            let other = address.with_bit_flipped(bit);
            prop_assert!(!A::is(head, &A::expected(other, port, protocol)));
        }
        if let Some(IpPacket {
            kind: Kind::Data(flow),
            tos,
            length,
            ..
        }) = expected
        {
            let inner = A::inner(head);
            prop_assert_eq!(A::flow(head), flow);
            prop_assert_eq!(A::flow_to_hash(head), flow);
            prop_assert_eq!((inner.tos, inner.length), (tos, length));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_head_says_what_the_parser_says(
            mut bytes in prop::collection::vec(any::<u8>(), 14..100),
            is_v4: bool,
            protocol in prop::sample::select(vec![protocol::TCP, protocol::UDP]),
            own_protocol in prop::sample::select(vec![protocol::TCP, protocol::UDP, 1, 4, 44, 58]),
            options in prop::sample::select(vec![0x45, 0x45, 0x45, 0x46, 0x44, 0x05]),
            fragment in prop::sample::select(vec![0, 0, 0x40, 0x80, 0xc0, 0x20, 0x01]),
            offset in prop::sample::select(vec![0, 0, 0, 1, 0x80]),
        ) {
            let ethertype = if is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
            let fields: &[(usize, u8)] = if is_v4 {
                &[(14, options), (20, fragment), (21, offset), (23, own_protocol)]
            } else {
                &[(20, own_protocol)]
            };
            bytes[12..14].copy_from_slice(&ethertype);
            for (place, value) in fields {
                if let Some(byte) = bytes.get_mut(*place) {
                    *byte = *value;
                }
            }
            check::<[u8; 4]>(&bytes, protocol, IPV4_LEN, |frame| match frame {
                Frame::V4(packet) => Some(packet),
                _ => None,
            })?;
            check::<[u8; 16]>(&bytes, protocol, IPV6_LEN, |frame| match frame {
                Frame::V6(packet) => Some(packet),
                _ => None,
            })?;
        }
    }

    #[test]
    fn a_buffer_that_is_too_short_has_no_head() {
        for len in 0..20 + HEAD_V6_LEN {
            let buffer = vec![0; len];
            assert_eq!(
                <[u8; 4]>::head(&buffer, 20).is_some(),
                len >= 20 + HEAD_V4_LEN
            );
            assert_eq!(<[u8; 16]>::head(&buffer, 20), None);
            assert_eq!(<[u8; 4]>::head(&buffer, len + 1), None);
        }
    }
}
