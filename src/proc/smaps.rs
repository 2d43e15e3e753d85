//! `/proc/PID/smaps`, and `/proc/PID/maps`, which is the same without the details. See proc_pid_smaps(5).

use super::Malformed;
use super::text::{decimal, hex, split_once, unescape};

/// One mapping of an address space.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mapping {
    /// First byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4.
    pub prot: u32,
    /// MAP_SHARED.
    pub shared: bool,
    /// Bytes into the file.
    pub offset: u64,
    /// Device of the file; (0, 0) without one.
    pub dev: (u32, u32),
    /// Inode of the file; 0 without one.
    pub inode: u64,
    /// Path, `[heap]`, `[anon:…]` and the like; empty: anonymous. A deleted file's ends in ` (deleted)`.
    pub name: Vec<u8>,
    /// From the `VmFlags` line; none in a `maps` text.
    pub flags: VmFlags,
    /// KiB in memory, without the zero page, and pages of hugetlbfs.
    pub resident: u64,
    /// KiB in swap.
    pub swap: u64,
    /// KiB of pages that are mapped elsewhere too.
    pub others_map: u64,
    /// Bytes of a page of the file system behind it or of the kernel's own: 4096, but for hugetlbfs.
    pub page: u64,
    /// Protection key.
    pub pkey: u32,
}

impl Mapping {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it covers nothing, as only a nonsensical text has it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its pages, if they are huge ones of hugetlbfs.
    pub fn huge(&self) -> Option<u64> {
        self.flags.has(*b"ht").then_some(self.page)
    }

    /// The name given by `PR_SET_VMA_ANON_NAME`, of `[anon:NAME]` and `[anon_shmem:NAME]`.
    pub fn anon_name(&self) -> Option<&[u8]> {
        self.name.strip_prefix(b"[anon:").or_else(|| self.name.strip_prefix(b"[anon_shmem:"))?.strip_suffix(b"]")
    }

    /// Whether there is a file (or what the kernel shows as one) behind it.
    pub fn has_file(&self) -> bool {
        self.inode != 0 || self.name.starts_with(b"/")
    }
}

/// The two-letter flags of the `VmFlags` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmFlags(u64);

/// Every flag that a kernel up to 6.18 has on x86-64; a mapping's set is a bit for each.
const MNEMONICS: [&[u8; 2]; 40] = [
    b"rd", b"wr", b"ex", b"sh", b"mr", b"mw", b"me", b"ms", b"gd", b"pf", b"dw", b"lo", b"io", b"sr", b"rr", b"dc",
    b"de", b"ac", b"nr", b"ht", b"sf", b"nl", b"ar", b"wf", b"dd", b"sd", b"mm", b"hg", b"nh", b"mg", b"um", b"uw",
    b"ui", b"ss", b"sl", b"lf", b"dp", b"gu", b"bt", b"mt",
];
const LETTERS: usize = 26;
/// The bit of each flag by its two letters; none for what is no flag. A text has ten flags for each of many mappings.
const BITS: [[u64; LETTERS]; LETTERS] = {
    let mut bits = [[0; LETTERS]; LETTERS];
    let mut at = 0;
    while at < MNEMONICS.len() {
        let [first, second] = *MNEMONICS[at];
        bits[(first - b'a') as usize][(second - b'a') as usize] = 1 << at;
        at += 1;
    }
    bits
};

impl VmFlags {
    fn bit([first, second]: [u8; 2]) -> u64 {
        let of = |letter: u8| usize::from(letter.wrapping_sub(b'a'));
        BITS.get(of(first)).and_then(|row| row.get(of(second))).copied().unwrap_or(0)
    }

    fn add(&mut self, mnemonic: &[u8]) {
        self.0 |= mnemonic.try_into().map_or(0, VmFlags::bit);
    }

    /// Whether the flag with these two letters is set, for instance `*b"io"`.
    pub fn has(self, mnemonic: [u8; 2]) -> bool {
        self.0 & VmFlags::bit(mnemonic) != 0
    }
}

/// Parses the text of `smaps` (or of `maps`) piece by piece.
#[derive(Debug, Default)]
pub struct Parser(Vec<Mapping>);

