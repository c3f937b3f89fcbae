//! `katran-xsk shell`: commands by hand, with history, completion and help; or a script on standard
//! input.

use std::{
    env, fs,
    io::{self, BufRead, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use rustyline::{
    CompletionType, Config, Context, Editor, Helper, completion::Completer, error::ReadlineError,
    highlight::Highlighter, hint::Hinter, history::FileHistory, validate::Validator,
};

use crate::{
    admin::{
        client::{Client, ClientError},
        command::{self, Live},
        report::Answer,
    },
    cli::ShellArgs,
    ctl::{self, Done},
    stdio::{StdoutError, complain, print},
};

const PROMPT: &str = "katran-xsk> ";
/// Lines of history that are kept.
const HISTORY: usize = 1000;

/// Runs the command.
///
/// Exit code 0 unless a command of a script failed.
pub fn run(args: &ShellArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket).with_patience(args.timeout);
    if io::stdin().is_terminal() {
        interactive(&client, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let input = io::stdin().lock();
    let failed = script(&client, input, args.json, args.keep_going, |text| {
        print(text)
    })?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs a script: a command a line; blank lines and comments are left out. Stops at the first command
/// that fails unless it is to keep going. Returns how many failed.
fn script(
    client: &Client,
    input: impl BufRead,
    json: bool,
    keep_going: bool,
    mut print: impl FnMut(&str) -> Result<(), StdoutError>,
) -> anyhow::Result<usize> {
    let mut failed = 0;
    for (index, line) in input.lines().enumerate() {
        let line = line.context("standard input cannot be read")?;
        let problem = match run_line(client, &line, json) {
            Ok(Ran::Nothing) => continue,
            Ok(Ran::Quit) => break,
            Ok(Ran::Command(done)) => {
                print(&done.text)?;
                done.problem.map(|error| error.to_string())
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            complain(format_args!("line {}: {problem}", index + 1));
            failed += 1;
            if !keep_going {
                break;
            }
        }
    }
    Ok(failed)
}

/// What a line was.
enum Ran {
    /// Blank, or a comment.
    Nothing,
    /// The wish to leave.
    Quit,
    /// A command that was answered.
    Command(Done),
}

fn run_line(client: &Client, line: &str, json: bool) -> Result<Ran, ClientError> {
    let words = command::split_line(line)?;
    match words.as_slice() {
        [] => Ok(Ran::Nothing),
        [word] if matches!(word.as_str(), "quit" | "exit") => Ok(Ran::Quit),
        words => {
            let arguments = ctl::parse(words)?;
            Ok(Ran::Command(ctl::execute(client, &arguments, json)?))
        }
    }
}

fn interactive(client: &Client, json: bool) -> anyhow::Result<()> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .max_history_size(HISTORY)?
        .history_ignore_space(true)
        .auto_add_history(true)
        .build();
    let mut editor: Editor<Assistant, FileHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Assistant {
        client: client.clone(),
    }));
    let history = history_file();
    if let Some(path) = &history {
        // The first time there is none.
        let _ = editor.load_history(path);
    }
    print(format_args!(
        "{}: `help` lists the commands, Ctrl-D leaves\n",
        client.path().display()
    ))?;
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => match run_line(client, &line, json) {
                Ok(Ran::Nothing) => {}
                Ok(Ran::Quit) => break,
                Ok(Ran::Command(done)) => {
                    print(&done.text)?;
                    if let Some(problem) = done.problem {
                        complain(problem);
                    }
                }
                Err(error) => complain(error),
            },
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("the terminal cannot be read"),
        }
    }
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        tracing::info!(path = %path.display(), %error, "the history cannot be saved");
    }
    Ok(())
}

/// Where the history is kept; `None` when there is no place for it.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    let directory = state.join("katran-xsk");
    fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}

/// Completes commands and what they are about.
struct Assistant {
    client: Client,
}

impl Assistant {
    /// Asks the balancer; what it does not answer cannot be completed.
    fn ask(&self, words: &[&str]) -> Option<Answer> {
        let arguments = command::parse_words(words).ok()?;
        self.client.ask(&arguments).ok()
    }
}

impl Live for Assistant {
    fn vips(&self) -> Vec<String> {
        match self.ask(&["vip", "list"]) {
            Some(Answer::Vips(list)) => list.vips.into_iter().map(|row| row.vip).collect(),
            _ => Vec::new(),
        }
    }

    fn reals(&self, vip: Option<&str>) -> Vec<String> {
        let words: Vec<&str> = ["real", "list"].into_iter().chain(vip).collect();
        let Some(Answer::Reals(list)) = self.ask(&words) else {
            return Vec::new();
        };
        let mut reals: Vec<String> = list
            .reals
            .into_iter()
            .map(|row| row.real.to_string())
            .collect();
        reals.sort_unstable();
        reals.dedup();
        reals
    }

    fn decap(&self) -> Vec<String> {
        match self.ask(&["decap", "list"]) {
            Some(Answer::Decap(list)) => {
                let rows = list.destinations.into_iter();
                rows.map(|row| row.address.to_string()).collect()
            }
            _ => Vec::new(),
        }
    }

    fn marks(&self) -> Vec<String> {
        let Some(Answer::HealthChecks(list)) = self.ask(&["hc", "list"]) else {
            return Vec::new();
        };
        let marks = list.health_checks.iter();
        marks.map(|check| check.mark.to_string()).collect()
    }
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let line = line.get(..position).unwrap_or(line);
        Ok(command::complete(line, self))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}
impl Highlighter for Assistant {}
impl Validator for Assistant {}
impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_script(text: &str, keep_going: bool) -> (usize, String) {
        let client = Client::new("/nonexistent/katran-xsk.sock");
        let mut output = String::new();
        let failed = script(&client, text.as_bytes(), false, keep_going, |text| {
            output.push_str(text);
            Ok(())
        });
        (failed.expect("the script is readable"), output)
    }

    #[test]
    fn a_script_stops_at_the_first_error() {
        let (failed, output) =
            run_script("# greeting\n\nhelp version\nnonsense\nhelp dump\n", false);
        assert_eq!(failed, 1);
        assert!(
            output.contains("version\n") && !output.contains("TOML"),
            "{output}"
        );
    }

    #[test]
    fn a_script_can_keep_going() {
        let (failed, output) = run_script("nonsense\nvip list\nhelp dump\nquit\nnonsense\n", true);
        assert_eq!(failed, 2);
        assert!(output.contains("TOML"), "{output}");
    }
}
