//! The next hop when the configuration names none: the Ethernet address of the default route's
//! gateway, as the kernel's routing and neighbour tables say, followed as they change.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use dataplane::service::MacAddress;
use futures::{StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_core::NetlinkMessage,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteType,
            RouteVia,
        },
    },
    sys::SocketAddr as NetlinkAddress,
};
use tokio::time::{Instant, sleep, timeout};

/// UDP's discard service. A datagram to it makes the kernel look for the neighbour.
const DISCARD: u16 = 9;
/// Changes come in groups: the tables are read once for those within this time.
const SETTLE: Duration = Duration::from_millis(20);
/// The tables are read again after this time without a change, in case that a message was lost.
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
        tokio::spawn(connection);
        Ok(Self {
            interface: interface.to_owned(),
            index,
            handle,
            changes,
            provoked: None,
        })
    }

    /// What the tables say now; asks the kernel to look for the neighbour when it should.
    pub(super) async fn read(&mut self) -> Result<Option<Gateway>, rtnetlink::Error> {
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
            self.wait(IMPATIENCE).await;
        }
    }

    /// Sleeps until the tables may have changed.
    pub(super) async fn changed(&mut self, known: bool) {
        self.wait(if known { PATIENCE } else { IMPATIENCE }).await;
    }

    async fn wait(&mut self, patience: Duration) {
        match timeout(patience, self.changes.next()).await {
            Ok(Some(_)) => {
                sleep(SETTLE).await;
                while let Ok(message) = self.changes.try_recv() {
                    drop(message);
                }
            }
            // The connection is gone: reading fails and says why.
            Ok(None) => sleep(patience).await,
            Err(_) => {}
        }
    }

    /// The best default route through the interface; IPv4 first.
    async fn gateway(&self) -> Result<Option<IpAddr>, rtnetlink::Error> {
        for request in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let routes: Vec<RouteMessage> = self
                .handle
                .route()
                .get(request)
                .execute()
                .try_collect()
                .await?;
            if let Some(gateway) = best_gateway(&routes, self.index) {
                return Ok(Some(gateway));
            }
        }
        Ok(None)
    }

    /// The neighbour's Ethernet address, and whether it is confirmed.
    async fn entry(&self, address: IpAddr) -> Result<(Option<MacAddress>, bool), rtnetlink::Error> {
        let family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        let neighbours: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .set_address_family(family)
            .execute()
            .try_collect()
            .await?;
        let entry = neighbours
            .iter()
            .filter(|entry| entry.header.ifindex == self.index)
            .find(|entry| destination(entry) == Some(address));
        Ok(entry.map_or((None, false), |entry| {
            let mac = link_layer_address(entry);
            let confirmed = matches!(
                entry.header.state,
                NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp
            );
            (mac, confirmed && mac.is_some())
        }))
    }
}

/// The gateway of the default route with the smallest metric through this interface.
fn best_gateway(routes: &[RouteMessage], index: u32) -> Option<IpAddr> {
    routes
        .iter()
        .filter(|route| {
            route.header.destination_prefix_length == 0
                && route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.header.kind == RouteType::Unicast
        })
        .filter_map(|route| {
            let metric = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Priority(metric) => Some(*metric),
                    _ => None,
                });
            Some((metric.unwrap_or(0), route_gateway(route, index)?))
        })
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, gateway)| gateway)
}

fn route_gateway(route: &RouteMessage, index: u32) -> Option<IpAddr> {
    let through = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(interface) => Some(*interface),
            _ => None,
        });
    if through == Some(index) {
        return gateway_of(&route.attributes);
    }
    let hops = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops.as_slice()),
            _ => None,
        });
    hops.unwrap_or_default()
        .iter()
        .filter(|hop: &&RouteNextHop| hop.interface_index == index)
        .find_map(|hop| gateway_of(&hop.attributes))
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

fn destination(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some(IpAddr::V6(*address))
            }
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

    fn route(gateway: &str, interface: u32, metric: Option<u32>, length: u8) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = length;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        route.attributes.push(RouteAttribute::Oif(interface));
        let gateway: IpAddr = gateway.parse().unwrap();
        route
            .attributes
            .push(RouteAttribute::Gateway(gateway.into()));
        route
            .attributes
            .extend(metric.map(RouteAttribute::Priority));
        route
    }

    fn best(routes: &[RouteMessage]) -> Option<String> {
        best_gateway(routes, 2).map(|gateway| gateway.to_string())
    }

    #[test]
    fn the_default_route_with_the_smallest_metric_wins() {
        let far = route("192.0.2.1", 2, Some(200), 0);
        let near = route("192.0.2.2", 2, Some(100), 0);
        let elsewhere = route("192.0.2.3", 3, None, 0);
        let not_default = route("192.0.2.4", 2, None, 24);
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[elsewhere.clone(), not_default.clone()]), None);
        let all = [elsewhere, far, not_default, near];
        assert_eq!(best(&all).as_deref(), Some("192.0.2.2"));
        let none = route("192.0.2.5", 2, None, 0);
        assert_eq!(best(&[all[3].clone(), none]).as_deref(), Some("192.0.2.5"));
    }

    #[test]
    fn routes_of_other_tables_and_kinds_do_not_count() {
        let mut other_table = route("192.0.2.1", 2, None, 0);
        other_table.header.table = 100;
        let mut unreachable = route("192.0.2.1", 2, None, 0);
        unreachable.header.kind = RouteType::Unreachable;
        assert_eq!(best(&[other_table, unreachable]), None);
    }

    #[test]
    fn one_of_several_paths_through_the_interface_is_enough() {
        let hop = |interface, gateway: &str| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface;
            let gateway: IpAddr = gateway.parse().unwrap();
            hop.attributes.push(RouteAttribute::Gateway(gateway.into()));
            hop
        };
        let mut route = route("192.0.2.1", 2, None, 0);
        route.attributes = vec![RouteAttribute::MultiPath(vec![
            hop(3, "192.0.2.8"),
            hop(2, "192.0.2.9"),
        ])];
        assert_eq!(best(&[route]).as_deref(), Some("192.0.2.9"));
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
