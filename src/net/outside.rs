//! What leads from a saved tree to somebody who is not in the image: a resumed program finds it closed or reset.

use crate::model::fd::{Kind, OpenFile};
use crate::model::sockets::{Family, Socket};
use crate::model::tcp::{self, State};
use crate::model::unix::{self, UnixSocket};
use crate::model::{Checkpoint, Pid};

use super::inet;
use super::unix::display;

/// A description that leads outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// A process that has it.
    pub pid: Pid,
    /// What that has: `fd 7 (pipe)`.
    pub object: String,
    /// Who is at its other end.
    pub to: String,
    /// What a resumed program finds: `closed` or `reset`.
    pub becomes: &'static str,
}

impl Lead {
    /// For a person.
    pub fn sentence(&self) -> String {
        let Lead { pid, object, to, becomes } = self;
        format!("pid {pid} {object}: {to} is outside of what is saved; at a resume the connection is {becomes}")
    }
}

/// All that leads outside.
pub fn list(checkpoint: &Checkpoint) -> Vec<Lead> {
    among(&checkpoint.files, checkpoint.tree.root, holder(checkpoint))
}

/// A process that has the file of an index, and its descriptor.
pub fn holder(checkpoint: &Checkpoint) -> impl Fn(u32) -> Option<(Pid, i32)> + '_ {
    |index| checkpoint.processes.iter().find_map(|p| Some((p.pid, p.descriptors().find(|d| d.file == index)?.fd)))
}

/// All among `files` that leads outside. `holder`: a process that has the file of an index, and its descriptor; what is on
/// its way through a socket is told of `root`.
pub fn among(files: &[OpenFile], root: Pid, holder: impl Fn(u32) -> Option<(Pid, i32)>) -> Vec<Lead> {
    let mut out = Vec::new();
    for (file, index) in files.iter().zip(0u32..) {
        let Some((what, to, becomes)) = outside(file) else { continue };
        let (pid, object) = match holder(index) {
            Some((pid, fd)) => (pid, format!("fd {fd} ({what})")),
            None => (root, format!("{what} on its way through a socket")),
        };
        out.push(Lead { pid, object, to, becomes });
    }
    out
}

fn outside(file: &OpenFile) -> Option<(&'static str, String, &'static str)> {
    match &file.kind {
        Kind::Pipe(pipe) if pipe.outside => {
            let name = if pipe.fifo.is_some() { "FIFO" } else { "pipe" };
            Some((name, "its other side".to_owned(), "closed"))
        }
        Kind::Socket(Socket {
            family: Family::Unix(UnixSocket { link: unix::Link::Outside, peer_name, .. }), ..
        }) => {
            let to = peer_name.as_ref().map_or_else(|| "its other end".to_owned(), display);
            Some(("UNIX socket", to, "closed"))
        }
        Kind::Socket(Socket { family: Family::Tcp(tcp), .. }) => match &tcp.state {
            State::Connected { peer, link: tcp::Link::Outside } => {
                Some(("TCP socket", inet::address(&peer.0)?.to_string(), "reset"))
            }
            _ => None,
        },
        _ => None,
    }
}
