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
use std::{io, iter};

use itertools::Either;

use self::columns::{V1_2, V1_4, Version};
use self::rows::of_invoice;
use super::sheet::{Cell, Column, Sheet};
use super::{BoxError, ReportError};
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

/// Reads the invoices of a closed month.
pub type ReadInvoices<'a> = Box<dyn Fn() -> Result<Vec<Invoice>, BoxError> + 'a>;

/// Who sells, and what was invoiced.
pub struct Issuer<'a> {
    /// The seller's name.
    pub name: String,
    /// The invoices of each closed month, which are held a month at a time.
    pub closed: BTreeMap<Period, ReadInvoices<'a>>,
}

impl Issuer<'_> {
    /// Every invoice, month by month.
    fn invoices(&self) -> impl Iterator<Item = Result<Invoice, ReportError>> + '_ {
        self.closed.values().flat_map(|read| {
            each(read().map_err(|source| ReportError::Table {
                table: "invoices",
                source,
            }))
        })
    }
}

/// Each of some results, or the only error.
fn each<T>(all: Result<Vec<T>, ReportError>) -> impl Iterator<Item = Result<T, ReportError>> {
    match all {
        Ok(all) => Either::Left(all.into_iter().map(Ok)),
        Err(error) => Either::Right(iter::once(Err(error))),
    }
}

/// Rows that are made one at a time.
fn sheet<'a>(
    name: &'static str,
    columns: &'a [Column],
    rows: impl Iterator<Item = Result<Vec<Cell>, ReportError>> + 'a,
) -> Sheet<'a> {
    Sheet {
        name,
        columns,
        rows: Box::new(rows.map(|row| row.map_err(io::Error::other))),
    }
}

/// The Cost and Usage dataset: the invoices of closed months, and what is not billed yet.
pub fn cost_and_usage<'a>(
    issuer: &'a Issuer<'_>,
    unbilled: Option<Unbilled<'a>>,
    version: FocusVersion,
    book: &'a PriceBook,
    contracts: &'a Contracts,
) -> Sheet<'a> {
    let version: &'static Version = match version {
        FocusVersion::V1_2 => &V1_2,
        FocusVersion::V1_4 => &V1_4,
    };
    let billed = issuer.invoices();
    let billed = billed.flat_map(|invoice| each(invoice.and_then(|invoice| of_invoice(&invoice, book, contracts))));
    let open = unbilled.into_iter().flat_map(|unbilled| unbilled.rows(book, contracts));
    let rows = billed.chain(open);
    sheet(
        "CostAndUsage",
        version.columns,
        rows.map(move |row| Ok(version.cells(&row?, issuer))),
    )
}
