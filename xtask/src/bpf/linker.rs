//! `bpf-linker`, built once against the compiler's own LLVM.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::toolchain::Toolchain;
use crate::shell;

/// Version of bpf-linker: it decides about the objects' bytes too.
const VERSION: &str = "0.13.0";
/// Feature of bpf-linker for the LLVM of [`super::toolchain::RUST_VERSION`].
const LLVM_FEATURE: &str = "llvm-22";

/// Path of the linker; built when the cache does not hold it.
pub(super) fn locate(toolchain: &Toolchain, cache: &Path) -> Result<PathBuf> {
    let root = cache.join(format!("bpf-linker-{VERSION}"));
    let program = root.join("bin/bpf-linker");
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("bpf: building bpf-linker {VERSION}, once (about a minute)");
    let prefix = llvm_prefix(toolchain, cache)?;
    let target_folder = cache.join("bpf-linker-target");
    let mut command = toolchain.cargo();
    command
        .args(["install", "bpf-linker", "--quiet", "--locked"])
        .args(["--no-default-features", "--features", LLVM_FEATURE])
        .args(["--version", &format!("={VERSION}")])
        .arg("--root")
        .arg(&root)
        .env("LLVM_PREFIX", prefix)
        .env("CARGO_TARGET_DIR", &target_folder)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    shell::run(&mut command).context("cannot build bpf-linker")?;
    // Some hundred megabytes that nothing asks for again.
    fs::remove_dir_all(&target_folder)
        .with_context(|| format!("cannot remove {}", target_folder.display()))?;
    Ok(program)
}

/// A folder that looks like an installed LLVM to the linker's build script.
fn llvm_prefix(toolchain: &Toolchain, cache: &Path) -> Result<PathBuf> {
    let prefix = cache.join("llvm");
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))
        .with_context(|| format!("cannot create {}", prefix.display()))?;
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    symlink(toolchain.llvm()?, &link)
        .with_context(|| format!("cannot create {}", link.display()))?;
    Ok(prefix)
}
