//! JSON members: each is an object that carries a schema id beside the fields of the model.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::fd::OpenFile;

pub(super) const MANIFEST: &str = "ckpt.image/1";
pub(super) const TREE: &str = "ckpt.tree/1";
pub(super) const PROCESS: &str = "ckpt.process/1";
pub(super) const FILES: &str = "ckpt.files/1";
pub(super) const SHARED: &str = "ckpt.shared/1";
pub(super) const END: &str = "ckpt.end/1";

/// What every version of the first member has, whatever else changes.
#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) format: u64,
    #[serde(default)]
    pub(super) requires: Vec<String>,
}

/// `files/files.json` as it is read.
#[derive(Deserialize)]
pub(super) struct Files {
    pub(super) files: Vec<OpenFile>,
}

/// `files/files.json` as it is written.
#[derive(Serialize)]
pub(super) struct FilesRef<'a> {
    pub(super) files: &'a [OpenFile],
}

#[derive(Serialize)]
struct Tagged<'a, T> {
    schema: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct Tag {
    schema: String,
}

/// One line of JSON without a schema id of its own kind: for bodies that have the field themselves.
pub(super) fn line<T: Serialize>(body: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(body)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// One line of JSON with a schema id before the fields of `body`.
pub(super) fn tagged<T: Serialize>(schema: &str, body: &T) -> serde_json::Result<Vec<u8>> {
    line(&Tagged { schema, body })
}

/// The fields of a member with this schema id; unknown ones are ignored.
pub(super) fn read<T: DeserializeOwned>(schema: &str, bytes: &[u8]) -> Result<T, String> {
    let tag: Tag = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if tag.schema != schema {
        return Err(format!("its schema is {:?}, not {schema:?}", tag.schema));
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}
