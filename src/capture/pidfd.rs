//! pidfd_open(2).

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::model::Pid;
use crate::model::fd::Kind;
use crate::model::pidfd::Pidfd;
use crate::model::tree::State;
use crate::sys::pidfd;

use super::Error;
use super::fd::{SeenFd, Work};
use super::tree::belongs;

/// Whom it is of. `host`: as fdinfo has it in our pid namespace; 0: out of sight; -1: waited for.
pub(super) fn capture(work: &mut Work<'_>, s: &SeenFd, host: i32) -> Result<Option<Kind>, Error> {
    let gone = |status| Some(Kind::Pidfd(Pidfd::Gone { id: s.meta.ino(), status }));
    if host == -1 {
        let status = pidfd::status(s.copy(work.held)?.as_fd());
        return Ok(gone(status.map_err(Error::of(s.host, "asking how a process ended"))?.unwrap_or(0)));
    }
    match find(work, host) {
        // Whoever is to wait for it is outside; it will have done so.
        Some((_, State::Zombie { status }, false)) => Ok(gone(status)),
        Some((pid, ..)) => Ok(Some(Kind::Pidfd(Pidfd::Task(pid)))),
        None => {
            let who = if host > 0 { format!("pid {host}") } else { "a process out of sight".to_owned() };
            let reason = format!("{who} is outside the tree");
            work.refusals.add(
                s.pid,
                s.object("pidfd"),
                reason,
                "have it closed, or save a tree that includes the process",
            );
            Ok(None)
        }
    }
}

/// A process or thread of the tree by its id as we see it, how it is, and whether it will be in the image.
fn find(work: &Work<'_>, host: i32) -> Option<(Pid, State, bool)> {
    work.held.processes.iter().find_map(|p| {
        if p.host == host {
            return Some((p.pid, p.state, belongs(work.held, p)));
        }
        p.threads.iter().find(|t| t.host == host).map(|t| (t.tid, State::Alive, true))
    })
}
