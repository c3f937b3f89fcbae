//! The desired state of a running balancer, and the transaction that changes it.
//!
//! Every change takes the same way, whoever asks for it (admin socket, SIGHUP, the follower of the
//! next hop): build the whole new [`Config`], hold it to the checks a file has to pass, compile it
//! into a service table, publish the table to the workers, bring the XDP program's maps up to date.
//! Whatever fails on that way leaves the old configuration running and everything where it was.
//!
//! A [`Control`] never waits for workers. It is shared behind a mutex ([`SharedControl`]); the lock is
//! held while a change is compiled, so a reload that builds hundreds of rings delays other changes
//! and statistics by that time, but no packet. It is not held while a file is read ([`reload`]).

mod changes;
mod decap;
mod difference;
mod health_check;
mod kernel;
mod link;
mod next_hop;
mod server_ids;
pub(crate) mod settings;
mod sink;
mod worker;

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dataplane::{
    counters::{self, ListRow, REAL_ROWS, VIP_ROWS},
    service::{
        HashFunction, MacAddress, Publisher, RealSpec, ServerIds, ServiceControl, ServiceSpec,
        ServiceTable, SourceRouteSpec, SourceRoutes, VipFlags, VipKey, VipSpec,
    },
    xsk::chunk_size,
};

use crate::{
    admin::AdminError,
    config::{Config, ConfigError, HealthCheckSpec, Problem, describe_source_route},
    memory, mtu, warnings,
};

pub use crate::mtu::Fit;
pub use changes::{Changes, Edit, Names, Verb};
pub use health_check::{HealthCheckPath, HealthCheckSink, HealthCheckState};
pub use kernel::{KernelCpu, KernelDatapath};
pub use link::{Link, LinkState, SharedLink};
pub use next_hop::{Followed, NextHopState};
pub use server_ids::WhichServerIds;
pub use sink::{NoProgram, ServiceSink, tunnels, vip_entries};
pub use worker::{NoAnswer, Socket, Worker};

/// A [`Control`] that several threads use.
pub type SharedControl = Arc<Mutex<Control>>;

/// Takes the lock. A thread that panicked while it held it cannot have left half a change: the state
/// is replaced as the last step of a change.
pub fn lock(control: &SharedControl) -> MutexGuard<'_, Control> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the file again and brings the services to what it says. A large file takes seconds to read;
/// others have the control meanwhile.
///
/// # Errors
///
/// No file to read, a file that fails its checks, or one that changes what is fixed at the start. The old
/// configuration stays in force.
pub fn reload(control: &SharedControl) -> Result<Changes, AdminError> {
    let source = lock(control).source()?;
    // Until the change is made: of two that read the file, the later one's is to stay.
    let source = source.lock().unwrap_or_else(PoisonError::into_inner);
    let config = (source.read)().map_err(|error| from_config_error(&error))?;
    let changes = lock(control).replace(config)?;
    (source.in_force)();
    Ok(changes)
}

/// What [`reload`] needs of its surroundings.
pub struct ConfigSource {
    /// Reads the file, with what the command line overrides.
    pub read: Box<dyn Fn() -> Result<Config, ConfigError> + Send>,
    /// Told when what was read is in force; not earlier, or whoever looks at the configuration then sees the
    /// old one.
    pub in_force: Box<dyn Fn() + Send>,
}

/// Reads the interface's MTU, which may change while the balancer runs.
pub type MtuSource = Box<dyn Fn() -> io::Result<u32> + Send>;

/// Reads the addresses of this host, which may change while the balancer runs.
pub type AddressSource = Box<dyn Fn() -> io::Result<HashSet<IpAddr>> + Send>;

/// What a [`Control`] is made of.
pub struct ControlParts {
    /// The configuration to start with: as the file and the command line say it, `all` queues not
    /// resolved, so that a later reload compares like with like.
    pub config: Config,
    /// How it was started, for `show config`.
    pub origin: Origin,
    /// Reads the configuration again; `None` when there is no file.
    pub source: Option<ConfigSource>,
    /// Next hop that was resolved; used while the configuration names none.
    pub next_hop: Option<MacAddress>,
    /// The numbering whose table `publisher` was made with.
    pub services: ServiceControl,
    /// The workers' source of tables.
    pub publisher: Arc<Publisher>,
    /// The XDP program.
    pub sink: Box<dyn ServiceSink>,
    /// The tc program of the health-check path.
    pub health_checks: Box<dyn HealthCheckSink>,
    /// Reads the interface's MTU, to which changes are held; the caller has checked what it starts
    /// with. `None` when there is no interface.
    pub mtu: Option<MtuSource>,
    /// The interface's link and queues, for `show config`; `None` when there is no interface.
    pub link: Option<SharedLink>,
    /// Reads the addresses of this host, of which changes warn if they are VIPs. `None`: there are
    /// none.
    pub own_addresses: Option<AddressSource>,
    /// The workers, in the order of their queues.
    pub workers: Vec<Worker>,
}

