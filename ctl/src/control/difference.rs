//! What a change changes, and what only a restart can.

use std::{cmp::Ordering, collections::HashMap, net::IpAddr};

use dataplane::{
    service::{
        DecapSpec, RealSpec, ServerIdSpec, ServerIds, SourceRouteSpec, SourceRoutes, VipKey,
        VipSpec,
    },
    xsk::chunk_size,
};
use serde::{Deserialize, Serialize};

use crate::{
    admin::AdminError,
    config::{Config, HealthCheckSpec, Queues},
};

/// Names that are listed of a longer list.
const LISTED: usize = 1000;

/// How many, and which: the first thousand are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub names: Vec<String>,
}

impl Names {
    fn push(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.names.len() < LISTED {
            self.names.push(name());
        }
    }

    /// Nothing.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Generation of the table that is in force now.
    pub generation: u32,
    /// Settings that have another value, by their key in the file.
    pub settings: Names,
    /// VIPs that are new.
    pub vips_added: Names,
    /// VIPs that are gone.
    pub vips_removed: Names,
    /// VIPs whose hash function or flags are different.
    pub vips_changed: Names,
    /// Reals that are new to a VIP that was there before: `VIP real ADDRESS`.
    pub reals_added: Names,
    /// Reals that left a VIP that is still there.
    pub reals_removed: Names,
    /// Reals with another weight.
    pub reals_changed: Names,
    /// Decap destinations that are new.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub decap_added: Names,
    /// Decap destinations that are gone.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub decap_removed: Names,
    /// Decap destinations with another `egress`.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub decap_changed: Names,
    /// Marks that are new: `mark MARK real ADDRESS`.
    pub health_checks_added: Names,
    /// Marks that are gone.
    pub health_checks_removed: Names,
    /// Marks with another real.
    pub health_checks_changed: Names,
    /// Server ids that are new: `server id ID real ADDRESS`.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub server_ids_added: Names,
    /// Server ids that are gone.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub server_ids_removed: Names,
    /// Server ids with another real, or that became valid or invalid.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub server_ids_changed: Names,
    /// Source routes that are new: `source route PREFIX real ADDRESS`.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub source_routes_added: Names,
    /// Source routes that are gone.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub source_routes_removed: Names,
    /// Source routes to another real.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub source_routes_changed: Names,
    /// What the operator should look at because of the change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Changes {
    /// What was changed, kind by kind: a verb and a noun for each. The names of settings, VIPs and
    /// decap destinations leave the noun out.
    pub fn kinds(&self) -> [(&'static str, &'static str, &Names); 19] {
        [
            ("changed", "settings", &self.settings),
            ("added", "vips", &self.vips_added),
            ("removed", "vips", &self.vips_removed),
            ("changed", "vips", &self.vips_changed),
            ("added", "reals", &self.reals_added),
            ("removed", "reals", &self.reals_removed),
            ("changed", "reals", &self.reals_changed),
            ("added", "decap", &self.decap_added),
            ("removed", "decap", &self.decap_removed),
            ("changed", "decap", &self.decap_changed),
            ("added", "health checks", &self.health_checks_added),
            ("removed", "health checks", &self.health_checks_removed),
            ("changed", "health checks", &self.health_checks_changed),
            ("added", "server ids", &self.server_ids_added),
            ("removed", "server ids", &self.server_ids_removed),
            ("changed", "server ids", &self.server_ids_changed),
            ("added", "source routes", &self.source_routes_added),
            ("removed", "source routes", &self.source_routes_removed),
            ("changed", "source routes", &self.source_routes_changed),
        ]
    }

    /// In one line: `vips added 203.0.113.10:80/tcp; reals removed 200`.
    pub fn summary(&self) -> String {
        const NAMED: usize = 10;
        let kinds = self.kinds();
        let changed = kinds.iter().filter(|(_, _, names)| !names.is_empty());
        let parts: Vec<_> = changed
            .map(|(verb, noun, names)| match names.count {
                count if count <= NAMED => format!("{noun} {verb} {}", names.names.join(", ")),
                count => format!("{noun} {verb} {count}"),
            })
            .collect();
        match parts.as_slice() {
            [] => "nothing changed".to_owned(),
            parts => parts.join("; "),
        }
    }

