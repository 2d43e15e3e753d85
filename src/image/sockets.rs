//! Whether what an image says of sockets can be.

use std::collections::HashMap;

use crate::model::datagram::DatagramSocket;
use crate::model::fd::Kind;
use crate::model::files::Content;
use crate::model::manifest::{EARLY_DATA, EARLY_MESSAGES, PACKET_SOCKETS, UNIX_SOCKETS, URGENT_DATA};
use crate::model::packet::PacketSocket;
use crate::model::sockets::{Family, Socket};
use crate::model::tcp::{Link as TcpLink, MOST_EARLY, State, TcpSocket};
use crate::model::unix::{Early, Gone, Link, UnixSocket};
use crate::model::{Checkpoint, Hex};

/// Bytes of `sun_path`.
const LONGEST: usize = 108;

/// Checks the socket that is open file `index`.
pub(super) fn check(c: &Checkpoint, index: usize, socket: &Socket) -> Result<(), String> {
    let mut left = socket.content.map_or(0, |content| content.size);
    for message in &socket.queue {
        left = left.checked_sub(message.size).ok_or("its messages are longer than its content")?;
    }
    if left != 0 {
        return Err(format!("{left} bytes of its content belong to no message"));
    }
    if socket.has_urgent() && !c.manifest.requires.iter().any(|name| name == URGENT_DATA) {
        return Err(format!("urgent data, and {URGENT_DATA} is not required"));
    }
    match &socket.family {
        Family::Unix(own) => {
            const KINDS: [i32; 3] = [1, 2, 5];
            if !KINDS.contains(&socket.kind) {
                return Err(format!("a UNIX socket of kind {}", socket.kind));
            }
            check_unix(c, index, socket, own)
        }
        Family::Tcp(tcp) => {
            if socket.kind != 1 || socket.queue.len() > 1 {
                return Err("it is no TCP socket".to_owned());
            }
            check_urgent(socket, tcp)?;
            check_early(c, tcp)?;
            check_tcp(c, index, tcp)
        }
        Family::Datagram(datagram) => check_datagram(socket, datagram),
        Family::Netlink(_) if [2, 3].contains(&socket.kind) && socket.queue.is_empty() => Ok(()),
        Family::Netlink(_) => Err("it is no netlink socket".to_owned()),
        Family::Packet(packet) => check_packet(c, socket, packet),
    }
}

fn check_packet(c: &Checkpoint, socket: &Socket, packet: &PacketSocket) -> Result<(), String> {
    /// As much as the kernel has room for (MAX_ADDR_LEN), and more than anybody asks for.
    const LONGEST: usize = 32;
    const MOST: usize = 1024;
    if ![2, 3].contains(&socket.kind) || !socket.queue.is_empty() {
        return Err("it is no packet socket".to_owned());
    }
    let all = &packet.memberships;
    let counts = all.iter().fold(0, |sum: usize, m| sum.saturating_add(m.count as usize));
    if all.len() > MOST || counts > MOST || all.iter().any(|m| m.address.0.len() > LONGEST) {
        return Err("a packet socket with too many memberships, or too long addresses".to_owned());
    }
    if !c.manifest.requires.iter().any(|name| name == PACKET_SOCKETS) {
        return Err(format!("there is a packet socket, and {PACKET_SOCKETS} is not required"));
    }
    Ok(())
}

fn check_datagram(socket: &Socket, datagram: &DatagramSocket) -> Result<(), String> {
    if ![2, 3].contains(&socket.kind) || ![2, 10].contains(&datagram.domain) {
        return Err(format!("a datagram socket of kind {} and family {}", socket.kind, datagram.domain));
    }
    if datagram.ways.len() != socket.queue.len() {
        return Err("it does not say of each datagram where it came from".to_owned());
    }
    let size = if datagram.domain == 2 { 16 } else { 28 };
    let whole = |a: &Hex| a.0.len() == size || a.0.is_empty();
    let froms = datagram.ways.iter().map(|w| &w.from);
    if froms.chain([&datagram.local]).chain(&datagram.peer).all(whole) {
        Ok(())
    } else {
        Err("an address of another family".to_owned())
    }
}

