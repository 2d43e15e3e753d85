//! What becomes of files around a program: changed since the save, saved with it, elsewhere, or not there at all.

mod harness;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use harness::{Build, Scene, compile, skip};

const REFUSED: i32 = 3;
const USAGE: i32 = 2;

/// The guest `workfiles`, saved and ended, with the files it works on.
struct Saved {
    scene: Scene,
    image: PathBuf,
}

impl Saved {
    /// `None`, said, where there is no compiler.
    fn new(name: &str, args: &[&str], options: &[&str]) -> Option<Saved> {
        let Some(program) = compile("guests/workfiles.c", Build::Dynamic) else {
            skip(name, "no gcc");
            return None;
        };
        let scene = Scene::new(name);
        let argv: Vec<_> = [program.as_os_str()].into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
        let mut guest = scene.start_alone(&argv);
        scene.ready(&mut guest);
        let image = scene.image("x.ckpt.tar");
        scene.attach(guest.pid(), &image, &[&["--kill"], options].concat());
        scene.end_of(&mut guest);
        // It finishes as soon as it lives again.
        scene.tell("go");
        Some(Saved { scene, image })
    }

    /// Resumes it, to its end.
    fn resume(&self, options: &[&str]) -> Output {
        let mut command = self.scene.ckpt("ckpt-resume", options);
        self.scene.output("ckpt-resume", command.arg(&self.image))
    }

    /// Resumes it; what was said by us, and what the guest found.
    #[track_caller]
    fn found(&self, options: &[&str]) -> (String, String) {
        let output = self.resume(options);
        let said = String::from_utf8(output.stderr).expect("text");
        let out = self.scene.text("out");
        assert!(output.status.success() && out.ends_with("PASS\n"), "{}: {said}{out}", output.status);
        (said, out.replacen("ready\n", "", 1).replacen("PASS\n", "", 1))
    }

    /// It must not be resumed: what was said.
    #[track_caller]
    fn refused(&self, options: &[&str]) -> String {
        let output = self.resume(options);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(REFUSED), "{said}");
        assert_eq!(self.scene.text("out"), "ready\n", "it ran though its resume was refused");
        said
    }

    fn path(&self, file: &str) -> String {
        self.scene.work(file).display().to_string()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.scene.work(file), text).expect("a file of the guest's");
    }

    fn append(&self, file: &str, text: &str) {
        use std::io::Write;
        let opened = File::options().append(true).open(self.scene.work(file));
        opened.and_then(|mut f| f.write_all(text.as_bytes())).expect("a longer file");
    }
}

const UNTOUCHED: &str = "input 7 defghij\ndata 6 456789\nstate mapped\n";

#[test]
fn a_log_that_has_grown() {
    let Some(saved) = Saved::new("grown", &[], &[]) else { return };
    saved.append("log", "by another\n");
    let said = saved.refused(&["--files", "strict"]);
    assert!(said.contains(&format!("{}: the open file had 6 bytes and has 17\n", saved.path("log"))), "{said}");
    let (said, _) = saved.found(&["--files", "warn"]);
    assert_eq!(said, format!("ckpt: {}: the open file had 6 bytes and has 17; used as it is\n", saved.path("log")));
    assert_eq!(saved.scene.text("log"), "first\nby another\nsecond\n");
}

#[test]
fn by_default_a_log_may_grow_in_silence() {
    let Some(saved) = Saved::new("silent", &[], &[]) else { return };
    saved.append("log", "by another\n");
    assert_eq!(saved.found(&[]), (String::new(), UNTOUCHED.to_owned()));
    assert_eq!(saved.scene.text("log"), "first\nby another\nsecond\n");
    assert_eq!(saved.scene.text("data"), "0123456789#");
}

#[test]
fn strict_is_content_with_what_is_the_same() {
    let Some(saved) = Saved::new("same", &[], &[]) else { return };
    assert_eq!(saved.found(&["--files", "strict"]), (String::new(), UNTOUCHED.to_owned()));
}

