//! `cargo xtask vm`: the balancer on drivers that this machine has no cards for.
//!
//! For each pair of a kernel and an emulated card a virtual machine boots in QEMU. Its init is
//! `benches/src/guest`, which builds the lab on the card, sends traffic through the balancer, breaks
//! things and reports. Kernels, and QEMU where the machine has none, are Debian's packages: fetched
//! and unpacked below `.cache/vm`, never installed. Removing that folder fetches them anew.

mod accelerator;
mod agreement;
mod cpio;
mod initramfs;
mod kernel;
mod lock;
mod machine;
mod matrix;
mod modules;
mod options;
mod packages;
mod parts;
mod plan;
mod qemu;
mod report;
mod rows_file;
mod running;
mod selection;
mod store;
mod workshop;

use std::time::Duration;

use anyhow::{Result, bail, ensure};

pub(crate) use options::{Chosen, Options};

use crate::debian::OutOfReach;
use agreement::disagreements;
use matrix::has_zero_copy;
use parts::Parts;
use plan::{Limit, Plan, Work};
use rows_file::RowsFile;
use selection::Selection;
use workshop::{Profile, Workshop};

/// Longest time of all machines of the matrix together, once all they need is there.
const MATRIX_LIMIT: Duration = Duration::from_mins(10);
/// The same of the machines of the test command.
const TEST_LIMIT: Duration = Duration::from_mins(5);
/// Longest life of a machine that does more, on a busy computer.
const LONG_LIMIT: Duration = Duration::from_mins(15);

/// Starts and stops among the faults, and those for which the test command has time.
const CYCLES: usize = 100;
const TEST_CYCLES: usize = 10;

/// Runs the machines that are asked for and prints the matrix.
pub(crate) fn run(options: &Options, chosen: &Chosen) -> Result<()> {
    let Chosen(pairs) = chosen;
    // Found out before the machines have run for minutes; what the file had stays until they have.
    let rows = options.json.as_deref().map(RowsFile::new).transpose()?;
    let profile = if options.instructions {
        Profile::Release
    } else {
        Profile::Dev
    };
    let limit = match (options.keep, options.faults || options.instructions) {
        (true, _) => Limit::None,
        (false, true) => Limit::Each(LONG_LIMIT),
        (false, false) => Limit::Together(MATRIX_LIMIT),
    };
    let workshop = Workshop::new(Parts::get(pairs)?, profile)?;
    let run = workshop.run(pairs, limit, |pair| Plan {
        work: match (options.instructions, options.faults && has_zero_copy(pair)) {
            (true, _) => Work::Count,
            (false, true) => Work::Break { cycles: CYCLES },
            (false, false) => Work::Balance,
        },
        keep: options.keep,
    })?;
    println!("\n{}", run.table());
    if let Some(rows) = rows {
        rows.write(&serde_json::to_string_pretty(&run.json())?)?;
    }
    let disagreements = disagreements(&run.rows);
    for disagreement in &disagreements {
        println!("{disagreement}");
    }
    let failed = run.rows.iter().filter(|row| !row.ok()).count();
    if failed > 0 {
        bail!("{failed} of {} machines are not as expected", pairs.len());
    }
    ensure!(
        disagreements.is_empty(),
        "{} figures are not the same when measured again",
        disagreements.len()
    );
    Ok(())
}

/// How the machines of the test command fared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tested {
    /// As expected.
    pub(crate) passed: u64,
    /// Not as expected.
    pub(crate) failed: u64,
    /// Did not run.
    pub(crate) skipped: u64,
    /// What those are made of, and why it is not to be had here.
    pub(crate) missing: Vec<String>,
}

/// Runs the machines of the test command. What this computer cannot have is left out; everything else
/// that goes wrong is an error.
pub(crate) fn test() -> Result<Tested> {
    let selection = Selection::of_now()?;
    println!("vm: {selection}");
    let mut tested = Tested::default();
    let parts = match Parts::get(&selection.pairs) {
        Ok(parts) => parts,
        Err(error) if OutOfReach::is(&error) => {
            tested.skipped = selection.pairs.len() as u64;
            tested.missing.push(format!("{error:#}"));
            return Ok(tested);
        }
        Err(error) => return Err(error),
    };
    let workshop = Workshop::new(parts, Profile::Dev)?;
    let run = workshop.run(&selection.pairs, Limit::Together(TEST_LIMIT), |pair| Plan {
        work: if selection.breaks(pair) {
            Work::Break {
                cycles: TEST_CYCLES,
            }
        } else {
            Work::Balance
        },
        keep: false,
    })?;
    println!("{}", run.table());
    for row in &run.rows {
        match &row.lacks {
            Some(why) => {
                tested.skipped += 1;
                if !tested.missing.contains(why) {
                    tested.missing.push(why.clone());
                }
            }
            None if row.ok() => tested.passed += 1,
            None => tested.failed += 1,
        }
    }
    Ok(tested)
}
