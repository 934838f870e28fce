//! What was agreed with each tenant: currency, negotiated prices, and what invoices and figures need.
//!
//! A tenant may have several contracts, one after the other; each holds until the next begins, or until
//! it ends. A tenant without one is served at list prices in the book's default currency.

use std::collections::BTreeMap;

use iso_currency::Country;
use jiff::Timestamp;
use schemas::ids::TenantId;
use serde::{Deserialize, Serialize};

use crate::credit::{self, Credit};
use crate::money::{Currency, Money};
use crate::price::{self, Points};
use crate::price_book::PriceBook;
use crate::rate::PricePoint;
use crate::sku::{Sku, SkuPattern};
use crate::source::{At, Fields, FileError, FileErrors, Source};
use crate::tax::{self, Tax};

/// How large a customer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// Large.
    Enterprise,
    /// In between.
    MidMarket,
    /// Small.
    Smb,
}

impl Segment {
    /// Every segment.
    pub const ALL: [Segment; 3] = [Segment::Enterprise, Segment::MidMarket, Segment::Smb];

    /// As written in the file and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Segment::Enterprise => "enterprise",
            Segment::MidMarket => "mid_market",
            Segment::Smb => "smb",
        }
    }
}

/// Days from an invoice's date to its due date, where the contract does not say.
pub const PAYMENT_DAYS: i64 = 30;

/// One contract of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// Who.
    pub tenant_id: TenantId,
    /// Its name, unique among the tenant's contracts.
    pub version: String,
    /// First moment it holds.
    pub effective_from: Timestamp,
    /// First moment it no longer holds; none if it ends where the tenant's next contract begins.
    pub effective_until: Option<Timestamp>,
    /// How large the customer is.
    pub segment: Segment,
    /// Whose revenue it is in figures by customer; the tenant itself where nothing is said.
    pub parent_account: String,
    /// Of prices and invoices.
    pub currency: Currency,
    /// Billing country, ISO 3166-1 alpha-2.
    pub country: String,
    /// Who brought the customer.
    pub partner: Option<String>,
    /// Which tax its invoices carry.
    pub tax: Tax,
    /// Days from an invoice's date to its due date.
    pub payment_days: i64,
    /// Charged every month, whatever is used.
    pub fee_per_month: Option<Money>,
    /// Least that a month's usage is charged at.
    pub minimum_per_month: Option<Money>,
    /// Paid ahead or granted, drawn down by usage.
    pub credits: Vec<Credit>,
    /// SHA-256 of what it says, in hexadecimal: of every field, not of its layout in the file.
    pub sha256: String,
    prices: BTreeMap<SkuPattern, Points>,
    file: String,
    line: usize,
}

impl Contract {
    /// The negotiated price of `sku`; none if it is sold at list.
    pub fn negotiated(&self, sku: &Sku) -> Option<&PricePoint> {
        SkuPattern::of(sku)
            .iter()
            .find_map(|pattern| self.prices.get(pattern))?
            .get(&self.currency)
    }

    fn holds_at(&self, time: Timestamp) -> bool {
        self.effective_from <= time && self.effective_until.is_none_or(|until| time < until)
    }
}

/// Every tenant's contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contracts {
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    by_tenant: BTreeMap<TenantId, Vec<Contract>>,
}

impl Contracts {
    /// Reads a contracts file. `source_name` is what errors call it.
    pub fn parse(text: &str, source_name: &str) -> Result<Self, FileErrors> {
        let source = Source::new(text, source_name);
        let contracts = read(&source);
        source.finish(contracts)
    }

