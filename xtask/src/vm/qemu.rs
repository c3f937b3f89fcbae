//! QEMU: the machine's own where it emulates what is needed, else Debian's, unpacked into the cache.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::matrix::{Card, Wiring};
use crate::{
    debian::{self, Apt, Archive},
    shell,
};

const PROGRAM: &str = "qemu-system-x86_64";
/// Debian's package with a shell and its programs, for people who look around.
const BUSYBOX: &str = "busybox-static";
/// A card that QEMU has had since version 8.0.
const NEWEST_CARD: &str = "name \"igb\"";
/// Ethernet addresses of the card under test and of the one at the far end of its cable.
pub(super) const CARD: &str = "52:54:00:00:00:0b";
pub(super) const FAR_CARD: &str = "52:54:00:00:00:0a";
/// Time between two looks at a running machine.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the machine may take to end once its last word is there.
const POWER_OFF: Duration = Duration::from_secs(20);

/// A QEMU that can be started.
pub(super) struct Qemu {
    program: PathBuf,
    /// Root of an unpacked QEMU.
    unpacked: Option<PathBuf>,
    accelerator: Accelerator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accelerator {
    /// The processor's own.
    Kvm,
    /// Translation, everywhere.
    Tcg,
}

impl Accelerator {
    /// KVM only where the processor says that it virtualizes: the device alone proves nothing.
    fn of_this_machine() -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let usable = File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        if usable && virtualizes(&processor) {
            Self::Kvm
        } else {
            Self::Tcg
        }
    }

    /// Where KVM cannot be started after all, QEMU goes on to translate.
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-accel", "tcg,thread=multi", "-cpu", "max"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// Whether the flags in `/proc/cpuinfo` have Intel's or AMD's extension.
fn virtualizes(processor: &str) -> bool {
    processor
        .lines()
        .filter_map(|line| line.strip_prefix("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

impl Qemu {
    /// The machine's QEMU, the cache's or one fetched from Debian.
    pub(super) fn get(cache: &Path) -> Result<Self> {
        let accelerator = Accelerator::of_this_machine();
        let own = Self {
            program: PROGRAM.into(),
            unpacked: None,
            accelerator,
        };
        if shell::has_program(PROGRAM) && own.is_new_enough() {
            return Ok(own);
        }
        let root = cache.join("qemu");
        if !root.is_dir() {
            fetch(cache, &root, &[PROGRAM_PACKAGE])
                .context("QEMU is not to be had: install qemu-system-x86 8.0 or newer")?;
        }
        let cached = Self {
            program: root.join("usr/bin").join(PROGRAM),
            unpacked: Some(root.clone()),
            accelerator,
        };
        ensure!(
            cached.is_new_enough(),
            "{} does not start or is older than 8.0: install qemu-system-x86 8.0 or newer, or remove \
             {} so that it is fetched anew",
            cached.program.display(),
            root.display()
        );
        Ok(cached)
    }

    fn is_new_enough(&self) -> bool {
        let output = self
            .command(&[])
            .args(["-device", "help"])
            .stderr(Stdio::null())
            .output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(NEWEST_CARD))
    }

    /// Where an unpacked QEMU's libraries are, as the loader's variable has it.
    fn libraries(&self) -> Option<String> {
        let root = self.unpacked.as_ref()?;
        let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|folder| root.join(folder).display().to_string());
        Some(folders.join(":"))
    }

    /// `before` is a program that becomes QEMU, with its arguments.
    fn command(&self, before: &[String]) -> Command {
        let mut words = before
            .iter()
            .map(AsRef::as_ref)
            .chain([self.program.as_os_str()]);
        let mut command = shell::command(words.next().unwrap_or_default());
        command.args(words);
        if let Some(root) = &self.unpacked {
            for folder in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(folder));
            }
        }
        if let Some(libraries) = self.libraries() {
            command.env(LIBRARIES, libraries);
        }
        command
    }
}

/// What the loader reads where to find libraries from.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// Debian's package of QEMU.
const PROGRAM_PACKAGE: &str = "qemu-system-x86";

