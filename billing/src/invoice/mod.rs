//! Invoices of a closed month: one for each tenant and currency, a line for each SKU and month of use.
//!
//! A line is rounded once; the subtotal is the exact sum of the rounded lines, tax is rounded once per
//! category and rate, the total is their exact sum (EN 16931, BR-CO-10 and BR-CO-14). What rounding changed is
//! one adjustment per invoice, so that the exact charges and it add up to what is payable.

mod issue;
pub mod csv;

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemas::ids::TenantId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::close::rated::{Booked, ChargeKey};
use crate::contract::Segment;
use crate::money::{Currency, Money};
use crate::period::Period;
use crate::sku::Sku;

pub use issue::{CreditState, Drawn, Month, issue};

/// What a line charges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// Usage of the month.
    Usage,
    /// Usage of an earlier month that came late or was corrected.
    Correction,
    /// The contract's monthly fee.
    Fee,
    /// What the month's usage lacks to the contract's minimum.
    Minimum,
    /// Credit bought ahead.
    CreditPurchase,
    /// Credit that pays for usage; negative.
    CreditDraw,
}

/// How much of a line was rated at which price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatedPart {
    /// Version of the price book.
    pub price_version: String,
    /// Version of the contract; none at list.
    pub contract_version: Option<String>,
    /// Whether the price was negotiated.
    pub negotiated: bool,
    /// Quantity that earlier invoices charged at this price, from which the steps of a price count on.
    pub before: i64,
    /// Quantity charged now.
    pub quantity: i64,
    /// How much of it each region has; they add up to it.
    pub regions: BTreeMap<String, i64>,
    /// At list price, exact.
    pub list: Money,
    /// At the tenant's price, exact.
    pub contracted: Money,
}

/// A line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceLine {
    /// Names the line for ever, e.g. as NetSuite's External ID.
    pub external_id: Uuid,
    /// What it charges.
    pub kind: LineKind,
    /// When it was used.
    pub charge_period: Period,
    /// What was used; none in lines that charge no usage.
    pub sku: Option<Sku>,
    /// Which credit, in lines about one.
    pub credit_id: Option<String>,
    /// For people.
    pub description: String,
    /// Tokens or requests; 1 in lines that charge no usage.
    pub quantity: i64,
    /// At list price, exact.
    pub list: Money,
    /// At the tenant's price, exact.
    pub contracted: Money,
    /// `contracted`, rounded once to the minor unit.
    pub amount: Money,
    /// Price by price; empty in lines that charge no usage.
    pub rated: Vec<RatedPart>,
}

/// An invoice, or a credit note if its total is negative.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoice {
    /// `2026-10-000001`: the month and, without a gap, the place in it.
    pub number: String,
    /// Names the invoice for ever: of tenant, currency and month.
    pub external_id: Uuid,
    /// Who.
    pub tenant_id: TenantId,
    /// Whose revenue it is; the tenant itself without a contract.
    pub parent_account: String,
    /// The month that bills it.
    pub period: Period,
    /// Invoice date.
    pub issued_at: Timestamp,
    /// Due date.
    pub due_at: Timestamp,
    /// Of all amounts.
    pub currency: Currency,
    /// Contract at the month's end; none means list prices, and that no tax could be determined.
    pub contract_version: Option<String>,
    /// From the contract.
    pub segment: Option<Segment>,
    /// Billing country, from the contract.
    pub country: Option<String>,
    /// Who brought the customer, from the contract.
    pub partner: Option<String>,
    /// Tax category of all lines, from the contract.
    pub tax_category: Option<String>,
    /// Percent.
    pub tax_rate: Option<String>,
    /// In order of kind, month and SKU.
    pub lines: Vec<InvoiceLine>,
    /// Σ of the lines' amounts.
    pub subtotal: Money,
    /// Of the subtotal.
    pub tax: Money,
    /// Payable: subtotal and tax.
    pub total: Money,
    /// What the roundings of the lines added: Σ contracted + tax + adjustment = total.
    pub adjustment: Money,
}

impl Invoice {
    /// Adds what it charges to what is booked, for the months that follow.
    pub fn book(&self, booked: &mut Booked) {
        for line in &self.lines {
            let Some(sku) = &line.sku else { continue };
            for part in &line.rated {
                let key = ChargeKey {
                    tenant: self.tenant_id.clone(),
                    currency: self.currency,
                    charge_period: line.charge_period,
                    sku: sku.clone(),
                    price_version: part.price_version.clone(),
                    contract_version: part.contract_version.clone(),
                };
                let quantity = booked.entry(key).or_default();
                *quantity = quantity.saturating_add(part.quantity);
            }
        }
    }
}
