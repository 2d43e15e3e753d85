//! The IPC namespace of a tree: seen from inside, by an agent where it is not ours, and which of its objects are the tree's.
//!
//! A namespace made at a resume is the tree's altogether. In ours an object belongs to the tree if a process of it uses or
//! made it, as far as the kernel tells, or if it could have: made since the tree began by one of its users, and nobody
//! alive outside is known to use it. One too many is copied and harms nobody.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use crate::image::Run;
use crate::model::ipc::{Ipc, Perm};
use crate::model::{Addr, Nanos, Pid};
use crate::proc;
use crate::sys::agent::{Agent, ROOM};
use crate::sys::tasks;
use crate::tracer::{Held, HeldProcess};

use super::memory::SharedAnon;
use super::refusals::Refusals;
use super::{Error, Inside, sysvmsg, sysvsem, sysvshm};

const PAGE: u64 = 4096;

/// What was seen of the System V objects.
#[derive(Debug)]
pub(super) struct Seen {
    pub model: Ipc,
    pub space: Space,
    /// Segments that nobody in the tree has attached as a whole: where the agent has, by object.
    pub attached: HashMap<u32, Attached>,
}

/// An attachment of the agent's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attached {
    pub at: Addr,
    /// Bytes, in whole pages.
    pub size: u64,
    /// Some of it is in swap.
    pub swapped: bool,
}

/// The namespace.
#[derive(Debug)]
pub(super) struct Space {
    agent: Option<Agent>,
    foreign: bool,
    rule: Rule,
}

/// Which objects are the tree's.
#[derive(Debug, Default)]
pub(super) struct Rule {
    /// All of them.
    whole: bool,
    /// Processes of the tree as we see them.
    members: HashSet<i32>,
    users: HashSet<u32>,
    /// Not made before: seconds since 1970.
    since: i64,
    /// When the first of its processes started, likewise.
    born: i64,
    /// What lets us look at an object, once that has been asked; `None`: everything does.
    ours: OnceLock<Option<Ours>>,
    /// Whose objects a resume could make, as a user and a group: only a user's own; `None`: anybody's.
    maker: Option<(u32, u32)>,
    /// Kind and id of what threads of the tree wait for.
    waited: HashSet<(&'static str, i32)>,
}

/// Who we are, where that matters.
#[derive(Debug)]
struct Ours {
    uid: u32,
    groups: Vec<u32>,
}

impl Ours {
    fn new() -> Option<Ours> {
        const CAP_IPC_OWNER: u64 = 1 << 15;
        let status = proc::status(std::process::id() as i32).ok()?;
        let groups = std::iter::once(status.gid[3]).chain(status.groups).collect();
        (status.caps[2] & CAP_IPC_OWNER == 0).then_some(Ours { uid: status.uid[1], groups })
    }

    /// Whether we may read an object (ipc/util.c, ipcperms).
    fn may_read(&self, perm: &Perm) -> bool {
        let shift = if [perm.uid, perm.cuid].contains(&self.uid) {
            6
        } else if [perm.gid, perm.cgid].iter().any(|group| self.groups.contains(group)) {
            3
        } else {
            0
        };
        perm.mode >> shift & 4 != 0
    }
}

impl Rule {
    /// Whether an object that was last used at `touched` can be the tree's, as far as is known without asking for it: to
    /// ask takes an agent and time, while the tree stands still.
    pub fn can_cover(&self, perm: &Perm, touched: i64) -> bool {
        self.whole
            || self.ours.get_or_init(Ours::new).as_ref().is_none_or(|ours| ours.may_read(perm))
                && (self.users.contains(&perm.cuid) || touched >= self.born)
    }

