//! A network of the program's own (`--net private`): every address and port is free there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::Checkpoint;
use crate::model::sockets::Family;
use crate::model::tcp::{Link, State};
use crate::net::inet;
use crate::sys::network;

use super::namespaces::{CAP_SYS_ADMIN, may};
use super::{Error, sockets};

/// Takes this process into a new network namespace, in which the addresses of the program's sockets are; whoever is
/// born later is in it, too.
///
/// Call it while this process has one thread.
///
/// # Errors
/// [`Error::NotPermitted`] where user namespaces are off, and [`Error::Step`].
pub fn enter(checkpoint: &Checkpoint) -> Result<(), Error> {
    let addresses: Vec<IpAddr> = addresses(checkpoint).into_iter().collect();
    network::enter(!may(CAP_SYS_ADMIN), &addresses).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSPC | libc::EUSERS | libc::EACCES) => Error::NotPermitted {
            what: format!("a network of its own: {error}"),
            hint: "user namespaces are off or used up here (`ckpt check` says more); resume it without --net private"
                .to_owned(),
        },
        _ => Error::Step { step: "making a network", object: "the program".to_owned(), source: error },
    })
}

/// The addresses that the program's sockets have, or that its connections within the tree lead to; without those that
/// every host has.
fn addresses(checkpoint: &Checkpoint) -> BTreeSet<IpAddr> {
    let mut out = BTreeSet::new();
    let mut add = |sockaddr: &[u8]| out.extend(inet::matching(sockaddr).map(|a| a.ip()));
    for (_, socket) in sockets::all(checkpoint) {
        match &socket.family {
            Family::Tcp(tcp) => {
                add(&tcp.local.0);
                match &tcp.state {
                    State::Connected { peer, link } if *link != Link::Outside => add(&peer.0),
                    _ => {}
                }
            }
            Family::Datagram(datagram) => add(&datagram.local.0),
            _ => {}
        }
    }
    out.retain(|ip| {
        let link_local = matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local());
        !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local
    });
    out
}
