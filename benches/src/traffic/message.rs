//! What clients and servers say.
//!
//! Integers are big-endian. A request is `number: u64, length: u32, payload`; the answer is
//! `number: u64, server: u16, length: u32, crc: u32, payload`, where the number is the request's,
//! and length and CRC-32 are those of the payload as it reached the server. The answer to a datagram
//! has as much of the payload as fits a datagram of the request's length, so that a request may fill
//! the MTU.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest payload in bytes.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// What a request is longer than its payload.
pub const REQUEST_HEADER: usize = 12;
const ANSWER_HEADER: usize = 18;

/// A request and the answer it must get.
#[derive(Debug)]
pub(super) struct Request {
    number: u64,
    bytes: Vec<u8>,
}

impl Request {
    /// A request whose payload differs from that of every other number.
    pub(super) fn new(number: u64, payload: usize) -> Self {
        let payload = payload.min(MAX_PAYLOAD);
        let mut bytes = Vec::with_capacity(REQUEST_HEADER + payload + 8);
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&(payload as u32).to_be_bytes());
        let mut word = number;
        while bytes.len() < REQUEST_HEADER + payload {
            word = scramble(word.wrapping_add(0x9e37_79b9_7f4a_7c15));
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.truncate(REQUEST_HEADER + payload);
        Self { number, bytes }
    }

    /// As it goes over the wire.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[REQUEST_HEADER..]
    }

    /// Sends the request over a stream and checks the answer; gives the server's number.
    pub(super) async fn exchange(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<u16> {
        stream
            .write_all(self.as_bytes())
            .await
            .context("cannot send")?;
        let mut answer = vec![0; ANSWER_HEADER + self.payload().len()];
        stream
            .read_exact(&mut answer)
            .await
            .context("cannot receive")?;
        self.check(&answer)
    }

    /// Checks the answer to a datagram; gives the server's number.
    pub(super) fn check_datagram(&self, answer: &[u8]) -> Result<u16> {
        let returned = datagram_answer_len(self.bytes.len()) - ANSWER_HEADER;
        self.check_with(answer, &self.payload()[..returned])
    }

    /// Checks a whole answer; gives the server's number.
    fn check(&self, answer: &[u8]) -> Result<u16> {
        self.check_with(answer, self.payload())
    }

    /// Checks an answer that returns `expected` of the payload.
    fn check_with(&self, answer: &[u8], expected: &[u8]) -> Result<u16> {
        let (header, payload) = answer
            .split_first_chunk::<ANSWER_HEADER>()
            .context("the answer is shorter than its header")?;
        let [
            n0,
            n1,
            n2,
            n3,
            n4,
            n5,
            n6,
            n7,
            s0,
            s1,
            l0,
            l1,
            l2,
            l3,
            c0,
            c1,
            c2,
            c3,
        ] = *header;
        let number = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let crc = u32::from_be_bytes([c0, c1, c2, c3]);
        ensure!(
            number == self.number,
            "the answer is to request {number}, not {}",
            self.number
        );
        ensure!(
            length as usize == self.payload().len(),
            "the server got {length} bytes of {}",
            self.payload().len()
        );
        ensure!(
            crc == crc32fast::hash(self.payload()),
            "the payload arrived damaged at the server"
        );
        ensure!(
            payload == expected,
            "the payload came back damaged from the server"
        );
        Ok(u16::from_be_bytes([s0, s1]))
    }
}

/// The server's side of a stream: reads one request and writes its answer. `false` at the end.
pub(super) async fn serve_stream(
    server: u16,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    buffer: &mut Vec<u8>,
) -> Result<bool> {
    let mut header = [0; REQUEST_HEADER];
    if stream.read(&mut header[..1]).await? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut header[1..]).await?;
    let [.., l0, l1, l2, l3] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    ensure!(
        length <= MAX_PAYLOAD,
        "a request of {length} bytes is too long"
    );
    buffer.resize(REQUEST_HEADER + length, 0);
    buffer[..REQUEST_HEADER].copy_from_slice(&header);
    stream.read_exact(&mut buffer[REQUEST_HEADER..]).await?;
    let answer = answer(server, buffer).context("the request is shorter than its header")?;
    stream.write_all(&answer).await?;
    Ok(true)
}

