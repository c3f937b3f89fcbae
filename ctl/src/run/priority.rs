//! Which rank the workers get.

use std::fs;

use anyhow::bail;
use dataplane::worker::Priority;

use crate::config::{InterfaceConfig, PriorityChoice};

const LIMIT: &str = "/proc/sys/kernel/sched_rt_runtime_us";

/// The workers' rank, and why it is not a higher one where the configuration leaves that open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    pub(super) priority: Priority,
    pub(super) reason: Option<&'static str>,
}

/// Chooses the workers' rank. Fails if it has to be real-time and cannot.
pub(super) fn choose(interface: &InterfaceConfig) -> anyhow::Result<Rank> {
    let limit = fs::read_to_string(LIMIT).unwrap_or_default();
    decide(interface, &limit, Priority::RealTime.probe().is_ok())
}

fn decide(interface: &InterfaceConfig, limit: &str, permitted: bool) -> anyhow::Result<Rank> {
    // Each with what to do about it.
    let obstacle = if interface.spin_us.is_some() {
        Some(("spin_us is set", "leave spin_us out"))
    } else if limit.trim() == "-1" {
        Some((
            "the kernel does not limit real-time threads",
            "set a limit with `sysctl kernel.sched_rt_runtime_us=950000`",
        ))
    } else if !permitted {
        Some(("CAP_SYS_NICE is missing", "give the program CAP_SYS_NICE"))
    } else {
        None
    };
    let normal = |reason| Rank {
        priority: Priority::Normal,
        reason,
    };
    Ok(match (interface.priority, obstacle) {
        (PriorityChoice::Normal, _) => normal(None),
        (PriorityChoice::Auto, Some((reason, _))) => normal(Some(reason)),
        (PriorityChoice::RealTime, Some((reason, remedy))) => bail!(
            "interface.priority: rt is not to be had: {reason}; {remedy}, or give priority auto or normal"
        ),
        (PriorityChoice::Auto | PriorityChoice::RealTime, None) => Rank {
            priority: Priority::RealTime,
            reason: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITED: &str = "950000\n";

    fn interface(priority: PriorityChoice, spin_us: Option<u32>) -> InterfaceConfig {
        InterfaceConfig {
            priority,
            spin_us,
            ..InterfaceConfig::default()
        }
    }

    #[test]
    fn real_time_where_nothing_is_against_it() {
        for choice in [PriorityChoice::Auto, PriorityChoice::RealTime] {
            let rank = decide(&interface(choice, None), LIMITED, true).unwrap();
            assert_eq!((rank.priority, rank.reason), (Priority::RealTime, None));
        }
        let normal = interface(PriorityChoice::Normal, None);
        let rank = decide(&normal, LIMITED, true).unwrap();
        assert_eq!((rank.priority, rank.reason), (Priority::Normal, None));
    }

    #[test]
    fn what_is_against_it_is_said() {
        for (spin_us, limit, permitted, said) in [
            (Some(50), LIMITED, true, "spin_us is set"),
            (
                None,
                "-1\n",
                true,
                "the kernel does not limit real-time threads",
            ),
            (None, LIMITED, false, "CAP_SYS_NICE is missing"),
        ] {
            let auto = interface(PriorityChoice::Auto, spin_us);
            let rank = decide(&auto, limit, permitted).unwrap();
            assert_eq!((rank.priority, rank.reason), (Priority::Normal, Some(said)));

            let real_time = interface(PriorityChoice::RealTime, spin_us);
            let error = decide(&real_time, limit, permitted)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!(
                    "interface.priority: rt is not to be had: {said}; "
                )),
                "{error}"
            );
            assert!(
                error.ends_with("or give priority auto or normal"),
                "{error}"
            );
        }
    }
}