#[test]
fn strict_takes_no_change() {
    let Some(saved) = Saved::new("strict", &[], &[]) else { return };
    for file in ["log", "data", "input", "state"] {
        let opened = File::options().write(true).open(saved.scene.work(file)).expect("a file of the guest's");
        let before = opened.metadata().and_then(|m| m.modified()).expect("its time");
        opened.set_modified(SystemTime::UNIX_EPOCH).expect("another time");
        let said = saved.refused(&["--files", "strict"]);
        assert!(said.contains(&format!("{}: the ", saved.path(file))) && said.contains(" has changed since"), "{said}");
        opened.set_modified(before).expect("its time");
    }
    fs::remove_file(saved.scene.work("input")).expect("a file to remove");
    for policy in ["auto", "strict", "warn", "image"] {
        let said = saved.refused(&["--files", policy]);
        assert!(said.contains(&format!("{}: the open file is gone", saved.path("input"))), "{said}");
    }
}

/// A file cut short is used as it is: reading comes to its end at once, and writing leaves a hole.
#[test]
fn files_cut_short() {
    let Some(saved) = Saved::new("short", &[], &[]) else { return };
    saved.write("data", "01");
    saved.write("log", "f");
    saved.write("input", "xyzuvw");
    let said = saved.refused(&[]);
    for (file, now) in [("data", 2), ("log", 1), ("input", 6)] {
        let was = if file == "log" { 6 } else { 10 };
        assert!(
            said.contains(&format!("{}: the open file had {was} bytes and has {now}\n", saved.path(file))),
            "{said}"
        );
    }
    assert!(said.contains("or use it as it is with --files warn"), "{said}");
    let (said, found) = saved.found(&["--files", "warn"]);
    let data = format!("{}: the open file had 10 bytes and has 2; used as it is", saved.path("data"));
    assert!(said.contains(&format!("ckpt: {data}, with the program at byte 4, beyond its end\n")), "{said}");
    assert_eq!(found, "input 3 uvw\ndata 0 \nstate mapped\n");
    assert_eq!(fs::read(saved.scene.work("data")).expect("data"), b"01\0\0#");
    assert_eq!(saved.scene.text("log"), "fsecond\n");
}

/// Memory beyond the end of a file can't be had: whoever touches it dies.
#[test]
fn a_mapped_file_cut_short() {
    let Some(saved) = Saved::new("cut", &[], &[]) else { return };
    saved.write("state", "m");
    for policy in ["auto", "strict", "warn", "image"] {
        let said = saved.refused(&["--files", policy]);
        assert!(
            said.contains(&format!("{}: the mapped file had 4096 bytes and has 1\n", saved.path("state"))),
            "{said}"
        );
    }
}

/// Changes every file of the guest.
fn change_all(saved: &Saved) {
    fs::remove_file(saved.scene.work("input")).expect("a file to remove");
    saved.write("data", "01");
    saved.append("log", "by another\n");
    saved.write("state", "m");
}

#[track_caller]
fn as_it_was(saved: &Saved) {
    assert_eq!(saved.scene.text("input"), "abcdefghij");
    assert_eq!(saved.scene.text("data"), "0123456789#");
    assert_eq!(saved.scene.text("log"), "first\nsecond\n");
    assert_eq!(saved.scene.text("state"), "mapped");
    for entry in fs::read_dir(saved.scene.work("")).expect("the directory") {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        assert!(!name.contains("ckpt-"), "{name} is left");
    }
}

#[test]
fn saved_files_are_put_back() {
    let Some(saved) = Saved::new("back", &[], &["--save-files", "open"]) else { return };
    let mode = |file: &str| fs::metadata(saved.scene.work(file)).expect("a file").permissions().mode() & 0o7777;
    fs::set_permissions(saved.scene.work("log"), fs::Permissions::from_mode(0o600)).expect("permissions");
    change_all(&saved);
    let said = saved.refused(&[]);
    assert!(
        said.contains("hint: bring it back, or let the content in the image take its place with --files image"),
        "{said}"
    );
    let (said, found) = saved.found(&["--files", "image"]);
    for (file, change) in [
        ("input", "the open file is gone (No such file or directory (os error 2))"),
        ("data", "the open file had 10 bytes and has 2"),
        ("log", "the open file had 6 bytes and has 17"),
        ("state", "the mapped file had 4096 bytes and has 1"),
    ] {
        let line = format!("ckpt: {}: {change}; put back as it was saved\n", saved.path(file));
        assert!(said.contains(&line), "{line} in {said}");
    }
    assert_eq!(found, UNTOUCHED);
    as_it_was(&saved);
    assert_eq!((mode("input"), mode("log")), (0o640, 0o640));
}

