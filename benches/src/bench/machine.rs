//! What the figures were measured on.

use std::fs;
use std::thread::available_parallelism;

use serde::Serialize;

/// Machine and versions, for whoever compares figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Model of the CPU as the kernel names it.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Whether there is a hypervisor below, as far as the CPU says it.
    pub virtualised: bool,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Version of this program.
    pub version: &'static str,
    /// Whether the program was compiled with optimisations. Figures without mean nothing.
    pub optimised: bool,
    /// The command line that measured.
    pub command: String,
}

impl Machine {
    /// This machine. What cannot be found out is called unknown.
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            cpu: field(&cpuinfo, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            cpus: available_parallelism().map_or(1, usize::from),
            virtualised: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|value| value.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
            command: command_line(),
        }
    }
}

/// The command line, with the program's name in place of its path.
fn command_line() -> String {
    let mut words = vec!["katran-xsk".to_owned()];
    words.extend(std::env::args().skip(1));
    words.join(" ")
}

/// Value of the first line `name : value`.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 143\nmodel name\t: Some CPU @ 2 GHz\nflags\t: fpu hypervisor\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "model"), Some("143"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn this_machine_has_cpus_memory_and_a_kernel() {
        let machine = Machine::here();
        assert!(machine.cpus > 0);
        assert!(machine.memory_mib > 0);
        assert!(machine.kernel.contains('.'));
        assert_eq!(machine.command.split(' ').next(), Some("katran-xsk"));
    }
}
