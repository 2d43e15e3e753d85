//! `ckpt status`: how one job is, or all.

use clap::Args;

use super::exit::{Exit, Outcome};
use super::table::harmless;
use super::{Done, ls, save, say, switch};
use crate::model::Name;
use crate::supervise::client::{Connection, jobs, status};
use crate::supervise::protocol::Status;

/// Tell how a job is, or all jobs
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Name of a job
    name: Option<String>,
    /// As JSON: one object, or without NAME an array
    #[arg(long, env = "CKPT_JSON", value_parser = switch::parse)]
    json: bool,
}

pub fn run(args: &StatusArgs) -> Done {
    if let Some(name) = &args.name {
        crate::supervise::name::check(name)?;
        let status = status(&mut Connection::to(name)?)?;
        if args.json {
            say::json(&say::with_schema("ckpt.status/1", &status));
        } else {
            say::data(&text(&status));
        }
        return Ok(Outcome::Ours(Exit::Ok));
    }
    let jobs = jobs();
    if args.json {
        say::json(&jobs.iter().map(ls::to_json).collect());
        return Ok(Outcome::Ours(Exit::Ok));
    }
    let texts: Vec<String> = jobs
        .iter()
        .map(|job| match &job.status {
            Ok(status) => text(status),
            Err(error) => format!("{}\n", harmless(&error.to_string())),
        })
        .collect();
    say::data(&texts.join("\n"));
    Ok(Outcome::Ours(Exit::Ok))
}

fn text(status: &Status) -> String {
    let last = match &status.last {
        Some(last) => format!("{}: {}", last.time, save::sentence(&last.saved)),
        None => "none".into(),
    };
    let words: Vec<String> = status.command.iter().map(Name::display).collect();
    let image = status.image.as_ref().map(|image| ("resumed from", image.display()));
    let rows = [
        ("name", status.name.clone()),
        ("state", status.state.clone()),
        ("pid", format!("{} (supervisor {})", status.pid, status.supervisor)),
        ("processes", status.processes.to_string()),
        ("command", words.join(" ")),
    ];
    let rest = [
        ("since", status.started.clone()),
        ("images go to", status.output.display()),
        ("saves", status.saves.to_string()),
        ("last save", last),
    ];
    let rows = rows.into_iter().chain(image).chain(rest);
    rows.map(|(key, value)| format!("{key:14}{}\n", harmless(&value))).collect()
}
