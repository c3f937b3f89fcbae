//! Where every packet went, by counters that do not know of each other.

use anyhow::{Context, Result, ensure};

use crate::bench::{asked::Asked, row::Case};

/// Packets at each point of the way, in the order of the way. Differences of two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// The generator's program sent.
    pub(crate) sent: u64,
    /// The receiving interface had no room for (counted by the driver at the generator's end).
    pub(crate) refused: u64,
    /// The device's XDP program saw.
    pub(crate) seen: u64,
    /// What workers did; nothing where the XDP program does it all.
    pub(crate) workers: Option<Workers>,
    /// The XDP program or the workers sent.
    pub(crate) transmitted: u64,
    /// Were dropped or passed by the XDP program, on purpose.
    pub(crate) not_forwarded: u64,
    /// The interface of the far end had no room for (counted by the driver at the device's end).
    pub(crate) refused_back: u64,
    /// The far end counted, as this datapath sends them.
    pub(crate) delivered: u64,
    /// The far end counted as something else.
    pub(crate) strange: u64,
    /// What the balancer counted; nothing where nothing decides.
    pub(crate) asked: Option<Asked>,
}

/// Packets at the points inside the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Workers {
    /// The XDP program gave to sockets.
    pub(crate) redirected: u64,
    /// Sockets had no room for (counted by the sockets).
    pub(crate) socket_drops: u64,
    /// Workers received.
    pub(crate) received: u64,
    /// Workers dropped or passed.
    pub(crate) not_forwarded: u64,
}

