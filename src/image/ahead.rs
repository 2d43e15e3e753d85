//! Reading and hashing chunks ahead while one thread writes them: the copy into the page cache is the longest part of a
//! save and takes the file's lock, so it is done by one thread, which does nothing else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::buffer::Buffer;
use super::error::{Error, Result};

/// A chunk that was read, in one of the buffers.
struct Read<R> {
    job: usize,
    buffer: Buffer,
    result: Result<R>,
}

/// Has `readers` threads do `read` for jobs `0..jobs`, each with a buffer of `buffer` bytes; `with` is given a function
/// that waits for the next job, in order, and shows the buffer and what was returned to somebody. Without readers each
/// job is done when it is asked for.
///
/// # Errors
/// That of `with`, to which it hands on those of `read`.
pub(super) fn with_readers<R: Send, T>(
    readers: usize,
    jobs: usize,
    buffer: usize,
    read: impl Fn(usize, &mut [u8]) -> Result<R> + Sync,
    with: impl FnOnce(&mut dyn FnMut(&mut dyn FnMut(&[u8], R) -> Result<()>) -> Result<()>) -> Result<T>,
) -> Result<T> {
    if readers == 0 {
        let mut own = Buffer::new(buffer);
        let mut job = 0;
        return with(&mut |show| {
            let result = read(job, own.bytes())?;
            job += 1;
            show(own.bytes(), result)
        });
    }
    // Two for each reader, so that it finds an empty one while its last is being written; and one in the writer's hands.
    let count = 2 * readers + 1;
    let (fill, empty) = bounded(count);
    let (done, filled) = bounded(count);
    for _ in 0..count {
        let _ = fill.send(Buffer::new(buffer));
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Moved in, so that the readers see the end of the channels when this is over, however it ends.
        let (fill, filled) = (fill, filled);
        for _ in 0..readers {
            let (empty, done, next, read) = (empty.clone(), done.clone(), &next, &read);
            scope.spawn(move || reader(&empty, &done, next, jobs, read));
        }
        drop((empty, done));
        let mut early = BTreeMap::new();
        let mut job = 0;
        with(&mut |show| {
            let Read { buffer, result, .. } = take(&filled, &mut early, job)?;
            job += 1;
            let mut buffer = buffer;
            show(buffer.bytes(), result?)?;
            // Nobody needs it any more when all jobs are begun.
            let _ = fill.send(buffer);
            Ok(())
        })
    })
}

/// The lowest job that nobody has begun always has a buffer: one takes a buffer first.
fn reader<R: Send>(
    empty: &Receiver<Buffer>,
    done: &Sender<Read<R>>,
    next: &AtomicUsize,
    jobs: usize,
    read: &(impl Fn(usize, &mut [u8]) -> Result<R> + Sync),
) {
    while let Ok(mut buffer) = empty.recv() {
        let job = next.fetch_add(1, Ordering::Relaxed);
        if job >= jobs {
            return;
        }
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(job, buffer.bytes())));
        let (result, panic) = match panicked {
            Ok(result) => (result, None),
            Err(panic) => (Err(Error::Cancelled), Some(panic)),
        };
        let gone = done.send(Read { job, buffer, result }).is_err();
        if let Some(panic) = panic {
            // The writer has been told, so that it does not wait for this job for ever; the scope hands the panic on.
            std::panic::resume_unwind(panic);
        }
        if gone {
            return;
        }
    }
}

/// Waits for `job`; others that are done before it are kept.
fn take<R>(filled: &Receiver<Read<R>>, early: &mut BTreeMap<usize, Read<R>>, job: usize) -> Result<Read<R>> {
    loop {
        if let Some(read) = early.remove(&job) {
            return Ok(read);
        }
        let read = filled.recv().map_err(|_| Error::Cancelled)?;
        early.insert(read.job, read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(readers: usize, jobs: usize, read: impl Fn(usize, &mut [u8]) -> Result<usize> + Sync) -> Result<Vec<usize>> {
        with_readers(readers, jobs, 8, read, |next| {
            let mut got = Vec::new();
            for job in 0..jobs {
                next(&mut |bytes, result| {
                    assert_eq!(bytes[..8], job.to_le_bytes());
                    got.push(result);
                    Ok(())
                })?;
            }
            Ok(got)
        })
    }

    fn mark(job: usize, buf: &mut [u8]) -> Result<usize> {
        if job % 7 == 0 {
            std::thread::yield_now();
        }
        buf[..8].copy_from_slice(&job.to_le_bytes());
        Ok(job * 2)
    }

    #[test]
    fn every_job_comes_once_and_in_order() {
        for readers in [0, 1, 3] {
            assert_eq!(all(readers, 1000, mark).unwrap(), (0..1000).map(|j| j * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_failure_comes_in_its_place_and_ends_it() {
        for readers in [0, 3] {
            let failed = all(readers, 1000, |job, buf| match job {
                500 => Err(Error::NotAFile { path: "x".into() }),
                _ => mark(job, buf),
            });
            assert!(matches!(failed, Err(Error::NotAFile { .. })), "{failed:?}");
        }
    }

    #[test]
    fn the_writers_failure_ends_the_readers() {
        let failed: Result<()> =
            with_readers(2, 1000, 8, mark, |next| next(&mut |_, _| Err(Error::NotAFile { path: "y".into() })));
        assert!(matches!(failed, Err(Error::NotAFile { .. })));
    }

    #[test]
    fn a_panic_ends_it_all() {
        let run = || all(2, 100, |job, buf| if job == 7 { panic!("seven") } else { mark(job, buf) });
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