/// Unpacks packages of this system's suite, or of its backports where they are newer.
fn fetch(cache: &Path, root: &Path, packages: &[&str]) -> Result<()> {
    let archive = Archive::of_this_machine()?;
    let suite = codename(&fs::read_to_string("/etc/os-release")?)
        .context("/etc/os-release names no version of Debian")?;
    let backports = format!("{suite}-backports");
    eprintln!("vm: fetching {} from {backports}", packages.join(" and "));
    let apt = Apt::new(cache.join("apt-tools"), &archive, &[&suite, &backports])?;
    let partial = root.with_extension("partial");
    for package in apt.download_with_dependencies(&backports, packages)? {
        debian::unpack(&package, &partial)?;
    }
    fs::rename(&partial, root).with_context(|| format!("cannot create {}", root.display()))?;
    apt.remove()
}

fn codename(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The static busybox, for people who look around.
pub(super) fn busybox(cache: &Path) -> Result<Vec<u8>> {
    let root = cache.join("busybox");
    if !root.is_dir() {
        fetch(cache, &root, &[BUSYBOX]).context("busybox is not to be had")?;
    }
    let program = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| root.join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("the package busybox-static holds no busybox")?;
    fs::read(&program).with_context(|| format!("cannot read {}", program.display()))
}

/// One machine.
pub(super) struct Machine<'a> {
    pub(super) card: &'a Card,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Where the guest's report goes.
    pub(super) report: &'a Path,
    /// Where the kernel's messages go; `None` is the terminal.
    pub(super) console: Option<&'a Path>,
    /// Whether its clock counts the instructions of its only processor.
    pub(super) counts: bool,
}

/// Device, and module of its driver, at the far end of a card whose instructions are counted.
pub(super) const COUNTING_FAR_CARD: &str = "e1000e";

/// A machine whose clock goes on by a nanosecond with each instruction, and jumps to the next event
/// while its processor sleeps.
const COUNTING: [&str; 8] = [
    "-smp",
    "1",
    "-accel",
    "tcg,thread=single",
    "-icount",
    "shift=0,sleep=off",
    "-cpu",
    "max",
];

