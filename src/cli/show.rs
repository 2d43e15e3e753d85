//! `ckpt show`: what is in an image, for people.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::exit::{Exit, Outcome};
use super::table::{harmless, table};
use super::{Done, open, say, switch, units};
use crate::image::Image;
use crate::model::Hex;
use crate::model::datagram::DatagramSocket;
use crate::model::fd::{Kind, OpenFile};
use crate::model::manifest::Manifest;
use crate::model::opath::Object;
use crate::model::pidfd::Pidfd;
use crate::model::process::Process;
use crate::model::procfs::Of;
use crate::model::sockets::{Family, Socket};
use crate::model::tcp::TcpSocket;
use crate::model::tree::{Member, State, Tree};
use crate::model::unix::Link;
use crate::net::{inet, unix as names};

/// Show what is in an image
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The image, or - for standard input
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// As JSON
    #[arg(long, env = "CKPT_JSON", value_parser = switch::parse)]
    json: bool,
}

/// The JSON of `ckpt show`.
#[derive(Serialize)]
struct Shown<'a> {
    manifest: &'a Manifest,
    bytes: u64,
    tree: &'a Tree,
    processes: Vec<Summary>,
}

#[derive(Serialize)]
struct Summary {
    pid: i32,
    comm: String,
    exe: String,
    cwd: String,
    threads: usize,
    mappings: usize,
    /// Bytes of memory that the image holds for this process alone.
    memory: u64,
    fds: Vec<ShownFd>,
}

#[derive(Serialize)]
struct ShownFd {
    fd: i32,
    /// The thread that has it in a table of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<i32>,
    kind: &'static str,
    what: String,
    access: &'static str,
}

impl ShownFd {
    fn number(&self) -> String {
        self.thread.map_or_else(|| self.fd.to_string(), |thread| format!("{} of {thread}", self.fd))
    }
}

pub fn run(args: &ShowArgs) -> Done {
    let image = open::open(&args.image)?;
    let checkpoint = image.checkpoint();
    let sizes: BTreeMap<&str, u64> = image.parts().iter().map(|part| (part.name.as_str(), part.len)).collect();
    let members: BTreeMap<i32, &Member> = checkpoint.tree.members.iter().map(|it| (it.pid.0, it)).collect();
    let summaries = checkpoint.processes.iter().map(|process| {
        let comm = members.get(&process.pid.0).map(|member| member.comm.display()).unwrap_or_default();
        let memory = sizes.get(process.pid.to_string().as_str()).copied().unwrap_or_default();
        summary(process, comm, memory, &checkpoint.files)
    });
    let shown = Shown {
        manifest: &checkpoint.manifest,
        bytes: image.file().metadata().map_or(0, |meta| meta.len()),
        tree: &checkpoint.tree,
        processes: summaries.collect(),
    };
    if args.json {
        say::json(&say::with_schema("ckpt.show/1", &shown));
    } else {
        say::data(&text(&image, &shown));
    }
    Ok(Outcome::Ours(Exit::Ok))
}

fn summary(process: &Process, comm: String, memory: u64, files: &[OpenFile]) -> Summary {
    let own = process.threads.iter().filter_map(|t| Some((t.tid.0, t.table.as_ref()?)));
    let own = own.flat_map(|(tid, table)| table.fds.iter().map(move |d| (Some(tid), d)));
    let fds = process.fds.iter().map(|d| (None, d)).chain(own).filter_map(|(thread, descriptor)| {
        let file = files.get(descriptor.file as usize)?;
        let (kind, what) = describe(&file.kind);
        let access = match file.flags & 3 {
            0 => "r",
            1 => "w",
            _ => "rw",
        };
        Some(ShownFd { fd: descriptor.fd, thread, kind, what, access })
    });
    Summary {
        pid: process.pid.0,
        comm,
        exe: process.exe.path.display(),
        cwd: process.cwd.display(),
        threads: process.threads.len(),
        mappings: process.memory.vmas.len(),
        memory,
        fds: fds.collect(),
    }
}

