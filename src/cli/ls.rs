//! `ckpt ls`: the jobs that are running.

use clap::Args;
use serde_json::{Value, json};

use super::exit::{Exit, Outcome};
use super::table::{harmless, table};
use super::{Done, say, switch};
use crate::model::Name;
use crate::supervise::client::{Found, jobs};
use crate::supervise::protocol::Status;

/// List the jobs that are running
#[derive(Debug, Args)]
pub struct LsArgs {
    /// As a JSON array
    #[arg(long, env = "CKPT_JSON", value_parser = switch::parse)]
    json: bool,
}

pub fn run(args: &LsArgs) -> Done {
    let jobs = jobs();
    if args.json {
        say::json(&jobs.iter().map(to_json).collect());
    } else {
        say::data(&as_table(&jobs));
    }
    Ok(Outcome::Ours(Exit::Ok))
}

/// One job as JSON; of one that does not answer, what is known.
pub fn to_json(job: &Found) -> Value {
    match &job.status {
        Ok(status) => say::with_schema("ckpt.status/1", status),
        Err(_) => json!({
            "schema": "ckpt.status/1",
            "name": job.name,
            "supervisor": job.supervisor,
            "state": job.state(),
        }),
    }
}

fn as_table(jobs: &[Found]) -> String {
    let rows = jobs.iter().map(|job| match &job.status {
        Ok(status) => [
            status.name.clone(),
            status.pid.to_string(),
            status.processes.to_string(),
            status.state.clone(),
            status.started.clone(),
            status.saves.to_string(),
            command(status),
        ],
        Err(error) => {
            let unknown = || "-".to_owned();
            let why = format!("({})", harmless(&error.to_string()));
            [job.name.clone(), unknown(), unknown(), job.state().to_owned(), unknown(), unknown(), why]
        }
    });
    table(["NAME", "PID", "PROCESSES", "STATE", "STARTED", "SAVES", "COMMAND"], &[1, 2, 5], rows)
}

/// The command line of a job, short enough for a table.
pub fn command(status: &Status) -> String {
    let words: Vec<String> = status.command.iter().map(Name::display).collect();
    let line = harmless(&words.join(" "));
    if line.chars().count() <= 60 { line } else { line.chars().take(59).chain(['…']).collect() }
}
