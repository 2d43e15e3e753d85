//! Terminals: ioctl_tty(2), and what waits in a pseudo-terminal.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, child, fds, socket};

/// Bytes of `struct termios2` (include/uapi/asm-generic/termbits.h).
pub const TERMIOS: usize = 44;
/// Bytes of `struct winsize`.
pub const WINSIZE: usize = 8;

const TCGETS2: libc::Ioctl = 0x802c_542au32 as libc::Ioctl;
const TCSETS2: libc::Ioctl = 0x402c_542b;
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;
const TIOCGPTLCK: libc::Ioctl = 0x8004_5439u32 as libc::Ioctl;
const TIOCGPKT: libc::Ioctl = 0x8004_5438u32 as libc::Ioctl;
const TIOCGEXCL: libc::Ioctl = 0x8004_5440u32 as libc::Ioctl;
const TIOCGPTPEER: libc::Ioctl = 0x5441;
const TIOCGDEV: libc::Ioctl = 0x8004_5432u32 as libc::Ioctl;

const OFLAG: usize = 4;
const CFLAG: usize = 8;
const LFLAG: usize = 12;
const CC: usize = 17;
const CC_LEN: usize = 19;
const ICANON: u32 = 2;
const VEOF: usize = 4;
const VTIME: usize = 5;
const VMIN: usize = 6;
const VEOL: usize = 11;
const VEOL2: usize = 16;

/// Settings of a terminal.
pub type Termios = [u8; TERMIOS];

/// N of /dev/pts/N, of a master.
///
/// # Errors
/// `ENOTTY` for anything else.
pub fn index(master: BorrowedFd<'_>) -> io::Result<u32> {
    socket::ioctl_number(master, libc::TIOCGPTN).map(|n| n as u32)
}

/// Device number of the terminal that this one is: also where it was opened as /dev/tty or /dev/console.
///
/// # Errors
/// `EIO` if it was hung up, `ENOTTY` for anything else.
pub fn device(fd: BorrowedFd<'_>) -> io::Result<u64> {
    socket::ioctl_number(fd, TIOCGDEV).map(|n| decoded(n as u32))
}

/// A device number as the kernel tells it in 32 bits (include/linux/kdev_t.h, new_encode_dev): the minor in bits 31–20 and
/// 7–0, the major in 19–8.
pub fn decoded(n: u32) -> u64 {
    libc::makedev(n >> 8 & 0xfff, (n & 0xff) | (n >> 12 & 0xf_ff00))
}

/// The terminal's settings; a master tells those of its slave.
///
/// # Errors
/// As ioctl_tty(2).
pub fn settings(fd: BorrowedFd<'_>) -> io::Result<Termios> {
    let mut out = [0; TERMIOS];
    // SAFETY: `out` has the size that this request writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TCGETS2, out.as_mut_ptr()) }.into())?;
    Ok(out)
}

/// Whether a newline is all that ends a line: of a terminal that is not raw (ONLCR of termios(3)), and of all that is none.
pub fn takes_lines(fd: BorrowedFd<'_>) -> bool {
    let output = libc::OPOST | libc::ONLCR;
    let flags = settings(fd).ok().and_then(|s| s.get(OFLAG..)?.first_chunk().map(|b| u32::from_ne_bytes(*b)));
    flags.is_none_or(|flags| flags & output == output)
}

/// Sets them, at once.
///
/// # Errors
/// As ioctl_tty(2).
pub fn set(fd: BorrowedFd<'_>, settings: &Termios) -> io::Result<()> {
    // SAFETY: `settings` has the size that this request reads.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TCSETS2, settings.as_ptr()) }.into()).map(drop)
}

