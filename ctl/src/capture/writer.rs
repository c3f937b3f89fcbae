//! The thread that writes a capture.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, SystemTime},
};

use dataplane::{
    capture::{Feed, Snapshot},
    worker::now_ns,
};

use super::{
    Request,
    pcapng::{Blocks, QueueTotals},
    session::{End, Progress, Session},
};
use crate::control::Worker;

/// Pause when no worker has anything to write.
const PAUSE: Duration = Duration::from_millis(2);
/// Packets of each worker that are written at once. Those are in the order of their time.
const BATCH: usize = 256;

/// A worker and what it copies.
pub(super) struct Source {
    worker: Worker,
    feed: Feed,
    written: u64,
}

impl Source {
    pub(super) const fn new(worker: Worker, feed: Feed) -> Self {
        Self {
            worker,
            feed,
            written: 0,
        }
    }
}

/// Takes packets from the workers and writes them.
pub(super) struct Writer {
    output: Output,
    interface: String,
    request: Request,
    sources: Vec<Source>,
    /// The workers have monitors.
    armed: bool,
    progress: Arc<Progress>,
}

impl Writer {
    pub(super) fn new(
        file: File,
        interface: &str,
        sources: Vec<Source>,
        session: &Session,
    ) -> Self {
        Self {
            output: Output { file, len: 0 },
            interface: interface.to_owned(),
            request: session.request().clone(),
            sources,
            armed: true,
            progress: Arc::clone(session.progress()),
        }
    }

    /// Writes until the end, whatever it is.
    pub(super) fn run(mut self) -> End {
        let end = self
            .write()
            .unwrap_or_else(|error| End::Failed(error.to_string()));
        // Workers that still copy stop at their next burst, and then give their memory back.
        self.disarm();
        end
    }

    fn write(&mut self) -> io::Result<End> {
        let queues = self.sources.iter().map(|source| source.worker.queue());
        let mut blocks = Blocks::new(
            comment(&self.request),
            &self.interface,
            queues,
            self.request.snaplen,
        )?;
        self.flush(&mut blocks).1?;
        let mut batch = Vec::new();
        let end = loop {
            // Looked at first, so that nothing comes after the last batch.
            let stopping = self.progress.stop_requested();
            if stopping {
                self.disarm();
            }
            let taken = self.write_batch(&mut blocks, &mut batch)?;
            if self.left() == 0 {
                break End::Limit;
            }
            if taken == 0 {
                if stopping {
                    break End::Stopped;
                }
                thread::park_timeout(PAUSE);
            }
        };
        let time = wall_clock_offset() + Duration::from_nanos(now_ns());
        for (index, source) in self.sources.iter().enumerate() {
            let totals = QueueTotals {
                written: source.written,
                lost: source.feed.lost(),
            };
            blocks.totals(index, time, totals)?;
        }
        self.flush(&mut blocks).1?;
        Ok(end)
    }

    /// Packets that the limit leaves.
    fn left(&self) -> u64 {
        let written = self.progress.packets.load(Ordering::Relaxed);
        self.request.limit.saturating_sub(written)
    }

    /// Writes what has come, in the order of time; returns how many packets that were.
    fn write_batch(
        &mut self,
        blocks: &mut Blocks,
        batch: &mut Vec<(usize, Box<Snapshot>)>,
    ) -> io::Result<usize> {
        for (index, source) in self.sources.iter_mut().enumerate() {
            let packets = std::iter::from_fn(|| source.feed.take()).take(BATCH);
            batch.extend(packets.map(|snapshot| (index, snapshot)));
        }
        let taken = batch.len();
        batch.sort_by_key(|(_, snapshot)| snapshot.time_ns);
        let offset = wall_clock_offset();
        let mut left = self.left();
        for (index, snapshot) in batch.drain(..) {
            let source = &mut self.sources[index];
            if left > 0 {
                let time = offset + Duration::from_nanos(snapshot.time_ns);
                blocks.packet(index, source.worker.queue(), time, &snapshot)?;
                source.written += 1;
                left -= 1;
            }
            // Before the file is written to, which may take long.
            source.feed.give_back(snapshot);
        }
        let lost = self.sources.iter().map(|source| source.feed.lost()).sum();
        self.progress.lost.store(lost, Ordering::Relaxed);
        let (packets, result) = self.flush(blocks);
        self.progress.packets.fetch_add(packets, Ordering::Relaxed);
        result.map(|()| taken)
    }

    /// Writes what was built; returns how many blocks of it are in the file.
    fn flush(&mut self, blocks: &mut Blocks) -> (u64, io::Result<()>) {
        let written = self.output.write(blocks.bytes());
        blocks.clear();
        self.progress
            .bytes
            .store(self.output.len, Ordering::Relaxed);
        written
    }

    /// Takes the monitors from the workers and frees them here.
    fn disarm(&mut self) {
        if !std::mem::take(&mut self.armed) {
            return;
        }
        for source in &self.sources {
            if let Err(error) = source.worker.set_monitor(None) {
                tracing::debug!(queue = source.worker.queue(), %error, "no monitor to take back");
            }
        }
    }
}

/// A file that ends with a whole block, come what may.
struct Output {
    file: File,
    /// Bytes of whole blocks.
    len: u64,
}

