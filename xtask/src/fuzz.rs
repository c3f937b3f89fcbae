//! `cargo xtask fuzz`: the fuzz targets under libFuzzer, on stable Rust.
//!
//! The targets are ordinary tests (by bolero). Built with the flags below, which need no nightly
//! compiler, the same tests run under libFuzzer and are guided by the code that they reach. The build
//! has a folder of its own, since the flags differ.

mod seeds;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::Value;

use crate::shell;

/// Where builds, logs, found inputs and crashes go.
const FOLDER: &str = "target/fuzz";

/// What makes rustc count edges and comparisons for libFuzzer, and bolero use it.
const FLAGS: &str = "--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module \
                     -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares \
                     -Cdebug-assertions -Coverflow-checks";

/// Longest input in bytes; the targets ask for no more.
const MAX_LEN: usize = 4096;
/// Seconds after which one input hangs.
const TIMEOUT: u32 = 10;
/// Seconds each target runs in `cargo xtask test`.
pub(crate) const STAGE_SECONDS: u32 = 60;

/// One fuzz target.
struct Target {
    name: &'static str,
    package: &'static str,
    /// Test binary; of a library, its unit tests.
    binary: &'static str,
    /// Cargo's argument for it.
    select: &'static [&'static str],
    /// Test in it.
    test: &'static str,
    /// Folder of the committed inputs: `corpus`, and `crashes` for those that once failed.
    inputs: &'static str,
}

const TARGETS: &[Target] = &[
    Target {
        name: "frames",
        package: "dataplane",
        binary: "fuzz_frames",
        select: &["--test", "fuzz_frames"],
        test: "frames",
        inputs: "dataplane/tests/__fuzz__/frames",
    },
    Target {
        name: "configuration",
        package: "ctl-fuzz",
        binary: "ctl_fuzz",
        select: &["--lib"],
        test: "configuration::configuration",
        inputs: "ctl/fuzz/src/__fuzz__/configuration",
    },
    Target {
        name: "admin",
        package: "ctl-fuzz",
        binary: "ctl_fuzz",
        select: &["--lib"],
        test: "admin::admin",
        inputs: "ctl/fuzz/src/__fuzz__/admin",
    },
    Target {
        name: "capture",
        package: "ctl-fuzz",
        binary: "ctl_fuzz",
        select: &["--lib"],
        test: "capture::capture",
        inputs: "ctl/fuzz/src/__fuzz__/capture",
    },
];

/// Arguments of `cargo xtask fuzz`.
#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// Targets: frames, configuration, admin, capture; all when left out.
    targets: Vec<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = STAGE_SECONDS, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Afterwards, add to the committed corpus what reaches code that nothing there reaches.
    #[arg(long)]
    merge: bool,
}

/// Runs the targets that were asked for.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let chosen = choose(&args.targets)?;
    let built = build(&chosen)?;
    fuzz(&built, args.seconds)?;
    if args.merge {
        for target in &built {
            target.merge()?;
        }
    }
    Ok(())
}

/// Every target for [`STAGE_SECONDS`]; a summary of each is printed.
pub(crate) fn stage() -> Result<()> {
    let all: Vec<&Target> = TARGETS.iter().collect();
    fuzz(&build(&all)?, STAGE_SECONDS)
}

fn choose(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    let find = |name: &String| {
        TARGETS
            .iter()
            .find(|target| target.name == name)
            .ok_or_else(|| {
                let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                anyhow!(
                    "there is no fuzz target {name}; there are {}",
                    known.join(", ")
                )
            })
    };
    names.iter().map(find).collect()
}

/// A target and its program.
struct Built {
    target: &'static Target,
    program: PathBuf,
}

fn build(targets: &[&'static Target]) -> Result<Vec<Built>> {
    let mut built: Vec<Built> = Vec::new();
    for target in targets {
        let known = built.iter().find(|one| one.target.binary == target.binary);
        let program = match known {
            Some(one) => one.program.clone(),
            None => target.build()?,
        };
        built.push(Built { target, program });
    }
    Ok(built)
}

impl Target {
    fn build(&self) -> Result<PathBuf> {
        let mut command = shell::cargo();
        command
            .args(["test", "--quiet", "--locked", "--no-run"])
            .args(["--package", self.package])
            .args(self.select)
            .args([
                "--message-format=json-render-diagnostics",
                "--target-dir",
                FOLDER,
            ])
            // With a target given, build scripts and macros do without the flags.
            .args(["--target", &shell::host_triple()?])
            .env("RUSTFLAGS", FLAGS)
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        shell::announce(&command);
        let messages = shell::output(&mut command)?;
        program(&messages, self.binary).with_context(|| format!("cargo built no {}", self.binary))
    }
}

/// The executable of a test binary, from cargo's messages.
fn program(messages: &str, binary: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == binary;
        let executable = message["executable"].as_str().filter(|_| is_it)?;
        Some(executable.into())
    })
}

