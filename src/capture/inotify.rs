//! inotify(7): the kernel tells inodes, a resume needs names.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::model::Name;
use crate::model::fd::{Kind, OpenFile};
use crate::model::inotify::{Event, Inotify, Watch};
use crate::proc::fdinfo::{self, Detail};
use crate::sys::{fds, inotify, notices};

use super::Error;
use super::fd::{Group, SeenFd, Work};
use super::search;
use super::view::View;

/// Names of watched files, by device and inode.
type Names = HashMap<(u64, u64), Vec<u8>>;

/// Instances as they were before we looked into directories, which they may watch.
#[derive(Debug)]
pub(super) struct Before<'a>(Vec<(&'a SeenFd, &'a [fdinfo::Inode], OwnedFd, usize, Silent)>);

impl<'a> Before<'a> {
    /// Of all descriptions.
    pub fn new(work: &Work<'a>, groups: &[Group]) -> Result<Before<'a>, Error> {
        let mut out = Vec::new();
        for s in groups.iter().filter_map(|group| work.seen.get(*group.holders.first()?)) {
            let Detail::Inotify(watches) = &s.info.detail else { continue };
            let copy = s.copy(work.held)?;
            let waiting = fds::readable(copy.as_fd()).map_err(unread_of(s))?;
            let silent = Silent::new(&copy).map_err(unread_of(s))?;
            out.push((s, watches.as_slice(), copy, waiting, silent));
        }
        Ok(Before(out))
    }

    /// Names of all watched files and of some more.
    pub fn names(&self, work: &Work<'_>, more: impl Iterator<Item = (u64, u64)>) -> Result<Names, Error> {
        let watched = self.0.iter().flat_map(|(_, watches, ..)| *watches).map(|w| (device(w.sdev), w.ino));
        search::names(work, watched.chain(more).collect())
    }

    /// Takes from them what our looks have brought about.
    pub fn restore(self, work: &Work<'_>) -> Result<(), Error> {
        for (s, watches, copy, waiting, silent) in self.0 {
            let now = fds::readable(copy.as_fd()).map_err(unread_of(s))?;
            if let Some(mut instance) = named(watches, &work.watched).ok().filter(|_| now > waiting) {
                let unread = Unread::new(copy, work.view, &instance.watches);
                unread.and_then(|unread| unread.take(&mut instance, Some(waiting))).map_err(unread_of(s))?;
            }
            silent.over().map_err(unread_of(s))?;
        }
        Ok(())
    }
}

fn unread_of(s: &SeenFd) -> impl FnOnce(io::Error) -> Error {
    Error::of(s.host, "looking for unread events")
}

/// Whether it is one.
pub(super) fn is(s: &SeenFd) -> bool {
    s.link == b"anon_inode:inotify"
}

/// What an instance watches, by names; the first that has none.
fn named<'a>(watches: &'a [fdinfo::Inode], names: &Names) -> Result<Inotify, &'a fdinfo::Inode> {
    let watch = |watch: &'a fdinfo::Inode| {
        let path = names.get(&(device(watch.sdev), watch.ino)).ok_or(watch)?;
        Ok(Watch { wd: watch.wd, mask: watch.mask, path: Name(path.clone()) })
    };
    let mut watches = watches.iter().map(watch).collect::<Result<Vec<Watch>, _>>()?;
    watches.sort_by_key(|w| w.wd);
    Ok(Inotify { watches, events: Vec::new(), next: None })
}

/// A device as stat(2) has it, given the kernel's own number.
pub(super) fn device(sdev: u64) -> u64 {
    libc::makedev((sdev >> 20) as u32, (sdev & 0xf_ffff) as u32)
}

