//! What belongs to one process as a whole.

use std::os::unix::fs::MetadataExt;

use nix::sys::statfs::statfs;

use crate::model::manifest::Clocks;
use crate::model::memory::Memory;
use crate::model::nameless;
use crate::model::process::{Exe, Limit, Process};
use crate::model::thread::{Directories, Thread};
use crate::model::{Addr, Name};
use crate::proc::{self, timers::Timer};
use crate::sys::tasks::pidfd_open_thread;
use crate::tracer::{self, Answers, Call, Calls, HeldProcess, Room};

use super::Error;
use super::credentials;
use super::inside::Inside;
use super::mapped::Mapped;
use super::memory::lock_future;
use super::mempolicy;
use super::nameless::{NamelessObjects, is_deleted};
use super::pkeys;
use super::refusals::Refusals;
use super::seccomp;
use super::signals;
use super::switches;
use super::thread;
use super::timers;
use super::view::View;

const PR_GET_DUMPABLE: u64 = 3;

/// What was seen of a process without touching it.
#[derive(Debug)]
pub(super) struct Seen {
    pub seccomp: seccomp::Seen,
    pub exe: Exe,
    /// Of threads that have some of their own.
    pub own: Vec<Option<Directories>>,
    cwd: Name,
    root: Name,
    deleted: nameless::Directories,
    read: Read,
    /// In the order of the held ones.
    pub threads: Vec<thread::Read>,
}

/// What /proc says of a process, as far as nothing depends on others.
#[derive(Debug)]
pub(super) struct Read {
    limits: Vec<Limit>,
    cgroup: Name,
    personality: u32,
    oom_score_adj: i32,
    coredump_filter: u32,
    timers: Vec<Timer>,
}

/// Reads that.
pub(super) fn read(p: &HeldProcess) -> Result<Read, Error> {
    let host = p.live();
    let limits = proc::limits(host).map_err(Error::proc(host))?;
    Ok(Read {
        limits: limits.map(|(soft, hard)| Limit { soft, hard }).to_vec(),
        cgroup: Name(proc::read(&format!("{host}/cgroup")).unwrap_or_default()),
        personality: proc::hex_number(&format!("{host}/personality")).map_err(Error::proc(host))? as u32,
        oom_score_adj: proc::number(&format!("{host}/oom_score_adj")).map_err(Error::proc(host))? as i32,
        // Absent where core dumps are not built in.
        coredump_filter: proc::hex_number(&format!("{host}/coredump_filter")).unwrap_or(0x33) as u32,
        timers: proc::timers(host).map_err(Error::proc(host))?,
    })
}

/// Reads what can be read from outside, and refuses what can't be saved.
pub(super) fn look(
    p: &HeldProcess,
    (read, threads): (Read, Vec<thread::Read>),
    inside: &Inside,
    view: &View,
    mapped: &mut Mapped,
    gone: &mut NamelessObjects,
    refusals: &mut Refusals,
) -> Result<Seen, Error> {
    let host = p.live();
    thread::look(p, &threads, refusals);
    for t in &p.threads {
        credentials::look(p.pid, t.tid, &t.status, refusals);
    }
    let seccomp = seccomp::look(p, refusals)?;
    switches::look(p, refusals)?;
    let mut refuse = |reason: &str, hint: &str| refusals.add(p.pid, "process", reason, hint);
    if !threads_descriptors(p, inside) {
        let reason =
            "its main thread has ended, or a thread has descriptors of its own: these can't be had before Linux 6.9";
        refuse(reason, "save it under a newer kernel");
    }
    if p.threads.first().is_some_and(|t| t.status.shadow_stack) {
        refuse("it uses a shadow stack: not supported", "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off");
    }
    if p.threads.iter().any(|t| t.regs.cs == 0x23) {
        refuse("it runs 32-bit code: not supported", "run a 64-bit build of the program");
    }
    let mut deleted = nameless::Directories::default();
    let cwd = directory(p, host, "cwd", "working directory", view, Some((gone, &mut deleted.cwd)), refusals)?;
    let root = directory(p, host, "root", "root directory", view, Some((gone, &mut deleted.root)), refusals)?;
    let mut own = Vec::new();
    for t in &p.threads {
        own.push(match inside.directories.contains(&t.host) {
            false => None,
            true => Some(Directories {
                cwd: directory(p, t.host, "cwd", "a thread's working directory", view, None, refusals)?,
                root: directory(p, t.host, "root", "a thread's root directory", view, None, refusals)?,
                umask: t.status.umask,
            }),
        });
    }
    let link = proc::link(&format!("{host}/exe")).map_err(Error::proc(host))?;
    let meta = std::fs::metadata(format!("/proc/{host}/exe")).map_err(Error::of(host, "looking at the executable"))?;
    let file = mapped.add(view, &link, meta.dev(), meta.ino(), true);
    let exe = Exe { path: mapped.path(file), file };
    Ok(Seen { seccomp, exe, own, cwd, root, deleted, read, threads })
}

