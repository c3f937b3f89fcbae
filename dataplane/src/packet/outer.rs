//! Outer headers, prepared as far as they depend on the real alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN,
    checksum::{self, word},
    emit::{self, Inner, InnerIp},
    head::MacWords,
    protocol,
};

const WITH_IPV4: usize = ETHERNET_LEN + IPV4_LEN;
const WITH_IPV6: usize = ETHERNET_LEN + IPV6_LEN;
const WITH_GUE_V4: usize = WITH_IPV4 + UDP_LEN;
const WITH_GUE_V6: usize = WITH_IPV6 + UDP_LEN;

/// The packet that headers are prepared with.
const NOTHING: Inner<[u8; 4]> = Inner {
    tos: 0,
    length: 0,
    source: [0; 4],
    source_port: [0; 2],
};

/// Ethernet and outer IP header towards one real, and what GUE needs for its UDP header, as [`emit`] writes
/// them. What differs by packet is filled in when the headers are written.
///
/// Sums are of words as they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeader {
    /// Ethernet and IP. Where an IPv4 header has its checksum stands the folded sum of what is prepared.
    bytes: [u8; WITH_IPV6],
    /// GUE's destination port.
    udp_port: [u8; 2],
    /// Folded sum of the pseudo header and of the destination port.
    udp_sum: u16,
    /// Of all headers. Each form has its own.
    size: u8,
}

/// What the outer headers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// IPIP to an IPv4 real.
    IpipV4,
    /// IPIP to an IPv6 real.
    IpipV6,
    /// GUE to an IPv4 real.
    GueV4,
    /// GUE to an IPv6 real.
    GueV6,
}

impl Form {
    /// Bytes, Ethernet header included.
    pub const fn size(self) -> usize {
        match self {
            Self::IpipV4 => WITH_IPV4,
            Self::IpipV6 => WITH_IPV6,
            Self::GueV4 => WITH_GUE_V4,
            Self::GueV6 => WITH_GUE_V6,
        }
    }
}

impl OuterHeader {
    /// No header: of size 0.
    pub const NONE: Self = Self {
        bytes: [0; WITH_IPV6],
        udp_port: [0; 2],
        udp_sum: 0,
        size: 0,
    };

    /// The headers of IPIP towards `real` by way of `next_hop`.
    pub fn ipip(next_hop: [u8; 6], real: IpAddr) -> Self {
        match real {
            IpAddr::V4(real) => {
                let mut ip = [0; IPV4_LEN];
                emit::ipip_v4(&mut ip, &NOTHING, real.octets());
                Self::v4(next_hop, ip, WITH_IPV4)
            }
            IpAddr::V6(real) => {
                let mut ip = [0; IPV6_LEN];
                emit::ipip_v6(&mut ip, &NOTHING, real.octets());
                Self::behind_ethernet(next_hop, false, &ip, WITH_IPV6)
            }
        }
    }

    /// The headers of GUE towards `port` of `real` by way of `next_hop`, from that one of the sources that
    /// is of the real's family.
    pub fn gue(
        next_hop: [u8; 6],
        (source_v4, source_v6): (Ipv4Addr, Ipv6Addr),
        real: IpAddr,
        port: u16,
    ) -> Self {
        let (header, addresses) = match real {
            IpAddr::V4(real) => {
                let mut outer = [0; IPV4_LEN + UDP_LEN];
                let addresses = (source_v4.octets(), real.octets());
                emit::gue_v4(&mut outer, &NOTHING, addresses, port, &[]);
                let (ip, _) = emit::split_header(&mut outer);
                (
                    Self::v4(next_hop, *ip, WITH_GUE_V4),
                    checksum::sum(&ip[12..20]),
                )
            }
            IpAddr::V6(real) => {
                let mut outer = [0; IPV6_LEN + UDP_LEN];
                let addresses = (source_v6.octets(), real.octets());
                emit::gue_v6(&mut outer, &NOTHING, addresses, port, &[]);
                let (ip, _) = emit::split_header::<IPV6_LEN>(&mut outer);
                (
                    Self::behind_ethernet(next_hop, false, ip, WITH_GUE_V6),
                    checksum::sum(&ip[8..40]),
                )
            }
        };
        let sum = addresses + u64::from(protocol::UDP) + u64::from(port);
        Self {
            udp_port: port.to_be_bytes(),
            udp_sum: checksum::fold(sum).to_be(),
            ..header
        }
    }

