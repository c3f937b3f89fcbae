//! What is allowed and probably not meant. Start, changes and reload take their warnings from here, so
//! that all of them know the same ones; `check` shows those that need no host.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
};

use dataplane::service::{ServiceTable, VipFlags, VipKey, VipSpec};
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

use crate::config::Config;

/// Addresses of this host.
pub(crate) fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|entry| ip_address(&entry.address?));
    Ok(addresses.collect())
}

/// Everything to warn of, on a host with these addresses if they are known.
pub(crate) fn of(config: &Config, own: Option<&HashSet<IpAddr>>) -> Vec<String> {
    let mut warnings: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
    if let Some(own) = own {
        warnings.extend(address_warnings(config, own));
    }
    warnings
}

/// What to warn of because of a change. Of what the old configuration suffered from already, whoever
/// made that has been warned.
pub(crate) fn of_change(old: &Config, new: &Config, own: Option<&HashSet<IpAddr>>) -> Vec<String> {
    let before: HashSet<String> = of(old, own).iter().map(|text| unnumbered(text)).collect();
    let mut warnings = of(new, own);
    warnings.retain(|text| !before.contains(&unnumbered(text)));
    warnings
}

/// Drained reals that get new flows because only the hash function of their VIP changed, in the table
/// that was made of the new configuration.
pub(crate) fn of_hash_change(old: &Config, new: &Config, table: &ServiceTable) -> Vec<String> {
    let with_another_hash = new.vips.iter().filter(|vip| {
        let mut old = old.vips.iter();
        old.any(|old| old.key == vip.key && old.hash != vip.hash)
    });
    with_another_hash
        .filter_map(|vip| drained_in_ring(vip, table))
        .collect()
}

/// A global table that is made anew because only its capacity changed.
pub(crate) fn of_emptied_table(old: &Config, new: &Config) -> Option<String> {
    let (before, after) = (old.global_table_bytes(), new.global_table_bytes());
    let capacities = [old, new].map(|config| config.balancer.global_table_capacity);
    (before > 0 && after > 0 && capacities[0] != capacities[1]).then(|| {
        "balancer.global_table_capacity: the global table starts empty, so workers do not find each other's \
         flows until these are stored again; a flow that changes its queue before may change its real"
            .to_owned()
    })
}

fn drained_in_ring(vip: &VipSpec, table: &ServiceTable) -> Option<String> {
    const NAMED: usize = 10;
    let ring = &table.find(&vip.key)?.ring;
    let slots: HashMap<IpAddr, u32> = ring
        .shares()
        .into_iter()
        .filter_map(|(number, slots)| Some((table.real(usize::from(number))?.address, slots)))
        .collect();
    let drained = vip.reals.iter().filter(|real| real.weight == 0);
    let served: Vec<String> = drained
        .filter_map(|real| Some(format!("{} {}", real.address, slots.get(&real.address)?)))
        .collect();
    let more = match served.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = &served[..served.len().min(NAMED)];
    (!named.is_empty()).then(|| {
        format!(
            "VIP {}: reals with weight 0 get new flows, as in Katran after a change of the hash function \
             alone; slots of {}: {}{more}; the next change of the VIP's reals or of a weight takes them out, \
             as `real del` of such a real does",
            vip.key,
            ring.len(),
            named.join(", ")
        )
    })
}

/// The text without positions, which move when something in front of them goes: `vip[] (…).reals[]`.
fn unnumbered(text: &str) -> String {
    let mut parts = text.split('[');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        result.push('[');
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        // What goes on otherwise is an IPv6 address.
        result.push_str(if rest.starts_with(']') { rest } else { part });
    }
    result
}

/// VIPs that are addresses of this host although none of their packets reaches what listens here, and
/// VIPs that are not although some do; and reals that are this host and not said to be.
fn address_warnings(config: &Config, own: &HashSet<IpAddr>) -> Vec<String> {
    let warning = |vip: &VipSpec| {
        let delivers =
            vip.flags.contains(VipFlags::LOCAL_VIP) && vip.reals.iter().any(|real| real.local);
        let VipKey { address, .. } = vip.key;
        match (own.contains(&address), delivers) {
            (true, false) => Some(format!(
                "VIP {} is an address of this host: what listens on it here is cut off",
                vip.key
            )),
            // The addresses of a prefix are rather routed to the loopback interface.
            (false, true) if vip.key.is_single_address() => Some(format!(
                "VIP {} has a local real and is no address of this host: the kernel discards its \
                 packets until `ip address add {address}/{} dev lo`",
                vip.key, vip.key.prefix_len
            )),
            _ => None,
        }
    };
    let own_reals = config.vips.iter().flat_map(|vip| {
        let reals = vip.reals.iter();
        // Loopback addresses are warned of without a host.
        reals
            .filter(|real| !real.local && !real.address.is_loopback())
            .filter(|real| own.contains(&real.address))
            .map(|real| {
                format!(
                    "real {} of VIP {} is an address of this host and not local: its packets leave in a tunnel \
                     and come back at best; give it local = true and the VIP the flag local-vip, or another \
                     address",
                    real.address, vip.key
                )
            })
    });
    let of_vips = config.vips.iter().filter_map(warning);
    of_vips.chain(own_reals).collect()
}

