//! Who takes the signals that wait for a process of several threads as it is let go.
//!
//! The kernel means such a signal for the leader if that does not block it, else for another that does not, and wakes
//! nobody else (kernel/signal.c, complete_signal). But whoever comes out of a ptrace stop looks at the queue: a thread in
//! nanosleep would take what was meant for the leader, and see its call cut short.

use std::time::{Duration, Instant};

use crate::proc;
use crate::sys::{ptrace, tasks};

/// How long all others wait for those who take signals, at most.
const PATIENCE: Duration = Duration::from_millis(20);

/// Of a process's stopped threads, the leader first, those that have to go before the others.
pub fn takers(threads: &[i32]) -> Vec<i32> {
    let [leader, _, ..] = threads else { return Vec::new() };
    let mut waiting = match ptrace::pending(*leader, true) {
        Ok(queue) => queue.iter().filter(|p| (1..=64).contains(&p.signal)).fold(0, |set, p| set | 1 << (p.signal - 1)),
        // Somebody has killed it.
        Err(_) => 0u64,
    };
    let mut takers = Vec::new();
    for &tid in threads {
        if waiting == 0 {
            break;
        }
        let Ok(status) = proc::status(tid) else { continue };
        let takes = waiting & status.sig_caught & !status.sig_blocked;
        if takes != 0 {
            takers.push(tid);
            waiting &= !takes;
        }
    }
    takers
}

/// Waits until a thread that was let go has taken what it does not block, or can't: it is dead, stopped, or has no
/// processor for a long time.
pub fn wait_for(taker: i32) {
    let since = Instant::now();
    for round in 0.. {
        match proc::status(taker) {
            Ok(s)
                if !matches!(s.state, b'T' | b'Z' | b'X') && s.shared_pending & s.sig_caught & !s.sig_blocked != 0 => {}
            _ => return,
        }
        if since.elapsed() > PATIENCE {
            return;
        }
        tasks::back_off(round);
    }
}