    fn v4(next_hop: [u8; 6], mut ip: [u8; IPV4_LEN], size: usize) -> Self {
        // Length and checksum are those of another packet.
        ip[2..4].fill(0);
        ip[10..12].fill(0);
        let sum = checksum::fold(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        Self::behind_ethernet(next_hop, true, &ip, size)
    }

    fn behind_ethernet(next_hop: [u8; 6], is_v4: bool, ip: &[u8], size: usize) -> Self {
        let mut bytes = [0; WITH_IPV6];
        if let Some((ethernet, rest)) = bytes.split_first_chunk_mut() {
            emit::ethernet(ethernet, next_hop, [0; 6], emit::ethertype(is_v4));
            rest[..ip.len()].copy_from_slice(ip);
        }
        Self {
            bytes,
            size: size as u8,
            ..Self::NONE
        }
    }

    /// Bytes, Ethernet header included.
    #[inline]
    pub const fn size(&self) -> usize {
        self.size as usize
    }

    /// What the headers are, if there are any.
    #[inline]
    pub const fn form(&self) -> Option<Form> {
        match self.size() {
            WITH_IPV4 => Some(Form::IpipV4),
            WITH_IPV6 => Some(Form::IpipV6),
            WITH_GUE_V4 => Some(Form::GueV4),
            WITH_GUE_V6 => Some(Form::GueV6),
            _ => None,
        }
    }

    /// Whether these are headers of a form.
    #[inline]
    pub const fn is(&self, form: Form) -> bool {
        self.size() == form.size()
    }

    /// Writes the headers of [`Form::IpipV4`] for a packet.
    #[inline]
    pub fn write_ipip_v4(
        &self,
        out: &mut [u8; WITH_IPV4],
        own_mac: MacWords,
        inner: &Inner<[u8; 4]>,
    ) {
        let length = inner.length.wrapping_add(IPV4_LEN as u16);
        let source_low = emit::ipip_source_v4_low(inner.source, inner.source_port);
        self.write_v4(out, own_mac, inner.tos, length, source_low);
        out[ETHERNET_LEN + 14..][..2].copy_from_slice(&source_low);
    }

    /// Writes the headers of [`Form::IpipV6`] for a packet.
    #[inline]
    pub fn write_ipip_v6<A: InnerIp>(
        &self,
        out: &mut [u8; WITH_IPV6],
        own_mac: MacWords,
        inner: &Inner<A>,
    ) {
        let length = inner.length.wrapping_add(A::UNCOUNTED);
        let source_low = emit::ipip_source_v6_low(inner.source, inner.source_port);
        self.write_v6(out, own_mac, inner.tos, length);
        let ip = &mut out[ETHERNET_LEN..];
        ip[6] = A::PROTOCOL;
        ip[20..24].copy_from_slice(&source_low);
    }

    /// Writes the headers of [`Form::GueV4`] for a packet. `part` is what the checksum has of the inner
    /// packet: [`Headed::gue_part`](super::head::Headed::gue_part).
    #[inline]
    pub fn write_gue_v4(
        &self,
        out: &mut [u8; WITH_GUE_V4],
        own_mac: MacWords,
        inner: &Inner<[u8; 4]>,
        part: u32,
    ) {
        let udp_length = inner.length.wrapping_add(UDP_LEN as u16);
        let length = udp_length.wrapping_add(IPV4_LEN as u16);
        let (front, udp) = emit::split_header(out);
        self.write_v4(front, own_mac, inner.tos, length, [0; 2]);
        self.write_udp(udp, emit::gue_source_port_v4(inner), udp_length, part);
    }

    /// Writes the headers of [`Form::GueV6`] for a packet, as [`Self::write_gue_v4`] does.
    #[inline]
    pub fn write_gue_v6<A: InnerIp>(
        &self,
        out: &mut [u8; WITH_GUE_V6],
        own_mac: MacWords,
        inner: &Inner<A>,
        part: u32,
    ) {
        let length = inner
            .length
            .wrapping_add(A::UNCOUNTED)
            .wrapping_add(UDP_LEN as u16);
        let (front, udp) = emit::split_header(out);
        self.write_v6(front, own_mac, inner.tos, length);
        self.write_udp(udp, emit::gue_source_port_v6(inner), length, part);
    }

    /// Writes the Ethernet header and an IPv4 header. `source_low` is for the checksum alone.
    #[inline]
    fn write_v4(
        &self,
        out: &mut [u8; WITH_IPV4],
        own_mac: MacWords,
        tos: u8,
        length: u16,
        source_low: [u8; 2],
    ) {
        let (bytes, _) = self.bytes.split_at(WITH_IPV4);
        let length = length.to_be_bytes();
        let prepared = [bytes[ETHERNET_LEN + 10], bytes[ETHERNET_LEN + 11]];
        let sum = word(prepared) + word([0, tos]) + word(length) + word(source_low);
        out.copy_from_slice(bytes);
        write_mac(out, own_mac);
        let ip = &mut out[ETHERNET_LEN..];
        ip[1] = tos;
        ip[2..4].copy_from_slice(&length);
        ip[10..12].copy_from_slice(&checksum::finish_short(sum).to_ne_bytes());
    }

    /// Writes the Ethernet header and an IPv6 header.
    #[inline]
    fn write_v6(&self, out: &mut [u8; WITH_IPV6], own_mac: MacWords, tos: u8, length: u16) {
        *out = self.bytes;
        write_mac(out, own_mac);
        let ip = &mut out[ETHERNET_LEN..];
        ip[0] |= tos >> 4;
        ip[1] = tos << 4;
        ip[4..6].copy_from_slice(&length.to_be_bytes());
    }

    #[inline]
    fn write_udp(&self, out: &mut [u8; UDP_LEN], source_port: [u8; 2], length: u16, part: u32) {
        let length = length.to_be_bytes();
        // The pseudo header has the length, too.
        let sum = u32::from(self.udp_sum) + word(source_port) + 2 * word(length) + part;
        out[..2].copy_from_slice(&source_port);
        out[2..4].copy_from_slice(&self.udp_port);
        out[4..6].copy_from_slice(&length);
        out[6..].copy_from_slice(&checksum::finish_short(sum).to_ne_bytes());
    }
}

#[inline]
fn write_mac(out: &mut [u8], own_mac: MacWords) {
    out[6..10].copy_from_slice(&own_mac.0);
    out[10..12].copy_from_slice(&own_mac.1);
}

#[cfg(test)]
mod tests {
    use super::super::head::Headed as _;
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
        let mut bytes = vec![0; if is_v4 { WITH_GUE_V4 } else { WITH_GUE_V6 }];
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
            header.write_ipip_v4(out.first_chunk_mut().unwrap(), words(own_mac), &v4);
            let bytes = expected(next_hop, own_mac, true, |outer| {
                emit::ipip_v4(outer.first_chunk_mut().unwrap(), &v4, real_v4);
            });
            prop_assert_eq!(&out[..header.size()], &bytes[..header.size()]);

