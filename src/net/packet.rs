//! What sock_diag(7) tells of packet sockets (net/packet/diag.c).

use std::io;

use super::diag::{self, number};

/// PACKET_SHOW_INFO, MCLIST, RING_CFG.
const SHOW: u32 = 0x7;
const MESSAGE: usize = 16;
/// `struct packet_diag_mclist`: interface, count, type, length of the address, the address.
const MEMBERSHIP: usize = 44;

/// A packet socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packet {
    /// PACKET_COPY_THRESH.
    pub copy_threshold: u32,
    /// What it has asked of interfaces.
    pub memberships: Vec<Membership>,
    /// It shares a ring of packets with the kernel (PACKET_RX_RING, PACKET_TX_RING).
    pub has_ring: bool,
}

/// PACKET_ADD_MEMBERSHIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Number of the interface.
    pub index: u32,
    /// How often it was asked for.
    pub count: u32,
    /// PACKET_MR_MULTICAST 0, PROMISC 1, ALLMULTI 2, UNICAST 3.
    pub kind: u16,
    /// The address that is meant; empty where none is.
    pub address: Vec<u8>,
}

/// The packet socket of our network namespace with this inode, if it is there.
///
/// # Errors
/// `NotFound` where the kernel lacks `packet_diag`; else what socket(2), send(2) and recv(2) say.
pub fn socket(inode: u64) -> io::Result<Option<Packet>> {
    let mut request = vec![libc::AF_PACKET as u8, 0, 0, 0];
    for word in [0, SHOW, 0, 0] {
        request.extend(word.to_ne_bytes());
    }
    let mut found = None;
    diag::dump(&request, |payload| {
        if let Some((_, packet)) = parse(payload).filter(|(found, _)| u64::from(*found) == inode) {
            found = Some(packet);
        }
    })?;
    Ok(found)
}

/// One `packet_diag_msg` with its attributes.
fn parse(payload: &[u8]) -> Option<(u32, Packet)> {
    let inode = number(payload, 4)?;
    let mut out = Packet::default();
    for (attribute, value) in diag::attributes(payload.get(MESSAGE..)?) {
        match attribute {
            0 => out.copy_threshold = number(value, 12)?,
            1 => out.memberships = value.chunks_exact(MEMBERSHIP).filter_map(membership).collect(),
            2 | 3 => out.has_ring = true,
            _ => {}
        }
    }
    Some((inode, out))
}

fn membership(bytes: &[u8]) -> Option<Membership> {
    let half = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map(|b| u16::from_ne_bytes(*b));
    let address = bytes.get(12..12 + usize::from(half(10)?))?.to_vec();
    Some(Membership { index: number(bytes, 0)?, count: number(bytes, 4)?, kind: half(8)?, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn what_the_kernel_says() {
        let mut message = vec![17, 3, 0xb5, 0x88];
        message.extend(77u32.to_ne_bytes());
        message.extend([0; 8]);
        let info: Vec<u8> = [1u32, 0, 0, 9, 0, 1].iter().flat_map(|w| w.to_ne_bytes()).collect();
        message.extend(attribute(0, &info));
        let mut asked: Vec<u8> = [2u32, 3].iter().flat_map(|w| w.to_ne_bytes()).collect();
        asked.extend([0, 0, 6, 0, 1, 0, 94, 0, 0, 5]);
        asked.resize(MEMBERSHIP, 0);
        message.extend(attribute(1, &asked));
        let there = Membership { index: 2, count: 3, kind: 0, address: vec![1, 0, 94, 0, 0, 5] };
        let packet = Packet { copy_threshold: 9, memberships: vec![there], has_ring: false };
        assert_eq!(parse(&message), Some((77, packet)));
        message.extend(attribute(2, &[0; 28]));
        assert!(parse(&message).is_some_and(|(_, packet)| packet.has_ring));
    }

    #[test]
    fn nonsense_is_nothing() {
        for len in 0..64 {
            let _ = parse(&vec![0xff; len]);
            let _ = membership(&vec![0xff; len]);
        }
    }
}
