//! The program as a shell sees it: exit codes, and what goes where.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, Output},
};

use serde_json::Value;

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_katran-xsk"));
    command.env_remove("KATRAN_XSK_LOG");
    command
}

fn katran_xsk(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

/// Runs the program, expects this exit code and returns standard output and standard error.
#[track_caller]
fn run(arguments: &[&str], code: i32) -> (String, String) {
    let output = katran_xsk(arguments);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}\n{stdout}\n{stderr}"
    );
    (stdout, stderr)
}

struct File {
    folder: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lb.toml"), text).unwrap();
        Self { folder }
    }

    fn path(&self) -> String {
        self.folder.path().join("lb.toml").display().to_string()
    }
}

#[test]
fn several_arguments_in_one_pair_of_quotes_are_no_arguments() {
    let arguments = "203.0.113.10:80/tcp real=198.51.100.11";
    let (stdout, stderr) = run(&["ctl", "vip add", arguments], 2);
    assert_eq!(stdout, "");
    assert!(
        stderr.contains(&format!(
            "`{arguments}` is one word, blanks and all: leave the quotes around several arguments out"
        )),
        "{stderr}"
    );
    let (_, stderr) = run(&["ctl", "vip", "add", "203.0.113.10"], 2);
    assert!(!stderr.contains("quotes"), "{stderr}");
}

const VALID: &str = r#"
[interface]
name = "eth0"
queues = "0-3"
next_hop_mac = "02:00:00:00:cc:03"
[balancer]
flow_table_capacity = 1000
source_v4 = "192.0.2.2"
connection_rate_cap = 9000
tcp_server_id = true
keep_last_ring = true
[health_check_path]
max_frame = 1480
[[health_check]]
mark = 7
real = "198.51.100.11"
[[vip]]
address = "203.0.113.10"
port = 80
protocol = "tcp"
flags = ["local-vip"]
reals = [{ address = "198.51.100.11", weight = 3 }, { address = "198.51.100.12", weight = 1, local = true, down = true }]
[[vip]]
address = "2001:db8:a::/96"
port = 0
protocol = "udp"
flags = ["no-src-port", "src-routing"]
[[source_route]]
prefix = "2001:db8:c::/48"
real = "2001:db8:f::1"
[[source_route]]
prefix = "192.0.2.0/24"
real = "198.51.100.12"
[[server_id]]
id = 7
real = "198.51.100.11"
[[server_id]]
id = 8
real = "198.51.100.12"
valid = false
[[decap]]
address = "198.18.5.1"
[[decap]]
address = "2001:db8:5::1"
egress = true
"#;

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["check"],
        &["run", "--queues", "0-"],
        &["run", "--mode", "fast"],
        &["run", "--xdp-mode", "offload"],
        &["run", "--cpus", "1,1"],
        &["replay", "--config", "x"],
        &["decap"],
        &[
            "decap",
            "--iface",
            "lo",
            "--any-destination",
            "--destination",
            "192.0.2.1",
        ],
        &["decap", "--iface", "lo", "--interval", "0"],
    ] {
        let (stdout, stderr) = run(arguments, 2);
        assert_eq!(stdout, "");
        assert!(
            stderr.contains("Usage:") || stderr.contains("--help"),
            "{stderr}"
        );
    }
}

