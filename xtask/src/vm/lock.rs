//! The lock of the cache and of the machines' files: one run at a time.

use std::{
    fs::{File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Time between two tries.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A lock that is held; the kernel gives it back with the process, too.
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of a file, and waits for another run to give it back, for `patience` at most.
    pub(super) fn take(path: &Path, patience: Duration) -> Result<Self> {
        // Not truncated: the one that holds the lock has written down who it is.
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let deadline = Instant::now() + patience;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            let holder = holder(&mut file);
            if Instant::now() >= deadline {
                bail!(
                    "{holder} still holds {} after {} s: wait for its end, or end it",
                    path.display(),
                    patience.as_secs()
                );
            }
            if !told {
                eprintln!(
                    "vm: {holder} runs machines; waiting for its end, {} s at most",
                    patience.as_secs()
                );
                told = true;
            }
            thread::sleep(POLL_INTERVAL);
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", process::id()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(file))
    }

    /// Gives it back before the end.
    pub(super) fn release(&self) -> Result<()> {
        self.0.unlock().context("cannot unlock")
    }
}

/// Who wrote down that it holds the lock.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        // It has the lock and is about to write.
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_other_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, Duration::ZERO).unwrap();
        let Err(error) = Lock::take(&path, Duration::ZERO) else {
            panic!("two have it");
        };
        let words = format!("process {} still holds", process::id());
        assert!(error.to_string().starts_with(&words), "{error}");
        first.release().unwrap();
        let _second = Lock::take(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_waiting_run_gets_it_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| Lock::take(&path, Duration::from_mins(1)).map(drop));
            first.release().unwrap();
            second.join().expect("no panic").unwrap();
        });
    }
}
