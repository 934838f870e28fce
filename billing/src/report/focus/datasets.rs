//! The datasets that 1.4 has beside Cost and Usage: what each invoice line charges, and which months are
//! closed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemas::ids::TenantId;
use serde_json::json;

use super::columns::sku_of_terms;
use super::rows::ROUNDING;
use super::{Issuer, each, sheet};
use crate::invoice::{Invoice, InvoiceLine, LineKind};
use crate::money::{Currency, Money};
use crate::period::Period;
use crate::report::sheet::{Cell, Column, Kind, Sheet, column};

const INVOICE_DETAIL: [Column; 21] = [
    column("BilledCost", Kind::Exact),
    column("BillingAccountId", Kind::Text),
    column("BillingCurrency", Kind::Text),
    column("BillingPeriodEnd", Kind::Time),
    column("BillingPeriodStart", Kind::Time),
    column("ChargeCategory", Kind::Text),
    column("InvoiceDetailCreated", Kind::Time),
    column("InvoiceDetailDescription", Kind::Text),
    column("InvoiceDetailGrain", Kind::Text),
    column("InvoiceDetailId", Kind::Text),
    column("InvoiceDetailLastUpdated", Kind::Time),
    column("InvoiceId", Kind::Text),
    column("InvoiceIssueDate", Kind::Time),
    column("InvoiceIssueStatus", Kind::Text),
    column("InvoiceIssuerName", Kind::Text),
    column("PaymentDueDate", Kind::Time),
    column("PaymentTerms", Kind::Text),
    column("ReferenceInvoiceId", Kind::Text),
    column("x_ContractedCost", Kind::Exact),
    column("x_ListCost", Kind::Exact),
    column("x_Quantity", Kind::Number),
];

const BILLING_PERIOD: [Column; 6] = [
    column("BillingPeriodCreated", Kind::Time),
    column("BillingPeriodEnd", Kind::Time),
    column("BillingPeriodLastUpdated", Kind::Time),
    column("BillingPeriodStart", Kind::Time),
    column("BillingPeriodStatus", Kind::Text),
    column("InvoiceIssuerName", Kind::Text),
];

/// Numbers of invoices, by whom and for which month they bill.
#[derive(Debug, Clone, Default)]
pub struct Numbers(BTreeMap<(TenantId, Currency, Period), String>);

impl Numbers {
    /// Takes note of an invoice.
    pub fn add(&mut self, invoice: &Invoice) {
        let key = (invoice.tenant_id.clone(), invoice.currency, invoice.period);
        self.0.insert(key, invoice.number.clone());
    }

    /// The invoice that a line of `invoice` adjusts; `invoice` itself if no other one billed that month.
    fn adjusted<'a>(&'a self, invoice: &'a Invoice, line: &InvoiceLine) -> &'a str {
        let key = (invoice.tenant_id.clone(), invoice.currency, line.charge_period);
        self.0.get(&key).unwrap_or(&invoice.number)
    }
}

/// Invoice Detail: a row for each line of each invoice, as rounded there, and one for its tax. What Cost and
/// Usage has as rounding is in the lines, so that a row of zero stands for it.
pub fn invoice_details<'a>(issuer: &'a Issuer<'_>, numbers: &'a Numbers) -> Sheet<'a> {
    let rows = issuer.invoices().flat_map(move |invoice| {
        each(invoice.map(|invoice| {
            let lines = invoice.lines.iter();
            let lines = lines.map(|line| Detail::of(line, numbers.adjusted(&invoice, line)));
            let tax = (invoice.tax != Money::ZERO).then(|| Detail::tax(&invoice));
            let rounding = (invoice.adjustment != Money::ZERO).then(|| Detail::rounding(&invoice));
            let details = lines.chain(tax).chain(rounding);
            details.map(|detail| detail.cells(issuer, &invoice)).collect()
        }))
    });
    sheet("InvoiceDetail", &INVOICE_DETAIL, rows)
}

/// What one row says that others of its invoice do not.
struct Detail<'a> {
    category: &'static str,
    description: String,
    /// What tells it from the other lines.
    grain: Option<serde_json::Value>,
    id: String,
    amount: Money,
    /// Number of the invoice that it adjusts, or is on.
    reference: &'a str,
    /// Of a line.
    line: Option<&'a InvoiceLine>,
}

