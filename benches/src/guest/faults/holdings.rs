//! Many starts and stops: nothing is left of any of them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xdp_redirect::loaded;

use super::super::scenario::Scenario;
use super::super::site::Site;
use super::super::traffic::{Surroundings, stop};
use super::{Outcome, PATIENCE};

/// Memory that may be lost in a half of the starts.
const MEMORY_NOISE: u64 = 2 << 20;
/// Open files that may be more: the kernel counts them for each processor and adds up now and then.
const FILES_NOISE: u64 = 16;
/// How long the numbers stay the same before they count.
const QUIET: Duration = Duration::from_secs(5);
/// Starts and stops before the first look.
const WARM_UP: usize = 3;

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

    /// Memory that was there before and is not now.
    const fn missing_since(&self, before: &Self) -> u64 {
        before.memory.saturating_sub(self.memory)
    }
}

/// What a half of the starts has lost. Memory that is lost each time is missing after the second half
/// and after both; what is missing after only one of them came and goes: caches that the first half
/// filled, or buffers that a driver had or had not when it was looked at.
fn lost([first, middle, last]: &[Holdings; 3]) -> u64 {
    last.missing_since(middle)
        .min(last.missing_since(first) / 2)
}

/// The number behind a word at the beginning of a line.
fn number(text: &str, word: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(word))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no number behind `{word}` in {text}"))
}

fn kibibytes(holdings: &Holdings) -> i64 {
    (holdings.memory >> 10).cast_signed()
}

/// Starts and stops in two halves.
pub(super) fn cycles(site: &Site, scenario: &Scenario) -> Result<Outcome> {
    let around = Surroundings::at_rest(site)?;
    let half = scenario.cycles / 2;
    let cycles = |count: usize| -> Result<Holdings> {
        for number in 0..count {
            site.launch()
                .start(site.lab())
                .and_then(stop)
                .with_context(|| format!("at start {number} of {count}"))?;
        }
        around.wait_for(site)?;
        Holdings::settled(site)
    };
    let looks = [cycles(WARM_UP)?, cycles(half)?, cycles(half)?];
    let [first, middle, last] = &looks;
    ensure!(
        (last.programs, last.maps, last.sockets) == (first.programs, first.maps, first.sockets)
            && last.files <= middle.files + FILES_NOISE
            && lost(&looks) <= MEMORY_NOISE,
        "something is left after {half} starts and {half} more: {looks:?}"
    );
    Ok(Outcome {
        interruption: None,
        seen: format!(
            "{half} and {half} times: {} eBPF programs, {} maps and {} sockets as before, open files {} \
             then {} then {}, memory {:+} KiB and {:+} KiB",
            last.programs,
            last.maps,
            last.sockets,
            first.files,
            middle.files,
            last.files,
            kibibytes(middle) - kibibytes(first),
            kibibytes(last) - kibibytes(middle),
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
        assert_eq!(look(900).missing_since(&look(1000)), 100);
        assert_eq!(look(1000).missing_since(&look(900)), 0);
        let lost_of = |memory: [u64; 3]| lost(&memory.map(look));
        // Lost each time; caches that fill once; buffers that were there only at the second look.
        assert_eq!(lost_of([1000, 900, 800]), 100);
        assert_eq!(lost_of([1000, 800, 800]), 0);
        assert_eq!(lost_of([1000, 1100, 1000]), 0);
    }
}
