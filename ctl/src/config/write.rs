//! From a [`Config`] back to TOML that [`Config::parse`] reads.

use std::{fmt::Write as _, net::IpAddr};

use dataplane::{
    service::{Settings, VipFlags, VipKey},
    xsk::SocketMode,
};
use xdp_redirect::XdpMode;

use super::{
    AdminConfig, BalancerConfig, Config, EncapsulationKind, HealthCheckPathConfig, InterfaceConfig,
    PriorityChoice,
};

impl Config {
    /// The configuration as a file: `parse(to_toml(c)) == c`. Keys with their default value are
    /// written where the file is easier to read with them.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        interface(&mut text, &self.interface);
        balancer(&mut text, &self.balancer);
        admin(&mut text, &self.admin);
        for vip in &self.vips {
            text.push_str("\n[[vip]]\n");
            line(&mut text, "address", quote(&vip_address(&vip.key)));
            line(&mut text, "port", vip.key.port);
            line(&mut text, "protocol", quote(vip.key.protocol.name()));
            line(&mut text, "hash", quote(vip.hash.name()));
            if !vip.flags.is_empty() {
                let names: Vec<_> = flag_names(vip.flags).map(quote).collect();
                line(&mut text, "flags", format!("[{}]", names.join(", ")));
            }
            text.push_str("reals = [");
            for real in &vip.reals {
                let address = quote(&real.address.to_string());
                let local = if real.local { ", local = true" } else { "" };
                let down = if real.down { ", down = true" } else { "" };
                let weight = real.weight;
                put(
                    &mut text,
                    format_args!(
                        "\n    {{ address = {address}, weight = {weight}{local}{down} }},"
                    ),
                );
            }
            text.push_str(if vip.reals.is_empty() { "]\n" } else { "\n]\n" });
        }
        for server_id in self.server_ids.iter() {
            text.push_str("\n[[server_id]]\n");
            line(&mut text, "id", server_id.id);
            line(&mut text, "real", quote(&server_id.real.to_string()));
            if !server_id.valid {
                line(&mut text, "valid", server_id.valid);
            }
        }
        for route in self.source_routes.iter() {
            text.push_str("\n[[source_route]]\n");
            let prefix = format!("{}/{}", route.prefix, route.prefix_len);
            line(&mut text, "prefix", quote(&prefix));
            line(&mut text, "real", quote(&route.real.to_string()));
        }
        for decap in &self.decap {
            text.push_str("\n[[decap]]\n");
            line(&mut text, "address", quote(&decap.address.to_string()));
            line(&mut text, "egress", decap.egress);
        }
        health_check_path(&mut text, &self.health_check_path);
        for health_check in &self.health_checks {
            text.push_str("\n[[health_check]]\n");
            line(&mut text, "mark", health_check.mark);
            line(&mut text, "real", quote(&health_check.real.to_string()));
        }
        text
    }
}

/// Names of the flags that are set.
pub(crate) fn flag_names(flags: VipFlags) -> impl Iterator<Item = &'static str> {
    let set = VipFlags::NAMES
        .iter()
        .filter(move |(_, flag)| flags.contains(*flag));
    set.map(|(name, _)| *name)
}

/// `203.0.113.10`, `2001:db8:a::/96`.
fn vip_address(key: &VipKey) -> String {
    match key.address {
        IpAddr::V6(address) if !key.is_single_address() => {
            format!("{address}/{}", key.prefix_len)
        }
        address => address.to_string(),
    }
}

fn interface(text: &mut String, interface: &InterfaceConfig) {
    let InterfaceConfig {
        name,
        queues,
        mode,
        next_hop_mac,
        xdp_mode,
        frames,
        cpus,
        priority,
        busy_poll,
        spin_us,
        huge_pages,
    } = interface;
    text.push_str("[interface]\n");
    if let Some(name) = name {
        line(text, "name", quote(name));
    }
    if let Some(queues) = queues {
        line(text, "queues", quote(&queues.to_string()));
    }
    if *mode != SocketMode::Auto {
        line(text, "mode", quote(mode.name()));
    }
    if let Some(mac) = next_hop_mac {
        line(text, "next_hop_mac", quote(&mac.to_string()));
    }
    if *xdp_mode != XdpMode::Auto {
        line(text, "xdp_mode", quote(&xdp_mode.to_string()));
    }
    if *frames != InterfaceConfig::DEFAULT_FRAMES {
        line(text, "frames", frames);
    }
    if let Some(cpus) = cpus {
        line(text, "cpus", quote(&cpus.to_string()));
    }
    if *priority != PriorityChoice::Auto {
        line(text, "priority", quote(priority.name()));
    }
    if *busy_poll {
        line(text, "busy_poll", busy_poll);
    }
    if let Some(spin_us) = spin_us {
        line(text, "spin_us", spin_us);
    }
    if *huge_pages {
        line(text, "huge_pages", huge_pages);
    }
}

