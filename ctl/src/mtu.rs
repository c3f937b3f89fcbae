//! Whether what is encapsulated fits the interface's MTU.

use dataplane::service::Encapsulation;

use crate::{admin::AdminError, config::Config};

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;
/// IPv6's smallest MTU: what a path can be counted on to carry.
const SMALLEST_MTU: u32 = 1280;

/// Most bytes that the encapsulation adds to a packet, for the reals there are. Without reals the
/// least it adds: they come later.
fn overhead(config: &Config) -> u32 {
    let encapsulation: Encapsulation = config.to_service_spec().settings.encapsulation;
    let of_vips = config.vips.iter().flat_map(|vip| &vip.reals);
    let of_vips = of_vips.map(|real| real.address);
    let of_ids = config.server_ids.reals().iter().copied();
    let routes = &config.source_routes;
    let of_routes = routes
        .reals(true)
        .iter()
        .chain(routes.reals(false))
        .copied();
    let largest = of_vips
        .chain(of_ids)
        .chain(of_routes)
        .map(|address| encapsulation.overhead(address.is_ipv4()))
        .max();
    largest.unwrap_or_else(|| encapsulation.overhead(true)) as u32
}

/// What an MTU means for a configuration: nothing, a warning that the largest packets cannot leave, or
/// an error because not even small ones can.
pub type Fit = Result<Option<String>, AdminError>;

/// What this MTU means.
pub(crate) fn check(config: &Config, interface: &str, mtu: u32) -> Fit {
    let overhead = overhead(config);
    let largest = u32::from(config.balancer.max_frame).saturating_sub(ETHERNET);
    let needed = largest + overhead;
    let smallest = SMALLEST_MTU.min(largest);
    if mtu < smallest + overhead {
        return Err(AdminError::new(
            format!("interface {interface}"),
            format!(
                "its MTU of {mtu} is too small: encapsulation adds {overhead} bytes, so packets of \
                 {smallest} bytes need {}",
                smallest + overhead
            ),
            format!("use `ip link set dev {interface} mtu {needed}`"),
        ));
    }
    Ok((mtu < needed).then(|| {
        format!(
            "the MTU of {mtu} lets packets of at most {} bytes leave: max_frame allows {largest} and \
             encapsulation adds {overhead}; use `ip link set dev {interface} mtu {needed}`, or let \
             clients send less (a smaller MTU or MSS)",
            mtu - overhead
        )
    }))
}

#[cfg(test)]
mod tests {
    use dataplane::service::{Protocol, RealSpec, VipFlags, VipKey, VipSpec};
    use maglev::HashFunction;

    use super::*;

    fn config_with_real(real: &str) -> Config {
        let mut config = Config::default();
        config.vips.push(VipSpec {
            key: VipKey::exact("203.0.113.10".parse().unwrap(), 80, Protocol::Tcp),
            hash: HashFunction::MaglevV2,
            flags: VipFlags::empty(),
            reals: vec![RealSpec {
                address: real.parse().unwrap(),
                weight: 1,
                local: false,
                down: false,
            }],
        });
        config
    }

    #[test]
    fn the_mtu_must_carry_what_is_encapsulated() {
        let v4 = config_with_real("198.51.100.11");
        let v6 = config_with_real("2001:db8::1");
        assert_eq!(check(&v4, "eth0", 1520).unwrap(), None);
        assert_eq!(check(&v6, "eth0", 1540).unwrap(), None);
        assert_eq!(
            check(&v4, "eth0", 1500).unwrap().unwrap(),
            "the MTU of 1500 lets packets of at most 1480 bytes leave: max_frame allows 1500 and \
             encapsulation adds 20; use `ip link set dev eth0 mtu 1520`, or let clients send less (a \
             smaller MTU or MSS)"
        );
        assert!(check(&v6, "eth0", 1520).unwrap().is_some());
        assert_eq!(
            check(&v6, "eth0", 1319).unwrap_err().to_string(),
            "interface eth0: its MTU of 1319 is too small: encapsulation adds 40 bytes, so packets of \
             1280 bytes need 1320; use `ip link set dev eth0 mtu 1540`"
        );
        assert!(check(&Config::default(), "eth0", 1300).is_ok());
    }

    #[test]
    fn short_frames_need_no_more_than_their_own_mtu() {
        let mut config = config_with_real("198.51.100.11");
        config.balancer.max_frame = 1000;
        assert_eq!(check(&config, "eth0", 1006).unwrap(), None);
        assert_eq!(
            check(&config, "eth0", 1005).unwrap_err().to_string(),
            "interface eth0: its MTU of 1005 is too small: encapsulation adds 20 bytes, so packets of \
             986 bytes need 1006; use `ip link set dev eth0 mtu 1006`"
        );
    }
}
