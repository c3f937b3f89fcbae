//! `cargo xtask dist`: one file that runs on any Linux of this architecture.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use object::{
    Endianness, elf,
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _},
};

use crate::{setup, shell};

/// Builds the static binary, strips a copy of it into `target/dist` and checks that copy.
pub(crate) fn run() -> Result<()> {
    setup::build()?;
    build_static(&["--release", "--package=katran-xsk"])?;
    let stripped = shell::target_folder()?.join("dist/katran-xsk");
    let bytes = strip("release", "katran-xsk", &stripped)?;
    println!(
        "{}: static, {:.1} MB",
        display(&stripped),
        bytes as f64 / 1e6
    );
    Ok(())
}

/// Builds programs that need no file of the system they run on.
pub(crate) fn build_static(args: &[&str]) -> Result<()> {
    shell::run(
        shell::cargo()
            .args(["build", "--locked"])
            .args(args)
            // Named even though it is the host's: the flags then leave build scripts and macros alone.
            .args(["--target", &shell::host_triple()?])
            .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    )
}

/// Strips a copy of a static program, checks that it is one and gives its size in bytes. `built` is
/// the folder of the profile it was built with.
pub(crate) fn strip(built: &str, program: &str, stripped: &Path) -> Result<usize> {
    let built = shell::target_folder()?
        .join(shell::host_triple()?)
        .join(built)
        .join(program);
    if let Some(folder) = stripped.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    shell::run(shell::command("strip").arg("-o").arg(stripped).arg(built))?;
    let bytes = fs::read(stripped).with_context(|| format!("cannot read {}", display(stripped)))?;
    check_static(&bytes).with_context(|| format!("{} is not static", display(stripped)))?;
    Ok(bytes.len())
}

fn display(path: &Path) -> String {
    path.strip_prefix(shell::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// A static program asks for no interpreter and no shared library. One that can be loaded at any
/// address still has a dynamic section: it relocates itself by it.
fn check_static(bytes: &[u8]) -> Result<()> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes)
        .map_err(|error| anyhow::anyhow!("not a 64-bit ELF file: {error}"))?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, bytes)? {
        if let Some(interpreter) = segment.interpreter(endian, bytes)? {
            bail!("it asks for {}", String::from_utf8_lossy(interpreter));
        }
        if let Some(entries) = segment.dynamic(endian, bytes)? {
            let libraries = entries
                .iter()
                .filter(|entry| entry.d_tag(endian) == u64::from(elf::DT_NEEDED))
                .count();
            ensure!(libraries == 0, "it needs {libraries} shared libraries");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_binary_is_linked_dynamically() {
        let bytes = fs::read("/proc/self/exe").unwrap();
        let error = check_static(&bytes).unwrap_err();
        assert!(error.to_string().starts_with("it asks for "), "{error}");
    }

    #[test]
    fn other_files_are_refused() {
        let error = check_static(b"#!/bin/sh\n").unwrap_err();
        assert!(error.to_string().contains("ELF"), "{error}");
    }
}
