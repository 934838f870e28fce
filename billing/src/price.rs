//! One `[[price]]` of a price book or of a contract: from what is written to what [`crate::rate`] takes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::money::{Currency, UnitPrice};
use crate::rate::{Model, PricePoint, Step};
use crate::sku::SkuPattern;
use crate::source::{At, Fields, Source};

/// A price in each of its currencies.
pub(crate) type Points = BTreeMap<Currency, PricePoint>;

/// A price and where it is written.
pub(crate) struct Price {
    pub(crate) points: Points,
    /// Its currencies, those with faulty steps included.
    pub(crate) currencies: BTreeSet<Currency>,
    pub(crate) span: Range<usize>,
}

const EXAMPLE_POINTS: &str = "{ EUR = [{ price = \"2.00\" }] }";

/// Reads `unit_tokens`: a unit that every price divides by exactly.
pub(crate) fn unit_tokens(source: &Source<'_>, fields: &mut Fields<'_, '_>) -> Option<i64> {
    let unit = fields.integer("unit_tokens", "1_000_000")?;
    let value = *unit.get_ref();
    if value > 0 && 1_000_000 % value == 0 {
        return Some(value);
    }
    let problem = format!("unit_tokens must divide 1000000, so that amounts stay exact, but is {value}");
    source.report(unit.span(), problem);
    None
}

/// All prices of one list, none twice; `unit_tokens` is what a token price is for.
pub(crate) fn prices(source: &Source<'_>, list: Vec<Fields<'_, '_>>, unit_tokens: i64) -> BTreeMap<SkuPattern, Price> {
    let mut prices: BTreeMap<SkuPattern, Price> = BTreeMap::new();
    for fields in list {
        let Some((pattern, price)) = read(source, fields, unit_tokens) else {
            continue;
        };
        if let Some(first) = prices.get(&pattern) {
            let line = source.line(&first.span);
            source.report(
                price.span,
                format!("sku_id {pattern} has a price already, in line {line}; remove one"),
            );
            continue;
        }
        prices.insert(pattern, price);
    }
    prices
}

fn read(source: &Source<'_>, mut fields: Fields<'_, '_>, unit_tokens: i64) -> Option<(SkuPattern, Price)> {
    let sku_id = fields.text("sku_id", "\"*/batch/output\"");
    let meter = fields.text("meter", "\"output_tokens\"");
    let model = model(source, &mut fields);
    let lists = fields.lists("currency", EXAMPLE_POINTS);
    let place = fields.span();
    fields.finish();

    let pattern = sku_id
        .as_ref()
        .and_then(|id| source.ok(id.span(), SkuPattern::parse(id.get_ref())));
    if let (Some(pattern), Some(meter)) = (&pattern, &meter)
        && *meter.get_ref() != pattern.meter.column()
    {
        let (class, column) = (pattern.meter.class(), pattern.meter.column());
        let problem = format!(
            "meter of a .../{class} SKU must be {column:?}, but is {:?}",
            meter.get_ref()
        );
        source.report(meter.span(), problem);
    }
    if lists.is_empty() {
        source.report(place, "no price in any currency; give at least one, like currency.EUR");
    }
    let per_units = match pattern.as_ref().map(|pattern| pattern.meter.is_tokens()) {
        Some(false) => 1,
        _ => unit_tokens,
    };
    let (mut points, mut currencies) = (Points::new(), BTreeSet::new());
    for (code, list) in lists {
        let currency = source.ok(list.span(), code.parse::<Currency>());
        currencies.extend(currency);
        // The steps are read in any case, so that what is wrong with them is said too.
        let steps = steps(source, model, list);
        if let (Some(currency), Some(model), Some(steps)) = (currency, model, steps) {
            let point = PricePoint {
                model,
                per_units,
                steps,
            };
            points.insert(currency, point);
        }
    }
    let span = sku_id?.span();
    let price = Price {
        points,
        currencies,
        span,
    };
    Some((pattern?, price))
}

fn model(source: &Source<'_>, fields: &mut Fields<'_, '_>) -> Option<Model> {
    let model = fields.text("model", "\"flat\"")?;
    let units = fields.optional_integer("package_units");
    let plain = match *model.get_ref() {
        "flat" => Model::Flat,
        "graduated" => Model::Graduated,
        "volume" => Model::Volume,
        "package" => {
            return match units.as_ref().map(|units| *units.get_ref()) {
                Some(size @ 1..) => Some(Model::Package { units: size }),
                Some(_) => {
                    source.report(units?.span(), "package_units must be at least 1");
                    None
                }
                None => {
                    source.report(model.span(), "a package needs package_units, its size");
                    None
                }
            };
        }
        other => {
            let problem = format!("model must be one of flat, graduated, volume, package, but is {other:?}");
            source.report(model.span(), problem);
            return None;
        }
    };
    if let Some(units) = units {
        source.report(units.span(), "package_units is only for model \"package\"; remove it");
    }
    Some(plain)
}

/// Steps in rising order, the last one open, their number right for `model`.
fn steps(source: &Source<'_>, model: Option<Model>, list: At<Vec<Fields<'_, '_>>>) -> Option<Vec<Step>> {
    let place = list.span();
    let count = list.get_ref().len();
    let mut steps = Vec::new();
    let mut below = 0;
    for (index, mut fields) in list.into_inner().into_iter().enumerate() {
        let price = fields.text("price", "\"2.00\"");
        let up_to = fields.optional_integer("up_to");
        let (span, is_last) = (fields.span(), index + 1 == count);
        fields.finish();
        match &up_to {
            None if !is_last => source.report(span, "only the last step may be without up_to; add it here"),
            Some(up_to) if is_last => {
                source.report(
                    up_to.span(),
                    "the last step must be without up_to, so that no quantity is unpriced",
                );
            }
            Some(up_to) if *up_to.get_ref() <= below => {
                source.report(
                    up_to.span(),
                    format!("up_to must be above {below}, where the step begins"),
                );
            }
            _ => {}
        }
        let up_to = up_to.map(At::into_inner);
        below = up_to.unwrap_or(below);
        let price = price.and_then(|text| {
            let price = text
                .get_ref()
                .parse::<UnitPrice>()
                .map_err(|error| format!("price {error}"));
            source.ok(text.span(), price)
        });
        steps.extend(price.map(|price| Step { up_to, price }));
    }
    if count == 0 {
        source.report(place, "the list of steps is empty; give at least { price = \"…\" }");
    } else if count > 1 && matches!(model, Some(Model::Flat | Model::Package { .. })) {
        source.report(
            place,
            "this model takes one step without up_to; use graduated or volume",
        );
    }
    (count > 0 && steps.len() == count).then_some(steps)
}