    /// Everything is as it was.
    pub fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, _, names)| names.is_empty())
    }
}

/// The difference between two configurations, whatever generation it has.
pub(super) fn compare(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    for (key, same) in settings(old, new) {
        if !same {
            changes.settings.push(|| key.to_owned());
        }
    }
    let before: HashMap<VipKey, &VipSpec> = old.vips.iter().map(|vip| (vip.key, vip)).collect();
    let after: HashMap<VipKey, &VipSpec> = new.vips.iter().map(|vip| (vip.key, vip)).collect();
    for vip in &old.vips {
        if !after.contains_key(&vip.key) {
            changes.vips_removed.push(|| vip.key.to_string());
        }
    }
    for vip in &new.vips {
        match before.get(&vip.key) {
            None => changes.vips_added.push(|| vip.key.to_string()),
            Some(old) => compare_vip(old, vip, &mut changes),
        }
    }
    compare_decap(&old.decap, &new.decap, &mut changes);
    compare_health_checks(&old.health_checks, &new.health_checks, &mut changes);
    if old.server_ids != new.server_ids {
        compare_server_ids(&old.server_ids, &new.server_ids, &mut changes);
    }
    if old.source_routes != new.source_routes {
        compare_source_routes(&old.source_routes, &new.source_routes, &mut changes);
    }
    changes
}

/// Both lists are in the same order, so one walk along both will do.
fn compare_source_routes(old: &SourceRoutes, new: &SourceRoutes, changes: &mut Changes) {
    let name = |route: SourceRouteSpec| {
        let SourceRouteSpec {
            prefix,
            prefix_len,
            real,
        } = route;
        move || format!("source route {prefix}/{prefix_len} real {real}")
    };
    let place = |route: &SourceRouteSpec| (route.prefix, route.prefix_len);
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => place(before).cmp(&place(after)),
        };
        let before = old.next_if(|_| order.is_le());
        let after = new.next_if(|_| order.is_ge());
        match (before, after) {
            (Some(before), None) => changes.source_routes_removed.push(name(before)),
            (None, Some(after)) => changes.source_routes_added.push(name(after)),
            (Some(before), Some(after)) if before != after => {
                changes.source_routes_changed.push(name(after));
            }
            _ => {}
        }
    }
}

fn compare_decap(old: &[DecapSpec], new: &[DecapSpec], changes: &mut Changes) {
    let index = |list: &[DecapSpec]| -> HashMap<IpAddr, bool> {
        list.iter().map(|own| (own.address, own.egress)).collect()
    };
    let (before, after) = (index(old), index(new));
    for own in old {
        if !after.contains_key(&own.address) {
            changes.decap_removed.push(|| own.address.to_string());
        }
    }
    for own in new {
        match before.get(&own.address) {
            None => changes.decap_added.push(|| own.address.to_string()),
            Some(egress) if *egress != own.egress => {
                changes.decap_changed.push(|| own.address.to_string());
            }
            Some(_) => {}
        }
    }
}

fn compare_health_checks(old: &[HealthCheckSpec], new: &[HealthCheckSpec], changes: &mut Changes) {
    let name = |check: &HealthCheckSpec| format!("mark {} real {}", check.mark, check.real);
    let index = |checks: &[HealthCheckSpec]| -> HashMap<u32, IpAddr> {
        checks
            .iter()
            .map(|check| (check.mark, check.real))
            .collect()
    };
    let (before, after) = (index(old), index(new));
    for check in old {
        if !after.contains_key(&check.mark) {
            changes.health_checks_removed.push(|| name(check));
        }
    }
    for check in new {
        match before.get(&check.mark) {
            None => changes.health_checks_added.push(|| name(check)),
            Some(real) if *real != check.real => changes.health_checks_changed.push(|| name(check)),
            Some(_) => {}
        }
    }
}

