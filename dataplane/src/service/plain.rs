//! What the forwarder reads for most packets, in a form that costs one cache line for the VIP and one
//! for the real.

use std::net::IpAddr;

use xdp_layout::Tag;

use super::{
    spec::{Encapsulation, Settings},
    table::{Real, RealId, Vip},
};
use crate::packet::outer::OuterHeader;

/// A VIP without flags, by single address, port and protocol, whose packets need nothing but flow
/// table, ring and encapsulation.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(crate) struct PlainVip {
    /// Table generation in which the number was given to the VIP; 0 for numbers without a plain VIP.
    generation: u32,
    pub(crate) number: u16,
    pub(crate) port: [u8; 2],
    pub(crate) protocol: u8,
    pub(crate) address: IpAddr,
}

/// The outer header towards a real.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct RealHeader {
    id: RealId,
    pub(crate) header: Option<OuterHeader>,
}

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
        let header = |real: &Real| match (settings.encapsulation, settings.next_hop_mac) {
            (Encapsulation::Ipip, Some(next_hop)) => {
                Some(OuterHeader::ipip(next_hop.0, real.address))
            }
            _ => None,
        };
        Self {
            vips: vips[..used]
                .iter()
                .map(|vip| PlainVip::of(vip.as_ref()))
                .collect(),
            reals: reals[..highest]
                .iter()
                .map(|real| RealHeader {
                    id: real.map_or(RealId::NONE, |real| real.id),
                    header: real.as_ref().and_then(header),
                })
                .collect(),
        }
    }

    /// The plain VIP that a tag names, unless its number was given to another VIP since then.
    #[inline]
    pub(super) fn vip(&self, tag: Tag) -> Option<&PlainVip> {
        let vip = self.vips.get(usize::from(tag.vip))?;
        if vip.generation != tag.generation || vip.generation == 0 {
            return None;
        }
        Some(vip)
    }

    /// The outer header towards the real, unless its index was given to another real since then.
    #[inline]
    pub(super) fn header(&self, id: RealId) -> Option<&OuterHeader> {
        let real = self.reals.get(id.index())?;
        if real.id != id {
            return None;
        }
        real.header.as_ref()
    }
}

impl PlainVip {
    fn of(vip: Option<&Vip>) -> Self {
        let none = Self {
            generation: 0,
            number: Tag::NO_VIP,
            port: [0; 2],
            protocol: 0,
            address: IpAddr::from([0; 4]),
        };
        let is_plain =
            |vip: &&Vip| vip.detours.is_empty() && vip.flags.is_empty() && !vip.is_wildcard();
        vip.filter(is_plain).map_or(none, |vip| Self {
            generation: vip.generation,
            number: vip.number,
            port: vip.key.port.to_be_bytes(),
            protocol: vip.key.protocol.number(),
            address: vip.key.address,
        })
    }
}
