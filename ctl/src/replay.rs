//! `katran-xsk replay`: the forwarder of the workers on a capture.
//!
//! One worker's forwarder with an empty flow table sees each packet by itself, at the time the
//! capture gives it. Nothing here needs privileges or an interface.

mod capture;
mod files;

use std::{
    fs::File,
    io::{BufWriter, IntoInnerError, Read, Write},
    net::IpAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use dataplane::{
    counters::WorkerCounters,
    forward::{BURST, Forwarder, ForwarderConfig, Outcome, Packet, Selection, Verdict},
    service::{RealId, ServiceControl},
};
use pcap_file::{
    DataLink, Endianness,
    pcap::{PcapHeader, PcapPacket, PcapWriter},
};
use serde::Serialize;

use crate::{cli::ReplayArgs, config::Config, stdio::complain};
use capture::{Capture, MAX_PACKET};
use files::refuse_same_files;

/// Room in front of each frame, as the XDP program opens it: more than the largest outer header.
const ROOM: usize = 64;
/// Secret of the flow table's hash. Fixed, so that a replay gives the same result every time.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

/// Line of the verdict file.
#[derive(Debug, Serialize)]
struct Line<'a> {
    packet: u64,
    verdict: &'a str,
    reason: Option<&'a str>,
    vip: Option<String>,
    real: Option<IpAddr>,
    selection: Option<&'a str>,
    /// Bytes of outer headers that were taken off.
    #[serde(skip_serializing_if = "Option::is_none")]
    stripped: Option<usize>,
}

/// What became of a packet.
struct Decision<'b> {
    outcome: Outcome,
    /// Bytes of outer headers that were taken off.
    stripped: usize,
    /// What leaves, or goes to the kernel.
    frame: Option<&'b [u8]>,
}

