//! What differs between IPv4 and IPv6 flows.

use std::net::{IpAddr, SocketAddr};

use conntrack::{FlowKeyV4, FlowKeyV6, SharedKey};

use super::{flow_hash::HashAddress, lane::Lane};
use crate::packet::{
    IPV4_LEN, IPV6_LEN,
    emit::{self, Inner, InnerIp},
    parse::{self, Address, Data, FlowTuple},
};
use crate::service::{Real, ServiceTable};

/// The lanes of a burst.
pub(super) struct Lanes<'f> {
    pub(super) v4: &'f mut Lane<[u8; 4]>,
    pub(super) v6: &'f mut Lane<[u8; 16]>,
}

/// An IP version; the type is its address in wire order.
pub(super) trait Family: Address + InnerIp + HashAddress {
    /// Flow-table key.
    type Key: SharedKey;
    /// Whether this is IPv4.
    const IS_V4: bool;
    /// Bytes of the IP header.
    const HEADER_LEN: usize;

    /// What a frame says as TCP or UDP of a plain VIP with this protocol.
    fn data(frame: &[u8], protocol: u8) -> Option<Data<Self>>;
    /// The lane of this family.
    fn lane<'l>(lanes: &'l mut Lanes<'_>) -> &'l mut Lane<Self>;
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
    /// Turns an echo request into its reply.
    fn echo_reply(frame: &mut [u8]);
    /// Writes the headers of a too-big message in front of the quoted packet.
    fn too_big(message: &mut [u8], mtu: u16);
}

impl Family for [u8; 4] {
    type Key = FlowKeyV4;
    const IS_V4: bool = true;
    const HEADER_LEN: usize = IPV4_LEN;

    #[inline]
    fn data(frame: &[u8], protocol: u8) -> Option<Data<Self>> {
        parse::data_v4(frame, protocol)
    }

    #[inline]
    fn lane<'l>(lanes: &'l mut Lanes<'_>) -> &'l mut Lane<Self> {
        lanes.v4
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

    fn echo_reply(frame: &mut [u8]) {
        emit::echo_reply_v4(frame);
    }

    fn too_big(message: &mut [u8], mtu: u16) {
        emit::too_big_v4(message, mtu);
    }
}

impl Family for [u8; 16] {
    type Key = FlowKeyV6;
    const IS_V4: bool = false;
    const HEADER_LEN: usize = IPV6_LEN;

    #[inline]
    fn data(frame: &[u8], protocol: u8) -> Option<Data<Self>> {
        parse::data_v6(frame, protocol)
    }

    #[inline]
    fn lane<'l>(lanes: &'l mut Lanes<'_>) -> &'l mut Lane<Self> {
        lanes.v6
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

    fn echo_reply(frame: &mut [u8]) {
        emit::echo_reply_v6(frame);
    }

    fn too_big(message: &mut [u8], mtu: u16) {
        emit::too_big_v6(message, mtu);
    }
}
