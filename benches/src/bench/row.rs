//! What is reported: one row for each combination that was measured.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use super::{load::Load, statistics::Spread};

/// Declares an enumeration whose variants have one name on the command line, in JSON and in tables.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
        pub enum $name {
            $($(#[$doc])* #[value(name = $text)] #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// All of them, in the order of the tables.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name on the command line, in JSON and in tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

named! {
    /// What is measured.
    Datapath {
        /// `XDP_TX` with swapped Ethernet addresses: what the device can do
        Reflect = "reflect",
        /// The balancer as an XDP program
        Kernel = "kernel",
        /// `AF_XDP` sockets and workers of the balancer, with no decision between them
        L2fwd = "l2fwd",
        /// The balancer on `AF_XDP` sockets
        Xsk = "xsk",
    }
}

named! {
    /// Address family of the packets.
    IpFamily {
        /// IPv4 in IPv4
        V4 = "ipv4",
        /// IPv6 in IPv6
        V6 = "ipv6",
    }
}

named! {
    /// Which packets a decision is about.
    Case {
        /// The flow table has every packet's flow
        Hit = "hit",
        /// Every packet begins a flow, and the flow table is full
        New = "new",
    }
}

named! {
    /// Which CPUs do what.
    Layout {
        /// The device's receive thread and the worker of a queue share a CPU
        SharedCore = "shared-core",
        /// Packets are received on the sender's CPU, and the worker has another
        Split = "split",
    }
}

named! {
    /// How the scheduler treats workers.
    Scheduling {
        /// As any other thread
        Normal = "normal",
        /// `SCHED_FIFO`: before any ordinary thread
        RealTime = "rt",
    }
}

/// The time that one decision takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecisionRow {
    /// `xsk` or `kernel`.
    pub datapath: Datapath,
    /// Family of inner and outer packets.
    pub family: IpFamily,
    /// Which packets.
    pub case: Case,
    /// Flows in the table.
    pub flows: u64,
    /// Threads that decide at the same time, each on a CPU of its own.
    pub workers: usize,
    /// Packets that are decided together; 1 in the kernel.
    pub burst: usize,
    /// Nanoseconds per packet of all workers together.
    pub ns_per_packet: Spread,
    /// Repetitions that count.
    pub repetitions: usize,
    /// Repetitions that other load may have slowed down.
    pub disturbed: usize,
    /// The most that there was of other load during a repetition that counts.
    pub load: Load,
}

/// Nanoseconds from the generator to the far end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the packets are faster.
    pub p50: f64,
    /// Nine of ten are.
    pub p90: f64,
    /// 99 of 100 are.
    pub p99: f64,
    /// 999 of 1000 are.
    pub p999: f64,
}

/// What a datapath forwards.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WireRow {
    /// What forwards.
    pub datapath: Datapath,
    /// Which CPUs do what.
    pub layout: Layout,
    /// Queues, and workers.
    pub queues: u32,
    /// Flows of the generator.
    pub flows: u64,
    /// How workers are scheduled; `None` without workers.
    pub scheduling: Option<Scheduling>,
    /// Highest rate offered of which nothing was lost, in millions of packets per second.
    pub mpps: Spread,
    /// Delivered when the generator sends as fast as it can.
    pub flat_out_mpps: Spread,
    /// Offered then.
    pub flat_out_offered_mpps: Spread,
    /// Delivered when four times the loss-free rate is offered.
    pub overload_mpps: Spread,
    /// Offered then.
    pub overload_offered_mpps: Spread,
    /// CPU time per packet at half the loss-free rate, in nanoseconds, of the CPUs that do not run
    /// the generator; `None` where the generator's CPU does some of the work.
    pub cpu_ns_per_packet: Option<Spread>,
    /// At half the loss-free rate, medians of the repetitions.
    pub latency_ns: Latency,
    /// Repetitions that count.
    pub repetitions: usize,
    /// Repetitions that other load may have slowed down.
    pub disturbed: usize,
    /// Losses that a second trial at the same rate did not see, in all repetitions.
    pub unconfirmed_losses: u32,
    /// Whether what forwards shares a CPU with the generator.
    pub shares_cpus_with_generator: bool,
    /// The most that there was of other load during a repetition that counts.
    pub load: Load,
}

/// One row of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "bench", rename_all = "lowercase")]
pub enum Row {
    /// A decision.
    Decision(DecisionRow),
    /// Packets on the wire.
    Wire(Box<WireRow>),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SPREAD: Spread = Spread {
        median: 2.0,
        min: 1.0,
        max: 3.0,
    };

    #[test]
    fn decisions_have_the_documented_shape() {
        let row = Row::Decision(DecisionRow {
            datapath: Datapath::Kernel,
            family: IpFamily::V6,
            case: Case::New,
            flows: 1000,
            workers: 1,
            burst: 1,
            ns_per_packet: SPREAD,
            repetitions: 5,
            disturbed: 0,
            load: Load::default(),
        });
        assert_eq!(
            serde_json::to_value(row).expect("plain data"),
            json!({
                "bench": "decision", "datapath": "kernel", "family": "ipv6", "case": "new",
                "flows": 1000, "workers": 1, "burst": 1, "repetitions": 5, "disturbed": 0,
                "load": {"others": 0.0, "stolen": 0.0},
                "ns_per_packet": {"median": 2.0, "min": 1.0, "max": 3.0},
            })
        );
    }

    #[test]
    fn wire_rows_have_the_documented_shape() {
        let row = Row::Wire(Box::new(WireRow {
            datapath: Datapath::Xsk,
            layout: Layout::SharedCore,
            queues: 2,
            flows: 1000,
            scheduling: Some(Scheduling::RealTime),
            mpps: SPREAD,
            flat_out_mpps: SPREAD,
            flat_out_offered_mpps: SPREAD,
            overload_mpps: SPREAD,
            overload_offered_mpps: SPREAD,
            cpu_ns_per_packet: None,
            latency_ns: Latency {
                p50: 1.0,
                p90: 2.0,
                p99: 3.0,
                p999: 4.0,
            },
            repetitions: 5,
            disturbed: 1,
            unconfirmed_losses: 3,
            shares_cpus_with_generator: true,
            load: Load::default(),
        }));
        let value = serde_json::to_value(row).expect("plain data");
        assert_eq!(value["bench"], "wire");
        assert_eq!(value["datapath"], "xsk");
        assert_eq!(value["layout"], "shared-core");
        assert_eq!(value["queues"], 2);
        assert_eq!(value["scheduling"], "rt");
        assert_eq!(value["mpps"]["median"], 2.0);
        assert_eq!(value["cpu_ns_per_packet"], serde_json::Value::Null);
        assert_eq!(value["latency_ns"]["p999"], 4.0);
        assert_eq!(value["unconfirmed_losses"], 3);
        assert_eq!(value["shares_cpus_with_generator"], true);
    }

    #[test]
    fn names_are_the_same_everywhere() {
        for layout in Layout::ALL {
            assert_eq!(Layout::from_str(layout.name(), false), Ok(*layout));
            assert_eq!(
                serde_json::to_value(layout).expect("plain data"),
                layout.name()
            );
        }
    }
}
