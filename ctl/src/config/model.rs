//! What a configuration holds.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use dataplane::service::{
    DecapSpec, Encapsulation, MacAddress, ServerIds, ServiceSpec, ServiceTable, Settings,
    SourceRoutes, VipSpec,
};
use dataplane::xsk::SocketMode;
use maglev::HashFunction;
use xdp_redirect::XdpMode;

use super::{IndexList, PriorityChoice, Queues};

/// Where the admin socket is unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/katran-xsk.sock";
/// Destination port of GUE unless something else is said (katran-compat section 1).
pub const DEFAULT_GUE_PORT: u16 = 6080;

/// A whole configuration. Plain data: [`Config::problems`] says whether it makes sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[interface]`: where packets come from. Read at the start only.
    pub interface: InterfaceConfig,
    /// `[balancer]`: what holds for all VIPs.
    pub balancer: BalancerConfig,
    /// `[admin]`: the socket. Read at the start only.
    pub admin: AdminConfig,
    /// `[[vip]]`, each key once.
    pub vips: Vec<VipSpec>,
    /// `[[server_id]]`.
    pub server_ids: ServerIds,
    /// `[[source_route]]`.
    pub source_routes: SourceRoutes,
    /// `[[decap]]`.
    pub decap: Vec<DecapSpec>,
    /// `[health_check_path]`.
    pub health_check_path: HealthCheckPathConfig,
    /// `[[health_check]]`, each mark once.
    pub health_checks: Vec<HealthCheckSpec>,
}

/// `[interface]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// `name`: the network interface. `--iface` wins.
    pub name: Option<String>,
    /// `queues`: RX queues that get a worker. `--queues` wins.
    pub queues: Option<Queues>,
    /// `mode`: how sockets share memory with the driver. `--mode` wins.
    pub mode: SocketMode,
    /// `next_hop_mac`: where everything is sent; left out: the default route's neighbour, followed.
    pub next_hop_mac: Option<MacAddress>,
    /// `xdp_mode`: where the XDP program runs. `--xdp-mode` wins.
    pub xdp_mode: XdpMode,
    /// `frames`: UMEM chunks of each queue. Each takes 2048 bytes, or 4096 for a `max_frame` above
    /// 1744.
    pub frames: u32,
    /// `cpus`: CPUs of the workers in the order of the queues, used again from the start when there
    /// are fewer; left out: those this process may use. `--cpus` wins.
    pub cpus: Option<IndexList>,
    /// `priority`: how the scheduler ranks the workers. `--priority` wins.
    pub priority: PriorityChoice,
    /// `busy_poll`: whether each call of a worker into its socket has the kernel poll the queue once.
    pub busy_poll: bool,
    /// `spin_us`: microseconds for which an idle worker looks for packets before it sleeps; left
    /// out: it sleeps at once.
    pub spin_us: Option<u32>,
    /// `huge_pages`: take the memory of frames from huge pages.
    pub huge_pages: bool,
}

impl InterfaceConfig {
    /// Chunks of each queue unless something else is said.
    pub const DEFAULT_FRAMES: u32 = 4096;
}

impl Default for InterfaceConfig {
    fn default() -> Self {
        Self {
            name: None,
            queues: None,
            mode: SocketMode::Auto,
            next_hop_mac: None,
            xdp_mode: XdpMode::Auto,
            frames: Self::DEFAULT_FRAMES,
            cpus: None,
            priority: PriorityChoice::Auto,
            busy_poll: false,
            spin_us: None,
            huge_pages: false,
        }
    }
}

