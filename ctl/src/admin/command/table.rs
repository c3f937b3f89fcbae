//! The table itself.

/// Which command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table describes each")]
pub enum Verb {
    VipList,
    VipAdd,
    VipDel,
    VipSet,
    VipUnset,
    RealList,
    RealAdd,
    RealDel,
    RealWeight,
    RealDown,
    RealUp,
    RealSet,
    RealUnset,
    DecapList,
    DecapAdd,
    DecapDel,
    SrcRouteList,
    SrcRouteGet,
    SrcRouteAdd,
    SrcRouteDel,
    SrcRouteClear,
    ShowWorkers,
    ShowStats,
    ShowDrops,
    ShowConfig,
    ShowMemory,
    FlowList,
    FlowGet,
    FlowDel,
    FlowPurge,
    FlowCount,
    FlowAnalyze,
    Explain,
    CaptureStart,
    CaptureStop,
    CaptureStatus,
    HcList,
    HcAdd,
    SidList,
    SidAdd,
    SidDel,
    SidInvalidate,
    SidRevalidate,
    HcDel,
    Set,
    Unset,
    Reload,
    Dump,
    Help,
    Version,
}

/// What an argument's value is; says how it can be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `203.0.113.10:80/tcp`, `[2001:db8:a::/96]:0/udp`.
    Vip,
    /// An IP address.
    Real,
    /// An IP address with an optional `@WEIGHT`.
    WeightedReal,
    /// The IP address of a decap destination.
    Decap,
    /// An IP address that the balancer does not know yet.
    NewAddress,
    /// A number.
    Number,
    /// A hash function's name.
    Hash,
    /// A flag's name.
    Flag,
    /// A server id.
    ServerId,
    /// The name of a real's flag.
    RealFlag,
    /// `ADDRESS:PORT`.
    Endpoint,
    /// `tcp` or `udp`.
    Protocol,
    /// An address of a client.
    Client,
    /// An address, or the first of a prefix and its length.
    Prefix,
    /// `true` or `false`.
    Bool,
    /// What is to be captured.
    Event,
    /// A path on the balancer.
    File,
    /// A socket's mark: a number, in hexadecimal after `0x`.
    Mark,
    /// A setting's key in the file.
    Setting,
    /// A setting's value.
    Value,
    /// Words of a command.
    Command,
}

impl Kind {
    /// How the value is written in usage lines.
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Vip => "VIP",
            Self::Real | Self::Decap | Self::NewAddress | Self::Client => "ADDR",
            Self::WeightedReal => "ADDR[@WEIGHT]",
            Self::Number => "N",
            Self::Hash => "HASH",
            Self::Flag => "FLAG,…",
            Self::ServerId => "ID",
            Self::RealFlag => "FLAG",
            Self::Endpoint => "ADDR:PORT",
            Self::Protocol => "PROTO",
            Self::Prefix => "PREFIX",
            Self::Bool => "BOOL",
            Self::Event => "EVENT,…",
            Self::File => "FILE",
            Self::Mark => "MARK",
            Self::Setting => "KEY",
            Self::Value => "VALUE",
            Self::Command => "COMMAND",
        }
    }
}

/// One argument of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgumentSpec {
    /// Name, as in `name=value`, `--name value` and in the request's `args`.
    pub name: &'static str,
    /// Letter, as in `-n value`.
    pub letter: Option<char>,
    /// What its value is.
    pub kind: Kind,
    /// May be given without its name.
    pub positional: bool,
    /// Must be given.
    pub required: bool,
    /// May be given more than once; commas separate values too.
    pub repeated: bool,
    /// One phrase.
    pub help: &'static str,
}

