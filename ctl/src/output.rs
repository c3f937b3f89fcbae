//! Answers as tables for people.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use dataplane::{
    counters::{DropReason, WorkerCounters},
    forward::Selection,
    service::Protocol,
};

use crate::{
    admin::report::{
        Answer, Balance, CaptureReport, ConfigReport, DecapList, Differing, DropList, Explained,
        FlowAnalysis, FlowCount, FlowCounts, FlowList, FlowsRemoved, HealthCheckList, Help,
        HelpArgument, HelpCommand, Memory, RealList, ServerIdList, ServerIdUse, SourceRouteAnswer,
        SourceRouteList, Stats, Traffic, VipFlows, VipList, WorkerFailure, WorkerList,
    },
    control::{Changes, LinkState},
};

/// Names that a change shows of a kind; JSON has more.
const MOST_NAMES: usize = 20;

/// What the numbers of an answer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Totals since the start.
    Totals,
    /// Changes per second.
    PerSecond,
}

/// The answer as text that ends with a line end.
pub fn render(answer: &Answer, reading: Reading) -> String {
    match answer {
        Answer::Vips(list) => vips(list),
        Answer::Reals(list) => reals(list),
        Answer::Decap(list) => decap(list),
        Answer::Changes(changed) => changes(changed),
        Answer::SourceRoutes(list) => source_routes(list),
        Answer::SourceRoute(answer) => source_route(answer),
        Answer::Workers(list) => workers(list, reading),
        Answer::Stats(report) => stats(report, reading),
        Answer::Drops(list) => drops(list, reading),
        Answer::Config(report) => config(report),
        Answer::Memory(report) => memory(report),
        Answer::Flows(list) => flows(list),
        Answer::Removed(result) => removed(result),
        Answer::Analysis(result) => analysis(result),
        Answer::Counts(counts) => flow_counts(counts),
        Answer::Explained(result) => explained(result),
        Answer::Capture(report) => capture(report),
        Answer::HealthChecks(list) => health_checks(list),
        Answer::ServerIds(list) => server_ids(list),
        Answer::Dump(dump) => dump.toml.clone(),
        Answer::Help(report) => help(report),
        Answer::Version(version) => format!(
            "katran-xsk {}, admin protocol {}\n",
            version.katran_xsk, version.protocol
        ),
    }
}

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// Rows of cells under headings.
struct Table {
    headings: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Columns by heading; one that starts with `>` is aligned to the right.
    fn new<'a>(headings: impl IntoIterator<Item = &'a str>) -> Self {
        let heading = |text: &str| match text.strip_prefix('>') {
            Some(text) => (text.to_owned(), Align::Right),
            None => (text.to_owned(), Align::Left),
        };
        Self {
            headings: headings.into_iter().map(heading).collect(),
            rows: Vec::new(),
        }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The table, or `nothing` when it has no rows.
    fn render(&self, nothing: &str) -> String {
        if self.rows.is_empty() {
            return format!("{nothing}\n");
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let heading = &self.headings[column].0;
            cells
                .chain([heading])
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let mut text = String::new();
        let headings: Vec<&str> = self
            .headings
            .iter()
            .map(|(text, _)| text.as_str())
            .collect();
        self.line(&mut text, &headings, &widths);
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.line(&mut text, &cells, &widths);
        }
        text
    }

    fn line(&self, text: &mut String, cells: &[&str], widths: &[usize]) {
        let start = text.len();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.headings) {
            if text.len() > start {
                text.push_str("  ");
            }
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => text.extend([*cell, padding.as_str()]),
                Align::Right => text.extend([padding.as_str(), *cell]),
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
}

/// A number with a blank between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest binary unit that leaves a number of 1 or more.
fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Bytes a second as bits a second.
fn bit_rate(bytes_per_second: u64) -> String {
    const UNITS: [&str; 5] = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
    let mut value = bytes_per_second as f64 * 8.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

fn volume(number: u64, reading: Reading) -> String {
    match reading {
        Reading::Totals => bytes(number),
        Reading::PerSecond => bit_rate(number),
    }
}

fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "-" }.to_owned()
}

fn vips(list: &VipList) -> String {
    let mut table = Table::new(["VIP", ">NUMBER", "HASH", ">REALS", ">WEIGHT", "FLAGS"]);
    for vip in &list.vips {
        table.row([
            vip.vip.clone(),
            or_dash(vip.number),
            vip.hash.clone(),
            vip.reals.to_string(),
            vip.weight.to_string(),
            if vip.flags.is_empty() {
                "-".to_owned()
            } else {
                vip.flags.join(",")
            },
        ]);
    }
    table.render("no VIPs")
}

fn reals(list: &RealList) -> String {
    let mut table = Table::new([
        "VIP", "REAL", ">WEIGHT", ">SHARE", "LOCAL", "DOWN", ">INDEX",
    ]);
    for real in &list.reals {
        table.row([
            real.vip.clone(),
            real.real.to_string(),
            real.weight.to_string(),
            format!("{:.2} %", real.share),
            yes(real.local),
            yes(real.down),
            or_dash(real.index),
        ]);
    }
    page(&table, "no reals", list.offset, list.total)
}

