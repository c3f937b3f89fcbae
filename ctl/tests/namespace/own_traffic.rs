//! What is for the balancer itself is left alone, and a VIP answers pings.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use benches::lab::{Lab, LabOptions, plan};
use benches::traffic::{HeldConnections, Server, ping, run_connections, run_datagrams};

use super::support::{
    FAMILIES, PORT, TIMEOUT, assert_nothing_dropped, exchanges, require, servers, start, vip,
};

const OWN: [IpAddr; 2] = [IpAddr::V4(plan::BALANCER_V4), IpAddr::V6(plan::BALANCER_V6)];
const PINGS: u16 = 200;

#[test]
fn the_balancers_own_address_is_unharmed() -> Result<()> {
    require!(the_balancers_own_address_is_unharmed);
    let lab = Lab::new(LabOptions::default())?;
    let _servers = servers(&lab, 0..3)?;
    // On the VIP's port, so that only the address tells the packets apart.
    let _own = Server::start(lab.balancer(), 99, &OWN, PORT)?;
    let vips = FAMILIES
        .map(|v6| ["tcp", "udp"].map(|protocol| vip(0, v6, PORT, protocol, 0..3)))
        .concat();
    let client = lab.client(0);
    let to_own = |address: IpAddr, count| {
        let mut plan = exchanges(&vips[0], count, 5_000);
        plan.target = (address, PORT).into();
        plan
    };
    // From before the balancer starts until after it has ended.
    let held = OWN
        .into_iter()
        .map(|address| {
            HeldConnections::open(client, &to_own(address, 20), Duration::from_millis(5))
        })
        .collect::<Result<Vec<_>>>()?;

    let balancer = start(&lab, &vips)?;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<()> {
            for vip in &vips {
                let plan = exchanges(vip, 1000, 1_000);
                let tally = if vip.protocol == "tcp" {
                    run_connections(client, &plan, |_| ())?
                } else {
                    run_datagrams(client, &plan, |_| ())?
                };
                assert_eq!(tally.answered(), 1000, "{}: {tally:?}", vip.name());
                assert_eq!(tally.of_server(99), 0, "{}: {tally:?}", vip.name());
            }
            Ok(())
        });
        for address in OWN {
            assert_eq!(ping(client, address, PINGS, TIMEOUT)?, PINGS, "{address}");
            let tally = run_connections(client, &to_own(address, 200), |_| ())?;
            assert_eq!(tally.of_server(99), 200, "{address}: {tally:?}");
        }
        load.join().expect("no panic under load")
    })?;
    assert_nothing_dropped(&balancer)?;
    assert!(balancer.stop()?.success());
    for held in held {
        let report = held.verify();
        assert_eq!((report.of_server(99), report.broken), (20, 0), "{report:?}");
    }
    Ok(())
}

#[test]
fn a_vip_answers_pings() -> Result<()> {
    require!(a_vip_answers_pings);
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", [0]));
    let balancer = start(&lab, &vips)?;
    for vip in &vips {
        let answered = ping(lab.client(0), vip.address, PINGS, TIMEOUT)?;
        assert_eq!(answered, PINGS, "{}", vip.address);
    }
    let counters = balancer.ctl(["show", "stats"])?;
    assert!(
        counters["counters"]["echo-replies"].as_u64() >= Some(u64::from(PINGS) * 2),
        "{counters}"
    );
    Ok(())
}
