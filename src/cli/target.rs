//! NAME or PID: what a save is of, and the way to it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::capture::{Keep, Output};
use crate::model::Name;
use crate::supervise::client::{Connection, job_of};
use crate::supervise::engine::{self, Save};
use crate::supervise::protocol::{After, Reply, Request, SaveRequest, Saved, Survey};
use crate::supervise::{Error, Failure, FailureKind, members, name, template};
use crate::sys::spawn;

use super::keep::KeepArgs;
use super::run::output_in;

/// How long a supervisor may take to end after its program.
const END_OF_SUPERVISOR: Duration = Duration::from_secs(5);

/// What to save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A job.
    Job(String),
    /// A process of a job, with what is below it.
    Member(String, i32),
    /// A process that no job of ours has.
    Process(i32),
}

impl Target {
    /// From what a person typed: a number is a pid, and one of a job means the job.
    ///
    /// # Errors
    /// The name can't be one.
    pub fn from_text(text: &str) -> Result<Target, Failure> {
        match text.parse() {
            Ok(pid) => Ok(Target::from_pid(pid)),
            Err(_) => {
                name::check(text)?;
                Ok(Target::Job(text.to_owned()))
            }
        }
    }

    /// The job that a process stands for or belongs to, else the process.
    pub fn from_pid(pid: i32) -> Target {
        match job_of(pid) {
            Some((name, true)) => Target::Job(name),
            Some((name, false)) => Target::Member(name, pid),
            None => Target::Process(pid),
        }
    }
}

/// What to do.
#[derive(Debug)]
pub struct Order {
    /// Of what.
    pub target: Target,
    /// `-o`: a path, a template, or `-`.
    pub output: Option<PathBuf>,
    /// Contents of which files go into it.
    pub keep: KeepArgs,
    /// What becomes of the program.
    pub after: After,
    /// How long it may take to stand still.
    pub timeout: Duration,
}

impl Order {
    fn kept(&self) -> Result<Keep, Failure> {
        Ok(Keep { files: self.keep.save_files()?.unwrap_or_default(), embed: self.keep.embed_files })
    }

    fn streams(&self) -> bool {
        self.output.as_deref() == Some(Path::new("-"))
    }

    /// Saves.
    ///
    /// # Errors
    /// Why it couldn't be.
    pub fn save(self) -> Result<Saved, Failure> {
        let hint = "redirect it to a file or a pipe, or give -o a name";
        if self.streams() && spawn::output_was_closed() {
            return Err(Failure::new(FailureKind::Usage, "standard output is closed", hint));
        }
        if self.streams() && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            return Err(Failure::new(FailureKind::Usage, "an image is nothing for a terminal", hint));
        }
        let output = match self.output.as_deref().filter(|_| !self.streams()) {
            Some(output) => Some(output_in(Path::new("."), output)?),
            None => None,
        };
        let (job, pid) = match &self.target {
            Target::Process(pid) => return self.save_directly(*pid, output),
            Target::Job(job) => (job, None),
            Target::Member(job, pid) => (job, Some(*pid)),
        };
        let mut connection = Connection::to(job)?;
        let request = SaveRequest {
            output: output.map(Name::from),
            stream: self.streams(),
            save_files: self.keep.save_files()?,
            embed_files: self.keep.embed_files,
            after: self.after,
            timeout: self.timeout.as_secs_f64(),
            pid,
            dry_run: false,
        };
        let stdout = std::io::stdout();
        let stream = self.streams().then(|| stdout.as_fd());
        match connection.ask_patiently(&Request::Save(request), stream)? {
            Reply::Saved(saved) => {
                if self.after == After::Kill && pid.is_none() {
                    // The name is free once it has hung up. If it is slow at its end, the image is good all the same.
                    let _ = connection.closed_within(END_OF_SUPERVISOR);
                }
                Ok(saved)
            }
            _ => Err(strange_reply(job)),
        }
    }

    fn save_directly(&self, pid: i32, output: Option<PathBuf>) -> Result<Saved, Failure> {
        let cancel = spawn::cancel_by_signal().map_err(system)?;
        let name = comm(pid);
        let output = if self.streams() {
            Output::Stream(std::io::stdout().as_fd().try_clone_to_owned().map_err(system)?.into())
        } else {
            let template = output.map_or_else(|| output_in(Path::new("."), Path::new(template::DEFAULT)), Ok)?;
            Output::File(template::expand(&template, &template::Values { name: &name, pid, seq: 1 })?)
        };
        let (after, timeout) = (self.after, self.timeout);
        let keep = self.kept()?;
        Ok(engine::save(Save { root: pid, reaper: None, name: &name, output, keep, after, timeout, cancel })?)
    }

    /// Looks what would be saved, and what stands in the way.
    ///
    /// # Errors
    /// Why it couldn't be looked at.
    pub fn survey(self) -> Result<Survey, Failure> {
        let (job, pid) = match &self.target {
            &Target::Process(pid) => {
                let cancel = spawn::cancel_by_signal().map_err(system)?;
                let output = Output::File(PathBuf::from("/dev/null")); // nothing is written
                let (name, keep, after, timeout) = (&comm(pid), self.kept()?, After::Continue, self.timeout);
                let save = Save { root: pid, reaper: None, name, output, keep, after, timeout, cancel };
                return Ok(engine::survey(save)?);
            }
            Target::Job(job) => (job, None),
            Target::Member(job, pid) => (job, Some(*pid)),
        };
        let request = SaveRequest {
            output: None,
            stream: false,
            save_files: self.keep.save_files()?,
            embed_files: self.keep.embed_files,
            after: After::Continue,
            timeout: self.timeout.as_secs_f64(),
            pid,
            dry_run: true,
        };
        match Connection::to(job)?.ask_patiently(&Request::Save(request), None)? {
            Reply::Surveyed(survey) => Ok(survey),
            _ => Err(strange_reply(job)),
        }
    }
}

fn comm(pid: i32) -> String {
    let comm = members::glance(pid).map(|stat| String::from_utf8_lossy(&stat.comm).into_owned());
    name::tame(&comm.unwrap_or_default())
}

fn system(source: std::io::Error) -> Failure {
    Error::Io { step: "prepare", object: "the save".into(), source }.into()
}

fn strange_reply(job: &str) -> Failure {
    let hint = "is it of another version of ckpt?";
    Failure::new(FailureKind::Failed, format!("the supervisor of {job} answered something else"), hint)
}
