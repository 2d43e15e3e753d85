//! Users, groups and capabilities: set last, when nothing that needs privilege comes after.

use crate::model::credentials::Credentials;
use crate::model::{Checkpoint, Pid, Refusal};
use crate::proc;
use crate::sys::tasks;

use super::namespaces::Wanted;
use super::stub::{Batch, Expect};

const PR_SET_KEEPCAPS: u64 = 8;
const PR_CAPBSET_DROP: u64 = 24;
const PR_SET_SECUREBITS: u64 = 28;
const PR_SET_NO_NEW_PRIVS: u64 = 38;
const PR_CAP_AMBIENT: u64 = 47;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;

/// What processes under construction have before anything is taken from them.
#[derive(Debug, Clone)]
pub struct Start {
    uid: [u32; 4],
    gid: [u32; 4],
    groups: Vec<u32>,
    caps: [u64; 5],
    securebits: u32,
    /// In a user namespace of our making nobody sets groups (user_namespaces(7)).
    groups_are_fixed: bool,
}

impl Start {
    /// What they will have, as far as it can be told before there is one.
    fn expected(wanted: Wanted) -> Result<Start, proc::Error> {
        let mut start = Start::of(std::process::id() as i32, wanted)?;
        if wanted.user {
            let last = proc::number("sys/kernel/cap_last_cap").unwrap_or(63).clamp(0, 63);
            let all = u64::MAX >> (63 - last);
            start.caps = [0, all, all, all, 0];
        }
        Ok(start)
    }

    /// What the first process, which we forked, has; and so all that descend from it.
    pub fn of(pid: i32, wanted: Wanted) -> Result<Start, proc::Error> {
        let status = proc::status(pid)?;
        let (uid, gid, groups) = (status.uid, status.gid, sorted(&status.groups));
        // A new user namespace starts without any.
        let securebits = if wanted.user { 0 } else { tasks::securebits() };
        Ok(Start { uid, gid, groups, caps: status.caps, securebits, groups_are_fixed: wanted.user })
    }

    /// Whether threads of ours stay ours when they have these.
    pub fn keeps_user(&self, c: &Credentials) -> bool {
        (c.uid, c.gid) == (self.uid, self.gid)
    }

    fn may(&self, capability: u32) -> bool {
        self.caps[1] >> capability & 1 == 1
    }
}

fn sorted(groups: &[u32]) -> Vec<u32> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Users this process cannot become and capabilities it cannot give, for each process once; and what will differ.
pub fn plan(checkpoint: &Checkpoint, wanted: Wanted, conflicts: &mut Vec<Refusal>, notes: &mut Vec<String>) {
    let start = match Start::expected(wanted) {
        Ok(start) => start,
        Err(error) => {
            notes.push(format!("our own credentials are not to be seen: {error}"));
            return;
        }
    };
    for process in &checkpoint.processes {
        let mut found = Vec::new();
        for thread in &process.threads {
            let c = &thread.credentials;
            found.extend(standing_in_the_way(process.pid, c, &start));
            if start.groups_are_fixed && sorted(&c.groups) != start.groups {
                notes.push(format!("pid {}: its supplementary groups will be ours", process.pid));
            }
            let lost = c.caps[3] & !start.caps[3];
            if lost != 0 {
                notes.push(format!("pid {}: its bounding set will lack the capabilities {lost:#x}", process.pid));
            }
        }
        found.dedup();
        conflicts.append(&mut found);
    }
    notes.dedup();
}

fn standing_in_the_way(pid: Pid, c: &Credentials, start: &Start) -> Vec<Refusal> {
    let mut out = Vec::new();
    let mut refuse = |object: &str, reason: String, hint: &str| {
        out.push(Refusal { pid, object: object.to_owned(), reason, hint: hint.to_owned() });
    };
    let missing = (c.caps[1] | c.caps[2] | c.caps[4]) & !start.caps[1] | c.caps[0] & !(start.caps[0] | start.caps[3]);
    if missing != 0 {
        let reason = format!("it had {:#x}, of which we lack {missing:#x}", c.caps[1] | c.caps[0]);
        refuse("capabilities", reason, "resume with as many, as root for instance");
    } else if !start.may(CAP_SETPCAP) && (c.caps[0], c.caps[4]) != (start.caps[0], start.caps[4])
        || !start.may(CAP_SETPCAP) && start.caps[3] & !c.caps[3] != 0
    {
        let reason = "its inheritable, ambient or bounding set differs from ours, and we lack CAP_SETPCAP".to_owned();
        refuse("capabilities", reason, "resume as root");
    }
    let any_user = start.may(CAP_SETUID) && start.may(CAP_SETGID) && !start.groups_are_fixed;
    if !any_user && (c.uid, c.gid) != ([start.uid[1]; 4], [start.gid[1]; 4]) {
        let (uid, gid) = (start.uid[1], start.gid[1]);
        let reason = format!("it ran as uid {} gid {}, we are uid {uid} gid {gid}", c.uid[1], c.gid[1]);
        refuse("user", reason, "resume as that user, or as root");
    }
    out
}

