//! `bitnet report invoice`: the invoices of a closed month, and the events behind a line.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use billing::invoice::{Invoice, InvoiceLine, csv};
use billing::period::Period;
use billing::sku::Sku;
use clap::{Args, ValueEnum};
use schemas::ids::TenantId;
use uuid::Uuid;

use crate::cli::partial::Partial;
use crate::cli::{Exit, Failure};
use crate::close::Periods;
use crate::settings::Settings;
use crate::store::Store;

/// `bitnet report invoice`.
#[derive(Debug, Args)]
pub struct InvoiceReport {
    /// The closed month, e.g. 2026-10
    #[arg(long, value_name = "YYYY-MM")]
    month: Period,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<TenantId>,
    /// JSON, or CSV with NetSuite's and QuickBooks's columns
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// The events behind this line instead, as CSV: the line's external id
    #[arg(long, value_name = "LINE")]
    events: Option<Uuid>,
    /// Where it goes; standard output by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Csv,
}

impl InvoiceReport {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let periods = Periods::new(Store::open(&settings.store.uri)?);
        let mut invoices = periods.invoices(self.month).await?;
        invoices.retain(|invoice| self.tenant.as_ref().is_none_or(|tenant| *tenant == invoice.tenant_id));
        let Some(line) = self.events else {
            return self.put(|out| self.write(&invoices, out)).await;
        };
        let wanted = Wanted::of(&invoices, line)?;
        let rated = periods.rated(self.month).await?;
        self.put(move |out| {
            writeln!(out, "event_id,event_kind,quantity,list,contracted")?;
            let columns = wanted.columns();
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            for batch in rated.rows(&columns) {
                let batch = batch.map_err(|error| Failure::new(Exit::Outage, error))?;
                wanted.write(&batch, out)?;
            }
            Ok(())
        })
        .await
    }

    /// Writes to the output on a thread that may block.
    async fn put(&self, write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
        tokio::task::block_in_place(|| {
            let Some(path) = &self.output else {
                let mut out = BufWriter::new(io::stdout().lock());
                write(&mut out)?;
                return Ok(out.flush()?);
            };
            let (partial, file) = Partial::create(path)?;
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()?;
            partial.finish()
        })
    }

    fn write(&self, invoices: &[Invoice], out: &mut dyn Write) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                serde_json::to_writer_pretty(&mut *out, invoices)
                    .map_err(|error| Failure::new(Exit::Internal, error))?;
                writeln!(out)?;
            }
            Format::Csv => csv::write(invoices, out).map_err(|error| Failure::new(Exit::Internal, error))?,
        }
        Ok(())
    }
}

/// Which rated rows stand behind a line.
struct Wanted {
    tenant: String,
    currency: String,
    usage_period: String,
    sku: Sku,
}

impl Wanted {
    fn of(invoices: &[Invoice], line: Uuid) -> Result<Wanted, Failure> {
        let is_wanted = |(_, one): &(&Invoice, &InvoiceLine)| one.external_id == line;
        let lines = invoices
            .iter()
            .flat_map(|invoice| invoice.lines.iter().map(move |line| (invoice, line)));
        let found = lines.into_iter().find(is_wanted);
        let usage = |what: String| Failure::new(Exit::Usage, what).help("`bitnet report invoice` names the lines");
        let (invoice, line) = found.ok_or_else(|| usage(format!("no invoice of the month has a line {line}")))?;
        let sku = line.sku.clone();
        Ok(Wanted {
            tenant: invoice.tenant_id.to_string(),
            currency: invoice.currency.code().to_owned(),
            usage_period: line.charge_period.to_string(),
            sku: sku.ok_or_else(|| {
                usage(format!(
                    "line {} charges no usage: {}",
                    line.external_id, line.description
                ))
            })?,
        })
    }

    fn columns(&self) -> Vec<String> {
        let class = self.sku.meter.class();
        let names = [
            "event_id",
            "event_kind",
            "usage_period",
            "tenant_id",
            "model_id",
            "service_tier",
            "billable",
            "currency",
            self.sku.meter.column(),
        ];
        let amounts = [format!("list_{class}"), format!("contracted_{class}")];
        names.into_iter().map(str::to_owned).chain(amounts).collect()
    }

    fn write(&self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Failure> {
        let missing =
            || Failure::new(Exit::BadInput, "a file of rated rows lacks a column").help("run `bitnet billing verify`");
        let text = |name: &str| {
            batch
                .column_by_name(name)
                .and_then(|array| array.as_string_opt::<i32>())
                .ok_or_else(missing)
        };
        let (ids, kinds) = (text("event_id")?, text("event_kind")?);
        let filters = [
            (text("tenant_id")?, self.tenant.as_str()),
            (text("currency")?, self.currency.as_str()),
            (text("usage_period")?, self.usage_period.as_str()),
            (text("model_id")?, self.sku.model_id.as_str()),
            (text("service_tier")?, self.sku.tier.as_str()),
        ];
        let class = self.sku.meter.class();
        let quantity = batch.column_by_name(self.sku.meter.column()).ok_or_else(missing)?;
        let quantity = quantity.as_primitive_opt::<Int64Type>().ok_or_else(missing)?;
        let billable = batch
            .column_by_name("billable")
            .and_then(|array| array.as_boolean_opt())
            .ok_or_else(missing)?;
        let amount = |name: String| {
            let column = batch.column_by_name(&name).ok_or_else(missing)?;
            column
                .as_primitive_opt::<arrow::datatypes::Decimal128Type>()
                .ok_or_else(missing)
        };
        let (list, contracted) = (amount(format!("list_{class}"))?, amount(format!("contracted_{class}"))?);
        for row in 0..batch.num_rows() {
            let is_of_line = filters.iter().all(|(column, value)| column.value(row) == *value);
            if is_of_line && billable.value(row) && quantity.value(row) != 0 {
                let (id, kind, quantity) = (ids.value(row), kinds.value(row), quantity.value(row));
                let (list, contracted) = (list.value_as_string(row), contracted.value_as_string(row));
                writeln!(out, "{id},{kind},{quantity},{list},{contracted}")?;
            }
        }
        Ok(())
    }
}