    /// Whether one of these processes is of the tree, or all objects are its. `touched`: the last time that anybody used
    /// the object, which belongs to the tree's user or to another: another's from before the process started was used by
    /// one that had the same pid. (The tree's own user gets the benefit of the doubt, since somebody may have set the
    /// clock: but not for what a resume could not make.)
    pub fn uses(&self, perm: &Perm, touched: i64, used_by: &[i32]) -> bool {
        let doubtful = self.users.contains(&perm.cuid) && self.maker.is_none_or(|maker| could_be_of(perm, maker));
        let may_have = |pid: i32| doubtful || started(pid).is_ok_and(|start| touched >= start - 1);
        self.whole || used_by.iter().any(|pid| self.members.contains(pid) && may_have(*pid))
    }

    /// Whether a thread of the tree waits for this object, so that it is the tree's.
    pub fn waited(&self, kind: &'static str, id: i32) -> bool {
        self.waited.contains(&(kind, id))
    }

    /// Whether an object is the tree's: last changed and touched then, and used by these processes, 0 for nobody known.
    pub fn covers(&self, perm: &Perm, (changed, touched): (i64, i64), used_by: &[i32]) -> bool {
        let alive = |pid: i32| pid > 0 && proc::stat(pid).is_ok_and(|s| s.state != b'Z');
        self.uses(perm, touched, used_by)
            || changed >= self.since
                && self.users.contains(&perm.cuid)
                && self.maker.is_none_or(|maker| could_be_of(perm, maker))
                && !used_by.iter().any(|&pid| alive(pid))
    }
}

/// Looks at all objects; refuses what can't be saved.
pub(super) fn look(
    held: &Held,
    root: &HeldProcess,
    inside: &Inside,
    shared: &mut SharedAnon,
    refusals: &mut Refusals,
) -> Result<Seen, Error> {
    let mut seen = Seen { model: Ipc::default(), space: Space::new(held, root)?, attached: HashMap::new() };
    if let Err(error) = seen.space.enter(root) {
        refusals.add(root.pid, "process", format!("its IPC namespace can't be entered: {error}"), "save it as root");
        return Ok(seen);
    }
    sysvshm::look(&mut seen, root.pid, shared, refusals)?;
    sysvsem::look(&mut seen, held, root.pid, inside, refusals)?;
    sysvmsg::look(&mut seen, root.pid, refusals)?;
    others(&seen.model, root.pid, refusals);
    Ok(seen)
}

/// Whose objects a resume by us could make: in its user namespace there is nobody but us.
fn maker() -> Option<(u32, u32)> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    (!uid.is_root()).then_some((uid.as_raw(), gid.as_raw()))
}

/// Whether an object is altogether somebody's own.
fn could_be_of(perm: &Perm, (uid, gid): (u32, u32)) -> bool {
    [perm.uid, perm.cuid] == [uid; 2] && [perm.gid, perm.cgid] == [gid; 2]
}

/// Refuses objects of users that a resume by us could not make.
fn others(ipc: &Ipc, root: Pid, refusals: &mut Refusals) {
    let Some((uid, gid)) = maker() else { return };
    for (kind, perm) in ipc.perms().filter(|(_, perm)| !could_be_of(perm, (uid, gid))) {
        let (name, option) = match kind {
            "shm" => ("shared memory segment", 'm'),
            "sem" => ("semaphore set", 's'),
            _ => ("message queue", 'q'),
        };
        let Perm { uid: owner, gid: group, cuid, cgid, .. } = perm;
        let made =
            if (owner, group) == (cuid, cgid) { String::new() } else { format!(", made by uid {cuid} gid {cgid}") };
        let reason =
            format!("it is of uid {owner} gid {group}{made}; we are uid {uid} gid {gid}, and could not make it anew");
        let hint = format!("save it as root; or if nobody needs it, remove it: ipcrm -{option} {}", perm.id);
        refusals.add(root, format!("{name} {}", perm.id), reason, &hint);
    }
}

