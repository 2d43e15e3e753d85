//! timerfd_create(2).

use serde::{Deserialize, Serialize};

use super::Nanos;

/// A timer that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timerfd {
    /// Clock id.
    pub clock: i32,
    /// Expirations not yet read.
    pub ticks: u64,
    /// Flags of the last timerfd_settime: TFD_TIMER_ABSTIME 1, TFD_TIMER_CANCEL_ON_SET 2.
    pub settime_flags: u32,
    /// Time left; 0: not armed.
    pub value: Nanos,
    /// Period; 0: once.
    pub interval: Nanos,
}
