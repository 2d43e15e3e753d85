//! Address spaces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use crate::image::{Image, Run, process_part, shared_part};
use crate::model::memory::{Backing, KEYS, Vma};
use crate::model::process::Process;
use crate::model::{Addr, Checkpoint, Name, Pid, Refusal};
use crate::proc;
use crate::proc::smaps::Mapping;
use crate::tracer;

use super::fd::Sources;
use super::fill::{self, Filler};
use super::hugetlb;
use super::inherit::{self, Range};
use super::stub::{Batch, Expect, LEN, Puppet};
use super::{Error, aio, pkeys, process, switches, thp, uring, vdso};

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const MAP_FIXED_NOREPLACE: i32 = 0x10_0000;
const MREMAP_MAYMOVE_FIXED: u64 = 1 | 2;
/// End of the address space that is emptied; addresses from 2^47 on exist only for programs that ask for them.
pub const TOP: u64 = 0x7fff_ffff_f000;
const SYS_MSEAL: i64 = 462;
/// Linux ≥ 6.13.
const MADV_GUARD_INSTALL: u64 = 102;
const MLOCK_ONFAULT: u64 = 1;
const MCL_FUTURE: u64 = 2;
const MCL_ONFAULT: u64 = 4;

/// Code and data of the stub.
const STUB_MAPS: usize = 2;
/// `[vvar]`, `[vvar_vclock]`, `[vdso]`.
const KERNEL_MAPS: usize = 3;
/// What mremap(2) wants to be free to move one (mm/mremap.c: three, two for the move, and it counts from the limit itself).
const SPARE_MAPS: usize = 6;

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
    /// Unmaps all that is outside.
    pub fn empty_around(&self, batch: &mut Batch) {
        batch.call("munmap", libc::SYS_munmap, &[0, self.base.0]);
        batch.call("munmap", libc::SYS_munmap, &[self.end.0, TOP - self.end.0]);
    }

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
pub fn empty(
    puppet: &mut Puppet,
    maps: &[Mapping],
    base: Addr,
    checkpoint: &Checkpoint,
    own_ipc: bool,
) -> Result<Hold, Error> {
    let mut batch = puppet.batch();
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
    let no_reserve = objects_of(checkpoint, |v| v.no_reserve);
    for (index, object) in (0u32..).zip(&checkpoint.shared.anon) {
        let mut flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        if no_reserve.contains(&index) {
            flags |= libc::MAP_NORESERVE;
        }
        let args = [at, object.size, 3, flags as u64, u64::MAX, 0];
        objects.push(Addr(at));
        if object.size > 0 && !segments.contains(&index) {
            puppet.flush_for(&mut batch, 1, 0)?;
            batch.call_expecting(Expect::Exactly(at), "mmap", libc::SYS_mmap, &args);
        }
        at += object.size;
    }
    let mut read_only = BTreeMap::new();
    for object in read_only_objects(checkpoint) {
        read_only.insert(object, Addr(at));
        at += checkpoint.shared.anon.get(object as usize).map_or(0, |o| o.size);
    }
    let hold = Hold { base, end: Addr(at), kernels, anon: objects, read_only };
    puppet.flush_for(&mut batch, 2, 0)?;
    hold.empty_around(&mut batch);
    puppet.run(batch)?;
    Ok(hold)
}

/// Bytes of the hold but for the kernel's mappings.
pub fn hold_len(checkpoint: &Checkpoint) -> u64 {
    let anon = &checkpoint.shared.anon;
    let again = read_only_objects(checkpoint);
    let again = again.iter().filter_map(|&object| anon.get(object as usize));
    anon.iter().chain(again).fold(LEN, |sum, object| sum.saturating_add(object.size))
}

/// Processes with more mappings than this kernel lets us make, with what a resume needs beside them.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    let Ok(most) = proc::number("sys/vm/max_map_count") else { return };
    let hold = STUB_MAPS + KERNEL_MAPS + checkpoint.shared.anon.len() + read_only_objects(checkpoint).len();
    for process in &checkpoint.processes {
        let vmas = &process.memory.vmas;
        let rings = vmas.iter().any(|v| matches!(v.backing, Backing::Ring { .. }));
        // For a ring all the gaps between others are filled for a moment.
        let between = || vmas.windows(2).filter(|two| matches!(two, [a, b] if a.end < b.start)).count();
        let gaps = if rings { between() + hold + 2 } else { 0 };
        let needed = (vmas.len() + hold + gaps + SPARE_MAPS) as i64;
        if needed > most {
            conflicts.push(Refusal {
                pid: process.pid,
                object: "memory".to_owned(),
                reason: format!("its {} mappings and those that a resume needs are more than {most}", vmas.len()),
                hint: format!("raise vm.max_map_count to {needed}"),
            });
        }
    }
}

