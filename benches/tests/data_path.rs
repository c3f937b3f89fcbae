//! The data path inside the lab without the program around it: the XDP program, a socket and a
//! worker per queue, and `decap` on the reals.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use benches::lab::{Lab, LabOptions, plan, requirements};
use benches::traffic::{Plan, Server, run_connections, run_datagrams};
use benches::vips;
use dataplane::counters::WorkerCounters;
use dataplane::forward::{Forwarder, ForwarderConfig};
use dataplane::port::NoPassPath;
use dataplane::service::{
    Encapsulation, MacAddress, Protocol, Publisher, RealSpec, ServiceControl, ServiceSpec,
    Settings, VipFlags, VipKey, VipSpec,
};
use dataplane::worker::{WorkerConfig, WorkerHandle, spawn};
use dataplane::xsk::{XskConfig, XskPort};
use maglev::HashFunction;
use xdp_redirect::{Redirect, XdpMode};

const PORT: u16 = 7000;
const QUEUES: u32 = 2;
const REALS: u8 = 2;

fn spec(lab: &Lab, encapsulation: Encapsulation) -> Result<ServiceSpec> {
    let router = lab.router_links().link(lab.balancer().name())?;
    let vip = |address: IpAddr, protocol, reals: [IpAddr; REALS as usize]| VipSpec {
        key: VipKey::exact(address, PORT, protocol),
        hash: HashFunction::MaglevV2,
        flags: VipFlags::empty(),
        reals: reals
            .map(|address| RealSpec {
                address,
                weight: 1,
                local: false,
                down: false,
            })
            .to_vec(),
    };
    let v4 = [0, 1].map(|i| plan::real_v4(i).into());
    let v6 = [0, 1].map(|i| plan::real_v6(i).into());
    Ok(ServiceSpec {
        settings: Settings {
            next_hop_mac: Some(MacAddress(router.address)),
            encapsulation,
            ..Settings::default()
        },
        vips: vec![
            vip(plan::vip_v4(0).into(), Protocol::Tcp, v4),
            vip(plan::vip_v4(0).into(), Protocol::Udp, v6),
            vip(plan::vip_v6(0).into(), Protocol::Tcp, v6),
            vip(plan::vip_v6(0).into(), Protocol::Udp, v6),
        ],
        ..ServiceSpec::default()
    })
}

fn balance(encapsulation: Encapsulation) -> Result<()> {
    let lab = Lab::new(LabOptions {
        reals: REALS,
        queues: QUEUES,
        ..LabOptions::default()
    })?;
    let addresses: [IpAddr; 2] = [plan::vip_v4(0).into(), plan::vip_v6(0).into()];
    let _servers = (0..REALS)
        .map(|i| Server::start(lab.real(i), i.into(), &addresses, PORT))
        .collect::<Result<Vec<_>>>()?;

    let table = ServiceControl::new().apply(&spec(&lab, encapsulation)?)?;
    let publisher = Publisher::new(Arc::clone(&table));
    let (mut redirect, workers) = lab.balancer().run(|| -> Result<_> {
        let mut redirect = Redirect::attach(plan::BALANCER_INTERFACE, XdpMode::Native)?;
        redirect.apply_vips(&vips::entries(&table))?;
        let workers = (0..QUEUES)
            .map(|queue| {
                let port = XskPort::open(&XskConfig::new(plan::BALANCER_INTERFACE, queue))?;
                redirect.set_socket(queue, port.socket_fd())?;
                let forwarder = Forwarder::new(
                    &ForwarderConfig {
                        flow_table_capacity: 10_000,
                        seeds: [1, 2, 3, 4],
                    },
                    Arc::clone(&table),
                    Arc::new(WorkerCounters::new()),
                )?;
                let config = WorkerConfig {
                    queue,
                    ..WorkerConfig::default()
                };
                let pass = Box::new(NoPassPath);
                Ok(spawn(
                    &config,
                    port,
                    forwarder,
                    publisher.subscribe(),
                    pass,
                )?)
            })
            .collect::<Result<Vec<WorkerHandle>>>()?;
        Ok((redirect, workers))
    })??;

    for address in addresses {
        let plan = Plan {
            target: (address, PORT).into(),
            count: 300,
            concurrency: 20,
            payload: 20_000,
            timeout: Duration::from_secs(30),
        };
        let tally = run_connections(lab.client(0), &plan, |_| ())?;
        assert_eq!(tally.answered(), 300, "{address}: {tally:?}");
        assert!((0..2).all(|real| tally.of_server(real) > 50), "{tally:?}");
        let plan = Plan {
            payload: 1_400,
            ..plan
        };
        let tally = run_datagrams(lab.client(0), &plan, |_| ())?;
        assert_eq!(tally.answered(), 300, "{address}: {tally:?}");
        assert!((0..2).all(|real| tally.of_server(real) > 50), "{tally:?}");
    }

    let redirected = redirect.counters()?.redirected();
    for queue in 0..QUEUES {
        redirect.clear_socket(queue)?;
    }
    let mut transmitted = 0;
    for worker in workers {
        let counters = Arc::clone(worker.counters());
        let report = worker.stop();
        assert!(report.error.is_none(), "{report:?}");
        assert_eq!(counters.unaccounted(), 0);
        let (sent, _) = counters.transmitted.get();
        assert_eq!(counters.received.get().0, sent, "{counters:?}");
        assert!(sent > 0, "no packets on queue {}", report.queue);
        transmitted += sent;
    }
    assert_eq!(redirected, transmitted);
    let mut decapsulated = 0;
    for real in 0..REALS {
        decapsulated += lab.decap_counters(real)?.stripped().packets;
    }
    assert_eq!(decapsulated, transmitted);
    Ok(())
}

#[test]
fn ipip_carries_every_payload() -> Result<()> {
    if !requirements::met_or_skip("ipip_carries_every_payload", &[]) {
        return Ok(());
    }
    balance(Encapsulation::Ipip)
}

#[test]
fn gue_carries_every_payload() -> Result<()> {
    if !requirements::met_or_skip("gue_carries_every_payload", &[]) {
        return Ok(());
    }
    balance(Encapsulation::Gue {
        port: xdp_redirect::DEFAULT_GUE_PORT,
        source_v4: plan::BALANCER_V4,
        source_v6: plan::BALANCER_V6,
    })
}
