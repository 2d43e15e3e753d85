//! Pseudo-terminals: made anew, with their numbers where these are free.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use crate::model::fd::Kind;
use crate::model::pty::{End, Pty, PtyEnd, Session};
use crate::model::{Checkpoint, Pid};
use crate::sys::{fds, tty};

use super::Error;
use super::fd::Sources;
use super::stub::{Expect, Puppet};

/// What was made.
#[derive(Debug, Default)]
pub struct Made {
    /// By the index of the description.
    pub fds: HashMap<u32, OwnedFd>,
    /// Numbers that are others now: the old one and the new one.
    pub renumbered: Vec<(u32, u32)>,
}

/// Makes all of the image.
pub fn make(checkpoint: &Checkpoint) -> Result<Made, Error> {
    let mut made = Made::default();
    // The lowest free number is given out: those that are too low are kept until all are made.
    let mut too_low = Vec::new();
    let mut order: Vec<(usize, &Pty)> = checkpoint.shared.ptys.iter().enumerate().collect();
    order.sort_by_key(|(_, pty)| pty.index);
    let mut without = Vec::new();
    for (number, pty) in order {
        let failed = |e| Error::file("making the terminal", &name(pty), e);
        match with_number(pty.index, &mut too_low).map_err(failed)? {
            Some(master) => furnish(checkpoint, number, pty, master, &mut made).map_err(failed)?,
            None => without.push((number, pty)),
        }
    }
    drop(too_low);
    for (number, pty) in without {
        let failed = |e| Error::file("making the terminal", &name(pty), e);
        let master = new().map_err(failed)?;
        made.renumbered.push((pty.index, tty::index(master.as_fd()).map_err(failed)?));
        furnish(checkpoint, number, pty, master, &mut made).map_err(failed)?;
    }
    Ok(made)
}

fn name(pty: &Pty) -> crate::model::Name {
    crate::model::Name(format!("/dev/pts/{}", pty.index).into_bytes())
}

/// The master of a new one, whose slave is locked.
pub fn new() -> io::Result<OwnedFd> {
    let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/ptmx");
    options.map(OwnedFd::from)
}

/// A new one with this number, unless it is taken.
fn with_number(wanted: u32, too_low: &mut Vec<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    loop {
        let master = new()?;
        match tty::index(master.as_fd())? {
            index if index == wanted => return Ok(Some(master)),
            index if index > wanted => return Ok(None),
            _ => too_low.push(master),
        }
    }
}

fn furnish(c: &Checkpoint, number: usize, pty: &Pty, master: OwnedFd, made: &mut Made) -> io::Result<()> {
    tty::set_lock(master.as_fd(), false)?;
    if let Ok(settings) = pty.termios.0.as_slice().try_into() {
        tty::set(master.as_fd(), settings)?;
    }
    if let Ok(size) = pty.size.0.as_slice().try_into() {
        tty::set_size(master.as_fd(), size)?;
    }
    let ends = c.files.iter().zip(0u32..).filter_map(|(file, index)| match file.kind {
        Kind::Pty(end) if end.pty as usize == number => Some((index, file, end)),
        _ => None,
    });
    let mut of_master = None;
    for (index, file, end) in ends {
        match end.end {
            End::Master => of_master = Some((index, file.flags)),
            End::Slave => {
                made.fds.insert(index, tty::open_slave(master.as_fd(), file.flags as i32)?);
            }
            End::Tty => {
                let slave = tty::open_slave(master.as_fd(), libc::O_RDWR)?;
                made.fds.insert(index, tty::open_as_controlling(slave.as_fd(), file.flags as i32)?);
            }
        }
    }
    if pty.mode.is_some() || pty.left {
        let slave = tty::open_slave(master.as_fd(), libc::O_RDWR | libc::O_NONBLOCK)?;
        let mut slave = File::from(slave);
        if let Some(mode) = pty.mode {
            // Another user's at a resume as another user: then it stays as it is made.
            let _ = slave.set_permissions(Permissions::from_mode(mode));
        }
        let waiting = tty::Waiting {
            lines: pty.input.lines.iter().map(|line| line.0.clone()).collect(),
            rest: pty.input.rest.0.clone(),
            output: pty.output.0.clone(),
        };
        tty::put(master.as_fd(), &mut slave, &waiting)?;
        if pty.exclusive {
            tty::set_exclusive(slave.as_fd(), true)?;
        }
    }
    tty::set_lock(master.as_fd(), pty.locked)?;
    tty::set_packets(master.as_fd(), pty.packets)?;
    if let Some((index, flags)) = of_master {
        fds::fcntl(master.as_fd(), libc::F_SETFL, flags.into())?;
        made.fds.insert(index, master);
    }
    // A master that nobody has is closed here, which its slaves see.
    Ok(())
}

