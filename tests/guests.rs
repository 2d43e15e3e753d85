//! One guest program per kind of state, each taken through a life without us, generations of save, kill and resume,
//! saves while it goes on running, and saves by somebody who did not start it. The guests judge themselves
//! (`tests/guests/`).

mod harness;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use harness::{Build, Scene, compile, skip};
use nix::sys::signal::Signal;

/// What can't be saved, or can't be seen by the guest, before some kernel; docs/what-is-saved.md says more.
const SINCE: [(&str, (u32, u32)); 8] = [
    ("eventfd", (6, 5)),
    ("deadleader", (6, 9)),
    ("tables", (6, 9)),
    ("pidfd", (6, 9)),
    ("urgent", (6, 9)),
    ("mlock", (6, 12)),
    ("procfs", (6, 12)),
    ("unixurgent", (6, 18)),
];

/// Major and minor number of the kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn guest(name: &str, build: Build) -> Option<PathBuf> {
    if let Some((_, since)) = SINCE.iter().find(|(of, since)| *of == name && kernel() < *since) {
        skip(name, &format!("it needs Linux {}.{}", since.0, since.1));
        return None;
    }
    if FOR_ROOT.contains(&name) && !harness::root() {
        skip(name, "only root can set up what it is about");
        return None;
    }
    let program = compile(&format!("guests/{name}.c"), build);
    if program.is_none() {
        skip(name, &format!("no compiler for {build:?}"));
    }
    // It says so by its exit status: they may be forbidden.
    let no_rings =
        |program: &PathBuf| std::process::Command::new(program).arg("?").status().is_ok_and(|s| !s.success());
    if name.starts_with("uring") && program.as_ref().is_some_and(no_rings) {
        skip(name, "the kernel does not give us such a ring of io_uring, or it is not saved for root");
        return None;
    }
    program
}

/// Left to itself the guest finds nothing wrong; with its state spoilt it does.
fn undisturbed(name: &str, build: Build) {
    let Some(program) = guest(name, build) else { return };
    let scene = Scene::new(name);
    let mut alone = scene.start_alone(&[program.as_ref()]);
    scene.ready(&mut alone);
    scene.beats(20, &mut alone);
    scene.finish(&mut alone);
    drop(scene);

    let scene = Scene::new(name);
    let mut alone = scene.start_alone(&[program.as_ref()]);
    scene.ready(&mut alone);
    scene.tell("spoil");
    let complained = || scene.work("fails.log").exists().then_some(());
    let noticed = harness::poll_for(harness::deadline(), || {
        if scene.text("out").contains("spoilt\n") {
            scene.tell("go");
        }
        complained().map(|()| true).or_else(|| alone.ended().map(|_| complained().is_some()))
    });
    assert_eq!(noticed, Some(true), "{name} does not notice that its state is spoilt");
}

/// Saved, killed and resumed, again and again. `pause`: how long it stays dead.
fn generations(name: &str, build: Build, count: u64, pause: Duration) {
    let Some(program) = guest(name, build) else { return };
    let scene = Scene::new(name);
    let mut job = scene.start_run(&[program.as_ref()]);
    scene.ready(&mut job);
    for generation in 1..=count {
        scene.beats(2 + generation, &mut job);
        let image = scene.image(format!("{generation}.ckpt.tar"));
        scene.save(&image, &["--kill"]);
        let status = scene.end_of(&mut job);
        assert_eq!(status.code(), Some(85), "the supervisor of a job that was saved and ended: {status}");
        scene.nobody_left();
        std::thread::sleep(pause);
        job = scene.start_resume(&image, &[]);
    }
    scene.beats(3, &mut job);
    scene.finish(&mut job);
    scene.nobody_left();
}

/// Saved while it goes on: the original ends well, and so does every image of it (unless the files it works on have
/// moved on with the original: `replay`).
fn keep_running(name: &str, build: Build, replay: bool) {
    let Some(program) = guest(name, build) else { return };
    let scene = Scene::new(name);
    let mut job = scene.start_run(&[program.as_ref()]);
    scene.ready(&mut job);
    let images = [1, 2, 3].map(|n| scene.image(format!("{n}.ckpt.tar")));
    for image in &images {
        scene.beats(3, &mut job);
        scene.save(image, &["--keep-running"]);
    }
    scene.beats(3, &mut job);
    scene.finish(&mut job);
    scene.no_half_image();
    for image in images.iter().filter(|_| replay) {
        scene.forget();
        let mut job = scene.start_resume(image, &[]);
        scene.beats(3, &mut job);
        scene.finish(&mut job);
    }
}

