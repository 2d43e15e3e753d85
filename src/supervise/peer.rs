//! One client of a supervisor.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::protocol::{LONGEST_REQUEST, Reply, Request, line};
use super::{Failure, FailureKind};
use crate::sys::unixfd;

/// A connection; never blocks.
#[derive(Debug)]
pub struct Peer {
    stream: UnixStream,
    received: Vec<u8>,
    descriptor: Option<OwnedFd>,
    unsent: Vec<u8>,
    hostile: bool,
    ended: bool,
}

impl Peer {
    /// Takes a connection; `None` if whoever made it isn't our user or root.
    pub fn admit(stream: UnixStream) -> Option<Peer> {
        let uid = super::client::peer_of(&stream).ok()?.uid;
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return None;
        }
        stream.set_nonblocking(true).ok()?;
        let (received, unsent) = (Vec::new(), Vec::new());
        Some(Peer { stream, received, descriptor: None, unsent, hostile: false, ended: false })
    }

    /// For poll(2).
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether something waits to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether it can say nothing more and needs no answer any more.
    pub fn is_over(&self) -> bool {
        (self.ended || self.hostile) && self.unsent.is_empty()
    }

    /// Whether the client will send nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads what is there and returns the requests that are complete. Whoever sends something else is told so,
    /// and not listened to any more.
    pub fn requests(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut buf = [0; 4096];
        while !self.ended && !self.hostile {
            match unixfd::receive(self.stream.as_fd(), &mut buf) {
                Ok((0, _)) => self.ended = true,
                Ok((len, descriptor)) => {
                    self.descriptor = descriptor.or(self.descriptor.take());
                    self.received.extend_from_slice(buf.get(..len).unwrap_or_default());
                    self.complete(&mut requests);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
        requests
    }

    fn complete(&mut self, requests: &mut Vec<Request>) {
        while let Some(end) = self.received.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(request) => requests.push(request),
                Err(error) => return self.refuse(&format!("not a request: {error}")),
            }
        }
        if self.received.len() > LONGEST_REQUEST {
            self.refuse("the request is too long");
        }
    }

    fn refuse(&mut self, text: &str) {
        self.hostile = true;
        self.received = Vec::new();
        self.send(&Reply::Failed(Failure::new(FailureKind::Usage, text, "")));
    }

    /// The descriptor that came along last, once.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Sends a reply, as far as the client takes it now; the rest by [`Peer::flush`].
    pub fn send(&mut self, reply: &Reply) {
        self.unsent.extend(line(reply));
        self.flush();
    }

    /// Sends more of what is unsent.
    pub fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.unsent = Vec::new();
                    self.ended = true;
                }
            }
        }
    }

    /// Sends the rest, waiting for the client to take it for at most a second.
    pub fn finish(mut self) {
        let patient = self.stream.set_nonblocking(false).is_ok()
            && self.stream.set_write_timeout(Some(std::time::Duration::from_secs(1))).is_ok();
        if patient {
            self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pair() -> (Peer, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Peer::admit(ours).unwrap(), theirs)
    }

    #[test]
    fn requests_may_come_in_pieces_or_together() {
        let (mut peer, mut client) = pair();
        client.write_all(b"{\"request\":").unwrap();
        assert_eq!(peer.requests(), []);
        client.write_all(b"\"status\"}\n{\"request\":\"cancel\"}\n{").unwrap();
        assert_eq!(peer.requests(), [Request::Status, Request::Cancel]);
        drop(client);
        assert_eq!(peer.requests(), []);
        assert!(peer.is_over());
    }

    #[test]
    fn endless_and_senseless_requests_are_refused() {
        let long = vec![b'x'; LONGEST_REQUEST + 4096];
        for hostile in [&b"\xff\xfe\0\n"[..], b"{}\n", b"[[[[[[\n", b"{\"request\":\"fly\"}\n", &long] {
            let (mut peer, mut client) = pair();
            client.set_nonblocking(true).unwrap();
            client.write_all(hostile).unwrap();
            assert_eq!(peer.requests(), []);
            assert!(peer.is_over());
            client.set_nonblocking(false).unwrap();
            drop(peer);
            let mut answer = String::new();
            // The socket may be reset, as we leave some of it unread; what was answered is there all the same.
            let _ = client.read_to_string(&mut answer);
            assert!(answer.starts_with(r#"{"reply":"failed","kind":"usage""#), "{answer}");
        }
    }
}
