//! Protection keys: which of them a process has allocated. Which mappings have one smaps says, and what threads may do with
//! them is in their extended registers (PKRU).

use crate::model::memory::KEYS;
use crate::sys::cpu;
use crate::tracer::{Answers, Call, Calls};

/// What is asked about each key.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<(u32, Call)>);

/// Asks for a key of a page that no process can have: without the key that is EINVAL, with it ENOMEM, and nothing else happens
/// (mm/mprotect.c, `do_mprotect_pkey`). The key of memory that may only be executed, which is the kernel's, counts as none.
pub(super) fn ask(calls: &mut Calls) -> Asked {
    /// The last page of the lower half, or the first beyond what is saved.
    const NOWHERE: u64 = 0x7fff_ffff_f000;
    if !cpu::has_protection_keys() {
        return Asked::default();
    }
    let ask = |key: u32| (key, calls.try_call(libc::SYS_pkey_mprotect, &[NOWHERE, 4096, 0, key.into()]));
    Asked(KEYS.map(ask).collect())
}

/// The keys that are allocated, in ascending order.
pub(super) fn allocated(asked: &Asked, answers: &Answers) -> Vec<u32> {
    let there = |call| answers.result(call).is_err_and(|e| e.raw_os_error() == Some(libc::ENOMEM));
    asked.0.iter().filter(|(_, call)| there(*call)).map(|(key, _)| *key).collect()
}
