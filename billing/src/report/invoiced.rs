//! What invoices of closed months bill of each month's use, so that a report calls billed what they do.

use std::collections::BTreeMap;
use std::iter::{self, Peekable};

use schemas::ids::TenantId;
use serde::{Deserialize, Serialize};

use super::ReportError;
use super::lines::Line;
use super::usage::Filter;
use crate::invoice::{Invoice, RatedPart};
use crate::money::{Currency, Money, MoneyError};
use crate::period::Period;
use crate::sku::Sku;
use crate::sorted::{RUN_BYTES, SortError, Sorted, Sorter, take_if};

/// What an invoice rounds together: one SKU of one tenant in one month of use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Rounded {
    pub(crate) tenant: TenantId,
    pub(crate) period: Period,
    pub(crate) currency: Currency,
    pub(crate) sku: Sku,
}

/// What was billed of it, by however many invoices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Bill {
    /// Exact.
    pub(crate) contracted: Money,
    /// Σ of the rounded lines.
    pub(crate) amount: Money,
    /// Price by price.
    pub(crate) at: Vec<Sold>,
}

/// What was billed at one price.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Sold {
    pub(crate) price_version: String,
    pub(crate) contract_version: Option<String>,
    pub(crate) quantity: i64,
    /// How much of it each region has; empty where the report does not tell regions apart.
    pub(crate) regions: BTreeMap<String, i64>,
    pub(crate) list: Money,
    pub(crate) contracted: Money,
}

/// What one line of the invoices of a month bills.
type Billed = (Rounded, Period, Bill);

/// Takes invoices of closed months.
pub struct Invoices(Sorter<Billed>);

/// The bills of closed months.
#[derive(Debug, Default)]
pub struct Invoiced(Sorted<Billed>);

impl Default for Invoices {
    fn default() -> Self {
        Invoices(Sorter::new(RUN_BYTES))
    }
}

impl Invoices {
    /// Adds the lines of `invoice` that `filter` is about.
    ///
    /// # Errors
    /// When there is no room to sort them.
    pub fn add(&mut self, invoice: &Invoice, filter: &Filter) -> Result<(), SortError> {
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
            let bill = Bill {
                contracted: line.contracted,
                amount: line.amount,
                at: line.rated.iter().map(|part| Sold::of(part, filter.by.region)).collect(),
            };
            self.0.push((rounded, invoice.period, bill))?;
        }
        Ok(())
    }

    /// What all of them bill.
    pub fn finish(self) -> Invoiced {
        Invoiced(Sorted::of([self.0]))
    }
}

impl Invoiced {
    /// What all invoices together bill of each, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<(Rounded, Bill), ReportError>> + '_ {
        let mut lines = self.0.iter().peekable();
        iter::from_fn(move || next_bill(&mut lines).transpose())
    }
}

fn next_bill(
    lines: &mut Peekable<impl Iterator<Item = Result<Billed, SortError>>>,
) -> Result<Option<(Rounded, Bill)>, ReportError> {
    let Some((rounded, _, mut bill)) = lines.next().transpose()? else {
        return Ok(None);
    };
    while let Some((.., more)) = take_if(lines, |(next, ..)| *next == rounded)? {
        bill.add(more).map_err(|source| ReportError::Money {
            tenant: rounded.tenant.to_string(),
            period: rounded.period.to_string(),
            source,
        })?;
    }
    Ok(Some((rounded, bill)))
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

    /// Whether the line is of it.
    pub(crate) fn takes(&self, line: &Line) -> bool {
        (&self.tenant, self.currency, &self.sku) == (&line.tenant, line.currency, &line.sku)
            && self.period.to_string() == line.period
    }
}

impl Sold {
    fn of(part: &RatedPart, by_region: bool) -> Self {
        Sold {
            price_version: part.price_version.clone(),
            contract_version: part.contract_version.clone(),
            quantity: part.quantity,
            regions: if by_region {
                part.regions.clone()
            } else {
                BTreeMap::new()
            },
            list: part.list,
            contracted: part.contracted,
        }
    }
}

impl Bill {
    fn add(&mut self, more: Bill) -> Result<(), MoneyError> {
        self.contracted = self.contracted.plus(more.contracted)?;
        self.amount = self.amount.plus(more.amount)?;
        more.at.into_iter().try_for_each(|sold| self.sell(sold))
    }

    fn sell(&mut self, more: Sold) -> Result<(), MoneyError> {
        let is_at = |sold: &&mut Sold| {
            sold.price_version == more.price_version && sold.contract_version == more.contract_version
        };
        let Some(sold) = self.at.iter_mut().find(is_at) else {
            self.at.push(more);
            return Ok(());
        };
        for (region, quantity) in more.regions {
            let sum = sold.regions.entry(region).or_default();
            *sum = sum.saturating_add(quantity);
        }
        sold.quantity = sold.quantity.saturating_add(more.quantity);
        sold.list = sold.list.plus(more.list)?;
        sold.contracted = sold.contracted.plus(more.contracted)?;
        Ok(())
    }

    /// What all invoices together bill once `contracted` is billed: these, and one more line for the rest.
    pub(crate) fn once_all(&self, contracted: Money, currency: Currency) -> Result<Money, MoneyError> {
        let rest = contracted.minus(self.contracted)?;
        self.amount.plus(rest.rounded(currency)?)
    }
}