fn decap(list: &DecapList) -> String {
    let mut table = Table::new(["ADDRESS", "EGRESS"]);
    for own in &list.destinations {
        table.row([own.address.to_string(), yes(own.egress)]);
    }
    let mut text = table.render("no decap destinations");
    let _ = writeln!(text, "IPIP, and GUE to port {}", list.gue_port);
    text
}

/// Rows of a list that may be longer, and which of it they are; `nothing` when the list is empty.
fn page(table: &Table, nothing: &str, offset: usize, total: usize) -> String {
    let rows = table.rows.len();
    if rows == 0 && total > 0 {
        return format!("none from offset={offset} on; there are {total}\n");
    }
    let mut text = table.render(nothing);
    if rows < total {
        let (first, last) = (offset + 1, offset + rows);
        let _ = writeln!(
            text,
            "{first} to {last} of {total}; limit= and offset= show others"
        );
    }
    text
}

fn source_routes(list: &SourceRouteList) -> String {
    let mut table = Table::new(["PREFIX", "REAL"]);
    for route in &list.routes {
        table.row([route.prefix.clone(), route.real.to_string()]);
    }
    page(&table, "no source routes", list.offset, list.total)
}

fn source_route(answer: &SourceRouteAnswer) -> String {
    match &answer.route {
        Some(route) => format!(
            "{} sends {} to {}\n",
            route.prefix, answer.client, route.real
        ),
        None => format!(
            "no source route covers {}: the ring decides\n",
            answer.client
        ),
    }
}

fn changes(changes: &Changes) -> String {
    let mut text = String::new();
    for (verb, noun, names) in changes.kinds() {
        let what = match noun {
            "vips" => format!("{} vip", verb.name()),
            "decap" => format!("{} decap", verb.name()),
            _ => verb.name().to_owned(),
        };
        // One more takes the line that would count it.
        let most = if names.count > MOST_NAMES + 1 {
            MOST_NAMES
        } else {
            names.count
        };
        for line in names.lines(verb).take(most) {
            let _ = writeln!(text, "{what} {line}");
        }
        if names.count > most {
            let _ = writeln!(text, "{what} … and {} more", names.count - most);
        }
    }
    if changes.is_empty() {
        text.push_str("nothing changed\n");
    }
    for warning in &changes.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let _ = writeln!(text, "generation {}", changes.generation);
    text
}

fn per_second(reading: Reading) -> &'static str {
    match reading {
        Reading::Totals => "",
        Reading::PerSecond => ", per second",
    }
}

const BALANCE: [&str; 5] = [
    ">RECEIVED",
    ">TRANSMITTED",
    ">PASSED",
    ">DROPPED",
    ">IN PROGRESS",
];

fn balance_cells(balance: &Balance) -> [String; 5] {
    [
        grouped(balance.received.packets),
        grouped(balance.transmitted.packets),
        grouped(balance.passed.packets),
        grouped(balance.dropped.packets),
        grouped(balance.in_progress),
    ]
}

fn workers(list: &WorkerList, reading: Reading) -> String {
    let headings = [
        ">QUEUE",
        ">CPU",
        "PRIORITY",
        "STATE",
        "MODE",
        ">GENERATION",
        ">FLOWS",
        ">EVENTS/S",
    ];
    let mut table = Table::new(headings.into_iter().chain(BALANCE));
    for worker in &list.workers {
        let [received, transmitted, passed, dropped, in_progress] = balance_cells(&worker.frames);
        table.row([
            worker.queue.to_string(),
            or_dash(worker.cpu),
            worker.priority.clone(),
            match (worker.running, worker.flooded) {
                (true, false) => "running",
                (true, true) => "FLOODED",
                (false, _) => "STOPPED",
            }
            .to_owned(),
            or_dash(worker.mode.as_ref()),
            worker.generation.to_string(),
            or_dash(worker.flows.map(grouped)),
            grouped(worker.connection_events),
            received,
            transmitted,
            passed,
            dropped,
            in_progress,
        ]);
    }
    let up = duration(list.uptime_ms);
    let mut text = format!("up {up}; frames{}\n", per_second(reading));
    text.push_str(&table.render("no workers"));
    for error in list
        .workers
        .iter()
        .filter_map(|worker| worker.error.as_ref())
    {
        let _ = writeln!(text, "{error}");
    }

    let queues: Vec<String> = list
        .workers
        .iter()
        .map(|worker| format!(">QUEUE {}", worker.queue))
        .collect();
    for (title, rows) in [
        (
            "WORKER",
            list.workers
                .iter()
                .map(|worker| &worker.io)
                .collect::<Vec<_>>(),
        ),
        (
            "SOCKET",
            list.workers.iter().map(|worker| &worker.socket).collect(),
        ),
    ] {
        let headings = [title, ">SUM"]
            .into_iter()
            .chain(queues.iter().map(String::as_str));
        let mut table = Table::new(headings);
        let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.keys()).collect();
        for name in names {
            let values = rows.iter().map(|row| row.get(name).copied());
            let sum: u64 = values.clone().flatten().sum();
            let cells = values.map(|value| or_dash(value.map(grouped)));
            table.rows.push(
                [name.clone(), grouped(sum)]
                    .into_iter()
                    .chain(cells)
                    .collect(),
            );
        }
        if !table.rows.is_empty() {
            text.push('\n');
            text.push_str(&table.render(""));
        }
    }
    text
}

