//! What commands answer: the `result` of a response, written by the balancer and read by `ctl` and
//! the shell.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::Verb;
use crate::control::{Changes, LinkState, NextHopState};

pub use super::decap::{DecapList, DecapRow};

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each variant is documented at its type")]
pub enum Answer {
    Vips(VipList),
    Reals(RealList),
    Decap(DecapList),
    Changes(Box<Changes>),
    SourceRoutes(SourceRouteList),
    SourceRoute(SourceRouteAnswer),
    Workers(WorkerList),
    Stats(Stats),
    Drops(DropList),
    Config(ConfigReport),
    Memory(Memory),
    Flows(FlowList),
    Removed(FlowsRemoved),
    Counts(FlowCounts),
    Analysis(FlowAnalysis),
    Explained(Explained),
    Capture(CaptureReport),
    HealthChecks(HealthCheckList),
    ServerIds(ServerIdList),
    Dump(Dump),
    Help(Help),
    Version(Version),
}

impl Answer {
    /// Workers without which this answer about flows is incomplete.
    pub fn missing(&self) -> &[WorkerFailure] {
        match self {
            Self::Flows(FlowList { failed, .. })
            | Self::Removed(FlowsRemoved { failed, .. })
            | Self::Counts(FlowCounts { failed, .. })
            | Self::Analysis(FlowAnalysis { failed, .. })
            | Self::Explained(Explained { failed, .. }) => failed,
            _ => &[],
        }
    }

    /// Reads the answer to a command back.
    ///
    /// # Errors
    ///
    /// The balancer is of another version and answers something else.
    pub fn from_json(verb: Verb, value: Value) -> serde_json::Result<Self> {
        Ok(match verb {
            Verb::VipList => Self::Vips(serde_json::from_value(value)?),
            Verb::RealList => Self::Reals(serde_json::from_value(value)?),
            Verb::DecapList => Self::Decap(serde_json::from_value(value)?),
            Verb::VipAdd
            | Verb::VipDel
            | Verb::VipSet
            | Verb::VipUnset
            | Verb::RealAdd
            | Verb::RealDel
            | Verb::RealWeight
            | Verb::RealDown
            | Verb::RealUp
            | Verb::SrcRouteAdd
            | Verb::SrcRouteDel
            | Verb::SrcRouteClear
            | Verb::RealSet
            | Verb::RealUnset
            | Verb::DecapAdd
            | Verb::DecapDel
            | Verb::HcAdd
            | Verb::HcDel
            | Verb::SidAdd
            | Verb::SidDel
            | Verb::SidInvalidate
            | Verb::SidRevalidate
            | Verb::Set
            | Verb::Unset
            | Verb::Reload => Self::Changes(serde_json::from_value(value)?),
            Verb::SrcRouteList => Self::SourceRoutes(serde_json::from_value(value)?),
            Verb::SrcRouteGet => Self::SourceRoute(serde_json::from_value(value)?),
            Verb::ShowWorkers => Self::Workers(serde_json::from_value(value)?),
            Verb::ShowStats => Self::Stats(serde_json::from_value(value)?),
            Verb::ShowDrops => Self::Drops(serde_json::from_value(value)?),
            Verb::ShowConfig => Self::Config(serde_json::from_value(value)?),
            Verb::ShowMemory => Self::Memory(serde_json::from_value(value)?),
            Verb::FlowList | Verb::FlowGet => Self::Flows(serde_json::from_value(value)?),
            Verb::FlowDel | Verb::FlowPurge => Self::Removed(serde_json::from_value(value)?),
            Verb::FlowAnalyze => Self::Analysis(serde_json::from_value(value)?),
            Verb::FlowCount => Self::Counts(serde_json::from_value(value)?),
            Verb::Explain => Self::Explained(serde_json::from_value(value)?),
            Verb::CaptureStart | Verb::CaptureStop | Verb::CaptureStatus => {
                Self::Capture(serde_json::from_value(value)?)
            }
            Verb::SidList => Self::ServerIds(serde_json::from_value(value)?),
            Verb::HcList => Self::HealthChecks(serde_json::from_value(value)?),
            Verb::Dump => Self::Dump(serde_json::from_value(value)?),
            Verb::Help => Self::Help(serde_json::from_value(value)?),
            Verb::Version => Self::Version(serde_json::from_value(value)?),
        })
    }
}

