//! Clients of the admin socket, well-behaved and raw, and a server for them.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use katran_xsk::admin::{
    Engine,
    server::{AdminServer, Limits},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::rig::Rig;

/// A balancer with its admin socket.
pub(crate) struct Served {
    pub(crate) rig: Rig,
    pub(crate) path: PathBuf,
    pub(crate) engine: Engine,
    server: Option<AdminServer>,
    _directory: TempDir,
}

impl Served {
    /// With the limits of a real one.
    pub(crate) fn new() -> Self {
        Self::with(Rig::new(), Limits::default())
    }

    /// With other limits.
    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self::with(Rig::new(), limits)
    }

    /// With another balancer.
    pub(crate) fn with(rig: Rig, limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let engine = Engine::new(Arc::clone(&rig.control));
        let server =
            AdminServer::start(&path, 0o660, engine.clone(), limits).expect("the socket is free");
        Self {
            rig,
            path,
            engine,
            server: Some(server),
            _directory: directory,
        }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Connection {
        let stream = UnixStream::connect(&self.path).expect("somebody listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a time-out");
        Connection {
            lines: BufReader::new(stream),
        }
    }

    /// Stops the server.
    pub(crate) fn stop(&mut self) {
        self.server = None;
    }
}

/// A raw connection.
pub(crate) struct Connection {
    lines: BufReader<UnixStream>,
}

impl Connection {
    /// Sends bytes; a connection that was closed meanwhile is no error.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.lines.get_mut().write_all(bytes).is_ok()
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end(&self) {
        let _ = self.lines.get_ref().shutdown(std::net::Shutdown::Write);
    }

    /// The next answer, or `None` when the connection was closed.
    pub(crate) fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            // The kernel resets a connection that is closed with requests unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
            Ok(0) => None,
            Ok(_) => {
                assert!(line.ends_with('\n'), "half a line: {line}");
                let value: Value = serde_json::from_str(&line).expect("an answer is JSON");
                assert_eq!(value["version"], 1);
                assert_eq!(value["ok"].as_bool(), Some(value.get("error").is_none()));
                Some(value)
            }
        }
    }

    /// Sends a line and returns its answer.
    pub(crate) fn ask(&mut self, line: &str) -> Value {
        assert!(
            self.send(format!("{line}\n").as_bytes()),
            "the connection is closed"
        );
        self.receive().expect("an answer")
    }

    /// Sends a line and returns the result in its answer.
    pub(crate) fn result(&mut self, line: &str) -> Value {
        let answer = self.ask(line);
        assert_eq!(answer["ok"], true, "{line}: {answer}");
        answer["result"].clone()
    }

    /// Sends a line and returns the error in its answer.
    pub(crate) fn error(&mut self, line: &str) -> Value {
        let answer = self.ask(line);
        assert_eq!(answer["ok"], false, "{line}: {answer}");
        answer["error"].clone()
    }

    /// Whether the balancer closes the connection, leaving what it sends before unread.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.lines.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => self.is_closed(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