impl ArgumentSpec {
    const fn positional(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            letter: None,
            kind,
            positional: true,
            required: true,
            repeated: false,
            help,
        }
    }

    const fn named(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            letter: None,
            kind,
            positional: false,
            required: false,
            repeated: false,
            help,
        }
    }

    const fn optional(self) -> Self {
        Self {
            required: false,
            ..self
        }
    }

    const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    const fn letter(self, letter: char) -> Self {
        Self {
            letter: Some(letter),
            ..self
        }
    }

    const fn repeated(self) -> Self {
        Self {
            repeated: true,
            ..self
        }
    }

    /// The argument as it stands in a usage line.
    pub fn usage(&self) -> String {
        let place = self.kind.placeholder();
        let mut text = match self.kind {
            // Named after its place in the flow rather than its type.
            Kind::Endpoint if self.name == "source" => "SRC:PORT".to_owned(),
            Kind::Endpoint => "VIP:PORT".to_owned(),
            _ if self.positional => place.to_owned(),
            _ => format!("{}={place}", self.name),
        };
        if !self.required {
            text = format!("[{text}]");
        }
        if self.repeated && !matches!(self.kind, Kind::Flag | Kind::Event) {
            text.push('…');
        }
        text
    }
}

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandSpec {
    /// One or two words.
    pub name: &'static str,
    /// Which command.
    pub verb: Verb,
    /// One sentence.
    pub summary: &'static str,
    /// More about it; may be empty.
    pub details: &'static str,
    /// Arguments, positional ones in their order.
    pub arguments: &'static [ArgumentSpec],
}

