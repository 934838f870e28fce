//! The datasets that 1.4 has beside Cost and Usage: what each invoice line charges, and which months are
//! closed.

use super::Issuer;
use crate::invoice::{Invoice, LineKind};
use crate::money::Money;
use crate::period::Period;
use crate::report::sheet::{Cell, Column, Kind, Sheet, column};

const INVOICE_DETAIL: [Column; 18] = [
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
];

const BILLING_PERIOD: [Column; 6] = [
    column("BillingPeriodCreated", Kind::Time),
    column("BillingPeriodEnd", Kind::Time),
    column("BillingPeriodLastUpdated", Kind::Time),
    column("BillingPeriodStart", Kind::Time),
    column("BillingPeriodStatus", Kind::Text),
    column("InvoiceIssuerName", Kind::Text),
];

/// Invoice Detail: a row for each line of each invoice, as rounded there, and one for its tax.
pub fn invoice_details(issuer: &Issuer) -> Sheet<'_> {
    let invoices = issuer.closed.values().flatten();
    let rows = invoices.flat_map(move |invoice| {
        let lines = invoice.lines.iter().map(move |line| {
            let category = match line.kind {
                LineKind::Usage | LineKind::Correction => "Usage",
                LineKind::Fee | LineKind::Minimum | LineKind::CreditPurchase => "Purchase",
                LineKind::CreditDraw => "Credit",
            };
            let id = line.external_id.to_string();
            detail(issuer, invoice, category, &line.description, id, line.amount)
        });
        let tax = (invoice.tax != Money::ZERO).then(|| {
            let id = format!("{}/tax", invoice.external_id);
            detail(issuer, invoice, "Tax", "Tax", id, invoice.tax)
        });
        lines.chain(tax)
    });
    Sheet {
        name: "InvoiceDetail",
        columns: &INVOICE_DETAIL,
        rows: Box::new(rows),
    }
}

fn detail(
    issuer: &Issuer,
    invoice: &Invoice,
    category: &str,
    description: &str,
    id: String,
    amount: Money,
) -> Vec<Cell> {
    let days = invoice.due_at.duration_since(invoice.issued_at).as_hours() / 24;
    vec![
        Cell::Exact(amount, Some(invoice.currency)),
        text(invoice.tenant_id.as_str()),
        text(invoice.currency.code()),
        Cell::Time(invoice.period.end()),
        Cell::Time(invoice.period.start()),
        text(category),
        Cell::Time(invoice.issued_at),
        text(description),
        // A row is a line, so nothing was grouped.
        Cell::Empty,
        text(id),
        Cell::Time(invoice.issued_at),
        text(&invoice.number),
        Cell::Time(invoice.issued_at),
        text("Issued"),
        text(&issuer.name),
        Cell::Time(invoice.due_at),
        text(format!("Net {days}")),
        // No invoice stands in for another one.
        text(&invoice.number),
    ]
}

/// Billing Period: a row for each closed month, and for each of these others.
pub fn billing_periods(open: impl IntoIterator<Item = Period>, issuer: &Issuer) -> Sheet<'_> {
    let mut periods: Vec<Period> = open.into_iter().chain(issuer.closed.keys().copied()).collect();
    periods.sort_unstable();
    periods.dedup();
    let rows = periods.into_iter().map(|period| {
        let closed = issuer.closed.get(&period);
        let issued_at = closed
            .and_then(|invoices| invoices.first())
            .map(|invoice| invoice.issued_at);
        vec![
            Cell::Time(period.start()),
            Cell::Time(period.end()),
            Cell::Time(issued_at.unwrap_or(period.start())),
            Cell::Time(period.start()),
            text(if closed.is_some() { "Closed" } else { "Open" }),
            text(&issuer.name),
        ]
    });
    Sheet {
        name: "BillingPeriod",
        columns: &BILLING_PERIOD,
        rows: Box::new(rows),
    }
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}
