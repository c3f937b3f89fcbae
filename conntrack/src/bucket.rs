//! One cache line that says which flows lie in sixteen slots, and which of them to give up first.

use crate::ways::{WAYS, Ways};

/// What a slot's tag says when no flow is in it.
const FREE: u16 = 0;

/// Tags and stamps of [`WAYS`] slots.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Bucket {
    /// Part of each flow's hash; [`FREE`] where there is none.
    tags: [u16; WAYS],
    /// How each flow was used.
    stamps: [Stamp; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// All slots free.
    pub(crate) const EMPTY: Self = Self {
        tags: [FREE; WAYS],
        stamps: [Stamp::trial(0); WAYS],
    };

    /// The tag of a hash's part; never that of a free slot.
    #[inline]
    pub(crate) const fn tag(bits: u16) -> u16 {
        bits | 1
    }

    /// Slots with this tag.
    #[inline]
    pub(crate) fn with_tag(&self, tag: u16) -> Ways {
        Ways::equal(&self.tags, tag)
    }

    /// Slots without a flow.
    #[inline]
    pub(crate) fn free(&self) -> Ways {
        self.with_tag(FREE)
    }

    /// Slots with a flow.
    #[inline]
    pub(crate) fn used(&self) -> Ways {
        self.free().others()
    }

    /// Whether there is a flow in a slot.
    pub(crate) fn is_used(&self, way: usize) -> bool {
        self.tags[way] != FREE
    }

    /// Puts a flow into a slot.
    #[inline]
    pub(crate) fn put(&mut self, way: usize, tag: u16, stamp: Stamp) {
        self.tags[way] = tag;
        self.stamps[way] = stamp;
    }

    /// Frees a slot.
    pub(crate) fn clear(&mut self, way: usize) {
        self.tags[way] = FREE;
    }

    /// Stamps a slot whose flow is used again. Mostly the stamp is what it was; then the line stays as
    /// it is and need not be written back to memory.
    #[inline]
    pub(crate) fn touch(&mut self, way: usize, clocks: &mut Clocks) {
        if self.stamps[way] != clocks.latest {
            self.stamps[way] = clocks.use_again(self.stamps[way]);
        }
    }

    /// The slot whose flow goes first, and how readily it goes.
    #[inline]
    pub(crate) fn first_to_go(&self, clocks: &Clocks) -> (usize, Urgency) {
        let mut first = 0;
        for (way, stamp) in self.stamps.iter().enumerate() {
            first = first.max(clocks.urgency(*stamp).0 | way as u16);
        }
        (usize::from(first) % WAYS, Urgency(first & !Urgency::WAY))
    }
}

/// How a flow was used: whether more than once, and when by the clock of its kind. Bit 15 is set for
/// flows that were used again (proved); bits 0–14 are the tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u16);

impl Stamp {
    const PROVED: u16 = 1 << 15;
    const TICKS: u16 = Self::PROVED - 1;

    const fn trial(tick: u16) -> Self {
        Self(tick & Self::TICKS)
    }

    const fn proved(tick: u16) -> Self {
        Self(tick | Self::PROVED)
    }

    /// Whether the flow was used after it came.
    #[inline]
    pub(crate) const fn is_proved(self) -> bool {
        self.0 & Self::PROVED != 0
    }

    const fn age(self, now: u16) -> u16 {
        now.wrapping_sub(self.0) & Self::TICKS
    }
}

/// How readily a flow is given up; greater goes first. Bits 14–15 are the class, bits 4–13 the age in
/// ticks; bits 0–3 are left for the number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Urgency(u16);

impl Urgency {
    const WAY: u16 = WAYS as u16 - 1;
    const AGE_SHIFT: u32 = 4;
    const MAX_AGE: u16 = (1 << 10) - 1;
    const TRIAL: u16 = 1 << 14;
    const FORGOTTEN: u16 = 2 << 14;

    /// Whether nobody misses the flow: it did not prove itself, or not for long.
    #[inline]
    pub(crate) const fn is_dispensable(self) -> bool {
        self.0 >= Self::TRIAL
    }
}

/// A clock that ticks once per so many events.
#[derive(Clone, Copy, Debug)]
struct Clock {
    tick: u16,
    events: u32,
    events_per_tick: u32,
}

impl Clock {
    /// Ticks about so many times while `capacity` events happen.
    fn new(capacity: usize, ticks: usize) -> Self {
        Self {
            tick: 0,
            events: 0,
            events_per_tick: capacity.div_ceil(ticks) as u32,
        }
    }

    #[inline]
    fn event(&mut self) {
        self.events += 1;
        if self.events == self.events_per_tick {
            self.events = 0;
            self.tick = (self.tick + 1) & Stamp::TICKS;
        }
    }
}

