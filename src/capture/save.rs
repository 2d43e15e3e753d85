//! A save from beginning to end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::image::{self, Blob, Part, Sink, Writer, process_part, shared_part};
use crate::model::fd::Kind;
use crate::model::manifest::{
    DELETED_DIRECTORIES, EARLY_DATA, EARLY_MESSAGES, HUGE_PAGES, INHERITED_PAGES, INOTIFY_EVENTS, Manifest,
    PACKET_SOCKETS, PROTECTION_KEYS, SPARSE_FILES, UNIX_SOCKETS, URGENT_DATA, WIDE_RINGS,
};
use crate::model::memory::{self, SharedObjects};
use crate::model::process::Process;
use crate::model::thread::Table;
use crate::model::tree::Tree;
use crate::model::{Checkpoint, Nanos, Pid};
use crate::net::outside;
use crate::proc;
use crate::sys::{tasks, wait};
use crate::tracer::{Answers, Calls, Held, HeldProcess, Job, Room, apart, hold};

use super::contents::Contents;
use super::copied::{self, Copied};
use super::ipc::Space;
use super::look::{Looked, LookedProcess, look, unless_cancelled};
use super::pages::{Origin, Pages};
use super::reserve::{self, Reserve};
use super::{
    After, Error, Output, Request, Saved, aio, datagram, early, fanotify, fd, inherits, inotify, jobcontrol, manifest,
    mempolicy, mqnotify, mqueue, netlink, process, procfs, pty, seccomp, shared, sockets, sqpoll, sysvsem, tcp, thread,
    timerfd, unaccepted, unix, uring,
};

/// Saves a tree: holds it, looks at it, writes the image, lets it go (or stops or ends it).
///
/// # Errors
/// Whatever goes wrong, the tree goes on as if nothing had been, and no half image is left.
pub fn save(request: &Request<'_>) -> Result<Saved, Error> {
    let begun = Instant::now();
    // A limit on file sizes is to be an error (EFBIG), not our death. The thread ends with the save, or the program does.
    let mut too_large = SigSet::empty();
    too_large.add(Signal::SIGXFSZ);
    too_large.thread_block().map_err(|e| Error::io("blocking", "SIGXFSZ")(e.into()))?;
    super::make_room()?;
    // What can fail or take its time without the tree goes first.
    let (sink, path) = match &request.output {
        Output::File(path) => (Sink::File(path.clone()), Some(path.clone())),
        Output::Stream(file) => {
            (Sink::Stream(file.try_clone().map_err(Error::io("duplicating", "the output stream"))?), None)
        }
    };
    let mut writer = Writer::create(sink)?;
    let expected = reserve::memory(&request.hold());
    writer.make_room(expected.saturating_add(METADATA));
    let room = if request.after == After::Continue { copied::room(expected) } else { Vec::new() };
    let manifest = manifest::prepare(&request.name)?;
    let Draft { image, parts, contents, notes, processes, threads, stopped } =
        apart(|| draft(request, writer, manifest, room))??;
    let bytes = match image {
        Written::Complete(bytes) => bytes,
        Written::Open(writer) => complete(*writer, &parts, &contents, request)?,
    };
    Ok(Saved { path, bytes, notes, processes, threads, stopped, took: begun.elapsed() })
}

/// Bytes of an image that are no pages, as a rule.
const METADATA: u64 = 1 << 20;

/// An image of a tree that has been let go, and what there is to say of it.
struct Draft {
    image: Written,
    parts: Vec<Part>,
    contents: Contents,
    notes: Vec<String>,
    processes: usize,
    threads: usize,
    stopped: Duration,
}

/// How far an image has come.
enum Written {
    /// What is in our own memory is still to be written.
    Open(Box<Writer>),
    /// It is there, with so many bytes.
    Complete(u64),
}

