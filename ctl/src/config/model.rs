//! What a configuration holds.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

use dataplane::service::{
    DecapSpec, Encapsulation, MacAddress, ServerIdSpec, ServiceSpec, Settings, SourceRouteSpec,
    VipSpec,
};
use maglev::HashFunction;

use super::{IndexList, Queues};

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
    pub server_ids: Vec<ServerIdSpec>,
    /// `[[source_route]]`.
    pub source_routes: Vec<SourceRouteSpec>,
    /// `[[decap]]`.
    pub decap: Vec<DecapSpec>,
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
    /// `frames`: UMEM chunks of each queue, a power of two. Each takes 4096 bytes.
    pub frames: u32,
    /// `cpus`: CPUs of the workers in the order of the queues, used again from the start when there
    /// are fewer; left out: those this process may use. `--cpus` wins.
    pub cpus: Option<IndexList>,
    /// `busy_poll`: microseconds for which the kernel polls the queue when a worker asks for
    /// packets; left out: not at all.
    pub busy_poll: Option<u32>,
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
            busy_poll: None,
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
    /// `gue_port`: GUE's destination port.
    pub gue_port: u16,
    /// `source_v4`: GUE's outer source towards IPv4 reals.
    pub source_v4: Option<Ipv4Addr>,
    /// `source_v6`: GUE's outer source towards IPv6 reals.
    pub source_v6: Option<Ipv6Addr>,
    /// `flow_table_capacity`: flows per worker and address family. Read at the start only.
    pub flow_table_capacity: usize,
    /// `max_frame`: longest frame towards a VIP in bytes, Ethernet header included, FCS not.
    pub max_frame: u16,
    /// `icmp_too_big`: answer longer frames with ICMP too-big instead of dropping them.
    pub icmp_too_big: bool,
    /// `tcp_server_id`: read server ids from the TCP option.
    pub tcp_server_id: bool,
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
        }
    }
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
            },
            vips: self.vips.clone(),
            server_ids: self.server_ids.clone(),
            source_routes: self.source_routes.clone(),
            decap: self.decap.clone(),
        }
    }
}

/// None of the names that are allowed here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not one of {allowed}")]
pub struct ParseNameError {
    /// What was given.
    pub name: String,
    /// What is allowed.
    pub allowed: String,
}

/// An enum whose variants have names in the file and on the command line.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name in files and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|value| value.name()).collect();
                    ParseNameError { name: text.to_owned(), allowed: names.join(", ") }
                })
            }
        }
    };
}

named! {
    /// How sockets share memory with the driver.
    SocketMode {
        /// Zero-copy where the driver can, copy elsewhere.
        Auto = "auto",
        /// Zero-copy, or fail.
        ZeroCopy = "zero-copy",
        /// Copy.
        Copy = "copy",
    }
}

named! {
    /// Where the XDP program runs.
    XdpMode {
        /// In the driver where it can, in the network stack elsewhere.
        Auto = "auto",
        /// In the driver, or fail.
        Native = "native",
        /// In the network stack.
        Generic = "generic",
    }
}

named! {
    /// Outer headers.
    EncapsulationKind {
        /// IP in IP.
        Ipip = "ipip",
        /// Generic UDP encapsulation.
        Gue = "gue",
    }
}