/// These settings, but with every byte handed through at once, as cfmakeraw(3) has it.
pub fn raw(settings: &Termios) -> Termios {
    let mut out = *settings;
    let mut change = |at: usize, off: u32, on: u32| {
        if let Some(flags) = out.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()) {
            *flags = (u32::from_ne_bytes(*flags) & !off | on).to_ne_bytes();
        }
    };
    let line_ends = libc::INLCR | libc::IGNCR | libc::ICRNL;
    change(0, libc::IGNBRK | libc::BRKINT | libc::PARMRK | libc::ISTRIP | libc::IXON | line_ends, 0);
    change(OFLAG, libc::OPOST, 0);
    change(CFLAG, libc::CSIZE | libc::PARENB, libc::CS8);
    change(LFLAG, libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG | libc::IEXTEN, 0);
    (out[CC + VMIN], out[CC + VTIME]) = (1, 0);
    out
}

/// Rows and columns as `struct winsize` has them.
///
/// # Errors
/// As ioctl_tty(2).
pub fn size(fd: BorrowedFd<'_>) -> io::Result<[u8; WINSIZE]> {
    let mut out = [0; WINSIZE];
    // SAFETY: `out` has the size that this request writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, out.as_mut_ptr()) }.into())?;
    Ok(out)
}

/// Sets them; the foreground group gets SIGWINCH if they change.
///
/// # Errors
/// As ioctl_tty(2).
pub fn set_size(fd: BorrowedFd<'_>, size: &[u8; WINSIZE]) -> io::Result<()> {
    // SAFETY: `size` has the size that this request reads.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, size.as_ptr()) }.into()).map(drop)
}

/// The same with one row more.
pub fn taller(size: &[u8; WINSIZE]) -> [u8; WINSIZE] {
    let mut out = *size;
    if let Some(rows) = out.first_chunk_mut() {
        *rows = u16::from_ne_bytes(*rows).saturating_add(1).to_ne_bytes();
    }
    out
}

/// Whether the slave of this master is locked.
///
/// # Errors
/// As ioctl_tty(2).
pub fn is_locked(master: BorrowedFd<'_>) -> io::Result<bool> {
    socket::ioctl_number(master, TIOCGPTLCK).map(|n| n != 0)
}

/// Whether this master gets packets.
///
/// # Errors
/// As ioctl_tty(2).
pub fn gets_packets(master: BorrowedFd<'_>) -> io::Result<bool> {
    socket::ioctl_number(master, TIOCGPKT).map(|n| n != 0)
}

/// Whether nobody else may open this terminal. A slave and its master each have an answer of their own.
///
/// # Errors
/// As ioctl_tty(2).
pub fn is_exclusive(fd: BorrowedFd<'_>) -> io::Result<bool> {
    socket::ioctl_number(fd, TIOCGEXCL).map(|n| n != 0)
}

/// Locks the slave, or unlocks it.
///
/// # Errors
/// As ioctl_tty(2).
pub fn set_lock(master: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_number(master, TIOCSPTLCK, on)
}

/// Has the master get packets, or a plain stream.
///
/// # Errors
/// As ioctl_tty(2).
pub fn set_packets(master: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_number(master, libc::TIOCPKT, on)
}

fn set_number(fd: BorrowedFd<'_>, request: libc::Ioctl, on: bool) -> io::Result<()> {
    let n = libc::c_int::from(on);
    // SAFETY: callers use requests that read an int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const n) }.into()).map(drop)
}

/// Lets nobody else open the terminal any more, or everybody.
///
/// # Errors
/// As ioctl_tty(2).
pub fn set_exclusive(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let request = if on { libc::TIOCEXCL } else { libc::TIOCNXCL };
    // SAFETY: these requests take no argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request) }.into()).map(drop)
}

/// Session and foreground group of a terminal, as the caller sees their ids; 0: outside its namespace. A master tells those
/// of its slave. `None` if it is nobody's controlling terminal.
pub fn session(master: BorrowedFd<'_>) -> Option<(i32, i32)> {
    let leader = socket::ioctl_number(master, libc::TIOCGSID).ok()?;
    Some((leader, socket::ioctl_number(master, libc::TIOCGPGRP).unwrap_or(0)))
}

