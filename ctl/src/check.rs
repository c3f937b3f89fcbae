//! `katran-xsk check`: whether a configuration is valid, and what it means.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    process::ExitCode,
};

use dataplane::service::{ServiceControl, ServiceTable, Vip};
use serde::Serialize;

use crate::{
    admin::report::DecapRow,
    cli::{CheckArgs, DatapathChoice},
    config::{
        Config, ConfigError, EncapsulationKind, HealthCheckSpec, PriorityChoice, Problem, Queues,
        flag_names,
    },
    memory::{Bytes, Demand, driver_of},
    run::{kernel, priority, settings},
    stdio::{complain, print},
};

/// What a configuration means.
#[derive(Debug, Serialize)]
struct Meaning {
    file: String,
    valid: bool,
    datapath: DatapathChoice,
    interface: Interface,
    /// Nothing in the kernel.
    workers: Option<Workers>,
    balancer: Balancer,
    memory: Memory,
    decap: Decap,
    vips: Vec<VipMeaning>,
    health_checks: HealthChecks,
    source_routes: usize,
    server_ids: ServerIds,
    warnings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: Option<String>,
    queues: String,
    mode: &'static str,
    xdp_mode: String,
    /// `None`: resolved from the default route.
    next_hop_mac: Option<String>,
    admin_socket: String,
}

/// The workers as `run` would start them here and now.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "settings, each on or off")]
struct Workers {
    priority: String,
    /// Why it is not real-time where the configuration leaves that open.
    priority_reason: Option<String>,
    /// The configuration leaves the priority open.
    priority_auto: bool,
    /// In turn.
    cpus: String,
    /// The configuration names none: they are all that this process may use.
    cpus_auto: bool,
    busy_poll: bool,
    /// Microseconds; `None`: off.
    spin_us: Option<u32>,
    huge_pages: bool,
}

#[derive(Debug, Serialize)]
struct Balancer {
    encapsulation: String,
    max_frame: u16,
    icmp_too_big: bool,
    flow_table_capacity: usize,
    global_table_capacity: usize,
    /// Connection events per second and worker.
    connection_rate_cap: u32,
    tcp_server_id: bool,
    keep_last_ring: bool,
}

/// How many.
#[derive(Debug, Serialize)]
struct ServerIds {
    total: usize,
    valid: usize,
}

/// In bytes.
#[derive(Debug, Serialize)]
struct Memory {
    flow_tables_per_worker: usize,
    frames_per_worker: usize,
    vip_rings: usize,
    /// 0 while no VIP uses it.
    global_table: usize,
    source_routes: usize,
    /// `None`: as many as the interface has queues.
    workers: Option<usize>,
    /// Of all CPUs; `None`: workers have their own.
    kernel_flow_tables: Option<usize>,
    /// For all workers, or for one when their number is not known.
    total: usize,
}

/// Tunnels that are taken apart.
#[derive(Debug, Serialize)]
struct Decap {
    gue_port: u16,
    destinations: Vec<DecapRow>,
}

#[derive(Debug, Serialize)]
struct VipMeaning {
    vip: String,
    hash: &'static str,
    flags: Vec<&'static str>,
    reals: Vec<RealMeaning>,
}

#[derive(Debug, Serialize)]
struct RealMeaning {
    address: IpAddr,
    weight: u32,
    /// Slots of the ring.
    slots: u32,
    /// Of the ring, in percent.
    share: f64,
    local: bool,
    down: bool,
}

#[derive(Debug, Serialize)]
struct HealthChecks {
    /// `None`: the balancer's.
    interface: Option<String>,
    /// `None`: any.
    max_frame: Option<u32>,
    marks: Vec<MarkMeaning>,
}

#[derive(Debug, Serialize)]
struct MarkMeaning {
    mark: u32,
    real: IpAddr,
    /// Of the outer header.
    source: Option<IpAddr>,
}

/// A problem or a warning.
#[derive(Debug, Serialize)]
struct Finding {
    line: Option<usize>,
    field: String,
    problem: String,
    remedy: String,
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        Self {
            line: problem.line,
            field: problem.field,
            problem: problem.problem,
            remedy: problem.remedy,
        }
    }
}

#[derive(Debug, Serialize)]
struct Invalid {
    file: String,
    valid: bool,
    problems: Vec<Finding>,
}

