//! Files whose content stayed outside of the image, or of which it has a copy only: whether they are as they were, and
//! what is done where they aren't.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::FileType;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::model::fd::Kind;
use crate::model::files::{Content, Regular, Saved};
use crate::model::memory::{Backing, FileStamp, MappedFile};
use crate::model::pipes::{Fifo, PipeEnd};
use crate::model::procfs;
use crate::model::{Checkpoint, Hex, Name, Pid, Refusal};
use crate::proc::elf;

use super::Files;
use super::permitted::{self, Forbidden, forbidden, not_to_enter, of_flags};

/// Files that a resume makes from the image, by the names they had.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    /// To be put back under these names.
    pub put_back: BTreeMap<Name, PutBack>,
    /// To be opened from copies that nobody finds by name.
    pub embedded: BTreeMap<Name, Content>,
}

/// A file that is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutBack {
    /// Its content and permissions.
    pub saved: Saved,
    /// When it was last changed, nanoseconds since 1970.
    pub mtime: i64,
}

/// Looks at all files, directories and devices that the program needs and the image does not hold.
/// `user`: they are entered in a user namespace of the tree's own.
pub fn look(
    checkpoint: &Checkpoint,
    policy: Files,
    user: bool,
    conflicts: &mut Vec<Refusal>,
    notes: &mut Vec<String>,
) -> Changed {
    let mut judge = Judge { policy, conflicts, notes, out: Changed::default() };
    directories(checkpoint, user, judge.conflicts);
    mapped(checkpoint, &mut judge);
    open(checkpoint, &mut judge);
    judge.out
}

/// Directories that processes are in.
fn directories(checkpoint: &Checkpoint, user: bool, conflicts: &mut Vec<Refusal>) {
    // In /proc there will be those of the tree's own processes.
    let to_come = |cwd: &Name| {
        let pid = procfs::ids(&cwd.0).map(|(pid, _)| pid);
        pid.is_some_and(|pid| checkpoint.tree.members.iter().any(|m| m.pid == pid))
    };
    for process in &checkpoint.processes {
        let own = process.threads.iter().filter_map(|t| t.directories.as_ref().map(|d| (&d.cwd, &d.root)));
        let (cwd, root) = (&process.cwd, &process.root);
        let cwd = Some(cwd).filter(|_| process.deleted.cwd.is_none());
        let root = Some(root).filter(|_| process.deleted.root.is_none());
        let cwds = cwd.into_iter().chain(own.clone().map(|(cwd, _)| cwd));
        let roots = root.into_iter().chain(own.map(|(_, root)| root));
        let all = cwds.map(|cwd| ("the working directory", cwd)).chain(roots.map(|root| ("the root directory", root)));
        for (what, path) in all.filter(|(_, path)| !to_come(path)) {
            let otherwise = if what == "the working directory" { ", or choose another with --cwd" } else { "" };
            let (reason, hint) = match std::fs::metadata(path.as_path()) {
                Ok(meta) if meta.is_dir() => match not_to_enter(path.as_path(), &meta, user) {
                    Some(forbidden) => (forbidden.describe(what), permitted::HINT),
                    None => continue,
                },
                found => match found.err().as_ref().and_then(Forbidden::to_reach) {
                    Some(forbidden) => (forbidden.describe(what), permitted::HINT),
                    None => (format!("{what} is gone"), "make it again"),
                },
            };
            conflicts.push(refusal(process.pid, path, &reason, &format!("{hint}{otherwise}")));
        }
    }
}

const PROT_EXEC: u32 = 4;

/// Mapped files and executables.
fn mapped(checkpoint: &Checkpoint, judge: &mut Judge<'_>) {
    let mut used: HashMap<u32, Pid> = HashMap::new();
    let (mut written, mut executed, mut code) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for process in &checkpoint.processes {
        used.entry(process.exe.file).or_insert(process.pid);
        executed.insert(process.exe.file);
        for vma in &process.memory.vmas {
            if let Backing::File { file, shared, may_write, .. } = vma.backing {
                used.entry(file).or_insert(process.pid);
                if shared && may_write {
                    written.insert(file);
                }
                if vma.prot & PROT_EXEC != 0 {
                    code.insert(file);
                }
            }
        }
    }
    for (index, file) in (0u32..).zip(&checkpoint.shared.mapped) {
        if let Some(&pid) = used.get(&index).filter(|_| file.content.is_none()) {
            // An executable must be one to be a process's (kernel/sys.c, prctl_set_mm_exe_file).
            let right = |is: bool, right| if is { right } else { AccessFlags::empty() };
            let needed = AccessFlags::R_OK
                | right(written.contains(&index), AccessFlags::W_OK)
                | right(executed.contains(&index), AccessFlags::X_OK);
            judge.mapped(pid, file, needed);
            if code.contains(&index) && file.embedded.is_none() && permitted::on_noexec(file.path.as_path()) {
                let reason = "nothing on its file system may be executed (noexec), and the program has code of it";
                judge.conflict(
                    pid,
                    &file.path,
                    reason,
                    "mount it without noexec, or name a copy elsewhere by --map-path",
                );
            }
        }
    }
}