/// Facts about the start that never change.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The configuration file.
    pub config_path: Option<PathBuf>,
    /// The interface.
    pub interface: String,
    /// Where packets are decided: `xsk` or `kernel`.
    pub datapath: String,
    /// Where the XDP program runs: `native` or `generic`.
    pub xdp_mode: String,
    /// Why it does not run in the driver although that was asked for or tried.
    pub xdp_fallback: Option<String>,
}

/// What to say of an MTU that became too small.
fn unfit(error: &AdminError) -> String {
    format!("{error}; until then katran-xsk would not start again")
}

/// Desired state and how it reaches the packets.
pub struct Control {
    config: Config,
    origin: Origin,
    source: Option<Arc<Mutex<ConfigSource>>>,
    /// Next hop that was resolved; used while the configuration names none.
    next_hop: Option<MacAddress>,
    followed: Followed,
    services: ServiceControl,
    publisher: Arc<Publisher>,
    sink: Box<dyn ServiceSink>,
    health_checks: Box<dyn HealthCheckSink>,
    mtu: Option<MtuSource>,
    /// The MTU that was looked at last, and what it means for the running configuration.
    mtu_told: Option<(u32, Fit)>,
    link: Option<SharedLink>,
    own_addresses: Option<AddressSource>,
    workers: Arc<[Worker]>,
    baselines: Arc<Baselines>,
    /// Frames that the sockets' memory was made for.
    chunk_size: Option<usize>,
    /// The XDP program's maps have what is in force; not after a change and its withdrawal both failed.
    maps_follow: bool,
    /// Probes have the next hop in use; not after the health-check path did not take it.
    probes_follow: bool,
    /// The configuration that it starts with is in force.
    is_running: bool,
    started: Instant,
}

/// What answering a question about the running balancer takes, detached from the lock.
#[derive(Clone)]
pub struct View {
    /// The newest table.
    pub table: Arc<ServiceTable>,
    /// The workers.
    pub workers: Arc<[Worker]>,
    /// Counter values to start from.
    pub baselines: Arc<Baselines>,
    /// How long the balancer has been running.
    pub uptime: Duration,
}

/// Values that counters had when their number was given to the VIP or real that has it now.
///
/// Workers count by number and numbers are used again, so a new VIP would otherwise start with what
/// its predecessor had counted.
#[derive(Clone, Debug, Default)]
pub struct Baselines {
    /// By VIP number, then by worker, then by row of [`VIP_ROWS`]; empty for a number that was never
    /// used before.
    vips: Vec<Vec<Vec<u64>>>,
    /// By real index, then by worker, then by row of [`REAL_ROWS`].
    reals: Vec<Vec<Vec<u64>>>,
}

impl Baselines {
    /// Where the VIP's counters of one worker (by position) started.
    pub fn vip(&self, number: u16, worker: usize) -> &[u64] {
        Self::get(&self.vips, usize::from(number), worker)
    }

    /// Where the real's counters of one worker (by position) started.
    pub fn real(&self, index: usize, worker: usize) -> &[u64] {
        Self::get(&self.reals, index, worker)
    }

    fn get(list: &[Vec<Vec<u64>>], number: usize, worker: usize) -> &[u64] {
        list.get(number)
            .and_then(|workers| workers.get(worker))
            .map_or(&[], Vec::as_slice)
    }

    fn note(list: &mut Vec<Vec<Vec<u64>>>, number: usize, rows: &[ListRow], workers: &[Worker]) {
        if list.len() <= number {
            list.resize(number + 1, Vec::new());
        }
        let read = |worker: &Worker| counters::read_list(rows, worker.counters(), number);
        list[number] = workers.iter().map(read).collect();
    }

