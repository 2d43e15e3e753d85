//! The local ports of connections: had again also where other connections of this host use the same port.
//!
//! bind(2) takes a port as a whole, which fails while another connection has it, or the traces of one that has ended. A port
//! that connect(2) chooses is shared by all connections whose other ends differ, and most were chosen that way: so the choice
//! is narrowed to one port (`IP_LOCAL_PORT_RANGE`, Linux 6.3, which says nothing about ports outside
//! `net.ipv4.ip_local_port_range`; net/ipv4/inet_hashtables.c, `__inet_hash_connect`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::net::inet;
use crate::sys::socket;

const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IP_LOCAL_PORT_RANGE: i32 = 51;
/// A connection between the same addresses that has just ended stands in the way of a new one for a second (tcp(7),
/// tcp_tw_reuse, whose default allows it on the loopback interface).
const PATIENCE: Duration = Duration::from_secs(2);

/// The ports among which connect(2) chooses in our network namespace.
#[derive(Debug, Clone)]
pub struct Ephemeral(RangeInclusive<u16>);

impl Ephemeral {
    /// As they are now.
    pub fn read() -> Ephemeral {
        Ephemeral(inet::ephemeral())
    }

    /// Connects a fresh socket from where the saved one was.
    ///
    /// # Errors
    /// What bind(2) and connect(2) say.
    pub fn connect(&self, fd: BorrowedFd<'_>, local: &[u8], to: &[u8]) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.connect_shared(fd, local, to) {
                Err(e) if is_taken(&e) => {}
                other => return other,
            }
            match socket::bind(fd, local) {
                Ok(()) => return connect_patiently(fd, to, until),
                Err(e) if is_taken(&e) && Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Err(e) => return Err(e),
            }
        }
    }

    /// The same, if it can be done at once.
    ///
    /// # Errors
    /// What bind(2) and connect(2) say.
    pub fn connect_once(&self, fd: BorrowedFd<'_>, local: &[u8], to: &[u8]) -> io::Result<()> {
        match self.connect_shared(fd, local, to) {
            Err(e) if is_taken(&e) => socket::bind(fd, local).and_then(|()| socket::connect(fd, to)),
            other => other,
        }
    }

    /// Connects from a port that others may use, too. `AddrNotAvailable` if that can't be: then the socket has no port yet.
    fn connect_shared(&self, fd: BorrowedFd<'_>, local: &[u8], to: &[u8]) -> io::Result<()> {
        let unavailable = || io::Error::from(io::ErrorKind::AddrNotAvailable);
        let port =
            inet::address(local).map(|a| a.port()).filter(|port| self.0.contains(port)).ok_or_else(unavailable)?;
        let set = |name: i32, value: u32| socket::set_option(fd, libc::IPPROTO_IP, name, &value.to_ne_bytes());
        // Before Linux 6.3 there is no such choice.
        set(IP_LOCAL_PORT_RANGE, u32::from(port) << 16 | u32::from(port)).map_err(|_| unavailable())?;
        set(IP_BIND_ADDRESS_NO_PORT, 1)?;
        let mut no_port = local.to_vec();
        if let Some(bytes) = no_port.get_mut(2..4) {
            bytes.fill(0);
        }
        let connected = socket::bind(fd, &no_port).and_then(|()| socket::connect(fd, to));
        set(IP_BIND_ADDRESS_NO_PORT, 0)?;
        set(IP_LOCAL_PORT_RANGE, 0)?;
        connected
    }

    /// Whether a connection from `local`, which bind(2) says is taken, to an end of this host could be made: tried with one to a
    /// listening socket of ours, and by looking for one with the same addresses among those there are.
    ///
    /// # Errors
    /// `AddrInUse` if it is there already or the port is not to be shared, or what stands in the way.
    pub fn try_connection(
        &self,
        fd: BorrowedFd<'_>,
        domain: i32,
        local: &[u8],
        peer: &[u8],
        there: &[inet::Inet],
    ) -> io::Result<()> {
        const TIME_WAIT: u8 = 6;
        let ends = (inet::matching(local), inet::matching(peer));
        let same = |t: &&inet::Inet| (Some(t.local), Some(t.remote)) == ends && t.state != TIME_WAIT;
        if there.iter().any(|t| same(&t)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let ip = ends.0.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.ip());
        let door = socket::socket(domain, libc::SOCK_STREAM, 0)?;
        socket::bind(door.as_fd(), &inet::sockaddr(domain, SocketAddr::new(ip, 0)))?;
        socket::listen(door.as_fd(), 1)?;
        self.connect_shared(fd, local, &socket::name(door.as_fd())?).map_err(|e| match e.kind() {
            // The address is one of this host, or nobody would have it.
            io::ErrorKind::AddrNotAvailable => io::ErrorKind::AddrInUse.into(),
            _ => e,
        })
    }
}

