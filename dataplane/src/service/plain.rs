//! What the forwarder reads for most packets, in a form that costs one cache line for the VIP and one
//! for the real.

use std::net::IpAddr;

use xdp_layout::Tag;

use super::{
    spec::{Encapsulation, Protocol, Settings},
    table::{Real, RealId, Vip},
};
use crate::packet::{
    IPV4_LEN, IPV6_LEN,
    head::{self, ExpectedV4, ExpectedV6, Headed as _},
    outer::OuterHeader,
    parse::tcp_flags,
};

/// A VIP without flags, by single address, port and protocol, whose packets need nothing but flow
/// table, ring and encapsulation.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct PlainVip {
    /// Table generation in which the number was given to the VIP.
    generation: u32,
    /// Bytes of the shortest frame with this protocol's header, and how many lengths from there on are
    /// taken: none for numbers without a plain VIP.
    shortest: u32,
    lengths: u32,
    /// Bits of TCP header byte 13 that say that the flow is new; none for UDP.
    pub(crate) opening: u8,
    pub(crate) expected: Expected,
}

/// What the VIP's packets have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    V4(ExpectedV4),
    V6(ExpectedV6),
}

/// The outer header towards a real.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct RealHeader {
    /// Of size 0 where none can be prepared.
    header: OuterHeader,
    id: RealId,
}

const _: () = assert!(size_of::<PlainVip>() == 64 && size_of::<RealHeader>() == 64);

/// By VIP number and by real index.
#[derive(Debug, Default)]
pub(super) struct Plain {
    vips: Box<[PlainVip]>,
    reals: Box<[RealHeader]>,
}

impl Plain {
    pub(super) fn new(vips: &[Option<Vip>], reals: &[Option<Real>], settings: &Settings) -> Self {
        let used = vips
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| last + 1);
        let highest = reals
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| last + 1);
        let header = |real: &Option<Real>| RealHeader {
            id: real.map_or(RealId::NONE, |real| real.id),
            header: match (real, settings.next_hop_mac) {
                (Some(real), Some(next_hop)) => match settings.encapsulation {
                    Encapsulation::Ipip => OuterHeader::ipip(next_hop.0, real.address),
                    Encapsulation::Gue {
                        port,
                        source_v4,
                        source_v6,
                    } => OuterHeader::gue(next_hop.0, (source_v4, source_v6), real.address, port),
                },
                _ => OuterHeader::NONE,
            },
        };
        Self {
            vips: vips[..used]
                .iter()
                .map(|vip| PlainVip::of(vip.as_ref(), settings.max_frame))
                .collect(),
            reals: reals[..highest].iter().map(header).collect(),
        }
    }

    /// The plain VIP that a tag names, unless its number was given to another VIP since then.
    #[inline]
    pub(super) fn vip(&self, tag: Tag) -> Option<&PlainVip> {
        let vip = self.vips.get(usize::from(tag.vip))?;
        (vip.generation == tag.generation).then_some(vip)
    }

    #[inline]
    pub(super) const fn headers(&self) -> OuterHeaders<'_> {
        OuterHeaders(&self.reals)
    }
}

/// The outer headers of all reals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OuterHeaders<'t>(&'t [RealHeader]);

impl<'t> OuterHeaders<'t> {
    /// The outer header towards the real, unless the index was given to another real since then.
    #[inline]
    pub(crate) fn towards(self, id: RealId) -> Option<&'t OuterHeader> {
        let real = self.0.get(id.index())?;
        (real.id == id).then_some(&real.header)
    }
}

impl PlainVip {
    /// Whether a frame is long enough for its headers, and not too long to be sent.
    #[inline]
    pub(crate) const fn takes(&self, frame_len: usize) -> bool {
        (frame_len as u32).wrapping_sub(self.shortest) < self.lengths
    }

    fn of(vip: Option<&Vip>, max_frame: u16) -> Self {
        let none = Self {
            generation: 0,
            shortest: 0,
            lengths: 0,
            opening: 0,
            expected: Expected::V4(<[u8; 4]>::expected([0; 4], [0; 2], 0)),
        };
        let is_plain =
            |vip: &&Vip| vip.detours.is_empty() && vip.flags.is_empty() && !vip.is_wildcard();
        vip.filter(is_plain).map_or(none, |vip| {
            let protocol = vip.key.protocol.number();
            let port = vip.key.port.to_be_bytes();
            let (ip_len, expected) = match vip.key.address {
                IpAddr::V4(address) => (
                    IPV4_LEN,
                    Expected::V4(<[u8; 4]>::expected(address.octets(), port, protocol)),
                ),
                IpAddr::V6(address) => (
                    IPV6_LEN,
                    Expected::V6(<[u8; 16]>::expected(address.octets(), port, protocol)),
                ),
            };
            let shortest = head::shortest_frame(ip_len, protocol) as u32;
            Self {
                generation: vip.generation,
                shortest,
                lengths: (u32::from(max_frame) + 1).saturating_sub(shortest),
                opening: match vip.key.protocol {
                    Protocol::Tcp => tcp_flags::SYN,
                    Protocol::Udp => 0,
                },
                expected,
            }
        })
    }
}
