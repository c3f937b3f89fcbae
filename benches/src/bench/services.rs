//! What the measured balancers serve: one VIP and a hundred reals of each family, in IPIP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use dataplane::service::{
    HashFunction, MacAddress, Protocol, RealSpec, ServiceSpec, ServiceTable, Settings, VipFlags,
    VipKey, VipSpec,
};
use xdp_redirect::{Balancer, BalancerOptions};

use super::row::IpFamily;

/// Reals of each VIP, all of the same weight.
pub(crate) const REALS: u16 = 100;
/// Port of the VIPs.
pub(crate) const PORT: u16 = 80;

/// Share of the in-kernel balancer's flows for which there is room beyond them. The kernel's table gives
/// places away in batches, so a table of just as many places as there are flows forgets some.
const SPARE: u64 = 8;

/// Address of the VIP of a family.
pub(crate) const fn vip(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10)),
    }
}

/// Address of a real of a family, by its number.
pub(crate) fn real(family: IpFamily, number: u16) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(198, 51, 100, 11 + number as u8).into(),
        IpFamily::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x5e, 0, 0, 0, 0, 0x11 + number).into(),
    }
}

/// Bytes of room that the XDP program opens for a packet of this family: the outer header.
pub(crate) const fn room(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 20,
        IpFamily::V6 => 40,
    }
}

/// The services, with everything sent to `next_hop`. The cap on new connections is off: it would
/// keep new flows out of the table.
pub(crate) fn services(next_hop: [u8; 6]) -> ServiceSpec {
    let vips = IpFamily::ALL.iter().map(|&family| VipSpec {
        key: VipKey::exact(vip(family), PORT, Protocol::Tcp),
        hash: HashFunction::MaglevV2,
        flags: VipFlags::empty(),
        reals: (0..REALS)
            .map(|number| RealSpec {
                address: real(family, number),
                weight: 1,
                local: false,
                down: false,
            })
            .collect(),
    });
    ServiceSpec {
        settings: Settings {
            next_hop_mac: Some(MacAddress(next_hop)),
            connection_rate_cap: u32::MAX,
            ..Settings::default()
        },
        vips: vips.collect(),
        ..ServiceSpec::default()
    }
}

/// The in-kernel balancer with these services, attached to nothing, with room for `flows` flows, and to
/// spare, on each CPU.
pub(crate) fn in_kernel(table: &ServiceTable, flows: u64) -> Result<Balancer> {
    let services = table.kernel_services()?;
    let mut balancer = Balancer::load(&BalancerOptions {
        flow_table_capacity: (flows + flows / SPARE + 1024) as usize,
    })?;
    balancer.apply(&services.settings, &services.vips, &services.reals)?;
    Ok(balancer)
}

#[cfg(test)]
mod tests {
    use dataplane::service::ServiceControl;

    use super::*;

    #[test]
    fn the_services_are_valid() {
        let table = ServiceControl::new()
            .apply(&services([2, 0, 0, 0, 0, 1]))
            .expect("valid services");
        for &family in IpFamily::ALL {
            let vip = table
                .lookup(vip(family), PORT, Protocol::Tcp)
                .expect("a VIP");
            assert_eq!(table.vip(vip.number).map(|vip| vip.key.port), Some(PORT));
        }
        assert_ne!(real(IpFamily::V4, 0), real(IpFamily::V4, REALS - 1));
    }
}
