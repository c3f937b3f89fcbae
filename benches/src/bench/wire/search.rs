//! The highest rate of which nothing is lost.

use anyhow::Result;

/// Share of the packets that may be lost for a rate to count as free of loss: on a machine with other
/// things to do, a longer trial always meets some moment in which nobody receives.
pub(crate) const TOLERATED_LOSS: f64 = 0.001;
/// Most rates of one search.
const RATES: u32 = 24;
/// Packets per second below which nobody searches.
pub(crate) const LEAST: f64 = 10_000.0;
/// Factor of the first step away from the guess, which is mostly good, and of the longest.
const FIRST_STEP: f64 = 1.1;
const LONGEST_STEP: f64 = 2.0;

/// What a trial saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trial {
    /// Packets per second that were sent.
    pub(crate) offered: f64,
    /// Packets per second that reached the far end.
    pub(crate) delivered: f64,
    /// Packets sent that did not.
    pub(crate) lost: u64,
    /// Packets sent.
    pub(crate) sent: u64,
}

impl Trial {
    /// Whether the rate counts as free of loss.
    pub(crate) fn is_loss_free(&self) -> bool {
        self.sent > 0 && self.lost as f64 <= self.sent as f64 * TOLERATED_LOSS
    }
}

/// Where to search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// Packets per second to begin with.
    pub(crate) guess: f64,
    /// Packets per second above which the generator cannot send.
    pub(crate) most: f64,
    /// The search ends when the rates on both sides of the answer differ by less than this share.
    pub(crate) precision: f64,
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    /// The last trial that was free of loss; if there was none, the one at the lowest rate.
    pub(crate) trial: Trial,
    /// Trials that lost packets at a rate that a second trial found free of loss.
    pub(crate) unconfirmed: u32,
}

/// Raises or lowers the rate until the answer lies between two rates, and then halves the distance. A
/// rate counts as lossy once two trials in a row lost packets: one moment in which nobody received is
/// no limit.
///
/// # Errors
/// A trial failed.
pub(crate) fn search(range: Range, mut trial: impl FnMut(f64) -> Result<Trial>) -> Result<Found> {
    let mut unconfirmed = 0;
    let mut trial = |rate| {
        let first = trial(rate)?;
        if first.is_loss_free() {
            return Ok::<_, anyhow::Error>(first);
        }
        let second = trial(rate)?;
        unconfirmed += u32::from(second.is_loss_free());
        Ok(second)
    };
    let mut rate = range.guess.clamp(LEAST, range.most.max(LEAST));
    let mut step = FIRST_STEP;
    let mut seen = trial(rate)?;
    let mut best = None;
    let mut lossy = f64::INFINITY;
    for _ in 1..RATES {
        if seen.is_loss_free() {
            best = Some((rate, seen));
            if rate >= range.most {
                break;
            }
        } else {
            lossy = rate;
            if rate <= LEAST {
                break;
            }
        }
        rate = match best {
            Some((free, _)) if lossy.is_infinite() => (free * step).min(range.most.max(LEAST)),
            Some((free, _)) if lossy - free <= lossy * range.precision => break,
            Some((free, _)) => f64::midpoint(free, lossy),
            None => (lossy / step).max(LEAST),
        };
        step = (step * step).min(LONGEST_STEP);
        seen = trial(rate)?;
    }
    Ok(Found {
        trial: best.map_or(seen, |(_, trial)| trial),
        unconfirmed,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A device that loses what is above its capacity.
    fn device(capacity: f64) -> impl FnMut(f64) -> Result<Trial> {
        move |offered| {
            let delivered = offered.min(capacity);
            let seconds = |packets: f64| Duration::from_secs_f64(packets).as_secs();
            Ok(Trial {
                offered,
                delivered,
                lost: seconds(offered - delivered),
                sent: seconds(offered),
            })
        }
    }

    fn answer(guess: f64, most: f64, capacity: f64) -> f64 {
        let range = Range {
            guess,
            most,
            precision: 0.01,
        };
        search(range, device(capacity))
            .expect("an answer")
            .trial
            .offered
    }

    #[test]
    fn the_answer_is_close_below_the_capacity() {
        for guess in [20_000.0, 900_000.0, 1_000_000.0, 1_100_000.0, 5_000_000.0] {
            let found = answer(guess, 1e7, 1e6);
            assert!(
                (985_000.0..=1_002_000.0).contains(&found),
                "{guess}: {found}"
            );
        }
    }

    #[test]
    fn a_loss_that_does_not_come_again_bounds_nothing() {
        let range = Range {
            guess: 9e5,
            most: 1e7,
            precision: 0.01,
        };
        for hiccup in 0..8 {
            let (mut device, mut trials) = (device(1e6), 0);
            let found = search(range, |rate| {
                let mut trial = device(rate)?;
                if trials == hiccup {
                    trial.lost = trial.sent;
                }
                trials += 1;
                Ok(trial)
            })
            .expect("an answer");
            let rate = found.trial.offered;
            assert!(
                (985_000.0..=1_002_000.0).contains(&rate),
                "{hiccup}: {rate}"
            );
        }
        let mut trials = 0;
        let mut device = device(1e6);
        let first_lost = search(range, |rate| {
            let mut trial = device(rate)?;
            trial.lost += if trials == 0 { trial.sent } else { 0 };
            trials += 1;
            Ok(trial)
        });
        assert_eq!(first_lost.expect("an answer").unconfirmed, 1);
    }

    #[test]
    fn the_generator_is_a_limit() {
        assert!((answer(1e6, 2e6, 1e9) - 2e6).abs() < 1.0);
    }

    #[test]
    fn a_device_that_always_loses_is_told_by_its_last_trial() {
        let range = Range {
            guess: 1e6,
            most: 1e7,
            precision: 0.01,
        };
        let found = search(range, device(0.0)).expect("an answer").trial;
        assert!(!found.is_loss_free(), "{found:?}");
        assert!((found.offered - LEAST).abs() < 1.0, "{found:?}");
    }

    #[test]
    fn few_losses_are_tolerated() {
        let trial = |lost| Trial {
            offered: 1e6,
            delivered: 1e6,
            lost,
            sent: 1_000_000,
        };
        assert!(trial(1000).is_loss_free());
        assert!(!trial(1001).is_loss_free());
    }
}
