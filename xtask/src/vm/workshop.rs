//! Builds the programs of machines, and runs the machines.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
    process,
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::{
    accelerator::Accelerator,
    initramfs,
    kernel::Bootable,
    machine::{Clock, Machine, without_taps},
    matrix::{Card, Kernel, Wiring},
    parts::Parts,
    plan::{Limit, Plan, Work},
    report::{Heard, Row, Run},
};
use crate::{dist, setup, shell};

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// It builds in a fraction of the time, and asserts more.
    Dev,
    /// As users have them.
    Release,
}

/// Programs of a machine.
pub(super) struct Programs {
    pub(super) init: Vec<u8>,
    pub(super) balancer: Vec<u8>,
}

/// What machines are made of.
pub(super) struct Workshop {
    parts: Parts,
    programs: Programs,
    /// Where files of machines are.
    folder: PathBuf,
    /// Found out when it is first needed, and the same for all machines.
    accelerator: OnceCell<Accelerator>,
    /// Why there are no TAP devices, if there are none; as above.
    taps: OnceCell<Option<String>>,
}

impl Workshop {
    /// Builds the programs.
    pub(super) fn new(parts: Parts, profile: Profile) -> Result<Self> {
        setup::build()?;
        let folder = shell::target_folder()?.join("vm");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let mut arguments = vec![
            "--package=katran-xsk",
            "--package=benches",
            "--bin=katran-xsk",
            "--bin=guest",
        ];
        let built = match profile {
            Profile::Dev => "debug",
            Profile::Release => {
                arguments.push("--release");
                "release"
            }
        };
        dist::build_static(&arguments)?;
        let program = |name: &str| {
            let stripped = folder.join(name);
            dist::strip(built, name, &stripped)?;
            fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
        };
        Ok(Self {
            programs: Programs {
                init: program("guest")?,
                balancer: program("katran-xsk")?,
            },
            parts,
            folder,
            accelerator: OnceCell::new(),
            taps: OnceCell::new(),
        })
    }

    /// Runs a machine for each pair, one after the other.
    pub(super) fn run(
        &self,
        pairs: &[(Kernel, Card)],
        limit: Limit,
        plan: impl Fn(&(Kernel, Card)) -> Plan,
    ) -> Result<Run> {
        let started = Instant::now();
        let rows = pairs
            .iter()
            .map(|pair| self.row(pair, &plan(pair), limit.deadline(started)))
            .collect::<Result<_>>()?;
        Ok(Run {
            rows,
            elapsed: started.elapsed(),
            limit,
            accelerator: self.accelerator.get().copied(),
        })
    }

    fn row(
        &self,
        (kernel, card): &(Kernel, Card),
        plan: &Plan,
        deadline: Option<Instant>,
    ) -> Result<Row> {
        let bootable = match self.parts.kernel(kernel) {
            Ok(bootable) => bootable,
            Err(why) => {
                let row = Row::new(kernel.name, kernel.version.least(), card, plan.work);
                return Ok(row.lacking(why));
            }
        };
        let mut row = Row::new(&bootable.release, bootable.version, card, plan.work);
        if card.wiring == Wiring::Taps
            && let Some(why) = self.without_taps()?
        {
            return Ok(row.lacking(why));
        }
        let clock = match plan.work {
            Work::Count => Clock::Instructions,
            Work::Balance | Work::Break { .. } => Clock::Computer(self.accelerator(bootable)?),
        };
        let started = Instant::now();
        let folder = self.folder.join(if plan.keep {
            // Another run may begin while a person looks around.
            format!("kept-{}", process::id())
        } else {
            format!("{}-{}", kernel.name, card.name)
        });
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        println!(
            "kernel {}, card {}: {} expected",
            row.kernel, row.card, row.expected
        );
        let machine = Machine {
            card,
            kernel: &bootable.image,
            initramfs: &folder.join("initramfs"),
            folder: &folder,
            report: &folder.join("report.jsonl"),
            console: (!plan.keep).then(|| folder.join("console.log")),
            clock,
        };
        let contents = initramfs::of(&self.parts, &self.programs, bootable, card, plan)?;
        fs::write(machine.initramfs, contents)
            .with_context(|| format!("cannot write {}", machine.initramfs.display()))?;
        let booted = self.boot(&machine, deadline, &mut row.heard);
        row.error = booted.err().map(|error| format!("{error:#}"));
        row.elapsed = started.elapsed();
        if plan.keep {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        Ok(row)
    }

    /// Runs a machine to its end.
    fn boot(
        &self,
        machine: &Machine<'_>,
        deadline: Option<Instant>,
        heard: &mut Heard,
    ) -> Result<()> {
        let started = Instant::now();
        let ended = machine.run(&self.parts.qemu, deadline, |line| {
            if machine.console.is_none() {
                // It has booted, and has files of its own: another run may begin.
                self.parts.lock.release()?;
            }
            if let Some(check) = heard.read(line) {
                let mark = if check.ok { "ok    " } else { "FAILED" };
                let seconds = started.elapsed().as_secs_f64();
                println!(
                    "  {mark} {seconds:5.1} s  {:<24} {}",
                    check.name, check.detail
                );
            }
            Ok(())
        });
        if machine.clock == Clock::Instructions {
            for (name, value) in heard.figures() {
                println!("         {name}: {value}");
            }
        }
        match &machine.console {
            Some(console) => ended.with_context(|| format!("see {}", shown(console))),
            None => ended,
        }
    }

    fn accelerator(&self, kernel: &Bootable) -> Result<Accelerator> {
        if let Some(known) = self.accelerator.get() {
            return Ok(*known);
        }
        let Self {
            parts, programs, ..
        } = self;
        let found = Accelerator::find(&parts.qemu, &kernel.image, &programs.init, &self.folder)?;
        Ok(*self.accelerator.get_or_init(|| found))
    }

    fn without_taps(&self) -> Result<Option<String>> {
        if let Some(known) = self.taps.get() {
            return Ok(known.clone());
        }
        let found = without_taps(&self.folder)?;
        Ok(self.taps.get_or_init(|| found).clone())
    }
}

/// A path as one sees it from the root of the repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(shell::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