/// The answer to a whole request; `None` when it is none.
fn answer(server: u16, request: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = request.split_first_chunk::<REQUEST_HEADER>()?;
    let mut answer = Vec::with_capacity(ANSWER_HEADER + payload.len());
    answer.extend_from_slice(&header[..8]);
    answer.extend_from_slice(&server.to_be_bytes());
    answer.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    answer.extend_from_slice(&crc32fast::hash(payload).to_be_bytes());
    answer.extend_from_slice(payload);
    Some(answer)
}

/// The answer to a whole request that came as a datagram; `None` when it is none.
pub(super) fn datagram_answer(server: u16, request: &[u8]) -> Option<Vec<u8>> {
    let mut answer = answer(server, request)?;
    answer.truncate(datagram_answer_len(request.len()));
    Some(answer)
}

/// Length of the answer to a datagram of that length.
fn datagram_answer_len(request: usize) -> usize {
    request.max(ANSWER_HEADER)
}

/// The finalizer of `SplitMix64`: neighbouring numbers give payloads that have nothing in common.
fn scramble(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_answer_is_accepted() {
        for payload in [0, 1, 7, 8, 9, 1400, 100_000] {
            let request = Request::new(42, payload);
            assert_eq!(request.as_bytes().len(), REQUEST_HEADER + payload);
            let answer = answer(513, request.as_bytes()).expect("a whole request");
            assert_eq!(request.check(&answer).expect("unharmed"), 513);
        }
    }

    #[test]
    fn every_damaged_byte_but_the_servers_number_is_noticed() {
        let request = Request::new(7, 100);
        let good = answer(1, request.as_bytes()).expect("a whole request");
        for at in (0..good.len()).filter(|at| ![8, 9].contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(request.check(&bad).is_err(), "byte {at}");
        }
        for length in 0..good.len() {
            assert!(request.check(&good[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn answers_to_datagrams_are_no_longer_than_the_request() {
        for payload in [0, 5, 6, 7, 1460] {
            let request = Request::new(3, payload);
            let answer = datagram_answer(2, request.as_bytes()).expect("a whole request");
            assert_eq!(answer.len(), request.as_bytes().len().max(ANSWER_HEADER));
            assert_eq!(request.check_datagram(&answer).expect("unharmed"), 2);
            // Cut short or damaged on the way back; damaged on the way there, beyond what comes back.
            for at in (0..answer.len()).filter(|at| ![8, 9].contains(at)) {
                let mut bad = answer.clone();
                bad[at] ^= 1;
                assert!(request.check_datagram(&bad).is_err(), "byte {at}");
                assert!(request.check_datagram(&answer[..at]).is_err(), "{at} bytes");
            }
            if payload > 0 {
                let mut bad = request.as_bytes().to_vec();
                let last = bad.len() - 1;
                bad[last] ^= 1;
                let answer = datagram_answer(2, &bad).expect("a whole request");
                assert!(request.check_datagram(&answer).is_err());
            }
        }
    }

    #[test]
    fn payloads_differ() {
        assert_ne!(Request::new(1, 64).payload(), Request::new(2, 64).payload());
        assert!(answer(1, &[0; REQUEST_HEADER - 1]).is_none());
    }

    #[tokio::test]
    async fn a_stream_carries_several_requests_and_ends() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let server = tokio::spawn(async move {
            let mut buffer = Vec::new();
            let mut served = 0;
            while serve_stream(9, &mut far, &mut buffer)
                .await
                .expect("whole requests")
            {
                served += 1;
            }
            served
        });
        for number in 0..3 {
            let server = Request::new(number, 500).exchange(&mut near).await;
            assert_eq!(server.expect("answered"), 9);
        }
        drop(near);
        assert_eq!(server.await.expect("the server ends"), 3);
    }
}
