//! Rating: what a quantity costs. One pure function, for the row written now and for every report.

use crate::money::{Money, MoneyError, UnitPrice};

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

/// What `quantity` units of one SKU cost in one period, exact and not rounded.
///
/// Odd in the quantity: `rate(-q) = -rate(q)`, so a reversal takes back what was charged. Units that come
/// after `before` others cost `rate(before + units) - rate(before)`.
///
/// # Errors
/// When the amount is out of the range of [`Money`].
pub fn rate(point: &PricePoint, quantity: i64) -> Result<Money, MoneyError> {
    let units = i128::from(quantity).abs();
    let amount = match point.model {
        Model::Flat | Model::Volume => cost(units, step_of(point, units), point.per_units),
        Model::Graduated => graduated(point, units),
        Model::Package { units: size } => {
            let size = i128::from(size);
            let packages = units / size + i128::from(units % size > 0);
            cost(packages, step_of(point, units), 1)
        }
    }?;
    Ok(if quantity < 0 { amount.negated() } else { amount })
}

/// The step that a whole quantity falls into.
fn step_of(point: &PricePoint, units: i128) -> UnitPrice {
    let last = point.steps.last().expect("a price point has at least one step");
    point
        .steps
        .iter()
        .find(|step| step.up_to.is_none_or(|up_to| units <= i128::from(up_to)))
        .unwrap_or(last)
        .price
}

fn graduated(point: &PricePoint, units: i128) -> Result<Money, MoneyError> {
    let mut amount = Money::ZERO;
    let mut from = 0;
    for step in &point.steps {
        let to = step.up_to.map_or(units, |up_to| units.min(i128::from(up_to)));
        if to <= from {
            break;
        }
        amount = amount.plus(cost(to - from, step.price, point.per_units)?)?;
        from = to;
    }
    Ok(amount)
}

/// `units × price ÷ per_units`, exact: a price has 12 decimals, an amount 18, and `per_units` divides 10⁶.
fn cost(units: i128, price: UnitPrice, per_units: i64) -> Result<Money, MoneyError> {
    const SHIFT: i128 = 1_000_000;
    let factor = SHIFT / i128::from(per_units);
    let parts = units
        .checked_mul(price.parts())
        .and_then(|parts| parts.checked_mul(factor));
    Money::from_parts(parts.unwrap_or(i128::MAX))
}
