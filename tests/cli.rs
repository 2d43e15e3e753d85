//! What a person sees: messages, exit statuses, signals, names and sockets; everything that needs no image.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A directory to work in, with a runtime directory of its own.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("run");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(&runtime, Permissions::from_mode(0o700)).unwrap();
        Place(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.path().join(format!("run/ckpt/{name}.sock"))
    }

    /// One of our programs, in this directory, with nothing of ours in its environment.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(binary(program));
        self.settle(&mut command);
        command
    }

    fn settle(&self, command: &mut Command) {
        command.current_dir(self.path()).stdin(Stdio::null()).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("XDG_RUNTIME_DIR", self.path().join("run"));
    }

    fn output(&self, program: &str, args: &[&str]) -> Output {
        self.command(program).args(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.output("ckpt", args);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A job that has said `ready`, with its standard input and output in our hands.
    fn job(&self, name: &str, script: &str) -> Job {
        let mut command = self.command("ckpt-run");
        command.args(["-n", name, "--", "sh", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Job { child, lines }
    }
}

fn binary(program: &str) -> PathBuf {
    // An archive of tests that runs elsewhere says where its programs are.
    let moved = [program.to_owned(), program.replace('-', "_")]
        .iter()
        .find_map(|name| std::env::var_os(format!("NEXTEST_BIN_EXE_{name}")));
    moved.map_or_else(
        || match program {
            "ckpt" => env!("CARGO_BIN_EXE_ckpt").into(),
            "ckpt-run" => env!("CARGO_BIN_EXE_ckpt-run").into(),
            "ckpt-attach" => env!("CARGO_BIN_EXE_ckpt-attach").into(),
            "ckpt-resume" => env!("CARGO_BIN_EXE_ckpt-resume").into(),
            other => panic!("no program {other}"),
        },
        PathBuf::from,
    )
}

struct Job {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Job {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ends the standard input of the program and waits.
    fn finish(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().unwrap()
    }
}

/// Looks again and again until something holds.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Checks exit status and the first words on standard error, which must be ours.
#[track_caller]
fn fails(output: &Output, status: i32, message: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert!(text.starts_with(&format!("ckpt: {message}")), "{text}");
    assert_eq!(output.stdout, b"");
}

#[test]
fn wrong_usage_is_two() {
    let place = Place::new();
    fails(&place.output("ckpt", &["fly"]), 2, "unrecognized subcommand 'fly'");
    fails(&place.output("ckpt-run", &[]), 2, "the following required arguments were not provided");
    fails(&place.output("ckpt-run", &["--fly", "true"]), 2, "unexpected argument '--fly' found");
    fails(&place.output("ckpt-attach", &["0"]), 2, "invalid value '0'");
    fails(&place.output("ckpt-attach", &["--kill", "--stop", "1"]), 2, "--stop and --kill cannot be used together");
    fails(&place.output("ckpt", &["save", "x", "--timeout", "soon"]), 2, "invalid value 'soon' for '--timeout");
    fails(&place.output("ckpt-run", &["-o", "{x}", "true"]), 2, "unknown part {x} in the file name");
    for name in ["", "a/b", "..", "123"] {
        fails(&place.output("ckpt-run", &["-n", name, "true"]), 2, &format!("{name:?} cannot be the name of a job"));
    }
    let nothing = place.output("ckpt", &[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr(&nothing).contains("Usage: ckpt <COMMAND>"));
}

#[test]
fn an_image_does_not_go_to_a_closed_standard_output() {
    let place = Place::new();
    let script = "\"$@\" >&-";
    let mut job = place.job("job", "echo ready; read line");
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = other.id().to_string();
    for (program, args) in
        [("ckpt", ["save", "job", "--kill", "-o", "-"].as_slice()), ("ckpt-attach", &[&pid, "--kill", "-o", "-"])]
    {
        let mut command = Command::new("sh");
        place.settle(&mut command);
        let output = command.args(["-c", script, "sh"]).arg(binary(program)).args(args).output().unwrap();
        fails(&output, 2, "standard output is closed\nhint: ");
    }
    assert!(other.try_wait().unwrap().is_none() && job.child.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(job.finish().code() == Some(1));
}

#[test]
fn help_and_version_are_data() {
    let place = Place::new();
    for program in ["ckpt", "ckpt-run", "ckpt-attach", "ckpt-resume"] {
        let version = place.output(program, &["-V"]);
        assert_eq!(version.status.code(), Some(0));
        let expected = format!("{program} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
        let help = place.output(program, &["--help"]);
        assert!(help.status.success() && help.stderr.is_empty());
        assert!(String::from_utf8(help.stdout).unwrap().contains(&format!("Usage: {program}")));
    }
}

#[test]
fn a_program_that_cannot_start_is_126_or_127() {
    let place = Place::new();
    let cannot = |program: &str, status, reason: &str| {
        let output = place.output("ckpt-run", &["--", program]);
        fails(&output, status, &format!("cannot start {program}: {reason}\n"));
    };
    cannot("no-such-program", 127, "No such file or directory");
    cannot("./no-such-program", 127, "No such file or directory");
    fs::write(place.path().join("data"), "x").unwrap();
    cannot("./data", 126, "Permission denied");
    cannot("/", 126, "Permission denied");
    fs::write(place.path().join("script"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(place.path().join("script"), Permissions::from_mode(0o755)).unwrap();
    cannot("./script", 126, "No such file or directory");
    assert_eq!(fs::read_dir(place.path().join("run/ckpt")).unwrap().count(), 0, "no socket is left");
}

#[test]
fn the_end_of_the_program_is_ours() {
    let place = Place::new();
    for status in [0, 1, 85, 125, 255] {
        let ended = place.output("ckpt-run", &["--", "sh", "-c", &format!("exit {status}")]);
        assert_eq!((ended.status.code(), stderr(&ended)), (Some(status), String::new()));
    }
    // By TERM, KILL, SEGV, PIPE, USR1 and a real-time signal.
    for signal in [15, 9, 11, 13, 10, 40] {
        let ended = place.output("ckpt-run", &["--", "sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(ended.status.signal(), Some(signal));
        assert!(!ended.status.core_dumped());
    }
}

#[test]
fn the_program_is_started_as_we_were() {
    let place = Place::new();
    // Masks, ignored signals, umask, groups; descriptors with what is behind them; a closed standard input.
    let script = "grep -E '^(Sig|Shd|Umask|Groups|NoNewPrivs|Seccomp:|TracerPid)' /proc/self/status | grep -v SigQ
        for fd in /proc/$$/fd/*; do echo ${fd##*/} $(readlink $fd); done
        echo $PWD $0 $# $1; env | grep -v ^CKPT | grep -v ^_= | sort";
    let run = |wrapper: &[&str], before: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{before} exec \"$@\""), "sh"]).args(wrapper);
        command.args(["sh", "-c", script, "zero", "a b"]);
        place.settle(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        // Pipes are made anew by every call.
        text.lines().filter(|line| !line.contains("pipe:[")).map(str::to_owned).collect::<Vec<_>>()
    };
    let supervised = [binary("ckpt-run").into_os_string().into_string().unwrap(), "--".into()];
    let supervised: Vec<&str> = supervised.iter().map(String::as_str).collect();
    for before in ["", "trap '' PIPE CHLD INT HUP;", "exec 0<&- 7</dev/zero;", "umask 27;"] {
        let direct = run(&[], before);
        assert!(direct.len() > 10);
        assert_eq!(run(&supervised, before), direct, "after {before:?}");
    }
}

#[test]
fn the_program_knows_its_job() {
    let place = Place::new();
    let script = "echo $CKPT $CKPT_NAME $CKPT_SOCKET; test -S $CKPT_SOCKET && echo socket";
    let output = place.output("ckpt-run", &["-n", "me", "--", "sh", "-c", script]);
    let expected = format!("1 me {}\nsocket\n", place.socket("me").display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert!(!place.socket("me").exists());
    // A job inside a job takes a name of its own.
    let run = binary("ckpt-run");
    let inner = place.output("ckpt-run", &["-n", "me", "--", run.to_str().unwrap(), "sh", "-c", "echo $CKPT_NAME"]);
    let name = String::from_utf8(inner.stdout).unwrap();
    assert!(inner.status.success() && name.starts_with("sh-"), "{name}");
    // Outside of a job the variable is the option.
    let outside = place.command("ckpt-run").env("CKPT_NAME", "x").args(["sh", "-c", "echo $CKPT_NAME"]).output();
    assert_eq!(outside.unwrap().stdout, b"x\n");
}

#[test]
fn a_program_may_ask_for_its_own_save() {
    let place = Place::new();
    let script = "$0 save $CKPT_NAME --kill -o x.tar 2>said; echo status $?; cat said; exit 7";
    let ckpt = binary("ckpt");
    let run = place.output("ckpt-run", &["-n", "me", "--", "sh", "-c", script, ckpt.to_str().unwrap()]);
    assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(85), &b""[..]), "{run:?}");
    // Its call has two ends, like fork: that in the image was not told of the image, but knows that it is good.
    let resumed = place.output("ckpt-resume", &["x.tar"]);
    assert_eq!(resumed.status.code(), Some(7), "{resumed:?}");
    assert_eq!(String::from_utf8(resumed.stdout).unwrap(), "status 0\nckpt: resumed: me goes on from its image\n");
}

#[test]
fn attach_does_not_save_itself() {
    let place = Place::new();
    let attach = binary("ckpt-attach");
    let mut shell = Command::new("sh");
    place.settle(&mut shell);
    let output = shell.args(["-c", "$0 $$; exit $?", attach.to_str().unwrap()]).output().unwrap();
    fails(&output, 6, "not permitted to hold pid");
    assert!(stderr(&output).contains("it is this command, which can't save itself\nhint: "), "{output:?}");
}

#[test]
fn a_living_name_is_refused_and_a_dead_one_taken() {
    let place = Place::new();
    let mut first = place.job("job", "echo ready; read x");
    let message = format!("a job named job is running (supervisor pid {})", first.child.id());
    fails(&place.output("ckpt-run", &["-n", "job", "true"]), 125, &message);

    // Killed, a supervisor leaves its program running and its socket behind.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(place.socket("job").exists());
    assert_eq!(place.json(&["ls", "--json"]), serde_json::json!([]));
    assert!(!place.socket("job").exists());

    drop(UnixListener::bind(place.socket("job")).unwrap());
    assert!(place.output("ckpt-run", &["-n", "job", "true"]).status.success());
}

#[test]
fn the_program_outlives_a_killed_supervisor() {
    let place = Place::new();
    let mut job = place.job("job", "echo ready; read word; echo alive $word");
    let mut stdin = job.child.stdin.take().unwrap();
    job.child.kill().unwrap();
    assert_eq!(job.child.wait().unwrap().signal(), Some(9));
    stdin.write_all(b"still\n").unwrap();
    assert_eq!(job.line(), "alive still");
}

#[test]
fn a_word_that_says_neither_ends_no_program() {
    let place = Place::new();
    let job = place.job("one", "echo ready; read x");
    let output = place.command("ckpt").args(["save", "one", "-o", "x.tar"]).env("CKPT_KILL", "maybe").output().unwrap();
    fails(&output, 2, "invalid value 'maybe' for '--kill': neither yes nor no");
    assert!(!place.path().join("x.tar").exists());
    assert_eq!(place.json(&["ls", "--json"])[0]["state"], "running");
    assert!(job.finish().code().is_some());
}

#[test]
fn names_in_messages_stay_in_their_line() {
    let place = Place::new();
    for verb in ["resume", "verify", "status"] {
        let output = place.output("ckpt", &[verb, "a\u{1b}[31m\nckpt: b"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && !said.contains('\u{1b}') && !said.contains("\nckpt: b"), "{said:?}");
    }
}

#[test]
fn directories_may_have_braces() {
    let place = Place::new();
    let odd = place.path().join("{{cookiecutter.name}}");
    fs::create_dir(&odd).unwrap();
    let output = place.command("ckpt-run").args(["-q", "--", "echo", "hello"]).current_dir(&odd).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"hello\n"[..]), "{output:?}");
    let job = place.job("one", "echo ready; read x");
    let save = |dir: &Path, output: &[&str]| {
        let output = place.command("ckpt").args(["save", "one", "-q"]).args(output).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    save(&odd, &["-o", "one.tar"]);
    save(place.path(), &["-o", "{{cookiecutter.name}}"]);
    save(place.path(), &["-o", "{{{{cookiecutter.name}}}}/{name}2.tar"]);
    assert!(job.finish().code().is_some());
    let mut names: Vec<_> =
        fs::read_dir(&odd).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(matches!(&names[..], [a, b, c] if a.starts_with("one-") && b == "one.tar" && c == "one2.tar"), "{names:?}");
}

#[test]
fn jobs_are_listed_and_tell_their_status() {
    let place = Place::new();
    let job = place.job("one", "echo ready; read x");
    let listed = place.json(&["ls", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let status = place.json(&["status", "one", "--json"]);
    assert_eq!(listed[0], status);
    assert_eq!(status["schema"], "ckpt.status/1");
    assert_eq!((&status["name"], &status["state"]), (&"one".into(), &"running".into()));
    assert_eq!((&status["supervisor"], &status["processes"]), (&job.child.id().into(), &1.into()));
    assert_eq!(status["command"], serde_json::json!(["sh", "-c", "echo ready; read x"]));
    let text = String::from_utf8(place.output("ckpt", &["ls"]).stdout).unwrap();
    assert!(text.starts_with("NAME ") && text.contains("\none "), "{text}");
    assert!(job.finish().code().is_some());
    fails(&place.output("ckpt", &["status", "one"]), 1, "no job named one is running\nhint: `ckpt ls`");
}

#[test]
fn signals_reach_the_program() {
    let place = Place::new();
    for (name, signal) in [
        ("TERM", Signal::SIGTERM),
        ("HUP", Signal::SIGHUP),
        ("USR1", Signal::SIGUSR1),
        ("USR2", Signal::SIGUSR2),
        ("CONT", Signal::SIGCONT),
    ] {
        // A trap runs when the command in the foreground ends: none that lasts.
        let mut job =
            place.job("job", &format!("trap 'echo got {name}' {name}; echo ready; while :; do read x && exit 7; done"));
        kill(job.pid(), signal).unwrap();
        assert_eq!(job.line(), format!("got {name}"));
        job.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(job.finish().code(), Some(7), "{name}");
    }
    // Those that the terminal sends to the whole foreground group must not come twice, and not end us.
    let mut job = place.job("job", "trap 'echo again' INT; echo ready; read x; echo $x");
    kill(job.pid(), Signal::SIGINT).unwrap();
    job.child.stdin.as_mut().unwrap().write_all(b"once\n").unwrap();
    assert_eq!(job.line(), "once");
    assert_eq!(job.finish().code(), Some(0));
}

#[test]
fn a_program_that_its_terminal_stops_takes_us_along() {
    let place = Place::new();
    let mut command = place.command("ckpt-run");
    command.args(["-n", "job", "--", "sh", "-c", "kill -TSTP $$; exit 5"]).process_group(0);
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let stopped = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, nix::sys::wait::WaitStatus::Stopped(pid, Signal::SIGTSTP));
    fails(
        &place.output("ckpt", &["save", "job"]),
        1,
        &format!("the supervisor of job (pid {pid}) does not answer: it is stopped"),
    );
    assert_eq!(place.json(&["ls", "--json"])[0]["state"], "stopped");
    killpg(pid, Signal::SIGCONT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn orphans_are_ours() {
    let place = Place::new();
    // The orphan waits until its parent is a supervisor, and says so.
    let orphan = "until read -r _ _ _ parent _ </proc/$$/stat; [ \"$(cat /proc/$parent/comm)\" = ckpt-run ]; do :; done; echo $parent";
    let script = format!("echo ready; (sh -c '{}' &); read x", orphan.replace('\'', "'\\''"));
    let mut job = place.job("job", &script);
    assert_eq!(job.line(), job.child.id().to_string());
    // It has ended, or will: reaped, it leaves only the root.
    eventually("the orphan is reaped", || (place.json(&["status", "job", "--json"])["processes"] == 1).then_some(()));
    assert!(job.finish().code().is_some());
}

#[test]
fn kill_ends_a_job() {
    let place = Place::new();
    let mut job = place.job("job", "exec 3<&0; sh -c 'echo ready; read x <&3' & wait");
    let output = place.output("ckpt", &["kill", "job"]);
    assert_eq!(stderr(&output), "ckpt: ended job (2 processes, by SIGTERM)\n");
    assert_eq!(job.child.wait().unwrap().signal(), Some(15));
    assert!(!place.socket("job").exists());
    let mut rest = String::new();
    job.lines.read_to_string(&mut rest).unwrap(); // ends only when nobody holds the pipe any more
    fails(&place.output("ckpt", &["kill", "job"]), 1, "no job named job is running");
}

#[test]
fn hostile_clients_change_nothing() {
    let place = Place::new();
    let mut job = place.job("job", "echo ready; read x; echo $x");
    let connect = || UnixStream::connect(place.socket("job")).unwrap();
    let endless = vec![b'a'; 1 << 20];
    for bytes in [&b"\0\xff\xfe\n"[..], b"\n\n\n", b"{\"request\":\"kill\",\"signal\":-1}\n", b"[[[[", &endless] {
        let mut stream = connect();
        let _ = stream.write_all(bytes); // we may be cut off
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("{\"reply\":\"failed\""), "{answer}");
    }
    // Some say nothing, some leave in the middle, and a crowd of them is turned away.
    let crowd: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    drop(crowd);
    let status = eventually("it serves again", || {
        let output = place.output("ckpt", &["status", "job", "--json"]);
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    });
    assert_eq!(status["state"], "running");
    let mut silent = connect();
    silent.write_all(b"{\"request\":\"sta").unwrap();
    place.json(&["ls", "--json"]);
    silent.write_all(b"tus\"}\n").unwrap();
    let mut line = String::new();
    BufReader::new(silent).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"reply\":\"status\",\"name\":\"job\""), "{line}");
    job.child.stdin.as_mut().unwrap().write_all(b"fine\n").unwrap();
    assert_eq!(job.line(), "fine");
    assert_eq!(job.finish().code(), Some(0));
}

#[test]
fn an_idle_supervisor_uses_no_time() {
    let place = Place::new();
    let job = place.job("job", "echo ready; read x");
    let client = UnixStream::connect(place.socket("job")).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap(); // readable for ever
    place.json(&["ls", "--json"]);
    // It goes to sleep, and the next question is answered by a process that has slept in between.
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", job.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = eventually("it sleeps", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", job.child.id())).unwrap();
        stat.contains(") S ").then(switches)
    });
    place.json(&["ls", "--json"]);
    assert!(switches() > before);
    assert!(job.finish().code().is_some());
}

/// A supervisor that is none: it hands its one connection to `serve`.
fn pretend(place: &Place, name: &str, serve: impl FnOnce(UnixStream) + Send + 'static) -> std::thread::JoinHandle<()> {
    let directory = place.path().join("run/ckpt");
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    let listener = UnixListener::bind(place.socket(name)).unwrap();
    std::thread::spawn(move || serve(listener.accept().unwrap().0))
}

#[test]
fn an_interrupted_save_is_cancelled_and_waited_for() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let place = Place::new();
        let (asked, heard) = std::sync::mpsc::channel();
        let supervisor = pretend(&place, "job", move |stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            asked.send(line.clone()).unwrap();
            line.clear();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "{\"request\":\"cancel\"}\n");
            let reply = b"{\"reply\":\"failed\",\"kind\":\"failed\",\"messages\":[{\"text\":\"the save was cancelled\",\"hint\":\"\"}]}\n";
            (&stream).write_all(reply).unwrap();
        });
        let mut command = place.command("ckpt");
        command.args(["save", "job", "-o", "x.tar"]).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let request: Value = serde_json::from_str(&heard.recv().unwrap()).unwrap();
        assert_eq!((&request["request"], &request["after"]), (&"save".into(), &"continue".into()));
        assert_eq!(request["output"].as_str(), place.path().join("x.tar").to_str());
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        fails(&output, 1, "the save was cancelled\n");
        supervisor.join().unwrap();
    }
}