/// `vip list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipList {
    /// In the order of the configuration.
    pub vips: Vec<VipRow>,
}

/// One VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipRow {
    /// Identity.
    pub vip: String,
    /// Number in tables and counters.
    pub number: Option<u16>,
    /// Ring generation.
    pub hash: String,
    /// Flags.
    pub flags: Vec<String>,
    /// Number of reals.
    pub reals: usize,
    /// Sum of their weights; zero drops every new flow.
    pub weight: u64,
}

/// `real list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RealList {
    /// Rows there are.
    pub total: usize,
    /// Rows left out at the start.
    pub offset: usize,
    /// By VIP in the order of the configuration.
    pub reals: Vec<RealRow>,
}

/// A real of one VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RealRow {
    /// The VIP.
    pub vip: String,
    /// The real.
    pub real: IpAddr,
    /// Its weight.
    pub weight: u32,
    /// Its share of the VIP's ring, and so of new flows, in percent.
    pub share: f64,
    /// The real is this host.
    pub local: bool,
    /// UDP flows leave it.
    #[serde(default)]
    pub down: bool,
    /// Index in tables and counters.
    pub index: Option<u16>,
}

/// `src-route list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRouteList {
    /// Rows there are.
    pub total: usize,
    /// Rows left out at the start.
    pub offset: usize,
    /// IPv4 first, in the order of addresses.
    pub routes: Vec<SourceRouteRow>,
}

/// A source route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRouteRow {
    /// Clients.
    pub prefix: String,
    /// Their real.
    pub real: IpAddr,
}

/// `src-route get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRouteAnswer {
    /// Who was asked about.
    pub client: IpAddr,
    /// The route with the longest prefix; nothing when none covers the client.
    pub route: Option<SourceRouteRow>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Traffic {
    /// Both sums.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

/// Where frames went: received = transmitted + passed + dropped + in progress. Bytes are those of the
/// arriving frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Taken from the RX ring.
    pub received: Traffic,
    /// Sent out encapsulated, or answered.
    pub transmitted: Traffic,
    /// Handed to the kernel.
    pub passed: Traffic,
    /// Dropped, for whatever reason.
    pub dropped: Traffic,
    /// In a worker's hands when the counters were read; 0 when no packets flow.
    pub in_progress: u64,
}

impl Balance {
    /// The figure of this name in [`FRAMES`](dataplane::counters::FRAMES).
    pub fn by_name(&mut self, name: &str) -> Option<&mut Traffic> {
        match name {
            "received" => Some(&mut self.received),
            "transmitted" => Some(&mut self.transmitted),
            "passed" => Some(&mut self.passed),
            "dropped" => Some(&mut self.dropped),
            _ => None,
        }
    }
}

/// `show workers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerList {
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// In the order of their queues.
    pub workers: Vec<WorkerRow>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// RX queue; of a CPU that balances in the kernel, its number.
    pub queue: u32,
    /// CPU it is pinned to.
    pub cpu: Option<usize>,
    /// How the scheduler ranks its thread: `rt` or `normal`; `softirq` in the kernel.
    pub priority: String,
    /// Whether its thread runs.
    pub running: bool,
    /// Why it does not run any more.
    pub error: Option<String>,
    /// `zero-copy`, `copy` or `kernel`; nothing without a socket.
    pub mode: Option<String>,
    /// Generation of the service table it uses.
    pub generation: u64,
    /// Flows in its tables; nothing in the kernel, where only `flow count` can tell.
    pub flows: Option<u64>,
    /// Connection events since its window of one second started; 0 when the window is over.
    pub connection_events: u64,
    /// They are more than `balancer.connection_rate_cap`: no new flow is stored.
    pub flooded: bool,
    /// Where its frames went.
    pub frames: Balance,
    /// What its loop did, by name.
    pub io: BTreeMap<String, u64>,
    /// What the kernel counted for its socket, by name.
    pub socket: BTreeMap<String, u64>,
}

