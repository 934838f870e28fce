//! What each tenant used in each month, and what that costs.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::TenantId;
use schemas::view::EventView;

use super::invoiced::Invoiced;
use super::ledger::{self, IDS_MAX, Ledger, Quarantine};
use super::lines::{Line, Rated, Unrated, rated};
use super::sums::{By, Charge, Meters};
use super::{ReportError, Table};
use crate::contract::Contracts;
use crate::money::{Currency, Money};
use crate::period::Period;
use crate::price_book::PriceBook;
use crate::sku::Meter;

/// Which rows a report is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// This tenant only.
    pub tenant: Option<TenantId>,
    /// This month only, like `2026-10`.
    pub period: Option<String>,
    /// By what else to tell usage apart.
    pub by: By,
}

impl Filter {
    fn takes(&self, row: &EventView<'_>) -> bool {
        self.tenant
            .as_ref()
            .is_none_or(|tenant| tenant.as_str() == row.tenant_id)
            && self.period.as_ref().is_none_or(|period| *period == row.usage_period)
    }

    pub(crate) fn is_about(&self, tenant: &TenantId, period: Period) -> bool {
        self.tenant.as_ref().is_none_or(|asked| asked == tenant)
            && self.period.as_ref().is_none_or(|asked| *asked == period.to_string())
    }
}

/// One tenant, month and currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// Who is billed.
    pub tenant: TenantId,
    /// Month, like `2026-10`.
    pub period: String,
    /// Of all amounts; none where nothing was charged.
    pub currency: Option<Currency>,
    /// What was charged.
    pub charged: Meters,
    /// Requests that were not charged, by reason.
    pub free_requests: BTreeMap<String, i64>,
    /// At list price, exact.
    pub list: Money,
    /// At the tenant's prices, exact.
    pub contracted: Money,
    /// What invoices bill of it: the sum of the lines.
    pub billed: Money,
}

/// Which files made the amounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Id of the price book.
    pub price_book: String,
    /// Each of its versions with the SHA-256 of its file.
    pub versions: Vec<(String, String)>,
    /// SHA-256 of the contracts file.
    pub contracts: String,
}

/// The usage report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageReport {
    /// What was charged, line by line, in order of tenant, month, currency and SKU.
    pub lines: Vec<Line>,
    /// What that adds up to, in the same order.
    pub totals: Vec<Total>,
    /// Tenants with charges under no contract.
    pub at_list: BTreeSet<TenantId>,
    /// Tenants whose contracts have a monthly minimum or prepaid credit, which are settled on the invoice
    /// and not here.
    pub settled_later: BTreeSet<TenantId>,
    /// Events in the totals.
    pub events: u64,
    /// Further rows of those events with the same payload, not counted again.
    pub repeated: u64,
    /// Rows in no total.
    pub quarantine: Quarantine,
    /// By what else the lines are told apart.
    pub by: By,
    /// What the amounts were made with.
    pub sources: Sources,
}

/// Makes the report from `billing_events`; `invoiced` has what closed months billed of what `filter` takes.
pub fn usage(
    events: &dyn Table,
    book: &PriceBook,
    contracts: &Contracts,
    invoiced: &Invoiced,
    filter: &Filter,
) -> Result<UsageReport, ReportError> {
    let ledger = ledger::read(events, IDS_MAX, filter.by, &|row| filter.takes(row))?;
    from_ledger(ledger, filter.by, book, contracts, invoiced)
}

