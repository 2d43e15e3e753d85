//! Pseudo-terminals whose master is in the tree, or is closed. Those whose master is outside are terminals of somebody
//! else's: see `stdio`.
//!
//! What waits in one can't be looked at: it is taken out and put back at once, while everybody who has it open is held.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::model::Hex;
use crate::model::fd::Kind;
use crate::model::pty::{End, Input, Pty, PtyEnd, Session};
use crate::sys::{socket, tty};
use crate::tracer::Held;

use super::fd::{Group, SeenFd, Work};
use super::{Error, Inside};

/// Why a save waits a moment, and is refused if that does not help.
pub(super) const STOPPED: &str = "its output is stopped, or nobody reads it";

/// The pseudo-terminals of the tree.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// A descriptor of the master of each, by its number, unless that is closed.
    masters: BTreeMap<u32, Option<OwnedFd>>,
    /// Which of the descriptors seen lead to them, with the number.
    pub ends: BTreeMap<usize, (u32, End)>,
}

/// A pseudo-terminal whose content is still to be copied.
#[derive(Debug)]
pub(super) struct Seen {
    pty: Pty,
    master: Option<OwnedFd>,
    /// Any of the slave's.
    slave: Option<OwnedFd>,
}

/// The number of a slave, by its device.
fn number(rdev: u64) -> Option<u32> {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (136..=143).contains(&major).then(|| (major - 136) << 20 | minor)
}

/// Which end of one it may be, by its device.
fn end(s: &SeenFd) -> Option<End> {
    if s.file_type() != libc::S_IFCHR {
        return None;
    }
    match (libc::major(s.meta.rdev()), libc::minor(s.meta.rdev())) {
        (5, 2) => Some(End::Master),
        (5, 0) => Some(End::Tty),
        _ => number(s.meta.rdev()).map(|_| End::Slave),
    }
}

/// Looks for them.
pub(super) fn find(held: &Held, seen: &[SeenFd]) -> Result<Found, Error> {
    let mut found = Found::default();
    let of = |wanted| move |(_, s): &(usize, &SeenFd)| end(s) == Some(wanted);
    for (i, s) in seen.iter().enumerate().filter(of(End::Master)) {
        let master = s.copy(held)?;
        let index = tty::index(master.as_fd()).map_err(Error::of(s.host, "asking for a terminal's number"))?;
        found.masters.insert(index, Some(master));
        found.ends.insert(i, (index, End::Master));
    }
    for (i, s) in seen.iter().enumerate().filter(of(End::Slave)) {
        let Some(index) = number(s.meta.rdev()) else { continue };
        if !found.masters.contains_key(&index) && is_hung_up(&s.copy(held)?, s)? {
            found.masters.insert(index, None);
        }
        if found.masters.contains_key(&index) {
            found.ends.insert(i, (index, End::Slave));
        }
    }
    for (i, s) in seen.iter().enumerate().filter(of(End::Tty)) {
        let copy = s.copy(held)?;
        let index = match tty::device(copy.as_fd()) {
            Ok(device) => number(device).filter(|index| found.masters.contains_key(index)),
            // Nothing tells which it was: it has a number that no other has.
            Err(_) if is_hung_up(&copy, s)? => (0..).find(|index| !found.masters.contains_key(index)),
            Err(e) => return Err(Error::of(s.host, "asking for a terminal's number")(e)),
        };
        if let Some(index) = index {
            found.masters.entry(index).or_default();
            found.ends.insert(i, (index, End::Tty));
        }
    }
    Ok(found)
}

fn is_hung_up(copy: &OwnedFd, s: &SeenFd) -> Result<bool, Error> {
    let events = socket::events(copy.as_fd(), libc::POLLIN).map_err(Error::of(s.host, "polling a terminal"))?;
    Ok(events & libc::POLLHUP != 0)
}

/// What each description of a pseudo-terminal is, by its first holder.
pub(super) fn capture(
    work: &mut Work<'_>,
    groups: &[Group],
    found: Found,
    inside: &Inside,
) -> Result<HashMap<usize, Kind>, Error> {
    let mut slaves = HashMap::new();
    for (&i, &(index, end)) in &found.ends {
        match end {
            End::Master => {}
            End::Slave => drop(slaves.insert(index, i)),
            // One of /dev/pts shows its mode, this one does not.
            End::Tty => drop(slaves.entry(index).or_insert(i)),
        }
    }
    let mut numbers = HashMap::new();
    for (index, master) in found.masters {
        numbers.insert(index, work.contents.ptys.len() as u32);
        let first = slaves.get(&index).and_then(|&i| work.seen.get(i));
        let copy = first.map(|s| s.copy(work.held)).transpose()?;
        let failed = |e| Error::io("looking at", format!("/dev/pts/{index}"))(e);
        let pty = match &master {
            Some(master) => look(index, master, first.zip(copy.as_ref()), inside).map_err(failed)?,
            None => closed(index),
        };
        if let (Some(master), Some(s), Some(copy)) = (&master, first, &copy) {
            let full = socket::events(copy.as_fd(), libc::POLLOUT).map_err(failed)? & libc::POLLOUT == 0;
            // The status of a packet: what it says can't be put back.
            let status = socket::events(master.as_fd(), libc::POLLPRI).map_err(failed)? & libc::POLLPRI != 0;
            if full || status {
                let hint = "let it go on (^Q), or have its other side read";
                work.refusals.add(s.pid, s.object(&s.name()), STOPPED, hint);
            }
        }
        work.contents.ptys.push(Seen { pty, master, slave: copy });
    }
    let mut out = HashMap::new();
    let mut masters = HashSet::new();
    for first in groups.iter().filter_map(|g| g.holders.first().copied()) {
        let (Some(&(index, end)), Some(s)) = (found.ends.get(&first), work.seen.get(first)) else { continue };
        if end == End::Master && !masters.insert(index) {
            let reason = format!("there are two terminals with the number {index}: not supported");
            work.refusals.add(s.pid, s.object(&s.name()), reason, "use one /dev/pts");
        }
        if let Some(&pty) = numbers.get(&index) {
            out.insert(first, Kind::Pty(PtyEnd { pty, end }));
        }
    }
    Ok(out)
}

