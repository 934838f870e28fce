//! The rows of open months: what the ledger has and no invoice bills yet.
//!
//! Use of an open month is billed in that month; what came late to a closed month, or corrects it, in the
//! first open one. Each is rounded as the invoice will round it.

use std::collections::BTreeMap;
use std::iter::{self, Peekable};

use schemas::ids::TenantId;

use super::charge::{Sold, charges};
use super::each;
use super::rows::{Row, RowKind, adjustment, corrections, money, usage};
use crate::contract::Contracts;
use crate::money::{Currency, Money, MoneyError};
use crate::period::Period;
use crate::price_book::PriceBook;
use crate::report::invoiced::{Bill, Invoiced, Rounded, Sold as Billed};
use crate::report::usage::UsageReport;
use crate::report::{Line, ReportError};
use crate::sorted::{front, take_if};

/// A ledger that is not all invoiced.
#[derive(Debug, Clone, Copy)]
pub struct Unbilled<'a> {
    /// What it has, by region; rows of a report that tells none have none.
    pub report: &'a UsageReport<'a>,
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

/// Not billed yet of what invoices round together, price by price.
type Rests = (Rounded, BTreeMap<Price, Rest>);

/// What rounding adds, by whom, the month that bills it, and currency.
type Rounding = BTreeMap<(TenantId, Period, Currency), Money>;

impl<'a> Unbilled<'a> {
    /// Every row, in the order of the report's lines, and behind them what rounding adds.
    pub(super) fn rows(
        self,
        book: &'a PriceBook,
        contracts: &'a Contracts,
    ) -> impl Iterator<Item = Result<Row, ReportError>> + 'a {
        let mut rests = self.rests();
        let mut rounding = Rounding::new();
        let some = iter::from_fn(move || match rests.next() {
            Some(rest) => Some(rest.and_then(|rest| self.of(&rest, book, contracts, &mut rounding))),
            None => {
                let rounding = std::mem::take(&mut rounding);
                (!rounding.is_empty()).then(|| Ok(adjustments(rounding)))
            }
        });
        some.flat_map(each)
    }

    /// The rows of what invoices round together.
    fn of(
        &self,
        (rounded, rests): &Rests,
        book: &PriceBook,
        contracts: &Contracts,
        rounding: &mut Rounding,
    ) -> Result<Vec<Row>, ReportError> {
        let billed_in = self.billed_in(rounded.period);
        if self.month.is_some_and(|month| month != billed_in) {
            return Ok(Vec::new());
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
        let sum = rounding
            .entry((rounded.tenant.clone(), billed_in, rounded.currency))
            .or_default();
        let added = Money::sum(rests.values().map(|rest| rest.contracted))
            .and_then(|exact| exact.rounded(rounded.currency)?.minus(exact));
        *sum = added.and_then(|added| sum.plus(added)).map_err(failed)?;
        let row = |kind| Row {
            tenant: rounded.tenant.clone(),
            currency: rounded.currency,
            billed_in,
            charged_for: rounded.period,
            invoice: None,
            kind,
        };
        Ok(kinds.into_iter().flatten().map(row).collect())
    }

    /// By what invoices round together, price by price. Lines and bills are in the same order.
    fn rests(self) -> impl Iterator<Item = Result<Rests, ReportError>> + 'a {
        let lines = self.report.lines().map(|line| {
            let line = line?;
            let rounded = Rounded::of(&line).ok_or_else(|| ReportError::Period {
                tenant: line.tenant.to_string(),
                period: line.period.clone(),
            })?;
            Ok((rounded, line))
        });
        let (mut lines, mut bills) = (lines.peekable(), self.invoiced.iter().peekable());
        iter::from_fn(move || next_rests(&mut lines, &mut bills).transpose())
    }

    fn billed_in(&self, period: Period) -> Period {
        match self.closed_through {
            Some(closed) if period <= closed => closed.next(),
            _ => period,
        }
    }
}

/// What comes next of both, price by price.
fn next_rests(
    lines: &mut Peekable<impl Iterator<Item = Result<(Rounded, Line), ReportError>>>,
    bills: &mut Peekable<impl Iterator<Item = Result<(Rounded, Bill), ReportError>>>,
) -> Result<Option<Rests>, ReportError> {
    let of_line = front(lines)?.map(|(rounded, _)| rounded);
    let of_bill = front(bills)?.map(|(rounded, _)| rounded);
    let Some(rounded) = of_line.into_iter().chain(of_bill).min().cloned() else {
        return Ok(None);
    };
    let mut rests: BTreeMap<Price, Rest> = BTreeMap::new();
    while let Some((_, line)) = take_if(lines, |(next, _)| *next == rounded)? {
        let price = (line.price_version.clone(), line.contract_version.clone());
        let added = rests.entry(price).or_default().add(&line);
        added.map_err(|source| money(&rounded.tenant, rounded.period, source))?;
    }
    while let Some((_, bill)) = take_if(bills, |(next, _)| *next == rounded)? {
        for sold in &bill.at {
            let price = (sold.price_version.clone(), sold.contract_version.clone());
            let subtracted = rests.entry(price).or_default().subtract(sold);
            subtracted.map_err(|source| money(&rounded.tenant, rounded.period, source))?;
        }
    }
    Ok(Some((rounded, rests)))
}

fn adjustments(rounding: Rounding) -> Vec<Row> {
    let changed = rounding.into_iter().filter(|(_, amount)| *amount != Money::ZERO);
    let row = |((tenant, billed_in, currency), amount)| Row {
        tenant,
        currency,
        billed_in,
        charged_for: billed_in,
        invoice: None,
        kind: adjustment(amount),
    };
    changed.map(row).collect()
}

impl Rest {
    fn subtract(&mut self, sold: &Billed) -> Result<(), MoneyError> {
        self.billed = sold.quantity;
        self.quantity = self.quantity.saturating_sub(sold.quantity);
        for (region, quantity) in &sold.regions {
            let left = self.regions.entry(region.clone()).or_default();
            *left = left.saturating_sub(*quantity);
        }
        self.list = self.list.minus(sold.list)?;
        self.contracted = self.contracted.minus(sold.contracted)?;
        Ok(())
    }

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
