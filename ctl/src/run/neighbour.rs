//! The next hop when the configuration names none: the Ethernet address of the default route's
//! gateway, as the kernel's routing and neighbour tables say, followed as they change.
//!
//! The tables are never read as a whole, as a router's may have a million entries: the kernel is asked
//! for the one route and the one neighbour.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use dataplane::service::MacAddress;
use futures::{StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver, pin_mut};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
    },
    sys::SocketAddr as NetlinkAddress,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

/// UDP's discard service. A datagram to it makes the kernel look for the neighbour.
const DISCARD: u16 = 9;
/// Addresses far away, so that the way to them is the default route: those of a root name server.
const FAR_AWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V6(Ipv6Addr::new(
        0x2001, 0x0503, 0xba3e, 0, 0, 0, 0x0002, 0x0030,
    )),
];
/// Changes come in groups: the kernel is asked once for those within this time.
const SETTLE: Duration = Duration::from_millis(20);
/// Shortest time between two questions while the address is known: on a router, routes change all the
/// time.
const PAUSE: Duration = Duration::from_secs(1);
/// The kernel is asked again after this time without a change, in case that a message was lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// As [`PATIENCE`] while no address is known.
const IMPATIENCE: Duration = Duration::from_millis(200);
/// An entry that the kernel has not confirmed for a while is confirmed anew this often, so that a
/// router that changed its card is noticed although its packets never ask for us.
const CONFIRM: Duration = Duration::from_secs(15);

/// The gateway as the kernel's tables have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gateway {
    /// Address in the default route.
    pub(super) address: IpAddr,
    /// Its Ethernet address, when the kernel knows one.
    pub(super) mac: Option<MacAddress>,
    /// The kernel has heard from it lately, or was told to believe it.
    confirmed: bool,
}

/// Follows the default route's gateway on one interface.
pub(super) struct Neighbour {
    interface: String,
    index: u32,
    handle: Handle,
    changes: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, NetlinkAddress)>,
    connection: JoinHandle<()>,
    /// When the kernel was asked last.
    asked: Option<Instant>,
    provoked: Option<Instant>,
}

