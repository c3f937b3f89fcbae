//! Many starts and stops: nothing is left of any of them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xdp_redirect::loaded;

use super::super::observe::stop;
use super::super::scenario::Scenario;
use super::super::site::Site;
use super::super::surroundings::Surroundings;
use super::{Outcome, PATIENCE};

/// Memory that may be lost in all starts together: the kernel's own needs grow by some KiB with each.
const MEMORY_NOISE: u64 = 2 << 20;
/// Open files that may be more: the kernel counts them for each processor and adds up now and then.
const FILES_NOISE: u64 = 16;
/// Bytes of a page: the machines are `x86_64`.
const PAGE: u64 = 4096;
/// How long the numbers stay the same before they count.
const QUIET: Duration = Duration::from_secs(5);

/// What a machine has of what programs like ours take.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    programs: usize,
    maps: usize,
    /// Open files of the whole machine.
    files: u64,
    /// Sockets in the balancer's namespace.
    sockets: u64,
    /// Bytes that nobody uses.
    memory: u64,
}

impl Holdings {
    fn look(site: &Site) -> Result<Self> {
        let (programs, maps) = loaded()?;
        // Caches would be memory that is missing.
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        let sockstat = site
            .lab()
            .balancer()
            .run(|| fs::read_to_string("/proc/thread-self/net/sockstat"))??;
        Ok(Self {
            programs,
            maps,
            files: number(&fs::read_to_string("/proc/sys/fs/file-nr")?, "")?,
            sockets: number(&sockstat, "sockets: used")?,
            memory: unused_pages(&fs::read_to_string("/proc/zoneinfo")?)? * PAGE,
        })
    }

    /// Looks until nothing has changed in number for a while: the kernel frees programs and maps some
    /// time after their owner has gone.
    fn settled(site: &Site) -> Result<Self> {
        let numbers = |holdings: &Self| (holdings.programs, holdings.maps, holdings.sockets);
        let deadline = Instant::now() + PATIENCE;
        let mut known = Self::look(site)?;
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            ensure!(
                Instant::now() < deadline,
                "eBPF programs, maps and sockets come and go: {known:?}"
            );
            thread::sleep(Duration::from_millis(200));
            let now = Self::look(site)?;
            if numbers(&now) != numbers(&known) {
                since = Instant::now();
            }
            known = now;
        }
        Ok(known)
    }
}

/// Pages that nobody uses. Those that processors keep for themselves are among them; with them on the other
/// side, as in `MemFree` and `MemAvailable`, free memory goes up and down by tens of megabytes as processors
/// take and return pages.
fn unused_pages(zoneinfo: &str) -> Result<u64> {
    let sum = |word: &str| -> Result<u64> {
        let counts = zoneinfo.lines().filter_map(|line| {
            let rest = line.trim_start().strip_prefix(word)?;
            Some(rest.trim().parse::<u64>())
        });
        let counts = counts
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("no number behind `{word}` in {zoneinfo}"))?;
        ensure!(!counts.is_empty(), "no `{word}` in {zoneinfo}");
        Ok(counts.iter().sum())
    };
    Ok(sum("nr_free_pages ")? + sum("count:")?)
}

/// Fails if there is more, or less memory, than there was.
fn ensure_kept(before: &Holdings, after: &Holdings) -> Result<()> {
    let numbers = |holdings: &Holdings| (holdings.programs, holdings.maps, holdings.sockets);
    ensure!(
        numbers(after) == numbers(before)
            && after.files <= before.files + FILES_NOISE
            && after.memory + MEMORY_NOISE >= before.memory,
        "there was {before:?}, and now there is {after:?}"
    );
    Ok(())
}

/// The number behind a word at the beginning of a line.
fn number(text: &str, word: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(word))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no number behind `{word}` in {text}"))
}

/// Starts and stops, after one that does not count: it takes what the kernel keeps for the next.
pub(super) fn cycles(site: &Site, scenario: &Scenario) -> Result<Outcome> {
    let around = Surroundings::at_rest(site)?;
    let cycles = |count: usize| -> Result<Holdings> {
        for number in 0..count {
            site.launch_as_expected()
                .start(site.lab())
                .and_then(stop)
                .with_context(|| format!("at start {number} of {count}"))?;
        }
        around.wait_for(site)?;
        Holdings::settled(site)
    };
    let before = cycles(1)?;
    let after = cycles(scenario.cycles)?;
    ensure_kept(&before, &after)
        .with_context(|| format!("something is left after {} starts", scenario.cycles))?;
    let taken = i128::from(before.memory) - i128::from(after.memory);
    Ok(Outcome {
        interruption: None,
        seen: format!(
            "{} times: {} eBPF programs, {} maps and {} sockets as before, open files {} then {}, {} KiB of \
             memory taken",
            scenario.cycles,
            after.programs,
            after.maps,
            after.sockets,
            before.files,
            after.files,
            taken >> 10,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_word() {
        let text = "TCP: inuse 3\nsockets: used 807\n";
        assert_eq!(number(text, "sockets: used").unwrap(), 807);
        assert_eq!(number("1024\t0\t98304\n", "").unwrap(), 1024);
        assert!(number(text, "UDP:").is_err());
    }

    /// What a processor keeps goes up and down; what nobody uses does not. Both as igb had it, between two
    /// starts.
    #[test]
    fn pages_that_processors_keep_are_nobodys() {
        let zones = |free: u64, kept: [u64; 2]| {
            format!(
                "Node 0, zone DMA32\n  per-node stats\n      nr_free_cma 0\n  pages free     {free}\n        \
                 high     8551\n      nr_free_pages {free}\n  pagesets\n    cpu: 0\n              count:    {}\n    \
                 cpu: 1\n              count:    {}\n              high:     6926\n",
                kept[0], kept[1]
            )
        };
        let much = unused_pages(&zones(216_641, [6103, 6257])).unwrap();
        let little = unused_pages(&zones(209_641, [12_805, 6493])).unwrap();
        assert_eq!((much, little), (229_001, 228_939));
        assert!(unused_pages("").is_err());
        assert!(unused_pages("nr_free_pages 3\ncount: many\n").is_err());
    }

    #[test]
    fn what_starts_leave_is_seen() {
        // As igb had it before and after eighty starts.
        let before = Holdings {
            programs: 2,
            maps: 6,
            files: 100,
            sockets: 3,
            memory: 915_996 << 10,
        };
        let after = Holdings {
            files: 110,
            memory: 915_568 << 10,
            ..before
        };
        ensure_kept(&before, &after).expect("what the kernel needs");
        let more_memory = Holdings {
            memory: 920_000 << 10,
            ..before
        };
        ensure_kept(&before, &more_memory).expect("what the kernel gave back");
        for left in [
            Holdings {
                programs: 3,
                ..after
            },
            // One with each start.
            Holdings { maps: 86, ..after },
            Holdings {
                sockets: 4,
                ..after
            },
            Holdings {
                files: 180,
                ..after
            },
            // 32 KiB with each start, or a queue's frame buffers once.
            Holdings {
                memory: after.memory - ((80 * 32) << 10),
                ..after
            },
            Holdings {
                memory: after.memory - (4096 * 2048),
                ..after
            },
        ] {
            ensure_kept(&before, &left).expect_err("it is seen");
        }
    }
}
