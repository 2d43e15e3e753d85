//! What a resume would do, and everything that stands in its way, found before a process exists.

use std::collections::BTreeSet;

use crate::image::Image;
use crate::model::fd::Kind;
use crate::model::{Checkpoint, Name, Pid, Refusal};
use crate::net::outside;
use crate::proc;
use crate::sys::cpu;

use super::changed::{self, Changed};
use super::namespaces::{self, Wanted};
use super::tree::{Order, order};
use super::{
    Error, Options, Pids, Sockets, credentials, datagram, fanotify, fd, hugetlb, inotify, ipc, limits, locks, manifest,
    memory, mqueue, netlink, opath, packet, pkeys, procfs, seccomp, sockets, tcp, thread, uring, vdso,
};

/// A complete plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What a person should know of it.
    pub summary: Summary,
    /// Everything that stands in the way.
    pub conflicts: Vec<Refusal>,
    pub(super) order: Order,
    pub(super) changed: Changed,
}

/// A plan in words.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Processes that would come back: pid and name.
    pub processes: Vec<(Pid, Name)>,
    /// Processes of ours that would stand for others outside the tree.
    pub stand_ins: Vec<Pid>,
    /// `private`, `host` or `fresh`.
    pub pids: String,
    /// Namespaces that would be made.
    pub namespaces: Vec<String>,
    /// What would differ from before.
    pub notes: Vec<String>,
}

/// Plans the resume of `image`; creates nothing.
pub fn plan(image: &Image, options: &Options) -> Result<Plan, Error> {
    let checkpoint = image.checkpoint();
    let missing = manifest::missing_features(&checkpoint.manifest.cpu, &manifest::own_flags());
    if !missing.is_empty() {
        return Err(Error::Host {
            feature: format!("the processor lacks {}", missing.join(", ")),
            hint: format!("resume on a host like the one it was saved on ({})", checkpoint.manifest.cpu.model),
        });
    }
    if options.pids == Pids::Host && !namespaces::may_choose_pids() {
        return Err(Error::NotPermitted {
            what: "to choose pids in this pid namespace".to_owned(),
            hint: "that needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN; leave --pids out".to_owned(),
        });
    }
    if checkpoint.processes.iter().any(|p| !p.memory.guards.is_empty()) && !kernel_is_at_least(6, 13) {
        return Err(Error::Host {
            feature: "the kernel lacks guard pages (MADV_GUARD_INSTALL)".to_owned(),
            hint: "resume under Linux 6.13 or newer".to_owned(),
        });
    }
    uring::possible(checkpoint)?;
    let wanted = namespaces::wanted(options);
    let (mut conflicts, mut notes) = (Vec::new(), Vec::new());
    let changed = changed::look(checkpoint, options.files, wanted.user, &mut conflicts, &mut notes);
    locks::conflicts(checkpoint, &mut conflicts);
    sockets::conflicts(checkpoint, &mut conflicts);
    inotify::conflicts(checkpoint, &mut conflicts);
    fanotify::conflicts(checkpoint, &mut conflicts);
    opath::conflicts(checkpoint, &mut conflicts);
    procfs::conflicts(checkpoint, &mut conflicts);
    ipc::conflicts(checkpoint, wanted, &mut conflicts, &mut notes);
    mqueue::conflicts(checkpoint, wanted, &mut conflicts);
    tcp::conflicts(checkpoint, &mut conflicts);
    hugetlb::conflicts(checkpoint, &mut conflicts);
    memory::conflicts(checkpoint, &mut conflicts);
    datagram::conflicts(checkpoint, &mut conflicts);
    netlink::conflicts(checkpoint, &mut conflicts);
    packet::conflicts(checkpoint, &mut conflicts);
    pids(checkpoint, options, wanted, &mut conflicts);
    seccomp::conflicts(checkpoint, wanted, &mut conflicts);
    if let Some((needed, hard)) = fd::no_room(checkpoint) {
        conflicts.push(Refusal {
            pid: checkpoint.tree.root,
            object: "descriptors".to_owned(),
            reason: format!(
                "those of the whole tree at once need a limit of {needed} open files, our hard limit is {hard}"
            ),
            hint: "raise the hard limit (ulimit -Hn)".to_owned(),
        });
    }
    outside(checkpoint, options, &mut conflicts, &mut notes);
    notes.extend(datagram::notes(checkpoint));
    notes.extend(packet::notes(checkpoint));
    credentials::plan(checkpoint, wanted, &mut conflicts, &mut notes);
    limits::plan(checkpoint, wanted, &mut conflicts, &mut notes);
    for thread in checkpoint.processes.iter().flat_map(|p| &p.threads) {
        if thread::fitted(&thread.xstate.0, cpu::xsave_len()).is_none() {
            let (theirs, ours) = (thread.xstate.0.len(), cpu::xsave_len());
            conflicts.push(Refusal {
                pid: thread.tid,
                object: "extended registers".to_owned(),
                reason: format!("their layout ({theirs} bytes) is not this processor's ({ours} bytes)"),
                hint: "resume on a processor of the same maker and generation".to_owned(),
            });
        }
    }
    pkeys::conflicts(checkpoint, &mut conflicts);
    vdso_notes(checkpoint, options, &mut conflicts, &mut notes);
    for (file, index) in checkpoint.files.iter().zip(0u32..) {
        if let Kind::Stdio(s) = &file.kind {
            let ours = crate::sys::fds::is_terminal(s.role);
            if s.terminal && !ours && checkpoint.processes.iter().any(|p| p.descriptors().any(|d| d.file == index)) {
                notes.push(format!(
                    "stream {} was the terminal {}; ours, which is none, takes its place",
                    s.role, s.was
                ));
            }
        }
    }
    // Helpers take no pid that a thread has or that somebody is to have for a moment.
    let threads = checkpoint.processes.iter().flat_map(|p| p.threads.iter().map(|t| t.tid));
    let threads: BTreeSet<Pid> = threads.chain(sockets::pids(checkpoint)).collect();
    let order = match order(&checkpoint.tree, &threads) {
        Ok(order) => order,
        Err(refusal) => {
            conflicts.push(refusal);
            Order::default()
        }
    };
    let members: BTreeSet<Pid> = checkpoint.tree.members.iter().map(|m| m.pid).collect();
    let stand_ins = order.roles.iter().filter(|(p, r)| !members.contains(p) && **r != super::tree::Role::Helper);
    let summary = Summary {
        processes: checkpoint.tree.members.iter().map(|m| (m.pid, m.comm.clone())).collect(),
        stand_ins: stand_ins.map(|(&p, _)| p).collect(),
        pids: match options.pids {
            Pids::Auto | Pids::Private => "private",
            Pids::Host => "host",
            Pids::Fresh => "fresh",
        }
        .to_owned(),
        namespaces: [
            ("user", wanted.user),
            ("pid", wanted.pid),
            ("mount", wanted.pid),
            ("ipc", wanted.pid),
            ("time", wanted.time),
        ]
        .iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(name, _)| (*name).to_owned())
        .collect(),
        notes,
    };
    debug_assert!(conflicts.iter().all(|conflict| !conflict.hint.is_empty()), "{conflicts:?}");
    Ok(Plan { summary, conflicts, order, changed })
}

