//! The rows of open months: what the ledger has and no invoice bills yet.
//!
//! Use of an open month is billed in that month; what came late to a closed month, or corrects it, in the
//! first open one. Each is rounded as the invoice will round it.

use std::collections::BTreeMap;

use schemas::ids::TenantId;

use super::charge::{Sold, charges};
use super::rows::{Row, RowKind, adjustment, corrections, money, usage};
use crate::contract::Contracts;
use crate::money::{Currency, Money, MoneyError};
use crate::period::Period;
use crate::price_book::PriceBook;
use crate::report::invoiced::{Invoiced, Rounded};
use crate::report::usage::UsageReport;
use crate::report::{Line, ReportError};

/// A ledger that is not all invoiced.
#[derive(Debug, Clone, Copy)]
pub struct Unbilled<'a> {
    /// What it has, by region; rows of a report that tells none have none.
    pub report: &'a UsageReport,
    /// What closed months billed of that, of the same filter.
    pub invoiced: &'a Invoiced,
    /// The last closed month; none if no month is.
    pub closed_through: Option<Period>,
    /// This month only.
    pub month: Option<Period>,
}

/// At one price.
type Price = (String, Option<String>);

/// Not billed yet.
#[derive(Default)]
struct Rest {
    billed: i64,
    quantity: i64,
    regions: BTreeMap<String, i64>,
    list: Money,
    contracted: Money,
}

impl Unbilled<'_> {
    pub(super) fn rows(&self, book: &PriceBook, contracts: &Contracts, rows: &mut Vec<Row>) -> Result<(), ReportError> {
        let mut rounding: BTreeMap<(TenantId, Period, Currency), Money> = BTreeMap::new();
        for (rounded, rests) in self.rests()? {
            let billed_in = self.billed_in(rounded.period);
            if self.month.is_some_and(|month| month != billed_in) {
                continue;
            }
            let of_price = |((price_version, contract_version), rest): (&Price, &Rest)| {
                let sold = Sold {
                    tenant: &rounded.tenant,
                    sku: &rounded.sku,
                    currency: rounded.currency,
                    price_version,
                    contract_version: contract_version.as_deref(),
                    quantity: rest.quantity,
                    regions: &rest.regions,
                    list: rest.list,
                    contracted: rest.contracted,
                };
                if rest.billed != 0 || billed_in != rounded.period {
                    return corrections(&sold);
                }
                let charges = charges(&sold, book, contracts)?;
                Ok(charges.into_iter().map(|charge| usage(&sold, book, charge)).collect())
            };
            let failed = |source| money(&rounded.tenant, rounded.period, source);
            let kinds: Vec<Vec<RowKind>> = rests.iter().map(of_price).collect::<Result<_, _>>().map_err(failed)?;
            rows.extend(kinds.into_iter().flatten().map(|kind| Row {
                tenant: rounded.tenant.clone(),
                currency: rounded.currency,
                billed_in,
                charged_for: rounded.period,
                invoice: None,
                kind,
            }));
            let sum = rounding
                .entry((rounded.tenant.clone(), billed_in, rounded.currency))
                .or_default();
            let added = Money::sum(rests.values().map(|rest| rest.contracted))
                .and_then(|exact| exact.rounded(rounded.currency)?.minus(exact));
            *sum = added.and_then(|added| sum.plus(added)).map_err(failed)?;
        }
        let changed = rounding.into_iter().filter(|(_, amount)| *amount != Money::ZERO);
        rows.extend(changed.map(|((tenant, billed_in, currency), amount)| Row {
            tenant,
            currency,
            billed_in,
            charged_for: billed_in,
            invoice: None,
            kind: adjustment(amount),
        }));
        Ok(())
    }

    /// By what invoices round together, price by price.
    fn rests(&self) -> Result<BTreeMap<Rounded, BTreeMap<Price, Rest>>, ReportError> {
        let mut rests: BTreeMap<Rounded, BTreeMap<Price, Rest>> = BTreeMap::new();
        for line in &self.report.lines {
            let rounded = Rounded::of(line).ok_or_else(|| ReportError::Period {
                tenant: line.tenant.to_string(),
                period: line.period.clone(),
            })?;
            let price = (line.price_version.clone(), line.contract_version.clone());
            let rest = rests.entry(rounded).or_default().entry(price).or_default();
            rest.add(line).map_err(|source| ReportError::Money {
                tenant: line.tenant.to_string(),
                period: line.period.clone(),
                source,
            })?;
        }
        for (rounded, bill) in self.invoiced.iter() {
            for sold in &bill.at {
                let price = (sold.price_version.clone(), sold.contract_version.clone());
                let rest = rests.entry(rounded.clone()).or_default().entry(price).or_default();
                rest.billed = sold.quantity;
                rest.quantity = rest.quantity.saturating_sub(sold.quantity);
                for (region, quantity) in &sold.regions {
                    let left = rest.regions.entry(region.clone()).or_default();
                    *left = left.saturating_sub(*quantity);
                }
                let left = rest.list.minus(sold.list);
                let left = left.and_then(|list| Ok((list, rest.contracted.minus(sold.contracted)?)));
                let left = left.map_err(|source| money(&rounded.tenant, rounded.period, source))?;
                (rest.list, rest.contracted) = left;
            }
        }
        Ok(rests)
    }

    fn billed_in(&self, period: Period) -> Period {
        match self.closed_through {
            Some(closed) if period <= closed => closed.next(),
            _ => period,
        }
    }
}

impl Rest {
    fn add(&mut self, line: &Line) -> Result<(), MoneyError> {
        self.quantity = self.quantity.saturating_add(line.quantity);
        if let Some(region) = &line.part.region {
            let sum = self.regions.entry(region.clone()).or_default();
            *sum = sum.saturating_add(line.quantity);
        }
        self.list = self.list.plus(line.list)?;
        self.contracted = self.contracted.plus(line.contracted)?;
        Ok(())
    }
}
