//! What belongs to a process as a whole.

use std::fs;

use crate::model::Name;
use crate::model::process::Process;
use crate::proc;

use super::Error;
use super::fd::Sources;
use super::files::own_link;
use super::stub::{Batch, Expect, Puppet};
use super::switches;

const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_NAME: u64 = 15;
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;

/// A task's name, cut to the kernel's 15 bytes.
pub fn set_name(batch: &mut Batch, name: &Name) {
    let at = batch.path(name);
    batch.call("prctl", libc::SYS_prctl, &[PR_SET_NAME, at.0]);
}

/// `PR_SET_MM_MAP`: the kernel's book-keeping addresses, the auxiliary vector and the executable. Comes first, while
/// nothing of an old executable is mapped any more and nothing of the new yet (kernel/fork.c,
/// replace_mm_exe_file). To change the executable needs a capability, which `--pids fresh` may lack: a note then.
pub fn mm_fields(
    puppet: &mut Puppet,
    process: &Process,
    sources: &Sources,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let exe = sources.mapped.get(process.exe.file as usize).map_or(-1, |m| m.read);
    let mut batch = puppet.batch();
    mm_map(&mut batch, process, exe, Expect::Anything);
    let result = puppet.run(batch)?.first().copied().unwrap_or(0) as i64;
    if result == 0 {
        return Ok(());
    }
    if result == -i64::from(libc::EPERM) {
        notes.push(format!(
            "pid {}: /proc/PID/exe shows this program, not {}",
            process.pid,
            process.exe.path.display()
        ));
    }
    let mut batch = puppet.batch();
    // What is still mapped is of the same one, or it would not have been kept.
    let unchanged = if [libc::EPERM, libc::EBUSY].contains(&(-result as i32)) { -1 } else { exe };
    mm_map(&mut batch, process, unchanged, Expect::Success);
    puppet.run(batch).map(drop)
}

fn mm_map(batch: &mut Batch, process: &Process, exe: i32, expect: Expect) {
    let f = &process.memory.fields;
    let auxv = batch.data(&f.auxv.0);
    let mut map: Vec<u8> = [
        f.start_code,
        f.end_code,
        f.start_data,
        f.end_data,
        f.start_brk,
        f.brk,
        f.start_stack,
        f.arg_start,
        f.arg_end,
        f.env_start,
        f.env_end,
        auxv,
    ]
    .iter()
    .flat_map(|a| a.0.to_le_bytes())
    .collect();
    map.extend((f.auxv.0.len() as u32).to_le_bytes());
    map.extend((exe as u32).to_le_bytes());
    let at = batch.data(&map);
    let args = [PR_SET_MM, PR_SET_MM_MAP, at.0, map.len() as u64, 0];
    batch.call_expecting(expect, "prctl PR_SET_MM_MAP", libc::SYS_prctl, &args);
}

/// Who has logged in, of a process from which all others are to descend: it can only say so of itself. Not everybody may: at
/// most once, without CAP_AUDIT_CONTROL (kernel/audit.c, audit_set_loginuid_perm).
pub fn log_in(puppet: &mut Puppet, uid: Option<u32>, notes: &mut Vec<String>) -> Result<(), Error> {
    let own = format!("{}/loginuid", puppet.host());
    let is_own = |uid: u32| proc::number(&own).is_ok_and(|now| now == i64::from(uid));
    let Some(uid) = uid.filter(|&uid| !is_own(uid)) else { return Ok(()) };
    let mut batch = puppet.batch();
    let path = batch.path(&"/proc/self/loginuid".into());
    let args = [libc::AT_FDCWD as u64, path.0, libc::O_WRONLY as u64, 0];
    batch.call_expecting(Expect::Anything, "openat", libc::SYS_openat, &args);
    if let Some(fd) = puppet.run(batch)?.first().copied().filter(|&fd| fd as i64 >= 0) {
        let mut batch = puppet.batch();
        let text = uid.to_string();
        let at = batch.data(text.as_bytes());
        batch.call_expecting(Expect::Anything, "write", libc::SYS_write, &[fd, at.0, text.len() as u64]);
        batch.call("close", libc::SYS_close, &[fd]);
        puppet.run(batch)?;
    }
    if !is_own(uid) {
        notes.push(format!("the login uid could not be set to {uid}, as it was"));
    }
    Ok(())
}

/// What CLONE_FS shares, of the calling thread.
pub fn directories(batch: &mut Batch, cwd: &Name, root: &Name, umask: u32) {
    let cwd = batch.path(cwd);
    batch.call("chdir", libc::SYS_chdir, &[cwd.0]);
    if root.0 != b"/" {
        let root = batch.path(root);
        batch.call("chroot", libc::SYS_chroot, &[root.0]);
    }
    batch.call("umask", libc::SYS_umask, &[u64::from(umask)]);
}

/// The same for a process as long as it has the sources: deleted directories are among them. `places`: those of the others.
pub fn enter(puppet: &mut Puppet, process: &Process, sources: &Sources, places: [Name; 2]) -> Result<(), Error> {
    let source = |index: Option<u32>| index.and_then(|index| sources.nameless.get(index as usize));
    let link = |name: Name, index| source(index).map_or(name, |fd| own_link(fd).into());
    let [cwd, root] = places;
    let (cwd, root) = (link(cwd, process.deleted.cwd), link(root, process.deleted.root));
    let mut batch = puppet.batch();
    directories(&mut batch, &cwd, &root, process.umask);
    puppet.run(batch).map(drop)
}

/// What prctl(2) sets, but for what later steps still need differently.
pub fn set_up(puppet: &mut Puppet, process: &Process, notes: &mut Vec<String>) -> Result<(), Error> {
    let mut batch = puppet.batch();
    switches::of_process(&mut batch, &process.switches);
    puppet.run(batch)?;
    let host = puppet.host();
    for (file, value) in [
        ("oom_score_adj", process.oom_score_adj.to_string()),
        ("coredump_filter", format!("{:#x}", process.coredump_filter)),
    ] {
        let path = format!("{host}/{file}");
        let now = proc::read(&path).unwrap_or_default();
        let same = match file {
            "oom_score_adj" => now.strip_suffix(b"\n") == Some(value.as_bytes()),
            _ => proc::hex_number(&path).is_ok_and(|n| n == u64::from(process.coredump_filter)),
        };
        if !same {
            if let Err(error) = fs::write(format!("/proc/{path}"), &value) {
                notes.push(format!("pid {}: {file} could not be set to {value}: {error}", process.pid));
            }
        }
    }
    Ok(())
}

/// What a change of credentials would have undone.
pub fn last_settings(puppet: &mut Puppet, process: &Process) -> Result<(), Error> {
    let mut batch = puppet.batch();
    switches::of_memory(&mut batch, &process.switches);
    // 2 ("readable by root only") is what the kernel sets for setuid programs and nobody else can.
    batch.call("prctl", libc::SYS_prctl, &[PR_SET_DUMPABLE, u64::from(process.dumpable == 1)]);
    puppet.run(batch).map(drop)
}
