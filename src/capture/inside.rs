//! From ids as we see them to ids as the program sees them; and what processes of the tree share.

use std::collections::{HashMap, HashSet};

use crate::model::Pid;
use crate::model::tree::Shares;
use crate::tracer::Held;

use super::sharing::Shared;

/// Ids of the tree's threads, processes and groups, and what processes share, by their index among the held ones.
#[derive(Debug, Default)]
pub(super) struct Inside {
    threads: HashMap<i32, Pid>,
    processes: HashMap<i32, Pid>,
    groups: HashMap<i32, Pid>,
    pub shares: HashMap<usize, Shares>,
    /// Threads with a descriptor table of their own, as we see them.
    pub tables: HashSet<i32>,
    /// Threads with directories of their own.
    pub directories: HashSet<i32>,
}

impl Inside {
    pub fn of(held: &Held, Shared { shares, tables, directories }: Shared) -> Inside {
        let mut out = Inside { shares, tables, directories, ..Inside::default() };
        for p in held.processes.iter().filter(|p| !p.threads.is_empty()) {
            out.processes.insert(p.host, p.pid);
            out.groups.insert(p.stat.pgrp, p.pgid);
            out.threads.extend(p.threads.iter().map(|t| (t.host, t.tid)));
        }
        out
    }

    /// A thread of the tree.
    pub fn thread(&self, host: i32) -> Option<Pid> {
        self.threads.get(&host).copied()
    }

    /// A process of the tree.
    pub fn process(&self, host: i32) -> Option<Pid> {
        self.processes.get(&host).copied()
    }

    /// A process group that members of the tree are in.
    pub fn group(&self, host: i32) -> Option<Pid> {
        self.groups.get(&host).copied()
    }
}
