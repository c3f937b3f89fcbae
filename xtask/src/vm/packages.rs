//! Programs from Debian's packages: downloaded and unpacked into the cache, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::store;
use crate::debian::{self, Apt, Archive};

/// Fetches packages of this system's suite, or of its backports where they are newer, and unpacks them
/// with what they depend on.
pub(super) fn fetch(cache: &Path, folder: &Path, packages: &[&str]) -> Result<()> {
    let archive = Archive::of_this_machine()?;
    let suite = codename(&fs::read_to_string("/etc/os-release")?)
        .context("/etc/os-release names no version of Debian")?;
    let backports = format!("{suite}-backports");
    eprintln!("vm: fetching {} from {backports}", packages.join(" and "));
    let apt = Apt::new(cache.join("apt-tools"), &archive, &[&suite, &backports])?;
    store::fill(folder, |folder| {
        for package in apt.download_with_dependencies(&backports, packages)? {
            debian::unpack(&package, folder)?;
        }
        Ok(())
    })?;
    apt.remove()
}

fn codename(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// Debian's package with a shell and its programs, for people who look around.
const BUSYBOX: &str = "busybox-static";

/// The static busybox.
pub(super) fn busybox(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join("busybox");
    if !store::is_whole(&folder)? {
        fetch(cache, &folder, &[BUSYBOX]).context("busybox is not to be had")?;
    }
    ["bin/busybox", "usr/bin/busybox"]
        .map(|path| folder.join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("the package busybox-static holds no busybox")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codename_is_read() {
        let text = "NAME=\"Debian\"\nVERSION_CODENAME=bookworm\n";
        assert_eq!(codename(text).as_deref(), Some("bookworm"));
        assert_eq!(codename("NAME=x\n"), None);
    }
}
