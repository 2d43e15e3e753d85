//! Which processes belong to a job.

use std::collections::HashSet;

use crate::proc;
use crate::proc::stat::Stat;
use crate::tracer::tree::is_ours;

/// Looks at a process; `None` if there is none.
pub fn glance(pid: i32) -> Option<Stat> {
    proc::stat(pid).ok()
}

/// Whether job control has stopped a process.
pub fn is_stopped(pid: i32) -> bool {
    glance(pid).is_some_and(|stat| stat.state == b'T')
}

/// All descendants of `pid`, parents before children, without the helpers of a resume; what ends or starts meanwhile
/// may be missed.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut seen = HashSet::from([pid]);
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        next += 1;
        for tid in proc::tasks(parent).unwrap_or_default() {
            all.extend(proc::children(parent, tid).unwrap_or_default().into_iter().filter(|&child| seen.insert(child)));
        }
    }
    all.retain(|&found| found != pid && !is_ours(found));
    all
}

/// `pid`, its parent, its parent's parent, and so on up.
pub fn ancestry(pid: i32) -> Vec<i32> {
    let mut line = vec![pid];
    let mut at = pid;
    // A pid that is used again while we walk could lead in a circle.
    while let Some(parent) = glance(at).map(|stat| stat.ppid).filter(|parent| *parent > 0 && !line.contains(parent)) {
        line.push(parent);
        at = parent;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_and_parents_are_found() {
        let me = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(descendants(me).contains(&pid));
        assert!(ancestry(pid).starts_with(&[pid, me]));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