/// From holding the tree to letting it go: what only the tracing thread can do. `room`: for the pages of a small tree.
fn draft(request: &Request<'_>, mut writer: Writer, manifest: Manifest, room: Vec<u8>) -> Result<Draft, Error> {
    let (mut held, looked) = hold_and_look(request)?;
    let since = held.since;
    tracing::debug!(after = ?since.elapsed(), "looked");
    let Taken { checkpoint, parts, origins, contents, space } = take(&mut held, looked, manifest, request)?;
    tracing::debug!(after = ?since.elapsed(), "taken");
    let pages = Pages { processes: &held.processes, origins };
    let gone = |error: image::Error| who_is_gone(&held).map_or(error.into(), |pid| Error::Vanished { pid });
    // What is small and goes on is let go before its image is made.
    let small = request.after == After::Continue && contents.blobs.iter().all(Blob::is_in_hand);
    let mappings = checkpoint.processes.iter().map(|p| p.memory.vmas.len()).sum();
    let copied = if small { Copied::of(&parts, &pages, room, mappings).map_err(gone)? } else { None };
    if copied.is_none() {
        writer.begin(&checkpoint, &parts, &pages, &contents.blobs, request.cancel).map_err(gone)?;
    }
    unless_cancelled(request.cancel)?;
    drop(space);
    tracing::debug!(after = ?since.elapsed(), "copied");
    // Once it is stopped or dead there is no way back: then the image comes first.
    let mut image = match request.after {
        After::Continue => Written::Open(Box::new(writer)),
        After::Stop | After::Kill => Written::Complete(complete(writer, &parts, &contents, request)?),
    };
    match request.after {
        After::Continue => held.release()?,
        After::Stop => {
            stop(&held)?;
            held.release()?;
        }
        After::Kill => {
            tcp::reset_at_close(&held, &checkpoint);
            kill(&held)?;
            drop(held);
        }
    }
    let stopped = since.elapsed();
    if let (Some(copied), Written::Open(writer)) = (copied, &mut image) {
        writer.begin(&checkpoint, &parts, &copied, &contents.blobs, request.cancel)?;
    }
    let mut notes: Vec<_> = outside::list(&checkpoint).iter().map(outside::Lead::sentence).collect();
    notes.extend(super::unix::unfound(&checkpoint.files, outside::holder(&checkpoint)));
    let threads = checkpoint.processes.iter().map(|p| p.threads.len()).sum();
    Ok(Draft { image, parts, contents, notes, processes: checkpoint.tree.members.len(), threads, stopped })
}

/// Writes what is in our own memory; from then on the image is there. Its bytes.
fn complete(mut writer: Writer, parts: &[Part], contents: &Contents, request: &Request<'_>) -> Result<u64, Error> {
    writer.finish(parts, &contents.blobs, request.cancel)?;
    Ok(writer.commit()?)
}

/// The tree, standing still, with nothing that cannot be saved. What is refused but gone in a moment (a thread that
/// reads its own /proc/self/maps as it starts) is waited for, the tree running.
fn hold_and_look(request: &Request<'_>) -> Result<(Held, Looked), Error> {
    const TRIES: u32 = 20;
    /// So many are for a program that reads a file of /proc; it may as well be in the middle of one for good.
    const HALF_READ: u32 = 4;
    /// So many are for a server to take a connection over which something was sent; a busy one may not for long, while
    /// each look makes all wait.
    const UNACCEPTED: u32 = 4;
    const PAUSE: Duration = Duration::from_millis(5);
    let reserve = Arc::new(Reserve::ahead(&request.hold()));
    let mut tries = 0;
    let mut idle = None;
    const PASSING: [&str; 15] = [
        procfs::OUTSIDE,
        seccomp::CONDEMNED,
        fanotify::UNREAD,
        pty::STOPPED,
        tcp::EARLY,
        tcp::TOO_MUCH,
        unix::EARLY,
        unix::LOST,
        datagram::CORKED,
        datagram::IN_FRONT,
        netlink::UNREAD,
        mqnotify::WITH_MESSAGES,
        mqnotify::PENDING,
        aio::UNDER_WAY,
        uring::UNDER_WAY,
    ];
    let passes = |reason: &str| {
        PASSING.contains(&reason) || [tcp::EARLY, unix::EARLY, unix::LOST].iter().any(|early| reason.starts_with(early))
    };
    loop {
        let held = hold(&request.hold())?;
        let queues = tries == UNACCEPTED || tries + 1 == TRIES;
        let mut looked = look(&held, request, &reserve, queues)?;
        let refusals = &looked.refusals.0;
        if refusals.is_empty() && (!looked.fds.half_read || tries >= HALF_READ) {
            let polled = sqpoll::copies(&held, &looked.fds)?;
            match &idle {
                None if !polled.is_empty() => {
                    held.release()?;
                    idle = Some(sqpoll::measure(&polled));
                    continue;
                }
                _ => sqpoll::settle(&mut looked.fds.files, &idle.unwrap_or_default()),
            }
            return Ok((held, looked));
        }
        tries += 1;
        if tries == TRIES || refusals.iter().any(|r| !passes(&r.reason)) {
            return Err(Error::Refused(looked.refusals.0));
        }
        held.release()?;
        std::thread::sleep(PAUSE);
    }
}

