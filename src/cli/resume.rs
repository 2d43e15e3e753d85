//! `ckpt resume`: start a saved tree again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use nix::sys::signal::kill;

use super::exit::{Exit, Outcome};
use super::run::{absolute, become_supervisor, ended, name as chosen_name, output_in};
use super::say::{self, Talk};
use super::table::{harmless, table};
use super::{Done, open, switch, units};
use crate::capture::Keep;
use crate::image::Image;
use crate::model::{Checkpoint, Name};
use crate::proc;
use crate::restore::{self, Moves, Options};
use crate::supervise::keep::{self, Job, Signals, keep};
use crate::supervise::relay::Relay;
use crate::supervise::{Failure, FailureKind, engine, name, start, template};
use crate::sys::spawn::{self, Background};

/// Start a saved tree again, where it was held
///
/// In the foreground the exit status is the program's own.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The image, - for standard input, or the name of a job whose newest image in this directory is meant
    #[arg(value_name = "IMAGE|-|NAME")]
    image: PathBuf,
    /// Only show the plan and each conflict; create nothing
    #[arg(long, env = "CKPT_DRY_RUN", value_parser = switch::parse)]
    dry_run: bool,
    /// Run in the background; return when the program is running
    #[arg(long, env = "CKPT_DETACH", value_parser = switch::parse)]
    detach: bool,
    /// Pids of the program
    #[arg(long, value_enum, env = "CKPT_PIDS", default_value_t = Pids::Auto)]
    pids: Pids,
    /// Network of the program
    #[arg(long, value_enum, env = "CKPT_NET", default_value_t = Net::Host)]
    net: Net,
    /// Clocks of the program
    #[arg(long, value_enum, env = "CKPT_CLOCK", default_value_t = Clock::Keep)]
    clock: Clock,
    /// Files that have changed since the save or are gone
    #[arg(long, value_enum, env = "CKPT_FILES", default_value_t = Files::Auto)]
    files: Files,
    /// Sockets and pipes to somebody who is not in the image
    #[arg(long, value_enum, env = "CKPT_SOCKETS", default_value_t = Sockets::Reset)]
    sockets: Sockets,
    /// Files and directories at OLD and below it are at NEW now: a program's open and mapped files and its directories;
    /// the longest OLD counts [env: CKPT_MAP_PATH=, one in each line]
    #[arg(long, value_name = "OLD=NEW")]
    map_path: Vec<OsString>,
    /// Another working directory for the program
    #[arg(long, value_name = "DIR", env = "CKPT_CWD")]
    cwd: Option<PathBuf>,
    /// How much of the image to verify first
    #[arg(long, value_enum, env = "CKPT_VERIFY", default_value_t = Verify::Full)]
    verify: Verify,
    /// Standard input: a file, ours (inherit), or as in the image, with ours for what led outside the program
    #[arg(long, value_name = "FILE|inherit|image", env = "CKPT_STDIN", default_value = "image")]
    stdin: OsString,
    /// Standard output, likewise
    #[arg(long, value_name = "FILE|inherit|image", env = "CKPT_STDOUT", default_value = "image")]
    stdout: OsString,
    /// Standard error, likewise
    #[arg(long, value_name = "FILE|inherit|image", env = "CKPT_STDERR", default_value = "image")]
    stderr: OsString,
    /// Name of the job [default: as it was] [env: CKPT_NAME=]
    #[arg(short, long)]
    name: Option<String>,
    /// Take the way meant for an image from another kernel, whose vDSO differs: for tests
    #[arg(long, hide = true, env = "CKPT_FOREIGN_VDSO", value_parser = switch::parse)]
    foreign_vdso: bool,
    #[command(flatten)]
    talk: Talk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pids {
    /// The same, in a pid namespace of its own; where the host forbids that, say so and stop
    Auto,
    /// The same as auto
    Private,
    /// Its own, in our pid namespace: needs privilege, and free pids
    Host,
    /// New ones: programs that remember pids, as threaded ones do, may fail
    Fresh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Net {
    /// Ours
    Host,
    /// One of its own, with its addresses and nobody else: several copies can run side by side
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clock {
    /// Monotonic clocks go on from where they were
    Keep,
    /// Monotonic clocks are the host's
    Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Files {
    /// What the program only reads must be as it was; what it writes may have changed and grown, but not be shorter
    Auto,
    /// Any change is a conflict
    Strict,
    /// Changes are told, and the files used as they are
    Warn,
    /// Files whose contents were saved (--save-files) are put back; the others as with auto
    Image,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sockets {
    /// As if the other end had died: what waited in them can be read, then they are closed (TCP: reset)
    Reset,
    /// As if the other end had closed them: what waited in them can be read, then comes the end
    Close,
    /// Do not resume, and name them
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verify {
    /// Everything
    Full,
    /// All but the contents of memory and files
    Meta,
    /// The same as meta: all but the contents is always checked
    None,
}

impl ResumeArgs {
    /// The image, and what the options say that it does not; where it was.
    fn image(&self) -> Result<(Image, PathBuf), Failure> {
        let moves = self.moves()?;
        let (mut image, path) = open::find(&self.image)?;
        for old in engine::adapt(&mut image, &moves) {
            self.talk.line(format_args!("--map-path: the program has nothing at {}", harmless(&old.display())));
        }
        Ok((image, path))
    }

    fn moves(&self) -> Result<Moves, Failure> {
        let cwd = self.cwd.as_deref().map(absolute).transpose()?.map(Name::from);
        let mut paths = self.map_path.clone();
        if paths.is_empty() {
            let lines = std::env::var_os("CKPT_MAP_PATH").unwrap_or_default();
            paths.extend(lines.as_bytes().split(|&byte| byte == b'\n').map(|line| OsStr::from_bytes(line).to_owned()));
        }
        let paths = paths.iter().filter(|text| !text.is_empty()).map(|text| moved(text));
        Ok(Moves { paths: paths.collect::<Result<_, _>>()?, cwd })
    }

    /// Everything from here on, the plan too, is in the program's own network.
    fn enter_network(&self, image: &Image) -> Result<(), Failure> {
        match self.net {
            Net::Host => Ok(()),
            Net::Private => Ok(engine::own_network(image)?),
        }
    }

    fn options(&self) -> Result<Options, Failure> {
        let cancel = spawn::cancel_by_signal()
            .map_err(|error| Failure::new(FailureKind::Failed, format!("cannot watch for signals: {error}"), ""))?;
        let stdio = |text: &OsString| match text.to_str() {
            Some("inherit") => restore::Stdio::Inherit,
            Some("image") => restore::Stdio::Image,
            _ => restore::Stdio::File(text.into()),
        };
        Ok(Options {
            pids: match self.pids {
                Pids::Auto => restore::Pids::Auto,
                Pids::Private => restore::Pids::Private,
                Pids::Host => restore::Pids::Host,
                Pids::Fresh => restore::Pids::Fresh,
            },
            clock: match self.clock {
                Clock::Keep => restore::Clock::Keep,
                Clock::Now => restore::Clock::Now,
            },
            files: match self.files {
                Files::Auto => restore::Files::Auto,
                Files::Strict => restore::Files::Strict,
                Files::Warn => restore::Files::Warn,
                Files::Image => restore::Files::Image,
            },
            verify: match self.verify {
                Verify::Full => restore::Verify::Full,
                Verify::Meta => restore::Verify::Meta,
                Verify::None => restore::Verify::None,
            },
            sockets: match self.sockets {
                Sockets::Reset => restore::Sockets::Reset,
                Sockets::Close => restore::Sockets::Close,
                Sockets::Refuse => restore::Sockets::Refuse,
            },
            stdio: [stdio(&self.stdin), stdio(&self.stdout), stdio(&self.stderr)],
            terminal: !self.detach,
            cancel,
            foreign_vdso: self.foreign_vdso,
        })
    }
}

/// Reads `OLD=NEW`.
fn moved(text: &OsStr) -> Result<(Name, Name), Failure> {
    let usage = |why: &str| {
        let text = format!("--map-path {}: {why}", harmless(&text.to_string_lossy()));
        Failure::new(FailureKind::Usage, text, "")
    };
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|&b| b == b'=').ok_or_else(|| usage("it is not OLD=NEW"))?;
    let (old, new) = bytes.split_at(equals);
    let new = new.get(1..).unwrap_or_default();
    if !old.starts_with(b"/") {
        return Err(usage("OLD must begin with a slash"));
    }
    if new.is_empty() {
        return Err(usage("NEW is missing"));
    }
    let new = absolute(Path::new(OsStr::from_bytes(new)))?;
    let bare = |path: &[u8]| {
        let end = path.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
        Name(path.get(..end).unwrap_or_default().to_vec())
    };
    Ok((bare(old), bare(new.as_os_str().as_bytes())))
}

pub fn run(args: ResumeArgs) -> Done {
    args.talk.start()?;
    if args.dry_run {
        return show_plan(&args);
    }
    if !args.detach {
        return resume(args, None);
    }
    let split = spawn::to_background()
        .map_err(|error| Failure::new(FailureKind::Failed, format!("cannot go to the background: {error}"), ""))?;
    match split {
        Background::Command { outcome } => {
            let mut status = [0];
            let told = File::from(outcome).read_exact(&mut status);
            Ok(told.map_or(Outcome::Ours(Exit::CannotRun), |()| Outcome::Reported(status[0])))
        }
        Background::Job { outcome } => resume(args, Some(outcome)),
    }
}

fn show_plan(args: &ResumeArgs) -> Done {
    let (image, _) = args.image()?;
    args.enter_network(&image)?;
    let plan = engine::plan(&image, &args.options()?)?;
    let tree = &image.checkpoint().tree;
    let members = tree.members.iter().map(|member| {
        let [pid, ppid, pgid, sid] = [member.pid, member.ppid, member.pgid, member.sid].map(|pid| pid.to_string());
        [pid, ppid, pgid, sid, harmless(&member.comm.display())]
    });
    let list = |words: Vec<String>| if words.is_empty() { "none".to_owned() } else { words.join(" ") };
    let summary = plan.summary;
    let mut text = table(["PID", "PPID", "PGID", "SID", "COMMAND"], &[0, 1, 2, 3], members);
    text.push_str(&format!("pids        {}\n", summary.pids));
    text.push_str(&format!("namespaces  {}\n", list(summary.namespaces)));
    text.push_str(&format!("stand-ins   {}\n", list(summary.stand_ins.iter().map(ToString::to_string).collect())));
    summary.notes.iter().for_each(|note| text.push_str(&format!("note        {}\n", harmless(note))));
    say::data(&text);
    if plan.conflicts.is_empty() {
        return Ok(Outcome::Ours(Exit::Ok));
    }
    Err(Failure::refused("resume", plan.conflicts))
}

fn resume(args: ResumeArgs, report: Option<OwnedFd>) -> Done {
    let talk = args.talk.clone();
    let mut report = Report(report);
    let (job, signals) = match bring_to_life(args, &report) {
        Ok(alive) => alive,
        Err(failure) if report.0.is_some() => {
            let exit = Exit::from(failure.kind);
            let exit = if exit == Exit::Failed { Exit::CannotRun } else { exit };
            say::failure(&failure); // before the command in the foreground ends
            report.tell(exit);
            return Ok(Outcome::Ours(exit));
        }
        Err(failure) => return Err(failure),
    };
    report.tell(Exit::Ok);
    Ok(ended(keep(job, signals)?, talk))
}

/// What the command in the foreground waits for.
struct Report(Option<OwnedFd>);

impl Report {
    fn tell(&mut self, exit: Exit) {
        if let Some(fd) = self.0.take() {
            let _ = File::from(fd).write_all(&[exit as u8]);
        }
    }
}

fn bring_to_life(args: ResumeArgs, report: &Report) -> Result<(Job, Signals), Failure> {
    // Until the image is there (it may come through a pipe, for ever) there is nothing to clean up: a ^C just ends us.
    let (image, path) = args.image()?;
    let options = args.options()?;
    args.enter_network(&image)?;
    let manifest = &image.checkpoint().manifest;
    let (claim, name) = match chosen_name(args.name) {
        Some(name) => start::claim_exactly(&name)?,
        None => start::claim_like(&name::tame(&manifest.name))?,
    };
    become_supervisor(c"ckpt-resume")?;
    spawn::keep_children().map_err(|error| Failure::new(FailureKind::Failed, error, ""))?;
    let resumed = engine::resume(&image, &options)?;
    let signals = Signals::block()?;
    if let Some(signal) = spawn::cancelled_by() {
        // It came too late to cancel, so it is for the program.
        let _ = kill(nix::unistd::Pid::from_raw(resumed.root), signal);
    }
    for note in &resumed.notes {
        args.talk.line(note);
    }
    let sentence = format!(
        "resumed {name} ({}, {}, pid {}, took {})",
        units::count(resumed.processes, "process", "processes"),
        units::count(resumed.threads, "thread", "threads"),
        resumed.root,
        units::seconds(resumed.took.as_secs_f64())
    );
    // In the foreground standard error is the program's, too.
    if report.0.is_some() {
        args.talk.line(sentence)
    } else {
        tracing::info!("{sentence}")
    }
    let output = output_beside(&path)?;
    let command = command_of(resumed.root, image.checkpoint());
    let image = if path == Path::new("-") { path } else { absolute(&path)? };
    let program = keep::Program::Resumed { image, root: resumed.root, init: resumed.init, status: resumed.status };
    let relay = resumed.terminal.map(Relay::new);
    let keep = Keep::default();
    Ok((Job { name, claim, program, relay, command, output, keep }, signals))
}

/// What a resumed program shows as its command line; where that is nothing, or it has ended already, its name.
fn command_of(root: i32, checkpoint: &Checkpoint) -> Vec<Name> {
    let shown = proc::command_line(root).unwrap_or_default();
    if !shown.is_empty() {
        return shown;
    }
    let pid = checkpoint.manifest.root;
    checkpoint.tree.members.iter().filter(|member| member.pid == pid).map(|member| member.comm.clone()).collect()
}

/// New images of a resumed job go to the directory of the one it came from, if there is one.
fn output_beside(path: &Path) -> Result<PathBuf, Failure> {
    let directory = path.parent().filter(|_| path != Path::new("-")).unwrap_or(Path::new(""));
    let directory = if directory == Path::new("") { Path::new(".") } else { directory };
    output_in(directory, Path::new(template::DEFAULT))
}
