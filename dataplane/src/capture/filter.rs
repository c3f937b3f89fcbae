//! Which packets are to be kept.

use std::{fmt, net::IpAddr};

use super::Happened;
use crate::{
    counters::DropReason,
    forward::Verdict,
    packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, protocol},
    service::VipKey,
};

/// A kind of packet that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something happened to it.
    Happened(Happened),
    /// It was dropped for this reason.
    Drop(DropReason),
    /// It is of this VIP, whatever became of it.
    Vip(VipKey),
    /// It was sent to this address, or is of a VIP that has it, whatever became of it.
    Address(IpAddr),
}

/// As commands take it: `lru-miss`, `drop:fragment`, `vip:203.0.113.10:80/tcp`, `vip:203.0.113.10`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Happened(happened) => {
                let names = Happened::NAMES.iter();
                let names = names.filter(|(_, one)| happened.contains(*one));
                let names: Vec<_> = names.map(|(name, _)| *name).collect();
                f.write_str(&names.join(","))
            }
            Self::Drop(reason) => write!(f, "drop:{}", reason.name()),
            Self::Vip(key) => write!(f, "vip:{key}"),
            Self::Address(address) => write!(f, "vip:{address}"),
        }
    }
}

/// Events in the form in which packets are held against them.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    happened: Happened,
    /// Bit *n* is the drop reason of that discriminant.
    drops: u64,
    vips: Vec<VipKey>,
    addresses: Vec<IpAddr>,
}

const _: () = assert!(DropReason::ALL.len() <= u64::BITS as usize);

/// What a filter looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) verdict: Verdict,
    pub(super) happened: Happened,
    pub(super) vip: Option<&'a VipKey>,
    /// [`Filter::is_to_address`] of the arriving frame.
    pub(super) to_address: bool,
}

impl FromIterator<Event> for Filter {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        let mut filter = Self::default();
        for event in events {
            match event {
                Event::Happened(happened) => filter.happened |= happened,
                Event::Drop(reason) => filter.drops |= 1 << reason as u8,
                Event::Vip(key) => filter.vips.push(key),
                Event::Address(address) => filter.addresses.push(address),
            }
        }
        filter
    }
}

impl Filter {
    /// Whether the packet is one of those that were asked for.
    pub(super) fn matches(&self, seen: &Seen<'_>) -> bool {
        if self.happened.intersects(seen.happened) || seen.to_address {
            return true;
        }
        if let Verdict::Drop(reason) = seen.verdict
            && self.drops >> reason as u8 & 1 != 0
        {
            return true;
        }
        seen.vip.is_some_and(|vip| {
            self.vips.contains(vip)
                || vip.is_single_address() && self.addresses.contains(&vip.address)
        })
    }

    /// Whether the frame is to one of the addresses that were asked for.
    pub(super) fn is_to_address(&self, frame: &[u8]) -> bool {
        !self.addresses.is_empty()
            && IpHeader::read(frame).is_some_and(|ip| self.addresses.contains(&ip.destination))
    }

    /// False for frames that cannot match, so that they need not be copied. Those are TCP packets to other
    /// addresses while only VIPs are asked for; a tunnel may hold a packet for one of these, and an ICMP
    /// error to one VIP may be about another.
    pub(super) fn may_match(&self, frame: &[u8]) -> bool {
        if !self.happened.is_empty() || self.drops != 0 {
            return true;
        }
        let Some(ip) = IpHeader::read(frame) else {
            return false;
        };
        ip.protocol != protocol::TCP
            || self.addresses.contains(&ip.destination)
            || self.vips.iter().any(|vip| vip.contains(ip.destination))
    }
}

/// The part of an IP header that a filter looks at before the packet is parsed.
struct IpHeader {
    protocol: u8,
    destination: IpAddr,
}

impl IpHeader {
    fn read(frame: &[u8]) -> Option<Self> {
        let header = frame.get(ETHERNET_LEN..)?;
        match *frame.get(ETHERNET_LEN - 2..)?.first_chunk()? {
            ETHERTYPE_IPV4 => Some(Self {
                protocol: *header.get(9)?,
                destination: IpAddr::from(*header.get(16..)?.first_chunk::<4>()?),
            }),
            ETHERTYPE_IPV6 => Some(Self {
                protocol: *header.get(6)?,
                destination: IpAddr::from(*header.get(24..)?.first_chunk::<16>()?),
            }),
            _ => None,
        }
    }
}