/// The sessions at terminals, and a descriptor of the slave among the sources.
fn sessions<'a>(c: &'a Checkpoint, sources: &'a Sources) -> impl Iterator<Item = (Session, i32)> + 'a {
    let of_tree = c.shared.ptys.iter().enumerate();
    let of_tree = of_tree.filter_map(|(number, pty)| Some((pty.session?, slave_of(c, sources, number)?)));
    of_tree.chain(sources.terminal)
}

/// Who leads a session that has a terminal.
pub fn leaders<'a>(c: &'a Checkpoint, sources: &'a Sources) -> impl Iterator<Item = Pid> + 'a {
    sessions(c, sources).map(|(session, _)| session.leader)
}

/// A descriptor of the slave among the sources.
fn slave_of(c: &Checkpoint, sources: &Sources, number: usize) -> Option<i32> {
    let is_slave =
        |kind: &Kind| matches!(kind, Kind::Pty(PtyEnd { pty, end }) if *pty as usize == number && *end != End::Master);
    c.files.iter().zip(&sources.files).find(|(file, _)| is_slave(&file.kind)).map(|(_, fd)| *fd)
}

/// A new session leader takes its terminal; those it makes later have it, too.
pub fn control(puppet: &mut Puppet, pid: Pid, c: &Checkpoint, sources: &Sources) -> Result<(), Error> {
    let Some((_, slave)) = sessions(c, sources).find(|(session, _)| session.leader == pid) else { return Ok(()) };
    let mut batch = puppet.batch();
    batch.call("ioctl TIOCSCTTY", libc::SYS_ioctl, &[slave as u64, libc::TIOCSCTTY as u64, 0]);
    puppet.run(batch).map(drop)
}

/// The foreground group of the terminal that a session leader has. `actual`: the number a group really has.
pub fn foreground(
    puppet: &mut Puppet,
    pid: Pid,
    c: &Checkpoint,
    sources: &Sources,
    actual: impl Fn(Pid) -> i32,
) -> Result<(), Error> {
    for (session, slave) in sessions(c, sources).filter(|(session, _)| session.leader == pid) {
        let Some(group) = session.foreground else { continue };
        let mut batch = puppet.batch();
        let at = batch.data(&actual(group).to_ne_bytes());
        // One that nobody is in any more can't be set.
        let args = [slave as u64, libc::TIOCSPGRP as u64, at.0];
        batch.call_expecting(Expect::Anything, "ioctl TIOCSPGRP", libc::SYS_ioctl, &args);
        puppet.run(batch)?;
    }
    Ok(())
}

/// What a person should know.
pub fn notes(renumbered: &[(u32, u32)]) -> impl Iterator<Item = String> + '_ {
    renumbered.iter().map(|(old, new)| format!("/dev/pts/{old} is taken: the terminal is now /dev/pts/{new}"))
}

/// The end at this index, which was made before.
pub fn open(made: &mut Made, index: u32) -> Result<OwnedFd, Error> {
    made.fds.remove(&index).ok_or_else(|| Error::step("finding a terminal", 0, io::ErrorKind::NotFound.into()))
}
