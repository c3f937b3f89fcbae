//! `katran-xsk bench`: what is left of it when it is interrupted.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::lab::{Process, Scratch, requirements};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Names of a process's threads, with how long each ran.
fn threads(process: u32) -> Result<Vec<(String, Duration)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let folder = task?.path();
        let read = |file| fs::read_to_string(folder.join(file));
        // It may have ended since.
        let (Ok(name), Ok(times)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let ran = times.split_whitespace().next().context("no times")?;
        threads.push((
            name.trim_end().to_owned(),
            Duration::from_nanos(ran.parse()?),
        ));
    }
    Ok(threads)
}

/// How many threads of the kernel's receive for interfaces of this benchmark. They go with the
/// interfaces, and these with their namespaces.
fn receive_threads(bench: u32) -> Result<usize> {
    let prefix = format!("napi/kb{bench}-");
    let mut found = 0;
    for process in fs::read_dir("/proc")? {
        let comm = fs::read_to_string(process?.path().join("comm"));
        found += usize::from(comm.is_ok_and(|name| name.starts_with(&prefix)));
    }
    Ok(found)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(
            Instant::now() < deadline,
            "not so after {PATIENCE:?}: {what}"
        );
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Names of all that is pinned, nothing where nothing can be.
fn pinned() -> Vec<String> {
    let entries = fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.path().display().to_string())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn nothing_is_left_of_an_interrupted_trial() -> Result<()> {
    if !requirements::met_or_skip("nothing_is_left_of_an_interrupted_trial", &[]) {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let (before, rows) = (pinned(), scratch.file("rows.json"));
    // A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_katran-xsk")])
        .args([
            "bench",
            "wire",
            "--datapath",
            "xsk",
            "--layout",
            "shared-core",
        ])
        .args(["--queues", "1", "--flows", "100", "--trial", "60000"])
        .arg("--tolerate-load")
        .arg("--json")
        .arg(&rows)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut bench = Process::spawn(command)?;
    let id = bench.id();
    wait_until("the generator sends", || {
        // To make a hundred flows known takes much less.
        let is_sending =
            |(name, ran): &(String, Duration)| name == "far" && *ran > Duration::from_secs(1);
        Ok(threads(id)?.iter().any(is_sending))
    })?;
    assert_eq!(receive_threads(id)?, 1);

    bench.signal(Signal::SIGINT)?;
    let status = bench.wait(PATIENCE)?;
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{status}");
    assert!(!Path::new(&format!("/proc/{id}")).exists());
    wait_until("namespaces are gone", || Ok(receive_threads(id)? == 0))?;
    assert_eq!(pinned(), before);
    assert!(!rows.exists());
    Ok(())
}
