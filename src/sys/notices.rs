//! The queue of an inotify(7) instance: taken as a whole, and filled again as it was.
//!
//! Nobody can write to such a queue, so what it tells of is made to happen once more, in a file system that nobody else
//! sees: for each watch descriptor a file or directory is watched there under that number (INOTIFY_IOC_SETNEXTWD). To
//! take such a watch off puts IN_IGNORED behind the events, unless the queue is full and says so already
//! (fs/notify/notification.c, `fsnotify_insert_event`): it is filled up with others before the events, which are read
//! away at the end.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::model::Name;
use crate::model::inotify::{Event, MOST_EVENTS};

use super::{fds, inotify, mounts};

/// A mask that reports nothing: this bit counts as one, and nobody can ask for it.
const NOTHING: u32 = libc::IN_IGNORED;
/// Bytes of an event without a name, which is also what the length of a name is a multiple of.
const HEAD: usize = size_of::<libc::inotify_event>();
/// A directory that nobody watches.
const ELSEWHERE: &str = "elsewhere";

/// Takes all events that wait.
///
/// # Errors
/// Of ioctl(2) and read(2); `InvalidData` for what cannot be an event.
pub fn take(instance: BorrowedFd<'_>) -> io::Result<Vec<Event>> {
    let mut out = Vec::new();
    loop {
        let waiting = fds::readable(instance)?;
        if waiting == 0 {
            return Ok(out);
        }
        let bytes = read(instance, waiting)?;
        let mut rest = bytes.as_slice();
        while let Some((head, after)) = rest.split_at_checked(HEAD) {
            let word =
                |at| head.get(at..at + 4).and_then(|w| <[u8; 4]>::try_from(w).ok()).map_or(0, u32::from_ne_bytes);
            let (name, after) =
                after.split_at_checked(word(12) as usize).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            let name = name.split(|b| *b == 0).next().unwrap_or_default();
            out.push(Event { wd: word(0) as i32, mask: word(4), cookie: word(8), name: Name(name.to_vec()) });
            rest = after;
        }
    }
}

fn read(instance: BorrowedFd<'_>, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let got = nix::unistd::read(instance, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// The same events with one kind in each: the kernel reports some together (the modification and the new mode of a
/// set-user-ID file that is truncated), which nobody can bring about in general.
pub fn one_by_one(event: Event) -> impl Iterator<Item = Event> {
    let with = event.mask & libc::IN_ISDIR;
    let kinds = event.mask & !libc::IN_ISDIR;
    let bits = (0..u32::BITS).map(|n| 1 << n).filter(move |bit| bit & kinds != 0);
    bits.map(move |bit| Event { mask: bit | with, ..event.clone() })
}

/// Bytes that these events are in a queue.
pub fn size(events: &[Event]) -> usize {
    let name =
        |event: &Event| if event.name.0.is_empty() { 0 } else { (event.name.0.len() + 1).next_multiple_of(HEAD) };
    events.iter().map(|event| HEAD + name(event)).sum()
}

/// How many events a new instance's queue takes.
///
/// # Errors
/// Of reading `/proc/sys/fs/inotify/max_queued_events`; `Unsupported` if there may be more than [`MOST_EVENTS`], as
/// they have to be brought about one by one.
pub fn limit() -> io::Result<usize> {
    let path = "/proc/sys/fs/inotify/max_queued_events";
    let limit: usize = fs::read_to_string(path)?.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    if limit <= MOST_EVENTS {
        Ok(limit)
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{path} is more than {MOST_EVENTS}")))
    }
}

/// Where events are brought about: the root of a file system that nobody else sees.
///
/// # Errors
/// As [`mounts::private`].
pub fn place() -> io::Result<OwnedFd> {
    mounts::private(false).or_else(|_| mounts::private(true))
}

/// Fills the queue of an instance that watches nothing and has no events with these, which have one kind each (see
/// [`one_by_one`]); the two halves of a rename have a new cookie, the same if they follow each other. What does not fit
/// is lost and told to be so (IN_Q_OVERFLOW), as it always is. On an error events may be in the queue, but no watches.
/// `place`: of [`place`]; what is in it goes.
///
/// # Errors
/// As [`limit`] and [`place`]; of the calls that bring events about; `Other` if not all came.
pub fn put(instance: BorrowedFd<'_>, place: &OwnedFd, events: &[Event]) -> io::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut scene = Scene::new(instance, place, events)?;
    let room = scene.fill_up()?;
    let lost = |event: &Event| event.mask & libc::IN_Q_OVERFLOW != 0;
    let (before, after) = match events.iter().position(lost) {
        // The sign that it is full is there once only; it goes with what is read away.
        None if events.len() < room => (None, events),
        None => (Some(events.get(..room).unwrap_or(events)), &[][..]),
        Some(at) => (events.get(..at.min(room)), events.get(at + 1..).unwrap_or_default()),
    };
    let mut spare = room;
    if let Some(before) = before {
        scene.drop_spare(room + 1)?;
        spare = room - before.len();
        scene.spare(spare)?;
        scene.play(before)?;
        scene.spare(1)?;
    }
    // Each takes the place of a spare one, and the queue is as full at the end as it was before.
    let after = after.get(..after.len().min(spare)).unwrap_or_default();
    let make_room = if after.is_empty() { 0 } else { after.len() + 1 };
    let (early, late) = match before {
        None => (make_room, room + 1 - make_room),
        Some(_) => (make_room.min(spare), spare - make_room.min(spare)),
    };
    scene.drop_spare(early)?;
    scene.play(after)?;
    scene.end()?;
    scene.drop_spare(late)?;
    let there = fds::readable(instance)?;
    let expected = before.map_or(0, |before| size(before) + HEAD) + size(after);
    if there == expected {
        Ok(())
    } else {
        Err(io::Error::other(format!("{there} bytes of events instead of {expected}")))
    }
}

/// What stands for a watched file.
#[derive(Debug)]
struct Stand {
    path: PathBuf,
    directory: bool,
    /// A file system of its own, if that is to go.
    mount: Option<OwnedFd>,
}

struct Scene<'a> {
    instance: BorrowedFd<'a>,
    /// The path of a file system.
    base: PathBuf,
    /// By watch descriptor, those that are still watched.
    stands: HashMap<i32, Stand>,
    /// Of the spare events: a file, and whether the next of them is another than the last.
    filler: i32,
    odd: bool,
}

