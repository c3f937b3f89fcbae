//! A worker's loop with no decision in it.

use dataplane::{
    forward::{BURST, Forwarder, Outcome, Packet, Selection, Verdict},
    service::RealId,
    worker::Decision,
};
use xdp_redirect::{ETHERTYPE_REFLECTED, Tag};

/// Sends every frame back, as long as the balancer would send it: the room that the XDP program opened
/// leaves with the frame, behind an Ethernet header with the addresses swapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reflect;

impl Decision for Reflect {
    #[inline]
    fn decide(
        &mut self,
        forwarder: &mut Forwarder,
        _now_ns: u64,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    ) {
        let mut bytes = 0;
        for (packet, outcome) in burst.iter_mut().zip(outcomes) {
            bytes += packet.frame_len() as u64;
            let len = packet.room() + packet.frame_len();
            *outcome = Outcome {
                verdict: if reflect(packet) {
                    Verdict::Transmit { len: len as u16 }
                } else {
                    Verdict::Pass
                },
                vip: Tag::NO_VIP,
                real: RealId::NONE,
                selection: Selection::None,
            };
        }
        let received = &forwarder.counters().received;
        received.packets.add(burst.len() as u64);
        received.bytes.add(bytes);
    }
}

/// Writes the new Ethernet header; false if the frame has none.
#[inline]
fn reflect(packet: &mut Packet<'_>) -> bool {
    let Some(&[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) = packet.frame().first_chunk()
    else {
        return false;
    };
    let [high, low] = ETHERTYPE_REFLECTED.to_be_bytes();
    let header = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, high, low];
    match packet.buffer_mut().first_chunk_mut() {
        Some(front) => {
            *front = header;
            true
        }
        None => false,
    }
}
