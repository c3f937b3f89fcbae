//! Paths that carry less than the ends believe: what the balancer announces itself, and what routers
//! say about packets of the reals.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::balancer::{Balancer, configuration};
use benches::lab::{CLIENT_MTU, Lab, LabOptions, plan};
use nix::sys::signal::Signal;

use super::conversation::Conversation;
use super::support::{
    FAMILIES, FLOWS, PORT, TIMEOUT, assert_nothing_dropped, launch, output, program, real_address,
    require, servers, start, stat, vip, wait_until,
};

/// MTU of the path in these tests.
const PATH_MTU: u32 = 1380;
/// The `max_frame` that belongs to it.
const MAX_FRAME: u32 = PATH_MTU + 14;
const REALS: u8 = 3;
/// Payload of many segments.
const LARGE: usize = 1 << 20;

/// Headers of a segment without options.
fn headers(v6: bool) -> u32 {
    if v6 { 60 } else { 40 }
}

#[test]
fn too_big_lowers_the_segment_size_and_the_transfer_ends() -> Result<()> {
    require!(too_big_lowers_the_segment_size_and_the_transfer_ends);
    let lab = Lab::new(LabOptions {
        reals: REALS,
        ..LabOptions::default()
    })?;
    let _servers = servers(&lab, 0..REALS)?;
    let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 0..REALS));
    let launch = launch(&lab, &vips)?;
    let file = launch.config.clone().context("there is a file")?;
    let write = |too_big: bool| {
        let limits = format!("[balancer]\nmax_frame = {MAX_FRAME}\nicmp_too_big = {too_big}\n");
        fs::write(
            &file,
            configuration(&vips, FLOWS).replacen("[balancer]\n", &limits, 1),
        )
    };
    write(false)?;
    let balancer = launch.start(&lab)?;

    let mut stuck = Vec::new();
    for (vip, v6) in vips.iter().zip(FAMILIES) {
        let target = (vip.address, vip.port).into();
        let mut conversation = Conversation::open(lab.client(0), target)?;
        conversation.ask(100)?;
        let before = conversation.segment_size()?;
        ensure!(
            before + headers(v6) > PATH_MTU && before + headers(v6) <= CLIENT_MTU,
            "{before} bytes a segment at first"
        );
        stuck.push(thread::spawn(move || -> Result<_> {
            conversation.ask(LARGE)?;
            Ok(conversation)
        }));
    }
    // Nothing tells the clients why their segments are lost.
    thread::sleep(Duration::from_secs(1));
    ensure!(
        stuck.iter().all(|transfer| !transfer.is_finished()),
        "a transfer ended whose segments are longer than max_frame"
    );
    for name in ["too-big-v4", "too-big-v6"] {
        assert_eq!(stat(&balancer, name)?, 0, "{name}");
    }

    write(true)?;
    balancer.signal(Signal::SIGHUP)?;
    for (transfer, v6) in stuck.into_iter().zip(FAMILIES) {
        let conversation = transfer.join().expect("no panic")?;
        let after = conversation.segment_size()?;
        // What is left of the announced MTU, less at most 40 bytes of TCP options.
        let most = PATH_MTU - headers(v6);
        ensure!(
            (most - 40..=most).contains(&after),
            "{after} bytes a segment after the ICMP message"
        );
    }
    for name in ["too-big-v4", "too-big-v6"] {
        ensure!(stat(&balancer, name)? > 0, "{name}: none");
    }
    // The kernel remembers: a new connection begins with the smaller size.
    for (vip, v6) in vips.iter().zip(FAMILIES) {
        let target = (vip.address, vip.port).into();
        let mut conversation = Conversation::open(lab.client(0), target)?;
        conversation.ask(LARGE)?;
        ensure!(conversation.segment_size()? <= PATH_MTU - headers(v6));
    }
    Ok(())
}

