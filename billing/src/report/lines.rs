//! Quantities added up by what they are charged for, and the rated lines they make.

use std::collections::BTreeMap;

use schemas::billing::BillingRow;
use schemas::ids::TenantId;
use schemas::request::ServiceTier;

use super::ReportError;
use crate::contract::{Contract, Contracts};
use crate::money::{Currency, Money, MoneyError};
use crate::price_book::{PriceBook, PriceVersion};
use crate::rate::rate;
use crate::sku::{Meter, Sku};

/// How much of each meter, in the order of [`Meter::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meters(pub [i64; 4]);

impl Meters {
    pub(crate) fn of(row: &BillingRow) -> Self {
        Meters([
            row.input_uncached_tokens,
            row.input_cached_tokens,
            row.output_tokens,
            row.requests,
        ])
    }

    /// The quantity of one meter.
    pub fn get(&self, meter: Meter) -> i64 {
        self.0[meter as usize]
    }

    /// Both together; the column that overflows otherwise.
    pub(crate) fn plus(self, other: Meters) -> Result<Self, &'static str> {
        let mut sum = self;
        for meter in Meter::ALL {
            let place = &mut sum.0[meter as usize];
            *place = place.checked_add(other.get(meter)).ok_or(meter.column())?;
        }
        Ok(sum)
    }
}

/// Why a row's quantity is charged as it is, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Charge {
    /// At these versions.
    Billable {
        currency: String,
        model_id: String,
        tier: ServiceTier,
        price_book: String,
        price_version: String,
        contract_version: Option<String>,
    },
    /// Not charged, for this reason. What the request asked for does not matter then; it may be anything.
    Free { reason: String },
}

/// Rows of one tenant and period that are charged alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Group {
    pub(crate) tenant: TenantId,
    pub(crate) period: String,
    pub(crate) charge: Charge,
}

impl Group {
    pub(crate) fn of(row: &BillingRow) -> Self {
        let charge = if row.billable {
            Charge::Billable {
                currency: row.billing_currency.clone(),
                model_id: row.model_id.clone(),
                tier: row.service_tier,
                price_book: row.price_book_id.clone(),
                price_version: row.price_version.clone(),
                contract_version: row.contract_version.clone(),
            }
        } else {
            Charge::Free {
                reason: row
                    .nonbillable_reason
                    .clone()
                    .unwrap_or_else(|| "no_reason_given".to_owned()),
            }
        };
        Group {
            tenant: row.tenant_id.clone(),
            period: row.usage_period.clone(),
            charge,
        }
    }
}

/// What all rows of each group add up to.
pub(crate) type Groups = BTreeMap<Group, Meters>;

/// Adds to a group.
pub(crate) fn add(groups: &mut Groups, group: &Group, meters: Meters) -> Result<(), ReportError> {
    let overflow = |column| ReportError::Quantity {
        tenant: group.tenant.to_string(),
        period: group.period.clone(),
        column,
    };
    match groups.get_mut(group) {
        Some(sum) => *sum = sum.plus(meters).map_err(overflow)?,
        None => {
            groups.insert(group.clone(), meters);
        }
    }
    Ok(())
}

/// One SKU of one tenant in one period at one price: a line of an invoice.
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

/// Rates every billable group.
pub(crate) fn rated(groups: &Groups, book: &PriceBook, contracts: &Contracts) -> Result<Rated, ReportError> {
    let mut rated = Rated::default();
    for (group, meters) in groups {
        let terms = match Terms::of(group, book, contracts) {
            Ok(Some(terms)) => terms,
            Ok(None) => continue,
            Err(what) => {
                rated.unrated.push(Unrated {
                    tenant: group.tenant.clone(),
                    period: group.period.clone(),
                    what,
                });
                continue;
            }
        };
        for meter in Meter::ALL.into_iter().filter(|meter| meters.get(*meter) != 0) {
            let line = terms
                .line(group, meter, meters.get(meter))
                .map_err(|source| ReportError::Money {
                    tenant: group.tenant.to_string(),
                    period: group.period.clone(),
                    source,
                })?;
            rated.lines.extend(line);
        }
    }
    let key = |line: &Line| {
        (
            line.tenant.clone(),
            line.period.clone(),
            line.currency,
            line.sku.clone(),
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
            let contract = contracts.version(&group.tenant, name);
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
