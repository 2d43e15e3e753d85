//! Multicast groups that a socket is a member of. The kernel lists groups by interface; of each a socket can be asked
//! whether it is a member, and whose datagrams it takes (MCAST_MSFILTER).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use crate::model::Hex;
use crate::model::datagram::{Interface, Membership};
use crate::sys::socket;

const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
const MCAST_EXCLUDE: u32 = 0;
/// `struct group_filter` (linux/in.h): interface, group, mode, number of sources, sources.
const HEAD: usize = 144;
const STORAGE: usize = 128;
/// net.ipv4.igmp_max_msf and net.ipv6.mld_max_msf are 10 and 64 as a rule.
const SOURCES: usize = 128;

/// The groups somebody on this host is a member of, and where.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Groups {
    /// Index of the interface, and the group.
    pub groups: Vec<(u32, IpAddr)>,
    /// The interfaces that can have groups.
    pub interfaces: Vec<Interface>,
}

/// Those of the network namespace of a process.
pub fn groups(pid: i32) -> Groups {
    // A kernel without IPv6 lacks the second file.
    let text = |file| crate::proc::read(&format!("{pid}/net/{file}")).unwrap_or_default();
    let mut out = Groups::default();
    ipv4(&String::from_utf8_lossy(&text("igmp")), &mut out);
    ipv6(&String::from_utf8_lossy(&text("igmp6")), &mut out);
    out
}

fn interface(index: &str, name: &str, out: &mut Groups) -> Option<u32> {
    let index = index.parse().ok()?;
    if out.interfaces.iter().all(|i| i.index != index) {
        out.interfaces.push(Interface { index, name: name.to_owned() });
    }
    Some(index)
}

/// `1 lo : 1 V3`, and below it a line for each group, which begins with the group in the host's byte order.
fn ipv4(text: &str, out: &mut Groups) {
    let mut current = None;
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match (line.starts_with(char::is_whitespace), &words[..]) {
            (false, [index, name, ..]) => current = interface(index, name.trim_end_matches(':'), out),
            (true, [group, ..]) => {
                let group = u32::from_str_radix(group, 16).ok().map(|g| Ipv4Addr::from(g.to_ne_bytes()));
                out.groups.extend(current.zip(group.map(IpAddr::from)));
            }
            _ => {}
        }
    }
}

/// `4 eth0 ff02…01 1 0000000C 0`.
fn ipv6(text: &str, out: &mut Groups) {
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [index, name, group, ..] = words[..] else { continue };
        let group = u128::from_str_radix(group, 16).ok().map(|g| IpAddr::from(Ipv6Addr::from(g)));
        let entry = interface(index, name, out).zip(group);
        out.groups.extend(entry);
    }
}

/// The groups among these that a socket is a member of. One of IPv6 may be a member of groups of IPv4, too.
///
/// # Errors
/// What getsockopt(2) says, other than that it is no member.
pub fn memberships(fd: BorrowedFd<'_>, domain: i32, groups: &Groups) -> io::Result<Vec<Membership>> {
    let mut out = Vec::new();
    for &(interface, group) in groups.groups.iter().filter(|(_, g)| g.is_ipv4() || domain == libc::AF_INET6) {
        let mut value = filter(interface, group, MCAST_EXCLUDE, &[]);
        value.resize(HEAD + STORAGE * SOURCES, 0);
        if let Some(number) = value.get_mut(140..HEAD) {
            number.copy_from_slice(&(SOURCES as u32).to_ne_bytes());
        }
        let value = match socket::ask_option(fd, level(group), MCAST_MSFILTER, value) {
            Ok(value) => value,
            // It is no member, or of a kind that can be none of such groups (raw IPv6 of groups of IPv4).
            Err(e) => match e.raw_os_error() {
                Some(libc::EADDRNOTAVAIL | libc::EINVAL | libc::ENODEV | libc::ENOPROTOOPT) => continue,
                _ => return Err(e),
            },
        };
        let word = |at: usize| value.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b));
        let sources = value.get(HEAD..).unwrap_or_default().chunks_exact(STORAGE).take(word(140) as usize);
        let address = |s: &[u8]| s.get(if group.is_ipv4() { 4..8 } else { 8..24 }).unwrap_or_default().to_vec();
        out.push(Membership {
            interface,
            group: Hex(octets(group)),
            exclude: word(136) == MCAST_EXCLUDE,
            sources: sources.map(|s| Hex(address(s))).collect(),
        });
    }
    Ok(out)
}

