//! `bitnet report focus`: files of the FinOps Open Cost and Usage Specification.

use std::collections::BTreeMap;

use billing::period::Period;
use billing::report::focus::{
    FocusVersion, Issuer, Numbers, ReadInvoices, Unbilled, billing_periods, cost_and_usage, invoice_details,
};
use billing::report::usage::Filter;
use billing::report::{By, render};
use clap::{Args, ValueEnum};
use schemas::ids::TenantId;
use tokio::runtime::Handle;
use tokio::task;

use super::output::{RowFormat, Target};
use super::pinned::Pinned;
use super::usage::usage_report;
use crate::cli::Failure;
use crate::close::Periods;
use crate::prices::Prices;
use crate::settings::Settings;
use crate::store::Store;

/// `bitnet report focus`.
#[derive(Debug, Args)]
pub struct Focus {
    /// Version of the specification
    #[arg(long, value_enum, default_value_t = Version::V1_2)]
    spec: Version,
    /// Which dataset; only 1.4 has those beside cost-and-usage
    #[arg(long, value_enum, default_value_t = Dataset::CostAndUsage)]
    dataset: Dataset,
    /// Only this month (UTC), e.g. 2026-11
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Period>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Who issues the invoices
    #[arg(long, value_name = "NAME", default_value = "bitnet")]
    issuer: String,
    /// Which file
    #[arg(long, value_enum, default_value_t = RowFormat::Csv)]
    format: RowFormat,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Version {
    /// Checked by focus-validator
    #[value(name = "1.2")]
    V1_2,
    /// With host and service provider
    #[value(name = "1.4")]
    V1_4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dataset {
    /// What was charged, step by step of each price
    CostAndUsage,
    /// What each line of each invoice charges
    InvoiceDetail,
    /// Which months are closed
    BillingPeriod,
}

impl Focus {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let periods = Periods::new(Store::open(&settings.store.uri)?);
        let closed: Vec<Period> = periods.closed().await?.into_keys().collect();
        let asked: Vec<Period> = closed.iter().copied().filter(|period| self.asks_for(*period)).collect();
        match self.dataset {
            Dataset::InvoiceDetail => {
                // What corrects an invoice of another month names it.
                let mut numbers = Numbers::default();
                for period in &closed {
                    periods
                        .invoices(*period)
                        .await?
                        .iter()
                        .for_each(|invoice| numbers.add(invoice));
                }
                let issuer = self.issuer(&periods, &asked);
                self.target.rows(invoice_details(&issuer, &numbers), self.format, &[])
            }
            Dataset::BillingPeriod => {
                let pinned = Pinned::open(settings).await?;
                let open = pinned
                    .months()
                    .filter(|period| !closed.contains(period) && self.asks_for(*period));
                let mut closed_at = BTreeMap::new();
                for period in &asked {
                    closed_at.insert(*period, periods.locked_at(*period).await?);
                }
                let sheet = billing_periods(open, &closed_at, &self.issuer);
                self.target.rows(sheet, self.format, &[])
            }
            Dataset::CostAndUsage => {
                let issuer = self.issuer(&periods, &asked);
                self.cost_and_usage(settings, &periods, &issuer, closed.last().copied())
                    .await
            }
        }
    }

    async fn cost_and_usage(
        &self,
        settings: &Settings,
        periods: &Periods,
        issuer: &Issuer<'_>,
        closed_through: Option<Period>,
    ) -> Result<(), Failure> {
        let prices = Prices::load(&settings.billing)?;
        let version = match self.spec {
            Version::V1_2 => FocusVersion::V1_2,
            Version::V1_4 => FocusVersion::V1_4,
        };
        if self.month.is_some() && self.month <= closed_through {
            // Closed: its invoices say it all.
            let sheet = cost_and_usage(issuer, None, version, &prices.book, &prices.contracts);
            return self.target.rows(sheet, self.format, &[]);
        }
        // The first open month bills what came late to closed ones, too.
        let later = |month: &Period| closed_through.is_some_and(|closed| *month > closed.next());
        let filter = Filter {
            tenant: self.tenant.clone(),
            period: self.month.filter(later).map(|month| month.to_string()),
            by: By {
                region: true,
                ..By::default()
            },
        };
        let invoiced = periods.invoiced(&filter).await?;
        let report = usage_report(settings, &filter, &prices, &invoiced).await?;
        let unbilled = Unbilled {
            report: &report,
            invoiced: &invoiced,
            closed_through,
            month: self.month,
        };
        let sheet = cost_and_usage(issuer, Some(unbilled), version, &prices.book, &prices.contracts);
        self.target.rows(sheet, self.format, &render::notes(&report))
    }

    /// Reads the invoices of some closed months, one month after the other, from a thread of the runtime.
    fn issuer<'a>(&'a self, periods: &'a Periods, closed: &[Period]) -> Issuer<'a> {
        let runtime = Handle::current();
        let closed = closed.iter().map(|period| {
            let (period, runtime) = (*period, runtime.clone());
            let read: ReadInvoices<'a> = Box::new(move || {
                let mut invoices = task::block_in_place(|| runtime.block_on(periods.invoices(period)))?;
                invoices.retain(|invoice| self.tenant.as_ref().is_none_or(|tenant| *tenant == invoice.tenant_id));
                Ok(invoices)
            });
            (period, read)
        });
        Issuer {
            name: self.issuer.clone(),
            closed: closed.collect(),
        }
    }

    fn asks_for(&self, period: Period) -> bool {
        self.month.is_none_or(|month| month == period)
    }
}
