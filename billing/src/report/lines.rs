//! The rated lines that quantities make.

use std::collections::VecDeque;
use std::iter::Peekable;

use schemas::ids::TenantId;
use schemas::request::ServiceTier;

use super::ReportError;
use super::invoiced::{Bill, Invoiced, Rounded};
use super::sums::{Charge, Group, Groups, Meters, Part, Sold};
use crate::contract::{Contract, Contracts};
use crate::money::{Currency, Money, MoneyError};
use crate::price_book::{PriceBook, PriceVersion};
use crate::rate::rate;
use crate::sku::{Meter, Sku};
use crate::sorted::take_if;

/// One SKU of one tenant in one period at one price: a line of an invoice, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Who is billed.
    pub tenant: TenantId,
    /// Month, like `2026-10`.
    pub period: String,
    /// Of all amounts.
    pub currency: Currency,
    /// What was used.
    pub sku: Sku,
    /// Which part of the line this is, if it is not the whole. The parts add up to the line exactly, in
    /// every amount; list and contracted ones of a price with steps are shared by quantity.
    pub part: Part,
    /// How much, in the unit of the meter.
    pub quantity: i64,
    /// Version of the price book.
    pub price_version: String,
    /// Version of the contract; none at list.
    pub contract_version: Option<String>,
    /// Whether the price was negotiated.
    pub negotiated: bool,
    /// At list price, exact.
    pub list: Money,
    /// At the price that holds for the tenant, exact.
    pub contracted: Money,
    /// What invoices bill of it, in whole minor units. They round a SKU's month of use as one, so of several
    /// lines each has what it adds to the rounded sum, and the last the rest.
    pub billed: Money,
}

/// A group that names a price or a contract that was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrated {
    /// Whose rows.
    pub tenant: TenantId,
    /// Their month.
    pub period: String,
    /// What they name.
    pub what: String,
}

/// What a billable group makes.
pub(crate) enum Rated {
    Line(Line),
    Unrated(Unrated),
}

/// What groups are rated with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rating<'a> {
    pub(crate) book: &'a PriceBook,
    pub(crate) contracts: &'a Contracts,
    /// What closed months billed of the groups.
    pub(crate) invoiced: &'a Invoiced,
}

impl<'a> Rating<'a> {
    /// Rates every billable group, once for all of its parts. Lines come in order of tenant, month, currency, SKU
    /// and price.
    pub(crate) fn rated(self, groups: &'a Groups) -> impl Iterator<Item = Result<Rated, ReportError>> + 'a {
        Lines {
            rating: self,
            groups: groups.iter().peekable(),
            left: self.invoiced.iter().peekable(),
            ready: VecDeque::new(),
        }
    }
}

/// Makes the lines of one model and tier at a time, and between them those that only invoices have.
struct Lines<'a, G: Iterator, I: Iterator> {
    rating: Rating<'a>,
    groups: Peekable<G>,
    left: Peekable<I>,
    ready: VecDeque<Rated>,
}

