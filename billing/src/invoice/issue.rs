//! From a month's charges to its invoices and to what is left of the credits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use schemas::ids::{TenantId, uuid_of};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Invoice, InvoiceLine, LineKind, RatedPart};
use crate::close::CloseError;
use crate::close::rated::Charge;
use crate::contract::{Contract, Contracts, PAYMENT_DAYS};
use crate::credit::{Credit, CreditKind, draw};
use crate::money::{Currency, Money, MoneyError, OUT_OF_RANGE};
use crate::period::Period;
use crate::sku::{Meter, Sku};

/// What was taken from one credit so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// Σ of what invoices drew.
    pub drawn: Money,
    /// What the contract grants.
    pub amount: Money,
    /// Whether an invoice has charged it, if it is bought.
    pub purchased: bool,
}

/// State of every credit after a month, by tenant and credit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CreditState(pub BTreeMap<TenantId, BTreeMap<String, Drawn>>);

/// What invoices are made of.
pub struct Month<'a> {
    /// The month.
    pub period: Period,
    /// Date of the invoices.
    pub issued_at: Timestamp,
    /// What it charges.
    pub charges: &'a [Charge],
    /// Who agreed what.
    pub contracts: &'a Contracts,
    /// Credits after the month before.
    pub credits: &'a CreditState,
}

/// Issues the month's invoices, in order of tenant and currency, and says what is left of the credits.
///
/// The contract at the month's end says country, tax and partner. Fee and minimum are due in months that the
/// contract holds from their first moment. Credits pay for the month's usage and corrections, not for fees.
///
/// # Errors
/// When an amount is out of range.
pub fn issue(month: &Month<'_>) -> Result<(Vec<Invoice>, CreditState), CloseError> {
    let mut charges: BTreeMap<(&TenantId, Currency), Vec<&Charge>> = BTreeMap::new();
    for charge in month.charges {
        charges
            .entry((&charge.key.tenant, charge.key.currency))
            .or_default()
            .push(charge);
    }
    let due = month.contracts.all().filter(|contract| contract.is_due(month.period));
    let mut keys: BTreeSet<_> = charges.keys().copied().collect();
    keys.extend(due.map(|contract| (&contract.tenant_id, contract.currency)));
    let mut credits = month.credits.clone();
    let mut invoices: Vec<Invoice> = Vec::new();
    for (tenant, currency) in keys {
        let charges = charges.get(&(tenant, currency)).map_or(&[][..], Vec::as_slice);
        let mut draft = Draft::new(month, tenant, currency);
        let invoice = draft
            .invoice(charges, &mut credits)
            .map_err(|source| CloseError::Money {
                tenant: tenant.clone(),
                source,
            })?;
        if let Some(mut invoice) = invoice {
            invoice.number = format!("{}-{:06}", month.period, invoices.len() + 1);
            invoices.push(invoice);
        }
    }
    Ok((invoices, credits))
}

impl Contract {
    /// Whether it may charge something in `period` though nothing is used.
    fn is_due(&self, period: Period) -> bool {
        self.effective_from < period.end() && self.effective_until.is_none_or(|until| until > period.start())
    }
}

/// One invoice in the making.
struct Draft<'a> {
    month: &'a Month<'a>,
    tenant: &'a TenantId,
    currency: Currency,
    /// At the month's end, or the last that held in it.
    contract: Option<&'a Contract>,
    lines: Vec<InvoiceLine>,
}

impl<'a> Draft<'a> {
    fn new(month: &'a Month<'a>, tenant: &'a TenantId, currency: Currency) -> Self {
        let mut due = month
            .contracts
            .of(tenant.as_str())
            .iter()
            .filter(|contract| contract.is_due(month.period));
        Draft {
            month,
            tenant,
            currency,
            contract: due.rfind(|contract| contract.currency == currency),
            lines: Vec::new(),
        }
    }

