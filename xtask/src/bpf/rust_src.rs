//! The source of `core`, of exactly the compiler's version.
//!
//! In this order: rustup's component `rust-src` if the toolchain has it; Debian's package
//! `rust-src`; `rustup component add`. Debian's package may be in a suite that the machine does not
//! use, so it is fetched through package lists of our own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::toolchain::{RUST_VERSION, Toolchain};
use crate::{
    debian::{Apt, Archive},
    shell,
};

/// Debian suite that holds recent versions of Rust.
const SUITE: &str = "trixie-backports";

/// Path of the folder `library` of Rust's source.
pub(super) fn locate(toolchain: &Toolchain, cache: &Path) -> Result<PathBuf> {
    let component = toolchain.sysroot.join("lib/rustlib/src/rust/library");
    if is_library(&component) {
        return Ok(component);
    }
    let unpacked = cache.join(format!("rust-src-{RUST_VERSION}"));
    if is_library(&unpacked) {
        return Ok(unpacked);
    }
    let Err(debian) = from_debian(cache, &unpacked) else {
        return Ok(unpacked);
    };
    eprintln!("bpf: no rust-src from Debian ({debian:#}); asking rustup");
    from_rustup(toolchain).with_context(|| {
        format!(
            "the source of core {RUST_VERSION} is nowhere to be had: \
             run `rustup component add rust-src`. Debian's package: {debian:#}"
        )
    })?;
    ensure!(
        is_library(&component),
        "rustup added rust-src, but {} is not there",
        component.display()
    );
    Ok(component)
}

fn is_library(folder: &Path) -> bool {
    folder.join("core/src/lib.rs").is_file() && folder.join("Cargo.lock").is_file()
}

fn from_rustup(toolchain: &Toolchain) -> Result<()> {
    let name = toolchain
        .rustup_name()
        .context("this toolchain is not one of rustup's")?;
    let mut command = shell::command("rustup");
    command.args(["component", "add", "rust-src", "--toolchain", name]);
    shell::run(&mut command)
}

fn from_debian(cache: &Path, unpacked: &Path) -> Result<()> {
    let archive = Archive::of_this_machine()?;
    eprintln!("bpf: fetching Debian's rust-src {RUST_VERSION} (45 MB) from {SUITE}");
    let apt = Apt::new(cache.join("apt"), &archive, &[SUITE])?;
    let versions = shell::output(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let version = package_version(&versions)
        .with_context(|| format!("{SUITE} has no rust-src of version {RUST_VERSION}"))?;
    let package = apt.download("rust-src", version)?;
    unpack(&package, unpacked)?;
    apt.remove()
}

/// The package version whose upstream part is ours, from the output of `apt-cache madison`.
fn package_version(madison: &str) -> Option<&str> {
    madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| {
            version
                .strip_prefix(RUST_VERSION)
                .is_some_and(|rest| rest.starts_with(['+', '-']))
        })
}

/// Unpacks `library` of a package, and only that: the package holds LLVM's source as well.
fn unpack(package: &Path, destination: &Path) -> Result<()> {
    let partial = destination.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let mut reader = shell::command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let archive = reader.stdout.take().context("dpkg-deb has no output")?;
    let root = format!("./usr/src/rustc-{RUST_VERSION}");
    shell::run(
        shell::command("tar")
            .arg("-x")
            .arg("-C")
            .arg(&partial)
            .arg("--strip-components=5")
            .arg(format!("{root}/library"))
            .stdin(archive),
    )?;
    let status = reader.wait().context("cannot wait for dpkg-deb")?;
    if !status.success() {
        bail!("cannot read {}: {status}", package.display());
    }
    fs::rename(&partial, destination)
        .with_context(|| format!("cannot create {}", destination.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_of_our_version_is_chosen() {
        let madison = "  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://mirror.example/debian t\n  \
                       rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://mirror.example/debian t\n";
        assert_eq!(package_version(madison), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(package_version("rust-src | 1.95.01-1 | x\n"), None);
        assert_eq!(package_version(""), None);
    }
}
