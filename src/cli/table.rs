//! Tables for people.

use comfy_table::{CellAlignment, Table, presets};

/// A table without lines; `right`: numbers of the columns that are aligned to the right.
pub fn table<const N: usize>(
    header: [&str; N],
    right: &[usize],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// Text from outside, fit for a terminal: control characters are shown, not obeyed.
pub fn harmless(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = table(["PID", "COMM"], &[0], [["7".into(), "sh".into()], ["4711".into(), "a b".into()]]);
        assert_eq!(text, " PID  COMM\n   7  sh\n4711  a b\n");
    }

    #[test]
    fn names_cannot_play_with_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc é"), "a\\u{1b}[2Jb\\nc é");
    }
}
