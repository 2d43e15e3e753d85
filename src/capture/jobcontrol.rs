//! What parents have yet to be told of stops and continuations of their children.

use std::collections::HashMap;

use crate::model::Pid;
use crate::model::tree::{State, Tree};
use crate::tracer::{Answers, Calls, Held, Room};

const P_PID: u64 = 1;
const CLD_STOPPED: i32 = 5;
const CLD_CONTINUED: i32 = 6;

/// Children of each process, by its pid as we see it.
pub(super) fn families(held: &Held) -> HashMap<i32, Vec<Pid>> {
    let mut children: HashMap<i32, Vec<Pid>> = HashMap::new();
    for p in held.processes.iter().filter(|p| !p.threads.is_empty()) {
        children.entry(p.host_ppid).or_default().push(p.pid);
    }
    children
}

/// Asks a parent for news of its children, by waitid(2) with `WNOWAIT`, which leaves them to be told.
pub(super) fn ask(calls: &mut Calls, children: &[Pid]) -> Vec<(Pid, Room)> {
    let kinds = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let ask = |&pid: &Pid| {
        let room = calls.room(128);
        let args = [P_PID, pid.0 as u64, 0, kinds as u32 as u64];
        calls.call_into("waitid", libc::SYS_waitid, &args, 2, room);
        (pid, room)
    };
    children.iter().map(ask).collect()
}

/// Notes the news in the tree.
pub(super) fn note(tree: &mut Tree, news: &HashMap<Pid, (i32, i32)>) {
    for member in &mut tree.members {
        let Some(&(code, status)) = news.get(&member.pid) else { continue };
        match (code, member.state) {
            (CLD_STOPPED, State::Stopped { .. }) => member.state = State::Stopped { signal: status, told: false },
            (_, State::Stopped { signal, .. }) => member.state = State::Stopped { signal, told: true },
            (CLD_CONTINUED, State::Alive) => member.state = State::Continued,
            _ => {}
        }
    }
}

/// What a parent was told: si_code and si_status, which are at 8 and 24 of `siginfo_t`.
pub(super) fn news(asked: &[(Pid, Room)], answers: &Answers) -> impl Iterator<Item = (Pid, (i32, i32))> {
    let word =
        |info: &[u8], at: usize| info.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| i32::from_ne_bytes(*b));
    asked.iter().map(move |&(pid, room)| {
        let info = answers.bytes(room);
        (pid, (word(info, 8), word(info, 24)))
    })
}
