//! What the kernel itself takes to stop every thread of a program and to let it go: nothing that holds it can be faster.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// How long that took.
pub fn once(root: i32) -> Result<Duration> {
    let mut tids = Vec::new();
    list(root, &mut tids)?;
    let start = Instant::now();
    for &tid in &tids {
        ptrace::seize(tid, Options::empty())?;
    }
    for &tid in &tids {
        ptrace::interrupt(tid)?;
    }
    for &tid in &tids {
        waitpid(tid, Some(WaitPidFlag::__WALL))?;
    }
    for &tid in &tids {
        ptrace::detach(tid, None)?;
    }
    Ok(start.elapsed())
}

fn list(pid: i32, tids: &mut Vec<Pid>) -> Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        tids.extend(entry.file_name().to_str().and_then(|tid| tid.parse().ok()).map(Pid::from_raw));
        let children = fs::read_to_string(entry.path().join("children"))?;
        for child in children.split_ascii_whitespace() {
            list(child.parse()?, tids)?;
        }
    }
    Ok(())
}
