//! The duties of a machine's first process.

use std::convert::Infallible;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount as mount_one};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;

const NONE: Option<&str> = None;

/// Mounts the kernel's file systems.
pub(super) fn mount() -> Result<()> {
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        fs::create_dir_all(place).with_context(|| format!("cannot create {place}"))?;
        mount_one(Some(kind), place, Some(kind), MsFlags::empty(), NONE)
            .with_context(|| format!("cannot mount {place}"))?;
    }
    Ok(())
}

/// Loads a module, unless it is there.
pub(super) fn load(module: &Path) -> Result<()> {
    let context = || format!("cannot load {}", module.display());
    let file = File::open(module).with_context(context)?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).with_context(context),
    }
}

/// The kernel's version, as in `6.12.43+deb13-amd64`.
pub(super) fn release() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(text.trim().to_owned())
}

/// Turns the machine off.
pub(super) fn power_off() -> Result<()> {
    sync();
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok::<Infallible, _>(never) => match never {},
        Err(error) => Err(error).context("cannot turn the machine off"),
    }
}
