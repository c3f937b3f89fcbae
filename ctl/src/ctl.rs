//! `katran-xsk ctl`: one command to a running balancer.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    USAGE,
    admin::{
        self, AdminError,
        client::{Client, ClientError},
        command::{self, Arguments, Verb},
        per_second,
        protocol::Response,
        report::Answer,
    },
    cli::CtlArgs,
    output::{Reading, render},
    stdio::{complain, print},
};

/// Runs the command.
///
/// Exit code 0: carried out; 1: refused, answered in part, or no balancer answered; 2: not a command.
/// The reason goes to standard error; with `--json` the whole answer line goes to standard output as
/// well.
pub fn run(args: &CtlArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket).with_patience(args.timeout);
    let arguments = match words(&args.command).and_then(|words| parse(&words)) {
        Ok(arguments) => arguments,
        Err(error) => {
            complain(format_args!(
                "katran-xsk ctl: {error}{}",
                hint(&args.command)
            ));
            return Ok(ExitCode::from(USAGE));
        }
    };
    let problem = match args.watch {
        None => {
            let done = execute(&client, &arguments, args.json)?;
            print(&done.text)?;
            done.problem
        }
        Some(_) if !is_repeatable(arguments.spec().verb) => {
            complain("katran-xsk ctl: --watch: only `show` commands can be repeated");
            return Ok(ExitCode::from(USAGE));
        }
        Some(pause) => Some(watch(&client, &arguments, args.json, pause)?),
    };
    match problem {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error.into()),
    }
}

/// The words of a command line: the shell has taken them apart, unless it is a whole line in quotes.
fn words(command: &[String]) -> Result<Vec<String>, AdminError> {
    match command {
        [line] => command::split_line(line),
        words => Ok(words.to_vec()),
    }
}

/// What to say besides of a command that was refused, if quotes keep its arguments together.
fn hint(command: &[String]) -> String {
    // The command's own words may be in quotes together.
    let mut words = command.iter().skip(1);
    match words.find(|word| word.contains(char::is_whitespace)) {
        Some(word) => format!(
            "; `{word}` is one word, blanks and all: leave the quotes around several arguments out, or put \
             the whole command into one pair"
        ),
        None => String::new(),
    }
}

/// Reads the words of a command and checks its arguments, before anybody is asked.
pub(crate) fn parse(words: &[String]) -> Result<Arguments, AdminError> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut arguments = command::parse_words(&words)?;
    arguments.command()?;
    arguments.resolve_paths().map_err(|error| {
        AdminError::new(
            "file",
            format!("the current directory is unknown: {error}"),
            "write the whole path",
        )
    })?;
    Ok(arguments)
}

/// A command that was answered.
pub(crate) struct Done {
    /// What to print; ends with a line end.
    pub(crate) text: String,
    /// Why the answer is not all that was asked for: workers are missing or, with JSON, where a refusal
    /// is text to print as well, it is a refusal.
    pub(crate) problem: Option<AdminError>,
}

/// Sends a command and makes text of its answer.
pub(crate) fn execute(
    client: &Client,
    arguments: &Arguments,
    json: bool,
) -> Result<Done, ClientError> {
    if json {
        let response = client.call(arguments)?;
        let text = line(&response);
        if response.error.is_some() {
            let problem = response.error;
            return Ok(Done { text, problem });
        }
        let lacks = has_failed(&response);
        let problem = match client.read(arguments, response) {
            Ok(answer) => incomplete(&answer),
            // That of another version: for whoever reads the JSON, and no reason to repeat the command.
            Err(_) => lacks.then(of_another_version),
        };
        return Ok(Done { text, problem });
    }
    // Help needs no balancer.
    let answer = match arguments.command()? {
        command::Command::Help { command } => Answer::Help(admin::help(command.as_deref())?),
        _ => client.ask(arguments)?,
    };
    Ok(Done {
        text: render(&answer, Reading::Totals),
        problem: incomplete(&answer),
    })
}

fn line(response: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string(response).unwrap_or_default();
    text.push('\n');
    text
}

