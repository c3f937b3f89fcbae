//! Changes of every size while real traffic passes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::balancer::{Balancer, Vip, configuration};
use benches::lab::{Lab, LabOptions, cpu_time_of};
use benches::traffic::HeldConnections;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

use super::support::{
    FAMILIES, FLOWS, PORT, TIMEOUT, assert_nothing_dropped, exchanges, launch, real_address,
    require, servers, start, vip,
};

const REALS: u8 = 4;
const CHANGES: u64 = 1_000;
const CONNECTIONS: usize = 200;
/// VIPs of a full table.
const VIPS: u32 = 512;
/// What the largest file may take: the median of so many attempts.
const ALLOWED: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 5;

/// Datagrams of one flow, and first ones of new flows, between two sleeps of a millisecond: up to 50,000 a
/// second, so that a worker which is held up for long has more than its rings take.
const DATAGRAMS: usize = 48;
const NEW_FLOWS: usize = 2;
/// Bytes that the real's socket can hold: what arrives in about a second.
const ARRIVING: usize = 64 << 20;

/// A connection to the admin socket.
struct Admin(BufReader<UnixStream>);

impl Admin {
    fn connect(balancer: &Balancer) -> Result<Self> {
        let stream = UnixStream::connect(balancer.socket())?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.0.get_mut(), "{command}")?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let mut answer: Value = serde_json::from_str(&line)?;
        ensure!(answer["ok"] == true, "{command}: {answer}");
        Ok(answer["result"].take())
    }
}

/// The change with this number: there is none of it that has to move a connection.
fn change(number: u64, vips: &[Vip]) -> String {
    // The finalizer of SplitMix64: the same numbers in every run, and no pattern in them.
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^= word >> 27;
    let mut below = |bound: u64| {
        let value = word % bound;
        word /= bound;
        value
    };
    let v6 = below(2) == 1;
    let name = vips[usize::from(v6)].name();
    let real = real_address(below(u64::from(REALS) - 1) as u8, v6);
    match below(6) {
        0 | 1 => format!("real weight {name} {real} {}", below(10)),
        2 => {
            let hash = ["maglev-v1", "maglev-v2"][below(2) as usize];
            format!("vip set {name} hash={hash}")
        }
        3 => {
            let verb = ["set", "unset"][below(2) as usize];
            format!("vip {verb} {name} flags=src-dst-port")
        }
        // A VIP beside it, and reals that nobody needs: they come at an even number and go at the next.
        _ => {
            let verb = if number.is_multiple_of(2) {
                "add"
            } else {
                "del"
            };
            format!("vip {verb} 203.0.113.99:{}/udp", 1000 + number / 2)
        }
    }
}

#[test]
fn a_thousand_changes_break_no_connection() -> Result<()> {
    require!(a_thousand_changes_break_no_connection);
    let lab = Lab::new(LabOptions {
        reals: REALS,
        ..LabOptions::default()
    })?;
    let _servers = servers(&lab, 0..REALS)?;
    let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 0..REALS));
    let balancer = start(&lab, &vips)?;
    let held = vips
        .iter()
        .map(|vip| {
            let plan = exchanges(vip, CONNECTIONS, 2_000);
            HeldConnections::open(lab.client(0), &plan, Duration::from_millis(20))
        })
        .collect::<Result<Vec<_>>>()?;
    let before: Vec<_> = held.iter().map(HeldConnections::verify).collect();
    for report in &before {
        let alive: u64 = report.by_server.values().sum();
        ensure!(
            report.broken == 0 && alive == CONNECTIONS as u64,
            "before any change: {report:?}"
        );
    }

    let mut admin = Admin::connect(&balancer)?;
    let mut spare_vips = Vec::new();
    let mut gone = [const { Vec::new() }; 2];
    for number in 0..CHANGES {
        let mut command = change(number, &vips);
        if let Some(name) = command.strip_prefix("vip add ") {
            spare_vips.push(name.to_owned());
        } else if command.starts_with("vip del ") {
            match spare_vips.pop() {
                Some(name) => command = format!("vip del {name}"),
                // Nothing to remove: a real leaves or comes back. Its connections stay with it.
                None => command = leave_or_return(number, &vips, &mut gone),
            }
        }
        admin.ask(&command)?;
        if number % 250 == 249 {
            for (held, before) in held.iter().zip(&before) {
                let now = held.verify();
                ensure!(now == *before, "after change {number}: {before:?}, {now:?}");
            }
        }
    }
    assert_nothing_dropped(&balancer)
}

/// Takes the last real away from a VIP, or gives it back.
fn leave_or_return(number: u64, vips: &[Vip], gone: &mut [Vec<IpAddr>; 2]) -> String {
    let v6 = number % 4 >= 2;
    let (name, gone) = (vips[usize::from(v6)].name(), &mut gone[usize::from(v6)]);
    if let Some(real) = gone.pop() {
        return format!("real add {name} {real}@3");
    }
    let real = real_address(REALS - 1, v6);
    gone.push(real);
    format!("real del {name} {real}")
}

