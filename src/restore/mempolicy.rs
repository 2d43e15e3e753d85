//! On which nodes memory is to be. Another host may have others: then a policy can't be set, and that is told.

use crate::model::mempolicy::Policy;
use crate::model::process::Process;
use crate::model::thread::Thread;

use super::Error;
use super::stub::{Batch, Expect, Puppet};

/// Moves the pages that are there already.
const MPOL_MF_MOVE: u64 = 2;

/// Of a thread.
pub fn of_thread(puppet: &mut Puppet, thread: &Thread, notes: &mut Vec<String>) -> Result<(), Error> {
    let Some(policy) = &thread.mempolicy else { return Ok(()) };
    let mut batch = puppet.batch();
    let (nodes, bits) = set(&mut batch, policy);
    let args = [policy.mode.into(), nodes, bits];
    batch.call_expecting(Expect::Anything, "set_mempolicy", libc::SYS_set_mempolicy, &args);
    if puppet.run(batch)?.iter().any(|&result| result != 0) {
        notes.push(format!("thread {}: its memory policy could not be set on this host's nodes", thread.tid));
    }
    Ok(())
}

/// Of the mappings of a process.
pub fn of_memory(puppet: &mut Puppet, process: &Process, notes: &mut Vec<String>) -> Result<(), Error> {
    /// Policies that are set at a time.
    const FEW: usize = 64;
    for few in process.memory.policies.chunks(FEW) {
        let mut batch = puppet.batch();
        for placement in few {
            let (start, end) = (placement.span.start.0, placement.span.end.0);
            let (nodes, bits) = set(&mut batch, &placement.policy);
            let args = [start, end - start, placement.policy.mode.into(), nodes, bits, MPOL_MF_MOVE];
            batch.call_expecting(Expect::Anything, "mbind", libc::SYS_mbind, &args);
        }
        let results = puppet.run(batch)?;
        if let Some((placement, _)) = few.iter().zip(results).find(|(_, result)| *result != 0) {
            let (pid, at) = (process.pid, placement.span.start);
            notes.push(format!("pid {pid}: the memory policy at {at} could not be set on this host's nodes"));
        }
    }
    Ok(())
}

/// Where the nodes are, and the number of bits as the kernel counts them: one more than there are.
fn set(batch: &mut Batch, policy: &Policy) -> (u64, u64) {
    let at = batch.data(&policy.nodes.0);
    (at.0, policy.nodes.0.len() as u64 * 8 + 1)
}
