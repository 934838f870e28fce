//! The public prices: versions that follow one another without gap or overlap.
//!
//! A version is one TOML file and never changes once published; its SHA-256 says which one was used. A
//! version must price every token of every model in each of its currencies, so that rating a row cannot
//! fail for want of a price.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemas::request::ServiceTier;

use crate::money::Currency;
use crate::price::{self, Points, Price};
use crate::rate::PricePoint;
use crate::sku::{Meter, Sku, SkuPattern};
use crate::source::{At, Fields, FileErrors, Source};

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
    pub fn parse(text: &str, source_name: &str) -> Result<Self, FileErrors> {
        let source = Source::new(text, source_name);
        let book = read(&source).map(|file| PriceBook {
            id: file.id.into_inner(),
            versions: vec![file.version],
        });
        source.finish(book)
    }

    /// The book with one more version, read from a file of its own; versions may come in any order.
    pub fn with(mut self, text: &str, source_name: &str) -> Result<Self, FileErrors> {
        let source = Source::new(text, source_name);
        let added = read(&source).and_then(|file| self.add(&source, file));
        source.finish(added.map(|()| self))
    }

    fn add(&mut self, source: &Source<'_>, file: VersionFile) -> Option<()> {
        let version = file.version;
        if *file.id.get_ref() != self.id {
            let (ours, theirs) = (&self.id, file.id.get_ref());
            let problem = format!("id must be {ours:?}, that of the book's other versions, but is {theirs:?}");
            source.report(file.id.span(), problem);
        }
        if self.version(&version.version).is_some() {
            let name = &version.version;
            let problem = format!("version {name} is in the book already; give this file another name");
            source.report(file.name_span, problem);
        }
        match self
            .versions
            .binary_search_by_key(&version.effective_from, |version| version.effective_from)
        {
            Ok(at) => {
                let other = &self.versions[at].version;
                let problem = format!(
                    "version {other} begins at this moment too; two prices for one moment: let one begin later"
                );
                source.report(file.from_span, problem);
                None
            }
            Err(at) => {
                self.versions.insert(at, version);
                Some(())
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

/// A version as its file says it, and where.
struct VersionFile {
    id: At<String>,
    name_span: std::ops::Range<usize>,
    from_span: std::ops::Range<usize>,
    version: PriceVersion,
}

fn read(source: &Source<'_>) -> Option<VersionFile> {
    let table = source.read()?;
    let mut fields = Fields::new(source, &table, 0..0);
    let id = fields.name("id", "\"public\"");
    let name = fields.name("version", "\"2026-10-01.1\"");
    let from = fields.time("effective_from");
    let unit_tokens = price::unit_tokens(source, &mut fields);
    let rounding = fields.text("rounding", "\"half_away_from_zero\"");
    let default = fields.text("default_currency", "\"EUR\"");
    let list = fields.list("price").map(At::into_inner).unwrap_or_default();
    fields.finish();

    if let Some(rounding) = rounding.filter(|rounding| *rounding.get_ref() != "half_away_from_zero") {
        let problem = format!(
            "rounding must be \"half_away_from_zero\", but is {:?}",
            rounding.get_ref()
        );
        source.report(rounding.span(), problem);
    }
    let prices = price::prices(source, list, unit_tokens.unwrap_or(1));
    let currencies: BTreeSet<Currency> = prices.values().flat_map(|price| &price.currencies).copied().collect();
    every_currency(source, &prices, &currencies);
    every_model(source, &prices);
    let default_currency = default.and_then(|code| {
        let currency = source.ok(code.span(), code.get_ref().parse::<Currency>())?;
        if !currencies.contains(&currency) {
            let problem = format!("default_currency {currency} has no prices; add them, or choose another");
            source.report(code.span(), problem);
        }
        Some(currency)
    })?;
    let (id, name, from) = (id?, name?, from?);
    let version = PriceVersion {
        version: (*name.get_ref()).to_owned(),
        effective_from: *from.get_ref(),
        sha256: source.sha256(),
        default_currency,
        currencies,
        prices: prices
            .into_iter()
            .map(|(pattern, price)| (pattern, price.points))
            .collect(),
    };
    Some(VersionFile {
        id: At::new(id.span(), (*id.get_ref()).to_owned()),
        name_span: name.span(),
        from_span: from.span(),
        version,
    })
}

/// Each price is given in all currencies of the version, so that a currency is sold wholly or not at all.
fn every_currency(source: &Source<'_>, prices: &BTreeMap<SkuPattern, Price>, currencies: &BTreeSet<Currency>) {
    for (pattern, price) in prices {
        for missing in currencies
            .iter()
            .filter(|currency| !price.currencies.contains(currency))
        {
            let problem = format!(
                "{pattern} has no currency.{missing}, which other prices have; add it here, or remove it there"
            );
            source.report(price.span.clone(), problem);
        }
    }
}

/// Each tier and token class has a price for any model.
fn every_model(source: &Source<'_>, prices: &BTreeMap<SkuPattern, Price>) {
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
                source.report(source.end(), problem);
            }
        }
    }
}
