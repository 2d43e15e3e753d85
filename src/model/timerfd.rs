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
    /// Time left by the image's clocks; 0: not armed.
    pub value: Nanos,
    /// Period; 0: once.
    pub interval: Nanos,
}

impl Timerfd {
    /// The same timer `time` later, with the ticks of that time.
    #[must_use]
    pub fn later(&self, time: Nanos) -> Timerfd {
        let mut timer = *self;
        if self.value == Nanos(0) {
            return timer;
        }
        timer.value = self.value.less(time);
        if timer.value.0 <= 0 {
            let more = timer.value.0.unsigned_abs().checked_div(self.interval.0.unsigned_abs());
            let ticks = more.map_or(1, |n| n + 1);
            timer.ticks = timer.ticks.saturating_add(ticks);
            // One that goes off once is not running any more.
            let next = timer.value.0.saturating_add((ticks as i64).saturating_mul(self.interval.0));
            timer.value = Nanos(if more.is_some() { next } else { 0 });
        }
        timer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes() {
        let timer = |value, interval, ticks| Timerfd {
            clock: 1,
            ticks,
            settime_flags: 0,
            value: Nanos(value),
            interval: Nanos(interval),
        };
        assert_eq!(timer(50, 10, 2).later(Nanos(20)), timer(30, 10, 2));
        assert_eq!(timer(50, 10, 2).later(Nanos(50)), timer(10, 10, 3));
        assert_eq!(timer(50, 10, 2).later(Nanos(75)), timer(5, 10, 5));
        assert_eq!(timer(50, 0, 0).later(Nanos(75)), timer(0, 0, 1));
        assert_eq!(timer(0, 0, 1).later(Nanos(75)), timer(0, 0, 1));
        assert_eq!(timer(30, 10, 2).later(Nanos(-20)), timer(50, 10, 2));
        let _ = timer(i64::MIN, 1, u64::MAX).later(Nanos(i64::MAX));
    }
}
