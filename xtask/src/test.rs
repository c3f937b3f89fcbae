//! `cargo xtask test`: everything that must hold before a change is taken in.

use std::{
    io::{BufRead as _, BufReader, pipe},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bpf, fuzz, instructions, setup, shell,
    summary::{Reader, Tally},
    vm,
};

/// Name of the stage that runs the tests.
const TESTS: &str = "tests";

/// Name of the stage that runs virtual machines.
const MACHINES: &str = "vm";

/// Runs all stages, also after one that failed, and sums up.
pub(crate) fn run(fast: bool) -> Result<ExitCode> {
    let started = Instant::now();
    setup::all()?;

    let mut stages = Stages::default();
    stages.run("format", format);
    stages.run("clippy", clippy);
    if !fast {
        stages.run("docs", docs);
        stages.run("bpf", bpf::check);
    }
    let mut tests = (Tally::default(), Vec::new());
    stages.run(TESTS, || {
        tests = cargo_test()?;
        if tests.0.failed > 0 {
            bail!("{} failed", tests.0.failed);
        }
        Ok(())
    });
    if !fast {
        stages.run_or_skip("instructions", instructions::check);
        stages.run("fuzz", fuzz::stage);
    }

    let mut machines = Tally::default();
    if !fast {
        stages.run_or_skip(MACHINES, || {
            let tested = vm::test()?;
            machines = virtual_machines(&tested, shell::is_ci())?;
            ensure!(
                machines.failed == 0,
                "{} machines are not as expected",
                machines.failed
            );
            Ok(skipped(&tested))
        });
    }

    let (tally, failed_tests) = tests;
    for name in failed_tests {
        println!("failed test: {name}");
    }
    for name in &stages.failed {
        println!("failed stage: {name}");
    }
    println!("elapsed: {}", seconds(started.elapsed()));
    if machines.failed > 0 {
        // Its machines are counted.
        stages.failed.retain(|&stage| stage != MACHINES);
    }
    let tally = with_stages(tally, &stages.failed).plus(machines);
    println!("total: {tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the machines count as. They may skip themselves, but not in continuous integration.
fn virtual_machines(tested: &vm::Tested, is_ci: bool) -> Result<Tally> {
    ensure!(
        tested.skipped == 0 || !is_ci,
        "the virtual machines must run because CI is set, but {}",
        tested.missing.join("; ")
    );
    Ok(Tally {
        passed: tested.passed,
        failed: tested.failed,
        skipped: tested.skipped,
    })
}

/// What is to be said about machines that did not run, if there are some.
fn skipped(tested: &vm::Tested) -> Option<String> {
    (tested.skipped > 0).then(|| {
        format!(
            "{} of {} virtual machines: {}",
            tested.skipped,
            tested.passed + tested.failed + tested.skipped,
            tested.missing.join("; ")
        )
    })
}

/// Adds the failed stages: each counts as one, the one of the tests only if no test failed in it.
fn with_stages(tests: Tally, failed_stages: &[&str]) -> Tally {
    let counted = failed_stages
        .iter()
        .filter(|&&stage| stage != TESTS || tests.failed == 0)
        .count();
    Tally {
        failed: tests.failed + counted as u64,
        ..tests
    }
}

/// Stages that ran.
#[derive(Default)]
struct Stages {
    failed: Vec<&'static str>,
}

impl Stages {
    /// Runs a stage and prints a line when it has ended.
    fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) {
        self.run_or_skip(name, || stage().map(|()| None));
    }

    /// As [`Self::run`]; the stage says what of it was skipped, if something was.
    fn run_or_skip(&mut self, name: &'static str, stage: impl FnOnce() -> Result<Option<String>>) {
        if shell::is_ci() {
            println!("stage {name}");
        }
        let started = Instant::now();
        let result = stage();
        let elapsed = seconds(started.elapsed());
        match result {
            Ok(None) => println!("stage {name:<12} ok      {elapsed:>8}"),
            Ok(Some(skipped)) => println!("stage {name:<12} SKIPPED {elapsed:>8}  {skipped}"),
            Err(error) => {
                println!("stage {name:<12} FAILED  {elapsed:>8}  {error:#}");
                self.failed.push(name);
            }
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--", "--check"]))?;
    shell::run(shell::cargo().args([
        "fmt",
        "--all",
        "--manifest-path=xdp-redirect/ebpf/Cargo.toml",
        "--",
        "--check",
    ]))
}

fn clippy() -> Result<()> {
    shell::run(shell::cargo().args([
        "clippy",
        "--quiet",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny=warnings",
    ]))
}

fn docs() -> Result<()> {
    shell::run(
        shell::cargo()
            .args(["doc", "--quiet", "--locked", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "--deny=warnings"),
    )
}

/// Runs the tests of the workspace and shows their output as it comes: all of it in continuous
/// integration, else what is not about success.
fn cargo_test() -> Result<(Tally, Vec<String>)> {
    let mut command = shell::cargo();
    command
        .args(["test", "--locked", "--workspace", "--no-fail-fast"])
        // What the tests in namespaces need has been set up: none may skip itself.
        .env("KATRAN_XSK_REQUIRE_ROOT", "1");
    privileged(&mut command)?;
    shell::announce(&command);

    // One pipe for both streams keeps cargo's words and the tests' in order.
    let (reader, writer) = pipe().context("cannot make a pipe for the output of cargo test")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn().context("cannot start cargo test")?;
    // The command still holds ends for writing; with them open, the output would never end.
    drop(command);

    let mut results = Reader::default();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        if results.read(text) || shell::is_ci() {
            println!("{text}");
        }
        line.clear();
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    Ok(results.finish(status.success()))
}

/// Network namespaces and BPF programs need root: without it, the test binaries start by sudo.
fn privileged(command: &mut Command) -> Result<()> {
    if shell::is_root() {
        return Ok(());
    }
    // Asks for the password now, while there is a terminal to ask on.
    shell::run(shell::as_root("true")?.stdin(Stdio::inherit()))?;
    let runner = format!(
        "CARGO_TARGET_{}_RUNNER",
        shell::host_triple()?.to_uppercase().replace('-', "_")
    );
    command.env(runner, "sudo --preserve-env");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed_of(tests_failed: u64, failed_stages: &[&str]) -> u64 {
        let tests = Tally {
            passed: 10,
            failed: tests_failed,
            skipped: 1,
        };
        let total = with_stages(tests, failed_stages);
        assert_eq!((total.passed, total.skipped), (10, 1));
        total.failed
    }

    #[test]
    fn each_failed_stage_counts_and_tests_are_not_counted_twice() {
        assert_eq!(failed_of(0, &[]), 0);
        assert_eq!(failed_of(3, &[TESTS]), 3);
        assert_eq!(failed_of(3, &["clippy", TESTS]), 4);
    }

    #[test]
    fn a_stage_that_failed_without_a_failed_test_is_a_failure() {
        assert_eq!(failed_of(0, &[TESTS]), 1);
        assert_eq!(failed_of(0, &["clippy", "bpf", TESTS]), 3);
    }

    #[test]
    fn machines_that_cannot_run_are_skipped_but_not_in_continuous_integration() {
        let some = vm::Tested {
            passed: 2,
            failed: 0,
            skipped: 1,
            missing: vec!["no TAP devices".to_owned()],
        };
        let tally = virtual_machines(&some, false).unwrap();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 0, 1));
        assert_eq!(
            skipped(&some).as_deref(),
            Some("1 of 3 virtual machines: no TAP devices")
        );
        let error = virtual_machines(&some, true).unwrap_err().to_string();
        assert!(error.ends_with("no TAP devices"), "{error}");

        let all = vm::Tested {
            passed: 2,
            failed: 1,
            ..vm::Tested::default()
        };
        let tally = virtual_machines(&all, true).unwrap();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 1, 0));
        assert_eq!(skipped(&all), None);
    }
}
