//! Where images go, and this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::statfs::statfs;
use tempfile::TempDir;

/// A directory of ours on some file system; gone when this is dropped.
#[derive(Debug)]
pub struct Place {
    /// Its file system.
    pub name: String,
    dir: TempDir,
}

impl Place {
    /// Makes a directory below `parent`.
    pub fn below(parent: &Path) -> Result<Place> {
        let dir = tempfile::Builder::new().prefix("ckpt-bench-").tempdir_in(parent);
        let dir = dir.with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        Ok(Place { name: file_system(dir.path())?, dir })
    }

    /// A path in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn file_system(path: &Path) -> Result<String> {
    let magic = statfs(path).with_context(|| format!("cannot look at {}", path.display()))?.filesystem_type().0;
    // include/uapi/linux/magic.h
    Ok(match magic {
        0xef53 => "ext4".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        other => format!("file system {other:#x}"),
    })
}

/// Who measures where and when, in a few lines.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let user = if nix::unistd::geteuid().is_root() { "root" } else { "an ordinary user" };
    let busy = match load.parse::<f64>() {
        Ok(load) if load >= 0.5 => " (not quiet: the numbers are worth less)",
        _ => "",
    };
    format!(
        "ckpt {}, as {user}; Linux {}, {cpu}, {cores} cores, {memory}; load {load}{busy}\n",
        env!("CARGO_PKG_VERSION"),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}