fn path_of(root: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()))
}

impl<'a> Scene<'a> {
    fn new(instance: BorrowedFd<'a>, place: &OwnedFd, events: &[Event]) -> io::Result<Scene<'a>> {
        let of = |wanted: &dyn Fn(&Event) -> bool| events.iter().filter(|e| wanted(e)).map(|e| e.wd).collect();
        let directories: HashSet<i32> = of(&|e| !e.name.0.is_empty() || e.mask & libc::IN_ISDIR != 0);
        let unmounted: HashSet<i32> = of(&|e| e.mask & libc::IN_UNMOUNT != 0);
        let numbers: HashSet<i32> = of(&|e| e.mask & libc::IN_Q_OVERFLOW == 0);
        let filler = (1..i32::MAX).find(|wd| !numbers.contains(wd)).unwrap_or(i32::MAX);
        let base = path_of(place);
        for entry in fs::read_dir(&base)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        fs::create_dir(base.join(ELSEWHERE))?;
        let mut scene = Scene { instance, base, stands: HashMap::new(), filler, odd: false };
        for wd in numbers.into_iter().chain([filler]) {
            let mount = if unmounted.contains(&wd) { Some(self::place()?) } else { None };
            let path = mount.as_ref().map_or_else(|| scene.base.clone(), path_of).join(wd.to_string());
            let directory = directories.contains(&wd);
            make(&path, directory)?;
            inotify::watch(instance, wd, NOTHING, &Name(path.as_os_str().as_bytes().to_vec()))?;
            scene.stands.insert(wd, Stand { path, directory, mount });
        }
        Ok(scene)
    }

    /// Fills the queue until it says that it is full; how many events it takes, that sign not counted.
    fn fill_up(&mut self) -> io::Result<usize> {
        let mut sent = 0;
        loop {
            let some = limit()? + 1;
            self.spare(some)?;
            sent += some;
            // To count them the kernel goes through all: not after each.
            let there = fds::readable(self.instance)? / HEAD;
            if there < sent {
                return Ok(there.saturating_sub(1));
            }
            if sent > MOST_EVENTS {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("it takes more than {MOST_EVENTS} events"),
                ));
            }
        }
    }

    /// Puts so many spare events into the queue, none the same as the one before: two such would become one.
    fn spare(&mut self, count: usize) -> io::Result<()> {
        let path = self.base.join(self.filler.to_string());
        self.look_for(self.filler, libc::IN_ACCESS | libc::IN_MODIFY)?;
        for _ in 0..count {
            touch(&path, if self.odd { libc::IN_ACCESS } else { libc::IN_MODIFY })?;
            self.odd = !self.odd;
        }
        self.look_for(self.filler, NOTHING)
    }

    /// Reads so many events without a name away.
    fn drop_spare(&self, count: usize) -> io::Result<()> {
        const AT_ONCE: usize = 4096;
        let mut left = count * HEAD;
        while left > 0 {
            let got = read(self.instance, left.min(AT_ONCE * HEAD))?.len();
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.saturating_sub(got);
        }
        Ok(())
    }

    /// Has `mask` reported of a stand from now on.
    fn look_for(&self, wd: i32, mask: u32) -> io::Result<()> {
        match self.stands.get(&wd) {
            Some(stand) => {
                inotify::watch_again(self.instance, wd, mask, &Name(stand.path.as_os_str().as_bytes().to_vec()))
            }
            None => Ok(()),
        }
    }

    /// Brings these events about, in order.
    fn play(&mut self, events: &[Event]) -> io::Result<()> {
        let mut rest = events;
        // Watches whose end has been told already: it comes with another event.
        let mut ended = HashSet::new();
        while let Some((event, after)) = rest.split_first() {
            rest = after;
            if event.mask & libc::IN_IGNORED != 0 {
                if !ended.contains(&event.wd) && self.stands.remove(&event.wd).is_some() {
                    inotify::unwatch(self.instance, event.wd)?;
                }
                continue;
            }
            match event.mask & !libc::IN_ISDIR {
                bit @ (libc::IN_DELETE_SELF | libc::IN_UNMOUNT) => {
                    self.end_of(event.wd, bit)?;
                    ended.insert(event.wd);
                }
                libc::IN_MOVED_FROM => {
                    let other = after.first().filter(|next| {
                        next.mask & libc::IN_MOVED_TO != 0 && next.cookie == event.cookie && event.cookie != 0
                    });
                    self.rename(event, other)?;
                    if other.is_some() {
                        rest = after.get(1..).unwrap_or_default();
                    }
                }
                libc::IN_MOVED_TO => self.arrive(event)?,
                libc::IN_MOVE_SELF => self.move_self(event.wd)?,
                bit => self.happen(event, bit)?,
            }
        }
        Ok(())
    }

    /// What an event is about: something in a directory that is watched, or what is watched itself.
    fn subject(&self, event: &Event) -> io::Result<(PathBuf, bool)> {
        let stand = self.stands.get(&event.wd).ok_or(io::ErrorKind::NotFound)?;
        if event.name.0.is_empty() {
            Ok((stand.path.clone(), stand.directory))
        } else {
            Ok((stand.path.join(OsStr::from_bytes(&event.name.0)), event.mask & libc::IN_ISDIR != 0))
        }
    }

    /// An event that a single call brings about.
    fn happen(&mut self, event: &Event, bit: u32) -> io::Result<()> {
        let (path, directory) = self.subject(event)?;
        match bit {
            libc::IN_CREATE => remove(&path)?,
            _ => make(&path, directory)?,
        }
        let open = match bit {
            libc::IN_CLOSE_WRITE => Some(File::options().write(true).open(&path)?),
            libc::IN_CLOSE_NOWRITE => Some(File::open(&path)?),
            _ => None,
        };
        self.look_for(event.wd, bit)?;
        match bit {
            libc::IN_CREATE => make(&path, directory)?,
            libc::IN_DELETE => remove(&path)?,
            libc::IN_OPEN => drop(File::open(&path)?),
            libc::IN_CLOSE_WRITE | libc::IN_CLOSE_NOWRITE => drop(open),
            bit => touch(&path, bit)?,
        }
        self.look_for(event.wd, NOTHING)
    }

    /// The first half of a rename, and the second if it comes next.
    fn rename(&mut self, event: &Event, other: Option<&Event>) -> io::Result<()> {
        let (from, directory) = self.subject(event)?;
        make(&from, directory)?;
        let to = match other {
            Some(other) => self.subject(other)?.0,
            None => self.base.join(ELSEWHERE).join("gone"),
        };
        remove(&to)?;
        match other {
            Some(other) if other.wd == event.wd => self.look_for(event.wd, libc::IN_MOVE)?,
            Some(other) => {
                self.look_for(event.wd, libc::IN_MOVED_FROM)?;
                self.look_for(other.wd, libc::IN_MOVED_TO)?;
            }
            None => self.look_for(event.wd, libc::IN_MOVED_FROM)?,
        }
        fs::rename(&from, &to)?;
        self.look_for(event.wd, NOTHING)?;
        other.map_or(Ok(()), |other| self.look_for(other.wd, NOTHING))
    }

    /// The second half of a rename from somewhere else.
    fn arrive(&mut self, event: &Event) -> io::Result<()> {
        let (to, directory) = self.subject(event)?;
        let from = self.base.join(ELSEWHERE).join("coming");
        remove(&from)?;
        make(&from, directory)?;
        remove(&to)?;
        self.look_for(event.wd, libc::IN_MOVED_TO)?;
        fs::rename(&from, &to)?;
        self.look_for(event.wd, NOTHING)
    }

    /// What is watched has another name.
    fn move_self(&mut self, wd: i32) -> io::Result<()> {
        self.look_for(wd, libc::IN_MOVE_SELF)?;
        let stand = self.stands.get_mut(&wd).ok_or(io::ErrorKind::NotFound)?;
        // Back and forth, however often.
        let moved = stand.path.extension().is_some();
        let to = stand.path.with_extension(if moved { "" } else { "moved" });
        fs::rename(&stand.path, &to)?;
        stand.path = to;
        self.look_for(wd, NOTHING)
    }

    /// What is watched is deleted, or its file system no longer mounted; IN_IGNORED follows.
    fn end_of(&mut self, wd: i32, bit: u32) -> io::Result<()> {
        if let Some(Stand { path, directory: true, .. }) = self.stands.get(&wd) {
            for entry in fs::read_dir(path)? {
                remove(&entry?.path())?;
            }
        }
        self.look_for(wd, bit)?;
        let Some(stand) = self.stands.remove(&wd) else { return Ok(()) };
        match stand.mount {
            Some(mount) if bit == libc::IN_UNMOUNT => drop(mount),
            _ => remove(&stand.path)?,
        }
        Ok(())
    }

    /// Takes off all watches, which is told to nobody while the queue is full.
    fn end(&mut self) -> io::Result<()> {
        self.stands.drain().try_for_each(|(wd, _)| inotify::unwatch(self.instance, wd))
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// An empty file or directory of this name, if there is none.
fn make(path: &Path, directory: bool) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() == directory => return Ok(()),
        Ok(_) => remove(path)?,
        Err(_) => {}
    }
    if directory { fs::create_dir(path) } else { File::create_new(path).map(drop) }
}

