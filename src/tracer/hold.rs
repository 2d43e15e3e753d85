//! Seizing a whole tree, to a fix-point.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::model::Pid;
use crate::model::thread::Regs;
use crate::proc;
use crate::proc::{many, status::Status, warm};
use crate::sys::{self, ptrace, tasks::back_off, wait};

use super::describe::describe;
use super::gadgets::Finder;
use super::held::{Held, HeldThread};
use super::task::{Outcome, Running, Stopped};
use super::undertaker::Undertaker;
use super::waits::{self, Sleeper};
use super::{Error, frame, tree};

/// What to hold.
#[derive(Debug, Clone, Copy)]
pub struct HoldRequest<'a> {
    /// The root of the tree.
    pub root: i32,
    /// Who adopts its orphans, if it is a process of ours.
    pub reaper: Option<i32>,
    /// How long the tree may take to stand still.
    pub timeout: Duration,
    /// Set to give up.
    pub cancel: &'a AtomicBool,
}

/// Seizes every thread of a tree and waits until all stand still; again until nothing new appears.
///
/// On an error everything seized so far goes on as before.
pub fn hold(request: &HoldRequest<'_>) -> Result<Held, Error> {
    let deadline = Instant::now() + request.timeout;
    let mut clocks = waits::Clocks::default();
    let mut sleepers = HashMap::new();
    let mut found = tree::members(request.root, request.reaper, |_| false)?;
    // What can be known before is not asked while the program stands still.
    sys::sched::processors();
    sys::sched::usual_slice();
    sys::cpu::ask();
    let threads: usize = found.iter().map(|process| process.tids.len()).sum();
    let awake = (threads >= MANY).then(many::Awake::begin);
    let mut workers = HashMap::new();
    many::all(&found, 4, |process| warm::look_up(process.pid, &process.tids));
    for process in &found {
        for &tid in &process.tids {
            sleepers.extend(waits::look((process.pid, tid), &mut clocks).map(|sleeper| (tid, sleeper)));
            workers.insert(tid, is_io_worker(process.pid, tid));
        }
    }
    let many_threads = found.iter().any(|process| process.tids.len() > 1);
    let mut hunt = Hunt {
        awake,
        undertaker: many_threads.then(Undertaker::begin),
        request: *request,
        deadline,
        stopped: HashMap::new(),
        running: Vec::new(),
        seized: HashMap::new(),
        order: Vec::new(),
        known: HashSet::new(),
        sleepers,
        workers,
        finder: Finder::ahead(request.root),
        since: None,
        grown: false,
    };
    loop {
        hunt.grown = false;
        for process in found {
            hunt.seize_process(&process)?;
        }
        hunt.interrupt();
        hunt.wait_all()?;
        if !hunt.grown {
            break;
        }
        found = tree::members(request.root, request.reaper, |pid| hunt.known.contains(&pid))?;
    }
    tracing::debug!(after = ?hunt.since.map(|since| since.elapsed()), "held");
    hunt.finish()
}

/// From so many threads on others of ours help to look at them.
const MANY: usize = 16;

/// A hold in progress.
struct Hunt<'a> {
    /// Where there are many threads in all.
    awake: Option<many::Awake>,
    /// Where somebody has several threads.
    undertaker: Option<Undertaker>,
    request: HoldRequest<'a>,
    deadline: Instant,
    /// With their registers, of those that are to stay so.
    stopped: HashMap<i32, (Stopped, Option<Regs>)>,
    running: Vec<Quarry>,
    /// Every thread that was ever seized, and its process.
    seized: HashMap<i32, i32>,
    order: Vec<i32>,
    /// The same as a set.
    known: HashSet<i32>,
    /// Threads that slept in a call with a time-out when they were interrupted.
    sleepers: HashMap<i32, Sleeper>,
    /// Whether a thread is the kernel's own, of those that were looked at before the hold.
    workers: HashMap<i32, bool>,
    finder: Finder,
    since: Option<Instant>,
    /// Whether this round has seized or met anything new: others may have died meanwhile, so their number does not tell.
    grown: bool,
}

