//! `ckpt kill`: end a job.

use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;

use super::exit::{Exit, Outcome};
use super::say::Talk;
use super::{Done, units};
use crate::supervise::client::Connection;
use crate::supervise::protocol::{Reply, Request};
use crate::supervise::{Failure, FailureKind, name};

/// How long the programs of a job may take to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

/// End a job: SIGTERM to all of its processes, and SIGKILL if that has not ended it after ten seconds
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Name of the job
    name: String,
    #[command(flatten)]
    talk: Talk,
}

pub fn run(args: &KillArgs) -> Done {
    args.talk.start()?;
    name::check(&args.name)?;
    let mut connection = Connection::to(&args.name)?;
    let mut send = |signal: Signal| match connection.ask(&Request::Kill { signal: signal as i32 }) {
        Ok(Reply::Signalled { processes }) => Ok(processes),
        Ok(_) => Err(Failure::new(FailureKind::Failed, "the supervisor answered something else", "")),
        Err(error) => Err(Failure::from(error)),
    };
    let processes = send(Signal::SIGTERM)?;
    // What is stopped would not notice; and it may have ended by now, with the supervisor.
    let _ = send(Signal::SIGCONT);
    let mut how = "SIGTERM";
    if !connection.closed_within(GRACE) {
        how = "SIGKILL";
        let _ = connection.ask(&Request::Kill { signal: Signal::SIGKILL as i32 });
        if !connection.closed_within(GRACE) {
            let text = format!("{} does not end, not even by SIGKILL", args.name);
            return Err(Failure::new(FailureKind::Failed, text, "is one of its processes stuck in the kernel?"));
        }
    }
    let processes = units::count(processes, "process", "processes");
    args.talk.line(format_args!("ended {} ({processes}, by {how})", args.name));
    Ok(Outcome::Ours(Exit::Ok))
}