#[test]
fn the_name_is_free_after_a_save_that_ends_the_job() {
    let place = Place::new();
    let socket = place.socket("job");
    let supervisor = pretend(&place, "job", move |mut stream| {
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        let reply = r#"{"reply":"saved","name":"job","pid":1,"path":"/x","bytes":1,"processes":1,"threads":1,"stopped":0.1,"took":0.1,"after":"kill"}"#;
        writeln!(stream, "{reply}").unwrap();
        // One that takes its time to let go of its name.
        std::thread::sleep(Duration::from_millis(300));
        fs::remove_file(socket).unwrap();
    });
    let output = place.output("ckpt", &["save", "job", "--kill"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!place.socket("job").exists());
    supervisor.join().unwrap();
}

#[test]
fn a_supervisor_that_dies_or_babbles_is_an_error() {
    let place = Place::new();
    let silent = pretend(&place, "silent", |stream| {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
    });
    fails(&place.output("ckpt", &["save", "silent"]), 1, "the supervisor of silent (pid");
    silent.join().unwrap();
    let babbling = pretend(&place, "babbling", |mut stream| stream.write_all(b"{\"reply\":\"what\"}\n").unwrap());
    fails(&place.output("ckpt", &["save", "babbling"]), 1, "the supervisor of babbling (pid");
    babbling.join().unwrap();
}

#[test]
fn what_is_not_there_is_said() {
    let place = Place::new();
    fails(&place.output("ckpt", &["save", "nobody"]), 1, "no job named nobody is running");
    // Above any pid the kernel gives out.
    fails(&place.output("ckpt-attach", &["2147483647"]), 7, "no process has pid 2147483647");
    fails(&place.output("ckpt", &["show", "none.tar"]), 1, "cannot open none.tar: No such file or directory\n");
    fails(&place.output("ckpt-resume", &["./none.tar"]), 125, "cannot open ./none.tar: No such file or directory\n");
    fails(&place.output("ckpt-resume", &["nobody"]), 125, "there is no file nobody, and no image of a job");
    fails(&place.output("ckpt-run", &["-d", "none", "true"]), 125, "none is not a directory");
    fs::write(place.path().join("bad.tar"), [b'x'; 5000]).unwrap();
    for args in [&["verify", "bad.tar"][..], &["show", "bad.tar"], &["resume", "bad.tar"], &["check", "./bad.tar"]] {
        let named = args[1];
        fails(&place.output("ckpt", args), 4, named);
    }
    fails(&place.output("ckpt-resume", &["--detach", "bad.tar"]), 4, "bad.tar");
}

#[test]
fn the_log_has_all_that_is_said_and_more() {
    let place = Place::new();
    let mut guest = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let pid = guest.id().to_string();
    let saved = |options: &[&str]| {
        let output = place.output("ckpt-attach", &[&[&pid[..]], options].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!saved(&["-v"]).contains("after="));
    let more = saved(&["-vv"]);
    assert!(more.contains("ckpt: looked after=") && more.contains("ckpt: saved "), "{more}");
    assert_eq!(saved(&["-q", "--log", "log"]), "");
    let failed = place.output("ckpt-attach", &["2147483647", "--log", "log"]);
    fails(&failed, 7, "no process has pid 2147483647");
    let log = fs::read_to_string(place.path().join("log")).unwrap();
    for line in log.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == "2026-01-31T12:00:00.123456Z".len() && time.ends_with('Z'), "{line}");
        assert!(rest.starts_with("ckpt["), "{line}");
    }
    for part in ["]: looked after=", "]: saved cat-", "]: no process has pid 2147483647"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    fails(
        &place.output("ckpt-attach", &["1", "--log", "none/log"]),
        1,
        "cannot open none/log: No such file or directory\nhint: ",
    );
    guest.kill().unwrap();
    guest.wait().unwrap();
}

#[test]
fn a_file_that_the_program_writes_to_is_its_own() {
    let place = Place::new();
    let log = fs::File::create(place.path().join("log")).unwrap();
    let mut command = place.command("ckpt-run");
    command.args(["-n", "job", "--", "sh", "-c", "echo start; read x; echo end"]).stdin(Stdio::piped());
    let mut run = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let text = || fs::read_to_string(place.path().join("log")).unwrap();
    while text().is_empty() {
        std::thread::yield_now();
    }
    assert!(place.output("ckpt", &["save", "job", "--kill"]).status.success());
    assert_eq!(run.wait().unwrap().code(), Some(85));
    assert_eq!(text(), "start\n");
}

#[test]
fn an_image_is_not_written_to_a_terminal() {
    let place = Place::new();
    let job = place.job("job", "echo ready; read x");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = place.command("ckpt");
    command.args(["save", "job", "-o", "-"]).stdout(terminal.slave).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    fails(&output, 2, "an image is nothing for a terminal\nhint: ");
    assert!(job.finish().code().is_some());
}

#[test]
fn check_names_what_it_finds() {
    let place = Place::new();
    let output = place.output("ckpt", &["check", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "ckpt.check/1");
    assert_eq!(output.status.code(), Some(if report["ok"] == true { 0 } else { 5 }));
    for finding in report["findings"].as_array().unwrap() {
        let (ok, hint) = (finding["ok"] == true, finding["hint"].as_str().unwrap());
        assert!(ok || !hint.is_empty(), "a way out for {finding}");
    }
    let text = place.output("ckpt", &["check"]).stdout;
    assert_eq!(String::from_utf8(text).unwrap().lines().filter(|line| line.starts_with("ok ")).count(), {
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["ok"] == true).count()
    });
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let place = Place::new();
    let (read, write) = nix::unistd::pipe().unwrap();
    drop(read);
    let mut command = place.command("ckpt");
    let output = command.args(["check"]).stdout(write).stderr(Stdio::piped()).spawn().unwrap().wait_with_output();
    let output = output.unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn a_directory_of_sockets_that_others_may_enter_is_refused() {
    let place = Place::new();
    let directory = place.path().join("run/ckpt");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    fails(&place.output("ckpt-run", &["true"]), 6, "cannot use ");
}

#[test]
fn clients_send_a_stream_along() {
    let place = Place::new();
    // A stand-in for the engine: what comes along is written to.
    let supervisor = pretend(&place, "job", |stream| {
        let mut buf = [0; 4096];
        let (len, fd) = ckpt::sys::unixfd::receive(std::os::fd::AsFd::as_fd(&stream), &mut buf).unwrap();
        let request: Value = serde_json::from_slice(&buf[..len]).unwrap();
        assert_eq!(request["stream"], true);
        let mut file = fs::File::from(fd.unwrap());
        assert!(file.as_raw_fd() > 2);
        file.write_all(b"the image").unwrap();
        drop(file);
        let reply = b"{\"reply\":\"saved\",\"name\":\"job\",\"pid\":1,\"path\":null,\"bytes\":9,\"processes\":1,\"threads\":1,\"stopped\":0.04,\"took\":0.61,\"after\":\"continue\"}\n";
        (&stream).write_all(reply).unwrap();
    });
    let output = place.output("ckpt", &["save", "job", "-o", "-"]);
    assert_eq!(output.stdout, b"the image");
    let line = "ckpt: saved job to standard output (9 B, 1 process, stopped 0.04 s, took 0.61 s)\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), line));
    supervisor.join().unwrap();
}
