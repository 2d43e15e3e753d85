//! io_uring(7). The kernel does not say what is under way in a ring, but it counts: with each request reported once,
//! nothing is.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::model::fd::{Descriptor, Kind, OpenFile};
use crate::model::memory::{Backing, Memory};
use crate::model::uring::{
    DEFER_TASKRUN, DISABLED, IOPOLL, MOST_REGISTERED, MOST_RINGS, NO_SQARRAY, Napi, OFFSETS, SINGLE_ISSUER, SQPOLL,
    Uring, word,
};
use crate::model::{Addr, Pid, Refusal};
use crate::proc::fdinfo::{Detail, Ring};
use crate::sys::uring::{self, Map};
use crate::tracer::{Answers, Call, Calls, Held, Remote};

use super::Error;
use super::fd::{SeenFd, TableOf, Work};
use super::refusals::Refusals;
use super::ringcreds;
use super::ringsizes;
use super::sqpoll;

/// Most requests end soon.
pub(super) const UNDER_WAY: &str = "requests are under way in it";
/// The name of a ring's mappings.
pub(super) const NAME: &[u8] = b"anon_inode:[io_uring]";
/// io_uring_register(2).
const REGISTER_EVENTFD: u32 = 4;
const REGISTER_RESTRICTIONS: u32 = 11;
const REGISTER_PBUF_STATUS: u32 = 26;
pub(super) const REGISTER_NAPI: u32 = 27;
/// Groups of buffers that are looked for.
const GROUPS: u32 = 1024;
const ENTER_REGISTERED_RING: u64 = 16;
const EVENTFD: &str = "registering one of several eventfds with it (or one that is closed) is not supported";
const RESTRICTED: &str = "restricting what it may be asked for";
const GROUPS_OF_BUFFERS: &str = "registering groups of buffers with it";
const AVOID: &str = "have the program do without it (with libuv: UV_USE_IO_URING=0)";

/// A ring; `None` if it was refused. `seen`: what the kernel says of it, unless it is at work.
pub(super) fn capture(
    work: &mut Work<'_>,
    s: &SeenFd,
    seen: Option<&Ring>,
    file_of: &HashMap<usize, u32>,
) -> Result<Option<Kind>, Error> {
    let copy = s.copy(work.held)?;
    let refused = match seen {
        None => UNDER_WAY.to_owned(),
        Some(ring) => {
            match look(ring, copy.as_fd())
                .and_then(|(uring, bytes)| Ok((add(work, s, ring, uring, file_of, copy.as_fd())?, bytes)))
            {
                Ok((mut uring, bytes)) => {
                    uring.content = work.contents.bytes(bytes);
                    return Ok(Some(Kind::Uring(uring)));
                }
                Err(reason) => reason,
            }
        }
    };
    let hint = if refused == UNDER_WAY { "save again when they have ended" } else { AVOID };
    work.refusals.add(s.pid, s.object("io_uring"), refused, hint);
    Ok(None)
}

