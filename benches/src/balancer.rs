//! The `katran-xsk` program in the lab's balancer, used as an operator uses it: by its command line.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::plan::BALANCER_INTERFACE;
use crate::lab::{Lab, Namespace, Process};

/// Longest time for starting and for stopping.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A VIP of a configuration.
#[derive(Clone, Debug)]
pub struct Vip {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its reals with their weights.
    pub reals: Vec<(IpAddr, u32)>,
}

impl Vip {
    /// The VIP as commands name it, such as `[2001:db8:f::10]:80/tcp`.
    pub fn name(&self) -> String {
        let socket = std::net::SocketAddr::new(self.address, self.port);
        format!("{socket}/{}", self.protocol)
    }
}

/// A configuration with `vips`, small enough for any machine: the flow tables have room for
/// `flows` flows per worker.
pub fn configuration(vips: &[Vip], flows: usize) -> String {
    let mut text = format!("[balancer]\nflow_table_capacity = {flows}\n");
    for vip in vips {
        let reals: Vec<String> = vip
            .reals
            .iter()
            .map(|(address, weight)| format!("{{ address = \"{address}\", weight = {weight} }}"))
            .collect();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n[[vip]]\naddress = \"{}\"\nport = {}\nprotocol = \"{}\"\nreals = [{}]\n",
            vip.address,
            vip.port,
            vip.protocol,
            reals.join(", ")
        );
    }
    text
}

/// How to start a balancer.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub binary: PathBuf,
    /// Name of this balancer's files in the lab's directory.
    pub name: String,
    /// Interface.
    pub interface: String,
    /// Queues, as on the command line.
    pub queues: String,
    /// Configuration file, if any.
    pub config: Option<PathBuf>,
    /// Further arguments of `run`.
    pub arguments: Vec<String>,
}

impl Launch {
    /// Everything usual: all queues of the lab's interface.
    pub fn new(binary: impl Into<PathBuf>, config: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            name: "balancer".to_owned(),
            interface: BALANCER_INTERFACE.to_owned(),
            queues: "all".to_owned(),
            config: Some(config.into()),
            arguments: Vec::new(),
        }
    }

    /// Starts the balancer and waits until it serves.
    pub fn start(&self, lab: &Lab) -> Result<Balancer> {
        self.start_on(lab, lab.balancer())
    }

    /// As [`Self::start`], on another machine of the lab.
    pub fn start_on(&self, lab: &Lab, machine: &Namespace) -> Result<Balancer> {
        let mut balancer = self.spawn(lab, machine)?;
        let deadline = Instant::now() + PATIENCE;
        // The summary of the start comes with the socket, before or after it.
        while balancer.log().is_empty() || UnixStream::connect(&balancer.socket).is_err() {
            if let Some(status) = balancer.process.try_wait()? {
                bail!(
                    "the balancer ended ({status}) instead of serving:\n{}",
                    balancer.log()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "the balancer does not serve after {PATIENCE:?}:\n{}",
                balancer.log()
            );
            thread::sleep(POLL_INTERVAL);
        }
        balancer.ctl(["show", "workers"])?;
        Ok(balancer)
    }

    /// Starts the balancer and waits until it gives up; gives its status and what it said.
    pub fn fail(&self, lab: &Lab) -> Result<(ExitStatus, String)> {
        let mut balancer = self.spawn(lab, lab.balancer())?;
        let status = balancer.process.wait(PATIENCE)?;
        Ok((status, balancer.log()))
    }

    fn spawn(&self, lab: &Lab, machine: &Namespace) -> Result<Balancer> {
        let socket = lab.scratch().file(&format!("{}.sock", self.name));
        let log = lab.scratch().file(&format!("{}.log", self.name));
        let output =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = machine.command(&self.binary);
        command
            .args(["run", "--iface", &self.interface, "--queues", &self.queues])
            .arg("--socket")
            .arg(&socket)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        Ok(Balancer {
            process: Process::spawn(command)?,
            binary: self.binary.clone(),
            socket,
            log,
        })
    }
}

/// A running balancer; dropping it kills it.
#[derive(Debug)]
pub struct Balancer {
    process: Process,
    binary: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Balancer {
    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its admin socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        match fs::read(&self.log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("({} cannot be read: {error})", self.log.display()),
        }
    }