fn check_unix(c: &Checkpoint, index: usize, socket: &Socket, own: &UnixSocket) -> Result<(), String> {
    let datagrams = socket.kind == 2;
    let other = |at: u32| match c.files.get(at as usize).map(|f| &f.kind) {
        Some(Kind::Socket(Socket { kind, family: Family::Unix(unix), .. })) if *kind == socket.kind => Some(unix),
        _ => None,
    };
    let required = c.manifest.requires.iter().any(|name| name == UNIX_SOCKETS);
    if socket.is_more_than_a_pair() && !required {
        return Err(format!("it is more than one of a pair, and {UNIX_SOCKETS} is not required"));
    }
    let senders = socket.queue.iter().filter_map(|m| m.from.as_ref());
    let gone = own.listening.iter().flat_map(|listening| &listening.gone).filter_map(|gone| gone.name.as_ref());
    for name in own.bound.iter().map(|b| &b.name).chain(&own.peer_name).chain(senders).chain(gone) {
        let path = name.0.first() != Some(&0);
        if name.0.is_empty() || name.0.len() > LONGEST || path && name.0.contains(&0) {
            return Err("a name that no UNIX socket can have".to_owned());
        }
    }
    if let Some((bound, file)) = own.bound.as_ref().and_then(|b| Some((b, b.file.as_ref()?))) {
        let path = &file.path.0;
        if path.first() != Some(&b'/') || path.contains(&0) || bound.is_abstract() || !path.ends_with(bound.tail()) {
            return Err(format!("it has the name {}, and its file is {}", bound.name.display(), file.path.display()));
        }
        if let Some(renamed) = &file.renamed {
            let fits = renamed.0.first() == Some(&b'/') && !renamed.0.contains(&0) && renamed != &file.path;
            if !fits || renamed.as_path().parent() != file.path.as_path().parent() {
                return Err(format!("its file {} was renamed to {}", file.path.display(), renamed.display()));
            }
        }
    }
    if let Some(at) = socket.queue.iter().flat_map(|m| &m.rights).find(|at| **at as usize >= c.files.len()) {
        return Err(format!("open file {at}, which is not there, is on its way to it"));
    }
    check_places(socket, own)?;
    check_early_messages(c, socket, own)?;
    let reads = datagrams || !matches!(own.link, Link::None | Link::Waiting(_));
    let holds = !socket.queue.is_empty() || !own.marks.is_empty();
    if holds && !reads {
        return Err("it is not connected, and there is something in it".to_owned());
    }
    if let Some(listening) = &own.listening {
        let waits = |at: &u32| other(*at).is_some_and(|o| o.link == Link::Waiting(index as u32));
        if datagrams || own.bound.is_none() || own.link != Link::None || !listening.waiting.iter().flatten().all(waits)
        {
            return Err("it can't listen".to_owned());
        }
    }
    match own.link {
        Link::To(at) => match other(at) {
            Some(_) if datagrams => Ok(()),
            Some(o) if o.link == Link::To(index as u32) && at as usize != index => Ok(()),
            _ => Err(format!("it is connected to open file {at}, which is not connected to it")),
        },
        Link::Waiting(at) => {
            let listens =
                |o: &UnixSocket| o.listening.iter().flat_map(|l| &l.waiting).any(|w| *w == Some(index as u32));
            let there = other(at).is_some_and(listens);
            if there { Ok(()) } else { Err(format!("it does not wait to be accepted by open file {at}")) }
        }
        _ => Ok(()),
    }
}

fn check_urgent(socket: &Socket, tcp: &TcpSocket) -> Result<(), String> {
    let Some(urgent) = tcp.urgent else { return Ok(()) };
    if !matches!(tcp.state, State::Connected { .. } | State::Ended { .. }) {
        return Err("urgent data, and it was never connected".to_owned());
    }
    if socket.content.is_none_or(|content| urgent.at >= content.size) {
        return Err(format!("urgent data at byte {}, where nothing waits to be read", urgent.at));
    }
    Ok(())
}

