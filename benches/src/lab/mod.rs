//! A small network of namespaces: clients, a router, the balancer and real servers.
//!
//! ```text
//!  client 0 ──┐
//!  client 1 ──┤ up0                 up0 ┌── real 0
//!     …       ├────────► router ────────┼── real 1
//!             ┘            │ balancer   └──  …
//!                          │
//!                          │ lb0 (N queues)
//!                       balancer
//! ```
//!
//! The balancer stands on a stick: the router sends it what is for a VIP, and the balancer sends the
//! encapsulated packet back over the same veth pair. Every real has the VIPs on its loopback
//! interface, strips the outer header by the XDP program `decap` on its uplink and answers the
//! client directly, through the router.
//!
//! Where a real driver is to be tested, a [`Cable`] between two network cards takes the place of the
//! veth pair between router and balancer.
//!
//! Nothing of it has a name outside this process, so nothing is left when the process ends: see
//! [`Namespace`], [`Process`] and [`Scratch`].

mod namespace;
mod netlink;
pub mod plan;
mod process;
pub mod requirements;
mod scratch;
#[expect(
    unsafe_code,
    reason = "code between fork and exec, and an ioctl: the only unsafe code of this crate"
)]
mod sys;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use xdp_redirect::{Decap, DecapCounters, DecapOptions, XdpMode};

pub use namespace::Namespace;
pub use netlink::{LinkCounters, LinkState, Netlink, VethEnd};
pub use process::{Process, cpu_time, cpu_time_of};
pub use scratch::Scratch;

use plan::{BALANCER_INTERFACE, BALANCER_V4, BALANCER_V6, MAX_CLIENTS, MAX_REALS, UPLINK, VIPS};

/// MTU towards clients, who must not send more than fits into [`TUNNEL_MTU`] with an outer header.
pub const CLIENT_MTU: u32 = 1500;
/// MTU of the links that carry encapsulated packets.
pub const TUNNEL_MTU: u32 = 1600;
// The longest outer header is IPv6's, with UDP and no option behind it for GUE.
const _: () = assert!(TUNNEL_MTU >= CLIENT_MTU + 40 + 8);
/// Most queues a lab's balancer can have.
pub const MAX_QUEUES: u32 = 8;

const LOOPBACK: &str = "lo";
const DEFAULT_V4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const DEFAULT_V6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// Shape of a lab.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Client machines, 1 to [`MAX_CLIENTS`].
    pub clients: u8,
    /// Real servers, 0 to [`MAX_REALS`].
    pub reals: u8,
    /// RX and TX queues of the balancer's interface, 1 to [`MAX_QUEUES`].
    pub queues: u32,
    /// Whether there is IPv6 beside IPv4.
    pub ipv6: bool,
    /// Whether the lab attaches the XDP program `decap` on the reals. Else nothing strips tunnels.
    pub decap: bool,
    /// Network cards instead of the veth pair between router and balancer; `queues` is then up to
    /// the balancer's card.
    pub cable: Option<Cable>,
}

/// Two network cards of this machine that reach each other. The lab moves them into its namespaces;
/// they come back to the first namespace of the machine when the lab is gone.
#[derive(Clone, Debug)]
pub struct Cable {
    /// Interface that becomes the router's.
    pub router: String,
    /// Interface that becomes the balancer's [`BALANCER_INTERFACE`].
    pub balancer: String,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            clients: 1,
            reals: 3,
            queues: 4,
            ipv6: true,
            decap: true,
            cable: None,
        }
    }
}

/// The built network. Dropping it takes everything away.
pub struct Lab {
    options: LabOptions,
    clients: Vec<Namespace>,
    router: Router,
    balancer: Namespace,
    balancer_links: Netlink,
    reals: Vec<Real>,
    scratch: Scratch,
}

/// A real server.
struct Real {
    namespace: Namespace,
    links: Netlink,
    decap: Option<Decap>,
}

impl Lab {
    /// Builds the network.
    pub fn new(options: LabOptions) -> Result<Self> {
        ensure!(
            (1..=MAX_CLIENTS).contains(&options.clients),
            "a lab has 1 to {MAX_CLIENTS} clients, not {}",
            options.clients
        );
        ensure!(
            options.reals <= MAX_REALS,
            "a lab has at most {MAX_REALS} reals, not {}",
            options.reals
        );
        ensure!(
            (1..=MAX_QUEUES).contains(&options.queues),
            "a lab's balancer has 1 to {MAX_QUEUES} queues, not {}",
            options.queues
        );
        let router = Router::new(options.ipv6)?;
        let (balancer, balancer_links) = add_balancer(&router, &options)?;
        let clients = (0..options.clients)
            .map(|i| add_client(&router, i))
            .collect::<Result<_>>()?;
        let reals = (0..options.reals)
            .map(|i| add_real(&router, i, options.decap))
            .collect::<Result<_>>()?;
        Ok(Self {
            options,
            clients,
            router,
            balancer,
            balancer_links,
            reals,
            scratch: Scratch::new()?,
        })
    }

