//! What runs inside a virtual machine: the lab on an emulated network card, real traffic through it,
//! and faults.
//!
//! The program is the machine's init. It loads the drivers' modules, builds a lab whose balancer sits
//! on the card under test and whose router sits on a second card, runs the steps that the host's
//! `Scenario` names, and turns the machine off. The host reads the `Report` on a serial port.

mod boot;
mod busy_poll;
mod faults;
mod insist;
mod instructions;
mod keep;
mod observe;
mod report;
mod scenario;
mod site;
mod surroundings;
mod traffic;

use anyhow::{Context, Result};

use report::Report;
use scenario::{Scenario, Step};
use site::Site;

/// Runs the scenario and turns the machine off; returns only when it could not be begun.
pub fn run() -> Result<()> {
    boot::mount()?;
    let scenario = Scenario::read()?;
    let report = Report::open()?;
    if let Err(error) = steps(&scenario, &report) {
        report.check("scenario", Err(error));
    }
    report.end();
    boot::power_off()
}

fn steps(scenario: &Scenario, report: &Report) -> Result<()> {
    for module in &scenario.modules {
        boot::load(module)?;
    }
    let site = Site::build(scenario).context("the lab cannot be built")?;
    report.fact("kernel", boot::release()?);
    report.fact("driver", site.driver());
    for step in &scenario.steps {
        match step {
            Step::Traffic => {
                report.begin(*step, &traffic::CHECKS);
                traffic::run(&site, scenario, report);
            }
            Step::Insist => only(report, *step, "insist", || insist::run(&site)),
            Step::BusyPoll => only(report, *step, "busy poll", || busy_poll::run(&site)),
            Step::Instructions => only(report, *step, "instructions", || {
                instructions::run(&site, scenario, report)
            }),
            Step::Faults => {
                report.begin(*step, &faults::checks(scenario));
                faults::run(&site, scenario, report);
            }
        }
    }
    if scenario.keep {
        keep::run(&site)?;
    }
    Ok(())
}

/// A step that checks one thing.
fn only(report: &Report, step: Step, name: &str, run: impl FnOnce() -> Result<String>) {
    report.begin(step, &[name]);
    report.check(name, run());
}
