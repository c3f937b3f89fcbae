//! `cargo xtask vm`: the balancer on drivers that this machine has no cards for.
//!
//! For each pair of a kernel and an emulated card a virtual machine boots in QEMU. Its init is
//! `benches/src/guest`, which builds the lab on the card, sends traffic through the balancer, breaks
//! things and reports. Kernels, and QEMU where the machine has none, are Debian's packages: fetched
//! and unpacked below `.cache/vm`, never installed. Removing that folder fetches them anew.

mod initramfs;
mod kernel;
mod matrix;
mod modules;
mod qemu;
mod report;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::{
    debian::{Apt, Archive},
    dist, setup, shell,
};
use initramfs::Archive as Initramfs;
use kernel::Bootable;
use matrix::{CARDS, Card, KERNELS, Kernel, Wiring};
use qemu::{Machine, Qemu};
use report::{Heard, Row, table};

/// Longest life of a machine on a busy computer.
const LIMIT: Duration = Duration::from_mins(15);
/// Longest time of all machines of the test command together.
const TEST_LIMIT: Duration = Duration::from_mins(5);
/// Connections and datagrams of a machine, over all VIPs.
const CONNECTIONS: usize = 200;
const DATAGRAMS: usize = 2000;
/// Starts and stops among the faults.
const CYCLES: usize = 100;

/// Options of the command.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Kernel: 6.1, 6.12 or newest; may be repeated. All of them when left out
    #[arg(long = "kernel", value_name = "NAME", value_parser = kernel_names())]
    kernels: Vec<String>,
    /// Card: igb, virtio-iommu, virtio, vmxnet3 or e1000e; may be repeated. All when left out
    #[arg(long = "nic", value_name = "NAME", value_parser = card_names())]
    cards: Vec<String>,
    /// Break the cards that have zero-copy as well, which takes minutes each
    #[arg(long, conflicts_with = "keep")]
    faults: bool,
    /// Count the instructions that the machine spends on a packet instead, on one card that has
    /// zero-copy (igb unless told otherwise) and with the newest kernel
    #[arg(long, conflicts_with_all = ["keep", "faults", "kernels"])]
    instructions: bool,
    /// Leave the machine running afterwards with a shell on this terminal; takes one kernel and card
    #[arg(long)]
    keep: bool,
    /// Write a row for each machine as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn kernel_names() -> clap::builder::PossibleValuesParser {
    KERNELS.map(|kernel| kernel.name).into()
}

fn card_names() -> clap::builder::PossibleValuesParser {
    CARDS.map(|card| card.name).into()
}

/// Runs the machines that are asked for and prints the matrix.
pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let pairs: Vec<(Kernel, Card)> = KERNELS
        .into_iter()
        .filter(|kernel| chosen(&options.kernels, kernel.name))
        .flat_map(|kernel| CARDS.map(|card| (kernel, card)))
        .filter(|(_, card)| chosen(&options.cards, card.name))
        .collect();
    ensure!(
        !options.keep || pairs.len() == 1,
        "--keep takes one kernel and one card: add --kernel NAME --nic NAME"
    );
    if options.faults {
        are_broken(&options.cards)?;
    }
    // Found out before the machines have run for minutes.
    let json = options
        .json
        .as_ref()
        .map(|path| {
            File::create(path).with_context(|| format!("--json: cannot write {}", path.display()))
        })
        .transpose()?;
    let pairs = if options.instructions {
        counted(pairs, options.cards.is_empty())?
    } else {
        pairs
    };
    let taps = without_taps(&pairs);
    let plan = |_: &Kernel, card: &Card| Plan {
        work: if options.instructions {
            Work::Count
        } else {
            Work::Balance {
                faults: options.faults,
            }
        },
        cycles: CYCLES,
        keep: options.keep,
        unable: taps
            .as_ref()
            .filter(|_| card.wiring == Wiring::Taps)
            .cloned(),
        deadline: Instant::now() + LIMIT,
    };
    let profile = if options.instructions {
        Profile::Release
    } else {
        Profile::Dev
    };
    let rows = Workshop::new(Parts::get(&pairs)?, profile)?.rows(&pairs, plan)?;
    println!("\n{}", table(&rows));
    if let Some(mut file) = json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let text = serde_json::to_string_pretty(&json!({"rows": rows}))?;
        writeln!(file, "{text}").context("--json: cannot be written")?;
    }
    let failed = rows.iter().filter(|row| !row.ok()).count();
    if failed > 0 {
        bail!("{failed} of {} machines are not as expected", rows.len());
    }
    Ok(())
}