/// Opens the slave of a master; O_CLOEXEC is always set.
///
/// # Errors
/// As ioctl_tty(2) and open(2): `EIO` if it is locked.
pub fn open_slave(master: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    // With O_CLOEXEC among the flags the description would keep it, and /proc/PID/fdinfo show it of every descriptor
    // (ptm_open_peer in drivers/tty/pty.c).
    let flags = flags & !libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: takes flags by value.
    let fd = check(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER, flags) }.into())?;
    // SAFETY: a new descriptor, owned by nobody else.
    let slave = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    fds::fcntl(slave.as_fd(), libc::F_SETFD, libc::FD_CLOEXEC.into())?;
    Ok(slave)
}

/// Opens a slave, nobody's controlling terminal, as /dev/tty: by a session that has it for that moment.
///
/// # Errors
/// As open(2), setsid(2) and ioctl_tty(2).
pub fn open_as_controlling(slave: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers but a string literal.
    let [opened] = child::opens(0, || unsafe {
        // Who gives up a terminal gets it, as does its foreground group (disassociate_ctty in drivers/tty/tty_jobctrl.c).
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        check(libc::setsid().into())?;
        check(libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0).into())?;
        let fd = check(libc::open(c"/dev/tty".as_ptr(), flags | libc::O_NOCTTY | libc::O_CLOEXEC).into());
        // A leader that ends with its terminal has that hung up.
        check(libc::ioctl(slave.as_raw_fd(), libc::TIOCNOTTY).into())?;
        fd.map(|fd| [fd as i32])
    })?;
    Ok(opened)
}

/// What waits in a pseudo-terminal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Lines for the slave; one without a line's end was ended by the end-of-file character.
    pub lines: Vec<Vec<u8>>,
    /// What follows them.
    pub rest: Vec<u8>,
    /// Bytes for the master.
    pub output: Vec<u8>,
}

/// Takes out what waits in a pseudo-terminal that nobody else uses, by a slave of our own that does not block.
/// Settings are changed meanwhile and set back. The master must not get packets: changes would be packets, too.
///
/// # Errors
/// As read(2) and ioctl_tty(2).
pub fn take(master: BorrowedFd<'_>, slave: &mut File) -> io::Result<Waiting> {
    let saved = settings(master)?;
    let mut waiting = Waiting::default();
    if by_lines(&saved) {
        while let Some(line) = read_some(slave)? {
            waiting.lines.push(line);
        }
        let mut plain = saved;
        set_local(&mut plain, local(&saved) & !ICANON);
        set(master, &plain)?;
    }
    let rest = read_all(slave);
    set(master, &saved)?;
    waiting.rest = rest?;
    let mut master = File::from(master.try_clone_to_owned()?);
    while let Some(bytes) = read_some(&mut master)? {
        waiting.output.extend(bytes);
    }
    Ok(waiting)
}

/// Puts into a pseudo-terminal what waits in it.
///
/// # Errors
/// As write(2) and ioctl_tty(2); `WouldBlock` or `WriteZero` if it does not fit.
pub fn put(master: BorrowedFd<'_>, slave: &mut File, waiting: &Waiting) -> io::Result<()> {
    let saved = settings(master)?;
    // Nothing is echoed, nothing is a signal, an end of line or a correction, but for one end of file character.
    let mut plain = saved;
    plain[..OFLAG + 4].fill(0);
    set_local(&mut plain, local(&saved) & ICANON);
    // Other ends of line stay what they are.
    let marks = [saved[CC + VEOL], saved[CC + VEOL2]];
    plain[CC..CC + CC_LEN].fill(0);
    plain[CC + VMIN] = 1;
    (plain[CC + VEOL], plain[CC + VEOL2]) = (marks[0], marks[1]);
    let ends = |byte: u8| byte == b'\n' || (byte != 0 && marks.contains(&byte));
    let used: Vec<u8> = waiting.lines.iter().flatten().chain(&waiting.rest).copied().collect();
    let eof = (1..=255).find(|b| !ends(*b) && !used.contains(b));
    if by_lines(&saved) {
        plain[CC + VEOF] = eof.ok_or(io::ErrorKind::Unsupported)?;
    }
    let mut text = Vec::new();
    for line in &waiting.lines {
        text.extend(line);
        if !line.last().is_some_and(|b| ends(*b)) {
            text.extend(eof);
        }
    }
    text.extend(&waiting.rest);
    set(master, &plain)?;
    let done = (|| {
        slave.write_all(&waiting.output)?;
        File::from(master.try_clone_to_owned()?).write_all(&text)?;
        // The kernel brings them to the other side on its own time, but at once where somebody asks.
        let fds = [slave.as_fd(), master];
        fds.iter().try_for_each(|fd| socket::events(*fd, libc::POLLIN).map(drop))
    })();
    set(master, &saved)?;
    done
}

