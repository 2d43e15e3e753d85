//! Standard streams that lead outside: terminals, pipes and sockets whose other side is not in the tree.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::model::Hex;
use crate::model::fd::Kind;
use crate::model::pty::Session;
use crate::model::stdio::Stdio;
use crate::net;
use crate::sys::tty;
use crate::tracer::{Held, HeldProcess};

use super::Error;
use super::fd::{Group, SeenFd, Work};
use super::refusals::CLOSE;
use super::{files, sockets};

/// Which standard stream each object outside is, by device and inode (of a terminal: by its device number).
pub(super) type Roles = HashMap<(u64, u64), i32>;

/// The standard streams of the root, and of the other members what it has not. A socket counts as the root's only:
/// those of other members mostly lead to members.
pub(super) fn roles(seen: &[SeenFd], root: usize) -> Roles {
    let mut out = Roles::new();
    let stream = |s: &&SeenFd| {
        let kind = s.file_type();
        let leads_outside =
            matches!(kind, libc::S_IFIFO | libc::S_IFCHR) || kind == libc::S_IFSOCK && s.process == root;
        (0..=2).contains(&s.fd) && leads_outside
    };
    let (of_root, others): (Vec<&SeenFd>, _) = seen.iter().filter(stream).partition(|s| s.process == root);
    for s in of_root.into_iter().chain(others) {
        out.entry(identity(s)).or_insert(s.fd);
    }
    out
}

/// What tells objects outside apart.
fn identity(s: &SeenFd) -> (u64, u64) {
    match terminal(s) {
        // No inode has this device.
        Some(rdev) => (u64::MAX, rdev),
        None => s.key(),
    }
}

/// The device number, if it is a terminal.
fn terminal(s: &SeenFd) -> Option<u64> {
    if s.file_type() != libc::S_IFCHR {
        return None;
    }
    let rdev = s.meta.rdev();
    match (libc::major(rdev), libc::minor(rdev)) {
        // /dev/tty stands for the controlling terminal.
        (5, 0) => controlling(s.host),
        // The other side of a pseudo-terminal: that program is its user's window.
        (5, 2) => None,
        (4 | 5 | 136..=143 | 188 | 204 | 229, _) => Some(rdev),
        _ => None,
    }
}

fn controlling(pid: i32) -> Option<u64> {
    let number = crate::proc::stat(pid).ok()?.tty_nr as u32;
    (number != 0).then(|| tty::decoded(number))
}

/// A terminal or socket that is several standard streams at once counts as one description for each: at a resume each
/// is one of our own streams, which need not lead to one place. `ours`: leads to the tree.
pub(super) fn split(seen: &[SeenFd], groups: Vec<Group>, ours: impl Fn(usize) -> bool) -> Vec<Group> {
    let mut out = Vec::with_capacity(groups.len());
    for group in groups {
        let Some((index, first)) = group.holders.first().and_then(|&i| Some((i, seen.get(i)?))) else { continue };
        if ours(index) || terminal(first).is_none() && !sockets::is_socket(first) {
            out.push(group);
            continue;
        }
        let fallback = if first.reads() { 0 } else { 1 };
        let mut parts: [Vec<usize>; 3] = Default::default();
        let mut others = Vec::new();
        for holder in group.holders {
            let fd = seen.get(holder).map_or(-1, |s| s.fd);
            match usize::try_from(fd).ok().and_then(|fd| parts.get_mut(fd)) {
                Some(part) => part.push(holder),
                None => others.push(holder),
            }
        }
        if let Some(part) = parts.get_mut(fallback) {
            part.append(&mut others);
        }
        for (role, holders) in parts.into_iter().enumerate().filter(|(_, holders)| !holders.is_empty()) {
            out.push(Group { holders, role: Some(role as i32) });
        }
    }
    out
}

/// For the model.
pub(super) fn outside(s: &SeenFd, role: i32, terminal: bool) -> Stdio {
    let name = s.name();
    // `pipe:[123]`: the number means nothing later.
    let was = name.split(":[").next().unwrap_or_default().to_owned();
    Stdio { role, was, terminal, settings: None, session: None }
}

