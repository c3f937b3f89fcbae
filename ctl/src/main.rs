//! The `katran-xsk` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    katran_xsk::main()
}
