//! Help texts from the command table.

use super::{
    command::{ArgumentSpec, COMMANDS, CommandSpec},
    error::AdminError,
    report::{Help, HelpArgument, HelpCommand},
};

/// Help for every command, or for those whose name is `prefix` or starts with that word.
///
/// # Errors
///
/// No command has that name.
pub fn help(prefix: Option<&str>) -> Result<Help, AdminError> {
    let wanted = |spec: &&CommandSpec| match prefix {
        None => true,
        Some(prefix) => {
            let rest = spec.name.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        }
    };
    let commands: Vec<HelpCommand> = COMMANDS.iter().filter(wanted).map(of_command).collect();
    if commands.is_empty() {
        return Err(AdminError::new(
            "command",
            "no such command",
            "`help` alone lists the commands",
        ));
    }
    Ok(Help { commands })
}

fn of_command(spec: &CommandSpec) -> HelpCommand {
    HelpCommand {
        command: spec.name.to_owned(),
        usage: spec.usage(),
        summary: spec.summary.to_owned(),
        details: spec.details.to_owned(),
        arguments: spec.arguments.iter().map(of_argument).collect(),
    }
}

fn of_argument(spec: &ArgumentSpec) -> HelpArgument {
    HelpArgument {
        name: spec.name.to_owned(),
        letter: spec.letter,
        usage: spec.usage(),
        required: spec.required,
        repeated: spec.repeated,
        help: spec.help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_finds_one_command_a_family_or_all() {
        let names = |prefix| -> Vec<String> {
            let help = help(prefix).expect("help");
            help.commands
                .into_iter()
                .map(|command| command.command)
                .collect()
        };
        assert_eq!(names(Some("vip add")), ["vip add"]);
        assert_eq!(
            names(Some("real")),
            [
                "real list",
                "real add",
                "real del",
                "real weight",
                "real down",
                "real up",
                "real set",
                "real unset"
            ]
        );
        assert_eq!(names(None).len(), COMMANDS.len());
        assert!(help(Some("vip a")).is_err());
        assert!(help(Some("")).is_err());
    }
}
