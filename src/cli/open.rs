//! IMAGE: finding and opening it.

use std::path::{Path, PathBuf};

use crate::image::Image;
use crate::supervise::{Failure, FailureKind, plain};

/// Opens an image; `-` is standard input.
///
/// # Errors
/// There is none, or it is not good.
pub fn open(path: &Path) -> Result<Image, Failure> {
    if path == Path::new("-") {
        return Ok(Image::spool(std::io::stdin().lock(), "standard input")?);
    }
    if let Err(error) = path.metadata() {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => FailureKind::Permission,
            _ => FailureKind::Failed,
        };
        return Err(Failure::new(kind, format!("cannot open {}: {}", path.display(), plain(&error)), ""));
    }
    Ok(Image::open(path)?)
}

/// What `ckpt resume` is given: a file, or else the name of a job, whose newest good image in this directory is meant.
///
/// # Errors
/// There is neither.
pub fn find(image: &Path) -> Result<(Image, PathBuf), Failure> {
    let text = image.to_str().filter(|text| crate::supervise::name::check(text).is_ok());
    let name = match text {
        Some(name) if name != "-" && image.symlink_metadata().is_err() => name,
        _ => return open(image).map(|opened| (opened, image.to_owned())),
    };
    let entries = std::fs::read_dir(".").into_iter().flatten().flatten();
    let mut candidates: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|file| file.ends_with(".ckpt.tar")))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, PathBuf::from(entry.file_name()))))
        .collect();
    candidates.sort();
    while let Some((_, path)) = candidates.pop() {
        if let Ok(opened) = Image::open(&path) {
            if opened.checkpoint().manifest.name == name {
                return Ok((opened, path));
            }
        }
    }
    let text = format!("there is no file {name}, and no image of a job of that name (*.ckpt.tar) in this directory");
    Err(Failure::new(FailureKind::Failed, text, "name the image by its path"))
}
