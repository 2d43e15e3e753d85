//! The processes of a tree and how they are related.

use serde::{Deserialize, Serialize};

use super::{Name, Pid};

/// Every process of the tree, and what of the world outside its processes can see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    /// The root.
    pub root: Pid,
    /// All processes, parents before their children where the parent is in the tree.
    pub members: Vec<Member>,
    /// Who adopts the orphans of this tree: its `getppid()` after its parent died. 1 where nobody nearer does.
    pub reaper: Pid,
    /// Ids of living processes outside the tree that are parent, session leader or group leader of members.
    pub outside: Vec<Pid>,
    /// The root's /proc/PID/loginuid: the user who has logged in for the audit; 4294967295: nobody. None: the kernel does not know
    /// of it.
    #[serde(default)]
    pub login_uid: Option<u32>,
}

/// One process of the tree, alive or a zombie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id.
    pub ppid: Pid,
    /// Its process group.
    pub pgid: Pid,
    /// Its session.
    pub sid: Pid,
    /// Its command name.
    pub comm: Name,
    /// Alive, stopped, or dead and not waited for.
    pub state: State,
    /// The signal its parent gets at its end; 17 (SIGCHLD) but for raw clone(2).
    pub exit_signal: i32,
    /// What it shares with others without being their thread.
    #[serde(default)]
    pub shares: Shares,
}

/// What clone(2) lets processes share. Each is named by the first member that has it; none: it is that one itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shares {
    /// Memory (`CLONE_VM`); the process's own has no mappings then.
    pub memory: Option<Pid>,
    /// Signal actions (`CLONE_SIGHAND`), which takes the same memory.
    pub actions: Option<Pid>,
    /// Descriptors (`CLONE_FILES`); the process's own has none then, and no locks.
    pub descriptors: Option<Pid>,
    /// Working directory, root directory and umask (`CLONE_FS`).
    pub directories: Option<Pid>,
}

impl Shares {
    /// In the order of the fields.
    pub fn each(&self) -> [Option<Pid>; 4] {
        [self.memory, self.actions, self.descriptors, self.directories]
    }

    /// Whether there is anything.
    pub fn any(&self) -> bool {
        self.each().iter().any(Option::is_some)
    }

    /// Whether process `maker`, which shares `makers`, has all of it to give to a child.
    pub fn may_come_from(&self, maker: Pid, makers: &Shares) -> bool {
        self.each().iter().zip(makers.each()).all(|(child, of)| child.is_none_or(|c| of.unwrap_or(maker) == c))
    }
}

/// Whether a process lives, and what of its stops its parent has yet to hear (waitid(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Running or sleeping.
    Alive,
    /// Alive, going on after a stop; its parent could still wait for that by `WCONTINUED`.
    Continued,
    /// Stopped by job control, by this signal.
    Stopped {
        /// SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU.
        signal: i32,
        /// Whether its parent has waited for it.
        #[serde(default)]
        told: bool,
    },
    /// Dead, not yet waited for.
    Zombie {
        /// As `wait(2)` reports it.
        status: i32,
    },
}
