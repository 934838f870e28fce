//! What was agreed with each tenant: currency, negotiated prices, and what invoices and figures need.
//!
//! A tenant may have several contracts, one after the other; each holds until the next begins. A tenant
//! without one is served at list prices in the book's default currency.

use std::collections::BTreeMap;

use iso_currency::Country;
use jiff::Timestamp;
use schemas::ids::TenantId;
use serde::Deserialize;
use toml::Spanned;

use crate::money::{Currency, Money};
use crate::price::{self, Points, RawPrice};
use crate::price_book::{PriceBook, name, time};
use crate::rate::PricePoint;
use crate::sku::{Sku, SkuPattern};
use crate::source::{FileError, Source};

/// How large a customer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
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
    /// As written in the file and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Segment::Enterprise => "enterprise",
            Segment::MidMarket => "mid_market",
            Segment::Smb => "smb",
        }
    }
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContracts {
    unit_tokens: Spanned<i64>,
    #[serde(default)]
    contract: Vec<RawContract>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContract {
    tenant_id: Spanned<String>,
    version: Spanned<String>,
    effective_from: Spanned<String>,
    segment: Segment,
    currency: Spanned<String>,
    country: Spanned<String>,
    tax_category: Spanned<String>,
    partner: Option<Spanned<String>>,
    minimum_per_month: Option<Spanned<String>>,
    prepaid_credit: Option<Spanned<String>>,
    #[serde(default)]
    price: Vec<RawPrice>,
}

/// One contract of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// Who.
    pub tenant_id: TenantId,
    /// Its name, unique among the tenant's contracts.
    pub version: String,
    /// First moment it holds; it ends where the tenant's next contract begins.
    pub effective_from: Timestamp,
    /// How large the customer is.
    pub segment: Segment,
    /// Of prices and invoices.
    pub currency: Currency,
    /// Billing country, ISO 3166-1 alpha-2.
    pub country: String,
    /// Who brought the customer.
    pub partner: Option<String>,
    /// Tax category code of UNCL5305, as EN 16931 invoices carry it, e.g. `S`.
    pub tax_category: String,
    /// Least that a month is invoiced at.
    pub minimum_per_month: Option<Money>,
    /// Paid ahead, drawn down by usage.
    pub prepaid_credit: Option<Money>,
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
    pub fn parse(text: &str, source_name: &str) -> Result<Self, FileError> {
        let source = Source {
            name: source_name,
            text,
        };
        let raw: RawContracts = source.read()?;
        let unit_tokens = price::unit_tokens(source, &raw.unit_tokens)?;
        let mut by_tenant: BTreeMap<TenantId, Vec<Contract>> = BTreeMap::new();
        for raw in &raw.contract {
            let contract = raw.checked(source, unit_tokens)?;
            let contracts = by_tenant.entry(contract.tenant_id.clone()).or_default();
            if contracts.iter().any(|other| other.version == contract.version) {
                let problem = format!(
                    "{} has a contract version {} already",
                    contract.tenant_id, contract.version
                );
                return Err(source.error(raw.version.span(), problem));
            }
            match contracts.binary_search_by_key(&contract.effective_from, |other| other.effective_from) {
                Ok(_) => {
                    let problem = format!("another contract of {} begins at this moment too", contract.tenant_id);
                    return Err(source.error(raw.effective_from.span(), problem));
                }
                Err(at) => contracts.insert(at, contract),
            }
        }
        Ok(Contracts {
            sha256: source.sha256(),
            by_tenant,
        })
    }

    /// Checks that `book` has prices in every contract's currency. Call it where both files are loaded:
    /// what passes here can be rated.
    pub fn check(&self, book: &PriceBook) -> Result<(), FileError> {
        for contract in self.by_tenant.values().flatten() {
            let unpriced = book
                .versions()
                .iter()
                .find(|version| !version.currencies.contains(&contract.currency));
            if let Some(version) = unpriced {
                return Err(FileError {
                    file: contract.file.clone(),
                    line: contract.line,
                    problem: format!(
                        "{} is billed in {}, but version {} of price book {} has no prices in it; add them there",
                        contract.tenant_id, contract.currency, version.version, book.id
                    ),
                });
            }
        }
        Ok(())
    }

    /// The contract that holds for `tenant` at `time`; none means list prices.
    pub fn at(&self, tenant: &TenantId, time: Timestamp) -> Option<&Contract> {
        let contracts = self.by_tenant.get(tenant)?;
        let after = contracts.partition_point(|contract| contract.effective_from <= time);
        contracts.get(after.checked_sub(1)?)
    }

    /// The tenant's contract of that name, which stays what a row was priced at.
    pub fn version(&self, tenant: &TenantId, name: &str) -> Option<&Contract> {
        self.by_tenant
            .get(tenant)?
            .iter()
            .find(|contract| contract.version == name)
    }
}

impl RawContract {
    fn checked(&self, source: Source<'_>, unit_tokens: i64) -> Result<Contract, FileError> {
        let tenant_id = self.tenant_id.get_ref().parse::<TenantId>();
        let tenant_id = tenant_id.map_err(|error| source.error(self.tenant_id.span(), error.to_string()))?;
        name(source, "version", &self.version)?;
        let currency = self.currency.get_ref().parse::<Currency>();
        let currency = currency.map_err(|error| source.error(self.currency.span(), error.to_string()))?;
        let country = self.country.get_ref();
        if country.parse::<Country>().is_err() {
            let problem = format!("country must be two capital letters of ISO 3166-1, like DE, but is {country:?}");
            return Err(source.error(self.country.span(), problem));
        }
        name(source, "tax_category", &self.tax_category)?;
        if let Some(partner) = &self.partner {
            name(source, "partner", partner)?;
        }
        let prices = price::prices(source, &self.price, unit_tokens)?;
        for raw in &self.price {
            let points = SkuPattern::parse(raw.sku_id())
                .ok()
                .and_then(|pattern| prices.get(&pattern));
            if points.is_none_or(|points| points.len() != 1 || !points.contains_key(&currency)) {
                let problem =
                    format!("a negotiated price must be in {currency}, the contract's currency, and in no other");
                return Err(source.error(raw.span(), problem));
            }
        }
        Ok(Contract {
            tenant_id,
            version: self.version.get_ref().clone(),
            effective_from: time(source, "effective_from", &self.effective_from)?,
            segment: self.segment,
            currency,
            country: country.clone(),
            partner: self.partner.as_ref().map(|partner| partner.get_ref().clone()),
            tax_category: self.tax_category.get_ref().clone(),
            minimum_per_month: amount(source, "minimum_per_month", self.minimum_per_month.as_ref(), currency)?,
            prepaid_credit: amount(source, "prepaid_credit", self.prepaid_credit.as_ref(), currency)?,
            prices,
            file: source.name.to_owned(),
            line: source.error(self.currency.span(), "").line,
        })
    }
}

/// An amount that can be invoiced: not negative, whole minor units.
fn amount(
    source: Source<'_>,
    key: &str,
    raw: Option<&Spanned<String>>,
    currency: Currency,
) -> Result<Option<Money>, FileError> {
    let Some(raw) = raw else { return Ok(None) };
    let amount = raw.get_ref().parse::<Money>();
    let amount = amount.map_err(|error| source.error(raw.span(), format!("{key}: {error}")))?;
    if amount < Money::ZERO || amount.rounded(currency) != Ok(amount) {
        let decimals = currency.minor_digits();
        let problem = format!("{key} must not be negative and have at most {decimals} decimals, as {currency} has");
        return Err(source.error(raw.span(), problem));
    }
    Ok(Some(amount))
}
