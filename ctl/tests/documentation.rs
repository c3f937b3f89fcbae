//! docs/operations.md and README.md name what operators meet, and their configurations are valid.

use clap::CommandFactory as _;
use dataplane::{
    counters::DropReason,
    service::{DecapSpec, HashFunction, Protocol, VipFlags, VipKey, VipSpec},
    xsk::{OLDEST_KERNEL, SocketMode},
};
use katran_xsk::{
    admin::command::{COMMANDS, CommandSpec},
    cli::Cli,
    config::{
        AdminConfig, BalancerConfig, Config, EncapsulationKind, HealthCheckPathConfig,
        HealthCheckSpec, InterfaceConfig, PriorityChoice,
    },
};
use xdp_layout::counter::{DecapCounter, HealthCheckCounter, RedirectCounter};

const README: &str = include_str!("../../README.md");
const DRIVERS: &str = include_str!("../../docs/drivers.md");
const FROM_KATRAN: &str = include_str!("../../docs/from-katran.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
const PERFORMANCE: &str = include_str!("../../docs/performance.md");
const REAL_SERVERS: &str = include_str!("../../docs/real-server-setup.md");

/// Contents of the fenced blocks of this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    page.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// First cells of the rows between this heading and the next of any level.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, section) = page
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n#").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(cell, _)| cell)
        .collect()
}

#[test]
fn every_command_is_listed_as_it_is_used() {
    let usages: Vec<String> = COMMANDS.iter().map(CommandSpec::usage).collect();
    assert_eq!(rows(OPERATIONS, "## Admin socket"), usages);
}

#[test]
fn every_flag_has_the_number_that_katran_gives_it() {
    let (_, table) = FROM_KATRAN
        .split_once("\n## Flags\n")
        .expect("a section about flags");
    let rows = table.lines().filter(|line| line.ends_with("` |")).take(10);
    let listed: Vec<(&str, &str)> = rows
        .filter_map(|row| {
            let (number, rest) = row.strip_prefix("| ")?.split_once(" | ")?;
            let (_, name) = rest.strip_suffix("` |")?.rsplit_once('`')?;
            Some((number, name))
        })
        .collect();
    let numbers = VipFlags::NAMES.map(|(_, flag)| flag.bits().to_string());
    let names = VipFlags::NAMES.map(|(name, _)| name);
    let flags: Vec<(&str, &str)> = numbers.iter().map(String::as_str).zip(names).collect();
    assert_eq!(listed, flags);
}

#[test]
fn every_option_of_run_is_listed() {
    let cli = Cli::command();
    let run = cli.find_subcommand("run").expect("a subcommand");
    let listed = rows(OPERATIONS, "## Run");
    for option in run.get_arguments().filter_map(clap::Arg::get_long) {
        let is_row = |row: &&str| row.split(' ').next() == Some(&format!("--{option}"));
        assert_eq!(
            listed.iter().filter(|row| is_row(row)).count(),
            1,
            "--{option}"
        );
    }
}

#[test]
fn every_drop_reason_and_counter_is_explained() {
    let reasons: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(rows(OPERATIONS, "## Drop reasons"), reasons);
    let redirect: Vec<&str> = RedirectCounter::ALL.iter().map(|one| one.name()).collect();
    assert_eq!(rows(OPERATIONS, "## Statistics"), redirect);
    let checks: Vec<&str> = HealthCheckCounter::ALL
        .iter()
        .map(|one| one.name())
        .collect();
    assert_eq!(rows(OPERATIONS, "### Counters of health checks"), checks);
    let decap: Vec<&str> = DecapCounter::ALL.iter().map(|one| one.name()).collect();
    let heading = "### With `katran-xsk decap` (recommended)";
    assert_eq!(rows(REAL_SERVERS, heading), decap);
}

#[test]
fn the_oldest_kernel_is_named() {
    let named = format!("Linux {OLDEST_KERNEL} or later");
    for page in [README, DRIVERS] {
        assert!(page.contains(&named), "{named}");
    }
}

