//! Address spaces.

use std::collections::{BTreeMap, BTreeSet};

use crate::image::{Image, Run};
use crate::model::memory::{Backing, Vma};
use crate::model::process::Process;
use crate::model::{Addr, Checkpoint, Name};
use crate::proc::smaps::Mapping;

use super::fd::Sources;
use super::stub::{Batch, Expect, LEN, Puppet};
use super::{Error, process, vdso};

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const MAP_FIXED_NOREPLACE: i32 = 0x10_0000;
const MREMAP_MAYMOVE_FIXED: u64 = 1 | 2;
/// End of the address space that is emptied; addresses from 2^47 on exist only for programs that ask for them.
const TOP: u64 = 0x7fff_ffff_f000;
const SYS_MSEAL: i64 = 462;
/// Linux ≥ 6.13.
const MADV_GUARD_INSTALL: u64 = 102;
const MLOCK_ONFAULT: u64 = 1;
const MCL_FUTURE: u64 = 2;
const MCL_ONFAULT: u64 = 4;

/// Where a process under construction keeps what it can't make itself: the stub, the kernel's own mappings, shared
/// memory. One range of addresses, the same in all of them, that the program does not use.
#[derive(Debug)]
pub struct Hold {
    /// Where the stub is.
    pub base: Addr,
    end: Addr,
    /// The kernel's mappings, in their old order and distances.
    pub kernels: Vec<(Name, Addr, u64)>,
    /// Shared anonymous memory and segments, by object.
    pub anon: Vec<Addr>,
    /// Segments once more, attached read-only, by object: those that somebody has so.
    pub read_only: BTreeMap<u32, Addr>,
}

impl Hold {
    /// Unmaps all of it but the stub.
    pub fn let_go(&self, batch: &mut Batch) {
        let from = self.base.0 + LEN;
        if self.end.0 > from {
            batch.call("munmap", libc::SYS_munmap, &[from, self.end.0 - from]);
        }
    }
}

/// Whether a mapping is the kernel's own and can only be moved.
pub fn is_kernels(m: &Mapping) -> bool {
    m.name.starts_with(b"[vvar") || m.name == b"[vdso]"
}

/// Empties the first process but for the stub, and lays out the hold.
/// Segments are attached later, if there is an IPC namespace for them.
pub fn empty(batch: &mut Batch, maps: &[Mapping], base: Addr, checkpoint: &Checkpoint, own_ipc: bool) -> Hold {
    let mut at = base.0 + LEN;
    let mut kernels = Vec::new();
    for m in maps.iter().filter(|m| is_kernels(m)) {
        let len = m.end - m.start;
        let args = [m.start, len, len, MREMAP_MAYMOVE_FIXED, at];
        batch.call_expecting(Expect::Exactly(at), "mremap", libc::SYS_mremap, &args);
        kernels.push((Name(m.name.clone()), Addr(at), len));
        at += len;
    }
    let mut objects = Vec::new();
    let segments = checkpoint.shared.ipc.shm.iter().filter(|_| own_ipc);
    let segments: BTreeSet<u32> = segments.map(|s| s.object).collect();
    let vmas = checkpoint.processes.iter().flat_map(|p| &p.memory.vmas);
    for (index, object) in (0u32..).zip(&checkpoint.shared.anon) {
        let mut flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        let is_this = |v: &Vma| matches!(v.backing, Backing::SharedAnon { object, .. } if object == index);
        if vmas.clone().any(|v| v.no_reserve && is_this(v)) {
            flags |= libc::MAP_NORESERVE;
        }
        let args = [at, object.size, 3, flags as u64, u64::MAX, 0];
        objects.push(Addr(at));
        if object.size > 0 && !segments.contains(&index) {
            batch.call_expecting(Expect::Exactly(at), "mmap", libc::SYS_mmap, &args);
        }
        at += object.size;
    }
    let mut read_only = BTreeMap::new();
    for object in read_only_objects(checkpoint) {
        read_only.insert(object, Addr(at));
        at += checkpoint.shared.anon.get(object as usize).map_or(0, |o| o.size);
    }
    batch.call("munmap", libc::SYS_munmap, &[0, base.0]);
    batch.call("munmap", libc::SYS_munmap, &[at, TOP - at]);
    Hold { base, end: Addr(at), kernels, anon: objects, read_only }
}

/// Bytes of the hold but for the kernel's mappings.
pub fn hold_len(checkpoint: &Checkpoint) -> u64 {
    let anon = &checkpoint.shared.anon;
    let again = read_only_objects(checkpoint);
    let again = again.iter().filter_map(|&object| anon.get(object as usize));
    anon.iter().chain(again).fold(LEN, |sum, object| sum.saturating_add(object.size))
}

