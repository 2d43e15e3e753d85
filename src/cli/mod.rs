//! Arguments, messages, tables and JSON, exit status; one file per verb.

mod after;
mod attach;
mod check;
mod exit;
mod inspect;
mod keep;
mod kill;
mod ls;
mod open;
mod resume;
mod run;
mod save;
mod say;
mod show;
mod status;
mod switch;
mod table;
mod target;
mod units;
mod verify;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, Command, FromArgMatches, Parser, Subcommand};

use crate::supervise::Failure;
pub use exit::{Exit, Outcome};

/// Save a running tree of processes to one file, and start it again from there.
#[derive(Debug, Parser)]
#[command(name = "ckpt", version, max_term_width = 120, subcommand_required = true, arg_required_else_help = true)]
struct Ckpt {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::RunArgs),
    Save(save::SaveArgs),
    Attach(attach::AttachArgs),
    Resume(resume::ResumeArgs),
    Ls(ls::LsArgs),
    Status(status::StatusArgs),
    Kill(kill::KillArgs),
    Show(show::ShowArgs),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Check(check::CheckArgs),
}

/// What a verb comes to: its own status, or the program's.
type Done = Result<Outcome, Failure>;

/// Which of the four programs this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `ckpt VERB`.
    Ckpt,
    /// `ckpt-run`.
    Run,
    /// `ckpt-attach`.
    Attach,
    /// `ckpt-resume`.
    Resume,
}

/// Does what the command line says, and ends this process.
pub fn main(program: Program) -> ! {
    let arguments = std::env::args_os();
    let (done, verb_of_program) = match program {
        Program::Ckpt => match Ckpt::try_parse_from(arguments) {
            Ok(Ckpt { verb }) => {
                let of_program = matches!(verb, Verb::Run(_) | Verb::Resume(_));
                (dispatch(verb), of_program)
            }
            Err(error) => usage(&error),
        },
        Program::Run => (run::run(parse("ckpt-run", arguments)), true),
        Program::Attach => (attach::run(parse("ckpt-attach", arguments)), false),
        Program::Resume => (resume::run(parse("ckpt-resume", arguments)), true),
    };
    let outcome = done.unwrap_or_else(|failure| {
        say::failure(&failure);
        let exit = Exit::from(failure.kind);
        // The status of a program may well be 1; that we failed must stand out.
        Outcome::Ours(if verb_of_program && exit == Exit::Failed { Exit::CannotRun } else { exit })
    });
    outcome.end()
}

fn dispatch(verb: Verb) -> Done {
    match verb {
        Verb::Run(args) => run::run(args),
        Verb::Save(args) => save::run(args),
        Verb::Attach(args) => attach::run(args),
        Verb::Resume(args) => resume::run(args),
        Verb::Ls(args) => ls::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Kill(args) => kill::run(&args),
        Verb::Show(args) => show::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Check(args) => check::run(&args),
    }
}

/// The arguments of a program that is one verb only.
fn parse<T: Args + FromArgMatches>(name: &'static str, arguments: impl Iterator<Item = OsString>) -> T {
    let command = T::augment_args(Command::new(name).version(env!("CARGO_PKG_VERSION")).max_term_width(120));
    match command.try_get_matches_from(arguments).and_then(|matches| T::from_arg_matches(&matches)) {
        Ok(args) => args,
        Err(error) => usage(&error),
    }
}

/// Help and version go to stdout; anything else is wrong usage.
fn usage(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            say::data(&text);
            Outcome::Ours(Exit::Ok).end()
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => say::raw(&text),
        _ => say::line(text.strip_prefix("error: ").unwrap_or(&text).trim_end()),
    }
    Outcome::Ours(Exit::Usage).end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Ckpt::command().debug_assert();
    }

    #[test]
    fn every_option_has_an_environment_variable() {
        for verb in Ckpt::command().get_subcommands() {
            for option in verb.get_arguments().filter(|arg| !arg.is_positional()) {
                let name = option.get_id().as_str();
                if matches!(name, "help" | "version") {
                    continue;
                }
                let expected = format!("CKPT_{}", name.to_uppercase());
                if matches!(name, "name" | "map_path") {
                    // By hand: CKPT_NAME also tells a program which job it is, and is not taken inside a job; the lines of
                    // CKPT_MAP_PATH are several values.
                    let help = option.get_help().unwrap().to_string();
                    assert!(help.contains(&expected), "{help}");
                    continue;
                }
                assert_eq!(option.get_env().unwrap().to_str(), Some(expected.as_str()), "{}", verb.get_name());
            }
        }
    }
}
