//! Where a signal frame may stand in a program's main stack without anybody noticing.

use std::fs::File;
use std::os::fd::AsFd;

use crate::model::Addr;
use crate::proc::smaps::Mapping;
use crate::sys::mem::{PageQuery, page, pagemap_scan};

use super::held::HeldProcess;

/// A place for `len` bytes at the bottom of `[stack]`: pages that the program never touched (the kernel maps 128 KiB
/// more than it needs at exec), or else what lies below the main thread's red zone. A goroutine's or coroutine's stack
/// is never taken: what is below those stack pointers belongs to others.
pub(super) fn frame_place(process: &HeldProcess, maps: &[Mapping], len: u64) -> Option<Addr> {
    let stack = maps.iter().find(|m| m.name == b"[stack]" && m.prot & 3 == 3)?;
    let bottom = Addr(stack.start);
    let room = len.next_multiple_of(4096);
    if stack.end - stack.start < room {
        return None;
    }
    if untouched(process.live(), bottom, Addr(bottom.0 + room)) || all_zero(process, bottom, room) {
        return Some(bottom);
    }
    let leader = process.threads.first()?;
    let below = leader.regs.rsp.checked_sub(128 + len)? & !63;
    (below >= stack.start && leader.regs.rsp < stack.end).then_some(Addr(below))
}

fn untouched(pid: i32, from: Addr, to: Addr) -> bool {
    let query = PageQuery { any: page::PRESENT | page::SWAPPED, ..PageQuery::default() };
    File::open(format!("/proc/{pid}/pagemap"))
        .and_then(|f| pagemap_scan(f.as_fd(), from, to, query))
        .is_ok_and(|ranges| ranges.is_empty())
}

/// What an earlier hold left behind: it wipes its frame.
fn all_zero(process: &HeldProcess, from: Addr, len: u64) -> bool {
    let mut bytes = vec![0u8; len as usize];
    let main_is_far = process.threads.first().is_none_or(|t| t.regs.rsp < from.0 || t.regs.rsp > from.0 + len + 4096);
    main_is_far && process.read(from, &mut bytes).is_ok() && bytes.iter().all(|&b| b == 0)
}
