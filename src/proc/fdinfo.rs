//! `/proc/PID/fdinfo/FD`. See proc_pid_fdinfo(5).

use super::Malformed;
use super::locks::{self, Lock};
use super::text::{decimal, hex, lines, octal, split_once, unescape_octal, words};

/// What is known of one open descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FdInfo {
    /// Read/write position in bytes.
    pub pos: u64,
    /// Access mode and status flags, with O_CLOEXEC.
    pub flags: u32,
    /// Mount it was opened through.
    pub mnt_id: i32,
    /// Its inode, on kernels that tell (5.14).
    pub ino: Option<u64>,
    /// POSIX locks of this process, and flock and OFD locks and leases of the description.
    pub locks: Vec<Lock>,
    /// What is particular to its kind.
    pub detail: Detail,
}

/// What the kernel adds for some kinds of descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// eventfd(2).
    Eventfd {
        /// Its count.
        count: u64,
        /// A number of the kernel's that tells instances apart.
        id: Option<i64>,
        /// EFD_SEMAPHORE; kernels before 6.5 don't tell.
        semaphore: Option<bool>,
    },
    /// timerfd_create(2).
    Timerfd(Timerfd),
    /// signalfd(2): signals accepted, bit n-1 for signal n.
    Signalfd(u64),
    /// epoll_create(2): what it watches, in the kernel's order.
    Epoll(Vec<Watch>),
    /// inotify(7) with at least one watch.
    Inotify(Vec<Inode>),
    /// fanotify(7).
    Fanotify(Fanotify),
    /// pidfd_open(2): the process, as we see it; -1: gone.
    Pidfd(i32),
    /// io_uring(7), unless it is at work.
    IoUring(Ring),
    /// A UNIX socket: descriptors on their way to it; of one that listens, with all connections that wait there.
    UnixSocket(u32),
}

/// An io_uring's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ring {
    /// Places for requests, less 1.
    pub sq_mask: u32,
    /// Places for completions, less 1.
    pub cq_mask: u32,
    /// Requests that the kernel has taken.
    pub sq_head: u32,
    /// Completions that it has reported.
    pub cq_tail: u32,
    /// The thread of the kernel that takes requests, by its number in the first pid namespace.
    pub sq_thread: Option<i32>,
    /// Places for registered files.
    pub files: u32,
    /// The places that are taken, with the files' names.
    pub file_names: Vec<(u32, Vec<u8>)>,
    /// Places for registered buffers.
    pub buffers: u32,
    /// The places that are taken, with address and length.
    pub buffer_places: Vec<(u32, u64, u32)>,
    /// Numbers of registered credentials, where the kernel still tells them.
    pub personalities: Vec<u16>,
    /// How it polls the network, if it does.
    pub napi: Option<Napi>,
    /// Requests that wait for a file to become ready.
    pub polls: u32,
    /// Completions that found no place.
    pub overflown: u32,
    /// Whether requests not yet taken have twice the size, where any are listed.
    pub wide_requests: Option<bool>,
    /// The same of completions, going by the first: Linux 6.18 looks for others in wrong places.
    pub wide_completions: Option<bool>,
}

/// Busy polling of the network by an io_uring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Napi {
    /// For how many nanoseconds.
    pub timeout: u64,
    /// Whether interrupts are put off for it.
    pub prefer: bool,
    /// Whether the program says of which devices.
    pub by_hand: bool,
}

/// A timerfd's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timerfd {
    /// Clock id.
    pub clock: i32,
    /// Expirations not yet read.
    pub ticks: u64,
    /// Flags of the last timerfd_settime.
    pub settime_flags: u32,
    /// Time left: seconds, nanoseconds.
    pub value: (i64, i64),
    /// Period: seconds, nanoseconds.
    pub interval: (i64, i64),
}

