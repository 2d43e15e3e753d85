//! Whether what a checkpoint says can be: everything it refers to exists, and everything is where it may be.
//!
//! Writer and reader share this, so that nothing is written that would not be read, and code that resumes can rely on
//! it whoever made the image.

use std::collections::{HashMap, HashSet};

use super::pages::Run;
use super::{ADDRESS_END, PAGE, fanotify, inotify, names, sockets};
use crate::model::aio;
use crate::model::fd::{Descriptor, Kind, Owner};
use crate::model::files::{Content, Saved};
use crate::model::locks::Lock;
use crate::model::manifest::WIDE_RINGS;
use crate::model::manifest::{DELETED_DIRECTORIES, HUGE_PAGES, INHERITED_PAGES, PROTECTION_KEYS, SPARSE_FILES};
use crate::model::memory::{Backing, Inherits, KEYS, Memory, SharedObjects, Span, Vma};
use crate::model::mempolicy::Policy;
use crate::model::mqnotify::{COOKIE, How, Notification};
use crate::model::mqueue::{Message, Queue};
use crate::model::opath::{Object, Place};
use crate::model::pidfd::Pidfd;
use crate::model::pipes::PipeEnd;
use crate::model::process::Process;
use crate::model::procfs::{self, Of};
use crate::model::pty::Pty;
use crate::model::seccomp::Seccomp;
use crate::model::signals::Pending;
use crate::model::stdio::Stdio;
use crate::model::thread::Thread;
use crate::model::tree::{Shares, State};
use crate::model::uring::{self, DEFER_TASKRUN, DISABLED, KNOWN, OFFSETS, SINGLE_ISSUER, SQPOLL, Uring};
use crate::model::{Addr, Checkpoint, Pid};

type Check = Result<(), String>;

/// Bytes of a System V message.
const LONGEST_MESSAGE: usize = 128 << 10;

/// Checks a checkpoint against the runs of its parts by name and the sizes of its contents by id.
pub(super) fn check(c: &Checkpoint, parts: &HashMap<&str, &[Run]>, blobs: &HashMap<u32, u64>) -> Check {
    if c.manifest.page_size != PAGE {
        return Err(format!("pages of {} bytes", c.manifest.page_size));
    }
    tree(c)?;
    let all: HashMap<Pid, Shares> = c.tree.members.iter().map(|m| (m.pid, m.shares)).collect();
    let (mut tids, mut before) = (HashSet::new(), HashSet::new());
    for process in &c.processes {
        let pid = process.pid;
        threads(process, &mut tids).map_err(|e| format!("pid {pid}: {e}"))?;
        shares(process, &all, &before).map_err(|e| format!("pid {pid}: {e}"))?;
        before.insert(pid);
        for (fds, taken) in process.tables() {
            descriptors(fds, c.files.len()).map_err(|e| format!("pid {pid}: {e}"))?;
            locks(fds, taken).map_err(|e| format!("pid {pid}: {e}"))?;
        }
        undo(process, &c.shared).map_err(|e| format!("pid {pid}: {e}"))?;
        signals(process).map_err(|e| format!("pid {pid}: {e}"))?;
        if process.exe.file as usize >= c.shared.mapped.len() {
            return Err(format!("pid {pid}: its executable is mapped file {}, which is not there", process.exe.file));
        }
        mappings(&process.memory, &c.shared).map_err(|e| format!("pid {pid}: {e}"))?;
        let part = parts.get(names::process_part(pid).as_str());
        let part = part.ok_or_else(|| format!("pid {pid}: its memory is missing"))?;
        private_runs(part, &process.memory.vmas).map_err(|e| format!("pid {pid}: {e}"))?;
    }
    for (index, object) in c.shared.anon.iter().enumerate() {
        if object.size == 0 || object.size % PAGE != 0 || object.size > ADDRESS_END {
            return Err(format!("shared memory {index} of {} bytes", object.size));
        }
        // Without a part it is all zeros.
        if let Some(part) = parts.get(names::shared_part(index).as_str()) {
            runs(part, object.size).map_err(|e| format!("shared memory {index}: {e}"))?;
        }
    }
    inherited(c, parts)?;
    let keys = c.processes.iter().any(|p| !p.memory.keys.is_empty());
    if keys && !c.manifest.requires.iter().any(|name| name == PROTECTION_KEYS) {
        return Err(format!("there are protection keys, and {PROTECTION_KEYS} is not required"));
    }
    if has_huge_pages(c) && !c.manifest.requires.iter().any(|name| name == HUGE_PAGES) {
        return Err(format!("there are huge pages, and {HUGE_PAGES} is not required"));
    }
    ipc(&c.shared)?;
    c.shared.mqueues.iter().try_for_each(mqueue)?;
    c.shared.mqueues.iter().zip(0..).try_for_each(|(queue, index)| notification(c, queue, index))?;
    c.shared.ptys.iter().try_for_each(pty)?;
    files(c, blobs)
}

