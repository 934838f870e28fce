//! The rated lines that quantities make.

use schemas::ids::TenantId;
use schemas::request::ServiceTier;

use super::ReportError;
use super::sums::{Charge, Group, Groups, Meters, Part};
use crate::contract::{Contract, Contracts};
use crate::money::{Currency, MONEY_SCALE, Money, MoneyError};
use crate::price_book::{PriceBook, PriceVersion};
use crate::rate::rate;
use crate::sku::{Meter, Sku};

/// One SKU of one tenant in one period at one price: a line of an invoice, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Who is billed.
    pub tenant: TenantId,
    /// Month, like `2026-10`.
    pub period: String,
    /// Of all amounts.
    pub currency: Currency,
    /// What was used.
    pub sku: Sku,
    /// Which part of the line this is, if it is not the whole. The parts add up to the line exactly, in
    /// every amount; those of a price with steps share its amount by quantity.
    pub part: Part,
    /// How much, in the unit of the meter.
    pub quantity: i64,
    /// Version of the price book.
    pub price_version: String,
    /// Version of the contract; none at list.
    pub contract_version: Option<String>,
    /// Whether the price was negotiated.
    pub negotiated: bool,
    /// At list price, exact.
    pub list: Money,
    /// At the price that holds for the tenant, exact.
    pub contracted: Money,
    /// `contracted`, rounded once to the minor unit.
    pub billed: Money,
}

/// A group that names a price or a contract that was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrated {
    /// Whose rows.
    pub tenant: TenantId,
    /// Their month.
    pub period: String,
    /// What they name.
    pub what: String,
}

/// The billable groups, rated as far as their terms are known.
#[derive(Debug, Default)]
pub(crate) struct Rated {
    pub(crate) lines: Vec<Line>,
    pub(crate) unrated: Vec<Unrated>,
}

/// Rates every billable group, once for all of its parts.
pub(crate) fn rated(groups: &Groups, book: &PriceBook, contracts: &Contracts) -> Result<Rated, ReportError> {
    let mut rated = Rated::default();
    let groups: Vec<_> = groups.iter().collect();
    for parts in groups.chunk_by(|(a, _), (b, _)| a.is_of_line(b)) {
        let group = parts[0].0;
        match Terms::of(group, book, contracts) {
            Ok(None) => {}
            Ok(Some(terms)) => terms.add_lines(parts, &mut rated.lines)?,
            Err(what) => rated.unrated.push(Unrated {
                tenant: group.tenant.clone(),
                period: group.period.clone(),
                what,
            }),
        }
    }
    let key = |line: &Line| {
        (
            line.tenant.clone(),
            line.period.clone(),
            line.currency,
            line.sku.clone(),
            line.price_version.clone(),
            line.part.clone(),
        )
    };
    rated.lines.sort_by_cached_key(key);
    Ok(rated)
}

/// What a billable group is rated with.
struct Terms<'a> {
    version: &'a PriceVersion,
    contract: Option<&'a Contract>,
    currency: Currency,
    model_id: &'a str,
    tier: ServiceTier,
}

impl<'a> Terms<'a> {
    /// None if the group is free of charge; what was not given if it cannot be rated.
    fn of(group: &'a Group, book: &'a PriceBook, contracts: &'a Contracts) -> Result<Option<Self>, String> {
        let Charge::Billable {
            currency,
            model_id,
            tier,
            price_book,
            price_version,
            contract_version,
        } = &group.charge
        else {
            return Ok(None);
        };
        let version = book.version(price_version).filter(|_| *price_book == book.id);
        let version = version.ok_or_else(|| format!("version {price_version} of price book {price_book}"))?;
        let contract = contract_version.as_ref().map(|name| {
            let contract = contracts.version(group.tenant.as_str(), name);
            contract.ok_or_else(|| format!("contract version {name} of {}", group.tenant))
        });
        let priced = currency
            .parse()
            .ok()
            .filter(|currency| version.currencies.contains(currency));
        let currency = priced.ok_or_else(|| format!("prices in {currency} in price version {price_version}"))?;
        Ok(Some(Terms {
            version,
            contract: contract.transpose()?,
            currency,
            model_id,
            tier: *tier,
        }))
    }