/// Runs the command.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    if config.interface.next_hop_mac.is_none() {
        complain(format_args!(
            "katran-xsk: {}: interface.next_hop_mac is not given: packets to VIPs drop as no-next-hop",
            args.config.display()
        ));
    }
    let input = File::open(&args.input)
        .with_context(|| format!("{}: cannot be read", args.input.display()))?;
    let mut capture = Capture::new(input).with_context(|| args.input.display().to_string())?;
    refuse_same_files(args)?;
    let (mut frames, mut verdicts) = (create(&args.output)?, create(&args.verdicts)?);
    let forwarder = forwarder(&config)?;
    let result = decide_all(forwarder, &mut capture, &mut frames, &mut verdicts);
    // What was decided before an error is worth keeping.
    for (output, path) in [(frames, &args.output), (verdicts, &args.verdicts)] {
        let written = output.into_inner().map_err(IntoInnerError::into_error);
        written.with_context(|| path.display().to_string())?;
    }
    let cut = result.with_context(|| args.input.display().to_string())?;
    if cut > 0 {
        complain(format_args!(
            "katran-xsk: {}: {cut} packets were captured in part only; their verdicts are those of \
             the captured bytes",
            args.input.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A worker's forwarder with an empty flow table.
fn forwarder(config: &Config) -> anyhow::Result<Forwarder> {
    let table = ServiceControl::new().apply(&config.to_service_spec())?;
    Ok(Forwarder::new(
        &ForwarderConfig {
            flow_table_capacity: config.balancer.flow_table_capacity,
            seeds: SEEDS,
        },
        table,
        Arc::new(WorkerCounters::new()),
    )?)
}

/// Replays a capture: `frames` gets another capture, of what leaves, and `verdicts` a JSON object for
/// each packet, one a line. Returns how many packets were captured in part only.
///
/// # Errors
///
/// `input` is not a capture of Ethernet frames, or is damaged; everything before that is written.
pub fn replay(
    forwarder: Forwarder,
    input: impl Read,
    mut frames: impl Write,
    mut verdicts: impl Write,
) -> anyhow::Result<u64> {
    let mut capture = Capture::new(input)?;
    decide_all(forwarder, &mut capture, &mut frames, &mut verdicts)
}

fn decide_all(
    mut forwarder: Forwarder,
    capture: &mut Capture<impl Read>,
    frames: &mut impl Write,
    verdicts: &mut impl Write,
) -> anyhow::Result<u64> {
    let header = PcapHeader {
        // The bytes that the forwarder adds come on top of what was captured.
        snaplen: (MAX_PACKET + ROOM) as u32,
        datalink: DataLink::ETHERNET,
        ts_resolution: capture.resolution(),
        // What nearly every other writer's machine has; some readers take no other order.
        endianness: Endianness::Little,
        ..PcapHeader::default()
    };
    let mut frames = PcapWriter::with_header(frames, header)?;
    let mut buffer = Vec::new();
    let mut cut = 0;
    let mut number = 0;
    while let Some(packet) = capture.next_packet()? {
        cut += u64::from(packet.wire_len > packet.data.len());
        buffer.clear();
        buffer.resize(ROOM, 0);
        buffer.extend_from_slice(&packet.data);
        // A reply may be longer than what it answers.
        buffer.resize(buffer.len() + 2 * ROOM, 0);
        let decision = decide(
            &mut forwarder,
            packet.time_ns,
            &mut buffer,
            packet.data.len(),
        )?;
        serde_json::to_writer(&mut *verdicts, &line(&forwarder, number, &decision))?;
        verdicts.write_all(b"\n")?;
        if let Some(frame) = decision.frame {
            let time = Duration::from_nanos(packet.time_ns);
            frames
                .write_packet(&PcapPacket::new(time, frame.len() as u32, frame))
                .with_context(|| format!("packet {number} cannot be written"))?;
        }
        number += 1;
    }
    Ok(cut)
}

/// What becomes of the frame of `len` bytes behind the room.
fn decide<'b>(
    forwarder: &mut Forwarder,
    time_ns: u64,
    buffer: &'b mut [u8],
    len: usize,
) -> anyhow::Result<Decision<'b>> {
    let mut outcomes = [Outcome {
        verdict: Verdict::Pass,
        vip: xdp_layout::Tag::NO_VIP,
        real: RealId::NONE,
        selection: Selection::None,
    }; BURST];
    let Some(packet) = Packet::untagged(buffer, ROOM, len) else {
        bail!("a packet of {len} bytes does not fit its buffer");
    };
    let mut burst = [packet];
    forwarder.process(time_ns, &mut burst, &mut outcomes);
    let (outcome, stripped) = (outcomes[0], burst[0].stripped_len());
    let leaving = match outcome.verdict {
        Verdict::Transmit { len } => Some(0..usize::from(len)),
        Verdict::Pass => Some(ROOM + stripped..ROOM + len),
        Verdict::Drop(_) => None,
    };
    Ok(Decision {
        outcome,
        stripped,
        frame: leaving.map(|range| &buffer[range]),
    })
}

fn line(forwarder: &Forwarder, number: u64, decision: &Decision<'_>) -> Line<'static> {
    let outcome = &decision.outcome;
    let table = forwarder.table();
    let (verdict, reason) = match outcome.verdict {
        Verdict::Transmit { .. } => ("tx", None),
        Verdict::Pass => ("pass", None),
        Verdict::Drop(reason) => ("drop", Some(reason.name())),
    };
    let real = (outcome.real != RealId::NONE)
        .then(|| table.real(outcome.real.index()))
        .flatten();
    Line {
        packet: number,
        verdict,
        reason,
        vip: table.vip(outcome.vip).map(|vip| vip.key.to_string()),
        real: real.map(|real| real.address),
        // A ring without reals was asked and had no answer.
        selection: real.map(|_| outcome.selection.name()),
        stripped: Some(decision.stripped).filter(|bytes| *bytes > 0),
    }
}

fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    let file =
        File::create(path).with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(BufWriter::new(file))
}