/// Urgent data of a UNIX stream is a message of its own, and one begins where some was.
fn check_places(socket: &Socket, own: &UnixSocket) -> Result<(), String> {
    if !socket.has_urgent() {
        return Ok(());
    }
    if socket.kind != 1 || own.urgent.is_some() && !own.marks.is_empty() {
        return Err("urgent data where none can be".to_owned());
    }
    let mut end = 0u64;
    let mut begins = HashMap::new();
    for message in &socket.queue {
        begins.insert(end, message.size);
        end = end.saturating_add(message.size);
    }
    let alone = own.urgent.is_none_or(|at| begins.get(&at) == Some(&1));
    let marks = own.marks.iter().all(|at| begins.contains_key(at) || (*at, end) == (0, 0));
    let ascending = own.marks.is_sorted_by(|a, b| a < b);
    if alone && marks && ascending { Ok(()) } else { Err("urgent data in the middle of other".to_owned()) }
}

/// What a socket has sent over a connection that was not accepted, or was sent to it so by those who are gone.
pub fn early(socket: &Socket) -> Vec<Content> {
    match &socket.family {
        Family::Tcp(tcp) => tcp.early.and_then(|early| early.content).into_iter().collect(),
        Family::Unix(unix) => {
            let gone = unix.listening.iter().flat_map(|listening| &listening.gone).map(|gone| &gone.early);
            unix.early.iter().chain(gone).filter_map(|early| early.content).collect()
        }
        _ => Vec::new(),
    }
}

fn check_early_messages(c: &Checkpoint, socket: &Socket, own: &UnixSocket) -> Result<(), String> {
    if !socket.is_early() {
        return Ok(());
    }
    if own.early.is_some() && !matches!(own.link, Link::Waiting(_)) || socket.kind == 2 {
        return Err("it has sent something too early, and does not wait to be accepted".to_owned());
    }
    let (waiting, gone) = own.listening.as_ref().map_or((&[][..], &[][..]), |l| (&l.waiting[..], &l.gone[..]));
    let there = |gone: &Gone| waiting.get(gone.place as usize).is_some_and(|client| client.is_none());
    if !gone.iter().all(there) || !gone.is_sorted_by(|a, b| a.place < b.place) {
        return Err("somebody who waits to be accepted by it is gone, and is not".to_owned());
    }
    own.early.iter().chain(gone.iter().map(|gone| &gone.early)).try_for_each(|early| early_messages(socket, early))?;
    if !c.manifest.requires.iter().any(|name| name == EARLY_MESSAGES) {
        return Err(format!("something was sent too early, and {EARLY_MESSAGES} is not required"));
    }
    Ok(())
}

fn early_messages(socket: &Socket, early: &Early) -> Result<(), String> {
    let mut end = 0u64;
    let mut urgent_is_one = early.urgent.is_none();
    for message in &early.messages {
        if message.from.is_some() || !message.rights.is_empty() {
            return Err("what was sent too early is more than bytes".to_owned());
        }
        urgent_is_one |= socket.kind == 1 && early.urgent == Some(end) && message.size == 1;
        end = end.checked_add(message.size).ok_or("what was sent too early is too long")?;
    }
    if end != early.content.map_or(0, |content| content.size) || !urgent_is_one {
        return Err("what was sent too early is not what it should be".to_owned());
    }
    Ok(())
}

fn check_early(c: &Checkpoint, tcp: &TcpSocket) -> Result<(), String> {
    let Some(early) = tcp.early else { return Ok(()) };
    if !matches!(tcp.state, State::Connected { link: TcpLink::Waiting(_), .. }) {
        return Err("it has sent something too early, and does not wait to be accepted".to_owned());
    }
    let size = early.content.map_or(0, |content| content.size);
    if size > MOST_EARLY || early.urgent.is_some_and(|at| at >= size) {
        return Err(format!("it has sent {size} bytes too early, which can't be"));
    }
    if !c.manifest.requires.iter().any(|name| name == EARLY_DATA) {
        return Err(format!("it has sent something too early, and {EARLY_DATA} is not required"));
    }
    Ok(())
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
                TcpLink::To(at) => match other(at) {
                    Some(State::Connected { link: TcpLink::To(back), .. }) if *back as usize == index => Ok(()),
                    _ => Err(format!("it is connected to open file {at}, which is not connected to it")),
                },
                TcpLink::Waiting(at) if !matches!(other(at), Some(State::Listening { .. })) => {
                    Err(format!("it waits to be accepted by open file {at}, which does not listen"))
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
