//! Namespaces: a tree lives in ours, or altogether in those made for it at a resume.

use crate::model::Refusal;
use crate::proc::{self, many};
use crate::tracer::{Held, HeldProcess, tree};

use super::Error;
use super::refusals::Refusals;
use super::view::View;

const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("user", "user"),
    ("mnt", "mount"),
    ("ipc", "IPC"),
    ("net", "network"),
    ("uts", "UTS"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

type Numbers = [u64; KINDS.len()];

fn numbers(pid: i32) -> Result<Numbers, Error> {
    let mut out = Numbers::default();
    for (number, (file, _)) in out.iter_mut().zip(KINDS) {
        *number = match proc::namespace(pid, file) {
            Ok(n) => n,
            // A kind that this kernel lacks; a process that has gone is noticed by the next read.
            Err(e) if e.errno() == Some(libc::ENOENT) => 0,
            Err(e) => return Err(Error::proc(pid)(e)),
        };
    }
    Ok(out)
}

/// Refuses what is in the wrong namespace; says how the tree sees the file system.
pub(super) fn look(held: &Held, root: &HeldProcess, refusals: &mut Refusals) -> Result<View, Error> {
    let ours = numbers(std::process::id() as i32)?;
    let its = numbers(root.live())?;
    let [our_pid, _, our_mount, _, our_network, ..] = ours;
    let [its_pid, _, its_mount, _, its_network, ..] = its;
    let init = if its_pid == our_pid { None } else { namespace_init(root.host)? };
    if its_pid != our_pid && init.is_none() {
        refusals.0.push(Refusal {
            pid: root.pid,
            object: "process".to_owned(),
            reason: "it lives in another pid namespace (a container)".to_owned(),
            hint: "run ckpt inside the container".to_owned(),
        });
    }
    if init.is_some() && its_network != our_network {
        refusals.0.push(Refusal {
            pid: root.pid,
            object: "process".to_owned(),
            reason: "it lives in a network of its own (resume --net private), and its supervisor is gone".to_owned(),
            hint: "run ckpt in that network (nsenter --user --preserve-credentials --net --target PID)".to_owned(),
        });
    }
    if its_pid == our_pid {
        let hint = format!("run ckpt in its namespaces (nsenter --all --preserve-credentials --target {})", root.host);
        differ(root, &ours, &its, ("from this command's", &hint), refusals);
    }
    let others: Vec<_> = held.processes.iter().filter(|p| !p.threads.is_empty() && p.host != root.host).collect();
    for (p, have) in others.iter().zip(many::each(&others, 4, |p| numbers(p.live()))?) {
        // What isolates its own children, as browsers do.
        let hint = "run the program without its sandbox or containers (Chromium: --no-sandbox), or save it when that \
                    process has ended";
        differ(p, &its, &have, ("from its root's", hint), refusals);
    }
    Ok(match init {
        Some(init) => View::of(init),
        None if its_mount != our_mount => View::of(root.live()),
        None => View::ours(),
    })
}

fn differ(process: &HeldProcess, want: &Numbers, have: &Numbers, (whose, hint): (&str, &str), refusals: &mut Refusals) {
    for ((want, have), (_, name)) in want.iter().zip(have).zip(KINDS) {
        if want != have {
            refusals.add(process.pid, "process", format!("its {name} namespace differs {whose}"), hint);
        }
    }
}

/// The first process of the pid namespace of `pid`, if it is one of ours.
fn namespace_init(pid: i32) -> Result<Option<i32>, Error> {
    let depth = proc::status(pid).map_err(Error::proc(pid))?.nspid.len();
    let mut at = pid;
    // The chain of ancestors ends at the namespace's first process; a thousand is beyond any real tree.
    for _ in 0..1000 {
        let Ok(status) = proc::status(at) else { return Ok(None) };
        if status.nspid.len() != depth {
            return Ok(None);
        }
        if status.nspid.last() == Some(&1) {
            return Ok((status.comm == tree::INIT_COMM.as_bytes()).then_some(at));
        }
        at = status.ppid;
    }
    Ok(None)
}
