//! `--datapath kernel`: the same services, commands and end, without workers.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::balancer::{Balancer, Launch, Vip, configuration};
use benches::lab::plan::BALANCER_INTERFACE;
use benches::lab::{Lab, LabOptions};
use benches::traffic::{HeldConnections, ping, run_connections, run_datagrams};
use nix::sys::signal::Signal;
use xdp_redirect::{PassProgram, XdpMode};

use super::support::{
    FAMILIES, FLOWS, PORT, TIMEOUT, assert_nothing_dropped, exchanges, launch, output, program,
    real_address, require, servers, vip, wait_until,
};

const CONNECTIONS: usize = 200;

/// A veth delivers what its peer transmits by XDP only if it has a program itself.
fn receiver(lab: &Lab) -> Result<PassProgram> {
    let link = lab.balancer().name().to_owned();
    let attached = lab
        .router()
        .run(move || PassProgram::attach(&link, XdpMode::Native))?;
    attached.context("the router's end of the link")
}

fn in_kernel(lab: &Lab, vips: &[Vip]) -> Result<Launch> {
    let mut launch = launch(lab, vips)?;
    launch
        .arguments
        .extend(["--datapath".to_owned(), "kernel".to_owned()]);
    Ok(launch)
}

fn hold(lab: &Lab, vip: &Vip) -> Result<HeldConnections> {
    let plan = exchanges(vip, CONNECTIONS, 1_000);
    HeldConnections::open(lab.client(0), &plan, Duration::from_millis(100))
}

fn assert_all_live(held: &[HeldConnections], after: &str) -> Result<()> {
    for held in held {
        let report = held.verify();
        ensure!(
            report.broken == 0 && report.alive() == CONNECTIONS as u64,
            "after {after}: {report:?}"
        );
    }
    Ok(())
}

/// What a command says that is refused.
fn refusal(balancer: &Balancer, words: &[&str]) -> Result<String> {
    match balancer.ctl(words) {
        Ok(answer) => anyhow::bail!("{words:?} was carried out: {answer}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn the_kernel_balances_and_obeys_the_admin_socket() -> Result<()> {
    require!(the_kernel_balances_and_obeys_the_admin_socket);
    let lab = Lab::new(LabOptions::default())?;
    let _receiver = receiver(&lab)?;
    let _servers = servers(&lab, 0..3)?;
    let tcp = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 0..2));
    let udp = FAMILIES.map(|v6| vip(0, v6, PORT, "udp", 0..3));
    let vips: Vec<Vip> = tcp.iter().chain(&udp).cloned().collect();
    let links = lab.balancer_links();
    let found = links.link(BALANCER_INTERFACE)?;
    let launch = in_kernel(&lab, &vips)?;
    let balancer = launch.start(&lab)?;
    assert!(
        balancer.log().contains("datapath   kernel"),
        "{}",
        balancer.log()
    );

    // Both protocols, both families, and echo.
    for vip in &udp {
        let tally = run_datagrams(lab.client(0), &exchanges(vip, 300, 100), |_| ())?;
        assert_eq!(tally.answered(), 300, "{tally:?}");
        for server in 0..3 {
            assert!(tally.of_server(server) > 0, "{tally:?}");
        }
    }
    for vip in &tcp {
        let answers = ping(lab.client(0), vip.address, 3, TIMEOUT)?;
        assert_eq!(answers, 3);
    }
    let held = tcp
        .iter()
        .map(|vip| hold(&lab, vip))
        .collect::<Result<Vec<_>>>()?;
    assert_all_live(&held, "opening")?;

    // Weights and reals change; connections stay where they are.
    for (vip, v6) in tcp.iter().zip(FAMILIES) {
        balancer.set_weight(vip, real_address(0, v6), 0)?;
        let third = format!("{}@1", real_address(2, v6));
        balancer.ctl(["real", "add", &vip.name(), &third])?;
        let new = run_connections(lab.client(0), &exchanges(vip, 200, 100), |_| ())?;
        assert_eq!((new.of_server(0), new.failed), (0, 0), "{new:?}");
        assert!(new.of_server(2) > 0, "nothing to the new real: {new:?}");
    }
    assert_all_live(&held, "weights and reals")?;

    // Flows lie in the kernel and are found all the same.
    let counts = balancer.ctl(["flow", "count", &tcp[0].name()])?;
    let counted = counts["total"].as_u64().unwrap_or(0);
    assert!(counted >= CONNECTIONS as u64, "{counts}");
    // No held connection is on the new real, and the others may be forgotten.
    let on_new_real = format!("real={}", real_address(2, FAMILIES[0]));
    let list = balancer.ctl(["flow", "list", &tcp[0].name(), &on_new_real, "limit=1"])?;
    let flow = &list["flows"][0];
    let end = |name: &str| flow[name].as_str().unwrap_or_default().to_owned();
    let (source, destination) = (end("source"), end("destination"));
    let named = [source.as_str(), destination.as_str(), "tcp"];
    let explained = balancer.ctl(["explain"].into_iter().chain(named))?;
    assert_eq!(explained["by"], "table", "{explained}");
    assert_eq!(explained["real"], flow["real"], "{explained}");
    let removed = balancer.ctl(["flow", "del"].into_iter().chain(named))?;
    assert_eq!(removed["removed"], 1, "{removed}");
    let explained = balancer.ctl(["explain"].into_iter().chain(named))?;
    assert_eq!(explained["by"], "ring", "{explained}");
    let datagrams = balancer.ctl(["flow", "count", &udp[0].name()])?;
    assert_ne!(datagrams["total"], 0, "{datagrams}");
    let purged = balancer.ctl(["flow", "purge", &udp[0].name()])?;
    assert_eq!(purged["removed"], datagrams["total"], "{purged}");
    let datagrams = balancer.ctl(["flow", "count", &udp[0].name()])?;
    assert_eq!(datagrams["total"], 0, "{datagrams}");
    balancer.ctl(["flow", "analyze"])?;

    // What it cannot do it says, and nothing changes.
    let before = balancer.ctl(["dump"])?;
    let quic = refusal(&balancer, &["vip", "set", &udp[0].name(), "flags=quic"])?;
    assert!(quic.contains("--datapath kernel cannot"), "{quic}");
    assert!(quic.contains("use --datapath xsk"), "{quic}");
    let file = lab.scratch().file("kernel.pcapng");
    let file = format!("file={}", file.display());
    let capture = refusal(&balancer, &["capture", "start", "event=pass", &file])?;
    assert!(capture.contains("use --datapath xsk"), "{capture}");
    assert!(!capture.contains("show workers"), "{capture}");
    assert_eq!(balancer.ctl(["dump"])?, before);

    // A reload takes the file's word again.
    let file = launch.config.clone().context("there is a file")?;
    fs::write(&file, configuration(&tcp, FLOWS))?;
    let said = balancer.log().len();
    balancer.signal(Signal::SIGHUP)?;
    wait_until("the reload", TIMEOUT, || {
        Ok(balancer.log()[said..].contains("configuration read again"))
    })?;
    assert_all_live(&held, "the reload")?;

    // Everything is counted, by CPU.
    let stats = balancer.stats()?;
    assert!(stats.frames.transmitted > 0, "{stats:?}");
    assert_nothing_dropped(&balancer)?;
    for v6 in FAMILIES {
        assert!(stats.of_real(real_address(1, v6)) > 0, "{stats:?}");
    }
    let workers = balancer.ctl(["show", "workers"])?;
    assert_eq!(workers["workers"][0]["mode"], "kernel", "{workers}");
    assert_eq!(workers["workers"][0]["flows"], serde_json::Value::Null);
    let config = balancer.ctl(["show", "config"])?;
    assert_eq!(config["datapath"], "kernel", "{config}");
    balancer.ctl(["show", "memory"])?;

    drop(held);
    balancer.signal(Signal::SIGTERM)?;
    let (status, log) = balancer.stop_with_log()?;
    assert!(status.success(), "{log}");
    assert!(log.contains("stopped: "), "{log}");
    assert_eq!(links.link(BALANCER_INTERFACE)?, found);
    Ok(())
}

