//! What differs between IPv4 and IPv6 flows.

use std::net::{IpAddr, SocketAddr};

use conntrack::{FlowKeyV4, FlowKeyV6, SharedKey};

use super::{
    flow_hash::HashAddress,
    lane::Lane,
    queue::{Queue, Waiting},
    wrap::{self, Wrap},
};
use crate::packet::{
    IPV4_LEN, IPV6_LEN,
    emit::{self, Inner, InnerIp},
    head::Headed,
    parse::FlowTuple,
};
use crate::service::{Real, ServiceTable};

/// Where a packet can go that waits for its real.
pub(super) struct Lanes<'f> {
    pub(super) v4: Entrance<'f, [u8; 4]>,
    pub(super) v6: Entrance<'f, [u8; 16]>,
    /// The packet's place.
    pub(super) waiting: &'f mut Waiting,
}

/// One IP version's queue, and the flow table that will be asked.
pub(super) type Entrance<'f, A> = (&'f mut Queue<A>, &'f Lane<A>);

/// An IP version; the type is its address in wire order.
pub(super) trait Family: Headed + InnerIp + HashAddress + 'static {
    /// Flow-table key.
    type Key: SharedKey + 'static;
    /// IPIP of this version in itself.
    type Ipip: Wrap<Self>;
    /// GUE of this version in itself.
    type Gue: Wrap<Self>;
    /// Whether this is IPv4.
    const IS_V4: bool;
    /// Bytes of the IP header.
    const HEADER_LEN: usize;

    /// The entrance of this family.
    fn entrance<'l, 'f>(lanes: &'l mut Lanes<'f>) -> &'l mut Entrance<'f, Self>;
    /// The key of a flow.
    fn key(flow: &FlowTuple<Self>) -> Self::Key;
    /// Source and destination of a key, and its protocol.
    fn endpoints(key: &Self::Key) -> (SocketAddr, SocketAddr, u8);
    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    /// The packet as one that fits an IPv4 outer header.
    fn inside_v4(inner: &Inner<Self>) -> Option<Inner<[u8; 4]>>;
    /// The real to which a source route sends the client.
    fn source_route(self, table: &ServiceTable) -> Option<&Real>;
    /// The indices of the reals to which source routes send the clients, 0 for none.
    fn source_routes(clients: &[Self], table: &ServiceTable, reals: &mut [u32]);
    /// Turns an echo request into its reply.
    fn echo_reply(frame: &mut [u8]);
    /// Writes the headers of a too-big message in front of the quoted packet.
    fn too_big(message: &mut [u8], mtu: u16);
}

impl Family for [u8; 4] {
    type Key = FlowKeyV4;
    type Ipip = wrap::Ipip;
    type Gue = wrap::Gue;
    const IS_V4: bool = true;
    const HEADER_LEN: usize = IPV4_LEN;

    #[inline]
    fn entrance<'l, 'f>(lanes: &'l mut Lanes<'f>) -> &'l mut Entrance<'f, Self> {
        &mut lanes.v4
    }

    #[inline]
    fn key(flow: &FlowTuple<Self>) -> FlowKeyV4 {
        FlowKeyV4 {
            source: flow.source,
            destination: flow.destination,
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            protocol: flow.protocol,
        }
    }

    fn endpoints(key: &FlowKeyV4) -> (SocketAddr, SocketAddr, u8) {
        (
            SocketAddr::new(key.source.into(), u16::from_be_bytes(key.source_port)),
            SocketAddr::new(
                key.destination.into(),
                u16::from_be_bytes(key.destination_port),
            ),
            key.protocol,
        )
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn inside_v4(inner: &Inner<Self>) -> Option<Inner<[u8; 4]>> {
        Some(*inner)
    }

    #[inline]
    fn source_route(self, table: &ServiceTable) -> Option<&Real> {
        table.real_of_client_v4(self)
    }

    fn source_routes(clients: &[Self], table: &ServiceTable, reals: &mut [u32]) {
        table.reals_of_clients_v4(clients, reals);
    }

    fn echo_reply(frame: &mut [u8]) {
        emit::echo_reply_v4(frame);
    }

    fn too_big(message: &mut [u8], mtu: u16) {
        emit::too_big_v4(message, mtu);
    }
}

impl Family for [u8; 16] {
    type Key = FlowKeyV6;
    type Ipip = wrap::Ipip;
    type Gue = wrap::Gue;
    const IS_V4: bool = false;
    const HEADER_LEN: usize = IPV6_LEN;

    #[inline]
    fn entrance<'l, 'f>(lanes: &'l mut Lanes<'f>) -> &'l mut Entrance<'f, Self> {
        &mut lanes.v6
    }

    #[inline]
    fn key(flow: &FlowTuple<Self>) -> FlowKeyV6 {
        FlowKeyV6 {
            source: flow.source,
            destination: flow.destination,
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            protocol: flow.protocol,
        }
    }

    fn endpoints(key: &FlowKeyV6) -> (SocketAddr, SocketAddr, u8) {
        (
            SocketAddr::new(key.source.into(), u16::from_be_bytes(key.source_port)),
            SocketAddr::new(
                key.destination.into(),
                u16::from_be_bytes(key.destination_port),
            ),
            key.protocol,
        )
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        }
    }

    #[inline]
    fn inside_v4(_: &Inner<Self>) -> Option<Inner<[u8; 4]>> {
        None
    }

    #[inline]
    fn source_route(self, table: &ServiceTable) -> Option<&Real> {
        table.real_of_client_v6(self)
    }

    fn source_routes(clients: &[Self], table: &ServiceTable, reals: &mut [u32]) {
        table.reals_of_clients_v6(clients, reals);
    }

    fn echo_reply(frame: &mut [u8]) {
        emit::echo_reply_v6(frame);
    }

    fn too_big(message: &mut [u8], mtu: u16) {
        emit::too_big_v6(message, mtu);
    }
}
