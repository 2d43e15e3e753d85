//! Whoever saves may die at any moment: the program goes on unharmed, and can be saved again.
//!
//! `CKPT_KILLS` is the number of deaths per program.

mod harness;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use harness::{Build, PATH, Scene, Seeded, checkout, compile, installed, made_of, skip};
use nix::sys::signal::Signal;

fn kills() -> u32 {
    std::env::var("CKPT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

/// Kills `ckpt-attach` at moments spread over the whole of a save; then a save that is let be, and its image, must be good.
fn survives(name: &str, argv: &[OsString]) {
    let scene = Scene::new(name);
    let words: Vec<_> = argv.iter().map(OsString::as_os_str).collect();
    let mut program = scene.start_alone(&words);
    scene.ready(&mut program);
    scene.beats(3, &mut program);
    let pid = program.pid().to_string();
    let image = scene.image("one.ckpt.tar");
    let mut random = Seeded(0x5eed);
    // How long a save takes, as far as we know: the latest that came to its end, longer while none does.
    let begun = Instant::now();
    scene.attach(program.pid(), &image, &["--keep-running"]);
    let mut whole = begun.elapsed();
    let (mut killed, mut survived) = (0, 0);
    while killed < kills() {
        let begun = Instant::now();
        let mut command = scene.ckpt("ckpt-attach", &["-q", &pid, "-o"]);
        command.arg(&image).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut save = command.spawn().expect("ckpt-attach starts");
        let moment = whole.mul_f64((random.next() % 1000) as f64 / 1000.0);
        while begun.elapsed() < moment && !matches!(save.try_wait(), Ok(Some(_))) {
            std::hint::spin_loop();
        }
        let took = begun.elapsed();
        save.kill().expect("a signal to a child");
        let output = save.wait_with_output().expect("the end of a child");
        if harness::died_of(output.status, Signal::SIGKILL) {
            killed += 1;
            whole = whole.mul_f64(1.02);
        } else {
            survived += 1;
            whole = took;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: a save failed after {killed} deaths: {said}");
            assert!(survived < 10 * kills(), "{name}: the saves were never slow enough to be killed");
        }
        scene.beats(1, &mut program);
    }
    println!("{name}: {killed} saves killed, {survived} came to their end; a save takes about {whole:?}");
    scene.attach(program.pid(), &image, &["--keep-running"]);
    scene.no_half_image();
    scene.beats(3, &mut program);
    scene.attach(program.pid(), &image, &["--kill"]);
    scene.end_of(&mut program);
    let mut job = scene.start_resume(&image, &[]);
    scene.beats(3, &mut job);
    scene.finish(&mut job);
    scene.nobody_left();
}

fn survives_c(name: &str, args: &[&str]) {
    let Some(program) = compile(&format!("guests/{name}.c"), Build::Dynamic) else { return skip(name, "no gcc") };
    let mut argv = vec![OsString::from(program)];
    argv.extend(args.iter().map(OsString::from));
    survives(name, &argv);
}

#[test]
fn a_c_program() {
    survives_c("syscalls", &["2"]);
}

#[test]
fn a_tree_of_processes() {
    survives_c("procs", &[]);
}

#[test]
fn a_python_program() {
    let python = PathBuf::from("/usr/bin/python3");
    if !python.exists() {
        return skip("a_python_program", "no python3");
    }
    survives("busy.py", &[python.into(), checkout().join("tests/guests/busy.py").into()]);
}

#[test]
fn a_go_program() {
    if !installed("go") {
        return skip("a_go_program", "no go");
    }
    let source = checkout().join("tests/guests/busy.go");
    let program = made_of(&[&source], "busy-go", |out| {
        let mut command = Command::new("go");
        let kept = out.parent().expect("a directory").join("go-build");
        command.args(["build", "-o"]).arg(out).arg(&source).env_clear().env("PATH", PATH).env("GOCACHE", kept);
        command.env("GO111MODULE", "off").env("CGO_ENABLED", "0").env("HOME", "/nonexistent");
        command
    });
    survives("busy.go", &[program.into()]);
}
