//! Who takes the signals that wait for a process of several threads as it is let go.
//!
//! The kernel means such a signal for the leader if that does not block it, else for another that does not, and wakes
//! nobody else (kernel/signal.c, complete_signal). But whoever comes out of a ptrace stop looks at the queue: a thread in
//! nanosleep would take what was meant for the leader, and see its call cut short.

use std::time::{Duration, Instant};

use crate::proc::{self, status::Status};
use crate::sys::{ptrace, tasks};

/// How long all others wait for those who take signals, at most.
const PATIENCE: Duration = Duration::from_millis(20);

/// Of a process's stopped threads, the leader first and each with the signals that it blocks, those that have to go before
/// the others.
pub fn takers(threads: &[(i32, u64)]) -> Vec<i32> {
    let [(leader, _), _, ..] = threads else { return Vec::new() };
    // An error means that somebody has killed it.
    let queue = ptrace::pending(*leader, true).unwrap_or_default();
    if queue.is_empty() {
        return Vec::new();
    }
    let caught = proc::status(*leader).map_or(0, |status| status.sig_caught);
    let is_there = |signal: &i32| queue.iter().any(|p| p.signal == *signal);
    let mut waiting = (1..=64).filter(is_there).fold(0, |set, signal| set | 1 << (signal - 1)) & caught;
    let mut takers = Vec::new();
    for (tid, blocked) in threads {
        if waiting & !blocked != 0 {
            takers.push(*tid);
            waiting &= blocked;
        }
    }
    takers
}

/// Waits until threads that were let go have taken what they do not block, or can't: they are dead, stopped, or have no
/// processor for a long time.
pub fn wait_until_taken(takers: &[i32]) {
    let since = Instant::now();
    let waits = |status: &Status| {
        let takes = status.shared_pending & status.sig_caught & !status.sig_blocked;
        takes != 0 && !matches!(status.state, b'T' | b'Z' | b'X')
    };
    for &taker in takers {
        for round in 0.. {
            if since.elapsed() > PATIENCE || !proc::status(taker).is_ok_and(|status| waits(&status)) {
                break;
            }
            tasks::back_off(round);
        }
    }
}