/// A task that has yet to stop.
struct Quarry {
    task: Running,
    /// It shares its parent's memory and keeps the parent from stopping: it runs on to its exec.
    to_exec: bool,
    /// It has been asked to stop.
    asked: bool,
}

impl Hunt<'_> {
    fn seize(&mut self, pid: i32, tid: i32) -> Result<Option<Running>, Error> {
        if tid != pid {
            self.undertaker.get_or_insert_with(Undertaker::begin);
        }
        seize(self.undertaker.as_ref(), pid, tid)
    }

    /// A thread that has come since its process was looked at is found by the next look.
    fn seize_process(&mut self, process: &tree::Found) -> Result<(), Error> {
        let pid = process.pid;
        if self.known.insert(pid) {
            self.order.push(pid);
            // Also if it has died meanwhile: what it left may have got another parent after that one was looked at.
            self.grown = true;
        }
        for &tid in &process.tids {
            if self.seized.contains_key(&tid) || self.workers.remove(&tid).unwrap_or_else(|| is_io_worker(pid, tid)) {
                continue;
            }
            if let Some(task) = self.seize(pid, tid)? {
                self.seized.insert(tid, pid);
                self.grown = true;
                self.running.push(Quarry { task, to_exec: false, asked: false });
            }
        }
        // A thread that we did not find any more may have called exec, and be the first now.
        self.look_again(pid)?;
        if !process.tids.iter().any(|tid| self.seized.contains_key(tid)) && lives(pid) {
            self.grown |= Instant::now() < self.deadline;
        }
        Ok(())
    }

    /// Asks all that have been seized to stop.
    fn interrupt(&mut self) {
        for Quarry { task, asked, .. } in &mut self.running {
            let tid = task.tid();
            if std::mem::replace(asked, true) {
                continue;
            }
            self.since.get_or_insert_with(Instant::now);
            if let Some(sleeper) = self.sleepers.remove(&tid) {
                match sleeper.still(tid) {
                    Some(sleeper) => drop(self.sleepers.insert(tid, sleeper)),
                    None => tracing::debug!(tid, "woke up before it was held"),
                }
            }
            // A failure means that it has just died, which waiting will tell.
            let _ = task.interrupt();
        }
    }

    fn wait_all(&mut self) -> Result<(), Error> {
        let mut round = 0;
        while !self.running.is_empty() {
            if self.request.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let mut progress = false;
            for Quarry { task, to_exec, .. } in std::mem::take(&mut self.running) {
                let tid = task.tid();
                match task.poll()? {
                    Outcome::Running(task) => self.running.push(Quarry { task, to_exec, asked: true }),
                    Outcome::Dead => {
                        progress = true;
                        self.buried(tid)?;
                    }
                    Outcome::Stopped(task) => {
                        progress = true;
                        self.stopped_one(task, to_exec)?;
                    }
                }
            }
            if progress {
                round = 0;
                continue;
            }
            back_off(round);
            round += 1;
            // 50 yields have passed without a stop: perhaps somebody waits in vfork, or a main thread has just ended,
            // of which the kernel tells nobody before its other threads have (kernel/exit.c, delay_group_leader).
            if round % 60 == 59 {
                // Others that have died are still to be waited for: of them an exec would wait, for ever.
                let seized = &self.seized;
                let first = |tid| seized.get(&tid).is_none_or(|&pid| pid == tid);
                self.running.retain(|q| !(first(q.task.tid()) && is_dead_leader(q.task.tid())));
                self.forget_replaced();
                self.bury_the_dead()?;
                self.free_vfork_children()?;
            }
            if Instant::now() > self.deadline {
                return Err(self.will_not_stop());
            }
        }
        Ok(())
    }

    /// A seized task died. The real parent must get to know it; our own child's status is not ours to take.
    fn buried(&mut self, tid: i32) -> Result<(), Error> {
        // Or its process lives on as another thread, which had called exec: see `seize`.
        self.grown = true;
        if tid == self.request.root && is_own_child(tid) && has_ended(tid) {
            return Err(Error::vanished("waiting for its stop", tid));
        }
        // Of a thread that is not the first nobody else hears.
        if !is_own_child(tid) || self.seized.get(&tid).is_some_and(|&pid| pid != tid) {
            let _ = wait::reap(tid);
        }
        self.seized.remove(&tid);
        Ok(())
    }

    /// Main threads that we held until another, which we did not hold, took their ids: of our own child waiting tells nothing.
    fn forget_replaced(&mut self) {
        let replaced = |q: &Quarry| proc::status(q.task.tid()).is_ok_and(|s| s.tracer != my_tid());
        let tids: Vec<i32> = self.running.iter().filter(|q| replaced(q)).map(|q| q.task.tid()).collect();
        self.running.retain(|q| !tids.contains(&q.task.tid()));
        self.seized.retain(|tid, _| !tids.contains(tid));
        self.grown |= !tids.is_empty();
    }

    /// Has a thread stop that took over another's id. It may have been asked to, and stopped, under its old one: asked once
    /// more, it would stop a second time when it is to go on.
    fn pursue(&mut self, task: Running) {
        let tid = task.tid();
        let asked = proc::task_stat(tid, tid).is_ok_and(|stat| stat.state == b't');
        self.running.push(Quarry { task, to_exec: false, asked });
    }

    /// A main thread that stands still may have been ended by the exec of another, which has its id now.
    fn look_again(&mut self, pid: i32) -> Result<(), Error> {
        let Some(task) = self.stopped.remove(&pid) else {
            // One that was dead while others lived is no longer waited for.
            let forgotten = self.seized.contains_key(&pid) && !self.running.iter().any(|q| q.task.tid() == pid);
            if forgotten && !is_zombie(pid) {
                self.seized.remove(&pid);
                self.grown = true;
            }
            return Ok(());
        };
        match Running::born(pid).poll()? {
            Outcome::Running(_) if ptrace::get_regs(pid).is_ok() => drop(self.stopped.insert(pid, task)),
            Outcome::Running(task) => {
                self.grown = true;
                self.pursue(task);
                self.forget_replaced();
            }
            Outcome::Stopped(task) => self.stopped_one(task, false)?,
            Outcome::Dead => self.buried(pid)?,
        }
        Ok(())
    }

    /// Threads that stood still and that somebody has killed. One that calls exec waits until those have been waited for.
    fn bury_the_dead(&mut self) -> Result<(), Error> {
        let tids: Vec<i32> = self.stopped.keys().copied().filter(|&tid| wait::is_dead(tid)).collect();
        for tid in tids {
            self.stopped.remove(&tid);
            self.buried(tid)?;
        }
        Ok(())
    }

    fn stopped_one(&mut self, task: Stopped, to_exec: bool) -> Result<(), Error> {
        let tid = task.tid();
        let running = if task.event() == wait::Event::EXEC {
            // The parent is free now. From here on it is a process like any other.
            let running = task.cont(0)?;
            running.interrupt()?;
            Quarry { task: running, to_exec: false, asked: true }
        } else if task.is_parked() && !to_exec {
            // Here and now: whatever becomes of this hold, the program must not see that it was stopped.
            let mut regs = ptrace::get_regs(tid).ok();
            if let Some(better) = regs.as_ref().and_then(frame::without_false_eintr) {
                ptrace::set_regs(tid, &better).map_err(|e| Error::from_io("setting registers", tid, e))?;
                regs = Some(better);
            }
            self.stopped.insert(tid, (task, regs));
            return Ok(());
        } else {
            // A signal on its way to the program is delivered as it would have been; the interrupt then stops the
            // thread at the first instruction of the handler, or where the signal kills or stops it.
            Quarry { task: task.on_to_interrupt()?, to_exec, asked: true }
        };
        self.running.push(running);
        Ok(())
    }

    /// A thread in vfork(2) waits, deaf to everything but death, until its child has called exec or has ended.
    fn free_vfork_children(&mut self) -> Result<(), Error> {
        let waiting: Vec<i32> = self.running.iter().map(|q| q.task.tid()).filter(|&tid| in_vfork(tid)).collect();
        for tid in waiting {
            let Some(&pid) = self.seized.get(&tid) else { continue };
            for child in proc::children(pid, tid).unwrap_or_default() {
                let shares = sys::tasks::kcmp(pid, child, sys::tasks::Kcmp::Vm, 0, 0);
                if !shares.is_ok_and(|o| o.is_eq()) {
                    continue;
                }
                let threads: Vec<i32> = self.seized.iter().filter(|&(_, &p)| p == child).map(|(&t, _)| t).collect();
                for thread in threads {
                    if let Some((task, _)) = self.stopped.remove(&thread) {
                        ptrace::set_options(thread, ptrace::OPT_SYSGOOD | ptrace::OPT_EXEC)
                            .map_err(|e| Error::from_io("setting options", thread, e))?;
                        self.running.push(Quarry { task: task.cont(0)?, to_exec: true, asked: true });
                    }
                }
            }
        }
        Ok(())
    }

    fn will_not_stop(&self) -> Error {
        let pid = self.running.first().map_or(0, |q| q.task.tid());
        let text = |file: &str| {
            let bytes = proc::read(&format!("{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        let wchan = match text("wchan") {
            w if w.is_empty() || w == "0" => "?".to_owned(),
            w => w,
        };
        Error::WillNotStop { pid, comm: text("comm"), wchan }
    }

    fn finish(mut self) -> Result<Held, Error> {
        let finder = Arc::new(Mutex::new(std::mem::take(&mut self.finder)));
        let stood = sys::tasks::clock(libc::CLOCK_MONOTONIC).map_err(|e| Error::from_io("reading a clock", 0, e))?;
        let tids: Vec<(i32, i32)> =
            self.stopped.keys().map(|&tid| (self.seized.get(&tid).copied().unwrap_or(tid), tid)).collect();
        let read = |&(pid, tid): &(i32, i32)| Ok::<_, Error>((tid, proc::task_status(pid, tid)));
        let mut statuses: HashMap<i32, Result<Status, proc::Error>> =
            many::each(&tids, 16, read)?.into_iter().collect();
        let mut threads: HashMap<i32, Vec<HeldThread>> = HashMap::new();
        for (tid, (task, regs)) in self.stopped.drain() {
            let pid = self.seized.get(&tid).copied().unwrap_or(tid);
            threads.entry(pid).or_default().push(HeldThread {
                host: tid,
                tid: Pid(tid),
                regs: regs.unwrap_or_default(),
                status: Status::default(),
                sigmask: 0,
                xstate: Vec::new(),
                rseq: None,
                call: -1,
                left: None,
                patience: None,
                task: Some(task),
                borrowed: false,
            });
        }
        let since = self.since.unwrap_or_else(Instant::now);
        let mut held = Held { processes: Vec::new(), since, stood, awake: self.awake.take() };
        let mut failure = None;
        let mut nspids = HashMap::new();
        for pid in std::mem::take(&mut self.order) {
            let mut threads = threads.remove(&pid).unwrap_or_default();
            threads.sort_by_key(|t| (t.host != pid, t.host));
            match describe(pid, threads, &mut statuses, (&self.sleepers, stood), &finder, &mut nspids) {
                Ok(Some(process)) => held.processes.push(process),
                Ok(None) => {}
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None if held.processes.iter().any(|p| p.host == self.request.root && !p.threads.is_empty()) => Ok(held),
            None => Err(Error::vanished("looking at what was held", self.request.root)),
        }
    }
}

impl Drop for Hunt<'_> {
    fn drop(&mut self) {
        for (_, (task, _)) in self.stopped.drain() {
            let _ = task.detach();
        }
        // These must stop before they can be let go; one that does not within a moment goes when we exit.
        let deadline = Instant::now() + Duration::from_millis(200);
        for Quarry { task, .. } in self.running.drain(..) {
            let _ = task.interrupt();
            let mut next = Some(task);
            while let Some(task) = next.take() {
                match task.wait_until(deadline) {
                    Ok(Outcome::Stopped(task)) if task.is_parked() => drop(task.detach()),
                    Ok(Outcome::Stopped(task)) => next = task.on_to_interrupt().ok(),
                    _ => {}
                }
            }
        }
    }
}

/// Seizes a thread; `None` if it is dead or has gone.
///
/// A thread that calls exec ends all others and takes over the id of the first (fs/exec.c, `de_thread`). Until then the
/// first, dead already, can't be seized, and from then on the id is that of a thread which can; or which we hold already.
fn seize(undertaker: Option<&Undertaker>, pid: i32, tid: i32) -> Result<Option<Running>, Error> {
    /// How often in a row a process may call exec just between our two looks.
    const TRIES: u32 = 100;
    let mut tries = 0;
    loop {
        let attempt = || Running::seize(tid, ptrace::OPT_SYSGOOD);
        let error = match undertaker.map_or_else(attempt, |undertaker| undertaker.watched((pid, tid), attempt)) {
            Ok(task) => return Ok(Some(task)),
            Err(error) => error,
        };
        let Ok(status) = proc::task_status(pid, tid) else { return Ok(None) };
        if matches!(status.state, b'Z' | b'X') {
            return Ok(None);
        }
        match error.raw_os_error() {
            Some(libc::ESRCH) => return Ok(None),
            Some(libc::EPERM) if status.tracer == my_tid() => return Ok(Some(Running::born(tid))),
            Some(libc::EPERM | libc::EACCES) if status.tracer != 0 => {
                let tracer = proc::status(status.tracer).map_or(status.tracer, |thread| thread.tgid);
                return Err(Error::Traced { pid, tracer });
            }
            Some(libc::EPERM) if tries < TRIES => tries += 1,
            Some(libc::EPERM | libc::EACCES) => return Err(Error::NotPermitted { pid }),
            _ => return Err(Error::from_io("seizing", pid, error)),
        }
    }
}

fn my_tid() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// Whether some thread of a process lives.
fn lives(pid: i32) -> bool {
    proc::stat(pid).is_ok_and(|s| !matches!(s.state, b'Z' | b'X') || s.threads > 1)
}

fn is_zombie(pid: i32) -> bool {
    proc::stat(pid).is_ok_and(|s| s.state == b'Z')
}

/// Whether a whole process has. Looked at once: a main thread that has ended may have been taken over a moment later.
fn has_ended(pid: i32) -> bool {
    proc::stat(pid).is_ok_and(|s| s.state == b'Z' && s.threads <= 1)
}

pub(super) fn is_own_child(pid: i32) -> bool {
    proc::stat(pid).is_ok_and(|s| s.ppid == std::process::id() as i32)
}

/// Whether a main thread has ended while others of its process live.
fn is_dead_leader(tid: i32) -> bool {
    proc::stat(tid).is_ok_and(|s| s.state == b'Z' && s.threads > 1)
}

/// Whether a thread is the kernel's own, made for io_uring (PF_IO_WORKER in include/linux/sched.h): it runs none of the
/// program's code, and the kernel makes another when it needs one.
fn is_io_worker(pid: i32, tid: i32) -> bool {
    tid != pid && proc::task_stat(pid, tid).is_ok_and(|s| s.flags & 0x10 != 0)
}

/// Whether a thread that will not stop is inside vfork, clone or clone3.
fn in_vfork(tid: i32) -> bool {
    let text = proc::read(&format!("{tid}/syscall")).unwrap_or_default();
    let nr = text.split(|&b| b == b' ').next().unwrap_or_default();
    // "running" while the kernel considers it so: the state tells then.
    matches!(nr, b"58" | b"56" | b"435")
}
