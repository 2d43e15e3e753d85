//! What goes wrong, and how it is told: message, exit status, the program unharmed after a save that failed, nothing left
//! behind after a resume that failed.

mod harness;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ckpt::image::{Image, rewrite};
use ckpt::model::Checkpoint;
use ckpt::model::manifest::FORMAT;
use harness::{Build, Proc, Scene, Seeded, children, compile, installed, poll_for, root, skip, status_field};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const FAILED: i32 = 1;
const REFUSED: i32 = 3;
const BAD_IMAGE: i32 = 4;
const HOST: i32 = 5;
const PERMISSION: i32 = 6;
const VANISHED: i32 = 7;
const CANNOT_RUN: i32 = 125;

/// More than any pipe holds, so that a save into one can't come to its end by itself.
const LARGE: &str = "8";

/// A compiled guest; ends the test where there is no compiler.
macro_rules! guest {
    ($name:expr) => {
        match compile(concat!("guests/", $name, ".c"), Build::Dynamic) {
            Some(program) => program,
            None => return skip(concat!("a test with the guest ", $name), "no gcc"),
        }
    };
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How a command of ours failed: its exit status, and parts of what it said.
#[track_caller]
fn failed(scene: &Scene, output: &Output, status: i32, words: &[&str]) {
    let said = stderr(output);
    let fits = output.status.code() == Some(status) && words.iter().all(|word| said.contains(word));
    if !fits || !said.lines().all(|line| line.starts_with("ckpt: ") || line.starts_with("hint: ")) {
        scene.fail(&format!("{}, expected status {status} and {words:?} in: {said}", output.status));
    }
}

/// A guest that nobody of ours has started.
fn alone(scene: &Scene, program: &Path, args: &[&str]) -> Proc {
    let mut argv = vec![program.as_os_str()];
    argv.extend(args.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    let mut guest = scene.start_alone(&argv);
    scene.ready(&mut guest);
    guest
}

/// A guest under `ckpt-run`.
fn job(scene: &Scene, program: &Path, args: &[&str]) -> Proc {
    let mut argv = vec![program.as_os_str()];
    argv.extend(args.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    let mut job = scene.start_run(&argv);
    scene.ready(&mut job);
    job
}

/// After a save that failed: no half image, and a program that goes on and finds nothing wrong.
fn unharmed(scene: &Scene, guest: &mut Proc) {
    scene.no_half_image();
    scene.beats(3, guest);
    scene.finish(guest);
    scene.nobody_left();
}

/// A save that has begun to write its image into a pipe, which is full now: it can't go on before we read.
struct MidSave {
    child: Child,
    pipe: ChildStdout,
    errors: File,
}

impl MidSave {
    fn start(scene: &Scene, mut command: Command) -> MidSave {
        let errors = tempfile::tempfile().expect("a temporary file");
        command.stdout(Stdio::piped()).stderr(errors.try_clone().expect("dup"));
        let mut child = command.spawn().expect("the save starts");
        let mut pipe = child.stdout.take().expect("a pipe");
        let begun = pipe.read_exact(&mut [0; 1 << 16]);
        let save = MidSave { child, pipe, errors };
        if let Err(error) = begun {
            let output = save.end(scene);
            scene.fail(&format!("the save ended before it was cut short: {error}: {}", stderr(&output)));
        }
        save
    }

    fn attach(scene: &Scene, pid: i32) -> MidSave {
        MidSave::start(scene, scene.ckpt("ckpt-attach", &[&pid.to_string(), "-o", "-"]))
    }

    fn of_job(scene: &Scene) -> MidSave {
        MidSave::start(scene, scene.ckpt("ckpt", &["save", &scene.name, "-o", "-"]))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a signal to a child");
    }

    /// Waits for its end without reading what it writes.
    fn end(mut self, scene: &Scene) -> Output {
        use std::io::Seek;
        let ended = poll_for(harness::deadline(), || self.child.try_wait().expect("waiting for a child"));
        let Some(status) = ended else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            scene.fail("the save does not end");
        };
        let mut said = Vec::new();
        self.errors.rewind().and_then(|()| self.errors.read_to_end(&mut said)).expect("reading back");
        Output { status, stdout: Vec::new(), stderr: said }
    }

    /// Reads all it writes, and waits for its end.
    fn drain(mut self, scene: &Scene) -> Output {
        std::io::copy(&mut self.pipe, &mut std::io::sink()).expect("reading what the save writes");
        self.end(scene)
    }
}

#[test]
fn no_such_process() {
    let scene = Scene::new("nobody");
    // Above every pid_max.
    let pid = "2147483647";
    let image = scene.image("x.ckpt.tar");
    for mut command in [
        scene.ckpt("ckpt-attach", &[pid, "-o"]),
        scene.ckpt("ckpt-attach", &[pid, "--dry-run", "-o"]),
        scene.ckpt("ckpt", &["save", pid, "-o"]),
    ] {
        let output = scene.output("save", command.arg(&image));
        failed(&scene, &output, VANISHED, &["no process has pid 2147483647"]);
    }
    let output = scene.output("save", scene.ckpt("ckpt", &["save", "no-such-job", "-o"]).arg(&image));
    failed(&scene, &output, FAILED, &["no job named no-such-job", "hint: `ckpt ls`"]);
    assert_eq!(fs::read_dir(scene.image("")).expect("the image directory").count(), 0);
}

#[test]
fn a_process_that_has_ended_already() {
    let program = guest!("syscalls");
    let scene = Scene::new("zombie");
    let guest = alone(&scene, &program, &[]);
    guest.signal(Signal::SIGKILL);
    // It is a zombie until somebody waits for it.
    scene.wait("its death", || status_field(guest.pid(), "State").is_some_and(|s| s.starts_with('Z')).then_some(()));
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
    let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
    failed(&scene, &output, VANISHED, &[&format!("pid {}", guest.pid())]);
    scene.no_half_image();
}

#[test]
fn somebody_elses_process() {
    let program = guest!("syscalls");
    let scene = Scene::new("other");
    if !root() {
        if status_field(1, "Uid").is_some_and(|ids| !ids.starts_with("0\t")) {
            return skip("somebody_elses_process", "pid 1 is not root's");
        }
        let mut command = scene.ckpt("ckpt-attach", &["1", "-o"]);
        let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
        failed(
            &scene,
            &output,
            PERMISSION,
            &["pid 1: it belongs to another user (uid 0)", "hint: save it as that user"],
        );
        return scene.no_half_image();
    }
    const NOBODY: u32 = 65534;
    let mut guest = alone(&scene, &program, &[]);
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o", "-"]);
    command.uid(NOBODY).gid(NOBODY).current_dir("/").env_remove("XDG_RUNTIME_DIR");
    match command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
        Ok(child) => {
            let output = child.wait_with_output().expect("the end of the save");
            failed(&scene, &output, PERMISSION, &["it belongs to another user (uid 0)", "hint: save it as that user"]);
        }
        Err(error) => skip("somebody_elses_process", &format!("nobody can't run our programs: {error}")),
    }
    unharmed(&scene, &mut guest);
}

#[test]
fn an_undumpable_process() {
    let program = guest!("refused");
    if root() {
        return skip("an_undumpable_process", "root may save it");
    }
    let scene = Scene::new("undumpable");
    let mut guest = alone(&scene, &program, &["undumpable"]);
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
    let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
    failed(&scene, &output, PERMISSION, &[&format!("pid {}", guest.pid()), "not dumpable", "hint: save it as root"]);
    unharmed(&scene, &mut guest);
}

#[test]
fn a_process_under_seccomp() {
    let program = guest!("refused");
    if root() {
        return skip("a_process_under_seccomp", "root may save it");
    }
    let scene = Scene::new("filtered");
    let mut guest = alone(&scene, &program, &["seccomp"]);
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
    let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
    failed(&scene, &output, REFUSED, &["it is under seccomp, which only root", "hint: save it as root"]);
    unharmed(&scene, &mut guest);
}

#[test]
fn a_process_that_handles_system_calls() {
    let program = guest!("refused");
    let scene = Scene::new("dispatch");
    let mut guest = alone(&scene, &program, &["dispatch"]);
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
    let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
    failed(&scene, &output, REFUSED, &["it handles system calls itself"]);
    unharmed(&scene, &mut guest);
}

#[test]
fn yama() {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if scope.trim() != "1" || root() {
        return skip("yama", "kernel.yama.ptrace_scope is not 1 here, or we are root");
    }
    let program = guest!("syscalls");
    let scene = Scene::new("yama");
    let mut guest = alone(&scene, &program, &[]);
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
    let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
    failed(&scene, &output, PERMISSION, &["kernel.yama.ptrace_scope is 1", "hint: start the program with ckpt-run"]);
    unharmed(&scene, &mut guest);
}

#[test]
fn killed_while_held() {
    let program = guest!("syscalls");
    let scene = Scene::new("killed");
    let mut guest = alone(&scene, &program, &[LARGE]);
    let save = MidSave::attach(&scene, guest.pid());
    guest.signal(Signal::SIGKILL);
    let output = save.drain(&scene);
    failed(&scene, &output, VANISHED, &[&format!("pid {} ended during the save", guest.pid())]);
    assert!(harness::died_of(scene.end_of(&mut guest), Signal::SIGKILL));
    scene.nobody_left();
}

#[test]
fn a_job_killed_while_held() {
    let program = guest!("syscalls");
    let scene = Scene::new("killed-job");
    let mut job = job(&scene, &program, &[LARGE]);
    let guest = children(job.pid())[0];
    let save = MidSave::of_job(&scene);
    kill(Pid::from_raw(guest), Signal::SIGKILL).expect("a signal to the guest");
    let output = save.drain(&scene);
    failed(&scene, &output, VANISHED, &[&format!("pid {guest} ended during the save")]);
    assert!(harness::died_of(scene.end_of(&mut job), Signal::SIGKILL), "the supervisor dies as its program did");
    scene.nobody_left();
}

#[test]
fn one_that_does_not_stop() {
    let program = guest!("refused");
    let scene = Scene::new("stuck");
    let mut guest = alone(&scene, &program, &["vfork"]);
    let started = scene.wait("the child of vfork", || children(guest.pid()).first().copied());
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "--timeout", "300ms", "-o"]);
    let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
    let what = format!("pid {} (refused-Dynamic) does not stop; it waits in ", guest.pid());
    failed(&scene, &output, FAILED, &[&what, "hint: "]);
    let said = stderr(&output);
    let place = said.split("waits in ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let known = fs::read_to_string(format!("/proc/{}/wchan", guest.pid())).unwrap_or_default();
    let known = if known.is_empty() || known == "0" { "?".to_owned() } else { known };
    assert_eq!(place, known);
    scene.no_half_image();
    kill(Pid::from_raw(started), Signal::SIGKILL).expect("a signal to the guest's child");
    scene.verdict(&mut guest);
    scene.nobody_left();
}

