//! What every test of the real commands shares: a scene with its own directory and runtime directory, guests compiled
//! once, waiting for conditions with a deadline, and leaving nothing behind.
//!
//! A guest says `ready` on its standard output, beats into the file `beat`, and finishes when the file `go` appears (see
//! `tests/guests/guest.h`). Nothing here sleeps to give others time: it polls a condition and gives up at a deadline.
#![allow(dead_code)] // each test program uses its part of it

pub mod app;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// The search path of every program a test starts: that of the system, nothing of the person who runs the tests.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// How long a condition may take to come true.
pub fn deadline() -> Duration {
    Duration::from_secs(std::env::var("CKPT_TEST_DEADLINE").ok().and_then(|s| s.parse().ok()).unwrap_or(40))
}

/// Polls until `look` gives something; `None` at the deadline.
pub fn poll_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the tests run as root.
pub fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says that a test can't be made here; also in the file `CKPT_SKIP_LOG`, where `.ci/run` counts and lists them.
pub fn skip(name: &str, why: &str) {
    let line = format!("SKIP {name}: {why}\n");
    print!("{line}");
    if let Some(log) = std::env::var_os("CKPT_SKIP_LOG") {
        let mut log = File::options().append(true).open(log).expect("the log of skips");
        log.write_all(line.as_bytes()).expect("the log of skips");
    }
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    PATH.split(':').any(|dir| Path::new(dir).join(program).exists())
}

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// One of our four programs.
pub fn bin(name: &str) -> PathBuf {
    let built = match name {
        "ckpt" => env!("CARGO_BIN_EXE_ckpt"),
        "ckpt-run" => env!("CARGO_BIN_EXE_ckpt-run"),
        "ckpt-attach" => env!("CARGO_BIN_EXE_ckpt-attach"),
        "ckpt-resume" => env!("CARGO_BIN_EXE_ckpt-resume"),
        _ => panic!("{name} is none of our programs"),
    };
    std::env::var_os(format!("NEXTEST_BIN_EXE_{name}")).map_or_else(|| built.into(), PathBuf::from)
}

/// Where compiled programs are kept from run to run: cargo's directory for that, or one per user where we may not write there.
fn cache() -> PathBuf {
    let cargos = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let dir = match tempfile::tempfile_in(cargos) {
        Ok(_) => cargos.join("programs"),
        Err(_) => std::env::temp_dir().join(format!("ckpt-tests-{}", nix::unistd::geteuid())),
    };
    fs::create_dir_all(&dir).expect("a directory for compiled programs");
    dir
}

/// How a C program is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Build {
    /// Against the system's libc.
    Dynamic,
    /// Static, glibc.
    Static,
    /// Static, musl.
    Musl,
}

