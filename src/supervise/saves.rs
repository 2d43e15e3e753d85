//! Saves of a job, one after the other, each on a thread of its own.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::engine;
use super::failure::MORE_THREADS;
use super::protocol::{SaveRequest, Saved, Survey};
use super::{Error, Failure, FailureKind, plain};
use crate::capture::{Keep, Output};
use crate::sys::sched::{Untied, start_here};
use crate::sys::spawn::UntoldStops;

/// Saves that may wait for their turn.
const LONGEST_QUEUE: usize = 64;

/// A save that a client asked for.
#[derive(Debug)]
pub struct Order {
    /// The client.
    pub peer: u64,
    /// What it asked for.
    pub request: SaveRequest,
    /// The stream it sent along.
    pub stream: Option<File>,
}

/// Everything a save thread needs, owned by it.
#[derive(Debug)]
pub struct Work {
    /// Root of the tree.
    pub root: i32,
    /// See [`engine::Save::reaper`].
    pub reaper: Option<i32>,
    /// The job.
    pub name: String,
    /// Where the image goes.
    pub output: Output,
    /// Contents of which files go into it.
    pub keep: Keep,
    /// The request it comes from.
    pub request: SaveRequest,
}

/// What came of it.
#[derive(Debug)]
pub enum Report {
    /// There is an image.
    Saved(Saved),
    /// It was only looked at.
    Surveyed(Survey),
}

/// A save that is done.
#[derive(Debug)]
pub struct Done {
    /// The client that asked for it.
    pub peer: u64,
    /// Whether it was of the whole job.
    pub whole: bool,
    /// What came of it.
    pub result: Result<Report, Failure>,
}

struct Running {
    peer: u64,
    whole: bool,
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<Result<Report, Failure>>,
}

/// The queue, and the save that is going on.
pub struct Saves {
    queue: VecDeque<Order>,
    running: Option<Running>,
    done: Arc<EventFd>,
}

impl Saves {
    /// None yet.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> Result<Saves, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let done = EventFd::from_value_and_flags(0, flags).map_err(Error::io("make", "an eventfd"))?;
        Ok(Saves { queue: VecDeque::new(), running: None, done: Arc::new(done) })
    }

    /// Becomes readable when a save is done.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }

    /// Whether a save is going on. Children must not be waited for meanwhile: the wait would take the stops that are
    /// meant for the tracing thread, as a child traced by its own parent reports them to all its threads.
    pub fn busy(&self) -> bool {
        self.running.is_some()
    }

    /// Lines a save up; `Err`: too many wait already.
    pub fn order(&mut self, order: Order) -> Result<(), Failure> {
        if self.queue.len() >= LONGEST_QUEUE {
            return Err(Failure::new(FailureKind::Failed, "too many saves wait for their turn", ""));
        }
        self.queue.push_back(order);
        Ok(())
    }

    /// The next one that may start now.
    pub fn next(&mut self) -> Option<Order> {
        if self.busy() { None } else { self.queue.pop_front() }
    }

    /// All that wait; they will not be done.
    pub fn give_up(&mut self) -> impl Iterator<Item = Order> + '_ {
        self.queue.drain(..)
    }

    /// Starts one; only when none is going on.
    pub fn start(&mut self, peer: u64, work: Work) -> Result<(), Failure> {
        let cancel = Arc::new(AtomicBool::new(false));
        let (flag, done) = (Arc::clone(&cancel), Arc::clone(&self.done));
        let whole = work.request.pid.is_none();
        let body = move |untied: Untied| {
            untied.go();
            // The supervisor looks after its children as soon as the save is done.
            let stops = UntoldStops::begin();
            let result = catch_unwind(AssertUnwindSafe(|| run(work, &flag)));
            drop(stops);
            let _ = done.write(1);
            result.unwrap_or_else(|_| Err(Failure::new(FailureKind::Failed, "the save broke off: a bug in ckpt", "")))
        };
        let start = |untied| std::thread::Builder::new().name("ckpt-save".into()).spawn(|| body(untied));
        let thread = start_here(start).map_err(|error| {
            let text = format!("cannot start a thread: {}", plain(&error));
            Failure::new(FailureKind::Failed, text, MORE_THREADS)
        })?;
        self.running = Some(Running { peer, whole, cancel, thread });
        Ok(())
    }

    /// The save that is done, once [`Saves::fd`] is readable.
    pub fn take_done(&mut self) -> Option<Done> {
        self.done.read().ok()?;
        self.join()
    }

    fn join(&mut self) -> Option<Done> {
        let Running { peer, whole, thread, .. } = self.running.take()?;
        let result = thread
            .join()
            .unwrap_or_else(|_| Err(Failure::new(FailureKind::Failed, "the save broke off: a bug in ckpt", "")));
        Some(Done { peer, whole, result })
    }

    /// Waits for the save that is going on, if there is one.
    pub fn wait(&mut self) -> Option<Done> {
        let done = self.join();
        let _ = self.done.read();
        done
    }

    /// Gives up what `peer` asked for; saves of it that only waited are returned.
    pub fn cancel(&mut self, peer: u64) -> Vec<Order> {
        if let Some(running) = self.running.as_ref().filter(|running| running.peer == peer) {
            running.cancel.store(true, Ordering::Relaxed);
        }
        let (theirs, others) = self.queue.drain(..).partition::<Vec<_>, _>(|order| order.peer == peer);
        self.queue = others.into();
        theirs
    }
}

fn run(work: Work, cancel: &AtomicBool) -> Result<Report, Failure> {
    let timeout = work.request.timeout();
    let Work { root, reaper, name, output, keep, request } = work;
    let save = engine::Save { root, reaper, name: &name, output, keep, after: request.after, timeout, cancel };
    let report = if request.dry_run {
        engine::survey(save).map(Report::Surveyed)
    } else {
        engine::save(save).map(Report::Saved)
    };
    report.map_err(Failure::from)
}
