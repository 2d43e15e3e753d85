//! Opening an image.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use serde::de::DeserializeOwned;

use super::digest::{self, Digest};
use super::end::{self, End};
use super::error::{Error, Result};
use super::header::{BLOCK, is_sound};
use super::pages::{self, Run};
use super::walk::{Found, Source, Walk};
use super::{MAX_MEMBERS, MAX_METADATA, PAGE, check, names, schema};
use crate::model::manifest::{FORMAT, KNOWN_FEATURES};
use crate::model::process::Process;
use crate::model::{Checkpoint, Pid};

/// An open image whose metadata is sound and makes sense; its memory and file contents are not looked at before
/// [`Image::verify`].
#[derive(Debug)]
pub struct Image {
    pub(super) source: Source,
    checkpoint: Checkpoint,
    /// First one for each process, in their order.
    parts: Vec<PartLocation>,
    /// Indexes of processes, and of their parts.
    by_pid: HashMap<Pid, usize>,
    blobs: HashMap<u32, (u64, u64)>,
    members: Vec<Member>,
    /// Bytes of a page member that share one digest.
    pub(super) chunk: u64,
}

/// Where the pages of a process or of a piece of shared memory are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartLocation {
    /// [`super::process_part`] or [`super::shared_part`].
    pub name: String,
    /// In ascending order, not overlapping; their pages follow each other in the file without gaps.
    pub runs: Vec<Run>,
    /// Offset in the file of the first page's first byte; a multiple of 4096.
    pub data_offset: u64,
    /// Bytes of all pages.
    pub len: u64,
    before: Vec<u64>,
}

impl PartLocation {
    /// Every run with the offset in the file of its first byte.
    pub fn located(&self) -> impl Iterator<Item = (Run, u64)> + '_ {
        self.runs.iter().zip(&self.before).map(|(run, before)| (*run, self.data_offset + before))
    }

    /// The same of bytes `from..to` of the pages.
    pub fn located_between(&self, from: u64, to: u64) -> impl Iterator<Item = (Run, u64)> + '_ {
        let first = self.before.partition_point(|&before| before <= from).saturating_sub(1);
        let all = self.runs.iter().zip(&self.before).skip(first).take_while(move |(_, before)| **before < to);
        all.map(move |(run, &before)| {
            let skip = from.saturating_sub(before).min(run.len);
            let len = (run.len - skip).min(to - before - skip);
            (Run { start: run.start + skip, len }, self.data_offset + before + skip)
        })
    }

    /// Where in the file the byte at `addr` is, and how many bytes of its run are left from there.
    pub fn find(&self, addr: u64) -> Option<(u64, u64)> {
        let at = self.runs.partition_point(|run| run.start <= addr).checked_sub(1)?;
        let (run, before) = (self.runs.get(at)?, self.before.get(at)?);
        let skip = addr - run.start;
        (skip < run.len).then(|| (self.data_offset + before + skip, run.len - skip))
    }
}

/// One member of the tar file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name. Never to be used as a path.
    pub name: String,
    /// Where its bytes are in the file.
    pub offset: u64,
    /// How many there are.
    pub size: u64,
    /// Their digest; none for page members, which have one for every chunk.
    pub digest: Option<Digest>,
}