#[test]
fn one_that_is_traced() {
    let program = guest!("syscalls");
    let scene = Scene::new("traced");
    let mut guest = alone(&scene, &program, &[LARGE]);
    let first = MidSave::attach(&scene, guest.pid());
    let mut second = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
    let output = scene.output("save", second.arg(scene.image("x.ckpt.tar")));
    let tracer = format!("it is traced by pid {}", first.child.id());
    failed(&scene, &output, REFUSED, &[&format!("pid {}", guest.pid()), &tracer, "hint: "]);
    scene.no_half_image();
    let output = first.drain(&scene);
    assert!(output.status.success(), "{}", stderr(&output));
    unharmed(&scene, &mut guest);
}

#[test]
fn two_saves_into_one_file() {
    let program = guest!("refused");
    let scene = Scene::new("busy");
    let mut guest = alone(&scene, &program, &["vfork"]);
    let started = scene.wait("the child of vfork", || children(guest.pid()).first().copied());
    let image = scene.image("x.ckpt.tar");
    let (pid, partial) = (guest.pid().to_string(), scene.image("x.ckpt.tar.partial"));
    let mut command = scene.ckpt("ckpt-attach", &[&pid, "--timeout", "100s", "-o"]);
    let mut first = scene.start("ckpt-attach", command.arg(&image), &scene.work("first.out"));
    scene.wait("the first save", || partial.exists().then_some(()));
    let output = scene.output("save", scene.ckpt("ckpt-attach", &[&pid, "-o"]).arg(&image));
    failed(&scene, &output, FAILED, &["x.ckpt.tar.partial is being written by another save", "hint: "]);
    assert!(partial.exists(), "the other's file is left alone");
    first.signal(Signal::SIGINT);
    assert_eq!(scene.end_of(&mut first).code(), Some(FAILED));
    scene.no_half_image();
    kill(Pid::from_raw(started), Signal::SIGKILL).expect("a signal to the guest's child");
    scene.verdict(&mut guest);
}

#[test]
fn a_full_device() {
    let program = guest!("syscalls");
    let scene = Scene::new("dev-full");
    let mut guest = alone(&scene, &program, &[LARGE]);
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "--kill", "-o", "-"]);
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let child = command.stdout(full).stderr(Stdio::piped()).spawn().expect("the save starts");
    let output = child.wait_with_output().expect("the end of the save");
    failed(&scene, &output, FAILED, &["no room to write the stream", "hint: free some space"]);
    unharmed(&scene, &mut guest);
}

/// A file system with room for 2 MiB, in namespaces of its own, and the job in there.
#[test]
fn a_full_disk() {
    let program = guest!("syscalls");
    if !can_make_namespaces() {
        return skip("a_full_disk", "no user and mount namespaces, or no unshare");
    }
    let scene = Scene::new("full");
    let mut command = scene.command("unshare");
    command.args(["-Urm", "sh", "-c", "mount -t tmpfs -o size=2m small \"$1\" && shift && exec \"$@\"", "sh"]);
    command.arg(scene.image("")).arg(harness::bin("ckpt-run")).args(["-n", "full", "--"]).arg(&program).arg(LARGE);
    let mut job = scene.start("ckpt-run", &mut command, &scene.work("out"));
    scene.ready(&mut job);
    let inside = PathBuf::from(format!("/proc/{}/root{}", job.pid(), scene.image("").display()));
    let list = || {
        fs::read_dir(&inside)
            .expect("the small file system")
            .map(|e| e.expect("an entry").file_name())
            .collect::<Vec<_>>()
    };
    let image = scene.image("x.ckpt.tar");
    for what in ["--keep-running", "--stop", "--kill"] {
        let output = scene.output("save", scene.ckpt("ckpt", &["save", "full", what, "-o"]).arg(&image));
        failed(&scene, &output, FAILED, &["no room to write", "x.ckpt.tar", "hint: free some space"]);
        assert!(list().is_empty(), "left on the full disk: {:?}", list());
        scene.beats(3, &mut job);
    }
    let elsewhere = scene.work("x.ckpt.tar");
    scene.must("save", scene.ckpt("ckpt", &["save", "full", "-o"]).arg(&elsewhere));
    scene.must("verify", scene.ckpt("ckpt", &["verify"]).arg(&elsewhere));
    unharmed(&scene, &mut job);
}

/// A library on a file system from which nothing may be executed any more.
#[test]
fn code_where_nothing_is_executed() {
    let program = guest!("syscalls");
    let scene = Scene::new("noexec");
    // Of a program that is linked with it, as our own are not.
    let maps = scene.must("cat", scene.command("cat").arg("/proc/self/maps")).stdout;
    let maps = String::from_utf8(maps).expect("text");
    let library =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.ends_with("/libc.so.6"));
    let Some(library) = library.filter(|_| can_make_namespaces()) else {
        return skip("code_where_nothing_is_executed", "no user and mount namespaces, no unshare, or no libc.so.6");
    };
    let dir = scene.work("libraries");
    fs::create_dir(&dir).expect("a directory");
    fs::copy(library, dir.join("libc.so.6")).expect("a copy");
    let path = format!("LD_LIBRARY_PATH={}", dir.display());
    let mut job = scene.start_run(&["env".as_ref(), path.as_ref(), program.as_ref()]);
    scene.ready(&mut job);
    let image = scene.image("x.ckpt.tar");
    scene.save(&image, &["--kill"]);
    scene.end_of(&mut job);
    let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,noexec \"$1\" && shift && exec \"$@\"";
    let mut command = scene.command("unshare");
    command.args(["-Urm", "sh", "-c", mount, "sh"]).arg(&dir);
    command.arg(harness::bin("ckpt-resume")).args(["--dry-run"]).arg(&image);
    let words = ["libc.so.6", "nothing on its file system may be executed (noexec)", "hint: mount it without noexec"];
    failed(&scene, &scene.output("ckpt-resume", &mut command), REFUSED, &words);
    comes_back(&scene, &image);
}

/// A file size limit is a signal (SIGXFSZ) before it is an error.
#[test]
fn a_file_size_limit() {
    let program = guest!("syscalls");
    if !installed("prlimit") {
        return skip("a_file_size_limit", "no prlimit");
    }
    let scene = Scene::new("fsize");
    let image = scene.image("x.ckpt.tar");
    let mut guest = alone(&scene, &program, &[LARGE]);
    let limited = |program: &str| {
        let mut command = scene.command("prlimit");
        command.arg("--fsize=1000000").arg(harness::bin(program));
        command
    };
    let mut command = limited("ckpt-attach");
    let output = scene.output("save", command.args([&guest.pid().to_string(), "-o"]).arg(&image));
    failed(&scene, &output, FAILED, &["no room to write", "hint: "]);
    unharmed(&scene, &mut guest);
    drop(scene);

    let scene = Scene::new("fsize");
    let image = scene.image("x.ckpt.tar");
    let mut command = scene.command("prlimit");
    command.arg("--fsize=1000000").arg(harness::bin("ckpt-run")).args(["-n", "fsize", "--"]).arg(&program).arg(LARGE);
    let mut job = scene.start("ckpt-run", &mut command, &scene.work("out"));
    scene.ready(&mut job);
    let output = scene.output("save", scene.ckpt("ckpt", &["save", "fsize", "-o"]).arg(&image));
    failed(&scene, &output, FAILED, &["no room to write", "hint: "]);
    unharmed(&scene, &mut job);
}

