//! Folders of the cache: each is filled at once, and its files are held to their sums from then on.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::shell;

/// Sums of the files of a folder, in the folder.
const SUMS: &str = "SHA256SUMS";

/// Fills a folder; what it held goes only when all of the new is there.
pub(super) fn fill(folder: &Path, contents: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let partial = folder.with_file_name(format!("{name}.partial"));
    // Of a run that was interrupted.
    remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    contents(&partial)?;
    let sum = format!("find . -type f ! -name {SUMS} -exec sha256sum -- {{}} + >{SUMS}");
    shell::run(
        shell::command("sh")
            .args(["-c", &sum])
            .current_dir(&partial),
    )?;
    remove(folder)?;
    fs::rename(&partial, folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Whether a folder was filled and still has what it was filled with; says so if it has not.
pub(super) fn is_whole(folder: &Path) -> Result<bool> {
    if !folder.exists() {
        return Ok(false);
    }
    let is_whole = folder.join(SUMS).is_file()
        && shell::status(
            shell::command("sha256sum")
                .args(["--check", "--strict", "--status", SUMS])
                .current_dir(folder),
        )?
        .success();
    if !is_whole {
        eprintln!("vm: {} is damaged", folder.display());
    }
    Ok(is_whole)
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_folder_is_noticed_and_filled_again() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("6.1");
        assert!(!is_whole(&folder).unwrap());
        let fill = || {
            fill(&folder, |folder| {
                fs::create_dir(folder.join("modules"))?;
                fs::write(folder.join("modules/veth.ko"), "module")?;
                Ok(fs::write(folder.join("vmlinuz"), "image")?)
            })
        };
        fill().unwrap();
        assert!(is_whole(&folder).unwrap());

        fs::remove_file(folder.join("vmlinuz")).unwrap();
        assert!(!is_whole(&folder).unwrap(), "a file is missing");
        fill().unwrap();
        assert!(is_whole(&folder).unwrap());

        fs::write(folder.join("modules/veth.ko"), "modul").unwrap();
        assert!(!is_whole(&folder).unwrap(), "a file is cut");

        fs::remove_file(folder.join(SUMS)).unwrap();
        assert!(!is_whole(&folder).unwrap(), "nobody knows");
    }

    #[test]
    fn what_there_was_stays_when_filling_fails() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("6.1");
        fill(&folder, |folder| {
            Ok(fs::write(folder.join("vmlinuz"), "old")?)
        })
        .unwrap();
        fill(&folder, |_| anyhow::bail!("no network")).unwrap_err();
        assert!(is_whole(&folder).unwrap());
        assert_eq!(fs::read_to_string(folder.join("vmlinuz")).unwrap(), "old");
    }
}
