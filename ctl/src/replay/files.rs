//! Which file a path leads to. Creating an output that is read as well would empty it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use anyhow::bail;

use crate::cli::ReplayArgs;

/// A file, whatever links lead to it.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// By device and inode.
    Existing(u64, u64),
    /// One that is yet to be made: its folder, and its name there.
    New(u64, u64, OsString),
}

/// Fails if an output is an input, or the other output, before anything is written.
pub(super) fn refuse_same_files(args: &ReplayArgs) -> anyhow::Result<()> {
    let read = [("--config", &args.config), ("--in", &args.input)];
    let written = [("--out", &args.output), ("--verdicts", &args.verdicts)];
    for (place, (option, path)) in written.into_iter().enumerate() {
        let Some(own) = identity(path) else { continue };
        for (other, taken) in read.iter().chain(&written[..place]) {
            if identity(taken).as_ref() == Some(&own) {
                bail!(
                    "{option}: {} is the same file as {other}; name another file",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// `None` for devices, which hold nothing, and for paths that lead nowhere.
fn identity(path: &Path) -> Option<Identity> {
    match fs::metadata(path) {
        Ok(file) if file.file_type().is_char_device() => None,
        Ok(file) => Some(Identity::Existing(file.dev(), file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            // A symbolic link that leads to nothing yet. Those that lead in a circle are another error.
            if let Ok(target) = fs::read_link(path) {
                return identity(&folder.join(target));
            }
            let name = path.file_name()?.to_owned();
            let folder = fs::metadata(folder).ok()?;
            Some(Identity::New(folder.dev(), folder.ino(), name))
        }
        Err(_) => None,
    }
}