#[test]
fn help_and_version_are_0() {
    let (stdout, _) = run(&["--help"], 0);
    for subcommand in ["run", "check", "replay", "shell", "ctl", "decap", "demo"] {
        assert!(
            stdout.contains(&format!("\n  {subcommand} ")),
            "{subcommand}\n{stdout}"
        );
        run(&[subcommand, "--help"], 0);
    }
    let (stdout, _) = run(&["--version"], 0);
    assert_eq!(
        stdout,
        format!("katran-xsk {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn check_says_what_a_configuration_means() {
    let file = File::new(VALID);
    let (stdout, stderr) = run(&["check", "--config", &file.path()], 0);
    assert_eq!(stderr, "");
    let mut lines = stdout.lines();
    assert_eq!(
        lines.next(),
        Some(format!("{}: valid", file.path()).as_str())
    );
    for line in [
        "interface      eth0, queues 0-3, sockets auto, XDP auto",
        "next hop       02:00:00:00:cc:03",
        "admin socket   /run/katran-xsk.sock",
        "encapsulation  ipip",
        "frames         to 1514 bytes; longer ones are dropped",
        "flows          1000 per worker and address family",
        "decap          198.18.5.1: IPIP, and GUE to port 6080, whose inner packets are balanced",
        "               2001:db8:5::1: IPIP, and GUE to port 6080, whose inner packets are sent out",
        "new flows      stored up to 9000 connection events per second and worker",
        "without reals  packets of a VIP whose weights are all 0 go where its last ring says",
        "server ids     2, 1 of them valid; read from the TCP option of every TCP VIP",
        "vip 203.0.113.10:80/tcp  maglev-v2 local-vip",
        "  198.51.100.11  weight 3   75.00 %  (49153 slots)",
        "  198.51.100.12  weight 1   25.00 %  (16384 slots)  local  down",
        "source routes  2",
        "vip [2001:db8:a::/96]:0/udp  maglev-v2 no-src-port src-routing",
        "health checks  packets with a mark that leave by the interface, to 1480 bytes",
        "  mark 7 to 198.51.100.11, from 192.0.2.2",
        "warning: vip[1] ([2001:db8:a::/96]:0/udp).reals: the VIP has no reals: its packets go where its \
         last ring says, if it had one, and are dropped after a restart; add a real",
    ] {
        assert!(
            stdout.lines().any(|other| other == line),
            "{line}\n{stdout}"
        );
    }
    assert!(stdout.contains("\nmemory         "), "{stdout}");
    assert!(
        stdout.contains(" for 4 workers, each: flow tables "),
        "{stdout}"
    );
}

#[test]
fn check_says_how_workers_would_run() {
    let line = |text: &str| {
        let file = File::new(text);
        let (stdout, _) = run(&["check", "--config", &file.path()], 0);
        let line = stdout.lines().find(|line| line.starts_with("workers "));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(
        line(
            "[interface]\npriority = \"normal\"\ncpus = \"0\"\nbusy_poll = true\nspin_us = 50\n\
             huge_pages = true\n"
        ),
        "workers        priority normal; CPUs 0; busy polling; spinning for 50 µs; frames on \
         huge pages"
    );
    let auto = line("[interface]\nspin_us = 50\n");
    assert!(
        auto.starts_with("workers        priority normal, because spin_us is set; CPUs "),
        "{auto}"
    );
    assert!(
        auto.ends_with(
            ", all that this process may use; no busy polling; spinning for 50 µs; frames on ordinary pages"
        ),
        "{auto}"
    );

    // What `run` would refuse here is no fault of the file.
    let file = File::new("[interface]\nspin_us = 5\ncpus = \"4000\"\n");
    let (stdout, _) = run(&["check", "--config", &file.path()], 0);
    assert!(stdout.contains("; CPUs 4000; "), "{stdout}");
    let warning = "\nwarning: cpu 4000: this process may not run there; name CPUs among ";
    assert!(stdout.contains(warning), "{stdout}");
    let (stdout, _) = run(&["check", "--json", "--config", &file.path()], 0);
    let meaning: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(meaning["datapath"], "xsk");
    assert_eq!(meaning["interface"]["queues"], "all");
    assert_eq!(meaning["workers"]["priority"], "normal");
    assert_eq!(meaning["workers"]["priority_reason"], "spin_us is set");
    assert_eq!(meaning["workers"]["cpus"], "4000");
    assert_eq!(meaning["workers"]["spin_us"], 5);
}

#[test]
fn check_names_everything_that_the_kernel_cannot_do() {
    let file = File::new(VALID);
    let path = file.path();
    let refusals = [
        "interface.queues: 0-3 is a part of the queues, and --datapath kernel serves all of them; leave \
         it out, or use --datapath xsk",
        "balancer.tcp_server_id: --datapath kernel cannot read server ids; use --datapath xsk",
        "decap 198.18.5.1: --datapath kernel cannot take tunnels apart; use --datapath xsk",
        "decap 2001:db8:5::1: --datapath kernel cannot take tunnels apart; use --datapath xsk",
        "vip 203.0.113.10:80/tcp, flag local-vip: --datapath kernel cannot do what it asks for; use \
         --datapath xsk",
        "vip [2001:db8:a::/96]:0/udp, flag src-routing: --datapath kernel cannot do what it asks for; \
         use --datapath xsk",
    ]
    .map(|refusal| format!("{path}: {refusal}\n"));
    let (stdout, stderr) = run(&["check", "--datapath", "kernel", "--config", &path], 1);
    assert_eq!(stdout, "");
    assert_eq!(stderr, format!("{}{path}: 6 problems\n", refusals.concat()));
    // `run` as well, before it needs anything of the interface.
    let own = [
        "run",
        "--iface",
        "lo",
        "--datapath",
        "kernel",
        "--config",
        &path,
    ];
    let (_, stderr) = run(&own, 1);
    assert_eq!(stderr, format!("katran-xsk: {}", refusals.concat()));
    let (stdout, _) = run(
        &["check", "--json", "--datapath", "kernel", "--config", &path],
        1,
    );
    let findings: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(findings["problems"].as_array().unwrap().len(), 6);

    let file = File::new("[interface]\nspin_us = 5\n[balancer]\nflow_table_capacity = 1000\n");
    let path = file.path();
    let (stdout, _) = run(&["check", "--datapath", "kernel", "--config", &path], 0);
    for line in [
        "interface      to be given with --iface, queues all, no sockets, XDP auto",
        "datapath       kernel: no workers",
        "warning: interface: spin_us is for workers, and --datapath kernel has none: it does nothing; \
         leave it out",
    ] {
        assert!(
            stdout.lines().any(|other| other == line),
            "{line}\n{stdout}"
        );
    }
    assert!(stdout.contains(": flow tables of all CPUs "), "{stdout}");
}

#[test]
fn check_in_json_is_for_programs() {
    let file = File::new(VALID);
    let (stdout, _) = run(&["check", "--json", "--config", &file.path()], 0);
    let meaning: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(meaning["valid"], true);
    assert_eq!(meaning["interface"]["queues"], "0-3");
    assert_eq!(meaning["memory"]["workers"], 4);
    assert_eq!(meaning["source_routes"], 2);
    assert!(meaning["memory"]["source_routes"].as_u64() > Some(0));
    assert_eq!(meaning["decap"]["destinations"][1]["egress"], true);
    assert_eq!(meaning["vips"][0]["vip"], "203.0.113.10:80/tcp");
    let reals = meaning["vips"][0]["reals"].as_array().unwrap();
    let slots: u64 = reals
        .iter()
        .map(|real| real["slots"].as_u64().unwrap())
        .sum();
    assert_eq!(slots, 65_537);
    assert_eq!(meaning["warnings"].as_array().unwrap().len(), 2);
    assert_eq!(reals[1]["local"], true);
    assert_eq!(reals[1]["down"], true);
    assert_eq!(meaning["balancer"]["connection_rate_cap"], 9000);
    assert_eq!(meaning["balancer"]["tcp_server_id"], true);
    assert_eq!(meaning["balancer"]["keep_last_ring"], true);
    assert_eq!(meaning["server_ids"]["total"], 2);
    assert_eq!(meaning["server_ids"]["valid"], 1);
    let checks = &meaning["health_checks"];
    assert_eq!(checks["max_frame"], 1480);
    assert_eq!(checks["marks"][0]["mark"], 7);
    assert_eq!(checks["marks"][0]["real"], "198.51.100.11");
    assert_eq!(checks["marks"][0]["source"], "192.0.2.2");

    let file = File::new("[interface]\nname = 1\n");
    let (stdout, stderr) = run(&["check", "--json", "--config", &file.path()], 1);
    assert_eq!(stderr, "");
    let findings: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(findings["valid"], false);
    assert_eq!(findings["problems"][0]["line"], 2);
    assert_eq!(findings["problems"][0]["field"], "interface.name");
}

#[test]
fn a_reader_that_has_gone_is_no_error_to_speak_of() {
    let file = File::new(VALID);
    for options in [&[][..], &["--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut check = command();
        check
            .args(["check", "--config", &file.path()])
            .args(options);
        let output = check.stdout(writer).output().unwrap();
        // As of a program that SIGPIPE ends.
        assert_eq!(output.status.code(), Some(141), "{options:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{options:?}");
    }
}

#[test]
fn output_that_has_no_room_is_an_error() {
    let file = File::new(VALID);
    let full = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for options in [&[][..], &["--json"]] {
        let mut check = command();
        check
            .args(["check", "--config", &file.path()])
            .args(options);
        let output = check.stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{options:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "katran-xsk: standard output cannot be written to: No space left on device (os error 28)\n"
        );
    }
    // There is nobody to tell.
    let mut check = command();
    check.args(["check", "--config", "/nonexistent/lb.toml"]);
    assert_eq!(check.stderr(full()).status().unwrap().code(), Some(1));
}

#[test]
fn a_log_filter_must_be_one() {
    let file = File::new(VALID);
    let with = |filter: &str| {
        let mut check = command();
        check.args(["check", "--config", &file.path()]);
        check.env("KATRAN_XSK_LOG", filter).output().unwrap()
    };
    for filter in ["katran_xsk=debgu", "debgu", "warn,dataplane=loud"] {
        let output = with(filter);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{filter}: {stderr}");
        assert!(
            stderr.starts_with(&format!(
                "katran-xsk: KATRAN_XSK_LOG: \"{filter}\" is not a log filter: "
            )),
            "{stderr}"
        );
        assert!(stderr.contains("katran_xsk=debug"), "{stderr}");
    }
    for filter in ["", "katran_xsk=debug", "warn,dataplane=trace"] {
        assert_eq!(with(filter).status.code(), Some(0), "{filter}");
    }
}

#[test]
fn check_fails_with_every_problem() {
    let file = File::new("[interface]\nname = 1\n[balancer]\nhash = 2\n");
    let path = file.path();
    let (stdout, stderr) = run(&["check", "--config", &path], 1);
    assert_eq!(stdout, "");
    assert_eq!(
        stderr,
        format!(
            "{path}:2: interface.name: 1 is a whole number; give a string as in \"eth0\"\n{path}:4: \
             balancer.hash: 2 is a whole number; give \"maglev-v1\" or \"maglev-v2\"\n{path}: 2 \
             problems\n"
        )
    );
    let (_, stderr) = run(&["check", "--config", "/nonexistent/lb.toml"], 1);
    assert!(
        stderr.starts_with("/nonexistent/lb.toml: cannot be read: No such file or directory"),
        "{stderr}"
    );
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary");
    fs::write(&binary, b"[interface]\nname = \"\xff\"\n").unwrap();
    let (_, stderr) = run(&["check", "--config", &binary.display().to_string()], 1);
    assert!(stderr.contains("binary:2: is not UTF-8 text; "), "{stderr}");
}

#[test]
fn run_refuses_what_cannot_work() {
    let (stdout, stderr) = run(&["run"], 1);
    assert_eq!(stdout, "");
    assert_eq!(
        stderr,
        "katran-xsk: interface: none is named; give --iface NAME, or name = \"NAME\" in [interface] \
         of the configuration\n"
    );
    let (_, stderr) = run(&["run", "--iface", "no-such-if", "--queues", "0"], 1);
    assert!(
        stderr.starts_with("katran-xsk: interface no-such-if: there is none of that name"),
        "{stderr}"
    );
    let (_, stderr) = run(&["run", "--iface", "lo", "--queues", "0-3"], 1);
    assert!(
        stderr.starts_with("katran-xsk: queue 1: interface lo has 1 RX queue, number 0; "),
        "{stderr}"
    );
    let (_, stderr) = run(
        &["run", "--iface", "lo", "--queues", "0", "--cpus", "4000"],
        1,
    );
    assert!(
        stderr.starts_with("katran-xsk: cpu 4000: this process may not run there; "),
        "{stderr}"
    );
    let file = File::new("[balancer]\nhash = 2\n");
    let (_, stderr) = run(&["run", "--iface", "lo", "--config", &file.path()], 1);
    assert!(
        stderr.starts_with(&format!("katran-xsk: {}:2: ", file.path())),
        "{stderr}"
    );
}

#[test]
fn run_needs_privileges() {
    // Where nobody may start it, which the build's folder need not allow. A process of its own
    // copies: a descriptor open for writing here could be held by another test's child, and the copy
    // would be busy.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("katran-xsk");
    let mut cp = Command::new("cp");
    let copied = cp.arg(env!("CARGO_BIN_EXE_katran-xsk")).arg(&copy).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(&copy);
    command.env_remove("KATRAN_XSK_LOG");
    // Whoever has the privileges all the same is stopped by the loopback's lack of zero-copy.
    command.args([
        "run",
        "--iface",
        "lo",
        "--queues",
        "0",
        "--mode",
        "zero-copy",
    ]);
    if nix::unistd::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(
        stderr,
        "katran-xsk: not permitted: CAP_NET_ADMIN and CAP_NET_RAW and CAP_BPF are missing; run as \
         root, or give the program these capabilities\n"
    );
}

#[test]
fn decap_needs_an_interface() {
    let (_, stderr) = run(&["decap", "--iface", "no-such-if"], 1);
    assert!(stderr.starts_with("katran-xsk: "), "{stderr}");
}

#[test]
fn bench_writes_rows_tables_and_charts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (json, markdown, svg) = (path("rows.json"), path("page.md"), path("charts"));
    fs::write(
        &markdown,
        "# Mine\n<!-- figures: begin -->\nold\n<!-- figures: end -->\n",
    )
    .unwrap();
    let (stdout, _) = run(
        &[
            "bench",
            "decision",
            "--quick",
            "--tolerate-load",
            "--datapath",
            "xsk",
            "--family",
            "ipv4",
            "--case",
            "hit,new",
            "--flows",
            "100",
            "--repetitions",
            "1",
            "--json",
            &json,
            "--markdown",
            &markdown,
            "--svg",
            &svg,
        ],
        0,
    );
    assert!(stdout.contains("| IPv4 new | 100 |"), "{stdout}");
    let rows: Vec<Value> = fs::read_to_string(&json)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["bench"], "machine");
    for (row, case) in rows[1..].iter().zip(["hit", "new"]) {
        assert_eq!(row["bench"], "decision");
        assert_eq!(
            (
                &row["datapath"],
                &row["family"],
                &row["case"],
                &row["flows"]
            ),
            (&"xsk".into(), &"ipv4".into(), &case.into(), &100.into())
        );
        let ns = &row["ns_per_packet"];
        for value in ["median", "min", "max"] {
            assert!(ns[value].as_f64().unwrap() > 0.0, "{row}");
        }
    }
    let page = fs::read_to_string(&markdown).unwrap();
    assert!(
        page.starts_with("# Mine\n") && !page.contains("old"),
        "{page}"
    );
    assert!(page.contains("](charts/decision-ipv4.svg)"), "{page}");
    assert!(folder.path().join("charts/decision-ipv4.svg").is_file());
}

#[test]
fn bench_refuses_what_it_cannot_measure() {
    for arguments in [
        ["bench", "--burst", "65"],
        ["bench", "--flows", "0"],
        ["bench", "--layout", "diagonal"],
        ["bench", "--queues", "9"],
        ["bench", "--repetitions", "0"],
    ] {
        let (_, stderr) = run(&arguments, 2);
        assert!(stderr.contains(arguments[2]), "{stderr}");
    }
}
