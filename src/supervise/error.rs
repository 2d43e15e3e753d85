//! What can go wrong with a job.

use std::io;
use std::path::PathBuf;

use super::Failure;
use crate::{capture, image, restore};

/// What can go wrong with a job, from its name to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name can't be a job's.
    #[error("{name:?} cannot be the name of a job: {reason}")]
    BadName {
        /// As given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A living job has the name.
    #[error("a job named {name} is running (supervisor pid {pid})")]
    NameTaken {
        /// The name.
        name: String,
        /// Its supervisor.
        pid: i32,
    },
    /// No living job has the name.
    #[error("no job named {name} is running")]
    NoSuchJob {
        /// The name.
        name: String,
    },
    /// The file name template has a part that isn't known.
    #[error("unknown part {{{part}}} in the file name {template}")]
    BadTemplate {
        /// The whole.
        template: String,
        /// What is between the braces.
        part: String,
    },
    /// The supervisor is there but cannot answer.
    #[error("the supervisor of {name} (pid {pid}) does not answer: {reason}")]
    NoAnswer {
        /// The job.
        name: String,
        /// Its supervisor.
        pid: i32,
        /// Why, as far as one can tell.
        reason: String,
        /// What helps.
        hint: String,
    },
    /// Who asked for the save is part of the job, and was resumed from the image.
    #[error("resumed: {name} goes on from its image")]
    Resumed {
        /// The job, as it was called.
        name: String,
    },
    /// The directory of control sockets can't be trusted.
    #[error("cannot use {}: {reason}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The program can't be started.
    #[error("cannot start {program}: {}", plain(source))]
    Start {
        /// The command.
        program: String,
        /// The kernel's reason.
        source: io::Error,
        /// Whether there is no such file (else it can't be executed).
        missing: bool,
    },
    /// Another process said so, through a control socket.
    #[error("{0}")]
    Remote(Failure),
    /// Saving failed.
    #[error(transparent)]
    Capture(#[from] capture::Error),
    /// Resuming failed.
    #[error(transparent)]
    Restore(#[from] restore::Error),
    /// The image is not good.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A step failed for a reason of the system.
    #[error("cannot {step} {object}: {}", plain(source))]
    Io {
        /// What was being done.
        step: &'static str,
        /// With what.
        object: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// What the system says, without the number that Rust puts behind it.
pub fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    }
}

impl Error {
    /// For `map_err`: names the step and the object.
    pub(crate) fn io<E: Into<io::Error>>(step: &'static str, object: impl ToString) -> impl FnOnce(E) -> Error {
        let object = object.to_string();
        move |source| Error::Io { step, object, source: source.into() }
    }
}
