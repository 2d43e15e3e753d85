//! A network of one's own.
#![allow(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};

use super::check;

/// CAP_NET_BIND_SERVICE, CAP_NET_BROADCAST, CAP_NET_ADMIN, CAP_NET_RAW: what is left of our might in a user namespace of our
/// own, so that everything else goes as without one.
const NETWORK_CAPABILITIES: u32 = 0xf << 10;
const LOOPBACK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
/// NLM_F_REQUEST | NLM_F_ACK.
const REQUEST: u16 = 5;
/// NLM_F_CREATE | NLM_F_REPLACE.
const CREATE: u16 = 0x500;

/// Takes this process, which has one thread, into a new network namespace, where only the loopback interface is: up, with the
/// given addresses besides its own. `user`: in a user namespace, too, that knows our user and group.
///
/// # Errors
/// What unshare(2) says, or the kernel to what was asked for in the new network.
pub fn enter(user: bool, addresses: &[IpAddr]) -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let flags = if user { libc::CLONE_NEWUSER | libc::CLONE_NEWNET } else { libc::CLONE_NEWNET };
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(flags) }.into())?;
    if user {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    // `struct ifinfomsg`: family, type, index, flags, change.
    let mut up = vec![0; 4];
    for word in [LOOPBACK, libc::IFF_UP as u32, libc::IFF_UP as u32] {
        up.extend(word.to_ne_bytes());
    }
    request(RTM_NEWLINK, REQUEST, &up)?;
    for address in addresses {
        request(RTM_NEWADDR, REQUEST | CREATE, &new_address(*address))?;
    }
    if user { keep_capabilities(NETWORK_CAPABILITIES) } else { Ok(()) }
}

/// `struct ifaddrmsg` with IFA_LOCAL and IFA_ADDRESS: one address, on the loopback interface.
fn new_address(address: IpAddr) -> Vec<u8> {
    const IFA_F_NODAD: u8 = 2;
    let (family, octets) = match address {
        IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec()),
    };
    let mut out = vec![family as u8, octets.len() as u8 * 8, IFA_F_NODAD, 0];
    out.extend(LOOPBACK.to_ne_bytes());
    for kind in [2u16, 1] {
        out.extend((octets.len() as u16 + 4).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(&octets);
    }
    out
}

/// Asks the kernel over netlink(7), and waits for its answer.
fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0u8; 1024];
    let len = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // `struct nlmsgerr` after the header: the negative errno.
    match answer.get(16..20).and_then(<[u8]>::first_chunk).filter(|_| len >= 20).map(|b| i32::from_ne_bytes(*b)) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Gives up all other capabilities.
fn keep_capabilities(mask: u32) -> io::Result<()> {
    // Version 3; then effective, permitted and inheritable, low words and high words.
    let header = [0x2008_0522u32, 0];
    let data = [mask, mask, 0, 0, 0, 0];
    // SAFETY: header and data are as capset(2) has them, and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}
