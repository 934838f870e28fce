//! What the ledger cannot know: spending on sales and marketing, and the gross margin, by month.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::money::{Money, MoneyError};
use crate::period::{Period, PeriodError};

/// Why the inputs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// It is not TOML of this form.
    #[error("{file}: {problem}")]
    File {
        /// Which file, as it was named to us.
        file: String,
        /// Where and what is wrong.
        problem: String,
    },
    /// A month is not one.
    #[error("{file}: month")]
    Month {
        /// Which file.
        file: String,
        /// Why.
        source: PeriodError,
    },
    /// A number is not one.
    #[error("{file}: {key} of {month}")]
    Number {
        /// Which file.
        file: String,
        /// Which number.
        key: &'static str,
        /// Of which month.
        month: Period,
        /// Why.
        source: MoneyError,
    },
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInputs {
    #[serde(default)]
    month: BTreeMap<String, RawMonth>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMonth {
    sales_and_marketing: Option<String>,
    gross_margin: Option<String>,
}

/// Inputs by month, in the currency of the report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inputs {
    /// SHA-256 of the file, in hexadecimal; of nothing without one.
    pub sha256: String,
    sales_and_marketing: BTreeMap<Period, Money>,
    gross_margin: BTreeMap<Period, Money>,
}

impl Inputs {
    /// No inputs at all.
    pub fn none() -> Self {
        Inputs {
            sha256: hex::encode(Sha256::digest("")),
            ..Inputs::default()
        }
    }

    /// Reads a file like this; `source_name` is what errors call it.
    ///
    /// ```toml
    /// [month.2026-10]
    /// sales_and_marketing = "120000.00"
    /// gross_margin = "0.72"
    /// ```
    pub fn parse(text: &str, source_name: &str) -> Result<Self, InputsError> {
        let file = || source_name.to_owned();
        let raw: RawInputs = toml::from_str(text).map_err(|error| InputsError::File {
            file: file(),
            problem: error.to_string(),
        })?;
        let mut inputs = Inputs {
            sha256: hex::encode(Sha256::digest(text)),
            ..Inputs::default()
        };
        for (month, raw) in raw.month {
            let month: Period = month
                .parse()
                .map_err(|source| InputsError::Month { file: file(), source })?;
            let number = |key: &'static str, text: Option<String>| {
                let number = text.map(|text| text.parse::<Money>()).transpose();
                number.map_err(|source| InputsError::Number {
                    file: file(),
                    key,
                    month,
                    source,
                })
            };
            inputs
                .sales_and_marketing
                .extend(number("sales_and_marketing", raw.sales_and_marketing)?.map(|amount| (month, amount)));
            inputs
                .gross_margin
                .extend(number("gross_margin", raw.gross_margin)?.map(|share| (month, share)));
        }
        Ok(inputs)
    }

    pub(super) fn sales_and_marketing(&self, month: Period) -> Option<Money> {
        self.sales_and_marketing.get(&month).copied()
    }

    pub(super) fn gross_margin(&self, month: Period) -> Option<Money> {
        self.gross_margin.get(&month).copied()
    }
}
