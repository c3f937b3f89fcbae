//! The measured frames: TCP to the VIP, 64 bytes on a cable (60 here, without the check sequence)
//! over IPv4, as short as they get over IPv6.
//!
//! Flow `n` has source port `1024 + n mod 2^15`, and `n / 2^15` in the last bytes of its source
//! address: three over IPv4, four over IPv6. The eBPF programs that make packets number flows in the
//! same way.

use std::net::IpAddr;

use super::{
    row::IpFamily,
    services::{self, PORT},
};

const ETHERNET: usize = 14;
const TCP: usize = 20;
/// Shortest frame that Ethernet carries, without its check sequence.
const SHORTEST: usize = 60;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// What a frame's TCP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// A connection begins.
    Syn,
    /// A connection goes on.
    Ack,
}

/// A frame to the VIP, of flow 0.
pub(crate) fn template(
    family: IpFamily,
    segment: Segment,
    destination: [u8; 6],
    source: [u8; 6],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(SHORTEST);
    frame.extend(destination);
    frame.extend(source);
    match services::vip(family) {
        IpAddr::V4(vip) => {
            frame.extend([0x08, 0x00]);
            let length = (SHORTEST - ETHERNET) as u16;
            frame.extend([0x45, 0]);
            frame.extend(length.to_be_bytes());
            // No identification, don't fragment, TTL 64, TCP, and a checksum that nobody looks at:
            // a balancer forwards the packet of others as it is.
            frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            frame.extend([10, 0, 0, 0]);
            frame.extend(vip.octets());
        }
        IpAddr::V6(vip) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((TCP as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend([
                0x20, 0x01, 0x0d, 0xb8, 0, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ]);
            frame.extend(vip.octets());
        }
    }
    frame.extend(1024_u16.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend([0; 8]);
    let flags = match segment {
        Segment::Syn => TCP_SYN,
        Segment::Ack => TCP_ACK,
    };
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// Makes a frame one of flow `flow`.
#[inline]
pub(crate) fn set_flow(frame: &mut [u8], family: IpFamily, flow: u64) {
    let port = 1024 + (flow & 0x7fff) as u16;
    let host = (flow >> 15) as u32;
    // Whole words, as they are read.
    let (address, value, port_at) = match family {
        IpFamily::V4 => (26, 10 << 24 | host & 0xff_ffff, 34),
        IpFamily::V6 => (34, host, 54),
    };
    frame[address..address + 4].copy_from_slice(&value.to_be_bytes());
    frame[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
}

#[cfg(test)]
mod tests {
    /// Flows that differ, of IPv4.
    const FLOWS: u64 = 1 << (15 + 24);
    use dataplane::packet::parse::{self, Frame, Kind};

    use super::*;

    /// Source and destination with their ports, as the balancer reads them.
    fn flow_of(frame: &[u8]) -> (IpAddr, u16, IpAddr, u16) {
        let both = |source: IpAddr, from: [u8; 2], destination: IpAddr, to: [u8; 2]| {
            (
                source,
                u16::from_be_bytes(from),
                destination,
                u16::from_be_bytes(to),
            )
        };
        match parse::frame(frame) {
            Frame::V4(ip) => match ip.kind {
                Kind::Data(flow) => both(
                    flow.source.into(),
                    flow.source_port,
                    flow.destination.into(),
                    flow.destination_port,
                ),
                other => panic!("{other:?}"),
            },
            Frame::V6(ip) => match ip.kind {
                Kind::Data(flow) => both(
                    flow.source.into(),
                    flow.source_port,
                    flow.destination.into(),
                    flow.destination_port,
                ),
                other => panic!("{other:?}"),
            },
            Frame::NotIp => panic!("not IP"),
        }
    }

    #[test]
    fn frames_are_for_the_vip_and_flows_differ() {
        for (family, first, last) in [
            (IpFamily::V4, "10.0.0.0", "10.255.255.255"),
            (IpFamily::V6, "2001:db8:c::", "2001:db8:c::ff:ffff"),
        ] {
            let mut frame = template(family, Segment::Ack, [2; 6], [4; 6]);
            assert_eq!(frame.len(), if family == IpFamily::V4 { 60 } else { 74 });
            let vip = services::vip(family);
            let address = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(flow_of(&frame), (address(first), 1024, vip, PORT));
            set_flow(&mut frame, family, FLOWS - 1);
            assert_eq!(flow_of(&frame), (address(last), 1024 + 0x7fff, vip, PORT));
        }
    }
}