pub(crate) fn from_ledger(
    ledger: Ledger,
    by: By,
    book: &PriceBook,
    contracts: &Contracts,
    invoiced: &Invoiced,
) -> Result<UsageReport, ReportError> {
    let Rated { lines, mut unrated } = rated(&ledger.groups, book, contracts, invoiced)?;
    if let Some(Unrated { tenant, period, what }) = unrated.pop() {
        return Err(ReportError::Terms {
            tenant: tenant.to_string(),
            period,
            what,
        });
    }
    let has_later = |line: &&Line| {
        let contract = line
            .contract_version
            .as_ref()
            .and_then(|name| contracts.version(line.tenant.as_str(), name));
        contract.is_some_and(|contract| contract.minimum_per_month.is_some() || !contract.credits.is_empty())
    };
    Ok(UsageReport {
        totals: totals(&ledger, &lines)?,
        at_list: at_list(&lines),
        settled_later: lines.iter().filter(has_later).map(|line| line.tenant.clone()).collect(),
        lines,
        events: ledger.events,
        repeated: ledger.repeated,
        quarantine: ledger.quarantine,
        by,
        sources: Sources::of(book, contracts),
    })
}

/// Tenants charged under no contract.
pub(crate) fn at_list(lines: &[Line]) -> BTreeSet<TenantId> {
    lines
        .iter()
        .filter(|line| line.contract_version.is_none())
        .map(|line| line.tenant.clone())
        .collect()
}

impl Sources {
    pub(crate) fn of(book: &PriceBook, contracts: &Contracts) -> Self {
        Sources {
            price_book: book.id.clone(),
            versions: book
                .versions()
                .iter()
                .map(|v| (v.version.clone(), v.sha256.clone()))
                .collect(),
            contracts: contracts.sha256.clone(),
        }
    }
}

fn totals(ledger: &Ledger, lines: &[Line]) -> Result<Vec<Total>, ReportError> {
    let mut totals: BTreeMap<(TenantId, String, Option<Currency>), Total> = BTreeMap::new();
    let mut free: BTreeMap<(TenantId, String), BTreeMap<String, i64>> = BTreeMap::new();
    for (group, meters) in &ledger.groups {
        let (tenant, period) = (group.tenant.clone(), group.period.clone());
        match &group.charge {
            Charge::Billable { currency, .. } => {
                let currency = currency.parse().ok();
                let total = totals.entry((tenant.clone(), period.clone(), currency));
                let total = total.or_insert_with(|| Total::new(tenant.clone(), period.clone(), currency));
                let charged = total.charged.plus(*meters);
                total.charged = charged.map_err(|column| ReportError::Quantity {
                    tenant: tenant.to_string(),
                    period: period.clone(),
                    column,
                })?;
            }
            Charge::Free { reason } => {
                let free = free.entry((tenant, period)).or_default();
                *free.entry(reason.clone()).or_default() += meters.get(Meter::Requests);
            }
        }
    }
    for line in lines {
        let key = (line.tenant.clone(), line.period.clone(), Some(line.currency));
        let total = totals
            .entry(key)
            .or_insert_with_key(|(tenant, period, currency)| Total::new(tenant.clone(), period.clone(), *currency));
        total.add(line)?;
    }
    for ((tenant, period), requests) in free {
        // With several currencies in one month, the first carries the requests that cost nothing.
        let charged = totals
            .values_mut()
            .find(|total| total.tenant == tenant && total.period == period);
        match charged {
            Some(total) => total.free_requests = requests,
            None => {
                let total = Total {
                    free_requests: requests,
                    ..Total::new(tenant.clone(), period.clone(), None)
                };
                totals.insert((tenant, period, None), total);
            }
        }
    }
    Ok(totals.into_values().collect())
}

impl Total {
    fn new(tenant: TenantId, period: String, currency: Option<Currency>) -> Self {
        Total {
            tenant,
            period,
            currency,
            charged: Meters::default(),
            free_requests: BTreeMap::new(),
            list: Money::ZERO,
            contracted: Money::ZERO,
            billed: Money::ZERO,
        }
    }

    fn add(&mut self, line: &Line) -> Result<(), ReportError> {
        for (sum, amount) in [
            (&mut self.list, line.list),
            (&mut self.contracted, line.contracted),
            (&mut self.billed, line.billed),
        ] {
            *sum = sum.plus(amount).map_err(|source| ReportError::Money {
                tenant: line.tenant.to_string(),
                period: line.period.clone(),
                source,
            })?;
        }
        Ok(())
    }
}
