//! A line as what each step of its list price and of its contracted price sold in each region.

use std::collections::BTreeMap;

use schemas::ids::TenantId;

use super::regions::Regions;
use crate::contract::Contracts;
use crate::money::{Currency, Money, MoneyError};
use crate::price_book::PriceBook;
use crate::rate::{Model, Portion, PricePoint, portions};
use crate::sku::{Meter, Sku};

/// Tokens that a price is stated for.
const UNIT_TOKENS: i128 = 1_000_000;

/// What was sold at one list price and one contracted price, in one region if that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) region: Option<String>,
    /// In the unit of the meter.
    pub(super) consumed: i64,
    /// In `pricing_unit`.
    pub(super) pricing_quantity: Money,
    pub(super) pricing_unit: String,
    pub(super) list_unit_price: Money,
    pub(super) contracted_unit_price: Money,
    pub(super) list_cost: Money,
    pub(super) contracted_cost: Money,
    /// Which step of the list price, from 1.
    pub(super) step: usize,
}

/// What a line sold at one version of its prices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sold<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) sku: &'a Sku,
    pub(super) currency: Currency,
    pub(super) price_version: &'a str,
    pub(super) contract_version: Option<&'a str>,
    pub(super) quantity: i64,
    /// How much of it is known to be of which region.
    pub(super) regions: &'a BTreeMap<String, i64>,
    pub(super) list: Money,
    pub(super) contracted: Money,
}

/// The charges of a line; they add up to it.
pub(super) fn charges(line: &Sold<'_>, book: &PriceBook, contracts: &Contracts) -> Result<Vec<Charge>, MoneyError> {
    let version = book.version(line.price_version);
    let list = version.and_then(|version| version.list(line.sku, line.currency));
    let contract = line
        .contract_version
        .and_then(|name| contracts.version(line.tenant.as_str(), name));
    let negotiated = contract.and_then(|contract| contract.negotiated(line.sku));
    let Some(contracted) = negotiated.or(list) else {
        return Ok(vec![whole(line)?]);
    };
    let list = list.unwrap_or(contracted);
    match (list.model, contracted.model) {
        (Model::Package { units: a }, Model::Package { units: b }) if a == b => packages(line, list, contracted, a),
        (Model::Package { .. }, _) | (_, Model::Package { .. }) => Ok(vec![whole(line)?]),
        _ => steps(line, list, contracted),
    }
}

/// Cut wherever one of the two prices changes, and dealt out to the regions.
fn steps(line: &Sold<'_>, list: &PricePoint, contracted: &PricePoint) -> Result<Vec<Charge>, MoneyError> {
    let (list, contracted) = (portions(list, line.quantity)?, portions(contracted, line.quantity)?);
    let (mut of_list, mut of_contract) = (list.iter().copied().peekable(), contracted.iter().copied().peekable());
    let mut regions = Regions::of(line)?;
    let mut charges = Vec::new();
    let (mut from_list, mut from_contract) = (0_i64, 0_i64);
    while let (Some(a), Some(b)) = (of_list.peek().copied(), of_contract.peek().copied()) {
        let (left_a, left_b) = (a.quantity - from_list, b.quantity - from_contract);
        let quantity = if left_a.unsigned_abs() <= left_b.unsigned_abs() {
            left_a
        } else {
            left_b
        };
        for (region, units) in regions.deal(quantity)? {
            charges.push(charge(line, region, (&a, &b), units)?);
        }
        (from_list, from_contract) = (from_list + quantity, from_contract + quantity);
        if from_list == a.quantity {
            of_list.next();
            from_list = 0;
        }
        if from_contract == b.quantity {
            of_contract.next();
            from_contract = 0;
        }
    }
    Ok(charges)
}

fn charge(
    line: &Sold<'_>,
    region: Option<String>,
    (list, contracted): (&Portion, &Portion),
    quantity: i64,
) -> Result<Charge, MoneyError> {
    let unit = if line.sku.meter.is_tokens() { UNIT_TOKENS } else { 1 };
    let (list_unit_price, contracted_unit_price) = (unit_price(list, unit)?, unit_price(contracted, unit)?);
    Ok(Charge {
        region,
        consumed: quantity,
        pricing_quantity: Money::from_parts(i128::from(quantity) * (10_i128.pow(18) / unit))?,
        pricing_unit: pricing_unit(line.sku.meter, unit),
        list_unit_price,
        contracted_unit_price,
        list_cost: product(list_unit_price, quantity, unit)?,
        contracted_cost: product(contracted_unit_price, quantity, unit)?,
        step: list.step + 1,
    })
}

/// The price of `unit` units.
fn unit_price(portion: &Portion, unit: i128) -> Result<Money, MoneyError> {
    // 12 decimals to 18; per_units divides the unit.
    let parts = portion
        .price
        .parts()
        .checked_mul(1_000_000 * (unit / i128::from(portion.per_units)));
    Money::from_parts(parts.unwrap_or(i128::MAX))
}

/// `price × quantity ÷ unit`; exact, because the price is a multiple of `unit` parts.
fn product(price: Money, quantity: i64, unit: i128) -> Result<Money, MoneyError> {
    Money::from_parts((price.parts() / unit).checked_mul(quantity.into()).unwrap_or(i128::MAX))
}

/// Whole packages of the same size in both prices; several regions may have filled one together.
fn packages(line: &Sold<'_>, list: &PricePoint, contracted: &PricePoint, size: i64) -> Result<Vec<Charge>, MoneyError> {
    let (list, contracted) = (portions(list, line.quantity)?, portions(contracted, line.quantity)?);
    let region = Regions::of(line)?.only();
    let of_both = list.iter().zip(&contracted).map(|(list, contracted)| {
        let (list_unit_price, contracted_unit_price) = (unit_price(list, 1)?, unit_price(contracted, 1)?);
        Ok(Charge {
            region: region.clone(),
            consumed: line.quantity,
            pricing_quantity: Money::from_parts(i128::from(list.quantity) * 10_i128.pow(18))?,
            pricing_unit: pricing_unit(line.sku.meter, size.into()),
            list_unit_price,
            contracted_unit_price,
            list_cost: list.amount,
            contracted_cost: contracted.amount,
            step: list.step + 1,
        })
    });
    of_both.collect()
}

/// Prices in units that do not go into one another: the line is one thing sold once.
fn whole(line: &Sold<'_>) -> Result<Charge, MoneyError> {
    let one = Money::from_parts(10_i128.pow(18)).unwrap_or_default();
    let (sign, list, contracted) = match line.contracted < Money::ZERO {
        true => (one.negated(), line.list.negated(), line.contracted.negated()),
        false => (one, line.list, line.contracted),
    };
    Ok(Charge {
        region: Regions::of(line)?.only(),
        consumed: line.quantity,
        pricing_quantity: sign,
        pricing_unit: "Months".to_owned(),
        list_unit_price: list,
        contracted_unit_price: contracted,
        list_cost: line.list,
        contracted_cost: line.contracted,
        step: 1,
    })
}

fn pricing_unit(meter: Meter, units: i128) -> String {
    match (meter.is_tokens(), units) {
        (true, units) => format!("{units} Tokens"),
        (false, 1) => "Requests".to_owned(),
        (false, units) => format!("{units} Requests"),
    }
}
