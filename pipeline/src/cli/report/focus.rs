//! `bitnet report focus`: files of the FinOps Open Cost and Usage Specification.

use billing::report::focus::{FocusVersion, Issuer, billing_periods, cost_and_usage, invoice_details};
use billing::report::render;
use billing::report::usage::Filter;
use clap::{Args, ValueEnum};
use schemas::ids::TenantId;

use super::output::{RowFormat, Target};
use super::usage::{month, usage_report};
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
    #[arg(long, value_name = "YYYY-MM", value_parser = month)]
    month: Option<String>,
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
        let prices = Prices::load(&settings.billing)?;
        let issuer = self.issuer(settings).await?;
        let filter = Filter {
            tenant: self.tenant.clone(),
            period: self.month.clone(),
            ..Filter::default()
        };
        let report = usage_report(settings, filter).await?;
        let sheet = match self.dataset {
            Dataset::InvoiceDetail => invoice_details(&issuer),
            Dataset::BillingPeriod => billing_periods(&report, &issuer),
            Dataset::CostAndUsage => {
                let version = match self.spec {
                    Version::V1_2 => FocusVersion::V1_2,
                    Version::V1_4 => FocusVersion::V1_4,
                };
                cost_and_usage(&report, version, &issuer, &prices.book, &prices.contracts)?
            }
        };
        self.target.rows(sheet, self.format, &render::notes(&report))
    }

    /// The invoices that the command line asks for.
    async fn issuer(&self, settings: &Settings) -> Result<Issuer, Failure> {
        let periods = Periods::new(Store::open(&settings.store.uri)?);
        let mut issuer = Issuer {
            name: self.issuer.clone(),
            closed: Default::default(),
        };
        for period in periods.closed().await?.into_keys() {
            if self.month.as_ref().is_none_or(|month| *month == period.to_string()) {
                let mut invoices = periods.invoices(period).await?;
                invoices.retain(|invoice| self.tenant.as_ref().is_none_or(|tenant| *tenant == invoice.tenant_id));
                issuer.closed.insert(period, invoices);
            }
        }
        Ok(issuer)
    }
}