fn describe(kind: &Kind) -> (&'static str, String) {
    match kind {
        Kind::Regular(file) => {
            let kept = match (&file.content, &file.saved) {
                (Some(_), _) => " (deleted)",
                (None, Some(_)) => " (content saved)",
                (None, None) => "",
            };
            ("file", format!("{}{kept} at {}", file.path.display(), file.offset))
        }
        Kind::Directory(directory) => {
            let deleted = if directory.deleted.is_some() { " (deleted)" } else { "" };
            ("directory", format!("{}{deleted}", directory.path.display()))
        }
        Kind::Path(place) => {
            let deleted = if matches!(place.object, Object::Named { .. }) { "" } else { " (deleted)" };
            ("path", format!("{}{deleted}", place.path.display()))
        }
        Kind::Procfs(file) => {
            let ended = if file.of == Of::Ended { " (ended)" } else { "" };
            ("proc", format!("{}{ended} at {}", file.path.display(), file.offset))
        }
        Kind::Device(device) => ("device", device.path.display()),
        Kind::Pipe(end) => {
            let name = end.fifo.as_ref().map_or_else(|| format!("pipe {}", end.pipe), |fifo| fifo.path.display());
            let held = end.content.map_or(0, |content| content.size);
            ("pipe", format!("{name}, {} in it", units::bytes(held)))
        }
        Kind::Eventfd(eventfd) => ("eventfd", format!("count {}", eventfd.count)),
        Kind::Timerfd(timerfd) => ("timerfd", format!("clock {}", timerfd.clock)),
        Kind::Signalfd(signalfd) => ("signalfd", format!("mask {:#x}", signalfd.mask)),
        Kind::Epoll(epoll) => ("epoll", units::count(epoll.targets.len(), "target", "targets")),
        Kind::Inotify(inotify) => ("inotify", units::count(inotify.watches.len(), "watch", "watches")),
        Kind::Fanotify(group) => ("fanotify", units::count(group.marks.len(), "mark", "marks")),
        Kind::Pidfd(Pidfd::Task(pid)) => ("pidfd", format!("of pid {pid}")),
        Kind::Pidfd(Pidfd::Gone { status, .. }) => ("pidfd", format!("of a process that ended ({status:#x})")),
        Kind::Mqueue(mqueue) => ("mqueue", format!("message queue {}", mqueue.queue)),
        Kind::Pty(end) => ("pty", format!("{} of terminal {}", end.end.name(), end.pty)),
        Kind::Socket(socket) => ("socket", self::socket(socket)),
        Kind::Uring(ring) => ("io_uring", format!("{} places, {} requests so far", ring.sq_entries, ring.sq_head)),
        Kind::Stdio(stdio) => {
            let stream = ["input", "output", "error"].get(usize::try_from(stdio.role).unwrap_or(usize::MAX));
            ("stdio", format!("standard {}, was {}", stream.unwrap_or(&"stream"), stdio.was))
        }
    }
}

fn tcp(tcp: &TcpSocket) -> String {
    use crate::model::tcp::{Link, State};
    let address = |bytes: &Hex| inet::address(&bytes.0).map_or_else(|| "?".to_owned(), |a| a.to_string());
    let local = address(&tcp.local);
    match &tcp.state {
        State::Idle => format!("{local}, not connected"),
        State::Listening { .. } => format!("listening on {local}"),
        State::Connecting { to } => format!("{local}, connecting to {}", address(to)),
        State::Connected { peer, link } => {
            let who = match link {
                Link::To(other) => format!("open file {other}"),
                Link::Waiting(listener) => format!("not accepted by open file {listener} yet"),
                Link::Closed => "closed".to_owned(),
                Link::Outside => "outside".to_owned(),
            };
            format!("{local} to {} ({who})", address(peer))
        }
        State::Ended { .. } => format!("{local}, ended"),
    }
}

fn datagram(kind: i32, socket: &DatagramSocket) -> String {
    let name = match (kind, socket.protocol) {
        (libc::SOCK_RAW, protocol) => format!("raw IP, protocol {protocol}"),
        (_, libc::IPPROTO_UDP) => "UDP".to_owned(),
        (_, 136) => "UDP-Lite".to_owned(),
        _ => "ICMP".to_owned(),
    };
    let address = |bytes: &Hex| inet::address(&bytes.0).map_or_else(|| "?".to_owned(), |a| a.to_string());
    let peer = socket.peer.as_ref().map_or_else(String::new, |p| format!(" to {}", address(p)));
    let groups = match socket.memberships.len() {
        0 => String::new(),
        n => format!(", {n} multicast groups"),
    };
    format!("{name} {}{peer}{groups}", address(&socket.local))
}