/// Processes and their kinship.
fn tree(c: &Checkpoint) -> Check {
    let tree = &c.tree;
    let all: HashSet<Pid> = tree.members.iter().map(|m| m.pid).collect();
    let alive: HashSet<Pid> =
        tree.members.iter().filter(|m| !matches!(m.state, State::Zombie { .. })).map(|m| m.pid).collect();
    let described: HashSet<Pid> = c.processes.iter().map(|p| p.pid).collect();
    if all.len() != tree.members.len() || described.len() != c.processes.len() {
        return Err("two processes have the same pid".to_owned());
    }
    if let Some(pid) = all.iter().chain(&tree.outside).find(|pid| pid.0 <= 0) {
        return Err(format!("a process with pid {pid}"));
    }
    if tree.root != c.manifest.root || !all.contains(&tree.root) {
        return Err(format!("the root {} is not in the tree", tree.root));
    }
    if let Some(pid) = alive.symmetric_difference(&described).next() {
        return Err(format!("pid {pid} is either alive and not described or described and not alive"));
    }
    let mut seen = HashSet::new();
    for member in &tree.members {
        if all.contains(&member.ppid) && !seen.contains(&member.ppid) {
            return Err(format!("pid {} comes before its parent {}", member.pid, member.ppid));
        }
        seen.insert(member.pid);
        if let State::Stopped { signal, .. } = member.state {
            signal_number(signal).map_err(|e| format!("pid {}: {e}", member.pid))?;
        }
        if let State::Zombie { status } = member.state {
            wait_status(status).map_err(|e| format!("pid {}: {e}", member.pid))?;
        }
    }
    Ok(())
}

fn threads(process: &Process, tids: &mut HashSet<Pid>) -> Check {
    let first = process.threads.first().map(|t| t.tid).ok_or("it has no threads")?;
    match process.ended_leader {
        None if first != process.pid => return Err("its first thread is not its leader".to_owned()),
        // By a signal all of it would have ended.
        Some(status) if status & !0xff00 != 0 => return Err(format!("its leader ended with {status:#x}")),
        Some(_) if !tids.insert(process.pid) => return Err(format!("thread {} is there twice", process.pid)),
        _ => {}
    }
    // The kernel's BPF_MAXINSNS, of eight bytes each.
    let fits = |len: usize| len > 0 && len % 8 == 0 && len <= 4096 * 8;
    if let Some(filter) = process.filters.iter().find(|f| !fits(f.program.0.len())) {
        return Err(format!("a seccomp filter of {} bytes", filter.program.0.len()));
    }
    for thread in &process.threads {
        if thread.tid.0 <= 0 || !tids.insert(thread.tid) {
            return Err(format!("thread {} is there twice or cannot be", thread.tid));
        }
        thread.pending.iter().try_for_each(pending)?;
        seccomp(thread, process.filters.len())?;
        thread.mempolicy.iter().try_for_each(policy)?;
        // The first that lives stands for the process.
        if thread.tid == first && thread.table.is_some() {
            return Err("its first thread has descriptors of its own".to_owned());
        }
    }
    for owner in process.timers.iter().filter_map(|t| t.owner) {
        if !process.threads.iter().any(|t| t.tid == owner) {
            return Err(format!("a timer of thread {owner}, which is not there"));
        }
    }
    Ok(())
}

/// What is another's is that one's own, who came `before`; and is not here, too.
fn shares(process: &Process, all: &HashMap<Pid, Shares>, before: &HashSet<Pid>) -> Check {
    let of = |pid: Pid| all.get(&pid).copied().unwrap_or_default();
    let own = of(process.pid);
    for (kind, owner) in own.each().into_iter().enumerate() {
        let Some(owner) = owner else { continue };
        if !before.contains(&owner) || of(owner).each().get(kind).copied().flatten().is_some() {
            return Err(format!("it shares with pid {owner} what that one has not"));
        }
    }
    if own.actions.is_some_and(|a| own.memory != Some(of(a).memory.unwrap_or(a))) {
        return Err("it shares signal actions and not the memory".to_owned());
    }
    let twice = own.memory.is_some() && !process.memory.vmas.is_empty()
        || own.descriptors.is_some() && !(process.fds.is_empty() && process.locks.is_empty());
    if twice { Err("what it shares is there twice".to_owned()) } else { Ok(()) }
}

fn seccomp(thread: &Thread, filters: usize) -> Check {
    match &thread.seccomp {
        Some(Seccomp::Filters(chain)) if chain.is_empty() || chain.iter().any(|&f| f as usize >= filters) => {
            Err(format!("thread {} is under seccomp filters that are not there", thread.tid))
        }
        _ => Ok(()),
    }
}

