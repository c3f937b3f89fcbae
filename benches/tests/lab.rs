//! The lab without a balancer: routes, settings and what remains of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use benches::lab::{Lab, LabOptions, Process, TUNNEL_MTU, cpu_time, plan, requirements};
use nix::sys::signal::Signal;

const PORT: u16 = 8080;
const DEADLINE: Duration = Duration::from_secs(20);

/// In the environment of a child of this test binary: build a lab and wait to be killed.
const CHILD_VARIABLE: &str = "KATRAN_XSK_LAB_CHILD";

fn connects(lab: &Lab, target: IpAddr) -> Result<()> {
    lab.client(0)
        .run(|| TcpStream::connect_timeout(&(target, PORT).into(), DEADLINE).map(drop))??;
    Ok(())
}

#[test]
fn clients_reach_reals_and_balancer() -> Result<()> {
    if !requirements::met_or_skip("clients_reach_reals_and_balancer", &[]) {
        return Ok(());
    }
    let lab = Lab::new(LabOptions {
        clients: 2,
        reals: 2,
        queues: 3,
        ipv6: true,
        ..LabOptions::default()
    })?;
    for namespace in [lab.real(0), lab.real(1), lab.balancer()] {
        let listener = namespace.run(|| TcpListener::bind(("::", PORT)))??;
        thread::spawn(move || for _ in listener.incoming() {});
    }
    connects(&lab, plan::real_v4(0).into())?;
    connects(&lab, plan::real_v4(1).into())?;
    connects(&lab, plan::real_v6(0).into())?;
    connects(&lab, plan::real_v6(1).into())?;
    connects(&lab, plan::BALANCER_V4.into())?;
    connects(&lab, plan::BALANCER_V6.into())?;

    let link = lab.balancer_links().link(plan::BALANCER_INTERFACE)?;
    assert_eq!(link.mtu, TUNNEL_MTU);
    assert!(!link.xdp);
    Ok(())
}

#[test]
fn a_lab_without_ipv6_has_only_ipv4() -> Result<()> {
    if !requirements::met_or_skip("a_lab_without_ipv6_has_only_ipv4", &[]) {
        return Ok(());
    }
    let lab = Lab::new(LabOptions {
        reals: 1,
        ipv6: false,
        ..LabOptions::default()
    })?;
    let listener = lab.real(0).run(|| TcpListener::bind(("0.0.0.0", PORT)))??;
    connects(&lab, plan::real_v4(0).into())?;
    assert!(connects(&lab, plan::real_v6(0).into()).is_err());
    drop(listener);
    Ok(())
}

#[test]
fn impossible_shapes_are_refused() {
    for (options, word) in [
        (
            LabOptions {
                clients: 0,
                ..LabOptions::default()
            },
            "clients",
        ),
        (
            LabOptions {
                reals: 65,
                ..LabOptions::default()
            },
            "reals",
        ),
        (
            LabOptions {
                queues: 9,
                ..LabOptions::default()
            },
            "queues",
        ),
    ] {
        let error = Lab::new(options).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains(word)), "{word}");
    }
}

#[test]
fn processes_run_inside_and_files_are_reachable() -> Result<()> {
    if !requirements::met_or_skip("processes_run_inside_and_files_are_reachable", &[]) {
        return Ok(());
    }
    let lab = Lab::new(LabOptions {
        reals: 0,
        ..LabOptions::default()
    })?;
    let output = lab
        .balancer()
        .command("readlink")
        .arg("/proc/self/ns/net")
        .output()?;
    assert_eq!(
        String::from_utf8(output.stdout)?.trim(),
        format!("net:[{}]", lab.balancer().inode()?)
    );

    let path = lab.scratch().write("hello", "world")?;
    let output = lab.client(0).command("cat").arg(&path).output()?;
    assert_eq!(output.stdout, b"world");
    let _socket = UnixListener::bind(lab.scratch().file("socket"))?;
    Ok(())
}

