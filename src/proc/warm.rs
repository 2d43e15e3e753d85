//! Files of `/proc` looked up ahead: the kernel makes an entry and an inode for each at the first look, which takes longer
//! than the look itself, and keeps them while the process lives (fs/proc/base.c, `pid_delete_dentry`).

use std::fs;

/// Looks up what there is of a process and its threads: its files, descriptors and namespaces, and each thread's status.
/// Nothing is read; what is missing or forbidden shows when somebody needs it.
pub fn look_up(pid: i32, tids: &[i32]) {
    for directory in ["", "ns", "fd", "fdinfo"] {
        // To list a directory makes all entries in it.
        let _ = fs::read_dir(format!("/proc/{pid}/{directory}")).map(Iterator::count);
    }
    for tid in tids {
        let _ = fs::symlink_metadata(format!("/proc/{pid}/task/{tid}/status"));
    }
}
