//! Programs at a terminal that somebody types at: job control, settings, signals by keys, sizes; editors, shells and tmux.

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::app::have;
use harness::{Build, Proc, Scene, bin, compile, poll_for, skip};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};

/// A terminal and who sits at it.
struct Terminal {
    keys: fs::File,
    slave: OwnedFd,
    /// What was shown and not yet looked at.
    shown: String,
}

impl Terminal {
    fn new() -> Terminal {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal");
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("O_NONBLOCK");
        // Of those who sit at it nobody has them.
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("FD_CLOEXEC");
        }
        Terminal { keys: pty.master.into(), slave: pty.slave, shown: String::new() }
    }

    /// Starts a command in a session of its own, at this terminal.
    fn start(&self, scene: &Scene, program: &Path, args: &[&str]) -> Proc {
        let mut command = scene.command("setsid");
        command.arg("-c").arg(program).args(args).env("TERM", "vt100").env("PS1", "PROMPT ");
        command.env("PATH", format!("{}:{}", program_directory().display(), harness::PATH));
        let end = || self.slave.try_clone().expect("the terminal");
        command.stdin(end()).stdout(end()).stderr(end());
        scene.start_as_told(&program.to_string_lossy(), &mut command)
    }

    /// Starts `ckpt-resume`, which hands through what is typed from now on: before, the terminal itself would show it, too.
    fn resume(&self, scene: &Scene, image: &Path) -> Proc {
        let job = self.start(scene, &bin("ckpt-resume"), &[image.to_str().expect("a path")]);
        let raw = || (!self.settings().local_flags.contains(LocalFlags::ECHO)).then_some(());
        if poll_for(harness::deadline(), raw).is_none() {
            scene.fail("the terminal is never handed through");
        }
        job
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a key");
    }

    /// Waits until it shows this, and forgets all up to that.
    fn shows(&mut self, scene: &Scene, text: &str) {
        let found = poll_for(harness::deadline(), || {
            let mut buffer = [0; 4096];
            if let Ok(n) = self.keys.read(&mut buffer) {
                self.shown.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
            self.shown.find(text)
        });
        match found {
            Some(at) => drop(self.shown.drain(..at + text.len())),
            None => scene.fail(&format!("waited in vain for {text:?}; the terminal shows {:?}", self.shown)),
        }
    }

    fn settings(&self) -> Termios {
        tcgetattr(self.slave.as_fd()).expect("settings")
    }

    fn resize(&self, rows: u32, columns: u32) {
        let [rows, columns] = [rows, columns].map(|n| n.to_string());
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows, "cols", &columns]).stdin(self.slave.try_clone().expect("the terminal"));
        assert!(stty.status().expect("stty").success());
    }
}

fn program_directory() -> PathBuf {
    bin("ckpt").parent().expect("a directory").to_owned()
}

/// Starts the scene's program under `ckpt-run`.
fn start_run(scene: &Scene, terminal: &Terminal, argv: &[&str]) -> Proc {
    terminal.start(scene, &bin("ckpt-run"), &[&["-n", &scene.name, "--"], argv].concat())
}

/// Saves and ends the job, which leaves the terminal as it was, and resumes it.
fn next_life(scene: &Scene, terminal: &Terminal, job: &mut Proc, generation: u32) {
    let image = scene.image(format!("{generation}.ckpt.tar"));
    scene.save(&image, &["--kill"]);
    assert_eq!(scene.end_of(job).code(), Some(85));
    scene.nobody_left();
    *job = terminal.resume(scene, &image);
}