    /// Notes the counters of every number that `new` gives to somebody else than `old` did.
    fn follow(&mut self, old: &ServiceTable, new: &ServiceTable, workers: &[Worker]) {
        for vip in new.vips() {
            let number = usize::from(vip.number);
            let same = old
                .vip(vip.number)
                .is_some_and(|before| before.generation == vip.generation && before.key == vip.key);
            if !same {
                Self::note(&mut self.vips, number, VIP_ROWS, workers);
            }
        }
        for real in new.reals() {
            let index = real.id.index();
            if old.real(index).is_none_or(|before| before.id != real.id) {
                Self::note(&mut self.reals, index, REAL_ROWS, workers);
            }
        }
    }
}

impl Control {
    /// Puts the configuration into force.
    ///
    /// # Errors
    ///
    /// A configuration that fails its checks, or maps that cannot be written.
    pub fn new(parts: ControlParts) -> Result<Self, AdminError> {
        let config = parts.config;
        let mut control = Self {
            config: Config {
                vips: Vec::new(),
                server_ids: ServerIds::default(),
                source_routes: SourceRoutes::default(),
                decap: Vec::new(),
                health_checks: Vec::new(),
                ..config.clone()
            },
            origin: parts.origin,
            source: parts.source.map(|source| Arc::new(Mutex::new(source))),
            next_hop: parts.next_hop,
            followed: Followed::default(),
            services: parts.services,
            publisher: parts.publisher,
            sink: parts.sink,
            health_checks: parts.health_checks,
            mtu: None,
            mtu_told: None,
            link: parts.link,
            own_addresses: parts.own_addresses,
            workers: parts.workers.into(),
            baselines: Arc::default(),
            chunk_size: chunk_size(config.balancer.max_frame),
            maps_follow: true,
            probes_follow: true,
            is_running: false,
            started: Instant::now(),
        };
        control.commit(config)?;
        control.mtu = parts.mtu;
        control.is_running = true;
        control.mtu_told = control.mtu();
        Ok(control)
    }

    /// The running configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Facts about the start.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The next hop in use: the configured one, else the resolved one.
    pub fn next_hop(&self) -> Option<MacAddress> {
        self.config.interface.next_hop_mac.or(self.next_hop)
    }

    /// How the next hop in use came to be it.
    pub fn next_hop_state(&self) -> NextHopState {
        match (self.config.interface.next_hop_mac, self.next_hop) {
            (Some(_), _) => NextHopState::Configured,
            (None, None) => NextHopState::Unknown,
            (None, Some(_)) if self.followed.lost.is_some() => NextHopState::Lost,
            (None, Some(_)) => NextHopState::Resolved,
        }
    }

    /// The gateway whose address is followed; nothing while the configuration names the next hop.
    pub fn followed(&self) -> Followed {
        match self.config.interface.next_hop_mac {
            Some(_) => Followed::default(),
            None => self.followed,
        }
    }

    /// What is seen of the gateway now.
    pub fn set_followed(&mut self, followed: Followed) {
        self.followed = followed;
    }

