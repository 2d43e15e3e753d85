//! In which order processes are made so that each has its parent, session and group.
//!
//! A session is inherited at birth and left only by setsid; so a child that is in its parent's old session is made
//! before the parent's setsid, and an orphan whose session's leader lives is made by that leader and orphaned again.
//! Pure: from the model to a list of steps.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::tree::{Member, Tree};
use crate::model::{Pid, Refusal};

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is restored.
    Member,
    /// It stands for a process outside the tree, for as long as the tree lives, and takes note of its children's end.
    StandIn,
    /// It only has to be there: a group leader outside the tree.
    Idle,
    /// It is there while the tree is made.
    Helper,
}

/// One step in making a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `parent` makes `pid`.
    Create {
        /// The maker; the template at first.
        parent: Pid,
        /// The new process.
        pid: Pid,
        /// The signal its parent gets at its end.
        exit_signal: i32,
        /// The child of `parent` that makes it in its stead (`CLONE_PARENT`), because it has what both share.
        sibling: Option<Pid>,
        /// `CLONE_*` of what it shares with its maker.
        shared: u64,
    },
    /// `pid` starts a session.
    Setsid(Pid),
    /// `pid` joins (or starts) a group.
    Setpgid(Pid, Pid),
    /// `pid` becomes the adopter of its orphans.
    Subreaper(Pid),
    /// `pid`, a helper, ends; `by` reaps it, or whoever adopts it.
    End {
        /// Who ends.
        pid: Pid,
        /// Its maker, if that lives on.
        by: Option<Pid>,
    },
}

/// The order in which a tree is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Order {
    /// The steps.
    pub steps: Vec<Step>,
    /// Every process that is made, and what for.
    pub roles: BTreeMap<Pid, Role>,
}

/// Pids below the kernel's smallest maximum (32768) that mean nothing to the tree, from the top.
fn free_pids(tree: &Tree) -> impl Iterator<Item = Pid> {
    let mut used: BTreeSet<i32> = BTreeSet::new();
    for m in &tree.members {
        used.extend([m.pid.0, m.ppid.0, m.pgid.0, m.sid.0]);
    }
    used.extend(tree.outside.iter().map(|p| p.0));
    (2..32768).rev().filter(move |p| !used.contains(p)).map(Pid)
}

/// The session (and group) of processes whose leader is outside the pid namespace: `getsid()` says 0. The template is
/// born in one.
const OUT_OF_SIGHT: Pid = Pid(0);

/// Plans the making of `tree`. `threads` are ids of threads, which no helper may take.
pub fn order(tree: &Tree, threads: &BTreeSet<Pid>) -> Result<Order, Refusal> {
    let mut planner = Planner::new(tree, threads)?;
    planner.plan()?;
    everybody_finds_a_parent(tree, &planner.order)?;
    Ok(planner.order)
}

/// Plays who is whose child to the end of the steps, by the kernel's rules: orphans go to the nearest subreaper above. What
/// many adopters within one tree leave behind can't always be made again.
fn everybody_finds_a_parent(tree: &Tree, order: &Order) -> Result<(), Refusal> {
    const INIT: Pid = Pid(1);
    let mut parents: HashMap<Pid, Pid> = HashMap::new();
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    let mut subreapers = BTreeSet::new();
    for step in &order.steps {
        match *step {
            Step::Create { parent, pid, .. } => {
                parents.insert(pid, parent);
                children.entry(parent).or_default().push(pid);
            }
            Step::Subreaper(pid) => drop(subreapers.insert(pid)),
            Step::End { pid, .. } => {
                let mut above = std::iter::successors(parents.get(&pid), |p| parents.get(p));
                let heir = above.find(|p| subreapers.contains(p)).copied().unwrap_or(INIT);
                let orphans = children.remove(&pid).unwrap_or_default();
                for orphan in orphans {
                    parents.insert(orphan, heir);
                    children.entry(heir).or_default().push(orphan);
                }
            }
            Step::Setsid(_) | Step::Setpgid(..) => {}
        }
    }
    let wrong = |m: &&Member| parents.get(&m.pid) != Some(&m.ppid.max(INIT));
    match tree.members.iter().find(wrong) {
        Some(m) => Err(refuse(m.pid, format!("it was adopted by {}, which can't be brought about again", m.ppid))),
        None => Ok(()),
    }
}