impl Seen {
    /// Pages of an object that only the agent has attached.
    pub fn resident(&mut self, object: u32) -> Result<Option<(Attached, Vec<Run>)>, Error> {
        let Some(&attached) = self.attached.get(&object) else { return Ok(None) };
        let mut runs: Vec<Run> = Vec::new();
        if attached.swapped {
            runs.push(Run { start: 0, len: attached.size });
            return Ok(Some((attached, runs)));
        }
        let mut from = 0;
        while from < attached.size {
            let pages = ((attached.size - from) / PAGE).min(ROOM as u64);
            let agent = self.space.agent()?;
            let args = [attached.at.0 + from, pages * PAGE, agent.room().0];
            agent.call(libc::SYS_mincore, &args).map_err(Error::io("asking for", "the pages of a segment"))?;
            let mut present = vec![0u8; pages as usize];
            agent.read(&mut present);
            for (i, _) in present.iter().enumerate().filter(|(_, byte)| **byte & 1 == 1) {
                let start = from + i as u64 * PAGE;
                match runs.last_mut() {
                    Some(last) if last.start + last.len == start => last.len += PAGE,
                    _ => runs.push(Run { start, len: PAGE }),
                }
            }
            from += pages * PAGE;
        }
        Ok(Some((attached, runs)))
    }
}

impl Space {
    fn new(held: &Held, root: &HeldProcess) -> Result<Space, Error> {
        let number = |pid| proc::namespace(pid, "ipc").map_err(Error::proc(pid));
        let foreign = number(root.live())? != number(std::process::id() as i32)?;
        let first = held.processes.iter().map(|p| p.stat.start_time).min().unwrap_or_default();
        let (since, born) = (started(root.host)? - 1, seconds(first)? - 1);
        let mut rule = Rule { whole: foreign, since, born, maker: maker(), ..Rule::default() };
        for p in held.processes.iter().filter(|p| !p.threads.is_empty()) {
            rule.members.insert(p.host);
            for t in &p.threads {
                match t.call {
                    libc::SYS_semop | libc::SYS_semtimedop => rule.waited.insert(("sem", t.regs.rdi as i32)),
                    libc::SYS_msgsnd | libc::SYS_msgrcv => rule.waited.insert(("msg", t.regs.rdi as i32)),
                    _ => false,
                };
            }
            rule.users.extend(proc::status(p.host).map_err(Error::proc(p.host))?.uid);
        }
        Ok(Space { agent: None, foreign, rule })
    }

    /// Starts the agent in a namespace that is not ours.
    fn enter(&mut self, root: &HeldProcess) -> std::io::Result<()> {
        if !self.foreign {
            return Ok(());
        }
        let open = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", root.live()));
        let same_user =
            proc::namespace(root.live(), "user").ok() == proc::namespace(std::process::id() as i32, "user").ok();
        let (user, ipc) = (open("user")?, open("ipc")?);
        self.agent = Some(Agent::start((!same_user).then(|| user.as_fd()), Some(ipc.as_fd()))?);
        Ok(())
    }

    /// Somebody in the namespace to make system calls.
    pub fn agent(&mut self) -> Result<&mut Agent, Error> {
        if self.agent.is_none() {
            self.agent = Some(Agent::start(None, None).map_err(Error::io("starting", "an agent"))?);
        }
        self.agent.as_mut().ok_or(Error::Cancelled)
    }

    /// Which objects are the tree's.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// `/proc/sysvipc/KIND`, which shows the namespace of whoever opens it. Nothing, where the kernel has no such objects.
    pub fn table(&mut self, kind: &'static str) -> Result<Vec<u8>, Error> {
        let path = format!("/proc/sysvipc/{kind}");
        if !self.foreign {
            return Ok(std::fs::read(&path).unwrap_or_default());
        }
        let bad = || Error::io("reading", path.clone());
        let agent = self.agent()?;
        let mut name = path.clone().into_bytes();
        name.push(0);
        agent.write(&name);
        let fd = match agent.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, agent.room().0, 0]) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            fd => fd.map_err(bad())?,
        };
        let mut out = Vec::new();
        loop {
            let len = agent.call(libc::SYS_read, &[fd, agent.room().0, ROOM as u64]).map_err(bad())? as usize;
            if len == 0 {
                break;
            }
            let from = out.len();
            out.resize(from + len.min(ROOM), 0);
            agent.read(out.get_mut(from..).unwrap_or_default());
        }
        agent.call(libc::SYS_close, &[fd]).map_err(bad())?;
        Ok(out)
    }
}

