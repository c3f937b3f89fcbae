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
            complain(format_args!("katran-xsk ctl: {error}"));
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
        let problem = match response.error {
            Some(error) => Some(error),
            None => incomplete(&client.read(arguments, response)?),
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