/// Started by nobody of ours, saved by `ckpt-attach`, resumed, and saved again like any other.
fn attached(name: &str, build: Build) {
    let Some(program) = guest(name, build) else { return };
    let scene = Scene::new(name);
    let mut alone = scene.start_alone(&[program.as_ref()]);
    scene.ready(&mut alone);
    scene.beats(3, &mut alone);
    let first = scene.image("first.ckpt.tar");
    scene.attach(alone.pid(), &first, &["--keep-running"]);
    scene.beats(3, &mut alone);
    let second = scene.image("second.ckpt.tar");
    scene.attach(alone.pid(), &second, &["--kill"]);
    let status = scene.end_of(&mut alone);
    assert!(harness::died_of(status, Signal::SIGKILL), "after --kill: {status}");
    scene.nobody_left();
    let mut job = scene.start_resume(&second, &[]);
    scene.beats(3, &mut job);
    let third = scene.image("third.ckpt.tar");
    scene.save(&third, &["--kill"]);
    assert_eq!(scene.end_of(&mut job).code(), Some(85));
    let mut job = scene.start_resume(&third, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
    scene.nobody_left();
}

/// What an ordinary user can't set up.
const FOR_ROOT: [&str; 6] = ["credentials", "deadline", "jail", "packetsocks", "rawip", "seccomp"];

macro_rules! guests {
    ($($name:ident: $replay:literal,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn undisturbed() {
                super::undisturbed(stringify!($name), Build::Dynamic);
            }

            #[test]
            fn generations() {
                super::generations(stringify!($name), Build::Dynamic, 3, Duration::ZERO);
            }

            #[test]
            fn keep_running() {
                super::keep_running(stringify!($name), Build::Dynamic, $replay);
            }

            #[test]
            fn attached() {
                super::attached(stringify!($name), Build::Dynamic);
            }
        }
    )*};
}

// false: the guest's files move on with the original, so an older image can't be taken up again.
guests! {
    memory: true,
    maps: true,
    heap: true,
    stack: true,
    filemap: false,
    deletedmap: true,
    shmanon: true,
    reordered: true,
    large: true,
    registers: true,
    threads: true,
    deadleader: true,
    locks: true,
    rseq: true,
    sigactions: true,
    pending: true,
    sigqueue: true,
    chosen: true,
    sigframe: true,
    faults: true,
    tree: true,
    zombies: true,
    stopped: true,
    ids: true,
    process: true,
    sharing: true,
    limits: true,
    switches: true,
    credentials: true,
    deadline: true,
    slices: true,
    seccomp: true,
    files: false,
    opath: true,
    deleteddirs: true,
    hardlinks: false,
    readonly: true,
    filelocks: true,
    pipes: true,
    fifos: true,
    fifomodes: true,
    packets: true,
    socketpairs: true,
    unixnames: true,
    rights: true,
    udp: true,
    rawip: true,
    netlink: true,
    packetsocks: true,
    devices: true,
    eventfd: true,
    timerfd: true,
    signalfd: true,
    epoll: true,
    pidfd: true,
    inotify: true,
    notices: true,
    listed: true,
    fanotify: false,
    uring: true,
    uringowners: true,
    uringregistered: true,
    uringnumbers: true,
    uringcreds: true,
    uringpolled: true,
    uringwide: true,
    aio: true,
    itimers: true,
    posixtimers: true,
    timersignals: true,
    cputimers: true,
    blocked: true,
    timeouts: true,
    cutshort: true,
    clocks: true,
    vfork: true,
    jit: true,
    instants: true,
    births: true,
    takeover: true,
    madvise: true,
    thp: true,
    guards: true,
    pkeys: true,
    mempolicy: true,
    sockopts: false,
    tcp: false,
    earlybytes: false,
    earlymessages: false,
    earlysenders: false,
    closing: false,
    urgent: false,
    unixurgent: true,
    memfd: true,
    mlock: true,
    reserved: true,
    patched: true,
    gro: false,
    grown: true,
    brk: true,
    procs: true,
    procfs: true,
    manyfds: true,
    linking: false,
    jail: false,
    sigio: true,
    forked: false,
    syscalls: true,
    sysvshm: true,
    sysvsem: true,
    sysvmsg: true,
    mqueue: true,
    mqnotify: true,
    tables: false,
    pshared: false,
    pilocks: true,
    pty: true,
}