/// One descriptor that an epoll watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// The number it was added under.
    pub fd: i32,
    /// EPOLL* bits.
    pub events: u32,
    /// `epoll_data`.
    pub data: u64,
    /// Inode of the file.
    pub ino: u64,
    /// Device of its file system, as the kernel's own number (minor in the low 20 bits).
    pub sdev: u64,
}

/// One inode that an inotify instance watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Watch descriptor.
    pub wd: i32,
    /// The inode.
    pub ino: u64,
    /// Device of its file system, as the kernel's own number (minor in the low 20 bits).
    pub sdev: u64,
    /// IN_* bits.
    pub mask: u32,
}

/// A group of fanotify(7).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fanotify {
    /// FAN_* flags of fanotify_init(2).
    pub flags: u32,
    /// O_* flags of the descriptors in its events.
    pub event_flags: u32,
    /// Its marks, the newest first.
    pub marks: Vec<Mark>,
}

/// One mark of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// What is marked.
    pub on: Marked,
    /// FAN_MARK_EVICTABLE, FAN_MARK_IGNORE and FAN_MARK_IGNORED_SURV_MODIFY.
    pub flags: u32,
    /// FAN_* events that are reported.
    pub mask: u32,
    /// FAN_* events that are not.
    pub ignored: u32,
}

/// What fanotify(7) marks. Devices are the kernel's own numbers (minor in the low 20 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// A file or directory.
    Inode {
        /// Its number.
        ino: u64,
        /// Device of its file system.
        sdev: u64,
    },
    /// A mount, by its number in `mountinfo`.
    Mount(i32),
    /// A file system, by its device.
    FileSystem(u64),
    /// A mount namespace (Linux 6.15).
    Namespace,
}

/// Parses the text of a file in `fdinfo`.
///
/// # Errors
/// If `pos` or `flags` is missing, or a field that is there makes no sense.
pub fn parse(bytes: &[u8]) -> Result<FdInfo, Malformed> {
    let mut out = FdInfo::default();
    let mut seen = 0;
    let mut list: &[u8] = b"";
    for line in lines(bytes) {
        if let Some(watch) = line.strip_prefix(b"inotify ") {
            let watch = inode(watch).ok_or(Malformed("a watch is odd"))?;
            match &mut out.detail {
                Detail::Inotify(watches) => watches.push(watch),
                other => *other = Detail::Inotify(vec![watch]),
            }
            continue;
        }
        if let Some(line) = line.strip_prefix(b"fanotify ") {
            fanotify(&mut out.detail, line).ok_or(Malformed("a mark is odd"))?;
            continue;
        }
        if let Detail::IoUring(ring) = &mut out.detail {
            count(ring, line);
            // Of all lines only those of registered credentials are a number and no more.
            if let Some(number) = decimal(line.trim_ascii()) {
                ring.personalities.push(number);
                continue;
            }
            let is_number = |key: &[u8]| decimal::<u32>(key.trim_ascii()).is_some();
            if split_once(line, b':').is_some_and(|(place, _)| is_number(place)) {
                registered(ring, list, line.trim_ascii()).ok_or(Malformed("what is registered is odd"))?;
                continue;
            }
        }
        let Some((key, value)) = split_once(line, b':') else { continue };
        list = key;
        let value = value.trim_ascii();
        match key {
            b"pos" => seen |= 1,
            b"flags" => seen |= 2,
            _ => {}
        }
        field(&mut out, key, value).ok_or(Malformed("a field is odd"))?;
    }
    if seen != 3 {
        return Err(Malformed("pos or flags is missing"));
    }
    Ok(out)
}

