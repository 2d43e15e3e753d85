//! Packet sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::net::if_::if_indextoname;

use crate::model::Hex;
use crate::model::packet::{PacketMembership, PacketSocket};
use crate::model::sockets::{Family, Socket, SocketOption};
use crate::net::options::Made;
use crate::net::packet;
use crate::net::queue::Queue;
use crate::sys::socket;

use super::fd::{SeenFd, Work};
use super::sockets::{model, options, refuse};
use super::{Error, Inside};

const SOL_PACKET: i32 = 263;
const PACKET_COPY_THRESH: i32 = 7;
const PACKET_FANOUT: i32 = 18;
/// PACKET_FANOUT_CBPF and EBPF: a program decides, which nobody can read.
const BY_PROGRAM: [u32; 2] = [6, 7];

/// Levels and names of options particular to packet sockets that can be set as they are read.
pub(super) const OPTIONS: [(i32, i32); 11] = [
    (SOL_PACKET, 8),  // PACKET_AUXDATA
    (SOL_PACKET, 9),  // PACKET_ORIGDEV
    (SOL_PACKET, 10), // PACKET_VERSION
    (SOL_PACKET, 12), // PACKET_RESERVE
    (SOL_PACKET, 14), // PACKET_LOSS
    (SOL_PACKET, 15), // PACKET_VNET_HDR
    (SOL_PACKET, 17), // PACKET_TIMESTAMP
    (SOL_PACKET, 19), // PACKET_TX_HAS_OFF
    (SOL_PACKET, 20), // PACKET_QDISC_BYPASS
    (SOL_PACKET, 23), // PACKET_IGNORE_OUTGOING
    (SOL_PACKET, 24), // PACKET_VNET_HDR_SZ
];

/// Whether a socket is one.
pub(super) fn is(made: Made) -> bool {
    made.domain == libc::AF_PACKET
}

/// One of the tree; `None` if it was refused.
pub(super) fn capture(
    work: &mut Work<'_>,
    s: &SeenFd,
    copy: &OwnedFd,
    made: Made,
    inside: &Inside,
) -> Result<Option<Socket>, Error> {
    let failed = |step| Error::of(s.host, step);
    let fd = copy.as_fd();
    if let Err(e) = socket::socket(libc::AF_PACKET, made.kind, 0) {
        refuse(work, s, &format!("a packet socket can't be made here: {e}"), "save and resume it as root");
        return Ok(None);
    }
    let told = match packet::socket(s.meta.ino()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("asking the kernel for", "packets")(e)),
        Ok(Some(told)) => told,
        _ => {
            refuse(work, s, "the kernel tells nothing of packet sockets", "load the module packet_diag");
            return Ok(None);
        }
    };
    if told.has_ring {
        refuse(work, s, "it has a ring of packets: not supported", "have the program go without (PACKET_RX_RING)");
        return Ok(None);
    }
    let fanout = socket::number(fd, SOL_PACKET, PACKET_FANOUT).map_err(failed("asking for a socket's group"))? as u32;
    if BY_PROGRAM.contains(&(fanout >> 16 & 0xff)) {
        refuse(work, s, "a program shares out its packets: not supported", "use another kind of PACKET_FANOUT");
        return Ok(None);
    }
    // `struct sockaddr_ll`: family, protocol in network byte order, interface.
    let name = socket::name(fd).map_err(failed("asking for a socket's address"))?;
    let protocol = name.get(2..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_be_bytes(*b));
    let index = name.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |b| i32::from_ne_bytes(*b));
    let interface = |index: u32| if_indextoname(index).ok().and_then(|name| name.into_string().ok());
    let bound = u32::try_from(index).ok().map(|index| (index != 0).then(|| interface(index)));
    let memberships: Option<Vec<PacketMembership>> = told
        .memberships
        .into_iter()
        .map(|m| {
            let interface = interface(m.index)?;
            Some(PacketMembership { interface, kind: m.kind, address: Hex(m.address), count: m.count })
        })
        .collect();
    let (Some(None | Some(Some(_))), Some(memberships)) = (&bound, memberships) else {
        refuse(work, s, "the interface it is bound to is gone", "have the program close it");
        return Ok(None);
    };
    let lost = socket::events(fd, libc::POLLIN).map_err(failed("polling a socket"))? & libc::POLLIN != 0;
    let fanout = (fanout != 0).then_some(fanout);
    let family = PacketSocket { protocol, interface: bound.flatten().flatten(), memberships, fanout, lost };
    let Some(mut options) = options(work, s, copy, made)? else { return Ok(None) };
    if told.copy_threshold != 0 {
        let value = Hex(told.copy_threshold.to_ne_bytes().to_vec());
        options.push(SocketOption { level: SOL_PACKET, name: PACKET_COPY_THRESH, value });
    }
    Ok(Some(model(work, made, options, Queue::default(), Family::Packet(family), 0, inside)))
}