macro_rules! other_builds {
    ($($name:ident)*) => {
        mod other_builds {
            use super::*;
            $(mod $name {
                use super::*;

                #[test]
                fn glibc_static() {
                    super::undisturbed(stringify!($name), Build::Static);
                    super::generations(stringify!($name), Build::Static, 3, Duration::ZERO);
                }

                #[test]
                fn musl() {
                    super::undisturbed(stringify!($name), Build::Musl);
                    super::generations(stringify!($name), Build::Musl, 3, Duration::ZERO);
                }
            })*
        }
    };
}

other_builds! { memory stack threads locks blocked timeouts tree syscalls mqnotify }

/// As many children as no page of a file of /proc has room for, and as many mappings as the kernel allows: what counts
/// is how many they are, and that takes its time.
#[test]
fn hundreds_of_children() {
    undisturbed("children", Build::Dynamic);
    generations("children", Build::Dynamic, 3, Duration::ZERO);
    keep_running("children", Build::Dynamic, false);
}

#[test]
fn tens_of_thousands_of_mappings() {
    undisturbed("manymaps", Build::Dynamic);
    generations("manymaps", Build::Dynamic, 3, Duration::ZERO);
    keep_running("manymaps", Build::Dynamic, true);
}

/// A program that is dead for three seconds must not see them: `--clock keep` is the default.
#[test]
fn time_stands_still_while_it_is_dead() {
    generations("clocks", Build::Dynamic, 2, Duration::from_secs(3));
}

/// With `--clock now` a resumed program has the host's clocks, with `keep` those of a time namespace.
#[test]
fn clocks_of_the_host_or_its_own() {
    let Some(program) = guest("memory", Build::Dynamic) else { return };
    let scene = Scene::new("memory");
    let mut job = scene.start_run(&[program.as_ref()]);
    scene.ready(&mut job);
    // Of its first process: whole seconds that its monotonic clock is ahead of the host's.
    let ahead = || -> i64 {
        let guest = scene.living().into_iter().find(|(_, comm)| comm.starts_with("memory")).expect("the guest");
        let text = std::fs::read_to_string(format!("/proc/{}/timens_offsets", guest.0)).expect("its offsets");
        let monotonic = text.lines().find_map(|line| line.strip_prefix("monotonic")).expect("a monotonic clock");
        monotonic.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number of seconds")
    };
    let host = ahead();
    for (clock, own) in [("keep", true), ("now", false), ("keep", true)] {
        scene.beats(1, &mut job);
        let image = scene.image(format!("{clock}.ckpt.tar"));
        let _ = std::fs::remove_file(&image);
        scene.save(&image, &["--kill"]);
        scene.end_of(&mut job);
        job = scene.start_resume(&image, &["--clock", clock]);
        scene.beats(1, &mut job);
        assert_eq!(ahead() < host, own, "--clock {clock}: {} s ahead, the host {host}", ahead());
    }
    scene.finish(&mut job);
}

/// Waits that are saved again and again end when they should, in the program that goes on and in the one that is
/// resumed: those with a time-out of their own, those whose time-out is a socket's, those for completions. They take
/// time and no processor: all at once.
#[test]
fn waits_end_when_they_should() {
    std::thread::scope(|scope| {
        for (name, count) in [("deadlines", 26), ("sockwaits", 34), ("uringwaits", 6)] {
            scope.spawn(move || waits(name, count));
        }
    });
}

/// Of a guest with so many waits at a time.
fn waits(name: &str, count: u64) {
    if guest(name, Build::Dynamic).is_none() {
        return;
    }
    undisturbed(name, Build::Dynamic);
    let Some(program) = guest(name, Build::Dynamic) else { return };
    let scene = Scene::new(name);
    let mut job = scene.start_run(&[program.as_ref()]);
    scene.ready(&mut job);
    let ends = || scene.text("ends").trim().parse::<u64>().unwrap_or(0);
    let image = scene.image("again.ckpt.tar");
    for _ in 0..20 {
        scene.beats(150, &mut job);
        scene.save(&image, &["--keep-running"]);
    }
    let round = |job: &mut harness::Proc| {
        let before = ends();
        scene.wait("a round of waits to end", || (ends() >= before + count).then_some(()));
        scene.beats(1, job);
    };
    round(&mut job);
    round(&mut job);
    // What was waited in several lives counts.
    for generation in 1..=8 {
        let image = scene.image(format!("{generation}.ckpt.tar"));
        scene.save(&image, &["--kill"]);
        scene.end_of(&mut job);
        job = scene.start_resume(&image, &[]);
        if generation % 4 == 0 {
            round(&mut job);
        } else {
            scene.beats(150, &mut job);
        }
    }
    scene.finish(&mut job);
    scene.nobody_left();
}

