//! A program whose files and directories have other names here (`--map-path`, `--cwd`).

use crate::model::fd::Kind;
use crate::model::opath::Object;
use crate::model::sockets::{Family, Socket};
use crate::model::unix::UnixSocket;
use crate::model::{Checkpoint, Name};

/// What has moved.
#[derive(Debug, Clone, Default)]
pub struct Moves {
    /// Old and new paths, absolute, without a slash at their ends: of whatever is there and below it.
    pub paths: Vec<(Name, Name)>,
    /// Another working directory for the root, and for whoever is in the same as the root.
    pub cwd: Option<Name>,
}

/// Changes the paths in a checkpoint. Of several that fit, the longest old path counts. Returns the old paths that none
/// of the program's is at or below.
pub fn adapt(checkpoint: &mut Checkpoint, moves: &Moves) -> Vec<Name> {
    let mut used = vec![false; moves.paths.len()];
    let root = checkpoint.processes.iter().find(|p| p.pid == checkpoint.tree.root).map(|p| p.cwd.clone());
    let apart = moves.cwd.is_some();
    for path in paths(checkpoint, root.as_ref().filter(|_| apart)) {
        let fits = moves.paths.iter().enumerate().filter_map(|(i, (old, new))| Some((i, below(&path.0, &old.0)?, new)));
        if let Some((index, rest, new)) = fits.min_by_key(|(_, rest, _)| rest.len()) {
            let whole = [&new.0, rest].concat();
            path.0 = if whole.is_empty() { b"/".to_vec() } else { whole };
            used.iter_mut().skip(index).take(1).for_each(|u| *u = true);
        }
    }
    relative_names(checkpoint);
    if let (Some(root), Some(new)) = (root, &moves.cwd) {
        cwds(checkpoint).filter(|cwd| **cwd == root).for_each(|cwd| *cwd = new.clone());
    }
    let unused = moves.paths.iter().zip(used).filter(|(_, used)| !used);
    unused.map(|((old, _), _)| if old.0.is_empty() { "/".into() } else { old.clone() }).collect()
}

/// The path of a socket must end in the name it was bound to, which may be relative: to a directory that has moved inside the
/// name it can't be.
fn relative_names(checkpoint: &mut Checkpoint) {
    for file in &mut checkpoint.files {
        let Kind::Socket(Socket { family: Family::Unix(UnixSocket { bound: Some(bound), .. }), .. }) = &mut file.kind
        else {
            continue;
        };
        let Some(file) = &bound.file else { continue };
        let before = file.path.0.strip_suffix(bound.tail());
        if before.is_none_or(|before| !before.is_empty() && !before.ends_with(b"/")) {
            bound.name = file.path.clone();
        }
    }
}

/// What is left of a path that is at or below `old`: nothing, or a part that begins with a slash.
fn below<'a>(path: &'a [u8], old: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(old).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn cwds(checkpoint: &mut Checkpoint) -> impl Iterator<Item = &mut Name> {
    checkpoint.processes.iter_mut().flat_map(|p| {
        let own = p.threads.iter_mut().filter_map(|t| t.directories.as_mut().map(|d| &mut d.cwd));
        std::iter::once(&mut p.cwd).chain(own)
    })
}