/// A value for every key, none of them the default, so that all are written.
fn every_key() -> Config {
    Config {
        interface: InterfaceConfig {
            name: Some("eth0".into()),
            queues: Some("all".parse().unwrap()),
            mode: SocketMode::Copy,
            next_hop_mac: Some("02:00:00:00:cc:03".parse().unwrap()),
            xdp_mode: "native".parse().unwrap(),
            frames: 8192,
            cpus: Some("0-1".parse().unwrap()),
            priority: PriorityChoice::Normal,
            busy_poll: true,
            spin_us: Some(50),
            huge_pages: true,
        },
        balancer: BalancerConfig {
            hash: HashFunction::MaglevV1,
            encapsulation: EncapsulationKind::Gue,
            gue_port: 9886,
            source_v4: Some("192.0.2.1".parse().unwrap()),
            source_v6: Some("2001:db8::1".parse().unwrap()),
            flow_table_capacity: 1000,
            max_frame: 1500,
            icmp_too_big: true,
            tcp_server_id: true,
            global_table_capacity: 2000,
            connection_rate_cap: 1000,
            keep_last_ring: true,
        },
        admin: AdminConfig {
            socket: "/run/lb.sock".into(),
            mode: 0o600,
        },
        vips: vec![VipSpec {
            key: VipKey::exact("203.0.113.10".parse().unwrap(), 80, Protocol::Tcp),
            hash: HashFunction::MaglevV1,
            flags: VipFlags::LRU_BYPASS,
            reals: Vec::new(),
        }],
        decap: vec![DecapSpec {
            address: "198.18.5.1".parse().unwrap(),
            egress: true,
        }],
        health_check_path: HealthCheckPathConfig {
            interface: Some("hc0".into()),
            max_frame: Some(1480),
        },
        health_checks: vec![HealthCheckSpec {
            mark: 7,
            real: "198.51.100.11".parse().unwrap(),
        }],
        ..Config::default()
    }
}

#[test]
fn every_key_is_explained() {
    let mut section = String::new();
    for line in every_key().to_toml().lines() {
        if line.starts_with('[') {
            section = format!("### `{line}`");
        } else if let Some((key, _)) = line.split_once(" = ") {
            let known = rows(OPERATIONS, &section)
                .iter()
                .any(|cell| cell.split("`, `").any(|name| name == key));
            assert!(known, "no row for {key} below {section}");
        }
    }
}

#[test]
fn every_option_of_bench_is_explained() {
    let mut cli = Cli::command();
    let bench = cli.find_subcommand_mut("bench").unwrap();
    let explained = rows(PERFORMANCE, "## Run it");
    let options: Vec<String> = bench
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|name| *name != "help")
        .map(|name| format!("--{name}"))
        .collect();
    assert!(options.len() > 10);
    for option in &options {
        assert!(explained.contains(&option.as_str()), "{option}");
    }
    // The first row is about the parts.
    assert_eq!(explained.len(), options.len() + 1);
}

#[test]
fn every_flag_is_explained() {
    for (name, _) in VipFlags::NAMES {
        let mut rows = OPERATIONS.lines().filter(|line| line.starts_with("| `"));
        let explained = rows.any(|line| line.contains(&format!("`{name}`")));
        assert!(explained, "no row for {name}");
    }
}

#[test]
fn configurations_in_the_documentation_are_valid() {
    let first = blocks(README, "toml");
    assert_eq!(first.len(), 1);
    let config = Config::parse(first[0], "README.md").unwrap();
    assert_eq!(config.vips.len(), 1);
}

#[test]
fn examples_are_valid() {
    let mut examples = 0;
    for example in blocks(OPERATIONS, "toml") {
        examples += 1;
        Config::parse(example, "operations.md").unwrap();
    }
    assert!(examples > 0);
}
