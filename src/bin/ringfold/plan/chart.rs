//! Time against ranks as a picture.

use super::network::time;
use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use ringfold::{Error, Result};
use std::ops::Range;

/// The times of one algorithm.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// (ranks, seconds)
    pub(super) points: Vec<(f64, f64)>,
}

/// Colours that stay apart for most eyes, and marks that stay apart without colour.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 120, 233),
    RGBColor(150, 110, 0),
    RGBColor(40, 40, 40),
    RGBColor(110, 110, 110),
];

const SIZE: (u32, u32) = (960, 600);
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 228, 232);

/// A logarithmic axis whose lines are where the numbers are told to be.
struct Axis {
    range: Range<f64>,
    at: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value.ln() - self.range.start.ln()) / (self.range.end.ln() - self.range.start.ln());
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.at.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        // Times are below a million seconds and no fractions of a rank are drawn.
        value.to_string()
    }
}

/// Draws the lines over logarithmic axes.
pub(super) fn draw(title: &str, network: &str, lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    paint(&mut svg, title, network, lines)
        .map_err(|error| Error::invalid(format!("drawing the picture: {error}")))?;
    Ok(svg)
}

fn paint(
    svg: &mut String,
    title: &str,
    network: &str,
    lines: &[Line],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|line| &line.points).filter(|point| point.1 > 0.0);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let least = points().map(of).fold(f64::INFINITY, f64::min);
        let most = points().map(of).fold(0.0, f64::max);
        if most > 0.0 { (least, most) } else { (1.0, 10.0) }
    };
    let (ranks, times) = (bounds(|point| point.0), bounds(|point| point.1));
    let mut all_ranks: Vec<f64> = points().map(|point| point.0).collect();
    all_ranks.sort_by(f64::total_cmp);
    all_ranks.dedup();
    let x = Axis { range: ranks.0 * 0.93..(ranks.1 * 1.07).max(ranks.0 * 1.2), at: all_ranks };
    let decades = times.0.log10().floor() as i32..=times.1.log10().ceil() as i32;
    let y = Axis {
        range: times.0 / 1.3..(times.1 * 1.3).max(times.0 * 10.0),
        at: decades.map(|decade| 10f64.powi(decade)).collect(),
    };
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let font = |size: i32| ("Helvetica, Arial, sans-serif", size).into_font().color(&INK);
    root.draw(&Text::new(format!("Simulated time of {title}, by number of ranks"), (24, 18), font(20)))?;
    for (line, text) in wrapped(network, 120).into_iter().enumerate() {
        root.draw(&Text::new(text, (24, 46 + 16 * line as i32), font(13)))?;
    }
    let (body, legend) = root.margin(84, 0, 0, 0).split_horizontally(SIZE.0 - 210);
    let mut chart = ChartBuilder::on(&body)
        .margin_right(8)
        .margin_bottom(10)
        .x_label_area_size(52)
        .y_label_area_size(84)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_desc("ranks")
        .y_desc("time of the slowest rank")
        .axis_desc_style(font(15))
        .label_style(font(13))
        .y_label_formatter(&|seconds| time(*seconds))
        .x_label_formatter(&|ranks| format!("{ranks:.0}"))
        .draw()?;
    // The legend lists lines in the order in which they end, from the top.
    let mut order: Vec<usize> = (0..lines.len()).collect();
    let end = |line: &Line| line.points.last().map_or(0.0, |point| point.1);
    order.sort_by(|&a, &b| end(&lines[b]).total_cmp(&end(&lines[a])));
    for (place, &index) in order.iter().enumerate() {
        let (line, colour) = (&lines[index], COLOURS[index % COLOURS.len()]);
        chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
        for &(ranks, seconds) in &line.points {
            let at = chart.backend_coord(&(ranks, seconds));
            mark(&root, index, at, colour)?;
        }
        let (left, _) = (SIZE.0 as i32 - 200, 0);
        let y = 100 + 26 * place as i32;
        let stroke = colour.stroke_width(2);
        root.draw(&PathElement::new([(left, y), (left + 34, y)], stroke))?;
        mark(&root, index, (left + 17, y), colour)?;
        let style = font(14).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(line.name, (left + 44, y), style))?;
    }
    drop(legend);
    root.present()?;
    Ok(())
}

/// The mark of a line: one of four forms.
fn mark<D: DrawingBackend>(
    root: &DrawingArea<D, plotters::coord::Shift>,
    index: usize,
    (x, y): (i32, i32),
    colour: RGBColor,
) -> std::result::Result<(), DrawingAreaErrorKind<D::ErrorType>> {
    let filled = colour.filled();
    match index % 4 {
        0 => root.draw(&Circle::new((x, y), 4, filled)),
        1 => root.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], filled)),
        2 => root.draw(&TriangleMarker::new((x, y), 5, filled)),
        _ => root.draw(&Polygon::new([(x, y - 5), (x + 5, y), (x, y + 5), (x - 5, y)], filled)),
    }
}

/// Lines of at most so many characters, broken at spaces.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is a line");
        if !last.is_empty() && last.len() + word.len() >= most {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}
