//! What the tests share.

use std::net::IpAddr;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::balancer::{Balancer, Launch, Vip, configuration};
use benches::lab::{Lab, Namespace, plan, requirements};
use benches::traffic::{Plan, Server};

/// Port of the servers that check what they get.
pub(crate) const PORT: u16 = 7000;
/// Longest time for one exchange, on the slowest machine.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

/// Time between two looks at what is awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Room in the flow tables.
pub(crate) const FLOWS: usize = 20_000;

/// The program under test.
pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_katran-xsk")
}

/// Runs a test only where it can run.
macro_rules! require {
    ($test:ident $(, $program:literal)*) => {
        if !benches::lab::requirements::met_or_skip(stringify!($test), &[$($program),*]) {
            return Ok(());
        }
    };
}
pub(crate) use require;

/// Both families.
pub(crate) const FAMILIES: [bool; 2] = [false, true];

/// Address of VIP `i`.
pub(crate) fn vip_address(i: u8, v6: bool) -> IpAddr {
    if v6 {
        plan::vip_v6(i).into()
    } else {
        plan::vip_v4(i).into()
    }
}

/// Address of real `i`.
pub(crate) fn real_address(i: u8, v6: bool) -> IpAddr {
    if v6 {
        plan::real_v6(i).into()
    } else {
        plan::real_v4(i).into()
    }
}

/// VIP `i` on `port`, with all of `reals` at weight 1.
pub(crate) fn vip(
    i: u8,
    v6: bool,
    port: u16,
    protocol: &'static str,
    reals: impl IntoIterator<Item = u8>,
) -> Vip {
    Vip {
        address: vip_address(i, v6),
        port,
        protocol,
        reals: reals
            .into_iter()
            .map(|real| (real_address(real, v6), 1))
            .collect(),
    }
}

/// How to start the balancer with these VIPs on all queues.
pub(crate) fn launch(lab: &Lab, vips: &[Vip]) -> Result<Launch> {
    let config = lab.scratch().write("lb.toml", configuration(vips, FLOWS))?;
    Ok(Launch::new(binary(), config))
}

/// Starts it.
pub(crate) fn start(lab: &Lab, vips: &[Vip]) -> Result<Balancer> {
    launch(lab, vips)?.start(lab)
}

/// A server on each of `reals`, on the first VIP of both families; its number is the real's.
pub(crate) fn servers(lab: &Lab, reals: impl IntoIterator<Item = u8>) -> Result<Vec<Server>> {
    let addresses = FAMILIES.map(|v6| vip_address(0, v6));
    reals
        .into_iter()
        .map(|real| Server::start(lab.real(real), real.into(), &addresses, PORT))
        .collect()
}

/// Exchanges with a VIP.
pub(crate) fn exchanges(vip: &Vip, count: usize, payload: usize) -> Plan {
    Plan {
        target: (vip.address, vip.port).into(),
        count,
        concurrency: 50,
        payload,
        timeout: TIMEOUT,
    }
}

/// A program in a namespace, once it is known to be installed.
pub(crate) fn program(namespace: &Namespace, name: &str) -> Result<std::process::Command> {
    let path =
        requirements::find_program(name).with_context(|| format!("{name} is not installed"))?;
    let mut command = namespace.command(path);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Runs a command to its end; an error unless it succeeds.
pub(crate) fn output(command: &mut std::process::Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Every frame is accounted for and none was dropped.
pub(crate) fn assert_nothing_dropped(balancer: &Balancer) -> Result<()> {
    let frames = balancer.stats()?.frames;
    ensure!(frames.add_up(), "the counters do not add up: {frames:?}");
    ensure!(
        frames.dropped == 0,
        "packets were dropped: {frames:?} {}",
        balancer.ctl(["show", "drops"])?
    );
    Ok(())
}

/// Waits until `done` says so, for `longest` at most.
pub(crate) fn wait_until(
    what: &str,
    longest: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + longest;
    while !done()? {
        ensure!(Instant::now() < deadline, "not within {longest:?}: {what}");
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// A counter of all workers together, by its name in `show stats`.
pub(crate) fn stat(balancer: &Balancer, name: &str) -> Result<u64> {
    let stats = balancer.ctl(["show", "stats"])?;
    stats["counters"][name]
        .as_u64()
        .with_context(|| format!("no counter {name} in {stats}"))
}
