//! Builds the programs of machines, and runs the machines.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};

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

/// Machines that run at the same time, if they may: one waits more than it computes, above all for links.
const AT_A_TIME: usize = 2;

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
    accelerator: Mutex<Option<Accelerator>>,
    /// Whether there are TAP devices, or why not; as above.
    taps: Mutex<Option<Result<(), String>>>,
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
            accelerator: Mutex::default(),
            taps: Mutex::default(),
        })
    }

    /// Runs a machine for each pair. Those whose times are compared with a limit run alone.
    pub(super) fn run(
        &self,
        pairs: &[(Kernel, Card)],
        limit: Limit,
        plan: impl Fn(&(Kernel, Card)) -> Plan,
    ) -> Result<Run> {
        let started = Instant::now();
        let planned: Vec<_> = pairs.iter().map(|pair| (pair, plan(pair))).collect();
        let mut rows = Vec::new();
        for batch in planned.chunk_by(|(_, one), (_, next)| one.bears_company(next)) {
            rows.extend(self.batch(batch, limit, started)?);
        }
        Ok(Run {
            rows,
            elapsed: started.elapsed(),
            limit,
            accelerator: *locked(&self.accelerator),
        })
    }

    /// Runs machines side by side, each as soon as there is room.
    fn batch(
        &self,
        batch: &[(&(Kernel, Card), Plan)],
        limit: Limit,
        started: Instant,
    ) -> Result<Vec<Row>> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Row)>> {
            let mut rows = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((pair, plan)) = batch.get(number) else {
                    return Ok(rows);
                };
                rows.push((number, self.row(pair, plan, limit.deadline(started))?));
            }
        };
        let mut rows = thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_A_TIME.min(batch.len()))
                .map(|_| scope.spawn(work))
                .collect();
            let mut rows = Vec::new();
            for worker in workers {
                let done = worker
                    .join()
                    .map_err(|_| anyhow!("the thread of a machine panicked"))?;
                rows.extend(done?);
            }
            anyhow::Ok(rows)
        })?;
        rows.sort_by_key(|(number, _)| *number);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
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
            && let Err(why) = self.taps()?
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
        let name = format!("{}/{}", kernel.name, card.name);
        let booted = self.boot(&name, &machine, deadline, &mut row.heard);
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
        name: &str,
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
                    "  {mark} {name:<19} {seconds:5.1} s  {:<23} {}",
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
        let mut known = locked(&self.accelerator);
        if let Some(known) = *known {
            return Ok(known);
        }
        let Self {
            parts, programs, ..
        } = self;
        let found = Accelerator::find(&parts.qemu, &kernel.image, &programs.init, &self.folder)?;
        *known = Some(found);
        Ok(found)
    }

    /// Whether there are TAP devices, or why not.
    fn taps(&self) -> Result<Result<(), String>> {
        let mut known = locked(&self.taps);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let found = without_taps(&self.folder)?.map_or(Ok(()), Err);
        *known = Some(found.clone());
        Ok(found)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A path as one sees it from the root of the repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(shell::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
