//! The file system a machine starts with: init, the balancer, modules and what is to be done.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    cpio::Archive,
    kernel::{self, Bootable},
    machine,
    matrix::Card,
    modules, packages,
    parts::Parts,
    plan::{Plan, Work},
    workshop::Programs,
};

/// Connections and datagrams of a machine, over all VIPs.
pub(super) const CONNECTIONS: u64 = 200;
pub(super) const DATAGRAMS: u64 = 2000;

/// What the machine needs for its plan.
pub(super) fn of(
    parts: &Parts,
    programs: &Programs,
    kernel: &Bootable,
    card: &Card,
    plan: &Plan,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    // The kernel opens the first for init, whose runtime wants the second.
    archive.device("dev/console", (5, 1));
    archive.device("dev/null", (1, 3));
    archive.program("init", &programs.init);
    archive.program("bin/katran-xsk", &programs.balancer);
    if plan.keep {
        let busybox = packages::busybox(&parts.cache)?;
        let contents =
            fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
        archive.program("bin/busybox", &contents);
    }
    let mut modules = Vec::new();
    let mut names = vec!["veth", "tun", "virtio_pci", "virtio_net", card.module];
    if plan.work == Work::Count {
        names.push(machine::COUNTING_FAR_CARD);
    }
    for module in modules::in_order(&kernel.modules, &names)? {
        let path = format!("modules/{}.ko", kernel::module_name(&module));
        let contents =
            fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        archive.data(&path, &contents);
        modules.push(format!("/{path}"));
    }
    let scenario = json!({
        "modules": modules,
        "card": machine::CARD,
        "far_card": machine::FAR_CARD,
        "queues": card.queues,
        "zero_copy": card.expected(kernel.version).zero_copy,
        "steps": plan.work.steps(),
        "connections": CONNECTIONS,
        "datagrams": DATAGRAMS,
        "cycles": plan.work.cycles(),
        "keep": plan.keep,
    });
    archive.data("scenario.json", scenario.to_string().as_bytes());
    Ok(archive.finish())
}
