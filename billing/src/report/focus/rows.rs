//! The rows of Cost and Usage, before they are cut into a version's columns.

use schemas::ids::TenantId;

use super::charge::{Charge, Sold, charges};
use super::regions::Regions;
use crate::contract::Contracts;
use crate::invoice::{Invoice, InvoiceLine, LineKind};
use crate::money::{Currency, Money, MoneyError};
use crate::period::Period;
use crate::price_book::PriceBook;
use crate::report::ReportError;
use crate::report::lines::share;
use crate::sku::Sku;

/// What an `Adjustment` is for.
pub(super) const ROUNDING: &str = "Rounding of invoice lines to the minor unit of the currency";

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) tenant: TenantId,
    pub(super) currency: Currency,
    /// The month that bills it.
    pub(super) billed_in: Period,
    /// The month that it is for.
    pub(super) charged_for: Period,
    /// Number of the invoice, and id of its line.
    pub(super) invoice: Option<(String, String)>,
    pub(super) kind: RowKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RowKind {
    /// What a line sold at one step of its price in one region.
    Usage {
        sku: Sku,
        price_book: String,
        price_version: String,
        contract_version: Option<String>,
        charge: Charge,
    },
    /// Usage of an earlier month, at amounts that no unit price times a quantity makes.
    Correction {
        sku: Sku,
        region: Option<String>,
        quantity: i64,
        list: Money,
        contracted: Money,
    },
    /// Anything else, by its `ChargeCategory`.
    Other {
        category: &'static str,
        description: String,
        amount: Money,
    },
}

/// The rows of an invoice.
pub(super) fn of_invoice(invoice: &Invoice, book: &PriceBook, contracts: &Contracts) -> Result<Vec<Row>, ReportError> {
    let mut rows = Vec::new();
    let added = add_invoice(invoice, book, contracts, &mut rows);
    added.map_err(|source| money(&invoice.tenant_id, invoice.period, source))?;
    Ok(rows)
}

fn add_invoice(
    invoice: &Invoice,
    book: &PriceBook,
    contracts: &Contracts,
    rows: &mut Vec<Row>,
) -> Result<(), MoneyError> {
    let mut add = |charged_for: Period, detail: String, kind: RowKind| {
        rows.push(Row {
            tenant: invoice.tenant_id.clone(),
            currency: invoice.currency,
            billed_in: invoice.period,
            charged_for,
            invoice: Some((invoice.number.clone(), detail)),
            kind,
        });
    };
    for line in &invoice.lines {
        let detail = || line.external_id.to_string();
        let Some(sku) = &line.sku else {
            add(line.charge_period, detail(), other(line));
            continue;
        };
        for part in &line.rated {
            let sold = Sold {
                tenant: &invoice.tenant_id,
                sku,
                currency: invoice.currency,
                price_version: &part.price_version,
                contract_version: part.contract_version.as_deref(),
                quantity: part.quantity,
                regions: &part.regions,
                list: part.list,
                contracted: part.contracted,
            };
            if line.kind == LineKind::Usage && part.before == 0 {
                for charge in charges(&sold, book, contracts)? {
                    add(line.charge_period, detail(), usage(&sold, book, charge));
                }
                continue;
            }
            for kind in corrections(&sold)? {
                add(line.charge_period, detail(), kind);
            }
        }
    }
    if invoice.tax != Money::ZERO {
        let kind = RowKind::Other {
            category: "Tax",
            description: format!("Tax, {} %", invoice.tax_rate.as_deref().unwrap_or("0")),
            amount: invoice.tax,
        };
        add(invoice.period, format!("{}/tax", invoice.external_id), kind);
    }
    if invoice.adjustment != Money::ZERO {
        let detail = format!("{}/rounding", invoice.external_id);
        add(invoice.period, detail, adjustment(invoice.adjustment));
    }
    Ok(())
}

/// One for each region, which share the amounts by quantity.
pub(super) fn corrections(sold: &Sold<'_>) -> Result<Vec<RowKind>, MoneyError> {
    let regions = Regions::of(sold)?;
    let quantities = regions.quantities();
    let amounts = share(sold.list, &quantities)?
        .into_iter()
        .zip(share(sold.contracted, &quantities)?);
    let of_regions = regions.0.into_iter().zip(amounts);
    let kinds = of_regions.map(|((region, quantity), (list, contracted))| RowKind::Correction {
        sku: sold.sku.clone(),
        region,
        quantity,
        list,
        contracted,
    });
    Ok(kinds.collect())
}

pub(super) fn usage(sold: &Sold<'_>, book: &PriceBook, charge: Charge) -> RowKind {
    RowKind::Usage {
        sku: sold.sku.clone(),
        price_book: book.id.clone(),
        price_version: sold.price_version.to_owned(),
        contract_version: sold.contract_version.map(str::to_owned),
        charge,
    }
}

/// A line that charges no usage.
fn other(line: &InvoiceLine) -> RowKind {
    RowKind::Other {
        category: match line.kind {
            LineKind::CreditDraw => "Credit",
            _ => "Purchase",
        },
        description: line.description.clone(),
        amount: line.contracted,
    }
}

pub(super) fn adjustment(amount: Money) -> RowKind {
    RowKind::Other {
        category: "Adjustment",
        description: ROUNDING.to_owned(),
        amount,
    }
}

pub(super) fn money(tenant: &TenantId, period: Period, source: MoneyError) -> ReportError {
    ReportError::Money {
        tenant: tenant.to_string(),
        period: period.to_string(),
        source,
    }
}