/// Whoever was to read the image has gone.
#[test]
fn a_reader_that_has_gone() {
    let program = guest!("syscalls");
    let scene = Scene::new("reader");
    let mut job = job(&scene, &program, &[LARGE]);
    let MidSave { child, pipe, errors } = MidSave::of_job(&scene);
    let pipe_of_another = File::open("/dev/null").expect("/dev/null");
    drop(pipe);
    let pipe = ChildStdout::from(std::os::fd::OwnedFd::from(pipe_of_another));
    let output = MidSave { child, pipe, errors }.end(&scene);
    failed(&scene, &output, FAILED, &["cannot write the stream", "Broken pipe"]);
    unharmed(&scene, &mut job);
}

/// ^C and its like while memory is being written. The pipe is full and stays so.
#[test]
fn interrupted_while_writing() {
    let program = guest!("syscalls");
    let scene = Scene::new("interrupted");
    let mut guest = alone(&scene, &program, &[LARGE]);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let save = MidSave::attach(&scene, guest.pid());
        save.signal(signal);
        let output = save.end(&scene);
        failed(&scene, &output, FAILED, &["the save was cancelled"]);
        scene.beats(3, &mut guest);
    }
    unharmed(&scene, &mut guest);
}

#[test]
fn a_jobs_save_interrupted_while_writing() {
    let program = guest!("syscalls");
    let scene = Scene::new("interrupted-job");
    let mut job = job(&scene, &program, &[LARGE]);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let save = MidSave::of_job(&scene);
        save.signal(signal);
        let output = save.end(&scene);
        failed(&scene, &output, FAILED, &["the save was cancelled"]);
        scene.beats(3, &mut job);
    }
    // The one who asked dies: nobody wants that save any more, and the program doesn't wait for it.
    let save = MidSave::of_job(&scene);
    save.signal(Signal::SIGKILL);
    scene.beats(3, &mut job);
    assert!(harness::died_of(save.end(&scene).status, Signal::SIGKILL));
    unharmed(&scene, &mut job);
}

/// The same before the tree stands still, with the file there already.
#[test]
fn interrupted_while_waiting() {
    let program = guest!("refused");
    let scene = Scene::new("waiting");
    let mut job = job(&scene, &program, &["vfork"]);
    let guest = children(job.pid())[0];
    let started = scene.wait("the child of vfork", || children(guest).first().copied());
    let (image, partial) = (scene.image("x.ckpt.tar"), scene.image("x.ckpt.tar.partial"));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
        let mut command = scene.ckpt("ckpt", &["save", "waiting", "--timeout", "100s", "-o"]);
        let mut save = scene.start("ckpt save", command.arg(&image), &scene.work("save.out"));
        scene.wait("the save", || partial.exists().then_some(()));
        save.signal(signal);
        let status = scene.end_of(&mut save);
        assert!(status.code() == Some(FAILED) || harness::died_of(status, Signal::SIGKILL), "{signal}: {status}");
        scene.wait("the save to be given up", || (!partial.exists()).then_some(()));
        assert!(!image.exists());
    }
    kill(Pid::from_raw(started), Signal::SIGKILL).expect("a signal to the guest's child");
    scene.verdict(&mut job);
    scene.nobody_left();
}

/// At any moment at all: either there is a good image, or none, and what was to become of the program goes with it.
#[test]
fn interrupted_at_any_moment() {
    let program = guest!("syscalls");
    let scene = Scene::new("any");
    let image = scene.image("x.ckpt.tar");
    let mut guest = alone(&scene, &program, &[LARGE]);
    let mut random = Seeded(7);
    let mut whole = Duration::from_millis(30);
    for round in 0..16 {
        let begun = Instant::now();
        let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-q", "-o"]);
        let mut save = scene.start("ckpt-attach", command.arg(&image), &scene.work("save.out"));
        let moment = whole.mul_f64((random.next() % 1000) as f64 / 1000.0);
        while begun.elapsed() < moment && save.ended().is_none() {
            std::hint::spin_loop();
        }
        save.signal(if round % 2 == 0 { Signal::SIGINT } else { Signal::SIGTERM });
        let status = scene.end_of(&mut save);
        if status.success() {
            whole = begun.elapsed();
            scene.must("verify", scene.ckpt("ckpt", &["verify"]).arg(&image));
            fs::remove_file(&image).expect("the image");
        }
        scene.no_half_image();
        assert!(!image.exists(), "{status}, and an image");
        scene.beats(1, &mut guest);
    }
    unharmed(&scene, &mut guest);
}

/// The supervisor is killed while it saves: the program goes on without it.
#[test]
fn a_supervisor_killed_while_saving() {
    let program = guest!("syscalls");
    let scene = Scene::new("headless");
    let mut job = job(&scene, &program, &[LARGE]);
    let guest = children(job.pid())[0];
    let save = MidSave::of_job(&scene);
    job.signal(Signal::SIGKILL);
    scene.end_of(&mut job);
    let output = save.end(&scene);
    failed(&scene, &output, FAILED, &["the supervisor of headless", "does not answer", "hint: "]);
    let from = scene.beat();
    scene.wait("the guest to go on", || (scene.beat() > from + 3).then_some(()));
    let image = scene.image("x.ckpt.tar");
    scene.attach(guest, &image, &["--kill"]);
    scene.nobody_left();
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
}

/// A guest saved and ended: its image.
fn saved(scene: &Scene, program: &Path, args: &[&str]) -> PathBuf {
    let mut guest = alone(scene, program, args);
    scene.beats(3, &mut guest);
    let image = scene.image("x.ckpt.tar");
    scene.attach(guest.pid(), &image, &["--kill"]);
    scene.end_of(&mut guest);
    image
}

/// A resume, with a check that no process of it is left when it has ended.
struct Resume {
    adopter: PathBuf,
}

impl Resume {
    fn new() -> Option<Resume> {
        compile("guests/nobodyleft.c", Build::Dynamic).map(|adopter| Resume { adopter })
    }

    fn command(&self, scene: &Scene, options: &[&str]) -> Command {
        let mut command = scene.command(&self.adopter);
        command.arg(harness::bin("ckpt-resume")).args(options);
        command
    }

    /// Resumes an image, which must fail.
    #[track_caller]
    fn fails(&self, scene: &Scene, image: &Path, options: &[&str], status: i32, words: &[&str]) {
        let beat = scene.beat();
        let output = scene.output("ckpt-resume", self.command(scene, options).arg(image));
        failed(scene, &output, status, words);
        assert_eq!(scene.beat(), beat, "the program ran though its resume failed");
    }
}

macro_rules! resume {
    () => {
        match Resume::new() {
            Some(resume) => resume,
            None => return skip("a test of resuming", "no gcc"),
        }
    };
}

#[test]
fn no_image() {
    let resume = resume!();
    let scene = Scene::new("none");
    resume.fails(&scene, &scene.image("none"), &[], CANNOT_RUN, &["cannot open", "No such file"]);
    resume.fails(&scene, Path::new("none"), &[], CANNOT_RUN, &["there is no file none", "hint: "]);
    resume.fails(&scene, &scene.image(""), &[], BAD_IMAGE, &["is not a checkpoint image: it is a directory"]);
    resume.fails(&scene, Path::new("/dev/null"), &[], BAD_IMAGE, &["/dev/null"]);
    let text = scene.work("text");
    fs::write(&text, "hello ".repeat(1000)).expect("a file");
    resume.fails(&scene, &text, &[], BAD_IMAGE, &["text is not a checkpoint image"]);
}

#[test]
fn a_truncated_image() {
    let (resume, program) = (resume!(), guest!("syscalls"));
    let scene = Scene::new("truncated");
    let image = saved(&scene, &program, &["1"]);
    let whole = fs::read(&image).expect("the image");
    let cut = scene.image("cut.ckpt.tar");
    let mut random = Seeded(11);
    let len = whole.len() as u64;
    let somewhere: Vec<u64> = (0..12).map(|_| random.next() % len).collect();
    for at in [0, 1, 511, 512, 1024, 4096, len / 2, len - 4096, len - 1536, len - 1025].into_iter().chain(somewhere) {
        fs::write(&cut, &whole[..at as usize]).expect("a shorter image");
        let words = if at >= 1024 { &["cut.ckpt.tar is truncated", "hint: "][..] } else { &["cut.ckpt.tar"] };
        resume.fails(&scene, &cut, &[], BAD_IMAGE, words);
        failed(
            &scene,
            &scene.output("verify", scene.ckpt("ckpt", &["verify"]).arg(&cut)),
            BAD_IMAGE,
            &["cut.ckpt.tar"],
        );
    }
    for mode in ["meta", "none"] {
        fs::write(&cut, &whole[..whole.len() / 2]).expect("a shorter image");
        resume.fails(&scene, &cut, &["--verify", mode], BAD_IMAGE, &["cut.ckpt.tar is truncated"]);
    }
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
}