/// Gives the calling thread alone what it had.
pub fn set(batch: &mut Batch, c: &Credentials, start: &Start) {
    if !start.groups_are_fixed && start.may(CAP_SETGID) && sorted(&c.groups) != start.groups {
        let groups: Vec<u8> = c.groups.iter().flat_map(|g| g.to_le_bytes()).collect();
        let at = batch.data(&groups);
        batch.call("setgroups", libc::SYS_setgroups, &[c.groups.len() as u64, at.0]);
    }
    if c.gid != start.gid {
        batch.call("setresgid", libc::SYS_setresgid, &[c.gid[0].into(), c.gid[1].into(), c.gid[2].into()]);
        file_system_id(batch, libc::SYS_setfsgid, c.gid);
    }
    let all = start.caps[1];
    if c.uid != start.uid {
        // Permitted capabilities must outlive the change of user for the moment; effective ones never do.
        batch.call("prctl", libc::SYS_prctl, &[PR_SET_KEEPCAPS, 1]);
        batch.call("setresuid", libc::SYS_setresuid, &[c.uid[0].into(), c.uid[1].into(), c.uid[2].into()]);
        batch.call_expecting(Expect::Anything, "prctl", libc::SYS_prctl, &[PR_SET_KEEPCAPS, 0]);
        capset(batch, [start.caps[0], all, all]);
        file_system_id(batch, libc::SYS_setfsuid, c.uid);
    }
    if start.may(CAP_SETPCAP) {
        // What is inheritable may go beyond the bounding set only if it did before that was narrowed.
        capset(batch, [c.caps[0], all, all]);
        for capability in bits(c.caps[4]) {
            let args = [PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0];
            batch.call("prctl PR_CAP_AMBIENT_RAISE", libc::SYS_prctl, &args);
        }
        for capability in bits(start.caps[3] & !c.caps[3]) {
            batch.call("prctl PR_CAPBSET_DROP", libc::SYS_prctl, &[PR_CAPBSET_DROP, capability, 0, 0, 0]);
        }
    }
    if c.securebits != start.securebits {
        batch.call("prctl PR_SET_SECUREBITS", libc::SYS_prctl, &[PR_SET_SECUREBITS, u64::from(c.securebits)]);
    }
    capset(batch, [c.caps[0], c.caps[1], c.caps[2]]);
    if c.no_new_privs {
        batch.call("prctl", libc::SYS_prctl, &[PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]);
    }
}

/// setfsuid(2) or setfsgid(2), which return what was before and nothing else.
fn file_system_id(batch: &mut Batch, call: i64, ids: [u32; 4]) {
    if ids[3] != ids[1] {
        batch.call_expecting(Expect::Anything, "setfsuid", call, &[ids[3].into()]);
        batch.call_expecting(Expect::Exactly(ids[3].into()), "setfsuid", call, &[ids[3].into()]);
    }
}

fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |n| set >> n & 1 == 1)
}

/// Inheritable, permitted, effective.
fn capset(batch: &mut Batch, [inheritable, permitted, effective]: [u64; 3]) {
    let header = batch.data(&[CAPABILITY_VERSION_3.to_le_bytes(), [0; 4]].concat());
    let half = |shift: u32| [effective, permitted, inheritable].map(|set| ((set >> shift) as u32).to_le_bytes());
    let sets = batch.data(&[half(0), half(32)].concat().concat());
    batch.call("capset", libc::SYS_capset, &[header.0, sets.0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [u32; 4] = [1000; 4];

    fn start(caps: [u64; 5], groups_are_fixed: bool) -> Start {
        Start { uid: NOBODY, gid: NOBODY, groups: vec![], caps, securebits: 0, groups_are_fixed }
    }

    fn objects(c: &Credentials, start: &Start) -> Vec<String> {
        standing_in_the_way(Pid(1), c, start).into_iter().map(|r| r.object).collect()
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        let plain = Credentials {
            uid: NOBODY,
            gid: NOBODY,
            groups: vec![],
            caps: [0, 0, 0, 0xff, 0],
            securebits: 0,
            no_new_privs: false,
        };
        let (nobody, namespace) = (start([0, 0, 0, 0xff, 0], false), start([0, 0x1ff, 0x1ff, 0x1ff, 0], true));
        assert!(objects(&plain, &nobody).is_empty() && objects(&plain, &namespace).is_empty());
        let other = Credentials { uid: [0; 4], ..plain.clone() };
        assert_eq!((objects(&other, &nobody), objects(&other, &namespace)), (vec!["user".into()], vec!["user".into()]));
        assert!(objects(&other, &start([0, 0x1ff, 0x1ff, 0x1ff, 0], false)).is_empty());
        for caps in [[0, 1, 0, 0xff, 0], [1, 0, 0, 0xff, 0], [0, 0, 0, 0xf, 0]] {
            let more = Credentials { caps, ..plain.clone() };
            assert_eq!(objects(&more, &nobody), ["capabilities"], "{caps:x?}");
            assert!(objects(&more, &namespace).is_empty(), "{caps:x?}");
        }
        assert_eq!(objects(&Credentials { caps: [0, 0x200, 0, 0xff, 0], ..plain }, &namespace), ["capabilities"]);
    }
}
