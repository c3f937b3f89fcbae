//! `--datapath kernel`: the XDP program balances by itself; this process tells it what and reads what it
//! counts.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use dataplane::{
    service::{Publisher, ServiceControl},
    xsk::SocketMode,
};
use xdp_redirect::{Balancer, BalancerOptions};

use super::{
    balancer::random_seeds, datapath::Datapath, health_check::HealthCheckProgram, report::Report,
    settings,
};
use crate::{
    config::{Config, InterfaceConfig, Queues},
    control::{KernelDatapath, ServiceSink, Worker},
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
}

/// Fails if the configuration asks for sockets; else keys of it that do nothing.
pub(super) fn check(interface: &InterfaceConfig) -> anyhow::Result<Option<String>> {
    if let Some(queues @ Queues::List(_)) = &interface.queues {
        bail!(
            "interface.queues: {queues} is a part of the queues, and --datapath kernel serves all of them; \
             leave it out, or use --datapath xsk"
        );
    }
    if interface.mode == SocketMode::ZeroCopy {
        bail!(
            "interface.mode: --datapath kernel has no sockets, so there is no zero-copy; leave it out, or \
             use --datapath xsk"
        );
    }
    let usual = InterfaceConfig::default();
    let idle: Vec<_> = [
        ("cpus", interface.cpus != usual.cpus),
        ("priority", interface.priority != usual.priority),
        ("frames", interface.frames != usual.frames),
        ("huge_pages", interface.huge_pages != usual.huge_pages),
        ("busy_poll", interface.busy_poll != usual.busy_poll),
        ("spin_us", interface.spin_us != usual.spin_us),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .map(|(key, _)| key)
    .collect();
    Ok((!idle.is_empty()).then(|| {
        format!(
            "of [interface], {} belongs to workers: --datapath kernel has none",
            idle.join(", ")
        )
    }))
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
pub(super) fn memory(config: &Config) -> anyhow::Result<usize> {
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

    fn care(&self) -> anyhow::Result<()> {
        self.publisher.collect();
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_sockets_have_is_refused() {
        let with = |change: fn(&mut InterfaceConfig)| {
            let mut interface = InterfaceConfig::default();
            change(&mut interface);
            check(&interface).map_err(|error| error.to_string())
        };
        assert_eq!(with(|_| ()), Ok(None));
        assert_eq!(
            with(|interface| interface.queues = Some(Queues::All)),
            Ok(None)
        );
        let queues = with(|interface| interface.queues = "0-1".parse().ok());
        assert_eq!(
            queues.unwrap_err(),
            "interface.queues: 0-1 is a part of the queues, and --datapath kernel serves all of them; leave \
             it out, or use --datapath xsk"
        );
        let mode = with(|interface| interface.mode = SocketMode::ZeroCopy);
        assert!(mode.unwrap_err().starts_with("interface.mode: "));
        let idle = with(|interface| interface.spin_us = Some(5));
        assert_eq!(
            idle.unwrap().as_deref(),
            Some("of [interface], spin_us belongs to workers: --datapath kernel has none")
        );
    }
}
