//! Desired state, as the control plane holds it. Plain data, no numbers assigned yet.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::{server_ids::ServerIds, source_routes::SourceRoutes};
use maglev::HashFunction;

/// Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, octet) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six hexadecimal octets with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address; write six hexadecimal octets, as in 02:00:00:00:cc:03")]
pub struct MacAddressError;

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(MacAddressError)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(MacAddressError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacAddressError)?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(MacAddressError),
        }
    }
}

/// Transport protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol with this IP protocol number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// Name as configuration files write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What identifies a VIP: address or IPv6 prefix, port (0 = any) and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    /// Address; host bits are zero where `prefix_len` leaves any.
    pub address: IpAddr,
    /// 32 or 128 for a single address.
    pub prefix_len: u8,
    /// Destination port; 0 = any.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl VipKey {
    /// Key of a single address.
    pub const fn exact(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self {
            address,
            prefix_len: if address.is_ipv4() { 32 } else { 128 },
            port,
            protocol,
        }
    }

    /// Whether the key covers an address.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => own == other,
            (IpAddr::V6(network), IpAddr::V6(other)) => {
                let host_bits = 128 - u32::from(self.prefix_len.min(128));
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                network.to_bits() == other.to_bits() & mask
            }
            _ => false,
        }
    }

    /// Whether the key covers one address only.
    pub const fn is_single_address(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

/// `203.0.113.10:80/tcp`, `[2001:db8::1]:80/tcp`, `[2001:db8:a::/96]:0/udp`.
impl fmt::Display for VipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            prefix_len,
            port,
            protocol,
        } = self;
        match (address, self.is_single_address()) {
            (IpAddr::V4(address), _) => write!(f, "{address}:{port}/{protocol}"),
            (IpAddr::V6(address), true) => write!(f, "[{address}]:{port}/{protocol}"),
            (IpAddr::V6(address), false) => write!(f, "[{address}/{prefix_len}]:{port}/{protocol}"),
        }
    }
}

bitflags::bitflags! {
    /// Flags of a VIP; the values are Katran's (katran-compat section 9).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VipFlags: u16 {
        /// The source port does not take part in hash, table key and outer source.
        const NO_SRC_PORT = 1;
        /// The flow table is neither read nor written.
        const LRU_BYPASS = 2;
        /// QUIC connection ids select the real.
        const QUIC = 4;
        /// Only the destination port is hashed.
        const DPORT_ONLY = 8;
        /// The client's prefix selects the real.
        const SRC_ROUTING = 16;
        /// Packets for local reals go to the local stack.
        const LOCAL_VIP = 32;
        /// The table shared by all workers is consulted.
        const GLOBAL_LRU = 64;
        /// A wildcard match keeps its destination port in the hash.
        const SRC_DST_PORT = 128;
        /// The server id in the UDP payload selects the real.
        const UDP_STABLE_ROUTING = 256;
        /// UDP flows leave reals that are down.
        const UDP_FLOW_MIGRATION = 512;
    }
}

impl VipFlags {
    /// Every flag with its name in configuration files.
    pub const NAMES: [(&'static str, Self); 10] = [
        ("no-src-port", Self::NO_SRC_PORT),
        ("lru-bypass", Self::LRU_BYPASS),
        ("quic", Self::QUIC),
        ("dport-only", Self::DPORT_ONLY),
        ("src-routing", Self::SRC_ROUTING),
        ("local-vip", Self::LOCAL_VIP),
        ("global-lru", Self::GLOBAL_LRU),
        ("src-dst-port", Self::SRC_DST_PORT),
        ("udp-stable-routing", Self::UDP_STABLE_ROUTING),
        ("udp-flow-migration", Self::UDP_FLOW_MIGRATION),
    ];
}

/// A real server of one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealSpec {
    /// Address the encapsulated packets are sent to.
    pub address: IpAddr,
    /// Share of new flows; 0 drains.
    pub weight: u32,
    /// The real is this host: VIPs with [`VipFlags::LOCAL_VIP`] leave its packets to the kernel. The
    /// same in every VIP that has the real.
    pub local: bool,
    /// UDP flows of VIPs with [`VipFlags::UDP_FLOW_MIGRATION`] leave it: what the flow table says of it
    /// counts no more.
    pub down: bool,
}

