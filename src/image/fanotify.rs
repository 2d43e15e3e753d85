//! Whether a fanotify group can be.

use crate::model::fanotify::{Fanotify, PERMISSION};

/// Marks that the kernel would make as they are, at absolute paths; none for which others would have to wait.
pub(super) fn check(group: &Fanotify) -> Result<(), String> {
    // FAN_MARK_IGNORED_SURV_MODIFY, FAN_MARK_EVICTABLE, FAN_MARK_IGNORE
    const FLAGS: u32 = 0x40 | 0x200 | 0x400;
    for mark in &group.marks {
        let path = mark.path.0.as_slice();
        let events = mark.mask | mark.ignored;
        if mark.flags & !FLAGS != 0
            || events == 0
            || events & PERMISSION != 0
            || path.first() != Some(&b'/')
            || path.contains(&0)
        {
            return Err(format!("mark {events:#x} of {} cannot be", mark.path.display()));
        }
    }
    Ok(())
}