fn field(out: &mut FdInfo, key: &[u8], value: &[u8]) -> Option<()> {
    match key {
        // Directories of some file systems have positions with the top bit set, shown as negative numbers.
        b"pos" => out.pos = decimal::<i64>(value)? as u64,
        b"flags" => out.flags = octal(value)?.try_into().ok()?,
        b"mnt_id" => out.mnt_id = decimal(value)?,
        b"ino" => out.ino = Some(decimal(value)?),
        b"lock" => out.locks.push(locks::lock(split_once(value, b':')?.1)?),
        b"eventfd-count" => out.detail = Detail::Eventfd { count: hex(value)?, id: None, semaphore: None },
        b"eventfd-id" => {
            if let Detail::Eventfd { id, .. } = &mut out.detail {
                *id = Some(decimal(value)?);
            }
        }
        b"eventfd-semaphore" => {
            if let Detail::Eventfd { semaphore, .. } = &mut out.detail {
                *semaphore = Some(value == b"1");
            }
        }
        b"sigmask" => out.detail = Detail::Signalfd(hex(value)?),
        b"clockid" => out.detail = Detail::Timerfd(Timerfd { clock: decimal(value)?, ..Timerfd::default() }),
        b"ticks" | b"settime flags" | b"it_value" | b"it_interval" => {
            if let Detail::Timerfd(timer) = &mut out.detail {
                match key {
                    b"ticks" => timer.ticks = decimal(value)?,
                    b"settime flags" => timer.settime_flags = octal(value)?.try_into().ok()?,
                    b"it_value" => timer.value = pair(value)?,
                    _ => timer.interval = pair(value)?,
                }
            }
        }
        b"tfd" => {
            let watch = watch(value)?;
            match &mut out.detail {
                Detail::Epoll(watches) => watches.push(watch),
                other => *other = Detail::Epoll(vec![watch]),
            }
        }
        b"scm_fds" => out.detail = Detail::UnixSocket(decimal(value)?),
        b"Pid" => out.detail = Detail::Pidfd(decimal(value)?),
        b"SqMask" => out.detail = Detail::IoUring(Ring { sq_mask: prefixed(value)?, ..Ring::default() }),
        _ => {
            if let Detail::IoUring(ring) = &mut out.detail {
                match key {
                    b"CqMask" => ring.cq_mask = prefixed(value)?,
                    b"CachedSqHead" => ring.sq_head = decimal(value)?,
                    b"CachedCqTail" => ring.cq_tail = decimal(value)?,
                    b"SqThread" if value != b"-1" => ring.sq_thread = Some(decimal(value)?),
                    b"NAPI" => ring.napi = (value == b"enabled").then(Napi::default),
                    b"UserFiles" => ring.files = decimal(value)?,
                    b"UserBufs" => ring.buffers = decimal(value)?,
                    _ => {
                        if let Some(napi) = &mut ring.napi {
                            match key {
                                b"napi tracking" => napi.by_hand = value == b"static",
                                b"napi_busy_poll_dt" => napi.timeout = decimal(value)?,
                                b"napi_prefer_busy_poll" => napi.prefer = value == b"true",
                                _ => {}
                            }
                        }
                    }
                }
            }
        }
    }
    Some(())
}

/// Lists of an io_uring: `  op=6, task_works=0` and `  user_data=7, res=0, flags=0`.
fn count(ring: &mut Ring, line: &[u8]) {
    if line.starts_with(b"  op=") {
        ring.polls += 1;
    } else if line.starts_with(b"  user_data=") {
        ring.overflown += 1;
    }
}

/// Entries behind `UserFiles` and `UserBufs`: `0: /tmp/a`, `1: <none>`, `2: 0x55b477d527a0/4096`; and behind `SQEs` and `CQEs`:
/// `0: opcode:NOP, fd:0, …, user_data:4` with `, e0:0x0, …` where it is wide, `0: user_data:4, res:0, flag:0` with `, extra1:0, …`.
fn registered(ring: &mut Ring, list: &[u8], entry: &[u8]) -> Option<()> {
    let has = |entry: &[u8], what: &[u8]| entry.windows(what.len()).any(|bytes| bytes == what);
    let place = |entry| split_once(entry, b':').and_then(|(place, what)| Some((decimal(place)?, what.trim_ascii())));
    match list {
        b"UserFiles" => {
            let (place, name) = place(entry.trim_ascii())?;
            ring.file_names.extend((name != b"<none>").then(|| (place, unescape_octal(name))));
        }
        b"UserBufs" => {
            let (place, what) = place(entry.trim_ascii())?;
            if what != b"<none>" {
                let (address, len) = split_once(what, b'/')?;
                ring.buffer_places.push((place, hex(address.strip_prefix(b"0x")?)?, decimal(len)?));
            }
        }
        b"SQEs" => ring.wide_requests = Some(has(entry, b", e0:")),
        b"CQEs" => {
            ring.wide_completions.get_or_insert(has(entry, b", extra1:"));
        }
        _ => {}
    }
    Some(())
}

