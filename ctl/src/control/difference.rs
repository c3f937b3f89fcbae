//! How two configurations differ, and what only a restart can change.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    hash::Hash,
};

use dataplane::{
    service::{RealSpec, ServerIdSpec, SourceRouteSpec, SourceRoutes, VipKey, VipSpec},
    xsk::chunk_size,
};
use serde_json::{Value, json};

use super::changes::{Changes, Described, Names};
use crate::{
    admin::AdminError,
    config::{Config, Queues, flag_names},
};

/// The difference between two configurations, whatever generation it has.
pub(super) fn compare(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    for ((key, before), (_, after)) in settings(old).into_iter().zip(settings(new)) {
        if before != after {
            let name = || key.to_owned();
            changes
                .settings
                .push_changed(|| ((name(), vec![("", before)]), (name(), vec![("", after)])));
        }
    }
    compare_vips(&old.vips, &new.vips, &mut changes);
    compare_list(
        &old.decap,
        &new.decap,
        |own| own.address,
        |own| (own.address.to_string(), vec![("egress", json!(own.egress))]),
        [
            &mut changes.decap_added,
            &mut changes.decap_removed,
            &mut changes.decap_changed,
        ],
    );
    compare_list(
        &old.health_checks,
        &new.health_checks,
        |check| check.mark,
        |check| {
            let name = format!("mark {}", check.mark);
            (name, vec![("real", json!(check.real))])
        },
        [
            &mut changes.health_checks_added,
            &mut changes.health_checks_removed,
            &mut changes.health_checks_changed,
        ],
    );
    if old.server_ids != new.server_ids {
        compare_list(
            old.server_ids.iter(),
            new.server_ids.iter(),
            |server_id| server_id.id,
            |server_id| {
                let ServerIdSpec { id, real, valid } = server_id;
                let values = vec![("real", json!(real)), ("valid", json!(valid))];
                (format!("server id {id}"), values)
            },
            [
                &mut changes.server_ids_added,
                &mut changes.server_ids_removed,
                &mut changes.server_ids_changed,
            ],
        );
    }
    if old.source_routes != new.source_routes {
        compare_source_routes(&old.source_routes, &new.source_routes, &mut changes);
    }
    changes
}

/// What is new, gone and different in a list, in the order of the lists.
fn compare_list<'a, T: PartialEq + 'a, K: Eq + Hash>(
    old: impl IntoIterator<Item = &'a T>,
    new: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&T) -> K,
    describe: impl Fn(&T) -> Described,
    [added, removed, changed]: [&mut Names; 3],
) {
    let (old, new): (Vec<&T>, Vec<&T>) = (old.into_iter().collect(), new.into_iter().collect());
    if old == new {
        return;
    }
    let before: HashMap<K, &T> = old.iter().map(|one| (key(one), *one)).collect();
    let after: HashSet<K> = new.iter().map(|one| key(one)).collect();
    for one in old {
        if !after.contains(&key(one)) {
            removed.push_removed(|| describe(one));
        }
    }
    for one in new {
        match before.get(&key(one)) {
            None => added.push_added(|| describe(one)),
            Some(old) if *old != one => changed.push_changed(|| (describe(old), describe(one))),
            Some(_) => {}
        }
    }
}

/// Both lists are in the same order, so one walk along both will do.
fn compare_source_routes(old: &SourceRoutes, new: &SourceRoutes, changes: &mut Changes) {
    let describe = |route: SourceRouteSpec| {
        let SourceRouteSpec {
            prefix,
            prefix_len,
            real,
        } = route;
        let name = format!("source route {prefix}/{prefix_len}");
        (name, vec![("real", json!(real))])
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
            (Some(before), None) => {
                changes
                    .source_routes_removed
                    .push_removed(|| describe(before));
            }
            (None, Some(after)) => changes.source_routes_added.push_added(|| describe(after)),
            (Some(before), Some(after)) if before != after => changes
                .source_routes_changed
                .push_changed(|| (describe(before), describe(after))),
            _ => {}
        }
    }
}

fn compare_vips(old: &[VipSpec], new: &[VipSpec], changes: &mut Changes) {
    let own = |vip: &VipSpec| -> Described {
        let values = vec![
            ("hash", json!(vip.hash.name())),
            ("flags", json!(flag_names(vip.flags).collect::<Vec<_>>())),
        ];
        (vip.key.to_string(), values)
    };
    let whole = |vip: &VipSpec| -> Described {
        let (name, mut values) = own(vip);
        values.push(("reals", json!(vip.reals.len())));
        (name, values)
    };
    let before: HashMap<VipKey, &VipSpec> = old.iter().map(|vip| (vip.key, vip)).collect();
    let after: HashSet<VipKey> = new.iter().map(|vip| vip.key).collect();
    for vip in old {
        if !after.contains(&vip.key) {
            changes.vips_removed.push_removed(|| whole(vip));
        }
    }
    for vip in new {
        let Some(old) = before.get(&vip.key) else {
            changes.vips_added.push_added(|| whole(vip));
            continue;
        };
        if old.hash != vip.hash || old.flags != vip.flags {
            changes.vips_changed.push_changed(|| (own(old), own(vip)));
        }
        let name = |real: &RealSpec| format!("{} real {}", vip.key, real.address);
        compare_list(
            &old.reals,
            &vip.reals,
            |real| real.address,
            |real| {
                let values = vec![
                    ("weight", json!(real.weight)),
                    ("local", json!(real.local)),
                    ("down", json!(real.down)),
                ];
                (name(real), values)
            },
            [
                &mut changes.reals_added,
                &mut changes.reals_removed,
                &mut changes.reals_changed,
            ],
        );
    }
}

/// Keys that can change while packets flow, with their values.
pub(super) fn settings(config: &Config) -> [(&'static str, Value); 14] {
    let mac = config.interface.next_hop_mac.map(|mac| mac.to_string());
    let own = &config.balancer;
    let probes = &config.health_check_path;
    [
        ("interface.next_hop_mac", json!(mac)),
        ("balancer.hash", json!(own.hash.name())),
        ("balancer.encapsulation", json!(own.encapsulation.name())),
        ("balancer.gue_port", json!(own.gue_port)),
        ("balancer.source_v4", json!(own.source_v4)),
        ("balancer.source_v6", json!(own.source_v6)),
        ("balancer.max_frame", json!(own.max_frame)),
        ("balancer.icmp_too_big", json!(own.icmp_too_big)),
        ("balancer.tcp_server_id", json!(own.tcp_server_id)),
        (
            "balancer.global_table_capacity",
            json!(own.global_table_capacity),
        ),
        (
            "balancer.connection_rate_cap",
            json!(own.connection_rate_cap),
        ),
        ("balancer.keep_last_ring", json!(own.keep_last_ring)),
        ("health_check_path.interface", json!(probes.interface)),
        ("health_check_path.max_frame", json!(probes.max_frame)),
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
}
