//! Running a loaded program over a packet without any traffic (`BPF_PROG_TEST_RUN`).

use std::fmt;

use aya::{
    TestRunOptions,
    programs::{ProgramError, SchedClassifier, TestRun as _, Xdp},
};

/// What an XDP program wants done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict(pub u32);

impl Verdict {
    /// Nowhere.
    pub const DROP: Self = Self(1);
    /// To the kernel's stack.
    pub const PASS: Self = Self(2);
    /// Out of the interface it came from.
    pub const TX: Self = Self(3);
    /// To a socket, another interface or another CPU.
    pub const REDIRECT: Self = Self(4);
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("ABORTED"),
            1 => f.write_str("DROP"),
            2 => f.write_str("PASS"),
            3 => f.write_str("TX"),
            4 => f.write_str("REDIRECT"),
            other => write!(f, "unknown verdict {other}"),
        }
    }
}

/// Where a test packet seems to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Index of an interface in this thread's network namespace.
    pub interface: u32,
    /// One of its RX queues.
    pub queue: u32,
}

/// Result of a program for one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// What the program returned.
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

/// What a tc program wants done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TcVerdict(pub i32);

impl TcVerdict {
    /// To the next program, or on its way.
    pub const NEXT: Self = Self(-1);
    /// Nowhere.
    pub const DROP: Self = Self(2);
    /// To another interface.
    pub const REDIRECT: Self = Self(7);
}

impl fmt::Debug for TcVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NEXT => f.write_str("NEXT"),
            Self::DROP => f.write_str("DROP"),
            Self::REDIRECT => f.write_str("REDIRECT"),
            Self(other) => write!(f, "unknown verdict {other}"),
        }
    }
}

/// Result of a tc program for one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcTestRun {
    /// What the program returned.
    pub verdict: TcVerdict,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// The packet's mark as the program left it.
    pub mark: u32,
}

/// Bytes that a program can grow a frame by.
const ROOM: usize = 256;

pub(crate) fn run(
    program: &Xdp,
    frame: &[u8],
    ingress: Option<Ingress>,
) -> Result<TestRun, ProgramError> {
    let mut out = vec![0; frame.len() + ROOM];
    let context = ingress.map(|ingress| context(frame.len(), ingress));
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: context.as_ref().map(<[u8; 24]>::as_slice),
        ..TestRunOptions::new()
    };
    let result = program.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    Ok(TestRun {
        verdict: Verdict(result.return_value),
        frame: out,
    })
}

pub(crate) fn run_tc(
    program: &SchedClassifier,
    frame: &[u8],
    mark: u32,
) -> Result<TcTestRun, ProgramError> {
    /// Bytes that hold a `struct __sk_buff`, also of later kernels.
    const CONTEXT: usize = 512;
    /// Where it has the mark.
    const MARK: std::ops::Range<usize> = 8..12;
    let mut out = vec![0; frame.len() + ROOM];
    let mut context = [0; MARK.end];
    context[MARK].copy_from_slice(&mark.to_ne_bytes());
    let mut context_out = [0; CONTEXT];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ctx_out: Some(&mut context_out),
        ..TestRunOptions::new()
    };
    let result = program.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    let mut mark = [0; 4];
    mark.copy_from_slice(&context_out[MARK]);
    Ok(TcTestRun {
        verdict: TcVerdict(result.return_value.cast_signed()),
        frame: out,
        mark: u32::from_ne_bytes(mark),
    })
}

/// `struct xdp_md`: start, end, metadata, interface, queue, outgoing interface.
fn context(length: usize, ingress: Ingress) -> [u8; 24] {
    let fields = [0, length as u32, 0, ingress.interface, ingress.queue, 0];
    let mut bytes = [0; 24];
    for (bytes, field) in bytes.chunks_exact_mut(4).zip(fields) {
        bytes.copy_from_slice(&field.to_ne_bytes());
    }
    bytes
}
