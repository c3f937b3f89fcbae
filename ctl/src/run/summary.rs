//! What `run` says once it serves.

use std::{collections::HashSet, fmt};

use dataplane::service::VipSpec;

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
        writeln!(f, "  VIPs       {vips}, with {}", reals(&self.config.vips))?;
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

/// Reals, which are what limits count, and how often VIPs name them if that is more often.
fn reals(vips: &[VipSpec]) -> String {
    let entries = || vips.iter().flat_map(|vip| &vip.reals);
    let reals: HashSet<_> = entries().map(|real| real.address).collect();
    let count = entries().count();
    if count == reals.len() {
        format!("{count} reals")
    } else {
        format!("{} reals in {count} entries", reals.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_of_two_vips_is_one_real() {
        let vip = |port: u16| {
            format!(
                "[[vip]]\naddress = \"203.0.113.10\"\nport = {port}\nprotocol = \"tcp\"\n\
                 reals = [{{ address = \"198.51.100.11\" }}, {{ address = \"198.51.100.12\" }}]\n"
            )
        };
        let said = |text: &str| reals(&Config::parse(text, "lb.toml").unwrap().vips);
        assert_eq!(said(&vip(80)), "2 reals");
        assert_eq!(said(&(vip(80) + &vip(443))), "2 reals in 4 entries");
    }
}
