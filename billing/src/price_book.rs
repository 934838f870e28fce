//! The public prices: versions that follow one another without gap or overlap.
//!
//! A version is one TOML file and never changes once published; its SHA-256 says which one was used. A
//! version must price every token of every model in each of its currencies, so that rating a row cannot
//! fail for want of a price.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemas::request::ServiceTier;
use serde::Deserialize;
use toml::Spanned;

use crate::money::Currency;
use crate::price::{self, Points, RawPrice};
use crate::rate::PricePoint;
use crate::sku::{Meter, Sku, SkuPattern};
use crate::source::{FileError, Source};

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVersion {
    id: Spanned<String>,
    version: Spanned<String>,
    effective_from: Spanned<String>,
    unit_tokens: Spanned<i64>,
    rounding: Spanned<String>,
    default_currency: Spanned<String>,
    price: Vec<RawPrice>,
}

/// One version of a price book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceVersion {
    /// Its name, unique in the book.
    pub version: String,
    /// First moment it prices; it ends where the next version begins.
    pub effective_from: Timestamp,
    /// SHA-256 of its file, in hexadecimal.
    pub sha256: String,
    /// For tenants without a contract.
    pub default_currency: Currency,
    /// Currencies that every price is given in.
    pub currencies: BTreeSet<Currency>,
    prices: BTreeMap<SkuPattern, Points>,
}

impl PriceVersion {
    /// The list price of `sku`. None only for a currency that the version does not have, and for
    /// [`Meter::Requests`] where requests are free.
    pub fn list(&self, sku: &Sku, currency: Currency) -> Option<&PricePoint> {
        SkuPattern::of(sku)
            .iter()
            .find_map(|pattern| self.prices.get(pattern))?
            .get(&currency)
    }
}

/// Every version of one price book, in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceBook {
    /// Its name.
    pub id: String,
    versions: Vec<PriceVersion>,
}

impl PriceBook {
    /// Reads a book of one version. `source_name` is what errors call the file.
    pub fn parse(text: &str, source_name: &str) -> Result<Self, FileError> {
        let source = Source {
            name: source_name,
            text,
        };
        let (raw, version) = read_version(source)?;
        Ok(PriceBook {
            id: raw.id.into_inner(),
            versions: vec![version],
        })
    }

    /// The book with one more version, read from a file of its own; versions may come in any order.
    pub fn with(mut self, text: &str, source_name: &str) -> Result<Self, FileError> {
        let source = Source {
            name: source_name,
            text,
        };
        let (raw, version) = read_version(source)?;
        if *raw.id.get_ref() != self.id {
            let problem = format!(
                "id must be {:?}, that of the book's other versions, but is {:?}",
                self.id,
                raw.id.get_ref()
            );
            return Err(source.error(raw.id.span(), problem));
        }
        if self.version(&version.version).is_some() {
            let problem = format!(
                "version {} is in the book already; give this file another name",
                version.version
            );
            return Err(source.error(raw.version.span(), problem));
        }
        match self
            .versions
            .binary_search_by_key(&version.effective_from, |version| version.effective_from)
        {
            Ok(at) => {
                let other = &self.versions[at].version;
                let problem = format!("version {other} begins at this moment too; two prices for one moment");
                Err(source.error(raw.effective_from.span(), problem))
            }
            Err(at) => {
                self.versions.insert(at, version);
                Ok(self)
            }
        }
    }

    /// The one version that prices `time`; none before the first.
    pub fn at(&self, time: Timestamp) -> Option<&PriceVersion> {
        let after = self.versions.partition_point(|version| version.effective_from <= time);
        self.versions.get(after.checked_sub(1)?)
    }

    /// The version of that name, which stays what a row was priced at.
    pub fn version(&self, name: &str) -> Option<&PriceVersion> {
        self.versions.iter().find(|version| version.version == name)
    }

    /// Every version, in order of time.
    pub fn versions(&self) -> &[PriceVersion] {
        &self.versions
    }
}

fn read_version(source: Source<'_>) -> Result<(RawVersion, PriceVersion), FileError> {
    let raw: RawVersion = source.read()?;
    for (key, value) in [("id", &raw.id), ("version", &raw.version)] {
        name(source, key, value)?;
    }
    if raw.rounding.get_ref() != "half_away_from_zero" {
        let problem = format!(
            "rounding must be \"half_away_from_zero\", but is {:?}",
            raw.rounding.get_ref()
        );
        return Err(source.error(raw.rounding.span(), problem));
    }
    let default_currency = raw.default_currency.get_ref().parse::<Currency>();
    let default_currency =
        default_currency.map_err(|error| source.error(raw.default_currency.span(), error.to_string()))?;
    let prices = price::prices(source, &raw.price, price::unit_tokens(source, &raw.unit_tokens)?)?;
    let currencies: BTreeSet<Currency> = prices.values().flat_map(|points| points.keys().copied()).collect();
    every_currency(source, &raw, &prices, &currencies)?;
    if !currencies.contains(&default_currency) {
        let problem = format!("default_currency {default_currency} has no prices; add them, or choose another");
        return Err(source.error(raw.default_currency.span(), problem));
    }
    every_model(source, &prices)?;
    let version = PriceVersion {
        version: raw.version.get_ref().clone(),
        effective_from: time(source, "effective_from", &raw.effective_from)?,
        sha256: source.sha256(),
        default_currency,
        currencies,
        prices,
    };
    Ok((raw, version))
}

/// Each price is given in all currencies of the version, so that a currency is sold wholly or not at all.
fn every_currency(
    source: Source<'_>,
    raw: &RawVersion,
    prices: &BTreeMap<SkuPattern, Points>,
    currencies: &BTreeSet<Currency>,
) -> Result<(), FileError> {
    for (pattern, points) in prices {
        let Some(missing) = currencies.iter().find(|currency| !points.contains_key(currency)) else {
            continue;
        };
        let id = pattern.to_string();
        let span = raw
            .price
            .iter()
            .find(|price| price.sku_id() == id)
            .map_or(0..0, RawPrice::span);
        let problem =
            format!("{id} has no currency.{missing}, which other prices have; add it here, or remove it there");
        return Err(source.error(span, problem));
    }
    Ok(())
}

/// Each tier and token class has a price for any model.
fn every_model(source: Source<'_>, prices: &BTreeMap<SkuPattern, Points>) -> Result<(), FileError> {
    for tier in ServiceTier::ALL {
        for meter in Meter::ALL.into_iter().filter(|meter| meter.is_tokens()) {
            let pattern = SkuPattern {
                model_id: None,
                tier,
                meter,
            };
            if !prices.contains_key(&pattern) {
                let problem =
                    format!("{pattern} has no price, so a new model could not be rated; add a [[price]] for it");
                return Err(source.error(source.text.len()..source.text.len(), problem));
            }
        }
    }
    Ok(())
}

/// A name that goes into a table: 1 to 64 characters, no control characters.
pub(crate) fn name(source: Source<'_>, key: &str, value: &Spanned<String>) -> Result<(), FileError> {
    let text = value.get_ref();
    if (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(source.error(
        value.span(),
        format!("{key} must have 1 to 64 characters and no control characters"),
    ))
}

/// A moment like `2026-10-01T00:00:00Z`.
pub(crate) fn time(source: Source<'_>, key: &str, value: &Spanned<String>) -> Result<Timestamp, FileError> {
    value.get_ref().parse().map_err(|_| {
        let problem = format!(
            "{key} must be a moment like \"2026-10-01T00:00:00Z\", but is {:?}",
            value.get_ref()
        );
        source.error(value.span(), problem)
    })
}
