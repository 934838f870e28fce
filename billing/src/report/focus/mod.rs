//! FOCUS files (FinOps Open Cost and Usage Specification), versions 1.2 and 1.4.
//!
//! A closed month is told from its invoices, which never change; an open one from what no invoice bills yet,
//! without `InvoiceId`. A row of usage is what one step of a price sold in one region, so that its unit prices
//! times its quantity are its costs to the last digit. Costs are not rounded; one `Adjustment` row per invoice makes
//! the sum of `BilledCost` what is payable.

mod charge;
mod regions;
mod columns;
mod datasets;
mod rows;
mod unbilled;

use std::collections::BTreeMap;

use self::columns::{V1_2, V1_4, Version};
use super::ReportError;
use super::sheet::Sheet;
use crate::contract::Contracts;
use crate::invoice::Invoice;
use crate::period::Period;
use crate::price_book::PriceBook;

pub use self::datasets::{Numbers, billing_periods, invoice_details};
pub use self::unbilled::Unbilled;

/// Which version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FocusVersion {
    /// 1.2, which `focus-validator` checks.
    V1_2,
    /// 1.4, with host and service provider in place of provider and publisher.
    V1_4,
}

/// Who sells, and what was invoiced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The seller's name.
    pub name: String,
    /// Every invoice of each closed month.
    pub closed: BTreeMap<Period, Vec<Invoice>>,
}

/// The Cost and Usage dataset: the invoices of closed months, and what is not billed yet.
pub fn cost_and_usage<'a>(
    issuer: &'a Issuer,
    unbilled: Option<&Unbilled<'_>>,
    version: FocusVersion,
    book: &PriceBook,
    contracts: &Contracts,
) -> Result<Sheet<'a>, ReportError> {
    let version: &'static Version = match version {
        FocusVersion::V1_2 => &V1_2,
        FocusVersion::V1_4 => &V1_4,
    };
    let rows = rows::rows(issuer, unbilled, book, contracts)?;
    Ok(Sheet {
        name: "CostAndUsage",
        columns: version.columns,
        rows: Box::new(rows.into_iter().map(move |row| version.cells(&row, issuer))),
    })
}
