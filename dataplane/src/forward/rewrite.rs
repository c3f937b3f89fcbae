//! Turning a packet's buffer into the frame to send.

use std::net::IpAddr;

use super::{family::Family, packet_slot::Packet};
use crate::{
    counters::{DropReason, WorkerCounters},
    packet::{
        ETHERNET_LEN, ICMP_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN,
        emit::{self, Inner},
    },
    service::{Encapsulation, Settings},
};

/// Puts outer headers in front of the packet. Returns the bytes to send, from the buffer's start.
///
/// The payload stays where it is when the room is what the headers need.
#[inline]
pub(super) fn encapsulate<A: Family>(
    packet: &mut Packet<'_>,
    inner: &Inner<A>,
    real: IpAddr,
    settings: &Settings,
    counters: &WorkerCounters,
) -> Result<u16, DropReason> {
    let next_hop = settings.next_hop_mac.ok_or(DropReason::NoNextHop)?;
    let overhead = settings.encapsulation.overhead(real.is_ipv4());
    let own_mac = destination_mac(packet);
    let payload_len = packet.len() - ETHERNET_LEN;
    let frame = place(packet, overhead, payload_len, counters)?;
    let len = frame.len() as u16;
    let (headers, payload) = frame.split_at_mut(ETHERNET_LEN + overhead);
    let Some((ethernet, outer)) = headers.split_first_chunk_mut() else {
        return Err(DropReason::NoRoom);
    };
    emit::ethernet(
        ethernet,
        next_hop.0,
        own_mac,
        emit::ethertype(real.is_ipv4()),
    );
    match (settings.encapsulation, real) {
        (Encapsulation::Ipip, IpAddr::V4(real)) => {
            let inner = A::inside_v4(inner).ok_or(DropReason::FamilyMismatch)?;
            emit::ipip_v4(sized::<IPV4_LEN>(outer)?, &inner, real.octets());
        }
        (Encapsulation::Ipip, IpAddr::V6(real)) => {
            emit::ipip_v6(sized::<IPV6_LEN>(outer)?, inner, real.octets());
        }
        (
            Encapsulation::Gue {
                port, source_v4, ..
            },
            IpAddr::V4(real),
        ) => {
            let inner = A::inside_v4(inner).ok_or(DropReason::FamilyMismatch)?;
            let addresses = (source_v4.octets(), real.octets());
            let outer = sized::<{ IPV4_LEN + UDP_LEN }>(outer)?;
            emit::gue_v4(outer, &inner, addresses, port, payload);
        }
        (
            Encapsulation::Gue {
                port, source_v6, ..
            },
            IpAddr::V6(real),
        ) => {
            let addresses = (source_v6.octets(), real.octets());
            let outer = sized::<{ IPV6_LEN + UDP_LEN }>(outer)?;
            emit::gue_v6(outer, inner, addresses, port, payload);
        }
    }
    Ok(len)
}

/// Answers an echo request in place. The frame must be one that the parser called an echo request.
pub(super) fn echo_reply<A: Family>(
    packet: &mut Packet<'_>,
    counters: &WorkerCounters,
) -> Result<u16, DropReason> {
    let arriving: [u8; ETHERNET_LEN] = *packet.frame().first_chunk().ok_or(DropReason::NoRoom)?;
    let payload_len = packet.len() - ETHERNET_LEN;
    let frame = place(packet, 0, payload_len, counters)?;
    frame[..ETHERNET_LEN].copy_from_slice(&arriving);
    A::echo_reply(frame);
    Ok(frame.len() as u16)
}

/// Sends a frame back to where it came from.
pub(super) fn send_back(
    packet: &mut Packet<'_>,
    counters: &WorkerCounters,
) -> Result<u16, DropReason> {
    let arriving: [u8; ETHERNET_LEN] = *packet.frame().first_chunk().ok_or(DropReason::NoRoom)?;
    let payload_len = packet.len() - ETHERNET_LEN;
    let frame = place(packet, 0, payload_len, counters)?;
    let (macs, ethertype) = arriving.split_at(12);
    frame[..6].copy_from_slice(&macs[6..]);
    frame[6..12].copy_from_slice(&macs[..6]);
    frame[12..ETHERNET_LEN].copy_from_slice(ethertype);
    Ok(frame.len() as u16)
}

/// Replaces a frame over `max_frame` by the ICMP error that announces `max_frame`'s MTU.
pub(super) fn too_big_reply<A: Family>(
    packet: &mut Packet<'_>,
    max_frame: u16,
    counters: &WorkerCounters,
) -> Result<u16, DropReason> {
    let arriving: [u8; ETHERNET_LEN] = *packet.frame().first_chunk().ok_or(DropReason::NoRoom)?;
    let quoted = emit::too_big_quote(A::IS_V4).min(packet.len()) - ETHERNET_LEN;
    let frame = place(packet, A::HEADER_LEN + ICMP_LEN, quoted, counters)?;
    let (destination, source) = (sized_mac(&arriving[..6]), sized_mac(&arriving[6..12]));
    let Some((ethernet, message)) = frame.split_first_chunk_mut() else {
        return Err(DropReason::NoRoom);
    };
    emit::ethernet(ethernet, source, destination, emit::ethertype(A::IS_V4));
    A::too_big(message, max_frame - ETHERNET_LEN as u16);
    Ok(frame.len() as u16)
}

/// Brings the bytes after the Ethernet header, `payload_len` of them, behind an Ethernet header and
/// `overhead` bytes at the buffer's start. Returns the new frame, whose headers are still to be
/// written.
#[inline]
fn place<'p>(
    packet: &'p mut Packet<'_>,
    overhead: usize,
    payload_len: usize,
    counters: &WorkerCounters,
) -> Result<&'p mut [u8], DropReason> {
    let from = packet.room() + ETHERNET_LEN;
    let to = ETHERNET_LEN + overhead;
    let len = to + payload_len;
    if len > packet.buffer.len() || len > usize::from(u16::MAX) {
        return Err(DropReason::NoRoom);
    }
    if from != to {
        counters.payload_moves.add(1);
        packet.buffer.copy_within(from..from + payload_len, to);
    }
    Ok(&mut packet.buffer[..len])
}

#[inline]
fn destination_mac(packet: &Packet<'_>) -> [u8; 6] {
    sized_mac(packet.frame())
}

/// The first six bytes; every frame that reaches a rewrite has an Ethernet header.
#[inline]
fn sized_mac(bytes: &[u8]) -> [u8; 6] {
    bytes.first_chunk().copied().unwrap_or_default()
}

#[inline]
fn sized<const N: usize>(bytes: &mut [u8]) -> Result<&mut [u8; N], DropReason> {
    bytes.first_chunk_mut().ok_or(DropReason::NoRoom)
}
