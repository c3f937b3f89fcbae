//! What of a configuration `--datapath kernel` cannot do.

use dataplane::xsk::SocketMode;

use super::{Config, InterfaceConfig, Problem, Queues};

impl Config {
    /// Everything that keeps this configuration from being used by `--datapath kernel`.
    pub fn kernel_problems(&self) -> Vec<Problem> {
        let InterfaceConfig { queues, mode, .. } = &self.interface;
        let mut problems = Vec::new();
        if let Some(queues @ Queues::List(_)) = queues {
            problems.push(problem(
                "interface.queues",
                format!(
                    "{queues} is a part of the queues, and --datapath kernel serves all of them"
                ),
            ));
        }
        if *mode == SocketMode::ZeroCopy {
            problems.push(problem(
                "interface.mode",
                "zero-copy is a mode of sockets, and --datapath kernel has none".to_owned(),
            ));
        }
        let refusals = self.to_service_spec().kernel_refusals().into_iter();
        problems.extend(refusals.map(|refusal| Problem {
            line: None,
            field: refusal.field,
            problem: refusal.problem,
            remedy: refusal.remedy,
        }));
        problems
    }

    /// Keys that do nothing under `--datapath kernel`.
    pub fn kernel_warning(&self) -> Option<Problem> {
        let (own, usual) = (&self.interface, InterfaceConfig::default());
        let idle: Vec<_> = [
            ("cpus", own.cpus != usual.cpus),
            ("priority", own.priority != usual.priority),
            ("frames", own.frames != usual.frames),
            ("huge_pages", own.huge_pages != usual.huge_pages),
            ("busy_poll", own.busy_poll != usual.busy_poll),
            ("spin_us", own.spin_us != usual.spin_us),
        ]
        .into_iter()
        .filter_map(|(key, is_set)| is_set.then_some(key))
        .collect();
        let (problem, remedy) = match idle.as_slice() {
            [] => return None,
            [key] => (
                format!("{key} is for workers, and --datapath kernel has none: it does nothing"),
                "leave it out",
            ),
            [keys @ .., last] => (
                format!(
                    "{} and {last} are for workers, and --datapath kernel has none: they do nothing",
                    keys.join(", ")
                ),
                "leave them out",
            ),
        };
        Some(Problem {
            line: None,
            field: "interface".to_owned(),
            problem,
            remedy: remedy.to_owned(),
        })
    }
}

fn problem(field: &str, problem: String) -> Problem {
    Problem {
        line: None,
        field: field.to_owned(),
        problem,
        remedy: "leave it out, or use --datapath xsk".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: fn(&mut InterfaceConfig)) -> Config {
        let mut config = Config::default();
        change(&mut config.interface);
        config
    }

    fn problems(change: fn(&mut InterfaceConfig)) -> Vec<String> {
        let problems = with(change).kernel_problems();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_only_sockets_have_is_refused() {
        let none: [&str; 0] = [];
        assert_eq!(problems(|_| ()), none);
        assert_eq!(problems(|own| own.queues = Some(Queues::All)), none);
        let both = problems(|own| {
            own.queues = "0-1".parse().ok();
            own.mode = SocketMode::ZeroCopy;
        });
        assert_eq!(
            both,
            [
                "interface.queues: 0-1 is a part of the queues, and --datapath kernel serves all of \
                 them; leave it out, or use --datapath xsk",
                "interface.mode: zero-copy is a mode of sockets, and --datapath kernel has none; leave \
                 it out, or use --datapath xsk"
            ]
        );
    }

    #[test]
    fn what_only_workers_have_does_nothing() {
        let warning = |change| {
            with(change)
                .kernel_warning()
                .map(|warning| warning.to_string())
        };
        assert_eq!(warning(|_| ()), None);
        assert_eq!(
            warning(|own| own.spin_us = Some(5)).as_deref(),
            Some(
                "interface: spin_us is for workers, and --datapath kernel has none: it does nothing; \
                 leave it out"
            )
        );
        let three = warning(|own| {
            own.spin_us = Some(5);
            own.cpus = "0".parse().ok();
            own.huge_pages = true;
        });
        assert_eq!(
            three.as_deref(),
            Some(
                "interface: cpus, huge_pages and spin_us are for workers, and --datapath kernel has \
                 none: they do nothing; leave them out"
            )
        );
    }
}