/// The two clocks of a table.
///
/// Flows on trial are as old as the number of flows that came since; proved flows, as the number of
/// flows that were *proved* since. So a flood of flows that never send a second packet ages other
/// flows on trial and nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    arrivals: Clock,
    proofs: Clock,
    /// The stamp of a flow that was used again just now.
    latest: Stamp,
    /// Ticks after which a proved flow has not been used while a whole table of others was proved: a
    /// strict order of use would have dropped it.
    lifetime: u16,
}

impl Clocks {
    pub(crate) fn new(capacity: usize) -> Self {
        // Arrivals are told apart more finely: between two flows on trial a moment decides, and what
        // is past the greatest age, about one capacity, has long lost its slot where slots are rare.
        let arrivals = Clock::new(capacity, usize::from(Urgency::MAX_AGE));
        let proofs = Clock::new(capacity, 64);
        Self {
            arrivals,
            proofs,
            latest: Stamp::proved(0),
            lifetime: capacity.div_ceil(proofs.events_per_tick as usize) as u16,
        }
    }

    /// The stamp of a flow that comes now.
    #[inline]
    pub(crate) fn arrival(&mut self) -> Stamp {
        self.arrivals.event();
        Stamp::trial(self.arrivals.tick)
    }

    /// The stamp of a flow that was used with this stamp before, and is used again now.
    #[inline]
    pub(crate) fn use_again(&mut self, stamp: Stamp) -> Stamp {
        if !stamp.is_proved() {
            self.proofs.event();
            self.latest = Stamp::proved(self.proofs.tick);
        }
        self.latest
    }

    /// Selects instead of branching, so that the loop over a bucket becomes vector instructions.
    #[inline]
    fn urgency(&self, stamp: Stamp) -> Urgency {
        let proved = stamp.is_proved();
        let now = if proved {
            self.proofs.tick
        } else {
            self.arrivals.tick
        };
        let age = stamp.age(now);
        let of_proved = if age > self.lifetime {
            Urgency::FORGOTTEN
        } else {
            0
        };
        let class = if proved { of_proved } else { Urgency::TRIAL };
        Urgency(class | (age.min(Urgency::MAX_AGE) << Urgency::AGE_SHIFT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket_of(stamps: &[Stamp]) -> Bucket {
        let mut bucket = Bucket::EMPTY;
        for (way, &stamp) in stamps.iter().enumerate() {
            bucket.put(way, 1, stamp);
        }
        bucket
    }

    #[test]
    fn a_tag_is_never_that_of_a_free_slot() {
        for bits in 0..=u16::MAX {
            assert_ne!(Bucket::tag(bits), FREE);
        }
        assert_eq!(Bucket::EMPTY.free().size(), WAYS as u32);
    }

    #[test]
    fn flows_on_trial_go_before_proved_ones_and_the_oldest_of_them_first() {
        // One event a tick.
        let mut clocks = Clocks::new(16);
        let mut stamps = [Stamp::trial(0); WAYS];
        for stamp in &mut stamps {
            *stamp = clocks.arrival();
        }
        let (way, urgency) = bucket_of(&stamps).first_to_go(&clocks);
        assert_eq!((way, urgency.is_dispensable()), (0, true));
        for way in [0, 1, 3] {
            stamps[way] = clocks.use_again(stamps[way]);
        }
        assert_eq!(bucket_of(&stamps).first_to_go(&clocks).0, 2);
        for stamp in &mut stamps {
            *stamp = clocks.use_again(*stamp);
        }
        // Those used while the fewest were proved.
        let (way, urgency) = bucket_of(&stamps).first_to_go(&clocks);
        assert!(way < 2 && !urgency.is_dispensable(), "{way}");
    }

    #[test]
    fn a_proved_flow_goes_first_once_a_table_of_others_was_proved() {
        let mut clocks = Clocks::new(1000);
        let first = clocks.arrival();
        let old = clocks.use_again(first);
        for _ in 0..1100 {
            let stamp = clocks.arrival();
            clocks.use_again(stamp);
        }
        let fresh = clocks.arrival();
        assert!(clocks.urgency(old) > clocks.urgency(fresh));
        // Used again, it is one of the latest.
        let used = clocks.use_again(old);
        assert!(clocks.urgency(used) < clocks.urgency(fresh));
    }

    #[test]
    fn a_flood_of_arrivals_does_not_age_what_is_proved() {
        let mut clocks = Clocks::new(1000);
        let stamp = clocks.arrival();
        let proved = clocks.use_again(stamp);
        let before = clocks.urgency(proved);
        for _ in 0..1_000_000 {
            clocks.arrival();
        }
        assert_eq!(clocks.urgency(proved), before);
    }

    #[test]
    fn clocks_wrap() {
        let mut clocks = Clocks::new(1);
        for _ in 0..100_000 {
            let stamp = clocks.arrival();
            assert_eq!(stamp.age(clocks.arrivals.tick), 0);
            let used = clocks.use_again(stamp);
            assert!(used.is_proved());
            assert_eq!(used.age(clocks.proofs.tick), 0);
            clocks.arrival();
            assert_eq!(stamp.age(clocks.arrivals.tick), 1);
        }
    }
}
