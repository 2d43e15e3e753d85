//! What is read of a process that has just been stopped, before its registers are borrowed.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock};

use crate::model::thread::{Regs, Rseq};
use crate::model::tree::State;
use crate::model::{Addr, Name, Nanos, Pid};
use crate::proc::{self, status::Status};
use crate::sys::{self, ptrace, socket};

use super::gadgets::Finder;
use super::held::{HeldProcess, HeldThread};
use super::patience::{self, Patience};
use super::task::Stopped;
use super::waits::{self, Sleeper};
use super::{Error, frame, vdso};

/// Everything about a process that is read before its registers are borrowed. `None` if it has gone altogether.
pub(super) fn describe(
    host: i32,
    mut threads: Vec<HeldThread>,
    statuses: &mut HashMap<i32, Result<Status, proc::Error>>,
    (sleepers, stood): (&HashMap<i32, Sleeper>, Nanos),
    finder: &Arc<Mutex<Finder>>,
    nspids: &mut HashMap<i32, Vec<i32>>,
) -> Result<Option<HeldProcess>, Error> {
    let gone = |e: proc::Error| Error::from_proc("reading status", host, e);
    let (Ok(pidfd), Ok(mut stat)) = (sys::tasks::pidfd_open(host), proc::stat(host)) else { return Ok(None) };
    if threads.is_empty() && (stat.state != b'Z' || stat.threads > 1) {
        return Err(Error::vanished("looking for its threads", host));
    }
    let mut status_of = |tid| statuses.remove(&tid).unwrap_or_else(|| proc::task_status(host, tid)).map_err(gone);
    let status = status_of(host)?;
    let inside = |ids: &[i32], fallback: i32| Pid(ids.last().copied().unwrap_or(fallback));
    let nested = status.nspid.len() > 1;
    let of_parent = nspids.entry(stat.ppid).or_insert_with(|| proc::status(stat.ppid).map_or(Vec::new(), |s| s.nspid));
    let ppid = if of_parent.len() == status.nspid.len() { inside(of_parent, stat.ppid) } else { Pid(0) };
    nspids.insert(host, status.nspid.clone());
    let mut state = State::Alive;
    let mut ended = (stat.state == b'Z').then_some(stat.exit_code);
    if ended.is_some() && !threads.is_empty() {
        // Of a stopped process the other file shows the stop here.
        ended = Some(proc::task_stat(host, host).map_err(gone)?.exit_code & 0xff00);
    }
    if let (Some(status), true) = (ended, threads.is_empty()) {
        state = State::Zombie { status };
    }
    let vdso_at = OnceCell::new();
    for t in &mut threads {
        if let Some(task) = &t.task {
            // Of the threads the leader knows best by what: those that came later only know that they have to stop.
            if task.is_parked() && task.signal() != libc::SIGTRAP && state == State::Alive {
                state = State::Stopped { signal: task.signal(), told: true };
            }
        }
        t.status = if t.host == host { status.clone() } else { status_of(t.host)? };
        if nested {
            t.tid = inside(&t.status.nspid, t.host);
        }
        let sleeper = sleepers.get(&t.host);
        let slept = sleeper.and_then(|s| s.slept(t.status.voluntary_switches, stood));
        if let (Some(sleeper), None) = (sleeper, slept) {
            let (tid, switches) = (t.host, t.status.voluntary_switches);
            tracing::debug!(tid, switches, ?sleeper, "how long it has slept is not known");
        }
        let interrupted = |task: &Stopped| task.is_parked() && task.signal() == libc::SIGTRAP;
        if state == State::Alive && t.task.as_ref().is_some_and(interrupted) {
            if let Some(vdso) = vdso::around(host, &t.regs, &t.status, || *vdso_at.get_or_init(|| vdso::start(host))) {
                if let Some(task) = t.task.take() {
                    let (task, regs) = vdso::leave(task, t.regs, &vdso)?;
                    (t.task, t.regs) = (Some(task), regs);
                }
            }
        }
        read_thread(host, t, slept, stood)?;
    }
    if state != State::Alive {
        // A thread that is to stay stopped does not make its call again.
        for t in &mut threads {
            if t.patience.take().is_some_and(|patience| patience.is_of_socket()) {
                t.left = None;
            }
        }
    }
    let (host_ppid, comm, exit_signal) = (stat.ppid, stat.comm.clone(), stat.exit_signal);
    if let Some(live) = threads.first().filter(|t| t.host != host) {
        stat = proc::task_stat(host, live.host).map_err(gone)?;
    }
    let process = HeldProcess {
        host,
        host_ppid,
        pid: inside(&status.nspid, host),
        ppid,
        pgid: inside(&status.nspgid, stat.pgrp),
        sid: inside(&status.nssid, stat.session),
        comm: Name(comm),
        state,
        exit_signal,
        ended_leader: ended.filter(|_| !threads.is_empty()),
        pidfd,
        threads,
        stat,
        maps: OnceLock::new(),
        caught: status.sig_caught,
        ignored: status.sig_ignored,
        ground: None,
        views: Vec::new(),
        finder: Arc::clone(finder),
        mem: OnceLock::new(),
    };
    Ok(Some(process))
}