impl Image {
    /// Opens and checks the image of this name. What is not a regular file is read to its end first.
    ///
    /// # Errors
    /// As [`Image::from_file`].
    pub fn open(path: &Path) -> Result<Image> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(Error::io("open", &*name))?;
        Image::from_file(file, &name)
    }

    /// Checks the image in `file`, called `name` in messages. What is not a regular file is spooled.
    ///
    /// # Errors
    /// [`Error::NotAnImage`], [`Error::Truncated`], [`Error::Altered`], [`Error::Newer`], [`Error::UnknownFeatures`],
    /// [`Error::Inconsistent`], [`Error::TooLarge`], [`Error::Io`].
    pub fn from_file(file: File, name: &str) -> Result<Image> {
        let meta = file.metadata().map_err(Error::io("look at", name))?;
        if meta.is_dir() {
            return Err(Error::NotAnImage { image: name.to_owned(), what: "it is a directory".to_owned() });
        }
        if !meta.is_file() {
            return Image::spool(file, name);
        }
        Image::load(Source { file, name: name.to_owned(), len: meta.len() })
    }

    /// Copies a stream into a nameless temporary file and opens that.
    ///
    /// # Errors
    /// As [`Image::from_file`], and [`Error::NoSpace`].
    pub fn spool(mut stream: impl Read, name: &str) -> Result<Image> {
        // What is no image may have no end.
        let mut start = Vec::new();
        stream.by_ref().take(BLOCK).read_to_end(&mut start).map_err(Error::io("read", name))?;
        check_start(&start, name)?;
        let dir = std::env::temp_dir();
        let mut file = nameless(&dir).map_err(Error::into_copy)?;
        let len = copy(&mut start.chain(stream), &mut file)
            .map_err(|e| Error::writing(&dir, "make a copy of the image in", e).into_copy())?;
        Image::load(Source { file, name: name.to_owned(), len })
    }

    /// What the image says.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Changes what the image is taken to say; the file stays as it is. Whoever edits sees to it that it still makes sense.
    pub fn edit<R>(&mut self, edit: impl FnOnce(&mut Checkpoint) -> R) -> R {
        edit(&mut self.checkpoint)
    }

    /// Where pages are: a part for every process, and one for every piece of shared memory that is not all zeros.
    pub fn parts(&self) -> &[PartLocation] {
        &self.parts
    }

    /// The part of this name.
    pub fn part(&self, name: &str) -> Option<&PartLocation> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// The pages of this process.
    pub fn pages_of(&self, pid: Pid) -> Option<&PartLocation> {
        self.parts.get(*self.by_pid.get(&pid)?)
    }

    /// Where in the file the page of `pid` at `addr` is, its own or an inherited one, and how many bytes follow it there
    /// as they do in memory.
    pub fn find_page(&self, pid: Pid, addr: u64) -> Option<(u64, u64)> {
        let (mut pid, mut limit) = (pid, u64::MAX);
        // An inheritance goes back to processes described before only: `check` has seen to it.
        loop {
            if let Some((offset, left)) = self.pages_of(pid)?.find(addr) {
                return Some((offset, left.min(limit)));
            }
            let process = self.checkpoint.processes.get(*self.by_pid.get(&pid)?)?;
            let inherits = process.memory.inherits.as_ref()?;
            let at = inherits.pages.partition_point(|span| span.start.0 <= addr).checked_sub(1)?;
            let left = inherits.pages.get(at)?.end.0.checked_sub(addr).filter(|&left| left > 0)?;
            (pid, limit) = (inherits.from, limit.min(left));
        }
    }

    /// Offset and size in the file of the content with this id.
    pub fn blob(&self, id: u32) -> Option<(u64, u64)> {
        self.blobs.get(&id).copied()
    }

    /// Ids of all contents, in ascending order.
    pub fn blob_ids(&self) -> Vec<u32> {
        let mut ids: Vec<_> = self.blobs.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The file itself. Read it by position only.
    pub fn file(&self) -> &File {
        &self.source.file
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.source.name
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.source.len
    }

    /// All members, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    fn load(source: Source) -> Result<Image> {
        let mut walk = Walk::new(&source);
        let first = first_member(&source, &mut walk)?;
        let mut metadata = Metadata { source: &source, left: MAX_METADATA };
        check_head(&source, &metadata.bytes(&first)?)?;
        let (found, end) = all_members(&source, walk, first, &mut metadata)?;
        let members = sealed(&source, found, &end)?;

        let by_name: HashMap<&str, &Member> = members.iter().map(|m| (m.name.as_str(), m)).collect();
        if by_name.len() != members.len() {
            return Err(source.inconsistent("two members have the same name"));
        }
        let checkpoint = read_checkpoint(&members, &by_name, &mut metadata)?;

        let mut blobs = HashMap::new();
        for member in &members {
            if let Some(id) = names::blob_of(&member.name) {
                blobs.insert(id, (member.offset, member.size));
            }
        }
        let mut parts = Vec::new();
        for process in &checkpoint.processes {
            parts.extend(read_part(names::process_part(process.pid), &by_name, &mut metadata, end.chunk)?);
        }
        for object in 0..checkpoint.shared.anon.len() {
            parts.extend(read_part(names::shared_part(object), &by_name, &mut metadata, end.chunk)?);
        }
        let runs = parts.iter().map(|p| (p.name.as_str(), p.runs.as_slice())).collect();
        let sizes = blobs.iter().map(|(&id, &(_, size))| (id, size)).collect();
        check::check(&checkpoint, &runs, &sizes).map_err(|what| source.inconsistent(what))?;
        let by_pid = checkpoint.processes.iter().enumerate().map(|(index, p)| (p.pid, index)).collect();
        Ok(Image { checkpoint, parts, by_pid, blobs, members, chunk: end.chunk, source })
    }
}

/// Copies all. A limit on file sizes is to be an error (EFBIG), not our death by SIGXFSZ, which then stays blocked.
fn copy(from: &mut impl Read, to: &mut File) -> io::Result<u64> {
    let mut too_large = SigSet::empty();
    too_large.add(Signal::SIGXFSZ);
    let before = too_large.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let copied = io::copy(from, to)?;
    before.thread_set_mask()?;
    Ok(copied)
}

/// A file without a name: in `dir`, or in memory where that file system has no such thing.
fn nameless(dir: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(OFlag::O_TMPFILE.bits());
    match options.open(dir) {
        Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            memfd_create(c"ckpt image", MFdFlags::MFD_CLOEXEC)
                .map(File::from)
                .map_err(|e| Error::writing(dir, "replace a temporary file in", e.into()))
        }
        other => other.map_err(|e| Error::writing(dir, "make a temporary file in", e)),
    }
}

/// The first member, which tells an image from anything else.
fn first_member(source: &Source, walk: &mut Walk<'_>) -> Result<Found> {
    let mut start = [0; BLOCK as usize];
    let known = start.len().min(usize::try_from(source.len).unwrap_or(usize::MAX));
    let start = start.get_mut(..known).unwrap_or_default();
    source.read(start, 0)?;
    check_start(start, &source.name)?;
    match walk.next()? {
        Some(found) if found.name == names::MANIFEST => Ok(found),
        _ => {
            Err(Error::NotAnImage { image: source.name.clone(), what: "its first member is not ckpt.json".to_owned() })
        }
    }
}

/// Whether an image can start like this: with its first block, or all that there is.
fn check_start(start: &[u8], image: &str) -> Result<()> {
    let known = start.get(..names::MANIFEST.len()).unwrap_or(start);
    if !names::MANIFEST.as_bytes().starts_with(known) {
        let what = "it does not start with a member ckpt.json".to_owned();
        return Err(Error::NotAnImage { image: image.to_owned(), what });
    }
    match start.first_chunk() {
        Some(block) if !is_sound(block) => {
            Err(Error::Altered { image: image.to_owned(), member: "header at byte 0".to_owned() })
        }
        _ => Ok(()),
    }
}

/// Refuses what a later program wrote and we would misunderstand. Before anything else is looked at, as anything else
/// may be different then.
fn check_head(source: &Source, bytes: &[u8]) -> Result<()> {
    let head: schema::Head = serde_json::from_slice(bytes).map_err(|_| source.altered(names::MANIFEST))?;
    if head.format > u64::from(FORMAT) {
        return Err(Error::Newer { image: source.name.clone(), found: head.format, known: FORMAT });
    }
    let mut unknown = head.requires;
    unknown.retain(|name| !KNOWN_FEATURES.contains(&name.as_str()));
    if unknown.is_empty() { Ok(()) } else { Err(Error::UnknownFeatures { image: source.name.clone(), names: unknown }) }
}

