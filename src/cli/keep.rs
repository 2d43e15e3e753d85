//! `--save-files`, `--embed-files`: contents of which files go into an image.

use clap::Args;

use super::switch;
use crate::capture::SaveFiles;
use crate::supervise::{Failure, FailureKind};

/// The choice.
#[derive(Debug, Clone, Default, Args)]
pub struct KeepArgs {
    /// Contents to put into the image: of no files (none), of deleted ones (unlinked, the default), of all that are open
    /// or mapped shared (open), or of those whose path fits a pattern (*.db, /data/**)
    #[arg(long, value_name = "none|unlinked|open|GLOB", env = "CKPT_SAVE_FILES", value_delimiter = ',')]
    save_files: Vec<String>,
    /// Put the files that memory is mapped from into the image: a resume needs no same program and libraries
    #[arg(long, env = "CKPT_EMBED_FILES", value_parser = switch::parse)]
    pub embed_files: bool,
}

impl KeepArgs {
    /// What `--save-files` says, if it is there.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn save_files(&self) -> Result<Option<SaveFiles>, Failure> {
        if self.save_files.is_empty() {
            return Ok(None);
        }
        let parsed = SaveFiles::from_words(&self.save_files);
        parsed.map(Some).map_err(|why| Failure::new(FailureKind::Usage, format!("--save-files: {why}"), ""))
    }
}
