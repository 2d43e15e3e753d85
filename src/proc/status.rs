//! `/proc/PID/status`. See proc_pid_status(5).

use super::Malformed;
use super::text::{decimal, hex, lines, octal, split_once, unescape, words};

/// What `/proc/PID/status` says, as far as somebody here needs it. Fields that a kernel lacks keep their default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Command name.
    pub comm: Vec<u8>,
    /// State letter.
    pub state: u8,
    /// Its process.
    pub tgid: i32,
    /// Itself.
    pub pid: i32,
    /// Parent.
    pub ppid: i32,
    /// The thread that traces it; 0: nobody.
    pub tracer: i32,
    /// Real, effective, saved, file system.
    pub uid: [u32; 4],
    /// Real, effective, saved, file system.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// Its process's id in each pid namespace, outermost (ours) first.
    pub nstgid: Vec<i32>,
    /// Its own id in each pid namespace, outermost (ours) first.
    pub nspid: Vec<i32>,
    /// Its group's.
    pub nspgid: Vec<i32>,
    /// Its session's.
    pub nssid: Vec<i32>,
    /// Set for a thread of the kernel.
    pub kthread: bool,
    /// KiB resident, all kinds.
    pub rss: u64,
    /// KiB locked in memory.
    pub locked: u64,
    /// Threads.
    pub threads: u32,
    /// Pending for the thread, bit n-1 for signal n.
    pub sig_pending: u64,
    /// Pending for the process.
    pub shared_pending: u64,
    /// Signals queued for its user, and how many may be.
    pub signals_queued: (u64, u64),
    /// Blocked.
    pub sig_blocked: u64,
    /// Ignored.
    pub sig_ignored: u64,
    /// Caught.
    pub sig_caught: u64,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub caps: [u64; 5],
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Seccomp mode: 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// CPUs it may run on, as a bit set in bytes, lowest first.
    pub cpus: Vec<u8>,
    /// Whether upper bits of addresses are ignored (LAM).
    pub tagged_addresses: bool,
    /// `x86_Thread_features` and the like name a shadow stack.
    pub shadow_stack: bool,
    /// How often it has given up the processor by itself.
    pub voluntary_switches: u64,
    /// Whether the process has an address space (threads of the kernel and zombies have none).
    pub has_memory: bool,
}