impl<'a, G, I> Iterator for Lines<'a, G, I>
where
    G: Iterator<Item = Result<(Group, Meters), ReportError>>,
    I: Iterator<Item = Result<(Rounded, Bill), ReportError>>,
{
    type Item = Result<Rated, ReportError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl<'a, G, I> Lines<'a, G, I>
where
    G: Iterator<Item = Result<(Group, Meters), ReportError>>,
    I: Iterator<Item = Result<(Rounded, Bill), ReportError>>,
{
    /// The next lines; false if there are no more.
    fn fill(&mut self) -> Result<bool, ReportError> {
        let first = self.groups.next().transpose()?;
        if first.is_none() && self.left.peek().is_none() {
            return Ok(false);
        }
        let mut groups: Vec<(Group, Meters)> = first.into_iter().collect();
        let is_sold_with = |group: &Group, first: Option<&(Group, Meters)>| {
            first.is_some_and(|(first, _)| group.sold() == first.sold())
        };
        while let Some(next) = take_if(&mut self.groups, |(next, _)| is_sold_with(next, groups.first()))? {
            groups.push(next);
        }
        let bills = self.bills_up_to(groups.first().map(|(group, _)| group.sold()))?;
        let mut lines = Vec::new();
        for parts in groups.chunk_by(|(a, _), (b, _)| a.is_of_line(b)) {
            let group = &parts[0].0;
            match Terms::of(group, self.rating.book, self.rating.contracts) {
                Ok(None) => {}
                Ok(Some(terms)) => terms.add_lines(parts, &mut lines)?,
                Err(what) => self.ready.push_back(Rated::Unrated(Unrated {
                    tenant: group.tenant.clone(),
                    period: group.period.clone(),
                    what,
                })),
            }
        }
        bill(&mut lines, bills)?;
        self.ready.extend(lines.into_iter().map(Rated::Line));
        Ok(true)
    }

    /// What invoices bill of what comes before others than `sold`; of everything, where nothing is sold any more.
    fn bills_up_to(&mut self, sold: Option<Sold<'_>>) -> Result<Vec<(Rounded, Bill)>, ReportError> {
        let mut bills = Vec::new();
        let is_before = |(rounded, _): &(Rounded, Bill)| {
            let period = rounded.period.to_string();
            let sku = (&*rounded.sku.model_id, rounded.sku.tier);
            let of = (rounded.tenant.as_str(), &*period, Some((rounded.currency.code(), sku)));
            sold.is_none_or(|sold| of <= sold)
        };
        while let Some(next) = take_if(&mut self.left, is_before)? {
            bills.push(next);
        }
        Ok(bills)
    }
}

/// Sorts the lines, says of each what invoices bill of it, and adds those that only invoices have: where all was
/// taken back, and the roundings of several invoices do not cancel out.
fn bill(lines: &mut Vec<Line>, mut bills: Vec<(Rounded, Bill)>) -> Result<(), ReportError> {
    lines.sort_by(|a, b| a.key().cmp(&b.key()));
    let nothing = Bill::default();
    for lines in lines.chunk_by_mut(Line::is_rounded_with) {
        let place = bills.iter().position(|(rounded, _)| rounded.takes(&lines[0]));
        let before = place.map(|place| bills.remove(place).1);
        let shared = share_billed(lines, before.as_ref().unwrap_or(&nothing));
        shared.map_err(|source| money(&lines[0].tenant, &lines[0].period, source))?;
    }
    if !bills.is_empty() {
        for (rounded, bill) in &bills {
            lines.extend(left(rounded, bill)?);
        }
        lines.sort_by(|a, b| a.key().cmp(&b.key()));
    }
    Ok(())
}

/// The line of what only invoices have, if it comes to something.
fn left(rounded: &Rounded, bill: &Bill) -> Result<Option<Line>, ReportError> {
    let period = rounded.period.to_string();
    let billed = bill.once_all(Money::ZERO, rounded.currency);
    let billed = billed.map_err(|source| money(&rounded.tenant, &period, source))?;
    let sold = bill.at.last().filter(|_| billed != Money::ZERO);
    Ok(sold.map(|sold| Line {
        tenant: rounded.tenant.clone(),
        currency: rounded.currency,
        sku: rounded.sku.clone(),
        part: Part::default(),
        quantity: 0,
        price_version: sold.price_version.clone(),
        contract_version: sold.contract_version.clone(),
        negotiated: false,
        list: Money::ZERO,
        contracted: Money::ZERO,
        billed,
        period,
    }))
}

fn money(tenant: &TenantId, period: &str, source: MoneyError) -> ReportError {
    ReportError::Money {
        tenant: tenant.to_string(),
        period: period.to_owned(),
        source,
    }
}

fn share_billed(lines: &mut [Line], before: &Bill) -> Result<(), MoneyError> {
    let contracted = Money::sum(lines.iter().map(|line| line.contracted))?;
    let (last, others) = lines.split_last_mut().expect("a chunk has a line");
    let (mut exact, mut rounded) = (Money::ZERO, Money::ZERO);
    for line in others {
        exact = exact.plus(line.contracted)?;
        let up_to = exact.rounded(line.currency)?;
        line.billed = up_to.minus(rounded)?;
        rounded = up_to;
    }
    last.billed = before.once_all(contracted, last.currency)?.minus(rounded)?;
    Ok(())
}

impl Line {
    /// Lines come in this order.
    fn key(&self) -> impl Ord + '_ {
        let Line { tenant, period, .. } = self;
        (
            tenant,
            period,
            self.currency,
            &self.sku,
            &self.price_version,
            &self.part,
        )
    }

    /// Whether invoices round both as one.
    fn is_rounded_with(&self, other: &Line) -> bool {
        (&self.tenant, &self.period, self.currency, &self.sku)
            == (&other.tenant, &other.period, other.currency, &other.sku)
    }
}

/// What a billable group is rated with.
struct Terms<'a> {
    version: &'a PriceVersion,
    contract: Option<&'a Contract>,
    currency: Currency,
    model_id: &'a str,
    tier: ServiceTier,
}

