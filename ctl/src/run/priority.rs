//! Which rank the workers get.

use std::{fs, io};

use dataplane::worker::Priority;

use crate::config::{InterfaceConfig, PriorityChoice, Problem};

const LIMIT: &str = "/proc/sys/kernel/sched_rt_runtime_us";
const PERIOD: &str = "/proc/sys/kernel/sched_rt_period_us";

/// The workers' rank, and why it is not a higher one where the configuration leaves that open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    pub(crate) priority: Priority,
    pub(crate) reason: Option<String>,
}

/// Chooses the workers' rank. Fails if it has to be real-time and cannot.
pub(crate) fn choose(interface: &InterfaceConfig) -> Result<Rank, Problem> {
    let limit = is_limited(fs::read_to_string(LIMIT), fs::read_to_string(PERIOD));
    decide(interface, limit, Priority::RealTime.probe())
}

/// Whether the kernel leaves other threads a share of each period.
fn is_limited(runtime: io::Result<String>, period: io::Result<String>) -> io::Result<bool> {
    let number = |text: String| text.trim().parse::<i64>().map_err(io::Error::other);
    let (runtime, period) = (number(runtime?)?, number(period?)?);
    Ok((0..period).contains(&runtime))
}

fn decide(
    interface: &InterfaceConfig,
    limit: io::Result<bool>,
    permitted: io::Result<()>,
) -> Result<Rank, Problem> {
    // Each with what to do about it.
    let obstacle = if interface.spin_us.is_some() {
        Some(("spin_us is set".to_owned(), "leave spin_us out"))
    } else {
        match (limit, permitted) {
            (Err(error), _) => Some((
                format!("the kernel's limit of real-time threads cannot be read: {error}"),
                "mount /proc",
            )),
            (Ok(false), _) => Some((
                "the kernel does not limit real-time threads".to_owned(),
                "set a limit with `sysctl kernel.sched_rt_runtime_us=950000`",
            )),
            (Ok(true), Err(error)) => Some((
                format!("the kernel refuses it: {error}"),
                "give the program CAP_SYS_NICE",
            )),
            (Ok(true), Ok(())) => None,
        }
    };
    let normal = |reason| Rank {
        priority: Priority::Normal,
        reason,
    };
    Ok(match (interface.priority, obstacle) {
        (PriorityChoice::Normal, _) => normal(None),
        (PriorityChoice::Auto, Some((reason, _))) => normal(Some(reason)),
        (PriorityChoice::RealTime, Some((reason, remedy))) => {
            return Err(Problem {
                line: None,
                field: "interface.priority".to_owned(),
                problem: format!("rt is not to be had: {reason}"),
                remedy: format!("{remedy}, or give priority auto or normal"),
            });
        }
        (PriorityChoice::Auto | PriorityChoice::RealTime, None) => Rank {
            priority: Priority::RealTime,
            reason: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let rank = decide(&interface(choice, None), Ok(true), Ok(())).unwrap();
            assert_eq!((rank.priority, rank.reason), (Priority::RealTime, None));
        }
        let normal = interface(PriorityChoice::Normal, None);
        let rank = decide(&normal, Ok(true), Ok(())).unwrap();
        assert_eq!((rank.priority, rank.reason), (Priority::Normal, None));
    }

    #[test]
    fn what_is_against_it_is_said() {
        let text = |text: &str| Ok(text.to_owned());
        let unreadable = || Err(io::Error::from(io::ErrorKind::NotFound));
        let limit = |runtime| is_limited(runtime, text("1000000\n"));
        let unlimited = "the kernel does not limit real-time threads";
        let unread = "the kernel's limit of real-time threads cannot be read";
        for (spin_us, runtime, permitted, said) in [
            (Some(50), "950000\n", true, "spin_us is set"),
            (None, "-1\n", true, unlimited),
            (None, "1000000\n", true, unlimited),
            (None, "", true, unread),
            (None, "unreadable", true, unread),
            (
                None,
                "950000\n",
                false,
                "the kernel refuses it: permission denied",
            ),
        ] {
            let limit = || match runtime {
                "unreadable" => limit(unreadable()),
                runtime => limit(text(runtime)),
            };
            let permitted = || {
                permitted
                    .then_some(())
                    .ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))
            };
            let auto = interface(PriorityChoice::Auto, spin_us);
            let rank = decide(&auto, limit(), permitted()).unwrap();
            assert_eq!(rank.priority, Priority::Normal);
            let reason = rank.reason.unwrap_or_default();
            assert!(reason.starts_with(said), "{reason}");

            let real_time = interface(PriorityChoice::RealTime, spin_us);
            let error = decide(&real_time, limit(), permitted())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!(
                    "interface.priority: rt is not to be had: {reason}; "
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
