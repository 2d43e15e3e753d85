//! The vDSO: back to where it was, or, when this kernel's is another, the saved one kept with jumps into this one.

use goblin::elf::Elf;

use crate::model::memory::Vdso;
use crate::model::process::Process;
use crate::model::{Addr, Name};

use super::memory::Hold;
use super::stub::{Expect, Puppet};
use super::{Error, gap};

const MREMAP_MAYMOVE_FIXED: u64 = 1 | 2;

/// What each function of the vDSO is a shortcut for (arch/x86/entry/vdso).
const CALLS: &[(&str, i64)] = &[
    ("__vdso_clock_gettime", libc::SYS_clock_gettime),
    ("__vdso_gettimeofday", libc::SYS_gettimeofday),
    ("__vdso_time", libc::SYS_time),
    ("__vdso_getcpu", libc::SYS_getcpu),
    ("__vdso_clock_getres", libc::SYS_clock_getres),
];

/// Moves this kernel's vDSO into a process: to the saved place if it is the same, else to a free one.
pub fn place(puppet: &mut Puppet, saved: &Vdso, process: &Process, hold: &Hold, foreign: bool) -> Result<(), Error> {
    let ours = current(puppet, hold)?;
    let vvar_len: u64 = hold.kernels.iter().filter(|(name, ..)| is_vvar(name)).map(|k| k.2).sum();
    let same = ours == saved.code.0 && saved.start.0.wrapping_sub(saved.vvar_start.0) == vvar_len;
    let len: u64 = hold.kernels.iter().map(|k| k.2).sum();
    let mut to = saved.vvar_start.0;
    if !same || foreign {
        let taken = own_ranges(process, hold);
        to = gap::within(&taken, len)
            .ok_or_else(|| Error::step("placing the vDSO", puppet.host(), std::io::ErrorKind::OutOfMemory.into()))?
            .0;
    }
    let mut batch = puppet.batch();
    let mut code_at = to;
    for (name, from, len) in &hold.kernels {
        let args = [from.0, *len, *len, MREMAP_MAYMOVE_FIXED, to];
        batch.call_expecting(Expect::Exactly(to), "mremap", libc::SYS_mremap, &args);
        if name.0 == b"[vdso]" {
            code_at = to;
        }
        to += len;
    }
    puppet.run(batch)?;
    if !same || foreign {
        keep_old(puppet, saved, &ours, Addr(code_at))?;
    }
    Ok(())
}

/// Whether this kernel's vDSO is not the saved one; `own` is the code of ours.
pub fn differs(own: &[u8], saved: &Vdso) -> bool {
    own != saved.code.0
}

fn is_vvar(name: &Name) -> bool {
    name.0.starts_with(b"[vvar")
}

fn own_ranges(process: &Process, hold: &Hold) -> Vec<(u64, u64)> {
    let mut taken: Vec<(u64, u64)> = process.memory.vmas.iter().map(|v| (v.start.0, v.end.0)).collect();
    let end = hold.kernels.iter().map(|k| k.1.0 + k.2).max().unwrap_or(hold.base.0);
    taken.push((hold.base.0, end + (1 << 40).min(u64::MAX - end)));
    taken.extend(process.memory.vdso.iter().map(|v| (v.vvar_start.0, v.end.0)));
    taken.push((process.memory.fields.start_brk.0, process.memory.fields.brk.0));
    taken
}

fn current(puppet: &Puppet, hold: &Hold) -> Result<Vec<u8>, Error> {
    let Some((_, at, len)) = hold.kernels.iter().find(|k| k.0.0 == b"[vdso]") else { return Ok(Vec::new()) };
    let mut bytes = vec![0u8; *len as usize];
    puppet.read(*at, &mut bytes)?;
    Ok(bytes)
}

/// The saved code at its place, every entry point turned into a jump to this kernel's.
fn keep_old(puppet: &mut Puppet, saved: &Vdso, ours: &[u8], ours_at: Addr) -> Result<(), Error> {
    let code = patched(&saved.code.0, ours, ours_at);
    let len = (code.len() as u64).next_multiple_of(4096);
    let start = saved.start.0;
    let mut batch = puppet.batch();
    let args = [start, len, 3, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | 0x10_0000) as u64, u64::MAX, 0];
    batch.call_expecting(Expect::Exactly(start), "mmap", libc::SYS_mmap, &args);
    puppet.run(batch)?;
    puppet.write(saved.start, &code)?;
    let mut batch = puppet.batch();
    batch.call("mprotect", libc::SYS_mprotect, &[start, len, 5]);
    puppet.run(batch).map(drop)
}

