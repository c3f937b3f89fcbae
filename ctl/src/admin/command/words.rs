//! How an argument can be written in words: by its place, as `name=value`, as `--name=value`, as
//! `--name value` or, where the table gives it a letter, as `-n value`.

use super::{ArgumentSpec, CommandSpec, Kind};

/// One argument as somebody wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given<'w> {
    /// By its place: the value alone.
    Place(&'w str),
    /// By its name.
    Named(&'static ArgumentSpec, &'w str),
    /// By its name, but no value follows.
    Dangling(&'static ArgumentSpec, &'w str),
    /// By a name that the command does not have.
    Unknown(&'w str),
}

/// Takes the words behind a command's name apart.
pub(super) fn read<'w>(spec: &'static CommandSpec, words: &[&'w str]) -> Vec<Given<'w>> {
    let mut given = Vec::with_capacity(words.len());
    let mut words = words.iter().copied().peekable();
    while let Some(word) = words.next() {
        let option = word.strip_prefix("--");
        if let Some((name, value)) = option.unwrap_or(word).split_once('=') {
            given.push(match spec.argument(name) {
                Some(argument) => Given::Named(argument, value),
                None => Given::Unknown(name),
            });
            continue;
        }
        if is_negative(word) {
            given.push(Given::Place(word));
            continue;
        }
        let argument = match (option, word.strip_prefix('-')) {
            (Some(name), _) => spec.argument(name),
            (None, Some(letter)) => spec.argument_by_letter(letter),
            (None, None) => {
                given.push(Given::Place(word));
                continue;
            }
        };
        let Some(argument) = argument else {
            given.push(Given::Unknown(word));
            continue;
        };
        let value = match argument.kind {
            // Naming a truth is saying it.
            Kind::Bool => words
                .next_if(|next| matches!(*next, "true" | "false"))
                .or(Some("true")),
            _ => words.next_if(|next| !next.starts_with('-') || is_negative(next)),
        };
        given.push(match value {
            Some(value) => Given::Named(argument, value),
            None => Given::Dangling(argument, word),
        });
    }
    given
}

/// A number below zero: no argument takes one, but whoever writes it means a value and no option.
fn is_negative(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or_default();
    digits.starts_with(|c: char| c.is_ascii_digit())
}
