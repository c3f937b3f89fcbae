//! What machines are made of and this repository does not hold.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    kernel::{self, Bootable},
    lock::Lock,
    matrix::{Card, Kernel},
    qemu::Qemu,
};
use crate::{debian::OutOfReach, shell};

/// How long another run may hold the lock: as long as the matrix may take, and some time to build.
const PATIENCE: Duration = Duration::from_mins(15);

/// QEMU and kernels.
pub(super) struct Parts {
    /// Held as long as the machines run: they have the same files from run to run.
    pub(super) lock: Lock,
    pub(super) cache: PathBuf,
    pub(super) qemu: Qemu,
    /// By name: the kernel, or why it cannot be fetched.
    kernels: BTreeMap<&'static str, Result<Bootable, String>>,
}

impl Parts {
    /// Finds or fetches what these machines need. A kernel that is out of reach is no error, but QEMU is.
    pub(super) fn get(pairs: &[(Kernel, Card)]) -> Result<Self> {
        let triple = shell::host_triple()?;
        if !triple.starts_with("x86_64-") {
            let why = format!("the machines run x86_64, and this computer is {triple}");
            return Err(OutOfReach(why).into());
        }
        let cache = shell::root().join(".cache/vm");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let lock = Lock::take(&cache.join("lock"), PATIENCE)?;
        let qemu = Qemu::get(&cache)?;
        let mut kernels = BTreeMap::new();
        for (kernel, _) in pairs {
            if !kernels.contains_key(kernel.name) {
                kernels.insert(kernel.name, fetched(kernel::get(kernel, &cache))?);
            }
        }
        Ok(Self {
            lock,
            cache,
            qemu,
            kernels,
        })
    }

    /// A kernel, or why it cannot be fetched.
    pub(super) fn kernel(&self, kernel: &Kernel) -> Result<&Bootable, String> {
        match self.kernels.get(kernel.name) {
            Some(Ok(bootable)) => Ok(bootable),
            Some(Err(why)) => Err(why.clone()),
            None => Err(format!("kernel {} was not asked for", kernel.name)),
        }
    }
}

/// What is out of reach is told apart from what fails.
fn fetched<T>(got: Result<T>) -> Result<Result<T, String>> {
    match got {
        Ok(part) => Ok(Ok(part)),
        Err(error) if OutOfReach::is(&error) => Ok(Err(format!("{error:#}"))),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_out_of_reach_is_left_out() {
        let away = anyhow::Error::from(OutOfReach("no network".to_owned())).context("kernel 6.1");
        let left_out = fetched::<()>(Err(away)).unwrap();
        assert_eq!(left_out, Err("kernel 6.1: no network".to_owned()));
        let full = anyhow::anyhow!("no space left on device").context("kernel 6.1");
        assert!(fetched::<()>(Err(full)).is_err());
    }
}