fn stats(stats: &Stats, reading: Reading) -> String {
    let mut text = format!(
        "up {}; frames{}\n",
        duration(stats.uptime_ms),
        per_second(reading)
    );
    let mut packets = Table::new(["WORKER"].into_iter().chain(BALANCE));
    let mut volumes = Table::new(["BYTES"].into_iter().chain(BALANCE).take(5));
    let workers = stats.workers.iter();
    let of_workers = workers.map(|worker| (format!("queue {}", worker.queue), &worker.frames));
    for (name, frames) in of_workers.chain([("all".to_owned(), &stats.frames)]) {
        let [received, transmitted, passed, dropped, in_progress] = balance_cells(frames);
        packets.row([
            name.clone(),
            received,
            transmitted,
            passed,
            dropped,
            in_progress,
        ]);
        let volume = |traffic: Traffic| volume(traffic.bytes, reading);
        volumes.row([
            name,
            volume(frames.received),
            volume(frames.transmitted),
            volume(frames.passed),
            volume(frames.dropped),
        ]);
    }
    // Of one VIP, nothing is counted for each worker.
    if stats.workers.is_empty() {
        text = format!("up {}{}\n", duration(stats.uptime_ms), per_second(reading));
    } else {
        text.push_str(&packets.render(""));
        let _ = writeln!(text, "\n{}", volumes.render(""));
    }

    let of_vips = stats
        .vips
        .iter()
        .map(|vip| (vip.vip.clone(), vip.traffic, &vip.counters));
    let of_reals = stats
        .reals
        .iter()
        .map(|real| (real.real.to_string(), real.traffic, &real.counters));
    let vips = traffic_list("VIP", of_vips, reading, "no VIPs");
    let reals = traffic_list("REAL", of_reals, reading, "no reals");
    let _ = write!(text, "{vips}\n{reals}");
    if !stats.counters.is_empty() {
        let _ = write!(text, "\n{}", counters(stats));
    }
    text.push_str(&program("XDP PROGRAM", &stats.xdp));
    text.push_str(&program("HEALTH CHECKS", &stats.health_checks));
    text
}

/// The counters of a program in the kernel, with an empty line before them; nothing if there are none.
fn program(title: &str, counters: &BTreeMap<String, u64>) -> String {
    if counters.is_empty() {
        return String::new();
    }
    let mut table = Table::new([title, ">COUNT"]);
    for (name, value) in counters {
        table.row([name.clone(), grouped(*value)]);
    }
    format!("\n{}", table.render(""))
}

fn server_ids(list: &ServerIdList) -> String {
    let mut table = Table::new([">ID", "REAL", "VALID", ">INDEX"]);
    for server_id in &list.server_ids {
        table.row([
            server_id.id.to_string(),
            server_id.real.to_string(),
            if server_id.valid { "yes" } else { "NO" }.to_owned(),
            or_dash(server_id.index),
        ]);
    }
    page(&table, "no server ids", list.offset, list.total)
}

fn health_checks(list: &HealthCheckList) -> String {
    let mut table = Table::new([">MARK", "REAL", ">PACKETS", ">BYTES"]);
    for check in &list.health_checks {
        table.row([
            check.mark.to_string(),
            check.real.to_string(),
            grouped(check.traffic.packets),
            volume(check.traffic.bytes, Reading::Totals),
        ]);
    }
    let mut text = page(&table, "no health checks", list.offset, list.total);
    if let (Some(interface), Some(hook)) = (&list.interface, &list.hook) {
        let _ = writeln!(text, "\nat the egress of {interface} ({hook})");
    }
    text.push_str(&program("PACKETS", &list.counters));
    text
}

/// Packets and bytes of each, and what else was counted for any of them.
fn traffic_list<'a>(
    title: &str,
    list: impl Iterator<Item = (String, Traffic, &'a BTreeMap<String, u64>)> + Clone,
    reading: Reading,
    nothing: &str,
) -> String {
    let counted = list.clone().flat_map(|(_, _, counters)| counters);
    let more: BTreeSet<&String> = counted
        .filter(|(_, value)| **value > 0)
        .map(|(name, _)| name)
        .collect();
    let headings = more.iter().map(|name| format!(">{}", name.to_uppercase()));
    let headings: Vec<String> = headings.collect();
    let fixed = [title, ">PACKETS", ">BYTES"].into_iter();
    let mut table = Table::new(fixed.chain(headings.iter().map(String::as_str)));
    for (name, traffic, counters) in list {
        let mut row = vec![
            name,
            grouped(traffic.packets),
            volume(traffic.bytes, reading),
        ];
        row.extend(
            more.iter()
                .map(|name| or_dash(counters.get(*name).copied().map(grouped))),
        );
        table.rows.push(row);
    }
    table.render(nothing)
}

