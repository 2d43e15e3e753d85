//! File names of images: `{name}-{utc}.ckpt.tar`. `{{` and `}}` stand for braces.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{self, Path, PathBuf};

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

/// The absolute template for what somebody wrote, relative to a directory that is as it is called: its braces are no parts. So
/// is an existing directory that was written.
///
/// # Errors
/// If there is no working directory, or nothing was written.
pub fn absolute(directory: &Path, written: &Path) -> io::Result<PathBuf> {
    if written.as_os_str().is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let directory = path::absolute(directory)?;
    let whole = path::absolute(directory.join(written))?;
    if whole.is_dir() {
        return Ok(literal(&whole).join(DEFAULT));
    }
    // `path::absolute` drops the slash that says "in this directory".
    let within = written.as_os_str().as_bytes().ends_with(b"/");
    let template = path::absolute(literal(&directory).join(written))?;
    Ok(if within { template.join(DEFAULT) } else { template })
}

/// The template for that very path.
fn literal(path: &Path) -> PathBuf {
    let doubled = |&byte: &u8| std::iter::repeat_n(byte, if matches!(byte, b'{' | b'}') { 2 } else { 1 });
    PathBuf::from(OsString::from_vec(path.as_os_str().as_bytes().iter().flat_map(doubled).collect()))
}

/// Fills in a template; what is an existing directory then gets [`DEFAULT`] in it.
/// A name that comes from [`DEFAULT`] never hits an existing file: `-2` and so on is put in.
///
/// # Errors
/// [`Error::BadTemplate`] for a part that isn't known.
pub fn expand(template: &Path, values: &Values<'_>) -> Result<PathBuf, Error> {
    let mut path = fill(template, values)?;
    let mut ours = template.file_name().is_some_and(|name| name == DEFAULT);
    if path.is_dir() {
        path.push(fill(Path::new(DEFAULT), values)?);
        ours = true;
    }
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
    while let Some(brace) = rest.iter().position(|b| matches!(b, b'{' | b'}')) {
        let (before, from) = rest.split_at(brace);
        out.extend_from_slice(before);
        let braces: [&[u8]; 3] = [b"{{", b"}}", b"}"];
        if let Some(after) = braces.iter().find_map(|brace| from.strip_prefix(*brace)) {
            out.extend(from.first());
            rest = after;
            continue;
        }
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
    fn braces_are_doubled() {
        assert_eq!(fill(Path::new("{{a}}/}{{{name}}}"), &VALUES).unwrap(), Path::new("{a}/}{web}"));
        let path = Path::new("/{{x}/{name}/}{/{{{");
        assert_eq!(fill(&literal(path), &VALUES).unwrap(), path);
    }

    #[test]
    fn directories_are_as_they_are_called() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("{{cookie}}{name}");
        std::fs::create_dir(&odd).unwrap();
        let path = |directory: &Path, written: &str| {
            expand(&absolute(directory, Path::new(written)).unwrap(), &VALUES).unwrap()
        };
        assert_eq!(path(&odd, "{name}.tar"), odd.join("web.tar"));
        assert_eq!(path(&odd, "/x/{name}.tar"), Path::new("/x/web.tar"));
        assert_eq!(path(&odd, "./a/../{pid}"), odd.join("a/../4711"));
        for (directory, written) in [(&*odd, "."), (dir.path(), "{{cookie}}{name}"), (dir.path(), "{{cookie}}{name}/")]
        {
            assert_eq!(path(directory, written).parent(), Some(&*odd), "{written}");
        }
        assert!(path(&odd, "new/").starts_with(odd.join("new")) && path(&odd, "new/") != odd.join("new"));
        assert!(absolute(&odd, Path::new("")).is_err());
        assert!(path(dir.path(), "{seq}").ends_with("3"));
        std::fs::create_dir(dir.path().join("3")).unwrap();
        assert_eq!(path(dir.path(), "{seq}").parent(), Some(&*dir.path().join("3")));
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
