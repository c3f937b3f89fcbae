//! `katran-xsk ctl`: one command to a running balancer.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use crate::{
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
};

/// Exit code for words that are not a command.
const USAGE: u8 = 2;

/// Runs the command.
///
/// Exit code 0: carried out; 1: refused, or no balancer answered; 2: not a command. The reason goes
/// to standard error; with `--json` the whole answer line goes to standard output as well.
pub fn run(args: &CtlArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket);
    let words: Vec<&str> = args
        .command
        .iter()
        .flat_map(|word| word.split_whitespace())
        .collect();
    let arguments = match parse(&words) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("katran-xsk ctl: {error}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let result = match args.watch {
        None => {
            execute(&client, &arguments, args.json).map(|done| print(&done.text).map(|()| done))
        }
        Some(_) if !is_repeatable(arguments.spec().verb) => {
            eprintln!("katran-xsk ctl: --watch: only `show` commands can be repeated");
            return Ok(ExitCode::from(USAGE));
        }
        Some(pause) => watch(&client, &arguments, args.json, pause),
    };
    let refused = match result {
        Ok(Ok(done)) => done.refused,
        // Whoever reads our output has seen enough.
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(error) => return Err(error.into()),
    };
    match refused {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error.into()),
    }
}

/// Reads the words of a command and checks its arguments, before anybody is asked.
pub(crate) fn parse(words: &[&str]) -> Result<Arguments, AdminError> {
    let mut arguments = command::parse_words(words)?;
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
    /// With JSON, where a refusal is text to print as well.
    pub(crate) refused: Option<AdminError>,
}

/// Sends a command and makes text of its answer.
pub(crate) fn execute(
    client: &Client,
    arguments: &Arguments,
    json: bool,
) -> Result<Done, ClientError> {
    if json {
        let response = client.call(arguments)?;
        let mut text = serde_json::to_string(&response).unwrap_or_default();
        text.push('\n');
        return Ok(Done {
            text,
            refused: response.error,
        });
    }
    // Help needs no balancer.
    let answer = match arguments.command()? {
        command::Command::Help { command } => Answer::Help(admin::help(command.as_deref())?),
        _ => client.ask(arguments)?,
    };
    Ok(Done {
        text: render(&answer, Reading::Totals),
        refused: None,
    })
}

/// Prints to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

const fn is_repeatable(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::ShowWorkers | Verb::ShowStats | Verb::ShowDrops | Verb::ShowConfig | Verb::ShowMemory
    )
}

/// Repeats a command until it fails or nobody reads any more.
fn watch(
    client: &Client,
    arguments: &Arguments,
    json: bool,
    pause: Duration,
) -> Result<io::Result<Done>, ClientError> {
    let clear = if !json && io::stdout().is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        ""
    };
    let mut before: Option<Answer> = None;
    loop {
        let text = if json {
            let response = client.call(arguments)?;
            let line = serde_json::to_string(&response).unwrap_or_default();
            if let Response {
                error: Some(error), ..
            } = response
            {
                return Err(error.into());
            }
            line + "\n"
        } else {
            let now = client.ask(arguments)?;
            let rates = before.as_ref().and_then(|before| per_second(&now, before));
            let text = match &rates {
                Some(rates) => render(rates, Reading::PerSecond),
                None => render(&now, Reading::Totals),
            };
            before = Some(now);
            format!("{clear}{text}\n")
        };
        if let Err(error) = print(&text) {
            return Ok(Err(error));
        }
        thread::sleep(pause);
    }
}