/// What goes into the image.
#[derive(Debug)]
struct Taken {
    checkpoint: Checkpoint,
    parts: Vec<Part>,
    origins: Vec<Origin>,
    contents: Contents,
    /// Its agent has what some pages are read from.
    space: Space,
}

/// The second half of a save: what only the program itself can tell.
fn take(held: &mut Held, looked: Looked, mut manifest: Manifest, request: &Request<'_>) -> Result<Taken, Error> {
    let Looked { mut tree, processes: mut seen, mut fds, mut contents, mapped, shared, mut ipc, inside, .. } = looked;
    let (mut jobs, asked) = ask(held, &mut seen, !fds.rings.is_empty(), &contents.mqueues);
    let pages = shared::ask(&shared.objects, &mut jobs);
    let all = held.run(&jobs)?;
    // What is left of timers, by the clocks as they are from here on.
    let stood_for = manifest::complete(&mut manifest, held, request.root)?;
    timerfd::settle(&mut fds.files, stood_for);
    tracing::debug!(threads = jobs.len(), "asked");
    let mut answers = all.iter();
    let mut news = HashMap::new();
    sockets::ask(held, &fds.asks, &mut fds.files)?;
    unaccepted::take(held, &mut contents, &mut fds.files, &inside)?;
    fd::ask(held, &mut fds)?;
    uring::issuers(held, &mut fds.files, &fds.descriptors)?;
    let (mut processes, mut parts, mut origins) = (Vec::new(), Vec::new(), Vec::new());
    for (LookedProcess { index, seen: looked, memory }, asked) in seen.into_iter().zip(asked) {
        unless_cancelled(request.cancel)?;
        let Some(p) = held.processes.get_mut(index) else { continue };
        let answers: Vec<&Answers> = answers.by_ref().take(asked.threads.len()).collect();
        let mut threads = Vec::with_capacity(p.threads.len());
        let known = p.threads.iter().zip(&looked.threads);
        for (i, ((asked, answers), (t, read))) in asked.threads.iter().zip(&answers).zip(known).enumerate() {
            let mut thread = thread::capture(t, read, asked, answers);
            thread.left = thread.left.map(|left| Nanos(left.less(stood_for).0.max(1)));
            thread.seccomp = looked.seccomp.threads.get(i).cloned().flatten();
            thread.directories = looked.own.get(i).cloned().flatten();
            let table = (index, Some(i));
            thread.table = inside.tables.contains(&t.host).then(|| Table {
                fds: fds.descriptors.remove(&table).unwrap_or_default(),
                locks: fds.locks.remove(&table).unwrap_or_default(),
            });
            threads.push(thread);
        }
        let descriptors = fds.descriptors.remove(&(index, None)).unwrap_or_default();
        for ((asked, answers), thread) in asked.rings.iter().zip(&answers).zip(&mut threads) {
            let own = thread.table.as_ref().map_or(&descriptors, |table| &table.fds);
            for number in uring::registered(asked, answers) {
                thread.rings.push((number, uring::only(&fds.files, own, thread.tid)?));
            }
        }
        let Some(first) = answers.first() else { continue };
        aio::check(&asked.contexts, first, p.pid)?;
        for (queue, asked) in &asked.notifications {
            if let Some(queue) = contents.mqueues.get_mut(*queue) {
                queue.set_notification(asked.answered(first)?);
            }
        }
        news.extend(jobcontrol::news(&asked.children, first));
        let mut process =
            process::capture(p, looked, memory.memory, threads, (&asked.process, first), (&manifest.clocks, &inside))?;
        process.fds = descriptors;
        process.locks = fds.locks.remove(&(index, None)).unwrap_or_default();
        process.undo = sysvsem::undo(p, &ipc.model.sem)?;
        parts.push(Part { name: process_part(process.pid), runs: memory.runs });
        origins.push(Origin::Process { index, shared: memory.shared, huge: memory.huge });
        processes.push(process);
    }
    jobcontrol::note(&mut tree, &news);
    tcp::end_connects(&mut processes, &tree, &fds.files);
    let mut anon = Vec::new();
    for (index, sharers) in shared.objects.iter().enumerate() {
        unless_cancelled(request.cancel)?;
        let name = shared_part(index);
        if let Some((attached, runs)) = ipc.resident(index as u32)? {
            anon.push(memory::SharedAnon { size: attached.size });
            parts.push(Part { name, runs });
            origins.push(Origin::Agent(ipc.space.agent()?.pid(), attached.at));
            continue;
        }
        // A segment's whole is known otherwise.
        let segment = shared.segments.iter().any(|(object, ..)| *object as usize == index);
        let whole = if segment { None } else { shared::whole(held, sharers)? };
        let sharers = whole.as_ref().map_or(sharers.as_slice(), std::slice::from_ref);
        let mut cover = shared::cover(sharers);
        let runs = match pages.get(index).and_then(Option::as_ref).filter(|_| whole.is_none()) {
            Some(asked) => shared::answered(asked, &all),
            None => shared::resident(held, &cover, sharers.iter().any(|s| s.swapped))?,
        };
        shared::uncover(held, &mut cover)?;
        anon.push(memory::SharedAnon { size: shared::size(sharers) });
        parts.push(Part { name, runs });
        origins.push(Origin::Shared(cover));
    }
    // Nothing is run in the program any more: what is equal now is so when it is written.
    inherit(&held.processes, &tree, &mut processes, &mut parts, &origins, request)?;
    if processes.iter().any(|p| p.memory.inherits.is_some()) {
        manifest.requires.push(INHERITED_PAGES.to_owned());
    }
    if fds.files.iter().any(|file| matches!(&file.kind, Kind::Socket(socket) if socket.is_more_than_a_pair())) {
        manifest.requires.push(UNIX_SOCKETS.to_owned());
    }
    if fds.files.iter().any(|file| matches!(&file.kind, Kind::Socket(socket) if socket.has_urgent())) {
        manifest.requires.push(URGENT_DATA.to_owned());
    }
    if fds.files.iter().any(|file| matches!(&file.kind, Kind::Socket(socket) if socket.is_early())) {
        manifest.requires.push(EARLY_MESSAGES.to_owned());
    }
    let waits = !contents.queues.is_empty();
    early::take(&mut contents, &mut fds.files)?;
    if waits {
        manifest.requires.push(EARLY_DATA.to_owned());
    }
    if fds.files.iter().any(|file| matches!(&file.kind, Kind::Socket(socket) if socket.is_packet())) {
        manifest.requires.push(PACKET_SOCKETS.to_owned());
    }
    if fds.files.iter().any(|file| matches!(&file.kind, Kind::Uring(ring) if ring.is_wide())) {
        manifest.requires.push(WIDE_RINGS.to_owned());
    }
    let nameless = std::mem::take(&mut contents.nameless).into_list();
    if !nameless.is_empty() {
        manifest.requires.push(DELETED_DIRECTORIES.to_owned());
    }
    let memfds = contents.memfds.clone();
    let sparse = std::mem::take(&mut contents.sparse);
    if !sparse.is_empty() {
        manifest.requires.push(SPARSE_FILES.to_owned());
    }
    if memfds.iter().any(|m| m.huge.is_some())
        || processes.iter().any(|p| p.memory.vmas.iter().any(|v| v.huge.is_some()))
    {
        manifest.requires.push(HUGE_PAGES.to_owned());
    }
    if processes.iter().any(|p| !p.memory.keys.is_empty()) {
        manifest.requires.push(PROTECTION_KEYS.to_owned());
    }
    inotify::take(std::mem::take(&mut contents.unread), &mut fds.files)?;
    if fds.files.iter().any(|file| matches!(&file.kind, Kind::Inotify(instance) if !instance.events.is_empty())) {
        manifest.requires.push(INOTIFY_EVENTS.to_owned());
    }
    let mqueues = mqueue::take(std::mem::take(&mut contents.mqueues))?;
    let ptys = pty::copy(std::mem::take(&mut contents.ptys))?;
    let shared =
        SharedObjects { anon, mapped: mapped.into_files(), memfds, nameless, sparse, mqueues, ptys, ipc: ipc.model };
    let checkpoint = Checkpoint { manifest, tree, processes, files: fds.files, shared };
    Ok(Taken { checkpoint, parts, origins, contents, space: ipc.space })
}

