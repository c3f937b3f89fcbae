//! The health-check path of a running balancer: the tc program `healthcheck`, loaded with the first
//! mark and there while there are any.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, bail};
use dataplane::{service::MacAddress, xsk::Interface};
use xdp_redirect::{HealthCheck, HealthCheckOptions};

use crate::control::{HealthCheckPath, HealthCheckSink, HealthCheckState};

/// The program, and where it runs.
pub(super) struct HealthCheckProgram {
    /// The balancer's interface, by which probes leave.
    balancer: String,
    program: Option<HealthCheck>,
    /// Interface at whose egress the program is, by name and index: one that was made anew has
    /// another.
    place: Option<(String, u32)>,
    /// Nothing is attached any more.
    stopped: bool,
}

impl HealthCheckProgram {
    /// Nothing yet. What a balancer that was killed may have left at the egress of the balancer's
    /// interface or `other` is removed.
    pub(super) fn new(balancer: &str, other: Option<&str>) -> Self {
        for name in [Some(balancer), other].into_iter().flatten() {
            match HealthCheck::remove_stale(name) {
                Ok(false) => {}
                Ok(true) => tracing::info!(
                    "interface {name}: a filter for health checks was left over, and is removed"
                ),
                // What needs the interface says so.
                Err(error) => tracing::debug!("{error}"),
            }
        }
        Self {
            balancer: balancer.to_owned(),
            program: None,
            place: None,
            stopped: false,
        }
    }

    /// Takes the program off its interface for good.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.unload();
    }

    fn unload(&mut self) {
        self.place = None;
        self.program = None;
    }
}

impl HealthCheckSink for HealthCheckProgram {
    fn apply(&mut self, path: &HealthCheckPath) -> anyhow::Result<()> {
        if path.reals.is_empty() || self.stopped {
            self.unload();
            return Ok(());
        }
        let egress = ethernet(&self.balancer)?;
        let program = match &mut self.program {
            Some(program) => program,
            none => none.insert(HealthCheck::load()?),
        };
        // Also if it cannot be attached: the next hop may be another one.
        program.apply(&options(path, &self.balancer, &egress)?)?;
        let place = match &path.interface {
            Some(name) => (name.clone(), ethernet(name)?.index()),
            None => (self.balancer.clone(), egress.index()),
        };
        if self.place.as_ref() != Some(&place) {
            self.place = None;
            program.attach_to(&place.0, None)?;
            self.place = Some(place);
        }
        Ok(())
    }

    fn state(&self) -> anyhow::Result<HealthCheckState> {
        let Some(program) = &self.program else {
            return Ok(HealthCheckState::default());
        };
        let hook = program.hook().map(|hook| hook.to_string());
        let interface = self.place.as_ref().map(|(name, _)| name.clone());
        Ok(HealthCheckState {
            attached: interface.zip(hook),
            counters: program
                .counters()?
                .iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            traffic: program
                .traffic()?
                .into_iter()
                .map(|(mark, traffic)| (mark, (traffic.packets, traffic.bytes)))
                .collect(),
        })
    }
}

/// Opens an interface whose frames the program can rewrite.
fn ethernet(name: &str) -> anyhow::Result<Interface> {
    let interface =
        Interface::open(name).with_context(|| format!("interface {name}: cannot be found"))?;
    if !interface.is_ethernet()? {
        bail!(
            "interface {name}: its frames have no Ethernet header, so probes cannot be rewritten"
        );
    }
    Ok(interface)
}

fn options(
    path: &HealthCheckPath,
    name: &str,
    egress: &Interface,
) -> anyhow::Result<HealthCheckOptions> {
    let MacAddress(source_mac) = egress
        .mac()
        .with_context(|| format!("interface {name}: its address is unknown"))?;
    let elsewhere = path.interface.as_ref().is_some_and(|place| place != name);
    Ok(HealthCheckOptions {
        interface: elsewhere.then(|| egress.index()),
        source_mac,
        next_hop_mac: path.next_hop.map(|MacAddress(mac)| mac),
        // A family without a source has no reals (checked), so the address is never sent.
        source_v4: path.source_v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        source_v6: path.source_v6.unwrap_or(Ipv6Addr::UNSPECIFIED),
        gue_port: path.gue_port,
        max_frame: path.max_frame,
        reals: path.reals.clone(),
    })
}
