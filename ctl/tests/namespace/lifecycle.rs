//! Starting, idling and stopping.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use benches::balancer::{Balancer, Launch};
use benches::lab::plan::BALANCER_INTERFACE;
use benches::lab::{Lab, LabOptions, Netlink, cpu_time};
use benches::traffic::run_connections;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::support::{
    FAMILIES, PORT, TIMEOUT, assert_nothing_dropped, binary, exchanges, launch, program, require,
    servers, start, vip, wait_until,
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
fn the_slow_xdp_mode_is_warned_of() -> Result<()> {
    require!(the_slow_xdp_mode_is_warned_of);
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let mut launch = launch(&lab, &[vip(0, false, PORT, "tcp", [0])])?;
    // The loopback interface runs no program by itself.
    launch.interface = "lo".to_owned();
    let balancer = launch.start(&lab)?;
    let warning = " WARN XDP runs in the network stack (generic), which is slow, because native mode failed: ";
    wait_until("the warning", TIMEOUT, || {
        Ok(balancer.log().contains(warning))
    })
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
    let process = format!("process {};", balancer.id());
    let running = [BALANCER_INTERFACE, "already running", process.as_str()];
    refused(&named("second"), &running)?;
    refused(&good, &running)?;
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

#[test]
fn an_mtu_that_somebody_changes_is_told() -> Result<()> {
    require!(an_mtu_that_somebody_changes_is_told);
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let vips = [vip(0, false, PORT, "tcp", [0])];
    let links = lab.balancer_links();
    let found = links.link(BALANCER_INTERFACE)?.mtu;
    let balancer = start(&lab, &vips)?;
    for (mtu, told) in [
        (
            1400,
            "the MTU of 1400 lets packets of at most 1380 bytes leave",
        ),
        (1290, "would not start again"),
        (found, "all packets fit the MTU again"),
    ] {
        links.set_mtu(BALANCER_INTERFACE, mtu)?;
        wait_until(told, TIMEOUT, || Ok(balancer.log().contains(told)))?;
        let config = balancer.ctl(["show", "config"])?;
        assert_eq!(config["mtu"], mtu);
        assert_eq!(config["mtu_warning"].is_null(), mtu == found, "{config}");
    }
    assert!(balancer.stop()?.success());
    Ok(())
}

/// Waits until the log has a line that it had not before, and gives what `show config` says then.
fn config_once_told(balancer: &Balancer, told: &str, before: &str) -> Result<Value> {
    wait_until(told, TIMEOUT, || {
        let log = balancer.log();
        Ok(log.strip_prefix(before).unwrap_or(&log).contains(told))
    })?;
    balancer.ctl(["show", "config"])
}

#[test]
fn a_link_that_changes_is_told() -> Result<()> {
    require!(a_link_that_changes_is_told);
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let balancer = start(&lab, &[vip(0, false, PORT, "tcp", [0])])?;
    assert_eq!(balancer.ctl(["show", "config"])?["link"], "up");
    let links = lab.balancer_links();
    let other_end = Netlink::open(lab.router())?;
    let to_balancer = lab.balancer().name();
    let down = format!(" WARN interface {BALANCER_INTERFACE} is down: ");
    let no_carrier = format!(" WARN interface {BALANCER_INTERFACE} has no carrier: ");
    let change = |told: &str, state: &str, set: &dyn Fn() -> Result<()>| -> Result<()> {
        let before = balancer.log();
        set()?;
        let config = config_once_told(&balancer, told, &before)?;
        assert_eq!(config["link"], state, "{config}");
        Ok(())
    };
    change(&no_carrier, "no-carrier", &|| {
        other_end.set_down(to_balancer)
    })?;
    change("the link is up again", "up", &|| {
        other_end.set_up(to_balancer)
    })?;
    change(&down, "down", &|| links.set_down(BALANCER_INTERFACE))?;
    change("the link is up again", "up", &|| {
        links.set_up(BALANCER_INTERFACE)
    })?;
    assert!(balancer.stop()?.success());
    Ok(())
}

#[test]
fn queues_that_come_without_a_worker_are_told() -> Result<()> {
    require!(queues_that_come_without_a_worker_are_told);
    let lab = Lab::new(LabOptions {
        reals: 1,
        queues: 4,
        ..LabOptions::default()
    })?;
    let set_queues = |count| lab.balancer().set_queues(BALANCER_INTERFACE, count);
    // The balancer's end takes no XDP program with fewer queues than the other end sends on.
    lab.router().set_queues(lab.balancer().name(), 2)?;
    set_queues(2)?;
    let balancer = start(&lab, &[vip(0, false, PORT, "tcp", [0])])?;
    let config = balancer.ctl(["show", "config"])?;
    assert_eq!(config["queues"], json!([0, 1]));
    assert_eq!(config["queues_without_worker"], json!([]));
    for (count, told, without) in [
        (4, " WARN queues without a worker: 2-3; ", json!([2, 3])),
        (2, "all queues have a worker", json!([])),
    ] {
        let before = balancer.log();
        set_queues(count)?;
        let config = config_once_told(&balancer, told, &before)?;
        assert_eq!(config["queues_without_worker"], without, "{config}");
    }
    assert!(balancer.stop()?.success());
    Ok(())
}

#[test]
fn too_little_memory_that_may_be_locked_is_explained() -> Result<()> {
    require!(
        too_little_memory_that_may_be_locked_is_explained,
        "prlimit",
        "setpriv",
        "timeout"
    );
    let lab = Lab::new(LabOptions {
        reals: 0,
        queues: 1,
        ..LabOptions::default()
    })?;
    let mut command = program(lab.balancer(), "timeout")?;
    command
        .args(["60", "prlimit", "--memlock=65536:65536"])
        .args(["setpriv", "--bounding-set=-ipc_lock"])
        .args([binary(), "run", "--iface", BALANCER_INTERFACE, "--socket"])
        .arg(lab.scratch().file("admin.sock"));
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in [BALANCER_INTERFACE, "65536 bytes", "LimitMEMLOCK=infinity"] {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    assert!(!lab.balancer_links().link(BALANCER_INTERFACE)?.xdp);
    Ok(())
}

#[test]
fn an_admin_socket_that_cannot_be_made_stops_the_start() -> Result<()> {
    require!(
        an_admin_socket_that_cannot_be_made_stops_the_start,
        "timeout"
    );
    let lab = Lab::new(LabOptions {
        reals: 0,
        ..LabOptions::default()
    })?;
    let mut command = program(lab.balancer(), "timeout")?;
    command
        .args(["60", binary(), "run", "--iface", BALANCER_INTERFACE])
        .arg("--socket")
        .arg(lab.scratch().file("no/such/admin.sock"));
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("admin socket"), "{text}");
    Ok(())
}

#[test]
fn nobody_needs_to_read_what_it_says() -> Result<()> {
    require!(nobody_needs_to_read_what_it_says, "timeout");
    let lab = Lab::new(LabOptions {
        reals: 0,
        ..LabOptions::default()
    })?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = program(lab.balancer(), "timeout")?;
    command
        .args(["--signal=TERM", "2", binary(), "run"])
        .args(["--iface", BALANCER_INTERFACE, "--socket"])
        .arg(lab.scratch().file("admin.sock"))
        .stdout(writer);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    // It served until `timeout` ended it.
    assert_eq!(output.status.code(), Some(124), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    Ok(())
}
