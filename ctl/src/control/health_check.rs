//! The health-check path as the control plane sees it: which marks make this host's packets probes, and
//! how these leave (katran-compat section 11).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use dataplane::service::MacAddress;

use crate::config::{Config, EncapsulationKind};

/// What the program at the egress has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheckPath {
    /// Interface at whose egress it runs; `None` is the balancer's.
    pub interface: Option<String>,
    /// Longest probe in bytes, Ethernet header included.
    pub max_frame: Option<u32>,
    /// Where everything is sent.
    pub next_hop: Option<MacAddress>,
    /// UDP destination port of GUE; `None` is IPIP.
    pub gue_port: Option<u16>,
    /// Outer source towards IPv4 reals; checked to be there if there are such.
    pub source_v4: Option<Ipv4Addr>,
    /// Outer source towards IPv6 reals, likewise.
    pub source_v6: Option<Ipv6Addr>,
    /// The real that a mark names. Without any the program runs nowhere.
    pub reals: BTreeMap<u32, IpAddr>,
}

impl HealthCheckPath {
    /// What a configuration asks for, with the next hop in use.
    pub fn new(config: &Config, next_hop: Option<MacAddress>) -> Self {
        let (balancer, path) = (&config.balancer, &config.health_check_path);
        Self {
            interface: path.interface.clone(),
            max_frame: path.max_frame,
            next_hop,
            gue_port: match balancer.encapsulation {
                EncapsulationKind::Ipip => None,
                EncapsulationKind::Gue => Some(balancer.gue_port),
            },
            source_v4: balancer.source_v4,
            source_v6: balancer.source_v6,
            reals: config
                .health_checks
                .iter()
                .map(|check| (check.mark, check.real))
                .collect(),
        }
    }
}

/// What the program is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheckState {
    /// Interface at whose egress it runs, and what holds it there; `None` while there are no marks.
    pub attached: Option<(String, String)>,
    /// Packets by outcome, by name; empty if it has never run.
    pub counters: BTreeMap<String, u64>,
    /// Packets, and bytes of the frames before they were encapsulated, by mark.
    pub traffic: BTreeMap<u32, (u64, u64)>,
}

/// Where the health-check path goes.
pub trait HealthCheckSink: Send {
    /// Puts the path into force.
    fn apply(&mut self, path: &HealthCheckPath) -> anyhow::Result<()>;

    /// What became of it.
    fn state(&self) -> anyhow::Result<HealthCheckState>;
}

/// For a sink that somebody else uses as well.
impl<S: HealthCheckSink> HealthCheckSink for Arc<Mutex<S>> {
    fn apply(&mut self, path: &HealthCheckPath) -> anyhow::Result<()> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(path)
    }

    fn state(&self) -> anyhow::Result<HealthCheckState> {
        self.lock().unwrap_or_else(PoisonError::into_inner).state()
    }
}