/// The counters of all workers and of each, by section. Sections in which nothing was counted are
/// only named.
fn counters(stats: &Stats) -> String {
    let queues: Vec<String> = stats
        .workers
        .iter()
        .map(|worker| format!(">QUEUE {}", worker.queue))
        .collect();
    let headings = ["COUNTER", ">ALL"].into_iter();
    let mut table = Table::new(headings.chain(queues.iter().map(String::as_str)));
    let mut silent = Vec::new();
    for section in WorkerCounters::ROWS.chunk_by(|row, next| row.section == next.section) {
        let title = section[0].section;
        let all = |name| stats.counters.get(name).copied();
        if section.iter().all(|row| all(row.name).unwrap_or(0) == 0) {
            silent.push(title);
            continue;
        }
        table.rows.push(vec![title.to_owned()]);
        for row in section {
            let each = stats
                .workers
                .iter()
                .map(|worker| worker.counters.get(row.name).copied());
            let values = [all(row.name)].into_iter().chain(each);
            let cells = values.map(|value| or_dash(value.map(grouped)));
            let name = format!("  {}", row.name);
            table.rows.push([name].into_iter().chain(cells).collect());
        }
    }
    let mut text = table.render("nothing counted yet");
    if !silent.is_empty() {
        let _ = writeln!(text, "all zero: {}", silent.join("; "));
    }
    text
}

fn drops(list: &DropList, reading: Reading) -> String {
    let mut table = Table::new(["REASON", ">PACKETS", ">BYTES", "MEANING"]);
    for drop in &list.drops {
        table.row([
            drop.reason.clone(),
            grouped(drop.traffic.packets),
            volume(drop.traffic.bytes, reading),
            drop.meaning.clone(),
        ]);
    }
    format!(
        "up {}; dropped frames{}\n{}",
        duration(list.uptime_ms),
        per_second(reading),
        table.render("no drop reasons")
    )
}

fn next_hop(report: &ConfigReport) -> String {
    let Some(mac) = &report.next_hop_mac else {
        let why = match report.gateway {
            Some(gateway) => format!("gateway {gateway} does not answer"),
            None => "no default route".to_owned(),
        };
        return format!("not known, {why}: packets are dropped");
    };
    let state = match report.next_hop_lost_ms {
        _ if report.next_hop_configured => "configured".to_owned(),
        Some(lost) => format!("LOST for {}, last address in use", duration(lost)),
        None => "resolved".to_owned(),
    };
    let gateway = report.gateway.map(|gateway| format!(", gateway {gateway}"));
    format!("{mac} ({state}){}", gateway.unwrap_or_default())
}

fn config(report: &ConfigReport) -> String {
    let mut table = Table::new(["SETTING", "VALUE"]);
    let list = |queues: &[u32]| {
        let queues: Vec<String> = queues.iter().map(ToString::to_string).collect();
        queues.join(",")
    };
    let queues = match report.queues_without_worker.as_slice() {
        [] => list(&report.queues),
        without => format!(
            "{} (without a worker: {})",
            list(&report.queues),
            list(without)
        ),
    };
    let link = match report.link {
        None => "-",
        Some(LinkState::Up) => "up",
        Some(LinkState::NoCarrier) => "no carrier: nothing arrives",
        Some(LinkState::Down) => "down: nothing arrives",
    };
    let xdp = match &report.xdp_fallback {
        None => report.xdp_mode.clone(),
        Some(why) => format!("{} ({why})", report.xdp_mode),
    };
    let mtu = match (report.mtu, &report.mtu_warning) {
        (None, _) => "-".to_owned(),
        (Some(mtu), None) => mtu.to_string(),
        (Some(mtu), Some(warning)) => format!("{mtu} ({warning})"),
    };
    for (setting, value) in [
        (
            "config",
            report.config.clone().unwrap_or_else(|| "none".to_owned()),
        ),
        ("interface", report.interface.clone()),
        ("datapath", report.datapath.clone()),
        ("queues", queues),
        ("xdp mode", xdp),
        ("link", link.to_owned()),
        ("mtu", mtu),
        ("next hop", next_hop(report)),
    ] {
        table.row([setting.to_owned(), value]);
    }
    let settings = |section: &'static str, settings: &BTreeMap<String, serde_json::Value>| {
        let row = |(key, value): (&String, &serde_json::Value)| {
            let value = match value {
                serde_json::Value::Null => "-".to_owned(),
                serde_json::Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            [format!("{section}.{key}"), value]
        };
        settings.iter().map(row).collect::<Vec<_>>()
    };
    for row in settings("interface", &report.workers)
        .into_iter()
        .chain(settings("balancer", &report.balancer))
    {
        table.row(row);
    }
    for (setting, value) in [
        ("vips", report.vips.to_string()),
        ("reals", report.reals.to_string()),
        ("generation", report.generation.to_string()),
        ("up", duration(report.uptime_ms)),
    ] {
        table.row([setting.to_owned(), value]);
    }
    table.render("")
}

