//! Carries commands out.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use dataplane::service::{DecapSpec, ServerIdSpec, VipFlags, VipKey, VipSpec};
use nix::unistd::Uid;
use serde_json::{Value, json};

use super::{
    analysis,
    command::{Command, Page},
    decap,
    error::AdminError,
    flows, help,
    protocol::VERSION,
    report::{
        Answer, ConfigReport, Dump, HealthCheckList, HealthCheckRow, RealList, RealRow,
        ServerIdList, ServerIdRow, Traffic, Version, VipList, VipRow,
    },
    source_routes, statistics,
};
use crate::{
    capture::Captures,
    config::{HealthCheckSpec, InterfaceConfig, flag_names},
    control::{Changes, Control, HealthCheckState, SharedControl, Worker, lock, reload},
};

/// Carries commands out on a [`Control`].
///
/// The control's lock is held for changes and for reading the configuration, never while a worker is
/// asked something.
#[derive(Clone)]
pub struct Engine {
    control: SharedControl,
    captures: Arc<Captures>,
    /// User who asks; `None` for this process itself.
    caller: Option<Uid>,
}

impl Engine {
    /// Commands for this control.
    pub fn new(control: SharedControl) -> Self {
        Self {
            control,
            captures: Arc::default(),
            caller: None,
        }
    }

    /// The same for a user of the admin socket.
    #[must_use]
    pub fn for_caller(&self, caller: Uid) -> Self {
        Self {
            caller: Some(caller),
            ..self.clone()
        }
    }

    /// Ends the capture that runs, if any, once what was captured is written. To be called when the
    /// workers have ended.
    pub fn end_capture(&self) {
        // There may never have been one.
        let _ = self.captures.stop();
    }

    /// The balancer writes with rights that a member of the socket's group may not have.
    fn refuse_file_of_others(&self) -> Result<(), AdminError> {
        match self.caller {
            Some(caller) if !caller.is_root() && caller != Uid::effective() => {
                Err(AdminError::new(
                    "file",
                    format!("user {caller} cannot have files written by the balancer"),
                    "start the capture as root",
                ))
            }
            _ => Ok(()),
        }
    }

    /// A change that was made: the log has it too, and whose it was.
    fn changed(&self, changes: Changes) -> Answer {
        let by = self.by();
        for line in changes.log_lines() {
            tracing::info!(by, generation = changes.generation, "{line}");
        }
        Answer::Changes(Box::new(changes))
    }

    /// Reads the file again. A failure is in the log as well: what is in force is not what the file says.
    fn reload(&self) -> Result<Answer, AdminError> {
        let changes = reload(&self.control).inspect_err(|error| {
            let by = self.by();
            // A line for each.
            for problem in error.to_string().lines() {
                tracing::error!(by, problem, "the configuration was not read again");
            }
        })?;
        Ok(self.changed(changes))
    }

    fn by(&self) -> String {
        match self.caller {
            Some(user) => format!("user {user}"),
            None => "katran-xsk".to_owned(),
        }
    }

