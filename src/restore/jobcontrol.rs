//! Stops by job control, and what parents have yet to be told of them.
//!
//! A stop comes early in the making of a process, when every signal still has its default action and nothing else is
//! pending: so it is by the right signal. A tracee works on for its tracer all the same, and stops again when it is
//! let go (ptrace(2), "Group-stop").

use crate::model::Pid;
use crate::model::tree::{Member, State};
use crate::sys::tasks;

use super::Error;
use super::stub::{Expect, Puppet};

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
const P_PID: u64 = 1;

/// With which signal the making of this process leaves its parent, which the program has dealt with already: of stops it
/// hears by SIGCHLD, of an end as clone(2) was told.
pub fn news(member: &Member) -> Option<i32> {
    match member.state {
        State::Alive => None,
        State::Zombie { .. } => Some(member.exit_signal).filter(|&signal| signal != 0),
        State::Stopped { .. } | State::Continued => Some(libc::SIGCHLD),
    }
}

/// Stops a process that was stopped, and stops and continues one of which only that is left.
pub fn renew(puppet: &mut Puppet, state: State) -> Result<(), Error> {
    match state {
        State::Stopped { signal, .. } => stop(puppet, signal),
        State::Continued => {
            stop(puppet, SIGSTOP)?;
            let host = puppet.host();
            tasks::kill(host, SIGCONT).map_err(|e| Error::step("continuing", host, e))?;
            // The parent hears of it when the process next runs. The signal itself is not for the program.
            let mut batch = puppet.batch();
            let set = batch.data(&(1u64 << (SIGCONT - 1)).to_le_bytes());
            let now = batch.data(&[0; 16]);
            let args = [set.0, 0, now.0, 8];
            batch.call_expecting(Expect::Anything, "rt_sigtimedwait", libc::SYS_rt_sigtimedwait, &args);
            puppet.run(batch).map(drop)
        }
        State::Alive | State::Zombie { .. } => Ok(()),
    }
}

fn stop(puppet: &mut Puppet, signal: i32) -> Result<(), Error> {
    // In a group that nobody of the session watches over, only SIGSTOP stops (kernel/signal.c, get_signal).
    if puppet.stop(signal)? || signal != SIGSTOP && puppet.stop(SIGSTOP)? {
        return Ok(());
    }
    Err(Error::step("stopping", puppet.host(), std::io::Error::other("it does not stop")))
}

/// The parent waits for the stop that it had waited for; `pid` as it sees its child.
pub fn hear(parent: &mut Puppet, child: &Member, pid: Pid) -> Result<(), Error> {
    if !matches!(child.state, State::Stopped { told: true, .. }) {
        return Ok(());
    }
    let mut batch = parent.batch();
    let options = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
    batch.call("waitid", libc::SYS_waitid, &[P_PID, pid.0 as u64, 0, options as u32 as u64, 0]);
    parent.run(batch).map(drop)
}