/// Registers are never a bit wrong, in hundreds of saves; nor is a thread in the vDSO, in the vsyscall page, between
/// two single steps or on an alternate stack ever lost, or one that is being born or dies. Now and then they are
/// resumed.
#[test]
fn hundreds_of_saves() {
    for (name, rounds) in [("registers", 15), ("instants", 10), ("births", 6)] {
        let Some(program) = guest(name, Build::Dynamic) else { return };
        let scene = Scene::new(name);
        let mut job = scene.start_run(&[program.as_ref()]);
        scene.ready(&mut job);
        let image = scene.image("again.ckpt.tar");
        for _ in 0..rounds {
            for _ in 0..10 {
                scene.save(&image, &["--keep-running"]);
            }
            scene.beats(1, &mut job);
            scene.save(&image, &["--kill"]);
            assert_eq!(
                scene.end_of(&mut job).code(),
                Some(85),
                "{name}: the supervisor of a job that was saved and ended"
            );
            job = scene.start_resume(&image, &[]);
            scene.beats(1, &mut job);
        }
        scene.finish(&mut job);
        scene.nobody_left();
    }
}

/// Which control group a program was in is nothing that comes back, but the image tells.
#[test]
fn control_groups_are_noted() {
    let Some(program) = guest("memory", Build::Dynamic) else { return };
    let scene = Scene::new("memory");
    let mut alone = scene.start_alone(&[program.as_ref()]);
    scene.ready(&mut alone);
    let image = scene.image("one.ckpt.tar");
    scene.attach(alone.pid(), &image, &["--keep-running"]);
    let mut inspect = scene.ckpt("ckpt", &["inspect"]);
    let said = scene.must("ckpt inspect", inspect.arg(&image).arg("processes.0.cgroup")).stdout;
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", alone.pid())).expect("its control groups");
    assert_eq!(serde_json::from_slice::<String>(&said).expect("a text"), group);
    scene.finish(&mut alone);
}

/// What was started stays to be seen, also of a job that was resumed from an image of a resumed one.
#[test]
fn jobs_tell_their_commands() {
    let Some(program) = guest("memory", Build::Dynamic) else { return };
    let scene = Scene::new("memory");
    let mut job = scene.start_run(&[program.as_ref(), "an".as_ref(), "argument".as_ref()]);
    scene.ready(&mut job);
    let status = || {
        let said = scene.must("ckpt ls", scene.ckpt("ckpt", &["ls"]).arg("--json")).stdout;
        let jobs: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
        assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs}");
        jobs[0].clone()
    };
    let command = status()["command"].clone();
    assert_eq!((&command[1], &command[2]), (&"an".into(), &"argument".into()));
    assert_eq!((&status()["resumed"], &status()["image"]), (&false.into(), &serde_json::Value::Null));
    for generation in 1..=2 {
        let image = scene.image(format!("{generation}.ckpt.tar"));
        scene.again(&image, &mut job);
        let image = image.to_str().expect("text");
        assert_eq!((&status()["resumed"], &status()["image"]), (&true.into(), &image.into()));
        assert_eq!(status()["command"], command);
    }
    scene.finish(&mut job);
    scene.nobody_left();
}

/// Who has logged in stays so, as far as a resume may say it: whoever has none may once.
#[test]
fn login_uids() {
    let Some(program) = guest("tree", Build::Dynamic) else { return };
    let login = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).unwrap_or_default();
    const NOBODY: &str = "4294967295";
    if login(std::process::id() as i32) != NOBODY && !harness::root() {
        return skip("login_uids", "no login uids, or we have one already");
    }
    let uid = if harness::root() { "4711".to_owned() } else { nix::unistd::getuid().to_string() };
    let scene = Scene::new("tree");
    let set = format!("echo {uid} >/proc/self/loginuid && exec \"$0\"");
    let mut job = scene.start_run(&["sh".as_ref(), "-c".as_ref(), set.as_ref(), program.as_ref()]);
    scene.ready(&mut job);
    for generation in 1..=2 {
        scene.again(&scene.image(format!("{generation}.ckpt.tar")), &mut job);
        let guests: Vec<i32> =
            scene.living().into_iter().filter(|(_, comm)| comm.starts_with("tree")).map(|(pid, _)| pid).collect();
        assert!(guests.len() > 5 && guests.iter().all(|&pid| login(pid) == uid), "{guests:?} of {uid}");
        assert_ne!(login(job.pid()), uid, "ours has changed");
    }
    scene.finish(&mut job);
    scene.nobody_left();
}