impl Machine<'_> {
    fn command(&self, qemu: &Qemu, limit: Option<Duration>) -> Result<Command> {
        let mut before = ending_with_this_process();
        if self.card.wiring == Wiring::Taps {
            before.extend(behind_taps(qemu.libraries(), limit)?);
        }
        let mut command = qemu.command(&before);
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-machine", "q35", "-m", "1024"]);
        if self.counts {
            command.args(COUNTING);
        } else {
            command
                .args(["-smp", "2"])
                .args(qemu.accelerator.arguments());
        }
        command
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 net.ifnames=0"]);
        match self.console {
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
        if self.counts {
            COUNTING_FAR_CARD
        } else {
            "virtio-net-pci"
        }
    }

    /// Runs the machine until it ends, or for `limit` at most. `heard` gets each line of the report.
    pub(super) fn run(
        &self,
        qemu: &Qemu,
        limit: Option<Duration>,
        heard: impl FnMut(&str),
    ) -> Result<()> {
        File::create(self.report)
            .with_context(|| format!("cannot create {}", self.report.display()))?;
        let mut command = self.command(qemu, limit)?;
        command.stdout(Stdio::inherit());
        if self.console.is_some() {
            command.stdin(Stdio::null());
        }
        shell::announce(&command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", shell::text(&command)))?;
        let mut running = Running(child);
        running.follow(self.report, limit, heard)
    }
}

/// What makes a program end when this process does, however that ends: the words before its own.
fn ending_with_this_process() -> Vec<String> {
    const SETPRIV: &str = "setpriv";
    let words: &[&str] = if shell::has_program(SETPRIV) {
        &[SETPRIV, "--pdeathsig", "TERM"]
    } else {
        &[]
    };
    words.iter().copied().map(str::to_owned).collect()
}

/// What makes a program run with TAP devices, and for `limit` at most: the words before its own.
fn behind_taps(libraries: Option<String>, limit: Option<Duration>) -> Result<Vec<String>> {
    let mut words = Vec::new();
    if !shell::is_root() {
        ensure!(
            shell::has_program("sudo"),
            "TAP devices need root, and there is no sudo: run this task as root, or install sudo"
        );
        words.extend(behind_sudo(libraries, limit));
    }
    let script = include_str!("taps.sh");
    words.extend(["unshare", "--net", "sh", "-c", script, "taps.sh"].map(str::to_owned));
    Ok(words)
}

/// How long QEMU may take to end once it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// What root's QEMU lacks without help: sudo takes the loader's variable away, whatever it is told to
/// preserve, and nobody else may kill it.
fn behind_sudo(libraries: Option<String>, limit: Option<Duration>) -> Vec<String> {
    let mut words = vec!["sudo".to_owned()];
    if let Some(limit) = limit {
        words.extend([
            "timeout".to_owned(),
            format!("--kill-after={}", GRACE.as_secs()),
            limit.as_secs().to_string(),
        ]);
    }
    if let Some(libraries) = libraries {
        words.extend(["env".to_owned(), format!("{LIBRARIES}={libraries}")]);
    }
    words
}

/// Fails unless this computer has TAP devices and bridges.
pub(super) fn try_taps() -> Result<()> {
    let words = behind_taps(None, None)?;
    let output = shell::command(&words[0])
        .args(&words[1..])
        .arg("true")
        .output()
        .context("cannot try TAP devices")?;
    ensure!(
        output.status.success(),
        "no TAP devices with a bridge are to be had (load the modules tun and bridge): {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A running QEMU, perhaps behind sudo; dropping it ends it.
struct Running(Child);

impl Running {
    fn follow(
        &mut self,
        report: &Path,
        limit: Option<Duration>,
        mut heard: impl FnMut(&str),
    ) -> Result<()> {
        let mut deadline = limit.map(|limit| Instant::now() + limit);
        let mut lines = 0;
        loop {
            let ended = self.0.try_wait()?;
            let text = fs::read_to_string(report).unwrap_or_default();
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            for line in complete.lines().skip(lines) {
                lines += 1;
                heard(line.trim());
                if super::report::is_end(line) && deadline.is_some() {
                    deadline = Some(Instant::now() + POWER_OFF);
                }
            }
            match ended {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("QEMU ended with {status}"),
                None => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                bail!("the machine did not end in time");
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.kill().is_err() {
            // It is root's. Sudo hands this signal on to `timeout`, which ends QEMU; if it cannot be
            // sent, `timeout` ends QEMU when the machine's time is over.
            let pid = self.0.id().to_string();
            let _ = shell::as_root("kill")
                .map(|mut kill| kill.args(["-TERM", &pid]).stderr(Stdio::null()).status());
        }
        // Fails only when somebody has waited already.
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualization_is_read_from_the_flags() {
        assert!(virtualizes("model name: x\nflags\t\t: fpu vmx sse\n"));
        assert!(virtualizes("flags : svm\n"));
        assert!(!virtualizes("flags : fpu sse\nmodel name : vmx\n"));
        assert!(!virtualizes(""));
    }

    #[test]
    fn behind_sudo_qemu_keeps_its_libraries_and_its_limit() {
        let words = behind_sudo(Some("/a:/b".to_owned()), Some(Duration::from_mins(2)));
        assert_eq!(
            words,
            [
                "sudo",
                "timeout",
                "--kill-after=5",
                "120",
                "env",
                "LD_LIBRARY_PATH=/a:/b"
            ]
        );
        assert_eq!(behind_sudo(None, None), ["sudo"]);
    }

    #[test]
    fn the_codename_is_read() {
        let text = "NAME=\"Debian\"\nVERSION_CODENAME=bookworm\n";
        assert_eq!(codename(text).as_deref(), Some("bookworm"));
        assert_eq!(codename("NAME=x\n"), None);
    }
}
