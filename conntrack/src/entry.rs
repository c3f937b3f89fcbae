//! What a slot holds: the rest of the key, the value and the time of the last use.

use crate::flow::Flow;
use crate::key::FlowKey;

/// A flow in its slot. 24 bytes for IPv4, 48 for IPv6.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Entry<K: FlowKey> {
    tuple: K::Tuple,
    pub(crate) value: u32,
    used: Used,
}

impl<K: FlowKey> Entry<K> {
    pub(crate) fn empty() -> Self {
        Self {
            tuple: K::Tuple::default(),
            value: 0,
            used: Used::new(0, 0),
        }
    }

    #[inline]
    pub(crate) fn new(key: &K, value: u32, time: u64) -> Self {
        Self {
            tuple: key.tuple(),
            value,
            used: Used::new(key.protocol(), time),
        }
    }

    #[inline]
    pub(crate) fn is_of(&self, key: &K) -> bool {
        key.is(&self.tuple) && self.used.protocol == key.protocol()
    }

    /// The part that lies behind all others.
    #[inline]
    pub(crate) const fn last_part(&self) -> *const impl Sized {
        &raw const self.used
    }

    /// Whether the flow has been idle for more than `timeout` nanoseconds at `now`.
    #[inline]
    pub(crate) fn is_expired(&self, now: u64, timeout: u64) -> bool {
        self.used.idle(now) > i64::try_from(timeout).unwrap_or(i64::MAX)
    }

    #[inline]
    pub(crate) fn use_at(&mut self, now: u64) {
        self.used = Used::new(self.used.protocol, now);
    }

    /// The flow; `clock` is the latest time that the table has been told.
    pub(crate) fn flow(&self, clock: u64) -> Flow<K> {
        Flow {
            key: K::from_parts(self.tuple, self.used.protocol),
            value: self.value,
            last_use: self.used.time(clock),
        }
    }
}

/// The low 56 bits of the time in nanoseconds, 0 for never, and the protocol in a byte of its own, which
/// is compared for every packet.
///
/// Times compare right while they are less than 2⁵⁵ ns (417 days) apart.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Used {
    time: [u8; 7],
    protocol: u8,
}

impl Used {
    const TIME_BITS: u32 = 56;
    const TIME: u64 = (1 << Self::TIME_BITS) - 1;

    #[inline]
    const fn new(protocol: u8, time: u64) -> Self {
        // A time whose low bits are all zero must not read as never; it gets a nanosecond more.
        let low = if time == 0 {
            0
        } else {
            (time & Self::TIME) | (time & Self::TIME == 0) as u64
        };
        let [time @ .., _] = low.to_le_bytes();
        Self { time, protocol }
    }

    #[inline]
    const fn low(self) -> u64 {
        let mut low = [0; size_of::<u64>()];
        let (time, _) = low.split_at_mut(self.time.len());
        time.copy_from_slice(&self.time);
        u64::from_le_bytes(low)
    }

    /// Nanoseconds since the last use; negative if that is yet to come.
    #[inline]
    fn idle(self, now: u64) -> i64 {
        let low = self.low();
        if low == 0 {
            return i64::try_from(now).unwrap_or(i64::MAX);
        }
        let unused = u64::BITS - Self::TIME_BITS;
        (now.wrapping_sub(low) << unused).cast_signed() >> unused
    }

    fn time(self, clock: u64) -> u64 {
        match self.low() {
            0 => 0,
            _ => clock.wrapping_sub_signed(self.idle(clock)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FlowKeyV4, FlowKeyV6};

    #[test]
    fn entries_are_compact() {
        assert_eq!(size_of::<Entry<FlowKeyV4>>(), 24);
        assert_eq!(size_of::<Entry<FlowKeyV6>>(), 48);
    }

    #[test]
    fn times_survive_being_cut_to_56_bits() {
        for now in [
            1,
            5,
            1 << 40,
            (1 << 56) - 1,
            1 << 56,
            (1 << 56) + 7,
            1_790_000_000_000_000_000,
            u64::MAX,
        ] {
            for back in [
                0,
                1,
                29_999_999_999,
                30_000_000_000,
                30_000_000_001,
                1 << 54,
            ] {
                let Some(time) = now.checked_sub(back).filter(|&time| time != 0) else {
                    continue;
                };
                // All low bits zero: stored a nanosecond late.
                let late = u64::from(time & Used::TIME == 0);
                let used = Used::new(17, time);
                assert_eq!(used.protocol, 17);
                assert_eq!(
                    used.idle(now),
                    back.cast_signed() - late.cast_signed(),
                    "{now} {back}"
                );
                assert_eq!(used.time(now), time + late);
            }
        }
    }

    #[test]
    fn a_time_to_come_is_not_idle() {
        let used = Used::new(17, 100);
        assert_eq!(used.idle(40), -60);
        assert_eq!(used.time(40), 100);
    }

    #[test]
    fn never_is_as_long_ago_as_it_can_be() {
        let used = Used::new(17, 0);
        assert_eq!(used.idle(31), 31);
        assert_eq!(used.idle(u64::MAX), i64::MAX);
        assert_eq!(used.time(99), 0);
    }
}