fn descriptors(fds: &[Descriptor], files: usize) -> Check {
    let mut last = -1;
    for fd in fds {
        if fd.fd <= last {
            return Err(format!("fd {} is out of order", fd.fd));
        }
        last = fd.fd;
        if fd.file as usize >= files {
            return Err(format!("fd {} is open file {}, which is not there", fd.fd, fd.file));
        }
    }
    Ok(())
}

fn locks(fds: &[Descriptor], locks: &[Lock]) -> Check {
    for lock in locks {
        if fds.binary_search_by_key(&lock.fd, |d| d.fd).is_err() {
            return Err(format!("a lock through fd {}, which is not there", lock.fd));
        }
        // The kernel counts in signed 64 bits, and the length must be one too.
        let last = lock.end.unwrap_or(lock.start);
        if last < lock.start || i64::try_from(last).is_err() || last - lock.start == i64::MAX as u64 {
            return Err(format!("a lock of bytes {} to {last}", lock.start));
        }
    }
    Ok(())
}

fn undo(process: &Process, shared: &SharedObjects) -> Check {
    for undo in &process.undo {
        let set = shared.ipc.sem.iter().find(|s| s.perm.id == undo.set);
        if undo.adjust == 0 || set.is_none_or(|s| s.semaphores.len() <= usize::from(undo.semaphore)) {
            return Err(format!("an undo value of semaphore {} in set {}", undo.semaphore, undo.set));
        }
    }
    Ok(())
}

fn signals(process: &Process) -> Check {
    process.actions.iter().try_for_each(|action| signal_number(action.signal))?;
    process.pending.iter().try_for_each(pending)
}

fn pending(pending: &Pending) -> Check {
    signal_number(pending.signal)?;
    match pending.info.0.len() {
        128 => Ok(()),
        other => Err(format!("a pending signal with {other} bytes of information")),
    }
}

fn signal_number(signal: i32) -> Check {
    if (1..=64).contains(&signal) { Ok(()) } else { Err(format!("a signal {signal}")) }
}

/// A wait(2) status of a process that has ended.
fn wait_status(status: i32) -> Check {
    if status & 0x7f == 0 { Ok(()) } else { signal_number(status & 0x7f) }
}

fn mappings(memory: &Memory, shared: &SharedObjects) -> Check {
    let mut last = 0;
    for vma in &memory.vmas {
        let (start, end) = (vma.start.0, vma.end.0);
        let wrong = |why: &str| Err(format!("mapping {start:#x}-{end:#x} {why}"));
        if start % PAGE != 0 || end % PAGE != 0 || start >= end || end > ADDRESS_END {
            return wrong("cannot be");
        }
        if start < last {
            return wrong("is out of order or overlaps another");
        }
        last = end;
        if vma.huge.is_some_and(|page| !is_huge(page) || start % page != 0 || end % page != 0) {
            return wrong("has pages that cannot be");
        }
        match vma.backing {
            Backing::Anon | Backing::Aio | Backing::Ring { .. } => {}
            Backing::File { file, offset, .. } => {
                if file as usize >= shared.mapped.len() {
                    return wrong(&format!("is of mapped file {file}, which is not there"));
                }
                if offset % PAGE != 0 || offset.checked_add(end - start).is_none_or(|e| i64::try_from(e).is_err()) {
                    return wrong(&format!("starts at byte {offset} of a file"));
                }
            }
            Backing::SharedAnon { object: index, offset, read_only } => {
                let Some(object) = shared.anon.get(index as usize) else {
                    return wrong(&format!("is of shared memory {index}, which is not there"));
                };
                if offset % PAGE != 0 || offset.checked_add(end - start).is_none_or(|e| e > object.size) {
                    return wrong("reaches beyond its shared memory");
                }
                if read_only && !shared.ipc.shm.iter().any(|s| s.object == index) {
                    return wrong("is read-only, but of no segment");
                }
            }
        }
    }
    if !memory.keys.iter().all(|key| KEYS.contains(key)) || !memory.keys.is_sorted_by(|a, b| a < b) {
        return Err(format!("protection keys {:?}, which cannot be", memory.keys));
    }
    within(memory.guards.iter().copied(), &memory.vmas, "guard pages")?;
    within(memory.policies.iter().map(|p| p.span), &memory.vmas, "memory policies")?;
    memory.policies.iter().try_for_each(|p| policy(&p.policy))?;
    contexts(memory)?;
    let Some(vdso) = &memory.vdso else { return Ok(()) };
    let (vvar, start, end) = (vdso.vvar_start.0, vdso.start.0, vdso.end.0);
    let aligned = [vvar, start, end].iter().all(|a| a % PAGE == 0);
    if !aligned || vvar > start || start >= end || end > ADDRESS_END || end - start != vdso.code.0.len() as u64 {
        return Err(format!("a vdso at {start:#x}-{end:#x} with vvar at {vvar:#x} and {} bytes", vdso.code.0.len()));
    }
    match memory.vmas.iter().find(|vma| vma.start.0 < end && vvar < vma.end.0) {
        Some(vma) => Err(format!("mapping {:#x}-{:#x} overlaps the vdso", vma.start.0, vma.end.0)),
        None => Ok(()),
    }
}