/// Makes a socket a member, on the interface of this index.
///
/// # Errors
/// What setsockopt(2) says; `InvalidData` for a group that is no address.
pub fn join(fd: BorrowedFd<'_>, membership: &Membership, interface: u32) -> io::Result<()> {
    let group = address(&membership.group)?;
    let mut request = u64::from(interface).to_ne_bytes().to_vec();
    request.extend(storage(group));
    socket::set_option(fd, level(group), MCAST_JOIN_GROUP, &request)?;
    if membership.exclude && membership.sources.is_empty() {
        return Ok(());
    }
    let sources = membership.sources.iter().map(address).collect::<io::Result<Vec<IpAddr>>>()?;
    let filter = filter(interface, group, u32::from(!membership.exclude), &sources);
    socket::set_option(fd, level(group), MCAST_MSFILTER, &filter)
}

fn level(group: IpAddr) -> i32 {
    if group.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An address of 4 or 16 bytes.
///
/// # Errors
/// `InvalidData` for any other length.
pub fn address(bytes: &Hex) -> io::Result<IpAddr> {
    let v4 = <[u8; 4]>::try_from(&bytes.0[..]).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(&bytes.0[..]).map(IpAddr::from)).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn storage(address: IpAddr) -> Vec<u8> {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut out = super::inet::sockaddr(domain, (address, 0).into());
    out.resize(STORAGE, 0);
    out
}

fn filter(interface: u32, group: IpAddr, mode: u32, sources: &[IpAddr]) -> Vec<u8> {
    let mut out = u64::from(interface).to_ne_bytes().to_vec();
    out.extend(storage(group));
    out.extend(mode.to_ne_bytes());
    out.extend((sources.len() as u32).to_ne_bytes());
    sources.iter().for_each(|&s| out.extend(storage(s)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn tables() {
        let mut out = Groups::default();
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
4\teth0      :     2      V3\n\t\t\t\tFB0000E0     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        ipv4(text, &mut out);
        ipv6("4    eth0            ff0200000000000000000001ff000002     1 00000004 0\n", &mut out);
        let want = [(1, "224.0.0.1"), (4, "224.0.0.251"), (4, "224.0.0.1"), (4, "ff02::1:ff00:2")];
        assert_eq!(out.groups, want.map(|(i, g)| (i, g.parse().unwrap())));
        assert_eq!(out.interfaces.iter().map(|i| &i.name[..]).collect::<Vec<_>>(), ["lo", "eth0"]);
    }

    #[test]
    fn a_member_is_found_and_made_again() {
        let group: Ipv4Addr = "239.7.8.9".parse().unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let wanted = |exclude, sources: &[[u8; 4]]| Membership {
            interface: 1,
            group: Hex(group.octets().to_vec()),
            exclude,
            sources: sources.iter().map(|s| Hex(s.to_vec())).collect(),
        };
        for membership in [wanted(true, &[]), wanted(true, &[[10, 0, 0, 1]]), wanted(false, &[[10, 0, 0, 1]])] {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            join(socket.as_fd(), &membership, 1).unwrap();
            let all = groups(std::process::id() as i32);
            assert_eq!(memberships(socket.as_fd(), libc::AF_INET, &all).unwrap(), [membership]);
        }
        let all = groups(std::process::id() as i32);
        assert_eq!(memberships(socket.as_fd(), libc::AF_INET, &all).unwrap(), []);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[0-9a-f \t:\n]{0,80}") {
            let mut out = Groups::default();
            ipv4(&text, &mut out);
            ipv6(&text, &mut out);
        }
    }
}
