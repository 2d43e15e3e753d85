//! Which processes are the tree.

use std::collections::HashSet;

use crate::proc::{self, many};

use super::Error;

/// Command name of the first process of a pid namespace that we made.
pub const INIT_COMM: &str = "ckpt-init";
/// Command name of the processes that stand for a parent, session or group leader outside a resumed tree.
pub const STANDIN_COMM: &str = "ckpt-standin";

/// A process of a tree.
#[derive(Debug)]
pub struct Found {
    /// Its pid as we see it.
    pub pid: i32,
    /// Its threads, as they were before its children were looked for; ascending.
    pub tids: Vec<i32>,
}

/// The processes of a tree, parents before children.
///
/// That is `root` and its descendants; what else descends from `reaper`, which adopts the tree's orphans; and, in a
/// tree that was resumed, everything in its pid namespace but our own first process and stand-ins. `known`: whether a
/// process is known to be none of those.
pub fn members(root: i32, reaper: Option<i32>, known: impl Fn(i32) -> bool) -> Result<Vec<Found>, Error> {
    let stat = proc::stat(root).map_err(|e| no_such(root, e))?;
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut next = match init_above(stat.ppid) {
        Some(init) => children(init),
        None => [root].into_iter().chain(reaper.into_iter().flat_map(children)).collect(),
    };
    // Generation by generation, each looked at by all who help.
    while !next.is_empty() {
        next.retain(|&pid| seen.insert(pid));
        let pids: Vec<(i32, bool)> = next.drain(..).map(|pid| (pid, known(pid))).collect();
        let look = |&(pid, known): &(i32, bool)| {
            let tids = proc::tasks(pid).unwrap_or_default();
            (tids, known || !is_ours(pid))
        };
        let looked = many::all(&pids, 4, look);
        let tasks: Vec<(i32, i32)> =
            pids.iter().zip(&looked).flat_map(|((pid, _), (tids, _))| tids.iter().map(|&tid| (*pid, tid))).collect();
        let born = many::all(&tasks, 8, |&(pid, tid)| proc::children(pid, tid).unwrap_or_default());
        next.extend(born.into_iter().flatten());
        let members = pids.into_iter().zip(looked).filter(|(_, (_, member))| *member);
        found.extend(members.map(|((pid, _), (tids, _))| Found { pid, tids }));
    }
    Ok(found)
}

fn no_such(pid: i32, error: proc::Error) -> Error {
    if error.is_gone() { Error::NoSuchProcess { pid } } else { Error::from_proc("reading stat", pid, error) }
}

/// Whether `pid` is a process of ours inside a resumed tree.
pub fn is_ours(pid: i32) -> bool {
    comm_is_one_of(pid, &[STANDIN_COMM, INIT_COMM])
}

fn comm_is(pid: i32, name: &str) -> bool {
    comm_is_one_of(pid, &[name])
}

fn comm_is_one_of(pid: i32, names: &[&str]) -> bool {
    let comm = proc::read(&format!("{pid}/comm")).unwrap_or_default();
    comm.strip_suffix(b"\n").is_some_and(|comm| names.iter().any(|name| comm == name.as_bytes()))
}

/// The namespace's first process, if `pid` is it or a stand-in below it.
fn init_above(mut pid: i32) -> Option<i32> {
    // A chain of stand-ins is a few processes long.
    for _ in 0..16 {
        if comm_is(pid, INIT_COMM) {
            return Some(pid);
        }
        if !comm_is(pid, STANDIN_COMM) {
            return None;
        }
        pid = proc::stat(pid).ok()?.ppid;
    }
    None
}

/// Children of all threads of `pid`; none if it has gone meanwhile.
fn children(pid: i32) -> Vec<i32> {
    let tasks = proc::tasks(pid).unwrap_or_default();
    tasks.into_iter().flat_map(|tid| proc::children(pid, tid).unwrap_or_default()).collect()
}
