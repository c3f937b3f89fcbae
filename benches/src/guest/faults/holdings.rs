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

/// Memory that may be lost in the second half of the starts.
const MEMORY_NOISE: u64 = 2 << 20;
/// Open files that may be more: the kernel counts them for each processor and adds up now and then.
const FILES_NOISE: u64 = 16;
/// How long the numbers stay the same before they count.
const QUIET: Duration = Duration::from_secs(5);
/// Looks in each half of the starts.
const LOOKS: usize = 5;
/// Starts and stops from which on what they lose of memory is more than noise; of fewer only the numbers
/// are compared, at the end.
const ENOUGH_FOR_MEMORY: usize = 50;
/// Starts and stops before the first look. Under igb the kernel takes some megabytes in the first twenty
/// and no more from then on.
const WARM_UP: usize = 20;

/// What a machine has of what programs like ours take.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    programs: usize,
    maps: usize,
    /// Open files of the whole machine.
    files: u64,
    /// Sockets in the balancer's namespace.
    sockets: u64,
    /// Bytes available.
    memory: u64,
}

impl Holdings {
    fn look(site: &Site) -> Result<Self> {
        let (programs, maps) = loaded()?;
        // Caches, and free pages that each processor keeps for itself, would be memory that is missing.
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        fs::write("/proc/sys/vm/compact_memory", "1")?;
        let sockstat = site
            .lab()
            .balancer()
            .run(|| fs::read_to_string("/proc/thread-self/net/sockstat"))??;
        Ok(Self {
            programs,
            maps,
            files: number(&fs::read_to_string("/proc/sys/fs/file-nr")?, "")?,
            sockets: number(&sockstat, "sockets: used")?,
            memory: number(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:")? << 10,
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

/// What the second half of the starts has lost: the most memory that was available at one of its looks,
/// against that of the first half. Buffers that a driver has at one look and not at the next, some
/// megabytes of them, come back within a half; what is lost at each start does not.
fn lost(first_half: &[Holdings], second_half: &[Holdings]) -> u64 {
    let most = |half: &[Holdings]| half.iter().map(|look| look.memory).max().unwrap_or(0);
    most(first_half).saturating_sub(most(second_half))
}

/// The number behind a word at the beginning of a line.
fn number(text: &str, word: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(word))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no number behind `{word}` in {text}"))
}

/// Starts and stops in two halves.
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
    let (warm_up, looks) = if scenario.cycles >= ENOUGH_FOR_MEMORY {
        (WARM_UP, 2 * LOOKS)
    } else {
        (1, 1)
    };
    let first = cycles(warm_up)?;
    let looks = (0..looks)
        .map(|_| cycles(scenario.cycles / looks))
        .collect::<Result<Vec<_>>>()?;
    let (first_half, second_half) = looks.split_at(looks.len() / 2);
    let lost = (!first_half.is_empty()).then(|| lost(first_half, second_half));
    let last = looks.last().unwrap_or(&first);
    ensure!(
        (last.programs, last.maps, last.sockets) == (first.programs, first.maps, first.sockets)
            && last.files <= first.files + FILES_NOISE
            && lost.is_none_or(|lost| lost <= MEMORY_NOISE),
        "something is left after {} starts: {first:?}, then {looks:?}",
        scenario.cycles
    );
    Ok(Outcome {
        interruption: None,
        seen: format!(
            "{} times: {} eBPF programs, {} maps and {} sockets as before, open files {} then {}{}",
            scenario.cycles,
            last.programs,
            last.maps,
            last.sockets,
            first.files,
            last.files,
            lost.map_or_else(String::new, |lost| format!(
                ", the second half took {} KiB",
                lost >> 10
            )),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_word() {
        let text = "MemFree:  7 kB\nMemAvailable:   807 kB\n";
        assert_eq!(number(text, "MemAvailable:").unwrap(), 807);
        assert_eq!(number("1024\t0\t98304\n", "").unwrap(), 1024);
        assert!(number(text, "Sockets:").is_err());
    }

    #[test]
    fn memory_that_came_back_is_not_missing() {
        let look = |memory| Holdings {
            programs: 2,
            maps: 6,
            files: 100,
            sockets: 3,
            memory,
        };
        let lost_of = |first: [u64; 3], second: [u64; 3]| lost(&first.map(look), &second.map(look));
        // Lost each time; caches that fill once; buffers that are there at some looks only.
        assert_eq!(lost_of([900, 800, 700], [600, 500, 400]), 300);
        assert_eq!(lost_of([1000, 800, 800], [800, 800, 800]), 200);
        assert_eq!(lost_of([900, 1000, 900], [900, 900, 1000]), 0);
        assert_eq!(lost_of([900, 900, 900], [900, 1000, 900]), 0);
    }
}