/// `[balancer]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalancerConfig {
    /// `hash`: ring generation of VIPs that do not say.
    pub hash: HashFunction,
    /// `encapsulation`: outer headers.
    pub encapsulation: EncapsulationKind,
    /// `gue_port`: GUE's destination port, of what is sent and of tunnels to decap destinations.
    pub gue_port: u16,
    /// `source_v4`: outer source towards IPv4 reals, of GUE and of health checks.
    pub source_v4: Option<Ipv4Addr>,
    /// `source_v6`: outer source towards IPv6 reals, of GUE and of health checks.
    pub source_v6: Option<Ipv6Addr>,
    /// `flow_table_capacity`: flows per worker and address family. Read at the start only.
    pub flow_table_capacity: usize,
    /// `max_frame`: longest frame towards a VIP in bytes, Ethernet header included, FCS not.
    pub max_frame: u16,
    /// `icmp_too_big`: answer longer frames with ICMP too-big instead of dropping them.
    pub icmp_too_big: bool,
    /// `tcp_server_id`: read server ids from the TCP option.
    pub tcp_server_id: bool,
    /// `global_table_capacity`: flows in the table that the workers share.
    pub global_table_capacity: usize,
    /// `connection_rate_cap`: new connections per second and worker above which no new flow is stored.
    pub connection_rate_cap: u32,
    /// `keep_last_ring`: a VIP whose last usable real goes keeps sending to it.
    pub keep_last_ring: bool,
}

impl Default for BalancerConfig {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            hash: HashFunction::MaglevV2,
            encapsulation: EncapsulationKind::Ipip,
            gue_port: DEFAULT_GUE_PORT,
            source_v4: None,
            source_v6: None,
            flow_table_capacity: 1_000_000,
            max_frame: settings.max_frame,
            icmp_too_big: settings.icmp_too_big,
            tcp_server_id: settings.tcp_server_id,
            global_table_capacity: settings.global_table_capacity,
            connection_rate_cap: settings.connection_rate_cap,
            keep_last_ring: settings.keep_last_ring,
        }
    }
}

/// `[health_check_path]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheckPathConfig {
    /// `interface`: where this host's routes send probes; left out: the balancer's. They leave by the
    /// balancer's in any case.
    pub interface: Option<String>,
    /// `max_frame`: longest probe in bytes, Ethernet header included; left out: any.
    pub max_frame: Option<u32>,
}

/// `[[health_check]]`: what this host sends with the mark goes to the real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheckSpec {
    /// `mark`: the sockets' `SO_MARK`, not 0.
    pub mark: u32,
    /// `real`: a host that takes encapsulated packets; it need not be a real of any VIP.
    pub real: IpAddr,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// `socket`: path of the Unix socket. `--socket` wins.
    pub socket: PathBuf,
    /// `mode`: its permissions, written in octal as in `"0660"`.
    pub mode: u32,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            mode: 0o660,
        }
    }
}

impl Config {
    /// Bytes of the table that the workers share; 0 while no VIP uses it.
    pub(crate) fn global_table_bytes(&self) -> usize {
        if self.vips.iter().any(VipSpec::uses_global_table) {
            ServiceTable::global_memory_for(self.balancer.global_table_capacity)
        } else {
            0
        }
    }

    /// The desired state for [`dataplane::service::ServiceControl::apply`]. A next hop that was
    /// left out is unknown here; `run` fills it in.
    pub fn to_service_spec(&self) -> ServiceSpec {
        let balancer = &self.balancer;
        let encapsulation = match balancer.encapsulation {
            EncapsulationKind::Ipip => Encapsulation::Ipip,
            // A family without a source has no reals (checked), so the address is never sent.
            EncapsulationKind::Gue => Encapsulation::Gue {
                port: balancer.gue_port,
                source_v4: balancer.source_v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
                source_v6: balancer.source_v6.unwrap_or(Ipv6Addr::UNSPECIFIED),
            },
        };
        ServiceSpec {
            settings: Settings {
                next_hop_mac: self.interface.next_hop_mac,
                encapsulation,
                max_frame: balancer.max_frame,
                icmp_too_big: balancer.icmp_too_big,
                tcp_server_id: balancer.tcp_server_id,
                decap_gue_port: balancer.gue_port,
                global_table_capacity: balancer.global_table_capacity,
                connection_rate_cap: balancer.connection_rate_cap,
                keep_last_ring: balancer.keep_last_ring,
            },
            vips: self.vips.clone(),
            server_ids: self.server_ids.clone(),
            source_routes: self.source_routes.clone(),
            decap: self.decap.clone(),
        }
    }
}

/// Outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EncapsulationKind {
    /// IP in IP.
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
}

impl EncapsulationKind {
    /// Name as configuration files write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }
}
