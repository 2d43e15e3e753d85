//! Descriptions that cannot be opened before all processes and threads are there, because they are of them.
//!
//! We open them ourselves, and hand them to every process that has one through a socket that all have inherited. In
//! each they take the places kept for them among the sources, before its descriptors get their numbers: nobody later
//! sees that they came late.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

use crate::model::fd::Kind;
use crate::model::pidfd::Pidfd;
use crate::model::process::Process;
use crate::model::{Checkpoint, Pid};

use super::fd::{Sources, source};
use super::stub::Puppet;
use super::{Error, pidfd};

/// Descriptors in one message; the kernel takes 253 (SCM_MAX_FD).
const AT_ONCE: usize = 64;

/// The way to hand descriptors to processes under construction, one of which listens at a time.
#[derive(Debug)]
pub struct Handover {
    ours: OwnedFd,
    theirs: OwnedFd,
    /// The number of their end in every process.
    number: i32,
    /// Descriptions that come late.
    kept: Vec<u32>,
}

impl Handover {
    /// Two ends of a socket; `place` gives theirs a number that all processes inherit.
    pub fn new(place: impl FnOnce(OwnedFd) -> i32) -> Result<Handover, Error> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|e| Error::step("making a socket", 0, e.into()))?;
        let mut handover = Handover { ours, theirs, number: -1, kept: Vec::new() };
        handover.number = place(handover.clone_of_theirs()?);
        Ok(handover)
    }

    /// Something that keeps the place of a description until it comes.
    pub fn keep_place(&mut self, index: u32) -> Result<OwnedFd, Error> {
        self.kept.push(index);
        self.clone_of_theirs()
    }

    fn clone_of_theirs(&self) -> Result<OwnedFd, Error> {
        self.theirs.try_clone().map_err(|e| Error::step("keeping a number", 0, e))
    }

    /// What waited, open, with its index in the model. `hosts`: processes (zombies too) and threads as we see them;
    /// `gone`: what had to be opened before.
    pub fn open(
        &self,
        checkpoint: &Checkpoint,
        hosts: &BTreeMap<Pid, i32>,
        gone: Vec<(u32, OwnedFd)>,
    ) -> Result<Vec<(u32, OwnedFd)>, Error> {
        let mut out = gone;
        out.retain(|(index, _)| self.kept.contains(index));
        for &index in &self.kept {
            let Some(file) = checkpoint.files.get(index as usize) else { continue };
            let opened = match &file.kind {
                Kind::Pidfd(Pidfd::Task(pid)) => pidfd::open(*pid, file.flags, hosts)?,
                _ => continue,
            };
            out.push((index, opened));
        }
        Ok(out)
    }

    /// Puts what `process` has (or watches by an epoll, or has registered with a ring) of `late` into its places in that process.
    pub fn deliver(
        &self,
        puppet: &mut Puppet,
        process: &Process,
        checkpoint: &Checkpoint,
        sources: &Sources,
        late: &[(u32, OwnedFd)],
    ) -> Result<(), Error> {
        if late.is_empty() {
            return Ok(());
        }
        let mut needed: HashSet<u32> = process.descriptors().map(|d| d.file).collect();
        let rings = needed.iter().filter_map(|file| match &checkpoint.files.get(*file as usize)?.kind {
            Kind::Uring(ring) => Some(ring.files.iter().flatten().copied().collect::<Vec<u32>>()),
            _ => None,
        });
        needed.extend(rings.flatten().collect::<Vec<u32>>());
        for file in &checkpoint.files {
            if let Kind::Epoll(epoll) = &file.kind {
                needed.extend(epoll.targets.iter().filter(|t| t.pid == process.pid).map(|t| t.file));
            }
        }
        let mine: Vec<&(u32, OwnedFd)> = late.iter().filter(|(index, _)| needed.contains(index)).collect();
        for some in mine.chunks(AT_ONCE) {
            let fds: Vec<RawFd> = some.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
            let there = self.send(puppet, &fds)?;
            let mut batch = puppet.batch();
            for ((index, _), &fd) in some.iter().zip(&there) {
                let place = source(sources, *index)?;
                batch.call("dup3", libc::SYS_dup3, &[fd as u64, place as u64, 0]);
                batch.call("close", libc::SYS_close, &[fd as u64]);
            }
            puppet.run(batch)?;
        }
        Ok(())
    }

    /// Sends descriptors to a process, which takes them at once; their numbers there.
    fn send(&self, puppet: &mut Puppet, fds: &[RawFd]) -> Result<Vec<i32>, Error> {
        const HEADER: usize = 16;
        let failed = |e| Error::step("handing over descriptors", puppet.host(), e);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.ours.as_raw_fd(), &[IoSlice::new(b".")], &[ControlMessage::ScmRights(fds)], flags, None)
            .map_err(|e| failed(e.into()))?;
        let mut batch = puppet.batch();
        let words = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let byte = batch.data(&[0]);
        let part = batch.data(&words(&[byte.0, 1]));
        let len = HEADER + fds.len() * 4;
        let control = batch.data(&vec![0; len.next_multiple_of(8)]);
        // struct msghdr: name and its length, parts and their number, control data and its length, flags.
        let message = batch.data(&words(&[0, 0, part.0, 1, control.0, len as u64, 0]));
        let args = [self.number as u64, message.0, libc::MSG_DONTWAIT as u64];
        batch.call("recvmsg", libc::SYS_recvmsg, &args);
        puppet.run(batch)?;
        let mut bytes = vec![0; len];
        puppet.read(control, &mut bytes)?;
        let (header, numbers) = bytes.split_at(HEADER);
        if header.first_chunk::<8>() != Some(&(len as u64).to_le_bytes()) {
            return Err(Error::step("handing over descriptors", puppet.host(), io::Error::other("some were lost")));
        }
        Ok(numbers.chunks_exact(4).filter_map(|n| n.try_into().ok()).map(i32::from_le_bytes).collect())
    }
}