/// Parses the text of `status`.
///
/// # Errors
/// If a field that is there makes no sense, or `Pid`, `Tgid`, `PPid`, `Uid`, `Gid` or `State` is missing.
pub fn parse(bytes: &[u8]) -> Result<Status, Malformed> {
    let mut out = Status::default();
    let mut seen = 0;
    for line in lines(bytes) {
        let Some((key, value)) = split_once(line, b':') else { continue };
        let spaced = value;
        let value = value.trim_ascii();
        match key {
            b"Name" => out.comm = unescape(spaced.strip_prefix(b"\t").unwrap_or(spaced)),
            b"State" => {
                out.state = *value.first().ok_or(Malformed("no state"))?;
                seen |= 1;
            }
            b"Tgid" => {
                out.tgid = number(value)?;
                seen |= 2;
            }
            b"Pid" => {
                out.pid = number(value)?;
                seen |= 4;
            }
            b"PPid" => {
                out.ppid = number(value)?;
                seen |= 8;
            }
            b"Uid" => {
                out.uid = four(value)?;
                seen |= 16;
            }
            b"Gid" => {
                out.gid = four(value)?;
                seen |= 32;
            }
            b"TracerPid" => out.tracer = number(value)?,
            b"Groups" => out.groups = numbers(value)?,
            b"Umask" => {
                out.umask = octal(value).and_then(|mask| mask.try_into().ok()).ok_or(Malformed("an odd umask"))?;
            }
            b"NStgid" => out.nstgid = numbers(value)?,
            b"NSpid" => out.nspid = numbers(value)?,
            b"NSpgid" => out.nspgid = numbers(value)?,
            b"NSsid" => out.nssid = numbers(value)?,
            b"Kthread" => out.kthread = value == b"1",
            b"VmSize" => out.has_memory = true,
            b"VmRSS" => out.rss = words(value).next().and_then(decimal).unwrap_or(0),
            b"VmLck" => out.locked = words(value).next().and_then(decimal).unwrap_or(0),
            b"voluntary_ctxt_switches" => out.voluntary_switches = number(value)?,
            b"Threads" => out.threads = number(value)?,
            b"SigQ" => {
                let (queued, most) = split_once(value, b'/').ok_or(Malformed("no limit of queued signals"))?;
                out.signals_queued = (decimal(queued).unwrap_or(0), decimal(most).unwrap_or(u64::MAX));
            }
            b"SigPnd" => out.sig_pending = set(value)?,
            b"ShdPnd" => out.shared_pending = set(value)?,
            b"SigBlk" => out.sig_blocked = set(value)?,
            b"SigIgn" => out.sig_ignored = set(value)?,
            b"SigCgt" => out.sig_caught = set(value)?,
            b"CapInh" => out.caps[0] = set(value)?,
            b"CapPrm" => out.caps[1] = set(value)?,
            b"CapEff" => out.caps[2] = set(value)?,
            b"CapBnd" => out.caps[3] = set(value)?,
            b"CapAmb" => out.caps[4] = set(value)?,
            b"NoNewPrivs" => out.no_new_privs = value == b"1",
            b"Seccomp" => out.seccomp = number(value)?,
            b"Cpus_allowed" => out.cpus = cpu_set(value).ok_or(Malformed("an odd set of CPUs"))?,
            // On x86 all ones but with linear address masking.
            b"untag_mask" => out.tagged_addresses = !value.ends_with(b"ffffffffffffffff"),
            b"x86_Thread_features" => out.shadow_stack = words(value).any(|word| word == b"shstk"),
            _ => {}
        }
    }
    if seen != 63 {
        return Err(Malformed("a field is missing"));
    }
    Ok(out)
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Result<T, Malformed> {
    decimal(value).ok_or(Malformed("a field is not a number"))
}

fn numbers<T: std::str::FromStr>(value: &[u8]) -> Result<Vec<T>, Malformed> {
    words(value).map(number).collect()
}

fn four(value: &[u8]) -> Result<[u32; 4], Malformed> {
    numbers(value)?.try_into().map_err(|_| Malformed("not four ids"))
}

fn set(value: &[u8]) -> Result<u64, Malformed> {
    hex(value).ok_or(Malformed("a set is not hexadecimal"))
}

/// Words of 32 bits, highest first, between commas: `f,ffffffff`; the first may be shorter.
fn cpu_set(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for word in value.rsplit(|b| *b == b',') {
        out.extend(u32::try_from(hex(word)?).ok()?.to_le_bytes());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Linux 6.18, shortened.
    const GOLDEN: &[u8] = b"Name:\tmy prog\\012x: y \nUmask:\t0027\nState:\tt (tracing stop)\nTgid:\t6467\nNgid:\t0\n\
Pid:\t6468\nPPid:\t6464\nTracerPid:\t99\nUid:\t1000\t1001\t1002\t1003\nGid:\t1\t2\t3\t4\nFDSize:\t256\n\
Groups:\t24 1000 \nNStgid:\t6467\t3\nNSpid:\t6468\t4\nNSpgid:\t6464\t0\nNSsid:\t4344\t0\nKthread:\t0\n\
VmPeak:\t   17004 kB\nVmSize:\t   17004 kB\nVmRSS:\t   14140 kB\nThreads:\t2\nSigQ:\t2/96365\n\
SigPnd:\t0000000000000200\nShdPnd:\t0000000000000400\nSigBlk:\t0000000000000800\nSigIgn:\t0000000001001000\n\
SigCgt:\t8000000000000002\nCapInh:\t0000000000000001\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000003\n\
CapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000004\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n\
Cpus_allowed:\t3,80000001\nCpus_allowed_list:\t0,31-33\nx86_Thread_features:\tshstk \n";

    // Linux 4.4: no Umask, NoNewPrivs or Seccomp_filters.
    const OLD: &[u8] = b"Name:\tcat\nState:\tR (running)\nTgid:\t5\nNgid:\t0\nPid:\t5\nPPid:\t1\nTracerPid:\t0\n\
Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t64\nGroups:\t \nNStgid:\t5\nNSpid:\t5\nNSpgid:\t5\nNSsid:\t5\n\
Threads:\t1\nSigPnd:\t0000000000000000\nCpus_allowed:\tff\n";

    #[test]
    fn golden() {
        let status = parse(GOLDEN).unwrap();
        assert_eq!(status.comm, b"my prog\nx: y ");
        assert_eq!((status.state, status.tgid, status.pid, status.ppid, status.tracer), (b't', 6467, 6468, 6464, 99));
        assert_eq!((status.uid, status.gid), ([1000, 1001, 1002, 1003], [1, 2, 3, 4]));
        assert_eq!(status.groups, [24, 1000]);
        assert_eq!(status.umask, 0o27);
        assert_eq!((status.nstgid, status.nspid), (vec![6467, 3], vec![6468, 4]));
        assert_eq!((status.nspgid, status.nssid), (vec![6464, 0], vec![4344, 0]));
        assert_eq!((status.rss, status.threads, status.has_memory), (14140, 2, true));
        assert_eq!((status.sig_pending, status.shared_pending, status.sig_blocked), (0x200, 0x400, 0x800));
        assert_eq!((status.sig_ignored, status.sig_caught), (0x0100_1000, 0x8000_0000_0000_0002));
        assert_eq!(status.caps, [1, 0x1ff_ffff_ffff, 3, 0x1ff_feff_ffff, 4]);
        assert!(status.no_new_privs && status.shadow_stack && !status.kthread);
        assert_eq!(status.seccomp, 2);
        assert_eq!(status.cpus, [1, 0, 0, 0x80, 3, 0, 0, 0]);
    }

    #[test]
    fn an_old_kernel() {
        let status = parse(OLD).unwrap();
        assert_eq!((status.umask, status.no_new_privs, status.seccomp), (0, false, 0));
        assert!(!status.has_memory);
        assert_eq!(status.cpus, [0xff, 0, 0, 0]);
    }

    #[test]
    fn a_missing_id_is_an_error() {
        assert!(parse(b"Name:\tx\nState:\tR\nPid:\t1\n").is_err());
        assert!(parse(&OLD.iter().copied().filter(|b| *b != b'0').collect::<Vec<_>>()).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nothing_panics_on_broken_goldens(at in 0..GOLDEN.len(), byte: u8) {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}
