//! mq_notify(3): processes are told of messages again.

use crate::model::Checkpoint;
use crate::model::fd::Kind;
use crate::model::mqnotify::How;
use crate::model::process::Process;

use super::Error;
use super::stub::Puppet;

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;
/// Bytes of `struct sigevent`.
const EVENT: usize = 64;

/// Registers a process, which closes no descriptor of the queue after that: it would not be registered any more.
pub fn register(puppet: &mut Puppet, process: &Process, checkpoint: &Checkpoint) -> Result<(), Error> {
    for (index, queue) in (0u32..).zip(&checkpoint.shared.mqueues) {
        let Some(notification) = queue.notify.as_ref().filter(|n| n.pid == process.pid) else { continue };
        let is_of_queue = |file: u32| {
            let file = checkpoint.files.get(file as usize);
            file.is_some_and(|f| matches!(f.kind, Kind::Mqueue(m) if m.queue == index))
        };
        let Some(descriptor) = process.fds.iter().find(|d| is_of_queue(d.file)) else { continue };
        let mut batch = puppet.batch();
        let (value, signal, how) = match &notification.how {
            How::Nothing => (0, 0, SIGEV_NONE),
            How::Signal { signal, value } => (*value, *signal, SIGEV_SIGNAL),
            How::Socket { fd, cookie } => (batch.data(&cookie.0).0, *fd, SIGEV_THREAD),
        };
        let mut event = value.to_le_bytes().to_vec();
        event.extend(signal.to_le_bytes());
        event.extend(how.to_le_bytes());
        event.resize(EVENT, 0);
        let event = batch.data(&event);
        batch.call("mq_notify", libc::SYS_mq_notify, &[descriptor.fd as u64, event.0]);
        puppet.run(batch)?;
    }
    Ok(())
}