/// All paths that are looked up at a resume, but for working directories that are `left_out`.
fn paths<'a>(checkpoint: &'a mut Checkpoint, left_out: Option<&Name>) -> Vec<&'a mut Name> {
    let memfds = &checkpoint.shared.memfds;
    let mut out = Vec::new();
    for process in &mut checkpoint.processes {
        out.push(&mut process.exe.path);
        let own = process.threads.iter_mut().filter_map(|t| t.directories.as_mut());
        let own = own.map(|d| (&mut d.cwd, &mut d.root));
        for (cwd, root) in std::iter::once((&mut process.cwd, &mut process.root)).chain(own) {
            if left_out != Some(&*cwd) {
                out.push(cwd);
            }
            // That there is no other root is no path.
            if root.0 != b"/" {
                out.push(root);
            }
        }
    }
    // Names of memory files look like paths.
    let memfd = |content: Option<u32>| content.is_some_and(|id| memfds.iter().any(|m| m.content == id));
    for file in &mut checkpoint.shared.mapped {
        if !memfd(file.content.map(|c| c.id)) {
            out.push(&mut file.path);
        }
    }
    out.extend(checkpoint.shared.nameless.iter_mut().map(|n| &mut n.path));
    for file in &mut checkpoint.files {
        match &mut file.kind {
            Kind::Regular(r) if !memfd(r.content.map(|c| c.id)) => out.push(&mut r.path),
            Kind::Directory(d) => out.push(&mut d.path),
            Kind::Path(place) => match place.object {
                Object::Deleted { content, .. } if memfd(Some(content.id)) => {}
                _ => out.push(&mut place.path),
            },
            Kind::Device(d) => out.push(&mut d.path),
            Kind::Pipe(p) => out.extend(p.fifo.as_mut().map(|f| &mut f.path)),
            Kind::Socket(Socket { family: Family::Unix(unix), .. }) => {
                let Some(bound) = &mut unix.bound else { continue };
                if bound.name.0.starts_with(b"/") {
                    out.push(&mut bound.name);
                }
                out.extend(
                    bound.file.as_mut().into_iter().flat_map(|f| [&mut f.path].into_iter().chain(&mut f.renamed)),
                );
            }
            Kind::Fanotify(group) => out.extend(group.marks.iter_mut().map(|m| &mut m.path)),
            Kind::Inotify(i) => out.extend(i.watches.iter_mut().map(|w| &mut w.path)),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(path: &str, moves: &[(&str, &str)]) -> (String, usize) {
        let mut checkpoint = crate::image::sample();
        checkpoint.processes.iter_mut().for_each(|p| p.cwd = "/elsewhere".into());
        checkpoint.processes[0].cwd = path.into();
        let paths = moves.iter().map(|&(old, new)| (old.into(), new.into())).collect();
        let unused = adapt(&mut checkpoint, &Moves { paths, cwd: None });
        (checkpoint.processes[0].cwd.display(), unused.len())
    }

    #[test]
    fn the_longest_fits_best() {
        let moves = [("/a", "/x"), ("/a/b", "/y/z"), ("/a/b/c", "")];
        for (path, expected, unused) in [
            ("/a", "/x", 2),
            ("/a/q", "/x/q", 2),
            ("/ab", "/ab", 3),
            ("/a/b", "/y/z", 2),
            ("/a/b/d e", "/y/z/d e", 2),
            ("/a/b/c", "/", 2),
            ("/a/b/c/d", "/d", 2),
            ("/a/bc", "/x/bc", 2),
        ] {
            assert_eq!(moved(path, &moves), (expected.to_owned(), unused), "{path}");
        }
        // Everything, from the root.
        assert_eq!(moved("/q", &[("", "/new")]), ("/new/q".to_owned(), 0));
    }

    /// The name and path of a socket bound to `name` at `path`.
    fn bound(name: &str, path: &str) -> (String, String) {
        use crate::model::unix::{Bound, Link, SocketFile};
        let mut checkpoint = crate::image::sample();
        let file = Some(SocketFile { path: path.into(), mode: 0, device: 0, inode: 0, renamed: None });
        let bound = Some(Bound { name: name.into(), file });
        let (peer, peer_name, listening) = (None, None, None);
        let (link, reset, urgent, marks, early) = (Link::None, false, None, Vec::new(), None);
        let unix = UnixSocket { link, peer, reset, bound, peer_name, listening, urgent, marks, early };
        let (queue, content, options) = (vec![], None, vec![]);
        let socket = Socket { kind: 1, family: Family::Unix(unix), shutdown: 0, queue, content, options };
        checkpoint.files[0].kind = Kind::Socket(socket);
        adapt(&mut checkpoint, &Moves { paths: vec![("/a/b".into(), "/x".into())], cwd: None });
        match &checkpoint.files[0].kind {
            Kind::Socket(Socket {
                family: Family::Unix(UnixSocket { bound: Some(Bound { name, file }), .. }), ..
            }) => (name.display(), file.as_ref().unwrap().path.display()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_of_sockets_go_along() {
        let pair = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        assert_eq!(bound("/a/b/s", "/a/b/s"), pair("/x/s", "/x/s"));
        assert_eq!(bound("c/s", "/a/b/c/s"), pair("c/s", "/x/c/s"));
        assert_eq!(bound("b/s", "/a/b/s"), pair("/x/s", "/x/s"));
        assert_eq!(bound("/q/s", "/q/s"), pair("/q/s", "/q/s"));
    }

    #[test]
    fn whoever_is_where_the_root_is_goes_along() {
        let mut checkpoint = crate::image::sample();
        for (process, cwd) in checkpoint.processes.iter_mut().zip(["/a", "/a"]) {
            process.cwd = cwd.into();
        }
        checkpoint.processes[1].threads[0].directories =
            Some(crate::model::thread::Directories { cwd: "/a/b".into(), root: "/".into(), umask: 0 });
        let moves = Moves { paths: vec![("/a".into(), "/x".into())], cwd: Some("/new".into()) };
        assert_eq!(adapt(&mut checkpoint, &moves), []);
        let cwds: Vec<String> = cwds(&mut checkpoint).map(|n| n.display()).collect();
        assert_eq!(cwds, ["/new", "/new", "/x/b"]);
    }
}