fn memory(report: &Memory) -> String {
    let mut table = Table::new(["PART", ">WORKER", ">SIZE"]);
    for part in &report.parts {
        table.row([
            part.part.clone(),
            or_dash(part.worker),
            part.bytes.map_or_else(|| "no answer".to_owned(), bytes),
        ]);
    }
    let sum = report.parts.iter().filter_map(|part| part.bytes).sum();
    table.row(["sum".to_owned(), String::new(), bytes(sum)]);
    table.row([
        "process, resident".to_owned(),
        String::new(),
        or_dash(report.resident_bytes.map(bytes)),
    ]);
    table.render("")
}

fn failures(text: &mut String, failed: &[WorkerFailure]) {
    for failure in failed {
        let _ = writeln!(
            text,
            "incomplete: worker of queue {}: {}",
            failure.worker, failure.problem
        );
    }
}

fn flows(list: &FlowList) -> String {
    let headings = [">WORKER", "PROTO", "SOURCE", "DESTINATION", "REAL", ">IDLE"];
    let mut table = Table::new(headings);
    for flow in &list.flows {
        table.row([
            flow.worker
                .map_or_else(|| "global".to_owned(), |worker| worker.to_string()),
            flow.protocol.clone(),
            flow.source.clone(),
            flow.destination.clone(),
            flow.real
                .map_or_else(|| "gone".to_owned(), |real| real.to_string()),
            or_dash(flow.idle_ms.map(duration)),
        ]);
    }
    let mut text = table.render("no such flow");
    if list.more {
        text.push_str("there are more; limit= shows more of them, vip= and real= choose\n");
    }
    failures(&mut text, &list.failed);
    text
}

fn removed(result: &FlowsRemoved) -> String {
    let plural = if result.removed == 1 { "" } else { "s" };
    let mut text = format!("removed {} flow{plural}", grouped(result.removed as u64));
    let mut separator = ": ";
    for FlowCount { worker, flows } in &result.workers {
        let _ = write!(text, "{separator}{} of queue {worker}", grouped(*flows));
        separator = ", ";
    }
    if result.global > 0 {
        let _ = write!(
            text,
            "; {} from the global table",
            grouped(result.global as u64)
        );
    }
    text.push('\n');
    failures(&mut text, &result.failed);
    text
}

fn analysis(result: &FlowAnalysis) -> String {
    let mut table = Table::new([
        "VIP",
        ">FLOWS",
        ">STALE REAL",
        ">NO TIME",
        ">< 30 S",
        ">30-60 S",
        ">> 60 S",
    ]);
    for VipFlows { vip, kinds } in &result.vips {
        table.row([
            vip.clone().unwrap_or_else(|| "gone".to_owned()),
            grouped(kinds.flows),
            grouped(kinds.stale_real),
            grouped(kinds.without_time),
            grouped(kinds.under_30_s),
            grouped(kinds.from_30_to_60_s),
            grouped(kinds.over_60_s),
        ]);
    }
    let mut text = table.render("no flows");
    failures(&mut text, &result.failed);
    text
}

fn flow_counts(counts: &FlowCounts) -> String {
    let mut table = Table::new(["WORKER", ">FLOWS"]);
    for count in &counts.workers {
        table.row([format!("queue {}", count.worker), grouped(count.flows)]);
    }
    table.row(["all".to_owned(), grouped(counts.total)]);
    if let Some(global) = counts.global {
        table.row(["global table".to_owned(), grouped(global)]);
    }
    let mut text = table.render("");
    failures(&mut text, &counts.failed);
    text
}

