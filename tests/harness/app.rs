//! A real program that is saved while busy, killed and resumed for several generations: what it produces in the end is
//! byte for byte what it produces undisturbed.
#![allow(dead_code)] // each test program uses its part of it

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::{Proc, Scene, Seeded, checkout, installed, made_of, skip};

/// How often each program is saved, killed and resumed.
pub const GENERATIONS: u64 = 3;

/// A program and what it makes.
#[derive(Clone)]
pub struct App {
    pub name: &'static str,
    /// The last word says how much there is to do, where no input does.
    pub argv: Vec<OsString>,
    /// Files in its working directory that it starts from.
    pub inputs: Vec<(&'static str, Vec<u8>)>,
    /// Files it makes, which count as its output beside its standard output.
    pub makes: &'static [&'static str],
    /// The file that grows as it gets on; its size is the progress.
    pub grows: &'static str,
    /// A command that runs between each save and its resume.
    pub between: &'static [&'static str],
}

impl App {
    pub fn new(name: &'static str, argv: &[&dyn AsRef<OsStr>]) -> App {
        let argv = argv.iter().map(|a| a.as_ref().to_owned()).collect();
        App { name, argv, inputs: Vec::new(), makes: &[], grows: "out", between: &[] }
    }

    pub fn scene(&self) -> Scene {
        let scene = Scene::new(self.name);
        for (file, content) in &self.inputs {
            fs::write(scene.work(file), content).expect("an input file");
        }
        scene
    }

    pub fn argv(&self) -> Vec<&OsStr> {
        self.argv.iter().map(AsRef::as_ref).collect()
    }

    /// Gives it twice the work.
    fn double(&mut self) {
        for (_, content) in &mut self.inputs {
            content.extend_from_within(..);
        }
        if self.inputs.is_empty() {
            let last = self.argv.last_mut().expect("a program");
            let amount: u64 = last.to_str().and_then(|word| word.parse().ok()).expect("how much there is to do");
            *last = (2 * amount).to_string().into();
        }
    }

    pub fn product(&self, scene: &Scene) -> Vec<Vec<u8>> {
        ["out"].iter().chain(self.makes).map(|f| fs::read(scene.work(f)).expect("an output file")).collect()
    }
}

pub fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// These programs take all the processors there are: beside another one is saved late.
pub static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How much faster than the amount of its work was chosen for a machine may be, in doublings.
const DOUBLINGS: u32 = 4;

pub fn survives(app: &App) {
    let mut app = app.clone();
    for _ in 0..DOUBLINGS {
        if outlives_its_saves(&app) {
            return;
        }
        println!("{} was done before its last save: once more with twice the work", app.name);
        app.double();
    }
    panic!("{} is always done before its last save", app.name);
}

/// False: it was done, and well, before it could be saved as often as it should be.
fn outlives_its_saves(app: &App) -> bool {
    let scene = app.scene();
    let mut alone = scene.start_alone(&app.argv());
    let status = scene.end_of(&mut alone);
    assert!(status.success(), "{} undisturbed: {status}", app.name);
    let expected = app.product(&scene);
    let whole = size(&scene.work(app.grows));
    assert!(whole > 0, "{} makes nothing", app.name);
    drop(scene);

    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = app.scene();
    let mut job = scene.start_run(&app.argv());
    let mut saved_at = 0;
    for generation in 1..=GENERATIONS {
        // Beyond the last save: then it can be saved again, because it has been let go. And at an eighth, two, three
        // eighths of the work: what is left should last until the last save has come through.
        let done = scene.wait("progress", || {
            if job.ended().is_some() {
                return Some(true);
            }
            let now = size(&scene.work(app.grows));
            (now > saved_at && now >= whole * generation / (GENERATIONS + 5)).then_some(false)
        });
        if done {
            ends_well(app, &scene, &mut job, &expected);
            return false;
        }
        let image = scene.image(format!("{generation}.ckpt.tar"));
        let mut save = scene.ckpt("ckpt", &["save", &scene.name, "--kill", "-o"]);
        let saved = scene.output("ckpt save", save.arg(&image));
        if !saved.status.success() {
            scene.must_have_ended(&mut job, &String::from_utf8_lossy(&saved.stderr));
            ends_well(app, &scene, &mut job, &expected);
            return false;
        }
        let status = scene.end_of(&mut job);
        assert_eq!(status.code(), Some(85), "{}: after a save that ends it: {status}", app.name);
        scene.nobody_left();
        saved_at = size(&scene.work(app.grows));
        if saved_at >= whole {
            return false;
        }
        if let [program, args @ ..] = app.between {
            scene.must(program, scene.command(program).args(args));
        }
        job = scene.start_resume(&image, &[]);
    }
    ends_well(app, &scene, &mut job, &expected);
    true
}

/// Its end, and that it made what it makes undisturbed.
fn ends_well(app: &App, scene: &Scene, job: &mut Proc, expected: &[Vec<u8>]) {
    let status = scene.end_of(job);
    if !status.success() {
        scene.fail(&format!("it ended with {status}"));
    }
    let got = app.product(scene);
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        if got != expected {
            let at = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
            scene.fail(&format!(
                "output {index} differs from byte {at} on ({} bytes, not {})",
                got.len(),
                expected.len()
            ));
        }
    }
    scene.nobody_left();
}

/// A script of `tests/apps/`.
pub fn script(file: &str) -> PathBuf {
    checkout().join("tests/apps").join(file)
}

/// Whether a program is there; says that the test is skipped if not.
pub fn have(program: &str, test: &str) -> bool {
    installed(program) || {
        skip(test, &format!("{program} is not installed"));
        false
    }
}

/// 64 KiB blocks of text that compresses somewhat, the same in every run.
pub fn text(blocks: u64) -> Vec<u8> {
    let mut numbers = Seeded(7);
    let mut text = Vec::new();
    while text.len() < (blocks << 16) as usize {
        let n = numbers.next();
        text.extend_from_slice(format!("{} {:x}\n", n % 1000, n % 77777).as_bytes());
    }
    text
}

/// A Go program of `tests/apps/`, built once.
pub fn go_program(file: &str) -> PathBuf {
    let source = script(file);
    made_of(&[&source], file.trim_end_matches(".go"), |out| {
        let mut command = Command::new("/usr/bin/go");
        let cache = out.with_file_name("go-cache");
        command.args(["build", "-o"]).arg(out).arg(&source).env("PATH", super::PATH).env("GOCACHE", &cache);
        command.envs([("GO111MODULE", "off"), ("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOTELEMETRY", "off")]);
        command.env("HOME", std::env::temp_dir());
        command
    })
}

/// A Java program of `tests/apps/`, compiled once.
pub fn java_archive(file: &str) -> PathBuf {
    let source = script(file);
    made_of(&[&source], &format!("{}.jar", file.trim_end_matches(".java").to_lowercase()), |out| {
        let mut command = Command::new("sh");
        let classes = out.with_extension("classes");
        command.args(["-c", "javac -d \"$1\" \"$2\" && jar --create --file \"$3\" -C \"$1\" .", "sh"]);
        command.arg(&classes).arg(&source).arg(out).env("PATH", super::PATH);
        command
    })
}
