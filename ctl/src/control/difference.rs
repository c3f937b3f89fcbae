//! What a change changes, and what only a restart can.

use std::{collections::HashMap, net::IpAddr};

use dataplane::{
    service::{DecapSpec, RealSpec, ServerIdSpec, VipKey, VipSpec},
    xsk::chunk_size,
};
use serde::{Deserialize, Serialize};

use crate::{
    admin::AdminError,
    config::{Config, HealthCheckSpec},
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
    /// What the operator should look at because of the change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Changes {
    /// What was changed, kind by kind: a verb and a noun for each. The names of settings, VIPs and
    /// decap destinations leave the noun out.
    pub fn kinds(&self) -> [(&'static str, &'static str, &Names); 16] {
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
        ]
    }

    /// Everything is as it was.
    pub fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, _, names)| names.is_empty())
    }
}

/// The difference between two configurations.
pub(super) fn compare(old: &Config, new: &Config, generation: u32) -> Changes {
    let mut changes = Changes {
        generation,
        ..Changes::default()
    };
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
    changes
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

fn compare_server_ids(old: &[ServerIdSpec], new: &[ServerIdSpec], changes: &mut Changes) {
    let name =
        |server_id: &ServerIdSpec| format!("server id {} real {}", server_id.id, server_id.real);
    let index = |list: &[ServerIdSpec]| -> HashMap<u32, ServerIdSpec> {
        list.iter().map(|one| (one.id, *one)).collect()
    };
    let (before, after) = (index(old), index(new));
    for one in old {
        if !after.contains_key(&one.id) {
            changes.server_ids_removed.push(|| name(one));
        }
    }
    for one in new {
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
fn settings(old: &Config, new: &Config) -> [(&'static str, bool); 15] {
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
        ("source_route", old.source_routes == new.source_routes),
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
    let queues = |config: &Config| show(config.interface.queues.as_ref());
    let fixed: [(&str, bool, String, String); 13] = [
        (
            "interface.name",
            a.name == b.name,
            show(a.name.as_ref()),
            show(b.name.as_ref()),
        ),
        (
            "interface.queues",
            a.queues == b.queues,
            queues(old),
            queues(new),
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
            show(a.busy_poll),
            show(b.busy_poll),
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
    match fixed.into_iter().find(|(_, same, ..)| !same) {
        None => Ok(()),
        Some((key, _, old, new)) => Err(AdminError::new(
            key,
            format!("cannot change from {old} to {new} while katran-xsk runs"),
            "restart katran-xsk with the new value, or put the old one back",
        )),
    }
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
