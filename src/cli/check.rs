//! `ckpt check`: what this host can do, what stands in the way, and the way out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::exit::{Exit, Outcome};
use super::keep::KeepArgs;
use super::target::{Order, Target};
use super::{Done, attach, open, say, switch};
use crate::restore;
use crate::supervise::protocol::After;
use crate::supervise::{Failure, FailureKind, engine};
use crate::sys::probe::{self, Step, Stuck};
use crate::sys::spawn;

/// Tell what this host can do, what stands in the way, and the way out
///
/// With a pid: whether that tree can be saved. With an image: whether it can be resumed here.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A process, or an image
    #[arg(value_name = "PID|IMAGE")]
    subject: Option<PathBuf>,
    /// As JSON
    #[arg(long, env = "CKPT_JSON", value_parser = switch::parse)]
    json: bool,
    /// How long the tree of PID may take to stand still (ms, s, m, h)
    #[arg(long, env = "CKPT_TIMEOUT", default_value = "10s", value_parser = super::units::parse_duration)]
    timeout: Duration,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    /// Without it something can't be done at all (else only less well).
    needed: bool,
    why: String,
    hint: String,
}

impl Finding {
    fn ok(what: &'static str, why: impl Into<String>) -> Finding {
        Finding { what, ok: true, needed: true, why: why.into(), hint: String::new() }
    }

    fn missing(what: &'static str, why: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { what, ok: false, needed: true, why: why.into(), hint: hint.into() }
    }

    fn lesser(self) -> Finding {
        Finding { needed: false, ..self }
    }
}

pub fn run(args: &CheckArgs) -> Done {
    let Some(subject) = &args.subject else { return host(args.json) };
    let pid = subject.to_str().and_then(|text| text.parse::<i32>().ok()).filter(|&pid| pid > 0);
    match pid {
        Some(pid) if !subject.exists() => {
            let target = Target::from_pid(pid);
            let (keep, after, timeout) = (KeepArgs::default(), After::Continue, args.timeout);
            let order = Order { target, output: None, keep, after, timeout };
            attach::tell(order.survey()?, args.json)
        }
        _ => image(subject, args.json),
    }
}

fn host(json: bool) -> Done {
    let findings = [
        kernel(),
        ptrace(),
        yama(),
        call("pidfd_getfd", probe::pidfd_getfd(), "looking at open descriptors", "Linux 5.6"),
        call("kcmp", probe::kcmp(), "telling which descriptors are shared", "a kernel with CONFIG_KCMP"),
        call("PAGEMAP_SCAN", probe::pagemap_scan(), "finding the pages to save quickly", "Linux 6.7").lesser(),
        call("clone3", probe::clone3(), "giving processes the pids they had", "Linux 5.5"),
        namespaces(),
    ];
    let good = findings.iter().all(|finding| finding.ok || !finding.needed);
    if json {
        say::json(&json!({ "schema": "ckpt.check/1", "ok": good, "findings": findings }));
    } else {
        for finding in &findings {
            let verdict = match (finding.ok, finding.needed) {
                (true, _) => "ok",
                (false, true) => "missing",
                (false, false) => "limited",
            };
            say::data(&format!("{verdict:8} {:16} {}\n", finding.what, finding.why));
            if !finding.hint.is_empty() {
                say::data(&format!("{:25} hint: {}\n", "", finding.hint));
            }
        }
    }
    Ok(Outcome::Ours(if good { Exit::Ok } else { Exit::Host }))
}

fn kernel() -> Finding {
    let what = "kernel";
    let release =
        nix::sys::utsname::uname().map(|uts| uts.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 1) {
        Finding::ok(what, format!("Linux {release}"))
    } else {
        let why = format!("Linux {release} is older than 6.1, the oldest that was tried");
        Finding::missing(what, why, "see what of the following is missing").lesser()
    }
}

fn ptrace() -> Finding {
    match probe::ptrace() {
        Ok(()) => Finding::ok("ptrace", "a child can be traced"),
        Err(error) => {
            let hint = "in a container: allow ptrace in its seccomp profile";
            Finding::missing("ptrace", format!("a child cannot be traced: {error}"), hint)
        }
    }
}

