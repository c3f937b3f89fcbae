//! The headers a balancer writes (katran-compat sections 4.4, 4.6 and 6).

use super::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN, checksum,
    protocol,
};

/// TTL or hop limit of everything we send.
const TTL: u8 = 64;

/// What an outer header takes from the packet it is put in front of.
#[derive(Clone, Copy, Debug)]
pub struct Inner<A> {
    /// Type of service or traffic class; the outer header gets the same.
    pub tos: u8,
    /// IPv4 total length, or IPv6 payload length, as the arriving header says. Outer lengths derive
    /// from it modulo 2¹⁶, not from the frame.
    pub length: u16,
    /// Source address of the flow.
    pub source: A,
    /// Source port of the flow.
    pub source_port: [u8; 2],
}

/// An IP version as the inner packet: what outer headers need to know of it.
pub trait InnerIp: Copy {
    /// Next-header value of the packet inside IP.
    const PROTOCOL: u8;
    /// Bytes of its header that [`Inner::length`] does not count.
    const UNCOUNTED: u16;
    /// The four bytes of the flow's source that the outer source is made of.
    fn low_bytes(self) -> [u8; 4];
    /// The two bytes that GUE's source port is made of inside IPv6.
    fn gue_port_bytes(self) -> [u8; 2];
    /// Sum that makes GUE's UDP checksum right if the inner transport checksum is (section 6.4):
    /// inner IP header minus inner pseudo header. `packet` starts with the inner IP header.
    fn gue_checksum_part(packet: &[u8]) -> u64;
}

impl InnerIp for [u8; 4] {
    const PROTOCOL: u8 = protocol::IPIP;
    const UNCOUNTED: u16 = 0;

    #[inline]
    fn low_bytes(self) -> [u8; 4] {
        self
    }

    #[inline]
    fn gue_port_bytes(self) -> [u8; 2] {
        [self[2], self[3]]
    }

    #[inline]
    fn gue_checksum_part(packet: &[u8]) -> u64 {
        let Some(header) = packet.first_chunk::<IPV4_LEN>() else {
            return 0;
        };
        let total_length = u16::from_be_bytes([header[2], header[3]]);
        // A total length below 20 goes negative, as a 32-bit number of two 16-bit words.
        let transport_length = u32::from(total_length).wrapping_sub(IPV4_LEN as u32);
        let pseudo = checksum::pseudo_header(&header[12..20], header[9], transport_length);
        checksum::sum(header) + minus(pseudo)
    }
}

impl InnerIp for [u8; 16] {
    const PROTOCOL: u8 = protocol::IPV6;
    const UNCOUNTED: u16 = IPV6_LEN as u16;

    #[inline]
    fn low_bytes(self) -> [u8; 4] {
        [self[12], self[13], self[14], self[15]]
    }

    #[inline]
    fn gue_port_bytes(self) -> [u8; 2] {
        [self[12], self[13]]
    }

    #[inline]
    fn gue_checksum_part(packet: &[u8]) -> u64 {
        let Some(header) = packet.first_chunk::<IPV6_LEN>() else {
            return 0;
        };
        let payload_length = u16::from_be_bytes([header[4], header[5]]);
        let pseudo = checksum::pseudo_header(&header[8..40], header[6], u32::from(payload_length));
        checksum::sum(header) + minus(pseudo)
    }
}

/// The one's-complement negative of a sum.
#[inline]
fn minus(sum: u64) -> u64 {
    u64::from(!checksum::fold(sum))
}

/// Writes an Ethernet II header.
#[inline]
pub fn ethernet(
    out: &mut [u8; ETHERNET_LEN],
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: [u8; 2],
) {
    out[..6].copy_from_slice(&destination);
    out[6..12].copy_from_slice(&source);
    out[12..].copy_from_slice(&ethertype);
}

/// `EtherType` of a packet to a real of this family.
#[inline]
pub const fn ethertype(is_v4: bool) -> [u8; 2] {
    if is_v4 {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    }
}

