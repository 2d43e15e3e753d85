//! Who writes the image, when, on what.

use std::fs::File;
use std::io::Read;

use crate::model::manifest::{Clocks, Cpu, FORMAT, Host, Manifest};
use crate::model::{Nanos, Pid};
use crate::sys::tasks::clock;
use crate::tracer::Held;
use crate::{proc, tracer};

use super::Error;
use super::look::root_of;

/// What can be said before the tree is held. Root, clocks and state components come from [`complete`].
pub(super) fn prepare(name: &str) -> Result<Manifest, Error> {
    let uname = nix::sys::utsname::uname().map_err(|e| Error::io("asking for", "the kernel's release")(e.into()))?;
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    let (model, flags) = cpu(&cpuinfo().map_err(Error::io("reading", "/proc/cpuinfo"))?);
    Ok(Manifest {
        schema: "ckpt.image/1".to_owned(),
        format: FORMAT,
        writer: concat!("ckpt ", env!("CARGO_PKG_VERSION")).to_owned(),
        requires: Vec::new(),
        created: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        name: name.to_owned(),
        root: Pid(0),
        host: Host { name: text(uname.nodename()), kernel: text(uname.release()), machine: text(uname.machine()) },
        cpu: Cpu { model, flags, xfeatures: 0 },
        clocks: Clocks { realtime: Nanos(0), monotonic: Nanos(0), boottime: Nanos(0) },
        page_size: 4096,
    })
}

/// Fills in what only the held tree tells; for how long it has stood still by the clocks of the image.
pub(super) fn complete(manifest: &mut Manifest, held: &Held, root: i32) -> Result<Nanos, Error> {
    let (_, root) = root_of(held, root)?;
    manifest.root = root.pid;
    if manifest.name.is_empty() {
        manifest.name = root.comm.display();
    }
    manifest.cpu.xfeatures = root.threads.first().map_or(3, |t| tracer::frame::xfeatures(&t.xstate));
    let (clocks, ours) = clocks(root.live())?;
    manifest.clocks = clocks;
    Ok(ours.less(held.stood))
}

/// The clocks as the program sees them now: its time namespace may be another than ours. And our monotonic one.
fn clocks(pid: i32) -> Result<(Clocks, Nanos), Error> {
    let read = |id| clock(id).map_err(Error::io("reading", "the clock"));
    let me = std::process::id() as i32;
    let ours = proc::timens_offsets(me).map_err(Error::proc(me))?;
    let its = proc::timens_offsets(pid).map_err(Error::proc(pid))?;
    let shift = |now: Nanos, its: i64, ours: i64| Nanos(now.0.saturating_add(its.saturating_sub(ours)));
    let monotonic = read(libc::CLOCK_MONOTONIC)?;
    let clocks = Clocks {
        realtime: read(libc::CLOCK_REALTIME)?,
        monotonic: shift(monotonic, its.monotonic, ours.monotonic),
        boottime: shift(read(libc::CLOCK_BOOTTIME)?, its.boottime, ours.boottime),
    };
    Ok((clocks, monotonic))
}

/// The first processor's part of /proc/cpuinfo: machines with hundreds of them take long to tell them all.
fn cpuinfo() -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open("/proc/cpuinfo")?.take(8 << 10).read_to_end(&mut text)?;
    Ok(text)
}

fn cpu(text: &[u8]) -> (String, Vec<String>) {
    let text = String::from_utf8_lossy(text);
    let field = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    };
    let flags = field("flags").unwrap_or_default();
    (field("model name").unwrap_or_default(), flags.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_speaks_for_all() {
        let text =
            b"processor\t: 0\nmodel name\t: Fast CPU @ 2: GHz\nflags\t\t: fpu sse2\n\nprocessor\t: 1\nflags\t: x\n";
        assert_eq!(cpu(text), ("Fast CPU @ 2: GHz".to_owned(), vec!["fpu".to_owned(), "sse2".to_owned()]));
        assert_eq!(cpu(b"\xff"), (String::new(), vec![]));
    }

    #[test]
    fn this_machine() {
        let manifest = prepare("job").unwrap();
        assert_eq!((manifest.host.machine.as_str(), manifest.format), ("x86_64", FORMAT));
        assert!(manifest.cpu.flags.iter().any(|f| f == "sse2"));
        assert!(manifest.created.ends_with('Z') && manifest.created.len() == 20, "{}", manifest.created);
    }

    #[test]
    fn clocks_of_our_own_are_our_own() {
        let before = clock(libc::CLOCK_MONOTONIC).unwrap();
        let (seen, _) = clocks(std::process::id() as i32).unwrap();
        assert!(before <= seen.monotonic && seen.monotonic <= clock(libc::CLOCK_MONOTONIC).unwrap());
    }
}
