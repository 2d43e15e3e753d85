//! File names of images: `{name}-{utc}.ckpt.tar`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Error;

/// The file name that is used where none is given.
pub const DEFAULT: &str = "{name}-{utc}.ckpt.tar";

/// What the parts of a template stand for.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    /// `{name}`: of the job.
    pub name: &'a str,
    /// `{pid}`: of the root, as the user sees it.
    pub pid: i32,
    /// `{seq}`: 1 for the first save of a job, and so on.
    pub seq: u64,
}

/// Fills in a template; an existing directory, or a path that ends in a slash, gets [`DEFAULT`] in it.
/// A name that comes from [`DEFAULT`] never hits an existing file: `-2` and so on is put in.
///
/// # Errors
/// [`Error::BadTemplate`] for a part that isn't known.
pub fn expand(template: &Path, values: &Values<'_>) -> Result<PathBuf, Error> {
    let default = template.is_dir() || template.as_os_str().as_bytes().ends_with(b"/");
    let template = if default { template.join(DEFAULT) } else { template.to_owned() };
    let path = fill(&template, values)?;
    let ours = template.file_name().is_some_and(|name| name == DEFAULT);
    if !ours || path.symlink_metadata().is_err() {
        return Ok(path);
    }
    let bytes = path.as_os_str().as_bytes();
    let stem = bytes.strip_suffix(b".ckpt.tar").unwrap_or(bytes);
    let free = (2_u64..).map(|n| {
        let mut name = stem.to_vec();
        name.extend_from_slice(format!("-{n}.ckpt.tar").as_bytes());
        PathBuf::from(OsString::from_vec(name))
    });
    Ok(free.take(10_000).find(|path| path.symlink_metadata().is_err()).unwrap_or(path))
}

/// Checks a template without using it.
///
/// # Errors
/// [`Error::BadTemplate`].
pub fn check(template: &Path) -> Result<(), Error> {
    fill(template, &Values { name: "", pid: 0, seq: 0 }).map(drop)
}

fn fill(template: &Path, values: &Values<'_>) -> Result<PathBuf, Error> {
    let mut rest = template.as_os_str().as_bytes();
    let mut out = Vec::with_capacity(rest.len() + 40);
    while let Some(open) = rest.iter().position(|&b| b == b'{') {
        let (before, from) = rest.split_at(open);
        out.extend_from_slice(before);
        let close = from.iter().position(|&b| b == b'}');
        let part = from.get(1..close.unwrap_or(from.len())).unwrap_or_default();
        match part {
            _ if close.is_none() => return Err(unknown(template, part)),
            b"name" => out.extend_from_slice(values.name.as_bytes()),
            b"utc" => out.extend_from_slice(utc_now().as_bytes()),
            b"pid" => out.extend_from_slice(values.pid.to_string().as_bytes()),
            b"seq" => out.extend_from_slice(values.seq.to_string().as_bytes()),
            b"host" => out.extend_from_slice(host().as_bytes()),
            _ => return Err(unknown(template, part)),
        }
        rest = close.and_then(|close| from.get(close + 1..)).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    Ok(PathBuf::from(OsString::from_vec(out)))
}

fn unknown(template: &Path, part: &[u8]) -> Error {
    let part = String::from_utf8_lossy(part).into_owned();
    Error::BadTemplate { template: template.display().to_string(), part }
}

fn utc_now() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn host() -> String {
    nix::sys::utsname::uname().map(|uts| uts.nodename().to_string_lossy().replace('/', "_")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'static> = Values { name: "web", pid: 4711, seq: 3 };

    #[test]
    fn parts_are_filled_in() {
        assert_eq!(expand(Path::new("/x/{name}.{pid}.{seq}"), &VALUES).unwrap(), Path::new("/x/web.4711.3"));
        let name = expand(Path::new("/x/{utc}{host}"), &VALUES).unwrap().display().to_string();
        assert!(name.starts_with("/x/2") && name.contains('T') && name.contains('Z'), "{name}");
    }

    #[test]
    fn unknown_and_open_parts_are_errors() {
        for template in ["{x}", "a{", "{name", "{}", "{NAME}"] {
            assert!(matches!(check(Path::new(template)), Err(Error::BadTemplate { .. })), "{template}");
        }
    }

    #[test]
    fn the_default_name_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..5 {
            let path = expand(dir.path(), &VALUES).unwrap();
            std::fs::write(&path, "").unwrap();
            assert!(seen.insert(path));
        }
        let own = dir.path().join("own.tar");
        std::fs::write(&own, "").unwrap();
        assert_eq!(expand(&own, &VALUES).unwrap(), own);
    }
}
