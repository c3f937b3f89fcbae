//! Tunnels that the `redirect` program sends to the sockets.

use std::net::IpAddr;

use xdp_layout::{MAX_TUNNEL_DESTINATIONS, Tag};

use crate::{
    decap,
    vips::{Content, Place, VipError},
};

/// Tunnels that go to the sockets: IPIP and GUE to these destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// UDP destination port of GUE; zero leaves GUE to the kernel.
    pub gue_port: u16,
    /// Bytes in front of the Ethernet header that the inner packet needs at most, the header that is
    /// taken off included.
    pub room: u8,
    /// Outer destinations.
    pub destinations: Vec<IpAddr>,
}

impl Tunnels {
    /// Adds what the maps are to hold for these tunnels.
    pub(crate) fn add_to(&self, content: &mut Content) -> Result<(), VipError> {
        if self.destinations.len() > MAX_TUNNEL_DESTINATIONS as usize {
            return Err(VipError::TooManyTunnels(self.destinations.len()));
        }
        if self.destinations.is_empty() {
            return Ok(());
        }
        let mut port = [0; Tag::SIZE];
        port[..2].copy_from_slice(&self.gue_port.to_be_bytes());
        content.insert(Place::GuePort, port);
        let tag = Tag {
            generation: 0,
            vip: Tag::NO_VIP,
            room: self.room,
            zero: 0,
        };
        for destination in &self.destinations {
            let place = Place::Tunnel(decap::key(*destination));
            content.insert(place, tag.to_bytes());
        }
        Ok(())
    }
}
