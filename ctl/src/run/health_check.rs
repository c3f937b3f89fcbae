//! The health-check path of a running balancer: the tc program `healthcheck`, loaded with the first
//! mark and attached while there are any.

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
        }
    }

    /// Takes the program off its interface.
    pub(super) fn detach(&mut self) {
        self.place = None;
        if let Some(program) = &mut self.program {
            program.detach();
        }
    }
}

impl HealthCheckSink for HealthCheckProgram {
    fn apply(&mut self, path: &HealthCheckPath) -> anyhow::Result<()> {
        if path.reals.is_empty() && self.program.is_none() {
            return Ok(());
        }
        let egress = open(&self.balancer)?;
        let options = options(path, &self.balancer, &egress)?;
        let mut program = match self.program.take() {
            Some(program) => program,
            None => HealthCheck::load()?,
        };
        let result = program.apply(&options);
        let program = self.program.insert(program);
        result?;
        if path.reals.is_empty() {
            self.detach();
            return Ok(());
        }
        let place = match &path.interface {
            Some(name) => (name.clone(), open(name)?.index()),
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

fn open(name: &str) -> anyhow::Result<Interface> {
    Interface::open(name).with_context(|| format!("interface {name}: cannot be found"))
}

fn options(
    path: &HealthCheckPath,
    name: &str,
    egress: &Interface,
) -> anyhow::Result<HealthCheckOptions> {
    for place in [Some(name), path.interface.as_deref()]
        .into_iter()
        .flatten()
    {
        if !open(place)?.is_ethernet()? {
            bail!(
                "interface {place}: has no Ethernet headers, so probes cannot be rewritten there"
            );
        }
    }
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
