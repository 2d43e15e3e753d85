//! How the times grow with the size of a tree.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};

use crate::place::Place;
use crate::sample::{Sample, number};
use crate::table::Bound;
use crate::{Bench, Column, guest};

/// One kind of thing of which a tree may have many.
struct Kind {
    /// In `CKPT_BENCH_CASES`.
    name: &'static str,
    /// What the guest calls it.
    argument: &'static str,
    /// A row of the table.
    case: &'static str,
    /// What is counted.
    unit: &'static str,
    counts: [usize; 4],
    /// Milliseconds with the largest count: held, resumed.
    bounds: Option<[f64; 2]>,
}

/// Each count is about twice the one before.
const KINDS: [Kind; 6] = [
    Kind {
        name: "many-threads",
        argument: "threads",
        case: "2,000 threads",
        unit: "threads",
        counts: [250, 500, 1000, 2000],
        bounds: None,
    },
    Kind {
        name: "processes",
        argument: "processes",
        case: "300 processes",
        unit: "processes",
        counts: [37, 75, 150, 300],
        bounds: None,
    },
    Kind {
        name: "maps",
        argument: "maps",
        case: "50,000 mappings",
        unit: "mappings",
        counts: [6250, 12_500, 25_000, 50_000],
        bounds: None,
    },
    Kind {
        name: "fds",
        argument: "fds",
        // A resume needs twice as many: the usual limit of 20,000 leaves no room for more.
        case: "9,900 descriptors",
        unit: "descriptors",
        counts: [1237, 2475, 4950, 9900],
        bounds: None,
    },
    Kind {
        name: "unix",
        argument: "unix",
        case: "1,000 UNIX socketpairs",
        unit: "UNIX socketpairs",
        counts: [125, 250, 500, 1000],
        bounds: Some([100.0, 300.0]),
    },
    Kind {
        name: "tcp",
        argument: "tcp",
        case: "1,000 TCP connections",
        unit: "TCP connections",
        counts: [125, 250, 500, 1000],
        bounds: Some([100.0, 300.0]),
    },
];

const RUNS: usize = 3;
/// Per piece, four times as many may cost so much of what a quarter does: 1 is linear, less is better, the rest is noise.
const LINEAR: f64 = 1.15;

/// What was measured of one kind.
#[derive(Debug)]
pub struct Curve {
    pub unit: &'static str,
    /// Count, and milliseconds held and until it moved again.
    pub points: Vec<(usize, Sample, Sample)>,
}

/// Measures all kinds, of which those that fail are told and left out.
pub fn all(bench: &Bench, place: &Place, column: &mut Column<'_>, only: impl Fn(&str) -> bool) -> Result<Vec<Curve>> {
    let guest = guest::build("many", bench.tools.path())?;
    let mut curves = Vec::new();
    let mut failed = Vec::new();
    for kind in KINDS.iter().filter(|kind| only("scale") || only(kind.name)) {
        match curve(bench, place, &guest, kind) {
            Ok(curve) => {
                rows(kind, &curve, column);
                curves.push(curve);
            }
            Err(error) => {
                eprintln!("left out: {}: {error:#}", kind.case);
                failed.push(kind.case);
            }
        }
    }
    if failed.is_empty() { Ok(curves) } else { bail!("could not be measured: {}", failed.join(", ")) }
}

fn curve(bench: &Bench, place: &Place, guest: &Path, kind: &Kind) -> Result<Curve> {
    let image = place.file("many.ckpt.tar");
    let mut points = Vec::new();
    for count in kind.counts {
        let command = [guest.to_owned(), kind.argument.into(), count.to_string().into()];
        let bench = bench.with_runs(RUNS);
        let saves = bench.save(&command, place, &image)?;
        let resume = bench.resumes(&image, &[])?;
        eprintln!("{count} {}: held {}, resume {}", kind.unit, saves.held.text(), resume.text());
        points.push((count, saves.held, resume));
    }
    Ok(Curve { unit: kind.unit, points })
}

fn rows(kind: &Kind, curve: &Curve, column: &mut Column<'_>) {
    let [.., quarter, _, (most, held, resume)] = curve.points.as_slice() else { return };
    let bound = |index: usize| kind.bounds.and_then(|b| b.get(index).copied()).map_or(Bound::None, Bound::AtMost);
    let growth =
        |whole: &Sample, quarter: &Sample, few: usize| (whole.least() / quarter.least()) / (*most as f64 / few as f64);
    column.sample(kind.case, "held", held, bound(0));
    column.sample(kind.case, "`ckpt-resume` until it moves", resume, bound(1));
    let linear = Bound::AtMost(LINEAR);
    let (few, held_few, resume_few) = quarter;
    column.value(kind.case, "held, each, ÷ each of a quarter as many", growth(held, held_few, *few), linear);
    column.value(kind.case, "resume, each, ÷ each of a quarter as many", growth(resume, resume_few, *few), linear);
}

/// The curves as Markdown.
pub fn text(curves: &[Curve]) -> String {
    let mut out = "| of | count | held | `ckpt-resume` until it moves |\n|---|---|---|---|\n".to_owned();
    for curve in curves {
        let mut unit = curve.unit;
        for (count, held, resume) in &curve.points {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "| {unit} | {count} | {} | {} |", number(held.median()), number(resume.median()));
            unit = "";
        }
    }
    out
}
