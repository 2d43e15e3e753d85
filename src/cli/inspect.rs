//! `ckpt inspect`: the metadata of an image, as it is.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::exit::{Exit, Outcome};
use super::{Done, open, say};
use crate::image::Image;
use crate::supervise::{Failure, FailureKind};

/// Print the metadata of an image as JSON
///
/// PATH is a member of the image (`tree.json`), with a dotted path into it if wanted (`tree.json.members.0.pid`), or a
/// dotted path into the whole (`manifest.cpu.model`, `processes.0.threads`).
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The image, or - for standard input
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// What of it [default: everything]
    path: Option<String>,
}

pub fn run(args: &InspectArgs) -> Done {
    let image = open::open(&args.image)?;
    let path = args.path.as_deref().unwrap_or_default();
    let found = match member(&image, path) {
        Some((json, rest)) => dotted(&json?, rest).cloned(),
        None => {
            let whole = serde_json::to_value(image.checkpoint())
                .map_err(|error| Failure::new(FailureKind::Failed, format!("cannot make JSON: {error}"), ""))?;
            dotted(&whole, path).cloned()
        }
    };
    match found {
        Some(value) => {
            say::json(&value);
            Ok(Outcome::Ours(Exit::Ok))
        }
        None => {
            let hint = "without a path everything is printed; `tar tf` lists the members";
            Err(Failure::new(FailureKind::Failed, format!("there is no {path} in {}", args.image.display()), hint))
        }
    }
}

/// The JSON of the member that `path` starts with, and the rest of the path.
fn member<'a>(image: &Image, path: &'a str) -> Option<(Result<Value, Failure>, &'a str)> {
    let json = image.members().iter().filter(|member| member.name.ends_with(".json"));
    let (member, rest) = json.into_iter().find_map(|member| {
        let rest = path.strip_prefix(member.name.as_str())?;
        Some((member, rest.strip_prefix('.').or(rest.is_empty().then_some(rest))?))
    })?;
    let read = || {
        // Opening the image has checked that all metadata members lie inside the file and are of bearable size.
        let mut bytes = vec![0; usize::try_from(member.size).map_err(std::io::Error::other)?];
        image.file().read_exact_at(&mut bytes, member.offset)?;
        serde_json::from_slice(&bytes).map_err(std::io::Error::other)
    };
    let value = read().map_err(|error: std::io::Error| {
        Failure::new(FailureKind::Image, format!("cannot read {}: {error}", member.name), "")
    });
    Some((value, rest))
}

fn dotted<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|key| !key.is_empty()).try_fold(value, |value, key| match value {
        Value::Object(fields) => fields.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_paths_lead_into_objects_and_arrays() {
        let value = serde_json::json!({"a": {"b": [10, {"c": null}]}});
        assert_eq!(dotted(&value, "a.b.0"), Some(&10.into()));
        assert_eq!(dotted(&value, "a.b.1.c"), Some(&Value::Null));
        assert_eq!(dotted(&value, ""), Some(&value));
        for nothing in ["a.x", "a.b.2", "a.b.-1", "a.b.0.0", "b"] {
            assert_eq!(dotted(&value, nothing), None, "{nothing}");
        }
    }
}