/// Finds what processes share since a fork. Their parts come before all others.
fn inherit(
    held: &[HeldProcess],
    tree: &Tree,
    processes: &mut [Process],
    parts: &mut [Part],
    origins: &[Origin],
    request: &Request<'_>,
) -> Result<(), Error> {
    let mut sharers = Vec::with_capacity(processes.len());
    for origin in origins {
        if let Origin::Process { index, shared, .. } = origin {
            sharers.extend(held.get(*index).map(|held| inherits::Sharer { held, shared }));
        }
    }
    let mut runs: Vec<_> = parts.iter_mut().map(|part| &mut part.runs).collect();
    inherits::look(tree, &sharers, processes, &mut runs, request.cancel)
}

/// What a process is asked.
#[derive(Debug)]
struct Asked {
    threads: Vec<thread::Asked>,
    contexts: aio::Asked,
    /// Of each thread, if there are rings at all.
    rings: Vec<uring::Asked>,
    process: process::Asked,
    children: Vec<(Pid, Room)>,
    /// Of message queues, by their index.
    notifications: Vec<(usize, mqnotify::Asked)>,
}

/// What is asked of each process, and the calls that do it. `rings`: there are some of io_uring.
fn ask(held: &Held, seen: &mut [LookedProcess], rings: bool, queues: &[mqueue::Seen]) -> (Vec<Job>, Vec<Asked>) {
    let families = jobcontrol::families(held);
    let nodes = mempolicy::set_len();
    let (mut jobs, mut all) = (Vec::new(), Vec::new());
    for looked in seen {
        let Some(p) = held.processes.get(looked.index) else { continue };
        let mut first = Calls::default();
        let process = process::ask(p, &mut looked.seen, &looked.memory.memory, nodes, &mut first);
        let contexts = aio::ask(&mut first, &looked.memory.memory.aio);
        let children = families.get(&p.host).map_or_else(Vec::new, |children| jobcontrol::ask(&mut first, children));
        let registered = queues.iter().enumerate().filter_map(|(i, queue)| Some((i, queue.notify?)));
        let registered = registered.filter(|(_, notify)| notify.is_of(looked.index));
        let notifications = registered.map(|(i, notify)| (i, notify.ask(&mut first))).collect();
        let (mut threads, mut of_rings) = (Vec::with_capacity(p.threads.len()), Vec::new());
        for (thread, t) in p.threads.iter().enumerate() {
            let mut calls = std::mem::take(&mut first);
            threads.push(thread::ask(&mut calls, nodes));
            of_rings.extend(rings.then(|| uring::ask(&mut calls)));
            // If we die, a filter may judge what is left of a table.
            let one_by_one = t.status.seccomp != 0;
            jobs.push(Job { process: looked.index, thread, calls, one_by_one });
        }
        all.push(Asked { threads, contexts, rings: of_rings, process, children, notifications });
    }
    (jobs, all)
}