/// Writes an IPv4 header: id 0, DF clear, checksum computed.
#[inline]
fn ipv4(
    out: &mut [u8; IPV4_LEN],
    tos: u8,
    total_length: u16,
    protocol: u8,
    source: [u8; 4],
    destination: [u8; 4],
) {
    let length = total_length.to_be_bytes();
    let [s0, s1, s2, s3] = source;
    let [d0, d1, d2, d3] = destination;
    *out = [
        0x45, tos, length[0], length[1], 0, 0, 0, 0, TTL, protocol, 0, 0, s0, s1, s2, s3, d0, d1,
        d2, d3,
    ];
    let sum = checksum::finish(checksum::sum(out)).to_be_bytes();
    out[10..12].copy_from_slice(&sum);
}

/// Writes an IPv6 header with flow label 0.
#[inline]
fn ipv6(
    out: &mut [u8; IPV6_LEN],
    tos: u8,
    payload_length: u16,
    next_header: u8,
    source: [u8; 16],
    destination: [u8; 16],
) {
    let length = payload_length.to_be_bytes();
    out[..8].copy_from_slice(&[
        0x60 | (tos >> 4),
        tos << 4,
        0,
        0,
        length[0],
        length[1],
        next_header,
        TTL,
    ]);
    out[8..24].copy_from_slice(&source);
    out[24..].copy_from_slice(&destination);
}

/// Outer IPv4 source of a flow in IPIP (section 6.1): `172.16.0.0/16` and two bytes that differ by flow.
#[inline]
pub const fn ipip_source_v4(source: [u8; 4], source_port: [u8; 2]) -> [u8; 4] {
    let [high, low] = ipip_source_v4_low(source, source_port);
    [172, 16, high, low]
}

/// The two bytes that differ by flow.
#[inline]
pub const fn ipip_source_v4_low(source: [u8; 4], source_port: [u8; 2]) -> [u8; 2] {
    // The address's last byte meets the port's first.
    (u16::from_be_bytes([source[2], source[3]]) ^ u16::from_le_bytes(source_port)).to_be_bytes()
}

/// Outer IPv6 source of a flow in IPIP (section 6.2): `0100::/96` and four bytes that differ by flow.
#[inline]
pub fn ipip_source_v6<A: InnerIp>(source: A, source_port: [u8; 2]) -> [u8; 16] {
    let mut outer = [0; 16];
    outer[0] = 1;
    outer[12..].copy_from_slice(&ipip_source_v6_low(source, source_port));
    outer
}

/// The four bytes that differ by flow.
#[inline]
pub fn ipip_source_v6_low<A: InnerIp>(source: A, source_port: [u8; 2]) -> [u8; 4] {
    let port = u32::from_ne_bytes([source_port[0], source_port[1], 0, 0]);
    (u32::from_ne_bytes(source.low_bytes()) ^ port).to_ne_bytes()
}

/// IPIP towards an IPv4 real (section 6.1).
#[inline]
pub fn ipip_v4(out: &mut [u8; IPV4_LEN], inner: &Inner<[u8; 4]>, real: [u8; 4]) {
    let source = ipip_source_v4(inner.source, inner.source_port);
    let length = inner.length.wrapping_add(IPV4_LEN as u16);
    ipv4(out, inner.tos, length, protocol::IPIP, source, real);
}

/// IPIP towards an IPv6 real (section 6.2).
#[inline]
pub fn ipip_v6<A: InnerIp>(out: &mut [u8; IPV6_LEN], inner: &Inner<A>, real: [u8; 16]) {
    let source = ipip_source_v6(inner.source, inner.source_port);
    let length = inner.length.wrapping_add(A::UNCOUNTED);
    ipv6(out, inner.tos, length, A::PROTOCOL, source, real);
}

