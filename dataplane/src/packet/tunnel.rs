//! Tunnels as they arrive: which outer header a frame has, and how it comes off (katran-compat sections
//! 8.1 and 8.2).

use std::net::IpAddr;

use super::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, UDP_LEN, emit::ethertype,
    protocol,
};

/// The outer header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Where the tunnel goes.
    pub destination: IpAddr,
    /// Bytes between the Ethernet header and the inner packet.
    pub header_len: usize,
    /// Whether the tunnel is GUE, else IP in IP.
    pub is_gue: bool,
    /// Whether the inner packet is to be read as IPv4. The outer header says so, and the inner packet
    /// only of GUE over IPv6: whether it is one is not known.
    pub inner_is_v4: bool,
}

/// Reads the outer header of IPv4 in IPv4 or IPv6, IPv6 in IPv6, and GUE variant 1 to `gue_port`.
///
/// IPv6 in IPv4 is no tunnel here: Katran misreads it (katran-compat section 12). Nor is what has IPv4
/// options or is a fragment. UDP length and checksum are not looked at.
pub fn read(frame: &[u8], gue_port: u16) -> Option<Tunnel> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_LEN>()?;
    match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => over_ipv4(packet, gue_port),
        ETHERTYPE_IPV6 => over_ipv6(packet, gue_port),
        _ => None,
    }
}

fn over_ipv4(packet: &[u8], gue_port: u16) -> Option<Tunnel> {
    let (header, rest) = packet.split_first_chunk::<IPV4_LEN>()?;
    let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
    if header[0] & 0x0f != 5 || is_fragment {
        return None;
    }
    let tunnel = Tunnel {
        destination: IpAddr::from([header[16], header[17], header[18], header[19]]),
        header_len: IPV4_LEN,
        is_gue: false,
        inner_is_v4: true,
    };
    match header[9] {
        protocol::IPIP => Some(tunnel),
        protocol::UDP => gue(tunnel, rest, gue_port),
        _ => None,
    }
}

fn over_ipv6(packet: &[u8], gue_port: u16) -> Option<Tunnel> {
    let (header, rest) = packet.split_first_chunk::<IPV6_LEN>()?;
    let destination: [u8; 16] = *header.last_chunk()?;
    let tunnel = Tunnel {
        destination: destination.into(),
        header_len: IPV6_LEN,
        is_gue: false,
        inner_is_v4: header[6] == protocol::IPIP,
    };
    match header[6] {
        protocol::IPIP | protocol::IPV6 => Some(tunnel),
        protocol::UDP => {
            let tunnel = gue(tunnel, rest, gue_port)?;
            let version = rest.get(UDP_LEN).copied().unwrap_or(0);
            Some(Tunnel {
                inner_is_v4: version & 0x30 == 0,
                ..tunnel
            })
        }
        _ => None,
    }
}

/// The tunnel with its UDP header, if that is addressed to GUE's port.
fn gue(tunnel: Tunnel, datagram: &[u8], gue_port: u16) -> Option<Tunnel> {
    let header = datagram.first_chunk::<UDP_LEN>()?;
    (u16::from_be_bytes([header[2], header[3]]) == gue_port).then_some(Tunnel {
        header_len: tunnel.header_len + UDP_LEN,
        is_gue: true,
        ..tunnel
    })
}

/// Why an inner packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InnerError {
    /// The frame ends within the inner IP header.
    Truncated,
    /// TTL or hop limit was 1.
    Expired,
}

impl Tunnel {
    /// Counts the hop that ends here on the inner packet, and writes an Ethernet header in front of it:
    /// that of the frame, but for the Ethertype. The new frame starts [`Tunnel::header_len`] bytes into
    /// the old one.
    ///
    /// # Errors
    ///
    /// The inner packet goes nowhere; nothing was changed.
    pub fn strip(&self, frame: &mut [u8]) -> Result<(), InnerError> {
        let (outer, inner) = frame
            .split_at_mut_checked(ETHERNET_LEN + self.header_len)
            .ok_or(InnerError::Truncated)?;
        if self.inner_is_v4 {
            let header = inner.first_chunk_mut().ok_or(InnerError::Truncated)?;
            count_hop_v4(header)?;
        } else {
            let header = inner.first_chunk_mut().ok_or(InnerError::Truncated)?;
            count_hop_v6(header)?;
        }
        outer.copy_within(..ETHERNET_LEN - 2, self.header_len);
        let end = outer.len();
        outer[end - 2..].copy_from_slice(&ethertype(self.inner_is_v4));
        Ok(())
    }
}

/// One less to live: 0 becomes 255, and 1 is the end.
fn decremented(hops: u8) -> Result<u8, InnerError> {
    match hops.wrapping_sub(1) {
        0 => Err(InnerError::Expired),
        left => Ok(left),
    }
}

/// The checksum, read as a little-endian number, gains 1 with the end-around carry of RFC 1624.
fn count_hop_v4(header: &mut [u8; IPV4_LEN]) -> Result<(), InnerError> {
    header[8] = decremented(header[8])?;
    let (sum, carry) = u16::from_le_bytes([header[10], header[11]]).overflowing_add(1);
    let sum = sum + u16::from(carry);
    header[10..12].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

fn count_hop_v6(header: &mut [u8; IPV6_LEN]) -> Result<(), InnerError> {
    header[7] = decremented(header[7])?;
    Ok(())
}