    /// The shape it was built with.
    pub fn options(&self) -> &LabOptions {
        &self.options
    }

    /// Client `i`.
    ///
    /// # Panics
    /// When there is no such client.
    pub fn client(&self, i: u8) -> &Namespace {
        &self.clients[usize::from(i)]
    }

    /// The router.
    pub fn router(&self) -> &Namespace {
        &self.router.namespace
    }

    /// Interfaces of the router; each has the name of the machine it leads to.
    pub fn router_links(&self) -> &Netlink {
        &self.router.links
    }

    /// The balancer.
    pub fn balancer(&self) -> &Namespace {
        &self.balancer
    }

    /// Interfaces of the balancer.
    pub fn balancer_links(&self) -> &Netlink {
        &self.balancer_links
    }

    /// Gives the balancer the addresses and routes that it loses with its link.
    pub fn address_balancer(&self) -> Result<()> {
        address_balancer(&self.balancer_links, self.options.ipv6)
    }

    /// Real `i`.
    ///
    /// # Panics
    /// When there is no such real.
    pub fn real(&self, i: u8) -> &Namespace {
        &self.reals[usize::from(i)].namespace
    }

    /// Interfaces of real `i`.
    ///
    /// # Panics
    /// When there is no such real.
    pub fn real_links(&self, i: u8) -> &Netlink {
        &self.reals[usize::from(i)].links
    }

    /// What the lab's `decap` program of real `i` did with the packets that reached the real.
    ///
    /// # Panics
    /// When there is no such real.
    pub fn decap_counters(&self, i: u8) -> Result<DecapCounters> {
        let decap = self.reals[usize::from(i)].decap.as_ref();
        Ok(decap
            .with_context(|| format!("the lab does not decapsulate on real {i}"))?
            .counters()?)
    }

    /// The lab's directory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

struct Router {
    namespace: Namespace,
    links: Netlink,
    ipv6: bool,
}

impl Router {
    fn new(ipv6: bool) -> Result<Self> {
        let (namespace, links) = machine("router", ipv6)?;
        namespace.sysctl("ipv4/ip_forward", "1")?;
        if ipv6 {
            namespace.sysctl("ipv6/conf/all/forwarding", "1")?;
        }
        Ok(Self {
            namespace,
            links,
            ipv6,
        })
    }

    /// Connects `uplink` of a machine to an interface of the router that has the machine's name.
    fn connect(
        &self,
        machine: &Namespace,
        links: &Netlink,
        uplink: &str,
        queues: u32,
        mtu: u32,
    ) -> Result<()> {
        let inner = VethEnd {
            namespace: &self.namespace,
            name: machine.name(),
        };
        let outer = VethEnd {
            namespace: machine,
            name: uplink,
        };
        self.links.add_veth(inner, outer, queues, mtu)?;
        for end in [inner, outer] {
            end.namespace.disable_tx_checksum(end.name)?;
        }
        self.links.set_up(machine.name())?;
        links.set_up(uplink)
    }

    /// Connects the balancer's interface to an interface of the router that has the balancer's name,
    /// as [`Router::connect`] does, by cards that are cabled already.
    fn plug(&self, balancer: &Namespace, links: &Netlink, cable: &Cable) -> Result<()> {
        let here = Netlink::open(&Namespace::current()?)?;
        here.hand_over(&cable.router, &self.namespace, balancer.name())?;
        here.hand_over(&cable.balancer, balancer, BALANCER_INTERFACE)?;
        for (links, name) in [(&self.links, balancer.name()), (links, BALANCER_INTERFACE)] {
            links.set_mtu(name, TUNNEL_MTU)?;
            links.set_up(name)?;
        }
        self.namespace.disable_gro(balancer.name())
    }

