//! The Rust toolchain that builds the objects.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Version whose code generator made the committed objects; another one gives other bytes.
pub(super) const RUST_VERSION: &str = "1.95.0";

/// A compiler of [`RUST_VERSION`].
pub(super) struct Toolchain {
    /// `rustc --print sysroot`.
    pub(super) sysroot: PathBuf,
}

impl Toolchain {
    /// Takes the default compiler if its version fits, else the one that rustup holds.
    pub(super) fn find() -> Result<Self> {
        let version = shell::output(shell::command("rustc").arg("-vV"))?;
        let rustc = if release(&version) == Some(RUST_VERSION) {
            PathBuf::from("rustc")
        } else {
            Self::from_rustup().with_context(|| {
                format!(
                    "the eBPF objects are built with Rust {RUST_VERSION}, the default here is {}: \
                     run `rustup toolchain install {RUST_VERSION} --profile minimal`",
                    release(&version).unwrap_or("unknown")
                )
            })?
        };
        let sysroot = shell::output(shell::command(rustc).args(["--print", "sysroot"]))?;
        Ok(Self {
            sysroot: PathBuf::from(sysroot.trim_end()),
        })
    }

    fn from_rustup() -> Result<PathBuf> {
        if !shell::has_program("rustup") {
            bail!("there is no rustup to ask for another version");
        }
        let mut which = shell::command("rustup");
        which.args(["which", "--toolchain", RUST_VERSION, "rustc"]);
        Ok(PathBuf::from(shell::output(&mut which)?.trim_end()))
    }

    /// This toolchain's cargo, with this toolchain's compiler.
    pub(super) fn cargo(&self) -> Command {
        let mut cargo = shell::command(self.sysroot.join("bin/cargo"));
        cargo
            .env("RUSTC", self.sysroot.join("bin/rustc"))
            .env("LD_LIBRARY_PATH", self.libraries())
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        cargo
    }

    /// Folder of the compiler's shared libraries.
    pub(super) fn libraries(&self) -> PathBuf {
        self.sysroot.join("lib")
    }

    /// The name that rustup knows this toolchain by, if it is one of rustup's.
    pub(super) fn rustup_name(&self) -> Option<&str> {
        let folder = self.sysroot.parent()?;
        if folder.file_name()? != "toolchains" {
            return None;
        }
        self.sysroot.file_name()?.to_str()
    }

    /// LLVM as a shared library, the one the compiler itself uses.
    pub(super) fn llvm(&self) -> Result<PathBuf> {
        let folder = self.libraries();
        let mut names: Vec<String> = folder
            .read_dir()
            .with_context(|| format!("cannot read {}", folder.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("libLLVM") && is_elf(&folder.join(name)))
            .collect();
        names.sort();
        names.pop().map(|name| folder.join(name)).with_context(|| {
            format!(
                "{} holds no libLLVM: building the eBPF objects needs rustup's Rust {RUST_VERSION}",
                folder.display()
            )
        })
    }
}

/// Beside the library lies a linker script of almost the same name.
fn is_elf(path: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
        && magic == *b"\x7fELF"
}

/// The line `release: …` of `rustc -vV`.
fn release(version: &str) -> Option<&str> {
    version
        .lines()
        .find_map(|line| line.strip_prefix("release: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_read_from_the_long_version() {
        let version = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nrelease: 1.95.0\n";
        assert_eq!(release(version), Some("1.95.0"));
        assert_eq!(release("rustc 1.95.0"), None);
    }

    #[test]
    fn only_rustups_toolchains_have_a_name_there() {
        let named = |sysroot: &str| {
            Toolchain {
                sysroot: sysroot.into(),
            }
            .rustup_name()
            .map(str::to_owned)
        };
        assert_eq!(
            named("/home/a/.rustup/toolchains/1.95.0-x86_64-unknown-linux-gnu").as_deref(),
            Some("1.95.0-x86_64-unknown-linux-gnu")
        );
        assert_eq!(named("/usr"), None);
    }
}