/// Open files, directories, devices and FIFOs.
fn open(checkpoint: &Checkpoint, judge: &mut Judge<'_>) {
    let written: BTreeSet<&Name> = checkpoint
        .files
        .iter()
        .filter(|f| f.flags & 3 != 0)
        .filter_map(|f| if let Kind::Regular(r) = &f.kind { Some(&r.path) } else { None })
        .collect();
    let embedded = checkpoint.shared.mapped.iter().filter_map(|m| Some((&m.path, m.embedded?)));
    let embedded: HashMap<&Name, Content> = embedded.collect();
    let both = AccessFlags::R_OK | AccessFlags::W_OK;
    // Of all at once: to look for each among the descriptors takes as long as there are both.
    let mut holders = HashMap::new();
    for (process, d) in checkpoint.processes.iter().flat_map(|p| p.descriptors().map(move |d| (p, d))) {
        holders.entry(d.file).or_insert(process.pid);
    }
    for (file, index) in checkpoint.files.iter().zip(0u32..) {
        let holder = holders.get(&index).copied().unwrap_or(checkpoint.tree.root);
        let needed = of_flags(file.flags);
        match &file.kind {
            Kind::Regular(r) if r.content.is_none() => {
                let written = written.contains(&r.path);
                let copy = embedded.get(&r.path).copied().filter(|_| !written);
                judge.open(holder, r, (needed, written), copy);
            }
            Kind::Directory(d) if d.deleted.is_none() => {
                judge.named(holder, &d.path, "the open directory", needed, ("make it again", |t| t.is_dir()));
            }
            Kind::Device(d) => {
                let hint = "load what makes it, or resume where there is one";
                judge.named(holder, &d.path, "the device", needed, (hint, |t| t.is_char_device()));
            }
            Kind::Pipe(PipeEnd { fifo: Some(Fifo { path, deleted: None }), .. }) => {
                // It is opened as a whole, to fill it.
                judge.named(holder, path, "the FIFO", both, ("make it again with mkfifo", |t| t.is_fifo()));
            }
            _ => {}
        }
    }
}

fn refusal(pid: Pid, path: &Name, reason: &str, hint: &str) -> Refusal {
    Refusal { pid, object: path.display(), reason: reason.to_owned(), hint: hint.to_owned() }
}

/// How a file differs from what it was.
#[derive(Debug)]
enum Change {
    Gone(io::Error),
    Forbidden(Forbidden),
    NoFile,
    Shorter(u64),
    Longer(u64),
    Touched,
}

/// A file that is looked at.
#[derive(Debug)]
struct Subject<'a> {
    pid: Pid,
    path: &'a Name,
    stamp: &'a FileStamp,
    /// Mapped, or open at this position.
    offset: Option<u64>,
    /// What opening it needs.
    needed: AccessFlags,
    /// Permission bits it had, if it is open.
    mode: Option<u32>,
    /// The program writes to it.
    written: bool,
    saved: Option<Saved>,
    embedded: Option<Content>,
}