fn ip_address(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_vips_should_be_own_addresses_and_others_should_not() {
        let config = |flags: &str, local: bool| {
            let text = format!(
                "[[vip]]\naddress = \"203.0.113.10\"\nport = 80\nprotocol = \"tcp\"\nflags = [{flags}]\n\
                 reals = [{{ address = \"198.51.100.11\", local = {local} }}]\n"
            );
            Config::parse(&text, "lb.toml").unwrap()
        };
        let own = HashSet::from(["203.0.113.10".parse().unwrap()]);
        for (flags, local, is_own, word) in [
            ("", false, true, "cut off"),
            ("", true, true, "cut off"),
            ("\"local-vip\"", false, true, "cut off"),
            ("\"local-vip\"", true, true, ""),
            (
                "\"local-vip\"",
                true,
                false,
                "ip address add 203.0.113.10/32 dev lo",
            ),
            ("\"local-vip\"", false, false, ""),
            ("", false, false, ""),
        ] {
            let own = if is_own { own.clone() } else { HashSet::new() };
            let warnings = address_warnings(&config(flags, local), &own).concat();
            assert_eq!(warnings.is_empty(), word.is_empty(), "{warnings}");
            assert!(warnings.contains(word), "{warnings}");
        }
    }

    #[test]
    fn a_real_that_is_this_host_should_be_local() {
        let config = |local: bool| {
            let text = format!(
                "[[vip]]\naddress = \"203.0.113.10\"\nport = 80\nprotocol = \"tcp\"\nreals = [\n\
                 {{ address = \"198.51.100.11\", local = {local} }}, {{ address = \"198.51.100.12\" }}]\n"
            );
            Config::parse(&text, "lb.toml").unwrap()
        };
        let own = HashSet::from(["198.51.100.11".parse().unwrap()]);
        let [warning] = &address_warnings(&config(false), &own)[..] else {
            panic!("one warning")
        };
        assert!(
            warning.starts_with(
                "real 198.51.100.11 of VIP 203.0.113.10:80/tcp is an address of this host"
            ),
            "{warning}"
        );
        assert!(address_warnings(&config(true), &own).is_empty());

        let loopback = "[[vip]]\naddress = \"203.0.113.10\"\nport = 80\nprotocol = \"tcp\"\n\
                        reals = [{ address = \"127.0.0.1\" }]\n";
        let loopback = Config::parse(loopback, "lb.toml").unwrap();
        let own = HashSet::from(["127.0.0.1".parse().unwrap()]);
        let [warning] = &of(&loopback, Some(&own))[..] else {
            panic!("one warning")
        };
        assert!(warning.contains("a loopback address"), "{warning}");
    }

    #[test]
    fn positions_go_and_addresses_stay() {
        assert_eq!(
            unnumbered("vip[12] ([2001:db8::1]:80/tcp).reals[3]: none"),
            "vip[] ([2001:db8::1]:80/tcp).reals[]: none"
        );
    }

    #[test]
    fn a_change_warns_of_what_is_new() {
        let vip = |port: u16, weight: u32| {
            format!(
                "[[vip]]\naddress = \"203.0.113.10\"\nport = {port}\nprotocol = \"tcp\"\n\
                 reals = [{{ address = \"198.51.100.11\", weight = {weight} }}]\n"
            )
        };
        let config = |vips: &[(u16, u32)]| {
            let text: Vec<_> = vips
                .iter()
                .map(|(port, weight)| vip(*port, *weight))
                .collect();
            Config::parse(&text.concat(), "lb.toml").unwrap()
        };
        let warnings =
            |old: &[(u16, u32)], new: &[(u16, u32)]| of_change(&config(old), &config(new), None);
        assert!(warnings(&[(80, 1)], &[(80, 2)]).is_empty());
        let drained = warnings(&[(80, 1), (81, 1)], &[(80, 1), (81, 0)]);
        assert_eq!(drained.len(), 1, "{drained:?}");
        assert!(drained[0].contains("203.0.113.10:81/tcp"), "{drained:?}");
        assert!(drained[0].contains("all weights are 0"), "{drained:?}");
        // The VIP moves to another place of the list.
        assert!(warnings(&[(80, 1), (81, 0)], &[(81, 0)]).is_empty());
        let own = HashSet::from(["203.0.113.10".parse().unwrap()]);
        let added = of_change(&config(&[]), &config(&[(80, 1)]), Some(&own));
        assert!(added.concat().contains("cut off"), "{added:?}");
    }
}