/// An instance; `None` if it was refused. Events that wait in it are taken later.
pub(super) fn capture(work: &mut Work<'_>, s: &SeenFd, watches: &[fdinfo::Inode]) -> Result<Option<Kind>, Error> {
    let copy = s.copy(work.held)?;
    let waiting = fds::readable(copy.as_fd()).map_err(Error::of(s.host, "asking for unread events"))?;
    let instance = match named(watches, &work.watched) {
        Ok(instance) => instance,
        Err(watch) => {
            let reason =
                format!("no name was found for inode {} on device {:x}, which it watches", watch.ino, watch.sdev);
            let hint = "save it with its working directory near what it watches";
            work.refusals.add(s.pid, s.object("inotify"), reason, hint);
            return Ok(None);
        }
    };
    let unread = if waiting > 0 { Some(Unread::new(copy, work.view, &instance.watches)) } else { None };
    let unread = match unread.transpose() {
        Ok(unread) => unread,
        Err(error) => {
            let reason = format!("events wait in it that the program has not read yet, and can't be taken: {error}");
            work.refusals.add(s.pid, s.object("inotify"), reason, "save again when it has read them");
            return Ok(None);
        }
    };
    work.contents.unread.push(unread);
    Ok(Some(Kind::Inotify(instance)))
}

/// An instance with events that the program has not read.
///
/// There is no way to look at events but to take them, and none to put them back but with nothing watched for a
/// moment (see [`notices`]). So that nothing is missed then, a second instance of ours watches the same from before.
#[derive(Debug)]
pub(super) struct Unread {
    instance: OwnedFd,
    watched: Vec<Watched>,
    second: OwnedFd,
    /// Where events are brought about.
    place: OwnedFd,
}

/// What is reported of a directory whose entries somebody has read.
const LOOKED_AT: u32 = libc::IN_OPEN | libc::IN_ACCESS | libc::IN_CLOSE_NOWRITE;

/// While it lives, nobody gets signals of what comes into an instance (O_ASYNC). Its owner is taken from it, not the
/// flag: whoever sets that says with it which number the signals tell (fs/fcntl.c, `setfl`).
#[derive(Debug)]
struct Silent(Option<(OwnedFd, i32, i32)>);

impl Silent {
    fn new(instance: &OwnedFd) -> io::Result<Silent> {
        if fds::fcntl(instance.as_fd(), libc::F_GETFL, 0)? & i64::from(libc::O_ASYNC) == 0 {
            return Ok(Silent(None));
        }
        let copy = instance.try_clone()?;
        let (kind, id) = fds::owner(copy.as_fd())?;
        fds::set_owner(copy.as_fd(), kind, 0)?;
        Ok(Silent(Some((copy, kind, id))))
    }