impl Output {
    /// Writes whole blocks, all of them or those that find room; returns how many.
    fn write(&mut self, blocks: &[u8]) -> (u64, io::Result<()>) {
        let mut rest = blocks;
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            match self.file.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let written = blocks.len() - rest.len();
        let (count, whole) = whole_blocks(&blocks[..written]);
        self.len += whole as u64;
        if whole < written
            && let Err(error) = self.file.set_len(self.len)
        {
            tracing::debug!(%error, "the capture ends in the middle of a packet");
        }
        (count, result)
    }
}

/// How many blocks are there to their end, and their bytes. A block has its length in its second
/// word.
fn whole_blocks(bytes: &[u8]) -> (u64, usize) {
    let (mut count, mut whole) = (0, 0);
    while let Some(length) = bytes.get(whole + 4..).and_then(<[u8]>::first_chunk) {
        let end = whole + u32::from_le_bytes(*length) as usize;
        if end > bytes.len() {
            break;
        }
        (count, whole) = (count + 1, end);
    }
    (count, whole)
}

/// What to add to the workers' clock to get the time since 1970. Read again for each batch, as clocks
/// are set.
fn wall_clock_offset() -> Duration {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    since_1970.saturating_sub(Duration::from_nanos(now_ns()))
}

/// What was asked for, in the file's header.
fn comment(request: &Request) -> String {
    let events: Vec<_> = request.events.iter().map(ToString::to_string).collect();
    format!("event={} limit={}", events.join(","), request.limit)
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Read as _};

    use dataplane::capture::Event;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use pcap_file::pcapng::PcapNgReader;

    use super::*;

    fn block(comment: &str) -> Blocks {
        Blocks::new(comment.to_owned(), "eth0", [0, 1], 128).expect("memory")
    }

    #[test]
    fn blocks_are_counted_and_cut_off_at_their_ends() {
        let blocks = block("event=pass limit=1");
        let bytes = blocks.bytes();
        assert_eq!(whole_blocks(bytes), (3, bytes.len()));
        let (count, whole) = whole_blocks(&bytes[..bytes.len() - 1]);
        assert_eq!((count, whole < bytes.len() - 1), (2, true));
        assert_eq!(whole_blocks(&bytes[..whole]), (2, whole));
        assert_eq!(whole_blocks(&bytes[..7]), (0, 0));
        assert_eq!(whole_blocks(&[]), (0, 0));
    }

    #[test]
    fn a_full_disk_ends_the_capture_and_says_so() {
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        let request = Request {
            events: vec![Event::Address([203, 0, 113, 10].into())],
            limit: 10,
            snaplen: 128,
            file: "/dev/full".into(),
            force: false,
        };
        let session = Session::new(request, Vec::new());
        let writer = Writer::new(full, "eth0", Vec::new(), &session);
        session.run(writer).expect("a thread");
        assert!(session.wait(Duration::from_mins(1)));
        let report = session.report();
        assert_eq!((report.state.as_str(), report.bytes), ("failed", 0));
        let error = report.error.expect("a reason");
        assert!(error.contains("No space left"), "{error}");
    }

    #[test]
    fn a_file_ends_with_a_whole_block_when_it_cannot_grow() {
        let mut file = tempfile::tempfile().expect("a file");
        let mut output = Output {
            file: file.try_clone().expect("a descriptor"),
            len: 0,
        };
        let blocks = block("event=pass limit=1");
        let (count, result) = output.write(blocks.bytes());
        assert_eq!((count, result.is_ok()), (3, true));
        // Half of what follows, as a disk that fills up takes it.
        let half = &blocks.bytes()[..blocks.bytes().len() - 10];
        let (count, result) = output.write(half);
        assert_eq!((count, result.is_ok()), (2, true));
        let mut written = Vec::new();
        std::io::Seek::rewind(&mut file).expect("a file");
        file.read_to_end(&mut written).expect("readable");
        assert_eq!(written.len() as u64, output.len);
        assert_eq!(whole_blocks(&written), (5, written.len()));
        let mut reader = PcapNgReader::new(written.as_slice()).expect("pcapng");
        while let Some(block) = reader.next_block() {
            block.expect("whole");
        }
    }

    #[test]
    fn a_file_that_takes_nothing_holds_nobody_up() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let full = [0; 4096];
        let mut pipe = File::from(std::os::fd::OwnedFd::from(writer));
        set_blocking(&pipe, false);
        while pipe.write(&full).is_ok() {}
        set_blocking(&pipe, true);

        let request = Request {
            events: vec![Event::Address([203, 0, 113, 10].into())],
            limit: 10,
            snaplen: 128,
            file: "/proc/pipe".into(),
            force: false,
        };
        let session = Session::new(request, Vec::new());
        let writer = Writer::new(pipe, "eth0", Vec::new(), &session);
        session.run(writer).expect("a thread");
        session.request_stop();
        assert!(!session.wait(Duration::from_millis(50)));
        assert_eq!(session.report().state, "stopping");
        let mut written = Vec::new();
        reader.read_to_end(&mut written).expect("readable");
        assert!(session.wait(Duration::from_mins(1)));
        assert_eq!(session.report().state, "stopped");
        let blocks = &written[written.len() - session.report().bytes as usize..];
        assert_eq!(whole_blocks(blocks), (1, blocks.len()));
    }

    fn set_blocking(file: &File, blocking: bool) {
        let mut flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).expect("flags"));
        flags.set(OFlag::O_NONBLOCK, !blocking);
        fcntl(file, FcntlArg::F_SETFL(flags)).expect("flags");
    }
}
