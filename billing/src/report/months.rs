//! Closed months: what the ledger rates to against what was invoiced, currency by currency.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use schemas::ids::TenantId;

use crate::close::rated::Charge;
use crate::invoice::{Invoice, LineKind};
use crate::money::{Currency, Money, MoneyError};
use crate::period::Period;

/// One closed month's amounts in one currency. `charged` must be what is `rated`, and with `rounding`,
/// `other` and `tax` be what is `payable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonthCheck {
    /// Which month.
    pub period: Period,
    /// Of all amounts.
    pub currency: Currency,
    /// How many invoices.
    pub invoices: u64,
    /// Σ rated, from `billing_events`.
    pub rated: Money,
    /// Σ of the invoices' lines of usage and corrections, exact.
    pub charged: Money,
    /// Σ of what rounding added to those lines.
    pub rounding: Money,
    /// Σ of the lines that charge no usage: fees, minimums, credits.
    pub other: Money,
    /// Σ of the invoices' tax.
    pub tax: Money,
    /// Σ of the invoices' totals.
    pub payable: Money,
}

impl MonthCheck {
    fn new(period: Period, currency: Currency) -> Self {
        MonthCheck {
            period,
            currency,
            invoices: 0,
            rated: Money::ZERO,
            charged: Money::ZERO,
            rounding: Money::ZERO,
            other: Money::ZERO,
            tax: Money::ZERO,
            payable: Money::ZERO,
        }
    }

    /// Whether the invoices charge what is rated, and are payable as their lines say.
    pub fn agrees(&self) -> bool {
        self.rated == self.charged && self.of_lines() == Ok(self.payable)
    }

    /// What the lines and tax come to.
    pub fn of_lines(&self) -> Result<Money, MoneyError> {
        Money::sum([self.charged, self.rounding, self.other, self.tax])
    }

    fn add(&mut self, invoice: &Invoice) -> Result<(), MoneyError> {
        self.invoices += 1;
        for line in &invoice.lines {
            if matches!(line.kind, LineKind::Usage | LineKind::Correction) {
                self.charged = self.charged.plus(line.contracted)?;
                self.rounding = self.rounding.plus(line.amount.minus(line.contracted)?)?;
            } else {
                self.other = self.other.plus(line.amount)?;
            }
        }
        self.tax = self.tax.plus(invoice.tax)?;
        self.payable = self.payable.plus(invoice.total)?;
        Ok(())
    }
}

impl Display for MonthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MonthCheck {
            period,
            currency,
            rated,
            charged,
            payable,
            ..
        } = self;
        let of_lines = self
            .of_lines()
            .map_or_else(|error| error.to_string(), |sum| sum.to_string());
        write!(
            f,
            "{period} in {currency}: the ledger rates to {rated}, and the invoices charge {charged}; their lines and tax \
             come to {of_lines}, and {payable} is payable"
        )
    }
}

/// The amounts of a closed month: of the charges that its ledger makes, and of the invoices that were issued.
///
/// # Errors
/// When an amount of that tenant is out of range.
pub fn month_checks(
    period: Period,
    charges: &[Charge],
    invoices: &[Invoice],
) -> Result<Vec<MonthCheck>, (TenantId, MoneyError)> {
    let mut checks: BTreeMap<Currency, MonthCheck> = BTreeMap::new();
    let new = |currency: &Currency| MonthCheck::new(period, *currency);
    for Charge { key, contracted, .. } in charges {
        let check = checks.entry(key.currency).or_insert_with_key(new);
        let sum = check.rated.plus(*contracted);
        check.rated = sum.map_err(|error| (key.tenant.clone(), error))?;
    }
    for invoice in invoices {
        let check = checks.entry(invoice.currency).or_insert_with_key(new);
        check.add(invoice).map_err(|error| (invoice.tenant_id.clone(), error))?;
    }
    Ok(checks.into_values().collect())
}
