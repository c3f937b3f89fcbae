//! The command table, and the way from words or JSON to a [`Command`].
//!
//! [`COMMANDS`] declares each command once: its name, its arguments and its help. Both parsers, the
//! help texts, the shell's completion and the reference in the documentation read it.

mod complete;
mod table;
mod value;
mod words;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::IpAddr,
    ops::RangeInclusive,
    path::{self, Path},
    str::FromStr,
};

use dataplane::{
    forward::{Asked, FlowId},
    service::{HashFunction, Protocol, RealSpec, VipFlags, VipKey},
};
use serde_json::{Map, Value};

pub use complete::{Live, complete};
pub use table::{ArgumentSpec, COMMANDS, CommandSpec, Kind, Verb};
pub use value::parse_vip;
use words::Given;

use super::error::AdminError;
use crate::{capture, config::HealthCheckSpec, control::WhichServerIds};

/// Rows of a list unless something else is said.
pub const DEFAULT_LIMIT: usize = 100;
/// Most rows one answer lists.
pub const MAX_LIMIT: usize = 10_000;
/// Most server ids one command names.
const MAX_IDS: usize = 65_536;

/// A command with its arguments checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// VIPs.
    VipList {
        /// Only this one.
        vip: Option<VipKey>,
    },
    /// A new VIP.
    VipAdd {
        /// Identity.
        vip: VipKey,
        /// Ring generation; the configured default when left out.
        hash: Option<HashFunction>,
        /// Behaviour.
        flags: VipFlags,
        /// Real servers.
        reals: Vec<RealSpec>,
    },
    /// A VIP goes.
    VipDel {
        /// Identity.
        vip: VipKey,
    },
    /// Another hash function, more flags.
    VipSet {
        /// Identity.
        vip: VipKey,
        /// New ring generation.
        hash: Option<HashFunction>,
        /// Flags to set.
        flags: VipFlags,
    },
    /// Fewer flags.
    VipUnset {
        /// Identity.
        vip: VipKey,
        /// Flags to clear.
        flags: VipFlags,
    },
    /// Reals of the VIPs.
    RealList {
        /// Only those of this VIP.
        vip: Option<VipKey>,
        /// Which rows.
        page: Page,
    },
    /// More reals for a VIP.
    RealAdd {
        /// The VIP.
        vip: VipKey,
        /// The reals.
        reals: Vec<RealSpec>,
    },
    /// Fewer reals for a VIP.
    RealDel {
        /// The VIP.
        vip: VipKey,
        /// The reals.
        reals: Vec<IpAddr>,
    },
    /// Another weight.
    RealWeight {
        /// The VIP.
        vip: VipKey,
        /// The real.
        real: IpAddr,
        /// Its new weight.
        weight: u32,
    },
    /// Whether a real is this host.
    RealLocal {
        /// The real.
        real: IpAddr,
        /// It is.
        local: bool,
    },
    /// Reals of a VIP are down, or up again.
    RealDown {
        /// The VIP.
        vip: VipKey,
        /// The reals.
        reals: Vec<IpAddr>,
        /// Down, or up again.
        down: bool,
    },
    /// Decap destinations.
    DecapList,
    /// A new decap destination.
    DecapAdd {
        /// Outer destination.
        address: IpAddr,
        /// Send the inner packets of GUE tunnels out.
        egress: bool,
    },
    /// Fewer decap destinations.
    DecapDel {
        /// Outer destinations.
        addresses: Vec<IpAddr>,
    },
    /// Source routes.
    SrcRouteList {
        /// Only those in this prefix.
        within: Option<(IpAddr, u8)>,
        /// Only those to this real.
        real: Option<IpAddr>,
        /// Which rows.
        page: Page,
    },
    /// The source route of a client.
    SrcRouteGet {
        /// The client.
        client: IpAddr,
    },
    /// Clients of these prefixes go to the real.
    SrcRouteAdd {
        /// The real.
        real: IpAddr,
        /// Prefixes of clients.
        prefixes: Vec<(IpAddr, u8)>,
    },
    /// Fewer source routes.
    SrcRouteDel {
        /// Prefixes of clients.
        prefixes: Vec<(IpAddr, u8)>,
    },
    /// No source routes.
    SrcRouteClear,
    /// The workers.
    ShowWorkers,
    /// Traffic per VIP, real and worker.
    ShowStats {
        /// Only this VIP.
        vip: Option<VipKey>,
        /// Only the worker of this queue.
        worker: Option<u32>,
    },
    /// Drops by reason.
    ShowDrops,
    /// The running configuration and facts about the start.
    ShowConfig,
    /// Where the memory is.
    ShowMemory,
    /// Flows in the tables.
    FlowList {
        /// Which flows.
        filter: FlowFilter,
        /// Most rows.
        limit: usize,
    },
    /// One flow.
    FlowGet(FlowId),
    /// Forgets one flow.
    FlowDel(FlowId),
    /// Forgets a VIP's flows.
    FlowPurge {
        /// Which flows; the VIP is always there.
        filter: FlowFilter,
    },
    /// How many flows.
    FlowCount {
        /// Which flows.
        filter: FlowFilter,
    },
    /// Flows by VIP, real and age.
    FlowAnalyze {
        /// Only those of this VIP.
        vip: Option<VipKey>,
        /// Only those in the table of this queue's worker.
        worker: Option<u32>,
    },
    /// What would become of a flow's packet.
    Explain {
        /// The flow.
        id: FlowId,
        /// Which of its packets.
        asked: Asked,
        /// The packet comes in an IPIP tunnel to this address.
        tunnel: Option<IpAddr>,
    },
    /// Starts a capture.
    CaptureStart(capture::Request),
    /// Ends it.
    CaptureStop,
    /// How it is going.
    CaptureStatus,
    /// Server ids.
    SidList {
        /// Only those of this real.
        real: Option<IpAddr>,
        /// Which rows.
        page: Page,
    },
    /// Ids get a real.
    SidAdd {
        /// The ids.
        ids: Vec<u32>,
        /// The real.
        real: IpAddr,
    },
    /// Ids go.
    SidDel {
        /// The ids.
        ids: Vec<u32>,
    },
    /// Whether workers use ids.
    SidValid {
        /// Which ids.
        which: WhichServerIds,
        /// They do.
        valid: bool,
    },
    /// Health checks.
    HcList {
        /// Which rows.
        page: Page,
    },
    /// A mark gets a real.
    HcAdd(HealthCheckSpec),
    /// Marks go.
    HcDel {
        /// The marks.
        marks: Vec<u32>,
    },
    /// A setting has another value, or its default.
    Set {
        /// Its key in the file.
        key: String,
        /// The value, as in the file; quotes may be left out.
        value: Option<String>,
    },
    /// Reads the file again.
    Reload,
    /// The running configuration as TOML.
    Dump,
    /// What there is to ask.
    Help {
        /// Commands whose name starts with this.
        command: Option<String>,
    },
    /// Versions.
    Version,
}

