//! Threads.

use std::borrow::Cow;
use std::io;

use crate::model::process::Process;
use crate::model::thread::{Directories, Thread};
use crate::model::{Addr, Name};
use crate::sys::{cpu, ptrace, sched};

use super::Error;
use super::build::clone_into;
use super::credentials::{self, Start};
use super::mempolicy;
use super::pinned::Pinned;
use super::process::{directories, set_name};
use super::stub::{Batch, Puppet};
use super::switches;

const PR_SET_PDEATHSIG: u64 = 1;
const PR_SET_TIMERSLACK: u64 = 29;
/// What a thread shares with its siblings: memory, directories, descriptors, signal actions, semaphore undo, group.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

/// So many threads are made in one go.
const AT_ONCE: usize = 500;

/// Makes threads beside `leader`.
pub fn create(leader: &mut Puppet, threads: &[Thread], choose: bool) -> Result<Vec<Puppet>, Error> {
    let base = Addr(leader.data().0 - 4096);
    let mut made = Vec::with_capacity(threads.len());
    for threads in threads.chunks(AT_ONCE) {
        let mut batch = leader.batch();
        for thread in threads {
            let own = if thread.directories.is_some() { libc::CLONE_FS as u64 } else { 0 };
            clone_into(&mut batch, THREAD & !own, 0, choose.then_some(thread.tid));
        }
        let (_, births) = leader.run_with_births(batch)?;
        if births.len() != threads.len() {
            return Err(Error::step("making threads", leader.host(), io::Error::other("no birth")));
        }
        for task in births {
            made.push(Puppet::adopt(task, base)?);
        }
    }
    Ok(made)
}

/// Makes a thread that will end soon, beside `maker`, with directories like those of another.
pub fn passing(maker: &mut Puppet, like: &Thread) -> Result<Puppet, Error> {
    let made = create(maker, std::slice::from_ref(like), false)?.pop();
    made.ok_or_else(|| Error::step("making a thread", maker.host(), io::Error::other("no birth")))
}

/// All of a thread but its registers, mask and signals; with its last settings if `last` says from what they start.
pub fn set_up(
    puppet: &mut Puppet,
    process: &Process,
    (thread, own): (&Thread, Option<(&Directories, [Name; 2])>),
    fresh: bool,
    pinned: &Pinned,
    last: Option<&Start>,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let host = puppet.host();
    let mut batch = puppet.batch();
    set_name(&mut batch, &thread.comm);
    if let Some((own, [cwd, root])) = &own {
        directories(&mut batch, cwd, root, own.umask);
    }
    // The image has one for all threads; the kernel has one for each.
    batch.call("personality", libc::SYS_personality, &[u64::from(process.personality)]);
    if thread.robust_list.0 != Addr(0) {
        let args = [thread.robust_list.0.0, thread.robust_list.1];
        batch.call("set_robust_list", libc::SYS_set_robust_list, &args);
    }
    batch.call("set_tid_address", libc::SYS_set_tid_address, &[thread.clear_child_tid.0]);
    let stack = &thread.altstack;
    let mut bytes = stack.sp.0.to_le_bytes().to_vec();
    // SS_ONSTACK (1) says where the thread was; it is not a setting.
    bytes.extend(u64::from((stack.flags & !1) as u32).to_le_bytes());
    bytes.extend(stack.size.to_le_bytes());
    let at = batch.data(&bytes);
    batch.call("sigaltstack", libc::SYS_sigaltstack, &[at.0, 0]);
    if let Some(rseq) = &thread.rseq {
        let args = [rseq.area.0, u64::from(rseq.len), 0, u64::from(rseq.signature)];
        batch.call("rseq", libc::SYS_rseq, &args);
    }
    if thread.timer_slack != 0 {
        batch.call("prctl", libc::SYS_prctl, &[PR_SET_TIMERSLACK, thread.timer_slack]);
    }
    match last {
        Some(start) => run_with_last_settings(puppet, batch, thread, start, notes)?,
        None => puppet.run(batch).map(drop)?,
    }
    mempolicy::of_thread(puppet, thread, notes)?;
    if fresh {
        // The C library keeps a thread's id where the kernel is to clear it at its end.
        let mut old = [0u8; 4];
        if puppet.read(thread.clear_child_tid, &mut old).is_ok() && i32::from_le_bytes(old) == thread.tid.0 {
            puppet.write(thread.clear_child_tid, &host.to_le_bytes())?;
        }
    }
    scheduling(host, thread, pinned, notes);
    let area = fitted(&thread.xstate.0, cpu::xsave_len())
        .ok_or_else(|| Error::step("setting the extended state", host, io::Error::other("another layout")))?;
    ptrace::set_xstate(host, &area).map_err(|e| Error::step("setting the extended state", host, e))
}