fn compare_server_ids(old: &ServerIds, new: &ServerIds, changes: &mut Changes) {
    let name =
        |server_id: &ServerIdSpec| format!("server id {} real {}", server_id.id, server_id.real);
    let index = |list: &ServerIds| -> HashMap<u32, ServerIdSpec> {
        list.iter().map(|one| (one.id, *one)).collect()
    };
    let (before, after) = (index(old), index(new));
    for one in old.iter() {
        if !after.contains_key(&one.id) {
            changes.server_ids_removed.push(|| name(one));
        }
    }
    for one in new.iter() {
        match before.get(&one.id) {
            None => changes.server_ids_added.push(|| name(one)),
            Some(old) if old != one => changes.server_ids_changed.push(|| name(one)),
            Some(_) => {}
        }
    }
}

fn compare_vip(old: &VipSpec, new: &VipSpec, changes: &mut Changes) {
    if old.hash != new.hash || old.flags != new.flags {
        changes.vips_changed.push(|| new.key.to_string());
    }
    let name = |real: &RealSpec| format!("{} real {}", new.key, real.address);
    let index = |vip: &VipSpec| -> HashMap<IpAddr, RealSpec> {
        let reals = vip.reals.iter();
        reals.map(|real| (real.address, real.clone())).collect()
    };
    let (before, after) = (index(old), index(new));
    for real in &old.reals {
        if !after.contains_key(&real.address) {
            changes.reals_removed.push(|| name(real));
        }
    }
    for real in &new.reals {
        match before.get(&real.address) {
            None => changes.reals_added.push(|| name(real)),
            Some(old) if old != real => changes.reals_changed.push(|| name(real)),
            Some(_) => {}
        }
    }
}

