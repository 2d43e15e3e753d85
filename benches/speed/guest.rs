//! The programs that are saved and resumed.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a guest may take for an answer: filling its memory comes first.
const PATIENCE_MS: u16 = 60_000;

/// Sources of the guests.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/guests")
}

/// Builds guest `name` into `dir`.
pub fn build(name: &str, dir: &Path) -> Result<PathBuf> {
    let out = dir.join(name);
    let source = sources().join(name).with_extension("c");
    let status = Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&out).arg(source).status();
    ensure!(status.context("cannot run cc")?.success(), "cc cannot build {name}");
    Ok(out)
}

/// A guest in Python, which leaves no compiled modules among its sources.
pub fn python(name: &str) -> Vec<PathBuf> {
    vec!["python3".into(), "-B".into(), sources().join(name).with_extension("py")]
}

/// Closes what whoever started us has left open to be inherited (a job server's pipes, say): a program with such
/// descriptors can't be saved, rightly.
pub fn close_inherited() -> Result<()> {
    let open = fs::read_dir("/proc/self/fd")?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    for fd in open.filter(|&fd| fd > 2).collect::<Vec<_>>() {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|l| i32::from_str_radix(l.strip_prefix("flags:")?.trim(), 8).ok());
        if flags.is_some_and(|f| f & OFlag::O_CLOEXEC.bits() == 0) {
            nix::unistd::close(fd)?;
        }
    }
    Ok(())
}

/// A guest, behind whatever command started it. Dropped, it is killed with everything below it.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    questions: Option<ChildStdin>,
    answers: ChildStdout,
}

impl Guest {
    /// Starts `command`, which must lead to a guest. Its standard error is the caller's choice: where that is a file,
    /// the image says so, and a resume wants to open it again.
    pub fn start(command: &mut Command) -> Result<Guest> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a guest")?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.context("no standard output")?;
        Ok(Guest { child, questions, answers })
    }

    /// Its pid, or that of the command in front of it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it moves, and returns how long it has stood still at most since the last question.
    pub fn ask(&mut self) -> Result<Duration> {
        let questions = self.questions.as_mut().context("it was told to end")?;
        questions.write_all(b"?").context("cannot ask the guest")?;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            match self.read()? {
                Some(byte) => line.push(byte),
                None => bail!("the guest ended without an answer"),
            }
        }
        let text = String::from_utf8(line)?;
        Ok(Duration::from_nanos(text.trim().parse().with_context(|| format!("a guest says {text:?}"))?))
    }

    fn read(&mut self) -> Result<Option<u8>> {
        let mut fds = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut fds, PATIENCE_MS)? > 0, "the guest does not answer");
        let mut byte = [0];
        Ok((self.answers.read(&mut byte)? == 1).then_some(byte[0]))
    }

    /// Ends it; it must end well.
    pub fn end(mut self) -> Result<()> {
        self.questions = None;
        while self.read()?.is_some() {}
        let status = self.child.wait()?;
        ensure!(status.success(), "the guest ended with {status}");
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            for pid in descendants(self.child.id() as i32) {
                // It may have ended by itself meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn descendants(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        let children: Vec<i32> = tasks
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        all.extend(children);
        next += 1;
    }
    all.split_off(1)
}

/// How long a command takes that ends well; what it wrote to standard output.
pub fn timed(command: &mut Command) -> Result<(Duration, Vec<u8>)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let took = start.elapsed();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    ensure!(output.status.success(), "{name} ended with {}", output.status);
    Ok((took, output.stdout))
}
