//! Seccomp filters: put on when all else is done, while the kernel lets the calls of a traced task pass them by.

use crate::model::process::Process;
use crate::model::seccomp::{Filter, Seccomp};
use crate::model::{Checkpoint, Refusal};
use crate::proc;
use crate::sys::ptrace;

use super::Error;
use super::namespaces::{self, CAP_SYS_ADMIN, Wanted};
use super::stub::{Expect, Puppet};

const PR_SET_SECCOMP: u64 = 22;
const MODE_STRICT: u64 = 1;
const SET_MODE_FILTER: u64 = 1;
const FLAG_TSYNC: u64 = 1;
const FLAG_LOG: u64 = 2;

/// Without privilege here, and not only in a namespace of our making, no call could be made behind the filters.
pub fn conflicts(checkpoint: &Checkpoint, wanted: Wanted, conflicts: &mut Vec<Refusal>) {
    let ours = proc::status(std::process::id() as i32).is_ok_and(|s| s.seccomp == 0);
    if ours && !wanted.user && namespaces::may(CAP_SYS_ADMIN) {
        return;
    }
    for process in &checkpoint.processes {
        if let Some(thread) = process.threads.iter().find(|t| t.seccomp.is_some()) {
            conflicts.push(Refusal {
                pid: process.pid,
                object: format!("thread {}", thread.tid),
                reason: "it was under seccomp, which only root (and not itself under seccomp) can bring back"
                    .to_owned(),
                hint: "resume as root".to_owned(),
            });
        }
    }
}

/// Puts every thread of a process under its filters. What all have in common comes from one call for all, so that the
/// program itself can go on adding filters for all (seccomp(2), `SECCOMP_FILTER_FLAG_TSYNC`).
pub fn set_up(puppets: &mut [&mut Puppet], process: &Process) -> Result<(), Error> {
    if process.threads.iter().all(|t| t.seccomp.is_none()) {
        return Ok(());
    }
    for puppet in puppets.iter() {
        let host = puppet.host();
        ptrace::set_options(host, ptrace::OPT_BUILD | ptrace::OPT_SUSPEND_SECCOMP)
            .map_err(|e| Error::step("suspending seccomp", host, e))?;
    }
    let common = common(process);
    for index in common {
        if let (Some(puppet), Some(filter)) = (puppets.first_mut(), process.filters.get(*index as usize)) {
            install(puppet, filter, FLAG_TSYNC)?;
        }
    }
    for (puppet, thread) in puppets.iter_mut().zip(&process.threads) {
        match &thread.seccomp {
            None => {}
            Some(Seccomp::Strict) => {
                let mut batch = puppet.batch();
                batch.call("prctl PR_SET_SECCOMP", libc::SYS_prctl, &[PR_SET_SECCOMP, MODE_STRICT, 0, 0, 0]);
                puppet.run(batch)?;
            }
            Some(Seccomp::Filters(chain)) => {
                let rest = chain.iter().skip(common.len()).filter_map(|i| process.filters.get(*i as usize));
                rest.into_iter().try_for_each(|filter| install(puppet, filter, 0))?;
            }
        }
    }
    Ok(())
}

/// The filters with which the chains of all threads begin.
fn common(process: &Process) -> &[u32] {
    let mut chains = process.threads.iter().map(|t| match &t.seccomp {
        Some(Seccomp::Filters(chain)) => &chain[..],
        _ => &[],
    });
    let mut common = chains.next().unwrap_or_default();
    for chain in chains {
        let same = common.iter().zip(chain).take_while(|(a, b)| a == b).count();
        common = common.get(..same).unwrap_or_default();
    }
    common
}

fn install(puppet: &mut Puppet, filter: &Filter, flags: u64) -> Result<(), Error> {
    let flags = flags | if filter.log { FLAG_LOG } else { 0 };
    let mut batch = puppet.batch();
    let program = batch.data(&filter.program.0);
    // struct sock_fprog: how many instructions, and where.
    let count = (filter.program.0.len() / 8) as u64;
    let at = batch.data(&[count.to_le_bytes(), program.0.to_le_bytes()].concat());
    batch.call_expecting(Expect::Exactly(0), "seccomp", libc::SYS_seccomp, &[SET_MODE_FILTER, flags, at.0]);
    puppet.run(batch).map(drop)
}