/// Which rows of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Rows to leave out at the start.
    pub offset: usize,
    /// Most rows.
    pub limit: usize,
}

/// Which flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Those to this VIP.
    pub vip: Option<VipKey>,
    /// Those to this real.
    pub real: Option<IpAddr>,
    /// Those in the table of this queue's worker.
    pub worker: Option<u32>,
}

impl FlowFilter {
    /// Every flow of every worker.
    pub const fn is_all(&self) -> bool {
        self.vip.is_none() && self.real.is_none()
    }
}

/// A command's arguments, each known to the table, none checked for its meaning yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    spec: &'static CommandSpec,
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Arguments {
    const fn new(spec: &'static CommandSpec) -> Self {
        Self {
            spec,
            values: BTreeMap::new(),
        }
    }

    /// The command.
    pub const fn spec(&self) -> &'static CommandSpec {
        self.spec
    }

    /// As the `args` of a request.
    pub fn to_json(&self) -> Map<String, Value> {
        let value = |name: &&str, values: &[String]| match values {
            [one]
                if !self
                    .spec
                    .argument(name)
                    .is_some_and(|argument| argument.repeated) =>
            {
                Value::from(one.as_str())
            }
            many => Value::from(many),
        };
        self.values
            .iter()
            .map(|(name, values)| ((*name).to_owned(), value(name, values)))
            .collect()
    }

    /// Makes paths absolute, seen from this process: the balancer has another current directory.
    pub fn resolve_paths(&mut self) -> io::Result<()> {
        for (name, values) in &mut self.values {
            let is_path = |argument: &ArgumentSpec| argument.kind == Kind::File;
            if !self.spec.argument(name).is_some_and(is_path) {
                continue;
            }
            for value in values {
                let absolute = path::absolute(Path::new(value.as_str()))?;
                if let Some(text) = absolute.to_str() {
                    text.clone_into(value);
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, argument: &'static ArgumentSpec, text: &str) -> Result<(), AdminError> {
        let values = self.values.entry(argument.name).or_default();
        if argument.repeated {
            values.extend(
                text.split(',')
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned),
            );
        } else if values.is_empty() {
            values.push(text.to_owned());
        } else {
            return Err(AdminError::new(
                argument.name,
                format!("given twice: {} and {text}", values[0]),
                "give it once",
            ));
        }
        Ok(())
    }

    fn check_required(&self) -> Result<(), AdminError> {
        // An endpoint with its protocol at the end leaves an argument out, which is not the cause.
        for name in ["source", "destination"] {
            self.optional(name, value::parse_endpoint)?;
        }
        for argument in self
            .spec
            .arguments
            .iter()
            .filter(|argument| argument.required)
        {
            if self.values.get(argument.name).is_none_or(Vec::is_empty) {
                return Err(AdminError::new(
                    argument.name,
                    format!("missing; {}", argument.help),
                    format!("usage: {}", self.spec.usage()),
                ));
            }
        }
        Ok(())
    }

    /// The command these arguments make.
    ///
    /// # Errors
    ///
    /// The first value that is not what its argument wants.
    pub fn command(&self) -> Result<Command, AdminError> {
        let vip = || self.required("vip", value::parse_vip);
        let page = || {
            Ok::<_, AdminError>(Page {
                offset: self.optional("offset", value::parse_number)?.unwrap_or(0),
                limit: self.limit()?,
            })
        };
        let filter = || {
            Ok::<_, AdminError>(FlowFilter {
                vip: self.optional("vip", value::parse_vip)?,
                real: self.optional("real", value::parse_address)?,
                worker: self.optional("worker", value::parse_number)?,
            })
        };
        Ok(match self.spec.verb {
            Verb::VipList => Command::VipList {
                vip: self.optional("vip", value::parse_vip)?,
            },
            Verb::VipAdd => Command::VipAdd {
                vip: vip()?,
                hash: self.optional("hash", value::parse_hash)?,
                flags: self.flags()?,
                reals: self.many("real", value::parse_weighted_real)?,
            },
            Verb::VipDel => Command::VipDel { vip: vip()? },
            Verb::VipSet => {
                let (hash, flags) = (self.optional("hash", value::parse_hash)?, self.flags()?);
                if hash.is_none() && flags.is_empty() {
                    return Err(AdminError::new(
                        "flags",
                        "nothing to set",
                        "give flags=FLAG,… or hash=HASH",
                    ));
                }
                Command::VipSet {
                    vip: vip()?,
                    hash,
                    flags,
                }
            }
            Verb::VipUnset => Command::VipUnset {
                vip: vip()?,
                flags: self.flags()?,
            },
            Verb::RealList => Command::RealList {
                vip: self.optional("vip", value::parse_vip)?,
                page: page()?,
            },
            Verb::RealAdd => {
                let local = self.optional("local", value::parse_bool)?.unwrap_or(false);
                let mut reals = self.many("real", value::parse_weighted_real)?;
                for real in &mut reals {
                    real.local = local;
                }
                Command::RealAdd { vip: vip()?, reals }
            }
            Verb::RealDel => Command::RealDel {
                vip: vip()?,
                reals: self.many("real", value::parse_address)?,
            },
            Verb::RealWeight => Command::RealWeight {
                vip: vip()?,
                real: self.required("real", value::parse_address)?,
                weight: self.required("weight", value::parse_weight)?,
            },
            Verb::RealDown | Verb::RealUp => Command::RealDown {
                vip: vip()?,
                reals: self.many("real", value::parse_address)?,
                down: self.spec.verb == Verb::RealDown,
            },
            Verb::RealSet | Verb::RealUnset => {
                self.required("flag", value::parse_real_flag)?;
                Command::RealLocal {
                    real: self.required("real", value::parse_address)?,
                    local: self.spec.verb == Verb::RealSet,
                }
            }
            Verb::DecapList => Command::DecapList,
            Verb::DecapAdd => Command::DecapAdd {
                address: self.required("address", value::parse_address)?,
                egress: self.optional("egress", value::parse_bool)?.unwrap_or(false),
            },
            Verb::DecapDel => Command::DecapDel {
                addresses: self.many("address", value::parse_address)?,
            },
            Verb::SrcRouteList => Command::SrcRouteList {
                within: self.optional("within", value::parse_prefix)?,
                real: self.optional("real", value::parse_address)?,
                page: page()?,
            },
            Verb::SrcRouteGet => Command::SrcRouteGet {
                client: self.required("client", value::parse_address)?,
            },
            Verb::SrcRouteAdd => Command::SrcRouteAdd {
                real: self.required("real", value::parse_route_real)?,
                prefixes: self.many("prefix", value::parse_prefix)?,
            },
            Verb::SrcRouteDel => Command::SrcRouteDel {
                prefixes: self.many("prefix", value::parse_prefix)?,
            },
            Verb::SrcRouteClear => Command::SrcRouteClear,
            Verb::ShowWorkers => Command::ShowWorkers,
            Verb::ShowStats => Command::ShowStats {
                vip: self.optional("vip", value::parse_vip)?,
                worker: self.optional("worker", value::parse_number)?,
            },
            Verb::ShowDrops => Command::ShowDrops,
            Verb::ShowConfig => Command::ShowConfig,
            Verb::ShowMemory => Command::ShowMemory,
            Verb::FlowList => Command::FlowList {
                filter: filter()?,
                limit: self.limit()?,
            },
            Verb::FlowGet => Command::FlowGet(self.flow()?),
            Verb::FlowDel => Command::FlowDel(self.flow()?),
            Verb::FlowPurge => Command::FlowPurge { filter: filter()? },
            Verb::FlowAnalyze => Command::FlowAnalyze {
                vip: self.optional("vip", value::parse_vip)?,
                worker: self.optional("worker", value::parse_number)?,
            },
            Verb::FlowCount => Command::FlowCount { filter: filter()? },
            Verb::Explain => self.explain()?,
            Verb::CaptureStart => Command::CaptureStart(self.capture()?),
            Verb::CaptureStop => Command::CaptureStop,
            Verb::CaptureStatus => Command::CaptureStatus,
            Verb::SidList => Command::SidList {
                real: self.optional("real", value::parse_address)?,
                page: page()?,
            },
            Verb::SidAdd => Command::SidAdd {
                real: self.required("real", value::parse_named_real)?,
                ids: self.ids()?,
            },
            Verb::SidDel => Command::SidDel { ids: self.ids()? },
            Verb::SidInvalidate | Verb::SidRevalidate => Command::SidValid {
                which: self.server_ids()?,
                valid: self.spec.verb == Verb::SidRevalidate,
            },
            Verb::HcList => Command::HcList { page: page()? },
            Verb::HcAdd => Command::HcAdd(HealthCheckSpec {
                mark: self.required("mark", value::parse_mark)?,
                real: self.required("real", value::parse_address)?,
            }),
            Verb::HcDel => Command::HcDel {
                marks: self.many("mark", value::parse_mark)?,
            },
            Verb::Set => Command::Set {
                key: self.required("key", value::parse_text)?,
                value: Some(self.required("value", value::parse_text)?),
            },
            Verb::Unset => Command::Set {
                key: self.required("key", value::parse_text)?,
                value: None,
            },
            Verb::Reload => Command::Reload,
            Verb::Dump => Command::Dump,
            Verb::Help => Command::Help {
                command: self.values.get("command").map(|words| words.join(" ")),
            },
            Verb::Version => Command::Version,
        })
    }

    fn optional<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, value::Invalid>,
    ) -> Result<Option<T>, AdminError> {
        let text = self.values.get(name).and_then(|values| values.first());
        text.map(|text| parse(text).map_err(|invalid| invalid.of(name, text)))
            .transpose()
    }

    fn required<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, value::Invalid>,
    ) -> Result<T, AdminError> {
        self.optional(name, parse)?.ok_or_else(|| {
            AdminError::new(name, "missing", format!("usage: {}", self.spec.usage()))
        })
    }

    fn many<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, value::Invalid>,
    ) -> Result<Vec<T>, AdminError> {
        let texts = self
            .values
            .get(name)
            .map_or(&[] as &[String], Vec::as_slice);
        texts
            .iter()
            .map(|text| parse(text).map_err(|invalid| invalid.of(name, text)))
            .collect()
    }

    fn flags(&self) -> Result<VipFlags, AdminError> {
        Ok(self.many("flags", value::parse_flag)?.into_iter().collect())
    }

    fn explain(&self) -> Result<Command, AdminError> {
        let id = self.flow()?;
        let is = |name| self.optional(name, value::parse_bool);
        let asked = Asked {
            server_id: self.optional("sid", value::parse_server_id)?,
            syn: is("syn")?.unwrap_or(false),
            error: is("error")?.unwrap_or(false),
            ..Asked::default()
        };
        if asked.syn && id.protocol() == Protocol::Udp {
            return Err(AdminError::new(
                "syn",
                "true, and UDP has none",
                "leave it out, or ask about a TCP flow",
            ));
        }
        Ok(Command::Explain {
            id,
            asked,
            tunnel: self.optional("tunnel", value::parse_address)?,
        })
    }

    /// All server ids of ids and ranges.
    fn ids(&self) -> Result<Vec<u32>, AdminError> {
        let ranges = self.many("id", value::parse_server_ids)?;
        let count: usize = ranges.iter().map(|range| range.clone().count()).sum();
        if count > MAX_IDS {
            return Err(AdminError::new(
                "id",
                format!("{count} ids are too many for one command"),
                format!("give {MAX_IDS} at most, and the others in another command or in the file"),
            ));
        }
        Ok(ranges.into_iter().flatten().collect())
    }

    /// Either ids or the real that they name.
    fn server_ids(&self) -> Result<WhichServerIds, AdminError> {
        let ids = self.ids()?;
        let real = self.optional("real", value::parse_address)?;
        match (ids.is_empty(), real) {
            (false, None) => Ok(WhichServerIds::Ids(ids)),
            (true, Some(real)) => Ok(WhichServerIds::OfReal(real)),
            (true, None) => Err(AdminError::new(
                "id",
                "neither ids nor a real",
                format!("usage: {}", self.spec.usage()),
            )),
            (false, Some(_)) => Err(AdminError::new(
                "real",
                "given beside ids",
                "give ids, or real=ADDR for all that name it",
            )),
        }
    }

    fn limit(&self) -> Result<usize, AdminError> {
        self.number("limit", 1..=MAX_LIMIT, DEFAULT_LIMIT)
    }

    /// A number of this range, or what it is when it was left out.
    fn number<T: FromStr + PartialOrd + fmt::Display>(
        &self,
        name: &str,
        range: RangeInclusive<T>,
        default: T,
    ) -> Result<T, AdminError> {
        let number = self.optional(name, value::parse_number)?.unwrap_or(default);
        if range.contains(&number) {
            return Ok(number);
        }
        Err(AdminError::new(
            name,
            format!("{number} is out of range"),
            format!("give a number from {} to {}", range.start(), range.end()),
        ))
    }

    fn capture(&self) -> Result<capture::Request, AdminError> {
        let events = self.many("event", value::parse_event)?;
        if events.len() > capture::MAX_EVENTS {
            return Err(AdminError::new(
                "event",
                format!("{} events are too many", events.len()),
                format!("give {} at most", capture::MAX_EVENTS),
            ));
        }
        Ok(capture::Request {
            events,
            limit: self.number("limit", 1..=capture::MAX_LIMIT, capture::DEFAULT_LIMIT)?,
            snaplen: self.number(
                "snaplen",
                capture::MIN_SNAPLEN..=capture::MAX_SNAPLEN,
                capture::DEFAULT_SNAPLEN,
            )?,
            file: self.required("file", |text| Ok(text.into()))?,
            force: self.optional("force", value::parse_bool)?.unwrap_or(false),
        })
    }

    fn flow(&self) -> Result<FlowId, AdminError> {
        let source = self.required("source", value::parse_endpoint)?;
        let destination = self.required("destination", value::parse_endpoint)?;
        let protocol = self.required("protocol", value::parse_protocol)?;
        FlowId::new(source, destination, protocol).map_err(|_| {
            AdminError::new(
                "destination",
                format!("{destination} and the source {source} are of different families"),
                "give two IPv4 or two IPv6 endpoints",
            )
        })
    }
}