    /// Counters of the XDP program.
    pub fn xdp_counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        self.sink.counters()
    }

    /// What the health-check path is doing.
    pub fn health_check_state(&self) -> anyhow::Result<HealthCheckState> {
        self.health_checks.state()
    }

    /// What questions about the running balancer need.
    pub fn view(&self) -> View {
        self.refresh(&self.services.table());
        View {
            table: self.services.table(),
            workers: Arc::clone(&self.workers),
            baselines: Arc::clone(&self.baselines),
            uptime: self.started.elapsed(),
        }
    }

    /// The running configuration as TOML that `run` accepts.
    pub fn dump(&self) -> String {
        self.config.to_toml()
    }

    /// Takes a configuration that was read from the file.
    ///
    /// # Errors
    ///
    /// It changes what is fixed at the start. The old configuration stays in force.
    fn replace(&mut self, config: Config) -> Result<Changes, AdminError> {
        difference::refuse_fixed(&self.config, &config)?;
        difference::refuse_longer_frames(self.chunk_size, &config)?;
        self.commit(config)
    }

    fn source(&self) -> Result<Arc<Mutex<ConfigSource>>, AdminError> {
        self.source.clone().ok_or_else(|| {
            AdminError::new(
                "config",
                "there is no file to read: katran-xsk was started without --config",
                "restart with --config FILE, or change VIPs with the commands of this socket",
            )
        })
    }

    /// Gives a setting another value, by its key in the file; `None` is its default.
    ///
    /// # Errors
    ///
    /// No such setting, one that is fixed at the start, or a value that does not fit.
    pub fn change_setting(
        &mut self,
        key: &str,
        value: Option<&str>,
    ) -> Result<Changes, AdminError> {
        let config = settings::with(&self.config, key, value)?;
        difference::refuse_longer_frames(self.chunk_size, &config)?;
        self.commit(config)
    }

    /// Sets the next hop that was resolved; `None` while it is not known. A next hop in the
    /// configuration wins.
    pub fn set_next_hop(&mut self, next_hop: Option<MacAddress>) -> Result<(), AdminError> {
        let (before, resolved) = (self.next_hop(), self.next_hop);
        self.next_hop = next_hop;
        if self.next_hop() == before {
            return self.lead_probes();
        }
        let mut services = self.services.clone();
        match services.apply(&self.spec(&self.config)) {
            Ok(table) => {
                self.publish(Arc::clone(&table));
                if self.sink.holds_next_hop()
                    && let Err(error) = self.sink.apply(&table)
                {
                    self.next_hop = resolved;
                    return Err(self.withdraw(services, &error));
                }
                self.services = services;
                // Packets take the new next hop also where probes cannot.
                self.probes_follow = false;
                self.lead_probes()
            }
            Err(error) => {
                // Or the next try would find nothing to change.
                self.next_hop = resolved;
                Err(error.into())
            }
        }
    }

    /// Gives the next hop in use to the probes if they do not have it.
    fn lead_probes(&mut self) -> Result<(), AdminError> {
        if self.probes_follow {
            return Ok(());
        }
        let path = HealthCheckPath::new(&self.config, self.next_hop());
        let applied = self.health_checks.apply(&path);
        applied.map_err(|error| health_check_error(&error))?;
        self.probes_follow = true;
        Ok(())
    }

    /// Adds a VIP; `hash` left out means the configured default.
    pub fn add_vip(
        &mut self,
        key: VipKey,
        hash: Option<HashFunction>,
        flags: VipFlags,
        reals: Vec<RealSpec>,
    ) -> Result<Changes, AdminError> {
        if self.config.vips.iter().any(|vip| vip.key == key) {
            return Err(AdminError::new(
                "vip",
                format!("{key} exists already"),
                "use `vip set`, `vip unset` and `real add` to change it",
            ));
        }
        let mut config = self.config.clone();
        config.vips.push(VipSpec {
            key,
            hash: hash.unwrap_or(config.balancer.hash),
            flags,
            reals,
        });
        self.commit(config)
    }

    /// Removes a VIP with its reals.
    pub fn delete_vip(&mut self, key: &VipKey) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        let index = self.position(key)?;
        config.vips.remove(index);
        self.commit(config)
    }

    /// Changes a VIP's hash function and sets and clears flags.
    pub fn change_vip(
        &mut self,
        key: &VipKey,
        hash: Option<HashFunction>,
        set: VipFlags,
        clear: VipFlags,
    ) -> Result<Changes, AdminError> {
        self.edit_vip(key, |vip| {
            vip.hash = hash.unwrap_or(vip.hash);
            vip.flags = (vip.flags | set) - clear;
            Ok(())
        })
    }

    /// Adds reals to a VIP.
    pub fn add_reals(&mut self, key: &VipKey, reals: Vec<RealSpec>) -> Result<Changes, AdminError> {
        self.edit_vip(key, |vip| {
            for real in reals {
                if vip.reals.iter().any(|other| other.address == real.address) {
                    return Err(AdminError::new(
                        "real",
                        format!("{} is a real of {key} already", real.address),
                        "use `real weight` to change its weight",
                    ));
                }
                vip.reals.push(real);
            }
            Ok(())
        })
    }

    /// Removes reals from a VIP.
    pub fn delete_reals(&mut self, key: &VipKey, reals: &[IpAddr]) -> Result<Changes, AdminError> {
        self.edit_vip(key, |vip| {
            for address in reals {
                let index = real_position(vip, address)?;
                vip.reals.remove(index);
            }
            Ok(())
        })
    }

    /// Changes a real's weight in one VIP.
    pub fn set_weight(
        &mut self,
        key: &VipKey,
        real: &IpAddr,
        weight: u32,
    ) -> Result<Changes, AdminError> {
        self.edit_vip(key, |vip| {
            let index = real_position(vip, real)?;
            vip.reals[index].weight = weight;
            Ok(())
        })
    }

    /// Says whether reals are down, in one VIP.
    pub fn set_down(
        &mut self,
        key: &VipKey,
        reals: &[IpAddr],
        down: bool,
    ) -> Result<Changes, AdminError> {
        self.edit_vip(key, |vip| {
            for address in reals {
                let index = real_position(vip, address)?;
                vip.reals[index].down = down;
            }
            Ok(())
        })
    }

    /// Says whether a real is this host, for all VIPs that have it.
    pub fn set_local(&mut self, real: &IpAddr, local: bool) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        let mut found = false;
        for spec in config.vips.iter_mut().flat_map(|vip| &mut vip.reals) {
            if spec.address == *real {
                spec.local = local;
                found = true;
            }
        }
        if !found {
            return Err(AdminError::new(
                "real",
                format!("no VIP has the real {real}"),
                format!(
                    "`real list` names those there are; one to which only a source route or a server id \
                     sends can be added without a share: `real add VIP {real}@0 local=true`"
                ),
            ));
        }
        self.commit(config)
    }

    /// Maps a mark to a real, or to another one.
    pub fn set_health_check(&mut self, check: HealthCheckSpec) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        let known = config
            .health_checks
            .iter_mut()
            .find(|known| known.mark == check.mark);
        match known {
            Some(known) => *known = check,
            None => config.health_checks.push(check),
        }
        self.commit(config)
    }

    /// Removes marks.
    pub fn delete_health_checks(&mut self, marks: &[u32]) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        for mark in marks {
            let checks = &mut config.health_checks;
            let Some(index) = checks.iter().position(|check| check.mark == *mark) else {
                return Err(AdminError::new(
                    "mark",
                    format!("{mark} names no real"),
                    "`hc list` shows the marks there are",
                ));
            };
            checks.remove(index);
        }
        self.commit(config)
    }

    /// Sends the clients of some prefixes to a real, whatever routes the prefixes had.
    pub fn add_source_routes(
        &mut self,
        prefixes: &[(IpAddr, u8)],
        real: IpAddr,
    ) -> Result<Changes, AdminError> {
        let route = |&(prefix, prefix_len): &(IpAddr, u8)| SourceRouteSpec {
            prefix,
            prefix_len,
            real,
        };
        let added: Vec<_> = prefixes.iter().map(route).collect();
        let routes = self.config.source_routes.with(&added).map_err(|errors| {
            let (place, error) = errors[0];
            // The routes there are follow those added, none of which is wrong then.
            let route = added.get(place).unwrap_or(&added[0]);
            let earlier = |_| "another in this command".to_owned();
            let (key, problem, remedy) = describe_source_route(error, route, earlier);
            AdminError::new(key, problem, remedy)
        })?;
        self.commit_source_routes(routes)
    }

    /// Removes the routes of some prefixes.
    pub fn delete_source_routes(
        &mut self,
        prefixes: &[(IpAddr, u8)],
    ) -> Result<Changes, AdminError> {
        let routes = self.config.source_routes.without(prefixes);
        let routes = routes.map_err(|(prefix, prefix_len)| {
            AdminError::new(
                "prefix",
                format!("there is no source route for {prefix}/{prefix_len}"),
                "`src-route list` names those there are",
            )
        })?;
        self.commit_source_routes(routes)
    }

    /// Removes all source routes.
    pub fn clear_source_routes(&mut self) -> Result<Changes, AdminError> {
        self.commit_source_routes(SourceRoutes::default())
    }

    fn commit_source_routes(&mut self, routes: SourceRoutes) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        config.source_routes = routes;
        self.commit(config)
    }

    fn edit_vip(
        &mut self,
        key: &VipKey,
        edit: impl FnOnce(&mut VipSpec) -> Result<(), AdminError>,
    ) -> Result<Changes, AdminError> {
        let index = self.position(key)?;
        let mut config = self.config.clone();
        edit(&mut config.vips[index])?;
        self.commit(config)
    }

    fn position(&self, key: &VipKey) -> Result<usize, AdminError> {
        self.config
            .vips
            .iter()
            .position(|vip| vip.key == *key)
            .ok_or_else(|| AdminError::no_such_vip(key))
    }

    fn spec(&self, config: &Config) -> ServiceSpec {
        let mut spec = config.to_service_spec();
        spec.settings.next_hop_mac = spec.settings.next_hop_mac.or(self.next_hop);
        spec
    }

    /// Hands the table to the workers, also to those that sleep.
    fn publish(&self, table: Arc<ServiceTable>) {
        self.publisher.publish(table);
        for worker in self.workers.iter() {
            worker.wake();
        }
    }

    /// Brings the workers' counters of these VIPs and reals up to date.
    fn refresh(&self, table: &ServiceTable) {
        if let Err(error) = self.sink.refresh(table) {
            tracing::warn!("counters cannot be read: {error:#}");
        }
    }

    /// The transaction.
    fn commit(&mut self, config: Config) -> Result<Changes, AdminError> {
        if let Some(error) = from_problems(&config.problems()) {
            return Err(error);
        }
        let mtu = self.read_mtu();
        let mtu_warning = mtu.map(|mtu| self.hold_to_mtu(&config, mtu));
        let mtu_warning = mtu_warning.transpose()?.flatten();
        memory::refuse_global_table(&self.config, &config, memory::available())?;
        let mut changes = difference::compare(&self.config, &config);
        let stale_probes = if self.is_running && self.maps_follow && changes.is_empty() {
            // Without a new table; probes that could not be sent may be possible by now.
            self.apply_health_checks(&config)?
        } else {
            self.put_into_force(&config)?
        };
        changes.generation = self.services.table().generation();
        // What the start is to warn of, whoever starts it has seen.
        if self.is_running {
            changes.warnings = self.warnings(&config);
        }
        changes
            .warnings
            .extend(mtu_warning.into_iter().chain(stale_probes));
        for warning in &changes.warnings {
            tracing::warn!("{warning}");
        }
        self.config = config;
        self.mtu_told = mtu.map(|mtu| (mtu, self.fit(&self.config, mtu)));
        Ok(changes)
    }

    /// Compiles a configuration and hands it to the health-check path, the workers and the XDP program,
    /// or leaves all of them as they were. Returns what probes suffer from already.
    fn put_into_force(&mut self, config: &Config) -> Result<Option<String>, AdminError> {
        let mut services = self.services.clone();
        let spec = self.spec(config);
        let refusals = self.sink.refusals(&spec).into_iter();
        if let Some(error) = AdminError::all(refusals.map(AdminError::from)) {
            return Err(error);
        }
        let table = services.apply(&spec)?;
        let old = self.services.table();
        self.refresh(&table);
        let mut baselines = Baselines::clone(&self.baselines);
        baselines.follow(&old, &table, &self.workers);

        let stale_probes = self.apply_health_checks(config)?;
        self.publish(Arc::clone(&table));
        if let Err(error) = self.sink.apply(&table) {
            return Err(self.withdraw(services, &error));
        }
        self.services = services;
        self.baselines = Arc::new(baselines);
        self.maps_follow = true;
        Ok(stale_probes)
    }

    /// What the change to a configuration is to warn of.
    fn warnings(&self, config: &Config) -> Vec<String> {
        let own = self.own_addresses.as_ref().map(|read| read()).transpose();
        let own = own.unwrap_or_else(|error| {
            tracing::warn!(%error, "this host's addresses cannot be read");
            None
        });
        let mut warnings = warnings::of_change(&self.config, config, own.as_ref());
        let table = self.services.table();
        warnings.extend(warnings::of_hash_change(&self.config, config, &table));
        warnings.extend(warnings::of_emptied_table(&self.config, config));
        warnings
    }

    /// Puts the health-check path of a configuration into force, before anything else of it. If that
    /// fails, the running one is put back. What that suffers from already, as an interface that has
    /// gone, is no reason to refuse another change; then a warning comes back.
    fn apply_health_checks(&mut self, config: &Config) -> Result<Option<String>, AdminError> {
        let next_hop = config.interface.next_hop_mac.or(self.next_hop);
        let wanted = HealthCheckPath::new(config, next_hop);
        let Err(error) = self.health_checks.apply(&wanted) else {
            self.probes_follow = true;
            return Ok(None);
        };
        if wanted == HealthCheckPath::new(&self.config, self.next_hop()) {
            return Ok(Some(format!("health checks: {error:#}")));
        }
        self.restore_health_checks();
        Err(health_check_error(&error))
    }

    /// Puts the running health-check path into force again.
    fn restore_health_checks(&mut self) {
        let running = HealthCheckPath::new(&self.config, self.next_hop());
        if let Err(error) = self.health_checks.apply(&running) {
            tracing::error!("health checks: the old state could not be restored: {error:#}");
        }
    }

    /// The interface's MTU and what it means for the running configuration; `None` when there is no
    /// interface or it cannot be asked.
    pub fn mtu(&self) -> Option<(u32, Fit)> {
        let mtu = self.read_mtu()?;
        Some((mtu, self.fit(&self.config, mtu)))
    }

    /// The interface's link and queues as last seen; `None` when there is no interface.
    pub fn link(&self) -> Option<Link> {
        self.link.as_ref().map(SharedLink::get)
    }

    /// Looks at the MTU, which anybody may change, and puts it into the log if it came to mean something
    /// else for the running configuration.
    pub fn watch_mtu(&mut self) {
        let Some(mtu) = self.read_mtu() else {
            return;
        };
        // What it means takes a walk over all reals, and this is asked all the time.
        if self.mtu_told.as_ref().is_some_and(|(told, _)| *told == mtu) {
            return;
        }
        let fit = self.fit(&self.config, mtu);
        if self.mtu_told.as_ref().is_none_or(|(_, told)| *told != fit) {
            match &fit {
                Ok(None) => tracing::info!(mtu, "all packets fit the MTU again"),
                Ok(Some(warning)) => tracing::warn!("{warning}"),
                Err(error) => tracing::error!("{}", unfit(error)),
            }
        }
        self.mtu_told = Some((mtu, fit));
    }

    fn read_mtu(&self) -> Option<u32> {
        self.mtu.as_ref()?()
            .inspect_err(|error| tracing::debug!(%error, "the interface's MTU cannot be read"))
            .ok()
    }

    fn fit(&self, config: &Config, mtu: u32) -> Fit {
        mtu::check(config, &self.origin.interface, mtu)
    }

    /// Holds a change to the MTU. What the running configuration suffers from already is no reason to
    /// refuse the change, and to warn again only if it keeps even small packets from leaving.
    fn hold_to_mtu(&self, config: &Config, mtu: u32) -> Result<Option<String>, AdminError> {
        match self.fit(config, mtu) {
            Err(error) if self.fit(&self.config, mtu).is_err() => Ok(Some(unfit(&error))),
            fit if self.mtu_told.as_ref().is_some_and(|(_, told)| *told == fit) => Ok(None),
            fit => fit,
        }
    }

    /// Puts the running configuration into force again after `failed` was published, and says what
    /// happened.
    ///
    /// It is applied as one more change: workers recognise tables by their generation and flows name
    /// reals by index and epoch, so what the withdrawn table had given away must not be given to
    /// something else. A VIP that the withdrawn table did not have comes back under another number.
    fn withdraw(&mut self, failed: ServiceControl, error: &anyhow::Error) -> AdminError {
        let problem = format!("the XDP program's maps could not be changed: {error:#}");
        self.maps_follow = false;
        self.restore_health_checks();
        let mut services = failed;
        let table = match services.withdraw(&self.spec(&self.config), &self.services) {
            Ok(table) => table,
            Err(error) => {
                tracing::error!(%error, "the running configuration no longer compiles");
                return AdminError::new("xdp", format!("{problem}; {error}"), "restart katran-xsk");
            }
        };
        let old = self.services.table();
        Arc::make_mut(&mut self.baselines).follow(&old, &table, &self.workers);
        self.services = services;
        self.publish(Arc::clone(&table));
        match self.sink.apply(&table) {
            Ok(()) => {
                self.maps_follow = true;
                AdminError::new(
                    "xdp",
                    problem,
                    "the old configuration is still in force; correct the cause and try again",
                )
            }
            Err(second) => AdminError::new(
                "xdp",
                format!("{problem}; nor could the old state be written back: {second:#}"),
                "the workers use the old configuration; `reload` tries to make the maps match it, a \
                 restart does",
            ),
        }
    }
}