/// Fails if cards were named of which none is broken: faults are about sockets that the driver uses.
fn are_broken(cards: &[String]) -> Result<()> {
    let broken: Vec<_> = CARDS
        .iter()
        .filter(|card| card.has_zero_copy())
        .map(|card| card.name)
        .collect();
    if let Some(other) = cards.iter().find(|name| !broken.contains(&name.as_str())) {
        bail!(
            "--faults breaks cards that have zero-copy ({}), and {other} has none: leave out --faults, \
             or --nic {other}",
            broken.join(", ")
        );
    }
    Ok(())
}

/// The machines that can count: those that have zero-copy under the newest kernel, or the first of them.
fn counted(pairs: Vec<(Kernel, Card)>, only_first: bool) -> Result<Vec<(Kernel, Card)>> {
    let mut pairs: Vec<_> = pairs
        .into_iter()
        .filter(|(kernel, card)| kernel.name == BROKEN.0 && card.has_zero_copy())
        .collect();
    if only_first {
        pairs.truncate(1);
    }
    ensure!(
        !pairs.is_empty(),
        "--instructions takes a card that has zero-copy: give --nic igb or --nic virtio-iommu"
    );
    Ok(pairs)
}

/// Why machines with TAP devices cannot run here, if some are wanted and they cannot.
fn without_taps(pairs: &[(Kernel, Card)]) -> Option<String> {
    pairs
        .iter()
        .any(|(_, card)| card.wiring == Wiring::Taps)
        .then(|| qemu::try_taps().err())
        .flatten()
        .map(|error| format!("{error:#}"))
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// It balances; then its card is broken, if that is wanted and it has zero-copy.
    Balance { faults: bool },
    /// It counts the instructions that a packet takes.
    Count,
}

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// It builds in a fraction of the time, and asserts more.
    Dev,
    /// As users have them.
    Release,
}

/// What a machine does, and how long it may take.
#[derive(Clone, Debug)]
struct Plan {
    work: Work,
    /// Starts and stops among the faults.
    cycles: usize,
    /// Go on with a shell.
    keep: bool,
    /// Why it cannot run, if it cannot.
    unable: Option<String>,
    /// When it must have ended, unless it goes on with a shell.
    deadline: Instant,
}

/// The machines of `cargo xtask test`: both drivers that have zero-copy, and one whose driver runs no
/// XDP programs in the oldest kernel.
const SELECTION: [(&str, &str); 3] = [
    ("newest", "igb"),
    ("newest", "virtio-iommu"),
    ("6.1", "vmxnet3"),
];

/// The machine among them whose card is broken as well, the fastest.
const BROKEN: (&str, &str) = ("newest", "virtio-iommu");

/// How the machines of the test command fared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tested {
    /// As expected.
    pub(crate) passed: u64,
    /// Not as expected.
    pub(crate) failed: u64,
    /// Did not run.
    pub(crate) skipped: u64,
    /// What those are made of, and why it is not to be had here.
    pub(crate) missing: Vec<String>,
}

