//! The tax of a contract's invoices: a category and a rate, as EN 16931 has them.

use std::fmt;

use crate::money::{Currency, Money, MoneyError, OUT_OF_RANGE};
use crate::source::{Fields, Source};

/// Tax category codes of UNCL5305 that EN 16931 allows, and whether a rate belongs to them.
const CATEGORIES: [(&str, bool); 9] = [
    ("S", true),   // standard rate
    ("Z", false),  // zero rated
    ("E", false),  // exempt
    ("AE", false), // reverse charge
    ("K", false),  // intra-community supply
    ("G", false),  // export
    ("O", false),  // outside the scope of tax
    ("L", true),   // Canary Islands
    ("M", true),   // Ceuta and Melilla
];

const RATE_DECIMALS: usize = 4;

/// A percentage with up to four decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Percent(u32);

impl Percent {
    /// None.
    pub const ZERO: Percent = Percent(0);

    /// So much of `base`, rounded to the minor unit of `currency`, half away from zero. `base` has whole
    /// minor units.
    pub fn of(self, base: Money, currency: Currency) -> Result<Money, MoneyError> {
        // A base of whole minor units is a multiple of 10⁶ parts, so nothing is lost here.
        let parts = (base.parts() / 1_000_000)
            .checked_mul(self.0.into())
            .ok_or(OUT_OF_RANGE)?;
        Money::from_parts(parts)?.rounded(currency)
    }
}

impl std::str::FromStr for Percent {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let one = 10_i128.pow(14);
        let parts = text.parse::<Money>()?.parts();
        if parts % one != 0 {
            let (text, scale) = (text.chars().take(64).collect(), RATE_DECIMALS as u32);
            return Err(MoneyError::Decimals { text, scale });
        }
        let out_of_range = MoneyError::Range {
            digits: 2,
            signed: false,
        };
        match u32::try_from(parts / one) {
            Ok(parts @ 0..1_000_000) => Ok(Percent(parts)),
            _ => Err(out_of_range),
        }
    }
}

impl fmt::Display for Percent {
    /// Exact, without trailing zeros: `19`, `8.1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = Money::from_parts(i128::from(self.0) * 10_i128.pow(14)).unwrap_or_default();
        exact.fmt(f)
    }
}

/// Category and rate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tax {
    /// Category code of UNCL5305, e.g. `S`.
    pub category: String,
    /// Zero in the categories that have none.
    pub rate: Percent,
}

/// Reads `tax_category` and `tax_rate`.
pub(crate) fn read(source: &Source<'_>, fields: &mut Fields<'_, '_>) -> Option<Tax> {
    let category = fields.text("tax_category", "\"S\"");
    let rate = fields.optional_text("tax_rate");
    let category = category?;
    let Some((code, rated)) = CATEGORIES.iter().find(|(code, _)| code == category.get_ref()) else {
        let known: Vec<_> = CATEGORIES.iter().map(|(code, _)| *code).collect();
        let (known, found) = (known.join(", "), category.get_ref());
        source.report(
            category.span(),
            format!("tax_category must be one of {known} (UNCL5305), but is {found:?}"),
        );
        return None;
    };
    let rate = match (rate, rated) {
        (None, false) => Percent::ZERO,
        (None, true) => {
            let problem = format!("tax_category {code} needs a tax_rate in percent, like tax_rate = \"19\"");
            source.report(category.span(), problem);
            return None;
        }
        (Some(text), false) => {
            source.report(text.span(), format!("tax_category {code} has no tax_rate; remove it"));
            return None;
        }
        (Some(text), true) => {
            let rate = text.get_ref().parse().map_err(|error| format!("tax_rate: {error}"));
            source.ok(text.span(), rate)?
        }
    };
    Some(Tax {
        category: (*code).to_owned(),
        rate,
    })
}