fn health_check_error(error: &anyhow::Error) -> AdminError {
    AdminError::new(
        "health_check",
        format!("{error:#}"),
        "correct the cause and try again; without health checks nothing is attached",
    )
}

fn real_position(vip: &VipSpec, address: &IpAddr) -> Result<usize, AdminError> {
    vip.reals
        .iter()
        .position(|real| real.address == *address)
        .ok_or_else(|| {
            AdminError::new(
                "real",
                format!("{address} is not a real of {}", vip.key),
                format!(
                    "`real list {vip}` names those there are; one to which only a source route or a \
                     server id sends can be added without a share: `real add {vip} {address}@0`",
                    vip = vip.key
                ),
            )
        })
}

/// All problems, the first of which has the others.
fn from_problems(problems: &[Problem]) -> Option<AdminError> {
    AdminError::all(problems.iter().map(|problem| {
        AdminError::new(
            problem.field.clone(),
            problem.problem.clone(),
            problem.remedy.clone(),
        )
    }))
}

fn from_config_error(error: &ConfigError) -> AdminError {
    let problems = error.problems.iter().map(|problem| {
        let place = match problem.line {
            Some(line) => format!("{}:{line}", error.name),
            None => error.name.clone(),
        };
        let field = match problem.field.as_str() {
            "" => place,
            field => format!("{place}: {field}"),
        };
        AdminError::new(field, problem.problem.clone(), problem.remedy.clone())
    });
    AdminError::all(problems)
        .unwrap_or_else(|| AdminError::new("config", error.to_string(), "correct the file"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Maps with the next hop in them, which fail once when told to.
    #[derive(Default)]
    struct Maps {
        fails: AtomicBool,
        next_hop: Mutex<Option<MacAddress>>,
    }

    impl ServiceSink for Arc<Maps> {
        fn apply(&mut self, table: &ServiceTable) -> anyhow::Result<()> {
            anyhow::ensure!(!self.fails.swap(false, Ordering::Relaxed), "no memory");
            *self.next_hop.lock().unwrap() = table.next_hop_mac();
            Ok(())
        }

        fn holds_next_hop(&self) -> bool {
            true
        }

        fn counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_next_hop_that_the_maps_do_not_take_is_nobodys() {
        let config = Config::parse("[interface]\nname = \"test0\"\n", "lb.toml").unwrap();
        let services = ServiceControl::new();
        let publisher = Arc::new(Publisher::new(services.table()));
        let maps = Arc::new(Maps::default());
        let mut control = Control::new(ControlParts {
            config,
            origin: Origin::default(),
            source: None,
            next_hop: None,
            publisher: Arc::clone(&publisher),
            services,
            sink: Box::new(Arc::clone(&maps)),
            health_checks: Box::new(NoProgram),
            mtu: None,
            link: None,
            own_addresses: None,
            workers: Vec::new(),
        })
        .unwrap();
        let mut before = None;
        for last in [1, 2] {
            let next_hop = Some(MacAddress([2, 0, 0, 0, 0, last]));
            maps.fails.store(true, Ordering::Relaxed);
            let error = control.set_next_hop(next_hop).unwrap_err().to_string();
            assert!(error.contains("no memory"), "{error}");
            let everywhere = |control: &Control| {
                [
                    control.next_hop(),
                    control.view().table.next_hop_mac(),
                    publisher.current().next_hop_mac(),
                    *maps.next_hop.lock().unwrap(),
                ]
            };
            assert_eq!(everywhere(&control), [before; 4]);
            control.set_next_hop(next_hop).unwrap();
            assert_eq!(everywhere(&control), [next_hop; 4]);
            before = next_hop;
        }
    }

    #[test]
    fn a_next_hop_that_could_not_be_set_is_set_at_the_next_try() {
        let config = Config::parse("[interface]\nname = \"test0\"\n", "lb.toml").unwrap();
        let services = ServiceControl::new();
        let mut control = Control::new(ControlParts {
            config: config.clone(),
            origin: Origin::default(),
            source: None,
            next_hop: None,
            publisher: Arc::new(Publisher::new(services.table())),
            services,
            sink: Box::new(NoProgram),
            health_checks: Box::new(NoProgram),
            mtu: None,
            link: None,
            own_addresses: None,
            workers: Vec::new(),
        })
        .unwrap();
        let next_hop = Some(MacAddress([2, 0, 0, 0, 0, 9]));
        // Nothing else makes a table fail whose configuration is in force.
        control.config.balancer.max_frame = 1;
        control.set_next_hop(next_hop).unwrap_err();
        assert_eq!(control.next_hop(), None);

        control.config = config;
        control.set_next_hop(next_hop).unwrap();
        assert_eq!(control.next_hop(), next_hop);
        assert_eq!(control.view().table.next_hop_mac(), next_hop);
    }
}
