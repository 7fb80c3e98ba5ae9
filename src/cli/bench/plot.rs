//! Plots of lines as SVG, to stand in a page whose style sheet colours them.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 36.0;

/// Colours of lines, which the style sheet has as `.line0` and so on; they come again after these.
pub(super) const COLOURS: usize = 6;

/// Some lines over the same axes.
#[derive(Debug)]
pub(super) struct Plot<'a> {
    /// What it shows, for those who do not see it.
    pub(super) title: &'a str,
    /// What is across.
    pub(super) across: &'a str,
    /// Marks across: where, and the text.
    pub(super) marks: Vec<(f64, String)>,
    /// What is up.
    pub(super) up: &'a str,
    /// Whether up is by powers of ten.
    pub(super) logarithmic: bool,
    /// The points of each line, from left to right, and the number of its colour.
    pub(super) lines: Vec<(usize, Vec<(f64, f64)>)>,
}

impl Plot<'_> {
    /// The drawing; an empty text when there is nothing to draw.
    pub(super) fn render(&self) -> String {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::NEG_INFINITY, f64::max);
        let (right, top) = (most(|point| point.0), most(|point| point.1));
        let left = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        if !(right > left && top > 0.0) {
            return String::new();
        }
        let scale = Scale::new(points().map(|point| point.1).filter(|y| *y > 0.0), top, self.logarithmic);
        let x = |value: f64| LEFT + (value - left) / (right - left) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - scale.share(value) * (HEIGHT - TOP - BOTTOM);
        let (title, across, up) = (escape(self.title), escape(self.across), escape(self.up));
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n");
        for (value, mark) in scale.marks() {
            let (at, end) = (y(value), WIDTH - RIGHT);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            );
            let (text, at) = (LEFT - 6.0, at + 4.0);
            let _ = writeln!(svg, "<text class=\"end\" x=\"{text}\" y=\"{at:.1}\">{mark}</text>");
        }
        let floor = HEIGHT - BOTTOM;
        for (value, mark) in self.marks.iter().filter(|(value, _)| (left..=right).contains(value)) {
            let at = x(*value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{floor}\"/>"
            );
            let below = floor + 16.0;
            let _ =
                writeln!(svg, "<text class=\"middle\" x=\"{at:.1}\" y=\"{below}\">{}</text>", escape(mark));
        }
        for (colour, points) in &self.lines {
            let points: Vec<_> =
                points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
            let _ = writeln!(
                svg,
                "<polyline class=\"line{}\" points=\"{}\"/>",
                colour % COLOURS,
                points.join(" ")
            );
        }
        let (middle, last) = (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 4.0);
        let _ = writeln!(svg, "<text class=\"middle\" x=\"{middle}\" y=\"{last}\">{across}</text>");
        let _ = writeln!(svg, "<text x=\"4\" y=\"{}\">{up}</text>\n</svg>", TOP + 2.0);
        svg
    }
}

/// How values become heights.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    fn new(values: impl Iterator<Item = f64>, top: f64, logarithmic: bool) -> Self {
        if !logarithmic {
            let step = step(top);
            return Self { low: 0.0, high: (top / step).ceil() * step, logarithmic };
        }
        let low = values.fold(top, f64::min).log10().floor();
        Self { low, high: top.log10().ceil().max(low + 1.0), logarithmic }
    }

    fn share(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(1e-9).log10() } else { value };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn marks(&self) -> Vec<(f64, String)> {
        if self.logarithmic {
            let decades = self.low as i32..=self.high as i32;
            return decades.map(|decade| 10_f64.powi(decade)).map(|value| (value, plain(value))).collect();
        }
        let step = step(self.high);
        let count = (self.high / step).round() as i32;
        (0..=count).map(|index| f64::from(index) * step).map(|value| (value, plain(value))).collect()
    }
}

/// A round step that makes four to eight of a value.
pub(super) fn step(top: f64) -> f64 {
    let power = 10_f64.powf((top / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    steps.into_iter().rfind(|step| top / step >= 3.9).unwrap_or(power)
}

/// A number as short as it can be.
pub(super) fn plain(value: f64) -> String {
    match value {
        large if large >= 10_000.0 => format!("{}k", (large / 1000.0 * 10.0).round() / 10.0),
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

/// Text that stands for itself in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_few() {
        for (top, expected) in [(10.0, 2.0), (100.0, 20.0), (4.0, 1.0), (45_000.0, 10_000.0), (0.9, 0.2)] {
            let step = step(top);
            assert!((step - expected).abs() < 1e-9, "{top}: {step}");
        }
        assert_eq!([plain(0.001), plain(2.0), plain(25_000.0)], ["0.001", "2", "25k"]);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        let plot = |lines| {
            Plot { title: "t", across: "a", marks: vec![], up: "u", logarithmic: true, lines }.render()
        };
        assert_eq!(plot(vec![]), "");
        assert_eq!(plot(vec![(0, vec![(1.0, 1.0)])]), "", "one point is no line");
        assert!(plot(vec![(0, vec![(1.0, 1.0), (2.0, 30.0)])]).contains("<polyline"));
    }
}