/// Objects that somebody has mapped so that it can't be made writable.
fn read_only_objects(checkpoint: &Checkpoint) -> BTreeSet<u32> {
    let vmas = checkpoint.processes.iter().flat_map(|p| &p.memory.vmas);
    let object = |v: &Vma| match v.backing {
        Backing::SharedAnon { object, read_only: true, .. } => Some(object),
        _ => None,
    };
    vmas.filter_map(object).collect()
}

/// Reads the content of shared memory into the hold, once for all processes.
pub fn fill_shared(puppet: &mut Puppet, image: &Image, sources: &Sources, hold: &Hold) -> Result<(), Error> {
    for (index, start) in hold.anon.iter().enumerate() {
        let name = format!("anon-{index}");
        if let Some(part) = image.parts().iter().find(|p| p.name == name) {
            fill(puppet, sources, &part.runs, part.data_offset, start.0)?;
        }
    }
    Ok(())
}

/// Builds the address space of `process`.
pub fn build(
    puppet: &mut Puppet,
    process: &Process,
    image: &Image,
    sources: &Sources,
    hold: &Hold,
    foreign_vdso: bool,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let name = process.pid.to_string();
    let part = image.parts().iter().find(|p| p.name == name);
    let runs = part.map_or(&[][..], |p| &p.runs);
    process::mm_fields(puppet, process, sources, notes)?;
    let mut batch = puppet.batch();
    let mut anon_names = Vec::new();
    let mut restrict = Vec::new();
    for vma in &process.memory.vmas {
        puppet.flush_for(&mut batch, 2, 0)?;
        let filled = has_content(runs, vma);
        let wanted = if filled { vma.prot | PROT_READ | PROT_WRITE } else { vma.prot };
        let now = map(&mut batch, vma, wanted, sources, hold)?;
        if now != vma.prot {
            restrict.push(vma);
        }
        anon_names.extend(vma.anon_name.as_ref().map(|name| (vma, name)));
    }
    puppet.run(batch)?;
    if let Some(part) = part {
        fill(puppet, sources, &part.runs, part.data_offset, 0)?;
    }
    let mut batch = puppet.batch();
    for vma in restrict {
        puppet.flush_for(&mut batch, 1, 0)?;
        batch.call("mprotect", libc::SYS_mprotect, &[vma.start.0, vma.len(), u64::from(vma.prot)]);
    }
    // Before anything is locked: guard pages can't be set up in locked memory.
    for guard in &process.memory.guards {
        puppet.flush_for(&mut batch, 1, 0)?;
        let args = [guard.start.0, guard.end.0 - guard.start.0, MADV_GUARD_INSTALL];
        batch.call("madvise MADV_GUARD_INSTALL", libc::SYS_madvise, &args);
    }
    for vma in &process.memory.vmas {
        puppet.flush_for(&mut batch, vma.advice.len() + 3, 0)?;
        attributes(&mut batch, vma);
    }
    for (vma, name) in anon_names {
        puppet.flush_for(&mut batch, 1, name.0.len() + 16)?;
        let at = batch.path(name);
        // Kernels without CONFIG_ANON_VMA_NAME refuse; the name is for people only.
        let args = [0x5356_4d41, 0, vma.start.0, vma.len(), at.0];
        batch.call_expecting(Expect::Anything, "prctl", libc::SYS_prctl, &args);
    }
    puppet.run(batch)?;
    if let Some(saved) = &process.memory.vdso {
        vdso::place(puppet, saved, process, hold, foreign_vdso)?;
    }
    let mut batch = puppet.batch();
    hold.let_go(&mut batch);
    puppet.run(batch)?;
    seal(puppet, process)
}

