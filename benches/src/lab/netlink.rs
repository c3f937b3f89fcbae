//! Interfaces, addresses and routes of one namespace, over rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{
    InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;

use super::Namespace;

/// A netlink socket in a namespace, with blocking calls.
pub struct Netlink {
    namespace: String,
    runtime: Runtime,
    handle: Handle,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Where the end shall be.
    pub namespace: &'a Namespace,
    /// Name of the interface there.
    pub name: &'a str,
}

/// What an interface looks like from outside; comparing two shows whether it was left as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Interface index.
    pub index: u32,
    /// Ethernet address.
    pub address: [u8; 6],
    /// Largest packet in bytes, Ethernet header not counted.
    pub mtu: u32,
    /// Flags such as up and promiscuous.
    pub flags: LinkFlags,
    /// Whether an XDP program is attached, in any mode.
    pub xdp: bool,
}

impl LinkState {
    /// Whether packets can pass: it is up, and so is the other end.
    pub fn is_running(&self) -> bool {
        self.flags.contains(LinkFlags::Running)
    }
}

/// What the kernel counts at an interface, in packets. What a veth counts as dropped differs from what
/// a card does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Received.
    pub rx_packets: u64,
    /// Dropped where they arrived.
    pub rx_dropped: u64,
    /// Sent.
    pub tx_packets: u64,
    /// Dropped where they should have left.
    pub tx_dropped: u64,
}

