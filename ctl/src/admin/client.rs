//! The operator's end of the admin socket.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    command::Arguments,
    error::AdminError,
    protocol::{Request, Response},
    report::Answer,
};

/// Longest answer that is read; the balancer's own limit is lower.
const LONGEST_ANSWER: u64 = 32 << 20;
/// How long an answer may take unless something else is said: a reload builds rings for seconds at most.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No such file.
    #[error("there is no socket {}; is katran-xsk running? Name its socket with --socket", .0.display())]
    NoSocket(PathBuf),
    /// A file, but nobody behind it.
    #[error("nobody listens at {}; katran-xsk is not running any more", .0.display())]
    NotListening(PathBuf),
    /// Its permissions keep this user out.
    #[error("no permission to use {}; become root, or join the group that owns it", .0.display())]
    NoPermission(PathBuf),
    /// Something else went wrong on the way.
    #[error("cannot talk to katran-xsk at {}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The connection was closed, or the answer took too long.
    #[error("{} gave no answer{}", path.display(), waited(*timed_out))]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// It took longer than this.
        timed_out: Option<Duration>,
    },
    /// The answer cannot be understood.
    #[error("the answer of {} cannot be understood: {error}; are katran-xsk and this program of the same version?", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why not.
        error: serde_json::Error,
    },
    /// The balancer refused.
    #[error(transparent)]
    Refused(#[from] AdminError),
}

fn waited(timed_out: Option<Duration>) -> String {
    match timed_out {
        Some(patience) => format!(
            " within {} s; wait longer with --timeout, or look at the balancer's log",
            patience.as_secs()
        ),
        None => "; look at the balancer's log".to_owned(),
    }
}

/// A balancer, by its socket. Every call is a connection of its own, so that a balancer which was
/// restarted meanwhile answers like any other.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    patience: Duration,
}

impl Client {
    /// The balancer that listens at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            patience: PATIENCE,
        }
    }

    /// The same, with another time for an answer; not 0.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends one command and waits for its answer.
    ///
    /// # Errors
    ///
    /// There is no answer; a refusal is an answer.
    pub fn call(&self, arguments: &Arguments) -> Result<Response<Value>, ClientError> {
        let stream = UnixStream::connect(&self.path).map_err(|error| self.connect_error(error))?;
        let io = |error| self.io_error(error);
        stream.set_read_timeout(Some(self.patience)).map_err(io)?;
        stream.set_write_timeout(Some(self.patience)).map_err(io)?;
        let mut line = serde_json::to_vec(&Request::new(arguments))
            .map_err(|error| self.answer_error(error))?;
        line.push(b'\n');
        // A balancer that refuses the connection says why before it closes it, so an error here does
        // not mean that there is nothing to read.
        let written = (&stream).write_all(&line);
        let mut answer = Vec::new();
        let read = BufReader::new((&stream).take(LONGEST_ANSWER)).read_until(b'\n', &mut answer);
        if answer.last() != Some(&b'\n') {
            written.map_err(io)?;
            read.map_err(io)?;
            return Err(ClientError::NoAnswer {
                path: self.path.clone(),
                timed_out: None,
            });
        }
        serde_json::from_slice(&answer).map_err(|error| self.answer_error(error))
    }

    /// Sends one command and reads its answer.
    ///
    /// # Errors
    ///
    /// There is no answer, or the balancer refused.
    pub fn ask(&self, arguments: &Arguments) -> Result<Answer, ClientError> {
        self.read(arguments, self.call(arguments)?)
    }

    /// Reads the answer to a command.
    ///
    /// # Errors
    ///
    /// The balancer refused, or the answer is not what this version expects.
    pub fn read(
        &self,
        arguments: &Arguments,
        response: Response<Value>,
    ) -> Result<Answer, ClientError> {
        if let Some(error) = response.error {
            return Err(error.into());
        }
        Answer::from_json(arguments.spec().verb, response.result.unwrap_or_default())
            .map_err(|error| self.answer_error(error))
    }

    fn connect_error(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::NoSocket(path),
            io::ErrorKind::ConnectionRefused => ClientError::NotListening(path),
            io::ErrorKind::PermissionDenied => ClientError::NoPermission(path),
            _ => ClientError::Io { path, error },
        }
    }

    fn io_error(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::NoAnswer {
                path,
                timed_out: Some(self.patience),
            },
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::NoAnswer {
                path,
                timed_out: None,
            },
            _ => ClientError::Io { path, error },
        }
    }

    fn answer_error(&self, error: serde_json::Error) -> ClientError {
        ClientError::Answer {
            path: self.path.clone(),
            error,
        }
    }
}