fn yama() -> Finding {
    let what = "ptrace_scope";
    let path = "/proc/sys/kernel/yama/ptrace_scope";
    let privileged = nix::unistd::geteuid().is_root();
    match std::fs::read_to_string(path).as_deref().map(str::trim) {
        Err(_) | Ok("0") => Finding::ok(what, "any process of the same user can be traced"),
        Ok("1" | "2") if privileged => Finding::ok(what, "Yama restricts others, not root"),
        Ok("1") => {
            let why = "Yama: descendants only; ckpt-run and its jobs work, ckpt-attach to other processes doesn't";
            Finding::missing(what, why, "sysctl kernel.yama.ptrace_scope=0, or start programs with ckpt-run").lesser()
        }
        Ok(scope) => {
            let hint = "sysctl kernel.yama.ptrace_scope=0 (3 cannot be taken back before a reboot)";
            Finding::missing(what, format!("Yama forbids tracing (ptrace_scope {scope})"), hint)
        }
    }
}

fn call(what: &'static str, known: Result<(), nix::errno::Errno>, purpose: &str, hint: &str) -> Finding {
    match known {
        Ok(()) => Finding::ok(what, purpose),
        Err(nix::errno::Errno::EPERM) => {
            let hint = "in a container: allow it in its seccomp profile";
            Finding::missing(what, format!("not permitted; it is needed for {purpose}"), hint)
        }
        Err(errno) => Finding::missing(what, format!("{errno}; it is needed for {purpose}"), hint),
    }
}

fn namespaces() -> Finding {
    let what = "namespaces";
    let privileged = nix::unistd::geteuid().is_root();
    let tried = probe::namespaces(true);
    let tried = match tried {
        Ok(Err(_)) if privileged => probe::namespaces(false),
        tried => tried,
    };
    match tried {
        Ok(Ok(())) => Finding::ok(what, "a resumed program can have its own pids, clocks and /proc"),
        Ok(Err(stuck)) => {
            let (why, hint) = explain(stuck);
            Finding::missing(what, why, hint)
        }
        Err(error) => Finding::missing(what, format!("cannot be tried: {error}"), ""),
    }
}

fn explain(Stuck { step, errno }: Stuck) -> (String, String) {
    let sysctl = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let fallback = "resume with --pids host or --pids fresh";
    match step {
        Step::User => {
            let hint = if sysctl("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0".into()
            } else if sysctl("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
                "sysctl kernel.unprivileged_userns_clone=1".into()
            } else if sysctl("/proc/sys/user/max_user_namespaces") == "0" {
                "sysctl user.max_user_namespaces=10000".into()
            } else {
                format!("in a container: allow user namespaces; else {fallback}")
            };
            (format!("no user namespace can be made: {errno}"), hint)
        }
        Step::Inner | Step::Fork => {
            let hint = format!("in a container: allow them; else {fallback}");
            (format!("no pid, mount and IPC namespaces can be made: {errno}"), hint)
        }
        Step::Time => {
            (format!("no time namespace can be made: {errno}"), "resume with --clock now, or use Linux 5.6".into())
        }
        Step::Proc => {
            let hint =
                format!("in a container: parts of its /proc are masked; run it with them unmasked, or {fallback}");
            (format!("/proc cannot be mounted for a new pid namespace: {errno}"), hint)
        }
    }
}

fn image(path: &Path, json: bool) -> Done {
    let image = open::open(path)?;
    let cancel = spawn::cancel_by_signal()
        .map_err(|error| Failure::new(FailureKind::Failed, format!("cannot watch for signals: {error}"), ""))?;
    let options = restore::Options {
        pids: restore::Pids::Auto,
        clock: restore::Clock::Keep,
        files: restore::Files::Auto,
        verify: restore::Verify::Full,
        stdio: [restore::Stdio::Image, restore::Stdio::Image, restore::Stdio::Image],
        terminal: false,
        cancel,
        sockets: restore::Sockets::Reset,
        foreign_vdso: false,
    };
    let plan = engine::plan(&image, &options)?;
    let summary = &plan.summary;
    if json {
        let refusals = serde_json::to_value(&plan.conflicts).unwrap_or_default();
        say::json(&json!({
            "schema": "ckpt.plan/1",
            "ok": plan.conflicts.is_empty(),
            "pids": summary.pids,
            "namespaces": summary.namespaces,
            "notes": summary.notes,
            "conflicts": refusals,
        }));
    } else if plan.conflicts.is_empty() {
        say::data(&format!("ok       {} can be resumed here\n", path.display()));
        summary.notes.iter().for_each(|note| say::data(&format!("note     {note}\n")));
    }
    if plan.conflicts.is_empty() {
        return Ok(Outcome::Ours(Exit::Ok));
    }
    Err(Failure::refused("resume", plan.conflicts))
}