/// Objects that somebody has mapped so that it can't be made writable.
fn read_only_objects(checkpoint: &Checkpoint) -> BTreeSet<u32> {
    objects_of(checkpoint, |v| matches!(v.backing, Backing::SharedAnon { read_only: true, .. }))
}

/// Shared objects behind mappings that are `so`.
fn objects_of(checkpoint: &Checkpoint, so: impl Fn(&Vma) -> bool) -> BTreeSet<u32> {
    let vmas = checkpoint.processes.iter().flat_map(|p| &p.memory.vmas).filter(|v| so(v));
    let object = |v: &Vma| if let Backing::SharedAnon { object, .. } = v.backing { Some(object) } else { None };
    vmas.filter_map(object).collect()
}

/// Reads the content of shared memory into the hold, once for all processes.
pub fn fill_shared(puppet: &mut Puppet, filler: &Filler<'_>, sources: &Sources, hold: &Hold) -> Result<(), Error> {
    let parts = hold.anon.iter().enumerate().map(|(index, start)| (shared_part(index), start.0));
    filler.parts(puppet, sources, parts)
}

/// What the address spaces of a tree are made from.
#[derive(Debug)]
pub struct Site<'a> {
    /// The image.
    pub image: &'a Image,
    /// Who fills them.
    pub filler: &'a Filler<'a>,
    /// Descriptors for everything that is mapped.
    pub sources: &'a Sources,
    /// Where things wait.
    pub hold: Hold,
    /// Where mappings are for now: [`inherit::ranges`].
    pub ranges: HashMap<Pid, Vec<Range>>,
}

impl Site<'_> {
    fn ranges(&self, pid: Pid) -> &[Range] {
        self.ranges.get(&pid).map_or(&[][..], Vec::as_slice)
    }

    fn runs(&self, pid: Pid) -> &[Run] {
        self.image.pages_of(pid).map_or(&[][..], |part| &part.runs)
    }

    /// The protection of a mapping while it is filled.
    fn working(&self, process: &Process, vma: &Vma) -> u32 {
        let inherits = process.memory.inherits.iter().any(|i| {
            let first = i.pages.partition_point(|s| s.end.0 <= vma.start.0);
            i.pages.get(first).is_some_and(|s| s.start.0 < vma.end.0)
        });
        match vma.backing {
            Backing::SharedAnon { read_only: true, .. } => PROT_READ,
            Backing::SharedAnon { .. } => PROT_READ | PROT_WRITE,
            _ if inherits || has_content(self.runs(process.pid), vma) => vma.prot | PROT_READ | PROT_WRITE,
            _ => vma.prot,
        }
    }
}

/// Maps the memory of `process` and fills it, so that children born of it now can share its pages. `born`: whose
/// furnished memory it was born with itself.
pub fn furnish(
    puppet: &mut Puppet,
    process: &Process,
    site: &Site<'_>,
    born: Option<&Process>,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let ranges = site.ranges(process.pid);
    let plan = match born {
        Some(donor) => clear(puppet, process, site, donor)?,
        None => inherit::Plan::default(),
    };
    process::mm_fields(puppet, process, site.sources, notes)?;
    let mut batch = puppet.batch();
    puppet.flush_for(&mut batch, 3 * KEYS.count(), 0)?;
    pkeys::allocate(&mut batch, process, born);
    for (index, (vma, range)) in process.memory.vmas.iter().zip(ranges).enumerate() {
        puppet.flush_for(&mut batch, 2, 0)?;
        let wanted = site.working(process, vma);
        match plan.kept(index) {
            Some((start, end)) => batch.call("mprotect", libc::SYS_mprotect, &[start, end - start, wanted.into()]),
            None => {
                map(&mut batch, vma, *range, wanted, site.sources, &site.hold)?;
                if let Some(advice) = thp::advice(vma).filter(|_| thp::before_pages(vma, site.runs(process.pid))) {
                    advise(&mut batch, *range, advice);
                }
            }
        }
    }
    puppet.run(batch)?;
    uring::map(puppet, process, site.sources)?;
    site.filler.parts(puppet, site.sources, [(process_part(process.pid), 0)].into_iter())?;
    let lost = lost(process, site, &plan)?;
    fill::read(puppet, site.sources, lost.into_iter())
}