/// When a process started, in seconds since 1970.
fn started(pid: i32) -> Result<i64, Error> {
    seconds(proc::stat(pid).map_err(Error::proc(pid))?.start_time)
}

/// Ticks since this host started, in seconds since 1970.
fn seconds(ticks: u64) -> Result<i64, Error> {
    const TICK: i64 = 10_000_000;
    let clock = |id| tasks::clock(id).map_err(Error::io("reading", "a clock"));
    let (now, up) = (clock(libc::CLOCK_REALTIME)?, clock(libc::CLOCK_BOOTTIME)?);
    Ok(now.0.saturating_sub(up.0).saturating_add((ticks as i64).saturating_mul(TICK)) / Nanos::PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_started_in_the_past() {
        let now = tasks::clock(libc::CLOCK_REALTIME).unwrap().0 / Nanos::PER_SECOND;
        let then = started(std::process::id() as i32).unwrap();
        assert!((now - 3600..=now).contains(&then), "{then} is not near {now}");
    }

    #[test]
    fn whose_an_object_is() {
        let me = std::process::id() as i32;
        let mut rule = Rule { members: [me].into(), users: [7].into(), since: 100, ..Rule::default() };
        let perm = |cuid| Perm { id: 1, key: 0, mode: 0o600, uid: 7, gid: 7, cuid, cgid: 7, used: false };
        let now = started(me).unwrap();
        assert!(rule.covers(&perm(9), (5, now), &[me]), "a member uses it");
        assert!(rule.covers(&perm(7), (5, 99), &[me]), "a member may use it");
        assert!(!rule.covers(&perm(9), (5, now - 9), &[me]), "one with the pid of a member used it");
        assert!(rule.covers(&perm(7), (100, 100), &[0]), "nobody has used it");
        assert!(rule.covers(&perm(7), (100, 100), &[i32::MAX]), "who used it is dead");
        assert!(!rule.covers(&perm(7), (100, 100), &[1]), "somebody else uses it");
        assert!(!rule.covers(&perm(7), (99, 99), &[0]), "it was there before");
        assert!(!rule.covers(&perm(9), (100, 100), &[0]), "it is another user's");
        rule.maker = Some((7, 8));
        assert!(!rule.covers(&perm(7), (100, 100), &[0]), "it may be the tree's, and could not be made again");
        assert!(!rule.covers(&perm(7), (5, 99), &[me]), "nor was it this member who used it");
        assert!(rule.covers(&perm(7), (5, now), &[me]), "so it is, and a member uses it");
        rule.whole = true;
        assert!(rule.covers(&perm(9), (5, 5), &[1]));
    }

    #[test]
    fn what_is_not_asked_for() {
        let ours = Some(Ours { uid: 7, groups: vec![70, 71] }).into();
        let mut rule = Rule { users: [7, 8].into(), born: 100, ours, ..Rule::default() };
        let perm = |mode, uid, cuid, gid| Perm { id: 1, key: 0, mode, uid, gid, cuid, cgid: 1, used: false };
        assert!(rule.can_cover(&perm(0o600, 9, 7, 1), 5), "it was made by one of the tree's users");
        assert!(!rule.can_cover(&perm(0o600, 9, 9, 1), 200), "we may not look at it");
        assert!(!rule.can_cover(&perm(0o040, 7, 7, 71), 200), "nor at this, as its owner");
        assert!(rule.can_cover(&perm(0o040, 9, 9, 71), 200));
        assert!(rule.can_cover(&perm(0o604, 9, 9, 1), 100));
        assert!(!rule.can_cover(&perm(0o604, 9, 9, 1), 99), "nobody has used it since the tree began");
        assert!(!rule.can_cover(&perm(0o600, 8, 8, 1), 200));
        rule.ours = None.into();
        assert!(rule.can_cover(&perm(0, 8, 8, 1), 5));
        rule.whole = true;
        assert!(rule.can_cover(&perm(0, 9, 9, 1), 5));
    }
}