    /// Checks that `book` has prices in every contract's currency. Call it where both files are loaded:
    /// what passes here can be rated.
    pub fn check(&self, book: &PriceBook) -> Result<(), FileErrors> {
        let mut problems = Vec::new();
        for contract in self.all() {
            let lacks =
                |currency| move |version: &&crate::price_book::PriceVersion| !version.currencies.contains(currency);
            for version in book.versions().iter().filter(lacks(&contract.currency)) {
                problems.push(FileError {
                    file: contract.file.clone(),
                    line: contract.line,
                    problem: format!(
                        "{} is billed in {}, but version {} of price book {} has no prices in it; add them there",
                        contract.tenant_id, contract.currency, version.version, book.id
                    ),
                });
            }
        }
        problems.sort();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(FileErrors(problems))
        }
    }

    /// The contract that holds for `tenant` at `time`; none means list prices.
    pub fn at(&self, tenant: &str, time: Timestamp) -> Option<&Contract> {
        self.of(tenant).iter().find(|contract| contract.holds_at(time))
    }

    /// The tenant's contract of that name, which stays what a row was priced at.
    pub fn version(&self, tenant: &str, name: &str) -> Option<&Contract> {
        self.of(tenant).iter().find(|contract| contract.version == name)
    }

    /// The tenant's contracts, in order of time.
    pub fn of(&self, tenant: &str) -> &[Contract] {
        self.by_tenant.get(tenant).map_or(&[], Vec::as_slice)
    }

    /// Every contract, in order of tenant and time.
    pub fn all(&self) -> impl Iterator<Item = &Contract> {
        self.by_tenant.values().flatten()
    }
}

fn read(source: &Source<'_>) -> Option<Contracts> {
    let table = source.read()?;
    let mut fields = Fields::new(source, &table, 0..0);
    let unit_tokens = price::unit_tokens(source, &mut fields);
    let list = fields.list("contract").map(At::into_inner).unwrap_or_default();
    fields.finish();
    let mut by_tenant: BTreeMap<TenantId, Vec<Contract>> = BTreeMap::new();
    for fields in list {
        let span = fields.span();
        let Some(contract) = read_contract(source, fields, unit_tokens.unwrap_or(1)) else {
            continue;
        };
        let (tenant, version) = (contract.tenant_id.clone(), contract.version.clone());
        let contracts = by_tenant.entry(tenant.clone()).or_default();
        if contracts.iter().any(|other| other.version == version) {
            let problem = format!("{tenant} has a contract version {version} already; give this one another name");
            source.report(span.clone(), problem);
        }
        match contracts.binary_search_by_key(&contract.effective_from, |other| other.effective_from) {
            Ok(at) => {
                let other = &contracts[at].version;
                let problem = format!("contract {other} of {tenant} begins at this moment too; let one begin later");
                source.report(span, problem);
            }
            Err(at) => contracts.insert(at, contract),
        }
    }
    for contracts in by_tenant.values_mut() {
        one_after_the_other(source, contracts);
        credits_once(source, contracts);
    }
    Some(Contracts {
        sha256: source.sha256(),
        by_tenant,
    })
}

/// A credit belongs to one contract; it outlives it.
fn credits_once(source: &Source<'_>, contracts: &[Contract]) {
    let mut seen = BTreeMap::new();
    for contract in contracts {
        for credit in &contract.credits {
            if let Some(other) = seen.insert(&credit.id, &contract.version) {
                let (id, tenant) = (&credit.id, &contract.tenant_id);
                let problem = format!(
                    "credit {id} is in contract {other} of {tenant} already, and goes on there; remove it here, or \
                     give it another id"
                );
                source.report_line(contract.line, problem);
            }
        }
    }
}

/// Ends each contract where the next begins, unless it has ended before.
fn one_after_the_other(source: &Source<'_>, contracts: &mut [Contract]) {
    for at in 1..contracts.len() {
        let (next, version) = (contracts[at].effective_from, contracts[at].version.clone());
        let contract = &mut contracts[at - 1];
        if contract.effective_until.is_some_and(|until| until > next) {
            let problem = format!(
                "contract {} of {} holds until after {next}, when {version} begins; end it there, or leave \
                 effective_until out",
                contract.version, contract.tenant_id
            );
            source.report_line(contract.line, problem);
        }
        contract.effective_until = Some(contract.effective_until.map_or(next, |until| until.min(next)));
    }
}