/// All members, the last of them the end mark, whose content comes too.
fn all_members(
    source: &Source,
    mut walk: Walk<'_>,
    first: Found,
    metadata: &mut Metadata<'_>,
) -> Result<(Vec<Found>, End)> {
    let mut found = vec![first];
    loop {
        // Zeros may also be pages that were never written.
        let Some(member) = walk.next()? else { return Err(source.truncated("its end mark is missing")) };
        if found.len() >= MAX_MEMBERS {
            return Err(source.too_large(format!("more than {MAX_MEMBERS} members")));
        }
        let last = member.name == names::END;
        found.push(member);
        if last {
            break;
        }
    }
    let end = match found.last() {
        Some(last) => end::decode(&metadata.bytes(last)?).ok_or_else(|| source.altered(names::END))?,
        None => return Err(source.truncated("its end mark is missing")),
    };
    let mut trailer = [0; 2 * BLOCK as usize];
    if source.len.saturating_sub(walk.at()) < trailer.len() as u64 {
        return Err(source.truncated("its last blocks are missing"));
    }
    source.read(&mut trailer, walk.at())?;
    if trailer.iter().any(|&b| b != 0) {
        return Err(source.altered("what follows END.json"));
    }
    Ok((found, end))
}

/// The members, if they are those that the end mark lists.
fn sealed(source: &Source, found: Vec<Found>, end: &End) -> Result<Vec<Member>> {
    if found.len() != end.members.len() + 1 {
        return Err(source.altered(format!("{} members where there were {}", found.len(), end.members.len() + 1)));
    }
    let mut listed = end.members.iter();
    let mut members = Vec::with_capacity(found.len());
    for Found { name, offset, size } in found {
        let digest = match listed.next() {
            Some(listed) if (&listed.name, listed.size) == (&name, size) => listed.digest,
            None => None,
            Some(_) => return Err(source.altered(name)),
        };
        members.push(Member { name, offset, size, digest });
    }
    if end.chunk == 0 || end.chunk % PAGE != 0 || end.chunk > 64 << 20 {
        return Err(source.inconsistent(format!("chunks of {} bytes", end.chunk)));
    }
    Ok(members)
}

