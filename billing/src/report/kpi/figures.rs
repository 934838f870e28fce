//! The definitions. Shares and growth are ratios, not percentages; every figure keeps its two sides.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::fx::ratio;
use super::{Facts, Revenue, last_day, start};
use crate::contract::{Contract, Segment};
use crate::money::{Currency, Money, MoneyError};
use crate::period::Period;

/// Whose figures.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// All customers'.
    All,
    /// Those of one size.
    Segment(Segment),
    /// What was computed in one region.
    Region(String),
    /// Those that one partner brought, or that came directly.
    Partner(Option<String>),
}

impl Split {
    /// By what, and which one.
    pub fn names(&self) -> (&'static str, &str) {
        match self {
            Split::All => ("all", "all"),
            Split::Segment(segment) => ("segment", segment.as_str()),
            Split::Region(region) => ("region", region),
            Split::Partner(Some(partner)) => ("partner", partner),
            Split::Partner(None) => ("partner", "direct"),
        }
    }

    fn takes_contract(&self, contract: &Contract) -> bool {
        match self {
            Split::All => true,
            Split::Segment(segment) => contract.segment == *segment,
            Split::Region(_) => false,
            Split::Partner(partner) => contract.partner == *partner,
        }
    }

    fn takes(&self, revenue: &Revenue) -> bool {
        match self {
            Split::All => true,
            Split::Segment(segment) => revenue.segment == Some(*segment),
            Split::Region(region) => revenue.region.as_ref() == Some(region),
            Split::Partner(partner) => revenue.partner == *partner,
        }
    }
}

/// What a figure comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Money.
    Amount(Money),
    /// One amount over another, to 18 decimals.
    Ratio(Money),
    /// How many.
    Count(i64),
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Whose.
    pub split: Split,
    /// None where `missing` says why.
    pub value: Option<Value>,
    /// What is divided, or the amount itself.
    pub numerator: Option<Money>,
    /// By what.
    pub denominator: Option<Money>,
    /// What the plan asks for.
    pub target: &'static str,
    /// Which input is missing.
    pub missing: Option<String>,
}

impl Figure {
    /// The value as text; `missing` where there is none.
    pub fn shown(&self, currency: Currency) -> String {
        match self.value {
            None => "missing".to_owned(),
            Some(Value::Count(count)) => count.to_string(),
            Some(Value::Amount(amount)) => amount.rounded(currency).unwrap_or(amount).to_minor(currency),
            Some(Value::Ratio(ratio)) => {
                // Four decimals, half away from zero.
                let parts = ratio.parts();
                let step = 10_i128.pow(14);
                let whole = parts / step
                    + if (parts % step).abs() * 2 >= step {
                        parts.signum()
                    } else {
                        0
                    };
                format!(
                    "{}{}.{:04}",
                    if whole < 0 { "-" } else { "" },
                    whole.abs() / 10_000,
                    whole.abs() % 10_000
                )
            }
        }
    }

    /// The unit of the value.
    pub fn unit(&self, currency: Currency) -> &'static str {
        match self.value {
            Some(Value::Amount(_)) => currency.code(),
            Some(Value::Ratio(_)) => "ratio",
            Some(Value::Count(_)) => "count",
            None => "",
        }
    }
}

type Sums = BTreeMap<String, Money>;

const NO_REGION: &str = "contracts name no region";

/// The two sides of a ratio, or what is missing for it.
type Sides = Result<(Money, Money), String>;

