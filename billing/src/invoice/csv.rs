//! Invoices as CSV for import: NetSuite's and QuickBooks's mandatory columns first, one row a line.
//!
//! NetSuite finds an invoice and each of its lines by External ID; QuickBooks Online asks for invoice number,
//! customer, invoice date, due date and item amount. Tax is a row of its own, so that the amounts of an
//! invoice's rows add up to what is payable.

use std::io::Write;

use jiff::tz::TimeZone;

use super::{Invoice, InvoiceLine};

const COLUMNS: [&str; 25] = [
    "External ID",
    "Line External ID",
    "Invoice No",
    "Customer",
    "Invoice Date",
    "Due Date",
    "Item",
    "Item Description",
    "Item Quantity",
    "Item Amount",
    "Currency",
    "Billing Period",
    "Charge Period",
    "Line Kind",
    "Parent Account",
    "Country",
    "Partner",
    "Segment",
    "Contract",
    "Tax Category",
    "Tax Rate",
    "Exact Amount",
    "List Amount",
    "Invoice Subtotal",
    "Invoice Total",
];

/// Writes the invoices' lines. A text that a spreadsheet would take for a formula gets a `'` in front.
///
/// # Errors
/// When `out` fails.
pub fn write<'a>(invoices: impl IntoIterator<Item = &'a Invoice>, out: impl Write) -> Result<(), csv::Error> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(COLUMNS)?;
    for invoice in invoices {
        for line in &invoice.lines {
            csv.write_record(row(invoice, &Cells::of(invoice, line)))?;
        }
        csv.write_record(row(invoice, &Cells::tax(invoice)))?;
    }
    csv.flush()?;
    Ok(())
}

/// What differs from line to line.
struct Cells {
    external_id: String,
    item: String,
    description: String,
    quantity: String,
    amount: String,
    charge_period: String,
    kind: String,
    exact: String,
    list: String,
}

impl Cells {
    fn of(invoice: &Invoice, line: &InvoiceLine) -> Self {
        let kind = serde_name(line.kind);
        Cells {
            external_id: line.external_id.to_string(),
            item: line.sku.as_ref().map_or(kind.to_owned(), ToString::to_string),
            description: line.description.clone(),
            quantity: line.quantity.to_string(),
            amount: line.amount.to_minor(invoice.currency),
            charge_period: line.charge_period.to_string(),
            kind: kind.to_owned(),
            exact: line.contracted.to_string(),
            list: line.list.to_string(),
        }
    }

    fn tax(invoice: &Invoice) -> Self {
        let category = invoice.tax_category.as_deref().unwrap_or("not determined: no contract");
        Cells {
            external_id: format!("{}-tax", invoice.external_id),
            item: "tax".to_owned(),
            description: format!("tax, category {category}"),
            quantity: "1".to_owned(),
            amount: invoice.tax.to_minor(invoice.currency),
            charge_period: invoice.period.to_string(),
            kind: "tax".to_owned(),
            exact: invoice.tax.to_string(),
            list: invoice.tax.to_string(),
        }
    }
}

fn serde_name(kind: super::LineKind) -> &'static str {
    use super::LineKind as K;
    match kind {
        K::Usage => "usage",
        K::Correction => "correction",
        K::Fee => "fee",
        K::Minimum => "minimum",
        K::CreditPurchase => "credit_purchase",
        K::CreditDraw => "credit_draw",
    }
}

fn row(invoice: &Invoice, cells: &Cells) -> Vec<String> {
    let date = |time: jiff::Timestamp| TimeZone::UTC.to_datetime(time).date().to_string();
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let texts = [
        invoice.external_id.to_string(),
        cells.external_id.clone(),
        invoice.number.clone(),
        invoice.tenant_id.to_string(),
        date(invoice.issued_at),
        date(invoice.due_at),
        cells.item.clone(),
        cells.description.clone(),
    ];
    let texts = texts.into_iter().map(plain);
    let numbers = [cells.quantity.clone(), cells.amount.clone()];
    let more = [
        invoice.currency.code().to_owned(),
        invoice.period.to_string(),
        cells.charge_period.clone(),
        cells.kind.clone(),
        invoice.parent_account.clone(),
        optional(&invoice.country),
        optional(&invoice.partner),
        invoice
            .segment
            .map(|segment| segment.as_str().to_owned())
            .unwrap_or_default(),
        optional(&invoice.contract_version),
        optional(&invoice.tax_category),
        optional(&invoice.tax_rate),
    ];
    let amounts = [
        cells.exact.clone(),
        cells.list.clone(),
        invoice.subtotal.to_minor(invoice.currency),
        invoice.total.to_minor(invoice.currency),
    ];
    texts
        .chain(numbers)
        .chain(more.into_iter().map(plain))
        .chain(amounts)
        .collect()
}

/// No spreadsheet runs it as a formula.
fn plain(text: String) -> String {
    match text.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r') => format!("'{text}"),
        _ => text,
    }
}
