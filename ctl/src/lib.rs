//! Control plane of `katran-xsk`: what the operator asks for, and how it is going.
//!
//! [`config`] is the file format and its checks. [`run`] starts and stops the balancer,
//! [`control`] changes it while it runs, [`admin`] is the socket through which [`ctl`] and
//! [`shell`] ask it to. [`check`] and [`replay`] need no privileges and no interface; [`decap`] is
//! for the real servers, [`demo`] shows all of it and [`mod@bench`] measures it.
#![forbid(unsafe_code)]

pub mod admin;
pub mod bench;
pub mod capture;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod ctl;
pub mod decap;
pub mod demo;
mod interface;
pub mod memory;
mod mtu;
pub mod output;
pub mod replay;
pub mod run;
pub mod shell;
mod stdio;
mod warnings;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use stdio::{StdoutError, complain};

/// Exit code for wrong usage.
const USAGE: u8 = 2;
/// Exit code when nobody reads standard output any more: that of a program which SIGPIPE ends.
const CLOSED: u8 = 128 + 13;

/// Runs the command line this process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = cli::init_logging(cli.verbose) {
        complain(format_args!("katran-xsk: {error}"));
        return ExitCode::from(USAGE);
    }
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Shell(args) => shell::run(args),
        Command::Ctl(args) => ctl::run(args),
        Command::Decap(args) => decap::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error)
            if error
                .downcast_ref::<StdoutError>()
                .is_some_and(StdoutError::is_closed) =>
        {
            ExitCode::from(CLOSED)
        }
        Err(error) => {
            complain(format_args!("katran-xsk: {}", explain(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without those whose text an error further out repeats.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let cause = || std::io::Error::other("no such thing");
        let error = anyhow::Error::new(cause())
            .context("cannot be opened")
            .context("lb.toml");
        assert_eq!(explain(&error), "lb.toml: cannot be opened: no such thing");
        let error = anyhow::Error::new(cause()).context("cannot be opened (no such thing)");
        assert_eq!(explain(&error), "cannot be opened (no such thing)");
    }
}
