//! What can be found wrong before anything is changed.

use std::fs;

use anyhow::{Context as _, bail};
use dataplane::xsk::Interface;
use nix::net::if_::if_nameindex;

use crate::{
    config::Config,
    memory::{self, Bytes, Demand},
};

/// Capabilities that are needed, with their numbers. Loading eBPF programs takes one of the last two.
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const SYS_ADMIN: u32 = 21;
const BPF: u32 = 39;

/// Fails unless this process has the capabilities that sockets and eBPF programs take.
pub(super) fn privileges() -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("the capabilities are unknown")?;
    match missing_capabilities(&status).as_slice() {
        [] => Ok(()),
        missing => bail!(
            "not permitted: {} {} missing; run as root, or give the program these capabilities",
            missing.join(" and "),
            if missing.len() == 1 { "is" } else { "are" }
        ),
    }
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        // Without /proc's word on it, trying is the only way to know.
        .unwrap_or(u64::MAX);
    let has = |capability: u32| effective >> capability & 1 == 1;
    [
        ("CAP_NET_ADMIN", has(NET_ADMIN)),
        ("CAP_NET_RAW", has(NET_RAW)),
        ("CAP_BPF", has(BPF) || has(SYS_ADMIN)),
    ]
    .into_iter()
    .filter(|(_, has)| !has)
    .map(|(name, _)| name)
    .collect()
}

/// Finds the interface.
pub(super) fn interface(name: &str) -> anyhow::Result<Interface> {
    Interface::open(name).map_err(|error| {
        if !matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) {
            return anyhow::Error::new(error).context(format!("interface {name}: cannot be asked"));
        }
        let names = if_nameindex().map_or_else(
            |_| "unknown".to_owned(),
            |interfaces| {
                let names = interfaces.iter().map(|known| known.name().to_string_lossy());
                names.collect::<Vec<_>>().join(", ")
            },
        );
        anyhow::anyhow!(
            "interface {name}: there is none of that name in this network namespace; name one of {names}"
        )
    })
}

/// Fails when the memory that this configuration takes is not there.
pub(super) fn memory(config: &Config, driver: &str, workers: usize) -> anyhow::Result<()> {
    // Source routes are there since the file was read, so what is available is without them.
    let demand = Demand::of(config, driver);
    let needed = demand.ahead(workers);
    match memory::available() {
        Some(available) if needed > available => bail!(
            "memory: {} are needed ({} of flow tables and {} of frames for each of the workers, {} of the \
             global table, {} of the VIPs' rings), and {} are available; lower flow_table_capacity, \
             global_table_capacity or frames, or use fewer queues",
            Bytes(needed),
            Bytes(demand.flow_tables),
            Bytes(demand.frames),
            Bytes(demand.global_table),
            Bytes(demand.vip_rings),
            Bytes(available)
        ),
        _ => Ok(()),
    }
}

/// Fails when the kernel cannot have this much memory for the flow tables of its balancer.
pub(super) fn kernel_memory(needed: usize) -> anyhow::Result<()> {
    match memory::available() {
        Some(available) if needed > available => bail!(
            "memory: {} are needed in the kernel for the flow tables of all CPUs, and {} are available; \
             lower flow_table_capacity",
            Bytes(needed),
            Bytes(available)
        ),
        _ => Ok(()),
    }
}

/// What an operator should know and that does not keep the balancer from running.
pub(super) fn warnings(name: &str, interface: &Interface) -> Vec<String> {
    let mut warnings = Vec::new();
    let vlans = fs::read_to_string("/proc/net/vlan/config").unwrap_or_default();
    let mut offloads = interface.harmful_offloads();
    // Hiding VLAN tags does no harm where there are none.
    offloads.retain(|offload| !offload.contains("vlan") || has_vlans(&vlans, name));
    if !offloads.is_empty() {
        let switches: Vec<_> = offloads.iter().map(|name| format!("{name} off")).collect();
        warnings.push(format!(
            "offloads that change packets are on; use `ethtool -K {name} {}`",
            switches.join(" ")
        ));
    }
    let forwarding: Vec<_> = [
        ("/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (
            "/proc/sys/net/ipv6/conf/all/forwarding",
            "net.ipv6.conf.all.forwarding",
        ),
    ]
    .into_iter()
    .filter(|(path, _)| fs::read_to_string(path).is_ok_and(|value| value.trim() != "0"))
    .map(|(_, key)| key)
    .collect();
    if !forwarding.is_empty() {
        warnings.push(format!(
            "the kernel forwards packets ({}): while katran-xsk is down, packets to VIPs may circle",
            forwarding.join(", ")
        ));
    }
    warnings
}

/// Whether the kernel's list of VLANs (`/proc/net/vlan/config`) has one on this interface.
fn has_vlans(list: &str, interface: &str) -> bool {
    list.lines()
        .filter_map(|line| line.rsplit('|').next())
        .any(|parent| parent.trim() == interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        let status = |mask: &str| format!("Name:\tx\nCapEff:\t{mask}\nThreads:\t1\n");
        assert!(missing_capabilities(&status("000001ffffffffff")).is_empty());
        assert_eq!(
            missing_capabilities(&status("0000000000000000")),
            ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"]
        );
        // NET_ADMIN, NET_RAW and SYS_ADMIN, as on kernels before CAP_BPF.
        assert!(missing_capabilities(&status("0000000000203000")).is_empty());
        assert_eq!(
            missing_capabilities(&status("0000000000003000")),
            ["CAP_BPF"]
        );
    }

    #[test]
    fn vlans_are_found_by_their_interface() {
        let list = "VLAN Dev name    | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n\
                    eth0.7         | 7  | eth0\n";
        assert!(has_vlans(list, "eth0"));
        assert!(!has_vlans(list, "eth1"));
        assert!(!has_vlans("", "eth0"));
    }

    #[test]
    fn more_memory_than_there_is_is_refused() {
        let mut config = Config::default();
        config.balancer.flow_table_capacity = 1 << 27;
        let error = memory(&config, "", 100_000).unwrap_err().to_string();
        assert!(error.starts_with("memory: "), "{error}");
        config.balancer.flow_table_capacity = 1;
        memory(&config, "", 1).unwrap();
    }

    #[test]
    fn a_missing_interface_is_named_with_those_there_are() {
        let error = interface("no-such-if").unwrap_err().to_string();
        assert!(
            error.starts_with(
                "interface no-such-if: there is none of that name in this network namespace; name \
                 one of lo"
            ),
            "{error}"
        );
    }
}