fn balancer(text: &mut String, balancer: &BalancerConfig) {
    let BalancerConfig {
        hash,
        encapsulation,
        gue_port,
        source_v4,
        source_v6,
        flow_table_capacity,
        max_frame,
        icmp_too_big,
        tcp_server_id,
        global_table_capacity,
        connection_rate_cap,
        keep_last_ring,
    } = balancer;
    text.push_str("\n[balancer]\n");
    line(text, "hash", quote(hash.name()));
    line(text, "encapsulation", quote(encapsulation.name()));
    if *encapsulation == EncapsulationKind::Gue || *gue_port != super::DEFAULT_GUE_PORT {
        line(text, "gue_port", gue_port);
    }
    if let Some(source) = source_v4 {
        line(text, "source_v4", quote(&source.to_string()));
    }
    if let Some(source) = source_v6 {
        line(text, "source_v6", quote(&source.to_string()));
    }
    line(text, "flow_table_capacity", flow_table_capacity);
    line(text, "max_frame", max_frame);
    if *icmp_too_big {
        line(text, "icmp_too_big", icmp_too_big);
    }
    if *tcp_server_id {
        line(text, "tcp_server_id", tcp_server_id);
    }
    if *global_table_capacity != BalancerConfig::default().global_table_capacity {
        line(text, "global_table_capacity", global_table_capacity);
    }
    if *connection_rate_cap != Settings::CONNECTION_RATE_CAP {
        line(text, "connection_rate_cap", connection_rate_cap);
    }
    if *keep_last_ring {
        line(text, "keep_last_ring", keep_last_ring);
    }
}

fn admin(text: &mut String, admin: &AdminConfig) {
    if *admin == AdminConfig::default() {
        return;
    }
    let AdminConfig { socket, mode } = admin;
    text.push_str("\n[admin]\n");
    line(text, "socket", quote(&socket.to_string_lossy()));
    line(text, "mode", quote(&format!("{mode:04o}")));
}

fn health_check_path(text: &mut String, path: &HealthCheckPathConfig) {
    if *path == HealthCheckPathConfig::default() {
        return;
    }
    let HealthCheckPathConfig {
        interface,
        max_frame,
    } = path;
    text.push_str("\n[health_check_path]\n");
    if let Some(interface) = interface {
        line(text, "interface", quote(interface));
    }
    if let Some(max_frame) = max_frame {
        line(text, "max_frame", max_frame);
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    put(text, format_args!("{key} = {value}\n"));
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(arguments);
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control.is_control() => {
                put(&mut quoted, format_args!("\\U{:08X}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use dataplane::service::{DecapSpec, ServerIdSpec, ServerIds, SourceRouteSpec, SourceRoutes};

    use super::*;
    use crate::config::parse::Document;

    #[test]
    fn every_section_is_written() {
        let mut config = Config::default();
        config.balancer.tcp_server_id = true;
        config.server_ids = ServerIds::new(vec![ServerIdSpec {
            id: 4097,
            real: "198.51.100.11".parse().unwrap(),
            valid: false,
        }])
        .unwrap();
        let route = SourceRouteSpec {
            prefix: "192.0.2.0".parse().unwrap(),
            prefix_len: 24,
            real: "198.51.100.12".parse().unwrap(),
        };
        config.source_routes = SourceRoutes::new([route]).unwrap();
        config.decap.push(DecapSpec {
            address: "2001:db8:d::1".parse().unwrap(),
            egress: true,
        });
        let document = Document::read(&config.to_toml());
        assert_eq!(document.problems, []);
        assert_eq!(document.config, config);
    }

    #[test]
    fn strings_are_quoted() {
        let text = "a\"b\\c\n\u{7f}é";
        let quoted = quote(text);
        assert_eq!(quoted, "\"a\\\"b\\\\c\\U0000000A\\U0000007Fé\"");
        let table: toml::Table = format!("k = {quoted}").parse().unwrap();
        assert_eq!(table["k"].as_str(), Some(text));
    }
}
