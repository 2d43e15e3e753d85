//! On which nodes memory is to be: policies of threads and of mappings, which only the program itself can ask for.

use crate::model::Hex;
use crate::model::memory::{Memory, Span};
use crate::model::mempolicy::{Placement, Policy};
use crate::tracer::{Answers, Call, Calls, Room};

const MPOL_F_ADDR: u64 = 2;

/// Bytes of a bit set of all nodes there can be; `None` where the kernel knows of no nodes.
pub(super) fn set_len() -> Option<u64> {
    let possible = std::fs::read_to_string("/sys/devices/system/node/possible").ok()?;
    Some((highest(&possible)? / 64 + 1) * 8)
}

/// The highest number in `0-3,8`.
fn highest(list: &str) -> Option<u64> {
    list.trim().rsplit([',', '-']).next()?.parse().ok().filter(|&n| n < 1 << 16)
}

/// What is asked for one policy.
#[derive(Debug)]
pub(super) struct Asked {
    call: Call,
    mode: Room,
    nodes: Room,
}

/// Asks for that of the calling thread.
pub(super) fn ask_thread(calls: &mut Calls, set_len: u64) -> Asked {
    ask(calls, set_len, 0, 0)
}

/// Asks for those of all mappings. Neighbours with different policies are different mappings.
pub(super) fn ask_memory(calls: &mut Calls, set_len: u64, memory: &Memory) -> Vec<Asked> {
    memory.vmas.iter().map(|vma| ask(calls, set_len, vma.start.0, MPOL_F_ADDR)).collect()
}

fn ask(calls: &mut Calls, set_len: u64, addr: u64, flags: u64) -> Asked {
    let (mode, nodes) = (calls.room(4), calls.room(set_len));
    // The kernel counts bits from one more than there are.
    let args = [0, 0, set_len * 8 + 1, addr, flags];
    Asked { call: calls.try_call_into(libc::SYS_get_mempolicy, &args, &[(0, mode), (1, nodes)]), mode, nodes }
}

/// What was said; `None`: the default, or a kernel without policies.
pub(super) fn policy(asked: &Asked, answers: &Answers) -> Option<Policy> {
    answers.result(asked.call).ok()?;
    let mode = answers.bytes(asked.mode).first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
    (mode != 0).then(|| Policy { mode, nodes: Hex(answers.bytes(asked.nodes).to_vec()) })
}

/// What was said of the mappings.
pub(super) fn placements(asked: &[Asked], memory: &Memory, answers: &Answers) -> Vec<Placement> {
    let all = asked.iter().zip(&memory.vmas);
    let placement = |(asked, vma): (&Asked, &crate::model::memory::Vma)| {
        let span = Span { start: vma.start, end: vma.end };
        policy(asked, answers).map(|policy| Placement { span, policy })
    };
    all.filter_map(placement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_node() {
        for (list, expected) in [("0\n", Some(0)), ("0-3\n", Some(3)), ("0,2-64\n", Some(64)), ("", None), ("x", None)]
        {
            assert_eq!(highest(list), expected, "{list:?}");
        }
    }
}