/// Whether a mapping or a memory file has huge pages.
fn has_huge_pages(c: &Checkpoint) -> bool {
    let mut vmas = c.processes.iter().flat_map(|p| &p.memory.vmas);
    vmas.any(|v| v.huge.is_some()) || c.shared.memfds.iter().any(|m| m.huge.is_some())
}

/// Whether pages of so many bytes may be huge ones.
fn is_huge(page: u64) -> bool {
    page.is_power_of_two() && page > PAGE && page <= 1 << 40
}

/// Contexts of asynchronous I/O, one for each of their rings.
fn contexts(memory: &Memory) -> Check {
    let rings: HashMap<Addr, u64> =
        memory.vmas.iter().filter(|v| v.backing == Backing::Aio).map(|v| (v.start, v.len())).collect();
    for context in &memory.aio {
        let places = rings.get(&context.ring).map_or(0, |len| aio::places(*len));
        let (head, tail) = (context.head, context.tail);
        let fits = u64::from(context.places) == places && u64::from(head.max(tail)) < places;
        if !fits || context.events.0.len() != context.waiting() as usize * aio::UNIT {
            return Err(format!("an AIO context at {} with events from {head} to {tail}", context.ring));
        }
    }
    let all: HashSet<Addr> = memory.aio.iter().map(|c| c.ring).collect();
    let whole = all.len() == rings.len() && all.len() == memory.aio.len();
    if whole { Ok(()) } else { Err("AIO rings without a context, or with two".to_owned()) }
}

/// Ranges inside mappings, each inside one.
fn within(spans: impl Iterator<Item = Span>, vmas: &[Vma], what: &str) -> Check {
    let mut vmas = vmas.iter().peekable();
    let mut last = 0;
    for Span { start: Addr(start), end: Addr(end) } in spans {
        while vmas.next_if(|vma| vma.end.0 <= start).is_some() {}
        let inside = vmas.peek().is_some_and(|vma| vma.start.0 <= start && end <= vma.end.0);
        if !inside || start % PAGE != 0 || end % PAGE != 0 || start >= end || start < last {
            return Err(format!("{what} at {start:#x}-{end:#x} cannot be"));
        }
        last = end;
    }
    Ok(())
}

/// A set of nodes in whole words, not too large for the kernel.
fn policy(policy: &Policy) -> Check {
    match policy.nodes.0.len() {
        len if len % 8 == 0 && len <= PAGE as usize => Ok(()),
        len => Err(format!("a memory policy with {len} bytes of nodes")),
    }
}

/// Runs in ascending order, of whole pages, below `limit`.
fn runs(runs: &[Run], limit: u64) -> Check {
    let mut last = 0;
    for run in runs {
        let end = run.end().filter(|&end| end <= limit);
        match end {
            Some(end) if run.start % PAGE == 0 && run.len % PAGE == 0 && run.len > 0 && run.start >= last => last = end,
            _ => return Err(format!("{} bytes of pages at {:#x} cannot be", run.len, run.start)),
        }
    }
    Ok(())
}

/// Runs that lie inside private mappings, each inside one.
fn private_runs(part: &[Run], vmas: &[Vma]) -> Check {
    runs(part, ADDRESS_END)?;
    let mut vmas = vmas.iter().peekable();
    for run in part {
        while vmas.next_if(|vma| vma.end.0 <= run.start).is_some() {}
        let inside = vmas.peek().is_some_and(|vma| {
            let private = matches!(vma.backing, Backing::Anon | Backing::File { shared: false, .. });
            private && vma.start.0 <= run.start && run.end().is_some_and(|end| end <= vma.end.0)
        });
        if !inside {
            return Err(format!("{} bytes of pages at {:#x} are not of one private mapping", run.len, run.start));
        }
    }
    Ok(())
}

/// Pieces that make up the content, none of them empty.
fn pieces(pipe: &PipeEnd) -> Check {
    let size = pipe.content.map_or(0, |content| content.size);
    let sum = pipe.pieces.iter().try_fold(0u64, |sum, piece| (piece.len > 0).then(|| sum + u64::from(piece.len)));
    match sum {
        Some(0) => Ok(()),
        Some(sum) if sum == size => Ok(()),
        _ => Err(format!("a pipe with {size} bytes, cut into others")),
    }
}