/// Unmaps everything that the process was born with but for the hold and what it keeps.
fn clear(puppet: &mut Puppet, process: &Process, site: &Site<'_>, donor: &Process) -> Result<inherit::Plan, Error> {
    let host = puppet.host();
    let maps = tracer::maps(host).map_err(|e| Error::step("reading maps", host, io::Error::other(e)))?;
    // Another executable can be set only while nothing of the old one is mapped.
    let inherits = process.memory.inherits.as_ref().is_some_and(|i| i.from == donor.pid);
    let plan = if inherits && process.exe.file == donor.exe.file {
        let pages = inherit::all_pages(&donor.memory, site.runs(donor.pid));
        inherit::plan(&process.memory, &donor.memory, site.ranges(process.pid), &pages, &maps)
    } else {
        inherit::Plan::default()
    };
    let mut stays: Vec<Range> = plan.kept.iter().flatten().copied().collect();
    stays.push((site.hold.base.0, site.hold.end.0));
    stays.sort_unstable();
    let mut batch = puppet.batch();
    for (start, end) in inherit::gaps((0, TOP), stays.into_iter()) {
        puppet.flush_for(&mut batch, 1, 0)?;
        batch.call("munmap", libc::SYS_munmap, &[start, end - start]);
    }
    for &(start, end) in &plan.dropped {
        puppet.flush_for(&mut batch, 1, 0)?;
        batch.call("madvise MADV_DONTNEED", libc::SYS_madvise, &[start, end - start, libc::MADV_DONTNEED as u64]);
    }
    puppet.run(batch)?;
    Ok(plan)
}

/// Inherited pages that are not there: with their places in the image.
fn lost(process: &Process, site: &Site<'_>, plan: &inherit::Plan) -> Result<Vec<(Run, u64)>, Error> {
    let mut out = Vec::new();
    let mut kept = plan.kept.iter().flatten().copied().peekable();
    for span in process.memory.inherits.iter().flat_map(|i| &i.pages) {
        let (mut at, end) = (span.start.0, span.end.0);
        while kept.next_if(|k| k.1 <= at).is_some() {}
        if kept.peek().is_some_and(|k| k.0 <= at) {
            continue;
        }
        while at < end {
            let found = site.image.find_page(process.pid, at);
            let missing = || Error::step("finding inherited pages", process.pid.0, io::ErrorKind::NotFound.into());
            let (offset, left) = found.ok_or_else(missing)?;
            let len = left.min(end - at);
            out.push((Run { start: at, len }, offset));
            at += len;
        }
    }
    Ok(out)
}

