//! File locks and leases, which fdinfo shows: POSIX locks to whoever has their table, all others to every holder of the description.

use std::collections::{HashMap, HashSet};

use crate::model::locks::{Lock, LockKind};
use crate::proc::locks;

use super::fd::{Group, SeenFd, TableOf, Work};

/// The locks of each table.
pub(super) fn capture(work: &mut Work<'_>, groups: &[Group]) -> HashMap<TableOf, Vec<Lock>> {
    let mut out: HashMap<TableOf, Vec<Lock>> = HashMap::new();
    let seen = work.seen;
    for group in groups {
        let holders: Vec<&SeenFd> = group.holders.iter().filter_map(|i| seen.get(*i)).collect();
        let Some(first) = holders.first().filter(|_| holders.iter().any(|s| !s.info.locks.is_empty())) else {
            continue;
        };
        for line in first.info.locks.iter().filter(|l| l.kind != LockKind::Posix) {
            if line.breaking {
                let (reason, hint) =
                    ("a lease that somebody waits for can't be saved", "save it when the lease is given up");
                work.refusals.add(first.pid, first.object(&first.name()), reason, hint);
            }
            // A mapping made anew has a description of its own, beside which the kernel gives no such lease.
            if line.kind == LockKind::Lease && line.write && work.mapped.has(first.key()) {
                let reason = "a lease for writing on a file that is mapped, too, can't be taken again";
                work.refusals.add(
                    first.pid,
                    first.object(&first.name()),
                    reason,
                    "unmap the file or give up the lease",
                );
            }
            // Whoever took it, if that one still has the file open.
            let holder = holders
                .iter()
                .find(|s| work.held.processes.get(s.process).is_some_and(|p| p.host == line.pid))
                .unwrap_or(first);
            out.entry(holder.table()).or_default().push(model(line, holder.fd));
        }
        let mut done = HashSet::new();
        for s in holders.iter().filter(|s| done.insert(s.table())) {
            let own = s.info.locks.iter().filter(|l| l.kind == LockKind::Posix);
            out.entry(s.table()).or_default().extend(own.map(|line| model(line, s.fd)));
        }
    }
    out
}

fn model(line: &locks::Lock, fd: i32) -> Lock {
    Lock { fd, kind: line.kind, write: line.write, start: line.start, end: line.end }
}