fn socket(socket: &Socket) -> String {
    let kind = match socket.kind {
        libc::SOCK_STREAM => "stream",
        libc::SOCK_DGRAM => "datagrams",
        libc::SOCK_SEQPACKET => "packets",
        _ => "raw",
    };
    let held = units::bytes(socket.content.map_or(0, |content| content.size));
    match &socket.family {
        Family::Unix(unix) => {
            let name = unix.bound.as_ref().map_or_else(String::new, |b| format!(" {}", names::display(&b.name)));
            let link = match (&unix.listening, unix.link) {
                (Some(listening), _) => format!("listening, {} waiting", listening.waiting.len()),
                (None, Link::None) => "not connected".to_owned(),
                (None, Link::To(other)) => format!("to open file {other}"),
                (None, Link::Waiting(other)) => format!("to be accepted by open file {other}"),
                (None, Link::Closed) => "its peer is closed".to_owned(),
                (None, Link::Outside) => "to somebody outside".to_owned(),
            };
            match unix.early.as_ref().and_then(|early| early.content) {
                Some(early) => format!("UNIX {kind}{name}, {link}, {} sent", units::bytes(early.size)),
                None => format!("UNIX {kind}{name}, {link}, {held} in it"),
            }
        }
        Family::Tcp(tcp) => match tcp.early.and_then(|early| early.content) {
            Some(early) => format!("TCP {}, {} sent", self::tcp(tcp), units::bytes(early.size)),
            None => format!("TCP {}, {held} in it", self::tcp(tcp)),
        },
        Family::Netlink(netlink) => {
            format!("netlink, protocol {}, address {}, {} groups", netlink.protocol, netlink.port, netlink.groups.len())
        }
        Family::Packet(packet) => {
            let interface = packet.interface.as_deref().unwrap_or("any interface");
            format!("packets of protocol {:#x} of {interface}", packet.protocol)
        }
        Family::Datagram(datagram) => format!("{}, {held} in it", self::datagram(socket.kind, datagram)),
    }
}

fn text(image: &Image, shown: &Shown<'_>) -> String {
    let manifest = shown.manifest;
    let memory: u64 = image.parts().iter().map(|part| part.len).sum();
    let head = [
        ("name", manifest.name.clone()),
        ("taken", format!("{} by {}", manifest.created, manifest.writer)),
        ("on", format!("{}, Linux {}, {}", manifest.host.name, manifest.host.kernel, manifest.cpu.model)),
        ("size", format!("{}, of which memory {}", units::bytes(shown.bytes), units::bytes(memory))),
        ("format", format!("{} requires [{}]", manifest.format, manifest.requires.join(", "))),
    ];
    let embedded = image.checkpoint().shared.mapped.iter().filter_map(|file| file.embedded);
    let embedded: BTreeMap<u32, u64> = embedded.map(|content| (content.id, content.size)).collect();
    let files = (!embedded.is_empty()).then(|| {
        let bytes = embedded.values().fold(0u64, |sum, size| sum.saturating_add(*size));
        format!("{}, {}", units::count(embedded.len(), "file", "files"), units::bytes(bytes))
    });
    let head = head.into_iter().chain(files.map(|files| ("embeds", files)));
    let mut text: String = head.map(|(key, value)| format!("{key:8}{}\n", harmless(&value))).collect();
    let memory_of: BTreeMap<i32, &Summary> = shown.processes.iter().map(|it| (it.pid, it)).collect();
    text.push('\n');
    text.push_str(&table(
        ["PID", "PPID", "PGID", "SID", "STATE", "THREADS", "MEMORY", "FDS", "COMMAND"],
        &[0, 1, 2, 3, 5, 6, 7],
        shown.tree.members.iter().map(|member| {
            let [pid, ppid, pgid, sid] = [member.pid, member.ppid, member.pgid, member.sid].map(|pid| pid.to_string());
            let state = match member.state {
                State::Alive | State::Continued => "alive".into(),
                State::Stopped { signal, .. } => format!("stopped by {signal}"),
                State::Zombie { status } => format!("zombie ({status:#x})"),
            };
            let of = memory_of.get(&member.pid.0);
            let number = |of: Option<usize>| of.map_or_else(|| "-".into(), |number| number.to_string());
            let memory = of.map_or_else(|| "-".into(), |of| units::bytes(of.memory));
            let (threads, fds) = (number(of.map(|of| of.threads)), number(of.map(|of| of.fds.len())));
            [pid, ppid, pgid, sid, state, threads, memory, fds, harmless(&member.comm.display())]
        }),
    ));
    for process in &shown.processes {
        let heading = format!("pid {} ({}): {} in {}", process.pid, process.comm, process.exe, process.cwd);
        text.push_str(&format!("\n{}\n", harmless(&heading)));
        let rows =
            process.fds.iter().map(|fd| [fd.number(), fd.access.to_owned(), fd.kind.to_owned(), harmless(&fd.what)]);
        text.push_str(&table(["FD", "ACCESS", "KIND", "WHAT"], &[0], rows));
    }
    text
}
