//! What the build and the tests need beyond Rust and a linker.

mod packages;

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::shell;
use packages::{BUILD, DEMO, Package, TEST, missing};

/// Debian's package manager does the rest of this as root.
const INSTALL: &str = include_str!("install.sh");

/// Installs what building needs.
pub(crate) fn build() -> Result<()> {
    ensure(BUILD)
}

/// Installs what building and the demo need.
pub(crate) fn demo() -> Result<()> {
    ensure(&[BUILD, DEMO].concat())
}

/// Installs what building and testing need, the toolchain's formatter and linter included.
pub(crate) fn all() -> Result<()> {
    ensure(&[BUILD, TEST].concat())?;
    components()
}

fn ensure(packages: &[Package]) -> Result<()> {
    if shell::has_program("dpkg-query") && shell::has_program("apt-get") {
        ensure_debian(packages)
    } else {
        ensure_elsewhere(packages)
    }
}

fn ensure_debian(packages: &[Package]) -> Result<()> {
    let missing = missing(packages, &installed(packages)?);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!(
        "setup: installing {} with apt-get (no service is started)",
        missing.join(" ")
    );
    let mut command = shell::as_root("sh").with_context(|| {
        format!(
            "missing packages; as root: apt-get install {}",
            missing.join(" ")
        )
    })?;
    command.args(["-c", INSTALL, "install.sh"]).args(&missing);
    let status = command
        .status()
        .context("cannot start the installation of packages")?;
    if !status.success() {
        bail!(
            "cannot install {}: {status}; the messages of apt-get are above",
            missing.join(" ")
        );
    }
    Ok(())
}

/// Packages and their states, a pair a line; packages that dpkg has never heard of are left out.
fn installed(packages: &[Package]) -> Result<String> {
    let output = shell::command("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(packages.iter().map(|package| package.debian))
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    // Its status is a failure as soon as one package is unknown, which is what we want to find out.
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ensure_elsewhere(packages: &[Package]) -> Result<()> {
    let absent: Vec<&str> = packages
        .iter()
        .filter_map(|package| package.program)
        .filter(|program| !shell::has_program(program))
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let libraries: Vec<&str> = packages
        .iter()
        .filter(|package| package.program.is_none())
        .map(|package| package.debian)
        .collect();
    bail!(
        "packages are installed automatically on Debian and Ubuntu only.\n\
         Programs not found here: {}.\n\
         Needed besides (Debian's names of the packages): {}.\n\
         Install them with this system's package manager and run the task again.",
        absent.join(", "),
        libraries.join(", ")
    )
}

/// rustfmt and clippy are components that a minimal toolchain lacks.
fn components() -> Result<()> {
    let absent: Vec<&str> = [("rustfmt", "fmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(_, subcommand)| !has_subcommand(subcommand))
        .map(|(component, _)| component)
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let list = absent.join(" ");
    if !shell::has_program("rustup") {
        bail!("the Rust toolchain lacks {list}, and there is no rustup to add them: install them");
    }
    eprintln!("setup: adding {list} with rustup");
    shell::run(
        shell::command("rustup")
            .args(["--quiet", "component", "add"])
            .args(absent),
    )
}

fn has_subcommand(name: &str) -> bool {
    shell::cargo()
        .args([name, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
