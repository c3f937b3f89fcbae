//! Whether the processor's own virtualization runs machines on this computer, or QEMU translates.

use std::{
    fmt,
    fs::{self, File},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    cpio::Archive,
    qemu::Qemu,
    running::{Leash, Running},
};

/// What runs a machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU, which translates them.
    Tcg,
}

/// How long a machine may take to come up and end under KVM, which takes a second or two where it works.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// QEMU's words when KVM gives up; the machine then stands still.
const GIVEN_UP: &str = "KVM internal error";

/// The kernel's words when init ends, which it does at once when it finds no scenario.
const INIT_ENDED: &str = "Attempted to kill init";

impl Accelerator {
    /// KVM only if a machine boots with it: where computers are virtual themselves, the device may be
    /// there and work badly or not at all.
    pub(super) fn find(qemu: &Qemu, kernel: &Path, init: &[u8], folder: &Path) -> Result<Self> {
        if File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            println!("vm: no KVM for this user, so QEMU translates (TCG)");
            return Ok(Self::Tcg);
        }
        let mut archive = Archive::default();
        archive.device("dev/console", (5, 1));
        archive.device("dev/null", (1, 3));
        archive.program("init", init);
        let folder = folder.join("kvm");
        fs::create_dir_all(&folder)?;
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, archive.finish())
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        match boots(qemu, kernel, &initramfs, &folder) {
            Ok(()) => {
                println!("vm: a machine has booted with KVM, so all run with it");
                Ok(Self::Kvm)
            }
            Err(error) => {
                println!("vm: no machine boots with KVM here, so QEMU translates (TCG): {error:#}");
                Ok(Self::Tcg)
            }
        }
    }

    pub(super) const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "max"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// Boots a machine without cards under KVM, whose init ends at once, and the machine with it.
fn boots(qemu: &Qemu, kernel: &Path, initramfs: &Path, folder: &Path) -> Result<()> {
    let console = folder.join("console.log");
    let leash = Leash::new(folder)?;
    let mut command = qemu.command(&leash.words());
    command
        .args(super::machine::BARE)
        .args(["-smp", "2"])
        .args(Accelerator::Kvm.arguments())
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", super::machine::KERNEL_ARGUMENTS])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null());
    let mut running = Running::start(&mut command, leash)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match running.ended()? {
            Some(status) if status.success() => break,
            Some(status) => return Err(running.failure(status)),
            None if running.words().contains(GIVEN_UP) => bail!(GIVEN_UP),
            None if Instant::now() >= deadline => {
                bail!("it was not up after {} s", PATIENCE.as_secs())
            }
            None => thread::sleep(POLL_INTERVAL),
        }
    }
    let said = fs::read_to_string(&console)
        .with_context(|| format!("cannot read {}", console.display()))?;
    if !said.contains(INIT_ENDED) {
        bail!("it ended before its init ran; see {}", console.display());
    }
    Ok(())
}
