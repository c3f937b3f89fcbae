//! Packets as blocks of a pcapng file.

use std::{borrow::Cow, io, time::Duration};

use dataplane::{
    capture::{Happened, Snapshot},
    forward::Verdict,
};
use pcap_file::{
    DataLink, Endianness, PcapError,
    pcapng::{
        PcapNgBlock, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};

/// Timestamps count 10⁻⁹ s.
const NANOSECONDS: u8 = 9;
/// The packet came in, in the flags of its block.
const INBOUND: u32 = 1;

/// Builds a file's blocks in memory; [`Self::bytes`] gives those that were built since
/// [`Self::clear`].
pub(super) struct Blocks {
    blocks: PcapNgWriter<Vec<u8>>,
}

/// What is said of a queue at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueTotals {
    pub(super) written: u64,
    pub(super) lost: u64,
}

impl Blocks {
    /// Starts with the section's header and an interface for each queue.
    pub(super) fn new(
        comment: String,
        interface: &str,
        queues: impl IntoIterator<Item = u32>,
        snaplen: usize,
    ) -> io::Result<Self> {
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![
                SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
                    "katran-xsk ",
                    env!("CARGO_PKG_VERSION")
                ))),
                SectionHeaderOption::Comment(Cow::Owned(comment)),
            ],
            ..SectionHeaderBlock::default()
        };
        let mut blocks = PcapNgWriter::with_section_header(Vec::new(), section).map_err(other)?;
        for queue in queues {
            let block = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: snaplen as u32,
                options: vec![
                    // As the kernel names queues in /sys/class/net/eth0/queues.
                    InterfaceDescriptionOption::IfName(Cow::Owned(format!(
                        "{interface}/rx-{queue}"
                    ))),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ],
            };
            blocks.write_pcapng_block(block).map_err(other)?;
        }
        Ok(Self { blocks })
    }

    /// Adds a packet of the interface at `index`.
    pub(super) fn packet(
        &mut self,
        index: usize,
        queue: u32,
        time: Duration,
        snapshot: &Snapshot,
    ) -> io::Result<()> {
        let mut options = vec![
            EnhancedPacketOption::Comment(Cow::Owned(comment(snapshot, queue))),
            EnhancedPacketOption::Flags(INBOUND),
        ];
        if snapshot.lost_before > 0 {
            options.push(EnhancedPacketOption::DropCount(snapshot.lost_before));
        }
        self.add(EnhancedPacketBlock {
            interface_id: index as u32,
            timestamp: time,
            original_len: snapshot.frame_len as u32,
            data: Cow::Borrowed(snapshot.bytes()),
            options,
        })
    }

    /// Adds a queue's totals.
    pub(super) fn totals(
        &mut self,
        index: usize,
        time: Duration,
        totals: QueueTotals,
    ) -> io::Result<()> {
        let QueueTotals { written, lost } = totals;
        self.add(InterfaceStatisticsBlock {
            interface_id: index as u32,
            // The format wants the upper half first, and the library writes a little-endian number.
            timestamp: (time.as_nanos() as u64).rotate_left(32),
            options: vec![
                InterfaceStatisticsOption::IsbIfDrop(lost),
                InterfaceStatisticsOption::IsbFilterAccept(written + lost),
                InterfaceStatisticsOption::IsbUsrDeliv(written),
            ],
        })
    }

    fn add<'a>(&mut self, block: impl PcapNgBlock<'a>) -> io::Result<()> {
        self.blocks.write_pcapng_block(block).map_err(other)?;
        Ok(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.blocks.get_ref()
    }

    pub(super) fn clear(&mut self) {
        self.blocks.get_mut().clear();
    }
}

/// `verdict=tx event=lru-miss vip=203.0.113.10:80/tcp real=198.51.100.11 selection=ring queue=0`, in
/// the words of `replay`'s verdicts. What does not apply is left out.
pub(super) fn comment(snapshot: &Snapshot, queue: u32) -> String {
    let (verdict, reason) = match snapshot.verdict {
        Verdict::Transmit { .. } => ("tx", None),
        Verdict::Pass => ("pass", None),
        Verdict::Drop(reason) => ("drop", Some(reason.name())),
    };
    let events: Vec<&str> = Happened::NAMES
        .iter()
        // The verdict says it.
        .filter(|(_, one)| *one != Happened::PASS && snapshot.happened.contains(*one))
        .map(|(name, _)| *name)
        .collect();
    let fields = [
        ("verdict", Some(verdict.to_owned())),
        ("reason", reason.map(str::to_owned)),
        ("event", (!events.is_empty()).then(|| events.join(","))),
        ("vip", snapshot.vip.map(|vip| vip.to_string())),
        ("real", snapshot.real.map(|real| real.to_string())),
        (
            "selection",
            // A ring without reals was asked and had no answer.
            snapshot.real.map(|_| snapshot.selection.name().to_owned()),
        ),
        ("queue", Some(queue.to_string())),
    ];
    let fields = fields
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    fields.collect::<Vec<_>>().join(" ")
}

fn other(error: PcapError) -> io::Error {
    io::Error::other(error)
}