#[test]
fn what_the_kernel_cannot_do_keeps_it_from_starting() -> Result<()> {
    require!(what_the_kernel_cannot_do_keeps_it_from_starting);
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let vips = [vip(0, false, PORT, "udp", [0])];
    let found = lab.balancer_links().link(BALANCER_INTERFACE)?;
    let usual = configuration(&vips, FLOWS);
    for (change, words) in [
        (
            usual.replace("reals = ", "flags = [\"quic\"]\nreals = "),
            ["flag quic", "use --datapath xsk"],
        ),
        (
            usual.replace("[balancer]\n", "[balancer]\nicmp_too_big = true\n"),
            ["balancer.icmp_too_big", "use --datapath xsk"],
        ),
        (
            format!("[interface]\nmode = \"zero-copy\"\n\n{usual}"),
            ["interface.mode", "use --datapath xsk"],
        ),
    ] {
        assert_ne!(change, usual);
        let launch = in_kernel(&lab, &vips)?;
        fs::write(launch.config.as_ref().context("there is a file")?, &change)?;
        let (status, log) = launch.fail(&lab)?;
        assert_eq!(status.code(), Some(1), "{log}");
        for word in words {
            assert!(log.contains(word), "no `{word}` in: {log}");
        }
        assert_eq!(lab.balancer_links().link(BALANCER_INTERFACE)?, found);
    }

    // What does nothing there is a warning, and warnings are in the log.
    let launch = in_kernel(&lab, &vips)?;
    let idle = format!("[interface]\nspin_us = 5\n\n{usual}");
    fs::write(launch.config.as_ref().context("there is a file")?, idle)?;
    let balancer = launch.start(&lab)?;
    let warning = " WARN interface: spin_us is for workers";
    wait_until("the warning", TIMEOUT, || {
        Ok(balancer.log().contains(warning))
    })
}

#[test]
fn the_kernels_balancer_ends_with_its_interface() -> Result<()> {
    require!(the_kernels_balancer_ends_with_its_interface, "ip");
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let vips = [vip(0, false, PORT, "tcp", [0])];
    let balancer = in_kernel(&lab, &vips)?.start(&lab)?;
    output(program(lab.balancer(), "ip")?.args(["link", "del", BALANCER_INTERFACE]))?;
    let (status, log) = balancer.wait(TIMEOUT)?;
    assert!(!status.success(), "{log}");
    let told = format!("interface {BALANCER_INTERFACE} was removed");
    assert!(log.contains(&told), "{log}");
    Ok(())
}