/// How many ICMP messages about too long packets each real's kernel has taken.
pub(crate) fn too_big_messages(lab: &Lab, v6: bool) -> Result<Vec<u64>> {
    (0..REALS)
        .map(|real| {
            lab.real(real).run(|| -> Result<u64> {
                if v6 {
                    let text = fs::read_to_string("/proc/thread-self/net/snmp6")?;
                    return number_after(&text, "Icmp6InPktTooBigs");
                }
                // A line of names and a line of numbers.
                let text = fs::read_to_string("/proc/thread-self/net/snmp")?;
                let mut lines = text.lines().filter(|line| line.starts_with("Icmp: "));
                let names = lines.next().unwrap_or_default().split_whitespace();
                let numbers = lines.next().unwrap_or_default().split_whitespace();
                let (_, number) = names
                    .zip(numbers)
                    .find(|(name, _)| *name == "InDestUnreachs")
                    .context("no InDestUnreachs")?;
                Ok(number.parse()?)
            })?
        })
        .collect()
}

fn number_after(text: &str, name: &str) -> Result<u64> {
    let mut words = text.split_whitespace().skip_while(|word| *word != name);
    let number = words.nth(1).with_context(|| format!("no {name}"))?;
    Ok(number.parse()?)
}

/// Gives all new flows of a VIP to another real than `real`.
pub(crate) fn turn_away(
    balancer: &Balancer,
    vip: &benches::balancer::Vip,
    real: u8,
    v6: bool,
) -> Result<()> {
    for other in 0..REALS {
        balancer.set_weight(vip, real_address(other, v6), u32::from(other != real))?;
    }
    Ok(())
}

/// Lets a router complain about what each real sends. With `other_ring` the ring would by then give the
/// flow to another real.
fn complain(queues: u32, other_ring: bool) -> Result<()> {
    let lab = Lab::new(LabOptions {
        reals: REALS,
        queues,
        ..LabOptions::default()
    })?;
    let _servers = servers(&lab, 0..REALS)?;
    let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 0..REALS));
    let balancer = start(&lab, &vips)?;
    // The router may send less to the client than the client to the router.
    let client = lab.client(0).name();
    for network in [
        format!("{}/32", plan::client_v4(0)),
        format!("{}/128", plan::client_v6(0)),
    ] {
        let route = format!("route replace {network} dev {client} mtu lock {PATH_MTU}");
        output(program(lab.router(), "ip")?.args(route.split(' ')))?;
    }

    for (vip, v6) in vips.iter().zip(FAMILIES) {
        let target = (vip.address, vip.port).into();
        for real in 0..REALS {
            if other_ring {
                turn_away(&balancer, vip, (real + 1) % REALS, v6)?;
            }
            let mut conversation = loop {
                let mut conversation = Conversation::open(lab.client(0), target)?;
                if conversation.ask(100)? == u16::from(real) {
                    break conversation;
                }
            };
            if other_ring {
                turn_away(&balancer, vip, real, v6)?;
            }
            let before = too_big_messages(&lab, v6)?;
            assert_eq!(before[usize::from(real)], 0, "{before:?}");
            // The answer does not fit the router's link until the message has come.
            assert_eq!(conversation.ask(LARGE)?, u16::from(real));
            let after = too_big_messages(&lab, v6)?;
            for (other, (before, after)) in (0..REALS).zip(before.iter().zip(&after)) {
                ensure!(
                    (other == real) == (after > before),
                    "real {real}'s message: {other} had {before} before, {after} after"
                );
            }
        }
        let name = if v6 { "ptb-v6" } else { "ptb-v4" };
        let messages: u64 = too_big_messages(&lab, v6)?.iter().sum();
        wait_until("every message is counted", TIMEOUT, || {
            Ok(stat(&balancer, name)? == messages)
        })?;
    }
    assert_nothing_dropped(&balancer)
}

#[test]
fn a_routers_message_reaches_the_real_of_its_flow_and_no_other() -> Result<()> {
    require!(
        a_routers_message_reaches_the_real_of_its_flow_and_no_other,
        "ip"
    );
    // The message may come by another queue than the flow: every worker has the same ring.
    complain(4, false)
}

#[test]
fn a_routers_message_follows_the_flow_table() -> Result<()> {
    require!(a_routers_message_follows_the_flow_table, "ip");
    // One queue: the table that knows the flow is that of the worker which gets the message.
    complain(1, true)
}
