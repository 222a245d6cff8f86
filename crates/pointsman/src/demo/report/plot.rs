//! Plots as SVG, drawn by hand: an axis frame, and lines, dots and bars in it. Colours are the page's classes.

use std::fmt::Write as _;

/// Room around the frame for ticks and labels, in pixels.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 42.0;

/// One direction of a plot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    label: String,
    low: f64,
    high: f64,
    is_log: bool,
    /// Where ticks are, and what stands there.
    ticks: Vec<(f64, String)>,
}

/// A plot in the making. What lies outside its axes is drawn at their ends.
#[derive(Debug)]
pub(super) struct Plot {
    width: f64,
    height: f64,
    x: Axis,
    y: Axis,
    svg: String,
}

impl Axis {
    /// From 0 to at least `high`, in round steps.
    pub(super) fn linear(label: &str, high: f64) -> Self {
        let high = if high.is_finite() && high > 0.0 { high } else { 1.0 };
        let step = round_step(high / 5.0);
        let steps = (high / step - 1e-9).ceil() as usize;
        let ticks = (0..=steps).map(|place| (place as f64 * step, figure(place as f64 * step))).collect();
        Self { label: label.to_owned(), low: 0.0, high: steps as f64 * step, is_log: false, ticks }
    }

    /// Logarithmic, from the power of ten below `low` to the one above `high`.
    pub(super) fn log(label: &str, low: f64, high: f64) -> Self {
        let low = if low.is_finite() && low > 0.0 { low } else { 1.0 };
        let high = if high.is_finite() { high.max(low * 1.01) } else { low * 10.0 };
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let ticks = (first..=last).map(|power| (10f64.powi(power), figure(10f64.powi(power)))).collect();
        Self { label: label.to_owned(), low: 10f64.powi(first), high: 10f64.powi(last), is_log: true, ticks }
    }

    /// Names, each in the middle of a unit: the first from 0 to 1.
    pub(super) fn names(label: &str, names: &[String]) -> Self {
        let ticks = names.iter().enumerate().map(|(place, name)| (place as f64 + 0.5, name.clone())).collect();
        Self { label: label.to_owned(), low: 0.0, high: names.len().max(1) as f64, is_log: false, ticks }
    }

    /// How far along a value is, 0..1.
    fn share(&self, value: f64) -> f64 {
        let of = |value: f64| if self.is_log { value.max(1e-300).log10() } else { value };
        let share = (of(value) - of(self.low)) / (of(self.high) - of(self.low));
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Plot {
    /// An empty frame. `title` is read to those who cannot see it.
    pub(super) fn new(title: &str, (width, height): (f64, f64), x: Axis, y: Axis) -> Self {
        let title = escape(title);
        let svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n"
        );
        let mut plot = Self { width, height, x, y, svg };
        plot.frame();
        plot
    }

    /// A line through points, in order of x.
    pub(super) fn line(&mut self, class: &str, title: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{:.1},{:.1} ", self.at_x(x), self.at_y(y));
        }
        let title = escape(title);
        self.add(&format!(
            "<polyline class=\"line {class}\" points=\"{}\"><title>{title}</title></polyline>",
            path.trim_end()
        ));
    }

    /// A dot a point.
    pub(super) fn dots(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut group = format!("<g class=\"dots {class}\">");
        for (x, y) in points {
            let _ = write!(group, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/>", self.at_x(x), self.at_y(y));
        }
        self.add(&(group + "</g>"));
    }

    /// A bar from the bottom up.
    pub(super) fn bar(&mut self, class: &str, title: &str, (from, to): (f64, f64), value: f64) {
        let (left, right, top) = (self.at_x(from), self.at_x(to), self.at_y(value));
        let (width, height) = (right - left, self.height - BOTTOM - top);
        self.add(&format!(
            "<rect class=\"bar {class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
             <title>{}</title></rect>",
            escape(title)
        ));
    }

    /// The whole as an element.
    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (self.width - LEFT - RIGHT)
    }

    fn at_y(&self, value: f64) -> f64 {
        self.height - BOTTOM - self.y.share(value) * (self.height - TOP - BOTTOM)
    }

    fn add(&mut self, element: &str) {
        self.svg.push_str(element);
        self.svg.push('\n');
    }

    /// Grid lines, ticks and labels.
    fn frame(&mut self) {
        let (right, bottom) = (self.width - RIGHT, self.height - BOTTOM);
        for (value, text) in self.y.ticks.clone() {
            let at = self.at_y(value);
            self.add(&format!("<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>"));
            let (x, y) = (LEFT - 6.0, at + 4.0);
            self.add(&format!("<text class=\"tick end\" x=\"{x}\" y=\"{y:.1}\">{}</text>", escape(&text)));
        }
        for (value, text) in self.x.ticks.clone() {
            let at = self.at_x(value);
            let end = bottom + 4.0;
            self.add(&format!("<line class=\"grid\" x1=\"{at:.1}\" y1=\"{bottom}\" x2=\"{at:.1}\" y2=\"{end}\"/>"));
            let y = bottom + 17.0;
            self.add(&format!("<text class=\"tick middle\" x=\"{at:.1}\" y=\"{y}\">{}</text>", escape(&text)));
        }
        let (middle, low) = ((LEFT + right) / 2.0, self.height - 6.0);
        let label = escape(&self.x.label);
        self.add(&format!("<text class=\"label middle\" x=\"{middle:.1}\" y=\"{low}\">{label}</text>"));
        let middle = (TOP + bottom) / 2.0;
        let label = escape(&self.y.label);
        self.add(&format!(
            "<text class=\"label middle\" transform=\"translate(14 {middle:.1}) rotate(-90)\">{label}</text>"
        ));
    }
}

/// The least of 1, 2, 5, 10, ... times a power of ten that is at least `value`.
fn round_step(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(10.0 * power)
}

/// A number with as few digits as say it.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1e6 => format!("{}M", value / 1e6),
        large if large >= 1e4 => format!("{}k", value / 1e3),
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

/// Text as it may stand in an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn axes_reach_over_their_values_in_round_steps() {
        assert_eq!(ticks(&Axis::linear("", 23.0)), ["0", "5", "10", "15", "20", "25"]);
        assert_eq!(ticks(&Axis::linear("", 0.7)), ["0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(ticks(&Axis::linear("", 0.0)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(ticks(&Axis::log("", 30.0, 12_000.0)), ["10", "100", "1000", "10k", "100k"]);
        assert_eq!(ticks(&Axis::log("", f64::NAN, f64::INFINITY)), ["1", "10"]);
    }

    #[test]
    fn what_lies_outside_is_drawn_at_the_edge() {
        let axis = Axis::log("", 10.0, 1_000.0);
        for (value, share) in [(10.0, 0.0), (100.0, 0.5), (1e9, 1.0), (0.0, 0.0), (f64::NAN, 0.0)] {
            assert!((axis.share(value) - share).abs() < 1e-9, "{value} is at {}", axis.share(value));
        }
    }
}
