//! What the figures were measured on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
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
    /// When the kernel gives transparent huge pages: `always`, `madvise` or `never`.
    pub huge_pages: String,
    /// What the kernel reads the time from.
    pub clock_source: String,
    /// What sets the frequency of the last CPU, where decisions are measured; `none` where nothing that
    /// the kernel knows of does.
    pub governor: String,
    /// Whether the kernel compiles BPF programs, and whether it makes them slower to be safer: the settings
    /// `bpf_jit_enable` and `bpf_jit_harden`.
    pub bpf_jit: [String; 2],
    /// What the kernel does about the CPU's vulnerabilities, of those that it has.
    pub mitigations: BTreeMap<String, String>,
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
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = available_parallelism().map_or(1, usize::from);
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            cpu: field(&cpuinfo, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            cpus,
            virtualised: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|value| value.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            clock_source: known(&read(
                "/sys/devices/system/clocksource/clocksource0/current_clocksource",
            )),
            governor: fs::read_to_string(format!(
                "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor",
                cpus - 1
            ))
            .map_or_else(|_| "none".to_owned(), |name| known(&name)),
            bpf_jit: ["enable", "harden"]
                .map(|setting| known(&read(&format!("/proc/sys/net/core/bpf_jit_{setting}")))),
            mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
            version: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
            command: command_line(),
        }
    }
}

/// What a file says, without the end of the line.
fn known(text: &str) -> String {
    match text.trim() {
        "" => "unknown".to_owned(),
        text => text.to_owned(),
    }
}

/// The word in brackets.
fn chosen(text: &str) -> String {
    let word = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    known(word.map_or("", |(word, _)| word))
}

/// Vulnerabilities that the CPU has, with what the kernel says about each.
fn mitigations(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let says = fs::read_to_string(entry.path()).ok()?;
            let name = entry.file_name().into_string().ok()?;
            (says.trim() != "Not affected").then(|| (name, known(&says)))
        })
        .collect()
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
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen(""), "unknown");
        assert_eq!(known("tsc\n"), "tsc");
    }

    #[test]
    fn only_vulnerabilities_that_there_are_count() {
        let folder = crate::lab::Scratch::new().expect("a folder");
        for (name, says) in [
            ("meltdown", "Not affected\n"),
            ("retbleed", "Vulnerable\n"),
            ("spectre_v2", "Mitigation: Retpolines; STIBP: disabled\n"),
        ] {
            folder.write(name, says).expect("written");
        }
        let found = mitigations(&folder.path());
        let expected = [
            ("retbleed", "Vulnerable"),
            ("spectre_v2", "Mitigation: Retpolines; STIBP: disabled"),
        ];
        assert_eq!(
            found,
            expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into()
        );
        assert!(mitigations(&folder.file("missing")).is_empty());
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
