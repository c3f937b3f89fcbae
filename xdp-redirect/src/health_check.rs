//! The `healthcheck` program: attachment, marks and their reals, counters.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::{
    maps::{MapError, PerCpuValues},
    programs::ProgramError,
    util::nr_cpus,
};
use xdp_layout::{AddressKey, HealthCheckConfig, MAX_HEALTH_CHECKS};

use crate::{
    counters::{HealthCheckCounters, Traffic},
    decap,
    error::{AttachError, chain},
    object::{self, HashTable, Loaded, PerCpu, PerCpuTable},
    tc::{self, TcAttachment, TcHook},
    test_run::{self, TcTestRun},
};

/// How probes are encapsulated, and which marks make a packet one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckOptions {
    /// Index of the interface that they leave by; `None` is the one that the program is attached to.
    pub interface: Option<u32>,
    /// Ethernet source: the address of that interface.
    pub source_mac: [u8; 6],
    /// Ethernet destination; while it is not known, probes are dropped.
    pub next_hop_mac: Option<[u8; 6]>,
    /// Outer source towards IPv4 reals.
    pub source_v4: Ipv4Addr,
    /// Outer source towards IPv6 reals.
    pub source_v6: Ipv6Addr,
    /// UDP destination port of GUE; `None` is IPIP.
    pub gue_port: Option<u16>,
    /// Longest frame in bytes, Ethernet header included, before it is encapsulated.
    pub max_frame: Option<u32>,
    /// The real that a mark names. Mark 0 is none.
    pub reals: BTreeMap<u32, IpAddr>,
}

/// Marks or settings that the program could not take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthCheckError {
    /// More than can be held; nothing was changed.
    #[error("{0} marks are more than the {MAX_HEALTH_CHECKS} that can be held")]
    TooMany(usize),
    /// Mark 0 is what packets have that nobody marked; nothing was changed.
    #[error("mark 0 cannot name a real: it is the mark of every packet that has none")]
    MarkZero,
    /// The kernel refused a change; those before it are made.
    #[error("cannot {action}: {}", chain(source))]
    Map {
        /// What was to be done.
        action: String,
        /// What the kernel said.
        source: MapError,
    },
}

/// The `healthcheck` program. Dropping it detaches it.
pub struct HealthCheck {
    /// Before the maps, so that the program is off the interface when they go.
    attachment: Option<TcAttachment>,
    loaded: Loaded,
    config: HashTable<4, [u8; HealthCheckConfig::SIZE]>,
    reals: HashTable<4, [u8; AddressKey::SIZE]>,
    traffic: PerCpuTable<4, [u64; 2]>,
    held: BTreeMap<u32, IpAddr>,
    counters: PerCpu<u64>,
}

impl fmt::Debug for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthCheck")
            .field("attachment", &self.attachment)
            .field("reals", &self.held)
            .finish_non_exhaustive()
    }
}

impl HealthCheck {
    /// Loads the program, attached to nothing and without marks.
    pub fn load() -> Result<Self, AttachError> {
        let mut loaded = object::HEALTH_CHECK.load_classifier()?;
        Ok(Self {
            attachment: None,
            config: loaded.map("CONFIG")?,
            reals: loaded.map("REALS")?,
            traffic: loaded.map("TRAFFIC")?,
            held: BTreeMap::new(),
            counters: loaded.map("COUNTERS")?,
            loaded,
        })
    }

    /// Attaches the program to the egress of an interface, or moves it there. `hook` left out is a
    /// link where the kernel has them, else a filter.
    pub fn attach_to(&mut self, interface: &str, hook: Option<TcHook>) -> Result<(), AttachError> {
        self.attachment = None;
        let name = object::HEALTH_CHECK.name();
        let program = self.loaded.classifier_mut()?;
        self.attachment = Some(TcAttachment::new(program, name, interface, hook)?);
        Ok(())
    }

    /// Takes the program off its interface; marks and counters stay.
    pub fn detach(&mut self) {
        self.attachment = None;
    }

    /// How the program is attached, if it is attached.
    pub fn hook(&self) -> Option<TcHook> {
        self.attachment.as_ref().map(|attachment| attachment.hook)
    }

    /// Removes what a process that was killed may have left at the egress of an interface; whether
    /// there was something. Nobody else may be running on it.
    pub fn remove_stale(interface: &str) -> Result<bool, AttachError> {
        tc::remove_stale(object::HEALTH_CHECK.name(), interface)
    }

