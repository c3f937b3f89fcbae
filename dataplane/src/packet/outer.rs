//! Outer headers of IPIP, prepared as far as they depend on the real alone.

use std::net::IpAddr;

use super::{
    ETHERNET_LEN, IPV4_LEN, IPV6_LEN, checksum,
    emit::{self, Inner, InnerIp},
    head::MacWords,
};

const WITH_IPV4: usize = ETHERNET_LEN + IPV4_LEN;
const WITH_IPV6: usize = ETHERNET_LEN + IPV6_LEN;

/// Ethernet and outer IP header towards one real, as [`emit::ipip_v4`] and [`emit::ipip_v6`] write
/// them. What differs by packet is filled in when the header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeader {
    bytes: [u8; WITH_IPV6],
    size: u8,
    /// Sum of an IPv4 header's words as they lie in memory, folded (RFC 1071 section 2: the order of
    /// bytes does not matter to a sum).
    sum: u16,
}

impl OuterHeader {
    /// No header: of size 0.
    pub const NONE: Self = Self {
        bytes: [0; WITH_IPV6],
        size: 0,
        sum: 0,
    };

    /// The header of packets that go to `real` by way of `next_hop`.
    pub fn ipip(next_hop: [u8; 6], real: IpAddr) -> Self {
        let mut bytes = [0; WITH_IPV6];
        let nothing = |()| Inner {
            tos: 0,
            length: 0,
            source: [0; 4],
            source_port: [0; 2],
        };
        let (ethernet, outer) = bytes.split_at_mut(ETHERNET_LEN);
        if let Some(ethernet) = ethernet.first_chunk_mut() {
            emit::ethernet(ethernet, next_hop, [0; 6], emit::ethertype(real.is_ipv4()));
        }
        let mut sum = 0;
        match real {
            IpAddr::V4(real) => {
                if let Some(outer) = outer.first_chunk_mut::<IPV4_LEN>() {
                    emit::ipip_v4(outer, &nothing(()), real.octets());
                    // Length and checksum are those of another packet.
                    outer[2..4].fill(0);
                    outer[10..12].fill(0);
                    sum = checksum::fold(checksum::sum(outer)).to_be();
                }
            }
            IpAddr::V6(real) => {
                if let Some(outer) = outer.first_chunk_mut() {
                    emit::ipip_v6(outer, &nothing(()), real.octets());
                }
            }
        }
        Self {
            bytes,
            size: if real.is_ipv4() {
                WITH_IPV4 as u8
            } else {
                WITH_IPV6 as u8
            },
            sum,
        }
    }

    /// Bytes, Ethernet header included.
    #[inline]
    pub const fn size(&self) -> usize {
        self.size as usize
    }

    /// Whether the outer header is IPv4.
    #[inline]
    pub const fn is_v4(&self) -> bool {
        self.size() == WITH_IPV4
    }

    /// Writes an IPv4 header for a packet.
    #[inline]
    pub fn write_v4(&self, out: &mut [u8; WITH_IPV4], own_mac: MacWords, inner: &Inner<[u8; 4]>) {
        let (bytes, _) = self.bytes.split_at(WITH_IPV4);
        let length = inner.length.wrapping_add(IPV4_LEN as u16).to_be_bytes();
        let source_low = emit::ipip_source_v4_low(inner.source, inner.source_port);
        let sum = [[0, inner.tos], length, source_low]
            .into_iter()
            .fold(u32::from(self.sum), |sum, word| {
                sum + u32::from(u16::from_ne_bytes(word))
            });
        out.copy_from_slice(bytes);
        out[6..10].copy_from_slice(&own_mac.0);
        out[10..12].copy_from_slice(&own_mac.1);
        let ip = &mut out[ETHERNET_LEN..];
        ip[1] = inner.tos;
        ip[2..4].copy_from_slice(&length);
        ip[10..12].copy_from_slice(&checksum::finish_short(sum).to_ne_bytes());
        ip[14..16].copy_from_slice(&source_low);
    }

    /// As [`Self::write_v4`], for an IPv6 header.
    #[inline]
    pub fn write_v6<A: InnerIp>(
        &self,
        out: &mut [u8; WITH_IPV6],
        own_mac: MacWords,
        inner: &Inner<A>,
    ) {
        let length = inner.length.wrapping_add(A::UNCOUNTED);
        let source = emit::ipip_source_v6(inner.source, inner.source_port);
        *out = self.bytes;
        out[6..10].copy_from_slice(&own_mac.0);
        out[10..12].copy_from_slice(&own_mac.1);
        let ip = &mut out[ETHERNET_LEN..];
        ip[0] |= inner.tos >> 4;
        ip[1] = inner.tos << 4;
        ip[4..6].copy_from_slice(&length.to_be_bytes());
        ip[6] = A::PROTOCOL;
        ip[20..24].copy_from_slice(&source[12..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(mac: [u8; 6]) -> MacWords {
        let (first, rest) = mac.split_at(4);
        (first.try_into().unwrap(), rest.try_into().unwrap())
    }

    fn expected(
        next_hop: [u8; 6],
        own_mac: [u8; 6],
        is_v4: bool,
        outer: impl FnOnce(&mut [u8]),
    ) -> Vec<u8> {
        let mut bytes = vec![0; if is_v4 { WITH_IPV4 } else { WITH_IPV6 }];
        emit::ethernet(
            bytes.first_chunk_mut().unwrap(),
            next_hop,
            own_mac,
            emit::ethertype(is_v4),
        );
        outer(&mut bytes[ETHERNET_LEN..]);
        bytes
    }

    proptest! {
        #[test]
        fn prepared_headers_are_those_written_in_one_go(
            next_hop: [u8; 6],
            own_mac: [u8; 6],
            real_v4: [u8; 4],
            real_v6: [u8; 16],
            tos: u8,
            length: u16,
            source_v4: [u8; 4],
            source_v6: [u8; 16],
            source_port: [u8; 2],
        ) {
            let v4 = Inner { tos, length, source: source_v4, source_port };
            let v6 = Inner { tos, length, source: source_v6, source_port };
            let mut out = [0xee; 80];

            let header = OuterHeader::ipip(next_hop, real_v4.into());
            header.write_v4(out.first_chunk_mut().unwrap(), words(own_mac), &v4);
            let bytes = expected(next_hop, own_mac, true, |outer| {
                emit::ipip_v4(outer.first_chunk_mut().unwrap(), &v4, real_v4);
            });
            prop_assert_eq!(&out[..header.size()], bytes);

            let header = OuterHeader::ipip(next_hop, real_v6.into());
            header.write_v6(out.first_chunk_mut().unwrap(), words(own_mac), &v4);
            let bytes = expected(next_hop, own_mac, false, |outer| {
                emit::ipip_v6(outer.first_chunk_mut().unwrap(), &v4, real_v6);
            });
            prop_assert_eq!(&out[..header.size()], bytes);

            header.write_v6(out.first_chunk_mut().unwrap(), words(own_mac), &v6);
            let bytes = expected(next_hop, own_mac, false, |outer| {
                emit::ipip_v6(outer.first_chunk_mut().unwrap(), &v6, real_v6);
            });
            prop_assert_eq!(&out[..header.size()], bytes);
            prop_assert_eq!(out[header.size()], 0xee);
        }
    }
}