/// `old` with jumps into `new`, which is at `new_at`; plain system calls where `new` has no such function.
fn patched(old: &[u8], new: &[u8], new_at: Addr) -> Vec<u8> {
    let mut code = old.to_vec();
    let targets = functions(new);
    for (name, offset) in functions(old) {
        let jump = match targets.iter().find(|(n, _)| *n == name) {
            Some((_, target)) => jump_to(new_at.0.wrapping_add(*target)),
            None => system_call(&name),
        };
        let Ok(at) = usize::try_from(offset) else { continue };
        if let Some(room) = at.checked_add(jump.len()).and_then(|end| code.get_mut(at..end)) {
            room.copy_from_slice(&jump);
        }
    }
    code
}

/// `movabs $target,%rax; jmp *%rax`: no function of the vDSO takes an argument in rax.
fn jump_to(target: u64) -> Vec<u8> {
    let mut bytes = vec![0x48, 0xb8];
    bytes.extend(target.to_le_bytes());
    bytes.extend([0xff, 0xe0]);
    bytes
}

/// `mov $nr,%eax; syscall; ret`, or "not implemented" for functions that have no call of their own.
fn system_call(name: &str) -> Vec<u8> {
    match CALLS.iter().find(|(n, _)| *n == name) {
        Some((_, nr)) => {
            let mut bytes = vec![0xb8];
            bytes.extend((*nr as u32).to_le_bytes());
            bytes.extend([0x0f, 0x05, 0xc3]);
            bytes
        }
        None => vec![0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3], // mov $-ENOSYS,%rax; ret
    }
}

/// Names (`__vdso_…`) and offsets of a vDSO's functions; none if it makes no sense.
fn functions(code: &[u8]) -> Vec<(String, u64)> {
    let Ok(elf) = Elf::parse(code) else { return Vec::new() };
    let base = elf.program_headers.iter().find(|p| p.p_type == goblin::elf::program_header::PT_LOAD);
    let base = base.map_or(0, |p| p.p_vaddr);
    let named = elf.dynsyms.iter().filter(|s| s.is_function() && s.st_value != 0);
    named
        .filter_map(|s| Some((elf.dynstrtab.get_at(s.st_name)?.to_owned(), s.st_value.wrapping_sub(base))))
        .filter(|(name, _)| name.starts_with("__vdso_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_vdso() -> Vec<u8> {
        let maps = crate::tracer::maps(std::process::id() as i32).unwrap();
        let m = maps.iter().find(|m| m.name == b"[vdso]").unwrap();
        let mut bytes = vec![0u8; (m.end - m.start) as usize];
        crate::sys::mem::read(std::process::id() as i32, Addr(m.start), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn this_kernels_functions_are_found_and_redirected() {
        let own = own_vdso();
        let all = functions(&own);
        assert!(all.iter().any(|(n, _)| n == "__vdso_clock_gettime"), "{all:?}");
        let code = patched(&own, &own, Addr(0x1000_0000));
        for (name, offset) in all {
            let jump = &code[offset as usize..][..12];
            assert_eq!(jump[..2], [0x48, 0xb8], "{name}");
            assert_eq!(u64::from_le_bytes(jump[2..10].try_into().unwrap()), 0x1000_0000 + offset, "{name}");
        }
    }

    #[test]
    fn functions_this_kernel_lacks_become_system_calls() {
        let own = own_vdso();
        let code = patched(&own, b"", Addr(0));
        let (_, offset) = functions(&own).into_iter().find(|(n, _)| n == "__vdso_getcpu").unwrap();
        assert_eq!(code[offset as usize..][..8], [0xb8, 0x35, 1, 0, 0, 0x0f, 0x05, 0xc3]);
        assert_eq!(patched(b"no ELF at all", &own, Addr(0)), b"no ELF at all");
    }
}