#[test]
fn a_job_in_the_foreground() {
    let Some(program) = compile("guests/terminal.c", Build::Dynamic) else { return skip("terminal", "no gcc") };
    let (scene, mut terminal) = (Scene::new("terminal"), Terminal::new());
    let before = terminal.settings();
    let mut job = start_run(&scene, &terminal, &[program.to_str().expect("a path")]);
    terminal.shows(&scene, "ready");
    for generation in 0..4 {
        if generation > 0 {
            next_life(&scene, &terminal, &mut job, generation);
            // Whoever can draw is told to.
            terminal.shows(&scene, "size 24 80");
        }
        for going_on in [false, true] {
            if going_on {
                scene.save(&scene.image("going-on.ckpt.tar"), &[]);
            }
            terminal.press("a");
            terminal.shows(&scene, "key a");
            terminal.press("\x03");
            terminal.shows(&scene, "interrupted");
            terminal.resize(30, 100);
            terminal.shows(&scene, "size 30 100");
            terminal.resize(24, 80);
            terminal.shows(&scene, "size 24 80");
            terminal.press("\x1a");
            terminal.shows(&scene, "stopped");
            if going_on {
                scene.save(&scene.image("stopped.ckpt.tar"), &[]);
            }
            terminal.press("f");
            terminal.press("b");
            terminal.shows(&scene, "key b");
        }
        // Held while the job is stopped and its shell in the foreground.
        terminal.press("\x1a");
        terminal.shows(&scene, "stopped");
        next_life(&scene, &terminal, &mut job, 10 + generation);
        terminal.press("fc");
        terminal.shows(&scene, "key c");
    }
    terminal.press("q");
    terminal.shows(&scene, "PASS");
    assert!(scene.end_of(&mut job).success());
    assert!(same(&terminal.settings(), &before), "the terminal is left with other settings");
    scene.nobody_left();
}

/// What we say while our terminal hands everything through ends its lines as on any other.
#[test]
fn words_of_ours_while_the_terminal_is_the_programs() {
    let Some(program) = compile("guests/terminal.c", Build::Dynamic) else { return skip("terminal", "no gcc") };
    let (scene, mut terminal) = (Scene::new("terminal"), Terminal::new());
    let mut job = start_run(&scene, &terminal, &[program.to_str().expect("a path")]);
    terminal.shows(&scene, "ready");
    let image = scene.image("1.ckpt.tar");
    scene.save(&image, &["--kill"]);
    assert_eq!(scene.end_of(&mut job).code(), Some(85));
    job = terminal.start(&scene, &bin("ckpt-resume"), &["-vv", image.to_str().expect("a path")]);
    terminal.shows(&scene, "size 24 80");
    scene.save(&scene.image("2.ckpt.tar"), &["--keep-running"]);
    for words in ["ckpt: looked after=", "ckpt: copied after="] {
        terminal.shows(&scene, words);
        terminal.shows(&scene, "s\r\n");
    }
    terminal.press("q");
    terminal.shows(&scene, "PASS");
    assert!(scene.end_of(&mut job).success());
}

#[test]
fn a_guest_at_a_terminal_can_fail() {
    let Some(program) = compile("guests/terminal.c", Build::Dynamic) else { return skip("terminal", "no gcc") };
    let (scene, mut terminal) = (Scene::new("terminal"), Terminal::new());
    let mut job = start_run(&scene, &terminal, &[program.to_str().expect("a path")]);
    terminal.shows(&scene, "ready");
    scene.tell("spoil");
    terminal.press("a\n");
    poll_for(harness::deadline(), || scene.text("fails.log").contains("other settings").then_some(()))
        .expect("a complaint");
    assert!(poll_for(harness::deadline(), || job.ended()).is_some_and(|status| !status.success()));
}