impl<'a> Detail<'a> {
    fn of(line: &'a InvoiceLine, reference: &'a str) -> Self {
        let credit = &line.credit_id;
        let (category, grain) = match (line.kind, &line.sku) {
            (LineKind::Usage | LineKind::Correction, Some(sku)) => {
                let (month, meter) = (line.charge_period.to_string(), sku.meter.column());
                let grain = json!({"SkuId": sku.to_string(), "SkuMeter": meter, "x_ChargePeriod": month});
                ("Usage", Some(grain))
            }
            (LineKind::Usage | LineKind::Correction, None) => ("Usage", None),
            (LineKind::Fee | LineKind::Minimum, _) => {
                ("Purchase", Some(json!({"SkuId": sku_of_terms(&line.description)})))
            }
            (LineKind::CreditPurchase, _) => {
                let sku = sku_of_terms(&line.description);
                ("Purchase", Some(json!({"SkuId": sku, "x_CreditId": credit})))
            }
            (LineKind::CreditDraw, _) => ("Credit", Some(json!({"x_CreditId": credit}))),
        };
        Detail {
            category,
            description: line.description.clone(),
            grain,
            id: line.external_id.to_string(),
            amount: line.amount,
            reference,
            line: Some(line),
        }
    }

    fn tax(invoice: &'a Invoice) -> Self {
        let (category, rate) = (&invoice.tax_category, &invoice.tax_rate);
        Detail {
            category: "Tax",
            description: "Tax".to_owned(),
            grain: Some(json!({"x_TaxCategory": category, "x_TaxRate": rate})),
            id: format!("{}/tax", invoice.external_id),
            amount: invoice.tax,
            reference: &invoice.number,
            line: None,
        }
    }

    fn rounding(invoice: &'a Invoice) -> Self {
        Detail {
            category: "Adjustment",
            description: ROUNDING.to_owned(),
            grain: None,
            id: format!("{}/rounding", invoice.external_id),
            amount: Money::ZERO,
            reference: &invoice.number,
            line: None,
        }
    }

    fn cells(self, issuer: &Issuer<'_>, invoice: &Invoice) -> Vec<Cell> {
        let days = invoice.due_at.duration_since(invoice.issued_at).as_hours() / 24;
        let exact = |amount: fn(&InvoiceLine) -> Money| {
            let line = self.line.map(amount);
            line.map_or(Cell::Empty, |amount| Cell::Exact(amount, Some(invoice.currency)))
        };
        vec![
            Cell::Exact(self.amount, Some(invoice.currency)),
            text(invoice.tenant_id.as_str()),
            text(invoice.currency.code()),
            Cell::Time(invoice.period.end()),
            Cell::Time(invoice.period.start()),
            text(self.category),
            Cell::Time(invoice.issued_at),
            text(&self.description),
            Cell::text(self.grain.as_ref().map(ToString::to_string)),
            text(&self.id),
            Cell::Time(invoice.issued_at),
            text(&invoice.number),
            Cell::Time(invoice.issued_at),
            text("Issued"),
            text(&issuer.name),
            Cell::Time(invoice.due_at),
            text(format!("Net {days}")),
            text(self.reference),
            exact(|line| line.contracted),
            exact(|line| line.list),
            self.line.map_or(Cell::Empty, |line| Cell::Number(line.quantity)),
        ]
    }
}

/// Billing Period: a row for each month that is `closed`, with the moment when it was, and for each other one.
pub fn billing_periods<'a>(
    open: impl IntoIterator<Item = Period>,
    closed: &'a BTreeMap<Period, Timestamp>,
    issuer: &'a str,
) -> Sheet<'a> {
    let mut periods: Vec<Period> = open.into_iter().chain(closed.keys().copied()).collect();
    periods.sort_unstable();
    periods.dedup();
    let rows = periods.into_iter().map(move |period| {
        let closed_at = closed.get(&period);
        Ok(vec![
            Cell::Time(period.start()),
            Cell::Time(period.end()),
            Cell::Time(closed_at.copied().unwrap_or(period.start())),
            Cell::Time(period.start()),
            text(if closed_at.is_some() { "Closed" } else { "Open" }),
            text(issuer),
        ])
    });
    sheet("BillingPeriod", &BILLING_PERIOD, rows)
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}
