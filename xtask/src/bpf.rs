//! The eBPF objects: built from source with stable Rust, compared with the committed ones.
//!
//! The target `bpfel-unknown-none` has no precompiled `core`, so cargo builds it (`-Z build-std`,
//! which stable Rust allows under `RUSTC_BOOTSTRAP`), and its linker is `bpf-linker`. Objects
//! depend on the compiler's version and on nothing else of the machine: no path and no line
//! information gets into them. All that is built or fetched on the way lies in `.cache/bpf`.

mod linker;
mod rust_src;
mod toolchain;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::shell;
use toolchain::Toolchain;

/// Binaries of `xdp-redirect/ebpf`; each becomes `xdp-redirect/objects/NAME.o`.
const PROGRAMS: [&str; 9] = [
    "redirect",
    "decap",
    "pass",
    "healthcheck",
    "balancer",
    "driver",
    "generator",
    "reflect",
    "count",
];
/// Rust's target for eBPF on little-endian machines.
const TARGET: &str = "bpfel-unknown-none";

/// Builds the objects from source and overwrites the committed ones.
pub(crate) fn build() -> Result<()> {
    for object in compile()? {
        let committed = committed(object.program);
        fs::write(&committed, &object.bytes)
            .with_context(|| format!("cannot write {}", committed.display()))?;
        eprintln!(
            "bpf: {} ({} bytes)",
            relative(&committed),
            object.bytes.len()
        );
    }
    Ok(())
}

/// Builds the objects from source and fails if a committed one differs.
pub(crate) fn check() -> Result<()> {
    let mut stale = Vec::new();
    for object in compile()? {
        let committed = committed(object.program);
        match fs::read(&committed) {
            Ok(bytes) if bytes == object.bytes => {}
            Ok(_) => stale.push(format!("{} differs", relative(&committed))),
            Err(error) => stale.push(format!("{}: {error}", relative(&committed))),
        }
    }
    if !stale.is_empty() {
        bail!(
            "the committed eBPF objects are not what their source gives: {}. \
             Run `cargo xtask bpf` and commit xdp-redirect/objects",
            stale.join(", ")
        );
    }
    eprintln!(
        "bpf: the {} committed objects are what their source gives",
        PROGRAMS.len()
    );
    Ok(())
}

/// One object as the compiler left it.
struct Object {
    program: &'static str,
    bytes: Vec<u8>,
}

fn compile() -> Result<Vec<Object>> {
    let cache = cache();
    let toolchain = Toolchain::find()?;
    let library = rust_src::locate(&toolchain, &cache)?;
    let linker = linker::locate(&toolchain, &cache)?;
    let target_folder = cache.join("target");

    let mut command = toolchain.cargo();
    command
        .current_dir(shell::root().join("xdp-redirect/ebpf"))
        .args([
            "build",
            "--release",
            "--locked",
            "--bins",
            "-Zbuild-std=core",
        ])
        .arg(format!("--target={TARGET}"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", &library)
        .env("CARGO_TARGET_DIR", &target_folder)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(&library).join("\u{1f}"),
        )
        // Both would change the code that comes out.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_INCREMENTAL");
    shell::run(&mut command).context("cannot build the eBPF programs")?;

    PROGRAMS
        .iter()
        .map(|&program| {
            let path = target_folder.join(TARGET).join("release").join(program);
            let bytes =
                fs::read(&path).with_context(|| format!("the build left no {}", path.display()))?;
            Ok(Object { program, bytes })
        })
        .collect()
}

/// Flags under which the objects come out the same wherever they are built.
fn rustflags(library: &Path) -> Vec<String> {
    let mut flags = vec![
        // 32-bit arithmetic and jumps, which all kernels have on which katran-xsk runs; without, the
        // compiler makes them of 64-bit ones.
        "-Ctarget-cpu=v3".to_owned(),
        format!("--remap-path-prefix={}=/rust", library.display()),
    ];
    flags.push(format!(
        "--remap-path-prefix={}=/katran-xsk",
        shell::root().display()
    ));
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    flags
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

fn committed(program: &str) -> PathBuf {
    shell::root()
        .join("xdp-redirect/objects")
        .join(program)
        .with_extension("o")
}

/// Folder of everything that is built or fetched here; git ignores it.
fn cache() -> PathBuf {
    shell::root().join(".cache/bpf")
}

fn relative(path: &Path) -> String {
    path.strip_prefix(shell::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_a_binary_of_the_crate() {
        let folder = shell::root().join("xdp-redirect/ebpf/src/bin");
        let mut sources: Vec<_> = fs::read_dir(folder)
            .expect("the crate has binaries")
            .map(|entry| entry.expect("readable folder").path())
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        sources.sort();
        let mut programs = PROGRAMS.to_vec();
        programs.sort_unstable();
        assert_eq!(sources, programs);
    }

    #[test]
    fn every_object_is_committed() {
        for program in PROGRAMS {
            let path = committed(program);
            assert!(path.is_file(), "{} is missing", path.display());
        }
    }
}
