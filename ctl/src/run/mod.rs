//! `katran-xsk run`: starts the balancer, keeps it going, and leaves the interface as it was.
//!
//! Start: everything that can be refused without touching anything (`preflight`); the admin socket's
//! file; then the XDP program, without VIPs yet, so that every packet still goes to the kernel; a
//! socket and a worker for each queue; the next hop; and last the VIPs, with which packets begin to
//! arrive, and answers to the admin socket's clients. Stop is the same backwards: the XDP program goes
//! first, so that nothing arrives that nobody would send, then workers send what they have.

mod balancer;
mod datapath;
mod health_check;
mod huge_pages;
pub(crate) mod kernel;
mod link;
mod lock;
mod neighbour;
mod notify;
mod preflight;
pub(crate) mod priority;
mod report;
pub(crate) mod settings;
mod summary;

use std::{
    fmt::Display,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use dataplane::xsk::Interface;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    task::{JoinError, JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    admin::{
        AdminError, Engine,
        server::{AdminServer, BoundSocket, Limits},
    },
    cli::{DatapathChoice, RunArgs},
    config::{Config, ConfigError},
    control::{
        Changes, ConfigSource, Control, ControlParts, Followed, Origin, SharedControl, SharedLink,
        lock,
    },
    mtu, warnings,
};
use balancer::Balancer;
use datapath::Datapath;
use kernel::KernelBalancer;
use link::LinkWatch;
use lock::InstanceLock;
use neighbour::{Gateway, Neighbour};
use priority::Rank;
use settings::Source;
use summary::Summary;

/// How often workers are looked after.
const CARE: Duration = Duration::from_millis(500);
/// How often the interface's MTU is looked at.
const MTU_LOOK: Duration = Duration::from_secs(2);
/// How long the start waits for the next hop.
const NEXT_HOP_PATIENCE: Duration = Duration::from_secs(3);
/// Pause before netlink is tried again.
const NETLINK_PAUSE: Duration = Duration::from_secs(5);

/// Runs the command until it is told to stop.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let source = Source::new(args);
    let config = source.read()?;
    // One thread, this one: interfaces are looked up in its network namespace.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let end = runtime.block_on(balance(args.datapath, source, config));
    // A reload that still runs must not hold the exit up.
    runtime.shutdown_background();
    end
}

async fn balance(
    choice: DatapathChoice,
    source: Source,
    config: Config,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let name = settings::interface_name(&config)?;
    let interface = preflight::interface(&name)?;
    let asked = || format!("interface {name}: cannot be asked");
    let existing = interface.queues().with_context(asked)?;
    let start = match choice {
        DatapathChoice::Xsk => Start::xsk(&config, &name, &interface, existing)?,
        DatapathChoice::Kernel => Start::kernel(&config, source.path())?,
    };
    let mtu = interface.mtu().with_context(asked)?;
    let mtu_warning = mtu::check(&config, &name, mtu)?;
    preflight::privileges()?;
    let _lock = InstanceLock::take(&name)?;
    let link = LinkWatch::new(&name, interface.index(), start.queues()).await?;
    let mut warnings = link.warnings();
    warnings.extend(preflight::warnings(&name, &interface));
    warnings.extend(mtu_warning);
    let own = warnings::own_addresses().context("reading this host's addresses")?;
    warnings.extend(warnings::of(&config, Some(&own)));

    // A path that cannot be used is to be found before anything is changed. Clients that come early
    // wait until the server starts.
    let socket = BoundSocket::bind(&config.admin.socket, config.admin.mode)?;

    let datapath: Box<dyn Datapath> = match start {
        Start::Xsk { queues, cpus, rank } => Box::new(Balancer::start(
            &config, &name, &interface, &queues, &cpus, rank,
        )?),
        Start::Kernel { warning } => {
            warnings.extend(warning);
            Box::new(KernelBalancer::start(&config, &name)?)
        }
    };
    warnings.extend(datapath.warnings().iter().cloned());
    if let (mode, Some(reason)) = datapath.xdp_mode() {
        warnings.push(format!(
            "XDP runs in the network stack ({mode}), which is slow, because native mode failed: {reason}"
        ));
    }

    let reloaded = Arc::new(Notify::new());
    let mut follower = Follower {
        interface: name.clone(),
        index: interface.index(),
        neighbour: None,
        last: None,
        followed: Followed::default(),
        reloaded: Arc::clone(&reloaded),
    };
    let resolved = match config.interface.next_hop_mac {
        Some(_) => None,
        None => follower.resolve().await?,
    };
    if config.interface.next_hop_mac.is_none() && resolved.and_then(|hop| hop.mac).is_none() {
        warnings.push(no_next_hop(resolved, &name));
    }
    // With the first table each worker knows the VIPs and the next hop; from here on packets arrive.
    let control = control(
        source,
        &config,
        &name,
        &*datapath,
        resolved,
        reloaded,
        link.link(),
    )?;
    let engine = Engine::new(Arc::clone(&control));
    let admin = AdminServer::serve(socket, engine.clone(), Limits::default())?;
    say(Summary {
        config: &config,
        interface: &name,
        driver: interface.driver().unwrap_or_default(),
        mtu,
        datapath: &*datapath,
        next_hop: resolved,
    });
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    notify::ready();

    let following = tokio::spawn(follower.run(Arc::clone(&control)));
    let watching = tokio::spawn(link.run());
    let end = serve(&control, &*datapath, &mut signals).await;
    notify::stopping();
    following.abort();
    watching.abort();
    let report = datapath.stop();
    engine.end_capture();
    drop(admin);
    say(format_args!("{report}\n"));
    end
}

