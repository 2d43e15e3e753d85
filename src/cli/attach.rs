//! `ckpt attach`: save a running tree that was not started by us.

use clap::Args;

use super::exit::{Exit, Outcome};
use super::save::SaveOptions;
use super::target::Target;
use super::{Done, say, switch, table, units};
use crate::supervise::Failure;
use crate::supervise::protocol::Survey;

/// Save a running tree that was not started by us
///
/// The process and everything below it. A process of a job is saved through the supervisor of that job.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Root of the tree
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// Only list what would be saved, and each thing that can't be
    #[arg(long, env = "CKPT_DRY_RUN", value_parser = switch::parse)]
    dry_run: bool,
    #[command(flatten)]
    options: SaveOptions,
}

pub fn run(args: AttachArgs) -> Done {
    args.options.talk.start()?;
    let target = Target::from_pid(args.pid);
    if !args.dry_run {
        return args.options.save(target);
    }
    let survey = args.options.order(target).survey()?;
    tell(survey, args.options.json)
}

/// Shows a survey; things that can't be saved make it fail.
pub fn tell(survey: Survey, json: bool) -> Done {
    if json {
        say::json(&say::with_schema("ckpt.survey/1", &survey));
    } else {
        let rows = survey.processes.iter().map(|process| {
            let (host, pid) = (process.host.to_string(), process.pid.to_string());
            let (threads, fds) = (process.threads.to_string(), process.fds.to_string());
            [host, pid, table::harmless(&process.comm), threads, units::bytes(process.memory), fds]
        });
        say::data(&table::table(["PID", "INSIDE", "COMMAND", "THREADS", "MEMORY", "FDS"], &[0, 1, 3, 4, 5], rows));
        survey.notes.iter().for_each(|note| say::data(&format!("note  {}\n", table::harmless(note))));
    }
    if survey.refusals.is_empty() {
        return Ok(Outcome::Ours(Exit::Ok));
    }
    Err(Failure::refused("save", survey.refusals))
}
