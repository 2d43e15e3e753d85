//! Who is in the tree, and what of the outside its members can see.

use std::collections::{BTreeSet, HashMap};

use crate::model::Pid;
use crate::model::tree::{Member, Shares, Tree};
use crate::proc;
use crate::tracer::{Held, HeldProcess};

/// Whether a held process belongs into the image: zombies that somebody outside has to wait for don't.
pub(super) fn belongs(held: &Held, p: &HeldProcess) -> bool {
    !p.threads.is_empty() || held.processes.iter().any(|q| q.host == p.host_ppid)
}

/// The processes and how they are related. `reaper` as we see it.
pub(super) fn capture(held: &Held, root: &HeldProcess, reaper: Option<i32>, shares: &HashMap<usize, Shares>) -> Tree {
    let indexed = held.processes.iter().enumerate().filter(|(_, p)| belongs(held, p));
    let members = indexed.map(|(i, p)| member(p, shares.get(&i).copied().unwrap_or_default())).collect();
    // Absent where auditing is not built in.
    let login_uid = proc::number(&format!("{}/loginuid", root.host)).ok().and_then(|uid| u32::try_from(uid).ok());
    Tree { root: root.pid, members, reaper: reaper_of(held, root, reaper), outside: outside(held, root), login_uid }
}

fn member(p: &HeldProcess, shares: Shares) -> Member {
    Member {
        pid: p.pid,
        ppid: visible(p.ppid),
        pgid: p.pgid,
        sid: p.sid,
        comm: p.comm.clone(),
        state: p.state,
        exit_signal: p.exit_signal,
        shares,
    }
}

/// A parent out of sight is 0 to the program; in the image it is the namespace's first process.
fn visible(pid: Pid) -> Pid {
    if pid.0 == 0 { Pid(1) } else { pid }
}

fn reaper_of(held: &Held, root: &HeldProcess, reaper: Option<i32>) -> Pid {
    let adopted = held.processes.iter().any(|p| p.host != root.host && p.host_ppid == root.host_ppid);
    if adopted {
        return visible(root.ppid);
    }
    let inside = |pid: i32| {
        let depth = proc::status(root.host).ok()?.nspid.len();
        let status = proc::status(pid).ok()?;
        (status.nspid.len() == depth).then(|| status.nspid.last().map(|&id| Pid(id))).flatten()
    };
    reaper.and_then(inside).unwrap_or(Pid(1))
}

/// Living processes outside that are parent of the root, or session or group leader of members.
fn outside(held: &Held, root: &HeldProcess) -> Vec<Pid> {
    let mut out = BTreeSet::new();
    let mut add = |host: i32, inside: Pid| {
        let member = held.processes.iter().any(|p| p.host == host && belongs(held, p));
        // 1 is there in any case, 0 is out of sight.
        if inside.0 > 1 && host > 1 && !member && exists(host) {
            out.insert(inside);
        }
    };
    add(root.host_ppid, root.ppid);
    for p in held.processes.iter().filter(|p| belongs(held, p)) {
        add(p.stat.pgrp, p.pgid);
        add(p.stat.session, p.sid);
    }
    out.into_iter().collect()
}

fn exists(pid: i32) -> bool {
    !matches!(crate::sys::tasks::kill(pid, 0), Err(e) if e.raw_os_error() == Some(libc::ESRCH))
}