impl Facts<'_> {
    pub(super) fn figures(&self, split: &Split) -> Result<Vec<Figure>, MoneyError> {
        let now = self.month;
        let figure = |name, target| Figure {
            name,
            split: split.clone(),
            value: None,
            numerator: None,
            denominator: None,
            target,
            missing: None,
        };
        let mrr = self.committed(now, split)?;
        let total = total(&mrr)?;
        let by_contract = !matches!(split, Split::Region(_));
        let committed = |amount: Money| {
            if by_contract {
                Ok(amount)
            } else {
                Err(NO_REGION.to_owned())
            }
        };
        let twelve = total.parts().checked_mul(12).unwrap_or(i128::MAX);
        let mut figures = vec![
            figure("MRR", "").amount(committed(total)),
            figure("MRR growth", "> 0.15 a month").ratio(self.growth(split, total)?)?,
            figure("ARR", "1.25M, 5M, 15M").amount(committed(Money::from_parts(twelve)?)),
        ];
        let usage = self.revenue(now..=now, split)?;
        let usage = usage.map(|sums| self::total(&sums)).transpose()?;
        let annual = usage.map(|usage| Money::from_parts(usage.parts().checked_mul(12).unwrap_or(i128::MAX)));
        figures
            .push(figure("Annualised net revenue", "").amount(annual.transpose()?.ok_or_else(|| self.no_ledger(now))));
        let before = self.committed(now - 12, split)?;
        figures.push(
            figure("NRR, committed", "> 1.20").ratio(Self::of_contracts(retained(&mrr, &before, false)?, split))?,
        );
        figures.push(figure("GRR", "<= 1.00").ratio(Self::of_contracts(retained(&mrr, &before, true)?, split))?);
        figures.push(figure("NRR, trailing 3 months of net revenue", "> 1.20").ratio(self.usage_retained(split)?)?);
        figures.push(figure("Customer concentration", "< 0.20").ratio(self.largest(split, |r| Some(&r.customer))?)?);
        figures.push(figure("Region concentration", "< 0.70").ratio(self.largest(split, |r| r.region.as_ref())?)?);
        figures.push(figure("Countries", "> 15").count(self.countries(split)));
        let acquired = self.acquired(split, &figure)?;
        figures.extend(acquired);
        Ok(figures)
    }

    /// Nothing follows from contracts for a region.
    fn of_contracts(sides: Sides, split: &Split) -> Sides {
        match split {
            Split::Region(_) => Err(NO_REGION.to_owned()),
            _ => sides,
        }
    }

    fn growth(&self, split: &Split, now: Money) -> Result<Sides, MoneyError> {
        if matches!(split, Split::Region(_)) {
            return Ok(Err(NO_REGION.to_owned()));
        }
        let before = total(&self.committed(self.month - 1, split)?)?;
        Ok(Ok((now.minus(before)?, before)))
    }

    /// Partner share, and what customers cost and are worth.
    fn acquired(
        &self,
        split: &Split,
        figure: &dyn Fn(&'static str, &'static str) -> Figure,
    ) -> Result<Vec<Figure>, MoneyError> {
        let period = Period::of(start(self.month));
        let new = self.new_customers(split);
        let by_contract = !matches!(split, Split::Region(_));
        let from_partners = new.iter().filter(|(_, partner)| partner.is_some()).count();
        let share = match by_contract {
            true => Ok((whole(from_partners)?, whole(new.len())?)),
            false => Err(NO_REGION.to_owned()),
        };
        let spend = self.inputs.sales_and_marketing(period);
        // Spending is not known by part.
        let cac = match (split, spend) {
            (Split::All, Some(spend)) => Ok((spend, whole(new.len())?)),
            (Split::All, None) => Err(format!("sales_and_marketing of {period}")),
            _ => Err("sales_and_marketing is not told apart by part".to_owned()),
        };
        let cac = figure("CAC", "").ratio_of_money(cac)?;
        let ltv = figure("LTV", "").ratio_of_money(self.lifetime_value(split, period)?)?;
        let both = match (cac.value, ltv.value) {
            (Some(Value::Amount(cac)), Some(Value::Amount(ltv))) => Ok((ltv, cac)),
            _ => Err("CAC or LTV".to_owned()),
        };
        Ok(vec![
            figure("Partner share of new customers", "> 0.30").ratio(share)?,
            cac,
            ltv,
            figure("LTV / CAC", "> 10").ratio(both)?,
        ])
    }

    /// ARPA × gross margin, and the monthly churn that it is divided by.
    fn lifetime_value(&self, split: &Split, period: Period) -> Result<Sides, MoneyError> {
        if matches!(split, Split::Region(_)) {
            return Ok(Err(NO_REGION.to_owned()));
        }
        let Some(margin) = self.inputs.gross_margin(period) else {
            return Ok(Err(format!("gross_margin of {period}")));
        };
        let (now, before) = (self.customers(self.month, split), self.customers(self.month - 1, split));
        let lost = before.difference(&now).count();
        if lost == 0 || now.is_empty() {
            return Ok(Err(match lost {
                0 => "no customer was lost, so there is no churn to divide by".to_owned(),
                _ => "no customer is left".to_owned(),
            }));
        }
        let one = whole(1)?;
        let arpa = ratio(total(&self.committed(self.month, split)?)?, one, whole(now.len())?)?;
        let churn = ratio(whole(lost)?, one, whole(before.len())?)?;
        Ok(Ok((ratio(arpa, margin, one)?, churn)))
    }

    fn usage_retained(&self, split: &Split) -> Result<Sides, MoneyError> {
        let (from, to) = (self.month - 14, self.month - 12);
        let Some(before) = self.revenue(from..=to, split)? else {
            return Ok(Err(self.no_ledger(from)));
        };
        let now = self.revenue(self.month - 2..=self.month, split)?.unwrap_or_default();
        retained(&now, &before, false)
    }

    /// The largest sum of the trailing twelve months by `of`, and their total.
    fn largest(&self, split: &Split, of: fn(&Revenue) -> Option<&String>) -> Result<Sides, MoneyError> {
        let from = self.month - 11;
        if self.ledger_from.is_none_or(|first| first > from) {
            return Ok(Err(self.no_ledger(from)));
        }
        let mut sums = Sums::new();
        for (revenue, amount) in self.of(from..=self.month, split) {
            // What has no region, a fee, is in no region's sum, and not in the total either.
            if let Some(name) = of(revenue) {
                let sum = sums.entry(name.clone()).or_default();
                *sum = sum.plus(amount)?;
            }
        }
        let largest = sums.values().max().copied().unwrap_or_default();
        Ok(Ok((largest, total(&sums)?)))
    }

    fn countries(&self, split: &Split) -> Result<i64, String> {
        let from = self.month - 2;
        if self.ledger_from.is_none_or(|first| first > from) {
            return Err(self.no_ledger(from));
        }
        let mut sums: BTreeMap<&str, i128> = BTreeMap::new();
        for (revenue, amount) in self.of(from..=self.month, split) {
            if let Some(country) = &revenue.country {
                let sum = sums.entry(country).or_default();
                *sum = sum.saturating_add(amount.parts());
            }
        }
        Ok(sums.values().filter(|sum| **sum > 0).count() as i64)
    }

    fn of<'a>(&'a self, months: RangeInclusive<i32>, split: &'a Split) -> impl Iterator<Item = (&'a Revenue, Money)> {
        let all = self.revenue.iter().map(|(revenue, amount)| (revenue, *amount));
        all.filter(move |(revenue, _)| months.contains(&revenue.month) && split.takes(revenue))
    }

    /// Net revenue by customer; none if the ledger begins later.
    fn revenue(&self, months: RangeInclusive<i32>, split: &Split) -> Result<Option<Sums>, MoneyError> {
        if self.ledger_from.is_none_or(|first| first > *months.start()) {
            return Ok(None);
        }
        let mut sums = Sums::new();
        for (revenue, amount) in self.of(months, split) {
            let sum = sums.entry(revenue.customer.clone()).or_default();
            *sum = sum.plus(amount)?;
        }
        Ok(Some(sums))
    }

    /// Committed revenue by customer at the end of a month.
    fn committed(&self, month: i32, split: &Split) -> Result<Sums, MoneyError> {
        let mut sums = Sums::new();
        for (contract, amount) in self.committed.get(&month).into_iter().flatten() {
            if split.takes_contract(contract) {
                let sum = sums.entry(contract.parent_account.clone()).or_default();
                *sum = sum.plus(*amount)?;
            }
        }
        Ok(sums)
    }

    /// Customers with a contract at the end of a month.
    fn customers(&self, month: i32, split: &Split) -> BTreeSet<&str> {
        let held = self.committed.get(&month).into_iter().flatten();
        let taken = held.filter(|(contract, _)| split.takes_contract(contract));
        taken.map(|(contract, _)| contract.parent_account.as_str()).collect()
    }

    /// Customers whose first contract began in the month, and who brought them.
    fn new_customers(&self, split: &Split) -> BTreeMap<&str, Option<&str>> {
        let mut first: BTreeMap<&str, &Contract> = BTreeMap::new();
        for contract in self.contracts.all() {
            let known = first.entry(&contract.parent_account).or_insert(contract);
            if contract.effective_from < known.effective_from {
                *known = contract;
            }
        }
        let of_month = start(self.month)..start(self.month + 1);
        let new = first
            .into_iter()
            .filter(|(_, contract)| of_month.contains(&contract.effective_from) && split.takes_contract(contract));
        new.map(|(customer, contract)| (customer, contract.partner.as_deref()))
            .collect()
    }

    fn no_ledger(&self, from: i32) -> String {
        format!("the ledger from {} on", &last_day(from).to_string()[..7])
    }
}