impl<'a> Terms<'a> {
    /// None if the group is free of charge; what was not given if it cannot be rated.
    fn of(group: &'a Group, book: &'a PriceBook, contracts: &'a Contracts) -> Result<Option<Self>, String> {
        let Charge::Billable {
            currency,
            model_id,
            tier,
            price_book,
            price_version,
            contract_version,
        } = &group.charge
        else {
            return Ok(None);
        };
        let version = book.version(price_version).filter(|_| *price_book == book.id);
        let version = version.ok_or_else(|| format!("version {price_version} of price book {price_book}"))?;
        let contract = contract_version.as_ref().map(|name| {
            let contract = contracts.version(group.tenant.as_str(), name);
            contract.ok_or_else(|| format!("contract version {name} of {}", group.tenant))
        });
        let priced = currency
            .parse()
            .ok()
            .filter(|currency| version.currencies.contains(currency));
        let currency = priced.ok_or_else(|| format!("prices in {currency} in price version {price_version}"))?;
        Ok(Some(Terms {
            version,
            contract: contract.transpose()?,
            currency,
            model_id,
            tier: *tier,
        }))
    }

    /// The lines of all meters, a line each part.
    fn add_lines(&self, parts: &[(Group, Meters)], lines: &mut Vec<Line>) -> Result<(), ReportError> {
        let group = &parts[0].0;
        let money = |source| money(&group.tenant, &group.period, source);
        let mut whole = Meters::default();
        for (_, meters) in parts {
            whole = whole.plus(*meters).map_err(|column| ReportError::Quantity {
                tenant: group.tenant.to_string(),
                period: group.period.clone(),
                column,
            })?;
        }
        for meter in Meter::ALL {
            if let Some(line) = self.line(group, meter, whole.get(meter)).map_err(money)? {
                let quantities: Vec<i64> = parts.iter().map(|(_, meters)| meters.get(meter)).collect();
                let shared = Shared::of(&line, &quantities).map_err(money)?;
                let of_parts = parts.iter().zip(quantities).zip(shared.0);
                lines.extend(of_parts.filter(|((_, quantity), _)| *quantity != 0).map(
                    |(((part, _), quantity), [list, contracted])| Line {
                        part: part.part.clone(),
                        quantity,
                        list,
                        contracted,
                        ..line.clone()
                    },
                ));
            }
        }
        Ok(())
    }

    /// None for requests where they are free.
    fn line(&self, group: &Group, meter: Meter, quantity: i64) -> Result<Option<Line>, MoneyError> {
        let sku = Sku {
            model_id: self.model_id.to_owned(),
            tier: self.tier,
            meter,
        };
        let negotiated = self.contract.and_then(|contract| contract.negotiated(&sku));
        let list = self.version.list(&sku, self.currency);
        let Some(contracted) = negotiated.or(list) else {
            return Ok(None);
        };
        Ok(Some(Line {
            tenant: group.tenant.clone(),
            period: group.period.clone(),
            currency: self.currency,
            sku,
            part: Part::default(),
            quantity,
            price_version: self.version.version.clone(),
            contract_version: self.contract.map(|contract| contract.version.clone()),
            negotiated: negotiated.is_some(),
            list: rate(list.unwrap_or(contracted), quantity)?,
            contracted: rate(contracted, quantity)?,
            billed: Money::ZERO,
        }))
    }
}

/// The amounts of a line's parts: list and contracted.
struct Shared(Vec<[Money; 2]>);

impl Shared {
    /// Shares each amount of `line` by quantity, so that the parts add up to it to the last of 18 decimals.
    fn of(line: &Line, quantities: &[i64]) -> Result<Self, MoneyError> {
        let list = share(line.list, quantities)?;
        let contracted = share(line.contracted, quantities)?;
        Ok(Shared(
            list.into_iter().zip(contracted).map(<[Money; 2]>::from).collect(),
        ))
    }
}

/// `amount` by `quantities`: the share of the first n together is what their quantity earns, rounded down, so
/// that nothing is lost or made. Nothing is shared where the quantities cancel out, for then nothing was
/// charged.
pub(super) fn share(amount: Money, quantities: &[i64]) -> Result<Vec<Money>, MoneyError> {
    let whole: i128 = quantities.iter().map(|quantity| i128::from(*quantity)).sum();
    if whole == 0 {
        return Ok(vec![Money::ZERO; quantities.len()]);
    }
    let (each, rest) = (amount.parts().div_euclid(whole), amount.parts().rem_euclid(whole));
    let (mut quantity, mut before) = (0, 0);
    let mut earned = |more: &i64| {
        quantity += i128::from(*more);
        // rest < |whole| < 2⁷⁰ and |quantity| < 2⁷⁰; tokens of real parts are far below.
        let product = each.checked_mul(quantity).zip(rest.checked_mul(quantity));
        let up_to = product.and_then(|(whole_parts, rest)| whole_parts.checked_add(rest.div_euclid(whole)));
        let parts = up_to.map(|up_to| up_to - std::mem::replace(&mut before, up_to));
        Money::from_parts(parts.unwrap_or(i128::MAX))
    };
    quantities.iter().map(&mut earned).collect()
}