/// Whom signals of a description go to is there.
fn owner(owner: Option<Owner>, c: &Checkpoint, there: impl Fn(Pid) -> bool) -> Check {
    let Some(Owner { kind, pid, signal }) = owner else { return Ok(()) };
    let known = match kind {
        _ if pid.0 == 0 => true,
        0 | 1 => there(pid),
        _ => c.tree.members.iter().any(|m| m.pgid == pid),
    };
    if known && (0..=2).contains(&kind) && (0..=64).contains(&signal) {
        return Ok(());
    }
    Err(format!("its signal {signal} goes to {pid}"))
}

/// A path in /proc that is written as the kernel writes it, and of somebody who is there.
fn of_proc(file: &procfs::File, there: impl Fn(Pid) -> bool) -> Check {
    let path = file.path.0.as_slice();
    let parts = path.strip_prefix(b"/proc").map(|rest| rest.strip_prefix(b"/").unwrap_or(rest));
    let plain =
        parts.filter(|p| path == b"/proc" || path.starts_with(b"/proc/") && !p.is_empty()).is_some_and(|parts| {
            path.len() < 4096
                && !path.contains(&0)
                && (parts.is_empty() || parts.split(|&b| b == b'/').all(|p| !matches!(p, b"" | b"." | b"..")))
        });
    let known = match (procfs::ids(path), file.of) {
        (None, of) => of == Of::System,
        (Some((pid, tid)), Of::Member) => there(pid) && tid.is_none_or(&there),
        (Some((_, tid)), Of::Ended) => tid.is_none(),
        (Some(_), Of::System) => false,
    };
    if plain && known {
        return Ok(());
    }
    Err(format!("{} cannot be", file.path.display()))
}

/// A POSIX message queue with a name and messages that it can hold.
fn mqueue(queue: &Queue) -> Check {
    let name = &queue.name.0;
    let named = (1..=255).contains(&name.len()) && !name.contains(&b'/') && !name.contains(&0);
    let fits = queue.messages.len() <= queue.max_messages as usize;
    let mut messages = queue.messages.iter();
    let fit = |m: &Message| m.text.0.len() <= (queue.message_size as usize).min(1 << 20) && m.priority < 1 << 15;
    if named && fits && queue.mode <= 0o777 && messages.all(fit) {
        return Ok(());
    }
    Err(format!("message queue {} cannot be", queue.name.display()))
}

/// Told of messages is a process that has the queue open (and the socket it is told by), while there are none.
fn notification(c: &Checkpoint, queue: &Queue, index: u32) -> Check {
    let Some(Notification { pid, how }) = &queue.notify else { return Ok(()) };
    let can_be = match how {
        How::Nothing => true,
        How::Signal { signal, .. } => (1..=64).contains(signal),
        How::Socket { cookie, .. } => cookie.0.len() == COOKIE,
    };
    let has = c.processes.iter().find(|p| p.pid == *pid).is_some_and(|p| {
        let kind = |d: &Descriptor| c.files.get(d.file as usize).map(|f| &f.kind);
        let of_queue = |d: &Descriptor| matches!(kind(d), Some(Kind::Mqueue(m)) if m.queue == index);
        let socket = if let How::Socket { fd, .. } = how { Some(*fd) } else { None };
        p.fds.iter().any(of_queue) && socket.is_none_or(|fd| p.fds.iter().any(|d| d.fd == fd))
    });
    if can_be && has && queue.messages.is_empty() {
        return Ok(());
    }
    Err(format!("message queue {} notifies pid {pid} in a way that cannot be", queue.name.display()))
}

fn standard_stream(stdio: &Stdio) -> Check {
    let of_terminal = |there: bool| stdio.terminal || !there;
    let settings = stdio.settings.as_ref().is_none_or(|settings| settings.0.len() == 44);
    let session = stdio.session.is_none_or(|s| s.leader.0 > 0 && s.foreground.is_none_or(|group| group.0 > 0));
    let can_be = of_terminal(stdio.settings.is_some()) && of_terminal(stdio.session.is_some()) && settings && session;
    if can_be && (0..=2).contains(&stdio.role) {
        return Ok(());
    }
    Err(format!("standard stream {} cannot be", stdio.role))
}

fn pty(pty: &Pty) -> Check {
    // NR_UNIX98_PTY_MAX; what the kernel keeps of both directions is less than 1 MiB.
    let waiting =
        pty.input.lines.iter().chain([&pty.input.rest, &pty.output]).map(|bytes| bytes.0.len()).sum::<usize>();
    let lengths = (pty.termios.0.len(), pty.size.0.len());
    let known = lengths == (44, 8) || lengths == (0, 0);
    if pty.index < 1 << 20 && known && waiting <= 1 << 20 && pty.mode.is_none_or(|mode| mode <= 0o777) {
        return Ok(());
    }
    Err(format!("terminal {} cannot be", pty.index))
}