/// `show stats`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Where all frames went.
    pub frames: Balance,
    /// Other counters of all workers, by name.
    pub counters: BTreeMap<String, u64>,
    /// Packets to each VIP since it was added. Bytes here and in `reals` are the IPv4 total length or
    /// the IPv6 payload length of the client's packet.
    pub vips: Vec<VipTraffic>,
    /// Packets to each real since it was added.
    pub reals: Vec<RealTraffic>,
    /// Where each worker's frames went.
    pub workers: Vec<WorkerTraffic>,
    /// Counters of the XDP program, by name.
    pub xdp: BTreeMap<String, u64>,
    /// Counters of the health-check path, by name; empty if it was never used.
    pub health_checks: BTreeMap<String, u64>,
}

/// Traffic of one VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipTraffic {
    /// The VIP.
    pub vip: String,
    /// Its packets and bytes.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// What else is counted for each VIP, by name.
    pub counters: BTreeMap<String, u64>,
}

/// Traffic of one real.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RealTraffic {
    /// The real.
    pub real: IpAddr,
    /// Its index.
    pub index: u16,
    /// Its packets and bytes.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// What else is counted for each real, by name.
    pub counters: BTreeMap<String, u64>,
}

/// Traffic of one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerTraffic {
    /// RX queue.
    pub queue: u32,
    /// Where its frames went.
    pub frames: Balance,
    /// Its other counters, by name.
    pub counters: BTreeMap<String, u64>,
}

/// `show drops`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropList {
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Every reason, also those that never occurred.
    pub drops: Vec<DropRow>,
}

/// One drop reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropRow {
    /// Name, as in `replay`'s verdicts.
    pub reason: String,
    /// What it means.
    pub meaning: String,
    /// Dropped frames, and bytes as they arrived.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Dropped frames by worker, in the order of the queues.
    pub workers: Vec<u64>,
}

/// `show config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// The configuration file.
    pub config: Option<String>,
    /// The interface.
    pub interface: String,
    /// Where packets are decided: `xsk` or `kernel`.
    pub datapath: String,
    /// Where the XDP program runs.
    pub xdp_mode: String,
    /// Why it is not where it was wanted.
    pub xdp_fallback: Option<String>,
    /// The interface's MTU now, in bytes.
    pub mtu: Option<u32>,
    /// Why packets that the configuration allows do not fit it.
    pub mtu_warning: Option<String>,
    /// Whether packets can pass the interface, as last seen.
    #[serde(default)]
    pub link: Option<LinkState>,
    /// RX queues with a worker.
    pub queues: Vec<u32>,
    /// Queues that the interface has besides, as last seen.
    #[serde(default)]
    pub queues_without_worker: Vec<u32>,
    /// Next hop in use.
    pub next_hop_mac: Option<String>,
    /// The configuration names the next hop; else it is resolved and followed.
    pub next_hop_configured: bool,
    /// How the next hop in use came to be it.
    #[serde(default)]
    pub next_hop_state: NextHopState,
    /// Milliseconds since the kernel stopped knowing the address in use.
    #[serde(default)]
    pub next_hop_lost_ms: Option<u64>,
    /// The gateway whose address is followed.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// `[interface]` as it is in force, by key, as far as workers depend on it; empty in the kernel.
    #[serde(default)]
    pub workers: BTreeMap<String, Value>,
    /// `[balancer]` as it is in force, by key.
    pub balancer: BTreeMap<String, Value>,
    /// VIPs.
    pub vips: usize,
    /// Reals, each address once.
    pub reals: usize,
    /// Generation of the newest table.
    pub generation: u32,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
}

/// `show memory`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes the process has in memory, as the kernel counts them.
    pub resident_bytes: Option<u64>,
    /// What takes them.
    pub parts: Vec<MemoryPart>,
}

/// One user of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryPart {
    /// What it is.
    pub part: String,
    /// The worker it belongs to.
    pub worker: Option<u32>,
    /// Bytes; nothing when the worker did not answer.
    pub bytes: Option<u64>,
}

/// `flow list` and `flow get`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowList {
    /// Flows.
    pub flows: Vec<FlowRow>,
    /// There are more than the limit let through.
    pub more: bool,
    /// Workers that did not answer, and why.
    pub failed: Vec<WorkerFailure>,
}

/// An entry of a worker's flow table, or of the table that the workers share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRow {
    /// RX queue of the worker; nothing for the shared table.
    pub worker: Option<u32>,
    /// The client. Port 0 stands for any where the VIP's rules leave the port out.
    pub source: String,
    /// The VIP's address and port, as for the source.
    pub destination: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The real; nothing when its index was given to another real since then, and the flow's next
    /// packet selects anew.
    pub real: Option<IpAddr>,
    /// Milliseconds since its last packet, or in the shared table since it was stored or found; UDP
    /// only.
    pub idle_ms: Option<u64>,
}

