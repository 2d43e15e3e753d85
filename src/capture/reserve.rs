//! Memory for what waits in the TCP sockets of a tree, there before the tree is held: where a hypervisor has been given
//! free pages back, to have them again takes far longer than to copy so many bytes.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::net::inet;
use crate::proc::{self, many};
use crate::sys::bytes::{Bytes, MANY};
use crate::tracer::{HoldRequest, tree};

use super::tcp;

/// Bytes in all; what is more comes while the tree stands still.
const MOST: usize = 256 << 20;

/// Pages for bytes to come, by how many there is room for.
#[derive(Debug, Default)]
pub(super) struct Reserve(Mutex<BTreeMap<usize, Vec<Bytes>>>);

impl Reserve {
    /// As much as the sockets of a tree that still runs seem to need. Whatever fails here is no matter, or will be told.
    pub fn ahead(request: &HoldRequest<'_>) -> Reserve {
        let mut left = MOST;
        let mut lens = if much_waits() { waiting(request) } else { Vec::new() };
        lens.retain(|len| {
            let fits = *len <= left;
            left -= if fits { *len } else { 0 };
            fits
        });
        let made = many::each(&lens, 1, |&len| Ok::<_, ()>(Bytes::with_room(len))).unwrap_or_default();
        let mut all = BTreeMap::<usize, Vec<Bytes>>::new();
        for bytes in made {
            all.entry(bytes.room()).or_default().push(bytes);
        }
        Reserve(Mutex::new(all))
    }

    /// None yet, and room for `len` bytes: some of these pages, if they fit.
    pub fn take(&self, len: usize) -> Bytes {
        if len < MANY {
            return Bytes::with_room(len);
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.range_mut(len..len.saturating_mul(2)).find_map(|(_, some)| some.pop());
        drop(all);
        found.unwrap_or_else(|| Bytes::with_room(len))
    }
}

/// Bytes of memory that an image of a tree that still runs may have, about: pages that are in no file (proc_pid_statm(5)).
/// What processes share is counted for each.
pub(super) fn memory(request: &HoldRequest<'_>) -> u64 {
    let of = |pid: i32| {
        let text = proc::read(&format!("{pid}/statm")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut pages = text.split_ascii_whitespace().filter_map(|word| word.parse::<u64>().ok()).skip(1);
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        resident.saturating_sub(shared).saturating_mul(4096)
    };
    let members = tree::members(request.root, request.reaper, |_| false).unwrap_or_default();
    members.iter().fold(0, |sum: u64, found| sum.saturating_add(of(found.pid)))
}

/// Whether the memory of all TCP sockets there are is enough for one that matters. The count is in pages.
fn much_waits() -> bool {
    let text = proc::read("net/sockstat").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let pages = text.lines().find(|line| line.starts_with("TCP:")).and_then(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.windows(2).find_map(|pair| if pair[0] == "mem" { pair[1].parse::<usize>().ok() } else { None })
    });
    pages.is_none_or(|pages| pages.saturating_mul(4096) >= MANY)
}

/// How many bytes wait, or are on their way, for each socket of the tree that has many.
fn waiting(request: &HoldRequest<'_>) -> Vec<usize> {
    let members = tree::members(request.root, request.reaper, |_| false).unwrap_or_default();
    let mut inodes = HashSet::new();
    for pid in members.iter().map(|found| found.pid) {
        let fds = proc::fds(pid).unwrap_or_default();
        let links = fds.into_iter().filter_map(|fd| proc::link(&format!("{pid}/fd/{fd}")).ok());
        inodes.extend(links.filter_map(|link| inode(&link)));
    }
    if inodes.is_empty() {
        return Vec::new();
    }
    let ends = tcp::by_ends(&inet::all(libc::IPPROTO_TCP).unwrap_or_default());
    let of_the_tree = ends.values().filter(|own| inodes.contains(&own.inode));
    let lens = of_the_tree.map(|own| {
        let under_way = ends.get(&(own.remote, own.local)).map_or(0, |peer| peer.sent);
        own.readable as usize + under_way as usize
    });
    // It may become more yet.
    lens.filter(|len| *len >= MANY).map(|len| len + len / 8).collect()
}

/// Of `socket:[INODE]`.
fn inode(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_waits_for_a_tree_finds_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_near, _) = listener.accept().unwrap();
        far.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(len) = far.write(&[7; 65536]) {
            sent += len;
        }
        assert!(sent > MANY);
        let cancel = AtomicBool::new(false);
        let root = std::process::id() as i32;
        let request = HoldRequest { root, reaper: None, timeout: Duration::ZERO, cancel: &cancel };
        let reserve = Reserve::ahead(&request);
        let there = |reserve: &Reserve| reserve.0.lock().unwrap().values().map(Vec::len).sum::<usize>();
        let before = there(&reserve);
        assert!(before >= 1);
        assert!(reserve.take(sent).room() >= sent);
        assert_eq!(there(&reserve), before - 1);
        assert!(reserve.take(MOST).room() >= MOST);
        assert_eq!(there(&reserve), before - 1);
    }

    #[test]
    fn names_of_links() {
        assert_eq!(inode(b"socket:[4711]"), Some(4711));
        assert_eq!(inode(b"pipe:[4711]"), None);
    }
}
