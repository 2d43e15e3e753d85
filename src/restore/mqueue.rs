//! POSIX message queues: made by a process of ours in the new IPC namespace, from which their descriptors are fetched.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::model::fd::Kind;
use crate::model::mqueue::Queue;
use crate::model::{Checkpoint, Refusal};
use crate::sys::agent::Agent;
use crate::sys::fds;
use crate::sys::tasks;

use super::Error;
use super::namespaces::Wanted;

/// What a new namespace allows (include/linux/ipc_namespace.h: DFLT_MSGMAX, DFLT_MSGSIZEMAX).
const MOST: u32 = 10;
const LONGEST: u32 = 8192;
/// Where `struct mq_attr` stands behind a name.
const ATTRIBUTES: usize = 512;

/// Queues that can't be made here.
pub fn conflicts(checkpoint: &Checkpoint, wanted: Wanted, conflicts: &mut Vec<Refusal>) {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    for queue in &checkpoint.shared.mqueues {
        let (reason, hint) = if !wanted.pid {
            let reason = "it can be made only in an IPC namespace of its own".to_owned();
            (reason, "resume with --pids private")
        } else if wanted.user && (queue.uid, queue.gid) != (uid, gid) {
            let reason = format!("it is of uid {} gid {}, we are uid {uid} gid {gid}", queue.uid, queue.gid);
            (reason, "resume as that user, or as root")
        } else if wanted.user && (queue.max_messages > MOST || queue.message_size > LONGEST) {
            let reason = format!(
                "it takes {} messages of {} bytes, a new IPC namespace allows {MOST} of {LONGEST}",
                queue.max_messages, queue.message_size
            );
            (reason, "resume as root")
        } else {
            continue;
        };
        conflicts.push(Refusal {
            pid: checkpoint.tree.root,
            object: format!("message queue /{}", queue.name.display()),
            reason,
            hint: hint.to_owned(),
        });
    }
}

/// Makes all queues in the namespaces of `init`; the descriptions of them, open, with their indices.
pub fn open_all(checkpoint: &Checkpoint, init: i32, wanted: Wanted) -> Result<Vec<(u32, OwnedFd)>, Error> {
    let queues = &checkpoint.shared.mqueues;
    let mut out = Vec::new();
    if queues.is_empty() {
        return Ok(out);
    }
    let bad = |step| move |e: io::Error| Error::step(step, init, e);
    let open = |kind: &str| File::open(format!("/proc/{init}/ns/{kind}")).map_err(bad("opening a namespace"));
    let (user, ipc) = (open("user")?, open("ipc")?);
    let user = wanted.user.then(|| user.as_fd());
    let mut agent = Agent::start(user, Some(ipc.as_fd())).map_err(bad("entering the IPC namespace"))?;
    agent.call(libc::SYS_umask, &[0]).map_err(bad("umask"))?;
    if !wanted.user {
        let most = queues.iter().map(|q| q.max_messages).max().filter(|&n| n > MOST);
        let longest = queues.iter().map(|q| q.message_size).max().filter(|&n| n > LONGEST);
        for (file, value) in [("msg_max", most), ("msgsize_max", longest)] {
            if let Some(value) = value {
                raise(&mut agent, file, value).map_err(bad("raising a limit of message queues"))?;
            }
        }
    }
    // Those that are removed first: their names may have been taken since.
    let (removed, others): (Vec<_>, Vec<_>) = (0u32..).zip(queues).partition(|(_, q)| q.removed);
    for (index, queue) in removed.into_iter().chain(others) {
        let wrong = |e| Error::file("making a message queue", &queue.name, e);
        let wants = |file: &Kind| matches!(file, Kind::Mqueue(m) if m.queue == index);
        let files = (0u32..).zip(&checkpoint.files).filter(|(_, f)| wants(&f.kind));
        let flags = files.map(|(file, f)| (file, f.flags)).collect::<Vec<_>>();
        out.extend(make(&mut agent, queue, &flags).map_err(wrong)?);
    }
    Ok(out)
}

/// Makes one queue with its messages; the descriptions asked for.
fn make(agent: &mut Agent, queue: &Queue, files: &[(u32, u32)]) -> io::Result<Vec<(u32, OwnedFd)>> {
    let mut record = queue.name.0.clone();
    record.resize(ATTRIBUTES, 0);
    let attributes = [0, u64::from(queue.max_messages), u64::from(queue.message_size), 0, 0, 0, 0, 0];
    record.extend(attributes.iter().flat_map(|word| word.to_le_bytes()));
    agent.write(&record);
    let room = agent.room().0;
    let create = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NONBLOCK) as u64;
    let args = [room, create, u64::from(queue.mode), room + ATTRIBUTES as u64];
    let main = agent.call(libc::SYS_mq_open, &args)?;
    if (queue.uid, queue.gid) != (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()) {
        agent.call(libc::SYS_fchown, &[main, queue.uid.into(), queue.gid.into()])?;
    }
    let pidfd = tasks::pidfd_open(agent.pid())?;
    let mut out = Vec::with_capacity(files.len());
    for &(file, flags) in files {
        let flags = flags & (fds::ACCESS | libc::O_NONBLOCK) as u32;
        let fd = agent.call(libc::SYS_mq_open, &[room, flags.into(), 0, 0])?;
        out.push((file, tasks::pidfd_getfd(pidfd.as_fd(), fd as i32)?));
        agent.call(libc::SYS_close, &[fd])?;
    }
    if queue.removed {
        agent.call(libc::SYS_mq_unlink, &[room])?;
    }
    for message in &queue.messages {
        agent.write(&message.text.0);
        let args = [main, room, message.text.0.len() as u64, message.priority.into(), 0];
        agent.call(libc::SYS_mq_timedsend, &args)?;
    }
    agent.call(libc::SYS_close, &[main])?;
    Ok(out)
}

/// Raises a limit of the namespace, which root may.
fn raise(agent: &mut Agent, file: &str, value: u32) -> io::Result<()> {
    agent.write(format!("/proc/sys/fs/mqueue/{file}\0").as_bytes());
    let room = agent.room().0;
    let fd = agent.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, room, libc::O_WRONLY as u64])?;
    let text = value.to_string();
    agent.write(text.as_bytes());
    agent.call(libc::SYS_write, &[fd, room, text.len() as u64])?;
    agent.call(libc::SYS_close, &[fd]).map(drop)
}