/// Runs the machines of the test command, with all faults but the many starts and stops on one.
pub(crate) fn test() -> Result<Tested> {
    let pairs: Vec<(Kernel, Card)> = KERNELS
        .into_iter()
        .flat_map(|kernel| CARDS.map(|card| (kernel, card)))
        .filter(|(kernel, card)| SELECTION.contains(&(kernel.name, card.name)))
        .collect();
    let mut tested = Tested::default();
    let taps = without_taps(&pairs);
    let count = pairs.len() as u64;
    let pairs: Vec<_> = pairs
        .into_iter()
        .filter(|(_, card)| taps.is_none() || card.wiring != Wiring::Taps)
        .collect();
    tested.skipped = count - pairs.len() as u64;
    tested.missing.extend(taps);
    let parts = match Parts::get(&pairs) {
        Ok(parts) => parts,
        Err(error) => {
            tested.skipped = count;
            tested.missing.push(format!("{error:#}"));
            return Ok(tested);
        }
    };
    let workshop = Workshop::new(parts, Profile::Dev)?;
    let deadline = Instant::now() + TEST_LIMIT;
    let rows = workshop.rows(&pairs, |kernel, card| Plan {
        work: Work::Balance {
            faults: (kernel.name, card.name) == BROKEN,
        },
        cycles: 0,
        keep: false,
        unable: None,
        deadline,
    })?;
    println!("{}", table(&rows));
    tested.passed = rows.iter().filter(|row| row.ok()).count() as u64;
    tested.failed = rows.len() as u64 - tested.passed;
    Ok(tested)
}

/// What machines are made of and this repository does not hold.
struct Parts {
    /// Held as long as the machines run: they have the same files from run to run.
    _lock: File,
    cache: PathBuf,
    qemu: Qemu,
    /// By name.
    kernels: BTreeMap<&'static str, Bootable>,
}

impl Parts {
    /// Finds or fetches what these machines need.
    fn get(pairs: &[(Kernel, Card)]) -> Result<Self> {
        let triple = shell::host_triple()?;
        ensure!(
            triple.starts_with("x86_64-"),
            "the machines run x86_64, and this computer is {triple}"
        );
        let cache = shell::root().join(".cache/vm");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let lock = locked(&cache.join("lock"))?;
        let qemu = Qemu::get(&cache)?;
        let suites: Vec<&str> = KERNELS.iter().map(|kernel| kernel.suite).collect();
        let mut apt = || Apt::new(cache.join("apt"), &Archive::of_this_machine()?, &suites);
        let mut kernels = BTreeMap::new();
        for (kernel, _) in pairs {
            if !kernels.contains_key(kernel.name) {
                kernels.insert(kernel.name, kernel::get(kernel, &cache, &mut apt)?);
            }
        }
        Ok(Self {
            _lock: lock,
            cache,
            qemu,
            kernels,
        })
    }
}

/// Takes the lock of a file, which the kernel gives back with the process; says so if that takes time.
fn locked(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            eprintln!("vm: another run uses {}; waiting for its end", shown(path));
        }
        Err(TryLockError::Error(_)) => {}
    }
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// What machines are made of.
struct Workshop {
    parts: Parts,
    /// Where files of machines are.
    folder: PathBuf,
    init: Vec<u8>,
    balancer: Vec<u8>,
}

impl Workshop {
    /// Builds the programs.
    fn new(parts: Parts, profile: Profile) -> Result<Self> {
        setup::build()?;
        let folder = shell::target_folder()?.join("vm");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let mut arguments = vec![
            "--package=katran-xsk",
            "--package=benches",
            "--bin=katran-xsk",
            "--bin=guest",
        ];
        let built = match profile {
            Profile::Dev => "debug",
            Profile::Release => {
                arguments.push("--release");
                "release"
            }
        };
        dist::build_static(&arguments)?;
        let program = |name: &str| {
            let stripped = folder.join(name);
            dist::strip(built, name, &stripped)?;
            fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
        };
        Ok(Self {
            init: program("guest")?,
            balancer: program("katran-xsk")?,
            parts,
            folder,
        })
    }

    /// Runs a machine for each pair.
    fn rows(
        &self,
        pairs: &[(Kernel, Card)],
        plan: impl Fn(&Kernel, &Card) -> Plan,
    ) -> Result<Vec<Row>> {
        pairs
            .iter()
            .map(|(kernel, card)| self.row(kernel, card, &plan(kernel, card)))
            .collect()
    }

