//! `bitnet report focus`: files of the FinOps Open Cost and Usage Specification.

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::period::Period;
use billing::report::focus::{
    FocusVersion, Issuer, Numbers, Unbilled, billing_periods, cost_and_usage, invoice_details,
};
use billing::report::usage::Filter;
use billing::report::{By, render};
use clap::{Args, ValueEnum};
use schemas::ids::TenantId;

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
        let mut issuer = Issuer {
            name: self.issuer.clone(),
            closed: BTreeMap::new(),
        };
        // What corrects an invoice of another month names it.
        let mut numbers = Numbers::default();
        let wanted = |period: &&Period| self.asks_for(**period) || self.dataset == Dataset::InvoiceDetail;
        for period in closed.iter().filter(wanted) {
            let mut invoices = periods.invoices(*period).await?;
            invoices.retain(|invoice| self.tenant.as_ref().is_none_or(|tenant| *tenant == invoice.tenant_id));
            invoices.iter().for_each(|invoice| numbers.add(invoice));
            if self.asks_for(*period) {
                issuer.closed.insert(*period, invoices);
            }
        }
        match self.dataset {
            Dataset::InvoiceDetail => self.target.rows(invoice_details(&issuer, &numbers), self.format, &[]),
            Dataset::BillingPeriod => {
                let pinned = Pinned::open(settings).await?;
                let open = pinned
                    .months()
                    .filter(|period| !closed.contains(period) && self.asks_for(*period));
                self.target.rows(billing_periods(open, &issuer), self.format, &[])
            }
            Dataset::CostAndUsage => {
                self.cost_and_usage(settings, &periods, &issuer, closed.last().copied())
                    .await
            }
        }
    }

    async fn cost_and_usage(
        &self,
        settings: &Settings,
        periods: &Periods,
        issuer: &Issuer,
        closed_through: Option<Period>,
    ) -> Result<(), Failure> {
        let prices = Prices::load(&settings.billing)?;
        let version = match self.spec {
            Version::V1_2 => FocusVersion::V1_2,
            Version::V1_4 => FocusVersion::V1_4,
        };
        if self.month.is_some() && self.month <= closed_through {
            // Closed: its invoices say it all.
            let sheet = cost_and_usage(issuer, None, version, &prices.book, &prices.contracts)?;
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
        let invoiced = Arc::new(periods.invoiced(&filter).await?);
        let report = usage_report(settings, filter, invoiced.clone()).await?;
        let unbilled = Unbilled {
            report: &report,
            invoiced: &invoiced,
            closed_through,
            month: self.month,
        };
        let sheet = cost_and_usage(issuer, Some(&unbilled), version, &prices.book, &prices.contracts)?;
        self.target.rows(sheet, self.format, &render::notes(&report))
    }

    fn asks_for(&self, period: Period) -> bool {
        self.month.is_none_or(|month| month == period)
    }
}
