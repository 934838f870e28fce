//! Exact money: a whole number of 10⁻¹⁸ parts of a currency in an `i128`, never a float.
//!
//! Every amount fits `DECIMAL(38,18)`, the widest decimal that Parquet readers agree on, so what is
//! computed here is what a reader sums. Operations are checked: an amount out of range is an error and
//! never wraps. Amounts are rounded in one place only, [`Money::rounded`].

use std::fmt;
use std::str::FromStr;

/// Decimals of an amount.
pub const MONEY_SCALE: u32 = 18;

/// Decimals of a price.
pub const PRICE_SCALE: u32 = 12;

/// Largest magnitude of an amount, in parts: 38 nines.
pub const MONEY_PARTS_MAX: i128 = 10_i128.pow(38) - 1;

/// Largest price, in parts: 18 nines.
pub const PRICE_PARTS_MAX: i128 = 10_i128.pow(18) - 1;

/// Why a text or a sum is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not digits with at most one point.
    #[error("{text:?} is not a decimal number; write digits and at most one point, like 12.50")]
    Text {
        /// The text, cut to 64 characters.
        text: String,
    },
    /// More decimals than are kept.
    #[error("{text:?} has more than {scale} decimals; round it first")]
    Decimals {
        /// The text, cut to 64 characters.
        text: String,
        /// How many are kept.
        scale: u32,
    },
    /// Too large, or negative where only positive numbers make sense.
    #[error("a number is out of range: at most {digits} digits before the point{}", if *signed { "" } else { ", not negative" })]
    Range {
        /// Most digits before the point.
        digits: u32,
        /// Whether it may be negative.
        signed: bool,
    },
    /// Not a currency that money is billed in.
    #[error("{code:?} is not an ISO 4217 currency with minor units; write three capital letters, like EUR")]
    Currency {
        /// The text, cut to 64 characters.
        code: String,
    },
}

pub(crate) const OUT_OF_RANGE: MoneyError = MoneyError::Range {
    digits: 20,
    signed: true,
};

/// A currency that invoices are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// Three letters, ISO 4217.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Decimals of its minor unit: 0 for JPY, 2 for EUR, 3 for KWD.
    pub fn minor_digits(self) -> u32 {
        // `from_str` has refused currencies without one.
        self.0.exponent().map_or(0, u32::from)
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(code: &str) -> Result<Self, MoneyError> {
        let currency = iso_currency::Currency::from_code(code).filter(|currency| currency.exponent().is_some());
        currency
            .map(Currency)
            .ok_or_else(|| MoneyError::Currency { code: cut(code) })
    }
}

impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Currency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.code().cmp(other.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// An exact amount; its holder says in which currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i128);

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money(0);

    /// From parts of 10⁻¹⁸, as a `Decimal128(38, 18)` column holds them.
    pub fn from_parts(parts: i128) -> Result<Self, MoneyError> {
        if parts.unsigned_abs() > MONEY_PARTS_MAX.unsigned_abs() {
            return Err(OUT_OF_RANGE);
        }
        Ok(Money(parts))
    }

    /// In parts of 10⁻¹⁸.
    pub fn parts(self) -> i128 {
        self.0
    }

    /// The exact sum.
    pub fn plus(self, other: Money) -> Result<Self, MoneyError> {
        // Two amounts are at most 2 × 10³⁸ - 2 together, which is above i128::MAX.
        self.0
            .checked_add(other.0)
            .ok_or(OUT_OF_RANGE)
            .and_then(Money::from_parts)
    }

    /// The exact difference.
    pub fn minus(self, other: Money) -> Result<Self, MoneyError> {
        self.plus(other.negated())
    }

    /// The same amount the other way; always in range, because the range is symmetric.
    pub fn negated(self) -> Self {
        Money(-self.0)
    }

    /// The exact sum of `amounts`.
    pub fn sum(amounts: impl IntoIterator<Item = Money>) -> Result<Self, MoneyError> {
        amounts.into_iter().try_fold(Money::ZERO, Money::plus)
    }

    /// To the nearest minor unit of `currency`, half away from zero. Symmetric, so that a charge and its
    /// reversal still cancel out.
    pub fn rounded(self, currency: Currency) -> Result<Self, MoneyError> {
        let step = 10_i128.pow(MONEY_SCALE.saturating_sub(currency.minor_digits()));
        let (whole, rest) = (self.0 / step, self.0 % step);
        let away = if rest.abs() * 2 >= step { rest.signum() } else { 0 };
        Money::from_parts((whole + away) * step)
    }

    /// With exactly as many decimals as `currency` has; more if the amount is not rounded to them.
    pub fn to_minor(self, currency: Currency) -> String {
        decimal_text(self.0, MONEY_SCALE, currency.minor_digits())
    }
}

impl FromStr for Money {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        Money::from_parts(parse(text, MONEY_SCALE)?)
    }
}

impl fmt::Display for Money {
    /// Exact, without trailing zeros: `-0.00000705`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&decimal_text(self.0, MONEY_SCALE, 0))
    }
}

/// As text, exact: JSON numbers are floats in most readers.
impl serde::Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Money {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> serde::Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a unit costs, not negative, `DECIMAL(18,12)`: so that a whole quantity times a price divided by
/// a million is exact at 18 decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitPrice(i128);

impl UnitPrice {
    /// In parts of 10⁻¹².
    pub fn parts(self) -> i128 {
        self.0
    }
}

impl FromStr for UnitPrice {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let parts = parse(text, PRICE_SCALE)?;
        if !(0..=PRICE_PARTS_MAX).contains(&parts) {
            return Err(MoneyError::Range {
                digits: 6,
                signed: false,
            });
        }
        Ok(UnitPrice(parts))
    }
}

impl fmt::Display for UnitPrice {
    /// Exact, without trailing zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&decimal_text(self.0, PRICE_SCALE, 0))
    }
}

/// `-?digits(.digits)?` in parts of 10^-scale.
fn parse(text: &str, scale: u32) -> Result<i128, MoneyError> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return Err(MoneyError::Text { text: cut(text) });
    }
    let kept = fraction.trim_end_matches('0');
    if kept.len() > scale as usize {
        return Err(MoneyError::Decimals { text: cut(text), scale });
    }
    let mut parts: i128 = 0;
    for digit in whole.bytes().chain(kept.bytes()) {
        let shifted = parts
            .checked_mul(10)
            .and_then(|parts| parts.checked_add((digit - b'0').into()));
        parts = shifted.ok_or(OUT_OF_RANGE)?;
    }
    let missing = scale - kept.len() as u32;
    let parts = parts.checked_mul(10_i128.pow(missing)).ok_or(OUT_OF_RANGE)?;
    Ok(if negative { -parts } else { parts })
}

/// Exact, with at least `decimals_min` decimals and no trailing zeros behind them.
fn decimal_text(parts: i128, scale: u32, decimals_min: u32) -> String {
    let sign = if parts < 0 { "-" } else { "" };
    let one = 10_u128.pow(scale);
    let (whole, fraction) = (parts.unsigned_abs() / one, parts.unsigned_abs() % one);
    let fraction = format!("{fraction:0width$}", width = scale as usize);
    let kept = fraction.trim_end_matches('0').len().max(decimals_min as usize);
    match &fraction[..kept.min(fraction.len())] {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