/// Two thousand threads of one process.
#[test]
fn a_crowd_of_threads() {
    let Some(program) = guest("crowd", Build::Dynamic) else { return };
    let scene = Scene::new("crowd");
    let mut job = scene.start_run(&[program.as_ref(), "2000".as_ref()]);
    scene.ready(&mut job);
    let image = scene.image("one.ckpt.tar");
    scene.beats(1, &mut job);
    scene.save(&image, &["--keep-running"]);
    for generation in 1..=2 {
        scene.beats(1, &mut job);
        let image = scene.image(format!("{generation}.ckpt.tar"));
        scene.save(&image, &["--kill"]);
        scene.end_of(&mut job);
        scene.nobody_left();
        job = scene.start_resume(&image, &[]);
    }
    scene.beats(1, &mut job);
    scene.finish(&mut job);
    scene.nobody_left();
}

/// As many sockets as the limit of open files allows, saved and resumed under that limit.
#[test]
fn sockets_up_to_the_limit() {
    let Some(program) = guest("manysockets", Build::Dynamic) else { return };
    if !harness::installed("prlimit") {
        return skip("sockets_up_to_the_limit", "no prlimit");
    }
    let scene = Scene::new("manysockets");
    let limited = |label: &str, args: &[&OsStr], out: &Path| {
        let mut command = scene.command("prlimit");
        scene.start(label, command.arg("--nofile=1500").args(args), out)
    };
    let (run, resume) = (harness::bin("ckpt-run"), harness::bin("ckpt-resume"));
    let name: [&OsStr; 2] = ["-n".as_ref(), scene.name.as_ref()];
    let argv = [&[run.as_os_str()], &name[..], &["--".as_ref(), program.as_ref()]].concat();
    let mut job = limited("ckpt-run", &argv, &scene.work("out"));
    scene.ready(&mut job);
    for generation in 1..=2 {
        scene.beats(1, &mut job);
        let image = scene.image(format!("{generation}.ckpt.tar"));
        scene.save(&image, &["--keep-running"]);
        let image = scene.image(format!("{generation}-last.ckpt.tar"));
        scene.save(&image, &["--kill"]);
        scene.end_of(&mut job);
        let argv = [&[resume.as_os_str()], &name[..], &[image.as_ref()]].concat();
        job = limited("ckpt-resume", &argv, &scene.work("resume.out"));
    }
    scene.beats(1, &mut job);
    scene.finish(&mut job);
    scene.nobody_left();
}

/// Two copies of one image, side by side.
#[test]
fn two_copies() {
    for name in ["memory", "threads", "tree"] {
        let Some(program) = guest(name, Build::Dynamic) else { return };
        let scene = Scene::new(name);
        let mut job = scene.start_run(&[program.as_ref()]);
        scene.ready(&mut job);
        scene.beats(3, &mut job);
        let image = scene.image("one.ckpt.tar");
        scene.save(&image, &["--kill"]);
        scene.end_of(&mut job);
        // Of its own accord the second takes another name.
        let resume = || {
            let mut command = scene.ckpt("ckpt-resume", &[]);
            scene.start("ckpt-resume", command.arg(&image), &scene.work("resume.out"))
        };
        let mut copies = [resume(), resume()];
        scene.wait("both copies under way", || {
            let list = scene.must("ckpt ls", &mut scene.ckpt("ckpt", &["ls", "--json"]));
            let jobs = String::from_utf8_lossy(&list.stdout).matches(&format!("\"{name}")).count();
            (jobs >= 2).then_some(())
        });
        for copy in &mut copies {
            scene.beats(3, copy);
        }
        scene.tell("go");
        for copy in &mut copies {
            scene.verdict(copy);
        }
    }
}

