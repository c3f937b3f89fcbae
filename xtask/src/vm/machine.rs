//! One machine: QEMU's command line, and its report while it runs.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    accelerator::Accelerator,
    matrix::{Card, Wiring},
    qemu::Qemu,
    report,
    running::{Leash, Running},
};
use crate::shell;

/// Ethernet addresses of the card under test and of the one at the far end of its cable.
pub(super) const CARD: &str = "52:54:00:00:00:0b";
pub(super) const FAR_CARD: &str = "52:54:00:00:00:0a";
/// A machine without anything that it does not need.
pub(super) const BARE: [&str; 9] = [
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
    "-machine",
    "q35",
    "-m",
    "1024",
];
/// What its kernel is told. It ends the machine when it panics, and does not panic because on a busy
/// computer its timer interrupts are late when it tries them.
pub(super) const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet panic=-1 net.ifnames=0 no_timer_check";
/// Time between two looks at a running machine.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the machine may take to end once its last word is there.
const POWER_OFF: Duration = Duration::from_secs(20);

/// One machine.
pub(super) struct Machine<'a> {
    pub(super) card: &'a Card,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Where its other files go.
    pub(super) folder: &'a Path,
    /// Where the guest's report goes.
    pub(super) report: &'a Path,
    /// Where the kernel's messages go; `None` is the terminal.
    pub(super) console: Option<PathBuf>,
    pub(super) clock: Clock,
}

/// What makes a machine's time pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The computer's.
    Computer(Accelerator),
    /// The instructions of its only processor: its clock goes on by a nanosecond with each, and jumps to
    /// the next event while the processor sleeps.
    Instructions,
}

impl Clock {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Computer(accelerator) => accelerator.arguments(),
            Self::Instructions => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                "max",
            ],
        }
    }

    const fn processors(self) -> &'static str {
        match self {
            Self::Computer(_) => "2",
            Self::Instructions => "1",
        }
    }
}

/// Device, and module of its driver, at the far end of a card whose instructions are counted.
pub(super) const COUNTING_FAR_CARD: &str = "e1000e";

impl Machine<'_> {
    fn command(&self, qemu: &Qemu, leash: &Leash) -> Result<Command> {
        let mut before = match self.card.wiring {
            Wiring::Hub => leash.words(),
            Wiring::Taps => as_root(leash.words())?,
        };
        if self.card.wiring == Wiring::Taps {
            before.extend(behind_taps(self.folder)?);
        }
        let mut command = qemu.command(&before);
        command
            .args(BARE)
            .args(["-smp", self.clock.processors()])
            .args(self.clock.arguments())
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", KERNEL_ARGUMENTS]);
        match &self.console {
            Some(file) => command
                .arg("-serial")
                .arg(format!("file:{}", file.display())),
            None => command.args(["-serial", "mon:stdio"]),
        };
        command
            .arg("-serial")
            .arg(format!("file:{}", self.report.display()));
        match self.card.wiring {
            Wiring::Hub => command
                .args(["-netdev", "hubport,id=near,hubid=0"])
                .args(["-netdev", "hubport,id=far,hubid=0"]),
            Wiring::Taps => {
                let tap = "vnet_hdr=off,script=no,downscript=no";
                command
                    .args([
                        "-netdev",
                        &format!("tap,id=near,ifname=near,queues=2,{tap}"),
                    ])
                    .args(["-netdev", &format!("tap,id=far,ifname=far,{tap}")])
            }
        };
        command
            // Without boot code of their own, which would have to be found.
            .args([
                "-device",
                &format!("{},netdev=near,mac={CARD},romfile=", self.card.device),
            ])
            .args([
                "-device",
                &format!("{},netdev=far,mac={FAR_CARD},romfile=", self.far_device()),
            ]);
        Ok(command)
    }

    /// The card at the far end. It should cost little; where instructions are counted it must send
    /// while the processor waits for it, and not when QEMU's other thread comes to it, or no two counts
    /// are the same.
    const fn far_device(&self) -> &'static str {
        match self.clock {
            Clock::Instructions => COUNTING_FAR_CARD,
            Clock::Computer(_) => "virtio-net-pci",
        }
    }

    /// Runs the machine until it ends, or for as long as it may. `heard` gets each line of the report.
    pub(super) fn run(
        &self,
        qemu: &Qemu,
        mut deadline: Option<Instant>,
        mut heard: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        ensure!(
            deadline.is_none_or(|deadline| Instant::now() < deadline),
            "no time was left for it"
        );
        File::create(self.report)
            .with_context(|| format!("cannot create {}", self.report.display()))?;
        let leash = Leash::new(self.folder)?;
        let mut command = self.command(qemu, &leash)?;
        if self.console.is_some() {
            command.stdin(Stdio::null());
        }
        let mut running = Running::start(&mut command, leash)?;
        let mut lines = 0;
        loop {
            let ended = running.ended()?;
            let text = fs::read_to_string(self.report).unwrap_or_default();
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            for line in complete.lines().skip(lines) {
                lines += 1;
                heard(line.trim())?;
                if report::is_end(line) {
                    deadline = deadline.map(|deadline| deadline.min(Instant::now() + POWER_OFF));
                }
            }
            match ended {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(running.failure(status)),
                None => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                bail!("the machine did not end in time");
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The words of a program that runs as root.
fn as_root(words: Vec<String>) -> Result<Vec<String>> {
    if shell::is_root() {
        return Ok(words);
    }
    ensure!(
        shell::has_program("sudo"),
        "TAP devices need root, and there is no sudo: run this task as root, or install sudo"
    );
    Ok(["sudo".to_owned()].into_iter().chain(words).collect())
}

/// The words that give a program of root's TAP devices, before its own. Their script goes into a folder.
fn behind_taps(folder: &Path) -> Result<[String; 4]> {
    let path = folder.join("taps.sh");
    fs::write(&path, include_str!("taps.sh"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let path = path.display().to_string();
    Ok(["unshare", "--net", "sh", &path].map(str::to_owned))
}

/// Why this computer has no TAP devices and bridges, if it has none.
pub(super) fn without_taps(folder: &Path) -> Result<Option<String>> {
    for (program, package) in [("unshare", "util-linux"), ("ip", "iproute2")] {
        ensure!(
            shell::has_program(program),
            "{program} is missing: install {package}"
        );
    }
    let words = as_root(behind_taps(folder)?.to_vec())?;
    let output = shell::command(&words[0])
        .args(&words[1..])
        .arg("true")
        .output()
        .context("cannot try TAP devices")?;
    Ok((!output.status.success()).then(|| {
        format!(
            "no TAP devices with a bridge are to be had (load the modules tun and bridge): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )
    }))
}
