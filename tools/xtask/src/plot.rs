//! Draws lines: the figures of `tools/bench` as SVG, with logarithmic axes.
//!
//! Standard input has `title TEXT`, `x LABEL`, `y LABEL`, and a line `X Y SERIES` for each point;
//! X and Y are above 0. The drawing has no fonts, scripts or colours that depend on the viewer.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;

use anyhow::{Context, Result, ensure};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// Told apart by those who see few colours too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

#[derive(Default)]
struct Plot {
    title: String,
    x: String,
    y: String,
    series: BTreeMap<String, Vec<(f64, f64)>>,
}

/// Reads standard input and writes the drawing to standard output.
pub(crate) fn run() -> Result<bool> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    print!("{}", draw(&parse(&text)?));
    Ok(true)
}

fn parse(text: &str) -> Result<Plot> {
    let mut plot = Plot::default();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (word, rest) = line.split_once(' ').with_context(|| format!("half a line: {line}"))?;
        match word {
            "title" => plot.title = rest.to_owned(),
            "x" => plot.x = rest.to_owned(),
            "y" => plot.y = rest.to_owned(),
            x => {
                let (y, series) = rest.split_once(' ').with_context(|| format!("no Y: {line}"))?;
                let number = |text: &str| text.parse::<f64>().with_context(|| line.to_owned());
                let (x, y) = (number(x)?, number(y)?);
                ensure!(x > 0.0 && y > 0.0, "not above 0: {line}");
                plot.series.entry(series.to_owned()).or_default().push((x, y));
            }
        }
    }
    ensure!(!plot.series.is_empty(), "there is nothing to draw");
    Ok(plot)
}

/// A logarithmic axis from one number to another, on this many points from `at` on.
struct Axis {
    low: f64,
    high: f64,
    at: f64,
    length: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64> + Clone, at: f64, length: f64) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(0.0, f64::max);
        // Room at both ends; also makes an axis of a single value one that has a length.
        Self { low: (low / 1.2).ln(), high: (high * 1.2).ln(), at, length }
    }

    fn place(&self, value: f64) -> f64 {
        self.at + (value.ln() - self.low) / (self.high - self.low) * self.length
    }

    /// 1, 2 and 5 times the powers of ten, or powers of ten alone where they are many.
    fn ticks(&self) -> Vec<f64> {
        let decades = (self.high - self.low) / 10_f64.ln();
        let steps: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let inside = |value: &f64| (self.low..=self.high).contains(&value.ln());
        (-9..12)
            .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
            .filter(inside)
            .collect()
    }
}

fn draw(plot: &Plot) -> String {
    let points = plot.series.values().flatten();
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = Axis::new(points.clone().map(|point| point.0), LEFT, right - LEFT);
    let y = Axis::new(points.map(|point| point.1), bottom, TOP - bottom);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, content: &str| {
        let content = content.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>")
            .expect("a string takes everything");
    };
    text(WIDTH / 2.0, 20.0, "middle", &plot.title);
    text(WIDTH / 2.0, HEIGHT - 12.0, "middle", &plot.x);
    text(8.0, TOP - 12.0, "start", &plot.y);
    for tick in x.ticks() {
        text(x.place(tick), bottom + 18.0, "middle", &short(tick));
    }
    for tick in y.ticks() {
        text(LEFT - 6.0, y.place(tick) + 4.0, "end", &short(tick));
    }
    for (place, name) in (0..).zip(plot.series.keys()) {
        text(LEFT + 30.0, TOP + 14.0 + 16.0 * f64::from(place), "start", name);
    }
    for tick in x.ticks() {
        line(&mut svg, "#ddd", 1, &[(x.place(tick), TOP), (x.place(tick), bottom)]);
    }
    for tick in y.ticks() {
        line(&mut svg, "#ddd", 1, &[(LEFT, y.place(tick)), (right, y.place(tick))]);
    }
    line(&mut svg, "#333", 1, &[(LEFT, TOP), (LEFT, bottom), (right, bottom)]);
    for ((place, series), colour) in (0..).zip(plot.series.values()).zip(COLOURS.iter().cycle()) {
        let points: Vec<_> = series.iter().map(|&(a, b)| (x.place(a), y.place(b))).collect();
        line(&mut svg, colour, 2, &points);
        let key = TOP + 10.0 + 16.0 * f64::from(place);
        line(&mut svg, colour, 2, &[(LEFT + 8.0, key), (LEFT + 24.0, key)]);
    }
    svg + "</svg>\n"
}

fn line(svg: &mut String, colour: &str, width: u8, points: &[(f64, f64)]) {
    let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let points = points.join(" ");
    writeln!(
        svg,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
    )
    .expect("a string takes everything");
}

/// 64k, 1M, 0.5.
fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", value / 1e6),
        1e3.. => format!("{}k", value / 1e3),
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_lines_within_the_drawing() {
        let text = "title A & B\nx bytes\ny MB/s\n64 10 ours\n65536 2000 ours\n64 9 floor\n";
        let svg = draw(&parse(text).expect("well-formed"));
        assert!(svg.contains("A &amp; B") && svg.contains(">ours<") && svg.contains(">floor<"));
        assert!(svg.contains(">10k<"), "a tick between the ends");
        let numbers = svg.split("points=\"").skip(1).flat_map(|part| {
            let points = part.split('"').next().expect("quoted").split([' ', ',']);
            points.map(|number| number.parse::<f64>().expect("a number")).collect::<Vec<_>>()
        });
        assert!(numbers.into_iter().all(|number| (0.0..=WIDTH).contains(&number)));
    }

    #[test]
    fn nonsense_is_not_drawn() {
        for text in ["", "title only", "1", "1 x ours", "0 1 ours", "1 -1 ours"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