impl Subject<'_> {
    fn kind(&self) -> &'static str {
        if self.offset.is_some() { "open" } else { "mapped" }
    }

    /// What has become of it.
    fn change(&self, policy: Files) -> Option<Change> {
        let meta = match std::fs::metadata(self.path.as_path()) {
            Ok(meta) => meta,
            Err(error) => return Some(Forbidden::to_reach(&error).map_or(Change::Gone(error), Change::Forbidden)),
        };
        if !meta.is_file() && self.offset.is_some() {
            return Some(Change::NoFile);
        }
        let as_made = |mode| permitted::as_it_was_made(&meta, mode);
        if let Some(forbidden) = forbidden(self.path.as_path(), self.needed)
            && !self.mode.is_some_and(as_made)
        {
            return Some(Change::Forbidden(forbidden));
        }
        let size = meta.size();
        if size < self.stamp.size {
            return Some(Change::Shorter(size));
        }
        if size > self.stamp.size {
            return Some(Change::Longer(size));
        }
        let touched = mtime(&meta) != self.stamp.mtime;
        let same_program = || self.stamp.build_id.is_some() && build_id(self.path) == self.stamp.build_id;
        let changed = match policy {
            Files::Strict => touched || self.stamp.build_id.is_some() && !same_program(),
            // A file with the same build id is the same program, installed again.
            _ => touched && !same_program(),
        };
        changed.then_some(Change::Touched)
    }

    fn describe(&self, change: &Change) -> String {
        let kind = self.kind();
        match change {
            Change::Gone(error) => format!("the {kind} file is gone ({error})"),
            Change::Forbidden(forbidden) => forbidden.describe(&format!("the {kind} file")),
            Change::NoFile => "it is no regular file any more".to_owned(),
            Change::Shorter(now) | Change::Longer(now) => {
                format!("the {kind} file had {} bytes and has {now}", self.stamp.size)
            }
            Change::Touched => format!("the {kind} file has changed since"),
        }
    }

    /// The way out of a conflict.
    fn hint(&self, policy: Files, change: &Change) -> String {
        let mut hint = match (self.offset, change) {
            (_, Change::Gone(_)) => "bring it back",
            (_, Change::Forbidden(_)) => permitted::HINT,
            (None, _) => "the program goes on from memory that belongs to the old file: bring that back",
            (_, Change::NoFile) => "bring the file back",
            _ => "bring the old content back",
        }
        .to_owned();
        if self.saved.is_some() && policy != Files::Image {
            hint.push_str(", or let the content in the image take its place with --files image");
        } else if self.is_of_use(change) {
            hint.push_str(", or use it as it is with --files warn");
        }
        hint
    }

    /// Whether the program can go on with the file as it is now. Memory beyond its end would be its death (SIGBUS).
    fn is_of_use(&self, change: &Change) -> bool {
        match change {
            Change::Gone(_) | Change::Forbidden(_) | Change::NoFile => false,
            Change::Shorter(_) => self.offset.is_some(),
            Change::Longer(_) | Change::Touched => true,
        }
    }
}

fn build_id(path: &Name) -> Option<Hex> {
    let file = std::fs::File::open(path.as_path()).ok()?;
    elf::build_id(&file).map(Hex)
}

fn mtime(meta: &std::fs::Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

/// Decides what is done about each change.
struct Judge<'a> {
    policy: Files,
    conflicts: &'a mut Vec<Refusal>,
    notes: &'a mut Vec<String>,
    out: Changed,
}

