//! The first half of a save: all that can be seen of a held tree from outside, and all that stands in the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::tree::Tree;
use crate::proc::many;
use crate::tracer::{Held, HeldProcess, HeldThread};

use super::contents::Contents;
use super::mapped::Mapped;
use super::memory::{SharedAnon, Whole};
use super::refusals::Refusals;
use super::reserve::Reserve;
use super::{
    Error, Inside, Request, SaveFiles, aio, fanotify, fd, gone, ipc, keep, memory, namespaces, process, sharing,
    thread, tree, uring,
};

/// What was seen.
#[derive(Debug)]
pub(super) struct Looked {
    pub tree: Tree,
    pub processes: Vec<LookedProcess>,
    pub fds: fd::Captured,
    pub contents: Contents,
    pub mapped: Mapped,
    pub shared: SharedAnon,
    pub ipc: ipc::Seen,
    pub inside: Inside,
    pub refusals: Refusals,
}

/// What was seen of one living process.
#[derive(Debug)]
pub(super) struct LookedProcess {
    /// Index among the held processes.
    pub index: usize,
    pub seen: process::Seen,
    pub memory: memory::Seen,
}

/// Fails if the save was given up.
pub(super) fn unless_cancelled(cancel: &AtomicBool) -> Result<(), Error> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}

/// The root of a held tree and its index.
pub(super) fn root_of(held: &Held, host: i32) -> Result<(usize, &HeldProcess), Error> {
    held.processes.iter().enumerate().find(|(_, p)| p.host == host).ok_or(Error::Vanished { pid: host })
}

/// What one processor reads while another reads something else.
enum Reading<'a> {
    /// A process, by its index.
    Process(usize, &'a HeldProcess),
    /// [`CROWD`] threads, of whichever processes.
    Threads(&'a [&'a HeldThread]),
}

/// So many threads take about as long as a small process.
const CROWD: usize = 16;

enum Read {
    /// Without memory that another one has.
    Process(Box<OfProcess>),
    Threads(Vec<thread::Read>),
}

type OfProcess = (process::Read, Option<memory::Read>);

impl Reading<'_> {
    fn read(&self, inside: &Inside) -> Result<Read, Error> {
        match self {
            Reading::Process(index, p) => {
                let elsewhere = inside.shares.get(index).is_some_and(|s| s.memory.is_some());
                let memory = if elsewhere { None } else { Some(memory::read(p)?) };
                Ok(Read::Process(Box::new((process::read(p)?, memory))))
            }
            Reading::Threads(some) => some.iter().map(|t| thread::read(t)).collect::<Result<_, _>>().map(Read::Threads),
        }
    }
}

/// Reads all there is of processes and their threads, in their order.
fn read_all(
    alive: &[(usize, &HeldProcess)],
    inside: &Inside,
    cancel: &AtomicBool,
) -> Result<(Vec<OfProcess>, Vec<thread::Read>), Error> {
    let threads: Vec<&HeldThread> = alive.iter().flat_map(|(_, p)| &p.threads).collect();
    let crowds = threads.chunks_exact(CROWD);
    let few = crowds.remainder();
    let processes = alive.iter().map(|&(index, p)| Reading::Process(index, p));
    let readings: Vec<Reading<'_>> = processes.chain(crowds.map(Reading::Threads)).collect();
    let (mut of_processes, mut of_threads) = (Vec::with_capacity(alive.len()), Vec::with_capacity(threads.len()));
    let read = many::each(&readings, 2, |reading| {
        unless_cancelled(cancel)?;
        reading.read(inside)
    });
    for read in read? {
        match read {
            Read::Process(read) => of_processes.push(*read),
            Read::Threads(some) => of_threads.extend(some),
        }
    }
    for t in few {
        of_threads.push(thread::read(t)?);
    }
    Ok((of_processes, of_threads))
}

/// Looks at everything. `queues`: also into those of connections that nobody has accepted, if something was sent over them.
pub(super) fn look(held: &Held, request: &Request<'_>, reserve: &Arc<Reserve>, queues: bool) -> Result<Looked, Error> {
    let (cancel, keep) = (request.cancel, &request.keep);
    let (root_index, root) = root_of(held, request.root)?;
    let mut refusals = Refusals::default();
    let view = namespaces::look(held, root, &mut refusals)?;
    let inside = Inside::of(held, sharing::look(held, &mut refusals)?);
    let seen_fds = fd::look(held, &inside)?;
    fanotify::first(held, &seen_fds, &mut refusals)?;
    let mut mapped = Mapped::new(keep.files != SaveFiles::None);
    let mut shared = SharedAnon::default();
    let mut contents = Contents::new(Arc::clone(reserve));
    let (mut maps_of_gone, mut aio_rings, mut rings) = (Vec::new(), Vec::new(), Vec::new());
    let alive: Vec<(usize, &HeldProcess)> =
        held.processes.iter().enumerate().filter(|(_, p)| !p.threads.is_empty()).collect();
    let (of_processes, of_threads) = read_all(&alive, &inside, cancel)?;
    let mut of_threads = of_threads.into_iter();
    let mut processes = Vec::new();
    for ((index, p), (process, memory)) in alive.into_iter().zip(of_processes) {
        unless_cancelled(cancel)?;
        let read = (process, of_threads.by_ref().take(p.threads.len()).collect());
        let seen = process::look(p, read, &inside, &view, &mut mapped, &mut contents.nameless, &mut refusals)?;
        let mut whole = Whole {
            view: &view,
            mapped: &mut mapped,
            shared: &mut shared,
            gone: &mut maps_of_gone,
            aio: &mut aio_rings,
            rings: &mut rings,
            refusals: &mut refusals,
        };
        let memory = match memory {
            Some(memory) => memory::look(p, index, memory, &mut whole),
            None => memory::elsewhere(p)?,
        };
        processes.push(LookedProcess { index, seen, memory });
    }
    // Nothing more can be seen then.
    if !held.processes.iter().all(|p| p.threads.is_empty() || process::threads_descriptors(p, &inside)) {
        return Err(Error::Refused(refusals.0));
    }
    let ipc = ipc::look(held, root, &inside, &mut shared, &mut refusals)?;
    unless_cancelled(cancel)?;
    let files = fd::Files { view: &view, mapped: &mut mapped, keep: &keep.files };
    let fds = fd::capture(held, root_index, &inside, seen_fds, (files, queues), &mut contents, &mut refusals)?;
    for process in &mut processes {
        let pid = held.processes.get(process.index).map_or(root.pid, |p| p.pid);
        uring::settle(&mut process.memory.memory, pid, &rings, &fds.rings, &mut refusals);
        let open = fds.descriptors.get(&(process.index, None)).map_or(&[][..], Vec::as_slice);
        uring::buffers_there(&process.memory.memory, pid, open, &fds.files, &mut refusals);
    }
    let users = processes.iter().filter_map(|l| {
        let pid = held.processes.get(l.index)?.pid;
        Some((pid, &l.seen.exe, l.memory.memory.vmas.as_slice()))
    });
    keep::mapped(keep, &view, users, &mut mapped, &mut contents, &mut refusals)?;
    unless_cancelled(cancel)?;
    if keep.files == SaveFiles::None {
        gone::refuse(root.pid, &mapped, &mut refusals);
    }
    if refusals.0.is_empty() {
        aio::capture(held, &mut processes, &mut refusals)?;
        gone::capture(held, &maps_of_gone, &mut mapped, &mut contents)?;
    }
    let tree = tree::capture(held, root, request.reaper, &inside.shares);
    Ok(Looked { tree, processes, fds, contents, mapped, shared, ipc, inside, refusals })
}
