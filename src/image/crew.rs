//! Threads that work through a list of jobs, each with a buffer of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;

use super::buffer::Buffer;
use super::error::{Error, Result};

/// The state a crew shares.
pub(super) struct Crew<'a> {
    cancel: &'a AtomicBool,
    next: AtomicUsize,
    failed: AtomicBool,
}

impl<'a> Crew<'a> {
    /// A crew that stops, with [`Error::Cancelled`], soon after `cancel` was raised.
    pub(super) fn new(cancel: &'a AtomicBool) -> Crew<'a> {
        Crew { cancel, next: AtomicUsize::new(0), failed: AtomicBool::new(false) }
    }

    /// Does jobs `0..jobs` on `threads` threads (this one is among them) with buffers of `buffer` bytes. Jobs are begun
    /// in order; what they returned comes back with their numbers, in no order.
    ///
    /// # Errors
    /// The error of a job that failed; no other is begun after that.
    pub(super) fn run<R: Send>(
        &self,
        threads: usize,
        jobs: usize,
        buffer: usize,
        work: impl Fn(usize, &mut [u8]) -> Result<R> + Sync,
    ) -> Result<Vec<(usize, R)>> {
        let one = || {
            let _guard = FailOnPanic(self);
            self.work(jobs, buffer, &work).inspect_err(|_| self.fail())
        };
        if threads <= 1 || jobs <= 1 {
            return one();
        }
        let results = std::thread::scope(|scope| {
            // Where no thread is to be had, fewer do it all.
            let start = |_| Builder::new().spawn_scoped(scope, one).ok();
            let others: Vec<_> = (1..threads.min(jobs)).map_while(start).collect();
            let mut results = vec![one()];
            for other in others {
                results.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            results
        });
        let mut all = Vec::with_capacity(jobs);
        let mut cancelled = None;
        for result in results {
            match result {
                Ok(mut done) => all.append(&mut done),
                Err(Error::Cancelled) => cancelled = Some(Error::Cancelled),
                Err(e) => return Err(e),
            }
        }
        cancelled.map_or(Ok(all), Err)
    }

    fn work<R>(
        &self,
        jobs: usize,
        buffer: usize,
        work: &impl Fn(usize, &mut [u8]) -> Result<R>,
    ) -> Result<Vec<(usize, R)>> {
        let mut buffer = Buffer::new(buffer);
        let mut done = Vec::new();
        loop {
            self.go_on()?;
            let job = self.next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs {
                return Ok(done);
            }
            done.push((job, work(job, buffer.bytes())?));
        }
    }

    /// # Errors
    /// [`Error::Cancelled`] when it is time to stop.
    pub(super) fn go_on(&self) -> Result<()> {
        match self.cancel.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed) {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// After a job that panicked no other is begun.
struct FailOnPanic<'a>(&'a Crew<'a>);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

/// Threads that pay for a job of this size.
pub(super) fn threads_for(bytes: u64) -> usize {
    const WORTH_A_THREAD: u64 = 4 << 20;
    if bytes < WORTH_A_THREAD {
        return 1;
    }
    crate::sys::sched::processors().clamp(2, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once() {
        let cancel = AtomicBool::new(false);
        let mut done = Crew::new(&cancel).run(4, 1000, 1, |job, _| Ok(job * 2)).unwrap();
        done.sort_unstable();
        assert_eq!(done, (0..1000).map(|j| (j, j * 2)).collect::<Vec<_>>());
    }

    #[test]
    fn one_failure_ends_it_all() {
        let cancel = AtomicBool::new(false);
        let result = Crew::new(&cancel).run(4, 1000, 1, |job, _| match job {
            500 => Err(Error::NotAFile { path: "x".into() }),
            _ => Ok(()),
        });
        assert!(matches!(result, Err(Error::NotAFile { .. })));
    }

    #[test]
    fn a_panic_ends_it_all_too() {
        let cancel = AtomicBool::new(false);
        let crew = Crew::new(&cancel);
        let run = || crew.run(3, 100, 1, |job, _| if job == 7 { panic!("seven") } else { Ok(()) });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }

    #[test]
    fn a_raised_flag_cancels() {
        let cancel = AtomicBool::new(true);
        assert!(matches!(Crew::new(&cancel).run(1, 1, 1, |_, _| Ok(())), Err(Error::Cancelled)));
    }
}
