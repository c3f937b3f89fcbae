//! Debian's packages, fetched through package lists of our own: the machine's configuration, lists
//! and packages stay as they are, and suites that it does not use can be read.

mod reach;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

pub(crate) use reach::OutOfReach;
pub(crate) use sources::Archive;

use crate::shell;

/// Debian's package manager with a configuration of its own.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Reads the package lists of some suites, in a folder that is created.
    pub(crate) fn new(folder: PathBuf, archive: &Archive, suites: &[&str]) -> Result<Self> {
        if !shell::has_program("apt-get") {
            return Err(OutOfReach("this computer has no apt-get".to_owned()).into());
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        let list = folder.join("sources.list");
        let lines: String = suites.iter().map(|suite| archive.line(suite)).collect();
        fs::write(&list, lines).with_context(|| format!("cannot write {}", list.display()))?;
        let apt = Self { folder };
        // Without the option, lists that cannot be fetched are no failure.
        reach::run(apt.command("apt-get").args([
            "-o",
            "APT::Update::Error-Mode=any",
            "-qq",
            "update",
        ]))?;
        Ok(apt)
    }

    /// A command of apt that reads these lists.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        // What it says is read.
        command.current_dir(&self.folder).env("LC_ALL", "C");
        for (option, value) in [
            ("Dir::Etc::sourcelist", self.folder.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("-")),
            ("Dir::State::lists", self.folder.join("lists")),
            ("Dir::Cache", self.folder.join("cache")),
            // The unprivileged user of apt may not write here.
            ("APT::Sandbox::User", PathBuf::from("root")),
            // Nothing is installed, so nobody else's lock matters.
            ("Debug::NoLocking", PathBuf::from("true")),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", value.display()));
        }
        command
    }

    /// Fetches a package of a version and gives its path, which the next call makes invalid.
    pub(crate) fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        for old in packages(&self.folder)? {
            fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        reach::run(self.command("apt-get").args([
            "-qq",
            "download",
            &format!("{package}={version}"),
        ]))?;
        packages(&self.folder)?
            .pop()
            .context("apt-get download left no package")
    }

    /// Fetches packages of a suite with all they depend on and this machine lacks; gives the paths.
    pub(crate) fn download_with_dependencies(
        &self,
        suite: &str,
        names: &[&str],
    ) -> Result<Vec<PathBuf>> {
        reach::run(
            self.command("apt-get")
                .args(["-qq", "-y", "--download-only", "--no-install-recommends"])
                .args(["-t", suite, "install"])
                .args(names)
                .stdout(std::process::Stdio::null()),
        )?;
        packages(&self.folder.join("cache/archives"))
    }

    /// Removes lists and packages.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// The package files in a folder.
fn packages(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Unpacks all files of a package into a folder, which is created.
pub(crate) fn unpack(package: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    shell::run(
        shell::command("dpkg-deb")
            .arg("-x")
            .arg(package)
            .arg(folder),
    )
}
