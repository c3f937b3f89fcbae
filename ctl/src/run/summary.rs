//! What `run` says once it serves.

use std::fmt;

use super::{datapath::Datapath, neighbour::Gateway};
use crate::config::{Config, EncapsulationKind};

/// One block, a line for each thing.
pub(super) struct Summary<'a> {
    pub(super) config: &'a Config,
    pub(super) interface: &'a str,
    pub(super) driver: String,
    pub(super) mtu: u32,
    pub(super) datapath: &'a dyn Datapath,
    pub(super) next_hop: Option<Gateway>,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "katran-xsk {} serves", env!("CARGO_PKG_VERSION"))?;
        let driver = match self.driver.as_str() {
            "" => "unknown driver",
            driver => driver,
        };
        let (xdp_mode, fallback) = self.datapath.xdp_mode();
        let mtu = self.mtu;
        writeln!(f, "  interface  {} ({driver}), MTU {mtu}", self.interface)?;
        match fallback {
            None => writeln!(f, "  XDP        {xdp_mode}")?,
            Some(reason) => writeln!(
                f,
                "  XDP        {xdp_mode}, because native failed: {reason}"
            )?,
        }
        self.datapath.describe(f)?;
        let encapsulation = match self.config.balancer.encapsulation {
            EncapsulationKind::Ipip => "ipip".to_owned(),
            EncapsulationKind::Gue => format!("gue to port {}", self.config.balancer.gue_port),
        };
        writeln!(
            f,
            "  frames     to {} bytes, {encapsulation}",
            self.config.balancer.max_frame
        )?;
        let vips = self.config.vips.len();
        let reals: usize = self.config.vips.iter().map(|vip| vip.reals.len()).sum();
        writeln!(f, "  VIPs       {vips}, with {reals} reals")?;
        write!(f, "  next hop   ")?;
        match (self.config.interface.next_hop_mac, self.next_hop) {
            (Some(mac), _) => writeln!(f, "{mac}")?,
            (None, Some(gateway)) => match gateway.mac {
                Some(mac) => writeln!(f, "{mac}, gateway {}, followed", gateway.address)?,
                None => writeln!(f, "unknown: gateway {} does not answer", gateway.address)?,
            },
            (None, None) => writeln!(f, "unknown: no default route")?,
        }
        writeln!(f, "  admin      {}", self.config.admin.socket.display())
    }
}
