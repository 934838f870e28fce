//! What a request, or a month of them, costs and why: each price with the file and version it comes from.

use jiff::Timestamp;
use schemas::ids::TenantId;
use schemas::request::ServiceTier;

use crate::contract::{Contract, Contracts};
use crate::money::{Currency, Money, MoneyError};
use crate::price_book::{PriceBook, PriceVersion};
use crate::rate::{Portion, PricePoint, portions_more, rate_more};
use crate::sku::{Meter, Sku};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who would be billed.
    pub tenant: TenantId,
    /// Model folder name.
    pub model_id: String,
    /// Speed.
    pub tier: ServiceTier,
    /// When the request would end.
    pub time: Timestamp,
    /// Quantities, in the order of [`Meter::ALL`].
    pub quantities: [i64; 4],
    /// What the tenant used in the month before, in the same order.
    pub before: [i64; 4],
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Of all amounts.
    pub currency: Currency,
    /// Version of the price book in force.
    pub price_version: String,
    /// SHA-256 of its file.
    pub price_sha256: String,
    /// The tenant's contract in force; none means list prices in the book's default currency.
    pub contract_version: Option<String>,
    /// One item per meter that is asked for and priced.
    pub items: Vec<QuoteItem>,
    /// Σ at list price, exact.
    pub list: Money,
    /// Σ at the tenant's price, exact.
    pub contracted: Money,
    /// Σ of the items rounded to the minor unit, as an invoice with these lines would have it.
    pub rounded: Money,
}

/// What one meter costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteItem {
    /// What is sold.
    pub sku: Sku,
    /// How much.
    pub quantity: i64,
    /// How much was used in the month before.
    pub before: i64,
    /// Whether the price was negotiated.
    pub negotiated: bool,
    /// The price.
    pub point: PricePoint,
    /// How the quantity falls into its steps.
    pub portions: Vec<Portion>,
    /// At list price, exact.
    pub list: Money,
    /// At the tenant's price, exact.
    pub contracted: Money,
    /// `contracted`, rounded to the minor unit.
    pub rounded: Money,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Before the book's first version.
    #[error("price book {book} has no version in force at {time}; ask for a later moment, or add a version")]
    NoVersion {
        /// The book's id.
        book: String,
        /// The moment.
        time: Timestamp,
    },
    /// The contract's currency is not in the version.
    #[error("the contract is in {currency}, but price version {version} has no prices in it; add them there")]
    Currency {
        /// The contract's currency.
        currency: Currency,
        /// The version.
        version: String,
    },
    /// An amount or a quantity is out of range.
    #[error("cannot rate {sku}")]
    Money {
        /// Which SKU.
        sku: String,
        /// Why.
        source: MoneyError,
    },
}

/// Answers `question`.
///
/// # Errors
/// See [`QuoteError`].
pub fn quote(question: &Question, book: &PriceBook, contracts: &Contracts) -> Result<Quote, QuoteError> {
    let time = question.time;
    let version = book.at(time).ok_or_else(|| QuoteError::NoVersion {
        book: book.id.clone(),
        time,
    })?;
    let contract = contracts.at(question.tenant.as_str(), time);
    let currency = contract.map_or(version.default_currency, |contract| contract.currency);
    if !version.currencies.contains(&currency) {
        let version = version.version.clone();
        return Err(QuoteError::Currency { currency, version });
    }
    let mut items = Vec::new();
    for meter in Meter::ALL {
        items.extend(item(question, meter, version, contract, currency)?);
    }
    let total = |of: fn(&QuoteItem) -> Money| {
        Money::sum(items.iter().map(of)).map_err(|source| QuoteError::Money {
            sku: "the total".to_owned(),
            source,
        })
    };
    Ok(Quote {
        currency,
        price_version: version.version.clone(),
        price_sha256: version.sha256.clone(),
        contract_version: contract.map(|contract| contract.version.clone()),
        list: total(|item| item.list)?,
        contracted: total(|item| item.contracted)?,
        rounded: total(|item| item.rounded)?,
        items,
    })
}

fn item(
    question: &Question,
    meter: Meter,
    version: &PriceVersion,
    contract: Option<&Contract>,
    currency: Currency,
) -> Result<Option<QuoteItem>, QuoteError> {
    let sku = Sku {
        model_id: question.model_id.clone(),
        tier: question.tier,
        meter,
    };
    let (quantity, before) = (question.quantities[meter as usize], question.before[meter as usize]);
    let negotiated = contract.and_then(|contract| contract.negotiated(&sku));
    let list = version.list(&sku, currency);
    let Some(point) = negotiated.or(list).filter(|_| quantity != 0) else {
        return Ok(None);
    };
    let rated = || {
        let contracted = rate_more(point, before, quantity)?;
        Ok::<_, MoneyError>(QuoteItem {
            quantity,
            before,
            negotiated: negotiated.is_some(),
            portions: portions_more(point, before, quantity)?,
            list: rate_more(list.unwrap_or(point), before, quantity)?,
            contracted,
            rounded: contracted.rounded(currency)?,
            point: point.clone(),
            sku: sku.clone(),
        })
    };
    rated().map(Some).map_err(|source| QuoteError::Money {
        sku: sku.to_string(),
        source,
    })
}