#[test]
fn an_altered_image() {
    let (resume, program) = (resume!(), guest!("syscalls"));
    let scene = Scene::new("altered");
    let image = saved(&scene, &program, &["1"]);
    let whole = fs::read(&image).expect("the image");
    let altered = scene.image("altered.ckpt.tar");
    // Pages are nearly all of it: some places among them, and some in every member.
    let opened = Image::open(&image).expect("a good image");
    let mut places: Vec<u64> = opened.members().iter().filter(|m| m.size > 0).map(|m| m.offset + m.size / 2).collect();
    let mut random = Seeded(13);
    places.extend((0..12).map(|_| random.next() % whole.len() as u64));
    for at in places {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 1 << (random.next() % 8);
        fs::write(&altered, bytes).expect("another image");
        let verify = scene.output("verify", scene.ckpt("ckpt", &["verify"]).arg(&altered));
        failed(&scene, &verify, BAD_IMAGE, &["altered.ckpt.tar"]);
        resume.fails(&scene, &altered, &[], BAD_IMAGE, &["altered.ckpt.tar"]);
    }
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
}

#[test]
fn an_image_that_asks_too_much() {
    let (resume, program) = (resume!(), guest!("syscalls"));
    let scene = Scene::new("demanding");
    let image = saved(&scene, &program, &[]);
    let source = Image::open(&image).expect("a good image");
    let changed = |edit: &dyn Fn(&mut Checkpoint)| {
        let path = scene.image("changed.ckpt.tar");
        rewrite(&source, &path, |checkpoint| edit(checkpoint)).expect("a changed image");
        path
    };
    let newer = changed(&|c| c.manifest.format = FORMAT + 1);
    let message = format!("has image format {}, this program knows formats up to {FORMAT}", FORMAT + 1);
    resume.fails(&scene, &newer, &[], BAD_IMAGE, &[&message, "hint: use a newer ckpt"]);
    resume.fails(&scene, &newer, &["--dry-run"], BAD_IMAGE, &[&message]);
    let unknown = changed(&|c| c.manifest.requires = vec!["teleport".into(), "telepathy".into()]);
    resume.fails(&scene, &unknown, &[], BAD_IMAGE, &["teleport, telepathy", "hint: use a newer ckpt"]);
    let cpu = changed(&|c| c.manifest.cpu.flags.push("avx4096f".into()));
    resume.fails(&scene, &cpu, &[], HOST, &["the processor lacks avx4096f", "hint: resume on a host like"]);
    resume.fails(&scene, &cpu, &["--dry-run"], HOST, &["the processor lacks avx4096f"]);
    let harmless = changed(&|c| c.manifest.cpu.flags.push("constant_boredom".into()));
    let mut job = scene.start_resume(&harmless, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
}

/// Away it goes, and comes back when this is dropped.
struct Away(PathBuf, PathBuf);

impl Away {
    fn take(path: PathBuf) -> Away {
        let mut aside = path.clone().into_os_string();
        aside.push(".aside");
        fs::rename(&path, &aside).expect("a file to take away");
        Away(path, aside.into())
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0).or_else(|_| fs::remove_file(&self.0));
        fs::rename(&self.1, &self.0).expect("a file to bring back");
    }
}

#[test]
fn files_gone_or_changed() {
    let (resume, program) = (resume!(), guest!("surroundings"));
    let scene = Scene::new("surroundings");
    // By cp, which leaves nobody with a descriptor that could keep it from being executed.
    let copy = scene.work("program");
    scene.must("cp", scene.command("cp").arg(&program).arg(&copy));
    let image = saved(&scene, &copy, &[]);
    let refuses = |file: &str, why: &str| {
        let path = scene.work(file).display().to_string();
        let line = format!("{path}: {why}");
        resume.fails(&scene, &image, &[], REFUSED, &["ckpt: cannot resume pid ", &line, "hint: "]);
    };
    for (file, why) in [
        ("program", "the mapped file is gone"),
        ("data", "the mapped file is gone"),
        ("input", "the open file is gone"),
        ("log", "the open file is gone"),
        ("opened", "the open directory is gone"),
        ("fifo", "the FIFO is gone"),
        ("here", "the working directory is gone"),
    ] {
        let _away = Away::take(scene.work(file));
        refuses(file, why);
    }
    for (file, why) in [("data", "the mapped file is gone"), ("log", "it is no regular file any more")] {
        let _away = Away::take(scene.work(file));
        fs::create_dir(scene.work(file)).expect("a directory");
        if file == "log" {
            refuses(file, why);
        } else {
            refuses(file, "");
        }
    }
    for (file, len, why) in [
        ("data", 8191, "the mapped file had 8192 bytes and has 8191"),
        ("data", 8193, "the mapped file had 8192 bytes and has 8193"),
        ("data", 8192, "the mapped file has changed since"),
        ("input", 9, "the open file had 10 bytes and has 9"),
        ("input", 11, "the open file had 10 bytes and has 11"),
        ("input", 10, "the open file has changed since"),
        ("log", 5, "the open file had 6 bytes and has 5"),
    ] {
        let path = scene.work(file);
        let _away = Away::take(path.clone());
        let mut bytes = fs::read(&_away.1).expect("the old file");
        bytes.resize(len, b'.');
        fs::write(&path, bytes).expect("the new file");
        File::options().write(true).open(&path).and_then(|f| f.set_modified(SystemTime::UNIX_EPOCH)).expect("its time");
        refuses(file, why);
    }
    {
        // All of them are told at once, before anything is done.
        let files = ["program", "data", "input", "log", "opened", "fifo", "here"];
        let _away = files.map(|file| Away::take(scene.work(file)));
        let lines = files.map(|file| format!("{}: ", scene.work(file).display()));
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        resume.fails(&scene, &image, &["--dry-run"], REFUSED, &lines);
        resume.fails(&scene, &image, &["--detach"], REFUSED, &lines);
    }
    // A log that has grown is no obstacle.
    let log = File::options().append(true).open(scene.work("log")).expect("the log");
    std::io::Write::write_all(&mut &log, b"by another\n").expect("a longer log");
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
    assert_eq!(scene.text("log"), "first\nby another\nsecond\n");
}

#[test]
fn pids_that_cannot_be_had() {
    let (resume, program) = (resume!(), guest!("syscalls"));
    let scene = Scene::new("conflict");
    let mut guest = alone(&scene, &program, &[]);
    let image = scene.image("x.ckpt.tar");
    scene.attach(guest.pid(), &image, &["--keep-running"]);
    let output = scene.output("ckpt-resume", resume.command(&scene, &["--pids", "host"]).arg(&image));
    let caps = status_field(std::process::id() as i32, "CapEff").unwrap_or_default();
    let caps = u64::from_str_radix(&caps, 16).expect("capabilities");
    // CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE
    if caps & (1 << 21 | 1 << 40) != 0 {
        let words = format!("cannot resume pid {} pid: another process has it", guest.pid());
        failed(&scene, &output, REFUSED, &[&words, "hint: resume with --pids private"]);
    } else {
        failed(
            &scene,
            &output,
            PERMISSION,
            &["not permitted: to choose pids", "hint: that needs CAP_CHECKPOINT_RESTORE"],
        );
    }
    unharmed(&scene, &mut guest);
}

/// Objects whose ids can be had only in an IPC namespace of the program's own.
#[test]
fn ipc_objects_without_a_namespace() {
    let resume = resume!();
    for (program, name, object) in [
        (guest!("sysvshm"), "sysvshm", "System V object (shm "),
        (guest!("sysvsem"), "sysvsem", "System V object (sem "),
        (guest!("sysvmsg"), "sysvmsg", "System V object (msg "),
        (guest!("mqueue"), "mqueue", "message queue /ckpt-guest-"),
    ] {
        let scene = Scene::new(name);
        let mut guest = alone(&scene, &program, &[]);
        let image = scene.image("x.ckpt.tar");
        scene.attach(guest.pid(), &image, &["--keep-running"]);
        let output = scene.output("ckpt-resume", resume.command(&scene, &["--pids", "fresh"]).arg(&image));
        let words = [object, "only in an IPC namespace of its own", "hint: resume with --pids private"];
        failed(&scene, &output, REFUSED, &words);
        unharmed(&scene, &mut guest);
    }
}

/// All descriptors of a tree are open at once in a resume.
#[test]
fn a_limit_of_open_files() {
    let (resume, program) = (resume!(), guest!("syscalls"));
    if !installed("prlimit") {
        return skip("a_limit_of_open_files", "no prlimit");
    }
    let scene = Scene::new("nofile");
    let image = saved(&scene, &program, &[]);
    let mut command = scene.command("prlimit");
    command.arg("--nofile=64").arg(&resume.adopter).arg(harness::bin("ckpt-resume")).arg(&image);
    let output = scene.output("ckpt-resume", &mut command);
    failed(
        &scene,
        &output,
        REFUSED,
        &["descriptors: those of the whole tree at once", "our hard limit is 64", "ulimit -Hn"],
    );
}

/// System V shared memory that is to be locked again.
/// An image that can't be read by position is copied first, which needs room.
#[test]
fn no_room_for_a_copy() {
    let program = guest!("syscalls");
    if !installed("prlimit") {
        return skip("no_room_for_a_copy", "no prlimit");
    }
    let scene = Scene::new("spool");
    let image = saved(&scene, &program, &["1"]);
    for (name, args) in [("ckpt", ["verify", "-"].as_slice()), ("ckpt-resume", &["-"])] {
        let mut command = scene.command("prlimit");
        command.arg("--fsize=100000").arg(harness::bin(name)).args(args).stdin(File::open(&image).expect("the image"));
        let status = if name == "ckpt" { FAILED } else { CANNOT_RUN };
        failed(&scene, &scene.output(name, &mut command), status, &["no room for a copy of the image in", "TMPDIR"]);
    }
    let mut command = scene.ckpt("ckpt", &["verify", "-"]);
    scene.must("verify", command.stdin(File::open(&image).expect("the image")));
}

