//! What goes into a flow table and what comes out of it.

/// A flow as the table remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<K> {
    /// The flow's key.
    pub key: K,
    /// The caller's value.
    pub value: u32,
    /// When the flow was last used, in nanoseconds of the caller's clock. Lookups without a
    /// timeout leave it alone.
    pub last_use: u64,
}

impl<K> Flow<K> {
    /// Whether the flow has been idle for more than `timeout` nanoseconds; never without one.
    ///
    /// A flow used in the future, by a clock that went back, is not expired.
    pub fn is_expired(&self, now: u64, timeout: Option<u64>) -> bool {
        expired(self.last_use, now, timeout)
    }
}

#[inline]
pub(crate) fn expired(last_use: u64, now: u64, timeout: Option<u64>) -> bool {
    timeout.is_some_and(|timeout| now.saturating_sub(last_use) > timeout)
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The flow's value.
    Hit(u32),
    /// The flow is there but was idle for too long. It stays until it is overwritten or evicted.
    Expired,
    /// The flow is not there.
    Miss,
}

/// What an insertion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion<K> {
    /// The flow is new and took a free entry.
    Added,
    /// The flow was there; this was its value.
    Overwrote(u32),
    /// The flow is new and there was no room where it could be; this flow is gone.
    Evicted(Flow<K>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_expires_after_its_timeout_not_at_it() {
        let flow = Flow {
            key: (),
            value: 0,
            last_use: 1000,
        };
        for (now, timeout, expired) in [
            (1030, Some(30), false),
            (1031, Some(30), true),
            (0, Some(0), false),
            (1000, Some(0), false),
            (1001, Some(0), true),
            (u64::MAX, None, false),
        ] {
            assert_eq!(flow.is_expired(now, timeout), expired, "{now} {timeout:?}");
        }
    }
}
