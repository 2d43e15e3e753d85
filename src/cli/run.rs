//! `ckpt run`: start a program so that it can be saved at any time.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Exit, Outcome};
use super::keep::KeepArgs;
use super::say::{self, Talk};
use super::{Done, save};
use crate::capture::Keep;
use crate::model::Name;
use crate::supervise::keep::{Ended, Job, Program, Signals, keep};
use crate::supervise::relay::Lent;
use crate::supervise::{Error, Failure, FailureKind, start, template};

/// Run CMD so that it can be saved at any time
///
/// The program gets our standard streams, descriptors and terminal, is not traced, and does not notice us; the exit
/// status is its own. Save it with `ckpt save NAME`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of the job: it must be free [default: the command's name and a short id] [env: CKPT_NAME=]
    #[arg(short, long)]
    name: Option<String>,
    /// Where images go
    #[arg(short, long, env = "CKPT_DIR", default_value = ".")]
    dir: PathBuf,
    /// File name of images; known parts are {name} {utc} {pid} {host} {seq}
    #[arg(short, long, value_name = "TEMPLATE", env = "CKPT_OUTPUT", default_value = template::DEFAULT)]
    output: PathBuf,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    talk: Talk,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The name from `-n`, else from the environment; but inside a job `CKPT_NAME` is the name of that job.
pub fn name(option: Option<String>) -> Option<String> {
    let inside = std::env::var_os("CKPT_SOCKET").is_some();
    option.or_else(|| std::env::var("CKPT_NAME").ok().filter(|name| !inside && !name.is_empty()))
}

/// `path` as an absolute one, without looking at the file system.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| not_absolute(path, &error))
}

/// The template for images that was written as `output`, below `directory`.
pub fn output_in(directory: &Path, output: &Path) -> Result<PathBuf, Failure> {
    let template = template::absolute(directory, output).map_err(|error| not_absolute(output, &error))?;
    template::check(&template)?;
    Ok(template)
}

fn not_absolute(path: &Path, error: &std::io::Error) -> Failure {
    let text = format!("cannot make {} an absolute path: {error}", path.display());
    Failure::new(FailureKind::Failed, text, "")
}

/// Makes this process the supervisor of whatever it starts from now on.
pub fn become_supervisor(comm: &std::ffi::CStr) -> Result<(), Failure> {
    let set = nix::sys::prctl::set_name(comm).and_then(|()| nix::sys::prctl::set_child_subreaper(true));
    set.map_err(|errno| Failure::new(FailureKind::Failed, format!("cannot become a supervisor: {errno}"), ""))
}

pub fn run(args: RunArgs) -> Done {
    args.talk.start()?;
    let output = output_in(&args.dir, &args.output)?;
    let contents = Keep { files: args.keep.save_files()?.unwrap_or_default(), embed: args.keep.embed_files };
    if !args.dir.is_dir() {
        let text = format!("{} is not a directory", args.dir.display());
        return Err(Failure::new(FailureKind::Failed, text, "images go there; choose another with -d"));
    }
    let Some(program) = args.command.first() else {
        return Err(Failure::new(FailureKind::Usage, "no command is given", ""));
    };
    let (claim, name) = start::claim(name(args.name).as_deref(), program)?;
    become_supervisor(c"ckpt-run")?;
    let signals = Signals::block()?;
    let lent = Lent::to_program();
    let root = match start::start(&args.command, &name, &claim, signals.before) {
        Ok(root) => root,
        Err(error @ Error::Start { missing, .. }) => {
            say::failure(&error.into());
            return Ok(Outcome::Ours(if missing { Exit::NotFound } else { Exit::CannotExecute }));
        }
        Err(error) => return Err(error.into()),
    };
    tracing::info!("{name}: started pid {root}; control socket {}", claim.path.display());
    let command = args.command.into_iter().map(|word| Name(word.into_vec())).collect();
    let job = Job { name, claim, program: Program::Started { root }, relay: None, command, output, keep: contents };
    let end = keep(job, signals)?;
    if let (Ended::Saved(_), Some(lent)) = (&end, lent) {
        lent.give_back();
    }
    Ok(ended(end, args.talk))
}

/// What the end of a job means for the command that kept it.
pub fn ended(ended: Ended, talk: Talk) -> Outcome {
    match ended {
        Ended::Program(change) => Outcome::Program(change),
        Ended::Saved(saved) => {
            talk.line_to_people(format_args!("{} was ended by its save to {}", saved.name, save::place(&saved)));
            Outcome::Ours(Exit::SavedAndEnded)
        }
    }
}