fn read_contract(source: &Source<'_>, mut fields: Fields<'_, '_>, unit_tokens: i64) -> Option<Contract> {
    let (line, sha256) = (source.line(&fields.span()), fields.sha256(unit_tokens));
    let tenant_id = fields.parsed::<TenantId>("tenant_id", "\"acme\"");
    let version = fields.name("version", "\"acme-2026.1\"");
    let effective_from = fields.time("effective_from");
    let until = fields.optional_time("effective_until");
    let segment = fields.choice("segment", &Segment::ALL, Segment::as_str);
    let parent = fields.optional_name("parent_account");
    let currency = fields.parsed::<Currency>("currency", "\"EUR\"");
    let country = country(source, &mut fields);
    let partner = fields.optional_name("partner");
    let tax = tax::read(source, &mut fields);
    let payment_days = payment_days(source, &mut fields);
    let fee_per_month = amount(source, &mut fields, "fee_per_month", currency);
    let minimum_per_month = amount(source, &mut fields, "minimum_per_month", currency);
    let credits = credit::read(source, &mut fields, currency);
    let list = fields.list("price").map(At::into_inner).unwrap_or_default();
    fields.finish();

    let prices = price::prices(source, list, unit_tokens);
    if let Some(currency) = currency {
        for price in prices.values().filter(|price| !price.currencies.iter().eq([&currency])) {
            let problem = format!("a negotiated price must be in {currency}, the contract's currency, and in no other");
            source.report(price.span.clone(), problem);
        }
    }
    let (tenant_id, effective_from) = (tenant_id?, *effective_from?.get_ref());
    if let Some(until) = until.as_ref().filter(|until| *until.get_ref() <= effective_from) {
        source.report(
            until.span(),
            "effective_until must be after effective_from; correct one of them",
        );
    }
    Some(Contract {
        parent_account: parent.map_or_else(|| tenant_id.to_string(), |parent| (*parent.get_ref()).to_owned()),
        tenant_id,
        version: (*version?.get_ref()).to_owned(),
        effective_from,
        effective_until: until.map(At::into_inner),
        segment: segment?,
        currency: currency?,
        country: country?,
        partner: partner.map(|partner| (*partner.get_ref()).to_owned()),
        tax: tax?,
        payment_days: payment_days?,
        fee_per_month,
        minimum_per_month,
        credits,
        sha256,
        prices: prices
            .into_iter()
            .map(|(pattern, price)| (pattern, price.points))
            .collect(),
        file: source.name().to_owned(),
        line,
    })
}

fn country(source: &Source<'_>, fields: &mut Fields<'_, '_>) -> Option<String> {
    let text = fields.text("country", "\"DE\"")?;
    let country = *text.get_ref();
    if country.parse::<Country>().is_ok() {
        return Some(country.to_owned());
    }
    let problem = format!("country must be two capital letters of ISO 3166-1, like DE, but is {country:?}");
    source.report(text.span(), problem);
    None
}

fn payment_days(source: &Source<'_>, fields: &mut Fields<'_, '_>) -> Option<i64> {
    let Some(days) = fields.optional_integer("payment_days") else {
        return Some(PAYMENT_DAYS);
    };
    if !(0..=365).contains(days.get_ref()) {
        source.report(
            days.span(),
            format!("payment_days must be 0 to 365, but is {}", days.get_ref()),
        );
        return None;
    }
    Some(days.into_inner())
}

/// An amount that can be invoiced: not negative, whole minor units.
pub(crate) fn amount(
    source: &Source<'_>,
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    currency: Option<Currency>,
) -> Option<Money> {
    let text = fields.optional_text(key)?;
    let amount = text
        .get_ref()
        .parse::<Money>()
        .map_err(|error| format!("{key}: {error}"));
    let (amount, currency) = (source.ok(text.span(), amount)?, currency?);
    if amount < Money::ZERO || amount.rounded(currency) != Ok(amount) {
        let decimals = currency.minor_digits();
        let problem = format!("{key} must not be negative and have at most {decimals} decimals, as {currency} has");
        source.report(text.span(), problem);
    }
    Some(amount)
}