    fn end(&mut self) -> io::Result<()> {
        match self.0.take() {
            Some((copy, kind, id)) => match fds::set_owner(copy.as_fd(), kind, id) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                done => done,
            },
            None => Ok(()),
        }
    }

    fn over(mut self) -> io::Result<()> {
        self.end()
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// One file that it watches.
#[derive(Debug)]
struct Watched {
    wd: i32,
    mask: u32,
    /// Its number in the second instance.
    second: i32,
    /// The file itself.
    file: File,
}

/// Says that events were lost.
fn lost() -> Event {
    Event { wd: -1, mask: libc::IN_Q_OVERFLOW, cookie: 0, name: Name::default() }
}

/// The way to what a descriptor of ours is open on.
fn way(file: &impl AsRawFd) -> Name {
    Name(format!("/proc/self/fd/{}", file.as_raw_fd()).into_bytes())
}

impl Unread {
    fn new(instance: OwnedFd, view: &View, watches: &[Watch]) -> io::Result<Unread> {
        notices::limit()?;
        let place = notices::place()?;
        let second = inotify::new(libc::IN_NONBLOCK | libc::IN_CLOEXEC)?;
        let mut watched = Vec::with_capacity(watches.len());
        for Watch { wd, mask, path } in watches {
            let file = fds::place(&view.path(&path.0), libc::O_NOFOLLOW)?;
            let others = mask & !libc::IN_ONESHOT;
            watched.push(Watched {
                wd: *wd,
                mask: *mask,
                second: inotify::watch_any(second.as_fd(), others, &way(&file))?,
                file,
            });
        }
        Ok(Unread { instance, watched, second, place })
    }

    /// Takes the events and puts them back. What is not watched any more, as something was reported of it that is
    /// reported once, is taken off the list of watches. `before`: so many bytes of events waited before we looked into
    /// directories; what that has brought about since is left out.
    fn take(mut self, of: &mut Inotify, before: Option<usize>) -> io::Result<()> {
        /// Somebody else may go on doing what is reported.
        const TRIES: usize = 4;
        let silent = Silent::new(&self.instance)?;
        let mut events = Vec::new();
        let mut followed = self.until_quiet(|_, some, _| events.extend(some))?;
        let mut at = 0;
        events.retain(|event| {
            let old = before.is_none_or(|before| at < before);
            at += notices::size(std::slice::from_ref(event));
            old || event.mask & libc::IN_ISDIR == 0 || event.mask & LOOKED_AT == 0
        });
        let mut events: Vec<Event> = events.into_iter().flat_map(notices::one_by_one).collect();
        let ended = |wd| events.iter().any(|event| event.wd == wd && event.mask & libc::IN_IGNORED != 0);
        self.watched.retain(|w| !ended(w.wd));
        if followed && events.is_empty() {
            return silent.over();
        }
        // From here on the second has whatever comes into the first, and more.
        let next = self.next()?;
        for tries in 1.. {
            followed &= tries < TRIES;
            if !followed && events.iter().all(|event| event.mask & libc::IN_Q_OVERFLOW == 0) {
                events.push(lost());
            }
            let put = self.off().and_then(|()| notices::put(self.instance.as_fd(), &self.place, &events));
            if put.is_err() {
                self.put_some(&events);
            }
            let on = self.on(next);
            put.and(on)?;
            let there = fds::readable(self.instance.as_fd())?;
            let missed = fds::readable(self.second.as_fd())?;
            if !followed || there.checked_sub(notices::size(&events)) == Some(missed) {
                break;
            }
            followed = self.until_quiet(|unread, _, all| unread.follow(all, &mut events))?;
        }
        silent.over()?;
        of.watches.retain(|watch| self.watched.iter().any(|w| w.wd == watch.wd));
        (of.events, of.next) = (events, Some(next));
        Ok(())
    }

    /// Takes what both have, again and again, until nothing came in between; whether that was so in the end.
    fn until_quiet(&mut self, mut each: impl FnMut(&mut Unread, Vec<Event>, Vec<Event>)) -> io::Result<bool> {
        const ROUNDS: usize = 32;
        for _ in 0..ROUNDS {
            let some = notices::take(self.instance.as_fd())?;
            let all = notices::take(self.second.as_fd())?;
            if some.is_empty() && all.is_empty() {
                return Ok(true);
            }
            each(self, some, all);
        }
        Ok(false)
    }

    /// Puts back as many events as can be, and has the program told that others were lost.
    fn put_some(&self, events: &[Event]) {
        let mut some = events.iter().filter(|e| e.mask & libc::IN_Q_OVERFLOW == 0).cloned().collect::<Vec<_>>();
        loop {
            some.truncate(some.len() / 2);
            let told: Vec<Event> = some.iter().cloned().chain([lost()]).collect();
            let put = notices::take(self.instance.as_fd())
                .and_then(|_| notices::put(self.instance.as_fd(), &self.place, &told));
            if put.is_ok() || some.is_empty() {
                break;
            }
        }
    }

    /// The number that the next watch is given.
    fn next(&self) -> io::Result<i32> {
        let next = inotify::watch_any(self.instance.as_fd(), libc::IN_DELETE_SELF, &way(&self.place))?;
        inotify::unwatch(self.instance.as_fd(), next)?;
        Ok(next)
    }

    /// Takes all watches off, and all events away.
    fn off(&self) -> io::Result<()> {
        for w in &self.watched {
            match inotify::unwatch(self.instance.as_fd(), w.wd) {
                // It was to report once, and has: the second instance tells.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {}
                done => done?,
            }
        }
        notices::take(self.instance.as_fd()).map(drop)
    }

    /// Puts them on again.
    fn on(&self, next: i32) -> io::Result<()> {
        for w in &self.watched {
            inotify::set_next(self.instance.as_fd(), w.wd)?;
            inotify::watch_any(self.instance.as_fd(), w.mask, &way(&w.file))?;
        }
        inotify::set_next(self.instance.as_fd(), next)
    }

    /// What the second instance was told, as the first would have been.
    fn follow(&mut self, told: Vec<Event>, events: &mut Vec<Event>) {
        for event in told {
            let Some(at) = self.watched.iter().position(|w| w.second == event.wd) else {
                events.extend((event.wd == -1).then_some(event));
                continue;
            };
            let Some(&Watched { wd, mask, .. }) = self.watched.get(at) else { continue };
            let ended = event.mask & libc::IN_IGNORED != 0;
            for event in notices::one_by_one(Event { wd, ..event }) {
                // Two that are the same are one.
                if ended || events.last() != Some(&event) {
                    events.push(event);
                }
            }
            if mask & libc::IN_ONESHOT != 0 && !ended {
                events.push(Event { wd, mask: libc::IN_IGNORED, cookie: 0, name: Name::default() });
            }
            if ended || mask & libc::IN_ONESHOT != 0 {
                self.watched.remove(at);
            }
        }
    }
}

/// Copies the events that wait in instances, given those in the order of [`capture`].
pub(super) fn take(unread: Vec<Option<Unread>>, files: &mut [OpenFile]) -> Result<(), Error> {
    let instances = files.iter_mut().filter_map(|file| match &mut file.kind {
        Kind::Inotify(instance) => Some(instance),
        _ => None,
    });
    for (instance, unread) in instances.zip(unread) {
        let Some(unread) = unread else { continue };
        unread.take(instance, None).map_err(Error::io("copying the events of", "an inotify instance"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// An instance that watches these paths with these masks, and what is known of it.
    fn watching(watched: &[(&std::path::Path, u32)]) -> (OwnedFd, Inotify) {
        use std::os::unix::ffi::OsStrExt;
        let instance = inotify::new(libc::IN_NONBLOCK).unwrap();
        let watch = |&(path, mask): &(&std::path::Path, u32)| {
            let path = Name(path.as_os_str().as_bytes().to_vec());
            Watch { wd: inotify::watch_any(instance.as_fd(), mask, &path).unwrap(), mask, path }
        };
        let watches = watched.iter().map(watch).collect();
        (instance, Inotify { watches, events: Vec::new(), next: None })
    }

    fn take_and_put_back(instance: &OwnedFd, known: &mut Inotify) {
        let copy = instance.try_clone().unwrap();
        Unread::new(copy, &View::ours(), &known.watches).unwrap().take(known, None).unwrap();
    }

    #[test]
    fn nothing_is_lost_or_doubled_while_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let (instance, mut known) = watching(&[(dir.path(), libc::IN_CREATE | libc::IN_MOVE)]);
        let done = AtomicBool::new(false);
        let made = std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                let mut made = 0;
                while !done.load(Ordering::Relaxed) && made < 2000 {
                    File::create_new(dir.path().join(made.to_string())).unwrap();
                    made += 1;
                }
                made
            });
            for _ in 0..5 {
                take_and_put_back(&instance, &mut known);
            }
            done.store(true, Ordering::Relaxed);
            maker.join().unwrap()
        });
        let told = notices::take(instance.as_fd()).unwrap();
        let lost = told.iter().position(|e| e.mask & libc::IN_Q_OVERFLOW != 0);
        // Who is too fast to be followed is told so. Up to there everything is as it was.
        let names: Vec<String> = told.iter().take(lost.unwrap_or(told.len())).map(|e| e.name.display()).collect();
        let expected: Vec<String> =
            (0..if lost.is_some() { names.len() } else { made }).map(|n| n.to_string()).collect();
        assert_eq!(names, expected);
        assert_eq!(known.watches.len(), 1);
    }

    #[test]
    fn what_reports_once_is_not_watched_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        let once = libc::IN_ATTRIB | libc::IN_ONESHOT;
        let (instance, mut known) = watching(&[(file.path(), once), (other.path(), libc::IN_ATTRIB)]);
        let change = |file: &tempfile::NamedTempFile| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        change(&other);
        let copy = instance.try_clone().unwrap();
        let unread = Unread::new(copy, &View::ours(), &known.watches).unwrap();
        change(&file);
        unread.take(&mut known, None).unwrap();
        assert_eq!(known.watches.iter().map(|w| w.wd).collect::<Vec<_>>(), [2]);
        assert_eq!(known.next, Some(3));
        change(&file);
        let masks: Vec<(i32, u32)> =
            notices::take(instance.as_fd()).unwrap().into_iter().map(|e| (e.wd, e.mask)).collect();
        assert_eq!(masks, [(2, libc::IN_ATTRIB), (1, libc::IN_ATTRIB), (1, libc::IN_IGNORED)]);
    }
}
