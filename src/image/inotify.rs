//! Whether an inotify instance can be.

use std::collections::HashSet;

use libc::{
    IN_ACCESS, IN_ALL_EVENTS, IN_ATTRIB, IN_CLOSE_NOWRITE, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_IGNORED, IN_ISDIR,
    IN_MODIFY, IN_MOVE_SELF, IN_MOVED_FROM, IN_MOVED_TO, IN_OPEN, IN_Q_OVERFLOW, IN_UNMOUNT,
};

use crate::model::inotify::{Event, Inotify, MOST_EVENTS};
use crate::model::manifest::{INOTIFY_EVENTS, Manifest};

/// Longest name (NAME_MAX).
const LONGEST: usize = 255;
/// Each takes a file system of its own.
const MOST_UNMOUNTED: usize = 64;
/// What can be reported of a directory.
const OF_DIRECTORIES: u32 = IN_ACCESS
    | IN_ATTRIB
    | IN_CLOSE_NOWRITE
    | IN_CREATE
    | IN_DELETE
    | IN_MODIFY
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_OPEN;
/// What is of something in a directory, and what is not.
const WITH_NAME: u32 = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;
const WITHOUT_NAME: u32 = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED;

/// Watch descriptors in ascending order, absolute paths, and events that the kernel could report, in an order in which
/// it could.
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
    let (mut lost, mut unmounted) = (0, 0);
    let (mut ending, mut ended) = (HashSet::new(), HashSet::new());
    for event in &instance.events {
        let ends = event.mask == IN_IGNORED;
        let late = ended.contains(&event.wd) || ending.contains(&event.wd) && !ends;
        lost += usize::from(event.wd == -1);
        unmounted += usize::from(event.mask == IN_UNMOUNT);
        if late || lost > 1 || unmounted > MOST_UNMOUNTED || !can_be(event) {
            return Err(format!("event {:#x} of watch {} cannot be", event.mask, event.wd));
        }
        if ends {
            ended.insert(event.wd);
        } else if matches!(event.mask, IN_DELETE_SELF | IN_UNMOUNT) {
            ending.insert(event.wd);
        }
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
    let kind = event.mask & !IN_ISDIR;
    let known = kind.is_power_of_two() && kind & (IN_ALL_EVENTS | IN_UNMOUNT | IN_IGNORED) != 0;
    let directory = event.mask & IN_ISDIR == 0 || kind & OF_DIRECTORIES != 0;
    let named = name.len() <= LONGEST && !name.iter().any(|b| matches!(b, 0 | b'/')) && !matches!(name, b"." | b"..");
    let fitting = if name.is_empty() { kind & WITH_NAME == 0 } else { kind & WITHOUT_NAME == 0 };
    event.wd > 0 && known && directory && named && fitting
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn event(wd: i32, mask: u32, name: &str) -> Event {
        Event { wd, mask, cookie: 0, name: Name(name.as_bytes().to_vec()) }
    }

    fn result(events: Vec<Event>) -> Result<(), String> {
        let mut manifest = crate::image::sample::checkpoint().manifest;
        manifest.requires.push(INOTIFY_EVENTS.to_owned());
        check(&Inotify { watches: Vec::new(), events, next: Some(9) }, &manifest)
    }

    #[test]
    fn events_that_can_be() {
        let lost = || event(-1, IN_Q_OVERFLOW, "");
        let ends = [event(2, IN_DELETE_SELF, ""), event(2, IN_IGNORED, "")];
        result([&[event(1, IN_CREATE | IN_ISDIR, "d"), event(2, IN_OPEN, ""), lost()][..], &ends].concat()).unwrap();
        for wrong in [
            vec![event(0, IN_OPEN, "")],
            vec![event(1, IN_OPEN | IN_ACCESS, "")],
            vec![event(1, libc::IN_CLOSE_WRITE | IN_ISDIR, "d")],
            vec![event(1, IN_CREATE, "")],
            vec![event(1, IN_CREATE, "..")],
            vec![event(1, IN_CREATE, "a/b")],
            vec![event(1, IN_MOVE_SELF, "x")],
            vec![event(1, IN_Q_OVERFLOW, "")],
            vec![lost(), lost()],
            vec![event(1, IN_IGNORED, ""), event(1, IN_OPEN, "")],
            vec![event(1, IN_DELETE_SELF, ""), event(1, IN_OPEN, "")],
            (1..100).map(|wd| event(wd, IN_UNMOUNT, "")).collect(),
        ] {
            result(wrong.clone()).expect_err(&format!("{wrong:?}"));
        }
    }
}