/// A name that was asked for is not another one.
#[test]
fn a_name_that_is_taken() {
    let (resume, program) = (resume!(), guest!("syscalls"));
    let scene = Scene::new("taken");
    let image = scene.image("x.ckpt.tar");
    let mut guest = job(&scene, &program, &["1"]);
    scene.save(&image, &[]);
    let mut command = resume.command(&scene, &["-n", &scene.name]);
    let output = scene.output("resume", command.arg(&image));
    failed(&scene, &output, CANNOT_RUN, &[&scene.name, "hint: choose another name with -n"]);
    unharmed(&scene, &mut guest);
}

/// Where no thread can be started: what only makes haste is done by one, and the rest fails as anything else does.
#[test]
fn no_threads() {
    let (resume, program) = (resume!(), guest!("syscalls"));
    if !installed("prlimit") {
        return skip("no_threads", "no prlimit");
    }
    // Less than the stack of a thread.
    let limited = |scene: &Scene, program: &Path| {
        let mut command = scene.command("prlimit");
        command.arg("--data=1900000").arg(program);
        command
    };
    let scene = Scene::new("threads");
    let image = saved(&scene, &program, &[LARGE]);
    scene.must("verify", limited(&scene, &harness::bin("ckpt")).arg("verify").arg(&image));
    let mut command = limited(&scene, &resume.adopter);
    let output = scene.output("resume", command.arg(harness::bin("ckpt-resume")).arg(&image));
    let words = ["cannot start a thread: ", "hint: raise the limits", "ulimit -u, -v, -d"];
    failed(&scene, &output, CANNOT_RUN, &words);
    scene.nobody_left();
    drop(scene);

    let scene = Scene::new("threads");
    let image = scene.image("x.ckpt.tar");
    let mut guest = alone(&scene, &program, &["1"]);
    let mut command = limited(&scene, &harness::bin("ckpt-attach"));
    let output = scene.output("save", command.args([&guest.pid().to_string(), "-o"]).arg(&image));
    failed(&scene, &output, FAILED, &words);
    unharmed(&scene, &mut guest);
    drop(scene);

    let scene = Scene::new("threads");
    let mut guest = job(&scene, &program, &["1"]);
    scene.must("prlimit", scene.command("prlimit").args(["--data=1900000", "--pid", &guest.pid().to_string()]));
    let output = scene.output("save", &mut scene.ckpt("ckpt", &["save", &scene.name]));
    failed(&scene, &output, FAILED, &words);
    unharmed(&scene, &mut guest);
}

#[test]
fn a_limit_of_processes() {
    let (resume, program) = (resume!(), guest!("syscalls"));
    if !installed("prlimit") || root() {
        return skip("a_limit_of_processes", "no prlimit, or a user without limits");
    }
    let scene = Scene::new("nproc");
    let image = saved(&scene, &program, &[]);
    let mut command = scene.command(&resume.adopter);
    command.args(["/usr/bin/env", "prlimit", "--nproc=1"]).arg(harness::bin("ckpt-resume")).arg(&image);
    let output = scene.output("ckpt-resume", &mut command);
    let words =
        ["Resource temporarily unavailable", "hint: this user, or this control group, may have no more processes"];
    failed(&scene, &output, HOST, &words);
    comes_back(&scene, &image);
}

#[test]
fn a_limit_of_locked_memory() {
    let (resume, program) = (resume!(), guest!("sysvshm"));
    if !installed("prlimit") || root() {
        return skip("a_limit_of_locked_memory", "no prlimit, or a user who may lock all memory");
    }
    let scene = Scene::new("memlock");
    let image = saved(&scene, &program, &[]);
    if scene.text("out").contains("SKIP") {
        return;
    }
    let mut command = scene.command("prlimit");
    command.arg("--memlock=4096").arg(&resume.adopter).arg(harness::bin("ckpt-resume")).arg(&image);
    let output = scene.output("ckpt-resume", &mut command);
    failed(
        &scene,
        &output,
        REFUSED,
        &["locked System V shared memory: it needs ", "our hard limit is 4096", "hint: raise"],
    );
}

/// Where a script makes user namespaces impossible, and runs a command without any capability.
const WITHOUT_NAMESPACES: &str = "echo 0 > /proc/sys/user/max_user_namespaces && \
    exec setpriv --bounding-set=-all --ambient-caps=-all --inh-caps=-all \"$@\"";

#[test]
fn user_namespaces_are_off() {
    let (resume, program) = (resume!(), guest!("surroundings"));
    if !can_make_namespaces() || !installed("setpriv") {
        return skip("user_namespaces_are_off", "no user namespace to switch them off in, or no unshare, setpriv");
    }
    let scene = Scene::new("off");
    let image = saved(&scene, &program, &[]);
    let inside = |options: &[&str]| {
        let mut command = scene.command("unshare");
        command.args(["-U", "--map-current-user", "--keep-caps", "sh", "-c", WITHOUT_NAMESPACES, "sh"]);
        command.arg(&resume.adopter).arg(harness::bin("ckpt-resume")).args(options).arg(&image);
        command
    };
    let beat = scene.beat();
    for options in [&[][..], &["--pids", "private"], &["--detach"]] {
        let output = scene.output("ckpt-resume", &mut inside(options));
        failed(&scene, &output, PERMISSION, &["namespaces", "hint: ", "max_user_namespaces", "--pids fresh"]);
        assert_eq!(scene.beat(), beat, "the program ran though its resume failed");
    }
    // The way out that the hint names is one, for a program without capabilities of its own.
    if root() {
        return;
    }
    let mut job = scene.start("ckpt-resume", &mut inside(&["--pids", "fresh"]), &scene.work("resume.out"));
    scene.beats(3, &mut job);
    scene.finish(&mut job);
}

/// ^C while the image is still coming in.
#[test]
fn interrupted_before_the_image_is_there() {
    let resume = resume!();
    let scene = Scene::new("early");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = resume.command(&scene, &["-"]);
        let mut adopter = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let input = adopter.stdin.take();
        let tool = scene.wait("the resume to read its image", || {
            let tool = *children(adopter.id() as i32).first()?;
            // read or splice from 0
            let call = fs::read_to_string(format!("/proc/{tool}/syscall")).unwrap_or_default();
            (call.starts_with("0 0x0 ") || call.starts_with("275 0x0 ")).then_some(tool)
        });
        kill(Pid::from_raw(tool), signal).expect("a signal to the resume");
        let ended = poll_for(harness::deadline(), || adopter.try_wait().expect("waiting for a child"));
        if ended.is_none() {
            let _ = kill(Pid::from_raw(tool), Signal::SIGKILL);
        }
        drop(input);
        let output = adopter.wait_with_output().expect("its end");
        assert!(ended.is_some(), "{signal} does not end a resume that waits for its image: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(128 + signal as i32), "{}", stderr(&output));
    }
}

/// ^C at any moment of a resume: either nothing is left, or the program runs, and gets the signal.
#[test]
fn interrupted_while_resuming() {
    // One process: others would notice the death of the first before they die with the namespace.
    let (resume, program) = (resume!(), guest!("syscalls"));
    let scene = Scene::new("resuming");
    let image = saved(&scene, &program, &[LARGE]);
    let mut random = Seeded(17);
    scene.forget();
    let begun = Instant::now();
    let mut first = scene.start_resume(&image, &[]);
    scene.beats(1, &mut first);
    let mut whole = begun.elapsed();
    first.signal(Signal::SIGTERM);
    assert!(harness::died_of(scene.end_of(&mut first), Signal::SIGTERM));
    scene.nobody_left();
    let (mut cancelled, mut resumed) = (0, 0);
    for round in 0..16 {
        scene.forget();
        let begun = Instant::now();
        let mut command = resume.command(&scene, &[]);
        let mut job = scene.start("ckpt-resume", command.arg(&image), &scene.work("resume.out"));
        let moment = whole.mul_f64((random.next() % 1000) as f64 / 1000.0);
        let tool = scene.wait("ckpt-resume", || children(job.pid()).first().copied());
        while begun.elapsed() < moment {
            std::hint::spin_loop();
        }
        let signal = if round % 2 == 0 { Signal::SIGINT } else { Signal::SIGTERM };
        kill(Pid::from_raw(tool), signal).expect("a signal to the resume");
        match scene.end_of(&mut job).code() {
            // Before its handlers are in place the signal just ends it.
            Some(code) if code == CANNOT_RUN || scene.beat() == 0 && code == 128 + signal as i32 => {
                assert_eq!(scene.beat(), 0, "the program ran though its resume failed");
                cancelled += 1;
                whole = whole.mul_f64(1.1);
            }
            Some(code) if code == 128 + signal as i32 => {
                resumed += 1;
                whole = begun.elapsed();
            }
            other => scene.fail(&format!("round {round}: {signal} ended it with {other:?}")),
        }
    }
    println!("{cancelled} resumes cancelled, {resumed} programs resumed and ended by the signal");
    assert!(cancelled > 0);
    scene.forget();
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
}