impl Account {
    /// Packets that were sent and not delivered.
    pub(crate) const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.delivered)
    }

    /// Whether each packet is accounted for at each point of the way.
    pub(crate) fn check(&self) -> Result<()> {
        let point = |name: &str, before: u64, after: u64| {
            ensure!(
                before == after,
                "the counters do not add up {name}: {before} packets before, {after} after ({self:?})"
            );
            Ok(())
        };
        point(
            "at the device's interface",
            self.sent,
            self.refused + self.seen,
        )?;
        match self.workers {
            None => point(
                "in the XDP program",
                self.seen,
                self.transmitted + self.not_forwarded,
            )?,
            Some(workers) => {
                point(
                    "in the XDP program",
                    self.seen,
                    workers.redirected + self.not_forwarded,
                )?;
                point(
                    "at the sockets",
                    workers.redirected,
                    workers.socket_drops + workers.received,
                )?;
                point(
                    "in the workers",
                    workers.received,
                    workers.not_forwarded + self.transmitted,
                )?;
            }
        }
        point(
            "on the way back",
            self.transmitted,
            self.refused_back + self.delivered + self.strange,
        )?;
        ensure!(
            self.strange == 0,
            "{} packets came back that this datapath does not send ({self:?})",
            self.strange
        );
        Ok(())
    }

    /// Whether the flow table had the flow of every packet that was decided, or nothing decides.
    pub(crate) fn check_hits(&self) -> Result<()> {
        let Some(asked) = self.asked else {
            return Ok(());
        };
        let decided = self.workers.map_or(self.seen, |workers| workers.received);
        asked
            .check(Asked::default(), Case::Hit, decided)
            .with_context(|| format!("{self:?}"))
    }

    /// What happened since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let workers = match (self.workers, earlier.workers) {
            (Some(now), Some(then)) => Some(Workers {
                redirected: now.redirected - then.redirected,
                socket_drops: now.socket_drops - then.socket_drops,
                received: now.received - then.received,
                not_forwarded: now.not_forwarded - then.not_forwarded,
            }),
            _ => None,
        };
        Self {
            sent: self.sent - earlier.sent,
            refused: self.refused - earlier.refused,
            seen: self.seen - earlier.seen,
            workers,
            transmitted: self.transmitted - earlier.transmitted,
            not_forwarded: self.not_forwarded - earlier.not_forwarded,
            refused_back: self.refused_back - earlier.refused_back,
            delivered: self.delivered - earlier.delivered,
            strange: self.strange - earlier.strange,
            asked: match (self.asked, earlier.asked) {
                (Some(now), Some(then)) => Some(now.since(then)),
                _ => None,
            },
        }
    }

    /// Packets that have come to an end; when all that were sent have, nothing is on its way.
    pub(crate) fn ended(&self) -> u64 {
        let in_workers = self
            .workers
            .map_or(0, |workers| workers.socket_drops + workers.not_forwarded);
        self.refused
            + self.not_forwarded
            + in_workers
            + self.refused_back
            + self.delivered
            + self.strange
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Account = Account {
        sent: 100,
        refused: 10,
        seen: 90,
        workers: None,
        transmitted: 85,
        not_forwarded: 5,
        refused_back: 3,
        delivered: 82,
        strange: 0,
        asked: Some(Asked {
            received: 90,
            ring: 0,
        }),
    };

    fn xsk() -> Account {
        Account {
            not_forwarded: 0,
            workers: Some(Workers {
                redirected: 90,
                socket_drops: 4,
                received: 86,
                not_forwarded: 1,
            }),
            asked: Some(Asked {
                received: 86,
                ring: 0,
            }),
            ..KERNEL
        }
    }

    #[test]
    fn whole_accounts_are_accepted() {
        KERNEL.check().expect("all add up");
        xsk().check().expect("all add up");
        assert_eq!(KERNEL.lost(), 18);
        assert_eq!((KERNEL.ended(), xsk().ended()), (100, 100));
        assert_eq!(
            xsk().since(&xsk()),
            Account {
                workers: Some(Workers::default()),
                asked: Some(Asked::default()),
                ..Account::default()
            }
        );
    }

    #[test]
    fn packets_that_miss_the_table_are_no_hits() {
        for whole in [KERNEL, xsk()] {
            whole.check_hits().expect("all hit");
            let mut missed = whole;
            missed.asked.as_mut().expect("decided").ring = 1;
            missed.check().expect("no packet is missing");
            let error = missed.check_hits().expect_err("1 of 90 missed");
            assert!(
                format!("{error:#}").contains("the ring was asked"),
                "{error:#}"
            );
            let undecided = Account {
                asked: whole.asked.map(|asked| Asked {
                    received: asked.received - 1,
                    ..asked
                }),
                ..whole
            };
            undecided.check_hits().expect_err("one was not decided");
            let nothing_decides = Account {
                asked: None,
                ..whole
            };
            nothing_decides.check_hits().expect("nothing to hit");
        }
    }

    #[test]
    fn a_packet_that_is_missing_anywhere_is_noticed() {
        let refused = |account: Account, place: &str| {
            let error = account.check().expect_err(place).to_string();
            assert!(error.contains(place), "{error}");
        };
        let with_workers = |change: fn(&mut Workers)| {
            let mut account = xsk();
            change(account.workers.as_mut().expect("workers"));
            account
        };
        refused(
            Account {
                sent: 101,
                ..KERNEL
            },
            "at the device's interface",
        );
        refused(
            Account {
                refused: 9,
                ..KERNEL
            },
            "at the device's interface",
        );
        refused(
            Account {
                transmitted: 84,
                ..KERNEL
            },
            "in the XDP program",
        );
        refused(
            Account {
                delivered: 81,
                ..KERNEL
            },
            "on the way back",
        );
        refused(
            Account {
                delivered: 81,
                strange: 1,
                ..KERNEL
            },
            "does not send",
        );
        refused(
            with_workers(|workers| workers.redirected -= 1),
            "in the XDP program",
        );
        refused(
            with_workers(|workers| workers.socket_drops += 1),
            "at the sockets",
        );
        refused(
            with_workers(|workers| workers.not_forwarded += 1),
            "in the workers",
        );
    }
}
