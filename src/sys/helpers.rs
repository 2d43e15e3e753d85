//! Threads that help for a moment, and stay awake for it.
//!
//! # Safety
//! What is to be done is handed to them as a pointer without a lifetime. It stays good: [`Helpers::with`] returns, or goes on
//! panicking, only when all of them are through with it, and they touch it only between being told and saying so.
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
    /// How many are not through with it yet.
    left: AtomicUsize,
    panicked: AtomicBool,
    end: AtomicBool,
}

// SAFETY: `work` is written only while no helper reads it: before `told` is raised, after `left` has come to 0.
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

    /// Has all of them do `work`, and does it, too; returns when everybody has.
    pub fn with(&mut self, work: &(dyn Fn() + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; see the head of this file.
        let lasting = unsafe { std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const Work>(work) };
        // SAFETY: nobody reads it now.
        unsafe { *shared.work.get() = Some(lasting) };
        shared.left.store(self.threads.len(), Ordering::Relaxed);
        shared.told.fetch_add(1, Ordering::Release);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
        let own = catch_unwind(AssertUnwindSafe(work));
        while shared.left.load(Ordering::Acquire) > 0 {
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
                // SAFETY: it was written before `told` was raised, and is good until `left` is 0.
                let work = unsafe { (*self.work.get()).map(|work| &*work) };
                if work.is_some_and(|work| catch_unwind(AssertUnwindSafe(work)).is_err()) {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                self.left.fetch_sub(1, Ordering::Release);
            } else if looks < LOOKS {
                looks += 1;
                rest();
            } else {
                thread::park();
            }
        }
    }
}

/// For about a microsecond; whoever else wants the processor has it.
fn rest() {
    (0..20).for_each(|_| hint::spin_loop());
    thread::yield_now();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_does_it_once() {
        let mut helpers = Helpers::begin(3);
        for round in 0..200 {
            let count = AtomicUsize::new(0);
            helpers.with(&|| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 4, "{round}");
        }
    }

    #[test]
    fn those_who_sleep_are_woken() {
        let mut helpers = Helpers::begin(2);
        let sleeps = |thread: &JoinHandle<()>| !thread.is_finished();
        thread::sleep(std::time::Duration::from_millis(300));
        assert!(helpers.threads.iter().all(sleeps));
        let count = AtomicUsize::new(0);
        helpers.with(&|| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 3);
    }

    #[test]
    fn a_panic_is_passed_on_when_all_are_done() {
        let mut helpers = Helpers::begin(1);
        let me = thread::current().id();
        for own in [true, false] {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                helpers.with(&|| assert_ne!(thread::current().id() == me, own));
            }));
            assert!(failed.is_err());
        }
        helpers.with(&|| {});
    }
}