/// Reads metadata, up to a limit in all.
pub(super) struct Metadata<'a> {
    source: &'a Source,
    left: u64,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(source: &'a Source) -> Metadata<'a> {
        Metadata { source, left: MAX_METADATA }
    }

    fn bytes(&mut self, member: &Found) -> Result<Vec<u8>> {
        self.read(member.offset, member.size)
    }

    fn read(&mut self, offset: u64, size: u64) -> Result<Vec<u8>> {
        self.left = self
            .left
            .checked_sub(size)
            .ok_or_else(|| self.source.too_large(format!("more than {MAX_METADATA} bytes of metadata")))?;
        let mut bytes = vec![0; size as usize];
        self.source.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The bytes of a member that are as they were written.
    pub(super) fn sound(&mut self, member: &Member) -> Result<Vec<u8>> {
        let bytes = self.read(member.offset, member.size)?;
        if member.digest != Some(Digest::of(&bytes)) {
            return Err(self.source.altered(&*member.name));
        }
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&mut self, member: &Member, schema: &str) -> Result<T> {
        let bytes = self.sound(member)?;
        schema::read(schema, &bytes).map_err(|e| self.source.inconsistent(format!("{}: {e}", member.name)))
    }

    fn named<T: DeserializeOwned>(&mut self, by_name: &ByName<'_>, name: &str, schema: &str) -> Result<T> {
        let member = by_name.get(name).ok_or_else(|| self.source.inconsistent(format!("{name} is missing")))?;
        self.json(member, schema)
    }
}

type ByName<'a> = HashMap<&'a str, &'a Member>;

fn read_checkpoint(members: &[Member], by_name: &ByName<'_>, metadata: &mut Metadata<'_>) -> Result<Checkpoint> {
    let mut processes = Vec::new();
    for member in members {
        if let Some(pid) = names::process_of(&member.name) {
            let process: Process = metadata.json(member, schema::PROCESS)?;
            if process.pid != pid {
                return Err(metadata.source.inconsistent(format!("{} is about pid {}", member.name, process.pid)));
            }
            processes.push(process);
        }
    }
    let files: schema::Files = metadata.named(by_name, names::FILES, schema::FILES)?;
    Ok(Checkpoint {
        manifest: metadata.named(by_name, names::MANIFEST, schema::MANIFEST)?,
        tree: metadata.named(by_name, names::TREE, schema::TREE)?,
        processes,
        files: files.files,
        shared: metadata.named(by_name, names::SHARED, schema::SHARED)?,
    })
}

/// The part of this name, if the image has it; whether it must is for [`check`] to say.
fn read_part(
    name: String,
    by_name: &ByName<'_>,
    metadata: &mut Metadata<'_>,
    chunk: u64,
) -> Result<Option<PartLocation>> {
    let source = metadata.source;
    let Some(index) = by_name.get(names::runs(&name).as_str()) else { return Ok(None) };
    let runs = pages::decode(&metadata.sound(index)?);
    let runs = runs.ok_or_else(|| source.inconsistent(format!("{} has an odd length", index.name)))?;
    let wrong = || source.inconsistent(format!("the pages of {name} are not those of its run index"));
    let pages = by_name.get(names::pages(&name).as_str()).ok_or_else(wrong)?;
    let sums = by_name.get(names::sums(&name).as_str()).ok_or_else(wrong)?;
    let (before, len) = pages::bytes_before(&runs).ok_or_else(wrong)?;
    if len != pages.size || sums.size != len.div_ceil(chunk) * digest::LEN as u64 {
        return Err(wrong());
    }
    if pages.offset % PAGE != 0 {
        return Err(source.inconsistent(format!("{} is not aligned (was the image repacked?)", pages.name)));
    }
    Ok(Some(PartLocation { name, runs, data_offset: pages.offset, len, before }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::process::Command;

    use proptest::prelude::*;

    use super::super::sample::{NEVER, checkpoint, parts, write};
    use super::super::{Part, rewrite};
    use super::*;

    fn image_bytes() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        write(&path, &parts()).unwrap();
        std::fs::read(path).unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Image> {
        Image::spool(bytes, "it")
    }

    #[test]
    fn what_is_no_image_is_not_copied() {
        for byte in [0, b'y'] {
            let mut endless = io::repeat(byte).take(1 << 20);
            let opened = Image::spool(&mut endless, "it");
            assert!(matches!(opened, Err(Error::NotAnImage { .. })), "{opened:?}");
            assert_eq!(endless.limit(), (1 << 20) - BLOCK);
        }
        let named = names::MANIFEST.as_bytes().chain(io::repeat(b'y').take(1 << 20));
        let opened = Image::spool(named, "it");
        assert!(matches!(opened, Err(Error::Altered { .. })), "{opened:?}");
    }

    /// The pages of a part.
    type Pages = (String, Vec<Run>, Vec<u8>);

    /// Everything an image holds, or why it does not.
    fn content(bytes: &[u8]) -> Result<(Checkpoint, Vec<Pages>, Vec<Vec<u8>>)> {
        let image = open(bytes)?;
        image.verify(1, &NEVER)?;
        let at = |offset: u64, size: u64| {
            let mut bytes = vec![0; size as usize];
            image.file().read_exact_at(&mut bytes, offset).unwrap();
            bytes
        };
        let pages = |p: &PartLocation| (p.name.clone(), p.runs.clone(), at(p.data_offset, p.len));
        let blobs = image.blob_ids().into_iter().map(|id| image.blob(id).unwrap());
        let blobs = blobs.map(|(offset, size)| at(offset, size)).collect();
        Ok((image.checkpoint().clone(), image.parts().iter().map(pages).collect(), blobs))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn changed_bytes_are_noticed(changes in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4)) {
            let whole = image_bytes();
            let mut bytes = whole.clone();
            for (at, by) in changes {
                bytes[at.index(whole.len())] ^= by;
            }
            if let Ok(found) = content(&bytes) {
                prop_assert!(found == content(&whole).unwrap());
            }
        }

        #[test]
        fn bytes_put_in_or_left_out_are_noticed(at in any::<prop::sample::Index>(), len in 1usize..2000, put in any::<bool>()) {
            let whole = image_bytes();
            let at = at.index(whole.len());
            let mut bytes = whole[..at].to_vec();
            if put {
                bytes.extend(vec![0x20; len]);
                bytes.extend(&whole[at..]);
            } else {
                bytes.extend(&whole[(at + len).min(whole.len())..]);
            }
            if let Ok(found) = content(&bytes) {
                prop_assert!(found == content(&whole).unwrap());
            }
        }
    }

    #[test]
    fn every_cut_is_a_truncation() {
        let whole = image_bytes();
        for len in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            assert!(matches!(open(&whole[..len]), Err(Error::Truncated { .. })), "{len}");
        }
        // A writer that died: the file is as long as it was to be, but holds zeros.
        let mut hole = whole.clone();
        let from = hole.len() / 2 / 512 * 512;
        hole[from..].fill(0);
        assert!(!matches!(open(&hole), Ok(_) | Err(Error::NotAnImage { .. })));
    }

    #[test]
    fn other_files_are_no_images() {
        let tar = |name: &str| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_size(3);
            tar.append_data(&mut header, name, &b"abc"[..]).unwrap();
            tar.into_inner().unwrap()
        };
        for other in [b"#!/bin/sh\n".to_vec(), vec![0; 5000], tar("other.json"), tar("ckpt.json.bak")] {
            assert!(matches!(open(&other), Err(Error::NotAnImage { .. })));
        }
        assert!(matches!(open(&tar("ckpt.json")), Err(Error::Altered { .. })));
        assert!(matches!(Image::open(Path::new("/")), Err(Error::NotAnImage { .. })));
        assert!(matches!(Image::open(Path::new("/nonexistent")), Err(Error::Io { step: "open", .. })));
    }

    #[test]
    fn altered_members_are_named() {
        let whole = image_bytes();
        let image = open(&whole).unwrap();
        for member in image.members().iter().filter(|m| m.size > 0) {
            let mut bytes = whole.clone();
            bytes[(member.offset + member.size / 2) as usize] ^= 1;
            match content(&bytes) {
                Err(Error::Altered { member: name, .. }) if member.name.ends_with(".sums") => {
                    assert_eq!(name, member.name);
                }
                Err(Error::Altered { member: name, .. }) => assert_eq!(name, member.name),
                // What cannot be read as a manifest of ours at all may also look like a later one.
                other => panic!("{}: {other:?}", member.name),
            }
        }
    }

    fn edited(edit: impl FnOnce(&mut Checkpoint)) -> Result<Image> {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        write(&from, &parts()).unwrap();
        rewrite(&Image::open(&from)?, &to, edit)?;
        Image::open(&to)
    }

    #[test]
    fn rewriting_keeps_all_but_the_edit() {
        let image = edited(|c| c.manifest.name = "other".into()).unwrap();
        image.verify(0, &NEVER).unwrap();
        assert_eq!(image.checkpoint().manifest.name, "other");
        let mut expected = checkpoint();
        expected.manifest.name = "other".into();
        assert_eq!(image.checkpoint(), &expected);
        let all: Vec<_> = image.parts().iter().map(|p| Part { name: p.name.clone(), runs: p.runs.clone() }).collect();
        assert_eq!(all, parts());
        assert_eq!(image.blob_ids(), [0, 7]);
    }

    #[test]
    fn later_formats_and_features_are_refused_by_name() {
        let newer = edited(|c| c.manifest.format = FORMAT + 6);
        assert!(matches!(newer, Err(Error::Newer { found, known: FORMAT, .. }) if found == u64::from(FORMAT) + 6));
        match edited(|c| c.manifest.requires = vec!["tardis".into()]) {
            Err(Error::UnknownFeatures { names, .. }) => assert_eq!(names, ["tardis"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn contradictions_are_refused() {
        use crate::model::memory::Backing;
        use crate::model::{Addr, Hex};
        type Edit = fn(&mut Checkpoint);
        let edits: [(&str, Edit); 32] = [
            ("root", |c| c.tree.root = Pid(7)),
            ("twice", |c| c.tree.members[1].pid = Pid(100)),
            ("cycle", |c| c.tree.members[0].ppid = Pid(101)),
            ("zombie alive", |c| c.tree.members[1].state = crate::model::tree::State::Zombie { status: 0 }),
            ("negative pid", |c| c.tree.outside.push(Pid(-1))),
            ("file", |c| c.processes[1].fds[1].file = 2),
            ("fd order", |c| c.processes[1].fds[1].fd = 3),
            ("exe", |c| c.processes[0].exe.file = 1),
            ("leader", |c| c.processes[0].threads[0].tid = Pid(103)),
            ("ended leader", |c| c.processes[0].ended_leader = Some(0)),
            ("shared memory twice", |c| c.tree.members[1].shares.memory = Some(Pid(100))),
            ("shared with nobody", |c| c.tree.members[1].shares.directories = Some(Pid(7))),
            ("no thread", |c| c.processes[0].threads.clear()),
            ("unaligned", |c| c.processes[0].memory.vmas[0].start.0 += 1),
            ("order", |c| c.processes[0].memory.vmas.swap(0, 1)),
            ("overlap", |c| c.processes[1].memory.vmas[0].end.0 += PAGE),
            ("beyond", |c| c.processes[1].memory.vmas[3].end = Addr((1 << 47) + PAGE)),
            ("run outside", |c| drop(c.processes[0].memory.vmas.remove(1))),
            ("run in shared", |c| {
                c.processes[0].memory.vmas[1].backing = Backing::SharedAnon { object: 0, offset: 0, read_only: false }
            }),
            ("mapped file", |c| {
                let file = Backing::File { file: 9, offset: 0, shared: false, may_write: false };
                c.processes[0].memory.vmas[0].backing = file;
            }),
            ("shared object", |c| c.shared.anon.clear()),
            ("shared size", |c| c.shared.anon[0].size = PAGE),
            ("content", |c| c.shared.mapped[0].content = Some(crate::model::files::Content { id: 0, size: 6 })),
            ("page size", |c| c.manifest.page_size = 65536),
            ("huge pages unaligned", |c| huge(c, 0, 2 << 20)),
            ("huge pages of odd size", |c| huge(c, 2, 3 * PAGE)),
            ("huge pages unsaid", |c| {
                huge(c, 2, 2 * PAGE);
                c.manifest.requires.clear();
            }),
            ("owner", |c| {
                c.files[0].owner = Some(crate::model::fd::Owner { kind: 1, pid: Pid(7), signal: 0 });
            }),
            ("owner of another kind", |c| {
                c.files[0].owner = Some(crate::model::fd::Owner { kind: 3, pid: Pid(100), signal: 0 });
            }),
            ("memory policy of nothing", |c| policy(c, 0, 8)),
            ("memory policy without whole words", |c| policy(c, 1, 7)),
            ("siginfo", |c| {
                let pending = crate::model::signals::Pending { signal: 10, info: Hex(vec![0; 127]) };
                c.processes[0].pending.push(pending);
            }),
        ];
        for (what, edit) in edits {
            let result = edited(edit);
            assert!(matches!(result, Err(Error::Inconsistent { .. })), "{what}: {result:?}");
        }
    }

    /// Gives a mapping of the first process pages of so many bytes.
    fn huge(c: &mut Checkpoint, vma: usize, page: u64) {
        c.manifest.requires = vec![crate::model::manifest::HUGE_PAGES.into()];
        c.processes[0].memory.vmas[vma].huge = Some(page);
    }

    /// Gives some pages from the start of the first mapping on a memory policy with so many bytes of nodes.
    fn policy(c: &mut Checkpoint, pages: u64, nodes: usize) {
        use crate::model::Addr;
        use crate::model::mempolicy::{Placement, Policy};
        let start = c.processes[0].memory.vmas[0].start;
        let span = crate::model::memory::Span { start, end: Addr(start.0 + pages * PAGE) };
        let policy = Policy { mode: 2, nodes: crate::model::Hex(vec![1; nodes]) };
        c.processes[0].memory.policies.push(Placement { span, policy });
    }

    #[test]
    fn files_of_proc_are_somebodys() {
        use crate::model::Name;
        use crate::model::procfs::{File, Of};
        let with = |path: &'static str, of| {
            edited(move |c| {
                c.files[0].kind = crate::model::fd::Kind::Procfs(File { path: Name(path.into()), of, offset: 3 });
            })
        };
        for (path, of) in [
            ("/proc", Of::System),
            ("/proc/sys/kernel/pid_max", Of::System),
            ("/proc/100/task/100/comm", Of::Member),
            ("/proc/7", Of::Ended),
        ] {
            with(path, of).unwrap();
        }
        for (path, of) in [
            ("/process", Of::System),
            ("/proc/", Of::System),
            ("/proc/../etc/passwd", Of::System),
            ("/proc/100/root/.", Of::Member),
            ("/proc/100/status", Of::System),
            ("/proc/7/status", Of::Member),
            ("/proc/100/task/7/status", Of::Member),
            ("/proc/7/task/7/status", Of::Ended),
            ("/proc/meminfo", Of::Ended),
        ] {
            let result = with(path, of);
            assert!(matches!(result, Err(Error::Inconsistent { .. })), "{path} {of:?}: {result:?}");
        }
    }

    #[test]
    fn memory_policies_and_huge_pages_are_read() {
        edited(|c| policy(c, 1, 8)).unwrap();
        edited(|c| huge(c, 1, 4 * PAGE)).unwrap();
    }

    /// A TCP socket with something to read, of which the byte at `at` is urgent.
    fn urgent(c: &mut Checkpoint, at: u64, state: crate::model::tcp::State) {
        use crate::model::Hex;
        use crate::model::fd::{Kind, OpenFile};
        use crate::model::files::Content;
        use crate::model::sockets::{Family, Message, Socket};
        use crate::model::tcp::{TcpSocket, Urgent};
        let address = Hex([&[2, 0, 0, 80, 127, 0, 0, 1][..], &[0; 8]].concat());
        let urgent = Some(Urgent { at, read: false });
        let family = Family::Tcp(TcpSocket { domain: 2, local: address, state, urgent, early: None });
        let queue = vec![Message { size: 5, credentials: None, from: None, rights: Vec::new() }];
        let content = Some(Content { id: 0, size: 5 });
        let socket = Socket { kind: 1, family, shutdown: 0, queue, content, options: Vec::new() };
        c.files.push(OpenFile { flags: 2, owner: None, kind: Kind::Socket(socket) });
        c.manifest.requires = vec![crate::model::manifest::URGENT_DATA.into()];
    }

    #[test]
    fn marks_are_such_as_can_be_made() {
        use crate::model::fanotify::{Fanotify, Mark, Marked};
        use crate::model::fd::{Kind, OpenFile};
        let with = |path: &str, flags, mask, ignored| {
            edited(|c| {
                let marks = vec![Mark { on: Marked::Mount, path: path.into(), flags, mask, ignored }];
                let kind = Kind::Fanotify(Fanotify { flags: 0, event_flags: 0, privileged: true, marks });
                c.files.push(OpenFile { flags: 2, owner: None, kind });
            })
        };
        with("/m", 0x640, 0x20, 0).unwrap();
        with("/m", 0, 0, 0x20).unwrap();
        // Elsewhere, with two names, of something else, of nothing, and such that others would have to wait.
        for (path, flags, mask, ignored) in [
            ("m", 0, 0x20, 0),
            ("/m\0n", 0, 0x20, 0),
            ("/m", 0x10, 0x20, 0),
            ("/m", 0, 0, 0),
            ("/m", 0, 0x1_0020, 0),
            ("/m", 0, 0x20, 0x2_0000),
        ] {
            assert!(with(path, flags, mask, ignored).is_err(), "{path:?} {flags:#x} {mask:#x} {ignored:#x}");
        }
    }

    #[test]
    fn urgent_data_is_where_there_is_data() {
        use crate::model::tcp::State;
        edited(|c| urgent(c, 4, State::Ended { error: false })).unwrap();
        let unsaid = |c: &mut Checkpoint| {
            urgent(c, 4, State::Ended { error: false });
            c.manifest.requires.clear();
        };
        for result in [
            edited(|c| urgent(c, 5, State::Ended { error: false })),
            edited(|c| urgent(c, u64::MAX, State::Ended { error: false })),
            edited(|c| urgent(c, 0, State::Listening { backlog: 1 })),
            edited(unsaid),
        ] {
            assert!(matches!(result, Err(Error::Inconsistent { .. })), "{result:?}");
        }
    }

    #[test]
    fn urgent_data_of_unix_streams_is_a_message() {
        use crate::model::fd::Kind;
        use crate::model::sockets::Family;
        use crate::model::tcp::State;
        use crate::model::unix::{Link, UnixSocket};
        let with = |sizes: &[u64], kind: i32, at: Option<u64>, marks: &[u64]| {
            edited(|c| {
                urgent(c, 0, State::Idle);
                let Some(Kind::Socket(socket)) = c.files.last_mut().map(|f| &mut f.kind) else { panic!("no socket") };
                let (link, urgent, marks) = (Link::Closed, at, marks.to_vec());
                let (peer, bound, peer_name, listening, early) = (None, None, None, None, None);
                let reset = false;
                socket.family =
                    Family::Unix(UnixSocket { link, peer, reset, bound, peer_name, listening, urgent, marks, early });
                socket.kind = kind;
                let message = socket.queue[0].clone();
                socket.queue =
                    sizes.iter().map(|&size| crate::model::sockets::Message { size, ..message.clone() }).collect();
                if sizes.is_empty() {
                    socket.content = None;
                }
            })
        };
        with(&[2, 1, 2], 1, Some(2), &[]).unwrap();
        with(&[2, 1, 2], 1, None, &[0, 2, 3]).unwrap();
        with(&[], 1, None, &[0]).unwrap();
        type Case = (&'static [u64], i32, Option<u64>, &'static [u64]);
        let cases: [Case; 8] = [
            (&[2, 3], 1, Some(2), &[]),
            (&[2, 1, 2], 1, Some(1), &[]),
            (&[2, 1, 2], 1, Some(5), &[]),
            (&[2, 1, 2], 1, Some(2), &[3]),
            (&[2, 1, 2], 1, None, &[1]),
            (&[2, 1, 2], 1, None, &[3, 2]),
            (&[2, 1, 2], 1, None, &[5]),
            (&[2, 1, 2], 5, Some(2), &[]),
        ];
        for (sizes, kind, at, marks) in cases {
            let result = with(sizes, kind, at, marks);
            assert!(matches!(result, Err(Error::Inconsistent { .. })), "{sizes:?} {kind} {at:?} {marks:?}: {result:?}");
        }
    }

    /// A TCP socket that has sent `size` bytes too early.
    fn early(c: &mut Checkpoint, size: u64, urgent: Option<u64>) {
        use crate::model::Hex;
        use crate::model::fd::{Kind, OpenFile};
        use crate::model::files::Content;
        use crate::model::sockets::{Family, Socket};
        use crate::model::tcp::{Early, Link, State, TcpSocket};
        let address = || Hex([&[2, 0, 0, 80, 127, 0, 0, 1][..], &[0; 8]].concat());
        let at = c.files.len() as u32;
        let waits = State::Connected { peer: address(), link: Link::Waiting(at) };
        let content = Some(Content { id: 0, size });
        for (state, early) in
            [(State::Listening { backlog: 1 }, None), (waits, Some(Early { place: 0, content, urgent }))]
        {
            let family = Family::Tcp(TcpSocket { domain: 2, local: address(), state, urgent: None, early });
            let socket = Socket { kind: 1, family, shutdown: 0, queue: Vec::new(), content: None, options: Vec::new() };
            c.files.push(OpenFile { flags: 2, owner: None, kind: Kind::Socket(socket) });
        }
        c.manifest.requires = vec![crate::model::manifest::EARLY_DATA.into()];
    }

    #[test]
    fn early_data_is_of_a_connection_that_waits() {
        use crate::model::fd::Kind;
        use crate::model::sockets::{Family, Socket};
        use crate::model::tcp::State;
        edited(|c| early(c, 5, Some(4))).unwrap();
        let unsaid = |c: &mut Checkpoint| {
            early(c, 5, None);
            c.manifest.requires.clear();
        };
        let idle = |c: &mut Checkpoint| {
            early(c, 5, None);
            let last = c.files.last_mut().map(|file| &mut file.kind);
            let Some(Kind::Socket(Socket { family: Family::Tcp(tcp), .. })) = last else { panic!() };
            tcp.state = State::Idle;
        };
        for result in [
            edited(|c| early(c, 5, Some(5))),
            edited(|c| early(c, 6, None)),
            edited(|c| early(c, u64::MAX, None)),
            edited(idle),
            edited(unsaid),
        ] {
            assert!(matches!(result, Err(Error::Inconsistent { .. })), "{result:?}");
        }
    }

    /// A UNIX socket that has sent messages of `sizes` too early, `size` bytes in all.
    fn early_messages(c: &mut Checkpoint, kind: i32, sizes: &[u64], size: u64, urgent: Option<u64>) {
        use crate::model::fd::{Kind, OpenFile};
        use crate::model::files::Content;
        use crate::model::sockets::{Family, Message, Socket};
        use crate::model::unix::{Bound, Early, Link, Listening, UnixSocket};
        let at = c.files.len() as u32;
        let message = |&size: &u64| Message { size, credentials: None, from: None, rights: Vec::new() };
        let messages = sizes.iter().map(message).collect();
        let early = Some(Early { messages, content: Some(Content { id: 0, size }), urgent });
        let bound = Some(Bound { name: "\0a".into(), file: None });
        let listening = Some(Listening { backlog: 1, waiting: vec![Some(at + 1)], gone: Vec::new() });
        for (link, bound, listening, early) in
            [(Link::None, bound, listening, None), (Link::Waiting(at), None, None, early)]
        {
            let (peer, peer_name, urgent, marks, reset) = (None, None, None, Vec::new(), false);
            let unix = UnixSocket { link, peer, reset, bound, peer_name, listening, urgent, marks, early };
            let (queue, content, options) = (Vec::new(), None, Vec::new());
            let socket = Socket { kind, family: Family::Unix(unix), shutdown: 0, queue, content, options };
            c.files.push(OpenFile { flags: 2, owner: None, kind: Kind::Socket(socket) });
        }
        use crate::model::manifest::{EARLY_MESSAGES, UNIX_SOCKETS};
        c.manifest.requires = [EARLY_MESSAGES, UNIX_SOCKETS].map(String::from).to_vec();
    }

    #[test]
    fn early_messages_are_bytes_of_a_connection_that_waits() {
        use crate::model::fd::Kind;
        use crate::model::files::Content;
        use crate::model::sockets::{Family, Message, Socket};
        use crate::model::unix::{Early, Gone, Link, UnixSocket};
        let size = 5;
        edited(|c| early_messages(c, 1, &[3, 1, 1], size, Some(3))).unwrap();
        edited(|c| early_messages(c, 5, &[2, 3], size, None)).unwrap();
        let last = |c: &mut Checkpoint, change: &dyn Fn(&mut UnixSocket)| {
            early_messages(c, 1, &[5], size, None);
            match c.files.last_mut().map(|file| &mut file.kind) {
                Some(Kind::Socket(Socket { family: Family::Unix(unix), .. })) => change(unix),
                other => panic!("{other:?}"),
            }
        };
        // One that is gone waits behind it.
        let gone = |place: u32, size: u64| {
            edited(|c| {
                early_messages(c, 1, &[5], size, None);
                let at = c.files.len() - 2;
                match &mut c.files[at].kind {
                    Kind::Socket(Socket { family: Family::Unix(UnixSocket { listening: Some(l), .. }), .. }) => {
                        let message = Message { size: 5, credentials: None, from: None, rights: Vec::new() };
                        let content = Some(Content { id: 0, size });
                        l.waiting.push(None);
                        l.gone.push(Gone {
                            place,
                            peer: None,
                            name: None,
                            early: Early { messages: vec![message], content, urgent: None },
                        });
                    }
                    other => panic!("{other:?}"),
                }
            })
        };
        gone(1, 5).unwrap();
        let message = |change: &dyn Fn(&mut Message)| {
            edited(|c| last(c, &|unix| change(&mut unix.early.as_mut().unwrap().messages[0])))
        };
        for result in [
            edited(|c| early_messages(c, 1, &[3, 1], size, None)),
            edited(|c| early_messages(c, 1, &[5], size, Some(0))),
            edited(|c| early_messages(c, 5, &[1, 4], size, Some(0))),
            edited(|c| early_messages(c, 1, &[u64::MAX, 6], size, None)),
            edited(|c| {
                early_messages(c, 1, &[5], size, None);
                c.manifest.requires.remove(0);
            }),
            edited(|c| last(c, &|unix| unix.link = Link::Closed)),
            gone(0, 5),
            gone(2, 5),
            gone(1, 6),
            message(&|m| m.rights.push(0)),
            message(&|m| m.from = Some("a".into())),
        ] {
            assert!(matches!(result, Err(Error::Inconsistent { .. })), "{result:?}");
        }
    }

    /// Lets the second process of the sample inherit `pages` (numbers of the first page, and of the one behind the last)
    /// from `from`.
    fn inheriting(c: &mut Checkpoint, from: i32, pages: &[(u64, u64)]) {
        use super::super::sample::BASE;
        use crate::model::Addr;
        use crate::model::manifest::INHERITED_PAGES;
        use crate::model::memory::{Inherits, Span};
        let at = |page: u64| Addr(BASE + page * PAGE);
        let pages = pages.iter().map(|&(start, end)| Span { start: at(start), end: at(end) }).collect();
        c.manifest.requires = vec![INHERITED_PAGES.into()];
        c.processes[1].memory.inherits = Some(Inherits { from: Pid(from), pages });
    }

    #[test]
    fn inherited_pages_are_found_where_they_came_from() {
        use super::super::sample::BASE;
        let image = edited(|c| inheriting(c, 100, &[(3, 4), (4, 5), (8, 9)])).unwrap();
        let own = |page: u64| image.find_page(Pid(100), BASE + page * PAGE);
        let heirs = |page: u64| image.find_page(Pid(101), BASE + page * PAGE);
        assert_eq!(own(3).unwrap().1, 2 * PAGE);
        assert_eq!(heirs(3), own(3).map(|(offset, _)| (offset, PAGE)));
        assert_eq!(heirs(8), own(8));
        assert_eq!(image.find_page(Pid(101), BASE + 5 * PAGE - 8), own(4).map(|(offset, _)| (offset + PAGE - 8, 8)));
        assert!(own(1).is_some());
        for page in [0, 1, 2, 5, 9] {
            assert_eq!(heirs(page), None, "page {page}");
        }
        assert_eq!(image.find_page(Pid(7), BASE + 3 * PAGE), None);
    }

    #[test]
    fn inheritances_that_cannot_be_are_refused() {
        for (what, from, pages) in [
            ("not there", 100, &[(2, 3)][..]),
            ("not all there", 100, &[(3, 6)]),
            ("over two mappings", 100, &[(3, 5), (7, 9)]),
            ("out of order", 100, &[(4, 5), (3, 4)]),
            ("twice", 100, &[(3, 5), (4, 5)]),
            ("empty", 100, &[(3, 3)]),
            ("from itself", 101, &[(3, 4)]),
            ("from nobody", 7, &[(3, 4)]),
            ("from nobody, and nothing", 7, &[]),
        ] {
            let result = edited(|c| inheriting(c, from, pages));
            assert!(matches!(result, Err(Error::Inconsistent { .. })), "{what}: {result:?}");
        }
        let unsaid = edited(|c| {
            inheriting(c, 100, &[(3, 4)]);
            c.manifest.requires.clear();
        });
        assert!(matches!(unsaid, Err(Error::Inconsistent { .. })), "{unsaid:?}");
    }

    /// A member of an archive made by hand.
    fn member(name: &str, size: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = super::super::header::Start { name, size, mtime: 0, aligned: false }.encode(0).unwrap();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn claimed_sizes_take_no_memory() {
        for size in [1 << 30, 1 << 40, u64::MAX >> 1, u64::MAX] {
            let bytes = [member("ckpt.json", 12, b"{\"format\":1}"), member("tree.json", size, b"{}")].concat();
            let cut = open(&bytes);
            assert!(matches!(cut, Err(Error::Truncated { .. })), "{size}: {cut:?}");
        }
        // A sparse file really is as long as it says.
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&member("ckpt.json", 2 << 30, b"{}"), 0).unwrap();
        file.set_len(4 << 30).unwrap();
        assert!(matches!(Image::from_file(file, "sparse"), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn large_members_are_stepped_over() {
        let file = tempfile::tempfile().unwrap();
        let manifest = image_bytes()[..].to_vec();
        let first = open(&manifest).unwrap().members()[0].clone();
        let end = (first.offset + first.size).next_multiple_of(512);
        let mut start = manifest[..end as usize].to_vec();
        let size = (9 << 30) + 5;
        start.extend(member("files/0.data", size, b""));
        file.write_all_at(&start, 0).unwrap();
        let next = (start.len() as u64 + size).next_multiple_of(512);
        file.write_all_at(&member("last", 3, b"abc"), next).unwrap();
        let source = Source { len: file.metadata().unwrap().len(), file, name: "it".into() };
        let mut walk = Walk::new(&source);
        let found: Vec<_> = (0..3).map(|_| walk.next().unwrap().unwrap()).map(|f| (f.name, f.size)).collect();
        assert_eq!(found[1..], [("files/0.data".into(), size), ("last".into(), 3)]);
    }

    #[test]
    fn tar_lists_and_extracts_it() {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("image");
        write(&path, &parts()).unwrap();
        let tar = |args: &[&str]| {
            let out = Command::new("tar").args(args).arg(&path).current_dir(dir.path()).output().unwrap();
            assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        let image = Image::open(&path).unwrap();
        let names: Vec<_> = image.members().iter().map(|m| m.name.as_str()).collect();
        assert_eq!(tar(&["tf"]).lines().collect::<Vec<_>>(), names);
        assert!(tar(&["tvf"]).lines().all(|line| line.starts_with("-rw-------")));
        tar(&["xf"]);
        for member in image.members() {
            let mut bytes = vec![0; member.size as usize];
            image.file().read_exact_at(&mut bytes, member.offset).unwrap();
            assert!(std::fs::read(dir.path().join(&member.name)).unwrap() == bytes, "{}", member.name);
        }
    }

    #[test]
    fn members_nobody_knows_are_ignored_and_verified() {
        let whole = image_bytes();
        let image = open(&whole).unwrap();
        let last = image.members().last().unwrap();
        // Put one more member before the end mark and list it there.
        let extra = member("later/news.json", 4, b"news");
        let at = last.offset as usize - 512;
        let end_bytes = &whole[last.offset as usize..(last.offset + last.size) as usize];
        let mut end = end::decode(end_bytes).unwrap();
        end.members.push(end::Listed { name: "later/news.json".into(), size: 4, digest: Some(Digest::of(b"news")) });
        let end = end::encode(&end).unwrap();
        let mut bytes = whole[..at].to_vec();
        bytes.extend(&extra);
        bytes.extend(member(names::END, end.len() as u64, &end));
        bytes.resize(bytes.len() + 1024, 0);
        assert!(content(&bytes).unwrap() == content(&whole).unwrap());
        bytes[at + 512] ^= 1;
        assert!(matches!(content(&bytes), Err(Error::Altered { member, .. }) if member == "later/news.json"));
        // The same member without the list knowing it.
        let mut bytes = whole[..at].to_vec();
        bytes.extend(&extra);
        bytes.extend(&whole[at..]);
        assert!(matches!(content(&bytes), Err(Error::Altered { .. })));
    }
}
