//! The balancer's end of the admin socket.
//!
//! One thread with a small runtime of its own reads requests and writes answers; commands run on at
//! most [`Limits::commands`] further threads. None of them is a worker's thread, and workers are only
//! ever asked through their bounded queues, so whatever clients do costs packets nothing.
//!
//! Everything a client can make grow is bounded by [`Limits`].

use std::{
    io,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::unistd::Uid;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use super::{
    engine::Engine,
    error::AdminError,
    protocol::{self, Response},
    report::Answer,
};

pub use super::socket::{BoundSocket, SocketError};

/// What clients can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. Further ones get one error line.
    pub clients: usize,
    /// Commands that run at a time; further ones wait.
    pub commands: usize,
    /// Bytes of a request line. A longer one gets an error line, and the connection is closed.
    pub line: usize,
    /// Bytes of an answer. A longer one becomes an error.
    pub answer: usize,
    /// Bytes of large answers that wait for their readers, all clients together. Besides those there
    /// is at most one answer for each of `commands`: a command ends when there is room for its answer.
    pub pending: usize,
    /// How long a client may take for a whole request line.
    pub idle: Duration,
    /// How long a client may take to read an answer.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 64,
            commands: 4,
            line: 1 << 20,
            answer: 16 << 20,
            pending: 64 << 20,
            idle: Duration::from_mins(1),
            write: Duration::from_secs(10),
        }
    }
}

/// Answers up to this size are not counted against [`Limits::pending`]: a connection has one answer
/// at a time, so there are few of them.
const SMALL_ANSWER: usize = 64 << 10;
/// Unit of [`Limits::pending`].
const PENDING_UNIT: usize = 1 << 10;
/// A user without rights.
const NOBODY: u32 = u32::MAX;
/// Bytes read at a time.
const READ_SIZE: usize = 16 << 10;
/// Pause after a connection could not be accepted, as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. Dropping it closes every connection and removes the socket's file.
#[derive(Debug)]
pub struct AdminServer {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Listens at `path` with the permission bits `mode` and serves from a thread of its own.
    ///
    /// # Errors
    ///
    /// The socket cannot be made, or another instance listens there.
    pub fn start(
        path: &Path,
        mode: u32,
        engine: Engine,
        limits: Limits,
    ) -> Result<Self, SocketError> {
        Self::serve(BoundSocket::bind(path, mode)?, engine, limits)
    }

