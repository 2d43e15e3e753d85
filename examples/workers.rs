//! Threads that share work: a queue behind a mutex and a condition variable, results over a channel, printed in order.
//!
//! Threads keep their ids, their stacks, their thread-local values and the locks they hold through a save and a resume,
//! so the output is the same as if nothing had happened. The argument is the number of pieces of work (default 200).

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, mpsc};

thread_local! {
    /// What this thread has done so far: thread-local storage is memory of the thread like any other.
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// Work not yet taken; `None` at the end of the queue tells a worker to stop.
type Queue = Arc<(Mutex<VecDeque<Option<u64>>>, Condvar)>;

fn main() {
    let pieces = std::env::args().nth(1).map_or(200, |a| a.parse().expect("a number"));
    let queue: Queue = Arc::default();
    let (results, finished) = mpsc::channel();
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let (queue, results) = (Arc::clone(&queue), results.clone());
            std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || work(&queue, &results))
                .expect("a thread")
        })
        .collect();
    let feeder = std::thread::spawn(move || {
        let (jobs, changed) = &*queue;
        for piece in (0..pieces).map(Some).chain([None; 4]) {
            let mut jobs =
                changed.wait_while(jobs.lock().expect("the queue"), |jobs| jobs.len() >= 8).expect("the queue");
            jobs.push_back(piece);
            changed.notify_all();
        }
    });
    drop(results);
    // Results come in any order and are printed in the order of the work.
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (piece, value) in finished {
        early.insert(piece, value);
        while let Some(value) = early.remove(&next) {
            println!("{next} {value:016x}");
            next += 1;
        }
    }
    feeder.join().expect("the feeder");
    let done: u64 = workers.into_iter().map(|w| w.join().expect("a worker")).sum();
    println!("{done} pieces of work done");
}

fn work(queue: &Queue, results: &mpsc::Sender<(u64, u64)>) -> u64 {
    loop {
        let (jobs, changed) = &**queue;
        let mut jobs = changed.wait_while(jobs.lock().expect("the queue"), |jobs| jobs.is_empty()).expect("the queue");
        let job = jobs.pop_front().flatten();
        changed.notify_all();
        drop(jobs);
        let Some(piece) = job else { return DONE.get() };
        let value = (0..400_000).fold(piece, |x, i| (x ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
        DONE.set(DONE.get() + 1);
        results.send((piece, value)).expect("somebody listens");
    }
}