impl Judge<'_> {
    fn mapped(&mut self, pid: Pid, file: &MappedFile, needed: AccessFlags) {
        let (saved, embedded, written) = (file.saved, file.embedded, needed.contains(AccessFlags::W_OK));
        let (path, stamp) = (&file.path, &file.stamp);
        self.judge(&Subject { pid, path, stamp, offset: None, needed, mode: None, written, saved, embedded });
    }

    fn open(&mut self, pid: Pid, file: &Regular, (needed, written): (AccessFlags, bool), embedded: Option<Content>) {
        let (offset, saved, path, stamp) = (Some(file.offset), file.saved, &file.path, &file.stamp);
        let mode = Some(file.mode);
        self.judge(&Subject { pid, path, stamp, offset, needed, mode, written, saved, embedded });
    }

    /// Something without content of which the name must lead to the same type; what is to be done where it doesn't.
    fn named(
        &mut self,
        pid: Pid,
        path: &Name,
        what: &str,
        needed: AccessFlags,
        (hint, fits): (&str, impl Fn(FileType) -> bool),
    ) {
        let there = std::fs::metadata(path.as_path());
        let forbidden = match &there {
            Ok(meta) if fits(meta.file_type()) => match forbidden(path.as_path(), needed) {
                None => return,
                forbidden => forbidden,
            },
            Ok(_) => None,
            Err(error) => Forbidden::to_reach(error),
        };
        match forbidden {
            Some(forbidden) => self.conflict(pid, path, &forbidden.describe(what), permitted::HINT),
            None => self.conflict(pid, path, &format!("{what} is gone"), hint),
        }
    }

    /// Each once: many descriptors may lead to one file.
    fn conflict(&mut self, pid: Pid, path: &Name, reason: &str, hint: &str) {
        let conflict = refusal(pid, path, reason, hint);
        if !self.conflicts.contains(&conflict) {
            self.conflicts.push(conflict);
        }
    }

    fn judge(&mut self, subject: &Subject<'_>) {
        let Some(change) = subject.change(self.policy) else { return };
        let reason = subject.describe(&change);
        let no_harm = subject.written && matches!(change, Change::Longer(_) | Change::Touched);
        let path = subject.path.display();
        if self.policy == Files::Strict {
            self.conflict(subject.pid, subject.path, &reason, &subject.hint(self.policy, &change));
        } else if let (Files::Image, Some(saved)) = (self.policy, subject.saved) {
            match no_way_back(subject.path.as_path(), &change) {
                Some(why) => self.conflict(
                    subject.pid,
                    subject.path,
                    &format!("{reason}, and can't be put back: {why}"),
                    "see that it can, or bring the old content back yourself",
                ),
                None => {
                    let put_back = PutBack { saved, mtime: subject.stamp.mtime };
                    if self.out.put_back.insert(subject.path.clone(), put_back).is_none() {
                        self.note(format_args!("{path}: {reason}; put back as it was saved"));
                    }
                }
            }
        } else if let Some(content) = subject.embedded {
            if self.out.embedded.insert(subject.path.clone(), content).is_none() {
                self.note(format_args!("{path}: {reason}; the copy in the image is used"));
            }
        } else if self.policy == Files::Warn && subject.is_of_use(&change) {
            let beyond = match (&change, subject.offset) {
                (Change::Shorter(now), Some(offset)) if offset > *now => {
                    format!(", with the program at byte {offset}, beyond its end")
                }
                _ => String::new(),
            };
            self.note(format_args!("{path}: {reason}; used as it is{beyond}"));
        } else if !no_harm {
            self.conflict(subject.pid, subject.path, &reason, &subject.hint(self.policy, &change));
        }
    }

    fn note(&mut self, note: fmt::Arguments<'_>) {
        let note = note.to_string();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// Why a file can't be made again under its name, if so.
fn no_way_back(path: &Path, change: &Change) -> Option<String> {
    if matches!(change, Change::NoFile) {
        return Some("something else has its name".to_owned());
    }
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("/"));
    let error = access(directory, AccessFlags::W_OK | AccessFlags::X_OK).err()?;
    Some(format!("{}: {}", directory.display(), error.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: FileStamp = FileStamp { size: 5, mtime: 0, build_id: None };

    /// Conflicts, notes, files put back and copies used for an open file of five bytes at byte 4.
    fn judged(policy: Files, now: Option<&str>, written: bool, saved: bool, embedded: bool) -> [usize; 4] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        if let Some(now) = now {
            std::fs::write(&path, now).unwrap();
        }
        let content = Content { id: 1, size: 5 };
        let (mut conflicts, mut notes) = (vec![], vec![]);
        let mut judge = Judge { policy, conflicts: &mut conflicts, notes: &mut notes, out: Changed::default() };
        let subject = Subject {
            pid: Pid(1),
            path: &path.as_path().into(),
            stamp: &NOW,
            offset: Some(4),
            mode: None,
            needed: AccessFlags::R_OK,
            written,
            saved: saved.then_some(Saved { content, mode: 0o644 }),
            embedded: embedded.then_some(content),
        };
        judge.judge(&subject);
        judge.judge(&subject);
        let out = judge.out;
        conflicts.dedup();
        [conflicts.len(), notes.len(), out.put_back.len(), out.embedded.len()]
    }

    #[test]
    fn what_is_done_about_a_change() {
        use Files::{Auto, Image, Strict, Warn};
        let (gone, short, same, long) = (None, Some("abc"), Some("abcde"), Some("abcdefg"));
        let (conflict, silence, note) = ([1, 0, 0, 0], [0; 4], [0, 1, 0, 0]);
        for (policy, now, written, expected) in [
            (Auto, gone, true, conflict),
            (Auto, short, true, conflict),
            (Auto, same, true, silence),
            (Auto, long, true, silence),
            (Auto, same, false, conflict),
            (Auto, long, false, conflict),
            (Strict, same, true, conflict),
            (Strict, long, true, conflict),
            (Warn, gone, true, conflict),
            (Warn, short, true, note),
            (Warn, same, true, note),
            (Warn, long, true, note),
            (Warn, long, false, note),
            (Image, gone, true, conflict),
            (Image, short, true, conflict),
            (Image, long, true, silence),
            (Image, long, false, conflict),
        ] {
            assert_eq!(judged(policy, now, written, false, false), expected, "{policy:?} {now:?} {written}");
        }
        for now in [gone, short, same, long] {
            assert_eq!(judged(Image, now, true, true, true), [0, 1, 1, 0], "{now:?}");
            assert_eq!(judged(Strict, now, false, true, true), conflict, "{now:?}");
            for policy in [Auto, Warn] {
                assert_eq!(judged(policy, now, false, true, true), [0, 1, 0, 1], "{policy:?} {now:?}");
            }
        }
    }
}
