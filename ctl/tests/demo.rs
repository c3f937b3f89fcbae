//! `katran-xsk demo` from begin to end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::lab::{Process, requirements};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_mins(2);

fn demo(arguments: &[&str]) -> Command {
    // A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_katran-xsk")])
        .args(["demo", "--connections", "300", "--datagrams", "100"])
        .args(arguments);
    command
}

/// Starts a demo that keeps its lab and waits until it does; gives what it has said, and where
/// it will say the rest.
fn kept_demo() -> Result<(Process, String, impl BufRead)> {
    let mut command = demo(&["--keep"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::spawn(command)?;
    let stdout = process.child_mut().stdout.take().context("no pipe")?;
    let mut stdout = BufReader::new(stdout);
    let mut text = String::new();
    while !text.contains("ends the lab.\n") {
        ensure!(
            stdout.read_line(&mut text)? > 0,
            "the demo ended early:\n{text}"
        );
    }
    Ok((process, text, stdout))
}

/// The processes that a process has started.
fn children(process: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        for child in fs::read_to_string(task?.path().join("children"))?.split_whitespace() {
            children.push(child.parse()?);
        }
    }
    Ok(children)
}

fn wait_until_gone(process: u32) -> Result<()> {
    let path = format!("/proc/{process}");
    let deadline = Instant::now() + PATIENCE;
    while Path::new(&path).exists() {
        ensure!(Instant::now() < deadline, "process {process} is left");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn the_demo_passes() -> Result<()> {
    if !requirements::met_or_skip("the_demo_passes", &[]) {
        return Ok(());
    }
    let output = demo(&["--queues", "2", "--reals", "4"])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("PASS"), "{text}{errors}");
    assert!(!text.contains("FAILED"), "{text}{errors}");
    for promise in ["every byte arrived", "lived on", "none dropped", "real 4"] {
        assert!(text.contains(promise), "no `{promise}` in: {text}");
    }
    Ok(())
}

#[test]
fn what_it_says_about_looking_around_works() -> Result<()> {
    if !requirements::met_or_skip(
        "what_it_says_about_looking_around_works",
        &["nsenter", "curl", "ip"],
    ) {
        return Ok(());
    }
    let (mut process, text, mut rest) = kept_demo()?;
    let (_, advice) = text.split_once("The lab is up").context("no advice")?;
    let commands: Vec<&str> = advice
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .collect();
    assert!(commands.len() >= 6, "{advice}");
    let mut outputs = String::new();
    for command in commands {
        let output = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .output()?;
        assert!(output.status.success(), "{command}: {output:?}");
        outputs.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    for part in ["This is real server ", "203.0.113.10:80/tcp", "lb0"] {
        assert!(outputs.contains(part), "no `{part}` in: {outputs}");
    }

    let balancers = children(process.id())?;
    assert_eq!(balancers.len(), 1, "{balancers:?}");
    process
        .child_mut()
        .stdin
        .as_mut()
        .context("no pipe")?
        .write_all(b"\n")?;
    let mut last_words = String::new();
    rest.read_to_string(&mut last_words)?;
    assert!(last_words.contains("PASS"), "{last_words}");
    assert!(process.wait(PATIENCE)?.success());
    wait_until_gone(balancers[0])
}

#[test]
fn nothing_is_left_of_a_killed_demo() -> Result<()> {
    if !requirements::met_or_skip("nothing_is_left_of_a_killed_demo", &[]) {
        return Ok(());
    }
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let (mut process, _, _stdout) = kept_demo()?;
        let balancers = children(process.id())?;
        assert_eq!(balancers.len(), 1, "{balancers:?}");
        process.signal(signal)?;
        assert!(!process.wait(PATIENCE)?.success());
        wait_until_gone(balancers[0])?;
    }
    Ok(())
}

#[test]
fn wrong_options_are_refused() -> Result<()> {
    for arguments in [["--connections", "0"], ["--reals", "1"], ["--queues", "9"]] {
        let output = demo(&[]).args(arguments).output()?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    Ok(())
}
