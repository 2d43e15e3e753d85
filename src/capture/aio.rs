//! Linux AIO. Events wait in memory of the program; what is under way the kernel does not show. A held program starts
//! nothing new: what goes to disks has ended once these have been idle, and who polls descriptors is found by its events.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::model::aio::{Context, UNIT, places};
use crate::model::memory::{Backing, Vma};
use crate::model::{Addr, Hex, Pid, Refusal};
use crate::tracer::{Answers, Call, Calls, Held, HeldProcess};

use super::Error;
use super::look::LookedProcess;
use super::refusals::Refusals;

/// Disks are not idle for ever.
pub(super) const UNDER_WAY: &str = "asynchronous I/O (io_setup) may be under way: the disks are never idle";
const MAGIC: u32 = 0xa10a_10a1;
const IOCB_CMD_POLL: u16 = 5;

/// Reads all contexts, once nothing is under way any more.
pub(super) fn capture(held: &Held, seen: &mut [LookedProcess], refusals: &mut Refusals) -> Result<(), Error> {
    let is_ring = |v: &&Vma| matches!(v.backing, Backing::Aio);
    let mut quiet = None;
    for looked in seen {
        let Some(p) = held.processes.get(looked.index) else { continue };
        let memory = &mut looked.memory.memory;
        for vma in memory.vmas.iter().filter(is_ring) {
            let mut refuse =
                |reason: &str, hint| refusals.add(p.pid, format!("mapping at {}", vma.start), reason, hint);
            if !*quiet.get_or_insert_with(|| idle(Duration::from_millis(200))) {
                refuse(UNDER_WAY, "save again when there is less to do");
                continue;
            }
            match context(p, vma).map_err(Error::of(p.host, "reading an AIO context"))? {
                Ok(context) => memory.aio.push(context),
                Err(reason) => refuse(reason, "have the context destroyed (io_destroy) before the save"),
            }
        }
    }
    Ok(())
}

/// Waits until every disk has had nothing to do for a moment, which then has done all that was asked of it before; and
/// a little longer, for what comes of it.
fn idle(limit: Duration) -> bool {
    const MOMENT: Duration = Duration::from_millis(10);
    let until = Instant::now() + limit;
    let disks =
        fs::read_dir("/sys/block").map(|dir| dir.flatten().map(|e| e.path().join("inflight")).collect::<Vec<_>>());
    let mut busy = disks.unwrap_or_default();
    loop {
        // Reads and writes under way. What is gone or can't be read tells nothing.
        busy.retain(|disk| fs::read(disk).is_ok_and(|text| text.iter().any(|b| matches!(b, b'1'..=b'9'))));
        std::thread::sleep(MOMENT);
        if busy.is_empty() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
    }
}

/// The context of a ring, or why it can't be saved.
fn context(p: &HeldProcess, vma: &Vma) -> std::io::Result<Result<Context, &'static str>> {
    let mut bytes = vec![0; vma.len() as usize];
    p.read(vma.start, &mut bytes)?;
    let word = |i: usize| bytes.get(i * 4..i * 4 + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let ([count, head, tail, magic], incompatible) = ([1, 2, 3, 4].map(word), word(6));
    let known = u64::from(count) == places(vma.len()) && head < count && tail < count;
    if magic != MAGIC || incompatible != 0 || !known {
        return Ok(Err("a part of an AIO ring, or one of another kind, is not supported"));
    }
    let event = |place: u32| bytes.chunks_exact(UNIT).nth(place as usize + 1).unwrap_or_default();
    let requests: HashSet<u64> = (0..count)
        .filter_map(|place| Some(u64::from_ne_bytes(event(place).get(8..16)?.try_into().ok()?)))
        .filter(|request| *request != 0)
        .collect();
    for request in requests {
        // `aio_lio_opcode` of `struct iocb`, unless the memory has been given back.
        let mut opcode = [0; 2];
        if p.read(Addr(request.wrapping_add(16)), &mut opcode).is_ok() && u16::from_ne_bytes(opcode) == IOCB_CMD_POLL {
            return Ok(Err("polling descriptors by asynchronous I/O (IOCB_CMD_POLL) is not supported"));
        }
    }
    let mut context = Context { ring: vma.start, places: count, head, tail, events: Hex::default() };
    let waiting = (0..context.waiting()).flat_map(|i| event((head + i) % count).iter().copied());
    context.events = Hex(waiting.collect());
    Ok(Ok(context))
}

/// What a process is asked: whether its contexts are its own.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<(Addr, Call)>);

/// Asks a process for its contexts: a child has its parent's rings in its memory, but they lead nowhere.
pub(super) fn ask(calls: &mut Calls, contexts: &[Context]) -> Asked {
    let ask = |c: &Context| (c.ring, calls.try_call(libc::SYS_io_submit, &[c.ring.0, 0, 0]));
    Asked(contexts.iter().map(ask).collect())
}

/// Fails if one is not its own.
pub(super) fn check(asked: &Asked, answers: &Answers, pid: Pid) -> Result<(), Error> {
    let Some((ring, _)) = asked.0.iter().find(|(_, call)| answers.result(*call).is_err()) else { return Ok(()) };
    Err(Error::Refused(vec![Refusal {
        pid,
        object: format!("mapping at {ring}"),
        reason: "it is what is left of another process's asynchronous I/O (io_setup): not supported".to_owned(),
        hint: "have the program run another (exec) after its fork".to_owned(),
    }]))
}
