//! Threads that help for a moment, and stay awake for it.
//!
//! # Safety
//! What is to be done is handed to them as a pointer without a lifetime. It stays good: [`Helpers::with`] returns, or goes on
//! panicking, only when no more of them may join and those who did are through with it; the others do not touch it.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::hint;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Builder, JoinHandle};

use super::sched;

/// Looks for work, each of about a microsecond, after which a helper lies down to sleep.
const LOOKS: usize = 20_000;

type Work = dyn Fn() + Sync;

/// Some threads that wait for work without sleeping (for some 20 ms). To begin one, or to wake it, takes a hypervisor as long as
/// they need for what there is to do while a small tree is held; and the processors are the tree's, which stands still.
#[derive(Debug)]
pub struct Helpers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Counts the pieces of work.
    told: AtomicUsize,
    /// What is to be done; null before the first.
    work: UnsafeCell<Option<*const Work>>,
    /// How many are at it, and [`OPEN`] while more may join.
    at_it: AtomicUsize,
    panicked: AtomicBool,
    end: AtomicBool,
}

/// Above every count of threads.
const OPEN: usize = 1 << 32;

// SAFETY: `work` is written only while no helper reads it: while nobody is at it and nobody may join.
unsafe impl Sync for Shared {}
// SAFETY: what it points to is shared among threads (`Sync`), see the head of this file.
unsafe impl Send for Shared {}

impl Helpers {
    /// So many, on other processors than this thread's; fewer where no more threads are to be had.
    pub fn begin(count: usize) -> Helpers {
        let shared = Arc::new(Shared::default());
        let elsewhere = sched::Whereabouts::now().and_then(|now| now.elsewhere());
        let start = |_| {
            let (shared, elsewhere) = (Arc::clone(&shared), elsewhere.clone()?);
            let help = move || {
                // It helps from here, too.
                let _ = sched::set_affinity(0, &elsewhere);
                shared.help();
            };
            Builder::new().name("ckpt-helper".into()).spawn(help).ok()
        };
        let threads = (0..count).map_while(start).collect();
        Helpers { shared, threads }
    }

    /// Does `work`, and has those of them do it, too, that come to it meanwhile; returns when everybody has who began.
    pub fn with(&mut self, work: &(dyn Fn() + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; see the head of this file.
        let lasting = unsafe { std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const Work>(work) };
        // SAFETY: nobody is at it, and nobody joins.
        unsafe { *shared.work.get() = Some(lasting) };
        shared.at_it.store(OPEN, Ordering::Release);
        shared.told.fetch_add(1, Ordering::Release);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        let own = catch_unwind(AssertUnwindSafe(work));
        shared.at_it.fetch_sub(OPEN, Ordering::AcqRel);
        while shared.at_it.load(Ordering::Acquire) > 0 {
            rest();
        }
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a helper panicked");
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        // Nobody waits for them to be gone: whoever is done is in a hurry.
        self.shared.end.store(true, Ordering::Release);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
    }
}

impl Shared {
    fn help(&self) {
        let (mut done, mut looks) = (0, 0);
        while !self.end.load(Ordering::Acquire) {
            let told = self.told.load(Ordering::Acquire);
            if told != done {
                (done, looks) = (told, 0);
                self.join();
            } else if looks < LOOKS {
                looks += 1;
                rest();
            } else {
                thread::park();
            }
        }
    }

    /// Does what there is to do, unless the one who told it is through with it.
    fn join(&self) {
        let one_more = |at_it| (at_it >= OPEN).then_some(at_it + 1);
        if self.at_it.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            return;
        }
        // SAFETY: it was written before others could join, and is good while somebody is at it.
        let work = unsafe { (*self.work.get()).map(|work| &*work) };
        if work.is_some_and(|work| catch_unwind(AssertUnwindSafe(work)).is_err()) {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.at_it.fetch_sub(1, Ordering::Release);
    }
}

/// For about a microsecond; whoever else wants the processor has it.
fn rest() {
    (0..20).for_each(|_| hint::spin_loop());
    thread::yield_now();
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn each_does_it_once() {
        let mut helpers = Helpers::begin(3);
        for round in 0..200 {
            let (together, count) = (Barrier::new(4), AtomicUsize::new(0));
            helpers.with(&|| {
                together.wait();
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 4, "{round}");
        }
    }

    #[test]
    fn who_comes_late_does_nothing() {
        let mut helpers = Helpers::begin(1);
        let count = AtomicUsize::new(0);
        helpers.with(&|| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let done = count.load(Ordering::Relaxed);
        helpers.shared.join();
        assert_eq!(count.load(Ordering::Relaxed), done);
    }

    #[test]
    fn those_who_sleep_are_woken() {
        let mut helpers = Helpers::begin(2);
        let sleeps = |thread: &JoinHandle<()>| !thread.is_finished();
        thread::sleep(std::time::Duration::from_millis(300));
        assert!(helpers.threads.iter().all(sleeps));
        let together = Barrier::new(3);
        helpers.with(&|| {
            together.wait();
        });
    }

    #[test]
    fn a_panic_is_passed_on_when_all_are_done() {
        let mut helpers = Helpers::begin(1);
        let me = thread::current().id();
        for own in [true, false] {
            let together = Barrier::new(2);
            let failed = catch_unwind(AssertUnwindSafe(|| {
                helpers.with(&|| {
                    together.wait();
                    assert_ne!(thread::current().id() == me, own);
                });
            }));
            assert!(failed.is_err());
        }
        helpers.with(&|| {});
    }
}
