//! `katran-xsk decap` as a real server's operator runs it: on a real of the lab, behind the balancer.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use benches::balancer::{Balancer, Launch, Vip, configuration};
use benches::lab::{
    Lab, LabOptions, Process,
    plan::{self, UPLINK},
    requirements,
};
use benches::traffic::{Plan, Server, Tally, run_connections};
use nix::sys::signal::Signal;

const PORT: u16 = 7000;
const CONNECTIONS: usize = 50;
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a client waits for what no real strips.
const UNANSWERED: Duration = Duration::from_secs(2);

/// A lab with one real, which nobody decapsulates on yet, behind a balancer with a VIP per family.
struct Rig {
    _server: Server,
    _balancer: Balancer,
    vips: [Vip; 2],
    lab: Lab,
}

impl Rig {
    fn new() -> Result<Self> {
        let lab = Lab::new(LabOptions {
            reals: 1,
            queues: 1,
            decap: false,
            ..LabOptions::default()
        })?;
        let vip = |address: IpAddr, real: IpAddr| Vip {
            address,
            port: PORT,
            protocol: "tcp",
            reals: vec![(real, 1)],
        };
        let vips = [
            vip(plan::vip_v4(0).into(), plan::real_v4(0).into()),
            vip(plan::vip_v6(0).into(), plan::real_v6(0).into()),
        ];
        let addresses = [vips[0].address, vips[1].address];
        let server = Server::start(lab.real(0), 0, &addresses, PORT)?;
        let config = lab
            .scratch()
            .write("lb.toml", configuration(&vips, 10_000))?;
        let balancer = Launch::new(env!("CARGO_BIN_EXE_katran-xsk"), config).start(&lab)?;
        Ok(Self {
            _server: server,
            _balancer: balancer,
            vips,
            lab,
        })
    }

    fn connect(&self, vip: &Vip, count: usize, timeout: Duration) -> Result<Tally> {
        let plan = Plan {
            target: (vip.address, vip.port).into(),
            count,
            concurrency: 10,
            payload: 5_000,
            timeout,
        };
        run_connections(self.lab.client(0), &plan, |_| ())
    }

    fn assert_delivers(&self, vip: &Vip) -> Result<()> {
        let tally = self.connect(vip, CONNECTIONS, PATIENCE)?;
        assert_eq!(tally.answered(), CONNECTIONS as u64, "{vip:?}: {tally:?}");
        Ok(())
    }

    fn assert_does_not_deliver(&self, vip: &Vip) -> Result<()> {
        let tally = self.connect(vip, 1, UNANSWERED)?;
        assert_eq!(tally.answered(), 0, "{vip:?}: {tally:?}");
        Ok(())
    }

    fn has_program(&self) -> Result<bool> {
        Ok(self.lab.real_links(0).link(UPLINK)?.xdp)
    }
}

/// A running `katran-xsk decap` on the real.
struct Decap {
    process: Process,
    stdout: BufReader<ChildStdout>,
    stderr: PathBuf,
    /// What it said when it started.
    summary: String,
}

impl Decap {
    fn start(rig: &Rig, arguments: &[&str]) -> Result<Self> {
        let stderr = rig.lab.scratch().file("decap.log");
        let mut command = rig.lab.real(0).command(env!("CARGO_BIN_EXE_katran-xsk"));
        command
            .args(["decap", "--iface", UPLINK])
            .args(arguments)
            .env_remove("KATRAN_XSK_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr)?);
        let mut process = Process::spawn(command)?;
        let stdout = process.child_mut().stdout.take().context("no pipe")?;
        let mut stdout = BufReader::new(stdout);
        let mut summary = String::new();
        ensure!(
            stdout.read_line(&mut summary)? > 0,
            "decap ended early: {}",
            fs::read_to_string(&stderr)?
        );
        Ok(Self {
            process,
            stdout,
            stderr,
            summary,
        })
    }

    /// Asks for the counters and gives the packets of one.
    fn packets(&mut self, counter: &str) -> Result<u64> {
        self.process.signal(Signal::SIGUSR1)?;
        let mut table = String::new();
        // A table starts with a blank line and has a line for each counter.
        for _ in 0..=xdp_redirect::DecapCounter::ALL.len() {
            self.stdout.read_line(&mut table)?;
        }
        packets(&table, counter)
    }

    /// Stops it as a service manager does; gives what it said at the end.
    fn stop(mut self) -> Result<String> {
        let status = self.process.terminate(PATIENCE)?;
        let stderr = fs::read_to_string(&self.stderr)?;
        ensure!(status.success(), "decap ended with {status}: {stderr}");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        Ok(rest)
    }
}

/// Packets of a counter in a table.
fn packets(table: &str, counter: &str) -> Result<u64> {
    table
        .lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(counter)).then(|| words.next())?
        })
        .with_context(|| format!("no counter {counter} in: {table}"))?
        .parse()
        .context("no number")
}