/// Keys that can change while packets flow, and whether they are the same on both sides.
pub(super) fn settings(old: &Config, new: &Config) -> [(&'static str, bool); 14] {
    let (a, b) = (&old.balancer, &new.balancer);
    [
        (
            "interface.next_hop_mac",
            old.interface.next_hop_mac == new.interface.next_hop_mac,
        ),
        ("balancer.hash", a.hash == b.hash),
        ("balancer.encapsulation", a.encapsulation == b.encapsulation),
        ("balancer.gue_port", a.gue_port == b.gue_port),
        ("balancer.source_v4", a.source_v4 == b.source_v4),
        ("balancer.source_v6", a.source_v6 == b.source_v6),
        ("balancer.max_frame", a.max_frame == b.max_frame),
        ("balancer.icmp_too_big", a.icmp_too_big == b.icmp_too_big),
        ("balancer.tcp_server_id", a.tcp_server_id == b.tcp_server_id),
        (
            "balancer.global_table_capacity",
            a.global_table_capacity == b.global_table_capacity,
        ),
        (
            "balancer.connection_rate_cap",
            a.connection_rate_cap == b.connection_rate_cap,
        ),
        (
            "balancer.keep_last_ring",
            a.keep_last_ring == b.keep_last_ring,
        ),
        (
            "health_check_path.interface",
            old.health_check_path.interface == new.health_check_path.interface,
        ),
        (
            "health_check_path.max_frame",
            old.health_check_path.max_frame == new.health_check_path.max_frame,
        ),
    ]
}

/// Refuses a configuration that changes what is fixed when the balancer starts.
pub(super) fn refuse_fixed(old: &Config, new: &Config) -> Result<(), AdminError> {
    let (a, b) = (&old.interface, &new.interface);
    // Left out is all of them.
    let queues = |config: &Config| match &config.interface.queues {
        Some(queues) => queues.clone(),
        None => Queues::All,
    };
    let fixed: [(&str, bool, String, String); 13] = [
        (
            "interface.name",
            a.name == b.name,
            show(a.name.as_ref()),
            show(b.name.as_ref()),
        ),
        (
            "interface.queues",
            queues(old) == queues(new),
            queues(old).to_string(),
            queues(new).to_string(),
        ),
        (
            "interface.mode",
            a.mode == b.mode,
            a.mode.to_string(),
            b.mode.to_string(),
        ),
        (
            "interface.xdp_mode",
            a.xdp_mode == b.xdp_mode,
            a.xdp_mode.to_string(),
            b.xdp_mode.to_string(),
        ),
        (
            "interface.frames",
            a.frames == b.frames,
            a.frames.to_string(),
            b.frames.to_string(),
        ),
        (
            "interface.cpus",
            a.cpus == b.cpus,
            show(a.cpus.as_ref()),
            show(b.cpus.as_ref()),
        ),
        (
            "interface.priority",
            a.priority == b.priority,
            a.priority.to_string(),
            b.priority.to_string(),
        ),
        (
            "interface.busy_poll",
            a.busy_poll == b.busy_poll,
            a.busy_poll.to_string(),
            b.busy_poll.to_string(),
        ),
        (
            "interface.spin_us",
            a.spin_us == b.spin_us,
            show(a.spin_us),
            show(b.spin_us),
        ),
        (
            "interface.huge_pages",
            a.huge_pages == b.huge_pages,
            a.huge_pages.to_string(),
            b.huge_pages.to_string(),
        ),
        (
            "balancer.flow_table_capacity",
            old.balancer.flow_table_capacity == new.balancer.flow_table_capacity,
            old.balancer.flow_table_capacity.to_string(),
            new.balancer.flow_table_capacity.to_string(),
        ),
        (
            "admin.socket",
            old.admin.socket == new.admin.socket,
            old.admin.socket.display().to_string(),
            new.admin.socket.display().to_string(),
        ),
        (
            "admin.mode",
            old.admin.mode == new.admin.mode,
            format!("{:04o}", old.admin.mode),
            format!("{:04o}", new.admin.mode),
        ),
    ];
    let changed = fixed.into_iter().filter(|(_, same, ..)| !same);
    let errors = changed.map(|(key, _, old, new)| {
        AdminError::new(
            key,
            format!("cannot change from {old} to {new} while katran-xsk runs"),
            "restart katran-xsk with the new value, or put the old one back",
        )
    });
    AdminError::all(errors).map_or(Ok(()), Err)
}

/// Refuses frames that do not fit the chunks with which the sockets were opened.
pub(super) fn refuse_longer_frames(chunks: Option<usize>, new: &Config) -> Result<(), AdminError> {
    let max_frame = new.balancer.max_frame;
    if chunk_size(max_frame).is_some_and(|needed| Some(needed) <= chunks) {
        return Ok(());
    }
    Err(AdminError::new(
        "balancer.max_frame",
        format!("{max_frame} does not fit the memory that the sockets were opened with"),
        "restart katran-xsk with the new value, or give a smaller one",
    ))
}

fn show(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "not set".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_queues_are_the_same_left_out_or_named() {
        let with = |queues: Option<&str>| {
            let mut config = Config::default();
            config.interface.queues = queues.map(|text| text.parse().unwrap());
            config
        };
        refuse_fixed(&with(None), &with(Some("all"))).unwrap();
        refuse_fixed(&with(Some("all")), &with(None)).unwrap();
        let error = refuse_fixed(&with(None), &with(Some("0-3"))).unwrap_err();
        assert_eq!(error.field, "interface.queues");
        assert!(error.problem.contains("from all to 0-3"), "{error}");
        assert!(error.others.is_empty(), "{error}");
    }

    #[test]
    fn every_fixed_key_is_named() {
        let mut new = Config::default();
        new.interface.frames = 128;
        new.balancer.flow_table_capacity = 5;
        new.admin.mode = 0o600;
        let error = refuse_fixed(&Config::default(), &new).unwrap_err();
        let others = error.others.iter().map(|other| other.field.as_str());
        let fields: Vec<&str> = [error.field.as_str()].into_iter().chain(others).collect();
        assert_eq!(
            fields,
            [
                "interface.frames",
                "balancer.flow_table_capacity",
                "admin.mode"
            ]
        );
    }

    #[test]
    fn a_summary_names_few_and_counts_many() {
        let mut changes = Changes::default();
        assert_eq!(changes.summary(), "nothing changed");
        changes.vips_added.push(|| "203.0.113.10:80/tcp".to_owned());
        for number in 0..200 {
            changes.reals_removed.push(|| number.to_string());
        }
        assert_eq!(
            changes.summary(),
            "vips added 203.0.113.10:80/tcp; reals removed 200"
        );
    }
}
