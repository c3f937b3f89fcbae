//! Starting, idling and stopping.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use benches::balancer::Launch;
use benches::lab::plan::BALANCER_INTERFACE;
use benches::lab::{Lab, LabOptions, cpu_time};
use benches::traffic::run_connections;
use nix::sys::signal::Signal;

use super::support::{
    FAMILIES, PORT, assert_nothing_dropped, exchanges, launch, require, servers, start, vip,
};

/// How long the idle workers are watched.
const IDLE: Duration = Duration::from_secs(10);
/// Most of one core that all threads together may use meanwhile.
const IDLE_SHARE: f64 = 0.005;

#[test]
fn idle_workers_sleep() -> Result<()> {
    require!(idle_workers_sleep);
    let lab = Lab::new(LabOptions::default())?;
    let _servers = servers(&lab, 0..3)?;
    let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 0..3));
    let balancer = start(&lab, &vips)?;
    // They sleep after traffic too, not only before the first packet.
    for vip in &vips {
        let tally = run_connections(lab.client(0), &exchanges(vip, 100, 1_000), |_| ())?;
        assert_eq!(tally.answered(), 100, "{tally:?}");
    }
    thread::sleep(Duration::from_secs(1));
    let before = cpu_time(balancer.id())?;
    thread::sleep(IDLE);
    let used = cpu_time(balancer.id())?.saturating_sub(before);
    let share = used.div_duration_f64(IDLE);
    println!("idle: {:.3} % of a core", share * 100.0);
    assert!(
        share < IDLE_SHARE,
        "idle workers use {:.2} % of a core",
        share * 100.0
    );
    assert_nothing_dropped(&balancer)
}

#[test]
fn the_interface_is_left_as_found() -> Result<()> {
    require!(the_interface_is_left_as_found);
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let vips = [vip(0, false, PORT, "tcp", [0])];
    let links = lab.balancer_links();
    let found = links.link(BALANCER_INTERFACE)?;
    assert!(!found.xdp);
    let count = links.link_count()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let balancer = start(&lab, &vips)?;
        let served = links.link(BALANCER_INTERFACE)?;
        assert!(served.xdp, "{served:?}");
        assert_eq!(served.mtu, found.mtu);
        let socket = balancer.socket().to_owned();
        balancer.signal(signal)?;
        assert!(balancer.stop()?.success());
        assert_eq!(links.link(BALANCER_INTERFACE)?, found);
        assert_eq!(links.link_count()?, count);
        assert!(!socket.exists(), "the admin socket is left");
    }
    Ok(())
}

#[test]
fn wrong_starts_are_explained() -> Result<()> {
    require!(wrong_starts_are_explained);
    let lab = Lab::new(LabOptions {
        reals: 1,
        queues: 2,
        ..LabOptions::default()
    })?;
    let _servers = servers(&lab, [0])?;
    let vips = [vip(0, false, PORT, "tcp", [0])];
    let good = launch(&lab, &vips)?;
    let balancer = good.start(&lab)?;

    let refused = |launch: &Launch, words: &[&str]| -> Result<()> {
        let (status, text) = launch.fail(&lab)?;
        assert_eq!(status.code(), Some(1), "{text}");
        let text = text.to_lowercase();
        for word in words {
            assert!(text.contains(word), "no `{word}` in: {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
        Ok(())
    };
    // Beside the first one, with its own admin socket and with the same.
    let named = |name: &str| Launch {
        name: name.to_owned(),
        ..good.clone()
    };
    refused(&named("second"), &[BALANCER_INTERFACE])?;
    refused(&good, &["already"])?;
    refused(
        &Launch {
            interface: "nosuch0".to_owned(),
            ..named("missing")
        },
        &["nosuch0"],
    )?;
    refused(
        &Launch {
            queues: "0-7".to_owned(),
            ..named("queues")
        },
        &["queue", BALANCER_INTERFACE],
    )?;
    refused(
        &Launch {
            config: Some(lab.scratch().file("nosuch.toml")),
            ..named("config")
        },
        &["nosuch.toml"],
    )?;

    // None of it disturbed the one that runs.
    let tally = run_connections(lab.client(0), &exchanges(&vips[0], 100, 1_000), |_| ())?;
    assert_eq!(tally.answered(), 100, "{tally:?}");
    balancer.stop()?;

    // An MTU that leaves no room for the outer header of the packets that every path must carry.
    lab.balancer_links().set_mtu(BALANCER_INTERFACE, 1290)?;
    refused(&named("mtu"), &["mtu"])?;
    assert!(!lab.balancer_links().link(BALANCER_INTERFACE)?.xdp);
    Ok(())
}
