//! `ckpt verify`: is an image whole and unaltered?

use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, Outcome};
use super::say::Talk;
use super::{Done, open, units};
use crate::supervise::{Failure, FailureKind};
use crate::sys::spawn;

/// Check that an image is whole and unaltered
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The image, or - for standard input
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    #[command(flatten)]
    talk: Talk,
}

pub fn run(args: &VerifyArgs) -> Done {
    args.talk.start()?;
    let image = open::open(&args.image)?;
    let cancel = spawn::cancel_by_signal()
        .map_err(|error| Failure::new(FailureKind::Failed, format!("cannot watch for signals: {error}"), ""))?;
    image.verify(crate::sys::sched::processors(), cancel)?;
    let bytes = image.file().metadata().map_or(0, |meta| meta.len());
    let processes = units::count(image.checkpoint().tree.members.len(), "process", "processes");
    args.talk.line(format_args!("{} is good ({}, {processes})", args.image.display(), units::bytes(bytes)));
    Ok(Outcome::Ours(Exit::Ok))
}