    /// Runs `katran-xsk ctl --json` with the words of a command and gives the result.
    pub fn ctl<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Result<Value> {
        let mut command = Command::new(&self.binary);
        command
            .args(["ctl", "--json", "--socket"])
            .arg(&self.socket)
            .args(words)
            .stdin(Stdio::null());
        let output = command.output().context("cannot run katran-xsk ctl")?;
        ensure!(
            output.status.success(),
            "{command:?} failed ({}): {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let mut answer: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{command:?} did not answer with JSON"))?;
        Ok(answer["result"].take())
    }

    /// Sets the weight of a real in one VIP.
    pub fn set_weight(&self, vip: &Vip, real: IpAddr, weight: u32) -> Result<()> {
        self.ctl([
            "real",
            "weight",
            &vip.name(),
            &real.to_string(),
            &weight.to_string(),
        ])?;
        Ok(())
    }

    /// What the workers count: `show stats`.
    pub fn stats(&self) -> Result<Stats> {
        Stats::read(&self.ctl(["show", "stats"])?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Stops it as a service manager does, with SIGTERM, and waits for its end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.terminate(PATIENCE)
    }

    /// Like [`Balancer::stop`], and gives all it said as well.
    pub fn stop_with_log(mut self) -> Result<(ExitStatus, String)> {
        let status = self.process.terminate(PATIENCE)?;
        Ok((status, self.log()))
    }

    /// Waits until it ends by itself; gives its status and all it said.
    pub fn wait(mut self, patience: Duration) -> Result<(ExitStatus, String)> {
        let status = self.process.wait(patience)?;
        Ok((status, self.log()))
    }

    /// Kills it without a chance to clean up.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(PATIENCE)
    }
}

/// Numbers from `show stats`, in packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// All workers together.
    pub frames: Frames,
    /// Each worker, by queue.
    pub workers: Vec<(u64, Frames)>,
    /// Each real.
    pub reals: Vec<(IpAddr, u64)>,
}

/// Where frames went, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Taken from the RX ring.
    pub received: u64,
    /// Sent.
    pub transmitted: u64,
    /// Handed to the kernel.
    pub passed: u64,
    /// Dropped.
    pub dropped: u64,
    /// In a worker's hands.
    pub in_progress: u64,
}

impl Frames {
    /// Whether every frame is accounted for.
    pub fn add_up(&self) -> bool {
        self.received == self.transmitted + self.passed + self.dropped + self.in_progress
    }

    fn read(value: &Value) -> Result<Self> {
        let packets = |name: &str| number(&value[name], "packets");
        Ok(Self {
            received: packets("received")?,
            transmitted: packets("transmitted")?,
            passed: packets("passed")?,
            dropped: packets("dropped")?,
            in_progress: number(value, "in_progress")?,
        })
    }
}

impl Stats {
    fn read(value: &Value) -> Result<Self> {
        let workers = rows(value, "workers")?
            .iter()
            .map(|row| Ok((number(row, "queue")?, Frames::read(&row["frames"])?)))
            .collect::<Result<_>>()?;
        let reals = rows(value, "reals")?
            .iter()
            .map(|row| {
                let real = row["real"].as_str().context("a real without address")?;
                Ok((real.parse()?, number(row, "packets")?))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            frames: Frames::read(&value["frames"])?,
            workers,
            reals,
        })
    }

    /// Packets to a real.
    pub fn of_real(&self, real: IpAddr) -> u64 {
        self.reals
            .iter()
            .find(|(address, _)| *address == real)
            .map_or(0, |(_, packets)| *packets)
    }
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name]
        .as_u64()
        .with_context(|| format!("no number `{name}` in {value}"))
}

fn rows<'v>(value: &'v Value, name: &str) -> Result<&'v Vec<Value>> {
    value[name]
        .as_array()
        .with_context(|| format!("no list `{name}` in {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan;

    #[test]
    fn vips_are_named_as_commands_name_them() {
        let mut vip = Vip {
            address: plan::vip_v4(0).into(),
            port: 80,
            protocol: "tcp",
            reals: vec![(plan::real_v4(0).into(), 3)],
        };
        assert_eq!(vip.name(), "203.0.113.10:80/tcp");
        assert_eq!(
            configuration(std::slice::from_ref(&vip), 1000),
            "[balancer]\nflow_table_capacity = 1000\n\n[[vip]]\naddress = \"203.0.113.10\"\nport = 80\n\
             protocol = \"tcp\"\nreals = [{ address = \"198.51.100.11\", weight = 3 }]\n"
        );
        vip.address = plan::vip_v6(0).into();
        vip.protocol = "udp";
        assert_eq!(vip.name(), "[2001:db8:f::10]:80/udp");
    }

    #[test]
    fn stats_are_read() {
        let frames = serde_json::json!({
            "received": {"packets": 10, "bytes": 1}, "transmitted": {"packets": 6, "bytes": 1},
            "passed": {"packets": 1, "bytes": 1}, "dropped": {"packets": 2, "bytes": 1},
            "in_progress": 1,
        });
        let stats = Stats::read(&serde_json::json!({
            "frames": frames,
            "workers": [{"queue": 3, "frames": frames}],
            "reals": [{"real": "2001:db8::1", "index": 1, "packets": 7, "bytes": 9}],
        }))
        .expect("whole statistics");
        assert!(stats.frames.add_up());
        assert_eq!(stats.workers[0], (3, stats.frames));
        assert_eq!(stats.of_real("2001:db8::1".parse().expect("an address")), 7);
        assert!(Stats::read(&serde_json::json!({})).is_err());
    }
}
