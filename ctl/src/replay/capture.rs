//! Captures: read packet by packet, whatever the format, without loading the file.

use std::io::Read;

use anyhow::{Context as _, anyhow, bail};
use pcap_file::{
    DataLink, PcapError, TsResolution,
    pcap::PcapReader,
    pcapng::{
        Block, PcapNgReader,
        blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
    },
};

/// Longest packet that is believed, in bytes: what capture programs use as their own bound.
pub(super) const MAX_PACKET: usize = 256 << 10;

/// First bytes of a pcapng file, in either byte order.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const NANOSECONDS: u64 = 1_000_000_000;

/// One captured packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Captured {
    /// Nanoseconds since 1970.
    pub(super) time_ns: u64,
    /// Bytes the packet had on the wire; more than `data` when the capture cut it.
    pub(super) wire_len: usize,
    /// From the Ethernet header on.
    pub(super) data: Vec<u8>,
}

/// Reads one capture from front to back.
pub(super) struct Capture<R: Read> {
    format: Format<R>,
    /// Packets returned so far.
    count: u64,
    /// Time of the packet before, for packets that have none of their own.
    last_ns: u64,
}

enum Format<R: Read> {
    Pcap(PcapReader<Prefixed<R>>),
    PcapNg(Box<PcapNgReader<Prefixed<R>>>),
}

/// The reader with the bytes in front that were read to find out what it is.
type Prefixed<R> = std::io::Chain<std::io::Cursor<Vec<u8>>, R>;

impl<R: Read> Capture<R> {
    /// Recognises the format and reads the file's header.
    pub(super) fn new(mut reader: R) -> anyhow::Result<Self> {
        let mut magic = Vec::with_capacity(SECTION_HEADER.len());
        Read::by_ref(&mut reader)
            .take(SECTION_HEADER.len() as u64)
            .read_to_end(&mut magic)?;
        let is_pcapng = magic == SECTION_HEADER;
        let reader = std::io::Cursor::new(magic).chain(reader);
        let what = "neither a pcap nor a pcapng capture";
        let format = if is_pcapng {
            let reader = PcapNgReader::new(reader).map_err(|error| reason(error).context(what))?;
            Format::PcapNg(Box::new(reader))
        } else {
            let reader = PcapReader::new(reader).map_err(|error| reason(error).context(what))?;
            require_ethernet(reader.header().datalink)?;
            Format::Pcap(reader)
        };
        Ok(Self {
            format,
            count: 0,
            last_ns: 0,
        })
    }

    /// Resolution that holds every timestamp of the capture.
    pub(super) fn resolution(&self) -> TsResolution {
        match &self.format {
            Format::Pcap(reader) => reader.header().ts_resolution,
            Format::PcapNg(_) => TsResolution::NanoSecond,
        }
    }

    /// The next packet; `None` at the end.
    pub(super) fn next_packet(&mut self) -> anyhow::Result<Option<Captured>> {
        let packet = match &mut self.format {
            Format::Pcap(reader) => next_pcap(reader),
            Format::PcapNg(reader) => next_pcapng(reader, self.last_ns),
        };
        let packet = packet.with_context(|| format!("packet {}", self.count))?;
        if let Some(packet) = &packet {
            self.count += 1;
            self.last_ns = packet.time_ns;
        }
        Ok(packet)
    }
}

fn next_pcap<R: Read>(reader: &mut PcapReader<Prefixed<R>>) -> anyhow::Result<Option<Captured>> {
    let resolution = reader.header().ts_resolution;
    // The checked reader refuses packets that were cut at the capture's snap length.
    let Some(packet) = reader.next_raw_packet() else {
        return Ok(None);
    };
    let packet = packet.map_err(reason)?;
    let fraction_ns = match resolution {
        TsResolution::MicroSecond => u64::from(packet.ts_frac) * 1000,
        TsResolution::NanoSecond => u64::from(packet.ts_frac),
    };
    if fraction_ns >= NANOSECONDS {
        bail!("its timestamp has a fraction of a second or more; the capture is damaged");
    }
    let time_ns = u64::from(packet.ts_sec) * NANOSECONDS + fraction_ns;
    captured(time_ns, packet.orig_len, &packet.data).map(Some)
}