impl Netlink {
    /// Opens a socket in `namespace`.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .context("cannot start an I/O runtime")?;
            let guard = runtime.enter();
            let (connection, handle, _) =
                rtnetlink::new_connection().context("cannot open a netlink socket")?;
            drop(guard);
            runtime.spawn(connection);
            Ok(Self {
                namespace: namespace.name().to_owned(),
                runtime,
                handle,
            })
        })?
    }

    /// Creates a veth pair with `queues` RX and TX queues at both ends.
    pub fn add_veth(&self, a: VethEnd<'_>, b: VethEnd<'_>, queues: u32, mtu: u32) -> Result<()> {
        let peer = with_queues(LinkMessageBuilder::<LinkUnspec>::new(), queues)
            .name(b.name)
            .mtu(mtu)
            .setns_by_fd(b.namespace.fd().as_raw_fd())
            .build();
        let message = with_queues(LinkMessageBuilder::<LinkVeth>::new(a.name, b.name), queues)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(mtu)
            .setns_by_fd(a.namespace.fd().as_raw_fd())
            .build();
        self.runtime
            .block_on(self.handle.link().add(message).execute())
            .with_context(|| {
                format!(
                    "cannot create the veth pair {} in `{}` and {} in `{}`",
                    a.name,
                    a.namespace.name(),
                    b.name,
                    b.namespace.name()
                )
            })
    }

    /// Moves an interface to another namespace, where it gets another name. It is down afterwards.
    pub fn hand_over(&self, interface: &str, namespace: &Namespace, name: &str) -> Result<()> {
        let index = self.link(interface)?.index;
        self.set(interface, LinkUnspec::new_with_index(index).down().build())?;
        let message = LinkUnspec::new_with_index(index)
            .name(name)
            .setns_by_fd(namespace.fd().as_raw_fd())
            .build();
        self.set(interface, message)
    }

    /// Sets an interface up.
    pub fn set_up(&self, interface: &str) -> Result<()> {
        self.set(interface, LinkUnspec::new_with_name(interface).up().build())
    }

    /// Sets an interface down.
    pub fn set_down(&self, interface: &str) -> Result<()> {
        self.set(
            interface,
            LinkUnspec::new_with_name(interface).down().build(),
        )
    }

    /// Sets the largest packet an interface sends, in bytes without the Ethernet header.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.set(
            interface,
            LinkUnspec::new_with_name(interface).mtu(mtu).build(),
        )
    }

    /// Adds an address to an interface, unless it has it; an IPv6 address is usable at once.
    pub fn add_address(&self, interface: &str, address: IpAddr, prefix_len: u8) -> Result<()> {
        let index = self.link(interface)?.index;
        let mut request = self
            .handle
            .address()
            .add(index, address, prefix_len)
            .replace();
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.runtime.block_on(request.execute()).with_context(|| {
            format!(
                "cannot add {address}/{prefix_len} to {interface} in `{}`",
                self.namespace
            )
        })
    }

    /// Adds or replaces a route to `network` through `gateway`, or straight onto the link when there is none.
    /// `mtu` limits packets that take the route.
    pub fn add_route(
        &self,
        network: (IpAddr, u8),
        gateway: Option<IpAddr>,
        interface: &str,
    ) -> Result<()> {
        let index = self.link(interface)?.index;
        let family_error = || anyhow!("a gateway of the other address family");
        let message = match network {
            (IpAddr::V4(address), prefix_len) => {
                let builder = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(address, prefix_len)
                    .output_interface(index);
                match gateway {
                    None => builder
                        .scope(rtnetlink::packet_route::route::RouteScope::Link)
                        .build(),
                    Some(IpAddr::V4(gateway)) => builder.gateway(gateway).onlink().build(),
                    Some(IpAddr::V6(_)) => return Err(family_error()),
                }
            }
            (IpAddr::V6(address), prefix_len) => {
                let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(address, prefix_len)
                    .output_interface(index);
                match gateway {
                    None => builder.build(),
                    Some(IpAddr::V6(gateway)) => builder.gateway(gateway).build(),
                    Some(IpAddr::V4(_)) => return Err(family_error()),
                }
            }
        };
        self.runtime
            .block_on(self.handle.route().add(message).replace().execute())
            .with_context(|| {
                format!(
                    "cannot add a route to {}/{} by {interface} in `{}`",
                    network.0, network.1, self.namespace
                )
            })
    }

    /// The present state of an interface.
    pub fn link(&self, interface: &str) -> Result<LinkState> {
        self.message(interface).map(|message| state(&message))
    }

    fn message(&self, interface: &str) -> Result<LinkMessage> {
        let mut links = self.handle.link().get().match_name(interface).execute();
        self.runtime
            .block_on(links.try_next())
            .with_context(|| format!("cannot find interface {interface} in `{}`", self.namespace))?
            .with_context(|| format!("no interface {interface} in `{}`", self.namespace))
    }

    /// What the kernel has counted at an interface.
    pub fn counters(&self, interface: &str) -> Result<LinkCounters> {
        let message = self.message(interface)?;
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Stats64(stats) => Some(LinkCounters {
                    rx_packets: stats.rx_packets,
                    rx_dropped: stats.rx_dropped,
                    tx_packets: stats.tx_packets,
                    tx_dropped: stats.tx_dropped,
                }),
                _ => None,
            })
            .with_context(|| format!("no counters of {interface} in `{}`", self.namespace))
    }

    /// Number of interfaces, loopback included.
    pub fn link_count(&self) -> Result<usize> {
        self.runtime.block_on(async {
            let links: Vec<LinkMessage> = self
                .handle
                .link()
                .get()
                .execute()
                .try_collect()
                .await
                .context("cannot list interfaces")?;
            Ok(links.len())
        })
    }

    fn set(&self, interface: &str, message: LinkMessage) -> Result<()> {
        self.runtime
            .block_on(self.handle.link().change(message).execute())
            .with_context(|| {
                format!(
                    "cannot change interface {interface} in `{}`",
                    self.namespace
                )
            })
    }
}

fn with_queues<T>(builder: LinkMessageBuilder<T>, queues: u32) -> LinkMessageBuilder<T> {
    builder
        .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
        .append_extra_attribute(LinkAttribute::NumRxQueues(queues))
}

fn state(message: &LinkMessage) -> LinkState {
    let mtu = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    let xdp = message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::Xdp(parts) => parts
            .iter()
            .any(|part| matches!(part, LinkXdp::Attached(mode) if *mode != XdpAttached::None)),
        _ => false,
    });
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => None,
        });
    LinkState {
        index: message.header.index,
        address: address.unwrap_or_default(),
        mtu: mtu.unwrap_or_default(),
        flags: message.header.flags,
        xdp,
    }
}
