//! The lab of a virtual machine, with its servers and the card under test.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::balancer::{Launch, Vip, configuration};
use crate::lab::{Cable, Lab, LabOptions, Process, plan};
use crate::traffic::Server;

use super::scenario::Scenario;

/// The program under test.
pub(super) const BINARY: &str = "/bin/katran-xsk";
/// Clients: cards choose a queue by addresses, some by nothing else.
pub(super) const CLIENTS: u8 = 6;
/// Real servers.
pub(super) const REALS: u8 = 2;
/// Port of every VIP.
pub(super) const PORT: u16 = 7000;
/// Flows per worker: far more than there are, and only some megabytes.
const FLOWS: usize = 20_000;
/// File of a PCI device that pulls it.
const REMOVE: &str = "remove";
/// How long a card may take to appear and get its link, and a program to begin.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Lab, servers and configuration.
pub(super) struct Site {
    lab: Lab,
    driver: String,
    device: PathBuf,
    config: PathBuf,
    queues: usize,
    zero_copy: bool,
    _servers: Vec<Server>,
    _decaps: Vec<Process>,
}

impl Site {
    /// Finds the cards, builds the lab on them and starts the servers of the reals.
    pub(super) fn build(scenario: &Scenario) -> Result<Self> {
        let card = find_card(&scenario.card)?;
        let device = fs::canonicalize(class(&card).join("device"))
            .with_context(|| format!("{card} is no device"))?;
        let driver = fs::canonicalize(class(&card).join("device/driver"))
            .with_context(|| format!("{card} has no driver"))?;
        let driver = driver.file_name().unwrap_or_default().to_string_lossy();
        let lab = Lab::new(LabOptions {
            clients: CLIENTS,
            reals: REALS,
            decap: false,
            cable: Some(Cable {
                router: find_card(&scenario.far_card)?,
                balancer: card,
            }),
            ..LabOptions::default()
        })?;
        let addresses: [IpAddr; 2] = [plan::vip_v4(0).into(), plan::vip_v6(0).into()];
        let servers = (0..REALS)
            .map(|i| Server::start(lab.real(i), u16::from(i) + 1, &addresses, PORT))
            .collect::<Result<_>>()?;
        let decaps = (0..REALS)
            .map(|i| start_decap(&lab, i))
            .collect::<Result<_>>()?;
        let config = lab
            .scratch()
            .write("lb.toml", configuration(&vips(), FLOWS))?;
        Ok(Self {
            driver: driver.into_owned(),
            device: pci_device(&device)?,
            lab,
            config,
            queues: scenario.queues,
            zero_copy: scenario.zero_copy,
            _servers: servers,
            _decaps: decaps,
        })
    }

    /// The network.
    pub(super) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Driver of the card under test.
    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    /// Queues of the card under test that have a worker, at least.
    pub(super) const fn queues(&self) -> usize {
        self.queues
    }

    /// Whether the card under test has zero-copy under this kernel.
    pub(super) const fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Pulls the card under test.
    pub(super) fn remove_card(&self) -> Result<()> {
        let file = self.device.join(REMOVE);
        fs::write(&file, "1").with_context(|| format!("cannot write to {}", file.display()))
    }

    /// How to start a balancer that chooses its modes itself.
    pub(super) fn launch(&self) -> Launch {
        Launch::new(BINARY, &self.config)
    }

    /// How to start a balancer that gets zero-copy where the card has it, or does not start.
    pub(super) fn launch_as_expected(&self) -> Launch {
        self.as_expected(self.launch())
    }

    /// As [`Self::launch_as_expected`], with lines in the section `[interface]`, in a file of that name.
    pub(super) fn launch_with(&self, file: &str, interface: &str) -> Result<Launch> {
        let usual = fs::read_to_string(&self.config)?;
        let text = format!("[interface]\n{interface}\n\n{usual}");
        let launch = Launch::new(BINARY, self.lab.scratch().write(file, text)?);
        Ok(self.as_expected(launch))
    }

    fn as_expected(&self, launch: Launch) -> Launch {
        if self.zero_copy {
            insisting(launch)
        } else {
            launch
        }
    }
}

/// The same, but without zero-copy there is no start.
pub(super) fn insisting(mut launch: Launch) -> Launch {
    launch
        .arguments
        .extend(["--mode", "zero-copy"].map(str::to_owned));
    launch
}

/// The VIPs: each family and protocol.
pub(super) fn vips() -> Vec<Vip> {
    let mut vips = Vec::new();
    for (address, reals) in [
        (
            plan::vip_v4(0).into(),
            (0..REALS)
                .map(|i| (plan::real_v4(i).into(), 1))
                .collect::<Vec<_>>(),
        ),
        (
            plan::vip_v6(0).into(),
            (0..REALS).map(|i| (plan::real_v6(i).into(), 1)).collect(),
        ),
    ] {
        for protocol in ["tcp", "udp"] {
            vips.push(Vip {
                address,
                port: PORT,
                protocol,
                reals: reals.clone(),
            });
        }
    }
    vips
}

/// The device on the PCI bus that an interface's device is, or is part of.
fn pci_device(device: &Path) -> Result<PathBuf> {
    device
        .ancestors()
        .find(|ancestor| ancestor.join(REMOVE).exists())
        .map(Path::to_path_buf)
        .with_context(|| format!("{} cannot be removed", device.display()))
}

fn class(interface: &str) -> PathBuf {
    Path::new("/sys/class/net").join(interface)
}

/// Waits for the interface with an Ethernet address.
fn find_card(address: &str) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for entry in fs::read_dir("/sys/class/net")? {
            let entry = entry?;
            let found = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
            if found.trim() == address {
                return Ok(entry.file_name().to_string_lossy().into_owned());
            }
        }
        ensure!(
            Instant::now() < deadline,
            "no interface has the address {address}: has the card a driver?"
        );
        thread::sleep(POLL_INTERVAL);
    }
}

/// Starts `katran-xsk decap` on a real and waits until it serves.
fn start_decap(lab: &Lab, i: u8) -> Result<Process> {
    let log = lab.scratch().file(&format!("decap{i}.log"));
    let output = fs::File::create(&log)?;
    let mut command = lab.real(i).command(BINARY);
    command
        .args(["decap", "--iface", plan::UPLINK])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut process = Process::spawn(command)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = fs::read_to_string(&log)?;
        if said.contains("decapsulates on") {
            return Ok(process);
        }
        ensure!(
            process.try_wait()?.is_none() && Instant::now() < deadline,
            "katran-xsk decap does not serve on real {i}: {said}"
        );
        thread::sleep(POLL_INTERVAL);
    }
}