/// What leads to somebody who is not in the image.
fn outside(checkpoint: &Checkpoint, options: &Options, conflicts: &mut Vec<Refusal>, notes: &mut Vec<String>) {
    for lead in outside::list(checkpoint) {
        match options.sockets {
            Sockets::Reset => notes.push(lead.sentence()),
            Sockets::Close => notes.push(outside::Lead { becomes: "closed", ..lead }.sentence()),
            Sockets::Refuse => conflicts.push(Refusal {
                pid: lead.pid,
                object: lead.object,
                reason: format!("{} is outside of what was saved", lead.to),
                hint: format!("without --sockets refuse it comes back {}", lead.becomes),
            }),
        }
    }
}

/// Pids that are taken, or too high for this kernel.
fn pids(checkpoint: &Checkpoint, options: &Options, wanted: Wanted, conflicts: &mut Vec<Refusal>) {
    if options.pids == Pids::Fresh {
        return;
    }
    let max =
        if wanted.pid && own_pid_max() { PID_MAX_LIMIT } else { proc::number("sys/kernel/pid_max").unwrap_or(32768) };
    let members = checkpoint.tree.members.iter().map(|m| m.pid);
    let threads = checkpoint.processes.iter().flat_map(|p| p.threads.iter().map(|t| t.tid));
    for pid in members.chain(threads).collect::<BTreeSet<_>>() {
        if i64::from(pid.0) >= max {
            conflicts.push(Refusal {
                pid,
                object: "pid".to_owned(),
                reason: format!("this kernel's pids end below {max}"),
                hint: "raise /proc/sys/kernel/pid_max".to_owned(),
            });
        } else if !wanted.pid && std::path::Path::new(&format!("/proc/{pid}")).exists() {
            conflicts.push(Refusal {
                pid,
                object: "pid".to_owned(),
                reason: "another process has it".to_owned(),
                hint: "resume with --pids private".to_owned(),
            });
        }
    }
}

/// The kernel's PID_MAX_LIMIT on 64-bit machines, with which a new pid namespace starts.
const PID_MAX_LIMIT: i64 = 4 << 20;

/// Whether pid_max belongs to the pid namespace (Linux ≥ 6.14), so that ours says nothing about a new one.
fn own_pid_max() -> bool {
    kernel_is_at_least(6, 14)
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = proc::read("sys/kernel/osrelease").unwrap_or_default();
    let text = String::from_utf8_lossy(&release);
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

fn vdso_notes(checkpoint: &Checkpoint, options: &Options, conflicts: &mut Vec<Refusal>, notes: &mut Vec<String>) {
    let own = own_vdso().unwrap_or_default();
    let mut noted = false;
    for process in &checkpoint.processes {
        let Some(saved) = &process.memory.vdso else { continue };
        if !vdso::differs(&own, saved) && !options.foreign_vdso {
            continue;
        }
        if !noted {
            noted = true;
            notes.push("this kernel's vDSO is another: the saved one stays, with jumps into this one".to_owned());
        }
        for thread in process.threads.iter().filter(|t| (saved.start.0..saved.end.0).contains(&t.regs.rip)) {
            conflicts.push(Refusal {
                pid: thread.tid,
                object: "thread".to_owned(),
                reason: "it was saved inside the vDSO, and this kernel's is another".to_owned(),
                hint: "save it again, or resume under the kernel it was saved under".to_owned(),
            });
        }
    }
}

fn own_vdso() -> Option<Vec<u8>> {
    let me = std::process::id() as i32;
    let maps = crate::tracer::maps(me).ok()?;
    let m = maps.iter().find(|m| m.name == b"[vdso]")?;
    let mut bytes = vec![0u8; usize::try_from(m.end - m.start).ok()?];
    (crate::sys::mem::read(me, crate::model::Addr(m.start), &mut bytes).ok()? == bytes.len()).then_some(bytes)
}
