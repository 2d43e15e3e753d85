//! eventfd(2).

use crate::model::eventfd::Eventfd;

/// Kernels before 6.5 don't tell which counts are semaphores.
pub(super) fn capture(count: u64, semaphore: Option<bool>) -> Eventfd {
    Eventfd { count, semaphore: semaphore.unwrap_or(false) }
}