fn next_pcapng<R: Read>(
    reader: &mut PcapNgReader<Prefixed<R>>,
    last_ns: u64,
) -> anyhow::Result<Option<Captured>> {
    // Other blocks (names, statistics, …) may follow each other without end in a hostile file, so
    // this is a loop and no recursion.
    loop {
        let Some(block) = reader.next_block() else {
            return Ok(None);
        };
        let (interface, ticks, wire_len, data) = match block.map_err(reason)? {
            // The library puts the raw count of ticks into nanoseconds.
            Block::EnhancedPacket(packet) => {
                let ticks = packet.timestamp.as_nanos() as u64;
                let id = packet.interface_id as usize;
                (
                    id,
                    Some(ticks),
                    packet.original_len,
                    packet.data.into_owned(),
                )
            }
            Block::Packet(packet) => {
                let id = usize::from(packet.interface_id);
                let data = packet.data.into_owned();
                (id, Some(packet.timestamp), packet.original_len, data)
            }
            Block::SimplePacket(packet) => {
                // The block is padded to four bytes.
                let mut data = packet.data.into_owned();
                data.truncate(packet.original_len as usize);
                (0, None, packet.original_len, data)
            }
            _ => continue,
        };
        let interface = reader
            .interfaces()
            .get(interface)
            .with_context(|| format!("it is of interface {interface}, which the capture lacks"))?;
        require_ethernet(interface.linktype)?;
        let time_ns = match ticks {
            Some(ticks) => nanoseconds(ticks, interface)
                .ok_or_else(|| anyhow!("its timestamp is out of range; the capture is damaged"))?,
            None => last_ns,
        };
        return captured(time_ns, wire_len, &data).map(Some);
    }
}

fn captured(time_ns: u64, wire_len: u32, data: &[u8]) -> anyhow::Result<Captured> {
    if data.len() > MAX_PACKET {
        bail!(
            "it has {} bytes, more than {MAX_PACKET}; the capture is damaged",
            data.len()
        );
    }
    Ok(Captured {
        time_ns,
        // Some programs write less than they captured.
        wire_len: (wire_len as usize).max(data.len()),
        data: data.to_vec(),
    })
}

/// Converts an interface's ticks: 10⁻⁶ s unless its description says another power of ten or two.
fn nanoseconds(ticks: u64, interface: &InterfaceDescriptionBlock<'_>) -> Option<u64> {
    let mut per_second: u128 = 1_000_000;
    let mut offset_seconds: u128 = 0;
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => {
                let exponent = u32::from(resolution & 0x7f);
                let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
                per_second = base.checked_pow(exponent)?;
            }
            InterfaceDescriptionOption::IfTsOffset(offset) => offset_seconds = u128::from(*offset),
            _ => {}
        }
    }
    let nanoseconds = u128::from(NANOSECONDS);
    let since_offset = u128::from(ticks) * nanoseconds / per_second;
    u64::try_from(since_offset + offset_seconds * nanoseconds).ok()
}

fn require_ethernet(link: DataLink) -> anyhow::Result<()> {
    if link == DataLink::ETHERNET {
        return Ok(());
    }
    bail!("link type {link:?} is not Ethernet; capture on an Ethernet interface")
}

