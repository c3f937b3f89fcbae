//! The wire format of the admin socket: one line in, one line out.
//!
//! A client connects to the Unix stream socket and writes requests, each ended by `\n` (a `\r` in
//! front of it is ignored, so are blank lines). The balancer answers every request with exactly one
//! line, in the order of the requests. A connection may carry any number of requests.
//!
//! # Requests
//!
//! A line that starts with `{` is a JSON object:
//!
//! ```json
//! {"version":1,"id":7,"command":"vip add","args":{"vip":"203.0.113.10:80/tcp","real":["198.51.100.11@2"]}}
//! ```
//!
//! - `version`: required, [`VERSION`];
//! - `id`: any JSON value, repeated in the answer; `null` when left out;
//! - `command`: a name from the command table ([`super::command::COMMANDS`]);
//! - `args`: an object whose keys are the names of the command's arguments. Values are text, numbers
//!   or booleans; an argument that may be repeated also takes a list of those.
//!
//! Unknown keys are refused, at both levels.
//!
//! Any other line is the same command in words, exactly as `katran-xsk ctl` takes them, with `null`
//! for its id: `echo 'show stats' | socat - UNIX:/run/katran-xsk.sock`. Words are separated by
//! blanks; positional arguments come in the table's order, and `name=value`, `--name=value` or
//! `--name value` gives any argument by name. Quotes and backslashes are those of a shell.
//!
//! # Answers
//!
//! ```json
//! {"version":1,"id":7,"ok":true,"result":{"generation":12,"vips_added":{"count":1,"names":["…"]}}}
//! {"version":1,"id":7,"ok":false,"error":{"field":"vip","problem":"…","remedy":"…"}}
//! ```
//!
//! Answers are JSON for both kinds of request. An error changed nothing. What `result` holds is
//! described in [`super::report`], and for changes in [`crate::control::Changes`].
//!
//! # Limits
//!
//! See [`super::server::Limits`]: lines of at most 1 MiB, answers of at most 16 MiB, a bounded number
//! of clients, time-outs for idle clients and for slow readers. A client over a limit gets one error
//! line, where there is still room for one, and its connection is closed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    command::{self, Arguments, Command},
    error::AdminError,
};

/// Version of the protocol; a request of any other version is refused.
pub const VERSION: u32 = 1;

/// One command, as a client writes it in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// Anything; the answer repeats it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub id: Value,
    /// Name in the command table.
    pub command: String,
    /// Arguments by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub args: Map<String, Value>,
}

impl Request {
    /// A request without id.
    pub fn new(arguments: &Arguments) -> Self {
        Self {
            version: VERSION,
            id: Value::Null,
            command: arguments.spec().name.to_owned(),
            args: arguments.to_json(),
        }
    }
}

/// One answer; exactly one of `result` and `error` is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response<T> {
    /// [`VERSION`].
    pub version: u32,
    /// The request's id, `null` when it could not be read.
    pub id: Value,
    /// Whether the command was carried out.
    pub ok: bool,
    /// What the command found or did.
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    pub result: Option<T>,
    /// Why the command was not carried out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<AdminError>,
}

impl<T> Response<T> {
    /// The answer to a command that was carried out, or was not.
    pub fn new(id: Value, outcome: Result<T, AdminError>) -> Self {
        let ok = outcome.is_ok();
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            version: VERSION,
            id,
            ok,
            result,
            error,
        }
    }
}

/// Reads one request line (without its line end): its id and the command, or what is wrong with it.
pub fn parse_line(line: &[u8]) -> (Value, Result<Command, AdminError>) {
    let Ok(text) = std::str::from_utf8(line) else {
        let error = AdminError::new(
            "request",
            "the line is not UTF-8 text",
            "send a JSON object or the words of a command",
        );
        return (Value::Null, Err(error));
    };
    let text = text.trim();
    if text.starts_with('{') {
        parse_json(text)
    } else {
        (Value::Null, parse_command(text))
    }
}

fn parse_command(line: &str) -> Result<Command, AdminError> {
    let words = command::split_line(line)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    command::parse_words(&words)?.command()
}

fn parse_json(text: &str) -> (Value, Result<Command, AdminError>) {
    let object: Map<String, Value> = match serde_json::from_str(text) {
        Ok(object) => object,
        Err(error) => {
            let error = AdminError::new(
                "request",
                format!("not a JSON object: {error}"),
                r#"send {"version":1,"command":"help"}"#,
            );
            return (Value::Null, Err(error));
        }
    };
    let id = object.get("id").cloned().unwrap_or_default();
    (id, parse_object(object))
}