/// System V objects: no id twice in a kind, and segments as large as their content.
fn ipc(shared: &SharedObjects) -> Check {
    let mut ids = HashSet::new();
    for (kind, perm) in shared.ipc.perms() {
        if perm.id < 0 || perm.mode > 0o777 || !ids.insert((kind, perm.id)) {
            return Err(format!("{kind} {} is there twice or cannot be", perm.id));
        }
    }
    for set in &shared.ipc.sem {
        if !(1..=0xffff).contains(&set.semaphores.len()) || set.semaphores.iter().any(|s| s.value > i16::MAX as u16) {
            return Err(format!("semaphore set {} cannot be", set.perm.id));
        }
    }
    for queue in &shared.ipc.msg {
        if queue.messages.iter().any(|m| m.kind < 1 || m.text.0.len() > LONGEST_MESSAGE) {
            return Err(format!("a message in queue {} cannot be", queue.perm.id));
        }
    }
    let mut objects = HashSet::new();
    for segment in &shared.ipc.shm {
        let object = shared.anon.get(segment.object as usize).filter(|_| objects.insert(segment.object));
        if object.map(|o| o.size) != segment.size.checked_next_multiple_of(PAGE) || segment.size == 0 {
            return Err(format!("segment {} of {} bytes is not its shared memory", segment.perm.id, segment.size));
        }
    }
    Ok(())
}

/// Inherited pages are those of a process described before, in private mappings, and not the process's own as well.
fn inherited(c: &Checkpoint, parts: &HashMap<&str, &[Run]>) -> Check {
    // The pages of each process described so far that others inherit from, adjoining ones joined.
    let mut all: HashMap<Pid, Vec<Run>> = HashMap::new();
    let donors: HashSet<Pid> = c.processes.iter().filter_map(|p| Some(p.memory.inherits.as_ref()?.from)).collect();
    if !donors.is_empty() && !c.manifest.requires.iter().any(|name| name == INHERITED_PAGES) {
        return Err(format!("pages are inherited, and {INHERITED_PAGES} is not required"));
    }
    for process in &c.processes {
        let pid = process.pid;
        let wrong = |why: &str| Err(format!("pid {pid}: the pages it inherits {why}"));
        let own = parts.get(names::process_part(pid).as_str()).copied().unwrap_or_default();
        let mut pages = own.to_vec();
        if let Some(Inherits { from, pages: spans }) = &process.memory.inherits {
            let Some(donors) = all.get(from) else {
                return wrong(&format!("are of pid {from}, which is not before it"));
            };
            let mut last = 0;
            for &Span { start: Addr(start), end: Addr(end) } in spans {
                if start >= end || start < last {
                    return wrong("are out of order");
                }
                last = end;
                let at = donors.partition_point(|r| r.start <= start).checked_sub(1);
                let there = at.and_then(|at| donors.get(at)).and_then(Run::end);
                if there.is_none_or(|there| there < end) {
                    return wrong(&format!("at {start:#x} are not there in pid {from}"));
                }
                pages.push(Run { start, len: end - start });
            }
            pages.sort_unstable_by_key(|r| r.start);
            private_runs(&pages, &process.memory.vmas).map_err(|e| format!("pid {pid}: {e}"))?;
        }
        if donors.contains(&pid) {
            all.insert(pid, joined(pages));
        }
    }
    Ok(())
}

/// Runs that adjoin made one; ascending and not overlapping.
fn joined(runs: Vec<Run>) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match out.last_mut() {
            Some(last) if last.end() == Some(run.start) => last.len += run.len,
            _ => out.push(run),
        }
    }
    out
}

/// Contents without the holes of their files: where the last piece of each ends.
fn sparse(c: &Checkpoint, blobs: &HashMap<u32, u64>) -> Result<HashMap<u32, u64>, String> {
    let mut ends = HashMap::new();
    if !c.shared.sparse.is_empty() && !c.manifest.requires.iter().any(|name| name == SPARSE_FILES) {
        return Err(format!("holes are left out, and {SPARSE_FILES} is not required"));
    }
    for sparse in &c.shared.sparse {
        let id = sparse.content;
        match sparse.sizes() {
            Some((bytes, end)) if blobs.get(&id) == Some(&bytes) && ends.insert(id, end).is_none() => {}
            _ => return Err(format!("the pieces of content {id} cannot be")),
        }
    }
    Ok(ends)
}