/// The command of exactly this name.
pub fn find(name: &str) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|spec| spec.name == name)
}

fn unknown_command(name: &str) -> AdminError {
    let first = name.split(' ').next().unwrap_or_default();
    let near: Vec<&str> = COMMANDS
        .iter()
        .filter(|spec| spec.name.split(' ').next() == Some(first))
        .map(|spec| spec.name)
        .collect();
    let remedy = if near.is_empty() {
        "`help` lists the commands".to_owned()
    } else {
        format!("try one of: {}", near.join(", "))
    };
    AdminError::new(
        "command",
        format!("`{}` is not a command", clip(name)),
        remedy,
    )
}

/// A part of what a client sent that is short enough to be sent back.
fn clip(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// Takes a line apart as a shell would: blanks separate words unless they are quoted, and `#` starts a
/// comment.
///
/// # Errors
///
/// A quote without its end.
pub fn split_line(line: &str) -> Result<Vec<String>, AdminError> {
    shlex::split(line).ok_or_else(|| {
        AdminError::new(
            "command",
            format!(
                "a quote is not closed, or a backslash has nothing behind it: `{}`",
                clip(line)
            ),
            "close it, or put a backslash before it",
        )
    })
}

/// Finds the command at the start of `words`; the rest are its arguments.
pub fn split_words<'a, 'w>(
    words: &'a [&'w str],
) -> Result<(&'static CommandSpec, &'a [&'w str]), AdminError> {
    for length in [2, 1] {
        if let Some((name, rest)) = words.split_at_checked(length)
            && let Some(spec) = find(&name.join(" "))
        {
            return Ok((spec, rest));
        }
    }
    let name = words.get(..2).unwrap_or(words).join(" ");
    Err(unknown_command(&name))
}

/// Reads a command in words: `vip add 203.0.113.10:80/tcp real=198.51.100.11@2`. A named argument can
/// also be written `--real=…` or `--real …`.
///
/// # Errors
///
/// Not a command, an argument it does not have, or one that is missing.
pub fn parse_words(words: &[&str]) -> Result<Arguments, AdminError> {
    let (spec, words) = split_words(words)?;
    let mut arguments = Arguments::new(spec);
    let mut positional = spec
        .arguments
        .iter()
        .filter(|argument| argument.positional)
        .peekable();
    for given in words::read(spec, words) {
        let word = match given {
            Given::Place(word) => word,
            Given::Named(argument, text) => {
                arguments.push(argument, text)?;
                continue;
            }
            Given::Dangling(argument, word) => {
                return Err(AdminError::new(
                    argument.name,
                    format!("`{word}` has no value"),
                    format!("write {}=VALUE", argument.name),
                ));
            }
            Given::Unknown(name) => return Err(unknown_argument(spec, name)),
        };
        // One that was given by name does not wait for its place any more.
        while positional
            .next_if(|next| !next.repeated && arguments.values.contains_key(next.name))
            .is_some()
        {}
        let argument = match positional.peek() {
            Some(argument) if argument.repeated => *argument,
            _ => positional.next().ok_or_else(|| {
                AdminError::new(
                    "command",
                    format!("`{}` is one word too many for `{}`", clip(word), spec.name),
                    format!("usage: {}", spec.usage()),
                )
            })?,
        };
        arguments.push(argument, word)?;
    }
    arguments.check_required()?;
    Ok(arguments)
}

/// Reads a command by name with its arguments in JSON.
///
/// # Errors
///
/// As [`parse_words`], and values that are neither text nor number nor truth value.
pub fn parse_json(name: &str, args: &Map<String, Value>) -> Result<Arguments, AdminError> {
    let spec = find(name).ok_or_else(|| unknown_command(name))?;
    let mut arguments = Arguments::new(spec);
    for (name, value) in args {
        let argument = spec
            .argument(name)
            .ok_or_else(|| unknown_argument(spec, name))?;
        match value {
            Value::Array(values) if argument.repeated => {
                for value in values {
                    arguments.push(argument, &scalar(argument, value)?)?;
                }
            }
            value => arguments.push(argument, &scalar(argument, value)?)?,
        }
    }
    arguments.check_required()?;
    Ok(arguments)
}

fn scalar(argument: &ArgumentSpec, value: &Value) -> Result<String, AdminError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(AdminError::new(
            argument.name,
            format!("{} is not a value", clip(&value.to_string())),
            if argument.repeated {
                "give a text or a list of texts"
            } else {
                "give a text or a number"
            },
        )),
    }
}