/// A worker that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFailure {
    /// RX queue of the worker.
    pub worker: u32,
    /// Why.
    pub problem: String,
}

/// `flow del` and `flow purge`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowsRemoved {
    /// Entries that were removed from workers' tables.
    pub removed: usize,
    /// In which workers' tables they were.
    pub workers: Vec<FlowCount>,
    /// Entries that were removed from the table that the workers share. A purge counts here what no
    /// worker had.
    pub global: usize,
    /// Workers that did not answer, and why.
    pub failed: Vec<WorkerFailure>,
}

/// `flow count`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Flows in the workers' tables.
    pub total: u64,
    /// Flows in the table that the workers share, which are mostly the same; nothing while no VIP uses
    /// it.
    pub global: Option<u64>,
    /// Flows by worker.
    pub workers: Vec<FlowCount>,
    /// Workers that did not answer, and why.
    pub failed: Vec<WorkerFailure>,
}

/// `flow analyze`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowAnalysis {
    /// VIPs that have flows.
    pub vips: Vec<VipFlows>,
    /// Workers that did not answer, and why.
    pub failed: Vec<WorkerFailure>,
}

/// Flows of one VIP in all workers' tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipFlows {
    /// The VIP; nothing for flows of VIPs that are gone.
    pub vip: Option<String>,
    /// Its flows.
    #[serde(flatten)]
    pub kinds: FlowKinds,
}

/// Flows by kind. Those with a time, which are UDP, are told by the time since their last packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowKinds {
    /// All.
    pub flows: u64,
    /// Those whose real's index was given to another real since then: their next packet selects anew.
    pub stale_real: u64,
    /// TCP, and UDP that a server id brought in.
    pub without_time: u64,
    /// Less than 30 seconds.
    pub under_30_s: u64,
    /// 30 to 60 seconds.
    pub from_30_to_60_s: u64,
    /// More than 60 seconds.
    pub over_60_s: u64,
}

/// Flows of one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowCount {
    /// RX queue of the worker.
    pub worker: u32,
    /// Its flows.
    pub flows: u64,
}

/// `explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// `transmit`, `pass`, `drop` or, for tunnels to a decap destination, `decapsulate`.
    pub verdict: String,
    /// Why it is not transmitted: `not-a-vip`, `not-a-decap-destination`, `local-real`, `no-real` or
    /// `no-next-hop`. What becomes of an inner packet:
    /// `cross-pop` (decided like any other) or `egress` (sent out).
    pub reason: Option<String>,
    /// The VIP.
    pub vip: Option<String>,
    /// The real.
    pub real: Option<IpAddr>,
    /// `server-id`, `table`, `global-table`, `source-route` or `ring`.
    pub by: Option<String>,
    /// Workers whose tables have the flow with this real. More than one when the flow moved between
    /// queues.
    pub workers: Vec<u32>,
    /// Why the flow tables do not decide although they are there, or even have the flow: `lru-bypass` (the
    /// VIP does not ask them), `syn` (such a packet does not), `expired` (the entry is too old),
    /// `stale-real` (the number of its real was given to another), `real-down` or `global-real-down` (the
    /// flow leaves the real that the worker's table, or the global one, has).
    #[serde(default)]
    pub passed_over: Option<String>,
    /// The cap on new connections is in force at a worker that says this: it stores no new flow, asks no
    /// source route, and no flow leaves a real that is down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flooded: bool,
    /// The packet comes in an IPIP tunnel to this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<IpAddr>,
    /// What the other workers say, if it is something else: then it depends on the queue at which the
    /// packet arrives.
    #[serde(default)]
    pub others: Vec<Differing>,
    /// What becomes of the server id that was asked about.
    #[serde(default)]
    pub server_id: Option<ServerIdUse>,
    /// Flow hash.
    pub hash: Option<u32>,
    /// Slot of the ring it hashes to.
    pub ring_index: Option<u32>,
    /// Source address of the outer header.
    pub outer_source: Option<IpAddr>,
    /// Workers that did not answer, and why: one of their tables may have the flow.
    pub failed: Vec<WorkerFailure>,
}

