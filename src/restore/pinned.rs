//! One processor for a resume. We and the processes under construction take turns, thousands of times: to wake somebody
//! on another processor, which may be asleep, takes longer than what he is woken for.

use std::cell::RefCell;

use crate::sys::sched::{self, Whereabouts};

/// Ties this thread, and what is born of it, to the processor it is on. Dropped, by whomever, it lets this thread go.
#[derive(Debug)]
pub struct Pinned {
    /// Whom it ties.
    tid: i32,
    /// `None`: it is not tied.
    place: Option<Whereabouts>,
    /// Threads that are to go elsewhere in the end, and where.
    later: RefCell<Vec<(i32, Vec<u8>)>>,
}

impl Pinned {
    /// Where that fails nobody is tied to anything.
    pub fn here() -> Pinned {
        Pinned { tid: nix::unistd::gettid().as_raw(), place: sched::tie(), later: RefCell::default() }
    }

    /// Where this thread might run before, but not where it is tied to: see [`Whereabouts::elsewhere`].
    pub fn elsewhere(&self) -> Option<Vec<u8>> {
        self.place.as_ref()?.elsewhere()
    }

    /// Lets a thread go wherever this one might.
    pub fn loosen(&self, tid: i32) {
        if let Some(place) = &self.place {
            // It has ended if this fails.
            let _ = sched::set_affinity(tid, &place.everywhere);
        }
    }

    /// Ties a thread once more that has been told where it may run, until [`Pinned::settle`]. It must still be ours to tell
    /// then.
    pub fn hold_back(&self, tid: i32) {
        let wanted = sched::affinity(tid);
        if let (Ok(wanted), Some(place)) = (wanted, &self.place) {
            if sched::set_affinity(tid, &place.here).is_ok() {
                self.later.borrow_mut().push((tid, wanted));
            }
        }
    }

    /// Lets those go that were held back.
    pub fn settle(&self) {
        for (tid, wanted) in self.later.borrow_mut().drain(..) {
            if sched::set_affinity(tid, &wanted).is_err() {
                self.loosen(tid);
            }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.loosen(self.tid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_where_he_was_in_the_end() {
        let before = sched::affinity(0).unwrap();
        let pinned = Pinned::here();
        let count = |bits: &[u8]| bits.iter().map(|b| b.count_ones()).sum::<u32>();
        assert_eq!(count(&sched::affinity(0).unwrap()), 1);
        std::thread::scope(|scope| {
            let (told, hear) = std::sync::mpsc::channel();
            let (end, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                told.send(nix::unistd::gettid().as_raw()).unwrap();
                let _ = wait.recv();
            });
            let tid = hear.recv().unwrap();
            assert_eq!(count(&sched::affinity(tid).unwrap()), 1);
            pinned.loosen(tid);
            assert_eq!(sched::affinity(tid).unwrap(), before);
            pinned.hold_back(tid);
            assert_eq!(count(&sched::affinity(tid).unwrap()), 1);
            pinned.settle();
            assert_eq!(sched::affinity(tid).unwrap(), before);
            drop(end);
        });
        drop(pinned);
        assert_eq!(sched::affinity(0).unwrap(), before);
    }
}
