//! Open connections keep their real, whatever changes around them.

use std::time::Duration;

use anyhow::{Result, ensure};
use benches::balancer::{Balancer, Launch, Vip};
use benches::lab::{Lab, LabOptions};
use benches::traffic::{HeldConnections, run_connections};

use super::support::{
    FAMILIES, PORT, TIMEOUT, assert_nothing_dropped, exchanges, launch, real_address, require,
    servers, vip,
};

const CONNECTIONS: usize = 1_000;

/// Four reals of which the VIPs have three, so that one can come.
struct Setup {
    lab: Lab,
    vips: [Vip; 2],
    launch: Launch,
    _servers: Vec<benches::traffic::Server>,
}

impl Setup {
    fn new() -> Result<Self> {
        let lab = Lab::new(LabOptions {
            reals: 4,
            ..LabOptions::default()
        })?;
        let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 0..3));
        Ok(Self {
            launch: launch(&lab, &vips)?,
            _servers: servers(&lab, 0..4)?,
            lab,
            vips,
        })
    }

    /// Opens half of the connections over each family.
    fn hold(&self, rest: Duration) -> Result<Vec<HeldConnections>> {
        self.vips
            .iter()
            .map(|vip| {
                let plan = exchanges(vip, CONNECTIONS / 2, 2_000);
                HeldConnections::open(self.lab.client(0), &plan, rest)
            })
            .collect()
    }
}

/// None is broken, and as many are at each real as before.
fn assert_all_live(held: &[HeldConnections], after: &str) -> Result<()> {
    for held in held {
        let report = held.verify();
        ensure!(
            report.broken == 0 && report.alive() == CONNECTIONS as u64 / 2,
            "after {after}: {report:?}"
        );
        ensure!(
            (0..3).all(|real| report.of_server(real) > 0) && report.of_server(3) == 0,
            "after {after}: {report:?}"
        );
    }
    Ok(())
}

fn change(balancer: &Balancer, vip: &Vip, verb: &str, real: &str) -> Result<()> {
    balancer.ctl(["real", verb, &vip.name(), real])?;
    Ok(())
}

#[test]
fn changes_break_no_connection() -> Result<()> {
    require!(changes_break_no_connection);
    let setup = Setup::new()?;
    let balancer = setup.launch.start(&setup.lab)?;
    let held = setup.hold(Duration::from_millis(200))?;
    assert_all_live(&held, "opening")?;

    for (vip, v6) in setup.vips.iter().zip(FAMILIES) {
        balancer.set_weight(vip, real_address(0, v6), 10)?;
        balancer.set_weight(vip, real_address(1, v6), 3)?;
    }
    assert_all_live(&held, "other weights")?;

    for (vip, v6) in setup.vips.iter().zip(FAMILIES) {
        change(&balancer, vip, "add", &format!("{}@7", real_address(3, v6)))?;
    }
    assert_all_live(&held, "a real more")?;
    for vip in &setup.vips {
        let new = run_connections(setup.lab.client(0), &exchanges(vip, 200, 100), |_| ())?;
        assert_eq!(new.failed, 0, "{new:?}");
        assert!(new.of_server(3) > 0, "nothing to the new real: {new:?}");
    }

    for (vip, v6) in setup.vips.iter().zip(FAMILIES) {
        change(&balancer, vip, "del", &real_address(3, v6).to_string())?;
    }
    assert_all_live(&held, "removing the new real")?;

    for (vip, v6) in setup.vips.iter().zip(FAMILIES) {
        balancer.set_weight(vip, real_address(2, v6), 0)?;
    }
    assert_all_live(&held, "draining a real")?;
    for vip in &setup.vips {
        let new = run_connections(setup.lab.client(0), &exchanges(vip, 200, 100), |_| ())?;
        assert_eq!((new.of_server(2), new.failed), (0, 0), "{new:?}");
    }

    for (vip, v6) in setup.vips.iter().zip(FAMILIES) {
        change(&balancer, vip, "del", &real_address(2, v6).to_string())?;
    }
    // Flows in the table keep a removed real too.
    assert_all_live(&held, "removing a real with connections")
}

#[test]
fn a_restart_breaks_no_transfer() -> Result<()> {
    require!(a_restart_breaks_no_transfer);
    let setup = Setup::new()?;
    let mut balancer = setup.launch.start(&setup.lab)?;
    let held = setup.hold(Duration::ZERO)?;
    for round in ["one restart", "two restarts"] {
        for held in &held {
            held.wait_for_exchanges(CONNECTIONS as u64, TIMEOUT)?;
        }
        let status = balancer.stop()?;
        assert!(status.success(), "SIGTERM: {status}");
        balancer = setup.launch.start(&setup.lab)?;
        assert_all_live(&held, round)?;
        // Packets arrive from the first moment on, and the next hop is known by then.
        assert_nothing_dropped(&balancer)?;
    }
    Ok(())
}

#[test]
fn a_killed_balancer_starts_again() -> Result<()> {
    require!(a_killed_balancer_starts_again);
    let setup = Setup::new()?;
    let balancer = setup.launch.start(&setup.lab)?;
    let held = setup.hold(Duration::from_millis(50))?;
    balancer.kill()?;
    // Its socket lies where it was, but nobody listens; the interface is free again.
    let _balancer = setup.launch.start(&setup.lab)?;
    assert_all_live(&held, "SIGKILL and a new start")
}