/// What some workers would do, other than the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// As in [`Explained`].
    pub verdict: String,
    /// As in [`Explained`].
    pub reason: Option<String>,
    /// The real.
    pub real: Option<IpAddr>,
    /// As in [`Explained`].
    pub by: Option<String>,
    /// As in [`Explained`].
    #[serde(default)]
    pub passed_over: Option<String>,
    /// As in [`Explained`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flooded: bool,
    /// These workers.
    pub workers: Vec<u32>,
}

/// What becomes of a server id in a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerIdUse {
    /// The id.
    pub id: u32,
    /// Where the VIP's packets are looked into for one: `quic-connection-id`, `udp-payload`,
    /// `tcp-option`.
    pub read_from: Vec<String>,
    /// `used`: it names the real. `unknown`: it names none, or is invalid. `wrong-family`: it names an
    /// IPv4 real, and the packet is IPv6. `not-read`: nobody looks for one.
    pub state: String,
    /// The real that it names.
    pub real: Option<IpAddr>,
}

/// `capture start`, `capture stop` and `capture status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureReport {
    /// `running`, `stopping`, `complete` (it reached its limit), `stopped`, `failed`, or `none` when
    /// there has been no capture.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Where the packets go.
    pub file: Option<String>,
    /// What is captured.
    pub events: Vec<String>,
    /// Packets after which it ends.
    pub limit: u64,
    /// Most bytes of each packet.
    pub snaplen: usize,
    /// Packets in the file.
    pub packets: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Packets that were to be captured while the writer was behind.
    pub lost: u64,
    /// Milliseconds from its start to now, or to its end.
    pub elapsed_ms: u64,
    /// Workers that did not answer at the start and are left out, and why.
    pub failed: Vec<WorkerFailure>,
}

impl Default for CaptureReport {
    fn default() -> Self {
        Self {
            state: "none".to_owned(),
            error: None,
            file: None,
            events: Vec::new(),
            limit: 0,
            snaplen: 0,
            packets: 0,
            bytes: 0,
            lost: 0,
            elapsed_ms: 0,
            failed: Vec::new(),
        }
    }
}

/// `sid list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerIdList {
    /// Rows there are.
    pub total: usize,
    /// Rows left out at the start.
    pub offset: usize,
    /// By id.
    pub server_ids: Vec<ServerIdRow>,
}

/// A server id and its real.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerIdRow {
    /// The id.
    pub id: u32,
    /// The real it names.
    pub real: IpAddr,
    /// Workers use it.
    pub valid: bool,
    /// The real's index in tables and counters.
    pub index: Option<u16>,
}

/// `hc list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthCheckList {
    /// Interface at whose egress marked packets are looked for; nothing while there are no marks.
    pub interface: Option<String>,
    /// What holds the program there: `tcx` or `clsact`.
    pub hook: Option<String>,
    /// Packets that left by that interface, by what was done with them.
    pub counters: BTreeMap<String, u64>,
    /// Rows there are.
    pub total: usize,
    /// Rows left out at the start.
    pub offset: usize,
    /// By mark.
    pub health_checks: Vec<HealthCheckRow>,
}

/// A mark and its real.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthCheckRow {
    /// The mark.
    pub mark: u32,
    /// The real.
    pub real: IpAddr,
    /// Packets sent with the mark since it was added, and bytes of their frames before they were
    /// encapsulated.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// `dump`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// The configuration.
    pub toml: String,
}

/// `help`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Help {
    /// Commands.
    pub commands: Vec<HelpCommand>,
}

/// Help for one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelpCommand {
    /// Name.
    pub command: String,
    /// Name and arguments.
    pub usage: String,
    /// One sentence.
    pub summary: String,
    /// More; may be empty.
    pub details: String,
    /// Its arguments.
    pub arguments: Vec<HelpArgument>,
}

/// Help for one argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelpArgument {
    /// Name.
    pub name: String,
    /// Letter, as in `-n value`.
    #[serde(default)]
    pub letter: Option<char>,
    /// As it stands in the usage line.
    pub usage: String,
    /// Must be given.
    pub required: bool,
    /// May be a list.
    pub repeated: bool,
    /// One phrase.
    pub help: String,
}

/// `version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version of the program.
    pub katran_xsk: String,
    /// Version of the protocol.
    pub protocol: u32,
}
