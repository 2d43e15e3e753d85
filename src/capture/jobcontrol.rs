//! What parents have yet to be told of stops and continuations of their children.

use std::collections::HashMap;

use crate::model::Pid;
use crate::model::tree::{Member, State, Tree};
use crate::tracer::Held;

use super::Error;

const P_PID: u64 = 1;
const CLD_STOPPED: i32 = 5;
const CLD_CONTINUED: i32 = 6;

/// Asks every parent in the tree for news of its children, by waitid(2) with `WNOWAIT`, which leaves them to be told.
pub(super) fn capture(held: &mut Held, tree: &mut Tree) -> Result<(), Error> {
    let mut children: HashMap<i32, Vec<Pid>> = HashMap::new();
    for p in held.processes.iter().filter(|p| !p.threads.is_empty()) {
        children.entry(p.host_ppid).or_default().push(p.pid);
    }
    let mut members: HashMap<Pid, &mut Member> = tree.members.iter_mut().map(|m| (m.pid, m)).collect();
    for parent in held.processes.iter_mut().filter(|p| !p.threads.is_empty()) {
        let Some(children) = children.get(&parent.host) else { continue };
        let mut remote = parent.remote(0)?;
        let scratch = remote.scratch();
        for pid in children {
            let Some(member) = members.get_mut(pid) else { continue };
            let kinds = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
            let args = [P_PID, pid.0 as u64, scratch.0, kinds as u32 as u64, 0, 0];
            remote.call("waitid", libc::SYS_waitid, args)?;
            let mut info = [0u8; 28];
            remote.read(scratch, &mut info)?;
            // siginfo_t: si_code is at 8, si_status at 24.
            let word = |at: usize| info.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| i32::from_ne_bytes(*b));
            match (word(8), member.state) {
                (CLD_STOPPED, State::Stopped { .. }) => member.state = State::Stopped { signal: word(24), told: false },
                (_, State::Stopped { signal, .. }) => member.state = State::Stopped { signal, told: true },
                (CLD_CONTINUED, State::Alive) => member.state = State::Continued,
                _ => {}
            }
        }
    }
    Ok(())
}
