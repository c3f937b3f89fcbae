//! The source of `core`, of exactly the compiler's version.
//!
//! In this order: rustup's component `rust-src` if the toolchain has it; Debian's package
//! `rust-src`; `rustup component add`. Debian's package may be in a suite that the machine does not
//! use, so it is fetched through package lists of our own: the machine's configuration, lists and
//! packages stay as they are.

mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::toolchain::{RUST_VERSION, Toolchain};
use crate::shell;
use sources::Archive;

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
    ensure!(
        shell::has_program("apt-get") && shell::has_program("dpkg-deb"),
        "apt-get and dpkg-deb are not installed"
    );
    let archive = Archive::of_this_machine()
        .context("no Debian archive among the machine's package sources")?;
    eprintln!("bpf: fetching Debian's rust-src {RUST_VERSION} (45 MB) from {SUITE}");
    let apt = Apt::new(cache.join("apt"), &archive)?;
    shell::run(apt.command("apt-get").args(["-qq", "update"]))?;
    let versions = shell::output(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let version = package_version(&versions)
        .with_context(|| format!("{SUITE} has no rust-src of version {RUST_VERSION}"))?;
    shell::run(
        apt.command("apt-get")
            .args(["-qq", "download", &format!("rust-src={version}")]),
    )?;
    let package = apt.downloaded()?;
    unpack(&package, unpacked)?;
    fs::remove_dir_all(&apt.folder)
        .with_context(|| format!("cannot remove {}", apt.folder.display()))
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

/// Debian's package manager with a configuration of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: PathBuf, archive: &Archive) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        let list = folder.join("sources.list");
        fs::write(&list, archive.line(SUITE))
            .with_context(|| format!("cannot write {}", list.display()))?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        command.current_dir(&self.folder);
        for (option, value) in [
            ("Dir::Etc::sourcelist", self.folder.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("-")),
            ("Dir::State::lists", self.folder.join("lists")),
            ("Dir::Cache", self.folder.join("cache")),
            // The unprivileged user of apt may not write here.
            ("APT::Sandbox::User", PathBuf::from("root")),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", value.display()));
        }
        command
    }

    fn downloaded(&self) -> Result<PathBuf> {
        fs::read_dir(&self.folder)
            .with_context(|| format!("cannot read {}", self.folder.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get download left no package")
    }
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