impl Parser {
    /// Takes the next lines, all of them whole.
    ///
    /// # Errors
    /// If a mapping's first line makes no sense, or mappings are not in ascending order.
    pub fn add(&mut self, lines: &[u8]) -> Result<(), Malformed> {
        let mut rest = lines;
        while !rest.is_empty() {
            let (line, then) = match memchr::memchr(b'\n', rest) {
                Some(end) => (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default()),
                None => (rest, &[][..]),
            };
            rest = then;
            match line.first() {
                None => {}
                // Detail lines start with a capital letter, addresses are in small letters.
                Some(b'A'..=b'Z') => {
                    if let Some(mapping) = self.0.last_mut() {
                        detail(mapping, line);
                    }
                }
                Some(_) => {
                    let mapping = header(line).ok_or(Malformed("the first line of a mapping is odd"))?;
                    if mapping.start >= mapping.end || self.0.last().is_some_and(|last| last.end > mapping.start) {
                        return Err(Malformed("mappings are not in ascending order"));
                    }
                    self.0.push(mapping);
                }
            }
        }
        Ok(())
    }

    /// What there was.
    pub fn mappings(self) -> Vec<Mapping> {
        self.0
    }
}

/// Parses a whole text.
///
/// # Errors
/// As [`Parser::add`].
#[cfg(test)]
pub fn parse(bytes: &[u8]) -> Result<Vec<Mapping>, Malformed> {
    let mut parser = Parser::default();
    parser.add(bytes)?;
    Ok(parser.mappings())
}

fn header(line: &[u8]) -> Option<Mapping> {
    let (range, rest) = split_once(line, b' ')?;
    let (perms, rest) = split_once(rest, b' ')?;
    let (offset, rest) = split_once(rest, b' ')?;
    let (dev, rest) = split_once(rest, b' ')?;
    // Old kernels end the line after the inode of an anonymous mapping.
    let (inode, name) = split_once(rest, b' ').unwrap_or((rest, b""));
    let (start, end) = split_once(range, b'-')?;
    let (major, minor) = split_once(dev, b':')?;
    let &[r, w, x, s] = perms else { return None };
    let bit = |set: bool, value: u32| if set { value } else { 0 };
    // Names are set off by spaces; a path starts with '/' and the kernel's own names with '['.
    let name = name.iter().position(|b| *b != b' ').and_then(|at| name.get(at..)).unwrap_or_default();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        prot: bit(r == b'r', 1) | bit(w == b'w', 2) | bit(x == b'x', 4),
        shared: s == b's',
        offset: hex(offset)?,
        dev: (hex(major)?.try_into().ok()?, hex(minor)?.try_into().ok()?),
        inode: decimal(inode)?,
        name: unescape(name),
        ..Mapping::default()
    })
}

fn detail(mapping: &mut Mapping, line: &[u8]) {
    // Only these matter; most lines are told by their first letter or two.
    match line {
        [b'V', b'm', ..] => {
            if let Some(flags) = line.strip_prefix(b"VmFlags:") {
                flags.split(|b| *b == b' ').for_each(|flag| mapping.flags.add(flag));
            }
        }
        [b'K', ..] => {
            if let Some(value) = line.strip_prefix(b"KernelPageSize:") {
                mapping.page = kib(value).saturating_mul(1024);
            }
        }
        [b'R', b's', ..] => {
            if let Some(value) = line.strip_prefix(b"Rss:") {
                mapping.resident = kib(value);
            }
        }
        [b'S', b'w', ..] => {
            if let Some(value) = line.strip_prefix(b"Swap:") {
                mapping.swap = kib(value);
            }
        }
        [b'S', b'h', ..] => {
            for name in [&b"Shared_Clean:"[..], b"Shared_Dirty:"] {
                mapping.others_map = mapping.others_map.saturating_add(line.strip_prefix(name).map_or(0, kib));
            }
        }
        [b'P', b'r', b'o', ..] => {
            if let Some(value) = line.strip_prefix(b"ProtectionKey:") {
                mapping.pkey = decimal(value.trim_ascii()).unwrap_or(0);
            }
        }
        _ => {}
    }
}