    /// As [`AdminServer::start`], on a socket that was made before there was anything to manage.
    ///
    /// # Errors
    ///
    /// The system refuses what a server takes.
    pub fn serve(socket: BoundSocket, engine: Engine, limits: Limits) -> Result<Self, SocketError> {
        let path = socket.path().to_owned();
        let failed = |action| {
            let path = path.clone();
            move |error| SocketError::Io {
                path,
                action,
                error,
            }
        };
        socket
            .listener
            .set_nonblocking(true)
            .map_err(failed("prepare it"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(limits.commands.max(1))
            .thread_name("admin-command")
            .build()
            .map_err(failed("start its runtime"))?;
        let (stop, stopped) = watch::channel(false);
        let thread = thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                let serve = serve(&socket, engine, limits, stopped);
                if let Err(error) = runtime.block_on(serve) {
                    tracing::error!(%error, "the admin socket cannot be served");
                }
                // A command that still runs must not hold the exit up.
                runtime.shutdown_background();
            })
            .map_err(failed("start its thread"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin socket's thread panicked");
        }
    }
}

/// What all connections share.
struct Shared {
    engine: Engine,
    limits: Limits,
    clients: Arc<Semaphore>,
    commands: Semaphore,
    pending: Semaphore,
}

async fn serve(
    socket: &BoundSocket,
    engine: Engine,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let shared = Arc::new(Shared {
        engine,
        limits,
        clients: Arc::new(Semaphore::new(limits.clients)),
        commands: Semaphore::new(limits.commands.max(1)),
        pending: Semaphore::new((limits.pending / PENDING_UNIT).min(Semaphore::MAX_PERMITS)),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Dropping the set closes every connection.
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match Arc::clone(&shared.clients).try_acquire_owned() {
                    Ok(permit) => {
                        connections.spawn(converse(stream, Arc::clone(&shared), permit));
                    }
                    Err(_) => refuse(&stream, limits.clients),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the admin socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Tells a client that there are too many. It fits the socket's empty buffer or is left out.
fn refuse(stream: &UnixStream, clients: usize) {
    let error = AdminError::new(
        "connection",
        format!("all {clients} connections are in use"),
        "close one, or try again later",
    );
    let _ = stream.try_write(&encode(&Response::<Answer>::new(Value::Null, Err(error))));
}

/// Why a conversation ends before the client ends it.
enum Ending {
    /// The client gets this line.
    Explained(AdminError),
    /// Nothing can be said any more.
    Silent,
}

impl From<io::Error> for Ending {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

async fn converse(stream: UnixStream, shared: Arc<Shared>, _permit: OwnedSemaphorePermit) {
    // Whoever the kernel cannot name may do least.
    let caller = stream.peer_cred().map_or(NOBODY, |peer| peer.uid());
    let engine = shared.engine.for_caller(Uid::from_raw(caller));
    let (reader, mut writer) = stream.into_split();
    let mut lines = Lines::new(reader, shared.limits.line);
    let answered = answer_all(&mut lines, &mut writer, &engine, &shared).await;
    if let Err(Ending::Explained(error)) = answered {
        let line = encode(&Response::<Answer>::new(Value::Null, Err(error)));
        let _ = timeout(shared.limits.write, writer.write_all(&line)).await;
    }
}

async fn answer_all(
    lines: &mut Lines,
    writer: &mut OwnedWriteHalf,
    engine: &Engine,
    shared: &Arc<Shared>,
) -> Result<(), Ending> {
    let limits = &shared.limits;
    loop {
        let line = match timeout(limits.idle, lines.next()).await {
            Ok(line) => line?,
            Err(_) => {
                return Err(Ending::Explained(AdminError::new(
                    "connection",
                    format!("no request came for {} seconds", limits.idle.as_secs()),
                    "connect again",
                )));
            }
        };
        let Some(line) = line else {
            return Ok(());
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (answer, _room) = answer(line, engine, shared).await?;
        match timeout(limits.write, writer.write_all(&answer)).await {
            Ok(written) => written?,
            Err(_) => return Err(Ending::Silent),
        }
    }
}

/// The answer line to a request line, with the room it takes until it is written.
async fn answer<'s>(
    line: Vec<u8>,
    engine: &Engine,
    shared: &'s Shared,
) -> Result<(Vec<u8>, SemaphorePermit<'s>), Ending> {
    let closed = |_| Ending::Silent;
    // Held until there is room for the answer: answers that wait for room are no more than commands.
    let _turn = shared.commands.acquire().await.map_err(closed)?;
    let (engine, limit) = (engine.clone(), shared.limits.answer);
    let work = spawn_blocking(move || respond(&engine, &line, limit));
    let answer = work.await.unwrap_or_else(|_| {
        let error = AdminError::new(
            "request",
            "the command failed inside katran-xsk",
            "report this, with the balancer's log",
        );
        encode(&Response::<Answer>::new(Value::Null, Err(error)))
    });
    let units = room_units(answer.len(), shared.limits.pending);
    let room = shared.pending.acquire_many(units).await.map_err(closed)?;
    Ok((answer, room))
}

/// Units of [`Limits::pending`] that an answer takes: never more than there are.
fn room_units(length: usize, pending: usize) -> u32 {
    if length <= SMALL_ANSWER {
        return 0;
    }
    let units = length.div_ceil(PENDING_UNIT).min(pending / PENDING_UNIT);
    u32::try_from(units).unwrap_or(u32::MAX)
}

/// Parses a line, carries it out and writes the answer line.
fn respond(engine: &Engine, line: &[u8], limit: usize) -> Vec<u8> {
    let (id, command) = protocol::parse_line(line);
    let outcome = command.and_then(|command| engine.execute(command));
    let remedy = match &outcome {
        Ok(Answer::Dump(_)) => "look at parts of it: `vip list`, `real list` with limit and offset",
        _ => "ask for less: one VIP, a smaller limit, a shorter id",
    };
    let answer = encode(&Response::new(id.clone(), outcome));
    if answer.len() <= limit {
        return answer;
    }
    let error = AdminError::new(
        "request",
        format!("the answer has {} bytes, {limit} are allowed", answer.len()),
        remedy,
    );
    // The id may be what is too long.
    let id = if id.to_string().len() <= limit / 2 {
        id
    } else {
        Value::Null
    };
    encode(&Response::<Answer>::new(id, Err(error)))
}

fn encode(response: &Response<Answer>) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        br#"{"version":1,"id":null,"ok":false,"error":{"field":"request","problem":"the answer cannot be written as JSON","remedy":"report this"}}"#.to_vec()
    });
    line.push(b'\n');
    line
}

/// Lines of a client, each bounded in length.
struct Lines {
    reader: OwnedReadHalf,
    limit: usize,
    buffer: Vec<u8>,
    /// Where the next line starts in `buffer`.
    start: usize,
    /// Up to where `buffer` has been searched for the next line's end.
    searched: usize,
    ended: bool,
}

impl Lines {
    const fn new(reader: OwnedReadHalf, limit: usize) -> Self {
        Self {
            reader,
            limit,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            ended: false,
        }
    }

    /// The next line without its end; the last one needs none. `None` when there are no more.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Ending> {
        loop {
            let unseen = &self.buffer[self.searched..];
            if let Some(length) = unseen.iter().position(|&byte| byte == b'\n') {
                let end = self.searched + length;
                let line = self.buffer[self.start..end].to_vec();
                self.start = end + 1;
                self.searched = self.start;
                return if line.len() > self.limit {
                    Err(self.too_long())
                } else {
                    Ok(Some(line))
                };
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            self.searched = self.buffer.len();
            if self.searched > self.limit {
                return Err(self.too_long());
            }
            if self.ended {
                self.searched = 0;
                let line = std::mem::take(&mut self.buffer);
                return Ok((!line.is_empty()).then_some(line));
            }
            self.buffer.reserve(READ_SIZE);
            self.ended = self.reader.read_buf(&mut self.buffer).await? == 0;
        }
    }

    fn too_long(&self) -> Ending {
        Ending::Explained(AdminError::new(
            "request",
            format!("the line is longer than {} bytes", self.limit),
            "send shorter lines; large changes belong in the configuration file and `reload`",
        ))
    }
}