fn read_thread(pid: i32, t: &mut HeldThread, slept: Option<Nanos>, stood: Nanos) -> Result<(), Error> {
    let tid = t.host;
    let bad = |step| move |e| Error::from_io(step, tid, e);
    // Where that has not come off before: the kernel puts a segment here.
    if t.regs.cs == 0 {
        t.regs = ptrace::get_regs(tid).map_err(bad("reading registers"))?;
    }
    forget_interruption(pid, t);
    let read = |at, buf: &mut [u8]| sys::mem::read(tid, Addr(at), buf).is_ok_and(|n| n == buf.len());
    t.call = frame::true_call(&t.regs, read);
    let noted = patience::noted(&t.regs).map(|end| end.less(stood));
    t.left = waits::left(&t.regs, t.call, (slept, noted), read);
    if let (Some(left), true) = (t.left, t.regs.rax as i64 == frame::ERESTARTNOHAND) {
        match waits::shortened(tid, &t.regs, t.call, left, read) {
            Some(again) if again.set(tid).is_ok() => t.regs = again.regs,
            _ => t.left = None,
        }
    }
    t.patience = Patience::held((pid, tid), (&t.regs, t.call), (slept, t.left), stood);
    t.left = t.left.or_else(|| t.patience.as_ref().map(|patience| patience.left(stood)));
    t.regs = patience::without_note(&t.regs);
    t.sigmask = ptrace::get_sigmask(tid).map_err(bad("reading the signal mask"))?;
    t.xstate = ptrace::get_xstate(tid).map_err(bad("reading the extended state"))?;
    t.rseq = ptrace::get_rseq(tid).map_err(bad("reading the rseq registration"))?;
    if let Some(rseq) = t.rseq {
        leave_critical_section(&mut t.regs, tid, &rseq);
    }
    Ok(())
}

/// A thread inside a restartable sequence is moved to its abort handler, as any preemption would do: once other
/// instructions have run in the thread, the kernel no longer knows that it has to (kernel/rseq.c, rseq_ip_fixup).
fn leave_critical_section(regs: &mut Regs, pid: i32, rseq: &Rseq) {
    let word = |addr: u64| {
        let mut bytes = [0u8; 8];
        (sys::mem::read(pid, Addr(addr), &mut bytes).ok()? == 8).then_some(u64::from_le_bytes(bytes))
    };
    // struct rseq: rseq_cs is at 8. struct rseq_cs: version and flags, start_ip, post_commit_offset, abort_ip.
    let Some(section) = word(rseq.area.0.wrapping_add(8)).filter(|&s| s != 0) else { return };
    let at = |i: u64| word(section.wrapping_add(8 * i));
    let (Some(start), Some(len), Some(abort)) = (at(1), at(2), at(3)) else { return };
    if regs.rip.wrapping_sub(start) < len {
        regs.rip = abort;
    }
}

/// recvmmsg that has had some of its messages leaves what has ended it as the socket's error, for the next call (net/socket.c,
/// `do_recvmmsg`): after a stop that is a number which no program knows.
fn forget_interruption(pid: i32, t: &HeldThread) {
    let r = &t.regs;
    if r.orig_rax as i64 == libc::SYS_recvmmsg && (1..i64::from(r.rdx as u32)).contains(&(r.rax as i64)) {
        let Some(socket) = patience::copy(pid, t.host, r.rdi as i32) else { return };
        if socket::events(socket.as_fd(), 0).is_ok_and(|events| events & libc::POLLERR != 0) {
            // To ask for it takes it.
            let _ = socket::number(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR);
        }
    }
}
