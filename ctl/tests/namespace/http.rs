//! nginx on the reals, curl on the client.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use benches::balancer::Vip;
use benches::lab::{Lab, LabOptions, Process};

use super::support::{
    FAMILIES, TIMEOUT, assert_nothing_dropped, output, program, real_address, require, start, vip,
};

const WEB_PORT: u16 = 80;
const REQUESTS: usize = 10_000;
const QUEUES: u32 = 4;

/// Starts nginx on a real; it answers every request with `real N`.
fn nginx(lab: &Lab, real: u8) -> Result<Process> {
    let prefix = lab.scratch().file(&format!("nginx{real}"));
    std::fs::create_dir(&prefix)?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {kind};\n"))
        .concat();
    let config = format!(
        "daemon off;\n\
         master_process off;\n\
         pid nginx.pid;\n\
         worker_rlimit_nofile 8192;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         {temporary}\
         \x20   access_log off;\n\
         \x20   server {{\n\
         \x20       listen {WEB_PORT} backlog=4096;\n\
         \x20       listen [::]:{WEB_PORT} backlog=4096;\n\
         \x20       location / {{ return 200 \"real {real}\\n\"; }}\n\
         \x20   }}\n\
         }}\n"
    );
    let path = lab
        .scratch()
        .write(&format!("nginx{real}/nginx.conf"), config)?;
    let log = std::fs::File::create(prefix.join("log"))?;
    let mut command = program(lab.real(real), "nginx")?;
    command
        .args(["-e", "stderr", "-p"])
        .arg(&prefix)
        .arg("-c")
        .arg(path)
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut process = Process::spawn(command)?;
    let address = (real_address(real, false), WEB_PORT);
    let deadline = Instant::now() + TIMEOUT;
    while lab.real(real).run(|| TcpStream::connect(address))?.is_err() {
        ensure!(
            process.try_wait()?.is_none() && Instant::now() < deadline,
            "nginx does not serve: {}",
            std::fs::read_to_string(prefix.join("log"))?
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

/// Sends [`REQUESTS`] over 100 connections at a time; gives the answers by their text.
fn curl(lab: &Lab, address: IpAddr) -> Result<BTreeMap<String, usize>> {
    let host = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\\[{v6}\\]"),
    };
    let mut command = program(lab.client(0), "curl")?;
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--parallel",
        "--parallel-immediate",
        "--parallel-max",
        "100",
        "--max-time",
        "120",
        "--write-out",
        "status %{http_code}\\n",
        &format!("http://{host}:{WEB_PORT}/?[1-{REQUESTS}]"),
    ]);
    let answers = output(&mut command)?;
    let mut by_text = BTreeMap::new();
    for line in String::from_utf8(answers.stdout)?.lines() {
        *by_text.entry(line.to_owned()).or_default() += 1;
    }
    Ok(by_text)
}

#[test]
fn ten_thousand_requests_over_a_hundred_connections() -> Result<()> {
    require!(
        ten_thousand_requests_over_a_hundred_connections,
        "nginx",
        "curl"
    );
    let lab = Lab::new(LabOptions {
        queues: QUEUES,
        ..LabOptions::default()
    })?;
    let _nginx = (0..3)
        .map(|real| nginx(&lab, real))
        .collect::<Result<Vec<_>>>()?;
    let vips = FAMILIES.map(|v6| vip(0, v6, WEB_PORT, "tcp", 0..3));
    let balancer = start(&lab, &vips)?;

    for vip in &vips {
        let answers = curl(&lab, vip.address)?;
        assert_eq!(answers.get("status 200"), Some(&REQUESTS), "{answers:?}");
        let of_reals: Vec<usize> = (0..3)
            .map(|real| answers.get(&format!("real {real}")).copied().unwrap_or(0))
            .collect();
        assert!(of_reals.iter().all(|count| *count > 0), "{answers:?}");
        assert_eq!(of_reals.iter().sum::<usize>(), REQUESTS, "{answers:?}");
    }

    assert_nothing_dropped(&balancer)?;
    let stats = balancer.stats()?;
    assert_eq!(stats.workers.len(), QUEUES as usize);
    for (queue, frames) in &stats.workers {
        assert!(
            frames.transmitted > 0,
            "no packets on queue {queue}: {stats:?}"
        );
    }
    for v6 in FAMILIES {
        for real in 0..3 {
            assert!(
                stats.of_real(real_address(real, v6)) > 0,
                "no packets to real {real}: {stats:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn an_ipv4_vip_reaches_ipv6_reals() -> Result<()> {
    require!(an_ipv4_vip_reaches_ipv6_reals, "nginx", "curl");
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let _nginx = nginx(&lab, 0)?;
    let vip = Vip {
        reals: vec![(real_address(0, true), 1)],
        ..vip(0, false, WEB_PORT, "tcp", [])
    };
    let balancer = start(&lab, std::slice::from_ref(&vip))?;
    let answers = curl(&lab, vip.address)?;
    assert_eq!(answers.get("status 200"), Some(&REQUESTS), "{answers:?}");
    assert_nothing_dropped(&balancer)
}