/// A ring with what is registered with it, or why that can't be made again.
fn add(
    work: &Work<'_>,
    s: &SeenFd,
    seen: &Ring,
    uring: Uring,
    file_of: &HashMap<usize, u32>,
    copy: BorrowedFd<'_>,
) -> Result<Uring, String> {
    let (files_most, buffers_most) = MOST_REGISTERED;
    let (mut files, mut buffers) = (vec![None; seen.files as usize], vec![None; seen.buffers as usize]);
    if files.len() > files_most || buffers.len() > buffers_most {
        return Err(format!(
            "more than {files_most} files or {buffers_most} buffers registered with it are not supported"
        ));
    }
    for (place, name) in &seen.file_names {
        let same = work.seen.iter().enumerate().filter(|(_, other)| other.link == *name);
        let found: BTreeSet<u32> = same.filter_map(|(index, _)| file_of.get(&index).copied()).collect();
        let shown = String::from_utf8_lossy(name);
        let why = match found.len() {
            1 => None,
            0 => Some(format!("{shown} is registered with it, which nobody in the tree has open")),
            _ => Some(format!("{shown} is registered with it, which is open more than once: which one can't be known")),
        };
        if let Some(why) = why {
            return Err(why);
        }
        if let Some(room) = files.get_mut(*place as usize) {
            *room = found.first().copied();
        }
    }
    let users: BTreeSet<usize> = work.seen.iter().filter(|other| other.key() == s.key()).map(|o| o.process).collect();
    if !seen.buffer_places.is_empty() && (users.len() > 1 || s.own.is_some()) {
        return Err("buffers are registered with it, and several processes have it: not supported".to_owned());
    }
    for (place, address, len) in &seen.buffer_places {
        if *address == 0 {
            return Err("buffers of the kernel are registered with it: not supported".to_owned());
        }
        if let Some(room) = buffers.get_mut(*place as usize) {
            *room = Some((Addr(*address), *len));
        }
    }
    let mut eventfd = None;
    if uring::try_register(copy, REGISTER_EVENTFD) == libc::EBUSY {
        let theirs = work.seen.iter().enumerate().filter(|(_, other)| users.contains(&other.process));
        let theirs = theirs.filter(|(_, other)| matches!(other.info.detail, Detail::Eventfd { .. }));
        eventfd = Some(only_one(theirs.filter_map(|(index, _)| file_of.get(&index).copied())).ok_or(EVENTFD)?);
    }
    let napi = match seen.napi {
        Some(napi) if napi.by_hand => {
            return Err(
                "it polls devices that the program has named (IO_URING_NAPI_STATIC_ADD_ID): not supported".to_owned()
            );
        }
        napi => napi.map(|napi| Napi { timeout: (napi.timeout / 1000) as u32, prefer: napi.prefer }),
    };
    let credentials = ringcreds::numbers(&seen.personalities, copy, &uring)?;
    if !credentials.is_empty() && !ringcreds::are_known(users.iter().filter_map(|&user| work.held.processes.get(user)))
    {
        return Err("credentials are registered with it, and which ones can't be known: not supported".to_owned());
    }
    let poller = match seen.sq_thread {
        Some(number) => Some(sqpoll::find(work.held, &users, number, sqpoll::has_more(&uring, copy)?)?),
        None => None,
    };
    Ok(Uring { napi, credentials, poller, files, buffers, eventfd, ..uring })
}

/// The only one, however often it comes.
fn only_one(mut files: impl Iterator<Item = u32>) -> Option<u32> {
    let first = files.next()?;
    files.all(|other| other == first).then_some(first)
}

/// The ring and what is in its memory, or why not.
fn look(seen: &Ring, copy: BorrowedFd<'_>) -> Result<(Uring, Vec<u8>), String> {
    let flags = owned(seen, copy).map_err(|what| format!("{what} is not supported"))?;
    let (sq_entries, cq_entries) = (seen.sq_mask.wrapping_add(1), seen.cq_mask.wrapping_add(1));
    let (sq_head, cq_tail) = (seen.sq_head, seen.cq_tail);
    let mut uring = Uring { sq_entries, cq_entries, sq_head, cq_tail, ..Uring::default() };
    let map = |offset, len| Map::new(copy, offset, len).map_err(unmapped);
    let ring = map(OFFSETS[0], uring.ring_len())?;
    let words = [seen.sq_mask, seen.cq_mask, sq_entries, cq_entries];
    let there = [word::SQ_MASK, word::CQ_MASK, word::SQ_ENTRIES, word::CQ_ENTRIES].map(|i| ring.word(i));
    let counts = (ring.word(word::SQ_HEAD), ring.word(word::CQ_TAIL));
    if words == there && counts != (sq_head, cq_tail) {
        // Something has come to its end since the kernel told the numbers.
        return Err(UNDER_WAY.to_owned());
    }
    if words != there {
        return Err("this kernel lays rings out in another way: not supported".to_owned());
    }
    let reported = cq_tail.wrapping_add(ring.word(word::CQ_OVERFLOW)).wrapping_add(ring.word(word::SQ_DROPPED));
    match sq_head.wrapping_sub(reported) as i32 {
        _ if seen.polls > 0 => return Err(UNDER_WAY.to_owned()),
        _ if seen.overflown > 0 => return Err("completions wait in it that found no place: not supported".to_owned()),
        0 => {}
        1.. => return Err(UNDER_WAY.to_owned()),
        _ => {
            let reason =
                "it has reported more completions than it was given requests, so that what is under way can't be known";
            return Err(reason.to_owned());
        }
    }
    // With nothing under way the kernel writes nothing there meanwhile.
    let sizes = ringsizes::find(&uring, copy, &ring)?;
    uring.flags |= sizes.flags;
    let ring = map(OFFSETS[0], uring.ring_len())?;
    let sqes = map(OFFSETS[2], uring.sqes_len())?;
    // Where it is not certain that there are indices: programs that have them write them before they make a request;
    // where all are 0, as in a ring that has none, their order is the natural one.
    let array = Uring::array(cq_entries, uring.flags) as usize / 4;
    let indices = array..array + sq_entries as usize;
    if !sizes.indices && (!ring.is_whole() || indices.clone().all(|i| ring.word(i) == 0)) {
        uring.flags |= NO_SQARRAY;
    }
    uring.flags |= flags;
    if flags & SINGLE_ISSUER == 0 && polls(copy) {
        uring.flags |= IOPOLL;
    }
    let mut bytes = ring.bytes(uring.ring_len());
    bytes.extend(sqes.bytes(uring.sqes_len()));
    Ok((uring, bytes))
}

