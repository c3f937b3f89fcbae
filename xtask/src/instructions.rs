//! `cargo xtask instructions`: how many instructions the decision about a packet takes, by callgrind.
//!
//! Times differ from machine to machine and from minute to minute; the number of instructions of the
//! same binary on the same packets does not. So a change that makes the hot path slower by a few
//! instructions is seen wherever the tests run.

mod counts;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::shell;
use counts::{Counts, TOLERANCE_PERCENT};

/// The stored counts.
const STORED: &str = "benches/workload/instructions.txt";
/// Profile and name of the program that is counted.
const PROGRAM: &str = "instructions";
/// The function of which instructions are counted, with what it calls.
const FUNCTION: &str = "instructions::measured*";
/// Another processor has other instructions.
const IS_COUNTED_HERE: bool = cfg!(target_arch = "x86_64");

/// Counts and stores the counts, or compares with those that are stored.
pub(crate) fn run(update: bool) -> Result<()> {
    if !update {
        if let Some(skipped) = check()? {
            println!("SKIPPED {skipped}");
        }
        return Ok(());
    }
    ensure!(
        IS_COUNTED_HERE,
        "the stored counts are those of x86-64; update them on such a machine"
    );
    let counted = count(&build()?)?;
    fs::write(shell::root().join(STORED), counted.to_string())
        .with_context(|| format!("cannot write {STORED}"))?;
    println!("{counted}{STORED} is written");
    Ok(())
}

/// Counts and compares with what is stored. Says why, if that cannot be done here.
pub(crate) fn check() -> Result<Option<String>> {
    if !IS_COUNTED_HERE {
        return Ok(Some("the stored counts are those of x86-64".to_owned()));
    }
    let stored: Counts = fs::read_to_string(shell::root().join(STORED))
        .with_context(|| format!("cannot read {STORED}"))?
        .parse()
        .with_context(|| STORED.to_owned())?;
    let report = stored.compare(&count(&build()?)?);
    print!("{}", report.text);
    ensure!(
        report.is_same,
        "the instructions of a packet are not what {STORED} says, within {TOLERANCE_PERCENT} %; if that \
         is meant, or the compiler is another, run `cargo xtask instructions --update` and commit the file"
    );
    Ok(None)
}

/// Builds the program and says where it is.
fn build() -> Result<PathBuf> {
    ensure!(
        shell::has_program("valgrind"),
        "valgrind is missing; `cargo xtask setup` installs it"
    );
    shell::run(shell::cargo().args([
        "build",
        "--quiet",
        "--locked",
        "--package=workload",
        "--example",
        PROGRAM,
        "--profile",
        PROGRAM,
    ]))?;
    let folder = shell::target_folder()?.join(PROGRAM);
    Ok(folder.join("examples").join(PROGRAM))
}

/// Counts every case the program knows.
fn count(program: &Path) -> Result<Counts> {
    let cases = shell::output(&mut Command::new(program))?;
    let mut counts = Counts::default();
    for line in cases.lines() {
        let (case, packets) = line
            .split_once(' ')
            .with_context(|| format!("`{line}` is not a case and a number of packets"))?;
        let packets: u64 = packets.parse().with_context(|| line.to_owned())?;
        counts.add(case, instructions(program, case)? as f64 / packets as f64);
    }
    Ok(counts)
}

/// Instructions of all packets of a case.
fn instructions(program: &Path, case: &str) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg("--callgrind-out-file=/dev/null")
        .arg(format!("--toggle-collect={FUNCTION}"))
        .arg(program)
        .arg(case);
    shell::announce(&command);
    let output = command.output().context("cannot start valgrind")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{}` failed: {}\n{words}",
        shell::text(&command),
        output.status
    );
    counts::collected(&words).with_context(|| {
        format!("valgrind does not say how many instructions {FUNCTION} took:\n{words}")
    })
}