fn kib(value: &[u8]) -> u64 {
    let value = value.trim_ascii();
    decimal(value.strip_suffix(b"kB").unwrap_or(value).trim_ascii()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Linux 6.18.
    const GOLDEN: &[u8] = b"\
5597ca93a000-5597ca93b000 rw-p 00003000 fe:00 18504                      /opt/my program/bin\\012x (deleted)
Size:                  4 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   4 kB
Shared_Clean:          8 kB
Shared_Dirty:          4 kB
Private_Clean:         0 kB
Swap:                 12 kB
SwapPss:               1 kB
Locked:                0 kB
THPeligible:           0
ProtectionKey:         3
VmFlags: rd wr mr mw me ac dc 
7fbf74507000-7fbf74509000 rw-s 00000000 00:01 1056                       /dev/zero (deleted)
Size:                  8 kB
VmFlags: rd wr sh mr mw me ms sd 
7fbf74509000-7fbf7450a000 r--p 00000000 00:00 0                          [anon:arena]
VmFlags: rd mr mw me ac xx 
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Size:                  4 kB
VmFlags: ex 
";

    #[test]
    fn golden() {
        let maps = parse(GOLDEN).unwrap();
        assert_eq!(maps.len(), 4);
        let first = &maps[0];
        assert_eq!((first.start, first.end, first.len()), (0x5597_ca93_a000, 0x5597_ca93_b000, 4096));
        assert_eq!((first.prot, first.shared, first.offset), (3, false, 0x3000));
        assert_eq!((first.dev, first.inode), ((0xfe, 0), 18504));
        assert_eq!(first.name, b"/opt/my program/bin\nx (deleted)");
        assert_eq!((first.page, first.huge()), (4096, None));
        assert_eq!((first.swap, first.others_map, first.pkey), (12, 12, 3));
        assert!(first.flags.has(*b"dc") && first.flags.has(*b"ac") && !first.flags.has(*b"dd"));
        assert!(maps[1].shared && maps[1].flags.has(*b"ms") && maps[1].has_file());
        assert_eq!(maps[2].anon_name(), Some(&b"arena"[..]));
        assert!(!maps[2].has_file());
        assert_eq!(maps[3].start, 0xffff_ffff_ff60_0000);
        assert_eq!(maps[3].prot, 4);
    }

    #[test]
    fn huge_pages() {
        let text = b"7f00000000-7f00400000 rw-p 00000000 00:11 9 /anon_hugepage (deleted)\nKernelPageSize:     2048 kB\nVmFlags: rd ht\n";
        assert_eq!(parse(text).unwrap()[0].huge(), Some(2 << 20));
    }

    #[test]
    fn plain_maps_of_an_old_kernel() {
        let maps =
            parse(b"00400000-00401000 r-xp 00000000 08:01 12 /bin/a\n00601000-00602000 rw-p 00000000 00:00 0 \n")
                .unwrap();
        assert_eq!(maps[0].name, b"/bin/a");
        assert_eq!(maps[1].name, b"");
        assert_eq!(parse(b"00601000-00602000 rw-p 00000000 00:00 0\n").unwrap()[0].name, b"");
    }

    #[test]
    fn names_that_are_not_text() {
        let maps = parse(b"1000-2000 r--p 00000000 08:01 12   /tmp/\xff\xfe  two  spaces \n").unwrap();
        assert_eq!(maps[0].name, b"/tmp/\xff\xfe  two  spaces ");
    }

    #[test]
    fn nonsense_is_an_error() {
        for bad in [
            &b"2000-1000 r--p 0 08:01 12\n"[..],
            b"1000-2000 r--p 0 08:01\n",
            b"1000-3000 r--p 0 08:01 1\n2000-4000 r--p 0 08:01 1\n",
            b"hello\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nothing_panics_on_broken_goldens(at in 0..GOLDEN.len(), byte: u8, cut in 0..GOLDEN.len()) {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            bytes.truncate(cut);
            if let Ok(maps) = parse(&bytes) {
                prop_assert!(maps.iter().all(|m| !m.is_empty()));
            }
        }
    }
}
