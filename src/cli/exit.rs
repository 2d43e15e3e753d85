//! How a command ends: the one list of exit statuses.

use crate::supervise::FailureKind;
use crate::sys::spawn::{Change, die_of};

/// Exit statuses of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It worked.
    Ok = 0,
    /// It failed, in none of the ways below (verbs other than run and resume).
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Something unsupported, or in conflict.
    Refused = 3,
    /// The image is bad or truncated.
    Image = 4,
    /// This host can't: a feature of the CPU or the kernel, which is named.
    Host = 5,
    /// Not permitted; the hint says which setting.
    Permission = 6,
    /// The process is not there, or vanished.
    Vanished = 7,
    /// Run and resume: the program was saved and ended, as asked for.
    SavedAndEnded = 85,
    /// Run and resume: we failed, not the program.
    CannotRun = 125,
    /// Run: the program can't be executed.
    CannotExecute = 126,
    /// Run: there is no such program.
    NotFound = 127,
}

impl From<FailureKind> for Exit {
    fn from(kind: FailureKind) -> Exit {
        match kind {
            FailureKind::Failed | FailureKind::Resumed => Exit::Failed,
            FailureKind::Usage => Exit::Usage,
            FailureKind::Refused => Exit::Refused,
            FailureKind::Image => Exit::Image,
            FailureKind::Host => Exit::Host,
            FailureKind::Permission => Exit::Permission,
            FailureKind::Vanished => Exit::Vanished,
        }
    }
}

/// What a command comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A status of our own.
    Ours(Exit),
    /// The one that another process of ours has reported.
    Reported(u8),
    /// The program's: its status, or its death.
    Program(Change),
}

impl Outcome {
    /// Ends this process so.
    pub fn end(self) -> ! {
        match self {
            Outcome::Ours(exit) => std::process::exit(i32::from(exit as u8)),
            Outcome::Reported(status) => std::process::exit(i32::from(status)),
            Outcome::Program(Change::Exited(status)) => std::process::exit(status),
            Outcome::Program(Change::Killed(signal) | Change::Stopped(signal)) => die_of(signal),
        }
    }
}