fn reason(error: PcapError) -> anyhow::Error {
    match error {
        PcapError::IncompleteBuffer => anyhow!("the capture ends in the middle of it"),
        PcapError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            anyhow!("the capture ends in the middle of it")
        }
        PcapError::IoError(error) => error.into(),
        PcapError::InvalidField(what) => anyhow!("the capture is damaged: {what}"),
        other => anyhow!("the capture is damaged: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, time::Duration};

    use pcap_file::{
        Endianness,
        pcap::{PcapHeader, PcapWriter, RawPcapPacket},
        pcapng::{
            PcapNgWriter,
            blocks::{enhanced_packet::EnhancedPacketBlock, simple_packet::SimplePacketBlock},
        },
    };

    use super::*;

    fn pcap(resolution: TsResolution, endianness: Endianness, link: DataLink) -> Vec<u8> {
        let header = PcapHeader {
            ts_resolution: resolution,
            endianness,
            datalink: link,
            snaplen: 64,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        for (ts_sec, ts_frac, orig_len) in [(10, 500, 4), (11, 7, 1500)] {
            writer
                .write_raw_packet(&RawPcapPacket {
                    ts_sec,
                    ts_frac,
                    incl_len: 4,
                    orig_len,
                    data: Cow::Borrowed(&[1, 2, 3, 4]),
                })
                .unwrap();
        }
        writer.into_writer()
    }

    fn read(bytes: &[u8]) -> anyhow::Result<Vec<(u64, usize, Vec<u8>)>> {
        let mut capture = Capture::new(bytes)?;
        let mut packets = Vec::new();
        while let Some(packet) = capture.next_packet()? {
            packets.push((packet.time_ns, packet.wire_len, packet.data));
        }
        Ok(packets)
    }

    #[test]
    fn pcap_of_every_kind_is_read() {
        for endianness in [Endianness::Big, Endianness::Little] {
            for (resolution, unit) in [
                (TsResolution::MicroSecond, 1000),
                (TsResolution::NanoSecond, 1),
            ] {
                let bytes = pcap(resolution, endianness, DataLink::ETHERNET);
                let data = vec![1, 2, 3, 4];
                assert_eq!(
                    read(&bytes).unwrap(),
                    [
                        (10 * NANOSECONDS + 500 * unit, 4, data.clone()),
                        (11 * NANOSECONDS + 7 * unit, 1500, data),
                    ]
                );
            }
        }
    }

    fn pcapng(link: DataLink, options: Vec<InterfaceDescriptionOption<'static>>) -> Vec<u8> {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        writer
            .write_pcapng_block(InterfaceDescriptionBlock {
                linktype: link,
                snaplen: 0,
                options,
            })
            .unwrap();
        writer
            .write_pcapng_block(EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_millis(3),
                original_len: 5,
                data: Cow::Borrowed(&[9, 8, 7, 6, 5]),
                options: vec![],
            })
            .unwrap();
        writer
            .write_pcapng_block(SimplePacketBlock {
                original_len: 3,
                data: Cow::Borrowed(&[1, 2, 3]),
            })
            .unwrap();
        writer.into_inner()
    }

    #[test]
    fn pcapng_ticks_follow_the_interface() {
        let five = vec![9, 8, 7, 6, 5];
        for (options, expected) in [
            (vec![], 3_000_000_000),
            (vec![InterfaceDescriptionOption::IfTsResol(9)], 3_000_000),
            (
                vec![InterfaceDescriptionOption::IfTsResol(3)],
                3_000_000_000_000,
            ),
            (
                vec![InterfaceDescriptionOption::IfTsResol(0x94)],
                2_861_022_949,
            ),
            (
                vec![
                    InterfaceDescriptionOption::IfTsResol(9),
                    InterfaceDescriptionOption::IfTsOffset(2),
                ],
                2_003_000_000,
            ),
        ] {
            assert_eq!(
                read(&pcapng(DataLink::ETHERNET, options)).unwrap(),
                [(expected, 5, five.clone()), (expected, 3, vec![1, 2, 3])]
            );
        }
    }

    #[test]
    fn damaged_captures_say_what_is_wrong() {
        let good = pcap(
            TsResolution::MicroSecond,
            Endianness::Little,
            DataLink::ETHERNET,
        );
        let message = |bytes: &[u8]| format!("{:#}", read(bytes).unwrap_err());
        assert_eq!(
            message(b""),
            "neither a pcap nor a pcapng capture: the capture ends in the middle of it"
        );
        assert_eq!(
            message(b"hello, world, this is not a capture"),
            "neither a pcap nor a pcapng capture: the capture is damaged: PcapHeader: wrong magic number"
        );
        assert_eq!(
            message(&good[..good.len() - 1]),
            "packet 1: the capture ends in the middle of it"
        );
        let mut damaged = good.clone();
        damaged[24 + 4..24 + 8].copy_from_slice(&2_000_000_u32.to_le_bytes());
        assert_eq!(
            message(&damaged),
            "packet 0: its timestamp has a fraction of a second or more; the capture is damaged"
        );
        let wrong_link = pcap(
            TsResolution::MicroSecond,
            Endianness::Little,
            DataLink::LINUX_SLL,
        );
        assert_eq!(
            message(&wrong_link),
            "link type LINUX_SLL is not Ethernet; capture on an Ethernet interface"
        );
        assert_eq!(
            message(&pcapng(DataLink::RAW, vec![])),
            "packet 0: link type RAW is not Ethernet; capture on an Ethernet interface"
        );
        assert_eq!(
            message(&pcapng(
                DataLink::ETHERNET,
                vec![InterfaceDescriptionOption::IfTsResol(127)]
            )),
            "packet 0: its timestamp is out of range; the capture is damaged"
        );
    }

    #[test]
    fn every_truncation_ends_in_an_error_or_fewer_packets() {
        for whole in [
            pcap(
                TsResolution::NanoSecond,
                Endianness::Big,
                DataLink::ETHERNET,
            ),
            pcapng(DataLink::ETHERNET, vec![]),
        ] {
            for length in 0..whole.len() {
                if let Ok(packets) = read(&whole[..length]) {
                    assert!(packets.len() < 2);
                }
            }
        }
    }
}