/// GUE variant 1 towards an IPv4 real (section 6.3). `packet` starts with the inner IP header.
#[inline]
pub fn gue_v4(
    out: &mut [u8; IPV4_LEN + UDP_LEN],
    inner: &Inner<[u8; 4]>,
    addresses: ([u8; 4], [u8; 4]),
    port: u16,
    packet: &[u8],
) {
    let (source, real) = addresses;
    let udp_length = inner.length.wrapping_add(UDP_LEN as u16);
    let (ip, udp) = split_header::<IPV4_LEN>(out);
    ipv4(
        ip,
        inner.tos,
        udp_length.wrapping_add(IPV4_LEN as u16),
        protocol::UDP,
        source,
        real,
    );
    udp_header(udp, gue_source_port_v4(inner), port, udp_length);
    let sum = checksum::pseudo_header(&ip[12..20], protocol::UDP, u32::from(udp_length))
        + checksum::sum(udp)
        + <[u8; 4]>::gue_checksum_part(packet);
    udp[6..8].copy_from_slice(&checksum::finish(sum).to_be_bytes());
}

/// GUE variant 1 towards an IPv6 real (section 6.3). `packet` starts with the inner IP header.
#[inline]
pub fn gue_v6<A: InnerIp>(
    out: &mut [u8; IPV6_LEN + UDP_LEN],
    inner: &Inner<A>,
    addresses: ([u8; 16], [u8; 16]),
    port: u16,
    packet: &[u8],
) {
    let (source, real) = addresses;
    let udp_length = inner
        .length
        .wrapping_add(A::UNCOUNTED)
        .wrapping_add(UDP_LEN as u16);
    let (ip, udp) = split_header::<IPV6_LEN>(out);
    ipv6(ip, inner.tos, udp_length, protocol::UDP, source, real);
    udp_header(udp, gue_source_port_v6(inner), port, udp_length);
    let sum = checksum::pseudo_header(&ip[8..40], protocol::UDP, u32::from(udp_length))
        + checksum::sum(udp)
        + A::gue_checksum_part(packet);
    udp[6..8].copy_from_slice(&checksum::finish(sum).to_be_bytes());
}

/// GUE's source port towards an IPv4 real (section 6.3).
#[inline]
pub const fn gue_source_port_v4(inner: &Inner<[u8; 4]>) -> [u8; 2] {
    [
        inner.source[2] ^ inner.source_port[1],
        inner.source[3] ^ inner.source_port[0],
    ]
}

/// GUE's source port towards an IPv6 real (section 6.3).
#[inline]
pub fn gue_source_port_v6<A: InnerIp>(inner: &Inner<A>) -> [u8; 2] {
    let high = inner.source.gue_port_bytes();
    [
        high[0] ^ inner.source_port[0],
        high[1] ^ inner.source_port[1],
    ]
}

/// What is in front of an outer UDP header, and that.
#[inline]
pub(super) fn split_header<const FRONT: usize>(
    out: &mut [u8],
) -> (&mut [u8; FRONT], &mut [u8; UDP_LEN]) {
    let (ip, udp) = out
        .split_first_chunk_mut::<FRONT>()
        .expect("the callers' arrays hold what is in front");
    let udp = udp
        .first_chunk_mut::<UDP_LEN>()
        .expect("the callers' arrays hold a UDP header");
    (ip, udp)
}

#[inline]
fn udp_header(out: &mut [u8; UDP_LEN], source_port: [u8; 2], port: u16, length: u16) {
    let port = port.to_be_bytes();
    let length = length.to_be_bytes();
    *out = [
        source_port[0],
        source_port[1],
        port[0],
        port[1],
        length[0],
        length[1],
        0,
        0,
    ];
}

/// Turns an ICMP echo request into its reply (section 4.4). `frame` starts with the Ethernet header;
/// one too short for an IPv4 and an ICMP header stays as it is.
///
/// The checksum, read as a little-endian number, gains 8 modulo 2¹⁶ without the end-around carry that
/// RFC 1624 asks for: where that wraps, the reply's checksum is off by one, as Katran's is.
pub fn echo_reply_v4(frame: &mut [u8]) {
    const HEADERS: usize = ETHERNET_LEN + IPV4_LEN + ICMP_LEN;
    let Some(headers) = frame.first_chunk_mut::<HEADERS>() else {
        return;
    };
    swap_macs(headers);
    headers[ETHERNET_LEN + 8] = TTL;
    for byte in 0..4 {
        headers.swap(ETHERNET_LEN + 12 + byte, ETHERNET_LEN + 16 + byte);
    }
    headers[ETHERNET_LEN + 10..ETHERNET_LEN + 12].fill(0);
    let sum = checksum::finish(checksum::sum(
        &headers[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN],
    ));
    headers[ETHERNET_LEN + 10..ETHERNET_LEN + 12].copy_from_slice(&sum.to_be_bytes());
    let icmp = &mut headers[ETHERNET_LEN + IPV4_LEN..];
    icmp[0] = 0;
    let sum = u16::from_le_bytes([icmp[2], icmp[3]]).wrapping_add(8);
    icmp[2..4].copy_from_slice(&sum.to_le_bytes());
}