    /// Puts settings and marks into force: additions and changes first, removals last.
    pub fn apply(&mut self, options: &HealthCheckOptions) -> Result<(), HealthCheckError> {
        let wanted = &options.reals;
        if wanted.len() > MAX_HEALTH_CHECKS as usize {
            return Err(HealthCheckError::TooMany(wanted.len()));
        }
        if wanted.contains_key(&0) {
            return Err(HealthCheckError::MarkZero);
        }
        let failed = |action: &str| {
            let action = action.to_owned();
            move |source| HealthCheckError::Map { action, source }
        };
        self.config
            .insert(0_u32.to_ne_bytes(), config(options).to_bytes(), 0)
            .map_err(failed("write the settings"))?;
        for (&mark, &real) in wanted {
            let before = self.held.get(&mark);
            if before == Some(&real) {
                continue;
            }
            let key = mark.to_ne_bytes();
            if before.is_none() {
                // A mark counts from its addition on.
                self.start_count(mark)
                    .map_err(failed(&format!("count mark {mark}")))?;
            }
            self.reals
                .insert(key, decap::key(real), 0)
                .map_err(failed(&format!("write mark {mark}")))?;
            self.held.insert(mark, real);
        }
        let removed: Vec<u32> = self
            .held
            .keys()
            .filter(|mark| !wanted.contains_key(mark))
            .copied()
            .collect();
        for mark in removed {
            let failed = failed(&format!("remove mark {mark}"));
            let key = mark.to_ne_bytes();
            // An earlier removal may have failed half way.
            absent(self.reals.remove(&key))
                .and_then(|()| absent(self.traffic.remove(&key)))
                .map_err(failed)?;
            self.held.remove(&mark);
        }
        Ok(())
    }

    fn start_count(&mut self, mark: u32) -> Result<(), MapError> {
        let cpus = nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
        let zeros = PerCpuValues::try_from(vec![[0; 2]; cpus]).map_err(MapError::IoError)?;
        self.traffic.insert(mark.to_ne_bytes(), zeros, 0)
    }

    /// What became of the packets so far, on all CPUs.
    pub fn counters(&self) -> Result<HealthCheckCounters, MapError> {
        HealthCheckCounters::read(&self.counters)
    }

    /// What was sent with each mark since it was added; bytes are those of the frames before they were
    /// encapsulated.
    pub fn traffic(&self) -> Result<BTreeMap<u32, Traffic>, MapError> {
        let of = |&mark: &u32| {
            let values = self.traffic.get(&mark.to_ne_bytes(), 0)?;
            let sum = values
                .iter()
                .fold(Traffic::default(), |sum, [packets, bytes]| Traffic {
                    packets: sum.packets.wrapping_add(*packets),
                    bytes: sum.bytes.wrapping_add(*bytes),
                });
            Ok((mark, sum))
        };
        self.held.keys().map(of).collect()
    }

    /// Runs the program over one frame of at least 14 bytes with this mark, without sending anything.
    pub fn test_run(&self, frame: &[u8], mark: u32) -> Result<TcTestRun, ProgramError> {
        let program = self
            .loaded
            .classifier()
            .map_err(|_| ProgramError::UnexpectedProgramType)?;
        test_run::run_tc(program, frame, mark)
    }
}

/// A removal of what is not there is done.
fn absent(removal: Result<(), MapError>) -> Result<(), MapError> {
    match removal {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn config(options: &HealthCheckOptions) -> HealthCheckConfig {
    HealthCheckConfig {
        interface: options.interface.unwrap_or(0),
        max_frame: options.max_frame.unwrap_or(0),
        source_v6: options.source_v6.octets(),
        source_v4: options.source_v4.octets(),
        destination_mac: options.next_hop_mac.unwrap_or_default(),
        source_mac: options.source_mac,
        gue_port: options.gue_port.unwrap_or(0).to_be_bytes(),
        zero: [0; 2],
    }
}

#[cfg(test)]
#[path = "../tests/support/privilege.rs"]
mod privilege;

#[cfg(test)]
mod tests {
    use std::io;

    use aya::sys::SyscallError;

    use super::*;

    fn refused(errno: i32) -> MapError {
        MapError::SyscallError(SyscallError {
            call: "bpf_map_delete_elem",
            io_error: io::Error::from_raw_os_error(errno),
        })
    }

    #[test]
    fn what_is_gone_is_removed() {
        absent(Ok(())).expect("removed");
        absent(Err(MapError::KeyNotFound)).expect("not there");
        absent(Err(refused(libc::ENOENT))).expect("not there");
        absent(Err(refused(libc::EPERM))).expect_err("still there");
    }

    #[test]
    fn a_mark_whose_removal_failed_half_way_is_not_stuck() {
        if !privilege::is_privileged("a_mark_whose_removal_failed_half_way_is_not_stuck") {
            return;
        }
        let mut program = HealthCheck::load().expect("the kernel takes the program");
        let mut options = HealthCheckOptions {
            interface: None,
            source_mac: [2, 0, 0, 0, 0, 1],
            next_hop_mac: None,
            source_v4: Ipv4Addr::new(192, 0, 2, 1),
            source_v6: Ipv6Addr::UNSPECIFIED,
            gue_port: None,
            max_frame: None,
            reals: BTreeMap::from([(7, IpAddr::from([198, 51, 100, 11]))]),
        };
        program.apply(&options).expect("applied");
        program.reals.remove(&7_u32.to_ne_bytes()).expect("removed");
        let mark = options.reals.split_off(&7);
        program.apply(&options).expect("the rest is removed");
        assert!(program.traffic().expect("traffic").is_empty());
        options.reals = mark;
        program.apply(&options).expect("the mark comes back");
        assert_eq!(program.traffic().expect("traffic").len(), 1);
    }
}