#[test]
fn this_hosts_addresses_are_followed_and_counters_come_at_the_end() -> Result<()> {
    if !requirements::met_or_skip(
        "this_hosts_addresses_are_followed_and_counters_come_at_the_end",
        &[],
    ) {
        return Ok(());
    }
    let rig = Rig::new()?;
    let [v4, v6] = &rig.vips;
    rig.assert_does_not_deliver(v4)?;
    let decap = Decap::start(&rig, &[])?;
    assert!(
        decap.summary.contains("this host's addresses"),
        "{}",
        decap.summary
    );
    assert!(rig.has_program()?);
    rig.assert_delivers(v4)?;
    rig.assert_delivers(v6)?;

    let end = decap.stop()?;
    // A connection is four packets towards the server at the least.
    let least = 4 * CONNECTIONS as u64;
    assert!(packets(&end, "ipip_v4_in_v4")? >= least, "{end}");
    assert!(packets(&end, "ipip_v6_in_v6")? >= least, "{end}");
    assert!(!rig.has_program()?, "the program is left on the interface");
    rig.assert_does_not_deliver(v4)
}

#[test]
fn only_named_destinations_are_stripped() -> Result<()> {
    if !requirements::met_or_skip("only_named_destinations_are_stripped", &[]) {
        return Ok(());
    }
    let rig = Rig::new()?;
    let [v4, v6] = &rig.vips;
    let real = plan::real_v4(0).to_string();
    let mut decap = Decap::start(&rig, &["--destination", &real])?;
    rig.assert_delivers(v4)?;
    rig.assert_does_not_deliver(v6)?;
    assert!(decap.packets("passed_not_ours")? > 0);
    let end = decap.stop()?;
    assert_eq!(packets(&end, "ipip_v6_in_v6")?, 0, "{end}");
    assert!(!rig.has_program()?);

    // Neither is this host's.
    let decap = Decap::start(&rig, &["--destination", "198.51.100.200"])?;
    rig.assert_does_not_deliver(v4)?;
    decap.stop()?;
    let decap = Decap::start(&rig, &["--any-destination"])?;
    rig.assert_delivers(v4)?;
    rig.assert_delivers(v6)?;
    decap.stop()?;
    assert!(!rig.has_program()?);
    Ok(())
}

#[test]
fn decapsulation_ends_with_its_interface() -> Result<()> {
    if !requirements::met_or_skip("decapsulation_ends_with_its_interface", &["ip"]) {
        return Ok(());
    }
    let rig = Rig::new()?;
    let Decap {
        mut process,
        stdout: _stdout,
        stderr,
        ..
    } = Decap::start(&rig, &[])?;
    let ip = requirements::find_program("ip").context("ip is not installed")?;
    let mut ip = rig.lab.real(0).command(ip);
    let removed = ip.args(["link", "del", UPLINK]).status()?;
    ensure!(removed.success(), "ip: {removed}");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = process.try_wait()? {
            break status;
        }
        ensure!(
            Instant::now() < deadline,
            "it goes on without its interface"
        );
        thread::sleep(Duration::from_millis(20));
    };
    let log = fs::read_to_string(stderr)?;
    assert_eq!(status.code(), Some(1), "{log}");
    let told = format!("interface {UPLINK} was removed");
    assert!(log.contains(&told), "{log}");
    Ok(())
}

/// How often a process has written, in vain included.
fn writes(process: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{process}/io"))?;
    let calls = io.lines().find_map(|line| line.strip_prefix("syscw: "));
    Ok(calls.context("no count of writes")?.parse()?)
}

#[test]
fn decapsulation_goes_on_when_nobody_reads() -> Result<()> {
    if !requirements::met_or_skip("decapsulation_goes_on_when_nobody_reads", &[]) {
        return Ok(());
    }
    let rig = Rig::new()?;
    let Decap {
        mut process,
        stdout,
        stderr,
        ..
    } = Decap::start(&rig, &["--interval", "1"])?;
    // As `head` does.
    drop(stdout);
    let before = writes(process.id())?;
    let deadline = Instant::now() + PATIENCE;
    while process.try_wait()?.is_none() && writes(process.id())? == before {
        ensure!(Instant::now() < deadline, "it does not write");
        thread::sleep(Duration::from_millis(20));
    }
    rig.assert_delivers(&rig.vips[0])?;
    let status = process.terminate(PATIENCE)?;
    let log = fs::read_to_string(stderr)?;
    assert!(status.success(), "{status}: {log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(!rig.has_program()?);
    Ok(())
}