/// Why a ring can't be mapped.
fn unmapped(error: io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) => {
            "a ring in memory of the program's own (IORING_SETUP_NO_MMAP) is not supported".to_owned()
        }
        _ => format!("it can't be looked at: {error}"),
    }
}

/// Whose a ring is, as flags, or what it has that can't be made again. Of one with a single issuer that one must be asked
/// for the rest ([`issuers`]).
fn owned(seen: &Ring, copy: BorrowedFd<'_>) -> Result<u32, &'static str> {
    let polled = if seen.sq_thread.is_some() { SQPOLL } else { 0 };
    let entered = uring::enter(copy, 0).err().and_then(|e| e.raw_os_error());
    if entered == Some(libc::EOWNERDEAD) {
        return Err("a thread of the kernel that takes its requests (IORING_SETUP_SQPOLL) and has ended");
    }
    match uring::try_register(copy, REGISTER_EVENTFD) {
        libc::EFAULT | libc::EBUSY => {}
        libc::EEXIST if polled == 0 && uring::get_events(copy) == libc::EEXIST => {
            return Ok(SINGLE_ISSUER | DEFER_TASKRUN);
        }
        libc::EEXIST => return Ok(SINGLE_ISSUER | polled),
        _ => return Err(RESTRICTED),
    }
    let disabled = entered == Some(libc::EBADFD);
    if disabled && uring::try_register(copy, REGISTER_RESTRICTIONS) != libc::EFAULT {
        return Err(RESTRICTED);
    }
    if has_groups((0..GROUPS).map(|group| uring::buffers(copy, group))) {
        return Err(GROUPS_OF_BUFFERS);
    }
    Ok(polled | if disabled { DISABLED } else { 0 })
}

/// By the errnos of asking for each: of groups whose buffers were provided by requests it says EINVAL; kernels before 6.8
/// say so always.
fn has_groups(errnos: impl Iterator<Item = i32>) -> bool {
    let errnos: Vec<i32> = errnos.collect();
    errnos.contains(&0) || errnos.contains(&libc::ENOENT) && errnos.contains(&libc::EINVAL)
}

/// Whether it polls devices: it takes no NAPI settings then, which an ordinary ring does.
fn polls(copy: BorrowedFd<'_>) -> bool {
    refuses_napi(uring::try_register(copy, REGISTER_NAPI))
}

fn refuses_napi(errno: i32) -> bool {
    let ordinary = || uring::setup(1, 0, 0).map(|(fd, _)| uring::try_register(fd.as_fd(), REGISTER_NAPI));
    errno == libc::EINVAL && ordinary().is_ok_and(|e| e == libc::EFAULT)
}

/// Finds the threads that rings with a single issuer belong to: to all others the kernel says EEXIST. Those are asked for what
/// nobody else may ask.
pub(super) fn issuers(
    held: &mut Held,
    files: &mut [OpenFile],
    descriptors: &HashMap<TableOf, Vec<Descriptor>>,
) -> Result<(), Error> {
    let eventfds = (0u32..).zip(&*files).filter(|(_, file)| matches!(file.kind, Kind::Eventfd(_)));
    let eventfds: BTreeSet<u32> = eventfds.map(|(index, _)| index).collect();
    for (index, file) in (0u32..).zip(files) {
        let Kind::Uring(ring) = &mut file.kind else { continue };
        if ring.flags & SINGLE_ISSUER == 0 {
            continue;
        }
        let tables =
            descriptors.iter().filter_map(|(table, fds)| Some((*table, fds.iter().find(|d| d.file == index)?.fd)));
        let mut tables: Vec<(TableOf, i32)> = tables.collect();
        tables.sort_unstable();
        let (mut found, mut busy) = (None, false);
        'search: for &((process, table), fd) in &tables {
            let Some(p) = held.processes.get_mut(process) else { continue };
            for thread in table.map_or(0..p.threads.len(), |thread| thread..thread + 1) {
                let Some(tid) = p.threads.get(thread).map(|t| t.tid) else { continue };
                let mut remote = p.remote(thread)?;
                if register(&mut remote, fd, REGISTER_EVENTFD)? != libc::EEXIST {
                    busy = ask_issuer(&mut remote, fd, ring)?.map_err(|what| refused(tid, what))?;
                    found = Some(tid);
                    break 'search;
                }
            }
        }
        ring.issuer = found;
        if busy {
            let theirs = tables.iter().filter_map(|(table, _)| descriptors.get(table)).flatten().map(|d| d.file);
            let eventfd = only_one(theirs.filter(|file| eventfds.contains(file)));
            ring.eventfd = Some(
                eventfd
                    .ok_or_else(|| refused(found.unwrap_or(Pid(0)), "registering one of several eventfds with it"))?,
            );
        }
        if found.is_none() {
            let pid =
                tables.first().and_then(|((process, _), _)| held.processes.get(*process)).map_or(Pid(0), |p| p.pid);
            return Err(refused(pid, "a ring of a thread that has ended (IORING_SETUP_SINGLE_ISSUER)"));
        }
    }
    Ok(())
}