    /// Gives a machine at the edge its addresses and the routes to and from it. The router has no
    /// network on these links, only a route to each machine.
    fn address_edge(
        &self,
        machine: &Namespace,
        links: &Netlink,
        gateway_v4: Ipv4Addr,
        address_v4: Ipv4Addr,
        address_v6: Ipv6Addr,
    ) -> Result<()> {
        let port = machine.name();
        self.links.add_address(port, gateway_v4.into(), 32)?;
        self.links.add_route((address_v4.into(), 32), None, port)?;
        links.add_address(UPLINK, address_v4.into(), 32)?;
        links.add_route(DEFAULT_V4, Some(gateway_v4.into()), UPLINK)?;
        if self.ipv6 {
            let gateway = plan::ROUTER_LINK_LOCAL;
            self.links.add_address(port, gateway.into(), 64)?;
            self.links.add_route((address_v6.into(), 128), None, port)?;
            links.add_address(UPLINK, address_v6.into(), 128)?;
            links.add_route(DEFAULT_V6, Some(gateway.into()), UPLINK)?;
        }
        Ok(())
    }
}

/// A namespace with a loopback interface and without waiting times for IPv6 addresses.
fn machine(name: &str, ipv6: bool) -> Result<(Namespace, Netlink)> {
    let namespace = Namespace::new(name)?;
    // Answers do not come back the way the request went, which reverse path filters would refuse.
    for scope in ["all", "default"] {
        namespace.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
        if ipv6 {
            namespace.sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
            namespace.sysctl(&format!("ipv6/conf/{scope}/accept_ra"), "0")?;
        }
    }
    let links = Netlink::open(&namespace)?;
    links.set_up(LOOPBACK)?;
    Ok((namespace, links))
}

fn add_balancer(router: &Router, options: &LabOptions) -> Result<(Namespace, Netlink)> {
    let (namespace, links) = machine("balancer", options.ipv6)?;
    // While no program is attached, forwarding would send VIP packets back to the router for ever.
    namespace.sysctl("ipv4/ip_forward", "0")?;
    match &options.cable {
        None => router.connect(
            &namespace,
            &links,
            BALANCER_INTERFACE,
            options.queues,
            TUNNEL_MTU,
        )?,
        Some(cable) => router.plug(&namespace, &links, cable)?,
    }
    let port = namespace.name();
    let (vips, vips_len) = plan::VIP_NETWORK_V4;
    router
        .links
        .add_address(port, plan::ROUTER_TO_BALANCER_V4.into(), 30)?;
    router
        .links
        .add_route((vips.into(), vips_len), Some(BALANCER_V4.into()), port)?;
    if options.ipv6 {
        namespace.sysctl("ipv6/conf/all/forwarding", "0")?;
        let (vips, vips_len) = plan::VIP_NETWORK_V6;
        router
            .links
            .add_address(port, plan::ROUTER_TO_BALANCER_V6.into(), 64)?;
        router
            .links
            .add_route((vips.into(), vips_len), Some(BALANCER_V6.into()), port)?;
    }
    address_balancer(&links, options.ipv6)?;
    Ok((namespace, links))
}

/// Gives the balancer its addresses and its routes, or gives them again.
fn address_balancer(links: &Netlink, ipv6: bool) -> Result<()> {
    links.add_address(BALANCER_INTERFACE, BALANCER_V4.into(), 30)?;
    links.add_route(
        DEFAULT_V4,
        Some(plan::ROUTER_TO_BALANCER_V4.into()),
        BALANCER_INTERFACE,
    )?;
    if ipv6 {
        links.add_address(BALANCER_INTERFACE, BALANCER_V6.into(), 64)?;
        links.add_route(
            DEFAULT_V6,
            Some(plan::ROUTER_TO_BALANCER_V6.into()),
            BALANCER_INTERFACE,
        )?;
    }
    Ok(())
}

fn add_client(router: &Router, i: u8) -> Result<Namespace> {
    let (namespace, links) = machine(&format!("client{i}"), router.ipv6)?;
    // One client stands for many: it needs every port it can get.
    namespace.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    // The hash that the client's socket gave a packet travels with it and picks the balancer's queue,
    // and by default the socket takes another one after a time-out. A NIC hashes addresses and ports:
    // its flows keep their queue.
    namespace.sysctl("core/txrehash", "0")?;
    router.connect(&namespace, &links, UPLINK, 1, CLIENT_MTU)?;
    router.address_edge(
        &namespace,
        &links,
        plan::ROUTER_TO_CLIENTS_V4,
        plan::client_v4(i),
        plan::client_v6(i),
    )?;
    Ok(namespace)
}

fn add_real(router: &Router, i: u8, decap: bool) -> Result<Real> {
    let (namespace, links) = machine(&format!("real{i}"), router.ipv6)?;
    // Every real has the VIPs; none may answer ARP for them.
    for scope in ["all", "default"] {
        namespace.sysctl(&format!("ipv4/conf/{scope}/arp_ignore"), "1")?;
        namespace.sysctl(&format!("ipv4/conf/{scope}/arp_announce"), "2")?;
    }
    router.connect(&namespace, &links, UPLINK, 1, TUNNEL_MTU)?;
    router.address_edge(
        &namespace,
        &links,
        plan::ROUTER_TO_REALS_V4,
        plan::real_v4(i),
        plan::real_v6(i),
    )?;
    for vip in 0..VIPS {
        links.add_address(LOOPBACK, plan::vip_v4(vip).into(), 32)?;
        if router.ipv6 {
            links.add_address(LOOPBACK, plan::vip_v6(vip).into(), 128)?;
        }
    }
    let decap = decap
        .then(|| attach_decap(&namespace, i, router.ipv6))
        .transpose()?;
    Ok(Real {
        namespace,
        links,
        decap,
    })
}

fn attach_decap(namespace: &Namespace, i: u8, ipv6: bool) -> Result<Decap> {
    let mut destinations = vec![plan::real_v4(i).into()];
    if ipv6 {
        destinations.push(plan::real_v6(i).into());
    }
    let options = DecapOptions {
        destinations,
        ..DecapOptions::default()
    };
    // Interfaces are looked up in the namespace of the thread.
    namespace
        .run(|| Decap::attach(UPLINK, XdpMode::Auto, &options))?
        .with_context(|| format!("real {i} cannot decapsulate"))
}