fn unknown_argument(spec: &CommandSpec, name: &str) -> AdminError {
    AdminError::new(
        clip(name),
        format!("`{}` has no such argument", spec.name),
        format!("usage: {}", spec.usage()),
    )
}

#[cfg(test)]
mod tests {
    use dataplane::{
        capture::{Event, Happened},
        counters::DropReason,
        service::Protocol,
    };

    use super::*;

    fn parse(line: &str) -> Result<Command, AdminError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        parse_words(&words)?.command()
    }

    fn vip(text: &str) -> VipKey {
        parse_vip(text).expect("a VIP")
    }

    #[test]
    fn every_command_of_the_table_is_found_and_named_once() {
        for (index, spec) in COMMANDS.iter().enumerate() {
            assert!(std::ptr::eq(find(spec.name).expect("found"), spec));
            assert!(
                !COMMANDS[..index]
                    .iter()
                    .any(|other| other.verb == spec.verb)
            );
            let positional: Vec<_> = spec.arguments.iter().filter(|a| a.positional).collect();
            let last = positional.len().saturating_sub(1);
            for (place, argument) in positional.iter().enumerate() {
                assert!(!argument.repeated || place == last, "{}", spec.name);
            }
        }
    }

    #[test]
    fn words_become_commands() {
        assert_eq!(
            parse(
                "vip add 203.0.113.10:80/tcp hash=maglev-v1 flags=no-src-port,lru-bypass real=198.51.100.11@3 real=198.51.100.12"
            ),
            Ok(Command::VipAdd {
                vip: vip("203.0.113.10:80/tcp"),
                hash: Some(HashFunction::MaglevV1),
                flags: VipFlags::NO_SRC_PORT | VipFlags::LRU_BYPASS,
                reals: vec![
                    RealSpec {
                        address: [198, 51, 100, 11].into(),
                        weight: 3,
                        local: false,
                        down: false,
                    },
                    RealSpec {
                        address: [198, 51, 100, 12].into(),
                        weight: 1,
                        local: false,
                        down: false,
                    },
                ],
            })
        );
        assert_eq!(
            parse("real weight [2001:db8:a::/96]:0/udp 2001:db8::5 0"),
            Ok(Command::RealWeight {
                vip: vip("[2001:db8:a::/96]:0/udp"),
                real: "2001:db8::5".parse().expect("an address"),
                weight: 0,
            })
        );
        assert_eq!(
            parse("real add vip=203.0.113.10:80/tcp 198.51.100.1 198.51.100.2@7 local=true"),
            Ok(Command::RealAdd {
                vip: vip("203.0.113.10:80/tcp"),
                reals: vec![
                    RealSpec {
                        address: [198, 51, 100, 1].into(),
                        weight: 1,
                        local: true,
                        down: false,
                    },
                    RealSpec {
                        address: [198, 51, 100, 2].into(),
                        weight: 7,
                        local: true,
                        down: false,
                    },
                ],
            })
        );
        for (line, local) in [
            ("real set 198.51.100.1 local", true),
            ("real unset 198.51.100.1 local", false),
        ] {
            let real = [198, 51, 100, 1].into();
            assert_eq!(parse(line), Ok(Command::RealLocal { real, local }));
        }
        assert_eq!(
            parse("explain [2001:db8::9]:4000 [2001:db8::1]:80 tcp sid=4097"),
            Ok(Command::Explain {
                asked: Asked {
                    server_id: Some(4097),
                    ..Asked::default()
                },
                tunnel: None,
                id: FlowId::new(
                    "[2001:db8::9]:4000".parse().expect("an endpoint"),
                    "[2001:db8::1]:80".parse().expect("an endpoint"),
                    Protocol::Tcp,
                )
                .expect("one family")
            })
        );
        let Ok(Command::Explain { asked, tunnel, .. }) =
            parse("explain 192.0.2.1:1 203.0.113.10:80 tcp --syn error=true tunnel=198.18.5.1")
        else {
            panic!("a command");
        };
        assert!(asked.syn && asked.error);
        assert_eq!(tunnel, Some([198, 18, 5, 1].into()));
        assert_eq!(
            parse("flow purge 203.0.113.10:80/tcp real=198.51.100.1"),
            Ok(Command::FlowPurge {
                filter: FlowFilter {
                    vip: Some(vip("203.0.113.10:80/tcp")),
                    real: Some([198, 51, 100, 1].into()),
                    worker: None,
                }
            })
        );
        assert_eq!(
            parse("help vip add"),
            Ok(Command::Help {
                command: Some("vip add".into())
            })
        );
        assert_eq!(
            parse("hc add 0x10 2001:db8:f::1"),
            Ok(Command::HcAdd(HealthCheckSpec {
                mark: 16,
                real: "2001:db8:f::1".parse().expect("an address"),
            }))
        );
        assert_eq!(
            parse("hc del 7,8 4294967295"),
            Ok(Command::HcDel {
                marks: vec![7, 8, u32::MAX]
            })
        );
        assert_eq!(
            parse("hc list offset=100"),
            Ok(Command::HcList {
                page: Page {
                    offset: 100,
                    limit: DEFAULT_LIMIT
                }
            })
        );
        assert_eq!(
            parse("sid del 7,8 4097 10-12"),
            Ok(Command::SidDel {
                ids: vec![7, 8, 4097, 10, 11, 12]
            })
        );
        assert_eq!(
            parse("sid add 198.51.100.1 7 9-10"),
            Ok(Command::SidAdd {
                ids: vec![7, 9, 10],
                real: [198, 51, 100, 1].into(),
            })
        );
        let real = [198, 51, 100, 1].into();
        for (line, which, valid) in [
            ("sid invalidate 7 8", WhichServerIds::Ids(vec![7, 8]), false),
            (
                "sid revalidate real=198.51.100.1",
                WhichServerIds::OfReal(real),
                true,
            ),
        ] {
            assert_eq!(parse(line), Ok(Command::SidValid { which, valid }));
        }
        assert_eq!(parse("version"), Ok(Command::Version));
    }

    #[test]
    fn a_name_can_be_written_in_three_ways() {
        for (line, same) in [
            (
                "flow list --limit 7 --worker=2",
                "flow list limit=7 worker=2",
            ),
            (
                "real add --vip 203.0.113.10:80/tcp --local 198.51.100.1",
                "real add 203.0.113.10:80/tcp 198.51.100.1 local=true",
            ),
            (
                "real add --local false 203.0.113.10:80/tcp 198.51.100.1,198.51.100.2",
                "real add 203.0.113.10:80/tcp 198.51.100.1 198.51.100.2",
            ),
            (
                "vip add 203.0.113.10:80/tcp --real 198.51.100.1 --flags quic,lru-bypass --real=198.51.100.2@7",
                "vip add 203.0.113.10:80/tcp real=198.51.100.1,198.51.100.2@7 flags=quic flags=lru-bypass",
            ),
        ] {
            assert_eq!(parse(line), parse(same), "{line}");
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_capture_is_started_as_tcpdump_is() {
        let request = capture::Request {
            events: vec![
                Event::Happened(Happened::LRU_MISS),
                Event::Drop(DropReason::Fragment),
                Event::Vip(vip("[2001:db8::1]:80/tcp")),
                Event::Address([203, 0, 113, 10].into()),
            ],
            limit: 100,
            snaplen: 64,
            file: "/tmp/a=b.pcapng".into(),
            force: true,
        };
        for line in [
            "capture start --event lru-miss --event drop:fragment --event vip:[2001:db8::1]:80/tcp \
             --event vip:203.0.113.10 --limit 100 --snaplen 64 -w /tmp/a=b.pcapng --force",
            "capture start event=lru-miss,drop:fragment,vip:[2001:db8::1]:80/tcp,vip:203.0.113.10 \
             limit=100 snaplen=64 file=/tmp/a=b.pcapng force=true",
        ] {
            assert_eq!(parse(line), Ok(Command::CaptureStart(request.clone())));
        }
        assert_eq!(
            parse("capture start --event pass -w a.pcapng"),
            Ok(Command::CaptureStart(capture::Request {
                events: vec![Event::Happened(Happened::PASS)],
                limit: 10_000,
                snaplen: 128,
                file: "a.pcapng".into(),
                force: false,
            }))
        );
    }

    #[test]
    fn a_capture_has_few_events() {
        let line = |count| {
            let events = vec!["vip:203.0.113.10"; count].join(",");
            parse(&format!("capture start --event {events} -w a"))
        };
        assert!(line(64).is_ok());
        let error = line(65).expect_err("too many");
        assert_eq!(
            (error.field.as_str(), error.remedy.contains("64")),
            ("event", true)
        );
    }

    #[test]
    fn paths_are_made_absolute() {
        let words = ["capture", "start", "--event", "pass", "-w", "a.pcapng"];
        let mut arguments = parse_words(&words).expect("a command");
        arguments.resolve_paths().expect("a current directory");
        let here = std::env::current_dir().expect("a current directory");
        let Command::CaptureStart(request) = arguments.command().expect("a command") else {
            panic!("another command");
        };
        assert_eq!(request.file, here.join("a.pcapng"));
    }

    #[test]
    fn wrong_words_name_the_argument() {
        for (line, field, remedy) in [
            ("", "command", "help"),
            ("frobnicate", "command", "help"),
            ("vip", "command", "vip add"),
            ("vip destroy x", "command", "vip add"),
            ("vip add", "vip", "usage: vip add VIP"),
            ("vip add 203.0.113.10", "vip", "203.0.113.10:80/tcp"),
            ("vip add 203.0.113.10:80/sctp", "vip", "tcp or udp"),
            ("vip add 203.0.113.10:70000/tcp", "vip", "0 to 65535"),
            ("vip add 203.0.113.0/24:80/tcp", "vip", "IPv6"),
            ("vip add [2001:db8::1/64]:80/tcp", "vip", "2001:db8::/64"),
            ("vip add [2001:db8::/129]:80/tcp", "vip", "128"),
            ("vip add 203.0.113.10:80/tcp extra", "command", "usage"),
            ("vip add 203.0.113.10:80/tcp hash=sha1", "hash", "maglev-v1"),
            (
                "vip add 203.0.113.10:80/tcp hash=maglev-v1 hash=maglev-v2",
                "hash",
                "once",
            ),
            (
                "vip add 203.0.113.10:80/tcp flags=fast",
                "flags",
                "no-src-port",
            ),
            ("vip add 203.0.113.10:80/tcp real=x", "real", "address"),
            (
                "vip add 203.0.113.10:80/tcp real=198.51.100.1@-1",
                "real",
                "0 to 4294967295",
            ),
            (
                "vip add 203.0.113.10:80/tcp rael=198.51.100.1",
                "rael",
                "usage",
            ),
            ("vip set 203.0.113.10:80/tcp", "flags", "flags="),
            ("vip unset 203.0.113.10:80/tcp", "flags", "usage"),
            (
                "real weight 203.0.113.10:80/tcp 198.51.100.1",
                "weight",
                "usage",
            ),
            (
                "real weight 203.0.113.10:80/tcp 198.51.100.1 -1",
                "weight",
                "0 to 4294967295",
            ),
            (
                "real weight 203.0.113.10:80/tcp 198.51.100.1 --weight -1",
                "weight",
                "0 to 4294967295",
            ),
            ("real down 203.0.113.10:80/tcp", "real", "usage"),
            ("src-route add 198.51.100.1", "prefix", "usage"),
            (
                "src-route add 198.51.100.1 192.0.2.1/24",
                "prefix",
                "192.0.2.0/24",
            ),
            (
                "src-route add 192.0.2.0/24 198.51.100.1",
                "real",
                "src-route add ADDR PREFIX…",
            ),
            ("src-route add nobody 192.0.2.0/24", "real", "198.51.100.11"),
            ("src-route del 192.0.2.0/33", "prefix", "32"),
            ("src-route list within=2001:db8::/x", "within", "128"),
            ("src-route get client", "client", "address"),
            ("real set 198.51.100.1", "flag", "usage"),
            ("real set 198.51.100.1 remote", "flag", "local"),
            ("real unset nobody local", "real", "address"),
            ("sid add 198.51.100.1 0", "id", "1 to 2147483647"),
            ("sid add 198.51.100.1 9-8", "id", "1 to 2147483647"),
            ("sid add 198.51.100.1 1-65537", "id", "65536 at most"),
            ("sid add 198.51.100.1 1-2147483647", "id", "65536 at most"),
            (
                "explain 192.0.2.1:1 203.0.113.10:80 udp syn=true",
                "syn",
                "a TCP flow",
            ),
            ("sid add 7 198.51.100.1", "real", "sid add ADDR ID…"),
            ("sid add 198.51.100.1", "id", "usage"),
            ("sid add 198.51.100.1 2147483648", "id", "1 to 2147483647"),
            ("sid del", "id", "usage"),
            ("sid invalidate", "id", "usage"),
            ("sid revalidate 7 real=198.51.100.1", "real", "give ids, or"),
            ("hc", "command", "hc add"),
            ("hc add 7", "real", "usage"),
            ("hc add 0 198.51.100.1", "mark", "1 to 4294967295"),
            ("hc add 4294967296 198.51.100.1", "mark", "1 to 4294967295"),
            ("hc add 0x 198.51.100.1", "mark", "0x7"),
            ("hc add +7 198.51.100.1", "mark", "0x7"),
            ("hc add 7 x", "real", "address"),
            ("hc del", "mark", "usage"),
            ("flow list limit=0", "limit", "1 to 10000"),
            ("flow list limit=1000000", "limit", "1 to 10000"),
            ("flow list worker=x", "worker", "number"),
            ("flow list --limit", "limit", "limit=VALUE"),
            ("flow list --limit --worker 2", "limit", "limit=VALUE"),
            ("flow list --limti 2", "--limti", "usage"),
            ("flow list --limti=2", "limti", "usage"),
            ("flow list -l 2", "-l", "usage"),
            ("flow list -", "-", "usage"),
            ("flow list -- 203.0.113.10:80/tcp", "--", "usage"),
            ("flow purge", "vip", "usage"),
            ("capture", "command", "capture start, capture stop"),
            ("capture start", "event", "usage"),
            ("capture start --event pass", "file", "usage"),
            ("capture start --event pass -w", "file", "file=VALUE"),
            ("capture start --event pass -x a", "-x", "usage"),
            ("capture start --event pass --w a", "--w", "usage"),
            ("capture start --event pass -wa", "-wa", "usage"),
            ("capture start --event lru -w a", "event", "lru-miss"),
            ("capture start --event drop -w a", "event", "drop:REASON"),
            ("capture start --event drop:bad -w a", "event", "fragment"),
            (
                "capture start --event vip:203.0.113.10:80 -w a",
                "event",
                "203.0.113.10:80/tcp",
            ),
            (
                "capture start --event pass -w a --limit 0",
                "limit",
                "1 to 1000000000",
            ),
            (
                "capture start --event pass -w a --snaplen 13",
                "snaplen",
                "14 to 4096",
            ),
            (
                "capture start --event pass -w a --force=yes",
                "force",
                "true or false",
            ),
            ("capture start --event pass -w a -w b", "file", "once"),
            ("capture stop now", "command", "usage"),
            (
                "explain 198.51.100.1:1 [2001:db8::1]:80 tcp",
                "destination",
                "IPv4",
            ),
            (
                "explain 198.51.100.1 203.0.113.10:80 tcp",
                "source",
                "ADDRESS:PORT",
            ),
            (
                "explain 198.51.100.1:1 203.0.113.10:80/tcp",
                "destination",
                "203.0.113.10:80 tcp",
            ),
            (
                "explain 203.0.113.10:80/tcp",
                "source",
                "203.0.113.10:80 tcp",
            ),
            (
                "explain [fe80::1%3]:1 [2001:db8::1]:80 tcp",
                "source",
                "scope",
            ),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.field, field, "{line}: {error}");
            assert!(error.remedy.contains(remedy), "{line}: {error}");
        }
    }

    #[test]
    fn long_words_are_not_sent_back_whole() {
        let line = "x".repeat(100_000);
        let error = parse(&line).expect_err("not a command");
        assert!(error.to_string().len() < 400);
        let error = parse(&format!("vip add {line}")).expect_err("not a VIP");
        assert!(error.to_string().len() < 400);
    }
}
