//! What can go wrong with a save.

use std::io;

use crate::model::{Pid, Refusal};
use crate::{image, proc, tracer};

/// Why a tree could not be saved. It runs on unharmed in every case. Pids are as this process sees them, but for
/// those in refusals, which are the program's own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such process.
    #[error("no process has pid {pid}")]
    NoSuchProcess {
        /// The pid asked for.
        pid: i32,
    },
    /// The kernel does not let us trace it.
    #[error("not permitted to hold pid {pid}: {reason}")]
    NotPermitted {
        /// Whose.
        pid: i32,
        /// What stands in the way.
        reason: String,
        /// The way out.
        hint: String,
    },
    /// It ended meanwhile.
    #[error("pid {pid} ended during the save")]
    Vanished {
        /// Whose.
        pid: i32,
    },
    /// It did not stand still in time.
    #[error("pid {pid} ({comm}) does not stop; it waits in {wchan}")]
    WillNotStop {
        /// The thread.
        pid: i32,
        /// Its name.
        comm: String,
        /// What it waits for in the kernel, or `?`.
        wchan: String,
    },
    /// Things that can't be saved.
    #[error("{}", first(.0))]
    Refused(Vec<Refusal>),
    /// Given up on request.
    #[error("given up")]
    Cancelled,
    /// The image could not be written.
    #[error(transparent)]
    Image(image::Error),
    /// Holding it or running a system call in it failed.
    #[error(transparent)]
    Tracer(tracer::Error),
    /// A file of /proc makes no sense.
    #[error(transparent)]
    Proc(proc::Error),
    /// Something else went wrong.
    #[error("{step} {object}: {source}")]
    Io {
        /// Doing what.
        step: &'static str,
        /// With what.
        object: String,
        /// Why.
        source: io::Error,
    },
}

fn first(refusals: &[Refusal]) -> String {
    match refusals {
        [] => "refused".to_owned(),
        [one] => one.to_string(),
        [one, more @ ..] => format!("{one} (and {} more)", more.len()),
    }
}

impl Error {
    /// Doing `step` with `object` failed.
    pub(super) fn io(step: &'static str, object: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let object = object.into();
        move |source| Error::Io { step, object, source }
    }

    /// The same with an object of a process, which may have gone.
    pub(super) fn of(pid: i32, step: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| match source.raw_os_error() {
            Some(libc::ESRCH) => tracer::Error::vanished(step, pid).into(),
            _ => Error::Io { step, object: format!("of pid {pid}"), source },
        }
    }

    /// A file of /proc could not be read.
    pub(super) fn proc(pid: i32) -> impl FnOnce(proc::Error) -> Error {
        move |error| {
            if error.is_gone() { tracer::Error::vanished("reading /proc", pid).into() } else { Error::Proc(error) }
        }
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Error {
        match error {
            image::Error::Cancelled => Error::Cancelled,
            other => Error::Image(other),
        }
    }
}

impl From<tracer::Error> for Error {
    fn from(error: tracer::Error) -> Error {
        let process = |pid, reason: String, hint: &str| {
            Error::Refused(vec![Refusal { pid: Pid(pid), object: "process".to_owned(), reason, hint: hint.to_owned() }])
        };
        match error {
            tracer::Error::NoSuchProcess { pid } => Error::NoSuchProcess { pid },
            tracer::Error::NotPermitted { pid } => not_permitted(pid),
            tracer::Error::Vanished { pid } => Error::Vanished { pid },
            tracer::Error::WillNotStop { pid, comm, wchan } => Error::WillNotStop { pid, comm, wchan },
            tracer::Error::Cancelled => Error::Cancelled,
            tracer::Error::Traced { pid, tracer } => {
                process(pid, format!("it is traced by pid {tracer}"), "end the debugger or tracer that holds it")
            }
            tracer::Error::Unsupported { pid, what } => {
                process(pid, what.to_owned(), "save it as root, or when it runs other code or under other limits")
            }
            other @ (tracer::Error::Call { .. } | tracer::Error::Io { .. } | tracer::Error::NoThread(_)) => {
                Error::Tracer(other)
            }
        }
    }
}

/// Finds out why a process may not be traced: ptrace(2), "Ptrace access mode checking".
fn not_permitted(pid: i32) -> Error {
    let scope = proc::number("sys/kernel/yama/ptrace_scope").unwrap_or(0);
    let uid = nix::unistd::geteuid().as_raw();
    let (reason, hint) = match proc::status(pid) {
        _ if pid == nix::unistd::getpid().as_raw() => (
            "it is this command, which can't save itself".to_owned(),
            "start it outside of the tree, in another terminal; or start the program with ckpt-run, whose supervisor saves it",
        ),
        Err(_) => ("it can't be looked at".to_owned(), "save it as the user it belongs to"),
        Ok(status) if uid != 0 && status.uid.iter().any(|&id| id != uid) => (
            format!("it belongs to another user (uid {})", status.uid[0]),
            "save it as that user, or as root",
        ),
        Ok(_) if scope >= 3 => (
            format!("kernel.yama.ptrace_scope is {scope}: this kernel lets nobody trace anything until it is rebooted"),
            "set kernel.yama.ptrace_scope to 1 and reboot",
        ),
        Ok(_) if scope == 2 && uid != 0 => (
            "kernel.yama.ptrace_scope is 2: only root may trace".to_owned(),
            "save it as root, or set kernel.yama.ptrace_scope to 1 and start the program with ckpt-run",
        ),
        Ok(_) if scope == 1 && uid != 0 => (
            "kernel.yama.ptrace_scope is 1: only an ancestor may trace it".to_owned(),
            "start the program with ckpt-run, or set kernel.yama.ptrace_scope to 0",
        ),
        // Its /proc files belong to root then: proc(5), "dumpable".
        Ok(_) => (
            "it is not dumpable (a setuid program, or one that called prctl(PR_SET_DUMPABLE, 0)), or a security module forbids it"
                .to_owned(),
            "save it as root",
        ),
    };
    Error::NotPermitted { pid, reason, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracer_errors_keep_their_meaning() {
        assert!(matches!(Error::from(tracer::Error::NoSuchProcess { pid: 7 }), Error::NoSuchProcess { pid: 7 }));
        let Error::Refused(refusals) = Error::from(tracer::Error::Traced { pid: 7, tracer: 9 }) else { panic!() };
        assert_eq!(refusals[0].to_string(), "pid 7 process: it is traced by pid 9");
        assert!(!refusals[0].hint.is_empty());
    }

    #[test]
    fn a_list_of_refusals_shows_its_first() {
        let one = |fd: i32| Refusal {
            pid: Pid(4),
            object: format!("fd {fd} (io_uring)"),
            reason: "not supported".into(),
            hint: String::new(),
        };
        assert_eq!(Error::Refused(vec![one(3)]).to_string(), "pid 4 fd 3 (io_uring): not supported");
        assert_eq!(
            Error::Refused(vec![one(3), one(5), one(6)]).to_string(),
            "pid 4 fd 3 (io_uring): not supported (and 2 more)"
        );
    }

    #[test]
    fn no_permission_comes_with_a_reason_and_a_way_out() {
        let Error::NotPermitted { reason, hint, .. } = not_permitted(std::process::id() as i32) else { panic!() };
        assert!(!reason.is_empty() && !hint.is_empty());
    }
}