/// One VIP with its reals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipSpec {
    /// Identity.
    pub key: VipKey,
    /// Ring generation.
    pub hash: HashFunction,
    /// Behaviour.
    pub flags: VipFlags,
    /// Real servers, each address once.
    pub reals: Vec<RealSpec>,
}

impl VipSpec {
    /// Whether the VIP's flows are to be found by all workers. VIPs that write nothing to the workers'
    /// own tables have nothing to leave in the global one.
    pub fn uses_global_table(&self) -> bool {
        self.flags.contains(VipFlags::GLOBAL_LRU)
            && !self
                .flags
                .intersects(VipFlags::LRU_BYPASS | VipFlags::DPORT_ONLY)
    }
}

/// Server id that names a real (QUIC, stable routing, TCP option).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerIdSpec {
    /// The id.
    pub id: u32,
    /// The real it names.
    pub real: IpAddr,
    /// Workers use it. What is not valid keeps the real's number, and no packet finds it.
    pub valid: bool,
}

/// Client prefix that selects a real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRouteSpec {
    /// Prefix with host bits zero.
    pub prefix: IpAddr,
    /// Bits of the prefix.
    pub prefix_len: u8,
    /// The real it selects.
    pub real: IpAddr,
}

/// Address whose tunnels are stripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecapSpec {
    /// Outer destination.
    pub address: IpAddr,
    /// Send the inner packet of a GUE tunnel out instead of balancing it.
    pub egress: bool,
}

/// Outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// IP in IP (RFC 2003, RFC 2473).
    Ipip,
    /// Generic UDP encapsulation, variant 1: IP directly in UDP (draft-ietf-intarea-gue section 4).
    Gue {
        /// Outer destination port.
        port: u16,
        /// Outer IPv4 source.
        source_v4: Ipv4Addr,
        /// Outer IPv6 source.
        source_v6: Ipv6Addr,
    },
}

impl Encapsulation {
    /// Bytes in front of the inner IP header for a real of this family.
    pub const fn overhead(self, real_is_v4: bool) -> usize {
        let ip = if real_is_v4 { 20 } else { 40 };
        match self {
            Self::Ipip => ip,
            Self::Gue { .. } => ip + 8,
        }
    }
}

/// What holds for all VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where everything is sent; `None` until it is known, and packets drop with that reason.
    pub next_hop_mac: Option<MacAddress>,
    /// Outer headers.
    pub encapsulation: Encapsulation,
    /// Longest frame towards a VIP, Ethernet header included, FCS not.
    pub max_frame: u16,
    /// Answer longer frames with ICMP too-big instead of dropping them.
    pub icmp_too_big: bool,
    /// Read server ids from the TCP option.
    pub tcp_server_id: bool,
    /// Flows that the table shared by all workers has room for. It exists while some VIP has
    /// [`VipFlags::GLOBAL_LRU`]; with another capacity it starts empty.
    pub global_table_capacity: usize,
    /// UDP destination port of GUE tunnels to decap destinations.
    pub decap_gue_port: u16,
    /// Connection events within a second above which a worker stores no new flow (katran-compat
    /// section 5.4); flows are still balanced, by ring alone.
    pub connection_rate_cap: u32,
    /// A VIP whose last real with a weight goes keeps its ring, and sends packets to reals that are no
    /// longer its own, as Katran does (katran-compat section 3.6).
    pub keep_last_ring: bool,
}

impl Settings {
    /// Katran's cap on new connections per second and worker.
    pub const CONNECTION_RATE_CAP: u32 = 125_000;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            next_hop_mac: None,
            encapsulation: Encapsulation::Ipip,
            max_frame: 1514,
            icmp_too_big: false,
            tcp_server_id: false,
            global_table_capacity: 1_000_000,
            decap_gue_port: xdp_layout::DEFAULT_GUE_PORT,
            connection_rate_cap: Self::CONNECTION_RATE_CAP,
            keep_last_ring: false,
        }
    }
}

/// The whole desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// What holds for all VIPs.
    pub settings: Settings,
    /// VIPs, each key once.
    pub vips: Vec<VipSpec>,
    /// Server ids.
    pub server_ids: ServerIds,
    /// Source routes.
    pub source_routes: SourceRoutes,
    /// Decapsulation destinations.
    pub decap: Vec<DecapSpec>,
}
