//! A tree that forks, execs, threads, maps, signals and exits at random, and keeps its own books, saved again and again as
//! fast as saves can be made, and killed and resumed in between.
//!
//! `CKPT_STRESS_SAVES` and `CKPT_STRESS_RESUMES` say how often, `CKPT_STRESS_SEED` what the program does.

mod harness;

use harness::{Build, Scene, compile, skip};

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

#[test]
fn nothing_is_lost_and_nothing_doubled() {
    let Some(program) = compile("guests/stress.c", Build::Dynamic) else { return skip("stress", "no gcc") };
    let (saves, resumes) = (number("CKPT_STRESS_SAVES", 120), number("CKPT_STRESS_RESUMES", 25));
    let seed = number("CKPT_STRESS_SEED", 1).to_string();
    let scene = Scene::new("stress");
    let mut job = scene.start_run(&[program.as_ref(), seed.as_ref()]);
    scene.ready(&mut job);
    let image = scene.image("stress.ckpt.tar");
    for resume in 1..=resumes {
        for _ in saves * (resume - 1) / resumes..saves * resume / resumes {
            scene.save(&image, &["--keep-running"]);
        }
        scene.beats(1, &mut job);
        scene.save(&image, &["--kill"]);
        assert_eq!(scene.end_of(&mut job).code(), Some(85), "the supervisor of a job that was saved and ended");
        scene.nobody_left();
        job = scene.start_resume(&image, &[]);
        scene.beats(1, &mut job);
    }
    scene.finish(&mut job);
    scene.nobody_left();
    print!("{saves} saves, {resumes} resumes, seed {seed}:\n{}", scene.text("out"));
}

/// The guest notices what it must notice.
#[test]
fn its_books_are_checked() {
    let Some(program) = compile("guests/stress.c", Build::Dynamic) else { return skip("stress", "no gcc") };
    let scene = Scene::new("stress");
    let mut alone = scene.start_alone(&[program.as_ref()]);
    scene.ready(&mut alone);
    scene.beats(20, &mut alone);
    scene.finish(&mut alone);
    drop(scene);
    let scene = Scene::new("stress");
    let mut alone = scene.start_alone(&[program.as_ref()]);
    scene.ready(&mut alone);
    scene.tell("spoil");
    harness::poll_for(harness::deadline(), || {
        (scene.text("out").contains("spoilt\n") || alone.ended().is_some()).then_some(())
    });
    scene.tell("go");
    assert!(!scene.end_of(&mut alone).success() && scene.work("fails.log").exists());
}