fn explained(result: &Explained) -> String {
    let mut text = match (&result.vip, result.real, result.reason.as_deref()) {
        (Some(vip), Some(real), Some(reason)) if reason == DropReason::NoNextHop.name() => format!(
            "{vip} selects {real}, and the next hop is not known: dropped; see `show config`\n"
        ),
        (Some(vip), Some(real), Some(_)) => {
            format!("{vip} selects {real}, which is this host: passed to the kernel\n")
        }
        (Some(vip), Some(real), None) => format!("{vip} sends it to {real}\n"),
        (Some(vip), None, _) => format!("{vip} has no real with a weight above zero: dropped\n"),
        (None, _, Some("cross-pop")) => {
            "a GUE tunnel to a decap destination: its inner packet is balanced, or given to the kernel\n"
                .to_owned()
        }
        (None, _, Some("egress")) => {
            "a GUE tunnel to a decap destination with egress: its inner packet is sent out\n".to_owned()
        }
        (None, _, Some("not-a-decap-destination")) => {
            "the tunnel's destination is none of the decap destinations: passed to the kernel as it came\n"
                .to_owned()
        }
        (None, ..) => "no VIP has this destination: passed to the kernel\n".to_owned(),
    };
    if result.tunnel.is_some() && result.reason.as_deref() != Some("not-a-decap-destination") {
        text.insert_str(
            0,
            "the tunnel's outer header is taken off; of the inner packet: ",
        );
    }
    if let Some(by) = &result.by {
        let _ = writeln!(text, "by {}", selected_by(by, result));
    }
    if result.flooded {
        text.push_str(
            "flooded: too many new connections, so new flows are not stored, source routes not asked, and reals \
             that are down not left\n",
        );
    }
    if let Some(server_id) = &result.server_id
        && let Some(line) = server_id_line(server_id, result)
    {
        let _ = writeln!(text, "{line}");
    }
    if !result.others.is_empty() {
        text.push_str("the workers differ: it depends on the queue at which the packet arrives\n");
    }
    for other in &result.others {
        let _ = writeln!(text, "  {}", differing(other));
    }
    if let (Some(hash), Some(slot)) = (result.hash, result.ring_index) {
        let _ = writeln!(text, "flow hash {hash:#010x}, ring slot {slot}");
    }
    if let Some(source) = result.outer_source {
        let _ = writeln!(text, "outer source {source}");
    }
    failures(&mut text, &result.failed);
    text
}

/// `flow table of the worker of queue 2`, for example.
fn selected_by(by: &str, result: &Explained) -> String {
    if by == Selection::Table.name() {
        return match result.workers.as_slice() {
            [] => "the flow table in the kernel".to_owned(),
            [worker] => format!("the flow table of the worker of queue {worker}"),
            workers => format!(
                "the flow table; the workers of queues {} have the flow",
                list(workers)
            ),
        };
    }
    if by == Selection::GlobalTable.name() {
        return "the global table: another worker stored the flow there".to_owned();
    }
    if by == Selection::ServerId.name()
        && let Some(server_id) = &result.server_id
    {
        return format!("{}: no table is asked", in_packet(server_id));
    }
    let why = passed_over(result.passed_over.as_deref());
    format!(
        "{}: {}",
        short_by(by),
        why.unwrap_or("no worker has the flow in its table")
    )
}

/// Why no flow table decides although one could.
fn passed_over(why: Option<&str>) -> Option<&'static str> {
    Some(match why? {
        "lru-bypass" => "the VIP's flag lru-bypass leaves the flow table out",
        "syn" => "a SYN asks no table",
        "expired" => "the flow's entry has expired",
        "stale-real" => "the flow was with a real whose number another has now",
        "real-down" => "the flow leaves the real in the flow table, which is down",
        "global-real-down" => "the flow leaves the real in the global table, which is down",
        _ => return None,
    })
}

/// What selects, without who has the flow.
fn short_by(by: &str) -> &str {
    match by {
        by if by == Selection::Table.name() => "the flow table",
        by if by == Selection::GlobalTable.name() => "the global table",
        by if by == Selection::ServerId.name() => "the server id",
        by if by == Selection::SourceRoute.name() => "the client's source route",
        _ => "the VIP's ring",
    }
}

/// `queue 1: 198.51.100.12, by the flow table`
fn differing(other: &Differing) -> String {
    let queues = match other.workers.as_slice() {
        [worker] => format!("queue {worker}"),
        workers => format!("queues {}", list(workers)),
    };
    let outcome = match (other.real, other.reason.as_deref()) {
        (Some(real), None) => real.to_string(),
        (Some(real), Some(reason)) => format!("{real} ({reason})"),
        (None, Some(reason)) => format!("{} ({reason})", other.verdict),
        (None, None) => other.verdict.clone(),
    };
    let mut line = format!("{queues}: {outcome}");
    if let Some(by) = &other.by {
        let _ = write!(line, ", by {}", short_by(by));
    }
    if let Some(why) = passed_over(other.passed_over.as_deref()) {
        let _ = write!(line, ": {why}");
    }
    if other.flooded {
        line.push_str("; flooded");
    }
    line
}

/// What to know of a server id that does not select the real.
fn server_id_line(server_id: &ServerIdUse, result: &Explained) -> Option<String> {
    let ServerIdUse {
        id, state, real, ..
    } = server_id;
    match (state.as_str(), real) {
        ("not-read", _) => {
            let is_tcp = result
                .vip
                .as_ref()
                .is_some_and(|vip| vip.ends_with(Protocol::Tcp.name()));
            let why = if is_tcp {
                "balancer.tcp_server_id is false"
            } else {
                "the VIP has neither the flag quic nor udp-stable-routing"
            };
            Some(format!("server id {id} is not read: {why}"))
        }
        ("wrong-family", Some(real)) => Some(format!(
            "{} names {real}, to which no IPv6 packet can go: it decides nothing",
            in_packet(server_id)
        )),
        ("unknown", _) => Some(format!(
            "{} names no real, or is invalid: it decides nothing",
            in_packet(server_id)
        )),
        _ => None,
    }
}

