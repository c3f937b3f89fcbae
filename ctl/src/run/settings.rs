//! What to run: the configuration file with the command line on top.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

use crate::{
    cli::RunArgs,
    config::{Config, ConfigError, IndexList, PriorityChoice, Problem, Queues},
};

/// Where the configuration comes from, so that a reload reads it the same way again.
#[derive(Clone, Debug)]
pub(super) struct Source {
    path: Option<PathBuf>,
    interface: Option<String>,
    queues: Option<Queues>,
    mode: Option<dataplane::xsk::SocketMode>,
    xdp_mode: Option<xdp_redirect::XdpMode>,
    cpus: Option<IndexList>,
    priority: Option<PriorityChoice>,
    socket: Option<PathBuf>,
}

impl Source {
    pub(super) fn new(args: &RunArgs) -> Self {
        Self {
            // A reload must find the file whatever the working directory is then.
            path: args
                .config
                .as_ref()
                .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
            interface: args.iface.clone(),
            queues: args.queues.clone(),
            mode: args.mode,
            xdp_mode: args.xdp_mode,
            cpus: args.cpus.clone(),
            priority: args.priority,
            socket: args.socket.clone(),
        }
    }

    /// The configuration file.
    pub(super) fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    /// Reads the file, if there is one, and puts the command line on top.
    pub(super) fn read(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.path {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        let Self {
            path: _,
            interface,
            queues,
            mode,
            xdp_mode,
            cpus,
            priority,
            socket,
        } = self.clone();
        let file = &mut config.interface;
        file.name = interface.or(file.name.take());
        file.queues = queues.or(file.queues.take());
        file.mode = mode.unwrap_or(file.mode);
        file.xdp_mode = xdp_mode.unwrap_or(file.xdp_mode);
        file.priority = priority.unwrap_or(file.priority);
        file.cpus = cpus.or(file.cpus.take());
        if let Some(socket) = socket {
            config.admin.socket = socket;
        }
        let problems = config.problems();
        if problems.is_empty() {
            return Ok(config);
        }
        // The file by itself is valid, so the command line made it otherwise.
        Err(ConfigError {
            name: "command line".to_owned(),
            problems,
        })
    }
}

/// The interface's name.
pub(super) fn interface_name(config: &Config) -> anyhow::Result<String> {
    config.interface.name.clone().context(
        "interface: none is named; give --iface NAME, or name = \"NAME\" in [interface] of the \
         configuration",
    )
}

/// The queues that get workers, of the `existing` ones of the interface.
pub(super) fn queues(config: &Config, interface: &str, existing: u32) -> anyhow::Result<Vec<u32>> {
    let list = match &config.interface.queues {
        None | Some(Queues::All) => return Ok((0..existing).collect()),
        Some(Queues::List(list)) => list.indices(),
    };
    if let Some(queue) = list.iter().find(|&&queue| queue >= existing) {
        let wanted = list.iter().max().map_or(0, |last| last + 1);
        let have = match existing {
            1 => "has 1 RX queue, number 0".to_owned(),
            _ => format!("has {existing} RX queues, 0 to {}", existing - 1),
        };
        bail!(
            "queue {queue}: interface {interface} {have}; name those, or give it {wanted} queues first, \
             where the driver can, with `ethtool -L {interface}`"
        );
    }
    Ok(list.to_vec())
}

/// A CPU for each of `workers` workers.
pub(super) fn cpus(config: &Config, workers: usize) -> anyhow::Result<Vec<usize>> {
    let usable = usable_cpus(config).map_err(|problem| anyhow!("{problem}"))?;
    Ok(usable.into_iter().cycle().take(workers).collect())
}

/// The CPUs that workers get in turn.
pub(crate) fn usable_cpus(config: &Config) -> Result<Vec<usize>, Problem> {
    let problem = |field: String, problem: String, remedy: String| Problem {
        line: None,
        field,
        problem,
        remedy,
    };
    let allowed = allowed_cpus().map_err(|error| {
        problem(
            String::new(),
            format!("the CPUs of this process are unknown: {error}"),
            "name some in interface.cpus".to_owned(),
        )
    })?;
    let chosen: Vec<usize> = match &config.interface.cpus {
        None => allowed,
        Some(list) => {
            let list: Vec<usize> = list.indices().iter().map(|&cpu| cpu as usize).collect();
            if let Some(cpu) = list.iter().find(|cpu| !allowed.contains(cpu)) {
                return Err(problem(
                    format!("cpu {cpu}"),
                    "this process may not run there".to_owned(),
                    format!(
                        "name CPUs among {}, or widen its CPU set",
                        display(&allowed)
                    ),
                ));
            }
            list
        }
    };
    if chosen.is_empty() {
        return Err(problem(
            String::new(),
            "this process may not run on any CPU that can be named".to_owned(),
            "widen its CPU set".to_owned(),
        ));
    }
    Ok(chosen)
}

fn allowed_cpus() -> nix::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect())
}

