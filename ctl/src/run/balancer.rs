//! The parts that move packets: XDP program, sockets, workers.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use dataplane::{
    counters::WorkerCounters,
    forward::{Forwarder, ForwarderConfig},
    port::{NoPassPath, PassPath},
    service::{Publisher, ServiceControl},
    worker::{self, Priority, WorkerConfig},
    xsk::{Interface, SocketMode, Tap, XskConfig, XskPort, kernel_release},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use xdp_redirect::{AttachedMode, Redirect, XdpMode};

use super::{
    datapath::Datapath, health_check::HealthCheckProgram, huge_pages, priority::Rank,
    report::Report,
};
use crate::{
    config::Config,
    control::{ServiceSink, Socket, Worker},
    explain,
    memory::Bytes,
};

/// Everything that is taken down in order when it is stopped or dropped.
pub(super) struct Balancer {
    redirect: Arc<Mutex<Redirect>>,
    health_checks: Arc<Mutex<HealthCheckProgram>>,
    services: ServiceControl,
    publisher: Arc<Publisher>,
    workers: Vec<Worker>,
    /// Workers that were seen to have ended.
    ended: AtomicU32,
    rank: Rank,
    memory: Memory,
    warnings: Vec<String>,
}

/// Memory taken, in bytes, by all workers together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Frames, rings and their tables.
    pub(super) sockets: usize,
    pub(super) flow_tables: usize,
    /// Bytes of the flow tables that are on huge pages, where the kernel says it.
    pub(super) on_huge_pages: Option<usize>,
}

impl Balancer {
    /// Attaches the XDP program, opens a socket for each queue and starts its worker. No packet is
    /// redirected before VIPs are put into the program's maps.
    pub(super) fn start(
        config: &Config,
        name: &str,
        interface: &Interface,
        queues: &[u32],
        cpus: &[usize],
        rank: Rank,
    ) -> anyhow::Result<Self> {
        let services = ServiceControl::new();
        let publisher = Arc::new(Publisher::new(services.table()));
        let driver = interface.driver().unwrap_or_default();
        if config.interface.xdp_mode == XdpMode::Generic {
            socket_mode(
                config.interface.mode,
                Some(AttachedMode::Generic),
                None,
                &driver,
            )?;
        }
        let redirect = Redirect::attach(name, config.interface.xdp_mode)?;
        let mode = socket_mode(
            config.interface.mode,
            redirect.mode(),
            redirect.fallback_reason(),
            &driver,
        )?;
        let mut balancer = Self {
            redirect: Arc::new(Mutex::new(redirect)),
            health_checks: Arc::new(Mutex::new(HealthCheckProgram::new(
                name,
                config.health_check_path.interface.as_deref(),
            ))),
            services,
            publisher,
            workers: Vec::with_capacity(queues.len()),
            ended: AtomicU32::new(0),
            rank,
            memory: Memory::default(),
            warnings: Vec::new(),
        };
        let tap = balancer.tap(name, interface);
        let before = huge_pages::in_use();
        let forwarders = balancer.forwarders(config, cpus)?;
        balancer.note_huge_pages(before, &forwarders);
        for ((&queue, &cpu), forwarder) in queues.iter().zip(cpus).zip(forwarders) {
            let pass: Box<dyn PassPath + Send> = match &tap {
                Some(tap) => Box::new(tap.clone()),
                None => Box::new(NoPassPath),
            };
            let mut port_config = XskConfig::new(name, queue);
            port_config.mode = mode;
            balancer.add_worker(config, port_config, cpu, forwarder, pass)?;
        }
        Ok(balancer)
    }

    /// The way to the kernel, for packets of local reals and of a VIP that has just gone.
    fn tap(&mut self, name: &str, interface: &Interface) -> Option<Tap> {
        let tap_name = format!("kx-pass{}", interface.index());
        let result = interface
            .mac()
            .with_context(|| format!("interface {name}: its address is unknown"))
            .and_then(|mac| Ok(Tap::create(&tap_name, mac)?));
        match result {
            Ok(tap) => Some(tap),
            Err(error) => {
                self.warnings.push(format!(
                    "packets cannot be handed to the kernel ({}): those for local reals are dropped, and \
                     when a VIP is removed, those on their way",
                    explain(&error)
                ));
                None
            }
        }
    }

