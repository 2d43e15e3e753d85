//! Names of members and parts.

use std::fmt::Display;
use std::str::FromStr;

use crate::model::Pid;

pub(super) const MANIFEST: &str = "ckpt.json";
pub(super) const TREE: &str = "tree.json";
pub(super) const FILES: &str = "files/files.json";
pub(super) const SHARED: &str = "shared.json";
pub(super) const END: &str = "END.json";

/// Name of the part that holds the private pages of a process.
pub fn process_part(pid: Pid) -> String {
    pid.to_string()
}

/// Name of the part that holds the pages of a piece of shared memory, by its index in
/// [`crate::model::memory::SharedObjects::anon`].
pub fn shared_part(object: usize) -> String {
    format!("anon-{object}")
}

pub(super) fn process(pid: Pid) -> String {
    format!("proc/{pid}/process.json")
}

/// The process whose member this is.
pub(super) fn process_of(name: &str) -> Option<Pid> {
    number(name, "proc/", "/process.json").filter(|&n| n > 0).map(Pid)
}

pub(super) fn blob(id: u32) -> String {
    format!("files/{id}.data")
}

/// The file whose content this member is.
pub(super) fn blob_of(name: &str) -> Option<u32> {
    number(name, "files/", ".data")
}

pub(super) fn runs(part: &str) -> String {
    format!("mem/{part}.runs")
}

pub(super) fn pages(part: &str) -> String {
    format!("mem/{part}.pages")
}

pub(super) fn sums(part: &str) -> String {
    format!("mem/{part}.sums")
}

/// The number between `prefix` and `suffix`, if it is written the one way we write it: no two names mean the same.
fn number<T: FromStr + Display>(name: &str, prefix: &str, suffix: &str) -> Option<T> {
    let text = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    text.parse::<T>().ok().filter(|n| n.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_one_way_only() {
        assert_eq!(process_of(&process(Pid(4711))), Some(Pid(4711)));
        assert_eq!(blob_of(&blob(0)), Some(0));
        for odd in ["proc/+1/process.json", "proc/01/process.json", "proc/-1/process.json", "proc/1/threads.json"] {
            assert_eq!(process_of(odd), None, "{odd}");
        }
        assert_eq!(blob_of("files/99999999999.data"), None);
        assert_eq!(blob_of("files/files.json"), None);
    }
}
