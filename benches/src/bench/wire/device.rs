//! What is measured: a datapath on the near end's interface.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use dataplane::{
    counters::{DropReason, WorkerCounters},
    forward::{Forwarder, ForwarderConfig},
    port::NoPassPath,
    service::{Publisher, ServiceControl, ServiceTable},
    worker::{self, Balance, Priority, WorkerConfig, WorkerHandle},
    xsk::{SocketMode, SocketProbe, XskConfig, XskPort},
};
use xdp_redirect::{Balancer, BalancerEvent, CountCounter, Redirect, ReflectProgram, XdpMode};

use super::{
    account::Workers,
    reflect::Reflect,
    site::{Cpus, Site},
};
use crate::bench::{
    asked::Asked,
    row::{Datapath, Scheduling},
    services,
};
use crate::vips;

/// A datapath that forwards, until it is dropped.
pub(crate) enum Device {
    Reflect(Box<ReflectProgram>),
    Kernel(Box<Balancer>),
    Workers(Box<Group>),
}

/// An XDP program that redirects, and a worker for each queue.
pub(crate) struct Group {
    /// Before the workers, so that nothing arrives when they go.
    redirect: Redirect,
    workers: Vec<Worker>,
    /// Whether workers ask a flow table.
    decides: bool,
    /// Where workers look for a newer table.
    _publisher: Publisher,
}

struct Worker {
    handle: WorkerHandle,
    counters: Arc<WorkerCounters>,
    socket: SocketProbe,
}

/// What the datapath counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) seen: u64,
    pub(crate) not_forwarded: u64,
    pub(crate) transmitted: u64,
    pub(crate) workers: Option<Workers>,
    pub(crate) asked: Option<Asked>,
}

/// What a device is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceOptions {
    pub(crate) datapath: Datapath,
    pub(crate) scheduling: Scheduling,
    /// Flows that each queue's table has room for.
    pub(crate) flows: u64,
}

impl Device {
    /// Starts a datapath on the site's near end.
    pub(crate) fn start(options: DeviceOptions, site: &Site, cpus: &Cpus) -> Result<Self> {
        let (far_mac, _) = site.macs()?;
        let table = ServiceControl::new().apply(&services::services(far_mac))?;
        let name = site.near_name.as_str();
        match options.datapath {
            Datapath::Reflect => {
                let program = site
                    .near
                    .run(|| ReflectProgram::attach(name, XdpMode::Native))??;
                Ok(Self::Reflect(Box::new(program)))
            }
            Datapath::Kernel => {
                let mut balancer = services::in_kernel(&table, options.flows)?;
                site.near
                    .run(|| balancer.attach_to(name, XdpMode::Native))??;
                Ok(Self::Kernel(Box::new(balancer)))
            }
            Datapath::L2fwd | Datapath::Xsk => {
                let group = site
                    .near
                    .run(|| Group::start(options, &table, site, cpus))??;
                Ok(Self::Workers(Box::new(group)))
            }
        }
    }

    /// What it counted so far.
    pub(crate) fn counted(&self) -> Result<Counted> {
        match self {
            Self::Reflect(program) => {
                let frames = program.frames()?;
                Ok(Counted {
                    seen: frames,
                    transmitted: frames,
                    ..Counted::default()
                })
            }
            Self::Kernel(balancer) => {
                let counters = balancer.counters()?;
                Ok(Counted {
                    seen: counters.received().packets,
                    transmitted: counters.transmitted().packets,
                    not_forwarded: counters.passed().packets + counters.dropped().packets,
                    workers: None,
                    asked: Some(Asked {
                        received: counters.received().packets,
                        ring: counters.event(BalancerEvent::RingSelections),
                    }),
                })
            }
            Self::Workers(group) => group.counted(),
        }
    }

    /// Fails when part of it has ended.
    pub(crate) fn check(&self) -> Result<()> {
        if let Self::Workers(group) = self {
            for worker in &group.workers {
                if let Some(error) = worker.handle.error() {
                    return Err(anyhow!("{error}").context("a worker has ended"));
                }
            }
        }
        Ok(())
    }
}

/// As what the far end counts the frames that a datapath sends.
pub(crate) const fn looks_like(datapath: Datapath) -> CountCounter {
    match datapath {
        Datapath::Reflect => CountCounter::Returned,
        Datapath::L2fwd => CountCounter::Reflected,
        Datapath::Kernel | Datapath::Xsk => CountCounter::Encapsulated,
    }
}

impl Group {
    /// Called in the namespace of the near end.
    fn start(
        options: DeviceOptions,
        table: &Arc<ServiceTable>,
        site: &Site,
        cpus: &Cpus,
    ) -> Result<Self> {
        let name = site.near_name.as_str();
        let publisher = Publisher::new(Arc::clone(table));
        let mut redirect = Redirect::load()?;
        redirect.apply_vips(&vips::entries(table))?;
        redirect.attach_to(name, XdpMode::Native)?;
        let mut workers = Vec::new();
        for queue in 0..site.queues {
            let mut config = XskConfig::new(name, queue);
            config.mode = SocketMode::Copy;
            let port = XskPort::open(&config)?;
            redirect.set_socket(queue, port.socket_fd())?;
            let socket = port.probe();
            let counters = Arc::new(WorkerCounters::new());
            let forwarder = Forwarder::new(
                &ForwarderConfig {
                    flow_table_capacity: options.flows as usize,
                    seeds: [21, 22, 23, 24],
                },
                publisher.current(),
                Arc::clone(&counters),
            )?;
            let config = WorkerConfig {
                queue,
                cpu: cpus.workers.get(queue as usize).copied(),
                spin: None,
                priority: match options.scheduling {
                    Scheduling::Normal => Priority::Normal,
                    Scheduling::RealTime => Priority::RealTime,
                },
            };
            let subscription = publisher.subscribe();
            let pass = Box::new(NoPassPath);
            let handle = match options.datapath {
                Datapath::L2fwd => {
                    worker::spawn_deciding(&config, port, forwarder, subscription, pass, Reflect)
                }
                _ => worker::spawn_deciding(&config, port, forwarder, subscription, pass, Balance),
            }
            .context("cannot start a worker")?;
            workers.push(Worker {
                handle,
                counters,
                socket,
            });
        }
        ensure!(!workers.is_empty(), "no queue, no worker");
        Ok(Self {
            redirect,
            workers,
            decides: options.datapath == Datapath::Xsk,
            _publisher: publisher,
        })
    }

    fn counted(&self) -> Result<Counted> {
        let program = self.redirect.counters()?;
        let mut all = Workers {
            redirected: program.redirected(),
            ..Workers::default()
        };
        let mut transmitted = 0;
        let mut ring = 0;
        for Worker {
            counters, socket, ..
        } in &self.workers
        {
            let socket = socket.statistics().context("cannot ask a socket")?;
            all.socket_drops += socket.rx_ring_full + socket.rx_dropped;
            all.received += counters.received.packets.get();
            transmitted += counters.transmitted.packets.get();
            ring += counters.ring_selections.get();
            all.not_forwarded += counters.passed.packets.get();
            for &reason in DropReason::ALL {
                all.not_forwarded += counters.dropped(reason).0;
            }
        }
        Ok(Counted {
            seen: program.redirected() + program.passed(),
            not_forwarded: program.passed(),
            transmitted,
            workers: Some(all),
            asked: self.decides.then_some(Asked {
                received: all.received,
                ring,
            }),
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.redirect.detach();
    }
}