/// `server id 7 in the packet's TCP option`
fn in_packet(server_id: &ServerIdUse) -> String {
    let forms = server_id.read_from.iter().map(|form| match form.as_str() {
        "quic-connection-id" => "QUIC connection id",
        "udp-payload" => "UDP payload",
        "tcp-option" => "TCP option",
        other => other,
    });
    let forms: Vec<&str> = forms.collect();
    format!(
        "server id {} in the packet's {}",
        server_id.id,
        forms.join(" or ")
    )
}

/// `0, 2`
fn list(workers: &[u32]) -> String {
    let workers: Vec<String> = workers.iter().map(ToString::to_string).collect();
    workers.join(", ")
}

fn capture(report: &CaptureReport) -> String {
    let Some(file) = &report.file else {
        return "no capture\n".to_owned();
    };
    let mut table = Table::new(["CAPTURE", report.state.as_str()]);
    for (name, value) in [
        ("file", file.clone()),
        ("events", report.events.join(",")),
        (
            "packets",
            format!("{} of {}", grouped(report.packets), grouped(report.limit)),
        ),
        ("bytes each", format!("up to {}", report.snaplen)),
        ("file size", bytes(report.bytes)),
        ("lost", grouped(report.lost)),
        ("time", duration(report.elapsed_ms)),
    ] {
        table.row([name.to_owned(), value]);
    }
    let mut text = table.render("");
    if let Some(error) = &report.error {
        let _ = writeln!(text, "{error}");
    }
    failures(&mut text, &report.failed);
    text
}

fn help(report: &Help) -> String {
    if let [command] = report.commands.as_slice() {
        return help_command(command);
    }
    let width = report
        .commands
        .iter()
        .map(|command| command.command.len())
        .max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for HelpCommand {
        command, summary, ..
    } in &report.commands
    {
        let _ = writeln!(text, "{command:width$}  {summary}");
    }
    text.push_str("\n`help COMMAND` explains one.\n");
    text
}

fn help_command(command: &HelpCommand) -> String {
    let mut text = format!("{}\n\n{}.\n", command.usage, command.summary);
    if !command.details.is_empty() {
        let _ = writeln!(text, "{}", command.details);
    }
    if !command.arguments.is_empty() {
        text.push('\n');
        let names: Vec<_> = command.arguments.iter().map(argument_names).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        for (names, argument) in names.iter().zip(&command.arguments) {
            let _ = writeln!(text, "  {names:width$}  {}", argument.help);
        }
    }
    text
}

