//! Users, groups and capabilities of each thread.

use crate::model::Pid;
use crate::model::credentials::Credentials;
use crate::proc::status::Status;

use super::refusals::Refusals;

/// Refuses what only root could set again.
pub(super) fn look(pid: Pid, tid: Pid, status: &Status, refusals: &mut Refusals) {
    let differ = |ids: &[u32; 4]| ids.iter().any(|id| id != &ids[0]);
    if !nix::unistd::geteuid().is_root() && (differ(&status.uid) || differ(&status.gid)) {
        let reason = "its real, effective and saved ids differ: they can't be set again without privilege";
        refusals.add(pid, format!("thread {tid}"), reason, "save it as root");
    }
}

/// All but the secure bits is in `status`.
pub(super) fn capture(status: &Status, securebits: u32) -> Credentials {
    Credentials {
        uid: status.uid,
        gid: status.gid,
        groups: status.groups.clone(),
        caps: status.caps,
        securebits,
        no_new_privs: status.no_new_privs,
    }
}
