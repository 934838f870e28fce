//! Credits: money that a customer paid ahead or was granted, drawn down by usage.
//!
//! The one that expires first is drawn first, then the older one, then by name; no draw exceeds what is
//! left or what is owed.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::contract::amount;
use crate::money::{Currency, Money, MoneyError};
use crate::source::{Fields, Source};

/// Where a credit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CreditKind {
    /// Bought: the invoice of its first month charges it.
    Prepaid,
    /// Given.
    Granted,
}

impl CreditKind {
    /// Both kinds.
    pub const ALL: [CreditKind; 2] = [CreditKind::Prepaid, CreditKind::Granted];

    /// As written in the file and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            CreditKind::Prepaid => "prepaid",
            CreditKind::Granted => "granted",
        }
    }
}

/// One credit of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    /// Its name, unique among the tenant's credits.
    pub id: String,
    /// Bought or given.
    pub kind: CreditKind,
    /// How much, in the contract's currency.
    pub amount: Money,
    /// First moment whose usage it pays.
    pub from: Timestamp,
    /// First moment whose usage it no longer pays; none if it never expires.
    pub expires: Option<Timestamp>,
}

/// What an invoice takes from one credit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Which credit.
    pub credit_id: String,
    /// How much, above zero.
    pub amount: Money,
}

/// Draws `owed` from `credits` whose `drawn` amounts are used already, in order of expiry, age and name.
/// Only credits that pay in the whole of `[start, end)` or a part of it are drawn.
pub fn draw(
    credits: &[&Credit],
    drawn: &BTreeMap<String, Money>,
    owed: Money,
    start: Timestamp,
    end: Timestamp,
) -> Result<Vec<Draw>, MoneyError> {
    let pays = |credit: &&&Credit| credit.from < end && credit.expires.is_none_or(|expires| expires > start);
    let mut in_order: Vec<&Credit> = credits.iter().filter(pays).copied().collect();
    in_order.sort_by_key(|credit| (credit.expires.is_none(), credit.expires, credit.from, credit.id.clone()));
    let mut owed = owed.max(Money::ZERO);
    let mut draws = Vec::new();
    for credit in in_order {
        let used = drawn.get(&credit.id).copied().unwrap_or_default();
        let amount = credit.amount.minus(used)?.max(Money::ZERO).min(owed);
        if amount > Money::ZERO {
            owed = owed.minus(amount)?;
            let credit_id = credit.id.clone();
            draws.push(Draw { credit_id, amount });
        }
    }
    Ok(draws)
}

/// Reads the `[[contract.credit]]` of a contract.
pub(crate) fn read(source: &Source<'_>, fields: &mut Fields<'_, '_>, currency: Option<Currency>) -> Vec<Credit> {
    let Some(list) = fields.list("credit") else {
        return Vec::new();
    };
    let mut credits: Vec<Credit> = Vec::new();
    for mut fields in list.into_inner() {
        let span = fields.span();
        let id = fields.name("id", "\"acme-2026-prepaid\"");
        let kind = fields.choice("kind", &CreditKind::ALL, CreditKind::as_str);
        let from = fields.time("from");
        let expires = fields.optional_time("expires");
        let amount = amount(source, &mut fields, "amount", currency);
        fields.finish();
        if amount.is_none_or(|amount| amount == Money::ZERO) {
            source.report(
                span.clone(),
                "a credit needs an amount above zero, like amount = \"5000.00\"",
            );
        }
        let (Some(id), Some(kind), Some(from), Some(amount)) = (id, kind, from, amount) else {
            continue;
        };
        if credits.iter().any(|credit| credit.id == *id.get_ref()) {
            source.report(
                id.span(),
                format!("the contract has a credit {} already; remove one", id.get_ref()),
            );
        }
        if let Some(expires) = expires.as_ref().filter(|expires| expires.get_ref() <= from.get_ref()) {
            source.report(expires.span(), "expires must be after from; correct one of them");
        }
        credits.push(Credit {
            id: (*id.get_ref()).to_owned(),
            kind,
            amount,
            from: from.into_inner(),
            expires: expires.map(|expires| expires.into_inner()),
        });
    }
    credits
}