/// Makes furnished memory what it is to be, once nobody is born of the process any more.
pub fn finish(puppet: &mut Puppet, process: &Process, site: &Site<'_>, foreign_vdso: bool) -> Result<(), Error> {
    aio::make(puppet, process, site.sources)?;
    let mut batch = puppet.batch();
    switches::membarrier(&mut batch, &process.switches);
    for (vma, range) in process.memory.vmas.iter().zip(site.ranges(process.pid)) {
        puppet.flush_for(&mut batch, 3, 0)?;
        for (start, end) in [(range.0, vma.start.0), (vma.end.0, range.1)] {
            if start < end {
                batch.call("munmap", libc::SYS_munmap, &[start, end - start]);
            }
        }
        if let Some(key) = pkeys::of(&process.memory, vma) {
            let args = [vma.start.0, vma.len(), vma.prot.into(), key.into()];
            batch.call("pkey_mprotect", libc::SYS_pkey_mprotect, &args);
        } else if site.working(process, vma) != vma.prot {
            batch.call("mprotect", libc::SYS_mprotect, &[vma.start.0, vma.len(), u64::from(vma.prot)]);
        }
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
    for (vma, name) in process.memory.vmas.iter().filter_map(|vma| Some((vma, vma.anon_name.as_ref()?))) {
        puppet.flush_for(&mut batch, 1, name.0.len() + 16)?;
        let at = batch.path(name);
        // Kernels without CONFIG_ANON_VMA_NAME refuse; the name is for people only.
        let args = [0x5356_4d41, 0, vma.start.0, vma.len(), at.0];
        batch.call_expecting(Expect::Anything, "prctl", libc::SYS_prctl, &args);
    }
    puppet.run(batch)?;
    if let Some(saved) = &process.memory.vdso {
        vdso::place(puppet, saved, process, &site.hold, foreign_vdso)?;
    }
    let mut batch = puppet.batch();
    site.hold.let_go(&mut batch);
    puppet.run(batch)?;
    seal(puppet, process)
}

/// Maps `range`, in which `vma` lies.
fn map(batch: &mut Batch, vma: &Vma, range: Range, prot: u32, sources: &Sources, hold: &Hold) -> Result<(), Error> {
    let bad = |what: &'static str| Error::step(what, 0, io::ErrorKind::NotFound.into());
    let (start, len) = (range.0, range.1 - range.0);
    let mut flags = MAP_FIXED_NOREPLACE;
    if vma.grows_down {
        flags |= libc::MAP_GROWSDOWN;
    }
    if vma.no_reserve {
        flags |= libc::MAP_NORESERVE;
    }
    let (fd, offset) = match vma.backing {
        Backing::Anon => {
            flags |= libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | vma.huge.map_or(0, hugetlb::map_flags);
            (-1, 0)
        }
        Backing::File { file, offset, shared, may_write } => {
            flags |= if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
            let open = sources.mapped.get(file as usize).ok_or_else(|| bad("finding a mapped file"))?;
            // An heir that has it further down has it further back in the file.
            let back = vma.start.0 - start;
            (if shared && may_write { open.write } else { open.read }, offset.wrapping_sub(back))
        }
        // Keeps the place for [`aio::make`].
        Backing::Aio => {
            let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let args = [start, len, 0, flags as u64, u64::MAX, 0];
            batch.call_expecting(Expect::Exactly(start), "mmap", libc::SYS_mmap, &args);
            return Ok(());
        }
        // Not at a place of our choice: [`uring::map`].
        Backing::Ring { .. } => return Ok(()),
        Backing::SharedAnon { object, offset, read_only } => {
            let from = if read_only { hold.read_only.get(&object) } else { hold.anon.get(object as usize) };
            let from = from.ok_or_else(|| bad("finding shared memory"))?;
            // An old length of 0 makes a second mapping of the same pages (mremap(2)).
            let args = [from.0 + offset, 0, len, MREMAP_MAYMOVE_FIXED, start];
            batch.call_expecting(Expect::Exactly(start), "mremap", libc::SYS_mremap, &args);
            return Ok(());
        }
    };
    let args = [start, len, u64::from(prot), flags as u64, fd as i64 as u64, offset];
    batch.call_expecting(Expect::Exactly(start), "mmap", libc::SYS_mmap, &args);
    Ok(())
}

fn has_content(runs: &[Run], vma: &Vma) -> bool {
    let first = runs.partition_point(|r| r.start + r.len <= vma.start.0);
    runs.get(first).is_some_and(|r| r.start < vma.end.0)
}

/// Advice is advice: a kernel built without KSM or THP refuses some.
fn advise(batch: &mut Batch, (start, end): Range, advice: i32) {
    let args = [start, end - start, advice as u64];
    batch.call_expecting(Expect::Anything, "madvise", libc::SYS_madvise, &args);
}

fn attributes(batch: &mut Batch, vma: &Vma) {
    for &advice in &vma.advice {
        advise(batch, (vma.start.0, vma.end.0), advice);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_mappings_are_told_beforehand() {
        let mut sample = crate::image::sample();
        let told = |sample: &Checkpoint| {
            let mut conflicts = Vec::new();
            super::conflicts(sample, &mut conflicts);
            conflicts.into_iter().map(|c| (c.pid, c.reason, c.hint)).collect::<Vec<_>>()
        };
        assert_eq!(told(&sample), []);
        let most = proc::number("sys/vm/max_map_count").unwrap() as usize;
        // One object of shared memory waits for its place.
        let most_own = most - STUB_MAPS - KERNEL_MAPS - SPARE_MAPS - 1;
        let process = &mut sample.processes[1];
        let vma = process.memory.vmas[0].clone();
        process.memory.vmas.resize(most_own, vma.clone());
        assert_eq!(told(&sample), []);
        sample.processes[1].memory.vmas.push(vma);
        let reason = format!("its {} mappings and those that a resume needs are more than {most}", most_own + 1);
        let hint = format!("raise vm.max_map_count to {}", most + 1);
        assert_eq!(told(&sample), [(Pid(101), reason, hint)]);
    }
}