    fn row(&self, kernel: &Kernel, card: &Card, plan: &Plan) -> Result<Row> {
        let started = Instant::now();
        let bootable = &self.parts.kernels[kernel.name];
        let expected = card.expected(bootable.version);
        let limit = plan.deadline.saturating_duration_since(started);
        let late = limit
            .is_zero()
            .then(|| "no time was left for it".to_owned());
        if let Some(why) = plan.unable.clone().or(late) {
            return Ok(Row::unable(&bootable.release, card.name, expected, why));
        }
        let name = format!("{}-{}", kernel.name, card.name);
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, self.initramfs(bootable, card, plan)?)
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        let console = folder.join("console.log");
        let machine = Machine {
            card,
            kernel: &bootable.image,
            initramfs: &initramfs,
            report: &folder.join("report.jsonl"),
            console: (!plan.keep).then_some(&*console),
            counts: plan.work == Work::Count,
        };
        println!(
            "kernel {}, card {}: {expected} expected",
            bootable.release, card.name
        );
        let mut heard = Heard::default();
        let result = machine.run(&self.parts.qemu, (!plan.keep).then_some(limit), |line| {
            if let Some(check) = heard.read(line) {
                let mark = if check.ok { "ok    " } else { "FAILED" };
                println!("  {mark} {:<14} {}", check.name, check.detail);
            }
        });
        for (name, value) in heard.figures() {
            println!("         {name}: {value}");
        }
        Ok(Row {
            kernel: bootable.release.clone(),
            card: card.name,
            expected,
            heard,
            error: result
                .err()
                .map(|error| format!("{error:#}; see {}", shown(&console))),
            elapsed: started.elapsed(),
        })
    }

    fn initramfs(&self, kernel: &Bootable, card: &Card, plan: &Plan) -> Result<Vec<u8>> {
        let mut archive = Initramfs::default();
        // The kernel opens the first for init, whose runtime wants the second.
        archive.device("dev/console", (5, 1));
        archive.device("dev/null", (1, 3));
        archive.program("init", &self.init);
        archive.program("bin/katran-xsk", &self.balancer);
        if plan.keep {
            archive.program("bin/busybox", &qemu::busybox(&self.parts.cache)?);
        }
        let mut modules = Vec::new();
        let mut names = vec!["veth", "tun", "virtio_pci", "virtio_net", card.module];
        if plan.work == Work::Count {
            names.push(qemu::COUNTING_FAR_CARD);
        }
        for module in modules::in_order(&kernel.modules, &names)? {
            let path = format!("modules/{}.ko", kernel::module_name(&module));
            let contents =
                fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
            archive.data(&path, &contents);
            modules.push(format!("/{path}"));
        }
        let steps: &[&str] = match plan.work {
            // Faults are about sockets that the driver uses, and end the card.
            Work::Balance { faults: true } if card.expected(kernel.version).zero_copy => {
                &["traffic", "insist", "busy-poll", "faults"]
            }
            Work::Balance { .. } => &["traffic", "insist", "busy-poll"],
            Work::Count => &["instructions"],
        };
        let scenario = json!({
            "modules": modules,
            "card": qemu::CARD,
            "far_card": qemu::FAR_CARD,
            "queues": card.queues,
            "zero_copy": card.expected(kernel.version).zero_copy,
            "steps": steps,
            "connections": CONNECTIONS,
            "datagrams": DATAGRAMS,
            "cycles": plan.cycles,
            "keep": plan.keep,
        });
        archive.data("scenario.json", scenario.to_string().as_bytes());
        Ok(archive.finish())
    }
}

fn shown(path: &Path) -> String {
    path.strip_prefix(shell::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selection_is_in_the_matrix() {
        for (kernel, card) in SELECTION {
            assert!(KERNELS.iter().any(|known| known.name == kernel), "{kernel}");
            assert!(CARDS.iter().any(|known| known.name == card), "{card}");
        }
        assert!(SELECTION.contains(&BROKEN));
    }

    #[test]
    fn only_cards_with_zero_copy_are_broken() {
        let named = |names: &[&str]| {
            are_broken(&names.iter().copied().map(str::to_owned).collect::<Vec<_>>())
        };
        named(&[]).expect("those that have it");
        named(&[BROKEN.1]).expect("it has it");
        let error = named(&[BROKEN.1, "e1000e"]).expect_err("it has none");
        assert!(error.to_string().contains("e1000e has none"), "{error}");
        assert!(error.to_string().contains("igb, virtio-iommu"), "{error}");
    }
}