/// `0x1f`.
fn prefixed(value: &[u8]) -> Option<u32> {
    hex(value.strip_prefix(b"0x")?)?.try_into().ok()
}

/// `(seconds, nanoseconds)`.
fn pair(value: &[u8]) -> Option<(i64, i64)> {
    let (seconds, nanos) = split_once(value.strip_prefix(b"(")?.strip_suffix(b")")?, b',')?;
    Some((decimal(seconds.trim_ascii())?, decimal(nanos.trim_ascii())?))
}

/// `wd:1 ino:3c4a7 sdev:fe00000 mask:2 ignored_mask:0 fhandle-bytes:8 …`
fn inode(line: &[u8]) -> Option<Inode> {
    let mut out = Inode { wd: 0, ino: 0, sdev: 0, mask: 0 };
    for word in words(line) {
        let (key, value) = split_once(word, b':')?;
        match key {
            b"wd" => out.wd = decimal(value)?,
            b"ino" => out.ino = hex(value)?,
            b"sdev" => out.sdev = hex(value)?,
            b"mask" => out.mask = hex(value)?.try_into().ok()?,
            _ => {}
        }
    }
    Some(out)
}

/// `flags:c02 event-flags:88000`, then a line for each mark: `ino:98e028 sdev:fe00000 mflags:0 mask:2 ignored_mask:20 …`,
/// `mnt_id:1e mflags:…` or `sdev:1b mflags:…` (fs/notify/fdinfo.c).
fn fanotify(detail: &mut Detail, line: &[u8]) -> Option<()> {
    let (mut flags, mut event_flags, mut ino, mut sdev, mut other) = (None, 0, None, None, None);
    let mut mark = Mark { on: Marked::Namespace, flags: 0, mask: 0, ignored: 0 };
    for word in words(line) {
        let (key, value) = split_once(word, b':')?;
        match key {
            b"flags" => flags = Some(hex(value)?.try_into().ok()?),
            b"event-flags" => event_flags = hex(value)?.try_into().ok()?,
            b"ino" => ino = Some(hex(value)?),
            b"sdev" => sdev = Some(hex(value)?),
            b"mnt_id" => other = Some(Marked::Mount(hex(value)?.try_into().ok()?)),
            b"mnt_ns" => other = Some(Marked::Namespace),
            b"mflags" => mark.flags = hex(value)?.try_into().ok()?,
            b"mask" => mark.mask = hex(value)?.try_into().ok()?,
            b"ignored_mask" => mark.ignored = hex(value)?.try_into().ok()?,
            _ => {}
        }
    }
    if let Some(flags) = flags {
        *detail = Detail::Fanotify(Fanotify { flags, event_flags, marks: Vec::new() });
        return Some(());
    }
    mark.on = match (ino, sdev, other) {
        (Some(ino), Some(sdev), None) => Marked::Inode { ino, sdev },
        (None, Some(sdev), None) => Marked::FileSystem(sdev),
        (None, None, other) => other?,
        _ => return None,
    };
    let Detail::Fanotify(group) = detail else { return None };
    group.marks.push(mark);
    Some(())
}