/// Everything deleted that is referred to is there, and is a directory where it must be.
fn nameless(c: &Checkpoint) -> Check {
    let all = &c.shared.nameless;
    if !all.is_empty() && !c.manifest.requires.iter().any(|name| name == DELETED_DIRECTORIES) {
        return Err(format!("something is deleted, and {DELETED_DIRECTORIES} is not required"));
    }
    let object = |index: u32| all.get(index as usize).ok_or(format!("deleted object {index} is not there"));
    let directory = |index: Option<u32>| match index.map(object).transpose()? {
        Some(object) if object.target.is_some() => Err("a symbolic link for a directory".to_owned()),
        _ => Ok(()),
    };
    for process in &c.processes {
        directory(process.deleted.cwd)?;
        directory(process.deleted.root)?;
    }
    for file in &c.files {
        match &file.kind {
            Kind::Directory(d) => directory(d.deleted)?,
            Kind::Path(Place { object: Object::Nameless(index), .. }) => drop(object(*index)?),
            _ => {}
        }
    }
    match all.iter().find(|n| !n.path.0.starts_with(b"/") || n.path.0.contains(&0)) {
        Some(n) => Err(format!("something deleted called {}", n.path.display())),
        None => Ok(()),
    }
}

fn files(c: &Checkpoint, blobs: &HashMap<u32, u64>) -> Check {
    let whole = |content: &Option<Content>| match content {
        Some(content) if blobs.get(&content.id) != Some(&content.size) => {
            Err(format!("its content {} of {} bytes is not there", content.id, content.size))
        }
        _ => Ok(()),
    };
    let ends = sparse(c, blobs)?;
    let content = |content: &Option<Content>| match content {
        Some(Content { id, size }) if ends.contains_key(id) => match ends.get(id) {
            Some(end) if end <= size && i64::try_from(*size).is_ok() => Ok(()),
            _ => Err(format!("pieces of its content {id} are beyond its {size} bytes")),
        },
        content => whole(content),
    };
    let saved = |saved: &Option<Saved>| match saved {
        Some(saved) if saved.mode > 0o7777 => Err(format!("permissions {:o}", saved.mode)),
        saved => content(&saved.map(|s| s.content)),
    };
    let members = c.tree.members.iter().map(|m| m.pid);
    let ids: HashSet<Pid> = members.chain(c.processes.iter().flat_map(|p| p.threads.iter().map(|t| t.tid))).collect();
    let there = |pid| ids.contains(&pid);
    for (index, file) in c.files.iter().enumerate() {
        let result = match &file.kind {
            Kind::Regular(regular) => content(&regular.content).and_then(|()| saved(&regular.saved)),
            Kind::Pipe(pipe) => whole(&pipe.content).and_then(|()| pieces(pipe)),
            Kind::Path(Place { object: Object::Deleted { content: c, .. }, .. }) => content(&Some(*c)),
            Kind::Epoll(epoll) => match epoll.targets.iter().find(|t| t.file as usize >= c.files.len() || t.fd < 0) {
                Some(target) => {
                    Err(format!("it watches open file {} as {}, which is not there", target.file, target.fd))
                }
                None => Ok(()),
            },
            Kind::Inotify(instance) => inotify::check(instance, &c.manifest),
            Kind::Fanotify(group) => fanotify::check(group),
            Kind::Pidfd(Pidfd::Task(pid)) if !there(*pid) => Err(format!("it is of pid {pid}, which is not there")),
            Kind::Pidfd(Pidfd::Gone { status, .. }) => wait_status(*status),
            Kind::Socket(socket) => whole(&socket.content)
                .and_then(|()| sockets::early(socket).into_iter().try_for_each(|content| whole(&Some(content))))
                .and_then(|()| sockets::check(c, index, socket)),
            Kind::Procfs(file) => of_proc(file, there),
            Kind::Mqueue(m) if m.queue as usize >= c.shared.mqueues.len() => {
                Err(format!("it is of message queue {}, which is not there", m.queue))
            }
            Kind::Pty(end) if end.pty as usize >= c.shared.ptys.len() => {
                Err(format!("it is of terminal {}, which is not there", end.pty))
            }
            Kind::Uring(uring) if uring.issuer.is_some_and(|tid| !there(tid)) => {
                Err("its only user is not there".to_owned())
            }
            Kind::Uring(uring) if uring.poller.as_ref().is_some_and(|poller| !there(poller.like)) => {
                Err("nobody is there in whose name its requests are taken".to_owned())
            }
            Kind::Uring(uring)
                if uring.files.iter().flatten().chain(&uring.eventfd).any(|file| *file as usize >= c.files.len()) =>
            {
                Err("a file is registered with it that is not there".to_owned())
            }
            Kind::Uring(uring) if uring.is_wide() && !c.manifest.requires.iter().any(|name| name == WIDE_RINGS) => {
                Err(format!("a ring has entries of twice the size, and {WIDE_RINGS} is not required"))
            }
            Kind::Uring(uring) => content(&Some(uring.content)).and_then(|()| ring(uring)),
            Kind::Stdio(stdio) => standard_stream(stdio),
            _ => Ok(()),
        };
        result.and_then(|()| owner(file.owner, c, there)).map_err(|e| format!("open file {index}: {e}"))?;
    }
    let is_ring = |file: u32| c.files.get(file as usize).is_some_and(|f| matches!(f.kind, Kind::Uring(_)));
    for (number, file) in c.processes.iter().flat_map(|p| &p.threads).flat_map(|t| &t.rings) {
        if *number >= uring::MOST_RINGS || !is_ring(*file) {
            return Err(format!("open file {file} is registered as ring {number}, and cannot be"));
        }
    }
    for vma in c.processes.iter().flat_map(|p| &p.memory.vmas) {
        let Backing::Ring { file, offset } = vma.backing else { continue };
        if !is_ring(file) || !OFFSETS.contains(&offset) {
            return Err(format!("mapping {} is of open file {file}, which is no ring, or of no part of it", vma.start));
        }
    }
    for (index, file) in c.shared.mapped.iter().enumerate() {
        content(&file.content)
            .and_then(|()| content(&file.embedded))
            .and_then(|()| saved(&file.saved))
            .map_err(|e| format!("mapped file {index}: {e}"))?;
    }
    if let Some(memfd) = c.shared.memfds.iter().find(|m| m.huge.is_some_and(|page| !is_huge(page))) {
        return Err(format!("memory file {} has pages that cannot be", memfd.content));
    }
    nameless(c)?;
    if let Some(memfd) = c.shared.memfds.iter().find(|m| !blobs.contains_key(&m.content)) {
        return Err(format!("content {} of a memory file is not there", memfd.content));
    }
    Ok(())
}