/// What can be refused of a datapath without touching anything, and was not.
enum Start {
    Xsk {
        queues: Vec<u32>,
        cpus: Vec<usize>,
        rank: Rank,
    },
    Kernel {
        warning: Option<String>,
    },
}

impl Start {
    fn xsk(
        config: &Config,
        name: &str,
        interface: &Interface,
        existing: u32,
    ) -> anyhow::Result<Self> {
        let queues = settings::queues(config, name, existing)?;
        let cpus = settings::cpus(config, queues.len())?;
        let driver = interface.driver().unwrap_or_default();
        preflight::memory(config, &driver, queues.len())?;
        let rank = priority::choose(&config.interface).map_err(|problem| anyhow!("{problem}"))?;
        Ok(Self::Xsk { queues, cpus, rank })
    }

    fn kernel(config: &Config, file: Option<&PathBuf>) -> anyhow::Result<Self> {
        let problems = config.kernel_problems();
        if !problems.is_empty() {
            let name = file.map_or_else(
                || "command line".to_owned(),
                |path| path.display().to_string(),
            );
            return Err(ConfigError { name, problems }.into());
        }
        preflight::kernel_memory(kernel::memory(config)?)?;
        let warning = config.kernel_warning().map(|warning| warning.to_string());
        Ok(Self::Kernel { warning })
    }

    /// Queues with a worker; the kernel balances what arrives on any.
    fn queues(&self) -> Option<Vec<u32>> {
        match self {
            Self::Xsk { queues, .. } => Some(queues.clone()),
            Self::Kernel { .. } => None,
        }
    }
}

/// Writes to stdout, should anyone still read it: packets do not depend on that.
fn say(text: impl Display) {
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tracing::warn!(%error, "stdout cannot be written to");
        }
        _ => {}
    }
}

fn control(
    source: Source,
    config: &Config,
    interface: &str,
    datapath: &dyn Datapath,
    resolved: Option<Gateway>,
    reloaded: Arc<Notify>,
    link: SharedLink,
) -> anyhow::Result<SharedControl> {
    let (xdp_mode, xdp_fallback) = datapath.xdp_mode();
    let config_path = source.path().cloned();
    let control = Control::new(ControlParts {
        config: config.clone(),
        origin: Origin {
            config_path: config_path.clone(),
            interface: interface.to_owned(),
            datapath: datapath.name().to_owned(),
            xdp_mode,
            xdp_fallback,
        },
        source: config_path.map(|_| ConfigSource {
            read: Box::new(move || source.read()),
            in_force: Box::new(move || reloaded.notify_one()),
        }),
        next_hop: resolved.and_then(|gateway| gateway.mac),
        services: datapath.services(),
        publisher: datapath.publisher(),
        sink: datapath.sink(),
        health_checks: Box::new(datapath.health_checks()),
        mtu: Some(Box::new({
            let name = interface.to_owned();
            move || Interface::open(&name)?.mtu()
        })),
        link: Some(link),
        own_addresses: Some(Box::new(warnings::own_addresses)),
        workers: datapath.workers().to_vec(),
    })?;
    Ok(Arc::new(std::sync::Mutex::new(control)))
}

/// Until a signal says to stop, or nothing is left to serve with.
async fn serve(
    control: &SharedControl,
    datapath: &dyn Datapath,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    let mut care = interval(CARE);
    care.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval(MTU_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // One reload at a time; a signal that comes meanwhile is answered after it.
    let mut reload = JoinSet::new();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = signals.interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = signals.hang_up.recv(), if reload.is_empty() => {
                let control = Arc::clone(control);
                reload.spawn_blocking(move || crate::control::reload(&control));
            }
            Some(result) = reload.join_next() => match result {
                Ok(result) => report_reload(result),
                Err(error) => tracing::error!(%error, "the configuration was not read again"),
            },
            _ = care.tick() => datapath.care()?,
            _ = look.tick() => {
                // While a reload has it there is time until the next tick.
                if let Ok(mut control) = control.try_lock() {
                    control.watch_mtu();
                }
            }
        }
    }
}

fn report_reload(result: Result<Changes, AdminError>) {
    match result {
        Ok(changes) => {
            for line in changes.log_lines() {
                tracing::info!("configuration read again: {line}");
            }
        }
        Err(error) => {
            // A line for each.
            for problem in error.to_string().lines() {
                tracing::error!(problem, "the configuration was not read again");
            }
        }
    }
}

