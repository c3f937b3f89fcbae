//! As many VIPs and reals as there can be.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

use dataplane::service::VipKey;
use katran_xsk::control::{lock, reload};

use crate::rig::Rig;

const VIPS: u32 = 512;
const REALS_OF_VIP: u32 = 100;
/// What the issue allows for a file of this size.
const ALLOWED: Duration = Duration::from_secs(2);

const ATTEMPTS: usize = 5;

/// What `work` gives, and the processor's time that it takes of this thread: what others take meanwhile
/// does not count.
fn cpu_time<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock"));
    let before = now();
    let result = work();
    (result, now().saturating_sub(before))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A configuration with this many VIPs of 100 reals each. The reals of neighbours overlap, and all
/// VIPs together have as many as can be numbered. VIP 0 is the same, however many there are.
fn configuration(vips: u32) -> String {
    let mut text = "[interface]\nname = \"test0\"\nqueues = \"0\"\n\
                    next_hop_mac = \"02:00:00:00:cc:03\"\n\n\
                    [balancer]\nflow_table_capacity = 1000\n"
        .to_owned();
    for vip in 0..vips {
        let _ = write!(
            text,
            "\n[[vip]]\naddress = \"10.9.{}.{}\"\nport = 80\nprotocol = \"tcp\"\nreals = [\n",
            vip / 256,
            vip % 256
        );
        for real in 0..REALS_OF_VIP {
            let number = (vip * 7 + real) % 4_095;
            let weight = 1 + (vip + real) % 5;
            let _ = writeln!(
                text,
                "    {{ address = \"10.8.{}.{}\", weight = {weight} }},",
                number / 256,
                number % 256
            );
        }
        text.push_str("]\n");
    }
    text
}

#[test]
fn the_largest_configuration_applies_in_time_and_disturbs_no_packet() {
    let rig = Arc::new(Rig::with_config(&configuration(1), 1));
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (rig, stop) = (Arc::clone(&rig), Arc::clone(&stop));
        thread::spawn(move || {
            let mut sent = 0_u64;
            let mut real = None;
            while !stop.load(Ordering::Acquire) {
                let now = rig.real_of(0, "192.0.2.1:4000", "10.9.0.0:80");
                assert!(now.is_some(), "packet {sent} did not leave");
                assert_eq!(*real.get_or_insert(now), now, "packet {sent} moved");
                sent += 1;
            }
            sent
        })
    };
    let mut times = Vec::new();
    for _ in 0..ATTEMPTS {
        for vips in [VIPS, 1] {
            rig.write_file(configuration(vips));
            let (changes, took) = cpu_time(|| reload(&rig.control));
            let changes = changes.expect("a valid file");
            if vips == VIPS {
                assert_eq!(changes.vips_added.count, VIPS as usize - 1);
                println!("{VIPS} VIPs with {REALS_OF_VIP} reals each applied in {took:?}");
                times.push(took);
            } else {
                assert_eq!(changes.vips_removed.count, VIPS as usize - 1);
            }
        }
    }
    stop.store(true, Ordering::Release);
    let sent = traffic.join().expect("no packet was disturbed");
    let counters = rig.handles[0].counters();
    assert_eq!(counters.transmitted.packets.get(), sent);
    let median = median(times);
    assert!(median < ALLOWED, "{median:?}");
}

#[test]
fn a_weight_among_the_most_vips_changes_one_ring() {
    let rig = Rig::with_config(&configuration(VIPS), 1);
    let table = || lock(&rig.control).view().table;
    let key: VipKey = table().vips().nth(300).expect("a VIP").key;
    let mut times = Vec::new();
    for weight in 10..20 {
        let before = table();
        let real = lock(&rig.control).config().vips[300].reals[0].address;
        let (changed, took) = cpu_time(|| lock(&rig.control).set_weight(&key, &real, weight));
        times.push(took);
        assert_eq!(changed.expect("a real").reals_changed.count, 1);
        let after = table();
        for (old, new) in before.vips().zip(after.vips()) {
            assert_eq!(old.key, new.key);
            assert_eq!(
                Arc::ptr_eq(&old.ring, &new.ring),
                old.key != key,
                "{}",
                old.key
            );
        }
    }
    let median = median(times);
    println!("one weight among {VIPS} VIPs changed in {median:?}");
    assert!(median < ALLOWED / 10, "{median:?}");
}