/// Whether the harness can make a user and a mount namespace here, with the system's program for it.
fn can_make_namespaces() -> bool {
    let mut command = Command::new("unshare");
    command.args(["-Urm", "true"]).env("PATH", harness::PATH).stderr(Stdio::null());
    installed("unshare") && command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_lease_on_a_mapped_file() {
    let program = guest!("refused");
    let scene = Scene::new("lease");
    let mut guest = alone(&scene, &program, &["lease"]);
    let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
    let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
    failed(&scene, &output, REFUSED, &["leased", "a lease for writing on a file that is mapped"]);
    unharmed(&scene, &mut guest);
}

/// Objects of the kernel that cannot be made again are refused by name, and the program goes on.
#[test]
fn kernel_objects_that_cannot_be_saved() {
    let program = guest!("refused");
    for (kind, object, reason) in [
        ("io_uring-thread", "io_uring", "a process has it that has not inherited it from the one whose thread"),
        ("io_uring-thread-ended", "io_uring", "that takes its requests (IORING_SETUP_SQPOLL) and has ended"),
        ("io_uring-number", "io_uring", "UV_USE_IO_URING=0"),
        ("io_uring-eventfd", "io_uring", "registering one of several eventfds with it"),
        ("io_uring-busy", "io_uring", "requests are under way in it"),
        ("userfaultfd", "userfaultfd", "not supported"),
        ("perf", "perf_event", "not supported"),
        ("bpf", "bpf-map", "not supported"),
        ("fanotify", "fanotify", "events wait in this group that the program has not read yet"),
        ("fanotify-mask", "fanotify", "the program has the file open for writing"),
        ("fanotify-namespace", "fanotify", "marks on mount namespaces are not supported"),
        ("fanotify-decides", "fanotify", "the program decides over what others do with files"),
        ("secret", "/secretmem (deleted)", "secret memory (memfd_secret) is not supported"),
        ("aio", "mapping at ", "IOCB_CMD_POLL"),
        ("pidfd", "pidfd", "is outside the tree"),
        ("proc", "/proc/1/status", "belongs to a process outside the tree"),
        ("proc-net", "/proc/1/net/dev", "belongs to a process outside the tree"),
        ("proc-net-task", "/proc/1/task/1/net/dev", "belongs to a process outside the tree"),
        ("socket", "UNIX stream socket", "urgent data (MSG_OOB) waits in it"),
        (
            "early-tcp",
            "TCP socket",
            "bytes have been sent over it before it was accepted, and can't be looked at: signals",
        ),
        (
            "early-unix",
            "UNIX stream socket",
            "bytes have been sent over a connection before it was accepted, and can't be looked at: signals",
        ),
        ("lost", "TCP socket", "a connection that waits to be accepted has lost its other end"),
        ("lost-reset", "TCP socket", "a connection that waits to be accepted has lost its other end"),
        ("cork", "UDP socket", "bytes are held back in it (UDP_CORK or MSG_MORE)"),
        ("icmp", "UDP socket", "an error waits in it, in front of its datagrams"),
        ("netlink", "netlink socket", "messages of the kernel wait in it that the program has not read yet"),
        ("packet", "packet socket", "it has a ring of packets"),
        ("notify", "message queue /ckpt-guest-", "a process waits to be notified of a message"),
        ("shm", "shared memory segment ", "processes outside the tree have it attached, too"),
        ("gift-shm", "shared memory segment ", "it is of uid 0 gid "),
        ("gift-sem", "semaphore set ", " gid 0, made by uid "),
        ("gift-msg", "message queue ", "it is of uid 0 gid "),
        ("gift-mqueue", "message queue /ckpt-guest-", "and could not make it anew"),
    ] {
        let scene = Scene::new(kind);
        let mut guest = alone(&scene, &program, &[kind]);
        if scene.text("out").contains("fd -1") {
            skip(kind, "the kernel does not give us one");
            unharmed(&scene, &mut guest);
            continue;
        }
        let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
        let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
        failed(&scene, &output, REFUSED, &[&format!("pid {}", guest.pid()), object, reason, "\nhint: "]);
        scene.no_half_image();
        unharmed(&scene, &mut guest);
    }
}

/// A queue of connections in which somebody from outside waits is not touched; nor is one whose client is gone.
#[test]
fn strangers_in_a_queue() {
    let program = guest!("refused");
    let scene = Scene::new("strangers");
    let mut guest = alone(&scene, &program, &["early-mixed"]);
    let port: u16 = scene.text("port").parse().expect("a port");
    let mut stranger = std::net::TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    std::io::Write::write_all(&mut stranger, b"hello").expect("sending");
    let refused = || {
        let mut command = scene.ckpt("ckpt-attach", &[&guest.pid().to_string(), "-o"]);
        let output = scene.output("save", command.arg(scene.image("x.ckpt.tar")));
        failed(&scene, &output, REFUSED, &["TCP socket", "not all who wait with it are in the tree", "hint: "]);
        scene.no_half_image();
    };
    refused();
    assert!(stranger.take_error().expect("asking").is_none() && stranger.peer_addr().is_ok());
    drop(stranger);
    refused();
    unharmed(&scene, &mut guest);
}

/// A member with a namespace of its own is refused by its kind.
#[test]
fn namespaces_of_a_members_own() {
    let program = guest!("refused");
    for (kind, name) in [
        ("user", "user"),
        ("net", "network"),
        ("uts", "UTS"),
        ("ipc", "IPC"),
        ("mnt", "mount"),
        ("cgroup", "cgroup"),
        ("time", "time"),
        ("pid", "pid"),
    ] {
        let scene = Scene::new(kind);
        let mut guest = alone(&scene, &program, &[&format!("ns-{kind}")]);
        if scene.text("out").contains("fd -1") {
            skip(kind, "we may not make such a namespace");
            unharmed(&scene, &mut guest);
            continue;
        }
        let mut command = scene.ckpt("ckpt-attach", &["--dry-run", &guest.pid().to_string()]);
        let output = scene.output("dry run", &mut command);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let wanted = format!("its {name} namespace differs from its root's\nhint: run the program without its sandbox");
        if output.status.code() != Some(REFUSED) || !said.contains(&wanted) {
            scene.fail(&format!("{}, expected {wanted:?} in: {said}", output.status));
        }
        unharmed(&scene, &mut guest);
    }
}

/// Locks that others have taken meanwhile are found before there is a process, and told by name.
#[test]
fn locks_of_others() {
    use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
    let (scene, image) = dead("filelocks", &guest!("filelocks"));
    let open = |name: &str| File::options().read(true).write(true).open(scene.work(name)).expect("a locked file");
    let refused = |name: &str| {
        let output = scene.output("ckpt-resume", scene.ckpt("ckpt-resume", &["--dry-run"]).arg(&image));
        let file = scene.work(name).display().to_string();
        let said = stderr(&output);
        if output.status.code() != Some(REFUSED) || !said.contains(&file) || !said.contains("holds a lock on it") {
            scene.fail(&format!("{}, expected a conflict about {file}: {said}", output.status));
        }
        said
    };
    let flock = Flock::lock(open("flocked"), FlockArg::LockExclusiveNonblock).expect("a free lock");
    assert!(refused("flocked").contains(&format!("pid {} holds", std::process::id())));
    drop(flock);
    let range = open("range");
    let mut bytes = nix::libc::flock { l_type: 1, l_whence: 0, l_start: 14, l_len: 1, l_pid: 0 };
    fcntl(&range, FcntlArg::F_OFD_SETLK(&bytes)).expect("a free lock");
    refused("range");
    // Bytes beside those of the program stand in nobody's way.
    bytes.l_type = 2;
    fcntl(&range, FcntlArg::F_OFD_SETLK(&bytes)).expect("unlocking");
    bytes = nix::libc::flock { l_type: 1, l_start: 15, ..bytes };
    fcntl(&range, FcntlArg::F_OFD_SETLK(&bytes)).expect("a free lock");
    let shared = Flock::lock(open("shared"), FlockArg::LockSharedNonblock).expect("a free lock");
    let (status, said) = plan(&scene, &image, &[]);
    assert_eq!(status, Some(0), "{said}");
    drop((range, shared));
    comes_back(&scene, &image);
}

/// A guest that was saved and is dead, and its image.
fn dead(name: &'static str, program: &Path) -> (Scene, PathBuf) {
    let scene = Scene::new(name);
    let mut held = job(&scene, program, &[]);
    let image = scene.image("x.ckpt.tar");
    scene.save(&image, &["--kill"]);
    scene.end_of(&mut held);
    (scene, image)
}

/// Whatever stood in the way, nothing was lost by it.
fn comes_back(scene: &Scene, image: &Path) {
    let mut job = scene.start_resume(image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
    scene.nobody_left();
}

/// What is said of a resume that is only tried.
fn plan(scene: &Scene, image: &Path, options: &[&str]) -> (Option<i32>, String) {
    let mut command = scene.ckpt("ckpt-resume", &["--dry-run"]);
    let output = scene.output("ckpt-resume", command.args(options).arg(image));
    (output.status.code(), stderr(&output) + &String::from_utf8_lossy(&output.stdout))
}

/// A copy of an image with other sockets.
fn with_sockets(scene: &Scene, image: &Path, name: &str, edit: impl Fn(&mut ckpt::model::sockets::Socket)) -> PathBuf {
    let changed = scene.image(name);
    let edit = |checkpoint: &mut Checkpoint| {
        for file in &mut checkpoint.files {
            if let ckpt::model::fd::Kind::Socket(socket) = &mut file.kind {
                edit(socket);
            }
        }
    };
    rewrite(&Image::open(image).expect("a good image"), &changed, edit).expect("a changed image");
    changed
}

/// Ports that others have taken meanwhile are found before there is a process.
#[test]
fn ports_of_others() {
    use std::net::{TcpListener, UdpSocket};
    let (tcp, udp) = (guest!("tcp"), guest!("udp"));
    let refused = |scene: &Scene, image: &Path, kind: &str, address: &str| {
        let output = scene.output("ckpt-resume", scene.ckpt("ckpt-resume", &[]).arg(image));
        failed(scene, &output, REFUSED, &[kind, &format!("{address} is taken"), "hint: end the program"]);
    };
    let (scene, image) = dead("tcp", &tcp);
    let (listening, clients) = (scene.text("ports"), scene.text("clients"));
    for port in listening.split_whitespace().chain(clients.split_whitespace()) {
        let address = format!("127.0.0.1:{port}");
        let _other = TcpListener::bind(&address).expect("a free port");
        refused(&scene, &image, "TCP socket", &address);
    }
    comes_back(&scene, &image);
    let (scene, image) = dead("udp", &udp);
    let address = format!("127.0.0.1:{}", scene.text("port").trim());
    let other = UdpSocket::bind(&address).expect("a free port");
    refused(&scene, &image, "UDP socket", &address);
    drop(other);
    comes_back(&scene, &image);
}

/// Ports of clients from which others have connected elsewhere meanwhile are shared with them.
#[test]
fn ports_shared_with_others() {
    use ckpt::sys::socket;
    use std::os::fd::AsFd;
    let (scene, image) = dead("tcp", &guest!("tcp"));
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut others = Vec::new();
    for port in scene.text("clients").split_whitespace() {
        let port: u32 = port.parse().expect("a port");
        let other = socket::socket(libc::AF_INET, libc::SOCK_STREAM, 0).expect("a socket");
        if socket::set_option(other.as_fd(), libc::IPPROTO_IP, 51, &(port << 16 | port).to_ne_bytes()).is_err() {
            return skip("a test with shared ports", "no IP_LOCAL_PORT_RANGE");
        }
        let to = ckpt::net::inet::sockaddr(libc::AF_INET, elsewhere.local_addr().expect("an address"));
        socket::connect(other.as_fd(), &to).expect("a connection");
        others.push(other);
    }
    comes_back(&scene, &image);
}

/// What fanotify had marked and is gone, or is not to be marked by us, is found before there is a process.
#[test]
fn marks_that_cannot_be_set() {
    use ckpt::model::fanotify::Marked;
    use ckpt::model::fd::Kind;
    let (scene, image) = dead("fanotify", &guest!("fanotify"));
    let (there, away) = (scene.work("late"), scene.work("elsewhere"));
    std::fs::rename(&there, &away).expect("a directory of the guest's");
    let (status, said) = plan(&scene, &image, &[]);
    let expected =
        format!("{}: the program had it marked (fanotify), and it can't be marked: No such file", there.display());
    if status != Some(REFUSED) || !said.contains(&expected) {
        scene.fail(&format!("{status:?}: {said}"));
    }
    std::fs::rename(&away, &there).expect("back again");
    // A mark of a mount on what is none: of an ordinary user, and for root where it is.
    let edit = |checkpoint: &mut Checkpoint| {
        for file in &mut checkpoint.files {
            let Kind::Fanotify(group) = &mut file.kind else { continue };
            let Some(mark) = group.marks.iter_mut().find(|m| m.path.as_path() == there) else { continue };
            (group.privileged, mark.on) = (true, Marked::Mount);
        }
    };
    let changed = scene.image("changed.ckpt.tar");
    rewrite(&Image::open(&image).expect("a good image"), &changed, edit).expect("a changed image");
    let (status, said) = plan(&scene, &changed, &[]);
    let expected = ["needs CAP_SYS_ADMIN in the initial user namespace", "nothing is mounted there"];
    if status != Some(REFUSED) || !expected.iter().any(|words| said.contains(words)) {
        scene.fail(&format!("{status:?}: {said}"));
    }
    comes_back(&scene, &image);
}

/// Addresses that are none of this host's (of a network for documentation) are found, too.
#[test]
fn addresses_of_other_hosts() {
    use ckpt::model::sockets::Family;
    const ELSEWHERE: [u8; 4] = [198, 51, 100, 7];
    let (tcp, udp) = (guest!("tcp"), guest!("udp"));
    for (kind, program) in [("tcp", tcp), ("udp", udp)] {
        let (scene, image) = dead(kind, &program);
        let moved = with_sockets(&scene, &image, "moved.ckpt.tar", |socket| {
            let local = match &mut socket.family {
                Family::Tcp(tcp) => &mut tcp.local.0,
                Family::Datagram(datagram) => &mut datagram.local.0,
                _ => return,
            };
            if local.get(..2) == Some(&[2, 0]) {
                local[4..8].copy_from_slice(&ELSEWHERE);
            }
        });
        let output = scene.output("ckpt-resume", scene.ckpt("ckpt-resume", &[]).arg(&moved));
        let words = ["198.51.100.7:", "is no address of this host", "hint: give an interface of this host the address"];
        failed(&scene, &output, REFUSED, &words);
        comes_back(&scene, &image);
    }
}

/// Buffers that this host does not give are named with what would have to be changed.
#[test]
fn buffers_that_are_too_small() {
    let (scene, image) = dead("tcp", &guest!("tcp"));
    // An ordinary user gets what the host allows, root what he wants.
    let larger = with_sockets(&scene, &image, "larger.ckpt.tar", |socket| {
        for option in socket.options.iter_mut().filter(|o| (o.level, o.name) == (1, nix::libc::SO_RCVBUF)) {
            option.value.0 = (1i32 << 30).to_ne_bytes().to_vec();
        }
    });
    let (status, said) = plan(&scene, &larger, &[]);
    let refused = status == Some(REFUSED)
        && said.contains("its buffer is larger than net.core.rmem_max allows")
        && said.contains("hint: set net.core.rmem_max to 536870912, or resume as root");
    assert_eq!(refused, !root(), "{status:?}: {said}");
    // More waited than any socket of the network may hold.
    if !can_make_namespaces() {
        skip("buffers that are too small", "no network namespaces here");
        return comes_back(&scene, &image);
    }
    let small =
        "for n in tcp_rmem tcp_wmem; do echo 4096 8192 16384 > /proc/sys/net/ipv4/$n || exit 99; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-Urn", "sh", "-c", small, "sh"]);
    let resume = scene.ckpt("ckpt-resume", &["--dry-run"]);
    command.arg(resume.get_program()).args(resume.get_args()).arg(&image);
    command.envs(resume.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(scene.work(""));
    let output = scene.output("ckpt-resume", &mut command);
    let words = ["TCP socket", "bytes wait in it, and net.ipv4.tcp_rmem leaves no room for so many", "third number of"];
    failed(&scene, &output, REFUSED, &words);
    comes_back(&scene, &image);
}

/// Datagrams whose sender's address can't be had are named.
#[test]
fn datagrams_of_others() {
    use ckpt::model::sockets::Family;
    let (scene, image) = dead("udp", &guest!("udp"));
    // From somebody in a network for documentation, by a port that an ordinary user can't have.
    let strange = with_sockets(&scene, &image, "strange.ckpt.tar", |socket| {
        let Family::Datagram(datagram) = &mut socket.family else { return };
        for way in datagram.ways.iter_mut().filter(|w| w.from.0.get(..2) == Some(&[2, 0])) {
            way.from.0 = vec![2, 0, 0, 53, 198, 51, 100, 7, 0, 0, 0, 0, 0, 0, 0, 0];
        }
    });
    let (status, said) = plan(&scene, &strange, &[]);
    let lost = said.contains("of its unread datagrams, from 198.51.100.7:53, are lost");
    assert!(status == Some(0) && lost != root(), "{status:?}: {said}");
    // In a network of its own it has any address.
    if can_make_namespaces() {
        let (status, said) = plan(&scene, &strange, &["--net", "private"]);
        assert!(status == Some(0) && !said.contains("are lost"), "{status:?}: {said}");
    }
    comes_back(&scene, &image);
}

/// In networks of their own copies run side by side, with the same ports, and can be saved in turn.
#[test]
fn copies_in_networks_of_their_own() {
    if !can_make_namespaces() {
        return skip("copies in networks of their own", "no user namespaces here");
    }
    let (scene, image) = dead("tcp", &guest!("tcp"));
    let copy = |name: &str, image: &Path| {
        let mut command = scene.ckpt("ckpt-resume", &["-n", name, "--net", "private"]);
        scene.start("ckpt-resume", command.arg(image), &scene.image(format!("{name}.out")))
    };
    let living = |name: &str| {
        let listed =
            || scene.ckpt("ckpt", &["ls"]).output().is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(name));
        scene.wait("a copy", || listed().then_some(()));
    };
    let mut jobs = vec![scene.start_resume(&image, &[]), copy("first-copy", &image), copy("second-copy", &image)];
    for name in ["first-copy", "second-copy"] {
        living(name);
    }
    let again = scene.image("again.ckpt.tar");
    let mut command = scene.ckpt("ckpt", &["save", "second-copy", "--kill", "-o"]);
    let output = scene.output("ckpt save", command.arg(&again));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(jobs.pop().map(|mut job| scene.end_of(&mut job).code()), Some(Some(85)));
    let mut third = copy("third-copy", &again);
    living("third-copy");
    scene.beats(3, &mut third);
    jobs.push(third);
    scene.tell("go");
    for job in &mut jobs {
        assert_eq!(scene.end_of(job).code(), Some(0), "a copy found something wrong: {}", scene.text("out"));
    }
    scene.nobody_left();
}

