//! System V message queues: messages are copied, not taken (MSG_COPY of msgrcv(2)).

use std::io;

use crate::model::sysvmsg::{Message, Queue};
use crate::model::{Hex, Pid};
use crate::proc::{self, sysvipc};

use super::Error;
use super::ipc::Seen;
use super::refusals::Refusals;

const IPC_STAT: u64 = 2;
/// MSG_COPY and IPC_NOWAIT, which it wants: the message with that number, the oldest being 0.
const COPY: u64 = 0o40_000 | 0o4_000;
/// Bytes of a message that an image may have.
const LONGEST: u64 = 128 << 10;
/// Of msg_qbytes in `struct msqid64_ds`.
const LIMIT_AT: usize = 88;

/// Adds the queues of the tree to what was seen.
pub(super) fn look(seen: &mut Seen, root: Pid, refusals: &mut Refusals) -> Result<(), Error> {
    let table = seen.space.table("msg")?;
    let rows = sysvipc::msg(&table)
        .map_err(|e| Error::Proc(proc::Error::Malformed { path: "/proc/sysvipc/msg".to_owned(), what: e.0 }))?;
    for row in rows {
        let rule = seen.space.rule();
        let used = rule.waited("msg", row.perm.id) || rule.uses(&row.perm, row.touched, &[row.sender, row.receiver]);
        if !used && !rule.covers(&row.perm, (row.changed, row.touched), &[row.sender, row.receiver]) {
            continue;
        }
        match queue(seen, &row) {
            Ok(mut queue) => {
                queue.perm.used = used;
                seen.model.msg.push(queue);
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EIDRM)) => {} // gone meanwhile
            Err(e) => {
                let (reason, hint) = match e.raw_os_error() {
                    Some(libc::ENOSYS) => ("this kernel can't copy messages".to_owned(), "save it when there are none"),
                    Some(libc::E2BIG) => {
                        let hint = "save it when that message has been received";
                        ("it has a message of more than 128 KiB: not supported".to_owned(), hint)
                    }
                    _ => (format!("it can't be read: {e}"), "save it as root"),
                };
                refusals.add(root, format!("message queue {}", row.perm.id), reason, hint);
            }
        }
    }
    Ok(())
}

fn queue(seen: &mut Seen, row: &sysvipc::Msg) -> io::Result<Queue> {
    let agent = seen.space.agent().map_err(io::Error::other)?;
    let (id, room) = (row.perm.id as u64, agent.room().0);
    agent.call(libc::SYS_msgctl, &[id, IPC_STAT, room])?;
    let mut status = [0u8; LIMIT_AT + 8];
    agent.read(&mut status);
    let limit = status.last_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b));
    let mut messages = Vec::new();
    for number in 0..row.count {
        let len = match agent.call(libc::SYS_msgrcv, &[id, room, LONGEST, number, COPY]) {
            Ok(len) => len as usize,
            // Somebody outside took one.
            Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => break,
            Err(e) => return Err(e),
        };
        let mut bytes = vec![0u8; 8 + len];
        agent.read(&mut bytes);
        let kind = bytes.first_chunk::<8>().map_or(0, |b| i64::from_ne_bytes(*b));
        messages.push(Message { kind, text: Hex(bytes.split_off(8)) });
    }
    Ok(Queue { perm: row.perm, limit, messages })
}