/// The session that has the terminal with this device number as its controlling one.
fn session(held: &Held, rdev: u64) -> Option<Session> {
    let member = held.processes.iter().find(|p| tty::decoded(p.stat.tty_nr as u32) == rdev && p.sid.0 > 0)?;
    let in_front = |p: &&HeldProcess| p.stat.pgrp == member.stat.tpgid && p.pgid.0 > 0;
    let foreground = held.processes.iter().find(in_front).map(|p| p.pgid);
    Some(Session { leader: member.sid, foreground })
}

/// A character device or socket; `None` if it was refused.
pub(super) fn capture(work: &mut Work<'_>, group: &Group, s: &SeenFd, roles: &Roles) -> Result<Option<Kind>, Error> {
    if let Some(device) = files::device(s).filter(|_| s.file_type() == libc::S_IFCHR) {
        return Ok(Some(Kind::Device(device)));
    }
    let is_terminal = terminal(s).is_some();
    let is_socket = sockets::is_socket(s);
    let ours = roles.contains_key(&identity(s)) && (is_terminal || is_socket);
    if let (true, Some(role)) = (ours, group.role) {
        let mut stdio = outside(s, role, is_terminal);
        if let Some(rdev) = terminal(s) {
            stdio.session = session(work.held, rdev);
            // Of one that was hung up there are none.
            let settings = || Some(Hex(tty::settings(s.copy(work.held).ok()?.as_fd()).ok()?.to_vec()));
            stdio.settings = stdio.session.and_then(|session| session.foreground).and_then(|_| settings());
        }
        return Ok(Some(Kind::Stdio(stdio)));
    }
    let (what, reason, hint) = if is_socket {
        (net::describe(s.host, s.meta.ino()), sockets::unsupported(&s.copy(work.held)?), CLOSE)
    } else if is_terminal {
        let hint = "start the program at that terminal, or have the descriptor closed before the save";
        (s.name(), "a terminal is supported as a standard stream only", hint)
    } else {
        (s.name(), "this device is not supported", CLOSE)
    };
    work.refusals.add(s.pid, s.object(&what), reason, hint);
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::fd::tests::seen;
    use super::*;

    fn holders(groups: Vec<Group>) -> Vec<(Option<i32>, Vec<usize>)> {
        groups.into_iter().map(|g| (g.role, g.holders)).collect()
    }

    #[test]
    fn a_terminal_is_one_description_for_each_stream() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let list: Vec<SeenFd> = [0, 1, 2, 255, 1].iter().map(|fd| seen(&pty.slave, 0, *fd)).collect();
        let whole = vec![Group { holders: vec![0, 1, 2, 3, 4], role: None }];
        assert_eq!(
            holders(split(&list, whole, |_| false)),
            [(Some(0), vec![0, 3]), (Some(1), vec![1, 4]), (Some(2), vec![2])]
        );
        assert!(terminal(&list[0]).is_some());
        assert_eq!(roles(&list, 0).values().collect::<Vec<_>>(), [&0]);
        // The master is no terminal of the program's.
        assert_eq!(terminal(&seen(&pty.master, 0, 0)), None);
    }

    #[test]
    fn a_file_stays_one() {
        let file = tempfile::tempfile().unwrap();
        let list = [seen(&file, 0, 1), seen(&file, 0, 2)];
        let whole = vec![Group { holders: vec![0, 1], role: None }];
        assert_eq!(holders(split(&list, whole, |_| false)), [(None, vec![0, 1])]);
        assert!(roles(&list, 0).is_empty());
    }

    #[test]
    fn the_roots_streams_come_first() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let list = [seen(&write, 1, 2), seen(&write, 0, 1), seen(&read, 1, 0), seen(&read, 1, 7), seen(&socket, 1, 0)];
        let roles = roles(&list, 0);
        // Both ends of a pipe are one object; the root has it as its output.
        assert_eq!(roles.get(&list[0].key()), Some(&1));
        // A socket of a member that is not the root leads to wherever.
        assert_eq!(roles.get(&list[4].key()), None);
        let plain = outside(&list[0], 1, false);
        assert_eq!((plain.role, plain.was.as_str(), plain.terminal, plain.session), (1, "pipe", false, None));
    }
}
