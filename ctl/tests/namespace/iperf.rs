//! iperf3 through a VIP. Its control and data connections must reach the same server, so the VIP has
//! one real.

use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use benches::lab::{Lab, LabOptions, Process};
use serde_json::Value;

use super::support::{
    FAMILIES, TIMEOUT, assert_nothing_dropped, program, require, start, vip, vip_address,
};

const PORT: u16 = 5201;

fn server(lab: &Lab, address: IpAddr) -> Result<Process> {
    let name = format!("iperf3-{}.log", if address.is_ipv4() { 4 } else { 6 });
    let log = std::fs::File::create(lab.scratch().file(&name))?;
    let mut command = program(lab.real(0), "iperf3")?;
    // Without an address of its own it would answer datagrams from the real's address.
    command
        .args(["--server", "--bind", &address.to_string()])
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut process = Process::spawn(command)?;
    let deadline = Instant::now() + TIMEOUT;
    while lab
        .real(0)
        .run(|| TcpStream::connect((address, PORT)))?
        .is_err()
    {
        ensure!(
            process.try_wait()?.is_none() && Instant::now() < deadline,
            "iperf3 does not serve: {}",
            std::fs::read_to_string(lab.scratch().file(&name))?
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

/// Runs the client for two seconds; gives what it reports at the end.
fn client(lab: &Lab, address: IpAddr, arguments: &[&str]) -> Result<Value> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let mut command = program(lab.client(0), "iperf3")?;
        command
            .args(["--json", "--time", "2", "--client", &address.to_string()])
            .args(arguments);
        let mut report: Value = serde_json::from_slice(&command.output()?.stdout)?;
        // Its exit code does not always tell.
        match report["error"].as_str() {
            None => return Ok(report["end"].take()),
            // The server takes its time to forget the test before.
            Some(error) if error.contains("busy") && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(200));
            }
            Some(error) => bail!("iperf3 {arguments:?} to {address}: {error}"),
        }
    }
}

#[test]
fn iperf3_runs_through_a_vip() -> Result<()> {
    require!(iperf3_runs_through_a_vip, "iperf3");
    let lab = Lab::new(LabOptions {
        reals: 1,
        queues: 2,
        ..LabOptions::default()
    })?;
    let _servers = FAMILIES
        .into_iter()
        .map(|v6| server(&lab, vip_address(0, v6)))
        .collect::<Result<Vec<_>>>()?;
    let vips = FAMILIES
        .map(|v6| ["tcp", "udp"].map(|protocol| vip(0, v6, PORT, protocol, [0])))
        .concat();
    let balancer = start(&lab, &vips)?;

    for v6 in FAMILIES {
        let address = vip_address(0, v6);
        for arguments in [&[][..], &["--parallel", "4"], &["--reverse"]] {
            let end = client(&lab, address, arguments)?;
            let bytes = end["sum_received"]["bytes"].as_u64().unwrap_or_default();
            println!("{address} {arguments:?}: {bytes} bytes received");
            assert!(bytes > 1_000_000, "{address} {arguments:?}: {end}");
        }
        let end = client(&lab, address, &["--udp", "--bitrate", "10M"])?;
        let packets = end["sum"]["packets"].as_u64().unwrap_or_default();
        let lost = end["sum"]["lost_packets"].as_u64().unwrap_or(packets);
        println!("{address}: {lost} of {packets} datagrams lost");
        assert!(packets > 100 && lost < packets / 2, "{address}: {end}");
    }
    // TCP at full speed may overrun a queue, which the kernel counts; the workers drop nothing.
    assert_nothing_dropped(&balancer)
}
