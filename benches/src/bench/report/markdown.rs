//! Markdown tables.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dataplane::forward::BURST;

use super::Report;
use crate::bench::{
    machine::Machine,
    row::{Case, Datapath, DecisionRow, IpFamily, Row, WireRow},
    statistics::Spread,
};

/// All tables, and what they were measured on.
pub(crate) fn tables(report: &Report) -> String {
    let mut text = machine(report);
    let decisions: Vec<&DecisionRow> = report
        .rows
        .iter()
        .filter_map(|row| match row {
            Row::Decision(row) => Some(row),
            Row::Wire(_) => None,
        })
        .collect();
    if !decisions.is_empty() {
        text.push_str(&decision_table(&decisions));
    }
    let wire: Vec<&WireRow> = report
        .rows
        .iter()
        .filter_map(|row| match row {
            Row::Wire(row) => Some(&**row),
            Row::Decision(_) => None,
        })
        .collect();
    if !wire.is_empty() {
        text.push_str(&wire_tables(&wire));
    }
    text
}

/// Where a page has the figures of the last run.
const BEGIN: &str = "<!-- figures: begin -->\n";
const END: &str = "<!-- figures: end -->";

/// A page with nothing else.
pub(crate) fn page(figures: &str) -> String {
    format!("{BEGIN}{figures}{END}\n")
}

/// The page with other figures; nothing if it has no place for them.
pub(crate) fn replaced(page: &str, figures: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{figures}{END}{after}"))
}

/// The charts as a page shows them, by their way from the page's folder if it leads there.
pub(crate) fn images(charts: &[PathBuf], page: &Path) -> String {
    let folder = page.parent().unwrap_or(Path::new(""));
    let mut text = String::new();
    for chart in charts {
        let name = chart.file_stem().unwrap_or_default().to_string_lossy();
        let path = chart.strip_prefix(folder).unwrap_or(chart);
        let _ = writeln!(text, "\n![{name}]({})", path.display());
    }
    text
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}{}, {} CPUs, {} MiB; Linux {}; katran-xsk {}. Transparent huge pages: {}. Clock: {}. Frequency \
         governor: {}. BPF compiled: {}, hardened: {}. Vulnerabilities of the CPU: {}. In the second before, others used {:.1} % of a CPU \
         and the hypervisor took {:.1} %. Measured with `{}`. Medians, in brackets the smallest and the \
         largest of the repetitions.\n",
        machine.cpu,
        if machine.virtualised {
            " (virtual)"
        } else {
            ""
        },
        machine.cpus,
        machine.memory_mib,
        machine.kernel,
        machine.version,
        machine.huge_pages,
        machine.clock_source,
        machine.governor,
        machine.bpf_jit[0],
        machine.bpf_jit[1],
        vulnerabilities(machine),
        report.background.others * 100.0,
        report.background.stolen * 100.0,
        machine.command,
    );
    if !machine.optimised {
        text.push_str("\n**Compiled without optimisations: these figures mean nothing.**\n");
    }
    let disturbed: usize = report.rows.iter().map(disturbed).sum();
    if disturbed > 0 {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\n**{disturbed} repetitions were disturbed by other programs or the hypervisor.**"
        );
    }
    text
}

/// What the kernel does about each, in a few words: all of it is in the JSON file.
fn vulnerabilities(machine: &Machine) -> String {
    let short = |says: &str| match says.split([':', ';']).nth(1) {
        Some(means) if says.starts_with("Mitigation") => means.trim().to_lowercase(),
        _ => says.split(':').next().unwrap_or_default().to_lowercase(),
    };
    let named = machine.mitigations.iter();
    let list: Vec<String> = named
        .map(|(name, says)| format!("{name} ({})", short(says)))
        .collect();
    if list.is_empty() {
        return "none that the kernel knows".to_owned();
    }
    list.join(", ")
}

fn disturbed(row: &Row) -> usize {
    match row {
        Row::Decision(row) => row.disturbed,
        Row::Wire(row) => row.disturbed,
    }
}

/// One line for each kind of packet and number of flows, with the datapaths side by side.
fn decision_table(rows: &[&DecisionRow]) -> String {
    let burst = rows
        .iter()
        .find(|row| row.datapath == Datapath::Xsk && row.burst != BURST)
        .map_or_else(String::new, |row| format!(" in bursts of {}", row.burst));
    let mut text = format!(
        "\n| packets | flows | xsk{burst}, ns | kernel, ns | kernel / xsk |\n|---|--:|--:|--:|--:|\n"
    );
    let mut done: Vec<(IpFamily, Case, u64, usize)> = Vec::new();
    for row in rows {
        let key = |row: &DecisionRow| (row.family, row.case, row.flows, row.workers);
        let this = key(row);
        if done.contains(&this) {
            continue;
        }
        done.push(this);
        let of = |datapath| {
            rows.iter()
                .find(|row| row.datapath == datapath && key(row) == this)
                .map(|row| row.ns_per_packet)
        };
        let (xsk, kernel) = (of(Datapath::Xsk), of(Datapath::Kernel));
        let ratio = match (xsk, kernel) {
            (Some(xsk), Some(kernel)) => format!("{:.1}", kernel.median / xsk.median),
            _ => NONE.to_owned(),
        };
        let _ = writeln!(
            text,
            "| {} {}{} | {} | {} | {} | {ratio} |",
            family_name(row.family),
            row.case,
            match row.workers {
                1 => String::new(),
                workers => format!(", {workers} workers together"),
            },
            grouped(row.flows),
            cell(xsk, 1),
            cell(kernel, 1),
        );
    }
    text
}