struct Planner<'a> {
    tree: &'a Tree,
    members: HashMap<Pid, &'a Member>,
    children: HashMap<Pid, Vec<Pid>>,
    template: Pid,
    free: Vec<Pid>,
    order: Order,
    /// Session of each process as the steps so far leave it.
    session: HashMap<Pid, Option<Pid>>,
    /// Who each process is made as a child of.
    makers: HashMap<Pid, Pid>,
    /// Children that somebody adopts: who, whom, and the session they are born in.
    late: Vec<(Pid, Pid, Option<Pid>)>,
}

fn refuse(pid: Pid, reason: String) -> Refusal {
    Refusal {
        pid,
        object: "place in the process tree".to_owned(),
        reason,
        hint: "resume with --pids fresh, or save the tree from a process further up".to_owned(),
    }
}

impl<'a> Planner<'a> {
    fn new(tree: &'a Tree, threads: &BTreeSet<Pid>) -> Result<Self, Refusal> {
        let mut members = HashMap::new();
        let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
        for m in &tree.members {
            if m.pid.0 <= 1 || members.insert(m.pid, m).is_some() {
                return Err(refuse(m.pid, "its pid cannot be given to it".to_owned()));
            }
            children.entry(m.ppid).or_default().push(m.pid);
        }
        if !members.contains_key(&tree.root) {
            return Err(refuse(tree.root, "the root is missing".to_owned()));
        }
        let mut free: Vec<Pid> = free_pids(tree).filter(|p| !threads.contains(p)).take(4096).collect();
        free.reverse();
        let template = free.pop().ok_or_else(|| refuse(tree.root, "all pids are in use".to_owned()))?;
        let session = HashMap::from([(template, Some(OUT_OF_SIGHT))]);
        Ok(Planner {
            tree,
            members,
            children,
            template,
            free,
            order: Order::default(),
            session,
            makers: HashMap::new(),
            late: Vec::new(),
        })
    }

    fn plan(&mut self) -> Result<(), Refusal> {
        self.order.roles.insert(self.template, Role::Helper);
        // Parents that are not members: the root's first, so that its session comes about.
        let mut outside: Vec<Pid> = vec![self.member(self.tree.root)?.ppid];
        for m in &self.tree.members {
            if !self.members.contains_key(&m.ppid) && !outside.contains(&m.ppid) {
                outside.push(m.ppid);
            }
        }
        for parent in outside {
            let maker = self.outside_parent(parent)?;
            for child in self.children.get(&parent).cloned().unwrap_or_default() {
                let birth = self.birth(child, 0)?;
                if birth.is_none() || birth == self.session_of(maker) {
                    self.create(maker, child, Role::Member)?;
                    self.emit(child, 0)?;
                } else {
                    self.late.push((maker, child, birth));
                }
            }
        }
        // Making one may bring up others, among them the leaders of sessions that others wait for.
        while !self.late.is_empty() {
            let there = |s: Pid| !self.members.contains_key(&s) || self.order.roles.contains_key(&s);
            let ready = self.late.iter().rposition(|(_, _, birth)| birth.is_none_or(there));
            let (maker, child, birth) = self.late.remove(ready.unwrap_or(self.late.len() - 1));
            self.detour(maker, child, birth)?;
        }
        if let Some(missing) = self.members.keys().find(|p| !self.order.roles.contains_key(p)) {
            return Err(refuse(*missing, "its parents lead nowhere".to_owned()));
        }
        self.groups()?;
        self.order.steps.push(Step::End { pid: self.template, by: None });
        Ok(())
    }