            let header = OuterHeader::ipip(next_hop, real_v6.into());
            header.write_ipip_v6(out.first_chunk_mut().unwrap(), words(own_mac), &v4);
            let bytes = expected(next_hop, own_mac, false, |outer| {
                emit::ipip_v6(outer.first_chunk_mut().unwrap(), &v4, real_v6);
            });
            prop_assert_eq!(&out[..header.size()], &bytes[..header.size()]);

            header.write_ipip_v6(out.first_chunk_mut().unwrap(), words(own_mac), &v6);
            let bytes = expected(next_hop, own_mac, false, |outer| {
                emit::ipip_v6(outer.first_chunk_mut().unwrap(), &v6, real_v6);
            });
            prop_assert_eq!(&out[..header.size()], &bytes[..header.size()]);
            prop_assert_eq!(out[header.size()], 0xee);
        }

        /// Heads of whatever bytes, with lengths that are sound.
        #[test]
        fn prepared_gue_headers_are_those_written_in_one_go(
            next_hop: [u8; 6],
            real_v4: [u8; 4],
            real_v6: [u8; 16],
            source_v4: [u8; 4],
            source_v6: [u8; 16],
            port: u16,
            mut frame in prop::collection::vec(any::<u8>(), 100),
            length in 20..=u16::MAX,
        ) {
            let sources = (source_v4.into(), source_v6.into());
            let to_v4 = OuterHeader::gue(next_hop, sources, real_v4.into(), port);
            let to_v6 = OuterHeader::gue(next_hop, sources, real_v6.into(), port);
            let own_mac: [u8; 6] = *frame.first_chunk().unwrap();
            let mut out = [0xee; 80];

            frame[16..18].copy_from_slice(&length.to_be_bytes());
            let head = <[u8; 4]>::head(&frame, 0).unwrap();
            let (inner, part) = (<[u8; 4]>::inner(head), <[u8; 4]>::gue_part(head).unwrap());
            to_v4.write_gue_v4(out.first_chunk_mut().unwrap(), words(own_mac), &inner, part);
            let bytes = expected(next_hop, own_mac, true, |outer| {
                let addresses = (source_v4, real_v4);
                emit::gue_v4(outer.first_chunk_mut().unwrap(), &inner, addresses, port, &frame[14..]);
            });
            prop_assert_eq!(&out[..to_v4.size()], &bytes[..to_v4.size()]);

            to_v6.write_gue_v6(out.first_chunk_mut().unwrap(), words(own_mac), &inner, part);
            let bytes = expected(next_hop, own_mac, false, |outer| {
                let addresses = (source_v6, real_v6);
                emit::gue_v6(outer.first_chunk_mut().unwrap(), &inner, addresses, port, &frame[14..]);
            });
            prop_assert_eq!(&out[..to_v6.size()], &bytes[..to_v6.size()]);

            let head = <[u8; 16]>::head(&frame, 0).unwrap();
            let (inner, part) = (<[u8; 16]>::inner(head), <[u8; 16]>::gue_part(head).unwrap());
            to_v6.write_gue_v6(out.first_chunk_mut().unwrap(), words(own_mac), &inner, part);
            let bytes = expected(next_hop, own_mac, false, |outer| {
                let addresses = (source_v6, real_v6);
                emit::gue_v6(outer.first_chunk_mut().unwrap(), &inner, addresses, port, &frame[14..]);
            });
            prop_assert_eq!(&out[..to_v6.size()], &bytes[..to_v6.size()]);
        }
    }

    #[test]
    fn a_length_within_the_header_is_not_for_a_prepared_checksum() {
        let mut frame = [0; 100];
        for (length, is_sound) in [(0, false), (19, false), (20, true), (65535, true)] {
            frame[16..18].copy_from_slice(&u16::to_be_bytes(length));
            let part = <[u8; 4]>::gue_part(<[u8; 4]>::head(&frame, 0).unwrap());
            assert_eq!(part.is_some(), is_sound, "{length}");
        }
    }
}