/// Maps one range; the protection it then has.
fn map(batch: &mut Batch, vma: &Vma, prot: u32, sources: &Sources, hold: &Hold) -> Result<u32, Error> {
    let bad = |what: &'static str| Error::step(what, 0, std::io::ErrorKind::NotFound.into());
    let (start, len) = (vma.start.0, vma.len());
    let mut flags = MAP_FIXED_NOREPLACE;
    if vma.grows_down {
        flags |= libc::MAP_GROWSDOWN;
    }
    if vma.no_reserve {
        flags |= libc::MAP_NORESERVE;
    }
    let (fd, offset) = match vma.backing {
        Backing::Anon => {
            flags |= libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            (-1, 0)
        }
        Backing::File { file, offset, shared, may_write } => {
            flags |= if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
            let open = sources.mapped.get(file as usize).ok_or_else(|| bad("finding a mapped file"))?;
            (if shared && may_write { open.write } else { open.read }, offset)
        }
        Backing::SharedAnon { object, offset, read_only } => {
            let from = if read_only { hold.read_only.get(&object) } else { hold.anon.get(object as usize) };
            let from = from.ok_or_else(|| bad("finding shared memory"))?;
            // An old length of 0 makes a second mapping of the same pages (mremap(2)).
            let args = [from.0 + offset, 0, len, MREMAP_MAYMOVE_FIXED, start];
            batch.call_expecting(Expect::Exactly(start), "mremap", libc::SYS_mremap, &args);
            return Ok(if read_only { PROT_READ } else { PROT_READ | PROT_WRITE });
        }
    };
    let args = [start, len, u64::from(prot), flags as u64, fd as i64 as u64, offset];
    batch.call_expecting(Expect::Exactly(start), "mmap", libc::SYS_mmap, &args);
    Ok(prot)
}

fn has_content(runs: &[Run], vma: &Vma) -> bool {
    let first = runs.partition_point(|r| r.start + r.len <= vma.start.0);
    runs.get(first).is_some_and(|r| r.start < vma.end.0)
}

/// Has the process read pages straight from the image to where they belong: one copy, none of it ours.
fn fill(puppet: &mut Puppet, sources: &Sources, runs: &[Run], offset: u64, base: u64) -> Result<(), Error> {
    /// The kernel's UIO_MAXIOV.
    const MAX_PIECES: usize = 1024;
    /// Below the 2 GiB that one read may return.
    const MAX_BYTES: u64 = 1 << 30;
    let mut batch = puppet.batch();
    let mut offset = offset;
    let mut pieces: Vec<u8> = Vec::new();
    let mut bytes = 0;
    let mut send = |puppet: &mut Puppet, pieces: &mut Vec<u8>, bytes: &mut u64, offset: &mut u64| {
        if *bytes == 0 {
            return Ok(());
        }
        puppet.flush_for(&mut batch, 1, pieces.len() + 16)?;
        let at = batch.data(pieces);
        let args = [sources.image as u64, at.0, (pieces.len() / 16) as u64, *offset, 0];
        batch.call_expecting(Expect::Exactly(*bytes), "preadv", libc::SYS_preadv, &args);
        *offset += *bytes;
        *bytes = 0;
        pieces.clear();
        Ok::<(), Error>(())
    };
    for run in runs {
        let (mut start, mut left) = (run.start + base, run.len);
        while left > 0 {
            let now = left.min(MAX_BYTES - bytes);
            pieces.extend(start.to_le_bytes());
            pieces.extend(now.to_le_bytes());
            (start, left, bytes) = (start + now, left - now, bytes + now);
            if bytes == MAX_BYTES || pieces.len() == MAX_PIECES * 16 {
                send(puppet, &mut pieces, &mut bytes, &mut offset)?;
            }
        }
    }
    send(puppet, &mut pieces, &mut bytes, &mut offset)?;
    puppet.run(batch).map(drop)
}

fn attributes(batch: &mut Batch, vma: &Vma) {
    for &advice in &vma.advice {
        // Advice is advice: a kernel built without KSM or THP refuses some.
        let args = [vma.start.0, vma.len(), advice as u64];
        batch.call_expecting(Expect::Anything, "madvise", libc::SYS_madvise, &args);
    }
    if let Some(on_fault) = vma.locked {
        batch.call("mlock2", libc::SYS_mlock2, &[vma.start.0, vma.len(), MLOCK_ONFAULT]);
        if !on_fault {
            // Marks it as wanted, then fails where there are pages that can't be had: without permission, guards,
            // beyond the end of a file. It was so before.
            batch.call_expecting(Expect::Anything, "mlock2", libc::SYS_mlock2, &[vma.start.0, vma.len(), 0]);
        }
    }
}

/// Seals what was sealed; nothing can be changed there afterwards. From now on what is mapped is locked, if it was so.
fn seal(puppet: &mut Puppet, process: &Process) -> Result<(), Error> {
    let mut batch = puppet.batch();
    for vma in process.memory.vmas.iter().filter(|v| v.sealed) {
        puppet.flush_for(&mut batch, 1, 0)?;
        batch.call("mseal", SYS_MSEAL, &[vma.start.0, vma.len(), 0]);
    }
    if let Some(on_fault) = process.memory.lock_future {
        let flags = MCL_FUTURE | if on_fault { MCL_ONFAULT } else { 0 };
        puppet.flush_for(&mut batch, 1, 0)?;
        batch.call("mlockall", libc::SYS_mlockall, &[flags]);
    }
    puppet.run(batch).map(drop)
}
