//! Exchange rates from a dated file. They change what a report shows and never what anyone owes.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::money::{Currency, Money, MoneyError};

/// Why an amount cannot be shown in another currency.
#[derive(Debug, thiserror::Error)]
pub enum FxError {
    /// The file is not what it must be.
    #[error("{file}: {problem}")]
    File {
        /// Which file, as it was named to us.
        file: String,
        /// Where and what is wrong, and what to do.
        problem: String,
    },
    /// There is no rate on or before the day.
    #[error("no rate of {currency} on or before {date} in {file}; add one")]
    Missing {
        /// Which file.
        file: String,
        /// Which currency.
        currency: Currency,
        /// The rate date.
        date: Date,
    },
    /// The last rate is too old.
    #[error(
        "the last rate of {currency} on or before {date} in {file} is of {published}, more than {days} days before; add a newer one"
    )]
    Stale {
        /// Which file.
        file: String,
        /// Which currency.
        currency: Currency,
        /// The rate date.
        date: Date,
        /// When the last one was published.
        published: Date,
        /// How old it may be.
        days: i64,
    },
    /// The amount or the rate is out of range.
    #[error("cannot convert an amount in {currency} at the rate of {date}")]
    Money {
        /// Which currency.
        currency: Currency,
        /// The rate date.
        date: Date,
        /// Why.
        source: MoneyError,
    },
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRates {
    source: String,
    base: String,
    max_age_days: i64,
    rate: Vec<RawRate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRate {
    date: String,
    currency: BTreeMap<String, String>,
}

/// Rates of one base currency, by day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    /// Who publishes them.
    pub source: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// One of it is so much of another currency.
    pub base: Currency,
    file: String,
    max_age_days: i64,
    by_currency: BTreeMap<Currency, BTreeMap<Date, Money>>,
}

impl Rates {
    /// Reads a file like this; `source_name` is what errors call it.
    ///
    /// ```toml
    /// source = "ECB euro foreign exchange reference rates"
    /// base = "EUR"
    /// max_age_days = 5
    /// [[rate]]
    /// date = "2026-10-30"
    /// currency = { USD = "1.0825", JPY = "162.35" }
    /// ```
    pub fn parse(text: &str, source_name: &str) -> Result<Self, FxError> {
        let failed = |problem: String| FxError::File {
            file: source_name.to_owned(),
            problem,
        };
        let raw: RawRates = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
        let base = raw
            .base
            .parse::<Currency>()
            .map_err(|error| failed(format!("base: {error}")))?;
        let mut by_currency: BTreeMap<Currency, BTreeMap<Date, Money>> = BTreeMap::new();
        for RawRate { date, currency } in raw.rate {
            let day = date.parse::<Date>();
            let day = day.map_err(|_| failed(format!("date must be a day like 2026-10-30, but is {date:?}")))?;
            for (code, rate) in currency {
                let of = |problem: String| failed(format!("rate of {code} on {date}: {problem}"));
                let currency = code.parse::<Currency>().map_err(|error| of(error.to_string()))?;
                let amount = rate.parse::<Money>().map_err(|error| of(error.to_string()))?;
                if amount <= Money::ZERO {
                    return Err(of(format!("must be above zero, but is {rate}")));
                }
                if by_currency.entry(currency).or_default().insert(day, amount).is_some() {
                    return Err(of("there is one already; remove one".to_owned()));
                }
            }
        }
        Ok(Rates {
            source: raw.source,
            sha256: hex::encode(Sha256::digest(text)),
            base,
            file: source_name.to_owned(),
            max_age_days: raw.max_age_days,
            by_currency,
        })
    }

    /// `amount` in `to`, at the last rates published on or before `date`, rounded to 18 decimals.
    pub fn convert(&self, amount: Money, from: Currency, to: Currency, date: Date) -> Result<Money, FxError> {
        if from == to {
            return Ok(amount);
        }
        let (of_from, of_to) = (self.rate(from, date)?, self.rate(to, date)?);
        ratio(amount, of_to, of_from).map_err(|source| FxError::Money {
            currency: from,
            date,
            source,
        })
    }

    /// How much of `currency` one of the base is.
    fn rate(&self, currency: Currency, date: Date) -> Result<Money, FxError> {
        if currency == self.base {
            return Money::from_parts(10_i128.pow(18)).map_err(|source| FxError::Money { currency, date, source });
        }
        let file = self.file.clone();
        let last = self
            .by_currency
            .get(&currency)
            .and_then(|rates| rates.range(..=date).next_back());
        let Some((published, rate)) = last else {
            return Err(FxError::Missing { file, currency, date });
        };
        let age = date.duration_since(*published).as_hours() / 24;
        if age > self.max_age_days {
            return Err(FxError::Stale {
                file,
                currency,
                date,
                published: *published,
                days: self.max_age_days,
            });
        }
        Ok(*rate)
    }
}

/// `amount × numerator ÷ denominator`, rounded to 18 decimals, half away from zero; computed on the quotient
/// and the rest apart, so that only what is really out of range fails.
pub(super) fn ratio(amount: Money, numerator: Money, denominator: Money) -> Result<Money, MoneyError> {
    const ONE: i128 = 1_000_000_000;
    let out = || Money::from_parts(i128::MAX).map(drop).err();
    let fail = || out().unwrap_or(crate::money::OUT_OF_RANGE);
    // Nine decimals of each factor are kept: a rate has fewer, and a sum of money is shown with fewer.
    let (a, n, d) = (amount.parts(), numerator.parts() / ONE, denominator.parts() / ONE);
    if d == 0 {
        return Err(fail());
    }
    let whole = (a / d).checked_mul(n).ok_or_else(fail)?;
    let rest = (a % d).checked_mul(n).ok_or_else(fail)?;
    let (quotient, left) = (rest / d, rest % d);
    let away = if left.abs() * 2 >= d.abs() {
        (left.signum() * d.signum()).signum()
    } else {
        0
    };
    Money::from_parts(whole.checked_add(quotient + away).ok_or_else(fail)?)
}