/// `limit`, or `file, -w`.
fn argument_names(argument: &HelpArgument) -> String {
    match argument.letter {
        Some(letter) => format!("{}, -{letter}", argument.name),
        None => argument.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{
        self,
        report::{VipRow, WorkerTraffic},
    };
    use crate::control::Names;

    #[test]
    fn columns_are_aligned() {
        let row = |vip: &str, reals| VipRow {
            vip: vip.into(),
            number: Some(3),
            hash: "maglev-v2".into(),
            flags: Vec::new(),
            reals,
            weight: 10,
        };
        let list = VipList {
            vips: vec![
                row("203.0.113.10:80/tcp", 2),
                row("[2001:db8::1]:80/tcp", 1200),
            ],
        };
        assert_eq!(
            render(&Answer::Vips(list), Reading::Totals),
            "VIP                   NUMBER  HASH       REALS  WEIGHT  FLAGS\n\
             203.0.113.10:80/tcp        3  maglev-v2      2      10  -\n\
             [2001:db8::1]:80/tcp       3  maglev-v2   1200      10  -\n"
        );
        assert_eq!(vips(&VipList { vips: Vec::new() }), "no VIPs\n");
    }

    #[test]
    fn counters_are_shown_by_section_and_worker_unless_all_are_zero() {
        let worker = |queue, counters: &[(&str, u64)]| WorkerTraffic {
            queue,
            frames: Balance::default(),
            counters: by_name(counters),
        };
        let text = counters(&Stats {
            uptime_ms: 1000,
            frames: Balance::default(),
            counters: by_name(&[("flow-inserts", 1234), ("flows", 0), ("echo-replies", 0)]),
            vips: Vec::new(),
            reals: Vec::new(),
            workers: vec![
                worker(0, &[("flow-inserts", 1000)]),
                worker(3, &[("flow-inserts", 234)]),
            ],
            xdp: BTreeMap::new(),
            health_checks: BTreeMap::new(),
        });
        let mut lines = text.lines();
        let heading: Vec<&str> = lines.next().unwrap_or_default().split("  ").collect();
        assert_eq!(heading[0], "COUNTER", "{text}");
        assert_eq!(lines.next(), Some("Flow table"), "{text}");
        let row = lines.find(|line| line.starts_with("  flow-inserts"));
        let cells: Vec<&str> = row.into_iter().flat_map(str::split_whitespace).collect();
        assert_eq!(
            cells,
            ["flow-inserts", "1", "234", "1", "000", "234"],
            "{text}"
        );
        let silent = text.lines().last().unwrap_or_default();
        assert!(silent.starts_with("all zero: "), "{text}");
        assert!(silent.contains("ICMP"), "{text}");
    }

    fn by_name(counters: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let owned = |(name, value): &(&str, u64)| ((*name).to_owned(), *value);
        counters.iter().map(owned).collect()
    }

    #[test]
    fn numbers_have_units() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1 000"),
            (1_234_567, "1 234 567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        for (number, text) in [(1023, "1023 B"), (1024, "1.0 KiB"), (u64::MAX, "16.0 EiB")] {
            assert_eq!(bytes(number), text);
        }
        for (number, text) in [
            (1, "8 bit/s"),
            (125, "1.0 kbit/s"),
            (125_000_000, "1.0 Gbit/s"),
        ] {
            assert_eq!(bit_rate(number), text);
        }
        for (number, text) in [
            (1_500, "1.5 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h 0 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(number), text);
        }
    }

    #[test]
    fn a_page_beyond_the_end_is_not_an_empty_list() {
        let mut table = Table::new(["PREFIX", "REAL"]);
        assert_eq!(page(&table, "no source routes", 5, 0), "no source routes\n");
        assert_eq!(
            page(&table, "no source routes", 9999, 9),
            "none from offset=9999 on; there are 9\n"
        );
        table.row(["192.0.2.0/24".to_owned(), "198.51.100.11".to_owned()]);
        let text = page(&table, "no source routes", 7, 9);
        assert!(text.ends_with("\n8 to 8 of 9; limit= and offset= show others\n"));
        let whole = page(&table, "no source routes", 0, 1);
        assert_eq!(whole.lines().count(), 2, "{whole}");
    }

    #[test]
    fn the_next_hop_says_whether_anybody_is_there() {
        let mut report = ConfigReport::default();
        assert_eq!(
            next_hop(&report),
            "not known, no default route: packets are dropped"
        );
        report.gateway = "192.0.2.1".parse().ok();
        assert_eq!(
            next_hop(&report),
            "not known, gateway 192.0.2.1 does not answer: packets are dropped"
        );
        report.next_hop_mac = Some("02:00:00:00:cc:03".into());
        assert_eq!(
            next_hop(&report),
            "02:00:00:00:cc:03 (resolved), gateway 192.0.2.1"
        );
        report.next_hop_lost_ms = Some(61_000);
        assert_eq!(
            next_hop(&report),
            "02:00:00:00:cc:03 (LOST for 1 min 1 s, last address in use), gateway 192.0.2.1"
        );
    }

    #[test]
    fn help_of_one_command_names_its_arguments() {
        let report = admin::help(Some("vip add")).expect("help");
        let text = help(&report);
        assert!(text.starts_with("vip add VIP [hash=HASH] [flags=FLAG,…] [real=ADDR[@WEIGHT]]…\n"));
        for name in ["vip", "hash", "flags", "real"] {
            assert!(text.contains(&format!("\n  {name}")), "{text}");
        }
    }

    #[test]
    fn a_large_change_names_a_few() {
        let lines = |count: usize| {
            let names = (0..count).map(|place| format!("vip {place}")).collect();
            let text = changes(&Changes {
                reals_added: Names {
                    count,
                    names,
                    values: Vec::new(),
                },
                ..Changes::default()
            });
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines
        };
        assert_eq!(lines(21).len(), 22);
        assert_eq!(lines(22).len(), 22);
        assert_eq!(lines(22)[20], "added … and 2 more");
    }

    #[test]
    fn explanations_say_when_the_real_is_this_host() {
        let text = explained(&Explained {
            verdict: "pass".into(),
            reason: Some("local-real".into()),
            vip: Some("203.0.113.10:80/tcp".into()),
            real: Some([192, 0, 2, 254].into()),
            by: Some("ring".into()),
            ..Explained::default()
        });
        assert_eq!(
            text,
            "203.0.113.10:80/tcp selects 192.0.2.254, which is this host: passed to the kernel\n\
             by the VIP's ring: no worker has the flow in its table\n"
        );
    }

    #[test]
    fn explanations_say_how() {
        let text = explained(&Explained {
            verdict: "transmit".into(),
            vip: Some("203.0.113.10:80/tcp".into()),
            real: Some([198, 51, 100, 11].into()),
            by: Some("table".into()),
            workers: vec![2],
            hash: Some(0xab),
            ring_index: Some(171),
            ..Explained::default()
        });
        assert_eq!(
            text,
            "203.0.113.10:80/tcp sends it to 198.51.100.11\n\
             by the flow table of the worker of queue 2\n\
             flow hash 0x000000ab, ring slot 171\n"
        );
    }
}