    /// Builds the flow tables, each on the CPU that will use it, so that its memory is near.
    fn forwarders(&self, config: &Config, cpus: &[usize]) -> anyhow::Result<Vec<Forwarder>> {
        let build = |cpu: usize| -> anyhow::Result<Forwarder> {
            let mut set = CpuSet::new();
            // Only the place of the memory depends on it.
            let _ = set
                .set(cpu)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
            let forwarder_config = ForwarderConfig {
                flow_table_capacity: config.balancer.flow_table_capacity,
                seeds: random_seeds()?,
            };
            let table = self.publisher.current();
            let counters = Arc::new(WorkerCounters::new());
            Forwarder::new(&forwarder_config, table, counters).context("flow tables")
        };
        thread::scope(|scope| {
            let builders: Vec<_> = cpus
                .iter()
                .map(|&cpu| scope.spawn(move || build(cpu)))
                .collect();
            builders
                .into_iter()
                .map(|builder| match builder.join() {
                    Ok(forwarder) => forwarder,
                    Err(_) => bail!("flow tables: a thread that builds them panicked"),
                })
                .collect()
        })
    }

    /// Finds out how much of the new flow tables is on huge pages; `before` is what already was.
    fn note_huge_pages(&mut self, before: Option<usize>, forwarders: &[Forwarder]) {
        let (Some(before), Some(now)) = (before, huge_pages::in_use()) else {
            return;
        };
        let flow_tables = forwarders.iter().map(Forwarder::memory_bytes).sum();
        let on_huge_pages = now.saturating_sub(before).min(flow_tables);
        self.memory.on_huge_pages = Some(on_huge_pages);
        self.warnings
            .extend(huge_pages::warning(flow_tables, on_huge_pages));
    }

