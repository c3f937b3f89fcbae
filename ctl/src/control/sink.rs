//! The XDP program as the control plane sees it.

use std::sync::{Arc, Mutex, PoisonError};

use dataplane::service::ServiceTable;
use xdp_redirect::{Redirect, Tunnels, VipEntry};

use super::{HealthCheckPath, HealthCheckSink, HealthCheckState};

/// Where the sets of VIPs and decap destinations go besides the workers.
pub trait VipSink: Send {
    /// Makes these the VIPs and tunnels whose packets reach the workers, as a difference to those
    /// before.
    fn apply(&mut self, vips: &[VipEntry], tunnels: &Tunnels) -> anyhow::Result<()>;

    /// What the program counted, by name.
    fn counters(&self) -> anyhow::Result<Vec<(String, u64)>>;
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

impl VipSink for Redirect {
    fn apply(&mut self, vips: &[VipEntry], tunnels: &Tunnels) -> anyhow::Result<()> {
        Ok(Self::apply(self, vips, tunnels)?)
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

impl VipSink for NoProgram {
    fn apply(&mut self, _: &[VipEntry], _: &Tunnels) -> anyhow::Result<()> {
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
impl<S: VipSink> VipSink for Arc<Mutex<S>> {
    fn apply(&mut self, vips: &[VipEntry], tunnels: &Tunnels) -> anyhow::Result<()> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(vips, tunnels)
    }

    fn counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        self.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .counters()
    }
}