impl Neighbour {
    /// Listens to the kernel's tables. Must be called in a runtime, on a thread in the interface's
    /// network namespace.
    pub(super) fn new(interface: &str, index: u32) -> io::Result<Self> {
        let (connection, handle, changes) = new_multicast_connection(&[
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        Ok(Self {
            interface: interface.to_owned(),
            index,
            handle,
            changes,
            connection: tokio::spawn(connection),
            asked: None,
            provoked: None,
        })
    }

    /// What the tables say now; asks the kernel to look for the neighbour when it should.
    pub(super) async fn read(&mut self) -> Result<Option<Gateway>, rtnetlink::Error> {
        self.asked = Some(Instant::now());
        let Some(address) = self.gateway().await? else {
            return Ok(None);
        };
        let (mac, confirmed) = self.entry(address).await?;
        let interval = if mac.is_none() { IMPATIENCE } else { CONFIRM };
        if !confirmed && self.provoked.is_none_or(|last| last.elapsed() >= interval) {
            self.provoked = Some(Instant::now());
            if let Err(error) = provoke(address, &self.interface, self.index) {
                tracing::debug!(%address, %error, "the gateway cannot be asked for");
            }
        }
        Ok(Some(Gateway {
            address,
            mac,
            confirmed,
        }))
    }

    /// Reads until an Ethernet address is known or `patience` is over.
    pub(super) async fn resolve(
        &mut self,
        patience: Duration,
    ) -> Result<Option<Gateway>, rtnetlink::Error> {
        let deadline = Instant::now() + patience;
        loop {
            let gateway = self.read().await?;
            if gateway.is_some_and(|gateway| gateway.mac.is_some()) || Instant::now() >= deadline {
                return Ok(gateway);
            }
            self.changed(false).await;
        }
    }

    /// Sleeps until the tables may have changed. `known` is whether they gave an address last time.
    pub(super) async fn changed(&mut self, known: bool) {
        let patience = if known { PATIENCE } else { IMPATIENCE };
        match timeout(patience, self.changes.next()).await {
            Ok(Some(_)) => {
                let until = next_question(Instant::now(), self.asked, known);
                self.discard_changes(until).await;
            }
            // The connection is gone: asking fails and says why.
            Ok(None) => sleep(patience).await,
            Err(_) => {}
        }
    }

    /// Keeps the queue of changes short: what they are does not matter, as the kernel is asked anyway.
    async fn discard_changes(&mut self, until: Instant) {
        while Instant::now() < until
            && let Ok(Some(_)) = timeout_at(until, self.changes.next()).await
        {}
    }

    /// Where the kernel would send packets to the world through the interface; IPv4 first.
    async fn gateway(&self) -> Result<Option<IpAddr>, rtnetlink::Error> {
        for destination in FAR_AWAY {
            let request = route_request(destination, self.index);
            let routes = self.handle.route().get(request).execute();
            pin_mut!(routes);
            match routes.try_next().await {
                Ok(Some(route)) => {
                    if let Some(gateway) = route_gateway(&route, self.index) {
                        return Ok(Some(gateway));
                    }
                }
                Ok(None) => {}
                // No route, or this family is not in use.
                Err(rtnetlink::Error::NetlinkError(error)) => {
                    tracing::trace!(%destination, %error, "no route");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The neighbour's Ethernet address, and whether it is confirmed.
    async fn entry(
        &mut self,
        address: IpAddr,
    ) -> Result<(Option<MacAddress>, bool), rtnetlink::Error> {
        let request = RouteNetlinkMessage::GetNeighbour(neighbour_request(address, self.index));
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.request(request)?;
        let Some(answer) = answers.next().await else {
            return Ok((None, false));
        };
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry)) => {
                let mac = link_layer_address(&entry);
                let confirmed = matches!(
                    entry.header.state,
                    NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp
                );
                Ok((mac, confirmed && mac.is_some()))
            }
            // The kernel has no entry until it has something to send there.
            NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => Ok((None, false)),
            NetlinkPayload::Error(error) => Err(rtnetlink::Error::NetlinkError(error)),
            _ => Err(rtnetlink::Error::UnexpectedMessage(answer)),
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// When to ask the kernel after a change.
fn next_question(change: Instant, asked: Option<Instant>, known: bool) -> Instant {
    let settled = change + SETTLE;
    match asked {
        Some(asked) if known => settled.max(asked + PAUSE),
        _ => settled,
    }
}

/// Asks for the route to `destination` through the interface.
fn route_request(destination: IpAddr, index: u32) -> RouteMessage {
    let mut request = RouteMessage::default();
    (
        request.header.address_family,
        request.header.destination_prefix_length,
    ) = match destination {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request.attributes = vec![
        RouteAttribute::Destination(destination.into()),
        RouteAttribute::Oif(index),
    ];
    request
}

/// Asks for one entry of the neighbour table.
fn neighbour_request(address: IpAddr, index: u32) -> NeighbourMessage {
    let mut request = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    request.header.family = family;
    request.header.ifindex = index;
    request.attributes = vec![NeighbourAttribute::Destination(destination)];
    request
}

/// The gateway of a route that leads through the interface.
fn route_gateway(route: &RouteMessage, index: u32) -> Option<IpAddr> {
    let through = route
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == index));
    (through && route.header.kind == RouteType::Unicast)
        .then(|| gateway_of(&route.attributes))
        .flatten()
}

fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

/// The Ethernet address, unless the kernel has given the entry up.
fn link_layer_address(entry: &NeighbourMessage) -> Option<MacAddress> {
    if matches!(
        entry.header.state,
        NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None
    ) {
        return None;
    }
    entry
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                Some(MacAddress(bytes.as_slice().try_into().ok()?))
            }
            _ => None,
        })
}

/// Sends a datagram to the gateway's discard port, so that the kernel resolves its address.
fn provoke(address: IpAddr, interface: &str, index: u32) -> io::Result<()> {
    let (local, remote) = match address {
        IpAddr::V4(_) => ("0.0.0.0:0", SocketAddr::new(address, DISCARD)),
        // Link-local gateways are the rule, and such an address takes its interface along.
        IpAddr::V6(v6) => ("[::]:0", SocketAddrV6::new(v6, DISCARD, 0, index).into()),
    };
    let socket = UdpSocket::bind(local)?;
    nix::sys::socket::setsockopt(
        &socket,
        nix::sys::socket::sockopt::BindToDevice,
        &interface.into(),
    )?;
    socket.set_nonblocking(true)?;
    socket.send_to(&[], remote)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_unicast_route_through_the_interface_has_a_gateway() {
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::Oif(2)];
        // The kernel takes addresses without a route for neighbours.
        assert_eq!(route_gateway(&route, 2), None);
        let gateway: IpAddr = "192.0.2.1".parse().unwrap();
        route
            .attributes
            .push(RouteAttribute::Gateway(gateway.into()));
        assert_eq!(route_gateway(&route, 2), Some(gateway));
        assert_eq!(route_gateway(&route, 3), None);
        route.header.kind = RouteType::BlackHole;
        assert_eq!(route_gateway(&route, 2), None);
    }

    #[test]
    fn an_ipv4_route_may_have_an_ipv6_gateway() {
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
        route.attributes = vec![
            RouteAttribute::Oif(2),
            RouteAttribute::Via(RouteVia::Inet6(gateway)),
        ];
        assert_eq!(route_gateway(&route, 2), Some(gateway.into()));
    }

    #[tokio::test]
    async fn the_kernel_answers_single_questions() {
        let mut neighbour = Neighbour::new("lo", 1).unwrap();
        assert_eq!(neighbour.gateway().await.unwrap(), None);
        let unknown = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(neighbour.entry(unknown).await.unwrap(), (None, false));
        assert_eq!(neighbour.read().await.unwrap(), None);
    }

    #[test]
    fn changes_lead_to_one_question_a_second_once_the_address_is_known() {
        let asked = Instant::now();
        let change = asked + Duration::from_millis(100);
        let settled = change + SETTLE;
        assert_eq!(next_question(change, Some(asked), true), asked + PAUSE);
        assert_eq!(next_question(change, Some(asked), false), settled);
        assert_eq!(next_question(change, None, true), settled);
        let later = asked + PAUSE;
        assert_eq!(
            next_question(later, Some(asked), true),
            later + SETTLE,
            "a change after a quiet time is looked at soon"
        );
    }

    #[tokio::test]
    async fn waiting_keeps_the_queue_of_changes_empty() {
        let mut neighbour = Neighbour::new("lo", 1).unwrap();
        let (sender, changes) = futures::channel::mpsc::unbounded();
        neighbour.changes = changes;
        for _ in 0..1000 {
            let message = RouteNetlinkMessage::NewRoute(RouteMessage::default());
            let change = (NetlinkMessage::from(message), NetlinkAddress::new(0, 0));
            sender.unbounded_send(change).unwrap();
        }
        drop(sender);
        let never = Instant::now() + Duration::from_hours(1);
        neighbour.discard_changes(never).await;
        assert!(neighbour.changes.next().await.is_none());
    }

    #[test]
    fn entries_that_were_given_up_have_no_address() {
        let mut entry = NeighbourMessage::default();
        entry
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]));
        for (state, known) in [
            (NeighbourState::Reachable, true),
            (NeighbourState::Stale, true),
            (NeighbourState::Delay, true),
            (NeighbourState::Probe, true),
            (NeighbourState::Permanent, true),
            (NeighbourState::Failed, false),
            (NeighbourState::Incomplete, false),
        ] {
            entry.header.state = state;
            assert_eq!(link_layer_address(&entry).is_some(), known, "{state:?}");
        }
        entry.header.state = NeighbourState::Reachable;
        entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(vec![1, 2, 3])];
        assert_eq!(link_layer_address(&entry), None);
    }
}