/// What customers of then pay now, and what they paid then; with `at_most`, no one more than then.
fn retained(now: &Sums, then: &Sums, at_most: bool) -> Result<Sides, MoneyError> {
    let mut kept = Money::ZERO;
    for (customer, before) in then.iter().filter(|(_, before)| **before > Money::ZERO) {
        let after = now.get(customer).copied().unwrap_or_default();
        kept = kept.plus(if at_most { after.min(*before) } else { after })?;
    }
    Ok(Ok((kept, total(then)?)))
}

fn total(sums: &Sums) -> Result<Money, MoneyError> {
    Money::sum(sums.values().copied())
}

fn whole(count: usize) -> Result<Money, MoneyError> {
    Money::from_parts(count as i128 * 10_i128.pow(18))
}

impl Figure {
    fn amount(mut self, amount: Result<Money, String>) -> Figure {
        match amount {
            Ok(amount) => {
                self.value = Some(Value::Amount(amount));
                self.numerator = Some(amount);
            }
            Err(missing) => self.missing = Some(missing),
        }
        self
    }

    fn count(mut self, count: Result<i64, String>) -> Figure {
        match count {
            Ok(count) => self.value = Some(Value::Count(count)),
            Err(missing) => self.missing = Some(missing),
        }
        self
    }

    fn ratio(mut self, sides: Sides) -> Result<Figure, MoneyError> {
        match sides {
            Ok((numerator, denominator)) => {
                (self.numerator, self.denominator) = (Some(numerator), Some(denominator));
                match denominator > Money::ZERO {
                    true => self.value = Some(Value::Ratio(ratio(numerator, whole(1)?, denominator)?)),
                    false => self.missing = Some("the denominator is zero".to_owned()),
                }
            }
            Err(missing) => self.missing = Some(missing),
        }
        Ok(self)
    }

    fn ratio_of_money(self, sides: Sides) -> Result<Figure, MoneyError> {
        let mut figure = self.ratio(sides)?;
        if let Some(Value::Ratio(amount)) = figure.value {
            figure.value = Some(Value::Amount(amount));
        }
        Ok(figure)
    }
}