/// A ring of a size the kernel makes, with all that is in it.
fn ring(ring: &Uring) -> Check {
    let (sq, cq) = (ring.sq_entries, ring.cq_entries);
    let sizes = sq.is_power_of_two() && cq.is_power_of_two() && sq <= cq && sq <= uring::MOST.0 && cq <= uring::MOST.1;
    let has = |flag| ring.flags & flag != 0;
    let counts = (ring.sq_head, ring.cq_tail);
    let possible = ring.flags & !KNOWN == 0
        && ring.files.len() <= uring::MOST_REGISTERED.0
        && ring.buffers.len() <= uring::MOST_REGISTERED.1
        && has(SINGLE_ISSUER) == ring.issuer.is_some()
        && ring.credentials.first() != Some(&0)
        && ring.credentials.is_sorted_by(|a, b| a < b)
        && has(SQPOLL) == ring.poller.is_some()
        && !(has(SQPOLL) && has(DEFER_TASKRUN))
        && (has(SINGLE_ISSUER) || !has(DEFER_TASKRUN))
        && (!has(DISABLED) || counts == (0, 0) && !has(SINGLE_ISSUER));
    if !sizes || !possible || ring.content.size != ring.ring_len() + ring.sqes_len() {
        return Err(format!("a ring of {sq} and {cq} places with {} bytes in it", ring.content.size));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::model::thread::Sched;
    use crate::model::uring::{Poller, WIDE_COMPLETIONS, WIDE_REQUESTS};
    use crate::model::{Hex, Pid};

    use super::*;

    #[test]
    fn rings_are_such_as_the_kernel_makes() {
        let sched = Sched { policy: 0, flags: 0, nice: 0, priority: 0, deadline: None, slice: None, clamps: None };
        let poller = Poller { number: 1, like: Pid(1), affinity: Hex(vec![1]), sched, idle: 0 };
        let mut polled = Uring {
            flags: SQPOLL,
            poller: Some(poller),
            credentials: vec![1, 3],
            sq_entries: 4,
            cq_entries: 8,
            ..Uring::default()
        };
        polled.content.size = polled.ring_len() + polled.sqes_len();
        assert_eq!(ring(&polled), Ok(()));
        let not = |change: &dyn Fn(&mut Uring)| {
            let mut other = polled.clone();
            change(&mut other);
            assert!(ring(&other).is_err(), "{other:?}");
        };
        not(&|ring| ring.poller = None);
        not(&|ring| ring.flags = 0);
        not(&|ring| (ring.flags, ring.issuer) = (SQPOLL | SINGLE_ISSUER | DEFER_TASKRUN, Some(Pid(1))));
        not(&|ring| ring.credentials = vec![0]);
        not(&|ring| ring.credentials = vec![3, 1]);
        not(&|ring| ring.content.size += 1);
        for wide in [WIDE_REQUESTS, WIDE_COMPLETIONS] {
            not(&|ring| ring.flags |= wide);
            let mut other = Uring { flags: SQPOLL | wide, ..polled.clone() };
            other.content.size = other.ring_len() + other.sqes_len();
            assert_eq!(ring(&other), Ok(()));
        }
    }
}