    /// Carries one command out. Blocks: rings are built and workers are asked.
    ///
    /// # Errors
    ///
    /// Why it was not carried out; nothing was changed then.
    pub fn execute(&self, command: Command) -> Result<Answer, AdminError> {
        let control = || lock(&self.control);
        let view = || lock(&self.control).view();
        let nothing = VipFlags::empty();
        Ok(match command {
            Command::VipList { vip } => Answer::Vips(vip_list(&control(), vip)?),
            Command::VipAdd {
                vip,
                hash,
                flags,
                reals,
            } => self.changed(control().add_vip(vip, hash, flags, reals)?),
            Command::VipDel { vip } => self.changed(control().delete_vip(&vip)?),
            Command::VipSet { vip, hash, flags } => {
                self.changed(control().change_vip(&vip, hash, flags, nothing)?)
            }
            Command::VipUnset { vip, flags } => {
                self.changed(control().change_vip(&vip, None, nothing, flags)?)
            }
            Command::RealList { vip, page } => Answer::Reals(real_list(&control(), vip, page)?),
            Command::RealAdd { vip, reals } => self.changed(control().add_reals(&vip, reals)?),
            Command::RealDel { vip, reals } => self.changed(control().delete_reals(&vip, &reals)?),
            Command::RealWeight { vip, real, weight } => {
                self.changed(control().set_weight(&vip, &real, weight)?)
            }
            Command::RealDown { vip, reals, down } => {
                self.changed(control().set_down(&vip, &reals, down)?)
            }
            Command::RealLocal { real, local } => self.changed(control().set_local(&real, local)?),
            Command::DecapList => Answer::Decap(decap::list(&control())),
            Command::DecapAdd { address, egress } => {
                let own = DecapSpec { address, egress };
                self.changed(control().add_decap(own)?)
            }
            Command::DecapDel { addresses } => self.changed(control().delete_decap(&addresses)?),
            Command::SrcRouteList { within, real, page } => {
                let routes = control().config().source_routes.clone();
                Answer::SourceRoutes(source_routes::list(&routes, within, real, page))
            }
            Command::SrcRouteGet { client } => {
                let routes = control().config().source_routes.clone();
                Answer::SourceRoute(source_routes::get(&routes, client))
            }
            Command::SrcRouteAdd { real, prefixes } => {
                self.changed(control().add_source_routes(&prefixes, real)?)
            }
            Command::SrcRouteDel { prefixes } => {
                self.changed(control().delete_source_routes(&prefixes)?)
            }
            Command::SrcRouteClear => self.changed(control().clear_source_routes()?),
            Command::ShowWorkers => Answer::Workers(statistics::workers(&view())),
            Command::ShowStats { vip, worker } => {
                let xdp = control()
                    .xdp_counters()
                    .map_err(|error| xdp_unreadable(&error))?;
                let health_checks = health_check_state(&control())?.counters;
                let control = control();
                let vip = match vip {
                    Some(vip) => selected(&control, Some(vip))?.into_iter().next(),
                    None => None,
                };
                let view = control.view();
                Answer::Stats(statistics::stats(&view, vip, worker, xdp, health_checks)?)
            }
            Command::ShowDrops => Answer::Drops(statistics::drops(&view())),
            Command::ShowConfig => Answer::Config(config_report(&control())),
            Command::ShowMemory => Answer::Memory(statistics::memory(&view())),
            Command::FlowList { filter, limit } => {
                Answer::Flows(flows::list(&view(), &filter, limit)?)
            }
            Command::FlowGet(id) => Answer::Flows(flows::get(&view(), &id)?),
            Command::FlowDel(id) => Answer::Removed(flows::delete(&view(), &id)?),
            Command::FlowPurge { filter } => Answer::Removed(flows::purge(&view(), &filter)?),
            Command::FlowAnalyze { vip, worker } => {
                Answer::Analysis(analysis::analyze(&view(), vip.as_ref(), worker)?)
            }
            Command::FlowCount { filter } => Answer::Counts(flows::count(&view(), &filter)?),
            Command::Explain { id, asked, tunnel } => {
                Answer::Explained(flows::explain(&view(), &id, asked, tunnel)?)
            }
            Command::CaptureStart(request) => {
                self.refuse_file_of_others()?;
                let (view, interface) = {
                    let control = control();
                    (control.view(), control.origin().interface.clone())
                };
                Answer::Capture(self.captures.start(request, &view, &interface)?)
            }
            Command::CaptureStop => Answer::Capture(self.captures.stop()?),
            Command::CaptureStatus => Answer::Capture(self.captures.status()),
            Command::SidList { real, page } => {
                Answer::ServerIds(server_id_list(&control(), real, page))
            }
            Command::SidAdd { ids, real } => self.changed(control().add_server_ids(&ids, real)?),
            Command::SidDel { ids } => self.changed(control().delete_server_ids(&ids)?),
            Command::SidValid { which, valid } => {
                self.changed(control().set_server_ids_valid(&which, valid)?)
            }
            Command::HcList { page } => Answer::HealthChecks(health_check_list(&control(), page)?),
            Command::HcAdd(check) => self.changed(control().set_health_check(check)?),
            Command::HcDel { marks } => self.changed(control().delete_health_checks(&marks)?),
            Command::Set { key, value } => {
                self.changed(control().change_setting(&key, value.as_deref())?)
            }
            Command::Reload => self.reload()?,
            Command::Dump => Answer::Dump(Dump {
                toml: control().dump(),
            }),
            Command::Help { command } => Answer::Help(help::help(command.as_deref())?),
            Command::Version => Answer::Version(Version {
                katran_xsk: env!("CARGO_PKG_VERSION").to_owned(),
                protocol: VERSION,
            }),
        })
    }
}

