//! Two kinds of charts, drawn without a script: columns over time, and bars that compare.
//!
//! Lengths are whole thousandths of the largest amount; only the figures beside them are money.

use std::fmt::Write as _;

use super::{escape, money};
use crate::money::{Currency, Money};

/// Colours of the style sheet; the last is for what is left over.
pub(super) const COLOURS: usize = 6;

const WIDTH: i128 = 1000;
const HEIGHT: i128 = 250;
/// Room for the figures on the left, and for the names below.
const LEFT: i128 = 92;
const BELOW: i128 = 22;
const ABOVE: i128 = 8;
const NAMES_MAX: usize = 16;

/// One colour of the columns: a value for each of them.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) values: Vec<Money>,
}

/// Columns over time, each stacked from the series' values. What is below zero is not drawn.
pub(super) fn columns(names: &[String], series: &[Series], currency: Currency) -> String {
    let height_of = |at: usize| -> i128 { series.iter().map(|one| one.values[at].parts().max(0)).sum() };
    let most = (0..names.len()).map(height_of).max().unwrap_or_default().max(1);
    let step = tick(most, currency);
    let top = most.div_euclid(step) * step + if most % step == 0 { 0 } else { step };
    let (plot, bottom) = (HEIGHT - BELOW - ABOVE, HEIGHT - BELOW);
    let y = |parts: i128| bottom - scaled(parts, top, plot);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    let mut at = 0;
    while at <= top {
        let (line, label) = (y(at), Money::from_parts(at).unwrap_or_default());
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{line}\" y2=\"{line}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 10,
            line + 4,
            super::grouped_decimal(&label.to_string()),
        );
        at += step;
    }
    let count = names.len().max(1) as i128;
    // In tenths of a unit, so that many columns still have even gaps.
    let room = (WIDTH - LEFT) * 10 / count;
    let wide = (room * 7 / 10).min(640);
    let every = names.len().div_ceil(NAMES_MAX);
    for (index, name) in names.iter().enumerate() {
        let middle = LEFT * 10 + room * index as i128 + room / 2;
        let mut from = 0;
        for (colour, one) in series.iter().enumerate() {
            let value = one.values[index].parts().max(0);
            let (low, high) = (y(from), y(from + value));
            from += value;
            if high < low {
                let _ = write!(
                    svg,
                    "<rect class=\"c{}\" x=\"{}\" y=\"{high}\" width=\"{}\" height=\"{}\" rx=\"2\"><title>{}, {}: {} {currency}</title></rect>",
                    colour.min(COLOURS - 1),
                    tenths(middle - wide / 2),
                    tenths(wide),
                    low - high,
                    escape(name),
                    escape(&one.name),
                    money(one.values[index], currency),
                );
            }
        }
        if index % every == 0 {
            let _ = write!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                tenths(middle),
                HEIGHT - 5,
                escape(name)
            );
        }
    }
    svg.push_str("</svg><p class=\"key\">");
    for (colour, one) in series.iter().enumerate() {
        let _ = write!(
            svg,
            "<span><i class=\"c{}\"></i>{}</span>",
            colour.min(COLOURS - 1),
            escape(&one.name)
        );
    }
    svg.push_str("</p>");
    svg
}

/// Bars that compare amounts, in their order.
pub(super) fn bars(rows: &[(String, Money)], currency: Currency, colour: usize) -> String {
    let most = rows
        .iter()
        .map(|(_, amount)| amount.parts())
        .max()
        .unwrap_or_default()
        .max(1);
    let mut out = String::from("<div class=\"bars\">");
    for (name, amount) in rows {
        let tenths_of_percent = scaled(amount.parts().max(0), most, 1000);
        let _ = write!(
            out,
            "<span title=\"{0}\">{0}</span><div><i class=\"c{colour}\" style=\"width:{1}%\"></i></div><b>{2}</b>",
            escape(name),
            tenths(tenths_of_percent),
            money(*amount, currency),
        );
    }
    out.push_str("</div>");
    out
}

/// `parts` of `whole` as so many of `length`; exact enough for a drawing, and without overflow.
fn scaled(parts: i128, whole: i128, length: i128) -> i128 {
    match parts.checked_mul(length) {
        Some(product) => product / whole.max(1),
        None => parts / (whole / length).max(1),
    }
}

/// Between two lines of the grid: 1, 2 or 5 times a power of ten, so that there are at most five, and no
/// less than a minor unit.
fn tick(most: i128, currency: Currency) -> i128 {
    let mut power = 10_i128.pow(18_u32.saturating_sub(currency.minor_digits()));
    loop {
        for step in [1, 2, 5] {
            let step = power.saturating_mul(step);
            if most / 5 < step || step == i128::MAX {
                return step;
            }
        }
        power = power.saturating_mul(10);
    }
}

fn tenths(value: i128) -> String {
    format!("{}.{}", value / 10, (value % 10).abs())
}
