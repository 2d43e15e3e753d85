//! Whether what an image says of sockets can be.

use crate::model::Checkpoint;
use crate::model::fd::Kind;
use crate::model::sockets::{Family, Socket};
use crate::model::unix::Link;

/// Checks the socket that is open file `index`.
pub(super) fn check(c: &Checkpoint, index: usize, socket: &Socket) -> Result<(), String> {
    let mut left = socket.content.map_or(0, |content| content.size);
    for message in &socket.queue {
        left = left.checked_sub(message.size).ok_or("its messages are longer than its content")?;
    }
    if left != 0 {
        return Err(format!("{left} bytes of its content belong to no message"));
    }
    match &socket.family {
        Family::Unix(unix) => {
            const KINDS: [i32; 3] = [1, 2, 5];
            if !KINDS.contains(&socket.kind) {
                return Err(format!("a UNIX socket of kind {}", socket.kind));
            }
            let Link::To(other) = unix.link else { return Ok(()) };
            let peer =
                c.files.get(other as usize).and_then(|f| if let Kind::Socket(s) = &f.kind { Some(s) } else { None });
            let back = peer.filter(|p| p.kind == socket.kind).map(|p| &p.family);
            match back {
                Some(Family::Unix(back)) if back.link == Link::To(index as u32) && other as usize != index => Ok(()),
                _ => Err(format!("it is connected to open file {other}, which is not connected to it")),
            }
        }
    }
}
