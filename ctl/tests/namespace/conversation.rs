//! One TCP connection to a server of the lab, step by step, with a look into its socket.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::lab::Namespace;
use nix::sys::socket::{getsockopt, sockopt};

/// Longest time without a byte.
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER_HEADER: usize = 8 + 2 + 4 + 4;

/// An open connection.
#[derive(Debug)]
pub(crate) struct Conversation {
    stream: TcpStream,
    questions: u64,
}

impl Conversation {
    /// Connects from a namespace.
    pub(crate) fn open(from: &Namespace, to: SocketAddr) -> Result<Self> {
        let stream = from
            .run(|| TcpStream::connect_timeout(&to, PATIENCE))?
            .with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            questions: 0,
        })
    }

    /// Sends `length` bytes and gets them back; gives the number of the server. The messages are those
    /// of [`benches::traffic::Server`].
    pub(crate) fn ask(&mut self, length: usize) -> Result<u16> {
        self.questions += 1;
        let payload: Vec<u8> = (0..length as u64)
            .map(|i| (i.wrapping_mul(self.questions + 0x9e37) >> 3) as u8)
            .collect();
        let mut request = self.questions.to_be_bytes().to_vec();
        request.extend_from_slice(&(length as u32).to_be_bytes());
        request.extend_from_slice(&payload);
        self.stream.write_all(&request).context("cannot send")?;

        let mut header = [0; ANSWER_HEADER];
        self.stream.read_exact(&mut header).context("no answer")?;
        let mut answer = vec![0; length];
        self.stream
            .read_exact(&mut answer)
            .context("the answer breaks off")?;
        let [.., s0, s1, _, _, _, _, c0, c1, c2, c3] = header;
        let as_it_arrived = u32::from_be_bytes([c0, c1, c2, c3]);
        ensure!(
            as_it_arrived == crc32fast::hash(&payload) && answer == payload,
            "the payload was damaged on the way"
        );
        Ok(u16::from_be_bytes([s0, s1]))
    }

    /// Its own end.
    pub(crate) fn source(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Bytes of payload that its socket puts into a segment now.
    pub(crate) fn segment_size(&self) -> Result<u32> {
        Ok(getsockopt(&self.stream, sockopt::TcpMaxSeg)?)
    }
}
