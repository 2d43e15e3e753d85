//! `ckpt save`: save a job, or a process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::after::AfterArgs;
use super::exit::{Exit, Outcome};
use super::keep::KeepArgs;
use super::say::{self, Talk};
use super::target::{Order, Target};
use super::units;
use super::{Done, switch, table};
use crate::supervise::protocol::Saved;
use crate::supervise::{Failure, FailureKind};

/// Save a job, or the tree below a process
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Name of a job, or the pid of a process
    #[arg(value_name = "NAME|PID")]
    target: String,
    #[command(flatten)]
    options: SaveOptions,
}

/// What `save` and `attach` have in common.
#[derive(Debug, Args)]
pub struct SaveOptions {
    /// The image: a file name or template, or - for standard output [default: the job's, else {name}-{utc}.ckpt.tar]
    #[arg(short, long, value_name = "FILE|-", env = "CKPT_OUTPUT", hide_env = false)]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub keep: KeepArgs,
    #[command(flatten)]
    pub after: AfterArgs,
    /// How long the tree may take to stand still (ms, s, m, h)
    #[arg(long, env = "CKPT_TIMEOUT", default_value = "10s", value_parser = units::parse_duration)]
    pub timeout: Duration,
    /// Tell the result as JSON on standard output
    #[arg(long, env = "CKPT_JSON", value_parser = switch::parse)]
    pub json: bool,
    #[command(flatten)]
    pub talk: Talk,
}

impl SaveOptions {
    /// Of `target`.
    pub fn order(&self, target: Target) -> Order {
        let (output, keep) = (self.output.clone(), self.keep.clone());
        Order { target, output, keep, after: self.after.0, timeout: self.timeout }
    }

    /// Saves `target` and tells.
    pub fn save(self, target: Target) -> Done {
        if self.json && self.output.as_deref() == Some(Path::new("-")) {
            return Err(Failure::new(FailureKind::Usage, "standard output can't take both image and JSON", ""));
        }
        let saved = match self.order(target).save() {
            // As with fork(2), one call has two ends: this is that of the copy, which knows nothing of the image but that it is good.
            Err(Failure { kind: FailureKind::Resumed, messages, .. }) => {
                messages.iter().for_each(|message| self.talk.line(&message.text));
                return Ok(Outcome::Ours(Exit::Ok));
            }
            saved => saved?,
        };
        if self.json {
            say::json(&say::with_schema("ckpt.saved/1", &saved));
        }
        for note in &saved.notes {
            self.talk.line(table::harmless(note));
        }
        self.talk.line(sentence(&saved));
        Ok(Outcome::Ours(Exit::Ok))
    }
}

/// The image, as seen from here.
pub fn place(saved: &Saved) -> String {
    let Some(path) = &saved.path else { return "standard output".into() };
    let path = path.as_path();
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| path.strip_prefix(here).ok());
    table::harmless(&short.unwrap_or(path).to_string_lossy())
}

/// `saved NAME (1.2 GiB, 3 processes, stopped 0.04 s, took 0.61 s)`.
pub fn sentence(saved: &Saved) -> String {
    let what = match saved.path {
        Some(_) => place(saved),
        None => format!("{} to {}", saved.name, place(saved)),
    };
    format!(
        "saved {what} ({}, {}, stopped {}, took {})",
        units::bytes(saved.bytes),
        units::count(saved.processes, "process", "processes"),
        units::seconds(saved.stopped),
        units::seconds(saved.took)
    )
}

pub fn run(args: SaveArgs) -> Done {
    args.options.talk.start()?;
    let target = Target::from_text(&args.target)?;
    args.options.save(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::protocol::After;

    #[test]
    fn the_line_is_as_documented() {
        let saved = Saved {
            name: "counter".into(),
            pid: 1,
            path: Some(Path::new("/nowhere/counter.ckpt.tar").into()),
            bytes: 1_288_490_189,
            processes: 3,
            threads: 5,
            stopped: 0.04,
            took: 0.61,
            after: After::Continue,
            notes: Vec::new(),
        };
        let expected = "saved /nowhere/counter.ckpt.tar (1.2 GiB, 3 processes, stopped 0.04 s, took 0.61 s)";
        assert_eq!(sentence(&saved), expected);
    }
}