/// Runs the command: exit code 0 when the configuration is valid, 1 otherwise.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let loaded = Config::load(&args.config).and_then(|config| match args.datapath {
        DatapathChoice::Xsk => Ok(config),
        DatapathChoice::Kernel => match config.kernel_problems() {
            none if none.is_empty() => Ok(config),
            problems => Err(ConfigError {
                name: args.config.display().to_string(),
                problems,
            }),
        },
    });
    let config = match loaded {
        Ok(config) => config,
        Err(error) if args.json => {
            print_json(&Invalid {
                file: error.name,
                valid: false,
                problems: error.problems.into_iter().map(Finding::from).collect(),
            })?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => {
            let count = error.problems.len();
            let plural = if count == 1 { "" } else { "s" };
            complain(format_args!(
                "{error}\n{}: {count} problem{plural}",
                error.name
            ));
            return Ok(ExitCode::FAILURE);
        }
    };
    // Holds the configuration to the dataplane's own rules as well.
    let table = ServiceControl::new().apply(&config.to_service_spec())?;
    let meaning = meaning(args, &config, &table)?;
    if args.json {
        print_json(&meaning)?;
    } else {
        print(&meaning)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(print(format_args!("{text}\n"))?)
}

fn meaning(args: &CheckArgs, config: &Config, table: &ServiceTable) -> anyhow::Result<Meaning> {
    let interface = &config.interface;
    let balancer = &config.balancer;
    let mut warnings = config.warnings();
    let (workers, memory) = match args.datapath {
        DatapathChoice::Xsk => (Some(workers(config, &mut warnings)), memory(config)),
        DatapathChoice::Kernel => {
            warnings.extend(config.kernel_warning());
            (None, kernel_memory(config)?)
        }
    };
    Ok(Meaning {
        file: args.config.display().to_string(),
        valid: true,
        datapath: args.datapath,
        workers,
        interface: Interface {
            name: interface.name.clone(),
            queues: interface.queues.clone().unwrap_or(Queues::All).to_string(),
            mode: interface.mode.name(),
            xdp_mode: interface.xdp_mode.to_string(),
            next_hop_mac: interface.next_hop_mac.map(|mac| mac.to_string()),
            admin_socket: config.admin.socket.display().to_string(),
        },
        balancer: Balancer {
            encapsulation: encapsulation(config),
            max_frame: balancer.max_frame,
            icmp_too_big: balancer.icmp_too_big,
            flow_table_capacity: balancer.flow_table_capacity,
            global_table_capacity: balancer.global_table_capacity,
            connection_rate_cap: balancer.connection_rate_cap,
            tcp_server_id: balancer.tcp_server_id,
            keep_last_ring: balancer.keep_last_ring,
        },
        memory,
        decap: Decap {
            gue_port: balancer.gue_port,
            destinations: config.decap.iter().map(DecapRow::from).collect(),
        },
        vips: config
            .vips
            .iter()
            .filter_map(|spec| {
                let vip = table.find(&spec.key)?;
                let weight = |address: IpAddr| {
                    let real = spec.reals.iter().find(|real| real.address == address);
                    real.map_or(0, |real| real.weight)
                };
                Some(VipMeaning {
                    vip: spec.key.to_string(),
                    hash: spec.hash.name(),
                    flags: flag_names(spec.flags).collect(),
                    reals: spec
                        .reals
                        .iter()
                        .map(|real| {
                            let slots = slots(vip, table, real.address);
                            RealMeaning {
                                address: real.address,
                                weight: weight(real.address),
                                slots,
                                share: 100.0 * f64::from(slots) / vip.ring.len() as f64,
                                local: real.local,
                                down: real.down,
                            }
                        })
                        .collect(),
                })
            })
            .collect(),
        health_checks: health_checks(config),
        source_routes: config.source_routes.len(),
        server_ids: ServerIds {
            total: config.server_ids.len(),
            valid: config.server_ids.iter().filter(|own| own.valid).count(),
        },
        warnings: warnings.into_iter().map(Finding::from).collect(),
    })
}

/// What `run` would refuse here and now, and may do elsewhere, is warned of.
fn workers(config: &Config, warnings: &mut Vec<Problem>) -> Workers {
    let interface = &config.interface;
    let rank = priority::choose(interface);
    let (priority, priority_reason) = match &rank {
        Ok(rank) => (rank.priority.to_string(), rank.reason.clone()),
        Err(_) => (interface.priority.to_string(), None),
    };
    warnings.extend(rank.err());
    let cpus = settings::usable_cpus(config);
    let (text, problem) = match (cpus, &interface.cpus) {
        (Ok(usable), _) => (settings::display(&usable), None),
        (Err(problem), Some(named)) => (named.to_string(), Some(problem)),
        (Err(problem), None) => ("none".to_owned(), Some(problem)),
    };
    warnings.extend(problem);
    Workers {
        priority,
        priority_reason,
        priority_auto: interface.priority == PriorityChoice::Auto,
        cpus: text,
        cpus_auto: interface.cpus.is_none(),
        busy_poll: interface.busy_poll,
        spin_us: interface.spin_us,
        huge_pages: interface.huge_pages,
    }
}

fn health_checks(config: &Config) -> HealthChecks {
    let (path, balancer) = (&config.health_check_path, &config.balancer);
    let mark = |check: &HealthCheckSpec| MarkMeaning {
        mark: check.mark,
        real: check.real,
        source: match check.real {
            IpAddr::V4(_) => balancer.source_v4.map(IpAddr::V4),
            IpAddr::V6(_) => balancer.source_v6.map(IpAddr::V6),
        },
    };
    HealthChecks {
        interface: path.interface.clone(),
        max_frame: path.max_frame,
        marks: config.health_checks.iter().map(mark).collect(),
    }
}

fn encapsulation(config: &Config) -> String {
    let balancer = &config.balancer;
    match balancer.encapsulation {
        EncapsulationKind::Ipip => "ipip".to_owned(),
        EncapsulationKind::Gue => {
            let mut text = format!("gue to port {}", balancer.gue_port);
            let sources = [
                balancer.source_v4.map(IpAddr::V4),
                balancer.source_v6.map(IpAddr::V6),
            ];
            for source in sources.into_iter().flatten() {
                let _ = write!(text, ", from {source}");
            }
            text
        }
    }
}

fn slots(vip: &Vip, table: &ServiceTable, address: IpAddr) -> u32 {
    vip.ring
        .shares()
        .into_iter()
        .find(|(number, _)| {
            let real = table.real(usize::from(*number));
            real.is_some_and(|real| real.address == address)
        })
        .map_or(0, |(_, slots)| slots)
}

fn memory(config: &Config) -> Memory {
    let demand = Demand::of(config, &driver_of(config));
    let workers = match &config.interface.queues {
        Some(Queues::List(list)) => Some(list.indices().len()),
        Some(Queues::All) | None => None,
    };
    Memory {
        flow_tables_per_worker: demand.flow_tables,
        frames_per_worker: demand.frames,
        vip_rings: demand.vip_rings,
        global_table: demand.global_table,
        source_routes: demand.source_routes,
        workers,
        kernel_flow_tables: None,
        total: demand.ahead(workers.unwrap_or(1)) + demand.source_routes,
    }
}

fn kernel_memory(config: &Config) -> anyhow::Result<Memory> {
    let flow_tables = kernel::memory(config)?;
    let Demand {
        vip_rings,
        source_routes,
        ..
    } = Demand::of(config, "");
    Ok(Memory {
        flow_tables_per_worker: 0,
        frames_per_worker: 0,
        vip_rings,
        global_table: 0,
        source_routes,
        workers: None,
        kernel_flow_tables: Some(flow_tables),
        total: flow_tables + vip_rings + source_routes,
    })
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |value: &Option<String>, other: &str| value.clone().unwrap_or(other.to_owned());
        writeln!(f, "{}: valid", self.file)?;
        writeln!(f)?;
        writeln!(
            f,
            "interface      {}, queues {}, {}, XDP {}",
            or(&self.interface.name, "to be given with --iface"),
            self.interface.queues,
            match self.workers {
                Some(_) => format!("sockets {}", self.interface.mode),
                None => "no sockets".to_owned(),
            },
            self.interface.xdp_mode,
        )?;
        match &self.workers {
            Some(workers) => workers.fmt(f)?,
            None => writeln!(f, "datapath       kernel: no workers")?,
        }
        let next_hop = or(
            &self.interface.next_hop_mac,
            "the default route's neighbour, followed as it changes",
        );
        writeln!(f, "next hop       {next_hop}")?;
        writeln!(f, "admin socket   {}", self.interface.admin_socket)?;
        writeln!(f, "encapsulation  {}", self.balancer.encapsulation)?;
        let too_long = if self.balancer.icmp_too_big {
            "answered with ICMP too-big"
        } else {
            "dropped"
        };
        writeln!(
            f,
            "frames         to {} bytes; longer ones are {too_long}",
            self.balancer.max_frame
        )?;
        writeln!(
            f,
            "flows          {} per worker and address family",
            self.balancer.flow_table_capacity
        )?;
        writeln!(
            f,
            "new flows      stored up to {} connection events per second and worker",
            self.balancer.connection_rate_cap
        )?;
        let without_reals = if self.balancer.keep_last_ring {
            "go where its last ring says"
        } else {
            "are dropped"
        };
        writeln!(
            f,
            "without reals  packets of a VIP whose weights are all 0 {without_reals}"
        )?;
        self.server_ids(f)?;
        if self.source_routes > 0 {
            writeln!(f, "source routes  {}", self.source_routes)?;
        }
        self.memory.fmt(f)?;
        self.decap.fmt(f)?;
        for vip in &self.vips {
            writeln!(f)?;
            vip.fmt(f)?;
        }
        self.health_checks.fmt(f)?;
        if !self.warnings.is_empty() {
            writeln!(f)?;
        }
        for warning in &self.warnings {
            let Finding {
                field,
                problem,
                remedy,
                ..
            } = warning;
            writeln!(f, "warning: {field}: {problem}; {remedy}")?;
        }
        Ok(())
    }
}

