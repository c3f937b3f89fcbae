//! The XDP program as the control plane sees it.

use std::sync::{Arc, Mutex, PoisonError};

use dataplane::service::{ServiceError, ServiceSpec, ServiceTable};
use xdp_redirect::{Redirect, Tunnels, VipEntry};

use super::{HealthCheckPath, HealthCheckSink, HealthCheckState};

/// Where the services go besides the workers.
pub trait ServiceSink: Send {
    /// What the XDP program cannot do of these services, to be known before anything is changed.
    fn refusals(&self, services: &ServiceSpec) -> Vec<ServiceError> {
        let _ = services;
        Vec::new()
    }

    /// Makes these the services of the XDP program, as a difference to those before.
    fn apply(&mut self, table: &ServiceTable) -> anyhow::Result<()>;

    /// Whether its maps have the next hop in them.
    fn holds_next_hop(&self) -> bool {
        false
    }

    /// What the program counted, by name.
    fn counters(&self) -> anyhow::Result<Vec<(String, u64)>>;

    /// Brings counters of workers up to date that somebody else counts, for these services.
    fn refresh(&self, table: &ServiceTable) -> anyhow::Result<()> {
        let _ = table;
        Ok(())
    }
}

/// What the XDP program has to know of the table's VIPs.
pub fn vip_entries(table: &ServiceTable) -> Vec<VipEntry> {
    table
        .vips()
        .map(|vip| VipEntry {
            address: vip.key.address,
            prefix_len: vip.key.prefix_len,
            port: vip.key.port,
            protocol: vip.key.protocol.number(),
            generation: vip.generation,
            vip: vip.number,
            room: vip.room,
        })
        .collect()
}

/// What the XDP program has to know of the table's decap destinations. An inner packet may be any
/// VIP's, so the room is that of the VIP that needs most.
pub fn tunnels(table: &ServiceTable) -> Tunnels {
    Tunnels {
        gue_port: table.settings().decap_gue_port,
        room: table.vips().map(|vip| vip.room).max().unwrap_or(0),
        destinations: table.decap_destinations().map(|own| own.address).collect(),
    }
}

impl ServiceSink for Redirect {
    fn apply(&mut self, table: &ServiceTable) -> anyhow::Result<()> {
        Ok(Self::apply(self, &vip_entries(table), &tunnels(table))?)
    }

    fn counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let counters = Redirect::counters(self)?;
        Ok(counters
            .iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }
}

/// Nothing in the kernel: for a control plane without interface, as tests and fuzzers have.
#[derive(Clone, Copy, Debug)]
pub struct NoProgram;

impl ServiceSink for NoProgram {
    fn apply(&mut self, _: &ServiceTable) -> anyhow::Result<()> {
        Ok(())
    }

    fn counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }
}

impl HealthCheckSink for NoProgram {
    fn apply(&mut self, _: &HealthCheckPath) -> anyhow::Result<()> {
        Ok(())
    }

    fn state(&self) -> anyhow::Result<HealthCheckState> {
        Ok(HealthCheckState::default())
    }
}

/// For a sink that somebody else uses as well.
impl<S: ServiceSink> ServiceSink for Arc<Mutex<S>> {
    fn refusals(&self, services: &ServiceSpec) -> Vec<ServiceError> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refusals(services)
    }

    fn apply(&mut self, table: &ServiceTable) -> anyhow::Result<()> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(table)
    }

    fn holds_next_hop(&self) -> bool {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .holds_next_hop()
    }

    fn counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .counters()
    }

    fn refresh(&self, table: &ServiceTable) -> anyhow::Result<()> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refresh(table)
    }
}