/// What was not changed is used, and stays what it is.
#[test]
fn nothing_is_put_back_without_need() {
    let Some(saved) = Saved::new("needless", &[], &["--save-files", "open"]) else { return };
    let number = |file: &str| fs::metadata(saved.scene.work(file)).expect("a file").ino();
    let before = ["input", "data", "log", "state"].map(number);
    assert_eq!(saved.found(&["--files", "image"]), (String::new(), UNTOUCHED.to_owned()));
    assert_eq!(["input", "data", "log", "state"].map(number), before);
    as_it_was(&saved);
}

#[test]
fn a_resume_that_fails_puts_nothing_back() {
    let Some(saved) = Saved::new("fails", &[], &["--save-files", "open"]) else { return };
    change_all(&saved);
    fs::create_dir(saved.scene.work("input")).expect("a directory in its place");
    let said = saved.refused(&["--files", "image"]);
    assert!(said.contains("and can't be put back: something else has its name"), "{said}");
    assert_eq!((saved.scene.text("data").as_str(), saved.scene.text("state").as_str()), ("01", "m"));
}

#[test]
fn patterns_choose_files() {
    let Some(saved) = Saved::new("some", &[], &["--save-files", "inp*,/nowhere/**"]) else { return };
    fs::remove_file(saved.scene.work("input")).expect("a file to remove");
    saved.append("log", "by another\n");
    let (_, found) = saved.found(&["--files", "image"]);
    assert_eq!(found, UNTOUCHED);
    assert_eq!(saved.scene.text("log"), "first\nby another\nsecond\n");
}

/// Holes take no room in an image, and are holes again.
#[test]
fn files_with_holes() {
    let Some(saved) = Saved::new("holes", &["sparse"], &["--save-files", "open"]) else { return };
    let bytes = fs::metadata(&saved.image).expect("the image").len();
    assert!(bytes < 64 << 20, "an image of {bytes} bytes");
    saved.scene.must("verify", saved.scene.ckpt("ckpt", &["verify"]).arg(&saved.image));
    fs::remove_file(saved.scene.work("data")).expect("a file to remove");
    let (_, found) = saved.found(&["--files", "image"]);
    let zeros = |count| "~".repeat(count);
    let (data, lost) = (zeros(57), zeros(60));
    assert_eq!(found, format!("input 7 defghij\ndata 63 456789{data}\nlost 63 ost{lost}\nstate mapped\n"));
}

