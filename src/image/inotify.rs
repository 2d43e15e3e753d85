//! Whether an inotify instance can be.

use libc::{IN_ALL_EVENTS, IN_IGNORED, IN_ISDIR, IN_Q_OVERFLOW, IN_UNMOUNT};

use crate::model::inotify::{Event, Inotify, MOST_EVENTS};
use crate::model::manifest::{INOTIFY_EVENTS, Manifest};

/// Longest name (NAME_MAX).
const LONGEST: usize = 255;

/// Watch descriptors in ascending order, absolute paths, and events that the kernel could report.
pub(super) fn check(instance: &Inotify, manifest: &Manifest) -> Result<(), String> {
    let mut last = 0;
    for watch in &instance.watches {
        if watch.wd <= last || watch.path.0.first() != Some(&b'/') || watch.path.0.contains(&0) {
            return Err(format!("watch {} of {} cannot be", watch.wd, watch.path.display()));
        }
        last = watch.wd;
    }
    if !instance.events.is_empty() && !manifest.requires.iter().any(|name| name == INOTIFY_EVENTS) {
        return Err(format!("events of inotify, and {INOTIFY_EVENTS} is not required"));
    }
    if instance.events.len() > MOST_EVENTS {
        return Err(format!("{} events in one queue", instance.events.len()));
    }
    if let Some(wrong) = instance.events.iter().find(|event| !can_be(event)) {
        return Err(format!("event {:#x} of watch {} cannot be", wrong.mask, wrong.wd));
    }
    if instance.next.is_some_and(|next| next <= 0) {
        return Err("a watch number that is not positive".to_owned());
    }
    Ok(())
}

fn can_be(event: &Event) -> bool {
    let name = event.name.0.as_slice();
    if event.wd == -1 {
        return event.mask == IN_Q_OVERFLOW && name.is_empty();
    }
    let known = IN_ALL_EVENTS | IN_UNMOUNT | IN_IGNORED | IN_ISDIR;
    let named = name.len() <= LONGEST && !name.iter().any(|b| matches!(b, 0 | b'/')) && !matches!(name, b"." | b"..");
    event.wd > 0 && event.mask & known == event.mask && event.mask & !IN_ISDIR != 0 && named
}
