//! The one Markdown table that comes out.

use std::fmt::Write;

use crate::sample::{Sample, number};

/// A table with a column for each place that images went to.
#[derive(Debug)]
pub struct Table {
    places: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    case: &'static str,
    what: &'static str,
    bound: String,
    cells: Vec<String>,
}

/// What a number must not exceed.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// It is only told.
    None,
    /// In the unit of the row.
    AtMost(f64),
}

impl Table {
    /// An empty table.
    pub fn new(places: Vec<String>) -> Table {
        Table { places, rows: Vec::new() }
    }

    /// Fills in the median and range of a sample.
    pub fn sample(&mut self, place: usize, case: &'static str, what: &'static str, sample: &Sample, bound: Bound) {
        let cell = format!("{}{}", sample.text(), verdict(sample.median(), bound));
        self.put(place, case, what, bound, cell);
    }

    /// Fills in one number.
    pub fn value(&mut self, place: usize, case: &'static str, what: &'static str, value: f64, bound: Bound) {
        let cell = format!("{}{}", number(value), verdict(value, bound));
        self.put(place, case, what, bound, cell);
    }

    fn put(&mut self, place: usize, case: &'static str, what: &'static str, bound: Bound, cell: String) {
        eprintln!("{}: {case}: {what}: {cell}", self.places.get(place).map_or("", String::as_str));
        let at = self.rows.iter().position(|r| r.case == case && r.what == what).unwrap_or_else(|| {
            let bound = match bound {
                Bound::None => String::new(),
                Bound::AtMost(most) => format!("≤ {most}"),
            };
            self.rows.push(Row { case, what, bound, cells: vec![String::new(); self.places.len()] });
            self.rows.len() - 1
        });
        if let Some(room) = self.rows.get_mut(at).and_then(|r| r.cells.get_mut(place)) {
            *room = cell;
        }
    }

    /// As Markdown.
    pub fn text(&self) -> String {
        let mut out = format!("| case | measured | bound | {} |\n|---|---|---|", self.places.join(" | "));
        out.push_str(&"---|".repeat(self.places.len()));
        out.push('\n');
        let mut last = "";
        for row in &self.rows {
            let case = if row.case == last { "" } else { row.case };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "| {case} | {} | {} | {} |", row.what, row.bound, row.cells.join(" | "));
            last = row.case;
        }
        out
    }
}

fn verdict(value: f64, bound: Bound) -> &'static str {
    match bound {
        Bound::None => "",
        Bound::AtMost(most) if value <= most => " ok",
        Bound::AtMost(_) => " **MISSED**",
    }
}
