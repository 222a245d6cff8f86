//! Text for a terminal: aligned columns, times as people say them, and nothing that a terminal would obey.

use std::fmt;

/// What is between two columns.
const GAP: &str = "  ";

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table. Columns that have nothing in any row are left out.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows.
    pub(crate) fn new(columns: impl IntoIterator<Item = (String, Align)>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row: a cell a column, in order.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<String> = self.columns.iter().map(|(head, _)| head.clone()).collect();
        let cell = |row: &[String], column: usize| row.get(column).map_or_else(String::new, |text| printable(text));
        let shown: Vec<usize> =
            (0..heads.len()).filter(|column| self.rows.iter().any(|row| !cell(row, *column).is_empty())).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| cell(row, column)).chain([heads[column].clone()]);
            cells.map(|text| text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = shown.iter().map(|column| width(*column)).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for (column, width) in shown.iter().zip(&widths) {
                let text = cell(row, *column);
                let pad = " ".repeat(width - text.chars().count());
                line.push_str(if line.is_empty() { "" } else { GAP });
                match self.columns[*column].1 {
                    Align::Left => line.extend([text.as_str(), &pad]),
                    Align::Right => line.extend([pad.as_str(), &text]),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Text with every character that could steer a terminal made visible: models, request ids and error messages come from
/// clients and servers.
pub(crate) fn printable(text: &str) -> String {
    let is_steering = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_steering(c) { '\u{fffd}' } else { c }).collect()
}

/// Text of so many characters at most.
pub(crate) fn shortened(text: &str, longest: usize) -> String {
    match text.chars().count() > longest {
        true => text.chars().take(longest.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// A time in as few digits as matter.
pub(crate) fn time(millis: f64) -> String {
    match millis {
        _ if !millis.is_finite() => "-".to_owned(),
        ..1.0 => format!("{millis:.2} ms"),
        ..100.0 => format!("{millis:.1} ms"),
        ..1e3 => format!("{millis:.0} ms"),
        ..1e4 => format!("{:.1} s", millis / 1e3),
        ..120e3 => format!("{:.0} s", millis / 1e3),
        ..7_200e3 => format!("{:.0} min", millis / 60e3),
        _ => format!("{:.0} h", millis / 3_600e3),
    }
}

/// A number of things, such as `1 endpoint` or `3 endpoints`.
pub(crate) fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// A cell of what may be absent.
pub(crate) fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_empty_ones_are_left_out() {
        let mut table = Table::new([
            ("NAME".into(), Align::Left),
            ("EMPTY".into(), Align::Left),
            ("QUEUE".into(), Align::Right),
            ("REMARKS".into(), Align::Left),
        ]);
        table.row(vec!["a".into(), String::new(), "12".into(), String::new()]);
        table.row(vec!["gpü-b".into(), String::new(), "3".into(), "cordoned: \u{1b}[31mred".into()]);
        let expected = "NAME   QUEUE  REMARKS\na         12\ngpü-b      3  cordoned: \u{fffd}[31mred\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn times_have_the_digits_that_matter() {
        let table = [
            (0.0, "0.00 ms"),
            (12.34, "12.3 ms"),
            (432.1, "432 ms"),
            (1_250.0, "1.2 s"),
            (59_000.0, "59 s"),
            (600e3, "10 min"),
            (36_000e3, "10 h"),
            (f64::NAN, "-"),
        ];
        for (millis, expected) in table {
            assert_eq!(time(millis), expected);
        }
    }

    #[test]
    fn what_is_too_long_ends_in_an_ellipsis() {
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("abcd", 4), "abcd");
    }
}