fn local(settings: &Termios) -> u32 {
    settings.get(LFLAG..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b))
}

fn set_local(settings: &mut Termios, flags: u32) {
    if let Some(bytes) = settings.get_mut(LFLAG..LFLAG + 4) {
        bytes.copy_from_slice(&flags.to_ne_bytes());
    }
}

/// Whether what is typed is read by lines.
pub fn by_lines(settings: &Termios) -> bool {
    local(settings) & ICANON != 0
}

/// One read, if it would not wait: of a terminal that reads by lines, a line.
fn read_some(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    if socket::events(file.as_fd(), libc::POLLIN)? & libc::POLLIN == 0 {
        return Ok(None);
    }
    let mut buf = vec![0; 8192];
    match file.read(&mut buf) {
        Ok(n) => {
            buf.truncate(n);
            Ok(Some(buf))
        }
        // Of a master whose slave was closed: nothing more.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EIO)) => Ok(None),
        Err(e) => Err(e),
    }
}

fn read_all(file: &mut File) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(bytes) = read_some(file)?.filter(|b| !b.is_empty()) {
        out.extend(bytes);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: u32 = 8;

    /// The slave does not block, as that of a save.
    fn pair() -> (OwnedFd, File) {
        let pty = nix::pty::openpty(None, None).unwrap();
        let slave = open_slave(pty.master.as_fd(), libc::O_RDWR | libc::O_NONBLOCK).unwrap();
        (pty.master, File::from(slave))
    }

    fn write(to: &OwnedFd, bytes: &[u8]) {
        File::from(to.try_clone().unwrap()).write_all(bytes).unwrap();
    }

    #[test]
    fn lines_and_their_ends_come_back() {
        let (master, mut slave) = pair();
        let mut silent = settings(master.as_fd()).unwrap();
        let flags = local(&silent) & !ECHO;
        set_local(&mut silent, flags);
        set(master.as_fd(), &silent).unwrap();
        write(&master, b"one\ntwo\x04\x04thr");
        slave.write_all(b"hello\n").unwrap();
        let before = settings(master.as_fd()).unwrap();
        let waiting = take(master.as_fd(), &mut slave).unwrap();
        assert_eq!(waiting.lines, [b"one\n".to_vec(), b"two".to_vec(), b"".to_vec()]);
        assert_eq!(waiting.rest, b"thr");
        assert_eq!(waiting.output, b"hello\r\n");
        put(master.as_fd(), &mut slave, &waiting).unwrap();
        assert_eq!(settings(master.as_fd()).unwrap(), before);
        assert_eq!(take(master.as_fd(), &mut slave).unwrap(), waiting);
    }

    #[test]
    fn every_byte_of_a_raw_terminal() {
        let (master, mut slave) = pair();
        let mut raw = settings(master.as_fd()).unwrap();
        raw[..8].fill(0);
        raw[12..16].fill(0);
        set(master.as_fd(), &raw).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
        write(&master, &bytes);
        slave.write_all(&bytes).unwrap();
        for _ in 0..2 {
            let waiting = take(master.as_fd(), &mut slave).unwrap();
            assert_eq!((&waiting.rest, &waiting.output), (&bytes, &bytes));
            put(master.as_fd(), &mut slave, &waiting).unwrap();
        }
        assert_eq!(settings(master.as_fd()).unwrap(), raw);
    }
}