fn xdp_unreadable(error: &anyhow::Error) -> AdminError {
    AdminError::new(
        "xdp",
        format!("the XDP program's counters cannot be read: {error:#}"),
        "look at the balancer's log",
    )
}

/// VIPs of the configuration: all, or the one that is wanted.
fn selected(control: &Control, wanted: Option<VipKey>) -> Result<Vec<&VipSpec>, AdminError> {
    let vips = &control.config().vips;
    match wanted {
        None => Ok(vips.iter().collect()),
        Some(key) => match vips.iter().find(|vip| vip.key == key) {
            Some(vip) => Ok(vec![vip]),
            None => Err(AdminError::no_such_vip(&key)),
        },
    }
}

fn vip_list(control: &Control, wanted: Option<VipKey>) -> Result<VipList, AdminError> {
    let numbers: HashMap<VipKey, u16> = control
        .view()
        .table
        .vips()
        .map(|vip| (vip.key, vip.number))
        .collect();
    let row = |vip: &VipSpec| VipRow {
        vip: vip.key.to_string(),
        number: numbers.get(&vip.key).copied(),
        hash: vip.hash.to_string(),
        flags: flag_names(vip.flags).map(str::to_owned).collect(),
        reals: vip.reals.len(),
        weight: vip.reals.iter().map(|real| u64::from(real.weight)).sum(),
    };
    let vips = selected(control, wanted)?.into_iter().map(row).collect();
    Ok(VipList { vips })
}

fn real_list(
    control: &Control,
    wanted: Option<VipKey>,
    page: Page,
) -> Result<RealList, AdminError> {
    let table = control.view().table;
    let indices: HashMap<IpAddr, u16> = table
        .reals()
        .map(|real| (real.address, real.id.index() as u16))
        .collect();
    let vips = selected(control, wanted)?;
    let (mut reals, mut place) = (Vec::new(), 0);
    for vip in &vips {
        let rows = place..place + vip.reals.len();
        place = rows.end;
        if rows.end <= page.offset || reals.len() == page.limit {
            continue;
        }
        let ring = table.find(&vip.key).map(|vip| &vip.ring);
        let shares: HashMap<u16, u32> = ring
            .map(|ring| ring.shares().into_iter().collect())
            .unwrap_or_default();
        let slots = ring.map_or(1, |ring| ring.len().max(1));
        let skipped = page.offset.saturating_sub(rows.start);
        for real in vip
            .reals
            .iter()
            .skip(skipped)
            .take(page.limit - reals.len())
        {
            let index = indices.get(&real.address).copied();
            let share = index
                .and_then(|index| shares.get(&index))
                .copied()
                .unwrap_or(0);
            reals.push(RealRow {
                vip: vip.key.to_string(),
                real: real.address,
                weight: real.weight,
                share: f64::from(share) * 100.0 / slots as f64,
                local: real.local,
                down: real.down,
                index,
            });
        }
    }
    Ok(RealList {
        total: place,
        offset: page.offset,
        reals,
    })
}

fn server_id_list(control: &Control, real: Option<IpAddr>, page: Page) -> ServerIdList {
    let table = control.view().table;
    let indices: HashMap<IpAddr, u16> = table
        .reals()
        .map(|real| (real.address, real.id.index() as u16))
        .collect();
    let mut wanted: Vec<&ServerIdSpec> = control
        .config()
        .server_ids
        .iter()
        .filter(|server_id| real.is_none_or(|real| real == server_id.real))
        .collect();
    wanted.sort_unstable_by_key(|server_id| server_id.id);
    let row = |server_id: &&ServerIdSpec| ServerIdRow {
        id: server_id.id,
        real: server_id.real,
        valid: server_id.valid,
        index: indices.get(&server_id.real).copied(),
    };
    let rows = wanted.iter().skip(page.offset).take(page.limit).map(row);
    ServerIdList {
        total: wanted.len(),
        offset: page.offset,
        server_ids: rows.collect(),
    }
}