#[test]
fn deleted_files_are_kept_out_by_name() {
    let Some(program) = compile("guests/workfiles.c", Build::Dynamic) else { return skip("none", "no gcc") };
    let scene = Scene::new("none");
    let mut guest = scene.start_alone(&[program.as_ref(), "deleted".as_ref()]);
    scene.ready(&mut guest);
    let attach = |options: &[&str]| {
        let pid = guest.pid().to_string();
        let output = scene.output("ckpt-attach", scene.ckpt("ckpt-attach", &[&pid]).args(options));
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    for more in [&[][..], &["--dry-run"]] {
        let (code, said) = attach(&[&["--save-files", "none", "-o", "x.ckpt.tar"], more].concat());
        assert_eq!(code, Some(REFUSED), "{said}");
        let object =
            format!("cannot save pid {} fd 6 ({} (deleted)): it is deleted", guest.pid(), scene.work("lost").display());
        assert!(said.contains(&object) && said.contains("hint: leave --save-files none out"), "{said}");
    }
    let (code, said) = attach(&["--save-files", "none,open"]);
    assert_eq!((code, said.as_str()), (Some(USAGE), "ckpt: --save-files: none goes with nothing else\n"));
    scene.beats(3, &mut guest);
    scene.finish(&mut guest);
}

/// Files asked for once for all saves of a job, and by a variable.
#[test]
fn a_job_knows_what_to_save() {
    let Some(program) = compile("guests/workfiles.c", Build::Dynamic) else { return skip("asked", "no gcc") };
    for by_variable in [false, true] {
        let scene = Scene::new("asked");
        let mut command = scene.ckpt("ckpt-run", &["-n", "asked"]);
        if by_variable {
            command.env("CKPT_SAVE_FILES", "open");
        } else {
            command.args(["--save-files", "open"]);
        }
        let mut job = scene.start("ckpt-run", command.arg("--").arg(&program), &scene.work("out"));
        scene.ready(&mut job);
        let image = scene.image("x.ckpt.tar");
        scene.save(&image, &["--kill"]);
        scene.end_of(&mut job);
        scene.tell("go");
        let saved = Saved { scene, image };
        change_all(&saved);
        assert_eq!(saved.found(&["--files", "image"]).1, UNTOUCHED);
        as_it_was(&saved);
    }
}

/// A program and its library, in the working directory of the scene.
fn program_with_library(scene: &Scene) -> Option<(PathBuf, PathBuf)> {
    if !harness::installed("gcc") {
        return None;
    }
    let source = |name: &str| harness::checkout().join("tests/guests").join(name);
    let cc = |args: &[&str], sources: &[&Path], out: &Path| {
        let mut command = Command::new("gcc");
        command.args(["-D_GNU_SOURCE", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"]).arg(out);
        command.args(sources).args(args).env("PATH", harness::PATH);
        command
    };
    let (main, lib, header) = (source("embedded.c"), source("embeddedlib.c"), source("guest.h"));
    let made_lib = harness::made_of(&[&lib], "libembedded.so", |out| {
        cc(&["-shared", "-fPIC", "-Wl,-soname,libembedded.so"], &[&lib], out)
    });
    let made = harness::made_of(&[&main, &header, &made_lib], "embedded-program", |out| {
        cc(&["-Wl,-rpath,$ORIGIN"], &[&main, &made_lib], out)
    });
    // By cp, which leaves nobody with a descriptor that could keep them from being executed.
    let copies = [(&made, "program"), (&made_lib, "libembedded.so")].map(|(from, to)| {
        scene.must("cp", scene.command("cp").arg(from).arg(scene.work(to)));
        scene.work(to)
    });
    Some(copies.into())
}

/// Generations of a program whose program file and library are gone. What is embedded once stays with it.
#[test]
fn embedded_files_replace_missing_ones() {
    let scene = Scene::new("embedded");
    let Some((program, library)) = program_with_library(&scene) else { return skip("embedded", "no gcc") };
    let mut job = scene.start_run(&[program.as_ref()]);
    scene.ready(&mut job);
    scene.beats(3, &mut job);
    let image = scene.image("1.ckpt.tar");
    scene.save(&image, &["--kill", "--embed-files"]);
    scene.end_of(&mut job);
    for file in [&program, &library] {
        fs::remove_file(file).expect("a file to remove");
    }
    let plan = scene.must("plan", scene.ckpt("ckpt-resume", &["--dry-run"]).arg(&image));
    let plan = String::from_utf8(plan.stdout).expect("text");
    for file in [&program, &library] {
        let note = format!("{}: the mapped file is gone (No such file", file.display());
        assert!(plan.contains(&note), "{note} in {plan}");
    }
    let strict = scene.output("strict", scene.ckpt("ckpt-resume", &["--files", "strict"]).arg(&image));
    assert_eq!(strict.status.code(), Some(REFUSED));
    let mut job = scene.start_resume(&image, &[]);
    for generation in 2..=4 {
        scene.beats(10, &mut job);
        let image = scene.image(format!("{generation}.ckpt.tar"));
        scene.save(&image, &["--kill"]);
        scene.end_of(&mut job);
        job = scene.start_resume(&image, &[]);
    }
    scene.beats(10, &mut job);
    scene.finish(&mut job);
    scene.nobody_left();
}

/// A library that was replaced: without a copy in the image a conflict, with one of no matter.
#[test]
fn embedded_files_replace_other_ones() {
    let scene = Scene::new("replaced");
    let Some((program, library)) = program_with_library(&scene) else { return skip("replaced", "no gcc") };
    let mut guest = scene.start_alone(&[program.as_ref()]);
    scene.ready(&mut guest);
    let (without, with) = (scene.image("without.ckpt.tar"), scene.image("with.ckpt.tar"));
    scene.attach(guest.pid(), &without, &[]);
    scene.attach(guest.pid(), &with, &["--kill", "--embed-files"]);
    scene.end_of(&mut guest);
    let size = |image: &PathBuf| fs::metadata(image).expect("an image").len();
    let shared: u64 = [&program, &library].map(size).iter().sum();
    assert!(size(&with) > size(&without) + shared, "{} and {}", size(&with), size(&without));
    fs::remove_file(&library).and_then(|()| fs::write(&library, vec![0; 100_000])).expect("another library");
    let refused = scene.output("without", scene.ckpt("ckpt-resume", &[]).arg(&without));
    assert_eq!(refused.status.code(), Some(REFUSED));
    let mut job = scene.start_resume(&with, &[]);
    scene.beats(10, &mut job);
    scene.finish(&mut job);
}

const PYTHON: &str = "
import hashlib, json, os, sys, time, zlib
def beat(n):
    with open('beat', 'w') as f: f.write(str(n))
n, state = 0, b'start'
print('ready', flush=True)
while not os.path.exists('go'):
    n += 1
    state = hashlib.sha256(zlib.compress(json.dumps([n, state.hex()]).encode())).digest()
    beat(n)
    time.sleep(0.001)
expected = b'start'
for i in range(1, n + 1):
    expected = hashlib.sha256(zlib.compress(json.dumps([i, expected.hex()]).encode())).digest()
bare = not os.path.exists('/usr') and not os.path.exists('/lib') and not os.path.exists(sys.executable)
print('as expected' if state == expected else 'state', 'bare' if bare else 'not bare', flush=True)
print('PASS', flush=True)
";

/// A Python that goes on where there is neither a Python nor any other file of the system but `ckpt-resume`.
#[test]
fn python_in_an_empty_world() {
    let Some(bareroot) = compile("guests/bareroot.c", Build::Static) else { return skip("empty world", "no gcc") };
    if !harness::installed("python3") {
        return skip("empty world", "no python3");
    }
    let scene = Scene::new("bare");
    let root = scene.work("root");
    fs::create_dir(&root).expect("a directory");
    let image = scene.image("python.ckpt.tar");
    let place = image.parent().and_then(Path::parent).expect("the scene's directory");
    let bind = |from: &Path, to: &Path| format!("{}={}", from.display(), to.display());
    let bare = || {
        let mut command = scene.command(&bareroot);
        command.arg(&root).args(["/proc=/proc", "/dev/null=/dev/null"]).arg(bind(place, place));
        command
    };
    let tried = scene.output("bareroot", bare().args(["--", "/nothing"]));
    if !String::from_utf8_lossy(&tried.stderr).starts_with("/nothing: No such file") {
        return skip("empty world", &String::from_utf8_lossy(&tried.stderr));
    }
    let mut guest = scene.start_alone(&["python3".as_ref(), "-c".as_ref(), PYTHON.as_ref()]);
    scene.ready(&mut guest);
    scene.beats(3, &mut guest);
    scene.attach(guest.pid(), &image, &["--kill", "--embed-files"]);
    scene.end_of(&mut guest);
    let resume = harness::bin("ckpt-resume");
    let mut command = bare();
    command.arg(bind(&resume, Path::new("/ckpt-resume"))).args(["--", "/ckpt-resume"]).arg(&image);
    let mut job = scene.start("bareroot", &mut command, &scene.work("resume.out"));
    scene.beats(20, &mut job);
    scene.finish(&mut job);
    assert!(scene.text("out").contains("as expected bare\n"), "{}", scene.text("out"));
}

/// Everything a program has open, mapped, executed and is in, taken to another directory.
#[test]
fn files_that_have_moved() {
    let Some(program) = compile("guests/surroundings.c", Build::Dynamic) else { return skip("moved", "no gcc") };
    let scene = Scene::new("moved");
    let copy = scene.work("program");
    scene.must("cp", scene.command("cp").arg(&program).arg(&copy));
    let image = attached(&scene, &copy);
    let (old, new) = (scene.work(""), scene.work("new place"));
    let (old, new) = (old.display().to_string(), new.display().to_string());
    let old = old.trim_end_matches('/');
    fs::create_dir(&new).expect("a directory");
    for file in ["program", "data", "input", "log", "opened", "fifo", "here"] {
        fs::rename(scene.work(file), Path::new(&new).join(file)).expect("a file to move");
    }
    let whole = format!("{old}={new}");
    // What has not moved: the longest path counts.
    let stays = format!("{old}/out={old}/out");
    let options = |more: &[&str]| {
        let both = ["--map-path", &whole, "--map-path", &stays];
        both.iter().chain(more).map(|option| (*option).to_owned()).collect::<Vec<_>>()
    };
    let run =
        |more: &[&str]| scene.output("plan", scene.ckpt("ckpt-resume", &["--dry-run"]).args(options(more)).arg(&image));
    assert_eq!(run(&[]).status.code(), Some(0), "{}", String::from_utf8_lossy(&run(&[]).stderr));
    let unused = run(&["--map-path", "/nowhere/=/x", "--map-path", &format!("{old}/o=/x")]);
    let said = format!(
        "ckpt: --map-path: the program has nothing at /nowhere\nckpt: --map-path: the program has nothing at {old}/o\n"
    );
    assert_eq!(String::from_utf8_lossy(&unused.stderr), said);
    // A line is one in the environment, where there can't be several, but no end on the command line.
    let mut command = scene.ckpt("ckpt-resume", &["--dry-run"]);
    command.env("CKPT_MAP_PATH", format!("{whole}\n{stays}\n")).arg(&image);
    assert_eq!(scene.output("plan", &mut command).status.code(), Some(0));
    assert_eq!(run(&["--map-path", "/no\nwhere=/x"]).status.code(), Some(0));
    for wrong in ["x", "relative=/x", "/x="] {
        assert_eq!(run(&["--map-path", wrong]).status.code(), Some(USAGE), "{wrong}");
    }
    let without = scene.output("plan", scene.ckpt("ckpt-resume", &["--dry-run"]).arg(&image));
    assert_eq!(without.status.code(), Some(REFUSED));

    let all = options(&[]);
    let mut job = scene.start_resume(&image, &all.iter().map(String::as_str).collect::<Vec<_>>());
    scene.beats(3, &mut job);
    let (pid, _) = scene.living().into_iter().find(|(_, name)| name == "program").expect("the program");
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).expect("a link");
    assert_eq!(link("exe"), Path::new(&new).join("program"));
    assert_eq!(link("cwd"), Path::new(&new).join("here"));
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
    assert!(maps.contains(&format!("{new}/data\n")) && !maps.contains(&format!("{old}/data\n")), "{maps}");
    // An image taken here needs to be told nothing.
    let next = scene.image("y.ckpt.tar");
    scene.save(&next, &["--kill"]);
    scene.end_of(&mut job);
    let mut job = scene.start_resume(&next, &["--files", "strict"]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
    assert_eq!(scene.text("new place/log"), "first\nsecond\n");
}

/// A guest that we had not started, saved and ended.
fn attached(scene: &Scene, program: &Path) -> PathBuf {
    let mut guest = scene.start_alone(&[program.as_ref()]);
    scene.ready(&mut guest);
    let image = scene.image("x.ckpt.tar");
    scene.attach(guest.pid(), &image, &["--kill"]);
    scene.end_of(&mut guest);
    image
}

#[test]
fn another_working_directory() {
    let Some(program) = compile("guests/surroundings.c", Build::Dynamic) else { return skip("cwd", "no gcc") };
    let scene = Scene::new("cwd");
    let image = attached(&scene, &program);
    fs::remove_dir(scene.work("here")).expect("a directory to remove");
    fs::create_dir(scene.work("there")).expect("a directory");
    let resume =
        |options: &[&str]| scene.output("plan", scene.ckpt("ckpt-resume", options).arg("--dry-run").arg(&image));
    let said = String::from_utf8(resume(&[]).stderr).expect("text");
    assert!(
        said.contains("the working directory is gone\nhint: make it again, or choose another with --cwd"),
        "{said}"
    );
    assert_eq!(resume(&["--cwd", "nowhere"]).status.code(), Some(REFUSED));
    let mut job = scene.start_resume(&image, &["--cwd", "there"]);
    scene.beats(3, &mut job);
    let (pid, _) = scene.living().into_iter().find(|(_, name)| name.starts_with("surroundings")).expect("the program");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("a link"), scene.work("there"));
    scene.finish(&mut job);
}

/// What the program had open, mapped, executed and was in, and may not have any more: found before anything is made.
#[test]
fn files_that_are_no_longer_permitted() {
    let Some(program) = compile("guests/surroundings.c", Build::Dynamic) else { return skip("forbidden", "no gcc") };
    let scene = Scene::new("forbidden");
    let copy = scene.work("program");
    scene.must("cp", scene.command("cp").arg(&program).arg(&copy));
    let image = attached(&scene, &copy);
    let set = |file: &str, mode| {
        fs::set_permissions(scene.work(file), fs::Permissions::from_mode(mode)).expect("permissions");
    };
    let mut cases = vec![("program", 0o600, 0o755, "the mapped file may not be executed (Permission denied)")];
    if !harness::root() {
        cases.extend([
            ("program", 0o100, 0o755, "the mapped file may not be read (Permission denied)"),
            ("data", 0o200, 0o600, "the mapped file may not be read (Permission denied)"),
            ("input", 0, 0o600, "the open file may not be read (Permission denied)"),
            ("log", 0o400, 0o600, "the open file may not be written to (Permission denied)"),
            ("fifo", 0o400, 0o600, "the FIFO may not be written to (Permission denied)"),
            ("opened", 0o300, 0o700, "the open directory may not be read (Permission denied)"),
        ]);
    }
    for (file, mode, before, reason) in cases {
        set(file, mode);
        for options in [&["--dry-run"][..], &[], &["--files", "strict"]] {
            let output = scene.output("resume", scene.ckpt("ckpt-resume", options).arg(&image));
            let said = String::from_utf8(output.stderr).expect("text");
            let expected = format!("{}: {reason}", scene.work(file).display());
            let fits = output.status.code() == Some(REFUSED) && said.contains(&expected);
            assert!(fits && said.contains("\nhint: "), "{}, expected {expected} in: {said}", output.status);
        }
        set(file, before);
    }
    // In a user namespace of its own the tree may enter whatever is its user's.
    set("here", 0o600);
    let fresh = scene.output("plan", scene.ckpt("ckpt-resume", &["--dry-run", "--pids", "fresh"]).arg(&image));
    let said = String::from_utf8(fresh.stderr).expect("text");
    assert!(
        harness::root() || said.contains("the working directory may not be entered (Permission denied)\n"),
        "{said}"
    );
    scene.nobody_left();
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
    assert_eq!(scene.text("log"), "first\nsecond\n");
}

/// A directory that was moved, with a link in its old place: what is opened through it is on the program's own mounts.
#[test]
fn a_link_where_the_directory_was() {
    let Some(program) = compile("guests/linking.c", Build::Dynamic) else { return skip("link", "no gcc") };
    let scene = Scene::new("link");
    let image = attached(&scene, &program);
    let (old, new) = (scene.work(""), scene.image("moved"));
    let old = old.parent().expect("a directory").join("work");
    fs::rename(&old, &new).expect("a directory to move");
    std::os::unix::fs::symlink(&new, &old).expect("a link");
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
}
