//! System V message queues: made and filled again.

use crate::model::sysvmsg::Queue;
use crate::model::{Checkpoint, Name, Refusal};

use super::namespaces::Wanted;
use super::stub::{Batch, Expect, Puppet};
use super::{Error, ipc};

const IPC_NOWAIT: u64 = 0o4000;
/// What queues may hold in a new namespace, and messages (MSGMNB and MSGMAX in include/uapi/linux/msg.h).
const LIMIT: u64 = 16384;
const LONGEST: u64 = 8192;

/// Bytes a queue must be able to hold for its messages: each counts for one at least.
fn content(queue: &Queue) -> u64 {
    let bytes = queue.messages.iter().fold(0u64, |sum, m| sum.saturating_add(m.text.0.len() as u64));
    bytes.max(queue.messages.len() as u64)
}

fn longest(queue: &Queue) -> u64 {
    queue.messages.iter().map(|m| m.text.0.len() as u64).max().unwrap_or(0)
}

/// Queues that hold more than a new namespace lets them; notes those that only could.
pub fn conflicts(checkpoint: &Checkpoint, wanted: Wanted, conflicts: &mut Vec<Refusal>, notes: &mut Vec<String>) {
    // In a namespace that root made without a user namespace the limits can be raised.
    for queue in checkpoint.shared.ipc.msg.iter().filter(|_| wanted.user) {
        let id = queue.perm.id;
        if content(queue) > LIMIT || longest(queue) > LONGEST {
            conflicts.push(Refusal {
                pid: checkpoint.tree.root,
                object: format!("System V object (msg {id})"),
                reason: format!(
                    "it holds more than the {LIMIT} bytes (in messages of {LONGEST}) of a new IPC namespace"
                ),
                hint: "resume as root".to_owned(),
            });
        } else if queue.limit > LIMIT {
            notes.push(format!("message queue {id} could hold {} bytes, and now {LIMIT}", queue.limit));
        }
    }
}

/// Makes the queues and puts their messages in.
pub fn create(puppet: &mut Puppet, checkpoint: &Checkpoint) -> Result<(), Error> {
    let queues = &checkpoint.shared.ipc.msg;
    let most = queues.iter().map(|q| q.limit.max(content(q))).max().unwrap_or(0);
    let mut batch = puppet.batch();
    for (file, value, usual) in
        [("msgmnb", most, LIMIT), ("msgmax", queues.iter().map(longest).max().unwrap_or(0), LONGEST)]
    {
        if value > usual {
            raise(&mut batch, file, value.min(i32::MAX as u64));
        }
    }
    for queue in queues {
        let id = queue.perm.id as u64;
        puppet.flush_for(&mut batch, ipc::ROOM.0 + 2, ipc::ROOM.1)?;
        ipc::get(&mut batch, "msg", &queue.perm, "msgget", libc::SYS_msgget, None);
        for message in &queue.messages {
            let len = message.text.0.len();
            puppet.flush_for(&mut batch, 1, len + 32)?;
            let at = batch.data(&[&message.kind.to_le_bytes()[..], &message.text.0].concat());
            batch.call("msgsnd", libc::SYS_msgsnd, &[id, at.0, len as u64, IPC_NOWAIT]);
        }
        let set = |batch: &mut Batch, expect, limit| {
            ipc::set_expecting(batch, expect, &queue.perm, "msgctl IPC_SET", libc::SYS_msgctl, &[], Some(limit));
        };
        // A new one may hold as much as the namespace allows; more only by privilege.
        puppet.flush_for(&mut batch, 2, 512)?;
        set(&mut batch, Expect::Success, queue.limit.min(LIMIT));
        if queue.limit > LIMIT {
            set(&mut batch, Expect::Anything, queue.limit);
        }
    }
    puppet.run(batch).map(drop)
}

/// Raises a limit of the namespace, where that is permitted.
fn raise(batch: &mut Batch, file: &str, value: u64) {
    let path = batch.path(&Name::from(format!("/proc/sys/kernel/{file}").as_str()));
    let text = value.to_string();
    let at = batch.data(text.as_bytes());
    batch.call_expecting(Expect::Anything, "open", libc::SYS_open, &[path.0, libc::O_WRONLY as u64]);
    batch.call_expecting(Expect::Anything, "write", libc::SYS_write, &[0, at.0, text.len() as u64]);
    batch.call_expecting(Expect::Anything, "close", libc::SYS_close, &[0]);
}