/// `0-3,8`
pub(crate) fn display(indices: &[usize]) -> String {
    let list = IndexList::new(indices.iter().map(|&index| index as u32).collect());
    list.map_or_else(|_| format!("{indices:?}"), |list| list.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_queues(text: &str) -> Config {
        let mut config = Config::default();
        config.interface.queues = Some(text.parse().unwrap());
        config
    }

    #[test]
    fn queues_must_exist() {
        assert_eq!(queues(&with_queues("all"), "eth0", 3).unwrap(), [0, 1, 2]);
        assert_eq!(queues(&Config::default(), "eth0", 2).unwrap(), [0, 1]);
        assert_eq!(queues(&with_queues("2,0"), "eth0", 3).unwrap(), [2, 0]);
        let error = queues(&with_queues("0-4"), "eth0", 4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "queue 4: interface eth0 has 4 RX queues, 0 to 3; name those, or give it 5 queues first, \
             where the driver can, with `ethtool -L eth0`"
        );
        let error = queues(&with_queues("1"), "lo", 1).unwrap_err();
        assert!(
            error.to_string().contains("has 1 RX queue, number 0;"),
            "{error}"
        );
    }

    #[test]
    fn cpus_are_used_again_when_there_are_fewer() {
        let allowed = allowed_cpus().unwrap();
        let mut config = Config::default();
        let given = cpus(&config, allowed.len() + 1).unwrap();
        assert_eq!(given[..allowed.len()], allowed);
        assert_eq!(given[allowed.len()], allowed[0]);

        config.interface.cpus = Some(allowed[0].to_string().parse().unwrap());
        assert_eq!(cpus(&config, 2).unwrap(), [allowed[0]; 2]);

        config.interface.cpus = Some("1000".parse().unwrap());
        let error = cpus(&config, 1).unwrap_err().to_string();
        assert!(
            error.starts_with("cpu 1000: this process may not run there;"),
            "{error}"
        );
    }

    #[test]
    fn the_command_line_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lb.toml");
        std::fs::write(
            &path,
            "[interface]\nname = \"eth0\"\nqueues = \"0-3\"\nmode = \"copy\"\ncpus = \"0\"\n",
        )
        .unwrap();
        let mut source = Source {
            path: Some(path),
            interface: Some("eth1".to_owned()),
            queues: None,
            mode: Some(dataplane::xsk::SocketMode::ZeroCopy),
            xdp_mode: None,
            cpus: None,
            priority: Some(PriorityChoice::Normal),
            socket: Some("/run/other.sock".into()),
        };
        let config = source.read().unwrap();
        assert_eq!(config.interface.name.as_deref(), Some("eth1"));
        assert_eq!(config.interface.queues, Some("0-3".parse().unwrap()));
        assert_eq!(config.interface.mode, dataplane::xsk::SocketMode::ZeroCopy);
        assert_eq!(config.interface.cpus, Some("0".parse().unwrap()));
        assert_eq!(config.interface.priority, PriorityChoice::Normal);
        assert_eq!(config.admin.socket, PathBuf::from("/run/other.sock"));

        source.interface = Some("a/b".to_owned());
        assert_eq!(
            source.read().unwrap_err().to_string(),
            "command line: interface.name: \"a/b\" is not an interface name; give 1 to 15 characters \
             without slash, colon or space, as `ip link` shows them"
        );
    }
}