/// Sees to it that nothing has this name.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// Sets times of a file: the kernel calls that reading if it is the one, writing if it is the other, and changing its
/// attributes if it is both (include/linux/fsnotify.h, `fsnotify_change`).
fn touch(path: &Path, bit: u32) -> io::Result<()> {
    let (now, left) = (TimeSpec::UTIME_NOW, TimeSpec::UTIME_OMIT);
    let (read, written) = match bit {
        libc::IN_ACCESS => (now, left),
        libc::IN_MODIFY => (left, now),
        _ => (now, now),
    };
    Ok(utimensat(AT_FDCWD, path, &read, &written, UtimensatFlags::NoFollowSymlink)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn event(wd: i32, mask: u32, cookie: u32, name: &str) -> Event {
        Event { wd, mask, cookie, name: Name(name.as_bytes().to_vec()) }
    }

    /// Without cookies but for whether there is one.
    fn plain(events: Vec<Event>) -> Vec<Event> {
        events.into_iter().map(|e| Event { cookie: u32::from(e.cookie != 0), ..e }).collect()
    }

    fn comes_back(events: &[Event]) {
        let instance = inotify::new(libc::IN_NONBLOCK).unwrap();
        put(instance.as_fd(), &place().unwrap(), events).unwrap();
        assert_eq!(plain(take(instance.as_fd()).unwrap()), plain(events.to_vec()));
    }

    #[test]
    fn events_of_every_kind_come_back() {
        use libc::*;
        comes_back(&[
            event(3, IN_CREATE, 0, "file"),
            event(3, IN_OPEN, 0, "file"),
            event(3, IN_MODIFY, 0, "file"),
            event(3, IN_ACCESS, 0, "file"),
            event(3, IN_ATTRIB, 0, "file"),
            event(3, IN_CLOSE_WRITE, 0, "file"),
            event(3, IN_CLOSE_NOWRITE, 0, "file"),
            event(3, IN_CREATE | IN_ISDIR, 0, "directory"),
            event(3, IN_OPEN | IN_ISDIR, 0, "directory"),
            event(3, IN_ATTRIB | IN_ISDIR, 0, "directory"),
            event(3, IN_ACCESS | IN_ISDIR, 0, "directory"),
            event(3, IN_CLOSE_NOWRITE | IN_ISDIR, 0, "directory"),
            event(3, IN_DELETE | IN_ISDIR, 0, "directory"),
            event(3, IN_OPEN | IN_ISDIR, 0, ""),
            event(3, IN_MOVED_FROM, 7, "file"),
            event(3, IN_MOVED_TO, 7, "other"),
            event(3, IN_MOVED_FROM | IN_ISDIR, 8, "away"),
            event(1_000_000, IN_MOVED_TO | IN_ISDIR, 8, "here"),
            event(3, IN_MOVED_FROM, 9, "gone"),
            event(3, IN_MOVED_TO, 10, "come"),
            event(3, IN_MOVED_FROM | IN_ISDIR, 11, "x"),
            event(5, IN_OPEN, 0, ""),
            event(5, IN_MODIFY, 0, ""),
            event(5, IN_MOVE_SELF, 0, ""),
            event(5, IN_ATTRIB, 0, ""),
            event(5, IN_MOVE_SELF, 0, ""),
            event(5, IN_OPEN, 0, ""),
            event(5, IN_MOVE_SELF, 0, ""),
            event(5, IN_DELETE_SELF, 0, ""),
            event(5, IN_IGNORED, 0, ""),
            event(6, IN_IGNORED, 0, ""),
            event(7, IN_UNMOUNT, 0, ""),
            event(7, IN_IGNORED, 0, ""),
            event(8, IN_ACCESS, 0, "in it"),
            event(8, IN_DELETE_SELF, 0, ""),
            event(8, IN_IGNORED, 0, ""),
            event(3, IN_DELETE, 0, &"n".repeat(255)),
        ]);
    }

    #[test]
    fn several_kinds_in_one_event_become_several() {
        let events = one_by_one(event(1, libc::IN_MODIFY | libc::IN_ATTRIB | libc::IN_ISDIR, 0, "x"));
        let masks: Vec<u32> = events.map(|e| e.mask).collect();
        assert_eq!(masks, [libc::IN_MODIFY | libc::IN_ISDIR, libc::IN_ATTRIB | libc::IN_ISDIR]);
        assert_eq!(one_by_one(event(-1, libc::IN_Q_OVERFLOW, 0, "")).count(), 1);
    }

    #[test]
    fn what_was_lost_is_told_where_it_was() {
        let lost = || event(-1, libc::IN_Q_OVERFLOW, 0, "");
        let some = |from: i32, to: i32| {
            let name = |n: i32| format!("name {n}");
            (from..to).map(move |n| event(1 + n % 3, libc::IN_CREATE, 0, &name(n))).collect::<Vec<Event>>()
        };
        comes_back(&[lost()]);
        comes_back(&[some(0, 5), vec![lost()], some(5, 9)].concat());
        let room = limit().unwrap() as i32;
        comes_back(&[some(0, room), vec![lost()]].concat());
        comes_back(&[some(0, room - 20), vec![lost()], some(0, 19)].concat());
        comes_back(&some(0, room - 1));
    }

    #[test]
    fn what_does_not_fit_is_told_to_be_lost() {
        let room = limit().unwrap();
        let events: Vec<Event> = (0..room + 5).map(|n| event(1, libc::IN_CREATE, 0, &n.to_string())).collect();
        let instance = inotify::new(libc::IN_NONBLOCK).unwrap();
        put(instance.as_fd(), &place().unwrap(), &events).unwrap();
        let found = take(instance.as_fd()).unwrap();
        assert_eq!(found.len(), room + 1);
        assert_eq!(found[..room], events[..room]);
        assert_eq!(found[room].mask, libc::IN_Q_OVERFLOW);
    }

    #[test]
    fn sizes_are_those_of_the_kernel() {
        let instance = inotify::new(libc::IN_NONBLOCK).unwrap();
        for len in [0, 1, 15, 16, 17, 255] {
            let events = [event(1, libc::IN_OPEN, 0, &"n".repeat(len))];
            put(instance.as_fd(), &place().unwrap(), &events).unwrap();
            assert_eq!(fds::readable(instance.as_fd()).unwrap(), size(&events), "{len}");
            take(instance.as_fd()).unwrap();
        }
    }
}