/// Sends datagrams while `meanwhile` runs, for `least` at least; gives how many were sent and how many of
/// them reached the real.
fn steady(
    lab: &Lab,
    vip: &Vip,
    least: Duration,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<(u64, u64)> {
    let target = SocketAddr::from((vip.address, vip.port));
    let sink = lab.real(0).run(|| UdpSocket::bind(target))??;
    setsockopt(&sink, sockopt::RcvBufForce, &ARRIVING)?;
    sink.set_read_timeout(Some(Duration::from_secs(1)))?;
    let arriving = thread::spawn(move || {
        let mut arrived = 0;
        // Until nothing has come for a second.
        while sink.recv(&mut [0; 64]).is_ok() {
            arrived += 1;
        }
        arrived
    });
    let stop = Arc::new(AtomicBool::new(false));
    let sending = lab.client(0).spawn_thread({
        let stop = Arc::clone(&stop);
        move || -> Result<u64> {
            let connected = || -> Result<UdpSocket> {
                let source = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                source.connect(target)?;
                Ok(source)
            };
            let source = connected()?;
            let started = Instant::now();
            let mut sent = 0;
            while !stop.load(Ordering::Acquire) || started.elapsed() < least {
                for _ in 0..DATAGRAMS {
                    source.send(b"steady")?;
                }
                for _ in 0..NEW_FLOWS {
                    connected()?.send(b"new")?;
                }
                sent += (DATAGRAMS + NEW_FLOWS) as u64;
                thread::sleep(Duration::from_millis(1));
            }
            println!(
                "{:.0} datagrams a second",
                sent as f64 / started.elapsed().as_secs_f64()
            );
            Ok(sent)
        }
    })?;
    let outcome = meanwhile();
    stop.store(true, Ordering::Release);
    let sent = sending.join().expect("no panic")??;
    let arrived = arriving.join().expect("no panic");
    outcome?;
    Ok((sent, arrived))
}

/// VIP number `n` of the many, with a hundred reals that overlap with those of its neighbours. Nobody
/// is there.
fn filler(n: u32) -> Vip {
    let address =
        |network: u32, host: u32| Ipv4Addr::from_bits((10 << 24) + (network << 16) + host);
    let reals = (0..100).map(|real| (address(8, (n * 7 + real) % 4_000).into(), 1 + real % 5));
    Vip {
        address: address(9, n).into(),
        port: 80,
        protocol: "tcp",
        reals: reals.collect(),
    }
}

#[test]
fn the_largest_file_applies_in_time_and_costs_no_packet() -> Result<()> {
    require!(the_largest_file_applies_in_time_and_costs_no_packet);
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let used = vip(0, false, PORT, "udp", [0]);
    let small = configuration(std::slice::from_ref(&used), FLOWS);
    let vips: Vec<Vip> = [used.clone()]
        .into_iter()
        .chain((1..VIPS).map(filler))
        .collect();
    let large = configuration(&vips, FLOWS);

    let launch = launch(&lab, &vips)?;
    let file = launch.config.clone().context("there is a file")?;
    let started = Instant::now();
    let balancer = launch.start(&lab)?;
    println!(
        "started with {VIPS} VIPs of 100 reals in {:?}",
        started.elapsed()
    );
    let mut admin = Admin::connect(&balancer)?;
    fs::write(&file, &small)?;
    admin.ask("reload")?;

    let least = Duration::from_secs(2);
    let (sent, arrived) = steady(&lab, &used, least, || Ok(()))?;
    let lost_without = sent - arrived;
    // Without what other programs take meanwhile, and the workers for the datagrams.
    let control_time = || cpu_time_of(balancer.id(), |thread| !thread.starts_with("kx-worker"));
    let mut times = Vec::new();
    let (sent, arrived) = steady(&lab, &used, least, || {
        for _ in 0..ATTEMPTS {
            for text in [&large, &small] {
                fs::write(&file, text)?;
                let (started, before) = (Instant::now(), control_time()?);
                let changes = admin.ask("reload")?;
                let (waited, took) = (started.elapsed(), control_time()?.saturating_sub(before));
                if text == &large {
                    ensure!(changes["vips_added"]["count"] == VIPS - 1, "{changes}");
                    println!(
                        "{VIPS} VIPs of 100 reals applied in {waited:?}, {took:?} of a processor"
                    );
                    times.push(took);
                }
            }
        }
        Ok(())
    })?;
    println!(
        "{} of {sent} datagrams lost, {lost_without} without changes",
        sent - arrived
    );
    ensure!(
        sent - arrived <= lost_without,
        "{} of {sent} datagrams lost, {lost_without} without changes",
        sent - arrived
    );
    assert_nothing_dropped(&balancer)?;
    times.sort_unstable();
    ensure!(times[ATTEMPTS / 2] < ALLOWED, "{times:?}");
    Ok(())
}
