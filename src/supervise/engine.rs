//! The calls into the engine: saving, looking, resuming. Everything else of a job is in this room.

use std::sync::atomic::AtomicBool;

use super::Error;
use super::protocol::{After, Saved, Survey, SurveyProcess};
use crate::capture::{self, Keep, Output};
use crate::model::Name;
use crate::{image, restore};

/// What to save.
#[derive(Debug)]
pub struct Save<'a> {
    /// Root of the tree.
    pub root: i32,
    /// The supervisor, whose other descendants belong to the tree.
    pub reaper: Option<i32>,
    /// For the manifest.
    pub name: &'a str,
    /// Where the image goes.
    pub output: Output,
    /// Contents of which files go into it.
    pub keep: Keep,
    /// What becomes of the tree.
    pub after: After,
    /// How long it may take to stand still.
    pub timeout: std::time::Duration,
    /// Gives the save up.
    pub cancel: &'a AtomicBool,
}

impl<'a> Save<'a> {
    fn request(self) -> capture::Request<'a> {
        capture::Request {
            root: self.root,
            reaper: self.reaper,
            name: self.name.to_owned(),
            output: self.output,
            keep: self.keep,
            after: self.after.into(),
            timeout: self.timeout,
            cancel: self.cancel,
        }
    }
}

/// Saves a tree.
///
/// # Errors
/// [`Error::Capture`]; the tree then runs on as if nothing had happened.
pub fn save(save: Save<'_>) -> Result<Saved, Error> {
    let (name, pid, after) = (save.name.to_owned(), save.root, save.after);
    let done = capture::save(&save.request())?;
    Ok(Saved {
        name,
        pid,
        path: done.path.map(Into::into),
        bytes: done.bytes,
        processes: done.processes,
        threads: done.threads,
        stopped: done.stopped.as_secs_f64(),
        took: done.took.as_secs_f64(),
        after,
        notes: done.notes,
    })
}

/// Looks at a tree without saving it.
///
/// # Errors
/// [`Error::Capture`]; what stands in the way of a save is in the survey and no error.
pub fn survey(save: Save<'_>) -> Result<Survey, Error> {
    let pid = save.root;
    let survey = capture::check(&save.request())?;
    let processes = survey.processes.into_iter().map(|process| SurveyProcess {
        pid: process.pid.0,
        host: process.host,
        comm: process.comm.display(),
        threads: process.threads,
        memory: process.memory,
        fds: process.fds,
    });
    Ok(Survey { pid, processes: processes.collect(), refusals: survey.refusals, notes: survey.notes })
}

/// Has the image say that files are elsewhere now; old paths that the program has nothing at or below are returned.
pub fn adapt(image: &mut image::Image, moves: &restore::Moves) -> Vec<Name> {
    image.edit(|checkpoint| restore::adapt(checkpoint, moves))
}

/// Looks for everything that stands in the way of a resume, and creates nothing.
///
/// # Errors
/// [`Error::Restore`].
pub fn plan(image: &image::Image, options: &restore::Options) -> Result<restore::Plan, Error> {
    Ok(restore::plan(image, options)?)
}

/// Takes this process, and all that it starts from now on, into a network of its own with the addresses of a tree. Call it while
/// there is one thread.
///
/// # Errors
/// [`Error::Restore`].
pub fn own_network(image: &image::Image) -> Result<(), Error> {
    Ok(restore::network::enter(image.checkpoint())?)
}

/// Brings a tree to life.
///
/// # Errors
/// [`Error::Restore`]; nothing is left behind then.
pub fn resume(image: &image::Image, options: &restore::Options) -> Result<restore::Resumed, Error> {
    Ok(restore::resume(image, options)?)
}