/// Around it a shell, which takes the terminal when the job stops and gives it back.
#[test]
fn the_shell_outside_stops_and_continues_it() {
    if !have("bash", "the_shell_outside") {
        return;
    }
    let (scene, mut terminal) = (Scene::new("echo"), Terminal::new());
    let image = scene.image("1.ckpt.tar");
    let mut shell = terminal.start(&scene, Path::new("bash"), &["--norc", "-i"]);
    terminal.shows(&scene, "PROMPT ");
    let script = "stty -echo; while read x; do echo got $x; done; stty echo";
    terminal.press(&format!("ckpt-run -n echo -- sh -c '{script}'\none\n"));
    terminal.shows(&scene, "got one");
    terminal.press("\x1a");
    terminal.shows(&scene, "Stopped");
    terminal.press("fg\ntwo\n");
    terminal.shows(&scene, "got two");
    scene.save(&image, &["--kill"]);
    terminal.shows(&scene, "PROMPT ");
    terminal.press("echo status $?\n");
    terminal.shows(&scene, "status 85");
    terminal.press(&format!("ckpt-resume {}; echo status $?\nthree\n", image.display()));
    terminal.shows(&scene, "got three");
    terminal.press("\x1a");
    terminal.shows(&scene, "Stopped");
    terminal.press("echo hel''lo\n");
    terminal.shows(&scene, "hello");
    terminal.press("bg\n");
    terminal.press("echo hel''lo again\n");
    terminal.shows(&scene, "hello again");
    terminal.press("fg\nfour\n");
    terminal.shows(&scene, "got four");
    terminal.press("\x04");
    terminal.shows(&scene, "PROMPT ");
    terminal.press("exit 3\n");
    assert_eq!(scene.end_of(&mut shell).code(), Some(3));
    scene.nobody_left();
}

/// An interactive shell with jobs of its own.
#[test]
fn bash() {
    if !have("bash", "bash") {
        return;
    }
    let (scene, mut terminal) = (Scene::new("bash"), Terminal::new());
    let before = terminal.settings();
    let mut job = start_run(&scene, &terminal, &["bash", "--norc", "-i"]);
    terminal.shows(&scene, "PROMPT ");
    terminal.press("x=5; sleep 1000 &\n");
    terminal.press("echo $(jobs)\n");
    terminal.shows(&scene, "Running");
    // Not only the terminal has what was typed, but the program, too.
    terminal.press("sed -u s/to/from/\nto sed\n");
    terminal.shows(&scene, "from sed");
    // A shell is ended in the middle of its line editor, as the leader of the foreground group.
    terminal.press("\x03");
    terminal.shows(&scene, "PROMPT ");
    let image = scene.image("0.ckpt.tar");
    scene.save(&image, &["--kill"]);
    assert_eq!(scene.end_of(&mut job).code(), Some(85));
    assert!(same(&terminal.settings(), &before), "the terminal is left with the shell's settings");
    job = terminal.resume(&scene, &image);
    terminal.press("sed -u s/to/from/\nto sed\n");
    terminal.shows(&scene, "from sed");
    for generation in 1..=3 {
        next_life(&scene, &terminal, &mut job, generation);
        terminal.press("again\n");
        terminal.shows(&scene, "again\r\nagain");
        terminal.press("\x1a");
        terminal.shows(&scene, "Stopped");
        terminal.press("echo x is $x\n");
        terminal.shows(&scene, "x is 5");
        next_life(&scene, &terminal, &mut job, 10 + generation);
        terminal.press("fg %2\n");
        terminal.shows(&scene, "from/\r\n");
        terminal.press("third\n");
        terminal.shows(&scene, "third\r\nthird");
    }
    terminal.press("\x03");
    terminal.shows(&scene, "PROMPT ");
    terminal.press("kill %1; exit 4\n");
    assert_eq!(scene.end_of(&mut job).code(), Some(4));
    scene.nobody_left();
}

/// An editor with a text that is in no file.
#[test]
fn vim() {
    if !have("vi", "vim") {
        return;
    }
    let (scene, mut terminal) = (Scene::new("vim"), Terminal::new());
    let mut job = start_run(&scene, &terminal, &["vi", "-u", "NONE", "-N", "-n", "text"]);
    terminal.shows(&scene, "[New]");
    terminal.press("ifirst\r");
    terminal.shows(&scene, "first");
    for generation in 1..=3 {
        next_life(&scene, &terminal, &mut job, generation);
        // It draws its screen anew.
        terminal.shows(&scene, "INSERT");
        terminal.press(&format!("life{generation}\r"));
        terminal.shows(&scene, &format!("life{generation}"));
    }
    terminal.press("\x1bu:w empty\r\x12:wq\r");
    assert_eq!(scene.end_of(&mut job).code(), Some(0));
    assert!(scene.work("empty").exists());
    // All was typed in one go, and undone and done again as such.
    assert_eq!((scene.text("empty").as_str(), scene.text("text").as_str()), ("", "first\nlife1\nlife2\nlife3\n\n"));
    scene.nobody_left();
}