/// `        3 events:       19 data:                3  pos:0 ino:40f sdev:10`; the last three came with Linux 4.13.
fn watch(value: &[u8]) -> Option<Watch> {
    let mut words = words(value);
    let mut out = Watch { fd: decimal(words.next()?)?, events: 0, data: 0, ino: 0, sdev: 0 };
    while let Some(word) = words.next() {
        let (key, value) = split_once(word, b':')?;
        let value = if value.is_empty() { words.next()? } else { value };
        match key {
            b"events" => out.events = hex(value)?.try_into().ok()?,
            b"data" => out.data = hex(value)?,
            b"ino" => out.ino = hex(value)?,
            b"sdev" => out.sdev = hex(value)?,
            _ => {}
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(detail: &str) -> FdInfo {
        parse(format!("pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1039\n{detail}").as_bytes()).unwrap()
    }

    #[test]
    fn plain_file_with_a_lock() {
        let info = parse(
            b"pos:\t108791\nflags:\t0100001\nmnt_id:\t27\nino:\t10010635\nlock:\t1: FLOCK  ADVISORY  WRITE 6467 \
fe:00:10010638 0 EOF\n",
        )
        .unwrap();
        assert_eq!((info.pos, info.flags, info.mnt_id, info.ino), (108_791, 0o100_001, 27, Some(10_010_635)));
        assert_eq!(info.locks.iter().map(|l| (l.write, l.pid)).collect::<Vec<_>>(), [(true, 6467)]);
        assert_eq!(info.detail, Detail::None);
    }

    #[test]
    fn an_old_kernel_and_a_huge_position() {
        let info = parse(b"pos:\t-1\nflags:\t0100000\n").unwrap();
        assert_eq!((info.pos, info.ino, info.locks.len()), (u64::MAX, None, 0));
    }

    #[test]
    fn each_kind() {
        assert_eq!(
            with("eventfd-count:               1f\neventfd-id: 1\neventfd-semaphore: 1\n").detail,
            Detail::Eventfd { count: 31, id: Some(1), semaphore: Some(true) }
        );
        assert_eq!(
            with("eventfd-count:               1f\n").detail,
            Detail::Eventfd { count: 31, id: None, semaphore: None }
        );
        assert_eq!(
            with("clockid: 7\nticks: 3\nsettime flags: 01\nit_value: (4, 999)\nit_interval: (0, 5)\n").detail,
            Detail::Timerfd(Timerfd { clock: 7, ticks: 3, settime_flags: 1, value: (4, 999), interval: (0, 5) })
        );
        assert_eq!(with("sigmask:\t0000000000000300\n").detail, Detail::Signalfd(0x300));
        assert_eq!(
            with(
                "tfd:        3 events:       19 data:                3  pos:0 ino:40f sdev:10\n\
                 tfd:       -1 events: 80000001 data: ffffffffffffffff  pos:0 ino:1 sdev:fe00000\n"
            )
            .detail,
            Detail::Epoll(vec![
                Watch { fd: 3, events: 0x19, data: 3, ino: 0x40f, sdev: 0x10 },
                Watch { fd: -1, events: 0x8000_0001, data: u64::MAX, ino: 1, sdev: 0xfe0_0000 },
            ])
        );
        assert_eq!(
            with("tfd:        3 events:       19 data:  3\n").detail,
            Detail::Epoll(vec![Watch { fd: 3, events: 0x19, data: 3, ino: 0, sdev: 0 }])
        );
        assert_eq!(
            with(
                "inotify wd:3 ino:12413d sdev:fe00000 mask:80000002 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:3d\n\
                 inotify wd:1 ino:3c4a7 sdev:15 mask:2\n"
            )
            .detail,
            Detail::Inotify(vec![
                Inode { wd: 3, ino: 0x12_413d, sdev: 0xfe0_0000, mask: 0x8000_0002 },
                Inode { wd: 1, ino: 0x3_c4a7, sdev: 0x15, mask: 2 },
            ])
        );
        let mark = |on, flags, mask, ignored| Mark { on, flags, mask, ignored };
        let inode = Marked::Inode { ino: 0x98_e028, sdev: 0xfe0_0000 };
        let marks = vec![
            mark(inode, 0x440, 0x800_0002, 0x20),
            mark(Marked::Mount(0x1e), 0, 0x20, 0),
            mark(Marked::FileSystem(0x1b), 0, 0x20, 0),
            mark(Marked::Namespace, 0, 0x100_0000, 0),
        ];
        assert_eq!(
            with(
                "fanotify flags:c02 event-flags:88000\n\
                 fanotify ino:98e028 sdev:fe00000 mflags:440 mask:8000002 ignored_mask:20 fhandle-bytes:8 fhandle-type:1 f_handle:28\n\
                 fanotify mnt_id:1e mflags:0 mask:20 ignored_mask:0\n\
                 fanotify sdev:1b mflags:0 mask:20 ignored_mask:0\n\
                 fanotify mnt_ns:4026531841 mflags:0 mask:1000000 ignored_mask:0\n"
            )
            .detail,
            Detail::Fanotify(Fanotify { flags: 0xc02, event_flags: 0x8_8000, marks })
        );
        assert_eq!(with("Pid:\t6467\nNSpid:\t6467\n").detail, Detail::Pidfd(6467));
        let ring = Ring { sq_mask: 7, cq_mask: 15, sq_head: 9, cq_tail: 8, ..Ring::default() };
        let ring = Ring {
            files: 13,
            file_names: vec![(0, b"/tmp/a b".to_vec()), (12, b"/tmp/c".to_vec())],
            polls: 1,
            overflown: 1,
            ..ring
        };
        let napi = Napi { timeout: 50_000, prefer: true, by_hand: true };
        let ring = Ring { personalities: vec![3, 12], napi: Some(napi), ..ring };
        let ring = Ring { buffers: 3, buffer_places: vec![(0, 0x55b4, 5000)], ..ring };
        let ring = Ring { wide_requests: Some(true), wide_completions: Some(true), ..ring };
        assert_eq!(
            with(
                "SqMask:\t0x7\nSqHead:\t9\nSqTail:\t9\nCachedSqHead:\t9\nCqMask:\t0xf\nCqHead:\t8\nCqTail:\t8\n\
                 CachedCqTail:\t8\nSQEs:\t1\n    0: opcode:NOP, fd:0, flags:0, user_data:1, e0:0x0, e1:0x0\n\
                 CQEs:\t1\n    2: user_data:256, res:0, flag:8, extra1:0, extra2:0\n\nSqThread:\t-1\nSqThreadCpu:\t-1\nUserFiles:\t13\n    0: /tmp/a\\040b\n   12: /tmp/c\n\
                 UserBufs:\t3\n    0: 0x55b4/5000\n    1: <none>\nPersonalities:\n    3\n\tUid:\t\t0\t\t0\t\t0\t\t0\n\tGroups:\t\t\n\tCapEff:\t000001ffffffffff\n   12\nPollList:\n  op=6, task_works=0\nCqOverflowList:\n  user_data=7, res=0, flags=0\n\
                 NAPI:\tenabled\nnapi tracking:\tstatic\nnapi_busy_poll_dt:\t50000\nnapi_prefer_busy_poll:\ttrue\n"
            )
            .detail,
            Detail::IoUring(ring)
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(parse(b"pos:\t0\n").is_err());
        assert!(parse(b"pos:\t0\nflags:\t9\n").is_err());
        assert!(parse(b"pos:\t0\nflags:\t0\nclockid: 1\nit_value: 4, 5\n").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nothing_panics_after_each_key(
            key in proptest::sample::select(&["tfd", "it_value", "eventfd-count", "sigmask", "pos", "flags", "Pid"][..]),
            value: Vec<u8>,
        ) {
            let _ = parse(&[b"pos:\t0\nflags:\t0\nclockid: 1\n", key.as_bytes(), b":", &value[..]].concat());
        }
    }
}
