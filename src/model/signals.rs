//! Signal actions and pending signals.

use serde::{Deserialize, Serialize};

use super::{Addr, Hex};

/// One signal's disposition, as the kernel's `struct sigaction` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// 1..=64.
    pub signal: i32,
    /// SIG_DFL 0, SIG_IGN 1, or the handler.
    pub handler: Addr,
    /// `SA_*`.
    pub flags: u64,
    /// `SA_RESTORER`'s address.
    pub restorer: Addr,
    /// Blocked while the handler runs.
    pub mask: u64,
}

/// One queued signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// 1..=64.
    pub signal: i32,
    /// The raw 128-byte `siginfo_t`, pids inside.
    pub info: Hex,
}

impl Pending {
    /// The id of the POSIX timer it comes from (sigaction(2): SI_TIMER, and the timer's id behind it).
    pub fn timer(&self) -> Option<i32> {
        const SI_TIMER: i32 = -2;
        let word = |at: usize| self.info.0.get(at..).and_then(|b| b.first_chunk()).map(|b| i32::from_ne_bytes(*b));
        word(16).filter(|_| word(8) == Some(SI_TIMER))
    }
}