/// Runs the targets, as many at a time as there are CPUs.
fn fuzz(targets: &[Built], seconds: u32) -> Result<()> {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut failed = Vec::new();
    for some in targets.chunks(at_once) {
        let started: Vec<(&Built, Child)> = some
            .iter()
            .map(|one| Ok((one, one.start(seconds)?)))
            .collect::<Result<_>>()?;
        for (one, mut child) in started {
            let status = child.wait().context("cannot wait for a fuzz target")?;
            let log = fs::read(one.log()).context("cannot read the log")?;
            let log = String::from_utf8_lossy(&log);
            if let Some(summary) = summary(&log).filter(|_| status.success()) {
                println!("fuzz {:<14} {summary}", one.target.name);
            } else {
                let last = last(&log);
                println!("fuzz {:<14} FAILED: {status}\n{last}", one.target.name);
                failed.push(one.target.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!(
            "{}: the input is in {FOLDER}/crashes; docs/fuzzing.md says what to do with it",
            failed.join(", ")
        );
    }
    Ok(())
}

/// `Done N runs in S second(s)` and the coverage before it.
fn summary(log: &str) -> Option<String> {
    let done = log.lines().rfind(|line| line.starts_with("Done "))?;
    let mut words = done.split_whitespace();
    let runs: u64 = words.nth(1)?.parse().ok()?;
    let seconds: u64 = words.nth(2)?.parse().ok()?;
    let last = log
        .lines()
        .rfind(|line| line.contains("\tDONE ") || line.contains(" DONE "))?;
    let after = |key: &str| {
        let mut words = last.split_whitespace();
        words.find(|word| *word == key)?;
        words.next()
    };
    let (edges, inputs) = (after("cov:")?, after("corp:")?);
    let inputs = inputs.split('/').next()?;
    Some(format!(
        "{runs} inputs in {seconds} s ({} a second), {edges} edges, corpus of {inputs}",
        runs / seconds.max(1)
    ))
}

/// What libFuzzer said last.
fn last(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

impl Built {
    fn log(&self) -> PathBuf {
        shell::root()
            .join(FOLDER)
            .join(format!("{}.log", self.target.name))
    }

    /// A folder below [`FOLDER`], made if need be.
    fn folder(&self, kind: &str) -> Result<String> {
        let folder = format!("{FOLDER}/{kind}/{}", self.target.name);
        fs::create_dir_all(shell::root().join(&folder))
            .with_context(|| format!("cannot make {folder}"))?;
        Ok(folder)
    }

    /// Folders with committed inputs that are there.
    fn committed(&self) -> impl Iterator<Item = String> {
        ["corpus", "crashes"]
            .iter()
            .map(|kind| format!("{}/{kind}", self.target.inputs))
            .filter(|folder| shell::root().join(folder).is_dir())
    }

    /// The target under libFuzzer with these arguments of its own.
    fn command(&self, arguments: &[String]) -> Result<Command> {
        let log = self.log();
        let output = File::create(&log).with_context(|| format!("{}", log.display()))?;
        let mut command = shell::command(&self.program);
        command
            .args([
                "--exact",
                self.target.test,
                "--nocapture",
                "--test-threads=1",
            ])
            // With the name, the program can start itself again, as merging needs.
            .env("BOLERO_LIBTEST_HARNESS", "1")
            .env("BOLERO_TEST_NAME", self.target.test)
            .env("BOLERO_LIBFUZZER_ARGS", arguments.join(" "))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        shell::announce(&command);
        Ok(command)
    }

    fn start(&self, seconds: u32) -> Result<Child> {
        let seeds = self.folder("seeds")?;
        if self.target.name == "frames" {
            seeds::write(&shell::root().join(&seeds))?;
        }
        let crashes = self.folder("crashes")?;
        let mut arguments = vec![
            format!("-max_total_time={seconds}"),
            format!("-timeout={TIMEOUT}"),
            format!("-max_len={MAX_LEN}"),
            format!("-artifact_prefix={crashes}/"),
            // What is found goes into the first folder.
            self.folder("corpus")?,
            seeds,
        ];
        arguments.extend(self.committed());
        self.command(&arguments)?
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Adds the inputs that reach new code to the committed corpus.
    fn merge(&self) -> Result<()> {
        let corpus = format!("{}/corpus", self.target.inputs);
        fs::create_dir_all(shell::root().join(&corpus))?;
        let before = count(&corpus)?;
        let arguments = [
            "-set_cover_merge=1".to_owned(),
            "-use_counters=0".to_owned(),
            corpus.clone(),
            self.folder("corpus")?,
        ];
        shell::run(&mut self.command(&arguments)?)?;
        println!("{corpus}: {before} inputs before, {} now", count(&corpus)?);
        Ok(())
    }
}

fn count(folder: &str) -> Result<usize> {
    Ok(fs::read_dir(Path::new(&shell::root()).join(folder))?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_runs_and_coverage() {
        let log = "#2 INITED cov: 5\n#95795\tDONE   cov: 1719 ft: 3363 corp: 65/2337b lim: 670 \
                   exec/s: 4561 rss: 44Mb\nDone 95795 runs in 21 second(s)\n";
        assert_eq!(
            summary(log).as_deref(),
            Some("95795 inputs in 21 s (4561 a second), 1719 edges, corpus of 65")
        );
        assert_eq!(summary("==1== ERROR: libFuzzer: deadly signal\n"), None);
    }

    #[test]
    fn the_program_is_found_in_cargos_messages() {
        let messages = "{\"target\":{\"name\":\"dataplane\"},\"executable\":null}\n\
                        {\"target\":{\"name\":\"fuzz\"},\"executable\":\"/x/fuzz-1\"}\n";
        assert_eq!(program(messages, "fuzz"), Some("/x/fuzz-1".into()));
        assert_eq!(program(messages, "dataplane"), None);
    }

    #[test]
    fn unknown_targets_are_refused_by_name() {
        let Err(error) = choose(&["frame".to_owned()]) else {
            panic!("it is unknown");
        };
        let text = error.to_string();
        assert!(
            text.contains("frame;") && text.contains("configuration"),
            "{text}"
        );
        assert_eq!(choose(&[]).unwrap().len(), TARGETS.len());
    }
}