/// One whose master is closed: nothing can be done with it any more.
fn closed(index: u32) -> Pty {
    Pty {
        index,
        termios: Hex(Vec::new()),
        size: Hex(Vec::new()),
        mode: None,
        locked: false,
        packets: false,
        exclusive: false,
        left: false,
        input: Input::default(),
        output: Hex(Vec::new()),
        session: None,
    }
}

fn look(index: u32, master: &OwnedFd, slave: Option<(&SeenFd, &OwnedFd)>, inside: &Inside) -> std::io::Result<Pty> {
    let master = master.as_fd();
    let session = tty::session(master).and_then(|(leader, foreground)| {
        Some(Session { leader: inside.process(leader)?, foreground: inside.group(foreground) })
    });
    Ok(Pty {
        termios: Hex(tty::settings(master)?.to_vec()),
        size: Hex(tty::size(master)?.to_vec()),
        mode: slave.map(|(s, _)| mode(s, index)),
        locked: tty::is_locked(master)?,
        packets: tty::gets_packets(master)?,
        exclusive: slave.map_or(Ok(false), |(_, copy)| tty::is_exclusive(copy.as_fd()))?,
        left: slave.is_none() && socket::events(master, libc::POLLIN)? & libc::POLLHUP != 0,
        session,
        ..closed(index)
    })
}

/// Permission bits of the slave. /dev/tty has others; if nobody finds the terminal by its name they do not matter.
fn mode(s: &SeenFd, index: u32) -> u32 {
    const USUAL: u32 = 0o620;
    if end(s) != Some(End::Tty) {
        return s.meta.mode() & 0o777;
    }
    let named = std::fs::metadata(format!("/proc/{}/root/dev/pts/{index}", s.host));
    let same = named.ok().filter(|meta| number(meta.rdev()) == Some(index));
    same.map_or(USUAL, |meta| meta.mode() & 0o777)
}

/// Copies what waits in them. From here to the end of each no signal ends us.
pub(super) fn copy(seen: Vec<Seen>) -> Result<Vec<Pty>, Error> {
    let mut out = Vec::with_capacity(seen.len());
    for Seen { mut pty, master, slave } in seen {
        let failed = |e| Error::io("copying what waits in", format!("/dev/pts/{}", pty.index))(e);
        if let Some(master) = master.filter(|_| !pty.locked) {
            let blocked = nix::sys::signal::SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
            let waiting = content(&master, slave.as_ref(), &pty);
            if let Ok(mask) = blocked {
                let _ = mask.thread_set_mask();
            }
            let waiting = waiting.map_err(failed)?;
            pty.input = Input { lines: waiting.lines.into_iter().map(Hex).collect(), rest: Hex(waiting.rest) };
            pty.output = Hex(waiting.output);
        }
        out.push(pty);
    }
    Ok(out)
}

fn content(master: &OwnedFd, exclusive: Option<&OwnedFd>, pty: &Pty) -> std::io::Result<tty::Waiting> {
    let master = master.as_fd();
    // A slave that was never opened has got nothing, and opening it would show.
    if pty.mode.is_none() && !pty.left {
        return Ok(tty::Waiting::default());
    }
    let exclusive = exclusive.filter(|_| pty.exclusive);
    exclusive.map_or(Ok(()), |fd| tty::set_exclusive(fd.as_fd(), false))?;
    let slave = tty::open_slave(master, libc::O_RDWR | libc::O_NONBLOCK);
    exclusive.map_or(Ok(()), |fd| tty::set_exclusive(fd.as_fd(), true))?;
    let mut slave = File::from(slave?);
    if pty.packets {
        tty::set_packets(master, false)?;
    }
    let waiting =
        tty::take(master, &mut slave).and_then(|waiting| tty::put(master, &mut slave, &waiting).map(|()| waiting));
    if pty.packets {
        tty::set_packets(master, true)?;
    }
    waiting
}

#[cfg(test)]
mod tests {
    use super::super::fd::tests::seen;
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (master, other) = (seen(&pty.master, 0, 3), seen(&pty.slave, 0, 4));
        assert_eq!((end(&master), end(&other)), (Some(End::Master), Some(End::Slave)));
        assert_eq!(number(other.meta.rdev()), Some(tty::index(pty.master.as_fd()).unwrap()));
        assert_eq!(tty::device(pty.slave.as_fd()).unwrap(), other.meta.rdev());
    }
}