    fn add_worker(
        &mut self,
        config: &Config,
        mut port_config: XskConfig,
        cpu: usize,
        forwarder: Forwarder,
        pass: Box<dyn PassPath + Send>,
    ) -> anyhow::Result<()> {
        let interface = &config.interface;
        let queue = port_config.queue;
        port_config.frames = interface.frames;
        port_config.max_frame = config.balancer.max_frame;
        port_config.huge_pages = interface.huge_pages;
        port_config.busy_poll = interface.busy_poll;
        let port = XskPort::open(&port_config)?;
        if interface.huge_pages && !port.huge_pages() {
            self.warnings.push(format!(
                "queue {queue}: no huge pages are to be had, ordinary ones are used; reserve some with \
                 `sysctl vm.nr_hugepages`"
            ));
        }
        self.lock().set_socket(queue, port.socket_fd())?;
        let socket = Socket {
            zero_copy: port.zero_copy(),
            memory_bytes: port.memory_bytes(),
            probe: port.probe(),
        };
        self.memory.sockets += port.memory_bytes();
        self.memory.flow_tables += forwarder.memory_bytes();
        let worker_config = WorkerConfig {
            queue,
            cpu: Some(cpu),
            spin: interface
                .spin_us
                .map(|microseconds| Duration::from_micros(microseconds.into())),
            priority: self.rank.priority,
        };
        let subscription = self.publisher.subscribe();
        let handle = worker::spawn(&worker_config, port, forwarder, subscription, pass)?;
        self.workers
            .push(Worker::new(Arc::new(handle), Some(socket)));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Redirect> {
        self.redirect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_down(&mut self) {
        // Nothing may arrive at a queue whose worker has ended.
        self.lock().detach();
        self.health_checks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stop();
        let threads = || self.workers.iter().filter_map(Worker::thread);
        for thread in threads() {
            thread.request_stop();
        }
        for thread in threads() {
            thread.stop();
        }
    }
}

impl Datapath for Balancer {
    fn name(&self) -> &'static str {
        "xsk"
    }

    fn services(&self) -> ServiceControl {
        self.services.clone()
    }

    fn publisher(&self) -> Arc<Publisher> {
        Arc::clone(&self.publisher)
    }

    fn sink(&self) -> Box<dyn ServiceSink> {
        Box::new(Arc::clone(&self.redirect))
    }

    fn health_checks(&self) -> Arc<Mutex<HealthCheckProgram>> {
        Arc::clone(&self.health_checks)
    }

    fn workers(&self) -> &[Worker] {
        &self.workers
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn xdp_mode(&self) -> (String, Option<String>) {
        let redirect = self.lock();
        let mode = redirect
            .mode()
            .map_or_else(|| "detached".to_owned(), |mode| mode.to_string());
        (mode, redirect.fallback_reason().map(str::to_owned))
    }

    fn care(&self) -> anyhow::Result<()> {
        self.publisher.collect();
        let ended: Vec<_> = self
            .workers
            .iter()
            .filter(|worker| !worker.is_running())
            .collect();
        let count = ended.len() as u32;
        if self.ended.swap(count, Ordering::Relaxed) == count {
            return Ok(());
        }
        let mut last = None;
        for worker in ended {
            // Its packets go to the kernel from now on, which may know what to do with them.
            if let Err(error) = self.lock().clear_socket(worker.queue()) {
                tracing::error!(%error, "an ended worker's queue is still in the XDP program's map");
            }
            last = worker.error();
        }
        if count as usize == self.workers.len() {
            let reason = last.map_or_else(String::new, |error| format!(": {error}"));
            bail!("no worker is left{reason}");
        }
        Ok(())
    }

    fn stop(mut self: Box<Self>) -> Report {
        self.take_down();
        Report::of(&self.workers)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for worker in &self.workers {
            writeln!(f, "  queue {:<4} {}", worker.queue(), describe(worker))?;
        }
        match (self.rank.priority, &self.rank.reason) {
            (Priority::RealTime, _) => writeln!(f, "  priority   rt, before all ordinary threads")?,
            (Priority::Normal, None) => writeln!(f, "  priority   normal")?,
            (Priority::Normal, Some(reason)) => {
                writeln!(f, "  priority   normal, because {reason}")?;
            }
        }
        let memory = self.memory;
        write!(
            f,
            "  memory     {}: sockets {}, flow tables {}",
            Bytes(memory.sockets + memory.flow_tables),
            Bytes(memory.sockets),
            Bytes(memory.flow_tables)
        )?;
        match memory.on_huge_pages {
            Some(bytes) => writeln!(f, " ({} on huge pages)", Bytes(bytes)),
            None => writeln!(f),
        }
    }
}

fn describe(worker: &Worker) -> String {
    let mode = worker.mode().unwrap_or("no socket");
    match worker.cpu() {
        Some(cpu) => format!("{mode}, worker on cpu {cpu}"),
        None => format!("{mode}, worker on any cpu"),
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// The sockets' mode, given where the XDP program runs.
///
/// Zero-copy takes a program in the driver. The kernel does not insist on it: it would bind, and then
/// drivers refuse to be woken up.
fn socket_mode(
    asked: SocketMode,
    attached: Option<AttachedMode>,
    fallback: Option<&str>,
    driver: &str,
) -> anyhow::Result<SocketMode> {
    match (asked, attached) {
        (SocketMode::ZeroCopy, Some(AttachedMode::Generic)) => {
            let reason = fallback.map_or_else(String::new, |reason| {
                format!(", because native mode failed ({reason})")
            });
            let driver = match driver {
                "" => "an unknown one",
                driver => driver,
            };
            bail!(
                "interface.mode: zero-copy takes an XDP program in the driver ({driver} of kernel {}), \
                 and it runs in the network stack (generic){reason}; give mode auto or copy, or use a \
                 driver and an xdp_mode that run it natively",
                kernel_release()
            )
        }
        (SocketMode::Auto, Some(AttachedMode::Generic)) => Ok(SocketMode::Copy),
        (asked, _) => Ok(asked),
    }
}

/// A secret from the kernel, so that nobody outside can aim collisions at the flow table.
pub(super) fn random_seeds() -> anyhow::Result<[u64; 4]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    let mut seeds = [0; 4];
    for (seed, chunk) in seeds.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *seed = u64::from_ne_bytes(*chunk);
    }
    Ok(seeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generic_xdp_goes_with_copies_only() {
        let generic = |asked| socket_mode(asked, Some(AttachedMode::Generic), None, "e1000e");
        assert_eq!(generic(SocketMode::Auto).unwrap(), SocketMode::Copy);
        assert_eq!(generic(SocketMode::Copy).unwrap(), SocketMode::Copy);
        let error = generic(SocketMode::ZeroCopy).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "interface.mode: zero-copy takes an XDP program in the driver (e1000e of kernel {}), and \
                 it runs in the network stack (generic); give mode auto or copy, or use a driver and an \
                 xdp_mode that run it natively",
                kernel_release()
            )
        );
        let error = socket_mode(SocketMode::ZeroCopy, Some(AttachedMode::Generic), None, "");
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("in the driver (an unknown one of kernel "),
            "{error}"
        );
        let error = socket_mode(
            SocketMode::ZeroCopy,
            Some(AttachedMode::Generic),
            Some("not supported"),
            "e1000e",
        );
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("(generic), because native mode failed (not supported);"),
            "{error}"
        );
        for asked in [SocketMode::Auto, SocketMode::ZeroCopy, SocketMode::Copy] {
            let native = socket_mode(asked, Some(AttachedMode::Native), None, "igb");
            assert_eq!(native.unwrap(), asked);
        }
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(random_seeds().unwrap(), random_seeds().unwrap());
    }
}