#[test]
fn a_dropped_process_is_gone() -> Result<()> {
    let mut command = Command::new("sleep");
    command.arg("1000");
    let process = Process::spawn(command)?;
    let path = format!("/proc/{}", process.id());
    assert!(fs::exists(&path)?);
    drop(process);
    assert!(!fs::exists(&path)?);

    let mut command = Command::new("sleep");
    command.arg("1000");
    let mut process = Process::spawn(command)?;
    assert!(!process.terminate(DEADLINE)?.success());
    assert!(process.try_wait()?.is_some());
    Ok(())
}

/// Not a test of its own: what [`nothing_remains_after_sigkill`] starts and kills.
#[test]
fn child_with_a_lab() -> Result<()> {
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        return Ok(());
    }
    let lab = Lab::new(LabOptions::default())?;
    let mut processes = Vec::new();
    for namespace in [lab.client(0), lab.router(), lab.balancer(), lab.real(0)] {
        let mut command = namespace.command("sleep");
        command.arg("1000");
        let process = Process::spawn(command)?;
        println!("process {}", process.id());
        println!("namespace {}", namespace.inode()?);
        processes.push(process);
    }
    lab.scratch().write("file", "contents")?;
    println!("ready");
    loop {
        thread::park();
    }
}

#[test]
fn nothing_remains_after_sigkill() -> Result<()> {
    if !requirements::met_or_skip("nothing_remains_after_sigkill", &[]) {
        return Ok(());
    }
    let mounts_before = mounts()?;

    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--exact", "child_with_a_lab", "--nocapture"])
        .env(CHILD_VARIABLE, "1")
        .stdout(Stdio::piped());
    let mut child = Process::spawn(command)?;
    let stdout = child.child_mut().stdout.take().expect("stdout is piped");
    let mut processes = Vec::new();
    let mut namespaces = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("process", id)) => processes.push(id.to_owned()),
            Some(("namespace", inode)) => namespaces.push(format!("net:[{inode}]")),
            _ if line == "ready" => break,
            _ => {}
        }
    }
    assert_eq!((processes.len(), namespaces.len()), (4, 4));
    assert!(namespaces.iter().all(|namespace| in_use(namespace)));

    child.signal(Signal::SIGKILL)?;
    child.wait(DEADLINE)?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left: Vec<&String> = processes
            .iter()
            .filter(|id| fs::exists(format!("/proc/{id}")).unwrap_or(true))
            .chain(namespaces.iter().filter(|namespace| in_use(namespace)))
            .collect();
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still there: {left:?}");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(mounts()?.is_subset(&mounts_before));
    let interfaces = interfaces()?;
    for name in [
        "client0",
        "router",
        "balancer",
        "real0",
        plan::UPLINK,
        plan::BALANCER_INTERFACE,
    ] {
        assert!(
            !interfaces.contains(name),
            "{name} is left in the caller's namespace"
        );
    }
    Ok(())
}

fn interfaces() -> Result<BTreeSet<String>> {
    Ok(fs::read_dir("/sys/class/net")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, std::io::Error>>()?)
}

/// The mounts of the kind that the lab uses; others may come and go at any time.
fn mounts() -> Result<BTreeSet<String>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .filter(|line| line.contains(" - tmpfs "))
        .map(str::to_owned)
        .collect())
}

/// Whether any process is in the namespace or holds a descriptor of it. A namespace that nobody
/// refers to is taken down by the kernel together with its interfaces.
fn in_use(namespace: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return true;
    };
    processes
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
        .any(|entry| {
            let descriptors = fs::read_dir(entry.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten()
                .map(|descriptor| descriptor.path());
            descriptors
                .chain([entry.path().join("ns/net")])
                .any(|path| fs::read_link(path).is_ok_and(|link| link.as_os_str() == namespace))
        })
}

#[test]
fn cpu_time_grows_with_work() -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    let process = Process::spawn(command)?;
    let before = cpu_time(process.id())?;
    let deadline = Instant::now() + DEADLINE;
    while cpu_time(process.id())? < before + Duration::from_millis(50) {
        assert!(Instant::now() < deadline, "a busy loop uses no time");
    }
    Ok(())
}