    fn member(&self, pid: Pid) -> Result<&'a Member, Refusal> {
        self.members.get(&pid).copied().ok_or_else(|| refuse(pid, "it is missing".to_owned()))
    }

    fn session_of(&self, pid: Pid) -> Option<Pid> {
        self.session.get(&pid).copied().flatten()
    }

    /// The session a process must be born in; none: any will do.
    fn birth(&self, pid: Pid, depth: u32) -> Result<Option<Pid>, Refusal> {
        let m = self.member(pid)?;
        if m.sid != pid {
            return Ok(Some(m.sid));
        }
        if depth > 4096 {
            return Err(refuse(pid, "it descends from itself".to_owned()));
        }
        for &child in self.children.get(&pid).map_or(&[][..], Vec::as_slice) {
            match self.birth(child, depth + 1)? {
                Some(session) if session != pid && self.may_descend(pid, session) => return Ok(Some(session)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether `pid` must have been in `session` before it led its own, as a child of it is: not where the session's leader
    /// descends from it, which may have left it an orphan. Nobody adopts but an ancestor.
    fn may_descend(&self, pid: Pid, session: Pid) -> bool {
        let mut above = std::iter::successors(self.members.get(&session), |m| self.members.get(&m.ppid));
        !above.by_ref().take(self.members.len()).any(|m| m.ppid == pid)
    }

    fn create(&mut self, parent: Pid, pid: Pid, role: Role) -> Result<(), Refusal> {
        if self.order.roles.insert(pid, role).is_some() {
            return Err(refuse(pid, "it would have to be made twice".to_owned()));
        }
        let exit_signal = match role {
            Role::Member => self.member(pid)?.exit_signal,
            // Children with an exit signal count for the stand-ins' wait and would leave a SIGCHLD behind.
            Role::Idle | Role::Helper => 0,
            Role::StandIn => 17,
        };
        let (sibling, shared) = match role {
            Role::Member => self.sharing(parent, pid)?,
            _ => (None, 0),
        };
        self.session.insert(pid, self.session_of(parent));
        self.makers.insert(pid, parent);
        self.order.steps.push(Step::Create { parent, pid, exit_signal, sibling, shared });
        Ok(())
    }

    /// Who of `parent` and its children can give `pid` what it shares, and the flags for it.
    fn sharing(&self, parent: Pid, pid: Pid) -> Result<(Option<Pid>, u64), Refusal> {
        let member = self.member(pid)?;
        if !member.shares.any() {
            return Ok((None, 0));
        }
        let may = |maker: Pid| self.members.get(&maker).is_some_and(|m| member.shares.may_come_from(maker, &m.shares));
        let sibling = |m: &&Member| {
            let beside = self.makers.get(&m.pid) == Some(&parent) && self.session_of(m.pid) == self.session_of(parent);
            beside && m.exit_signal == member.exit_signal && may(m.pid)
        };
        let sibling =
            match may(parent) {
                true => None,
                false => Some(self.tree.members.iter().find(sibling).map(|m| m.pid).ok_or_else(|| {
                    refuse(pid, "nobody who could make it has what it shares with others".to_owned())
                })?),
            };
        let flags = [libc::CLONE_VM, libc::CLONE_SIGHAND, libc::CLONE_FILES, libc::CLONE_FS];
        let shared = member.shares.each().into_iter().zip(flags).filter(|(of, _)| of.is_some());
        Ok((sibling, shared.fold(0, |all, (_, flag)| all | flag as u64)))
    }

    fn setsid(&mut self, pid: Pid) {
        self.session.insert(pid, Some(pid));
        self.order.steps.push(Step::Setsid(pid));
    }

    /// `pid` has just been made: its children, and its setsid between them.
    fn emit(&mut self, pid: Pid, depth: u32) -> Result<(), Refusal> {
        if depth > 4096 {
            return Err(refuse(pid, "the tree is too deep".to_owned()));
        }
        let leads = self.member(pid)?.sid == pid;
        let mut rest = Vec::new();
        for child in self.children.get(&pid).cloned().unwrap_or_default() {
            match self.birth(child, 0)? {
                Some(session) if leads && session != pid && self.session_of(pid) == Some(session) => {
                    self.create(pid, child, Role::Member)?;
                    self.emit(child, depth + 1)?;
                }
                birth => rest.push((child, birth)),
            }
        }
        if leads {
            self.setsid(pid);
        }
        for (child, birth) in rest {
            if birth.is_some() && birth != self.session_of(pid) {
                // The child of another that this one adopted.
                self.order.steps.push(Step::Subreaper(pid));
                self.late.push((pid, child, birth));
                continue;
            }
            self.create(pid, child, Role::Member)?;
            self.emit(child, depth + 1)?;
        }
        Ok(())
    }

    /// The process that stands for a parent outside the tree; for pid 1, the template, whose children pid 1 inherits.
    fn outside_parent(&mut self, parent: Pid) -> Result<Pid, Refusal> {
        let children = self.children.get(&parent).cloned().unwrap_or_default();
        let mut wanted = None;
        for &child in &children {
            wanted = wanted.or(self.birth(child, 0)?);
        }
        let led_outside = wanted.filter(|&s| s != OUT_OF_SIGHT && !self.members.contains_key(&s));
        if parent.0 <= 1 {
            if let Some(session) = led_outside {
                let maker = self.session_keeper(session, self.template)?;
                // Its children are to be pid 1's: they are orphaned by a helper between the two.
                let helper = self.helper(maker)?;
                return Ok(helper);
            }
            return Ok(self.template);
        }
        if self.order.roles.contains_key(&parent) {
            return Ok(parent);
        }
        match led_outside {
            Some(session) if session == parent => return self.session_keeper(session, self.template),
            Some(session) => {
                let keeper = self.session_keeper(session, self.template)?;
                self.create(keeper, parent, Role::StandIn)?;
            }
            None => self.create(self.template, parent, Role::StandIn)?,
        }
        if self.tree.reaper == parent {
            self.order.steps.push(Step::Subreaper(parent));
        }
        Ok(parent)
    }

    /// The stand-in for a session leader outside the tree, or a helper for one that is dead.
    fn session_keeper(&mut self, session: Pid, maker: Pid) -> Result<Pid, Refusal> {
        if self.order.roles.contains_key(&session) {
            return Ok(session);
        }
        let alive = self.tree.outside.contains(&session);
        self.create(maker, session, if alive { Role::StandIn } else { Role::Helper })?;
        self.setsid(session);
        if self.tree.reaper == session && alive {
            self.order.steps.push(Step::Subreaper(session));
        }
        Ok(session)
    }

    fn helper(&mut self, maker: Pid) -> Result<Pid, Refusal> {
        let pid = self.free.pop().ok_or_else(|| refuse(maker, "all pids are in use".to_owned()))?;
        self.create(maker, pid, Role::Helper)?;
        Ok(pid)
    }

    /// A child of `adopter` in a session it was never in: made by a helper in that session, which then ends.
    fn detour(&mut self, adopter: Pid, child: Pid, birth: Option<Pid>) -> Result<(), Refusal> {
        let visible = birth.filter(|&s| s != OUT_OF_SIGHT);
        let session = visible.ok_or_else(|| refuse(child, "its adopter is not in its session".to_owned()))?;
        let helper = if self.members.contains_key(&session) && self.order.roles.contains_key(&session) {
            self.helper(session)?
        } else {
            match self.session_keeper(session, adopter)? {
                // It lives on: somebody between the two is to end.
                keeper if self.order.roles.get(&keeper) == Some(&Role::StandIn) => self.helper(keeper)?,
                keeper => keeper,
            }
        };
        self.create(helper, child, Role::Member)?;
        self.emit(child, 0)
    }

    /// Groups, once everybody is there; then the helpers go.
    fn groups(&mut self) -> Result<(), Refusal> {
        let mut groups: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
        for m in &self.tree.members {
            if m.sid != m.pid && m.pgid != OUT_OF_SIGHT {
                groups.entry(m.pgid).or_default().push(m.pid);
            }
        }
        for (&group, members) in &groups {
            let session = self.member(members.first().copied().unwrap_or(group))?.sid;
            if !self.order.roles.contains_key(&group) {
                let standin = self.order.roles.get(&session) == Some(&Role::StandIn);
                if standin && self.tree.outside.contains(&group) {
                    self.create(session, group, Role::Idle)?;
                } else {
                    let maker = members.first().copied().unwrap_or(session);
                    self.create(maker, group, Role::Helper)?;
                }
            }
            if self.session_of(group) != Some(group) {
                self.order.steps.push(Step::Setpgid(group, group));
            }
            if self.members.get(&group).is_some_and(|m| m.pgid != group) {
                // It has moved on to another: a helper, born in the group, keeps it until all others are in.
                self.helper(group)?;
            }
        }
        for (group, members) in groups {
            for member in members.into_iter().filter(|&m| m != group) {
                if self.session_of(member) != self.session_of(group) {
                    return Err(refuse(member, format!("its group {group} is in another session")));
                }
                self.order.steps.push(Step::Setpgid(member, group));
            }
        }
        // Youngest first: a helper's own helpers go before it.
        let made: Vec<(Pid, Pid)> = self
            .order
            .steps
            .iter()
            .filter_map(|s| match *s {
                Step::Create { parent, pid, .. } if self.order.roles.get(&pid) == Some(&Role::Helper) => {
                    Some((parent, pid))
                }
                _ => None,
            })
            .collect();
        for (parent, pid) in made.into_iter().rev() {
            let by = (self.order.roles.get(&parent) != Some(&Role::Helper)).then_some(parent);
            self.order.steps.push(Step::End { pid, by });
        }
        Ok(())
    }
}

#[cfg(test)]
mod histories;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use crate::model::tree::{Shares, State};

    fn m(pid: i32, ppid: i32, pgid: i32, sid: i32) -> Member {
        Member {
            pid: Pid(pid),
            ppid: Pid(ppid),
            pgid: Pid(pgid),
            sid: Pid(sid),
            comm: Name::default(),
            state: State::Alive,
            exit_signal: 17,
            shares: Shares::default(),
        }
    }

    fn tree(members: Vec<Member>, reaper: i32, outside: &[i32]) -> Tree {
        let outside = outside.iter().map(|&p| Pid(p)).collect();
        Tree { root: members[0].pid, members, reaper: Pid(reaper), outside, login_uid: None }
    }

    const INIT: Pid = Pid(1);

    /// Plays the steps and checks every member against the model: the kernel's rules in small.
    pub(super) fn play(tree: &Tree) -> Order {
        #[derive(Clone, Copy)]
        struct P {
            ppid: Pid,
            sid: Pid,
            pgid: Pid,
            alive: bool,
            reaper: bool,
        }
        let order = order(tree, &BTreeSet::new()).unwrap();
        let Some(&Step::Create { parent: top, .. }) = order.steps.first() else { panic!("nothing is made") };
        let new = P { ppid: INIT, sid: Pid(0), pgid: Pid(0), alive: true, reaper: false };
        let mut now: BTreeMap<Pid, P> = BTreeMap::from([(top, new), (INIT, P { ppid: Pid(0), reaper: true, ..new })]);
        for step in &order.steps {
            match *step {
                Step::Create { parent, pid, .. } => {
                    let p = now[&parent];
                    assert!(p.alive, "{parent} makes {pid} and is dead");
                    assert!(now.insert(pid, P { ppid: parent, reaper: false, ..p }).is_none());
                }
                Step::Setsid(pid) => {
                    assert_ne!(now[&pid].pgid, pid, "a group leader can't start a session");
                    let p = now.get_mut(&pid).unwrap();
                    (p.sid, p.pgid) = (pid, pid);
                }
                Step::Setpgid(pid, group) => {
                    assert_ne!(now[&pid].sid, pid, "a session leader can't change its group");
                    let there = |p: &P| p.alive && p.pgid == group && p.sid == now[&pid].sid;
                    assert!(pid == group || now.values().any(there), "group {group} is gone, or in another session");
                    now.get_mut(&pid).unwrap().pgid = group;
                }
                Step::Subreaper(pid) => now.get_mut(&pid).unwrap().reaper = true,
                Step::End { pid, .. } => {
                    let mut heir = now[&pid].ppid;
                    while !now[&heir].reaper {
                        heir = now[&heir].ppid;
                    }
                    now.get_mut(&pid).unwrap().alive = false;
                    now.values_mut().filter(|p| p.ppid == pid).for_each(|p| p.ppid = heir);
                }
            }
        }
        for member in &tree.members {
            let p = now[&member.pid];
            let wanted = (member.ppid, member.sid, member.pgid);
            assert_eq!((p.ppid, p.sid, p.pgid), wanted, "{member:?} {order:#?}");
        }
        for (pid, role) in &order.roles {
            assert_eq!(now[pid].alive, *role != Role::Helper, "{pid}");
        }
        order
    }

    #[test]
    fn a_plain_program_under_a_shell() {
        let order = play(&tree(vec![m(100, 50, 40, 30), m(101, 100, 40, 30)], 50, &[50, 40, 30]));
        assert_eq!(order.roles[&Pid(30)], Role::StandIn);
        assert_eq!(order.roles[&Pid(40)], Role::Idle);
    }

    #[test]
    fn the_parent_leads_the_session_or_the_group() {
        play(&tree(vec![m(100, 30, 100, 30)], 1, &[30]));
        play(&tree(vec![m(100, 50, 50, 30)], 50, &[50, 30]));
        play(&tree(vec![m(100, 30, 30, 30)], 30, &[30]));
    }

    #[test]
    fn a_root_that_leads_its_session() {
        play(&tree(vec![m(100, 50, 100, 100), m(101, 100, 101, 100), m(102, 100, 101, 100)], 50, &[50]));
        play(&tree(vec![m(100, 1, 100, 100)], 1, &[1]));
    }

    #[test]
    fn a_root_adopted_by_init_in_a_foreign_session() {
        play(&tree(vec![m(100, 1, 100, 30)], 1, &[1, 30]));
        play(&tree(vec![m(100, 1, 100, 30)], 1, &[1]));
    }

    #[test]
    fn sessions_and_groups_whose_leader_is_out_of_sight() {
        play(&tree(vec![m(100, 50, 0, 0), m(101, 100, 0, 0), m(102, 101, 102, 102)], 50, &[50]));
        play(&tree(vec![m(100, 50, 40, 0), m(101, 100, 101, 0), m(102, 100, 101, 0)], 50, &[50, 40]));
        play(&tree(vec![m(100, 1, 100, 100), m(101, 100, 0, 0)], 1, &[]));
    }

    #[test]
    fn children_from_before_their_parents_setsid() {
        play(&tree(vec![m(100, 50, 40, 30), m(101, 100, 101, 101), m(102, 101, 40, 30)], 50, &[50, 40, 30]));
        // … two sessions up.
        play(&tree(
            vec![m(100, 50, 40, 30), m(101, 100, 101, 101), m(102, 101, 102, 102), m(103, 102, 40, 30)],
            50,
            &[50, 40, 30],
        ));
    }

    #[test]
    fn daemons_whose_session_leader_is_dead() {
        play(&tree(vec![m(100, 50, 40, 30), m(103, 50, 102, 102)], 50, &[50, 40, 30]));
        play(&tree(vec![m(100, 50, 40, 30), m(103, 50, 102, 102), m(104, 50, 102, 102)], 50, &[50, 40, 30]));
        play(&tree(vec![m(100, 1, 40, 30), m(103, 1, 102, 102)], 1, &[1, 40, 30]));
    }

    #[test]
    fn orphans_whose_session_leader_is_a_member() {
        play(&tree(vec![m(100, 50, 100, 100), m(103, 50, 100, 100)], 50, &[50]));
        play(&tree(vec![m(100, 50, 40, 30), m(101, 100, 101, 101), m(103, 50, 101, 101)], 50, &[50, 40, 30]));
    }

    #[test]
    fn orphans_that_a_member_adopted() {
        play(&tree(vec![m(100, 50, 40, 30), m(103, 100, 102, 102), m(104, 103, 102, 102)], 50, &[50, 40, 30]));
        play(&tree(vec![m(100, 50, 100, 100), m(101, 100, 101, 101), m(103, 100, 101, 101)], 50, &[50]));
    }

    #[test]
    fn groups_whose_leader_is_dead() {
        let order = play(&tree(vec![m(100, 50, 100, 100), m(102, 100, 101, 100), m(103, 100, 101, 100)], 50, &[50]));
        assert_eq!(order.roles[&Pid(101)], Role::Helper);
    }

    #[test]
    fn orphans_in_a_session_that_only_they_are_in() {
        play(&tree(vec![m(100, 50, 100, 100), m(108, 50, 40, 30)], 50, &[50, 40, 30]));
    }

    #[test]
    fn nonsense_is_refused() {
        let none = BTreeSet::new();
        // A circle, a pid twice, no root, pid 1.
        assert!(
            order(&tree(vec![m(100, 50, 40, 30), m(7, 8, 7, 7), m(8, 7, 8, 8)], 50, &[50, 40, 30]), &none).is_err()
        );
        assert!(order(&tree(vec![m(100, 50, 40, 30), m(100, 50, 40, 30)], 50, &[]), &none).is_err());
        assert!(order(&tree(vec![m(1, 0, 1, 1)], 1, &[]), &none).is_err());
        // A group in another session.
        assert!(
            order(&tree(vec![m(100, 50, 40, 30), m(101, 100, 102, 30), m(102, 100, 102, 102)], 50, &[50]), &none)
                .is_err()
        );
    }

    #[test]
    fn what_is_shared_comes_from_the_parent_or_a_sibling() {
        let shares = |pid| Shares { descriptors: Some(Pid(pid)), ..Shares::default() };
        let member = |pid, ppid, shares| Member { shares, ..m(pid, ppid, 40, 30) };
        let none = Shares::default();
        let with = |last| vec![m(100, 50, 40, 30), member(101, 100, shares(100)), member(102, 100, none), last];
        let makers = |order: &Order| -> Vec<(Pid, Option<Pid>, u64)> {
            let shared = order.steps.iter().filter_map(|s| match *s {
                Step::Create { pid, sibling, shared, .. } if shared != 0 => Some((pid, sibling, shared)),
                _ => None,
            });
            shared.collect()
        };
        let files = libc::CLONE_FILES as u64;
        let order = play(&tree(with(member(103, 100, shares(102))), 50, &[50, 40, 30]));
        assert_eq!(makers(&order), [(Pid(101), None, files), (Pid(103), Some(Pid(102)), files)]);
        // A grandchild has it from its parent or not at all.
        let order = play(&tree(with(member(103, 101, shares(100))), 50, &[50, 40, 30]));
        assert_eq!(makers(&order), [(Pid(101), None, files), (Pid(103), None, files)]);
        let bad = tree(with(member(103, 102, shares(100))), 50, &[50, 40, 30]);
        assert!(super::order(&bad, &BTreeSet::new()).is_err());
    }
}
