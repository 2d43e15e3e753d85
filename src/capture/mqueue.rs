//! POSIX message queues. There is no way to look at messages but to receive them: a process of ours takes them all and puts
//! them back, in one go that also our death does not interrupt, while nobody else has the queue open.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use crate::model::fd::Kind;
use crate::model::mqnotify::Notification;
use crate::model::mqueue::{Message, Mqueue, Queue};
use crate::model::{Hex, Name};
use crate::proc::{self, mqueue::Status};
use crate::sys::agent::{Agent, ROOM};
use crate::sys::fds;
use crate::tracer::Held;

use super::fd::{SeenFd, Work};
use super::{Error, mqnotify};

/// MQUEUE_MAGIC in linux/magic.h.
pub(super) const MAGIC: i64 = 0x1980_0202;

/// A queue whose messages are still to be copied.
#[derive(Debug)]
pub(super) struct Seen {
    key: (u64, u64),
    queue: Queue,
    /// A descriptor of it in `/proc`.
    path: String,
    /// Messages in it.
    count: u64,
    /// Who is told of the next.
    pub notify: Option<mqnotify::Seen>,
}

/// A description of a queue; `None` if it was refused.
pub(super) fn capture(work: &mut Work<'_>, s: &SeenFd) -> Result<Option<Kind>, Error> {
    let known = work.contents.mqueues.iter().position(|q| q.key == s.key());
    if let Some(index) = known {
        return Ok(Some(Kind::Mqueue(Mqueue { queue: index as u32 })));
    }
    let path = format!("/proc/{}/fd/{}", s.host, s.fd);
    let about = about(&path);
    let notified = about.as_ref().ok().and_then(|(status, .., count)| Some((status.notifies?, *count)));
    let notify = notified.map(|(notified, count)| mqnotify::look(work, s.key(), notified, count)).transpose()?;
    let mut refuse = |reason: String, hint: &str| {
        work.refusals.add(s.pid, s.object(&format!("message queue {}", s.name())), reason, hint);
        Ok(None)
    };
    let (status, max_messages, message_size, count) = match about {
        Ok(about) => about,
        Err(e) => return refuse(format!("it can't be read: {e}"), "save it as root"),
    };
    let notify = match notify {
        Some(Err((reason, hint))) => return refuse(reason.to_owned(), hint),
        Some(Ok(seen)) => Some(seen),
        None => None,
    };
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let theirs = (s.meta.uid(), s.meta.gid());
    if !uid.is_root() && theirs != (uid.as_raw(), gid.as_raw()) {
        let (owner, group) = theirs;
        let reason =
            format!("it is of uid {owner} gid {group}; we are uid {uid} gid {gid}, and could not make it anew");
        return refuse(reason, "save it as root, or have it closed before the save");
    }
    // Each message is kept with a head of 8 bytes, and begins at a multiple of 8.
    if status.bytes.saturating_add(count.saturating_mul(16)).saturating_add(message_size) > ROOM as u64 - 16 {
        return refuse("it holds more than 1 MiB: not supported".to_owned(), "save it when it holds less");
    }
    if let Some(pid) = outsider(work.held, s.key()) {
        return refuse(format!("pid {pid}, outside the tree, has it open, too"), "save them together, or end that one");
    }
    let name = s.link.strip_prefix(b"/").unwrap_or(&s.link);
    let removed = s.meta.nlink() == 0;
    let name = if removed { name.strip_suffix(b" (deleted)").unwrap_or(name) } else { name };
    let queue = Queue {
        name: Name(name.to_vec()),
        removed,
        mode: s.meta.mode() & 0o777,
        uid: s.meta.uid(),
        gid: s.meta.gid(),
        max_messages: max_messages as u32,
        message_size: message_size as u32,
        messages: Vec::new(),
        notify: None,
    };
    work.contents.mqueues.push(Seen { key: s.key(), queue, path, count, notify });
    Ok(Some(Kind::Mqueue(Mqueue { queue: work.contents.mqueues.len() as u32 - 1 })))
}

/// What it says of itself; how many messages it takes, how long, and how many are there.
fn about(path: &str) -> std::io::Result<(Status, u64, u64, u64)> {
    // For writing as well: messages are to be put back.
    let file: File = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut text = [0u8; 256];
    let len = file.read_at(&mut text, 0)?;
    let status = proc::mqueue::parse(text.get(..len).unwrap_or_default())
        .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e.0))?;
    let [_, most, size, count] = fds::mq_attributes(file.as_fd())?;
    Ok((status, most, size, count))
}

/// A process outside the tree that has the file (device, inode) open, as far as we may see.
fn outsider(held: &Held, key: (u64, u64)) -> Option<i32> {
    let ours = std::process::id() as i32;
    let ids = std::fs::read_dir("/proc").ok()?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: i32| {
        proc::fds(pid).unwrap_or_default().into_iter().any(|fd| {
            std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|meta| (meta.dev(), meta.ino()) == key)
        })
    };
    ids.filter(|&pid| pid != ours && held.processes.iter().all(|p| p.host != pid)).find(|&pid| has(pid))
}

impl Seen {
    /// Who is told of the next message.
    pub fn set_notification(&mut self, notification: Notification) {
        self.queue.notify = Some(notification);
    }
}

/// Copies the messages of all queues.
pub(super) fn take(seen: Vec<Seen>) -> Result<Vec<Queue>, Error> {
    let mut agent = None;
    let mut out = Vec::with_capacity(seen.len());
    for Seen { mut queue, path, count, .. } in seen {
        let bad = |step| Error::io(step, format!("message queue {}", queue.name.display()));
        if count > 0 {
            let agent = match &mut agent {
                Some(agent) => agent,
                none => none.insert(Agent::start(None, None).map_err(bad("starting an agent for"))?),
            };
            let messages = agent.copy_queue(&path).map_err(bad("copying"))?;
            queue.messages =
                messages.into_iter().map(|(priority, text)| Message { priority, text: Hex(text) }).collect();
        }
        out.push(queue);
    }
    Ok(out)
}