/// A connection with somebody who is not saved: untouched while the program goes on, reset or ended in what is resumed.
#[test]
fn a_peer_outside() {
    use std::io::{Read, Write};
    let program = guest!("outsider");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port().to_string();
    for (resumed, becomes) in [(None, ""), (Some("resumed"), "reset"), (Some("closed"), "closed")] {
        let scene = Scene::new("outsider");
        let mut guest = scene.start_run(&[program.as_ref(), port.as_ref()]);
        let mut peer = listener.accept().expect("the guest").0;
        peer.write_all(b"hellounread").expect("a word to the guest");
        scene.ready(&mut guest);
        scene.beats(3, &mut guest);
        let image = scene.image("x.ckpt.tar");
        scene.save(&image, &["--keep-running"]);
        scene.beats(3, &mut guest);
        if let Some(how) = resumed {
            scene.save(&image, &["--kill"]);
            scene.end_of(&mut guest);
            let wish = if how == "closed" { &["--sockets", "close"][..] } else { &[] };
            let mut command = scene.ckpt("ckpt-resume", wish);
            let output = scene.output("ckpt-resume", command.arg("--dry-run").arg(&image));
            let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
            assert!(said.contains(&format!("at a resume the connection is {becomes}")), "{said}");
            let mut command = scene.ckpt("ckpt-resume", &["--sockets", "refuse"]);
            let output = scene.output("ckpt-resume", command.arg(&image));
            failed(&scene, &output, REFUSED, &["(TCP socket)", "is outside of what was saved", "comes back reset"]);
            scene.tell(how);
            guest = scene.start_resume(&image, wish);
            scene.beats(3, &mut guest);
            // Nobody is outside any more.
            scene.save(&image, &["--kill"]);
            scene.end_of(&mut guest);
            guest = scene.start_resume(&image, &["--sockets", "refuse"]);
            scene.beats(3, &mut guest);
            scene.finish(&mut guest);
        } else {
            scene.tell("go");
            let mut byte = [0];
            peer.read_exact(&mut byte).expect("the guest's answer");
            peer.write_all(&byte).expect("a word to the guest");
            scene.verdict(&mut guest);
        }
        scene.nobody_left();
    }
}