/// Whether an answer says that a worker is missing, whatever else it says.
fn has_failed(response: &Response<Value>) -> bool {
    let failed = response
        .result
        .as_ref()
        .and_then(|result| result.get("failed"));
    failed
        .and_then(Value::as_array)
        .is_some_and(|failed| !failed.is_empty())
}

fn of_another_version() -> AdminError {
    AdminError::new(
        "worker",
        "the answer is incomplete: `failed` in it says what is missing",
        "look at `show workers`",
    )
}

/// What an answer about flows lacks.
fn incomplete(answer: &Answer) -> Option<AdminError> {
    let missing = answer.missing();
    let named = missing
        .iter()
        .map(|one| format!("that of queue {} is missing ({})", one.worker, one.problem));
    let named: Vec<String> = named.collect();
    (!missing.is_empty()).then(|| {
        AdminError::new(
            "worker",
            format!("the answer is incomplete: {}", named.join(", ")),
            "look at `show workers`",
        )
    })
}

const fn is_repeatable(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::ShowWorkers | Verb::ShowStats | Verb::ShowDrops | Verb::ShowConfig | Verb::ShowMemory
    )
}

/// Repeats a command until it is refused, or fails, or nobody reads any more.
fn watch(
    client: &Client,
    arguments: &Arguments,
    json: bool,
    pause: Duration,
) -> anyhow::Result<AdminError> {
    let clear = if !json && io::stdout().is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        ""
    };
    let mut before: Option<Answer> = None;
    loop {
        let response = client.call(arguments)?;
        if let Some(error) = &response.error {
            if json {
                print(line(&response))?;
            }
            return Ok(error.clone());
        }
        let id = response.id.clone();
        let now = client.read(arguments, response)?;
        let rates = before.as_ref().and_then(|before| per_second(&now, before));
        let (shown, reading) = match &rates {
            Some(rates) => (rates, Reading::PerSecond),
            None => (&now, Reading::Totals),
        };
        if json {
            print(reading_line(id, shown, reading))?;
        } else {
            print(format_args!("{clear}{}\n", render(shown, reading)))?;
        }
        before = Some(now);
        thread::sleep(pause);
    }
}

/// An answer as the balancer gives it, and what its numbers are.
fn reading_line(id: Value, answer: &Answer, reading: Reading) -> String {
    #[derive(serde::Serialize)]
    struct Read<'a> {
        #[serde(flatten)]
        response: Response<&'a Answer>,
        reading: &'static str,
    }
    line(&Read {
        response: Response::new(id, Ok(answer)),
        reading: match reading {
            Reading::Totals => "totals",
            Reading::PerSecond => "per-second",
        },
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::net::UnixListener,
    };

    use super::*;

    /// Lets a balancer give this result to one command with `--json`.
    fn answered(command: &str, result: &str) -> Done {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lb.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = format!("{{\"version\":1,\"id\":null,\"ok\":true,\"result\":{result}}}\n");
        let balancer = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            BufReader::new(&stream)
                .read_line(&mut String::new())
                .unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
        });
        let arguments = parse(&words(&[command.to_owned()]).unwrap()).unwrap();
        let done = execute(&Client::new(&path), &arguments, true).unwrap();
        balancer.join().unwrap();
        done
    }

    #[test]
    fn json_of_another_version_is_passed_on() {
        let done = answered("vip del 203.0.113.10:80/tcp", "{\"number\":\"seven\"}");
        assert!(done.text.contains("\"number\":\"seven\""), "{}", done.text);
        assert!(done.problem.is_none(), "it was carried out");
        // What is missing can be seen all the same.
        let flows = |failed: &str| {
            answered(
                "flow count",
                &format!("{{\"new\":1,\"failed\":[{failed}]}}"),
            )
        };
        assert!(flows("").problem.is_none());
        let done = flows("{\"queue\":3}");
        assert!(done.text.contains("\"queue\":3"), "{}", done.text);
        let problem = done.problem.expect("a worker is missing").to_string();
        assert!(problem.contains("incomplete"), "{problem}");
    }
}
