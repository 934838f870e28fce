//! What invoices of closed months bill of each month's use, so that a report calls billed what they do.

use std::collections::BTreeMap;

use schemas::ids::TenantId;

use super::lines::Line;
use super::usage::Filter;
use crate::invoice::{Invoice, RatedPart};
use crate::money::{Currency, Money, MoneyError};
use crate::period::Period;
use crate::sku::Sku;

/// What an invoice rounds together: one SKU of one tenant in one month of use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rounded {
    pub(crate) tenant: TenantId,
    pub(crate) period: Period,
    pub(crate) currency: Currency,
    pub(crate) sku: Sku,
}

/// What was billed of it, by however many invoices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bill {
    /// Exact.
    pub(crate) contracted: Money,
    /// Σ of the rounded lines.
    pub(crate) amount: Money,
    /// Price by price.
    pub(crate) at: Vec<Sold>,
}

/// What was billed at one price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sold {
    pub(crate) price_version: String,
    pub(crate) contract_version: Option<String>,
    pub(crate) quantity: i64,
    /// How much of it each region has; empty where the report does not tell regions apart.
    pub(crate) regions: BTreeMap<String, i64>,
    pub(crate) list: Money,
    pub(crate) contracted: Money,
}

/// The bills of closed months.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invoiced(BTreeMap<Rounded, Bill>);

impl Invoiced {
    /// Adds the lines of `invoice` that `filter` is about.
    ///
    /// # Errors
    /// When a sum is out of range.
    pub fn add(&mut self, invoice: &Invoice, filter: &Filter) -> Result<(), MoneyError> {
        for line in &invoice.lines {
            let Some(sku) = line
                .sku
                .as_ref()
                .filter(|_| filter.is_about(&invoice.tenant_id, line.charge_period))
            else {
                continue;
            };
            let rounded = Rounded {
                tenant: invoice.tenant_id.clone(),
                period: line.charge_period,
                currency: invoice.currency,
                sku: sku.clone(),
            };
            let bill = self.0.entry(rounded).or_default();
            bill.contracted = bill.contracted.plus(line.contracted)?;
            bill.amount = bill.amount.plus(line.amount)?;
            for part in &line.rated {
                bill.sell(part, filter.by.region)?;
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, rounded: &Rounded) -> Option<&Bill> {
        self.0.get(rounded)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Rounded, &Bill)> {
        self.0.iter()
    }
}

impl Rounded {
    /// Where a line of a report belongs; none if its month is none.
    pub(crate) fn of(line: &Line) -> Option<Self> {
        Some(Rounded {
            tenant: line.tenant.clone(),
            period: line.period.parse().ok()?,
            currency: line.currency,
            sku: line.sku.clone(),
        })
    }
}

impl Bill {
    fn sell(&mut self, part: &RatedPart, by_region: bool) -> Result<(), MoneyError> {
        let is_at =
            |sold: &Sold| sold.price_version == part.price_version && sold.contract_version == part.contract_version;
        let known = self.at.iter().position(is_at);
        let place = known.unwrap_or_else(|| {
            self.at.push(Sold {
                price_version: part.price_version.clone(),
                contract_version: part.contract_version.clone(),
                quantity: 0,
                regions: BTreeMap::new(),
                list: Money::ZERO,
                contracted: Money::ZERO,
            });
            self.at.len() - 1
        });
        let sold = &mut self.at[place];
        if by_region {
            for (region, quantity) in &part.regions {
                let sum = sold.regions.entry(region.clone()).or_default();
                *sum = sum.saturating_add(*quantity);
            }
        }
        sold.quantity = sold.quantity.saturating_add(part.quantity);
        sold.list = sold.list.plus(part.list)?;
        sold.contracted = sold.contracted.plus(part.contracted)?;
        Ok(())
    }

    /// What all invoices together bill once `contracted` is billed: these, and one more line for the rest.
    pub(crate) fn once_all(&self, contracted: Money, currency: Currency) -> Result<Money, MoneyError> {
        let rest = contracted.minus(self.contracted)?;
        self.amount.plus(rest.rounded(currency)?)
    }
}