fn no_next_hop(gateway: Option<Gateway>, interface: &str) -> String {
    match gateway {
        Some(gateway) => format!(
            "the gateway {} does not answer: VIP packets are dropped until it does; is it on the same \
             network?",
            gateway.address
        ),
        None => format!(
            "no default route leads through {interface}: VIP packets are dropped until there is one; \
             add it, or give next_hop_mac in [interface]"
        ),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }
}

/// Keeps the control plane's next hop what the kernel's tables say.
struct Follower {
    interface: String,
    index: u32,
    /// Made when it is needed: a configuration that names the next hop needs none.
    neighbour: Option<Neighbour>,
    /// What the control plane was told last.
    last: Option<Gateway>,
    /// What `show config` says of it.
    followed: Followed,
    /// Told when the configuration is read again.
    reloaded: Arc<Notify>,
}

impl Follower {
    /// Waits for the first next hop; what it gives is for the control plane to start with.
    async fn resolve(&mut self) -> anyhow::Result<Option<Gateway>> {
        let resolved = self.neighbour()?.resolve(NEXT_HOP_PATIENCE).await?;
        self.last = resolved.filter(|gateway| gateway.mac.is_some());
        Ok(resolved)
    }

    fn neighbour(&mut self) -> anyhow::Result<&mut Neighbour> {
        let neighbour = match self.neighbour.take() {
            Some(neighbour) => neighbour,
            None => Neighbour::new(&self.interface, self.index).context("netlink")?,
        };
        Ok(self.neighbour.insert(neighbour))
    }

    /// Passes changes on, for as long as the task lives.
    async fn run(mut self, control: SharedControl) {
        loop {
            if is_next_hop_configured(&control).await {
                // Nothing to follow, so nothing wakes this up either.
                self.neighbour = None;
                self.reloaded.notified().await;
                continue;
            }
            if let Err(error) = self.follow(&control).await {
                tracing::warn!("the next hop cannot be looked up: {error:#}");
                self.neighbour = None;
                sleep(NETLINK_PAUSE).await;
            }
        }
    }

    /// Looks the next hop up, and waits until it may be another one.
    async fn follow(&mut self, control: &SharedControl) -> anyhow::Result<()> {
        let gateway = self.neighbour()?.read().await?;
        self.tell(control, gateway).await;
        let known = self.last.is_some();
        let reloaded = Arc::clone(&self.reloaded);
        tokio::select! {
            () = reloaded.notified() => {}
            () = self.neighbour()?.changed(known) => {}
        }
        Ok(())
    }

    /// A next hop that is lost stays in use: the last known one is a better guess than none.
    async fn tell(&mut self, control: &SharedControl, gateway: Option<Gateway>) {
        let Some((gateway, mac)) = gateway.and_then(|gateway| Some((gateway, gateway.mac?))) else {
            if let Some(last) = self.last
                && self.followed.lost.is_none()
            {
                tracing::warn!(gateway = %last.address, "the next hop is lost; its last address stays in use");
            }
            let lost = self.followed.lost.unwrap_or_else(Instant::now);
            let followed = Followed {
                gateway: self.last.or(gateway).map(|gateway| gateway.address),
                lost: self.last.map(|_| lost),
            };
            self.note(control, followed).await;
            return;
        };
        // Somebody was told that it is not known: at the start, or since.
        if self.followed.lost.is_some() || self.last.is_none() {
            tracing::info!(gateway = %gateway.address, %mac, "the next hop is known");
        }
        let followed = Followed {
            gateway: Some(gateway.address),
            lost: None,
        };
        self.note(control, followed).await;
        if self.last.and_then(|last| last.mac) == Some(mac) {
            return;
        }
        match with(control, move |control| control.set_next_hop(Some(mac))).await {
            Ok(Ok(())) => {
                if self.last.is_some() {
                    tracing::info!(gateway = %gateway.address, %mac, "the next hop changed");
                }
                self.last = Some(gateway);
            }
            Ok(Err(error)) => tracing::error!(%error, "the next hop cannot be changed"),
            Err(error) => tracing::error!(%error, "the next hop cannot be changed"),
        }
    }

    /// Lets the control plane know what there is to see, if that is news.
    async fn note(&mut self, control: &SharedControl, followed: Followed) {
        if followed == self.followed {
            return;
        }
        match with(control, move |control| control.set_followed(followed)).await {
            Ok(()) => self.followed = followed,
            Err(error) => tracing::error!(%error, "the next hop's state cannot be told"),
        }
    }
}

/// Calls this with the control plane, whose lock may be held by a reload for a while.
async fn with<T: Send + 'static>(
    control: &SharedControl,
    call: impl FnOnce(&mut Control) -> T + Send + 'static,
) -> Result<T, JoinError> {
    let control = Arc::clone(control);
    spawn_blocking(move || call(&mut lock(&control))).await
}

async fn is_next_hop_configured(control: &SharedControl) -> bool {
    with(control, |control| {
        control.config().interface.next_hop_mac.is_some()
    })
    .await
    .unwrap_or(false)
}
