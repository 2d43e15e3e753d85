//! The tables in `/proc/PID/net`: pure parsing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Names the socket of a line if it is the one with this inode.
pub type Name = fn(&[&str], &[u8], u64) -> Option<String>;

/// Looks a socket up in the text of a table.
pub fn find(text: &[u8], inode: u64, name: Name) -> Option<String> {
    text.split(|b| *b == b'\n').skip(1).find_map(|line| {
        let shown = String::from_utf8_lossy(line);
        let words: Vec<&str> = shown.split_ascii_whitespace().collect();
        name(&words, line, inode)
    })
}

fn is(words: &[&str], at: usize, inode: u64) -> Option<()> {
    (inode != 0 && words.get(at)?.parse() == Ok(inode)).then_some(())
}

/// `tcp`, `tcp6`: addresses in columns 1 and 2, state in 3, inode in 9.
pub fn tcp(words: &[&str], _: &[u8], inode: u64) -> Option<String> {
    is(words, 9, inode)?;
    let (local, remote) = (address(words.get(1)?)?, address(words.get(2)?)?);
    Some(match *words.get(3)? {
        "0A" => format!("TCP socket, listening on {local}"),
        "01" => format!("TCP socket, {local} to {remote}"),
        _ if remote.port() == 0 => "TCP socket, not connected".to_owned(),
        _ => format!("TCP socket, {local} to {remote}, not established"),
    })
}

/// `udp`, `udp6`: the same columns.
pub fn udp(words: &[&str], _: &[u8], inode: u64) -> Option<String> {
    is(words, 9, inode)?;
    let (local, remote) = (address(words.get(1)?)?, address(words.get(2)?)?);
    Some(if remote.port() == 0 { format!("UDP socket on {local}") } else { format!("UDP socket, {local} to {remote}") })
}

/// `icmp`: the same columns.
pub fn icmp(words: &[&str], _: &[u8], inode: u64) -> Option<String> {
    is(words, 9, inode).map(|()| "ICMP socket".to_owned())
}

/// `raw`, `raw6`: the same columns; the port is the protocol.
pub fn raw(words: &[&str], _: &[u8], inode: u64) -> Option<String> {
    is(words, 9, inode)?;
    Some(format!("raw IP socket, protocol {}", address(words.get(1)?)?.port()))
}

/// To whom a raw socket is connected. getpeername(2) says that only if it was given a port, too.
pub fn raw_peer(words: &[&str], inode: u64) -> Option<SocketAddr> {
    is(words, 9, inode)?;
    address(words.get(2)?).filter(|a| !a.ip().is_unspecified())
}

/// `unix`: type in column 4, inode in 6, then the path.
pub fn unix(words: &[&str], line: &[u8], inode: u64) -> Option<String> {
    is(words, 6, inode)?;
    let kind = match *words.get(4)? {
        "0001" => "stream",
        "0002" => "datagram",
        "0005" => "seqpacket",
        _ => "unknown",
    };
    let listens = u64::from_str_radix(words.get(3)?, 16).ok()? & 0x1_0000 != 0;
    // The path may hold blanks: it is all that follows the inode.
    let path = {
        let shown = String::from_utf8_lossy(line).into_owned();
        let number = words.get(6)?;
        shown.find(&format!(" {number} ")).and_then(|at| shown.get(at + number.len() + 2..)).map(str::to_owned)
    };
    Some(match (path.filter(|p| !p.is_empty()), listens) {
        (Some(path), true) => format!("UNIX {kind} socket, listening on {path}"),
        (Some(path), false) => format!("UNIX {kind} socket {path}"),
        (None, _) => format!("UNIX {kind} socket"),
    })
}

/// `netlink`: protocol in column 1, inode in the last.
pub fn netlink(words: &[&str], _: &[u8], inode: u64) -> Option<String> {
    is(words, words.len().checked_sub(1)?, inode)?;
    Some(format!("netlink socket, protocol {}", words.get(1)?))
}

/// `packet`: inode in the last column.
pub fn packet(words: &[&str], _: &[u8], inode: u64) -> Option<String> {
    is(words, words.len().checked_sub(1)?, inode).map(|()| "packet socket".to_owned())
}

/// `0100007F:0050`: words of an address in the host's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_le_bytes())),
        32 => {
            let mut bytes = [0u8; 16];
            for (i, word) in bytes.chunks_exact_mut(4).enumerate() {
                word.copy_from_slice(&u32::from_str_radix(ip.get(8 * i..8 * i + 8)?, 16).ok()?.to_le_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn internet() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let tcp4 = format!(
            "{head}   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1077 1\n\
             \x20  1: 020200C0:9706 507100CB:0050 01 00000000:00000000 03:00001220 00000000     0        0 5 3 0\n"
        );
        assert_eq!(find(tcp4.as_bytes(), 1077, tcp).unwrap(), "TCP socket, listening on 127.0.0.1:80");
        assert_eq!(find(tcp4.as_bytes(), 5, tcp).unwrap(), "TCP socket, 192.0.2.2:38662 to 203.0.113.80:80");
        assert_eq!(find(tcp4.as_bytes(), 6, tcp), None);
        let tcp6 = format!(
            "{head}   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9 1\n"
        );
        assert_eq!(find(tcp6.as_bytes(), 9, tcp).unwrap(), "TCP socket, listening on [::1]:8080");
        assert_eq!(find(tcp4.as_bytes(), 1077, udp).unwrap(), "UDP socket on 127.0.0.1:80");
        assert_eq!(find(tcp4.as_bytes(), 1077, raw).unwrap(), "raw IP socket, protocol 80");
    }

    #[test]
    fn local() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
0000000000000000: 00000002 00000000 00010000 0001 01 1073 /run/my socket\n\
0000000000000000: 00000003 00000000 00000000 0002 03  1074\n\
0000000000000000: 00000003 00000000 00000000 0005 03  1075 @name\n";
        assert_eq!(find(text, 1073, unix).unwrap(), "UNIX stream socket, listening on /run/my socket");
        assert_eq!(find(text, 1074, unix).unwrap(), "UNIX datagram socket");
        assert_eq!(find(text, 1075, unix).unwrap(), "UNIX seqpacket socket @name");
        let text = b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
000000007a1e2861 16  0          00000000 0        0        0     2        0        4       \n";
        assert_eq!(find(text, 4, netlink).unwrap(), "netlink socket, protocol 16");
    }

    #[test]
    fn a_live_socket_is_named() {
        use std::os::unix::fs::MetadataExt;
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket));
        let inode = std::fs::metadata(path).unwrap().ino();
        let want = format!("TCP socket, listening on {}", socket.local_addr().unwrap());
        assert_eq!(crate::net::describe(std::process::id() as i32, inode), want);
        assert_eq!(crate::net::describe(std::process::id() as i32, u64::MAX), "socket");
    }

    proptest! {
        #[test]
        fn nothing_panics(words in proptest::collection::vec("[0-9A-F:é]{0,34}", 0..12), inode in 0u64..20) {
            let line = words.join(" ");
            for name in [tcp, udp, icmp, raw, unix, netlink, packet] as [Name; 7] {
                let _ = find(format!("head\n{line}").as_bytes(), inode, name);
            }
        }
    }
}