/// Server, client and two shells at terminals of the server's.
#[test]
fn tmux() {
    if !have("tmux", "tmux") {
        return;
    }
    let (scene, mut terminal) = (Scene::new("tmux"), Terminal::new());
    // The shell that starts a pane's may have a prompt of its own.
    let conf = "set -g default-command \"PS1='PROMPT ' exec bash --norc\"\nset -g assume-paste-time 0\n";
    fs::write(scene.work("conf"), conf).expect("a file");
    let mut job = start_run(&scene, &terminal, &["tmux", "-S", "socket", "-f", "conf"]);
    for (split, side) in [("", "left"), ("\x02%", "right")] {
        terminal.press(split);
        terminal.shows(&scene, "PROMPT ");
        terminal.press(&format!("x={side}; echo $x >said\r"));
        scene.wait("a pane's word", || (scene.text("said") == format!("{side}\n")).then_some(()));
    }
    for generation in 1..=3 {
        next_life(&scene, &terminal, &mut job, generation);
        for side in ["right", "left"] {
            terminal.press(&format!("echo $x >said.{generation}.$x\r"));
            let file = format!("said.{generation}.{side}");
            scene.wait("a pane's word", || (scene.text(&file) == format!("{side}\n")).then_some(()));
            terminal.press("\x02o");
        }
    }
    terminal.press("tmux kill-session\r");
    terminal.shows(&scene, "[exited]");
    assert_eq!(scene.end_of(&mut job).code(), Some(0));
    scene.nobody_left();
}

/// It draws anew only what another size makes it draw.
#[test]
fn screen() {
    if !have("screen", "screen") {
        return;
    }
    let (scene, mut terminal) = (Scene::new("screen"), Terminal::new());
    // Where screen keeps its sockets by default others may not make any.
    let sockets = scene.work("sockets");
    fs::create_dir(&sockets).expect("a directory");
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700)).expect("permissions");
    let variable = format!("SCREENDIR={}", sockets.display());
    let argv = ["env", &variable, "PS1=PROMPT ", "screen", "-c", "/dev/null", "bash", "--norc"];
    let mut job = start_run(&scene, &terminal, &argv);
    terminal.shows(&scene, "PROMPT ");
    terminal.press("x=5; echo FIR''ST\r");
    terminal.shows(&scene, "FIRST");
    terminal.press("\x01c");
    terminal.shows(&scene, "PROMPT ");
    terminal.press("echo SEC''OND\r");
    terminal.shows(&scene, "SECOND");
    for generation in 1..=3 {
        next_life(&scene, &terminal, &mut job, generation);
        terminal.shows(&scene, "SECOND");
        terminal.press("\x01\x01");
        terminal.shows(&scene, "FIRST");
        // What a shell starts has its terminal, too.
        terminal.press(&format!("stty >settings && echo life$x.{generation}\r"));
        terminal.shows(&scene, &format!("life5.{generation}"));
        terminal.press("\x01\x01");
        terminal.shows(&scene, "SECOND");
    }
    terminal.press("\x01:quit\r");
    terminal.shows(&scene, "[screen is terminating]");
    assert_eq!(scene.end_of(&mut job).code(), Some(0));
    scene.nobody_left();
}

fn same(a: &Termios, b: &Termios) -> bool {
    /// So many control characters the kernel has (asm/termbits.h, NCCS); C libraries have room for more.
    const KNOWN: usize = 19;
    let characters = |t: &Termios| t.control_chars[..KNOWN].to_vec();
    let all = |t: &Termios| (t.input_flags, t.output_flags, t.control_flags, t.local_flags, characters(t));
    all(a) == all(b)
}