fn parse_object(object: Map<String, Value>) -> Result<Command, AdminError> {
    match object.get("version") {
        Some(version) if version.as_u64() == Some(VERSION.into()) => {}
        Some(version) => {
            return Err(AdminError::new(
                "version",
                format!("{version} is not spoken here"),
                format!("write \"version\":{VERSION}"),
            ));
        }
        None => {
            return Err(AdminError::new(
                "version",
                "missing",
                format!("write \"version\":{VERSION}"),
            ));
        }
    }
    let request: Request = serde_json::from_value(Value::Object(object)).map_err(|error| {
        AdminError::new(
            "request",
            error.to_string(),
            "a request has the keys version, id, command and args",
        )
    })?;
    command::parse_json(&request.command, &request.args)?.command()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> (Value, Result<Command, AdminError>) {
        parse_line(text.as_bytes())
    }

    #[test]
    fn words_and_json_mean_the_same() {
        let (id, words) = parse("vip add [2001:db8::1]:80/tcp flags=lru-bypass real=2001:db8::5@3");
        assert_eq!(id, Value::Null);
        let (id, json) = parse(
            r#"{"version":1,"id":[1,"a"],"command":"vip add","args":{"vip":"[2001:db8::1]:80/tcp",
               "flags":["lru-bypass"],"real":["2001:db8::5@3"]}}"#,
        );
        assert_eq!(id, json!([1, "a"]));
        assert_eq!(words.expect("words parse"), json.expect("JSON parses"));
    }

    #[test]
    fn what_a_client_sends_is_read_back() {
        let arguments =
            command::parse_words(&["flow", "list", "limit=7", "worker=2"]).expect("valid");
        let line = serde_json::to_string(&Request::new(&arguments)).expect("serializes");
        assert_eq!(parse(&line).1, arguments.command());
    }

    #[test]
    fn bad_requests_are_explained() {
        for (line, field, part) in [
            ("{", "request", "not a JSON object"),
            ("[1]", "command", "[1]"),
            ("{}", "version", "missing"),
            (r#"{"version":2,"command":"help"}"#, "version", "2"),
            (r#"{"version":1}"#, "request", "command"),
            (
                r#"{"version":1,"command":"help","extra":1}"#,
                "request",
                "extra",
            ),
            (
                r#"{"version":1,"command":"vip add","args":{"vip":{}}}"#,
                "vip",
                "{}",
            ),
            (
                r#"{"version":1,"command":"vip add","args":{"vpi":"x"}}"#,
                "vpi",
                "argument",
            ),
            (
                r#"{"version":1,"command":"vip add","args":{}}"#,
                "vip",
                "missing",
            ),
            ("nonsense", "command", "nonsense"),
        ] {
            let error = parse(line).1.expect_err(line);
            assert_eq!(error.field, field, "{line}: {error}");
            assert!(error.problem.contains(part), "{line}: {error}");
            assert!(!error.remedy.is_empty(), "{line}: {error}");
        }
        assert!(parse_line(b"\xff\xfe").1.is_err());
    }

    #[test]
    fn id_is_kept_when_the_rest_is_wrong() {
        let (id, command) = parse(r#"{"version":1,"id":"x","command":"nope"}"#);
        assert_eq!(id, json!("x"));
        assert!(command.is_err());
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let line = format!("{{\"version\":1,\"id\":{}", "[".repeat(100_000));
        assert!(parse(&line).1.is_err());
    }

    proptest! {
        #[test]
        fn junk_never_panics(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_line(&line);
        }

        #[test]
        fn junk_in_json_never_panics(command in "[a-z ]{0,12}", key in "[a-z]{0,6}", value in ".{0,40}") {
            let request = json!({"version": 1, "command": command, "args": {key: value}});
            let _ = parse_line(request.to_string().as_bytes());
        }

        #[test]
        fn junk_arguments_never_panic(
            index in 0..command::COMMANDS.len(),
            words in proptest::collection::vec("[-a-z0-9=:./@,\\[\\]]{1,24}", 0..6),
        ) {
            let line = format!("{} {}", command::COMMANDS[index].name, words.join(" "));
            let _ = parse_line(line.as_bytes());
        }
    }
}
