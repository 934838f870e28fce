//! Rating: what a quantity costs. One pure function, for the row written now and for every report.

use crate::money::{Money, MoneyError, OUT_OF_RANGE, UnitPrice};

/// How the steps of a price apply to a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Model {
    /// One price for every unit.
    Flat,
    /// Each unit at the price of the step it falls into.
    Graduated,
    /// Every unit at the price of the step that the whole quantity falls into.
    Volume,
    /// One price per started package of this many units.
    Package {
        /// Units in a package, at least 1.
        units: i64,
    },
}

/// One step of a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Step {
    /// Last unit of the step, counted from the first unit of the period; none in the last step.
    pub up_to: Option<i64>,
    /// Price of `per_units` units, or of a package.
    pub price: UnitPrice,
}

/// A price in one currency. Made by the price book's reader, which has checked what is said here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PricePoint {
    /// How the steps apply.
    pub model: Model,
    /// How many units a step's price buys: a divisor of 1,000,000. Packages have their own size.
    pub per_units: i64,
    /// In rising order of `up_to`, the last one open; exactly one for [`Model::Flat`] and [`Model::Package`].
    pub steps: Vec<Step>,
}

/// What was bought at one step of a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// Place of the step in [`PricePoint::steps`].
    pub step: usize,
    /// How much: units, or whole packages. Negative where something is taken back.
    pub quantity: i64,
    /// Price of `per_units` of them.
    pub price: UnitPrice,
    /// What the price buys: a divisor of 1,000,000; 1 for packages.
    pub per_units: i64,
    /// `quantity × price ÷ per_units`, exact.
    pub amount: Money,
}

/// What `quantity` units of one SKU cost in one period, exact and not rounded.
///
/// Odd in the quantity: `rate(-q) = -rate(q)`, so a reversal takes back what was charged.
///
/// # Errors
/// When the amount is out of the range of [`Money`].
pub fn rate(point: &PricePoint, quantity: i64) -> Result<Money, MoneyError> {
    Money::sum(portions(point, quantity)?.iter().map(|portion| portion.amount))
}

/// What `units` more cost when `before` others are charged already: `rate(before + units) - rate(before)`.
///
/// # Errors
/// When a quantity or an amount is out of range.
pub fn rate_more(point: &PricePoint, before: i64, units: i64) -> Result<Money, MoneyError> {
    let after = before.checked_add(units).ok_or(OUT_OF_RANGE)?;
    rate(point, after)?.minus(rate(point, before)?)
}

/// [`rate`], step by step; steps of which nothing is bought are left out.
///
/// # Errors
/// When an amount is out of the range of [`Money`].
pub fn portions(point: &PricePoint, quantity: i64) -> Result<Vec<Portion>, MoneyError> {
    let quantities = bought(point, quantity);
    let nonzero = quantities.into_iter().filter(|(_, quantity)| *quantity != 0);
    nonzero.map(|(step, quantity)| portion(point, step, quantity)).collect()
}

/// [`rate_more`], step by step: what each step has more, or less, after the `units`.
///
/// # Errors
/// When a quantity or an amount is out of range.
pub fn portions_more(point: &PricePoint, before: i64, units: i64) -> Result<Vec<Portion>, MoneyError> {
    let after = before.checked_add(units).ok_or(OUT_OF_RANGE)?;
    let mut change = vec![0_i128; point.steps.len()];
    for (step, quantity) in bought(point, after) {
        change[step] += i128::from(quantity);
    }
    for (step, quantity) in bought(point, before) {
        change[step] -= i128::from(quantity);
    }
    let nonzero = change.into_iter().enumerate().filter(|(_, quantity)| *quantity != 0);
    nonzero
        .map(|(step, quantity)| portion(point, step, i64::try_from(quantity).map_err(|_| OUT_OF_RANGE)?))
        .collect()
}

fn portion(point: &PricePoint, step: usize, quantity: i64) -> Result<Portion, MoneyError> {
    let price = point.steps[step].price;
    let per_units = match point.model {
        Model::Package { .. } => 1,
        _ => point.per_units,
    };
    Ok(Portion {
        step,
        quantity,
        price,
        per_units,
        amount: cost(quantity, price, per_units)?,
    })
}

/// How much is bought at which step.
fn bought(point: &PricePoint, quantity: i64) -> Vec<(usize, i64)> {
    match point.model {
        Model::Flat | Model::Volume => vec![(step_of(point, quantity), quantity)],
        Model::Package { units: size } => {
            let packages = quantity / size + (quantity % size).signum();
            vec![(step_of(point, quantity), packages)]
        }
        Model::Graduated => graduated(point, quantity),
    }
}

/// The step that a whole quantity falls into.
fn step_of(point: &PricePoint, quantity: i64) -> usize {
    let takes = |step: &Step| {
        step.up_to
            .is_none_or(|up_to| quantity.unsigned_abs() <= up_to.unsigned_abs())
    };
    let last = point
        .steps
        .len()
        .checked_sub(1)
        .expect("a price point has at least one step");
    point.steps.iter().position(takes).unwrap_or(last)
}

fn graduated(point: &PricePoint, quantity: i64) -> Vec<(usize, i64)> {
    let bound = |up_to: i64| {
        if quantity < 0 {
            quantity.max(-up_to)
        } else {
            quantity.min(up_to)
        }
    };
    let mut bought = Vec::with_capacity(point.steps.len());
    let mut from = 0;
    for (step, Step { up_to, .. }) in point.steps.iter().enumerate() {
        let to = up_to.map_or(quantity, bound);
        bought.push((step, to - from));
        from = to;
    }
    bought
}

/// `quantity × price ÷ per_units`, exact: a price has 12 decimals, an amount 18, and `per_units` divides 10⁶.
fn cost(quantity: i64, price: UnitPrice, per_units: i64) -> Result<Money, MoneyError> {
    const SHIFT: i128 = 1_000_000;
    let factor = SHIFT / i128::from(per_units);
    let parts = i128::from(quantity)
        .checked_mul(price.parts())
        .and_then(|parts| parts.checked_mul(factor));
    Money::from_parts(parts.ok_or(OUT_OF_RANGE)?)
}