/// Somebody outside who goes on sending while a program is saved: the program gets every byte, and what is resumed all
/// that had come.
#[test]
fn a_peer_outside_that_goes_on_sending() {
    use std::io::Write;
    let program = guest!("outsider");
    let scene = Scene::new("outsider");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port().to_string();
    let mut guest = scene.start_run(&[program.as_ref(), port.as_ref(), "stream".as_ref()]);
    let mut peer = listener.accept().expect("the guest").0;
    let enough = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let sender = std::thread::spawn({
        let enough = std::sync::Arc::clone(&enough);
        move || {
            let mut sent = 0u64;
            while !enough.load(std::sync::atomic::Ordering::Relaxed) {
                let bytes: Vec<u8> = (sent..sent + 5000).map(|i| (mix(i / 64) >> (i % 8)) as u8).collect();
                peer.write_all(&bytes).expect("room for more");
                sent += 5000;
            }
            sent
        }
    });
    scene.ready(&mut guest);
    let images = [1, 2, 3, 4].map(|n| scene.image(format!("{n}.ckpt.tar")));
    for image in &images {
        scene.beats(2, &mut guest);
        scene.save(image, &["--keep-running"]);
    }
    enough.store(true, std::sync::atomic::Ordering::Relaxed);
    scene.tell("go");
    let sent = sender.join().expect("the one outside");
    scene.verdict(&mut guest);
    let got = || scene.text("got").trim().parse::<u64>().expect("a number");
    assert_eq!(got(), sent);
    scene.tell("resumed");
    for image in &images {
        scene.forget();
        let mut guest = scene.start_resume(image, &[]);
        scene.beats(3, &mut guest);
        scene.finish(&mut guest);
        assert!(got() > 0 && got() < sent, "{} of {sent} bytes", got());
    }
    scene.nobody_left();
}

/// As the guests do it (`tests/guests/guest.h`).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Sockets and FIFOs to somebody who is not saved: untouched while the program goes on, closed in what is resumed; the save and
/// the plan say so, and `--sockets refuse` stops there.
#[test]
fn unix_peers_outside() {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixDatagram, UnixListener};
    let program = guest!("strangers");
    for resumed in [false, true] {
        let scene = Scene::new("strangers");
        let server = UnixListener::bind(scene.work("server")).expect("a socket");
        let receiver = UnixDatagram::bind(scene.work("receiver")).expect("a socket");
        for name in ["inward", "outward"] {
            nix::unistd::mkfifo(&scene.work(name), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        }
        let both = |name: &str| File::options().read(true).write(true).open(scene.work(name)).expect("a FIFO");
        let (mut to, mut from) = (both("inward"), both("outward"));
        to.write_all(b"hellounread").expect("a word to the guest");
        let mut guest = scene.start_run(&[program.as_ref()]);
        let mut peer = server.accept().expect("the guest").0;
        peer.write_all(b"hellounread").expect("a word to the guest");
        scene.ready(&mut guest);
        scene.beats(3, &mut guest);
        let image = scene.image("x.ckpt.tar");
        let said = stderr(&scene.output("save", scene.ckpt("ckpt", &["save", "strangers", "-o"]).arg(&image)));
        let pid = children(guest.pid()).first().expect("the guest").to_string();
        let survey = scene.output("dry run", &mut scene.ckpt("ckpt-attach", &["--dry-run", &pid]));
        assert!(String::from_utf8_lossy(&survey.stdout).contains("note  pid "), "{}", stderr(&survey));
        for lead in ["server is outside", "receiver is outside", "(FIFO): its other side is"] {
            assert!(said.contains(lead) && said.contains("the connection is closed"), "{said}");
        }
        assert!(said.contains("/astray is not found; after a resume nobody can reach it"), "{said}");
        scene.beats(3, &mut guest);
        if resumed {
            scene.save(&image, &["--kill"]);
            scene.end_of(&mut guest);
            let mut command = scene.ckpt("ckpt-resume", &["--sockets", "refuse"]);
            let output = scene.output("ckpt-resume", command.arg(&image));
            let words = ["server is outside", "(FIFO): its other side", "hint: without --sockets refuse"];
            failed(&scene, &output, REFUSED, &words);
            scene.tell("resumed");
            drop((to, from));
            guest = scene.start_resume(&image, &[]);
            scene.beats(3, &mut guest);
            scene.finish(&mut guest);
        } else {
            scene.tell("go");
            let mut byte = [0];
            peer.read_exact(&mut byte).expect("the guest's answer");
            peer.write_all(&byte).expect("a word to the guest");
            from.read_exact(&mut byte).expect("the guest's answer");
            to.write_all(&byte).expect("a word to the guest");
            receiver.recv(&mut byte).expect("the guest's answer");
            scene.verdict(&mut guest);
        }
        scene.nobody_left();
    }
}

/// Where the sockets of a program were is something else by now.
#[test]
fn socket_names_of_others() {
    use std::os::unix::net::UnixListener;
    let program = guest!("unixnames");
    let scene = Scene::new("unixnames");
    let mut held = job(&scene, &program, &[]);
    let image = scene.image("x.ckpt.tar");
    scene.save(&image, &["--keep-running"]);
    let refused = |words: &[&str]| {
        let output = scene.output("ckpt-resume", scene.ckpt("ckpt-resume", &[]).arg(&image));
        failed(&scene, &output, REFUSED, words);
    };
    refused(&["door): the socket is still in use", "@ckpt-guest-", "another program has this abstract name"]);
    scene.save(&image, &["--kill"]);
    scene.end_of(&mut held);
    let door = scene.work("door");
    // Not removed: the next one might get its inode number.
    fs::rename(&door, scene.work("old")).expect("the socket");
    let stranger = UnixListener::bind(&door).expect("a socket");
    refused(&["door): another program has a socket there", "hint: end that program"]);
    drop(stranger);
    fs::rename(scene.work("inbox"), scene.work("elsewhere")).expect("the socket");
    fs::write(scene.work("inbox"), "mine").expect("a file");
    refused(&["inbox): something else is where its socket was"]);
    assert_eq!(scene.text("inbox"), "mine");
    fs::remove_file(scene.work("inbox")).expect("a file");
    // A socket that nobody has any more, and none at all, are nothing in the way.
    comes_back(&scene, &image);
}