/// Turns an `ICMPv6` echo request into its reply (section 4.4), as [`echo_reply_v4`] does.
pub fn echo_reply_v6(frame: &mut [u8]) {
    const HEADERS: usize = ETHERNET_LEN + IPV6_LEN + ICMP_LEN;
    let Some(headers) = frame.first_chunk_mut::<HEADERS>() else {
        return;
    };
    swap_macs(headers);
    headers[ETHERNET_LEN + 7] = TTL;
    for byte in 0..16 {
        headers.swap(ETHERNET_LEN + 8 + byte, ETHERNET_LEN + 24 + byte);
    }
    let icmp = &mut headers[ETHERNET_LEN + IPV6_LEN..];
    icmp[0] = 129;
    let sum = u16::from_le_bytes([icmp[2], icmp[3]]).wrapping_sub(1);
    icmp[2..4].copy_from_slice(&sum.to_le_bytes());
}

fn swap_macs(frame: &mut [u8]) {
    for byte in 0..6 {
        frame.swap(byte, 6 + byte);
    }
}

/// Bytes of the arriving frame that a too-big reply keeps, Ethernet header included (section 4.6).
pub const fn too_big_quote(is_v4: bool) -> usize {
    if is_v4 { 98 } else { 262 }
}

/// Writes the IPv4 and ICMP header of "fragmentation needed" in front of the quoted packet. `out` is
/// both headers and the quote, which starts with the arriving packet's IPv4 header: its source is who
/// gets the message. An `out` too short for that stays as it is.
pub fn too_big_v4(out: &mut [u8], mtu: u16) {
    let length = out.len() as u16;
    let Some((ip, message)) = out.split_first_chunk_mut::<IPV4_LEN>() else {
        return;
    };
    let Some((header, quote)) = message.split_first_chunk_mut::<ICMP_LEN>() else {
        return;
    };
    let Some(quoted) = quote.first_chunk::<IPV4_LEN>() else {
        return;
    };
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *quoted;
    ipv4(
        ip,
        0,
        length,
        protocol::ICMP,
        [d0, d1, d2, d3],
        [s0, s1, s2, s3],
    );
    let mtu = mtu.to_be_bytes();
    *header = [3, 4, 0, 0, 0, 0, mtu[0], mtu[1]];
    let sum = checksum::finish(checksum::sum(header) + checksum::sum(quote));
    header[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// Writes the IPv6 and `ICMPv6` header of "packet too big", as [`too_big_v4`] does.
pub fn too_big_v6(out: &mut [u8], mtu: u16) {
    let Some((ip, message)) = out.split_first_chunk_mut::<IPV6_LEN>() else {
        return;
    };
    let length = message.len() as u16;
    let Some((header, quote)) = message.split_first_chunk_mut::<ICMP_LEN>() else {
        return;
    };
    let Some(quoted) = quote.first_chunk::<IPV6_LEN>() else {
        return;
    };
    let mut addresses = [[0; 16]; 2];
    addresses[0].copy_from_slice(&quoted[8..24]);
    addresses[1].copy_from_slice(&quoted[24..40]);
    let [source, destination] = addresses;
    ipv6(ip, 0, length, protocol::ICMPV6, destination, source);
    let mtu = mtu.to_be_bytes();
    *header = [2, 0, 0, 0, 0, 0, mtu[0], mtu[1]];
    let sum = checksum::pseudo_header(&ip[8..40], protocol::ICMPV6, u32::from(length))
        + checksum::sum(header)
        + checksum::sum(quote);
    header[2..4].copy_from_slice(&checksum::finish(sum).to_be_bytes());
}
