//! `--datapath kernel`: the XDP program balances by itself; this process tells it what and reads what it
//! counts.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use dataplane::service::{Publisher, ServiceControl};
use xdp_redirect::{Balancer, BalancerOptions};

use super::{
    balancer::random_seeds, datapath::Datapath, health_check::HealthCheckProgram, report::Report,
    settings,
};
use crate::{
    config::Config,
    control::{KernelDatapath, ServiceSink, Worker},
    interface::Presence,
    memory::Bytes,
};

/// The balancer in the kernel.
pub(super) struct KernelBalancer {
    datapath: Arc<KernelDatapath>,
    health_checks: Arc<Mutex<HealthCheckProgram>>,
    services: ServiceControl,
    publisher: Arc<Publisher>,
    workers: Vec<Worker>,
    warnings: Vec<String>,
    memory: usize,
    interface: Presence,
}

impl KernelBalancer {
    /// Loads the program and attaches it. No packet is balanced before VIPs are put into its maps.
    pub(super) fn start(config: &Config, name: &str) -> anyhow::Result<Self> {
        let services = ServiceControl::new();
        let publisher = Arc::new(Publisher::new(services.table()));
        let options = BalancerOptions {
            flow_table_capacity: config.balancer.flow_table_capacity,
        };
        let mut balancer = Balancer::load(&options)?;
        balancer.attach_to(name, config.interface.xdp_mode)?;
        let cpus = BalancerOptions::online_cpus().context("the CPUs are unknown")?;
        let datapath = KernelDatapath::new(
            balancer,
            &options,
            Arc::clone(&publisher),
            &cpus,
            random_seeds()?,
        );
        Ok(Self {
            workers: datapath.workers(),
            datapath,
            health_checks: Arc::new(Mutex::new(HealthCheckProgram::new(
                name,
                config.health_check_path.interface.as_deref(),
            ))),
            services,
            publisher,
            warnings: Vec::new(),
            memory: memory(config)?,
            interface: Presence::of(name)?,
        })
    }

    fn take_down(&mut self) {
        self.datapath.balancer().detach();
        self.health_checks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stop();
    }
}

/// Bytes that the flow tables take in the kernel.
pub(crate) fn memory(config: &Config) -> anyhow::Result<usize> {
    let cpus = BalancerOptions::cpus().context("the number of CPUs is unknown")?;
    Ok(BalancerOptions::memory_for(
        config.balancer.flow_table_capacity,
        cpus,
    ))
}

impl Datapath for KernelBalancer {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn services(&self) -> ServiceControl {
        self.services.clone()
    }

    fn publisher(&self) -> Arc<Publisher> {
        Arc::clone(&self.publisher)
    }

    fn sink(&self) -> Box<dyn ServiceSink> {
        Box::new(Arc::clone(&self.datapath))
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
        let balancer = self.datapath.balancer();
        let mode = balancer
            .mode()
            .map_or_else(|| "detached".to_owned(), |mode| mode.to_string());
        (mode, balancer.fallback_reason().map(str::to_owned))
    }

    /// The program goes with the interface, and nothing here notices by itself.
    fn care(&self) -> anyhow::Result<()> {
        self.publisher.collect();
        self.interface.check()
    }

    fn stop(mut self: Box<Self>) -> Report {
        self.take_down();
        if let Err(error) = self.datapath.refresh(&self.publisher.current()) {
            tracing::warn!("the last counters cannot be read: {error:#}");
        }
        Report::of(&self.workers)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus: Vec<_> = self.workers.iter().filter_map(Worker::cpu).collect();
        writeln!(
            f,
            "  datapath   kernel, on cpus {}",
            settings::display(&cpus)
        )?;
        writeln!(f, "  memory     {}: flow tables", Bytes(self.memory))
    }
}

impl Drop for KernelBalancer {
    fn drop(&mut self) {
        self.take_down();
    }
}