fn wire_tables(rows: &[&WireRow]) -> String {
    let mut text = "\n| layout | queues | flows | datapath | loss-free, Mpps | flat out, Mpps | offered 4 ×: delivered, Mpps | \
         CPU, ns a packet | p50, µs | p99, µs | p99.9, µs |\n|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for row in rows {
        let latency = row.latency_ns;
        let _ = writeln!(
            text,
            "| {}{} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.1} |",
            row.layout,
            if row.shares_cpus_with_generator {
                SHARED
            } else {
                ""
            },
            row.queues,
            grouped(row.flows),
            datapath(row),
            cell(Some(row.mpps), 3),
            cell(Some(row.flat_out_mpps), 3),
            cell(Some(row.overload_mpps), 3),
            cell(row.cpu_ns_per_packet, 0),
            latency.p50 / 1000.0,
            latency.p99 / 1000.0,
            latency.p999 / 1000.0,
        );
    }
    if rows.iter().any(|row| row.shares_cpus_with_generator) {
        let _ = writeln!(
            text,
            "\n{} What forwards shares a CPU with the generator: the rates are those of both together.",
            SHARED.trim_start()
        );
    }
    text
}

/// Marks rows whose rates are not the datapath's alone.
const SHARED: &str = " †";

fn datapath(row: &WireRow) -> String {
    row.scheduling.map_or_else(
        || row.datapath.to_string(),
        |scheduling| format!("{} ({scheduling})", row.datapath),
    )
}

const fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

/// Where nothing was measured.
const NONE: &str = "–";

fn cell(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || NONE.to_owned(),
        |Spread { median, min, max }| format!("{median:.digits$} ({min:.digits$}–{max:.digits$})"),
    )
}

/// Digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    #[test]
    fn datapaths_stand_side_by_side() {
        let text = tables(&report());
        assert!(
            text.contains("| IPv4 hit | 1,000 | 20.0 (19.0–21.0) | 60.0 (57.0–63.0) | 3.0 |"),
            "{text}"
        );
        assert!(
            text.contains("| IPv4 hit | 10,000,000 | 40.0 (38.0–42.0) | – | – |"),
            "{text}"
        );
        assert!(
            text.contains(
                "| split | 1 | 1,000 | xsk (rt) | 1.000 (0.950–1.050) | 1.100 (1.045–1.155) | \
                 1.050 (0.997–1.103) | – | 10.0 | 20.0 | 30.0 |"
            ),
            "{text}"
        );
        assert!(
            text.contains("| IPv4 hit, 2 workers together | 1,000 | 10.0 (9.5–10.5) | – | – |"),
            "{text}"
        );
        for part in [
            "Measured with `katran-xsk bench`",
            "huge pages: madvise. Clock: tsc. Frequency governor: none. BPF compiled: 1, hardened: 0.",
            "retbleed (vulnerable), spectre_v2 (retpolines). ",
        ] {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
    }

    #[test]
    fn other_bursts_than_full_ones_are_said() {
        let mut report = report();
        assert!(tables(&report).contains("| xsk, ns |"));
        if let Row::Decision(row) = &mut report.rows[0] {
            row.burst = 2;
        }
        assert!(tables(&report).contains("| xsk in bursts of 2, ns |"));
    }

    #[test]
    fn what_spoils_figures_is_said() {
        let mut report = report();
        report.machine.optimised = true;
        assert!(!tables(&report).contains("**"));
        report.machine.optimised = false;
        assert!(tables(&report).contains("mean nothing"));
        if let Row::Decision(row) = &mut report.rows[0] {
            row.disturbed = 2;
        }
        assert!(tables(&report).contains("2 repetitions were disturbed"));
    }

    #[test]
    fn rows_that_share_cpus_with_the_generator_are_marked() {
        let mut report = report();
        assert!(!tables(&report).contains('†'));
        let Some(Row::Wire(row)) = report.rows.last_mut() else {
            panic!("{report:?}");
        };
        row.shares_cpus_with_generator = true;
        let text = tables(&report);
        assert!(text.contains("| split † | 1 |"), "{text}");
        assert!(text.contains("\n† What forwards shares a CPU"), "{text}");
    }

    #[test]
    fn figures_replace_those_of_the_last_run() {
        let page = "# Page\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nrest\n";
        assert_eq!(
            replaced(page, "new\n").as_deref(),
            Some("# Page\n<!-- figures: begin -->\nnew\n<!-- figures: end -->\nrest\n")
        );
        assert_eq!(replaced("# Page\n", "new\n"), None);
        assert_eq!(replaced("<!-- figures: begin -->\n", "new\n"), None);
    }

    #[test]
    fn charts_are_found_from_the_page() {
        let image = |chart: &str, page: &str| images(&[chart.into()], Path::new(page));
        assert_eq!(image("docs/a.svg", "docs/page.md"), "\n![a](a.svg)\n");
        assert_eq!(image("docs/c/a.svg", "docs/page.md"), "\n![a](c/a.svg)\n");
        assert_eq!(image("a.svg", "page.md"), "\n![a](a.svg)\n");
        assert_eq!(image("/tmp/a.svg", "page.md"), "\n![a](/tmp/a.svg)\n");
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}