/// Where leaders of session and group are out of sight, as for what is started into a container: both ids are 0, and
/// stay so.
#[test]
fn leaders_out_of_sight() {
    let own_user = if harness::root() { "--mount" } else { "--map-current-user" };
    let mut command = std::process::Command::new("unshare");
    command.args([own_user, "--pid", "--fork", "--mount-proc"]);
    command.arg(std::env::current_exe().expect("this program")).args(["--exact", "ids::generations", "ids::attached"]);
    let output = command.env("PATH", harness::PATH).output().expect("unshare starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("2 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Files on mounts that are there already when the program starts: a directory that is seen at another place, too, and
/// one over another.
#[test]
fn bind_and_overlay_mounts() {
    const SCRIPT: &str = "set -e; cd \"$1\"; mount -t tmpfs tmpfs .; cd \"$1\"; mkdir lower upper work seen; $2 || exit 97; \
        export TMPDIR=\"$1/seen\"; shift 2; exec \"$@\"";
    let overlay = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr seen";
    let own_user: &[&str] = if harness::root() { &[] } else { &["--map-current-user", "--keep-caps"] };
    for mount in ["mount --bind lower seen", overlay] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = std::process::Command::new("unshare");
        command.arg("--mount").args(own_user).args(["sh", "-c", SCRIPT, "sh"]).arg(dir.path()).arg(mount);
        command.arg(std::env::current_exe().expect("this program"));
        let (passed, said) = guests_of_files(&mut command);
        if said.contains("mount: ") {
            skip("bind_and_overlay_mounts", &format!("`{mount}` fails here: {said}"));
            continue;
        }
        assert!(passed, "{mount}: {said}");
    }
}

/// Files on file systems that are read-only: this mount alone, or the whole.
#[test]
fn read_only_mounts() {
    const SCRIPT: &str = "set -e; cd \"$1\"; mkdir seen fixed; mount -t tmpfs tmpfs fixed; \
        head -c 20000 /dev/zero | tr '\\0' r >fixed/file; mount -o \"$2\",ro fixed || exit 97; \
        export TMPDIR=\"$1/seen\"; shift 2; exec \"$@\"";
    let own_user: &[&str] = if harness::root() { &[] } else { &["--map-current-user", "--keep-caps"] };
    for how in ["remount,bind", "remount"] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = std::process::Command::new("unshare");
        command.arg("--mount").args(own_user).args(["sh", "-c", SCRIPT, "sh"]).arg(dir.path()).arg(how);
        command.arg(std::env::current_exe().expect("this program"));
        command.args(["--exact", "readonly::generations", "readonly::attached"]);
        let output = command.env("PATH", harness::PATH).output().expect("unshare starts");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if said.contains("mount: ") {
            skip("read_only_mounts", &format!("`mount -o {how},ro` fails here: {said}"));
            continue;
        }
        assert!(said.contains("2 passed"), "{how}: {said}");
    }
}

