//! Trees that came about by themselves: processes fork, start sessions, change groups and end at random, by the kernel's
//! rules. What comes of it can be made again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::tests::play;
use crate::model::tree::{Member, Shares, State, Tree};
use crate::model::{Name, Pid};

/// The supervisor, which adopts orphans; a group and a session outside.
const SUPERVISOR: i32 = 50;
const GROUP: i32 = 40;
const SESSION: i32 = 30;
const ROOT: i32 = 100;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Life {
    Alive,
    Zombie,
    Gone,
}

#[derive(Debug, Clone, Copy)]
struct P {
    ppid: i32,
    pgid: i32,
    sid: i32,
    life: Life,
    reaper: bool,
}

/// Members of the tree, living and dead.
#[derive(Debug)]
struct World {
    all: BTreeMap<i32, P>,
    subreapers: bool,
}

impl World {
    fn new(own_group: bool, own_session: bool, subreapers: bool) -> World {
        let (pgid, sid) = match (own_group, own_session) {
            (_, true) => (ROOT, ROOT),
            (true, false) => (ROOT, SESSION),
            (false, false) => (GROUP, SESSION),
        };
        let root = P { ppid: SUPERVISOR, pgid, sid, life: Life::Alive, reaper: false };
        World { all: BTreeMap::from([(ROOT, root)]), subreapers }
    }

    /// What process `who` (counted among the living) does; what it can't do it leaves.
    fn act(&mut self, who: usize, what: u8, whom: usize) {
        let alive: Vec<i32> = self.all.iter().filter(|(_, p)| p.life == Life::Alive).map(|(&pid, _)| pid).collect();
        let (pid, other) = (alive[who % alive.len()], alive[whom % alive.len()]);
        let me = self.all[&pid];
        match what {
            0..=4 => {
                let child = self.all.keys().max().unwrap() + 1;
                self.all.insert(child, P { ppid: pid, reaper: false, ..me });
            }
            5 if self.all.values().all(|p| p.pgid != pid) => self.change(pid, |p| (p.pgid, p.sid) = (pid, pid)),
            6 if me.sid != pid => self.change(pid, |p| p.pgid = pid),
            7 if me.sid != pid && self.all[&other].sid == me.sid => {
                let group = self.all[&other].pgid;
                self.change(pid, |p| p.pgid = group);
            }
            8 if self.subreapers => self.change(pid, |p| p.reaper = true),
            9 | 10 if pid != ROOT => self.end(pid, what == 9),
            _ => {}
        }
    }

    fn change(&mut self, pid: i32, change: impl Fn(&mut P)) {
        change(self.all.get_mut(&pid).unwrap());
    }

    fn end(&mut self, pid: i32, waited_for: bool) {
        let mut heir = self.all[&pid].ppid;
        while heir != SUPERVISOR && !(self.all[&heir].reaper && self.all[&heir].life == Life::Alive) {
            heir = self.all[&heir].ppid;
        }
        let parent = self.all[&pid].ppid;
        let gone = waited_for || parent == SUPERVISOR;
        self.change(pid, |p| p.life = if gone { Life::Gone } else { Life::Zombie });
        for p in self.all.values_mut().filter(|p| p.ppid == pid && p.life != Life::Gone) {
            p.ppid = heir;
            if p.life == Life::Zombie && heir == SUPERVISOR {
                p.life = Life::Gone;
            }
        }
    }

    /// As a save would find it: parents first.
    fn tree(&self) -> Tree {
        let mut members: Vec<Member> = Vec::new();
        let mut queue = VecDeque::from([ROOT]);
        queue.extend(self.all.iter().filter(|(pid, p)| p.ppid == SUPERVISOR && **pid != ROOT).map(|(&pid, _)| pid));
        while let Some(pid) = queue.pop_front() {
            let p = self.all[&pid];
            if p.life == Life::Gone {
                continue;
            }
            let state = if p.life == Life::Alive { State::Alive } else { State::Zombie { status: 0 } };
            members.push(Member {
                pid: Pid(pid),
                ppid: Pid(p.ppid),
                pgid: Pid(p.pgid),
                sid: Pid(p.sid),
                comm: Name::default(),
                state,
                exit_signal: 17,
                shares: Shares::default(),
            });
            queue.extend(self.all.iter().filter(|(_, c)| c.ppid == pid).map(|(&child, _)| child));
        }
        let outside = [SUPERVISOR, GROUP, SESSION].map(Pid).to_vec();
        Tree { root: Pid(ROOT), members, reaper: Pid(SUPERVISOR), outside, login_uid: None }
    }
}

fn lived(own: (bool, bool), subreapers: bool, acts: &[(usize, u8, usize)]) -> Tree {
    let mut world = World::new(own.0, own.1, subreapers);
    for &(who, what, whom) in acts {
        world.act(who, what, whom);
    }
    world.tree()
}

fn acts() -> impl Strategy<Value = Vec<(usize, u8, usize)>> {
    prop::collection::vec((0usize..64, 0u8..11, 0usize..64), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_can_be_made_again(own: (bool, bool), acts in acts()) {
        play(&lived(own, false, &acts));
    }

    /// With adopters among the members it may be refused, but never comes out wrong.
    #[test]
    fn what_can_not_be_made_again_is_refused(own: (bool, bool), acts in acts()) {
        let tree = lived(own, true, &acts);
        if super::order(&tree, &BTreeSet::new()).is_ok() {
            play(&tree);
        }
    }
}
