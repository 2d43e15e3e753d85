//! signalfd(2).

use crate::model::signalfd::Signalfd;

/// What it can read is pending signals of whoever reads, which are captured as such.
pub(super) fn capture(mask: u64) -> Signalfd {
    Signalfd { mask }
}
