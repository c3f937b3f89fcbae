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

/// Of the first eight bytes of an IPv4 header: its length; more fragments and offset, but not DF.
const NO_OPTIONS_OR_FRAGMENT: u64 = u64::from_ne_bytes([0x0f, 0, 0, 0, 0, 0, 0x3f, 0xff]);
const NO_OPTIONS: u64 = u64::from_ne_bytes([5, 0, 0, 0, 0, 0, 0, 0]);

/// Bytes up to the end of a TCP header. A UDP packet may end sooner; what follows it in its buffer is
/// not looked at.
const V4_LEN: usize = ETHERNET_LEN + IPV4_LEN + TCP_LEN;
const V6_LEN: usize = ETHERNET_LEN + IPV6_LEN + TCP_LEN;

/// An Ethernet address as two words: of six bytes the compiler makes one word, which it has to put together
/// and take apart.
pub type MacWords = ([u8; 4], [u8; 2]);

/// An IP version whose packets have a head.
pub trait Headed: Address {
    /// Ethernet, IP and TCP header, or a UDP header and what follows it.
    type Head: Copy;

    /// The head of a frame that starts at `room`; the frame itself may be shorter.
    fn head(buffer: &[u8], room: u32) -> Option<&Self::Head>;
    /// Whether it is the head of a packet of this protocol, TCP or UDP, that can be balanced: no IP
    /// options, no fragment (katran-compat section 4.2).
    fn is_data(head: &Self::Head, protocol: u8) -> bool;
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

impl Headed for [u8; 4] {
    type Head = [u8; V4_LEN];

    #[inline]
    fn head(buffer: &[u8], room: u32) -> Option<&Self::Head> {
        first_bytes(buffer, room)
    }

    #[inline]
    fn is_data(head: &Self::Head, protocol: u8) -> bool {
        // EtherType and header length; more fragments and offset, but not DF; protocol.
        bytes::<12, 2>(head) == ETHERTYPE_IPV4
            && u64::from_ne_bytes(bytes::<14, 8>(head)) & NO_OPTIONS_OR_FRAGMENT == NO_OPTIONS
            && Self::protocol(head) == protocol
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
        (to_source(head) >> 8) as u8
    }

    #[inline]
    fn inner(head: &Self::Head) -> Inner<Self> {
        Inner {
            tos: head[15],
            length: u16::from_be_bytes([head[16], head[17]]),
            source: ((to_source(head) >> 32) as u32).to_le_bytes(),
            source_port: ((to_ports(head) >> 32) as u16).to_le_bytes(),
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
    type Head = [u8; V6_LEN];

    #[inline]
    fn head(buffer: &[u8], room: u32) -> Option<&Self::Head> {
        first_bytes(buffer, room)
    }

    #[inline]
    fn is_data(head: &Self::Head, protocol: u8) -> bool {
        [head[12], head[13]] == ETHERTYPE_IPV6 && head[20] == protocol
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

/// `N` bytes behind the room, whose end cannot overflow.
#[inline]
fn first_bytes<const N: usize>(buffer: &[u8], room: u32) -> Option<&[u8; N]> {
    let start = room as usize;
    buffer.get(start..start + N)?.first_chunk()
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
fn to_source(head: &[u8; V4_LEN]) -> u64 {
    u64::from_le_bytes(bytes::<22, 8>(head))
}

/// Destination address of an IPv4 header and both ports; the first is the lowest byte.
#[inline]
fn to_ports(head: &[u8; V4_LEN]) -> u64 {
    u64::from_le_bytes(bytes::<30, 8>(head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::{Frame, IpPacket, Kind, frame};
    use super::*;

    /// What both readers say of a frame of which the short one says that it is data.
    fn check<A: Headed + std::fmt::Debug>(
        bytes: &[u8],
        protocol: u8,
        ip_len: usize,
        parsed: impl Fn(Frame) -> Option<IpPacket<A>>,
    ) -> Result<(), TestCaseError> {
        let mut buffer = vec![0xee; 20];
        buffer.extend(bytes);
        buffer.resize(20 + V6_LEN.max(bytes.len()), 0xee);
        let head = A::head(&buffer, 20).unwrap();
        let is_data = bytes.len() >= shortest_frame(ip_len, protocol) && A::is_data(head, protocol);
        let packet = parsed(frame(bytes));
        let expected = packet
            .filter(|packet| matches!(packet.kind, Kind::Data(flow) if flow.protocol == protocol));
        prop_assert_eq!(is_data, expected.is_some());
        if let Some(IpPacket {
            kind: Kind::Data(flow),
            tos,
            length,
            ..
        }) = expected
        {
            let inner = A::inner(head);
            prop_assert_eq!(A::flow(head), flow);
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
        for len in 0..20 + V6_LEN as u32 {
            let buffer = vec![0; len as usize];
            assert_eq!(
                <[u8; 4]>::head(&buffer, 20).is_some(),
                len >= 20 + V4_LEN as u32
            );
            assert_eq!(<[u8; 16]>::head(&buffer, 20), None);
            assert_eq!(<[u8; 4]>::head(&buffer, len + 1), None);
        }
    }
}