/// Compiles a C program of `tests/` (`guests/memory.c`), unless that has been done; `None` where the compiler is missing.
pub fn compile(source: &str, build: Build) -> Option<PathBuf> {
    let (compiler, flags): (&str, &[&str]) = match build {
        Build::Dynamic => ("gcc", &[]),
        Build::Static => ("gcc", &["-static"]),
        Build::Musl => ("musl-gcc", &["-static"]),
    };
    if !installed(compiler) {
        return None;
    }
    let source = checkout().join("tests").join(source);
    let stem = source.file_stem().expect("a source has a name").to_string_lossy().into_owned();
    Some(made_of(&[&source, &checkout().join("tests/guests/guest.h")], &format!("{stem}-{build:?}"), |out| {
        let mut command = Command::new(compiler);
        command.args(["-D_GNU_SOURCE", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"]).arg(out);
        command.arg(&source).args(flags).env("PATH", PATH);
        command
    }))
}

/// A program in the cache, made by a command when it is missing or older than its sources. The command writes to the path
/// it is given. Of tests that run at the same time one makes it: a program replaced while another test runs it would be a
/// deleted file to that one.
pub fn made_of(sources: &[&Path], name: &str, make: impl FnOnce(&Path) -> Command) -> PathBuf {
    let target = cache().join(name);
    let lock = File::create(cache().join(format!("{name}.lock"))).expect("a lock file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("a lock");
    let changed = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let newest = sources.iter().map(|s| changed(s).unwrap_or_else(|| panic!("{} is missing", s.display()))).max();
    if changed(&target) < newest {
        let fresh = cache().join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
        let output = make(&fresh).stdin(Stdio::null()).output().expect("the compiler starts");
        assert!(output.status.success(), "building {name}: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&fresh, &target).expect("the built program");
    }
    target
}

/// A process a test started; killed with the scene if it is still there.
pub struct Proc {
    child: Child,
    label: String,
    ended: Option<ExitStatus>,
}

impl Proc {
    /// Its id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waiting for a child");
        }
        self.ended
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            kill(Pid::from_raw(self.pid()), signal).expect("a signal to a child");
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// One test's world: a directory, its own runtime directory, and every process in it.
pub struct Scene {
    dir: tempfile::TempDir,
    /// Name of the job.
    pub name: String,
    started: std::cell::Cell<u32>,
}

impl Scene {
    /// A fresh one. `name` becomes the job's name.
    pub fn new(name: &str) -> Scene {
        close_inherited();
        nix::sys::prctl::set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER");
        let dir = tempfile::Builder::new().prefix("ckpt-").tempdir().expect("a temporary directory");
        for sub in ["work", "run", "images", "logs"] {
            fs::create_dir(dir.path().join(sub)).expect("a directory");
        }
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o700)).expect("permissions");
        Scene { dir, name: name.to_owned(), started: 0.into() }
    }

    /// A path in the directory the program runs in.
    pub fn work(&self, file: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("work").join(file)
    }

    /// A path for an image.
    pub fn image(&self, file: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("images").join(file)
    }

    /// A command that runs in the working directory, in this scene's environment, with /dev/null as its input.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.work("")).stdin(Stdio::null()).env_clear().env("PATH", PATH).env("LC_ALL", "C");
        command
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
            .env("HOME", self.work(""))
            .env("TMPDIR", std::env::temp_dir());
        command
    }

    /// One of our programs, as a command.
    pub fn ckpt(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.command(bin(program));
        // What they say then is shown when a test fails.
        command.args(args).envs(std::env::var_os("CKPT_VERBOSE").map(|value| ("CKPT_VERBOSE", value)));
        command
    }

    /// Starts a command: its output goes to the file `out` in the working directory (unless it is one of ours that resumes:
    /// then to a log), its errors to a log.
    pub fn start(&self, label: &str, command: &mut Command, out: &Path) -> Proc {
        let count = self.started.get();
        self.started.set(count + 1);
        let log = File::create(self.dir.path().join("logs").join(format!("{count:02}-{label}"))).expect("a log");
        let out = File::options().write(true).create(true).truncate(false).open(out).expect("the output file");
        let child = command.stdout(out).stderr(log).spawn().unwrap_or_else(|e| panic!("{label} does not start: {e}"));
        Proc { child, label: label.to_owned(), ended: None }
    }

    /// Starts a command whose streams are set already.
    pub fn start_as_told(&self, label: &str, command: &mut Command) -> Proc {
        let child = command.spawn().unwrap_or_else(|e| panic!("{label} does not start: {e}"));
        Proc { child, label: label.to_owned(), ended: None }
    }

    /// Starts a program by itself, as nobody who knows of us would.
    pub fn start_alone(&self, argv: &[&OsStr]) -> Proc {
        let mut command = self.command(argv[0]);
        self.start("program", command.args(&argv[1..]), &self.work("out"))
    }

    /// Starts a program under `ckpt-run`.
    pub fn start_run(&self, argv: &[&OsStr]) -> Proc {
        let mut command = self.ckpt("ckpt-run", &["-n", &self.name, "--"]);
        self.start("ckpt-run", command.args(argv), &self.work("out"))
    }

    /// Starts `ckpt-resume` of an image.
    pub fn start_resume(&self, image: &Path, options: &[&str]) -> Proc {
        let mut command = self.ckpt("ckpt-resume", &["-n", &self.name]);
        self.start("ckpt-resume", command.args(options).arg(image), &self.dir.path().join("logs/resume.out"))
    }

    /// Runs a command to its end, with a deadline.
    pub fn output(&self, label: &str, command: &mut Command) -> Output {
        let out = tempfile::tempfile().expect("a temporary file");
        let err = tempfile::tempfile().expect("a temporary file");
        let child = command
            .stdout(out.try_clone().expect("dup"))
            .stderr(err.try_clone().expect("dup"))
            .spawn()
            .unwrap_or_else(|e| panic!("{label} does not start: {e}"));
        let mut child = Proc { child, label: label.to_owned(), ended: None };
        let status = self.end_of(&mut child);
        Output { status, stdout: content(out), stderr: content(err) }
    }

    /// Runs a command that must succeed.
    pub fn must(&self, label: &str, command: &mut Command) -> Output {
        let output = self.output(label, command);
        if !output.status.success() {
            self.fail(&format!("{label} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        output
    }

    /// `ckpt save` of this scene's job; must succeed.
    pub fn save(&self, image: &Path, options: &[&str]) {
        self.must("ckpt save", self.ckpt("ckpt", &["save", &self.name, "-o"]).arg(image).args(options));
        assert!(image.exists(), "{} is missing after a save that succeeded", image.display());
    }

    /// The next life of this scene's job: saved, ended and resumed.
    pub fn again(&self, image: &Path, job: &mut Proc) {
        self.save(image, &["--kill"]);
        self.end_of(job);
        *job = self.start_resume(image, &[]);
        self.beats(1, job);
    }

    /// `ckpt-attach`; must succeed.
    pub fn attach(&self, pid: i32, image: &Path, options: &[&str]) {
        self.must("ckpt-attach", self.ckpt("ckpt-attach", &[&pid.to_string(), "-o"]).arg(image).args(options));
        assert!(image.exists(), "{} is missing after a save that succeeded", image.display());
    }

    /// Waits for something, looking out for guests that complain.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let found = poll_for(deadline(), || {
            if self.work("fails.log").exists() {
                self.fail(&format!("the guest complained while we waited for {what}"));
            }
            look()
        });
        found.unwrap_or_else(|| self.fail(&format!("waited in vain for {what}")))
    }

    /// Waits for the end of a process.
    pub fn end_of(&self, proc: &mut Proc) -> ExitStatus {
        let what = format!("the end of {}", proc.label);
        poll_for(deadline(), || proc.ended()).unwrap_or_else(|| self.fail(&format!("waited in vain for {what}")))
    }

    /// After a save that failed: the program must have come to its end meanwhile, else the test fails with what was said.
    pub fn must_have_ended(&self, proc: &mut Proc, said: &str) {
        if poll_for(Duration::from_secs(5), || proc.ended()).is_none() {
            self.fail(&format!("a save failed while {} went on: {said}", proc.label));
        }
    }

    /// What is in a text file of the working directory, NULs left out (they are holes of a file written at an offset).
    pub fn text(&self, file: &str) -> String {
        let bytes = fs::read(self.work(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', "")
    }

    /// Waits until the guest is set up.
    pub fn ready(&self, proc: &mut Proc) {
        self.wait("the guest to be ready", || {
            if let Some(status) = proc.ended() {
                self.fail(&format!("{} ended before it was ready: {status}", proc.label));
            }
            self.text("out").contains("ready\n").then_some(())
        });
        for part in self.text("out").lines().filter_map(|line| line.strip_prefix("SKIP ")) {
            skip(&self.name, part);
        }
    }

    /// The guest's beat; 0 before the first.
    pub fn beat(&self) -> u64 {
        self.text("beat").trim().parse().unwrap_or(0)
    }

    /// Waits until the guest has beaten some times more.
    pub fn beats(&self, more: u64, proc: &mut Proc) {
        let from = self.beat();
        self.wait("the guest's beats", || {
            if let Some(status) = proc.ended() {
                self.fail(&format!("{} ended too early: {status}", proc.label));
            }
            (self.beat() >= from + more).then_some(())
        });
    }

    /// Makes a file that tells the guest something.
    pub fn tell(&self, file: &str) {
        File::create(self.work(file)).expect("a file in the working directory");
    }

    /// Takes back what a guest and the harness said since it was ready, for another run of the same program. The files
    /// themselves stay, as long as they were: an image may have been taken while they were open.
    pub fn forget(&self) {
        let out = self.text("out");
        let ready = out.find("ready\n").map_or(0, |at| at + "ready\n".len());
        fs::write(self.work("out"), &out[..ready]).expect("the output file");
        fs::write(self.work("beat"), format!("{:020}\n", 0)).expect("the file of beats");
        let _ = fs::remove_file(self.work("go"));
    }

    /// Tells the guest to finish; its verdict and the exit status of `proc` must be good.
    pub fn finish(&self, proc: &mut Proc) {
        self.tell("go");
        self.verdict(proc);
    }

    /// Waits for the end of a guest, and for its good verdict.
    pub fn verdict(&self, proc: &mut Proc) {
        let status = self.end_of(proc);
        let out = self.text("out");
        if !status.success() || !out.ends_with("PASS\n") || self.work("fails.log").exists() {
            self.fail(&format!("{} ended with {status}", proc.label));
        }
    }

    /// Processes of this scene that live, by pid and name: whoever has its runtime directory in the environment.
    pub fn living(&self) -> Vec<(i32, String)> {
        let mark = self.mark();
        all_pids().into_iter().filter(|&pid| marked(pid, &mark)).map(|pid| (pid, comm(pid))).collect()
    }

    /// Waits until no process of this scene lives.
    pub fn nobody_left(&self) {
        let nobody = poll_for(Duration::from_secs(10), || self.living().is_empty().then_some(()));
        if nobody.is_none() {
            self.fail(&format!("left behind: {:?}", self.living()));
        }
    }

    /// There must be no file of an unfinished image.
    pub fn no_half_image(&self) {
        let left: Vec<_> = fs::read_dir(self.image(""))
            .expect("the image directory")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        let half: Vec<_> = left.iter().filter(|n| n.to_string_lossy().contains("partial")).collect();
        assert!(half.is_empty(), "half images are left: {half:?}");
    }

    /// Ends the test with everything that was said.
    pub fn fail(&self, why: &str) -> ! {
        let mut text = format!("{}: {why}\n", self.name);
        for file in ["fails.log", "out"] {
            let _ = writeln!(text, "--- {file}: {}", tail(&self.text(file)));
        }
        let mut logs: Vec<_> =
            fs::read_dir(self.dir.path().join("logs")).expect("logs").map(|e| e.expect("a log").path()).collect();
        logs.sort();
        for log in logs {
            let _ = writeln!(
                text,
                "--- {}: {}",
                log.display(),
                tail(&String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()))
            );
        }
        let _ = writeln!(text, "--- living: {:?}", self.living());
        if std::env::var_os("CKPT_TEST_KEEP").is_some() {
            let _ = writeln!(text, "--- kept: {}", self.dir.path().display());
            // Only what is on disk; the processes go.
            let _ =
                Command::new("cp").arg("-a").arg(self.dir.path()).arg(self.dir.path().with_extension("kept")).status();
        }
        panic!("{text}");
    }

    fn mark(&self) -> Vec<u8> {
        format!("XDG_RUNTIME_DIR={}/run", self.dir.path().display()).into_bytes()
    }
}

impl Drop for Scene {
    /// Ends every process of this scene. Only direct children of ours are killed, which can't be anybody else's: orphans
    /// become our children, and a pid namespace ends with its first process.
    fn drop(&mut self) {
        let mark = self.mark();
        poll_for(Duration::from_secs(10), || {
            let ours: Vec<i32> =
                children(std::process::id() as i32).into_iter().filter(|&c| subtree_marked(c, &mark)).collect();
            for &pid in &ours {
                let pid = Pid::from_raw(pid);
                let _ = kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, Some(WaitPidFlag::empty()));
            }
            ours.is_empty().then_some(())
        });
        // IPC objects outlive whoever made them: a guest notes how to remove those it has made outside of any resume.
        for line in self.text("ipcs").lines() {
            let mut words = line.split(' ');
            let mut command = Command::new(words.next().unwrap_or_default());
            let _ = command.args(words).env("PATH", PATH).stderr(Stdio::null()).status();
        }
    }
}

/// Closes what whoever started the tests has left open to be inherited (a job server's pipes, say): a program with such
/// descriptors can't be saved, rightly. Everything the standard library opens is close-on-exec.
fn close_inherited() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let open: Vec<i32> = fs::read_dir("/proc/self/fd")
            .expect("/proc/self/fd")
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        for fd in open.into_iter().filter(|&fd| fd > 2) {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
            let flags = info.lines().find_map(|l| i32::from_str_radix(l.strip_prefix("flags:")?.trim(), 8).ok());
            if flags.is_some_and(|f| f & nix::libc::O_CLOEXEC == 0) {
                let _ = nix::unistd::close(fd);
            }
        }
    });
}

fn tail(text: &str) -> &str {
    let cut = text.len().saturating_sub(3000);
    &text[(cut..).find(|&i| text.is_char_boundary(i)).unwrap_or(0)..]
}

fn content(mut file: File) -> Vec<u8> {
    use std::io::Seek;
    let mut bytes = Vec::new();
    file.rewind().expect("rewind");
    file.read_to_end(&mut bytes).expect("reading back");
    bytes
}

fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Whether a process was started in the scene with this mark (a zombie has no environment any more).
fn marked(pid: i32, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&b| b == 0).any(|variable| variable == mark)
}

/// Direct children, of all threads.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.filter_map(|t| fs::read_to_string(t.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<i32>>()).collect()
}

fn subtree_marked(pid: i32, mark: &[u8]) -> bool {
    marked(pid, mark) || children(pid).into_iter().any(|c| subtree_marked(c, mark))
}

/// A field of /proc/PID/status, as text.
pub fn status_field(pid: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(|v| v.trim().to_owned()))
}

/// Whether a status means "died of this signal".
pub fn died_of(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}

/// A small generator of reproducible numbers.
pub struct Seeded(pub u64);

impl Seeded {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}