impl CommandSpec {
    /// The argument of this name.
    pub fn argument(&self, name: &str) -> Option<&'static ArgumentSpec> {
        self.arguments.iter().find(|argument| argument.name == name)
    }

    /// The argument of this letter.
    pub fn argument_by_letter(&self, letter: &str) -> Option<&'static ArgumentSpec> {
        let mut letters = letter.chars();
        let (letter, None) = (letters.next()?, letters.next()) else {
            return None;
        };
        self.arguments
            .iter()
            .find(|argument| argument.letter == Some(letter))
    }

    /// `vip add VIP [hash=HASH] …`.
    pub fn usage(&self) -> String {
        let arguments = self.arguments.iter().map(ArgumentSpec::usage);
        std::iter::once(self.name.to_owned())
            .chain(arguments)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

const VIP: ArgumentSpec = ArgumentSpec::positional(
    "vip",
    Kind::Vip,
    "the VIP: 203.0.113.10:80/tcp, [2001:db8::1]:80/tcp, [2001:db8:a::/96]:0/udp (port 0: any)",
);
const MARK: ArgumentSpec = ArgumentSpec::positional(
    "mark",
    Kind::Mark,
    "the probes' SO_MARK: 1 to 4294967295, as 7 or 0x7",
);
const SETTING: ArgumentSpec = ArgumentSpec::positional(
    "key",
    Kind::Setting,
    "its key in the file, such as balancer.max_frame",
);
const HASH: ArgumentSpec = ArgumentSpec::named(
    "hash",
    Kind::Hash,
    "ring generation: maglev-v1 or maglev-v2",
);
const FLAGS: ArgumentSpec = ArgumentSpec::named(
    "flags",
    Kind::Flag,
    "flags with commas between them: no-src-port, lru-bypass, dport-only, src-dst-port, …",
)
.repeated();
const WORKER: ArgumentSpec =
    ArgumentSpec::named("worker", Kind::Number, "only the worker of this queue");
const LIMIT: ArgumentSpec = ArgumentSpec::named(
    "limit",
    Kind::Number,
    "most rows, 1 to 10000; 100 when left out",
);
const OFFSET: ArgumentSpec =
    ArgumentSpec::named("offset", Kind::Number, "rows to leave out at the start");
const ONLY_REAL: ArgumentSpec = ArgumentSpec::named("real", Kind::Real, "only flows to this real");
const PREFIXES: ArgumentSpec = ArgumentSpec::positional(
    "prefix",
    Kind::Prefix,
    "clients: 192.0.2.0/24 or 2001:db8::/32; an address is a prefix of full length",
)
.repeated();
const REALS_OF_VIP: &[ArgumentSpec] = &[
    VIP,
    ArgumentSpec::positional("real", Kind::Real, "a real of the VIP").repeated(),
];
const SERVER_IDS: &[ArgumentSpec] = &[
    ArgumentSpec::positional("id", Kind::ServerId, "an id or a range")
        .optional()
        .repeated(),
    ArgumentSpec::named("real", Kind::Real, "all ids that name this real"),
];
const REAL_FLAG: &[ArgumentSpec] = &[
    ArgumentSpec::positional("real", Kind::Real, "a real of some VIP"),
    ArgumentSpec::positional("flag", Kind::RealFlag, "local: the real is this host"),
];
const FLOW: &[ArgumentSpec] = &[
    ArgumentSpec::positional(
        "source",
        Kind::Endpoint,
        "the client: 192.0.2.7:4000 or [2001:db8::7]:4000",
    ),
    ArgumentSpec::positional(
        "destination",
        Kind::Endpoint,
        "what the client sends to: a VIP's address and port",
    ),
    ArgumentSpec::positional("protocol", Kind::Protocol, "tcp or udp"),
];

/// Every command.
pub static COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        name: "vip list",
        verb: Verb::VipList,
        summary: "List VIPs with their hash function, flags and number of reals",
        details: "",
        arguments: &[VIP.optional()],
    },
    CommandSpec {
        name: "vip add",
        verb: Verb::VipAdd,
        summary: "Add a VIP",
        details: "Without hash= it gets balancer.hash. A real without @WEIGHT has weight 1.",
        arguments: &[
            VIP,
            HASH,
            FLAGS,
            ArgumentSpec::named(
                "real",
                Kind::WeightedReal,
                "a real, with its weight after @",
            )
            .repeated(),
        ],
    },
    CommandSpec {
        name: "vip del",
        verb: Verb::VipDel,
        summary: "Remove a VIP with its reals",
        details: "Packets to it go to the kernel from then on.",
        arguments: &[VIP],
    },
    CommandSpec {
        name: "vip set",
        verb: Verb::VipSet,
        summary: "Set flags of a VIP or change its hash function",
        details: "Flags that are not named stay as they are.",
        arguments: &[VIP, FLAGS, HASH],
    },
    CommandSpec {
        name: "vip unset",
        verb: Verb::VipUnset,
        summary: "Clear flags of a VIP",
        details: "Flags that are not named stay as they are.",
        arguments: &[VIP, FLAGS.required()],
    },
    CommandSpec {
        name: "real list",
        verb: Verb::RealList,
        summary: "List the reals of one VIP or of all",
        details: "",
        arguments: &[VIP.optional(), LIMIT, OFFSET],
    },
    CommandSpec {
        name: "real add",
        verb: Verb::RealAdd,
        summary: "Add reals to a VIP",
        details: "A real without @WEIGHT has weight 1.",
        arguments: &[
            VIP,
            ArgumentSpec::positional(
                "real",
                Kind::WeightedReal,
                "a real, with its weight after @",
            )
            .repeated(),
            ArgumentSpec::named("local", Kind::Bool, "true: the reals are this host"),
        ],
    },
    CommandSpec {
        name: "real del",
        verb: Verb::RealDel,
        summary: "Remove reals from a VIP",
        details: "Flows in the table keep a removed real until its number is used again; `flow purge` moves them at once.",
        arguments: REALS_OF_VIP,
    },
    CommandSpec {
        name: "real weight",
        verb: Verb::RealWeight,
        summary: "Change a real's weight in one VIP",
        details: "Weight 0 drains: no new flows, old ones stay.",
        arguments: &[
            VIP,
            ArgumentSpec::positional("real", Kind::Real, "a real of the VIP"),
            ArgumentSpec::positional("weight", Kind::Number, "its new weight; 0 drains"),
        ],
    },
    CommandSpec {
        name: "real down",
        verb: Verb::RealDown,
        summary: "Have the UDP flows of a VIP leave reals",
        details: "The VIP needs the flag udp-flow-migration. New flows go where the ring says: give the reals weight 0 too.",
        arguments: REALS_OF_VIP,
    },
    CommandSpec {
        name: "real up",
        verb: Verb::RealUp,
        summary: "Let the UDP flows of a VIP stay with reals again",
        details: "",
        arguments: REALS_OF_VIP,
    },
    CommandSpec {
        name: "real set",
        verb: Verb::RealSet,
        summary: "Set a flag of a real in all VIPs that have it",
        details: "VIPs with the flag local-vip leave the packets of a local real to the kernel.",
        arguments: REAL_FLAG,
    },
    CommandSpec {
        name: "real unset",
        verb: Verb::RealUnset,
        summary: "Clear a flag of a real in all VIPs that have it",
        details: "",
        arguments: REAL_FLAG,
    },
    CommandSpec {
        name: "src-route list",
        verb: Verb::SrcRouteList,
        summary: "List source routes",
        details: "IPv4 first, in the order of addresses.",
        arguments: &[
            ArgumentSpec::named(
                "within",
                Kind::Prefix,
                "only routes whose prefix lies in this one",
            ),
            ArgumentSpec::named("real", Kind::Real, "only routes to this real"),
            LIMIT,
            OFFSET,
        ],
    },
    CommandSpec {
        name: "src-route get",
        verb: Verb::SrcRouteGet,
        summary: "Look up the source route of a client",
        details: "",
        arguments: &[ArgumentSpec::positional(
            "client",
            Kind::Client,
            "the client's address",
        )],
    },
    CommandSpec {
        name: "src-route add",
        verb: Verb::SrcRouteAdd,
        summary: "Send clients of some prefixes to a real",
        details: "In VIPs with the flag src-routing. A prefix that has a route gets the new real. \
                  Flows in the table stay where they are.",
        arguments: &[
            ArgumentSpec::positional("real", Kind::Real, "the real"),
            PREFIXES,
        ],
    },
    CommandSpec {
        name: "src-route del",
        verb: Verb::SrcRouteDel,
        summary: "Remove the source routes of some prefixes",
        details: "",
        arguments: &[PREFIXES],
    },
    CommandSpec {
        name: "src-route clear",
        verb: Verb::SrcRouteClear,
        summary: "Remove all source routes",
        details: "",
        arguments: &[],
    },
    CommandSpec {
        name: "decap list",
        verb: Verb::DecapList,
        summary: "List decap destinations: addresses whose tunnels are taken apart",
        details: "",
        arguments: &[],
    },
    CommandSpec {
        name: "decap add",
        verb: Verb::DecapAdd,
        summary: "Add a decap destination",
        details: "IPIP tunnels to it, and GUE tunnels to balancer.gue_port, lose their outer header; the inner packet is balanced or goes to the kernel.",
        arguments: &[
            ArgumentSpec::positional(
                "address",
                Kind::NewAddress,
                "outer destination of the tunnels",
            ),
            ArgumentSpec::named(
                "egress",
                Kind::Bool,
                "true: inner packets of GUE tunnels leave instead of being balanced",
            ),
        ],
    },
    CommandSpec {
        name: "decap del",
        verb: Verb::DecapDel,
        summary: "Remove decap destinations",
        details: "Tunnels to them go to the kernel from then on.",
        arguments: &[
            ArgumentSpec::positional("address", Kind::Decap, "a decap destination").repeated(),
        ],
    },
    CommandSpec {
        name: "show workers",
        verb: Verb::ShowWorkers,
        summary: "Show each worker's state, rings and socket statistics",
        details: "EVENTS/S are connection events within a second, no count of flows; a worker is FLOODED while they are \
                  more than balancer.connection_rate_cap.",
        arguments: &[],
    },
    CommandSpec {
        name: "show stats",
        verb: Verb::ShowStats,
        summary: "Show packets and bytes per VIP, per real, per worker and in all",
        details: "received = transmitted + passed + dropped + in progress.",
        arguments: &[VIP.optional(), WORKER],
    },
    CommandSpec {
        name: "show drops",
        verb: Verb::ShowDrops,
        summary: "Show dropped packets by reason",
        details: "",
        arguments: &[],
    },
    CommandSpec {
        name: "show config",
        verb: Verb::ShowConfig,
        summary: "Show settings in force and how the balancer was started",
        details: "`dump` has the VIPs too.",
        arguments: &[],
    },
    CommandSpec {
        name: "show memory",
        verb: Verb::ShowMemory,
        summary: "Show where the memory is",
        details: "",
        arguments: &[],
    },
    CommandSpec {
        name: "flow list",
        verb: Verb::FlowList,
        summary: "List flows in the workers' tables",
        details: "The tables change while they are read: a flow that comes or goes meanwhile may be left out.",
        arguments: &[VIP.optional(), ONLY_REAL, WORKER, LIMIT],
    },
    CommandSpec {
        name: "flow get",
        verb: Verb::FlowGet,
        summary: "Look one flow up in every worker's table",
        details: "Does not count as a use of the flow.",
        arguments: FLOW,
    },
    CommandSpec {
        name: "flow del",
        verb: Verb::FlowDel,
        summary: "Forget one flow",
        details: "Its next packet selects a real anew.",
        arguments: FLOW,
    },
    CommandSpec {
        name: "flow purge",
        verb: Verb::FlowPurge,
        summary: "Forget all flows of a VIP, or those of it to one real",
        details: "Their next packets select a real anew.",
        arguments: &[VIP, ONLY_REAL, WORKER],
    },
    CommandSpec {
        name: "flow count",
        verb: Verb::FlowCount,
        summary: "Count flows per worker",
        details: "With a filter the tables are walked; without, the workers' own counts are read.",
        arguments: &[VIP.optional(), ONLY_REAL, WORKER],
    },
    CommandSpec {
        name: "flow analyze",
        verb: Verb::FlowAnalyze,
        summary: "Count flows of each VIP by kind: stale real, no time, and idle time of UDP",
        details: "VIPs with any port, and prefixes, are one row each.",
        arguments: &[VIP.optional(), WORKER],
    },
    CommandSpec {
        name: "explain",
        verb: Verb::Explain,
        summary: "Say which real a flow's packets go to, and why",
        details: "Asks every worker's table, since the interface decides which worker sees the flow; \
                  else the global table, source routes and the VIP's ring. Without more the packet is one \
                  of the flow that is no SYN and carries no server id. Changes nothing.",
        arguments: &[
            FLOW[0],
            FLOW[1],
            FLOW[2],
            ArgumentSpec::named("sid", Kind::ServerId, "a server id that the packet carries"),
            ArgumentSpec::named("syn", Kind::Bool, "whether the packet is a TCP SYN; false"),
            ArgumentSpec::named(
                "error",
                Kind::Bool,
                "whether it is an ICMP error that quotes the flow; false",
            ),
            ArgumentSpec::named(
                "tunnel",
                Kind::Decap,
                "it comes in an IPIP tunnel to this address",
            ),
        ],
    },
    CommandSpec {
        name: "capture start",
        verb: Verb::CaptureStart,
        summary: "Write packets to a pcapng file, each with the reason for its verdict as a comment",
        details: "Ends by itself after limit= packets. Only root, or the user that the balancer runs as, may \
                  start one. One at a time.",
        arguments: &[
            ArgumentSpec::named(
                "event",
                Kind::Event,
                "which packets: lru-miss, too-big, no-real, pass, drop:REASON, vip:ADDR or vip:VIP",
            )
            .repeated()
            .required(),
            ArgumentSpec::named(
                "file",
                Kind::File,
                "a file that the balancer makes, for its own user alone",
            )
            .letter('w')
            .required(),
            ArgumentSpec::named(
                "limit",
                Kind::Number,
                "packets after which it ends, 1 to 1000000000; 10000 when left out",
            ),
            ArgumentSpec::named(
                "snaplen",
                Kind::Number,
                "bytes of each packet, 14 to 4096 (every frame is whole); 128 when left out",
            ),
            ArgumentSpec::named(
                "force",
                Kind::Bool,
                "true: a capture that exists is replaced",
            ),
        ],
    },
    CommandSpec {
        name: "capture stop",
        verb: Verb::CaptureStop,
        summary: "End the capture and complete its file",
        details: "",
        arguments: &[],
    },
    CommandSpec {
        name: "capture status",
        verb: Verb::CaptureStatus,
        summary: "Show the capture that runs, or how the last one ended",
        details: "",
        arguments: &[],
    },
    CommandSpec {
        name: "sid list",
        verb: Verb::SidList,
        summary: "List server ids with the reals that they name",
        details: "",
        arguments: &[
            ArgumentSpec::named("real", Kind::Real, "only ids that name this real"),
            LIMIT,
            OFFSET,
        ],
    },
    CommandSpec {
        name: "sid add",
        verb: Verb::SidAdd,
        summary: "Let server ids name a real",
        details: "An id that named another real names this one from then on, and is valid. The real need not be one of \
                  a VIP.",
        arguments: &[
            ArgumentSpec::positional("real", Kind::Real, "the real's address"),
            ArgumentSpec::positional("id", Kind::ServerId, "an id, 1 to 2147483647, or a range")
                .repeated(),
        ],
    },
    CommandSpec {
        name: "sid del",
        verb: Verb::SidDel,
        summary: "Remove server ids",
        details: "Packets with them go by table or ring from then on.",
        arguments: &[ArgumentSpec::positional("id", Kind::ServerId, "an id or a range").repeated()],
    },
    CommandSpec {
        name: "sid invalidate",
        verb: Verb::SidInvalidate,
        summary: "Take server ids from the workers without forgetting them",
        details: "Packets with them go by table or ring until `sid revalidate` or `sid add`.",
        arguments: SERVER_IDS,
    },
    CommandSpec {
        name: "sid revalidate",
        verb: Verb::SidRevalidate,
        summary: "Give invalidated server ids back to the workers",
        details: "",
        arguments: SERVER_IDS,
    },
    CommandSpec {
        name: "hc list",
        verb: Verb::HcList,
        summary: "List health checks: marks, their reals, and what was sent with them",
        details: "",
        arguments: &[LIMIT, OFFSET],
    },
    CommandSpec {
        name: "hc add",
        verb: Verb::HcAdd,
        summary: "Send what has this mark to a real, whatever its destination",
        details: "A mark that names another real names this one from then on. The real need not be one of a VIP.",
        arguments: &[
            MARK,
            ArgumentSpec::positional("real", Kind::Real, "the real's address"),
        ],
    },
    CommandSpec {
        name: "hc del",
        verb: Verb::HcDel,
        summary: "Remove marks",
        details: "What has them leaves unchanged from then on.",
        arguments: &[MARK.repeated()],
    },
    CommandSpec {
        name: "set",
        verb: Verb::Set,
        summary: "Give a setting of [balancer] or [health_check_path] another value",
        details: "KEY and VALUE are as in the file; quotes around VALUE may be left out. The file stays as it is.",
        arguments: &[
            SETTING,
            ArgumentSpec::positional("value", Kind::Value, "its value"),
        ],
    },
    CommandSpec {
        name: "unset",
        verb: Verb::Unset,
        summary: "Give a setting its default",
        details: "The file stays as it is.",
        arguments: &[SETTING],
    },
    CommandSpec {
        name: "reload",
        verb: Verb::Reload,
        summary: "Read the configuration file again and apply the difference",
        details: "What the file does not have goes, also VIPs that were added here. A bad file changes nothing.",
        arguments: &[],
    },
    CommandSpec {
        name: "dump",
        verb: Verb::Dump,
        summary: "Print the running configuration as TOML that `run` accepts",
        details: "The answer has to fit 16 MiB, as it does with up to 190,000 entries of reals in all VIPs together.",
        arguments: &[],
    },
    CommandSpec {
        name: "help",
        verb: Verb::Help,
        summary: "List commands, or explain one",
        details: "",
        arguments: &[ArgumentSpec::positional(
            "command",
            Kind::Command,
            "a command or its first word",
        )
        .optional()
        .repeated()],
    },
    CommandSpec {
        name: "version",
        verb: Verb::Version,
        summary: "Show the version of the balancer and of this protocol",
        details: "",
        arguments: &[],
    },
];
