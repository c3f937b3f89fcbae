//! Development tasks: `cargo xtask TASK`.
//!
//! Everything here is plain Rust on top of the standard library, so that the tasks start on a
//! machine that has nothing but Rust and a linker; [`setup`] installs the rest.
#![forbid(unsafe_code)]

mod bpf;
mod debian;
mod demo;
mod dist;
mod fuzz;
mod instructions;
mod setup;
mod shell;
mod summary;
mod test;
mod vm;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, Parser, error::ErrorKind};

/// Development tasks of katran-xsk.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    /// Install what is missing to build and test (Debian and Ubuntu; elsewhere: say what it is).
    Setup,
    /// Balance real TCP and UDP flows over three real servers in network namespaces.
    #[command(disable_help_flag = true)]
    Demo {
        /// Arguments of `katran-xsk demo`; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Formatting, lints, documentation, eBPF rebuild, all tests, instructions of the hot path, fuzzing
    /// and a few virtual machines, with a summary at the end.
    Test {
        /// Leave out documentation, the eBPF rebuild, instructions, fuzzing and the virtual machines.
        #[arg(long)]
        fast: bool,
    },
    /// Build the eBPF objects from source.
    Bpf {
        /// Compare with the committed objects instead of replacing them.
        #[arg(long)]
        check: bool,
    },
    /// Count the instructions that the decision about a packet takes, and compare with the stored counts.
    Instructions {
        /// Store the counts instead of comparing.
        #[arg(long)]
        update: bool,
    },
    /// Look for inputs that fail, guided by the code that they reach.
    Fuzz(fuzz::FuzzArgs),
    /// Build the fully static binary in `target/dist`.
    Dist,
    /// Try the balancer on emulated network cards under several kernels, in virtual machines.
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Setup => setup::all(),
        Task::Demo { args } => demo::run(&args),
        Task::Test { fast } => return test::run(fast).unwrap_or_else(|error| report(&error)),
        Task::Bpf { check: false } => bpf::build(),
        Task::Bpf { check: true } => bpf::check(),
        Task::Instructions { update } => instructions::run(update),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Dist => dist::run(),
        Task::Vm(options) => match options.machines() {
            Ok(chosen) => vm::run(&options, &chosen),
            Err(why) => usage("vm", &why),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Ends with the status of a wrong command line.
fn usage(task: &str, why: &str) -> ! {
    let mut command = Task::command();
    command.build();
    let command = command.find_subcommand_mut(task).expect("a task");
    command.error(ErrorKind::ArgumentConflict, why).exit()
}

fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Task::command().debug_assert();
    }

    #[test]
    fn demo_passes_every_argument_through() {
        let task = Task::try_parse_from(["xtask", "demo", "--keep", "--help", "-v"]);
        let Ok(Task::Demo { args }) = task else {
            panic!("demo takes any argument");
        };
        assert_eq!(args, ["--keep", "--help", "-v"]);
    }
}
