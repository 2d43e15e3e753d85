//! Pseudo-terminals whose master is in the tree.

use serde::{Deserialize, Serialize};

use super::{Hex, Pid};

/// A descriptor of a pseudo-terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtyEnd {
    /// Index into [`super::memory::SharedObjects::ptys`].
    pub pty: u32,
    /// Which descriptor of it.
    pub end: End,
}

/// A side of a pseudo-terminal, and the name it was opened by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// /dev/ptmx.
    Master,
    /// /dev/pts/N.
    Slave,
    /// /dev/tty: a slave that its session opened.
    Tty,
}

impl End {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            End::Master => "master",
            End::Slave => "slave",
            End::Tty => "/dev/tty",
        }
    }
}

/// A pseudo-terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pty {
    /// N of /dev/pts/N.
    pub index: u32,
    /// `struct termios2` of the terminal.
    pub termios: Hex,
    /// `struct winsize`.
    pub size: Hex,
    /// Permission bits of /dev/pts/N, if somebody has it open.
    pub mode: Option<u32>,
    /// Whether the slave can't be opened yet (TIOCSPTLCK).
    pub locked: bool,
    /// Whether the master gets packets (TIOCPKT).
    pub packets: bool,
    /// Whether nobody else may open the slave (TIOCEXCL).
    pub exclusive: bool,
    /// Whether all who had the slave open have closed it.
    pub left: bool,
    /// What the slave has yet to read.
    pub input: Input,
    /// What the master has yet to read.
    pub output: Hex,
    /// The session whose controlling terminal it is, and its foreground group.
    pub session: Option<Session>,
}

/// A session at a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its leader: who is in the tree, but for the terminal of standard streams.
    pub leader: Pid,
    /// The foreground process group, if members of the tree are in it.
    pub foreground: Option<Pid>,
}

/// Typed and not yet read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Input {
    /// Whole lines, where the terminal reads by lines. One without a line's end was ended by the end-of-file character.
    pub lines: Vec<Hex>,
    /// What follows them: a line that has not been ended, or all where the terminal does not read by lines.
    pub rest: Hex,
}