    /// None if there is nothing to invoice.
    fn invoice(&mut self, charges: &[&Charge], credits: &mut CreditState) -> Result<Option<Invoice>, MoneyError> {
        self.usage(charges)?;
        self.fees()?;
        self.credits(credits)?;
        if self.lines.is_empty() {
            return Ok(None);
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.sort_by(|a, b| {
            let key = |line: &InvoiceLine| (line.kind, line.charge_period, line.sku.clone(), line.credit_id.clone());
            key(a).cmp(&key(b))
        });
        let sum = |of: fn(&InvoiceLine) -> Money| Money::sum(lines.iter().map(of));
        let (subtotal, exact) = (sum(|line| line.amount)?, sum(|line| line.contracted)?);
        let tax = match self.contract {
            Some(contract) => contract.tax.rate.of(subtotal, self.currency)?,
            None => Money::ZERO,
        };
        let contract = self.contract;
        let payment_days = contract.map_or(PAYMENT_DAYS, |contract| contract.payment_days);
        let due_at = self
            .month
            .issued_at
            .checked_add(SignedDuration::from_hours(24 * payment_days));
        Ok(Some(Invoice {
            number: String::new(),
            external_id: self.uuid("invoice", &[]),
            tenant_id: self.tenant.clone(),
            parent_account: contract.map_or(self.tenant.to_string(), |contract| contract.parent_account.clone()),
            period: self.month.period,
            issued_at: self.month.issued_at,
            due_at: due_at.unwrap_or(Timestamp::MAX),
            currency: self.currency,
            contract_version: contract.map(|contract| contract.version.clone()),
            segment: contract.map(|contract| contract.segment),
            country: contract.map(|contract| contract.country.clone()),
            partner: contract.and_then(|contract| contract.partner.clone()),
            tax_category: contract.map(|contract| contract.tax.category.clone()),
            tax_rate: contract.map(|contract| contract.tax.rate.to_string()),
            lines,
            subtotal,
            tax,
            total: subtotal.plus(tax)?,
            adjustment: subtotal.minus(exact)?,
        }))
    }

    /// One line for each SKU and month of use, rounded once.
    fn usage(&mut self, charges: &[&Charge]) -> Result<(), MoneyError> {
        let mut by_line: BTreeMap<(Period, &Sku), Vec<&Charge>> = BTreeMap::new();
        for charge in charges {
            by_line
                .entry((charge.key.charge_period, &charge.key.sku))
                .or_default()
                .push(charge);
        }
        for ((charge_period, sku), charges) in by_line {
            // What cancels out at two prices or in two regions is a line of zero: later months count on from it.
            if charges.iter().all(|charge| charge.regions.is_empty()) {
                continue;
            }
            let contracted = Money::sum(charges.iter().map(|charge| charge.contracted))?;
            let list = Money::sum(charges.iter().map(|charge| charge.list))?;
            let quantity = charges
                .iter()
                .try_fold(0_i64, |sum, charge| sum.checked_add(charge.quantity));
            let quantity = quantity.ok_or(OUT_OF_RANGE)?;
            let (kind, what) = match charge_period < self.month.period {
                true => (LineKind::Correction, "late or corrected usage"),
                false => (LineKind::Usage, "usage"),
            };
            let unit = if sku.meter == Meter::Requests {
                "requests"
            } else {
                "tokens"
            };
            let rated = charges.iter().map(|charge| RatedPart {
                price_version: charge.key.price_version.clone(),
                contract_version: charge.key.contract_version.clone(),
                negotiated: charge.negotiated,
                before: charge.before,
                quantity: charge.quantity,
                regions: charge.regions.clone(),
                list: charge.list,
                contracted: charge.contracted,
            });
            self.lines.push(InvoiceLine {
                external_id: self.uuid("line", &[&charge_period.to_string(), &sku.to_string()]),
                kind,
                charge_period,
                sku: Some(sku.clone()),
                credit_id: None,
                description: format!("{sku}, {unit}, {what} of {charge_period}"),
                quantity,
                list,
                contracted,
                amount: contracted.rounded(self.currency)?,
                rated: rated.collect(),
            });
        }
        Ok(())
    }

    fn fees(&mut self) -> Result<(), MoneyError> {
        let start = self.month.period.start();
        let contract = self.month.contracts.at(self.tenant.as_str(), start);
        let Some(contract) = contract.filter(|contract| contract.currency == self.currency) else {
            return Ok(());
        };
        if let Some(fee) = contract.fee_per_month.filter(|fee| *fee > Money::ZERO) {
            self.plain(
                LineKind::Fee,
                None,
                format!("monthly fee of contract {}", contract.version),
                fee,
            );
        }
        if let Some(minimum) = contract.minimum_per_month {
            let lacks = minimum.minus(self.sum_of(&[LineKind::Usage])?)?;
            if lacks > Money::ZERO {
                let what = format!("up to the monthly minimum of contract {}, {minimum}", contract.version);
                self.plain(LineKind::Minimum, None, what, lacks);
            }
        }
        Ok(())
    }

    /// Charges what is bought and draws what is owed, of every contract that the tenant ever had.
    fn credits(&mut self, state: &mut CreditState) -> Result<(), MoneyError> {
        let (start, end) = (self.month.period.start(), self.month.period.end());
        let contracts = self.month.contracts.of(self.tenant.as_str()).iter();
        let begun = contracts.filter(|contract| contract.currency == self.currency && contract.effective_from < end);
        let known: Vec<&Credit> = begun
            .flat_map(|contract| &contract.credits)
            .filter(|credit| credit.from < end)
            .collect();
        if known.is_empty() {
            return Ok(());
        }
        let states = state.0.entry(self.tenant.clone()).or_default();
        for credit in &known {
            let state = states.entry(credit.id.clone()).or_default();
            state.amount = credit.amount;
            if credit.kind == CreditKind::Prepaid && !state.purchased {
                state.purchased = true;
                let what = format!("prepaid credit {}", credit.id);
                self.plain(LineKind::CreditPurchase, Some(&credit.id), what, credit.amount);
            }
        }
        let owed = self.sum_of(&[LineKind::Usage, LineKind::Correction])?;
        let drawn = states.iter().map(|(id, state)| (id.clone(), state.drawn)).collect();
        for draw in draw(&known, &drawn, owed, start, end)? {
            let state = states.entry(draw.credit_id.clone()).or_default();
            state.drawn = state.drawn.plus(draw.amount)?;
            let what = format!("drawn from credit {}", draw.credit_id);
            self.plain(LineKind::CreditDraw, Some(&draw.credit_id), what, draw.amount.negated());
        }
        Ok(())
    }

    fn sum_of(&self, kinds: &[LineKind]) -> Result<Money, MoneyError> {
        let of_kinds = self.lines.iter().filter(|line| kinds.contains(&line.kind));
        Money::sum(of_kinds.map(|line| line.amount))
    }

    /// A line that charges no usage.
    fn plain(&mut self, kind: LineKind, credit_id: Option<&str>, description: String, amount: Money) {
        let name = format!("{kind:?}");
        self.lines.push(InvoiceLine {
            external_id: self.uuid("line", &[&name, credit_id.unwrap_or_default()]),
            kind,
            charge_period: self.month.period,
            sku: None,
            credit_id: credit_id.map(str::to_owned),
            description,
            quantity: 1,
            list: amount,
            contracted: amount,
            amount,
            rated: Vec::new(),
        });
    }

    fn uuid(&self, kind: &str, parts: &[&str]) -> Uuid {
        let period = self.month.period.to_string();
        let mut all = vec![
            self.tenant.as_str().as_bytes(),
            self.currency.code().as_bytes(),
            period.as_bytes(),
        ];
        all.extend(parts.iter().map(|part| part.as_bytes()));
        uuid_of(kind, &all)
    }
}
