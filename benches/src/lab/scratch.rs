//! A directory for configurations, sockets and logs that no path of the file system leads to.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A tmpfs that is mounted nowhere: this process holds its descriptor, and the kernel frees it with
/// the process, however that ends. Other processes of the same user reach it through
/// /proc/PID/fd/N.
#[derive(Debug)]
pub struct Scratch {
    mount: OwnedFd,
}

impl Scratch {
    /// Creates an empty directory. Needs `CAP_SYS_ADMIN` and Linux 5.2.
    pub fn new() -> Result<Self> {
        let context = "cannot create a temporary file system (needs root and Linux 5.2)";
        let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).context(context)?;
        fsconfig_create(&filesystem).context(context)?;
        let mount = fsmount(
            &filesystem,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .context(context)?;
        Ok(Self { mount })
    }

    /// Path of the directory, valid for every process of this user while this process lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.mount.as_raw_fd()
        ))
    }

    /// Path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
