//! The curves as a picture.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use crate::scale::Curve;

const SIZE: (u32, u32) = (960, 560);

/// Draws the curves to an SVG file, one small chart for each.
pub fn draw(curves: &[Curve], path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let rows = curves.len().div_ceil(3);
    for (area, curve) in root.split_evenly((rows, 3)).iter().zip(curves) {
        let held: Vec<(f64, f64)> = curve.points.iter().map(|(n, held, _)| (*n as f64, held.median())).collect();
        let resume: Vec<(f64, f64)> = curve.points.iter().map(|(n, _, resume)| (*n as f64, resume.median())).collect();
        let top = |of: fn(&(f64, f64)) -> f64| held.iter().chain(&resume).map(of).fold(0.0, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(area)
            .caption(curve.unit, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..top(|p| p.0), 0.0..top(|p| p.1))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(5)
            .y_labels(6)
            .x_label_formatter(&|n| format!("{n:.0}"))
            .y_label_formatter(&|ms| format!("{ms:.0}"))
            .y_desc("ms")
            .draw()?;
        for (points, colour, name) in [(held, BLUE, "held"), (resume, RED, "resume")] {
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).border_style(TRANSPARENT).draw()?;
    }
    root.present()?;
    Ok(())
}