/// A process that was killed while it was held, if one was: whatever failed then failed because of that. One that is
/// about to be a zombie has given its memory back already.
fn who_is_gone(held: &Held) -> Option<i32> {
    let dead = |pid| proc::status(pid).map_or(true, |s| matches!(s.state, b'Z' | b'X') || !s.has_memory);
    held.processes.iter().filter(|p| !p.threads.is_empty()).find(|p| dead(p.live())).map(|p| p.host)
}

/// Leaves every process as SIGSTOP would.
fn stop(held: &Held) -> Result<(), Error> {
    use std::os::fd::AsFd;
    for p in held.processes.iter().filter(|p| !p.threads.is_empty()) {
        tasks::pidfd_kill(p.pidfd.as_fd(), libc::SIGSTOP).map_err(Error::of(p.host, "stopping"))?;
    }
    Ok(())
}

/// Ends every process, and sees to it that their parents hear of it.
fn kill(held: &Held) -> Result<(), Error> {
    use std::os::fd::AsFd;
    let alive = || held.processes.iter().filter(|p| !p.threads.is_empty());
    for p in alive() {
        match tasks::pidfd_kill(p.pidfd.as_fd(), libc::SIGKILL) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(Error::of(p.host, "ending")(e)),
            _ => {}
        }
    }
    for p in alive() {
        // The leader's death shows after that of the others.
        for t in p.threads.iter().rev() {
            while let Ok(event) = wait::wait(t.host) {
                if event == wait::Event::Dead {
                    if t.host != p.host || p.host_ppid != std::process::id() as i32 {
                        let _ = wait::reap(t.host);
                    }
                    break;
                }
            }
        }
    }
    Ok(())
}
