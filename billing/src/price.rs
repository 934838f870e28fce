//! One `[[price]]` of a price book or of a contract: from what is written to what [`crate::rate`] takes.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::money::Currency;
use crate::rate::{Model, PricePoint, Step};
use crate::sku::SkuPattern;
use crate::source::{FileError, Source};

/// A price in each of its currencies.
pub(crate) type Points = BTreeMap<Currency, PricePoint>;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPrice {
    sku_id: Spanned<String>,
    meter: Spanned<String>,
    model: Spanned<String>,
    package_units: Option<Spanned<i64>>,
    currency: Spanned<BTreeMap<String, Spanned<Vec<RawStep>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    up_to: Option<Spanned<i64>>,
    price: Spanned<String>,
}

/// Checks that a unit is one that every price divides by exactly.
pub(crate) fn unit_tokens(source: Source<'_>, raw: &Spanned<i64>) -> Result<i64, FileError> {
    match *raw.get_ref() {
        unit if unit > 0 && 1_000_000 % unit == 0 => Ok(unit),
        other => {
            let problem = format!("unit_tokens must divide 1000000, so that amounts stay exact, but is {other}");
            Err(source.error(raw.span(), problem))
        }
    }
}

/// All prices of one list, none twice; `unit_tokens` is what a token price is for.
pub(crate) fn prices(
    source: Source<'_>,
    raw: &[RawPrice],
    unit_tokens: i64,
) -> Result<BTreeMap<SkuPattern, Points>, FileError> {
    let mut prices = BTreeMap::new();
    for price in raw {
        let (pattern, points) = price.checked(source, unit_tokens)?;
        let id = pattern.to_string();
        if prices.insert(pattern, points).is_some() {
            return Err(source.error(
                price.sku_id.span(),
                format!("sku_id {id} has a price already; remove one"),
            ));
        }
    }
    Ok(prices)
}

impl RawPrice {
    /// Where to point when a currency is at fault.
    pub(crate) fn span(&self) -> std::ops::Range<usize> {
        self.sku_id.span()
    }

    /// The SKUs it is for, as written.
    pub(crate) fn sku_id(&self) -> &str {
        self.sku_id.get_ref()
    }

    fn checked(&self, source: Source<'_>, unit_tokens: i64) -> Result<(SkuPattern, Points), FileError> {
        let pattern = SkuPattern::parse(self.sku_id.get_ref());
        let pattern = pattern.map_err(|problem| source.error(self.sku_id.span(), problem))?;
        if self.meter.get_ref() != pattern.meter.column() {
            let (class, column) = (pattern.meter.class(), pattern.meter.column());
            let problem = format!(
                "meter of a .../{class} SKU must be {column:?}, but is {:?}",
                self.meter.get_ref()
            );
            return Err(source.error(self.meter.span(), problem));
        }
        let model = self.model(source)?;
        let per_units = if pattern.meter.is_tokens() { unit_tokens } else { 1 };
        let mut points = Points::new();
        for (code, steps) in self.currency.get_ref() {
            let currency = code
                .parse::<Currency>()
                .map_err(|error| source.error(steps.span(), error.to_string()))?;
            let steps = checked_steps(source, model, steps)?;
            points.insert(
                currency,
                PricePoint {
                    model,
                    per_units,
                    steps,
                },
            );
        }
        if points.is_empty() {
            return Err(source.error(
                self.currency.span(),
                "currency is empty; give at least one, like currency.EUR",
            ));
        }
        Ok((pattern, points))
    }

    fn model(&self, source: Source<'_>) -> Result<Model, FileError> {
        let model = match self.model.get_ref().as_str() {
            "flat" => Model::Flat,
            "graduated" => Model::Graduated,
            "volume" => Model::Volume,
            "package" => {
                let Some(units) = &self.package_units else {
                    return Err(source.error(self.model.span(), "a package needs package_units, its size"));
                };
                if *units.get_ref() < 1 {
                    return Err(source.error(units.span(), "package_units must be at least 1"));
                }
                return Ok(Model::Package {
                    units: *units.get_ref(),
                });
            }
            other => {
                let problem = format!("model must be one of flat, graduated, volume, package, but is {other:?}");
                return Err(source.error(self.model.span(), problem));
            }
        };
        match &self.package_units {
            Some(units) => Err(source.error(units.span(), "package_units is only for model \"package\"; remove it")),
            None => Ok(model),
        }
    }
}

/// Steps in rising order, the last one open, their number right for `model`.
fn checked_steps(source: Source<'_>, model: Model, raw: &Spanned<Vec<RawStep>>) -> Result<Vec<Step>, FileError> {
    let one_only = matches!(model, Model::Flat | Model::Package { .. });
    let mut steps = Vec::new();
    let mut below = 0;
    for (index, step) in raw.get_ref().iter().enumerate() {
        let is_last = index + 1 == raw.get_ref().len();
        let price = step.price.get_ref().parse();
        let price = price.map_err(|error| source.error(step.price.span(), format!("price {error}")))?;
        let up_to = match &step.up_to {
            None if is_last => None,
            None => {
                return Err(source.error(
                    step.price.span(),
                    "only the last step may be without up_to; add it here",
                ));
            }
            Some(up_to) if is_last => {
                return Err(source.error(
                    up_to.span(),
                    "the last step must be without up_to, so that no quantity is unpriced",
                ));
            }
            Some(up_to) if *up_to.get_ref() <= below => {
                return Err(source.error(
                    up_to.span(),
                    format!("up_to must be above {below}, where the step begins"),
                ));
            }
            Some(up_to) => Some(*up_to.get_ref()),
        };
        below = up_to.unwrap_or(below);
        steps.push(Step { up_to, price });
    }
    match steps.len() {
        0 => Err(source.error(
            raw.span(),
            "the list of steps is empty; give at least { price = \"…\" }",
        )),
        1 => Ok(steps),
        _ if one_only => Err(source.error(
            raw.span(),
            "this model takes one step without up_to; use graduated or volume",
        )),
        _ => Ok(steps),
    }
}
