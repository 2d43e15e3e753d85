//! Sockets: what the kernel tells of them, what waits in them, their options; what leads outside; and naming one.

pub mod diag;
pub mod inet;
pub mod inflight;
pub mod multicast;
pub mod options;
pub mod outside;
pub mod packet;
pub mod queue;
pub mod stream;
mod tables;
pub mod unix;
pub mod urgent;

use crate::proc;

/// To whom a raw socket is connected. `pid`: a process in its network namespace.
pub fn raw_peer(pid: i32, inode: u64) -> Option<std::net::SocketAddr> {
    ["raw", "raw6"].iter().find_map(|file| {
        let text = proc::read(&format!("{pid}/net/{file}")).ok()?;
        String::from_utf8_lossy(&text).lines().find_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            tables::raw_peer(&words, inode)
        })
    })
}

/// What a socket is, for messages: `TCP socket, listening on 127.0.0.1:80`. `inode` as in `socket:[inode]`, `pid` a
/// process in the socket's network namespace, as we see it.
pub fn describe(pid: i32, inode: u64) -> String {
    const TABLES: [(&str, tables::Name); 10] = [
        ("tcp", tables::tcp),
        ("tcp6", tables::tcp),
        ("unix", tables::unix),
        ("udp", tables::udp),
        ("udp6", tables::udp),
        ("netlink", tables::netlink),
        ("raw", tables::raw),
        ("raw6", tables::raw),
        ("icmp", tables::icmp),
        ("packet", tables::packet),
    ];
    TABLES
        .iter()
        .find_map(|(file, name)| {
            // A kernel without this protocol lacks the file.
            let text = proc::read(&format!("{pid}/net/{file}")).ok()?;
            tables::find(&text, inode, *name)
        })
        .unwrap_or_else(|| "socket".to_owned())
}
