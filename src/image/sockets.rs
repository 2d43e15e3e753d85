//! Whether what an image says of sockets can be.

use crate::model::fd::Kind;
use crate::model::sockets::{Family, Socket};
use crate::model::tcp::{Link, State, TcpSocket};
use crate::model::unix;
use crate::model::{Checkpoint, Hex};

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
        Family::Unix(own) => {
            const KINDS: [i32; 3] = [1, 2, 5];
            if !KINDS.contains(&socket.kind) {
                return Err(format!("a UNIX socket of kind {}", socket.kind));
            }
            let unix::Link::To(other) = own.link else { return Ok(()) };
            let peer =
                c.files.get(other as usize).and_then(|f| if let Kind::Socket(s) = &f.kind { Some(s) } else { None });
            let back = peer.filter(|p| p.kind == socket.kind).map(|p| &p.family);
            match back {
                Some(Family::Unix(back)) if back.link == unix::Link::To(index as u32) && other as usize != index => {
                    Ok(())
                }
                _ => Err(format!("it is connected to open file {other}, which is not connected to it")),
            }
        }
        Family::Tcp(tcp) => {
            if socket.kind != 1 || socket.queue.len() > 1 {
                return Err("it is no TCP socket".to_owned());
            }
            check_tcp(c, index, tcp)
        }
    }
}

fn check_tcp(c: &Checkpoint, index: usize, tcp: &TcpSocket) -> Result<(), String> {
    let size = match tcp.domain {
        2 => 16,
        10 => 28,
        other => return Err(format!("a TCP socket of family {other}")),
    };
    let address = |bytes: &Hex| {
        let family = bytes.0.first_chunk().map(|b| i32::from(u16::from_ne_bytes(*b)));
        if bytes.0.len() == size && family == Some(tcp.domain) { Ok(()) } else { Err("an address of another family") }
    };
    address(&tcp.local)?;
    let other = |at: u32| match c.files.get(at as usize).map(|f| &f.kind) {
        Some(Kind::Socket(Socket { family: Family::Tcp(tcp), .. })) => Some(&tcp.state),
        _ => None,
    };
    match &tcp.state {
        State::Connecting { to } => Ok(address(to)?),
        State::Connected { peer, link } => {
            address(peer)?;
            match *link {
                Link::To(at) => match other(at) {
                    Some(State::Connected { link: Link::To(back), .. }) if *back as usize == index => Ok(()),
                    _ => Err(format!("it is connected to open file {at}, which is not connected to it")),
                },
                Link::Waiting(at) if !matches!(other(at), Some(State::Listening { .. })) => {
                    Err(format!("it waits to be accepted by open file {at}, which does not listen"))
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
