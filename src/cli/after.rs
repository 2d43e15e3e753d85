//! `--keep-running`, `--stop`, `--kill`: what becomes of the program after a save.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::switch;
use crate::supervise::protocol::After;

/// The choice. The command line overrules the environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct AfterArgs(pub After);

const FLAGS: [(&str, &str, &str, After, &str); 3] = [
    ("keep_running", "keep-running", "CKPT_KEEP_RUNNING", After::Continue, "Let the program go on (the default)"),
    ("stop", "stop", "CKPT_STOP", After::Stop, "Leave the program stopped, as by SIGSTOP"),
    ("kill", "kill", "CKPT_KILL", After::Kill, "Kill the program once the image is on disk"),
];

impl Args for AfterArgs {
    fn augment_args(command: Command) -> Command {
        FLAGS.into_iter().fold(command, |command, (id, long, env, _, help)| {
            let flag = Arg::new(id).long(long).env(env).help(help).action(ArgAction::SetTrue);
            command.arg(flag.value_parser(switch::parse))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AfterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let chosen = |source| {
            let set = move |id: &str| matches.get_flag(id) && matches.value_source(id) == Some(source);
            FLAGS.into_iter().filter(move |flag| set(flag.0)).map(|flag| (flag.1, flag.3)).collect::<Vec<_>>()
        };
        for source in [ValueSource::CommandLine, ValueSource::EnvVariable] {
            match chosen(source).as_slice() {
                [] => {}
                [(_, after)] => return Ok(AfterArgs(*after)),
                [(one, _), (other, _), ..] => {
                    let text = format!("--{one} and --{other} cannot be used together\n");
                    return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
                }
            }
        }
        Ok(AfterArgs::default())
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<After, clap::Error> {
        let command = AfterArgs::augment_args(Command::new("x").no_binary_name(true));
        AfterArgs::from_arg_matches(&command.try_get_matches_from(arguments)?).map(|it| it.0)
    }

    #[test]
    fn one_choice_at_most() {
        assert_eq!(parse(&[]).unwrap(), After::Continue);
        assert_eq!(parse(&["--kill"]).unwrap(), After::Kill);
        assert_eq!(parse(&["--stop"]).unwrap(), After::Stop);
        assert_eq!(parse(&["--stop", "--kill"]).unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }
}
