//! What each tenant used in each month, and what that costs.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::TenantId;
use schemas::view::EventView;

use super::invoiced::Invoiced;
use super::ledger::{self, Ledger, Quarantine};
use super::lines::{Line, Rated, Rating, Unrated};
use super::sums::{By, Charge, Group, Groups, Meters};
use super::{ReportError, Table};
use crate::contract::Contracts;
use crate::money::{Currency, Money};
use crate::period::Period;
use crate::price_book::PriceBook;
use crate::sku::Meter;
use crate::sorted::RUN_BYTES;

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

/// The usage report. Its lines are made as they are read ([`UsageReport::lines`]), however many there are.
#[derive(Debug)]
pub struct UsageReport<'a> {
    groups: Groups,
    rating: Rating<'a>,
    /// How many lines it has.
    pub line_count: usize,
    /// What they add up to, in order of tenant, month and currency.
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
pub fn usage<'a>(
    events: &dyn Table,
    book: &'a PriceBook,
    contracts: &'a Contracts,
    invoiced: &'a Invoiced,
    filter: &Filter,
) -> Result<UsageReport<'a>, ReportError> {
    let ledger = ledger::read(events, RUN_BYTES, filter.by, &|row| filter.takes(row))?;
    let rating = Rating {
        book,
        contracts,
        invoiced,
    };
    UsageReport::new(ledger, filter.by, rating)
}

impl<'a> UsageReport<'a> {
    pub(crate) fn new(ledger: Ledger, by: By, rating: Rating<'a>) -> Result<Self, ReportError> {
        let report = UsageReport {
            groups: ledger.groups,
            rating,
            line_count: 0,
            totals: Vec::new(),
            at_list: BTreeSet::new(),
            settled_later: BTreeSet::new(),
            events: ledger.events,
            repeated: ledger.repeated,
            quarantine: ledger.quarantine,
            by,
            sources: Sources::of(rating.book, rating.contracts),
        };
        let mut totals = Totals::default();
        for group in report.groups.iter() {
            let (group, meters) = group?;
            totals.count(&group, meters)?;
        }
        let (mut line_count, mut at_list, mut settled_later) = (0, BTreeSet::new(), BTreeSet::new());
        for line in report.lines() {
            let line = line?;
            totals.add(&line)?;
            line_count += 1;
            note(&mut at_list, &line.tenant, line.contract_version.is_none());
            let contract = line.contract_version.as_ref();
            let contract = contract.and_then(|name| rating.contracts.version(line.tenant.as_str(), name));
            let has_later =
                contract.is_some_and(|contract| contract.minimum_per_month.is_some() || !contract.credits.is_empty());
            note(&mut settled_later, &line.tenant, has_later);
        }
        Ok(UsageReport {
            line_count,
            totals: totals.finish(),
            at_list,
            settled_later,
            ..report
        })
    }

    /// What was charged, line by line, in order of tenant, month, currency and SKU.
    pub fn lines(&self) -> impl Iterator<Item = Result<Line, ReportError>> + '_ {
        self.rating.rated(&self.groups).map(|rated| match rated? {
            Rated::Line(line) => Ok(line),
            Rated::Unrated(Unrated { tenant, period, what }) => Err(ReportError::Terms {
                tenant: tenant.to_string(),
                period,
                what,
            }),
        })
    }
}

/// Adds the tenant, if it `is` one to be noted.
pub(crate) fn note(tenants: &mut BTreeSet<TenantId>, tenant: &TenantId, is: bool) {
    if is && !tenants.contains(tenant) {
        tenants.insert(tenant.clone());
    }
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

/// Totals while groups and lines are read.
#[derive(Default)]
struct Totals {
    charged: BTreeMap<(TenantId, String, Option<Currency>), Total>,
    free: BTreeMap<(TenantId, String), BTreeMap<String, i64>>,
}

impl Totals {
    fn of(&mut self, tenant: &TenantId, period: &str, currency: Option<Currency>) -> &mut Total {
        let key = (tenant.clone(), period.to_owned(), currency);
        let total = self.charged.entry(key);
        total.or_insert_with_key(|(tenant, period, currency)| Total::new(tenant.clone(), period.clone(), *currency))
    }

    fn count(&mut self, group: &Group, meters: Meters) -> Result<(), ReportError> {
        let Group { tenant, period, .. } = group;
        match &group.charge {
            Charge::Billable { currency, .. } => {
                let total = self.of(tenant, period, currency.parse().ok());
                let charged = total.charged.plus(meters);
                total.charged = charged.map_err(|column| ReportError::Quantity {
                    tenant: tenant.to_string(),
                    period: period.clone(),
                    column,
                })?;
            }
            Charge::Free { reason } => {
                let free = self.free.entry((tenant.clone(), period.clone())).or_default();
                let requests = free.entry(reason.clone()).or_default();
                *requests = requests.saturating_add(meters.get(Meter::Requests));
            }
        }
        Ok(())
    }

    fn add(&mut self, line: &Line) -> Result<(), ReportError> {
        self.of(&line.tenant, &line.period, Some(line.currency)).add(line)
    }

    fn finish(mut self) -> Vec<Total> {
        for ((tenant, period), requests) in self.free {
            // With several currencies in one month, the first carries the requests that cost nothing.
            let of_month = (tenant.clone(), period.clone(), None)..;
            let charged = self.charged.range_mut(of_month).next().map(|(_, total)| total);
            match charged.filter(|total| total.tenant == tenant && total.period == period) {
                Some(total) => total.free_requests = requests,
                None => {
                    let total = Total {
                        free_requests: requests,
                        ..Total::new(tenant.clone(), period.clone(), None)
                    };
                    self.charged.insert((tenant, period, None), total);
                }
            }
        }
        self.charged.into_values().collect()
    }
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