/// Connects a socket that has its address, or needs none.
pub fn connect_anyhow(fd: BorrowedFd<'_>, to: &[u8]) -> io::Result<()> {
    connect_patiently(fd, to, Instant::now() + PATIENCE)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

fn connect_patiently(fd: BorrowedFd<'_>, to: &[u8], until: Instant) -> io::Result<()> {
    loop {
        match socket::connect(fd, to) {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    fn fresh() -> OwnedFd {
        socket::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap()
    }

    fn sockaddr(address: SocketAddr) -> Vec<u8> {
        inet::sockaddr(libc::AF_INET, address)
    }

    #[test]
    fn a_port_is_had_beside_another_connection() {
        let [one, two] = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let other = TcpStream::connect(one.local_addr().unwrap()).unwrap();
        let local = sockaddr(other.local_addr().unwrap());
        let alone = socket::bind(fresh().as_fd(), &local).map_err(|e| e.kind());
        assert_eq!(alone, Err(io::ErrorKind::AddrInUse), "this is what bind would do");
        let there = inet::all(libc::IPPROTO_TCP).unwrap();
        let to = sockaddr(two.local_addr().unwrap());
        Ephemeral::read().try_connection(fresh().as_fd(), libc::AF_INET, &local, &to, &there).unwrap();
        let fd = fresh();
        Ephemeral::read().connect(fd.as_fd(), &local, &to).unwrap();
        assert_eq!(socket::name(fd.as_fd()).unwrap(), local);
        // But not twice with the same other end.
        let there = inet::all(libc::IPPROTO_TCP).unwrap();
        let twice =
            Ephemeral::read().try_connection(fresh().as_fd(), libc::AF_INET, &local, &to, &there).map_err(|e| e.kind());
        assert_eq!(twice, Err(io::ErrorKind::AddrInUse));
    }

    #[test]
    fn a_port_that_somebody_has_bound_is_taken() {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = sockaddr(door.local_addr().unwrap());
        let other = fresh();
        socket::bind(other.as_fd(), &sockaddr(([127, 0, 0, 1], 0).into())).unwrap();
        let local = socket::name(other.as_fd()).unwrap();
        let taken = Ephemeral::read().try_connection(fresh().as_fd(), libc::AF_INET, &local, &to, &[]);
        assert_eq!(taken.map_err(|e| e.kind()), Err(io::ErrorKind::AddrInUse));
    }

    #[test]
    fn a_port_that_nobody_would_choose_is_bound() {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = sockaddr(door.local_addr().unwrap());
        // Ports below the usual range: whichever is free.
        let local = (20000..21000).map(|port| sockaddr(([127, 0, 0, 1], port).into())).find(|local| {
            let fd = fresh();
            Ephemeral::read().connect(fd.as_fd(), local, &to).is_ok() && socket::name(fd.as_fd()).unwrap() == *local
        });
        assert!(local.is_some());
    }
}