    /// The lines of all meters, a line each part.
    fn add_lines(&self, parts: &[(&Group, &Meters)], lines: &mut Vec<Line>) -> Result<(), ReportError> {
        let group = parts[0].0;
        let money = |source| ReportError::Money {
            tenant: group.tenant.to_string(),
            period: group.period.clone(),
            source,
        };
        let mut whole = Meters::default();
        for (_, meters) in parts {
            whole = whole.plus(**meters).map_err(|column| ReportError::Quantity {
                tenant: group.tenant.to_string(),
                period: group.period.clone(),
                column,
            })?;
        }
        for meter in Meter::ALL {
            if let Some(line) = self.line(group, meter, whole.get(meter)).map_err(money)? {
                let quantities: Vec<i64> = parts.iter().map(|(_, meters)| meters.get(meter)).collect();
                let shared = Shared::of(&line, &quantities).map_err(money)?;
                let of_parts = parts.iter().zip(quantities).zip(shared.0);
                lines.extend(of_parts.filter(|((_, quantity), _)| *quantity != 0).map(
                    |(((part, _), quantity), [list, contracted, billed])| Line {
                        part: part.part.clone(),
                        quantity,
                        list,
                        contracted,
                        billed,
                        ..line.clone()
                    },
                ));
            }
        }
        Ok(())
    }

    /// None for requests where they are free.
    fn line(&self, group: &Group, meter: Meter, quantity: i64) -> Result<Option<Line>, MoneyError> {
        let sku = Sku {
            model_id: self.model_id.to_owned(),
            tier: self.tier,
            meter,
        };
        let negotiated = self.contract.and_then(|contract| contract.negotiated(&sku));
        let list = self.version.list(&sku, self.currency);
        let Some(contracted) = negotiated.or(list) else {
            return Ok(None);
        };
        let amount = rate(contracted, quantity)?;
        Ok(Some(Line {
            tenant: group.tenant.clone(),
            period: group.period.clone(),
            currency: self.currency,
            sku,
            part: Part::default(),
            quantity,
            price_version: self.version.version.clone(),
            contract_version: self.contract.map(|contract| contract.version.clone()),
            negotiated: negotiated.is_some(),
            list: rate(list.unwrap_or(contracted), quantity)?,
            contracted: amount,
            billed: amount.rounded(self.currency)?,
        }))
    }
}

/// The amounts of a line's parts: list, contracted and billed.
struct Shared(Vec<[Money; 3]>);

impl Shared {
    /// Shares each amount of `line` by quantity, so that the parts add up to it: list and contracted to the
    /// last of 18 decimals, billed in whole minor units.
    fn of(line: &Line, quantities: &[i64]) -> Result<Self, MoneyError> {
        let minor = 10_i128.pow(MONEY_SCALE.saturating_sub(line.currency.minor_digits()));
        let list = share(line.list, quantities, 1)?;
        let contracted = share(line.contracted, quantities, 1)?;
        let billed = share(line.billed, quantities, minor)?;
        let amounts = list.into_iter().zip(contracted).zip(billed);
        Ok(Shared(
            amounts
                .map(|((list, contracted), billed)| [list, contracted, billed])
                .collect(),
        ))
    }
}

/// `amount` by `quantities`, each share a multiple of `step` parts: the share of the first n together is
/// what their quantity earns, rounded down, so that nothing is lost or made. Nothing is shared where the
/// quantities cancel out, for then nothing was charged.
fn share(amount: Money, quantities: &[i64], step: i128) -> Result<Vec<Money>, MoneyError> {
    let whole: i128 = quantities.iter().map(|quantity| i128::from(*quantity)).sum();
    if whole == 0 {
        return Ok(vec![Money::ZERO; quantities.len()]);
    }
    let steps = amount.parts() / step;
    let (each, rest) = (steps.div_euclid(whole), steps.rem_euclid(whole));
    let (mut quantity, mut before) = (0, 0);
    let mut earned = |more: &i64| {
        quantity += i128::from(*more);
        // rest < |whole| < 2⁷⁰ and |quantity| < 2⁷⁰; tokens of real parts are far below.
        let product = each.checked_mul(quantity).zip(rest.checked_mul(quantity));
        let up_to = product.and_then(|(whole_steps, rest)| whole_steps.checked_add(rest.div_euclid(whole)));
        let parts = up_to.and_then(|up_to| (up_to - std::mem::replace(&mut before, up_to)).checked_mul(step));
        Money::from_parts(parts.unwrap_or(i128::MAX))
    };
    quantities.iter().map(&mut earned).collect()
}
