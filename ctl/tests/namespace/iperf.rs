//! iperf3 through a VIP. Its control and data connections must reach the same server, so the VIP has
//! one real.

use std::fs::{self, File};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use benches::lab::{Lab, LabOptions, Process};
use serde_json::Value;

use super::support::{
    FAMILIES, TIMEOUT, assert_nothing_dropped, program, require, start, vip, vip_address,
};

const PORT: u16 = 5201;

/// Starts a server for one test; an old one may still be busy with the end of the last.
fn server(lab: &Lab, address: IpAddr) -> Result<Process> {
    let log = lab.scratch().file("iperf3.log");
    let output = File::create(&log)?;
    let mut command = program(lab.real(0), "iperf3")?;
    // Without an address of its own it would answer datagrams from the real's address.
    command
        .args(["--server", "--one-off", "--forceflush", "--bind"])
        .arg(address.to_string())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut process = Process::spawn(command)?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let said = fs::read_to_string(&log)?;
        if said.contains("listening") {
            return Ok(process);
        }
        ensure!(
            process.try_wait()?.is_none() && Instant::now() < deadline,
            "iperf3 does not serve: {said}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs the client for two seconds; gives what it reports at the end.
fn test(lab: &Lab, address: IpAddr, arguments: &[&str]) -> Result<Value> {
    let _server = server(lab, address)?;
    let mut command = program(lab.client(0), "iperf3")?;
    command
        .args(["--json", "--time", "2", "--client", &address.to_string()])
        .args(arguments);
    let mut report: Value = serde_json::from_slice(&command.output()?.stdout)?;
    // Its exit code does not always tell.
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3 {arguments:?} to {address}: {error}");
    }
    Ok(report["end"].take())
}

#[test]
fn iperf3_runs_through_a_vip() -> Result<()> {
    require!(iperf3_runs_through_a_vip, "iperf3");
    let lab = Lab::new(LabOptions {
        reals: 1,
        queues: 2,
        ..LabOptions::default()
    })?;
    let vips = FAMILIES
        .map(|v6| ["tcp", "udp"].map(|protocol| vip(0, v6, PORT, protocol, [0])))
        .concat();
    let balancer = start(&lab, &vips)?;

    for v6 in FAMILIES {
        let address = vip_address(0, v6);
        for arguments in [&[][..], &["--parallel", "4"], &["--reverse"]] {
            let end = test(&lab, address, arguments)?;
            let bytes = end["sum_received"]["bytes"].as_u64().unwrap_or_default();
            println!("{address} {arguments:?}: {bytes} bytes received");
            assert!(bytes > 1_000_000, "{address} {arguments:?}: {end}");
        }
        let end = test(&lab, address, &["--udp", "--bitrate", "10M"])?;
        let packets = end["sum"]["packets"].as_u64().unwrap_or_default();
        let lost = end["sum"]["lost_packets"].as_u64().unwrap_or(packets);
        println!("{address}: {lost} of {packets} datagrams lost");
        assert!(packets > 100 && lost <= packets / 10, "{address}: {end}");
    }
    // TCP at full speed may overrun a queue, which the kernel counts; the workers drop nothing.
    assert_nothing_dropped(&balancer)
}