/// What a ring's own thread tells of it: whether an eventfd is registered; or what can't be made again.
fn ask_issuer(remote: &mut Remote<'_>, fd: i32, ring: &mut Uring) -> Result<Result<bool, &'static str>, Error> {
    let busy = match register(remote, fd, REGISTER_EVENTFD)? {
        libc::EFAULT => false,
        libc::EBUSY => true,
        _ => return Ok(Err(RESTRICTED)),
    };
    if refuses_napi(register(remote, fd, REGISTER_NAPI)?) {
        ring.flags |= IOPOLL;
    }
    let status = remote.scratch();
    let mut errnos = Vec::with_capacity(GROUPS as usize);
    for group in 0..GROUPS {
        // struct io_uring_buf_status is ten words.
        let words = [group, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        remote.write(status, &words.map(u32::to_ne_bytes).concat())?;
        let args = [fd as u64, u64::from(REGISTER_PBUF_STATUS), status.0, 1, 0, 0];
        errnos.push(errno(remote.try_call(libc::SYS_io_uring_register, args)?));
    }
    Ok(if has_groups(errnos.into_iter()) { Err(GROUPS_OF_BUFFERS) } else { Ok(busy) })
}

/// As [`uring::try_register`], in the program.
fn register(remote: &mut Remote<'_>, fd: i32, what: u32) -> Result<i32, Error> {
    // Nobody has memory there.
    let args = [fd as u64, u64::from(what), !7, 1, 0, 0];
    Ok(errno(remote.try_call(libc::SYS_io_uring_register, args)?))
}

fn errno(done: io::Result<u64>) -> i32 {
    done.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

fn refused(pid: Pid, what: &str) -> Error {
    Error::Refused(vec![Refusal {
        pid,
        object: "io_uring".to_owned(),
        reason: format!("{what} is not supported"),
        hint: AVOID.to_owned(),
    }])
}

/// Mappings get the descriptions of their rings, which they know by `inodes` until now.
pub(super) fn settle(
    memory: &mut Memory,
    pid: Pid,
    inodes: &[u64],
    rings: &HashMap<u64, u32>,
    refusals: &mut Refusals,
) {
    for vma in &mut memory.vmas {
        let Backing::Ring { file, .. } = &mut vma.backing else { continue };
        match inodes.get(*file as usize).and_then(|inode| rings.get(inode)) {
            Some(&found) => *file = found,
            None => {
                let reason = "it is of an io_uring that nobody in the tree has a descriptor of: not supported";
                refusals.add(pid, format!("mapping at {}", vma.start), reason, AVOID);
            }
        }
    }
}

/// Refuses buffers that are not in the memory of the process that has registered them any more, so that it can't register
/// them again: they were unmapped since, or came from another ring.
pub(super) fn buffers_there(
    memory: &Memory,
    pid: Pid,
    open: &[Descriptor],
    files: &[OpenFile],
    refusals: &mut Refusals,
) {
    let rings = open.iter().filter_map(|d| match files.get(d.file as usize).map(|f| &f.kind) {
        Some(Kind::Uring(ring)) => Some((d.fd, ring)),
        _ => None,
    });
    for (fd, ring) in rings {
        let there = |(start, len): &(Addr, u32)| is_writable(memory, start.0, start.0.saturating_add(u64::from(*len)));
        if !ring.buffers.iter().flatten().all(there) {
            let reason = "a buffer is registered with it that is not in writable memory any more: not supported";
            refusals.add(pid, format!("fd {fd} (io_uring)"), reason, AVOID);
        }
    }
}

fn is_writable(memory: &Memory, mut from: u64, to: u64) -> bool {
    const PROT_WRITE: u32 = 2;
    for vma in &memory.vmas {
        if (vma.start.0..vma.end.0).contains(&from) && vma.prot & PROT_WRITE != 0 {
            from = vma.end.0;
        }
    }
    from >= to
}

/// What a thread is asked.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<Call>);

/// Asks a thread for numbers under which it has registered rings (IORING_REGISTER_RING_FDS): nothing shows them.
pub(super) fn ask(calls: &mut Calls) -> Asked {
    let args = |number| [number, 0, 0, ENTER_REGISTERED_RING, 0, 0];
    Asked((0..u64::from(MOST_RINGS)).map(|number| calls.try_call(libc::SYS_io_uring_enter, &args(number))).collect())
}

/// The numbers under which it has. A ring that is not enabled yet answers with an error of its own (EBADFD).
pub(super) fn registered(asked: &Asked, answers: &Answers) -> Vec<u32> {
    let is_one = |call| match answers.result(call).map_err(|e| e.raw_os_error()) {
        Ok(_) => true,
        Err(error) => !matches!(error, Some(libc::EBADF | libc::EINVAL)),
    };
    (0..).zip(&asked.0).filter(|(_, call)| is_one(**call)).map(|(number, _)| number).collect()
}

/// The only ring that a thread with these descriptors can use.
///
/// # Errors
/// If there are more: which one it has registered does not show.
pub(super) fn only(files: &[OpenFile], fds: &[Descriptor], tid: Pid) -> Result<u32, Error> {
    let usable = |file: &u32| match files.get(*file as usize).map(|f| &f.kind) {
        Some(Kind::Uring(ring)) => ring.issuer.is_none_or(|issuer| issuer == tid),
        _ => false,
    };
    let rings: BTreeSet<u32> = fds.iter().map(|d| d.file).filter(usable).collect();
    match (rings.first(), rings.len()) {
        (Some(ring), 1) => Ok(*ring),
        _ => Err(refused(
            tid,
            "registering with a thread (IORING_REGISTER_RING_FDS) one of several rings that it may use",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sq: u32, cq: u32, sq_head: u32, cq_tail: u32) -> Ring {
        Ring { sq_mask: sq - 1, cq_mask: cq - 1, sq_head, cq_tail, ..Ring::default() }
    }

    #[test]
    fn what_is_under_way_is_counted() {
        // Where the kernel or an administrator forbids rings there is nothing to look at.
        let Ok((fd, _)) = uring::setup(4, 0, 0) else { return };
        let (uring, bytes) = look(&seen(4, 8, 0, 0), fd.as_fd()).unwrap();
        assert_eq!((uring.flags, bytes.len() as u64), (0, uring.ring_len() + uring.sqes_len()));
        let ring = Map::new(fd.as_fd(), 0, uring.ring_len()).unwrap();
        ring.set(word::SQ_TAIL, 3);
        assert_eq!(uring::enter(fd.as_fd(), 3).unwrap(), 3);
        ring.set(Uring::array(8, 0) as usize / 4 + 1, 1);
        assert_eq!(look(&seen(4, 8, 3, 3), fd.as_fd()).unwrap().0.flags, 0);
        ring.set(word::SQ_DROPPED, 1);
        assert!(look(&seen(4, 8, 3, 3), fd.as_fd()).unwrap_err().contains("more completions"));
        assert_eq!(look(&Ring { polls: 1, ..seen(4, 8, 3, 3) }, fd.as_fd()).unwrap_err(), UNDER_WAY);
        assert!(look(&seen(4, 16, 3, 3), fd.as_fd()).unwrap_err().contains("lays rings out"));
    }

    #[test]
    fn rings_of_one_thread_are_seen() {
        for flags in [SINGLE_ISSUER, SINGLE_ISSUER | DEFER_TASKRUN] {
            let Ok((fd, _)) = std::thread::spawn(move || uring::setup(4, 0, flags)).join().unwrap() else { return };
            let seen = look(&seen(4, 8, 0, 0), fd.as_fd()).unwrap().0;
            assert_eq!(seen.flags, flags);
        }
        let Ok((fd, _)) = uring::setup(4, 0, DISABLED) else { return };
        assert_eq!(look(&seen(4, 8, 0, 0), fd.as_fd()).unwrap().0.flags, DISABLED);
    }
}