/// What fanotify marks on a mount and on a file system, which takes root: on ones that nobody else uses.
#[test]
fn fanotify_on_mounts() {
    const SCRIPT: &str = "set -e; mkdir \"$1/marked\"; mount -t tmpfs tmpfs \"$1/marked\"; export TMPDIR=\"$1\"; \
        shift; exec \"$@\"";
    if !harness::root() {
        return skip("fanotify_on_mounts", "only root may mark mounts");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(dir.path());
    command.arg(std::env::current_exe().expect("this program")).args(["--test-threads=1", "fanotify::"]);
    let output = command.env("PATH", harness::PATH).output().expect("unshare starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("4 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Files below a directory whose name looks like others in /proc: with a newline and with what stands for one, not
/// UTF-8, and as if it were deleted.
#[test]
fn names_that_look_like_others() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().expect("a directory");
    let odd = dir.path().join(OsStr::from_bytes(b"a\nb \\012 \xff\xfe (deleted)"));
    std::fs::create_dir(&odd).expect("a directory");
    let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
    let (passed, said) = guests_of_files(command.env("TMPDIR", &odd));
    assert!(passed, "{said}");
}

/// Runs this program with the guests that are about files; whether all went well, and what it said.
fn guests_of_files(command: &mut std::process::Command) -> (bool, String) {
    let guests =
        ["files", "opath", "deleteddirs", "hardlinks", "filemap", "deletedmap", "linking", "fifos", "filelocks"];
    command.arg("--exact");
    command.args(guests.iter().flat_map(|guest| [format!("{guest}::generations"), format!("{guest}::attached")]));
    let output = command.env("PATH", harness::PATH).output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (said.contains(&format!("{} passed", guests.len() * 2)), said)
}

/// What processes share since a fork is in the image once, and in memory once after a resume.
#[test]
fn forks_do_not_multiply_memory() {
    let Some(program) = guest("quiet", Build::Dynamic) else { return };
    let saved = |children: &str| {
        let scene = Scene::new("quiet");
        let mut job = scene.start_run(&[program.as_ref(), "256".as_ref(), children.as_ref()]);
        scene.ready(&mut job);
        let image = scene.image("one.ckpt.tar");
        scene.save(&image, &["--kill"]);
        scene.end_of(&mut job);
        (scene, image)
    };
    let size = |image: &PathBuf| std::fs::metadata(image).expect("the image").len();
    let (scene, alone) = saved("0");
    let single = size(&alone);
    drop(scene);
    let (scene, image) = saved("3");
    let all = size(&image);
    assert!(all < single + single / 5, "{single} bytes without children, {all} with three");
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    let kib: u64 = scene.living().iter().map(|(pid, _)| proportional(*pid)).sum();
    assert!((256 << 10..307 << 10).contains(&kib), "{kib} KiB of memory for 256 MiB and three children");
    scene.finish(&mut job);
}

/// KiB of memory of a process, what it shares counted in part (smaps_rollup).
fn proportional(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// Huge pages that nobody uses, at least as many as wanted: root has them made, and puts back what was set before.
struct HugePages(Option<String>);

impl HugePages {
    const SETTING: &str = "/proc/sys/vm/nr_hugepages";

    fn free() -> u64 {
        let number = |file| {
            let text = std::fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{file}"));
            text.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        number("free_hugepages").saturating_sub(number("resv_hugepages"))
    }

    fn get(wanted: u64) -> Option<HugePages> {
        let mut out = HugePages(None);
        let missing = wanted.saturating_sub(HugePages::free());
        if missing > 0 && harness::root() {
            let before = std::fs::read_to_string(HugePages::SETTING).ok()?;
            let all = before.trim().parse::<u64>().ok()? + missing;
            out = HugePages(Some(before));
            std::fs::write(HugePages::SETTING, all.to_string()).ok()?;
        }
        (HugePages::free() >= wanted).then_some(out)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = std::fs::write(HugePages::SETTING, before);
        }
    }
}

/// Huge pages come back as huge pages; where there are none for them, that is told before anything is made.
#[test]
fn hugetlb() {
    const NAME: &str = "hugetlb";
    let Some(pages) = HugePages::get(40) else {
        return skip(NAME, "there are no 40 huge pages, and only root can have them made");
    };
    undisturbed(NAME, Build::Dynamic);
    generations(NAME, Build::Dynamic, 3, Duration::ZERO);
    keep_running(NAME, Build::Dynamic, true);
    attached(NAME, Build::Dynamic);

    let Some(program) = guest(NAME, Build::Dynamic) else { return };
    let scene = Scene::new(NAME);
    let mut job = scene.start_run(&[program.as_ref()]);
    scene.ready(&mut job);
    let image = scene.image("one.ckpt.tar");
    scene.save(&image, &["--kill"]);
    scene.end_of(&mut job);
    drop(pages);
    if HugePages::free() < 20 {
        let output = scene.output("ckpt-resume", scene.ckpt("ckpt-resume", &[]).arg(&image));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(125) || output.status.code() == Some(3), "{}: {said}", output.status);
        assert!(said.contains("huge pages of 2048 KiB") && said.contains("nr_hugepages"), "{said}");
    }
}

/// Standard streams that lead outside: the resuming command's own take their place.
#[test]
fn pipes_as_standard_streams() {
    let Some(program) = guest("ids", Build::Dynamic) else { return };
    let scene = Scene::new("ids");
    let spawn = |command: &mut std::process::Command| {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let program: &OsStr = program.as_ref();
    let mut job = spawn(scene.ckpt("ckpt-run", &["-n", "ids", "--"]).arg(program));
    scene.wait("the guest's beat", || (scene.beat() > 3).then_some(()));
    let mut said = String::new();
    for generation in 1..=3 {
        let image = scene.image(format!("{generation}.ckpt.tar"));
        scene.save(&image, &["--kill"]);
        let output = job.wait_with_output().expect("the end of the job");
        assert_eq!(output.status.code(), Some(85), "{}", String::from_utf8_lossy(&output.stderr));
        said += &String::from_utf8_lossy(&output.stdout);
        let from = scene.beat();
        job = spawn(scene.ckpt("ckpt-resume", &["-n", "ids"]).arg(&image));
        scene.wait("the guest's beat", || (scene.beat() > from + 3).then_some(()));
    }
    scene.tell("go");
    let output = job.wait_with_output().expect("the end of the job");
    said += &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "ready\nPASS\n");
    scene.nobody_left();
}

/// Holds a process, sends it signals, and lets it go.
fn signal_while_held(job: &harness::Proc, signals: &[Signal]) {
    use ckpt::tracer::{HoldRequest, hold};
    let cancel = std::sync::atomic::AtomicBool::new(false);
    let request = HoldRequest { root: job.pid(), reaper: None, timeout: Duration::from_secs(10), cancel: &cancel };
    let held = hold(&request).expect("a held guest");
    signals.iter().for_each(|signal| job.signal(*signal));
    held.release().expect("a guest that goes on");
}

/// A process of many threads that dies as the first of them is let go: its parent gets to know that, although those who had
/// held it live on.
#[test]
fn ended_by_the_first_let_go() {
    let Some(program) = guest("chosen", Build::Dynamic) else { return };
    let scene = Scene::new("chosen");
    let mut job = scene.start_alone(&[program.as_os_str()]);
    scene.ready(&mut job);
    signal_while_held(&job, &[Signal::SIGTERM]);
    assert!(harness::died_of(scene.end_of(&mut job), Signal::SIGTERM));
}

/// What comes while a process is held, or waits in its image, goes to the thread that would have taken it.
#[test]
fn signals_for_one_thread() {
    use ckpt::model::{Hex, signals::Pending};
    const SIGNALS: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];
    let Some(program) = guest("chosen", Build::Dynamic) else { return };
    let scene = Scene::new("chosen");
    let mut job = scene.start_alone(&[program.as_os_str()]);
    scene.ready(&mut job);
    for _ in 0..50 {
        signal_while_held(&job, &SIGNALS);
        scene.wait("the signals to be taken", || {
            let waiting = ckpt::proc::status(job.pid()).expect("its status").shared_pending;
            SIGNALS.iter().all(|signal| waiting >> (*signal as i32 - 1) & 1 == 0).then_some(())
        });
    }
    scene.beats(3, &mut job);
    scene.finish(&mut job);

    let scene = Scene::new("chosen");
    let mut job = scene.start_run(&[program.as_os_str()]);
    scene.ready(&mut job);
    let image = scene.image("quiet.ckpt.tar");
    scene.save(&image, &["--kill"]);
    scene.end_of(&mut job);
    let loud = scene.image("loud.ckpt.tar");
    let add = |checkpoint: &mut ckpt::model::Checkpoint| {
        let waiting = &mut checkpoint.processes[0].pending;
        waiting.retain(|p| !SIGNALS.iter().any(|signal| *signal as i32 == p.signal));
        for signal in SIGNALS {
            let info = [&(signal as i32).to_ne_bytes()[..], &[0; 124]].concat();
            waiting.push(Pending { signal: signal as i32, info: Hex(info) });
        }
    };
    ckpt::image::rewrite(&ckpt::image::Image::open(&image).expect("a good image"), &loud, add).expect("an image");
    for _ in 0..20 {
        let mut job = scene.start_resume(&loud, &[]);
        scene.beats(3, &mut job);
        scene.finish(&mut job);
        scene.nobody_left();
        scene.forget();
    }
}

/// With /dev/null on all three; and `--stdout FILE` sends the output elsewhere.
#[test]
fn null_as_standard_streams() {
    let Some(program) = guest("memory", Build::Dynamic) else { return };
    let scene = Scene::new("memory");
    let quiet = |command: &mut std::process::Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    };
    let mut job = quiet(scene.ckpt("ckpt-run", &["-n", "memory", "--"]).arg(&program));
    scene.wait("the guest's beat", || (scene.beat() > 3).then_some(()));
    let image = scene.image("one.ckpt.tar");
    scene.save(&image, &["--kill"]);
    job.wait().expect("the end of the job");
    let from = scene.beat();
    let elsewhere = scene.work("elsewhere");
    let mut job = quiet(scene.ckpt("ckpt-resume", &["-n", "memory", "--stdout"]).arg(&elsewhere).arg(&image));
    scene.wait("the guest's beat", || (scene.beat() > from + 3).then_some(()));
    scene.tell("go");
    assert!(job.wait().expect("the end of the job").success());
    assert_eq!(scene.text("elsewhere"), "PASS\n");
}
