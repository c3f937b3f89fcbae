//! QEMU: the computer's own where it emulates what is needed, else Debian's, unpacked into the cache.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{packages, store};
use crate::shell;

const PROGRAM: &str = "qemu-system-x86_64";
/// Debian's package of it.
const PACKAGE: &str = "qemu-system-x86";
/// A card that QEMU has had since version 8.0.
const NEWEST_CARD: &str = "name \"igb\"";
/// What the loader reads where to find libraries from.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// A QEMU that can be started.
pub(super) struct Qemu {
    program: PathBuf,
    /// Root of an unpacked QEMU.
    unpacked: Option<PathBuf>,
}

impl Qemu {
    /// The computer's QEMU, the cache's or one fetched from Debian.
    pub(super) fn get(cache: &Path) -> Result<Self> {
        let own = Self {
            program: PROGRAM.into(),
            unpacked: None,
        };
        if shell::has_program(PROGRAM) && own.is_new_enough() {
            return Ok(own);
        }
        let root = cache.join("qemu");
        let cached = Self {
            program: root.join("usr/bin").join(PROGRAM),
            unpacked: Some(root.clone()),
        };
        if !store::is_whole(&root)? || !cached.is_new_enough() {
            packages::fetch(cache, &root, &[PACKAGE])
                .context("QEMU is not to be had: install qemu-system-x86 8.0 or newer")?;
        }
        ensure!(
            cached.is_new_enough(),
            "Debian's QEMU does not start or is older than 8.0: install qemu-system-x86 8.0 or newer"
        );
        Ok(cached)
    }

    fn is_new_enough(&self) -> bool {
        let mut command = shell::command(&self.program);
        if let Some(libraries) = self.libraries() {
            command.env(LIBRARIES, libraries);
        }
        let output = command
            .args(["-device", "help"])
            .stderr(Stdio::null())
            .output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(NEWEST_CARD))
    }

    /// Where an unpacked QEMU's libraries are, as the loader's variable has it.
    fn libraries(&self) -> Option<String> {
        let root = self.unpacked.as_ref()?;
        let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|folder| root.join(folder).display().to_string());
        Some(folders.join(":"))
    }

    /// A command whose program becomes QEMU: `before` and QEMU's own words.
    pub(super) fn command(&self, before: &[String]) -> Command {
        let mut words = before.to_vec();
        if let Some(libraries) = self.libraries() {
            // Sudo takes the variable away, whatever it is told to preserve; so it is set behind it.
            words.extend(["env".to_owned(), format!("{LIBRARIES}={libraries}")]);
        }
        let mut words = words
            .iter()
            .map(AsRef::as_ref)
            .chain([self.program.as_os_str()]);
        let mut command = shell::command(words.next().unwrap_or_default());
        command.args(words);
        if let Some(root) = &self.unpacked {
            for folder in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(folder));
            }
        }
        command
    }
}
