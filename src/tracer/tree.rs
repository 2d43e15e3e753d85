//! Which processes are the tree.

use std::collections::{HashSet, VecDeque};

use crate::proc;

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
    let mut queue = VecDeque::new();
    match init_above(stat.ppid) {
        Some(init) => queue.extend(children(init)),
        None => {
            queue.push_back(root);
            if let Some(reaper) = reaper {
                queue.extend(children(reaper));
            }
        }
    }
    while let Some(pid) = queue.pop_front() {
        if !seen.insert(pid) {
            continue;
        }
        let tids = proc::tasks(pid).unwrap_or_default();
        queue.extend(tids.iter().flat_map(|&tid| proc::children(pid, tid).unwrap_or_default()));
        if known(pid) || !is_ours(pid) {
            found.push(Found { pid, tids });
        }
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