fn health_check_list(control: &Control, page: Page) -> Result<HealthCheckList, AdminError> {
    let state = health_check_state(control)?;
    let mut checks = control.config().health_checks.clone();
    checks.sort_unstable_by_key(|check| check.mark);
    let row = |check: &HealthCheckSpec| {
        let (packets, bytes) = state.traffic.get(&check.mark).copied().unwrap_or_default();
        HealthCheckRow {
            mark: check.mark,
            real: check.real,
            traffic: Traffic { packets, bytes },
        }
    };
    let rows = checks.iter().skip(page.offset).take(page.limit).map(row);
    let (interface, hook) = state.attached.unzip();
    Ok(HealthCheckList {
        interface,
        hook,
        counters: state.counters,
        total: checks.len(),
        offset: page.offset,
        health_checks: rows.collect(),
    })
}

fn health_check_state(control: &Control) -> Result<HealthCheckState, AdminError> {
    control.health_check_state().map_err(|error| {
        AdminError::new(
            "health_check",
            format!("the counters of health checks cannot be read: {error:#}"),
            "look at the balancer's log",
        )
    })
}

/// `[interface]` as far as workers depend on it: nothing in the kernel.
fn worker_settings(interface: &InterfaceConfig, workers: &[Worker]) -> BTreeMap<String, Value> {
    if workers.iter().any(Worker::shares_flows) {
        return BTreeMap::new();
    }
    let cpus = interface.cpus.as_ref().map(ToString::to_string);
    [
        ("mode", json!(interface.mode.name())),
        ("frames", json!(interface.frames)),
        ("cpus", json!(cpus)),
        ("priority", json!(interface.priority.name())),
        ("busy_poll", json!(interface.busy_poll)),
        ("spin_us", json!(interface.spin_us)),
        ("huge_pages", json!(interface.huge_pages)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn config_report(control: &Control) -> ConfigReport {
    let (config, origin, view) = (control.config(), control.origin(), control.view());
    let balancer = &config.balancer;
    let settings = [
        ("hash", json!(balancer.hash.name())),
        ("encapsulation", json!(balancer.encapsulation.name())),
        ("gue_port", json!(balancer.gue_port)),
        ("source_v4", json!(balancer.source_v4)),
        ("source_v6", json!(balancer.source_v6)),
        ("flow_table_capacity", json!(balancer.flow_table_capacity)),
        ("max_frame", json!(balancer.max_frame)),
        ("icmp_too_big", json!(balancer.icmp_too_big)),
        ("tcp_server_id", json!(balancer.tcp_server_id)),
        (
            "global_table_capacity",
            json!(balancer.global_table_capacity),
        ),
        ("connection_rate_cap", json!(balancer.connection_rate_cap)),
        ("keep_last_ring", json!(balancer.keep_last_ring)),
    ];
    let reals: HashSet<_> = config
        .vips
        .iter()
        .flat_map(|vip| &vip.reals)
        .map(|real| real.address)
        .collect();
    let (mtu, link, followed) = (control.mtu(), control.link(), control.followed());
    ConfigReport {
        config: origin
            .config_path
            .as_ref()
            .map(|path| path.display().to_string()),
        interface: origin.interface.clone(),
        datapath: origin.datapath.clone(),
        xdp_mode: origin.xdp_mode.clone(),
        xdp_fallback: origin.xdp_fallback.clone(),
        mtu: mtu.as_ref().map(|(mtu, _)| *mtu),
        mtu_warning: mtu.and_then(|(_, fit)| fit.unwrap_or_else(|error| Some(error.to_string()))),
        link: link.as_ref().map(|link| link.state),
        queues: view.workers.iter().map(Worker::queue).collect(),
        queues_without_worker: link.map(|link| link.without_worker).unwrap_or_default(),
        next_hop_mac: control.next_hop().map(|mac| mac.to_string()),
        next_hop_configured: config.interface.next_hop_mac.is_some(),
        next_hop_state: control.next_hop_state(),
        next_hop_lost_ms: followed
            .lost
            .map(|since| statistics::millis(since.elapsed())),
        gateway: followed.gateway,
        workers: worker_settings(&config.interface, &view.workers),
        balancer: settings
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        vips: config.vips.len(),
        reals: reals.len(),
        generation: view.table.generation(),
        uptime_ms: statistics::millis(view.uptime),
    }
}
