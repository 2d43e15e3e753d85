//! A way out of a knot in the kernel. A thread that calls exec ends all others of its process and waits until each is gone
//! (fs/exec.c, `de_thread`); one that we have seized is not gone before we have waited for it. Meanwhile the caller can't be
//! seized: who tries waits until its exec is done (kernel/ptrace.c, `cred_guard_mutex`), each for the other, for ever. So another
//! thread of ours waits for the dead: any of a process may (wait(2), `__WNOTHREAD`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::sys::wait;

/// How long a thread may take to be seized before we look for the dead.
const PATIENCE: Duration = Duration::from_millis(10);

/// What both threads know.
#[derive(Debug, Default)]
struct Book {
    /// Threads that have been seized and are not the first of their process: those the kernel itself buries.
    seized: Mutex<Vec<i32>>,
    /// Odd while one is being seized; grows with each.
    attempt: AtomicU64,
    closed: AtomicBool,
}

/// Buries the dead while somebody waits for that. Its thread ends by itself when this is dropped.
#[derive(Debug)]
pub struct Undertaker(Arc<Book>);

impl Undertaker {
    /// Begins, as long as the program still runs. Without a thread it is no help, and no harm.
    pub fn begin() -> Undertaker {
        let book = Arc::new(Book::default());
        let copy = Arc::clone(&book);
        let _ = std::thread::Builder::new().name("ckpt-undertaker".into()).spawn(move || watch(&copy));
        Undertaker(book)
    }

    /// Seizes by `seize` a thread of process `pid`.
    pub fn watched<T>(&self, (pid, tid): (i32, i32), seize: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        self.0.attempt.fetch_add(1, Ordering::Relaxed);
        let seized = seize();
        self.0.attempt.fetch_add(1, Ordering::Relaxed);
        if seized.is_ok() && tid != pid {
            self.0.seized.lock().unwrap_or_else(PoisonError::into_inner).push(tid);
        }
        seized
    }
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }
}

fn watch(book: &Book) {
    let mut before = 0;
    while !book.closed.load(Ordering::Relaxed) {
        std::thread::sleep(PATIENCE);
        let now = book.attempt.load(Ordering::Relaxed);
        if now % 2 == 1 && now == before {
            let seized = book.seized.lock().unwrap_or_else(PoisonError::into_inner);
            // Of the living this takes nothing.
            seized.iter().for_each(|&tid| drop(wait::reap(tid)));
        }
        before = now;
    }
}