impl Meaning {
    /// Nothing when nobody reads any.
    fn server_ids(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerIds { total, valid } = self.server_ids;
        if total == 0 && !self.balancer.tcp_server_id {
            return Ok(());
        }
        write!(f, "server ids     {total}")?;
        if valid < total {
            write!(f, ", {valid} of them valid")?;
        }
        if self.balancer.tcp_server_id {
            write!(f, "; read from the TCP option of every TCP VIP")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workers        priority {}", self.priority)?;
        match (&self.priority_reason, self.priority_auto) {
            (Some(reason), _) => write!(f, ", because {reason}")?,
            (None, true) => write!(f, ", as nothing is against it")?,
            (None, false) => {}
        }
        write!(f, "; CPUs {}", self.cpus)?;
        if self.cpus_auto {
            write!(f, ", all that this process may use")?;
        }
        let polling = if self.busy_poll { "" } else { "no " };
        write!(f, "; {polling}busy polling")?;
        match self.spin_us {
            Some(time) => write!(f, "; spinning for {time} µs")?,
            None => write!(f, "; no spinning")?,
        }
        let pages = if self.huge_pages { "huge" } else { "ordinary" };
        writeln!(f, "; frames on {pages} pages")
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = Bytes(self.total);
        if let Some(flow_tables) = self.kernel_flow_tables {
            write!(
                f,
                "memory         {total}: flow tables of all CPUs {}; rings of VIPs {}",
                Bytes(flow_tables),
                Bytes(self.vip_rings)
            )?;
            return self.source_routes(f);
        }
        match self.workers {
            Some(1) => write!(f, "memory         {total} for 1 worker: ")?,
            Some(workers) => write!(f, "memory         {total} for {workers} workers, each: ")?,
            None => write!(f, "memory         {total} with one worker, for each: ")?,
        }
        write!(
            f,
            "flow tables {}, frames {}; rings of VIPs {}",
            Bytes(self.flow_tables_per_worker),
            Bytes(self.frames_per_worker),
            Bytes(self.vip_rings),
        )?;
        if self.global_table > 0 {
            write!(f, "; global table {}", Bytes(self.global_table))?;
        }
        self.source_routes(f)
    }
}

impl Memory {
    /// The end of the line.
    fn source_routes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source_routes > 0 {
            write!(f, "; source routes {}", Bytes(self.source_routes))?;
        }
        writeln!(f)
    }
}