/// Its credentials, what changing them would have undone, and what is better not in force before.
pub fn last_settings(
    puppet: &mut Puppet,
    thread: &Thread,
    start: &Start,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let batch = puppet.batch();
    run_with_last_settings(puppet, batch, thread, start, notes)
}

fn run_with_last_settings(
    puppet: &mut Puppet,
    mut batch: Batch,
    thread: &Thread,
    start: &Start,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    credentials::set(&mut batch, &thread.credentials, start);
    let before = batch.len();
    switches::speculation(&mut batch, &thread.switches);
    let speculation = before..batch.len();
    switches::of_thread(&mut batch, &thread.switches);
    if thread.pdeath_signal != 0 {
        batch.call("prctl", libc::SYS_prctl, &[PR_SET_PDEATHSIG, thread.pdeath_signal as u64]);
    }
    let results = puppet.run(batch)?;
    if results.get(speculation).is_some_and(|results| results.iter().any(|&result| result != 0)) {
        notes.push(format!("thread {}: its speculation controls could not be set as they were", thread.tid));
    }
    Ok(())
}

/// An xsave area as this processor wants it: as it is where the size is the same; where it is not, its components
/// have other places too, and only what every processor keeps at one place can be taken over: x87, SSE and AVX. `None`
/// if others are in use.
pub fn fitted(area: &[u8], len: usize) -> Option<Cow<'_, [u8]>> {
    // Where the header starts with the set of components in use, and where AVX ends.
    const IN_USE: usize = 512;
    const FIXED: usize = 832;
    if area.len() == len {
        return Some(Cow::Borrowed(area));
    }
    let used = area.get(IN_USE..IN_USE + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)?;
    let fits = used & !7 == 0 && (used & 4 == 0 || area.len().min(len) >= FIXED);
    let mut out = area.get(..area.len().min(FIXED).min(len))?.to_vec();
    out.resize(len, 0);
    fits.then_some(Cow::Owned(out))
}

/// Scheduling, set from outside where it differs from what the thread inherited.
fn scheduling(host: i32, thread: &Thread, pinned: &Pinned, notes: &mut Vec<String>) {
    let mut note = |what: &str, e: io::Error| {
        notes.push(format!("thread {}: {what} could not be set as it was: {e}", thread.tid));
    };
    if sched::affinity(host).is_ok_and(|now| trimmed(&now) != trimmed(&thread.affinity.0)) {
        sched::set_affinity(host, &thread.affinity.0).unwrap_or_else(|e| {
            pinned.loosen(host);
            note("CPU affinity", e);
        });
    }
    if sched::get(host).is_ok_and(|now| now != thread.sched) {
        sched::set(host, &thread.sched).unwrap_or_else(|e| note("scheduling", e));
    }
    // Once it has become another user's, we could not let it go any more. One with a deadline must be free to go anywhere
    // (sched(7)).
    if thread.sched.deadline.is_none() && thread.credentials.uid == [nix::unistd::geteuid().as_raw(); 4] {
        pinned.hold_back(host);
    }
    if sched::io_priority(host).is_ok_and(|now| now != thread.io_priority) {
        sched::set_io_priority(host, thread.io_priority).unwrap_or_else(|e| note("I/O priority", e));
    }
}

/// Bit sets are as long as the kernel that made them was built for.
fn trimmed(bits: &[u8]) -> &[u8] {
    let len = bits.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
    bits.get(..len).unwrap_or(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(len: usize, used: u64) -> Vec<u8> {
        let mut bytes = vec![7u8; len];
        bytes[512..520].copy_from_slice(&used.to_le_bytes());
        bytes
    }

    #[test]
    fn only_components_with_one_place_move_between_layouts() {
        assert_eq!(fitted(&area(2696, 0xe7), 2696).unwrap()[..], area(2696, 0xe7));
        let wide = area(2696, 7);
        let moved = fitted(&wide, 2440).unwrap();
        assert_eq!((moved.len(), moved[600], moved[900]), (2440, 7, 0));
        assert!(fitted(&area(2696, 0xe7), 2440).is_none());
        assert!(fitted(&area(832, 7), 576).is_none());
        assert!(fitted(&[0; 100], 832).is_none());
    }
}