/// The name of a directory; `gone`: where it is listed if it is deleted, and its index there.
fn directory(
    p: &HeldProcess,
    host: i32,
    link: &str,
    what: &'static str,
    view: &View,
    gone: Option<(&mut NamelessObjects, &mut Option<u32>)>,
    refusals: &mut Refusals,
) -> Result<Name, Error> {
    let path = format!("{host}/{link}");
    let name = proc::link(&path).map_err(Error::proc(p.host))?;
    let meta = std::fs::metadata(format!("/proc/{path}")).map_err(Error::of(p.host, "looking at the directories"))?;
    let same = view.stat(&name).is_some_and(|there| (there.dev(), there.ino()) == (meta.dev(), meta.ino()));
    if same {
        return Ok(Name(name));
    }
    let file_system = statfs(format!("/proc/{path}").as_str());
    let file_system = file_system.map_err(|e| Error::of(p.host, "asking for a file system")(e.into()))?;
    if let Some((gone, index)) = gone.filter(|_| is_deleted(&meta, &name, file_system.filesystem_type().0 as i64)) {
        *index = Some(gone.add(&meta, &name, None));
        return Ok(Name(name.strip_suffix(b" (deleted)").unwrap_or(&name).to_vec()));
    } else {
        let object = format!("{what} {}", String::from_utf8_lossy(&name));
        refusals.add(
            p.pid,
            object,
            "it is deleted or out of sight: not supported",
            "let the program change to another",
        );
    }
    Ok(Name(name))
}

/// Whether all descriptors can be had, those of threads, too.
pub(super) fn threads_descriptors(p: &HeldProcess, inside: &Inside) -> bool {
    let of_threads = p.ended_leader.is_some() || p.threads.iter().any(|t| inside.tables.contains(&t.host));
    !of_threads || !pidfd_open_thread(p.live()).is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL))
}

/// What is asked of a process.
#[derive(Debug)]
pub(super) struct Asked {
    dumpable: Call,
    brk: Call,
    switches: switches::AskedOfProcess,
    policies: Vec<mempolicy::Asked>,
    actions: Vec<(i32, Room)>,
    timers: timers::Asked,
    keys: pkeys::Asked,
}

/// Asks the first thread of a process for what only that can tell. `nodes`: as in [`super::thread::ask`].
pub(super) fn ask(p: &HeldProcess, seen: &mut Seen, memory: &Memory, nodes: Option<u64>, calls: &mut Calls) -> Asked {
    let status = p.threads.first().map(|t| &t.status);
    let listed = std::mem::take(&mut seen.read.timers);
    Asked {
        dumpable: calls.call("prctl", libc::SYS_prctl, &[PR_GET_DUMPABLE]),
        brk: calls.call("brk", libc::SYS_brk, &[]),
        switches: switches::ask_process(calls),
        policies: nodes.map_or_else(Vec::new, |len| mempolicy::ask_memory(calls, len, memory)),
        actions: signals::ask(calls, status.map_or(0, |s| s.sig_caught | s.sig_ignored)),
        timers: timers::ask(calls, listed),
        keys: pkeys::ask(calls),
    }
}

/// Completes a process with what its first thread was asked. `memory` lacks its brk.
pub(super) fn capture(
    p: &mut HeldProcess,
    seen: Seen,
    mut memory: Memory,
    mut threads: Vec<Thread>,
    (asked, answers): (&Asked, &Answers),
    (clocks, inside): (&Clocks, &super::Inside),
) -> Result<Process, Error> {
    let host = p.live();
    let Seen { seccomp, exe, cwd, root, deleted, read, .. } = seen;
    // Timers before pending signals, the threads' too: one that goes off in between is then seen twice, not missed, and a
    // standard signal that is sent twice is still one.
    let mut timers = timers::posix(&asked.timers, answers, clocks, inside);
    timers::owners(p, &mut timers)?;
    let now = proc::status(host).map_err(Error::proc(host))?;
    let pending = signals::pending(host, true, &now)?;
    for (thread, held) in threads.iter_mut().zip(&p.threads) {
        thread.pending = match held.host == host {
            true => signals::pending(host, false, &now)?,
            false => signals::pending(held.host, false, &held.status)?,
        };
        thread.pending.retain(|pending| !signals::comes_again(pending, &held.regs, held.sigmask));
    }
    memory.fields.brk = Addr(answers.value(asked.brk));
    memory.keys = pkeys::allocated(&asked.keys, answers);
    memory.policies = mempolicy::placements(&asked.policies, &memory, answers);
    let (umask, locked) = p.threads.first().map_or((0, 0), |t| (t.status.umask, t.status.locked));
    memory.lock_future = match p.scratch() {
        Some(scratch) => lock_future(host, locked, now.locked, scratch)?,
        None if locked == 0 => None,
        None => {
            let what = "its limits leave no room to see whether it locks all of its memory";
            return Err(tracer::Error::Unsupported { pid: host, what }.into());
        }
    };
    Ok(Process {
        pid: p.pid,
        exe,
        cwd,
        root,
        deleted,
        umask,
        limits: read.limits,
        dumpable: answers.value(asked.dumpable) as u32,
        switches: switches::of_process(&asked.switches, answers),
        cgroup: read.cgroup,
        personality: read.personality,
        oom_score_adj: read.oom_score_adj,
        coredump_filter: read.coredump_filter,
        memory,
        actions: signals::actions(&asked.actions, answers),
        itimers: timers::itimers(&asked.timers, answers, clocks),
        timers,
        pending,
        fds: Vec::new(),
        locks: Vec::new(),
        filters: seccomp.filters,
        undo: Vec::new(),
        ended_leader: p.ended_leader,
        threads,
    })
}