/// Nothing when there are none.
impl fmt::Display for Decap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut heading = "decap";
        for own in &self.destinations {
            let inner = if own.egress {
                "are sent out"
            } else {
                "are balanced"
            };
            writeln!(
                f,
                "{heading:14} {}: IPIP, and GUE to port {}, whose inner packets {inner}",
                own.address, self.gue_port
            )?;
            heading = "";
        }
        Ok(())
    }
}

impl fmt::Display for HealthChecks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.marks.is_empty() {
            return Ok(());
        }
        let interface = self.interface.as_deref().unwrap_or("the interface");
        write!(
            f,
            "\nhealth checks  packets with a mark that leave by {interface}"
        )?;
        if let Some(max_frame) = self.max_frame {
            write!(f, ", to {max_frame} bytes")?;
        }
        writeln!(f)?;
        for check in &self.marks {
            write!(f, "  mark {} to {}", check.mark, check.real)?;
            if let Some(source) = check.source {
                write!(f, ", from {source}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for VipMeaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vip {}  {}", self.vip, self.hash)?;
        for flag in &self.flags {
            write!(f, " {flag}")?;
        }
        writeln!(f)?;
        let width = |text: fn(&RealMeaning) -> String| {
            let widths = self.reals.iter().map(|real| text(real).len());
            widths.max().unwrap_or(0)
        };
        let address_width = width(|real| real.address.to_string());
        let weight_width = width(|real| real.weight.to_string());
        for real in &self.reals {
            write!(
                f,
                "  {:address_width$}  weight {:>weight_width$}  {:6.2} %  ({} slots)",
                real.address.to_string(),
                real.weight,
                real.share,
                real.slots,
            )?;
            for (name, is_set) in [("local", real.local), ("down", real.down)] {
                if is_set {
                    write!(f, "  {name}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
